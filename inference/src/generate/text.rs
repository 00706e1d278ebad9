//! The text of one choice while it grows: bytes to characters, stop strings, and which
//! log-probabilities belong to what was shown.
//!
//! A token's entry is shown with the piece in which its text ends. Tokens that make up one
//! character together share that character's place. Where a stop string cuts the text, entries
//! stay for tokens that begin before it, and go for those that begin in it.

use std::collections::VecDeque;

use super::stop::StopMatcher;
use crate::request::TokenLogprob;

/// Turns generated pieces into what may be shown.
#[derive(Debug)]
pub(crate) struct ChoiceText {
    characters: Characters,
    stop: StopMatcher,
    /// Entries whose text has no place yet: it is part of an unfinished character.
    unplaced: Vec<TokenLogprob>,
    /// Entries whose text is held back, in order.
    placed: VecDeque<Placed>,
    /// Bytes of text so far, held-back ones included.
    taken_bytes: usize,
    /// Bytes of text shown so far.
    shown_bytes: usize,
}

/// What may be shown after a step.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Shown {
    pub(crate) text: String,
    pub(crate) logprobs: Vec<TokenLogprob>,
    /// A stop string is complete.
    pub(crate) is_stopped: bool,
}

#[derive(Debug)]
struct Placed {
    start: usize,
    end: usize,
    logprob: TokenLogprob,
}

/// Joins bytes to characters; holds at most three bytes back.
#[derive(Debug, Default)]
struct Characters {
    pending: Vec<u8>,
}

impl ChoiceText {
    /// Returns an empty text that ends before any of these strings.
    pub(crate) fn new(stop: &[String]) -> Self {
        Self {
            characters: Characters::default(),
            stop: StopMatcher::new(stop),
            unplaced: Vec::new(),
            placed: VecDeque::new(),
            taken_bytes: 0,
            shown_bytes: 0,
        }
    }

    /// Appends one token's bytes.
    pub(crate) fn push(&mut self, bytes: &[u8], logprob: Option<TokenLogprob>) -> Shown {
        self.unplaced.extend(logprob);
        let text = self.characters.push(bytes);
        self.take(&text)
    }

    /// Ends the text without a stop string: shows what was held back.
    pub(crate) fn finish(&mut self) -> Shown {
        let tail = self.characters.finish();
        let mut shown = self.take(&tail);
        if !shown.is_stopped {
            shown.text.push_str(&self.stop.finish());
            let held = self.placed.drain(..).map(|placed| placed.logprob);
            shown.logprobs.extend(held);
            shown.logprobs.append(&mut self.unplaced);
        }
        shown
    }

    fn take(&mut self, text: &str) -> Shown {
        let start = self.taken_bytes;
        self.taken_bytes += text.len();
        if !text.is_empty() {
            let end = self.taken_bytes;
            let placed = self.unplaced.drain(..);
            self.placed.extend(placed.map(|logprob| Placed {
                start,
                end,
                logprob,
            }));
        }
        let released = self.stop.push(text);
        self.shown_bytes += released.text.len();
        let shown_bytes = self.shown_bytes;
        let is_covered = |placed: &Placed| {
            if released.is_stopped {
                placed.start < shown_bytes
            } else {
                placed.end <= shown_bytes
            }
        };
        let covered = self
            .placed
            .iter()
            .take_while(|placed| is_covered(placed))
            .count();
        let logprobs = self.placed.drain(..covered);
        Shown {
            text: released.text,
            logprobs: logprobs.map(|placed| placed.logprob).collect(),
            is_stopped: released.is_stopped,
        }
    }
}

impl Characters {
    fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            let Err(error) = std::str::from_utf8(rest) else {
                text.push_str(&String::from_utf8_lossy(rest));
                self.pending.clear();
                return text;
            };
            let (valid, broken) = rest.split_at(error.valid_up_to());
            text.push_str(&String::from_utf8_lossy(valid));
            let Some(skipped) = error.error_len() else {
                self.pending = broken.to_vec();
                return text;
            };
            text.push(char::REPLACEMENT_CHARACTER);
            rest = &broken[skipped..];
        }
    }

    fn finish(&mut self) -> String {
        let pending = std::mem::take(&mut self.pending);
        String::from_utf8_lossy(&pending).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(id: u32, bytes: &[u8]) -> TokenLogprob {
        TokenLogprob {
            id,
            text: String::from_utf8_lossy(bytes).into_owned(),
            bytes: bytes.to_vec(),
            logprob: -1.0,
            top: Vec::new(),
        }
    }

    /// Pushes pieces numbered from 0; returns per step the text and the ids of the entries.
    fn run(stop: &[&str], pieces: &[&[u8]]) -> Vec<(String, Vec<u32>)> {
        let stop: Vec<String> = stop.iter().map(|&stop| stop.to_owned()).collect();
        let mut text = ChoiceText::new(&stop);
        let mut out: Vec<Shown> = (0..)
            .zip(pieces)
            .map(|(id, bytes)| text.push(bytes, Some(entry(id, bytes))))
            .collect();
        if !out.last().is_some_and(|shown| shown.is_stopped) {
            out.push(text.finish());
        }
        let ids = |shown: &Shown| shown.logprobs.iter().map(|entry| entry.id).collect();
        out.iter()
            .map(|shown| (shown.text.clone(), ids(shown)))
            .collect()
    }

    fn step(text: &str, ids: &[u32]) -> (String, Vec<u32>) {
        (text.to_owned(), ids.to_vec())
    }

    #[test]
    fn entries_come_with_their_text() {
        let out = run(&[], &[b"one", b" two"]);
        assert_eq!(out, [step("one", &[0]), step(" two", &[1]), step("", &[])]);
    }

    #[test]
    fn half_a_character_is_never_shown_and_its_entries_stay_together() {
        let out = run(&[], &[b"a\xf0\x9f", b"\x98", b"\x80b"]);
        // The first piece's text ends where its whole characters end.
        let expected = [
            step("a", &[0]),
            step("", &[]),
            step("\u{1f600}b", &[1, 2]),
            step("", &[]),
        ];
        assert_eq!(out, expected);
    }

    #[test]
    fn entries_of_a_stop_string_are_dropped_with_it() {
        let out = run(&["STOP"], &[b"go", b" S", b"TO", b"P on"]);
        let expected = [
            step("go", &[0]),
            step(" ", &[]),
            step("", &[]),
            step("", &[1]),
        ];
        assert_eq!(out, expected);
    }

    #[test]
    fn entries_of_held_text_come_when_it_is_shown() {
        let out = run(&["STOP"], &[b"ST", b"AY", b" S"]);
        let expected = [
            step("", &[]),
            step("STAY", &[0, 1]),
            step(" ", &[]),
            step("S", &[2]),
        ];
        assert_eq!(out, expected);
    }

    #[test]
    fn an_unfinished_character_at_the_end_is_replaced() {
        let out = run(&[], &[b"a", b"\xe2\x82"]);
        let expected = [step("a", &[0]), step("", &[]), step("\u{fffd}", &[1])];
        assert_eq!(out, expected);
    }

    proptest! {
        #[test]
        fn pieces_of_any_bytes_join_to_the_lossy_text(
            pieces in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), 0..6), 0..12,
            ),
            characters in ".{0,12}",
        ) {
            let mut pieces = pieces;
            pieces.extend(characters.as_bytes().chunks(2).map(<[u8]>::to_vec));
            let mut text = ChoiceText::new(&[]);
            let mut shown = String::new();
            let mut ids = Vec::new();
            for (id, bytes) in (0..).zip(&pieces) {
                let step = text.push(bytes, Some(entry(id, bytes)));
                prop_assert!(text.characters.pending.len() <= 3);
                shown.push_str(&step.text);
                ids.extend(step.logprobs.iter().map(|entry| entry.id));
            }
            let step = text.finish();
            shown.push_str(&step.text);
            ids.extend(step.logprobs.iter().map(|entry| entry.id));
            prop_assert_eq!(shown, String::from_utf8_lossy(&pieces.concat()).into_owned());
            let expected: Vec<u32> = (0..pieces.len() as u32).collect();
            prop_assert_eq!(ids, expected);
        }
    }
}
