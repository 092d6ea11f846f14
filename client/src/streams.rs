//! Logs and events: streams of the server that go on after a restart of the supervisor.
//!
//! Owns the position in each; what arrives once does not arrive again.

use std::time::{Instant, SystemTime};

use tonic::Streaming;
use wharf_proto::v1::{
    ContainerStats, Event, LogEntry, LogsRequest, LogsResponse, StatsRequest, StatsResponse,
    SubscribeRequest,
};

use crate::{backoff::Backoff, connection::Client, error::Error};

impl Client {
    /// The log of a container. Follows over restarts of the supervisor.
    ///
    /// # Errors
    /// As any call; a break while opening is not retried.
    pub async fn logs(&self, request: LogsRequest) -> Result<LogStream, Error> {
        let open = self.containers().logs(request.clone()).await;
        let stream = open.map_err(|status| self.error("Logs", status))?.into_inner();
        let mut backoff = self.backoff();
        backoff.opened(Instant::now());
        Ok(LogStream { client: self.clone(), request, stream: Some(stream), backoff })
    }

    /// Events from the journal, then new ones. Follows over restarts of the supervisor with no gap.
    ///
    /// # Errors
    /// As any call; a break while opening is not retried.
    pub async fn events(&self, request: SubscribeRequest) -> Result<EventStream, Error> {
        let mut request = request;
        let from_now = request.from_sequence == 0 && request.since.is_none();
        let now = SystemTime::now();
        let open = self.journal().subscribe(request.clone()).await;
        let stream = open.map_err(|status| self.error("Subscribe", status))?.into_inner();
        if from_now {
            // Until the first event there is no number to go on from after a break.
            request.since = Some(now.into());
        }
        let mut backoff = self.backoff();
        backoff.opened(Instant::now());
        Ok(EventStream { client: self.clone(), request, stream: Some(stream), backoff })
    }
}

impl Client {
    /// What containers use, turn after turn. Follows over restarts of the supervisor.
    ///
    /// # Errors
    /// As any call; a break while opening is not retried.
    pub async fn stats(&self, request: StatsRequest) -> Result<StatsStream, Error> {
        let open = self.containers().stats(request.clone()).await;
        let stream = open.map_err(|status| self.error("Stats", status))?.into_inner();
        let mut backoff = self.backoff();
        backoff.opened(Instant::now());
        Ok(StatsStream { client: self.clone(), request, stream: Some(stream), backoff })
    }
}

/// What containers use, turn by turn.
#[derive(Debug)]
pub struct StatsStream {
    client: Client,
    request: StatsRequest,
    stream: Option<Streaming<StatsResponse>>,
    backoff: Backoff,
}

impl StatsStream {
    /// The next turn; None at the end.
    ///
    /// # Errors
    /// The server's refusal, or the last failure when patience is at an end.
    pub async fn next(&mut self) -> Result<Option<Vec<ContainerStats>>, Error> {
        loop {
            let status = if let Some(stream) = &mut self.stream {
                match stream.message().await {
                    Ok(Some(answer)) => {
                        self.backoff.reset();
                        return Ok(Some(answer.stats));
                    }
                    Ok(None) => return Ok(None),
                    Err(status) => status,
                }
            } else {
                match self.client.containers().stats(self.request.clone()).await {
                    Ok(stream) => {
                        self.backoff.opened(Instant::now());
                        self.stream = Some(stream.into_inner());
                        continue;
                    }
                    Err(status) => status,
                }
            };
            self.stream = None;
            self.backoff.retry(self.client.error("Stats", status)).await?;
        }
    }
}

/// A container's log, entry by entry.
#[derive(Debug)]
pub struct LogStream {
    client: Client,
    request: LogsRequest,
    stream: Option<Streaming<LogsResponse>>,
    backoff: Backoff,
}

impl LogStream {
    /// The next entries; None at the end. May be dropped at any await and called again.
    ///
    /// # Errors
    /// The server's refusal, or the last failure when patience is at an end.
    pub async fn next(&mut self) -> Result<Option<Vec<LogEntry>>, Error> {
        loop {
            let status = if let Some(stream) = &mut self.stream {
                match stream.message().await {
                    Ok(Some(answer)) => {
                        self.backoff.reset();
                        if let Some(last) =
                            answer.entries.iter().rev().find(|e| !e.cursor.is_empty())
                        {
                            self.request.cursor.clone_from(&last.cursor);
                        }
                        return Ok(Some(answer.entries));
                    }
                    Ok(None) => return Ok(None),
                    Err(status) => status,
                }
            } else {
                match self.client.containers().logs(self.request.clone()).await {
                    Ok(stream) => {
                        self.backoff.opened(Instant::now());
                        self.stream = Some(stream.into_inner());
                        continue;
                    }
                    Err(status) => status,
                }
            };
            self.stream = None;
            self.backoff.retry(self.client.error("Logs", status)).await?;
        }
    }
}

/// The journal, event by event.
#[derive(Debug)]
pub struct EventStream {
    client: Client,
    request: SubscribeRequest,
    stream: Option<Streaming<Event>>,
    backoff: Backoff,
}

impl EventStream {
    /// The next event; None at the end. May be dropped at any await and called again.
    ///
    /// # Errors
    /// The server's refusal, or the last failure when patience is at an end.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            let status = if let Some(stream) = &mut self.stream {
                match stream.message().await {
                    Ok(Some(event)) => {
                        self.backoff.reset();
                        self.request.from_sequence = event.sequence + 1;
                        self.request.since = None;
                        return Ok(Some(event));
                    }
                    Ok(None) => return Ok(None),
                    Err(status) => status,
                }
            } else {
                match self.client.journal().subscribe(self.request.clone()).await {
                    Ok(stream) => {
                        self.backoff.opened(Instant::now());
                        self.stream = Some(stream.into_inner());
                        continue;
                    }
                    Err(status) => status,
                }
            };
            self.stream = None;
            self.backoff.retry(self.client.error("Subscribe", status)).await?;
        }
    }
}
