//! Events through the whole router: who may emit and hear what, and how streams look and end.

use std::time::Duration;

use aither_ledger::AccountId;
use aither_node::{
    agents::{Mode, Rank},
    services::{Audience, NodeEvent},
};
use aither_protocol::Plan;
use axum::{
    body::{Body, BodyDataStream},
    http::{Request, StatusCode},
};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::timeout;
use tower::ServiceExt;

use crate::support::{Api, BODY_BYTES_MAX, KEY, Reply, api, api_with, words};

const DEADLINE: Duration = Duration::from_secs(60);

/// Keys of an account with two agents, one of which may not hear events, and of a stranger.
struct Keys {
    owner: AccountId,
    account: String,
    bot: String,
    deaf: String,
    stranger: String,
}

async fn keys(api: &Api) -> Keys {
    let account = async |email| {
        let made = api.accounts.create(email, None, Some(Plan::Enterprise));
        made.await.unwrap()
    };
    let (mine, stranger) = (
        account("a@example.org").await,
        account("b@example.org").await,
    );
    let owner = AccountId(mine.account.id.as_u128());
    let onboard = async |name: &str, capabilities: &[&str]| {
        let card = json!({
            "name": name,
            "version": "1.0.0",
            "description": "tells and hears",
            "skills": [],
            "endpoints": [{ "path": "/chat", "method": "POST", "description": "chat" }],
            "capabilities_requested": capabilities,
            "billing": { "token_cost_per_request": 1, "category": "agent" },
            "health_endpoint": "/health",
        });
        let owner = (owner, Plan::Enterprise);
        let onboarded = api.agents.onboard(owner, &card, Mode::Hybrid).await;
        onboarded.unwrap().key.0.reveal().to_owned()
    };
    Keys {
        owner,
        bot: onboard("bot", &["event_subscribe"]).await,
        deaf: onboard("deaf", &[]).await,
        account: mine.api_key.reveal().to_owned(),
        stranger: stranger.api_key.reveal().to_owned(),
    }
}

async fn ask(api: &Api, key: &str, method: &str, path: &str, body: &Value) -> Reply {
    let bearer = format!("Bearer {key}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    api.send(method, path, &headers, body.to_string()).await
}

async fn emit(api: &Api, key: &str, event: &str, data: Value) -> Reply {
    let body = json!({ "event": event, "data": data });
    ask(api, key, "POST", "/v1/events/emit", &body).await
}

async fn emitted(api: &Api, key: &str, event: &str, data: Value) -> u64 {
    let reply = emit(api, key, event, data).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    assert!(reply.json()["time"].as_str().unwrap().ends_with('Z'));
    reply.json()["id"].as_str().unwrap().parse().unwrap()
}

/// An open stream, and what of it was not read yet.
struct Stream {
    body: BodyDataStream,
    text: String,
}

/// Something that a stream says.
#[derive(Debug, PartialEq)]
struct Heard {
    id: Option<u64>,
    event: String,
    data: Value,
}

async fn follow(api: &Api, key: &str, path: &str, last: Option<u64>) -> Stream {
    let mut request = Request::get(path)
        .header("host", "node.example")
        .header("authorization", format!("Bearer {key}"));
    if let Some(last) = last {
        request = request.header("last-event-id", last.to_string());
    }
    let request = request.body(Body::empty()).unwrap();
    let response = api.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    Stream {
        body: response.into_body().into_data_stream(),
        text: String::new(),
    }
}

impl Stream {
    /// What it says next, comments aside; `None` at its end.
    async fn next(&mut self) -> Option<Heard> {
        loop {
            if let Some((frame, rest)) = self.text.split_once("\n\n") {
                let (frame, rest) = (frame.to_owned(), rest.to_owned());
                self.text = rest;
                if frame.starts_with(':') {
                    continue;
                }
                let field = |name: &str| {
                    let lines = frame.lines().filter_map(|line| line.split_once(": "));
                    let mut found = lines.filter(|(field, _)| *field == name);
                    found.next().map(|(_, value)| value.to_owned())
                };
                return Some(Heard {
                    id: field("id").map(|id| id.parse().unwrap()),
                    event: field("event").unwrap(),
                    data: serde_json::from_str(&field("data").unwrap()).unwrap(),
                });
            }
            let chunk = timeout(DEADLINE, self.body.next()).await.unwrap()?;
            self.text += std::str::from_utf8(&chunk.unwrap()).unwrap();
        }
    }

    async fn ids(&mut self, count: usize) -> Vec<u64> {
        let mut ids = Vec::new();
        for _ in 0..count {
            ids.push(self.next().await.unwrap().id.unwrap());
        }
        ids
    }

    /// Why it ends.
    async fn end(&mut self) -> String {
        let last = self.next().await.unwrap();
        assert_eq!(last.event, "closed", "{last:?}");
        assert!(self.next().await.is_none());
        last.data["data"]["reason"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn what_one_emits_others_of_the_account_hear_and_strangers_do_not() {
    let api = api();
    let keys = keys(&api).await;
    let mut account = follow(&api, &keys.account, "/v1/events/subscribe", None).await;
    let patterns = "/v1/events/subscribe?events=agent.*.completed,system.health";
    let mut bot = follow(&api, &keys.bot, patterns, None).await;
    let mut stranger = follow(&api, &keys.stranger, "/v1/events/subscribe", None).await;
    let mut operator = follow(&api, KEY, "/v1/events/subscribe", None).await;
    let data = json!({ "message_length": 3, "text": "a\nb" });
    let first = emitted(&api, &keys.deaf, "agent.chat.completed", data.clone()).await;
    let second = emitted(&api, &keys.account, "other", json!(null)).await;
    let public = json!({ "event": "agent.x.completed", "data": 1, "public": true });
    let reply = ask(&api, &keys.account, "POST", "/v1/events/emit", &public).await;
    let third: u64 = reply.json()["id"].as_str().unwrap().parse().unwrap();
    let by_operator = emitted(&api, KEY, "system.health", json!("good")).await;
    let heard = account.next().await.unwrap();
    assert_eq!(
        (heard.id, &*heard.event),
        (Some(first), "agent.chat.completed")
    );
    assert_eq!(
        (&heard.data["agent"], &heard.data["data"]),
        (&json!("deaf"), &data)
    );
    assert!(heard.data["time"].as_str().unwrap().ends_with('Z'));
    let heard = account.next().await.unwrap();
    assert_eq!(
        (heard.id, &heard.data["agent"]),
        (Some(second), &json!(null))
    );
    assert_eq!(account.ids(1).await, [third]);
    assert_eq!(bot.ids(2).await, [first, third]);
    assert_eq!(stranger.ids(1).await, [third]);
    assert_eq!(operator.ids(4).await, [first, second, third, by_operator]);
}

#[tokio::test]
async fn names_and_data_that_do_not_fit_are_refused_with_words() {
    let api = api_with(aither_node::config::HttpConfig::default());
    let keys = keys(&api).await;
    for name in [
        "billing.charged",
        "node.x",
        "federation.y",
        "system.health",
        "agent.bot.lifecycle",
        "agent.bot.call.completed",
        "lagged",
        "a..b",
        "",
    ] {
        for key in [&keys.account, &keys.bot] {
            let reply = emit(&api, key, name, json!(null)).await;
            assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{name}");
            assert_eq!(reply.json()["errors"][0]["field"], "event");
        }
    }
    assert_eq!(emit(&api, KEY, "billing.x", json!(1)).await.status, 422);
    let large = emit(&api, &keys.bot, "a", json!("x".repeat(65_537))).await;
    assert_eq!(large.status, StatusCode::PAYLOAD_TOO_LARGE);
    let nested: Value = (0..70).fold(json!(1), |inner, _| json!([inner]));
    let reply = emit(&api, &keys.bot, "a", nested).await;
    assert_eq!(
        (
            reply.status.as_u16(),
            reply.json()["errors"][0]["field"].clone()
        ),
        (422, json!("data"))
    );
    for body in [
        json!({ "event": "a" }),
        json!({ "data": 1 }),
        json!({ "event": 1, "data": 1 }),
    ] {
        let reply = ask(&api, &keys.bot, "POST", "/v1/events/emit", &body).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
    }
    for query in ["events=a..b", "events=ag*nt", "last_event_id=x"] {
        let path = format!("/v1/events/subscribe?{query}");
        let reply = ask(&api, &keys.bot, "GET", &path, &json!(null)).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{query}");
    }
    let refused = ask(
        &api,
        &keys.deaf,
        "GET",
        "/v1/events/subscribe",
        &json!(null),
    )
    .await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert_eq!(refused.json()["capability"], "event_subscribe");
    assert!(!words(&refused).is_empty());
}

#[tokio::test]
async fn a_key_and_an_idempotency_key_emit_once() {
    let api = api();
    let keys = keys(&api).await;
    let bearer = format!("Bearer {}", keys.bot);
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
        ("idempotency-key", "k"),
    ];
    let body = json!({ "event": "a", "data": 1 }).to_string();
    let first = api
        .send("POST", "/v1/events/emit", &headers, body.clone())
        .await;
    let again = api.send("POST", "/v1/events/emit", &headers, body).await;
    assert_eq!(first.json()["id"], again.json()["id"]);
    assert_eq!(api.events.counts().written, 1);
}

#[tokio::test]
async fn a_stream_resumes_by_header_or_query_and_the_header_goes_before() {
    let api = api();
    let keys = keys(&api).await;
    let mut ids = Vec::new();
    for number in 0..5 {
        ids.push(emitted(&api, &keys.account, "a", json!(number)).await);
    }
    let path = "/v1/events/subscribe";
    let mut by_header = follow(&api, &keys.account, path, Some(ids[1])).await;
    assert_eq!(by_header.ids(3).await, ids[2..]);
    let with_query = format!("{path}?last_event_id={}", ids[3]);
    let mut by_query = follow(&api, &keys.account, &with_query, None).await;
    assert_eq!(by_query.ids(1).await, ids[4..]);
    let mut by_both = follow(&api, &keys.account, &with_query, Some(ids[2])).await;
    assert_eq!(by_both.ids(2).await, ids[3..]);
    // Of another log: said first, and then what comes.
    let mut strange = follow(&api, &keys.account, path, Some(1 << 40)).await;
    let gap = strange.next().await.unwrap();
    assert_eq!((&*gap.event, gap.id), ("gap", Some(ids[4])));
    assert_eq!(gap.data["data"]["after"], ids[4].to_string());
    let later = emitted(&api, &keys.account, "a", json!(null)).await;
    assert_eq!(strange.ids(1).await, [later]);
}

#[tokio::test]
async fn a_stream_ends_with_its_key_and_with_the_node() {
    let api = api();
    let keys = keys(&api).await;
    let path = "/v1/events/subscribe";
    let mut bot = follow(&api, &keys.bot, path, None).await;
    let mut account = follow(&api, &keys.account, path, None).await;
    let agent = api.agents.by_name("bot").unwrap();
    api.agents.suspend(agent.id, Rank::Owner).await.unwrap();
    assert!(bot.end().await.contains("key"));
    // Its own log is for its management, which goes on until its key ends.
    let logs = "/v1/agents/bot/logs?follow=true";
    let mut own = follow(&api, &keys.bot, logs, None).await;
    api.agents.rotate_keys(agent.id).await.unwrap();
    assert!(own.end().await.contains("key"));
    api.events.close();
    assert!(account.end().await.contains("stopping"));
    let late = ask(&api, &keys.account, "GET", path, &json!(null)).await;
    assert_eq!(late.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(!late.header("retry-after").is_empty());
}

#[tokio::test]
async fn an_agents_log_has_what_is_its_own_and_about_it() {
    let api = api();
    let keys = keys(&api).await;
    let mut ids = Vec::new();
    for number in 0..4 {
        ids.push(emitted(&api, &keys.bot, "agent.chat.completed", json!(number)).await);
        emitted(&api, &keys.deaf, "agent.chat.completed", json!(null)).await;
    }
    let mut all = follow(&api, KEY, "/v1/events/subscribe", None).await;
    api.events.note(NodeEvent {
        name: "agent.bot.lifecycle".into(),
        agent: Some("bot".into()),
        audience: Audience::Accounts(vec![keys.owner]),
        data: json!({ "from": "BOOT", "to": "LIVE" }),
    });
    ids.extend(all.ids(1).await);
    let path = "/v1/agents/bot/logs";
    for key in [&*keys.account, &keys.bot, KEY] {
        let reply = ask(&api, key, "GET", path, &json!(null)).await;
        let items = reply.json()["items"].clone();
        let found = items.as_array().unwrap().iter();
        let found: Vec<u64> = found
            .map(|item| item["id"].as_str().unwrap().parse().unwrap())
            .collect();
        assert_eq!(found, ids);
        assert_eq!(items[4]["event"], "agent.bot.lifecycle");
        assert_eq!(items[3]["data"], 3);
        assert_eq!(reply.json()["next_cursor"], Value::Null);
    }
    let reply = ask(
        &api,
        &keys.bot,
        "GET",
        &format!("{path}?limit=2"),
        &json!(null),
    )
    .await;
    assert_eq!(reply.json()["items"][0]["id"], ids[3].to_string());
    let cursor = reply.json()["next_cursor"].as_str().unwrap().to_owned();
    let older = format!("{path}?limit=2&cursor={cursor}");
    let reply = ask(&api, &keys.bot, "GET", &older, &json!(null)).await;
    assert_eq!(reply.json()["items"][1]["id"], ids[2].to_string());
    for key in [&keys.stranger, &keys.deaf] {
        let reply = ask(&api, key, "GET", path, &json!(null)).await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND);
    }
    let following = format!("{path}?follow=true&limit=2");
    let mut log = follow(&api, &keys.bot, &following, None).await;
    assert_eq!(log.ids(2).await, ids[3..]);
    emitted(&api, &keys.account, "agent.chat.completed", json!(null)).await;
    let later = emitted(&api, &keys.bot, "agent.chat.completed", json!(null)).await;
    assert_eq!(log.ids(1).await, [later]);
    let mut resumed = follow(&api, &keys.bot, &following, Some(ids[3])).await;
    assert_eq!(resumed.ids(2).await, [ids[4], later]);
}

#[tokio::test]
async fn payments_are_told_to_whoever_pays_and_nobody_else() {
    let api = api_with(aither_node::config::HttpConfig {
        body_bytes_max: BODY_BYTES_MAX,
        ..aither_node::config::HttpConfig::default()
    });
    let keys = keys(&api).await;
    let path = "/v1/events/subscribe?events=billing.*";
    let mut account = follow(&api, &keys.account, path, None).await;
    let mut stranger = follow(&api, &keys.stranger, path, None).await;
    let account_id = ulid::Ulid(keys.owner.0).to_string();
    let top_up = json!({ "account": account_id, "tokens": 5, "reference": "invoice 3" });
    for _ in 0..2 {
        let reply = ask(&api, KEY, "POST", "/v1/billing/topup", &top_up).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    }
    let body = json!({ "tokens": 2.5, "reason": "a chair" });
    let reply = ask(&api, &keys.account, "POST", "/v1/billing/deduct", &body).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    let reply = ask(&api, &keys.stranger, "POST", "/v1/billing/deduct", &body).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    for _ in 0..2 {
        let told = account.next().await.unwrap();
        assert_eq!(told.event, "billing.topup");
        assert_eq!(told.data["data"]["reference"], "invoice 3");
        assert_eq!(told.data["data"]["amount"], 5);
    }
    let last = account.next().await.unwrap();
    assert_eq!(last.event, "billing.charged");
    assert_eq!(last.data["data"]["amount"], 2.5);
    assert_eq!(last.data["data"]["route"], "a chair");
    // Its own comes first: that of the other it has not heard.
    let own = stranger.next().await.unwrap();
    assert_eq!((&*own.event, own.id > last.id), ("billing.charged", true));
}
