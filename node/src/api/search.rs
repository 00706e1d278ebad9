//! `/v1/search`: the web, and folders of the node's machine. Nothing here is charged.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ApiError, ApiState, Problem, auth::Caller, extract::JsonBody, payment::payer_of};
use crate::websearch::{Hit, QUERY_BYTES_MAX, RESULTS_DEFAULT, RESULTS_MAX, SearchError};

/// `POST /v1/search`.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct WebSearchBody {
    /// What is searched for: up to 1000 bytes.
    query: String,
    /// 10 where there is none, 50 at most.
    max_results: Option<usize>,
    /// Whether the texts themselves are wanted: of files, and of pages that may be fetched.
    #[serde(default)]
    include_content: bool,
}

/// What was found.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WebSearchAnswer {
    /// The best first.
    results: Vec<WebSearchResult>,
    /// What it has cost: nothing.
    cost_tokens: u32,
    /// Where it was found: `searxng`, `folders` or `searxng+folders`.
    source: &'static str,
    /// Whether the folders are still being gone through, so that more may be found later.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    indexing: bool,
}

/// A result.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WebSearchResult {
    /// What it is called.
    title: String,
    /// Where it is: an address, or `local:FOLDER/path` for a file of the node's machine.
    url: String,
    /// The part of it that fits the query.
    snippet: String,
    /// Its text, up to 20 000 characters; null where it was not wanted, cannot be had, or did
    /// not come in time.
    content: Option<String>,
}

/// Searches the web, or the folders that the node's operator has chosen.
#[utoipa::path(
    post, path = "/v1/search", tag = "tools",
    request_body = WebSearchBody,
    responses(
        (status = 200, description = "What was found", body = WebSearchAnswer),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn search(
    State(state): State<ApiState>,
    caller: Caller,
    JsonBody(body): JsonBody<WebSearchBody>,
) -> Result<Json<WebSearchAnswer>, ApiError> {
    let query = body.query.trim();
    if query.is_empty() || query.len() > QUERY_BYTES_MAX {
        let message = format!("must have 1 to {QUERY_BYTES_MAX} bytes");
        return Err(ApiError::field("query", message));
    }
    let limit = body.max_results.unwrap_or(RESULTS_DEFAULT);
    if !(1..=RESULTS_MAX).contains(&limit) {
        let message = format!("must be 1 to {RESULTS_MAX}");
        return Err(ApiError::field("max_results", message));
    }
    let account = payer_of(&caller);
    let searching = state
        .tools
        .search
        .search(account, query, limit, body.include_content);
    let found = searching.await?;
    Ok(Json(WebSearchAnswer {
        results: found.hits.into_iter().map(WebSearchResult::from).collect(),
        cost_tokens: 0,
        source: found.source,
        indexing: found.is_indexing,
    }))
}

impl From<Hit> for WebSearchResult {
    fn from(hit: Hit) -> Self {
        Self {
            title: hit.title,
            url: hit.url,
            snippet: hit.snippet,
            content: hit.content,
        }
    }
}

impl From<SearchError> for ApiError {
    fn from(error: SearchError) -> Self {
        let (code, words) = (error.code(), error.to_string());
        match error {
            SearchError::Overloaded { retry_after } => {
                Self::new(code, words).with_retry_after(retry_after)
            }
            // The path is the operator's business.
            SearchError::Index(cause) => Self::internal(cause),
            _ => Self::new(code, words),
        }
    }
}
