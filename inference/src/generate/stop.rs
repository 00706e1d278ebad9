//! Finds stop strings in text that arrives in pieces, and holds back what may become one.
//!
//! The match that *ends* first counts, and of those that end together the one that starts first,
//! so the result does not depend on where the pieces are cut. Text before the match is released,
//! nothing from its start on. One Knuth–Morris–Pratt automaton per stop string keeps each byte's
//! work small; what is held back never exceeds the longest stop string.
//!
//! Stop strings and text are whole characters, and no character's first byte occurs inside
//! another, so matches and held-back ends always begin at a character.

/// Searches one text for any of several stop strings.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    patterns: Vec<Pattern>,
    /// Text that was taken in but not released.
    held: String,
    is_stopped: bool,
}

/// What a piece of text led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released {
    /// Text that is certainly before any stop string.
    pub text: String,
    /// Whether a stop string is complete; everything later is swallowed.
    pub is_stopped: bool,
}

#[derive(Debug, Clone)]
struct Pattern {
    bytes: Box<[u8]>,
    /// For each length of a partial match, the next shorter one that its end also is.
    fallback: Box<[usize]>,
    /// Length of the current partial match.
    matched: usize,
}

impl StopMatcher {
    /// Returns a matcher for these strings; empty ones are ignored.
    pub fn new(stop: &[String]) -> Self {
        let patterns = stop.iter().filter(|stop| !stop.is_empty());
        Self {
            patterns: patterns.map(|stop| Pattern::new(stop)).collect(),
            held: String::new(),
            is_stopped: false,
        }
    }

    /// Takes a piece of text in and returns what may be shown.
    pub fn push(&mut self, piece: &str) -> Released {
        if self.is_stopped {
            return self.release(0);
        }
        let before = self.held.len();
        self.held.push_str(piece);
        for (index, byte) in piece.bytes().enumerate() {
            let end = before + index + 1;
            // All take the byte, before the longest complete one is asked for.
            for pattern in &mut self.patterns {
                pattern.advance(byte);
            }
            let complete = self.patterns.iter().filter(|pattern| pattern.is_complete());
            if let Some(length) = complete.map(|pattern| pattern.bytes.len()).max() {
                self.is_stopped = true;
                return self.release(end - length);
            }
        }
        let partial = self.patterns.iter().map(|pattern| pattern.matched).max();
        self.release(self.held.len() - partial.unwrap_or(0))
    }

    /// Returns what is still held back: the text ended, so it became no stop string.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Releases the first `length` held bytes; after a stop the rest is dropped.
    fn release(&mut self, length: usize) -> Released {
        let rest = self.held.split_off(length);
        let text = std::mem::replace(&mut self.held, rest);
        if self.is_stopped {
            self.held.clear();
        }
        Released {
            text,
            is_stopped: self.is_stopped,
        }
    }
}

impl Pattern {
    fn new(stop: &str) -> Self {
        let bytes: Box<[u8]> = stop.bytes().collect();
        let mut fallback = vec![0; bytes.len() + 1];
        let mut length = 0;
        for index in 1..bytes.len() {
            while length > 0 && bytes[index] != bytes[length] {
                length = fallback[length];
            }
            if bytes[index] == bytes[length] {
                length += 1;
            }
            fallback[index + 1] = length;
        }
        Self {
            bytes,
            fallback: fallback.into_boxed_slice(),
            matched: 0,
        }
    }

    fn advance(&mut self, byte: u8) {
        while self.matched > 0 && self.bytes.get(self.matched) != Some(&byte) {
            self.matched = self.fallback[self.matched];
        }
        if self.bytes[self.matched] == byte {
            self.matched += 1;
        }
    }

    fn is_complete(&self) -> bool {
        self.matched == self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn strings(stop: &[&str]) -> Vec<String> {
        stop.iter().map(|&stop| stop.to_owned()).collect()
    }

    /// Pushes the pieces and returns what came out after each, then the end.
    fn run(stop: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let mut matcher = StopMatcher::new(&strings(stop));
        let mut out = Vec::new();
        let mut is_stopped = false;
        for piece in pieces {
            let released = matcher.push(piece);
            out.push(released.text);
            is_stopped = released.is_stopped;
        }
        out.push(matcher.finish());
        (out, is_stopped)
    }

    /// The text before the match that ends first, by looking at every place.
    fn naive(stop: &[String], text: &str) -> (String, bool) {
        for end in 0..=text.len() {
            for start in 0..end {
                let found = text.as_bytes().get(start..end);
                if stop.iter().any(|stop| Some(stop.as_bytes()) == found) {
                    return (text[..start].to_owned(), true);
                }
            }
        }
        (text.to_owned(), false)
    }

    #[test]
    fn a_stop_string_across_pieces_is_never_shown() {
        let (out, is_stopped) = run(&["END"], &["one E", "N", "D two"]);
        assert_eq!(out, ["one ", "", "", ""]);
        assert!(is_stopped);
    }

    #[test]
    fn held_text_is_shown_once_it_cannot_become_a_stop_string() {
        let (out, is_stopped) = run(&["END"], &["one EN", "ough"]);
        assert_eq!(out, ["one ", "ENough", ""]);
        assert!(!is_stopped);
    }

    #[test]
    fn held_text_is_shown_at_the_end() {
        let (out, is_stopped) = run(&["\n\nUser:"], &["hi\n", "\nUs"]);
        assert_eq!(out, ["hi", "", "\n\nUs"]);
        assert!(!is_stopped);
    }

    #[test]
    fn an_overlapping_start_is_found() {
        let (out, is_stopped) = run(&["aab"], &["aa", "ab"]);
        assert_eq!(out, ["", "a", ""]);
        assert!(is_stopped);
    }

    #[test]
    fn the_match_that_ends_first_counts() {
        assert_eq!(run(&["abcd", "bc"], &["xabcd"]).0, ["xa", ""]);
        assert_eq!(run(&["abcd", "bc"], &["xab", "c", "d"]).0.concat(), "xa");
        assert_eq!(run(&["c", "abc"], &["xab", "c"]).0.concat(), "x");
    }

    #[test]
    fn a_whole_character_is_held_not_half_of_one() {
        let (out, is_stopped) = run(&["é→"], &["café", "s é", "→!"]);
        assert_eq!(out, ["caf", "és ", "", ""]);
        assert!(is_stopped);
    }

    #[test]
    fn nothing_follows_a_stop() {
        let mut matcher = StopMatcher::new(&strings(&["."]));
        assert_eq!(matcher.push("a.b").text, "a");
        let after = matcher.push("c");
        assert_eq!((after.text.as_str(), after.is_stopped), ("", true));
        assert_eq!(matcher.finish(), "");
    }

    proptest! {
        #[test]
        fn any_cut_gives_what_a_search_of_the_whole_text_gives(
            stop in proptest::collection::vec("[abé]{1,4}", 0..4),
            pieces in proptest::collection::vec("[abcé→]{0,4}", 0..12),
        ) {
            let (expected, expects_stop) = naive(&stop, &pieces.concat());
            let mut matcher = StopMatcher::new(&stop);
            let mut shown = String::new();
            let mut is_stopped = false;
            for piece in &pieces {
                let released = matcher.push(piece);
                shown.push_str(&released.text);
                is_stopped = released.is_stopped;
                // Nothing is shown that would have to be taken back.
                prop_assert!(expected.starts_with(&shown));
                prop_assert!(matcher.held.len() < 16);
            }
            shown.push_str(&matcher.finish());
            prop_assert_eq!(shown, expected);
            prop_assert_eq!(is_stopped, expects_stop);
        }
    }
}
