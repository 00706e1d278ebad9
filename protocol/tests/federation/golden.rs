//! Golden vectors of what nodes of a federation say: what is on the wire today must be read for
//! ever.
//!
//! Each file says what goes in, and what comes out of it. A folder only grows; a file that is not
//! what the code makes of it is written again beside it as `*.new`, to be looked at. What others
//! have read from us is right, and the code is wrong.

use std::{fs, path::Path};

use aither_protocol::{
    Ad, AdFlags, NodeId, Record, RecordId, Signed, SkillHash, SubjectId, SubjectKind, UnixTime,
    Verified,
    ad::Offer,
    membership::{
        BootstrapAddress, Certificate, Hello, Introduction, Invite, Issuer, JoinAnswer,
        JoinRequest, JoinSecret, Membership, Revocation, RevocationSummary, Revocations, Rights,
        Statement,
    },
    reconciliation::{Bound, Claim, Fingerprint, ListedAd, Message, Range},
};
use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

#[test]
fn ads_are_those_of_the_vectors() {
    check_folder::<AdVector>("ad", 4);
}

#[test]
fn certificates_are_those_of_the_vectors() {
    check_folder::<CertificateVector>("certificate", 2);
}

#[test]
fn revocations_are_those_of_the_vectors() {
    check_folder::<RevocationVector>("revocation", 3);
}

#[test]
fn hellos_are_those_of_the_vectors() {
    check_folder::<HelloVector>("hello", 1);
}

#[test]
fn requests_to_join_are_those_of_the_vectors() {
    check_folder::<JoinVector>("join", 1);
}

#[test]
fn invites_are_those_of_the_vectors() {
    check_folder::<InviteVector>("invite", 1);
}

#[test]
fn messages_of_reconciliations_are_those_of_the_vectors() {
    check_folder::<MessageVector>("reconciliation", 2);
}

trait Vector: Serialize + DeserializeOwned {
    /// Fills in what comes out.
    fn made(self) -> Self;
}

/// Compares the files of a folder with what the code makes of them, to the letter.
fn check_folder<T: Vector>(folder: &str, files_min: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata/v1")
        .join(folder);
    let (mut files, mut changed) = (0, Vec::new());
    for entry in fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_some_and(|extension| extension == "new") {
            continue;
        }
        let written = fs::read_to_string(&file).unwrap();
        let vector: T = serde_json::from_str(&written)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let made = serde_json::to_string_pretty(&vector.made()).unwrap() + "\n";
        if made != written {
            let new = file.with_extension("json.new");
            fs::write(&new, made).unwrap();
            changed.push(new);
        }
        files += 1;
    }
    assert!(
        changed.is_empty(),
        "not what is made today; see {changed:?}"
    );
    assert!(files >= files_min, "{files} files");
}

/// An ad by what it says, signed by a key for a federation.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AdVector {
    about: String,
    federation_secret_key: String,
    node_secret_key: String,
    kind: String,
    name: String,
    epoch: u64,
    sequence: u64,
    issued: u64,
    expires: u64,
    offer: Option<OfferVector>,
    payload: String,
    record: String,
    id: String,
    subject: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OfferVector {
    card_hash: Option<String>,
    /// In any order; the ad has their hashes in ascending order.
    skills: Vec<String>,
    price_micros: u64,
    flags: u32,
}

impl Vector for AdVector {
    fn made(self) -> Self {
        let key = secret(&self.node_secret_key);
        let federation = secret(&self.federation_secret_key).verifying_key().into();
        let ad = Ad {
            node: key.verifying_key().into(),
            kind: match &*self.kind {
                "agent" => SubjectKind::Agent,
                _ => SubjectKind::Model,
            },
            name: self.name.clone(),
            epoch: self.epoch,
            sequence: self.sequence,
            issued: UnixTime::from_seconds(self.issued),
            expires: UnixTime::from_seconds(self.expires),
            offer: self.offer.as_ref().map(OfferVector::offer),
        };
        let signed = ad.sign(&key, &federation).unwrap();
        let read = Signed::<Ad>::parse(signed.as_bytes()).unwrap();
        assert_eq!(*read.verify(&federation).unwrap(), ad);
        Self {
            payload: hex(&ad.encode()),
            record: hex(signed.as_bytes()),
            id: hex(signed.id().as_bytes()),
            subject: hex(ad.subject().as_bytes()),
            ..self
        }
    }
}

impl OfferVector {
    fn offer(&self) -> Offer {
        let mut skills: Vec<_> = self
            .skills
            .iter()
            .map(|skill| SkillHash::of(skill))
            .collect();
        skills.sort();
        Offer {
            card_hash: self.card_hash.as_deref().map(bytes),
            skills,
            price_micros: self.price_micros,
            flags: AdFlags(self.flags),
        }
    }
}

/// A certificate, with its issuer's where it is not the root's, and the proof of both.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CertificateVector {
    about: String,
    root_secret_key: String,
    /// None when the root signs.
    issuer_secret_key: Option<String>,
    subject_secret_key: String,
    serial: u64,
    not_before: u64,
    expires: u64,
    rights: u32,
    federation: String,
    record: String,
    /// What the subject shows, where an issuer that the root has made for a year has signed.
    membership: Option<String>,
}

impl Vector for CertificateVector {
    fn made(self) -> Self {
        let root = secret(&self.root_secret_key);
        let federation = root.verifying_key().into();
        let issuer = self.issuer_secret_key.as_deref().map(secret);
        let issuer_id = issuer.as_ref().map(|key| NodeId::from(key.verifying_key()));
        let certificate = Certificate {
            federation,
            subject: secret(&self.subject_secret_key).verifying_key().into(),
            issuer: issuer_id.map_or(Issuer::Root, Issuer::Node),
            serial: self.serial,
            not_before: UnixTime::from_seconds(self.not_before),
            expires: UnixTime::from_seconds(self.expires),
            rights: Rights::from_bits(self.rights),
        };
        let signer = issuer.as_ref().unwrap_or(&root);
        let signed = Verified::sign(&certificate, signer, &[]).unwrap();
        let membership = issuer_id.map(|issuer_id| {
            let of_issuer = Certificate {
                subject: issuer_id,
                issuer: Issuer::Root,
                expires: UnixTime::from_seconds(self.not_before + 365 * 86_400),
                rights: Rights::ISSUER,
                ..certificate.clone()
            };
            let of_issuer = Verified::sign(&of_issuer, &root, &[]).unwrap();
            let membership = Membership::new(&signed, Some(&of_issuer));
            let presented = aither_protocol::membership::Presented {
                federation: &federation,
                peer: &certificate.subject,
                revocations: &Revocations::new(federation),
                now: certificate.not_before,
            };
            assert!(membership.verify(presented).is_ok());
            hex(&membership.to_bytes())
        });
        Self {
            federation: federation.to_string(),
            record: hex(signed.as_bytes()),
            membership,
            ..self
        }
    }
}

/// A revocation by what it says.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RevocationVector {
    about: String,
    root_secret_key: String,
    /// None when the root signs.
    signer_secret_key: Option<String>,
    number: u64,
    issued: u64,
    statement: StatementVector,
    record: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum StatementVector {
    Exclude {
        node: NodeId,
        honoured: u64,
    },
    /// None of the signers is the root.
    Lift {
        signer: Option<NodeId>,
        number: u64,
    },
}

impl Vector for RevocationVector {
    fn made(self) -> Self {
        let root = secret(&self.root_secret_key);
        let signer = self.signer_secret_key.as_deref().map(secret);
        let issuer = |node: Option<NodeId>| node.map_or(Issuer::Root, Issuer::Node);
        let revocation = Revocation {
            federation: root.verifying_key().into(),
            signer: issuer(signer.as_ref().map(|key| key.verifying_key().into())),
            number: self.number,
            issued: UnixTime::from_seconds(self.issued),
            statement: match self.statement {
                StatementVector::Exclude { node, honoured } => {
                    Statement::Exclude { node, honoured }
                }
                StatementVector::Lift { signer, number } => Statement::Lift {
                    signer: issuer(signer),
                    number,
                },
            },
        };
        let signed = Verified::sign(&revocation, signer.as_ref().unwrap_or(&root), &[]).unwrap();
        let read = Signed::<Revocation>::parse(signed.as_bytes()).unwrap();
        assert_eq!(*read.verify(&[]).unwrap(), revocation);
        Self {
            record: hex(signed.as_bytes()),
            ..self
        }
    }
}

/// A hello by what it says.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HelloVector {
    about: String,
    introductions: Vec<IntroductionVector>,
    bytes: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IntroductionVector {
    federation: String,
    membership: Option<String>,
    /// None of the signers is the root.
    seen: Vec<(Option<NodeId>, u64)>,
}

impl Vector for HelloVector {
    fn made(self) -> Self {
        let introductions = self.introductions.iter().map(|said| {
            let seen = said.seen.iter().map(|(node, number)| {
                let signer = node.map_or(Issuer::Root, Issuer::Node);
                (signer, *number)
            });
            let membership = said.membership.as_deref();
            Introduction {
                federation: said.federation.parse().unwrap(),
                membership: membership.map(|hex| Membership::parse(&vec_of(hex)).unwrap()),
                revocations: RevocationSummary(seen.collect()),
            }
        });
        let bytes = Hello(introductions.collect()).to_bytes();
        assert_eq!(Hello::parse(&bytes).unwrap().to_bytes(), bytes);
        Self {
            bytes: hex(&bytes),
            ..self
        }
    }
}

/// A request to join and its answer.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JoinVector {
    about: String,
    federation: String,
    /// None where an old certificate is shown.
    secret: Option<String>,
    certificate: Option<String>,
    request: String,
    /// What is granted. Without it, the answer is one of why it is not.
    granted: Option<String>,
    answer: String,
}

impl Vector for JoinVector {
    fn made(self) -> Self {
        let request = match (&self.secret, &self.certificate) {
            (Some(secret), None) => JoinRequest::WithSecret {
                federation: self.federation.parse().unwrap(),
                secret: JoinSecret::from_bytes(bytes(secret)),
            },
            (None, Some(certificate)) => JoinRequest::Renewal {
                certificate: Signed::parse(&vec_of(certificate)).unwrap(),
            },
            other => panic!("{other:?}"),
        };
        let request = request.to_bytes();
        let read = JoinRequest::parse(&request).unwrap();
        assert_eq!(read.federation().to_string(), self.federation);
        let answer = match &self.granted {
            Some(hex) => {
                let membership = Membership::parse(&vec_of(hex)).unwrap();
                JoinAnswer::Granted(Box::new(membership)).to_bytes()
            }
            None => JoinAnswer::parse(&vec_of(&self.answer)).unwrap().to_bytes(),
        };
        Self {
            request: hex(&request),
            answer: hex(&answer),
            ..self
        }
    }
}

/// An invite by what it says, and what its issuer knows its secret by.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct InviteVector {
    about: String,
    root_secret_key: String,
    issuer: NodeId,
    secret: String,
    expires: u64,
    addresses: Vec<String>,
    text: String,
    secret_hash: String,
}

impl Vector for InviteVector {
    fn made(self) -> Self {
        let federation = secret(&self.root_secret_key).verifying_key().into();
        let addresses = self
            .addresses
            .iter()
            .map(|text| text.parse::<BootstrapAddress>());
        let invite = Invite {
            federation,
            issuer: self.issuer,
            secret: JoinSecret::from_bytes(bytes(&self.secret)),
            expires: UnixTime::from_seconds(self.expires),
            addresses: addresses.collect::<Result<_, _>>().unwrap(),
        };
        let text = invite.to_text().unwrap();
        assert_eq!(Invite::read(&text), Ok(invite.clone()));
        let hash = invite.secret.hash(&federation, &self.issuer);
        Self {
            text: text.to_string(),
            secret_hash: hex(hash.as_bytes()),
            ..self
        }
    }
}

/// A message by what it says.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MessageVector {
    about: String,
    takes_new: bool,
    ranges: Vec<RangeVector>,
    wanted: Vec<String>,
    records: Vec<String>,
    bytes: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RangeVector {
    /// Empty at the end.
    end: String,
    claim: ClaimVector,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum ClaimVector {
    Skip,
    /// Of these, each a subject and a record id.
    FingerprintOf(Vec<(String, String)>),
    List(Vec<ListedVector>),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListedVector {
    subject: String,
    epoch: u64,
    sequence: u64,
    id: String,
}

impl Vector for MessageVector {
    fn made(self) -> Self {
        let wanted = self
            .wanted
            .iter()
            .map(|id| SubjectId::from_bytes(bytes(id)));
        let message = Message {
            takes_new: self.takes_new,
            ranges: self.ranges.iter().map(RangeVector::range).collect(),
            wanted: wanted.collect(),
            records: self.records.iter().map(|record| vec_of(record)).collect(),
        };
        let bytes = message.to_bytes();
        assert_eq!(Message::parse(&bytes).as_ref(), Ok(&message));
        Self {
            bytes: hex(&bytes),
            ..self
        }
    }
}

impl RangeVector {
    fn range(&self) -> Range {
        let end = match vec_of(&self.end) {
            empty if empty.is_empty() => Bound::End,
            bytes => Bound::Before(bytes),
        };
        let claim = match &self.claim {
            ClaimVector::Skip => Claim::Skip,
            ClaimVector::FingerprintOf(ads) => {
                let ads = ads.iter().map(|(subject, id)| {
                    let id = RecordId::from_bytes(bytes(id));
                    (SubjectId::from_bytes(bytes(subject)), id)
                });
                let ads: Vec<_> = ads.collect();
                let ads = ads.iter().map(|(subject, id)| (subject, id));
                Claim::Fingerprint(Fingerprint::of(ads))
            }
            ClaimVector::List(ads) => Claim::List(ads.iter().map(ListedVector::listed).collect()),
        };
        Range { end, claim }
    }
}

impl ListedVector {
    fn listed(&self) -> ListedAd {
        ListedAd {
            subject: SubjectId::from_bytes(bytes(&self.subject)),
            epoch: self.epoch,
            sequence: self.sequence,
            id: RecordId::from_bytes(bytes(&self.id)),
        }
    }
}

fn secret(hex: &str) -> SigningKey {
    SigningKey::from_bytes(&bytes(hex))
}

fn bytes<const LEN: usize>(hex: &str) -> [u8; LEN] {
    vec_of(hex).try_into().unwrap()
}

fn vec_of(hex: &str) -> Vec<u8> {
    let pairs = (0..hex.len()).step_by(2);
    pairs
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
