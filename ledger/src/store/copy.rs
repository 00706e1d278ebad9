//! A copy of the whole file, made from one snapshot while others go on writing.

use std::{path::Path, sync::Arc};

use redb::{Database, Key, ReadOnlyTable, ReadableTable, Table, Value};

use super::{read::ReadTables, tables::Tables};
use crate::error::LedgerError;

impl ReadTables {
    /// Writes every row into a new file.
    pub(crate) fn copy_to(&self, path: &Path) -> Result<(), LedgerError> {
        let database = Database::create(path).map_err(|error| LedgerError::Open {
            path: path.to_owned(),
            source: Arc::new(error.into()),
        })?;
        let transaction = database.begin_write()?;
        {
            let mut to = Tables::open(&transaction)?;
            copy(&self.meta, &mut to.meta)?;
            copy(&self.accounts, &mut to.accounts)?;
            copy(&self.journal, &mut to.journal)?;
            copy(&self.transfers, &mut to.transfers)?;
            copy(&self.holds, &mut to.holds)?;
            copy(&self.usage, &mut to.usage)?;
            copy(&self.usage_sums, &mut to.usage_sums)?;
            copy(&self.checkpoint, &mut to.checkpoint)?;
            copy(&self.notes, &mut to.notes)?;
        }
        transaction.commit()?;
        Ok(())
    }
}

fn copy<K: Key + 'static, V: Value + 'static>(
    from: &ReadOnlyTable<K, V>,
    to: &mut Table<'_, K, V>,
) -> Result<(), LedgerError> {
    for row in from.iter()? {
        let (key, value) = row?;
        to.insert(key.value(), value.value())?;
    }
    Ok(())
}
