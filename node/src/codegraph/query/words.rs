//! Definitions found by words: of their names, signatures, documentation and paths.
//!
//! Names are taken apart where people put words together (`readAll`, `read_all`). A word counts
//! more the rarer it is and the nearer to the name it stands.

use std::collections::HashMap;

use super::QUERY_WORDS_MAX;
use crate::codegraph::{
    limits::{WORD_WORK, WORDS_WORK_MAX},
    repository::{NodeId, Repository},
};

/// What a word counts in each place.
const IN_NAME: f32 = 4.0;
const IN_OWNER: f32 = 2.0;
const IN_SIGNATURE: f32 = 1.0;
const IN_DOC: f32 = 1.5;
const IN_PATH: f32 = 1.0;
/// About what a word takes beside its text and its places.
const WORD_BYTES: usize = 64;
/// What a file that was found by meaning adds to its definitions, beside a good word.
const BY_MEANING: f32 = 4.0;

/// The words of a repository and where they are.
#[derive(Debug)]
pub struct WordIndex {
    places: HashMap<String, Vec<(NodeId, f32)>>,
    bytes: usize,
    is_partial: bool,
}

impl WordIndex {
    /// Collects them, until that is too much work.
    pub(in crate::codegraph) fn new(repository: &Repository) -> Self {
        let mut places: HashMap<String, Vec<(NodeId, f32)>> = HashMap::new();
        let mut work = WORDS_WORK_MAX;
        for node in repository.nodes() {
            let (words, read) = words_of(repository, node);
            work = work.saturating_sub(read + words.len() * WORD_WORK);
            if work == 0 {
                break;
            }
            for (word, weight) in words {
                places.entry(word).or_default().push((node, weight));
            }
        }
        let rows = places.iter();
        let bytes = rows.map(|(word, places)| {
            word.len() + WORD_BYTES + places.capacity() * size_of::<(NodeId, f32)>()
        });
        Self {
            bytes: bytes.sum(),
            places,
            is_partial: work == 0,
        }
    }

    /// Returns whether there were more words than are looked at.
    pub(in crate::codegraph) fn is_partial(&self) -> bool {
        self.is_partial
    }

    /// Returns about how many bytes it takes.
    pub(in crate::codegraph) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns definitions by how well they fit, best first.
    pub(super) fn search(
        &self,
        repository: &Repository,
        text: &str,
        files: &[(String, f32)],
    ) -> Vec<(NodeId, f32)> {
        let count = repository.nodes().len() as f32;
        let mut scores: HashMap<NodeId, f32> = HashMap::new();
        let mut words: Vec<_> = split(text).collect();
        words.sort();
        words.dedup();
        for word in words.iter().take(QUERY_WORDS_MAX) {
            let places = self.places.get(word).map_or(&[][..], Vec::as_slice);
            let rarity = (1.0 + count / (1.0 + places.len() as f32)).ln();
            for (node, weight) in places {
                // A word many times is little more than once.
                let fit = rarity * weight / (weight + 1.0);
                *scores.entry(*node).or_default() += fit;
            }
        }
        for (path, score) in files {
            let Some(file) = repository.file_at(path) else {
                continue;
            };
            let symbols = repository.file(file).graph.symbols.len();
            let end = file + u32::try_from(symbols).unwrap_or(0);
            for node in file..=end {
                *scores.entry(node).or_default() += BY_MEANING * score;
            }
        }
        let mut found: Vec<_> = scores.into_iter().collect();
        found.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        found
    }
}

/// Returns the words of a node, and how many bytes were read for them.
fn words_of(repository: &Repository, node: NodeId) -> (HashMap<String, f32>, usize) {
    let mut words: HashMap<String, f32> = HashMap::new();
    let mut read = 0;
    let mut add = |text: &str, weight: f32| {
        read += text.len();
        for word in split(text) {
            let known = words.entry(word).or_default();
            *known = (*known + weight / 4.0).max(weight);
        }
    };
    let file = repository.file(node);
    add(&file.path, IN_PATH);
    match repository.symbol(node) {
        Some(symbol) => {
            add(&symbol.name, IN_NAME);
            for owner in &symbol.within {
                add(owner, IN_OWNER);
            }
            add(&symbol.signature, IN_SIGNATURE);
            add(symbol.doc.as_deref().unwrap_or_default(), IN_DOC);
        }
        None => {
            add(repository.name(node), IN_NAME);
            add(file.graph.doc.as_deref().unwrap_or_default(), IN_DOC);
        }
    }
    (words, read)
}

/// Takes a text apart into words in lower case, also where names have put them together.
fn split(text: &str) -> impl Iterator<Item = String> {
    let mut words = Vec::new();
    for name in text.split(|c: char| !c.is_alphanumeric()) {
        let mut word = String::new();
        let mut was_lower = false;
        for c in name.chars() {
            if c.is_uppercase() && was_lower {
                words.push(std::mem::take(&mut word));
            }
            was_lower = c.is_lowercase() || c.is_numeric();
            word.extend(c.to_lowercase());
        }
        words.push(word);
    }
    words
        .into_iter()
        .filter(|word| word.chars().count() > 1)
        .map(stem)
}

/// Takes the endings off that make the same word look different.
fn stem(word: String) -> String {
    let one = match word.strip_suffix('s') {
        Some(one) if !one.ends_with('s') && one.len() > 2 => one,
        _ => word.as_str(),
    };
    let endings = [
        ("sse", "ss"),
        ("xe", "x"),
        ("che", "ch"),
        ("she", "sh"),
        ("ie", "y"),
    ];
    let endings = endings
        .into_iter()
        .chain([("ing", ""), ("ed", ""), ("e", "")]);
    for (ending, kept) in endings {
        if let Some(stem) = one.strip_suffix(ending)
            && stem.len() > 2
        {
            return format!("{stem}{kept}");
        }
    }
    one.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart_into_words() {
        let words = |text| split(text).collect::<Vec<_>>();
        assert_eq!(
            words("readAll_links HTTPServer"),
            ["read", "all", "link", "httpserver"]
        );
        assert_eq!(words("a, the_files"), ["the", "fil"]);
        for (one, many) in [
            ("class", "classes"),
            ("write", "writing"),
            ("route", "routes"),
            ("parse", "parsed"),
            ("carry", "carries"),
            ("box", "boxes"),
        ] {
            assert_eq!(words(one), words(many));
        }
    }
}
