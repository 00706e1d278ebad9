//! The engine's thread: the only one that runs model code and calls sinks.
//!
//! It asks [`State`](super::state::State) what to do, does it without holding the lock, then runs
//! one pass and asks again; so nobody waits longer than one pass for a cancellation, a start or a
//! turn. Where a pass needs more of the cache than there is, what is kept for requests to come goes
//! first, then idle models, then the least urgent request gives back what was evaluated and goes on
//! later. A panic in a sink ends that one request, one in model code those in the pass.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, PoisonError, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{
    CacheCounts, Counters, EventSink, Flow, Shared,
    catalogue::Registered,
    job::Run,
    model::{LoadedDecoder, LoadedParts},
    residency::ModelId,
    schedule::{Pass, RunId},
    state::{Effect, Phase, State},
};
use crate::{
    error::{Error, Result},
    generate::{Part, Progress},
    logits::LogitRows,
    request::GenerationEvent,
};

/// What to do next without the lock.
pub(super) enum Next {
    Effects(Vec<Effect>),
    End(Vec<(RunId, End)>),
    Pass(Pass),
    /// The time to drain is over.
    CancelAll,
    Stop,
}

/// How a request ended.
pub(super) enum End {
    Finished,
    Cancelled,
    Failed(Error),
}

/// The thread's own state.
pub(super) struct Owner {
    shared: Arc<Shared>,
    runs: BTreeMap<RunId, Run>,
}

/// A request's parts of a pass, and the logits that come of them.
struct Planned {
    id: RunId,
    parts: Vec<Part>,
    logits_len: usize,
}

/// Runs until the engine is shut down.
pub(super) fn run(shared: Arc<Shared>) {
    let stopping = Stopping(Arc::clone(&shared));
    let mut owner = Owner::new(shared);
    loop {
        let next = owner.next();
        if !owner.act(next) {
            break;
        }
    }
    drop(stopping);
}

/// Marks the engine as stopped however the thread ends, so that nobody waits for it.
struct Stopping(Arc<Shared>);

impl Drop for Stopping {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.phase = Phase::Stopped;
        // After a defect something may still wait; its receivers see their sinks dropped.
        let waiting = state.schedule.remove_waiting(|_| true);
        let preloads = std::mem::take(&mut state.preloads);
        drop(state);
        self.0.stopped.notify_all();
        drop((waiting, preloads));
    }
}

impl Owner {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            runs: BTreeMap::new(),
        }
    }

    /// Does what was decided; returns whether to go on.
    pub(super) fn act(&mut self, next: Next) -> bool {
        match next {
            Next::Effects(effects) => effects.into_iter().for_each(|effect| self.perform(effect)),
            Next::End(ended) => ended.into_iter().for_each(|(id, end)| self.end(id, end)),
            Next::Pass(pass) => self.pass(&pass),
            Next::CancelAll => self.cancel_all(),
            Next::Stop => return false,
        }
        true
    }

    /// Waits until there is something to do.
    fn next(&mut self) -> Next {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        loop {
            let now = shared.now();
            if let Some(next) = self.decide(&mut state, now) {
                return next;
            }
            let wake = &shared.wake;
            state = match state.idle_time(now) {
                Some(duration) => {
                    let waited = wake.wait_timeout(state, duration);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => wake.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// What there is to do now, if anything.
    pub(super) fn decide(&mut self, state: &mut State, now: Instant) -> Option<Next> {
        let effects = state.plan(now);
        if !effects.is_empty() {
            return Some(Next::Effects(effects));
        }
        if let Phase::Draining { until } = state.phase {
            if self.runs.is_empty() {
                return Some(Next::Stop);
            }
            if until <= now {
                return Some(Next::CancelAll);
            }
        }
        let cancelled = self
            .runs
            .iter()
            .filter(|(_, run)| run.cancel.is_cancelled());
        let cancelled = cancelled.map(|(id, _)| (*id, End::Cancelled));
        let late = state.schedule.late(now).into_iter();
        let late = late.map(|id| (id, End::Failed(Error::DeadlineExceeded)));
        let ended: Vec<_> = cancelled.chain(late).collect();
        if !ended.is_empty() {
            return Some(Next::End(ended));
        }
        self.resume();
        let runs = &self.runs;
        let pass = state.schedule.compose(|id| runs.get(&id)?.want());
        pass.map(Next::Pass)
    }

    /// Lets suspended requests go on where there is room again, the first that started first.
    fn resume(&mut self) {
        let mut is_nobody_running = self.runs.values().all(|run| run.is_suspended);
        for run in self.runs.values_mut().filter(|run| run.is_suspended) {
            let counts = run.parts.decoder().page_counts();
            let free = counts.max.saturating_sub(counts.existing) + counts.evictable;
            if is_nobody_running || free > run.generation.pages_to_go_on() {
                run.is_suspended = false;
                is_nobody_running = false;
            }
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Load(registered) => load(&self.shared, registered),
            Effect::Run {
                id,
                job,
                parts,
                load,
            } => {
                let now = self.shared.now();
                self.runs.insert(id, Run::start(*job, parts, load, now));
            }
            Effect::Fail(sink, error) => deliver(sink, GenerationEvent::Failed(error)),
            Effect::Preloaded(sink, stats) => deliver(sink, GenerationEvent::Done(stats)),
            Effect::Forget(job) => {
                self.shared
                    .counters
                    .cancelled
                    .fetch_add(1, Ordering::Relaxed);
                drop(job);
            }
            Effect::Unload(models) => drop(models),
            Effect::Balance => self.balance(),
        }
    }

    /// Evaluates what several requests want, and hands them what came of it.
    fn pass(&mut self, pass: &Pass) {
        let Some(parts) = self.parts_of(pass) else {
            return;
        };
        self.balance();
        let begun = self.shared.now();
        let mut planned = self.plan(pass, &mut **parts.decoder());
        let outcome = self.evaluate(&mut planned, &parts);
        let outcomes = match outcome {
            // Whose fault it was shows when each is alone.
            Err(_) if planned.len() > 1 => planned
                .into_iter()
                .map(|planned| {
                    let mut alone = vec![planned];
                    let outcome = self.evaluate(&mut alone, &parts);
                    (alone, outcome)
                })
                .collect(),
            outcome => vec![(planned, outcome)],
        };
        let took = self.shared.now().saturating_duration_since(begun);
        let planned = outcomes.iter().flat_map(|(planned, _)| planned);
        let rows = planned.flat_map(|planned| &planned.parts);
        let rows = rows.map(|part| part.ids.len()).sum();
        self.shared.lock().schedule.passed(pass, rows, took);
        self.shared.counters.count_pass(rows, took);
        let alone = (pass.shares.len() == 1).then_some(took);
        for (planned, outcome) in outcomes {
            self.hand_out(&planned, outcome, &parts, alone);
        }
    }

    /// Hands requests what came of a pass.
    fn hand_out(
        &mut self,
        planned: &[Planned],
        outcome: Result<LogitRows>,
        parts: &LoadedParts,
        alone: Option<Duration>,
    ) {
        let mut ended = Vec::new();
        match outcome {
            Ok(logits) => {
                let mut decoder = parts.decoder();
                let mut logits = logits.iter();
                for planned in planned {
                    let mut own = logits.by_ref().take(planned.logits_len);
                    let end = self.take(planned.id, &mut **decoder, &mut own, alone);
                    own.for_each(drop);
                    ended.extend(end.map(|end| (planned.id, end)));
                }
            }
            Err(error) => {
                let failed = planned.iter().map(|planned| planned.id);
                ended.extend(failed.map(|id| (id, End::Failed(error.clone()))));
            }
        }
        for (id, end) in ended {
            self.end(id, end);
        }
    }

    /// The model of a pass.
    fn parts_of(&self, pass: &Pass) -> Option<LoadedParts> {
        let share = pass.shares.first()?;
        Some(self.runs.get(&share.id)?.parts.clone())
    }

    fn plan(&mut self, pass: &Pass, decoder: &mut dyn LoadedDecoder) -> Vec<Planned> {
        let is_alone = pass.shares.len() == 1;
        let shares = pass.shares.iter().filter_map(|share| {
            let run = self.runs.get_mut(&share.id)?;
            let parts = run.generation.plan(decoder, share.rows, is_alone);
            Some(Planned {
                id: share.id,
                logits_len: parts.iter().map(Part::logits_len).sum(),
                parts,
            })
        });
        shares.collect()
    }

    /// Runs the model, making room where there is none.
    fn evaluate(&mut self, planned: &mut Vec<Planned>, parts: &LoadedParts) -> Result<LogitRows> {
        loop {
            let all: Vec<Part> = planned.iter().flat_map(|of| of.parts.clone()).collect();
            if all.is_empty() {
                return Ok(LogitRows::default());
            }
            let mut decoder = parts.decoder();
            let result = catch_unwind(AssertUnwindSafe(|| decoder.extend(&all)));
            let missing_bytes = |missing| decoder.page_bytes().saturating_mul(missing as u64);
            match result.unwrap_or_else(|panic| Err(panicked("a pass", &*panic))) {
                Err(Error::CacheFull(full)) => {
                    let missing_bytes = missing_bytes(full.missing);
                    drop(decoder);
                    if !self.make_room(missing_bytes, planned) {
                        return Err(Error::CacheFull(full));
                    }
                    self.balance();
                }
                outcome => return outcome,
            }
        }
    }

    /// Frees memory for a pass; returns whether anything was freed.
    fn make_room(&mut self, missing_bytes: u64, planned: &mut Vec<Planned>) -> bool {
        let mut freed_bytes = 0_u64;
        for (_, parts) in self.models() {
            let mut decoder = parts.decoder();
            let page_bytes = decoder.page_bytes().max(1);
            let wanted = missing_bytes
                .saturating_sub(freed_bytes)
                .div_ceil(page_bytes);
            freed_bytes += decoder.evict(wanted as usize) as u64 * page_bytes;
        }
        if freed_bytes > 0 {
            return true;
        }
        let idle = self.shared.lock().residency.evict_idle();
        idle.is_some() || self.suspend_one(planned)
    }

    /// Has the least urgent request give back what was evaluated; returns whether there was one
    /// beside the last.
    fn suspend_one(&mut self, planned: &mut Vec<Planned>) -> bool {
        let is_active = |id: &RunId| self.runs.get(id).is_some_and(|run| !run.is_suspended);
        let order = self.shared.lock().schedule.by_urgency(self.shared.now());
        let active: Vec<RunId> = order.into_iter().filter(is_active).collect();
        let (Some(victim), true) = (active.first(), active.len() > 1) else {
            return false;
        };
        let Some(run) = self.runs.get_mut(victim) else {
            return false;
        };
        run.generation.suspend(&mut **run.parts.decoder());
        run.is_suspended = true;
        planned.retain(|planned| planned.id != *victim);
        let suspended = &self.shared.counters.suspended;
        suspended.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Shares out among the models what caches may take.
    fn balance(&self) {
        let models = self.models();
        let mut state = self.shared.lock();
        let budget_bytes = state.residency.cache_budget_bytes();
        let mut held = Vec::with_capacity(models.len());
        for (id, parts) in &models {
            let decoder = parts.decoder();
            let (counts, page_bytes) = (decoder.page_counts(), decoder.page_bytes());
            let cache = CacheCounts {
                pages: counts.existing,
                pages_idle: counts.evictable,
                pages_max: counts.max,
                page_bytes,
            };
            state.residency.note_cache(*id, cache);
            held.push((counts.existing as u64).saturating_mul(page_bytes));
        }
        drop(state);
        let all_bytes: u64 = held.iter().sum();
        for ((_, parts), held_bytes) in models.iter().zip(held) {
            let mut decoder = parts.decoder();
            let may_have = budget_bytes.saturating_sub(all_bytes - held_bytes);
            let pages_max = may_have / decoder.page_bytes().max(1);
            decoder.set_pages_max(usize::try_from(pages_max).unwrap_or(usize::MAX));
        }
    }

    /// The loaded models. Those that are retired and still run are among them.
    fn models(&self) -> Vec<(ModelId, LoadedParts)> {
        let state = self.shared.lock();
        let models = state.residency.models();
        models.map(|(id, parts)| (id, parts.clone())).collect()
    }

    /// Hands a request its logits; returns whether it ends.
    fn take(
        &mut self,
        id: RunId,
        decoder: &mut dyn LoadedDecoder,
        logits: &mut dyn Iterator<Item = &[f32]>,
        alone: Option<Duration>,
    ) -> Option<End> {
        let run = self.runs.get_mut(&id)?;
        run.generation.note_duration(alone);
        let (generation, sink) = (&mut run.generation, &mut run.sink);
        let taken = catch_unwind(AssertUnwindSafe(|| generation.take(decoder, logits, sink)));
        let progress = taken.unwrap_or_else(|panic| Err(panicked("a request", &*panic)));
        let counters = &self.shared.counters;
        counters.count_step(run);
        match progress {
            Ok(progress) => {
                let is_evaluated = progress != Progress::Cancelled;
                if run.note(progress, self.shared.now()) && is_evaluated {
                    let prompt_tokens = run.generation.prompt_tokens() as u64;
                    let cached_tokens = run.generation.cached_tokens() as u64;
                    for (counter, added) in [
                        (&counters.prompt_tokens, prompt_tokens),
                        (&counters.cached_tokens, cached_tokens),
                    ] {
                        counter.fetch_add(added, Ordering::Relaxed);
                    }
                }
                match progress {
                    Progress::Prefilling | Progress::Decoding => None,
                    Progress::Finished => Some(End::Finished),
                    Progress::Cancelled => Some(End::Cancelled),
                }
            }
            Err(error) => Some(End::Failed(error)),
        }
    }

    /// Frees what a request holds, then tells its receiver.
    fn end(&mut self, id: RunId, end: End) {
        let Some(mut run) = self.runs.remove(&id) else {
            return;
        };
        run.generation.suspend(&mut **run.parts.decoder());
        let now = self.shared.now();
        let stats = run.stats(now);
        let is_whole = matches!(end, End::Finished);
        let (model, cache_bytes, keep_alive) = (run.registered.id, run.cache_bytes, run.keep_alive);
        let sink = run.into_sink();
        let mut state = self.shared.lock();
        state.schedule.finished(id, is_whole);
        state.residency.release(model, cache_bytes, keep_alive, now);
        drop(state);
        // The status is true before anybody is told.
        self.balance();
        match end {
            End::Finished => deliver(sink, GenerationEvent::Done(stats)),
            End::Failed(error) => {
                tracing::warn!(%error, "a generation failed");
                deliver(sink, GenerationEvent::Failed(error));
            }
            End::Cancelled => {
                self.shared
                    .counters
                    .cancelled
                    .fetch_add(1, Ordering::Relaxed);
                drop_caught(sink);
            }
        }
    }

    fn cancel_all(&mut self) {
        let ids: Vec<RunId> = self.runs.keys().copied().collect();
        for id in ids {
            self.end(id, End::Failed(Error::ShuttingDown));
        }
    }
}

impl Counters {
    fn count_pass(&self, rows: usize, took: Duration) {
        for (counter, added) in [
            (&self.passes, 1),
            (&self.rows, rows as u64),
            (&self.pass_nanos, took.as_nanos() as u64),
        ] {
            counter.fetch_add(added, Ordering::Relaxed);
        }
    }

    /// Counts what a pass added to a request's own counts.
    fn count_step(&self, run: &mut Run) {
        let (completion_tokens, drafts) = run.counted;
        run.counted = (run.generation.completion_tokens(), run.generation.drafts());
        let (tokens, now) = run.counted;
        for (counter, added) in [
            (&self.completion_tokens, tokens - completion_tokens),
            (&self.drafted_tokens, now.drafted - drafts.drafted),
            (&self.accepted_tokens, now.accepted - drafts.accepted),
        ] {
            counter.fetch_add(added as u64, Ordering::Relaxed);
        }
    }
}

fn panicked(what: &str, panic: &(dyn std::any::Any + Send)) -> Error {
    Error::Internal {
        message: format!("{what} panicked: {}", panic_words(panic)),
    }
}

/// Hands a receiver its last event. A sink that panics has only itself to blame.
fn deliver(mut sink: EventSink, event: GenerationEvent) {
    let delivered = catch_unwind(AssertUnwindSafe(|| {
        let _: Flow = sink(event);
    }));
    if delivered.is_err() {
        tracing::error!("an event sink panicked");
    }
    drop_caught(sink);
}

fn drop_caught(sink: EventSink) {
    if catch_unwind(AssertUnwindSafe(|| drop(sink))).is_err() {
        tracing::error!("an event sink panicked while it was dropped");
    }
}

/// Starts the thread that reads a model; its result wakes the engine.
fn load(shared: &Arc<Shared>, registered: Arc<Registered>) {
    let for_thread = Arc::clone(shared);
    let name = registered.info.name.clone();
    let spawned = thread::Builder::new()
        .name("model-loader".into())
        .spawn(move || {
            let started = for_thread.now();
            let read = || read_model(&for_thread, &registered);
            let result = catch_unwind(AssertUnwindSafe(read))
                .unwrap_or_else(|panic| Err(panicked("loading", &*panic)));
            let duration = for_thread.now().saturating_duration_since(started);
            log_load(&registered, &result, duration);
            for_thread.lock().arrived = Some(result);
            for_thread.wake.notify_all();
        });
    if let Err(error) = spawned {
        shared.lock().arrived = Some(Err(Error::Internal {
            message: format!("cannot start a thread to load {name:?}: {error}"),
        }));
    }
}

fn read_model(shared: &Shared, registered: &Registered) -> Result<LoadedParts> {
    let text = registered.text()?;
    let decoder = shared.loader.load(&registered.open()?)?;
    Ok(LoadedParts::new(decoder, text))
}

fn log_load(registered: &Registered, result: &Result<LoadedParts>, duration: Duration) {
    let model = registered.info.name.as_str();
    match result {
        Ok(parts) => {
            let weight_bytes = parts.decoder().weight_bytes();
            tracing::info!(model, weight_bytes, ?duration, "model loaded");
        }
        Err(error) => tracing::warn!(model, %error, "model not loaded"),
    }
}

fn panic_words(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
