//! `restore`: a container out of a checkpoint, by criu.

use std::cell::RefCell;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::spec::Spec;

use super::args::Parsed;
use super::checkpoint::{DESCRIPTORS, Image, external_mounts, joined};
use super::commands::{Context, end, forget};
use super::create::{Holder, stdio, write_pid};
use super::store::{Record, read_spec};
use super::{CommandError, run};
use crate::error::Step;
use crate::flow::cgroup::{self, Cgroup};
use crate::flow::criu;
use crate::flow::hooks::Subject;
use crate::flow::notify::Notify;
use crate::logic::criu_message::{Message, RequestKind, option, pair, text_and_number};
use crate::logic::mount_options::ms;
use crate::logic::plan::{MountKind, Plan};
use crate::logic::seccomp::Filter;
use crate::sys::foreground::{Signals, become_subreaper};
use crate::sys::mount::{self, Depth};
use crate::sys::path::{self, Missing};
use crate::sys::process::{self, ns};
use crate::{Error, Task};

/// In the state's folder: where criu finds the root.
const ROOT: &str = "criu-root";

pub(crate) fn restore(context: &Context<'_>, flags: &Parsed) -> Result<i32, CommandError> {
    let id = flags.id()?.to_owned();
    let given = flags.text("bundle").unwrap_or(".");
    let bundle = fs::canonicalize(given).map_err(|source| CommandError::File {
        action: "open bundle",
        path: given.to_owned(),
        source,
    })?;
    let (spec, bytes) = read_spec(&bundle.join("config.json"))?;
    let detach = flags.has("detach");
    let holder = if detach { Holder::Somebody } else { Holder::Us };
    let (_, socket) = stdio(spec.process().as_ref(), flags, holder)?;
    let signals = match detach {
        true => None,
        false => Some(Signals::take().step(|| "take signals")?),
    };
    if !detach && !flags.has("no-subreaper") {
        become_subreaper().step(|| "become subreaper")?;
    }
    let folder = context.store.claim(&id)?;
    let restored =
        restore_in(context, flags, &id, &bundle, (&spec, &bytes), &folder, socket.as_ref());
    let (task, pty) = restored.inspect_err(|_| {
        // The first failure is the one to report.
        let _ = context.store.remove(&id);
    })?;
    let Some(signals) = signals else { return Ok(0) };
    let code = run::wait(task.pid, &task.pidfd, pty, &signals)?;
    task.destroy()?;
    forget(context, &id)?;
    Ok(code)
}

fn restore_in(
    context: &Context<'_>,
    flags: &Parsed,
    id: &str,
    bundle: &Path,
    (spec, bytes): (&Spec, &[u8]),
    folder: &Path,
    socket: Option<&crate::sys::channel::Channel>,
) -> Result<(Task, Option<OwnedFd>), CommandError> {
    let plan = Plan::parse(spec, id, bundle)?;
    let root = spec.root().as_ref().map_or(Path::new("rootfs"), |root| root.path());
    let rootfs = bundle.join(root);
    let rootfs =
        fs::canonicalize(&rootfs).step(|| format!("root.path: open {}", rootfs.display()))?;
    let annotation =
        |name: &str| spec.annotations().as_ref().and_then(|all| all.get(name).cloned());
    let mut image = Image::open(flags, annotation, "restore.log")?;
    let new = Cgroup::create(
        &cgroup::host()?,
        &cgroup::Request {
            spec,
            id,
            relative: &plan.cgroup,
            resources: plan.resources,
            rules: &plan.device_rules,
            manager: context.manager,
            rootless: context.rootless,
        },
    )?;
    new.warnings.iter().for_each(|text| context.log.warn(text));
    let cgroup = new.cgroup;
    let asked = ask(
        context,
        flags,
        &plan,
        &cgroup,
        &rootfs,
        folder,
        &mut image,
        (spec, id, bundle),
        socket,
    );
    drop(new.holder);
    let (pid, pty) = match asked {
        Ok(done) => done,
        Err(error) => {
            image.quote_errors(context.log);
            let _ = crate::flow::task::destroy(&cgroup);
            return Err(error.into());
        }
    };
    let head = Subject::new(spec, id, bundle);
    let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let asks = plan.seccomp.as_ref().is_some_and(Filter::asks);
    let notify = Notify::new(seccomp, asks, head.head());
    let task = task_of(pid, cgroup, &plan, notify)?;
    let record = Record::new(id, bundle, spec, task.state());
    let kept = context.store.save(folder, &record, bytes).and_then(|()| write_pid(flags, task.pid));
    if let Err(error) = kept {
        let _ = end(&task);
        let _ = process::reap(task.pidfd.as_fd());
        let _ = task.destroy();
        return Err(error);
    }
    Ok((task, pty))
}

fn task_of(
    pid: i32,
    cgroup: Cgroup,
    plan: &Plan<'_>,
    notify: Option<Notify>,
) -> Result<Task, Error> {
    let pidfd = process::pidfd_open(pid).step(|| format!("open process {pid}"))?;
    let own = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/time")).ok();
    // criu restores into a time namespace, whatever the spec says.
    let time = if own(&pid.to_string()) == own("self") { 0 } else { ns::TIME };
    Ok(Task {
        pid,
        start_ticks: crate::flow::task::started(pid)?,
        pidfd,
        cgroup,
        namespaces: plan.namespaces.own() | time,
        seccomp: plan.seccomp.clone(),
        notify,
        memory_policy: plan.memory_policy.clone(),
        personality: plan.personality,
        rdt: Vec::new(),
    })
}

#[allow(clippy::too_many_arguments)] // the one place where all of them meet
fn ask(
    context: &Context<'_>,
    flags: &Parsed,
    plan: &Plan<'_>,
    cgroup: &Cgroup,
    rootfs: &Path,
    folder: &Path,
    image: &mut Image,
    (spec, id, bundle): (&Spec, &str, &Path),
    socket: Option<&crate::sys::channel::Channel>,
) -> Result<(i32, Option<OwnedFd>), Error> {
    // Nothing of what follows is mounted where the host sees it.
    process::unshare(ns::MOUNT).step(|| "make a mount namespace for criu")?;
    // Slave, as for a new container: criu gives the root the peers that it had.
    mount::set_propagation(Path::new("/"), ms::SLAVE | ms::REC)
        .step(|| "cut the mount namespace off")?;
    let root = folder.join(ROOT);
    fs::create_dir(&root).step(|| format!("make {}", root.display()))?;
    let root = fs::canonicalize(&root).step(|| format!("open {}", root.display()))?;
    // Whatever fails from here on: whoever removes the folder must not find the root below it.
    let view = View(&root);
    make_mount_points(plan, rootfs, &root)?;
    bind(rootfs, &root, Depth::Tree)?;
    let options = &mut image.options;
    options.text(option::ROOT, &root.display().to_string());
    options.number(option::EVASIVE_DEVICES, 1);
    options.number(option::RST_SIBLING, 1);
    for (flag, number) in
        [("lsm-profile", option::LSM_PROFILE), ("lsm-mount-context", option::LSM_MOUNT_CONTEXT)]
    {
        if let Some(text) = flags.text(flag) {
            options.text(number, text);
        }
    }
    for (place, source) in external_mounts(plan, cgroup, rootfs) {
        options.message(option::EXT_MNT, &pair(&place, &source));
    }
    if !plan.masked.is_empty() {
        options.message(option::EXT_MNT, &pair("/dev/null", "/dev/null"));
    }
    for dir in &cgroup.dirs {
        let below = dir.path.strip_prefix(&dir.mount).unwrap_or(Path::new(""));
        let path = Path::new("/").join(below).display().to_string();
        options.message(option::CG_ROOT, &pair(&dir.controllers.join(","), &path));
    }
    let inherited = namespaces(plan, options)?;
    let path = image.folder.join(DESCRIPTORS);
    let text = fs::read(&path).step(|| format!("read {}", path.display()))?;
    let links: Vec<String> = serde_json::from_slice(&text)
        .map_err(|e| Error::Spec { field: path.display().to_string(), reason: e.to_string() })?;
    for (fd, link) in links.iter().enumerate().filter(|(_, link)| link.starts_with("pipe:")) {
        options.message(option::INHERIT_FD, &text_and_number(link, fd as u64));
    }
    let subject = Subject::new(spec, id, bundle);
    let pty = RefCell::new(None);
    let request = criu::Request {
        program: &context.criu,
        kind: RequestKind::Restore,
        options: std::mem::take(options),
        inherited,
        cgroup: Some(cgroup),
        stdio: true,
    };
    let pid = criu::ask(request, |turn, pid, fd| {
        context.log.debug(&format!("criu: {turn}"));
        match (turn, fd) {
            ("setup-namespaces", _) => subject.create_runtime(pid)?,
            ("orphan-pts-master", Some(master)) => match socket {
                Some(socket) => socket
                    .send(b"/dev/ptmx", Some(master.as_fd()))
                    .step(|| "send the terminal to the console socket")?,
                None => *pty.borrow_mut() = Some(master),
            },
            _ => {}
        }
        Ok(())
    });
    drop(view);
    Ok((pid?, pty.into_inner()))
}

/// Where the root is mounted for criu, until this is dropped.
struct View<'a>(&'a Path);

impl Drop for View<'_> {
    fn drop(&mut self) {
        // Not mounted yet is fine.
        let _ = mount::detach(self.0);
        let _ = fs::remove_dir(self.0);
    }
}

/// Namespaces that are there already.
fn namespaces(plan: &Plan<'_>, options: &mut Message) -> Result<Vec<OwnedFd>, Error> {
    let mut inherited = Vec::new();
    for (_, _, key, path) in joined(plan) {
        let fd = process::open_namespace(&path)
            .step(|| format!("linux.namespaces: open {}", path.display()))?;
        let number = criu::FIRST_INHERITED + inherited.len() as u64;
        options.message(option::INHERIT_FD, &text_and_number(key, number));
        inherited.push(fd);
    }
    for (kind, path) in &plan.namespaces.join {
        let name = match *kind {
            ns::NET | ns::PID => continue,
            ns::IPC => "ipc",
            ns::UTS => "uts",
            ns::MOUNT => "mnt",
            ns::USER => "user",
            ns::TIME => "time",
            _ => {
                let what = "restore into a cgroup namespace by path".to_owned();
                return Err(Error::Unsupported { what });
            }
        };
        options.message(option::JOIN_NS, &pair(name, &path.display().to_string()));
    }
    Ok(inherited)
}

fn bind(from: &Path, to: &Path, depth: Depth) -> Result<(), Error> {
    let tree = mount::clone_path(from, depth).step(|| format!("open {}", from.display()))?;
    let place = path::open_host(to).step(|| format!("open {}", to.display()))?;
    Ok(mount::attach(tree.as_fd(), place.as_fd())
        .step(|| format!("bind {} to {}", from.display(), to.display()))?)
}

/// criu mounts, but makes no mount points: those that `create` makes in the image are made again, in
/// a view of it that goes with them, so that one inside of another is found.
fn make_mount_points(plan: &Plan<'_>, rootfs: &Path, view: &Path) -> Result<(), Error> {
    bind(rootfs, view, Depth::One)?;
    let made = place_all(plan, view);
    mount::detach(view).step(|| format!("let {} go", view.display()))?;
    made
}

fn place_all(plan: &Plan<'_>, view: &Path) -> Result<(), Error> {
    let root = path::open_host(view).step(|| format!("open {}", view.display()))?;
    let tmpfs: Vec<&PathBuf> = plan
        .mounts
        .iter()
        .filter(|mount| mount.kind == MountKind::Tmpfs)
        .map(|mount| &mount.destination)
        .collect();
    for mount in &plan.mounts {
        let destination = &mount.destination;
        let inside = tmpfs.iter().any(|at| destination.starts_with(at) && destination != *at);
        // What is in a tmpfs is in the image, and cgroup's places come with what they are in.
        if inside || mount.kind == MountKind::Cgroup {
            continue;
        }
        let step = || format!("make {} for a mount", destination.display());
        let is_file = mount.kind == MountKind::Bind && mount.source.is_file();
        let missing = if is_file { Missing::MakeFile } else { Missing::MakeDirectory };
        let place = path::open_or_make(root.as_fd(), destination, missing).step(step)?;
        if mount.kind == MountKind::Bind {
            let tree = mount::clone_path(&mount.source, Depth::Tree).step(step)?;
            mount::attach(tree.as_fd(), place.as_fd()).step(step)?;
        }
    }
    Ok(())
}
