//! Special pieces, cut out of text before anything else is done with it.
//!
//! As in llama.cpp the longest are cut first wherever they stand, then shorter ones from what is
//! left between them; among those of one length the one with the lower id. Vocabularies have
//! thousands of special pieces but only a few dozen lengths of them, so the text is read once per
//! length, not once per piece.

use std::collections::HashMap;

/// Text before or after special pieces were cut out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fragment<'a> {
    Text(&'a str),
    Special(u32),
}

/// A special piece, as the vocabulary has it.
pub(super) struct SpecialPiece {
    pub(super) text: String,
    pub(super) id: u32,
    /// Whether it is recognised in text that may not have structure: a user-defined piece.
    pub(super) always: bool,
}

/// All special pieces of a vocabulary.
pub(super) struct SpecialPieces {
    /// The longest first.
    lengths: Vec<OfLength>,
}

/// Those of one length.
struct OfLength {
    len: usize,
    /// Bytes that they start and end with: most text is passed over by these.
    first: [bool; 256],
    last: [bool; 256],
    pieces: HashMap<String, (u32, bool)>,
}

/// Where a piece stands.
#[derive(Clone, Copy)]
struct Found {
    // Ordered by id before place: so are pieces of one length cut.
    id: u32,
    start: u32,
    len: u32,
}

impl SpecialPieces {
    pub(super) fn new(pieces: Vec<SpecialPiece>) -> Self {
        let mut lengths: HashMap<usize, OfLength> = HashMap::new();
        for piece in pieces {
            let (Some(&first), Some(&last)) =
                (piece.text.as_bytes().first(), piece.text.as_bytes().last())
            else {
                continue;
            };
            let len = piece.text.len();
            let of_length = lengths.entry(len).or_insert_with(|| OfLength {
                len,
                first: [false; 256],
                last: [false; 256],
                pieces: HashMap::new(),
            });
            of_length.first[usize::from(first)] = true;
            of_length.last[usize::from(last)] = true;
            of_length
                .pieces
                .insert(piece.text, (piece.id, piece.always));
        }
        let mut lengths: Vec<OfLength> = lengths.into_values().collect();
        lengths.sort_by_key(|of_length| std::cmp::Reverse(of_length.len));
        Self { lengths }
    }

    /// Cuts a text, whose length fits 32 bits. Without `parse_special` only the pieces that are
    /// always recognised are cut out.
    pub(super) fn cut<'a>(&self, text: &'a str, parse_special: bool) -> Vec<Fragment<'a>> {
        let mut is_taken = vec![false; text.len()];
        let mut all = Vec::new();
        for of_length in &self.lengths {
            let mut found = of_length.find(text, parse_special, &is_taken);
            found.sort_unstable_by_key(|found| (found.id, found.start));
            for found in found {
                let (start, end) = found.range();
                if !of_length.is_free(&is_taken, start) {
                    continue;
                }
                is_taken[start..end].fill(true);
                all.push(found);
            }
        }
        all.sort_unstable_by_key(|found| found.start);
        fragments(text, &all)
    }
}

impl OfLength {
    /// Finds every place where one of these stands free, overlapping ones too.
    fn find(&self, text: &str, parse_special: bool, is_taken: &[bool]) -> Vec<Found> {
        let bytes = text.as_bytes();
        let mut all = Vec::new();
        for start in 0..(bytes.len() + 1).saturating_sub(self.len) {
            let end = start + self.len;
            let fits = self.first[usize::from(bytes[start])]
                && self.last[usize::from(bytes[end - 1])]
                && self.is_free(is_taken, start);
            let piece = || self.pieces.get(text.get(start..end)?);
            if fits
                && let Some(&(id, always)) = piece()
                && (always || parse_special)
            {
                let (start, len) = (start as u32, self.len as u32);
                all.push(Found { id, start, len });
            }
        }
        all
    }

    /// What was taken before is at least as long: where it overlaps, it covers one of the ends.
    fn is_free(&self, is_taken: &[bool], start: usize) -> bool {
        !is_taken[start] && !is_taken[start + self.len - 1]
    }
}

impl Found {
    fn range(&self) -> (usize, usize) {
        let start = self.start as usize;
        (start, start + self.len as usize)
    }
}

fn fragments<'a>(text: &'a str, all: &[Found]) -> Vec<Fragment<'a>> {
    let mut fragments = Vec::with_capacity(2 * all.len() + 1);
    let mut end_before = 0;
    let push_text = |range: std::ops::Range<usize>, fragments: &mut Vec<_>| {
        if !range.is_empty() {
            fragments.push(Fragment::Text(&text[range]));
        }
    };
    for found in all {
        let (start, end) = found.range();
        push_text(end_before..start, &mut fragments);
        fragments.push(Fragment::Special(found.id));
        end_before = end;
    }
    push_text(end_before..text.len(), &mut fragments);
    fragments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut<'a>(pieces: &[(&str, bool)], text: &'a str, parse_special: bool) -> Vec<Fragment<'a>> {
        let pieces = (0..).zip(pieces).map(|(id, (text, always))| SpecialPiece {
            text: (*text).to_owned(),
            id,
            always: *always,
        });
        SpecialPieces::new(pieces.collect()).cut(text, parse_special)
    }

    use Fragment::{Special, Text};

    #[test]
    fn the_longest_is_cut_first_wherever_it_stands() {
        let pieces = [("ab", true), ("bcd", true)];
        assert_eq!(
            cut(&pieces, "abcd ab", false),
            [Text("a"), Special(1), Text(" "), Special(0)]
        );
    }

    #[test]
    fn of_one_length_the_lower_id_is_cut_first() {
        let pieces = [("bc", true), ("ab", true)];
        assert_eq!(cut(&pieces, "abc", false), [Text("a"), Special(0)]);
        assert_eq!(cut(&pieces, "ab", false), [Special(1)]);
    }

    #[test]
    fn runs_are_cut_from_the_left() {
        let pieces = [("\n", true), ("\n\n\n", true)];
        assert_eq!(
            cut(&pieces, "\n\n\n\n\nx", false),
            [Special(1), Special(0), Special(0), Text("x")]
        );
    }

    #[test]
    fn structure_is_recognised_only_where_it_may_be() {
        let pieces = [("<s>", false), ("é", true)];
        assert_eq!(cut(&pieces, "<s>é", false), [Text("<s>"), Special(1)]);
        assert_eq!(cut(&pieces, "<s>é", true), [Special(0), Special(1)]);
        assert_eq!(cut(&pieces, "", true), []);
    }
}
