//! A router as the tests use it: made of real parts, without a network and without a model.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use aither_inference::{
    Engine, EngineConfig,
    engine::{BackendChoice, Speculation},
};
use aither_node::{
    agents::AgentId,
    answers::{AnswerLimits, AnswerStore},
    api::{self, ApiParts, ApiState},
    billing::{Billing, PriceBook, Settled, Welcome},
    config::{AccountsConfig, BillingConfig, Config, HttpConfig},
    data_dir::{
        accounts_path, answers_path, events_path, ledger_path, memory_path, prices_path,
        registry_path, search_index_path,
    },
    events::LogLimits,
    identity::{AdminKey, NodeIdentity},
    memory::MemoryLimits,
    models::{DownloadLimits, ModelStore},
    services::{
        AccountHook, AccountService, AgentService, CallService, DocumentService, EmbeddingService,
        EventService, MemoryService, Readiness, Targets, Tools, WorkspaceService,
    },
};
use axum::{
    Router,
    body::{Body, to_bytes},
    extract::ConnectInfo,
    http::{HeaderMap, Request, StatusCode},
};
use serde_json::Value;
use tower::ServiceExt;

pub(crate) const KEY: &str = "aither_admin_0123456789abcdef0123456789abcdef";
pub(crate) const BODY_BYTES_MAX: usize = 16 * 1024;

pub(crate) const DOCUMENT_BYTES_MAX: u64 = 3 << 20;
pub(crate) const ARTIFACT_BYTES_MAX: u64 = 3 << 20;

pub(crate) struct Api {
    pub(crate) router: Router,
    pub(crate) accounts: AccountService,
    pub(crate) agents: AgentService,
    pub(crate) billing: Billing,
    pub(crate) calls: CallService,
    pub(crate) events: EventService,
    pub(crate) readiness: Readiness,
    _data_dir: tempfile::TempDir,
}

pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

pub(crate) fn api_with(http: HttpConfig) -> Api {
    api_made_by(http, api::router)
}

pub(crate) fn api_made_by(http: HttpConfig, make_router: impl FnOnce(ApiState) -> Router) -> Api {
    api_made_of(http, AccountsConfig::default(), make_router)
}

pub(crate) fn api_made_of(
    http: HttpConfig,
    accounts: AccountsConfig,
    make_router: impl FnOnce(ApiState) -> Router,
) -> Api {
    let config = Config {
        http,
        accounts,
        ..Config::default()
    };
    api_of_config(config, make_router)
}

pub(crate) fn api_of_config(config: Config, make_router: impl FnOnce(ApiState) -> Router) -> Api {
    let engine = small_engine();
    let data_dir = tempfile::tempdir().unwrap();
    let readiness = Readiness::new();
    let path = accounts_path(data_dir.path());
    let billing = billing_at(data_dir.path());
    let settled = |_| Ok(Settled::Never);
    let answers = answers_path(data_dir.path());
    let answers = AnswerStore::open(&answers, AnswerLimits::default(), settled).unwrap();
    let welcome: Arc<dyn AccountHook> = Arc::new(Welcome(billing.clone()));
    let accounts = AccountService::open(&path, config.accounts.clone(), Some(welcome)).unwrap();
    let memory = memory_at(data_dir.path());
    let agents = agents_at(data_dir.path(), &accounts, &memory);
    let events = EventService::open(&events_path(data_dir.path()), LogLimits::default()).unwrap();
    events.follow_payments(&billing);
    let owner_of = |agent| {
        agents
            .owner_of(AgentId::from_u128(agent))
            .map(|owner| owner.0)
    };
    let workspaces = WorkspaceService::open(data_dir.path(), ARTIFACT_BYTES_MAX, owner_of).unwrap();
    let tools = Tools::new(&config, &search_index_path(data_dir.path())).unwrap();
    let names = ["peer", "name"].map(str::to_owned);
    let calls = CallService::open(agents.clone(), billing.clone(), events.clone(), names).unwrap();
    let (aliases, http) = (config.aliases, config.http);
    let timeout = http.request_timeout;
    let state = ApiState::new(ApiParts {
        engine,
        embeddings: EmbeddingService::new(billing.clone(), aliases.clone(), 1, timeout),
        models: ModelStore::open(data_dir.path(), DownloadLimits::default()).unwrap(),
        accounts: accounts.clone(),
        agents: agents.clone(),
        calls: calls.clone(),
        memory,
        events: events.clone(),
        workspaces,
        documents: documents_at(data_dir.path()),
        tools,
        billing: billing.clone(),
        data_dir: data_dir.path().to_owned(),
        answers,
        tasks: tokio_util::task::TaskTracker::new(),
        http,
        admin_key: Arc::new(AdminKey::from_text(KEY.into())),
        aliases,
        default_model: "smollm2:135m".into(),
        peer_id: "peer".into(),
        node_name: "name".into(),
        readiness: readiness.clone(),
    });
    Api {
        router: make_router(state),
        accounts,
        agents,
        billing,
        calls,
        events,
        readiness,
        _data_dir: data_dir,
    }
}

fn small_engine() -> Engine {
    Engine::start(EngineConfig {
        backend: BackendChoice::Cpu,
        threads: 1,
        running_max: 1,
        queue_len_max: 1,
        memory_budget_bytes: 1 << 20,
        idle_unload: Duration::from_secs(60),
        context_length_max: 128,
        speculation: Speculation::Auto,
    })
    .unwrap()
}

fn documents_at(data_dir: &Path) -> DocumentService {
    // This process is no node, so it cannot start itself.
    let program = env!("CARGO_BIN_EXE_aither-node").into();
    DocumentService::with_program(program, data_dir, DOCUMENT_BYTES_MAX)
}

fn memory_at(data_dir: &Path) -> MemoryService {
    let (path, limits) = (memory_path(data_dir), MemoryLimits::default());
    MemoryService::open(&path, limits, 1 << 20).unwrap()
}

fn agents_at(data_dir: &Path, accounts: &AccountService, memory: &MemoryService) -> AgentService {
    let identity = NodeIdentity::generate().unwrap();
    let path = registry_path(data_dir);
    let (accounts, memory) = (accounts.clone(), Some(memory.store().clone()));
    let events = aither_node::services::EventService::default();
    AgentService::open(&path, accounts, &identity, Targets::Any, memory, events).unwrap()
}

fn billing_at(data_dir: &Path) -> Billing {
    let prices = PriceBook::open(&prices_path(data_dir), BTreeMap::new(), 1).unwrap();
    Billing::open(
        &ledger_path(data_dir),
        &BillingConfig::default(),
        prices,
        |_| None,
    )
    .unwrap()
}

pub(crate) fn api() -> Api {
    api_with(HttpConfig {
        body_bytes_max: BODY_BYTES_MAX,
        ..HttpConfig::default()
    })
}

impl Api {
    /// Sends a request as a local program would, with more headers.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Reply {
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "localhost:8200");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let peer: SocketAddr = "127.0.0.1:5555".parse().unwrap();
        let request = request
            .extension(ConnectInfo(peer))
            .body(body.into())
            .unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, 1 << 20).await.unwrap();
        Reply {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], Body::empty()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        let headers = [("content-type", "application/json")];
        self.send("POST", path, &headers, body.to_string()).await
    }
}

/// Asserts that an answer is an error of the dialect of `path`, with a request id.
pub(crate) fn assert_shape(path: &str, reply: &Reply) {
    assert!(!reply.header("x-request-id").is_empty(), "{path}");
    let json = reply.json();
    let is_ours = [
        "/api/onboard",
        "/api/agents",
        "/api/audit",
        "/api/workspaces",
    ]
    .iter()
    .any(|prefix| path.starts_with(prefix));
    if path.starts_with("/api/") && !is_ours {
        assert!(json["error"].is_string(), "{path}: {json}");
    } else if [
        "/v1/chat/",
        "/v1/completions",
        "/v1/models",
        "/v1/embeddings",
    ]
    .iter()
    .any(|prefix| path.starts_with(prefix))
    {
        let error = &json["error"];
        assert!(error["message"].is_string(), "{path}: {json}");
        assert!(
            error["type"].is_string() && error["code"].is_string(),
            "{path}: {json}"
        );
        assert!(error.get("param").is_some(), "{path}: {json}");
    } else {
        assert_eq!(
            reply.header("content-type"),
            "application/problem+json",
            "{path}"
        );
        assert_eq!(json["status"], reply.status.as_u16(), "{path}");
        assert_eq!(json["request_id"], reply.header("x-request-id"), "{path}");
        let kind = json["type"].as_str().unwrap();
        assert!(
            kind.ends_with(json["code"].as_str().unwrap()),
            "{path}: {json}"
        );
        assert!(
            json["title"].is_string() && json["detail"].is_string(),
            "{path}: {json}"
        );
    }
}

/// The words of an error, in whatever dialect.
pub(crate) fn words(reply: &Reply) -> String {
    let json = reply.json();
    let words = [&json["detail"], &json["error"]["message"], &json["error"]];
    words
        .iter()
        .find_map(|word| word.as_str())
        .unwrap_or_default()
        .to_owned()
}
