//! What the engine's handles and its thread share, and the decisions on it.
//!
//! [`State::plan`] decides under the lock and returns what is to be done outside of it: sinks are
//! called, models dropped and threads started only then.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    EventSink,
    catalogue::Registered,
    job::{Job, Preload},
    model::LoadedParts,
    residency::{LoadSpan, ModelId, Place, Residency, TooLarge},
    schedule::{RunId, Schedule, Verdict},
    waits::WaitsByClass,
};
use crate::{error::Error, request::GenerationStats};

/// How often waiting requests are asked whether they are cancelled, while nothing else happens.
const CANCEL_POLL: Duration = Duration::from_millis(50);

/// Everything behind the engine's lock.
pub(super) struct State {
    pub(super) schedule: Schedule<Job>,
    pub(super) residency: Residency<LoadedParts>,
    /// Bounded by the engine's queue length.
    pub(super) preloads: VecDeque<Preload>,
    /// What the loading thread brought; one load runs at a time.
    pub(super) arrived: Option<Result<LoadedParts, Error>>,
    pub(super) phase: Phase,
    pub(super) last_serial: u64,
    pub(super) waits: WaitsByClass,
    /// The machine has more or less memory to give than before.
    pub(super) is_limit_new: bool,
}

/// Where the engine is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Requests are taken.
    Serving,
    /// Running requests may finish until then.
    Draining { until: Instant },
    /// The thread has ended.
    Stopped,
}

/// Something to be done without the lock.
pub(super) enum Effect {
    /// Start a thread that reads this model.
    Load(Arc<Registered>),
    /// Run a request.
    Run {
        id: RunId,
        job: Box<Job>,
        parts: LoadedParts,
        load: LoadSpan,
    },
    /// Tell a receiver that its request failed.
    Fail(EventSink, Error),
    /// Tell a receiver that its model is loaded.
    Preloaded(EventSink, GenerationStats),
    /// A waiting request's receiver has gone.
    Forget(Box<Job>),
    /// Free models' memory.
    Unload(Vec<LoadedParts>),
    /// Share out anew what caches may take.
    Balance,
}

impl State {
    /// Moves everything as far as it can go now.
    pub(super) fn plan(&mut self, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.take_arrived(now, &mut effects);
        let cancelled = self
            .schedule
            .remove_waiting(|job| job.cancel.is_cancelled());
        effects.extend(
            cancelled
                .into_iter()
                .map(|job| Effect::Forget(Box::new(job))),
        );
        let late = self.schedule.remove_late(now).into_iter();
        effects.extend(late.map(|job| Effect::Fail(job.sink, Error::DeadlineExceeded)));
        if self.phase == Phase::Serving {
            self.place_preloads(now, &mut effects);
            self.start_jobs(now, &mut effects);
        } else {
            let waiting = self.schedule.remove_waiting(|_| true);
            let jobs = waiting.into_iter().map(|job| job.sink);
            let sinks = jobs.chain(self.preloads.drain(..).map(|preload| preload.sink));
            effects.extend(sinks.map(|sink| Effect::Fail(sink, Error::ShuttingDown)));
        }
        if std::mem::take(&mut self.is_limit_new) {
            unload(self.residency.shrink(), &mut effects);
            effects.push(Effect::Balance);
        }
        unload(self.residency.expire(now), &mut effects);
        if effects
            .iter()
            .any(|effect| matches!(effect, Effect::Unload(_)))
        {
            let residency = &self.residency;
            let is_loaded = |id| residency.models().any(|(loaded, _)| loaded == id);
            self.schedule.retain_models(is_loaded);
        }
        effects
    }

    /// Returns how long nothing will happen by itself; `None` is for ever.
    pub(super) fn idle_time(&self, now: Instant) -> Option<Duration> {
        let drained = match self.phase {
            Phase::Draining { until } => Some(until),
            _ => None,
        };
        let polled = (self.schedule.waiting_len() > 0).then(|| now + CANCEL_POLL);
        let deadline = self.schedule.next_deadline();
        [drained, polled, deadline, self.residency.next_expiry()]
            .into_iter()
            .flatten()
            .min()
            .map(|next| next.saturating_duration_since(now))
    }

    fn take_arrived(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let Some(arrived) = self.arrived.take() else {
            return;
        };
        let Some(id) = self.residency.loading() else {
            return;
        };
        let error = match arrived {
            Ok(parts) => {
                let weight_bytes = parts.decoder().weight_bytes();
                match self.residency.loaded(parts, weight_bytes, now) {
                    Ok(evicted) => return unload(evicted, effects),
                    Err(TooLarge {
                        model,
                        needed_bytes,
                    }) => {
                        unload(vec![model], effects);
                        let budget_bytes = self.residency.budget_bytes();
                        let name = self.name_of(id);
                        Error::OutOfMemory {
                            name,
                            needed_bytes,
                            budget_bytes,
                        }
                    }
                }
            }
            Err(error) => error,
        };
        self.residency.load_failed();
        self.fail_all(id, &error, effects);
    }

    /// Fails everything that waits for a model which could not be loaded; the next request for it
    /// tries again.
    fn fail_all(&mut self, id: ModelId, error: &Error, effects: &mut Vec<Effect>) {
        let jobs = self.schedule.remove_waiting(|job| job.registered.id == id);
        let jobs = jobs.into_iter().map(|job| job.sink);
        let (failed, kept) = self
            .preloads
            .drain(..)
            .partition::<Vec<_>, _>(|preload| preload.registered.id == id);
        self.preloads = kept.into();
        let sinks = jobs.chain(failed.into_iter().map(|preload| preload.sink));
        effects.extend(sinks.map(|sink| Effect::Fail(sink, error.clone())));
    }

    fn name_of(&mut self, id: ModelId) -> String {
        let preloads = self.preloads.iter().map(|preload| &preload.registered);
        let jobs = self.schedule.waiting().map(|job| &job.registered);
        let mut registered = preloads.chain(jobs);
        let found = registered.find(|registered| registered.id == id);
        found.map_or_else(String::new, |registered| registered.info.name.clone())
    }

    fn place_preloads(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        for _ in 0..self.preloads.len() {
            let Some(preload) = self.preloads.pop_front() else {
                return;
            };
            let decision = self.residency.place(preload.need(), now);
            unload(decision.evicted, effects);
            match decision.place {
                Place::Ready => {
                    let (id, keep_alive) = (preload.registered.id, preload.keep_alive);
                    if let Some(load) = self.residency.touch(id, keep_alive, now) {
                        let stats = preload.stats(load, now);
                        effects.push(Effect::Preloaded(preload.sink, stats));
                    }
                    continue;
                }
                Place::NotNow { needed_bytes } | Place::Never { needed_bytes } => {
                    let is_final = matches!(decision.place, Place::Never { .. });
                    let error = self.no_place(&preload.registered, needed_bytes, is_final);
                    effects.push(Effect::Fail(preload.sink, error));
                    continue;
                }
                Place::StartLoading => {
                    effects.push(Effect::Load(Arc::clone(&preload.registered)));
                }
                Place::Loading | Place::Full => {}
            }
            self.preloads.push_back(preload);
        }
    }

    fn start_jobs(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let mut hopeless = Vec::new();
        loop {
            let residency = &mut self.residency;
            let judge = |job: &Job| {
                let decision = residency.place(job.need(), now);
                unload(decision.evicted, effects);
                match decision.place {
                    Place::Ready => Verdict::Start,
                    Place::Loading => Verdict::LetPass,
                    Place::Full => Verdict::HoldUp,
                    Place::StartLoading => {
                        effects.push(Effect::Load(Arc::clone(&job.registered)));
                        Verdict::LetPass
                    }
                    Place::NotNow { needed_bytes } | Place::Never { needed_bytes } => {
                        let is_final = matches!(decision.place, Place::Never { .. });
                        hopeless.push((job.serial, needed_bytes, is_final));
                        Verdict::LetPass
                    }
                }
            };
            let started = self.schedule.start_next(judge, now);
            let Some((id, job)) = started else { break };
            match self.residency.acquire(job.need(), now) {
                Some((parts, load)) => {
                    let waited = now.saturating_duration_since(job.submitted);
                    self.waits.note(job.priority, waited);
                    let job = Box::new(job);
                    effects.push(Effect::Run {
                        id,
                        job,
                        parts,
                        load,
                    });
                }
                // Not reached: the place was ready.
                None => self.schedule.finished(id, false),
            }
        }
        for (serial, needed_bytes, is_final) in hopeless {
            for job in self.schedule.remove_waiting(|job| job.serial == serial) {
                let error = self.no_place(&job.registered, needed_bytes, is_final);
                effects.push(Effect::Fail(job.sink, error));
            }
        }
    }

    /// Why a request finds no memory, now or ever.
    fn no_place(&self, registered: &Registered, needed_bytes: u64, is_final: bool) -> Error {
        let name = registered.info.name.clone();
        if is_final {
            let budget_bytes = self.residency.budget_bytes();
            return Error::OutOfMemory {
                name,
                needed_bytes,
                budget_bytes,
            };
        }
        Error::MachineMemoryShort {
            name,
            needed_bytes,
            limit_bytes: self.residency.limit_bytes(),
        }
    }
}

fn unload(models: Vec<LoadedParts>, effects: &mut Vec<Effect>) {
    if !models.is_empty() {
        effects.push(Effect::Unload(models));
    }
}
