//! Where foreign shims send their events (`TTRPC_ADDRESS`): containerd's ttrpc service Events.
//!
//! Only what no call tells is of interest: that a container ran out of memory.

use std::{fs, io, path::Path};

use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
};
use wharf_proto::{
    containerd::{events::TaskOom, services::events::ttrpc::v1::ForwardRequest},
    google::rpc::Status,
    kind::Kind,
    ttrpc::{FrameType, HEADER_LEN, Header, Request, Response, frame},
};

use super::OutOfMemory;

const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";

/// Listens at `path` from now on.
///
/// # Errors
/// When the socket can't be made.
pub(super) fn serve(path: &Path, out_of_memory: OutOfMemory) -> io::Result<()> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    // The folder is root's alone.
    let listener = UnixListener::bind(&new)?;
    fs::rename(&new, path)?;
    // Ends with the daemon.
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(talk(stream, out_of_memory.clone()))),
                Err(error) => {
                    tracing::warn!(%error, "a shim's events are not taken");
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
            }
        }
    });
    Ok(())
}

/// Ends with the connection.
async fn talk(mut stream: UnixStream, out_of_memory: OutOfMemory) {
    let mut head = [0; HEADER_LEN];
    while stream.read_exact(&mut head).await.is_ok() {
        let Ok(header) = Header::decode(head) else { return };
        let mut data = vec![0; header.len];
        if stream.read_exact(&mut data).await.is_err() {
            return;
        }
        if header.frame_type != FrameType::Request {
            continue;
        }
        let response = match Request::decode(data.as_slice()) {
            Ok(request) if request.service == SERVICE && request.method == "Forward" => {
                take(&request.payload, &out_of_memory);
                Response::default()
            }
            _ => Response {
                status: Some(Status {
                    code: Kind::Unsupported.code(),
                    message: "only events are taken here".into(),
                    details: Vec::new(),
                }),
                ..Default::default()
            },
        };
        let Ok(bytes) = frame(FrameType::Response, header.stream, &response) else { return };
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

fn take(payload: &[u8], out_of_memory: &OutOfMemory) {
    let Some(envelope) = ForwardRequest::decode(payload).ok().and_then(|r| r.envelope) else {
        return;
    };
    if envelope.topic != "/tasks/oom" {
        return;
    }
    if let Some(event) = envelope.event.and_then(|e| TaskOom::decode(e.value.as_slice()).ok()) {
        out_of_memory.seen(&event.container_id);
    }
}
