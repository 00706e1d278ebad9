//! From a source's name to an entry of the store.
//!
//! The steps: read the source, download (packages are found, fetched and unpacked by
//! `packages.rs`), check the header, move the file to its place, write the manifest. A pull that is
//! dropped or killed leaves at most an unfinished download, which the next one goes on with.

use std::{env, fs, time::SystemTime};

use sha2::{Digest, Sha256};

use super::{
    ModelEntry, ModelStore, ModelStoreError, PullProgress, StoredModel,
    download::{Download, Fetched},
    import::{check_gguf, hex, share},
    source::{Origin, PullPlan},
};
use crate::files::{self, FileError};

/// Digits of an unfinished download's name: enough that no two sources meet.
const KEY_DIGITS: usize = 24;

impl ModelStore {
    /// Fetches a model from the catalogue or a source and enters it.
    ///
    /// # Errors
    /// The source is unknown, cannot be fetched, or is no usable model.
    pub async fn pull(
        &self,
        source: &str,
        progress: impl FnMut(PullProgress) + Send,
    ) -> Result<ModelEntry, ModelStoreError> {
        self.pull_plan(PullPlan::parse(source)?, progress).await
    }

    /// As [`pull`](Self::pull), with a source that is read already.
    ///
    /// # Errors
    /// The source cannot be fetched, or is no usable model.
    pub async fn pull_plan(
        &self,
        plan: PullPlan,
        mut progress: impl FnMut(PullProgress) + Send,
    ) -> Result<ModelEntry, ModelStoreError> {
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
            Origin::Packages(packages) => {
                self.fetch_packages(&plan, packages, &mut progress).await?
            }
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

/// Names the files of an unfinished download.
pub(super) fn key_of(source: &str) -> String {
    let mut key = hex(&Sha256::digest(source.as_bytes()));
    key.truncate(KEY_DIGITS);
    key
}
