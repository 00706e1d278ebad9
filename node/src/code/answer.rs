//! What is answered about a repository.

use serde::Serialize;
use utoipa::ToSchema;

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum CodeAnswer {
    /// A file.
    File(FileAnswer),
    /// A folder.
    List(ListAnswer),
    /// A history, the newest first.
    Log(LogAnswer),
    /// A commit and what it changed.
    Commit(CommitAnswer),
    /// What differs between two commits.
    Diff(DiffAnswer),
    /// The branches.
    Branches(NamesAnswer),
    /// The tags.
    Tags(NamesAnswer),
}

/// A file at a commit.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct FileAnswer {
    /// The commit that was read.
    pub commit: String,
    /// The file's path.
    pub path: String,
    /// `file`, `executable` or `link`; a link's content is what it points to.
    pub kind: EntryKind,
    /// The id of its content.
    pub id: String,
    /// Length of its content in bytes.
    pub size: u64,
    /// How `content` is written.
    pub encoding: Encoding,
    /// The content, up to 1 MiB of it.
    pub content: String,
    /// Whether there is more of it.
    pub truncated: bool,
}

/// How bytes are written in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub enum Encoding {
    /// As they are: a text.
    #[serde(rename = "utf-8")]
    Utf8,
    /// In base64.
    #[serde(rename = "base64")]
    Base64,
}

/// A folder at a commit.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ListAnswer {
    /// The commit that was read.
    pub commit: String,
    /// The folder's path; empty for the top.
    pub path: String,
    /// What is in it.
    pub entries: Vec<ListedEntry>,
    /// Whether there is more.
    pub truncated: bool,
}

/// Something in a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ListedEntry {
    /// Its path from the top.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// The id of its content.
    pub id: String,
}

/// What something in a folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// A file.
    File,
    /// A file that can be run.
    Executable,
    /// A symbolic link; it is not followed.
    Link,
    /// A folder.
    Folder,
    /// A commit of another repository; it is not followed.
    Submodule,
}

/// A history.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct LogAnswer {
    /// The commit that it leads to.
    pub commit: String,
    /// The newest first.
    pub commits: Vec<CommitLine>,
    /// Whether there is more, or was too much to go through.
    pub truncated: bool,
}

/// A commit in a history.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct CommitLine {
    /// Its id.
    pub id: String,
    /// The ids of those before it.
    pub parents: Vec<String>,
    /// Who wrote it, and when.
    pub author: Person,
    /// Who committed it, and when.
    pub committer: Person,
    /// The first line of its message.
    pub subject: String,
}

/// Somebody, and when he did something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Person {
    /// The name.
    pub name: String,
    /// The e-mail address.
    pub email: String,
    /// When, in UTC.
    pub time: String,
}

/// A commit and what it changed.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct CommitAnswer {
    /// The commit.
    #[serde(flatten)]
    pub line: CommitLine,
    /// Its whole message.
    pub message: String,
    /// What it changed of the first commit before it.
    pub changes: Vec<ChangedPath>,
    /// Whether it changed more.
    pub truncated: bool,
}

/// What differs between two commits.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct DiffAnswer {
    /// The older one.
    pub base: String,
    /// The newer one.
    pub commit: String,
    /// What is different in the newer one.
    pub changes: Vec<ChangedPath>,
    /// Whether more is.
    pub truncated: bool,
}

/// A path that is different.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ChangedPath {
    /// The path.
    pub path: String,
    /// How it is different.
    pub change: ChangeKind,
    /// The id of its content before.
    pub old_id: Option<String>,
    /// The id of its content now.
    pub new_id: Option<String>,
}

/// How a path is different.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It was not there before.
    Added,
    /// It is not there any more.
    Deleted,
    /// Its content or its kind is another.
    Modified,
}

/// Branches or tags.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct NamesAnswer {
    /// In the order of their names.
    pub names: Vec<NamedCommit>,
    /// Whether there are more.
    pub truncated: bool,
}

/// A branch or a tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct NamedCommit {
    /// Its name.
    pub name: String,
    /// The commit that it stands for.
    pub commit: String,
    /// Whether it is the repository's own choice: what `HEAD` stands for.
    pub is_head: bool,
}
