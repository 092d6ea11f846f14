//! The commands and what all of them share. Each command's own flags stand in its file.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::cli::{
    attach::{AttachArgs, StartArgs},
    care::{BackupArgs, DoctorArgs},
    commit::{CommitArgs, HistoryArgs},
    copy::{CpArgs, DiffArgs, ExportArgs},
    events::EventsArgs,
    exec::ExecArgs,
    images::{ImagesArgs, RmiArgs},
    inspect::InspectArgs,
    lifecycle::{
        KillArgs, PauseArgs, RenameArgs, RestartArgs, RmArgs, StopArgs, UnpauseArgs, UpdateArgs,
        WaitArgs,
    },
    logs::LogsArgs,
    prune::{ContainerPruneArgs, DfArgs, ImagePruneArgs, SystemPruneArgs},
    ps::PsArgs,
    pull::{LoadArgs, PullArgs},
    registry::{LoginArgs, LogoutArgs, PushArgs, SearchArgs, TagsArgs},
    run::{CreateArgs, RunArgs},
    save::{SaveArgs, TagArgs},
    shutdown::ShutdownArgs,
    stats::StatsArgs,
    system::{InfoArgs, VersionArgs},
    top::TopArgs,
    upgrade::UpgradeArgs,
    volumes::VolumeCommand,
};

/// Runs and looks after containers, through the supervisor wharfd.
#[derive(Debug, Parser)]
#[command(
    name = "wharf",
    version,
    args_override_self = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Examples:
  wharf load -i busybox.tar            import an image
  wharf run --rm busybox echo hello    run a command in a new container
  wharf run -d --name web app          start a container in the background
  wharf logs -f web                    follow its output
  wharf exec -it web sh                a shell in it

`wharf COMMAND --help` explains a command."
)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Debug, clap::Args)]
pub(crate) struct Global {
    /// Where the supervisor listens: unix:PATH or tcp:HOST:PORT
    #[arg(
        short = 'H', long, global = true, env = "WHARF_ADDRESS", alias = "host",
        value_name = "ADDRESS", default_value = wharf_client::Address::DEFAULT,
        help_heading = "Global options"
    )]
    pub(crate) address: String,
    /// Namespace of containers and images
    #[arg(
        long,
        global = true,
        env = "WHARF_NAMESPACE",
        value_name = "NAME",
        help_heading = "Global options"
    )]
    pub(crate) namespace: Option<String>,
    /// For TCP: certificate of the authority behind the supervisor's, in PEM
    #[arg(
        long,
        global = true,
        env = "WHARF_TLS_CA",
        alias = "tlscacert",
        value_name = "FILE",
        help_heading = "Global options"
    )]
    pub(crate) tls_ca: Option<PathBuf>,
    /// For TCP: our certificate, in PEM
    #[arg(
        long,
        global = true,
        env = "WHARF_TLS_CERT",
        alias = "tlscert",
        value_name = "FILE",
        help_heading = "Global options"
    )]
    pub(crate) tls_cert: Option<PathBuf>,
    /// For TCP: the key of our certificate, in PEM
    #[arg(
        long,
        global = true,
        env = "WHARF_TLS_KEY",
        alias = "tlskey",
        value_name = "FILE",
        help_heading = "Global options"
    )]
    pub(crate) tls_key: Option<PathBuf>,
    /// Start wharfd if none answers (as root)
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) autostart: bool,
    /// Tell what is done, on standard error
    #[arg(short = 'D', long, global = true, help_heading = "Global options")]
    pub(crate) debug: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(Box<RunArgs>),
    Create(Box<CreateArgs>),
    Ps(PsArgs),
    Logs(LogsArgs),
    Exec(ExecArgs),
    Attach(AttachArgs),
    Start(StartArgs),
    Stop(StopArgs),
    Restart(RestartArgs),
    Kill(KillArgs),
    Pause(PauseArgs),
    Unpause(UnpauseArgs),
    Stats(StatsArgs),
    Top(TopArgs),
    Wait(WaitArgs),
    Rm(RmArgs),
    Rename(RenameArgs),
    Update(UpdateArgs),
    Inspect(InspectArgs),
    Pull(PullArgs),
    Images(ImagesArgs),
    Rmi(RmiArgs),
    Load(LoadArgs),
    Save(SaveArgs),
    Tag(TagArgs),
    Push(PushArgs),
    Login(LoginArgs),
    Logout(LogoutArgs),
    Search(SearchArgs),
    #[command(hide = true)]
    Tags(TagsArgs),
    Commit(CommitArgs),
    Cp(CpArgs),
    Diff(DiffArgs),
    Export(ExportArgs),
    History(HistoryArgs),
    Events(EventsArgs),
    Info(InfoArgs),
    Version(VersionArgs),
    /// Commands on volumes
    Volume(VolumeCommand),
    #[command(skip)]
    PruneContainers(ContainerPruneArgs),
    #[command(skip)]
    PruneImages(ImagePruneArgs),
    #[command(skip)]
    PruneSystem(SystemPruneArgs),
    #[command(skip)]
    Df(DfArgs),
    #[command(hide = true)]
    Upgrade(UpgradeArgs),
    #[command(skip)]
    Shutdown(ShutdownArgs),
    #[command(skip)]
    Doctor(DoctorArgs),
    #[command(skip)]
    Backup(BackupArgs),
    /// Commands on containers, by their long names
    Container(ContainerCommand),
    /// Commands on images, by their long names
    Image(ImageCommand),
    /// Commands on the supervisor, by their long names
    System(SystemCommand),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ContainerCommand {
    #[command(subcommand)]
    command: ContainerVerb,
}

#[derive(Debug, Subcommand)]
enum ContainerVerb {
    Run(Box<RunArgs>),
    Create(Box<CreateArgs>),
    #[command(name = "ls", visible_aliases = ["list", "ps"])]
    Ls(PsArgs),
    Logs(LogsArgs),
    Exec(ExecArgs),
    Attach(AttachArgs),
    Start(StartArgs),
    Stop(StopArgs),
    Restart(RestartArgs),
    Kill(KillArgs),
    Pause(PauseArgs),
    Unpause(UnpauseArgs),
    Stats(StatsArgs),
    Top(TopArgs),
    Wait(WaitArgs),
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
    Rename(RenameArgs),
    Update(UpdateArgs),
    Inspect(InspectArgs),
    Commit(CommitArgs),
    Cp(CpArgs),
    Diff(DiffArgs),
    Export(ExportArgs),
    Prune(ContainerPruneArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ImageCommand {
    #[command(subcommand)]
    command: ImageVerb,
}

#[derive(Debug, Subcommand)]
enum ImageVerb {
    #[command(name = "ls", visible_alias = "list")]
    Ls(ImagesArgs),
    Pull(PullArgs),
    Push(PushArgs),
    Tags(TagsArgs),
    #[command(visible_alias = "import")]
    Load(LoadArgs),
    #[command(visible_alias = "export")]
    Save(SaveArgs),
    Tag(TagArgs),
    #[command(visible_alias = "remove")]
    Rm(RmiArgs),
    Inspect(InspectArgs),
    History(HistoryArgs),
    Prune(ImagePruneArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct SystemCommand {
    #[command(subcommand)]
    command: SystemVerb,
}

#[derive(Debug, Subcommand)]
enum SystemVerb {
    Df(DfArgs),
    Prune(SystemPruneArgs),
    Info(InfoArgs),
    Events(EventsArgs),
    Version(VersionArgs),
    Upgrade(UpgradeArgs),
    Shutdown(ShutdownArgs),
    Doctor(DoctorArgs),
    Backup(BackupArgs),
}

impl Command {
    /// The command that a grouped form stands for.
    pub(crate) fn flat(self) -> Self {
        match self {
            Self::Container(group) => match group.command {
                ContainerVerb::Run(args) => Self::Run(args),
                ContainerVerb::Create(args) => Self::Create(args),
                ContainerVerb::Ls(args) => Self::Ps(args),
                ContainerVerb::Logs(args) => Self::Logs(args),
                ContainerVerb::Exec(args) => Self::Exec(args),
                ContainerVerb::Attach(args) => Self::Attach(args),
                ContainerVerb::Start(args) => Self::Start(args),
                ContainerVerb::Stop(args) => Self::Stop(args),
                ContainerVerb::Restart(args) => Self::Restart(args),
                ContainerVerb::Kill(args) => Self::Kill(args),
                ContainerVerb::Pause(args) => Self::Pause(args),
                ContainerVerb::Unpause(args) => Self::Unpause(args),
                ContainerVerb::Stats(args) => Self::Stats(args),
                ContainerVerb::Top(args) => Self::Top(args),
                ContainerVerb::Wait(args) => Self::Wait(args),
                ContainerVerb::Rm(args) => Self::Rm(args),
                ContainerVerb::Rename(args) => Self::Rename(args),
                ContainerVerb::Update(args) => Self::Update(args),
                ContainerVerb::Inspect(args) => Self::Inspect(args.only_containers()),
                ContainerVerb::Commit(args) => Self::Commit(args),
                ContainerVerb::Cp(args) => Self::Cp(args),
                ContainerVerb::Diff(args) => Self::Diff(args),
                ContainerVerb::Export(args) => Self::Export(args),
                ContainerVerb::Prune(args) => Self::PruneContainers(args),
            },
            Self::Image(group) => match group.command {
                ImageVerb::Ls(args) => Self::Images(args),
                ImageVerb::Pull(args) => Self::Pull(args),
                ImageVerb::Push(args) => Self::Push(args),
                ImageVerb::Tags(args) => Self::Tags(args),
                ImageVerb::Load(args) => Self::Load(args),
                ImageVerb::Save(args) => Self::Save(args),
                ImageVerb::Tag(args) => Self::Tag(args),
                ImageVerb::Rm(args) => Self::Rmi(args),
                ImageVerb::Inspect(args) => Self::Inspect(args.only_images()),
                ImageVerb::History(args) => Self::History(args),
                ImageVerb::Prune(args) => Self::PruneImages(args),
            },
            Self::System(group) => match group.command {
                SystemVerb::Df(args) => Self::Df(args),
                SystemVerb::Prune(args) => Self::PruneSystem(args),
                SystemVerb::Info(args) => Self::Info(args),
                SystemVerb::Events(args) => Self::Events(args),
                SystemVerb::Version(args) => Self::Version(args),
                SystemVerb::Upgrade(args) => Self::Upgrade(args),
                SystemVerb::Shutdown(args) => Self::Shutdown(args),
                SystemVerb::Doctor(args) => Self::Doctor(args),
                SystemVerb::Backup(args) => Self::Backup(args),
            },
            flat => flat,
        }
    }

    /// Its exit code is a container's or an exec's, so that errors of ours need another one.
    pub(crate) fn ends_with_containers_code(&self) -> bool {
        matches!(self, Self::Run(_) | Self::Create(_) | Self::Exec(_))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parsed(line: &str) -> Result<Command, clap::Error> {
        Ok(Args::try_parse_from(line.split(' '))?.command.flat())
    }

    #[test]
    fn definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn flags_end_at_the_image() {
        let Ok(Command::Run(args)) = parsed("wharf run -it --rm img sh -c -d --name -H x") else {
            panic!("no run");
        };
        assert_eq!(args.container.image, ["img", "sh", "-c", "-d", "--name", "-H", "x"]);
        assert!(args.remove && !args.detach);
        let Ok(Command::Exec(args)) = parsed("wharf exec -i c ls -la --help") else {
            panic!("no exec");
        };
        assert_eq!(args.command, ["c", "ls", "-la", "--help"]);
    }

    #[test]
    fn grouped_forms() {
        assert!(matches!(parsed("wharf container ls -a"), Ok(Command::Ps(_))));
        assert!(matches!(parsed("wharf image rm x"), Ok(Command::Rmi(_))));
        assert!(matches!(parsed("wharf system info"), Ok(Command::Info(_))));
    }

    #[test]
    fn short_flags_of_docker() {
        for line in [
            "wharf run -h host -m 64m -c 512 -w / -u 0:0 -e A -l a=b -v /a:/b -a stdout img",
            "wharf run --sig-proxy=false --network none --net host img",
            "wharf ps -aqn 3",
            "wharf logs -ft -n 5 c",
            "wharf stop -t 3 -s INT a b",
            "wharf kill -s TERM a",
            "wharf start -ai c",
            "wharf inspect -f {{.Id}} c",
        ] {
            assert!(
                parsed(line).is_ok(),
                "{line}: {:?}",
                parsed(line).err().map(|e| e.to_string())
            );
        }
        assert!(parsed("wharf runn img").expect_err("a typo").to_string().contains("run"));
    }
}
