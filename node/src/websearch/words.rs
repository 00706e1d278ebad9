//! Words of any script, as the index has them: by Unicode's rules, in lower case, and names of
//! programs taken apart where they have underscores. The library's own rules know no scripts
//! without blanks, so it is given words that are apart already.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

/// Longer ones are data, which nobody searches for.
const WORD_BYTES_MAX: usize = 64;
/// Words of a query.
const QUERY_WORDS_MAX: usize = 32;

/// Goes through the words of a text, each with its place.
pub(super) fn words(text: &str) -> impl Iterator<Item = (Range<usize>, String)> {
    let whole = text.unicode_word_indices();
    let parts = whole.flat_map(|(start, word)| {
        let parts = word.split('_').scan(start, |at, part| {
            let start = *at;
            *at += part.len() + 1;
            Some((start, part))
        });
        parts.filter(|(_, part)| !part.is_empty() && part.len() <= WORD_BYTES_MAX)
    });
    parts.map(|(start, part)| (start..start + part.len(), part.to_lowercase()))
}

/// Returns the words of a query, each once.
pub(super) fn words_of_query(query: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for (_, word) in words(query) {
        if found.len() < QUERY_WORDS_MAX && !found.contains(&word) {
            found.push(word);
        }
    }
    found
}

/// Returns a text's words with blanks between them, as the index takes them apart again.
pub(super) fn spaced(text: &str) -> String {
    let mut spaced = String::with_capacity(text.len());
    for (_, word) in words(text) {
        if !spaced.is_empty() {
            spaced.push(' ');
        }
        spaced.push_str(&word);
    }
    spaced
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_their_places_in_any_script() {
        let text = "Fetch_the _x_ über 東京, don't";
        let found: Vec<_> = words(text).collect();
        let said: Vec<_> = found.iter().map(|(_, word)| &**word).collect();
        assert_eq!(said, ["fetch", "the", "x", "über", "東", "京", "don't"]);
        for (place, word) in found {
            assert_eq!(text[place].to_lowercase(), word);
        }
        assert_eq!(spaced(text), "fetch the x über 東 京 don't");
        assert_eq!(words(&"x".repeat(WORD_BYTES_MAX + 1)).count(), 0);
    }

    #[test]
    fn a_query_has_each_word_once_and_not_too_many() {
        assert_eq!(words_of_query("a A b"), ["a", "b"]);
        let long: Vec<_> = (0..100).map(|n| format!("w{n}")).collect();
        assert_eq!(words_of_query(&long.join(" ")).len(), QUERY_WORDS_MAX);
    }
}
