//! `/v1/artifacts…`: files by number, stored from a stream and sent as one.
//!
//! Whoever stored an artifact pays for its room with the account, and the account and all of its
//! agents read it; one that is `public` is read by every holder of a key. An agent removes what it
//! stored, an account what any of its agents did. Bytes are sent as a download and never as a page:
//! somebody else has written them, and this origin is trusted.

use std::{
    fs::File,
    io::{Seek, SeekFrom},
    sync::Arc,
    time::Duration,
};

use aither_protocol::ErrorCode;
use axum::{
    Json,
    body::Body,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use ulid::Ulid;
use utoipa::{IntoParams, ToSchema};

use super::{
    ApiError, ApiState, Problem,
    auth::Caller,
    base_url::BaseUrl,
    extract::parse,
    multipart::Form,
    page::{Items, Page, PageQuery},
    rfc3339,
    workspaces::{Reach, check_grant, own, refused},
};
use crate::{
    accounts::time_of,
    services::{Upload, WorkspaceService},
    workspaces::{Artifact, ArtifactDraft, FilesError, Holder},
};

/// Longest name of an artifact.
const NAME_BYTES_MAX: usize = 255;
/// Longest media type.
const CONTENT_TYPE_BYTES_MAX: usize = 127;
/// Largest metadata, as JSON.
const METADATA_BYTES_MAX: usize = 16 << 10;
/// What an artifact is that nobody says anything of.
const CONTENT_TYPE_DEFAULT: &str = "application/octet-stream";
/// Longest time for a whole upload: its place is another's meanwhile.
const BODY_TIME_MAX: Duration = Duration::from_secs(30 * 60);
/// Bytes that are read of an artifact at once.
const CHUNK_BYTES: usize = 128 << 10;
/// What a browser may do with an artifact that it shows against what it is told.
const POLICY: &str = "default-src 'none'; sandbox";

/// `POST /v1/artifacts/store`, as its parts are called.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "parts are read as they come; this documents them")]
pub(super) struct StoreForm {
    /// The file.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
    /// An object in JSON. `name`, `content_type` and `public` say what the artifact is, in the
    /// stead of what the part of the file says; all of it is kept.
    metadata: Option<Map<String, Value>>,
}

/// An artifact that was stored.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StoredBody {
    /// Zero.
    cost_tokens: u32,
    #[serde(flatten)]
    item: ArtifactItem,
}

/// An artifact as lists show it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ArtifactItem {
    artifact_id: String,
    url: String,
    name: String,
    content_type: String,
    size_bytes: u64,
    /// Of the bytes, in hex.
    sha256: String,
    /// Whether every holder of a key may read it.
    public: bool,
    created_at: String,
    /// The agent that stored it; null where the account did.
    agent_id: Option<String>,
}

/// An artifact and what was said of it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ArtifactBody {
    #[serde(flatten)]
    item: ArtifactItem,
    /// As it was sent.
    metadata: Map<String, Value>,
}

/// `GET /v1/artifacts/{id}`.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ShowParams {
    /// `1` asks for what the artifact is, in JSON, in the stead of its bytes.
    meta: Option<String>,
}

/// What is known of an artifact that is coming in.
#[derive(Debug, Default)]
struct Said {
    file_name: Option<String>,
    content_type: Option<String>,
    metadata: Map<String, Value>,
}

/// Stores a file. It is durable when the answer comes.
#[utoipa::path(
    post, path = "/v1/artifacts/store", tag = "files",
    request_body(content = StoreForm, content_type = "multipart/form-data"),
    responses(
        (status = 201, description = "It is stored", body = StoredBody),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn store(
    State(state): State<ApiState>,
    caller: Caller,
    base: BaseUrl,
    request: Request,
) -> Result<Response, ApiError> {
    let reach = own(&state, &caller)?;
    let mut form = Form::of(request, &state, BODY_TIME_MAX).await?;
    match take(&state, (&caller, &reach), &mut form).await {
        Ok((upload, draft)) => {
            let stored = upload.finish(draft).await;
            let artifact = stored.map_err(|error| refused(error, &caller))?;
            let body = StoredBody {
                cost_tokens: 0,
                item: ArtifactItem::of(&artifact, &base),
            };
            Ok((StatusCode::CREATED, Json(body)).into_response())
        }
        Err(error) => {
            form.drain().await;
            Err(error)
        }
    }
}

/// Sends an artifact's bytes, or says what it is.
#[utoipa::path(
    get, path = "/v1/artifacts/{id}", tag = "files",
    params(("id" = String, Path, description = "The artifact's id"), ShowParams),
    responses(
        (
            status = 200, description = "The bytes, of the artifact's own media type",
            body = String, content_type = "application/octet-stream",
        ),
        (status = 206, description = "The part of them that Range asks for"),
        (status = 304, description = "They are those of If-None-Match"),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn show(
    State(state): State<ApiState>,
    caller: Caller,
    base: BaseUrl,
    Path(id): Path<String>,
    Query(params): Query<ShowParams>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let artifact = readable(&state, &caller, &id)?;
    if matches!(params.meta.as_deref(), Some("1" | "true")) {
        let metadata = state.workspaces.artifact_metadata(Arc::clone(&artifact));
        let body = ArtifactBody {
            metadata: metadata.await?,
            item: ArtifactItem::of(&artifact, &base),
        };
        return Ok(Json(body).into_response());
    }
    let answered = answer_headers(&artifact)?;
    let etag = &answered[header::ETAG];
    if names_etag(&headers, &header::IF_NONE_MATCH, etag) {
        return Ok((StatusCode::NOT_MODIFIED, answered).into_response());
    }
    let is_same =
        !headers.contains_key(header::IF_RANGE) || names_etag(&headers, &header::IF_RANGE, etag);
    let range = headers.get(header::RANGE).filter(|_| is_same);
    let range = range.and_then(|range| range_of(range.to_str().ok()?, artifact.size));
    let file = state
        .workspaces
        .open_artifact(Arc::clone(&artifact))
        .await?;
    send(&state.workspaces, (file, &artifact), range, answered)
}

/// Removes an artifact.
#[utoipa::path(
    delete, path = "/v1/artifacts/{id}", tag = "files",
    params(("id" = String, Path, description = "The artifact's id")),
    responses(
        (status = 204, description = "It is removed"),
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
) -> Result<StatusCode, ApiError> {
    let artifact = readable(&state, &caller, &id)?;
    check_grant(&caller)?;
    let may = match &caller {
        Caller::Operator => true,
        Caller::Account(account) => account.account.as_u128() == artifact.account,
        Caller::Agent(agent) => Holder::Agent(agent.agent.id.as_u128()) == artifact.holder,
        Caller::Anyone | Caller::Local => false,
    };
    if !may {
        let words = "only who stored an artifact, or the account that pays for it, removes it";
        return Err(
            ApiError::new(ErrorCode::CapabilityMissing, words).with_member("capability", "account")
        );
    }
    state.workspaces.delete_artifact(artifact).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists the account's artifacts, in the order in which they were stored.
#[utoipa::path(
    get, path = "/v1/artifacts", tag = "files",
    params(PageQuery),
    responses(
        (status = 200, description = "The artifacts", body = Items<ArtifactItem>),
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
    base: BaseUrl,
    page: Page,
) -> Result<Json<Items<ArtifactItem>>, ApiError> {
    let account = own(&state, &caller)?.payer.account;
    let found = state
        .workspaces
        .artifacts(account, page.after()?, page.limit + 1);
    let cut = page.cut(found, |artifact| artifact.id.to_string());
    Ok(Json(cut.map(|artifact| ArtifactItem::of(&artifact, &base))))
}

/// Returns an artifact that the caller may read.
pub(super) fn readable(
    state: &ApiState,
    caller: &Caller,
    id: &str,
) -> Result<Arc<Artifact>, ApiError> {
    let unknown = || ApiError::from(FilesError::UnknownArtifact(id.chars().take(64).collect()));
    let number = Ulid::from_string(id).map_err(|_| unknown())?;
    let artifact = state.workspaces.artifact(number).ok_or_else(unknown)?;
    let is_own = match caller {
        Caller::Operator => true,
        Caller::Account(caller) => caller.account.as_u128() == artifact.account,
        Caller::Agent(caller) => caller.agent.owner.0 == artifact.account,
        Caller::Anyone | Caller::Local => false,
    };
    match (artifact.public, is_own) {
        (true, _) => Ok(artifact),
        (false, true) => check_grant(caller).map(|()| artifact),
        (false, false) => Err(unknown()),
    }
}

/// Reads the parts of a body, and hands the file on as it comes.
async fn take(
    state: &ApiState,
    (caller, reach): (&Caller, &Reach),
    form: &mut Form,
) -> Result<(Upload, ArtifactDraft), ApiError> {
    let mut said = Said::default();
    let mut upload = None;
    // A little more than the file: the parts' headers count, too.
    let (whose, announced) = ((reach.holder, reach.payer), form.announced());
    while let Some(mut part) = form.next().await? {
        match part.name() {
            "file" if upload.is_none() => {
                said.file_name = part.file_name().map(str::to_owned);
                said.content_type = part.content_type().map(str::to_owned);
                let begun = state.workspaces.upload(whose, announced).await;
                let mut coming = begun.map_err(|error| refused(error, caller))?;
                while let Some(chunk) = part.chunk().await? {
                    let pushed = coming.push(chunk).await;
                    pushed.map_err(|error| refused(error, caller))?;
                }
                upload = Some(coming);
            }
            "file" => return Err(ApiError::field("file", "must be there once")),
            "metadata" => {
                let json = part.whole(METADATA_BYTES_MAX).await?;
                said.metadata = parse(&json)?;
            }
            _ => part.skip().await?,
        }
    }
    let upload = upload.ok_or_else(|| ApiError::field("file", "is required"))?;
    Ok((upload, said.draft()?))
}

impl Said {
    /// Checks what was said.
    fn draft(self) -> Result<ArtifactDraft, ApiError> {
        let text = |field: &str| match self.metadata.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(ApiError::field(
                format!("metadata.{field}"),
                "must be a text",
            )),
        };
        let public = match self.metadata.get("public") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(public)) => *public,
            Some(_) => {
                return Err(ApiError::field("metadata.public", "must be true or false"));
            }
        };
        let name = text("name")?.or(self.file_name).unwrap_or_default();
        // Browsers have sent whole paths.
        let name = name.rsplit(['/', '\\']).next().unwrap_or_default();
        if NAME_BYTES_MAX < name.len() || name.chars().any(char::is_control) {
            let message = format!("must be at most {NAME_BYTES_MAX} bytes of plain text");
            return Err(ApiError::field("metadata.name", message));
        }
        let content_type = match text("content_type")? {
            Some(given) if is_media_type(&given) => given,
            Some(_) => {
                let message = "must be a media type such as text/plain";
                return Err(ApiError::field("metadata.content_type", message));
            }
            None => self
                .content_type
                .filter(|given| is_media_type(given))
                .unwrap_or_else(|| CONTENT_TYPE_DEFAULT.to_owned()),
        };
        Ok(ArtifactDraft {
            name: match name {
                "" => "artifact".to_owned(),
                name => name.to_owned(),
            },
            content_type,
            public,
            metadata: self.metadata,
        })
    }
}

impl ArtifactItem {
    fn of(artifact: &Artifact, base: &BaseUrl) -> Self {
        Self {
            artifact_id: artifact.id.to_string(),
            url: base.join(&format!("/v1/artifacts/{}", artifact.id)),
            name: artifact.name.to_string(),
            content_type: artifact.content_type.to_string(),
            size_bytes: artifact.size,
            sha256: artifact.sha256.to_string(),
            public: artifact.public,
            created_at: rfc3339(time_of(artifact.made_ms)),
            agent_id: match artifact.holder {
                Holder::Agent(agent) => Some(Ulid(agent).to_string()),
                Holder::Account(_) => None,
            },
        }
    }
}

/// Returns whether a text is a media type, with parameters perhaps, that fits into a header.
fn is_media_type(text: &str) -> bool {
    let essence = text.split(';').next().unwrap_or_default().trim();
    let is_word = |word: &str| {
        let is_part = |c: char| c.is_ascii_alphanumeric() || "!#$&^_.+-".contains(c);
        !word.is_empty() && word.chars().all(is_part)
    };
    let has_words = essence
        .split_once('/')
        .is_some_and(|(kind, subtype)| is_word(kind) && is_word(subtype));
    has_words
        && text.len() <= CONTENT_TYPE_BYTES_MAX
        && text.chars().all(|c| c.is_ascii_graphic() || c == ' ')
}

/// Returns what is said of an artifact beside its bytes.
fn answer_headers(artifact: &Artifact) -> Result<HeaderMap, ApiError> {
    let value = |text: &str| {
        HeaderValue::from_str(text).map_err(|_| ApiError::internal("an artifact's header"))
    };
    let name = &artifact.name;
    let plain: String = name
        .chars()
        .map(|c| match c {
            '"' | '\\' => '_',
            c if c.is_ascii_graphic() || c == ' ' => c,
            _ => '_',
        })
        .collect();
    let coded: String = name
        .bytes()
        .map(|byte| match byte {
            byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect();
    let disposition = format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{coded}");
    Ok(HeaderMap::from_iter([
        (header::CONTENT_TYPE, value(&artifact.content_type)?),
        (header::CONTENT_DISPOSITION, value(&disposition)?),
        (header::ETAG, value(&format!("\"{}\"", artifact.sha256))?),
        (header::ACCEPT_RANGES, HeaderValue::from_static("bytes")),
        (
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ),
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(POLICY),
        ),
        (
            header::CACHE_CONTROL,
            HeaderValue::from_static("private, no-cache"),
        ),
    ]))
}

fn names_etag(headers: &HeaderMap, name: &header::HeaderName, etag: &HeaderValue) -> bool {
    let given = headers.get_all(name).iter();
    let mut given = given.filter_map(|given| given.to_str().ok());
    let (etag, mut is_named) = (etag.to_str().unwrap_or_default(), false);
    for list in &mut given {
        is_named |= list.split(',').any(|one| {
            let one = one.trim();
            one == etag || one == "*" || one.strip_prefix("W/") == Some(etag)
        });
    }
    is_named
}

/// Returns the first and the last byte that a header asks for; `None` where it asks for what
/// cannot be sent, or for several parts, and the whole is sent instead (RFC 9110, 14.2).
fn range_of(text: &str, size: u64) -> Option<(u64, u64)> {
    let (first, last) = text.strip_prefix("bytes=")?.trim().split_once('-')?;
    let end = size.checked_sub(1)?;
    let (first, last) = match (first, last) {
        ("", count) => (size.saturating_sub(count.parse().ok()?), end),
        (first, "") => (first.parse().ok()?, end),
        (first, last) => (first.parse().ok()?, last.parse::<u64>().ok()?.min(end)),
    };
    (first <= last).then_some((first, last))
}

fn send(
    files: &WorkspaceService,
    (mut file, artifact): (File, &Artifact),
    range: Option<(u64, u64)>,
    mut headers: HeaderMap,
) -> Result<Response, ApiError> {
    let size = artifact.size;
    let (status, first, left) = match range {
        None => (StatusCode::OK, 0, size),
        Some((first, last)) => {
            let words = format!("bytes {first}-{last}/{size}");
            let words = HeaderValue::from_str(&words);
            let words = words.map_err(|_| ApiError::internal("a range's header"))?;
            headers.insert(header::CONTENT_RANGE, words);
            (StatusCode::PARTIAL_CONTENT, first, last - first + 1)
        }
    };
    let sought = file.seek(SeekFrom::Start(first));
    sought.map_err(|error| ApiError::internal(error.to_string()))?;
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(left));
    let begin = (files.clone(), file, left);
    let chunks = futures_util::stream::try_unfold(begin, async |(files, file, left)| {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        if wanted == 0 {
            return Ok(None);
        }
        let (file, bytes) = files.read_on(file, wanted).await?;
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if len == 0 {
            return Err(FilesError::Internal("an artifact is shorter than it was"));
        }
        Ok(Some((bytes, (files, file, left.saturating_sub(len)))))
    });
    Ok((status, headers, Body::from_stream(chunks)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_one_that_can_be_sent_or_none() {
        for (text, expected) in [
            ("bytes=0-3", Some((0, 3))),
            ("bytes=4-", Some((4, 9))),
            ("bytes=-3", Some((7, 9))),
            ("bytes=-30", Some((0, 9))),
            ("bytes=8-100", Some((8, 9))),
            ("bytes=10-", None),
            ("bytes=-0", None),
            ("bytes=5-4", None),
            ("bytes=0-1,3-4", None),
            ("bytes=a-b", None),
            ("lines=0-1", None),
            ("bytes=99999999999999999999-", None),
        ] {
            assert_eq!(range_of(text, 10), expected, "{text}");
        }
        assert_eq!(range_of("bytes=0-", 0), None);
    }

    #[test]
    fn a_media_type_is_two_words_and_no_header() {
        for good in [
            "text/plain",
            "text/html; charset=utf-8",
            "application/vnd.a+json",
        ] {
            assert!(is_media_type(good), "{good}");
        }
        let long = format!("text/{}", "a".repeat(200));
        for bad in [
            "",
            "text",
            "/",
            "text/",
            "a b/c",
            "text/plain\r\nX: y",
            "t/\u{e4}",
            &long,
        ] {
            assert!(!is_media_type(bad), "{bad}");
        }
    }

    #[test]
    fn a_name_in_a_header_is_quoted_and_coded() {
        let artifact = Artifact {
            id: Ulid(1),
            holder: Holder::Account(1),
            account: 1,
            size: 1,
            made_ms: 1,
            sha256: "00".into(),
            name: "a\"b\u{f6}.txt".into(),
            content_type: "text/plain".into(),
            public: false,
        };
        let headers = answer_headers(&artifact).unwrap();
        assert_eq!(
            headers[header::CONTENT_DISPOSITION],
            "attachment; filename=\"a_b_.txt\"; filename*=UTF-8''a%22b%C3%B6.txt"
        );
    }

    #[test]
    fn what_is_said_of_an_artifact_is_checked() {
        let said = |metadata: Value| Said {
            file_name: Some("C:\\dir\\a.txt".into()),
            content_type: Some("text/plain".into()),
            metadata: metadata.as_object().cloned().unwrap_or_default(),
        };
        let draft = said(serde_json::json!({"public": true, "more": 1}))
            .draft()
            .unwrap();
        assert_eq!(
            (&*draft.name, &*draft.content_type),
            ("a.txt", "text/plain")
        );
        assert!(draft.public && draft.metadata["more"] == 1);
        let long = "n".repeat(300);
        for wrong in [
            serde_json::json!({"public": "yes"}),
            serde_json::json!({"name": 1}),
            serde_json::json!({"name": "a\n"}),
            serde_json::json!({"name": long}),
            serde_json::json!({"content_type": "x"}),
        ] {
            let error = said(wrong.clone()).draft().unwrap_err();
            assert_eq!(error.code(), ErrorCode::ValidationFailed, "{wrong}");
        }
    }
}
