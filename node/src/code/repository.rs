//! A repository, opened for one request, with bounded reads of its objects.

use std::{
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use gix::{ObjectId, bstr::ByteSlice, hash::Prefix, objs::Kind, refs::FullName};

use super::{
    BLOB_BYTES_MAX, CodeError, CommitLine, EntryKind, NAME_BYTES_MAX, OBJECT_BYTES_MAX, Person,
};

/// Tags of tags that are followed to a commit.
const TAGS_FOLLOWED_MAX: usize = 8;
/// Shortest beginning of an id that is looked up: shorter ones would let a caller try them all.
const ID_PREFIX_MIN: usize = 7;
/// Memory for objects that are read again.
const OBJECT_CACHE_BYTES: usize = 8 << 20;
/// The last second that has a year of four digits.
const SECONDS_MAX: u64 = 253_402_300_799;
/// Bytes of a subject line.
const SUBJECT_BYTES_MAX: usize = 500;

/// A repository.
pub(super) struct Repository {
    pub(super) git: gix::Repository,
}

/// What a commit says of others.
#[derive(Debug, Clone)]
pub(super) struct CommitFacts {
    pub(super) tree: ObjectId,
    pub(super) parents: Vec<ObjectId>,
    pub(super) seconds: i64,
}

/// Something in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    pub(super) kind: EntryKind,
    pub(super) id: ObjectId,
}

impl Repository {
    /// Opens a repository where it lies; folders above it are not looked at.
    pub(super) fn open(path: &Path) -> Result<Self, CodeError> {
        let git = gix::open::Options::isolated().open(path);
        let git = git.map_err(|error| {
            CodeError::Broken(format!("{} cannot be opened: {error}", path.display()))
        })?;
        let mut git = git.to_thread_local();
        // Commits are read for what they say of others, and again for what they say to people.
        git.object_cache_size_if_unset(OBJECT_CACHE_BYTES);
        Ok(Self { git })
    }

    /// Returns the commit that a name stands for: `HEAD`, a branch, a tag, a whole reference, or
    /// an id, which may be cut to seven digits.
    pub(super) fn commit_of(&self, name: &str) -> Result<ObjectId, CodeError> {
        let wrong = |words: &str| CodeError::field("ref", words);
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(wrong("must be a branch, a tag or the id of a commit"));
        }
        for candidate in candidates(name) {
            let full: FullName = candidate
                .try_into()
                .map_err(|_error| wrong("is no name of a branch or a tag"))?;
            if let Some(mut found) = self.git.try_find_reference(full.as_ref())? {
                // An unborn branch is a reference to nothing.
                let id = found.follow_to_object();
                let id = id.map_err(|_| unknown(name))?.detach();
                return self.peel(id, name);
            }
        }
        let is_hex = name.bytes().all(|b| b.is_ascii_hexdigit());
        if is_hex && (ID_PREFIX_MIN..=40).contains(&name.len()) {
            let prefix = Prefix::from_hex(&name.to_ascii_lowercase());
            let prefix = prefix.map_err(|_error| unknown(name))?;
            return match self.git.objects.lookup_prefix(prefix, None)? {
                Some(Ok(id)) => self.peel(id, name),
                Some(Err(())) => Err(wrong("is the beginning of several ids; write more of it")),
                None => Err(unknown(name)),
            };
        }
        Err(unknown(name))
    }

    /// Follows tags to a commit.
    fn peel(&self, mut id: ObjectId, name: &str) -> Result<ObjectId, CodeError> {
        for _ in 0..TAGS_FOLLOWED_MAX {
            let header = self.git.try_find_header(id)?;
            match header.ok_or_else(|| missing(id))?.kind() {
                Kind::Commit => return Ok(id),
                Kind::Tag => {
                    let tag = self.object(id, Kind::Tag, OBJECT_BYTES_MAX)?;
                    id = tag.try_to_tag_ref()?.target();
                }
                Kind::Tree | Kind::Blob => break,
            }
        }
        let words = format!("{name:?} stands for something that is no commit");
        Err(CodeError::field("ref", words))
    }

    /// Reads an object of a kind, if it is not larger than that.
    fn object(
        &self,
        id: ObjectId,
        kind: Kind,
        bytes_max: u64,
    ) -> Result<gix::Object<'_>, CodeError> {
        let header = self.git.try_find_header(id)?.ok_or_else(|| missing(id))?;
        if header.kind() != kind {
            let words = format!("{id} is a {}, not a {kind}", header.kind());
            return Err(CodeError::Broken(words));
        }
        if header.size() > bytes_max {
            let words = format!(
                "the {kind} {id} has {} bytes, and at most {bytes_max} are read",
                header.size()
            );
            return Err(CodeError::TooLarge(words));
        }
        Ok(self.git.find_object(id)?)
    }

    /// Reads a file's content.
    pub(super) fn blob(&self, id: ObjectId) -> Result<Vec<u8>, CodeError> {
        let mut blob = self.object(id, Kind::Blob, BLOB_BYTES_MAX)?;
        Ok(std::mem::take(&mut blob.data))
    }

    /// Reads what is in a folder, in git's order.
    pub(super) fn tree(&self, id: ObjectId) -> Result<Vec<Entry>, CodeError> {
        if id.is_empty_tree() {
            return Ok(Vec::new());
        }
        let tree = self.object(id, Kind::Tree, OBJECT_BYTES_MAX)?.into_tree();
        let tree = tree.decode()?;
        let entries = tree.entries.iter().map(|entry| Entry {
            name: entry.filename.to_vec(),
            kind: kind_of(entry.mode),
            id: entry.oid.to_owned(),
        });
        Ok(entries.collect())
    }

    /// Looks for a path in a tree; `None` where there is none. A path without parts is the tree.
    pub(super) fn find(&self, tree: ObjectId, parts: &[&str]) -> Result<Option<Entry>, CodeError> {
        let mut found = Entry {
            name: Vec::new(),
            kind: EntryKind::Folder,
            id: tree,
        };
        for part in parts {
            if found.kind != EntryKind::Folder {
                return Ok(None);
            }
            let mut entries = self.tree(found.id)?.into_iter();
            match entries.find(|entry| entry.name == part.as_bytes()) {
                Some(entry) => found = entry,
                None => return Ok(None),
            }
        }
        Ok(Some(found))
    }

    /// Reads what a commit says of others.
    pub(super) fn facts(&self, id: ObjectId) -> Result<CommitFacts, CodeError> {
        let commit = self.object(id, Kind::Commit, OBJECT_BYTES_MAX)?;
        let commit = commit.try_to_commit_ref()?;
        Ok(CommitFacts {
            tree: commit.tree(),
            parents: commit.parents().collect(),
            seconds: commit.time().map(|time| time.seconds).unwrap_or_default(),
        })
    }

    /// Reads what a commit says for people: its line, and its whole message.
    pub(super) fn told(&self, id: ObjectId) -> Result<(CommitLine, String), CodeError> {
        let commit = self.object(id, Kind::Commit, OBJECT_BYTES_MAX)?;
        let commit = commit.try_to_commit_ref()?;
        let message = commit.message.to_str_lossy().into_owned();
        let first = message.trim_start().lines().next().unwrap_or_default();
        let line = CommitLine {
            id: id.to_string(),
            parents: commit.parents().map(|id| id.to_string()).collect(),
            author: person(commit.author().ok()),
            committer: person(commit.committer().ok()),
            subject: cut(first, SUBJECT_BYTES_MAX).to_owned(),
        };
        Ok((line, message))
    }

    /// Writes an object, and waits until it is on the disk: a commit must not come before what it
    /// holds.
    pub(super) fn write(&self, object: impl gix::objs::WriteTo) -> Result<ObjectId, CodeError> {
        let id = self.git.write_object(object)?.detach();
        let hex = id.to_string();
        let folder = self.git.objects.store_ref().path().join(&hex[..2]);
        let file = folder.join(&hex[2..]);
        // One that was there before may lie in a pack.
        if file.is_file() {
            sync(&file)?;
            sync(&folder)?;
        }
        Ok(id)
    }
}

/// Has a file or a folder written to the disk.
pub(super) fn sync(path: &Path) -> Result<(), CodeError> {
    let synced = std::fs::File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|error| CodeError::Broken(format!("{}: {error}", path.display())))
}

/// The references that a name may stand for. Others are not looked for: what lies at the top of a
/// repository's folder need not be a reference.
fn candidates(name: &str) -> Vec<String> {
    if name == "HEAD" || name.starts_with("refs/") {
        return vec![name.to_owned()];
    }
    ["refs/heads", "refs/tags", "refs/remotes"]
        .map(|folder| format!("{folder}/{name}"))
        .to_vec()
}

fn unknown(name: &str) -> CodeError {
    CodeError::not_found(format!("there is no branch, tag or commit {name:?} here"))
}

fn missing(id: ObjectId) -> CodeError {
    let words = format!("{id} is not in this repository, which may have been copied in part only");
    CodeError::not_found(words)
}

fn kind_of(mode: gix::objs::tree::EntryMode) -> EntryKind {
    use gix::objs::tree::EntryKind as Git;
    match mode.kind() {
        Git::Tree => EntryKind::Folder,
        Git::Blob => EntryKind::File,
        Git::BlobExecutable => EntryKind::Executable,
        Git::Link => EntryKind::Link,
        Git::Commit => EntryKind::Submodule,
    }
}

fn person(signature: Option<gix::actor::SignatureRef<'_>>) -> Person {
    let Some(signature) = signature else {
        // A commit that some other program wrote wrongly.
        return Person {
            name: String::new(),
            email: String::new(),
            time: rfc3339(0),
        };
    };
    Person {
        name: signature.name.to_str_lossy().trim().to_owned(),
        email: signature.email.to_str_lossy().trim().to_owned(),
        time: rfc3339(
            signature
                .time()
                .map(|time| time.seconds)
                .unwrap_or_default(),
        ),
    }
}

/// Returns a time in UTC; what is before 1970 or has a longer year is cut.
fn rfc3339(seconds: i64) -> String {
    let seconds = u64::try_from(seconds).unwrap_or_default().min(SECONDS_MAX);
    let time = UNIX_EPOCH + Duration::from_secs(seconds);
    humantime::format_rfc3339_seconds(time).to_string()
}

/// Cuts a text to so many bytes, between characters.
pub(super) fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = bytes_max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
