//! `update`: limits of a container that runs, by a file or by flags.

use std::io::Read;

use crate::spec::LinuxResources;
use serde_json::json;

use super::CommandError;
use super::args::Parsed;
use super::commands::Context;
use super::container::Container;

pub(crate) fn update(context: &Context<'_>, flags: &Parsed) -> Result<i32, CommandError> {
    let container = Container::load(&context.store, flags.id()?)?;
    let task = container.running()?;
    for (flag, what) in
        [("l3-cache-schema", "CAT: l3 cache"), ("mem-bw-schema", "MBA: memory bandwidth")]
    {
        if flags.text(flag).is_some() {
            let what = format!("Intel RDT/{what} schema by update");
            return Err(crate::Error::Unsupported { what }.into());
        }
    }
    let resources = match flags.text("resources") {
        Some(path) => read(path)?,
        None => of_flags(flags)?,
    };
    if resources.memory().as_ref().is_some_and(|memory| memory.kernel().is_some()) {
        context.log.warn("Kernel memory settings are ignored and will be removed");
    }
    task.update(&resources)?;
    Ok(0)
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
