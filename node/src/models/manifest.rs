//! `manifest.json`: names of models and the checksums of their files.
//!
//! The file is ours, but it lies on a disk that others may touch: it is read with a cap and every
//! field is checked before a path is made of it.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{ModelStoreError, check_name};
use crate::files;

/// The only version that there is.
const VERSION: u32 = 1;
/// Room for ten thousand models.
const MANIFEST_BYTES_MAX: u64 = 8 << 20;

/// All stored models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    version: u32,
    /// By name.
    pub models: BTreeMap<String, StoredModel>,
}

/// One stored model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredModel {
    /// SHA-256 of the file, 64 hexadecimal digits in lower case: its name in the store.
    pub sha256: String,
    /// The file's size in bytes.
    pub size_bytes: u64,
    /// Where it came from.
    pub source: String,
    /// When it was added, to the second.
    #[serde(serialize_with = "seconds", deserialize_with = "from_seconds")]
    pub added_at: SystemTime,
}

impl Default for Manifest {
    fn default() -> Self {
        Self {
            version: VERSION,
            models: BTreeMap::new(),
        }
    }
}

impl Manifest {
    /// Reads the manifest; a missing one is empty.
    ///
    /// # Errors
    /// It cannot be read, or is not what [`Manifest::save`] writes.
    pub fn load(path: &Path) -> Result<Self, ModelStoreError> {
        let Some(bytes) = files::read_bounded(path, MANIFEST_BYTES_MAX)? else {
            return Ok(Self::default());
        };
        let corrupt = |message: String| ModelStoreError::Corrupt {
            path: path.to_owned(),
            message,
        };
        let manifest: Self = serde_json::from_slice(&bytes)
            .map_err(|error| corrupt(format!("cannot be understood ({error})")))?;
        if manifest.version != VERSION {
            let version = manifest.version;
            return Err(corrupt(format!(
                "has version {version}, this build reads version {VERSION}"
            )));
        }
        for (name, model) in &manifest.models {
            if check_name(name).is_err() || !is_sha256(&model.sha256) {
                return Err(corrupt(format!("has a bad entry {name:?}")));
            }
        }
        Ok(manifest)
    }

    /// Replaces the manifest on the disk.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), ModelStoreError> {
        let mut json =
            serde_json::to_vec_pretty(self).map_err(|error| ModelStoreError::Internal {
                message: error.to_string(),
            })?;
        json.push(b'\n');
        Ok(files::write_atomic(path, &json)?)
    }
}

/// Returns whether a text is a SHA-256 as the store writes it.
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn seconds<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    // A clock before 1970 is written as 1970: the time is only shown.
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    serializer.serialize_u64(seconds)
}

fn from_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
    let seconds = u64::deserialize(deserializer)?;
    // What no calendar can show is as good as unknown.
    Ok(UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .unwrap_or(UNIX_EPOCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> Result<Manifest, ModelStoreError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("manifest.json");
        std::fs::write(&path, json).unwrap();
        Manifest::load(&path)
    }

    #[test]
    fn a_manifest_is_read_back_as_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("manifest.json");
        let mut manifest = Manifest::default();
        let model = StoredModel {
            sha256: "ab".repeat(32),
            size_bytes: 7,
            source: "https://example.org/a.gguf".into(),
            added_at: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        };
        manifest.models.insert("a:b".into(), model);
        manifest.save(&path).unwrap();
        assert_eq!(Manifest::load(&path).unwrap(), manifest);
    }

    #[test]
    fn a_missing_manifest_is_empty() {
        let directory = tempfile::tempdir().unwrap();
        let manifest = Manifest::load(&directory.path().join("none")).unwrap();
        assert!(manifest.models.is_empty());
    }

    #[test]
    fn manifests_that_cannot_be_trusted_are_refused() {
        let entry = |name: &str, sha256: &str| {
            format!(
                r#"{{"version":1,"models":{{"{name}":{{"sha256":"{sha256}","size_bytes":1,
                "source":"x","added_at":0}}}}}}"#
            )
        };
        let good = "ab".repeat(32);
        assert!(check(&entry("a", &good)).is_ok());
        let cases = [
            String::new(),
            "{".into(),
            r#"{"version":2,"models":{}}"#.into(),
            entry("../a", &good),
            entry("a", "../../etc/passwd"),
            entry("a", &"AB".repeat(32)),
        ];
        for json in cases {
            let error = check(&json).unwrap_err();
            assert!(
                matches!(error, ModelStoreError::Corrupt { .. }),
                "{json}: {error}"
            );
        }
    }
}
