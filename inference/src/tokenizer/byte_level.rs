//! Byte-level BPE: words by the pre-tokenizer's rules, the bytes of each merged by ranked merges.

use std::collections::HashSet;

use tokenizers::{
    Model,
    models::bpe::{BPE, Vocab},
};

use super::{
    pre_tokenizer::PreTokenizer,
    vocabulary::{Vocabulary, bytes_to_chars, invalid},
};
use crate::{
    error::{Error, Result},
    gguf::Metadata,
};

/// Bytes of one word given to the merging at once. Longer runs without a border (base64, a line
/// of dashes) are cut here; a model has never seen such a word whole.
pub const WORD_BYTES_MAX: usize = 64 << 10;

/// The merges of a file and the rule for words that it names.
pub(super) struct ByteLevel {
    pre_tokenizer: PreTokenizer,
    merges: BPE,
    /// Bytes that are no piece by themselves: small vocabularies lack some control characters.
    unwritable: Vec<u8>,
}

impl ByteLevel {
    /// Reads the merges of a file.
    ///
    /// # Errors
    /// [`Error::UnsupportedModel`] for another pre-tokenizer, [`Error::InvalidGguf`] for a merge
    /// whose parts or whole are no pieces.
    pub(super) fn from_gguf(metadata: &Metadata, vocabulary: &Vocabulary) -> Result<Self> {
        let pre_tokenizer = PreTokenizer::named(metadata.str("tokenizer.ggml.pre")?)?;
        let is_unwritable = |byte: &u8| vocabulary.id_of(&bytes_to_chars(&[*byte])).is_none();
        Ok(Self {
            merges: merges(metadata, vocabulary, pre_tokenizer.whole_words_first())?,
            pre_tokenizer,
            unwritable: (0..=u8::MAX).filter(is_unwritable).collect(),
        })
    }

    /// Returns whether such models want a beginning of sequence where the file is silent.
    pub(super) fn adds_bos(&self) -> bool {
        self.pre_tokenizer.adds_bos()
    }

    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        self.pre_tokenizer.words(text, &mut |word| {
            let mut rest = word;
            while !rest.is_empty() {
                let (chunk, after) = rest.split_at(rest.floor_char_boundary(WORD_BYTES_MAX));
                rest = after;
                // A byte without a piece is lost, and what is around it is not merged across it.
                let parts = chunk
                    .as_bytes()
                    .split(|byte| self.unwritable.contains(byte));
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

impl std::fmt::Debug for ByteLevel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.pre_tokenizer.fmt(f)
    }
}

fn merges(metadata: &Metadata, vocabulary: &Vocabulary, whole_words_first: bool) -> Result<BPE> {
    let mut seen = HashSet::new();
    let mut merges = Vec::new();
    for merge in metadata.required_strings("tokenizer.ggml.merges")? {
        // The library panics on merges outside its vocabulary, so each is checked before.
        let (left, right) = split_merge(merge)
            .filter(|(left, right)| {
                [*left, *right, &format!("{left}{right}")]
                    .iter()
                    .all(|part| vocabulary.id_of(part).is_some())
            })
            .ok_or_else(|| invalid(format!("merge {merge:?} is not one of two pieces")))?;
        if seen.insert((left, right)) {
            merges.push((left.to_owned(), right.to_owned()));
        }
    }
    let vocabulary: Vocab = vocabulary
        .texts()
        .map(|(text, id)| (text.to_owned(), id))
        .collect();
    // The library's cache is per thread and outlives the model; merging is fast without.
    BPE::builder()
        .vocab_and_merges(vocabulary, merges)
        .ignore_merges(whole_words_first)
        .cache_capacity(0)
        .build()
        .map_err(|error| invalid(format!("the merges are inconsistent: {error}")))
}

/// Splits a merge at its first space, which may not be its first character.
fn split_merge(merge: &str) -> Option<(&str, &str)> {
    let (at, _) = merge
        .char_indices()
        .skip(1)
        .find(|(_, char)| *char == ' ')?;
    Some((&merge[..at], &merge[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_are_split_at_the_first_space_that_is_not_the_first_character() {
        assert_eq!(split_merge("a b"), Some(("a", "b")));
        assert_eq!(split_merge("  b"), Some((" ", "b")));
        assert_eq!(split_merge("ab"), None);
        assert_eq!(split_merge("é è"), Some(("é", "è")));
    }
}
