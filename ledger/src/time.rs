//! Time, as the caller tells it.

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970. The ledger has no clock; told an earlier time than before, it goes on
/// with the later one.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Time(pub u64);
