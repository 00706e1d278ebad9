//! Files that are already on this machine: checked, hashed and copied into the store.

use std::{
    fs::{self, File},
    io::{Read, Write},
    path::Path,
    time::SystemTime,
};

use aither_inference::gguf::Gguf;
use sha2::{Digest, Sha256};

use super::{
    ModelEntry, ModelStore, ModelStoreError, PullProgress, StoredModel, check_name,
    download::check_room, name_of_file,
};
use crate::files::{self, FileError};

/// Begins the names of unfinished copies.
const COPY_PREFIX: &str = ".import-";
/// Bytes read at a time.
const COPY_BUFFER_BYTES: usize = 1 << 20;

impl ModelStore {
    /// Copies a file into the store.
    ///
    /// # Errors
    /// The file is no usable model, or cannot be copied.
    pub fn import(&self, file: &Path, name: Option<&str>) -> Result<ModelEntry, ModelStoreError> {
        self.import_with(file, name, |_| {})
    }

    /// As [`import`](Self::import), with reports of how far it is.
    ///
    /// # Errors
    /// The file is no usable model, or cannot be copied.
    pub fn import_with(
        &self,
        file: &Path,
        name: Option<&str>,
        mut progress: impl FnMut(PullProgress),
    ) -> Result<ModelEntry, ModelStoreError> {
        let name = match name {
            Some(name) => name.to_owned(),
            None => name_of_file(file)?,
        };
        check_name(&name)?;
        check_gguf(file)?;
        let total = fs::metadata(file).map_err(FileError::read(file))?.len();
        if total > self.shared.limits.file_bytes_max {
            return Err(ModelStoreError::TooLarge {
                given: file.display().to_string(),
                bytes_max: self.shared.limits.file_bytes_max,
                message: "the bound is models.file_bytes_max".into(),
            });
        }
        let directory = &self.shared.directory;
        check_room(directory, total)?;
        let mut copy = tempfile::Builder::new()
            .prefix(COPY_PREFIX)
            .tempfile_in(directory)
            .map_err(FileError::write(directory))?;
        let copied_to = copy.path().to_owned();
        let (sha256, size_bytes) =
            copy_hashed(file, copy.as_file_mut(), &copied_to, |completed| {
                progress(PullProgress {
                    status: "copying".to_owned(),
                    digest: None,
                    total: Some(total),
                    completed: Some(completed),
                });
            })?;
        // The original may have been written to meanwhile; the copy is what counts.
        check_gguf(&copied_to)?;
        let path = self.file_path(&sha256);
        share(copy.as_file())?;
        copy.persist(&path)
            .map_err(|error| FileError::write(&path)(error.error))?;
        files::sync_directory(directory).map_err(FileError::write(directory))?;
        let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        self.add(
            &name,
            StoredModel {
                sha256,
                size_bytes,
                source: format!("file:{}", absolute.display()),
                added_at: SystemTime::now(),
            },
        )
    }
}

/// Removes copies that a killed process left half-written.
pub(super) fn remove_leftovers(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(COPY_PREFIX) {
            // Only space is lost if this fails; the next start tries again.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Checks that a file is a GGUF file whose header this build understands.
///
/// # Errors
/// [`ModelStoreError::InvalidModel`] with what is wrong.
pub fn check_gguf(path: &Path) -> Result<(), ModelStoreError> {
    let checked = Gguf::open(path).and_then(|file| file.info());
    checked.map(|_| ()).map_err(|error| {
        let message = match error {
            aither_inference::Error::ModelFile { message, .. }
            | aither_inference::Error::InvalidGguf { message } => message,
            other => other.to_string(),
        };
        ModelStoreError::InvalidModel {
            path: path.to_owned(),
            message,
        }
    })
}

/// Returns a hasher that has read the whole file; `report` is told how many bytes it has read.
///
/// # Errors
/// The file cannot be read.
pub fn hash_file(path: &Path, report: impl FnMut(u64)) -> Result<Sha256, FileError> {
    let mut file = File::open(path).map_err(FileError::read(path))?;
    let mut hasher = Sha256::new();
    for_each_chunk(&mut file, path, report, |chunk| {
        hasher.update(chunk);
        Ok(())
    })?;
    Ok(hasher)
}

/// Returns the SHA-256 of a file as the store writes it.
///
/// # Errors
/// The file cannot be read.
pub fn sha256_of_file(path: &Path, report: impl FnMut(u64)) -> Result<String, FileError> {
    Ok(hex(&hash_file(path, report)?.finalize()))
}

/// Writes bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Gives a finished file the mode of ordinary files: temporary ones are for their owner alone.
pub(super) fn share(file: &File) -> Result<(), FileError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.set_permissions(fs::Permissions::from_mode(0o644))
            .map_err(FileError::write(Path::new("the model file")))?;
    }
    #[cfg(not(unix))]
    let _ = file;
    Ok(())
}

fn copy_hashed(
    from: &Path,
    to: &mut File,
    to_path: &Path,
    report: impl FnMut(u64),
) -> Result<(String, u64), FileError> {
    let mut source = File::open(from).map_err(FileError::read(from))?;
    let mut hasher = Sha256::new();
    let size_bytes = for_each_chunk(&mut source, from, report, |chunk| {
        hasher.update(chunk);
        to.write_all(chunk).map_err(FileError::write(to_path))
    })?;
    to.sync_all().map_err(FileError::write(to_path))?;
    Ok((hex(&hasher.finalize()), size_bytes))
}

pub(super) fn for_each_chunk(
    source: &mut impl Read,
    path: &Path,
    mut report: impl FnMut(u64),
    mut take: impl FnMut(&[u8]) -> Result<(), FileError>,
) -> Result<u64, FileError> {
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    let mut completed = 0;
    loop {
        let read = source.read(&mut buffer).map_err(FileError::read(path))?;
        if read == 0 {
            return Ok(completed);
        }
        take(&buffer[..read])?;
        completed += read as u64;
        report(completed);
    }
}
