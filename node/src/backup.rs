//! Backups: one file with everything that cannot be made again, models aside.
//!
//! A backup is a zip archive of the keys, the accounts, the agents, their memory, the events, the
//! ledger and the prices, and a manifest with their checksums. The stores are copied from a
//! snapshot each, accounts before the ledger, so that every account in it is known there; the node
//! goes on meanwhile. It holds secrets, so it is readable by its owner alone.
//!
//! Restoring unpacks beside the present files, verifies checksums and both stores, then moves the
//! present files aside and the restored ones into their place. Nothing is deleted.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use aither_ledger::{Audit, Ledger, LedgerError, LedgerOptions};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zip::{CompressionMethod, ZipArchive, ZipWriter, result::ZipError, write::SimpleFileOptions};

use crate::{
    accounts::{AccountStore, StoreError},
    agents::AgentStore,
    billing::{PriceBook, PriceBookError},
    data_dir,
    events::{EventLog, LogLimits},
    files::{self, FileError},
    memory::{MemoryLimits, MemoryStore, Unobserved},
    models::import::sha256_of_file,
};

/// What a manifest is called.
const MANIFEST: &str = "manifest.json";
/// The form of backups that this program writes.
const FORMAT: u64 = 1;
/// A manifest has a handful of lines.
const MANIFEST_BYTES_MAX: u64 = 64 << 10;
/// Largest file of a backup, unpacked: a ledger of some billions of transfers.
const FILE_BYTES_MAX: u64 = 1 << 40;

/// Why there is no backup, or none is restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The archive cannot be read or written.
    #[error("{}: {message}", path.display())]
    Archive {
        /// The backup.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// Accounts, agents or their memory cannot be copied, or those of the backup are damaged.
    #[error(transparent)]
    Accounts(#[from] StoreError),
    /// The ledger cannot be copied, or that of the backup is damaged.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The prices of the backup are damaged.
    #[error(transparent)]
    Prices(#[from] PriceBookError),
}

/// Says what an archive holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The form of the archive.
    pub format: u64,
    /// The program that wrote it.
    pub version: String,
    /// When, in RFC 3339.
    pub made: String,
    /// SHA-256 of each file, by name.
    pub files: BTreeMap<String, String>,
}

/// The files of a data directory that a backup has.
fn kept_files(data_dir: &Path) -> [PathBuf; 8] {
    [
        data_dir::identity_path(data_dir),
        data_dir::admin_key_path(data_dir),
        data_dir::prices_path(data_dir),
        data_dir::accounts_path(data_dir),
        data_dir::registry_path(data_dir),
        data_dir::memory_path(data_dir),
        data_dir::events_path(data_dir),
        data_dir::ledger_path(data_dir),
    ]
}

/// A folder in which the stores' copies lie until they are packed.
#[derive(Debug)]
pub struct Copies(tempfile::TempDir);

impl Copies {
    /// Makes the folder in the data directory, where there is as much room as for the stores.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn begin(data_dir: &Path) -> Result<Self, BackupError> {
        let folder = tempfile::Builder::new()
            .prefix(".backup-")
            .tempdir_in(data_dir);
        Ok(Self(folder.map_err(FileError::write(data_dir))?))
    }

    /// Where the copy of the accounts goes.
    pub fn accounts_path(&self) -> PathBuf {
        data_dir::accounts_path(self.0.path())
    }

    /// Where the copy of the agents goes.
    pub fn registry_path(&self) -> PathBuf {
        data_dir::registry_path(self.0.path())
    }

    /// Where the copy of what agents remember goes.
    pub fn memory_path(&self) -> PathBuf {
        data_dir::memory_path(self.0.path())
    }

    /// Where the copy of the events goes.
    pub fn events_path(&self) -> PathBuf {
        data_dir::events_path(self.0.path())
    }

    /// Where the copy of the ledger goes.
    pub fn ledger_path(&self) -> PathBuf {
        data_dir::ledger_path(self.0.path())
    }

    /// Packs the copies, and the small files of the data directory, as `file`.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn pack(self, data_dir: &Path, file: &Path) -> Result<Manifest, BackupError> {
        for path in kept_files(data_dir) {
            let copy = self.0.path().join(path.file_name().unwrap_or_default());
            if !copy.exists() && path.exists() && !is_store(&path) {
                fs::copy(&path, &copy).map_err(FileError::read(&path))?;
            }
        }
        let mut files = BTreeMap::new();
        for path in kept_files(self.0.path()) {
            if path.exists() {
                let sha256 = sha256_of_file(&path, |_| {})
                    .map_err(|error| FileError::read(&path)(io::Error::other(error.to_string())))?;
                files.insert(name_of(&path), sha256);
            }
        }
        let manifest = Manifest {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            made: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            files,
        };
        self.write(file, &manifest)?;
        Ok(manifest)
    }

    /// Writes the archive beside its place and moves it there whole.
    fn write(&self, file: &Path, manifest: &Manifest) -> Result<(), BackupError> {
        let folder = files::parent(file);
        // Temporary files are readable by their owner alone.
        let unfinished = tempfile::NamedTempFile::new_in(folder).map_err(FileError::write(file))?;
        let mut archive = ZipWriter::new(BufWriter::new(unfinished));
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .large_file(true);
        let failed = |error: ZipError| archive_error(file, &error);
        let text =
            serde_json::to_vec_pretty(manifest).map_err(|error| archive_error(file, &error))?;
        archive.start_file(MANIFEST, options).map_err(failed)?;
        archive.write_all(&text).map_err(FileError::write(file))?;
        for name in manifest.files.keys() {
            let path = self.0.path().join(name);
            let mut copy = File::open(&path).map_err(FileError::read(&path))?;
            archive.start_file(name.as_str(), options).map_err(failed)?;
            io::copy(&mut copy, &mut archive).map_err(FileError::write(file))?;
        }
        let unfinished = archive.finish().map_err(failed)?;
        let unfinished = unfinished
            .into_inner()
            .map_err(|error| FileError::write(file)(error.into_error()))?;
        let synced = unfinished.as_file().sync_all();
        synced.map_err(FileError::write(file))?;
        let moved = unfinished.persist(file);
        moved.map_err(|error| FileError::write(file)(error.error))?;
        files::sync_directory(folder).map_err(FileError::write(folder))?;
        Ok(())
    }
}

/// Writes a backup of a data directory that no node runs on.
///
/// # Errors
/// A file cannot be read or written, or a store is damaged.
pub fn back_up(data_dir: &Path, file: &Path) -> Result<Manifest, BackupError> {
    let copies = Copies::begin(data_dir)?;
    let accounts = data_dir::accounts_path(data_dir);
    if accounts.exists() {
        AccountStore::open(&accounts)?.copy_to(&copies.accounts_path())?;
    }
    let registry = data_dir::registry_path(data_dir);
    if registry.exists() {
        AgentStore::open(&registry, SystemTime::now())?.copy_to(&copies.registry_path())?;
    }
    let memory = data_dir::memory_path(data_dir);
    if memory.exists() {
        let limits = MemoryLimits::default();
        MemoryStore::open(&memory, limits, Arc::new(Unobserved))?.copy_to(&copies.memory_path())?;
    }
    let events = data_dir::events_path(data_dir);
    if events.exists() {
        let limits = LogLimits::default();
        EventLog::open(&events, limits, |_| {})?.copy_to(&copies.events_path())?;
    }
    let ledger = data_dir::ledger_path(data_dir);
    if ledger.exists() {
        let ledger = Ledger::open(&ledger, LedgerOptions::default())?;
        ledger.view()?.copy_to(&copies.ledger_path())?;
    }
    copies.pack(data_dir, file)
}

/// What a restored directory has.
#[derive(Debug)]
pub struct Restored {
    /// What the backup says of itself.
    pub manifest: Manifest,
    /// The audit of its ledger.
    pub audit: Option<Audit>,
    /// Where the files went that were there before.
    pub aside: Vec<PathBuf>,
}

/// Brings a backup back into a data directory that no node runs on.
///
/// # Errors
/// The backup is damaged or a file cannot be written; then the directory is as before, unless the
/// last step failed, moving files, whose words say where they are.
pub fn restore(file: &Path, data_dir: &Path) -> Result<Restored, BackupError> {
    let folder = tempfile::Builder::new()
        .prefix(".restore-")
        .tempdir_in(data_dir);
    let folder = folder.map_err(FileError::write(data_dir))?;
    let manifest = unpack(file, folder.path())?;
    let audit = verify(folder.path())?;
    let mut aside = Vec::new();
    let stamp = manifest.made.replace(':', "");
    for path in kept_files(data_dir) {
        let name = name_of(&path);
        if !manifest.files.contains_key(&name) {
            continue;
        }
        if path.exists() {
            let old = free_name(&path, &stamp);
            fs::rename(&path, &old).map_err(FileError::write(&old))?;
            aside.push(old);
        }
        let new = folder.path().join(&name);
        fs::rename(&new, &path).map_err(FileError::write(&path))?;
    }
    // Answers of the time after the backup tell of payments that the restored ledger does not have.
    let answers = data_dir::answers_path(data_dir);
    if answers.exists() {
        let old = free_name(&answers, &stamp);
        fs::rename(&answers, &old).map_err(FileError::write(&old))?;
        aside.push(old);
    }
    files::sync_directory(data_dir).map_err(FileError::write(data_dir))?;
    Ok(Restored {
        manifest,
        audit,
        aside,
    })
}

/// Unpacks what the manifest names, each file bounded and with its checksum.
fn unpack(file: &Path, folder: &Path) -> Result<Manifest, BackupError> {
    let opened = File::open(file).map_err(FileError::read(file))?;
    let failed = |error: &dyn std::fmt::Display| archive_error(file, error);
    let mut archive = ZipArchive::new(BufReader::new(opened)).map_err(|error| failed(&error))?;
    let mut text = Vec::new();
    let manifest = archive.by_name(MANIFEST);
    let manifest = manifest.map_err(|_| failed(&"it is no backup: it has no manifest"))?;
    let read = manifest.take(MANIFEST_BYTES_MAX).read_to_end(&mut text);
    read.map_err(|error| failed(&error))?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| failed(&error))?;
    if manifest.format != FORMAT {
        let words = format!(
            "its format is {}, this program reads {FORMAT}",
            manifest.format
        );
        return Err(failed(&words));
    }
    // Names are taken from here, not from the archive: it cannot write anywhere else.
    for path in kept_files(folder) {
        let name = name_of(&path);
        let Some(expected) = manifest.files.get(&name) else {
            continue;
        };
        let entry = archive.by_name(&name).map_err(|error| failed(&error))?;
        let damaged = |error: &io::Error| failed(&format!("{name} is damaged: {error}"));
        let sha256 = copy_hashed(entry.take(FILE_BYTES_MAX), &path, damaged)?;
        if sha256 != *expected {
            return Err(failed(&format!("{name} is damaged: its checksum is wrong")));
        }
    }
    Ok(manifest)
}

/// Writes what is read, and returns its SHA-256.
fn copy_hashed(
    mut from: impl Read,
    path: &Path,
    unreadable: impl Fn(&io::Error) -> BackupError,
) -> Result<String, BackupError> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let mut to = options.open(path).map_err(FileError::write(path))?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        let len = from.read(&mut buffer).map_err(|error| unreadable(&error))?;
        if len == 0 {
            break;
        }
        hash.update(&buffer[..len]);
        to.write_all(&buffer[..len])
            .map_err(FileError::write(path))?;
    }
    to.sync_all().map_err(FileError::write(path))?;
    let digest = hash.finalize();
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Opens what was unpacked, as the node would, and audits the whole ledger.
fn verify(folder: &Path) -> Result<Option<Audit>, BackupError> {
    let accounts = data_dir::accounts_path(folder);
    if accounts.exists() {
        AccountStore::open(&accounts)?;
    }
    let registry = data_dir::registry_path(folder);
    if registry.exists() {
        AgentStore::check(&registry)?;
    }
    let memory = data_dir::memory_path(folder);
    if memory.exists() {
        MemoryStore::check(&memory)?;
    }
    let events = data_dir::events_path(folder);
    if events.exists() {
        EventLog::check(&events)?;
    }
    let prices = data_dir::prices_path(folder);
    if prices.exists() {
        PriceBook::check(&prices)?;
    }
    let ledger = data_dir::ledger_path(folder);
    if !ledger.exists() {
        return Ok(None);
    }
    let options = LedgerOptions {
        verify_pages: true,
        ..LedgerOptions::default()
    };
    Ok(Some(Ledger::open(&ledger, options)?.view()?.audit()?))
}

/// Returns a name beside `path` that nobody has.
fn free_name(path: &Path, stamp: &str) -> PathBuf {
    let name = name_of(path);
    let numbered = (0_u32..).map(|number| match number {
        0 => path.with_file_name(format!("{name}.before-restore-{stamp}")),
        number => path.with_file_name(format!("{name}.before-restore-{stamp}-{number}")),
    });
    let mut free = numbered.filter(|path| !path.exists());
    // There are more numbers than files.
    free.next().unwrap_or_else(|| path.to_owned())
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Whether a file is copied by its store, not as it lies.
fn is_store(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "redb")
}

fn archive_error(path: &Path, error: &(impl std::fmt::Display + ?Sized)) -> BackupError {
    BackupError::Archive {
        path: path.to_owned(),
        message: error.to_string(),
    }
}
