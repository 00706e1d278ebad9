//! One exchange with an agent: the request, and all of its answer or what streams.
//!
//! The agent is another's program, somewhere: its answer has a longest size and time, redirects are
//! not followed, and its words stay out of ours.

use std::{sync::Arc, time::Duration};

use aither_protocol::HttpMethod;
use bytes::{Bytes, BytesMut};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, header};
use serde_json::{Value, value::RawValue};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};
use url::Url;

use super::{ANSWER_BYTES_MAX, CallError, CallEvent, CallRequest, QUERY_BYTES_MAX, Sink, What};
use crate::calls::{
    message::{Message, Reading},
    relay::Relay,
    target::Route,
};

/// Longest time that a stream may take in all: well below the time after which a hold expires.
const STREAM_TIME_MAX: Duration = Duration::from_secs(30 * 60);
/// Most bytes of a stream that is passed on as it comes.
const STREAM_BYTES_MAX: u64 = 64 << 20;
/// Version of A2A that is spoken with agents that speak it themselves.
const A2A_VERSION: &str = "1.0";
/// Longest media type that is passed on.
const CONTENT_TYPE_BYTES_MAX: usize = 128;
/// How long an agent must have had before it is its fault that it has taken too long: any less may
/// be a caller's who wants to make it look bad.
const FAIR_TIME: Duration = Duration::from_secs(10);

/// How long an agent is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    timeout: Duration,
    until: Instant,
    last: Instant,
    /// Since when the agent is waited for, if it was asked.
    since: Option<Instant>,
}

/// Who an exchange is with and what about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exchange<'a> {
    pub(super) client: &'a Client,
    /// Bytes of answers that may still be read.
    pub(super) room: &'a Arc<Semaphore>,
    pub(super) agent: &'a str,
    pub(super) route: &'a Route,
    pub(super) request: &'a CallRequest,
    pub(super) task_id: u128,
}

/// What an agent has answered.
#[derive(Debug)]
pub(super) struct Exchanged {
    pub(super) status: u16,
    pub(super) content_type: String,
    /// What it means; `None` where that is nothing that can be said in JSON.
    pub(super) reading: Option<Reading>,
    /// The body, where it is passed on.
    pub(super) body: Bytes,
    /// How many bytes there were.
    pub(super) len: u64,
    /// The room that it takes.
    _held: Held,
}

/// Room for an answer, taken as the answer grows.
#[derive(Debug)]
struct Held {
    room: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) error: CallError,
    /// Whether nothing of an answer has come, so that another agent can be asked.
    pub(super) is_unreached: bool,
}

impl Patience {
    pub(super) fn new(timeout: Duration, now: Instant) -> Self {
        Self {
            timeout,
            until: now + timeout,
            last: now + STREAM_TIME_MAX.max(timeout),
            since: None,
        }
    }

    /// Notes that the agent is asked, or that another one is to be.
    pub(super) fn ask(&mut self, since: Option<Instant>) {
        self.since = since;
    }

    /// Begins anew: a piece has come.
    fn renew(&mut self) {
        let now = Instant::now();
        self.until = (now + self.timeout).min(self.last);
        self.since = Some(now);
    }

    /// Returns whether the agent that is waited for has had the time that anybody must have.
    pub(super) fn was_fair(&self, now: Instant) -> bool {
        self.since.is_some_and(|since| since + FAIR_TIME <= now)
    }

    pub(super) async fn wait<T>(
        &self,
        agent: &str,
        work: impl Future<Output = T>,
    ) -> Result<T, CallError> {
        let waited = timeout_at(self.until, work).await;
        waited.map_err(|_elapsed| CallError::TimedOut {
            agent: agent.to_owned(),
            after: self.timeout,
        })
    }
}

impl From<CallError> for Broken {
    fn from(error: CallError) -> Self {
        Self {
            error,
            is_unreached: false,
        }
    }
}

impl Held {
    fn new(room: &Arc<Semaphore>) -> Self {
        Self {
            room: Arc::clone(room),
            permit: None,
        }
    }

    /// Takes room for so many more bytes.
    ///
    /// # Errors
    /// All answers together have as many as may be.
    fn grow(&mut self, bytes: usize) -> Result<(), CallError> {
        let bytes = u32::try_from(bytes).map_err(|_| CallError::Busy)?;
        let more = Arc::clone(&self.room).try_acquire_many_owned(bytes);
        let more = more.map_err(|_| CallError::Busy)?;
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
        Ok(())
    }
}

impl Exchange<'_> {
    /// Has the exchange.
    ///
    /// # Errors
    /// The agent cannot be reached, fails, or takes too long.
    pub(super) async fn run(
        self,
        patience: &mut Patience,
        sink: Option<&Sink>,
    ) -> Result<Exchanged, Broken> {
        let request = self.to_request()?;
        patience.ask(Some(Instant::now()));
        let sent = patience.wait(self.agent, request.send()).await?;
        let answer = sent.map_err(|error| Broken {
            error: self.not_sent(&error),
            is_unreached: true,
        })?;
        let status = answer.status();
        let is_passed = self.request.pass_through && status.is_client_error();
        if !status.is_success() && !is_passed {
            return Err(self.refused(status).into());
        }
        let content_type = content_type_of(&answer);
        let is_stream = status.is_success() && is_event_stream(&content_type);
        let exchanged = match (is_stream, self.request.pass_through, sink) {
            (true, true, Some(sink)) => self.pass_on(answer, content_type, patience, sink).await,
            (true, ..) => self.relay(answer, content_type, patience, sink).await,
            (false, ..) => {
                let exchanged = self.whole(answer, content_type, patience).await?;
                self.say(&exchanged, patience, sink).await?;
                Ok(exchanged)
            }
        };
        Ok(exchanged?)
    }

    /// Hands on an answer that came whole in one piece, where pieces are wanted.
    async fn say(
        self,
        exchanged: &Exchanged,
        patience: &Patience,
        sink: Option<&Sink>,
    ) -> Result<(), CallError> {
        let (Some(sink), Some(reading)) = (sink, &exchanged.reading) else {
            return Ok(());
        };
        if self.request.pass_through {
            return Ok(());
        }
        let text = serde_json::from_str(&reading.json);
        let text = text.unwrap_or_else(|_| reading.json.clone());
        match text.is_empty() {
            true => Ok(()),
            false => self.send(CallEvent::Text(text), patience, sink).await,
        }
    }

    fn to_request(self) -> Result<RequestBuilder, CallError> {
        let method = match self.route.method {
            HttpMethod::Get => Method::GET,
            HttpMethod::Post => Method::POST,
            HttpMethod::Put => Method::PUT,
            HttpMethod::Patch => Method::PATCH,
            HttpMethod::Delete => Method::DELETE,
        };
        let has_body = has_body(self.route.method);
        let task_id = ulid::Ulid(self.task_id).to_string();
        let asked = self.request;
        let url = url_of(self.route, &asked.what)?;
        let mut request = self.client.request(method, url);
        request = match &asked.what {
            What::Endpoint {
                payload: Some(payload),
                ..
            } if has_body => request
                .header(header::CONTENT_TYPE, "application/json")
                .body(payload.get().to_owned()),
            What::Endpoint { .. } => request,
            What::Message { input, session_id } => {
                let message = Message {
                    message: input,
                    session_id: session_id.as_deref(),
                    skill: asked.skill.as_deref(),
                    stream: asked.stream,
                };
                let body = match self.route.is_a2a {
                    true => message.to_a2a_body(&task_id),
                    false => message.to_body(),
                };
                request
                    .header(header::CONTENT_TYPE, "application/json")
                    .body(body)
            }
        };
        if self.route.is_a2a {
            request = request.header("a2a-version", A2A_VERSION);
        } else if asked.stream {
            request = request.header(header::ACCEPT, "text/event-stream");
        }
        Ok(request
            .header("x-request-id", &asked.request_id)
            .header("x-aither-task-id", task_id)
            .header("x-aither-caller", &asked.caller.name)
            .header("x-aither-hop", u64::from(asked.hop) + 1))
    }

    /// Reads an answer to its end.
    async fn whole(
        self,
        answer: Response,
        content_type: String,
        patience: &Patience,
    ) -> Result<Exchanged, CallError> {
        let status = answer.status().as_u16();
        let mut held = Held::new(self.room);
        let body = self.body_of(answer, &mut held);
        let body = patience.wait(self.agent, body).await??;
        let reading = match (self.request.pass_through, self.route.is_a2a) {
            // Whatever it is, whoever asked gets it as it is.
            (true, _) => Reading::whole(&body).ok(),
            (false, true) => Some(Reading::of_a2a(&body).map_err(|words| self.failed(words))?),
            (false, false) => Some(Reading::of(&body).map_err(|words| self.failed(words))?),
        };
        Ok(Exchanged {
            status,
            content_type,
            reading,
            len: len_of(&body),
            body: match self.request.pass_through {
                true => body,
                false => Bytes::new(),
            },
            _held: held,
        })
    }

    async fn body_of(self, mut answer: Response, held: &mut Held) -> Result<Bytes, CallError> {
        let bytes_max = self.request.answer_bytes_max;
        let too_long = || self.too_long(bytes_max);
        let announced = answer.content_length().unwrap_or(0);
        if usize::try_from(announced).is_ok_and(|len| len > bytes_max) {
            return Err(too_long());
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = answer.chunk().await.map_err(|_| self.broke_off())? {
            if body.len() + chunk.len() > bytes_max {
                return Err(too_long());
            }
            held.grow(chunk.len())?;
            // Most answers come in one piece, which need not be copied.
            if body.is_empty() && u64::try_from(chunk.len()) == Ok(announced) {
                return Ok(chunk);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }

    /// Relays a stream of events as pieces of text.
    async fn relay(
        self,
        mut answer: Response,
        content_type: String,
        patience: &mut Patience,
        sink: Option<&Sink>,
    ) -> Result<Exchanged, CallError> {
        let status = answer.status().as_u16();
        let (mut relay, mut len, mut is_silent) = (Relay::default(), 0, true);
        let mut held = Held::new(self.room);
        while !relay.is_over() {
            let chunk = patience.wait(self.agent, answer.chunk()).await?;
            let Some(chunk) = chunk.map_err(|_| self.broke_off())? else {
                break;
            };
            len += len_of(&chunk);
            self.check_stream(len)?;
            held.grow(chunk.len())?;
            let text = relay.push(&chunk);
            let text = text.map_err(|error| self.failed(error.to_string()))?;
            if text.is_empty() {
                continue;
            }
            is_silent = false;
            if let Some(sink) = sink {
                self.send(CallEvent::Text(text), patience, sink).await?;
                // Whoever wants the answer whole waits for all of it no longer than asked for.
                patience.renew();
            }
        }
        let exchanged = Exchanged {
            status,
            content_type,
            reading: Some(relay.finish()),
            body: Bytes::new(),
            len,
            _held: held,
        };
        if is_silent {
            self.say(&exchanged, patience, sink).await?;
        }
        Ok(exchanged)
    }

    /// Passes a stream on as it comes.
    async fn pass_on(
        self,
        mut answer: Response,
        content_type: String,
        patience: &mut Patience,
        sink: &Sink,
    ) -> Result<Exchanged, CallError> {
        let status = answer.status().as_u16();
        let head = CallEvent::Head {
            status,
            content_type: content_type.clone(),
        };
        self.send(head, patience, sink).await?;
        patience.renew();
        let mut len = 0;
        loop {
            let chunk = patience.wait(self.agent, answer.chunk()).await?;
            let Some(chunk) = chunk.map_err(|_| self.broke_off())? else {
                break;
            };
            len += len_of(&chunk);
            self.check_stream(len)?;
            self.send(CallEvent::Bytes(chunk), patience, sink).await?;
            patience.renew();
        }
        Ok(Exchanged {
            status,
            content_type,
            reading: None,
            body: Bytes::new(),
            len,
            _held: Held::new(self.room),
        })
    }

    /// Hands on what has come. A client that does not read on is waited for as an agent is that
    /// does not go on: it holds its place.
    async fn send(
        self,
        event: CallEvent,
        patience: &Patience,
        sink: &Sink,
    ) -> Result<(), CallError> {
        let sent = patience.wait(self.agent, sink.send(event)).await;
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(CallError::Canceled),
        }
    }

    fn check_stream(self, len: u64) -> Result<(), CallError> {
        match len > STREAM_BYTES_MAX {
            true => Err(self.failed(format!("streamed more than {STREAM_BYTES_MAX} bytes"))),
            false => Ok(()),
        }
    }

    fn refused(self, status: StatusCode) -> CallError {
        let reason = match status.is_redirection() {
            true => format!(
                "answered {}, and redirects are not followed",
                status.as_u16()
            ),
            false => format!("answered {}", status.as_u16()),
        };
        CallError::failed(self.agent, &reason, Some(status.as_u16()))
    }

    /// Says that nothing was answered, or that nothing could be asked.
    fn not_sent(self, error: &reqwest::Error) -> CallError {
        if error.is_builder() {
            return CallError::Address {
                agent: self.agent.to_owned(),
                reason: "is none that a request can be made of".to_owned(),
            };
        }
        self.failed(send_words(error))
    }

    /// Says that there was more than may be: the agent's doing where that is what all agents may
    /// answer, else the caller's who wants less.
    fn too_long(self, bytes_max: usize) -> CallError {
        match bytes_max < ANSWER_BYTES_MAX {
            true => CallError::AnswerTooLong {
                agent: self.agent.to_owned(),
                bytes_max,
            },
            false => self.failed(format!("answered more than {bytes_max} bytes")),
        }
    }

    fn broke_off(self) -> CallError {
        self.failed("broke off in the middle of its answer")
    }

    fn failed(self, reason: impl AsRef<str>) -> CallError {
        CallError::failed(self.agent, reason.as_ref(), None)
    }
}

fn has_body(method: HttpMethod) -> bool {
    !matches!(method, HttpMethod::Get | HttpMethod::Delete)
}

/// Returns what is called, with the payload as its query where that has no body.
///
/// # Errors
/// The payload makes no query, or too long a one.
pub(super) fn url_of(route: &Route, what: &What) -> Result<Url, CallError> {
    let mut url = route.url.clone();
    if let (What::Endpoint { payload, .. }, false) = (what, has_body(route.method)) {
        let payload = payload.as_deref().map_or("null", RawValue::get);
        let members = query_of(payload)?;
        if !members.is_empty() {
            url.query_pairs_mut().extend_pairs(members);
        }
        if url
            .query()
            .is_some_and(|query| query.len() > QUERY_BYTES_MAX)
        {
            return Err(CallError::QueryTooLong);
        }
    }
    Ok(url)
}

fn send_words(error: &reqwest::Error) -> &'static str {
    // The one time limit of the client's own is that for a connection.
    if error.is_connect() || error.is_timeout() {
        "could not be reached"
    } else {
        "gave no answer that is HTTP"
    }
}

fn len_of(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// Returns the media type of an answer, as far as it is one that can be passed on.
fn content_type_of(answer: &Response) -> String {
    let value = answer.headers().get(header::CONTENT_TYPE);
    let text = value.and_then(|value| value.to_str().ok());
    let text = text.filter(|text| text.len() <= CONTENT_TYPE_BYTES_MAX);
    text.unwrap_or("application/octet-stream").to_owned()
}

fn is_event_stream(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("text/event-stream")
}

/// Returns a payload as a query has it, for methods that have no body.
fn query_of(payload: &str) -> Result<Vec<(String, String)>, CallError> {
    let payload: Value = serde_json::from_str(payload).map_err(|_| CallError::NoQuery)?;
    let members = match payload {
        Value::Null => return Ok(Vec::new()),
        Value::Object(members) => members,
        _ => return Err(CallError::NoQuery),
    };
    let members = members.into_iter().map(|(name, value)| match value {
        Value::String(text) => Ok((name, text)),
        Value::Number(number) => Ok((name, number.to_string())),
        Value::Bool(flag) => Ok((name, flag.to_string())),
        _ => Err(CallError::NoQuery),
    });
    members.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_without_a_body_becomes_a_query() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(query_of("null").unwrap(), []);
        assert_eq!(
            query_of(r#"{"q": "a b&c", "n": 1.5, "all": true}"#).unwrap(),
            [pair("q", "a b&c"), pair("n", "1.5"), pair("all", "true")]
        );
        for payload in ["[]", "\"a\"", r#"{"a": []}"#, r#"{"a": null}"#, "1"] {
            assert!(
                matches!(query_of(payload), Err(CallError::NoQuery)),
                "{payload}"
            );
        }
    }

    #[test]
    fn regression_a_query_has_a_longest_length() {
        let route = Route {
            url: Url::parse("http://127.0.0.1:9/find").unwrap(),
            path: "/find".to_owned(),
            method: HttpMethod::Get,
            is_a2a: false,
        };
        let url = |len: usize, method| {
            let payload = format!(r#"{{"q": "{}"}}"#, "x".repeat(len));
            let what = What::Endpoint {
                path: "/find".to_owned(),
                method: None,
                payload: Some(RawValue::from_string(payload).unwrap()),
            };
            let route = Route {
                method,
                ..route.clone()
            };
            url_of(&route, &what).map(|url| url.query().map_or(0, str::len))
        };
        let longest = QUERY_BYTES_MAX - "q=".len();
        assert_eq!(url(longest, HttpMethod::Get).unwrap(), QUERY_BYTES_MAX);
        for method in [HttpMethod::Get, HttpMethod::Delete] {
            let refused = url(longest + 1, method);
            assert!(matches!(refused, Err(CallError::QueryTooLong)));
        }
        assert_eq!(url(longest + 1, HttpMethod::Post).unwrap(), 0);
    }

    #[test]
    fn regression_a_timeout_is_an_agents_fault_once_it_has_had_a_fair_time() {
        let now = Instant::now();
        let mut patience = Patience::new(Duration::from_millis(1), now);
        let later = now + Duration::from_secs(60);
        assert!(!patience.was_fair(later), "it was never asked");
        patience.ask(Some(now));
        assert!(!patience.was_fair(now + FAIR_TIME - Duration::from_millis(1)));
        assert!(patience.was_fair(now + FAIR_TIME));
        patience.renew();
        assert!(!patience.was_fair(now + FAIR_TIME), "a piece has come");
        patience.ask(None);
        assert!(!patience.was_fair(later), "another is to be asked");
    }

    #[test]
    fn answers_take_room_together_and_give_it_back() {
        let room = Arc::new(Semaphore::new(10));
        let mut first = Held::new(&room);
        first.grow(4).unwrap();
        first.grow(4).unwrap();
        let mut second = Held::new(&room);
        second.grow(2).unwrap();
        assert!(matches!(second.grow(1), Err(CallError::Busy)));
        drop(first);
        second.grow(8).unwrap();
        drop(second);
        assert_eq!(room.available_permits(), 10);
    }

    #[test]
    fn streams_of_events_are_known_by_their_media_type() {
        assert!(is_event_stream("text/event-stream"));
        assert!(is_event_stream("Text/Event-Stream; charset=utf-8"));
        assert!(!is_event_stream("application/json"));
    }
}
