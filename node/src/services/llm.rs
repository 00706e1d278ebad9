//! Text generation: from a request to a stream of steps.
//!
//! The engine reports through a callback that must not block; this service turns it into a
//! channel that an async reader drains. The channel holds everything that a request can produce,
//! so a slow reader delays nobody, and a reader that is gone is noticed at the next piece.
//! Several prompts of one request are submitted one by one and reported as one generation.
//!
//! What a generation may cost at most is held before it starts. It is over once what it came to is
//! charged: the last step says how much that was.
//!
//! Limits: [`PROMPTS_MAX`] prompts; the time to the first step and between two steps is bounded.

use std::{ops::Deref, sync::Arc, time::Duration};

use aither_inference::{
    Engine,
    engine::{CancelFlag, EventSink, Flow, Prepared},
    request::{FinishReason, GenerateRequest, GenerationEvent, GenerationStats, TokenLogprob},
};
use aither_protocol::{Amount, ErrorCode};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use super::{
    catalog::{ModelCatalog, ModelNotFound},
    embeddings::EmbeddingModelNotFound,
};
use crate::billing::{Billing, BillingError, Charge, Need, Payment, estimate, usage_of};

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
    /// Nobody serves an embedding model of that name.
    #[error(transparent)]
    EmbeddingModel(#[from] EmbeddingModelNotFound),
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
    /// It is not paid for.
    #[error(transparent)]
    Billing(#[from] BillingError),
    /// The engine dropped the request without a word: a defect.
    #[error("the inference engine dropped the request")]
    Dropped,
}

impl LlmError {
    /// Returns the code for the outside.
    pub fn code(&self) -> ErrorCode {
        use aither_inference::Error as Engine;
        match self {
            Self::Model(_) | Self::EmbeddingModel(_) => ErrorCode::ModelNotFound,
            Self::TimedOut { .. } | Self::TooLong { .. } => ErrorCode::TimedOut,
            Self::Dropped => ErrorCode::Internal,
            Self::Billing(error) => error.code(),
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
    /// Everything is complete and charged.
    Done(Finished),
}

/// Counts and times of a generation, summed over its prompts, and what it cost.
#[derive(Debug, Clone, Default)]
pub struct Finished {
    /// The counts and times.
    pub stats: GenerationStats,
    /// What was charged.
    pub cost: Amount,
}

impl Deref for Finished {
    type Target = GenerationStats;

    fn deref(&self) -> &GenerationStats {
        &self.stats
    }
}

/// What comes through the channel.
#[derive(Debug)]
enum Report {
    Event(GenerationEvent),
    Charged(Result<Amount, BillingError>),
}

/// A running generation. Dropping it frees its place in the engine within one model token, or its
/// place in the queue.
#[derive(Debug)]
pub struct Generation {
    model: String,
    events: mpsc::Receiver<Report>,
    prompts_left: usize,
    started: bool,
    finished: Finished,
    /// Where the bill is open. Told that the call failed, it charges nothing.
    charge: Option<Arc<Charge>>,
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
    billing: Billing,
    step_timeout: Duration,
}

impl LlmService {
    /// Puts the service over an engine. `step_timeout` bounds the wait for the first step and
    /// between two steps.
    pub fn new(
        engine: Engine,
        catalog: ModelCatalog,
        billing: Billing,
        step_timeout: Duration,
    ) -> Self {
        Self {
            engine,
            catalog,
            billing,
            step_timeout,
        }
    }

    /// Returns the catalog behind the names.
    pub fn catalog(&self) -> &ModelCatalog {
        &self.catalog
    }

    /// Submits one request per prompt; they must differ in the prompt only. Their model names
    /// must be registered ones. What they may cost is held on the payer's account first.
    ///
    /// # Errors
    /// The payer has or an allowance leaves too little, or the refusal of the first request that
    /// is refused; the others are given up then.
    ///
    /// # Panics
    /// Never on input: an empty list is answered by [`LlmError::Dropped`].
    pub async fn generate(
        &self,
        mut requests: Vec<GenerateRequest>,
        urgency: Urgency,
        payment: &Payment,
    ) -> Result<Generation, LlmError> {
        for request in &mut requests {
            (request.priority, request.deadline) = (urgency.priority, urgency.deadline);
        }
        let is_open_ended = requests
            .iter()
            .any(|request| request.max_completion_tokens.is_none());
        let mut prepared = self.prepare(requests).await?;
        let Some(first) = prepared.first() else {
            return Err(LlmError::Dropped);
        };
        let model = first.model().to_owned();
        let capacity = prepared.iter().map(events_max).sum::<usize>() + 1;
        let (sender, events) = mpsc::channel(capacity);
        let mut generation = Generation::new(model, prepared.len(), events, self.step_timeout);
        let charge = self.bill(&mut prepared, is_open_ended, payment, &sender);
        let charge = Arc::new(charge.await?);
        generation.charge = Some(Arc::clone(&charge));
        let mut first_choice = 0;
        for prepared in prepared {
            let choices = prepared.choices();
            let sink = sink_for(&sender, first_choice, Some(Arc::clone(&charge)));
            let cancel = generation.cancel.clone();
            if let Err(error) = self.engine.submit_prepared(prepared, sink, cancel) {
                charge.fail();
                return Err(error.into());
            }
            first_choice += choices;
        }
        Ok(generation)
    }

    /// Renders templates and counts tokens, which is work.
    async fn prepare(&self, requests: Vec<GenerateRequest>) -> Result<Vec<Prepared>, LlmError> {
        let engine = self.engine.clone();
        let prepared = tokio::task::spawn_blocking(move || {
            let prepared = requests.into_iter().map(|request| engine.prepare(request));
            prepared.collect::<Result<Vec<_>, _>>()
        });
        Ok(prepared.await.map_err(|_panicked| LlmError::Dropped)??)
    }

    /// Holds what requests may cost, and shortens their answers to what is paid for.
    async fn bill(
        &self,
        prepared: &mut [Prepared],
        is_open_ended: bool,
        payment: &Payment,
        sender: &mpsc::Sender<Report>,
    ) -> Result<Charge, LlmError> {
        let model = prepared.first().map(Prepared::model).unwrap_or_default();
        let parameters = self.engine.model(model).map_or(0, |info| info.parameters);
        let (price, price_version) = self.billing.prices().price(model, parameters);
        let usage = usage_of(payment, model, price_version);
        let counted = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let longest = prepared.iter().map(Prepared::completion_max).max();
        let need = Need {
            prompt_tokens: prepared.iter().map(|p| counted(p.prompt_tokens())).sum(),
            answers: prepared.iter().map(|p| counted(p.choices())).sum(),
            answer_tokens_max: counted(longest.unwrap_or(0)),
        };
        // What is charged already is not to be paid again.
        let is_charged = payment.operation.is_some_and(|done| done.charged.is_some());
        let spendable = match is_charged {
            true => None,
            false => (self.billing).spendable_if_bounded(payment.payer, &payment.allowances)?,
        };
        let estimate = estimate(&price, need, payment.max_cost, spendable, is_open_ended)?;
        for prepared in prepared.iter_mut() {
            let tokens_max = usize::try_from(estimate.answer_tokens_max);
            prepared.limit_completion(tokens_max.unwrap_or(usize::MAX));
        }
        let funds = self.billing.hold_for(payment, estimate).await?;
        let sender = sender.clone();
        let report = move |charged| {
            // The receiver may be gone, which changes nothing about the charge.
            let _ = sender.try_send(Report::Charged(charged));
        };
        Ok(Charge::new(funds, price, usage, prepared.len(), report))
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
            engine.preload(&name, keep_alive, sink_for(&sender, 0, None))
        });
        admission.await.map_err(|_panicked| LlmError::Dropped)??;
        let mut generation = Generation::new(model.to_owned(), 1, events, self.step_timeout);
        loop {
            if let GenerationStep::Done(finished) = generation.next().await? {
                return Ok(finished.stats);
            }
        }
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
            let report = match timeout_at(self.deadline, self.events.recv()).await {
                Ok(Some(report)) => report,
                Ok(None) => return Err(LlmError::Dropped),
                Err(_elapsed) => {
                    self.give_up();
                    return Err(LlmError::TimedOut {
                        after: self.step_timeout,
                    });
                }
            };
            if let Some(step) = self.on_report(report)? {
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
            self.give_up();
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
        while let Ok(report) = self.events.try_recv() {
            if let Some(step) = self.on_report(report)? {
                return Ok(Some(step));
            }
        }
        Ok(None)
    }

    fn new(
        model: String,
        prompts: usize,
        events: mpsc::Receiver<Report>,
        step_timeout: Duration,
    ) -> Self {
        Self {
            model,
            events,
            prompts_left: prompts,
            started: false,
            finished: Finished::default(),
            charge: None,
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
            .map(|index| sink_for(&sender, index * 2, None))
            .collect();
        (sinks, Self::new("m".into(), prompts, events, step_timeout))
    }

    /// The call failed: no further piece is wanted, the engine shall notice, nothing is charged.
    fn give_up(&mut self) {
        if let Some(charge) = &self.charge {
            charge.fail();
        }
        self.cancel.cancel();
        self.events.close();
    }

    fn on_report(&mut self, report: Report) -> Result<Option<GenerationStep>, LlmError> {
        self.deadline = Instant::now() + self.step_timeout;
        match report {
            Report::Event(event) => self.on_event(event),
            Report::Charged(Ok(_)) if self.prompts_left > 0 => Err(LlmError::Dropped),
            Report::Charged(Ok(cost)) => {
                self.finished.cost = cost;
                Ok(Some(self.done()))
            }
            Report::Charged(Err(error)) => {
                self.give_up();
                Err(error.into())
            }
        }
    }

    fn on_event(&mut self, event: GenerationEvent) -> Result<Option<GenerationStep>, LlmError> {
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
                add_stats(&mut self.finished.stats, &stats);
                self.prompts_left = self.prompts_left.saturating_sub(1);
                // Where there is a bill, it is over once that is paid.
                let is_over = self.prompts_left == 0 && self.charge.is_none();
                Ok(is_over.then(|| self.done()))
            }
            // Nobody but this cancels, and nobody listens then.
            GenerationEvent::Cancelled(_) => Err(LlmError::Dropped),
            GenerationEvent::Failed(error) => {
                self.give_up();
                Err(LlmError::Engine(error))
            }
        }
    }

    fn done(&mut self) -> GenerationStep {
        GenerationStep::Done(std::mem::take(&mut self.finished))
    }
}

/// Returns how many events a request can produce at most.
fn events_max(prepared: &Prepared) -> usize {
    prepared.choices() * (prepared.completion_max() + EVENTS_PER_CHOICE) + EVENTS_PER_PROMPT
}

/// Returns a sink that forwards to the channel, counting choices from `first_choice`, and tells
/// the bill what was made.
fn sink_for(
    sender: &mpsc::Sender<Report>,
    first_choice: usize,
    charge: Option<Arc<Charge>>,
) -> EventSink {
    let sender = sender.clone();
    Box::new(move |mut event| {
        if let GenerationEvent::Piece { choice, .. } | GenerationEvent::ChoiceDone { choice, .. } =
            &mut event
        {
            *choice += first_choice;
        }
        let made = match &event {
            GenerationEvent::Done(stats) | GenerationEvent::Cancelled(stats) => Some(stats.clone()),
            _ => None,
        };
        let has_failed = matches!(event, GenerationEvent::Failed(_));
        // The channel holds all that a request can produce, so "full" would be a defect; to give
        // the request up is then the only answer that cannot block the engine.
        let flow = match sender.try_send(Report::Event(event)) {
            Ok(()) => Flow::Continue,
            Err(_full_or_closed) => Flow::Cancel,
        };
        // After the event: what was charged is the last word.
        match (&charge, made) {
            (Some(charge), Some(stats)) => charge.add(&stats),
            (Some(charge), None) if has_failed => charge.fail(),
            _ => {}
        }
        flow
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
                GenerationStep::Done(finished) => break finished,
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
