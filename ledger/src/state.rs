//! Decides what an operation does, given what is stored; no I/O of its own, no clock.
//!
//! [`Batch::apply`] reads rows through [`Rows`], and keeps what changes beside them until the
//! writer stores [`Changes`] whole. An operation is decided first: it becomes an entry of the
//! journal, or a refusal. Only then the entry takes effect, by the same rules ([`effect`]) as when
//! balances are made again from the journal.

pub(crate) mod decide;
pub(crate) mod effect;

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::{
    account::{Account, AccountId},
    entry::{Entry, EntryKind, Movement},
    error::LedgerError,
    operation::{Note, TransferId, Unit, Verdict},
    refusal::{Reason, Refusal},
    time::Time,
    usage::Usage,
};

/// What is stored.
pub(crate) trait Rows {
    fn account(&self, id: AccountId) -> Result<Option<Account>, LedgerError>;
    fn transfer(&self, id: TransferId) -> Result<Option<TransferState>, LedgerError>;
    fn hold(&self, key: HoldKey) -> Result<Option<Movement>, LedgerError>;
    /// Open holds whose time is over, the longest ended first.
    fn due(&self, now: Time, count_max: usize) -> Result<Vec<HoldKey>, LedgerError>;
    fn entry(&self, sequence: u64) -> Result<Option<Entry>, LedgerError>;
}

/// Where a transfer or hold stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TransferState {
    /// The entry that began it.
    pub(crate) begun: u64,
    pub(crate) end: End,
}

/// How a transfer or hold ended, and by which entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum End {
    /// It was never a hold.
    Plain,
    Open {
        expires: Time,
    },
    Posted(u64),
    Voided(u64),
    Expired(u64),
}

/// Open holds are kept in the order in which they expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HoldKey {
    pub(crate) expires: Time,
    pub(crate) id: TransferId,
}

/// What a batch changes in the store.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) accounts: HashMap<AccountId, Seen>,
    /// Changed ones, and `None` for those that were looked for in vain.
    pub(crate) transfers: HashMap<TransferId, Option<TransferState>>,
    pub(crate) holds: BTreeMap<HoldKey, HoldChange>,
    /// In order, from the first free number on.
    pub(crate) entries: Vec<Entry>,
    /// With the last entry of its unit.
    pub(crate) usage: Vec<(u64, Usage)>,
    /// In order; the last of a name is the one that stays.
    pub(crate) notes: Vec<Note>,
}

/// An account that was looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) account: Option<Account>,
    pub(crate) is_changed: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum HoldChange {
    Opened(Movement),
    Ended,
}

/// How it was before; to be put back if the unit is refused.
enum Undo {
    Account(AccountId, Option<Seen>),
    Transfer(TransferId, Option<Option<TransferState>>),
    Hold(HoldKey, Option<HoldChange>),
}

/// Why an operation is not done.
pub(crate) enum Stop {
    Refused(Reason),
    Failed(LedgerError),
}

/// Units that are stored together.
pub(crate) struct Batch<'r, R> {
    rows: &'r R,
    now: Time,
    /// Number of the first entry that this batch writes.
    first_sequence: u64,
    changes: Changes,
    undo: Vec<Undo>,
}

impl From<Reason> for Stop {
    fn from(reason: Reason) -> Self {
        Self::Refused(reason)
    }
}

impl From<LedgerError> for Stop {
    fn from(error: LedgerError) -> Self {
        Self::Failed(error)
    }
}

impl<'r, R: Rows> Batch<'r, R> {
    pub(crate) fn new(rows: &'r R, first_sequence: u64, now: Time) -> Self {
        Self {
            rows,
            now,
            first_sequence,
            changes: Changes::default(),
            undo: Vec::new(),
        }
    }

    pub(crate) fn into_changes(self) -> Changes {
        self.changes
    }

    /// Does all of a unit, or says why nothing was done.
    ///
    /// # Errors
    /// The store failed; the batch is to be thrown away.
    pub(crate) fn apply(&mut self, unit: &Unit) -> Result<Verdict, LedgerError> {
        if let Err(refusal) = unit.check() {
            return Ok(Err(refusal));
        }
        let entries_len = self.changes.entries.len();
        let mut receipts = Vec::with_capacity(unit.operations.len());
        for (at, operation) in unit.operations.iter().enumerate() {
            match self.operate(operation) {
                Ok(receipt) => receipts.push(receipt),
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Refused(reason)) => {
                    self.roll_back(entries_len);
                    return Ok(Err(Refusal { at, reason }));
                }
            }
        }
        self.undo.clear();
        let last_new = receipts.iter().rev().find(|receipt| !receipt.is_replay);
        if let (Some(usage), Some(receipt)) = (&unit.usage, last_new) {
            self.changes.usage.push((receipt.sequence, usage.clone()));
        }
        self.changes.notes.extend(unit.note.clone());
        Ok(Ok(receipts))
    }

    /// Ends holds whose time is over. To be called before any unit is applied.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) fn expire(&mut self, count_max: usize) -> Result<usize, LedgerError> {
        let due = self.rows.due(self.now, count_max)?;
        for key in &due {
            let held = self.rows.hold(*key)?.ok_or_else(|| {
                LedgerError::corrupt(format!("the hold {:032x} is listed, not kept", key.id.0))
            })?;
            match self.write(EntryKind::Expired { held }) {
                Ok(_) => {}
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Refused(reason)) => {
                    return Err(LedgerError::corrupt(format!(
                        "the hold {:032x} cannot end: {reason}",
                        key.id.0
                    )));
                }
            }
        }
        self.undo.clear();
        Ok(due.len())
    }

    /// Writes an entry and lets it take effect.
    fn write(&mut self, kind: EntryKind) -> Result<u64, Stop> {
        let sequence = self.next_sequence()?;
        let mut before = Vec::with_capacity(2);
        for id in kind.each_account() {
            let mut account = match effect::opened(&kind, sequence, self.now) {
                Some(account) => account,
                None => self.known(id)?,
            };
            before.push(account.last_entry);
            effect::apply(&kind, id, &mut account).ok_or(Reason::Overflow)?;
            account.last_entry = sequence;
            if !account.is_within_limits() {
                return Err(Reason::ExceedsDebits.into());
            }
            self.set_account(id, account);
        }
        self.note_transfer(&kind, sequence)?;
        self.changes.entries.push(Entry {
            time: self.now,
            kind,
            before,
        });
        Ok(sequence)
    }

    /// Notes where a transfer stands after an entry.
    fn note_transfer(&mut self, kind: &EntryKind, sequence: u64) -> Result<(), Stop> {
        let begun = |end| TransferState {
            begun: sequence,
            end,
        };
        match kind {
            EntryKind::Opened { .. } => Ok(()),
            EntryKind::Transferred { movement, .. } => {
                self.set_transfer(movement.id, begun(End::Plain));
                Ok(())
            }
            EntryKind::Reserved {
                movement, expires, ..
            } => {
                let (id, expires) = (movement.id, *expires);
                self.set_transfer(id, begun(End::Open { expires }));
                self.set_hold(HoldKey { expires, id }, HoldChange::Opened(*movement));
                Ok(())
            }
            EntryKind::Posted { held, .. } => self.end_hold(held.id, End::Posted(sequence)),
            EntryKind::Voided { held } => self.end_hold(held.id, End::Voided(sequence)),
            EntryKind::Expired { held } => self.end_hold(held.id, End::Expired(sequence)),
        }
    }

    fn end_hold(&mut self, id: TransferId, end: End) -> Result<(), Stop> {
        let state = self.transfer_state(id)?;
        let Some(TransferState {
            begun,
            end: End::Open { expires },
        }) = state
        else {
            return Err(LedgerError::corrupt(format!("the hold {:032x} is not open", id.0)).into());
        };
        self.set_transfer(id, TransferState { begun, end });
        self.set_hold(HoldKey { expires, id }, HoldChange::Ended);
        Ok(())
    }

    fn next_sequence(&self) -> Result<u64, LedgerError> {
        let written = u64::try_from(self.changes.entries.len()).ok();
        written
            .and_then(|written| self.first_sequence.checked_add(written))
            .ok_or_else(|| LedgerError::corrupt("the journal is full"))
    }

    fn account(&mut self, id: AccountId) -> Result<Option<Account>, LedgerError> {
        if let Some(seen) = self.changes.accounts.get(&id) {
            return Ok(seen.account);
        }
        let account = self.rows.account(id)?;
        let seen = Seen {
            account,
            is_changed: false,
        };
        self.changes.accounts.insert(id, seen);
        Ok(account)
    }

    fn known(&mut self, id: AccountId) -> Result<Account, Stop> {
        Ok(self.account(id)?.ok_or(Reason::AccountUnknown(id))?)
    }

    fn transfer_state(&mut self, id: TransferId) -> Result<Option<TransferState>, LedgerError> {
        if let Some(state) = self.changes.transfers.get(&id) {
            return Ok(*state);
        }
        self.rows.transfer(id)
    }

    fn hold(&self, key: HoldKey) -> Result<Option<Movement>, LedgerError> {
        match self.changes.holds.get(&key) {
            Some(HoldChange::Opened(movement)) => Ok(Some(*movement)),
            Some(HoldChange::Ended) => Ok(None),
            None => self.rows.hold(key),
        }
    }

    fn entry(&self, sequence: u64) -> Result<Entry, LedgerError> {
        let place = sequence.checked_sub(self.first_sequence);
        let own = place.and_then(|place| usize::try_from(place).ok());
        let own = own
            .and_then(|place| self.changes.entries.get(place))
            .cloned();
        let entry = match own {
            Some(entry) => Some(entry),
            None => self.rows.entry(sequence)?,
        };
        entry.ok_or_else(|| LedgerError::corrupt(format!("the journal lacks entry {sequence}")))
    }

    fn set_account(&mut self, id: AccountId, account: Account) {
        let seen = Seen {
            account: Some(account),
            is_changed: true,
        };
        let before = self.changes.accounts.insert(id, seen);
        self.undo.push(Undo::Account(id, before));
    }

    fn set_transfer(&mut self, id: TransferId, state: TransferState) {
        let before = self.changes.transfers.insert(id, Some(state));
        self.undo.push(Undo::Transfer(id, before));
    }

    fn set_hold(&mut self, key: HoldKey, change: HoldChange) {
        let before = match (self.changes.holds.get(&key).copied(), change) {
            // The store never hears of a hold that began and ended in one batch.
            (Some(HoldChange::Opened(_)), HoldChange::Ended) => self.changes.holds.remove(&key),
            _ => self.changes.holds.insert(key, change),
        };
        self.undo.push(Undo::Hold(key, before));
    }

    fn roll_back(&mut self, entries_len: usize) {
        self.changes.entries.truncate(entries_len);
        while let Some(undo) = self.undo.pop() {
            match undo {
                Undo::Account(id, before) => put_back(&mut self.changes.accounts, id, before),
                Undo::Transfer(id, before) => put_back(&mut self.changes.transfers, id, before),
                Undo::Hold(key, Some(before)) => {
                    self.changes.holds.insert(key, before);
                }
                Undo::Hold(key, None) => {
                    self.changes.holds.remove(&key);
                }
            }
        }
    }
}

fn put_back<K: std::hash::Hash + Eq, V>(map: &mut HashMap<K, V>, key: K, before: Option<V>) {
    match before {
        Some(before) => map.insert(key, before),
        None => map.remove(&key),
    };
}
