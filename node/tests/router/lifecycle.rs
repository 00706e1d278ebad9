//! How an agent fares, through the router: its life, its health, its calls, and who may see them.

use std::time::Duration;

use aither_ledger::AccountId;
use aither_node::{agents::Mode, services::CallEnd};
use aither_protocol::{Amount, Plan};
use axum::http::StatusCode;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::support::{Api, KEY, Reply, api, words};

fn card(name: &str, url: Option<&str>) -> Value {
    let mut card = json!({
        "name": name,
        "version": "1.0.0",
        "description": "looks things up",
        "skills": [{ "id": "echo", "name": "Echo", "description": "Says it again" }],
        "endpoints": [{ "path": "/chat", "method": "POST", "description": "chat" }],
        "capabilities_requested": ["llm_inference"],
        "billing": { "token_cost_per_request": 3, "category": "agent" },
        "health_endpoint": "/health",
    });
    if let Some(url) = url {
        card["agent_url"] = json!(url);
    }
    card
}

/// Two accounts, and an agent of the first.
struct Keys {
    owner: u128,
    account: String,
    stranger: String,
    agent: String,
}

async fn home(url: Option<&str>) -> (Api, Keys) {
    let api = api();
    let plan = Some(Plan::Enterprise);
    let owner = api.accounts.create("ann@example.org", None, plan).await;
    let stranger = api.accounts.create("bob@example.org", None, plan).await;
    let (owner, stranger) = (owner.unwrap(), stranger.unwrap());
    let id = owner.account.id.as_u128();
    let payer = (AccountId(id), Plan::Enterprise);
    let card = card("bot", url);
    let onboarded = api.agents.onboard(payer, &card, Mode::Remote);
    let agent = onboarded.await.unwrap().key.0.reveal().to_owned();
    let keys = Keys {
        owner: id,
        account: owner.api_key.reveal().to_owned(),
        stranger: stranger.api_key.reveal().to_owned(),
        agent,
    };
    (api, keys)
}

async fn ask(api: &Api, key: &str, method: &str, path: &str) -> Reply {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", &*bearer)];
    let path = format!("/v1/agents/{path}");
    api.send(method, &path, &headers, "").await
}

async fn get(api: &Api, key: &str, path: &str) -> Value {
    let reply = ask(api, key, "GET", path).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    reply.json()
}

/// Where an agent was; each move says why and when.
fn path_of(story: &Value) -> Vec<String> {
    let history = story["history"].as_array().unwrap();
    let mut path = vec![history[0]["from"].as_str().unwrap().to_owned()];
    for moved in history {
        assert_eq!(path.last().unwrap(), moved["from"].as_str().unwrap());
        assert!(!moved["reason"].as_str().unwrap().is_empty());
        assert!(moved["time"].as_str().unwrap().ends_with('Z'));
        path.push(moved["to"].as_str().unwrap().to_owned());
    }
    path
}

#[tokio::test]
async fn a_life_is_shown_to_those_who_may_manage_the_agent() {
    let (api, keys) = home(None).await;
    for key in [&*keys.account, &*keys.agent, KEY] {
        let story = get(&api, key, "bot/lifecycle").await;
        assert_eq!(path_of(&story), ["DEPLOY", "INIT", "BOOT", "LIVE"]);
        assert_eq!(
            (&story["name"], &story["state"]),
            (&json!("bot"), &json!("LIVE"))
        );
        assert_eq!(story["reason"], "it has no address to be asked at");
        assert_eq!(story["since"], story["history"][2]["time"]);
    }
    for path in ["bot/lifecycle", "bot/usage", "nobody/lifecycle"] {
        let reply = ask(&api, &keys.stranger, "GET", path).await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "{path}");
    }
    let reply = ask(&api, &keys.stranger, "POST", "bot/drain").await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_drained_agent_stops_and_is_taken_back() {
    let (api, keys) = home(None).await;
    let reply = ask(&api, &keys.account, "POST", "bot/drain").await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    assert_eq!(reply.json()["state"], "STOP", "it had nothing to finish");
    let story = get(&api, &keys.account, "bot/lifecycle").await;
    let path = path_of(&story);
    assert_eq!(path[3..], ["LIVE", "DRAIN", "STOP"]);
    assert_eq!(story["history"][3]["reason"], "it was drained by its owner");
    let reply = ask(&api, &keys.agent, "POST", "bot/resume").await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN, "its owner wants it so");
    let reply = ask(&api, &keys.account, "POST", "bot/resume").await;
    assert_eq!(reply.json()["state"], "LIVE");
    let story = get(&api, &keys.account, "bot/lifecycle").await;
    assert_eq!(path_of(&story)[5..], ["STOP", "BOOT", "LIVE"]);
    // The platform's older form sees the same.
    let id = reply.json()["id"].as_str().unwrap().to_owned();
    let path = format!("/api/agents/{id}");
    let bearer = format!("Bearer {}", keys.agent);
    let old = api
        .send("GET", &path, &[("authorization", &bearer)], "")
        .await;
    assert_eq!(old.json()["state"], "LIVE");
}

#[tokio::test]
async fn every_word_of_a_state_finds_agents() {
    let (api, keys) = home(None).await;
    ask(&api, &keys.account, "POST", "bot/drain").await;
    for state in [
        "DEPLOY", "INIT", "BOOT", "LIVE", "PAIN", "HEAL", "DRAIN", "STOP", "stop",
    ] {
        let bearer = format!("Bearer {}", keys.account);
        let path = format!("/v1/agents?state={state}");
        let headers = [("authorization", &*bearer)];
        let found = api.send("GET", &path, &headers, "").await.json();
        let count = usize::from(state.eq_ignore_ascii_case("STOP"));
        assert_eq!(found["items"].as_array().unwrap().len(), count, "{state}");
    }
}

/// Serves an agent's health, and says how often it was asked for it.
async fn health_server() -> (String, std::sync::Arc<std::sync::atomic::AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = std::sync::Arc::default();
    let count = std::sync::Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 2048];
            let _ = stream.read(&mut request).await;
            std::sync::atomic::AtomicU32::fetch_add(&count, 1, std::sync::atomic::Ordering::SeqCst);
            let body = r#"{"status": "healthy"}"#;
            let length = body.len();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (url, asked)
}

#[tokio::test]
async fn health_is_for_everybody_with_a_key_and_its_owner_has_it_asked_for() {
    use std::sync::atomic::Ordering::SeqCst;
    let (url, asked) = health_server().await;
    let (api, keys) = home(Some(&url)).await;
    assert_eq!(asked.load(SeqCst), 1);
    let health = get(&api, &keys.stranger, "bot/health").await;
    assert_eq!(
        (&health["state"], &health["healthy"]),
        (&json!("LIVE"), &json!(true))
    );
    assert_eq!(health["reason"], "it was found healthy");
    assert!(health["checked_at"].is_string(), "{health}");
    for unknown in ["latency_ms", "load", "reputation"] {
        assert!(health.get(unknown).is_some_and(Value::is_null), "{unknown}");
    }
    // Others cannot make the node ask.
    get(&api, &keys.stranger, "bot/health?probe=1").await;
    assert_eq!(asked.load(SeqCst), 1);
    for (number, key) in [&*keys.account, &*keys.agent, KEY].into_iter().enumerate() {
        get(&api, key, "bot/health?probe=1").await;
        assert_eq!(asked.load(SeqCst), 2 + u32::try_from(number).unwrap());
    }
    let reply = ask(&api, &keys.account, "GET", "nobody/health").await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    let (api, keys) = home(None).await;
    let health = get(&api, &keys.account, "bot/health?probe=1").await;
    assert!(health["healthy"].is_null(), "nobody can ask it: {health}");
}

#[tokio::test]
async fn calls_show_in_usage_in_lists_and_in_health() {
    let (url, _) = health_server().await;
    let (api, keys) = home(Some(&url)).await;
    let empty = get(&api, &keys.account, "bot/usage").await;
    assert_eq!((&empty["calls"], &empty["earned"]), (&json!(0), &json!(0)));
    assert_eq!(empty["by_day"], json!([]));
    let agent = api.agents.by_name("bot").unwrap();
    assert_eq!(agent.owner, AccountId(keys.owner));
    let health = api.agents.health();
    health.admit(&agent).await.unwrap();
    health.loaded(agent.id, 2, 1, 4);
    let took = Duration::from_millis(40);
    let earned = Amount::from_micros(2_400_000);
    health.ended(agent.id, &CallEnd::Answered { earned }, took);
    health.ended(agent.id, &CallEnd::TimedOut, took);
    for key in [&*keys.account, &*keys.agent, KEY] {
        let usage = get(&api, key, "bot/usage?period=7d").await;
        assert_eq!((&usage["calls"], &usage["failed"]), (&json!(2), &json!(1)));
        assert_eq!(usage["earned"], json!(2.4));
        assert_eq!(usage["latency_ms"], json!(40.0));
        let day = &usage["by_day"][0];
        assert_eq!(day["day"].as_str().unwrap().len(), "2026-01-31".len());
        assert_eq!((&day["calls"], &day["earned"]), (&json!(2), &json!(2.4)));
    }
    let reply = ask(&api, &keys.account, "GET", "bot/usage?period=often").await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(words(&reply).starts_with("period"), "{}", reply.text);
    for path in ["bot", "bot/health"] {
        let shown = get(&api, &keys.stranger, path).await;
        assert_eq!(shown["load"], json!(0.75), "{path}");
        assert_eq!(shown["latency_ms"], json!(40.0), "{path}");
        let reputation = shown["reputation"].as_f64().unwrap();
        assert!((0.4..0.6).contains(&reputation), "{path}");
    }
}
