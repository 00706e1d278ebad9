//! Accounts through the router: who is let in, what is counted, how refusals look.

use std::{convert::Infallible, time::Duration};

use aither_node::{
    api,
    config::{AccountsConfig, HttpConfig, Registration},
};
use aither_protocol::Plan;
use axum::{
    Router,
    body::{Body, Bytes},
    routing::post,
};
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tower::ServiceExt;

use super::support::{Api, KEY, Reply, api, api_made_of, assert_shape};

const JSON: (&str, &str) = ("content-type", "application/json");
const PASSWORD: &str = "correct horse";

fn api_of(accounts: AccountsConfig) -> Api {
    api_made_of(HttpConfig::default(), accounts, api::router)
}

impl Api {
    async fn send_as(&self, key: &str, method: &str, path: &str, body: &Value) -> Reply {
        let key = format!("Bearer {key}");
        let headers = [("authorization", &*key), JSON];
        self.send(method, path, &headers, body.to_string()).await
    }

    async fn get_as(&self, key: &str, path: &str) -> Reply {
        self.send_as(key, "GET", path, &json!(null)).await
    }

    /// Registers and returns the account's id and key.
    async fn register(&self, email: &str) -> (String, String) {
        let body = json!({"email": email, "password": PASSWORD});
        let reply = self.post("/v1/auth/register", &body).await;
        assert_eq!(reply.status, 201, "{}", reply.text);
        assert_eq!(reply.header("cache-control"), "no-store");
        (
            text(&reply.json(), "account_id"),
            text(&reply.json(), "api_key"),
        )
    }

    async fn log_in(&self, email: &str) -> Value {
        let body = json!({"email": email, "password": PASSWORD});
        let reply = self.post("/v1/auth/login", &body).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        reply.json()
    }
}

fn text(json: &Value, name: &str) -> String {
    json[name].as_str().unwrap().to_owned()
}

fn fields(reply: &Reply) -> Vec<String> {
    let errors = reply.json()["errors"].clone();
    let errors = errors.as_array().unwrap().clone();
    errors.iter().map(|error| text(error, "field")).collect()
}

#[tokio::test]
async fn whoever_registers_can_ask_who_he_is() {
    let api = api();
    let (id, key) = api.register("Ann@Example.org").await;
    assert!(key.starts_with("aither_sk_"), "{key}");
    let me = api.get_as(&key, "/v1/auth/me").await.json();
    let expected = json!({"account_id": id, "email": "ann@example.org", "plan": "enterprise"});
    assert_eq!(me, expected);
    assert_eq!(api.get_as(&key, "/v1/models").await.status, 200);
    let again = json!({"email": "ann@EXAMPLE.org", "password": PASSWORD});
    let again = api.post("/v1/auth/register", &again).await;
    assert_eq!(again.status, 409);
    assert_shape("/v1/auth/register", &again);
    let operator = api.get_as(KEY, "/v1/auth/me").await.json();
    assert_eq!(operator["account_id"], "operator");
    assert_eq!(api.get("/v1/auth/me").await.status, 401);
}

#[tokio::test]
async fn all_wrong_fields_are_named_at_once() {
    let api = api();
    let cases = [
        (
            json!({"email": "x", "password": "short"}),
            vec!["email", "password"],
        ),
        (
            json!({"email": "a@b", "password": "short"}),
            vec!["password"],
        ),
        (
            json!({"email": "a b@c", "password": PASSWORD}),
            vec!["email"],
        ),
        (json!({"email": "a@b"}), vec!["password"]),
        (json!({"email": 1, "password": PASSWORD}), vec!["email"]),
        (
            json!({"email": "a@b", "password": "x".repeat(1025)}),
            vec!["password"],
        ),
    ];
    for (body, expected) in cases {
        let reply = api.post("/v1/auth/register", &body).await;
        assert_eq!(reply.status, 422, "{body}");
        assert_shape("/v1/auth/register", &reply);
        assert_eq!(fields(&reply), expected, "{body}");
    }
}

#[tokio::test]
async fn a_login_is_refreshed_once_and_ends_at_the_second_use() {
    let api = api();
    api.register("ann@example.org").await;
    let first = api.log_in("ANN@example.org").await;
    let other = api.log_in("ann@example.org").await;
    let body = json!({"refresh_token": first["refresh_token"]});
    let second = api.post("/v1/auth/refresh", &body).await;
    assert_eq!(second.status, 200, "{}", second.text);
    let second = second.json();
    for session in [&first, &second, &other] {
        let reply = api.get_as(&text(session, "api_key"), "/v1/auth/me").await;
        assert_eq!(reply.status, 200);
        assert!(text(session, "expires_at").ends_with('Z'));
    }
    let reused = api.post("/v1/auth/refresh", &body).await;
    assert_eq!(reused.status, 401);
    let body = json!({"refresh_token": second["refresh_token"]});
    assert_eq!(api.post("/v1/auth/refresh", &body).await.status, 401);
    for (session, status) in [(&first, 401), (&second, 401), (&other, 200)] {
        let reply = api.get_as(&text(session, "api_key"), "/v1/auth/me").await;
        assert_eq!(reply.status, status);
    }
}

#[tokio::test]
async fn wrong_words_are_one_refusal_and_soon_too_many() {
    let api = api();
    api.register("ann@example.org").await;
    for email in ["ann@example.org", "bob@example.org"] {
        let body = json!({"email": email, "password": "wrong horse"});
        let mut refusals = Vec::new();
        for _ in 0..10 {
            refusals.push(api.post("/v1/auth/login", &body).await);
        }
        for reply in refusals {
            assert_eq!(reply.status, 401);
            assert!(reply.text.contains("wrong e-mail address or password"));
        }
        let reply = api.post("/v1/auth/login", &body).await;
        assert_eq!(reply.status, 429, "{}", reply.text);
        assert_shape("/v1/auth/login", &reply);
        assert_eq!(reply.json()["code"], "rate_limited");
        let seconds: u64 = reply.header("retry-after").parse().unwrap();
        assert!((1..=6).contains(&seconds), "{seconds}");
    }
}

#[tokio::test]
async fn attempts_are_counted_by_the_address_behind_a_local_proxy() {
    let api = api();
    let login = async |number: usize, client: &str| {
        let headers = [JSON, ("x-forwarded-for", client)];
        // Too short for anybody's password, so it costs no hash.
        let body = json!({"email": format!("u{number}@example.org"), "password": "x"});
        let reply = api.send("POST", "/v1/auth/login", &headers, body.to_string());
        reply.await.status.as_u16()
    };
    for number in 0..120 {
        // Whoever forges an entry before the proxy's own is counted all the same.
        let forged = format!("198.51.100.{number}, 203.0.113.1");
        assert_eq!(login(number, &forged).await, 401, "{number}");
    }
    assert_eq!(login(120, "203.0.113.1").await, 429);
    assert_eq!(login(121, "203.0.113.2").await, 401);
}

#[tokio::test]
async fn a_closed_node_takes_accounts_from_its_operator_only() {
    let api = api_of(AccountsConfig {
        registration: Registration::Closed,
        ..AccountsConfig::default()
    });
    let body = json!({"email": "ann@example.org", "password": PASSWORD});
    let reply = api.post("/v1/auth/register", &body).await;
    assert_eq!(reply.status, 403);
    assert_eq!(reply.json()["code"], "registration_closed");
    let made = api.send_as(KEY, "POST", "/v1/admin/accounts", &body).await;
    assert_eq!(made.status, 201, "{}", made.text);
    api.log_in("ann@example.org").await;
    // Without a password there is a key, and no login.
    let body = json!({"email": "bot@example.org", "plan": "builder"});
    let bot = api.send_as(KEY, "POST", "/v1/admin/accounts", &body).await;
    let me = api
        .get_as(&text(&bot.json(), "api_key"), "/v1/auth/me")
        .await;
    assert_eq!(me.json()["plan"], "builder");
    let body = json!({"email": "bot@example.org", "password": PASSWORD});
    assert_eq!(api.post("/v1/auth/login", &body).await.status, 401);
}

#[tokio::test]
async fn keys_are_listed_and_revoked_by_their_account_alone() {
    let api = api();
    let (_, ann) = api.register("ann@example.org").await;
    let (_, bob) = api.register("bob@example.org").await;
    let session = api.log_in("ann@example.org").await;
    let page = api.get_as(&ann, "/v1/keys?limit=1").await.json();
    let first = page["items"][0].clone();
    assert!(ann.starts_with(&text(&first, "prefix")), "{first}");
    assert!(
        first["expires"].is_null() && first["last_used"].is_string(),
        "{first}"
    );
    let cursor = text(&page, "next_cursor");
    let page = api.get_as(&ann, &format!("/v1/keys?cursor={cursor}")).await;
    let second = page.json()["items"][0].clone();
    assert!(
        second["expires"].is_string() && second["last_used"].is_null(),
        "{second}"
    );
    assert!(page.json()["next_cursor"].is_null());
    let path = format!("/v1/keys/{}", text(&second, "id"));
    let others = api.send_as(&bob, "DELETE", &path, &json!(null)).await;
    assert_eq!(others.status, 404);
    let own = api.send_as(&ann, "DELETE", &path, &json!(null)).await;
    assert_eq!((own.status.as_u16(), own.text.as_str()), (204, ""));
    assert_eq!(
        api.get_as(&text(&session, "api_key"), "/v1/models")
            .await
            .status,
        401
    );
    // The login went with its key.
    let body = json!({"refresh_token": session["refresh_token"]});
    assert_eq!(api.post("/v1/auth/refresh", &body).await.status, 401);
    let path = format!("/v1/keys/{}", text(&first, "prefix"));
    assert_eq!(
        api.send_as(KEY, "DELETE", &path, &json!(null)).await.status,
        204
    );
    assert_eq!(api.get_as(&ann, "/v1/auth/me").await.status, 401);
    assert_eq!(api.get_as(&bob, "/v1/auth/me").await.status, 200);
}

#[tokio::test]
async fn the_operators_routes_are_closed_to_accounts() {
    let api = api();
    let (id, key) = api.register("ann@example.org").await;
    let path = format!("/v1/admin/accounts/{id}");
    for (method, path) in [
        ("GET", "/v1/admin/accounts"),
        ("POST", "/v1/admin/accounts"),
        ("PATCH", &path),
    ] {
        let reply = api.send_as(&key, method, path, &json!({})).await;
        assert_eq!(reply.status, 403, "{method} {path}");
        assert_shape(path, &reply);
        assert_eq!(reply.json()["code"], "capability_missing");
        assert_eq!(reply.json()["capability"], "operator");
    }
    assert_eq!(api.get("/v1/admin/accounts").await.status, 401);
}

#[tokio::test]
async fn the_operator_sees_and_changes_accounts() {
    let api = api();
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        ids.push(api.register(&format!("{name}@example.org")).await.0);
    }
    let mut seen = Vec::new();
    let mut path = "/v1/admin/accounts?limit=2".to_owned();
    loop {
        let page = api.get_as(KEY, &path).await.json();
        seen.extend(page["items"].as_array().unwrap().clone());
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/v1/admin/accounts?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    let seen: Vec<_> = seen
        .iter()
        .map(|account| text(account, "account_id"))
        .collect();
    ids.sort();
    assert_eq!(seen, ids);
    let path = format!("/v1/admin/accounts/{}", ids[0]);
    let body = json!({"plan": "explorer", "state": "disabled"});
    let changed = api.send_as(KEY, "PATCH", &path, &body).await.json();
    assert_eq!(
        (&changed["plan"], &changed["state"]),
        (&json!("explorer"), &json!("disabled"))
    );
    for (path, body, status) in [
        (&*path, json!({"plan": "gold", "state": "asleep"}), 422),
        ("/v1/admin/accounts/x", json!({}), 404),
        (
            "/v1/admin/accounts/01ARZ3NDEKTSV4RRFFQ69G5FAV",
            json!({}),
            404,
        ),
    ] {
        let reply = api.send_as(KEY, "PATCH", path, &body).await;
        assert_eq!(reply.status, status, "{path}");
        assert_shape(path, &reply);
    }
    for query in ["limit=0", "limit=501", "limit=x", "cursor=x"] {
        let reply = api
            .get_as(KEY, &format!("/v1/admin/accounts?{query}"))
            .await;
        assert_eq!(reply.status, 422, "{query}");
    }
}

#[tokio::test]
async fn a_disabled_account_is_locked_out_until_it_is_active_again() {
    let api = api();
    let (id, key) = api.register("ann@example.org").await;
    let session = api.log_in("ann@example.org").await;
    let path = format!("/v1/admin/accounts/{id}");
    api.send_as(KEY, "PATCH", &path, &json!({"state": "disabled"}))
        .await;
    let credentials = json!({"email": "ann@example.org", "password": PASSWORD});
    let refresh = json!({"refresh_token": session["refresh_token"]});
    assert_eq!(api.get_as(&key, "/v1/models").await.status, 401);
    assert_eq!(api.post("/v1/auth/login", &credentials).await.status, 401);
    assert_eq!(api.post("/v1/auth/refresh", &refresh).await.status, 401);
    api.send_as(KEY, "PATCH", &path, &json!({"state": "active"}))
        .await;
    assert_eq!(api.get_as(&key, "/v1/models").await.status, 200);
    assert_eq!(api.post("/v1/auth/refresh", &refresh).await.status, 200);
}

#[tokio::test]
async fn an_explorer_has_ten_requests_a_minute_in_every_dialect() {
    let api = api_of(AccountsConfig {
        default_plan: Plan::Explorer,
        ..AccountsConfig::default()
    });
    let (_, key) = api.register("ann@example.org").await;
    let paths = ["/v1/llm/generate", "/v1/chat/completions", "/api/chat"];
    for path in paths.iter().cycle().take(10) {
        let reply = api.send_as(&key, "POST", path, &json!({})).await;
        assert_ne!(reply.status, 429, "{path}: {}", reply.text);
    }
    for path in paths {
        let reply = api.send_as(&key, "POST", path, &json!({})).await;
        assert_eq!(reply.status, 429, "{path}");
        assert_shape(path, &reply);
        assert!(!reply.header("retry-after").is_empty());
    }
    // What is free is not counted, and others are not touched.
    assert_eq!(api.get_as(&key, "/v1/models").await.status, 200);
    for _ in 0..20 {
        let reply = api
            .send_as(KEY, "POST", "/v1/llm/generate", &json!({}))
            .await;
        assert_eq!(reply.status, 422);
    }
}

#[tokio::test]
async fn a_stream_counts_as_running_until_it_ends_or_its_client_goes() {
    type Frame = Result<Bytes, Infallible>;
    let (streams, source) = mpsc::channel::<mpsc::Receiver<Frame>>(4);
    let source = std::sync::Arc::new(Mutex::new(source));
    let config = AccountsConfig {
        default_plan: Plan::Explorer,
        ..AccountsConfig::default()
    };
    let api = api_made_of(HttpConfig::default(), config, |state| {
        let stream = post(async move || {
            let frames = source.lock().await.recv().await.unwrap();
            Body::from_stream(ReceiverStream::new(frames))
        });
        api::with_layers(Router::new().route("/v1/llm/chat", stream), state)
    });
    let created = api.accounts.create("ann@example.org", None, None).await;
    let key = created.unwrap().api_key.reveal().to_owned();
    let begin = async || {
        let (frames, receiver) = mpsc::channel::<Frame>(4);
        streams.send(receiver).await.unwrap();
        let request = axum::http::Request::post("/v1/llm/chat")
            .header("authorization", format!("Bearer {key}"))
            .body(Body::empty())
            .unwrap();
        let response = api.router.clone().oneshot(request).await.unwrap();
        (frames, response)
    };
    let (frames, response) = begin().await;
    assert_eq!(response.status(), 200);
    let refused = api.send_as(&key, "POST", "/v1/llm/chat", &json!({})).await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.header("retry-after"), "1");
    frames.send(Ok(Bytes::from_static(b"a"))).await.unwrap();
    drop(frames);
    let body = axum::body::to_bytes(response.into_body(), 10)
        .await
        .unwrap();
    assert_eq!(body, "a");
    let (_frames, abandoned) = begin().await;
    assert_eq!(abandoned.status(), 200);
    drop(abandoned);
    let (_frames, response) = begin().await;
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn a_key_is_looked_up_in_microseconds() {
    let api = api();
    let (_, key) = api.register("ann@example.org").await;
    let started = std::time::Instant::now();
    for _ in 0..100 {
        assert_eq!(api.get_as(&key, "/v1/keys?limit=1").await.status, 200);
    }
    // A disk or a password hash on the way would take longer by far, on any machine.
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );
}
