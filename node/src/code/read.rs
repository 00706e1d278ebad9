//! Reading a repository: files, folders, history.

use std::{
    collections::{BinaryHeap, HashMap},
    path::Path,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use gix::{ObjectId, bstr::ByteSlice};

use super::{
    COMMITS_WALKED_MAX, CodeAnswer, CodeError, CommitAnswer, DiffAnswer, Encoding, EntryKind,
    FILE_BYTES_MAX, FileAnswer, ListAnswer, LogAnswer, NamedCommit, NamesAnswer,
    paths::read_path,
    repository::{CommitFacts, Repository},
    tree,
};

/// What is asked of a repository. Each `reference` is a branch, a tag or an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CodeQuery {
    /// A file's content.
    File {
        /// The commit.
        reference: String,
        /// The file.
        path: String,
    },
    /// What is in a folder.
    List {
        /// The commit.
        reference: String,
        /// The folder.
        path: String,
        /// Whether what is in the folders below it is listed too.
        is_recursive: bool,
        /// Most entries.
        limit: usize,
    },
    /// What led to a commit.
    Log {
        /// The commit.
        reference: String,
        /// Only what changed this path, if there is one.
        path: String,
        /// Most commits.
        limit: usize,
    },
    /// A commit and what it changed.
    Commit {
        /// The commit.
        reference: String,
        /// Most changes.
        limit: usize,
    },
    /// What differs between two commits.
    Diff {
        /// The older one.
        base: String,
        /// The newer one.
        reference: String,
        /// Most changes.
        limit: usize,
    },
    /// The branches.
    Branches {
        /// Most names.
        limit: usize,
    },
    /// The tags.
    Tags {
        /// Most names.
        limit: usize,
    },
}

/// Reads a repository.
///
/// # Errors
/// There is no such thing in it, or it cannot be read.
pub fn read(path: &Path, query: &CodeQuery) -> Result<CodeAnswer, CodeError> {
    let repository = Repository::open(path)?;
    match query {
        CodeQuery::File { reference, path } => {
            let commit = repository.commit_of(reference)?;
            file(&repository, commit, path).map(CodeAnswer::File)
        }
        CodeQuery::List {
            reference,
            path,
            is_recursive,
            limit,
        } => {
            let commit = repository.commit_of(reference)?;
            let listed = list(&repository, commit, path, (*is_recursive, *limit));
            listed.map(CodeAnswer::List)
        }
        CodeQuery::Log {
            reference,
            path,
            limit,
        } => {
            let commit = repository.commit_of(reference)?;
            log(&repository, commit, path, *limit).map(CodeAnswer::Log)
        }
        CodeQuery::Commit { reference, limit } => {
            let commit = repository.commit_of(reference)?;
            show(&repository, commit, *limit).map(CodeAnswer::Commit)
        }
        CodeQuery::Diff {
            base,
            reference,
            limit,
        } => {
            let base = repository.commit_of(base)?;
            let commit = repository.commit_of(reference)?;
            diff(&repository, base, commit, *limit).map(CodeAnswer::Diff)
        }
        CodeQuery::Branches { limit } => {
            names(&repository, "refs/heads/", *limit).map(CodeAnswer::Branches)
        }
        CodeQuery::Tags { limit } => names(&repository, "refs/tags/", *limit).map(CodeAnswer::Tags),
    }
}

fn file(repository: &Repository, commit: ObjectId, path: &str) -> Result<FileAnswer, CodeError> {
    let parts = read_path(path)?;
    let tree = repository.facts(commit)?.tree;
    let found = repository.find(tree, &parts)?;
    let entry = found.ok_or_else(|| no_such_path(path))?;
    match entry.kind {
        EntryKind::Folder => return Err(CodeError::field("path", "is a folder; list it")),
        EntryKind::Submodule => {
            let words = "is a commit of another repository, which is not followed";
            return Err(CodeError::field("path", words));
        }
        EntryKind::File | EntryKind::Executable | EntryKind::Link => {}
    }
    let bytes = repository.blob(entry.id)?;
    let truncated = bytes.len() > FILE_BYTES_MAX;
    let shown = &bytes[..bytes.len().min(FILE_BYTES_MAX)];
    let (encoding, content) = encode(shown, truncated);
    Ok(FileAnswer {
        commit: commit.to_string(),
        path: parts.join("/"),
        kind: entry.kind,
        id: entry.id.to_string(),
        size: bytes.len() as u64,
        encoding,
        content,
        truncated,
    })
}

/// Writes bytes as a text, if they are one; what was cut may end within a character.
fn encode(bytes: &[u8], is_cut: bool) -> (Encoding, String) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Encoding::Utf8, text.to_owned()),
        Err(error) if is_cut && error.error_len().is_none() => {
            let whole = &bytes[..error.valid_up_to()];
            (Encoding::Utf8, String::from_utf8_lossy(whole).into_owned())
        }
        Err(_) => (Encoding::Base64, STANDARD.encode(bytes)),
    }
}

fn list(
    repository: &Repository,
    commit: ObjectId,
    path: &str,
    (is_recursive, limit): (bool, usize),
) -> Result<ListAnswer, CodeError> {
    let parts = read_path(path)?;
    let tree = repository.facts(commit)?.tree;
    let found = repository.find(tree, &parts)?;
    let folder = found.ok_or_else(|| no_such_path(path))?;
    if folder.kind != EntryKind::Folder {
        return Err(CodeError::field("path", "is no folder"));
    }
    let path = parts.join("/");
    let (entries, truncated) = tree::list(repository, (folder.id, &path), is_recursive, limit)?;
    Ok(ListAnswer {
        commit: commit.to_string(),
        path,
        entries,
        truncated,
    })
}

fn show(
    repository: &Repository,
    commit: ObjectId,
    limit: usize,
) -> Result<CommitAnswer, CodeError> {
    let facts = repository.facts(commit)?;
    let (line, message) = repository.told(commit)?;
    let before = facts.parents.first();
    let before = before.map(|parent| repository.facts(*parent));
    let before = before.transpose()?.map(|facts| facts.tree);
    let (changes, truncated) = tree::diff(repository, before, facts.tree, limit)?;
    Ok(CommitAnswer {
        line,
        message,
        changes,
        truncated,
    })
}

fn diff(
    repository: &Repository,
    base: ObjectId,
    commit: ObjectId,
    limit: usize,
) -> Result<DiffAnswer, CodeError> {
    let (old, new) = (repository.facts(base)?.tree, repository.facts(commit)?.tree);
    let (changes, truncated) = tree::diff(repository, Some(old), new, limit)?;
    Ok(DiffAnswer {
        base: base.to_string(),
        commit: commit.to_string(),
        changes,
        truncated,
    })
}

fn names(repository: &Repository, prefix: &str, limit: usize) -> Result<NamesAnswer, CodeError> {
    let head = repository.git.head_name()?;
    let platform = repository.git.references()?;
    let found = match prefix {
        "refs/tags/" => platform.tags()?,
        _ => platform.local_branches()?,
    };
    let mut names = Vec::new();
    for reference in found {
        let Ok(mut reference) = reference else {
            // One that is damaged does not hide the others.
            continue;
        };
        let full = reference.name().to_owned();
        let Ok(id) = reference.peel_to_id() else {
            continue;
        };
        if names.len() == limit {
            let truncated = true;
            return Ok(NamesAnswer { names, truncated });
        }
        let name = full.as_bstr().to_str_lossy();
        names.push(NamedCommit {
            name: name.strip_prefix(prefix).unwrap_or(&name).to_owned(),
            commit: id.to_string(),
            is_head: head.as_ref() == Some(&full),
        });
    }
    let truncated = false;
    Ok(NamesAnswer { names, truncated })
}

fn no_such_path(path: &str) -> CodeError {
    CodeError::not_found(format!("there is no {path:?} at this commit"))
}

/// Goes back through the history, the newest commit first.
struct Walk<'a> {
    repository: &'a Repository,
    waiting: BinaryHeap<(i64, ObjectId)>,
    seen: HashMap<ObjectId, CommitFacts>,
    /// What a path is in a tree, by the tree.
    at_path: HashMap<ObjectId, Option<(EntryKind, ObjectId)>>,
}

impl Walk<'_> {
    fn visit(&mut self, id: ObjectId) -> Result<(), CodeError> {
        if self.seen.contains_key(&id) || self.seen.len() >= COMMITS_WALKED_MAX {
            return Ok(());
        }
        let facts = match self.repository.facts(id) {
            Ok(facts) => facts,
            // The history of a shallow copy ends somewhere.
            Err(CodeError::NotFound(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        self.waiting.push((facts.seconds, id));
        self.seen.insert(id, facts);
        Ok(())
    }

    /// Returns whether a commit made a path what it is: no commit before it had it so.
    fn has_changed(&mut self, facts: &CommitFacts, parts: &[&str]) -> Result<bool, CodeError> {
        let now = self.entry_at(facts.tree, parts)?;
        let before = facts.parents.iter().filter_map(|id| self.seen.get(id));
        let before: Vec<_> = before.map(|facts| facts.tree).collect();
        for tree in &before {
            if self.entry_at(*tree, parts)? == now {
                return Ok(false);
            }
        }
        Ok(!before.is_empty() || now.is_some())
    }

    fn entry_at(
        &mut self,
        tree: ObjectId,
        parts: &[&str],
    ) -> Result<Option<(EntryKind, ObjectId)>, CodeError> {
        if let Some(known) = self.at_path.get(&tree) {
            return Ok(*known);
        }
        let found = self.repository.find(tree, parts)?;
        let found = found.map(|entry| (entry.kind, entry.id));
        self.at_path.insert(tree, found);
        Ok(found)
    }
}

fn log(
    repository: &Repository,
    commit: ObjectId,
    path: &str,
    limit: usize,
) -> Result<LogAnswer, CodeError> {
    let parts = read_path(path)?;
    let mut walk = Walk {
        repository,
        waiting: BinaryHeap::new(),
        seen: HashMap::new(),
        at_path: HashMap::new(),
    };
    walk.visit(commit)?;
    let mut commits = Vec::new();
    let mut truncated = false;
    while let Some((_, id)) = walk.waiting.pop() {
        let Some(facts) = walk.seen.get(&id).cloned() else {
            continue;
        };
        for parent in &facts.parents {
            walk.visit(*parent)?;
        }
        if !parts.is_empty() && !walk.has_changed(&facts, &parts)? {
            continue;
        }
        if commits.len() == limit {
            truncated = true;
            break;
        }
        commits.push(repository.told(id)?.0);
    }
    Ok(LogAnswer {
        commit: commit.to_string(),
        commits,
        truncated: truncated || walk.seen.len() >= COMMITS_WALKED_MAX,
    })
}
