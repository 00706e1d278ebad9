//! The node: builds every part, owns their tasks, stops them in order.
//!
//! Start: lock the directory, read keys, open the stores, start the engine, bind, serve. Only then
//! are models loaded, so that `/health` and `/ready` answer meanwhile; with the last one loaded
//! the node is ready and says so in `run.json`. Stop: accept nothing, let requests finish, stop
//! the engine, take `run.json` back. A part that ends by itself stops the node with a reason.

use std::{
    future::pending,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use aither_inference::{
    Engine, EngineConfig, GenerationEvent,
    engine::{EventSink, Flow},
};
use tokio::{sync::oneshot, task::JoinHandle, time};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    agents::AgentId,
    answers::{AnswerLimits, AnswerStore},
    api::{self, ApiParts, ApiState},
    billing::{self, Billing, ModelPrice, PriceBook, Welcome},
    calls,
    config::{Config, DRAIN_TIMEOUT},
    data_dir::{self, DataDir, RunInfo},
    error::NodeError,
    events::LogLimits,
    files,
    identity::{AdminKey, NodeIdentity},
    machine::watch_memory,
    memory::{MemoryLimits, MemoryStore},
    models::{DownloadLimits, ModelStore, import::sha256_of_file},
    server::Server,
    services::{
        AccountHook, AccountService, AgentService, CallService, DocumentService, EmbeddingService,
        EventService, MemoryService, Readiness, ReadyState, Targets, Tools, WorkspaceService,
        calls::settled_request,
    },
    signals::Signals,
};

/// Part of the drain time that is kept for stopping the engine and the process itself.
const STOP_RESERVE: Duration = Duration::from_secs(2);

/// Longest wait for requests to finish by themselves; what is left until the drain time ends is
/// for their last words.
const ENGINE_PATIENCE: Duration = Duration::from_secs(16);

/// Time between two looks for what has expired.
const EXPIRY_PERIOD: Duration = Duration::from_secs(60);

/// A running node.
#[derive(Debug)]
pub struct Node {
    config: Config,
    data_dir: DataDir,
    identity: NodeIdentity,
    engine: Engine,
    parts: Parts,
    /// Requests that go on without their clients.
    tasks: TaskTracker,
    readiness: Readiness,
    address: SocketAddr,
    /// The models to load before the node is ready.
    preload: Vec<String>,
    shutdown: CancellationToken,
    server: Option<JoinHandle<()>>,
}

/// What is opened before anything runs; clones share it.
#[derive(Debug, Clone)]
struct Parts {
    embeddings: EmbeddingService,
    models: ModelStore,
    accounts: AccountService,
    agents: AgentService,
    calls: CallService,
    memory: MemoryService,
    events: EventService,
    workspaces: WorkspaceService,
    billing: Billing,
    answers: AnswerStore,
    tools: Tools,
}

impl Parts {
    async fn open(
        config: &Config,
        data_dir: &DataDir,
        identity: &NodeIdentity,
    ) -> Result<Self, NodeError> {
        let models = open_models(config, data_dir)?;
        let billing = open_billing(config, data_dir)?;
        let events = open_events(config, data_dir)?;
        events.follow_payments(&billing);
        let answers = open_answers(data_dir, &billing)?;
        let accounts = open_accounts(config, data_dir, &billing)?;
        let embeddings = open_embeddings(config, &models, &billing)?;
        let memory = open_memory(config, data_dir)?;
        memory.find_by_meaning(&embeddings).await?;
        let mates = (&accounts, memory.store(), &events);
        let agents = open_agents(config, data_dir, mates, identity)?;
        let workspaces = open_workspaces(config, data_dir, &agents)?;
        let names = [identity.id().to_string(), config.node_name()];
        let calls = CallService::open(agents.clone(), billing.clone(), events.clone(), names)?;
        Ok(Self {
            embeddings,
            models,
            accounts,
            agents,
            calls,
            memory,
            events,
            workspaces,
            billing,
            answers,
            tools: open_tools(config, data_dir)?,
        })
    }
}

impl Node {
    /// Builds every part and serves; models are not loaded yet.
    ///
    /// # Errors
    /// Any part's refusal; what was started before it is stopped by being dropped.
    pub async fn start(config: Config) -> Result<Self, NodeError> {
        let data_dir = DataDir::open(&config.data_dir)?;
        let (identity, admin_key) = load_keys(&data_dir)?;
        // Bound early: a taken port should not cost the user the loading of a model.
        let server = Server::bind(&config.http).await?;
        let parts = Parts::open(&config, &data_dir, &identity).await?;
        let tasks = TaskTracker::new();
        let chosen = choose_models(&parts.models, &config.models.serve)?;
        let engine = Engine::start(EngineConfig::from(&config.inference))?;
        register_models(&engine, &parts.embeddings, &parts.models, &chosen)?;
        let readiness = Readiness::new();
        let shutdown = CancellationToken::new();
        let address = server.address();
        let router = api::router(ApiState::new(ApiParts {
            engine: engine.clone(),
            embeddings: parts.embeddings.clone(),
            models: parts.models.clone(),
            accounts: parts.accounts.clone(),
            agents: parts.agents.clone(),
            calls: parts.calls.clone(),
            memory: parts.memory.clone(),
            events: parts.events.clone(),
            workspaces: parts.workspaces.clone(),
            documents: DocumentService::new(data_dir.path(), config.files.document_bytes_max),
            tools: parts.tools.clone(),
            billing: parts.billing.clone(),
            data_dir: data_dir.path().to_owned(),
            answers: parts.answers.clone(),
            tasks: tasks.clone(),
            http: config.http.clone(),
            admin_key: Arc::new(admin_key),
            aliases: config.aliases.clone(),
            default_model: config.default_model.clone(),
            peer_id: identity.id().to_string(),
            node_name: config.node_name(),
            readiness: readiness.clone(),
        }));
        let drain = DRAIN_TIMEOUT.saturating_sub(STOP_RESERVE);
        let serving = tokio::spawn(server.serve(router, shutdown.clone(), drain));
        hash_in_background(&parts.models);
        tracing::info!(
            http = data_dir::local_url(address),
            peer = %identity.id(),
            backend = engine.status().backend,
            "serving"
        );
        let preload = preload_names(&config, &parts.models, chosen);
        Ok(Self {
            config,
            data_dir,
            identity,
            engine,
            parts,
            tasks,
            readiness,
            address,
            preload,
            shutdown,
            server: Some(serving),
        })
    }

    /// Returns the base URL of the HTTP API, as this machine reaches it.
    pub fn url(&self) -> String {
        data_dir::local_url(self.address)
    }

    /// Becomes ready and works until a signal, or until a part fails; then stops.
    ///
    /// # Errors
    /// The part that failed, or that a second signal cut the stopping short.
    pub async fn run(mut self, mut signals: Signals) -> Result<(), NodeError> {
        let outcome = self.work(&mut signals).await;
        self.readiness.set(ReadyState::Draining);
        tokio::select! {
            biased;
            () = signals.next() => {
                self.data_dir.remove_run_info();
                Err(NodeError::Interrupted { hint: " a second time: open requests were cut off" })
            }
            () = self.stop() => outcome,
        }
    }

    async fn work(&mut self, signals: &mut Signals) -> Result<(), NodeError> {
        let mut server = self.server.take();
        let serving = async {
            match &mut server {
                Some(serving) => serving.await,
                None => pending().await,
            }
        };
        let ready_forever = async {
            // Watched first: what is loaded at the start must find room too.
            let watching = async {
                watch_memory(self.engine.clone()).await;
                Ok(())
            };
            tokio::try_join!(watching, self.become_ready()).map(|_| ())
        };
        let outcome = tokio::select! {
            biased;
            () = signals.next() => Ok(()),
            ended = serving => Err(NodeError::PartFailed {
                part: "the HTTP server",
                message: match ended {
                    Ok(()) => "it ended by itself".to_owned(),
                    Err(error) => error.to_string(),
                },
            }),
            failed = pin!(ready_forever) => failed,
            () = self.parts.accounts.maintain() => Ok(()),
            () = self.parts.agents.maintain() => Ok(()),
            () = self.expire() => Ok(()),
        };
        self.server = server;
        outcome
    }

    /// Has holds, answers, memories and events end whose time is over, and purges that were cut
    /// off.
    async fn expire(&self) {
        let mut ticks = time::interval(EXPIRY_PERIOD);
        loop {
            ticks.tick().await;
            self.parts.billing.expire_holds();
            // Its thread logs what fails; the next request with a key is refused with words.
            let _ = self.parts.answers.sweep(billing::now().0).await;
            let tasks = &self.config.calls;
            (self.parts.calls).forget(tasks.task_retention, tasks.task_bytes_max);
            self.parts.memory.sweep();
            // Its thread logs what fails.
            let _ = self.parts.events.sweep().await;
            self.parts.agents.finish_purges().await;
        }
    }

    /// Loads models, then tells the world.
    async fn become_ready(&self) -> Result<(), NodeError> {
        let started = Instant::now();
        for name in &self.preload {
            match preload(&self.engine, name).await {
                Ok(()) => tracing::info!(model = name, "loaded"),
                // The others can be served, and this one may load once there is room.
                Err(error) => tracing::warn!(model = name, %error, "cannot load the model"),
            }
        }
        if self.config.models.preload
            && let Err(error) = self.parts.embeddings.preload().await
        {
            tracing::warn!(%error, "cannot load the embedding model");
        }
        if self.engine.models().is_empty() {
            tracing::warn!(
                "there is no model to serve: run \"aither-node models pull {}\"",
                self.config.default_model
            );
        }
        self.readiness.set(ReadyState::Ready);
        self.data_dir.write_run_info(&RunInfo {
            pid: std::process::id(),
            http: self.url(),
            peer_id: self.identity.id().to_string(),
            listen: Vec::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })?;
        tracing::info!(
            http = self.url(),
            models = self.parts.models.list().len(),
            load_seconds = started.elapsed().as_secs_f32(),
            "ready"
        );
        Ok(())
    }

    /// Stops every part in order, within the drain time.
    async fn stop(&mut self) {
        tracing::info!("stopping; a second signal leaves at once");
        self.shutdown.cancel();
        // They have no end of their own, and would hold the drain until its time is over.
        self.parts.events.close();
        self.parts.calls.stop();
        self.tasks.close();
        let until = time::Instant::now() + ENGINE_PATIENCE;
        if let Some(mut serving) = self.server.take()
            && !serving.is_finished()
        {
            let ended = match time::timeout_at(until, &mut serving).await {
                Ok(ended) => ended,
                Err(_) => {
                    // Ended by the engine, so that its clients are told why, not just cut off.
                    self.stop_engine().await;
                    serving.await
                }
            };
            if let Err(error) = ended {
                tracing::error!(%error, "the HTTP server failed while stopping");
            }
        }
        // Those whose clients are gone have as long, and then, once the engine has ended them, a
        // moment for their last words.
        let _ = time::timeout_at(until, self.tasks.wait()).await;
        self.stop_engine().await;
        if time::timeout(STOP_RESERVE / 2, self.tasks.wait())
            .await
            .is_err()
        {
            let requests = self.tasks.len();
            tracing::warn!(requests, "requests without clients were cut off");
        }
        // Their readers are gone, so all that is left of them is to write that they have ended.
        let _ = time::timeout(STOP_RESERVE / 2, self.parts.calls.ended()).await;
        self.parts.accounts.flush().await;
        self.parts.agents.stop().await;
        // It is waited for until its batch ends; what it did not come to is done after the start.
        let memory = self.parts.memory.clone();
        let _ = tokio::task::spawn_blocking(move || memory.stop_index()).await;
        // What the last requests have told is to be there.
        let _ = self.parts.events.sweep().await;
        self.data_dir.remove_run_info();
        tracing::info!("stopped");
    }

    /// Ends what is still generated; a second call finds nothing to do.
    async fn stop_engine(&self) {
        let engine = self.engine.clone();
        let stopping = tokio::task::spawn_blocking(move || engine.shutdown(Duration::ZERO));
        if let Err(error) = stopping.await {
            tracing::error!(%error, "the inference engine failed while stopping");
        }
    }
}

fn load_keys(data_dir: &DataDir) -> Result<(NodeIdentity, AdminKey), NodeError> {
    let identity_path = data_dir::identity_path(data_dir.path());
    let admin_key_path = data_dir::admin_key_path(data_dir.path());
    let identity = NodeIdentity::load_or_create(&identity_path)?;
    let admin_key = AdminKey::load_or_create(&admin_key_path)?;
    files::warn_if_readable_by_others(&identity_path);
    files::warn_if_readable_by_others(&admin_key_path);
    Ok((identity, admin_key))
}

fn open_accounts(
    config: &Config,
    data_dir: &DataDir,
    billing: &Billing,
) -> Result<AccountService, NodeError> {
    let path = data_dir::accounts_path(data_dir.path());
    let welcome: Arc<dyn AccountHook> = Arc::new(Welcome(billing.clone()));
    let config = config.accounts.clone();
    Ok(AccountService::open(&path, config, Some(welcome))?)
}

fn open_models(config: &Config, data_dir: &DataDir) -> Result<ModelStore, NodeError> {
    let limits = DownloadLimits {
        file_bytes_max: config.models.file_bytes_max,
        ..DownloadLimits::default()
    };
    Ok(ModelStore::open(data_dir.path(), limits)?)
}

fn open_agents(
    config: &Config,
    data_dir: &DataDir,
    (accounts, memory, events): (&AccountService, &MemoryStore, &EventService),
    identity: &NodeIdentity,
) -> Result<AgentService, NodeError> {
    let path = data_dir::registry_path(data_dir.path());
    // Whoever reaches a node on loopback is on this machine, unless a proxy stands before it.
    let is_local = config.http.bind.ip().is_loopback() && config.http.public_url.is_none();
    let targets = match is_local {
        true => Targets::Any,
        false => Targets::Public,
    };
    let accounts = accounts.clone();
    let memory = Some(memory.clone());
    let events = events.clone();
    Ok(AgentService::open(
        &path, accounts, identity, targets, memory, events,
    )?)
}

fn open_workspaces(
    config: &Config,
    data_dir: &DataDir,
    agents: &AgentService,
) -> Result<WorkspaceService, NodeError> {
    let owner_of = |agent| {
        agents
            .owner_of(AgentId::from_u128(agent))
            .map(|owner| owner.0)
    };
    let artifact_bytes_max = config.files.artifact_bytes_max;
    let workspaces = WorkspaceService::open(data_dir.path(), artifact_bytes_max, owner_of)?;
    agents.forget_files_of(workspaces.clone());
    Ok(workspaces)
}

fn open_memory(config: &Config, data_dir: &DataDir) -> Result<MemoryService, NodeError> {
    let path = data_dir::memory_path(data_dir.path());
    let limits = MemoryLimits::from(&config.memory);
    let index_bytes_max = usize::try_from(config.memory.index_memory).unwrap_or(usize::MAX);
    Ok(MemoryService::open(&path, limits, index_bytes_max)?)
}

fn open_events(config: &Config, data_dir: &DataDir) -> Result<EventService, NodeError> {
    let path = data_dir::events_path(data_dir.path());
    Ok(EventService::open(&path, LogLimits::from(&config.events))?)
}

fn open_billing(config: &Config, data_dir: &DataDir) -> Result<Billing, NodeError> {
    let configured = config.billing.prices.iter().map(|(model, price)| {
        let price = ModelPrice {
            prompt_per_1k: price.prompt_per_1k,
            completion_per_1k: price.completion_per_1k,
        };
        (model.clone(), price)
    });
    let prices_path = data_dir::prices_path(data_dir.path());
    let prices = PriceBook::open(&prices_path, configured.collect(), billing::now().0)?;
    let ledger_path = data_dir::ledger_path(data_dir.path());
    Ok(Billing::open(
        &ledger_path,
        &config.billing,
        prices,
        calls::end_left,
    )?)
}

fn open_tools(config: &Config, data_dir: &DataDir) -> Result<Tools, NodeError> {
    let tools = Tools::new(config, &data_dir::search_index_path(data_dir.path()))?;
    tools.code.warn_of_missing();
    Ok(tools)
}

fn open_answers(data_dir: &DataDir, billing: &Billing) -> Result<AnswerStore, NodeError> {
    let view = billing.view()?;
    let settled = |id| settled_request(&view, id);
    let path = data_dir::answers_path(data_dir.path());
    Ok(AnswerStore::open(&path, AnswerLimits::default(), settled)?)
}

/// Makes the encoders known: the one that the operator named, else those of the store. They are
/// served whatever `--model` names.
fn open_embeddings(
    config: &Config,
    models: &ModelStore,
    billing: &Billing,
) -> Result<EmbeddingService, NodeError> {
    let (aliases, threads) = (config.aliases.clone(), config.inference.threads);
    let timeout = config.http.request_timeout;
    let service = EmbeddingService::new(billing.clone(), aliases, threads, timeout);
    let usage = |error: String| NodeError::Usage {
        message: format!("--embedding-model: {error}"),
    };
    if !config.models.embedding.is_empty() {
        let entry = models.find(&config.models.embedding);
        let entry = entry.map_err(|error| usage(error.to_string()))?;
        let registered = service.register(&entry.name, &entry.path);
        registered.map_err(|error| usage(error.to_string()))?;
        service.set_default(&entry.name);
        return Ok(service);
    }
    for entry in models.list() {
        if EmbeddingService::is_encoder(&entry.path)
            && let Err(error) = service.register(&entry.name, &entry.path)
        {
            tracing::warn!(model = entry.name, %error, "the model cannot be served");
        }
    }
    Ok(service)
}

/// Restricts the store to what the operator named; no names mean no restriction.
fn choose_models(models: &ModelStore, serve: &[String]) -> Result<Vec<String>, NodeError> {
    if serve.is_empty() {
        return Ok(Vec::new());
    }
    models.serve_only(serve).map_err(|error| NodeError::Usage {
        message: format!("--model: {error}"),
    })
}

/// Makes the models known to the engine. One that was asked for by name must be usable; a stored
/// one that is not, is left out with a warning.
fn register_models(
    engine: &Engine,
    embeddings: &EmbeddingService,
    models: &ModelStore,
    chosen: &[String],
) -> Result<(), NodeError> {
    models.choose_too(embeddings.models().into_iter().map(|info| info.name));
    for entry in models.list() {
        if EmbeddingService::is_encoder(&entry.path) {
            if chosen.contains(&entry.name) && embeddings.served(&entry.name).is_none() {
                let registered = embeddings.register(&entry.name, &entry.path);
                registered.map_err(|error| NodeError::Usage {
                    message: format!("--model {}: {error}", entry.name),
                })?;
            }
            continue;
        }
        match engine.register(&entry.name, &entry.path) {
            Ok(_) => {}
            Err(error) if chosen.contains(&entry.name) => {
                return Err(NodeError::Usage {
                    message: format!("--model {}: {error}", entry.name),
                });
            }
            Err(error) => {
                tracing::warn!(model = entry.name, %error, "the model cannot be served");
            }
        }
    }
    Ok(())
}

fn preload_names(config: &Config, models: &ModelStore, chosen: Vec<String>) -> Vec<String> {
    if !config.models.preload {
        Vec::new()
    } else if chosen.is_empty() {
        let default = models.get(&config.default_model);
        default.into_iter().map(|entry| entry.name).collect()
    } else {
        // Encoders are loaded by their own service.
        let is_encoder = |name: &String| {
            let entry = models.get(name);
            entry.is_some_and(|entry| EmbeddingService::is_encoder(&entry.path))
        };
        chosen
            .into_iter()
            .filter(|name| !is_encoder(name))
            .collect()
    }
}

async fn preload(engine: &Engine, name: &str) -> Result<(), aither_inference::Error> {
    let (sender, receiver) = oneshot::channel();
    let mut sender = Some(sender);
    let sink: EventSink = Box::new(move |event| {
        let outcome = match event {
            GenerationEvent::Done(_) => Ok(()),
            GenerationEvent::Failed(error) => Err(error),
            _ => return Flow::Continue,
        };
        if let Some(sender) = sender.take() {
            // The node may be stopping and no longer wait.
            let _ = sender.send(outcome);
        }
        Flow::Continue
    });
    engine.preload(name, None, sink)?;
    receiver
        .await
        .unwrap_or(Err(aither_inference::Error::ShuttingDown))
}

/// Computes the checksums of files used in place; nothing waits for them.
fn hash_in_background(models: &ModelStore) {
    let models = models.clone();
    let pending: Vec<_> = models
        .list()
        .into_iter()
        .filter(|entry| entry.sha256.is_empty())
        .collect();
    if pending.is_empty() {
        return;
    }
    // A thread of its own: nobody awaits it, and the process may end before it does.
    std::thread::spawn(move || {
        for entry in pending {
            match sha256_of_file(&entry.path, |_| {}) {
                Ok(sha256) => models.set_in_place_sha256(&entry.name, sha256),
                Err(error) => tracing::warn!(model = entry.name, %error, "no checksum"),
            }
        }
    });
}
