//! containerd's Task service, version 2 and 3: requests to calls of the flow, and back.

use std::path::PathBuf;

use prost::Message as _;
use prost_types::Any;
use wharf_proto::containerd::runc::v1::{CheckpointOptions, ProcessDetails};
use wharf_proto::containerd::v1::types::ProcessInfo;
use wharf_proto::task as wire;
use wharf_proto::ttrpc::Request;

use super::create_options;
use super::metrics::metrics;
use super::server::{Form, Reply};
use super::status::{EdgeError, timestamp};
use crate::flow::{
    AddExec, Checkpoint, CreateTask, Force, Foreign, Mount, Reach, Restore, Shim, Switch, Ticket,
    Uris,
};
use crate::logic::ids::{ExecId, ProcessRef, TaskId};
use crate::logic::process::State;

pub(crate) fn call(request: &Request, ticket: Ticket, shim: &mut Shim) -> Result<Reply, EdgeError> {
    let payload = request.payload.as_slice();
    let answer = match request.method.as_str() {
        "State" => state(payload, shim)?,
        "Create" => create(payload, shim)?,
        "Start" => {
            let asked = wire::StartRequest::decode(payload)?;
            let pid = shim.start(&ProcessRef::parse(&asked.id, &asked.exec_id)?)?;
            wire::StartResponse { pid: unsigned(pid) }.encode_to_vec()
        }
        "Delete" => {
            let asked = wire::DeleteRequest::decode(payload)?;
            let exit = shim.delete(&ProcessRef::parse(&asked.id, &asked.exec_id)?)?;
            wire::DeleteResponse {
                pid: exit.pid,
                exit_status: exit.exit_code,
                exited_at: Some(timestamp(exit.exited_at_unix_ns)),
            }
            .encode_to_vec()
        }
        "Exec" => exec(payload, shim)?,
        "Kill" => {
            let asked = wire::KillRequest::decode(payload)?;
            let of = ProcessRef::parse(&asked.id, &asked.exec_id)?;
            shim.kill(&of, asked.signal, if asked.all { Reach::All } else { Reach::One })?;
            Vec::new()
        }
        "Wait" => {
            let asked = wire::WaitRequest::decode(payload)?;
            shim.wait(&ProcessRef::parse(&asked.id, &asked.exec_id)?, ticket)?;
            return Ok(Reply::Later(Form::Wait));
        }
        method => inside(method, payload, shim)?,
    };
    Ok(Reply::Now(answer))
}

/// What reaches into a container that is there.
fn inside(method: &str, payload: &[u8], shim: &mut Shim) -> Result<Vec<u8>, EdgeError> {
    match method {
        "Pids" => pids(payload, shim),
        "Pause" => {
            shim.pause(&TaskId::parse(&wire::PauseRequest::decode(payload)?.id)?)?;
            Ok(Vec::new())
        }
        "Resume" => {
            shim.resume(Some(&TaskId::parse(&wire::ResumeRequest::decode(payload)?.id)?))?;
            Ok(Vec::new())
        }
        "ResizePty" => {
            let asked = wire::ResizePtyRequest::decode(payload)?;
            let of = ProcessRef::parse(&asked.id, &asked.exec_id)?;
            shim.resize(&of, asked.width, asked.height)?;
            Ok(Vec::new())
        }
        "CloseIO" => {
            let asked = wire::CloseIoRequest::decode(payload)?;
            if asked.stdin {
                shim.close_stdin(&ProcessRef::parse(&asked.id, &asked.exec_id)?)?;
            }
            Ok(Vec::new())
        }
        "Update" => {
            let asked = wire::UpdateTaskRequest::decode(payload)?;
            let resources = asked.resources.unwrap_or_default();
            shim.update(&TaskId::parse(&asked.id)?, &resources.value)?;
            Ok(Vec::new())
        }
        "Stats" => {
            let asked = wire::StatsRequest::decode(payload)?;
            let cgroup = shim.cgroup(&TaskId::parse(&asked.id)?)?;
            Ok(wire::StatsResponse { stats: Some(metrics(&cgroup)) }.encode_to_vec())
        }
        "Checkpoint" => checkpoint(payload, shim),
        "Connect" => {
            wire::ConnectRequest::decode(payload)?;
            Ok(wire::ConnectResponse {
                shim_pid: std::process::id(),
                task_pid: unsigned(shim.init_pid()),
                version: env!("CARGO_PKG_VERSION").to_owned(),
            }
            .encode_to_vec())
        }
        "Shutdown" => {
            let asked = wire::ShutdownRequest::decode(payload)?;
            shim.shutdown(if asked.now { Force::Yes } else { Force::No });
            Ok(Vec::new())
        }
        other => Err(EdgeError::Method(other.to_owned())),
    }
}

fn create(payload: &[u8], shim: &mut Shim) -> Result<Vec<u8>, EdgeError> {
    let asked = wire::CreateTaskRequest::decode(payload)?;
    if !asked.parent_checkpoint.is_empty() {
        // Nothing that makes checkpoints here makes one of parts.
        return Err(EdgeError::FromParts);
    }
    let options = create_options::parse(asked.options.as_ref())?;
    let bundle = PathBuf::from(&asked.bundle);
    if !bundle.is_absolute() {
        return Err(EdgeError::Bundle(asked.bundle));
    }
    let image = (!asked.checkpoint.is_empty()).then(|| PathBuf::from(asked.checkpoint));
    let restore =
        image.or(options.criu_image).map(|image| Restore { image, work: options.criu_work });
    let foreign = match (options.foreign, &restore) {
        (None, Some(_)) => Some(Foreign { criu: options.criu.clone(), ..Foreign::own() }),
        (foreign, _) => foreign,
    };
    let rootfs = asked.rootfs.into_iter().map(|mount| Mount {
        kind: mount.r#type,
        source: mount.source,
        target: mount.target,
        options: mount.options,
    });
    let pid = shim.create(&CreateTask {
        id: TaskId::parse(&asked.id)?,
        bundle,
        rootfs: rootfs.collect(),
        terminal: asked.terminal,
        uris: Uris { stdin: asked.stdin, stdout: asked.stdout, stderr: asked.stderr },
        options: options.wharf,
        owner: options.owner,
        foreign,
        restore,
        criu: options.criu,
        shim_cgroup: options.shim_cgroup,
    })?;
    Ok(wire::CreateTaskResponse { pid: unsigned(pid) }.encode_to_vec())
}

fn checkpoint(payload: &[u8], shim: &mut Shim) -> Result<Vec<u8>, EdgeError> {
    let asked = wire::CheckpointTaskRequest::decode(payload)?;
    let options = match &asked.options {
        // Of another shim's they mean nothing here.
        Some(any) if any.type_url.ends_with("containerd.runc.v1.CheckpointOptions") => {
            CheckpointOptions::decode(any.value.as_slice())?
        }
        Some(_) | None => CheckpointOptions::default(),
    };
    let image = if asked.path.is_empty() { options.image_path } else { asked.path };
    let image = PathBuf::from(image);
    if !image.is_absolute() {
        return Err(EdgeError::Image(image));
    }
    let switches = [
        (options.open_tcp, Switch::OpenTcp),
        (options.external_unix_sockets, Switch::ExternalUnixSockets),
        (options.terminal, Switch::Terminal),
        (options.file_locks, Switch::FileLocks),
        (!options.exit, Switch::KeepRunning),
    ];
    let wanted = switches.into_iter().filter_map(|(wanted, switch)| wanted.then_some(switch));
    let work = (!options.work_path.is_empty()).then(|| PathBuf::from(options.work_path));
    shim.checkpoint(
        &TaskId::parse(&asked.id)?,
        &Checkpoint {
            image,
            work,
            switches: wanted.collect(),
            empty_namespaces: options.empty_namespaces,
            cgroups_mode: options.cgroups_mode,
        },
    )?;
    Ok(Vec::new())
}

fn exec(payload: &[u8], shim: &mut Shim) -> Result<Vec<u8>, EdgeError> {
    let asked = wire::ExecProcessRequest::decode(payload)?;
    shim.add_exec(AddExec {
        task: TaskId::parse(&asked.id)?,
        exec: ExecId::parse(&asked.exec_id)?,
        terminal: asked.terminal,
        uris: Uris { stdin: asked.stdin, stdout: asked.stdout, stderr: asked.stderr },
        process: asked.spec.unwrap_or_default().value,
    })?;
    Ok(Vec::new())
}

fn state(payload: &[u8], shim: &Shim) -> Result<Vec<u8>, EdgeError> {
    let asked = wire::StateRequest::decode(payload)?;
    let found = shim.describe(&ProcessRef::parse(&asked.id, &asked.exec_id)?)?;
    let status = match found.state {
        State::Created => wire::Status::Created,
        State::Running => wire::Status::Running,
        State::Paused => wire::Status::Paused,
        State::Stopped | State::Deleted => wire::Status::Stopped,
    };
    Ok(wire::StateResponse {
        id: asked.id,
        bundle: found.bundle.display().to_string(),
        pid: unsigned(found.pid),
        status: status.into(),
        stdin: found.uris.stdin,
        stdout: found.uris.stdout,
        stderr: found.uris.stderr,
        terminal: found.terminal,
        exit_status: found.exit.map_or(0, |exit| exit.exit_code),
        exited_at: found.exit.map(|exit| timestamp(exit.exited_at_unix_ns)),
        exec_id: asked.exec_id,
    }
    .encode_to_vec())
}

fn pids(payload: &[u8], shim: &Shim) -> Result<Vec<u8>, EdgeError> {
    let asked = wire::PidsRequest::decode(payload)?;
    let pids = shim.pids(&TaskId::parse(&asked.id)?)?;
    let processes = pids
        .into_iter()
        .map(|(pid, exec)| ProcessInfo {
            pid: unsigned(pid),
            info: exec.map(|exec_id| Any {
                type_url: "containerd.runc.v1.ProcessDetails".to_owned(),
                value: ProcessDetails { exec_id }.encode_to_vec(),
            }),
        })
        .collect();
    Ok(wire::PidsResponse { processes }.encode_to_vec())
}

/// Pids are positive; 0 says that there is none.
fn unsigned(pid: i32) -> u32 {
    u32::try_from(pid).unwrap_or(0)
}
