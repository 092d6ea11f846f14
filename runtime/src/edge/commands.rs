//! The commands, and the words that lead to them.

use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::spec::LinuxResources;

use super::args::{Flag, Parsed, switch, value};
use super::container::{Container, Status};
use super::flags::{CREATE, EXEC, GLOBAL, UPDATE, USAGE};
use super::log::Log;
use super::report::{self, Form};
use super::store::Store;
use super::{CommandError, create, exec, signals};
use crate::error::{ErrorKind, Step};
use crate::flow::hooks::Subject;

/// Runs one command; gives the process' exit code.
#[must_use]
pub fn command_line(args: &[String]) -> i32 {
    let mut log = Log::default();
    match dispatch(args, &mut log) {
        Ok(code) => code,
        Err(error) => {
            log.debug(&format!("kind {:?}", error.kind()));
            log.error(&error.to_string());
            error.code()
        }
    }
}

/// What every command has at hand.
pub(crate) struct Context<'a> {
    pub(crate) store: Store,
    pub(crate) log: &'a Log,
}

fn dispatch(args: &[String], log: &mut Log) -> Result<i32, CommandError> {
    let global = Parsed::parse(&GLOBAL, args)?;
    log.file = global.get("log").filter(|path| !path.is_empty()).map(PathBuf::from);
    log.json = global.get("log-format") == Some("json");
    log.debug = global.has("debug");
    if global.has("version") {
        report::print(&format!("wharf-runtime version {}\nspec: 1.2.0", env!("CARGO_PKG_VERSION")));
        return Ok(0);
    }
    let Some((command, rest)) = global.operands.split_first().filter(|_| !global.has("help"))
    else {
        report::print(USAGE);
        return Ok(0);
    };
    let root = global.get("root").map_or_else(default_root, PathBuf::from);
    let context = Context { store: Store::new(root), log };
    let one = |flags: &[Flag]| Parsed::parse(flags, rest);
    if global.has("systemd-cgroup") && ["create", "run"].contains(&command.as_str()) {
        let text = "--systemd-cgroup: this runtime writes cgroups itself";
        return Err(CommandError::Usage(text.to_owned()));
    }
    if ["create", "run", "exec"].contains(&command.as_str()) {
        // Before a process of ours enters a container, which could write to its program.
        crate::run_sealed()?;
    }
    match command.as_str() {
        "create" => create::create(&context, &one(&CREATE)?),
        "run" => create::foreground(&context, &one(&CREATE)?),
        "start" => create::start(&context, one(&[])?.id()?),
        "state" => {
            report::state(&Container::load(&context.store, one(&[])?.id()?)?);
            Ok(0)
        }
        "kill" => kill(&context, &one(&[switch(&["all", "a"])])?),
        "delete" => delete(&context, &one(&[switch(&["force", "f"])])?),
        "exec" => exec::exec(&context, &one(&EXEC)?),
        "ps" => processes(&context, &one(&[value(&["format", "f"])])?),
        "list" => list(&context, &one(&[value(&["format", "f"]), switch(&["quiet", "q"])])?),
        "pause" => pause(&context, one(&[])?.id()?),
        "resume" => resume(&context, one(&[])?.id()?),
        "update" => update(&context, &one(&UPDATE)?),
        "events" => events(&context, &one(&[switch(&["stats"]), value(&["interval"])])?),
        "spec" => {
            let flags = one(&[value(&["bundle", "b"]), switch(&["rootless"])])?;
            let bundle = flags.get("bundle").unwrap_or(".");
            report::write_spec(Path::new(bundle), flags.has("rootless")).map(|()| 0)
        }
        "features" => {
            report::features();
            Ok(0)
        }
        "checkpoint" | "restore" => {
            Err(crate::Error::Unsupported { what: format!("{command}: it needs criu") }.into())
        }
        "help" => {
            report::print(USAGE);
            Ok(0)
        }
        other => Err(CommandError::Usage(format!("unknown command {other:?}"))),
    }
}

fn default_root() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if crate::sys::cred::own_uid() != 0 => Path::new(&dir).join("wharf-runtime"),
        _ => PathBuf::from("/run/wharf-runtime"),
    }
}

fn kill(context: &Context<'_>, flags: &Parsed) -> Result<i32, CommandError> {
    let container = Container::load(&context.store, flags.id()?)?;
    let signal = signals::parse(flags.operands.get(1).map_or("SIGTERM", String::as_str))?;
    if flags.has("all") {
        // Also when only the init has ended: that is what it is asked for.
        crate::flow::task::signal_all(container.record.task.cgroup(), signal)?;
        return Ok(0);
    }
    let task = container.running()?;
    match task.signal(signal) {
        Err(crate::Error::Gone { .. }) => {
            Err(CommandError::State { text: "container not running".to_owned() })
        }
        done => Ok(done.map(|()| 0)?),
    }
}

fn delete(context: &Context<'_>, flags: &Parsed) -> Result<i32, CommandError> {
    let id = flags.id()?;
    let force = flags.has("force");
    let container = match Container::load(&context.store, id) {
        Err(CommandError::NoContainer { .. }) if force => {
            // A folder without a state is what a create that was killed leaves.
            return context.store.remove(id).map(|()| 0);
        }
        container => container?,
    };
    match (&container.task, container.status) {
        (None, _) => {}
        (Some(task), Status::Created) => end(task)?,
        (Some(task), _) if force => end(task)?,
        (Some(_), status) => {
            let text =
                format!("cannot delete container {id} that is not stopped: {}", status.name());
            return Err(CommandError::State { text });
        }
    }
    container.record.task.destroy()?;
    forget(context, id)?;
    Ok(0)
}

/// Removes what is kept, and runs the last hooks. Their failure is no reason to keep it.
pub(crate) fn forget(context: &Context<'_>, id: &str) -> Result<(), CommandError> {
    let last = context.store.load(id).and_then(|record| {
        let spec = context.store.config(id)?;
        Ok(Subject::new(&spec, id, &record.bundle))
    });
    context.store.remove(id)?;
    if let Ok(subject) = last {
        subject.poststop().unwrap_or_else(|failure| context.log.warn(&failure.to_string()));
    }
    Ok(())
}

/// Kills a container's processes and waits for the init's end.
fn end(task: &crate::Task) -> Result<(), CommandError> {
    task.signal_all(crate::sys::sig::SIGKILL)?;
    // Without a cgroup only the init is known; the others of its pid namespace go with it.
    let _ = task.signal(crate::sys::sig::SIGKILL);
    let ended = crate::sys::process::pidfd_ended(task.pidfd.as_fd(), Duration::from_secs(10));
    if !ended.step(|| "wait for the init's end")? {
        let text = "it is still there ten seconds after SIGKILL";
        return Err(crate::Failure::new(ErrorKind::Deadline, "kill the container", text).into());
    }
    Ok(())
}

fn form(flags: &Parsed) -> Result<Form, CommandError> {
    match flags.get("format") {
        _ if flags.has("quiet") => Ok(Form::Ids),
        None | Some("table" | "") => Ok(Form::Table),
        Some("json") => Ok(Form::Json),
        Some(other) => Err(CommandError::Usage(format!("invalid format option {other:?}"))),
    }
}

fn processes(context: &Context<'_>, flags: &Parsed) -> Result<i32, CommandError> {
    let container = Container::load(&context.store, flags.id()?)?;
    let pids = crate::flow::task::pids(container.record.task.cgroup())?;
    let options = flags.operands.get(1..).unwrap_or(&[]);
    report::processes(&pids, form(flags)?, options).map(|()| 0)
}

fn list(context: &Context<'_>, flags: &Parsed) -> Result<i32, CommandError> {
    report::list(&context.store, form(flags)?, |text| context.log.warn(text)).map(|()| 0)
}

fn pause(context: &Context<'_>, id: &str) -> Result<i32, CommandError> {
    let container = Container::load(&context.store, id)?;
    match container.status {
        Status::Running | Status::Created => Ok(container.running()?.pause().map(|()| 0)?),
        status => Err(CommandError::State {
            text: format!("container not running or created: {}", status.name()),
        }),
    }
}

fn resume(context: &Context<'_>, id: &str) -> Result<i32, CommandError> {
    let container = Container::load(&context.store, id)?;
    match container.status {
        Status::Paused => Ok(container.running()?.resume().map(|()| 0)?),
        _ => Err(CommandError::State { text: "container not paused".to_owned() }),
    }
}

fn update(context: &Context<'_>, flags: &Parsed) -> Result<i32, CommandError> {
    let container = Container::load(&context.store, flags.id()?)?;
    let task = container.running()?;
    let content = |text: String| CommandError::Content { path: "resources".to_owned(), text };
    let resources: LinuxResources = match flags.get("resources") {
        Some(path) => {
            let mut text = String::new();
            let read = if path == "-" {
                std::io::stdin().read_to_string(&mut text)
            } else {
                std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
            };
            read.map_err(|source| CommandError::File {
                action: "read",
                path: path.to_owned(),
                source,
            })?;
            serde_json::from_str(&text).map_err(|e| content(e.to_string()))?
        }
        None => {
            let json = serde_json::json!({
                "memory": {
                    "limit": flags.number::<i64>("memory")?,
                    "reservation": flags.number::<i64>("memory-reservation")?,
                    "swap": flags.number::<i64>("memory-swap")?,
                },
                "cpu": {
                    "shares": flags.number::<u64>("cpu-shares")?,
                    "quota": flags.number::<i64>("cpu-quota")?,
                    "period": flags.number::<u64>("cpu-period")?,
                    "burst": flags.number::<u64>("cpu-burst")?,
                    "idle": flags.number::<i64>("cpu-idle")?,
                    "cpus": flags.get("cpuset-cpus"),
                    "mems": flags.get("cpuset-mems"),
                },
                "pids": flags.number::<i64>("pids-limit")?.map(|n| serde_json::json!({"limit": n})),
                "blockIO": {"weight": flags.number::<u16>("blkio-weight")?},
            });
            serde_json::from_value(json).map_err(|e| content(e.to_string()))?
        }
    };
    task.update(&resources)?;
    Ok(0)
}

fn events(context: &Context<'_>, flags: &Parsed) -> Result<i32, CommandError> {
    let container = Container::load(&context.store, flags.id()?)?;
    let task = container.running()?;
    let id = &container.record.id;
    let print = || report::print(&report::stats(id, container.record.task.cgroup()).to_string());
    if flags.has("stats") {
        print();
        return Ok(0);
    }
    let text = flags.get("interval").unwrap_or("5s");
    let interval =
        seconds(text).ok_or_else(|| CommandError::Usage(format!("invalid interval {text:?}")))?;
    let mut kills = task.oom_kills()?;
    let mut next = Instant::now() + interval;
    // OOM kills are looked for more often than figures are printed.
    while !crate::sys::process::pidfd_ended(task.pidfd.as_fd(), Duration::from_millis(200))
        .step(|| "wait for the container")?
    {
        let now = task.oom_kills()?;
        if now > kills {
            report::print(&serde_json::json!({"type": "oom", "id": id}).to_string());
            kills = now;
        }
        if Instant::now() >= next {
            print();
            next += interval;
        }
    }
    Ok(0)
}

fn seconds(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic())?);
    let number: f64 = number.parse().ok()?;
    let factor = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        _ => return None,
    };
    let duration = Duration::try_from_secs_f64(number * factor).ok()?;
    (!duration.is_zero()).then_some(duration)
}
