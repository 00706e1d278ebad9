//! The router without a network and without a model: who may ask, what is refused, and how every
//! error looks. What needs a model is tested against the real binary, in `python/`.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop there"
)]

mod accounts;
mod agents;
mod calls;
mod documents;
mod events;
mod files;
mod idempotency;
mod lifecycle;
mod support;
mod tools;

use aither_node::{api, config::HttpConfig, services::ReadyState};
use axum::{
    Router,
    http::StatusCode,
    routing::{get, post},
};
use serde_json::{Value, json};

use self::support::{BODY_BYTES_MAX, KEY, Reply, api, api_made_by, api_with, assert_shape, words};

// tidy: table
#[tokio::test]
async fn every_documented_route_answers_and_every_route_is_documented() {
    let api = api();
    let document = api.get("/openapi.json").await.json();
    let mut documented = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let url = ["{id}", "{name}", "{token}"]
                .iter()
                .fold(path.clone(), |url, parameter| url.replace(parameter, "x"));
            let reply = api.send(&method.to_uppercase(), &url, &[], "").await;
            let is_routed = reply.status != StatusCode::METHOD_NOT_ALLOWED
                && !words_or_empty(&reply).contains("see /docs");
            assert!(
                is_routed,
                "{method} {path}: {} {}",
                reply.status, reply.text
            );
            documented.push(format!("{method} {path}"));
        }
    }
    documented.sort();
    let expected = [
        "delete /api/agents/{id}",
        "delete /api/delete",
        "delete /api/workspaces/{id}/delete",
        "delete /v1/a2a/tasks/{id}",
        "delete /v1/agents/{name}",
        "delete /v1/agents/{name}/tokens/{token}",
        "delete /v1/artifacts/{id}",
        "delete /v1/keys/{id}",
        "delete /v1/marketplace/listings",
        "delete /v1/marketplace/listings/{agent}",
        "get /",
        "get /AGENTS.md",
        "get /SKILLS.md",
        "get /api/agents/{id}",
        "get /api/audit/{id}",
        "get /api/ps",
        "get /api/tags",
        "get /api/version",
        "get /api/workspaces/{id}/files",
        "get /api/workspaces/{id}/read",
        "get /docs",
        "get /health",
        "get /metrics",
        "get /openapi.json",
        "get /ready",
        "get /v1/a2a/agents/{name}",
        "get /v1/a2a/tasks/{id}",
        "get /v1/admin/accounts",
        "get /v1/admin/prices",
        "get /v1/agents",
        "get /v1/agents/{name}",
        "get /v1/agents/{name}/connection-info",
        "get /v1/agents/{name}/health",
        "get /v1/agents/{name}/lifecycle",
        "get /v1/agents/{name}/logs",
        "get /v1/agents/{name}/usage",
        "get /v1/artifacts",
        "get /v1/artifacts/{id}",
        "get /v1/auth/me",
        "get /v1/billing/balance",
        "get /v1/billing/statement",
        "get /v1/billing/usage",
        "get /v1/capabilities",
        "get /v1/discovery",
        "get /v1/events/subscribe",
        "get /v1/keys",
        "get /v1/marketplace",
        "get /v1/memory/list",
        "get /v1/models",
        "get /v1/models/{id}",
        "get /v1/schemas/agent-card.json",
        "get /v1/schemas/aither-agent.json",
        "patch /v1/admin/accounts/{id}",
        "post /api/agents/{id}/resume",
        "post /api/agents/{id}/rotate-key",
        "post /api/agents/{id}/suspend",
        "post /api/chat",
        "post /api/delete",
        "post /api/embed",
        "post /api/embeddings",
        "post /api/generate",
        "post /api/onboard",
        "post /api/onboard/quick",
        "post /api/pull",
        "post /api/show",
        "post /api/workspaces/{id}/write",
        "post /v1/a2a/parallel",
        "post /v1/a2a/tasks",
        "post /v1/admin/accounts",
        "post /v1/admin/backup",
        "post /v1/admin/token-keys",
        "post /v1/agents/auto-onboard",
        "post /v1/agents/{name}/call",
        "post /v1/agents/{name}/chat",
        "post /v1/agents/{name}/drain",
        "post /v1/agents/{name}/resume",
        "post /v1/agents/{name}/rotate-key",
        "post /v1/agents/{name}/spawn",
        "post /v1/agents/{name}/suspend",
        "post /v1/artifacts/store",
        "post /v1/auth/login",
        "post /v1/auth/refresh",
        "post /v1/auth/register",
        "post /v1/billing/check",
        "post /v1/billing/deduct",
        "post /v1/billing/topup",
        "post /v1/chat/completions",
        "post /v1/code/read",
        "post /v1/code/write",
        "post /v1/completions",
        "post /v1/documents/analyze",
        "post /v1/embeddings",
        "post /v1/events/emit",
        "post /v1/http/fetch",
        "post /v1/llm/chat",
        "post /v1/llm/embed",
        "post /v1/llm/generate",
        "post /v1/marketplace/listings",
        "post /v1/memory/codegraph/index",
        "post /v1/memory/codegraph/query",
        "post /v1/memory/complete-task",
        "post /v1/memory/delete",
        "post /v1/memory/read",
        "post /v1/memory/search",
        "post /v1/memory/write",
        "post /v1/models/import",
        "post /v1/search",
        "put /v1/admin/prices",
        "put /v1/agents/{name}/card",
    ];
    assert_eq!(documented, expected);
}

fn words_or_empty(reply: &Reply) -> String {
    if reply.status.is_success() || reply.status.is_redirection() {
        String::new()
    } else {
        words(reply)
    }
}

#[tokio::test]
async fn every_schema_and_tag_that_the_document_names_is_in_it() {
    let document = api().get("/openapi.json").await.json();
    // The page shows routes by these tags; one without would be missing there.
    let known: Vec<_> = document["tags"].as_array().unwrap().iter().collect();
    for item in document["paths"].as_object().unwrap().values() {
        for (method, operation) in item.as_object().unwrap() {
            let tag = &operation["tags"][0];
            assert!(
                known.iter().any(|entry| entry["name"] == *tag),
                "{method} {tag}"
            );
        }
    }
    let mut names = Vec::new();
    collect_references(&document, &mut names);
    assert!(names.len() > 20);
    for name in names {
        let name = name.rsplit('/').next().unwrap();
        assert!(
            document["components"]["schemas"].get(name).is_some(),
            "{name}"
        );
    }
}

#[tokio::test]
async fn each_dialects_bodies_are_documented_with_its_own_fields() {
    let api = api();
    let document = api.get("/openapi.json").await.json();
    let schema = |reference: &Value| {
        let name = reference["$ref"].as_str().unwrap().rsplit('/').next();
        document["components"]["schemas"][name.unwrap()].clone()
    };
    let request_of = |path: &str| {
        let content = &document["paths"][path]["post"]["requestBody"]["content"];
        schema(&content["application/json"]["schema"]).to_string()
    };
    let answer_of = |path: &str| {
        let content = &document["paths"][path]["post"]["responses"]["200"]["content"];
        schema(&content["application/json"]["schema"]).to_string()
    };
    let cases = [
        ("/v1/chat/completions", "logit_bias", "choices"),
        ("/v1/completions", "echo", "choices"),
        ("/v1/llm/generate", "prompt", "tokens_used"),
        ("/v1/llm/chat", "messages", "tokens_used"),
        ("/api/chat", "keep_alive", "done_reason"),
        ("/api/generate", "raw", "done_reason"),
    ];
    for (path, asked, answered) in cases {
        assert!(request_of(path).contains(asked), "{path}: {asked}");
        assert!(answer_of(path).contains(answered), "{path}: {answered}");
    }
    let mut ids = std::collections::BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_owned()), "{method} {path}: {id}");
        }
    }
}

fn collect_references(value: &Value, names: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            names.extend(
                members
                    .get("$ref")
                    .and_then(Value::as_str)
                    .map(str::to_owned),
            );
            members
                .values()
                .for_each(|member| collect_references(member, names));
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| collect_references(item, names)),
        _ => {}
    }
}

#[tokio::test]
async fn errors_have_the_shape_of_their_path() {
    let api = api();
    let json = [("content-type", "application/json")];
    let large = format!("{{\"prompt\":\"{}\"}}", "a".repeat(BODY_BYTES_MAX));
    for path in [
        "/v1/llm/generate",
        "/v1/chat/completions",
        "/v1/completions",
        "/api/chat",
    ] {
        let rows: [(&str, &[u8], u16); 5] = [
            ("GET", b"", 405),
            ("POST", b"", 400),
            ("POST", b"{\"prompt\":", 400),
            ("POST", b"{\"prompt\":\"\xff\"}", 400),
            ("POST", large.as_bytes(), 413),
        ];
        for (method, body, status) in rows {
            let reply = api.send(method, path, &json, body.to_vec()).await;
            assert_eq!(reply.status, status, "{method} {path}: {}", reply.text);
            assert_shape(path, &reply);
        }
    }
    for path in [
        "/nowhere",
        "/v1/nowhere",
        "/api/nowhere",
        "/v1/models/nowhere",
    ] {
        let reply = api.get(path).await;
        assert_eq!(reply.status, 404, "{path}");
        assert_shape(path, &reply);
    }
    let allow = api.get("/api/chat").await;
    assert_eq!(allow.header("allow"), "POST");
}

#[tokio::test]
async fn a_handler_that_panics_is_a_500_and_the_next_request_is_served() {
    async fn broken() -> StatusCode {
        panic!("the secret words")
    }
    let paths = ["/v1/llm/chat", "/v1/chat/completions", "/api/chat"];
    let api = api_made_by(HttpConfig::default(), |state| {
        let mut routes = Router::new().route("/health", get(async || "well"));
        for path in paths {
            routes = routes.route(path, post(broken));
        }
        api::with_layers(routes, state)
    });
    for path in paths {
        let reply = api.post(path, &json!({})).await;
        assert_eq!(reply.status, StatusCode::INTERNAL_SERVER_ERROR, "{path}");
        assert_shape(path, &reply);
        assert!(!reply.text.contains("secret"), "{path}: {}", reply.text);
        assert_eq!(api.get("/health").await.text, "well");
    }
}

#[tokio::test]
async fn a_body_must_be_json_but_ollamas_clients_need_not_say_so() {
    let api = api();
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let body = json!({"model": "x", "prompt": "a", "messages": []}).to_string();
    for path in ["/v1/llm/generate", "/v1/chat/completions"] {
        let reply = api.send("POST", path, &form, body.clone()).await;
        assert_eq!(reply.status, 415);
        assert_shape(path, &reply);
    }
    let reply = api.send("POST", "/api/generate", &form, body.clone()).await;
    assert_eq!(reply.status, 404, "{}", reply.text);
}

/// Posts each body and checks status, shape and words of the refusal.
#[tokio::test]
async fn a_body_that_is_no_object_is_refused_without_inventing_a_field() {
    let api = api();
    let headers = [("content-type", "application/json")];
    for path in ["/v1/llm/generate", "/v1/chat/completions", "/api/generate"] {
        for body in ["{", "[]", "[\"hi\"]", "\"hi\"", "7", "null"] {
            let reply = api.send("POST", path, &headers, body).await;
            assert!(reply.status.is_client_error(), "{path} {body}");
            assert_shape(path, &reply);
            assert!(!reply.text.contains('?'), "{path} {body}: {}", reply.text);
            assert!(
                !reply.text.contains("struct"),
                "{path} {body}: {}",
                reply.text
            );
        }
    }
}

async fn assert_refused(path: &str, status: u16, rows: &[(Value, &str)]) {
    let api = api();
    for (body, expected) in rows {
        let reply = api.post(path, body).await;
        assert_eq!(reply.status, status, "{path} {body}: {}", reply.text);
        assert_shape(path, &reply);
        let words = words(&reply);
        assert!(words.contains(expected), "{path} {body}: {words}");
    }
}

#[tokio::test]
async fn native_fields_are_refused_by_name() {
    let generate = [
        (json!({}), "prompt: is required"),
        (json!({"prompt": ""}), "prompt: must not be empty"),
        (json!({"prompt": 1}), "prompt: invalid type"),
        (
            json!({"prompt": "a", "temperature": "NaN"}),
            "temperature: ",
        ),
    ];
    assert_refused("/v1/llm/generate", 422, &generate).await;
    let chat = [
        (json!({}), "messages: is required"),
        (json!({"messages": []}), "messages: must have at least one"),
        (
            json!({"messages": [{"role": "user"}]}),
            "messages[0].content: ",
        ),
        (
            json!({"messages": [{"role": "x", "content": ""}]}),
            "messages[0].role: ",
        ),
    ];
    assert_refused("/v1/llm/chat", 422, &chat).await;
    let reply = api().post("/v1/llm/generate", &json!({"prompt": 1})).await;
    assert_eq!(reply.json()["errors"][0]["field"], "prompt");
    assert_eq!(reply.json()["code"], "validation_failed");
}

#[tokio::test]
async fn openai_fields_are_refused_by_name() {
    let messages = json!([{"role": "user", "content": "a"}]);
    let chat = |more: Value| {
        let mut body = json!({"model": "m", "messages": messages});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        body
    };
    let json_object = json!({"type": "json_object"});
    let rows = [
        (json!({"messages": messages}), "model: is required"),
        (chat(json!({"messages": []})), "messages: "),
        (chat(json!({"n": 0})), "n: must be 1 to 16"),
        (chat(json!({"n": 1.5})), "n: "),
        (chat(json!({"tools": [{}]})), "tools: "),
        (
            chat(json!({"response_format": json_object})),
            "response_format: ",
        ),
    ];
    assert_refused("/v1/chat/completions", 400, &rows).await;
    let rows = [
        (json!({"model": "m"}), "prompt: is required"),
        (json!({"model": "m", "prompt": []}), "prompt: must be 1 to"),
        (
            json!({"model": "m", "prompt": "a", "suffix": "b"}),
            "suffix: ",
        ),
        (
            json!({"model": "m", "prompt": "a", "best_of": 2}),
            "best_of: ",
        ),
    ];
    assert_refused("/v1/completions", 400, &rows).await;
}

#[tokio::test]
async fn ollama_fields_are_refused_by_name() {
    let messages = json!([{"role": "user", "content": "a"}]);
    let rows = [
        (json!({"messages": messages}), "model: is required"),
        (json!({"model": "m", "messages": 1}), "messages: "),
        (
            json!({"model": "m", "messages": messages, "tools": [{}]}),
            "tools: ",
        ),
    ];
    assert_refused("/api/chat", 400, &rows).await;
    let rows = [
        (
            json!({"model": "m", "prompt": "a", "format": "json"}),
            "format: ",
        ),
        (
            json!({"model": "m", "prompt": "a", "images": ["x"]}),
            "images: ",
        ),
        (json!({"model": "m", "keep_alive": "soon"}), "keep_alive: "),
    ];
    assert_refused("/api/generate", 400, &rows).await;
    assert_refused("/api/show", 400, &[(json!({}), "model: is required")]).await;
}

#[tokio::test]
async fn an_unknown_model_is_404_in_each_dialect() {
    let api = api();
    let chat = json!([{"role": "user", "content": "a"}]);
    for (path, body) in [
        (
            "/v1/llm/generate",
            json!({"model": "nobody", "prompt": "a"}),
        ),
        (
            "/v1/chat/completions",
            json!({"model": "nobody", "messages": chat}),
        ),
        ("/v1/completions", json!({"model": "nobody", "prompt": "a"})),
        ("/api/chat", json!({"model": "nobody", "messages": chat})),
        ("/api/show", json!({"model": "nobody"})),
    ] {
        let reply = api.post(path, &body).await;
        assert_eq!(reply.status, 404, "{path}: {}", reply.text);
        assert_shape(path, &reply);
        assert!(words(&reply).contains("nobody"), "{}", reply.text);
        assert!(!reply.text.contains("see /docs"), "{}", reply.text);
    }
    let reply = api.get("/v1/models/nobody").await;
    assert_eq!(reply.json()["error"]["code"], "model_not_found");
}

#[tokio::test]
async fn without_an_embedding_model_each_dialect_says_how_to_get_one() {
    let api = api();
    let body = json!({"input": "a", "text": "a", "prompt": "a"});
    for path in [
        "/v1/llm/embed",
        "/v1/embeddings",
        "/api/embed",
        "/api/embeddings",
    ] {
        let reply = api.post(path, &body).await;
        assert_eq!(reply.status, 404, "{path}");
        assert_shape(path, &reply);
        assert!(
            reply
                .text
                .contains("aither-node models pull all-minilm:l6-v2"),
            "{}",
            reply.text
        );
    }
}

#[tokio::test]
async fn bad_texts_are_refused_by_their_fields_name_in_each_dialect() {
    let api = api();
    for (path, body, field) in [
        ("/v1/llm/embed", json!({}), "text"),
        (
            "/v1/llm/embed",
            json!({"text": "a", "texts": ["b"]}),
            "texts",
        ),
        ("/v1/llm/embed", json!({"texts": []}), "texts"),
        ("/v1/llm/embed", json!({"text": 7}), "text"),
        ("/v1/embeddings", json!({"input": [1, 2]}), "input"),
        ("/v1/embeddings", json!({"input": [[1, 2]]}), "input"),
        ("/v1/embeddings", json!({"input": []}), "input"),
        ("/v1/embeddings", json!({"input": {"a": 1}}), "input"),
        (
            "/v1/embeddings",
            json!({"input": "a", "encoding_format": "x"}),
            "encoding_format",
        ),
        ("/api/embed", json!({"input": [1]}), "input"),
        ("/api/embeddings", json!({"prompt": ["a"]}), "prompt"),
    ] {
        let reply = api.post(path, &body).await;
        let expected = if path.starts_with("/v1/llm") {
            422
        } else {
            400
        };
        assert_eq!(reply.status, expected, "{path} {}", reply.text);
        assert_shape(path, &reply);
        assert!(reply.text.contains(field), "{}", reply.text);
    }
}

#[tokio::test]
async fn a_wrong_key_is_401_everywhere_but_on_open_routes() {
    let api = api();
    let wrong = [("authorization", "Bearer wrong")];
    for path in ["/", "/health", "/docs", "/openapi.json"] {
        let reply = api.send("GET", path, &wrong, "").await;
        assert!(
            reply.status.is_success() || reply.status.is_redirection(),
            "{path}"
        );
    }
    for path in [
        "/v1/models",
        "/api/tags",
        "/metrics",
        "/v1/nowhere",
        "/api/nowhere",
    ] {
        let reply = api.send("GET", path, &wrong, "").await;
        assert_eq!(reply.status, 401, "{path}");
        assert_shape(path, &reply);
        assert!(reply.header("www-authenticate").starts_with("Bearer"));
    }
    let openai = api.send("GET", "/v1/models", &wrong, "").await;
    assert_eq!(openai.json()["error"]["code"], "invalid_api_key");
}

#[tokio::test]
async fn a_local_program_needs_a_key_only_to_change_the_node() {
    let api = api();
    for path in [
        "/v1/models",
        "/api/tags",
        "/api/ps",
        "/api/version",
        "/metrics",
    ] {
        assert_eq!(api.get(path).await.status, 200, "{path}");
    }
    for path in ["/api/pull", "/api/delete"] {
        let reply = api.post(path, &json!({"model": "m"})).await;
        assert_eq!(reply.status, 401, "{path}");
        assert!(words(&reply).contains("admin"), "{}", reply.text);
    }
    let key = format!("Bearer {KEY}");
    let headers = [
        ("authorization", &*key),
        ("content-type", "application/json"),
    ];
    let reply = api
        .send("POST", "/api/delete", &headers, "{\"model\":\"m\"}")
        .await;
    assert_eq!(reply.status, 404, "{}", reply.text);
}

#[tokio::test]
async fn a_web_page_needs_a_key() {
    let api = api();
    for header in [
        ("origin", "http://localhost:8200"),
        ("host", "rebound.example:8200"),
        ("x-forwarded-for", "203.0.113.1"),
    ] {
        let reply = api.send("GET", "/v1/models", &[header], "").await;
        assert_eq!(reply.status, 401, "{header:?}");
        let key = format!("Bearer {KEY}");
        let reply = api
            .send("GET", "/v1/models", &[header, ("authorization", &key)], "")
            .await;
        assert_eq!(reply.status, 200, "{header:?}");
    }
}

#[tokio::test]
async fn the_keyless_rule_can_be_switched_off() {
    let api = api_with(HttpConfig {
        keyless_loopback: false,
        ..HttpConfig::default()
    });
    assert_eq!(api.get("/v1/models").await.status, 401);
    assert_eq!(api.get("/health").await.status, 200);
}

#[tokio::test]
async fn the_clients_request_id_is_kept_if_it_is_sane() {
    let api = api();
    let reply = api
        .send("GET", "/health", &[("x-request-id", "mine-1")], "")
        .await;
    assert_eq!(reply.header("x-request-id"), "mine-1");
    let long = "a".repeat(1000);
    let reply = api
        .send("GET", "/health", &[("x-request-id", &long)], "")
        .await;
    assert_eq!(reply.header("x-request-id").len(), 26);
}

#[tokio::test]
async fn readiness_follows_the_node() {
    let api = api();
    let reply = api.get("/ready").await;
    assert_eq!(reply.status, 503);
    assert_shape("/ready", &reply);
    assert_eq!(reply.json()["code"], "not_ready");
    assert!(!reply.header("retry-after").is_empty());
    api.readiness.set(ReadyState::Ready);
    assert_eq!(api.get("/ready").await.json(), json!({"status": "ready"}));
    api.readiness.set(ReadyState::Draining);
    assert_eq!(api.get("/ready").await.status, 503);
    let health = api.get("/health").await.json();
    assert_eq!(health["status"], "healthy");
    assert_eq!(health["peer_id"], "peer");
    assert_eq!(health["models"], 0);
}

#[tokio::test]
async fn routing_headers_are_checked_in_each_dialect() {
    let api = api();
    for path in ["/v1/llm/generate", "/v1/chat/completions", "/api/chat"] {
        let rows = [
            (("x-aither-route", "federation"), 501),
            (
                ("x-aither-route", "mars"),
                if path.contains("llm") { 422 } else { 400 },
            ),
            (
                ("x-aither-max-cost", "-1"),
                if path.contains("llm") { 422 } else { 400 },
            ),
        ];
        for (header, status) in rows {
            let headers = [header, ("content-type", "application/json")];
            let reply = api.send("POST", path, &headers, "{}").await;
            assert_eq!(reply.status, status, "{path} {header:?}: {}", reply.text);
            assert_shape(path, &reply);
        }
    }
}

#[tokio::test]
async fn requests_are_counted() {
    let api = api();
    api.get("/health").await;
    api.get("/v1/models/x").await;
    let text = api.get("/metrics").await.text;
    for line in [
        "aither_http_requests_total{route=\"/health\",method=\"GET\",status=\"200\"} 1",
        "aither_http_requests_total{route=\"/v1/models/{id}\",method=\"GET\",status=\"404\"} 1",
        "aither_inference_running_requests 0",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} not in\n{text}"
        );
    }
}

#[tokio::test]
async fn the_page_and_the_root_lead_to_the_document() {
    let api = api();
    let root = api.get("/").await;
    assert_eq!(
        (root.status.as_u16(), root.header("location")),
        (307, "/docs")
    );
    let page = api.get("/docs").await;
    assert!(page.text.contains("/openapi.json"));
    // Nothing is fetched from elsewhere.
    assert!(!page.text.contains("https://"));
    assert!(
        page.header("content-security-policy")
            .contains("default-src 'none'")
    );
}
