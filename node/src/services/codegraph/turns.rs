//! One request of each account at once, so that no account keeps all others waiting.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::memory::MemoryError;

/// Requests of an account that may wait for their turn.
const WAITING_MAX: usize = 8;

/// Whose turn it is; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Turns {
    /// The accounts that have requests. Each request holds its account's semaphore.
    accounts: Arc<Mutex<HashMap<u128, Arc<Semaphore>>>>,
}

impl Turns {
    /// Waits until no other request of an account is worked on. The turn ends with what this
    /// returns.
    ///
    /// # Errors
    /// Too many of the account's requests wait already.
    pub(super) async fn take(&self, account: u128) -> Result<OwnedSemaphorePermit, MemoryError> {
        let turn = {
            let accounts = self.accounts.lock();
            let mut accounts = accounts.unwrap_or_else(PoisonError::into_inner);
            accounts.retain(|_, turn| Arc::strong_count(turn) > 1);
            let turn = accounts
                .entry(account)
                .or_insert_with(|| Arc::new(Semaphore::new(1)));
            // Besides those that wait, the map and the one whose turn it is have one each.
            if Arc::strong_count(turn) >= WAITING_MAX + 2 {
                return Err(MemoryError::Busy);
            }
            Arc::clone(turn)
        };
        // Never closed, so never an error.
        turn.acquire_owned()
            .await
            .map_err(|_closed| MemoryError::Busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_account_has_one_turn_and_others_have_theirs() {
        let turns = Turns::default();
        let first = turns.take(1).await.unwrap();
        let mut second = Box::pin(turns.take(1));
        assert!(futures_util::poll!(&mut second).is_pending());
        let _other = turns.take(2).await.unwrap();
        drop(first);
        drop(second.await.unwrap());
        // Those who left are not remembered.
        let _third = turns.take(3).await.unwrap();
        assert_eq!(turns.accounts.lock().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn no_more_than_some_wait() {
        let turns = Turns::default();
        let _first = turns.take(1).await.unwrap();
        let mut waiting = Vec::new();
        for _ in 0..WAITING_MAX {
            let mut one = Box::pin(turns.take(1));
            assert!(futures_util::poll!(&mut one).is_pending());
            waiting.push(one);
        }
        assert!(matches!(turns.take(1).await, Err(MemoryError::Busy)));
        waiting.pop();
        let mut one = Box::pin(turns.take(1));
        assert!(futures_util::poll!(&mut one).is_pending());
    }
}
