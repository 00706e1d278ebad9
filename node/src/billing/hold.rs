//! An amount that is held for a request until it is known what the request came to.
//!
//! With allowances it is a hold on each of their accounts and one on the payer's, which begin, are
//! posted and are voided together: each time as one unit of the ledger. They expire at one time,
//! too, and a post counts those as expired that the ledger has not got to yet, so it finds all of
//! them open or none.

use std::{iter, sync::Arc};

use aither_ledger::{
    LedgerError, Note, Operation, Post, Reserve, Share, Time, TransferId, Unit, Usage, Verdict,
};
use aither_protocol::Amount;

use super::{
    Billing, BillingError, HOLD_TTL, Moved,
    allowance::{Spending, part_ids},
    moved_by, now, refused,
};

/// What is said of a payment when it is made.
#[derive(Debug, Default)]
pub struct Settlement {
    /// What was used.
    pub usage: Usage,
    /// Who has parts of it; the rest is the node's.
    pub shares: Vec<Share>,
    /// What is kept with it, exactly if it is made.
    pub note: Option<Note>,
}

impl From<Usage> for Settlement {
    fn from(usage: Usage) -> Self {
        Self {
            usage,
            ..Self::default()
        }
    }
}

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
        self.hold_with(spending, None).await
    }

    /// Does so, and keeps a note exactly if it is held.
    ///
    /// # Errors
    /// As [`hold`](Self::hold).
    pub async fn hold_with(
        &self,
        spending: Spending<'_>,
        note: Option<Note>,
    ) -> Result<Hold, BillingError> {
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
        let unit = Unit {
            operations,
            note,
            ..Unit::default()
        };
        match self.apply_volatile(unit).await? {
            Ok(_) => Ok(hold),
            Err(refusal) => {
                hold.is_open = false;
                Err(spending.refused(refusal))
            }
        }
    }
}

impl Hold {
    /// Returns what is held under.
    pub fn id(&self) -> TransferId {
        self.id
    }

    /// Charges what the request came to; what was held beyond it is free again. `reply` is called
    /// with the charge once it is durable. It must not wait.
    pub fn post(
        mut self,
        amount: Amount,
        settlement: impl Into<Settlement>,
        reply: impl FnOnce(Result<Amount, BillingError>) + Send + 'static,
    ) {
        let settlement = settlement.into();
        if amount.is_zero() {
            return self.void(settlement.note, move |voided| {
                reply(voided.map(|()| amount))
            });
        }
        self.is_open = false;
        let part = |hold| {
            Operation::Post(Post {
                hold,
                amount,
                shares: Vec::new(),
            })
        };
        let mut operations: Vec<_> = self.ids().map(part).collect();
        // The last one is the payer's own.
        if let Some(Operation::Post(post)) = operations.last_mut() {
            post.shares = settlement.shares.clone();
        }
        let moved = Moved {
            id: self.id,
            account: settlement.usage.account,
            amount,
            route: settlement.usage.route.clone(),
            agent: settlement.usage.agent.clone(),
            shares: settlement.shares,
            is_top_up: false,
        };
        let unit = Unit {
            operations,
            usage: Some(settlement.usage),
            note: settlement.note,
        };
        let listener = Arc::clone(&self.billing.shared.listener);
        let ledger = &self.billing.shared.ledger;
        ledger.submit(unit, now(), move |verdict| {
            let charged = durable(verdict).map(|()| amount);
            if charged.is_ok() {
                moved_by(&listener, &moved);
            }
            reply(charged);
        });
    }

    /// Ends it with nothing charged. With a note, `reply` is called once both are durable; without
    /// one, nothing is waited for.
    pub fn void(
        mut self,
        note: Option<Note>,
        reply: impl FnOnce(Result<(), BillingError>) + Send + 'static,
    ) {
        if note.is_none() {
            drop(self);
            return reply(Ok(()));
        }
        self.is_open = false;
        let unit = Unit {
            operations: self.ids().map(Operation::Void).collect(),
            note,
            ..Unit::default()
        };
        let ledger = &self.billing.shared.ledger;
        ledger.submit(unit, now(), move |verdict| reply(durable(verdict)));
    }

    /// Returns what is held under: for each allowance, and last for the payer, whose entry the
    /// usage record belongs to.
    fn ids(&self) -> impl Iterator<Item = TransferId> {
        let parts = part_ids(self.id).take(self.allowances);
        parts.chain(iter::once(self.id))
    }
}

fn durable(verdict: Result<Verdict, LedgerError>) -> Result<(), BillingError> {
    match verdict? {
        Ok(_) => Ok(()),
        Err(refusal) => Err(refused(refusal)),
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
