//! `update`: limits of a container that runs, by a file or by flags.

use std::io::Read;

use crate::spec::LinuxResources;
use serde_json::json;

use super::CommandError;
use super::args::Parsed;
use super::commands::Context;
use super::container::Container;
use crate::flow::rdt;

pub(crate) fn update(context: &Context<'_>, flags: &Parsed) -> Result<i32, CommandError> {
    let container = Container::load(&context.store, flags.id()?)?;
    let task = container.running()?;
    let schemata = schemata(flags)?;
    let rdt = match schemata.is_empty() {
        true => None,
        // Before anything is changed: nothing is done by half where there is no resctrl.
        false => Some(rdt::find()?),
    };
    let resources = match flags.text("resources") {
        Some(path) => read(path)?,
        None => of_flags(flags)?,
    };
    if resources.memory().as_ref().is_some_and(|memory| memory.kernel().is_some()) {
        context.log.warn("Kernel memory settings are ignored and will be removed");
    }
    task.update(&resources)?;
    if let Some(top) = rdt {
        let spec = context.store.config(flags.id()?)?;
        let plan = spec.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref());
        let plan = plan.map(crate::logic::rdt::parse).transpose()?;
        rdt::update(&top, plan.as_ref(), flags.id()?, &schemata)?;
    }
    Ok(0)
}

/// Lines for the container's group in resctrl.
fn schemata(flags: &Parsed) -> Result<Vec<&str>, CommandError> {
    let mut all = Vec::new();
    for (flag, start) in [("l3-cache-schema", "L3"), ("mem-bw-schema", "MB:")] {
        let Some(line) = flags.text(flag).filter(|line| !line.is_empty()) else { continue };
        if line.contains('\n') || !line.starts_with(start) {
            let text = format!("--{flag} must be one line that begins with {start}");
            return Err(CommandError::Usage(text));
        }
        all.push(line);
    }
    Ok(all)
}

fn read(path: &str) -> Result<LinuxResources, CommandError> {
    let mut bytes = Vec::new();
    let read = match path {
        "-" => std::io::stdin().read_to_end(&mut bytes),
        _ => std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)),
    };
    read.map_err(|source| CommandError::File { action: "read", path: path.to_owned(), source })?;
    Ok(LinuxResources::parse(&bytes)?)
}

fn of_flags(flags: &Parsed) -> Result<LinuxResources, CommandError> {
    let pids = flags.number::<i64>("pids-limit")?;
    let mut value = json!({
        "memory": {
            "limit": flags.bytes("memory")?,
            "reservation": flags.bytes("memory-reservation")?,
            "swap": flags.bytes("memory-swap")?,
            "kernel": flags.bytes("kernel-memory")?,
            "kernelTCP": flags.bytes("kernel-memory-tcp")?,
        },
        "cpu": {
            "shares": flags.number::<u64>("cpu-share")?,
            "quota": flags.number::<i64>("cpu-quota")?,
            "period": flags.number::<u64>("cpu-period")?,
            "burst": flags.number::<u64>("cpu-burst")?,
            "realtimePeriod": flags.number::<u64>("cpu-rt-period")?,
            "realtimeRuntime": flags.number::<i64>("cpu-rt-runtime")?,
            "idle": flags.number::<i64>("cpu-idle")?,
            "cpus": flags.text("cpuset-cpus"),
            "mems": flags.text("cpuset-mems"),
        },
        "blockIO": {"weight": flags.number::<u16>("blkio-weight")?},
    });
    if let Some(limit) = pids {
        value["pids"] = json!({"limit": limit});
    }
    Ok(LinuxResources::parse(value.to_string().as_bytes())?)
}
