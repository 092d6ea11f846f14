//! wharf.v1.System.

use tonic::{Request, Response, Status};
use wharf_proto::v1::{self, system_server};

use super::translate::timestamp;
use crate::services::system::System;

/// The service.
#[derive(Clone, Debug)]
pub struct SystemApi {
    /// What it translates for.
    pub system: System,
}

fn version(system: &System) -> v1::VersionResponse {
    let version = system.version();
    v1::VersionResponse {
        version: version.version.into(),
        api_version: "wharf.v1".into(),
        git_commit: version.git_commit.into(),
        rust_version: version.rust_version.into(),
        os: std::env::consts::OS.into(),
        arch: std::env::consts::ARCH.into(),
        kernel_version: version.kernel_version,
    }
}

#[tonic::async_trait]
impl system_server::System for SystemApi {
    async fn version(
        &self,
        _: Request<v1::VersionRequest>,
    ) -> Result<Response<v1::VersionResponse>, Status> {
        Ok(Response::new(version(&self.system)))
    }

    async fn info(
        &self,
        _: Request<v1::InfoRequest>,
    ) -> Result<Response<v1::InfoResponse>, Status> {
        let info = self.system.info();
        let number = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        Ok(Response::new(v1::InfoResponse {
            version: Some(version(&self.system)),
            pid: std::process::id(),
            started_at: Some(timestamp(info.started_unix_ns)),
            root_dir: info.root.display().to_string(),
            state_dir: info.state.display().to_string(),
            cgroup_version: info.cgroups.as_str().into(),
            snapshotter: "overlay".into(),
            default_network: info.default_network.to_string(),
            cpus: u32::try_from(info.cpus).unwrap_or(u32::MAX),
            memory_bytes: info.memory_bytes,
            containers: number(info.containers),
            containers_running: number(info.running),
            containers_stopped: number(info.containers - info.running),
            images: number(info.images),
            warnings: info.warnings,
            hostname: info.hostname,
            shim_path: info.shim.display().to_string(),
        }))
    }
}
