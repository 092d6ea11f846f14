//! Compiles the .proto files with protox, so that no protoc is needed.

use std::error::Error;

/// Spoken by shim and supervisor; messages only.
const TTRPC: &[&str] = &[
    "ttrpc/ttrpc.proto",
    "containerd/runtime/task/v3/task.proto",
    "containerd/runc/v1/options.proto",
    "containerd/runtime/bootstrap/bootstrap.proto",
    "containerd/types/introspection.proto",
    "containerd/cgroups/v1.proto",
    "containerd/cgroups/v2.proto",
    "containerd/events/task.proto",
    "containerd/services/ttrpc/events/v1/events.proto",
    "wharf/shim/v1/shim.proto",
];

/// The public API.
#[cfg(feature = "grpc")]
const GRPC: &[&str] = &[
    "wharf/v1/care.proto",
    "wharf/v1/containers.proto",
    "wharf/v1/images.proto",
    "wharf/v1/registries.proto",
    "wharf/v1/events.proto",
    "wharf/v1/system.proto",
    "wharf/v1/volumes.proto",
    "wharf/v1/prune.proto",
    "wharf/v1/files.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=protos");
    let fds = protox::compile(TTRPC, ["protos"])?;
    prost_build::Config::new().compile_fds(fds)?;
    #[cfg(feature = "grpc")]
    grpc()?;
    Ok(())
}

#[cfg(feature = "grpc")]
fn grpc() -> Result<(), Box<dyn Error>> {
    use prost::Message as _;

    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    let fds = protox::compile(GRPC, ["protos"])?;
    // Served by reflection.
    std::fs::write(out.join("wharf_v1.fds"), fds.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(fds)?;
    Ok(())
}
