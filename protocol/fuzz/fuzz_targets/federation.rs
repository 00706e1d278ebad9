//! Feeds the readers of what nodes of a federation say with arbitrary bytes: ads, certificates,
//! memberships, revocations, their batches and summaries, hellos, requests to join and their
//! answers, invites, messages of reconciliations.
//!
//! Bytes may be refused; they must not panic a reader, nor make it allocate beyond a multiple of
//! their size (run with `-rss_limit_mb`). What is accepted keeps its bytes, is signed by nobody
//! whose key the fuzzer does not have, and where it is not signed it is written as it was read.

#![no_main]

use aither_protocol::{
    Ad, FederationId, NodeId, Record, Signed, UnixTime,
    membership::{
        Certificate, Hello, Invite, JoinAnswer, JoinRequest, Membership, Presented, Revocation,
        RevocationBatch, RevocationSummary, Revocations,
    },
    reconciliation::Message,
};
use ed25519_dalek::SigningKey;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let root = SigningKey::from_bytes(&[7; 32]).verifying_key();
    let federation = FederationId::from(root);
    record::<Ad>(bytes, &federation);
    record::<Certificate>(bytes, &[]);
    record::<Revocation>(bytes, &[]);
    if let Ok(membership) = Membership::parse(bytes) {
        assert_eq!(membership.to_bytes(), bytes);
        let member = membership.verify(Presented {
            federation: &federation,
            peer: &NodeId::from(root),
            revocations: &Revocations::new(federation),
            now: UnixTime::from_seconds(1_800_000_000),
        });
        assert!(member.is_err(), "nobody has said the key");
    }
    if let Ok(batch) = RevocationBatch::parse(bytes) {
        assert_eq!(batch.to_bytes(), bytes);
        let merged = Revocations::new(federation).merge_batch(&batch);
        assert!(merged.is_err() || batch.entries.is_empty());
    }
    if let Ok(summary) = RevocationSummary::parse(bytes) {
        assert_eq!(summary.to_bytes(), bytes);
    }
    if let Ok(hello) = Hello::parse(bytes) {
        assert_eq!(hello.to_bytes(), bytes);
    }
    if let Ok(request) = JoinRequest::parse(bytes) {
        assert_eq!(request.to_bytes(), bytes);
    }
    // A refusal of an unknown number is written as one without a reason.
    let _ = JoinAnswer::parse(bytes);
    if let Ok(message) = Message::parse(bytes) {
        assert_eq!(message.to_bytes(), bytes);
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(invite) = Invite::read(text)
    {
        // An unknown field is passed over, so it may be written shorter than it was read.
        let text = invite.to_text().expect("what was read can be written");
        assert_eq!(Invite::read(&text).as_ref(), Ok(&invite));
    }
});

fn record<T: Record + Clone>(bytes: &[u8], context: &T::Context) {
    if let Ok(signed) = Signed::<T>::parse(bytes) {
        assert_eq!(signed.as_bytes(), bytes);
        // The vectors of testdata are signed, but for other federations; a certificate names its
        // own, and some of the corpus are real ones.
        if let Ok(verified) = signed.verify(context) {
            assert_eq!(verified.as_bytes(), bytes);
        }
    }
}
