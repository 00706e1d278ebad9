use std::collections::HashMap;

use crate::units::{Grams, Unit};

/// Things by name.
#[derive(Default)]
pub struct Store {
    things: HashMap<String, Thing>,
    first: Option<Thing>,
}

struct Thing {
    weight: Grams,
}

impl Store {
    /// Makes an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    pub fn put(&mut self, name: &str) -> &mut Self {
        let thing = Thing::of(1);
        self.things.insert(name.to_owned(), thing);
        self
    }

    pub fn total(&self) -> u32 {
        let first = self.first.as_ref().unwrap();
        first.heavy().amount() + Unit::amount(&first.weight)
    }
}

impl Thing {
    fn of(grams: u32) -> Self {
        Self {
            weight: Grams(grams),
        }
    }

    fn heavy(&self) -> Grams {
        self.weight.twice()
    }
}
