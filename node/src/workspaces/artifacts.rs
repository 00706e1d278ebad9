//! Artifacts: files that are kept by number, with what they are.
//!
//! Each is two files in a folder of whoever stored it: its bytes, and beside them a small one in
//! JSON that says what they are. The small one comes last and goes first, so an artifact is there
//! when it is; bytes without it are of an upload that was cut off. What requests need of all of
//! them is in memory.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    io::{self, Read},
    path::Path,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use cap_std::fs::{Dir, OpenOptions};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use ulid::Ulid;

use super::{
    FilesError, Holder, Payer, Usage, Used,
    folder::{Root, Unfinished, enter, enter_found, look, open_regular, sync},
    usage::Reservation,
};

/// Artifacts of a node: each takes some hundred bytes of memory.
pub const ARTIFACTS_MAX: usize = 200_000;
/// What one account may have of them is one part in so many.
const ACCOUNT_PARTS: usize = 8;
/// Holders who have left that are remembered: their uploads end within minutes.
const GONE_MAX: usize = 4096;
/// Ends the name of the file that says what an artifact is.
const ABOUT: &str = ".json";
/// Largest such file: bounded metadata and a few lines.
const ABOUT_BYTES_MAX: u64 = 64 << 10;

/// An artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// Its number.
    pub id: Ulid,
    /// Who stored it.
    pub holder: Holder,
    /// The account that pays for it.
    pub account: u128,
    /// Its bytes.
    pub size: u64,
    /// When it was stored, in milliseconds since 1970.
    pub made_ms: u64,
    /// SHA-256 of its bytes, in hex.
    pub sha256: Box<str>,
    /// What a file of it is called.
    pub name: Box<str>,
    /// Its media type.
    pub content_type: Box<str>,
    /// Whether all holders of keys may read it.
    pub public: bool,
}

/// What somebody says of an artifact that is to be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct ArtifactDraft {
    /// What a file of it is called.
    pub name: String,
    /// Its media type.
    pub content_type: String,
    /// Whether all holders of keys may read it.
    pub public: bool,
    /// What else was said; bounded by whoever read it.
    pub metadata: Map<String, Value>,
}

/// The small file.
#[derive(Debug, Serialize, Deserialize)]
struct About {
    account: String,
    size: u64,
    made_ms: u64,
    sha256: String,
    name: String,
    content_type: String,
    public: bool,
    metadata: Map<String, Value>,
}

/// The artifacts of a data directory; clones share them.
#[derive(Debug, Clone)]
pub struct ArtifactStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    root: Arc<Root>,
    usage: Arc<Usage>,
    known: RwLock<Known>,
    artifacts_max: usize,
}

#[derive(Debug, Default)]
struct Known {
    by_id: BTreeMap<Ulid, Arc<Artifact>>,
    by_account: BTreeSet<(u128, Ulid)>,
    /// Those that are being stored, which have a place already.
    coming: usize,
    /// Accounts → the places that they have, of both kinds.
    places: HashMap<u128, usize>,
    /// Holders who have left and may still have uploads under way.
    gone: VecDeque<Holder>,
}

/// An artifact that is being stored; nothing of it stays when dropped.
#[derive(Debug)]
pub struct ArtifactWriter {
    store: ArtifactStore,
    unfinished: Unfinished,
    reservation: Reservation,
    holder: Holder,
    payer: Payer,
    bytes_max: u64,
    /// Bytes that have room already.
    roomed: u64,
    size: u64,
    hash: Sha256,
    _place: ComingPlace,
}

/// A place among those that are being stored.
#[derive(Debug)]
struct ComingPlace(ArtifactStore, u128);

impl ArtifactStore {
    /// Opens the artifacts at `path`. Blocks.
    ///
    /// # Errors
    /// The disk cannot be read or written.
    pub fn open(path: &Path, usage: Arc<Usage>) -> Result<Self, FilesError> {
        Self::open_for(path, usage, ARTIFACTS_MAX)
    }

    /// As [`open`](Self::open), for so many artifacts.
    pub(super) fn open_for(
        path: &Path,
        usage: Arc<Usage>,
        artifacts_max: usize,
    ) -> Result<Self, FilesError> {
        let root = Root::open(path)?;
        let mut known = Known::default();
        for (holder, dir) in folders(&root)? {
            for artifact in read_folder(holder, &dir)? {
                usage.count(artifact.account, used_by(&artifact));
                known.add(Arc::new(artifact));
            }
        }
        Ok(Self {
            shared: Arc::new(Shared {
                root,
                usage,
                known: RwLock::new(known),
                artifacts_max,
            }),
        })
    }

    /// Reads every artifact at `path` and compares its checksum. Returns how many there are.
    ///
    /// # Errors
    /// One is damaged, or the disk cannot be read.
    pub fn check(path: &Path) -> Result<usize, FilesError> {
        let store = Self::open(path, Arc::new(Usage::default()))?;
        let artifacts: Vec<_> = store.read_known().by_id.values().cloned().collect();
        for artifact in &artifacts {
            let mut file = store.open_bytes(artifact)?;
            let mut hash = Sha256::new();
            let mut buffer = vec![0; 1 << 20];
            loop {
                let len = file.read(&mut buffer);
                let len = len.map_err(FilesError::io("read an artifact"))?;
                if len == 0 {
                    break;
                }
                hash.update(&buffer[..len]);
            }
            if hex(hash) != *artifact.sha256 {
                return Err(FilesError::Damaged {
                    id: artifact.id.to_string(),
                });
            }
        }
        Ok(artifacts.len())
    }

    /// Begins an artifact of at most `bytes_max`. Where it is `announced` how many bytes will come,
    /// they have room from the beginning: of two that do not both fit one is refused at once, in
    /// the stead of both in their midst.
    ///
    /// # Errors
    /// There is no room for one more, or the disk fails.
    pub fn begin(
        &self,
        (holder, payer): (Holder, Payer),
        (announced, bytes_max): (u64, u64),
    ) -> Result<ArtifactWriter, FilesError> {
        let roomed = announced.min(bytes_max);
        let mut known = self.write_known();
        let (all_max, account) = (self.shared.artifacts_max, payer.account);
        if all_max <= known.by_id.len() + known.coming {
            return Err(FilesError::TooMany(all_max));
        }
        let account_max = (all_max / ACCOUNT_PARTS).max(1);
        let places = known.places.entry(account).or_default();
        if account_max <= *places {
            return Err(FilesError::TooManyOfAccount(account_max));
        }
        *places += 1;
        known.coming += 1;
        drop(known);
        let place = ComingPlace(self.clone(), account);
        // Two files.
        let room = Used {
            bytes: roomed,
            entries: 2,
        };
        Ok(ArtifactWriter {
            reservation: self.shared.usage.reserve(payer, room)?,
            unfinished: self.shared.root.begin()?,
            store: self.clone(),
            holder,
            payer,
            bytes_max,
            roomed,
            size: 0,
            hash: Sha256::new(),
            _place: place,
        })
    }

    /// Returns an artifact.
    pub fn get(&self, id: Ulid) -> Option<Arc<Artifact>> {
        self.read_known().by_id.get(&id).cloned()
    }

    /// Returns at most `limit` artifacts of an account that come after one of them.
    pub fn list(&self, account: u128, after: Option<Ulid>, limit: usize) -> Vec<Arc<Artifact>> {
        let known = self.read_known();
        let from = match after.map(|after| after.increment()) {
            None => Ulid::nil(),
            Some(Ok(from)) => from,
            // Nothing comes after the last number there is.
            Some(Err(_)) => return Vec::new(),
        };
        let ids = known.by_account.range((account, from)..);
        let own = ids.take_while(|(owner, _)| *owner == account).take(limit);
        let found = own.filter_map(|(_, id)| known.by_id.get(id));
        found.cloned().collect()
    }

    /// Opens an artifact's bytes.
    ///
    /// # Errors
    /// They are not there, or the disk fails.
    pub fn open_bytes(&self, artifact: &Artifact) -> Result<std::fs::File, FilesError> {
        let name = artifact.id.to_string();
        let dir = self.folder_of(artifact)?;
        let mut options = OpenOptions::new();
        options.read(true);
        let (file, _) = open_regular(&dir, &name, &options, &name)?;
        Ok(file.into_std())
    }

    /// Returns what was said of an artifact when it was stored.
    ///
    /// # Errors
    /// It is not there, or the disk fails.
    pub fn metadata(&self, artifact: &Artifact) -> Result<Map<String, Value>, FilesError> {
        let about = read_about(&self.folder_of(artifact)?, artifact.id)?;
        Ok(about.map(|about| about.metadata).unwrap_or_default())
    }

    /// Removes an artifact.
    ///
    /// # Errors
    /// It is not there, or the disk fails.
    pub fn delete(&self, artifact: &Artifact) -> Result<(), FilesError> {
        let failed = FilesError::io("remove an artifact");
        let dir = self.folder_of(artifact)?;
        let mut known = self.write_known();
        if !known.forget(artifact) {
            return Err(FilesError::UnknownArtifact(artifact.id.to_string()));
        }
        drop(known);
        self.shared
            .usage
            .release(artifact.account, used_by(artifact));
        let name = artifact.id.to_string();
        dir.remove_file(format!("{name}{ABOUT}")).map_err(&failed)?;
        sync(&dir)?;
        dir.remove_file(name).map_err(&failed)
    }

    /// Leaves nothing of what a holder stored.
    ///
    /// # Errors
    /// The disk fails; then it can be asked for again.
    pub fn remove(&self, holder: Holder) -> Result<(), FilesError> {
        let mut known = self.write_known();
        if known.gone.len() == GONE_MAX {
            known.gone.pop_front();
        }
        known.gone.push_back(holder);
        let all = known.by_id.values();
        let own: Vec<_> = all
            .filter(|known| known.holder == holder)
            .cloned()
            .collect();
        for artifact in &own {
            known.forget(artifact);
        }
        drop(known);
        for artifact in own {
            self.shared
                .usage
                .release(artifact.account, used_by(&artifact));
        }
        self.shared.root.remove(&holder.folder(), |_| false)?;
        Ok(())
    }

    fn folder_of(&self, artifact: &Artifact) -> Result<Dir, FilesError> {
        let name = artifact.holder.folder();
        let dir = enter(&self.shared.root.dir, &name, &name)?;
        dir.ok_or_else(|| FilesError::UnknownArtifact(artifact.id.to_string()))
    }

    fn read_known(&self) -> RwLockReadGuard<'_, Known> {
        let known = self.shared.known.read();
        known.unwrap_or_else(PoisonError::into_inner)
    }

    fn write_known(&self) -> RwLockWriteGuard<'_, Known> {
        let known = self.shared.known.write();
        known.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ComingPlace {
    fn drop(&mut self) {
        let mut known = self.0.write_known();
        known.coming = known.coming.saturating_sub(1);
        known.leave(self.1);
    }
}

impl ArtifactWriter {
    /// Writes more of its bytes.
    ///
    /// # Errors
    /// It is larger than it may be, there is no room, or the disk fails.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FilesError> {
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if self.bytes_max.saturating_sub(self.size) < len {
            let bytes_max = self.bytes_max;
            return Err(FilesError::TooLarge { bytes_max });
        }
        let size = self.size + len;
        if self.roomed < size {
            self.reservation.grow(Used {
                bytes: size - self.roomed,
                entries: 0,
            })?;
            self.roomed = size;
        }
        self.unfinished.write(bytes)?;
        self.hash.update(bytes);
        self.size = size;
        Ok(())
    }

    /// Has it be there; it is durable when this returns.
    ///
    /// # Errors
    /// The disk fails.
    pub fn finish(
        self,
        (id, made_ms): (Ulid, u64),
        draft: ArtifactDraft,
    ) -> Result<Arc<Artifact>, FilesError> {
        let artifact = Arc::new(Artifact {
            id,
            holder: self.holder,
            account: self.payer.account,
            size: self.size,
            made_ms,
            sha256: hex(self.hash).into(),
            name: draft.name.as_str().into(),
            content_type: draft.content_type.as_str().into(),
            public: draft.public,
        });
        let about = About {
            account: Ulid(artifact.account).to_string(),
            size: artifact.size,
            made_ms,
            sha256: artifact.sha256.to_string(),
            name: draft.name,
            content_type: draft.content_type,
            public: draft.public,
            metadata: draft.metadata,
        };
        let root = &self.store.shared.root;
        let dir = folder_for(root, self.holder)?;
        let json = serde_json::to_vec(&about)
            .map_err(|_| FilesError::Internal("what is said of an artifact is no JSON"))?;
        let mut small = root.begin()?;
        small.write(&json)?;
        small.sync()?;
        self.unfinished.sync()?;
        let name = id.to_string();
        self.unfinished.move_to(&dir, &name)?;
        if let Err(error) = small.move_to(&dir, &format!("{name}{ABOUT}")) {
            // The next start removes it otherwise.
            let _ = dir.remove_file(&name);
            return Err(error);
        }
        let mut known = self.store.write_known();
        if known.gone.contains(&artifact.holder) {
            drop(known);
            root.remove(&artifact.holder.folder(), |_| false)?;
            return Err(FilesError::Gone);
        }
        known.add(Arc::clone(&artifact));
        self.reservation.keep();
        drop(known);
        let spare = Used {
            bytes: self.roomed - self.size,
            entries: 0,
        };
        self.store.shared.usage.release(artifact.account, spare);
        Ok(artifact)
    }
}

impl Known {
    fn add(&mut self, artifact: Arc<Artifact>) {
        self.by_account.insert((artifact.account, artifact.id));
        *self.places.entry(artifact.account).or_default() += 1;
        self.by_id.insert(artifact.id, artifact);
    }

    fn forget(&mut self, artifact: &Artifact) -> bool {
        if self.by_account.remove(&(artifact.account, artifact.id)) {
            self.leave(artifact.account);
        }
        self.by_id.remove(&artifact.id).is_some()
    }

    /// Gives back a place of an account's.
    fn leave(&mut self, account: u128) {
        if let Some(places) = self.places.get_mut(&account) {
            *places = places.saturating_sub(1);
            if *places == 0 {
                self.places.remove(&account);
            }
        }
    }
}

fn used_by(artifact: &Artifact) -> Used {
    Used {
        bytes: artifact.size,
        entries: 2,
    }
}

fn folders(root: &Root) -> Result<Vec<(Holder, Dir)>, FilesError> {
    let failed = FilesError::io("read the folder of artifacts");
    let mut found = Vec::new();
    for entry in root.dir.entries().map_err(&failed)? {
        let name = entry.map_err(&failed)?.file_name();
        let name = name.to_string_lossy();
        if let Some(holder) = Holder::of_folder(&name)
            && let Some(dir) = enter_found(&root.dir, &name)?
        {
            found.push((holder, dir));
        }
    }
    Ok(found)
}

/// Opens the folder of a holder, and makes it if need be.
fn folder_for(root: &Root, holder: Holder) -> Result<Dir, FilesError> {
    let name = holder.folder();
    if let Some(dir) = enter(&root.dir, &name, &name)? {
        return Ok(dir);
    }
    match root.dir.create_dir(&name) {
        // Another upload was first.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(FilesError::io("make a folder")(error));
        }
        _ => sync(&root.dir)?,
    }
    let dir = enter(&root.dir, &name, &name)?;
    dir.ok_or(FilesError::Internal("a folder vanished"))
}

/// Reads what is said of each artifact in a folder, and removes bytes of which nothing is said.
fn read_folder(holder: Holder, dir: &Dir) -> Result<Vec<Artifact>, FilesError> {
    let failed = FilesError::io("read a folder of artifacts");
    let mut found = Vec::new();
    for entry in dir.entries().map_err(&failed)? {
        let name = entry.map_err(&failed)?.file_name();
        let name = name.to_string_lossy();
        let Ok(id) = Ulid::from_string(&name) else {
            continue;
        };
        if look(dir, &format!("{id}{ABOUT}"))?.is_none() {
            // An upload that a crash cut off between its two files.
            if let Err(error) = dir.remove_file(&*name) {
                tracing::warn!(%id, %error, "what is left of an upload cannot be removed");
            }
            continue;
        }
        match read_about(dir, id) {
            Ok(Some(about)) => found.extend(about.artifact(holder, id)),
            Ok(None) => tracing::warn!(%id, "what is said of an artifact cannot be read"),
            // One that somebody has put there by hand does not keep the node from starting.
            Err(error @ FilesError::Unfit { .. }) => {
                tracing::warn!(%id, %error, "an artifact is left out");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn read_about(dir: &Dir, id: Ulid) -> Result<Option<About>, FilesError> {
    let name = format!("{id}{ABOUT}");
    let mut options = OpenOptions::new();
    options.read(true);
    let (file, _) = open_regular(dir, &name, &options, &name)?;
    let mut json = Vec::new();
    let read = file.take(ABOUT_BYTES_MAX).read_to_end(&mut json);
    read.map_err(FilesError::io("read what is said of an artifact"))?;
    Ok(serde_json::from_slice(&json).ok())
}

impl About {
    fn artifact(self, holder: Holder, id: Ulid) -> Option<Artifact> {
        Some(Artifact {
            id,
            holder,
            account: Ulid::from_string(&self.account).ok()?.0,
            size: self.size,
            made_ms: self.made_ms,
            sha256: self.sha256.into(),
            name: self.name.into(),
            content_type: self.content_type.into(),
            public: self.public,
        })
    }
}

fn hex(hash: Sha256) -> String {
    let digest = hash.finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
