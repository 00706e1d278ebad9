//! Memory for async callers: who reaches which scope, and what is told of the rest.
//!
//! [`MemoryAccess`] is made of who asks. It says whose scopes are meant, which parts of memory may
//! be touched, and which keys a capability token leaves; what it does not reach is answered as if
//! it were not there. Reads are done at once, on the caller's thread; a write waits for its commit.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::SystemTime,
};

use aither_protocol::{MemoryTier, MemoryTierSet, Plan, Tier};
use tokio::sync::oneshot;

use super::{
    embeddings::EmbeddingService,
    gate::Gate,
    llm::LlmError,
    memory_embedding::MemoryEmbedding,
    memory_index::{IndexBoard, IndexThread},
};
use crate::{
    accounts::{AccountCaller, StoreError, unix_ms},
    agents::AgentCaller,
    billing::OPERATOR,
    memory::{
        DeleteEntry, Entry, EntryInfo, EntrySignature, ListQuery, MemoryError, MemoryLimits,
        MemoryStore, Owner, Quota, ScopeKey, WriteEntry, WrittenEntry,
        indexer::Embedding,
        limits::{check_key, check_scope_name, check_tags, check_value},
    },
};

/// Questions that wait for their vectors at once. They take no core: the model's threads do.
const QUESTIONS_MAX: usize = 64;
/// Searches that wait for others; further ones are refused.
const SEARCHES_WAITING_MAX: usize = 256;

/// Who asks, and what of memory that reaches.
#[derive(Debug, Clone)]
pub struct MemoryAccess {
    /// Whose scopes are meant.
    pub owner: Owner,
    /// Who pays for the room.
    pub account: u128,
    /// What the account's plan gives.
    pub quota: Quota,
    /// The parts of memory that may be touched.
    pub tiers: MemoryTierSet,
    /// How much the caller is trusted with.
    pub tier: Tier,
    /// What keys must begin with, all of it.
    prefixes: Vec<String>,
    /// Under which name it writes.
    pub writer: String,
}

/// What is to be written, as it came.
#[derive(Debug, Clone)]
pub struct MemoryWrite {
    /// The part of memory.
    pub tier: MemoryTier,
    /// The task or session.
    pub place: Place,
    /// The key.
    pub key: String,
    /// The value as JSON text.
    pub value: String,
    /// Words by which it is found.
    pub tags: Vec<String>,
    /// When it ends.
    pub expires: Option<SystemTime>,
    /// The version that it must have now; 0 for none.
    pub if_version: Option<u64>,
    /// The writer's signature, verified.
    pub signature: Option<EntrySignature>,
}

/// Which task or session is meant: of each the one that a tier asks for counts.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// The task.
    pub task_id: Option<String>,
    /// The session.
    pub session_id: Option<String>,
}

/// The memory of this node; clones share it.
#[derive(Debug, Clone)]
pub struct MemoryService {
    pub(super) store: MemoryStore,
    pub(super) board: Arc<IndexBoard>,
    /// What turns texts into vectors. Held for a moment only.
    embedding: Arc<RwLock<Option<Arc<dyn Embedding>>>>,
    /// Held while one thread ends and the next begins.
    indexing: Arc<Mutex<Option<IndexThread>>>,
    /// Questions that are embedded at once, and that may wait for it.
    pub(super) asking: Gate,
    /// Searches that run at once, and that may wait for it.
    pub(super) searching: Gate,
}

impl MemoryAccess {
    /// The holder of the admin key.
    pub fn of_operator() -> Self {
        Self {
            owner: Owner::Operator,
            account: OPERATOR.0,
            quota: Quota::UNLIMITED,
            tiers: Tier::Orchestrator.memory_tiers(),
            tier: Tier::Orchestrator,
            prefixes: Vec::new(),
            writer: "operator".to_owned(),
        }
    }

    /// The holder of an account's key: the parts that the plan's agents may touch.
    pub fn of_account(caller: &AccountCaller) -> Self {
        let tier = caller.plan.tier_max();
        Self {
            owner: Owner::Account(caller.account.as_u128()),
            account: caller.account.as_u128(),
            quota: Quota::of(caller.plan),
            tiers: tier.memory_tiers(),
            tier,
            prefixes: Vec::new(),
            writer: format!("account:{}", caller.account),
        }
    }

    /// An agent, or a sub-agent, which acts in its parent's scopes.
    pub fn of_agent(caller: &AgentCaller) -> Self {
        let token_grant = caller.token_grant.as_ref();
        let prefixes = token_grant.map(|token_grant| token_grant.grant.key_prefixes.clone());
        Self {
            owner: Owner::Agent(caller.agent.id.as_u128()),
            account: caller.agent.owner.0,
            quota: match caller.agent.owner {
                OPERATOR => Quota::UNLIMITED,
                _ => Quota::of(caller.plan),
            },
            tiers: caller.memory_tiers.intersection(caller.tier.memory_tiers()),
            tier: caller.tier,
            prefixes: prefixes.unwrap_or_default(),
            writer: caller.full_name(),
        }
    }

    /// Returns the scope of a part of memory.
    ///
    /// # Errors
    /// The part is not for this caller, or the name of the task or session does not fit.
    pub fn scope(&self, tier: MemoryTier, place: &Place) -> Result<ScopeKey, MemoryError> {
        if !self.tiers.contains(tier) {
            let memory = tier;
            let tier = self.tier;
            return Err(MemoryError::TierForbidden { memory, tier });
        }
        let name = match tier {
            MemoryTier::Working => place.task_id.as_deref().map(|name| ("task_id", name)),
            MemoryTier::Active => place.session_id.as_deref().map(|name| ("session_id", name)),
            _ => None,
        };
        if let Some((field, name)) = name {
            check_scope_name(field, name)?;
        }
        Ok(ScopeKey::new(self.owner, tier, name.map(|(_, name)| name)))
    }

    /// Returns whether a key is within reach.
    pub fn reaches(&self, key: &str) -> bool {
        self.prefixes.iter().all(|prefix| key.starts_with(prefix))
    }

    /// Returns what keys begin with that begin with `prefix` and are within reach; `None` where
    /// there can be none.
    pub fn reach(&self, prefix: &str) -> Option<String> {
        let all = self.prefixes.iter().map(String::as_str).chain([prefix]);
        let longest = all.max_by_key(|prefix| prefix.len())?;
        let fits = self.reaches(longest) && longest.starts_with(prefix);
        fits.then(|| longest.to_owned())
    }
}

impl MemoryService {
    /// Opens the store at `path`. Blocks.
    ///
    /// # Errors
    /// The store's.
    pub fn open(
        path: &Path,
        limits: MemoryLimits,
        index_bytes_max: usize,
    ) -> Result<Self, StoreError> {
        let board = IndexBoard::new(index_bytes_max);
        let observer = Arc::clone(&board);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            store: MemoryStore::open(path, limits, observer)?,
            board,
            embedding: Arc::default(),
            indexing: Arc::default(),
            asking: Gate::new(QUESTIONS_MAX, SEARCHES_WAITING_MAX),
            searching: Gate::new(cores, SEARCHES_WAITING_MAX),
        })
    }

    /// Has entries found by their meaning, by the default encoder, and indexed anew where another
    /// made their vectors. Without an encoder they are found by their words.
    ///
    /// # Errors
    /// The store's, or the system gives no thread.
    pub async fn find_by_meaning(&self, embeddings: &EmbeddingService) -> Result<(), MemoryError> {
        let embedding = match embeddings.embedder(None).await {
            Ok(embedder) => Some(Arc::new(MemoryEmbedding(embedder)) as Arc<dyn Embedding>),
            Err(LlmError::EmbeddingModel(_)) => None,
            Err(error) => {
                tracing::warn!(%error, "memory is found by words alone");
                None
            }
        };
        let service = self.clone();
        let begun = tokio::task::spawn_blocking(move || service.start_index(embedding));
        let panicked = |_| MemoryError::Internal("starting memory's index panicked".into());
        begun.await.map_err(panicked)?
    }

    /// Starts the thread that indexes what is written, in place of the one that runs. Blocks.
    ///
    /// # Errors
    /// The store's, or the system gives no thread.
    pub fn start_index(&self, embedding: Option<Arc<dyn Embedding>>) -> Result<(), MemoryError> {
        let mut thread = self.indexing.lock().unwrap_or_else(PoisonError::into_inner);
        let held = self.embedding();
        let has_changed =
            held.map(|held| held.model()) != embedding.as_ref().map(|new| new.model());
        if thread.is_some() && !has_changed {
            return Ok(());
        }
        // Ends with its batch.
        *thread = None;
        *self
            .embedding
            .write()
            .unwrap_or_else(PoisonError::into_inner) = embedding.clone();
        *thread = Some(IndexThread::start(
            &self.board,
            self.store.clone(),
            embedding,
        )?);
        Ok(())
    }

    /// Ends the thread; what it did not come to is done after the next start. Blocks.
    pub fn stop_index(&self) {
        *self.indexing.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Returns what turns texts into vectors, if anything does.
    pub(super) fn embedding(&self) -> Option<Arc<dyn Embedding>> {
        let held = self
            .embedding
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        held.clone()
    }

    /// Returns what the search indexes in memory take.
    pub fn index_bytes(&self) -> usize {
        self.board.loaded.bytes()
    }

    /// Returns the store.
    pub fn store(&self) -> &MemoryStore {
        &self.store
    }

    /// Writes an entry; it is durable when this returns.
    ///
    /// # Errors
    /// Something does not fit, is not allowed, or the store fails.
    pub async fn write(
        &self,
        access: &MemoryAccess,
        write: MemoryWrite,
    ) -> Result<WrittenEntry, MemoryError> {
        let scope = access.scope(write.tier, &write.place)?;
        check_key(&write.key)?;
        check_value(&write.value)?;
        if !access.reaches(&write.key) {
            return Err(MemoryError::KeyForbidden {
                prefix: access.reach("").unwrap_or_default(),
            });
        }
        let write = WriteEntry {
            scope,
            account: access.account,
            quota: access.quota,
            key: write.key,
            value: write.value,
            tags: check_tags(write.tags)?,
            expires_ms: write.expires.map(unix_ms),
            if_version: write.if_version,
            writer: access.writer.clone(),
            signature: write.signature,
        };
        answer(|reply| self.store.write_by(access.owner, write, now_ms(), reply)).await
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// It is not there, or not within reach; or the store fails.
    pub fn read(
        &self,
        access: &MemoryAccess,
        (tier, place): (MemoryTier, &Place),
        key: &str,
    ) -> Result<Entry, MemoryError> {
        let scope = access.scope(tier, place)?;
        check_key(key)?;
        let found = match access.reaches(key) {
            true => self.store.read(&scope, key, now_ms())?,
            false => None,
        };
        found.ok_or(MemoryError::UnknownKey)
    }

    /// Deletes an entry; that is durable when this returns.
    ///
    /// # Errors
    /// As [`read`](Self::read), or it is at another version.
    pub async fn delete(
        &self,
        access: &MemoryAccess,
        (tier, place): (MemoryTier, &Place),
        key: String,
        if_version: Option<u64>,
    ) -> Result<(), MemoryError> {
        let scope = access.scope(tier, place)?;
        check_key(&key)?;
        if !access.reaches(&key) {
            return Err(MemoryError::UnknownKey);
        }
        let delete = DeleteEntry {
            scope,
            key,
            if_version,
        };
        answer(|reply| self.store.delete(delete, now_ms(), reply)).await
    }

    /// Lists entries within reach, in the order of their keys.
    ///
    /// # Errors
    /// The part of memory is not for this caller, or the store fails.
    pub fn list(
        &self,
        access: &MemoryAccess,
        (tier, place): (MemoryTier, &Place),
        mut query: ListQuery,
    ) -> Result<Vec<EntryInfo>, MemoryError> {
        let scope = access.scope(tier, place)?;
        let Some(prefix) = access.reach(&query.prefix) else {
            return Ok(Vec::new());
        };
        query.prefix = prefix;
        self.store.list(&scope, &query, now_ms())
    }

    /// Deletes the working memory of a task as far as it is within reach, and returns how many
    /// entries that were.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub async fn complete_task(
        &self,
        access: &MemoryAccess,
        place: &Place,
    ) -> Result<u64, MemoryError> {
        let scope = access.scope(MemoryTier::Working, place)?;
        let Some(prefix) = access.reach("") else {
            return Ok(0);
        };
        answer(|reply| self.store.clear(scope, prefix, now_ms(), reply)).await
    }

    /// Removes what has expired.
    pub fn sweep(&self) {
        // Where too much waits for the writer, that does it along.
        let _ = self.store.sweep(now_ms());
    }

    /// Returns what a plan's account may have, for documents.
    pub fn quota_of(plan: Plan) -> Quota {
        Quota::of(plan)
    }
}

/// Gives a command and waits for what comes of it.
async fn answer<T: Send + 'static>(
    give: impl FnOnce(Box<dyn FnOnce(Result<T, MemoryError>) + Send>) -> Result<(), MemoryError>,
) -> Result<T, MemoryError> {
    let (sender, receiver) = oneshot::channel();
    give(Box::new(move |outcome| {
        // Whoever asked may be gone.
        let _ = sender.send(outcome);
    }))?;
    receiver.await.unwrap_or(Err(MemoryError::Stopped))
}

pub(super) fn now_ms() -> u64 {
    unix_ms(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        memory::{
            index::{EmbeddingModel, SearchMode},
            indexer::EmbeddingFailure,
        },
        services::MemorySearch,
    };

    fn access(prefixes: &[&str]) -> MemoryAccess {
        MemoryAccess {
            prefixes: prefixes.iter().map(|prefix| (*prefix).to_owned()).collect(),
            ..MemoryAccess::of_operator()
        }
    }

    #[test]
    fn a_token_reaches_keys_that_begin_with_all_of_its_prefixes() {
        let narrowed = access(&["a/", "a/b"]);
        assert!(narrowed.reaches("a/bc"));
        assert!(!narrowed.reaches("a/c"));
        assert_eq!(narrowed.reach("").as_deref(), Some("a/b"));
        assert_eq!(narrowed.reach("a").as_deref(), Some("a/b"));
        assert_eq!(narrowed.reach("a/b/c").as_deref(), Some("a/b/c"));
        assert_eq!(narrowed.reach("b"), None);
        assert_eq!(access(&["a", "b"]).reach(""), None);
        assert_eq!(access(&[]).reach("x").as_deref(), Some("x"));
    }

    #[test]
    fn the_scope_is_the_one_that_the_tier_asks_for() {
        let place = Place {
            task_id: Some("t".into()),
            session_id: Some("s\n".into()),
        };
        let mut access = access(&[]);
        let working = access.scope(MemoryTier::Working, &place).unwrap();
        assert_eq!(&*working.name, "t");
        let refused = access.scope(MemoryTier::Active, &place).unwrap_err();
        assert!(refused.to_string().starts_with("session_id"), "{refused}");
        access.tier = Tier::Agent;
        access.tiers = Tier::Agent.memory_tiers();
        let refused = access.scope(MemoryTier::Knowledge, &place).unwrap_err();
        assert_eq!(refused.code(), aither_protocol::ErrorCode::TierForbidden);
    }

    /// A model that knows one meaning.
    #[derive(Debug)]
    struct Same(u64);

    impl Embedding for Same {
        fn model(&self) -> EmbeddingModel {
            EmbeddingModel {
                fingerprint: self.0,
                dimensions: 2,
            }
        }

        fn embed(&self, texts: Vec<String>) -> Result<Vec<Vec<f32>>, EmbeddingFailure> {
            Ok(texts.iter().map(|_| vec![1.0, 0.0]).collect())
        }

        fn embed_query(&self, _text: String) -> Result<Vec<f32>, EmbeddingFailure> {
            Ok(vec![1.0, 0.0])
        }
    }

    #[tokio::test]
    async fn what_is_written_is_found_whatever_model_comes_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("memory.redb");
        let memory = MemoryService::open(&path, MemoryLimits::default(), 1 << 20).unwrap();
        let access = MemoryAccess::of_operator();
        for (number, model) in [None, Some(1), None, Some(1), Some(2), None]
            .into_iter()
            .enumerate()
        {
            let embedding = model.map(|model| Arc::new(Same(model)) as Arc<dyn Embedding>);
            memory.start_index(embedding).unwrap();
            let write = MemoryWrite {
                tier: MemoryTier::Spirit,
                place: Place::default(),
                key: format!("k{number}"),
                value: "\"harbour\"".into(),
                tags: Vec::new(),
                expires: None,
                if_version: None,
                signature: None,
            };
            memory.write(&access, write).await.unwrap();
            let search = MemorySearch {
                text: "harbour".into(),
                tiers: None,
                place: Place::default(),
                prefix: String::new(),
                tags: Vec::new(),
                mode: model.map(|_| SearchMode::Semantic),
                updated_after: None,
                updated_before: None,
                limit: 100,
                is_consistent: true,
            };
            let found = memory.search(&access, search).await.unwrap();
            assert_eq!(found.results.len(), number + 1, "{model:?}");
        }
        memory.stop_index();
    }
}
