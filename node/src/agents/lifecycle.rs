//! Where an agent is in its life, and why it moves on: a machine that is told what happens and
//! when.
//!
//! What somebody orders is decided by [`ordered`] inside the store's transaction, since it must be
//! durable before it is acknowledged; the machine is then told where the agent is. What probes,
//! calls, load and time make of it the machine decides, and says at once. It knows no clock, no
//! disk and no network, and its jitter comes of a seed, so the same inputs always make the same
//! life. [`Fleet`] keeps the machines of all agents and when each is to be looked at.
//!
//! Three failures in a row of one kind are pain: one is a lost packet, two may be a restart. Three
//! more, of any kind and with nothing good between them, open the circuit, so that callers are told
//! at once and an agent that is down is left alone. Trials come at growing pauses; two good ones in
//! a row close it. Load is pain when calls are turned away several times within seconds, or when
//! twice as much as an agent does at once has been there for as long.

mod fleet;
mod orders;
#[cfg(test)]
mod tests;

use std::{
    borrow::Cow,
    time::{Duration, Instant},
};

pub use self::{
    fleet::{Fleet, Pace},
    orders::{LEGAL, NODE_STARTED, Order, at_start, is_legal, ordered},
};
use super::{AgentState, AgentState as State};

/// Failures in a row of one kind, probes or calls, after which an agent is in pain.
pub const PAIN_AFTER: u8 = 3;
/// Failures in a row in pain, of whatever kind, after which the circuit opens.
pub const HEAL_AFTER: u8 = 3;
/// Good things in a row after which an agent is well again.
pub const WELL_AFTER: u8 = 2;
/// Shortest pain that calls or load have made: else an agent that fails every other time would
/// change with each call.
pub const PAIN_TIME_MIN: Duration = Duration::from_secs(30);
/// How much of what an agent does at once may be there, running and waiting, for [`LOAD_TIME_MAX`].
pub const LOAD_MAX: f64 = 2.0;
/// How long that may last.
pub const LOAD_TIME_MAX: Duration = Duration::from_secs(10);
/// Calls turned away within [`LOAD_TIME_MAX`] that are pain.
pub const TURNED_AWAY_MAX: u8 = 3;
/// First pause before a trial; each that fails doubles it.
pub const TRIAL_PAUSE: Duration = Duration::from_secs(5);
/// Longest pause between two trials.
pub const TRIAL_PAUSE_MAX: Duration = Duration::from_secs(300);
/// How much of a pause chance may add or take, so that many who fail together are not tried
/// together.
const JITTER: f64 = 0.2;
/// A circuit that opens again within this time of closing goes on with the pause that it had.
const RELAPSE_TIME: Duration = Duration::from_secs(600);
/// After this time a trial that nobody has told the end of counts for nothing.
const TRIAL_TIME_MAX: Duration = Duration::from_secs(120);
/// After this time a trial that has not begun counts for nothing: a call may be let in and then not
/// be made, for lack of money, say.
const TRIAL_BEGIN_MAX: Duration = Duration::from_secs(5);
/// Longest time that an agent has to finish its calls: as long as a call may take by default.
pub const DRAIN_TIME_MAX: Duration = Duration::from_secs(60);
/// An agent without a call for this long is asked for its health on use only.
pub const UNUSED_AFTER: Duration = Duration::from_secs(3600);
/// Time between two probes of an unused agent that has not come up: nobody would use it otherwise.
pub const UNUSED_BOOT_PERIOD: Duration = Duration::from_secs(600);
/// First pause between probes of an agent that is not up; it doubles up to the agent's interval.
const BOOT_PAUSE: Duration = Duration::from_secs(1);
/// Time until an agent is asked again that has just failed, unless its interval is shorter.
const RETRY_PAUSE: Duration = Duration::from_secs(2);
/// Time between probes of an agent in pain, unless its interval is shorter.
const PAIN_PERIOD: Duration = Duration::from_secs(5);
/// After this time a probe that nobody has told the end of is made again.
const PROBE_TIME_MAX: Duration = Duration::from_secs(10);
/// When to try a call again that an agent in its first seconds did not take.
const SOON: Duration = Duration::from_secs(1);

/// Something that happens to an agent.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// It was put there by an order that is durable by now, or when the process started; with the
    /// time between two probes, if it has an address.
    Placed {
        /// Where it is.
        state: AgentState,
        /// Its probes' interval.
        interval: Option<Duration>,
    },
    /// Somebody asks for its health, at another time than this machine has said.
    Asking,
    /// It was found healthy, or not, and why.
    Probed(Result<(), &'a str>),
    /// A call has ended.
    Ended(Ended<'a>),
    /// It has as many calls.
    Loaded {
        /// At work.
        running: u32,
        /// Waiting for a place.
        waiting: u32,
        /// As many as it does at once.
        max: u32,
    },
    /// A call was turned away, since as many wait as may.
    TurnedAway,
    /// Time has passed.
    Time,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended<'a> {
    /// It was answered.
    Answered,
    /// It failed, and why.
    Failed(&'a str),
    /// It took too long.
    TimedOut,
    /// Its caller has gone, which says nothing.
    Canceled,
}

/// What the machine says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// It has moved.
    Moved {
        /// From there.
        from: AgentState,
        /// To there.
        to: AgentState,
        /// Why, in words.
        reason: Cow<'static, str>,
    },
    /// It is to be asked for its health now.
    Probe,
    /// [`Input::Time`] is to be told then. An earlier one that was said stands as well.
    WakeAt(Instant),
}

/// Whether a call is let through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// It is.
    Pass,
    /// It is, and whether the agent is well again is told by how it ends.
    Trial,
    /// The agent is to be asked for its health first.
    AskFirst,
    /// It is not.
    Refused {
        /// Why, in words.
        reason: String,
        /// When it may be tried again; never, where somebody has to do something first.
        retry_after: Option<Duration>,
    },
}

/// What an agent suffers from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Probes,
    Calls,
    Load,
}

/// The life of one agent. Small: there may be a hundred thousand.
#[derive(Debug, Clone)]
pub struct Life {
    state: State,
    /// Failures in a row, of each kind.
    probes_failed: u8,
    calls_failed: u8,
    /// Failures in a row of any kind since it is in this state.
    failed: u8,
    /// Good things in a row since it is in this state.
    good: u8,
    /// How often the pause between probes was doubled.
    doubled: u8,
    is_healthy: bool,
    /// Another one whenever it is placed.
    era: u32,
    interval: Option<Duration>,
    since: Instant,
    /// When it was last called, or placed.
    used: Instant,
    checked: Option<Instant>,
    probe_at: Option<Instant>,
    /// The earliest time that was said.
    wake_at: Option<Instant>,
    running: u32,
    waiting: u32,
    max: u32,
    /// What only few have.
    trouble: Option<Box<Trouble>>,
}

const _: () = assert!(size_of::<Life>() <= 160, "20 MB for a hundred thousand");

#[derive(Debug, Clone, Default)]
struct Trouble {
    cause: Option<Cause>,
    /// What went wrong last, in words.
    last: Box<str>,
    /// How often trials have failed.
    level: u8,
    /// When the circuit was closed last.
    closed: Option<Instant>,
    /// Since when a call is through as a trial.
    trial: Option<Instant>,
    /// Since when there is too much.
    over: Option<Instant>,
    /// When calls were turned away first, and how many since.
    turned_away: Option<(Instant, u8)>,
    /// State of the generator of jitter.
    chance: u64,
}

impl Life {
    /// An agent that nothing is known of yet.
    pub fn new(state: AgentState, now: Instant) -> Self {
        Self {
            state,
            probes_failed: 0,
            calls_failed: 0,
            failed: 0,
            good: 0,
            doubled: 0,
            is_healthy: false,
            era: 0,
            interval: None,
            since: now,
            used: now,
            checked: None,
            probe_at: None,
            wake_at: None,
            running: 0,
            waiting: 0,
            max: 0,
            trouble: None,
        }
    }

    /// Returns where it is.
    pub fn state(&self) -> AgentState {
        self.state
    }

    /// Returns a number that changes whenever it is placed: what was asked before says nothing.
    pub fn era(&self) -> u32 {
        self.era
    }

    /// Returns the time between two probes, if it has an address.
    pub fn interval(&self) -> Option<Duration> {
        self.interval
    }

    /// Returns when it was last asked for its health and whether it had it, if it was asked.
    pub fn checked(&self) -> Option<(Instant, bool)> {
        self.checked.map(|checked| (checked, self.is_healthy))
    }

    /// Returns how many calls run, how many wait, and how many may run.
    pub fn load(&self) -> (u32, u32, u32) {
        (self.running, self.waiting, self.max)
    }

    /// Returns when it was last used.
    pub fn used(&self) -> Instant {
        self.used
    }

    /// Takes in what happens, and says what comes of it. `seed` is for jitter.
    pub fn step(&mut self, input: Input<'_>, now: Instant, seed: u64) -> Vec<Output> {
        let mut outputs = Vec::new();
        let is_of_called = matches!(
            input,
            Input::Asking | Input::Probed(_) | Input::Ended(_) | Input::TurnedAway
        );
        if is_of_called && self.interval.is_none() {
            // Nobody can ask or call one that has no address.
            return outputs;
        }
        match input {
            Input::Placed { state, interval } => self.place(state, interval, now),
            Input::Asking if self.is_over() => {}
            Input::Asking => self.probe_at = Some(now + PROBE_TIME_MAX),
            Input::Probed(Ok(())) => self.on_healthy(now, &mut outputs),
            Input::Probed(Err(why)) => self.on_unhealthy(why, now, seed, &mut outputs),
            Input::Ended(end) => self.on_ended(end, now, seed, &mut outputs),
            Input::Loaded {
                running,
                waiting,
                max,
            } => self.on_load(running, waiting, max, now),
            Input::TurnedAway => self.on_turned_away(now),
            Input::Time => self.on_time(now, &mut outputs),
        }
        self.weigh(now, &mut outputs);
        self.arm(&mut outputs);
        outputs
    }

    /// Says whether a call may go through, which is a use in any case.
    pub fn admit(&mut self, now: Instant) -> Admission {
        let was_unused = self.is_unused(now);
        self.used = now;
        match self.state {
            State::Live | State::Pain if was_unused && self.interval.is_some() => {
                Admission::AskFirst
            }
            State::Live | State::Pain => Admission::Pass,
            State::Boot => match self.checked {
                Some(checked) if !self.is_healthy && now < checked + SOON => {
                    refused(self.why("it has not been found healthy"), Some(SOON))
                }
                _ => Admission::AskFirst,
            },
            State::Heal => self.admit_trial(now),
            State::Drain => refused("it finishes what it has and takes no more".into(), None),
            State::Deploy | State::Init => refused("it is not aboard yet".into(), Some(SOON)),
            State::Stop => refused("it was stopped".into(), None),
        }
    }

    /// One call at a time may find out whether the agent is well again, when a trial is due.
    fn admit_trial(&mut self, now: Instant) -> Admission {
        let due = self.probe_at.unwrap_or(now).saturating_duration_since(now);
        let words = self.why("calls are held back after it has failed again and again");
        let longest = match self.running + self.waiting {
            0 => TRIAL_BEGIN_MAX,
            _ => TRIAL_TIME_MAX,
        };
        let trouble = self.trouble.get_or_insert_default();
        let runs = trouble.trial.map(|since| since + longest);
        if runs.is_some_and(|until| now < until) {
            return refused(words, Some(SOON));
        }
        if !due.is_zero() {
            return refused(words, Some(due.max(SOON)));
        }
        trouble.trial = Some(now);
        Admission::Trial
    }

    fn why(&self, words: &str) -> String {
        match self.trouble.as_ref().filter(|t| !t.last.is_empty()) {
            Some(trouble) => format!("{words}: {}", trouble.last),
            None => words.to_owned(),
        }
    }

    fn place(&mut self, state: State, interval: Option<Duration>, now: Instant) {
        self.enter(state, now);
        self.interval = interval;
        self.used = now;
        self.checked = None;
        self.trouble = None;
        self.probe_at = match self.is_over() {
            true => None,
            false => interval.map(|_| now),
        };
    }

    /// Returns whether nothing but an order gets it back.
    fn is_over(&self) -> bool {
        matches!(self.state, State::Drain | State::Stop)
    }

    /// Begins a state anew.
    fn enter(&mut self, state: State, now: Instant) {
        self.state = state;
        self.since = now;
        (self.probes_failed, self.calls_failed) = (0, 0);
        (self.failed, self.good, self.doubled) = (0, 0, 0);
        if let Some(trouble) = &mut self.trouble {
            trouble.trial = None;
            trouble.turned_away = None;
        }
    }

    fn moves(&mut self, to: State, reason: Cow<'static, str>, now: Instant, out: &mut Vec<Output>) {
        let from = self.state;
        self.enter(to, now);
        out.push(Output::Moved { from, to, reason });
    }

    fn on_healthy(&mut self, now: Instant, out: &mut Vec<Output>) {
        (self.checked, self.is_healthy) = (Some(now), true);
        self.probes_failed = 0;
        match self.state {
            State::Boot => {
                self.moves(State::Live, "it was found healthy".into(), now, out);
                self.probe_at = self.interval.map(|interval| now + interval);
            }
            State::Live => self.probe_at = self.interval.map(|interval| now + interval),
            State::Pain => {
                self.note_good();
                self.probe_at = self.within(PAIN_PERIOD, now);
            }
            State::Heal => self.on_good_trial(now),
            State::Deploy | State::Init | State::Drain | State::Stop => {}
        }
    }

    fn on_unhealthy(&mut self, why: &str, now: Instant, seed: u64, out: &mut Vec<Output>) {
        (self.checked, self.is_healthy) = (Some(now), false);
        self.probes_failed = self.probes_failed.saturating_add(1);
        self.note_bad(why);
        match self.state {
            State::Boot => {
                let pause = BOOT_PAUSE * (1 << self.doubled.min(20));
                self.doubled = self.doubled.saturating_add(1);
                let longest = match self.is_unused(now) {
                    true => UNUSED_BOOT_PERIOD,
                    false => self.interval.unwrap_or(BOOT_PAUSE),
                };
                self.probe_at = self.interval.map(|_| now + pause.min(longest));
            }
            State::Live => {
                self.probe_at = self.within(RETRY_PAUSE, now);
                if self.probes_failed >= PAIN_AFTER {
                    let words =
                        format!("{PAIN_AFTER} probes in a row have failed, the last: {why}");
                    self.suffer(Cause::Probes, words.into(), now, out);
                }
            }
            State::Pain => {
                self.probe_at = self.within(PAIN_PERIOD, now);
                self.open_if_worse(now, seed, out);
            }
            State::Heal => self.on_bad_trial(now, seed),
            State::Deploy | State::Init | State::Drain | State::Stop => {}
        }
    }

    fn on_ended(&mut self, end: Ended<'_>, now: Instant, seed: u64, out: &mut Vec<Output>) {
        self.used = now;
        let was_trial = self.trouble.as_mut().and_then(|t| t.trial.take()).is_some();
        let why = match end {
            Ended::Canceled => return,
            Ended::Answered => {
                self.calls_failed = 0;
                match self.state {
                    State::Pain => self.note_good(),
                    // Others began before the circuit was opened.
                    State::Heal if was_trial => self.on_good_trial(now),
                    _ => {}
                }
                return;
            }
            Ended::Failed(why) => why,
            Ended::TimedOut => "it took too long",
        };
        match self.state {
            State::Live => {
                self.note_bad(why);
                self.calls_failed = self.calls_failed.saturating_add(1);
                if self.calls_failed >= PAIN_AFTER {
                    let words = format!("{PAIN_AFTER} calls in a row have failed, the last: {why}");
                    self.suffer(Cause::Calls, words.into(), now, out);
                }
            }
            State::Pain => {
                self.note_bad(why);
                self.open_if_worse(now, seed, out);
            }
            State::Heal if was_trial => {
                self.note_bad(why);
                self.on_bad_trial(now, seed);
            }
            _ => {}
        }
    }

    fn on_load(&mut self, running: u32, waiting: u32, max: u32, now: Instant) {
        (self.running, self.waiting, self.max) = (running, waiting, max);
        let is_over = f64::from(running) + f64::from(waiting) >= LOAD_MAX * f64::from(max.max(1));
        if is_over && self.state.takes_calls() {
            self.trouble.get_or_insert_default().over.get_or_insert(now);
        } else if let Some(trouble) = &mut self.trouble {
            trouble.over = None;
        }
    }

    fn on_turned_away(&mut self, now: Instant) {
        let trouble = self.trouble.get_or_insert_default();
        let recent = trouble
            .turned_away
            .filter(|(first, _)| now < *first + LOAD_TIME_MAX);
        let (first, count) = recent.unwrap_or((now, 0));
        trouble.turned_away = Some((first, count.saturating_add(1)));
    }

    fn on_time(&mut self, now: Instant, out: &mut Vec<Output>) {
        self.wake_at = None;
        if self.probe_at.is_none_or(|at| now < at) {
            return;
        }
        let is_asleep = self.is_unused(now) && self.state != State::Boot;
        if is_asleep {
            // It is asked when it is used; see `admit`.
            self.probe_at = None;
            return;
        }
        self.probe_at = Some(now + PROBE_TIME_MAX);
        out.push(Output::Probe);
    }

    /// Goes on where nothing more needs to happen than what has.
    fn weigh(&mut self, now: Instant, out: &mut Vec<Output>) {
        match self.state {
            State::Live => {
                if let Some(words) = self.too_much(now) {
                    self.suffer(Cause::Load, words.into(), now, out);
                }
            }
            State::Pain => self.recover(now, out),
            State::Heal if self.good >= WELL_AFTER => {
                let words = format!("{WELL_AFTER} trials in a row were good");
                self.moves(State::Live, words.into(), now, out);
                self.probe_at = self.interval.map(|interval| now + interval);
                self.trouble.get_or_insert_default().closed = Some(now);
            }
            State::Drain => {
                let words = if self.running == 0 && self.waiting == 0 {
                    "it has finished what it had"
                } else if self.since + DRAIN_TIME_MAX <= now {
                    "its time to finish what it had is over"
                } else {
                    return;
                };
                self.probe_at = None;
                self.moves(State::Stop, words.into(), now, out);
            }
            _ => {}
        }
    }

    /// Returns what is too much, if something is.
    fn too_much(&self, now: Instant) -> Option<&'static str> {
        let trouble = self.trouble.as_ref()?;
        let turned_away = trouble.turned_away;
        if turned_away.is_some_and(|(_, count)| count >= TURNED_AWAY_MAX) {
            return Some("it has more calls than it can do, and turns calls away");
        }
        let is_over = trouble.over.is_some_and(|over| over + LOAD_TIME_MAX <= now);
        is_over.then_some("it has had twice as many calls as it does at once for a while")
    }

    fn suffer(
        &mut self,
        cause: Cause,
        words: Cow<'static, str>,
        now: Instant,
        out: &mut Vec<Output>,
    ) {
        self.moves(State::Pain, words, now, out);
        self.trouble.get_or_insert_default().cause = Some(cause);
        self.probe_at = self.within(PAIN_PERIOD, now);
    }

    /// Ends pain that is over.
    fn recover(&mut self, now: Instant, out: &mut Vec<Output>) {
        let Some(trouble) = &self.trouble else {
            return;
        };
        let lasted = self.since + PAIN_TIME_MIN <= now;
        let is_eased = trouble.over.is_none()
            && trouble
                .turned_away
                .is_none_or(|(last, _)| last + PAIN_TIME_MIN <= now);
        let is_well = match trouble.cause {
            // Who is called all the time shows nothing else by its calls than before.
            Some(Cause::Probes) => self.good >= WELL_AFTER && self.probes_failed == 0 && is_eased,
            Some(Cause::Calls) => self.good >= WELL_AFTER && lasted && is_eased,
            Some(Cause::Load) | None => self.failed == 0 && lasted && is_eased,
        };
        if is_well {
            self.moves(State::Live, "it is well again".into(), now, out);
            self.probe_at = self.interval.map(|interval| now + interval);
        }
    }

    fn open_if_worse(&mut self, now: Instant, seed: u64, out: &mut Vec<Output>) {
        if self.failed < HEAL_AFTER {
            return;
        }
        let words = format!(
            "it goes on failing: {}",
            self.trouble.as_ref().map_or("", |trouble| &trouble.last)
        );
        self.moves(State::Heal, words.into(), now, out);
        let trouble = self.trouble.get_or_insert_default();
        let relapsed = trouble.closed.is_some_and(|at| now < at + RELAPSE_TIME);
        trouble.level = match relapsed {
            true => trouble.level.saturating_add(1),
            false => 0,
        };
        trouble.over = None;
        let pause = trial_pause(trouble, seed);
        self.probe_at = Some(now + pause);
    }

    fn on_good_trial(&mut self, now: Instant) {
        self.note_good();
        self.probe_at = Some(now + SOON);
    }

    fn on_bad_trial(&mut self, now: Instant, seed: u64) {
        let trouble = self.trouble.get_or_insert_default();
        trouble.level = trouble.level.saturating_add(1);
        let pause = trial_pause(trouble, seed);
        self.probe_at = Some(now + pause);
    }

    fn note_good(&mut self) {
        self.failed = 0;
        self.good = self.good.saturating_add(1);
    }

    fn note_bad(&mut self, why: &str) {
        self.good = 0;
        self.failed = self.failed.saturating_add(1);
        let trouble = self.trouble.get_or_insert_default();
        if *trouble.last != *why {
            trouble.last = why.chars().take(REASON_CHARS_MAX).collect();
        }
    }

    fn within(&self, pause: Duration, now: Instant) -> Option<Instant> {
        self.interval.map(|interval| now + interval.min(pause))
    }

    fn is_unused(&self, now: Instant) -> bool {
        self.running == 0 && self.used + UNUSED_AFTER <= now
    }

    /// Says when to be woken, where that is earlier than what was said before.
    fn arm(&mut self, out: &mut Vec<Output>) {
        let other = match self.state {
            State::Drain => Some(self.since + DRAIN_TIME_MAX),
            State::Live => self.trouble.as_ref().and_then(|t| t.over),
            _ => None,
        };
        let other = match self.state {
            State::Live => other.map(|over| over + LOAD_TIME_MAX),
            _ => other,
        };
        let wanted = [self.probe_at, other].into_iter().flatten().min();
        let Some(wanted) = wanted else {
            return;
        };
        if self.wake_at.is_none_or(|at| wanted < at) {
            self.wake_at = Some(wanted);
            out.push(Output::WakeAt(wanted));
        }
    }
}

/// Longest reason that is kept of what an agent or a connection said.
pub const REASON_CHARS_MAX: usize = 160;

fn refused(reason: String, retry_after: Option<Duration>) -> Admission {
    Admission::Refused {
        reason,
        retry_after,
    }
}

/// Returns the pause before the next trial, with a bit of chance in it.
fn trial_pause(trouble: &mut Trouble, seed: u64) -> Duration {
    let pause = TRIAL_PAUSE * (1 << trouble.level.min(10));
    let pause = pause.min(TRIAL_PAUSE_MAX);
    trouble.chance = splitmix(trouble.chance ^ seed);
    // The upper 53 bits are a number below 1, exactly.
    let chance = (trouble.chance >> 11) as f64 / (1_u64 << 53) as f64;
    pause.mul_f64(1.0 + JITTER * (2.0 * chance - 1.0))
}

/// A step of the generator of that name.
fn splitmix(state: u64) -> u64 {
    let mut mixed = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
