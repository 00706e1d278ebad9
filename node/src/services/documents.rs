//! Documents for async callers: each is read by a process that is started for it and ended.
//!
//! The process bounds itself ([`crate::documents::child`]); here are the bounds that it cannot be
//! trusted with: how many there are at once, how long one may take by the clock, and how much of
//! what it says is read. Whoever asked and has gone takes the process with them.

use std::{
    fs::File,
    io::{self, Read, Seek},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::shares::{Share, Shares};
use crate::documents::{DocumentFault, Extracted, Format, HEAD_BYTES, Unknown, child::Outcome};

/// Documents that are read at once: one keeps a core busy, and may take a gibibyte.
const READING_MAX: usize = 2;
/// Documents that wait for that, the bodies of which may lie on the disk already.
const WAITING_MAX: usize = 16;
/// Documents of one account that are read or wait.
const SHARE_MAX: usize = 6;
/// Longest time for one, by the clock. Its reader ends itself after less time on a core.
const WALL_TIME_MAX: Duration = Duration::from_secs(15);
/// What is read of what a reader says: its longest text with every character escaped, and the rest.
const OUTPUT_BYTES_MAX: u64 = 24 << 20;
/// What is read of a reader's last words.
const LAST_WORDS_BYTES_MAX: u64 = 4 << 10;
/// When to ask again where too many wait.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// The signal for time on a core that is used up.
const SIGXCPU: i32 = 24;
/// The signal that nothing survives.
const SIGKILL: i32 = 9;
/// The program that runs, also after its file was replaced by a newer one.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// Why a document was not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// It has no format that is read.
    #[error(transparent)]
    Unknown(#[from] Unknown),
    /// It cannot be read.
    #[error(transparent)]
    Fault(#[from] DocumentFault),
    /// It is larger than any that is read.
    #[error("the document is larger than {bytes_max} bytes")]
    TooLarge {
        /// The bound.
        bytes_max: u64,
    },
    /// Too many wait already.
    #[error("too many documents are being read; try again in a moment")]
    Overloaded {
        /// When to ask again.
        retry_after: Duration,
    },
    /// The disk, or the system, refuses.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Its words.
        source: io::Error,
    },
    /// The reader ended as it never should: a defect.
    #[error("a reader of documents ended with {0}")]
    Internal(String),
}

/// Reads documents; clones share its bounds.
#[derive(Debug, Clone)]
pub struct DocumentService {
    program: PathBuf,
    /// Where bodies lie until they are read. They have no name there.
    folder: PathBuf,
    bytes_max: u64,
    reading: Arc<Semaphore>,
    present: Arc<Semaphore>,
    shares: Shares,
}

/// The right to have a document read, as soon as it is its turn.
#[derive(Debug)]
pub struct DocumentPlace {
    _permit: OwnedSemaphorePermit,
    _share: Share,
}

/// A document on its way to being read.
#[derive(Debug)]
pub struct Spool {
    file: tokio::fs::File,
    len: u64,
    bytes_max: u64,
}

/// A reader that runs; ended when dropped.
#[derive(Debug)]
struct Reader {
    process: Arc<Mutex<Child>>,
    _places: (DocumentPlace, OwnedSemaphorePermit),
}

/// What is left of a reader that has ended.
struct Remains {
    output: Vec<u8>,
    last_words: String,
}

impl DocumentService {
    /// A service that starts this program and keeps bodies in `folder` meanwhile.
    pub fn new(folder: &Path, bytes_max: u64) -> Self {
        let own = PathBuf::from(OWN_PROGRAM);
        let program = match own.exists() {
            true => own,
            // Systems without it.
            false => std::env::current_exe().unwrap_or(own),
        };
        Self::with_program(program, folder, bytes_max)
    }

    /// A service that starts another program, where this process is none of a node.
    pub fn with_program(program: PathBuf, folder: &Path, bytes_max: u64) -> Self {
        Self {
            program,
            folder: folder.to_owned(),
            bytes_max,
            reading: Arc::new(Semaphore::new(READING_MAX)),
            present: Arc::new(Semaphore::new(READING_MAX + WAITING_MAX)),
            shares: Shares::new(SHARE_MAX),
        }
    }

    /// Takes a place among those who wait, for an account.
    ///
    /// # Errors
    /// There is none, or the account has as many as it may.
    pub fn place(&self, account: u128) -> Result<DocumentPlace, DocumentError> {
        let full = || DocumentError::Overloaded {
            retry_after: RETRY_AFTER,
        };
        let share = self.shares.take(account).ok_or_else(full)?;
        let permit = Arc::clone(&self.present).try_acquire_owned();
        Ok(DocumentPlace {
            _permit: permit.map_err(|_none_left| full())?,
            _share: share,
        })
    }

    /// Begins to take a document that comes in pieces.
    ///
    /// # Errors
    /// The disk refuses.
    pub async fn spool(&self) -> Result<Spool, DocumentError> {
        let folder = self.folder.clone();
        let begun = tokio::task::spawn_blocking(move || tempfile::tempfile_in(folder));
        let begun = begun.await.map_err(io::Error::other);
        let file = begun
            .and_then(|file| file)
            .map_err(system("keep a document"))?;
        Ok(Spool {
            file: tokio::fs::File::from_std(file),
            len: 0,
            bytes_max: self.bytes_max,
        })
    }

    /// Reads a document, when it is its turn. `said` is its name and its media type.
    ///
    /// # Errors
    /// It has no text for us, or the system refuses.
    pub async fn extract(
        &self,
        place: DocumentPlace,
        (file, len): (File, u64),
        said: (Option<&str>, Option<&str>),
    ) -> Result<(Format, Extracted), DocumentError> {
        if self.bytes_max < len {
            let bytes_max = self.bytes_max;
            return Err(DocumentError::TooLarge { bytes_max });
        }
        let (file, head) = tokio::task::spawn_blocking(move || head_of(file))
            .await
            .map_err(io::Error::other)
            .and_then(|read| read)
            .map_err(system("look at a document"))?;
        let format = Format::detect(&head, said.0, said.1)?;
        let turn = Arc::clone(&self.reading).acquire_owned().await;
        // Never closed.
        let turn = turn.map_err(|_| DocumentError::Internal("no turn".to_owned()))?;
        let program = self.program.clone();
        let starting = tokio::task::spawn_blocking(move || {
            let reader = start(&program, format, file)?;
            Ok(Reader {
                process: Arc::new(Mutex::new(reader)),
                _places: (place, turn),
            })
        });
        let started = starting.await.map_err(io::Error::other);
        let reader = started
            .and_then(|reader| reader)
            .map_err(system("start a reader"))?;
        let process = Arc::clone(&reader.process);
        let hearing = tokio::task::spawn_blocking(move || hear(&process));
        let heard = tokio::time::timeout(WALL_TIME_MAX, hearing).await;
        // Ends it where it has not ended by itself.
        drop(reader);
        let Ok(heard) = heard else {
            return Err(DocumentFault::TooSlow.into());
        };
        let heard = heard.map_err(io::Error::other).and_then(|heard| heard);
        let (status, remains) = heard.map_err(system("hear a reader"))?;
        Ok((format, outcome(status, &remains)?))
    }
}

impl Spool {
    /// Takes a piece.
    ///
    /// # Errors
    /// The document is too large, or the disk refuses.
    pub async fn push(&mut self, bytes: &[u8]) -> Result<(), DocumentError> {
        use tokio::io::AsyncWriteExt;
        self.len = self
            .len
            .saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        if self.bytes_max < self.len {
            let bytes_max = self.bytes_max;
            return Err(DocumentError::TooLarge { bytes_max });
        }
        let written = self.file.write_all(bytes).await;
        written.map_err(system("keep a document"))
    }

    /// Returns the whole, and how large it is.
    ///
    /// # Errors
    /// The disk refuses.
    pub async fn finish(mut self) -> Result<(File, u64), DocumentError> {
        use tokio::io::AsyncWriteExt;
        let flushed = self.file.flush().await;
        flushed.map_err(system("keep a document"))?;
        let mut file = self.file.into_std().await;
        file.rewind().map_err(system("keep a document"))?;
        Ok((file, self.len))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        // One that has ended cannot be ended again, and was waited for.
        if let Ok(None) = process.try_wait() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn system(what: &'static str) -> impl Fn(io::Error) -> DocumentError {
    move |source| DocumentError::System { what, source }
}

/// Reads the beginning of a file, which is to be read from there again.
fn head_of(mut file: File) -> io::Result<(File, Vec<u8>)> {
    let mut head = Vec::new();
    let bytes_max = u64::try_from(HEAD_BYTES).unwrap_or(u64::MAX);
    (&mut file).take(bytes_max).read_to_end(&mut head)?;
    file.rewind()?;
    Ok((file, head))
}

/// Starts a reader with nothing but the document.
fn start(program: &Path, format: Format, file: File) -> io::Result<Child> {
    Command::new(program)
        .args(["extract-text", "--format", format.as_str()])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(file))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

/// Hears what a reader says until it ends, or has said more than it may.
fn hear(process: &Mutex<Child>) -> io::Result<(ExitStatus, Remains)> {
    let (out, err) = {
        let mut process = process.lock().unwrap_or_else(PoisonError::into_inner);
        (process.stdout.take(), process.stderr.take())
    };
    let mut remains = Remains {
        output: Vec::new(),
        last_words: String::new(),
    };
    if let Some(out) = out {
        out.take(OUTPUT_BYTES_MAX)
            .read_to_end(&mut remains.output)?;
    }
    // Fewer than a pipe holds, so nobody has waited for us to read them.
    if let Some(err) = err {
        let mut words = Vec::new();
        err.take(LAST_WORDS_BYTES_MAX).read_to_end(&mut words)?;
        remains.last_words = String::from_utf8_lossy(&words).into_owned();
    }
    // Its ends are closed because it has ended, and then this does nothing; or it has said too
    // much.
    let mut process = process.lock().unwrap_or_else(PoisonError::into_inner);
    process.kill()?;
    Ok((process.wait()?, remains))
}

/// Says what it means how a reader ended.
fn outcome(status: ExitStatus, remains: &Remains) -> Result<Extracted, DocumentError> {
    let mut lines = remains.output.split(|byte| *byte == b'\n');
    let line = lines.rfind(|line| !line.is_empty());
    match line.and_then(|line| serde_json::from_slice(line).ok()) {
        Some(Outcome::Extracted(extracted)) => return Ok(extracted),
        Some(Outcome::Fault(fault)) => return Err(fault.into()),
        None => {}
    }
    let said = |words: &str| remains.last_words.contains(words);
    if said("memory allocation") {
        return Err(DocumentFault::Memory.into());
    }
    if said("overflowed its stack") {
        return Err(DocumentFault::TooDeep.into());
    }
    match signal_of(status) {
        Some(SIGXCPU) => Err(DocumentFault::TooSlow.into()),
        // Where neither we nor its own bounds have ended it, the system was short of memory.
        Some(SIGKILL) => Err(DocumentFault::Memory.into()),
        Some(signal) => {
            let words = format!("its reader was ended by signal {signal}");
            Err(DocumentFault::Damaged(words).into())
        }
        None => Err(DocumentError::Internal(format!(
            "{status}: {}",
            remains.last_words.trim()
        ))),
    }
}

#[cfg(unix)]
fn signal_of(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(not(unix))]
fn signal_of(_status: ExitStatus) -> Option<i32> {
    None
}
