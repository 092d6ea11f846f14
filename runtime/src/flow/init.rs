//! The container's first process, from clone to execve.
//!
//! ```text
//! cgroups, joined namespaces   while everything is still the host's
//! bind sources, root           taken and mounted; then pivot_root
//! old root                     let go
//! mounts, /dev, parameters     inside the container's root only
//! terminal, user, capabilities
//! Ready ── wait for Go ── seccomp, execve
//! ```

use std::cell::Cell;
use std::convert::Infallible;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::cgroup::{Cgroup, Manager};
use super::console::Console;
use super::hooks::Subject;
use super::idmap::Mapped;
use super::{console, dev, guard, mounts, process, rootfs};
use crate::error::{ErrorKind, Failure, Step};
use crate::logic::message::Message;
use crate::logic::plan::Plan;
use crate::sys::channel::{Channel, Received};
use crate::sys::netlink::Netlink;
use crate::sys::process::{self as sys_process, Fork, Parent, ns};
use crate::sys::{cred, net, no, path};
use crate::{Rootfs, Stdio};

/// What the first process has of its parent.
pub(crate) struct Init<'a> {
    pub(crate) plan: &'a Plan<'a>,
    pub(crate) rootfs: &'a Rootfs<'a>,
    /// Where the root is (or is mounted).
    pub(crate) root_path: &'a Path,
    pub(crate) stdio: &'a Stdio,
    pub(crate) channel: &'a Channel,
    pub(crate) cgroup: &'a Cgroup,
    /// Namespaces to join, in order.
    pub(crate) joins: &'a [(u64, OwnedFd)],
    /// Sources of id-mapped mounts.
    pub(crate) mapped: &'a Mapped,
    /// The root file system, if the parent has mounted it.
    pub(crate) tree: Option<&'a OwnedFd>,
    /// The ways into the cgroups, for a user namespace's root.
    pub(crate) doors: Cell<Option<Vec<File>>>,
    pub(crate) options: &'a Options,
    pub(crate) subject: &'a Subject,
}

/// What only the command line asks for.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// Where the init waits for `start` once the creating process is gone.
    pub(crate) listener: Option<OwnedFd>,
    /// Descriptors from 3 on that the program inherits.
    pub(crate) preserved_fds: u32,
    /// The host's root is an initial ramdisk, which can't be pivoted away.
    pub(crate) no_pivot: bool,
    /// The calling process is there for this container only, and keeps little of its code mapped.
    pub(crate) lean: bool,
    /// The container shares the caller's session keyring.
    pub(crate) keep_keyring: bool,
    /// Who makes the cgroups.
    pub(crate) manager: Manager,
    /// Whether missing rights to cgroups are passed over; unsaid, that depends on who asks.
    pub(crate) rootless: Option<bool>,
}

/// Runs a child to its end: the program takes its place, or the failure is told and it exits.
pub(crate) fn run_child(
    channel: &Channel,
    body: impl FnOnce() -> Result<Infallible, Failure>,
) -> ! {
    // A panic must not unwind into the parent's half of the code, which this process also has.
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(never)) => match never {},
        Ok(Err(failure)) => failure,
        Err(_) => Failure::new(ErrorKind::Internal, "set the process up", "panicked"),
    };
    let code = failure.exit_code;
    // Nobody left to tell: the exit code says that it failed.
    let _ = channel.send(&Message::Failed(failure).encode(), None);
    sys_process::exit_now(code)
}

/// Waits for the parent's word. A parent that is gone wants nothing more from us.
pub(crate) fn wait_for_go(channel: &Channel) -> Result<(), Failure> {
    wait_for_go_as(channel).map(drop)
}

/// The same; gives this process' pid as the parent sees it, if that was told.
fn wait_for_go_as(channel: &Channel) -> Result<i32, Failure> {
    let step = || "wait for the parent";
    match channel.receive(None).step(step)? {
        Received::Message { bytes, .. } => match Message::decode(&bytes) {
            Some(Message::Go) => Ok(0),
            Some(Message::GoAs { pid }) => Ok(pid),
            _ => Err(Failure::new(ErrorKind::Internal, step(), "an unknown word")),
        },
        Received::Closed => sys_process::exit_now(1),
    }
}

impl Init<'_> {
    /// The whole way.
    pub(crate) fn run(&self) -> Result<Infallible, Failure> {
        let mut warnings = Vec::new();
        let (program, pty) = self.set_up(&mut warnings)?;
        // Before anybody can know of it, so that none is lost.
        crate::sys::exec::end_on_signals().step(|| "handle signals")?;
        self.channel
            .send(&Message::Ready { warnings }.encode(), pty.as_ref().map(|pty| pty.as_fd()))
            .step(|| "say that the container is ready")?;
        drop(pty);
        match &self.options.listener {
            None => self.go(self.channel, &program),
            Some(listener) => {
                // Whoever gave them to the creating process may wait for their end.
                let first = 3 + self.options.preserved_fds.cast_signed();
                crate::sys::exec::close_except(first, &[listener.as_fd()])
                    .step(|| "close descriptors")?;
                let channel =
                    Channel::accept(listener.as_fd()).step(|| "wait for somebody to start us")?;
                // From here on that is who is told of failures.
                run_child(&channel, || self.go(&channel, &program))
            }
        }
    }

    fn go(&self, channel: &Channel, program: &process::Program) -> Result<Infallible, Failure> {
        wait_for_go(channel)?;
        let seccomp = self.plan.seccomp.as_ref();
        let preserved = self.options.preserved_fds;
        let hooks = || self.subject.start_container(1, &program.env);
        let before: Option<&dyn Fn() -> Result<(), Failure>> =
            if self.subject.any_at_start() { Some(&hooks) } else { None };
        Err(process::become_program(
            &self.plan.process,
            program,
            seccomp,
            preserved,
            channel,
            before,
        ))
    }

    /// Joins a user namespace, and is born again in it: what is new of the container's has to
    /// belong to it, and a process can't change the namespaces of pids that it is in itself.
    pub(crate) fn be_born_again(&self, new: u64) -> Result<Infallible, Failure> {
        let join = |kind: u64, fd: &OwnedFd| {
            sys_process::setns(fd.as_fd(), kind).step(|| "join a namespace")
        };
        let (users, others): (Vec<_>, Vec<_>) =
            self.joins.iter().partition(|(kind, _)| *kind == ns::USER);
        // Some belong to the host, whose rights are about to be given up; some to the user
        // namespace, whose rights an ordinary user has yet to get.
        let mut later = Vec::new();
        for (kind, fd) in others {
            match join(*kind, fd) {
                Err(failure) if failure.errno == no::EPERM => later.push((*kind, fd)),
                joined => joined?,
            }
        }
        users.iter().try_for_each(|(kind, fd)| join(*kind, fd))?;
        cred::become_user(0, 0, None).step(|| "become root of the user namespace")?;
        later.into_iter().try_for_each(|(kind, fd)| join(kind, fd))?;
        let forked = sys_process::fork(new, None, Parent::CallersParent);
        match forked.step(|| "fork the container's process")? {
            Fork::Child => {
                // Not before the parent knows of this process: both of us speak on one channel.
                wait_for_go(self.channel)?;
                self.run()
            }
            Fork::Parent { pid, pidfd } => {
                let born = Message::Born { pid }.encode();
                self.channel.send(&born, Some(pidfd.as_fd())).step(|| "tell of a birth")?;
                sys_process::exit_now(0)
            }
        }
    }

    fn set_up(
        &self,
        warnings: &mut Vec<String>,
    ) -> Result<(process::Program, Option<OwnedFd>), Failure> {
        let plan = self.plan;
        let own = plan.namespaces.new;
        if let Some(lines) = &plan.time_offsets {
            // Execve takes the process into it (6.1 and later). Before any change of user, after
            // which /proc/self would be another's.
            sys_process::unshare(ns::TIME).step(|| "make a time namespace")?;
            std::fs::write("/proc/self/timens_offsets", lines)
                .step(|| "linux.timeOffsets: set them")?;
        }
        if own & ns::USER != 0 {
            self.become_root_of_user_namespace()?;
        }
        if own & ns::PID == 0 && !plan.namespaces.has(ns::USER) {
            // Born among another container's processes, which are not to look into it (as for an
            // exec, CVE-2016-9962).
            sys_process::hide_from_neighbours().step(|| "hide from the neighbours")?;
        }
        let born_there = self.joins.iter().any(|(kind, _)| *kind == ns::USER);
        sys_process::setsid().step(|| "start a session")?;
        if !self.options.keep_keyring {
            process::leave_keyring(warnings);
        }
        match self.doors.take() {
            Some(doors) => Cgroup::enter_by(doors)?,
            None => self.cgroup.enter()?,
        }
        // The caller's own is not the container's: the cgroup says what may be used.
        sys_process::reset_affinity();
        process::set_memory_policy(plan.memory_policy.as_ref())?;
        if !plan.namespaces.has(ns::USER) {
            // Else the parent does it: /proc/self is not this process' own there.
            process::set_oom_score(&plan.process, warnings)?;
        }
        process::set_labels(&plan.process)?;
        // The pid namespace was joined by being born into it.
        let still = self.joins.iter().filter(|(kind, _)| !born_there && *kind != ns::PID);
        for (kind, fd) in still {
            sys_process::setns(fd.as_fd(), *kind).step(|| "join a namespace")?;
        }
        if own & ns::CGROUP != 0 {
            // Only now: its root is the cgroup that the process is in.
            sys_process::unshare(ns::CGROUP).step(|| "make a cgroup namespace")?;
        }
        self.name_and_connect()?;
        let (root, later) = self.make_root()?;
        let pty = console::connect(self.stdio, root.as_fd(), &plan.process, Console::Init)?;
        guard::protect(plan, root.as_fd())?;
        guard::mask(plan, root.as_fd())?;
        self.make_working_directory(&root)?;
        guard::close_later(&later)?;
        guard::close_root(plan, root.as_fd())?;
        let groups = process::groups(plan.namespaces.has(ns::USER));
        process::set_personality(plan.personality)?;
        process::prepare(&plan.process, plan.seccomp.as_ref(), groups, warnings)?;
        let program = process::find_program(&plan.process)?;
        Ok((program, pty))
    }

    fn name_and_connect(&self) -> Result<(), Failure> {
        let plan = self.plan;
        if let Some(name) = plan.host_name {
            sys_process::set_host_name(name).step(|| format!("set the host name {name:?}"))?;
        }
        if let Some(name) = plan.domain_name {
            sys_process::set_domain_name(name).step(|| format!("set the domain name {name:?}"))?;
        }
        if plan.namespaces.new & ns::NET != 0 {
            net::loopback_up().step(|| "switch the loopback interface on")?;
        }
        if !plan.net_devices.is_empty() {
            let socket = Netlink::open().step(|| "reach the container's network")?;
            let word = Message::Devices.encode();
            self.channel.send(&word, Some(socket.fd())).step(|| "ask for network devices")?;
            wait_for_go(self.channel)?;
        }
        Ok(())
    }

    /// Gives a descriptor of the container's root, which is then the process' own, with all mounts
    /// in place and the host's out of reach; and the file systems to be made read-only at last.
    fn make_root(&self) -> Result<(OwnedFd, Vec<OwnedFd>), Failure> {
        let plan = self.plan;
        let old_root = path::open_root().step(|| "open the root")?;
        let own_mounts = plan.namespaces.has(ns::MOUNT);
        if own_mounts {
            rootfs::set_propagation(plan.root_propagation)?;
        }
        let mut sources = Some(mounts::take(plan, self.cgroup, self.mapped)?);
        let mut nodes = Some(dev::take(plan)?);
        match (self.tree, self.rootfs) {
            (Some(_), _) => {}
            (None, Rootfs::Path(_)) => rootfs::bind_root(self.root_path)?,
            (None, Rootfs::Mounts(_)) if !own_mounts => {
                let text = "is needed for a root that is mounted from parts";
                let step = "linux.namespaces: mount";
                return Err(Failure::new(ErrorKind::Unsupported, step, text));
            }
            (None, Rootfs::Mounts(parts)) => rootfs::mount_root(parts, self.root_path)?,
        }
        path::set_umask(0);
        let mut filled = None;
        if self.subject.any_before_pivot() {
            // These hooks change what is mounted already, through the host's paths.
            let step = || "open the container's root";
            let root = match self.tree {
                Some(tree) => tree.try_clone().step(step)?,
                None => path::open_host(self.root_path).step(step)?,
            };
            filled = Some(self.fill_root(root.as_fd(), sources.take(), nodes.take())?);
            self.channel.send(&Message::Hooks.encode(), None).step(|| "ask for the hooks")?;
            let pid = wait_for_go_as(self.channel)?;
            // Relative names are below the root to be, as for runc's.
            path::change_directory(root.as_fd()).step(|| "change to the container's root")?;
            self.subject.create_container(pid)?;
        }
        let root = match (self.tree, self.options.no_pivot) {
            _ if !own_mounts => rootfs::change_root(self.root_path)?,
            (Some(tree), _) => {
                let tree = tree.try_clone().step(|| "keep the container's root")?;
                rootfs::pivot_to(tree, old_root.as_fd(), plan.root_propagation)?
            }
            (None, false) => rootfs::pivot(self.root_path, plan.root_propagation)?,
            (None, true) => rootfs::move_root(self.root_path)?,
        };
        // Before any path of the container is walked: pivot_root leaves the old root mounted on top
        // of the new one, and ".." at a root steps onto what is mounted there, in-root or not.
        if own_mounts && (self.tree.is_some() || !self.options.no_pivot) {
            rootfs::leave_old_root(old_root.as_fd(), root.as_fd(), plan.root_propagation)?;
        }
        let placed = match filled {
            Some(placed) => placed,
            None => self.fill_root(root.as_fd(), sources.take(), nodes.take())?,
        };
        guard::set_parameters(plan, placed.proc.as_ref())?;
        if let Some(bits) = plan.root_propagation.filter(|_| own_mounts) {
            crate::sys::mount::set_propagation(Path::new("/"), bits)
                .step(|| "linux.rootfsPropagation: set it")?;
        }
        Ok((root, placed.read_only_later))
    }

    fn fill_root(
        &self,
        root: BorrowedFd<'_>,
        sources: Option<Vec<mounts::Source>>,
        nodes: Option<Vec<OwnedFd>>,
    ) -> Result<mounts::Placed, Failure> {
        let sources = sources.unwrap_or_default();
        let placed = mounts::place(self.plan, self.cgroup, root, sources)?;
        dev::fill(self.plan, root, nodes.unwrap_or_default())?;
        Ok(placed)
    }

    /// A missing working directory is made, as engines expect.
    fn make_working_directory(&self, root: &OwnedFd) -> Result<(), Failure> {
        let cwd = &self.plan.process.cwd;
        path::set_umask(0o022);
        path::open_or_make(root.as_fd(), cwd, path::Missing::MakeDirectory)
            .map(drop)
            .step(|| format!("process.cwd: open {}", cwd.display()))
    }

    fn become_root_of_user_namespace(&self) -> Result<(), Failure> {
        self.channel.send(&Message::MapMe.encode(), None).step(|| "ask for id maps")?;
        wait_for_go(self.channel)?;
        cred::become_user(0, 0, None).step(|| "become root of the user namespace")
    }
}
