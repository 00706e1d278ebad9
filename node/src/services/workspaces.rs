//! Files for async callers: workspaces, and artifacts that come in and go out as streams.
//!
//! The stores block, so they work behind a [`Gate`]; an upload has a blocking thread of its own for
//! as long as it takes, of which there are only so many. Whose files are meant is decided by
//! whoever asks here.

use std::{
    fs::File,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinHandle,
};
use ulid::Ulid;

use super::{
    gate::{Gate, GateError},
    shares::Shares,
};
use crate::{
    accounts::{new_id, unix_ms},
    data_dir,
    workspaces::{
        Artifact, ArtifactDraft, ArtifactStore, ArtifactWriter, FilePath, Files, FilesError,
        Holder, ListFiles, Payer, Piece, Usage, Used, WorkspaceStore, WriteFile,
    },
};

/// Uses of the disk at once.
const USES_MAX: usize = 4;
/// Uses that wait: as many as there are connections in the default configuration.
const USES_WAITING_MAX: usize = 512;
/// Artifacts that are stored at once; each has a thread.
const UPLOADS_MAX: usize = 16;
/// Artifacts of one account that are stored at once.
const SHARE_MAX: usize = 6;
/// Pieces of an upload that wait for the disk.
const UPLOAD_PIECES_MAX: usize = 8;
/// When to ask again where uploads have no place.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// The files of this node; clones share them.
#[derive(Debug, Clone)]
pub struct WorkspaceService {
    workspaces: WorkspaceStore,
    artifacts: ArtifactStore,
    usage: Arc<Usage>,
    using: Gate,
    uploading: Arc<Semaphore>,
    shares: Shares,
    artifact_bytes_max: u64,
}

/// An artifact that is coming in; nothing of it stays when dropped.
#[derive(Debug)]
pub struct Upload {
    steps: mpsc::Sender<Step>,
    storing: JoinHandle<Result<Arc<Artifact>, FilesError>>,
}

#[derive(Debug)]
enum Step {
    Bytes(Bytes),
    Finish(ArtifactDraft),
}

impl WorkspaceService {
    /// Opens the files of a data directory; `owner_of` says which account an agent belongs to.
    /// Blocks.
    ///
    /// # Errors
    /// The disk cannot be read or written.
    pub fn open(
        data_dir: &Path,
        artifact_bytes_max: u64,
        owner_of: impl Fn(u128) -> Option<u128>,
    ) -> Result<Self, FilesError> {
        let usage = Arc::new(Usage::default());
        let workspaces = data_dir::workspaces_path(data_dir);
        let artifacts = data_dir::artifacts_path(data_dir);
        Ok(Self {
            workspaces: WorkspaceStore::open(&workspaces, Arc::clone(&usage), owner_of)?,
            artifacts: ArtifactStore::open(&artifacts, Arc::clone(&usage))?,
            usage,
            using: Gate::new(USES_MAX, USES_WAITING_MAX),
            uploading: Arc::new(Semaphore::new(UPLOADS_MAX)),
            shares: Shares::new(SHARE_MAX),
            artifact_bytes_max,
        })
    }

    /// Returns what an account's files take.
    pub fn used(&self, account: u128) -> Used {
        self.usage.of(account)
    }

    /// Writes a file, and returns how large it is then.
    ///
    /// # Errors
    /// The store's.
    pub async fn write(
        &self,
        whose: (Holder, Payer),
        path: FilePath,
        (data, append): (Vec<u8>, bool),
    ) -> Result<u64, FilesError> {
        let workspaces = self.workspaces.clone();
        self.run(move || {
            let file = WriteFile {
                path: &path,
                data: &data,
                append,
            };
            workspaces.write(whose, &file)
        })
        .await
    }

    /// Reads a part of a file: from a place on, and at most so many bytes.
    ///
    /// # Errors
    /// The store's.
    pub async fn read(
        &self,
        holder: Holder,
        path: FilePath,
        part: (u64, u64),
    ) -> Result<Piece, FilesError> {
        let workspaces = self.workspaces.clone();
        self.run(move || workspaces.read(holder, &path, part)).await
    }

    /// Opens a file for reading, and returns how large it is.
    ///
    /// # Errors
    /// The store's.
    pub async fn open_file(
        &self,
        holder: Holder,
        path: FilePath,
    ) -> Result<(File, u64), FilesError> {
        let workspaces = self.workspaces.clone();
        self.run(move || workspaces.open_file(holder, &path)).await
    }

    /// Lists files.
    ///
    /// # Errors
    /// The store's.
    pub async fn list(&self, holder: Holder, wanted: ListFiles) -> Result<Files, FilesError> {
        let workspaces = self.workspaces.clone();
        self.run(move || workspaces.list(holder, &wanted)).await
    }

    /// Removes a file.
    ///
    /// # Errors
    /// The store's.
    pub async fn delete(&self, holder: Holder, path: FilePath) -> Result<(), FilesError> {
        let workspaces = self.workspaces.clone();
        self.run(move || workspaces.delete(holder, &path)).await
    }

    /// Leaves nothing of a holder's files. Blocks.
    ///
    /// # Errors
    /// The disk fails; then it can be asked for again.
    pub fn remove(&self, holder: Holder) -> Result<(), FilesError> {
        self.workspaces.remove(holder)?;
        self.artifacts.remove(holder)
    }

    /// Begins an artifact, of which so many bytes are announced, or none.
    ///
    /// # Errors
    /// Too many come in already, there is no room for one more, or the disk fails.
    pub async fn upload(
        &self,
        whose: (Holder, Payer),
        announced: u64,
    ) -> Result<Upload, FilesError> {
        let full = || FilesError::Overloaded {
            retry_after: RETRY_AFTER,
        };
        let share = self.shares.take(whose.1.account).ok_or_else(full)?;
        let place = Arc::clone(&self.uploading).try_acquire_owned();
        let place = place.map_err(|_none_left| full())?;
        let (artifacts, bytes) = (self.artifacts.clone(), (announced, self.artifact_bytes_max));
        let writer = self.run(move || artifacts.begin(whose, bytes)).await?;
        let (steps, coming) = mpsc::channel(UPLOAD_PIECES_MAX);
        let storing = tokio::task::spawn_blocking(move || {
            let stored = store(writer, coming);
            drop((place, share));
            stored
        });
        Ok(Upload { steps, storing })
    }

    /// Returns an artifact.
    pub fn artifact(&self, id: Ulid) -> Option<Arc<Artifact>> {
        self.artifacts.get(id)
    }

    /// Returns at most `limit` artifacts of an account that come after one of them.
    pub fn artifacts(
        &self,
        account: u128,
        after: Option<Ulid>,
        limit: usize,
    ) -> Vec<Arc<Artifact>> {
        self.artifacts.list(account, after, limit)
    }

    /// Opens an artifact's bytes.
    ///
    /// # Errors
    /// The store's.
    pub async fn open_artifact(&self, artifact: Arc<Artifact>) -> Result<File, FilesError> {
        let artifacts = self.artifacts.clone();
        self.run(move || artifacts.open_bytes(&artifact)).await
    }

    /// Returns what was said of an artifact when it was stored.
    ///
    /// # Errors
    /// The store's.
    pub async fn artifact_metadata(
        &self,
        artifact: Arc<Artifact>,
    ) -> Result<serde_json::Map<String, serde_json::Value>, FilesError> {
        let artifacts = self.artifacts.clone();
        self.run(move || artifacts.metadata(&artifact)).await
    }

    /// Removes an artifact.
    ///
    /// # Errors
    /// The store's.
    pub async fn delete_artifact(&self, artifact: Arc<Artifact>) -> Result<(), FilesError> {
        let artifacts = self.artifacts.clone();
        self.run(move || artifacts.delete(&artifact)).await
    }

    /// Reads on in a file, on a thread that may block; nothing more is the end.
    ///
    /// # Errors
    /// Too many wait, or the disk fails.
    pub async fn read_on(
        &self,
        mut file: File,
        bytes_max: usize,
    ) -> Result<(File, Vec<u8>), FilesError> {
        self.run(move || {
            use std::io::Read;
            let mut bytes = vec![0; bytes_max];
            let len = file.read(&mut bytes).map_err(|error| FilesError::Io {
                what: "read a file",
                message: error.to_string(),
            })?;
            bytes.truncate(len);
            Ok((file, bytes))
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, FilesError> + Send + 'static,
    ) -> Result<T, FilesError> {
        self.using.run(work).await.map_err(gate_error)?
    }
}

impl Upload {
    /// Adds bytes.
    ///
    /// # Errors
    /// The store's.
    pub async fn push(&mut self, bytes: Bytes) -> Result<(), FilesError> {
        match self.steps.send(Step::Bytes(bytes)).await {
            Ok(()) => Ok(()),
            Err(_) => self.outcome().await.map(|_| ()),
        }
    }

    /// Has the artifact be there.
    ///
    /// # Errors
    /// The store's.
    pub async fn finish(mut self, draft: ArtifactDraft) -> Result<Arc<Artifact>, FilesError> {
        // Where the other end is gone, its outcome says why.
        let _ = self.steps.send(Step::Finish(draft)).await;
        self.outcome().await
    }

    async fn outcome(&mut self) -> Result<Arc<Artifact>, FilesError> {
        let stored = (&mut self.storing).await;
        stored.map_err(|_| FilesError::Internal("storing an artifact panicked"))?
    }
}

/// Takes an upload's pieces until it is told that this was all.
fn store(
    mut writer: ArtifactWriter,
    mut steps: mpsc::Receiver<Step>,
) -> Result<Arc<Artifact>, FilesError> {
    while let Some(step) = steps.blocking_recv() {
        match step {
            Step::Bytes(bytes) => writer.write(&bytes)?,
            Step::Finish(draft) => {
                let now = SystemTime::now();
                let id = new_id(now).map_err(|_| FilesError::Internal("there is no randomness"))?;
                return writer.finish((id, unix_ms(now)), draft);
            }
        }
    }
    // Nobody asks for this: the sender is gone.
    Err(FilesError::Internal("an upload was cut off"))
}

fn gate_error(error: GateError) -> FilesError {
    match error {
        GateError::Full { retry_after } => FilesError::Overloaded { retry_after },
        GateError::Panicked => FilesError::Internal("work on a file panicked"),
    }
}
