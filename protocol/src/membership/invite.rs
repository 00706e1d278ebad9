//! Invites: the one line with which a person joins a federation.
//!
//! ```text
//! text  = "aither_invite_" base64url(bytes)
//! bytes = version:1  length:2  payload:length  checksum:4
//! ```
//!
//! It is copied by people, so reading it says which of the usual accidents happened: the end was
//! left behind, a character is another, it is too old, or it is something else altogether. Space
//! and line breaks, which terminals and mails put in, are passed over. It is not signed: it grants
//! what its secret grants, at the issuer that it names, whose peer id the connection proves.

use std::fmt;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use zeroize::Zeroizing;

use crate::{
    FederationId, NodeId, RecordError, UnixTime, limits,
    signed::{FieldReader, FieldWriter},
    version,
};

use super::{BootstrapAddress, JoinSecret};

/// What the text of an invite starts with.
pub const INVITE_PREFIX: &str = "aither_invite_";

/// Version and length.
const HEADER_BYTES: usize = 3;
const CHECKSUM_BYTES: usize = 4;
/// The header in base64, which three bytes fill without a rest.
const HEADER_CHARACTERS: usize = 4;
/// Longest text that is looked at: the longest invite, with a line break after every character.
const TEXT_BYTES_MAX: usize = 2 * (limits::INVITE_BYTES_MAX + 64) * 4 / 3;

/// Numbers of the fields. A number is never used again.
mod field {
    pub(super) const FEDERATION: u64 = 1;
    pub(super) const ISSUER: u64 = 2;
    pub(super) const SECRET: u64 = 3;
    pub(super) const EXPIRES: u64 = 4;
    pub(super) const ADDRESSES: u64 = 5;
}

/// How somebody joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invite {
    /// The federation.
    pub federation: FederationId,
    /// The node that made the secret, and alone exchanges it for a certificate.
    pub issuer: NodeId,
    /// The secret.
    pub secret: JoinSecret,
    /// When it ends.
    pub expires: UnixTime,
    /// Where to begin: the issuer itself, or nodes that know where it is.
    pub addresses: Vec<BootstrapAddress>,
}

/// Why a text is no invite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InviteError {
    /// It does not begin as one.
    #[error("this is no invite: one begins with {INVITE_PREFIX}")]
    NotAnInvite,
    /// It ends too early.
    #[error(
        "the invite is cut short: {missing} of its {length} characters are missing; copy the \
         whole line"
    )]
    Cut {
        /// How many characters it has when it is whole.
        length: usize,
        /// How many of them are not there.
        missing: usize,
    },
    /// It goes on after its end.
    #[error("there is more than the invite: {extra} characters after its end; copy that line only")]
    Extra {
        /// How many characters there are after it.
        extra: usize,
    },
    /// A character is another than it was.
    #[error("the invite was changed on its way: a character is wrong; copy it instead of typing")]
    Mistyped,
    /// It was made by a newer node.
    #[error("the invite is of version {0}, which this node does not know; update it")]
    NewerVersion(u8),
    /// It is whole, and not what an invite must be.
    #[error("the invite is not valid: {0}")]
    Invalid(#[from] RecordError),
    /// It has ended.
    #[error("the invite expired at {0} (Unix time); ask for a new one")]
    Expired(UnixTime),
}

impl Invite {
    /// Reads an invite's text, and checks that it has not ended.
    ///
    /// # Errors
    /// What is wrong with it, in words for whoever copied it.
    pub fn parse(text: &str, now: UnixTime) -> Result<Self, InviteError> {
        let invite = Self::read(text)?;
        if invite.expires <= now {
            return Err(InviteError::Expired(invite.expires));
        }
        Ok(invite)
    }

    /// Reads an invite's text, whether it has ended or not.
    ///
    /// # Errors
    /// What is wrong with it, in words for whoever copied it.
    pub fn read(text: &str) -> Result<Self, InviteError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(InviteError::NotAnInvite);
        }
        let text: Zeroizing<String> =
            Zeroizing::new(text.chars().filter(|char| !char.is_whitespace()).collect());
        let encoded = text
            .strip_prefix(INVITE_PREFIX)
            .ok_or(InviteError::NotAnInvite)?;
        let payload_len = read_header(encoded)?;
        check_length(encoded, payload_len)?;
        let bytes = Base64UrlUnpadded::decode_vec(encoded).map(Zeroizing::new);
        let bytes = bytes.map_err(|_| InviteError::Mistyped)?;
        let (summed, sum) = bytes
            .split_last_chunk::<CHECKSUM_BYTES>()
            .ok_or(InviteError::Mistyped)?;
        if checksum(summed) != *sum {
            return Err(InviteError::Mistyped);
        }
        Ok(Self::decode(&summed[HEADER_BYTES..])?)
    }

    /// Returns its text: a secret, for whoever has it can join.
    ///
    /// # Errors
    /// When it has too many addresses, none, or is too long.
    pub fn to_text(&self) -> Result<Zeroizing<String>, InviteError> {
        let payload = Zeroizing::new(self.encode());
        Self::decode(&payload)?;
        let len = u16::try_from(payload.len());
        let len = len.map_err(|_| RecordError::TooLong(limits::INVITE_BYTES_MAX))?;
        let whole = HEADER_BYTES + payload.len() + CHECKSUM_BYTES;
        let mut bytes = Zeroizing::new(Vec::with_capacity(whole));
        bytes.push(version::INVITE);
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.extend_from_slice(&payload);
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum);
        let encoded = Zeroizing::new(Base64UrlUnpadded::encode_string(&bytes));
        Ok(Zeroizing::new([INVITE_PREFIX, &encoded].concat()))
    }

    fn encode(&self) -> Vec<u8> {
        let mut fields = FieldWriter::new();
        let federation = self.federation.as_bytes();
        fields.field(field::FEDERATION).bytes(federation);
        fields.field(field::ISSUER).bytes(self.issuer.as_bytes());
        fields.field(field::SECRET).bytes(self.secret.as_bytes());
        fields.field(field::EXPIRES).uint(self.expires.seconds());
        let addresses = fields.field(field::ADDRESSES).array(self.addresses.len());
        for address in &self.addresses {
            // Most are the issuer's, whose id need not be said again.
            if *address.peer() == self.issuer {
                addresses.array(1).text(address.way());
            } else {
                addresses.array(2).text(address.way());
                addresses.bytes(address.peer().as_bytes());
            }
        }
        fields.into_payload()
    }

    fn decode(payload: &[u8]) -> Result<Self, RecordError> {
        if payload.len() > limits::INVITE_BYTES_MAX {
            return Err(RecordError::TooLong(limits::INVITE_BYTES_MAX));
        }
        let (mut federation, mut issuer, mut secret) = (None, None, None);
        let (mut expires, mut addresses) = (None, Vec::new());
        let mut fields = FieldReader::new(payload)?;
        while let Some(field) = fields.next()? {
            match field {
                field::FEDERATION => federation = Some(fields.federation()?),
                field::ISSUER => issuer = Some(fields.node("issuer")?),
                field::SECRET => secret = Some(JoinSecret::from_bytes(fields.value.fixed()?)),
                field::EXPIRES => expires = Some(fields.time()?),
                field::ADDRESSES => {
                    // The issuer's field is the lower one, so it has been read.
                    let issuer = issuer.ok_or(RecordError::Missing("issuer"))?;
                    addresses = read_addresses(&mut fields, issuer)?;
                }
                unknown => fields.unknown(unknown)?,
            }
        }
        if addresses.is_empty() {
            return Err(RecordError::Missing("addresses"));
        }
        let missing = RecordError::Missing;
        Ok(Self {
            federation: federation.ok_or(missing("federation"))?,
            issuer: issuer.ok_or(missing("issuer"))?,
            secret: secret.ok_or(missing("secret"))?,
            expires: expires.ok_or(missing("expires"))?,
            addresses,
        })
    }
}

/// Returns the length of the payload.
fn read_header(encoded: &str) -> Result<usize, InviteError> {
    let cut = InviteError::Cut {
        length: INVITE_PREFIX.len() + characters(0),
        missing: characters(0).saturating_sub(encoded.len()),
    };
    let header = encoded.as_bytes().get(..HEADER_CHARACTERS).ok_or(cut)?;
    let mut bytes = [0; HEADER_BYTES];
    Base64UrlUnpadded::decode(header, &mut bytes).map_err(|_| InviteError::Mistyped)?;
    match bytes {
        [version::INVITE, high, low] => Ok(usize::from(u16::from_be_bytes([high, low]))),
        [0, ..] => Err(InviteError::Mistyped),
        [version, ..] => Err(InviteError::NewerVersion(version)),
    }
}

fn check_length(encoded: &str, payload_len: usize) -> Result<(), InviteError> {
    if payload_len > limits::INVITE_BYTES_MAX {
        return Err(InviteError::Mistyped);
    }
    let (length, found) = (characters(payload_len), encoded.len());
    if let Some(missing) = length.checked_sub(found).filter(|missing| *missing > 0) {
        let length = INVITE_PREFIX.len() + length;
        return Err(InviteError::Cut { length, missing });
    }
    match found - length {
        0 => Ok(()),
        extra => Err(InviteError::Extra { extra }),
    }
}

/// Returns how many characters an invite with such a payload has after its prefix.
fn characters(payload_len: usize) -> usize {
    ((HEADER_BYTES + payload_len + CHECKSUM_BYTES) * 4).div_ceil(3)
}

fn read_addresses(
    fields: &mut FieldReader<'_>,
    issuer: NodeId,
) -> Result<Vec<BootstrapAddress>, RecordError> {
    let count = fields.value.array(limits::INVITE_ADDRESSES_MAX)?;
    let read = (0..count).map(|_| {
        let parts = fields.value.array(2)?;
        let way = fields.value.text(limits::ADDRESS_BYTES_MAX)?;
        let peer = match parts {
            2 => fields.node("addresses")?,
            _ => issuer,
        };
        BootstrapAddress::new(way, peer).map_err(|_| RecordError::Invalid("addresses"))
    });
    read.collect()
}

/// Found wrong are a mistyped character always but for one time in four thousand million.
fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(version::INVITE_CHECKSUM_DOMAIN);
    hasher.update(bytes);
    let mut sum = [0; CHECKSUM_BYTES];
    sum.copy_from_slice(&hasher.finalize().as_bytes()[..CHECKSUM_BYTES]);
    sum
}

impl fmt::Display for Invite {
    /// Without the secret: for logs and tables.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invite of {} to {}", self.issuer, self.federation)
    }
}
