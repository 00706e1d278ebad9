//! Text generation: from a request to a stream of steps.
//!
//! The engine reports through a callback that must not block; this service turns it into a
//! channel that an async reader drains. The channel holds everything that a request can produce,
//! so a slow reader delays nobody, and a reader that is gone is noticed at the next piece.
//! Several prompts of one request are submitted one by one and reported as one generation.
//!
//! Limits: [`PROMPTS_MAX`] prompts; the time to the first step and between two steps is bounded.

use std::time::Duration;

use aither_inference::{
    Engine,
    engine::{CancelFlag, EventSink, Flow},
    request::{
        CHOICES_MAX, FinishReason, GenerateRequest, GenerationEvent, GenerationStats, TokenLogprob,
    },
};
use aither_protocol::ErrorCode;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use super::catalog::{ModelCatalog, ModelNotFound};

/// Most prompts in one request.
pub const PROMPTS_MAX: usize = 16;
/// Events of a prompt beside its pieces: `Started`, `Done`, and one to spare.
const EVENTS_PER_PROMPT: usize = 3;
/// Events of a choice beside its tokens: `ChoiceDone`, and text held back for a stop string.
const EVENTS_PER_CHOICE: usize = 4;

/// Why there is no text, or no more of it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LlmError {
    /// Nobody serves a model of that name.
    #[error(transparent)]
    Model(#[from] ModelNotFound),
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(#[from] aither_inference::Error),
    /// Nothing came for too long.
    #[error("the model produced nothing for {} s", after.as_secs())]
    TimedOut {
        /// How long it was waited.
        after: Duration,
    },
    /// An answer that was wanted whole was not complete in time.
    #[error(
        "the answer was not complete after {} s; ask for fewer tokens, stream it, or raise \
         http.request_timeout",
        after.as_secs()
    )]
    TooLong {
        /// How long it was waited.
        after: Duration,
    },
    /// The engine dropped the request without a word: a defect.
    #[error("the inference engine dropped the request")]
    Dropped,
}

impl LlmError {
    /// Returns the code for the outside.
    pub fn code(&self) -> ErrorCode {
        use aither_inference::Error as Engine;
        match self {
            Self::Model(_) => ErrorCode::ModelNotFound,
            Self::TimedOut { .. } | Self::TooLong { .. } => ErrorCode::TimedOut,
            Self::Dropped => ErrorCode::Internal,
            Self::Engine(error) => match error {
                Engine::ModelNotFound { .. } => ErrorCode::ModelNotFound,
                Engine::PromptTooLong { .. } => ErrorCode::PromptTooLong,
                Engine::InvalidRequest { .. } | Engine::ChatTemplate { .. } => {
                    ErrorCode::ValidationFailed
                }
                Engine::QueueFull { .. }
                | Engine::DeadlineTooSoon { .. }
                | Engine::CacheFull(_)
                | Engine::MachineMemoryShort { .. } => ErrorCode::Overloaded,
                Engine::DeadlineExceeded => ErrorCode::TimedOut,
                Engine::OutOfMemory { .. } => ErrorCode::InsufficientStorage,
                Engine::UnsupportedModel { .. } | Engine::BackendUnavailable { .. } => {
                    ErrorCode::NotAvailable
                }
                Engine::ShuttingDown => ErrorCode::NotReady,
                // The file is the operator's to mend: a retry helps once it is.
                Engine::ModelFile { .. } | Engine::InvalidGguf { .. } => ErrorCode::NotConfigured,
                _ => ErrorCode::Internal,
            },
        }
    }
}

/// How a request stands beside others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Urgency {
    /// Higher ones start first and get more of the tokens.
    pub priority: i32,
    /// After what time the answer is of no more use: then it is broken off, and refused at once
    /// where that can be foreseen.
    pub deadline: Option<Duration>,
}

/// One step of a generation, over all its prompts.
#[derive(Debug, Clone)]
pub enum GenerationStep {
    /// The first prompt is evaluated; text follows.
    Started,
    /// A piece of text.
    Piece {
        /// Which choice; those of the second prompt follow those of the first.
        choice: usize,
        /// The text; may be empty where only log-probabilities are reported.
        text: String,
        /// One entry per model token, when asked for.
        logprobs: Vec<TokenLogprob>,
    },
    /// A choice is complete.
    ChoiceDone {
        /// Which one.
        choice: usize,
        /// Why.
        finish_reason: FinishReason,
    },
    /// Everything is complete: counts and times, summed over the prompts.
    Done(GenerationStats),
}

/// A running generation. Dropping it frees its place in the engine within one model token, or its
/// place in the queue.
#[derive(Debug)]
pub struct Generation {
    model: String,
    events: mpsc::Receiver<GenerationEvent>,
    prompts_left: usize,
    started: bool,
    stats: GenerationStats,
    step_timeout: Duration,
    /// When the next event must be here.
    deadline: Instant,
    /// When an answer that is collected must be whole.
    whole_deadline: Instant,
    /// Reaches requests that wait or evaluate their prompt, whose sinks are not called.
    cancel: CancelFlag,
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// The front of the engine; clones share it.
#[derive(Debug, Clone)]
pub struct LlmService {
    engine: Engine,
    catalog: ModelCatalog,
    step_timeout: Duration,
}

impl LlmService {
    /// Puts the service over an engine. `step_timeout` bounds the wait for the first step and
    /// between two steps.
    pub fn new(engine: Engine, catalog: ModelCatalog, step_timeout: Duration) -> Self {
        Self {
            engine,
            catalog,
            step_timeout,
        }
    }

    /// Returns the catalog behind the names.
    pub fn catalog(&self) -> &ModelCatalog {
        &self.catalog
    }

    /// Submits one request per prompt; they must differ in the prompt only. Their model names
    /// must be registered ones.
    ///
    /// # Errors
    /// The refusal of the first request that is refused; the others are given up.
    ///
    /// # Panics
    /// Never on input: an empty list is answered by [`LlmError::Dropped`].
    pub async fn generate(
        &self,
        mut requests: Vec<GenerateRequest>,
        urgency: Urgency,
    ) -> Result<Generation, LlmError> {
        for request in &mut requests {
            (request.priority, request.deadline) = (urgency.priority, urgency.deadline);
        }
        let Some(first) = requests.first() else {
            return Err(LlmError::Dropped);
        };
        let model = first.model.clone();
        let capacity = requests.iter().map(|r| self.events_max(r)).sum();
        let (sender, events) = mpsc::channel(capacity);
        let prompts = requests.len();
        // Made before admission: a client that hangs up during it cancels by the drop, too.
        let generation = Generation::new(model, prompts, events, self.step_timeout);
        let (engine, cancel) = (self.engine.clone(), generation.cancel.clone());
        // Admission renders the template and counts the prompt's tokens, which is work.
        let admission = tokio::task::spawn_blocking(move || {
            for (index, request) in requests.into_iter().enumerate() {
                let sink = sink_for(&sender, index * request.choices);
                engine.submit_cancellable(request, sink, cancel.clone())?;
            }
            Ok(())
        });
        match admission.await {
            Ok(Ok(())) => Ok(generation),
            Ok(Err(error)) => Err(LlmError::Engine(error)),
            Err(_panicked) => Err(LlmError::Dropped),
        }
    }

    /// Loads a model, or unloads it when `keep_alive` is zero, and waits until that is done.
    ///
    /// # Errors
    /// The model cannot be loaded, or not in time.
    pub async fn preload(
        &self,
        model: &str,
        keep_alive: Option<Duration>,
    ) -> Result<GenerationStats, LlmError> {
        let (sender, events) = mpsc::channel(EVENTS_PER_PROMPT);
        let (engine, name) = (self.engine.clone(), model.to_owned());
        // Admission may read a file's header.
        let admission = tokio::task::spawn_blocking(move || {
            engine.preload(&name, keep_alive, sink_for(&sender, 0))
        });
        admission.await.map_err(|_panicked| LlmError::Dropped)??;
        let mut generation = Generation::new(model.to_owned(), 1, events, self.step_timeout);
        loop {
            if let GenerationStep::Done(stats) = generation.next().await? {
                return Ok(stats);
            }
        }
    }

    /// Returns how many events a request can produce at most.
    fn events_max(&self, request: &GenerateRequest) -> usize {
        let context_length = self
            .engine
            .model(&request.model)
            .map_or(0, |info| info.context_length);
        let pieces = request
            .max_completion_tokens
            .map_or(context_length, |max| max.min(context_length));
        let choices = request.choices.clamp(1, CHOICES_MAX);
        choices * (pieces + EVENTS_PER_CHOICE) + EVENTS_PER_PROMPT
    }
}

impl Generation {
    /// Returns the name of the model that runs.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Waits for the next step. After [`GenerationStep::Done`] there is none. May be dropped and
    /// called again: nothing is lost, and the time limit counts from the last step.
    ///
    /// # Errors
    /// The engine failed, or nothing came for too long. The generation is over then.
    pub async fn next(&mut self) -> Result<GenerationStep, LlmError> {
        loop {
            let event = match timeout_at(self.deadline, self.events.recv()).await {
                Ok(Some(event)) => event,
                Ok(None) => return Err(LlmError::Dropped),
                Err(_elapsed) => {
                    // No further piece is wanted: the engine shall notice.
                    self.cancel.cancel();
                    self.events.close();
                    return Err(LlmError::TimedOut {
                        after: self.step_timeout,
                    });
                }
            };
            if let Some(step) = self.on_event(event)? {
                return Ok(step);
            }
        }
    }

    /// Like [`next`](Self::next), for an answer that is given when it is whole: the time limit
    /// holds for all steps together.
    ///
    /// # Errors
    /// As [`next`](Self::next), and [`LlmError::TooLong`].
    pub async fn next_of_whole(&mut self) -> Result<GenerationStep, LlmError> {
        let after = self.step_timeout;
        if Instant::now() >= self.whole_deadline {
            return Err(LlmError::TooLong { after });
        }
        self.deadline = self.deadline.min(self.whole_deadline);
        match self.next().await {
            Err(LlmError::TimedOut { after }) if self.started => Err(LlmError::TooLong { after }),
            next => next,
        }
    }

    /// Returns a step that is already here, so that several can be sent at once.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn try_next(&mut self) -> Result<Option<GenerationStep>, LlmError> {
        while let Ok(event) = self.events.try_recv() {
            if let Some(step) = self.on_event(event)? {
                return Ok(Some(step));
            }
        }
        Ok(None)
    }

    fn new(
        model: String,
        prompts: usize,
        events: mpsc::Receiver<GenerationEvent>,
        step_timeout: Duration,
    ) -> Self {
        Self {
            model,
            events,
            prompts_left: prompts,
            started: false,
            stats: GenerationStats::default(),
            step_timeout,
            deadline: Instant::now() + step_timeout,
            whole_deadline: Instant::now() + step_timeout,
            cancel: CancelFlag::default(),
        }
    }

    /// Returns a generation that tests feed: one sink per prompt, two choices apart.
    #[cfg(test)]
    pub(crate) fn scripted(prompts: usize, step_timeout: Duration) -> (Vec<EventSink>, Self) {
        let (sender, events) = mpsc::channel(8);
        let sinks = (0..prompts)
            .map(|index| sink_for(&sender, index * 2))
            .collect();
        (sinks, Self::new("m".into(), prompts, events, step_timeout))
    }

    fn on_event(&mut self, event: GenerationEvent) -> Result<Option<GenerationStep>, LlmError> {
        self.deadline = Instant::now() + self.step_timeout;
        match event {
            GenerationEvent::Started { .. } if self.started => Ok(None),
            GenerationEvent::Started { .. } => {
                self.started = true;
                Ok(Some(GenerationStep::Started))
            }
            GenerationEvent::Piece {
                choice,
                text,
                logprobs,
            } => Ok(Some(GenerationStep::Piece {
                choice,
                text,
                logprobs,
            })),
            GenerationEvent::ChoiceDone {
                choice,
                finish_reason,
            } => Ok(Some(GenerationStep::ChoiceDone {
                choice,
                finish_reason,
            })),
            GenerationEvent::Done(stats) => {
                add_stats(&mut self.stats, &stats);
                self.prompts_left = self.prompts_left.saturating_sub(1);
                let all_done = self.prompts_left == 0;
                Ok(all_done.then(|| GenerationStep::Done(self.stats.clone())))
            }
            GenerationEvent::Failed(error) => {
                self.events.close();
                Err(LlmError::Engine(error))
            }
        }
    }
}

/// Returns a sink that forwards to the channel, counting choices from `first_choice`.
fn sink_for(sender: &mpsc::Sender<GenerationEvent>, first_choice: usize) -> EventSink {
    let sender = sender.clone();
    Box::new(move |mut event| {
        if let GenerationEvent::Piece { choice, .. } | GenerationEvent::ChoiceDone { choice, .. } =
            &mut event
        {
            *choice += first_choice;
        }
        // The channel holds all that a request can produce, so "full" would be a defect; to give
        // the request up is then the only answer that cannot block the engine.
        match sender.try_send(event) {
            Ok(()) => Flow::Continue,
            Err(_full_or_closed) => Flow::Cancel,
        }
    })
}

fn add_stats(sum: &mut GenerationStats, stats: &GenerationStats) {
    sum.prompt_tokens += stats.prompt_tokens;
    sum.cached_tokens += stats.cached_tokens;
    sum.completion_tokens += stats.completion_tokens;
    sum.drafted_tokens += stats.drafted_tokens;
    sum.accepted_tokens += stats.accepted_tokens;
    sum.queue_time = sum.queue_time.max(stats.queue_time);
    sum.load_time = sum.load_time.max(stats.load_time);
    sum.prefill_time += stats.prefill_time;
    sum.decode_time += stats.decode_time;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(prompts: usize) -> (Vec<EventSink>, Generation) {
        Generation::scripted(prompts, Duration::from_millis(50))
    }

    fn done(completion_tokens: usize) -> GenerationEvent {
        GenerationEvent::Done(GenerationStats {
            completion_tokens,
            ..GenerationStats::default()
        })
    }

    #[tokio::test]
    async fn several_prompts_are_reported_as_one_generation() {
        let (mut sinks, mut generation) = generation(2);
        for sink in &mut sinks {
            sink(GenerationEvent::Started { prompt_tokens: 3 });
            sink(GenerationEvent::ChoiceDone {
                choice: 1,
                finish_reason: FinishReason::Stop,
            });
            sink(done(4));
        }
        let mut choices = Vec::new();
        let stats = loop {
            match generation.next().await.unwrap() {
                GenerationStep::ChoiceDone { choice, .. } => choices.push(choice),
                GenerationStep::Done(stats) => break stats,
                _ => {}
            }
        };
        assert_eq!(choices, [1, 3]);
        assert_eq!(stats.completion_tokens, 8);
    }

    #[tokio::test]
    async fn a_dropped_generation_cancels_its_request() {
        let (mut sinks, generation) = generation(1);
        assert_eq!(
            sinks[0](GenerationEvent::Started { prompt_tokens: 1 }),
            Flow::Continue
        );
        drop(generation);
        assert_eq!(sinks[0](done(1)), Flow::Cancel);
    }

    #[tokio::test]
    async fn silence_ends_a_generation_and_cancels_it() {
        let (mut sinks, mut generation) = generation(1);
        assert!(matches!(
            generation.next().await,
            Err(LlmError::TimedOut { .. })
        ));
        assert_eq!(sinks[0](done(1)), Flow::Cancel);
    }

    #[tokio::test]
    async fn an_engine_that_forgets_a_request_is_noticed() {
        let (sinks, mut generation) = generation(1);
        drop(sinks);
        assert!(matches!(generation.next().await, Err(LlmError::Dropped)));
    }
}
