//! The node as a library: what `main` runs and tests drive.
//!
//! Reading order: [`commands`] are the subcommands, of which `run` makes a [`node`] from a
//! [`config`].

pub mod commands;
pub mod node;

pub mod args;
pub mod error;

pub mod accounts;
pub mod agents;
pub mod answers;
pub mod api;
pub mod backup;
pub mod billing;
pub mod calls;
pub mod code;
pub mod codegraph;
pub mod config;
pub mod data_dir;
pub mod documents;
pub mod events;
pub mod fetch;
pub mod files;
pub mod identity;
pub mod machine;
pub mod memory;
pub mod models;
pub mod server;
pub mod services;
pub mod signals;
pub(crate) mod store_file;
pub mod telemetry;
pub mod websearch;
pub mod workspaces;
