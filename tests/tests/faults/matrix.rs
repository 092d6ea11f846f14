//! Cases from a trace, and what is done with each.

use std::{
    collections::BTreeMap,
    env, fs,
    future::Future,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use tonic::Status;
use wharf_tests::{
    api::Api,
    leak,
    wait::{self, PATIENCE},
    world::{Options, World, has_ended},
};

/// What came of doing it.
pub(crate) type Acted = Result<(), Status>;

/// Visits of one point that are taken.
const MAX_VISITS: u64 = 3;

/// Something that the supervisor does, with a request id where the call has one.
pub(crate) trait Step {
    /// What a case needs.
    type Ready: Clone + Send + 'static;

    /// Makes ready, with no fault.
    async fn ready(&self, world: &mut World, case: &str) -> Result<Self::Ready>;
    /// Does it.
    fn act(
        &self,
        api: Api,
        ready: Self::Ready,
        request: String,
    ) -> impl Future<Output = Acted> + Send + 'static;
    /// It was done.
    async fn done(&self, world: &World, api: &mut Api, ready: &Self::Ready) -> Result<()>;
    /// What goes on in the background after the answer, and has points too, is over.
    async fn settled(&self, _: &World, _: &mut Api, _: &Self::Ready) -> Result<()> {
        Ok(())
    }
    /// Takes away what the case made.
    async fn tidy(&self, api: &mut Api) -> Result<()>;
}

#[derive(Clone, Debug)]
struct Case {
    point: String,
    mode: &'static str,
    nth: u64,
}

impl Case {
    fn name(&self) -> String {
        format!("{}:{}:{}", self.point, self.mode, self.nth)
    }
}

pub(crate) struct Faults {
    world: World,
    armed: PathBuf,
    trace: PathBuf,
}

impl Faults {
    pub(crate) async fn start() -> Result<Self> {
        let mut world =
            World::cold(Options { program: Some("wharfd-fault"), ..Default::default() })?;
        let (armed, trace) = (world.folder().join("armed"), world.folder().join("trace"));
        fs::write(&armed, "")?;
        world.set_env("WHARF_FAULT_FILE", &armed.display().to_string());
        world.set_env("WHARF_FAULT_TRACE", &trace.display().to_string());
        world.restart().await?;
        Ok(Self { world, armed, trace })
    }

    pub(crate) fn world(&mut self) -> &mut World {
        &mut self.world
    }

    fn arm(&self, what: &str) -> Result<()> {
        // Renamed into its place: it is read at any moment.
        let aside = self.armed.with_extension("new");
        fs::write(&aside, what)?;
        Ok(fs::rename(&aside, &self.armed)?)
    }

    fn reached(&self) -> BTreeMap<(String, String), u64> {
        let mut points = BTreeMap::new();
        for line in fs::read_to_string(&self.trace).unwrap_or_default().lines() {
            if let Some((name, kind)) = line.split_once('\t') {
                *points.entry((name.to_owned(), kind.to_owned())).or_insert(0) += 1;
            }
        }
        points
    }

    /// All cases of a step.
    async fn cases<S: Step>(&mut self, step: &S) -> Result<Vec<Case>> {
        let ready = step.ready(&mut self.world, "trace").await?;
        fs::write(&self.trace, "")?;
        step.act(self.world.api()?, ready.clone(), "trace".into())
            .await
            .context("without fault")?;
        let mut api = self.world.api()?;
        step.settled(&self.world, &mut api, &ready).await?;
        // Before it is looked at: that reaches points of its own.
        let reached = self.reached();
        step.done(&self.world, &mut api, &ready).await.context("without fault")?;
        step.tidy(&mut api).await?;
        Ok(cases_of(&reached))
    }

    /// Takes a step through all its cases.
    pub(crate) async fn take<S: Step>(&mut self, name: &str, step: &S) -> Result<()> {
        let cases = chosen(name, self.cases(step).await.with_context(|| name.to_owned())?);
        let (all, mut missed) = (cases.len(), Vec::new());
        for (number, case) in cases.into_iter().enumerate() {
            let label = format!("{name} {}", case.name());
            let label = || format!("{label}, case {number}");
            if !self.case(step, &case).await.with_context(label)? {
                missed.push(case.name());
            }
        }
        say(&format!("{name}: {all} cases, not reached again: {missed:?}"));
        // Points that depend on a race may be missed; if all are, nothing was tested.
        ensure!(all == 0 || missed.len() < all, "{name}: no point was reached: {missed:?}");
        Ok(())
    }

    async fn case<S: Step>(&mut self, step: &S, case: &Case) -> Result<bool> {
        let unique = case.name().replace(':', "-");
        let ready = step.ready(&mut self.world, &unique).await.context("make ready")?;
        let request = format!("request-{unique}");
        fs::write(&self.trace, "")?;
        self.arm(&format!("{}:{}:{}", case.point, case.mode, case.nth))?;
        let mut act = tokio::spawn(step.act(self.world.api()?, ready.clone(), request.clone()));
        let first = tokio::time::timeout(PATIENCE, &mut act).await;
        let first = first.context("the call does not end")??;
        let mut api = self.world.api()?;
        let hit = match case.mode {
            "abort" => self.dies(step, &ready, case, first.is_ok()).await?,
            _ => {
                if first.is_ok() {
                    step.settled(&self.world, &mut api, &ready).await.context("not settled")?;
                }
                self.visits(case) >= case.nth
            }
        };
        self.arm("")?;
        if first.is_ok() {
            step.done(&self.world, &mut api, &ready).await.context("lost though acknowledged")?;
        }
        // What failed was answered so, and that is the first result: a new request is another.
        let again = if case.mode == "error" && first.is_err() {
            format!("{request}-again")
        } else {
            request
        };
        step.act(api.clone(), ready.clone(), again)
            .await
            .map_err(|status| anyhow::anyhow!("sent again: {status:?} (first: {first:?})"))?;
        step.done(&self.world, &mut api, &ready).await.context("sent again, and not done")?;
        step.settled(&self.world, &mut api, &ready).await.context("sent again, not settled")?;
        step.tidy(&mut api).await.context("tidy up")?;
        self.whole().await?;
        Ok(hit)
    }

    fn visits(&self, case: &Case) -> u64 {
        let reached = self.reached();
        reached.iter().filter(|((name, _), _)| *name == case.point).map(|(_, n)| *n).sum()
    }

    /// Whether the daemon died at the point; it is there again afterwards.
    async fn dies<S: Step>(
        &mut self,
        step: &S,
        ready: &S::Ready,
        case: &Case,
        answered: bool,
    ) -> Result<bool> {
        if answered && self.world.gone()?.is_none() {
            // The point may come after the answer; it may also not come at all, by a race.
            let mut api = self.world.api()?;
            let pid = self.world.daemon_pid()?;
            // Who died will not settle anything: that is not waited for.
            let settled = tokio::select! {
                settled = step.settled(&self.world, &mut api, ready) => settled.is_ok(),
                () = dead(pid) => false,
            };
            if settled && self.visits(case) < case.nth {
                return Ok(false);
            }
        }
        self.world.ended().await.context("it does not die at the point")?;
        self.arm("")?;
        self.world.restart().await.context("it does not start again")?;
        Ok(true)
    }

    /// Nothing is left of the case.
    async fn whole(&self) -> Result<()> {
        self.world.expect_only_daemon().await?;
        let root = self.world.root();
        for folder in ["content/ingest", "snapshots/overlay/c", "snapshots/overlay/trash", "logs"] {
            let left = || leak::tree(&root.join(folder));
            let waited =
                wait::until_now("nothing is left", || Ok(left().is_empty().then_some(()))).await;
            waited.with_context(|| format!("{folder}: {:?}", left()))?;
        }
        let pid = self.world.daemon_pid()?;
        let held = || held_of_containers(pid, &self.world.state());
        wait::until_now("no descriptor is left", || Ok(held().is_empty().then_some(())))
            .await
            .with_context(|| format!("descriptors: {:?}", held()))
    }

    /// The start itself is killed at each of its points; what runs is found again by the next one.
    pub(crate) async fn start_up<S: Step>(&mut self, name: &str, step: &S) -> Result<()> {
        let ready = step.ready(&mut self.world, "trace").await?;
        self.world.kill9()?;
        fs::write(&self.trace, "")?;
        self.world.restart().await?;
        let mut api = self.world.api()?;
        step.settled(&self.world, &mut api, &ready).await?;
        let cases = chosen(name, cases_of(&self.reached()));
        step.tidy(&mut api).await?;
        let mut taken = 0;
        for case in &cases {
            if case.mode == "error" {
                // It ends with a message, as it does when the disk is no good.
                continue;
            }
            let label = || format!("{name} {}", case.name());
            let ready = step
                .ready(&mut self.world, &case.name().replace(':', "-"))
                .await
                .with_context(label)?;
            self.world.kill9()?;
            fs::write(&self.trace, "")?;
            self.arm(&format!("{}:{}:{}", case.point, case.mode, case.nth))?;
            self.world.spawn()?;
            if case.mode == "abort" {
                let mut api = self.world.api()?;
                let armed_out = wait::until_now("it dies or is past the point", || {
                    Ok(self.world.gone()?.map(|_| true))
                });
                match tokio::time::timeout(Duration::from_secs(3), armed_out).await {
                    Ok(died) => {
                        died?;
                        self.world.ended().await?;
                        taken += 1;
                        self.arm("")?;
                        self.world.restart().await.with_context(label)?;
                    }
                    // By a race not reached this time.
                    Err(_) => {
                        self.arm("")?;
                        self.world.ready().await.with_context(label)?;
                    }
                }
                let _ = api.list().await;
            } else {
                self.world.ready().await.with_context(label)?;
                taken += 1;
                self.arm("")?;
            }
            let mut api = self.world.api()?;
            step.done(&self.world, &mut api, &ready).await.with_context(label)?;
            step.tidy(&mut api).await.with_context(label)?;
            self.whole().await.with_context(label)?;
        }
        say(&format!("{name}: {} cases, {taken} reached", cases.len()));
        ensure!(cases.is_empty() || taken > 0, "{name}: no point was reached");
        Ok(())
    }

    pub(crate) async fn finish(self) -> Result<()> {
        self.world.finish().await
    }
}

/// Descriptors that a daemon has for the sake of containers: pipes, pidfds, namespaces, and files of
/// bundles.
fn held_of_containers(pid: i32, state: &Path) -> Vec<String> {
    let links = |pid: &str| -> Vec<PathBuf> {
        let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        entries.filter_map(|entry| fs::read_link(entry.path()).ok()).collect()
    };
    // What it was started with is not of its making.
    let ours = links("self");
    let links = links(&pid.to_string()).into_iter().filter(|link| !ours.contains(link));
    let bundles = state.join("c").display().to_string();
    let theirs = |link: &String| {
        ["pipe:", "anon_inode:[pidfd]", "net:", "mnt:", "pid:"].iter().any(|p| link.starts_with(p))
            || link.starts_with(&bundles)
    };
    links.map(|link| link.display().to_string()).filter(theirs).collect()
}

fn cases_of(reached: &BTreeMap<(String, String), u64>) -> Vec<Case> {
    let mut cases = Vec::new();
    for ((point, kind), visits) in reached {
        let case = |mode, nth| Case { point: point.clone(), mode, nth };
        for nth in 1..=(*visits).min(MAX_VISITS) {
            cases.push(case("abort", nth));
        }
        if kind == "step" {
            cases.push(case("error", 1));
        }
        cases.push(case("delay", 1));
    }
    cases
}

/// The cases that are asked for.
fn chosen(step: &str, cases: Vec<Case>) -> Vec<Case> {
    let every = env::var("WHARF_FAULT_EVERY").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let only = env::var("WHARF_FAULT_ONLY").unwrap_or_default();
    // Steps begin elsewhere, so that a sample is not the same point of all.
    let shift = step.bytes().map(usize::from).sum::<usize>() % every;
    let matching = cases.into_iter().filter(|case| case.name().contains(&only));
    matching.enumerate().filter(|(n, _)| n % every == shift).map(|(_, case)| case).collect()
}

/// Until a child of ours has ended, whether it was waited for or not.
async fn dead(pid: i32) {
    while !has_ended(pid) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[expect(clippy::print_stderr, reason = "told to whoever runs the tests")]
fn say(text: &str) {
    eprintln!("{text}");
}

/// Waits for a state of a container.
pub(crate) async fn wait_state(
    api: &Api,
    id: &str,
    wanted: wharf_proto::v1::ContainerState,
) -> Result<()> {
    wait::until(&format!("{id} is {wanted:?}"), || {
        let (mut api, id) = (api.clone(), id.to_owned());
        async move {
            match api.get(&id).await {
                Ok(container) if container.state() == wanted => Ok(Some(())),
                Ok(_) => Ok(None),
                Err(status) if status.code() == tonic::Code::Unavailable => Ok(None),
                Err(status) => bail!("{status:?}"),
            }
        }
    })
    .await
}
