//! The command line: Docker's verbs and flags over the client library.
//!
//! One file a group of verbs; `parse`, `human`, `output` and `template` are pure. Holds no state
//! between calls, and nothing of a container's behaviour: the supervisor decides.

mod args;
mod attach;
mod autostart;
mod care;
mod commit;
mod context;
mod copy;
mod debug;
mod docker_config;
mod events;
mod exec;
mod explain;
mod health;
mod human;
mod images;
mod inspect;
mod interact;
mod lifecycle;
mod logs;
mod output;
mod parse;
mod prune;
mod ps;
mod pull;
mod registry;
mod run;
mod save;
mod shutdown;
mod spec;
mod stats;
mod stdio;
mod system;
mod template;
mod terminal;
mod top;
mod upgrade;
mod volumes;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;

use args::{Args, Command, ContainerCommand, ImageCommand, SystemCommand};
use context::Context;

/// Usage errors, and errors of ours in commands that end with the container's code.
const OURS: u8 = 125;
/// As of a program that SIGPIPE ended.
const PIPE: u8 = 141;

/// The whole program.
pub(crate) fn main() -> ExitCode {
    if let Some(code) = autostart::become_daemon() {
        return code;
    }
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    if args.global.debug {
        debug::turn_on();
    }
    let command = args.command.flat();
    let failure = if command.ends_with_containers_code() { OURS } else { 1 };
    let run = || -> Result<u8> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("start the event loop")?;
        let result = runtime.block_on(async {
            let context = Context::new(args.global);
            let result = dispatch(&context, command).await;
            match result {
                Err(error) => Err((explain::hints(&context, &error).await, error)),
                Ok(code) => Ok(code),
            }
        });
        // A thread may still be in a read of standard input.
        runtime.shutdown_background();
        Ok(match result {
            Ok(code) => code,
            Err((_, error)) if error.is::<output::StdoutClosed>() => PIPE,
            Err((hints, error)) => {
                explain::tell(&error, &hints);
                explain::exit_code(&error).unwrap_or(failure)
            }
        })
    };
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            explain::tell(&error, &[]);
            ExitCode::from(failure)
        }
    }
}

fn usage(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    match explain::missing_flag(error) {
        Some(hint) => output::complain(&hint),
        None => {
            let _ = error.print();
        }
    }
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::from(OURS),
    }
}

async fn dispatch(context: &Context, command: Command) -> Result<u8> {
    use Command as C;
    match command {
        C::Run(args) => Box::pin(run::run(context, *args)).await,
        C::Create(args) => Box::pin(run::create(context, *args)).await,
        C::Ps(args) => ps::ps(context, args).await,
        C::Logs(args) => logs::logs(context, args).await,
        C::Exec(args) => Box::pin(exec::exec(context, args)).await,
        C::Attach(args) => Box::pin(attach::attach(context, args)).await,
        C::Start(args) => Box::pin(attach::start(context, args)).await,
        C::Stop(args) => lifecycle::stop(context, args).await,
        C::Restart(args) => lifecycle::restart(context, args).await,
        C::Kill(args) => lifecycle::kill(context, args).await,
        C::Pause(args) => lifecycle::pause(context, args).await,
        C::Unpause(args) => lifecycle::unpause(context, args).await,
        C::Stats(args) => stats::stats(context, args).await,
        C::Top(args) => top::top(context, args).await,
        C::Wait(args) => lifecycle::wait(context, args).await,
        C::Rm(args) => lifecycle::rm(context, args).await,
        C::Rename(args) => lifecycle::rename(context, args).await,
        C::Update(args) => lifecycle::update(context, args).await,
        C::Inspect(args) => inspect::inspect(context, args).await,
        C::Pull(args) => pull::pull(context, args).await,
        C::Images(args) => images::images(context, args).await,
        C::Rmi(args) => images::rmi(context, args).await,
        C::Load(args) => pull::load(context, args).await,
        C::Save(args) => save::save(context, args).await,
        C::Tag(args) => save::tag(context, args).await,
        C::Push(args) => registry::push(context, args).await,
        C::Login(args) => registry::login(context, args).await,
        C::Logout(args) => registry::logout(&args),
        C::Search(args) => registry::search(context, args).await,
        C::Tags(args) => registry::tags(context, args).await,
        C::Commit(args) => commit::commit(context, args).await,
        C::Cp(args) => copy::cp(context, args).await,
        C::Diff(args) => copy::diff(context, args).await,
        C::Export(args) => copy::export(context, args).await,
        C::History(args) => commit::history(context, args).await,
        C::Volume(group) => volumes::volume(context, group.command).await,
        C::PruneContainers(args) => prune::containers(context, args).await,
        C::PruneImages(args) => prune::images(context, args).await,
        C::PruneSystem(args) => prune::system(context, args).await,
        C::Df(args) => prune::df(context, args).await,
        C::Events(args) => events::events(context, args).await,
        C::Info(args) => system::info(context, args).await,
        C::Version(args) => system::version(context, args).await,
        C::Doctor(args) => care::doctor(context, args).await,
        C::Backup(args) => care::backup(context, args).await,
        C::Upgrade(args) => upgrade::upgrade(context, args).await,
        C::Shutdown(args) => shutdown::shutdown(context, args).await,
        // `flat` has replaced the groups by what is in them.
        C::Container(ContainerCommand { .. })
        | C::Image(ImageCommand { .. })
        | C::System(SystemCommand { .. }) => anyhow::bail!("a group of commands is no command"),
    }
}
