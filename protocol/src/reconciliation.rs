//! What two nodes say to find out which ads the other has not heard.
//!
//! Both have their ads in the order of their subjects' ids. A message goes through that order in
//! ranges and says of each what the sender has in it: nothing worth saying, a fingerprint, or the
//! list of its ads by subject, age and name. Who gets a fingerprint that differs from its own
//! answers with finer ranges or a list; who gets a list knows all that there is to know of that
//! range, sends what is newer here, and asks for what is newer there. Messages take turns, each of
//! bounded size, so what does not fit waits for the next. `docs/protocol/ads.md` has the rules.

use crate::{
    RecordError, RecordId, SubjectId,
    ad::SUBJECT_ID_BYTES,
    cbor::{CborError, Reader, Writer},
    limits,
    signed::RECORD_ID_BYTES,
};

/// Length of a [`Fingerprint`].
pub const FINGERPRINT_BYTES: usize = 16;
/// Length of a [`ListedAd`]: subject, epoch, sequence, record id.
pub const LISTED_AD_BYTES: usize = SUBJECT_ID_BYTES + 8 + 8 + RECORD_ID_BYTES;

/// Kinds of ranges on the wire. A number is never used again.
const KIND_FINGERPRINT: u64 = 1;
const KIND_LIST: u64 = 2;

/// A hash of all ads of a range: the first bytes of BLAKE3 over their subjects' and their own ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; FINGERPRINT_BYTES]);

/// Where a range ends: before the first subject whose id is not less than these bytes. As few of
/// them as tell two neighbours apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    /// Before the first subject that is not less.
    Before(Vec<u8>),
    /// After the last subject.
    End,
}

/// An ad in a list: enough to know which of two is newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedAd {
    /// What it is about.
    pub subject: SubjectId,
    /// Its epoch.
    pub epoch: u64,
    /// Its sequence.
    pub sequence: u64,
    /// Its name.
    pub id: RecordId,
}

/// What a sender says of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// Nothing: it is done, or somebody else's turn.
    Skip,
    /// The hash of all that it has.
    Fingerprint(Fingerprint),
    /// All that it has, ascending.
    List(Vec<ListedAd>),
}

/// A range, from where the one before it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// Where it ends.
    pub end: Bound,
    /// What is said of it.
    pub claim: Claim,
}

/// One turn.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// Whether the sender takes ads of subjects that it does not have: not when it is full.
    pub takes_new: bool,
    /// Ranges from the beginning on. What they do not reach is skipped.
    pub ranges: Vec<Range>,
    /// Subjects whose ads are asked for.
    pub wanted: Vec<SubjectId>,
    /// Ads, as they were signed.
    pub records: Vec<Vec<u8>>,
}

impl Fingerprint {
    /// Hashes ads in their order.
    pub fn of<'a>(ads: impl IntoIterator<Item = (&'a SubjectId, &'a RecordId)>) -> Self {
        let mut hasher = blake3::Hasher::new();
        for (subject, id) in ads {
            hasher.update(subject.as_bytes());
            hasher.update(id.as_bytes());
        }
        let mut fingerprint = [0; FINGERPRINT_BYTES];
        fingerprint.copy_from_slice(&hasher.finalize().as_bytes()[..FINGERPRINT_BYTES]);
        Self(fingerprint)
    }
}

impl Message {
    /// Whether it neither says nor asks anything.
    pub fn is_quiet(&self) -> bool {
        self.wanted.is_empty()
            && self.records.is_empty()
            && self.ranges.iter().all(|range| range.claim == Claim::Skip)
    }

    /// Returns its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.array(4).bool(self.takes_new);
        writer.array(self.ranges.len());
        for range in &self.ranges {
            range.write(&mut writer);
        }
        let wanted: Vec<u8> = self.wanted.iter().flat_map(|id| *id.as_bytes()).collect();
        writer.bytes(&wanted);
        writer.array(self.records.len());
        for record in &self.records {
            writer.bytes(record);
        }
        writer.into_bytes()
    }

    /// Reads a message. Its records are not looked at, and nothing in it is verified.
    ///
    /// # Errors
    /// When it is malformed, too long, or its ranges or lists are out of order.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let bytes_max = limits::RECONCILIATION_BYTES_MAX;
        if bytes.len() > bytes_max {
            return Err(RecordError::TooLong(bytes_max));
        }
        let mut reader = Reader::new(bytes);
        if reader.array(4)? != 4 {
            return Err(CborError::Length.into());
        }
        let takes_new = reader.bool()?;
        let ranges = read_ranges(&mut reader)?;
        let (wanted, rest) = reader.bytes(bytes_max)?.as_chunks();
        if !rest.is_empty() {
            return Err(RecordError::Invalid("wanted"));
        }
        let wanted = wanted.iter().copied().map(SubjectId::from_bytes).collect();
        let mut records = Vec::new();
        for _ in 0..reader.array(limits::RECONCILIATION_RECORDS_MAX)? {
            records.push(reader.bytes(limits::AD_BYTES_MAX)?.to_vec());
        }
        reader.end()?;
        Ok(Self {
            takes_new,
            ranges,
            wanted,
            records,
        })
    }
}

impl Bound {
    fn write(&self, writer: &mut Writer) {
        // No subject's id is less than nothing, so nothing can stand for the end.
        writer.bytes(match self {
            Self::Before(bytes) => bytes,
            Self::End => &[],
        });
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, RecordError> {
        Ok(match reader.bytes(SUBJECT_ID_BYTES)? {
            [] => Self::End,
            bytes => Self::Before(bytes.to_vec()),
        })
    }

    /// Whether a subject lies before it.
    pub fn is_after(&self, subject: &SubjectId) -> bool {
        match self {
            Self::Before(bytes) => subject.as_bytes()[..] < bytes[..],
            Self::End => true,
        }
    }
}

impl Range {
    fn write(&self, writer: &mut Writer) {
        let (kind, bytes) = match &self.claim {
            Claim::Skip => {
                writer.array(1);
                return self.end.write(writer);
            }
            Claim::Fingerprint(Fingerprint(bytes)) => (KIND_FINGERPRINT, bytes.to_vec()),
            Claim::List(ads) => (
                KIND_LIST,
                ads.iter().copied().flat_map(ListedAd::to_bytes).collect(),
            ),
        };
        writer.array(3);
        self.end.write(writer);
        writer.uint(kind).bytes(&bytes);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, RecordError> {
        let parts = reader.array(3)?;
        let end = Bound::read(reader)?;
        if parts == 1 {
            let claim = Claim::Skip;
            return Ok(Self { end, claim });
        }
        if parts != 3 {
            return Err(CborError::Length.into());
        }
        let claim = match reader.uint()? {
            KIND_FINGERPRINT => Claim::Fingerprint(Fingerprint(reader.fixed()?)),
            KIND_LIST => {
                let bytes = reader.bytes(limits::RECONCILIATION_BYTES_MAX)?;
                Claim::List(read_list(bytes)?)
            }
            _ => return Err(RecordError::Invalid("ranges")),
        };
        Ok(Self { end, claim })
    }
}

impl ListedAd {
    fn to_bytes(self) -> [u8; LISTED_AD_BYTES] {
        let mut bytes = [0; LISTED_AD_BYTES];
        let parts = [
            &self.subject.as_bytes()[..],
            &self.epoch.to_be_bytes(),
            &self.sequence.to_be_bytes(),
            self.id.as_bytes(),
        ];
        let mut rest = &mut bytes[..];
        for part in parts {
            let (head, tail) = rest.split_at_mut(part.len());
            head.copy_from_slice(part);
            rest = tail;
        }
        bytes
    }

    fn read(bytes: &[u8; LISTED_AD_BYTES]) -> Option<Self> {
        let (subject, rest) = bytes.split_first_chunk()?;
        let (epoch, rest) = rest.split_first_chunk()?;
        let (sequence, id) = rest.split_first_chunk()?;
        Some(Self {
            subject: SubjectId::from_bytes(*subject),
            epoch: u64::from_be_bytes(*epoch),
            sequence: u64::from_be_bytes(*sequence),
            id: RecordId::from_bytes(id.try_into().ok()?),
        })
    }
}

fn read_ranges(reader: &mut Reader<'_>) -> Result<Vec<Range>, RecordError> {
    let count = reader.array(limits::RECONCILIATION_RANGES_MAX)?;
    let mut ranges: Vec<Range> = Vec::with_capacity(count);
    for _ in 0..count {
        let range = Range::read(reader)?;
        let ascends = match (ranges.last().map(|last| &last.end), &range.end) {
            (None, _) => true,
            (Some(Bound::End), _) => false,
            (Some(Bound::Before(_)), Bound::End) => true,
            (Some(Bound::Before(last)), Bound::Before(next)) => last < next,
        };
        if !ascends {
            return Err(RecordError::Invalid("ranges"));
        }
        ranges.push(range);
    }
    Ok(ranges)
}

fn read_list(bytes: &[u8]) -> Result<Vec<ListedAd>, RecordError> {
    let (ads, rest) = bytes.as_chunks();
    let list: Vec<_> = ads.iter().filter_map(ListedAd::read).collect();
    let ascends = list.is_sorted_by(|one, next| one.subject < next.subject);
    if !rest.is_empty() || !ascends {
        return Err(RecordError::Invalid("ranges"));
    }
    Ok(list)
}
