//! Files out of an archive: `tar.gz` or `zip`.
//!
//! Nothing is written to a disk, so links and odd paths can do no harm; they are told with the
//! reason why they are left alone. What an archive says of sizes is not believed: reading stops
//! where the bounds of [`super::limits`] are, and all bounds count what really came out.

use std::io::{self, Cursor, Read};

use flate2::read::GzDecoder;
use thiserror::Error;

use super::{
    extract::SkipReason,
    indexer::SourceFile,
    language::Language,
    limits::{ARCHIVE_BYTES_MAX, ARCHIVE_ENTRIES_MAX, FILES_MAX, SOURCE_BYTES_MAX},
};

/// Why an archive is refused.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// Neither a gzip nor a zip file.
    #[error("the archive is neither a tar.gz nor a zip file")]
    UnknownFormat,
    /// It ends too early, or is damaged.
    #[error("the archive cannot be read: {0}")]
    Damaged(String),
    /// More than this node unpacks.
    #[error("the archive holds more than {} MiB", ARCHIVE_BYTES_MAX >> 20)]
    TooLarge,
    /// More entries than this node looks at.
    #[error("the archive holds more than {ARCHIVE_ENTRIES_MAX} entries")]
    TooManyEntries,
    /// More sources than one request may bring.
    #[error("the archive holds more than {FILES_MAX} source files; send it in parts")]
    TooManyFiles,
}

/// Reads the source files of an archive. Files of other kinds are passed over in silence.
///
/// # Errors
/// See [`ArchiveError`].
pub fn unpack(repo: &str, bytes: &[u8]) -> Result<Vec<SourceFile>, ArchiveError> {
    let mut files = match bytes {
        [0x1f, 0x8b, ..] => unpack_tar(bytes)?,
        [b'P', b'K', ..] => unpack_zip(bytes)?,
        _ => return Err(ArchiveError::UnknownFormat),
    };
    strip_wrapper(repo, &mut files);
    Ok(files)
}

fn damaged(error: impl std::fmt::Display) -> ArchiveError {
    ArchiveError::Damaged(error.to_string())
}

/// What came out so far.
#[derive(Default)]
struct Unpacked {
    files: Vec<SourceFile>,
    entries: usize,
    bytes: u64,
}

impl Unpacked {
    fn count_entry(&mut self) -> Result<(), ArchiveError> {
        self.entries += 1;
        match self.entries <= ARCHIVE_ENTRIES_MAX {
            true => Ok(()),
            false => Err(ArchiveError::TooManyEntries),
        }
    }

    /// Reads an entry that is a source file by its name.
    fn take(&mut self, path: String, reader: impl Read) -> Result<(), ArchiveError> {
        if self.files.len() >= FILES_MAX {
            return Err(ArchiveError::TooManyFiles);
        }
        let mut bytes = Vec::new();
        let limit = SOURCE_BYTES_MAX as u64 + 1;
        reader
            .take(limit)
            .read_to_end(&mut bytes)
            .map_err(of_stream)?;
        self.bytes += bytes.len() as u64;
        if self.bytes > ARCHIVE_BYTES_MAX {
            return Err(ArchiveError::TooLarge);
        }
        let content = match bytes.len() > SOURCE_BYTES_MAX {
            true => Err(SkipReason::TooLarge),
            false => String::from_utf8(bytes).map_err(|_not_utf8| SkipReason::Binary),
        };
        self.files.push(SourceFile { path, content });
        Ok(())
    }
}

fn unpack_tar(bytes: &[u8]) -> Result<Vec<SourceFile>, ArchiveError> {
    // Bounds what is decompressed on the way over entries that nobody reads.
    let stream = Bounded {
        inner: GzDecoder::new(bytes),
        left: ARCHIVE_BYTES_MAX,
    };
    let mut archive = tar::Archive::new(stream);
    let mut unpacked = Unpacked::default();
    for entry in archive.entries().map_err(damaged)? {
        unpacked.count_entry()?;
        let entry = entry.map_err(of_stream)?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let is_source = entry.header().entry_type().is_file() && Language::of_path(&path).is_some();
        if is_source {
            unpacked.take(path, entry)?;
        }
    }
    Ok(unpacked.files)
}

fn of_stream(error: io::Error) -> ArchiveError {
    match error.kind() {
        io::ErrorKind::FileTooLarge => ArchiveError::TooLarge,
        _ => damaged(error),
    }
}

fn unpack_zip(bytes: &[u8]) -> Result<Vec<SourceFile>, ArchiveError> {
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(damaged)?;
    let mut unpacked = Unpacked::default();
    for at in 0..archive.len() {
        unpacked.count_entry()?;
        let entry = archive.by_index(at).map_err(damaged)?;
        let path = entry.name().map_err(damaged)?.into_owned();
        if entry.is_file() && Language::of_path(&path).is_some() {
            unpacked.take(path, entry)?;
        }
    }
    Ok(unpacked.files)
}

/// Takes off a folder that all files are in and that has the repository's name, perhaps with a
/// version behind it: archives of a repository are often made so.
fn strip_wrapper(repo: &str, files: &mut [SourceFile]) {
    let name = repo.rsplit('/').next().unwrap_or(repo);
    let Some((folder, _)) = files.first().and_then(|file| file.path.split_once('/')) else {
        return;
    };
    let after = folder.strip_prefix(name);
    let is_wrapper = after.is_some_and(|after| after.is_empty() || after.starts_with(['-', '_']));
    let folder = format!("{folder}/");
    if is_wrapper && files.iter().all(|file| file.path.starts_with(&folder)) {
        for file in files {
            file.path.drain(..folder.len());
        }
    }
}

/// A reader that gives no more than so many bytes.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let left = self.left.checked_sub(count as u64);
        self.left = left.ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge))?;
        Ok(count)
    }
}
