//! Messages of reconciliations: their bounds, and the order that they must keep.

use aither_protocol::{
    Ad, RecordError, RecordId, Signed, SubjectId, limits,
    membership::{
        Certificate, Hello, JoinAnswer, JoinRequest, Membership, Revocation, RevocationBatch,
        RevocationSummary,
    },
    reconciliation::{Bound, Claim, Fingerprint, ListedAd, Message, Range},
};
use proptest::prelude::*;

fn listed(number: u8) -> ListedAd {
    ListedAd {
        subject: SubjectId::from_bytes([number; 20]),
        epoch: 3,
        sequence: u64::MAX,
        id: RecordId::from_bytes([1; 20]),
    }
}

fn message(ranges: Vec<Range>) -> Message {
    Message {
        takes_new: true,
        ranges,
        wanted: vec![SubjectId::from_bytes([4; 20])],
        records: vec![vec![1, 2], vec![]],
    }
}

fn before(bytes: &[u8], claim: Claim) -> Range {
    let end = Bound::Before(bytes.to_vec());
    Range { end, claim }
}

fn read(message: &Message) -> Result<Message, RecordError> {
    Message::parse(&message.to_bytes())
}

#[test]
fn messages_survive_the_wire() {
    let fingerprint = Fingerprint::of([]);
    let sent = message(vec![
        before(&[1], Claim::Skip),
        before(&[1, 2], Claim::Fingerprint(fingerprint)),
        Range {
            end: Bound::End,
            claim: Claim::List(vec![listed(5), listed(6)]),
        },
    ]);
    assert_eq!(read(&sent), Ok(sent));
    assert_eq!(read(&Message::default()), Ok(Message::default()));
}

#[test]
fn cut_messages_are_refused() {
    let bytes = message(vec![before(&[7], Claim::List(vec![listed(5)]))]).to_bytes();
    for len in 0..bytes.len() {
        assert!(Message::parse(&bytes[..len]).is_err(), "{len} bytes");
    }
    assert!(Message::parse(&[&bytes[..], &[0]].concat()).is_err());
}

#[test]
fn ranges_and_lists_out_of_order_are_refused() {
    let end = || Range {
        end: Bound::End,
        claim: Claim::Skip,
    };
    let skip = |bytes: &[u8]| before(bytes, Claim::Skip);
    let invalid = Err(RecordError::Invalid("ranges"));
    let wrong = [
        vec![skip(&[2]), skip(&[1])],
        vec![skip(&[2]), skip(&[2])],
        vec![end(), skip(&[2])],
        vec![end(), end()],
        vec![before(&[9], Claim::List(vec![listed(6), listed(5)]))],
        vec![before(&[9], Claim::List(vec![listed(5), listed(5)]))],
    ];
    for ranges in wrong {
        assert_eq!(read(&message(ranges)), invalid);
    }
}

#[test]
fn messages_out_of_bounds_are_refused() {
    let bytes_max = limits::RECONCILIATION_BYTES_MAX;
    let refused = Message::parse(&vec![0; bytes_max + 1]);
    assert_eq!(refused, Err(RecordError::TooLong(bytes_max)));
    let bounds = 0..=limits::RECONCILIATION_RANGES_MAX as u32;
    let many = bounds.map(|bound| before(&(bound + 1).to_be_bytes(), Claim::Skip));
    assert!(read(&message(many.collect())).is_err());
    let mut records = message(Vec::new());
    records.records = vec![Vec::new(); limits::RECONCILIATION_RECORDS_MAX + 1];
    assert!(read(&records).is_err());
    records.records = vec![vec![0; limits::AD_BYTES_MAX + 1]];
    assert!(read(&records).is_err());
}

#[test]
fn bounds_part_subjects_as_bytes_do() {
    let subject = SubjectId::from_bytes([5; 20]);
    let cases = [
        (vec![5], false),
        (vec![5, 5, 5], false),
        (vec![5, 6], true),
        (vec![6], true),
        (vec![5; 20], false),
        (vec![4, 255], false),
    ];
    for (bytes, after) in cases {
        assert_eq!(
            Bound::Before(bytes.clone()).is_after(&subject),
            after,
            "{bytes:?}"
        );
    }
    assert!(Bound::End.is_after(&subject));
}

/// Reads bytes as everything that a peer sends; what is taken has one form.
fn read_as_anything(bytes: &[u8]) {
    let _ = Signed::<Ad>::parse(bytes);
    let _ = Signed::<Certificate>::parse(bytes);
    let _ = Signed::<Revocation>::parse(bytes);
    if let Ok(message) = Message::parse(bytes) {
        assert_eq!(message.to_bytes(), bytes);
    }
    if let Ok(membership) = Membership::parse(bytes) {
        assert_eq!(membership.to_bytes(), bytes);
    }
    if let Ok(batch) = RevocationBatch::parse(bytes) {
        assert_eq!(batch.to_bytes(), bytes);
    }
    if let Ok(hello) = Hello::parse(bytes) {
        assert_eq!(hello.to_bytes(), bytes);
    }
    if let Ok(request) = JoinRequest::parse(bytes) {
        assert_eq!(request.to_bytes(), bytes);
    }
    let _ = JoinAnswer::parse(bytes);
    if let Ok(summary) = RevocationSummary::parse(bytes) {
        assert_eq!(summary.to_bytes(), bytes);
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        read_as_anything(&bytes);
    }

    #[test]
    fn no_change_of_a_message_makes_a_reader_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let fingerprint = Claim::Fingerprint(Fingerprint::of([]));
        let sent = message(vec![
            before(&[1, 2], fingerprint),
            before(&[9], Claim::List(vec![listed(5), listed(6)])),
        ]);
        let mut bytes = sent.to_bytes();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        read_as_anything(&bytes);
    }
}
