//! Where the graphs of files are kept, as the code graph sees it.
//!
//! In a node that is the memory of an agent, in which each file is an entry; the trait keeps this
//! module free of that. [`TestStore`] is for tests and tools.

use std::collections::BTreeMap;

use super::{
    extract::SkipReason,
    model::{FORMAT, FileGraph},
};

/// Digits of a source's hash that its mark has.
const MARK_DIGITS: usize = 40;
const MARK_PREFIX: &str = "graph-";

/// A file that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptFile {
    /// Its path in the repository.
    pub path: String,
    /// The mark of its graph, where it has one.
    pub mark: Option<String>,
}

/// Returns what stands for a source with a certain hash, read in this build's form: where it is the
/// same, reading the source again would give the same graph.
pub fn mark_of(hash: &str) -> String {
    // Chance does not make two of these alike, and whoever tries fools himself only.
    let hash = hash.get(..MARK_DIGITS).unwrap_or(hash);
    format!("{MARK_PREFIX}{FORMAT}:{hash}")
}

/// Returns whether a text is a mark.
pub fn is_mark(text: &str) -> bool {
    text.starts_with(MARK_PREFIX)
}

/// Paths of files that a store did not take, and why.
pub type Refused = Vec<(String, SkipReason)>;

/// The graphs of one repository's files.
pub trait GraphStore {
    /// Why nothing could be read or written.
    type Error;

    /// Returns all files, without their graphs.
    ///
    /// # Errors
    /// The store fails.
    fn list(&self) -> Result<Vec<KeptFile>, Self::Error>;

    /// Keeps graphs, in place of earlier ones. Returns the paths of those that it does not take.
    ///
    /// # Errors
    /// The store fails.
    fn put(&mut self, graphs: Vec<(String, FileGraph)>) -> Result<Refused, Self::Error>;

    /// Forgets files. Returns how many were there.
    ///
    /// # Errors
    /// The store fails.
    fn remove(&mut self, paths: &[String]) -> Result<usize, Self::Error>;
}

/// Graphs in this process's memory.
#[derive(Debug, Default)]
pub struct TestStore {
    graphs: BTreeMap<String, FileGraph>,
}

impl TestStore {
    /// Returns all files with their graphs.
    pub fn graphs(&self) -> Vec<(String, FileGraph)> {
        let graphs = self.graphs.iter();
        graphs
            .map(|(path, graph)| (path.clone(), graph.clone()))
            .collect()
    }
}

impl GraphStore for TestStore {
    type Error = std::convert::Infallible;

    fn list(&self) -> Result<Vec<KeptFile>, Self::Error> {
        let kept = self.graphs.iter().map(|(path, graph)| KeptFile {
            path: path.clone(),
            mark: Some(mark_of(&graph.hash)),
        });
        Ok(kept.collect())
    }

    fn put(&mut self, graphs: Vec<(String, FileGraph)>) -> Result<Refused, Self::Error> {
        self.graphs.extend(graphs);
        Ok(Vec::new())
    }

    fn remove(&mut self, paths: &[String]) -> Result<usize, Self::Error> {
        let removed = paths
            .iter()
            .filter(|path| self.graphs.remove(*path).is_some());
        Ok(removed.count())
    }
}
