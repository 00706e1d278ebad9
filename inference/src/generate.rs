//! Turns logits into text.

mod stop;

pub use self::stop::{Released, StopMatcher};
