//! SentencePiece's BPE as llama.cpp runs it: pieces have scores, and of all neighbours that
//! together are a piece those with the highest score are merged first, the leftmost of equals.
//!
//! Spaces are written as `▁` before. What is no piece in the end becomes bytes, which are pieces
//! too. There are no words: a merge may happen anywhere. But between two characters that no piece
//! has side by side none can, so the text is cut there, which changes nothing and keeps what is
//! merged at once short. `tokenizers` has no such model: its BPE wants ranked merges, which these
//! files lack, its Unigram finds another segmentation.
//!
//! Each merge removes a symbol and adds at most two candidates to a heap: `n log n`.

use std::{cmp::Ordering, collections::BinaryHeap};

use super::vocabulary::{SPACE, Vocabulary, byte_name, invalid};
use crate::{error::Result, gguf::Metadata};

/// Bytes merged at once: some 40 MB of symbols and candidates. No text that is worth reading has
/// as many characters without a border; what has is cut here.
const SEGMENT_BYTES_MAX: usize = 1 << 20;

/// No neighbour.
const NONE: u32 = u32::MAX;

/// The scores of a file and what its pieces allow.
pub(super) struct Scored {
    /// By id; never NaN nor minus zero.
    scores: Vec<f32>,
    /// What stands for each byte where no piece fits.
    bytes: Vec<Option<u32>>,
    neighbours: Neighbours,
    /// Bytes of the longest piece.
    longest: usize,
    adds_space: bool,
}

/// A part of the text, linked with those beside it; empty once it is merged into the left one.
#[derive(Clone, Copy)]
struct Symbol {
    start: u32,
    len: u32,
    left: u32,
    right: u32,
}

/// Two symbols that together are a piece.
struct Candidate {
    score: f32,
    left: u32,
    right: u32,
    /// Bytes of both; a symbol that grew since makes the candidate stale.
    len: u32,
}

impl Scored {
    /// Reads the scores of a file.
    ///
    /// # Errors
    /// [`Error::InvalidGguf`](crate::Error::InvalidGguf) for too few scores or one that is no
    /// number.
    pub(super) fn from_gguf(metadata: &Metadata, vocabulary: &Vocabulary) -> Result<Self> {
        let len = vocabulary.len();
        let scores = metadata.f32s("tokenizer.ggml.scores")?;
        let mut scores = scores.unwrap_or_else(|| vec![0.0; len]);
        if scores.len() < len || scores.iter().any(|score| score.is_nan()) {
            let message = format!("{} token scores for {len} entries, or NaN", scores.len());
            return Err(invalid(message));
        }
        // Minus zero would order before zero, to which it is equal.
        scores.iter_mut().for_each(|score| *score += 0.0);
        let byte_id = |byte: u8| {
            let itself = || vocabulary.id_of(char::from(byte).encode_utf8(&mut [0; 4]));
            let id = vocabulary.id_of(&byte_name(byte));
            id.or_else(|| itself().filter(|_| byte.is_ascii()))
                .or(vocabulary.unknown_id)
        };
        let texts = || vocabulary.texts().map(|(text, _)| text);
        Ok(Self {
            scores,
            bytes: (0..=u8::MAX).map(byte_id).collect(),
            neighbours: Neighbours::in_pieces(texts()),
            longest: texts().map(str::len).max().unwrap_or(0),
            adds_space: metadata
                .bool("tokenizer.ggml.add_space_prefix")?
                .unwrap_or(true),
        })
    }

    /// Encodes text between special pieces; `leads` if one stands before it, or nothing does.
    pub(super) fn encode(
        &self,
        text: &str,
        leads: bool,
        vocabulary: &Vocabulary,
        ids: &mut Vec<u32>,
    ) {
        let mut escaped = String::with_capacity(text.len() + SPACE.len_utf8());
        if leads && self.adds_space {
            escaped.push(SPACE);
        }
        escaped.extend(
            text.chars()
                .map(|char| if char == ' ' { SPACE } else { char }),
        );
        let mut merging = Merging {
            scored: self,
            vocabulary,
            text: "",
            symbols: Vec::new(),
            candidates: BinaryHeap::new(),
        };
        for segment in self.segments(&escaped) {
            merging.run(segment, ids);
        }
    }

    /// Cuts text where no merge can happen, or where it must be cut.
    fn segments<'a>(&self, text: &'a str) -> impl Iterator<Item = &'a str> {
        let mut rest = text;
        std::iter::from_fn(move || {
            let mut chars = rest.char_indices();
            let (_, mut before) = chars.next()?;
            let border = chars.find(|(at, char)| {
                let is_border = !self.neighbours.may_have(before, *char);
                before = *char;
                is_border || *at >= SEGMENT_BYTES_MAX
            });
            let (segment, after) = rest.split_at(border.map_or(rest.len(), |(at, _)| at));
            rest = after;
            Some(segment)
        })
    }
}

/// Merges segments one after another; the buffers are kept between them.
struct Merging<'a> {
    scored: &'a Scored,
    vocabulary: &'a Vocabulary,
    text: &'a str,
    symbols: Vec<Symbol>,
    candidates: BinaryHeap<Candidate>,
}

impl<'a> Merging<'a> {
    fn run(&mut self, text: &'a str, ids: &mut Vec<u32>) {
        self.text = text;
        self.split();
        for right in 1..self.symbols.len() as u32 {
            self.offer(right - 1, right);
        }
        while let Some(candidate) = self.candidates.pop() {
            self.merge(&candidate);
        }
        for symbol in self.symbols.iter().filter(|symbol| symbol.len > 0) {
            let text = self.piece_text(symbol.start, symbol.len);
            match self.vocabulary.id_of(text) {
                Some(id) => ids.push(id),
                None => ids.extend(
                    text.bytes()
                        .filter_map(|byte| self.scored.bytes[usize::from(byte)]),
                ),
            }
        }
    }

    /// Makes each character a symbol.
    fn split(&mut self) {
        self.symbols.clear();
        for (index, (start, char)) in (0u32..).zip(self.text.char_indices()) {
            self.symbols.push(Symbol {
                start: start as u32,
                len: char.len_utf8() as u32,
                left: index.checked_sub(1).unwrap_or(NONE),
                right: index + 1,
            });
        }
        if let Some(last) = self.symbols.last_mut() {
            last.right = NONE;
        }
    }

    /// Makes two neighbours a candidate if they are a piece together.
    fn offer(&mut self, left: u32, right: u32) {
        if left == NONE || right == NONE {
            return;
        }
        let first = self.symbols[left as usize];
        let len = first.len + self.symbols[right as usize].len;
        if len as usize > self.scored.longest {
            return;
        }
        if let Some(id) = self.vocabulary.id_of(self.piece_text(first.start, len)) {
            self.candidates.push(Candidate {
                score: self.scored.scores[id as usize],
                left,
                right,
                len,
            });
        }
    }

    fn merge(&mut self, candidate: &Candidate) {
        let (left, right) = (candidate.left, candidate.right);
        let (first, second) = (self.symbols[left as usize], self.symbols[right as usize]);
        let is_stale = first.len == 0 || second.len == 0 || first.len + second.len != candidate.len;
        if is_stale {
            return;
        }
        self.symbols[right as usize].len = 0;
        let merged = &mut self.symbols[left as usize];
        merged.len = candidate.len;
        merged.right = second.right;
        if second.right != NONE {
            self.symbols[second.right as usize].left = left;
        }
        self.offer(first.left, left);
        self.offer(left, second.right);
    }

    fn piece_text(&self, start: u32, len: u32) -> &'a str {
        &self.text[start as usize..(start + len) as usize]
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_score = self.score.total_cmp(&other.score);
        by_score.then_with(|| other.left.cmp(&self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

/// Which characters stand side by side in some piece: a set of hashes, which may say yes for a
/// pair that does not, and then only a border is missed.
struct Neighbours {
    bits: Vec<u64>,
}

impl Neighbours {
    /// Bits of a hash: 512 KiB. The 300 000 pairs of the largest vocabularies fill a fourteenth.
    const HASH_BITS: u32 = 22;

    fn in_pieces<'a>(texts: impl Iterator<Item = &'a str>) -> Self {
        let mut bits = vec![0u64; 1 << (Self::HASH_BITS - 6)];
        for text in texts {
            for (left, right) in text.chars().zip(text.chars().skip(1)) {
                let hash = Self::hash(left, right);
                bits[hash / 64] |= 1 << (hash % 64);
            }
        }
        Self { bits }
    }

    fn may_have(&self, left: char, right: char) -> bool {
        let hash = Self::hash(left, right);
        self.bits[hash / 64] & (1 << (hash % 64)) != 0
    }

    /// Multiplies by odd numbers without a pattern in their bits and takes the upper bits.
    fn hash(left: char, right: char) -> usize {
        let mixed = u32::from(left).wrapping_mul(0x9E37_79B1) ^ u32::from(right);
        (mixed.wrapping_mul(0x85EB_CA6B) >> (32 - Self::HASH_BITS)) as usize
    }
}
