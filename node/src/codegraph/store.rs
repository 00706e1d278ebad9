//! Where the graphs of files are kept, as the code graph sees it.
//!
//! In a node that is the memory of an agent, in which each file is an entry; the trait keeps this
//! module free of that. [`MemoryStore`] is for tests and tools.

use std::collections::BTreeMap;

use super::model::FileGraph;

/// A file that is kept: its path, and the hash of the source that its graph was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptFile {
    /// Its path in the repository.
    pub path: String,
    /// SHA-256 of its source, in hex; nothing for a graph of another format.
    pub hash: Option<String>,
}

/// The graphs of one repository's files.
pub trait GraphStore {
    /// Why nothing could be read or written.
    type Error;

    /// Returns all files, without their graphs.
    ///
    /// # Errors
    /// The store fails.
    fn list(&self) -> Result<Vec<KeptFile>, Self::Error>;

    /// Returns all files with their graphs.
    ///
    /// # Errors
    /// The store fails.
    fn load(&self) -> Result<Vec<(String, FileGraph)>, Self::Error>;

    /// Keeps graphs, in place of earlier ones. Returns the paths for which there is no room.
    ///
    /// # Errors
    /// The store fails.
    fn put(&mut self, graphs: Vec<(String, FileGraph)>) -> Result<Vec<String>, Self::Error>;

    /// Forgets files. Returns how many were there.
    ///
    /// # Errors
    /// The store fails.
    fn remove(&mut self, paths: &[String]) -> Result<usize, Self::Error>;
}

/// Graphs in this process's memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    graphs: BTreeMap<String, FileGraph>,
}

impl GraphStore for MemoryStore {
    type Error = std::convert::Infallible;

    fn list(&self) -> Result<Vec<KeptFile>, Self::Error> {
        let kept = self.graphs.iter().map(|(path, graph)| KeptFile {
            path: path.clone(),
            hash: Some(graph.hash.clone()),
        });
        Ok(kept.collect())
    }

    fn load(&self) -> Result<Vec<(String, FileGraph)>, Self::Error> {
        let graphs = self.graphs.iter();
        Ok(graphs
            .map(|(path, graph)| (path.clone(), graph.clone()))
            .collect())
    }

    fn put(&mut self, graphs: Vec<(String, FileGraph)>) -> Result<Vec<String>, Self::Error> {
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
