//! `Idempotency-Key` through the router, with handlers that count how often they are asked.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use aither_node::{
    api,
    config::{AccountsConfig, HttpConfig},
};
use aither_protocol::Plan;
use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    http::{Request, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tower::ServiceExt;

use super::support::{Api, KEY, Reply, api, api_made_of, assert_shape, words};

type Frames = mpsc::Sender<Result<Bytes, Infallible>>;
type Frame = mpsc::Receiver<Result<Bytes, Infallible>>;

const CHAT: &str = "/v1/llm/chat";
const DEDUCT: &str = "/v1/billing/deduct";
const JSON: (&str, &str) = ("content-type", "application/json");

/// An API whose chat route is a handler of the test's, and how often that was asked.
struct Counted {
    api: Api,
    asked: Arc<AtomicUsize>,
    /// What the handler streams: one receiver for each request.
    streams: mpsc::Sender<Frame>,
}

fn counted(answer: impl Fn(usize, Body) -> Response + Clone + Send + Sync + 'static) -> Counted {
    let (streams, source) = mpsc::channel::<Frame>(8);
    let source = Arc::new(Mutex::new(source));
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let api = api_made_of(HttpConfig::default(), AccountsConfig::default(), |state| {
        let handler = post(async move || {
            let number = count.fetch_add(1, Ordering::SeqCst) + 1;
            let frames = source.lock().await.recv().await.unwrap();
            answer(number, Body::from_stream(ReceiverStream::new(frames)))
        });
        api::with_layers(Router::new().route(CHAT, handler), state)
    });
    Counted {
        api,
        asked,
        streams,
    }
}

impl Counted {
    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Lets the next request have a stream.
    async fn next_stream(&self) -> Frames {
        let (frames, receiver) = mpsc::channel(8);
        self.streams.send(receiver).await.unwrap();
        frames
    }

    async fn begin(&self, key: &str) -> Response {
        let request = Request::post(CHAT)
            .header("authorization", format!("Bearer {KEY}"))
            .header("idempotency-key", key)
            .header(JSON.0, JSON.1)
            .body(Body::from("{}"))
            .unwrap();
        self.api.router.clone().oneshot(request).await.unwrap()
    }

    async fn ask(&self, key: &str, body: &str) -> Reply {
        ask(&self.api, KEY, CHAT, key, body).await
    }

    /// Asks until the request with this key is not in flight any more.
    async fn ask_until_ended(&self, key: &str) -> Reply {
        loop {
            let reply = self.ask(key, "{}").await;
            if !words_or_none(&reply).contains("still being answered") {
                return reply;
            }
            tokio::task::yield_now().await;
        }
    }
}

fn words_or_none(reply: &Reply) -> String {
    match serde_json::from_str::<Value>(&reply.text) {
        Ok(_) => words(reply),
        Err(_) => String::new(),
    }
}

async fn ask(api: &Api, bearer: &str, path: &str, key: &str, body: &str) -> Reply {
    let bearer = format!("Bearer {bearer}");
    let headers = [("authorization", &*bearer), ("idempotency-key", key), JSON];
    api.send("POST", path, &headers, body.to_owned()).await
}

async fn send(frames: &Frames, text: &'static str) {
    let frame = Bytes::from_static(text.as_bytes());
    frames.send(Ok(frame)).await.unwrap();
}

fn streamed(_number: usize, body: Body) -> Response {
    ([("content-type", "text/event-stream")], body).into_response()
}

#[tokio::test]
async fn a_stream_is_replayed_whole_and_made_once() {
    let counted = counted(streamed);
    let frames = counted.next_stream().await;
    for text in ["a", "b", "c"] {
        send(&frames, text).await;
    }
    drop(frames);
    let first = counted.ask("k", "{}").await;
    assert_eq!((first.status.as_u16(), first.text.as_str()), (200, "abc"));
    assert_eq!(first.header("idempotent-replayed"), "");
    let again = counted.ask("k", "{}").await;
    assert_eq!((again.status.as_u16(), again.text.as_str()), (200, "abc"));
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(again.header("content-type"), "text/event-stream");
    assert_ne!(again.header("x-request-id"), first.header("x-request-id"));
    assert_eq!(counted.asked(), 1);
    let other = counted.ask("k", "{ }").await;
    assert_eq!(other.status, 409);
    assert_eq!(other.json()["code"], "conflict");
    assert_shape(CHAT, &other);
}

#[tokio::test]
async fn a_stream_comes_as_it_is_made_and_in_flight_is_409() {
    let counted = counted(streamed);
    let frames = counted.next_stream().await;
    let mut body = counted.begin("k").await.into_body();
    send(&frames, "a").await;
    let mut next = async || {
        let frame =
            std::future::poll_fn(|context| std::pin::Pin::new(&mut body).poll_frame(context));
        frame.await.map(|frame| frame.unwrap().into_data().unwrap())
    };
    assert_eq!(next().await.unwrap(), "a");
    let meanwhile = counted.ask("k", "{}").await;
    assert_eq!(meanwhile.status, 409);
    assert_eq!(meanwhile.header("retry-after"), "1");
    drop(frames);
    assert_eq!(next().await, None);
    // The end was seen, so the answer is kept.
    assert_eq!(counted.ask("k", "{}").await.text, "a");
}

#[tokio::test]
async fn who_hangs_up_finds_the_whole_answer_later() {
    let counted = counted(streamed);
    let frames = counted.next_stream().await;
    let abandoned = counted.begin("k").await;
    send(&frames, "a").await;
    drop(abandoned);
    for text in ["b", "c"] {
        send(&frames, text).await;
    }
    drop(frames);
    let reply = counted.ask_until_ended("k").await;
    assert_eq!((reply.text.as_str(), counted.asked()), ("abc", 1));
}

#[tokio::test]
async fn who_hangs_up_before_the_head_finds_the_answer_too() {
    let counted = counted(streamed);
    let mut waiting = Box::pin(counted.begin("k"));
    while counted.asked() == 0 {
        assert!(futures_util::poll!(&mut waiting).is_pending());
        tokio::task::yield_now().await;
    }
    drop(waiting);
    let frames = counted.next_stream().await;
    send(&frames, "a").await;
    drop(frames);
    let reply = counted.ask_until_ended("k").await;
    assert_eq!((reply.text.as_str(), counted.asked()), ("a", 1));
}

#[tokio::test]
async fn failures_and_passing_refusals_are_not_kept() {
    let counted = counted(|number, _| match number {
        1 => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        2 => StatusCode::TOO_MANY_REQUESTS.into_response(),
        3 => StatusCode::PAYMENT_REQUIRED.into_response(),
        4 => panic!("a defect"),
        5 => StatusCode::NOT_FOUND.into_response(),
        _ => "never".into_response(),
    });
    // What is no error of the API's own is a defect, or a bad request, in its form.
    for status in [500, 400, 400, 500, 404] {
        drop(counted.next_stream().await);
        let reply = counted.ask("k", "{}").await;
        assert_eq!(reply.status, status, "{}", reply.text);
        assert_shape(CHAT, &reply);
        assert_eq!(reply.header("idempotent-replayed"), "");
    }
    let kept = counted.ask("k", "{}").await;
    assert_eq!(kept.status, 404);
    assert_eq!(kept.header("idempotent-replayed"), "true");
    assert_eq!(kept.header("content-type"), "application/problem+json");
    assert_eq!(counted.asked(), 5);
}

#[tokio::test]
async fn replays_take_nothing_from_a_plan() {
    let counted = counted(streamed);
    let explorer = Some(Plan::Explorer);
    let made = counted
        .api
        .accounts
        .create("ann@example.org", None, explorer);
    let bearer = made.await.unwrap().api_key.reveal().to_owned();
    let frames = counted.next_stream().await;
    send(&frames, "a").await;
    drop(frames);
    for _ in 0..30 {
        let reply = ask(&counted.api, &bearer, CHAT, "k", "{}").await;
        assert_eq!((reply.status.as_u16(), reply.text.as_str()), (200, "a"));
    }
    for number in 1..12 {
        drop(counted.next_stream().await);
        let reply = ask(&counted.api, &bearer, CHAT, &format!("k{number}"), "{}").await;
        assert_eq!(reply.status == 429, number > 9, "{number}");
    }
}

#[tokio::test]
async fn a_key_that_is_none_is_refused_in_the_dialects_form() {
    let api = api();
    for (path, status) in [
        (DEDUCT, 422),
        ("/v1/chat/completions", 400),
        ("/api/chat", 400),
    ] {
        for key in ["", "two words", &"k".repeat(256)] {
            let reply = ask(&api, KEY, path, key, "{}").await;
            assert_eq!(reply.status, status, "{path}");
            assert!(words(&reply).contains("255"), "{path}: {}", reply.text);
            assert_shape(path, &reply);
        }
    }
    // Where nothing is spent or made the header means nothing.
    let checked = ask(
        &api,
        KEY,
        "/v1/billing/check",
        "two words",
        "{\"tokens\":1}",
    )
    .await;
    assert_eq!(checked.status, 200);
}

#[tokio::test]
async fn the_document_names_the_header_where_it_means_something() {
    let document = api().get("/openapi.json").await.json();
    let has_it = |path: &str| {
        let parameters = &document["paths"][path]["post"]["parameters"];
        let parameters = parameters.as_array().into_iter().flatten();
        parameters
            .into_iter()
            .any(|p| p["name"] == "Idempotency-Key")
    };
    assert!(has_it(DEDUCT) && has_it("/api/chat") && has_it("/v1/auth/register"));
    assert!(!has_it("/v1/auth/login") && !has_it("/v1/billing/check"));
}

#[tokio::test]
async fn fifty_at_once_pay_once() {
    let api = api();
    let body = json!({"tokens": 5, "reason": "once"}).to_string();
    let asked = (0..50).map(|_| ask(&api, KEY, DEDUCT, "k", &body));
    let replies = futures_util::future::join_all(asked).await;
    let (mut fresh, mut text) = (0, String::new());
    for reply in &replies {
        assert!(matches!(reply.status.as_u16(), 200 | 409), "{}", reply.text);
        if reply.status == 200 {
            fresh += usize::from(reply.header("idempotent-replayed").is_empty());
            text.clone_from(&reply.text);
        }
    }
    assert_eq!(fresh, 1);
    let again = ask(&api, KEY, DEDUCT, "k", &body).await;
    assert_eq!(
        (again.text.as_str(), again.header("x-aither-cost")),
        (&*text, "5")
    );
    let bearer = format!("Bearer {KEY}");
    let headers = [("authorization", &*bearer)];
    let balance = api.send("GET", "/v1/billing/balance", &headers, "").await;
    assert_eq!(balance.json()["tokens"], -5.0);
}

#[tokio::test]
async fn refusals_that_the_same_request_always_gets_are_kept_with_their_form() {
    let api = api();
    for (path, status) in [
        (DEDUCT, 422),
        ("/v1/chat/completions", 400),
        ("/api/chat", 400),
    ] {
        let first = ask(&api, KEY, path, "k", "{}").await;
        assert_eq!(first.status, status, "{path}");
        let again = ask(&api, KEY, path, "k", "{}").await;
        assert_eq!(again.header("idempotent-replayed"), "true", "{path}");
        assert_eq!((again.status, &again.text), (first.status, &first.text));
        assert_eq!(again.header("content-type"), first.header("content-type"));
    }
}

#[tokio::test]
async fn an_account_is_made_once_and_its_key_told_once() {
    let api = api();
    let body = json!({"email": "ann@example.org", "password": "correct horse"});
    let admin = json!({"email": "bob@example.org"});
    for (path, body) in [("/v1/auth/register", body), ("/v1/admin/accounts", admin)] {
        let first = ask(&api, KEY, path, "k", &body.to_string()).await;
        assert_eq!(first.status, 201, "{}", first.text);
        for body in [
            body.to_string(),
            json!({"email": "c@example.org"}).to_string(),
        ] {
            let again = ask(&api, KEY, path, "k", &body).await;
            assert_eq!(again.status, 409, "{path}");
            assert!(
                words(&again).contains("what it made exists"),
                "{}",
                again.text
            );
        }
    }
    assert_eq!(api.accounts.list(None, 9).await.unwrap().len(), 2);
}
