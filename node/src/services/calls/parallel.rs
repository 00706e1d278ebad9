//! The names of several tasks that one request with an `Idempotency-Key` has begun.
//!
//! The request has one name, its tasks have one each that follows from it. Before they begin a mark
//! is kept under the request's own name: a start after a crash finds it, so that the request keeps
//! its name and those of its tasks that were paid for are not paid for again.

use aither_ledger::{Note, TransferId, View};
use sha2::{Digest as _, Sha256};

use super::{CallError, CallService};
use crate::billing::{Billing, BillingError, PaidOperation, Settled, settled_in};

/// The mark: no record of a task, whose first byte is its version.
const MARK: &[u8] = b"\xffparallel tasks";
/// Tells the names of tasks from all other hashes.
const DOMAIN: &[u8] = b"aither parallel task v1";
/// Low bits of a ULID, which say nothing about time.
const RANDOM_BITS: u32 = 80;

impl CallService {
    /// Returns the names of the tasks of a request that has one.
    ///
    /// # Errors
    /// The ledger cannot answer.
    pub async fn operations(
        &self,
        whole: Option<PaidOperation>,
        count: usize,
    ) -> Result<Vec<Option<PaidOperation>>, CallError> {
        let Some(whole) = whole else {
            return Ok(vec![None; count]);
        };
        let billing = &self.shared.billing;
        let mut operations = Vec::with_capacity(count);
        for id in names(whole.id).take(count) {
            operations.push(match billing.settled(id).await? {
                Settled::Charged(amount) => Some(PaidOperation {
                    id,
                    charged: Some(amount),
                }),
                // One that came to nothing is done under another name: its own is used up.
                _ if whole.charged.is_some() => None,
                _ => Some(PaidOperation { id, charged: None }),
            });
        }
        let (id, bytes) = (whole.id.0, MARK.to_vec());
        billing.keep(Note { id, bytes }).await?;
        Ok(operations)
    }
}

/// Returns whether anything was charged under the name of a request: for a request of several
/// tasks, whether they have begun.
///
/// # Errors
/// The store failed.
pub fn settled_request(view: &View, id: TransferId) -> Result<Settled, BillingError> {
    match settled_in(view, id)? {
        Settled::Never if view.note(id.0)?.as_deref() == Some(MARK) => {
            Ok(Settled::Charged(aither_protocol::Amount::ZERO))
        }
        settled => Ok(settled),
    }
}

/// Does so once what is under way under that name has ended.
///
/// # Errors
/// The ledger cannot answer.
pub async fn request_settled(billing: &Billing, id: TransferId) -> Result<Settled, BillingError> {
    match billing.settled(id).await? {
        Settled::Never => settled_request(&billing.view()?, id),
        settled => Ok(settled),
    }
}

/// Returns the names of tasks, in their order: each begins with the request's own time.
fn names(whole: TransferId) -> impl Iterator<Item = TransferId> {
    (0..=u8::MAX).map(move |place| {
        let hash = Sha256::new_with_prefix(DOMAIN)
            .chain_update(whole.0.to_be_bytes())
            .chain_update([place])
            .finalize();
        let hash = hash.iter().take(size_of::<u128>());
        let hash = hash.fold(0, |id: u128, byte| id << 8 | u128::from(*byte));
        let time = whole.0 >> RANDOM_BITS << RANDOM_BITS;
        TransferId(time | hash & !(u128::MAX << RANDOM_BITS))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use aither_protocol::Amount;

    use super::*;
    use crate::{billing::PriceBook, config::BillingConfig};

    #[test]
    fn the_names_of_tasks_are_the_same_each_time_and_no_others() {
        let whole = TransferId(7 << 80 | 5);
        let first: Vec<_> = names(whole).take(32).collect();
        assert_eq!(first, names(whole).take(32).collect::<Vec<_>>());
        let other = names(TransferId(7 << 80 | 6)).take(32);
        let all: HashSet<_> = first.iter().copied().chain(other).collect();
        assert_eq!(all.len(), 64);
        assert!(all.iter().all(|id| id.0 >> 80 == 7));
        assert_eq!(crate::calls::TaskRecord::decode(MARK), None);
    }

    #[tokio::test]
    async fn regression_a_request_of_several_tasks_that_breaks_off_keeps_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let config = BillingConfig::default();
        let path = dir.path().join("ledger.redb");
        let prices = PriceBook::open(&dir.path().join("prices.json"), BTreeMap::new(), 1).unwrap();
        let billing = Billing::open(&path, &config, prices, |_| None).unwrap();
        let id = billing.next_id();
        let settled = request_settled(&billing, id).await.unwrap();
        assert_eq!(settled, Settled::Never);
        let note = |bytes: &[u8]| Note {
            id: id.0,
            bytes: bytes.to_vec(),
        };
        billing.keep(note(b"a record")).await.unwrap();
        let settled = request_settled(&billing, id).await.unwrap();
        assert_eq!(settled, Settled::Never, "any other note says nothing");
        billing.keep(note(MARK)).await.unwrap();
        let settled = request_settled(&billing, id).await.unwrap();
        assert_eq!(settled, Settled::Charged(Amount::ZERO));
    }
}
