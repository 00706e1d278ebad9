//! What of an entry is searched: one text, and the pieces of it that are given meaning.
//!
//! An embedding model reads a few hundred words at most, so a longer text is cut, and an entry is
//! as near to a question as its nearest piece. What lies behind the last piece is found by its
//! words only; what lies behind the bound of the text is not found.

use serde_json::Value;

/// Longest text of an entry that is searched. It is also about what eight pieces of long words
/// hold, and 4096 different words.
pub const TEXT_BYTES_MAX: usize = 32 * 1024;
/// Pieces of one text at most.
pub const PIECES_MAX: usize = 8;

/// Units of a piece: words, so that they and their punctuation come to about the 256 tokens that
/// small embedding models read.
const PIECE_UNITS: usize = 180;
/// Characters of one word that count as another unit: words of no language are longer, but numbers
/// and encoded bytes are.
const UNIT_CHARS_MAX: usize = 48;

/// Returns the text by which an entry is found: its key, and the names, texts and numbers of its
/// value, in their order.
///
/// No more of the value is visited than the text has room for.
pub fn searchable_text(key: &str, value: &Value) -> String {
    let mut text = BoundedText::default();
    text.push(key);
    text.push("\n");
    // What is still to be written, the next one last. Depth costs no stack.
    let mut rest = vec![Part::Value(value)];
    while let Some(part) = rest.pop() {
        if text.is_full() {
            break;
        }
        match part {
            Part::Value(Value::String(string)) => text.line(string),
            Part::Value(Value::Number(number)) => text.line(&number.to_string()),
            Part::Value(Value::Null | Value::Bool(_)) => text.push("\n"),
            Part::Value(Value::Array(values)) => rest.push(Part::Values(values.iter())),
            Part::Value(Value::Object(members)) => rest.push(Part::Members(members.iter())),
            Part::Values(mut values) => {
                if let Some(value) = values.next() {
                    rest.push(Part::Values(values));
                    rest.push(Part::Value(value));
                }
            }
            Part::Members(mut members) => {
                if let Some((name, value)) = members.next() {
                    text.push(name);
                    text.push(": ");
                    rest.push(Part::Members(members));
                    rest.push(Part::Value(value));
                }
            }
        }
    }
    text.finish()
}

/// A part of a value that is still to be visited.
enum Part<'a> {
    Value(&'a Value),
    Values(std::slice::Iter<'a, Value>),
    Members(serde_json::map::Iter<'a>),
}

/// A text that takes no more than its bound.
#[derive(Default)]
struct BoundedText {
    text: String,
    /// Whether something was left out. What is shorter would still fit, but would not follow on.
    is_cut: bool,
}

impl BoundedText {
    fn push(&mut self, part: &str) {
        if !self.is_cut {
            let room = TEXT_BYTES_MAX - self.text.len();
            let end = part.floor_char_boundary(room);
            self.text.push_str(&part[..end]);
            self.is_cut = end < part.len();
        }
    }

    fn line(&mut self, part: &str) {
        self.push(part);
        self.push("\n");
    }

    fn is_full(&self) -> bool {
        self.is_cut || self.text.len() >= TEXT_BYTES_MAX
    }

    fn finish(mut self) -> String {
        self.text.truncate(self.text.trim_end().len());
        self.text
    }
}

/// Cuts a text into pieces of about 180 words, all of about the same length and at most
/// [`PIECES_MAX`]; what is behind the last is left out.
///
/// It is cut between words, or between characters in scripts that write no spaces. A text without
/// a word has no piece.
pub fn pieces(text: &str) -> Vec<&str> {
    let count = Units::new(text).count();
    let pieces = count.div_ceil(PIECE_UNITS);
    let units = if pieces > PIECES_MAX {
        PIECE_UNITS
    } else {
        count.div_ceil(pieces.max(1))
    };
    let mut starts = Units::new(text).step_by(units.max(1));
    let mut pieces = Vec::with_capacity(pieces.min(PIECES_MAX));
    let mut next = starts.next();
    while let Some(start) = next.filter(|_| pieces.len() < PIECES_MAX) {
        next = starts.next();
        pieces.push(text[start..next.unwrap_or(text.len())].trim_end());
    }
    pieces
}

/// The places where units begin: words, and characters of scripts without spaces.
struct Units<'a> {
    chars: std::str::CharIndices<'a>,
    /// Characters since the last unit began, if the word goes on.
    within: Option<usize>,
}

impl<'a> Units<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            chars: text.char_indices(),
            within: None,
        }
    }
}

impl Iterator for Units<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        for (at, character) in self.chars.by_ref() {
            if character.is_whitespace() {
                self.within = None;
                continue;
            }
            match &mut self.within {
                Some(chars) if *chars < UNIT_CHARS_MAX && !stands_alone(character) => *chars += 1,
                within => {
                    *within = Some(1);
                    return Some(at);
                }
            }
        }
        None
    }
}

/// Whether a character is about a word: Han, kana, and the scripts of South East Asia, of which
/// none puts spaces between words.
fn stands_alone(character: char) -> bool {
    matches!(
        u32::from(character),
        0x0e00..=0x0eff            // Thai, Lao
            | 0x1000..=0x109f      // Burmese
            | 0x1780..=0x17ff      // Khmer
            | 0x3040..=0x30ff      // Hiragana, Katakana
            | 0x3400..=0x4dbf
            | 0x4e00..=0x9fff
            | 0xf900..=0xfaff
            | 0x20000..=0x3ffff    // Han
    )
}
