//! Where agents are in their lives, on the disk: orders, what memory has moved by itself, and what
//! is known of calls.
//!
//! An order is durable before it is acknowledged. Moves that memory has made come later, many in
//! one transaction, and a crash loses the last of them: the next move says so, since it does not
//! begin where the row before it ends. That is also how a start shows, at an agent's first move
//! after it: nothing is written for a hundred thousand agents when the node starts.

use std::time::Duration;

use aither_protocol::limits::PAGE_ITEMS_MAX;

use super::*;
use crate::agents::{
    CallStats,
    lifecycle::{NODE_STARTED, ordered},
    records::{CallStatsV1, MoveV1, StateV1, state_of},
};

/// Most moves of an agent that are kept; the oldest go.
pub(super) const MOVES_MAX: u64 = 200;
const _: () = assert!(MOVES_MAX as usize <= PAGE_ITEMS_MAX, "a story is one page");
/// Moves that are written in one transaction.
const MOVES_WRITTEN_MAX: usize = 4096;
/// How often an agent's life is read that moves on meanwhile.
const STORY_READS_MAX: usize = 5;
/// When to ask again for the life of an agent that never rests.
const STORY_RETRY_AFTER: Duration = Duration::from_secs(1);
/// Longest reason that is kept, in letters.
const REASON_CHARS_MAX: usize = 256;
/// Why a move does not begin where the one before it ends, unless the node has started in between.
const NOT_NOTED: &str = "what happened in between was not noted";

/// Where an agent is in its life, and how it came there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LifeStory {
    /// Where it is.
    pub state: AgentState,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// Why, in words.
    pub reason: String,
    /// Its moves, the oldest first.
    pub moves: Vec<Transition>,
}

/// A move in an agent's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// From there.
    pub from: AgentState,
    /// To there.
    pub to: AgentState,
    /// Why, in words.
    pub reason: String,
}

impl AgentStore {
    /// Writes moves that memory has made by itself, up to a bound, and returns how many.
    ///
    /// # Errors
    /// The store fails; they wait on.
    pub fn write_moves(&self, now: SystemTime) -> Result<usize, StoreError> {
        self.write(now, |edit, directory| {
            let moves = directory.unwritten(MOVES_WRITTEN_MAX);
            if moves.is_empty() {
                return Ok(0);
            }
            let mut found_by = Vec::new();
            for moved in &moves {
                edit.write_move(moved)?;
                if moved.from.takes_calls() != moved.to.takes_calls() {
                    found_by.push((moved.id, edit.agent(moved.id)?.summary.clone()));
                }
            }
            edit.changes.push(Change::Written(moves.len(), found_by));
            Ok(moves.len())
        })
    }

    /// Leads agents through an order to all of them, in one transaction, until `is_over`; whom it
    /// does not come to is as after a crash. Returns how many have moved.
    ///
    /// # Errors
    /// The store fails, and none has moved.
    pub fn order_all(
        &self,
        ids: &[AgentId],
        order: Order,
        now: SystemTime,
        mut is_over: impl FnMut() -> bool,
    ) -> Result<usize, StoreError> {
        self.write(now, |edit, directory| {
            for id in ids {
                if is_over() {
                    break;
                }
                let Some(agent) = directory.agent(*id) else {
                    continue;
                };
                edit.lead(*id, directory, order, agent.probe.is_some())?;
            }
            let moves = std::mem::take(&mut edit.moved);
            let count = moves.len();
            if count > 0 {
                edit.changes.push(Change::Moves(moves));
            }
            Ok(count)
        })
    }

    /// Returns where an agent is in its life, and how it came there.
    ///
    /// # Errors
    /// There is no such agent, or the store fails.
    pub fn story(&self, id: AgentId) -> Result<LifeStory, AgentError> {
        // Rows are read after what waits, so a move may be in both, and never in none. An agent
        // that has moved on in between is read again.
        for _ in 0..STORY_READS_MAX {
            let (state, unwritten) = self.directory.state_of(id);
            let unknown = || AgentError::Unknown(id.to_string());
            let state = state.ok_or_else(unknown)?;
            let story = self.read(|tables| read_story(tables, id))?;
            let mut story = story.ok_or_else(unknown)?;
            if self.directory.state_of(id).0 != Some(state) {
                continue;
            }
            for moved in &unwritten {
                if !story.moves.iter().any(|known| known.is(moved)) {
                    story.go_on_from(moved.from, self.opened_ms, moved.time_ms);
                    story.go_on(Transition::of(moved));
                }
            }
            story.go_on_from(state, self.opened_ms, u64::MAX);
            let excess = story.moves.len().saturating_sub(MOVES_MAX as usize);
            story.moves.drain(..excess);
            return Ok(story);
        }
        Err(AgentError::Overloaded {
            retry_after: STORY_RETRY_AFTER,
        })
    }

    /// Writes what is known of agents from their calls.
    ///
    /// # Errors
    /// The store fails.
    pub fn write_call_stats(
        &self,
        stats: &[(AgentId, CallStats)],
        now: SystemTime,
    ) -> Result<(), StoreError> {
        self.write(now, |edit, _| {
            for (id, stats) in stats {
                let id = id.0.to_bytes();
                // It may have left meanwhile, and nothing of it is to stay.
                if edit.tables.states.get(id)?.is_some() {
                    let bytes = CallStatsV1(stats.clone()).encode();
                    edit.tables.call_stats.insert(id, &bytes[..])?;
                }
            }
            edit.changes.push(Change::Written(0, Vec::new()));
            Ok(())
        })
    }

    /// Reads what is known of agents from their calls.
    ///
    /// # Errors
    /// The store fails.
    pub fn call_stats(&self) -> Result<Vec<(AgentId, CallStats)>, StoreError> {
        self.read(|tables| {
            let rows = tables.call_stats.iter()?;
            let stats = rows.map(|row| {
                let (id, row) = row?;
                let id = AgentId(ulid::Ulid::from_bytes(id.value()));
                Ok((id, CallStatsV1::decode(row.value())?.0))
            });
            stats.collect()
        })
    }
}

impl Edit<'_> {
    /// Leads an agent where an order wants it, from where it is in memory; until it is put.
    pub(super) fn order(
        &mut self,
        id: AgentId,
        directory: &Directory,
        order: Order,
        record: &AgentV3,
    ) -> Result<(), redb::Error> {
        self.lead(id, directory, order, record.summary.probe.is_some())
    }

    fn lead(
        &mut self,
        id: AgentId,
        directory: &Directory,
        order: Order,
        has_address: bool,
    ) -> Result<(), redb::Error> {
        let (state, unwritten) = directory.state_of(id);
        let mut from = state.unwrap_or(AgentState::Deploy);
        let steps = ordered(from, order, has_address);
        if steps.is_empty() {
            return Ok(());
        }
        // First what was before. It waits on until this is committed, and is dropped then.
        for moved in &unwritten {
            self.write_move(moved)?;
        }
        for (to, reason) in steps {
            let moved = Moved {
                id,
                time_ms: self.now_ms,
                from,
                to,
                reason,
            };
            self.write_move(&moved)?;
            self.moved.push(moved);
            from = to;
        }
        Ok(())
    }

    /// Writes a move, and before it that something is missing, if it does not begin where the disk
    /// says that the agent is.
    fn write_move(&mut self, moved: &Moved) -> Result<(), redb::Error> {
        let id = moved.id.0.to_bytes();
        let was = self.tables.states.get(id)?;
        let was = was.map(|row| StateV1::decode(row.value())).transpose()?;
        if let Some(was) = was {
            let at = was.state()?;
            if at != moved.from {
                let times = (was.since_ms, self.opened_ms, moved.time_ms);
                self.add_move(id, &gap(at, moved.from, times))?;
            }
        }
        let moved = Transition::of(moved);
        self.add_move(id, &moved)?;
        let state = StateV1 {
            state: moved.to.as_str().to_owned(),
            since_ms: moved.time_ms,
            reason: moved.reason,
        };
        let state = state.encode();
        self.tables.states.insert(id, &state[..])?;
        Ok(())
    }

    fn add_move(&mut self, id: [u8; 16], moved: &Transition) -> Result<(), redb::Error> {
        let all = (id, 0)..=(id, u64::MAX);
        let last = self.tables.moves.range(all)?.next_back().transpose()?;
        let number = last.map_or(1, |(key, _)| key.value().1 + 1);
        let record = MoveV1 {
            time_ms: moved.time_ms,
            from: moved.from.as_str().to_owned(),
            to: moved.to.as_str().to_owned(),
            reason: moved.reason.clone(),
        };
        let record = record.encode();
        self.tables.moves.insert((id, number), &record[..])?;
        if number > MOVES_MAX {
            self.tables.moves.remove((id, number - MOVES_MAX))?;
        }
        Ok(())
    }
}

impl LifeStory {
    /// Adds what is missing before a move from a state, if something is.
    fn go_on_from(&mut self, from: AgentState, opened_ms: u64, time_ms: u64) {
        if self.state != from {
            self.go_on(gap(self.state, from, (self.since_ms, opened_ms, time_ms)));
        }
    }

    fn go_on(&mut self, moved: Transition) {
        self.state = moved.to;
        self.since_ms = moved.time_ms;
        self.reason.clone_from(&moved.reason);
        self.moves.push(moved);
    }
}

impl Transition {
    fn of(moved: &Moved) -> Self {
        Self {
            time_ms: moved.time_ms,
            from: moved.from,
            to: moved.to,
            reason: moved.reason.chars().take(REASON_CHARS_MAX).collect(),
        }
    }

    fn is(&self, moved: &Moved) -> bool {
        *self == Self::of(moved)
    }
}

impl MoveV1 {
    fn transition(self) -> Result<Transition, redb::Error> {
        Ok(Transition {
            time_ms: self.time_ms,
            from: state_of(&self.from)?,
            to: state_of(&self.to)?,
            reason: self.reason,
        })
    }
}

/// Reads what is on the disk of an agent's life, if there is such an agent.
fn read_story(tables: &ReadTables, id: AgentId) -> Result<Option<LifeStory>, redb::Error> {
    let id = id.0.to_bytes();
    let Some(last) = tables.states.get(id)? else {
        return Ok(None);
    };
    let last = StateV1::decode(last.value())?;
    let rows = tables.moves.range((id, 0)..=(id, u64::MAX))?;
    let moves = rows.map(|row| MoveV1::decode(row?.1.value())?.transition());
    Ok(Some(LifeStory {
        state: last.state()?,
        since_ms: last.since_ms,
        reason: last.reason,
        moves: moves.collect::<Result<_, redb::Error>>()?,
    }))
}

/// Returns what stands for moves that are missing: that the node has started, if it has in between.
fn gap(
    from: AgentState,
    to: AgentState,
    (since_ms, opened_ms, time_ms): (u64, u64, u64),
) -> Transition {
    // Orders are never missing, and nothing else leads there. Clocks may go back.
    let has_started = to == AgentState::Boot || (since_ms <= opened_ms && opened_ms <= time_ms);
    let (time_ms, reason) = match has_started {
        true => (opened_ms.max(since_ms), NODE_STARTED),
        false => (time_ms.min(since_ms.max(opened_ms)), NOT_NOTED),
    };
    Transition {
        time_ms,
        from,
        to,
        reason: reason.to_owned(),
    }
}
