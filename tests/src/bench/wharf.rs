//! Wharf as it is measured: a world of its own, through the generated client.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use wharf_proto::v1::{ContainerState, ExecStart, ListContainersRequest};

use super::{Caller, Engine, memory};
use crate::{
    api::{Api, spec},
    image::Image,
    wait,
    world::{Options, World},
};

/// The daemon and its world.
#[derive(Debug)]
pub struct Wharf {
    world: World,
}

impl Wharf {
    /// A world without a running daemon.
    ///
    /// # Errors
    /// When its folder can't be made.
    pub fn new() -> Result<Self> {
        // As loud as containerd is told to be.
        let options = Options { config: "log_level = \"error\"\n".into(), ..Default::default() };
        Ok(Self { world: World::cold(options)? })
    }

    /// Loads the image.
    ///
    /// # Errors
    /// The call's status.
    pub async fn import(&mut self, image: &Image) -> Result<()> {
        self.world.api()?.import(&image.oci_tar()?, "").await?;
        Ok(())
    }
}

impl Engine for Wharf {
    fn name(&self) -> String {
        format!("Wharf {}", env!("CARGO_PKG_VERSION"))
    }

    async fn start(&mut self) -> Result<()> {
        self.world.restart().await
    }

    fn kill9(&mut self) -> Result<()> {
        self.world.kill9()
    }

    fn pid(&self) -> Result<i32> {
        self.world.daemon_pid()
    }

    fn caller(&self) -> Result<impl Caller> {
        self.world.api()
    }

    async fn restart_until_listed(&mut self, count: usize) -> Result<Duration> {
        let begin = Instant::now();
        self.world.spawn()?;
        loop {
            let mut api = self.world.api()?;
            if let Ok(answer) = api.containers.list(ListContainersRequest::default()).await {
                let all = answer.into_inner().containers;
                let running = |s: ContainerState| s == ContainerState::Running;
                if all.iter().filter(|c| running(c.state())).count() == count {
                    return Ok(begin.elapsed());
                }
            }
            if begin.elapsed() > wait::PATIENCE {
                bail!("wharfd did not list {count} running containers");
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn shims(&self) -> Vec<i32> {
        self.world
            .mark()
            .processes()
            .into_iter()
            .filter_map(|trace| match trace {
                crate::leak::Trace::Process { pid, .. } => Some(pid),
                _ => None,
            })
            .filter(|pid| memory::pids_of("wharf-shim", "").contains(pid))
            .collect()
    }

    async fn remove(self) -> Result<()> {
        self.world.finish().await
    }
}

impl Caller for Api {
    async fn life(&mut self, id: &str) -> Result<()> {
        let mut spec = spec(["/bin/true"]);
        spec.name = id.into();
        let id = self.create(spec).await?.id;
        self.start(&id).await?;
        let exit = self.wait(&id).await?;
        ensure!(exit.exit_code == 0, "true failed in {id}: {exit:?}");
        self.remove(&id).await?;
        Ok(())
    }

    async fn sleeper(&mut self, id: &str) -> Result<()> {
        let mut spec = spec(["/bin/sleep", "1000000"]);
        spec.name = id.into();
        self.run(spec).await?;
        Ok(())
    }

    async fn exec(&mut self, id: &str, _: &str) -> Result<()> {
        let start = ExecStart {
            container: id.into(),
            args: vec!["/bin/true".into()],
            ..Default::default()
        };
        let outcome = Api::exec(self, start, &[]).await?;
        let exit = outcome.exit.context("no exit")?;
        ensure!(exit.exit_code == 0, "true failed in {id}: {exit:?}");
        Ok(())
    }

    async fn remove(&mut self, id: &str) -> Result<()> {
        Api::remove(self, id).await?;
        Ok(())
    }
}
