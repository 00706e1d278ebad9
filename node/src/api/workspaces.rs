//! `/api/workspaces/{id}/…`: files of one agent or account.
//!
//! `{id}` is an agent's id or name, an account's own id, or `@me`: whoever asks. An agent reaches
//! its own files, an account its own and its agents', the operator all; what somebody does not
//! reach is answered as if it were not there. An agent's own key needs no capability for its own
//! files; a capability token, which is narrowed from what its parent was granted, needs
//! `file_upload`.

use std::time::Duration;

use aither_ledger::AccountId;
use aither_protocol::{Capability, ErrorCode, limits::PAGE_ITEMS_MAX};
use axum::{
    Json,
    extract::{Path, Query, State},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    ApiError, ApiState, Problem, agents::managed, auth::Caller, extract::JsonBody, page::Page,
    rfc3339,
};
use crate::{
    accounts,
    agents::Agent,
    billing::OPERATOR,
    workspaces::{FileInfo, FilePath, FilesError, Holder, ListFiles, Payer, Quota},
};

/// When to ask again for something that a person has to mend.
const RETRY_WHEN_MENDED: Duration = Duration::from_secs(60);
/// Whoever asks, in the place of an id. No agent's name has an at sign.
const MYSELF: &str = "@me";

/// How bytes are written in JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(super) enum Encoding {
    /// As they are: text.
    #[default]
    #[serde(rename = "utf-8", alias = "utf8", alias = "UTF-8")]
    Utf8,
    /// In Base64 with the standard alphabet, padded.
    #[serde(rename = "base64")]
    Base64,
}

/// `POST /api/workspaces/{id}/write`.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct WriteBody {
    /// Where to: a relative path such as `data/notes.txt`. Folders are made as needed.
    path: String,
    /// What.
    data: String,
    /// How `data` is written: `utf-8` unless said otherwise.
    #[serde(default)]
    encoding: Encoding,
    /// Whether what is there stays before it.
    #[serde(default)]
    append: bool,
}

/// A file that was written.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WrittenBody {
    /// True.
    success: bool,
    path: String,
    /// Bytes of the whole file.
    size: u64,
    /// The id of the agent or account.
    workspace: String,
}

/// `GET /api/workspaces/{id}/read`.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ReadParams {
    /// Which file.
    path: String,
    /// How `data` is to be written: `utf-8` unless said otherwise.
    #[serde(default)]
    #[param(inline)]
    encoding: Encoding,
    /// Where to begin, in bytes.
    #[serde(default)]
    offset: u64,
    /// Most bytes. Without it the whole file is meant, which must not be larger than a body.
    length: Option<u64>,
}

/// A file, or a piece of one.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ReadBody {
    data: String,
    path: String,
    /// Bytes of the whole file.
    size: u64,
    encoding: Encoding,
}

/// `GET /api/workspaces/{id}/files`.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParams {
    /// A folder; the whole workspace unless said otherwise.
    path: Option<String>,
    /// Whether files in its folders are listed, too.
    #[serde(default)]
    recursive: bool,
    /// Most files: 1 to 500, 500 unless said otherwise.
    limit: Option<String>,
    /// `next_cursor` of the part before.
    #[expect(dead_code, reason = "read by the page; here for the documentation")]
    cursor: Option<String>,
}

/// Files, in the order of their paths.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FilesBody {
    files: Vec<FileItem>,
    /// How many there are in all.
    total: usize,
    /// Where the next part begins; null where this is the last.
    next_cursor: Option<String>,
}

/// A file as lists show it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FileItem {
    path: String,
    size: u64,
    modified: String,
}

/// `DELETE /api/workspaces/{id}/delete`.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct DeleteParams {
    /// Which file.
    path: String,
}

/// A file that was removed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DeletedBody {
    /// True.
    success: bool,
    path: String,
}

/// Whose files are meant, and who pays for them.
#[derive(Debug, Clone)]
pub(super) struct Reach {
    pub(super) holder: Holder,
    pub(super) payer: Payer,
    /// The id of the agent or account.
    pub(super) id: String,
}

/// Writes a file. It is durable when the answer comes.
#[utoipa::path(
    post, path = "/api/workspaces/{id}/write", tag = "files",
    params(("id" = String, Path, description = "An agent's id or name, an account's id, or @me")),
    request_body = WriteBody,
    responses(
        (status = 200, description = "It is written", body = WrittenBody),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn write(
    State(state): State<ApiState>,
    caller: Caller,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<WriteBody>,
) -> Result<Json<WrittenBody>, ApiError> {
    let reach = reach(&state, &caller, &id)?;
    let path = FilePath::parse(&body.path).map_err(FilesError::from)?;
    let data = match body.encoding {
        Encoding::Utf8 => body.data.into_bytes(),
        Encoding::Base64 => STANDARD
            .decode(body.data)
            .map_err(|error| ApiError::field("data", format!("is no Base64: {error}")))?,
    };
    let whose = (reach.holder, reach.payer);
    let written = state.workspaces.write(whose, path, (data, body.append));
    Ok(Json(WrittenBody {
        success: true,
        size: written.await.map_err(|error| refused(error, &caller))?,
        path: body.path,
        workspace: reach.id,
    }))
}

/// Reads a file.
#[utoipa::path(
    get, path = "/api/workspaces/{id}/read", tag = "files",
    params(
        ("id" = String, Path, description = "An agent's id or name, an account's id, or @me"),
        ReadParams,
    ),
    responses(
        (status = 200, description = "The file", body = ReadBody),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn read(
    State(state): State<ApiState>,
    caller: Caller,
    Path(id): Path<String>,
    Query(params): Query<ReadParams>,
) -> Result<Json<ReadBody>, ApiError> {
    let reach = reach(&state, &caller, &id)?;
    let path = FilePath::parse(&params.path).map_err(FilesError::from)?;
    let bytes_max = u64::try_from(state.http.body_bytes_max).unwrap_or(u64::MAX);
    let wanted = params.length.unwrap_or(bytes_max).min(bytes_max);
    let part = (params.offset, wanted);
    let piece = state.workspaces.read(reach.holder, path, part).await;
    let piece = piece.map_err(|error| refused(error, &caller))?;
    let is_cut = wanted < piece.size.saturating_sub(params.offset);
    if params.length.is_none() && is_cut {
        let words = format!(
            "the file has {} bytes, and an answer at most {bytes_max}; read it in pieces, with \
             offset and length",
            piece.size
        );
        return Err(ApiError::new(ErrorCode::PayloadTooLarge, words));
    }
    Ok(Json(ReadBody {
        data: match params.encoding {
            Encoding::Utf8 => String::from_utf8(piece.data).map_err(|_| FilesError::NotText)?,
            Encoding::Base64 => STANDARD.encode(piece.data),
        },
        path: params.path,
        size: piece.size,
        encoding: params.encoding,
    }))
}

/// Lists files, in the order of their paths.
#[utoipa::path(
    get, path = "/api/workspaces/{id}/files", tag = "files",
    params(
        ("id" = String, Path, description = "An agent's id or name, an account's id, or @me"),
        ListParams,
    ),
    responses(
        (status = 200, description = "The files", body = FilesBody),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    Path(id): Path<String>,
    Query(params): Query<ListParams>,
    page: Page,
) -> Result<Json<FilesBody>, ApiError> {
    let reach = reach(&state, &caller, &id)?;
    let folder = params.path.as_deref();
    // Clients of this form know no pages, so one is as large as any can be.
    let limit = match params.limit {
        None => PAGE_ITEMS_MAX,
        Some(_) => page.limit,
    };
    let wanted = ListFiles {
        folder: match folder.filter(|folder| !matches!(*folder, "" | "/" | ".")) {
            Some(folder) => Some(FilePath::parse(folder).map_err(FilesError::from)?),
            None => None,
        },
        recursive: params.recursive,
        after: page.after()?,
        limit: limit + 1,
    };
    let found = state.workspaces.list(reach.holder, wanted).await;
    let mut found = found.map_err(|error| refused(error, &caller))?;
    let has_more = limit < found.files.len();
    found.files.truncate(limit);
    let last = found.files.last().filter(|_| has_more);
    Ok(Json(FilesBody {
        next_cursor: last.map(|last| last.path.to_string()),
        total: found.total,
        files: found.files.into_iter().map(FileItem::from).collect(),
    }))
}

/// Removes a file.
#[utoipa::path(
    delete, path = "/api/workspaces/{id}/delete", tag = "files",
    params(
        ("id" = String, Path, description = "An agent's id or name, an account's id, or @me"),
        DeleteParams,
    ),
    responses(
        (status = 200, description = "It is removed", body = DeletedBody),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn delete(
    State(state): State<ApiState>,
    caller: Caller,
    Path(id): Path<String>,
    Query(params): Query<DeleteParams>,
) -> Result<Json<DeletedBody>, ApiError> {
    let reach = reach(&state, &caller, &id)?;
    let path = FilePath::parse(&params.path).map_err(FilesError::from)?;
    let deleted = state.workspaces.delete(reach.holder, path).await;
    deleted.map_err(|error| refused(error, &caller))?;
    Ok(Json(DeletedBody {
        success: true,
        path: params.path,
    }))
}

impl From<FileInfo> for FileItem {
    fn from(info: FileInfo) -> Self {
        Self {
            path: info.path.to_string(),
            size: info.size,
            modified: rfc3339(info.modified),
        }
    }
}

/// Returns whose files an id means, if the caller reaches them.
fn reach(state: &ApiState, caller: &Caller, id: &str) -> Result<Reach, ApiError> {
    check_grant(caller)?;
    if id == MYSELF {
        return own(state, caller);
    }
    let account = id.parse::<accounts::AccountId>().ok();
    let account = account.filter(|account| match caller {
        Caller::Account(caller) => caller.account == *account,
        Caller::Operator => {
            account.as_u128() == OPERATOR.0 || state.accounts.plan_of(*account).is_ok()
        }
        _ => false,
    });
    match account {
        Some(account) => Ok(of_account(state, AccountId(account.as_u128()))),
        None => Ok(of_agent(state, &*managed(state, caller, id)?)),
    }
}

/// Returns the caller's own files.
pub(super) fn own(state: &ApiState, caller: &Caller) -> Result<Reach, ApiError> {
    check_grant(caller)?;
    match caller {
        Caller::Operator => Ok(of_account(state, OPERATOR)),
        Caller::Account(caller) => Ok(of_account(state, AccountId(caller.account.as_u128()))),
        Caller::Agent(caller) => Ok(of_agent(state, &caller.agent)),
        Caller::Anyone | Caller::Local => Err(ApiError::internal("files without a key")),
    }
}

fn of_account(state: &ApiState, account: AccountId) -> Reach {
    Reach {
        holder: Holder::Account(account.0),
        payer: payer(state, account),
        id: accounts::AccountId::from_u128(account.0).to_string(),
    }
}

fn of_agent(state: &ApiState, agent: &Agent) -> Reach {
    Reach {
        holder: Holder::Agent(agent.id.as_u128()),
        payer: payer(state, agent.owner),
        id: agent.id.to_string(),
    }
}

fn payer(state: &ApiState, account: AccountId) -> Payer {
    Payer {
        account: account.0,
        quota: Quota::of(state.agents.plan_of(account)),
    }
}

/// Checks that a capability token, if the caller came with one, leaves it files.
pub(super) fn check_grant(caller: &Caller) -> Result<(), ApiError> {
    match caller {
        Caller::Agent(agent) if agent.token_grant.is_some() => {
            let capability = Capability::FileUpload;
            if agent.capabilities.contains(capability) {
                return Ok(());
            }
            let words = format!("this capability token does not leave {capability}");
            Err(ApiError::new(ErrorCode::CapabilityMissing, words)
                .with_member("capability", capability.as_str())
                .with_member("tier", agent.tier.as_str())
                .with_member("tier_required", capability.tier().as_str()))
        }
        _ => Ok(()),
    }
}

/// Makes a refusal an answer. How much an account has is for its own keys to see, not for each of
/// its agents.
pub(super) fn refused(error: FilesError, caller: &Caller) -> ApiError {
    match (&error, caller) {
        (FilesError::QuotaExceeded { measure, .. }, Caller::Agent(_)) => {
            let measure = measure.as_str();
            let words = format!(
                "the account's plan has no room for more {measure}; delete some, or ask the \
                 account's holder to change the plan"
            );
            ApiError::new(error.code(), words).with_member("measure", measure)
        }
        _ => error.into(),
    }
}

impl From<FilesError> for ApiError {
    fn from(error: FilesError) -> Self {
        let (code, words) = (error.code(), error.to_string());
        match error {
            FilesError::Path(_) => Self::field("path", words),
            FilesError::NotText => Self::field("encoding", words),
            FilesError::QuotaExceeded {
                measure,
                used,
                allowed,
            } => Self::new(code, words)
                .with_member("measure", measure.as_str())
                .with_member("used", used)
                .with_member("allowed", allowed),
            FilesError::Overloaded { retry_after } => {
                Self::new(code, words).with_retry_after(Some(retry_after))
            }
            // The system's words are for the operator, who finds them in the log.
            FilesError::Full { .. } => {
                tracing::error!(error = words, "cannot write files");
                let words = "the node's disk is full; its operator must make room";
                Self::new(code, words).with_retry_after(Some(RETRY_WHEN_MENDED))
            }
            FilesError::Io { .. } | FilesError::Damaged { .. } | FilesError::Internal(_) => {
                Self::internal(words)
            }
            _ => Self::new(code, words),
        }
    }
}
