//! From an error to an answer: the one place where codes meet HTTP.
//!
//! A handler returns an [`ApiError`]; a middleware of this module gives it the shape that clients
//! of its path expect: `application/problem+json` (RFC 9457) on the node's own routes, OpenAI's
//! and Ollama's objects on theirs. Answers that the framework makes by itself (no such route,
//! wrong method, a panic) take the same way, so every error has a code and a request id.
//!
//! Defects are logged here, once; their words stay out of the answer.

use std::time::Duration;

use aither_ledger::LedgerError;
use aither_protocol::{ErrorCode, Plan};
use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::request_id::RequestId;
use crate::{
    accounts::{AccountError, StoreError},
    agents::{AgentError, Rank},
    answers::AnswersError,
    billing::BillingError,
    memory::MemoryError,
    models::ModelStoreError,
    services::LlmError,
};

/// How long to wait before asking a node again that is starting or stopping.
const RETRY_WHEN_NOT_READY: Duration = Duration::from_secs(2);
/// When to ask again for the answer of a request that is being done.
const RETRY_WHEN_IN_FLIGHT: Duration = Duration::from_secs(1);
/// When to ask again for something that a person has to mend.
const RETRY_WHEN_MENDED: Duration = Duration::from_secs(60);
/// Begins the `type` of a problem; the code follows.
const PROBLEM_TYPE_PREFIX: &str = "urn:aither:error:";
/// OpenAI's clients repeat requests after a 5xx unless this header forbids it.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// A refusal or failure on its way to the client.
#[derive(Debug, Clone)]
pub struct ApiError {
    code: ErrorCode,
    detail: String,
    fields: Vec<FieldError>,
    /// What the native form says beside its standard members.
    members: Vec<(&'static str, Value)>,
    retry_after: Option<Duration>,
    /// For the log only.
    cause: Option<String>,
}

/// One field of a request that is missing or wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// The field, with its path: `messages[0].role`.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

/// An error on the node's own routes (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// `urn:aither:error:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same words for every error of this code.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// What happened, and what helps.
    pub detail: String,
    /// A stable snake_case word.
    #[schema(value_type = String)]
    pub code: ErrorCode,
    /// Finds this request in the node's log.
    pub request_id: String,
    /// The fields at fault, if any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// What else the code calls for: with 403 the `capability` that is missing.
    #[serde(flatten)]
    #[schema(ignore)]
    pub members: Map<String, Value>,
}

/// Whose shape an answer takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Native,
    OpenAi,
    Ollama,
}

impl Dialect {
    /// Returns the dialect of a path, known or not.
    pub(super) fn of(path: &str) -> Self {
        const OPENAI: [&str; 4] = [
            "/v1/chat/completions",
            "/v1/completions",
            "/v1/embeddings",
            "/v1/models",
        ];
        let is_below = |prefix: &str| {
            path.strip_prefix(prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        const NATIVE: [&str; 3] = ["/api/onboard", "/api/agents", "/api/audit"];
        if path == "/v1/models/import" || NATIVE.into_iter().any(is_below) {
            // Ours, although it stands below a path of OpenAI's.
            Self::Native
        } else if path.starts_with("/api/") {
            Self::Ollama
        } else if OPENAI.into_iter().any(is_below) {
            Self::OpenAi
        } else {
            Self::Native
        }
    }
}

impl ApiError {
    /// An error with words for the client.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            fields: Vec::new(),
            members: Vec::new(),
            retry_after: None,
            cause: None,
        }
    }

    /// A field that is missing or out of bounds.
    pub fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::with_field(ErrorCode::ValidationFailed, field, message)
    }

    /// Several fields at once.
    pub(super) fn fields(errors: Vec<FieldError>) -> Self {
        let words: Vec<_> = errors
            .iter()
            .map(|error| format!("{}: {}", error.field, error.message))
            .collect();
        Self {
            fields: errors,
            ..Self::new(ErrorCode::ValidationFailed, words.join("; "))
        }
    }

    /// Adds a member to the native form.
    pub(super) fn with_member(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.members.push((name, value.into()));
        self
    }

    /// Says when to ask again.
    pub(super) fn retry_in(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    fn members_map(&self) -> Map<String, Value> {
        let members = self.members.iter();
        members
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect()
    }

    /// A field that asks for what this version does not have.
    pub fn unsupported(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::with_field(ErrorCode::NotAvailable, field, message)
    }

    /// A defect: the words go to the log, the client gets the request id.
    pub fn internal(cause: impl Into<String>) -> Self {
        Self {
            cause: Some(cause.into()),
            ..Self::new(
                ErrorCode::Internal,
                "internal error; the node's log has more under this request id",
            )
        }
    }

    pub(super) fn with_field(
        code: ErrorCode,
        field: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        let error = FieldError {
            field: field.into(),
            message: message.into(),
        };
        let detail = format!("{}: {}", error.field, error.message);
        Self {
            fields: vec![error],
            ..Self::new(code, detail)
        }
    }

    /// Calls a field by the name that the caller's dialect has for it.
    pub(super) fn renamed(mut self, names: &[(&str, &str)]) -> Self {
        for error in &mut self.fields {
            if let Some((_, name)) = names.iter().find(|(from, _)| *from == error.field) {
                error.field = (*name).to_owned();
                self.detail = format!("{}: {}", error.field, error.message);
            }
        }
        self
    }

    /// Returns the code.
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// Returns the status in a dialect.
    pub(super) fn status(&self, dialect: Dialect) -> StatusCode {
        let names_field = !self.fields.is_empty();
        let status = match (dialect, self.code) {
            // Both foreign APIs answer a bad field with 400, and so their clients expect; the
            // same holds for a field that asks for something which is not there.
            (Dialect::OpenAi | Dialect::Ollama, ErrorCode::ValidationFailed) => 400,
            (Dialect::OpenAi | Dialect::Ollama, ErrorCode::NotAvailable) if names_field => 400,
            (_, code) => code.http_status(),
        };
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Returns the body in a dialect.
    pub(super) fn body(&self, dialect: Dialect, request_id: &str) -> Value {
        match dialect {
            Dialect::Native => {
                let problem = Problem {
                    kind: format!("{PROBLEM_TYPE_PREFIX}{}", self.code),
                    title: self.code.title(),
                    status: self.status(dialect).as_u16(),
                    detail: self.detail.clone(),
                    code: self.code,
                    request_id: request_id.to_owned(),
                    errors: self.fields.clone(),
                    members: self.members_map(),
                };
                json!(problem)
            }
            Dialect::OpenAi => {
                let mut error = self.members_map();
                let param = self.fields.first().map(|error| error.field.as_str());
                for (name, value) in [
                    ("message", Some(self.detail.as_str())),
                    ("type", Some(self.openai_type())),
                    ("param", param),
                    ("code", Some(self.openai_code())),
                ] {
                    error.insert(name.to_owned(), value.into());
                }
                json!({ "error": error })
            }
            Dialect::Ollama => json!({"error": self.detail}),
        }
    }

    fn openai_type(&self) -> &'static str {
        match self.status(Dialect::OpenAi).as_u16() {
            401 => "authentication_error",
            // OpenAI's word for an account that has used up what it paid for.
            402 => "insufficient_quota",
            403 => "permission_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The few codes that OpenAI's clients look for have OpenAI's words.
    fn openai_code(&self) -> &'static str {
        match self.code {
            ErrorCode::PromptTooLong => "context_length_exceeded",
            ErrorCode::Unauthorized => "invalid_api_key",
            code => code.as_str(),
        }
    }

    fn headers(&self, dialect: Dialect) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let content_type = match dialect {
            Dialect::Native => "application/problem+json",
            Dialect::OpenAi | Dialect::Ollama => "application/json",
        };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Some(after) = self.retry_after {
            // Rounded up: to come back early would only be refused again.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if self.code == ErrorCode::Unauthorized {
            let scheme = HeaderValue::from_static("Bearer realm=\"aither\"");
            headers.insert(header::WWW_AUTHENTICATE, scheme);
        }
        if self.code.http_status() >= 500 && !self.code.is_transient() {
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        headers
    }

    fn of_status(status: StatusCode, words: String) -> Self {
        let code = match status {
            StatusCode::NOT_FOUND => ErrorCode::NotFound,
            StatusCode::METHOD_NOT_ALLOWED => ErrorCode::MethodNotAllowed,
            StatusCode::PAYLOAD_TOO_LARGE => ErrorCode::PayloadTooLarge,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => ErrorCode::UnsupportedMediaType,
            StatusCode::UNAUTHORIZED => ErrorCode::Unauthorized,
            status if status.is_client_error() => ErrorCode::InvalidRequest,
            status => return Self::internal(format!("answered {status}: {words}")),
        };
        Self::new(code, words)
    }
}

impl From<BillingError> for ApiError {
    fn from(error: BillingError) -> Self {
        let (code, words) = (error.code(), error.to_string());
        match error {
            BillingError::Insufficient { balance, required } => Self::new(code, words)
                .with_member("balance", json!(balance))
                .with_member("required", json!(required)),
            BillingError::AllowanceSpent { left, required } => Self::new(code, words)
                .with_member("balance", json!(left))
                .with_member("required", json!(required)),
            BillingError::AboveMaxCost { required, max_cost } => Self::new(code, words)
                .with_member("max_cost", json!(max_cost))
                .with_member("required", json!(required)),
            BillingError::Ledger(LedgerError::Busy) => Self {
                retry_after: Some(RETRY_WHEN_NOT_READY),
                ..Self::new(code, words)
            },
            // Paid work stops until somebody frees the disk and restarts; the words say so.
            BillingError::Ledger(LedgerError::Storage(_) | LedgerError::Stopped { .. }) => Self {
                retry_after: Some(RETRY_WHEN_MENDED),
                ..Self::new(code, words)
            },
            BillingError::AccountUnknown(_) | BillingError::Refused(_) => Self::new(code, words),
            BillingError::Ledger(_) => Self::internal(words),
        }
    }
}

impl From<LlmError> for ApiError {
    fn from(error: LlmError) -> Self {
        use aither_inference::Error as Engine;
        let code = error.code();
        let words = error.to_string();
        match error {
            LlmError::Model(_) | LlmError::EmbeddingModel(_) => Self {
                fields: vec![FieldError {
                    field: "model".into(),
                    message: words.clone(),
                }],
                ..Self::new(code, words)
            },
            LlmError::Billing(error) => error.into(),
            LlmError::Engine(Engine::InvalidRequest { field, message }) => {
                Self::with_field(code, field, message)
            }
            LlmError::Engine(Engine::ChatTemplate { message }) => {
                let message = format!("the model's chat template refused them: {message}");
                Self::with_field(code, "messages", message)
            }
            LlmError::Engine(Engine::QueueFull { retry_after }) => Self {
                retry_after: Some(retry_after),
                ..Self::new(code, words)
            },
            LlmError::Engine(Engine::DeadlineTooSoon { expected }) => Self {
                retry_after: Some(expected),
                ..Self::new(code, words)
            },
            LlmError::Engine(Engine::ShuttingDown) => Self {
                retry_after: Some(RETRY_WHEN_NOT_READY),
                ..Self::new(code, "the node is stopping; retry once it is back")
            },
            // The path is the operator's business.
            LlmError::Engine(Engine::ModelFile { .. } | Engine::InvalidGguf { .. }) => Self {
                cause: Some(words),
                retry_after: Some(RETRY_WHEN_MENDED),
                ..Self::new(
                    code,
                    "the model's file cannot be read any more; the operator must pull or import \
                     it again",
                )
            },
            _ if code == ErrorCode::Internal => Self::internal(words),
            _ => Self::new(code, words),
        }
    }
}

impl From<ModelStoreError> for ApiError {
    fn from(error: ModelStoreError) -> Self {
        match error.code() {
            ErrorCode::Internal => Self::internal(error.to_string()),
            ErrorCode::ValidationFailed => {
                Self::with_field(ErrorCode::ValidationFailed, "model", error.to_string())
            }
            code => Self::new(code, error.to_string()),
        }
    }
}

impl From<AgentError> for ApiError {
    fn from(error: AgentError) -> Self {
        let (code, words) = (error.code(), error.to_string());
        let refused = Self::new(code, words.clone());
        match error {
            AgentError::InvalidCard(errors) => {
                let fields = errors.into_iter().map(|error| FieldError {
                    field: error.field,
                    message: error.message,
                });
                Self {
                    fields: fields.collect(),
                    ..refused
                }
            }
            AgentError::TierForbids { capabilities, .. } => {
                let highest = capabilities
                    .iter()
                    .max_by_key(|capability| capability.tier());
                match highest {
                    Some(highest) => refused
                        .with_member("capability", highest.as_str())
                        .with_member("tier_required", highest.tier().as_str())
                        .with_member("capabilities", json!(capabilities)),
                    None => refused,
                }
            }
            AgentError::PlanForbids { plan, tier } => {
                let sufficient = Plan::ALL.iter().find(|plan| tier <= plan.tier_max());
                refused
                    .with_member("tier_required", tier.as_str())
                    .with_member("plan", plan.as_str())
                    .with_member("plan_required", json!(sufficient))
            }
            AgentError::Wider(capabilities) => {
                let first = capabilities.first().map(|capability| capability.as_str());
                refused.with_member("capability", json!(first))
            }
            AgentError::SuspendedBy(rank) => {
                let whose = match rank {
                    Rank::Agent => "agent",
                    Rank::Owner => "account",
                    Rank::Operator => "operator",
                };
                refused.with_member("capability", whose)
            }
            AgentError::Address(message) => Self::with_field(code, "agent_url", message),
            AgentError::OtherName(_) => Self::with_field(code, "name", words),
            AgentError::Overloaded { retry_after } => Self {
                retry_after: Some(retry_after),
                ..refused
            },
            // The path is the operator's business.
            AgentError::Store(StoreError::Full { .. }) => Self {
                cause: Some(words),
                ..Self::new(code, "the node's disk is full; its operator must make room")
            },
            AgentError::Memory(error) => error.into(),
            AgentError::Store(_) | AgentError::Internal(_) => Self::internal(words),
            _ => refused,
        }
    }
}

impl From<MemoryError> for ApiError {
    fn from(error: MemoryError) -> Self {
        let (code, words) = (error.code(), error.to_string());
        let refused = Self {
            retry_after: error.retry_after(),
            ..Self::new(code, words.clone())
        };
        match error {
            MemoryError::Invalid { field, message } => Self::with_field(code, field, message),
            MemoryError::VersionConflict { current } => {
                refused.with_member("current_version", current)
            }
            MemoryError::QuotaExceeded {
                measure,
                used,
                allowed,
            } => refused
                .with_member("measure", measure.as_str())
                .with_member("used", used)
                .with_member("allowed", allowed),
            MemoryError::TierForbidden { memory, tier } => refused
                .with_member("memory_tier", memory.as_str())
                .with_member("tier", tier.as_str())
                .with_member("tier_required", memory.tier().as_str()),
            // The path is the operator's business.
            MemoryError::Store(StoreError::Full { .. }) => Self {
                cause: Some(words),
                retry_after: Some(RETRY_WHEN_MENDED),
                ..Self::new(code, "the node's disk is full; its operator must make room")
            },
            MemoryError::Store(_) | MemoryError::Internal(_) => Self::internal(words),
            _ => refused,
        }
    }
}

impl From<AccountError> for ApiError {
    fn from(error: AccountError) -> Self {
        let (code, words) = (error.code(), error.to_string());
        match error {
            AccountError::Invalid(fields) => {
                let fields = fields.into_iter().map(|invalid| FieldError {
                    field: invalid.field.to_owned(),
                    message: invalid.message,
                });
                Self::fields(fields.collect())
            }
            AccountError::RateLimited { retry_after, .. }
            | AccountError::Overloaded { retry_after } => Self {
                retry_after: Some(retry_after),
                ..Self::new(code, words)
            },
            // The path is the operator's business.
            _ if code == ErrorCode::InsufficientStorage => Self {
                cause: Some(words),
                retry_after: Some(RETRY_WHEN_MENDED),
                ..Self::new(code, "the node's disk is full; its operator must make room")
            },
            _ if code == ErrorCode::Internal => Self::internal(words),
            _ => Self::new(code, words),
        }
    }
}

/// The error of a request whose key stands for one that is being done.
pub(super) fn still_in_flight(detail: &str) -> ApiError {
    ApiError {
        retry_after: Some(RETRY_WHEN_IN_FLIGHT),
        ..ApiError::new(ErrorCode::Conflict, detail)
    }
}

impl From<AnswersError> for ApiError {
    fn from(error: AnswersError) -> Self {
        let words = error.to_string();
        let (code, detail, after) = match error {
            AnswersError::CallerFull { .. } => (ErrorCode::RateLimited, words, RETRY_WHEN_MENDED),
            AnswersError::Full { .. } => (ErrorCode::Overloaded, words, RETRY_WHEN_MENDED),
            AnswersError::Billing(error) => return error.into(),
            // The path is the operator's business.
            _ => (
                ErrorCode::NotReady,
                "idempotency keys cannot be stored now, and nothing was done; send the request \
                 without one, or later"
                    .to_owned(),
                RETRY_WHEN_MENDED,
            ),
        };
        Self {
            retry_after: Some(after),
            ..Self::new(code, detail)
        }
    }
}

/// The error of a node that has too much to do.
pub(super) fn overloaded(detail: &str) -> ApiError {
    ApiError {
        retry_after: Some(RETRY_WHEN_NOT_READY),
        ..ApiError::new(ErrorCode::Overloaded, detail)
    }
}

/// The error of a node that is not ready.
pub(super) fn not_ready(detail: &str) -> ApiError {
    ApiError {
        retry_after: Some(RETRY_WHEN_NOT_READY),
        ..ApiError::new(ErrorCode::NotReady, detail)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status(Dialect::Native).into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// What an error's shape depends on beside the error.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) path: String,
    pub(super) method: axum::http::Method,
    pub(super) request_id: String,
}

/// Marks an answer that has its shape.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shaped;

/// Gives every error answer the shape of its path's dialect.
pub(super) async fn shape_errors(
    RequestId(request_id): RequestId,
    request: Request,
    next: Next,
) -> Response {
    let place = Place {
        path: request.uri().path().to_owned(),
        method: request.method().clone(),
        request_id,
    };
    shape(next.run(request).await, &place)
}

/// Gives an answer its shape, if it is an error and has none yet.
pub(super) fn shape(mut response: Response, place: &Place) -> Response {
    let Place {
        path,
        method,
        request_id,
    } = place;
    let status = response.status();
    if response.extensions().get::<Shaped>().is_some() {
        return response;
    }
    let error = match response.extensions_mut().remove::<ApiError>() {
        Some(error) => error,
        None if status.is_client_error() || status.is_server_error() => {
            ApiError::of_status(status, framework_words(status, method, path))
        }
        None => return response,
    };
    let dialect = Dialect::of(path);
    let status = error.status(dialect);
    if status.is_server_error() {
        let cause = error.cause.as_deref().unwrap_or(&error.detail);
        tracing::error!(%request_id, %method, path, status = status.as_u16(), cause, "answered");
    }
    let body = error.body(dialect, request_id).to_string();
    let mut shaped = (status, error.headers(dialect), Body::from(body)).into_response();
    // `Allow` says which methods a path has.
    if let Some(allow) = response.headers_mut().remove(header::ALLOW) {
        shaped.headers_mut().insert(header::ALLOW, allow);
    }
    shaped.extensions_mut().insert(Shaped);
    shaped
}

fn framework_words(status: StatusCode, method: &axum::http::Method, path: &str) -> String {
    // Long enough for every route, short enough for a log line.
    let path: String = path.chars().take(200).collect();
    match status {
        StatusCode::NOT_FOUND => format!("there is no {path} here; see /docs"),
        StatusCode::METHOD_NOT_ALLOWED => format!("{path} does not answer {method}; see /docs"),
        status => status
            .canonical_reason()
            .unwrap_or("refused")
            .to_lowercase(),
    }
}

/// What a panicking handler answers; the panic's own words are logged by the panic hook.
pub(super) fn on_panic(panic: Box<dyn std::any::Any + Send>) -> Response {
    let words = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no words");
    ApiError::internal(format!("a handler panicked: {words}")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_of_answers_that_fails_is_503_and_says_nothing_of_its_path() {
        let message = "disk full".to_owned();
        let path = "/secret/answers.redb".into();
        let rows = [
            (AnswersError::Io { path, message }, 503),
            (AnswersError::Stopped, 503),
            (AnswersError::Full { max: 1 }, 503),
            (AnswersError::CallerFull { max: 1 }, 429),
        ];
        for (error, status) in rows {
            let error = ApiError::from(error);
            assert_eq!(error.status(Dialect::Native).as_u16(), status);
            assert!(error.retry_after.is_some() && !error.detail.contains("secret"));
        }
    }

    #[test]
    fn a_path_has_the_dialect_of_its_clients() {
        let cases = [
            ("/v1/chat/completions", Dialect::OpenAi),
            ("/v1/models/a", Dialect::OpenAi),
            ("/v1/models/import", Dialect::Native),
            ("/v1/modelsx", Dialect::Native),
            ("/api/chat", Dialect::Ollama),
            ("/v1/llm/chat", Dialect::Native),
            ("/nowhere", Dialect::Native),
        ];
        for (path, dialect) in cases {
            assert_eq!(Dialect::of(path), dialect, "{path}");
        }
    }

    #[test]
    fn an_error_has_three_shapes() {
        let error = ApiError::field("n", "must be 1 to 16");
        let problem = error.body(Dialect::Native, "id");
        assert_eq!(problem["type"], "urn:aither:error:validation_failed");
        assert_eq!(problem["status"], 422);
        assert_eq!(problem["code"], "validation_failed");
        assert_eq!(problem["request_id"], "id");
        assert_eq!(problem["errors"][0]["field"], "n");
        let openai = error.body(Dialect::OpenAi, "id");
        assert_eq!(openai["error"]["param"], "n");
        assert_eq!(openai["error"]["type"], "invalid_request_error");
        assert_eq!(error.status(Dialect::OpenAi), 400);
        let ollama = error.body(Dialect::Ollama, "id");
        assert_eq!(ollama["error"], "n: must be 1 to 16");
    }

    #[test]
    fn a_full_queue_says_when_to_return() {
        let retry_after = Duration::from_millis(2100);
        let error: ApiError =
            LlmError::Engine(aither_inference::Error::QueueFull { retry_after }).into();
        assert_eq!(error.status(Dialect::OpenAi), 503);
        assert_eq!(error.headers(Dialect::Native)[header::RETRY_AFTER], "3");
    }

    #[test]
    fn an_allowance_that_is_used_up_is_402_and_says_what_is_left() {
        let error = ApiError::from(BillingError::AllowanceSpent {
            left: aither_protocol::Amount::from_tokens(2),
            required: aither_protocol::Amount::from_tokens(3),
        });
        assert_eq!(error.status(Dialect::Native), 402);
        let body = error.body(Dialect::Native, "id");
        assert_eq!(body["code"], "insufficient_tokens");
        assert_eq!(
            (&body["balance"], &body["required"]),
            (&json!(2), &json!(3))
        );
        assert!(body.to_string().contains("max_spend"), "{body}");
    }

    #[test]
    fn a_defect_keeps_its_words_to_itself() {
        let cause = LlmError::Engine(aither_inference::Error::Internal {
            message: "secret".into(),
        });
        let error = ApiError::from(cause);
        assert!(
            !error
                .body(Dialect::Native, "id")
                .to_string()
                .contains("secret")
        );
        assert_eq!(
            error.cause.as_deref(),
            Some("internal inference error: secret")
        );
    }

    #[test]
    fn a_field_is_called_by_the_name_of_the_dialect() {
        let error = ApiError::field("max_tokens", "must be at least 1")
            .renamed(&[("max_tokens", "num_predict")]);
        assert_eq!(error.detail, "num_predict: must be at least 1");
    }
}
