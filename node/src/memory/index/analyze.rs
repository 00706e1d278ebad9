//! Text to terms: what is compared when words are searched.
//!
//! A word is what Unicode says (UAX #29), without accents and case, in compatibility form. A word
//! that is made of several, such as `snake_case`, `camelCase` or `example.com`, counts as itself
//! and as each of its parts. English plurals are brought to their singular by the three rules of
//! Harman's "s" stemmer ("How effective is suffixing?", JASIS 42, 1991), which hardly ever joins
//! words of different meaning as stronger stemmers do, and by one more for `boxes` and `matches`.
//! There are no stop words: how little "the" says is known from how often it is there.
//!
//! A term is kept as a 64-bit hash of its word. It is stored, so how it is made never changes
//! without a new version of the row.

use std::{borrow::Cow, collections::HashMap};

use unicode_normalization::UnicodeNormalization;
use unicode_segmentation::UnicodeSegmentation;

/// Different terms of one text at most; later ones are left out.
pub(super) const TERMS_MAX: usize = 4096;
/// Terms that are counted at most: as many as a text of the longest kind has, and a bound where
/// one character stands for many.
const OCCURRENCES_MAX: usize = 32 * 1024;
/// Parts of one word that count by themselves.
const PARTS_MAX: usize = 64;

/// The terms of a text, and how often each is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// By their hashes, rising.
    pub(super) counts: Vec<(u64, u16)>,
    /// All of them, each as often as it is there.
    pub(super) length: u32,
}

impl Terms {
    /// Returns the terms of a text.
    pub fn of(text: &str) -> Self {
        let mut counts: HashMap<u64, u16> = HashMap::new();
        let mut length = 0;
        for_each_term(text, |term| {
            if counts.len() < TERMS_MAX || counts.contains_key(&term) {
                let count = counts.entry(term).or_default();
                *count = count.saturating_add(1);
            }
            length += 1;
            length < OCCURRENCES_MAX as u32
        });
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_unstable();
        Self { counts, length }
    }

    /// Returns how many different terms there are.
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}

/// Returns the first different terms of a question, in their order.
pub(super) fn query_terms(text: &str, count_max: usize) -> Vec<u64> {
    let mut terms = Vec::new();
    for_each_term(text, |term| {
        if !terms.contains(&term) {
            terms.push(term);
        }
        terms.len() < count_max
    });
    terms
}

/// Calls a function for each term, until it returns false.
fn for_each_term(text: &str, mut term: impl FnMut(u64) -> bool) {
    let text = fold_accents(text);
    // A colon joins words in Swedish, but keys are put together with it everywhere.
    let words = text.unicode_words().flat_map(|word| word.split(':'));
    for word in words.filter(|word| !word.is_empty()) {
        if !term(hash_word(word)) {
            return;
        }
        let mut parts = parts(word);
        // A word of one part is that part; an edge such as the underscore in `_name` is no part.
        let (first, second) = (parts.next(), parts.next());
        let parts = first.into_iter().chain(second).chain(parts);
        for part in parts.filter(|part| part.len() < word.len()).take(PARTS_MAX) {
            if !term(hash_word(part)) {
                return;
            }
        }
    }
}

/// Brings a text to its compatibility form without the accents of Latin, Greek and Cyrillic.
fn fold_accents(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    let is_accent = |character: &char| ('\u{300}'..='\u{36f}').contains(character);
    let letters = text.nfkd().filter(|character| !is_accent(character));
    Cow::Owned(letters.nfc().collect())
}

/// Cuts a word where it is no letter or digit, and where case says that another word begins.
fn parts(word: &str) -> impl Iterator<Item = &str> {
    let pieces = word.split(|character: char| !character.is_alphanumeric());
    pieces.flat_map(CaseParts).filter(|part| !part.is_empty())
}

/// Cuts `camelCase` and `HTTPServer` in two each.
struct CaseParts<'a>(&'a str);

impl<'a> Iterator for CaseParts<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if self.0.is_empty() {
            return None;
        }
        let (part, rest) = self.0.split_at(case_border(self.0));
        self.0 = rest;
        Some(part)
    }
}

/// Returns where the second word of a name begins, or its end.
fn case_border(name: &str) -> usize {
    let mut chars = name.char_indices().peekable();
    let mut before = None;
    while let Some((at, character)) = chars.next() {
        if character.is_uppercase() {
            let after_small = before.is_some_and(|before: char| !before.is_uppercase());
            let ends_acronym = before.is_some_and(char::is_uppercase)
                && chars.peek().is_some_and(|(_, next)| next.is_lowercase());
            if after_small || ends_acronym {
                return at;
            }
        }
        before = Some(character);
    }
    name.len()
}

fn hash_word(word: &str) -> u64 {
    if word.is_ascii() {
        let lower = word.bytes().map(|byte| byte.to_ascii_lowercase());
        let (stem, ending) = singular(word);
        return hash(lower.take(stem).chain(ending.bytes()));
    }
    // Lower case of a word's last sigma depends on its place, so that letters alone do not do.
    hash(word.to_lowercase().bytes())
}

/// Returns how much of an English word is kept, and what follows instead of the rest.
fn singular(word: &str) -> (usize, &'static str) {
    let len = word.len();
    let ends = |ending: &str| {
        let tail = len
            .checked_sub(ending.len())
            .map(|start| &word.as_bytes()[start..]);
        tail.is_some_and(|tail| tail.eq_ignore_ascii_case(ending.as_bytes()))
    };
    if len < 4 || !word.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return (len, "");
    }
    let sibilants = ["xes", "sses", "shes", "tches", "nches", "rches"];
    match () {
        () if sibilants.into_iter().any(ends) => (len - 2, ""),
        () if ends("ies") && !ends("eies") && !ends("aies") => (len - 3, "y"),
        () if ends("es") && !ends("aes") && !ends("ees") && !ends("oes") => (len - 1, ""),
        () if ends("s") && !ends("us") && !ends("ss") && !ends("es") => (len - 1, ""),
        () => (len, ""),
    }
}

/// FNV-1a of 64 bits, and the last step of MurmurHash3, which spreads what differs in few bits.
fn hash(bytes: impl Iterator<Item = u8>) -> u64 {
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asserts that a text has the terms of these words.
    fn check(text: &str, words: &[&str]) {
        let mut expected: Vec<_> = words.iter().map(|word| hash(word.bytes())).collect();
        expected.sort_unstable();
        let terms = Terms::of(text);
        let found = terms.counts.iter();
        let found = found.flat_map(|(term, count)| vec![*term; usize::from(*count)]);
        assert_eq!(found.collect::<Vec<_>>(), expected, "{text:?} as {words:?}");
        assert_eq!(terms.length as usize, words.len());
    }

    #[test]
    fn words_lose_case_accents_and_width() {
        check("The QUICK, brown fox!", &["the", "quick", "brown", "fox"]);
        check("Café naïve ÅNGSTRÖM", &["cafe", "naive", "angstrom"]);
        check("cafe\u{301}", &["cafe"]);
        check("ＦＵＬＬ ﬁne", &["full", "fine"]);
        check("Ёлка", &["елка"]);
        check("ΌΣΟΣ", &["οσος"]);
        check("", &[]);
        check(" …— \u{0} ", &[]);
    }

    #[test]
    fn identifiers_are_found_whole_and_by_their_parts() {
        check("snake_case", &["snake_case", "snake", "case"]);
        check("getUserName", &["getusername", "get", "user", "name"]);
        check("HTTPServer", &["httpserver", "http", "server"]);
        check("user:last_one", &["user", "last_one", "last", "one"]);
        check("_private", &["_private", "private"]);
        check("example.com", &["example.com", "example", "com"]);
        check("utf8 3.14", &["utf8", "3.14", "3", "14"]);
    }

    #[test]
    fn plurals_meet_their_singular() {
        check("questions queries", &["question", "query"]);
        check("boxes branches caches", &["box", "branch", "cache"]);
        check(
            "bus glass gas does series",
            &["bus", "glass", "gas", "does", "sery"],
        );
        check("Cities CITY", &["city", "city"]);
        check("s3s", &["s3s"]);
    }

    #[test]
    fn scripts_without_spaces_are_found_by_their_characters() {
        check("東京 2024", &["東", "京", "2024"]);
        check("привет мир", &["привет", "мир"]);
    }

    #[test]
    fn hashes_never_change() {
        assert_eq!(hash("".bytes()), 0xefd0_1f60_ba99_2926);
        assert_eq!(hash("memory".bytes()), hash_word("Memory"));
        assert_eq!(hash_word("memories"), hash_word("memory"));
    }

    #[test]
    fn terms_of_a_text_are_bounded() {
        let many: String = (0..TERMS_MAX + 100).map(|n| format!("w{n}x ")).collect();
        let terms = Terms::of(&many);
        assert_eq!(terms.len(), TERMS_MAX);
        assert_eq!(terms.length as usize, TERMS_MAX + 100);
        // One character that stands for eighteen.
        let long = "\u{fdfa} ".repeat(40_000);
        assert_eq!(Terms::of(&long).length as usize, OCCURRENCES_MAX);
        assert_eq!(query_terms(&many, 64).len(), 64);
    }
}
