//! Text to token ids and back, from a GGUF file's own metadata.
//!
//! Two kinds, by `tokenizer.ggml.model`: [`ByteLevel`] BPE (`gpt2`) and SentencePiece's [`Scored`]
//! merges (`llama`). The [`Vocabulary`] knows the pieces; the special ones among them are cut out
//! of text first ([`SpecialPieces`]), what is between them is encoded. The reference is llama.cpp.
//!
//! Limits: [`INPUT_BYTES_MAX`] of text per call, [`WORD_BYTES_MAX`] per word. With these, time
//! grows as `n log n`, and memory by some hundred bytes per byte of what is merged at once and by
//! ten per byte of text.

mod byte_level;
mod pre_tokenizer;
mod scored;
mod special;
mod stream;
mod vocabulary;

use std::sync::Arc;

use self::{
    byte_level::ByteLevel,
    scored::Scored,
    special::{Fragment, SpecialPieces},
    vocabulary::{PieceKind, Spelling, Vocabulary},
};
pub use self::{byte_level::WORD_BYTES_MAX, stream::TextStream};
use crate::{
    error::{Error, Result},
    gguf::Metadata,
};

/// Bytes of text that one call encodes. The longest contexts in use hold a million tokens, which
/// is some 4 MiB of English.
pub const INPUT_BYTES_MAX: usize = 8 << 20;

/// A model's tokenizer; clones share it.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

struct Inner {
    vocabulary: Vocabulary,
    specials: SpecialPieces,
    merging: Merging,
    /// Prepended where the caller wants it; none if the model does not.
    automatic_bos: Option<u32>,
}

/// How text between special pieces becomes pieces.
enum Merging {
    ByteLevel(Box<ByteLevel>),
    Scored(Scored),
}

impl Tokenizer {
    /// Builds the tokenizer that the metadata describe.
    ///
    /// # Errors
    /// [`Error::UnsupportedModel`] for another kind of tokenizer or pre-tokenizer,
    /// [`Error::InvalidGguf`] where the metadata contradict themselves.
    pub fn from_gguf(metadata: &Metadata) -> Result<Self> {
        let spelling = match metadata.required_str("tokenizer.ggml.model")? {
            "gpt2" => Spelling::ByteCharacters,
            "llama" => Spelling::SentencePiece,
            other => {
                return Err(Error::UnsupportedModel {
                    message: format!(
                        "tokenizer {other:?}; supported are \"gpt2\", byte-level BPE, and \
                         \"llama\", SentencePiece's"
                    ),
                });
            }
        };
        let vocabulary = Vocabulary::from_gguf(metadata, spelling)?;
        let merging = match spelling {
            Spelling::ByteCharacters => {
                Merging::ByteLevel(Box::new(ByteLevel::from_gguf(metadata, &vocabulary)?))
            }
            Spelling::SentencePiece => Merging::Scored(Scored::from_gguf(metadata, &vocabulary)?),
        };
        let adds_bos = metadata
            .bool("tokenizer.ggml.add_bos_token")?
            .unwrap_or(match &merging {
                Merging::ByteLevel(byte_level) => byte_level.adds_bos(),
                Merging::Scored(_) => true,
            });
        let automatic_bos = vocabulary.bos_id.filter(|_| adds_bos);
        Ok(Self {
            inner: Arc::new(Inner {
                specials: SpecialPieces::new(vocabulary.specials()?),
                vocabulary,
                merging,
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
        let mut leads = true;
        for fragment in self.inner.specials.cut(text, parse_special) {
            match (fragment, &self.inner.merging) {
                (Fragment::Special(id), _) => ids.push(id),
                (Fragment::Text(text), Merging::ByteLevel(merging)) => {
                    merging.encode(text, &mut ids)?;
                }
                (Fragment::Text(text), Merging::Scored(merging)) => {
                    merging.encode(text, leads, &self.inner.vocabulary, &mut ids);
                }
            }
            leads = matches!(fragment, Fragment::Special(_));
        }
        Ok(ids)
    }

    /// Returns the text of ids. Bytes that are no UTF-8 become U+FFFD, unknown ids nothing, and
    /// special pieces nothing unless kept. A space that the tokenizer put in front stays: the ids
    /// may be the middle of a text.
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
            .field("merging", &self.inner.merging)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Merging {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ByteLevel(byte_level) => byte_level.fmt(f),
            Self::Scored(_) => f.write_str("Scored"),
        }
    }
}
