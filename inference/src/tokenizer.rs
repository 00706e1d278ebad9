//! Text to token ids and back, from a GGUF file's own metadata.
//!
//! Byte-level BPE only (`tokenizer.ggml.model` = `gpt2`): the [`Vocabulary`] knows the pieces and
//! the special ones among them, a [`PreTokenizer`] cuts text into words by the rules that the file
//! names, and the `tokenizers` crate merges each word's bytes. The reference is llama.cpp, whose
//! order is kept: special pieces are cut out first, the longest first, then words are merged.
//!
//! Limits: [`INPUT_BYTES_MAX`] of text per call, [`WORD_BYTES_MAX`] per word. With these, time
//! grows as `n log n` and memory by some hundred bytes per byte of the longest word only.

mod pre_tokenizer;
mod stream;
mod vocabulary;

use std::sync::Arc;

use tokenizers::{Model, models::bpe::BPE};

pub use self::stream::TextStream;
use self::{
    pre_tokenizer::PreTokenizer,
    vocabulary::{PieceKind, Vocabulary, bytes_to_chars},
};
use crate::{
    error::{Error, Result},
    gguf::Metadata,
};

/// Bytes of text that one call encodes. The longest contexts in use hold a million tokens, which
/// is some 4 MiB of English.
pub const INPUT_BYTES_MAX: usize = 8 << 20;

/// Bytes of one word given to the merging at once. Longer runs without a border (base64, a line
/// of dashes) are cut here; a model has never seen such a word whole.
pub const WORD_BYTES_MAX: usize = 64 << 10;

/// A model's tokenizer; clones share it.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

struct Inner {
    vocabulary: Vocabulary,
    pre_tokenizer: PreTokenizer,
    merges: BPE,
    /// Prepended where the caller wants it; none if the model does not.
    automatic_bos: Option<u32>,
}

/// Text before or after special pieces were cut out of it.
enum Fragment<'a> {
    Text(&'a str),
    Special(u32),
}

impl Tokenizer {
    /// Builds the tokenizer that the metadata describe.
    ///
    /// # Errors
    /// [`Error::UnsupportedModel`] for another kind of tokenizer or pre-tokenizer,
    /// [`Error::InvalidGguf`] where the metadata contradict themselves.
    pub fn from_gguf(metadata: &Metadata) -> Result<Self> {
        let model = metadata.required_str("tokenizer.ggml.model")?;
        if model != "gpt2" {
            return Err(Error::UnsupportedModel {
                message: format!(
                    "tokenizer {model:?}; supported is byte-level BPE, which GGUF calls \"gpt2\""
                ),
            });
        }
        let pre_tokenizer = PreTokenizer::named(metadata.str("tokenizer.ggml.pre")?)?;
        let vocabulary = Vocabulary::from_gguf(metadata)?;
        let merges = vocabulary.merges(metadata, pre_tokenizer.whole_words_first())?;
        let adds_bos = metadata
            .bool("tokenizer.ggml.add_bos_token")?
            .unwrap_or(pre_tokenizer.adds_bos());
        let automatic_bos = vocabulary.bos_id.filter(|_| adds_bos);
        Ok(Self {
            inner: Arc::new(Inner {
                vocabulary,
                pre_tokenizer,
                merges,
                automatic_bos,
            }),
        })
    }

    /// Encodes text. With `parse_special` the texts of control pieces (`<|im_start|>`) become
    /// these pieces; without, only those of user-defined pieces do. With `add_bos` the
    /// beginning-of-sequence piece is prepended if the model wants one. An end-of-sequence piece
    /// is never appended, because text here is there to be continued.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] for text longer than [`INPUT_BYTES_MAX`].
    pub fn encode(&self, text: &str, parse_special: bool, add_bos: bool) -> Result<Vec<u32>> {
        if text.len() > INPUT_BYTES_MAX {
            return Err(Error::InvalidRequest {
                field: "prompt",
                message: format!(
                    "has {} bytes, at most {INPUT_BYTES_MAX} are read; shorten it",
                    text.len()
                ),
            });
        }
        let mut ids = Vec::new();
        if add_bos {
            ids.extend(self.inner.automatic_bos);
        }
        for fragment in self.inner.cut_special(text, parse_special) {
            match fragment {
                Fragment::Special(id) => ids.push(id),
                Fragment::Text(text) => self.inner.encode_text(text, &mut ids)?,
            }
        }
        Ok(ids)
    }

    /// Returns the text of ids. Bytes that are no UTF-8 become U+FFFD, unknown ids nothing, and
    /// special pieces nothing unless kept.
    pub fn decode(&self, ids: &[u32], keep_special: bool) -> String {
        let mut bytes = Vec::new();
        for &id in ids {
            if keep_special || !self.is_special(id) {
                bytes.extend_from_slice(self.piece(id).unwrap_or_default());
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Returns the bytes of one id; of a special piece, its text.
    pub fn piece(&self, id: u32) -> Option<&[u8]> {
        self.inner.vocabulary.piece(id)
    }

    /// Returns whether an id stands for no text: a control piece, or the unknown piece.
    pub fn is_special(&self, id: u32) -> bool {
        matches!(
            self.inner.vocabulary.kind(id),
            Some(PieceKind::Control | PieceKind::Unknown)
        )
    }

    /// Returns whether generation ends with this id.
    pub fn is_end_of_generation(&self, id: u32) -> bool {
        self.inner.vocabulary.end_of_generation.contains(&id)
    }

    /// Returns all ids that end generation, in order.
    pub fn end_of_generation_ids(&self) -> impl Iterator<Item = u32> {
        self.inner.vocabulary.end_of_generation.iter().copied()
    }

    /// Returns the beginning-of-sequence id, whether or not the model wants it prepended.
    pub fn bos_id(&self) -> Option<u32> {
        self.inner.vocabulary.bos_id
    }

    /// Returns the end-of-sequence id.
    pub fn eos_id(&self) -> Option<u32> {
        self.inner.vocabulary.eos_id
    }

    /// Returns the id whose text in the file is exactly this: a special piece by its name.
    pub fn id_of(&self, text: &str) -> Option<u32> {
        self.inner.vocabulary.id_of(text)
    }

    /// Returns the number of ids.
    pub fn vocabulary_size(&self) -> usize {
        self.inner.vocabulary.len()
    }

    /// Returns a decoder for ids that come one by one.
    pub fn stream(&self) -> TextStream {
        TextStream::new(self.clone())
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocabulary_size", &self.vocabulary_size())
            .field("pre_tokenizer", &self.inner.pre_tokenizer)
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// Cuts special pieces out of a text, the longest first, as llama.cpp does.
    fn cut_special<'a>(&self, text: &'a str, parse_special: bool) -> Vec<Fragment<'a>> {
        let mut fragments = vec![Fragment::Text(text)];
        for (piece, id) in self.vocabulary.specials_longest_first() {
            let always = self.vocabulary.kind(id) == Some(PieceKind::UserDefined);
            if !(parse_special || always) || !text.contains(piece) {
                continue;
            }
            let mut cut = Vec::with_capacity(fragments.len() + 2);
            for fragment in fragments {
                let Fragment::Text(text) = fragment else {
                    cut.push(fragment);
                    continue;
                };
                for (index, between) in text.split(piece).enumerate() {
                    if index > 0 {
                        cut.push(Fragment::Special(id));
                    }
                    if !between.is_empty() {
                        cut.push(Fragment::Text(between));
                    }
                }
            }
            fragments = cut;
        }
        fragments
    }

    fn encode_text(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        self.pre_tokenizer.words(text, &mut |word| {
            let mut rest = word;
            while !rest.is_empty() {
                let (chunk, after) = rest.split_at(rest.floor_char_boundary(WORD_BYTES_MAX));
                rest = after;
                // A byte without a piece is lost, and what is around it is not merged across it.
                let parts = chunk
                    .as_bytes()
                    .split(|byte| self.vocabulary.is_unwritable(*byte));
                for part in parts {
                    self.merge(part, ids)?;
                }
            }
            Ok(())
        })
    }

    fn merge(&self, part: &[u8], ids: &mut Vec<u32>) -> Result<()> {
        let merged = self.merges.tokenize(&bytes_to_chars(part));
        let merged = merged.map_err(|error| Error::Internal {
            message: format!("merging a word failed: {error}"),
        })?;
        ids.extend(merged.iter().map(|piece| piece.id));
        Ok(())
    }
}
