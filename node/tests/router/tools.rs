//! Searches, repositories and fetches through the router: who may, what is refused, and how.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use aither_ledger::AccountId;
use aither_node::{
    agents::Mode,
    api,
    config::{CodeConfig, Config, FetchConfig, RepositoryConfig, SearchConfig},
};
use aither_protocol::Plan;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::support::{Api, KEY, Reply, api, api_of_config, assert_shape};

/// Longest wait for an index.
const DEADLINE: Duration = Duration::from_secs(60);
const ALL: [&str; 4] = ["web_search", "code_read", "code_write", "external_api"];

async fn post_as(api: &Api, key: &str, path: &str, body: &Value) -> Reply {
    let key = format!("Bearer {key}");
    let headers = [
        ("authorization", &*key),
        ("content-type", "application/json"),
    ];
    api.send("POST", path, &headers, body.to_string()).await
}

fn is_problem(path: &str, reply: &Reply, status: u16, code: &str) -> Value {
    assert_shape(path, reply);
    let json = reply.json();
    assert_eq!(
        (reply.status.as_u16(), &json["code"]),
        (status, &json!(code)),
        "{path} {json}"
    );
    json
}

/// The key of a new agent.
async fn agent(api: &Api, name: &str, capabilities: &[&str]) -> String {
    let email = format!("{name}@example.org");
    let plan = Some(Plan::Enterprise);
    let account = api.accounts.create(&email, None, plan).await.unwrap();
    let owner = AccountId(account.account.id.as_u128());
    let card = json!({
        "name": name,
        "version": "1.0.0",
        "description": "uses tools",
        "skills": [],
        "endpoints": [{"path": "/chat", "method": "POST", "description": "chat"}],
        "capabilities_requested": capabilities,
        "billing": {"token_cost_per_request": 1, "category": "reasoning"},
        "health_endpoint": "/health",
    });
    let onboarded = api
        .agents
        .onboard((owner, Plan::Enterprise), &card, Mode::Hybrid);
    onboarded.await.unwrap().key.0.reveal().to_owned()
}

const ASKED: [(&str, &str); 4] = [
    ("/v1/search", r#"{"query": "tea"}"#),
    ("/v1/code/read", r#"{"repo": "site"}"#),
    (
        "/v1/code/write",
        r#"{"repo": "site", "message": "x", "files": [{"path": "a", "content": ""}]}"#,
    ),
    ("/v1/http/fetch", r#"{"url": "https://example.org/"}"#),
];

#[tokio::test]
async fn what_is_not_configured_says_how_it_is() {
    let api = api();
    for (path, body) in ASKED {
        let body = serde_json::from_str(body).unwrap();
        let problem = is_problem(
            path,
            &post_as(&api, KEY, path, &body).await,
            503,
            "not_configured",
        );
        let words = problem["detail"].as_str().unwrap();
        assert!(words.contains('[') && words.contains(" = "), "{words}");
    }
}

#[tokio::test]
async fn each_tool_needs_its_capability_and_a_key() {
    let api = api();
    for ((path, body), capability) in ASKED.into_iter().zip(ALL) {
        let body = serde_json::from_str(body).unwrap();
        is_problem(path, &api.post(path, &body).await, 401, "unauthorized");
        let others: Vec<_> = ALL
            .into_iter()
            .filter(|other| *other != capability)
            .collect();
        let name = capability.replace('_', "-");
        let without = agent(&api, &format!("no-{name}"), &others).await;
        let reply = post_as(&api, &without, path, &body).await;
        let problem = is_problem(path, &reply, 403, "capability_missing");
        assert_eq!(problem["capability"], capability);
        let with = agent(&api, &name, &[capability]).await;
        let reply = post_as(&api, &with, path, &body).await;
        is_problem(path, &reply, 503, "not_configured");
    }
}

/// A repository with one commit that has one file.
fn repository(path: &Path) {
    let options = gix::open::Options::isolated();
    let kind = gix::create::Kind::Bare;
    let made = gix::ThreadSafeRepository::init_opts(path, kind, Default::default(), options);
    let git = made.unwrap().to_thread_local();
    let entries = vec![gix::objs::tree::Entry {
        mode: gix::objs::tree::EntryKind::Blob.into(),
        filename: "README.md".into(),
        oid: git.write_blob("hello\n").unwrap().detach(),
    }];
    let tree = git.write_object(gix::objs::Tree { entries }).unwrap();
    let person = gix::actor::SignatureRef {
        name: "Ann".into(),
        email: "ann@example.org".into(),
        time: "1000 +0000",
    };
    let parents: [gix::ObjectId; 0] = [];
    let made = git.commit_as(person, person, "refs/heads/main", "Begin", tree, parents);
    made.unwrap();
}

fn with_repositories(folder: &Path) -> Api {
    let mut repositories = BTreeMap::new();
    for (name, write, allow) in [
        ("site", true, vec![]),
        ("fixed", false, vec![]),
        (
            "private",
            true,
            vec!["01ARZ3NDEKTSV4RRFFQ69G5FAV/bot".to_owned()],
        ),
    ] {
        let path = folder.join(name);
        repository(&path);
        repositories.insert(name.to_owned(), RepositoryConfig { path, write, allow });
    }
    let code = CodeConfig {
        bytes_a_day: 100 << 10,
        repositories,
    };
    let config = Config {
        code,
        ..Config::default()
    };
    api_of_config(config, api::router)
}

#[tokio::test]
async fn an_agent_reads_a_repository_and_commits_to_a_branch_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let api = with_repositories(folder.path());
    let bot = agent(&api, "bot", &["code_read", "code_write"]).await;
    let read = async |key: &str, body: Value| post_as(&api, key, "/v1/code/read", &body).await;
    let known = read(&bot, json!({"op": "repositories"})).await.json();
    let expected = json!([{"repo": "fixed", "write": false}, {"repo": "site", "write": true}]);
    assert_eq!(known["repositories"], expected);
    let file = read(&bot, json!({"repo": "site", "path": "README.md"}))
        .await
        .json();
    assert_eq!(
        (&file["op"], &file["content"]),
        (&json!("file"), &json!("hello\n"))
    );
    assert_eq!(
        (&file["encoding"], &file["repo"]),
        (&json!("utf-8"), &json!("site"))
    );
    let body = json!({
        "repo": "site", "message": "Say more", "files": [{"path": "a/b", "content": "new"}],
    });
    let written = post_as(&api, &bot, "/v1/code/write", &body).await.json();
    let branch = written["branch"].as_str().unwrap();
    let (start, account) = branch
        .strip_suffix("/work")
        .unwrap()
        .rsplit_once('-')
        .unwrap();
    assert_eq!((start, account.len()), ("aither/bot", 8), "{branch}");
    assert_eq!(written["files_changed"], 1);
    let shown = json!({"repo": "site", "op": "commit", "ref": written["commit"]});
    let shown = read(&bot, shown).await.json();
    assert_eq!(
        (&shown["subject"], &shown["author"]["name"]),
        (&json!("Say more"), &json!("bot"))
    );
    assert_eq!(shown["changes"][0]["path"], "a/b");
    // Another agent reads it, and has a folder of its own.
    let other = agent(&api, "other", &["code_read", "code_write"]).await;
    let seen = json!({"repo": "site", "path": "a/b", "ref": branch});
    assert_eq!(read(&other, seen).await.json()["content"], "new");
    let of_other = post_as(&api, &other, "/v1/code/write", &body).await.json();
    let of_other = of_other["branch"].as_str().unwrap().to_owned();
    assert!(of_other.starts_with("aither/other-"), "{of_other}");
    let written = post_as(&api, KEY, "/v1/code/write", &body).await.json();
    assert_eq!(written["branch"], "aither/_operator/work");
}

#[tokio::test]
async fn an_account_writes_no_more_to_repositories_than_it_may_in_a_day() {
    let folder = tempfile::tempdir().unwrap();
    let api = with_repositories(folder.path());
    let bot = agent(&api, "bot", &["code_write"]).await;
    let other = agent(&api, "other", &["code_write"]).await;
    let of_bytes = |len: usize| {
        let files = json!([{"path": "a", "content": "x".repeat(len)}]);
        json!({"repo": "site", "message": "x", "files": files})
    };
    // With what each file counts for, one fits and a second does not, on whatever day.
    let refused = post_as(&api, &bot, "/v1/code/write", &of_bytes(100 << 10)).await;
    is_problem("too much", &refused, 429, "rate_limited");
    assert!(refused.headers.contains_key("retry-after"));
    let body = of_bytes(1 << 10);
    for key in [&*bot, &*other, KEY] {
        let reply = post_as(&api, key, "/v1/code/write", &body).await;
        assert_eq!(reply.status.as_u16(), 200, "{}", reply.text);
    }
    // The operator has no bound.
    let reply = post_as(&api, KEY, "/v1/code/write", &of_bytes(100 << 10)).await;
    assert_eq!(reply.status.as_u16(), 200, "{}", reply.text);
}

// tidy: table
#[tokio::test]
async fn what_a_repository_refuses_has_its_code() {
    let folder = tempfile::tempdir().unwrap();
    let api = with_repositories(folder.path());
    let bot = agent(&api, "bot", &["code_read", "code_write"]).await;
    let write = |repo: &str, path: &str, expected: Option<&str>| {
        json!({
            "repo": repo, "message": "x", "expected_head": expected,
            "files": [{"path": path, "content": "x"}],
        })
    };
    let nowhere = "0".repeat(40);
    let rows = [
        ("/v1/code/read", json!({"repo": "none"}), 404, "not_found"),
        (
            "/v1/code/read",
            json!({"repo": "private"}),
            404,
            "not_found",
        ),
        (
            "/v1/code/read",
            json!({"repo": "site", "path": "none"}),
            404,
            "not_found",
        ),
        (
            "/v1/code/read",
            json!({"repo": "site", "ref": "none"}),
            404,
            "not_found",
        ),
        (
            "/v1/code/read",
            json!({"repo": "site", "path": "../x"}),
            422,
            "validation_failed",
        ),
        (
            "/v1/code/write",
            write("private", "a", None),
            404,
            "not_found",
        ),
        (
            "/v1/code/write",
            write("fixed", "a", None),
            403,
            "capability_missing",
        ),
        (
            "/v1/code/write",
            write("site", ".git/config", None),
            422,
            "validation_failed",
        ),
        (
            "/v1/code/write",
            write("site", "a", Some(&nowhere)),
            409,
            "conflict",
        ),
    ];
    for (path, body, status, code) in rows {
        let reply = post_as(&api, &bot, path, &body).await;
        is_problem(path, &reply, status, code);
    }
    // It is there, for an agent of the same name of another account.
    let reply = post_as(&api, KEY, "/v1/code/read", &json!({"repo": "private"})).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
}

#[tokio::test]
async fn folders_are_searched_and_machine_paths_are_not_told() {
    let folder = tempfile::tempdir().unwrap();
    let docs = folder.path().join("docs");
    std::fs::create_dir(&docs).unwrap();
    std::fs::write(
        docs.join("tea.md"),
        "# On tea\n\nBrew it for three minutes.",
    )
    .unwrap();
    let config = Config {
        search: SearchConfig {
            folders: vec![docs],
            ..SearchConfig::default()
        },
        ..Config::default()
    };
    let api = api_of_config(config, api::router);
    let body = json!({"query": "brew minutes", "include_content": true});
    let until = Instant::now() + DEADLINE;
    let found = loop {
        let found = post_as(&api, KEY, "/v1/search", &body).await.json();
        if found.get("indexing").is_none() {
            break found;
        }
        assert!(Instant::now() < until, "{found}");
        tokio::task::yield_now().await;
    };
    assert_eq!(
        (&found["source"], &found["cost_tokens"]),
        (&json!("folders"), &json!(0))
    );
    let result = &found["results"][0];
    assert_eq!(
        (&result["title"], &result["url"]),
        (&json!("On tea"), &json!("local:docs/tea.md"))
    );
    assert!(
        result["content"]
            .as_str()
            .unwrap()
            .contains("three minutes")
    );
    assert!(!found.to_string().contains(folder.path().to_str().unwrap()));
    for body in [
        json!({"query": " "}),
        json!({"query": "x".repeat(1001)}),
        json!({"query": "x", "max_results": 0}),
        json!({"query": "x", "max_results": 51}),
    ] {
        let reply = post_as(&api, KEY, "/v1/search", &body).await;
        is_problem("/v1/search", &reply, 422, "validation_failed");
    }
}

/// A server that answers everything with bytes that are no text.
async fn bytes_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 2048];
            // The head comes in one piece, and a client that left is no failure here.
            let _ = stream.read(&mut request).await;
            let head = b"HTTP/1.1 201 Created\r\nX-A: 1\r\nx-a: 2\r\ncontent-length: 3\r\n\r\n";
            let _ = stream.write_all(&[&head[..], b"\0\xff\x01"].concat()).await;
        }
    });
    url
}

#[tokio::test]
async fn what_the_operator_allows_is_fetched_and_other_addresses_are_refused() {
    let url = bytes_server().await;
    let config = Config {
        fetch: FetchConfig {
            allow: vec![url.clone(), "*".to_owned()],
            allow_private: true,
        },
        ..Config::default()
    };
    let api = api_of_config(config, api::router);
    let fetch = async |body: Value| post_as(&api, KEY, "/v1/http/fetch", &body).await;
    let fetched = fetch(json!({"url": format!("{url}/a")})).await.json();
    assert_eq!(
        (&fetched["status"], &fetched["encoding"]),
        (&json!(201), &json!("base64"))
    );
    assert_eq!(
        (&fetched["body"], &fetched["headers"]["x-a"]),
        (&json!("AP8B"), &json!("1, 2"))
    );
    assert_eq!(
        (&fetched["url"], &fetched["truncated"]),
        (&json!(format!("{url}/a")), &json!(false))
    );
    for url in [
        "http://127.0.0.1/",
        "http://localhost/",
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]/",
        "https://example.org:22/",
        "file:///etc/passwd",
    ] {
        let reply = fetch(json!({"url": url})).await;
        is_problem("/v1/http/fetch", &reply, 403, "target_forbidden");
    }
    let reply = fetch(json!({"url": url, "headers": {"Host": "other"}})).await;
    let problem = is_problem("/v1/http/fetch", &reply, 422, "validation_failed");
    assert_eq!(problem["errors"][0]["field"], "headers.Host");
}

#[tokio::test]
async fn what_the_node_works_for_counts_against_the_plan() {
    let api = api();
    let allowed = Plan::Explorer.requests_per_minute().unwrap();
    // Also where it is refused for what it is: the plan comes first.
    for (path, is_counted) in [
        ("/v1/search", true),
        ("/v1/http/fetch", true),
        ("/v1/code/write", true),
        ("/v1/events/emit", true),
        ("/v1/artifacts/store", true),
        ("/v1/documents/analyze", true),
        ("/v1/code/read", false),
    ] {
        let email = format!("{}@example.org", path.replace('/', "-"));
        let made = api.accounts.create(&email, None, Some(Plan::Explorer));
        let key = made.await.unwrap().api_key;
        for number in 0..=allowed {
            let reply = post_as(&api, key.reveal(), path, &json!({})).await;
            let is_refused = reply.status.as_u16() == 429;
            let is_beyond = is_counted && number == allowed;
            assert_eq!(is_refused, is_beyond, "{path} {number} {}", reply.text);
        }
    }
}
