//! Text to ids for encoders: WordPiece as BERT has it, from a GGUF file's vocabulary.
//!
//! Cleaning, accents, cases and words are the `tokenizers` crate's, which is the reference. In the
//! file a piece that begins a word carries `▁`, one that continues it nothing, and a special piece
//! stands as it is: that is llama.cpp's spelling, undone here. Texts of special pieces
//! (`[SEP]`) in a text mean these pieces, as in the reference; nothing depends on them.
//!
//! A text ends where the model's context does. How much of it has to be read for that cannot be
//! known before, so longer and longer beginnings are read. They end at a space if there is one
//! near, and there is a longest: a text is tokenized before anybody has paid for it, and each of
//! its characters may be a word.

use std::collections::HashMap;

use tokenizers::{
    AddedToken, Tokenizer, models::bpe::Vocab, models::wordpiece::WordPiece,
    normalizers::BertNormalizer, pre_tokenizers::bert::BertPreTokenizer,
};

use crate::{
    error::{Error, Result},
    gguf::Metadata,
};

/// Pieces of a vocabulary; the largest in use has 250 000.
const PIECES_MAX: usize = 1 << 19;
/// Bytes of a piece.
const PIECE_BYTES_MAX: usize = 512;
/// Special pieces. BERT has five.
const SPECIALS_MAX: usize = 1024;
/// Characters of a word, beyond which it is unknown, as in the reference.
const WORD_CHARS_MAX: usize = 100;
/// Bytes of a text that are read first, for each id that there is room for: eight times those of
/// an English piece.
const BYTES_PER_ID: usize = 32;
/// Bytes of a text that are read at most, for each id that there is room for: more than a word of
/// [`WORD_CHARS_MAX`] characters has, which is one id if it is unknown. What fills a context with
/// more than that is blank, or words of which nothing is known but that they are there.
const BYTES_PER_ID_MAX: usize = 512;
/// How much longer a beginning is than the last one.
const GROWTH: usize = 4;
/// Bytes within which a space is looked for where a beginning ends.
const SPACE_WITHIN: usize = 512;
/// What a piece that begins a word begins with in the file.
const WORD_START: char = '▁';
/// What one that continues a word begins with in the tokenizer.
const CONTINUATION: &str = "##";

/// Ids where a file names none, as in llama.cpp.
const UNKNOWN_ID: u32 = 100;
const BEGIN_ID: u32 = 101;
const END_ID: u32 = 102;

/// Kinds of pieces that are not text, as the file numbers them.
const SPECIAL_KINDS: [i32; 3] = [2, 3, 4];

/// An encoder's tokenizer.
pub(super) struct WordPieces {
    tokenizer: Tokenizer,
    begin_id: u32,
    end_id: u32,
    /// Most ids of a text, with those at both ends.
    ids_max: usize,
}

/// A text as ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ids {
    pub(super) ids: Vec<u32>,
    /// Whether the text goes on.
    pub(super) is_truncated: bool,
}

impl WordPieces {
    /// Builds the tokenizer that the metadata describe.
    ///
    /// # Errors
    /// [`Error::UnsupportedModel`] for another kind, [`Error::InvalidGguf`] where the metadata
    /// contradict themselves.
    pub(super) fn from_gguf(metadata: &Metadata, ids_max: usize) -> Result<Self> {
        match metadata.required_str("tokenizer.ggml.model")? {
            "bert" => {}
            other => {
                return Err(Error::UnsupportedModel {
                    message: format!(
                        "tokenizer {other:?} of an embedding model; \"bert\" is supported"
                    ),
                });
            }
        }
        let pieces = Pieces::from_gguf(metadata)?;
        let id = |keys: &[&str], default: u32| {
            for key in keys {
                if let Some(id) = metadata.u32(&format!("tokenizer.ggml.{key}_token_id"))? {
                    return pieces.known(id);
                }
            }
            pieces.known(default)
        };
        // llama.cpp's own spelling comes first.
        let end_id = id(&["seperator", "separator", "eos"], END_ID)?;
        let begin_id = id(&["cls", "bos"], BEGIN_ID)?;
        let unknown_id = id(&["unknown"], UNKNOWN_ID)?;
        Ok(Self {
            tokenizer: pieces.into_tokenizer(unknown_id)?,
            begin_id,
            end_id,
            ids_max,
        })
    }

    /// Encodes a text, up to the most ids that the model reads.
    ///
    /// # Errors
    /// A defect of the tokenizer.
    pub(super) fn encode(&self, text: &str) -> Result<Ids> {
        // Blanks in front are no part of any word.
        let text = text.trim_start();
        let room = self.ids_max - 2;
        let mut bytes = room * BYTES_PER_ID;
        loop {
            let (beginning, end) = beginning(text, bytes);
            let encoded = self.tokenizer.encode_fast(beginning, false);
            let encoding = encoded.map_err(|error| Error::Internal {
                message: format!("a text could not be tokenized: {error}"),
            })?;
            let found = encoding.get_ids();
            // What a cut word becomes says nothing, so none of it may be among those that count.
            let is_enough = match end {
                End::Text => true,
                End::Space => found.len() > room,
                End::Anywhere => found.len() > room + WORD_CHARS_MAX,
            };
            if !is_enough && bytes < room * BYTES_PER_ID_MAX {
                bytes = bytes.saturating_mul(GROWTH);
                continue;
            }
            let mut ids = Vec::with_capacity(found.len().min(room) + 2);
            ids.push(self.begin_id);
            ids.extend(found.iter().take(room));
            ids.push(self.end_id);
            let rest = &text[beginning.len()..];
            let is_truncated = found.len() > room || !rest.trim_start().is_empty();
            return Ok(Ids { ids, is_truncated });
        }
    }
}

/// Where a beginning of a text ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// With the text.
    Text,
    /// At a space: its pieces are the text's.
    Space,
    /// Within a word, perhaps.
    Anywhere,
}

/// The beginning of a text of about so many bytes, and where it ends.
fn beginning(text: &str, bytes: usize) -> (&str, End) {
    let Some(rest) = text.as_bytes().get(bytes..).filter(|rest| !rest.is_empty()) else {
        return (text, End::Text);
    };
    // Other blank characters are removed as control characters, or have several bytes.
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    match rest.iter().take(SPACE_WITHIN).position(is_space) {
        Some(at) => (&text[..bytes + at], End::Space),
        None => (&text[..text.floor_char_boundary(bytes)], End::Anywhere),
    }
}

/// A vocabulary, as the tokenizer wants it.
struct Pieces {
    ids: HashMap<String, u32>,
    specials: Vec<String>,
    texts: Vec<String>,
}

impl Pieces {
    fn from_gguf(metadata: &Metadata) -> Result<Self> {
        let stored = metadata.required_strings("tokenizer.ggml.tokens")?;
        let kinds = metadata.i32s("tokenizer.ggml.token_type")?;
        if stored.len() > PIECES_MAX {
            return Err(invalid(format!(
                "the vocabulary has {} entries",
                stored.len()
            )));
        }
        if kinds
            .as_ref()
            .is_some_and(|kinds| kinds.len() != stored.len())
        {
            return Err(invalid("the vocabulary has not one type for each entry"));
        }
        let mut pieces = Self {
            ids: HashMap::with_capacity(stored.len()),
            specials: Vec::new(),
            texts: Vec::with_capacity(stored.len()),
        };
        for (index, text) in stored.iter().enumerate() {
            if text.len() > PIECE_BYTES_MAX {
                return Err(invalid(format!("vocabulary entry {index} is too long")));
            }
            let kind = kinds.as_ref().and_then(|kinds| kinds.get(index));
            let is_special = kind.is_some_and(|kind| SPECIAL_KINDS.contains(kind));
            pieces.push(text, is_special)?;
        }
        Ok(pieces)
    }

    fn push(&mut self, stored: &str, is_special: bool) -> Result<()> {
        let id = self.texts.len() as u32;
        let text = match stored.strip_prefix(WORD_START) {
            _ if is_special => stored.to_owned(),
            Some(word) => word.to_owned(),
            None => format!("{CONTINUATION}{stored}"),
        };
        if is_special && !text.is_empty() {
            if self.specials.len() == SPECIALS_MAX {
                return Err(invalid("the vocabulary has too many special entries"));
            }
            self.specials.push(text.clone());
        }
        if self.ids.insert(text.clone(), id).is_some() {
            return Err(invalid(format!(
                "vocabulary entry {stored:?} appears twice"
            )));
        }
        self.texts.push(text);
        Ok(())
    }

    /// An id, if the vocabulary has it.
    fn known(&self, id: u32) -> Result<u32> {
        match self.texts.get(id as usize) {
            Some(_) => Ok(id),
            None => Err(invalid(format!(
                "special id {id} is outside the vocabulary"
            ))),
        }
    }

    fn into_tokenizer(self, unknown_id: u32) -> Result<Tokenizer> {
        let failed = |error: tokenizers::Error| invalid(format!("the vocabulary: {error}"));
        // Files do not say whether cases matter. They do where words have capitals.
        let specials = &self.specials;
        let has_capitals = |text: &String| text.bytes().any(|byte| byte.is_ascii_uppercase());
        let is_cased = self.texts.iter().any(|text| {
            // Reserved entries such as `[unused7]` have no capitals, special ones do.
            has_capitals(text) && !specials.contains(text) && !text.contains('[')
        });
        let unknown = self.texts.into_iter().nth(unknown_id as usize);
        let vocabulary: Vocab = self.ids.into_iter().collect();
        let model = WordPiece::builder()
            .vocab(vocabulary)
            .unk_token(unknown.unwrap_or_default())
            .continuing_subword_prefix(CONTINUATION.into())
            .max_input_chars_per_word(WORD_CHARS_MAX)
            .build()
            .map_err(failed)?;
        let mut tokenizer = Tokenizer::new(model);
        tokenizer
            .with_normalizer(Some(BertNormalizer::new(true, true, None, !is_cased)))
            .map_err(failed)?;
        tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
        let specials = self.specials.into_iter();
        let specials = specials.map(|text| AddedToken::from(text, true));
        tokenizer.add_special_tokens(specials).map_err(failed)?;
        Ok(tokenizer)
    }
}

impl std::fmt::Debug for WordPieces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WordPieces")
            .field("ids_max", &self.ids_max)
            .finish_non_exhaustive()
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::InvalidGguf {
        message: message.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_ends_at_a_space_if_one_is_near() {
        assert_eq!(beginning("one two", 7), ("one two", End::Text));
        assert_eq!(beginning("one two", 9), ("one two", End::Text));
        assert_eq!(beginning("one two", 2), ("one", End::Space));
        assert_eq!(beginning("one two", 4), ("one ", End::Anywhere));
    }

    #[test]
    fn regression_a_text_without_spaces_is_not_read_to_its_end() {
        for character in ["!", "\u{4e00}", "\u{1f600}", "\u{1}"] {
            let text = character.repeat(100_000);
            let (beginning, end) = beginning(&text, 1001);
            assert_eq!(end, End::Anywhere);
            assert!((998..=1001).contains(&beginning.len()));
        }
        let text = "a".repeat(1000) + " b";
        let (beginning, end) = beginning(&text, 100);
        assert_eq!((beginning.len(), end), (100, End::Anywhere));
    }
}
