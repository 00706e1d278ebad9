//! The part of a text that fits a query best.

use std::collections::VecDeque;

use super::{SNIPPET_CHARS_MAX, cut, words::words};

/// Bytes in which words of the query are counted together.
const WINDOW_BYTES: usize = 200;
/// Bytes of a text that are looked at.
const LOOKED_AT_BYTES_MAX: usize = 256 << 10;
/// Bytes before the first word that is shown.
const BEFORE_BYTES: usize = 60;

/// Returns the place where most of the query's words stand together, on one line.
pub(super) fn snippet(text: &str, query: &[String]) -> String {
    let mut end = LOOKED_AT_BYTES_MAX.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut near: VecDeque<(usize, usize)> = VecDeque::new();
    let (mut best, mut best_count) = (0, 0);
    for (place, word) in words(&text[..end]) {
        let Some(number) = query.iter().position(|asked| *asked == word) else {
            continue;
        };
        near.push_back((place.start, number));
        while near
            .front()
            .is_some_and(|(at, _)| at + WINDOW_BYTES < place.end)
        {
            near.pop_front();
        }
        let mut present = vec![false; query.len()];
        near.iter().for_each(|(_, number)| present[*number] = true);
        let count = present.into_iter().filter(|is_there| *is_there).count();
        if count > best_count {
            best_count = count;
            best = near.front().map_or(0, |(at, _)| *at);
        }
    }
    let start = beginning(text, best);
    let shown: Vec<_> = cut(&text[start..], SNIPPET_CHARS_MAX)
        .split_whitespace()
        .collect();
    shown.join(" ")
}

/// Returns a little before a place, where a word begins.
fn beginning(text: &str, place: usize) -> usize {
    if place <= BEFORE_BYTES {
        return 0;
    }
    let mut start = place - BEFORE_BYTES;
    while !text.is_char_boundary(start) {
        start += 1;
    }
    let gap = text[start..place].find(char::is_whitespace);
    gap.map_or(start, |gap| start + gap)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, query: &[&str]) -> String {
        let query: Vec<_> = query.iter().map(|word| (*word).to_owned()).collect();
        snippet(text, &query)
    }

    #[test]
    fn the_words_that_stand_together_are_shown() {
        let filler = "filler words without end ".repeat(50);
        let text = format!("red {filler}\n\nhere a red\n house stands {filler} house");
        let shown = of(&text, &["red", "house"]);
        assert!(shown.contains("here a red house stands"), "{shown}");
        assert!(shown.chars().count() <= SNIPPET_CHARS_MAX);
    }

    #[test]
    fn without_a_word_of_the_query_it_is_the_beginning() {
        assert_eq!(of("one\ntwo", &["three"]), "one two");
        assert_eq!(of("", &["a"]), "");
        // Cuts fall between characters wherever they fall.
        let text = format!("{}b {}", "ä".repeat(1000), "ä".repeat(1000));
        assert!(of(&text, &["b"]).contains('ä'));
        let long = "ä b ".repeat(LOOKED_AT_BYTES_MAX);
        assert!(of(&long, &["b"]).starts_with("ä b"));
    }
}
