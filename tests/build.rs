//! Compiles the part of containerd's API that the benchmark drives.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=protos");
    println!("cargo::rerun-if-changed=build.rs");
    let files = ["containers", "snapshots", "tasks"].map(|f| format!("containerd/{f}.proto"));
    let fds = protox::compile(files, ["protos"])?;
    tonic_prost_build::configure().build_server(false).compile_fds(fds)?;
    Ok(())
}
