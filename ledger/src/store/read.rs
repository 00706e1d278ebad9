//! Reading rows, from a transaction that writes or from one that only reads.

use redb::{
    Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable,
    ReadableTableMetadata,
};

use super::{Head, codec, tables};
use crate::{
    Time,
    account::{Account, AccountId},
    entry::{Entry, Movement},
    error::LedgerError,
    operation::TransferId,
    state::TransferState,
    usage::{Usage, UsageCounts, UsageQuery, UsageSum, span_of},
};

pub(super) fn account(
    table: &impl ReadableTable<u128, &'static [u8]>,
    id: AccountId,
) -> Result<Option<Account>, LedgerError> {
    let row = table.get(id.0)?;
    row.map(|row| codec::decode("an account", row.value()))
        .transpose()
}

pub(super) fn transfer(
    table: &impl ReadableTable<u128, &'static [u8]>,
    id: TransferId,
) -> Result<Option<TransferState>, LedgerError> {
    let row = table.get(id.0)?;
    row.map(|row| codec::decode("a transfer", row.value()))
        .transpose()
}

pub(super) fn entry(
    table: &impl ReadableTable<u64, &'static [u8]>,
    sequence: u64,
) -> Result<Option<Entry>, LedgerError> {
    let Some(row) = table.range(..=sequence)?.next_back() else {
        return Ok(None);
    };
    let (first, block) = row?;
    let place = sequence.saturating_sub(first.value());
    let place = usize::try_from(place).unwrap_or(usize::MAX);
    codec::entries(block.value())?.nth(place).transpose()
}

/// The tables as they were at one moment, however much is written meanwhile.
pub(crate) struct ReadTables {
    pub(super) meta: ReadOnlyTable<&'static str, u64>,
    pub(super) accounts: ReadOnlyTable<u128, &'static [u8]>,
    pub(super) journal: ReadOnlyTable<u64, &'static [u8]>,
    pub(super) transfers: ReadOnlyTable<u128, &'static [u8]>,
    pub(super) holds: ReadOnlyTable<(u64, u128), &'static [u8]>,
    pub(super) usage: ReadOnlyTable<(u128, u64, u64), &'static [u8]>,
    pub(super) usage_sums: ReadOnlyTable<(u128, u64, &'static str, &'static str), &'static [u8]>,
    pub(super) checkpoint: ReadOnlyTable<u128, &'static [u8]>,
    pub(super) notes: ReadOnlyTable<u128, &'static [u8]>,
}

impl ReadTables {
    pub(crate) fn open(database: &Database) -> Result<Self, LedgerError> {
        Self::of(&database.begin_read()?)
    }

    fn of(transaction: &ReadTransaction) -> Result<Self, LedgerError> {
        Ok(Self {
            meta: transaction.open_table(tables::META)?,
            accounts: transaction.open_table(tables::ACCOUNTS)?,
            journal: transaction.open_table(tables::JOURNAL)?,
            transfers: transaction.open_table(tables::TRANSFERS)?,
            holds: transaction.open_table(tables::HOLDS)?,
            usage: transaction.open_table(tables::USAGE)?,
            usage_sums: transaction.open_table(tables::USAGE_SUMS)?,
            checkpoint: transaction.open_table(tables::CHECKPOINT)?,
            notes: transaction.open_table(tables::NOTES)?,
        })
    }

    /// Returns a note.
    pub(crate) fn note(&self, id: u128) -> Result<Option<Vec<u8>>, LedgerError> {
        let row = self.notes.get(id)?;
        Ok(row.map(|row| row.value().to_vec()))
    }

    /// Returns how many bytes of notes there are.
    pub(crate) fn note_bytes(&self) -> Result<u64, LedgerError> {
        let row = self.meta.get(tables::META_NOTE_BYTES)?;
        Ok(row.map_or(0, |row| row.value()))
    }

    /// Returns where the journal ends.
    pub(super) fn head(&self) -> Result<Head, LedgerError> {
        let mut head = Head {
            next_sequence: 1,
            now: Time(self.number(tables::META_NOW)?),
            checkpoint: self.checkpoint()?,
            ..Head::default()
        };
        if let Some((first, block)) = self.journal.last()? {
            head.block = (first.value(), block.value().to_vec());
            let mut next = first.value();
            for entry in codec::entries(block.value())? {
                entry?;
                next = next.saturating_add(1);
            }
            head.next_sequence = next;
        }
        head.transfer_max = self.transfers.last()?.map(|(id, _)| TransferId(id.value()));
        for account in self.accounts()? {
            let (id, account) = account?;
            if account.last_entry > head.checkpoint {
                head.touched.insert(id);
            }
        }
        Ok(head)
    }

    fn number(&self, name: &str) -> Result<u64, LedgerError> {
        Ok(self.meta.get(name)?.map_or(0, |row| row.value()))
    }

    /// Returns the last entry that the last checkpoint takes in, 0 where there is none.
    pub(crate) fn checkpoint(&self) -> Result<u64, LedgerError> {
        self.number(tables::META_CHECKPOINT)
    }

    pub(crate) fn account(&self, id: AccountId) -> Result<Option<Account>, LedgerError> {
        account(&self.accounts, id)
    }

    pub(crate) fn entry(&self, sequence: u64) -> Result<Option<Entry>, LedgerError> {
        entry(&self.journal, sequence)
    }

    pub(crate) fn transfer(&self, id: TransferId) -> Result<Option<TransferState>, LedgerError> {
        transfer(&self.transfers, id)
    }

    /// Returns all accounts in order of their names.
    pub(crate) fn accounts(
        &self,
    ) -> Result<impl Iterator<Item = Result<(AccountId, Account), LedgerError>>, LedgerError> {
        accounts(&self.accounts)
    }

    /// Returns the accounts as they were at the last checkpoint.
    pub(crate) fn checkpointed(
        &self,
    ) -> Result<impl Iterator<Item = Result<(AccountId, Account), LedgerError>>, LedgerError> {
        accounts(&self.checkpoint)
    }

    /// Returns all open holds.
    pub(crate) fn holds(
        &self,
    ) -> Result<impl Iterator<Item = Result<(Time, Movement), LedgerError>>, LedgerError> {
        let rows = self.holds.range::<(u64, u128)>(..)?;
        Ok(rows.map(|row| {
            let (key, value) = row?;
            let movement = codec::decode("a hold", value.value())?;
            Ok((Time(key.value().0), movement))
        }))
    }

    /// Returns how many transfers and holds are known.
    pub(crate) fn transfers_len(&self) -> Result<u64, LedgerError> {
        Ok(self.transfers.len()?)
    }

    /// Calls `see` with each entry after `after` and its number, in order.
    pub(crate) fn each_entry(
        &self,
        after: u64,
        mut see: impl FnMut(u64, Entry) -> Result<(), LedgerError>,
    ) -> Result<(), LedgerError> {
        let before = self.journal.range(..=after)?.next_back().transpose()?;
        let begin = before.map_or(0, |(first, _)| first.value());
        let mut expected = None;
        for row in self.journal.range(begin..)? {
            let (first, block) = row?;
            let mut sequence = first.value();
            if expected.is_some_and(|expected| expected != sequence) {
                let what = format!("the journal has a gap before entry {sequence}");
                return Err(LedgerError::corrupt(what));
            }
            for entry in codec::entries(block.value())? {
                let entry = entry?;
                if sequence > after {
                    see(sequence, entry)?;
                }
                sequence = sequence.saturating_add(1);
            }
            expected = Some(sequence);
        }
        Ok(())
    }

    /// Returns the sums of an account's usage in a period, in order of time.
    pub(crate) fn usage_sums(&self, query: &UsageQuery) -> Result<Vec<UsageSum>, LedgerError> {
        let account = query.account.0;
        let begin = (account, span_of(query.from).0, "", "");
        let end = (account, query.until.0, "", "");
        if begin >= end {
            return Ok(Vec::new());
        }
        let rows = self.usage_sums.range(begin..end)?;
        rows.map(|row| {
            let (key, value) = row?;
            let (_, from, agent, model) = key.value();
            let counts: UsageCounts = codec::decode("a sum of usage", value.value())?;
            Ok(UsageSum {
                from: Time(from),
                agent: agent.to_owned(),
                model: model.to_owned(),
                counts,
            })
        })
        .collect()
    }

    /// Returns an account's usage records of a period, the first `count_max`.
    pub(crate) fn usage(
        &self,
        query: &UsageQuery,
        count_max: usize,
    ) -> Result<Vec<(Time, Usage)>, LedgerError> {
        let account = query.account.0;
        let (begin, end) = ((account, query.from.0, 0), (account, query.until.0, 0));
        if begin >= end {
            return Ok(Vec::new());
        }
        let rows = self.usage.range(begin..end)?.take(count_max);
        rows.map(|row| {
            let (key, value) = row?;
            let record = codec::decode("a usage record", value.value())?;
            Ok((Time(key.value().1), record))
        })
        .collect()
    }
}

fn accounts(
    table: &ReadOnlyTable<u128, &'static [u8]>,
) -> Result<impl Iterator<Item = Result<(AccountId, Account), LedgerError>>, LedgerError> {
    let rows = table.range::<u128>(..)?;
    Ok(rows.map(|row| {
        let (id, value) = row?;
        let account = codec::decode("an account", value.value())?;
        Ok((AccountId(id.value()), account))
    }))
}
