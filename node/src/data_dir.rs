//! The data directory: its lock, and `run.json` for those who look for the running node.
//!
//! The lock is the operating system's, on `DIR/lock`, so it dies with its process: a leftover
//! `run.json` or `lock` file means nothing by itself. The holder's process id is written into the
//! file for the words of whoever finds it taken.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::files::{self, FileError};

/// Names in the directory.
const LOCK_FILE: &str = "lock";
const RUN_FILE: &str = "run.json";
const IDENTITY_FILE: &str = "identity.key";
const ADMIN_KEY_FILE: &str = "admin.key";
const ACCOUNTS_FILE: &str = "accounts.redb";
const REGISTRY_FILE: &str = "registry.redb";
const WORKSPACES_FOLDER: &str = "workspaces";
const ARTIFACTS_FOLDER: &str = "artifacts";
const LEDGER_FILE: &str = "ledger.redb";
const MEMORY_FILE: &str = "memory.redb";
const EVENTS_FILE: &str = "events.redb";
const ANSWERS_FILE: &str = "answers.redb";
const PRICES_FILE: &str = "prices.json";
const SEARCH_INDEX_FOLDER: &str = "search-index";
/// `run.json` holds a handful of addresses.
const RUN_FILE_BYTES_MAX: u64 = 64 * 1024;
/// A process id has at most ten digits.
const PID_BYTES_MAX: u64 = 16;

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataDirError {
    /// Another process has it.
    #[error(
        "the data directory {} is in use by {}; stop that process or choose another --data-dir",
        path.display(), holder(*pid)
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The holder's process id, where it can be read.
        pid: Option<u32>,
    },
    /// It cannot be made.
    #[error(
        "cannot make the data directory {}: {source}; choose another --data-dir",
        path.display()
    )]
    Create {
        /// The directory.
        path: PathBuf,
        /// The operating system's words.
        source: io::Error,
    },
    /// Something in it cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

/// The data directory, held by this process.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Held open for the lock on it.
    _lock: File,
}

/// `run.json`: what a running node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunInfo {
    /// Process id.
    pub pid: u32,
    /// Base URL of the HTTP API, as this machine reaches it.
    pub http: String,
    /// The node's id.
    pub peer_id: String,
    /// Bound multiaddresses; empty without federation.
    pub listen: Vec<String>,
    /// The node's version.
    pub version: String,
}

impl DataDir {
    /// Makes the directory if need be and locks it.
    ///
    /// # Errors
    /// Another process has it, or it cannot be made or written.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        create_private(path).map_err(|source| DataDirError::Create {
            path: path.to_owned(),
            source,
        })?;
        let lock_path = path.join(LOCK_FILE);
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(FileError::write(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(DataDirError::InUse {
                    path: path.to_owned(),
                    pid: read_pid(&mut lock),
                });
            }
            Err(TryLockError::Error(error)) => {
                return Err(FileError::write(&lock_path)(error).into());
            }
        }
        write_pid(&mut lock).map_err(FileError::write(&lock_path))?;
        let data_dir = Self {
            path: path.to_owned(),
            _lock: lock,
        };
        // Whoever wrote it did not stop cleanly, or this process would not have the lock.
        data_dir.remove_run_info();
        Ok(data_dir)
    }

    /// Returns the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Says where the node can be reached.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_run_info(&self, info: &RunInfo) -> Result<(), DataDirError> {
        let mut json = serde_json::to_vec_pretty(info).map_err(|error| {
            FileError::write(&self.path.join(RUN_FILE))(io::Error::other(error))
        })?;
        json.push(b'\n');
        Ok(files::write_atomic(&self.path.join(RUN_FILE), &json)?)
    }

    /// Takes that back.
    pub fn remove_run_info(&self) {
        let path = self.path.join(RUN_FILE);
        match fs::remove_file(&path) {
            Ok(()) => {
                // A reader must not meet the file again after a power cut, but it could cope.
                let _ = files::sync_directory(&self.path);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(path = %path.display(), %error, "cannot remove the file"),
        }
    }
}

/// Reads what the running node says of itself; `None` when it says nothing that can be read.
pub fn read_run_info(data_dir: &Path) -> Option<RunInfo> {
    let bytes = files::read_bounded(&data_dir.join(RUN_FILE), RUN_FILE_BYTES_MAX).ok()??;
    serde_json::from_slice(&bytes).ok()
}

/// Returns where the identity lies.
pub fn identity_path(data_dir: &Path) -> PathBuf {
    data_dir.join(IDENTITY_FILE)
}

/// Returns where the admin key lies.
pub fn admin_key_path(data_dir: &Path) -> PathBuf {
    data_dir.join(ADMIN_KEY_FILE)
}

/// Returns where the accounts lie.
pub fn accounts_path(data_dir: &Path) -> PathBuf {
    data_dir.join(ACCOUNTS_FILE)
}

/// Returns where the agents lie.
pub fn registry_path(data_dir: &Path) -> PathBuf {
    data_dir.join(REGISTRY_FILE)
}

/// Returns where the ledger lies.
pub fn ledger_path(data_dir: &Path) -> PathBuf {
    data_dir.join(LEDGER_FILE)
}

/// Returns where the memory of agents lies.
pub fn memory_path(data_dir: &Path) -> PathBuf {
    data_dir.join(MEMORY_FILE)
}

/// Returns where the answers to idempotency keys are kept.
pub fn answers_path(data_dir: &Path) -> PathBuf {
    data_dir.join(ANSWERS_FILE)
}

/// Returns where the events lie.
pub fn events_path(data_dir: &Path) -> PathBuf {
    data_dir.join(EVENTS_FILE)
}

/// Returns where the workspaces lie.
pub fn workspaces_path(data_dir: &Path) -> PathBuf {
    data_dir.join(WORKSPACES_FOLDER)
}

/// Returns where the artifacts lie.
pub fn artifacts_path(data_dir: &Path) -> PathBuf {
    data_dir.join(ARTIFACTS_FOLDER)
}

/// Returns where the index of searched folders is; it is made of files that are there anyway.
pub fn search_index_path(data_dir: &Path) -> PathBuf {
    data_dir.join(SEARCH_INDEX_FOLDER)
}

/// Returns where the prices lie.
pub fn prices_path(data_dir: &Path) -> PathBuf {
    data_dir.join(PRICES_FILE)
}

/// Returns the URL by which this machine reaches a bound address.
pub fn local_url(bound: SocketAddr) -> String {
    // "Any address" is no address to connect to.
    let ip = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, bound.port()))
}

/// Makes a folder, and those above it, for its owner alone.
///
/// # Errors
/// The operating system's.
pub fn create_private(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder.create(path)
}

fn write_pid(lock: &mut File) -> io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{}", std::process::id())
}

fn read_pid(lock: &mut File) -> Option<u32> {
    let mut text = String::new();
    lock.take(PID_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(
        || "another process".to_owned(),
        |pid| format!("process {pid}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_opener_is_told_who_has_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/data");
        let first = DataDir::open(&path).unwrap();
        let error = DataDir::open(&path).unwrap_err();
        let pid = std::process::id();
        assert!(matches!(&error, DataDirError::InUse { pid: Some(holder), .. } if *holder == pid));
        assert!(
            error.to_string().contains(&format!("process {pid}")),
            "{error}"
        );
        drop(first);
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn run_info_of_a_dead_node_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let info = RunInfo {
            pid: 1,
            http: "http://127.0.0.1:1".into(),
            peer_id: "12D3KooW".into(),
            listen: Vec::new(),
            version: "0.1.0".into(),
        };
        DataDir::open(directory.path())
            .unwrap()
            .write_run_info(&info)
            .unwrap();
        assert_eq!(read_run_info(directory.path()), Some(info));
        let _second = DataDir::open(directory.path()).unwrap();
        assert_eq!(read_run_info(directory.path()), None);
    }

    #[test]
    fn an_unspecified_address_is_reached_by_loopback() {
        let cases = [
            ("127.0.0.1:1", "http://127.0.0.1:1"),
            ("0.0.0.0:2", "http://127.0.0.1:2"),
            ("[::]:3", "http://[::1]:3"),
            ("192.0.2.1:4", "http://192.0.2.1:4"),
        ];
        for (bound, url) in cases {
            assert_eq!(local_url(bound.parse().unwrap()), url);
        }
    }
}
