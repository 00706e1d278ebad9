//! The node as a library: what `main` runs and tests drive.

pub mod config;
pub mod files;
pub mod identity;
pub mod models;
