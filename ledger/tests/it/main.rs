//! The ledger through its public surface, on real files and on disks that fail.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

mod concurrent;
mod crash;
mod disk;
mod model;
mod properties;
mod script;
mod store;
mod transfers;
