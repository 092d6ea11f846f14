//! wharf.v1.System.

use std::io::Read as _;

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use wharf_proto::v1::{
    self, system_server, upgrade_progress::Stage, upgrade_response::Kind as Upgraded,
};

use super::{
    images::image_message,
    status::from_fault,
    translate::{container, duration, namespace, timestamp},
    volumes::volume_message,
};
use crate::services::{
    containers::Containers,
    disk,
    doctor::{Depth, Finding},
    images::Images,
    system::System,
    upgrade::{self, Progress},
    volumes::Volumes,
};

/// The service.
#[derive(Clone, Debug)]
pub struct SystemApi {
    /// What it translates for.
    pub system: System,
    /// Whose figures it tells.
    pub images: Images,
    /// As above.
    pub containers: Containers,
    /// As above.
    pub volumes: Volumes,
    /// What all containers have to end in, if the caller does not say.
    pub shutdown_timeout: Duration,
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

impl SystemApi {
    fn usage_message(&self, usage: disk::DiskUsage) -> v1::DiskUsageResponse {
        let images = usage.images.images.iter().map(|one| v1::ImageDiskUsage {
            image: Some(image_message(&one.image)),
            shared_bytes: one.shared_bytes,
            unique_bytes: one.unique_bytes,
            in_use: one.in_use,
        });
        let containers = usage.containers.iter().map(|(record, usage)| v1::ContainerDiskUsage {
            container: Some(container(&self.containers, record)),
            bytes: usage.bytes,
            inodes: usage.inodes,
        });
        let volumes = usage.volumes.into_iter().map(|(volume, used_by, usage)| {
            let mut message = volume_message(&self.volumes, &volume);
            message.used_by = used_by;
            let (bytes, inodes) = (usage.bytes, usage.inodes);
            v1::VolumeDiskUsage { volume: Some(message), bytes, inodes }
        });
        v1::DiskUsageResponse {
            images: images.collect(),
            containers: containers.collect(),
            volumes: volumes.collect(),
            images_bytes: usage.images.total_bytes,
            images_reclaimable_bytes: usage.images.reclaimable_bytes,
        }
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

    async fn disk_usage(
        &self,
        request: Request<v1::DiskUsageRequest>,
    ) -> Result<Response<v1::DiskUsageResponse>, Status> {
        let namespace = namespace(&request)?;
        let (images, containers, volumes) =
            (self.images.clone(), self.containers.clone(), self.volumes.clone());
        let measured = tokio::task::spawn_blocking(move || {
            disk::measure(&namespace, &images, &containers, &volumes)
        });
        let usage = measured
            .await
            .map_err(|e| Status::internal(e.to_string()))?
            .map_err(|e| from_fault(&e))?;
        Ok(Response::new(self.usage_message(usage)))
    }

    async fn shutdown(
        &self,
        request: Request<v1::ShutdownRequest>,
    ) -> Result<Response<v1::ShutdownResponse>, Status> {
        let asked = request.into_inner().timeout.map(|time| duration("timeout", time));
        let asked = asked.transpose().map_err(|e| from_fault(&e))?;
        let budget = asked.unwrap_or(self.shutdown_timeout);
        let done = self.containers.shut_down(budget).await;
        Ok(Response::new(v1::ShutdownResponse { stopped: done.stopped, left: done.left }))
    }

    async fn collect(
        &self,
        _: Request<v1::CollectRequest>,
    ) -> Result<Response<v1::PruneResponse>, Status> {
        let collected = self.images.collect().await.map_err(|e| from_fault(&e))?;
        let deleted = collected.blobs.iter().chain(&collected.layers).map(ToString::to_string);
        Ok(Response::new(v1::PruneResponse {
            deleted: deleted.collect(),
            untagged: Vec::new(),
            reclaimed_bytes: collected.bytes,
        }))
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
            snapshotter: info.snapshotter.into(),
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

    async fn doctor(
        &self,
        request: Request<v1::DoctorRequest>,
    ) -> Result<Response<v1::DoctorResponse>, Status> {
        let v1::DoctorRequest { repair, deep } = request.into_inner();
        let depth = if deep { Depth::Bytes } else { Depth::Names };
        let report = self.system.examine(depth, repair).await.map_err(|e| from_fault(&e))?;
        let mut response = v1::DoctorResponse {
            findings: report.findings.iter().map(finding).collect(),
            settled: u32::try_from(report.settled).unwrap_or(u32::MAX),
            ..Default::default()
        };
        for repaired in &report.repaired {
            let message = finding(&repaired.finding);
            match &repaired.problem {
                None => response.repaired.push(message),
                Some(remedy) => {
                    response.failed.push(v1::Finding { remedy: remedy.clone(), ..message });
                }
            }
        }
        Ok(Response::new(response))
    }

    type BackupStream = ReceiverStream<Result<v1::BackupResponse, Status>>;

    async fn backup(
        &self,
        _: Request<v1::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let (sender, receiver) = mpsc::channel(4);
        let system = self.system.clone();
        // Ends with the file, or with the caller.
        tokio::task::spawn_blocking(move || match system.backup() {
            Ok(file) => send_pieces(file, &sender),
            Err(error) => drop(sender.blocking_send(Err(from_fault(&error)))),
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    type UpgradeStream = ReceiverStream<Result<v1::UpgradeResponse, Status>>;

    async fn upgrade(
        &self,
        request: Request<v1::UpgradeRequest>,
    ) -> Result<Response<Self::UpgradeStream>, Status> {
        let v1::UpgradeRequest { binary, upgrade_id, resume } = request.into_inner();
        let (sender, receiver) = mpsc::channel(1);
        let upgrades = self.system.upgrades();
        if resume {
            let outcome = upgrades.outcome(&upgrade_id).map_err(|e| from_fault(&e))?;
            let done = Upgraded::Done(v1::UpgradeDone {
                pid: std::process::id(),
                version: env!("CARGO_PKG_VERSION").into(),
                old_pid: outcome.old_pid,
                old_version: outcome.old_version,
            });
            // The channel is empty and its other end is here.
            let _ = sender.try_send(Ok(v1::UpgradeResponse { kind: Some(done) }));
            return Ok(Response::new(ReceiverStream::new(receiver)));
        }
        let binary = (!binary.is_empty()).then(|| binary.into());
        let steps = upgrades.begin(binary, upgrade_id).map_err(|e| from_fault(&e))?;
        // Ends with the upgrade, or with the caller.
        tokio::spawn(tell_steps(steps, sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// Bytes of one message of a backup.
const PIECE: usize = 64 << 10;

fn finding(found: &Finding) -> v1::Finding {
    v1::Finding {
        kind: found.subject.to_string(),
        what: found.what.clone(),
        problem: found.problem.clone(),
        remedy: found.remedy.clone(),
        repairable: found.is_repairable(),
    }
}

/// Sends a file on, until its end or until nobody wants it. Blocks.
fn send_pieces(mut file: std::fs::File, sender: &mpsc::Sender<Result<v1::BackupResponse, Status>>) {
    loop {
        let mut data = vec![0; PIECE];
        let read = match file.read(&mut data) {
            Ok(0) => return,
            Ok(read) => read,
            Err(error) => {
                let _ = sender.blocking_send(Err(Status::internal(error.to_string())));
                return;
            }
        };
        data.truncate(read);
        if sender.blocking_send(Ok(v1::BackupResponse { data })).is_err() {
            return;
        }
    }
}

/// The stream stays open after the last step: it breaks with the hand-over.
async fn tell_steps(
    mut steps: mpsc::Receiver<Result<Progress, upgrade::Error>>,
    sender: mpsc::Sender<Result<v1::UpgradeResponse, Status>>,
) {
    while let Some(step) = steps.recv().await {
        let failed = step.is_err();
        if sender.send(step.map(progress).map_err(|e| from_fault(&e))).await.is_err() || failed {
            return;
        }
    }
    sender.closed().await;
}

fn progress(step: Progress) -> v1::UpgradeResponse {
    let (stage, message) = match step {
        Progress::Checking(program) => (Stage::Checking, format!("checking {}", program.display())),
        Progress::Ready { pid, version } => {
            (Stage::Ready, format!("wharfd {version} is ready (pid {pid})"))
        }
        Progress::Draining => (Stage::Draining, "handing over".into()),
    };
    let progress = v1::UpgradeProgress { stage: stage.into(), message };
    v1::UpgradeResponse { kind: Some(Upgraded::Progress(progress)) }
}
