//! Two nodes find out which ads the other has not heard, and exchange them.
//!
//! Each side is a [`Session`] over a [`Snapshot`] of its ads. The one that begins says the
//! fingerprint of all; who gets a fingerprint that differs answers with those of sixteen parts, or
//! lists what it has where that is little, and who gets a list knows what to send and what to ask
//! for. Equal sets cost two messages of together less than a hundred bytes; a difference costs what
//! lies on the way to it. The messages take turns, and each is bounded, so what does not fit waits.
//!
//! A partner can waste its own turns: it makes this side hash no more than a few times all of its
//! ads, is sent each ad once, and every turn and every ad counts. What it sends goes to the
//! directory, which trusts nobody, and counts what was known against the partner.

mod compare;
mod snapshot;

use std::{collections::VecDeque, sync::Arc};

use aither_protocol::{
    RecordError, SubjectId,
    ad::SUBJECT_ID_BYTES,
    limits,
    reconciliation::{Bound, Claim, Message, Range},
};

pub use snapshot::{Item, Snapshot};

use compare::Difference;

/// Where a range of more ads than these is cut, instead of being listed. A list of as many takes
/// about as much as the fingerprints that it saves.
const LISTED_MAX: usize = 32;
/// Into how many parts a range is cut.
const PARTS: usize = 16;
/// Most ranges that wait for a message with room; what comes beyond is left to the next
/// reconciliation.
const OPEN_RANGES_MAX: usize = 16 * 1024;
/// How many times all of its ads a session hashes. Honest partners halve ranges sixteenfold, and
/// each round reads and cuts them once: even of a million ads that is ten times.
const HASHED_TIMES_MAX: usize = 32;
/// What a message may hold before it is closed: no single part of one is longer than the rest.
const FILL_BYTES_MAX: usize = limits::RECONCILIATION_BYTES_MAX - 4096;
/// How much of a message its ranges may take, so that ads go along at once.
const RANGES_BYTES_MAX: usize = FILL_BYTES_MAX / 2;
/// Most bytes of a range beside its list: heads, two bounds, a fingerprint.
const RANGE_BYTES: usize = 2 * (SUBJECT_ID_BYTES + 4) + 24;
/// Most subjects asked for in one message: what can be sent in a few.
const WANTED_MAX: usize = 4096;

/// One side of a reconciliation.
#[derive(Debug)]
pub struct Session {
    ours: Arc<Snapshot>,
    /// Whether this side, and the other one, take ads of subjects that they do not have.
    takes_new: bool,
    other_takes_new: bool,
    /// Ranges that differ and are to be cut or listed, the next one last.
    open: Vec<OpenRange>,
    to_send: VecDeque<usize>,
    /// By position in the snapshot: whether it was, or is going to be, sent.
    sent: Vec<bool>,
    wanted: VecDeque<SubjectId>,
    turns: usize,
    hashed: usize,
    taken: usize,
}

/// What a session does after a message.
#[derive(Debug, PartialEq, Eq)]
pub struct Turn {
    /// Ads that came, each to be parsed, verified and offered to the directory.
    pub records: Vec<Vec<u8>>,
    /// What to send; without it both sides are done.
    pub reply: Option<Vec<u8>>,
}

/// What no honest partner does. The session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Misbehaviour {
    /// A message is malformed or too long.
    #[error("a message is not valid: {0}")]
    Message(#[from] RecordError),
    /// A list holds subjects that do not lie in its range.
    #[error("a list does not lie in its range")]
    Range,
    /// It goes on for longer than any set of ads needs.
    #[error("it does not come to an end")]
    Endless,
}

/// A range of subjects, and of this side's ads.
#[derive(Debug)]
struct OpenRange {
    /// The least subject of it, cut short; empty at the beginning.
    from: Vec<u8>,
    end: Bound,
    ours: std::ops::Range<usize>,
}

impl Session {
    /// Begins, and returns the first message.
    pub fn begin(ours: Arc<Snapshot>, takes_new: bool) -> (Self, Vec<u8>) {
        let mut session = Self::answer(ours, takes_new);
        let claim = match session.ours.len() {
            // Nothing is listed at once, and all of it comes back.
            0 => Claim::List(Vec::new()),
            all => Claim::Fingerprint(session.ours.fingerprint(0..all)),
        };
        let end = Bound::End;
        let first = Message {
            takes_new,
            ranges: vec![Range { end, claim }],
            ..Message::default()
        };
        session.turns += 1;
        (session, first.to_bytes())
    }

    /// Waits for the first message of somebody who begins.
    pub fn answer(ours: Arc<Snapshot>, takes_new: bool) -> Self {
        Self {
            sent: vec![false; ours.len()],
            ours,
            takes_new,
            other_takes_new: false,
            open: Vec::new(),
            to_send: VecDeque::new(),
            wanted: VecDeque::new(),
            turns: 0,
            hashed: 0,
            taken: 0,
        }
    }

    /// Takes a message of the other side.
    ///
    /// # Errors
    /// When the other side does what no honest one does; it is to lose score.
    pub fn on_message(&mut self, bytes: &[u8]) -> Result<Turn, Misbehaviour> {
        let message = Message::parse(bytes)?;
        self.turns += 2;
        self.taken += message.records.len();
        let endless = self.turns > limits::RECONCILIATION_TURNS_MAX
            || self.taken > limits::RECONCILIATION_TAKEN_MAX;
        if endless {
            return Err(Misbehaviour::Endless);
        }
        let was_quiet = message.is_quiet();
        self.other_takes_new = message.takes_new;
        self.on_ranges(message.ranges)?;
        for subject in &message.wanted {
            if let Some(position) = self.ours.position_of(subject) {
                self.send(position);
            }
        }
        let reply = self.next_message();
        let over = was_quiet && reply.is_quiet();
        Ok(Turn {
            records: message.records,
            reply: (!over).then(|| reply.to_bytes()),
        })
    }

    fn on_ranges(&mut self, ranges: Vec<Range>) -> Result<(), Misbehaviour> {
        let (mut from, mut start) = (Vec::new(), 0);
        for Range { end, claim } in ranges {
            let ours = start..self.ours.position_before(&end).max(start);
            start = ours.end;
            let next = match &end {
                Bound::Before(bytes) => bytes.clone(),
                Bound::End => Vec::new(),
            };
            match claim {
                Claim::Skip => {}
                Claim::Fingerprint(theirs) => {
                    self.count_hashed(ours.len())?;
                    if self.ours.fingerprint(ours.clone()) != theirs {
                        self.open(OpenRange { from, end, ours });
                    }
                }
                Claim::List(theirs) => {
                    let inside = theirs.iter().all(|ad| {
                        ad.subject.as_bytes()[..] >= from[..] && end.is_after(&ad.subject)
                    });
                    if !inside {
                        return Err(Misbehaviour::Range);
                    }
                    self.on_differences(compare::differences(&self.ours, ours, &theirs));
                }
            }
            from = next;
        }
        Ok(())
    }

    fn on_differences(&mut self, differences: Vec<Difference>) {
        for difference in differences {
            match difference {
                Difference::OnlyOurs(position) if self.other_takes_new => self.send(position),
                Difference::OursIsNewer(position) => self.send(position),
                Difference::OnlyTheirs(subject) if self.takes_new => self.want(subject),
                Difference::TheirsIsNewer(subject) => self.want(subject),
                Difference::OnlyOurs(_) | Difference::OnlyTheirs(_) => {}
            }
        }
    }

    fn open(&mut self, range: OpenRange) {
        if self.open.len() < OPEN_RANGES_MAX {
            self.open.push(range);
        }
    }

    fn want(&mut self, subject: SubjectId) {
        // As many as one message lists, many times over: none is lost with an honest partner.
        if self.wanted.len() < limits::RECONCILIATION_BYTES_MAX {
            self.wanted.push_back(subject);
        }
    }

    fn send(&mut self, position: usize) {
        if !std::mem::replace(&mut self.sent[position], true) {
            self.to_send.push_back(position);
        }
    }

    fn count_hashed(&mut self, ads: usize) -> Result<(), Misbehaviour> {
        self.hashed += ads;
        let most = HASHED_TIMES_MAX * self.ours.len();
        (self.hashed <= most)
            .then_some(())
            .ok_or(Misbehaviour::Endless)
    }

    fn next_message(&mut self) -> Message {
        let (ranges, ranges_len) = self.next_ranges();
        let wanted = self.wanted.len().min(WANTED_MAX);
        let mut message = Message {
            takes_new: self.takes_new,
            ranges,
            wanted: self.wanted.drain(..wanted).collect(),
            records: Vec::new(),
        };
        let mut left = FILL_BYTES_MAX - ranges_len - wanted * SUBJECT_ID_BYTES;
        while message.records.len() < limits::RECONCILIATION_RECORDS_MAX
            && let Some(position) = self.to_send.front()
        {
            let record = self.ours.item(*position).ad.as_bytes();
            // Three bytes say how long it is.
            let Some(rest) = left.checked_sub(record.len() + 3) else {
                break;
            };
            left = rest;
            message.records.push(record.to_vec());
            self.to_send.pop_front();
        }
        message
    }

    /// Cuts or lists open ranges, as many as a message has room for, and returns about how many
    /// bytes they take.
    fn next_ranges(&mut self) -> (Vec<Range>, usize) {
        let (mut answered, mut len, mut count) = (Vec::new(), 0, 0);
        while let Some(range) = self.open.last() {
            let lists = range.ours.len() <= LISTED_MAX;
            let needed = if lists {
                RANGE_BYTES + range.ours.len() * aither_protocol::reconciliation::LISTED_AD_BYTES
            } else {
                (PARTS + 1) * RANGE_BYTES
            };
            let fits = len + needed <= RANGES_BYTES_MAX
                && count + PARTS < limits::RECONCILIATION_RANGES_MAX;
            if !fits {
                break;
            }
            let Some(range) = self.open.pop() else {
                break;
            };
            let parts = if lists {
                vec![self.listed(&range)]
            } else {
                self.cut(&range)
            };
            len += needed;
            count += parts.len() + 1;
            answered.push((range.from, parts));
        }
        (in_order(answered), len)
    }

    fn listed(&self, range: &OpenRange) -> Range {
        let ads = range.ours.clone().map(|at| self.ours.item(at).listed());
        Range {
            end: range.end.clone(),
            claim: Claim::List(ads.collect()),
        }
    }

    fn cut(&mut self, range: &OpenRange) -> Vec<Range> {
        // What is hashed here was counted when the range was found to differ.
        let (start, len) = (range.ours.start, range.ours.len());
        let parts = (1..=PARTS).map(|part| {
            let first = start + len * (part - 1) / PARTS;
            let next = start + len * part / PARTS;
            let end = match part {
                PARTS => range.end.clone(),
                _ => Bound::Before(self.ours.bound_at(next)),
            };
            let claim = Claim::Fingerprint(self.ours.fingerprint(first..next));
            Range { end, claim }
        });
        parts.collect()
    }
}

/// Puts answered ranges in their order, with what lies between them skipped. A partner may have
/// made them overlap; then the later one is left out.
fn in_order(mut answered: Vec<(Vec<u8>, Vec<Range>)>) -> Vec<Range> {
    answered.sort_by(|(one, _), (other, _)| one.cmp(other));
    let mut ranges: Vec<Range> = Vec::new();
    for (from, parts) in answered {
        let reached = match ranges.last().map(|last| &last.end) {
            None => &[][..],
            Some(Bound::Before(bytes)) => bytes,
            Some(Bound::End) => break,
        };
        if from[..] < *reached {
            continue;
        }
        if from[..] > *reached {
            let end = Bound::Before(from);
            let claim = Claim::Skip;
            ranges.push(Range { end, claim });
        }
        ranges.extend(parts);
    }
    ranges
}
