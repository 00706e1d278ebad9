//! Workspaces: a folder for each holder, and the files that it names.
//!
//! Files are written outside of any lock; moved into place, appended to and removed they are one
//! after another for each holder, so that what is counted is what is there. Folders are made for
//! the files in them and go with the last one, but for the six that every workspace has.

use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    io::{Read, Seek, SeekFrom, Write},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use cap_std::fs::{Dir, OpenOptions};

use super::{
    FilePath, FilesError, Holder, Payer, Usage, Used,
    folder::{Root, check_regular, count, enter, enter_found, look, open_regular, sync},
};

/// Folders that every workspace has.
const FOLDERS: [&str; 6] = ["data", "cache", "artifacts", "logs", "db", "config"];
/// Locks for holders: those with the same one only wait for each other.
const TURNS: usize = 64;
/// Holders who have left and may still have requests under way, which must not bring files back.
const GONE_MAX: usize = 4096;

/// The workspaces of a data directory; clones share them.
#[derive(Debug, Clone)]
pub struct WorkspaceStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    root: Arc<Root>,
    usage: Arc<Usage>,
    turns: [Mutex<()>; TURNS],
    /// Which account pays for whose files.
    payers: Mutex<HashMap<Holder, u128>>,
    gone: Mutex<VecDeque<Holder>>,
}

/// A file that is to be written.
#[derive(Debug)]
pub struct WriteFile<'a> {
    /// Where to.
    pub path: &'a FilePath,
    /// What.
    pub data: &'a [u8],
    /// Whether what is there stays before it.
    pub append: bool,
}

/// A piece of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The bytes.
    pub data: Vec<u8>,
    /// How many the whole file has.
    pub size: u64,
}

/// Which files are to be listed.
#[derive(Debug, Clone, Default)]
pub struct ListFiles {
    /// Those of one folder.
    pub folder: Option<FilePath>,
    /// Those in its folders, too.
    pub recursive: bool,
    /// Those that come after this one.
    pub after: Option<FilePath>,
    /// Most of them.
    pub limit: usize,
}

/// A file as lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// Where it is.
    pub path: FilePath,
    /// Its bytes.
    pub size: u64,
    /// When it was last written.
    pub modified: SystemTime,
}

/// Files of a workspace.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// Some of them, in the order of their paths.
    pub files: Vec<FileInfo>,
    /// How many there are, wherever the list begins.
    pub total: usize,
}

impl WorkspaceStore {
    /// Opens the workspaces at `path`, and counts what is in them for the accounts that `owner_of`
    /// says agents belong to. Blocks.
    ///
    /// # Errors
    /// The disk cannot be read or written.
    pub fn open(
        path: &Path,
        usage: Arc<Usage>,
        owner_of: impl Fn(u128) -> Option<u128>,
    ) -> Result<Self, FilesError> {
        let root = Root::open(path)?;
        let mut payers = HashMap::new();
        for (holder, dir) in holders(&root)? {
            let payer = match holder {
                Holder::Account(account) => Some(account),
                Holder::Agent(agent) => owner_of(agent),
            };
            let Some(payer) = payer else {
                // An older backup of the registry may have been brought back: nothing is removed.
                tracing::warn!(
                    folder = holder.folder(),
                    "files of nobody who is known here"
                );
                continue;
            };
            usage.count(payer, count(&dir, |name| FOLDERS.contains(&name))?);
            payers.insert(holder, payer);
        }
        Ok(Self {
            shared: Arc::new(Shared {
                root,
                usage,
                turns: std::array::from_fn(|_| Mutex::default()),
                payers: Mutex::new(payers),
                gone: Mutex::default(),
            }),
        })
    }

    /// Writes a file; it is durable when this returns. Returns how large it is now.
    ///
    /// # Errors
    /// There is no room, something else is there, or the disk fails.
    pub fn write(
        &self,
        (holder, payer): (Holder, Payer),
        file: &WriteFile<'_>,
    ) -> Result<u64, FilesError> {
        let shared = &*self.shared;
        let bytes = len_of(file.data);
        if file.append {
            let _turn = shared.turn(holder)?;
            let folder = shared.open_parent(holder, file.path);
            match folder.and_then(|folder| shared.append(&folder, payer, file)) {
                Err(FilesError::NotFound { .. }) => {}
                appended => return appended,
            }
        }
        let room = Used { bytes, entries: 1 };
        let reservation = shared.usage.reserve(payer, room)?;
        let mut unfinished = shared.root.begin()?;
        unfinished.write(file.data)?;
        unfinished.sync()?;
        let _turn = shared.turn(holder)?;
        let (folder, name) = shared.make_parent((holder, payer), file.path)?;
        let replaced = look(&folder, name)?;
        if file.append && replaced.is_some() {
            // Somebody else was first, and what they wrote stays.
            drop((unfinished, reservation));
            return shared.append(&folder, payer, file);
        }
        if let Some(found) = &replaced {
            check_regular(found, &file.path.to_string())?;
        }
        unfinished.move_to(&folder, name)?;
        reservation.keep();
        if let Some(found) = replaced {
            let freed = Used {
                bytes: found.len(),
                entries: 1,
            };
            shared.usage.release(payer.account, freed);
        }
        Ok(bytes)
    }

    /// Reads at most `bytes_max` of a file from a place on.
    ///
    /// # Errors
    /// There is no such file, or the disk fails.
    pub fn read(
        &self,
        holder: Holder,
        path: &FilePath,
        (offset, bytes_max): (u64, u64),
    ) -> Result<Piece, FilesError> {
        let (mut file, size) = self.open_file(holder, path)?;
        let failed = FilesError::io("read a file");
        let mut data = Vec::new();
        if size <= offset {
            // Not every number is a place that the operating system can look for.
            return Ok(Piece { data, size });
        }
        file.seek(SeekFrom::Start(offset)).map_err(&failed)?;
        let read = file.take(bytes_max).read_to_end(&mut data);
        read.map_err(&failed)?;
        Ok(Piece { data, size })
    }

    /// Opens a file for reading, and returns how large it is.
    ///
    /// # Errors
    /// There is no such file, or the disk fails.
    pub fn open_file(
        &self,
        holder: Holder,
        path: &FilePath,
    ) -> Result<(std::fs::File, u64), FilesError> {
        let folder = self.shared.open_parent(holder, path)?;
        let mut options = OpenOptions::new();
        options.read(true);
        let (_, name) = path.split();
        let (file, found) = open_regular(&folder, name, &options, &path.to_string())?;
        Ok((file.into_std(), found.len()))
    }

    /// Lists files in the order of their paths.
    ///
    /// # Errors
    /// There is no such folder, or the disk fails.
    pub fn list(&self, holder: Holder, wanted: &ListFiles) -> Result<Files, FilesError> {
        let mut found = Files::default();
        let Some(mut dir) = enter(&self.shared.root.dir, &holder.folder(), "")? else {
            // Made with its first file; its own folders are as good as there.
            return match &wanted.folder {
                Some(folder) if !FOLDERS.contains(&&*folder.to_string()) => {
                    let path = folder.to_string();
                    Err(FilesError::NotFound { path })
                }
                _ => Ok(found),
            };
        };
        let mut parts = Vec::new();
        for name in wanted.folder.iter().flat_map(FilePath::parts) {
            parts.push(name.clone());
            let path = parts.join("/");
            let entered = enter(&dir, name, &path)?;
            dir = entered.ok_or(FilesError::NotFound { path })?;
        }
        walk(&dir, &mut parts, wanted, &mut found)?;
        Ok(found)
    }

    /// Removes a file, and the folders that were made for it alone.
    ///
    /// # Errors
    /// There is no such file, or the disk fails.
    pub fn delete(&self, holder: Holder, path: &FilePath) -> Result<(), FilesError> {
        let shared = &*self.shared;
        let failed = FilesError::io("remove a file");
        let _turn = shared.turn(holder)?;
        let mut dirs = shared.open_folders(holder, path)?;
        let (folders, name) = path.split();
        let words = path.to_string();
        let folder = dirs
            .pop()
            .ok_or(FilesError::Internal("a path in no folder"))?;
        let found = look(&folder, name)?.ok_or_else(|| FilesError::NotFound {
            path: words.clone(),
        })?;
        check_regular(&found, &words)?;
        folder.remove_file(name).map_err(&failed)?;
        sync(&folder)?;
        let mut freed = Used {
            bytes: found.len(),
            entries: 1,
        };
        drop(folder);
        for (depth, above) in dirs.iter().enumerate().rev() {
            let is_standard = depth == 0 && FOLDERS.contains(&&*folders[depth]);
            // One that is not empty cannot be removed.
            if is_standard || above.remove_dir(&*folders[depth]).is_err() {
                break;
            }
            freed.entries += 1;
        }
        if let Some(payer) = shared.payer_of(holder) {
            shared.usage.release(payer, freed);
        }
        Ok(())
    }

    /// Leaves nothing of a holder's files, and lets nothing be written for it any more.
    ///
    /// # Errors
    /// The disk fails; then it can be asked for again.
    pub fn remove(&self, holder: Holder) -> Result<(), FilesError> {
        let shared = &*self.shared;
        let _turn = shared.lock_turn(holder);
        let mut gone = lock(&shared.gone);
        if !gone.contains(&holder) {
            if gone.len() == GONE_MAX {
                gone.pop_front();
            }
            gone.push_back(holder);
        }
        drop(gone);
        let is_free = |name: &str| FOLDERS.contains(&name);
        let taken = shared.root.remove(&holder.folder(), is_free)?;
        if let Some(payer) = lock(&shared.payers).remove(&holder) {
            shared.usage.release(payer, taken);
        }
        Ok(())
    }
}

impl Shared {
    /// Waits until nobody else changes files of this holder.
    fn turn(&self, holder: Holder) -> Result<MutexGuard<'_, ()>, FilesError> {
        let turn = self.lock_turn(holder);
        match lock(&self.gone).contains(&holder) {
            true => Err(FilesError::Gone),
            false => Ok(turn),
        }
    }

    fn lock_turn(&self, holder: Holder) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        holder.hash(&mut hasher);
        let turns = u64::try_from(TURNS).unwrap_or(1);
        let number = usize::try_from(hasher.finish() % turns).unwrap_or(0);
        lock(&self.turns[number])
    }

    fn payer_of(&self, holder: Holder) -> Option<u128> {
        lock(&self.payers).get(&holder).copied()
    }

    /// Opens the folder that a file lies in.
    fn open_parent(&self, holder: Holder, path: &FilePath) -> Result<Dir, FilesError> {
        let folder = self.open_folders(holder, path)?.pop();
        folder.ok_or(FilesError::Internal("a path in no folder"))
    }

    /// Opens the workspace and each folder on the way to a file.
    fn open_folders(&self, holder: Holder, path: &FilePath) -> Result<Vec<Dir>, FilesError> {
        let words = path.to_string();
        let missing = || FilesError::NotFound {
            path: words.clone(),
        };
        let top = enter(&self.root.dir, &holder.folder(), &words)?;
        let mut dirs = vec![top.ok_or_else(missing)?];
        let (folders, _) = path.split();
        for name in folders {
            let last = dirs.last().ok_or_else(missing)?;
            let next = enter(last, name, &words)?.ok_or_else(missing)?;
            dirs.push(next);
        }
        Ok(dirs)
    }

    /// Opens the folder that a file will lie in, and makes what is missing on the way.
    fn make_parent<'a>(
        &self,
        (holder, payer): (Holder, Payer),
        path: &'a FilePath,
    ) -> Result<(Dir, &'a str), FilesError> {
        let failed = FilesError::io("make a folder");
        let words = path.to_string();
        let vanished = || FilesError::Internal("a folder vanished");
        let top = holder.folder();
        let mut dir = match enter(&self.root.dir, &top, &words)? {
            Some(dir) => dir,
            None => self.make_workspace(&top)?,
        };
        lock(&self.payers).insert(holder, payer.account);
        let (folders, name) = path.split();
        let mut missing = folders;
        while let Some((folder, rest)) = missing.split_first()
            && let Some(next) = enter(&dir, folder, &words)?
        {
            (dir, missing) = (next, rest);
        }
        // All of them have room before the first is made: what is refused leaves none behind.
        let room = Used {
            bytes: 0,
            entries: 1,
        };
        let rooms = missing.iter().map(|_| self.usage.reserve(payer, room));
        let rooms: Vec<_> = rooms.collect::<Result<_, _>>()?;
        for (folder, reservation) in missing.iter().zip(rooms) {
            dir.create_dir(&**folder).map_err(&failed)?;
            reservation.keep();
            sync(&dir)?;
            dir = enter(&dir, folder, &words)?.ok_or_else(vanished)?;
        }
        Ok((dir, name))
    }

    /// Makes a workspace with its folders.
    fn make_workspace(&self, name: &str) -> Result<Dir, FilesError> {
        let failed = FilesError::io("make a workspace");
        self.root.dir.create_dir(name).map_err(&failed)?;
        let dir = self.root.dir.open_dir(name).map_err(&failed)?;
        for folder in FOLDERS {
            dir.create_dir(folder).map_err(&failed)?;
        }
        sync(&dir)?;
        sync(&self.root.dir)?;
        Ok(dir)
    }

    /// Grows a file that is there.
    fn append(&self, dir: &Dir, payer: Payer, file: &WriteFile<'_>) -> Result<u64, FilesError> {
        let (_, name) = file.path.split();
        let mut options = OpenOptions::new();
        options.append(true);
        let (mut opened, found) = open_regular(dir, name, &options, &file.path.to_string())?;
        let bytes = len_of(file.data);
        let room = Used { bytes, entries: 0 };
        let reservation = self.usage.reserve(payer, room)?;
        let written = opened.write_all(file.data).and_then(|()| opened.sync_all());
        if let Err(error) = written {
            // Half of it is not what was asked for.
            if opened.set_len(found.len()).is_err() {
                tracing::warn!("an append that failed could not be taken back");
            }
            return Err(FilesError::io("append to a file")(error));
        }
        reservation.keep();
        Ok(found.len() + bytes)
    }
}

/// Returns the folders of all holders.
fn holders(root: &Root) -> Result<Vec<(Holder, Dir)>, FilesError> {
    let failed = FilesError::io("read the folder of workspaces");
    let mut found = Vec::new();
    for entry in root.dir.entries().map_err(&failed)? {
        let name = entry.map_err(&failed)?.file_name();
        let Some(holder) = name.to_str().and_then(Holder::of_folder) else {
            continue;
        };
        if let Some(dir) = enter_found(&root.dir, &holder.folder())? {
            found.push((holder, dir));
        }
    }
    Ok(found)
}

/// Adds the files of a folder that were asked for.
fn walk(
    dir: &Dir,
    parts: &mut Vec<Box<str>>,
    wanted: &ListFiles,
    found: &mut Files,
) -> Result<(), FilesError> {
    let failed = FilesError::io("list files");
    let mut entries = Vec::new();
    for entry in dir.entries().map_err(&failed)? {
        let entry = entry.map_err(&failed)?;
        let kind = entry.file_type().map_err(&failed)?;
        let name = entry.file_name().into_string().unwrap_or_default();
        // What no path can name is left out, and so are links.
        if FilePath::parse(&name).is_ok() && (kind.is_file() || kind.is_dir()) {
            entries.push((name.into_boxed_str(), kind.is_dir()));
        }
    }
    entries.sort_unstable();
    for (name, is_dir) in entries {
        parts.push(name);
        let path = parts.join("/");
        if is_dir {
            let is_named = parts.len() < super::path::SEGMENTS_MAX;
            let inner = match wanted.recursive && is_named {
                true => enter(dir, &parts[parts.len() - 1], &path)?,
                false => None,
            };
            if let Some(inner) = inner {
                walk(&inner, parts, wanted, found)?;
            }
        } else if let Ok(path) = FilePath::parse(&path) {
            found.total += 1;
            let is_after = wanted.after.as_ref().is_none_or(|after| *after < path);
            if is_after && found.files.len() < wanted.limit {
                found.files.extend(info_of(dir, path)?);
            }
        }
        parts.pop();
    }
    Ok(())
}

/// Returns what lists say of a file; `None` where it is gone meanwhile.
fn info_of(dir: &Dir, path: FilePath) -> Result<Option<FileInfo>, FilesError> {
    let (_, name) = path.split();
    let Some(found) = look(dir, name)? else {
        return Ok(None);
    };
    let modified = found.modified().map_err(FilesError::io("look at a file"))?;
    Ok(Some(FileInfo {
        size: found.len(),
        modified: modified.into_std(),
        path,
    }))
}

fn len_of(data: &[u8]) -> u64 {
    u64::try_from(data.len()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
