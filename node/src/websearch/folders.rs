//! Going through folders for files that may be searched.
//!
//! Links are not followed, hidden files and what a `.gitignore` names are left out. A file is
//! opened below its folder, so that one that has become a link meanwhile leads nowhere else.

use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::UNIX_EPOCH,
};

use cap_std::{ambient_authority, fs::Dir};
use ignore::WalkBuilder;
use serde::{Deserialize, Serialize};

use super::{ALL_BYTES_MAX, FILE_BYTES_MAX, FILES_MAX, TextFile};
use crate::config::tools::folder_name;

/// Folders within each other.
const DEPTH_MAX: usize = 64;

/// By what a file is taken for unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    size: u64,
    modified_ns: u128,
}

/// Files by what they are called in results: `FOLDER/path`.
pub(super) type Stamps = BTreeMap<String, Stamp>;

/// A folder that is searched.
#[derive(Debug)]
pub(super) struct Folder {
    name: String,
    path: PathBuf,
}

impl Folder {
    /// Takes a folder by its path; `None` where that has no name.
    pub(super) fn new(path: &Path) -> Option<Self> {
        Some(Self {
            name: folder_name(path)?.to_owned(),
            path: path.to_owned(),
        })
    }

    /// Adds its files to what was found. Returns false when it was told to stop.
    pub(super) fn walk(&self, found: &mut Stamps, stop: &AtomicBool) -> bool {
        let walk = WalkBuilder::new(&self.path)
            .follow_links(false)
            .parents(false)
            .git_global(false)
            .require_git(false)
            .max_depth(Some(DEPTH_MAX))
            .max_filesize(Some(FILE_BYTES_MAX))
            .build();
        let mut bytes: u64 = found.values().map(|stamp| stamp.size).sum();
        for entry in walk {
            if stop.load(Ordering::Relaxed) {
                return false;
            }
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    tracing::debug!(folder = self.name, %error, "cannot be looked at");
                    continue;
                }
            };
            if !entry.file_type().is_some_and(|kind| kind.is_file()) {
                continue;
            }
            let Some((path, stamp)) = self.seen(&entry) else {
                continue;
            };
            bytes = bytes.saturating_add(stamp.size);
            if found.len() >= FILES_MAX || bytes > ALL_BYTES_MAX {
                let folder = &self.name;
                tracing::warn!(
                    folder,
                    FILES_MAX,
                    ALL_BYTES_MAX,
                    "more than what is searched"
                );
                return true;
            }
            found.insert(path, stamp);
        }
        true
    }

    fn seen(&self, entry: &ignore::DirEntry) -> Option<(String, Stamp)> {
        let relative = entry.path().strip_prefix(&self.path).ok()?.to_str()?;
        let metadata = entry.metadata().ok()?;
        let modified = metadata.modified().ok()?.duration_since(UNIX_EPOCH);
        let stamp = Stamp {
            size: metadata.len(),
            modified_ns: modified.map_or(0, |since| since.as_nanos()),
        };
        Some((format!("{}/{relative}", self.name), stamp))
    }

    /// Returns where below this folder a file is, if it is.
    pub(super) fn below<'a>(&self, path: &'a str) -> Option<&'a str> {
        path.strip_prefix(&self.name)?.strip_prefix('/')
    }

    /// Opens it to read files.
    pub(super) fn open(&self) -> std::io::Result<Dir> {
        Dir::open_ambient_dir(&self.path, ambient_authority())
    }
}

/// Reads a file below an open folder; `None` where it is no text, or not there any more.
pub(super) fn read(folder: &Dir, path: &str) -> Option<TextFile> {
    let file = folder.open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).ok()?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return None;
    }
    let name = path.rsplit('/').next().unwrap_or(path);
    TextFile::read(name, &bytes)
}
