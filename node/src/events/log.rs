//! The handle: reads at once, writes through the queue of the one writer.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use super::{
    EventError, Filter, LogCounts, LogLimits, NewEvent, Page, Recent, Viewer,
    file::{AgentPage, LogFile},
    limits::{RECENT_BYTES_MAX, RECENT_LEN_MAX},
    writer::{Command, Counts, Work, Writer},
};
use crate::accounts::StoreError;

/// The log. Clones share it; with the last one the writer ends.
#[derive(Debug, Clone)]
pub struct EventLog {
    file: Arc<LogFile>,
    recent: Arc<Recent>,
    counts: Arc<Counts>,
    writer: Arc<Writer>,
}

impl EventLog {
    /// Opens the file, or makes it, and starts its writer. `published` is told the number of the
    /// last event that can be seen, on the writer's thread, after each batch.
    ///
    /// # Errors
    /// It is damaged, from a later version, in use, or cannot be read or written.
    pub fn open(
        path: &Path,
        limits: LogLimits,
        published: impl Fn(u64) + Send + 'static,
    ) -> Result<Self, StoreError> {
        let file = Arc::new(LogFile::open(path)?);
        let next = file.next()?;
        let recent = Arc::new(Recent::new(next, RECENT_LEN_MAX, RECENT_BYTES_MAX));
        let counts = Arc::<Counts>::default();
        let writer = Writer::start(Work {
            file: Arc::clone(&file),
            recent: Arc::clone(&recent),
            limits,
            counts: Arc::clone(&counts),
            next,
            published: Box::new(published),
        });
        let writer = writer.map_err(|error| StoreError::Io {
            path: path.to_owned(),
            message: format!("its thread cannot start: {error}"),
        })?;
        Ok(Self {
            file,
            recent,
            counts,
            writer: Arc::new(writer),
        })
    }

    /// Verifies every page and every row of a file that nobody has open.
    ///
    /// # Errors
    /// It is damaged, from a later version, in use, or cannot be read.
    pub fn check(path: &Path) -> Result<LogCounts, StoreError> {
        LogFile::open_verified(path)?.check()
    }

    /// Writes an event. `reply` is called with its number on the writer's thread, once it is
    /// durable and can be seen; where it is dropped uncalled the writer has ended.
    ///
    /// # Errors
    /// Too much waits, or the writer has ended.
    pub fn emit(
        &self,
        event: NewEvent,
        reply: impl FnOnce(Result<u64, EventError>) + Send + 'static,
    ) -> Result<(), EventError> {
        self.writer.send(Command::Emit(event, Box::new(reply)))
    }

    /// Writes an event without anybody waiting for it. Where too much waits it is dropped, and
    /// counted.
    pub fn note(&self, event: NewEvent) {
        if self.writer.send(Command::Note(event)).is_err() {
            self.count_dropped();
        }
    }

    /// Counts an event that is lost.
    pub fn count_dropped(&self) {
        self.counts.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Removes all events that are an agent's or about it.
    ///
    /// # Errors
    /// Too much waits, or the writer has ended.
    pub fn forget_agent(
        &self,
        agent: String,
        reply: impl FnOnce(Result<(), EventError>) + Send + 'static,
    ) -> Result<(), EventError> {
        self.writer.send(Command::Forget(agent, Box::new(reply)))
    }

    /// Has everything made durable that came before, and what is too old removed.
    ///
    /// # Errors
    /// Too much waits, or the writer has ended.
    pub fn sweep(
        &self,
        now_ms: u64,
        reply: impl FnOnce(Result<(), EventError>) + Send + 'static,
    ) -> Result<(), EventError> {
        self.writer.send(Command::Sweep(now_ms, Box::new(reply)))
    }

    /// Returns the last events.
    pub fn recent(&self) -> &Recent {
        &self.recent
    }

    /// Looks into the file for events after a number. Blocks.
    ///
    /// # Errors
    /// The store's.
    pub fn after(&self, filter: &Filter, after: u64) -> Result<Page, EventError> {
        let through = self.recent.last();
        Ok(self.file.after(filter, after, through)?)
    }

    /// Returns the last events of an agent whose numbers are lower than `before`. Blocks.
    ///
    /// # Errors
    /// The store's.
    pub fn of_agent(
        &self,
        (viewer, agent): (Viewer, &str),
        before: u64,
        limit: usize,
    ) -> Result<AgentPage, EventError> {
        Ok(self.file.of_agent((viewer, agent), before, limit)?)
    }

    /// Returns how much there is.
    ///
    /// # Errors
    /// The store's.
    pub fn counts(&self) -> Result<LogCounts, EventError> {
        Ok(self.file.counts()?)
    }

    /// Returns how many events were written since the start, and how many were lost.
    pub fn totals(&self) -> (u64, u64) {
        let counts = &self.counts;
        (
            counts.written.load(Ordering::Relaxed),
            counts.dropped.load(Ordering::Relaxed),
        )
    }

    /// Writes all of it as a log of its own, in a file that is not there yet.
    ///
    /// # Errors
    /// The file cannot be made, or a store fails.
    pub fn copy_to(&self, path: &Path) -> Result<(), StoreError> {
        self.file.copy_to(path)
    }
}
