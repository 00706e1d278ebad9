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
    Counters, EventSink, Flow, Shared,
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
        self.resume(state, now);
        let runs = &mut self.runs;
        let pass = state.schedule.compose(|id| {
            let run = runs.get_mut(&id)?;
            run.generation.catch_up(&mut **run.parts.decoder());
            Some(run.generation.want())
        });
        pass.map(Next::Pass)
    }

    /// Lets suspended requests go on where there is room again.
    fn resume(&self, state: &mut State, now: Instant) {
        let mut free: BTreeMap<ModelId, usize> = BTreeMap::new();
        state.schedule.resume(now, |id, is_alone| {
            let Some(run) = self.runs.get(&id) else {
                return true;
            };
            let free = free.entry(run.registered.id).or_insert_with(|| {
                let decoder = run.parts.decoder();
                let counts = decoder.page_counts();
                counts.max.saturating_sub(counts.existing) + decoder.evictable()
            });
            let wanted = run.generation.pages_to_go_on();
            let has_room = is_alone || wanted < *free;
            *free = free.saturating_sub(wanted);
            has_room
        });
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Load(registered) => {
                // What it will take may be in use as cache.
                self.shrink_caches();
                load(&self.shared, registered);
            }
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
            Effect::Balance => self.shrink_caches(),
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
        if rows > 0 {
            self.shared.lock().schedule.passed(pass, rows, took);
            self.shared.counters.count_pass(rows, took);
        }
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
        if self.evict_idle() {
            return true;
        }
        let victim = self.suspend_one();
        planned.retain(|planned| Some(planned.id) != victim);
        victim.is_some()
    }

    /// Has the least urgent request give back what was evaluated. Returns which one, unless there
    /// is none beside the last.
    fn suspend_one(&mut self) -> Option<RunId> {
        let victim = self.shared.lock().schedule.suspend_one(self.shared.now())?;
        // One that is about to start has nothing to give back.
        if let Some(run) = self.runs.get_mut(&victim) {
            run.generation.suspend(&mut **run.parts.decoder());
        }
        let suspended = &self.shared.counters.suspended;
        suspended.fetch_add(1, Ordering::Relaxed);
        Some(victim)
    }

    /// Shares out among the models what caches may take; pages that nobody uses go where there is
    /// less than there was. Returns whether what is left is still too much.
    fn balance(&self) -> bool {
        let models = self.models();
        let mut state = self.shared.lock();
        let budget_bytes = state.residency.cache_budget_bytes();
        let held = |parts: &LoadedParts| {
            let decoder = parts.decoder();
            let pages = decoder.page_counts().existing as u64;
            pages.saturating_mul(decoder.page_bytes())
        };
        let mut all_bytes: u64 = models.iter().map(|(_, parts)| held(parts)).sum();
        for (id, parts) in &models {
            let others_bytes = all_bytes.saturating_sub(held(parts));
            let mut decoder = parts.decoder();
            let page_bytes = decoder.page_bytes();
            let pages_max = budget_bytes.saturating_sub(others_bytes) / page_bytes.max(1);
            decoder.set_pages_max(usize::try_from(pages_max).unwrap_or(usize::MAX));
            let counts = decoder.page_counts();
            drop(decoder);
            all_bytes = others_bytes.saturating_add(held(parts));
            let (pages, pages_max) = (counts.existing, pages_max as usize);
            state
                .residency
                .note_cache(*id, pages, pages_max, page_bytes);
        }
        all_bytes > budget_bytes
    }

    /// Shares out anew what caches may take. Where that is too little, idle models leave, then
    /// requests give back what was evaluated.
    fn shrink_caches(&mut self) {
        while self.balance() && (self.evict_idle() || self.suspend_one().is_some()) {}
        self.note_idle_pages();
    }

    /// Lets go of the least recently used model that nobody runs on, if there is one.
    fn evict_idle(&self) -> bool {
        let idle = self.shared.lock().residency.evict_idle();
        idle.is_some()
    }

    /// Counts the pages that nobody uses, for the status. It looks at each of them, so this is for
    /// moments that are rarer than passes.
    fn note_idle_pages(&self) {
        for (id, parts) in self.models() {
            let idle = parts.decoder().evictable();
            self.shared.lock().residency.note_idle_pages(id, idle);
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
        let mut stats = run.stats(now);
        if !run.is_prefilled() {
            // Nothing came of the part of the prompt that was evaluated.
            stats.prompt_tokens = 0;
        }
        let is_whole = matches!(end, End::Finished);
        let (model, cache, keep_alive) = (run.registered.id, run.cache, run.keep_alive);
        let sink = run.into_sink();
        let mut state = self.shared.lock();
        state.schedule.finished(id, is_whole);
        state.residency.release(model, cache, keep_alive, now);
        if matches!(end, End::Cancelled) {
            // Whoever sees the place free sees why.
            let cancelled = &self.shared.counters.cancelled;
            cancelled.fetch_add(1, Ordering::Relaxed);
        }
        drop(state);
        // The status is true before anybody is told.
        self.balance();
        self.note_idle_pages();
        match end {
            End::Finished => deliver(sink, GenerationEvent::Done(stats)),
            End::Failed(error) => {
                tracing::warn!(%error, "a generation failed");
                deliver(sink, GenerationEvent::Failed(error));
            }
            End::Cancelled => deliver(sink, GenerationEvent::Cancelled(stats)),
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
    let is_busy = shared.lock().schedule.running_len() > 0;
    let decoder = shared.loader.load(&registered.open()?, is_busy)?;
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
