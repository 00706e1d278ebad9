//! Checks that the ledger holds what it promises.
//!
//! [`balances`] looks at the accounts and the open holds as they stand. [`journal`] makes balances
//! again, from the journal's beginning or from the last checkpoint, and compares. Both read one
//! snapshot, while others go on writing.

use std::collections::HashMap;

use aither_protocol::Amount;

use crate::{
    account::{Account, AccountId, Sum},
    entry::{Entry, EntryKind},
    error::LedgerError,
    state::{
        End,
        effect::{self, apply},
    },
    store::ReadTables,
};

/// What an audit went through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Audit {
    /// Accounts looked at.
    pub accounts: u64,
    /// Open holds looked at.
    pub holds: u64,
    /// Entries of the journal that were read.
    pub entries: u64,
    /// Posted debits of all accounts, which are the credits too.
    pub posted: Amount,
}

/// Debits and credits of all accounts, posted and pending.
#[derive(Default)]
struct Totals {
    debits_posted: Sum,
    credits_posted: Sum,
    debits_pending: Sum,
    credits_pending: Sum,
}

/// How far back the journal is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    Whole,
    SinceCheckpoint,
}

/// Checks sums and limits.
///
/// # Errors
/// [`LedgerError::Corrupt`] says what does not hold.
pub(crate) fn balances(tables: &ReadTables) -> Result<Audit, LedgerError> {
    let mut audit = Audit::default();
    let mut totals = Totals::default();
    for account in tables.accounts()? {
        let (id, account) = account?;
        audit.accounts = audit.accounts.saturating_add(1);
        check_account(id, &account)?;
        totals.add(&account).ok_or_else(overflow)?;
    }
    let mut held = Sum::default();
    for hold in tables.holds()? {
        let (_, movement) = hold?;
        audit.holds = audit.holds.saturating_add(1);
        held = held.checked_add(movement.amount).ok_or_else(overflow)?;
    }
    for (what, left, right) in [
        (
            "posted debits and credits",
            totals.debits_posted,
            totals.credits_posted,
        ),
        (
            "pending debits and credits",
            totals.debits_pending,
            totals.credits_pending,
        ),
        ("pending debits and open holds", totals.debits_pending, held),
    ] {
        if left != right {
            return Err(LedgerError::corrupt(format!(
                "{what} differ: {} and {}, of these granted {} and {}",
                left.total, right.total, left.granted, right.granted
            )));
        }
    }
    audit.posted = totals.debits_posted.total;
    Ok(audit)
}

/// Makes balances and open holds from the journal, and compares them with what is stored.
///
/// # Errors
/// [`LedgerError::Corrupt`] says what does not hold.
pub(crate) fn journal(tables: &ReadTables, depth: Depth) -> Result<Audit, LedgerError> {
    let mut audit = balances(tables)?;
    let after = match depth {
        Depth::Whole => 0,
        Depth::SinceCheckpoint => tables.checkpoint()?,
    };
    let mut accounts: HashMap<AccountId, Account> = HashMap::new();
    if after > 0 {
        for account in tables.checkpointed()? {
            let (id, account) = account?;
            accounts.insert(id, account);
        }
    }
    let mut time = crate::Time(0);
    let mut begun: u64 = 0;
    tables.each_entry(after, |sequence, entry| {
        audit.entries = audit.entries.saturating_add(1);
        if entry.time < time {
            return Err(at(sequence, "is earlier than the one before it"));
        }
        time = entry.time;
        replay(&mut accounts, sequence, &entry)?;
        let is_begin = matches!(
            entry.kind,
            EntryKind::Transferred { .. } | EntryKind::Reserved { .. }
        );
        begun = begun.saturating_add(u64::from(is_begin));
        check_transfer(tables, sequence, &entry.kind)
    })?;
    compare(tables, &accounts)?;
    if depth == Depth::Whole && begun != tables.transfers_len()? {
        return Err(LedgerError::corrupt(
            "the list of transfers and the journal name different ones",
        ));
    }
    Ok(audit)
}

fn compare(tables: &ReadTables, rebuilt: &HashMap<AccountId, Account>) -> Result<(), LedgerError> {
    let mut found: usize = 0;
    for account in tables.accounts()? {
        let (id, stored) = account?;
        found = found.saturating_add(1);
        if rebuilt.get(&id) != Some(&stored) {
            let what = format!("the account {id} is not what the journal makes of it");
            return Err(LedgerError::corrupt(what));
        }
    }
    if found != rebuilt.len() {
        return Err(LedgerError::corrupt("an account of the journal is missing"));
    }
    Ok(())
}

/// Lets an entry take effect on the accounts so far.
fn replay(
    accounts: &mut HashMap<AccountId, Account>,
    sequence: u64,
    entry: &Entry,
) -> Result<(), LedgerError> {
    let touched = entry.kind.accounts();
    if touched.len() != entry.before.len() {
        return Err(at(sequence, "does not link all of its accounts"));
    }
    for (id, before) in touched.into_iter().zip(&entry.before) {
        let mut account = match effect::opened(&entry.kind, sequence, entry.time) {
            Some(_) if accounts.contains_key(&id) => {
                return Err(at(sequence, "opens an account again"));
            }
            Some(account) => account,
            None => *accounts
                .get(&id)
                .ok_or_else(|| at(sequence, "moves tokens of an account that is not open"))?,
        };
        if account.last_entry != *before {
            return Err(at(
                sequence,
                "does not follow the last entry of its account",
            ));
        }
        apply(&entry.kind, id, &mut account)
            .ok_or_else(|| at(sequence, "takes more than there is"))?;
        account.last_entry = sequence;
        accounts.insert(id, account);
    }
    Ok(())
}

/// Checks that the index of transfers knows an entry as what it is.
fn check_transfer(tables: &ReadTables, sequence: u64, kind: &EntryKind) -> Result<(), LedgerError> {
    let Some(id) = kind.transfer() else {
        return Ok(());
    };
    let state = tables.transfer(id)?;
    let state = state.ok_or_else(|| at(sequence, "is of a transfer that is not listed"))?;
    let is_right = match kind {
        EntryKind::Opened { .. } => true,
        EntryKind::Transferred { .. } => state.begun == sequence && state.end == End::Plain,
        EntryKind::Reserved { .. } => state.begun == sequence && state.end != End::Plain,
        EntryKind::Posted { .. } => state.end == End::Posted(sequence),
        EntryKind::Voided { .. } => state.end == End::Voided(sequence),
        EntryKind::Expired { .. } => state.end == End::Expired(sequence),
    };
    if !is_right {
        return Err(at(sequence, "is not what the list of transfers says"));
    }
    Ok(())
}

fn check_account(id: AccountId, account: &Account) -> Result<(), LedgerError> {
    if !account.is_within_limits() {
        let what = format!("the account {id} is beyond its limit");
        return Err(LedgerError::corrupt(what));
    }
    let sides = [account.credits, account.debits];
    let sums = sides.iter().flat_map(|side| [side.posted, side.pending]);
    for sum in sums {
        if sum.granted > sum.total {
            let what = format!("the account {id} has more granted tokens than tokens");
            return Err(LedgerError::corrupt(what));
        }
    }
    Ok(())
}

fn at(sequence: u64, what: &str) -> LedgerError {
    LedgerError::corrupt(format!("entry {sequence} of the journal {what}"))
}

fn overflow() -> LedgerError {
    LedgerError::corrupt("a sum over all accounts is too large")
}

impl Totals {
    fn add(&mut self, account: &Account) -> Option<()> {
        let (debits, credits) = (&account.debits, &account.credits);
        for (total, sum) in [
            (&mut self.debits_posted, debits.posted),
            (&mut self.credits_posted, credits.posted),
            (&mut self.debits_pending, debits.pending),
            (&mut self.credits_pending, credits.pending),
        ] {
            *total = total.checked_add(sum)?;
        }
        Some(())
    }
}
