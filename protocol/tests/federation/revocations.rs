//! Revocations: who may exclude whom, what the order of arrival changes (nothing), and how two
//! nodes come to have the same.

use aither_protocol::{
    RecordError, Signed, Verified, limits,
    membership::{
        Issuer, Membership, MembershipError, Merged, Presented, Revocation, RevocationBatch,
        RevocationError, RevocationSummary, Revocations, Rights, Statement,
    },
};
use proptest::prelude::*;

use super::{NOW, certificate, certify, federation, issuer_certificate, key, node, root};

fn entry(signer: Option<u8>, number: u64, statement: Statement) -> Verified<Revocation> {
    sign(signer, number, statement).unwrap()
}

fn sign(
    signer: Option<u8>,
    number: u64,
    statement: Statement,
) -> Result<Verified<Revocation>, RecordError> {
    let revocation = Revocation {
        federation: federation(),
        signer: issuer(signer),
        number,
        issued: NOW,
        statement,
    };
    Verified::sign(&revocation, &signer.map_or_else(root, key), &[])
}

fn issuer(signer: Option<u8>) -> Issuer {
    signer.map_or(Issuer::Root, |signer| Issuer::Node(node(signer)))
}

fn exclude(number: u8) -> Statement {
    let node = node(number);
    Statement::Exclude { node, honoured: 0 }
}

fn lift(signer: Option<u8>, number: u64) -> Statement {
    let signer = issuer(signer);
    Statement::Lift { signer, number }
}

/// Merges entries of the root and of node 1, an issuer.
fn merged(entries: &[Verified<Revocation>]) -> Revocations {
    let mut revocations = Revocations::new(federation());
    for entry in entries {
        let certificate = issuer_certificate().to_signed();
        let merged = revocations.merge(entry.to_signed(), Some(&certificate));
        assert_eq!(merged, Ok(Merged::New));
    }
    revocations
}

#[test]
fn excluded_node_is_no_member_until_the_root_lifts_it() {
    let membership = Membership::new(&certify(&certificate(2, None, Rights::MEMBER)), None);
    let check = |revocations: &Revocations| {
        membership.verify(Presented {
            federation: &federation(),
            peer: &node(2),
            revocations,
            now: NOW,
        })
    };
    for signer in [None, Some(1)] {
        let excluded = entry(signer, 1, exclude(2));
        let refused = check(&merged(std::slice::from_ref(&excluded)));
        assert_eq!(refused, Err(MembershipError::Revoked));
        let number = if signer.is_none() { 2 } else { 1 };
        let lifted = entry(None, number, lift(signer, 1));
        assert!(check(&merged(&[excluded, lifted])).is_ok());
    }
}

#[test]
fn only_the_root_lifts_and_honours() {
    let refused = sign(Some(1), 1, lift(Some(1), 1));
    assert_eq!(refused, Err(RecordError::Invalid("lifted")));
    let node = node(2);
    let refused = sign(Some(1), 1, Statement::Exclude { node, honoured: 3 });
    assert_eq!(refused, Err(RecordError::Invalid("honoured")));
}

#[test]
fn member_of_an_excluded_issuer_is_out_with_it() {
    let member = certify(&certificate(2, Some(1), Rights::MEMBER));
    let membership = Membership::new(&member, Some(&issuer_certificate()));
    let check = |revocations: &Revocations| {
        membership.verify(Presented {
            federation: &federation(),
            peer: &node(2),
            revocations,
            now: NOW,
        })
    };
    let by_root = merged(&[entry(None, 1, exclude(1))]);
    assert_eq!(check(&by_root), Err(MembershipError::IssuerRevoked));
    // An issuer excludes a member, which does not make another issuer's members strangers.
    let mut by_issuer = Revocations::new(federation());
    let other = certify(&certificate(4, None, Rights::ISSUER)).to_signed();
    let excluded = entry(Some(4), 1, exclude(1)).to_signed();
    assert_eq!(by_issuer.merge(excluded, Some(&other)), Ok(Merged::New));
    assert!(by_issuer.excludes(&node(1)));
    assert!(check(&by_issuer).is_ok());
}

#[test]
fn entries_of_a_stolen_issuers_key_count_as_far_as_the_root_honours_them() {
    let node_1 = node(1);
    let entries = [
        entry(Some(1), 1, exclude(5)),
        entry(Some(1), 2, exclude(6)),
        entry(
            None,
            1,
            Statement::Exclude {
                node: node_1,
                honoured: 1,
            },
        ),
    ];
    let revocations = merged(&entries);
    assert!(revocations.excludes(&node(5)));
    assert!(!revocations.excludes(&node(6)));
}

#[test]
fn strangers_and_plain_members_exclude_nobody() {
    let mut revocations = Revocations::new(federation());
    let claimed = entry(Some(3), 1, exclude(2));
    let member = certify(&certificate(3, None, Rights::MEMBER)).to_signed();
    let others = issuer_certificate().to_signed();
    for certificate in [None, Some(&member), Some(&others)] {
        let refused = revocations.merge(claimed.to_signed(), certificate);
        assert_eq!(refused, Err(RevocationError::NotIssuer));
    }
    let mut foreign = certificate(3, None, Rights::ISSUER);
    foreign.federation = key(9).verifying_key().into();
    let foreign = certify(&foreign).to_signed();
    let refused = revocations.merge(claimed.to_signed(), Some(&foreign));
    assert_eq!(refused, Err(RevocationError::NotIssuer));
    assert!(revocations.is_empty());
}

#[test]
fn entry_of_another_federation_is_refused() {
    let mut revocations = Revocations::new(key(9).verifying_key().into());
    let refused = revocations.merge(entry(None, 1, exclude(2)).to_signed(), None);
    assert_eq!(refused, Err(RevocationError::OtherFederation));
}

#[test]
fn forged_entry_is_refused_and_blames_nobody() {
    let mut revocations = merged(&[entry(None, 1, exclude(2))]);
    let mut bytes = entry(None, 1, exclude(3)).as_bytes().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    let forged = Signed::parse(&bytes).unwrap();
    let refused = revocations.merge(forged, None);
    assert_eq!(refused, Err(RevocationError::Record(RecordError::Forged)));
    assert_eq!(revocations.len(), 1);
}

#[test]
fn second_entry_of_one_number_undoes_nothing() {
    let mut revocations = merged(&[entry(None, 1, exclude(2))]);
    let again = entry(None, 1, exclude(2)).to_signed();
    assert_eq!(revocations.merge(again, None), Ok(Merged::Known));
    let second = entry(None, 1, exclude(3)).to_signed();
    let refused = revocations.merge(second, None);
    assert_eq!(refused, Err(RevocationError::Equivocation(1)));
    assert!(revocations.excludes(&node(2)) && !revocations.excludes(&node(3)));
}

#[test]
fn numbers_are_bounded() {
    let last = limits::ISSUER_REVOCATIONS_MAX;
    assert!(sign(Some(1), last, exclude(2)).is_ok());
    for number in [0, last + 1, u64::MAX] {
        let refused = sign(Some(1), number, exclude(2));
        assert_eq!(refused, Err(RecordError::Invalid("number")));
    }
    let revocations = merged(&[entry(Some(1), last, exclude(2))]);
    assert_eq!(revocations.next_number(&issuer(Some(1))), None);
    assert_eq!(revocations.next_number(&Issuer::Root), Some(1));
}

#[test]
fn signers_are_bounded_but_the_root_is_always_heard() {
    let mut revocations = Revocations::new(federation());
    let many = limits::REVOKING_ISSUERS_MAX;
    for number in 0..=many {
        let issuer_key = ed25519_dalek::SigningKey::from_bytes(&[number as u8 + 20; 32]);
        let issuer_node = issuer_key.verifying_key().into();
        let mut certificate = certificate(1, None, Rights::ISSUER);
        certificate.subject = issuer_node;
        let revocation = Revocation {
            federation: federation(),
            signer: Issuer::Node(issuer_node),
            number: 1,
            issued: NOW,
            statement: exclude(2),
        };
        let signed = Verified::sign(&revocation, &issuer_key, &[]).unwrap();
        let certificate = certify(&certificate).to_signed();
        let merged = revocations.merge(signed.to_signed(), Some(&certificate));
        let expected = if number < many {
            Ok(Merged::New)
        } else {
            Err(RevocationError::TooManyIssuers)
        };
        assert_eq!(merged, expected);
    }
    let of_root = entry(None, 1, exclude(3)).to_signed();
    assert_eq!(revocations.merge(of_root, None), Ok(Merged::New));
}

#[test]
fn two_nodes_come_to_have_the_same_in_bounded_messages() {
    let mut all: Vec<_> = (1..=150)
        .map(|number| entry(None, number, exclude(number as u8 + 1)))
        .collect();
    all.push(entry(Some(1), 1, exclude(160)));
    let full = merged(&all);
    // The other one misses a number in the middle, and so is sent again what lies after it.
    let mut other = merged(&[&all[..20], &all[21..30]].concat());
    assert_eq!(other.summary(), RevocationSummary(vec![(Issuer::Root, 20)]));
    for _ in 0..4 {
        let summary = RevocationSummary::parse(&other.summary().to_bytes()).unwrap();
        let batch = RevocationBatch::for_summary(&full, &summary).to_bytes();
        assert!(batch.len() <= limits::REVOCATION_BATCH_BYTES_MAX);
        other
            .merge_batch(&RevocationBatch::parse(&batch).unwrap())
            .unwrap();
    }
    assert_eq!(other.summary(), full.summary());
    assert_eq!(other.len(), 151);
    assert!(other.excludes(&node(160)));
    let rest = RevocationBatch::for_summary(&full, &other.summary());
    assert!(rest.entries.is_empty());
}

#[test]
fn summaries_and_batches_out_of_bounds_are_refused() {
    let many = vec![(Issuer::Root, 1); limits::REVOKING_ISSUERS_MAX + 2];
    assert!(RevocationSummary::parse(&RevocationSummary(many).to_bytes()).is_err());
    let entries =
        vec![entry(None, 1, exclude(2)).to_signed(); limits::REVOCATIONS_PER_MESSAGE_MAX + 1];
    let batch = RevocationBatch {
        certificates: Vec::new(),
        entries,
    };
    assert!(RevocationBatch::parse(&batch.to_bytes()).is_err());
    let refused = RevocationBatch::parse(&vec![0; limits::REVOCATION_BATCH_BYTES_MAX + 1]).err();
    let expected = RecordError::TooLong(limits::REVOCATION_BATCH_BYTES_MAX);
    assert_eq!(refused, Some(expected));
}

fn any_entries() -> impl Strategy<Value = Vec<Verified<Revocation>>> {
    let statement = |by_root: bool, choice: u8, number: u64| match choice {
        0..=2 if by_root => lift((choice > 0).then_some(1), number),
        3 if by_root => Statement::Exclude {
            node: node(1),
            honoured: number,
        },
        _ => exclude(2 + choice % 5),
    };
    let choices = prop::collection::vec((any::<bool>(), 0..10_u8, 1..8_u64), 1..16);
    choices.prop_map(move |choices| {
        let mut next = [1, 1];
        let entries = choices.into_iter().map(|(by_root, choice, number)| {
            let own = &mut next[usize::from(by_root)];
            *own += 1;
            let signer = (!by_root).then_some(1);
            entry(signer, *own - 1, statement(by_root, choice, number))
        });
        entries.collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn order_of_arrival_makes_no_difference(
        (sent, shuffled) in any_entries()
            .prop_flat_map(|sent| (Just(sent.clone()), Just(sent).prop_shuffle())),
    ) {
        let (one, other) = (merged(&sent), merged(&shuffled));
        prop_assert_eq!(one.summary(), other.summary());
        for number in 1..8 {
            let node = node(number);
            prop_assert_eq!(one.excludes(&node), other.excludes(&node));
            prop_assert_eq!(one.excludes_issuer(&node), other.excludes_issuer(&node));
        }
    }
}
