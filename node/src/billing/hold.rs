//! An amount that is held for a request until it is known what the request came to.
//!
//! With allowances it is a hold on each of their accounts and one on the payer's, which begin, are
//! posted and are voided together: each time as one unit of the ledger. They expire at one time,
//! too, and a post counts those as expired that the ledger has not got to yet, so it finds all of
//! them open or none.

use std::iter;

use aither_ledger::{LedgerError, Operation, Post, Reserve, Time, TransferId, Unit, Usage};
use aither_protocol::Amount;

use super::{
    Billing, BillingError, HOLD_TTL,
    allowance::{Spending, part_ids},
    now, refused,
};

/// A hold on somebody's account. Dropped, it is voided.
#[derive(Debug)]
pub struct Hold {
    billing: Billing,
    id: TransferId,
    /// How many allowances it is held on too.
    allowances: usize,
    is_open: bool,
}

impl Billing {
    /// Holds an amount of the payer's for the node. An `id` of the caller's must be new.
    ///
    /// # Errors
    /// The payer has or an allowance leaves too little, or the ledger cannot answer.
    pub async fn hold(&self, spending: Spending<'_>) -> Result<Hold, BillingError> {
        spending.check()?;
        // Made before it is asked for: whoever gives up while waiting drops it, and the void
        // follows on the heels of the hold.
        let mut hold = Hold {
            billing: self.clone(),
            id: spending.id.unwrap_or_else(|| self.next_id()),
            allowances: spending.allowances.len(),
            is_open: true,
        };
        let ttl = u64::try_from(HOLD_TTL.as_millis()).unwrap_or(u64::MAX);
        let expires = Time(now().0.saturating_add(ttl));
        let operations = spending.operations(hold.id, |transfer| {
            Operation::Reserve(Reserve { transfer, expires })
        });
        match self.apply_volatile(operations).await? {
            Ok(_) => Ok(hold),
            Err(refusal) => {
                hold.is_open = false;
                Err(spending.refused(refusal))
            }
        }
    }
}

impl Hold {
    /// Charges what the request came to; what was held beyond it is free again. `reply` is called
    /// with the charge once it is durable. It must not wait.
    pub fn post(
        mut self,
        amount: Amount,
        usage: Usage,
        reply: impl FnOnce(Result<Amount, BillingError>) + Send + 'static,
    ) {
        if amount.is_zero() {
            drop(self);
            return reply(Ok(amount));
        }
        self.is_open = false;
        let post = |hold| {
            Operation::Post(Post {
                hold,
                amount,
                shares: Vec::new(),
            })
        };
        let unit = Unit {
            operations: self.ids().map(post).collect(),
            usage: Some(usage),
            ..Unit::default()
        };
        let ledger = &self.billing.shared.ledger;
        ledger.submit(unit, now(), move |verdict| {
            reply(match verdict {
                Ok(Ok(_)) => Ok(amount),
                Ok(Err(refusal)) => Err(refused(refusal)),
                Err(error) => Err(error.into()),
            });
        });
    }

    /// Returns what is held under: for each allowance, and last for the payer, whose entry the
    /// usage record belongs to.
    fn ids(&self) -> impl Iterator<Item = TransferId> {
        let parts = part_ids(self.id).take(self.allowances);
        parts.chain(iter::once(self.id))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.is_open {
            return;
        }
        let unit = Unit {
            operations: self.ids().map(Operation::Void).collect(),
            ..Unit::default()
        };
        let ledger = &self.billing.shared.ledger;
        // The next start would void it too.
        ledger.submit_volatile(unit, now(), |verdict| {
            match verdict {
                Ok(_) | Err(LedgerError::Stopped { .. }) => {}
                // It expires by itself.
                Err(error) => tracing::warn!(%error, "a hold was not voided"),
            }
        });
    }
}
