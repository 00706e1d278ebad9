//! The file of answers: opening and verifying it, and one transaction at a time.
//!
//! The checksum of every page is verified at opening, since a file that something else has changed
//! would otherwise make the database library panic somewhere later. What the tables say of each
//! other is checked too. After a failed write redb wants the file opened anew, which the next use
//! does.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use aither_ledger::TransferId;
use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata};

use super::{
    AnswersError,
    records::{RowV1, StateV1, corrupt, decode_body, encode_body},
    tables::{AGES, Age, BODIES, ROWS, SCHEMA_VERSION, Tables},
};
use crate::{
    billing::{BillingError, Settled},
    store_file::Form,
};

/// What redb may keep in memory.
const CACHE_BYTES: usize = 16 << 20;

/// The open file.
pub(super) struct AnswerFile {
    path: PathBuf,
    /// `None` after a failed write, until it is opened anew.
    database: Option<Database>,
    tally: Tally,
}

/// How much there is.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) rows: u64,
    pub(super) bytes: u64,
    callers: HashMap<u128, u64>,
}

/// An open write transaction, and what it changes about the [`Tally`].
pub(super) struct Edit<'tx> {
    tables: Tables<'tx>,
    is_changed: bool,
    bytes: u64,
    /// Of which caller a row was added or removed.
    rows: Vec<(u128, bool)>,
}

impl Tally {
    fn add(&mut self, caller: u128) {
        self.rows += 1;
        *self.callers.entry(caller).or_default() += 1;
    }

    fn remove(&mut self, caller: u128) {
        self.rows = self.rows.saturating_sub(1);
        if let Some(rows) = self.callers.get_mut(&caller) {
            *rows = rows.saturating_sub(1);
            if *rows == 0 {
                self.callers.remove(&caller);
            }
        }
    }
}

impl AnswerFile {
    /// Opens the file, or makes it with its tables, and reads all rows.
    pub(super) fn open(path: &Path) -> Result<Self, AnswersError> {
        let database = open_database(path)?;
        let tally = read_all(&database).map_err(|error| AnswersError::of(path, error))?;
        Ok(Self {
            path: path.to_owned(),
            database: Some(database),
            tally,
        })
    }

    pub(super) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Ends the rows that an earlier process left in flight: what was charged may be done again
    /// without another charge, the rest as if it had never been asked for.
    pub(super) fn settle_left(
        &mut self,
        settled: impl Fn(TransferId) -> Result<Settled, BillingError>,
    ) -> Result<(), AnswersError> {
        let left = self.transact(|edit, _| edit.in_flight())?;
        let mut ended = Vec::with_capacity(left.len());
        for (key, row) in left {
            ended.push((key, settled(TransferId(row.operation))?, row));
        }
        if !ended.is_empty() {
            let rows = ended.len();
            tracing::warn!(
                rows,
                "an earlier run left requests with idempotency keys undone"
            );
        }
        self.transact(|edit, _| {
            for (key, settled, mut row) in ended {
                match settled {
                    Settled::Charged(amount) => {
                        let micros = amount.micros();
                        row.state = StateV1::Charged { micros };
                        edit.put(key, &row)?;
                    }
                    Settled::Never | Settled::Open => edit.remove(key, &row)?,
                }
            }
            Ok(())
        })
    }

    /// Runs one transaction and commits it, unless it changed nothing.
    pub(super) fn transact<T>(
        &mut self,
        change: impl FnOnce(&mut Edit<'_>, &Tally) -> Result<T, redb::Error>,
    ) -> Result<T, AnswersError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => {
                let reopened = Self::open(&self.path)?;
                self.tally = reopened.tally;
                reopened.database.ok_or(AnswersError::Stopped)?
            }
        };
        match transact(&database, &mut self.tally, change) {
            Ok(outcome) => {
                self.database = Some(database);
                Ok(outcome)
            }
            Err(error) => {
                if !matches!(error, redb::Error::Io(_) | redb::Error::PreviousIo) {
                    self.database = Some(database);
                }
                Err(AnswersError::of(&self.path, error))
            }
        }
    }
}

fn transact<T>(
    database: &Database,
    tally: &mut Tally,
    change: impl FnOnce(&mut Edit<'_>, &Tally) -> Result<T, redb::Error>,
) -> Result<T, redb::Error> {
    let tx = database.begin_write()?;
    let (outcome, is_changed, bytes, rows) = {
        let mut edit = Edit {
            tables: Tables::open(&tx)?,
            is_changed: false,
            bytes: tally.bytes,
            rows: Vec::new(),
        };
        let outcome = change(&mut edit, tally)?;
        (outcome, edit.is_changed, edit.bytes, edit.rows)
    };
    if !is_changed {
        tx.abort()?;
        return Ok(outcome);
    }
    tx.commit()?;
    tally.bytes = bytes;
    for (caller, is_added) in rows {
        match is_added {
            true => tally.add(caller),
            false => tally.remove(caller),
        }
    }
    Ok(outcome)
}

impl Edit<'_> {
    pub(super) fn row(&self, key: [u8; 32]) -> Result<Option<RowV1>, redb::Error> {
        let found = self.tables.rows.get(key)?;
        found.map(|row| RowV1::decode(row.value())).transpose()
    }

    /// Returns the body of a row that has one.
    pub(super) fn body(&self, age: Age) -> Result<Option<Bytes>, redb::Error> {
        let Some(found) = self.tables.bodies.get(age)? else {
            return Ok(None);
        };
        Ok(Some(Bytes::copy_from_slice(decode_body(found.value())?)))
    }

    /// Returns the bytes of all bodies.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns how many rows there are with this transaction: in all, and of a caller.
    pub(super) fn rows_len(&self, tally: &Tally, caller: u128) -> (u64, u64) {
        let of_caller = tally.callers.get(&caller).copied().unwrap_or(0);
        let mut len = (tally.rows, of_caller);
        for (whose, is_added) in &self.rows {
            let counts = [Some(&mut len.0), (*whose == caller).then_some(&mut len.1)];
            for count in counts.into_iter().flatten() {
                *count = match is_added {
                    true => count.saturating_add(1),
                    false => count.saturating_sub(1),
                };
            }
        }
        len
    }

    /// Writes a row that is new.
    pub(super) fn add(&mut self, key: [u8; 32], row: &RowV1) -> Result<(), redb::Error> {
        self.tables.ages.insert(row.age(key), ())?;
        self.rows.push((row.caller, true));
        self.put(key, row)
    }

    /// Writes a row over the one that is there.
    pub(super) fn put(&mut self, key: [u8; 32], row: &RowV1) -> Result<(), redb::Error> {
        self.is_changed = true;
        self.tables.rows.insert(key, &row.encode()[..])?;
        Ok(())
    }

    /// Removes a row and all that belongs to it.
    pub(super) fn remove(&mut self, key: [u8; 32], row: &RowV1) -> Result<(), redb::Error> {
        self.is_changed = true;
        self.tables.rows.remove(key)?;
        self.tables.ages.remove(row.age(key))?;
        self.rows.push((row.caller, false));
        self.remove_body(row.age(key))
    }

    pub(super) fn put_body(&mut self, age: Age, body: &[u8]) -> Result<(), redb::Error> {
        self.is_changed = true;
        self.tables.bodies.insert(age, &encode_body(body)[..])?;
        self.bytes = self.bytes.saturating_add(bytes_of(body.len()));
        Ok(())
    }

    pub(super) fn remove_body(&mut self, age: Age) -> Result<(), redb::Error> {
        if let Some(body) = self.tables.bodies.remove(age)? {
            self.is_changed = true;
            let bytes = bytes_of(body.value().len().saturating_sub(1));
            self.bytes = self.bytes.saturating_sub(bytes);
        }
        Ok(())
    }

    /// Returns the row of the oldest body.
    pub(super) fn oldest_body(&self) -> Result<Option<Age>, redb::Error> {
        let first = self.tables.bodies.first()?;
        Ok(first.map(|(age, _)| age.value()))
    }

    /// Returns up to `count` rows made up to a time, the oldest first.
    pub(super) fn made_until(&self, ms: u64, count: usize) -> Result<Vec<Age>, redb::Error> {
        let ages = self.tables.ages.range(..=(ms, [0xff; 32]))?.take(count);
        ages.map(|age| Ok(age?.0.value())).collect()
    }

    fn in_flight(&self) -> Result<Vec<([u8; 32], RowV1)>, redb::Error> {
        let mut found = Vec::new();
        for entry in self.tables.rows.iter()? {
            let (key, value) = entry?;
            let row = RowV1::decode(value.value())?;
            if row.state == StateV1::InFlight {
                found.push((key.value(), row));
            }
        }
        Ok(found)
    }
}

/// Opens the file, or makes it with its tables.
fn open_database(path: &Path) -> Result<Database, AnswersError> {
    let form = Form {
        schema_version: SCHEMA_VERSION,
        cache_bytes: CACHE_BYTES,
        verify_pages: true,
        make_tables: |tx| {
            Tables::open(tx)?;
            Ok(())
        },
    };
    form.open(path)
        .map_err(|error| AnswersError::of_store(path, error))
}

/// Reads every row, and checks that the tables fit together.
fn read_all(database: &Database) -> Result<Tally, redb::Error> {
    let tx = database.begin_read()?;
    let (rows, ages) = (tx.open_table(ROWS)?, tx.open_table(AGES)?);
    let bodies = tx.open_table(BODIES)?;
    let mut tally = Tally::default();
    let mut answered = 0;
    for entry in rows.iter()? {
        let (key, value) = entry?;
        let row = RowV1::decode(value.value())?;
        let age = row.age(key.value());
        if ages.get(age)?.is_none() {
            return Err(corrupt("a row has no age"));
        }
        if matches!(row.state, StateV1::Answered(_)) {
            let body = bodies.get(age)?;
            let body = body.ok_or_else(|| corrupt("an answer has no body"))?;
            tally.bytes += bytes_of(decode_body(body.value())?.len());
            answered += 1;
        }
        tally.add(row.caller);
    }
    if ages.len()? != tally.rows || bodies.len()? != answered {
        return Err(corrupt("something belongs to no row"));
    }
    Ok(tally)
}

fn bytes_of(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
