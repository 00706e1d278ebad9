//! The pieces of a vocabulary: their bytes, which of them are special, and what ends generation.
//!
//! In the file a piece is text in which each byte stands as one printable character (GPT-2's
//! table), or in which a space stands as `▁` and a byte by its name (SentencePiece); special
//! pieces stand as they are. Kinds and the end-of-generation set follow llama.cpp,
//! which knows some pieces by their text because converters forget to mark them.

use std::collections::{BTreeSet, HashMap};

use super::special::SpecialPiece;
use crate::{
    error::{Error, Result},
    gguf::Metadata,
};

/// Pieces in a vocabulary; the largest in use have 260 000.
const PIECES_MAX: usize = 1 << 20;

/// Bytes of a piece; the longest in use are runs of a few hundred spaces.
const PIECE_BYTES_MAX: usize = 4096;

/// Special pieces. Llama 3 has 256, Tekken 1 000, Gemma 3 6 400.
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

/// SentencePiece's space.
pub(super) const SPACE: char = '▁';

/// How a file writes pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// Each byte as one printable character: GPT-2's table.
    ByteCharacters,
    /// As text, spaces as [`SPACE`], and bytes by their names: `<0x0A>`.
    SentencePiece,
}

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
    /// One byte, where the vocabulary names bytes.
    Byte,
}

/// The pieces of a model.
pub(super) struct Vocabulary {
    ids: HashMap<String, u32>,
    kinds: Vec<PieceKind>,
    /// All pieces' bytes in a row; piece `id` ends at `ends[id]`.
    bytes: Vec<u8>,
    ends: Vec<usize>,
    pub(super) bos_id: Option<u32>,
    pub(super) eos_id: Option<u32>,
    /// Stands for what no piece can write.
    pub(super) unknown_id: Option<u32>,
    pub(super) end_of_generation: BTreeSet<u32>,
}

impl Vocabulary {
    /// Reads the vocabulary of a file.
    ///
    /// # Errors
    /// [`Error::InvalidGguf`] where it contradicts itself or exceeds a limit.
    pub(super) fn from_gguf(metadata: &Metadata, spelling: Spelling) -> Result<Self> {
        let texts = metadata.required_strings("tokenizer.ggml.tokens")?;
        let types = metadata.i32s("tokenizer.ggml.token_type")?;
        let ids = read_ids(texts)?;
        let mut kinds = read_kinds(texts.len(), types.as_deref(), spelling)?;
        // What llama.cpp takes for the ids that SentencePiece files do not name.
        let default = |id: u32| (spelling == Spelling::SentencePiece).then_some(id);
        let id = |name: &str, default: Option<u32>| {
            let key = format!("tokenizer.ggml.{name}_token_id");
            let has = |id: &u32| (*id as usize) < texts.len();
            Ok::<_, Error>(match metadata.u32(&key)? {
                // One outside the vocabulary counts as absent, as in llama.cpp.
                Some(id) => Some(id).filter(has),
                None => default.filter(has),
            })
        };
        let eos_id = id("eos", default(2))?;
        let mut end_of_generation = end_of_generation(metadata, &ids, &mut kinds)?;
        end_of_generation.extend(eos_id);
        let mut bytes = Vec::new();
        let mut ends = Vec::with_capacity(texts.len());
        for (text, kind) in texts.iter().zip(&kinds) {
            match (kind, spelling) {
                (PieceKind::Normal, Spelling::ByteCharacters) => chars_to_bytes(text, &mut bytes),
                (PieceKind::Normal, Spelling::SentencePiece) => {
                    bytes.extend_from_slice(text.replace(SPACE, " ").as_bytes());
                }
                (PieceKind::Byte, _) => bytes.push(
                    named_byte(text)
                        .ok_or_else(|| invalid(format!("vocabulary entry {text:?} is no byte")))?,
                ),
                _ => bytes.extend_from_slice(text.as_bytes()),
            }
            ends.push(bytes.len());
        }
        Ok(Self {
            bos_id: id("bos", default(1))?,
            eos_id,
            unknown_id: id("unknown", default(0))?,
            ids,
            kinds,
            bytes,
            ends,
            end_of_generation,
        })
    }

    /// Returns the pieces that are cut out of text.
    ///
    /// # Errors
    /// [`Error::InvalidGguf`] for more than [`SPECIALS_MAX`].
    pub(super) fn specials(&self) -> Result<Vec<SpecialPiece>> {
        let is_special = |kind| !matches!(kind, PieceKind::Normal | PieceKind::Byte);
        let specials: Vec<SpecialPiece> = self
            .texts()
            .map(|(text, id)| (text, id, self.kinds[id as usize]))
            .filter(|(_, id, kind)| is_special(*kind) && self.piece(*id) != Some(&[]))
            .map(|(text, id, kind)| SpecialPiece {
                text: text.to_owned(),
                id,
                always: kind == PieceKind::UserDefined,
            })
            .collect();
        if specials.len() > SPECIALS_MAX {
            return Err(invalid(format!(
                "the vocabulary has {} special entries, at most {SPECIALS_MAX} are allowed",
                specials.len()
            )));
        }
        Ok(specials)
    }

    /// Returns all pieces as the file writes them, in no order.
    pub(super) fn texts(&self) -> impl Iterator<Item = (&str, u32)> {
        self.ids.iter().map(|(text, id)| (text.as_str(), *id))
    }

    pub(super) fn len(&self) -> usize {
        self.kinds.len()
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

fn read_kinds(len: usize, types: Option<&[i32]>, spelling: Spelling) -> Result<Vec<PieceKind>> {
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
        6 if spelling == Spelling::SentencePiece => PieceKind::Byte,
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
    for name in ["eot", "eom"] {
        let key = format!("tokenizer.ggml.{name}_token_id");
        ends.extend(id_at(metadata, &key, ids.len())?);
    }
    Ok(ends)
}

/// Returns an id from the metadata; one outside the vocabulary counts as absent, as in llama.cpp.
fn id_at(metadata: &Metadata, key: &str, len: usize) -> Result<Option<u32>> {
    let id = metadata.u32(key)?;
    Ok(id.filter(|id| usize::try_from(*id).is_ok_and(|index| index < len)))
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

/// The name of a byte in a SentencePiece vocabulary.
pub(super) fn byte_name(byte: u8) -> String {
    format!("<0x{byte:02X}>")
}

/// The inverse.
fn named_byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let byte = u8::from_str_radix(digits, 16).ok()?;
    (byte_name(byte) == text).then_some(byte)
}

pub(super) fn invalid(message: String) -> Error {
    Error::InvalidGguf { message }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

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
    fn byte_pieces_are_named_in_two_capital_digits() {
        assert_eq!(byte_name(0x0A), "<0x0A>");
        assert_eq!(named_byte("<0xFE>"), Some(0xFE));
        let wrong = ["<0xfe>", "<0x+1>", "<0x1>", "<0x100>", "0xFE", "<é>", ""];
        assert!(wrong.iter().all(|text| named_byte(text).is_none()));
    }
}
