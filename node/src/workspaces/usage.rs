//! How much room files take, and that it is never more than a plan gives.
//!
//! Room is reserved before anything is written and given back if that fails, all under one lock:
//! however many write at once, together they cannot go beyond.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aither_protocol::Plan;

use super::FilesError;

/// What a plan gives to an account and its agents together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Bytes of all files.
    pub bytes: u64,
    /// Files, and the folders made for them.
    pub entries: u64,
}

impl Quota {
    /// Returns what a plan gives.
    pub fn of(plan: Plan) -> Self {
        match plan {
            Plan::Explorer => Self {
                bytes: 1 << 30,
                entries: 10_000,
            },
            Plan::Builder => Self {
                bytes: 10 << 30,
                entries: 100_000,
            },
            // And for plans to come until somebody decides.
            _ => Self {
                bytes: 100 << 30,
                entries: 1_000_000,
            },
        }
    }
}

/// What there can be too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Bytes.
    Bytes,
    /// Files and folders.
    Entries,
}

impl Measure {
    /// Returns its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Entries => "files",
        }
    }
}

/// Who the room is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payer {
    /// The account, by its number.
    pub account: u128,
    /// What its plan gives.
    pub quota: Quota,
}

/// What an account's files take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// Bytes of all files.
    pub bytes: u64,
    /// Files and folders.
    pub entries: u64,
}

/// What all accounts' files take.
#[derive(Debug, Default)]
pub struct Usage {
    /// By account; those without files are not in it.
    used: Mutex<HashMap<u128, Used>>,
}

/// Room that is taken for something that is not there yet; given back when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    usage: Arc<Usage>,
    payer: Payer,
    taken: Used,
}

impl Usage {
    /// Returns what an account's files take.
    pub fn of(&self, account: u128) -> Used {
        self.lock().get(&account).copied().unwrap_or_default()
    }

    /// Takes room for something new.
    pub(super) fn reserve(
        self: &Arc<Self>,
        payer: Payer,
        wanted: Used,
    ) -> Result<Reservation, FilesError> {
        let mut reservation = Reservation {
            usage: Arc::clone(self),
            payer,
            taken: Used::default(),
        };
        reservation.grow(wanted)?;
        Ok(reservation)
    }

    /// Counts what is there already, whatever a plan says.
    pub(super) fn count(&self, account: u128, found: Used) {
        if found != Used::default() {
            let mut used = self.lock();
            let used = used.entry(account).or_default();
            used.bytes = used.bytes.saturating_add(found.bytes);
            used.entries = used.entries.saturating_add(found.entries);
        }
    }

    /// Gives back what something took that is not there any more.
    pub(super) fn release(&self, account: u128, freed: Used) {
        let mut all = self.lock();
        if let Some(used) = all.get_mut(&account) {
            used.bytes = used.bytes.saturating_sub(freed.bytes);
            used.entries = used.entries.saturating_sub(freed.entries);
            if *used == Used::default() {
                all.remove(&account);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u128, Used>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation {
    /// Takes more room.
    pub(super) fn grow(&mut self, wanted: Used) -> Result<(), FilesError> {
        let Payer { account, quota } = self.payer;
        let mut all = self.usage.lock();
        let used = all.get(&account).copied().unwrap_or_default();
        let sums = [
            (Measure::Bytes, used.bytes, wanted.bytes, quota.bytes),
            (
                Measure::Entries,
                used.entries,
                wanted.entries,
                quota.entries,
            ),
        ];
        for (measure, used, wanted, allowed) in sums {
            // What takes nothing more is let through also beyond a quota that has shrunk.
            if wanted != 0 && allowed < used.saturating_add(wanted) {
                return Err(FilesError::QuotaExceeded {
                    measure,
                    used,
                    allowed,
                });
            }
        }
        let sum = Used {
            bytes: used.bytes + wanted.bytes,
            entries: used.entries + wanted.entries,
        };
        all.insert(account, sum);
        drop(all);
        self.taken.bytes += wanted.bytes;
        self.taken.entries += wanted.entries;
        Ok(())
    }

    /// Leaves the room to what is there now.
    pub(super) fn keep(mut self) {
        self.taken = Used::default();
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let taken = mem::take(&mut self.taken);
        if taken != Used::default() {
            self.usage.release(self.payer.account, taken);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn used(bytes: u64, entries: u64) -> Used {
        Used { bytes, entries }
    }

    fn payer(bytes: u64, entries: u64) -> Payer {
        Payer {
            account: 7,
            quota: Quota { bytes, entries },
        }
    }

    #[test]
    fn plans_give_more_the_larger_they_are() {
        for pair in Plan::ALL.windows(2) {
            let (small, large) = (Quota::of(pair[0]), Quota::of(pair[1]));
            assert!(small.bytes < large.bytes && small.entries < large.entries);
        }
    }

    #[test]
    fn a_reservation_is_taken_at_once_and_given_back_when_dropped() {
        let usage = Arc::new(Usage::default());
        let first = usage.reserve(payer(10, 10), used(6, 1)).unwrap();
        let refused = usage.reserve(payer(10, 10), used(5, 1)).unwrap_err();
        let FilesError::QuotaExceeded { used: taken, .. } = refused else {
            panic!("{refused}");
        };
        assert_eq!(taken, 6);
        drop(first);
        assert_eq!(usage.of(7), used(0, 0));
        usage.reserve(payer(10, 10), used(10, 1)).unwrap().keep();
        assert_eq!(usage.of(7), used(10, 1));
        usage.release(7, used(10, 1));
        assert!(usage.lock().is_empty());
    }

    #[test]
    fn files_are_counted_too_and_accounts_do_not_share() {
        let usage = Arc::new(Usage::default());
        usage.reserve(payer(10, 1), used(0, 1)).unwrap().keep();
        assert!(usage.reserve(payer(10, 1), used(0, 1)).is_err());
        let other = Payer {
            account: 8,
            ..payer(10, 1)
        };
        usage.reserve(other, used(10, 1)).unwrap().keep();
        // A plan that gives less than is there: what takes nothing is let through.
        usage.reserve(payer(10, 0), used(3, 0)).unwrap().keep();
    }

    #[test]
    fn many_at_once_cannot_go_beyond() {
        let usage = Arc::new(Usage::default());
        let kept: usize = std::thread::scope(|scope| {
            let work = || {
                (0..100)
                    .filter(|_| {
                        let reserved = usage.reserve(payer(150, 1000), used(1, 1));
                        reserved.map(Reservation::keep).is_ok()
                    })
                    .count()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!((kept, usage.of(7)), (150, used(150, 150)));
    }
}
