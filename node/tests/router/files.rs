//! Files through the router: who reaches which, and what uploads may be.

use aither_ledger::AccountId;
use aither_node::{
    agents::{AgentCaller, Mode},
    services::SpawnTerms,
};
use aither_protocol::{Capability, CapabilitySet, Plan};
use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::support::{ARTIFACT_BYTES_MAX, Api, KEY, Reply, api};

const BOUNDARY: &str = "a-boundary";

/// An account, and agents of it.
struct Home {
    account: String,
    account_id: String,
    agents: Vec<AgentKeys>,
}

struct AgentKeys {
    id: String,
    name: String,
    key: String,
    caller: AgentCaller,
}

async fn home(api: &Api, email: &str, names: &[&str]) -> Home {
    let made = api.accounts.create(email, None, Some(Plan::Enterprise));
    let made = made.await.unwrap();
    let owner = AccountId(made.account.id.as_u128());
    let mut agents = Vec::new();
    for name in names {
        let card = json!({
            "name": name,
            "version": "1.0.0",
            "description": "keeps files",
            "skills": [],
            "endpoints": [{ "path": "/health", "method": "GET" }],
            "capabilities_requested": ["file_upload", "llm_inference"],
            "billing": { "token_cost_per_request": 1, "category": "agent" },
            "health_endpoint": "/health",
        });
        let whose = (owner, Plan::Enterprise);
        let onboarded = api
            .agents
            .onboard(whose, &card, Mode::Hybrid)
            .await
            .unwrap();
        let key = onboarded.key.0.reveal().to_owned();
        agents.push(AgentKeys {
            id: onboarded.agent.id.to_string(),
            name: (*name).to_owned(),
            caller: api.agents.authenticate(&key).unwrap(),
            key,
        });
    }
    Home {
        account: made.api_key.reveal().to_owned(),
        account_id: made.account.id.to_string(),
        agents,
    }
}

/// Asks as the holder of a key.
async fn ask(api: &Api, key: &str, (method, path): (&str, &str), body: Value) -> Reply {
    let bearer = format!("Bearer {key}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    api.send(method, path, &headers, body.to_string()).await
}

async fn write(api: &Api, key: &str, id: &str, path: &str) -> Reply {
    let body = json!({ "path": path, "data": "text" });
    let route = format!("/api/workspaces/{id}/write");
    ask(api, key, ("POST", &route), body).await
}

fn part(head: &str, content: &[u8]) -> Vec<u8> {
    let head = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; {head}\r\n\r\n");
    [head.as_bytes(), content, b"\r\n"].concat()
}

async fn upload(api: &Api, key: &str, parts: &[Vec<u8>]) -> Reply {
    let bearer = format!("Bearer {key}");
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", kind.as_str()),
    ];
    let body = [parts.concat(), format!("--{BOUNDARY}--\r\n").into_bytes()].concat();
    api.send("POST", "/v1/artifacts/store", &headers, body)
        .await
}

fn file(content: &[u8]) -> Vec<u8> {
    part("name=\"file\"; filename=\"a.txt\"", content)
}

#[tokio::test]
async fn everybody_reaches_their_own_files_and_no_others() {
    let api = api();
    let home = home(&api, "files@example.org", &["keeper", "sibling"]).await;
    let other = self::home(&api, "other@example.org", &["stranger"]).await;
    let (keeper, sibling) = (&home.agents[0], &home.agents[1]);
    for id in [&*keeper.id, &*keeper.name, "@me"] {
        let reply = write(&api, &keeper.key, id, "data/a").await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        assert_eq!(reply.json()["workspace"], *keeper.id);
    }
    for id in [&*home.account_id, "@me", &*keeper.id, &*sibling.name] {
        let reply = write(&api, &home.account, id, "data/b").await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    }
    for id in [&*home.account_id, &*keeper.id, &*sibling.name, "@me"] {
        assert_eq!(write(&api, KEY, id, "data/c").await.status, StatusCode::OK);
    }
    let strangers = &other.agents[0];
    for (key, id) in [
        (&keeper.key, &sibling.id),
        (&keeper.key, &sibling.name),
        (&keeper.key, &home.account_id),
        (&strangers.key, &keeper.id),
        (&other.account, &keeper.name),
        (&other.account, &home.account_id),
        (&home.account, &other.account_id),
    ] {
        let reply = write(&api, key, id, "data/d").await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "{}", reply.text);
        assert_eq!(reply.json()["code"], "unknown_agent");
    }
    // Nobody's and another's are told apart by nothing.
    let nobody = write(&api, &other.account, "nobody", "data/d").await;
    assert_eq!(nobody.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_capability_token_reaches_files_only_with_file_upload() {
    let api = api();
    let home = home(&api, "narrow@example.org", &["parent"]).await;
    let parent = &home.agents[0];
    let spawn = |capability| {
        let terms = SpawnTerms {
            capabilities: CapabilitySet::EMPTY.with(capability),
            caveats: Vec::new(),
        };
        let spawned = api.agents.spawn(&parent.caller, &terms).unwrap();
        spawned.text.to_string()
    };
    let (with, without) = (
        spawn(Capability::FileUpload),
        spawn(Capability::LlmInference),
    );
    let allowed = write(&api, &with, "@me", "data/a").await;
    assert_eq!(allowed.status, StatusCode::OK, "{}", allowed.text);
    let stored = upload(&api, &with, &[file(b"x")]).await;
    assert_eq!(stored.status, StatusCode::CREATED, "{}", stored.text);
    let artifact = format!(
        "/v1/artifacts/{}",
        stored.json()["artifact_id"].as_str().unwrap()
    );
    let refused = [
        write(&api, &without, "@me", "data/a").await,
        ask(
            &api,
            &without,
            ("GET", "/api/workspaces/@me/files"),
            json!({}),
        )
        .await,
        ask(&api, &without, ("GET", "/v1/artifacts"), json!({})).await,
        ask(&api, &without, ("GET", &artifact), json!({})).await,
        ask(&api, &without, ("DELETE", &artifact), json!({})).await,
        upload(&api, &without, &[file(b"x")]).await,
    ];
    for reply in refused {
        assert_eq!(reply.status, StatusCode::FORBIDDEN, "{}", reply.text);
        assert_eq!(reply.json()["capability"], "file_upload");
    }
}

#[tokio::test]
async fn an_artifact_is_its_accounts_unless_it_is_public() {
    let api = api();
    let home = home(&api, "artifacts@example.org", &["maker", "reader"]).await;
    let other = self::home(&api, "others@example.org", &["outsider"]).await;
    let (maker, reader) = (&home.agents[0], &home.agents[1]);
    let public = part(
        "name=\"metadata\"",
        br#"{"public": true, "name": "p.html"}"#,
    );
    let own = upload(&api, &maker.key, &[file(b"private")]).await;
    let public = upload(&api, &maker.key, &[file(b"<p>"), public]).await;
    assert_eq!(own.status, StatusCode::CREATED, "{}", own.text);
    let path = |reply: &Reply| {
        format!(
            "/v1/artifacts/{}",
            reply.json()["artifact_id"].as_str().unwrap()
        )
    };
    let (own, public) = (path(&own), path(&public));
    for (key, seen) in [
        (&maker.key, [true, true]),
        (&reader.key, [true, true]),
        (&home.account, [true, true]),
        (&KEY.to_owned(), [true, true]),
        (&other.account, [false, true]),
        (&other.agents[0].key, [false, true]),
    ] {
        for (path, seen) in [&own, &public].into_iter().zip(seen) {
            let reply = ask(&api, key, ("GET", path), json!({})).await;
            assert_eq!(reply.status.is_success(), seen, "{}", reply.text);
            if !seen {
                assert_eq!(reply.status, StatusCode::NOT_FOUND);
            }
        }
    }
    let shown = ask(&api, &other.account, ("GET", &public), json!({})).await;
    assert_eq!(shown.header("x-content-type-options"), "nosniff");
    assert!(
        shown
            .header("content-disposition")
            .starts_with("attachment; filename=\"p.html\"")
    );
    for (key, status) in [
        (&other.account, StatusCode::FORBIDDEN),
        (&reader.key, StatusCode::FORBIDDEN),
        (&maker.key, StatusCode::NO_CONTENT),
        (&maker.key, StatusCode::NOT_FOUND),
    ] {
        let reply = ask(&api, key, ("DELETE", &public), json!({})).await;
        assert_eq!(reply.status, status, "{}", reply.text);
    }
    let listed = ask(&api, &reader.key, ("GET", "/v1/artifacts"), json!({}))
        .await
        .json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    assert_eq!(listed["items"][0]["agent_id"], *maker.id);
}

#[tokio::test]
async fn an_upload_may_be_larger_than_a_body_and_no_larger_than_an_artifact() {
    let api = api();
    let home = home(&api, "large@example.org", &[]).await;
    let largest = vec![b'x'; usize::try_from(ARTIFACT_BYTES_MAX).unwrap()];
    let stored = upload(&api, &home.account, &[file(&largest)]).await;
    assert_eq!(stored.status, StatusCode::CREATED, "{}", stored.text);
    assert_eq!(stored.json()["size_bytes"], ARTIFACT_BYTES_MAX);
    let refused = upload(&api, &home.account, &[file(&[&largest[..], b"x"].concat())]).await;
    assert_eq!(
        refused.status,
        StatusCode::PAYLOAD_TOO_LARGE,
        "{}",
        refused.text
    );
    let listed = ask(&api, &home.account, ("GET", "/v1/artifacts"), json!({}))
        .await
        .json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_large_part_that_nobody_knows_is_passed_over() {
    let api = api();
    let home = home(&api, "files@example.org", &[]).await;
    let unknown = part("name=\"preview\"", &vec![b'x'; 1 << 20]);
    for parts in [
        [unknown.clone(), file(b"text")],
        [file(b"text"), unknown.clone()],
    ] {
        let reply = upload(&api, &home.account, &parts).await;
        assert!(reply.status.is_success(), "{}", reply.text);
        assert_eq!(reply.json()["size_bytes"], 4);
    }
}

#[tokio::test]
async fn uploads_that_are_none_are_refused_with_words() {
    let api = api();
    let home = home(&api, "wrong@example.org", &[]).await;
    let metadata = |json: &str| part("name=\"metadata\"", json.as_bytes());
    let many = vec![part("name=\"other\"", b"x"); 20];
    for (parts, status, word) in [
        (vec![metadata("{}")], 422, "file"),
        (vec![file(b"a"), file(b"b")], 422, "once"),
        (vec![file(b"a"), metadata("{")], 400, "JSON"),
        (vec![file(b"a"), metadata("[]")], 422, "object"),
        (
            vec![file(b"a"), metadata(r#"{"public": 1}"#)],
            422,
            "public",
        ),
        (
            vec![file(b"a"), metadata(&"x".repeat(20_000))],
            413,
            "metadata",
        ),
        (many, 400, "parts"),
        (
            vec![part(&format!("name=\"{}\"", "n".repeat(1 << 20)), b"x")],
            400,
            "multipart",
        ),
    ] {
        let reply = upload(&api, &home.account, &parts).await;
        assert_eq!(reply.status.as_u16(), status, "{}", reply.text);
        assert!(reply.text.contains(word), "{word}: {}", reply.text);
    }
    let plain = ask(
        &api,
        &home.account,
        ("POST", "/v1/artifacts/store"),
        json!({}),
    )
    .await;
    assert_eq!(plain.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let listed = ask(&api, &home.account, ("GET", "/v1/artifacts"), json!({}))
        .await
        .json();
    assert_eq!(listed["items"], json!([]));
}
