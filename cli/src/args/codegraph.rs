//! The command line of `memory codegraph`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};

/// What to do with the code graph.
#[derive(Debug, Subcommand)]
pub(crate) enum CodegraphCommand {
    /// Take the source files of a folder into the code graph; what has not changed is left alone.
    Index(IndexArgs),
    /// Ask where something is defined, what it calls, and what calls it.
    Query(QueryArgs),
}

/// Arguments of `memory codegraph index`.
#[derive(Debug, ClapArgs)]
pub(crate) struct IndexArgs {
    /// The folder. In a git checkout the files that git knows are taken.
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// The repository's name (default: the folder's).
    #[arg(long, value_name = "NAME")]
    pub(crate) repo: Option<String>,
    /// Keep files that are not in the folder any more.
    #[arg(long)]
    pub(crate) keep: bool,
}

/// Arguments of `memory codegraph query`.
#[derive(Debug, ClapArgs)]
pub(crate) struct QueryArgs {
    /// A name, qualified as far as is known, or a file's path.
    #[arg(value_name = "SYMBOL", required = true)]
    pub(crate) symbol: Vec<String>,
    /// Take SYMBOL as words that describe what is looked for.
    #[arg(long)]
    pub(crate) words: bool,
    /// The repository (default: all of them).
    #[arg(long, value_name = "NAME")]
    pub(crate) repo: Option<String>,
    /// What to follow (default: tell about the definition itself).
    #[arg(long, value_name = "RELATION")]
    pub(crate) relation: Option<Relation>,
    /// Which way (default: both).
    #[arg(long, value_name = "WAY", requires = "relation")]
    pub(crate) direction: Option<Direction>,
    /// How many steps of the relation: 1 to 8.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=8))]
    pub(crate) depth: Option<u32>,
    /// Most results: 1 to 500 (default: the node's).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=500))]
    pub(crate) limit: Option<u32>,
}

/// What one definition has to do with another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Relation {
    /// It holds the definition of the other.
    Defines,
    /// It calls the other.
    Calls,
    /// It is called by the other.
    Callers,
    /// Its file imports the other.
    Imports,
    /// It names the other.
    References,
}

/// Which way a relation is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Direction {
    /// What it calls.
    Out,
    /// What calls it.
    In,
}
