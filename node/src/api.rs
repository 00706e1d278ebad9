//! The HTTP API: the node's own routes, OpenAI's and Ollama's, in one router.
//!
//! Each dialect has a file of types and a file of handlers; handlers translate and call
//! `services`. What holds for every request stands here, as layers, from the outside in: request
//! id, metrics, the shape of errors, panics, authentication, idempotency keys. The routes and
//! `/openapi.json` come from the same `OpenApiRouter`, so neither can have what the other lacks.
//!
//! The server that accepts connections must insert `ConnectInfo<SocketAddr>`; without it nobody
//! counts as local.

mod accounts;
mod accounts_types;
mod admin_accounts;
mod admin_backup;
mod agents;
mod agents_lifecycle;
mod agents_types;
mod agents_v3;
mod artifacts;
mod auth;
mod base_url;
mod billing;
mod billing_types;
mod calls;
mod calls_stream;
mod calls_types;
mod code;
mod discovery;
mod discovery_text;
mod discovery_types;
mod docs;
mod documents;
mod embeddings;
mod error;
mod events;
mod events_types;
mod extract;
mod health;
mod http_fetch;
mod idempotency;
mod marketplace;
mod memory;
mod memory_codegraph;
mod memory_search;
mod memory_types;
mod metrics;
mod multipart;
mod native;
mod native_models;
mod native_types;
mod ollama;
mod ollama_models;
mod ollama_types;
mod openai_chat;
mod openai_completions;
mod openai_models;
mod openai_types;
mod page;
mod payment;
mod permit;
mod recorded;
mod request_id;
mod rules;
mod search;
mod stream;
mod tasks;
mod unread;
mod workspaces;

use std::{
    collections::BTreeMap,
    ops::Deref,
    path::PathBuf,
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use aither_inference::Engine;
use axum::{Router, extract::DefaultBodyLimit, middleware};
use tokio_util::task::TaskTracker;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi as _;
use utoipa_axum::{router::OpenApiRouter, routes};

pub use self::error::{ApiError, FieldError, Problem};
use self::metrics::HttpMetrics;
use crate::{
    answers::AnswerStore,
    billing::Billing,
    config::HttpConfig,
    identity::AdminKey,
    models::ModelStore,
    services::{
        AccountService, AgentService, CallService, CodegraphService, DocumentService,
        EmbeddingService, EventService, LlmService, MemoryService, ModelCatalog, Readiness, Tools,
        WorkspaceService,
    },
};

/// The version that `/health` and Ollama's clients are told.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the API is built from.
#[derive(Debug)]
pub struct ApiParts {
    /// Runs the models.
    pub engine: Engine,
    /// Runs those that make vectors.
    pub embeddings: EmbeddingService,
    /// Holds their files.
    pub models: ModelStore,
    /// Knows accounts and their keys.
    pub accounts: AccountService,
    /// Knows agents, their keys and tokens.
    pub agents: AgentService,
    /// Calls them.
    pub calls: CallService,
    /// What agents remember.
    pub memory: MemoryService,
    /// What happens.
    pub events: EventService,
    /// Files of agents and accounts.
    pub workspaces: WorkspaceService,
    /// Reads documents.
    pub documents: DocumentService,
    /// What agents use of the world.
    pub tools: Tools,
    /// Knows who pays what.
    pub billing: Billing,
    /// Where all of this is kept.
    pub data_dir: PathBuf,
    /// Keeps answers for whoever asks again.
    pub answers: AnswerStore,
    /// Work that goes on when its client is gone.
    pub tasks: TaskTracker,
    /// The section `http` of the configuration.
    pub http: HttpConfig,
    /// The operator's key.
    pub admin_key: Arc<AdminKey>,
    /// Names that stand for others where nobody serves them.
    pub aliases: BTreeMap<String, String>,
    /// The model of requests that name none.
    pub default_model: String,
    /// This node's id.
    pub peer_id: String,
    /// This node's name for people.
    pub node_name: String,
    /// Whether requests are taken.
    pub readiness: Readiness,
}

/// What handlers see; clones share it.
#[derive(Debug, Clone)]
pub struct ApiState {
    shared: Arc<Shared>,
}

/// The parts and what is made of them.
#[derive(Debug)]
pub struct Shared {
    engine: Engine,
    embeddings: EmbeddingService,
    models: ModelStore,
    accounts: AccountService,
    agents: AgentService,
    calls: CallService,
    memory: MemoryService,
    codegraph: CodegraphService,
    events: EventService,
    workspaces: WorkspaceService,
    documents: DocumentService,
    tools: Tools,
    billing: Billing,
    data_dir: PathBuf,
    answers: AnswerStore,
    tasks: TaskTracker,
    /// What requests with idempotency keys may hold of the machine.
    recording: recorded::Budget,
    http: HttpConfig,
    admin_key: Arc<AdminKey>,
    peer_id: String,
    node_name: String,
    readiness: Readiness,
    llm: LlmService,
    metrics: HttpMetrics,
    started: Instant,
}

impl ApiState {
    /// Puts the parts together.
    pub fn new(parts: ApiParts) -> Self {
        let catalog = ModelCatalog::new(
            parts.engine.clone(),
            parts.embeddings.clone(),
            parts.models.clone(),
            parts.billing.prices().clone(),
            parts.aliases,
            &parts.default_model,
        );
        let llm = LlmService::new(
            parts.engine.clone(),
            catalog,
            parts.billing.clone(),
            parts.http.request_timeout,
        );
        Self {
            shared: Arc::new(Shared {
                engine: parts.engine,
                embeddings: parts.embeddings,
                models: parts.models,
                accounts: parts.accounts,
                agents: parts.agents,
                calls: parts.calls,
                codegraph: CodegraphService::new(parts.memory.clone()),
                memory: parts.memory,
                events: parts.events,
                workspaces: parts.workspaces,
                documents: parts.documents,
                tools: parts.tools,
                billing: parts.billing,
                data_dir: parts.data_dir,
                answers: parts.answers,
                tasks: parts.tasks,
                recording: recorded::Budget::default(),
                http: parts.http,
                admin_key: parts.admin_key,
                peer_id: parts.peer_id,
                node_name: parts.node_name,
                readiness: parts.readiness,
                llm,
                metrics: HttpMetrics::default(),
                started: Instant::now(),
            }),
        }
    }
}

impl Deref for ApiState {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

/// Returns every route behind every layer.
pub fn router(state: ApiState) -> Router {
    let (router, mut document) = routes().split_for_parts();
    docs::name_operations(&mut document);
    docs::describe_idempotency(&mut document);
    let router = router.layer(axum::Extension(docs::OpenApiDocument::new(&document)));
    with_layers(router, state)
}

/// Puts around routes what holds for every request.
pub fn with_layers(router: Router<ApiState>, state: ApiState) -> Router {
    router
        .fallback(async || axum::http::StatusCode::NOT_FOUND)
        .layer(middleware::from_fn_with_state(
            state.clone(),
            idempotency::once,
        ))
        .layer(middleware::from_fn_with_state(
            state.clone(),
            auth::authenticate,
        ))
        .layer(CatchPanicLayer::custom(error::on_panic))
        .layer(middleware::from_fn(error::shape_errors))
        .layer(middleware::from_fn_with_state(
            state.clone(),
            metrics::measure,
        ))
        .layer(middleware::from_fn(request_id::assign_request_id))
        .layer(middleware::from_fn(unread::read_rest))
        .with_state(state)
}

/// Returns the OpenAPI document of the router.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let mut document = routes().into_openapi();
    docs::name_operations(&mut document);
    docs::describe_idempotency(&mut document);
    document
}

fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::with_openapi(docs::ApiDocument::openapi())
        .merge(inference_routes())
        .merge(account_routes())
        .merge(agent_routes())
        .routes(routes!(discovery::agents_document))
        .routes(routes!(discovery::skills_document))
        .routes(routes!(discovery::discovery))
        .routes(routes!(discovery::capabilities))
        .routes(routes!(discovery::agent_card_schema))
        .routes(routes!(discovery::agent_spec_schema))
        .merge(file_routes())
        .merge(memory_routes())
        .merge(lifecycle_routes())
        .merge(call_routes())
        .merge(marketplace_routes())
        .merge(event_routes())
        .merge(tool_routes())
        .routes(routes!(health::health))
        .routes(routes!(health::ready))
        .routes(routes!(metrics::metrics))
        .routes(routes!(docs::openapi_json))
        .routes(routes!(docs::docs_page))
        .routes(routes!(docs::root))
}

fn inference_routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(native::generate))
        .routes(routes!(native::chat))
        .routes(routes!(embeddings::native))
        .routes(routes!(native_models::import))
        .routes(routes!(openai_models::list))
        .routes(routes!(openai_models::retrieve))
        .routes(routes!(openai_chat::chat_completions))
        .routes(routes!(openai_completions::completions))
        .routes(routes!(embeddings::openai))
        .routes(routes!(ollama::chat))
        .routes(routes!(ollama::generate))
        .routes(routes!(embeddings::ollama))
        .routes(routes!(embeddings::ollama_legacy))
        .routes(routes!(ollama_models::tags))
        .routes(routes!(ollama_models::ps))
        .routes(routes!(ollama_models::show))
        .routes(routes!(ollama_models::pull))
        .routes(routes!(ollama_models::delete))
        .routes(routes!(ollama_models::version))
}

fn account_routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(accounts::register))
        .routes(routes!(accounts::login))
        .routes(routes!(accounts::refresh))
        .routes(routes!(accounts::me))
        .routes(routes!(accounts::keys))
        .routes(routes!(accounts::revoke_key))
        .routes(routes!(admin_accounts::list, admin_accounts::create))
        .routes(routes!(admin_accounts::update))
        .routes(routes!(admin_backup::back_up))
        .routes(routes!(billing::balance))
        .routes(routes!(billing::check))
        .routes(routes!(billing::deduct))
        .routes(routes!(billing::top_up))
        .routes(routes!(billing::usage))
        .routes(routes!(billing::statement))
        .routes(routes!(billing::prices, billing::set_price))
}

fn agent_routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(agents::auto_onboard))
        .routes(routes!(agents::list))
        .routes(routes!(agents::show, agents::tear_down))
        .routes(routes!(agents::connection_info))
        .routes(routes!(agents::replace_card))
        .routes(routes!(agents::rotate_key))
        .routes(routes!(agents::suspend))
        .routes(routes!(agents::resume))
        .routes(routes!(agents::spawn))
        .routes(routes!(agents::revoke_token))
        .routes(routes!(agents::rotate_token_key))
        .routes(routes!(agents_v3::onboard))
        .routes(routes!(agents_v3::onboard_quickly))
        .routes(routes!(agents_v3::show, agents_v3::tear_down))
        .routes(routes!(agents_v3::rotate_key))
        .routes(routes!(agents_v3::suspend))
        .routes(routes!(agents_v3::resume))
        .routes(routes!(agents_v3::audit))
}

fn marketplace_routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(marketplace::offers))
        .routes(routes!(marketplace::list, marketplace::unlist))
        .routes(routes!(marketplace::unlist_named))
}

fn file_routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(workspaces::write))
        .routes(routes!(workspaces::read))
        .routes(routes!(workspaces::list))
        .routes(routes!(workspaces::delete))
        .routes(routes!(artifacts::store))
        .routes(routes!(artifacts::list))
        .routes(routes!(artifacts::show, artifacts::delete))
        .routes(routes!(documents::analyze))
        // Bodies in parts are streams with bounds of their own.
        .layer(DefaultBodyLimit::disable())
}

fn lifecycle_routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(agents_lifecycle::lifecycle))
        .routes(routes!(agents_lifecycle::health))
        .routes(routes!(agents_lifecycle::drain))
        .routes(routes!(agents_lifecycle::usage))
}

fn call_routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(calls::chat))
        .routes(routes!(calls::call))
        .routes(routes!(tasks::begin))
        .routes(routes!(tasks::parallel))
        .routes(routes!(tasks::show, tasks::cancel))
        .routes(routes!(tasks::agent))
}

fn memory_routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(memory::write))
        .routes(routes!(memory::read))
        .routes(routes!(memory::delete))
        .routes(routes!(memory::list))
        .routes(routes!(memory::complete_task))
        .routes(routes!(memory_search::search))
        .routes(routes!(memory_codegraph::index))
        .routes(routes!(memory_codegraph::query))
}

fn event_routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(events::emit))
        .routes(routes!(events::subscribe))
        .routes(routes!(events::logs))
}

fn tool_routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(search::search))
        .routes(routes!(code::read))
        .routes(routes!(code::write))
        .routes(routes!(http_fetch::fetch))
}

/// Returns seconds since 1970, as OpenAI's `created` has them.
fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Returns a time as RFC 3339 in UTC.
fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_micros(time).to_string()
}
