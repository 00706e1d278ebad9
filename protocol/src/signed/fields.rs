//! The map that a payload is: fields by number, of which a reader knows some.
//!
//! An unknown field is passed over, unless field 0 lists its number: then the record means
//! something that this reader would get wrong, and is refused. Numbers are never used again.

use crate::{
    FederationId, NodeId,
    cbor::{CborError, Reader, Writer},
    limits,
    time::UnixTime,
};

use super::RecordError;

/// The field that lists which fields must be understood.
const CRITICAL: u64 = 0;

/// Reads the fields of a payload in their order.
pub(crate) struct FieldReader<'a> {
    /// At the value of the field that was last returned.
    pub(crate) value: Reader<'a>,
    left: usize,
    last: Option<u64>,
    critical: Vec<u64>,
}

/// Writes the fields of a payload, in ascending order.
pub(crate) struct FieldWriter {
    body: Writer,
    fields: usize,
}

impl<'a> FieldReader<'a> {
    pub(crate) fn new(payload: &'a [u8]) -> Result<Self, RecordError> {
        let mut value = Reader::new(payload);
        let left = value.map(limits::RECORD_FIELDS_MAX)?;
        Ok(Self {
            value,
            left,
            last: None,
            critical: Vec::new(),
        })
    }

    /// Returns the number of the next field, whose value the caller reads or [passes
    /// over](Self::unknown); none after the last one.
    pub(crate) fn next(&mut self) -> Result<Option<u64>, RecordError> {
        while self.left > 0 {
            self.left -= 1;
            let field = self.value.uint()?;
            if self.last.is_some_and(|last| last >= field) {
                return Err(CborError::NotDeterministic.into());
            }
            self.last = Some(field);
            if field != CRITICAL {
                return Ok(Some(field));
            }
            for _ in 0..self.value.array(limits::RECORD_FIELDS_MAX)? {
                self.critical.push(self.value.uint()?);
            }
        }
        self.value.end()?;
        Ok(None)
    }

    /// Passes over the value of a field that nobody here knows.
    pub(crate) fn unknown(&mut self, field: u64) -> Result<(), RecordError> {
        if self.critical.contains(&field) {
            return Err(RecordError::UnknownCritical(field));
        }
        Ok(self.value.skip()?)
    }

    pub(crate) fn node(&mut self, name: &'static str) -> Result<NodeId, RecordError> {
        NodeId::from_bytes(self.value.fixed()?).map_err(|_| RecordError::Invalid(name))
    }

    pub(crate) fn federation(&mut self) -> Result<FederationId, RecordError> {
        FederationId::from_bytes(self.value.fixed()?)
            .map_err(|_| RecordError::Invalid("federation"))
    }

    pub(crate) fn time(&mut self) -> Result<UnixTime, RecordError> {
        Ok(UnixTime::from_seconds(self.value.uint()?))
    }
}

impl FieldWriter {
    pub(crate) fn new() -> Self {
        Self {
            body: Writer::new(),
            fields: 0,
        }
    }

    /// Starts a field; its one value is written to what is returned.
    pub(crate) fn field(&mut self, field: u64) -> &mut Writer {
        self.fields += 1;
        self.body.uint(field)
    }

    pub(crate) fn into_payload(self) -> Vec<u8> {
        let mut payload = Writer::new();
        payload.map(self.fields);
        let mut payload = payload.into_bytes();
        payload.extend(self.body.into_bytes());
        payload
    }
}
