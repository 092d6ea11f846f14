//! The last stretch of any container process: limits, directory, user, capabilities, program.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::path::Path;

use crate::error::{ErrorKind, Failure, Step};
use crate::logic::capabilities;
use crate::logic::memory_policy::MemoryPolicy;
use crate::logic::message::Message;
use crate::logic::process_plan::{ProcessPlan, cut_limit};
use crate::logic::seccomp::Filter;
use crate::sys::channel::Channel;
use crate::sys::cred::CapabilitySets;
use crate::sys::path::{Access, FileKind, FsKind, Resolve};
use crate::sys::{bpf, cred, exec, no, path, process as sys_process};

/// The exit codes of a shell for a program that it can't start.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;

/// Sets how willing the kernel is to kill this process. By the host's procfs: to be called before
/// any of the container's file systems are in sight.
pub(crate) fn set_oom_score(
    process: &ProcessPlan,
    warnings: &mut Vec<String>,
) -> Result<(), Failure> {
    set_oom_score_of("self", process, warnings)
}

/// The same of a child that may not: from a user namespace.
pub(crate) fn set_oom_score_of(
    pid: &str,
    process: &ProcessPlan,
    warnings: &mut Vec<String>,
) -> Result<(), Failure> {
    let Some(score) = process.oom_score_adj else { return Ok(()) };
    let file = format!("/proc/{pid}/oom_score_adj");
    match std::fs::write(&file, score.to_string()) {
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            let now = std::fs::read_to_string(&file).unwrap_or_default();
            warnings.push(format!(
                "process.oomScoreAdj {score} is below our own, and lowering it needs CAP_SYS_RESOURCE: left at {}",
                now.trim()
            ));
            Ok(())
        }
        done => done.step(|| format!("process.oomScoreAdj: write {score}")),
    }
}

/// The host's keys are not the container's. A kernel without keys has none to keep from it.
pub(crate) fn leave_keyring(warnings: &mut Vec<String>) {
    match cred::new_session_keyring() {
        Err(e) if e.raw_os_error() != Some(no::ENOSYS) => {
            warnings.push(format!("the caller's session keyring is kept: no new one: {e}"));
        }
        Ok(()) | Err(_) => {}
    }
}

/// Sets the labels that execve takes on. By the host's procfs, and only if it is one, so that no
/// decoy swallows them (CVE-2019-16884): to be called before the container's is in sight.
pub(crate) fn set_labels(process: &ProcessPlan) -> Result<(), Failure> {
    let labels = [
        ("process.apparmorProfile", "apparmor/exec", &process.apparmor, "exec "),
        ("process.selinuxLabel", "exec", &process.selinux, ""),
    ];
    for (field, file, label, verb) in labels {
        let Some(label) = label else { continue };
        let step = || format!("{field}: set {label:?}");
        let attributes = path::open_host(Path::new("/proc/thread-self/attr")).step(step)?;
        if path::fs_kind(attributes.as_fd()).step(step)? != FsKind::Proc {
            return Err(Failure::new(ErrorKind::Internal, step(), "/proc is not procfs"));
        }
        let text = format!("{verb}{label}");
        path::write_at(attributes.as_fd(), Path::new(file), Resolve::NoLinksOneMount, &text)
            .step(step)?;
    }
    Ok(())
}

/// Whether supplementary groups may be set: a user namespace can deny it.
pub(crate) fn groups(user_namespace: bool) -> Groups {
    let denied = user_namespace
        && std::fs::read("/proc/self/setgroups").is_ok_and(|text| text.starts_with(b"deny"));
    if denied { Groups::Leave } else { Groups::Set }
}

fn set_limits(process: &ProcessPlan, warnings: &mut Vec<String>) -> Result<(), Failure> {
    for limit in &process.limits {
        let step = || format!("process.rlimits: set {}", limit.name);
        match cred::set_limit(limit.resource, limit.soft, limit.hard) {
            Err(e) if e.raw_os_error() == Some(no::EPERM) => {
                let (_, hard) = cred::limit(limit.resource).step(step)?;
                let (cut, text) = cut_limit(limit, hard);
                cred::set_limit(cut.resource, cut.soft, cut.hard).step(step)?;
                warnings.push(text);
            }
            done => done.step(step)?,
        }
    }
    Ok(())
}

/// Everything but the program itself. What could not be given in full goes to `warnings`.
pub(crate) fn prepare(
    process: &ProcessPlan,
    seccomp: Option<&Filter>,
    groups: Groups,
    warnings: &mut Vec<String>,
) -> Result<(), Failure> {
    set_limits(process, warnings)?;
    if let Some(packed) = process.io_priority {
        cred::set_io_priority(packed).step(|| "process.ioPriority: set it")?;
    }
    if let Some(plan) = process.scheduler {
        cred::set_scheduler(plan).step(|| "process.scheduler: set it").map_err(no_scheduler)?;
    }
    path::set_umask(process.umask);
    let ours = cred::permitted().step(|| "read our capabilities")?;
    let (sets, missing) = capabilities::within(process.capabilities, ours);
    for name in capabilities::names(process.capabilities.ambient & ours & !sets.ambient) {
        warnings.push(format!(
            "can't raise ambient capability {name}: it is not permitted and inheritable"
        ));
    }
    if !missing.is_empty() {
        warnings.push(format!("process.capabilities: not ours to give: {}", missing.join(", ")));
    }
    // As the present user first: the directory may be one that only it can enter, or that only the
    // user to be can.
    let entered = enter_directory(process);
    cred::limit_bounding(sets.bounding).step(|| "limit the bounding set")?;
    cred::keep_over_setuid().step(|| "keep capabilities over setuid")?;
    let all = (groups == Groups::Set).then_some(process.groups.as_slice());
    cred::become_user(process.uid, process.gid, all)
        .step(|| format!("become user {}:{}", process.uid, process.gid))?;
    if entered.is_err() {
        enter_directory(process)?;
    }
    // A filter without no_new_privs takes CAP_SYS_ADMIN, which goes when the filter is in place.
    let extra = if keeps_for_seccomp(process, seccomp) { CAP_SYS_ADMIN & ours } else { 0 };
    cred::set_capabilities(with_extra(sets, extra)).step(|| "set capabilities")?;
    cred::set_ambient(sets.ambient).step(|| "set ambient capabilities")?;
    if process.no_new_privileges {
        cred::no_new_privileges().step(|| "set no_new_privs")?;
    }
    Ok(())
}

/// The kernel's EPERM has two reasons, and says neither.
fn no_scheduler(failure: Failure) -> Failure {
    if failure.errno != no::EPERM {
        return failure;
    }
    let text = format!(
        "{} (process scheduler can't be used together with AllowedCPUs, nor without CAP_SYS_NICE)",
        failure.text
    );
    Failure { text, ..failure }
}

const CAP_SYS_ADMIN: u64 = 1 << 21;

fn keeps_for_seccomp(process: &ProcessPlan, seccomp: Option<&Filter>) -> bool {
    seccomp.is_some() && !process.no_new_privileges
}

fn with_extra(sets: CapabilitySets, extra: u64) -> CapabilitySets {
    let (permitted, effective) = (sets.permitted | extra, sets.effective | extra);
    CapabilitySets { permitted, effective, ..sets }
}

/// The filter, as late as can be: of this process' own calls only capset and execve, and what tells
/// of their failure, must pass it.
fn filter_calls(
    process: &ProcessPlan,
    seccomp: Option<&Filter>,
    channel: &Channel,
) -> Result<(), Failure> {
    let Some(filter) = seccomp else { return Ok(()) };
    let ours = cred::permitted().step(|| "read our capabilities")?;
    let word = Message::Listener.encode();
    let listener = bpf::install_seccomp(&filter.program, filter.flags)
        .step(|| "linux.seccomp: install the filter")?;
    if let Some(listener) = listener {
        // Closed by execve, as the channel is.
        let listener = std::mem::ManuallyDrop::new(listener);
        channel.send(&word, Some(listener.as_fd())).step(|| "pass the seccomp listener on")?;
    }
    if keeps_for_seccomp(process, seccomp) {
        let (sets, _) = capabilities::within(process.capabilities, ours);
        cred::set_capabilities(sets).step(|| "set capabilities")?;
    }
    Ok(())
}

/// What becomes of supplementary groups.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Groups {
    Set,
    Leave,
}

/// Changes to the working directory and makes sure that it is inside the root: a descriptor of the
/// host's that came along must not lead out (CVE-2024-21626).
fn enter_directory(process: &ProcessPlan) -> Result<(), Failure> {
    let step = || format!("process.cwd: change to {}", process.cwd.display());
    let root = path::open_root().step(step)?;
    let dir =
        path::open_at(root.as_fd(), &process.cwd, Access::Directory, Resolve::InRoot).step(step)?;
    path::change_directory(dir.as_fd()).step(step)?;
    if path::current_directory().step(step)?.first() != Some(&b'/') {
        return Err(Failure::new(
            ErrorKind::Denied,
            step(),
            "it is outside of the container's root",
        ));
    }
    Ok(())
}

/// A program that was found, and what it is given beside its arguments.
#[derive(Debug)]
pub(crate) struct Program {
    path: CString,
    pub(crate) env: Vec<CString>,
}

/// Finds the program, and what it does not know yet of its user.
pub(crate) fn find_program(process: &ProcessPlan) -> Result<Program, Failure> {
    Ok(Program { path: find_path(process)?, env: environment(process) })
}

/// Of a name that is given twice the last counts; every program expects HOME, and whoever did not
/// set it gets the image's own.
fn environment(process: &ProcessPlan) -> Vec<CString> {
    let name = |entry: &CString| {
        entry.as_bytes().split(|byte| *byte == b'=').next().unwrap_or_default().to_vec()
    };
    let all = process.env.iter().enumerate();
    let mut env: Vec<CString> = all
        .filter(|(at, entry)| !process.env[at + 1..].iter().any(|later| name(later) == name(entry)))
        .map(|(_, entry)| entry.clone())
        .filter(|entry| entry.as_bytes() != b"HOME=")
        .collect();
    if !env.iter().any(|entry| entry.as_bytes().starts_with(b"HOME=")) {
        let home = [b"HOME=", home_of(process.uid).as_slice()].concat();
        env.extend(CString::new(home));
    }
    env
}

/// Out of the container's `/etc/passwd`; "/" for a user that it does not name.
fn home_of(uid: u32) -> Vec<u8> {
    const MOST: u64 = 1 << 20;
    let text = path::open_root()
        .and_then(|root| path::read_small(root.as_fd(), Path::new("/etc/passwd"), MOST))
        .unwrap_or_default();
    let uid = uid.to_string();
    let found = text.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':').skip(2);
        let (id, home) = (fields.next()?, fields.nth(2)?);
        (id == uid.as_bytes() && home.first() == Some(&b'/')).then(|| home.to_vec())
    });
    found.unwrap_or_else(|| b"/".to_vec())
}

/// As the process will be: by its user, from its directory, on its PATH.
fn find_path(process: &ProcessPlan) -> Result<CString, Failure> {
    let Some(name) = process.args.first() else {
        return Err(Failure::new(ErrorKind::Invalid, "process.args", "is empty"));
    };
    let text = name.to_string_lossy().into_owned();
    let step = || format!("exec: {text:?}");
    if name.as_bytes().contains(&b'/') {
        return check_program(name).map(|()| name.clone()).map_err(|e| refused(e, step()));
    }
    let mut found = None;
    for dir in &process.search {
        // An empty entry means the working directory, as for a shell.
        let dir = if dir.is_empty() { "." } else { dir };
        let candidate = crate::sys::c_path(&Path::new(dir).join(&text)).step(step)?;
        match check_program(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(e) if matches!(e.raw_os_error(), Some(no::ENOENT | no::ENOTDIR)) => {}
            Err(e) => found = found.or(Some(e)),
        }
    }
    match found {
        Some(error) => Err(refused(error, step())),
        None => {
            Err(Failure::new(ErrorKind::NotFound, step(), "executable file not found in $PATH")
                .with_exit_code(NOT_FOUND))
        }
    }
}

fn check_program(path: &CString) -> std::io::Result<()> {
    exec::may_execute(path)?;
    let kind = std::fs::metadata(Path::new(std::ffi::OsStr::new(&*path.to_string_lossy())))?;
    if kind.is_dir() { Err(crate::sys::errno(no::EISDIR)) } else { Ok(()) }
}

fn refused(error: std::io::Error, step: String) -> Failure {
    let code = match error.raw_os_error() {
        Some(no::ENOENT | no::ENOTDIR) => NOT_FOUND,
        _ => NOT_EXECUTABLE,
    };
    match Err::<(), _>(error).step(|| step) {
        // Engines know the two apart from their words, and not all of them this one.
        Err(failure) if failure.errno == no::EISDIR => {
            let text = format!("{}: permission denied", failure.text);
            Failure { text, ..failure }.with_exit_code(code)
        }
        Err(failure) => failure.with_exit_code(code),
        Ok(()) => Failure::new(ErrorKind::Internal, "exec", "no reason"),
    }
}

/// Standard input and output that are open on a directory would be a door to the host's files
/// (CVE-2024-21626 by another way), and none reads or writes one.
fn no_way_out() -> Result<(), Failure> {
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    for (number, stream) in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()].iter().enumerate() {
        if path::facts(*stream).is_ok_and(|facts| facts.kind == FileKind::Directory) {
            let step = format!("check descriptor {number}");
            return Err(Failure::new(ErrorKind::Denied, step, "it is open on a directory"));
        }
    }
    Ok(())
}

/// Sets from which memory the container's processes allocate.
pub(crate) fn set_memory_policy(policy: Option<&MemoryPolicy>) -> Result<(), Failure> {
    let Some(policy) = policy else { return Ok(()) };
    sys_process::set_memory_policy(policy.mode, &policy.nodes).step(|| "linux.memoryPolicy: set it")
}

/// Sets the execution domain.
pub(crate) fn set_personality(domain: Option<u64>) -> Result<(), Failure> {
    domain
        .map_or(Ok(()), |domain| cred::set_personality(domain).step(|| "linux.personality: set it"))
}

/// Becomes the program; returns only with the reason why not. What is to run before it in the
/// container runs behind the filter, as the program does.
pub(crate) fn become_program(
    process: &ProcessPlan,
    program: &Program,
    seccomp: Option<&Filter>,
    preserved: u32,
    channel: &Channel,
    before: Option<&dyn Fn() -> Result<(), Failure>>,
) -> Failure {
    let reset = || exec::reset_signals().step(|| "reset signals");
    let ready = if before.is_some() { Ok(()) } else { reset() };
    let ready = ready
        .and_then(|()| exec::close_from_on_exec(3 + preserved).step(|| "close descriptors"))
        .and_then(|()| no_way_out())
        .and_then(|()| filter_calls(process, seccomp, channel))
        .and_then(|()| before.map_or(Ok(()), |run| run().and_then(|()| reset())));
    if let Err(failure) = ready {
        return failure;
    }
    let error = exec::execve(&program.path, &process.args, &program.env);
    refused(error, format!("exec {}", program.path.to_string_lossy()))
}
