//! The real binary as a process: exit codes, files that it leaves, signals, words.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop there"
)]

mod accounts;
mod cli;
mod keys;
mod lifecycle;
mod models;
mod support;
