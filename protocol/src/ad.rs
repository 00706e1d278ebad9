//! Ads: what a node tells all others about one of its agents or models, in some 230 bytes.
//!
//! An ad is gossiped, so it holds what finds and ranks its subject and no more; the signed card is
//! fetched by its hash. It is signed by its node's key, and the signature covers the federation
//! that it was made for: it is worth nothing in another one. `docs/protocol/ads.md` has the bytes.
//!
//! Which of two ads of one subject counts is a matter of their numbers, never of who came first:
//! see [`Ad::order`]. An ad that says that its subject is gone is a *tombstone*; it outlives every
//! ad that it may have to bury.

use std::{cmp::Ordering, fmt, time::Duration};

use ed25519_dalek::SigningKey;

use crate::{
    FederationId, NodeId, UnixTime, limits,
    signed::{FieldReader, FieldWriter, Record, RecordError, Verified},
    version,
};

/// Numbers of the fields. A number is never used again.
mod field {
    pub(super) const NODE: u64 = 1;
    pub(super) const KIND: u64 = 2;
    pub(super) const NAME: u64 = 3;
    pub(super) const EPOCH: u64 = 4;
    pub(super) const SEQUENCE: u64 = 5;
    pub(super) const ISSUED: u64 = 6;
    pub(super) const EXPIRES: u64 = 7;
    pub(super) const TOMBSTONE: u64 = 8;
    pub(super) const CARD_HASH: u64 = 9;
    pub(super) const SKILLS: u64 = 10;
    pub(super) const PRICE: u64 = 11;
    pub(super) const FLAGS: u64 = 12;
}

/// Length of a [`SkillHash`].
const SKILL_HASH_BYTES: usize = 8;
/// Length of a [`SubjectId`].
pub const SUBJECT_ID_BYTES: usize = 20;

/// What an ad is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SubjectKind {
    /// An agent, by its name.
    Agent,
    /// A model, by the name under which its node serves it.
    Model,
}

/// A skill's id, hashed to what an ad has room for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SkillHash([u8; SKILL_HASH_BYTES]);

/// Which subject an ad is about: a hash of its node, kind and name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubjectId([u8; SUBJECT_ID_BYTES]);

/// What is true or false of a subject. Bits without a meaning are kept and ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AdFlags(pub u32);

/// What a node says about one of its subjects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ad {
    /// The node that serves it, and signs.
    pub node: NodeId,
    /// What kind of thing it is.
    pub kind: SubjectKind,
    /// Its name on that node.
    pub name: String,
    /// The node's life that this belongs to: rises with every start. Unix seconds, or a little
    /// more.
    pub epoch: u64,
    /// Rises with every ad of the subject within an epoch.
    pub sequence: u64,
    /// When it was made, by the node's clock.
    pub issued: UnixTime,
    /// When it ends, by everybody's.
    pub expires: UnixTime,
    /// What there is to know, unless the subject is gone.
    pub offer: Option<Offer>,
}

/// What a subject offers, as far as it finds and ranks it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Offer {
    /// BLAKE3 of the signed card's bytes, or of a model's description where it has one.
    pub card_hash: Option<[u8; 32]>,
    /// Skills of an agent, ascending, none twice.
    pub skills: Vec<SkillHash>,
    /// Price in micro-tokens: of a call of an agent, of 1 000 completion tokens of a model.
    pub price_micros: u64,
    /// What else is true of it.
    pub flags: AdFlags,
}

impl SkillHash {
    /// Hashes a skill's id.
    pub fn of(skill: &str) -> Self {
        let hash = domain_hash(version::SKILL_HASH_DOMAIN, &[skill.as_bytes()]);
        Self(first_bytes(&hash))
    }

    /// Returns its bytes.
    pub fn as_bytes(&self) -> &[u8; SKILL_HASH_BYTES] {
        &self.0
    }
}

impl SubjectId {
    /// Hashes what names a subject.
    pub fn of(node: &NodeId, kind: SubjectKind, name: &str) -> Self {
        let parts = [node.as_bytes(), &[kind.number()][..], name.as_bytes()];
        Self(first_bytes(&domain_hash(
            version::AD_SUBJECT_DOMAIN,
            &parts,
        )))
    }

    /// Takes an id's bytes.
    pub fn from_bytes(bytes: [u8; SUBJECT_ID_BYTES]) -> Self {
        Self(bytes)
    }

    /// Returns its bytes.
    pub fn as_bytes(&self) -> &[u8; SUBJECT_ID_BYTES] {
        &self.0
    }
}

impl SubjectKind {
    fn number(self) -> u8 {
        match self {
            Self::Agent => 0,
            Self::Model => 1,
        }
    }

    fn from_number(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::Agent),
            1 => Some(Self::Model),
            _ => None,
        }
    }

    fn name_bytes_max(self) -> usize {
        match self {
            Self::Agent => limits::AGENT_NAME_BYTES_MAX,
            Self::Model => limits::MODEL_NAME_BYTES_MAX,
        }
    }
}

impl AdFlags {
    /// The subject streams its answers.
    pub const STREAMS: Self = Self(1);

    /// Whether all bits of another are set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl Ad {
    /// Returns which subject it is about.
    pub fn subject(&self) -> SubjectId {
        SubjectId::of(&self.node, self.kind, &self.name)
    }

    /// Whether it says that its subject is gone.
    pub fn is_tombstone(&self) -> bool {
        self.offer.is_none()
    }

    /// Signs it for a federation.
    ///
    /// # Errors
    /// When a value is out of its bounds, or the key is not the node's.
    pub fn sign(
        &self,
        key: &SigningKey,
        federation: &FederationId,
    ) -> Result<Verified<Self>, RecordError> {
        Verified::sign(self, key, federation)
    }

    /// Compares which of two ads of one subject counts, the greater one. Two of one epoch and
    /// sequence should not be; if they are, all nodes must still choose the same, and take the
    /// greater id.
    pub fn order(one: &Verified<Self>, other: &Verified<Self>) -> Ordering {
        let by_number = (one.epoch, one.sequence).cmp(&(other.epoch, other.sequence));
        by_number.then_with(|| one.id().cmp(&other.id()))
    }

    /// Checks what holds between fields.
    fn check(self) -> Result<Self, RecordError> {
        let invalid = |field| Err(RecordError::Invalid(field));
        if !self.name_fits() {
            return invalid("name");
        }
        let life = self.expires.since(self.issued);
        let lives = if self.is_tombstone() {
            limits::TOMBSTONE_LIFE..=limits::TOMBSTONE_LIFE
        } else {
            Duration::from_secs(1)..=limits::AD_LIFE_MAX
        };
        if !lives.contains(&life) {
            return invalid("expires");
        }
        if let Some(offer) = &self.offer {
            if !offer.skills.is_sorted_by(|one, next| one < next) {
                return invalid("skills");
            }
            if self.kind == SubjectKind::Agent && offer.card_hash.is_none() {
                return Err(RecordError::Missing("card_hash"));
            }
        }
        Ok(self)
    }

    /// A name that is printed and looked up: no control characters, no space around it. What else
    /// an agent's or a model's name may be is for the node that serves it.
    fn name_fits(&self) -> bool {
        let len = self.name.len();
        (1..=self.kind.name_bytes_max()).contains(&len)
            && !self.name.contains(char::is_control)
            && self.name.trim() == self.name
    }
}

impl Record for Ad {
    const DOMAIN: &'static [u8] = version::AD_DOMAIN;
    const BYTES_MAX: usize = limits::AD_BYTES_MAX;
    type Context = FederationId;

    fn encode(&self) -> Vec<u8> {
        let mut fields = FieldWriter::new();
        fields.field(field::NODE).bytes(self.node.as_bytes());
        fields.field(field::KIND).uint(self.kind.number().into());
        fields.field(field::NAME).text(&self.name);
        fields.field(field::EPOCH).uint(self.epoch);
        fields.field(field::SEQUENCE).uint(self.sequence);
        fields.field(field::ISSUED).uint(self.issued.seconds());
        fields.field(field::EXPIRES).uint(self.expires.seconds());
        match &self.offer {
            None => _ = fields.field(field::TOMBSTONE).bool(true),
            Some(offer) => offer.encode(&mut fields),
        }
        fields.into_payload()
    }

    fn decode(payload: &[u8]) -> Result<Self, RecordError> {
        let mut read = Read::default();
        let mut fields = FieldReader::new(payload)?;
        while let Some(field) = fields.next()? {
            read.field(field, &mut fields)?;
        }
        read.into_ad()?.check()
    }

    fn signer(&self) -> [u8; 32] {
        *self.node.as_bytes()
    }
}

impl Offer {
    /// Values that are nothing are left out.
    fn encode(&self, fields: &mut FieldWriter) {
        if let Some(hash) = &self.card_hash {
            fields.field(field::CARD_HASH).bytes(hash);
        }
        if !self.skills.is_empty() {
            let skills: Vec<u8> = self.skills.iter().flat_map(|skill| skill.0).collect();
            fields.field(field::SKILLS).bytes(&skills);
        }
        if self.price_micros > 0 {
            fields.field(field::PRICE).uint(self.price_micros);
        }
        if self.flags.0 > 0 {
            fields.field(field::FLAGS).uint(self.flags.0.into());
        }
    }
}

/// The fields of an ad while they are read.
#[derive(Default)]
struct Read {
    node: Option<NodeId>,
    kind: Option<SubjectKind>,
    name: Option<String>,
    epoch: Option<u64>,
    sequence: Option<u64>,
    issued: Option<UnixTime>,
    expires: Option<UnixTime>,
    tombstone: bool,
    /// Whether there was any field of an offer, which a tombstone has not.
    offers: bool,
    offer: Offer,
}

impl Read {
    fn field(&mut self, field: u64, fields: &mut FieldReader<'_>) -> Result<(), RecordError> {
        self.offers |= (field::CARD_HASH..=field::FLAGS).contains(&field);
        match field {
            field::NODE => self.node = Some(fields.node("node")?),
            field::KIND => {
                let kind = SubjectKind::from_number(fields.value.uint()?);
                self.kind = Some(kind.ok_or(RecordError::Invalid("kind"))?);
            }
            field::NAME => {
                let name = fields.value.text(limits::MODEL_NAME_BYTES_MAX)?;
                self.name = Some(name.to_owned());
            }
            field::EPOCH => self.epoch = Some(fields.value.uint()?),
            field::SEQUENCE => self.sequence = Some(fields.value.uint()?),
            field::ISSUED => self.issued = Some(fields.time()?),
            field::EXPIRES => self.expires = Some(fields.time()?),
            field::TOMBSTONE => self.tombstone = fields.value.bool()?,
            field::CARD_HASH => self.offer.card_hash = Some(fields.value.fixed()?),
            field::SKILLS => self.offer.skills = read_skills(fields)?,
            field::PRICE => self.offer.price_micros = fields.value.uint()?,
            field::FLAGS => {
                let flags = u32::try_from(fields.value.uint()?);
                self.offer.flags = AdFlags(flags.map_err(|_| RecordError::Invalid("flags"))?);
            }
            unknown => fields.unknown(unknown)?,
        }
        Ok(())
    }

    fn into_ad(self) -> Result<Ad, RecordError> {
        let missing = RecordError::Missing;
        if self.tombstone && self.offers {
            return Err(RecordError::Invalid("tombstone"));
        }
        Ok(Ad {
            node: self.node.ok_or(missing("node"))?,
            kind: self.kind.ok_or(missing("kind"))?,
            name: self.name.ok_or(missing("name"))?,
            epoch: self.epoch.ok_or(missing("epoch"))?,
            sequence: self.sequence.ok_or(missing("sequence"))?,
            issued: self.issued.ok_or(missing("issued"))?,
            expires: self.expires.ok_or(missing("expires"))?,
            offer: (!self.tombstone).then_some(self.offer),
        })
    }
}

fn read_skills(fields: &mut FieldReader<'_>) -> Result<Vec<SkillHash>, RecordError> {
    let bytes = fields
        .value
        .bytes(limits::AD_SKILLS_MAX * SKILL_HASH_BYTES)?;
    let (skills, rest) = bytes.as_chunks();
    if !rest.is_empty() {
        return Err(RecordError::Invalid("skills"));
    }
    Ok(skills.iter().copied().map(SkillHash).collect())
}

/// Hashes parts under a domain. Only the last part may have any length, so none flows into
/// another.
fn domain_hash(domain: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(domain);
    for part in parts {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

fn first_bytes<const LEN: usize>(hash: &[u8; 32]) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    bytes.copy_from_slice(&hash[..LEN]);
    bytes
}

impl fmt::Debug for SkillHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SkillHash({:016x})", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for SubjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SubjectId(")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}
