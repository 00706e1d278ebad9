//! What is kept of an entry for searching it, as bytes: a version, then fields in a fixed order.
//!
//! Numbers are LEB128 unless they are spread over all of their bits. Nothing is allocated for what
//! a length promises, only for what is there, and bytes that are no row are an error: a row is
//! derived and can be made again.

use aither_inference::vectors;

use super::{
    analyze::{TERMS_MAX, Terms},
    text::PIECES_MAX,
};

/// The version of rows and vectors. Another way to make terms is another version too.
pub const INDEX_VERSION: u8 = 1;

/// Bounds of what is read back; entries have tighter ones.
const KEY_BYTES_MAX: usize = 4096;
const TAGS_MAX: usize = 256;
const TAG_BYTES_MAX: usize = 1024;

/// What is known of an entry without reading it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IndexRow {
    /// The entry's key.
    pub key: String,
    /// When it was written, in milliseconds since 1970.
    pub updated_at_ms: u64,
    /// From when on it is not there any more.
    pub expires_at_ms: Option<u64>,
    /// The terms of its text.
    pub terms: Terms,
    /// Its tags.
    pub tags: Vec<String>,
    /// The signs of its pieces' vectors; none where it has no vectors yet.
    pub signs: Vec<SignVector>,
    /// The fingerprint of the model that made the vectors.
    pub model: Option<u64>,
}

/// The signs of a vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignVector(pub Box<[u64]>);

impl SignVector {
    /// Returns a vector's signs.
    pub fn of(vector: &[f32]) -> Self {
        Self(vectors::signs(vector))
    }
}

/// The vectors of an entry's pieces, in 8 bits per dimension.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CodedVectors {
    dimensions: usize,
    scales: Vec<f32>,
    codes: Vec<i8>,
}

/// Bytes that are no row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// They were written by another version.
    #[error(
        "a row of the search index has version {0}, not {INDEX_VERSION}; it has to be made again"
    )]
    Version(u8),
    /// They end too early, go on too long, or say what cannot be.
    #[error("a row of the search index is damaged: its {0} cannot be")]
    Damaged(&'static str),
}

impl IndexRow {
    /// Returns the row's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let signs = self.signs.iter().map(|signs| 8 * signs.0.len() + 2);
        let mut bytes = Vec::with_capacity(64 + 10 * self.terms.len() + signs.sum::<usize>());
        bytes.push(INDEX_VERSION);
        put_text(&mut bytes, &self.key);
        put_number(&mut bytes, self.updated_at_ms);
        put_option(&mut bytes, self.expires_at_ms);
        put_option(&mut bytes, self.model);
        put_number(&mut bytes, self.tags.len() as u64);
        for tag in &self.tags {
            put_text(&mut bytes, tag);
        }
        put_number(&mut bytes, u64::from(self.terms.length));
        put_number(&mut bytes, self.terms.counts.len() as u64);
        for (term, count) in &self.terms.counts {
            bytes.extend(term.to_le_bytes());
            put_number(&mut bytes, u64::from(*count));
        }
        put_number(&mut bytes, self.signs.len() as u64);
        for signs in &self.signs {
            put_number(&mut bytes, signs.0.len() as u64);
            bytes.extend(signs.0.iter().flat_map(|word| word.to_le_bytes()));
        }
        bytes
    }

    /// Reads a row back.
    ///
    /// # Errors
    /// If the bytes are no row of this version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RowError> {
        let mut reader = Reader::new(bytes)?;
        let key = reader.text("key", KEY_BYTES_MAX)?;
        let updated_at_ms = reader.number("time")?;
        let expires_at_ms = reader.option("expiry")?;
        let model = reader.option("model")?;
        let tags = reader.bounded("number of tags", TAGS_MAX)?;
        let tags = (0..tags).map(|_| reader.text("tag", TAG_BYTES_MAX));
        let tags = tags.collect::<Result<_, _>>()?;
        let terms = reader.terms()?;
        let signs = reader.bounded("number of pieces", PIECES_MAX)?;
        let signs = (0..signs).map(|_| reader.signs());
        let signs = signs.collect::<Result<_, _>>()?;
        reader.end()?;
        Ok(Self {
            key,
            updated_at_ms,
            expires_at_ms,
            terms,
            tags,
            signs,
            model,
        })
    }
}

impl CodedVectors {
    /// Codes the vectors of an entry's pieces; those past [`PIECES_MAX`] are left out.
    ///
    /// # Panics
    /// If they are of different lengths.
    pub fn of<V: AsRef<[f32]>>(pieces: &[V]) -> Self {
        let mut coded = Self::default();
        let mut codes = Vec::new();
        for vector in pieces.iter().take(PIECES_MAX) {
            let vector = vector.as_ref();
            if !coded.scales.is_empty() {
                assert_eq!(
                    vector.len(),
                    coded.dimensions,
                    "pieces of different lengths"
                );
            }
            coded.dimensions = vector.len();
            coded.scales.push(vectors::code(vector, &mut codes));
            coded.codes.extend_from_slice(&codes);
        }
        coded
    }

    /// Returns how near the nearest piece is: the product with a normalised vector, which is the
    /// cosine. None if there is no piece, or one of another model's length.
    pub(super) fn nearest(&self, vector: &[f32]) -> Option<f32> {
        if vector.is_empty() || self.dimensions != vector.len() {
            return None;
        }
        let pieces = self.codes.chunks_exact(self.dimensions).zip(&self.scales);
        let products = pieces.map(|(codes, scale)| vectors::dot(vector, codes) * scale);
        products.max_by(f32::total_cmp)
    }

    /// Returns the vectors' bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(8 + 4 * self.scales.len() + self.codes.len());
        bytes.push(INDEX_VERSION);
        put_number(&mut bytes, self.scales.len() as u64);
        put_number(&mut bytes, self.dimensions as u64);
        for scale in &self.scales {
            bytes.extend(scale.to_le_bytes());
        }
        bytes.extend(self.codes.iter().map(|code| code.cast_unsigned()));
        bytes
    }

    /// Reads vectors back.
    ///
    /// # Errors
    /// If the bytes are no vectors of this version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RowError> {
        let mut reader = Reader::new(bytes)?;
        let pieces = reader.bounded("number of pieces", PIECES_MAX)?;
        let dimensions = reader.bounded("dimensions", vectors::DIMENSIONS_MAX)?;
        let mut scales = Vec::with_capacity(pieces);
        for _ in 0..pieces {
            let scale = f32::from_le_bytes(reader.array("scale")?);
            // One that is no number would be larger than all others, or smaller than itself.
            if !(scale.is_finite() && scale >= 0.0) {
                return Err(RowError::Damaged("scale"));
            }
            scales.push(scale);
        }
        let codes = reader.bytes("codes", pieces * dimensions)?;
        let codes = codes.iter().map(|code| code.cast_signed()).collect();
        reader.end()?;
        Ok(Self {
            dimensions,
            scales,
            codes,
        })
    }
}

fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn put_option(bytes: &mut Vec<u8>, number: Option<u64>) {
    bytes.push(u8::from(number.is_some()));
    bytes.extend(number.into_iter().flat_map(u64::to_le_bytes));
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_number(bytes, text.len() as u64);
    bytes.extend(text.as_bytes());
}

/// The bytes that are not read yet.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, RowError> {
        match bytes.split_first() {
            Some((&INDEX_VERSION, rest)) => Ok(Self(rest)),
            Some((version, _)) => Err(RowError::Version(*version)),
            None => Err(RowError::Damaged("version")),
        }
    }

    fn bytes(&mut self, what: &'static str, count: usize) -> Result<&'a [u8], RowError> {
        let split = self.0.split_at_checked(count);
        let (bytes, rest) = split.ok_or(RowError::Damaged(what))?;
        self.0 = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], RowError> {
        let split = self.0.split_first_chunk();
        let (bytes, rest) = split.ok_or(RowError::Damaged(what))?;
        self.0 = rest;
        Ok(*bytes)
    }

    fn number(&mut self, what: &'static str) -> Result<u64, RowError> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let [byte] = self.array(what)?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(RowError::Damaged(what))
    }

    fn bounded(&mut self, what: &'static str, max: usize) -> Result<usize, RowError> {
        let number = usize::try_from(self.number(what)?);
        let number = number.ok().filter(|number| *number <= max);
        number.ok_or(RowError::Damaged(what))
    }

    fn option(&mut self, what: &'static str) -> Result<Option<u64>, RowError> {
        match self.array(what)? {
            [0] => Ok(None),
            [1] => Ok(Some(u64::from_le_bytes(self.array(what)?))),
            _ => Err(RowError::Damaged(what)),
        }
    }

    fn text(&mut self, what: &'static str, max: usize) -> Result<String, RowError> {
        let len = self.bounded(what, max)?;
        let text = str::from_utf8(self.bytes(what, len)?);
        text.map(str::to_owned).map_err(|_| RowError::Damaged(what))
    }

    fn terms(&mut self) -> Result<Terms, RowError> {
        let length = self.bounded("length", u32::MAX as usize)? as u32;
        let count = self.bounded("number of terms", TERMS_MAX)?;
        // A term takes nine bytes at least.
        let mut counts = Vec::with_capacity(count.min(self.0.len() / 9));
        let mut last = None;
        for _ in 0..count {
            let term = u64::from_le_bytes(self.array("term")?);
            let times = self.bounded("count of a term", usize::from(u16::MAX))? as u16;
            if last.is_some_and(|last| last >= term) || times == 0 {
                return Err(RowError::Damaged("order of terms"));
            }
            last = Some(term);
            counts.push((term, times));
        }
        let sum: u64 = counts.iter().map(|(_, times)| u64::from(*times)).sum();
        if u64::from(length) < sum {
            return Err(RowError::Damaged("length"));
        }
        Ok(Terms { counts, length })
    }

    fn signs(&mut self) -> Result<SignVector, RowError> {
        let words_max = vectors::sign_words(vectors::DIMENSIONS_MAX);
        let words = self.bounded("signs", words_max)?;
        let bytes = self.bytes("signs", 8 * words)?;
        let (words, _) = bytes.as_chunks();
        Ok(SignVector(
            words.iter().map(|word| u64::from_le_bytes(*word)).collect(),
        ))
    }

    fn end(&self) -> Result<(), RowError> {
        match self.0 {
            [] => Ok(()),
            _ => Err(RowError::Damaged("end")),
        }
    }
}
