//! The registered models: which name means which file.
//!
//! Only headers are read here. A file is opened anew each time its weights or its vocabulary are
//! needed, and must then be the one that was registered: a model that changes under its name would
//! answer with another's vocabulary. The vocabulary is kept while anyone uses it, so a loaded model
//! goes on when its file is gone. Once nobody uses it, a file that took its place is registered
//! anew by the next request.

use std::{
    collections::BTreeMap,
    fs, io,
    path::Path,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use super::{ModelInfo, residency::ModelId, text_side::TextSide};
use crate::{
    error::{Error, Result},
    gguf::Gguf,
    kv_cache::{PAGE_LEN, device_capacity},
    model::Description,
};

/// All registered models by name.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    by_name: BTreeMap<String, Arc<Registered>>,
    last_id: u64,
}

/// One registration of one file.
#[derive(Debug)]
pub(super) struct Registered {
    pub(super) id: ModelId,
    pub(super) info: ModelInfo,
    stamp: FileStamp,
    cache_bytes_per_position: u64,
    text: Mutex<Weak<TextSide>>,
}

/// Tells whether a file is still the same.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FileStamp {
    len: u64,
    /// Inode, and time of the last change in seconds and nanoseconds, where the system has them.
    change: Option<(u64, i64, i64)>,
}

impl Catalogue {
    /// Adds a model; returns the registration that it replaces.
    pub(super) fn insert(
        &mut self,
        make: impl FnOnce(ModelId) -> Registered,
    ) -> (Arc<Registered>, Option<Arc<Registered>>) {
        self.last_id += 1;
        let registered = Arc::new(make(ModelId(self.last_id)));
        let name = registered.info.name.clone();
        let replaced = self.by_name.insert(name, Arc::clone(&registered));
        (registered, replaced)
    }

    /// Puts a new registration in the place of `outdated`, unless that has left already; returns
    /// what the name means now.
    pub(super) fn renew(
        &mut self,
        outdated: &Registered,
        make: impl FnOnce(ModelId) -> Registered,
    ) -> Result<Arc<Registered>> {
        let current = self.get(&outdated.info.name)?;
        if current.id != outdated.id {
            return Ok(current);
        }
        Ok(self.insert(make).0)
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<Arc<Registered>> {
        self.by_name.remove(name)
    }

    pub(super) fn get(&self, name: &str) -> Result<Arc<Registered>> {
        self.by_name
            .get(name)
            .cloned()
            .ok_or_else(|| Error::ModelNotFound {
                name: name.to_owned(),
            })
    }

    pub(super) fn models(&self) -> Vec<ModelInfo> {
        self.by_name
            .values()
            .map(|model| model.info.clone())
            .collect()
    }
}

impl Registered {
    /// Reads a file's header and checks that this build can run the model; returns what makes the
    /// registration once it has an id.
    pub(super) fn read(
        name: &str,
        path: &Path,
        context_length_max: usize,
        is_gpu: bool,
    ) -> Result<impl FnOnce(ModelId) -> Self + use<>> {
        let stamp = FileStamp::of(path)?;
        let gguf = Gguf::open(path)?;
        let file = gguf.info()?;
        let description = Description::from_gguf(&gguf)?;
        // Built to refuse now what would fail later, and dropped: many models may be registered
        // and few used.
        TextSide::from_gguf(&gguf)?;
        let to_len = |length: u64| usize::try_from(length).unwrap_or(usize::MAX);
        let info = ModelInfo {
            name: name.to_owned(),
            path: path.to_owned(),
            size_bytes: gguf.size_bytes(),
            architecture: file.architecture,
            title: file.title,
            parameters: file.parameters,
            quantization: file.quantization,
            context_length: to_len(file.context_length).min(context_length_max),
            embedding_length: to_len(file.embedding_length),
            chat_template: file.chat_template,
        };
        let cache_bytes_per_position = description.cache_bytes_per_position(is_gpu);
        Ok(move |id| Self {
            id,
            info,
            stamp,
            cache_bytes_per_position,
            text: Mutex::new(Weak::new()),
        })
    }

    /// Whether nobody uses this registration and its name now leads to another file.
    pub(super) fn is_outdated(&self) -> bool {
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        text.strong_count() == 0
            && FileStamp::of(&self.info.path).is_ok_and(|stamp| stamp != self.stamp)
    }

    /// Opens the file again.
    ///
    /// # Errors
    /// It is gone, or is not the one that was registered.
    pub(super) fn open(&self) -> Result<Gguf> {
        let path = &self.info.path;
        if FileStamp::of(path)? != self.stamp {
            return Err(Error::ModelFile {
                path: path.clone(),
                message: "the file changed while it was read; try again".into(),
            });
        }
        Gguf::open(path)
    }

    /// Returns the vocabulary and the chat template, from the file where nobody holds them.
    pub(super) fn text(&self) -> Result<Arc<TextSide>> {
        // Held while reading, so that concurrent first requests read once.
        let mut kept = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(text) = kept.upgrade() {
            return Ok(text);
        }
        let text = Arc::new(TextSide::from_gguf(&self.open()?)?);
        *kept = Arc::downgrade(&text);
        Ok(text)
    }

    /// Returns what loading the weights is expected to take: they are repacked about as large as
    /// they are stored, and small tensors grow to single precision.
    pub(super) fn expected_bytes(&self) -> u64 {
        self.info
            .size_bytes
            .saturating_add(self.info.size_bytes / 8)
    }

    /// Returns what the pages of so many sequences of that length take at most.
    pub(super) fn page_bytes(&self, positions: usize, sequences: usize) -> u64 {
        self.cache_bytes(positions.next_multiple_of(PAGE_LEN), sequences)
    }

    /// The same for sequences on a device, whose buffers double.
    pub(super) fn buffer_bytes(&self, positions: usize, sequences: usize) -> u64 {
        self.cache_bytes(device_capacity(positions), sequences)
    }

    fn cache_bytes(&self, positions: usize, sequences: usize) -> u64 {
        self.cache_bytes_per_position
            .saturating_mul(positions as u64)
            .saturating_mul(sequences as u64)
    }
}

impl FileStamp {
    fn of(path: &Path) -> Result<Self> {
        let failed = |error: io::Error| Error::ModelFile {
            path: path.to_owned(),
            message: error.to_string(),
        };
        let metadata = fs::metadata(path).map_err(failed)?;
        Ok(Self {
            len: metadata.len(),
            change: change_of(&metadata),
        })
    }
}

#[cfg(unix)]
fn change_of(metadata: &fs::Metadata) -> Option<(u64, i64, i64)> {
    use std::os::unix::fs::MetadataExt;
    Some((metadata.ino(), metadata.mtime(), metadata.mtime_nsec()))
}

#[cfg(not(unix))]
fn change_of(_metadata: &fs::Metadata) -> Option<(u64, i64, i64)> {
    None
}
