//! A shop, small enough to be read at once.

mod store;
pub mod units;

pub use store::Store;

use units::{Grams, parse as parse_units};

/// How much one customer may carry.
pub const LOAD_MAX: u32 = 20;

macro_rules! checked {
    ($value:expr) => {
        guard($value)
    };
}

/// Weighs what is in a store.
pub fn weigh(store: &Store) -> Option<Grams> {
    let total = store.total();
    checked!(total);
    report(format!("{}", describe(total)));
    parse_units("g")
}

fn guard(value: u32) {
    assert!(value <= LOAD_MAX);
}

fn report(text: String) {
    println!("{text}");
}

fn describe(value: u32) -> String {
    fn inner(value: u32) -> String {
        value.to_string()
    }
    inner(value)
}

macro_rules! only_here {
    ($($item:item)*) => { $($item)* };
}

only_here! {
    /// Stands in a macro's braces.
    pub struct Scale {
        store: Store,
    }

    impl Scale {
        pub fn read(&self) -> u32 {
            self.store.total()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_weighs_nothing() {
        let (store, scale) = pair();
        assert_eq!(scale.read(), 0);
        assert!(weigh(&store).is_none());
    }

    fn pair() -> (Store, Scale) {
        unimplemented!()
    }
}
