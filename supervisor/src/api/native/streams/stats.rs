//! Stats: what containers use, turn after turn.

use std::time::Duration;

use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};
use wharf_proto::v1;

use crate::{
    api::native::{
        status::from_fault,
        translate::{duration, state, timestamp},
    },
    drivers::host::Host,
    ids::Namespace,
    services::containers::{Containers, Error, Sample, Sampler},
};

const USUAL_INTERVAL: Duration = Duration::from_secs(1);
const LEAST_INTERVAL: Duration = Duration::from_millis(100);

type Answers = ReceiverStream<Result<v1::StatsResponse, Status>>;

pub(in crate::api::native) fn serve(
    containers: &Containers,
    namespace: &Namespace,
    request: &v1::StatsRequest,
) -> Result<Response<Answers>, Status> {
    let interval = match request.interval {
        None => USUAL_INTERVAL,
        Some(given) => duration("interval", given).map_err(|e| from_fault(&e))?,
    };
    if interval < LEAST_INTERVAL {
        let problem = format!("at least {} ms are needed", LEAST_INTERVAL.as_millis());
        return Err(from_fault(&Error::field("interval", problem)));
    }
    let sampler = containers.sampler(namespace, &request.containers).map_err(|e| from_fault(&e))?;
    // One turn on its way: who reads slowly gets fewer.
    let (sender, receiver) = mpsc::channel(1);
    // Ends with the client.
    tokio::spawn(forward(sampler, interval, request.follow, request.no_rates, sender));
    Ok(Response::new(ReceiverStream::new(receiver)))
}

async fn forward(
    mut sampler: Sampler,
    interval: Duration,
    follow: bool,
    no_rates: bool,
    sender: mpsc::Sender<Result<v1::StatsResponse, Status>>,
) {
    let mut turn = Instant::now();
    let host = Host::read();
    if !no_rates {
        sampler.sample().await;
        turn += interval;
    }
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(turn) => {}
            () = sender.closed() => return,
        }
        let stats = sampler.sample().await.into_iter().map(|s| message(s, host)).collect();
        if sender.send(Ok(v1::StatsResponse { stats })).await.is_err() || !follow {
            return;
        }
        turn = (turn + interval).max(Instant::now());
    }
}

fn message(sample: Sample, host: Host) -> v1::ContainerStats {
    let Sample { record, read_unix_ns, usage, traffic, cpu_percent, error } = sample;
    let own = usage.memory_limit_bytes.unwrap_or(u64::MAX).min(host.memory_bytes);
    let limit = if record.state.is_live() { own } else { 0 };
    v1::ContainerStats {
        id: record.id.to_string(),
        name: record.name.to_string(),
        read_at: Some(timestamp(read_unix_ns)),
        state: state(&record.state).into(),
        cpu_usage_ns: usage.cpu_ns,
        cpu_percent,
        memory_usage_bytes: usage.memory_bytes,
        memory_limit_bytes: limit,
        network_received_bytes: traffic.received,
        network_sent_bytes: traffic.sent,
        block_read_bytes: usage.block_read_bytes,
        block_written_bytes: usage.block_written_bytes,
        pids: usage.pids,
        pids_limit: usage.pids_limit,
        online_cpus: host.cpus,
        error,
        cpu_throttled_ns: usage.throttled_ns,
        oom_kills: usage.oom_kills,
    }
}
