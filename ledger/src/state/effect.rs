//! What an entry does to an account that it touches.
//!
//! Entries are applied as they are written, and again when balances are made from the journal.

use crate::{
    Time,
    account::Sum,
    account::{Account, AccountId, Side},
    entry::{EntryKind, Leg, Movement},
};

/// Returns the account that an entry opens.
pub(crate) fn opened(kind: &EntryKind, sequence: u64, time: Time) -> Option<Account> {
    let EntryKind::Opened {
        kind, owner, flags, ..
    } = kind
    else {
        return None;
    };
    Some(Account {
        kind: *kind,
        owner: *owner,
        flags: *flags,
        opened: time,
        first_entry: sequence,
        credits: Side::default(),
        debits: Side::default(),
        last_entry: 0,
    })
}

/// Changes an account as an entry says; `None` where a sum would overflow or fall below nothing.
pub(crate) fn apply(kind: &EntryKind, id: AccountId, account: &mut Account) -> Option<()> {
    let (debits, credits) = (&mut account.debits, &mut account.credits);
    match kind {
        EntryKind::Opened { .. } => {}
        EntryKind::Transferred { movement, .. } => {
            if movement.debit == id {
                debits.posted = debits.posted.checked_add(movement.amount)?;
            }
            if movement.credit == id {
                credits.posted = credits.posted.checked_add(movement.amount)?;
            }
        }
        EntryKind::Reserved { movement, .. } => {
            if movement.debit == id {
                debits.pending = debits.pending.checked_add(movement.amount)?;
            }
            if movement.credit == id {
                credits.pending = credits.pending.checked_add(movement.amount)?;
            }
        }
        EntryKind::Posted {
            held,
            amount,
            shares,
        } => {
            free(held, id, account)?;
            post(held, *amount, shares, id, account)?;
        }
        EntryKind::Voided { held } | EntryKind::Expired { held } => free(held, id, account)?,
    }
    Some(())
}

/// Takes a hold off.
fn free(held: &Movement, id: AccountId, account: &mut Account) -> Option<()> {
    if held.debit == id {
        account.debits.pending = account.debits.pending.checked_sub(held.amount)?;
    }
    if held.credit == id {
        account.credits.pending = account.credits.pending.checked_sub(held.amount)?;
    }
    Some(())
}

fn post(
    held: &Movement,
    amount: Sum,
    shares: &[Leg],
    id: AccountId,
    account: &mut Account,
) -> Option<()> {
    if held.debit == id {
        account.debits.posted = account.debits.posted.checked_add(amount)?;
    }
    let mut rest = amount;
    for leg in shares {
        rest = rest.checked_sub(leg.amount)?;
        if leg.account == id {
            account.credits.posted = account.credits.posted.checked_add(leg.amount)?;
        }
    }
    if held.credit == id {
        account.credits.posted = account.credits.posted.checked_add(rest)?;
    }
    Some(())
}
