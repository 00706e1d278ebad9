//! The lives of all agents, and when each is to be looked at.
//!
//! A heap of times: looking at whoever is due costs nothing for the others, however many there are.
//! A time that was overtaken by an earlier one stays in the heap until it comes, and is passed over
//! then; when most are of that kind, the heap is made anew. Times at which nobody is asked are in a
//! heap of their own: they do not wait behind all who are due to be asked.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    time::{Duration, Instant},
};

use super::{Admission, Input, Life, Output, splitmix};
use crate::agents::{AgentId, AgentState};

/// Probes in a row without a pause.
const PROBES_BURST: u32 = 20;
/// Probes a second besides: in no second are there more than 200.
const PROBES_PER_SECOND: u32 = 180;
/// Lives that are looked at in one go besides those that are asked.
const LOOKED_AT_MAX: usize = 1000;
/// Times in the heap that are no reason to make it anew.
const TIMES_KEPT: usize = 1024;

/// When probes may be made: so many in a row, then one at a time.
#[derive(Debug, Clone)]
pub struct Pace {
    period: Duration,
    burst: u32,
    /// When as many as were made would have been made one at a time.
    full_at: Option<Instant>,
}

type Times = BinaryHeap<Reverse<(Instant, AgentId)>>;

/// All lives.
#[derive(Debug)]
pub struct Fleet {
    lives: HashMap<AgentId, Life>,
    /// When somebody is to be asked.
    probes: Times,
    /// When something else is to be looked at.
    times: Times,
    pace: Pace,
    seed: u64,
    /// How often lives were placed.
    eras: u32,
}

impl Pace {
    /// A pace that allows `burst` at once and `per_second` besides.
    pub fn new(burst: u32, per_second: u32) -> Self {
        Self {
            period: Duration::from_secs(1) / per_second,
            burst,
            full_at: None,
        }
    }

    /// Takes the next turn and says when it is, if that is within `wait_max`.
    pub fn take(&mut self, now: Instant, wait_max: Duration) -> Option<Instant> {
        let full_at = self.full_at.map_or(now, |at| at.max(now));
        let ahead = self.period * (self.burst - 1);
        let at = full_at.checked_sub(ahead).map_or(now, |at| at.max(now));
        if at.duration_since(now) > wait_max {
            return None;
        }
        self.full_at = Some(full_at + self.period);
        Some(at)
    }

    fn is_free(&self, now: Instant) -> bool {
        self.clone().take(now, Duration::ZERO).is_some()
    }
}

impl Fleet {
    /// A fleet of none, whose jitter comes of a seed.
    pub fn new(seed: u64) -> Self {
        Self {
            lives: HashMap::new(),
            probes: BinaryHeap::new(),
            times: BinaryHeap::new(),
            pace: Pace::new(PROBES_BURST, PROBES_PER_SECOND),
            seed,
            eras: 0,
        }
    }

    /// Returns a life, if it is known.
    pub fn life(&self, id: AgentId) -> Option<&Life> {
        self.lives.get(&id)
    }

    /// Returns the pace at which agents are asked.
    pub fn pace(&mut self) -> &mut Pace {
        &mut self.pace
    }

    /// Tells a life what happens, and returns what comes of it but for times. One that is not known
    /// begins when it is placed.
    pub fn step(&mut self, id: AgentId, input: Input<'_>, now: Instant) -> Vec<Output> {
        let life = match (self.lives.get_mut(&id), input) {
            (Some(life), _) => life,
            (None, Input::Placed { state, .. }) => {
                self.lives.entry(id).or_insert(Life::new(state, now))
            }
            (None, _) => return Vec::new(),
        };
        if matches!(input, Input::Placed { .. }) {
            self.eras = self.eras.wrapping_add(1);
            life.era = self.eras;
        }
        let seed = seed_of(self.seed, id);
        let mut outputs = life.step(input, now, seed);
        outputs.retain(|output| match output {
            Output::WakeAt(at) => {
                let times = match life.probe_at == Some(*at) {
                    true => &mut self.probes,
                    false => &mut self.times,
                };
                times.push(Reverse((*at, id)));
                false
            }
            Output::Moved { .. } | Output::Probe => true,
        });
        self.tidy();
        outputs
    }

    /// Says whether a call may go through.
    pub fn admit(&mut self, id: AgentId, now: Instant) -> Option<Admission> {
        let life = self.lives.get_mut(&id)?;
        let admission = life.admit(now);
        if admission == Admission::AskFirst || life.wake_at.is_none() {
            // Whoever asks tells the answer; one who does not is made up for.
            self.step(id, Input::Asking, now);
        }
        Some(admission)
    }

    /// Forgets a life.
    pub fn forget(&mut self, id: AgentId) {
        self.lives.remove(&id);
    }

    /// Tells those whose time has come so, those first that have waited longest, and returns what
    /// comes of it; no more of them are to be asked than `probes_max` and the pace allow.
    pub fn due(&mut self, now: Instant, probes_max: usize) -> Vec<(AgentId, Output)> {
        let mut due = Vec::new();
        for _ in 0..LOOKED_AT_MAX {
            let Some((at, id)) = next_due(&mut self.times, now) else {
                break;
            };
            let Some(life) = self.lives.get(&id).filter(|life| life.wake_at == Some(at)) else {
                continue;
            };
            if life.probe_at.is_some_and(|at| at <= now) {
                // To be asked as well by now, when it is its turn.
                self.probes.push(Reverse((at, id)));
                continue;
            }
            let outputs = self.step(id, Input::Time, now);
            due.extend(outputs.into_iter().map(|output| (id, output)));
        }
        let mut probes = 0;
        for _ in 0..LOOKED_AT_MAX {
            if probes >= probes_max || !self.pace.is_free(now) {
                break;
            }
            let Some((at, id)) = next_due(&mut self.probes, now) else {
                break;
            };
            // Overtaken by another time, or gone.
            let life = self.lives.get(&id);
            if life.is_none_or(|life| life.wake_at != Some(at)) {
                continue;
            }
            for output in self.step(id, Input::Time, now) {
                if output == Output::Probe {
                    probes += 1;
                    self.pace.take(now, Duration::ZERO);
                }
                due.push((id, output));
            }
        }
        due
    }

    /// Returns those in one of these states, whoever was used last first.
    pub fn in_states(&self, states: &[AgentState]) -> Vec<AgentId> {
        let lives = self.lives.iter();
        let mut found: Vec<_> = lives
            .filter(|(_, life)| states.contains(&life.state()))
            .map(|(id, life)| (Reverse(life.used()), *id))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, id)| id).collect()
    }

    #[cfg(test)]
    pub(super) fn times_len(&self) -> usize {
        self.times.len() + self.probes.len()
    }

    fn tidy(&mut self) {
        let times_max = 2 * self.lives.len() + TIMES_KEPT;
        if self.times.len() + self.probes.len() <= times_max {
            return;
        }
        let times = self.lives.iter();
        let times = times.filter_map(|(id, life)| {
            let at = life.wake_at?;
            Some((life.probe_at == Some(at), Reverse((at, *id))))
        });
        let (probes, times): (Vec<_>, Vec<_>) = times.partition(|(is_probe, _)| *is_probe);
        self.probes = probes.into_iter().map(|(_, time)| time).collect();
        self.times = times.into_iter().map(|(_, time)| time).collect();
    }
}

/// Takes out the first time that has come.
fn next_due(times: &mut Times, now: Instant) -> Option<(Instant, AgentId)> {
    let Reverse((at, _)) = times.peek()?;
    if now < *at {
        return None;
    }
    times.pop().map(|Reverse(time)| time)
}

/// Returns an agent's own seed, so that those who fail together are not tried together.
fn seed_of(seed: u64, id: AgentId) -> u64 {
    // Folded: both halves of an id matter.
    let number = id.as_u128();
    splitmix(seed ^ (number as u64) ^ ((number >> 64) as u64))
}
