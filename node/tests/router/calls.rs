//! Calls through the router, with agents on this machine: what a task comes to whose caller is not
//! there any more, and what is refused before anybody is asked. The rest is tested against the
//! real binary.

use std::{net::SocketAddr, time::Duration};

use aither_ledger::{AccountId, Note};
use aither_node::{
    agents::{Mode, Rank},
    billing::{OPERATOR, Spending},
    calls::{TaskRecord, TaskStatus},
};
use aither_protocol::{Amount, Plan};
use axum::{
    body::Body,
    extract::ConnectInfo,
    http::{Request, StatusCode},
};
use futures_util::StreamExt;
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
        "endpoints": [
            { "path": "/chat", "method": "POST" },
            { "path": "/find", "method": "GET" },
        ],
        "resources": { "max_concurrent": 5 },
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

/// Reads the rest of a request and answers it.
async fn answer((mut stream, head): (TcpStream, String), status: u16, body: &str) {
    let len = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut asked = vec![0; len.map_or(0, |len| len.parse().unwrap())];
    stream.read_exact(&mut asked).await.unwrap();
    let len = body.len();
    let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {len}\r\n\r\n{body}");
    stream.write_all(answer.as_bytes()).await.unwrap();
}

async fn account(api: &Api, email: &str, plan: Plan) -> String {
    let made = api.accounts.create(email, None, Some(plan)).await;
    format!("Bearer {}", made.unwrap().api_key.reveal())
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

/// Calls an agent that answers with a status.
async fn answered(
    api: &Api,
    asked: &mut mpsc::Receiver<(TcpStream, String)>,
    (bearer, path, body): (&str, &str, &Value),
    status: u16,
) -> StatusCode {
    let headers = headers(bearer);
    let call = api.send("POST", path, &headers, body.to_string());
    let agent = async { answer(asked.recv().await.unwrap(), status, "{}").await };
    timeout(DEADLINE, async { tokio::join!(call, agent).0.status })
        .await
        .unwrap()
}

#[tokio::test]
async fn regression_an_agent_stands_by_what_it_does_and_not_by_what_callers_do() {
    let api = api();
    let (url, mut asked) = agent().await;
    aboard(&api, "bot", Some(&url)).await;
    let bot = api.agents.by_name("bot").unwrap();
    let standing = || api.agents.health().standing(bot.id);
    let owner = format!("Bearer {KEY}");
    let stranger = account(&api, "ann@example.org", Plan::Enterprise).await;
    let (tasks, call) = ("/v1/a2a/tasks", "/v1/agents/bot/call");
    let hurried = json!({ "agent": "bot", "input": "x", "timeout": 0.05 });
    let reply = api
        .send("POST", tasks, &headers(&stranger), hurried.to_string())
        .await;
    assert_eq!(reply.status, StatusCode::GATEWAY_TIMEOUT, "{}", reply.text);
    // It may have been asked in vain.
    while let Ok(late) = asked.try_recv() {
        drop(late);
    }
    let task = json!({ "agent": "bot", "input": "x" });
    let found = answered(&api, &mut asked, (&stranger, tasks, &task), 404).await;
    assert_eq!(found, StatusCode::BAD_GATEWAY);
    let find = json!({ "endpoint": "/find" });
    let found = answered(&api, &mut asked, (&stranger, call, &find), 404).await;
    assert_eq!(found, StatusCode::NOT_FOUND);
    assert_eq!((standing().calls, standing().reputation), (0, None));
    let found = answered(&api, &mut asked, (&owner, tasks, &task), 200).await;
    assert_eq!(found, StatusCode::OK);
    assert_eq!((standing().calls, standing().reputation), (1, None));
    let found = answered(&api, &mut asked, (&stranger, tasks, &task), 200).await;
    assert_eq!(found, StatusCode::OK);
    assert_eq!((standing().calls, standing().failed), (2, 0));
    assert!(standing().reputation.unwrap() > 0.5);
    let found = answered(&api, &mut asked, (&stranger, tasks, &task), 500).await;
    assert_eq!(found, StatusCode::BAD_GATEWAY);
    assert_eq!((standing().calls, standing().failed), (3, 1));
}

#[tokio::test]
async fn regression_a_payload_that_makes_no_query_is_refused_before_anything_is_held() {
    let api = api();
    let (url, mut asked) = agent().await;
    aboard(&api, "bot", Some(&url)).await;
    for payload in [json!({ "q": "x".repeat(9000) }), json!([1])] {
        let body = json!({ "endpoint": "/find", "payload": payload });
        let reply = post(&api, "/v1/agents/bot/call", &body).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
        let problem = reply.json();
        assert_eq!(problem["errors"][0]["field"], "payload", "{problem}");
        assert_eq!(problem.get("task_id"), None);
    }
    assert!(asked.try_recv().is_err());
}

#[tokio::test]
async fn regression_a_call_that_waited_is_not_sent_to_an_agent_that_was_set_aside() {
    let api = api();
    let (url, mut asked) = agent().await;
    aboard(&api, "bot", Some(&url)).await;
    let bot = api.agents.by_name("bot").unwrap();
    let mut running = Vec::new();
    let mut connections = Vec::new();
    for _ in 0..5 {
        running.push(tokio::spawn(begun(&api, "bot")));
        connections.push(asked.recv().await.unwrap());
    }
    let waiting = tokio::spawn(begun(&api, "bot"));
    let queued = async {
        while api.agents.health().standing(bot.id).waiting == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, queued).await.unwrap();
    api.agents.suspend(bot.id, Rank::Owner).await.unwrap();
    answer(connections.pop().unwrap(), 200, "{}").await;
    let refused = timeout(DEADLINE, waiting).await.unwrap();
    assert_eq!(refused.unwrap(), StatusCode::SERVICE_UNAVAILABLE);
    let done = timeout(DEADLINE, running.pop().unwrap()).await.unwrap();
    assert_eq!(done.unwrap(), StatusCode::OK);
    assert!(asked.try_recv().is_err());
}

#[tokio::test]
async fn regression_several_tasks_take_the_places_that_their_accounts_plan_has() {
    let api = api();
    let (url, mut asked) = agent().await;
    aboard(&api, "bot", Some(&url)).await;
    let bearer = account(&api, "ann@example.org", Plan::Builder).await;
    let task = json!({ "agent": "bot", "input": "x" });
    let several = json!({ "tasks": vec![&task; 5] }).to_string();
    let headers = headers(&bearer);
    let mut several = Box::pin(api.send("POST", "/v1/a2a/parallel", &headers, several));
    let mut connections = Vec::new();
    while connections.len() < 5 {
        tokio::select! {
            connection = asked.recv() => connections.push(connection.unwrap()),
            reply = &mut several => panic!("{}", reply.text),
        }
    }
    let one = || api.send("POST", "/v1/a2a/tasks", &headers, task.to_string());
    assert_eq!(one().await.status, StatusCode::TOO_MANY_REQUESTS);
    let agent = async {
        for connection in connections {
            answer(connection, 200, "{}").await;
        }
    };
    let (reply, ()) = timeout(DEADLINE, async { tokio::join!(several, agent) })
        .await
        .unwrap();
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    let agent = async { answer(asked.recv().await.unwrap(), 200, "{}").await };
    let (reply, ()) = tokio::join!(one(), agent);
    assert_eq!(reply.status, StatusCode::OK, "they are free again");
}

/// Begins a streamed chat and hangs up, once its agent was asked and has said `said`. Returns how
/// the task has ended.
async fn left(api: &Api, asked: &mut mpsc::Receiver<(TcpStream, String)>, said: &str) -> Value {
    let peer: SocketAddr = "127.0.0.1:5555".parse().unwrap();
    let request = Request::post("/v1/agents/bot/chat")
        .header("host", "localhost:8200")
        .header("authorization", format!("Bearer {KEY}"))
        .header("content-type", "application/json")
        .extension(ConnectInfo(peer))
        .body(Body::from(
            json!({ "message": "x", "stream": true }).to_string(),
        ))
        .unwrap();
    let reply = api.router.clone().oneshot(request).await.unwrap();
    assert_eq!(reply.status(), StatusCode::OK);
    let mut frames = reply.into_body().into_data_stream();
    let (mut stream, head) = asked.recv().await.unwrap();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n{said}");
    stream.write_all(answer.as_bytes()).await.unwrap();
    let mut read = String::new();
    while !read.contains(if said.is_empty() {
        "event: task"
    } else {
        "event: delta"
    }) {
        let frame = timeout(DEADLINE, frames.next()).await.unwrap();
        read.push_str(std::str::from_utf8(&frame.unwrap().unwrap()).unwrap());
    }
    drop(frames);
    let id = head
        .lines()
        .find_map(|line| line.strip_prefix("x-aither-task-id: "));
    ended(api, id.unwrap()).await
}

#[tokio::test]
async fn regression_who_has_begun_to_read_a_streamed_answer_pays_for_it() {
    let api = api();
    let (url, mut asked) = agent().await;
    aboard(&api, "bot", Some(&url)).await;
    for (said, cost) in [("", 0), ("data: all of it\n\n", 3)] {
        let task = left(&api, &mut asked, said).await;
        assert_eq!(task["status"], "canceled", "{task}");
        assert_eq!(task["cost_tokens"], cost, "{task}");
    }
    assert_eq!(api.billing.view().unwrap().holds().unwrap().count(), 0);
    let bot = api.agents.by_name("bot").unwrap();
    assert_eq!(api.agents.health().standing(bot.id).calls, 0);
}

#[tokio::test]
async fn regression_an_agent_that_is_set_aside_can_be_offered() {
    let api = api();
    aboard(&api, "bot", None).await;
    let bot = api.agents.by_name("bot").unwrap();
    api.agents.suspend(bot.id, Rank::Owner).await.unwrap();
    let listing = json!({ "agent": "bot", "price_per_request": 7 });
    for status in [StatusCode::CREATED, StatusCode::OK] {
        let reply = post(&api, "/v1/marketplace/listings", &listing).await;
        assert_eq!(reply.status, status, "{}", reply.text);
        assert_eq!(reply.json()["price_per_request"], 7);
    }
}
