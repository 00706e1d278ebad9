//! Searching memory: which scopes are meant, whether to wait for the index, and the search itself.
//!
//! The query's vector and the search are computed on a blocking thread, behind a gate: both take
//! milliseconds of a core.

use std::time::{Duration, SystemTime};

use aither_protocol::MemoryTier;

use super::{
    gate::GateError,
    memory::{MemoryAccess, MemoryService, Place, now_ms},
};
use crate::{
    accounts::unix_ms,
    memory::{
        MemoryError, ScopeId, Serial,
        index::SearchMode,
        search::{Found, Results, Search},
    },
};

/// How long a search waits at most for what was written to be indexed.
const PATIENCE: Duration = Duration::from_secs(30);
/// Entries that are not found by meaning yet are counted up to here.
const UNINDEXED_COUNTED_MAX: usize = 1000;

/// What somebody looks for.
#[derive(Debug, Clone)]
pub struct MemorySearch {
    /// In words.
    pub text: String,
    /// In these parts of memory; where none is named in all that may be touched, but for code: it
    /// has questions of its own, and would hide the rest.
    pub tiers: Option<Vec<MemoryTier>>,
    /// The task and session.
    pub place: Place,
    /// How keys begin.
    pub prefix: String,
    /// All of these tags must be there.
    pub tags: Vec<String>,
    /// By what; where it is not said, by whatever there is.
    pub mode: Option<SearchMode>,
    /// Only what was written after this time.
    pub updated_after: Option<SystemTime>,
    /// Only what was written before this time.
    pub updated_before: Option<SystemTime>,
    /// Most results.
    pub limit: usize,
    /// Whether all that was written before must be found.
    pub is_consistent: bool,
}

/// What was found.
#[derive(Debug)]
pub struct MemoryFound {
    /// The best first, each with the part of memory that it is in.
    pub results: Vec<(MemoryTier, Found)>,
    /// By what was searched.
    pub mode: SearchMode,
    /// Whether there was more than fits into an answer.
    pub is_cut: bool,
    /// How many entries of these scopes cannot be found that way yet; counted up to 1000. Not told
    /// where only some keys are searched: it would tell of the others.
    pub unindexed: Option<usize>,
}

impl MemoryService {
    /// Finds entries within reach.
    ///
    /// # Errors
    /// A named part of memory is not for this caller; meaning is asked for and there is no model;
    /// indexing takes too long; too many search; or the store or the model fails.
    pub async fn search(
        &self,
        access: &MemoryAccess,
        search: MemorySearch,
    ) -> Result<MemoryFound, MemoryError> {
        let mode = self.mode_of(search.mode)?;
        let mut found = MemoryFound {
            results: Vec::new(),
            mode,
            is_cut: false,
            unindexed: None,
        };
        let scopes = self.scopes_of(access, &search)?;
        let Some(prefix) = access.reach(&search.prefix) else {
            return Ok(found);
        };
        let ids: Vec<_> = scopes.iter().map(|(_, scope)| *scope).collect();
        let by_meaning = mode != SearchMode::Keyword;
        if search.is_consistent {
            let caught_up = self
                .board
                .caught_up(&self.store, &ids, by_meaning, PATIENCE);
            if !caught_up.await? {
                return Err(MemoryError::NotIndexedYet);
            }
        }
        let inner = Search {
            text: search.text,
            vector: None,
            mode,
            tags: search.tags,
            prefix,
            updated_after_ms: search.updated_after.map(unix_ms),
            updated_before_ms: search.updated_before.map(unix_ms),
            limit: search.limit,
            now_ms: now_ms(),
        };
        let (results, unindexed) = self.find(inner, ids, by_meaning).await?;
        found.unindexed = unindexed;
        found.is_cut = results.is_cut;
        let tier_of = |found: Found| {
            let mut scopes = scopes.iter();
            let tier = scopes
                .find(|(_, scope)| *scope == found.entry.info.scope)?
                .0;
            Some((tier, found))
        };
        found.results = results.found.into_iter().filter_map(tier_of).collect();
        Ok(found)
    }

    /// Has the question embedded, and then the search done, each in its turn: while a model is busy
    /// others are still searched by words.
    async fn find(
        &self,
        mut search: Search,
        scopes: Vec<ScopeId>,
        by_meaning: bool,
    ) -> Result<(Results, Option<usize>), MemoryError> {
        let embedding = self.embedding();
        if let Some(embedding) = embedding
            .clone()
            .filter(|_| by_meaning && !scopes.is_empty())
        {
            let text = search.text.clone();
            let asked = self.asking.run(move || embedding.embed_query(text)).await;
            search.vector = Some(asked.map_err(of_gate)??);
        }
        let service = self.clone();
        let run = move || {
            let unindexed = match search.prefix.is_empty() {
                true => Some(service.unindexed(&scopes, by_meaning)?),
                false => None,
            };
            let model = embedding.map(|embedding| embedding.model());
            let results = search.run(&service.store, &service.board.loaded, model, &scopes)?;
            Ok((results, unindexed))
        };
        self.searching.run(run).await.map_err(of_gate)?
    }

    fn mode_of(&self, wanted: Option<SearchMode>) -> Result<SearchMode, MemoryError> {
        match (wanted, self.embedding()) {
            (Some(SearchMode::Semantic), None) => Err(MemoryError::NoEmbeddingModel),
            // Both as far as there is both.
            (Some(SearchMode::Hybrid) | None, None) => Ok(SearchMode::Keyword),
            (wanted, _) => Ok(wanted.unwrap_or_default()),
        }
    }

    /// Returns the scopes that have anything in them.
    fn scopes_of(
        &self,
        access: &MemoryAccess,
        search: &MemorySearch,
    ) -> Result<Vec<(MemoryTier, ScopeId)>, MemoryError> {
        let all = || {
            let all = MemoryTier::ALL.iter().copied();
            let all = all.filter(|tier| access.tiers.contains(*tier));
            all.filter(|tier| *tier != MemoryTier::Codegraph).collect()
        };
        let mut tiers = search.tiers.clone().unwrap_or_else(all);
        tiers.sort_unstable();
        tiers.dedup();
        let mut scopes = Vec::with_capacity(tiers.len());
        for tier in tiers {
            let key = access.scope(tier, &search.place)?;
            if let Some(scope) = self.store.scope_id(&key)? {
                scopes.push((tier, scope));
            }
        }
        Ok(scopes)
    }

    fn unindexed(&self, scopes: &[ScopeId], by_meaning: bool) -> Result<usize, MemoryError> {
        let mut count = 0;
        for scope in scopes {
            let last = Serial(u64::MAX);
            let left = self.store.unindexed(*scope, last, UNINDEXED_COUNTED_MAX)?;
            count += if by_meaning { left.meaning } else { left.words };
        }
        Ok(count.min(UNINDEXED_COUNTED_MAX))
    }
}

fn of_gate(error: GateError) -> MemoryError {
    match error {
        GateError::Full { .. } => MemoryError::Busy,
        GateError::Panicked => MemoryError::Internal("a search panicked".into()),
    }
}
