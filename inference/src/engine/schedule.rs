//! Who waits, who runs, and what the next pass evaluates.
//!
//! A machine without I/O or clock: the engine's thread asks it, and tells it what happened.
//!
//! *Waiting.* Requests start by priority, those of one priority in the order of arrival; a request
//! rises by one priority for each [`AGING`] that it waits, so nobody waits for ever. One that waits
//! for its model's file to be read lets others pass, because nothing that they do delays it; one
//! that waits for memory lets nobody pass, or a stream of small requests could starve it.
//!
//! *Running.* A pass takes rows of all requests that run on one model. Each that is at its answer
//! has one row per choice, or draft; one of half the weight takes part in every second pass. Each
//! priority doubles the weight.
//! Prompts are evaluated in chunks that fit what is left of the time that a pass may take, so that
//! nobody's answer stalls; they share these rows by weight (self-clocked fair queueing). Models
//! take turns, by the time that they took and the weights that run on them.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use super::{pass_cost::PassCost, residency::ModelId};
use crate::generate::Want;

/// Finished requests that the typical length is taken over.
const LENGTHS_MAX: usize = 32;
/// Last passes that the pace is taken over.
const PASS_TIMES_MAX: usize = 64;
/// Shortest time after which a refused client is told to come back.
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);
/// Waiting that makes up for one priority.
const AGING: Duration = Duration::from_secs(5);
/// Time that a pass may take while somebody waits for the next token, if prompts can help it.
const PASS_TIME: Duration = Duration::from_millis(40);
/// Rows of prompts that are in every pass all the same: they must get on.
const PROMPT_ROWS_MIN: usize = 16;
/// Rows of prompts in a pass. More are no faster on a CPU, and make a newcomer wait longer.
pub(super) const PROMPT_ROWS_MAX: usize = 256;

/// Names a running request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RunId(u64);

/// What a request may expect.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Terms {
    pub(super) model: ModelId,
    /// Its share beside others'.
    pub(super) weight: f64,
    /// Higher ones start first.
    pub(super) priority: i32,
    /// When the answer is of no more use.
    pub(super) deadline: Option<Instant>,
    /// Rows of its prompt.
    pub(super) prompt_rows: usize,
    /// Most passes that its answer takes.
    pub(super) passes_max: u64,
}

/// Limits of a schedule.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Requests that run at once.
    pub(super) running_max: usize,
    /// Requests that wait behind them.
    pub(super) queue_len_max: usize,
    /// Rows of answers in one pass.
    pub(super) rows_max: usize,
}

/// The bounded queue, and the running requests.
#[derive(Debug)]
pub(super) struct Schedule<J> {
    limits: Limits,
    waiting: VecDeque<Waiting<J>>,
    /// In the order of their start.
    running: Vec<Running>,
    next_id: u64,
    /// Tag of the prompt that was served last.
    virtual_time: f64,
    models: BTreeMap<ModelId, ModelTurn>,
    /// Passes that requests took part in which came to their end.
    lengths: VecDeque<u64>,
    pass_times: VecDeque<Duration>,
}

#[derive(Debug)]
struct Waiting<J> {
    job: J,
    terms: Terms,
    arrived: Instant,
}

#[derive(Debug)]
struct Running {
    id: RunId,
    terms: Terms,
    arrived: Instant,
    passes: u64,
    /// Passes of its answer over its weight, from where it came in.
    answered: f64,
    /// Rows of its prompt over its weight, from where it came in.
    tag: f64,
}

/// How a model's passes fare.
#[derive(Debug, Default, Clone, Copy)]
struct ModelTurn {
    cost: PassCost,
    /// The least that any answer on it has had, of those that were in the last pass.
    answered: f64,
    /// Time of its passes over the weights that ran, from where it came in.
    tag: f64,
}

/// Whether a waiting request can start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Now.
    Start,
    /// Not yet; those behind it may.
    LetPass,
    /// Not yet, and nobody behind it may either.
    HoldUp,
}

/// What the next pass evaluates: rows of requests that run on one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pass {
    pub(super) model: ModelId,
    pub(super) shares: Vec<Share>,
}

/// A request's part of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) id: RunId,
    /// Rows of a prompt; of an answer, those that were wanted.
    pub(super) rows: usize,
}

/// Why a request is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The queue is full; a place should be free after so long.
    Full { retry_after: Duration },
    /// Its answer would come too late: after about so long.
    TooLate { expected: Duration },
}

impl Terms {
    /// Its share beside others': each priority doubles it.
    fn share(&self) -> f64 {
        self.weight * f64::from(self.priority.clamp(-8, 8)).exp2()
    }

    /// The priority after some waiting.
    fn aged(&self, waited: Duration) -> f64 {
        f64::from(self.priority) + waited.as_secs_f64() / AGING.as_secs_f64()
    }
}

impl<J> Schedule<J> {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits: Limits {
                running_max: limits.running_max.max(1),
                rows_max: limits.rows_max.max(1),
                ..limits
            },
            waiting: VecDeque::new(),
            running: Vec::new(),
            next_id: 0,
            virtual_time: 0.0,
            models: BTreeMap::new(),
            lengths: VecDeque::new(),
            pass_times: VecDeque::new(),
        }
    }

    /// Says whether any request would be taken; if not, when to come back.
    pub(super) fn check_room(&self) -> Result<(), Refusal> {
        // Free places count: a request passes through the queue even when it can start at once.
        let free = self.limits.running_max.saturating_sub(self.running.len());
        if self.waiting.len() < self.limits.queue_len_max.saturating_add(free) {
            return Ok(());
        }
        let retry_after = self.until_place_is_free().max(RETRY_AFTER_MIN);
        Err(Refusal::Full { retry_after })
    }

    /// Appends a request to the queue.
    ///
    /// # Errors
    /// It is not taken, and comes back with the reason.
    pub(super) fn enqueue(
        &mut self,
        job: J,
        terms: Terms,
        now: Instant,
    ) -> Result<(), (J, Refusal)> {
        if let Err(refusal) = self.check_room() {
            return Err((job, refusal));
        }
        let expected = self.expected_time(&terms);
        if let (Some(deadline), Some(expected)) = (terms.deadline, expected)
            && now + expected > deadline
        {
            return Err((job, Refusal::TooLate { expected }));
        }
        self.waiting.push_back(Waiting {
            job,
            terms,
            arrived: now,
        });
        Ok(())
    }

    /// Starts the first waiting request that may start, if a place is free.
    pub(super) fn start_next(
        &mut self,
        mut judge: impl FnMut(&J) -> Verdict,
        now: Instant,
    ) -> Option<(RunId, J)> {
        if self.running.len() >= self.limits.running_max {
            return None;
        }
        let mut order: Vec<usize> = (0..self.waiting.len()).collect();
        let rank = |index: &usize| {
            let waiting = &self.waiting[*index];
            let waited = now.saturating_duration_since(waiting.arrived);
            waiting.terms.aged(waited)
        };
        // Stable: among equals the order of arrival stands.
        order.sort_by(|a, b| rank(b).total_cmp(&rank(a)));
        for index in order {
            match judge(&self.waiting[index].job) {
                Verdict::Start => {
                    let waiting = self.waiting.remove(index)?;
                    let id = self.run(waiting.terms, waiting.arrived);
                    return Some((id, waiting.job));
                }
                Verdict::LetPass => {}
                Verdict::HoldUp => return None,
            }
        }
        None
    }

    /// Removes waiting requests that meet a condition and returns them in order.
    pub(super) fn remove_waiting(&mut self, mut condition: impl FnMut(&J) -> bool) -> Vec<J> {
        self.remove(|waiting| condition(&waiting.job))
    }

    /// Removes waiting requests whose deadline has passed.
    pub(super) fn remove_late(&mut self, now: Instant) -> Vec<J> {
        self.remove(|waiting| waiting.terms.deadline.is_some_and(|at| at <= now))
    }

    /// Returns the waiting requests in the order of their arrival.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &J> {
        self.waiting.iter().map(|waiting| &waiting.job)
    }

    /// Composes the next pass of what running requests want; `None` where nobody wants anything.
    pub(super) fn compose(&mut self, mut want: impl FnMut(RunId) -> Option<Want>) -> Option<Pass> {
        let wants: Vec<Option<Want>> = self.running.iter().map(|run| want(run.id)).collect();
        let model = self.next_model(&wants)?;
        let of_model = |wanted: fn(Want) -> bool| {
            let running = self.running.iter().zip(&wants).enumerate();
            let chosen = running.filter(move |(_, (run, want))| {
                run.terms.model == model && want.is_some_and(wanted)
            });
            chosen.map(|(index, _)| index).collect::<Vec<_>>()
        };
        let answering = of_model(|want| matches!(want, Want::Answer(_)));
        let prompting = of_model(|want| matches!(want, Want::Prompt(_)));
        let rows_of = |index: usize| match wants[index] {
            Some(Want::Prompt(rows) | Want::Answer(rows)) => rows.max(1),
            None => 0,
        };
        let mut shares = Vec::new();
        let mut rows = 0;
        let wanted = answering.iter().map(|index| rows_of(*index)).sum();
        for index in self.answering_next(model, answering, wanted) {
            let wanted = rows_of(index);
            if rows > 0 && rows + wanted > self.limits.rows_max {
                break;
            }
            rows += wanted;
            let run = &mut self.running[index];
            run.answered += 1.0 / run.terms.share();
            shares.push(Share {
                id: run.id,
                rows: wanted,
            });
        }
        let mut left = self.prompt_rows(model, rows);
        for index in self.prompting_next(prompting, rows_of) {
            let rows = rows_of(index).min(left);
            if rows == 0 {
                break;
            }
            left -= rows;
            let run = &mut self.running[index];
            run.tag += rows as f64 / run.terms.share();
            self.virtual_time = self.virtual_time.max(run.tag);
            shares.push(Share { id: run.id, rows });
        }
        (!shares.is_empty()).then_some(Pass { model, shares })
    }

    /// Notes that a pass is done, and how long that took. `rows` is what it came to, drafts
    /// included.
    pub(super) fn passed(&mut self, pass: &Pass, rows: usize, took: Duration) {
        let mut weights = 0.0;
        for run in &mut self.running {
            if pass.shares.iter().any(|share| share.id == run.id) {
                run.passes += 1;
                weights += run.terms.share();
            }
        }
        push_bounded(&mut self.pass_times, took, PASS_TIMES_MAX);
        let turn = self.models.entry(pass.model).or_default();
        turn.cost.observe(rows, took);
        turn.tag += took.as_secs_f64() / weights.max(f64::MIN_POSITIVE);
    }

    /// Returns the running requests in the order in which they are to give way when memory is
    /// short: the lowest priority first, and of one priority the last that started.
    pub(super) fn by_urgency(&self, now: Instant) -> Vec<RunId> {
        let rank = |run: &Running| {
            let waited = now.saturating_duration_since(run.arrived);
            run.terms.aged(waited)
        };
        let mut running: Vec<&Running> = self.running.iter().collect();
        running.sort_by(|a, b| rank(a).total_cmp(&rank(b)).then(b.id.cmp(&a.id)));
        running.into_iter().map(|run| run.id).collect()
    }

    /// Returns running requests whose deadline has passed.
    pub(super) fn late(&self, now: Instant) -> Vec<RunId> {
        let late = |run: &&Running| run.terms.deadline.is_some_and(|at| at <= now);
        self.running.iter().filter(late).map(|run| run.id).collect()
    }

    /// The first deadline of anybody here.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let waiting = self.waiting.iter().filter_map(|of| of.terms.deadline);
        let running = self.running.iter().filter_map(|of| of.terms.deadline);
        waiting.chain(running).min()
    }

    /// Frees a request's place. Only one that came to its end says how long requests are.
    pub(super) fn finished(&mut self, id: RunId, is_whole: bool) {
        let Some(index) = self.running.iter().position(|running| running.id == id) else {
            return;
        };
        let run = self.running.remove(index);
        if is_whole {
            push_bounded(&mut self.lengths, run.passes, LENGTHS_MAX);
        }
        if !self
            .running
            .iter()
            .any(|other| other.terms.model == run.terms.model)
            && let Some(turn) = self.models.get_mut(&run.terms.model)
        {
            // It comes in anew when it is asked for again.
            turn.tag = f64::NEG_INFINITY;
        }
    }

    /// Forgets what is known of models that are gone.
    pub(super) fn retain_models(&mut self, is_loaded: impl Fn(ModelId) -> bool) {
        let running: Vec<ModelId> = self.running.iter().map(|run| run.terms.model).collect();
        self.models
            .retain(|model, _| running.contains(model) || is_loaded(*model));
    }

    pub(super) fn running_len(&self) -> usize {
        self.running.len()
    }

    pub(super) fn waiting_len(&self) -> usize {
        self.waiting.len()
    }

    fn run(&mut self, terms: Terms, arrived: Instant) -> RunId {
        let id = RunId(self.next_id);
        self.next_id += 1;
        let running = self.running.iter().map(|run| self.tag_of(run.terms.model));
        let now = running.fold(f64::INFINITY, f64::min);
        let turn = self.models.entry(terms.model).or_default();
        turn.tag = turn.tag.max(if now.is_finite() { now } else { 0.0 });
        self.running.push(Running {
            id,
            terms,
            arrived,
            passes: 0,
            answered: f64::NEG_INFINITY,
            tag: self.virtual_time,
        });
        id
    }

    fn remove(&mut self, mut condition: impl FnMut(&Waiting<J>) -> bool) -> Vec<J> {
        let mut removed = Vec::new();
        for _ in 0..self.waiting.len() {
            let Some(waiting) = self.waiting.pop_front() else {
                break;
            };
            if condition(&waiting) {
                removed.push(waiting.job);
            } else {
                self.waiting.push_back(waiting);
            }
        }
        removed
    }

    /// Of the models that something is wanted of, the one whose turn it is.
    fn next_model(&self, wants: &[Option<Want>]) -> Option<ModelId> {
        let running = self.running.iter().zip(wants);
        let wanted = running.filter_map(|(run, want)| want.map(|_| run.terms.model));
        wanted.min_by(|a, b| self.tag_of(*a).total_cmp(&self.tag_of(*b)).then(a.cmp(b)))
    }

    fn tag_of(&self, model: ModelId) -> f64 {
        self.models.get(&model).map_or(0.0, |turn| turn.tag)
    }

    /// Returns the answering requests whose turn it is, those that have had least first. One is
    /// left out that is ahead of another by what the heaviest gains in a pass, or in as many as it
    /// takes for everybody to have a turn.
    fn answering_next(
        &mut self,
        model: ModelId,
        mut answering: Vec<usize>,
        rows: usize,
    ) -> Vec<usize> {
        let turn = self.models.entry(model).or_default();
        let answered = answering.iter().map(|index| self.running[*index].answered);
        let before = answered.filter(|answered| *answered >= turn.answered);
        let least = before.fold(f64::INFINITY, f64::min);
        if least.is_finite() {
            turn.answered = least;
        }
        let mut heaviest = f64::MIN_POSITIVE;
        for index in &answering {
            let run = &mut self.running[*index];
            // Who comes in, or comes back, has nothing to catch up on.
            run.answered = run.answered.max(turn.answered);
            heaviest = heaviest.max(run.terms.share());
        }
        let passes = rows.div_ceil(self.limits.rows_max).max(1) as f64;
        // Sums of thirds are not exact.
        let bound = turn.answered + (passes - 1e-6) / heaviest;
        answering.retain(|index| self.running[*index].answered < bound);
        let answered = |index: usize| self.running[index].answered;
        answering.sort_by(|a, b| answered(*a).total_cmp(&answered(*b)));
        answering
    }

    /// Returns requests at their prompts in the order in which their next chunks would be done if
    /// they were served by weight.
    fn prompting_next(
        &self,
        mut prompting: Vec<usize>,
        rows_of: impl Fn(usize) -> usize,
    ) -> Vec<usize> {
        let done = |index: usize| {
            let run = &self.running[index];
            let rows = rows_of(index).min(PROMPT_ROWS_MAX);
            run.tag + rows as f64 / run.terms.share()
        };
        prompting.sort_by(|a, b| done(*a).total_cmp(&done(*b)));
        prompting
    }

    /// How many rows of prompts go with `rows` of answers.
    fn prompt_rows(&self, model: ModelId, rows: usize) -> usize {
        if rows == 0 {
            return PROMPT_ROWS_MAX;
        }
        let cost = self.models.get(&model).map(|turn| turn.cost);
        let fitting = cost.and_then(|cost| cost.rows_within(rows, PASS_TIME));
        fitting
            .unwrap_or(PROMPT_ROWS_MIN)
            .clamp(PROMPT_ROWS_MIN, PROMPT_ROWS_MAX)
    }

    /// When the first of the running requests should make room, in whole seconds: the passes that
    /// it still takes × the mean time of a pass. A request is expected to be as long as the last
    /// ones were, or, where nothing is known or it is longer already, as long as it can be.
    fn until_place_is_free(&self) -> Duration {
        let passes_left = |running: &Running| {
            let typical = mean(self.lengths.iter().map(|length| *length as f64));
            let expected = typical
                .map(|typical| typical.ceil() as u64)
                .filter(|typical| *typical > running.passes)
                .map_or(running.terms.passes_max, |typical| {
                    typical.min(running.terms.passes_max)
                });
            expected.saturating_sub(running.passes).max(1)
        };
        let first = self.running.iter().map(passes_left).min().unwrap_or(0);
        let seconds = (first as f64 * self.pace()).ceil();
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    /// How long a request would take if it came now, as far as anything is known: until it has a
    /// place, its prompt and those before it, and an answer of typical length.
    fn expected_time(&self, terms: &Terms) -> Option<Duration> {
        let cost = self.models.get(&terms.model)?.cost;
        let chunk = cost.predict(PROMPT_ROWS_MAX)?.as_secs_f64() / PROMPT_ROWS_MAX as f64;
        let before = self
            .waiting
            .iter()
            .filter(|of| of.terms.priority >= terms.priority);
        let ahead: usize = before.clone().map(|of| of.terms.prompt_rows).sum();
        let free = self.limits.running_max.saturating_sub(self.running.len());
        let place = if before.count() < free {
            Duration::ZERO
        } else {
            self.until_place_is_free()
        };
        let typical = mean(self.lengths.iter().map(|length| *length as f64))?;
        let answer = typical.min(terms.passes_max as f64) * self.pace();
        let prompts = (ahead + terms.prompt_rows) as f64 * chunk;
        Duration::try_from_secs_f64(place.as_secs_f64() + prompts + answer).ok()
    }

    /// Mean seconds of a pass.
    fn pace(&self) -> f64 {
        mean(self.pass_times.iter().map(Duration::as_secs_f64)).unwrap_or(0.0)
    }
}

fn push_bounded<T>(values: &mut VecDeque<T>, value: T, len_max: usize) {
    values.push_back(value);
    if values.len() > len_max {
        values.pop_front();
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> Option<f64> {
    let count = values.len();
    (count > 0).then(|| values.sum::<f64>() / count as f64)
}

#[cfg(test)]
mod tests;
