//! The prices of this node, by version.
//!
//! A model's price is what the operator has set while the node ran, else what the configuration
//! says, else what follows from its size. Whenever one of the first two changes there is a new
//! version, kept whole in `DIR/prices.json`: a usage record that names a version can be reckoned
//! again.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use serde::{Deserialize, Serialize};

use super::price::ModelPrice;
use crate::files::{self, FileError};

/// Versions that are kept; earlier ones are dropped.
const VERSIONS_MAX: usize = 1000;
/// Models that have a price of their own.
const MODELS_MAX: usize = 1000;
/// Largest file: all versions with all models would be larger, which nobody has.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Why prices cannot be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PriceBookError {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is no list of prices.
    #[error("{}: {source}; restore it from a backup, or remove it to begin anew", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// Too many models have a price of their own.
    #[error("at most {MODELS_MAX} models can have a price of their own")]
    TooMany,
}

/// All prices at one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriceVersion {
    /// Counts from 1.
    pub version: u64,
    /// When it began, in milliseconds since 1970.
    pub since_ms: u64,
    /// What the configuration says.
    pub configured: BTreeMap<String, ModelPrice>,
    /// What the operator has set.
    pub set: BTreeMap<String, ModelPrice>,
}

/// The prices; clones share them.
#[derive(Debug, Clone)]
pub struct PriceBook {
    path: Arc<Path>,
    versions: Arc<RwLock<Vec<PriceVersion>>>,
}

impl PriceBook {
    /// Reads the prices of a node, and begins a new version where the configuration has changed.
    ///
    /// # Errors
    /// The file cannot be read, is malformed, or cannot be written.
    pub fn open(
        path: &Path,
        configured: BTreeMap<String, ModelPrice>,
        now_ms: u64,
    ) -> Result<Self, PriceBookError> {
        let versions = read_versions(path)?;
        let book = Self {
            path: path.into(),
            versions: Arc::new(RwLock::new(versions)),
        };
        if book
            .current()
            .is_none_or(|last| last.configured != configured)
        {
            book.change(now_ms, |version| version.configured = configured)?;
        }
        Ok(book)
    }

    /// Reads a file of prices.
    ///
    /// # Errors
    /// It cannot be read or is malformed.
    pub fn check(path: &Path) -> Result<(), PriceBookError> {
        read_versions(path).map(drop)
    }

    /// Returns what a model costs, and the version of the prices that says so.
    pub fn price(&self, model: &str, parameters: u64) -> (ModelPrice, u64) {
        let versions = self.read();
        let Some(last) = versions.last() else {
            return (ModelPrice::by_parameters(parameters), 0);
        };
        let own = last.set.get(model).or_else(|| last.configured.get(model));
        let price = own.copied();
        let price = price.unwrap_or_else(|| ModelPrice::by_parameters(parameters));
        (price, last.version)
    }

    /// Returns the version that holds now.
    pub fn current(&self) -> Option<PriceVersion> {
        self.read().last().cloned()
    }

    /// Sets a model's price, or takes what was set back. Returns the new version. Blocks.
    ///
    /// # Errors
    /// Too many prices, or the file cannot be written; then the old prices stand.
    pub fn set(
        &self,
        model: &str,
        price: Option<ModelPrice>,
        now_ms: u64,
    ) -> Result<PriceVersion, PriceBookError> {
        self.change(now_ms, |version| match price {
            Some(price) => {
                version.set.insert(model.to_owned(), price);
            }
            None => {
                version.set.remove(model);
            }
        })
    }

    fn change(
        &self,
        now_ms: u64,
        change: impl FnOnce(&mut PriceVersion),
    ) -> Result<PriceVersion, PriceBookError> {
        let mut versions = self
            .versions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let mut next = versions.last().cloned().unwrap_or(PriceVersion {
            version: 0,
            since_ms: 0,
            configured: BTreeMap::new(),
            set: BTreeMap::new(),
        });
        next.version += 1;
        next.since_ms = now_ms;
        change(&mut next);
        if next.set.len() > MODELS_MAX {
            return Err(PriceBookError::TooMany);
        }
        let mut all = versions.clone();
        all.push(next.clone());
        let excess = all.len().saturating_sub(VERSIONS_MAX);
        all.drain(..excess);
        let bytes =
            serde_json::to_vec_pretty(&all).map_err(|source| PriceBookError::Malformed {
                path: self.path.to_path_buf(),
                source,
            })?;
        // Written before it holds: no record names a version that a restart would not know.
        files::write_atomic(&self.path, &bytes)?;
        *versions = all;
        Ok(next)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Vec<PriceVersion>> {
        self.versions.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_versions(path: &Path) -> Result<Vec<PriceVersion>, PriceBookError> {
    let Some(bytes) = files::read_bounded(path, FILE_BYTES_MAX)? else {
        return Ok(Vec::new());
    };
    serde_json::from_slice(&bytes).map_err(|source| PriceBookError::Malformed {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use aither_protocol::Amount;

    use super::*;

    fn price(micros: u128) -> ModelPrice {
        ModelPrice {
            prompt_per_1k: Amount::from_micros(micros),
            completion_per_1k: Amount::from_micros(2 * micros),
        }
    }

    #[test]
    fn every_change_is_a_version_that_outlives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("prices.json");
        let configured = BTreeMap::from([("a".to_owned(), price(5))]);
        let book = PriceBook::open(&path, configured.clone(), 1).unwrap();
        assert_eq!(book.price("a", 9), (price(5), 1));
        assert_eq!(book.price("b", 0).0, ModelPrice::by_parameters(0));
        assert_eq!(book.set("a", Some(price(7)), 2).unwrap().version, 2);
        assert_eq!(book.set("b", Some(price(8)), 3).unwrap().version, 3);
        drop(book);

        let book = PriceBook::open(&path, configured, 4).unwrap();
        assert_eq!(book.price("a", 9), (price(7), 3), "nothing has changed");
        assert_eq!(book.set("a", None, 5).unwrap().version, 4);
        assert_eq!(book.price("a", 9).0, price(5));
        drop(book);

        let book = PriceBook::open(&path, BTreeMap::new(), 6).unwrap();
        assert_eq!(book.price("a", 0), (ModelPrice::by_parameters(0), 5));
        assert_eq!(book.price("b", 0).0, price(8));
        std::fs::write(&path, "[1]").unwrap();
        let error = PriceBook::open(&path, BTreeMap::new(), 7).unwrap_err();
        assert!(error.to_string().contains("prices.json"), "{error}");
    }
}
