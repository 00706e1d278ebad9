//! Reading and writing small files so that a crash leaves the old or the new one, never half.
//!
//! Everything that the node writes into its data directory but downloads goes through
//! [`write_atomic`]: a temporary file beside the target, flushed to the disk, renamed over it, and
//! the directory flushed. Readers are bounded, since the directory may have been tampered with.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

/// Why a file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// Reading failed.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's words.
        source: io::Error,
    },
    /// Writing failed.
    #[error("cannot write {}: {source}{}", path.display(), remedy(source))]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// The operating system's words.
        source: io::Error,
    },
    /// More bytes than such a file can have.
    #[error("{} is larger than {bytes_max} bytes, which no file of its kind is", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The cap.
        bytes_max: u64,
    },
}

impl FileError {
    /// For `map_err` on a read of `path`.
    pub fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Read { path, source }
    }

    /// For `map_err` on a write of `path`.
    pub fn write(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Write { path, source }
    }
}

/// Words that follow an error of writing and say what helps.
pub fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull
        | io::ErrorKind::QuotaExceeded
        // A limit of the process or of the file system, where a smaller file would do.
        | io::ErrorKind::FileTooLarge => {
            "; free some space or choose another --data-dir"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; choose a writable --data-dir or change the owner of this one"
        }
        _ => "",
    }
}

/// Reads a whole file of at most `bytes_max`; `None` when there is none.
///
/// # Errors
/// It cannot be read, or is larger.
pub fn read_bounded(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, FileError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FileError::read(path)(error)),
    };
    let mut bytes = Vec::new();
    file.take(bytes_max + 1)
        .read_to_end(&mut bytes)
        .map_err(FileError::read(path))?;
    if bytes.len() as u64 > bytes_max {
        return Err(FileError::TooLarge {
            path: path.to_owned(),
            bytes_max,
        });
    }
    Ok(Some(bytes))
}

/// Replaces a file as a whole, readable by everyone whom the umask lets.
///
/// # Errors
/// It, or its directory, cannot be written.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write_with_mode(path, bytes, 0o666)
}

/// Replaces a file as a whole, readable by its owner alone from its first byte on.
///
/// # Errors
/// It, or its directory, cannot be written.
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write_with_mode(path, bytes, 0o600)
}

fn write_with_mode(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let directory = parent(path);
    let mut builder = tempfile::Builder::new();
    builder.prefix(".").suffix(".tmp");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(mode));
    }
    #[cfg(not(unix))]
    let _ = mode;
    let mut file = builder
        .tempfile_in(directory)
        .map_err(FileError::write(path))?;
    file.write_all(bytes)
        .and_then(|()| file.as_file().sync_all())
        .map_err(FileError::write(path))?;
    file.persist(path)
        .map_err(|error| FileError::write(path)(error.error))?;
    sync_directory(directory).map_err(FileError::write(directory))
}

/// Makes a rename or a removal in `directory` survive a power cut.
///
/// # Errors
/// The operating system's, on systems where a directory can be flushed.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(directory)?.sync_all()
    } else {
        Ok(())
    }
}

/// Returns the directory that a path lies in.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Warns when others than the owner may read a secret file.
pub fn warn_if_readable_by_others(path: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let Ok(metadata) = fs::metadata(path) else {
            return;
        };
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            tracing::warn!(
                path = %path.display(),
                mode = format!("{mode:o}"),
                "other users of this machine can read this secret; run chmod 600 on it"
            );
        }
    }
    #[cfg(not(unix))]
    let _ = path;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(read_bounded(&path, 3).unwrap().unwrap(), b"two");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_over_its_cap_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("large");
        write_atomic(&path, b"four").unwrap();
        let error = read_bounded(&path, 3).unwrap_err();
        assert!(
            matches!(error, FileError::TooLarge { bytes_max: 3, .. }),
            "{error}"
        );
    }

    #[test]
    fn a_missing_file_is_none() {
        let directory = tempfile::tempdir().unwrap();
        assert!(
            read_bounded(&directory.path().join("none"), 3)
                .unwrap()
                .is_none()
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_secret_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        write_secret(&path, b"hush").unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
}
