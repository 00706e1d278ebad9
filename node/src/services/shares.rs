//! How many places of a few one account may have, so that no account has all of them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What accounts have of some places; clones share it.
#[derive(Debug, Clone)]
pub struct Shares {
    /// The accounts that have any.
    held: Arc<Mutex<HashMap<u128, usize>>>,
    held_max: usize,
}

/// A place that an account has; given back when dropped.
#[derive(Debug)]
pub struct Share {
    shares: Shares,
    account: u128,
}

impl Shares {
    /// Places of which each account may have `held_max` at once.
    pub fn new(held_max: usize) -> Self {
        Self {
            held: Arc::default(),
            held_max,
        }
    }

    /// Takes a place for an account; `None` where it has as many as it may.
    pub fn take(&self, account: u128) -> Option<Share> {
        let mut held = self.lock();
        let count = held.get(&account).copied().unwrap_or_default();
        (count < self.held_max).then(|| {
            held.insert(account, count + 1);
            Share {
                shares: self.clone(),
                account,
            }
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u128, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.shares.lock();
        match held.get_mut(&self.account) {
            Some(count) if 1 < *count => *count -= 1,
            _ => {
                held.remove(&self.account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_has_its_share_and_no_more_and_others_have_theirs() {
        let shares = Shares::new(2);
        let first = shares.take(1).unwrap();
        let _second = shares.take(1).unwrap();
        assert!(shares.take(1).is_none());
        let other = shares.take(2).unwrap();
        drop(first);
        assert!(shares.take(1).is_some());
        drop(other);
        // Those who have none are not remembered.
        assert_eq!(shares.lock().len(), 1);
    }
}
