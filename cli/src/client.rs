//! A typed client of the node's HTTP API.
//!
//! Reads are bounded in size and time, because what answers at an address need not be a node.
//! Redirects are not followed, so that the key goes to the server that was named and no other.
//! A server on this machine is asked directly, whatever proxy the environment names.

mod agents;
mod answer;
mod billing;
mod calls;
mod codegraph;
mod key;
mod marketplace;
mod memory;
mod pages;

use std::{error::Error as StdError, time::Duration};

use aither_protocol::sse::{Event, Parser};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url, redirect};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use self::{
    agents::{Agent, AgentQuery, Bundle, Mode},
    answer::Answer,
    billing::{Balance, Payment, StatementItem, Tokens, TopUp, Usage, UsageItem},
    calls::{CallRequest, CallTarget, LogItem},
    codegraph::{CodegraphIndex, CodegraphQuery, CodegraphRow, Indexed, Skipped, SourceFile},
    key::ApiKey,
    marketplace::{Listing, MarketplaceItem, MarketplaceQuery},
    memory::{MemoryEntry, MemoryHit, MemoryItem, MemorySearch, MemoryWrite, Place, WrittenEntry},
};
use crate::{
    args::ConnectionArgs,
    error::{Error, Refusal},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The node sends a comment every 15 s while it works: eight missed ones are a dead connection.
const READ_TIMEOUT: Duration = Duration::from_secs(120);
/// Lists and whole answers; a thousand models fit many times over.
const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// A refusal is a few hundred bytes.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

/// A connection to one node, as one caller.
#[derive(Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    server: Url,
    key: Option<ApiKey>,
}

/// `GET /v1/models`, as far as the client reads it.
#[derive(Debug, Deserialize)]
pub(crate) struct ModelList {
    pub(crate) data: Vec<Model>,
}

/// One model that the node serves. All but the name may be missing on other servers.
#[derive(Debug, Deserialize)]
pub(crate) struct Model {
    pub(crate) id: String,
    pub(crate) parameters: Option<u64>,
    pub(crate) quantization: Option<String>,
    pub(crate) context_length: Option<u64>,
    pub(crate) loaded: Option<bool>,
    pub(crate) alias_of: Option<String>,
}

/// `POST /v1/llm/chat`.
#[derive(Debug, Serialize)]
pub(crate) struct ChatRequest<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<&'a str>,
    pub(crate) messages: &'a [Message],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) temperature: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seed: Option<u64>,
    pub(crate) stream: bool,
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Message {
    pub(crate) role: &'static str,
    pub(crate) content: String,
}

/// What a streamed answer consists of.
#[derive(Debug)]
pub(crate) enum ChatEvent {
    /// The next piece of text.
    Delta(String),
    /// The whole answer object; nothing follows.
    Done(Value),
}

impl Client {
    /// Makes a client for the node that was named.
    pub(crate) fn new(args: &ConnectionArgs) -> Result<Self, Error> {
        let server = parse_server(&args.server)?;
        let local = is_loopback(&server);
        let key = key::find(&server, local, args.data_dir.as_deref())?;
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .redirect(redirect::Policy::none())
            .user_agent(concat!("aither-cli/", env!("CARGO_PKG_VERSION")));
        if local {
            builder = builder.no_proxy();
        }
        if server.scheme() == "http" {
            // Plain HTTP needs no roots, and a machine without any must still reach its node.
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build().map_err(Error::Client)?;
        Ok(Self { http, server, key })
    }

    /// Returns the address for people: without a trailing slash.
    pub(crate) fn server(&self) -> &str {
        self.server.as_str().trim_end_matches('/')
    }

    /// Asks for the models that the node serves.
    pub(crate) async fn models(&self) -> Result<Answer, Error> {
        self.get("v1/models", &[]).await
    }

    /// Starts a streamed chat.
    pub(crate) async fn chat(&self, request: &ChatRequest<'_>) -> Result<ChatStream<'_>, Error> {
        let url = self.url("v1/llm/chat")?;
        self.stream(self.request(Method::POST, url).json(request))
            .await
    }

    /// Sends a request whose answer is an event stream.
    async fn stream(&self, request: RequestBuilder) -> Result<ChatStream<'_>, Error> {
        let response = self.send(request).await?;
        let kind = response.headers().get(reqwest::header::CONTENT_TYPE);
        if !kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream")) {
            return Err(self.unexpected("an answer that is no event stream"));
        }
        let parser = Parser::new(BODY_BYTES_MAX);
        Ok(ChatStream {
            client: self,
            response,
            parser,
            events: Vec::new().into_iter(),
        })
    }

    /// Asks for a document.
    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Answer, Error> {
        let mut url = self.url(path)?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.answer(self.request(Method::GET, url)).await
    }

    /// Asks for something to be done.
    async fn post(&self, path: &str, body: &impl Serialize) -> Result<Answer, Error> {
        let request = self.request(Method::POST, self.url(path)?);
        self.answer(request.json(body)).await
    }

    /// Sends a request whose answer is one document.
    async fn answer(&self, request: RequestBuilder) -> Result<Answer, Error> {
        let response = self.send(request.timeout(READ_TIMEOUT)).await?;
        let body = self.read_body(response, BODY_BYTES_MAX).await?;
        Answer::new(self.server(), &body)
    }

    fn url(&self, path: &str) -> Result<Url, Error> {
        self.server.join(path).map_err(|cause| Error::BadServer {
            server: self.server.to_string(),
            cause: cause.to_string(),
        })
    }

    fn request(&self, method: Method, url: Url) -> RequestBuilder {
        let request = self.http.request(method, url);
        match &self.key {
            Some(key) => request.header(reqwest::header::AUTHORIZATION, key.header()),
            None => request,
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, Error> {
        let response = request.send().await.map_err(|cause| self.failed(&cause))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let (status, headers) = (response.status(), response.headers());
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let retry_after = header("retry-after").and_then(|seconds| seconds.parse().ok());
        let request_id = header("x-request-id").map(str::to_owned);
        let body = self
            .read_body(response, REFUSAL_BYTES_MAX)
            .await
            .unwrap_or_default();
        let problem = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let mut refusal = refusal_of(&problem, Some(status));
        refusal.retry_after = retry_after;
        refusal.request_id = refusal.request_id.or(request_id);
        Err(Error::Refused(Box::new(refusal)))
    }

    async fn read_body(&self, mut response: Response, limit: usize) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        while let Some(bytes) = response
            .chunk()
            .await
            .map_err(|cause| self.failed(&cause))?
        {
            if body.len() + bytes.len() > limit {
                return Err(self.unexpected(&format!("an answer of more than {limit} bytes")));
            }
            body.extend_from_slice(&bytes);
        }
        Ok(body)
    }

    fn failed(&self, cause: &reqwest::Error) -> Error {
        let server = self.server().to_owned();
        if cause.is_connect() {
            return Error::NoServer {
                server,
                cause: root_cause(cause),
            };
        }
        let words = if cause.is_timeout() {
            "no answer in time".to_owned()
        } else {
            root_cause(cause)
        };
        Error::Broken {
            server,
            cause: words,
        }
    }

    fn unexpected(&self, what: &str) -> Error {
        Error::Unexpected {
            server: self.server().to_owned(),
            what: what.to_owned(),
        }
    }
}

/// A streamed answer; dropping it hangs up, which stops the node's work on it.
#[derive(Debug)]
pub(crate) struct ChatStream<'a> {
    client: &'a Client,
    response: Response,
    parser: Parser,
    events: std::vec::IntoIter<Event>,
}

impl ChatStream<'_> {
    /// Returns the next event; after [`ChatEvent::Done`] there is none.
    pub(crate) async fn next(&mut self) -> Result<ChatEvent, Error> {
        loop {
            let event = self.next_event().await?.ok_or_else(|| Error::Broken {
                server: self.client.server().to_owned(),
                cause: "the answer ended before it was whole".to_owned(),
            })?;
            if let Some(event) = self.on_event(&event)? {
                return Ok(event);
            }
        }
    }

    /// Returns the next event as it came, until the stream ends.
    pub(crate) async fn next_event(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(event) = self.events.next() {
                return Ok(Some(event));
            }
            let bytes = self
                .response
                .chunk()
                .await
                .map_err(|cause| self.client.failed(&cause))?;
            let Some(bytes) = bytes else {
                return Ok(None);
            };
            let events = self.parser.push(&bytes);
            let events = events.map_err(|error| self.client.unexpected(&error.to_string()))?;
            self.events = events.into_iter();
        }
    }

    fn on_event(&self, event: &Event) -> Result<Option<ChatEvent>, Error> {
        let not_json = |_| self.client.unexpected("an event that is not JSON");
        let data: Value = serde_json::from_str(&event.data).map_err(not_json)?;
        match event.name.as_str() {
            "delta" => {
                let text = data.get("text").and_then(Value::as_str).unwrap_or_default();
                Ok(Some(ChatEvent::Delta(text.to_owned())))
            }
            "done" => Ok(Some(ChatEvent::Done(data))),
            "error" => Err(Error::Refused(Box::new(refusal_of(&data, None)))),
            // A newer node may send more than this client knows.
            _ => Ok(None),
        }
    }
}

/// Reads a problem document, whatever of it is there.
fn refusal_of(problem: &Value, status: Option<StatusCode>) -> Refusal {
    let text = |name: &str| problem.get(name).and_then(Value::as_str).map(str::to_owned);
    let mut detail = text("detail").or_else(|| text("title")).unwrap_or_else(|| {
        let reason = status.and_then(|status| status.canonical_reason());
        format!(
            "the server refused: {}",
            reason.unwrap_or("without a reason").to_lowercase()
        )
    });
    for error in problem
        .get("errors")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let member = |name: &str| error.get(name).and_then(Value::as_str);
        if let (Some(field), Some(message)) = (member("field"), member("message")) {
            // A single-field problem usually repeats its message as the detail.
            if !detail.contains(message) {
                detail.push_str(&format!("; {field}: {message}"));
            }
        }
    }
    Refusal {
        detail,
        code: text("code"),
        status: status.map(|status| status.as_u16()),
        retry_after: None,
        request_id: text("request_id"),
    }
}

/// Reads an address the way people type it: `localhost:8200` is one, too.
fn parse_server(typed: &str) -> Result<Url, Error> {
    let bad = |cause: &str| Error::BadServer {
        server: typed.to_owned(),
        cause: cause.to_owned(),
    };
    let full = if typed.contains("://") {
        typed.to_owned()
    } else {
        format!("http://{typed}")
    };
    let mut url = Url::parse(&full).map_err(|cause| bad(&cause.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad("only http and https are spoken"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad(
            "a key belongs into AITHEROS_API_KEY, not into the address",
        ));
    }
    url.set_query(None);
    url.set_fragment(None);
    // Joining a path replaces what follows the last slash.
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

fn is_loopback(server: &Url) -> bool {
    let host = server.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host.ends_with(".localhost")
        || address
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Returns the words of the innermost error: the outer ones only say "error sending request".
fn root_cause(error: &dyn StdError) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_are_read_as_people_type_them() {
        for (typed, url) in [
            ("http://localhost:8200", "http://localhost:8200/"),
            ("localhost:8200", "http://localhost:8200/"),
            ("https://example.org/base?x=1", "https://example.org/base/"),
        ] {
            assert_eq!(parse_server(typed).unwrap().as_str(), url);
        }
    }

    #[test]
    fn addresses_that_are_none_are_bad_usage() {
        for typed in [
            "",
            "ftp://host",
            "http://",
            "http://key@host",
            "http://host:99999",
        ] {
            assert_eq!(parse_server(typed).unwrap_err().exit_code(), 2, "{typed}");
        }
    }

    #[test]
    fn loopback_is_known_by_name_and_number() {
        for (server, local) in [
            ("http://localhost", true),
            ("http://127.1.2.3:1", true),
            ("http://[::1]:8200", true),
            ("http://localhost.example.org", false),
            ("http://192.168.0.1", false),
        ] {
            assert_eq!(
                is_loopback(&parse_server(server).unwrap()),
                local,
                "{server}"
            );
        }
    }

    #[test]
    fn problem_gives_detail_code_and_fields() {
        let problem = json!({
            "detail": "the request has errors", "code": "validation_failed",
            "errors": [{"field": "messages", "message": "must not be empty"}]
        });
        let refusal = refusal_of(&problem, Some(StatusCode::UNPROCESSABLE_ENTITY));
        assert_eq!(
            refusal.detail,
            "the request has errors; messages: must not be empty"
        );
        assert_eq!(refusal.code.as_deref(), Some("validation_failed"));
    }

    #[test]
    fn refusal_without_a_problem_still_says_something() {
        let refusal = refusal_of(&Value::Null, Some(StatusCode::BAD_GATEWAY));
        assert_eq!(refusal.detail, "the server refused: bad gateway");
    }
}
