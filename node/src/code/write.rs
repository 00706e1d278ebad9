//! Writing a commit to a branch of its author's own.
//!
//! Objects first, then the reference, which is moved only if it is where it was when the commit was
//! made: whoever else writes there, also with git itself, loses nothing. All of it is on the disk
//! before it is said to be.

use std::{collections::BTreeSet, path::Path};

use gix::{
    ObjectId,
    bstr::{BStr, ByteSlice},
    objs::tree::{Editor, EntryKind as GitKind},
    refs::{
        FullName, Target,
        transaction::{PreviousValue, RefEdit},
    },
};

use super::{
    BRANCHES_MAX, CodeError, EntryKind, FILES_MAX, MESSAGE_BYTES_MAX, WRITTEN_FILE_BYTES_MAX,
    paths::{branch_name, written_path},
    repository::{Entry, Repository, sync},
};

/// The branch of a commit that names none.
const BRANCH_DEFAULT: &str = "work";
/// What stands before the folders of all writers.
const NAMESPACE: &str = "aither";
/// A worktree's `HEAD` names a branch.
const HEAD_BYTES_MAX: u64 = 4 << 10;

/// Somebody who writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    /// The name.
    pub name: String,
    /// The e-mail address.
    pub email: String,
}

/// A commit that is to be made.
#[derive(Debug, Clone)]
pub struct NewCommit {
    /// The folder of its author's branches.
    pub folder: String,
    /// The branch below that folder; `None` is `work`.
    pub branch: Option<String>,
    /// What the branch begins from where there is none yet; `None` is `HEAD`.
    pub base: Option<String>,
    /// Where the branch must be, if that is said.
    pub expected_head: Option<String>,
    /// The message.
    pub message: String,
    /// What it changes.
    pub files: Vec<FileChange>,
    /// Who wrote it.
    pub author: Author,
    /// Who commits it.
    pub committer: Author,
    /// When, in seconds since 1970.
    pub seconds: i64,
}

/// A file that is to be changed.
#[derive(Debug, Clone)]
pub struct FileChange {
    /// Its path.
    pub path: String,
    /// What becomes of it.
    pub edit: Edit,
}

/// What becomes of a file.
#[derive(Debug, Clone)]
pub enum Edit {
    /// It is deleted.
    Delete,
    /// It gets a content.
    Write {
        /// The content.
        content: Vec<u8>,
        /// Whether it can be run; `None` leaves that as it is.
        is_executable: Option<bool>,
    },
}

/// A commit that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The branch, by its whole name.
    pub branch: String,
    /// Where the branch is now.
    pub commit: String,
    /// Files that are different there: with none, there is no new commit.
    pub files_changed: usize,
}

/// Makes a commit on a branch.
///
/// # Errors
/// A field is wrong, the branch is elsewhere or cannot be written, or the repository fails.
pub fn write(path: &Path, new: &NewCommit) -> Result<Written, CodeError> {
    let message = checked_message(&new.message)?;
    let paths = checked_paths(&new.files)?;
    let branch = branch_name(new.branch.as_deref().unwrap_or(BRANCH_DEFAULT))?;
    let branch = format!("{NAMESPACE}/{}/{branch}", new.folder);
    let repository = Repository::open(path)?;
    let target = BranchTarget::find(&repository, &branch)?;
    target.check(new.expected_head.as_deref())?;
    let parent = match target.head {
        Some(head) => head,
        None => base_of(&repository, new.base.as_deref())?,
    };
    let old_tree = repository.facts(parent)?.tree;
    let (tree, files_changed) = edited(&repository, old_tree, &new.files, &paths)?;
    let commit = match files_changed {
        0 => parent,
        _ => repository.write(gix::objs::Commit {
            tree,
            parents: std::iter::once(parent).collect(),
            author: signature(&new.author, new.seconds),
            committer: signature(&new.committer, new.seconds),
            encoding: None,
            message: message.into(),
            extra_headers: Vec::new(),
        })?,
    };
    if target.head != Some(commit) {
        target.move_to(&repository, commit, signature(&new.committer, new.seconds))?;
    }
    Ok(Written {
        branch,
        commit: commit.to_string(),
        files_changed,
    })
}

/// The branch, where it was found.
struct BranchTarget {
    name: FullName,
    head: Option<ObjectId>,
}

impl BranchTarget {
    fn find(repository: &Repository, branch: &str) -> Result<Self, CodeError> {
        let name = format!("refs/heads/{branch}");
        let name: FullName = name
            .try_into()
            .map_err(|_error| CodeError::field("branch", "is no name for a branch"))?;
        if checked_out(repository)?.contains(name.as_bstr().as_bytes()) {
            let message = format!("the branch {branch} is checked out, and is not written then");
            return Err(conflict(message, None));
        }
        check_neighbours(repository, &name)?;
        let head = head_of(repository, &name)?;
        if head.is_none() {
            check_room(repository, branch)?;
        }
        Ok(Self { name, head })
    }

    /// Holds it against what the caller believes.
    fn check(&self, expected: Option<&str>) -> Result<(), CodeError> {
        let Some(expected) = expected else {
            return Ok(());
        };
        let head = self.head.map(|head| head.to_string());
        if head.as_deref() == Some(&expected.to_ascii_lowercase()) {
            return Ok(());
        }
        let message = match &head {
            Some(head) => format!("the branch is at {head}, not at what expected_head says"),
            None => "the branch is not there, and expected_head says where it is".to_owned(),
        };
        Err(conflict(message, head))
    }

    /// Moves it, if it is where it was.
    fn move_to(
        &self,
        repository: &Repository,
        commit: ObjectId,
        committer: gix::actor::Signature,
    ) -> Result<(), CodeError> {
        let expected = match self.head {
            Some(head) => PreviousValue::MustExistAndMatch(Target::Object(head)),
            None => PreviousValue::MustNotExist,
        };
        let edit = RefEdit::update(self.name.clone(), commit, expected, "aither: commit");
        let mut time = gix::date::parse::TimeBuf::default();
        let committer = committer.to_ref(&mut time);
        let moved = repository
            .git
            .edit_references_as(Some(edit), Some(committer));
        if let Err(error) = moved {
            // Whoever came between is looked for, as the words of the error say it to people only.
            let now = head_of(repository, &self.name)?;
            if now != self.head {
                let message = "the branch was moved by somebody else meanwhile; read it and try \
                               again";
                return Err(conflict(message, now.map(|head| head.to_string())));
            }
            return Err(error.into());
        }
        let file = repository.git.common_dir().join(self.name.to_path()?);
        sync(&file)?;
        file.parent().map_or(Ok(()), sync)
    }
}

/// Returns where a branch is, if it is there.
fn head_of(repository: &Repository, name: &FullName) -> Result<Option<ObjectId>, CodeError> {
    let Some(found) = repository.git.try_find_reference(name.as_ref())? else {
        return Ok(None);
    };
    match found.try_id() {
        Some(id) => Ok(Some(id.detach())),
        // It would be written through, to wherever it points.
        None => Err(conflict("the branch only stands for another one", None)),
    }
}

/// Checks that no branch has a name that this one needs as a folder, nor the other way round.
fn check_neighbours(repository: &Repository, name: &FullName) -> Result<(), CodeError> {
    let whole = name.as_bstr().to_str_lossy();
    let in_the_way = |other: &str| {
        let other = other.trim_start_matches("refs/heads/");
        conflict(
            format!("the branch {other} stands in the way of that name"),
            None,
        )
    };
    for (at, _) in whole.match_indices('/').skip(2) {
        let above = &whole[..at];
        if repository.git.try_find_reference(above)?.is_some() {
            return Err(in_the_way(above));
        }
    }
    let below = format!("{whole}/");
    let platform = repository.git.references()?;
    if let Some(Ok(found)) = platform.prefixed(BStr::new(&below))?.next() {
        return Err(in_the_way(&found.name().as_bstr().to_str_lossy()));
    }
    Ok(())
}

/// Checks that a writer may have one more branch.
fn check_room(repository: &Repository, branch: &str) -> Result<(), CodeError> {
    let folder = branch.split('/').take(2).collect::<Vec<_>>().join("/");
    let folder = format!("refs/heads/{folder}/");
    let platform = repository.git.references()?;
    let known = platform.prefixed(BStr::new(&folder))?;
    match known.take(BRANCHES_MAX).count() {
        BRANCHES_MAX => Err(CodeError::TooManyBranches(BRANCHES_MAX)),
        _ => Ok(()),
    }
}

/// Returns the branches that are checked out somewhere, by their whole names.
fn checked_out(repository: &Repository) -> Result<BTreeSet<Vec<u8>>, CodeError> {
    let mut names = BTreeSet::new();
    let mut add = |git_dir: &Path| {
        let head = crate::files::read_bounded(&git_dir.join("HEAD"), HEAD_BYTES_MAX);
        // A worktree that is half made or half gone has none.
        if let Ok(Some(head)) = head
            && let Some(name) = head.trim_ascii().strip_prefix(b"ref:")
        {
            names.insert(name.trim_ascii().to_vec());
        }
    };
    add(repository.git.git_dir());
    add(repository.git.common_dir());
    for worktree in repository.git.worktrees()? {
        add(worktree.git_dir());
    }
    Ok(names)
}

fn base_of(repository: &Repository, base: Option<&str>) -> Result<ObjectId, CodeError> {
    let Some(base) = base else {
        return repository.commit_of("HEAD").map_err(|error| match error {
            CodeError::NotFound(_) => conflict(
                "the repository has no commit yet, and its first one is its operator's to make",
                None,
            ),
            other => other,
        });
    };
    repository.commit_of(base).map_err(|error| match error {
        CodeError::Invalid { message, .. } => CodeError::field("base", message),
        other => other,
    })
}

/// Makes the tree with the changes, and counts those that change something.
fn edited(
    repository: &Repository,
    old_tree: ObjectId,
    files: &[FileChange],
    paths: &[Vec<&str>],
) -> Result<(ObjectId, usize), CodeError> {
    let root = gix::objs::Tree {
        entries: tree_entries(repository, old_tree)?,
    };
    let kind = repository.git.object_hash();
    let mut editor = Editor::new(root, &repository.git.objects, kind);
    let mut files_changed = 0;
    for (number, (file, parts)) in files.iter().zip(paths).enumerate() {
        let field = format!("files[{number}].path");
        let existing = existing(repository, old_tree, parts, &field)?;
        let parts = parts.iter().map(|part| BStr::new(*part));
        match &file.edit {
            Edit::Delete => {
                if existing.is_none() {
                    return Err(CodeError::field(field, "is not there to be deleted"));
                }
                editor.remove_leaf(parts)?;
            }
            Edit::Write {
                content,
                is_executable,
            } => {
                let was_executable = existing.as_ref().map(|e| e.kind == EntryKind::Executable);
                let (kind, git_kind) = match is_executable.or(was_executable).unwrap_or(false) {
                    true => (EntryKind::Executable, GitKind::BlobExecutable),
                    false => (EntryKind::File, GitKind::Blob),
                };
                let id = repository.write(gix::objs::BlobRef { data: content })?;
                if existing.is_some_and(|e| (e.kind, e.id) == (kind, id)) {
                    continue;
                }
                editor.upsert(parts, git_kind, id)?;
            }
        }
        files_changed += 1;
    }
    if files_changed == 0 {
        return Ok((old_tree, 0));
    }
    let tree = editor.write(|tree| repository.write(tree))?;
    Ok((tree, files_changed))
}

fn tree_entries(
    repository: &Repository,
    tree: ObjectId,
) -> Result<Vec<gix::objs::tree::Entry>, CodeError> {
    let entries = repository.tree(tree)?.into_iter().map(|entry| {
        let kind = match entry.kind {
            EntryKind::File => GitKind::Blob,
            EntryKind::Executable => GitKind::BlobExecutable,
            EntryKind::Link => GitKind::Link,
            EntryKind::Folder => GitKind::Tree,
            EntryKind::Submodule => GitKind::Commit,
        };
        gix::objs::tree::Entry {
            mode: kind.into(),
            filename: entry.name.into(),
            oid: entry.id,
        }
    });
    Ok(entries.collect())
}

/// Returns what is at a path, if that is something that a file can replace.
fn existing(
    repository: &Repository,
    tree: ObjectId,
    parts: &[&str],
    field: &str,
) -> Result<Option<Entry>, CodeError> {
    for end in 1..parts.len() {
        match repository.find(tree, &parts[..end])? {
            Some(entry) if entry.kind != EntryKind::Folder => {
                let words = format!("{:?} is no folder there", parts[..end].join("/"));
                return Err(CodeError::field(field, words));
            }
            Some(_) => {}
            None => return Ok(None),
        }
    }
    let found = repository.find(tree, parts)?;
    match found.as_ref().map(|entry| entry.kind) {
        Some(EntryKind::Folder) => Err(CodeError::field(field, "is a folder there")),
        Some(EntryKind::Submodule) => {
            let words = "is a commit of another repository there";
            Err(CodeError::field(field, words))
        }
        _ => Ok(found),
    }
}

/// Checks what is to be changed, and takes the paths apart.
fn checked_paths(files: &[FileChange]) -> Result<Vec<Vec<&str>>, CodeError> {
    if files.is_empty() || files.len() > FILES_MAX {
        return Err(CodeError::field(
            "files",
            format!("must be 1 to {FILES_MAX}"),
        ));
    }
    let mut taken = BTreeSet::new();
    let mut paths = Vec::new();
    for (number, file) in files.iter().enumerate() {
        let field = format!("files[{number}].path");
        let parts = written_path(&field, &file.path)?;
        if let Edit::Write { content, .. } = &file.edit
            && content.len() > WRITTEN_FILE_BYTES_MAX
        {
            let words = format!("must have at most {WRITTEN_FILE_BYTES_MAX} bytes");
            return Err(CodeError::field(format!("files[{number}].content"), words));
        }
        if !taken.insert(file.path.as_str()) {
            return Err(CodeError::field(field, "is there twice"));
        }
        paths.push(parts);
    }
    for (number, parts) in paths.iter().enumerate() {
        for end in 1..parts.len() {
            let above = parts[..end].join("/");
            if taken.contains(above.as_str()) {
                let words = format!("{above:?} is a file in the same commit");
                return Err(CodeError::field(format!("files[{number}].path"), words));
            }
        }
    }
    Ok(paths)
}

/// Returns a message as git has them: with a line's end at its end.
fn checked_message(message: &str) -> Result<String, CodeError> {
    let message = message.trim();
    if message.is_empty() || message.len() > MESSAGE_BYTES_MAX || message.contains('\0') {
        let words = format!("must be a text of 1 to {MESSAGE_BYTES_MAX} bytes");
        return Err(CodeError::field("message", words));
    }
    Ok(format!("{message}\n"))
}

fn signature(author: &Author, seconds: i64) -> gix::actor::Signature {
    // What would end the field, or the line, in a commit.
    let odd = |c: char| c.is_control() || matches!(c, '<' | '>');
    let clean = |text: &str| text.replace(odd, "").trim().to_owned();
    gix::actor::Signature {
        name: clean(&author.name).into(),
        email: clean(&author.email).into(),
        time: gix::date::Time::new(seconds, 0),
    }
}

fn conflict(message: impl Into<String>, head: Option<String>) -> CodeError {
    CodeError::Conflict {
        message: message.into(),
        head,
    }
}
