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
//! priority doubles the weight, but nobody is left out of more than [`LEFT_OUT_MAX`] passes.
//! Prompts are evaluated in chunks that fit what is left of the time that a pass may take, so that
//! nobody's answer stalls; they share these rows by weight (self-clocked fair queueing). Models
//! take turns, by the time that they took and the weights that run on them.
//!
//! *Suspended.* Who had to give back what was evaluated, for want of memory, is not asked what it
//! wants. Nobody less urgent starts meanwhile: newcomers would take the memory that it waits for.

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
const PASS_TIME: Duration = Duration::from_millis(44);
/// Passes of its model that a request with little weight is left out of at most.
const LEFT_OUT_MAX: u64 = 32;
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
    /// Most passes that it takes, if its prompt comes in the largest chunks.
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
    prompt_time: f64,
    /// Tag of the model that was served last.
    model_time: f64,
    models: BTreeMap<ModelId, ModelTurn>,
    /// Passes that requests took part in which came to their end.
    lengths: VecDeque<u64>,
    /// Of these, those after the prompt.
    answer_lengths: VecDeque<u64>,
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
    answer_passes: u64,
    /// The last pass of its model that it was in.
    last_pass: u64,
    prompt_rows_left: usize,
    /// Passes of its answer over its weight, from where it came in.
    answered: f64,
    /// Rows of its prompt over its weight, from where it came in.
    tag: f64,
    /// What it wanted when the last pass was composed.
    wanted: Option<Want>,
    is_suspended: bool,
}

/// How a model's passes fare.
#[derive(Debug, Default, Clone, Copy)]
struct ModelTurn {
    cost: PassCost,
    /// The least that any answer on it has had, of those that were in the last pass.
    answered: f64,
    /// Time of its passes over the weights that ran, from where it came in.
    tag: f64,
    /// Whether anything was wanted of it when the last pass was composed.
    is_wanted: bool,
    passes: u64,
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
            prompt_time: 0.0,
            model_time: 0.0,
            models: BTreeMap::new(),
            lengths: VecDeque::new(),
            answer_lengths: VecDeque::new(),
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
            && expected > deadline.saturating_duration_since(now)
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

    /// Starts the first waiting request that may start, if a place is free and nobody more urgent
    /// is suspended.
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
        let suspended = self.running.iter().filter(|run| run.is_suspended);
        let suspended = suspended.map(|run| run.rank(now));
        let to_beat = suspended.fold(f64::NEG_INFINITY, f64::max);
        for index in order {
            if rank(&index) <= to_beat {
                return None;
            }
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
        self.note_wants(|run| if run.is_suspended { None } else { want(run.id) });
        let model = self.next_model()?;
        let turn = self.models.entry(model).or_default();
        self.model_time = self.model_time.max(turn.tag);
        turn.passes += 1;
        let number = turn.passes;
        let mut shares = Vec::new();
        let mut rows = 0;
        for index in self.answering_next(model) {
            let run = &mut self.running[index];
            let wanted = run.wanted_rows();
            if rows > 0 && rows + wanted > self.limits.rows_max {
                break;
            }
            rows += wanted;
            run.answered += 1.0 / run.terms.share();
            run.answer_passes += 1;
            run.last_pass = number;
            shares.push(Share {
                id: run.id,
                rows: wanted,
            });
        }
        let mut left = self.prompt_rows(model, rows);
        for index in self.prompting_next(model) {
            let run = &mut self.running[index];
            let rows = run.wanted_rows().min(left);
            if rows == 0 {
                break;
            }
            left -= rows;
            run.tag += rows as f64 / run.terms.share();
            run.prompt_rows_left = run.prompt_rows_left.saturating_sub(rows);
            run.last_pass = number;
            self.prompt_time = self.prompt_time.max(run.tag);
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

    /// Suspends the least urgent request that runs, unless it is the last: the one of the lowest
    /// priority, and of one priority the one that arrived last.
    pub(super) fn suspend_one(&mut self, now: Instant) -> Option<RunId> {
        let active = self.running.iter_mut().filter(|run| !run.is_suspended);
        let mut active: Vec<&mut Running> = active.collect();
        active.sort_by(|a, b| a.rank(now).total_cmp(&b.rank(now)).then(b.id.cmp(&a.id)));
        match active.as_mut_slice() {
            [victim, _, ..] => {
                victim.is_suspended = true;
                Some(victim.id)
            }
            _ => None,
        }
    }

    /// Lets suspended requests go on, the most urgent first, as long as `has_room`, which is told
    /// whether nobody else runs.
    pub(super) fn resume(&mut self, now: Instant, mut has_room: impl FnMut(RunId, bool) -> bool) {
        let (mut suspended, active): (Vec<_>, Vec<_>) =
            self.running.iter_mut().partition(|run| run.is_suspended);
        let mut is_anyone_active = !active.is_empty();
        suspended.sort_by(|a, b| b.rank(now).total_cmp(&a.rank(now)).then(a.id.cmp(&b.id)));
        for run in suspended {
            if !has_room(run.id, !is_anyone_active) {
                return;
            }
            run.is_suspended = false;
            is_anyone_active = true;
        }
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
            push_bounded(&mut self.answer_lengths, run.answer_passes, LENGTHS_MAX);
        }
        if self.running.is_empty() {
            // Sums that only ever grew would one day swallow what is added to them.
            (self.prompt_time, self.model_time) = (0.0, 0.0);
            for turn in self.models.values_mut() {
                (turn.tag, turn.answered) = (0.0, 0.0);
            }
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
        let passes = self.models.entry(terms.model).or_default().passes;
        self.running.push(Running {
            id,
            terms,
            arrived,
            passes: 0,
            answer_passes: 0,
            last_pass: passes,
            prompt_rows_left: terms.prompt_rows,
            answered: f64::NEG_INFINITY,
            tag: f64::NEG_INFINITY,
            wanted: None,
            is_suspended: false,
        });
        id
    }

    fn remove(&mut self, mut condition: impl FnMut(&Waiting<J>) -> bool) -> Vec<J> {
        let mut removed = Vec::new();
        if !self.waiting.iter().any(&mut condition) {
            return removed;
        }
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

    /// Takes note of what everybody wants. Who wants anything anew has nothing to catch up on.
    fn note_wants(&mut self, mut want: impl FnMut(&Running) -> Option<Want>) {
        for run in &mut self.running {
            let wanted = want(run);
            let is_prompt = |want| matches!(want, Some(Want::Prompt(_)));
            if is_prompt(wanted) && !is_prompt(run.wanted) {
                run.tag = run.tag.max(self.prompt_time);
            }
            run.wanted = wanted;
        }
        for (id, turn) in &mut self.models {
            let mut of_model = self.running.iter().filter(|run| run.terms.model == *id);
            let is_wanted = of_model.any(|run| run.wanted.is_some());
            if is_wanted && !turn.is_wanted {
                turn.tag = turn.tag.max(self.model_time);
            }
            turn.is_wanted = is_wanted;
        }
    }

    /// Of the models that something is wanted of, the one whose turn it is.
    fn next_model(&self) -> Option<ModelId> {
        let wanted = self.models.iter().filter(|(_, turn)| turn.is_wanted);
        let next = wanted.min_by(|a, b| a.1.tag.total_cmp(&b.1.tag).then(a.0.cmp(b.0)));
        next.map(|(id, _)| *id)
    }

    /// Returns the answering requests whose turn it is, those that have had least first. One is
    /// left out that is ahead of another by what the heaviest gains in a pass, or in as many as it
    /// takes for everybody to have a turn; but not for ever.
    fn answering_next(&mut self, model: ModelId) -> Vec<usize> {
        let mut answering = self.wanting(model, |want| matches!(want, Want::Answer(_)));
        let turn = self.models.entry(model).or_default();
        let answered = answering.iter().map(|index| self.running[*index].answered);
        let before = answered.filter(|answered| *answered >= turn.answered);
        let least = before.fold(f64::INFINITY, f64::min);
        if least.is_finite() {
            turn.answered = least;
        }
        let (mut heaviest, mut rows) = (f64::MIN_POSITIVE, 0);
        for index in &answering {
            let run = &mut self.running[*index];
            // Who comes in, or comes back, has nothing to catch up on.
            run.answered = run.answered.max(turn.answered);
            heaviest = heaviest.max(run.terms.share());
            rows += run.wanted_rows();
        }
        let passes = rows.div_ceil(self.limits.rows_max).max(1) as f64;
        // Sums of thirds are not exact.
        let bound = turn.answered + (passes - 1e-6) / heaviest;
        let number = turn.passes;
        let is_next = |run: &Running| run.is_left_out(number) || run.answered < bound;
        self.sort_by_turn(&mut answering, number, |run| run.answered);
        let len = answering
            .iter()
            .take_while(|index| is_next(&self.running[**index]));
        // Not none of them, whatever the sums come to.
        let len = len.count().max(1);
        answering.truncate(len);
        answering
    }

    /// Returns requests at their prompts in the order in which their next chunks would be done if
    /// they were served by weight; before them those that were left out for too long.
    fn prompting_next(&self, model: ModelId) -> Vec<usize> {
        let mut prompting = self.wanting(model, |want| matches!(want, Want::Prompt(_)));
        let number = self.models.get(&model).map_or(0, |turn| turn.passes);
        self.sort_by_turn(&mut prompting, number, |run| {
            let rows = run.wanted_rows().min(PROMPT_ROWS_MAX);
            run.tag + rows as f64 / run.terms.share()
        });
        prompting
    }

    /// Puts first those that were left out for too long, then those with the lowest tag.
    fn sort_by_turn(&self, chosen: &mut [usize], pass: u64, tag: impl Fn(&Running) -> f64) {
        chosen.sort_by(|a, b| {
            let (a, b) = (&self.running[*a], &self.running[*b]);
            let left_out = b.is_left_out(pass).cmp(&a.is_left_out(pass));
            left_out.then(tag(a).total_cmp(&tag(b)))
        });
    }

    /// The places of those that want something of a kind from a model.
    fn wanting(&self, model: ModelId, is_kind: fn(Want) -> bool) -> Vec<usize> {
        let running = self.running.iter().enumerate();
        let wanting =
            running.filter(|(_, run)| run.terms.model == model && run.wanted.is_some_and(is_kind));
        wanting.map(|(index, _)| index).collect()
    }

    /// How many rows of prompts go with `rows` of answers. While anybody waits for the next token,
    /// a pass is to be short; it shares its time with the passes of other models that answer, for
    /// these come before the next one of its own.
    fn prompt_rows(&self, model: ModelId, rows: usize) -> usize {
        let mut answer_rows: BTreeMap<ModelId, usize> = BTreeMap::new();
        for run in &self.running {
            if let Some(Want::Answer(rows)) = run.wanted {
                *answer_rows.entry(run.terms.model).or_default() += rows.max(1);
            }
        }
        if answer_rows.is_empty() {
            return PROMPT_ROWS_MAX;
        }
        let others = answer_rows.iter().filter(|(id, _)| **id != model);
        let others_time: Duration = others
            .filter_map(|(id, rows)| {
                let cost = self.models.get(id)?.cost;
                cost.predict((*rows).min(self.limits.rows_max))
            })
            .sum();
        let own_time = PASS_TIME.saturating_sub(others_time);
        let cost = self.models.get(&model).map(|turn| turn.cost);
        let fitting = cost.and_then(|cost| cost.rows_within(rows, own_time));
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
    /// place and the prompts before it are evaluated, then its own prompt, and an answer of typical
    /// length.
    fn expected_time(&self, terms: &Terms) -> Option<Duration> {
        let cost = self.models.get(&terms.model)?.cost;
        let row = cost.predict(PROMPT_ROWS_MAX)?.as_secs_f64() / PROMPT_ROWS_MAX as f64;
        let before = self
            .waiting
            .iter()
            .filter(|of| of.terms.priority >= terms.priority);
        let waiting_rows: usize = before.clone().map(|of| of.terms.prompt_rows).sum();
        let running_rows: usize = self.running.iter().map(|run| run.prompt_rows_left).sum();
        let prompts = (waiting_rows + running_rows) as f64 * row;
        let free = self.limits.running_max.saturating_sub(self.running.len());
        let place = match (before.count() + 1).saturating_sub(free) {
            0 => 0.0,
            places => {
                let typical = mean(self.lengths.iter().map(|length| *length as f64))?;
                let per_place = typical * self.pace() / self.limits.running_max as f64;
                self.until_place_is_free().as_secs_f64() + (places - 1) as f64 * per_place
            }
        };
        let typical = mean(self.answer_lengths.iter().map(|length| *length as f64))?;
        let answer = typical.min(terms.passes_max as f64) * self.pace();
        let own = terms.prompt_rows as f64 * row;
        Duration::try_from_secs_f64(place.max(prompts) + own + answer).ok()
    }

    /// Mean seconds of a pass.
    fn pace(&self) -> f64 {
        mean(self.pass_times.iter().map(Duration::as_secs_f64)).unwrap_or(0.0)
    }
}

impl Running {
    /// How urgent it is: its priority, and how long it is here.
    fn rank(&self, now: Instant) -> f64 {
        self.terms.aged(now.saturating_duration_since(self.arrived))
    }

    fn wanted_rows(&self) -> usize {
        match self.wanted {
            Some(Want::Prompt(rows) | Want::Answer(rows)) => rows.max(1),
            None => 0,
        }
    }

    /// Whether it was in none of the last passes up to this one of its model.
    fn is_left_out(&self, pass: u64) -> bool {
        pass.saturating_sub(self.last_pass) > LEFT_OUT_MAX
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
