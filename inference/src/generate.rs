//! One running request as a machine that is stepped: prompt in, text out.
//!
//! Each [`Generation::step`] evaluates one chunk of the prompt or one token of one choice, so that
//! whoever drives it decides between steps what runs next and notices a receiver that has gone.
//! Choices share the evaluated prompt and take turns.
//!
//! Where a choice repeats what was said before, a step also evaluates a short draft of what comes
//! next ([`lookup`]), and the choice grows by as much of it as the sampler would have chosen
//! anyway. The sampler sees the same logits in the same order as without, so the result is the
//! same. [`draft_control`] keeps drafts to where they save time.
//!
//! The machine sees a model only as [`Sequence`], a vocabulary only as [`Vocabulary`].

use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};

use crate::{
    engine::Flow,
    error::{Error, Result},
    logits::LogitRows,
    request::{FinishReason, GenerationEvent, SamplingParams, TokenLogprob},
    sampler::{Sampler, log_probabilities},
};

mod draft_control;
mod lookup;
mod stop;
mod text;

pub(crate) use self::draft_control::DRAFT_LEN_MAX;
pub use self::stop::{Released, StopMatcher};
use self::{
    draft_control::DraftControl,
    lookup::Lookup,
    text::{ChoiceText, Shown},
};

/// Prompt ids evaluated in one step. A longer chunk is no faster on a CPU and would make other
/// requests wait longer.
pub(crate) const PREFILL_CHUNK_LEN: usize = 256;

/// The model's state after some ids.
pub(crate) trait Sequence: Send + fmt::Debug {
    /// Appends ids and returns the logits that follow the last.
    fn extend(&mut self, ids: &[u32]) -> Result<Vec<f32>>;

    /// Appends ids and returns the logits that follow each of them.
    fn extend_all(&mut self, ids: &[u32]) -> Result<LogitRows>;

    /// Forgets the last so many ids.
    fn forget_last(&mut self, count: usize);

    /// Returns a sequence with the same past and a future of its own.
    fn fork(&self) -> Box<dyn Sequence>;
}

/// What ids mean.
pub(crate) trait Vocabulary: Send + Sync + fmt::Debug {
    /// Returns an id's bytes as named in log-probabilities.
    fn piece(&self, id: u32) -> Vec<u8>;

    /// Whether an id is markup that is not shown.
    fn is_hidden(&self, id: u32) -> bool;

    /// Whether an id ends the text.
    fn is_end_of_generation(&self, id: u32) -> bool;
}

/// What is to be generated, every bound checked.
#[derive(Debug)]
pub(crate) struct Work {
    /// The prompt. Invariant: not empty.
    pub(crate) prompt_ids: Vec<u32>,
    pub(crate) sampling: SamplingParams,
    pub(crate) seed: u64,
    /// Most ids per choice, within the context.
    pub(crate) completion_max: usize,
    pub(crate) stop: Vec<String>,
    pub(crate) choices: usize,
    pub(crate) logprobs: Option<usize>,
    /// Longest draft of what comes next; 0 evaluates one id at a time.
    pub(crate) draft_len_max: usize,
}

impl Work {
    /// Returns how many steps this takes at most: one per chunk of the prompt and per id. Drafts
    /// make them fewer.
    pub(crate) fn steps_max(&self) -> u64 {
        let chunks = self.prompt_ids.len().div_ceil(PREFILL_CHUNK_LEN);
        (chunks + self.completion_max.saturating_mul(self.choices)) as u64
    }
}

/// A running request.
#[derive(Debug)]
pub(crate) struct Generation {
    work: Work,
    vocabulary: Arc<dyn Vocabulary>,
    phase: Phase,
    completion_tokens: usize,
    control: DraftControl,
    drafts: DraftCounts,
    /// Rows of the last step's pass, if that was one over generated ids.
    last_rows: Option<usize>,
}

/// How drafts fared, over all choices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DraftCounts {
    /// Ids evaluated before they were known to come.
    pub(crate) drafted: usize,
    /// Those of them that came.
    pub(crate) accepted: usize,
}

/// What a step achieved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Part of the prompt is evaluated.
    Prefilling,
    /// The prompt is complete, or a choice has grown.
    Decoding,
    /// All choices are complete.
    Finished,
    /// The receiver wants no more.
    Cancelled,
}

#[derive(Debug)]
enum Phase {
    Prefill {
        sequence: Box<dyn Sequence>,
        evaluated: usize,
    },
    /// Choices that go on, the next one in front.
    Decode(VecDeque<Choice>),
}

#[derive(Debug)]
struct Choice {
    index: usize,
    sequence: Box<dyn Sequence>,
    /// Where the next id comes from.
    next: Next,
    sampler: Sampler,
    /// Where drafts come from, if they are wanted.
    lookup: Option<Lookup>,
    text: ChoiceText,
    generated: usize,
}

#[derive(Debug)]
enum Next {
    /// Logits that wait to be sampled.
    Logits(Vec<f32>),
    /// The last id, not yet evaluated.
    Evaluate(u32),
}

/// A guess at what follows a choice's last id.
#[derive(Debug, Default)]
struct Draft {
    ids: Vec<u32>,
    /// Length of the match that it follows.
    matched: usize,
}

/// What came of letting a choice grow by one id.
enum Grown {
    /// It goes on after this id.
    By(u32),
    /// It is complete.
    Ended(FinishReason),
    /// The receiver wants no more.
    Cancelled,
}

impl Generation {
    /// Returns a request at its beginning, on an empty sequence.
    pub(crate) fn new(
        work: Work,
        vocabulary: Arc<dyn Vocabulary>,
        sequence: Box<dyn Sequence>,
    ) -> Self {
        let phase = Phase::Prefill {
            sequence,
            evaluated: 0,
        };
        Self {
            control: DraftControl::new(work.draft_len_max),
            work,
            vocabulary,
            phase,
            completion_tokens: 0,
            drafts: DraftCounts::default(),
            last_rows: None,
        }
    }

    /// Length of the prompt.
    pub(crate) fn prompt_tokens(&self) -> usize {
        self.work.prompt_ids.len()
    }

    /// Ids generated so far, over all choices.
    pub(crate) fn completion_tokens(&self) -> usize {
        self.completion_tokens
    }

    /// How drafts fared so far.
    pub(crate) fn drafts(&self) -> DraftCounts {
        self.drafts
    }

    /// Takes in how long the last step took. It steers how much is drafted, never what is said.
    pub(crate) fn note_duration(&mut self, duration: Duration) {
        if let Some(rows) = self.last_rows.take() {
            self.control.note_pass(rows, duration);
        }
    }

    /// Does one piece of work and reports what came of it. Not to be called again after
    /// anything but [`Progress::Prefilling`] and [`Progress::Decoding`].
    ///
    /// # Errors
    /// The model failed.
    pub(crate) fn step(
        &mut self,
        emit: &mut dyn FnMut(GenerationEvent) -> Flow,
    ) -> Result<Progress> {
        match &mut self.phase {
            Phase::Prefill { .. } => self.prefill(emit),
            Phase::Decode(choices) => match choices.pop_front() {
                Some(choice) => self.decode(choice, emit),
                None => Ok(Progress::Finished),
            },
        }
    }

    /// Evaluates the next chunk of the prompt; after the last one the choices part.
    fn prefill(&mut self, emit: &mut dyn FnMut(GenerationEvent) -> Flow) -> Result<Progress> {
        let Phase::Prefill {
            sequence,
            evaluated,
        } = &mut self.phase
        else {
            return Err(defect("prefill after the prompt"));
        };
        let ids = &self.work.prompt_ids;
        let end = ids.len().min(*evaluated + PREFILL_CHUNK_LEN);
        let logits = sequence.extend(&ids[*evaluated..end])?;
        *evaluated = end;
        if end < ids.len() {
            return Ok(Progress::Prefilling);
        }
        let lookup = (self.work.draft_len_max > 0)
            .then(|| Lookup::new(&self.work.prompt_ids, self.work.completion_max));
        let choices = (0..self.work.choices)
            .map(|index| Choice {
                lookup: lookup.clone(),
                ..Choice::new(index, sequence.fork(), logits.clone(), &self.work)
            })
            .collect();
        self.phase = Phase::Decode(choices);
        let prompt_tokens = self.prompt_tokens();
        Ok(match emit(GenerationEvent::Started { prompt_tokens }) {
            Flow::Continue => Progress::Decoding,
            Flow::Cancel => Progress::Cancelled,
        })
    }

    /// Lets one choice grow: by one id, and by those of its draft that come next.
    fn decode(
        &mut self,
        mut choice: Choice,
        emit: &mut dyn FnMut(GenerationEvent) -> Flow,
    ) -> Result<Progress> {
        let draft = self.draft(&choice);
        let rows = self.evaluate(&mut choice, &draft.ids)?;
        let mut accepted = 0;
        for logits in &rows {
            let id = match self.grow(&mut choice, logits, emit)? {
                Grown::By(id) => id,
                Grown::Ended(reason) => return self.end_choice(choice.index, reason, emit),
                Grown::Cancelled => return Ok(Progress::Cancelled),
            };
            choice.next = Next::Evaluate(id);
            // Behind a wrong id, or the draft's last, no row says anything.
            if draft.ids.get(accepted) != Some(&id) {
                break;
            }
            accepted += 1;
            self.drafts.accepted += 1;
        }
        let drafted = draft.ids.len();
        if drafted > 0 {
            choice.sequence.forget_last(drafted - accepted);
            self.control.note_draft(draft.matched, drafted, accepted);
        }
        let Phase::Decode(choices) = &mut self.phase else {
            return Err(defect("decoding before the prompt"));
        };
        choices.push_back(choice);
        Ok(Progress::Decoding)
    }

    /// Guesses what follows a choice's last id, where that pays.
    fn draft(&mut self, choice: &Choice) -> Draft {
        let Next::Evaluate(_) = choice.next else {
            return Draft::default();
        };
        let Some((lookup, found)) = choice
            .lookup
            .as_ref()
            .and_then(|lookup| Some((lookup, lookup.found()?)))
        else {
            return Draft::default();
        };
        // The pass itself yields one id more than its draft has, and the last id of a choice is
        // not evaluated: so the cache never grows beyond what was admitted.
        let left = self.work.completion_max.saturating_sub(choice.generated);
        let matched = found.matched;
        let len = self.control.draft_len(matched, left.saturating_sub(1));
        let ids = lookup.draft(found, len);
        // Nothing comes after an end, and the end itself needs no row of its own.
        let ids = ids.take_while(|id| !self.vocabulary.is_end_of_generation(*id));
        Draft {
            ids: ids.collect(),
            matched,
        }
    }

    /// Returns the logits of a choice's next id, then those behind each id of its draft.
    fn evaluate(&mut self, choice: &mut Choice, draft: &[u32]) -> Result<LogitRows> {
        let last = match &mut choice.next {
            Next::Logits(logits) => return Ok(LogitRows::one(std::mem::take(logits))),
            Next::Evaluate(id) => *id,
        };
        self.last_rows = Some(1 + draft.len());
        if draft.is_empty() {
            return Ok(LogitRows::one(choice.sequence.extend(&[last])?));
        }
        self.drafts.drafted += draft.len();
        let ids: Vec<u32> = std::iter::once(last).chain(draft.iter().copied()).collect();
        let rows = choice.sequence.extend_all(&ids)?;
        if rows.len() == ids.len() {
            Ok(rows)
        } else {
            Err(defect("a pass without logits for each of its ids"))
        }
    }

    /// Lets a choice grow by the id that its sampler picks.
    fn grow(
        &mut self,
        choice: &mut Choice,
        logits: &[f32],
        emit: &mut dyn FnMut(GenerationEvent) -> Flow,
    ) -> Result<Grown> {
        let id = choice.sampler.sample(logits)?;
        choice.generated += 1;
        self.completion_tokens += 1;
        if let Some(lookup) = &mut choice.lookup {
            lookup.push(id);
        }
        let (shown, finish_reason) = self.append(choice, id, logits);
        if !(shown.text.is_empty() && shown.logprobs.is_empty()) {
            let piece = GenerationEvent::Piece {
                choice: choice.index,
                text: shown.text,
                logprobs: shown.logprobs,
            };
            if emit(piece) == Flow::Cancel {
                return Ok(Grown::Cancelled);
            }
        }
        Ok(finish_reason.map_or(Grown::By(id), Grown::Ended))
    }

    /// Reports a choice, which is no longer among those that go on, as complete.
    fn end_choice(
        &mut self,
        choice: usize,
        finish_reason: FinishReason,
        emit: &mut dyn FnMut(GenerationEvent) -> Flow,
    ) -> Result<Progress> {
        let Phase::Decode(choices) = &self.phase else {
            return Err(defect("decoding before the prompt"));
        };
        let is_last = choices.is_empty();
        let done = GenerationEvent::ChoiceDone {
            choice,
            finish_reason,
        };
        Ok(match emit(done) {
            // Nothing is left to cancel after the last choice.
            _ if is_last => Progress::Finished,
            Flow::Continue => Progress::Decoding,
            Flow::Cancel => Progress::Cancelled,
        })
    }

    /// Adds an id to a choice's text; says what may be shown and whether the choice ends.
    fn append(
        &self,
        choice: &mut Choice,
        id: u32,
        logits: &[f32],
    ) -> (Shown, Option<FinishReason>) {
        if self.vocabulary.is_end_of_generation(id) {
            return (choice.text.finish(), Some(FinishReason::Stop));
        }
        let logprob = self.work.logprobs.map(|top| self.logprob(logits, id, top));
        let bytes = if self.vocabulary.is_hidden(id) {
            Vec::new()
        } else {
            self.vocabulary.piece(id)
        };
        let mut shown = choice.text.push(&bytes, logprob);
        if shown.is_stopped {
            return (shown, Some(FinishReason::Stop));
        }
        if choice.generated < self.work.completion_max {
            return (shown, None);
        }
        let rest = choice.text.finish();
        shown.text.push_str(&rest.text);
        shown.logprobs.extend(rest.logprobs);
        let reason = if rest.is_stopped {
            FinishReason::Stop
        } else {
            FinishReason::Length
        };
        (shown, Some(reason))
    }

    fn logprob(&self, logits: &[f32], id: u32, top: usize) -> TokenLogprob {
        let probabilities = log_probabilities(logits, id, top);
        let entry = |id: u32, logprob: f32| {
            let bytes = self.vocabulary.piece(id);
            TokenLogprob {
                id,
                text: String::from_utf8_lossy(&bytes).into_owned(),
                bytes,
                logprob,
                top: Vec::new(),
            }
        };
        let top = probabilities.top.into_iter();
        TokenLogprob {
            top: top.map(|(id, logprob)| entry(id, logprob)).collect(),
            ..entry(id, probabilities.chosen)
        }
    }
}

impl Choice {
    fn new(index: usize, sequence: Box<dyn Sequence>, logits: Vec<f32>, work: &Work) -> Self {
        let sampling = work.sampling.clone();
        Self {
            index,
            sequence,
            next: Next::Logits(logits),
            sampler: Sampler::new(sampling, work.seed, index as u64, &work.prompt_ids),
            lookup: None,
            text: ChoiceText::new(&work.stop),
            generated: 0,
        }
    }
}

/// Returns the error for a state that this module never enters.
fn defect(what: &str) -> Error {
    Error::Internal {
        message: what.to_owned(),
    }
}

#[cfg(test)]
pub(crate) mod tests;
