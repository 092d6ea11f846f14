//! What containers use: their shims are asked, all at once, each with a deadline of its own.

use std::{collections::HashMap, sync::Arc, time::Instant};

use tokio::task::JoinSet;

use super::{Containers, Error, live, machine::State, record::Record, table::Handle};
use crate::{
    config::Network,
    drivers::{
        processes::{self, Traffic},
        shims::Usage,
    },
    fault,
    ids::{ContainerId, Namespace},
    services::events::now_unix_ns,
};

/// One container at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    /// As it was then.
    pub record: Arc<Record>,
    /// Nanoseconds since the epoch.
    pub read_unix_ns: i64,
    /// What its cgroup says; `Default` when it does not run.
    pub usage: Usage,
    /// Of all interfaces but its loopback.
    pub traffic: Traffic,
    /// Of one CPU, since the sample before.
    pub cpu_percent: Option<f64>,
    /// Why there is nothing.
    pub error: String,
}

/// Samples of some containers, or of all, again and again.
#[derive(Debug)]
pub struct Sampler {
    containers: Containers,
    namespace: Namespace,
    /// Empty: all that run.
    handles: Vec<Handle>,
    before: HashMap<ContainerId, (u64, u64, Instant)>,
}

impl Containers {
    /// A sampler of the containers of these names; of all that run at each turn if there is none.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Ambiguous`].
    pub fn sampler(&self, namespace: &Namespace, names: &[String]) -> Result<Sampler, Error> {
        let handles = names.iter().map(|name| self.tools.table.find(namespace, name));
        Ok(Sampler {
            handles: handles.collect::<Result<_, _>>()?,
            containers: self.clone(),
            namespace: namespace.clone(),
            before: HashMap::new(),
        })
    }
}

impl Sampler {
    /// The figures now, in the order that was asked for, or by name. Containers that are gone are
    /// not in it.
    pub async fn sample(&mut self) -> Vec<Sample> {
        let mut asked = JoinSet::new();
        let handles = if self.handles.is_empty() { self.running() } else { self.handles.clone() };
        for (place, handle) in handles.into_iter().enumerate() {
            if !handle.view.borrow().gone {
                asked.spawn(async move { (place, measure(&handle).await) });
            }
        }
        let mut samples = asked.join_all().await;
        samples.sort_by_key(|(place, _)| *place);
        let mut before = HashMap::new();
        let mut found = Vec::new();
        for (_, (mut sample, at)) in samples {
            let (id, number) = (sample.record.id.clone(), sample.record.state.number());
            let cpu = sample.usage.cpu_ns;
            if let Some((start, earlier, then)) = self.before.get(&id)
                && *start == number
                && sample.error.is_empty()
            {
                let span = at.duration_since(*then).as_nanos();
                sample.cpu_percent = percent(cpu.saturating_sub(*earlier), span);
            }
            if sample.error.is_empty() {
                before.insert(id, (number, cpu, at));
            }
            found.push(sample);
        }
        self.before = before;
        found
    }

    fn running(&self) -> Vec<Handle> {
        let mut running: Vec<_> = self.containers.tools.table.handles();
        running.retain(|handle| {
            let record = handle.record();
            let runs = matches!(record.state, State::Running(_) | State::Paused(_));
            runs && record.namespace == self.namespace
        });
        running.sort_by_key(|handle| handle.record().name.to_string());
        running
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate of spans far below 2^53 ns")]
fn percent(used_ns: u64, span_ns: u128) -> Option<f64> {
    (span_ns > 0).then(|| used_ns as f64 * 100.0 / span_ns as f64)
}

async fn measure(handle: &Handle) -> (Sample, Instant) {
    let record = handle.record();
    let mut sample = Sample {
        record: Arc::clone(&record),
        read_unix_ns: now_unix_ns(),
        usage: Usage::default(),
        traffic: Traffic::default(),
        cpu_percent: None,
        error: String::new(),
    };
    let Some(run) = record.state.current() else { return (sample, Instant::now()) };
    let usage = match live(handle, "measure").await {
        Ok((_, shim)) => {
            shim.usage().await.map_err(|source| Error::Shim { name: record.name.clone(), source })
        }
        Err(error) => Err(error),
    };
    let at = Instant::now();
    match usage {
        Ok(usage) => sample.usage = usage,
        // It has ended in between.
        Err(_) if handle.record().state.current().is_none() => {}
        Err(error) => sample.error = fault::chain(&error),
    }
    if record.spec.network != Some(Network::Host) {
        let pid = run.pid;
        let traffic = tokio::task::spawn_blocking(move || processes::traffic(pid));
        sample.traffic = traffic.await.expect("reading figures does not panic").unwrap_or_default();
    }
    (sample, at)
}

#[cfg(test)]
mod tests {
    use super::percent;

    #[test]
    fn rates_of_one_cpu() {
        assert_eq!(percent(500, 1000), Some(50.0));
        assert_eq!(percent(4000, 1000), Some(400.0));
        assert_eq!(percent(1, 0), None);
    }
}
