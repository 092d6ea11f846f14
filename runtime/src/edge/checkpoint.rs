//! `checkpoint`: a container's state into a folder, by criu; and what `restore` shares with it.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::CommandError;
use super::args::Parsed;
use super::commands::Context;
use super::container::{Container, Status};
use super::log::Log;
use crate::error::{ErrorKind, Failure, Step};
use crate::flow::cgroup::Cgroup;
use crate::flow::criu;
use crate::logic::criu_message::{Message, RequestKind, option, pair, text_and_number};
use crate::logic::plan::{MountKind, Plan};
use crate::sys::path::{self, Access, Resolve};
use crate::sys::process::ns;

/// In the image's folder: what the init's standard descriptors were.
pub(crate) const DESCRIPTORS: &str = "descriptors.json";

/// Folders and options that both directions have.
pub(crate) struct Image {
    pub(crate) folder: PathBuf,
    pub(crate) options: Message,
    log: PathBuf,
    /// Open for criu, which takes them from this process by number.
    _open: Vec<OwnedFd>,
}

fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> CommandError {
    let path = path.display().to_string();
    move |source| CommandError::File { action, path, source }
}

fn make_folder(path: &Path) -> Result<File, CommandError> {
    fs::DirBuilder::new().mode(0o700).recursive(true).create(path).map_err(file("make", path))?;
    File::open(path).map_err(file("open", path))
}

fn cgroup_mode(text: &str) -> Result<u64, CommandError> {
    Ok(match text {
        "ignore" => 0,
        "soft" => 3,
        "full" => 4,
        "strict" => 5,
        "" => 6,
        other => {
            let text = format!("invalid manage-cgroups-mode value {other:?}");
            return Err(CommandError::Usage(text));
        }
    })
}

impl Image {
    pub(crate) fn open(
        flags: &Parsed,
        annotations: impl Fn(&str) -> Option<String>,
        log_name: &str,
    ) -> Result<Self, CommandError> {
        let folder = PathBuf::from(flags.text("image-path").unwrap_or("checkpoint"));
        let mut options = Message::default();
        let image = make_folder(&folder)?;
        options.number(option::IMAGES_DIR_FD, image.as_raw_fd() as u64);
        let mut open = vec![OwnedFd::from(image)];
        let mut log = folder.join(log_name);
        if let Some(work) = flags.text("work-path") {
            let dir = make_folder(Path::new(work))?;
            options.number(option::WORK_DIR_FD, dir.as_raw_fd() as u64);
            open.push(dir.into());
            log = Path::new(work).join(log_name);
        }
        options.number(option::LOG_LEVEL, 4);
        options.text(option::LOG_FILE, log_name);
        options.number(option::NOTIFY_SCRIPTS, 1);
        options.number(option::ORPHAN_PTS_MASTER, 1);
        options.number(option::MANAGE_CGROUPS, 1);
        let mode = cgroup_mode(flags.get("manage-cgroups-mode").unwrap_or(""))?;
        options.number(option::MANAGE_CGROUPS_MODE, mode);
        let switches = [
            ("tcp-established", option::TCP_ESTABLISHED),
            ("tcp-skip-in-flight", option::TCP_SKIP_IN_FLIGHT),
            ("ext-unix-sk", option::EXT_UNIX_SK),
            ("shell-job", option::SHELL_JOB),
            ("file-locks", option::FILE_LOCKS),
            ("auto-dedup", option::AUTO_DEDUP),
            ("lazy-pages", option::LAZY_PAGES),
        ];
        for (flag, number) in switches {
            if flags.has(flag) {
                options.number(number, 1);
            }
        }
        for name in flags.all("empty-ns") {
            if name != "network" {
                return Err(CommandError::Usage(format!("namespace {name:?} is not supported")));
            }
        }
        // Interfaces and addresses are whoever connects the container's to make.
        options.number(option::EMPTY_NS, ns::NET);
        match annotations("org.criu.config").as_deref() {
            None => options.text(option::CONFIG_FILE, "/etc/criu/runc.conf"),
            Some("") => {}
            Some(path) => options.text(option::CONFIG_FILE, path),
        }
        Ok(Self { folder, options, log, _open: open })
    }

    /// What criu wrote about its errors, for people.
    pub(crate) fn quote_errors(&self, log: &Log) {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        for line in text.lines().filter(|line| line.contains("Error")).take(20) {
            log.warn(&format!("criu: {line}"));
        }
    }
}

/// Destinations of the container's mounts that are not its own, as criu sees them: bind mounts, and
/// without a cgroup namespace v1's cgroups. With what is to be mounted there.
pub(crate) fn external_mounts(
    plan: &Plan<'_>,
    cgroup: &Cgroup,
    rootfs: &Path,
) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for mount in &plan.mounts {
        let place = resolved(rootfs, &mount.destination);
        match mount.kind {
            MountKind::Bind => all.push((place, mount.source.display().to_string())),
            MountKind::Cgroup if !cgroup.is_v2() && !plan.namespaces.has(ns::CGROUP) => {
                for dir in &cgroup.dirs {
                    let name = dir.mount.file_name().unwrap_or_default().to_string_lossy();
                    all.push((format!("{place}/{name}"), dir.path.display().to_string()));
                }
            }
            _ => {}
        }
    }
    for node in &plan.nodes {
        let path = node.path.display().to_string();
        all.push((path.clone(), path));
    }
    all
}

/// A destination with the image's own links followed.
fn resolved(rootfs: &Path, destination: &Path) -> String {
    let found = path::open_host(rootfs).and_then(|root| {
        let place = path::open_at(root.as_fd(), destination, Access::Place, Resolve::InRoot)?;
        fs::read_link(format!("/proc/self/fd/{}", place.as_raw_fd()))
    });
    let below = found.ok().and_then(|path| path.strip_prefix(rootfs).ok().map(Path::to_owned));
    Path::new("/").join(below.as_deref().unwrap_or(destination)).display().to_string()
}

/// A namespace that the container joined is not criu's to save: `net`, or `pid`, with its key.
pub(crate) fn joined(plan: &Plan<'_>) -> Vec<(u64, &'static str, &'static str, PathBuf)> {
    let known = [(ns::NET, "net", "extRootNetNS"), (ns::PID, "pid", "extRootPidNS")];
    let joins = plan.namespaces.join.iter();
    joins
        .filter_map(|(kind, path)| {
            let (kind, name, key) = known.iter().find(|(known, _, _)| known == kind)?;
            Some((*kind, *name, *key, path.clone()))
        })
        .collect()
}

pub(crate) fn checkpoint(context: &Context<'_>, flags: &Parsed) -> Result<i32, CommandError> {
    let id = flags.id()?;
    let container = Container::load(&context.store, id)?;
    let task = match container.status {
        Status::Running | Status::Paused => container.running()?,
        status => {
            let text = format!("Container cannot be checkpointed in {} state", status.name());
            return Err(CommandError::State { text });
        }
    };
    let record = &container.record;
    let spec = context.store.config(id)?;
    let plan = Plan::parse(&spec, id, &record.bundle)?;
    let annotation = |name: &str| record.annotations.get(name).cloned();
    let mut image = Image::open(flags, annotation, "dump.log")?;
    let pre_dump = flags.has("pre-dump");
    let options = &mut image.options;
    options.number(option::PID, task.pid as u64);
    options.text(option::ROOT, &record.rootfs.display().to_string());
    for (flag, number) in
        [("leave-running", option::LEAVE_RUNNING), ("link-remap", option::LINK_REMAP)]
    {
        if flags.has(flag) {
            options.number(number, 1);
        }
    }
    if let Some(parent) = flags.text("parent-path") {
        check_parent(&image.folder, parent)?;
        options.text(option::PARENT_IMG, parent);
        options.number(option::TRACK_MEM, 1);
    } else if pre_dump {
        options.number(option::TRACK_MEM, 1);
    }
    if let Some(text) = flags.text("page-server") {
        let (address, port) = text
            .rsplit_once(':')
            .and_then(|(address, port)| Some((address, port.parse::<u16>().ok()?)))
            .filter(|(address, _)| !address.is_empty())
            .ok_or_else(|| {
                CommandError::Usage("Use --page-server ADDRESS:PORT to specify page server".into())
            })?;
        options.message(option::PAGE_SERVER, &text_and_number(address, u64::from(port)));
    }
    let freezer = task.cgroup.with("freezer").or_else(|| task.cgroup.unified());
    if let Some(dir) = freezer {
        options.text(option::FREEZE_CGROUP, &dir.path.display().to_string());
    }
    for (_, name, key, path) in joined(&plan) {
        let inode = fs::metadata(&path).map_err(file("open", &path))?.ino();
        options.text(option::EXTERNAL, &format!("{name}[{inode}]:{key}"));
    }
    if !pre_dump {
        for (place, _) in external_mounts(&plan, &task.cgroup, &record.rootfs) {
            options.message(option::EXT_MNT, &pair(&place, &place));
        }
        for at in plan.masked {
            let seen = Path::new("/proc").join(task.pid.to_string()).join("root");
            let facts = fs::metadata(seen.join(at.trim_start_matches('/')));
            if facts.is_ok_and(|facts| !facts.is_dir()) {
                options.message(option::EXT_MNT, &pair(at, "/dev/null"));
            }
        }
        let links = (0..3).map(|fd| {
            let link = fs::read_link(format!("/proc/{}/fd/{fd}", task.pid)).unwrap_or_default();
            link.display().to_string()
        });
        let text = serde_json::to_string(&links.collect::<Vec<_>>()).unwrap_or_default();
        let path = image.folder.join(DESCRIPTORS);
        fs::write(&path, text).map_err(file("write", &path))?;
    }
    let status_fd = flags.number::<i32>("status-fd")?;
    let request = criu::Request {
        program: &context.criu,
        kind: if pre_dump { RequestKind::PreDump } else { RequestKind::Dump },
        options: std::mem::take(options),
        inherited: Vec::new(),
        cgroup: None,
        stdio: false,
    };
    let asked = criu::ask(request, |turn, _, _| {
        context.log.debug(&format!("criu: {turn}"));
        if let ("status-ready", Some(fd)) = (turn, status_fd) {
            let path = format!("/proc/self/fd/{fd}");
            fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .and_then(|mut file| std::io::Write::write_all(&mut file, &[0]))
                .step(|| format!("write to --status-fd {fd}"))?;
        }
        Ok(())
    });
    if let Err(error) = asked {
        image.quote_errors(context.log);
        return Err(error.into());
    }
    if !flags.has("leave-running") && !pre_dump {
        // criu has killed it; its parent reaps it.
        let ended = crate::sys::process::pidfd_ended(task.pidfd.as_fd(), Duration::from_secs(10));
        if !ended.step(|| "wait for the init's end")? {
            let text = "it is still there after its checkpoint";
            return Err(Failure::new(ErrorKind::Deadline, "checkpoint", text).into());
        }
        record.task.destroy()?;
        super::commands::forget(context, id)?;
    }
    Ok(0)
}

fn check_parent(image: &Path, parent: &str) -> Result<(), CommandError> {
    if Path::new(parent).is_absolute() {
        return Err(CommandError::Usage("--parent-path must be relative".to_owned()));
    }
    let path = image.join(parent);
    match fs::metadata(&path) {
        Ok(facts) if facts.is_dir() => Ok(()),
        Ok(_) => {
            let text = format!("invalid --parent-path: {} is not a directory", path.display());
            Err(CommandError::Usage(text))
        }
        Err(source) => Err(file("invalid --parent-path", &path)(source)),
    }
}
