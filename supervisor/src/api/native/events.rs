//! wharf.v1.Events.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use wharf_proto::v1::{self, events_server};

use super::{
    status::from_fault,
    translate::{namespace, timestamp, unix_ns},
};
use crate::services::{
    containers::Containers,
    events::{Begin, Event, Events, Filter, Subscription, now_unix_ns},
};

/// Events on their way to one subscriber.
const QUEUE_LEN: usize = 64;

/// The service.
#[derive(Clone, Debug)]
pub struct EventsApi {
    /// The journal.
    pub events: Events,
    /// For names of containers.
    pub containers: Containers,
}

#[tonic::async_trait]
impl events_server::Events for EventsApi {
    type SubscribeStream = ReceiverStream<Result<v1::Event, Status>>;

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let id = match request.container.as_str() {
            "" => None,
            // One that was removed is known by its id only.
            text => Some(
                self.containers
                    .get(&namespace, text)
                    .map_or_else(|_| text.to_owned(), |record| record.id.to_string()),
            ),
        };
        let filter = Filter { namespace: Some(namespace), topics: request.topics, id };
        let begin = match (request.from_sequence, request.since) {
            (0, None) => Begin::Now,
            (0, Some(since)) => Begin::Time(unix_ns(since)),
            (sequence, _) => Begin::Sequence(sequence),
        };
        let subscription = self.events.subscribe(begin, filter).map_err(|e| from_fault(&e))?;
        let until = request.until.map(unix_ns);
        let (sender, receiver) = mpsc::channel(QUEUE_LEN);
        // Ends with the subscriber.
        tokio::spawn(forward(subscription, until, sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

async fn forward(
    mut subscription: Subscription,
    until: Option<i64>,
    sender: mpsc::Sender<Result<v1::Event, Status>>,
) {
    loop {
        let batch = tokio::select! {
            batch = subscription.next() => batch,
            () = sender.closed() => return,
            () = past(until) => return,
        };
        let events = match batch {
            Ok(events) => events,
            Err(error) => {
                let _ = sender.send(Err(from_fault(&error))).await;
                return;
            }
        };
        for (sequence, event) in events {
            if until.is_some_and(|until| event.time_unix_ns > until)
                || sender.send(Ok(message(sequence, event))).await.is_err()
            {
                return;
            }
        }
    }
}

/// Waits until a time is over; for ever without one.
async fn past(until: Option<i64>) {
    let Some(until) = until else { return std::future::pending().await };
    let left = u64::try_from(until.saturating_sub(now_unix_ns())).unwrap_or(0);
    tokio::time::sleep(std::time::Duration::from_nanos(left)).await;
}

fn message(sequence: u64, event: Event) -> v1::Event {
    v1::Event {
        sequence,
        time: Some(timestamp(event.time_unix_ns)),
        namespace: event.namespace.to_string(),
        topic: event.topic,
        id: event.id,
        attributes: event.attributes.into_iter().collect(),
    }
}
