//! Events as containerd's messages and topics.

use prost::Message;
use prost_types::Any;
use wharf_proto::containerd::events as wire;
use wharf_proto::containerd::types::Mount;

use super::status::timestamp;
use crate::flow::{CreatedEvent, Event, Happened};

/// Topic and message.
pub(crate) fn encode(happened: &Happened) -> (&'static str, Any) {
    let container_id = happened.container.clone();
    match &happened.event {
        Event::Created(created) => {
            ("/tasks/create", any("TaskCreate", &task_create(container_id, created)))
        }
        Event::Started { pid } => {
            let event = wire::TaskStart { container_id, pid: unsigned(*pid) };
            ("/tasks/start", any("TaskStart", &event))
        }
        Event::ExecAdded { exec } => {
            let event = wire::TaskExecAdded { container_id, exec_id: exec.clone() };
            ("/tasks/exec-added", any("TaskExecAdded", &event))
        }
        Event::ExecStarted { exec, pid } => {
            let event =
                wire::TaskExecStarted { container_id, exec_id: exec.clone(), pid: unsigned(*pid) };
            ("/tasks/exec-started", any("TaskExecStarted", &event))
        }
        Event::Exited { exec, exit } => {
            let event = wire::TaskExit {
                // The init has its container's id here.
                id: exec.clone().unwrap_or_else(|| container_id.clone()),
                container_id,
                pid: exit.pid,
                exit_status: exit.exit_code,
                exited_at: Some(timestamp(exit.exited_at_unix_ns)),
            };
            ("/tasks/exit", any("TaskExit", &event))
        }
        Event::Deleted { exec, exit } => {
            let event = wire::TaskDelete {
                container_id,
                pid: exit.pid,
                exit_status: exit.exit_code,
                exited_at: Some(timestamp(exit.exited_at_unix_ns)),
                id: exec.clone().unwrap_or_default(),
            };
            ("/tasks/delete", any("TaskDelete", &event))
        }
        Event::OutOfMemory => ("/tasks/oom", any("TaskOOM", &wire::TaskOom { container_id })),
        Event::Paused => ("/tasks/paused", any("TaskPaused", &wire::TaskPaused { container_id })),
        Event::Resumed => {
            ("/tasks/resumed", any("TaskResumed", &wire::TaskResumed { container_id }))
        }
        Event::Checkpointed { image } => {
            let checkpoint = image.display().to_string();
            let event = wire::TaskCheckpointed { container_id, checkpoint };
            ("/tasks/checkpointed", any("TaskCheckpointed", &event))
        }
    }
}

fn any(name: &str, message: &impl Message) -> Any {
    Any { type_url: format!("containerd.events.{name}"), value: message.encode_to_vec() }
}

fn task_create(container_id: String, created: &CreatedEvent) -> wire::TaskCreate {
    let rootfs = created.rootfs.iter().map(|mount| Mount {
        r#type: mount.kind.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
    });
    wire::TaskCreate {
        container_id,
        bundle: created.bundle.display().to_string(),
        rootfs: rootfs.collect(),
        io: Some(wire::TaskIo {
            stdin: created.uris.stdin.clone(),
            stdout: created.uris.stdout.clone(),
            stderr: created.uris.stderr.clone(),
            terminal: created.terminal,
        }),
        checkpoint: created
            .checkpoint
            .as_ref()
            .map_or_else(String::new, |path| path.display().to_string()),
        pid: unsigned(created.pid),
    }
}

fn unsigned(pid: i32) -> u32 {
    u32::try_from(pid).unwrap_or(0)
}
