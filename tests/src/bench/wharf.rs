//! Wharf as it is measured: a world of its own, through the generated client.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use wharf_proto::v1::{
    ContainerState, DeleteImageRequest, ExecStart, ListContainersRequest, Mount,
};

use super::{Caller, Engine, memory};
use crate::{
    api::{Api, script, spec},
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

    pub(super) fn api(&self) -> Result<Api> {
        self.world.api()
    }

    /// Where the time of a life goes: of each call of it, one after the other.
    ///
    /// # Errors
    /// When a call fails.
    pub async fn steps(&mut self, lives: usize) -> Result<[(&'static str, Vec<Duration>); 4]> {
        let mut steps = ["Create", "Start", "Wait", "Delete"].map(|name| (name, Vec::new()));
        let mut api = self.world.api()?;
        for _ in 0..lives {
            let mut marks = vec![Instant::now()];
            let id = api.create(spec(["/bin/true"])).await?.id;
            marks.push(Instant::now());
            api.start(&id).await?;
            marks.push(Instant::now());
            api.wait(&id).await?;
            marks.push(Instant::now());
            api.remove(&id).await?;
            marks.push(Instant::now());
            for ((_, times), pair) in steps.iter_mut().zip(marks.windows(2)) {
                times.extend(pair.last().zip(pair.first()).map(|(end, begin)| *end - *begin));
            }
        }
        Ok(steps)
    }

    /// MiB a second from a container's stdout into its log: 256 MiB of lines, from the start of
    /// the container to its exit.
    ///
    /// # Errors
    /// When the container fails.
    pub async fn log_rate(&mut self) -> Result<f64> {
        const FILE: usize = 16 << 20;
        const TIMES: u32 = 16;
        let lines = self.world.folder().join("lines");
        std::fs::write(&lines, format!("{}\n", "x".repeat(99)).repeat(FILE / 100))?;
        let mut spec = script(&format!("for i in $(seq {TIMES}); do cat /lines; done"));
        spec.mounts = vec![Mount {
            r#type: "bind".into(),
            source: lines.display().to_string(),
            target: "/lines".into(),
            read_only: true,
            ..Default::default()
        }];
        let mut api = self.world.api()?;
        let id = api.create(spec).await?.id;
        let begin = Instant::now();
        api.start(&id).await?;
        let exit = api.wait(&id).await?;
        let took = begin.elapsed();
        ensure!(exit.exit_code == 0, "{exit:?}");
        api.remove(&id).await?;
        Ok(f64::from(TIMES) * 16.0 / took.as_secs_f64())
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

    async fn pull(&mut self, reference: &str) -> Result<()> {
        self.world.api()?.pull(reference).await?;
        Ok(())
    }

    async fn forget(&mut self, reference: &str) -> Result<()> {
        let request = DeleteImageRequest { image: reference.into(), force: false };
        self.world.api()?.images.delete(request).await?;
        Ok(())
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
