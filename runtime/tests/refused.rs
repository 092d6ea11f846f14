//! Specs that make no sense are refused before anything is made, with the path of the field.
#![allow(clippy::print_stdout)]

mod world;

use std::path::Path;

use serde_json::{Value, json};
use wharf_runtime::spec::Spec;
use wharf_runtime::{CreateRequest, Rootfs, Stdio};
use world::{Check, World};

fn main() {
    world::main(&[
        ("every_field_is_named", every_field_is_named),
        ("text_that_is_no_spec", text_that_is_no_spec),
    ]);
}

/// What is set (by a path with dots), to what, and the field that the error must name.
fn table() -> Vec<(&'static str, Value, &'static str)> {
    let map =
        |from: u32, to: u32, size: u32| json!({"containerID": from, "hostID": to, "size": size});
    vec![
        ("ociVersion", json!("1"), "ociVersion"),
        ("ociVersion", json!("2.0.0"), "ociVersion"),
        ("ociVersion", json!("1.4.0"), "ociVersion"),
        ("ociVersion", json!("0.9.0"), "ociVersion"),
        ("ociVersion", json!("one"), "ociVersion"),
        ("ociVersion", json!(1.0), "ociVersion"),
        ("root", json!({"path": "nowhere"}), "root.path"),
        ("root", json!({"path": "/"}), "root.path"),
        ("root", json!({}), "root.path"),
        ("process", Value::Null, "process"),
        ("process.args", json!([]), "process.args"),
        ("process.args", json!(["a\u{0}b"]), "process.args"),
        ("process.cwd", json!("relative"), "process.cwd"),
        ("process.env", json!(["no equals sign"]), "process.env"),
        ("process.user.uid", json!(-1), "process.user.uid"),
        ("process.capabilities.bounding", json!(["CAP_FLY"]), "process.capabilities.bounding[0]"),
        (
            "process.rlimits",
            json!([{"type": "RLIMIT_WINGS", "soft": 1, "hard": 1}]),
            "process.rlimits[0].type",
        ),
        (
            "process.rlimits",
            json!([{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}]),
            "process.rlimits[0]",
        ),
        (
            "process.ioPriority",
            json!({"class": "IOPRIO_CLASS_BE", "priority": 8}),
            "process.ioPriority.priority",
        ),
        ("process.scheduler", json!({"policy": "SCHED_FIFO"}), "process.scheduler.priority"),
        (
            "process.scheduler",
            json!({"policy": "SCHED_OTHER", "nice": 20}),
            "process.scheduler.nice",
        ),
        (
            "process.scheduler",
            json!({"policy": "SCHED_OTHER", "runtime": 5}),
            "process.scheduler.runtime",
        ),
        ("process.scheduler", json!({"policy": "SCHED_WISHFUL"}), "process.scheduler.policy"),
        ("process.execCPUAffinity", json!({"initial": "3-1"}), "process.execCPUAffinity.initial"),
        ("process.execCPUAffinity", json!({"final": "all"}), "process.execCPUAffinity.final"),
        (
            "linux.namespaces",
            json!([{"type": "mount"}, {"type": "holiday"}]),
            "linux.namespaces[1].type",
        ),
        (
            "linux.namespaces",
            json!([{"type": "mount"}, {"type": "uts"}, {"type": "mount"}]),
            "linux.namespaces[2]",
        ),
        ("linux.namespaces", json!([{"type": "mount", "path": "ns/mnt"}]), "linux.namespaces[0]"),
        (
            "linux.namespaces",
            json!([{"type": "mount"}, {"type": "ipc", "path": "/no/such"}, {"type": "uts"}]),
            "linux.namespaces",
        ),
        ("linux.uidMappings", json!([map(0, 0, 1)]), "linux.uidMappings"),
        (
            "mounts",
            json!([{"destination": "/a", "options": ["bind"], "source": "/no/such/source"}]),
            "mounts[0].source",
        ),
        ("mounts", json!([{"destination": "/a", "options": ["bind"]}]), "mounts[0].source"),
        ("mounts", json!([{"destination": "/a"}]), "mounts[0].type"),
        ("mounts", json!([{"destination": "/a/../b", "type": "tmpfs"}]), "mounts[0].destination"),
        ("mounts", json!([{"destination": "/", "type": "tmpfs"}]), "mounts[0].destination"),
        ("mounts", json!([{"type": "tmpfs"}]), "mounts[0].destination"),
        (
            "mounts",
            json!([{"destination": "/a", "source": "/tmp", "options": ["bind", "size=1"]}]),
            "mounts[0].options",
        ),
        (
            "mounts",
            json!([{"destination": "/a", "source": "/tmp", "options": ["bind", "tmpcopyup"]}]),
            "mounts[0].options",
        ),
        (
            "mounts",
            json!([{"destination": "/a", "source": "/tmp", "options": ["bind", "idmap"]}]),
            "mounts[0].options",
        ),
        (
            "mounts",
            json!([{"destination": "/a", "type": "tmpfs", "uidMappings": [map(0, 1, 1)], "gidMappings": [map(0, 1, 1)]}]),
            "mounts[0].options",
        ),
        (
            "mounts",
            json!([{"destination": "/a", "source": "/tmp", "options": ["bind"], "uidMappings": [map(0, 1, 1)]}]),
            "mounts[0].gidMappings",
        ),
        (
            "mounts",
            json!([{"destination": "/a", "source": "/tmp", "options": ["bind"], "uidMappings": [map(0, 1, 2), map(1, 9, 2)], "gidMappings": [map(0, 1, 1)]}]),
            "mounts[0].uidMappings[1]",
        ),
        ("hooks.prestart", json!([{"path": "relative"}]), "hooks.prestart[0].path"),
        ("hooks.poststop", json!([{"path": "/a", "timeout": 0}]), "hooks.poststop[0].timeout"),
        (
            "linux.seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read", "raed"], "action": "SCMP_ACT_LOG"}]}),
            "linux.seccomp.syscalls[0].names[1]",
        ),
        (
            "linux.seccomp",
            json!({"defaultAction": "SCMP_ACT_SHRUG"}),
            "linux.seccomp.defaultAction",
        ),
        (
            "linux.seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 5}),
            "linux.seccomp.defaultErrnoRet",
        ),
        (
            "linux.seccomp",
            json!({"defaultAction": "SCMP_ACT_NOTIFY"}),
            "linux.seccomp.listenerPath",
        ),
        (
            "linux.seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SOME"]}),
            "linux.seccomp.flags[0]",
        ),
        ("linux.sysctl", json!({"kernel.panic": "1"}), "linux.sysctl[\"kernel.panic\"]"),
        ("linux.maskedPaths", json!(["proc/kcore"]), "linux.maskedPaths[0]"),
        ("linux.readonlyPaths", json!(["proc"]), "linux.readonlyPaths[0]"),
        ("linux.rootfsPropagation", json!("viral"), "linux.rootfsPropagation"),
        ("linux.devices", json!([{"path": "/dev/x", "type": "q"}]), "linux.devices[0].type"),
        ("linux.devices", json!([{"path": "dev/x", "type": "c"}]), "linux.devices[0]"),
        (
            "linux.personality",
            json!({"domain": "LINUX", "flags": ["x"]}),
            "linux.personality.flags[0]",
        ),
        ("linux.personality", json!({"domain": "PLAN9"}), "linux.personality.domain"),
        ("linux.memoryPolicy", json!({"mode": "MPOL_BIND"}), "linux.memoryPolicy.nodes"),
        (
            "linux.memoryPolicy",
            json!({"mode": "MPOL_LOCAL", "nodes": "0"}),
            "linux.memoryPolicy.nodes",
        ),
        (
            "linux.memoryPolicy",
            json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"]}),
            "linux.memoryPolicy.flags",
        ),
        ("linux.timeOffsets", json!({"boottime": {"secs": 1}}), "linux.timeOffsets"),
        ("linux.netDevices", json!({"a/b": {}}), "linux.netDevices[\"a/b\"]"),
        (
            "linux.netDevices",
            json!({"a": {"name": "x"}, "b": {"name": "x"}}),
            "linux.netDevices[\"b\"].name",
        ),
        (
            "linux.netDevices",
            json!({"a": {"name": "a-name-that-is-too-long"}}),
            "linux.netDevices[\"a\"].name",
        ),
        ("linux.intelRdt", json!({"closID": "../x"}), "linux.intelRdt.closID"),
        ("linux.intelRdt", json!({"memBwSchema": "L3:0=1"}), "linux.intelRdt.memBwSchema"),
        ("linux.intelRdt", json!({"enableCMT": true}), "linux.intelRdt.enableCMT"),
        ("linux.cgroupsPath", json!("/../up"), "linux.cgroupsPath"),
        ("linux.resources.memory", json!({"limit": "much"}), "linux.resources.memory.limit"),
        (
            "linux.resources.devices",
            json!([{"allow": true, "access": "xyz"}]),
            "linux.resources.devices[0]",
        ),
        ("hostname", json!("x"), "hostname"),
    ]
}

fn set(spec: &mut Value, path: &str, value: Value) {
    let mut at = spec;
    for part in path.split('.') {
        at = &mut at[part];
    }
    *at = value;
}

fn outcome(w: &World, spec: &Value) -> String {
    let spec = match Spec::parse(spec.to_string().as_bytes()) {
        Ok(spec) => spec,
        Err(error) => return error.to_string(),
    };
    let root = spec.root().as_ref().map_or(Path::new("rootfs"), |root| root.path()).to_owned();
    let created = wharf_runtime::create(CreateRequest {
        id: &w.id,
        bundle: &w.path(""),
        spec: &spec,
        rootfs: Rootfs::Path(&root),
        stdio: Stdio::Inherit,
    });
    match created {
        Err(error) => error.to_string(),
        Ok(created) => {
            let _ = created.task.signal_all(9);
            let _ = world::reap(&created.task);
            let _ = created.task.destroy();
            "it was created".to_owned()
        }
    }
}

fn every_field_is_named() -> Check {
    let w = World::new()?;
    let before: Vec<_> =
        std::fs::read_dir(w.root())?.filter_map(|e| Some(e.ok()?.file_name())).collect();
    let mut wrong = Vec::new();
    for (path, value, field) in table() {
        let mut spec = w.spec.clone();
        if path == "hostname" {
            // A name without a namespace of its own.
            spec["linux"]["namespaces"] = json!([{"type": "mount"}]);
            spec["linux"]["sysctl"] = Value::Null;
        }
        set(&mut spec, path, value.clone());
        let error = outcome(&w, &spec);
        let place = error.strip_prefix("config.json: ").unwrap_or(&error);
        let named = place.strip_prefix(field).is_some_and(|rest| rest.starts_with(':'));
        if !named {
            wrong.push(format!("{path} = {value}: not {field}, but {error}"));
        }
        w.same("cgroup", w.cgroup_exists(), false)?;
    }
    let after: Vec<_> =
        std::fs::read_dir(w.root())?.filter_map(|e| Some(e.ok()?.file_name())).collect();
    w.same("nothing made in the root", after, before)?;
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n        ").into()) }
}

fn text_that_is_no_spec() -> Check {
    for (text, part) in [
        ("", "ends too early"),
        ("{\"ociVersion\":\"1.3.0\"", "ends too early"),
        ("{\"ociVersion\":\"1.3.0\",}", "a key expected"),
        ("{\"ociVersion\":\"1.3.0\",\"ociVersion\":\"1.0.0\"}", "twice"),
        ("[]", "a list is not an object"),
        ("{\"ociVersion\":\"1.3.0\"} x", "after the end"),
    ] {
        match Spec::parse(text.as_bytes()) {
            Err(error) if error.to_string().contains(part) => {}
            other => return Err(format!("{text}: {other:?}").into()),
        }
    }
    Ok(())
}
