//! The memory of agents, as synchronous code: what is kept, and how it is found again.
//!
//! [`index`] finds entries of one scope by their words and by their meaning. [`ids`] has the
//! numbers by which its parts speak of scopes and of what was written.

pub mod ids;
pub mod index;
