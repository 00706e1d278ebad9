//! The engine's thread: the only one that runs model code and calls sinks.
//!
//! It asks [`State`](super::state::State) what to do, does it without holding the lock, then steps
//! one running request and asks again; so nobody waits longer than one step for a cancellation, a
//! start or a turn. A panic in model code or in a sink ends that one request.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, PoisonError, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{
    Counters, EventSink, Flow, Shared,
    catalogue::Registered,
    job::Run,
    model::LoadedParts,
    schedule::RunId,
    state::{Effect, Phase},
};
use crate::{
    error::{Error, Result},
    generate::{DraftCounts, Generation, Progress},
    request::GenerationEvent,
};

/// What to do next without the lock.
enum Next {
    Effects(Vec<Effect>),
    Step(RunId),
    /// The time to drain is over.
    CancelAll,
    Stop,
}

/// How a request ended.
enum End {
    Finished,
    Cancelled,
    Failed(Error),
}

/// The thread's own state.
struct Owner {
    shared: Arc<Shared>,
    runs: HashMap<RunId, Run>,
}

/// Runs until the engine is shut down.
pub(super) fn run(shared: Arc<Shared>) {
    let stopping = Stopping(Arc::clone(&shared));
    let mut owner = Owner {
        shared,
        runs: HashMap::new(),
    };
    loop {
        match owner.next() {
            Next::Effects(effects) => effects.into_iter().for_each(|effect| owner.perform(effect)),
            Next::Step(id) => owner.step(id),
            Next::CancelAll => owner.cancel_all(),
            Next::Stop => break,
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
    /// Waits until there is something to do.
    fn next(&self) -> Next {
        let mut state = self.shared.lock();
        loop {
            let now = Instant::now();
            let effects = state.plan(now);
            if !effects.is_empty() {
                return Next::Effects(effects);
            }
            if let Phase::Draining { until } = state.phase {
                if self.runs.is_empty() {
                    return Next::Stop;
                }
                if until <= now {
                    return Next::CancelAll;
                }
            }
            if let Some(id) = state.schedule.turn() {
                return Next::Step(id);
            }
            let wake = &self.shared.wake;
            state = match state.idle_time(now) {
                Some(duration) => {
                    let waited = wake.wait_timeout(state, duration);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => wake.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
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
                self.runs.insert(id, Run::start(*job, parts, load));
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
        }
    }

    /// Lets one request do one piece of work.
    fn step(&mut self, id: RunId) {
        let Some(run) = self.runs.get_mut(&id) else {
            // Not reached: every running id has its run.
            self.shared.lock().schedule.finished(id, false);
            return;
        };
        let begun = Instant::now();
        let before = (run.generation.completion_tokens(), run.generation.drafts());
        let progress = if run.cancel.is_cancelled() {
            Ok(Progress::Cancelled)
        } else {
            step_caught(run)
        };
        let duration = begun.elapsed();
        run.generation.note_duration(duration);
        self.shared.lock().schedule.stepped(id, duration);
        let counters = &self.shared.counters;
        counters.count_step(&run.generation, before);
        let end = match progress {
            Ok(progress) => {
                let is_evaluated = progress != Progress::Cancelled;
                if run.note(progress, Instant::now()) && is_evaluated {
                    let prompt_tokens = run.generation.prompt_tokens() as u64;
                    counters
                        .prompt_tokens
                        .fetch_add(prompt_tokens, Ordering::Relaxed);
                }
                match progress {
                    Progress::Prefilling | Progress::Decoding => return,
                    Progress::Finished => End::Finished,
                    Progress::Cancelled => End::Cancelled,
                }
            }
            Err(error) => End::Failed(error),
        };
        self.end(id, end);
    }

    /// Frees what a request holds, then tells its receiver.
    fn end(&mut self, id: RunId, end: End) {
        let Some(run) = self.runs.remove(&id) else {
            return;
        };
        let now = Instant::now();
        let stats = run.stats(now);
        let is_whole = matches!(end, End::Finished);
        let (model, cache_bytes, keep_alive) = (run.registered.id, run.cache_bytes, run.keep_alive);
        let sink = run.into_sink();
        let mut state = self.shared.lock();
        state.schedule.finished(id, is_whole);
        state.residency.release(model, cache_bytes, keep_alive, now);
        drop(state);
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
    /// Counts what a step added to a generation's own counts.
    fn count_step(&self, generation: &Generation, before: (usize, DraftCounts)) {
        let (completion_tokens, drafts) = before;
        let now = generation.drafts();
        for (counter, added) in [
            (
                &self.completion_tokens,
                generation.completion_tokens() - completion_tokens,
            ),
            (&self.drafted_tokens, now.drafted - drafts.drafted),
            (&self.accepted_tokens, now.accepted - drafts.accepted),
        ] {
            counter.fetch_add(added as u64, Ordering::Relaxed);
        }
    }
}

/// Steps a request; a panic becomes its error.
fn step_caught(run: &mut Run) -> Result<Progress> {
    let (generation, sink) = (&mut run.generation, &mut run.sink);
    catch_unwind(AssertUnwindSafe(|| generation.step(sink))).unwrap_or_else(|panic| {
        Err(Error::Internal {
            message: format!("a step panicked: {}", panic_words(&*panic)),
        })
    })
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
            let started = Instant::now();
            let read = || read_model(&for_thread, &registered);
            let result = catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| {
                Err(Error::Internal {
                    message: format!("loading panicked: {}", panic_words(&*panic)),
                })
            });
            log_load(&registered, &result, started.elapsed());
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
    Ok(LoadedParts {
        decoder,
        _text: text,
    })
}

fn log_load(registered: &Registered, result: &Result<LoadedParts>, duration: Duration) {
    let model = registered.info.name.as_str();
    match result {
        Ok(parts) => {
            let weight_bytes = parts.decoder.weight_bytes();
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
