//! From the bytes of a request to a checked value.
//!
//! [`JsonBody`] reads a bounded body within a bounded time, checks UTF-8 and JSON, and names the
//! field that is missing or of a wrong type. [`RoutingHints`] reads the `X-Aither-…` headers. The
//! small types and functions below are shared by the dialects' requests.

use std::{fmt, ops::RangeInclusive, time::Duration};

use aither_protocol::ErrorCode;
use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderMap, HeaderName, header, request::Parts},
};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, DeserializeOwned, SeqAccess, Visitor},
};
use serde_json::error::Category;
use utoipa::ToSchema;

use super::{ApiError, ApiState, error::Dialect};
use crate::{config::HttpConfig, services::Urgency};

/// A body beyond the limit is read on for this many bytes, so that the client, which may still be
/// sending, gets to read the refusal; then the connection closes.
const EXCESS_BYTES_MAX: usize = 64 << 20;
/// Time for that.
const EXCESS_TIME_MAX: Duration = Duration::from_secs(5);
/// Largest `max_tokens` and the like: above any context, so only nonsense is refused. What a
/// model's context cannot hold is cut at the context's end instead.
const COMPLETION_TOKENS_MAX: i64 = 1 << 20;

/// A JSON body.
#[derive(Debug)]
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<ApiState> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, ApiError> {
        // Ollama reads any body as JSON, and its documentation's curl lines rely on it.
        if Dialect::of(request.uri().path()) != Dialect::Ollama {
            check_content_type(request.headers())?;
        }
        let bytes = whole_body(request.into_body(), &state.http).await?;
        parse(&bytes).map(Self)
    }
}

/// Reads a body within the configured bounds of size and time.
pub(super) async fn whole_body(body: Body, http: &HttpConfig) -> Result<Bytes, ApiError> {
    let read = read_body(body, http.body_bytes_max);
    let read = tokio::time::timeout(http.request_timeout, read).await;
    read.map_err(|_elapsed| {
        ApiError::new(
            ErrorCode::TimedOut,
            "the request's body did not arrive in time",
        )
    })?
}

fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(());
    };
    let essence = value.to_str().unwrap_or_default();
    let essence = essence.split(';').next().unwrap_or_default().trim();
    let is_json = essence.eq_ignore_ascii_case("application/json")
        || essence.to_ascii_lowercase().ends_with("+json");
    if is_json {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::UnsupportedMediaType,
        "the body must be JSON; send it with Content-Type: application/json",
    ))
}

async fn read_body(body: Body, bytes_max: usize) -> Result<Bytes, ApiError> {
    let mut chunks = body.into_data_stream();
    let mut bytes = BytesMut::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_broken| {
            ApiError::new(
                ErrorCode::InvalidRequest,
                "the body ended before its announced length",
            )
        })?;
        if bytes.len() + chunk.len() > bytes_max {
            drop(bytes);
            let drain = async {
                let mut excess = 0;
                while let Some(Ok(chunk)) = chunks.next().await {
                    excess += chunk.len();
                    if excess > EXCESS_BYTES_MAX {
                        break;
                    }
                }
            };
            // Whether all of it came does not matter: the answer is the same.
            let _ = tokio::time::timeout(EXCESS_TIME_MAX, drain).await;
            let detail = format!("the body is larger than {bytes_max} bytes");
            return Err(ApiError::new(ErrorCode::PayloadTooLarge, detail));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

/// Reads a value and names the field at fault.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    if let Err(error) = std::str::from_utf8(bytes) {
        let detail = format!("the body is not UTF-8: byte {}", error.valid_up_to());
        return Err(ApiError::new(ErrorCode::InvalidRequest, detail));
    }
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(ApiError::new(
            ErrorCode::InvalidRequest,
            "the body is empty; a JSON object is expected",
        ));
    }
    // Serde would take an array as an object's fields in order.
    if matches!(bytes.trim_ascii_start().first(), Some(b'[' | b'"')) {
        return Err(ApiError::new(
            ErrorCode::ValidationFailed,
            "the body must be a JSON object",
        ));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        parse_error(&path, error.inner())
    })?;
    json.end().map_err(|error| parse_error(".", &error))?;
    Ok(value)
}

fn parse_error(path: &str, error: &serde_json::Error) -> ApiError {
    // Where the text breaks off the path ends in "?", or is nothing else.
    let path = path.trim_end_matches('?').trim_end_matches('.');
    let words = error.to_string();
    if error.classify() != Category::Data {
        let detail = format!("invalid JSON: {words}");
        return if path.is_empty() {
            ApiError::new(ErrorCode::InvalidRequest, detail)
        } else {
            ApiError::with_field(ErrorCode::InvalidRequest, path, detail)
        };
    }
    // Where in the text a well-formed value stands says less than its path.
    let place = format!(" at line {} column {}", error.line(), error.column());
    let words = words.strip_suffix(&place).unwrap_or(&words);
    if let Some(name) = words
        .strip_prefix("missing field `")
        .and_then(|w| w.strip_suffix('`'))
    {
        let dot = if path.is_empty() { "" } else { "." };
        return ApiError::field(format!("{path}{dot}{name}"), "is required");
    }
    if path.is_empty() {
        return ApiError::new(
            ErrorCode::ValidationFailed,
            "the body must be a JSON object",
        );
    }
    ApiError::field(path, words)
}

/// Reads a time such as `90s`, `24h` or `7d`, up to ten years.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    const DURATION_MAX: Duration = Duration::from_secs(3660 * 24 * 3600);
    let duration = humantime::parse_duration(text).ok();
    duration.filter(|duration| *duration <= DURATION_MAX)
}

/// What a client may ask for. Each step doubles or halves its share of the tokens.
const PRIORITIES: RangeInclusive<i32> = -2..=2;
/// Longest deadline: longer ones bound nothing.
const DEADLINE_MAX: Duration = Duration::from_secs(24 * 3600);

/// What the `X-Aither-…` headers ask for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct RoutingHints {
    /// Whether the answer shall say why it was made here.
    pub(super) explain: bool,
    /// Whether the request must not leave this machine.
    pub(super) local_only: bool,
    /// How it stands beside others.
    pub(super) urgency: Urgency,
}

impl FromRequestParts<ApiState> for RoutingHints {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &ApiState) -> Result<Self, ApiError> {
        Self::read(&parts.headers)
    }
}

impl RoutingHints {
    fn read(headers: &HeaderMap) -> Result<Self, ApiError> {
        let text = |name: &'static str| {
            headers.get(HeaderName::from_static(name)).map(|value| {
                value.to_str().map(str::trim).map_err(|_not_ascii| {
                    ApiError::with_field(ErrorCode::InvalidRequest, name, "is not plain text")
                })
            })
        };
        let route = text("x-aither-route").transpose()?.unwrap_or("auto");
        let local_only = match route.to_ascii_lowercase().as_str() {
            "auto" => false,
            "local" => true,
            "federation" => {
                return Err(ApiError::new(
                    ErrorCode::NotAvailable,
                    "x-aither-route: this version has no federation; use local or auto",
                ));
            }
            _ => {
                let message = "must be local, federation or auto";
                return Err(ApiError::field("x-aither-route", message));
            }
        };
        let explain = match text("x-aither-explain").transpose()?.unwrap_or("0") {
            "1" | "true" => true,
            "0" | "false" | "" => false,
            _ => return Err(ApiError::field("x-aither-explain", "must be 0 or 1")),
        };
        let priority = text("x-aither-priority").transpose()?.map(|priority| {
            let priority = priority.parse().ok();
            priority
                .filter(|priority| PRIORITIES.contains(priority))
                .ok_or_else(|| {
                    let (low, high) = (PRIORITIES.start(), PRIORITIES.end());
                    let message = format!("must be a whole number from {low} to {high}");
                    ApiError::field("x-aither-priority", message)
                })
        });
        let deadline = text("x-aither-deadline").transpose()?.map(|seconds| {
            let seconds = seconds.parse::<f64>().ok();
            let deadline = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            deadline
                .filter(|deadline| *deadline <= DEADLINE_MAX)
                .ok_or_else(|| {
                    let max = DEADLINE_MAX.as_secs();
                    let message = format!("must be a number of seconds from 0 to {max}");
                    ApiError::field("x-aither-deadline", message)
                })
        });
        Ok(Self {
            explain,
            local_only,
            urgency: Urgency {
                priority: priority.transpose()?.unwrap_or(0),
                deadline: deadline.transpose()?,
            },
        })
    }
}

/// One string or several.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum OneOrMany {
    /// None.
    #[default]
    None,
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl OneOrMany {
    pub(super) fn into_vec(self) -> Vec<String> {
        match self {
            Self::None => Vec::new(),
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrManyVisitor;

        impl<'de> Visitor<'de> for OneOrManyVisitor {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of strings")
            }

            fn visit_unit<E: de::Error>(self) -> Result<OneOrMany, E> {
                Ok(OneOrMany::None)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany::One(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<OneOrMany, A::Error> {
                let mut many = Vec::new();
                while let Some(item) = items.next_element()? {
                    many.push(item);
                }
                Ok(OneOrMany::Many(many))
            }
        }

        deserializer.deserialize_any(OneOrManyVisitor)
    }
}

/// Checks an integer field.
pub(super) fn bounded(
    field: &str,
    value: Option<i64>,
    range: RangeInclusive<i64>,
) -> Result<Option<usize>, ApiError> {
    let Some(value) = value else { return Ok(None) };
    if !range.contains(&value) {
        let message = format!("must be {} to {}", range.start(), range.end());
        return Err(ApiError::field(field, message));
    }
    Ok(usize::try_from(value).ok())
}

/// Checks an upper bound on generated model tokens.
pub(super) fn completion_bound(field: &str, value: Option<i64>) -> Result<Option<usize>, ApiError> {
    bounded(field, value, 1..=COMPLETION_TOKENS_MAX)
}

/// Narrows a number to what the engine calculates with. What does not fit becomes infinite, which
/// the engine's own bounds refuse by the field's name.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the engine checks the range"
)]
pub(super) fn narrow(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Inner {
        #[expect(dead_code, reason = "only its type matters")]
        role: String,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only the types matter")]
    struct Outer {
        prompt: String,
        temperature: Option<f64>,
        stop: Option<OneOrMany>,
        #[serde(default)]
        messages: Vec<Inner>,
    }

    #[test]
    fn a_bad_body_is_refused_by_the_name_of_the_field() {
        use ErrorCode::{InvalidRequest, ValidationFailed};
        let rows: &[(&[u8], ErrorCode, &str)] = &[
            (b"", InvalidRequest, "empty"),
            (b"{\"prompt\":\"\xff\"}", InvalidRequest, "UTF-8: byte 11"),
            (b"{\"prompt\":", InvalidRequest, "invalid JSON"),
            (b"{\"prompt\":\"a\"} x", InvalidRequest, "invalid JSON"),
            (
                b"{\"prompt\":\"a\",\"temperature\":NaN}",
                InvalidRequest,
                "temperature: ",
            ),
            (
                b"{\"prompt\":\"a\",\"temperature\":1e999}",
                InvalidRequest,
                "temperature: ",
            ),
            (b"{\"prompt\":\"\\ud800\"}", InvalidRequest, "invalid JSON"),
            (b"{}", ValidationFailed, "prompt: is required"),
            (b"[]", ValidationFailed, ""),
            (
                b"{\"prompt\":1}",
                ValidationFailed,
                "prompt: invalid type: integer `1`",
            ),
            (
                b"{\"prompt\":\"\",\"temperature\":\"NaN\"}",
                ValidationFailed,
                "temperature: ",
            ),
            (
                b"{\"prompt\":\"\",\"stop\":1}",
                ValidationFailed,
                "stop: invalid type",
            ),
            (
                b"{\"prompt\":\"\",\"stop\":[1]}",
                ValidationFailed,
                "stop[0]: ",
            ),
            (
                b"{\"prompt\":\"\",\"messages\":[{}]}",
                ValidationFailed,
                "messages[0].role: is required",
            ),
        ];
        for (body, code, words) in rows {
            let error = parse::<Outer>(body).unwrap_err();
            assert_eq!(error.code(), *code, "{}", String::from_utf8_lossy(body));
            let detail = error.body(Dialect::Ollama, "")["error"].to_string();
            assert!(detail.contains(words), "{detail} lacks {words}");
        }
    }

    #[test]
    fn unknown_fields_and_nulls_are_ignored() {
        let outer: Outer =
            parse(b"{\"prompt\":\"a\",\"x\":{\"y\":[1]},\"stop\":null,\"temperature\":null}")
                .unwrap();
        assert_eq!(outer.stop, None);
    }

    #[test]
    fn deep_nesting_is_refused_without_harm() {
        let deep = format!("{{\"prompt\":{}", "[".repeat(100_000));
        assert!(parse::<Outer>(deep.as_bytes()).is_err());
    }

    #[test]
    fn routing_headers_are_checked() {
        let read = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            RoutingHints::read(&headers).map_err(|error| error.code())
        };
        assert!(read("x-aither-route", "local").unwrap().local_only);
        assert!(!read("x-aither-route", "auto").unwrap().local_only);
        assert_eq!(
            read("x-aither-route", "federation"),
            Err(ErrorCode::NotAvailable)
        );
        assert_eq!(
            read("x-aither-route", "mars"),
            Err(ErrorCode::ValidationFailed)
        );
        assert!(read("x-aither-explain", "1").unwrap().explain);
        assert_eq!(
            read("x-aither-explain", "maybe"),
            Err(ErrorCode::ValidationFailed)
        );
        let urgency = |name, value| read(name, value).map(|hints| hints.urgency);
        assert_eq!(urgency("x-aither-priority", "-2").unwrap().priority, -2);
        assert_eq!(
            urgency("x-aither-deadline", " 2.5 ").unwrap().deadline,
            Some(Duration::from_millis(2500))
        );
        for (name, value) in [
            ("x-aither-priority", "3"),
            ("x-aither-priority", "urgent"),
            ("x-aither-deadline", "-1"),
            ("x-aither-deadline", "NaN"),
            ("x-aither-deadline", "1e9"),
        ] {
            let refused = urgency(name, value);
            assert_eq!(refused, Err(ErrorCode::ValidationFailed), "{name}: {value}");
        }
    }
}
