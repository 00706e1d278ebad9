//! Whose turn it is: so many calls at once for each agent, and a bounded queue behind them.
//!
//! Told what happens, it says who may begin; it waits for nothing and knows no time. First come,
//! first served. An agent without calls takes no room.

use std::collections::{HashMap, VecDeque};

use crate::agents::AgentId;

/// How many may wait for each that may run.
const WAITING_PER_RUNNING: u32 = 4;
/// Most that wait for one agent.
const WAITING_MAX: u32 = 64;

/// A place in a queue; no other has the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(u64);

/// How much an agent has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Calls that it is at work on.
    pub running: u32,
    /// Calls that wait.
    pub waiting: u32,
    /// How many may run at once.
    pub max: u32,
}

/// As many wait as may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// The queues of all agents.
#[derive(Debug, Default)]
pub struct Queues {
    queues: HashMap<AgentId, Queue>,
    last: u64,
}

#[derive(Debug, Default)]
struct Queue {
    max: u32,
    running: u32,
    waiting: VecDeque<Ticket>,
}

impl Queues {
    /// Takes a place for a call of an agent that has `max` at once. Also returns who may begin
    /// now: often whoever has just come.
    ///
    /// # Errors
    /// As many wait as may.
    pub fn enter(&mut self, agent: AgentId, max: u32) -> Result<(Ticket, Vec<Ticket>), Full> {
        let queue = self.queues.entry(agent).or_default();
        // A newer card may say otherwise than the one before.
        queue.max = max.max(1);
        let waiting_max = queue.max.saturating_mul(WAITING_PER_RUNNING);
        let is_busy = queue.running >= queue.max;
        if is_busy && queue.load().waiting >= waiting_max.min(WAITING_MAX) {
            return Err(Full);
        }
        self.last += 1;
        let ticket = Ticket(self.last);
        queue.waiting.push_back(ticket);
        Ok((ticket, queue.begin()))
    }

    /// Gives a place back, whether it was waited in or had its turn, and returns who may begin.
    pub fn leave(&mut self, agent: AgentId, ticket: Ticket) -> Vec<Ticket> {
        let Some(queue) = self.queues.get_mut(&agent) else {
            return Vec::new();
        };
        match queue.waiting.iter().position(|waits| *waits == ticket) {
            Some(at) => {
                queue.waiting.remove(at);
            }
            None => queue.running = queue.running.saturating_sub(1),
        }
        let begin = queue.begin();
        if queue.running == 0 && queue.waiting.is_empty() {
            self.queues.remove(&agent);
        }
        begin
    }

    /// Returns how much an agent has to do.
    pub fn load(&self, agent: AgentId) -> Load {
        self.queues.get(&agent).map(Queue::load).unwrap_or_default()
    }

    /// Returns whether no agent has anything to do.
    pub fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }
}

impl Queue {
    fn load(&self) -> Load {
        Load {
            running: self.running,
            waiting: u32::try_from(self.waiting.len()).unwrap_or(u32::MAX),
            max: self.max,
        }
    }

    fn begin(&mut self) -> Vec<Ticket> {
        let mut begin = Vec::new();
        while self.running < self.max {
            let Some(ticket) = self.waiting.pop_front() else {
                break;
            };
            self.running += 1;
            begin.push(ticket);
        }
        begin
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};

    use super::*;

    const BOT: AgentId = AgentId::from_u128(1);

    #[test]
    fn as_many_run_as_may_and_the_others_follow_in_their_order() {
        let mut queues = Queues::default();
        let (first, begin) = queues.enter(BOT, 2).unwrap();
        assert_eq!(begin, [first]);
        let (second, begin) = queues.enter(BOT, 2).unwrap();
        assert_eq!(begin, [second]);
        let (third, begin) = queues.enter(BOT, 2).unwrap();
        assert!(begin.is_empty());
        let (fourth, _) = queues.enter(BOT, 2).unwrap();
        let other = AgentId::from_u128(2);
        let (elsewhere, begin) = queues.enter(other, 1).unwrap();
        assert_eq!(begin, [elsewhere]);
        assert_eq!(queues.leave(BOT, second), [third]);
        let load = queues.load(BOT);
        assert_eq!((load.running, load.waiting, load.max), (2, 1, 2));
        assert_eq!(queues.leave(BOT, first), [fourth]);
        assert!(queues.leave(BOT, third).is_empty());
        assert!(queues.leave(BOT, fourth).is_empty());
        assert!(queues.leave(other, elsewhere).is_empty());
        assert!(queues.is_empty());
    }

    #[test]
    fn who_gives_up_waiting_holds_nobody_up() {
        let mut queues = Queues::default();
        let (first, _) = queues.enter(BOT, 1).unwrap();
        let (second, _) = queues.enter(BOT, 1).unwrap();
        let (third, _) = queues.enter(BOT, 1).unwrap();
        assert!(queues.leave(BOT, second).is_empty());
        assert_eq!(queues.leave(BOT, first), [third]);
    }

    #[test]
    fn a_full_queue_refuses() {
        for (max, waiting) in [(1, 4), (5, 20), (16, 64), (1000, 64)] {
            let mut queues = Queues::default();
            for _ in 0..max + waiting {
                queues.enter(BOT, max).unwrap();
            }
            assert_eq!(queues.enter(BOT, max), Err(Full), "{max}");
            assert_eq!(queues.load(BOT).waiting, waiting);
        }
    }

    #[test]
    fn a_newer_card_that_allows_more_lets_those_who_wait_begin() {
        let mut queues = Queues::default();
        let (_, _) = queues.enter(BOT, 1).unwrap();
        let (second, _) = queues.enter(BOT, 1).unwrap();
        let (third, begin) = queues.enter(BOT, 3).unwrap();
        assert_eq!(begin, [second, third]);
        // One that allows less lets nobody begin until enough have ended.
        let (fourth, begin) = queues.enter(BOT, 1).unwrap();
        assert!(begin.is_empty());
        assert!(queues.leave(BOT, second).is_empty());
        assert!(queues.leave(BOT, third).is_empty());
        assert_eq!(queues.load(BOT).waiting, 1);
        let _ = fourth;
    }

    #[test]
    fn whatever_comes_and_goes_no_more_run_than_may_and_nothing_is_left() {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(7);
        let mut queues = Queues::default();
        let (mut running, mut waiting) = (Vec::new(), Vec::new());
        for step in 0..20_000 {
            let is_filling = step < 15_000;
            let enters = is_filling && random.random_bool(0.55);
            let begin = if enters {
                match queues.enter(BOT, 3) {
                    Ok((ticket, begin)) => {
                        waiting.push(ticket);
                        begin
                    }
                    Err(Full) => {
                        assert_eq!((running.len(), waiting.len()), (3, 12));
                        Vec::new()
                    }
                }
            } else {
                let all = running.len() + waiting.len();
                if all == 0 {
                    continue;
                }
                let at = random.random_range(0..all);
                let leaves = match at.checked_sub(running.len()) {
                    Some(at) => waiting.remove(at),
                    None => running.remove(at),
                };
                queues.leave(BOT, leaves)
            };
            for ticket in begin {
                assert_eq!(waiting.first(), Some(&ticket), "first come, first served");
                waiting.remove(0);
                running.push(ticket);
            }
            assert!(running.len() <= 3);
            assert!(running.len() == 3 || waiting.is_empty());
        }
        assert!(queues.is_empty());
    }
}
