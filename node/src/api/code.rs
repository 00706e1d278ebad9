//! `/v1/code/read` and `/v1/code/write`: git repositories of the operator's.

use std::time::{SystemTime, UNIX_EPOCH};

use aither_protocol::Capability;
use axum::{Json, extract::State};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ApiError, ApiState, Problem, auth::Caller, extract::JsonBody};
use crate::{
    accounts::AccountId,
    billing::OPERATOR,
    code::{CodeAnswer, CodeError, CodeQuery, Edit, FileChange, ITEMS_DEFAULT, ITEMS_MAX},
    services::{CodeCaller, CodeCommit},
};

/// What can be asked for.
const OPERATIONS: [&str; 8] = [
    "repositories",
    "list",
    "file",
    "log",
    "commit",
    "diff",
    "branches",
    "tags",
];

/// How much of its account's id an agent's folder of branches has: the end, which is random.
const OWNER_LEN: usize = 8;

/// `POST /v1/code/read`.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct ReadCodeBody {
    /// The repository's name; needed for all but `repositories`.
    repo: Option<String>,
    /// `repositories` (those that the key has), `list` (a folder), `file`, `log`, `commit`, `diff`
    /// (from `base` to `ref`), `branches` or `tags`. Without one a `path` is a file, else it is
    /// the list of the top folder.
    op: Option<String>,
    /// From the top of the repository: a file, a folder, or what a history is of.
    path: Option<String>,
    /// A branch, a tag, or the id of a commit, whole or from 7 digits on; `HEAD` where there is
    /// none.
    #[serde(rename = "ref")]
    reference: Option<String>,
    /// The older commit of a `diff`; `HEAD` where there is none.
    base: Option<String>,
    /// Whether a `list` has what is in the folders below.
    #[serde(default)]
    recursive: bool,
    /// Most entries, commits, changes or names: 100 where there is none, up to 1000.
    limit: Option<usize>,
}

/// What was read.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum ReadCodeAnswer {
    /// Of a repository.
    Read {
        /// The repository.
        repo: String,
        /// What was asked for.
        #[serde(flatten)]
        answer: Box<CodeAnswer>,
    },
    /// The repositories.
    Repositories {
        /// `repositories`.
        op: &'static str,
        /// Those that the key has.
        repositories: Vec<RepositoryItem>,
    },
}

/// A repository that a key has.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RepositoryItem {
    /// Its name.
    repo: String,
    /// Whether branches of one's own can be written there.
    write: bool,
}

/// `POST /v1/code/write`.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct WriteCodeBody {
    /// The repository's name.
    repo: String,
    /// The branch below the caller's own folder, for an agent `aither/NAME-ACCOUNT/`; `work` where
    /// there is none.
    branch: Option<String>,
    /// What the branch begins from where it is not there yet: a branch, a tag or an id; `HEAD`
    /// where there is none.
    base: Option<String>,
    /// The commit that the branch must be at; anything else is a conflict.
    expected_head: Option<String>,
    /// The commit's message.
    message: String,
    /// 1 to 256 files.
    files: Vec<FileBody>,
}

/// A file that is to be changed.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct FileBody {
    /// From the top of the repository.
    path: String,
    /// Its content, up to 2 MiB.
    content: Option<String>,
    /// `utf-8` where there is none; with `base64` the content stands for bytes.
    encoding: Option<String>,
    /// `100644`, or `100755` for what can be run; left as it is where there is none.
    mode: Option<String>,
    /// Whether it is deleted.
    #[serde(default)]
    delete: bool,
}

/// A commit that was made.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WrittenCodeBody {
    /// The branch, by its whole name.
    branch: String,
    /// Where it is now.
    commit: String,
    /// Files that are different there; with none, no commit was made.
    files_changed: usize,
}

/// Reads a git repository: files, folders, history.
#[utoipa::path(
    post, path = "/v1/code/read", tag = "tools",
    request_body = ReadCodeBody,
    responses(
        (status = 200, description = "What was asked for", body = ReadCodeAnswer),
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
    JsonBody(body): JsonBody<ReadCodeBody>,
) -> Result<Json<ReadCodeAnswer>, ApiError> {
    let caller = code_caller(&caller)?;
    let code = &state.tools.code;
    if body.op.as_deref() == Some("repositories") {
        let known = code.list(&caller)?.into_iter();
        let repositories = known.map(|known| RepositoryItem {
            repo: known.name,
            write: known.is_writable,
        });
        return Ok(Json(ReadCodeAnswer::Repositories {
            op: "repositories",
            repositories: repositories.collect(),
        }));
    }
    let (repo, query) = body.checked()?;
    let answer = Box::new(code.read(&caller, &repo, query).await?);
    Ok(Json(ReadCodeAnswer::Read { repo, answer }))
}

/// Makes a commit on a branch of the caller's own. The working tree and other branches stay as
/// they are.
#[utoipa::path(
    post, path = "/v1/code/write", tag = "tools",
    request_body = WriteCodeBody,
    responses(
        (status = 200, description = "The commit is made", body = WrittenCodeBody),
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
    JsonBody(body): JsonBody<WriteCodeBody>,
) -> Result<Json<WrittenCodeBody>, ApiError> {
    let caller = code_caller(&caller)?;
    let repo = body.repo.clone();
    let commit = body.checked(SystemTime::now())?;
    let written = state.tools.code.write(&caller, &repo, commit).await?;
    Ok(Json(WrittenCodeBody {
        branch: written.branch,
        commit: written.commit,
        files_changed: written.files_changed,
    }))
}

/// Returns who asks. No agent's name has an underscore, so accounts have folders of their own; an
/// agent's folder names its account, too, since another may take the name when it has left.
fn code_caller(caller: &Caller) -> Result<CodeCaller, ApiError> {
    match caller {
        Caller::Operator => Ok(CodeCaller {
            names: None,
            account: None,
            folder: "_operator".to_owned(),
            name: "operator".to_owned(),
        }),
        Caller::Account(account) => {
            let id = account.account.to_string();
            Ok(CodeCaller {
                account: Some(account.account.as_u128()),
                folder: format!("_{}", id.to_lowercase()),
                name: id.clone(),
                names: Some(vec![id]),
            })
        }
        Caller::Agent(agent) => {
            let name = agent.agent.name.to_string();
            let owner = AccountId::from_u128(agent.agent.owner.0).to_string();
            let of_owner = owner[owner.len() - OWNER_LEN..].to_lowercase();
            Ok(CodeCaller {
                account: Some(agent.agent.owner.0).filter(|owner| *owner != OPERATOR.0),
                folder: format!("{name}-{of_owner}"),
                name: agent.full_name(),
                names: Some(vec![format!("{owner}/{name}"), owner]),
            })
        }
        Caller::Anyone | Caller::Local => Err(ApiError::internal("repositories without a key")),
    }
}

impl ReadCodeBody {
    fn checked(self) -> Result<(String, CodeQuery), ApiError> {
        let limit = self.limit.unwrap_or(ITEMS_DEFAULT);
        if !(1..=ITEMS_MAX).contains(&limit) {
            return Err(ApiError::field(
                "limit",
                format!("must be 1 to {ITEMS_MAX}"),
            ));
        }
        let repo = self
            .repo
            .ok_or_else(|| ApiError::field("repo", "is required"))?;
        let head = || "HEAD".to_owned();
        let reference = self.reference.unwrap_or_else(head);
        let op = match (self.op.as_deref(), &self.path) {
            (Some(op), _) => op,
            (None, Some(_)) => "file",
            (None, None) => "list",
        };
        let path = self.path;
        let query = match op {
            "file" => CodeQuery::File {
                reference,
                path: path.ok_or_else(|| ApiError::field("path", "is required"))?,
            },
            "list" => CodeQuery::List {
                reference,
                path: path.unwrap_or_default(),
                is_recursive: self.recursive,
                limit,
            },
            "log" => CodeQuery::Log {
                reference,
                path: path.unwrap_or_default(),
                limit,
            },
            "commit" => CodeQuery::Commit { reference, limit },
            "diff" => CodeQuery::Diff {
                base: self.base.unwrap_or_else(head),
                reference,
                limit,
            },
            "branches" => CodeQuery::Branches { limit },
            "tags" => CodeQuery::Tags { limit },
            _ => {
                let message = format!("must be one of {}", OPERATIONS.join(", "));
                return Err(ApiError::field("op", message));
            }
        };
        Ok((repo, query))
    }
}

impl WriteCodeBody {
    fn checked(self, now: SystemTime) -> Result<CodeCommit, ApiError> {
        let files = self.files.into_iter().enumerate();
        let files: Result<_, _> = files.map(|(number, file)| file.checked(number)).collect();
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(CodeCommit {
            branch: self.branch,
            base: self.base,
            expected_head: self.expected_head,
            message: self.message,
            files: files?,
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        })
    }
}

impl FileBody {
    fn checked(self, number: usize) -> Result<FileChange, ApiError> {
        let wrong = |field: &str, message: &str| {
            ApiError::field(format!("files[{number}].{field}"), message)
        };
        let edit = match (self.delete, self.content) {
            (true, None) => Edit::Delete,
            (true, Some(_)) => {
                return Err(wrong("delete", "must be left out where there is a content"));
            }
            (false, None) => return Err(wrong("content", "is required")),
            (false, Some(content)) => Edit::Write {
                content: match self.encoding.as_deref() {
                    None | Some("utf-8") => content.into_bytes(),
                    Some("base64") => {
                        let bytes = STANDARD.decode(content);
                        bytes.map_err(|_| wrong("content", "is not base64"))?
                    }
                    Some(_) => {
                        return Err(wrong("encoding", "must be \"utf-8\" or \"base64\""));
                    }
                },
                is_executable: match self.mode.as_deref() {
                    None => None,
                    Some("100644") => Some(false),
                    Some("100755") => Some(true),
                    Some(_) => return Err(wrong("mode", "must be \"100644\" or \"100755\"")),
                },
            },
        };
        Ok(FileChange {
            path: self.path,
            edit,
        })
    }
}

impl From<CodeError> for ApiError {
    fn from(error: CodeError) -> Self {
        let (code, words) = (error.code(), error.to_string());
        match error {
            CodeError::Invalid { field, message } => Self::field(field, message),
            CodeError::ReadOnly(_) => {
                Self::new(code, words).with_member("capability", Capability::CodeWrite.as_str())
            }
            CodeError::Conflict { head, .. } => {
                Self::new(code, words).with_member("current_head", head)
            }
            CodeError::Overloaded { retry_after } | CodeError::TooMuchToday { retry_after, .. } => {
                Self::new(code, words).with_retry_after(retry_after)
            }
            // The path is the operator's business.
            CodeError::Broken(cause) | CodeError::Internal(cause) => Self::internal(cause),
            _ => Self::new(code, words),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_is_read_is_a_file_where_there_is_a_path_and_a_folder_where_there_is_none() {
        let of = |body: Value| {
            let body: ReadCodeBody = serde_json::from_value(body).unwrap();
            body.checked().map(|(_, query)| query)
        };
        let file = of(json!({"repo": "a", "path": "b"})).unwrap();
        assert!(matches!(file, CodeQuery::File { reference, .. } if reference == "HEAD"));
        let list = of(json!({"repo": "a", "ref": "v1"})).unwrap();
        assert!(matches!(list, CodeQuery::List { reference, .. } if reference == "v1"));
        for op in &OPERATIONS[1..] {
            assert!(
                of(json!({"repo": "a", "op": op, "path": "b"})).is_ok(),
                "{op}"
            );
        }
        for body in [
            json!({"op": "list"}),
            json!({"repo": "a", "op": "fly"}),
            json!({"repo": "a", "op": "file"}),
            json!({"repo": "a", "limit": 0}),
            json!({"repo": "a", "limit": ITEMS_MAX + 1}),
        ] {
            assert!(of(body.clone()).is_err(), "{body}");
        }
    }

    #[test]
    fn a_file_has_a_content_or_is_deleted() {
        let of = |file: Value| {
            let file: FileBody = serde_json::from_value(file).unwrap();
            file.checked(3)
        };
        assert!(matches!(
            of(json!({"path": "a", "delete": true})).unwrap().edit,
            Edit::Delete
        ));
        let edit = of(json!({
            "path": "a", "content": "AP8=", "encoding": "base64", "mode": "100755",
        }));
        match edit.unwrap().edit {
            Edit::Write {
                content,
                is_executable,
            } => assert_eq!((&*content, is_executable), (&b"\0\xff"[..], Some(true))),
            Edit::Delete => panic!("deleted"),
        }
        for (file, field) in [
            (json!({"path": "a"}), "files[3].content"),
            (
                json!({"path": "a", "content": "x", "delete": true}),
                "files[3].delete",
            ),
            (
                json!({"path": "a", "content": "?", "encoding": "base64"}),
                "files[3].content",
            ),
            (
                json!({"path": "a", "content": "x", "encoding": "hex"}),
                "files[3].encoding",
            ),
            (
                json!({"path": "a", "content": "x", "mode": "120000"}),
                "files[3].mode",
            ),
        ] {
            let error = of(file).unwrap_err();
            let words = error
                .body(super::super::error::Dialect::Native, "id")
                .to_string();
            assert!(words.contains(field), "{words}");
        }
    }
}
