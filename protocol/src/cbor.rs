//! Deterministic CBOR (RFC 8949, section 4.2.1), the part of it that our records are made of.
//!
//! Everything has one encoding, and the reader refuses any other: numbers in their shortest form,
//! definite lengths, the keys of maps in ascending order. There are whole numbers, byte strings,
//! texts, arrays, maps with whole numbers as keys, `false`, `true` and `null`; tags and floats are
//! refused. The reader allocates nothing, and every length is checked against a bound of the
//! caller's before anything is done with it.

/// Deepest nesting of a value that is skipped because nobody here knows it.
const SKIPPED_DEPTH_MAX: usize = 8;

/// Major types, the upper three bits of a value's first byte.
const UINT: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const SIMPLE: u8 = 7;

const FALSE: u64 = 20;
const TRUE: u64 = 21;
const NULL: u64 = 22;

/// Why bytes are not what was to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CborError {
    /// They end within a value.
    #[error("it is cut short")]
    Cut,
    /// They go on after the last value.
    #[error("it goes on after its end")]
    Trailing,
    /// There is a value of another type.
    #[error("a value is of another type")]
    Type,
    /// The value can be written shorter, or keys are out of order.
    #[error("it is not encoded deterministically")]
    NotDeterministic,
    /// A text is not UTF-8.
    #[error("a text is not UTF-8")]
    Utf8,
    /// A string, array or map has more elements than it may have.
    #[error("a value is longer than it may be")]
    TooLong,
    /// A byte string has not the length that it must have.
    #[error("a byte string is of another length")]
    Length,
    /// A value is nested too deep.
    #[error("a value is nested too deep")]
    TooDeep,
}

/// Writes values one after the other.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

/// Reads values one after the other.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl Writer {
    /// Starts with nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns what was written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Returns how many bytes were written.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Writes a whole number.
    pub fn uint(&mut self, value: u64) -> &mut Self {
        self.head(UINT, value)
    }

    /// Writes a byte string.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.head(BYTES, value.len() as u64);
        self.bytes.extend_from_slice(value);
        self
    }

    /// Writes a text.
    pub fn text(&mut self, value: &str) -> &mut Self {
        self.head(TEXT, value.len() as u64);
        self.bytes.extend_from_slice(value.as_bytes());
        self
    }

    /// Starts an array; its elements are to follow.
    pub fn array(&mut self, len: usize) -> &mut Self {
        self.head(ARRAY, len as u64)
    }

    /// Starts a map; its keys, in ascending order, and values are to follow.
    pub fn map(&mut self, len: usize) -> &mut Self {
        self.head(MAP, len as u64)
    }

    /// Writes a truth value.
    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.head(SIMPLE, if value { TRUE } else { FALSE })
    }

    fn head(&mut self, major: u8, value: u64) -> &mut Self {
        let major = major << 5;
        let bytes = value.to_be_bytes();
        match value {
            0..24 => self.bytes.push(major | bytes[7]),
            24..0x100 => self.bytes.extend([major | 24, bytes[7]]),
            0x100..0x1_0000 => self.tail(major | 25, &bytes[6..]),
            0x1_0000..0x1_0000_0000 => self.tail(major | 26, &bytes[4..]),
            _ => self.tail(major | 27, &bytes),
        }
        self
    }

    fn tail(&mut self, first: u8, value: &[u8]) {
        self.bytes.push(first);
        self.bytes.extend_from_slice(value);
    }
}

impl<'a> Reader<'a> {
    /// Starts at the first of these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Reads a whole number.
    ///
    /// # Errors
    /// When there is none.
    pub fn uint(&mut self) -> Result<u64, CborError> {
        self.head_of(UINT)
    }

    /// Reads a byte string of at most so many bytes.
    ///
    /// # Errors
    /// When there is none, or a longer one.
    pub fn bytes(&mut self, len_max: usize) -> Result<&'a [u8], CborError> {
        let len = self.head_of(BYTES)?;
        self.take(bounded(len, len_max)?)
    }

    /// Reads a byte string of exactly so many bytes.
    ///
    /// # Errors
    /// When there is none, or one of another length.
    pub fn fixed<const LEN: usize>(&mut self) -> Result<[u8; LEN], CborError> {
        let bytes = self.bytes(LEN)?;
        bytes.try_into().map_err(|_| CborError::Length)
    }

    /// Reads a text of at most so many bytes.
    ///
    /// # Errors
    /// When there is none, or a longer one, or one that is not UTF-8.
    pub fn text(&mut self, len_max: usize) -> Result<&'a str, CborError> {
        let len = self.head_of(TEXT)?;
        let bytes = self.take(bounded(len, len_max)?)?;
        std::str::from_utf8(bytes).map_err(|_| CborError::Utf8)
    }

    /// Reads the head of an array of at most so many elements, which are to be read next.
    ///
    /// # Errors
    /// When there is none, or a longer one.
    pub fn array(&mut self, len_max: usize) -> Result<usize, CborError> {
        let len = self.head_of(ARRAY)?;
        bounded(len, len_max)
    }

    /// Reads the head of a map of at most so many entries, which are to be read next. That the
    /// keys ascend is for the caller to check.
    ///
    /// # Errors
    /// When there is none, or a longer one.
    pub fn map(&mut self, len_max: usize) -> Result<usize, CborError> {
        let len = self.head_of(MAP)?;
        bounded(len, len_max)
    }

    /// Reads a truth value.
    ///
    /// # Errors
    /// When there is none.
    pub fn bool(&mut self) -> Result<bool, CborError> {
        match self.head()? {
            (SIMPLE, FALSE) => Ok(false),
            (SIMPLE, TRUE) => Ok(true),
            _ => Err(CborError::Type),
        }
    }

    /// Reads past one value of any type.
    ///
    /// # Errors
    /// When it is not encoded as it must be, or nested too deep.
    pub fn skip(&mut self) -> Result<(), CborError> {
        self.skip_nested(SKIPPED_DEPTH_MAX)
    }

    /// Checks that nothing is left.
    ///
    /// # Errors
    /// When something is.
    pub fn end(&self) -> Result<(), CborError> {
        match self.rest {
            [] => Ok(()),
            _ => Err(CborError::Trailing),
        }
    }

    /// Returns how many bytes are left.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    fn skip_nested(&mut self, depth_left: usize) -> Result<(), CborError> {
        let depth_left = depth_left.checked_sub(1).ok_or(CborError::TooDeep)?;
        let (major, value) = self.head()?;
        match major {
            UINT | NEGATIVE => Ok(()),
            BYTES => self.take(bounded(value, self.rest.len())?).map(|_| ()),
            TEXT => {
                let bytes = self.take(bounded(value, self.rest.len())?)?;
                std::str::from_utf8(bytes).map_err(|_| CborError::Utf8)?;
                Ok(())
            }
            // An element has a byte at least, so the loops end with the bytes.
            ARRAY => {
                (0..bounded(value, self.rest.len())?).try_for_each(|_| self.skip_nested(depth_left))
            }
            MAP => self.skip_entries(bounded(value, self.rest.len())?, depth_left),
            SIMPLE if (FALSE..=NULL).contains(&value) => Ok(()),
            _ => Err(CborError::Type),
        }
    }

    fn skip_entries(&mut self, entries: usize, depth_left: usize) -> Result<(), CborError> {
        let mut last = None;
        for _ in 0..entries {
            let key = self.uint()?;
            if last.is_some_and(|last| last >= key) {
                return Err(CborError::NotDeterministic);
            }
            last = Some(key);
            self.skip_nested(depth_left)?;
        }
        Ok(())
    }

    fn head_of(&mut self, wanted: u8) -> Result<u64, CborError> {
        let (major, value) = self.head()?;
        (major == wanted).then_some(value).ok_or(CborError::Type)
    }

    fn head(&mut self) -> Result<(u8, u64), CborError> {
        let first = self.take(1)?[0];
        let (major, info) = (first >> 5, first & 31);
        let (value, least) = match info {
            0..24 => (u64::from(info), 0),
            24 => (self.number(1)?, 24),
            // A float has the same first byte as a simple value of two bytes and more.
            25 if major != SIMPLE => (self.number(2)?, 0x100),
            26 if major != SIMPLE => (self.number(4)?, 0x1_0000),
            27 if major != SIMPLE => (self.number(8)?, 0x1_0000_0000),
            _ => return Err(CborError::Type),
        };
        if value < least {
            return Err(CborError::NotDeterministic);
        }
        Ok((major, value))
    }

    fn number(&mut self, len: usize) -> Result<u64, CborError> {
        let bytes = self.take(len)?;
        Ok(bytes
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], CborError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(CborError::Cut)?;
        self.rest = rest;
        Ok(taken)
    }
}

fn bounded(len: u64, len_max: usize) -> Result<usize, CborError> {
    let len = usize::try_from(len).map_err(|_| CborError::TooLong)?;
    (len <= len_max).then_some(len).ok_or(CborError::TooLong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
        let mut writer = Writer::new();
        write(&mut writer);
        writer.into_bytes()
    }

    #[test]
    fn values_of_the_specifications_appendix_are_written_and_read() {
        let numbers: [(u64, &[u8]); 8] = [
            (0, &[0x00]),
            (23, &[0x17]),
            (24, &[0x18, 0x18]),
            (100, &[0x18, 0x64]),
            (1000, &[0x19, 0x03, 0xe8]),
            (1_000_000, &[0x1a, 0x00, 0x0f, 0x42, 0x40]),
            (
                1_000_000_000_000,
                &[0x1b, 0, 0, 0, 0xe8, 0xd4, 0xa5, 0x10, 0],
            ),
            (u64::MAX, &[0x1b, 255, 255, 255, 255, 255, 255, 255, 255]),
        ];
        for (number, bytes) in numbers {
            assert_eq!(written(|writer| _ = writer.uint(number)), bytes);
            assert_eq!(Reader::new(bytes).uint(), Ok(number));
        }
        assert_eq!(
            written(|writer| _ = writer.bytes(&[1, 2, 3, 4])),
            [0x44, 1, 2, 3, 4]
        );
        assert_eq!(written(|writer| _ = writer.text("ü")), [0x62, 0xc3, 0xbc]);
        assert_eq!(
            written(|writer| _ = writer.array(2).bool(false).bool(true)),
            [0x82, 0xf4, 0xf5]
        );
        assert_eq!(
            written(|writer| _ = writer.map(1).uint(1).uint(2)),
            [0xa1, 1, 2]
        );
    }

    #[test]
    fn numbers_that_can_be_written_shorter_are_refused() {
        let long: [&[u8]; 5] = [
            &[0x18, 23],
            &[0x19, 0, 255],
            &[0x1a, 0, 0, 255, 255],
            &[0x1b, 0, 0, 0, 0, 255, 255, 255, 255],
            &[0x58, 1, 7],
        ];
        for bytes in long {
            assert_eq!(
                Reader::new(bytes).skip(),
                Err(CborError::NotDeterministic),
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn lengths_are_checked_before_anything_is_read() {
        // Four thousand million bytes are announced, and none is there.
        let huge = [0x5a, 255, 255, 255, 255];
        assert_eq!(Reader::new(&huge).bytes(64), Err(CborError::TooLong));
        assert_eq!(Reader::new(&huge).skip(), Err(CborError::TooLong));
        let array = [0x9b, 255, 255, 255, 255, 255, 255, 255, 255];
        assert_eq!(Reader::new(&array).array(4), Err(CborError::TooLong));
        assert_eq!(Reader::new(&array).skip(), Err(CborError::TooLong));
        assert_eq!(Reader::new(&[0x43, 1, 2]).bytes(64), Err(CborError::Cut));
        assert_eq!(
            Reader::new(&[0x43, 1, 2, 3]).fixed::<4>(),
            Err(CborError::Length)
        );
    }

    #[test]
    fn what_our_records_never_hold_is_refused() {
        let refused: [&[u8]; 7] = [
            // A text of indefinite length, a tag, a float, an undefined, a simple value of 2 bytes.
            &[0x7f, 0x61, b'a', 0xff],
            &[0xc0, 0x00],
            &[0xf9, 0x3c, 0x00],
            &[0xf7],
            &[0xf8, 32],
            // A reserved length, and a map with a text as its key.
            &[0x1c],
            &[0xa1, 0x61, b'a', 0],
        ];
        for bytes in refused {
            assert_eq!(Reader::new(bytes).skip(), Err(CborError::Type), "{bytes:?}");
        }
        assert_eq!(Reader::new(&[0x61, 0xff]).skip(), Err(CborError::Utf8));
        assert_eq!(
            Reader::new(&[0xa2, 2, 0, 1, 0]).skip(),
            Err(CborError::NotDeterministic)
        );
        assert_eq!(
            Reader::new(&[0xa2, 1, 0, 1, 0]).skip(),
            Err(CborError::NotDeterministic)
        );
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = [[0x81].repeat(7), vec![0]].concat();
        assert_eq!(Reader::new(&nested).skip(), Ok(()));
        let nested = [[0x81].repeat(100_000), vec![0]].concat();
        assert_eq!(Reader::new(&nested).skip(), Err(CborError::TooDeep));
    }
}
