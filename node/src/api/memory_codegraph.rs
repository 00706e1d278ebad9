//! `/v1/memory/codegraph/…`: code in memory, by what it defines, calls, imports and refers to.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    ApiError, ApiState, Problem,
    auth::Caller,
    extract::JsonBody,
    memory::{access_of, refused_reading, refused_room},
};
use crate::{
    codegraph::{
        Changes, Direction, IndexReport, Query, QueryRow, Relation, SourceFile, archive,
        limits::{FILES_MAX, QUERY_DEPTH_MAX, RESULTS_MAX},
    },
    memory::MemoryError,
    services::FoundRow,
};

/// Results of a question that does not say how many.
const RESULTS_DEFAULT: usize = 50;
/// Longest name or question.
const QUESTION_BYTES_MAX: usize = 2_000;

/// A source file.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct FileBody {
    /// Its path in the repository.
    path: String,
    /// Its text.
    content: String,
}

/// What a repository's files are now.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct IndexBody {
    /// The repository's name.
    repo: String,
    /// Files that are new or may have changed.
    #[serde(default)]
    files: Vec<FileBody>,
    /// The same as an archive: a tar.gz or zip file in base64.
    archive: Option<String>,
    /// Paths of files that are there no longer.
    #[serde(default)]
    remove: Vec<String>,
    /// Whether all other files are there no longer.
    #[serde(default)]
    replace: bool,
    /// With `replace`: paths of files that stay as they are.
    #[serde(default)]
    keep: Vec<String>,
}

/// What became of them.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct IndexedBody {
    repo: String,
    /// Files that the repository has now.
    files: usize,
    /// Files that were read.
    indexed: usize,
    /// Files that were there as they came.
    unchanged: usize,
    /// Files that are there no longer.
    removed: usize,
    /// Files that were left alone, and why, in a word.
    skipped: Vec<SkippedBody>,
    /// Definitions in the files that were read.
    symbols: usize,
    /// Calls in them.
    calls: usize,
    /// Imports in them.
    imports: usize,
    /// References in them.
    references: usize,
    /// Files that were read, by language.
    languages: BTreeMap<String, usize>,
}

/// A file that was left alone.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SkippedBody {
    path: String,
    reason: String,
}

/// A question about code.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct QueryBody {
    /// The repository; all of them unless it is named.
    repo: Option<String>,
    /// A name, qualified as far as is known: `insert`, `ScopeIndex::insert`, or a file's path.
    symbol: Option<String>,
    /// Words that describe what is looked for.
    query: Option<String>,
    /// `defines`, `calls`, `imports` or `references`; nothing tells about the definition itself.
    /// `callers` means calls, inwards.
    relation: Option<String>,
    /// `out` for what it calls, `in` for what calls it; both unless it is said.
    direction: Option<String>,
    /// How many steps of the relation are followed: 1 to 8.
    depth: Option<u32>,
    /// Most results: 1 to 500, 50 unless said otherwise.
    limit: Option<usize>,
}

/// What was found.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct QueryAnswer {
    results: Vec<ResultBody>,
    /// Whether the repository is larger than what is looked at for one question.
    partial: bool,
}

/// A definition, a file, or something that is not in the repository.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ResultBody {
    repo: String,
    #[serde(flatten)]
    #[schema(value_type = Object)]
    row: QueryRow,
}

/// Takes the files of a repository into the code graph. What has not changed is left alone.
#[utoipa::path(
    post, path = "/v1/memory/codegraph/index", tag = "memory",
    request_body = IndexBody,
    responses(
        (status = 200, description = "It is indexed", body = IndexedBody),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn index(
    State(state): State<ApiState>,
    caller: Caller,
    JsonBody(body): JsonBody<IndexBody>,
) -> Result<Json<IndexedBody>, ApiError> {
    let access = access_of(&caller)?;
    body.check()?;
    let repo = body.repo.clone();
    let name = repo.clone();
    let changes = move || body.changes(&name);
    let report = state.codegraph.index(&access, &repo, changes).await;
    Ok(Json(IndexedBody::of(
        repo,
        report.map_err(|error| refused_room(error, &caller))?,
    )))
}

/// Asks about code: where something is defined, what it calls, what calls it.
#[utoipa::path(
    post, path = "/v1/memory/codegraph/query", tag = "memory",
    request_body = QueryBody,
    responses(
        (status = 200, description = "What was found", body = QueryAnswer),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn query(
    State(state): State<ApiState>,
    caller: Caller,
    JsonBody(body): JsonBody<QueryBody>,
) -> Result<Json<QueryAnswer>, ApiError> {
    let access = access_of(&caller)?;
    let query = body.checked()?;
    let asked = state.codegraph.ask(&access, body.repo.as_deref(), query);
    let found = asked.await.map_err(refused_reading)?;
    let results = found.rows.into_iter();
    Ok(Json(QueryAnswer {
        results: results
            .map(|FoundRow { repo, row }| ResultBody { repo, row })
            .collect(),
        partial: found.is_partial,
    }))
}

impl IndexBody {
    fn check(&self) -> Result<(), ApiError> {
        let says_nothing = self.files.is_empty() && self.archive.is_none();
        if says_nothing && self.remove.is_empty() && !self.replace {
            return Err(ApiError::field(
                "files",
                "is required, or archive, or remove",
            ));
        }
        if self.files.len() > FILES_MAX {
            let message = format!("must be at most {FILES_MAX}; send them in parts");
            return Err(ApiError::field("files", message));
        }
        Ok(())
    }

    /// Unpacks what came. This may take a second.
    fn changes(self, repo: &str) -> Result<Changes, MemoryError> {
        let files = self.files.into_iter();
        let files = files.map(|FileBody { path, content }| SourceFile {
            path,
            content: Ok(content),
        });
        let mut files: Vec<_> = files.collect();
        if let Some(archive) = self.archive {
            let wrong = |message: String| MemoryError::Invalid {
                field: "archive",
                message,
            };
            let bytes = STANDARD.decode(archive.trim());
            let bytes = bytes.map_err(|error| wrong(format!("is not base64: {error}")))?;
            let unpacked = archive::unpack(repo, &bytes);
            files.extend(unpacked.map_err(|error| wrong(error.to_string()))?);
        }
        Ok(Changes {
            files,
            remove: self.remove,
            replaces: self.replace,
            keep: self.keep,
        })
    }
}

impl IndexedBody {
    fn of(repo: String, report: IndexReport) -> Self {
        let skipped = report.skipped.into_iter();
        let skipped = skipped.map(|skipped| SkippedBody {
            path: skipped.path,
            reason: skipped.reason,
        });
        Self {
            repo,
            files: report.files,
            indexed: report.indexed,
            unchanged: report.unchanged,
            removed: report.removed,
            skipped: skipped.collect(),
            symbols: report.symbols,
            calls: report.calls,
            imports: report.imports,
            references: report.references,
            languages: report.languages,
        }
    }
}

impl QueryBody {
    fn checked(&self) -> Result<Query, ApiError> {
        let question = |field: &str, text: &Option<String>| match text.as_deref() {
            Some(text) if text.len() > QUESTION_BYTES_MAX => {
                let message = format!("must have at most {QUESTION_BYTES_MAX} bytes");
                Err(ApiError::field(field, message))
            }
            text => Ok(text
                .filter(|text| !text.trim().is_empty())
                .map(str::to_owned)),
        };
        let symbol = question("symbol", &self.symbol)?;
        let words = question("query", &self.query)?;
        if symbol.is_none() && words.is_none() {
            return Err(ApiError::field("symbol", "is required, or query"));
        }
        let (relation, implied) = relation_of(self.relation.as_deref())?;
        let direction = match self.direction.as_deref() {
            None => implied,
            Some("out") => Some(Direction::Out),
            Some("in") => Some(Direction::In),
            Some(_) => return Err(ApiError::field("direction", "must be \"in\" or \"out\"")),
        };
        let depth = self.depth.unwrap_or(1);
        if !(1..=QUERY_DEPTH_MAX).contains(&depth) {
            let message = format!("must be 1 to {QUERY_DEPTH_MAX}");
            return Err(ApiError::field("depth", message));
        }
        let limit = self.limit.unwrap_or(RESULTS_DEFAULT);
        if !(1..=RESULTS_MAX).contains(&limit) {
            let message = format!("must be 1 to {RESULTS_MAX}");
            return Err(ApiError::field("limit", message));
        }
        Ok(Query {
            symbol,
            words,
            files: Vec::new(),
            relation,
            direction,
            depth,
            limit,
        })
    }
}

/// Reads a relation, and the direction that its word implies.
fn relation_of(word: Option<&str>) -> Result<(Option<Relation>, Option<Direction>), ApiError> {
    Ok(match word {
        None => (None, None),
        Some("defines") => (Some(Relation::Defines), None),
        Some("calls") => (Some(Relation::Calls), None),
        Some("callers") => (Some(Relation::Calls), Some(Direction::In)),
        Some("imports") => (Some(Relation::Imports), None),
        Some("references") => (Some(Relation::References), None),
        Some(_) => {
            let message = "must be \"defines\", \"calls\", \"callers\", \"imports\" or \
                           \"references\"";
            return Err(ApiError::field("relation", message));
        }
    })
}
