//! A request on its way through the engine: waiting, then running.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    EventSink,
    catalogue::Registered,
    model::LoadedParts,
    residency::{CacheNeed, LoadSpan, Need},
    text_side::TextSide,
};
use crate::{
    generate::{DraftCounts, Generation, Progress, Work},
    request::GenerationStats,
};

/// Cancels a request from outside, also while it waits or its prompt is evaluated, when its sink
/// is not called. Clones share the flag.
#[derive(Debug, Clone, Default)]
pub struct CancelFlag {
    is_set: Arc<AtomicBool>,
}

/// An admitted request that waits.
pub(super) struct Job {
    /// Tells jobs apart.
    pub(super) serial: u64,
    pub(super) registered: Arc<Registered>,
    /// Keeps the vocabulary, even if the model is not loaded yet.
    pub(super) text: Arc<TextSide>,
    pub(super) work: Work,
    pub(super) cache: CacheNeed,
    pub(super) keep_alive: Option<Duration>,
    pub(super) priority: i32,
    pub(super) sink: EventSink,
    pub(super) cancel: CancelFlag,
    pub(super) submitted: Instant,
}

/// A wish to have a model in memory.
pub(super) struct Preload {
    pub(super) registered: Arc<Registered>,
    pub(super) keep_alive: Option<Duration>,
    pub(super) sink: EventSink,
    pub(super) submitted: Instant,
}

/// A running request.
pub(super) struct Run {
    pub(super) registered: Arc<Registered>,
    pub(super) generation: Generation,
    pub(super) cache: CacheNeed,
    pub(super) keep_alive: Option<Duration>,
    pub(super) sink: EventSink,
    pub(super) cancel: CancelFlag,
    /// Stays while the request runs, whatever is unloaded meanwhile.
    pub(super) parts: LoadedParts,
    /// Tokens and drafts that are in the engine's counts.
    pub(super) counted: (usize, DraftCounts),
    waited: Waited,
    started: Instant,
    /// When the prompt was complete.
    prefilled: Option<Instant>,
}

/// Where the time before the start went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waited {
    queue_time: Duration,
    load_time: Duration,
}

impl CancelFlag {
    /// Ends the request before its next token.
    pub fn cancel(&self) {
        self.is_set.store(true, Ordering::Relaxed);
    }

    /// Whether the request is to end.
    pub fn is_cancelled(&self) -> bool {
        self.is_set.load(Ordering::Relaxed)
    }
}

impl Job {
    pub(super) fn need(&self) -> Need<'_> {
        need(&self.registered, self.cache)
    }
}

impl Preload {
    pub(super) fn need(&self) -> Need<'_> {
        let cache = CacheNeed {
            bytes: 0,
            bytes_max: 0,
        };
        need(&self.registered, cache)
    }

    /// Returns what is reported once the model is there.
    pub(super) fn stats(&self, load: LoadSpan, now: Instant) -> GenerationStats {
        let waited = Waited::between(self.submitted, load, now);
        GenerationStats {
            queue_time: waited.queue_time,
            load_time: waited.load_time,
            ..GenerationStats::default()
        }
    }
}

impl Run {
    /// Starts a job on its loaded model.
    pub(super) fn start(job: Job, parts: LoadedParts, load: LoadSpan, now: Instant) -> Self {
        Self {
            registered: job.registered,
            generation: Generation::new(job.work, job.text),
            cache: job.cache,
            keep_alive: job.keep_alive,
            sink: job.sink,
            cancel: job.cancel,
            parts,
            counted: (0, DraftCounts::default()),
            waited: Waited::between(job.submitted, load, now),
            started: now,
            prefilled: None,
        }
    }

    /// Notes when the prompt is complete; returns whether it has just become so.
    pub(super) fn note(&mut self, progress: Progress, now: Instant) -> bool {
        let is_first = self.prefilled.is_none() && progress != Progress::Prefilling;
        if is_first {
            self.prefilled = Some(now);
        }
        is_first
    }

    /// Whether the prompt is complete.
    pub(super) fn is_prefilled(&self) -> bool {
        self.prefilled.is_some()
    }

    /// Drops all but the receiver.
    pub(super) fn into_sink(self) -> EventSink {
        self.sink
    }

    pub(super) fn stats(&self, now: Instant) -> GenerationStats {
        let prefilled = self.prefilled.unwrap_or(now);
        let drafts = self.generation.drafts();
        GenerationStats {
            prompt_tokens: self.generation.prompt_tokens(),
            cached_tokens: self.generation.cached_tokens(),
            completion_tokens: self.generation.completion_tokens(),
            drafted_tokens: drafts.drafted,
            accepted_tokens: drafts.accepted,
            queue_time: self.waited.queue_time,
            load_time: self.waited.load_time,
            prefill_time: prefilled.saturating_duration_since(self.started),
            decode_time: now.saturating_duration_since(prefilled),
        }
    }
}

impl Waited {
    /// Splits the time from `submitted` to `now`: the part in which the model was read counts as
    /// loading, the rest as waiting.
    fn between(submitted: Instant, load: LoadSpan, now: Instant) -> Self {
        let begin = load.started.max(submitted);
        let load_time = load.finished.min(now).saturating_duration_since(begin);
        let total = now.saturating_duration_since(submitted);
        Self {
            queue_time: total.saturating_sub(load_time),
            load_time,
        }
    }
}

fn need(registered: &Registered, cache: CacheNeed) -> Need<'_> {
    Need {
        id: registered.id,
        name: &registered.info.name,
        expected_bytes: registered.expected_bytes(),
        cache,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_which_the_model_was_read_is_not_queue_time() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let waited = |submitted, started, finished, now| {
            let load = LoadSpan {
                started: at(started),
                finished: at(finished),
            };
            let waited = Waited::between(at(submitted), load, at(now));
            (waited.queue_time.as_secs(), waited.load_time.as_secs())
        };
        assert_eq!(waited(0, 2, 5, 6), (3, 3));
        assert_eq!(waited(3, 2, 5, 6), (1, 2), "the load had begun before");
        assert_eq!(waited(6, 2, 5, 8), (2, 0), "the model was there");
    }

    #[test]
    fn clones_of_a_cancel_flag_share_it() {
        let flag = CancelFlag::default();
        let clone = flag.clone();
        assert!(!clone.is_cancelled());
        flag.cancel();
        assert!(clone.is_cancelled());
    }
}
