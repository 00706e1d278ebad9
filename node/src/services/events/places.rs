//! How many of something there may be at once: of each caller, and of all.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Places, each taken by a caller.
#[derive(Debug)]
pub(super) struct Places {
    taken: Mutex<Taken>,
    of_caller_max: usize,
    max: usize,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    callers: HashMap<u128, usize>,
}

/// A place that is taken. Dropped, it is free again.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    caller: u128,
}

/// There is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full {
    /// Whether the caller has as many as it may, and not all together.
    pub(super) of_caller: bool,
}

impl Places {
    pub(super) fn new(of_caller_max: usize, max: usize) -> Arc<Self> {
        Arc::new(Self {
            taken: Mutex::default(),
            of_caller_max,
            max,
        })
    }

    /// Takes a place.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn take(self: &Arc<Self>, caller: u128) -> Result<Place, Full> {
        let mut taken = self.lock();
        if taken.all >= self.max {
            return Err(Full { of_caller: false });
        }
        let of_caller = taken.callers.get(&caller).copied().unwrap_or(0);
        if of_caller >= self.of_caller_max {
            return Err(Full { of_caller: true });
        }
        taken.all += 1;
        taken.callers.insert(caller, of_caller + 1);
        Ok(Place {
            places: Arc::clone(self),
            caller,
        })
    }

    /// Returns how many are taken.
    pub(super) fn taken(&self) -> usize {
        self.lock().all
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        // Nothing panics under the lock.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.all -= 1;
        if let Some(count) = taken.callers.get_mut(&self.caller) {
            *count -= 1;
            if *count == 0 {
                taken.callers.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_and_all_together_are_bounded_and_places_come_back() {
        let places = Places::new(2, 3);
        let first = places.take(1).unwrap();
        let _second = places.take(1).unwrap();
        assert_eq!(places.take(1).unwrap_err(), Full { of_caller: true });
        let third = places.take(2).unwrap();
        assert_eq!(places.take(3).unwrap_err(), Full { of_caller: false });
        assert_eq!(places.taken(), 3);
        drop(first);
        let _again = places.take(1).unwrap();
        drop(third);
        assert_eq!(places.taken(), 2);
        assert!(!places.lock().callers.contains_key(&2));
    }
}
