//! The journal's entries: all that ever happened to the accounts, in order.
//!
//! An entry says everything that its effect depends on, so that balances can be made again from the
//! journal alone. It also names, for each account that it touched, the entry before it: an
//! account's statement is read by walking back, without an index.

use aither_protocol::Amount;
use serde::{Deserialize, Serialize};

use crate::{
    Time,
    account::{AccountId, AccountKind, Flags, OwnerId, Sum},
    operation::{Draw, TransferId},
};

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When it was written.
    pub time: Time,
    /// What happened.
    pub kind: EntryKind,
    /// The entry before this one of each account in [`EntryKind::accounts`], in that order; 0 where
    /// there is none.
    pub before: Vec<u64>,
}

/// Payer, receiver and amount of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Movement {
    /// The transfer's or hold's name.
    pub id: TransferId,
    /// Who pays.
    pub debit: AccountId,
    /// Who is paid.
    pub credit: AccountId,
    /// How much was transferred or held.
    pub amount: Sum,
}

/// What one receiver got of a post.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leg {
    /// Who is paid.
    pub account: AccountId,
    /// How much.
    pub amount: Sum,
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum EntryKind {
    /// An account was opened.
    Opened {
        /// Its name.
        account: AccountId,
        /// What it is for.
        kind: AccountKind,
        /// Whose it is.
        owner: OwnerId,
        /// Its limits.
        flags: Flags,
    },
    /// An amount was moved.
    Transferred {
        /// From whom to whom.
        movement: Movement,
        /// Which tokens were asked for.
        draw: Draw,
        /// What for.
        memo: String,
    },
    /// An amount was held.
    Reserved {
        /// From whom to whom.
        movement: Movement,
        /// Which tokens were asked for.
        draw: Draw,
        /// What for.
        memo: String,
        /// When it is void by itself.
        expires: Time,
    },
    /// A hold ended with a transfer.
    Posted {
        /// What was held.
        held: Movement,
        /// What was transferred of it.
        amount: Sum,
        /// Parts of it that others got than the hold's receiver.
        shares: Vec<Leg>,
    },
    /// A hold ended with nothing, because somebody said so.
    Voided {
        /// What was held.
        held: Movement,
    },
    /// A hold ended with nothing, because its time was over.
    Expired {
        /// What was held.
        held: Movement,
    },
}

impl EntryKind {
    /// Returns the accounts that it touches, each once.
    pub fn accounts(&self) -> Vec<AccountId> {
        self.each_account().collect()
    }

    pub(crate) fn each_account(&self) -> impl Iterator<Item = AccountId> {
        let (first, second, shares): (_, _, &[Leg]) = match self {
            Self::Opened { account, .. } => (*account, None, &[]),
            Self::Transferred { movement, .. } | Self::Reserved { movement, .. } => {
                (movement.debit, Some(movement.credit), &[])
            }
            Self::Posted { held, shares, .. } => (held.debit, Some(held.credit), shares),
            Self::Voided { held } | Self::Expired { held } => (held.debit, Some(held.credit), &[]),
        };
        let others = shares.iter().enumerate().filter_map(move |(at, leg)| {
            let mut earlier = shares.iter().take(at).map(|leg| leg.account);
            let is_new = leg.account != first
                && Some(leg.account) != second
                && earlier.all(|account| account != leg.account);
            is_new.then_some(leg.account)
        });
        let second = second.filter(|second| *second != first);
        std::iter::once(first).chain(second).chain(others)
    }

    /// Returns the transfer or hold that it is about.
    pub fn transfer(&self) -> Option<TransferId> {
        match self {
            Self::Opened { .. } => None,
            Self::Transferred { movement, .. } | Self::Reserved { movement, .. } => {
                Some(movement.id)
            }
            Self::Posted { held, .. } | Self::Voided { held } | Self::Expired { held } => {
                Some(held.id)
            }
        }
    }

    /// Returns how an account's balance changes by it: what comes in, and what goes out.
    pub fn posted(&self, account: AccountId) -> (Amount, Amount) {
        let side = |is_own: bool, amount: Amount| if is_own { amount } else { Amount::ZERO };
        match self {
            Self::Transferred { movement, .. } => (
                side(movement.credit == account, movement.amount.total),
                side(movement.debit == account, movement.amount.total),
            ),
            Self::Posted {
                held,
                amount,
                shares,
            } => {
                let (mut rest, mut got) = (amount.total, Amount::ZERO);
                for leg in shares {
                    rest = rest.saturating_sub(leg.amount.total);
                    if leg.account == account {
                        got = got.checked_add(leg.amount.total).unwrap_or(got);
                    }
                }
                if held.credit == account {
                    got = got.checked_add(rest).unwrap_or(got);
                }
                (got, side(held.debit == account, amount.total))
            }
            _ => (Amount::ZERO, Amount::ZERO),
        }
    }
}

impl Entry {
    /// Returns the entry before this one that touched an account.
    pub fn before(&self, account: AccountId) -> Option<u64> {
        let accounts = self.kind.accounts();
        let place = accounts.iter().position(|other| *other == account)?;
        self.before
            .get(place)
            .copied()
            .filter(|before| *before != 0)
    }
}
