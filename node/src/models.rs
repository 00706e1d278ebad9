//! The model store: which GGUF files this node has, under which names.
//!
//! `DIR/models/` holds the files, named by their SHA-256, and `manifest.json`, which maps names to
//! them and is replaced as a whole. Files given on the command line are used where they lie and
//! are known to this process only. Nothing becomes known before its header is checked and its
//! checksum is computed, so a name in the manifest stands for a whole file.
//!
//! One process writes the directory at a time: the holder of the data directory's lock.

pub mod catalogue;
pub mod download;
pub mod error;
pub mod import;
pub mod manifest;
pub mod package;
mod packages;
pub mod pull;
mod sentence;
pub mod serve;
pub mod source;
mod unpack;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::SystemTime,
};

use aither_protocol::limits::MODEL_NAME_BYTES_MAX;
use serde::{Deserialize, Serialize};

pub use self::{
    download::DownloadLimits,
    error::ModelStoreError,
    manifest::{Manifest, StoredModel},
};
use crate::files::FileError;

/// Entries of the store's directory: manifest, files and unfinished downloads.
const MANIFEST_FILE: &str = "manifest.json";
const PARTIAL_DIRECTORY: &str = "partial";

/// One model that this node has.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelEntry {
    /// The name it is served under.
    pub name: String,
    /// The GGUF file.
    pub path: PathBuf,
    /// The file's size in bytes.
    pub size_bytes: u64,
    /// SHA-256 of the file in hexadecimal; empty while that of a file used in place is computed.
    pub sha256: String,
    /// Where it came from: a source as `pull` takes it, or `file:PATH`.
    pub source: String,
    /// When it was added.
    pub added_at: SystemTime,
}

/// How far a pull or an import is; serializes as one line of Ollama's `/api/pull`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullProgress {
    /// What is being done: `pulling manifest`, `downloading`, `verifying sha256 digest`, …
    pub status: String,
    /// Which file, as `sha256:…`, where the digest is known beforehand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Bytes in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Bytes done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed: Option<u64>,
}

impl PullProgress {
    /// A step without a count.
    pub fn step(status: impl Into<String>) -> Self {
        Self {
            status: status.into(),
            digest: None,
            total: None,
            completed: None,
        }
    }
}

/// A handle on the store; clones share it.
#[derive(Debug, Clone)]
pub struct ModelStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    limits: DownloadLimits,
    state: RwLock<State>,
    /// Sources that are being pulled.
    pulling: Mutex<HashSet<String>>,
}

#[derive(Debug, Default)]
struct State {
    manifest: Manifest,
    in_place: BTreeMap<String, ModelEntry>,
    /// When the operator chose what to serve: only these names are shown.
    chosen: Option<BTreeSet<String>>,
}

impl ModelStore {
    /// Opens the store below a data directory, making it if need be.
    ///
    /// # Errors
    /// The directory cannot be made, or the manifest is corrupt.
    pub fn open(data_dir: &Path, limits: DownloadLimits) -> Result<Self, ModelStoreError> {
        let directory = data_dir.join("models");
        fs::create_dir_all(&directory).map_err(FileError::write(&directory))?;
        let manifest = Manifest::load(&directory.join(MANIFEST_FILE))?;
        import::remove_leftovers(&directory);
        let store = Self {
            shared: Arc::new(Shared {
                directory,
                limits,
                state: RwLock::new(State {
                    manifest,
                    ..State::default()
                }),
                pulling: Mutex::default(),
            }),
        };
        for entry in store.list() {
            if let Some(problem) = store.problem_of(&entry) {
                tracing::warn!(model = entry.name, path = %entry.path.display(), "{problem}");
            }
        }
        Ok(store)
    }

    /// Returns the models served by this process, by name.
    pub fn list(&self) -> Vec<ModelEntry> {
        let state = self.read();
        let stored = state
            .manifest
            .models
            .iter()
            .filter(|(name, _)| !state.in_place.contains_key(*name))
            .map(|(name, stored)| self.entry_of(name, stored));
        let mut entries: Vec<_> = stored.chain(state.in_place.values().cloned()).collect();
        if let Some(chosen) = &state.chosen {
            entries.retain(|entry| chosen.contains(&entry.name));
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries
    }

    /// Returns one model by its exact name.
    pub fn get(&self, name: &str) -> Option<ModelEntry> {
        let state = self.read();
        if state
            .chosen
            .as_ref()
            .is_some_and(|chosen| !chosen.contains(name))
        {
            return None;
        }
        state.in_place.get(name).cloned().or_else(|| {
            let stored = state.manifest.models.get(name)?;
            Some(self.entry_of(name, stored))
        })
    }

    /// Makes a file known where it lies, for this process only.
    ///
    /// # Errors
    /// The name or the file is not acceptable.
    pub fn use_in_place(&self, name: &str, path: &Path) -> Result<ModelEntry, ModelStoreError> {
        check_name(name)?;
        let path = std::path::absolute(path).map_err(FileError::read(path))?;
        import::check_gguf(&path)?;
        let size_bytes = fs::metadata(&path).map_err(FileError::read(&path))?.len();
        let entry = ModelEntry {
            name: name.to_owned(),
            source: format!("file:{}", path.display()),
            path,
            size_bytes,
            sha256: String::new(),
            added_at: SystemTime::now(),
        };
        let mut state = self.write();
        state.in_place.insert(name.to_owned(), entry.clone());
        Ok(entry)
    }

    /// Records the checksum of a file used in place, once it is computed.
    pub fn set_in_place_sha256(&self, name: &str, sha256: String) {
        if let Some(entry) = self.write().in_place.get_mut(name) {
            entry.sha256 = sha256;
        }
    }

    /// Shows only these models from now on, and what is added later.
    pub fn choose(&self, names: impl IntoIterator<Item = String>) {
        self.write().chosen = Some(names.into_iter().collect());
    }

    /// Shows these too, where only some are shown.
    pub fn choose_too(&self, names: impl IntoIterator<Item = String>) {
        if let Some(chosen) = &mut self.write().chosen {
            chosen.extend(names);
        }
    }

    /// Forgets a model and deletes its file when no other name needs it. A file used in place is
    /// forgotten, not deleted. Returns whether the name was known.
    ///
    /// # Errors
    /// The manifest or the file cannot be written.
    pub fn remove(&self, name: &str) -> Result<bool, ModelStoreError> {
        let mut state = self.write();
        if state.in_place.remove(name).is_some() {
            return Ok(true);
        }
        let mut manifest = state.manifest.clone();
        let Some(removed) = manifest.models.remove(name) else {
            return Ok(false);
        };
        manifest.save(&self.manifest_path())?;
        let needed = manifest
            .models
            .values()
            .any(|other| other.sha256 == removed.sha256);
        state.manifest = manifest;
        drop(state);
        if !needed {
            let path = self.file_path(&removed.sha256);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(FileError::write(&path)(error).into());
                }
                _ => {}
            }
        }
        Ok(true)
    }

    /// Returns what is wrong with a stored model's file at first sight, in words.
    pub fn problem_of(&self, entry: &ModelEntry) -> Option<String> {
        match fs::metadata(&entry.path) {
            Err(error) => Some(format!(
                "the file of model {:?} cannot be read ({error}); remove the model and pull it \
                 again",
                entry.name
            )),
            Ok(metadata) if metadata.len() != entry.size_bytes => Some(format!(
                "the file of model {:?} has {} bytes instead of {}; remove the model and pull it \
                 again",
                entry.name,
                metadata.len(),
                entry.size_bytes
            )),
            Ok(_) => None,
        }
    }

    /// Enters a file that already lies in the store under its checksum.
    fn add(&self, name: &str, stored: StoredModel) -> Result<ModelEntry, ModelStoreError> {
        let mut state = self.write();
        let mut manifest = state.manifest.clone();
        let entry = self.entry_of(name, &stored);
        let replaced = manifest.models.insert(name.to_owned(), stored);
        manifest.save(&self.manifest_path())?;
        let orphan = replaced.filter(|old| {
            !manifest
                .models
                .values()
                .any(|other| other.sha256 == old.sha256)
        });
        state.manifest = manifest;
        state.in_place.remove(name);
        if let Some(chosen) = &mut state.chosen {
            chosen.insert(name.to_owned());
        }
        drop(state);
        if let Some(old) = orphan {
            // Only space is lost if this fails, and `check` finds it.
            let _ = fs::remove_file(self.file_path(&old.sha256));
        }
        Ok(entry)
    }

    fn entry_of(&self, name: &str, stored: &StoredModel) -> ModelEntry {
        ModelEntry {
            name: name.to_owned(),
            path: self.file_path(&stored.sha256),
            size_bytes: stored.size_bytes,
            sha256: stored.sha256.clone(),
            source: stored.source.clone(),
            added_at: stored.added_at,
        }
    }

    fn file_path(&self, sha256: &str) -> PathBuf {
        self.shared.directory.join(format!("sha256-{sha256}.gguf"))
    }

    fn manifest_path(&self) -> PathBuf {
        self.shared.directory.join(MANIFEST_FILE)
    }

    fn partial_directory(&self) -> PathBuf {
        self.shared.directory.join(PARTIAL_DIRECTORY)
    }

    // Every critical section leaves the state whole, so a panic elsewhere does not spoil it.
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.shared
            .state
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.shared
            .state
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn pulling(&self) -> MutexGuard<'_, HashSet<String>> {
        self.shared
            .pulling
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Checks that a name can stand in a URL, a manifest and a log line.
///
/// # Errors
/// [`ModelStoreError::InvalidName`].
pub fn check_name(name: &str) -> Result<(), ModelStoreError> {
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let ends_well = name.ends_with(|c: char| c.is_ascii_alphanumeric());
    let characters_fit = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"._-/:".contains(&byte));
    let parts_fit = !name.contains("..") && !name.contains("//") && name.matches(':').count() <= 1;
    if starts_well && ends_well && characters_fit && parts_fit && name.len() <= MODEL_NAME_BYTES_MAX
    {
        Ok(())
    } else {
        let name = name.chars().take(MODEL_NAME_BYTES_MAX).collect();
        Err(ModelStoreError::InvalidName { name })
    }
}

/// Returns the name that a file gets when nobody gives it one: its stem, in lower case.
///
/// # Errors
/// Nothing usable is left of the stem.
pub fn name_of_file(path: &Path) -> Result<String, ModelStoreError> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name: String = stem
        .chars()
        .map(|c| match c.to_ascii_lowercase() {
            c if c.is_ascii_alphanumeric() || "._-".contains(c) => c,
            _ => '-',
        })
        .collect();
    let name = name
        .trim_matches(|c: char| !c.is_ascii_alphanumeric())
        .to_owned();
    check_name(&name)?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_fit_a_url_are_accepted() {
        for name in ["a", "smollm2:135m", "hf.co/me/Model-1.5B_x:Q4_K_M", "0"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn names_that_could_harm_are_refused() {
        let long = "a".repeat(MODEL_NAME_BYTES_MAX + 1);
        let names = [
            "", ".", "..", "../a", "a/../b", "a//b", "/a", "a/", "-a", "a b", "a\n", "a:b:c", "é",
            "a=b", "a\0", &long,
        ];
        for name in names {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_file_is_named_by_its_stem() {
        let cases = [
            (
                "/x/SmolLM2-135M-Instruct.Q4_1.gguf",
                "smollm2-135m-instruct.q4_1",
            ),
            ("my model.gguf", "my-model"),
            ("(a).gguf", "a"),
        ];
        for (path, name) in cases {
            assert_eq!(name_of_file(Path::new(path)).unwrap(), name);
        }
        assert!(name_of_file(Path::new("….gguf")).is_err());
    }
}
