//! What a container writes, as a feed: from a place in its log on, followed until it stops.

use std::{io, path::PathBuf, sync::Arc};

use tokio::sync::watch;

use super::{
    Containers, Error,
    machine::{End, State},
    record::Record,
    table::{Attachment, View},
};
use crate::{
    drivers::logs::{Cursor, Entry, LogDriver, LogReader, LogWatch},
    ids::Namespace,
};

/// How soon a log that was renamed and not made again yet is looked for.
const ROTATION_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

/// Where a feed begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// With the oldest that is kept.
    Oldest,
    /// With what the current (or last) start wrote first.
    Start,
    /// With so many lines before the end.
    Tail(u64),
    /// After this place.
    Cursor(String),
}

/// Whether a feed goes on at the end of what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// It ends there.
    No,
    /// Until the container stops.
    UntilStopped,
}

/// What comes out of a feed.
#[derive(Debug)]
pub enum Piece {
    /// What was written; not empty.
    Entries(Vec<Entry>),
    /// The last piece: how the container ended, if it has.
    End(Option<End>),
}

/// Output of one container.
#[derive(Debug)]
pub struct Feed {
    path: PathBuf,
    /// `None` while there is no log.
    reader: Option<LogReader>,
    watch: Option<LogWatch>,
    view: watch::Receiver<View>,
    /// The start that is followed.
    number: u64,
}

impl Containers {
    /// The output of a container.
    ///
    /// # Errors
    /// [`Error::Cursor`] when a cursor is not from this log or too old.
    pub async fn output(
        &self,
        namespace: &Namespace,
        container: &str,
        from: From,
        follow: Follow,
    ) -> Result<Feed, Error> {
        let handle = self.tools.table.find(namespace, container)?;
        let record = handle.record();
        let path = self.tools.log_path(&record);
        let rotated = self.tools.log_rules(&record).rotated;
        let from = match (from, log_start(&record)) {
            (From::Start, Some(cursor)) => From::Cursor(cursor.to_owned()),
            (From::Start, None) => From::Oldest,
            (other, _) => other,
        };
        let opening = path.clone();
        let reader = tokio::task::spawn_blocking(move || open(&opening, rotated, &from))
            .await
            .expect("opening a log does not panic")?;
        let watch = match follow {
            Follow::No => None,
            Follow::UntilStopped => Some(LogWatch::new().map_err(|e| read_error(&path, e))?),
        };
        let number = record.state.number();
        Ok(Feed { path, reader, watch, view: handle.view, number })
    }

    /// Refuses for a container that keeps no log.
    ///
    /// # Errors
    /// [`Error::NoLog`], [`Error::NotFound`], [`Error::Ambiguous`].
    pub fn check_log_is_kept(&self, namespace: &Namespace, container: &str) -> Result<(), Error> {
        let record = self.tools.table.find(namespace, container)?.record();
        if self.tools.log_rules(&record).driver == LogDriver::None {
            return Err(Error::NoLog(record.name.clone()));
        }
        Ok(())
    }

    /// The next start of a container, or the current one.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Ambiguous`].
    pub fn next_start(&self, namespace: &Namespace, container: &str) -> Result<NextStart, Error> {
        let handle = self.tools.table.find(namespace, container)?;
        let record = handle.record();
        let (number, live) = (record.state.number(), record.state.is_live());
        Ok(NextStart {
            record,
            view: handle.view.clone(),
            number,
            live,
            attachment: handle.attach(),
        })
    }
}

/// A start that is waited for; whoever waits is attached.
#[derive(Debug)]
pub struct NextStart {
    /// When the waiting began.
    pub record: Arc<Record>,
    view: watch::Receiver<View>,
    number: u64,
    live: bool,
    /// To be kept while output is read.
    pub attachment: Attachment,
}

impl NextStart {
    /// Waits until it runs, or has run. One that ran from the beginning is as wanted.
    ///
    /// # Errors
    /// [`Error::Removed`].
    pub async fn started(&mut self) -> Result<(), Error> {
        if self.live {
            return Ok(());
        }
        let number = self.number;
        let begun = |view: &View| {
            let state = &view.record.state;
            state.number() > number && !matches!(state, State::Starting { .. })
        };
        match self.view.wait_for(|view| view.gone || begun(view)).await {
            Ok(view) if !view.gone => Ok(()),
            _ => Err(Error::Removed(self.record.name.clone())),
        }
    }
}

impl Feed {
    /// Where the feed is, if there is a log.
    #[must_use]
    pub fn cursor(&self) -> Option<Cursor> {
        self.reader.as_ref().map(LogReader::cursor)
    }

    /// The next piece; nothing after [`Piece::End`]. Dropping the future ends the feed.
    ///
    /// # Errors
    /// When the log can't be read.
    pub async fn next(&mut self) -> Result<Piece, Error> {
        loop {
            // Known before the end is looked for: what a container wrote is in its log when its end
            // is told.
            let over = self.over();
            let watched = match &mut self.watch {
                Some(watch) => watch.watch(&self.path).map_err(|e| read_error(&self.path, e))?,
                None => true,
            };
            let entries = self.read().await?;
            if !entries.is_empty() {
                return Ok(Piece::Entries(entries));
            }
            if over || self.watch.is_none() {
                return Ok(Piece::End(self.end()));
            }
            self.wait_for_more(watched).await?;
        }
    }

    fn over(&self) -> bool {
        let view = self.view.borrow();
        view.gone || !view.record.state.is_live() || view.record.state.number() > self.number
    }

    fn end(&self) -> Option<End> {
        self.view.borrow().record.state.end().cloned()
    }

    async fn read(&mut self) -> Result<Vec<Entry>, Error> {
        let Some(mut reader) = self.reader.take() else { return Ok(Vec::new()) };
        let (reader, entries) = tokio::task::spawn_blocking(move || {
            let entries = reader.read();
            (reader, entries)
        })
        .await
        .expect("reading a log does not panic");
        self.reader = Some(reader);
        entries.map_err(|e| read_error(&self.path, e))
    }

    async fn wait_for_more(&mut self, watched: bool) -> Result<(), Error> {
        let Some(watch) = &mut self.watch else { return Ok(()) };
        if !watched {
            tokio::time::sleep(ROTATION_PAUSE).await;
            return Ok(());
        }
        tokio::select! {
            () = watch.changed() => Ok(()),
            // Its task is gone with it: the view stays, and says so.
            _ = self.view.changed() => Ok(()),
        }
    }
}

/// Where the output of the current or last start begins.
fn log_start(record: &Record) -> Option<&str> {
    match &record.state {
        State::Created | State::Removing { .. } => None,
        State::Starting { log_start, .. } => Some(log_start),
        State::Running(run)
        | State::Paused(run)
        | State::Unreachable(run)
        | State::Stopped { run, .. } => Some(&run.log_start),
    }
}

fn open(path: &std::path::Path, rotated: u32, from: &From) -> Result<Option<LogReader>, Error> {
    let opened = match from {
        From::Oldest | From::Start => LogReader::at_start(path, rotated),
        From::Tail(lines) => LogReader::at_tail(path, rotated, *lines),
        From::Cursor(text) => {
            let cursor = text.parse().map_err(|_| Error::Cursor(text.clone()))?;
            match LogReader::at(path, rotated, cursor) {
                Ok(None) => return Err(Error::Cursor(text.clone())),
                Ok(Some(reader)) => Ok(reader),
                Err(e) => Err(e),
            }
        }
    };
    match opened {
        Ok(reader) => Ok(Some(reader)),
        // It was never started.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(read_error(path, e)),
    }
}

fn read_error(path: &std::path::Path, source: io::Error) -> Error {
    Error::File { step: "read the log", path: path.into(), source }
}
