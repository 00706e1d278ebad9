//! What nodes of a federation sign and send, as a peer sees it that means harm: records that can
//! be cut, changed and put together again, by somebody who has read how they are made.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

mod ads;
mod golden;
mod hellos;
mod invites;
mod members;
mod messages;
mod revocations;

use aither_protocol::{
    Ad, FederationId, NodeId, SkillHash, SubjectKind, UnixTime, Verified,
    ad::Offer,
    cbor::{Reader, Writer},
    limits,
    membership::{Certificate, Issuer, Rights},
};
use ed25519_dalek::{Signer as _, SigningKey};

/// A moment of the tests.
const NOW: UnixTime = UnixTime::from_seconds(1_800_000_000);

fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

fn node(number: u8) -> NodeId {
    key(number).verifying_key().into()
}

/// The key of the federation's root.
fn root() -> SigningKey {
    key(200)
}

fn federation() -> FederationId {
    root().verifying_key().into()
}

/// The ad of a usual agent: five skills, a name of some length.
fn typical_ad() -> Ad {
    let mut skills =
        ["summarize", "translate", "review-code", "answer", "search"].map(SkillHash::of);
    skills.sort();
    Ad {
        node: node(1),
        kind: SubjectKind::Agent,
        name: "research-assistant".into(),
        epoch: NOW.seconds(),
        sequence: 3,
        issued: NOW,
        expires: NOW.plus(limits::AD_LIFE_MAX),
        offer: Some(Offer {
            card_hash: Some([7; 32]),
            skills: skills.into(),
            price_micros: 2_500_000,
            flags: aither_protocol::AdFlags::STREAMS,
        }),
    }
}

/// Signs any payload as the documents say it, without the code that is tested.
fn signed(payload: &[u8], domain: &[u8], context: &[u8], key: &SigningKey) -> Vec<u8> {
    let mut message = vec![u8::try_from(domain.len()).unwrap()];
    message.extend(domain);
    message.push(u8::try_from(context.len()).unwrap());
    message.extend(context);
    message.extend(payload);
    [payload, &key.sign(&message).to_bytes()].concat()
}

/// The fields of a payload by their numbers, to be changed and written again.
fn fields(payload: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut reader = Reader::new(payload);
    let count = reader.map(64).unwrap();
    let read = (0..count).map(|_| {
        let number = reader.uint().unwrap();
        let before = reader.remaining();
        let start = payload.len() - before;
        reader.skip().unwrap();
        (
            number,
            payload[start..payload.len() - reader.remaining()].to_vec(),
        )
    });
    read.collect()
}

fn payload_of(fields: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.map(fields.len());
    let mut payload = writer.into_bytes();
    for (number, value) in fields {
        let mut writer = Writer::new();
        writer.uint(*number);
        payload.extend(writer.into_bytes());
        payload.extend(value);
    }
    payload
}

/// One value, encoded.
fn value(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::new();
    write(&mut writer);
    writer.into_bytes()
}

/// A certificate of one node for another, or of the root.
fn certificate(subject: u8, issuer: Option<u8>, rights: Rights) -> Certificate {
    let life = if rights.contains(Rights::MEMBER) {
        limits::CERTIFICATE_LIFE_MAX
    } else {
        limits::ISSUER_CERTIFICATE_LIFE_MAX
    };
    Certificate {
        federation: federation(),
        subject: node(subject),
        issuer: issuer.map_or(Issuer::Root, |issuer| Issuer::Node(node(issuer))),
        serial: 7,
        not_before: NOW,
        expires: NOW.plus(life),
        rights,
    }
}

/// Signs a certificate with the key of whoever it says.
fn certify(certificate: &Certificate) -> Verified<Certificate> {
    let keys = [root()].into_iter().chain((0..20).map(key));
    let signer = certificate.issuer.key(&certificate.federation);
    let mut keys = keys.filter(|key| key.verifying_key().to_bytes() == signer);
    Verified::sign(certificate, &keys.next().unwrap(), &[]).unwrap()
}

/// The certificate of node 1, whom the root has made an issuer.
fn issuer_certificate() -> Verified<Certificate> {
    certify(&certificate(1, None, Rights::ISSUER))
}
