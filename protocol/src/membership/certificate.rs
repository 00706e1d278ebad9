//! Certificates, and the chain of at most two that proves a membership.

use std::{fmt, time::Duration};

use crate::{
    FederationId, NodeId, UnixTime,
    cbor::{Reader, Writer},
    limits,
    signed::{FieldReader, FieldWriter, Record, RecordError, Signed, Verified},
    version,
};

use super::Revocations;

/// Numbers of the fields. A number is never used again.
mod field {
    pub(super) const FEDERATION: u64 = 1;
    pub(super) const SUBJECT: u64 = 2;
    pub(super) const ISSUER: u64 = 3;
    pub(super) const SERIAL: u64 = 4;
    pub(super) const NOT_BEFORE: u64 = 5;
    pub(super) const EXPIRES: u64 = 6;
    pub(super) const RIGHTS: u64 = 7;
}

/// What a certificate grants. Bits without a meaning grant nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Rights(u32);

/// Who signed something of a federation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Issuer {
    /// The federation's own key.
    Root,
    /// A node that the root has made an issuer.
    Node(NodeId),
}

/// What a federation grants to a node for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The federation.
    pub federation: FederationId,
    /// The node.
    pub subject: NodeId,
    /// Who signs.
    pub issuer: Issuer,
    /// A random number that tells certificates apart, for people and logs.
    pub serial: u64,
    /// When it begins.
    pub not_before: UnixTime,
    /// When it ends.
    pub expires: UnixTime,
    /// What it grants.
    pub rights: Rights,
}

/// What a node shows to be let in: its certificate, and its issuer's unless that is the root.
#[derive(Debug, Clone)]
pub struct Membership {
    certificate: Signed<Certificate>,
    issuer: Option<Signed<Certificate>>,
}

/// What a membership is checked against.
#[derive(Debug, Clone, Copy)]
pub struct Presented<'a> {
    /// The federation that is spoken of.
    pub federation: &'a FederationId,
    /// Whose key the connection proved.
    pub peer: &'a NodeId,
    /// What was taken back.
    pub revocations: &'a Revocations,
    /// The time.
    pub now: UnixTime,
}

/// A membership that was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// Who let it in.
    pub issuer: Issuer,
    /// When it ends: with the first of the certificates.
    pub expires: UnixTime,
}

/// Why a node is no member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// A certificate is malformed or forged.
    #[error("the certificate is not valid: {0}")]
    Record(#[from] RecordError),
    /// It is for another federation.
    #[error("the certificate is of another federation, {0}")]
    OtherFederation(FederationId),
    /// It is for another node.
    #[error("the certificate is of another node")]
    OtherNode,
    /// It begins later, by more than clocks may be apart.
    #[error("the certificate begins only later; check the clocks of both machines")]
    NotYetValid,
    /// It has ended.
    #[error("the certificate expired at {0} (Unix time); join again, or wait for its renewal")]
    Expired(UnixTime),
    /// It does not grant what it is shown for.
    #[error("the certificate does not grant membership")]
    NotMember,
    /// It is signed by a node that no certificate of the root makes an issuer.
    #[error("the certificate's signer is no issuer of the federation")]
    NotIssuer,
    /// The node was excluded.
    #[error("the node was excluded from the federation; only its root can lift that")]
    Revoked,
    /// Its issuer was excluded, and with it all that it signed.
    #[error("the issuer of the certificate was excluded from the federation; join again")]
    IssuerRevoked,
}

impl Rights {
    /// To take part.
    pub const MEMBER: Self = Self(1);
    /// To sign certificates of members, and to exclude members.
    pub const ISSUER: Self = Self(2);

    /// Takes bits as certificates write them.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// Returns the bits.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Returns these and others.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of another's are among them.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Longest life of a certificate that grants them. Membership is short, so that a node whose
    /// revocation has not reached everybody is out soon anyway.
    fn life_max(self) -> Duration {
        if self.contains(Self::MEMBER) {
            limits::CERTIFICATE_LIFE_MAX
        } else {
            limits::ISSUER_CERTIFICATE_LIFE_MAX
        }
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rights({:#b})", self.0)
    }
}

impl Issuer {
    /// Returns the public key that signs.
    pub fn key(&self, federation: &FederationId) -> [u8; 32] {
        match self {
            Self::Root => *federation.as_bytes(),
            Self::Node(node) => *node.as_bytes(),
        }
    }
}

impl Certificate {
    /// Returns when its subject should ask for the next one: half of its life is left then, to find
    /// its issuer awake.
    pub fn renew_at(&self) -> UnixTime {
        let life = self.expires.since(self.not_before);
        self.not_before.plus(life / 2)
    }

    /// Checks what holds between fields.
    fn check(self) -> Result<Self, RecordError> {
        let life = self.expires.since(self.not_before);
        if life.is_zero() || life > self.rights.life_max() {
            return Err(RecordError::Invalid("expires"));
        }
        // Issuers do not make issuers: a chain has two links.
        if self.rights.contains(Rights::ISSUER) && self.issuer != Issuer::Root {
            return Err(RecordError::Invalid("rights"));
        }
        Ok(self)
    }

    /// Checks whether it holds at a time, in a federation.
    fn check_at(&self, federation: &FederationId, now: UnixTime) -> Result<(), MembershipError> {
        if self.federation != *federation {
            return Err(MembershipError::OtherFederation(self.federation));
        }
        if self.not_before > now.plus(limits::CLOCK_SKEW_MAX) {
            return Err(MembershipError::NotYetValid);
        }
        if self.expires <= now {
            return Err(MembershipError::Expired(self.expires));
        }
        Ok(())
    }
}

impl Record for Certificate {
    const DOMAIN: &'static [u8] = version::CERTIFICATE_DOMAIN;
    const BYTES_MAX: usize = limits::CERTIFICATE_BYTES_MAX;
    /// The federation is a field: whoever is shown a certificate of another shall be told so.
    type Context = [u8; 0];

    fn encode(&self) -> Vec<u8> {
        let mut fields = FieldWriter::new();
        let federation = self.federation.as_bytes();
        fields.field(field::FEDERATION).bytes(federation);
        fields.field(field::SUBJECT).bytes(self.subject.as_bytes());
        if let Issuer::Node(node) = &self.issuer {
            fields.field(field::ISSUER).bytes(node.as_bytes());
        }
        fields.field(field::SERIAL).uint(self.serial);
        fields
            .field(field::NOT_BEFORE)
            .uint(self.not_before.seconds());
        fields.field(field::EXPIRES).uint(self.expires.seconds());
        fields.field(field::RIGHTS).uint(self.rights.0.into());
        fields.into_payload()
    }

    fn decode(payload: &[u8]) -> Result<Self, RecordError> {
        let (mut federation, mut subject, mut issuer) = (None, None, Issuer::Root);
        let (mut serial, mut not_before, mut expires, mut rights) = (None, None, None, None);
        let mut fields = FieldReader::new(payload)?;
        while let Some(field) = fields.next()? {
            match field {
                field::FEDERATION => federation = Some(fields.federation()?),
                field::SUBJECT => subject = Some(fields.node("subject")?),
                field::ISSUER => issuer = Issuer::Node(fields.node("issuer")?),
                field::SERIAL => serial = Some(fields.value.uint()?),
                field::NOT_BEFORE => not_before = Some(fields.time()?),
                field::EXPIRES => expires = Some(fields.time()?),
                field::RIGHTS => {
                    let bits = u32::try_from(fields.value.uint()?);
                    rights = Some(bits.map_err(|_| RecordError::Invalid("rights"))?);
                }
                unknown => fields.unknown(unknown)?,
            }
        }
        let missing = RecordError::Missing;
        let certificate = Self {
            federation: federation.ok_or(missing("federation"))?,
            subject: subject.ok_or(missing("subject"))?,
            issuer,
            serial: serial.ok_or(missing("serial"))?,
            not_before: not_before.ok_or(missing("not_before"))?,
            expires: expires.ok_or(missing("expires"))?,
            rights: rights.map(Rights).ok_or(missing("rights"))?,
        };
        certificate.check()
    }

    fn signer(&self) -> [u8; 32] {
        self.issuer.key(&self.federation)
    }
}

impl Membership {
    /// Puts together what a node shows.
    pub fn new(
        certificate: &Verified<Certificate>,
        issuer: Option<&Verified<Certificate>>,
    ) -> Self {
        Self {
            certificate: certificate.to_signed(),
            issuer: issuer.map(Verified::to_signed),
        }
    }

    /// Reads what a node shows. Nothing of it is verified.
    ///
    /// # Errors
    /// When it is not one or two certificates.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > limits::MEMBERSHIP_BYTES_MAX {
            return Err(RecordError::TooLong(limits::MEMBERSHIP_BYTES_MAX));
        }
        let mut reader = Reader::new(bytes);
        let links = reader.array(2)?;
        if links == 0 {
            return Err(RecordError::Missing("certificate"));
        }
        let certificate = Signed::parse(reader.bytes(limits::CERTIFICATE_BYTES_MAX)?)?;
        let mut issuer = None;
        if links == 2 {
            issuer = Some(Signed::parse(reader.bytes(limits::CERTIFICATE_BYTES_MAX)?)?);
        }
        reader.end()?;
        Ok(Self {
            certificate,
            issuer,
        })
    }

    /// Returns its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.array(1 + usize::from(self.issuer.is_some()));
        writer.bytes(self.certificate.as_bytes());
        if let Some(issuer) = &self.issuer {
            writer.bytes(issuer.as_bytes());
        }
        writer.into_bytes()
    }

    /// Checks that a peer is a member, now. Ask again while a connection lives: it ends when the
    /// certificate does, and when a revocation arrives.
    ///
    /// # Errors
    /// Why it is none.
    pub fn verify(&self, presented: Presented<'_>) -> Result<Member, MembershipError> {
        let Presented {
            federation,
            peer,
            revocations,
            now,
        } = presented;
        let claimed = self.certificate.claimed();
        claimed.check_at(federation, now)?;
        if claimed.subject != *peer {
            return Err(MembershipError::OtherNode);
        }
        if !claimed.rights.contains(Rights::MEMBER) {
            return Err(MembershipError::NotMember);
        }
        if revocations.excludes(peer) {
            return Err(MembershipError::Revoked);
        }
        let mut expires = claimed.expires;
        if let Issuer::Node(node) = &claimed.issuer {
            let issuer = self.issuer.as_ref().ok_or(MembershipError::NotIssuer)?;
            check_issuer(issuer, node, presented)?;
            expires = expires.min(issuer.claimed().expires);
        }
        let issuer = claimed.issuer;
        self.certificate.clone().verify(&[])?;
        Ok(Member {
            node: *peer,
            issuer,
            expires,
        })
    }
}

/// Checks that a certificate makes a node an issuer, now.
fn check_issuer(
    certificate: &Signed<Certificate>,
    node: &NodeId,
    presented: Presented<'_>,
) -> Result<(), MembershipError> {
    let claimed = certificate.claimed();
    claimed.check_at(presented.federation, presented.now)?;
    let issues = claimed.subject == *node && claimed.rights.contains(Rights::ISSUER);
    if !issues {
        return Err(MembershipError::NotIssuer);
    }
    if presented.revocations.excludes_issuer(node) {
        return Err(MembershipError::IssuerRevoked);
    }
    certificate.clone().verify(&[])?;
    Ok(())
}
