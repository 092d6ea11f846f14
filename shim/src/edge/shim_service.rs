//! Wharf's own service, `wharf.shim.v1.Shim`.

use std::time::Duration;

use prost::Message as _;
use wharf_proto::shim as wire;
use wharf_proto::task;
use wharf_proto::ttrpc::Request;

use super::server::{Form, Reply};
use super::status::{EdgeError, exit_record, timestamp};
use crate::flow::{Outcome, ReadOutput, Shim, Ticket};
use crate::logic::ids::ProcessRef;
use crate::logic::lines::Stream;

pub(crate) fn call(request: &Request, ticket: Ticket, shim: &mut Shim) -> Result<Reply, EdgeError> {
    let payload = request.payload.as_slice();
    match request.method.as_str() {
        "Info" => {
            wire::InfoRequest::decode(payload)?;
            let info = shim.info();
            let answer = wire::InfoResponse {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                shim_pid: std::process::id(),
                init_start_ticks: info.init_start_ticks,
                init_pid: u32::try_from(info.init_pid).unwrap_or(0),
                log_bytes_dropped: info.log_bytes_dropped,
                exec_ids: shim.exec_ids(),
                adopted: info.adopted,
                log_blocked: info.log_blocked,
            };
            Ok(Reply::Now(answer.encode_to_vec()))
        }
        "WriteStdin" => {
            let asked = wire::WriteStdinRequest::decode(payload)?;
            let of = ProcessRef::of_only_task(&asked.exec_id)?;
            shim.write_stdin(&of, asked.data, ticket)?;
            Ok(Reply::Later(Form::Empty))
        }
        "ReadOutput" => {
            let asked = wire::ReadOutputRequest::decode(payload)?;
            let of = ProcessRef::of_only_task(&asked.exec_id)?;
            let within = u64::try_from(request.timeout_nano).ok().filter(|&ns| ns > 0);
            let read = ReadOutput {
                of,
                offset: asked.offset,
                release_below: asked.release_below,
                max_bytes: usize::try_from(asked.max_bytes).unwrap_or(0),
                within: within.map(Duration::from_nanos),
            };
            shim.read_output(&read, ticket)?;
            Ok(Reply::Later(Form::Output))
        }
        "WaitExit" => {
            let asked = wire::WaitExitRequest::decode(payload)?;
            shim.wait(&ProcessRef::of_only_task(&asked.exec_id)?, ticket)?;
            Ok(Reply::Later(Form::WaitExit))
        }
        "Upgrade" => {
            let asked = wire::UpgradeRequest::decode(payload)?;
            if !asked.binary.starts_with('/') {
                return Err(EdgeError::Binary(asked.binary));
            }
            shim.may_hand_over()?;
            shim.upgrade = Some((asked.binary.into(), ticket));
            Ok(Reply::Later(Form::Empty))
        }
        "Keep" => {
            wire::KeepRequest::decode(payload)?;
            shim.is_kept_stale = true;
            Ok(Reply::Keep)
        }
        "ReopenLog" => {
            wire::ReopenLogRequest::decode(payload)?;
            shim.reopen_log()?;
            Ok(Reply::Now(Vec::new()))
        }
        other => Err(EdgeError::Method(other.to_owned())),
    }
}

/// A late answer as its message.
pub(crate) fn encode(form: Form, outcome: Outcome) -> Vec<u8> {
    match (form, outcome) {
        (Form::Wait, Outcome::Exited(exit)) => task::WaitResponse {
            exit_status: exit.exit_code,
            exited_at: Some(timestamp(exit.exited_at_unix_ns)),
        }
        .encode_to_vec(),
        (Form::WaitExit, Outcome::Exited(exit)) => exit_record(&exit).encode_to_vec(),
        (Form::Output, Outcome::Output { chunks, next, is_end }) => {
            let chunks = chunks
                .into_iter()
                .map(|(stream, data)| wire::OutputChunk { stream: number(stream).into(), data })
                .collect();
            wire::ReadOutputResponse { chunks, next_offset: next, eof: is_end }.encode_to_vec()
        }
        // An empty message has no bytes.
        (Form::Empty | Form::Wait | Form::WaitExit | Form::Output, _) => Vec::new(),
    }
}

fn number(stream: Stream) -> wire::output_chunk::Stream {
    match stream {
        Stream::Stdout => wire::output_chunk::Stream::Stdout,
        Stream::Stderr => wire::output_chunk::Stream::Stderr,
    }
}
