//! One entry of the set of revocations: a node is excluded, or the root takes that back.

use crate::{
    FederationId, NodeId, UnixTime, limits,
    signed::{FieldReader, FieldWriter, Record, RecordError},
    version,
};

use super::Issuer;

/// Numbers of the fields. A number is never used again.
mod field {
    pub(super) const FEDERATION: u64 = 1;
    pub(super) const SIGNER: u64 = 2;
    pub(super) const NUMBER: u64 = 3;
    pub(super) const ISSUED: u64 = 4;
    pub(super) const SUBJECT: u64 = 5;
    pub(super) const HONOURED: u64 = 6;
    pub(super) const LIFTED: u64 = 7;
    pub(super) const LIFTED_SIGNER: u64 = 8;
}

/// What an entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statement {
    /// The node is excluded. When the root excludes an issuer, all that it signed ends with it,
    /// but for its own entries up to a number.
    Exclude {
        /// The node.
        node: NodeId,
        /// The last number of the node's own entries that stays in force.
        honoured: u64,
    },
    /// One earlier exclusion no longer counts. Only the root says so.
    Lift {
        /// Who signed the exclusion.
        signer: Issuer,
        /// Its number.
        number: u64,
    },
}

/// One entry of the set. Each signer numbers its own, from 1 on and without gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// The federation.
    pub federation: FederationId,
    /// Who signs.
    pub signer: Issuer,
    /// Its number among its signer's.
    pub number: u64,
    /// When it was made, for people.
    pub issued: UnixTime,
    /// What it says.
    pub statement: Statement,
}

impl Record for Revocation {
    const DOMAIN: &'static [u8] = version::REVOCATION_DOMAIN;
    const BYTES_MAX: usize = limits::REVOCATION_BYTES_MAX;
    type Context = [u8; 0];

    fn encode(&self) -> Vec<u8> {
        let mut fields = FieldWriter::new();
        let federation = self.federation.as_bytes();
        fields.field(field::FEDERATION).bytes(federation);
        if let Issuer::Node(node) = &self.signer {
            fields.field(field::SIGNER).bytes(node.as_bytes());
        }
        fields.field(field::NUMBER).uint(self.number);
        fields.field(field::ISSUED).uint(self.issued.seconds());
        match &self.statement {
            Statement::Exclude { node, honoured } => {
                fields.field(field::SUBJECT).bytes(node.as_bytes());
                if *honoured > 0 {
                    fields.field(field::HONOURED).uint(*honoured);
                }
            }
            Statement::Lift { signer, number } => {
                fields.field(field::LIFTED).uint(*number);
                if let Issuer::Node(node) = signer {
                    fields.field(field::LIFTED_SIGNER).bytes(node.as_bytes());
                }
            }
        }
        fields.into_payload()
    }

    fn decode(payload: &[u8]) -> Result<Self, RecordError> {
        let (mut federation, mut signer, mut number, mut issued) = (None, Issuer::Root, None, None);
        let (mut subject, mut honoured, mut lifted, mut lifted_signer) = (None, None, None, None);
        let mut fields = FieldReader::new(payload)?;
        while let Some(field) = fields.next()? {
            match field {
                field::FEDERATION => federation = Some(fields.federation()?),
                field::SIGNER => signer = Issuer::Node(fields.node("signer")?),
                field::NUMBER => number = Some(fields.value.uint()?),
                field::ISSUED => issued = Some(fields.time()?),
                field::SUBJECT => subject = Some(fields.node("subject")?),
                field::HONOURED => honoured = Some(fields.value.uint()?),
                field::LIFTED => lifted = Some(fields.value.uint()?),
                field::LIFTED_SIGNER => {
                    lifted_signer = Some(Issuer::Node(fields.node("lifted_signer")?));
                }
                unknown => fields.unknown(unknown)?,
            }
        }
        let statement = match (subject, lifted) {
            (Some(node), None) if lifted_signer.is_none() => Statement::Exclude {
                node,
                honoured: honoured.unwrap_or(0),
            },
            (None, Some(number)) if honoured.is_none() => Statement::Lift {
                signer: lifted_signer.unwrap_or(Issuer::Root),
                number,
            },
            _ => return Err(RecordError::Invalid("subject")),
        };
        let missing = RecordError::Missing;
        let revocation = Self {
            federation: federation.ok_or(missing("federation"))?,
            signer,
            number: number.ok_or(missing("number"))?,
            issued: issued.ok_or(missing("issued"))?,
            statement,
        };
        revocation.check()
    }

    fn signer(&self) -> [u8; 32] {
        self.signer.key(&self.federation)
    }
}

impl Revocation {
    /// Most entries of one signer.
    pub fn number_max(signer: &Issuer) -> u64 {
        match signer {
            Issuer::Root => limits::ROOT_REVOCATIONS_MAX,
            Issuer::Node(_) => limits::ISSUER_REVOCATIONS_MAX,
        }
    }

    /// Checks what holds between fields.
    fn check(self) -> Result<Self, RecordError> {
        if !(1..=Self::number_max(&self.signer)).contains(&self.number) {
            return Err(RecordError::Invalid("number"));
        }
        let of_issuer = self.signer != Issuer::Root;
        match &self.statement {
            Statement::Lift { .. } if of_issuer => Err(RecordError::Invalid("lifted")),
            Statement::Exclude { honoured, .. } if of_issuer && *honoured > 0 => {
                Err(RecordError::Invalid("honoured"))
            }
            _ => Ok(self),
        }
    }
}
