//! Folders and files on the disk, one name at a time and never through a link.
//!
//! [`Root`] is a folder of the data directory with a place for files that are not finished; all
//! below it is reached by [`Dir`]s, which do not leave it. A name is looked at before it is opened
//! and compared after, so that a link is not followed either that somebody puts there meanwhile.

use std::{
    io::{self, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use cap_std::{
    ambient_authority,
    fs::{Dir, File, Metadata, OpenOptions},
};

use super::{FilesError, usage::Used};
use crate::data_dir::create_private;

/// Where files lie until they are finished, in each root. No holder's folder is called so.
const UNFINISHED: &str = ".tmp";
/// Folders in one another that are looked into: more than any path names.
const DEPTH_MAX: usize = 64;
/// Words for whoever meets a file that has several names.
const HARD_LINK: &str = "a file with several names (hard links), which are not followed";
/// Words for whoever meets a link.
const LINK: &str = "a link, and links are not followed";
/// Words for whoever meets a socket or the like.
const SPECIAL: &str = "no regular file";

/// A folder of the data directory.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) dir: Dir,
    unfinished: Dir,
    serial: AtomicU64,
}

/// A file that is being written; removed when dropped.
#[derive(Debug)]
pub(super) struct Unfinished {
    root: Arc<Root>,
    name: String,
    file: File,
    is_moved: bool,
}

impl Root {
    /// Opens a folder, makes it if need be, and removes what was left unfinished in it.
    pub(super) fn open(path: &Path) -> Result<Arc<Self>, FilesError> {
        let failed = FilesError::io("open a folder of files");
        create_private(path).map_err(&failed)?;
        let dir = Dir::open_ambient_dir(path, ambient_authority()).map_err(&failed)?;
        if look(&dir, UNFINISHED)?.is_some() {
            dir.remove_dir_all(UNFINISHED).map_err(&failed)?;
        }
        dir.create_dir(UNFINISHED).map_err(&failed)?;
        let unfinished = dir.open_dir(UNFINISHED).map_err(&failed)?;
        Ok(Arc::new(Self {
            dir,
            unfinished,
            serial: AtomicU64::new(0),
        }))
    }

    /// Begins a file.
    pub(super) fn begin(self: &Arc<Self>) -> Result<Unfinished, FilesError> {
        let name = self.free_name();
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        let file = self.unfinished.open_with(&name, &options);
        Ok(Unfinished {
            root: Arc::clone(self),
            file: file.map_err(FilesError::io("begin a file"))?,
            name,
            is_moved: false,
        })
    }

    /// Removes a folder and all that is in it, and returns what that took, but for its folders of
    /// which `is_free` holds. It is out of sight at once; what a crash leaves of it is removed by
    /// the next start.
    pub(super) fn remove(
        &self,
        folder: &str,
        is_free: impl Fn(&str) -> bool,
    ) -> Result<Used, FilesError> {
        let failed = FilesError::io("remove a folder of files");
        if look(&self.dir, folder)?.is_none() {
            return Ok(Used::default());
        }
        let name = self.free_name();
        self.dir
            .rename(folder, &self.unfinished, &name)
            .map_err(&failed)?;
        sync(&self.dir)?;
        let gone = self.unfinished.open_dir(&name).map_err(&failed)?;
        let taken = count(&gone, is_free)?;
        self.unfinished.remove_dir_all(&name).map_err(&failed)?;
        Ok(taken)
    }

    fn free_name(&self) -> String {
        // The folder was empty when it was opened, and this process alone has it.
        self.serial.fetch_add(1, Ordering::Relaxed).to_string()
    }
}

impl Unfinished {
    /// Writes more of it.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), FilesError> {
        let written = self.file.write_all(bytes);
        written.map_err(FilesError::io("write a file"))
    }

    /// Has it survive a power cut.
    pub(super) fn sync(&self) -> Result<(), FilesError> {
        let synced = self.file.sync_all();
        synced.map_err(FilesError::io("write a file"))
    }

    /// Moves it to its place, in the stead of whatever is there.
    pub(super) fn move_to(mut self, folder: &Dir, name: &str) -> Result<(), FilesError> {
        let moved = self.root.unfinished.rename(&self.name, folder, name);
        moved.map_err(FilesError::io("put a file in its place"))?;
        self.is_moved = true;
        sync(folder)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.is_moved {
            // The next start removes what stays.
            let _ = self.root.unfinished.remove_file(&self.name);
        }
    }
}

/// Returns what a name stands for, itself, not what a link leads to.
pub(super) fn look(dir: &Dir, name: &str) -> Result<Option<Metadata>, FilesError> {
    match dir.symlink_metadata(name) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FilesError::io("look at a file")(error)),
    }
}

/// Opens a folder in a folder; `None` where there is none. `path` is for words.
pub(super) fn enter(dir: &Dir, name: &str, path: &str) -> Result<Option<Dir>, FilesError> {
    let Some(found) = look(dir, name)? else {
        return Ok(None);
    };
    let unfit = |what| FilesError::Unfit {
        path: path.to_owned(),
        what,
    };
    if found.is_symlink() {
        return Err(unfit("reached through a link, and links are not followed"));
    }
    if !found.is_dir() {
        return Err(unfit("below something that is a file, not a folder"));
    }
    let failed = FilesError::io("open a folder");
    let opened = dir.open_dir(name).map_err(&failed)?;
    match is_same(&opened.dir_metadata().map_err(&failed)?, &found) {
        true => Ok(Some(opened)),
        false => Err(unfit("changing while it is looked at")),
    }
}

/// As [`enter`], for what is found at a start: what is no folder is left alone, with a warning.
pub(super) fn enter_found(dir: &Dir, name: &str) -> Result<Option<Dir>, FilesError> {
    match enter(dir, name, name) {
        Err(error @ FilesError::Unfit { .. }) => {
            tracing::warn!(%error, "something among the files is left alone");
            Ok(None)
        }
        entered => entered,
    }
}

/// Checks that a name stands for a regular file with no other name.
pub(super) fn check_regular(found: &Metadata, path: &str) -> Result<(), FilesError> {
    let what = match found {
        found if found.is_symlink() => LINK,
        found if found.is_dir() => "a folder",
        found if !found.is_file() => SPECIAL,
        found if 1 < names_of(found) => HARD_LINK,
        _ => return Ok(()),
    };
    Err(FilesError::Unfit {
        path: path.to_owned(),
        what,
    })
}

/// Opens a regular file.
pub(super) fn open_regular(
    dir: &Dir,
    name: &str,
    options: &OpenOptions,
    path: &str,
) -> Result<(File, Metadata), FilesError> {
    let found = look(dir, name)?.ok_or_else(|| FilesError::NotFound {
        path: path.to_owned(),
    })?;
    check_regular(&found, path)?;
    let failed = FilesError::io("open a file");
    let file = dir.open_with(name, options).map_err(&failed)?;
    let opened = file.metadata().map_err(&failed)?;
    match is_same(&opened, &found) {
        true => Ok((file, opened)),
        false => Err(FilesError::Unfit {
            path: path.to_owned(),
            what: "changing while it is looked at",
        }),
    }
}

/// Has what was moved into a folder, or out of it, survive a power cut.
pub(super) fn sync(dir: &Dir) -> Result<(), FilesError> {
    if !cfg!(unix) {
        return Ok(());
    }
    // The folder's own handle is only for finding names in it.
    let synced = dir.open(".").and_then(|opened| opened.sync_all());
    synced.map_err(FilesError::io("write a folder"))
}

/// Counts what is in a folder, but for its folders of which `is_free` holds.
pub(super) fn count(dir: &Dir, is_free: impl Fn(&str) -> bool) -> Result<Used, FilesError> {
    let mut used = Used::default();
    add_up(dir, &is_free, 0, &mut used).map_err(FilesError::io("count files"))?;
    Ok(used)
}

fn add_up(
    dir: &Dir,
    is_free: &dyn Fn(&str) -> bool,
    depth: usize,
    used: &mut Used,
) -> io::Result<()> {
    for entry in dir.entries()? {
        let entry = entry?;
        let found = entry.metadata()?;
        let name = entry.file_name();
        if !(depth == 0 && found.is_dir() && is_free(&name.to_string_lossy())) {
            used.entries += 1;
        }
        if found.is_dir() && depth < DEPTH_MAX {
            add_up(&dir.open_dir(&name)?, is_free, depth + 1, used)?;
        } else if found.is_file() {
            used.bytes = used.bytes.saturating_add(found.len());
        }
    }
    Ok(())
}

#[cfg(unix)]
fn is_same(one: &Metadata, other: &Metadata) -> bool {
    use cap_std::fs::MetadataExt;
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

#[cfg(not(unix))]
fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.is_dir(), one.is_file()) == (other.is_dir(), other.is_file())
}

#[cfg(unix)]
fn names_of(found: &Metadata) -> u64 {
    use cap_std::fs::MetadataExt;
    found.nlink()
}

#[cfg(not(unix))]
fn names_of(_found: &Metadata) -> u64 {
    1
}
