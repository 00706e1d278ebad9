//! Accounts: what has come in, what has gone out, and what is promised.
//!
//! An account has two sides, as bookkeeping has it. On each, what is posted stands for good, and
//! what is pending belongs to open holds. Of every sum a part is *granted*: it was given, not
//! bought, and remains so in whatever hands it comes to.

use std::fmt;

use aither_protocol::Amount;
use serde::{Deserialize, Serialize};

use crate::Time;

/// Names an account: 128 bits of the caller's choice.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct AccountId(pub u128);

/// Names who an account belongs to, as the caller knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct OwnerId(pub u128);

/// What an account is for. The ledger treats all alike; people and audits do not.
///
/// Stored by its place in this list: new ones go to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum AccountKind {
    /// Somebody who uses the node.
    Customer,
    /// The operator of the node.
    Operator,
    /// What the node earns.
    Revenue,
    /// Where granted tokens come from.
    Issuance,
    /// Where bought tokens come from.
    Funding,
    /// Another node.
    Peer,
    /// What a restored node was shown to have signed and no longer knew.
    Recovery,
    /// What will not be paid any more.
    WriteOff,
    /// What may be spent under one bound: funded once with all of it, each payment takes from it.
    Allowance,
}

/// Limits of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Flags {
    /// It can spend no more than it has.
    pub debits_within_credits: bool,
    /// It can take no more than it has spent.
    pub credits_within_debits: bool,
}

/// An amount, and the part of it that was granted.
///
/// Invariant: `granted` ≤ `total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sum {
    /// All of it.
    pub total: Amount,
    /// The granted part.
    pub granted: Amount,
}

/// One side of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Side {
    /// Transferred for good.
    pub posted: Sum,
    /// In open holds.
    pub pending: Sum,
}

/// An account as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// What it is for.
    pub kind: AccountKind,
    /// Whose it is.
    pub owner: OwnerId,
    /// Its limits.
    pub flags: Flags,
    /// When it was opened.
    pub opened: Time,
    /// The entry of the journal that opened it.
    pub first_entry: u64,
    /// What came in.
    pub credits: Side,
    /// What went out.
    pub debits: Side,
    /// The last entry of the journal that touched it.
    pub last_entry: u64,
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Sum {
    /// Returns the sum of both, unless it is too large.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        Some(Self {
            total: self.total.checked_add(other.total)?,
            granted: self.granted.checked_add(other.granted)?,
        })
    }

    /// Returns what is left, unless it would be negative.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        Some(Self {
            total: self.total.checked_sub(other.total)?,
            granted: self.granted.checked_sub(other.granted)?,
        })
    }

    /// Returns what is left, where it is negative nothing.
    pub fn saturating_sub(self, other: Self) -> Self {
        let total = self.total.saturating_sub(other.total);
        let granted = self.granted.saturating_sub(other.granted);
        Self {
            total,
            granted: granted.min(total),
        }
    }
}

impl Account {
    /// Returns what can be spent: posted credits without debits and without what is held.
    pub fn spendable(&self) -> Sum {
        self.balance().saturating_sub(self.debits.pending)
    }

    /// Returns posted credits without posted debits; nothing where these are more.
    pub fn balance(&self) -> Sum {
        self.credits.posted.saturating_sub(self.debits.posted)
    }

    /// Returns what its owner owes: posted debits without posted credits.
    pub fn overdrawn(&self) -> Amount {
        let credits = self.credits.posted.total;
        self.debits.posted.total.saturating_sub(credits)
    }

    /// Whether it is within its limits. What is pending on the other side does not count: it may
    /// never come.
    pub fn is_within_limits(&self) -> bool {
        let promised = |side: &Side| side.posted.total.checked_add(side.pending.total);
        let is_within =
            |side, other: &Side| promised(side).is_some_and(|all| all <= other.posted.total);
        (!self.flags.debits_within_credits || is_within(&self.debits, &self.credits))
            && (!self.flags.credits_within_debits || is_within(&self.credits, &self.debits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_stored_by_its_place() {
        for (place, kind) in [
            (0, AccountKind::Customer),
            (1, AccountKind::Operator),
            (2, AccountKind::Revenue),
            (3, AccountKind::Issuance),
            (4, AccountKind::Funding),
            (5, AccountKind::Peer),
            (6, AccountKind::Recovery),
            (7, AccountKind::WriteOff),
            (8, AccountKind::Allowance),
        ] {
            let mut bytes = [0; 4];
            let stored = postcard::to_slice(&kind, &mut bytes).unwrap();
            assert_eq!(stored, [place], "{kind:?}");
        }
    }
}
