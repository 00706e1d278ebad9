//! One way to sign what nodes tell each other.
//!
//! ```text
//! record    = payload signature                          signature: the last 64 bytes
//! signature = ed25519 over  len:1 domain  len:1 context  payload
//! ```
//!
//! The payload is a map in deterministic CBOR, see [`cbor`](crate::cbor). The domain names the
//! kind of record and its version, so that a signature of one kind is none of another's; the
//! context is what every reader knows anyway, as the federation that an ad belongs to. What is
//! verified are the bytes as they came: nothing is ever encoded again to check it, and so a field
//! that a newer peer adds breaks no signature. A [`Signed`] gives away nothing but what is needed
//! to decide whether checking it is worth the time; a [`Verified`] is the only way to its content.

mod fields;

use std::{fmt, ops::Deref};

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

use crate::cbor::CborError;

pub(crate) use fields::{FieldReader, FieldWriter};

/// Length of an ed25519 signature.
pub const SIGNATURE_BYTES: usize = 64;
/// Length of a [`RecordId`].
pub const RECORD_ID_BYTES: usize = 20;

/// Something that is signed.
pub trait Record: Sized {
    /// What every signature of this kind covers first. At most 255 bytes.
    const DOMAIN: &'static [u8];
    /// Longest record of this kind, with its signature.
    const BYTES_MAX: usize;

    /// What every reader knows, and the signature covers. At most 255 bytes.
    type Context: ?Sized + AsRef<[u8]>;

    /// Returns the payload.
    fn encode(&self) -> Vec<u8>;

    /// Reads a payload, and checks all that needs neither a clock nor the signature.
    ///
    /// # Errors
    /// When it is not what such a payload must be.
    fn decode(payload: &[u8]) -> Result<Self, RecordError>;

    /// Returns the public key whose signature it must have. It is what the record says itself.
    fn signer(&self) -> [u8; 32];
}

/// Why bytes are no record of their kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Longer than any of its kind.
    #[error("the record is longer than {0} bytes")]
    TooLong(usize),
    /// Too short to hold a signature, or not the CBOR that it must be.
    #[error("the record is malformed: {0}")]
    Malformed(#[from] CborError),
    /// A field that it must have is not there.
    #[error("the record has no `{0}`")]
    Missing(&'static str),
    /// A field has a value that it must not have.
    #[error("the record's `{0}` is not what it must be")]
    Invalid(&'static str),
    /// It says that a field must be understood which is unknown here.
    #[error("the record needs a newer version of this node (field {0})")]
    UnknownCritical(u64),
    /// It was not signed by the key that it names, or not as it stands.
    #[error("the record's signature is not its signer's")]
    Forged,
}

/// The name of a record: the first 20 bytes of its BLAKE3 hash, signature included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId([u8; RECORD_ID_BYTES]);

/// A record as received. Nothing that it says may be relied on.
#[derive(Clone)]
pub struct Signed<T> {
    bytes: Box<[u8]>,
    record: T,
}

/// A record that was signed by the key that it names, with its bytes as received.
#[derive(Clone, PartialEq, Eq)]
pub struct Verified<T> {
    bytes: Box<[u8]>,
    record: T,
}

impl RecordId {
    /// Returns the name of these bytes.
    pub fn of(record: &[u8]) -> Self {
        let hash = blake3::hash(record);
        let mut id = [0; RECORD_ID_BYTES];
        id.copy_from_slice(&hash.as_bytes()[..RECORD_ID_BYTES]);
        Self(id)
    }

    /// Takes an id's bytes.
    pub fn from_bytes(bytes: [u8; RECORD_ID_BYTES]) -> Self {
        Self(bytes)
    }

    /// Returns its bytes.
    pub fn as_bytes(&self) -> &[u8; RECORD_ID_BYTES] {
        &self.0
    }
}

impl fmt::Debug for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecordId(")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}

impl<T: Record> Signed<T> {
    /// Reads a record. Its signature is not looked at.
    ///
    /// # Errors
    /// When it is too long, or not what a record of this kind must be.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > T::BYTES_MAX {
            return Err(RecordError::TooLong(T::BYTES_MAX));
        }
        let payload = split(bytes).ok_or(CborError::Cut)?.0;
        let record = T::decode(payload)?;
        Ok(Self {
            bytes: bytes.into(),
            record,
        })
    }

    /// Returns what it claims to say, to decide whether it is worth verifying.
    pub fn claimed(&self) -> &T {
        &self.record
    }

    /// Returns the bytes as received.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Checks its signature.
    ///
    /// # Errors
    /// [`RecordError::Forged`] when it is not that of the key that the record names.
    pub fn verify(self, context: &T::Context) -> Result<Verified<T>, RecordError> {
        let (payload, signature) = split(&self.bytes).ok_or(CborError::Cut)?;
        let key = VerifyingKey::from_bytes(&self.record.signer());
        let key = key.map_err(|_| RecordError::Forged)?;
        let signed = signing_bytes::<T>(context, payload);
        key.verify_strict(&signed, &Signature::from_bytes(signature))
            .map_err(|_| RecordError::Forged)?;
        Ok(Verified {
            bytes: self.bytes,
            record: self.record,
        })
    }
}

impl<T: Record> Verified<T> {
    /// Signs a record with the key that it names.
    ///
    /// # Errors
    /// What a reader would refuse: a value out of its bounds, or the key of somebody else.
    pub fn sign(record: &T, key: &SigningKey, context: &T::Context) -> Result<Self, RecordError> {
        let mut bytes = record.encode();
        let signature = key.sign(&signing_bytes::<T>(context, &bytes));
        bytes.extend_from_slice(&signature.to_bytes());
        let signed = Signed::<T>::parse(&bytes)?;
        if signed.record.signer() != key.verifying_key().to_bytes() {
            return Err(RecordError::Forged);
        }
        Ok(Self {
            bytes: signed.bytes,
            record: signed.record,
        })
    }

    /// Returns the bytes as received.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns it as it is sent.
    pub fn to_signed(&self) -> Signed<T>
    where
        T: Clone,
    {
        Signed {
            bytes: self.bytes.clone(),
            record: self.record.clone(),
        }
    }

    /// Returns its name.
    pub fn id(&self) -> RecordId {
        RecordId::of(&self.bytes)
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.record
    }
}

impl<T: fmt::Debug> fmt::Debug for Signed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Signed").field(&self.record).finish()
    }
}

impl<T: fmt::Debug> fmt::Debug for Verified<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Verified").field(&self.record).finish()
    }
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8; SIGNATURE_BYTES])> {
    bytes.split_last_chunk()
}

/// What a signature is over. The lengths keep domain, context and payload from flowing into each
/// other.
fn signing_bytes<T: Record>(context: &T::Context, payload: &[u8]) -> Vec<u8> {
    let (domain, context) = (T::DOMAIN, context.as_ref());
    let mut bytes = Vec::with_capacity(2 + domain.len() + context.len() + payload.len());
    for part in [domain, context] {
        let len = u8::try_from(part.len()).expect("domains and contexts are short constants");
        bytes.push(len);
        bytes.extend_from_slice(part);
    }
    bytes.extend_from_slice(payload);
    bytes
}
