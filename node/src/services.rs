//! What the node does, without saying how it is asked.

pub mod readiness;
