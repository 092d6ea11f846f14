//! Debian's containerd with runc, on folders of its own, through its gRPC API.

use std::{
    collections::HashMap,
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use prost_types::Any;
use serde_json::Value;
use tempfile::TempDir;
use tonic::{
    Code, Request,
    metadata::AsciiMetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use super::{Caller, Engine, memory, spec};
use crate::{host, image::Image, wait};

/// Generated code keeps its own style.
#[allow(clippy::all, unreachable_pub, missing_debug_implementations)]
mod generated {
    pub mod containerd {
        pub mod bench {
            include!(concat!(env!("OUT_DIR"), "/containerd.bench.rs"));
        }
        pub mod services {
            pub mod containers {
                pub mod v1 {
                    include!(concat!(env!("OUT_DIR"), "/containerd.services.containers.v1.rs"));
                }
            }
            pub mod snapshots {
                pub mod v1 {
                    include!(concat!(env!("OUT_DIR"), "/containerd.services.snapshots.v1.rs"));
                }
            }
            pub mod tasks {
                pub mod v1 {
                    include!(concat!(env!("OUT_DIR"), "/containerd.services.tasks.v1.rs"));
                }
            }
        }
    }
}

use generated::containerd::{
    bench as api,
    services::{
        containers::v1::containers_client::ContainersClient,
        snapshots::v1::snapshots_client::SnapshotsClient, tasks::v1::tasks_client::TasksClient,
    },
};

const NAMESPACE: &str = "bench";
/// Parent of the containers' cgroups.
const CGROUP: &str = "wharf-bench-containerd";
const SNAPSHOTTER: &str = "overlayfs";
/// `containerd.v1.types.Status.RUNNING`
const RUNNING: u32 = 2;

/// Plugins that this work needs nothing of, left out so that containerd is at its lightest.
const CONFIG: &str = r#"
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.native",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]
[debug]
level = "error"
"#;

/// The daemon and its folders.
#[derive(Debug)]
pub struct Containerd {
    folder: TempDir,
    child: Option<Child>,
    /// Chain id of the image's top layer.
    parent: String,
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // Only what `remove` did not get to: the bench failed.
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
        for shim in self.shims() {
            let shim = nix::unistd::Pid::from_raw(shim);
            let _gone = nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

impl Containerd {
    /// Why it can't be measured here, if it can't.
    #[must_use]
    pub fn missing() -> Option<String> {
        ["containerd", "containerd-shim-runc-v2", "ctr", "runc"]
            .into_iter()
            .find(|name| host::tool(name).is_none())
            .map(|name| format!("{name} is not installed (Debian's packages containerd and runc)"))
    }

    /// Folders with a configuration, in `base`.
    ///
    /// # Errors
    /// When they can't be made.
    pub fn new(base: &std::path::Path) -> Result<Self> {
        let folder = TempDir::with_prefix_in("w-ctd-", base).context("make a folder")?;
        let path = folder.path().display();
        let config = format!(
            "version = 2\nroot = \"{path}/root\"\nstate = \"{path}/state\"\n{CONFIG}\n\
             [grpc]\naddress = \"{path}/s.sock\"\n"
        );
        fs::write(folder.path().join("config.toml"), config).context("write a configuration")?;
        Ok(Self { folder, child: None, parent: String::new() })
    }

    /// Loads an image of one layer with `ctr`.
    ///
    /// # Errors
    /// When ctr fails.
    pub fn import(&mut self, image: &Image) -> Result<()> {
        let [layer] = image.layers.as_slice() else { bail!("an image of one layer is needed") };
        let archive = self.folder.path().join("image.tar");
        fs::write(&archive, image.oci_tar()?).context("write the image")?;
        let archive = archive.display().to_string();
        self.ctr(&["image", "import", "--snapshotter", SNAPSHOTTER, &archive])?;
        // The chain id of a single layer is its diff id.
        self.parent = layer.diff_id.clone();
        Ok(())
    }

    pub(super) fn ctr(&self, args: &[&str]) -> Result<()> {
        let output = Command::new(host::tool("ctr").context("no ctr")?)
            .args(["--address", &self.socket().display().to_string()])
            .args(["--namespace", NAMESPACE])
            .args(args)
            .output()
            .context("run ctr")?;
        if !output.status.success() {
            bail!("ctr {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("s.sock")
    }

    fn spawn(&mut self) -> Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))
            .context("make containerd's log")?;
        let child = Command::new(host::tool("containerd").context("no containerd")?)
            .arg("--config")
            .arg(self.folder.path().join("config.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start containerd")?;
        self.child = Some(child);
        Ok(())
    }

    fn client(&self) -> Result<Client> {
        let address = format!("unix:{}", self.socket().display());
        let channel = Endpoint::from_shared(address)?.connect_lazy();
        Ok(Client {
            containers: ContainersClient::with_interceptor(channel.clone(), InNamespace),
            snapshots: SnapshotsClient::with_interceptor(channel.clone(), InNamespace),
            tasks: TasksClient::with_interceptor(channel, InNamespace),
            parent: self.parent.clone(),
        })
    }
}

impl Engine for Containerd {
    fn name(&self) -> String {
        let version = |tool: &str, word: usize| {
            let output = Command::new(tool).arg("--version").output().ok();
            let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
            let text = text.unwrap_or_default();
            let first = text.lines().next().unwrap_or_default();
            let version = first.split(' ').nth(word).unwrap_or("?");
            version.split(['~', '+']).next().unwrap_or("?").to_owned()
        };
        format!("containerd {} + runc {}", version("containerd", 2), version("runc", 2))
    }

    async fn start(&mut self) -> Result<()> {
        self.spawn()?;
        let client = self.client()?;
        wait::until("containerd answers", || {
            let mut tasks = client.tasks.clone();
            async move { Ok(tasks.list(api::ListTasksRequest::default()).await.ok()) }
        })
        .await?;
        Ok(())
    }

    fn kill9(&mut self) -> Result<()> {
        let mut child = self.child.take().context("containerd does not run")?;
        child.kill().context("kill containerd")?;
        child.wait().context("wait for containerd")?;
        Ok(())
    }

    fn pid(&self) -> Result<i32> {
        let child = self.child.as_ref().context("containerd does not run")?;
        Ok(i32::try_from(child.id())?)
    }

    fn caller(&self) -> Result<impl Caller> {
        self.client()
    }

    async fn restart_until_listed(&mut self, count: usize) -> Result<Duration> {
        let begin = Instant::now();
        self.spawn()?;
        loop {
            // A new connection each time: a lazy channel backs off after a refusal.
            let mut tasks = self.client()?.tasks;
            if let Ok(answer) = tasks.list(api::ListTasksRequest::default()).await {
                let tasks = answer.into_inner().tasks;
                if tasks.iter().filter(|t| t.status == RUNNING).count() == count {
                    return Ok(begin.elapsed());
                }
            }
            if begin.elapsed() > wait::PATIENCE {
                bail!("containerd did not list {count} running containers");
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// By `ctr`: containerd 1.6 leaves pulls to its client.
    async fn pull(&mut self, reference: &str) -> Result<()> {
        let args = ["image", "pull", "--plain-http", "--snapshotter", SNAPSHOTTER, reference];
        tokio::task::block_in_place(|| self.ctr(&args))
    }

    async fn forget(&mut self, reference: &str) -> Result<()> {
        // Synchronous: what nothing names any more is gone when it returns.
        tokio::task::block_in_place(|| self.ctr(&["image", "rm", "--sync", reference]))
    }

    fn shims(&self) -> Vec<i32> {
        let word = self.socket().display().to_string();
        memory::pids_of("containerd-shim", &word)
    }

    async fn remove(mut self) -> Result<()> {
        let mut child = self.child.take().context("containerd does not run")?;
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        wait::until_now("containerd ends", || Ok(child.try_wait()?)).await?;
        super::remove_cgroup(CGROUP);
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
struct InNamespace;

impl Interceptor for InNamespace {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, tonic::Status> {
        let value = AsciiMetadataValue::from_static(NAMESPACE);
        request.metadata_mut().insert("containerd-namespace", value);
        Ok(request)
    }
}

type Service = InterceptedService<Channel, InNamespace>;

#[derive(Clone, Debug)]
struct Client {
    containers: ContainersClient<Service>,
    snapshots: SnapshotsClient<Service>,
    tasks: TasksClient<Service>,
    parent: String,
}

fn json_any(type_url: &str, value: &Value) -> Any {
    Any { type_url: type_url.into(), value: value.to_string().into_bytes() }
}

impl Client {
    /// Snapshot, container, task, in the order of containerd's own client.
    async fn create(&mut self, id: &str, args: &[&str]) -> Result<()> {
        let prepare = api::PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.into(),
            key: id.into(),
            parent: self.parent.clone(),
            // In place of a lease: keeps the collector off until the container names it.
            labels: HashMap::from([("containerd.io/gc.root".into(), "bench".into())]),
        };
        let mounts = self.snapshots.prepare(prepare).await?.into_inner().mounts;
        let spec = spec::spec(args, &format!("/{CGROUP}/{id}"));
        let container = api::Container {
            id: id.into(),
            runtime: Some(api::container::Runtime {
                name: "io.containerd.runc.v2".into(),
                options: None,
            }),
            spec: Some(json_any(spec::SPEC_TYPE_URL, &spec)),
            snapshotter: SNAPSHOTTER.into(),
            snapshot_key: id.into(),
            ..Default::default()
        };
        self.containers.create(api::CreateContainerRequest { container: Some(container) }).await?;
        let task = api::CreateTaskRequest { container_id: id.into(), rootfs: mounts };
        self.tasks.create(task).await?;
        Ok(())
    }

    async fn start(&mut self, id: &str, exec_id: &str) -> Result<()> {
        let request = api::StartRequest { container_id: id.into(), exec_id: exec_id.into() };
        self.tasks.start(request).await?;
        Ok(())
    }

    async fn wait(mut self, id: String, exec_id: String) -> Result<u32> {
        let request = api::WaitRequest { container_id: id, exec_id };
        Ok(self.tasks.wait(request).await?.into_inner().exit_status)
    }

    async fn delete(&mut self, id: &str) -> Result<()> {
        self.tasks.delete(api::DeleteTaskRequest { container_id: id.into() }).await?;
        self.containers.delete(api::DeleteContainerRequest { id: id.into() }).await?;
        let snapshot =
            api::RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.into(), key: id.into() };
        self.snapshots.remove(snapshot).await?;
        Ok(())
    }
}

impl Caller for Client {
    async fn life(&mut self, id: &str) -> Result<()> {
        self.create(id, &["/bin/true"]).await?;
        // Asked for before the start, as containerd's documentation wants it.
        let wait = tokio::spawn(self.clone().wait(id.into(), String::new()));
        self.start(id, "").await?;
        if wait.await?? != 0 {
            bail!("true failed in {id}");
        }
        self.delete(id).await
    }

    async fn sleeper(&mut self, id: &str) -> Result<()> {
        self.create(id, &["/bin/sleep", "1000000"]).await?;
        self.start(id, "").await
    }

    async fn exec(&mut self, id: &str, exec_id: &str) -> Result<()> {
        let request = api::ExecProcessRequest {
            container_id: id.into(),
            spec: Some(json_any(spec::PROCESS_TYPE_URL, &spec::process(&["/bin/true"]))),
            exec_id: exec_id.into(),
        };
        self.tasks.exec(request).await?;
        let wait = tokio::spawn(self.clone().wait(id.into(), exec_id.into()));
        self.start(id, exec_id).await?;
        if wait.await?? != 0 {
            bail!("true failed in {id}");
        }
        let delete = api::DeleteProcessRequest { container_id: id.into(), exec_id: exec_id.into() };
        self.tasks.delete_process(delete).await?;
        Ok(())
    }

    async fn remove(&mut self, id: &str) -> Result<()> {
        let wait = tokio::spawn(self.clone().wait(id.into(), String::new()));
        let kill = api::KillRequest { container_id: id.into(), signal: 9, ..Default::default() };
        match self.tasks.kill(kill).await {
            Err(status) if status.code() == Code::NotFound => {}
            other => drop(other?),
        }
        wait.await??;
        self.delete(id).await
    }
}
