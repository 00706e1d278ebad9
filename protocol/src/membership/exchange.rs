//! How two nodes exchange revocations in their handshake: each says what it has, and sends what
//! the other has not.

use crate::{
    NodeId, RecordError,
    cbor::{CborError, Reader, Writer},
    limits,
    signed::{Signed, Verified},
};

use super::{Certificate, Issuer, Revocation, RevocationSummary, Revocations};

/// Entries of revocations as they are sent, with what makes their signers issuers.
#[derive(Debug, Clone, Default)]
pub struct RevocationBatch {
    /// Certificates of the issuers among the signers.
    pub certificates: Vec<Signed<Certificate>>,
    /// The entries. Without any, the sender has no more.
    pub entries: Vec<Signed<Revocation>>,
}

impl RevocationSummary {
    /// Returns its bytes: pairs of signer and number, where the root is the empty signer.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.array(self.0.len());
        for (signer, number) in &self.0 {
            writer.array(2);
            match signer {
                Issuer::Root => writer.bytes(&[]),
                Issuer::Node(node) => writer.bytes(node.as_bytes()),
            };
            writer.uint(*number);
        }
        writer.into_bytes()
    }

    /// Reads a summary.
    ///
    /// # Errors
    /// When it is none, or has more signers than there may be.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut reader = Reader::new(bytes);
        let signers = reader.array(limits::REVOKING_ISSUERS_MAX + 1)?;
        let mut seen = Vec::with_capacity(signers);
        for _ in 0..signers {
            if reader.array(2)? != 2 {
                return Err(CborError::Length.into());
            }
            let signer = match reader.bytes(32)? {
                [] => Issuer::Root,
                key => {
                    let key = key.try_into().map_err(|_| CborError::Length)?;
                    let node = NodeId::from_bytes(key);
                    Issuer::Node(node.map_err(|_| RecordError::Invalid("signer"))?)
                }
            };
            seen.push((signer, reader.uint()?));
        }
        reader.end()?;
        Ok(Self(seen))
    }
}

impl RevocationBatch {
    /// Returns what somebody with this summary has not, as much as one message holds.
    pub fn for_summary(revocations: &Revocations, summary: &RevocationSummary) -> Self {
        let missing = revocations.missing(summary, limits::REVOCATIONS_PER_MESSAGE_MAX);
        let mut batch = Self::default();
        for (entry, certificate) in missing {
            // Entries come signer by signer, so one certificate is needed once, before its first.
            let certificate = certificate.map(Verified::to_signed);
            let last = batch.certificates.last().map(Signed::as_bytes);
            if let Some(certificate) = certificate
                && last != Some(certificate.as_bytes())
            {
                batch.certificates.push(certificate);
            }
            batch.entries.push(entry.to_signed());
        }
        batch
    }

    /// Returns its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.array(2);
        writer.array(self.certificates.len());
        for certificate in &self.certificates {
            writer.bytes(certificate.as_bytes());
        }
        writer.array(self.entries.len());
        for entry in &self.entries {
            writer.bytes(entry.as_bytes());
        }
        writer.into_bytes()
    }

    /// Reads a batch. Nothing of it is verified.
    ///
    /// # Errors
    /// When it is none, or longer than one may be.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > limits::REVOCATION_BATCH_BYTES_MAX {
            return Err(RecordError::TooLong(limits::REVOCATION_BATCH_BYTES_MAX));
        }
        let mut reader = Reader::new(bytes);
        if reader.array(2)? != 2 {
            return Err(CborError::Length.into());
        }
        let mut batch = Self::default();
        for _ in 0..reader.array(limits::REVOKING_ISSUERS_MAX)? {
            let certificate = reader.bytes(limits::CERTIFICATE_BYTES_MAX)?;
            batch.certificates.push(Signed::parse(certificate)?);
        }
        for _ in 0..reader.array(limits::REVOCATIONS_PER_MESSAGE_MAX)? {
            let entry = reader.bytes(limits::REVOCATION_BYTES_MAX)?;
            batch.entries.push(Signed::parse(entry)?);
        }
        reader.end()?;
        Ok(batch)
    }

    /// Returns the certificate that came with an entry, if its signer needs one.
    pub fn certificate_of(&self, entry: &Revocation) -> Option<&Signed<Certificate>> {
        let Issuer::Node(node) = entry.signer else {
            return None;
        };
        let mut certificates = self.certificates.iter();
        certificates.find(|certificate| certificate.claimed().subject == node)
    }
}
