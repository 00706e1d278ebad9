//! Files that come in: what is new is read and kept, what has not changed is left alone.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Instant,
};

use serde::Serialize;

use super::{
    extract::{SkipReason, extract, hash_of},
    limits::{PATH_BYTES_MAX, REQUEST_TIME_MAX},
    model::FileGraph,
    store::{GraphStore, mark_of},
};

/// Most graphs that are collected before they are written.
const BATCH_FILES: usize = 256;
/// Most rows of them: calls, definitions and the rest.
const BATCH_ROWS: usize = 200_000;

/// A file as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Its path in the repository.
    pub path: String,
    /// Its text, or why there is none.
    pub content: Result<String, SkipReason>,
}

/// A file that was left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Its path as it came.
    pub path: String,
    /// Why, in one word.
    pub reason: String,
}

/// What became of files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct IndexReport {
    /// Files that the repository has now.
    pub files: usize,
    /// Files that were read.
    pub indexed: usize,
    /// Files that were there as they came.
    pub unchanged: usize,
    /// Files that are there no longer.
    pub removed: usize,
    /// Files that were left alone.
    pub skipped: Vec<Skipped>,
    /// Definitions in the files that were read.
    pub symbols: usize,
    /// Calls in them.
    pub calls: usize,
    /// Imports in them.
    pub imports: usize,
    /// References in them.
    pub references: usize,
    /// Files that were read, by language.
    pub languages: BTreeMap<String, usize>,
}

/// What is to be done with a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Files that are there.
    pub files: Vec<SourceFile>,
    /// Paths of files that are there no longer.
    pub remove: Vec<String>,
    /// Whether what is neither among `files` nor in `keep` is there no longer.
    pub replaces: bool,
    /// Paths of files that stay as they are.
    pub keep: Vec<String>,
}

/// Brings a repository up to date.
///
/// # Errors
/// The store fails; what was written before stays.
pub fn index<S: GraphStore>(store: &mut S, changes: Changes) -> Result<IndexReport, S::Error> {
    let begun = Instant::now();
    let mut report = IndexReport::default();
    let kept = store.list()?;
    let mut kept: HashMap<_, _> = kept
        .into_iter()
        .map(|file| (file.path, file.mark))
        .collect();
    let mut batch = Batch::default();
    let mut gone: Vec<String> = changes
        .remove
        .iter()
        .filter_map(|path| normal(path))
        .collect();
    let mut came: HashSet<_> = changes
        .keep
        .iter()
        .filter_map(|path| normal(path))
        .collect();
    for file in changes.files {
        let Some(path) = normal(&file.path) else {
            report.skip(file.path, SkipReason::BadPath);
            continue;
        };
        came.insert(path.clone());
        let text = match file.content {
            Ok(text) => text,
            Err(reason) => {
                gone.push(path.clone());
                report.skip(path, reason);
                continue;
            }
        };
        let mark = kept.get(&path).and_then(Option::as_deref);
        if mark.is_some_and(|mark| mark == mark_of(&hash_of(&text))) {
            report.unchanged += 1;
            continue;
        }
        let is_in_time = begun.elapsed() < REQUEST_TIME_MAX;
        let read = is_in_time.then(|| extract(&path, &text));
        match read.unwrap_or(Err(SkipReason::OutOfTime)) {
            Ok(graph) => batch.push(path, graph),
            Err(reason) => {
                // What was known of it is not true any more.
                gone.push(path.clone());
                report.skip(path, reason);
            }
        }
        if batch.is_full() {
            batch.write(store, &mut kept, &mut report)?;
        }
    }
    batch.write(store, &mut kept, &mut report)?;
    if changes.replaces {
        gone.extend(kept.keys().filter(|path| !came.contains(*path)).cloned());
    }
    gone.retain(|path| kept.remove(path).is_some());
    report.removed = store.remove(&gone)?;
    report.files = kept.len();
    Ok(report)
}

/// Graphs that wait to be written together.
#[derive(Default)]
struct Batch {
    graphs: Vec<(String, FileGraph)>,
    rows: usize,
}

impl Batch {
    fn push(&mut self, path: String, graph: FileGraph) {
        self.rows += graph.symbols.len() + graph.calls.len() + graph.references.len();
        self.graphs.push((path, graph));
    }

    fn is_full(&self) -> bool {
        self.graphs.len() >= BATCH_FILES || self.rows >= BATCH_ROWS
    }

    fn write<S: GraphStore>(
        &mut self,
        store: &mut S,
        kept: &mut HashMap<String, Option<String>>,
        report: &mut IndexReport,
    ) -> Result<(), S::Error> {
        let graphs = std::mem::take(self).graphs;
        if graphs.is_empty() {
            return Ok(());
        }
        let counted: Vec<_> = graphs
            .iter()
            .map(|(path, graph)| counts_of(path, graph))
            .collect();
        let refused = store.put(graphs)?;
        for counts in counted {
            let refusal = refused.iter().find(|(path, _)| *path == counts.path);
            if let Some((path, reason)) = refusal {
                report.skip(path.clone(), *reason);
            } else {
                kept.insert(counts.path.clone(), Some(String::new()));
                report.add(counts);
            }
        }
        Ok(())
    }
}

struct Counts {
    path: String,
    language: &'static str,
    /// Symbols, calls, imports, references.
    rows: [usize; 4],
}

fn counts_of(path: &str, graph: &FileGraph) -> Counts {
    Counts {
        path: path.to_owned(),
        language: graph.language.as_str(),
        rows: [
            graph.symbols.len(),
            graph.calls.len(),
            graph.imports.len(),
            graph.references.len(),
        ],
    }
}

impl IndexReport {
    fn skip(&mut self, path: String, reason: SkipReason) {
        let reason = reason.to_string();
        self.skipped.push(Skipped { path, reason });
    }

    fn add(&mut self, counts: Counts) {
        let [symbols, calls, imports, references] = counts.rows;
        self.indexed += 1;
        self.symbols += symbols;
        self.calls += calls;
        self.imports += imports;
        self.references += references;
        *self
            .languages
            .entry(counts.language.to_owned())
            .or_default() += 1;
    }
}

/// Returns a path as it is kept: relative, without `.`; none that leaves the repository.
pub fn normal(path: &str) -> Option<String> {
    let path = path.replace('\\', "/");
    let is_absolute = path.starts_with('/') || path.get(1..3) == Some(":/");
    if is_absolute || path.len() > PATH_BYTES_MAX || path.chars().any(char::is_control) {
        return None;
    }
    let parts: Vec<_> = path
        .split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .collect();
    let is_inside = !parts.is_empty() && !parts.contains(&"..");
    is_inside.then(|| parts.join("/"))
}
