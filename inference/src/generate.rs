//! One running request as a machine: prompt in, text out.
//!
//! It takes over what others have evaluated ([`Generation::catch_up`]), says what it wants
//! evaluated next ([`Generation::want`]), plans its part of a pass ([`Generation::plan`]) and takes
//! the logits that come of it ([`Generation::take`]). So whoever drives it puts several requests
//! into one pass, and decides between passes who comes next.
//! Choices part when the prompt is evaluated, and share what they have seen of it.
//!
//! A request may be suspended at any time: it forgets what was evaluated, keeps what was said, and
//! evaluates it all again when it goes on. On the CPU results do not depend on how a sequence was
//! cut into passes or on who else was in them, so nothing of this is seen in the text.
//!
//! Where a choice repeats what was said before, a pass also evaluates a short draft of what comes
//! next ([`lookup`]), and the choice grows by as much of it as the sampler would have chosen
//! anyway. The sampler sees the same logits in the same order as without, so the result is the
//! same. [`draft_control`] keeps drafts to where they save time.
//!
//! The machine sees a model only as [`Decoder`], a vocabulary only as [`Vocabulary`].

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
    time::Duration,
};

use crate::{
    engine::Flow,
    error::{Error, Result},
    kv_cache::PAGE_LEN,
    logits::LogitRows,
    model::Logits,
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

/// Names a sequence of a [`Decoder`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SequenceId(pub(crate) u64);

/// A model and the sequences that run on it.
pub(crate) trait Decoder: Send + fmt::Debug {
    /// Begins an empty sequence.
    fn begin(&mut self) -> SequenceId;

    /// Has a sequence take over what others have seen of `ids`, which begin with what it has seen
    /// itself. Returns how many of them it has seen now: never all, since logits come with an id.
    fn catch_up(&mut self, sequence: SequenceId, ids: &[u32]) -> usize;

    /// Begins a sequence with the same past and a future of its own.
    fn fork(&mut self, sequence: SequenceId) -> SequenceId;

    /// Forgets the last so many ids.
    fn forget_last(&mut self, sequence: SequenceId, count: usize);

    /// Keeps what a sequence has seen for others that begin alike.
    fn remember(&mut self, sequence: SequenceId);

    /// Ends a sequence; what it has seen is kept for others as long as there is room.
    fn end(&mut self, sequence: SequenceId);

    /// Appends ids to different sequences in one pass, and returns the logits asked for, in order.
    ///
    /// # Errors
    /// No sequence has changed then.
    fn extend(&mut self, parts: &[Part]) -> Result<LogitRows>;
}

/// A sequence's part of a pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) sequence: SequenceId,
    /// Ids to append, at least one.
    pub(crate) ids: Vec<u32>,
    pub(crate) logits: Logits,
}

impl Part {
    /// How many logits vectors come of it.
    pub(crate) fn logits_len(&self) -> usize {
        match self.logits {
            Logits::None => 0,
            Logits::Last => 1,
            Logits::All => self.ids.len(),
        }
    }
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

/// What a request wants evaluated before it can say more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// So many ids of the prompt, or of what was said before it was suspended.
    Prompt(usize),
    /// The last id of so many choices.
    Answer(usize),
}

/// A running request.
#[derive(Debug)]
pub(crate) struct Generation {
    work: Work,
    vocabulary: Arc<dyn Vocabulary>,
    phase: Phase,
    completion_tokens: usize,
    /// Ids of the prompt that others had evaluated.
    cached_tokens: usize,
    control: DraftControl,
    drafts: DraftCounts,
    /// Rows of the last pass, if that was one over generated ids.
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

/// What a pass achieved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Part of the prompt is evaluated.
    Prefilling,
    /// The prompt is complete, or choices have grown.
    Decoding,
    /// All choices are complete.
    Finished,
    /// The receiver wants no more.
    Cancelled,
}

#[derive(Debug)]
enum Phase {
    Prefill(Branch),
    /// Choices that go on, by index.
    Decode(Vec<Choice>),
}

/// Ids, of which a sequence has seen the first ones.
#[derive(Debug)]
struct Branch {
    sequence: Option<SequenceId>,
    ids: Vec<u32>,
    evaluated: usize,
    /// The most that it ever was.
    evaluated_max: usize,
    /// Ids in the pass that is planned.
    planned: usize,
}

#[derive(Debug)]
struct Choice {
    index: usize,
    branch: Branch,
    /// In the pass that is planned.
    draft: Draft,
    sampler: Sampler,
    /// Where drafts come from, if they are wanted.
    lookup: Option<Lookup>,
    text: ChoiceText,
    generated: usize,
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
    /// Returns a request at its beginning.
    pub(crate) fn new(work: Work, vocabulary: Arc<dyn Vocabulary>) -> Self {
        Self {
            control: DraftControl::new(work.draft_len_max),
            phase: Phase::Prefill(Branch::new(work.prompt_ids.clone())),
            work,
            vocabulary,
            completion_tokens: 0,
            cached_tokens: 0,
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

    /// Ids of the prompt that needed no evaluation, because others begin alike.
    pub(crate) fn cached_tokens(&self) -> usize {
        self.cached_tokens
    }

    /// How drafts fared so far.
    pub(crate) fn drafts(&self) -> DraftCounts {
        self.drafts
    }

    /// Takes in how long the last pass took, if nobody else was in it. It steers how much is
    /// drafted, never what is said.
    pub(crate) fn note_duration(&mut self, alone: Option<Duration>) {
        if let (Some(rows), Some(duration)) = (self.last_rows.take(), alone) {
            self.control.note_pass(rows, duration);
        }
    }

    /// Takes over what others have evaluated meanwhile of what is behind.
    pub(crate) fn catch_up(&mut self, decoder: &mut dyn Decoder) {
        match &mut self.phase {
            Phase::Prefill(branch) => self.cached_tokens += branch.catch_up(decoder),
            Phase::Decode(choices) => {
                let behind = choices.iter_mut().map(|choice| &mut choice.branch);
                for branch in behind.filter(|branch| branch.pending() > 1) {
                    branch.catch_up(decoder);
                }
            }
        }
    }

    /// What is to be evaluated before anything can be said.
    pub(crate) fn want(&self) -> Want {
        match &self.phase {
            Phase::Prefill(branch) => Want::Prompt(branch.pending()),
            Phase::Decode(choices) => {
                let pending = choices.iter().map(|choice| choice.branch.pending());
                match pending.filter(|pending| *pending > 1).sum() {
                    0 => Want::Answer(choices.len()),
                    behind => Want::Prompt(behind),
                }
            }
        }
    }

    /// Plans its part of a pass: at most `rows_max` rows of what is behind, or a row for each
    /// choice. Drafts come on top of it, where they are wanted.
    pub(crate) fn plan(
        &mut self,
        decoder: &mut dyn Decoder,
        rows_max: usize,
        with_drafts: bool,
    ) -> Vec<Part> {
        let want = self.want();
        let mut parts = Vec::new();
        let choices = match &mut self.phase {
            Phase::Prefill(branch) => {
                parts.extend(branch.plan(decoder, rows_max));
                return parts;
            }
            Phase::Decode(choices) => choices,
        };
        if let Want::Prompt(_) = want {
            let mut left = rows_max;
            let behind = choices.iter_mut().map(|choice| &mut choice.branch);
            for branch in behind.filter(|branch| branch.pending() > 1) {
                parts.extend(branch.plan(decoder, left));
                left -= branch.planned;
            }
            return parts;
        }
        self.last_rows = Some(choices.len());
        if let ([choice], true) = (choices.as_mut_slice(), with_drafts) {
            let left = self.work.completion_max.saturating_sub(choice.generated);
            choice.draft = choice.draft(&mut self.control, &*self.vocabulary, left);
            self.drafts.drafted += choice.draft.ids.len();
            self.last_rows = Some(1 + choice.draft.ids.len());
        }
        for choice in choices {
            let Some(mut part) = choice.branch.plan(decoder, 1) else {
                continue;
            };
            if !choice.draft.ids.is_empty() {
                part.ids.extend_from_slice(&choice.draft.ids);
                part.logits = Logits::All;
            }
            parts.push(part);
        }
        parts
    }

    /// Takes the logits of what was planned: lets choices grow, and reports what they say. Not to
    /// be called again after anything but [`Progress::Prefilling`] and [`Progress::Decoding`].
    ///
    /// # Errors
    /// The pass had too few logits, or they are unusable.
    pub(crate) fn take(
        &mut self,
        decoder: &mut dyn Decoder,
        logits: &mut dyn Iterator<Item = &[f32]>,
        emit: &mut dyn FnMut(GenerationEvent) -> Flow,
    ) -> Result<Progress> {
        match &mut self.phase {
            Phase::Prefill(branch) => {
                if !branch.advance(decoder) {
                    return Ok(Progress::Prefilling);
                }
                let logits = logits.next().ok_or_else(too_few_logits)?;
                let prompt_tokens = self.prompt_tokens();
                self.part(decoder);
                if emit(GenerationEvent::Started { prompt_tokens }) == Flow::Cancel {
                    return Ok(Progress::Cancelled);
                }
                self.decode(decoder, &mut std::iter::repeat(logits), emit)
            }
            Phase::Decode(choices) => {
                let mut is_any_ready = false;
                for choice in choices {
                    is_any_ready |= choice.branch.advance(decoder);
                }
                if is_any_ready {
                    self.decode(decoder, logits, emit)
                } else {
                    Ok(Progress::Decoding)
                }
            }
        }
    }

    /// Gives back what was evaluated; it is evaluated again when the request goes on.
    pub(crate) fn suspend(&mut self, decoder: &mut dyn Decoder) {
        match &mut self.phase {
            Phase::Prefill(branch) => branch.suspend(decoder),
            Phase::Decode(choices) => {
                for choice in choices {
                    choice.draft = Draft::default();
                    choice.branch.suspend(decoder);
                }
            }
        }
    }

    /// How many pages of the cache it needs to go on, if nothing of it is kept.
    pub(crate) fn pages_to_go_on(&self) -> usize {
        let pages = |branch: &Branch| branch.ids.len() / PAGE_LEN + 1;
        match &self.phase {
            Phase::Prefill(branch) => pages(branch),
            Phase::Decode(choices) => {
                // Of the prompt's pages there is one for all choices.
                let shared = self.work.prompt_ids.len() / PAGE_LEN;
                let own = choices
                    .iter()
                    .map(|choice| pages(&choice.branch).saturating_sub(shared));
                own.fold(shared, usize::saturating_add)
            }
        }
    }

    /// Lets the choices part.
    fn part(&mut self, decoder: &mut dyn Decoder) {
        let Phase::Prefill(branch) = &self.phase else {
            return;
        };
        let lookup = (self.work.draft_len_max > 0)
            .then(|| Lookup::new(&self.work.prompt_ids, self.work.completion_max));
        let choices = (0..self.work.choices).map(|index| {
            let sequence = match index {
                0 => branch.sequence,
                _ => branch.sequence.map(|sequence| decoder.fork(sequence)),
            };
            let branch = Branch {
                sequence,
                ids: branch.ids.clone(),
                ..*branch
            };
            Choice {
                lookup: lookup.clone(),
                ..Choice::new(index, branch, &self.work)
            }
        });
        let choices = choices.collect();
        self.phase = Phase::Decode(choices);
    }

    /// Lets each choice that has all its ids evaluated grow: by one id, and by those of its draft
    /// that come next.
    fn decode(
        &mut self,
        decoder: &mut dyn Decoder,
        logits: &mut dyn Iterator<Item = &[f32]>,
        emit: &mut dyn FnMut(GenerationEvent) -> Flow,
    ) -> Result<Progress> {
        let Phase::Decode(choices) = &mut self.phase else {
            return Err(defect("decoding before the prompt"));
        };
        let mut choices = std::mem::take(choices);
        let mut outcome = Ok(Ok(Progress::Decoding));
        choices.retain_mut(|choice| {
            if choice.branch.pending() > 0 || !matches!(outcome, Ok(Ok(Progress::Decoding))) {
                return true;
            }
            // A receiver that panics must not take the choices along: their sequences would stay.
            let step = || self.step(choice, decoder, logits, emit);
            let (is_over, progress) = match catch_unwind(AssertUnwindSafe(step)) {
                Ok(Ok((is_over, progress))) => (is_over, Ok(Ok(progress))),
                Ok(Err(error)) => (false, Ok(Err(error))),
                Err(panic) => (false, Err(panic)),
            };
            outcome = progress;
            !is_over
        });
        // Nothing is left to cancel after the last choice.
        let is_finished = choices.is_empty();
        self.phase = Phase::Decode(choices);
        match outcome {
            Ok(Ok(_)) if is_finished => Ok(Progress::Finished),
            Ok(outcome) => outcome,
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Lets a choice grow; returns whether it is over, and whether the others go on.
    fn step(
        &mut self,
        choice: &mut Choice,
        decoder: &mut dyn Decoder,
        logits: &mut dyn Iterator<Item = &[f32]>,
        emit: &mut dyn FnMut(GenerationEvent) -> Flow,
    ) -> Result<(bool, Progress)> {
        match self.grow_by_draft(choice, decoder, logits, emit)? {
            Grown::By(_) => Ok((false, Progress::Decoding)),
            Grown::Cancelled => Ok((false, Progress::Cancelled)),
            Grown::Ended(reason) => {
                choice.branch.end(decoder);
                let done = GenerationEvent::ChoiceDone {
                    choice: choice.index,
                    finish_reason: reason,
                };
                let progress = match emit(done) {
                    Flow::Continue => Progress::Decoding,
                    Flow::Cancel => Progress::Cancelled,
                };
                Ok((true, progress))
            }
        }
    }

    /// Lets one choice grow by its next id, and by those of its draft that come after it.
    fn grow_by_draft(
        &mut self,
        choice: &mut Choice,
        decoder: &mut dyn Decoder,
        logits: &mut dyn Iterator<Item = &[f32]>,
        emit: &mut dyn FnMut(GenerationEvent) -> Flow,
    ) -> Result<Grown> {
        let draft = std::mem::take(&mut choice.draft);
        let drafted = draft.ids.len();
        // All of them are used up, also those behind a wrong id, which say nothing.
        let rows: Vec<&[f32]> = logits.take(1 + drafted).collect();
        if rows.len() <= drafted {
            return Err(too_few_logits());
        }
        let mut accepted = 0;
        for logits in rows {
            let id = match self.grow(choice, logits, emit)? {
                Grown::By(id) => id,
                end => return Ok(end),
            };
            choice.branch.ids.push(id);
            if draft.ids.get(accepted) != Some(&id) {
                break;
            }
            choice.branch.evaluated += 1;
            accepted += 1;
            self.drafts.accepted += 1;
        }
        if drafted > 0 {
            if let Some(sequence) = choice.branch.sequence {
                decoder.forget_last(sequence, drafted - accepted);
            }
            self.control.note_draft(draft.matched, drafted, accepted);
        }
        let last = choice.branch.ids.last().copied().unwrap_or_default();
        Ok(Grown::By(last))
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

impl Branch {
    fn new(ids: Vec<u32>) -> Self {
        Self {
            sequence: None,
            ids,
            evaluated: 0,
            evaluated_max: 0,
            planned: 0,
        }
    }

    /// Ids that are not evaluated yet.
    fn pending(&self) -> usize {
        self.ids.len() - self.evaluated
    }

    /// Takes over what others have evaluated of its ids; returns how many that were, but for those
    /// that it had evaluated itself before.
    fn catch_up(&mut self, decoder: &mut dyn Decoder) -> usize {
        let sequence = *self.sequence.get_or_insert_with(|| decoder.begin());
        self.evaluated = decoder.catch_up(sequence, &self.ids);
        let known = self.evaluated.saturating_sub(self.evaluated_max);
        self.evaluated_max = self.evaluated_max.max(self.evaluated);
        known
    }

    /// Plans at most so many rows. The last id's logits are what is waited for.
    fn plan(&mut self, decoder: &mut dyn Decoder, rows_max: usize) -> Option<Part> {
        self.planned = self.pending().min(rows_max);
        let end = self.evaluated + self.planned;
        let sequence = *self.sequence.get_or_insert_with(|| decoder.begin());
        (self.planned > 0).then(|| Part {
            sequence,
            ids: self.ids[self.evaluated..end].to_vec(),
            logits: if end == self.ids.len() {
                Logits::Last
            } else {
                Logits::None
            },
        })
    }

    /// Counts what was planned as evaluated; returns whether that completed it.
    fn advance(&mut self, decoder: &mut dyn Decoder) -> bool {
        let planned = std::mem::take(&mut self.planned);
        self.evaluated += planned;
        self.evaluated_max = self.evaluated_max.max(self.evaluated);
        // A single id is not worth it: its page is rarely full.
        if let (Some(sequence), true) = (self.sequence, planned > 1) {
            decoder.remember(sequence);
        }
        planned > 0 && self.pending() == 0
    }

    fn suspend(&mut self, decoder: &mut dyn Decoder) {
        self.planned = 0;
        self.evaluated = 0;
        self.end(decoder);
    }

    fn end(&mut self, decoder: &mut dyn Decoder) {
        if let Some(sequence) = self.sequence.take() {
            decoder.end(sequence);
        }
    }
}

impl Choice {
    fn new(index: usize, branch: Branch, work: &Work) -> Self {
        let sampling = work.sampling.clone();
        Self {
            index,
            branch,
            draft: Draft::default(),
            sampler: Sampler::new(sampling, work.seed, index as u64, &work.prompt_ids),
            lookup: None,
            text: ChoiceText::new(&work.stop),
            generated: 0,
        }
    }

    /// Guesses what follows the last id, where that pays. `left` is what may still come.
    fn draft(&self, control: &mut DraftControl, vocabulary: &dyn Vocabulary, left: usize) -> Draft {
        let found = self.lookup.as_ref().and_then(|lookup| {
            let found = lookup.found()?;
            Some((lookup, found))
        });
        let Some((lookup, found)) = found else {
            return Draft::default();
        };
        // The pass itself yields one id more than its draft has, and the last id of a choice is
        // not evaluated: so the cache never grows beyond what was admitted.
        let matched = found.matched;
        let len = control.draft_len(matched, left.saturating_sub(1));
        let ids = lookup.draft(found, len);
        // Nothing comes after an end, and the end itself needs no row of its own.
        let ids = ids.take_while(|id| !vocabulary.is_end_of_generation(*id));
        Draft {
            ids: ids.collect(),
            matched,
        }
    }
}

fn too_few_logits() -> Error {
    defect("a pass without logits for each of its ids")
}

/// Returns the error for a state that this module never enters.
fn defect(what: &str) -> Error {
    Error::Internal {
        message: what.to_owned(),
    }
}

#[cfg(test)]
pub(crate) mod tests;
