//! systemd as the maker of a container's cgroup: a transient scope, asked for over its private
//! socket, so that no bus daemon is needed.
//!
//! A scope lives by the processes in it, and the container's init is to be born in it: a process
//! that does nothing holds it until the init is there.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::spec::LinuxResources;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Failure, Step};
use crate::logic::dbus::{self, Incoming, Kind, Value};
use crate::logic::systemd::{self, UnitName};
use crate::sys::channel::Channel;
use crate::sys::process::{self, Fork, Parent};
use crate::sys::{cred, sig};

/// For an answer, and for a job to be done.
const DEADLINE: Duration = Duration::from_secs(30);
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// A unit that is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unit {
    name: String,
    /// Of the user's own manager.
    user: bool,
}

/// The process that keeps a new scope alive; gone when dropped.
#[derive(Debug)]
pub(crate) struct Holder {
    _channel: Channel,
    pidfd: OwnedFd,
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It waits for this, or has ended with the scope.
        let _ = process::pidfd_signal(self.pidfd.as_fd(), sig::SIGKILL);
        let _ = process::reap(self.pidfd.as_fd());
    }
}

fn hold() -> Result<(Holder, i32), Failure> {
    let step = || "make a process that holds the scope";
    let (ours, theirs) = Channel::pair().step(step)?;
    match process::fork(0, None, Parent::Caller).step(step)? {
        Fork::Child => {
            drop(ours);
            // Ends with its parent, if that does not end it before.
            let _ = theirs.receive(None);
            process::exit_now(0)
        }
        Fork::Parent { pid, pidfd } => Ok((Holder { _channel: ours, pidfd }, pid)),
    }
}

/// A connection to a manager.
#[derive(Debug)]
struct Bus {
    stream: UnixStream,
    serial: u32,
    /// Jobs that have ended: path, result.
    ended: Vec<(String, String)>,
    user: bool,
}

fn none_here(user: bool) -> Failure {
    let whose = if user { "the user's " } else { "" };
    let text =
        format!("systemd not running on this host, cannot use {whose}systemd as cgroups manager");
    Failure::new(ErrorKind::Unsupported, "--systemd-cgroup", text)
}

impl Bus {
    fn connect(user: bool) -> Result<Self, Failure> {
        let socket = match (user, std::env::var_os("XDG_RUNTIME_DIR")) {
            (false, _) if !Path::new("/run/systemd/system").is_dir() => {
                return Err(none_here(false));
            }
            (false, _) => PathBuf::from("/run/systemd/private"),
            (true, Some(dir)) => Path::new(&dir).join("systemd/private"),
            (true, None) => return Err(none_here(true)),
        };
        let step = || format!("connect to systemd at {}", socket.display());
        let stream = match UnixStream::connect(&socket) {
            Err(e) if user && e.kind() == io::ErrorKind::NotFound => return Err(none_here(true)),
            stream => stream.step(step)?,
        };
        stream.set_read_timeout(Some(DEADLINE)).step(step)?;
        stream.set_write_timeout(Some(DEADLINE)).step(step)?;
        let mut bus = Self { stream, serial: 0, ended: Vec::new(), user };
        bus.authenticate().step(step)?;
        // A manager with nobody to tell does not tell; refused, its signals come all the same.
        let _ = bus.call(MANAGER, "Subscribe", &[]);
        Ok(bus)
    }

    /// The kernel says who we are; the number in words is what the protocol wants beside.
    fn authenticate(&mut self) -> io::Result<()> {
        let uid = cred::own_uid().to_string();
        let hex: String = uid.bytes().map(|byte| format!("{byte:02x}")).collect();
        self.stream.write_all(format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes())?;
        let (mut line, mut byte) = (Vec::new(), [0]);
        while !line.ends_with(b"\r\n") && line.len() < 512 {
            self.stream.read_exact(&mut byte)?;
            line.push(byte[0]);
        }
        if !line.starts_with(b"OK") {
            return Err(io::Error::from(io::ErrorKind::PermissionDenied));
        }
        self.stream.write_all(b"BEGIN\r\n")
    }

    fn receive(&mut self) -> io::Result<Incoming> {
        let mut head = [0; dbus::HEAD];
        self.stream.read_exact(&mut head)?;
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "not a message of D-Bus");
        let mut bytes = vec![0; dbus::length(&head).ok_or_else(bad)?];
        bytes[..dbus::HEAD].copy_from_slice(&head);
        self.stream.read_exact(&mut bytes[dbus::HEAD..])?;
        let message = Incoming::parse(&bytes).ok_or_else(bad)?;
        if message.kind == Kind::Signal && message.member == "JobRemoved" {
            // Number, job, unit, result.
            if let [job, _, result] = &message.texts()[..] {
                self.ended.push((job.clone(), result.clone()));
            }
        }
        Ok(message)
    }

    fn call(
        &mut self,
        interface: &str,
        member: &str,
        arguments: &[Value],
    ) -> Result<Incoming, Failure> {
        let step = || format!("ask systemd: {member}");
        self.serial += 1;
        let bytes = dbus::call(self.serial, interface, member, arguments);
        self.stream.write_all(&bytes).step(step)?;
        let end = Instant::now() + DEADLINE;
        while Instant::now() < end {
            let message = self.receive().step(step)?;
            if message.reply_to != self.serial {
                continue;
            }
            return match message.kind {
                Kind::Error => {
                    let kind = match message.error.as_str() {
                        "org.freedesktop.systemd1.UnitExists" => ErrorKind::AlreadyExists,
                        "org.freedesktop.systemd1.NoSuchUnit" => ErrorKind::NotFound,
                        "org.freedesktop.DBus.Error.AccessDenied" => ErrorKind::Denied,
                        "org.freedesktop.DBus.Error.PropertyReadOnly"
                        | "org.freedesktop.DBus.Error.InvalidArgs" => ErrorKind::Invalid,
                        _ => ErrorKind::Internal,
                    };
                    let text = message.texts().first().cloned().unwrap_or_default();
                    Err(Failure::new(kind, step(), format!("{} ({})", text, message.error)))
                }
                _ => Ok(message),
            };
        }
        Err(Failure::new(ErrorKind::Deadline, step(), "no answer"))
    }

    /// A call that begins a job; returns when that is done, with its result.
    fn job(&mut self, member: &str, arguments: &[Value]) -> Result<String, Failure> {
        let reply = self.call(MANAGER, member, arguments)?;
        let job = reply.texts().first().cloned().unwrap_or_default();
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some((_, result)) = self.ended.iter().find(|(ended, _)| *ended == job) {
                return Ok(result.clone());
            }
            if Instant::now() > end {
                let text = "systemd did not finish the job in time";
                return Err(Failure::new(ErrorKind::Deadline, member, text));
            }
            self.receive().step(|| format!("wait for systemd: {member}"))?;
        }
    }

    fn property(&mut self, name: &str) -> Result<String, Failure> {
        let arguments = [Value::Text(MANAGER.to_owned()), Value::Text(name.to_owned())];
        let reply = self.call("org.freedesktop.DBus.Properties", "Get", &arguments)?;
        Ok(reply.texts().first().cloned().unwrap_or_default())
    }

    /// 0 when it does not say.
    fn version(&mut self) -> u32 {
        let text = self.property("Version").unwrap_or_default();
        let digits: String =
            text.trim_start_matches('v').chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap_or(0)
    }
}

/// A scope that was made: where it is below each hierarchy's mount, and who holds it.
pub(crate) struct Started {
    pub(crate) unit: Unit,
    pub(crate) path: PathBuf,
    pub(crate) holder: Option<Holder>,
    pub(crate) words: Vec<String>,
}

/// Makes the unit, with its limits.
pub(crate) fn start(
    name: &UnitName,
    user: bool,
    resources: Option<&LinuxResources>,
    annotations: &[(String, String)],
    v2: bool,
) -> Result<Started, Error> {
    let mut bus = Bus::connect(user)?;
    let version = bus.version();
    let (holder, pid) = hold()?;
    let mut properties = systemd::unit_properties(name, pid);
    for (key, text) in annotations {
        let Some(property) = key.strip_prefix("org.systemd.property.") else { continue };
        let value = systemd::annotation(property, text).ok_or_else(|| Error::Spec {
            field: format!("annotations[{key:?}]"),
            reason: format!("{text:?} is no value of a property"),
        })?;
        properties.push(value);
    }
    let group = resources.and_then(|r| r.unified().as_ref()?.get("memory.oom.group").cloned());
    if let (Some(group), true) = (group, version >= 253) {
        let policy = if group.trim() == "1" { "kill" } else { "continue" };
        properties.push(("OOMPolicy".to_owned(), Value::Text(policy.to_owned())));
    }
    let mut words = Vec::new();
    if let Some(resources) = resources {
        let (limits, more) = systemd::limit_properties(resources, v2, version)?;
        properties.extend(limits);
        words = more;
    }
    let arguments = [
        Value::Text(name.unit.clone()),
        Value::Text("replace".to_owned()),
        Value::Properties(properties),
        Value::NoUnits,
    ];
    let result = match bus.job("StartTransientUnit", &arguments) {
        Err(failure) if failure.kind == ErrorKind::AlreadyExists => {
            // What failed before is still known by that name until somebody has looked.
            let _ = bus.call(MANAGER, "ResetFailedUnit", &[Value::Text(name.unit.clone())]);
            bus.job("StartTransientUnit", &arguments)?
        }
        result => result?,
    };
    if result != "done" {
        let _ = bus.call(MANAGER, "ResetFailedUnit", &[Value::Text(name.unit.clone())]);
        let step = format!("make systemd's unit {}", name.unit);
        return Err(Failure::new(
            ErrorKind::Internal,
            step,
            format!("the job's result is {result}"),
        )
        .into());
    }
    let mut path = systemd::unit_path(name)?;
    if user {
        // Below the manager's own.
        let own = bus.property("ControlGroup")?;
        path = Path::new(own.trim_start_matches('/')).join(path);
    }
    let unit = Unit { name: name.unit.clone(), user };
    Ok(Started { unit, path, holder: Some(holder), words })
}

impl Unit {
    /// Changes its limits.
    pub(crate) fn update(
        &self,
        resources: &LinuxResources,
        v2: bool,
    ) -> Result<Vec<String>, Error> {
        let mut bus = Bus::connect(self.user)?;
        let version = bus.version();
        let (limits, words) = systemd::limit_properties(resources, v2, version)?;
        if !limits.is_empty() {
            let arguments =
                [Value::Text(self.name.clone()), Value::Bool(true), Value::Properties(limits)];
            bus.call(MANAGER, "SetUnitProperties", &arguments)?;
        }
        Ok(words)
    }

    /// Ends it, with all that is in it; gone already is fine.
    pub(crate) fn stop(&self) -> Result<(), Failure> {
        let mut bus = Bus::connect(self.user)?;
        debug_assert_eq!(bus.user, self.user);
        let name = || Value::Text(self.name.clone());
        match bus.job("StopUnit", &[name(), Value::Text("replace".to_owned())]) {
            Err(failure) if failure.kind != ErrorKind::NotFound => return Err(failure),
            Ok(_) | Err(_) => {}
        }
        // One that failed is known until then.
        let _ = bus.call(MANAGER, "ResetFailedUnit", &[name()]);
        Ok(())
    }
}
