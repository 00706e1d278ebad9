//! Embeddings: which encoders there are, and texts to vectors, paid for.
//!
//! An encoder is loaded when it is first needed and stays; one at a time is in memory. How many
//! model tokens a request reads is known before any of them is, so exactly its cost is held, and it
//! is posted when the vectors are there. A call that fails, or whose client hangs up before, costs
//! nothing.
//!
//! Limits: [`TEXTS_MAX`] texts in a request; their size is bounded by the request's body. Texts are
//! tokenized before it is known what they cost, so that is done for a few requests at once, and for
//! none whose payer has nothing. How many may wait for their vectors is the embedder's.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, Instant},
};

use aither_inference::{
    Embedder, EmbedderConfig, Embedding, Error,
    embedding::{ARCHITECTURE, BertDescription, EmbeddingSink, Prepared, Urgency},
    engine::ModelInfo,
    gguf::Gguf,
    request::GenerationStats,
};
use aither_protocol::{Amount, limits::MODEL_NAME_BYTES_MAX};
use tokio::{
    sync::{Mutex, oneshot},
    time::timeout,
};

use super::{
    catalog::spellings,
    gate::{Gate, GateError},
    llm::LlmError,
};
use crate::{
    billing::{Billing, BillingError, Charge, Estimate, Payment, usage_of},
    models::catalogue::EMBEDDING_MODEL,
};

/// Most texts in one request: what OpenAI takes.
pub const TEXTS_MAX: usize = 2048;

/// Requests whose texts are tokenized at once: a fraction of a second each, of a core.
const PREPARING_MAX: usize = 2;
/// Requests that wait for that, each with its body in memory.
const PREPARING_WAITING_MAX: usize = 64;
/// Model tokens of an empty text: those at both ends.
const EMPTY_TEXT_TOKENS: usize = 2;
/// A single text of at most so many model tokens may pass before bulk work: it may well be what
/// somebody looks for.
const QUERY_TOKENS_MAX: usize = 64;

/// Names that tools ask for by themselves, which stand for the default encoder where nobody serves
/// a model of that name.
const BUILT_IN_ALIASES: &[&str] = &[
    "all-minilm",
    "text-embedding-3-small",
    "text-embedding-3-large",
    "text-embedding-ada-002",
];

/// Nobody serves an encoder of that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("embedding model {name:?} not found; {}", remedy(served))]
pub struct EmbeddingModelNotFound {
    /// The name asked for, cut to a bound.
    pub name: String,
    /// The names that are served.
    pub served: Vec<String>,
}

fn remedy(served: &[String]) -> String {
    match served {
        [] => format!("get one with \"aither-node models pull {EMBEDDING_MODEL}\""),
        _ => format!("served: {}", served.join(", ")),
    }
}

/// What came of a request.
#[derive(Debug, Clone)]
pub struct Embedded {
    /// The model that ran.
    pub model: String,
    /// In the order of the texts.
    pub embeddings: Vec<Embedding>,
    /// Model tokens that were read.
    pub prompt_tokens: usize,
    /// What was charged.
    pub cost: Amount,
    /// How long the model took to load, if it was not there.
    pub load_time: Duration,
}

/// What is asked of texts that are longer than what a model reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LongTexts {
    /// Their beginning counts.
    Cut,
    /// The request is refused.
    Refuse,
}

/// The front of the encoders; clones share it.
#[derive(Debug, Clone)]
pub struct EmbeddingService {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    models: RwLock<Models>,
    /// Held by whoever loads one.
    loading: Mutex<()>,
    preparing: Gate,
    billing: Billing,
    aliases: BTreeMap<String, String>,
    config: EmbedderConfig,
    timeout: Duration,
}

#[derive(Debug, Default)]
struct Models {
    known: BTreeMap<String, ModelInfo>,
    /// What answers when a request names none.
    default: Option<String>,
    loaded: Option<(ModelInfo, Embedder)>,
}

impl EmbeddingService {
    /// Makes the service, without models. `threads` of 0 takes one per core.
    pub fn new(
        billing: Billing,
        aliases: BTreeMap<String, String>,
        threads: usize,
        timeout: Duration,
    ) -> Self {
        let config = EmbedderConfig {
            threads,
            ..EmbedderConfig::default()
        };
        Self {
            shared: Arc::new(Shared {
                models: RwLock::default(),
                loading: Mutex::default(),
                preparing: Gate::new(PREPARING_MAX, PREPARING_WAITING_MAX),
                billing,
                aliases,
                config,
                timeout,
            }),
        }
    }

    /// Returns whether a file holds an encoder, not a model that writes text. Reads its header.
    pub fn is_encoder(path: &Path) -> bool {
        let architecture = Gguf::open(path).and_then(|file| file.info());
        architecture.is_ok_and(|info| info.architecture == ARCHITECTURE)
    }

    /// Makes an encoder known under a name, replacing an earlier file of that name. Reads and
    /// checks the file's header, not its weights.
    ///
    /// # Errors
    /// The file cannot be read, is malformed, or is of a kind that this build cannot run.
    pub fn register(&self, name: &str, path: &Path) -> Result<ModelInfo, Error> {
        let gguf = Gguf::open(path)?;
        let description = BertDescription::from_gguf(&gguf)?;
        let info = gguf.info()?;
        let info = ModelInfo {
            name: name.to_owned(),
            path: path.to_owned(),
            size_bytes: gguf.size_bytes(),
            architecture: info.architecture,
            title: info.title,
            parameters: info.parameters,
            quantization: info.quantization,
            context_length: description.context_length,
            embedding_length: description.width,
            chat_template: None,
        };
        let mut models = self.write();
        models.forget(name);
        models.known.insert(name.to_owned(), info.clone());
        Ok(info)
    }

    /// Forgets an encoder; requests that run end as they would have.
    pub fn unregister(&self, name: &str) {
        self.write().forget(name);
    }

    /// Says what answers when a request names no model.
    pub fn set_default(&self, name: &str) {
        self.write().default = Some(name.to_owned());
    }

    /// Returns the encoders that are served, by name.
    pub fn models(&self) -> Vec<ModelInfo> {
        self.read().known.values().cloned().collect()
    }

    /// Returns whether an encoder is in memory.
    pub fn is_loaded(&self, name: &str) -> bool {
        let models = self.read();
        let loaded = models.loaded.as_ref();
        loaded.is_some_and(|(info, _)| info.name == name)
    }

    /// Returns the encoder of exactly that name, but for the tag.
    pub fn served(&self, name: &str) -> Option<ModelInfo> {
        let models = self.read();
        spellings(name).find_map(|name| models.known.get(&*name).cloned())
    }

    /// Returns the encoder that a request means; `None` and the empty name mean the default.
    ///
    /// # Errors
    /// [`EmbeddingModelNotFound`] with the names that are served.
    pub fn resolve(&self, name: Option<&str>) -> Result<ModelInfo, EmbeddingModelNotFound> {
        let name = name.map(str::trim).filter(|name| !name.is_empty());
        let found = match name {
            None => self.default(),
            Some(name) => self.served(name).or_else(|| {
                let mut targets = spellings(name).map(|name| self.shared.aliases.get(&*name));
                match targets.find_map(|target| target) {
                    Some(target) => self.served(target),
                    None => {
                        let is_built_in = |name: &str| BUILT_IN_ALIASES.contains(&name);
                        let stands_for_default = spellings(name).any(|name| is_built_in(&name));
                        stands_for_default.then(|| self.default()).flatten()
                    }
                }
            }),
        };
        found.ok_or_else(|| EmbeddingModelNotFound {
            name: name
                .unwrap_or(EMBEDDING_MODEL)
                .chars()
                .take(MODEL_NAME_BYTES_MAX)
                .collect(),
            served: self.read().known.keys().cloned().collect(),
        })
    }

    /// What answers when a request names no model: the chosen one, else the one that is fetched
    /// with the node, else the first.
    fn default(&self) -> Option<ModelInfo> {
        let models = self.read();
        let chosen = models.default.as_deref().unwrap_or(EMBEDDING_MODEL);
        let found = models.known.get(chosen);
        found.or_else(|| models.known.values().next()).cloned()
    }

    /// Returns the embedder of an encoder, loading it if it is not there.
    ///
    /// # Errors
    /// There is no such encoder, or it cannot be loaded.
    pub async fn embedder(&self, name: Option<&str>) -> Result<Embedder, LlmError> {
        let info = self.resolve(name)?;
        self.open(&info).await
    }

    async fn open(&self, info: &ModelInfo) -> Result<Embedder, LlmError> {
        if let Some(embedder) = self.loaded(info) {
            return Ok(embedder);
        }
        let _turn = self.shared.loading.lock().await;
        if let Some(embedder) = self.loaded(info) {
            return Ok(embedder);
        }
        let (path, config) = (info.path.clone(), self.shared.config.clone());
        let loading = tokio::task::spawn_blocking(move || Embedder::open(&path, config));
        let embedder = loading.await.map_err(|_panicked| LlmError::Dropped)??;
        tracing::info!(model = info.name, "loaded");
        let mut models = self.write();
        // One that was forgotten meanwhile serves this request only.
        if models
            .known
            .get(&info.name)
            .is_some_and(|known| is_same(known, info))
        {
            models.loaded = Some((info.clone(), embedder.clone()));
        }
        Ok(embedder)
    }

    fn loaded(&self, info: &ModelInfo) -> Option<Embedder> {
        let models = self.read();
        let (loaded, embedder) = models.loaded.as_ref()?;
        is_same(loaded, info).then(|| embedder.clone())
    }

    /// Loads the default encoder, if there is one.
    ///
    /// # Errors
    /// It cannot be loaded.
    pub async fn preload(&self) -> Result<(), LlmError> {
        match self.default() {
            Some(info) => self.open(&info).await.map(|_| ()),
            None => Ok(()),
        }
    }

    /// Embeds texts, paid for.
    ///
    /// # Errors
    /// There is no such model, it cannot be loaded, the payer has too little, too much waits, a
    /// text is too long where that is to be refused, or nothing came in time.
    pub async fn embed(
        &self,
        name: Option<&str>,
        texts: Vec<String>,
        long: LongTexts,
        payment: &Payment,
    ) -> Result<Embedded, LlmError> {
        let info = self.resolve(name)?;
        self.check_funds(&info, texts.len(), payment)?;
        let begun = Instant::now();
        let embedder = self.open(&info).await?;
        let load_time = begun.elapsed();
        let preparing = {
            let embedder = embedder.clone();
            let prepare = move || embedder.prepare(&texts);
            self.shared.preparing.run(prepare)
        };
        let prepared = preparing.await.map_err(|error| match error {
            GateError::Full { retry_after } => LlmError::Engine(Error::QueueFull { retry_after }),
            GateError::Panicked => LlmError::Dropped,
        })??;
        if let (LongTexts::Refuse, Some(index)) = (long, prepared.first_truncated()) {
            return Err(Error::InvalidRequest {
                field: "input",
                message: format!(
                    "text {index} is longer than the {} model tokens that are read; shorten it, or \
                     have it cut",
                    embedder.max_tokens()
                ),
            }
            .into());
        }
        let prompt_tokens = prepared.prompt_tokens();
        let run = self.run(&embedder, &info, prepared, payment);
        let (embeddings, cost) = match timeout(self.shared.timeout, run).await {
            Ok(done) => done?,
            Err(_elapsed) => {
                let after = self.shared.timeout;
                return Err(LlmError::TimedOut { after });
            }
        };
        Ok(Embedded {
            model: info.name,
            embeddings,
            prompt_tokens,
            cost,
            load_time,
        })
    }

    /// Holds the cost, embeds, and waits until it is charged.
    async fn run(
        &self,
        embedder: &Embedder,
        info: &ModelInfo,
        prepared: Prepared,
        payment: &Payment,
    ) -> Result<(Vec<Embedding>, Amount), LlmError> {
        let is_small = prepared.len() == 1 && prepared.prompt_tokens() <= QUERY_TOKENS_MAX;
        let urgency = match is_small {
            true => Urgency::Query,
            false => Urgency::Bulk,
        };
        let tokens = u64::try_from(prepared.prompt_tokens()).unwrap_or(u64::MAX);
        let (sender, charged) = oneshot::channel();
        let charge = self.bill(info, tokens, payment, sender).await?;
        let (sender, done) = oneshot::channel();
        let sink = Sink {
            sender,
            charge,
            prompt_tokens: prepared.prompt_tokens(),
        };
        embedder.submit(prepared, urgency, Box::new(sink))?;
        let embeddings = done.await.map_err(|_gone| LlmError::Dropped)??;
        let cost = charged.await.map_err(|_gone| LlmError::Dropped)??;
        Ok((embeddings, cost))
    }

    /// Refuses a payer who could not even pay for so many empty texts.
    fn check_funds(
        &self,
        info: &ModelInfo,
        texts: usize,
        payment: &Payment,
    ) -> Result<(), LlmError> {
        // What is charged already is not to be paid again.
        if payment.operation.is_some_and(|done| done.charged.is_some()) {
            return Ok(());
        }
        let billing = &self.shared.billing;
        let (price, _) = billing.prices().price(&info.name, info.parameters);
        let tokens = texts.saturating_mul(EMPTY_TEXT_TOKENS);
        let least = price.cost(u64::try_from(tokens).unwrap_or(u64::MAX), 0);
        if least.is_zero() {
            return Ok(());
        }
        let spendable = billing.spendable_if_bounded(payment.payer, &payment.allowances)?;
        match spendable {
            Some(spendable) if spendable.amount() < least => {
                Err(spendable.exceeded_by(least).into())
            }
            _ => Ok(()),
        }
    }

    /// Holds what so many model tokens cost.
    async fn bill(
        &self,
        info: &ModelInfo,
        prompt_tokens: u64,
        payment: &Payment,
        sender: oneshot::Sender<Result<Amount, BillingError>>,
    ) -> Result<Charge, LlmError> {
        let billing = &self.shared.billing;
        let (price, version) = billing.prices().price(&info.name, info.parameters);
        let amount = price.cost(prompt_tokens, 0);
        if let Some(max_cost) = payment.max_cost.filter(|max_cost| amount > *max_cost) {
            return Err(LlmError::Billing(BillingError::AboveMaxCost {
                required: amount,
                max_cost,
            }));
        }
        let estimate = Estimate {
            answer_tokens_max: 0,
            amount,
        };
        let funds = billing.hold_for(payment, estimate).await?;
        let usage = usage_of(payment, &info.name, version);
        Ok(Charge::new(funds, price, usage, 1, move |charged| {
            // The receiver may be gone, which changes nothing about the charge.
            let _ = sender.send(charged);
        }))
    }

    // Every critical section leaves the state whole, so a panic elsewhere does not spoil it.
    fn read(&self) -> RwLockReadGuard<'_, Models> {
        let models = self.shared.models.read();
        models.unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Models> {
        let models = self.shared.models.write();
        models.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Models {
    fn forget(&mut self, name: &str) {
        self.known.remove(name);
        if self
            .loaded
            .as_ref()
            .is_some_and(|(info, _)| info.name == name)
        {
            self.loaded = None;
        }
    }
}

/// Whether a name still means the same file.
fn is_same(one: &ModelInfo, other: &ModelInfo) -> bool {
    let essence = |info: &ModelInfo| (info.name.clone(), info.path.clone(), info.size_bytes);
    essence(one) == essence(other)
}

/// Takes the vectors of a request, and settles its bill.
struct Sink {
    sender: oneshot::Sender<Result<Vec<Embedding>, Error>>,
    charge: Charge,
    prompt_tokens: usize,
}

impl EmbeddingSink for Sink {
    fn is_wanted(&self) -> bool {
        let is_wanted = !self.sender.is_closed();
        if !is_wanted {
            // It will be let go of without a result, which pays nothing.
            self.charge.fail();
        }
        is_wanted
    }

    fn finish(self: Box<Self>, result: Result<Vec<Embedding>, Error>) {
        match &result {
            Ok(_) => self.charge.add(&GenerationStats {
                prompt_tokens: self.prompt_tokens,
                ..GenerationStats::default()
            }),
            Err(_) => self.charge.fail(),
        }
        // Whoever asked may be gone; what was made is paid.
        let _ = self.sender.send(result);
    }
}
