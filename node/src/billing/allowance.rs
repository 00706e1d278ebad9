//! Allowances: what may ever be spent with a capability token and with those narrowed from it.
//!
//! Each is an account of the ledger that the first hold or payment opens and funds: a token that
//! nobody asks to pay with leaves no trace, and neither does a payment that is refused.
//! What it has left says what may still be spent. A payment moves the same amount in the accounts
//! of all of its allowances, back to [`ALLOWANCES`], and in the payer's, as one unit: no power cut
//! and no race can have one without the others.
//!
//! What is opened stays open, also where all that was held is given back: its number must never be
//! funded anew. That is a row beside those of the hold, which the journal keeps in any case, so
//! whoever makes up allowances fills a disk no faster than whoever only asks.
//!
//! The account has the allowance's number, and so has the transfer that funds it: it is a hash with
//! a domain of its own, so it is neither a ULID nor any number that the node gives. Whether an
//! account is open is never asked before: opening and funding it again changes nothing.

use aither_ledger::{
    AccountId, AccountKind, Draw, Flags, Operation, Reason, Refusal, Transfer, TransferId, View,
};
use aither_protocol::{Allowance, Amount, limits::CAPABILITY_ALLOWANCES_MAX};
use sha2::{Digest as _, Sha256};

use super::{ALLOWANCES, BillingError, REVENUE, open, refused};

/// Numbers below are for accounts of the node itself.
const OWN_ACCOUNTS_END: u128 = 1024;
/// Operations of a unit that an allowance takes: open, fund, spend.
const OPERATIONS_EACH: usize = 3;
/// Tells the numbers of what payments move in allowances from all other hashes.
const PART_DOMAIN: &[u8] = b"aither allowance payment v1";
/// Low bits of a ULID, which say nothing about time.
const RANDOM_BITS: u32 = 80;

// With the payer's own operation.
const _: () = assert!(
    CAPABILITY_ALLOWANCES_MAX * OPERATIONS_EACH < aither_ledger::operation::OPERATIONS_MAX,
    "a payment with all allowances is one unit"
);

/// An amount that somebody pays the node.
#[derive(Debug, Clone, Copy)]
pub struct Spending<'a> {
    /// Who pays.
    pub payer: AccountId,
    /// How much.
    pub amount: Amount,
    /// What for, in words.
    pub memo: &'a str,
    /// Its name, where the caller has made one.
    pub id: Option<TransferId>,
    /// What it counts against beside the payer's account.
    pub allowances: &'a [Allowance],
}

/// What there is to spend, and what it is that leaves no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spendable {
    /// The payer's account.
    Balance(Amount),
    /// An allowance of the token that is paid with.
    Allowance(Amount),
}

impl Spendable {
    /// Returns how much it is.
    pub fn amount(self) -> Amount {
        match self {
            Self::Balance(amount) | Self::Allowance(amount) => amount,
        }
    }

    /// Returns why something that needs more is refused.
    pub(crate) fn exceeded_by(self, required: Amount) -> BillingError {
        match self {
            Self::Balance(balance) => BillingError::Insufficient { balance, required },
            Self::Allowance(left) => BillingError::AllowanceSpent { left, required },
        }
    }
}

impl Spending<'_> {
    /// Checks what the ledger would refuse in words of its own.
    pub(super) fn check(&self) -> Result<(), BillingError> {
        if self.allowances.len() > CAPABILITY_ALLOWANCES_MAX {
            return Err(BillingError::Refused(Reason::UnitTooLong));
        }
        for allowance in self.allowances {
            check(allowance)?;
            // The ledger moves no amount of zero, so it could not be funded.
            if allowance.max.is_zero() {
                return Err(Spendable::Allowance(Amount::ZERO).exceeded_by(self.amount));
            }
        }
        Ok(())
    }

    /// Returns what the ledger is to do: `spend` makes a transfer, or a hold of it. Where several
    /// accounts have too little, the outermost allowance is what is complained about.
    pub(super) fn operations(
        &self,
        id: TransferId,
        spend: impl Fn(Transfer) -> Operation,
    ) -> Vec<Operation> {
        let transfer = |id, debit, credit, draw| Transfer {
            id,
            debit,
            credit,
            amount: self.amount,
            draw,
            memo: self.memo.to_owned(),
        };
        let mut operations = Vec::with_capacity(self.allowances.len() * OPERATIONS_EACH + 1);
        for (allowance, part) in self.allowances.iter().zip(part_ids(id)) {
            let account = AccountId(allowance.id);
            let spent = transfer(part, account, ALLOWANCES, Draw::Funded);
            operations.extend(opened(allowance));
            operations.push(spend(spent));
        }
        let paid = transfer(id, self.payer, REVENUE, Draw::GrantedFirst);
        operations.push(spend(paid));
        operations
    }

    /// Returns the error for a refusal of [`operations`](Self::operations).
    pub(super) fn refused(&self, refusal: Refusal) -> BillingError {
        let is_allowance = refusal.at < self.allowances.len() * OPERATIONS_EACH;
        match refusal.reason {
            Reason::ExceedsCredits {
                available,
                required,
            } if is_allowance => Spendable::Allowance(available).exceeded_by(required),
            _ => refused(refusal),
        }
    }
}

/// Returns the numbers of what a payment moves in its allowances, in their order.
///
/// Each begins with the payment's own time, as these keep the ledger's index cheap, and goes on
/// with a hash of the payment's number and the place: 80 bits, which no other number of the same
/// millisecond has.
pub(super) fn part_ids(whole: TransferId) -> impl Iterator<Item = TransferId> {
    (0..=u8::MAX).map(move |place| {
        let hash = Sha256::new_with_prefix(PART_DOMAIN)
            .chain_update(whole.0.to_be_bytes())
            .chain_update([place])
            .finalize();
        let hash = hash.iter().take(size_of::<u128>());
        let hash = hash.fold(0, |id: u128, byte| id << 8 | u128::from(*byte));
        let time = whole.0 >> RANDOM_BITS << RANDOM_BITS;
        TransferId(time | hash & !(u128::MAX << RANDOM_BITS))
    })
}

/// Returns the least that any of the allowances leaves: of one that nothing was paid with, all.
pub(super) fn least_left(
    view: &View,
    allowances: &[Allowance],
) -> Result<Option<Amount>, BillingError> {
    let mut least: Option<Amount> = None;
    for allowance in allowances {
        check(allowance)?;
        let account = view.account(AccountId(allowance.id))?;
        let left = account.map_or(allowance.max, |account| account.spendable().total);
        least = Some(least.map_or(left, |least| least.min(left)));
    }
    Ok(least)
}

/// An id that is the node's own is as good as taken.
fn check(allowance: &Allowance) -> Result<(), BillingError> {
    if allowance.id < OWN_ACCOUNTS_END {
        return Err(BillingError::Refused(Reason::IdReusedWithOtherContent));
    }
    Ok(())
}

/// Opens the account of an allowance and funds it, unless that was done.
fn opened(allowance: &Allowance) -> [Operation; 2] {
    let account = AccountId(allowance.id);
    let flags = Flags {
        debits_within_credits: true,
        ..Flags::default()
    };
    let fund = Operation::Transfer(Transfer {
        id: TransferId(allowance.id),
        debit: ALLOWANCES,
        credit: account,
        amount: allowance.max,
        draw: Draw::Funded,
        memo: "allowance".to_owned(),
    });
    [open(account, AccountKind::Allowance, flags), fund]
}
