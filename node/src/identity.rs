//! The node's two secrets: its ed25519 identity and the admin key.
//!
//! Both live in files of mode 0600 in the data directory and are made at the first start from the
//! operating system's randomness. `identity.key` is a PKCS#8 PEM file, which is also the format of
//! `key export` and `key import` and what `openssl pkey` reads. `admin.key` holds the key and
//! nothing else. Neither type can be printed.

use std::{fmt, path::Path};

use aither_protocol::NodeId;
use ed25519_dalek::{
    SigningKey,
    pkcs8::{DecodePrivateKey, EncodePrivateKey, KeypairBytes, spki::der::pem::LineEnding},
};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::files::{self, FileError};

/// Begins every admin key, so that a leaked one can be recognised.
const ADMIN_KEY_PREFIX: &str = "aither_admin_";
/// 256 bits.
const ADMIN_KEY_BYTES: usize = 32;
/// An admin key shorter than this is no key that this node made, and too weak to serve.
const ADMIN_KEY_LEN_MIN: usize = 32;
/// Largest key file that is read; the real ones have some hundred bytes.
const KEY_FILE_BYTES_MAX: u64 = 16 * 1024;

/// Why a key could not be read, made or stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A key file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A key file holds something else.
    #[error(
        "{path} is not an ed25519 private key in PKCS#8 PEM form; restore it from a backup with \
         \"aither-node key import FILE --force\""
    )]
    InvalidIdentity {
        /// The file.
        path: String,
    },
    /// The admin key's file is empty, too short or not text.
    #[error("{path} holds no admin key; delete it and the next start makes a new one")]
    InvalidAdminKey {
        /// The file.
        path: String,
    },
    /// The operating system gave no random bytes.
    #[error("the operating system gives no random bytes: {message}")]
    NoRandomness {
        /// Its words.
        message: String,
    },
}

/// The node's ed25519 key pair.
#[derive(Clone)]
pub struct NodeIdentity {
    signing_key: SigningKey,
}

impl NodeIdentity {
    /// Makes a new key pair.
    ///
    /// # Errors
    /// The operating system gives no random bytes.
    pub fn generate() -> Result<Self, IdentityError> {
        let seed = random_bytes()?;
        Ok(Self {
            signing_key: SigningKey::from_bytes(&seed),
        })
    }

    /// Reads the key at `path`, or makes one there.
    ///
    /// # Errors
    /// The file cannot be read or written, or holds no such key.
    pub fn load_or_create(path: &Path) -> Result<Self, IdentityError> {
        if let Some(identity) = Self::load(path)? {
            return Ok(identity);
        }
        let identity = Self::generate()?;
        files::write_secret(path, identity.to_pem().as_bytes())?;
        tracing::info!(path = %path.display(), peer = %identity.id(), "made a new identity key");
        Ok(identity)
    }

    /// Reads the key at `path`; `None` when there is no such file.
    ///
    /// # Errors
    /// The file cannot be read, or holds no such key.
    pub fn load(path: &Path) -> Result<Option<Self>, IdentityError> {
        let Some(bytes) = files::read_bounded(path, KEY_FILE_BYTES_MAX)? else {
            return Ok(None);
        };
        let bytes = Zeroizing::new(bytes);
        let signing_key = std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| SigningKey::from_pkcs8_pem(text.trim()).ok())
            .ok_or_else(|| IdentityError::InvalidIdentity {
                path: path.display().to_string(),
            })?;
        Ok(Some(Self { signing_key }))
    }

    /// Returns the node's id: the public half.
    pub fn id(&self) -> NodeId {
        self.signing_key.verifying_key().into()
    }

    /// Returns the key that signs for this node.
    pub fn signing_key(&self) -> &SigningKey {
        &self.signing_key
    }

    /// Returns the private key as a PKCS#8 PEM document.
    pub fn to_pem(&self) -> Zeroizing<String> {
        // Version 1, without the public key: the form that every other program reads.
        let pair = KeypairBytes {
            secret_key: self.signing_key.to_bytes(),
            public_key: None,
        };
        pair.to_pkcs8_pem(LineEnding::LF)
            .expect("a 32-byte key fits into PKCS#8")
    }
}

impl fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeIdentity")
            .field("id", &self.id())
            .field("signing_key", &"***")
            .finish()
    }
}

/// The key of the account `operator`: every route is open to it.
#[derive(Clone)]
pub struct AdminKey {
    key: Zeroizing<String>,
    digest: [u8; 32],
}

impl AdminKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// The operating system gives no random bytes.
    pub fn generate() -> Result<Self, IdentityError> {
        let bytes: Zeroizing<[u8; ADMIN_KEY_BYTES]> = random_bytes()?;
        let encoded = Zeroizing::new(bs58::encode(bytes.as_slice()).into_string());
        Ok(Self::from_text(format!("{ADMIN_KEY_PREFIX}{}", *encoded)))
    }

    /// Reads the key at `path`, or makes one there.
    ///
    /// # Errors
    /// The file cannot be read or written, or holds no key.
    pub fn load_or_create(path: &Path) -> Result<Self, IdentityError> {
        if let Some(key) = Self::load(path)? {
            return Ok(key);
        }
        let key = Self::generate()?;
        files::write_secret(path, key.key.as_bytes())?;
        tracing::info!(path = %path.display(), "made a new admin key");
        Ok(key)
    }

    /// Reads the key at `path`; `None` when there is no such file.
    ///
    /// # Errors
    /// The file cannot be read, or holds no key.
    pub fn load(path: &Path) -> Result<Option<Self>, IdentityError> {
        let Some(bytes) = files::read_bounded(path, KEY_FILE_BYTES_MAX)? else {
            return Ok(None);
        };
        let bytes = Zeroizing::new(bytes);
        let text = std::str::from_utf8(&bytes)
            .map(str::trim)
            .unwrap_or_default();
        // What cannot stand in a header could never be presented.
        if text.len() < ADMIN_KEY_LEN_MIN || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(IdentityError::InvalidAdminKey {
                path: path.display().to_string(),
            });
        }
        Ok(Some(Self::from_text(text.to_owned())))
    }

    /// Takes a key's text.
    pub fn from_text(text: String) -> Self {
        Self {
            digest: Sha256::digest(text.as_bytes()).into(),
            key: Zeroizing::new(text),
        }
    }

    /// Returns whether this is the key. Takes the same time for every wrong one.
    pub fn matches(&self, presented: &str) -> bool {
        // Both sides are hashed, so neither the length nor the first difference shows in the time.
        let presented: [u8; 32] = Sha256::digest(presented.as_bytes()).into();
        presented.ct_eq(&self.digest).into()
    }

    /// Returns the key itself, for the one place that presents it to a running node.
    pub fn reveal(&self) -> &str {
        &self.key
    }
}

impl fmt::Debug for AdminKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminKey(***)")
    }
}

fn random_bytes() -> Result<Zeroizing<[u8; 32]>, IdentityError> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(bytes.as_mut_slice()).map_err(|error| IdentityError::NoRandomness {
        message: error.to_string(),
    })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity.key");
        let made = NodeIdentity::load_or_create(&path).unwrap();
        let read = NodeIdentity::load_or_create(&path).unwrap();
        assert_eq!(made.id(), read.id());
        assert_ne!(made.id(), NodeIdentity::generate().unwrap().id());
    }

    #[test]
    fn a_key_of_another_program_is_read() {
        // The example of RFC 8410, section 10.3.
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity.key");
        std::fs::write(&path, EXAMPLE_PEM).unwrap();
        let identity = NodeIdentity::load(&path).unwrap().unwrap();
        assert_eq!(identity.id().public_key(), EXAMPLE_PUBLIC_KEY);
        assert_eq!(*identity.to_pem(), EXAMPLE_PEM);
    }

    const EXAMPLE_PEM: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
        -----END PRIVATE KEY-----\n";
    const EXAMPLE_PUBLIC_KEY: &str =
        "ed25519:19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";

    #[test]
    fn only_the_admin_key_matches() {
        let key = AdminKey::generate().unwrap();
        assert!(key.matches(key.reveal()));
        assert!(!key.matches(""));
        assert!(!key.matches(&key.reveal()[1..]));
        assert!(!key.matches(&format!("{}x", key.reveal())));
        assert!(!key.matches(AdminKey::generate().unwrap().reveal()));
    }

    #[test]
    fn an_admin_key_has_256_bits_after_its_prefix() {
        let key = AdminKey::generate().unwrap();
        let encoded = key.reveal().strip_prefix(ADMIN_KEY_PREFIX).unwrap();
        assert_eq!(bs58::decode(encoded).into_vec().unwrap().len(), 32);
    }

    #[test]
    fn weak_and_unusable_admin_keys_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.key");
        let with_space = format!("{0} {0}", "a".repeat(40));
        for text in ["", "short", &with_space, &"é".repeat(40)] {
            std::fs::write(&path, text).unwrap();
            let error = AdminKey::load(&path).unwrap_err();
            assert!(
                matches!(error, IdentityError::InvalidAdminKey { .. }),
                "{text:?}"
            );
        }
        std::fs::write(&path, format!("{}\n", "a".repeat(40))).unwrap();
        assert_eq!(
            AdminKey::load(&path).unwrap().unwrap().reveal(),
            "a".repeat(40)
        );
    }

    #[test]
    fn secrets_do_not_print() {
        let key = AdminKey::generate().unwrap();
        assert_eq!(format!("{key:?}"), "AdminKey(***)");
        let identity = NodeIdentity::generate().unwrap();
        let printed = format!("{identity:?}");
        assert!(
            printed.contains("***") && !printed.contains("SigningKey"),
            "{printed}"
        );
    }
}
