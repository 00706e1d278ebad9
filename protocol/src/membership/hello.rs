//! What two nodes say before anything else, and how a newcomer asks for a certificate.
//!
//! A hello names federations, shows a membership in each where there is one, and says which
//! revocations its sender has. Whom a node shows which of its federations is for the node to
//! choose: a certificate names its federation, and nothing is to leak from one to the other.

use crate::{
    FederationId, RecordError,
    cbor::{CborError, Reader, Writer},
    limits,
    signed::Signed,
};

use super::{Certificate, JoinSecret, Membership, RevocationSummary};

/// Longest summary of revocations: a key and a number for each signer.
const SUMMARY_BYTES_MAX: usize = (limits::REVOKING_ISSUERS_MAX + 1) * 45 + 4;

/// Kinds of requests to join, and of their answers. A number is never used again.
const WITH_SECRET: u64 = 1;
const WITH_CERTIFICATE: u64 = 2;
const GRANTED: u64 = 1;
const REFUSED: u64 = 2;

/// What a node says of itself in one federation.
#[derive(Debug, Clone)]
pub struct Introduction {
    /// The federation.
    pub federation: FederationId,
    /// That it is a member; a newcomer shows none.
    pub membership: Option<Membership>,
    /// Which revocations it has.
    pub revocations: RevocationSummary,
}

/// What a node says of itself.
#[derive(Debug, Clone, Default)]
pub struct Hello(pub Vec<Introduction>);

/// How somebody asks an issuer for a certificate.
#[derive(Debug, Clone)]
pub enum JoinRequest {
    /// With the secret of an invite.
    WithSecret {
        /// The federation.
        federation: FederationId,
        /// The secret.
        secret: JoinSecret,
    },
    /// With the certificate that the issuer gave it before.
    Renewal {
        /// That certificate. It may have ended not too long ago.
        certificate: Signed<Certificate>,
    },
}

/// What an issuer answers.
#[derive(Debug, Clone)]
pub enum JoinAnswer {
    /// The node is a member, with this to show.
    Granted(Box<Membership>),
    /// It is none, for this reason.
    Refused(JoinRefusal),
}

/// Why an issuer gives no certificate. The words are the reader's own, so that none of a stranger's
/// come to a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinRefusal {
    /// The node that was asked is no issuer of this federation.
    #[error("the node that was asked lets nobody into this federation")]
    NotIssuer,
    /// It has no such invite.
    #[error("the node knows no such invite, or it has expired; ask for a new one")]
    UnknownInvite,
    /// The invite has ended.
    #[error("the invite has expired; ask for a new one")]
    ExpiredInvite,
    /// As many have used it as may.
    #[error("the invite has been used up; ask for a new one")]
    SpentInvite,
    /// The node that asks is excluded.
    #[error("this node was excluded from the federation; only its root can lift that")]
    Excluded,
    /// The certificate to renew is not one of this issuer for this node, or ended too long ago.
    #[error("the old certificate cannot be renewed; ask for an invite")]
    NotRenewable,
    /// Something that this version does not know.
    #[error("the node refuses, for a reason that only newer versions know")]
    Other,
}

impl Hello {
    /// Returns its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.array(self.0.len());
        for introduction in &self.0 {
            let membership = introduction.membership.as_ref();
            let membership = membership.map_or_else(Vec::new, Membership::to_bytes);
            writer.array(3).bytes(introduction.federation.as_bytes());
            writer.bytes(&membership);
            writer.bytes(&introduction.revocations.to_bytes());
        }
        writer.into_bytes()
    }

    /// Reads a hello. Nothing in it is verified.
    ///
    /// # Errors
    /// When it is malformed, or longer than one may be.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > limits::HELLO_BYTES_MAX {
            return Err(RecordError::TooLong(limits::HELLO_BYTES_MAX));
        }
        let mut reader = Reader::new(bytes);
        let count = reader.array(limits::HELLO_FEDERATIONS_MAX)?;
        let introductions = (0..count).map(|_| Introduction::read(&mut reader));
        let introductions = introductions.collect::<Result<_, _>>()?;
        reader.end()?;
        Ok(Self(introductions))
    }
}

impl Introduction {
    fn read(reader: &mut Reader<'_>) -> Result<Self, RecordError> {
        if reader.array(3)? != 3 {
            return Err(CborError::Length.into());
        }
        let federation = read_federation(reader)?;
        let membership = match reader.bytes(limits::MEMBERSHIP_BYTES_MAX)? {
            [] => None,
            bytes => Some(Membership::parse(bytes)?),
        };
        let revocations = RevocationSummary::parse(reader.bytes(SUMMARY_BYTES_MAX)?)?;
        Ok(Self {
            federation,
            membership,
            revocations,
        })
    }
}

impl JoinRequest {
    /// Returns the federation that is asked for. It proves nothing.
    pub fn federation(&self) -> &FederationId {
        match self {
            Self::WithSecret { federation, .. } => federation,
            Self::Renewal { certificate } => &certificate.claimed().federation,
        }
    }

    /// Returns its bytes, which hold a secret.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        match self {
            Self::WithSecret { federation, secret } => {
                writer.array(3).uint(WITH_SECRET);
                writer.bytes(federation.as_bytes());
                writer.bytes(secret.as_bytes());
            }
            Self::Renewal { certificate } => {
                writer.array(2).uint(WITH_CERTIFICATE);
                writer.bytes(certificate.as_bytes());
            }
        }
        writer.into_bytes()
    }

    /// Reads a request.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut reader = Reader::new(bytes);
        let parts = reader.array(3)?;
        let request = match (parts, reader.uint()?) {
            (3, WITH_SECRET) => Self::WithSecret {
                federation: read_federation(&mut reader)?,
                secret: JoinSecret::from_bytes(reader.fixed()?),
            },
            (2, WITH_CERTIFICATE) => Self::Renewal {
                certificate: Signed::parse(reader.bytes(limits::CERTIFICATE_BYTES_MAX)?)?,
            },
            _ => return Err(RecordError::Invalid("request")),
        };
        reader.end()?;
        Ok(request)
    }
}

impl JoinAnswer {
    /// Returns its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.array(2);
        match self {
            Self::Granted(membership) => writer.uint(GRANTED).bytes(&membership.to_bytes()),
            Self::Refused(refusal) => writer.uint(REFUSED).uint(refusal.number()),
        };
        writer.into_bytes()
    }

    /// Reads an answer. A membership in it is not verified.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut reader = Reader::new(bytes);
        let parts = reader.array(2)?;
        let answer = match (parts, reader.uint()?) {
            (2, GRANTED) => {
                let membership = reader.bytes(limits::MEMBERSHIP_BYTES_MAX)?;
                Self::Granted(Box::new(Membership::parse(membership)?))
            }
            (2, REFUSED) => Self::Refused(JoinRefusal::from_number(reader.uint()?)),
            _ => return Err(RecordError::Invalid("answer")),
        };
        reader.end()?;
        Ok(answer)
    }
}

impl JoinRefusal {
    fn number(self) -> u64 {
        match self {
            Self::Other => 0,
            Self::NotIssuer => 1,
            Self::UnknownInvite => 2,
            Self::ExpiredInvite => 3,
            Self::SpentInvite => 4,
            Self::Excluded => 5,
            Self::NotRenewable => 6,
        }
    }

    fn from_number(number: u64) -> Self {
        match number {
            1 => Self::NotIssuer,
            2 => Self::UnknownInvite,
            3 => Self::ExpiredInvite,
            4 => Self::SpentInvite,
            5 => Self::Excluded,
            6 => Self::NotRenewable,
            _ => Self::Other,
        }
    }
}

fn read_federation(reader: &mut Reader<'_>) -> Result<FederationId, RecordError> {
    let bytes = reader.fixed()?;
    FederationId::from_bytes(bytes).map_err(|_| RecordError::Invalid("federation"))
}
