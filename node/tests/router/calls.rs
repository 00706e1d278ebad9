//! Calls through the router, with agents on this machine: what a task comes to whose caller is not
//! there any more, and what is refused before anybody is asked. The rest is tested against the
//! real binary.

use std::{net::SocketAddr, time::Duration};

use aither_ledger::{AccountId, Note};
use aither_node::{
    agents::Mode,
    billing::{OPERATOR, Spending},
    calls::{TaskRecord, TaskStatus},
};
use aither_protocol::{Amount, Plan};
use axum::{
    body::Body,
    extract::ConnectInfo,
    http::{Request, StatusCode},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tower::ServiceExt;
use ulid::Ulid;

use crate::support::{Api, KEY, Reply, api, assert_shape, words};

const DEADLINE: Duration = Duration::from_secs(60);
const HEALTHY: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
                       content-length: 20\r\nconnection: close\r\n\r\n{\"status\":\"healthy\"}";

/// An agent that is healthy. Of each call it hands over the connection, with the head of the
/// request, and leaves the answer to the test.
async fn agent() -> (String, mpsc::Receiver<(TcpStream, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, asked) = mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            let head = String::from_utf8(head).unwrap();
            if head.starts_with("GET /health ") {
                stream.write_all(HEALTHY.as_bytes()).await.unwrap();
            } else if sender.send((stream, head)).await.is_err() {
                break;
            }
        }
    });
    (url, asked)
}

async fn aboard(api: &Api, name: &str, url: Option<&str>) {
    let card = json!({
        "name": name,
        "version": "1.0.0",
        "description": "An agent of the tests",
        "skills": [{ "id": "echo", "name": "Echo", "description": "Says it again" }],
        "endpoints": [{ "path": "/chat", "method": "POST" }],
        "capabilities_requested": [],
        "billing": { "token_cost_per_request": 3, "category": "agent" },
        "health_endpoint": "/health",
        "agent_url": url,
    });
    let owner = (OPERATOR, Plan::Enterprise);
    let onboarded = api.agents.onboard(owner, &card, Mode::Remote).await;
    assert_eq!(onboarded.unwrap().agent.state.as_str(), "LIVE");
}

fn headers(bearer: &str) -> [(&str, &str); 2] {
    [
        ("authorization", bearer),
        ("content-type", "application/json"),
    ]
}

async fn post(api: &Api, path: &str, body: &Value) -> Reply {
    let bearer = format!("Bearer {KEY}");
    api.send("POST", path, &headers(&bearer), body.to_string())
        .await
}

/// Begins a task whose caller waits for it as long as the returned future is there.
fn begun(api: &Api, name: &str) -> impl Future<Output = StatusCode> + use<> {
    let peer: SocketAddr = "127.0.0.1:5555".parse().unwrap();
    let request = Request::post("/v1/a2a/tasks")
        .header("host", "localhost:8200")
        .header("authorization", format!("Bearer {KEY}"))
        .header("content-type", "application/json")
        .extension(ConnectInfo(peer))
        .body(Body::from(
            json!({ "agent": name, "input": "x" }).to_string(),
        ))
        .unwrap();
    let router = api.router.clone();
    async move { router.oneshot(request).await.unwrap().status() }
}

async fn shown(api: &Api, id: &str) -> Value {
    let bearer = format!("Bearer {KEY}");
    let path = format!("/v1/a2a/tasks/{id}");
    let reply = api.send("GET", &path, &headers(&bearer), "").await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    reply.json()
}

/// Waits until a task is over.
async fn ended(api: &Api, id: &str) -> Value {
    let waiting = async {
        loop {
            let task = shown(api, id).await;
            if !["queued", "running"].contains(&task["status"].as_str().unwrap()) {
                return task;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, waiting).await.unwrap()
}

/// Begins a call and gives it up once its agent was asked. Returns how the task has ended.
async fn given_up(api: &Api, name: &str, asked: &mut mpsc::Receiver<(TcpStream, String)>) -> Value {
    let mut call = Box::pin(begun(api, name));
    let (mut stream, head) = tokio::select! {
        asked = asked.recv() => asked.unwrap(),
        status = &mut call => panic!("{status}"),
    };
    let id = head
        .lines()
        .find_map(|line| line.strip_prefix("x-aither-task-id: "))
        .unwrap();
    assert_eq!(shown(api, id).await["status"], "running");
    drop(call);
    // The connection to the agent is closed at once: it reads the body, and then the end.
    let mut rest = Vec::new();
    let closed = timeout(DEADLINE, stream.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "the connection stays open");
    ended(api, id).await
}

#[tokio::test]
async fn a_call_that_is_dropped_is_canceled_or_cut_off_by_the_node_that_stops() {
    let api = api();
    let (url, mut asked) = agent().await;
    aboard(&api, "waiting", Some(&url)).await;
    let task = given_up(&api, "waiting", &mut asked).await;
    assert_eq!(task["status"], "canceled");
    assert!(
        task["error"]["detail"]
            .as_str()
            .unwrap()
            .contains("hung up")
    );
    api.calls.stop();
    let task = given_up(&api, "waiting", &mut asked).await;
    assert_eq!(task["status"], "failed");
    let words = task["error"]["detail"].as_str().unwrap();
    assert!(words.contains("the node stopped"), "{words}");
    assert_eq!(task["cost_tokens"], 0);
}

#[tokio::test]
async fn a_task_whose_caller_left_before_the_hold_was_there_is_canceled() {
    let api = api();
    let id = api.billing.next_id();
    let record = TaskRecord {
        status: TaskStatus::Queued,
        account: OPERATOR.0,
        agent: "bot".into(),
        ..TaskRecord::default()
    };
    let spending = Spending {
        payer: OPERATOR,
        amount: Amount::from_tokens(1),
        memo: "call of bot",
        id: Some(id),
        allowances: &[],
    };
    let note = Note {
        id: id.0,
        bytes: record.encode(),
    };
    let hold = api.billing.hold_with(spending, Some(note)).await.unwrap();
    let text = Ulid(id.0).to_string();
    assert_eq!(shown(&api, &text).await["status"], "queued");
    drop(hold);
    assert_eq!(ended(&api, &text).await["status"], "canceled");
}

// tidy: table
#[tokio::test]
async fn what_is_refused_before_anybody_is_asked_holds_nothing() {
    let api = api();
    let (url, mut asked) = agent().await;
    aboard(&api, "bot", Some(&url)).await;
    aboard(&api, "mute", None).await;
    let tasks = "/v1/a2a/tasks";
    for (path, body, status, code) in [
        (
            tasks,
            json!({ "agent": "nobody", "input": "x" }),
            404,
            "unknown_agent",
        ),
        (
            tasks,
            json!({ "agent": "bot@elsewhere", "input": "x" }),
            404,
            "unknown_agent",
        ),
        (
            tasks,
            json!({ "skill": "fly", "input": "x" }),
            404,
            "no_agent_for_skill",
        ),
        (
            tasks,
            json!({ "agent": "bot", "skill": "fly", "input": 1 }),
            404,
            "no_agent_for_skill",
        ),
        (
            tasks,
            json!({ "agent": "mute", "input": "x" }),
            409,
            "conflict",
        ),
        (
            tasks,
            json!({ "agent": "bot", "endpoint": "/health" }),
            404,
            "not_found",
        ),
        (
            tasks,
            json!({ "agent": "bot", "input": "x", "max_cost": 2 }),
            402,
            "insufficient_tokens",
        ),
        (
            tasks,
            json!({ "agent": "bot", "input": "x", "timeout": 0 }),
            422,
            "validation_failed",
        ),
        (tasks, json!({ "agent": "bot" }), 422, "validation_failed"),
        (
            "/v1/agents/bot/call",
            json!({ "endpoint": "/other" }),
            404,
            "not_found",
        ),
        ("/v1/agents/bot/call", json!({}), 422, "validation_failed"),
        (
            "/v1/agents/bot/chat",
            json!({ "message": null }),
            422,
            "validation_failed",
        ),
        (
            "/v1/agents/nobody/chat",
            json!({ "message": "x" }),
            404,
            "unknown_agent",
        ),
        (
            "/v1/a2a/parallel",
            json!({ "tasks": [] }),
            422,
            "validation_failed",
        ),
    ] {
        let reply = post(&api, path, &body).await;
        assert_eq!(
            reply.status.as_u16(),
            status,
            "{path} {body}: {}",
            reply.text
        );
        assert_shape(path, &reply);
        assert_eq!(reply.json()["code"], code, "{path} {body}");
        assert_eq!(reply.json().get("task_id"), None, "{path} {body}");
    }
    assert!(asked.try_recv().is_err());
    assert_eq!(api.billing.view().unwrap().holds().unwrap().count(), 0);
    let reply = post(&api, tasks, &json!({ "agent": "mute", "input": "x" })).await;
    assert!(words(&reply).contains("agent_url"), "{}", reply.text);
}

#[tokio::test]
async fn an_account_that_has_nothing_holds_nothing() {
    let api = api();
    let (url, _asked) = agent().await;
    aboard(&api, "bot", Some(&url)).await;
    let made = api
        .accounts
        .create("ann@example.org", None, None)
        .await
        .unwrap();
    let account = AccountId(made.account.id.as_u128());
    let spending = Spending {
        payer: account,
        amount: Amount::from_tokens(998),
        memo: "emptied",
        id: None,
        allowances: &[],
    };
    api.billing.deduct(spending).await.unwrap();
    let bearer = format!("Bearer {}", made.api_key.reveal());
    let body = json!({ "agent": "bot", "input": "x" }).to_string();
    let reply = api
        .send("POST", "/v1/a2a/tasks", &headers(&bearer), body)
        .await;
    assert_eq!(reply.status, StatusCode::PAYMENT_REQUIRED);
    let problem = reply.json();
    assert_eq!(
        (&problem["balance"], &problem["required"]),
        (&json!(2), &json!(3))
    );
}
