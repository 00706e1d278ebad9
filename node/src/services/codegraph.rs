//! The code graph over memory: repositories are indexed into it and asked about.
//!
//! Each file is an entry of the codegraph tier, under `REPO/path`, so what holds for memory holds
//! for it: who sees it, what it counts, when it is purged, what a backup has. Repositories that
//! were put together are kept while there is room, with the states of the entries that they were
//! made of; a question looks first whether these are still the same. All of it is blocking work
//! behind a gate.

mod kept;
mod turns;

use std::{
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::{Duration, Instant, SystemTime},
};

use aither_protocol::MemoryTier;

use self::{kept::Kept, turns::Turns};
use super::{
    MemoryAccess, MemorySearch, MemoryService, Place,
    gate::{Gate, GateError},
};
use crate::{
    accounts::unix_ms,
    codegraph::{
        Changes, FileGraph, GraphStore, IndexReport, Query, QueryRow, Repository, SkipReason,
        indexer,
        limits::{REPO_BYTES_MAX, REPOSITORY_BYTES_MAX, REPOSITORY_FILES_MAX},
        store::{KeptFile, Refused, is_mark, mark_of},
    },
    memory::{
        DeleteEntry, ListQuery, MemoryError, MemoryStore, Owner, ScopeKey, WriteEntry,
        limits::check_value,
    },
};

/// Requests that are worked on at once: each may take all of a core for seconds.
const RUNNING_MAX: usize = 2;
/// Requests that may wait for their turn.
const WAITING_MAX: usize = 16;
/// Bytes in memory for each of the JSON from which a repository is made.
const BYTES_OF_JSON: usize = 3;
/// Bytes in memory beside the keys of the entries from which a repository is made, for each.
const BYTES_OF_STATE: usize = 64;
/// Repositories that a question without a name looks at.
const REPOSITORIES_MAX: usize = 100;
/// Keys that such a question looks at; those of no repository do not count as one.
const REPOSITORY_KEYS_MAX: usize = 1_000;
/// Time after which such a question takes up no more repositories.
const REPOSITORIES_TIME_MAX: Duration = Duration::from_secs(10);
/// Most bytes of an answer; ordinary rows take half a kilobyte.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Files that are looked for by their meaning.
const NEAR_FILES: usize = 30;
/// Entries that are read in one go.
const READ_ENTRIES: usize = 256;
/// How long a batch waits for the one writer of memory before it gives up.
const WRITER_PATIENCE: Duration = Duration::from_secs(30);
/// A pause in which the writer gets on.
const WRITER_PAUSE: Duration = Duration::from_millis(20);

/// The code graph of this node; clones share it.
#[derive(Debug, Clone)]
pub struct CodegraphService {
    memory: MemoryService,
    gate: Gate,
    turns: Turns,
    kept: Arc<Mutex<Kept>>,
}

/// A row of an answer, with the repository that it is from.
#[derive(Debug, Clone, PartialEq)]
pub struct FoundRow {
    /// The repository.
    pub repo: String,
    /// The row.
    pub row: QueryRow,
}

/// What a question found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Found {
    /// The rows.
    pub rows: Vec<FoundRow>,
    /// Whether there was more than is put together for one question.
    pub is_partial: bool,
}

impl CodegraphService {
    /// Makes the service over a memory.
    pub fn new(memory: MemoryService) -> Self {
        Self {
            memory,
            gate: Gate::new(RUNNING_MAX, WAITING_MAX),
            turns: Turns::default(),
            kept: Arc::default(),
        }
    }

    /// Brings a repository up to date. All that the report counts is durable.
    ///
    /// # Errors
    /// The caller may not write there, has no room for any of it, or memory fails.
    pub async fn index(
        &self,
        access: &MemoryAccess,
        repo: &str,
        changes: impl FnOnce() -> Result<Changes, MemoryError> + Send + 'static,
    ) -> Result<IndexReport, MemoryError> {
        let mut graphs = Graphs::of(&self.memory, access, repo)?;
        let turn = self.turns.take(access.account).await?;
        let work = move || {
            // Also where whoever asked is gone, the account's next one waits for this.
            let _turn = turn;
            let report = indexer::index(&mut graphs, changes()?)?;
            match graphs.refused {
                // Where something found room the report tells what did not.
                Some(error) if report.indexed == 0 => Err(error),
                _ => Ok(report),
            }
        };
        self.gate.run(work).await.map_err(of_gate)?
    }

    /// Answers a question about one repository, or about all that the caller has.
    ///
    /// # Errors
    /// The caller may not read there, or memory fails.
    pub async fn ask(
        &self,
        access: &MemoryAccess,
        repo: Option<&str>,
        query: Query,
    ) -> Result<Found, MemoryError> {
        let named = repo.map(|repo| Graphs::of(&self.memory, access, repo));
        let named = named.transpose()?;
        let scope = access.scope(MemoryTier::Codegraph, &Place::default())?;
        let near = match &query.words {
            Some(words) => self.near(access, repo, words).await?,
            None => Vec::new(),
        };
        let turn = self.turns.take(access.account).await?;
        let (service, access) = (self.clone(), access.clone());
        let work = move || {
            let _turn = turn;
            service.forget_gone()?;
            let begun = Instant::now();
            let (all, mut is_partial) = match named {
                Some(graphs) => (vec![graphs], false),
                None => service.repositories(&access, &scope)?,
            };
            let mut rows = Vec::new();
            for graphs in all {
                if begun.elapsed() > REPOSITORIES_TIME_MAX {
                    is_partial = true;
                    break;
                }
                let loaded = service.loaded(&graphs)?;
                let begin = format!("{}/", escaped(&graphs.repo));
                let files = near.iter().filter_map(|(key, score)| {
                    let path = key.strip_prefix(&begin)?;
                    Some((path.to_owned(), *score))
                });
                let query = Query {
                    files: files.collect(),
                    ..query.clone()
                };
                let found = loaded.repository.ask(&query).into_iter();
                rows.extend(found.map(|row| FoundRow {
                    repo: graphs.repo.clone(),
                    row,
                }));
                // The words of a repository are put together with the first question about them.
                is_partial |= loaded.is_partial || loaded.repository.is_partial();
                is_partial |= keep_best(&mut rows, query.limit);
            }
            service.kept().trim();
            Ok(Found { rows, is_partial })
        };
        self.gate.run(work).await.map_err(of_gate)?
    }

    /// Returns the keys of files that are about something, by their meaning where there is a model
    /// for that, each with a score from 0 to 1.
    async fn near(
        &self,
        access: &MemoryAccess,
        repo: Option<&str>,
        words: &str,
    ) -> Result<Vec<(String, f32)>, MemoryError> {
        let search = MemorySearch {
            text: words.to_owned(),
            tiers: Some(vec![MemoryTier::Codegraph]),
            place: Place::default(),
            prefix: repo.map_or_else(String::new, |repo| format!("{}/", escaped(repo))),
            tags: Vec::new(),
            mode: None,
            updated_after: None,
            updated_before: None,
            limit: NEAR_FILES,
            is_consistent: false,
        };
        let found = self.memory.search(access, search).await?;
        let files = found.results.into_iter().map(|(_, found)| {
            let score = found.hit.semantic.or(found.hit.keyword).unwrap_or(0.0);
            (found.entry.info.key, score.clamp(0.0, 1.0))
        });
        Ok(files.collect())
    }

    /// Returns the repositories that a caller has, and whether there are more.
    fn repositories(
        &self,
        access: &MemoryAccess,
        scope: &ScopeKey,
    ) -> Result<(Vec<Graphs>, bool), MemoryError> {
        let mut all = Vec::new();
        let Some(prefix) = access.reach("") else {
            return Ok((all, false));
        };
        let mut query = ListQuery {
            prefix,
            after: None,
            limit: 1,
        };
        for _ in 0..REPOSITORY_KEYS_MAX {
            if all.len() == REPOSITORIES_MAX {
                break;
            }
            let found = self.memory.store().list(scope, &query, now_ms())?;
            let Some(first) = found.first() else {
                return Ok((all, false));
            };
            let Some((repo, _)) = first.key.split_once('/') else {
                query.after = Some(first.key.clone());
                continue;
            };
            // Whatever else somebody has put there is no repository.
            let name = unescaped(repo);
            if escaped(&name) == repo
                && let Ok(graphs) = Graphs::of(&self.memory, access, &name)
            {
                all.push(graphs);
            }
            // The sign after `/`: past all of this repository's keys, before the next one's.
            query.after = Some(format!("{repo}0"));
        }
        Ok((all, true))
    }

    /// Returns a repository put together, as it is now.
    fn loaded(&self, graphs: &Graphs) -> Result<Arc<Loaded>, MemoryError> {
        let states = graphs.states()?;
        let name = (graphs.scope.clone(), graphs.reach.clone());
        if let Some(kept) = self.kept().get(&name, &states) {
            return Ok(kept);
        }
        let loaded = Arc::new(graphs.load(states)?);
        // Of what is not there nothing need be remembered.
        if !loaded.states.is_empty() {
            self.kept().keep(name, Arc::clone(&loaded));
            // Its owner may have been purged meanwhile, before it was among those to forget.
            self.forget_gone()?;
        }
        Ok(loaded)
    }

    /// Forgets the code of somebody who is purged.
    pub fn forget(&self, owner: Owner) {
        self.kept().retain(|scope| scope.owner != owner);
    }

    /// Forgets the repositories whose scopes are there no longer: purges have more ways than one.
    fn forget_gone(&self) -> Result<(), MemoryError> {
        let scopes = self.kept().scopes();
        for scope in scopes {
            if self.memory.store().scope_id(&scope)?.is_none() {
                self.kept().retain(|kept| *kept != scope);
            }
        }
        Ok(())
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        // What a panic left is whole: rows are put in and taken out in one step.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn of_gate(error: GateError) -> MemoryError {
    match error {
        GateError::Full { .. } => MemoryError::Busy,
        GateError::Panicked => MemoryError::Internal("work on a code graph panicked".to_owned()),
    }
}

fn now_ms() -> u64 {
    unix_ms(SystemTime::now())
}

/// A repository that was put together.
#[derive(Debug)]
struct Loaded {
    repository: Repository,
    /// The entries that it was made of: their keys and the numbers of their states.
    states: Vec<(String, u64)>,
    /// About what that takes in memory, without the repository's tables.
    bytes: usize,
    is_partial: bool,
}

/// The graphs of one repository in memory, for one caller.
struct Graphs {
    store: MemoryStore,
    access: MemoryAccess,
    scope: ScopeKey,
    repo: String,
    /// How the keys of the repository begin.
    prefix: String,
    /// How those keys begin that are within the caller's reach.
    reach: String,
    /// Why something was not written.
    refused: Option<MemoryError>,
}

impl Graphs {
    fn of(memory: &MemoryService, access: &MemoryAccess, repo: &str) -> Result<Self, MemoryError> {
        let scope = access.scope(MemoryTier::Codegraph, &Place::default())?;
        let escaped = escaped(repo);
        let fits = (1..=REPO_BYTES_MAX).contains(&escaped.len());
        if !fits || repo.chars().any(char::is_control) {
            return Err(MemoryError::Invalid {
                field: "repo",
                message: format!(
                    "must have 1 to {REPO_BYTES_MAX} bytes, of which / and % take three, and no \
                     control characters"
                ),
            });
        }
        let prefix = format!("{escaped}/");
        let Some(reach) = access.reach(&prefix) else {
            return Err(MemoryError::KeyForbidden {
                prefix: access.reach("").unwrap_or_default(),
            });
        };
        Ok(Self {
            store: memory.store().clone(),
            access: access.clone(),
            scope,
            repo: repo.to_owned(),
            prefix,
            reach,
            refused: None,
        })
    }

    /// Shows all entries within reach to `take`, until it has had enough.
    fn each(
        &self,
        mut take: impl FnMut(crate::memory::EntryInfo) -> bool,
    ) -> Result<(), MemoryError> {
        let mut query = ListQuery {
            prefix: self.reach.clone(),
            after: None,
            limit: READ_ENTRIES,
        };
        loop {
            let listed = self.store.list(&self.scope, &query, now_ms())?;
            let is_last = listed.len() < READ_ENTRIES;
            query.after = listed.last().map(|info| info.key.clone());
            for info in listed {
                if !take(info) {
                    return Ok(());
                }
            }
            if is_last {
                return Ok(());
            }
        }
    }

    fn states(&self) -> Result<Vec<(String, u64)>, MemoryError> {
        let mut states = Vec::new();
        self.each(|info| {
            states.push((info.key, info.serial.0));
            // One more than are put together, so that it shows.
            states.len() <= REPOSITORY_FILES_MAX
        })?;
        Ok(states)
    }

    /// Puts the repository together.
    fn load(&self, states: Vec<(String, u64)>) -> Result<Loaded, MemoryError> {
        let mut graphs = Vec::new();
        let mut bytes = 0;
        let mut is_partial = states.len() > REPOSITORY_FILES_MAX;
        let keys: Vec<_> = states.iter().take(REPOSITORY_FILES_MAX).collect();
        let scope = self.store.scope_id(&self.scope)?;
        'read: for part in keys.chunks(READ_ENTRIES) {
            let Some(scope) = scope else {
                break;
            };
            let part: Vec<_> = part.iter().map(|(key, _)| key.clone()).collect();
            let entries = self.store.entries_by_key(scope, &part, now_ms())?;
            for entry in entries.into_iter().flatten() {
                bytes += entry.value.len();
                if bytes > REPOSITORY_BYTES_MAX {
                    is_partial = true;
                    break 'read;
                }
                // Whatever else somebody has put there is no file of it.
                let path = entry.info.key.strip_prefix(&self.prefix);
                let graph = serde_json::from_str::<FileGraph>(&entry.value).ok();
                let graph = graph.filter(FileGraph::is_sound);
                if let (Some(path), Some(graph)) = (path, graph) {
                    graphs.push((path.to_owned(), graph));
                }
            }
        }
        let keys = states.iter().map(|(key, _)| key.len() + BYTES_OF_STATE);
        let keys: usize = keys.sum();
        Ok(Loaded {
            repository: Repository::new(&self.repo, graphs),
            bytes: bytes * BYTES_OF_JSON + keys,
            states,
            is_partial,
        })
    }

    fn entry(&self, path: &str, graph: &FileGraph) -> Result<WriteEntry, MemoryError> {
        let value = serde_json::to_string(graph);
        let value = value.map_err(|error| MemoryError::Internal(error.to_string()))?;
        Ok(WriteEntry {
            scope: self.scope.clone(),
            account: self.access.account,
            quota: self.access.quota,
            key: format!("{}{path}", self.prefix),
            value,
            tags: vec![mark_of(&graph.hash), graph.language.as_str().to_owned()],
            expires_ms: None,
            if_version: None,
            writer: self.access.writer.clone(),
            signature: None,
        })
    }
}

impl GraphStore for Graphs {
    type Error = MemoryError;

    fn list(&self) -> Result<Vec<KeptFile>, MemoryError> {
        let mut kept = Vec::new();
        self.each(|info| {
            if let Some(path) = info.key.strip_prefix(&self.prefix) {
                kept.push(KeptFile {
                    path: path.to_owned(),
                    mark: info.tags.into_iter().find(|tag| is_mark(tag)),
                });
            }
            true
        })?;
        Ok(kept)
    }

    fn put(&mut self, graphs: Vec<(String, FileGraph)>) -> Result<Refused, MemoryError> {
        let mut batch = Batch::new();
        let mut refused = Vec::new();
        for (path, graph) in graphs {
            let entry = self.entry(&path, &graph)?;
            if !self.access.reaches(&entry.key) {
                self.refused = Some(MemoryError::KeyForbidden {
                    prefix: self.access.reach("").unwrap_or_default(),
                });
                refused.push((path, SkipReason::Forbidden));
                continue;
            }
            // What a graph takes as JSON was estimated, and texts may be odd.
            if check_value(&entry.value).is_err() {
                refused.push((path, SkipReason::TooLarge));
                continue;
            }
            let store = &self.store;
            batch.send(path, |reply| store.write(entry.clone(), now_ms(), reply))?;
        }
        for (path, outcome) in batch.outcomes()? {
            match outcome {
                Ok(_) => {}
                Err(error @ (MemoryError::QuotaExceeded { .. } | MemoryError::NodeFull)) => {
                    self.refused = Some(error);
                    refused.push((path, SkipReason::NoRoom));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(refused)
    }

    fn remove(&mut self, paths: &[String]) -> Result<usize, MemoryError> {
        let mut batch = Batch::new();
        for path in paths {
            let delete = DeleteEntry {
                scope: self.scope.clone(),
                key: format!("{}{path}", self.prefix),
                if_version: None,
            };
            if !self.access.reaches(&delete.key) {
                continue;
            }
            let store = &self.store;
            batch.send(path.clone(), |reply| {
                store.delete(delete.clone(), now_ms(), reply)
            })?;
        }
        let mut removed = 0;
        for (_, outcome) in batch.outcomes()? {
            match outcome {
                Ok(()) => removed += 1,
                Err(MemoryError::UnknownKey) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }
}

/// What a command comes to.
type Outcome<T> = (String, Result<T, MemoryError>);

/// Commands that were given to the writer of memory together, so that one commit has many of them.
struct Batch<T> {
    sender: mpsc::Sender<Outcome<T>>,
    outcomes: mpsc::Receiver<Outcome<T>>,
    given: usize,
}

impl<T: Send + 'static> Batch<T> {
    fn new() -> Self {
        let (sender, outcomes) = mpsc::channel();
        Self {
            sender,
            outcomes,
            given: 0,
        }
    }

    /// Gives a command, once the writer has room for it.
    fn send(
        &mut self,
        path: String,
        give: impl Fn(Box<dyn FnOnce(Result<T, MemoryError>) + Send>) -> Result<(), MemoryError>,
    ) -> Result<(), MemoryError> {
        let begun = std::time::Instant::now();
        loop {
            let (sender, path) = (self.sender.clone(), path.clone());
            let given = give(Box::new(move |outcome| {
                // Nobody waits for it once the batch was given up.
                let _ = sender.send((path, outcome));
            }));
            match given {
                Err(MemoryError::Busy) if begun.elapsed() < WRITER_PATIENCE => {
                    std::thread::sleep(WRITER_PAUSE);
                }
                Err(error) => return Err(error),
                Ok(()) => {
                    self.given += 1;
                    return Ok(());
                }
            }
        }
    }

    /// Waits for all of them.
    fn outcomes(self) -> Result<Vec<Outcome<T>>, MemoryError> {
        drop(self.sender);
        let outcomes: Vec<_> = self.outcomes.iter().collect();
        // The writer drops what it does not come to.
        match outcomes.len() == self.given {
            true => Ok(outcomes),
            false => Err(MemoryError::Stopped),
        }
    }
}

/// Keeps the best rows, as many as are asked for and an answer has room for. Returns whether there
/// is no room for some of them.
fn keep_best(rows: &mut Vec<FoundRow>, limit: usize) -> bool {
    // Questions by words have the best first, whichever repository it is from.
    let score = |found: &FoundRow| found.row.score.unwrap_or(0.0);
    rows.sort_by(|a, b| score(b).total_cmp(&score(a)));
    rows.truncate(limit);
    let mut left = ANSWER_BYTES_MAX;
    let fits = |found: &FoundRow| {
        let rest = left.checked_sub(found.repo.len() + found.row.bytes());
        rest.map(|rest| left = rest).is_some()
    };
    let count = rows.iter().map(fits).take_while(|fits| *fits).count();
    let is_cut = count < rows.len();
    rows.truncate(count);
    is_cut
}

/// Writes a repository's name so that the first `/` of a key ends it.
fn escaped(repo: &str) -> String {
    repo.replace('%', "%25").replace('/', "%2F")
}

fn unescaped(repo: &str) -> String {
    repo.replace("%2F", "/").replace("%25", "%")
}

#[cfg(test)]
mod tests;
