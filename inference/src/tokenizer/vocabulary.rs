//! The pieces of a vocabulary: their bytes, which of them are special, and what ends generation.
//!
//! In the file a piece is text in which each byte stands as one printable character (GPT-2's
//! table); special pieces stand as they are. Kinds and the end-of-generation set follow llama.cpp,
//! which knows some pieces by their text because converters forget to mark them.

use std::collections::{BTreeSet, HashMap, HashSet};

use tokenizers::models::bpe::{BPE, Vocab};

use crate::{
    error::{Error, Result},
    gguf::Metadata,
};

/// Pieces in a vocabulary; the largest in use have 260 000.
const PIECES_MAX: usize = 1 << 20;

/// Bytes of a piece; the longest in use are runs of a few hundred spaces.
const PIECE_BYTES_MAX: usize = 4096;

/// Special pieces: each is searched for in every text. Llama 3 has 256, Tekken 1 000.
const SPECIALS_MAX: usize = 8192;

/// Texts that end a turn or a text, however the file marks them.
const END_TEXTS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Groups of texts that mark the parts of code to fill in. In each, the first that the vocabulary
/// has is a control piece and ends generation too, unless the file names another id by the key.
const FILL_GROUPS: &[(&str, &[&str])] = &[
    (
        "tokenizer.ggml.fim_pad_token_id",
        &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"],
    ),
    (
        "tokenizer.ggml.fim_rep_token_id",
        &[
            "<|fim_repo|>",
            "<|repo_name|>",
            "<fim-repo>",
            "<REPO>",
            "<reponame>",
        ],
    ),
    ("tokenizer.ggml.fim_sep_token_id", &["<|file_sep|>"]),
];

/// What a piece is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PieceKind {
    /// Text.
    Normal,
    /// Stands for what the vocabulary cannot write.
    Unknown,
    /// Structure, not text: `<|im_start|>`.
    Control,
    /// Text that is recognised whole wherever it stands.
    UserDefined,
}

/// The pieces of a model.
pub(super) struct Vocabulary {
    ids: HashMap<String, u32>,
    kinds: Vec<PieceKind>,
    /// All pieces' bytes in a row; piece `id` ends at `ends[id]`.
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// Bytes that are no piece by themselves: small vocabularies lack some control characters.
    unwritable: Vec<u8>,
    /// Texts and ids of pieces that are cut out of text, the longest first.
    specials: Vec<(String, u32)>,
    pub(super) bos_id: Option<u32>,
    pub(super) eos_id: Option<u32>,
    pub(super) end_of_generation: BTreeSet<u32>,
}

impl Vocabulary {
    /// Reads the vocabulary of a file.
    ///
    /// # Errors
    /// [`Error::InvalidGguf`] where it contradicts itself or exceeds a limit.
    pub(super) fn from_gguf(metadata: &Metadata) -> Result<Self> {
        let texts = metadata.required_strings("tokenizer.ggml.tokens")?;
        let types = metadata.i32s("tokenizer.ggml.token_type")?;
        let ids = read_ids(texts)?;
        let mut kinds = read_kinds(texts.len(), types.as_deref())?;
        let end_of_generation = end_of_generation(metadata, &ids, &mut kinds)?;
        let specials = specials(texts, &kinds)?;
        let mut bytes = Vec::new();
        let mut ends = Vec::with_capacity(texts.len());
        for (text, kind) in texts.iter().zip(&kinds) {
            match kind {
                PieceKind::Normal => chars_to_bytes(text, &mut bytes),
                _ => bytes.extend_from_slice(text.as_bytes()),
            }
            ends.push(bytes.len());
        }
        Ok(Self {
            bos_id: id_at(metadata, "tokenizer.ggml.bos_token_id", ids.len())?,
            eos_id: id_at(metadata, "tokenizer.ggml.eos_token_id", ids.len())?,
            unwritable: (0..=u8::MAX)
                .filter(|byte| !ids.contains_key(&bytes_to_chars(&[*byte])))
                .collect(),
            ids,
            kinds,
            bytes,
            ends,
            specials,
            end_of_generation,
        })
    }

    /// Builds the merging model over these pieces.
    ///
    /// # Errors
    /// [`Error::InvalidGguf`] for a merge whose parts or whole are no pieces.
    pub(super) fn merges(&self, metadata: &Metadata, whole_words_first: bool) -> Result<BPE> {
        let mut seen = HashSet::new();
        let mut merges = Vec::new();
        for merge in metadata.required_strings("tokenizer.ggml.merges")? {
            // The library panics on merges outside its vocabulary, so each is checked before.
            let (left, right) = split_merge(merge)
                .filter(|(left, right)| {
                    [*left, *right, &format!("{left}{right}")]
                        .iter()
                        .all(|part| self.ids.contains_key(*part))
                })
                .ok_or_else(|| invalid(format!("merge {merge:?} is not one of two pieces")))?;
            if seen.insert((left, right)) {
                merges.push((left.to_owned(), right.to_owned()));
            }
        }
        let vocabulary: Vocab = self
            .ids
            .iter()
            .map(|(text, id)| (text.clone(), *id))
            .collect();
        // The library's cache is per thread and outlives the model; merging is fast without.
        BPE::builder()
            .vocab_and_merges(vocabulary, merges)
            .ignore_merges(whole_words_first)
            .cache_capacity(0)
            .build()
            .map_err(|error| invalid(format!("the merges are inconsistent: {error}")))
    }

    pub(super) fn len(&self) -> usize {
        self.kinds.len()
    }

    /// Returns whether a byte is lost in encoding.
    pub(super) fn is_unwritable(&self, byte: u8) -> bool {
        self.unwritable.contains(&byte)
    }

    pub(super) fn id_of(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    pub(super) fn kind(&self, id: u32) -> Option<PieceKind> {
        self.kinds.get(usize::try_from(id).ok()?).copied()
    }

    pub(super) fn piece(&self, id: u32) -> Option<&[u8]> {
        let index = usize::try_from(id).ok()?;
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.bytes[start..end])
    }

    pub(super) fn specials_longest_first(&self) -> impl Iterator<Item = (&str, u32)> {
        self.specials.iter().map(|(text, id)| (text.as_str(), *id))
    }
}

fn read_ids(texts: &[String]) -> Result<HashMap<String, u32>> {
    if texts.is_empty() || texts.len() > PIECES_MAX {
        let len = texts.len();
        return Err(invalid(format!(
            "the vocabulary has {len} entries, must be 1 to {PIECES_MAX}"
        )));
    }
    let mut ids = HashMap::with_capacity(texts.len());
    for (id, text) in (0..).zip(texts) {
        if text.len() > PIECE_BYTES_MAX {
            return Err(invalid(format!(
                "vocabulary entry {id} has {} bytes, at most {PIECE_BYTES_MAX} are allowed",
                text.len()
            )));
        }
        // An empty text is found nowhere; it gets a name, as two of them are no clash.
        let name = if text.is_empty() {
            format!("[EMPTY_{id}]")
        } else {
            text.clone()
        };
        if let Some(other) = ids.insert(name, id) {
            return Err(invalid(format!(
                "vocabulary entries {other} and {id} are both {text:?}"
            )));
        }
    }
    Ok(ids)
}

fn read_kinds(len: usize, types: Option<&[i32]>) -> Result<Vec<PieceKind>> {
    let Some(types) = types else {
        return Ok(vec![PieceKind::Normal; len]);
    };
    if types.len() < len {
        return Err(invalid(format!(
            "there are {} token types for {len} vocabulary entries",
            types.len()
        )));
    }
    let kind = |id: &i32| match id {
        2 => PieceKind::Unknown,
        3 => PieceKind::Control,
        4 => PieceKind::UserDefined,
        _ => PieceKind::Normal,
    };
    Ok(types[..len].iter().map(kind).collect())
}

/// Returns the ids that end generation; those known by their text become control pieces.
fn end_of_generation(
    metadata: &Metadata,
    ids: &HashMap<String, u32>,
    kinds: &mut [PieceKind],
) -> Result<BTreeSet<u32>> {
    let mut ends = BTreeSet::new();
    let mut known_by_text: Vec<u32> = END_TEXTS
        .iter()
        .filter_map(|text| ids.get(*text).copied())
        .collect();
    for (key, texts) in FILL_GROUPS {
        match id_at(metadata, key, ids.len())? {
            Some(id) => ends.extend([id]),
            None => known_by_text.extend(texts.iter().find_map(|text| ids.get(*text))),
        }
    }
    for id in known_by_text {
        // The ids index the texts that the kinds were made for.
        kinds[id as usize] = PieceKind::Control;
        ends.insert(id);
    }
    for name in ["eos", "eot", "eom"] {
        let key = format!("tokenizer.ggml.{name}_token_id");
        ends.extend(id_at(metadata, &key, ids.len())?);
    }
    Ok(ends)
}

fn specials(texts: &[String], kinds: &[PieceKind]) -> Result<Vec<(String, u32)>> {
    let mut specials: Vec<(String, u32)> = (0..)
        .zip(texts)
        .zip(kinds)
        .filter(|((_, text), kind)| **kind != PieceKind::Normal && !text.is_empty())
        .map(|((id, text), _)| (text.clone(), id))
        .collect();
    if specials.len() > SPECIALS_MAX {
        return Err(invalid(format!(
            "the vocabulary has {} special entries, at most {SPECIALS_MAX} are allowed",
            specials.len()
        )));
    }
    specials.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
    Ok(specials)
}

/// Returns an id from the metadata; one outside the vocabulary counts as absent, as in llama.cpp.
fn id_at(metadata: &Metadata, key: &str, len: usize) -> Result<Option<u32>> {
    let id = metadata.u32(key)?;
    Ok(id.filter(|id| usize::try_from(*id).is_ok_and(|index| index < len)))
}

/// Splits a merge at its first space, which may not be its first character.
fn split_merge(merge: &str) -> Option<(&str, &str)> {
    let (at, _) = merge
        .char_indices()
        .skip(1)
        .find(|(_, char)| *char == ' ')?;
    Some((&merge[..at], &merge[at + 1..]))
}

/// Writes each byte as the printable character that stands for it in the file.
pub(super) fn bytes_to_chars(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| byte_to_char(*byte)).collect()
}

/// Printable bytes stand for themselves, the others in order for the characters from U+0100.
fn byte_to_char(byte: u8) -> char {
    let offset = match byte {
        0..=0x20 => u32::from(byte),
        0x7F..=0xA0 => u32::from(byte) - 0x7F + 0x21,
        0xAD => 0x43,
        _ => return char::from(byte),
    };
    char::from_u32(0x100 + offset).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The inverse; characters outside the table stand for their own UTF-8.
fn chars_to_bytes(text: &str, bytes: &mut Vec<u8>) {
    for char in text.chars() {
        match u32::from(char) {
            code @ 0x100..=0x120 => bytes.push((code - 0x100) as u8),
            code @ 0x121..=0x142 => bytes.push((code - 0x121 + 0x7F) as u8),
            0x143 => bytes.push(0xAD),
            code @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => bytes.push(code as u8),
            _ => bytes.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

fn invalid(message: String) -> Error {
    Error::InvalidGguf { message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_printable_character_of_its_own() {
        let all: Vec<u8> = (0..=255).collect();
        let chars = bytes_to_chars(&all);
        assert_eq!(chars.chars().collect::<HashSet<_>>().len(), 256);
        assert!(!chars.contains(char::is_whitespace) && !chars.contains(char::is_control));
        assert_eq!(bytes_to_chars(b"a \n"), "aĠĊ");
        let mut back = Vec::new();
        chars_to_bytes(&chars, &mut back);
        assert_eq!(back, all);
    }

    #[test]
    fn merges_are_split_at_the_first_space_that_is_not_the_first_character() {
        assert_eq!(split_merge("a b"), Some(("a", "b")));
        assert_eq!(split_merge("  b"), Some((" ", "b")));
        assert_eq!(split_merge("ab"), None);
        assert_eq!(split_merge("é è"), Some(("é", "è")));
    }
}
