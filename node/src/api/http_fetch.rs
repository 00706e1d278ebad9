//! `/v1/http/fetch`: an address outside, asked through the node.
//!
//! Nothing here is charged. What may be asked is the operator's choice. An answer goes out in
//! pieces, so that the memory it takes counts until a slow client has read it.

use std::{collections::BTreeMap, convert::Infallible, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    ApiError, ApiState, Problem,
    auth::Caller,
    error::overloaded,
    extract::{JsonBody, parse_duration},
    payment::payer_of,
};
use crate::{
    fetch::{
        ANSWER_BYTES_DEFAULT, ANSWER_BYTES_MAX, FetchError, Outgoing, TIMEOUT_DEFAULT, TIMEOUT_MAX,
    },
    services::{FetchBounds, FetchPlace, Fetched},
};

/// When to ask again where an account has too many under way.
const RETRY_WHEN_BUSY: Duration = Duration::from_secs(1);

/// Bytes of an answer that are handed over at once.
const PIECE_BYTES: usize = 64 << 10;

/// `POST /v1/http/fetch`.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct FetchBody {
    /// An `http` or `https` address of a host that the node's operator allows.
    url: String,
    /// `GET` where there is none; `HEAD`, `POST`, `PUT`, `PATCH`, `DELETE` or `OPTIONS`.
    method: Option<String>,
    /// Up to 64, of 16 KiB together; not those that are about the connection.
    headers: Option<BTreeMap<String, String>>,
    /// A text, sent as it is, or any other JSON value, sent as JSON. Up to 2 MiB.
    #[schema(value_type = Option<Value>)]
    body: Option<Value>,
    /// `utf-8` where there is none; with `base64` the text of `body` stands for bytes.
    body_encoding: Option<String>,
    /// Time for all of it: seconds, or a text such as `"10s"`; 20 s where there is none, at most
    /// 60.
    #[schema(value_type = Option<f64>)]
    timeout: Option<Value>,
    /// Bytes of the answer that are read: 1 MiB where there is none, 8 MiB at most.
    max_bytes: Option<usize>,
}

/// What came back.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FetchAnswer {
    /// The answer's status.
    status: u16,
    /// Its headers by their names in lower case; what comes several times is joined by `", "`.
    headers: BTreeMap<String, String>,
    /// Its body, as far as it was read.
    body: String,
    /// How `body` is written: `utf-8`, or `base64` where it is no text.
    encoding: &'static str,
    /// Whose answer it is, after redirects.
    url: String,
    /// Whether there is more of the body.
    truncated: bool,
    /// How long it took.
    elapsed_ms: u64,
}

/// Asks an address outside, through the node.
#[utoipa::path(
    post, path = "/v1/http/fetch", tag = "tools",
    request_body = FetchBody,
    responses(
        (status = 200, description = "What came back", body = FetchAnswer),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn fetch(
    State(state): State<ApiState>,
    caller: Caller,
    JsonBody(body): JsonBody<FetchBody>,
) -> Result<Response, ApiError> {
    if !state.tools.fetch.is_configured() {
        return Err(FetchError::NotConfigured.into());
    }
    let account = payer_of(&caller);
    let (outgoing, bounds) = body.checked()?;
    let fetched = state.tools.fetch.fetch(account, outgoing, bounds).await?;
    let answer = serde_json::to_vec(&FetchAnswer::of(&fetched));
    let answer = answer.map_err(|error| ApiError::internal(error.to_string()))?;
    Ok(in_pieces(answer.into(), fetched.place))
}

/// Sends JSON in pieces; the place is kept until the last one was taken, or nobody takes them.
fn in_pieces(json: Bytes, place: FetchPlace) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/json".to_owned()),
        (header::CONTENT_LENGTH, json.len().to_string()),
    ];
    let pieces = stream::unfold((json, place), async |(mut rest, place)| {
        let piece = rest.split_to(PIECE_BYTES.min(rest.len()));
        let is_there = !piece.is_empty();
        is_there.then_some((Ok::<_, Infallible>(piece), (rest, place)))
    });
    (headers, Body::from_stream(pieces)).into_response()
}

impl FetchBody {
    fn checked(self) -> Result<(Outgoing, FetchBounds), ApiError> {
        let bounds = FetchBounds {
            bytes_max: match self.max_bytes {
                None => ANSWER_BYTES_DEFAULT,
                Some(bytes) if (1..=ANSWER_BYTES_MAX).contains(&bytes) => bytes,
                Some(_) => {
                    let message = format!("must be 1 to {ANSWER_BYTES_MAX}");
                    return Err(ApiError::field("max_bytes", message));
                }
            },
            timeout: timeout_of(self.timeout.as_ref())?,
        };
        let mut headers: Vec<_> = self.headers.unwrap_or_default().into_iter().collect();
        let (body, is_json) = body_of(self.body, self.body_encoding.as_deref())?;
        let has_type = headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        if is_json && !has_type {
            headers.push(("content-type".to_owned(), "application/json".to_owned()));
        }
        let method = self.method.as_deref().unwrap_or("GET");
        Ok((Outgoing::new(method, &self.url, &headers, body)?, bounds))
    }
}

fn timeout_of(timeout: Option<&Value>) -> Result<Duration, ApiError> {
    let read = match timeout {
        None => return Ok(TIMEOUT_DEFAULT),
        Some(Value::Number(seconds)) => {
            let seconds = seconds.as_f64();
            seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        }
        Some(Value::String(text)) => parse_duration(text),
        Some(_) => None,
    };
    let range = Duration::from_millis(1)..=TIMEOUT_MAX;
    read.filter(|timeout| range.contains(timeout))
        .ok_or_else(|| {
            let message = "must be a number of seconds, or a text such as \"10s\", up to 60 s";
            ApiError::field("timeout", message)
        })
}

/// Returns a body's bytes, and whether they are JSON that was not written as a text.
fn body_of(body: Option<Value>, encoding: Option<&str>) -> Result<(Bytes, bool), ApiError> {
    match (body, encoding) {
        (None | Some(Value::Null), _) => Ok((Bytes::new(), false)),
        (Some(Value::String(text)), None | Some("utf-8")) => Ok((text.into(), false)),
        (Some(Value::String(text)), Some("base64")) => {
            let bytes = STANDARD.decode(text);
            let bytes = bytes.map_err(|_| ApiError::field("body", "is not base64"))?;
            Ok((bytes.into(), false))
        }
        (Some(value), None) => Ok((value.to_string().into(), true)),
        (Some(_), Some(_)) => {
            let message = "must be \"utf-8\" or \"base64\", with a body that is a text";
            Err(ApiError::field("body_encoding", message))
        }
    }
}

impl FetchAnswer {
    fn of(fetched: &Fetched) -> Self {
        let mut headers: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in &fetched.headers {
            let value = String::from_utf8_lossy(value.as_bytes());
            let known = headers.entry(name.as_str().to_owned()).or_default();
            if !known.is_empty() {
                known.push_str(", ");
            }
            known.push_str(&value);
        }
        let (body, encoding) = text_of(&fetched.body, fetched.is_truncated);
        Self {
            status: fetched.status,
            headers,
            body,
            encoding,
            url: fetched.url.to_string(),
            truncated: fetched.is_truncated,
            elapsed_ms: u64::try_from(fetched.elapsed.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// Writes bytes as a text, if they are one; what was cut may end within a character. Control
/// characters are no text, and each would take six bytes in JSON.
fn text_of(bytes: &[u8], is_cut: bool) -> (String, &'static str) {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) if is_cut && error.error_len().is_none() => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).ok()
        }
        Err(_) => None,
    };
    let odd = |c: char| c.is_ascii_control() && !matches!(c, '\t' | '\n' | '\r');
    match text.filter(|text| !text.contains(odd)) {
        Some(text) => (text.to_owned(), "utf-8"),
        None => (STANDARD.encode(bytes), "base64"),
    }
}

impl From<FetchError> for ApiError {
    fn from(error: FetchError) -> Self {
        let (code, words) = (error.code(), error.to_string());
        match error {
            FetchError::Invalid { field, message } => Self::field(field, message),
            FetchError::AccountBusy { .. } => {
                Self::new(code, words).with_retry_after(RETRY_WHEN_BUSY)
            }
            FetchError::Busy => overloaded(&words),
            FetchError::Internal(cause) => Self::internal(cause),
            _ => Self::new(code, words),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use serde_json::json;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::{config::FetchConfig, services::FetchService};

    fn checked(body: Value) -> Result<(Outgoing, FetchBounds), ApiError> {
        let body: FetchBody = serde_json::from_value(body).unwrap();
        body.checked()
    }

    #[test]
    fn a_body_is_a_text_bytes_or_json() {
        let of = |body: Value| {
            let (outgoing, _) = checked(body).unwrap();
            let kind = outgoing.headers.get("content-type").cloned();
            (
                outgoing.body,
                kind.map(|kind| kind.to_str().unwrap().to_owned()),
            )
        };
        let url = "https://a.org/";
        let text = of(json!({"url": url, "method": "POST", "body": "{}"}));
        assert_eq!((&text.0[..], text.1), (&b"{}"[..], None));
        let value = of(json!({"url": url, "method": "POST", "body": {"a": [1]}}));
        assert_eq!(&value.0[..], br#"{"a":[1]}"#);
        assert_eq!(value.1.as_deref(), Some("application/json"));
        let own = json!({
            "url": url, "method": "PUT", "body": [1], "headers": {"Content-Type": "a/b"},
        });
        assert_eq!(of(own).1.as_deref(), Some("a/b"));
        let bytes = json!({
            "url": url, "method": "POST", "body": "AP8=", "body_encoding": "base64",
        });
        assert_eq!(&of(bytes).0[..], b"\0\xff");
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        for (field, value) in [
            ("timeout", json!(0)),
            ("timeout", json!(61)),
            ("timeout", json!("soon")),
            ("timeout", json!(1e300)),
            ("max_bytes", json!(0)),
            ("max_bytes", json!(ANSWER_BYTES_MAX + 1)),
            ("method", json!("TRACE")),
            ("body_encoding", json!("gzip")),
            ("url", json!("nowhere")),
        ] {
            let mut body = json!({"url": "https://a.org/", "body": null});
            body[field] = value.clone();
            if field == "body_encoding" {
                body["body"] = json!("x");
            }
            let error = checked(body).unwrap_err();
            let words = error
                .body(super::super::error::Dialect::Native, "id")
                .to_string();
            assert!(words.contains(field), "{value}: {words}");
        }
    }

    #[tokio::test]
    async fn an_answer_takes_its_place_until_it_was_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let config = FetchConfig {
            allow: vec![url.clone()],
            allow_private: true,
        };
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 2048];
                // The head comes in one piece, and a client that left is no failure here.
                let _ = stream.read(&mut request).await;
                let body = "x".repeat(2 * PIECE_BYTES);
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
            }
        });
        let service = FetchService::new(&config).unwrap();
        let fetch = async || {
            let (outgoing, bounds) = checked(json!({"url": url})).unwrap();
            let fetched = service.fetch(aither_ledger::AccountId(1), outgoing, bounds);
            fetched.await.map(|fetched| {
                let answer = serde_json::to_vec(&FetchAnswer::of(&fetched)).unwrap();
                in_pieces(answer.into(), fetched.place)
            })
        };
        let mut answers = Vec::new();
        while let Ok(answer) = fetch().await {
            answers.push(answer);
        }
        // As many as an account may have under way; all of them have ended but for being read.
        assert_eq!(answers.len(), 8);
        let mut pieces = answers.pop().unwrap().into_body().into_data_stream();
        let first = pieces.next().await.unwrap().unwrap();
        assert_eq!(first.len(), PIECE_BYTES);
        assert!(fetch().await.is_err());
        while pieces.next().await.is_some() {}
        answers.push(fetch().await.unwrap());
        // Nobody reads on.
        answers.pop();
        assert!(fetch().await.is_ok());
    }

    #[test]
    fn a_body_that_was_cut_within_a_character_is_still_a_text() {
        assert_eq!(text_of("aä".as_bytes(), false), ("aä".to_owned(), "utf-8"));
        assert_eq!(
            text_of(&"aä".as_bytes()[..2], true),
            ("a".to_owned(), "utf-8")
        );
        assert_eq!(text_of(&"aä".as_bytes()[..2], false).1, "base64");
        assert_eq!(text_of(b"\xff\xfe", true).1, "base64");
        assert_eq!(text_of(b"a\x01", false).1, "base64");
        assert_eq!(text_of(b"a\r\n\tb", false).1, "utf-8");
    }
}
