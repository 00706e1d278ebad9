//! How agents fare: whether they take calls, how many they have, and how those ended.
//!
//! The lives of all agents are in memory, under one lock that is held for microseconds: a call
//! costs a few looks at it and never waits for the disk. What comes of probes and calls changes the
//! directory at once; the store writes it a moment later. The clock is read here, and handed to the
//! machines; so is the seed of their jitter.

mod call_book;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use aither_protocol::Amount;
use futures_util::{StreamExt, stream::FuturesUnordered};
use serde_json::json;
use tokio::{
    sync::OnceCell,
    time::{MissedTickBehavior, interval, sleep_until},
};

use self::call_book::CallBook;
use super::{
    events::{Audience, EventService, NodeEvent},
    health_probe::{HealthProbe, ProbeFailure},
    outbound::Targets,
};
use crate::{
    accounts::{StoreError, random, unix_ms},
    agents::{
        Agent, AgentId, AgentState, AgentStore, CallDay, Moved,
        lifecycle::{Admission, Ended, Fleet, Input, Output},
    },
};

/// Longest wait for a turn to be asked: whoever waits for the answer may give up after five
/// seconds.
const TURN_TIMEOUT: Duration = Duration::from_secs(1);
/// Time between two looks for whose time has come.
const TICK: Duration = Duration::from_millis(50);
/// Scheduled probes at once; some room is left for those that somebody waits for.
const SCHEDULED_MAX: usize = 96;
/// When to try an agent again that was found unhealthy just now.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Why an agent takes no call now.
#[derive(Debug, Clone)]
pub struct Unavailable {
    /// Where it is in its life.
    pub state: AgentState,
    /// Why, in words.
    pub reason: String,
    /// When it may be asked again.
    pub retry_after: Option<Duration>,
}

/// How a call ended, as far as its agent goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallEnd {
    /// It answered, and this was earned by its owner.
    Answered {
        /// Its owner's part.
        earned: Amount,
    },
    /// It answered its own owner, who could have as many of these as it takes to look good: it is
    /// at work, and nothing is said about how good it is at that.
    AnsweredOwner {
        /// Its owner's part.
        earned: Amount,
    },
    /// It answered that the request was none: it is at work, and nobody has paid for that.
    Refused,
    /// It could not be reached, broke off, or said that it has failed: words without what was
    /// asked or answered.
    Failed(String),
    /// It took too long.
    TimedOut,
    /// The caller has gone, which says nothing about the agent.
    Canceled,
    /// The caller has gone, and has paid for what it had read.
    Left {
        /// Its owner's part.
        earned: Amount,
    },
}

/// What is known of an agent from its calls.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Standing {
    /// Calls that it is at work on.
    pub running: u32,
    /// Calls that wait for it.
    pub waiting: u32,
    /// How much of what it may have at once it has: above 1 some wait. `None` before any call.
    pub load: Option<f64>,
    /// Calls so far that were answered, failed or timed out.
    pub calls: u64,
    /// Those of them that were not answered.
    pub failed: u64,
    /// A moving mean of what answers took.
    pub latency_ms: Option<f64>,
    /// Between 0 and 1: how likely a call is answered, by those so far. `None` before any.
    pub reputation: Option<f64>,
    /// What its owner has earned by it.
    pub earned: Amount,
}

/// What an agent said of its health when it was asked last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkup {
    /// When that was.
    pub time: SystemTime,
    /// Whether it was healthy.
    pub is_healthy: bool,
}

/// How the agents of this node fare.
#[derive(Debug)]
pub struct AgentHealth {
    store: Arc<AgentStore>,
    probe: HealthProbe,
    events: EventService,
    fleet: Mutex<Fleet>,
    calls: Mutex<CallBook>,
    /// Who is being asked: whoever wants to know it meanwhile waits for the same answer.
    asking: Mutex<HashMap<(AgentId, Era), Arc<Asking>>>,
}

type Asking = OnceCell<Result<(), ProbeFailure>>;

/// Between two orders about an agent.
type Era = u32;

impl AgentHealth {
    /// Takes over the agents of a store, which are to be asked for their health one after another.
    ///
    /// # Errors
    /// The store fails, or there is no HTTP client or no randomness.
    pub fn new(
        store: Arc<AgentStore>,
        targets: Targets,
        events: EventService,
    ) -> Result<Self, StoreError> {
        let seed = u64::from_le_bytes(*random::<8>()?);
        let mut fleet = Fleet::new(seed);
        let now = Instant::now();
        store.directory().for_each(|agent| {
            if let Some(input) = placed(agent) {
                fleet.step(agent.id, input, now);
            }
        });
        let calls = CallBook::new(store.call_stats()?);
        Ok(Self {
            store,
            probe: HealthProbe::new(targets)?,
            events,
            fleet: Mutex::new(fleet),
            calls: Mutex::new(calls),
            asking: Mutex::default(),
        })
    }

    /// Returns which addresses agents may have.
    pub fn targets(&self) -> Targets {
        self.probe.targets()
    }

    /// Says whether an agent that was asked for before is still one to be called, without asking
    /// it: nobody has stopped it or set it aside meanwhile.
    ///
    /// # Errors
    /// Why it does not take calls.
    pub fn still_there(&self, id: AgentId) -> Result<(), Unavailable> {
        let agent = self.store.directory().agent(id);
        let reason = match &agent {
            None => "it has left",
            Some(agent) if agent.is_torn_down => "it was torn down",
            Some(agent) if agent.is_suspended() => "it was suspended",
            Some(agent) if agent.state == AgentState::Stop => "it was stopped",
            Some(_) => return Ok(()),
        };
        Err(Unavailable {
            state: agent.map_or(AgentState::Stop, |agent| agent.state),
            reason: reason.to_owned(),
            retry_after: None,
        })
    }

    /// Says whether an agent takes a call now. One that was not asked for long is asked for its
    /// health first.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn admit(&self, agent: &Agent) -> Result<(), Unavailable> {
        let id = agent.id;
        let (state, admission) = self.admission(agent);
        match admission {
            Admission::Pass | Admission::Trial => Ok(()),
            Admission::Refused {
                reason,
                retry_after,
            } => Err(Unavailable {
                state,
                reason,
                retry_after,
            }),
            Admission::AskFirst => {
                let answer = self.ask(id).await;
                let state = self.state_of(id).unwrap_or(AgentState::Stop);
                match answer {
                    Ok(()) if state.takes_calls() => Ok(()),
                    Ok(()) => Err(Unavailable {
                        state,
                        reason: "it was moved while it was asked for its health".into(),
                        retry_after: Some(RETRY_AFTER),
                    }),
                    Err(why) => Err(Unavailable {
                        state,
                        reason: format!("it is not healthy: {why}"),
                        retry_after: Some(RETRY_AFTER),
                    }),
                }
            }
        }
    }

    fn admission(&self, agent: &Agent) -> (AgentState, Admission) {
        let refused = |reason: &str| Admission::Refused {
            reason: reason.to_owned(),
            retry_after: None,
        };
        let Some(agent) = self.store.directory().agent(agent.id) else {
            return (AgentState::Stop, refused("it has left"));
        };
        if agent.probe.is_none() {
            let words = "it has no address; a card with agent_url makes it callable";
            return (agent.state, refused(words));
        }
        let now = Instant::now();
        let mut fleet = lock(&self.fleet);
        let known = fleet.life(agent.id).map(|life| life.state());
        if known != Some(agent.state) {
            // An order was carried out a moment ago.
            self.place_in(&mut fleet, &agent, now);
        }
        let admission = fleet.admit(agent.id, now);
        (
            agent.state,
            admission.unwrap_or_else(|| refused("it was stopped")),
        )
    }

    /// Notes how many calls an agent has, after each change.
    pub fn loaded(&self, id: AgentId, running: u32, waiting: u32, max: u32) {
        let input = Input::Loaded {
            running,
            waiting,
            max,
        };
        self.tell(id, input);
    }

    /// Notes that a call was turned away because as many wait as may.
    pub fn turned_away(&self, id: AgentId) {
        self.tell(id, Input::TurnedAway);
    }

    /// Notes how a call ended, and what it took.
    pub fn ended(&self, id: AgentId, end: &CallEnd, took: Duration) {
        if self.state_of(id).is_none() {
            // It has left meanwhile, and nothing of it is to stay.
            return;
        }
        lock(&self.calls).count(id, end, took, SystemTime::now());
        let end = match end {
            CallEnd::Answered { .. } | CallEnd::AnsweredOwner { .. } | CallEnd::Refused => {
                Ended::Answered
            }
            CallEnd::Failed(why) => Ended::Failed(why),
            CallEnd::TimedOut => Ended::TimedOut,
            CallEnd::Canceled | CallEnd::Left { .. } => Ended::Canceled,
        };
        self.tell(id, Input::Ended(end));
    }

    /// Returns what is known of an agent.
    pub fn standing(&self, id: AgentId) -> Standing {
        let load = lock(&self.fleet).life(id).map(|life| life.load());
        let (running, waiting, max) = load.unwrap_or_default();
        let calls = lock(&self.calls);
        let Some(stats) = calls.stats(id) else {
            return Standing {
                running,
                waiting,
                load: ratio(running, waiting, max),
                ..Standing::default()
            };
        };
        Standing {
            running,
            waiting,
            load: ratio(running, waiting, max),
            calls: stats.calls,
            failed: stats.failed,
            latency_ms: stats.latency_ms,
            reputation: call_book::reputation(stats),
            earned: call_book::earned(stats),
        }
    }

    /// Returns an agent's calls of the last days up to today, the oldest day first; days without
    /// calls are left out.
    pub fn days(&self, id: AgentId, count: usize) -> Vec<CallDay> {
        let today = call_book::day_number(SystemTime::now());
        let calls = lock(&self.calls);
        let days = calls.stats(id).map(|stats| stats.days.iter());
        let days = days.into_iter().flatten();
        let is_recent = |day: &&CallDay| today.saturating_sub(day.day) < count as u32;
        days.filter(is_recent).cloned().collect()
    }

    /// Returns what an agent said of its health last, if it was asked since the node started.
    pub fn checkup(&self, id: AgentId) -> Option<Checkup> {
        let checked = lock(&self.fleet).life(id)?.checked();
        let (checked, is_healthy) = checked?;
        Some(Checkup {
            time: SystemTime::now() - checked.elapsed(),
            is_healthy,
        })
    }

    /// Asks an agent for its health at once.
    ///
    /// # Errors
    /// It is not healthy, or could not be asked.
    pub async fn ask(&self, id: AgentId) -> Result<(), ProbeFailure> {
        self.ask_once(id, false).await
    }

    async fn ask_once(&self, id: AgentId, has_turn: bool) -> Result<(), ProbeFailure> {
        let era = lock(&self.fleet).life(id).map(|life| life.era());
        let Some(era) = era else {
            return Err(ProbeFailure::NotHealthy(
                "it has no address, or was stopped".into(),
            ));
        };
        let place = (id, era);
        let asking = Arc::clone(lock(&self.asking).entry(place).or_default());
        let ask = || self.ask_alone(id, era, has_turn);
        let answer = asking.get_or_init(ask).await;
        let mut all = lock(&self.asking);
        if all
            .get(&place)
            .is_some_and(|known| Arc::ptr_eq(known, &asking))
        {
            all.remove(&place);
        }
        answer.clone()
    }

    async fn ask_alone(&self, id: AgentId, era: Era, has_turn: bool) -> Result<(), ProbeFailure> {
        let agent = self.store.directory().agent(id);
        let asked = agent.and_then(|agent| Some((agent.probe.clone()?, agent)));
        let Some((probe, agent)) = asked else {
            return Err(ProbeFailure::NotHealthy("it has no address".into()));
        };
        let now = Instant::now();
        let at = {
            let mut fleet = lock(&self.fleet);
            fleet.step(id, Input::Asking, now);
            match has_turn {
                true => Some(now),
                false => fleet.pace().take(now, TURN_TIMEOUT),
            }
        };
        let at = at.ok_or(ProbeFailure::Busy)?;
        sleep_until(at.into()).await;
        let answer = self.probe.ask(&probe).await;
        self.answered(&agent, era, &answer);
        answer
    }

    /// Takes in what an agent said. What was asked of an earlier card, or before an order, says
    /// nothing about the agent of today.
    fn answered(&self, asked: &Agent, era: Era, answer: &Result<(), ProbeFailure>) {
        let probed = match answer {
            Ok(()) => Ok(()),
            Err(ProbeFailure::NotHealthy(why)) => Err(&**why),
            Err(ProbeFailure::Busy) => return,
        };
        let known = self.store.directory().agent(asked.id);
        if known.is_none_or(|known| known.probe != asked.probe) {
            return;
        }
        if lock(&self.fleet).life(asked.id).map(|life| life.era()) == Some(era) {
            self.tell(asked.id, Input::Probed(probed));
        }
    }

    /// Tells an agent's life what has happened, and moves the agent where it leads.
    fn tell(&self, id: AgentId, input: Input<'_>) {
        let now = Instant::now();
        let mut fleet = lock(&self.fleet);
        let outputs = fleet.step(id, input, now);
        if outputs.is_empty() {
            return;
        }
        for output in outputs {
            self.take_in(&mut fleet, id, output, now);
        }
        drop(fleet);
        self.announce();
    }

    fn take_in(&self, fleet: &mut Fleet, id: AgentId, output: Output, now: Instant) {
        let Output::Moved { from, to, reason } = output else {
            return;
        };
        let moved = Moved {
            id,
            time_ms: unix_ms(SystemTime::now()),
            from,
            to,
            reason,
        };
        let directory = self.store.directory();
        if !directory.move_on(moved) {
            // Somebody has given an order meanwhile, which counts.
            match directory.agent(id) {
                Some(agent) => self.place_in(fleet, &agent, now),
                None => fleet.forget(id),
            }
        }
    }

    /// Takes in where an order has led an agent, if it has.
    pub fn place(&self, id: AgentId) {
        let agent = self.store.directory().agent(id);
        let known = lock(&self.fleet)
            .life(id)
            .map(|life| (life.state(), life.interval()));
        let wanted = agent.as_ref().map(|agent| {
            let interval = agent.probe.as_ref().map(|probe| probe.interval);
            (agent.state, interval)
        });
        // What is known of it stays, where nothing has changed.
        if agent.is_none() || known != wanted {
            self.begin_anew(id);
        }
    }

    /// Takes in that all that was known of an agent's health is of another card, or another life.
    pub fn begin_anew(&self, id: AgentId) {
        let now = Instant::now();
        match self.store.directory().agent(id) {
            Some(agent) => self.place_in(&mut lock(&self.fleet), &agent, now),
            None => {
                lock(&self.fleet).forget(id);
                lock(&self.calls).forget(id);
            }
        }
        self.announce();
    }

    fn place_in(&self, fleet: &mut Fleet, agent: &Agent, now: Instant) {
        let Some(input) = placed(agent) else {
            fleet.forget(agent.id);
            return;
        };
        for output in fleet.step(agent.id, input, now) {
            let Output::Moved { from, to, reason } = output else {
                continue;
            };
            // Drained with nothing to finish. Where this is overtaken too, the next look mends it.
            self.store.directory().move_on(Moved {
                id: agent.id,
                time_ms: unix_ms(SystemTime::now()),
                from,
                to,
                reason,
            });
        }
    }

    /// Tells of the moves that nobody was told of.
    pub fn announce(&self) {
        for (agent, moved) in self.store.directory().take_untold() {
            tracing::debug!(
                agent = %agent.id, from = moved.from.as_str(), to = moved.to.as_str(),
                reason = %moved.reason, "moved"
            );
            self.events.note(NodeEvent {
                name: format!("agent.{}.lifecycle", agent.name),
                agent: Some(agent.name.to_string()),
                audience: Audience::Accounts(vec![agent.owner]),
                data: json!({
                    "from": moved.from.as_str(),
                    "to": moved.to.as_str(),
                    "reason": moved.reason,
                }),
            });
        }
    }

    /// Asks agents for their health when it is time. Never ends by itself.
    pub async fn probe_all(&self) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asking = FuturesUnordered::new();
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    let room = SCHEDULED_MAX.saturating_sub(asking.len());
                    for id in self.due(room) {
                        asking.push(self.ask_once(id, true));
                    }
                }
                Some(_) = asking.next(), if !asking.is_empty() => {}
            }
        }
    }

    /// Returns who is to be asked now.
    fn due(&self, room: usize) -> Vec<AgentId> {
        let now = Instant::now();
        let mut fleet = lock(&self.fleet);
        let mut due = Vec::new();
        for (id, output) in fleet.due(now, room) {
            match output {
                Output::Probe => due.push(id),
                output => self.take_in(&mut fleet, id, output, now),
            }
        }
        drop(fleet);
        self.announce();
        due
    }

    /// Writes what is known from calls and not written yet. Blocks.
    ///
    /// # Errors
    /// The store fails; it is tried again next time.
    pub fn write_call_stats(&self) -> Result<(), StoreError> {
        let stats = lock(&self.calls).take_unwritten();
        if stats.is_empty() {
            return Ok(());
        }
        let written = self.store.write_call_stats(&stats, SystemTime::now());
        written.inspect_err(|_| lock(&self.calls).not_written(&stats))
    }

    /// Returns whom the end of the node stops, whoever was used last first.
    pub fn to_stop(&self) -> Vec<AgentId> {
        use AgentState::{Drain, Heal, Live, Pain};
        lock(&self.fleet).in_states(&[Live, Pain, Heal, Drain])
    }

    fn state_of(&self, id: AgentId) -> Option<AgentState> {
        self.store.directory().agent(id).map(|agent| agent.state)
    }
}

/// Returns what an agent's life is told at its beginning and after orders; nothing of one that has
/// none to speak of: nobody can call it, or it is stopped.
fn placed(agent: &Agent) -> Option<Input<'static>> {
    let is_alive = match agent.state {
        AgentState::Stop => false,
        AgentState::Drain => true,
        _ => agent.probe.is_some(),
    };
    is_alive.then(|| Input::Placed {
        state: agent.state,
        interval: agent.probe.as_ref().map(|probe| probe.interval),
    })
}

fn ratio(running: u32, waiting: u32, max: u32) -> Option<f64> {
    let present = f64::from(running) + f64::from(waiting);
    (max > 0).then(|| present / f64::from(max))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds it can leave it half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
