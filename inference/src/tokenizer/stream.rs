//! Text from ids that come one by one, never half a character.
//!
//! A character may be spread over several ids. Bytes that can still become one are held back:
//! at most three. What comes out in the end equals what decoding all ids at once gives.

use super::Tokenizer;

/// An incremental decoder; special pieces render as nothing.
#[derive(Debug, Clone)]
pub struct TextStream {
    tokenizer: Tokenizer,
    /// The beginning of a character. Invariant: at most three bytes between calls.
    pending: Vec<u8>,
}

impl TextStream {
    pub(super) fn new(tokenizer: Tokenizer) -> Self {
        Self {
            tokenizer,
            pending: Vec::new(),
        }
    }

    /// Takes the next id and returns the characters that are now complete, possibly none. Bytes
    /// that can no longer become a character come out as U+FFFD.
    pub fn push(&mut self, id: u32) -> String {
        if !self.tokenizer.is_special(id) {
            let piece = self.tokenizer.piece(id).unwrap_or_default();
            self.pending.extend_from_slice(piece);
        }
        take_complete(&mut self.pending)
    }

    /// Returns what is left as U+FFFD, or nothing; the stream may be used again.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

fn take_complete(pending: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut seen = 0;
    let mut held_back = 0;
    for chunk in pending.utf8_chunks() {
        text.push_str(chunk.valid());
        seen += chunk.valid().len() + chunk.invalid().len();
        if seen == pending.len() && may_continue(chunk.invalid()) {
            held_back = chunk.invalid().len();
        } else if !chunk.invalid().is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    pending.drain(..pending.len() - held_back);
    text
}

/// Returns whether more bytes can make this a character.
fn may_continue(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outputs(pieces: &[&[u8]]) -> Vec<String> {
        let mut pending = Vec::new();
        let mut outputs: Vec<String> = pieces
            .iter()
            .map(|piece| {
                pending.extend_from_slice(piece);
                take_complete(&mut pending)
            })
            .collect();
        outputs.push(String::from_utf8_lossy(&pending).into_owned());
        outputs
    }

    #[test]
    fn a_character_comes_out_when_its_last_byte_is_there() {
        assert_eq!(
            outputs(&[b"a\xF0\x9F", b"\x98", b"\x80b"]),
            ["a", "", "😀b", ""]
        );
    }

    #[test]
    fn broken_bytes_are_replaced_as_soon_as_they_are_known_to_be_broken() {
        assert_eq!(
            outputs(&[b"\xFFa\xF0\x9F", b"x"]),
            ["\u{FFFD}a", "\u{FFFD}x", ""]
        );
        // An earlier broken byte may equal the one that is held back.
        assert_eq!(outputs(&[b"\xC3a\xC3", b"\xA9"]), ["\u{FFFD}a", "é", ""]);
    }

    #[test]
    fn an_incomplete_end_is_replaced() {
        assert_eq!(outputs(&[b"ok\xE2\x82"]), ["ok", "\u{FFFD}"]);
    }
}
