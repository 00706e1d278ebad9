//! Guesses what comes next from what was there already: prompt lookup.
//!
//! Text repeats itself: an answer quotes its question, code names its variables again. [`Lookup`]
//! finds where the last ids occurred before, prompt included, and offers what followed there as a
//! draft. Each id costs the same small work, however long the text. The tables that find earlier
//! places have a bounded number of slots; where two places want one slot, the later one has it and
//! the earlier one is forgotten. A draft may be wrong, so nothing here needs to be complete.

/// Lengths of the endings that are looked for, the longest first: its places are the better
/// guesses. One id alone says too little.
const ENDING_LENS: [usize; 2] = [3, 2];
/// Longest match that is told from longer ones.
const MATCHED_MAX: usize = 16;
/// Most slots of a table, 4 bytes each. A text of half as many ids hardly loses a place; of a
/// longer one the older places go.
const SLOTS_MAX: usize = 1 << 16;

/// The ids of one choice, prompt included, and where their endings occurred.
#[derive(Debug, Clone)]
pub(crate) struct Lookup {
    ids: Vec<u32>,
    /// One for each of [`ENDING_LENS`].
    tables: [Table; ENDING_LENS.len()],
    found: Option<Found>,
}

/// An earlier place whose past is the text's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    /// Index of the id that came next there.
    next: usize,
    /// How many ids before it are those at the text's end, [`MATCHED_MAX`] at most.
    pub(crate) matched: usize,
}

/// The latest place of each ending of one length, as far as there are slots.
#[derive(Debug, Clone)]
struct Table {
    /// Indices behind endings. An index is never 0 there, which means an empty slot.
    slots: Vec<u32>,
}

impl Lookup {
    /// Returns the lookup for a text that begins with a prompt and grows by so many ids at most.
    pub(crate) fn new(prompt_ids: &[u32], growth_max: usize) -> Self {
        let len_max = prompt_ids.len().saturating_add(growth_max);
        let table = Table::for_text(len_max);
        let mut lookup = Self {
            ids: Vec::with_capacity(prompt_ids.len()),
            tables: [table.clone(), table],
            found: None,
        };
        for id in prompt_ids {
            lookup.push(*id);
        }
        lookup
    }

    /// Appends an id.
    pub(crate) fn push(&mut self, id: u32) {
        self.ids.push(id);
        self.found = None;
        for (table, len) in self.tables.iter_mut().zip(ENDING_LENS) {
            let Some(start) = self.ids.len().checked_sub(len) else {
                continue;
            };
            let next = table.replace(&self.ids[start..], self.ids.len());
            if self.found.is_none() {
                let matched = matched_before(&self.ids, next);
                // A slot is shared, so what it names may be another ending's place.
                self.found = (matched >= len).then_some(Found { next, matched });
            }
        }
    }

    /// Where the text's end occurred before, if it did.
    pub(crate) fn found(&self) -> Option<Found> {
        self.found
    }

    /// Returns what followed there. Where that reaches the text's end the guess is that all
    /// repeats from there on.
    pub(crate) fn draft(&self, found: Found, len: usize) -> impl Iterator<Item = u32> {
        self.ids[found.next..].iter().copied().cycle().take(len)
    }
}

impl Table {
    fn for_text(len_max: usize) -> Self {
        let slots = len_max.saturating_mul(2).min(SLOTS_MAX);
        Self {
            slots: vec![0; slots.next_power_of_two()],
        }
    }

    /// Notes the index behind an ending and returns what was noted last, or 0.
    fn replace(&mut self, ending: &[u32], next: usize) -> usize {
        // 2^64 divided by the golden ratio: neighbouring numbers come far apart.
        const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
        let hash = ending.iter().fold(0, |hash: u64, id| {
            (hash.rotate_left(32) ^ u64::from(*id)).wrapping_mul(FACTOR)
        });
        let slot = (hash >> 32) as usize & (self.slots.len() - 1);
        // An index beyond 32 bits would need a context that no memory holds; it is not noted.
        let next = u32::try_from(next).unwrap_or(0);
        std::mem::replace(&mut self.slots[slot], next) as usize
    }
}

/// Counts how many ids before `next` are those at the end.
fn matched_before(ids: &[u32], next: usize) -> usize {
    let before = ids[..next].iter().rev();
    let pairs = before.zip(ids.iter().rev()).take(MATCHED_MAX);
    pairs.take_while(|(left, right)| left == right).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is drafted after these ids.
    fn draft(ids: &[u32], len: usize) -> Vec<u32> {
        let lookup = Lookup::new(ids, 100);
        let found = lookup.found();
        found.map_or_else(Vec::new, |found| lookup.draft(found, len).collect())
    }

    #[test]
    fn what_followed_the_same_ending_is_drafted() {
        assert_eq!(draft(&[1, 2, 3, 4, 5, 6, 1, 2, 3], 2), [4, 5]);
        assert_eq!(draft(&[1, 2, 3, 4, 9, 2, 3], 1), [4]);
    }

    #[test]
    fn an_ending_that_is_new_has_no_draft() {
        assert!(draft(&[1, 2, 3, 4, 5], 4).is_empty());
        assert!(
            draft(&[1, 2, 3, 9, 3], 4).is_empty(),
            "one id says too little"
        );
        for ids in [&[][..], &[1], &[1, 1]] {
            assert!(draft(ids, 4).is_empty());
        }
    }

    #[test]
    fn the_longer_ending_counts_and_of_equals_the_later_place() {
        // After 1 2 3 comes 4; after 2 3, more recently, 7.
        assert_eq!(draft(&[1, 2, 3, 4, 2, 3, 7, 1, 2, 3], 1), [4]);
        assert_eq!(draft(&[5, 6, 1, 5, 6, 2, 9, 5, 6], 1), [2]);
    }

    #[test]
    fn a_repetition_is_drafted_on_and_on() {
        assert_eq!(draft(&[8, 1, 2, 1, 2, 1], 5), [2, 1, 2, 1, 2]);
        assert_eq!(draft(&[7, 7, 7, 7], 3), [7, 7, 7]);
    }

    #[test]
    fn the_length_of_a_match_is_told_up_to_a_bound() {
        let matched = |ids: &[u32]| Lookup::new(ids, 0).found().map(|found| found.matched);
        assert_eq!(matched(&[1, 2, 9, 1, 2]), Some(2));
        assert_eq!(matched(&[0, 1, 2, 3, 4, 8, 9, 1, 2, 3, 4]), Some(4));
        assert_eq!(matched(&[7; 100]), Some(MATCHED_MAX));
    }

    #[test]
    fn a_text_far_longer_than_the_tables_keeps_its_recent_places() {
        let mut lookup = Lookup::new(&[], usize::MAX);
        assert_eq!(lookup.tables[0].slots.len(), SLOTS_MAX);
        for id in 0..3 * SLOTS_MAX as u32 {
            lookup.push(id);
        }
        let recent = 3 * SLOTS_MAX as u32 - 50;
        for id in recent..recent + 3 {
            lookup.push(id);
        }
        let found = lookup.found().unwrap();
        assert!(lookup.draft(found, 2).eq([recent + 3, recent + 4]));
    }

    proptest! {
        #[test]
        fn a_found_place_is_earlier_and_its_past_is_the_end(
            ids in proptest::collection::vec(0_u32..4, 0..80),
            len in 0_usize..20,
        ) {
            let mut lookup = Lookup::new(&[], ids.len());
            for (index, id) in ids.iter().enumerate() {
                lookup.push(*id);
                let text = &ids[..=index];
                let Some(found) = lookup.found() else { continue };
                prop_assert!(found.next < text.len());
                prop_assert!((2..=MATCHED_MAX).contains(&found.matched));
                let past = &text[..found.next];
                let ending = &text[text.len() - found.matched..];
                prop_assert!(past.ends_with(ending));
                let draft: Vec<u32> = lookup.draft(found, len).collect();
                prop_assert_eq!(draft.len(), len);
                let followed = &text[found.next..];
                let common = len.min(followed.len());
                prop_assert_eq!(&draft[..common], &followed[..common]);
            }
        }
    }
}
