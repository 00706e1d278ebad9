//! `/v1/memory/search`: entries by their words and by their meaning.

use std::{ops::RangeInclusive, time::SystemTime};

use aither_protocol::MemoryTier;
use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    ApiError, ApiState, Problem,
    auth::Caller,
    extract::{JsonBody, bounded},
    memory::{access_of, refused_reading},
    memory_types::{EntryBody, tier_of},
};
use crate::{
    memory::{index::SearchMode, limits::TAGS_MAX, search::Found},
    services::{MemorySearch, Place},
};

/// Longest query: more than any model reads.
const QUERY_BYTES_MAX: usize = 8 * 1024;
const LIMIT_DEFAULT: usize = 10;
const LIMITS: RangeInclusive<i64> = 1..=100;

/// `POST /v1/memory/search`.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct SearchBody {
    /// What is looked for, in words; up to 8 KiB.
    query: String,
    /// In these parts of memory; where none is named in all that the caller may read but
    /// `codegraph`.
    tiers: Option<Vec<String>>,
    /// Most results: 1 to 100, 10 where it is not said.
    limit: Option<i64>,
    /// All of these tags must be there.
    tags: Option<Vec<String>>,
    /// `hybrid` (the default), `semantic` or `keyword`.
    mode: Option<String>,
    /// Whether to wait until all that was written before is found.
    consistent: Option<bool>,
    /// The task, for working memory; `default` where there is none.
    task_id: Option<String>,
    /// The session, for active memory; `default` where there is none.
    session_id: Option<String>,
    /// How keys begin.
    prefix: Option<String>,
    /// Only what was written after this time (RFC 3339, in UTC).
    updated_after: Option<String>,
    /// Only what was written before this time.
    updated_before: Option<String>,
}

/// What was found.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SearchAnswer {
    /// The best first.
    results: Vec<ResultBody>,
    /// By what was searched: `keyword` where a node without an embedding model is asked for both.
    mode: &'static str,
    /// Whether there was more than fits into an answer: their values come to 2 MiB at most.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
    /// How many entries there are that cannot be found that way yet; counted up to 1000, and not
    /// told where keys are bounded by a prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    unindexed: Option<usize>,
}

/// A result.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ResultBody {
    #[serde(flatten)]
    entry: EntryBody,
    /// How good it is, for this search: by words and meaning together the share of being first by
    /// both, else `keyword_score` or `semantic_score`.
    score: f32,
    /// How well words match, from 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    keyword_score: Option<f32>,
    /// The cosine of the meanings, from -1 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    semantic_score: Option<f32>,
}

/// Finds entries by their words and by their meaning.
#[utoipa::path(
    post, path = "/v1/memory/search", tag = "memory",
    request_body = SearchBody,
    responses(
        (status = 200, description = "What was found", body = SearchAnswer),
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
    JsonBody(body): JsonBody<SearchBody>,
) -> Result<Json<SearchAnswer>, ApiError> {
    let access = access_of(&caller)?;
    let found = state.memory.search(&access, body.checked()?).await;
    let found = found.map_err(refused_reading)?;
    let results = found.results.into_iter();
    Ok(Json(SearchAnswer {
        results: results
            .map(|(tier, found)| ResultBody::of(tier, found))
            .collect::<Result<_, _>>()?,
        mode: word_of(found.mode),
        truncated: found.is_cut,
        unindexed: found.unindexed,
    }))
}

impl SearchBody {
    fn checked(self) -> Result<MemorySearch, ApiError> {
        let bytes = self.query.len();
        if self.query.trim().is_empty() || bytes > QUERY_BYTES_MAX {
            return Err(ApiError::field("query", "must have 1 to 8192 bytes"));
        }
        let tiers = self.tiers.map(|words| {
            let tiers = words.iter().map(|word| tier_of(Some(word)));
            tiers.collect::<Result<_, _>>().map_err(|_| {
                let known: Vec<_> = MemoryTier::ALL.iter().map(|tier| tier.as_str()).collect();
                ApiError::field("tiers", format!("must be some of {}", known.join(", ")))
            })
        });
        let tags = self.tags.unwrap_or_default();
        if tags.len() > TAGS_MAX {
            return Err(ApiError::field("tags", "must be at most 16"));
        }
        let limit = bounded("limit", self.limit, LIMITS)?;
        Ok(MemorySearch {
            text: self.query,
            tiers: tiers.transpose()?,
            place: Place {
                task_id: self.task_id,
                session_id: self.session_id,
            },
            prefix: self.prefix.unwrap_or_default(),
            tags,
            mode: self.mode.as_deref().map(mode_of).transpose()?,
            updated_after: time_of("updated_after", self.updated_after.as_deref())?,
            updated_before: time_of("updated_before", self.updated_before.as_deref())?,
            limit: limit.unwrap_or(LIMIT_DEFAULT),
            is_consistent: self.consistent.unwrap_or(false),
        })
    }
}

impl ResultBody {
    fn of(tier: MemoryTier, found: Found) -> Result<Self, ApiError> {
        let hit = found.hit;
        Ok(Self {
            entry: EntryBody::of(tier, found.entry)?,
            score: hit.score,
            keyword_score: hit.keyword,
            semantic_score: hit.semantic,
        })
    }
}

fn mode_of(word: &str) -> Result<SearchMode, ApiError> {
    let all = [
        SearchMode::Hybrid,
        SearchMode::Semantic,
        SearchMode::Keyword,
    ];
    let mode = all.into_iter().find(|mode| word_of(*mode) == word);
    mode.ok_or_else(|| ApiError::field("mode", "must be hybrid, semantic or keyword"))
}

const fn word_of(mode: SearchMode) -> &'static str {
    match mode {
        SearchMode::Hybrid => "hybrid",
        SearchMode::Semantic => "semantic",
        SearchMode::Keyword => "keyword",
    }
}

fn time_of(field: &str, text: Option<&str>) -> Result<Option<SystemTime>, ApiError> {
    let read = text.map(humantime::parse_rfc3339).transpose();
    read.map_err(|_| ApiError::field(field, "must be a time such as 2026-01-31T12:00:00Z, in UTC"))
}
