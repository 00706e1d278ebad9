//! An amount that is held for a request until it is known what the request came to.

use aither_ledger::{
    AccountId, Draw, LedgerError, Operation, Post, Reserve, Time, Transfer, TransferId, Unit, Usage,
};
use aither_protocol::Amount;

use super::{Billing, BillingError, HOLD_TTL, REVENUE, now, refused};

/// A hold on somebody's account. Dropped, it is voided.
#[derive(Debug)]
pub struct Hold {
    billing: Billing,
    id: TransferId,
    is_open: bool,
}

impl Billing {
    /// Holds `amount` of the payer's tokens for the node. An `id` of the caller's must be new.
    ///
    /// # Errors
    /// The payer has too little, or the ledger cannot answer.
    pub async fn hold(
        &self,
        payer: AccountId,
        amount: Amount,
        memo: &str,
        id: Option<TransferId>,
    ) -> Result<Hold, BillingError> {
        // Made before it is asked for: whoever gives up while waiting drops it, and the void
        // follows on the heels of the hold.
        let mut hold = Hold {
            billing: self.clone(),
            id: id.unwrap_or_else(|| self.next_id()),
            is_open: true,
        };
        let ttl = u64::try_from(HOLD_TTL.as_millis()).unwrap_or(u64::MAX);
        let reserve = Operation::Reserve(Reserve {
            transfer: Transfer {
                id: hold.id,
                debit: payer,
                credit: REVENUE,
                amount,
                draw: Draw::GrantedFirst,
                memo: memo.to_owned(),
            },
            expires: Time(now().0.saturating_add(ttl)),
        });
        match self.apply_volatile(reserve).await? {
            Ok(_) => Ok(hold),
            Err(refusal) => {
                hold.is_open = false;
                Err(refused(refusal))
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
        let post = Operation::Post(Post {
            hold: self.id,
            amount,
            shares: Vec::new(),
        });
        let unit = Unit {
            operations: vec![post],
            usage: Some(usage),
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
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.is_open {
            return;
        }
        let unit = Unit::one(Operation::Void(self.id));
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
