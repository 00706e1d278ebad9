//! Every route against every kind of key, through the whole router: who gets past the door.
//!
//! Names and ids in paths are nobody's, so that what is let in changes nothing and is refused for
//! another reason. What exactly each tier and capability opens is compared with the contract where
//! it is decided, in the crate.

use aither_ledger::AccountId;
use aither_node::{
    agents::{Mode, Onboarded, Rank},
    services::SpawnTerms,
};
use aither_protocol::{Capability, CapabilitySet, Caveat, Plan};
use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::support::{Api, KEY, api};

/// Paths that look at no key.
const OPEN: [&str; 12] = [
    "/",
    "/health",
    "/ready",
    "/docs",
    "/openapi.json",
    "/AGENTS.md",
    "/SKILLS.md",
    "/v1/discovery",
    "/v1/schemas/agent-card.json",
    "/v1/schemas/aither-agent.json",
    "/v1/auth/register",
    "/v1/auth/login",
];

/// What an agent of the highest tier is granted here: all that a route asks for.
const ALL: [Capability; 14] = [
    Capability::LlmInference,
    Capability::LlmEmbed,
    Capability::WebSearch,
    Capability::CodeRead,
    Capability::CodeWrite,
    Capability::ExternalApi,
    Capability::AgentCall,
    Capability::AgentSpawn,
    Capability::MemoryRead,
    Capability::MemoryWrite,
    Capability::EventEmit,
    Capability::EventSubscribe,
    Capability::FileUpload,
    Capability::DocumentAnalysis,
];

/// What a key is refused with: 401, 403 or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Open,
    NoKey,
    Forbidden,
}

fn card(name: &str, tier: &str, capabilities: &[&str]) -> Value {
    json!({
        "name": name,
        "version": "1.0.0",
        "description": "looks things up",
        "skills": [],
        "endpoints": [
            { "path": "/chat", "method": "POST", "description": "chat" },
            { "path": "/health", "method": "GET", "description": "health" },
        ],
        "capabilities_requested": capabilities,
        "billing": { "token_cost_per_request": 3, "category": tier },
        "health_endpoint": "/health",
    })
}

async fn routes(api: &Api) -> Vec<(String, String)> {
    let document = api.get("/openapi.json").await.json();
    let mut routes = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let mut path = path.clone();
            for parameter in ["{agent}", "{id}", "{name}", "{token}"] {
                path = path.replace(parameter, "nobody");
            }
            routes.push((method.to_uppercase(), path));
        }
    }
    routes
}

async fn door(api: &Api, (method, path): &(String, String), key: Option<&str>) -> Door {
    let bearer = key.map(|key| format!("Bearer {key}"));
    let mut headers = vec![
        ("content-type", "application/json"),
        ("host", "node.example"),
    ];
    headers.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
    // A stream would not end; patterns that are none let nobody in further.
    let path = &match path.ends_with("/subscribe") {
        true => format!("{path}?events=.."),
        false => path.clone(),
    };
    let reply = api.send(method, path, &headers, "{}").await;
    match reply.status {
        StatusCode::UNAUTHORIZED => Door::NoKey,
        StatusCode::FORBIDDEN => {
            // Ollama's errors have words only.
            let has_code = reply.text.contains("capability_missing");
            assert!(has_code || path.starts_with("/api/"), "{method} {path}");
            Door::Forbidden
        }
        _ => Door::Open,
    }
}

/// Keys of an account and of its agents.
struct Keys {
    account: String,
    agent: String,
    small: String,
    suspended: String,
    capability: String,
    dead: Vec<String>,
}

async fn onboard(api: &Api, owner: u128, card: &Value) -> Onboarded {
    let owner = (AccountId(owner), Plan::Enterprise);
    api.agents.onboard(owner, card, Mode::Hybrid).await.unwrap()
}

async fn keys(api: &Api) -> Keys {
    let made = api
        .accounts
        .create("ann@example.org", None, Some(Plan::Enterprise));
    let made = made.await.unwrap();
    let owner = made.account.id.as_u128();
    let all = ALL.map(Capability::as_str);
    let agent = onboard(api, owner, &card("bot", "orchestrator", &all)).await;
    let small = onboard(api, owner, &card("small", "reflex", &[])).await;
    let suspended = onboard(api, owner, &card("aside", "orchestrator", &all)).await;
    api.agents
        .suspend(suspended.agent.id, Rank::Owner)
        .await
        .unwrap();
    let caller = api.agents.authenticate(agent.key.0.reveal()).unwrap();
    let spawn = |caveats: Vec<Caveat>| {
        let capabilities = ALL
            .into_iter()
            .fold(CapabilitySet::EMPTY, CapabilitySet::with);
        let terms = SpawnTerms {
            capabilities,
            caveats,
        };
        api.agents.spawn(&caller, &terms).unwrap()
    };
    let expired = spawn(vec![Caveat::Expires(1)]);
    let revoked = spawn(Vec::new());
    let id = agent.agent.id;
    api.agents.revoke_token(id, revoked.number).await.unwrap();
    let ended = onboard(api, owner, &card("ended", "reflex", &[])).await;
    api.agents
        .tear_down(ended.agent.id, Rank::Owner, false)
        .await
        .unwrap();
    Keys {
        account: made.api_key.reveal().to_owned(),
        agent: agent.key.0.reveal().to_owned(),
        small: small.key.0.reveal().to_owned(),
        suspended: suspended.key.0.reveal().to_owned(),
        capability: spawn(Vec::new()).text.to_string(),
        dead: vec![
            expired.text.to_string(),
            revoked.text.to_string(),
            ended.key.0.reveal().to_owned(),
            "aither_sk_wrong".into(),
            "aither_ak_wrong".into(),
            "aither_ct_wrong".into(),
            "wrong".into(),
        ],
    }
}

/// Returns whether a path is the operator's alone.
fn is_operators(path: &str) -> bool {
    path.starts_with("/v1/admin/")
        || [
            "/metrics",
            "/v1/billing/topup",
            "/v1/models/import",
            "/api/pull",
            "/api/delete",
        ]
        .contains(&path)
}

/// Returns whether a path is for accounts alone.
fn is_owners(path: &str) -> bool {
    path.starts_with("/v1/keys") || path == "/v1/billing/statement" || path.contains("onboard")
}

/// Returns whether a path manages an agent.
fn is_management((method, path): &(String, String)) -> bool {
    let deletes = method == "DELETE" && path.starts_with("/v1/agents/");
    let ends = [
        "/connection-info",
        "/card",
        "/rotate-key",
        "/suspend",
        "/resume",
        "/logs",
        "/drain",
        "/lifecycle",
    ];
    let is_usage = path.starts_with("/v1/agents/") && path.ends_with("/usage");
    deletes
        || is_usage
        || (path.starts_with("/v1/agents/") && ends.iter().any(|end| path.ends_with(end)))
        || path.starts_with("/api/agents/")
        || path.starts_with("/api/audit/")
        || path == "/v1/billing/usage"
        || path.starts_with("/v1/marketplace/listings")
}

/// Returns whether a path needs a capability that the small agent has not.
fn needs_more(path: &str) -> bool {
    let last = path.rsplit('/').next().unwrap_or_default();
    let is_memory = path.starts_with("/v1/memory/");
    let is_tool = ["/v1/search", "/v1/http/fetch"].contains(&path) || path.starts_with("/v1/code/");
    let is_task = ["/v1/a2a/tasks", "/v1/a2a/parallel"]
        .iter()
        .any(|prefix| path.starts_with(prefix));
    is_memory
        || is_tool
        || is_task
        || [
            "generate",
            "call",
            "chat",
            "completions",
            "embed",
            "embeddings",
            "spawn",
            "subscribe",
            "store",
            "analyze",
        ]
        .contains(&last)
}

fn forbidden_if(is_forbidden: bool) -> Door {
    if is_forbidden {
        Door::Forbidden
    } else {
        Door::Open
    }
}

#[tokio::test]
async fn every_route_lets_in_whom_the_contract_lets_in() {
    let api = api();
    let keys = keys(&api).await;
    let mut closed = 0;
    for route in &routes(&api).await {
        let path = &*route.1;
        if OPEN.contains(&path) || path == "/v1/auth/refresh" {
            continue;
        }
        closed += 1;
        let shown = format!("{} {path}", route.0);
        assert_eq!(door(&api, route, None).await, Door::NoKey, "{shown}");
        for dead in &keys.dead {
            assert_eq!(
                door(&api, route, Some(dead)).await,
                Door::NoKey,
                "{shown} {dead}"
            );
        }
        assert_eq!(door(&api, route, Some(KEY)).await, Door::Open, "{shown}");
        let by_account = forbidden_if(is_operators(path) || path.ends_with("/spawn"));
        assert_eq!(
            door(&api, route, Some(&keys.account)).await,
            by_account,
            "{shown}"
        );
        let is_closed = is_operators(path) || is_owners(path);
        let by_agent = forbidden_if(is_closed);
        assert_eq!(
            door(&api, route, Some(&keys.agent)).await,
            by_agent,
            "{shown}"
        );
        let by_capability = forbidden_if(is_closed || is_management(route));
        assert_eq!(
            door(&api, route, Some(&keys.capability)).await,
            by_capability,
            "{shown}"
        );
        let by_small = forbidden_if(is_closed || needs_more(path));
        assert_eq!(
            door(&api, route, Some(&keys.small)).await,
            by_small,
            "{shown}"
        );
        let by_suspended = forbidden_if(is_closed || !is_management(route));
        let found = door(&api, route, Some(&keys.suspended)).await;
        assert_eq!(found, by_suspended, "{shown}");
    }
    assert!(closed > 50, "{closed}");
}

#[tokio::test]
async fn open_routes_look_at_no_key() {
    let api = api();
    for route in routes(&api).await {
        if !OPEN.contains(&&*route.1) {
            continue;
        }
        for key in [None, Some("wrong"), Some("aither_ct_wrong")] {
            assert_eq!(door(&api, &route, key).await, Door::Open, "{route:?}");
        }
    }
}

#[tokio::test]
async fn the_metrics_are_this_machines_whoever_asks() {
    let api = api();
    let keys = keys(&api).await;
    for key in [
        &keys.account,
        &keys.agent,
        &keys.capability,
        &keys.suspended,
    ] {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str())];
        let reply = api.send("GET", "/metrics", &headers, "").await;
        assert_eq!(reply.status, StatusCode::OK);
    }
    let wrong = [("authorization", "Bearer aither_ak_wrong")];
    let reply = api.send("GET", "/metrics", &wrong, "").await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
}
