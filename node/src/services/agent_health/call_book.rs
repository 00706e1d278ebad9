//! What is known of agents from their calls: counts, a mean time, a share of good calls, days.
//!
//! In memory, and written now and then by whoever owns it; a crash loses the last seconds. An agent
//! that was never called has no entry. The reputation is Laplace's rule over recent calls: with
//! each call what was before counts 0.99 of what it did, so the last hundred or so decide, and
//! `(answered + 1) / (all + 2)` begins at a half and never reaches certainty.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use aither_protocol::Amount;

use super::CallEnd;
use crate::{
    accounts::unix_ms,
    agents::{AgentId, CallDay, CallStats},
};

/// What a call counts once another has come.
const FADING: f64 = 0.99;
/// How far a call's time moves the mean.
const LATENCY_SHARE: f64 = 0.1;
/// Days of which counts are kept.
pub(super) const DAYS_MAX: usize = 30;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// The calls of all agents.
#[derive(Debug, Default)]
pub(super) struct CallBook {
    entries: HashMap<AgentId, Entry>,
}

#[derive(Debug, Default)]
struct Entry {
    stats: CallStats,
    is_written: bool,
}

impl CallBook {
    /// Takes over what was written.
    pub(super) fn new(written: Vec<(AgentId, CallStats)>) -> Self {
        let is_written = true;
        let entries = written
            .into_iter()
            .map(|(id, stats)| (id, Entry { stats, is_written }));
        Self {
            entries: entries.collect(),
        }
    }

    /// Returns what is known of an agent.
    pub(super) fn stats(&self, id: AgentId) -> Option<&CallStats> {
        self.entries.get(&id).map(|entry| &entry.stats)
    }

    /// Counts a call that has ended.
    pub(super) fn count(&mut self, id: AgentId, end: &CallEnd, took: Duration, now: SystemTime) {
        let (earned, is_telling) = match end {
            CallEnd::Canceled | CallEnd::Refused => return,
            CallEnd::Left { earned } => return self.earn(id, *earned, now),
            CallEnd::Answered { earned } => (Some(earned.micros()), true),
            CallEnd::AnsweredOwner { earned } => (Some(earned.micros()), false),
            CallEnd::Failed(_) | CallEnd::TimedOut => (None, true),
        };
        let entry = self.entries.entry(id).or_default();
        entry.is_written = false;
        let stats = &mut entry.stats;
        stats.calls += 1;
        if is_telling {
            stats.recent = stats.recent * FADING + 1.0;
            stats.recent_answered *= FADING;
        }
        let day = day_of(stats, now);
        day.calls += 1;
        let Some(earned) = earned else {
            day.failed += 1;
            stats.failed += 1;
            return;
        };
        day.earned_micros += earned;
        stats.earned_micros += earned;
        if !is_telling {
            return;
        }
        stats.recent_answered += 1.0;
        let took_ms = took.as_secs_f64() * 1000.0;
        let mean = stats.latency_ms.unwrap_or(took_ms);
        stats.latency_ms = Some(mean + LATENCY_SHARE * (took_ms - mean));
    }

    /// Adds what was earned by a call that does not count.
    fn earn(&mut self, id: AgentId, earned: Amount, now: SystemTime) {
        let entry = self.entries.entry(id).or_default();
        entry.is_written = false;
        entry.stats.earned_micros += earned.micros();
        day_of(&mut entry.stats, now).earned_micros += earned.micros();
    }

    /// Returns what is to be written, which counts as written from now on.
    pub(super) fn take_unwritten(&mut self) -> Vec<(AgentId, CallStats)> {
        let entries = self.entries.iter_mut();
        let unwritten = entries.filter(|(_, entry)| !entry.is_written);
        let taken = unwritten.map(|(id, entry)| {
            entry.is_written = true;
            (*id, entry.stats.clone())
        });
        taken.collect()
    }

    /// Takes back that these were written.
    pub(super) fn not_written(&mut self, stats: &[(AgentId, CallStats)]) {
        for (id, _) in stats {
            if let Some(entry) = self.entries.get_mut(id) {
                entry.is_written = false;
            }
        }
    }

    /// Forgets an agent.
    pub(super) fn forget(&mut self, id: AgentId) {
        self.entries.remove(&id);
    }
}

/// Returns how likely an agent answers, by its calls so far.
pub(super) fn reputation(stats: &CallStats) -> Option<f64> {
    (stats.recent > 0.0).then(|| (stats.recent_answered + 1.0) / (stats.recent + 2.0))
}

/// Returns the amount of so many micro-tokens.
pub(super) fn earned(stats: &CallStats) -> Amount {
    Amount::from_micros(stats.earned_micros)
}

/// Returns the day of a time.
pub(super) fn day_number(time: SystemTime) -> u32 {
    u32::try_from(unix_ms(time) / DAY_MS).unwrap_or(u32::MAX)
}

/// Returns today's counts, and lets go of days that are too old.
fn day_of(stats: &mut CallStats, now: SystemTime) -> &mut CallDay {
    let today = day_number(now);
    let is_new = stats.days.last().is_none_or(|last| last.day < today);
    if is_new {
        let first = today.saturating_sub(DAYS_MAX as u32 - 1);
        stats.days.retain(|day| day.day >= first);
        stats.days.push(CallDay {
            day: today,
            ..CallDay::default()
        });
    }
    // A clock that was set back counts on in the last day that there is.
    let last = stats.days.len() - 1;
    &mut stats.days[last]
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    const ID: AgentId = AgentId::from_u128(1);
    const TOOK: Duration = Duration::from_millis(100);

    fn at(day: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(day * DAY_MS + 5)
    }

    fn answered(tokens: u64) -> CallEnd {
        CallEnd::Answered {
            earned: Amount::from_tokens(tokens),
        }
    }

    #[test]
    fn calls_are_counted_by_their_ends_and_by_days() {
        let mut book = CallBook::default();
        assert!(book.stats(ID).is_none());
        book.count(ID, &CallEnd::Canceled, TOOK, at(1));
        assert!(book.stats(ID).is_none(), "whoever left says nothing");
        book.count(ID, &answered(2), TOOK, at(1));
        book.count(ID, &CallEnd::TimedOut, TOOK, at(1));
        book.count(ID, &CallEnd::Failed("no".into()), TOOK, at(2));
        book.count(ID, &answered(3), TOOK, at(1));
        let stats = book.stats(ID).unwrap();
        assert_eq!((stats.calls, stats.failed), (4, 2));
        assert_eq!(earned(stats), Amount::from_tokens(5));
        let days: Vec<_> = stats
            .days
            .iter()
            .map(|d| (d.day, d.calls, d.failed))
            .collect();
        assert_eq!(days, [(1, 2, 1), (2, 2, 1)], "a clock that went back");
    }

    #[test]
    fn regression_reputation_is_not_made_by_refusals_nor_by_ones_own_calls() {
        let mut book = CallBook::default();
        book.count(ID, &CallEnd::Refused, TOOK, at(1));
        assert!(book.stats(ID).is_none());
        let earned_now = |tokens| Amount::from_tokens(tokens);
        let own = CallEnd::AnsweredOwner {
            earned: earned_now(2),
        };
        book.count(ID, &own, TOOK, at(1));
        let left = CallEnd::Left {
            earned: earned_now(3),
        };
        book.count(ID, &left, TOOK, at(1));
        let stats = book.stats(ID).unwrap();
        assert_eq!((stats.calls, stats.days[0].calls), (1, 1));
        assert_eq!(earned(stats), Amount::from_tokens(5));
        assert_eq!(stats.days[0].earned_micros, stats.earned_micros);
        assert_eq!((reputation(stats), stats.latency_ms), (None, None));
        book.count(ID, &CallEnd::TimedOut, TOOK, at(1));
        let before = reputation(book.stats(ID).unwrap());
        for _ in 0..100 {
            book.count(ID, &own, TOOK, at(1));
            book.count(ID, &CallEnd::Refused, TOOK, at(1));
        }
        assert_eq!(reputation(book.stats(ID).unwrap()), before);
    }

    #[test]
    fn thirty_days_are_kept() {
        let mut book = CallBook::default();
        for day in 1..=40 {
            book.count(ID, &answered(1), TOOK, at(day));
        }
        book.count(ID, &answered(1), TOOK, at(60));
        let days: Vec<_> = book.stats(ID).unwrap().days.iter().map(|d| d.day).collect();
        assert_eq!(days, (31..=40).chain([60]).collect::<Vec<_>>());
        for day in 61..=200 {
            book.count(ID, &answered(1), TOOK, at(day));
        }
        assert_eq!(book.stats(ID).unwrap().days.len(), DAYS_MAX);
    }

    #[test]
    fn a_reputation_follows_the_recent_calls_and_is_never_certain() {
        let mut book = CallBook::default();
        let of = |book: &CallBook| reputation(book.stats(ID).unwrap()).unwrap();
        book.count(ID, &answered(1), TOOK, at(1));
        assert!((of(&book) - 2.0 / 3.0).abs() < 1e-9);
        for _ in 0..10_000 {
            book.count(ID, &answered(1), TOOK, at(1));
        }
        assert!(of(&book) > 0.98 && of(&book) < 1.0);
        for _ in 0..300 {
            book.count(ID, &CallEnd::TimedOut, TOOK, at(1));
        }
        assert!(
            of(&book) < 0.1,
            "ten thousand good ones of long ago do not help"
        );
        assert!(of(&book) > 0.0);
        assert_eq!(reputation(&CallStats::default()), None);
    }

    #[test]
    fn the_mean_time_follows_answers_alone() {
        let mut book = CallBook::default();
        let of = |book: &CallBook| book.stats(ID).unwrap().latency_ms;
        book.count(ID, &CallEnd::TimedOut, Duration::from_secs(60), at(1));
        assert_eq!(of(&book), None);
        book.count(ID, &answered(1), TOOK, at(1));
        assert_eq!(of(&book), Some(100.0));
        book.count(ID, &answered(1), TOOK * 2, at(1));
        assert_eq!(of(&book), Some(110.0));
    }

    #[test]
    fn what_was_written_is_written_again_once_it_changes() {
        let mut book = CallBook::default();
        book.count(ID, &answered(1), TOOK, at(1));
        let taken = book.take_unwritten();
        assert_eq!(taken.len(), 1);
        assert!(book.take_unwritten().is_empty());
        book.not_written(&taken);
        assert_eq!(book.take_unwritten(), taken);
        let mut again = CallBook::new(taken);
        assert!(again.take_unwritten().is_empty());
        again.count(ID, &answered(1), TOOK, at(1));
        assert_eq!(again.take_unwritten()[0].1.calls, 2);
        again.forget(ID);
        assert!(again.stats(ID).is_none());
    }
}
