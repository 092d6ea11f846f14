//! Measuring daemons: lives, execs, memory, restarts; rounds of the peers interleaved.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{Caller, Engine, memory};
use crate::wait;

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Rounds of lives and execs.
    pub rounds: usize,
    /// Lives in a round, one caller.
    pub lives: usize,
    /// Lives of each of eight callers in a round.
    pub lives_each: usize,
    /// Execs in a round.
    pub execs: usize,
    /// Containers for memory and restarts.
    pub containers: usize,
    /// Containers of a large host; for Wharf only.
    pub many: usize,
    /// Restarts.
    pub restarts: usize,
    /// Pulls.
    pub pulls: usize,
}

impl Plan {
    /// What the README's table is made with.
    pub const FULL: Self = Self {
        rounds: 5,
        lives: 20,
        lives_each: 8,
        execs: 30,
        containers: 50,
        many: 1000,
        restarts: 7,
        pulls: 5,
    };
    /// To see that all of it works.
    pub const QUICK: Self = Self {
        rounds: 1,
        lives: 5,
        lives_each: 2,
        execs: 5,
        containers: 8,
        many: 40,
        restarts: 2,
        pulls: 1,
    };
}

/// Callers at the same time.
pub const CALLERS: usize = 8;

/// What was measured of one daemon.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// One life, one caller.
    pub life: Vec<Duration>,
    /// Lives a second with eight callers, one figure a round.
    pub lives_per_second: Vec<f64>,
    /// One exec.
    pub exec: Vec<Duration>,
    /// PSS of each shim.
    pub shim_pss_kib: Vec<u64>,
    /// Of the daemon with no container.
    pub idle_rss_kib: u64,
    /// Of the daemon with all containers.
    pub full_rss_kib: u64,
    /// Of the daemon that has started all of a large host's containers.
    pub many_rss_kib: u64,
    /// Of the daemon that has found all of them.
    pub many_found_rss_kib: u64,
    /// As `restart`, with all of them.
    pub many_restart: Vec<Duration>,
    /// One pull with unpacking.
    pub pull: Vec<Duration>,
    /// From the start of the process to its answer with all containers.
    pub restart: Vec<Duration>,
}

/// A daemon and its figures.
#[derive(Debug)]
pub struct Peer<E> {
    /// The daemon.
    pub engine: E,
    /// What was measured so far.
    pub figures: Figures,
    next: usize,
}

impl<E: Engine> Peer<E> {
    /// A running daemon with the image loaded.
    pub fn new(engine: E) -> Self {
        Self { engine, figures: Figures::default(), next: 0 }
    }

    fn id(&mut self) -> String {
        self.next += 1;
        format!("bench-{}", self.next)
    }

    /// A daemon just started, without containers; then one life that is not counted.
    ///
    /// # Errors
    /// When the daemon fails.
    pub async fn warm_up(&mut self) -> Result<()> {
        self.engine.kill9()?;
        self.engine.start().await?;
        self.figures.idle_rss_kib = memory::rss_kib(self.engine.pid()?)?;
        let id = self.id();
        self.engine.caller()?.life(&id).await
    }

    /// Lives, one after the other.
    ///
    /// # Errors
    /// When the daemon fails.
    pub async fn lives(&mut self, plan: Plan) -> Result<()> {
        for _ in 0..plan.lives {
            let id = self.id();
            let mut caller = self.engine.caller()?;
            let begin = Instant::now();
            caller.life(&id).await.with_context(|| self.engine.name())?;
            self.figures.life.push(begin.elapsed());
        }
        Ok(())
    }

    /// Lives of eight callers at once.
    ///
    /// # Errors
    /// When the daemon fails.
    pub async fn crowd(&mut self, plan: Plan) -> Result<()> {
        let mut tasks = tokio::task::JoinSet::new();
        let begin = Instant::now();
        for _ in 0..CALLERS {
            let ids: Vec<_> = (0..plan.lives_each).map(|_| self.id()).collect();
            let mut caller = self.engine.caller()?;
            tasks.spawn(async move {
                for id in ids {
                    caller.life(&id).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(done) = tasks.join_next().await {
            done?.with_context(|| self.engine.name())?;
        }
        #[expect(clippy::cast_precision_loss, reason = "a few hundred lives")]
        let lives = (CALLERS * plan.lives_each) as f64;
        self.figures.lives_per_second.push(lives / begin.elapsed().as_secs_f64());
        Ok(())
    }

    /// One pull, of something that is not here.
    ///
    /// # Errors
    /// When the daemon fails.
    pub async fn pull(&mut self, reference: &str) -> Result<()> {
        let begin = Instant::now();
        self.engine.pull(reference).await.with_context(|| self.engine.name())?;
        self.figures.pull.push(begin.elapsed());
        self.engine.forget(reference).await
    }

    /// Starts the containers that stay, and reads memory.
    ///
    /// # Errors
    /// When the daemon fails.
    pub async fn fill(&mut self, plan: Plan) -> Result<()> {
        let mut caller = self.engine.caller()?;
        for n in 0..plan.containers {
            caller.sleeper(&format!("stay-{n}")).await.with_context(|| self.engine.name())?;
        }
        let shims = self.engine.shims();
        ensure!(
            shims.len() == plan.containers,
            "{}: {} shims for {} containers",
            self.engine.name(),
            shims.len(),
            plan.containers
        );
        for shim in shims {
            self.figures.shim_pss_kib.push(memory::pss_kib(shim)?);
        }
        self.figures.full_rss_kib = memory::rss_kib(self.engine.pid()?)?;
        Ok(())
    }

    /// Execs in one of those containers.
    ///
    /// # Errors
    /// When the daemon fails.
    pub async fn execs(&mut self, plan: Plan) -> Result<()> {
        for _ in 0..plan.execs {
            let id = self.id();
            let mut caller = self.engine.caller()?;
            let begin = Instant::now();
            caller.exec("stay-0", &id).await.with_context(|| self.engine.name())?;
            self.figures.exec.push(begin.elapsed());
        }
        Ok(())
    }

    /// One restart with all containers.
    ///
    /// # Errors
    /// When the daemon fails.
    pub async fn restart(&mut self, plan: Plan) -> Result<()> {
        self.engine.kill9()?;
        let took = self.engine.restart_until_listed(plan.containers).await?;
        self.figures.restart.push(took);
        Ok(())
    }

    /// A large host: what the daemon takes with all its containers, started by eight callers, and how
    /// it is restarted with them; `plan.containers` are there already. They are removed.
    ///
    /// # Errors
    /// When the daemon fails.
    pub async fn many(&mut self, plan: Plan) -> Result<()> {
        let more: Vec<_> = (plan.containers..plan.many).map(|n| format!("many-{n}")).collect();
        each_of(self.engine.caller()?, &more, async |mut caller, id| caller.sleeper(&id).await)
            .await?;
        self.figures.many_rss_kib = memory::rss_kib(self.engine.pid()?)?;
        for _ in 0..plan.restarts {
            self.engine.kill9()?;
            let took = self.engine.restart_until_listed(plan.many).await?;
            self.figures.many_restart.push(took);
        }
        // An exec in the last one: by then its task has found it, and the others theirs.
        let mut caller = self.engine.caller()?;
        for id in &more {
            caller.exec(id, "found").await?;
        }
        self.figures.many_found_rss_kib = memory::rss_kib(self.engine.pid()?)?;
        each_of(self.engine.caller()?, &more, async |mut caller, id| caller.remove(&id).await).await
    }

    /// Removes everything.
    ///
    /// # Errors
    /// When something does not go.
    pub async fn remove(self, plan: Plan) -> Result<Figures> {
        let mut caller = self.engine.caller()?;
        for n in 0..plan.containers {
            caller.remove(&format!("stay-{n}")).await.with_context(|| self.engine.name())?;
        }
        drop(caller);
        wait::until_now("all shims are gone", || Ok(self.engine.shims().is_empty().then_some(())))
            .await?;
        self.engine.remove().await?;
        Ok(self.figures)
    }
}

/// Eight callers share the work.
async fn each_of<C: Caller>(
    caller: C,
    ids: &[String],
    work: impl AsyncFn(C, String) -> Result<()>,
) -> Result<()> {
    let streams = (0..CALLERS).map(|first| {
        let (caller, work) = (&caller, &work);
        async move {
            for id in ids.iter().skip(first).step_by(CALLERS) {
                work(caller.clone(), id.clone()).await.with_context(|| id.clone())?;
            }
            anyhow::Ok(())
        }
    });
    futures_util::future::try_join_all(streams).await?;
    Ok(())
}
