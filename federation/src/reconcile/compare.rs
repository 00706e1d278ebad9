//! What differs between a range of our ads and the other side's list of it.

use std::{cmp::Ordering, ops::Range};

use aither_protocol::{SubjectId, reconciliation::ListedAd};

use super::Snapshot;

/// One subject that the two sides do not agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Difference {
    /// At this position of the snapshot is a subject that the other side does not have.
    OnlyOurs(usize),
    /// At this position is a newer ad than the other side's.
    OursIsNewer(usize),
    /// The other side has a subject that is not here.
    OnlyTheirs(SubjectId),
    /// The other side has a newer ad.
    TheirsIsNewer(SubjectId),
}

/// Goes through both, which are in the same order.
pub(super) fn differences(
    ours: &Snapshot,
    range: Range<usize>,
    theirs: &[ListedAd],
) -> Vec<Difference> {
    let mut differences = Vec::new();
    let mut theirs = theirs.iter().peekable();
    for position in range {
        let own = ours.item(position).listed();
        while let Some(other) = theirs.next_if(|other| other.subject < own.subject) {
            differences.push(Difference::OnlyTheirs(other.subject));
        }
        let Some(other) = theirs.next_if(|other| other.subject == own.subject) else {
            differences.push(Difference::OnlyOurs(position));
            continue;
        };
        match age(&own).cmp(&age(other)) {
            Ordering::Equal => {}
            Ordering::Greater => differences.push(Difference::OursIsNewer(position)),
            Ordering::Less => differences.push(Difference::TheirsIsNewer(own.subject)),
        }
    }
    differences.extend(theirs.map(|other| Difference::OnlyTheirs(other.subject)));
    differences
}

/// The order of [`Ad::order`](aither_protocol::Ad::order).
fn age(ad: &ListedAd) -> impl Ord {
    (ad.epoch, ad.sequence, ad.id)
}
