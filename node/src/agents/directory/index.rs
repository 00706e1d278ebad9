//! What agents are found by: the ids of their skills, tags, and the words of both.
//!
//! Agents are numbered by their places in the directory, so a list of those that share a word takes
//! four bytes each, and lies in the order in which they came aboard. What an agent is found by is
//! not kept beside it: whoever takes one out says again what it was, from the disk.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Bound::{Included, Unbounded},
    sync::Arc,
};

use crate::agents::records::SummaryV1;

/// Words of an agent that are indexed: of its name, its skills' ids, names and tags, and then of
/// their descriptions.
const WORDS_MAX: usize = 1024;
/// Longest part of a word that counts.
const WORD_BYTES_MAX: usize = 32;
/// Words of a query that count.
const QUERY_WORDS_MAX: usize = 8;
/// Words of the index that one word of a query may begin.
const PREFIX_MATCHES_MAX: usize = 64;

/// An agent's place in the directory.
pub(super) type Place = u32;

/// Places in rising order, each once.
#[derive(Debug, Default)]
pub(super) struct Places(Vec<Place>);

/// Which agents have what.
#[derive(Debug, Default)]
pub(super) struct Index {
    skills: HashMap<Box<str>, Skill>,
    tags: HashMap<Box<str>, Places>,
    words: HashMap<Arc<str>, Places>,
    /// The same words, to find those that begin alike.
    sorted: BTreeSet<Arc<str>>,
}

#[derive(Debug, Default)]
struct Skill {
    places: Places,
    /// How many of those can be asked for it.
    reachable: usize,
}

impl Places {
    pub(super) fn as_slice(&self) -> &[Place] {
        &self.0
    }

    /// Adds a place; most come aboard last.
    pub(super) fn insert(&mut self, place: Place) {
        match self.0.last() {
            Some(last) if place <= *last => {
                if let Err(at) = self.0.binary_search(&place) {
                    self.0.insert(at, place);
                }
            }
            Some(_) => self.0.push(place),
            // Most words and tags are one agent's alone: room for four would be room for none.
            None => self.0 = vec![place],
        }
    }

    pub(super) fn remove(&mut self, place: Place) {
        if let Ok(at) = self.0.binary_search(&place) {
            self.0.remove(at);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Gives every place its new number, in the same order.
    pub(super) fn renumber(&mut self, new_places: &[Place]) {
        for place in &mut self.0 {
            *place = new_places[*place as usize];
        }
        self.0.shrink_to_fit();
    }
}

impl Index {
    /// Adds an agent. What it has twice, or is known to have, counts once.
    pub(super) fn insert(&mut self, place: Place, summary: &SummaryV1) {
        for skill in &summary.skills {
            let known = match self.skills.get_mut(&skill.id) {
                Some(known) => known,
                None => self.skills.entry(skill.id.clone()).or_default(),
            };
            known.places.insert(place);
            for tag in &skill.tags {
                let tag = tag.to_lowercase().into_boxed_str();
                self.tags.entry(tag).or_default().insert(place);
            }
        }
        each_word_of(summary, |word| {
            if let Some(places) = self.words.get_mut(word) {
                return places.insert(place);
            }
            let word: Arc<str> = word.into();
            self.sorted.insert(Arc::clone(&word));
            self.words.entry(word).or_default().insert(place);
        });
    }

    /// Takes an agent out; a list that nobody is in any more takes no room.
    pub(super) fn remove(&mut self, place: Place, summary: &SummaryV1) {
        for skill in &summary.skills {
            if let Some(known) = self.skills.get_mut(&skill.id) {
                known.places.remove(place);
                if known.places.is_empty() {
                    self.skills.remove(&skill.id);
                }
            }
            for tag in &skill.tags {
                let tag = tag.to_lowercase();
                if let Some(places) = self.tags.get_mut(&*tag) {
                    places.remove(place);
                    if places.is_empty() {
                        self.tags.remove(&*tag);
                    }
                }
            }
        }
        each_word_of(summary, |word| {
            if let Some(places) = self.words.get_mut(word) {
                places.remove(place);
                if places.is_empty() {
                    self.words.remove(word);
                    self.sorted.remove(word);
                }
            }
        });
    }

    /// Counts an agent's skills among those that can be asked for, or no more.
    pub(super) fn count_reachable(&mut self, summary: &SummaryV1, is_reachable: bool) {
        let ids: BTreeSet<_> = summary.skills.iter().map(|skill| &skill.id).collect();
        for id in ids {
            if let Some(skill) = self.skills.get_mut(id) {
                skill.reachable = match is_reachable {
                    true => skill.reachable + 1,
                    false => skill.reachable.saturating_sub(1),
                };
            }
        }
    }

    /// Returns the ids of the most common skills, with how many agents can be asked for each.
    pub(super) fn skills(&self, count_max: usize) -> Vec<(String, usize)> {
        let skills = self.skills.iter();
        let mut skills: Vec<_> = skills
            .filter(|(_, skill)| skill.reachable > 0)
            .map(|(id, skill)| (id, skill.reachable))
            .collect();
        skills.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        skills.truncate(count_max);
        let named = skills
            .into_iter()
            .map(|(id, count)| (id.to_string(), count));
        named.collect()
    }

    /// Returns who has a skill, if anybody has.
    pub(super) fn with_skill(&self, id: &str) -> Option<&[Place]> {
        self.skills.get(id).map(|skill| skill.places.as_slice())
    }

    /// Returns who has a tag, if anybody has.
    pub(super) fn with_tag(&self, tag: &str) -> Option<&[Place]> {
        let places = self.tags.get(tag.to_lowercase().as_str());
        places.map(Places::as_slice)
    }

    /// Returns for each word of a query who has a word that begins with it; `None` where nobody
    /// has one of them.
    pub(super) fn with_words(&self, query: &str) -> Option<Vec<Vec<&[Place]>>> {
        let mut conditions = Vec::new();
        let mut buffer = String::new();
        for word in words_of(query).take(QUERY_WORDS_MAX) {
            let word = lowered(word, &mut buffer);
            let from = (Included(word), Unbounded);
            let words = self.sorted.range::<str, _>(from);
            let words = words.take_while(|known| known.starts_with(word));
            let lists = words.filter_map(|word| self.words.get(word));
            let lists: Vec<_> = lists
                .map(Places::as_slice)
                .take(PREFIX_MATCHES_MAX)
                .collect();
            if lists.is_empty() {
                return None;
            }
            conditions.push(lists);
        }
        Some(conditions)
    }

    /// Gives every agent its new place, in the same order.
    pub(super) fn renumber(&mut self, new_places: &[Place]) {
        let skills = self.skills.values_mut().map(|skill| &mut skill.places);
        let others = self.tags.values_mut().chain(self.words.values_mut());
        for places in skills.chain(others) {
            places.renumber(new_places);
        }
    }

    /// Gives back what growing lists have taken in advance.
    pub(super) fn shrink(&mut self) {
        let skills = self.skills.values_mut().map(|skill| &mut skill.places);
        let others = self.tags.values_mut().chain(self.words.values_mut());
        for places in skills.chain(others) {
            places.0.shrink_to_fit();
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.skills.is_empty()
            && self.tags.is_empty()
            && self.words.is_empty()
            && self.sorted.is_empty()
    }
}

/// Calls `found` with the words of an agent, some more than once.
fn each_word_of(summary: &SummaryV1, mut found: impl FnMut(&str)) {
    let named = summary.skills.iter().flat_map(|skill| {
        let tags = skill.tags.iter().map(|tag| &**tag);
        [&*skill.id, &*skill.name].into_iter().chain(tags)
    });
    let described = summary.skills.iter().map(|skill| &*skill.description);
    let texts = std::iter::once(&*summary.name)
        .chain(named)
        .chain(described);
    let mut buffer = String::new();
    for word in texts.flat_map(words_of).take(WORDS_MAX) {
        found(lowered(word, &mut buffer));
    }
}

fn words_of(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_alphanumeric());
    words.filter(|word| !word.is_empty())
}

/// Returns a word in lower case, cut where it is long. Hundreds of thousands of agents have
/// millions of words, so they share one buffer.
fn lowered<'a>(word: &str, buffer: &'a mut String) -> &'a str {
    buffer.clear();
    for c in word.chars() {
        if c.is_ascii() {
            buffer.push(c.to_ascii_lowercase());
        } else {
            buffer.extend(c.to_lowercase());
        }
        if buffer.len() >= WORD_BYTES_MAX {
            break;
        }
    }
    let mut len = buffer.len().min(WORD_BYTES_MAX);
    while !buffer.is_char_boundary(len) {
        len -= 1;
    }
    &buffer[..len]
}
