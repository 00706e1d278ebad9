//! The structure of code: what files define, call, import and refer to, and how that fits together.
//!
//! A file becomes a [`FileGraph`] by itself, with no look at others ([`mod@extract`]): that is what
//! is kept, so a change of one file costs one file. What names mean across files is decided when
//! all graphs of a repository are together ([`repository`]), from scratch and in memory: a file
//! that did not change may mean something else once another did, and so nothing has to follow.
//!
//! All of it is synchronous and without I/O. Sources come from strangers, so sizes, depths, times
//! and counts are bounded, and what a broken file still shows is taken.

pub mod archive;
pub mod extract;
pub mod indexer;
pub mod language;
pub mod limits;
pub mod model;
pub mod query;
pub mod repository;
mod resolve;
mod rules;
pub mod store;

pub use self::{
    extract::{SkipReason, extract},
    indexer::{Changes, IndexReport, SourceFile},
    language::Language,
    model::{FileGraph, Symbol, SymbolKind},
    query::{Confidence, Direction, Query, QueryRow, Relation},
    repository::Repository,
    store::{GraphStore, TestStore},
};
