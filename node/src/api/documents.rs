//! `/v1/documents/analyze`: the text of a document that is sent, or is here already.

use std::{collections::BTreeMap, time::Duration};

use aither_protocol::ErrorCode;
use axum::{
    Json,
    extract::{FromRequest, Request, State},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    ApiError, ApiState, Problem,
    artifacts::readable,
    auth::Caller,
    extract::JsonBody,
    multipart::{Form, is_multipart},
    workspaces::{own, refused},
};
use crate::{
    billing::OPERATOR,
    documents::{DocumentFault, Format},
    services::{DocumentError, DocumentPlace, Spool},
    workspaces::{FilePath, FilesError},
};

/// Longest time for a whole body: its place is another's meanwhile.
const BODY_TIME_MAX: Duration = Duration::from_secs(120);

/// `POST /v1/documents/analyze`, where the document is not in the body.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct AnalyzeBody {
    /// A file of the caller's own workspace.
    path: Option<String>,
    /// An artifact.
    artifact_id: Option<String>,
}

/// `POST /v1/documents/analyze`, where it is.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "the part is read as it comes; this documents it")]
pub(super) struct AnalyzeForm {
    /// The document.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
}

/// What a document says.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AnalyzedBody {
    /// Its text, or the beginning of it.
    text: String,
    /// `pdf`, `docx`, `html`, `markdown` or `text`.
    format: &'static str,
    /// Its pages, where its format has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pages: Option<usize>,
    /// What it is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    /// Characters of the whole text.
    characters: usize,
    /// Words of the whole text.
    words: usize,
    /// Whether there was more than is told, or than could be read.
    truncated: bool,
    /// What it says of itself: `author`, `created` and the like.
    metadata: BTreeMap<String, String>,
    /// Its headings, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headings: Vec<HeadingBody>,
    /// Bytes of the document.
    size_bytes: u64,
    /// Zero.
    cost_tokens: u32,
}

/// A heading.
#[derive(Debug, Serialize, ToSchema)]
struct HeadingBody {
    /// 1 is the highest.
    level: u8,
    text: String,
}

/// A document, and what is said of it.
struct Given {
    document: (std::fs::File, u64),
    name: Option<String>,
    content_type: Option<String>,
}

/// Extracts the text of a document: a part `file` of a multipart body, a file of the caller's
/// workspace, or an artifact.
#[utoipa::path(
    post, path = "/v1/documents/analyze", tag = "files",
    request_body(content(
        (AnalyzeForm = "multipart/form-data"),
        (AnalyzeBody = "application/json"),
    )),
    responses(
        (status = 200, description = "What it says", body = AnalyzedBody),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn analyze(
    State(state): State<ApiState>,
    caller: Caller,
    request: Request,
) -> Result<Json<AnalyzedBody>, ApiError> {
    // Before the body is read, which is on the disk from then on.
    let place = state.documents.place(account_of(&caller))?;
    let given = match is_multipart(&request) {
        true => sent(&state, request).await?,
        false => here(&state, &caller, request).await?,
    };
    extract(&state, place, given).await.map(Json)
}

/// Returns whose documents count together.
fn account_of(caller: &Caller) -> u128 {
    match caller {
        Caller::Account(caller) => caller.account.as_u128(),
        Caller::Agent(caller) => caller.agent.owner.0,
        Caller::Operator | Caller::Anyone | Caller::Local => OPERATOR.0,
    }
}

async fn extract(
    state: &ApiState,
    place: DocumentPlace,
    given: Given,
) -> Result<AnalyzedBody, ApiError> {
    let size_bytes = given.document.1;
    let said = (given.name.as_deref(), given.content_type.as_deref());
    let (format, extracted) = state.documents.extract(place, given.document, said).await?;
    let headings = extracted.headings.into_iter().map(|heading| HeadingBody {
        level: heading.level,
        text: heading.text,
    });
    Ok(AnalyzedBody {
        text: extracted.text,
        format: format.as_str(),
        pages: extracted.pages,
        title: extracted.title,
        characters: extracted.characters,
        words: extracted.words,
        truncated: extracted.truncated,
        metadata: extracted.metadata,
        headings: headings.collect(),
        size_bytes,
        cost_tokens: 0,
    })
}

/// Takes a document out of a body as it comes.
async fn sent(state: &ApiState, request: Request) -> Result<Given, ApiError> {
    let mut form = Form::of(request, state, BODY_TIME_MAX).await?;
    match take(state, &mut form).await {
        Ok((spool, name, content_type)) => Ok(Given {
            document: spool.finish().await?,
            name,
            content_type,
        }),
        Err(error) => {
            form.drain().await;
            Err(error)
        }
    }
}

async fn take(
    state: &ApiState,
    form: &mut Form,
) -> Result<(Spool, Option<String>, Option<String>), ApiError> {
    let mut taken = None;
    while let Some(mut part) = form.next().await? {
        match (part.name(), &taken) {
            ("file", None) => {
                let name = part.file_name().map(str::to_owned);
                let content_type = part.content_type().map(str::to_owned);
                let mut spool = state.documents.spool().await?;
                while let Some(chunk) = part.chunk().await? {
                    spool.push(&chunk).await?;
                }
                taken = Some((spool, name, content_type));
            }
            ("file", Some(_)) => return Err(ApiError::field("file", "must be there once")),
            _ => part.skip().await?,
        }
    }
    taken.ok_or_else(|| ApiError::field("file", "is required"))
}

/// Opens a document that is here already.
async fn here(state: &ApiState, caller: &Caller, request: Request) -> Result<Given, ApiError> {
    let JsonBody(body) = JsonBody::<AnalyzeBody>::from_request(request, state).await?;
    match (body.path, body.artifact_id) {
        (Some(path), None) => {
            let reach = own(state, caller)?;
            let path = FilePath::parse(&path).map_err(FilesError::from)?;
            let name = path.split().1.to_owned();
            let opened = state.workspaces.open_file(reach.holder, path).await;
            Ok(Given {
                document: opened.map_err(|error| refused(error, caller))?,
                name: Some(name),
                content_type: None,
            })
        }
        (None, Some(id)) => {
            let artifact = readable(state, caller, &id)?;
            let file = state.workspaces.open_artifact(artifact.clone()).await?;
            Ok(Given {
                document: (file, artifact.size),
                name: Some(artifact.name.to_string()),
                content_type: Some(artifact.content_type.to_string()),
            })
        }
        _ => Err(ApiError::field(
            "path",
            "either path or artifact_id is required; or send the document as the part \"file\" of \
             a multipart/form-data body",
        )),
    }
}

impl From<DocumentError> for ApiError {
    fn from(error: DocumentError) -> Self {
        let words = error.to_string();
        match error {
            DocumentError::Unknown(_) => {
                let known = Format::ALL.map(Format::as_str);
                Self::new(ErrorCode::UnsupportedMediaType, words)
                    .with_member("formats", known.to_vec())
            }
            DocumentError::Fault(fault) => fault.into(),
            DocumentError::TooLarge { .. } => Self::new(ErrorCode::PayloadTooLarge, words),
            DocumentError::Overloaded { retry_after } => {
                Self::new(ErrorCode::Overloaded, words).with_retry_after(Some(retry_after))
            }
            DocumentError::System { .. } | DocumentError::Internal(_) => Self::internal(words),
        }
    }
}

impl From<DocumentFault> for ApiError {
    fn from(fault: DocumentFault) -> Self {
        Self::new(ErrorCode::InvalidDocument, fault.to_string())
            .with_member("reason", fault.reason())
    }
}
