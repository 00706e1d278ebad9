//! The command line of `memory`.

use std::num::NonZeroU64;

use aither_protocol::MemoryTier;
use clap::{Args as ClapArgs, Subcommand, ValueEnum};

/// What to do with memory.
#[derive(Debug, Subcommand)]
pub(crate) enum MemoryCommand {
    /// Print the value of an entry.
    Read(ReadArgs),
    /// Write an entry.
    Write(WriteArgs),
    /// Find entries by meaning and by words.
    Search(SearchArgs),
    /// List entries, without their values.
    Ls(LsArgs),
    /// Delete an entry.
    Rm(RmArgs),
    /// Take code into memory and ask about its structure.
    #[command(subcommand)]
    Codegraph(super::codegraph::CodegraphCommand),
}

/// Where entries are.
#[derive(Debug, ClapArgs)]
pub(crate) struct PlaceArgs {
    /// The part of memory: working, active, spirit, codegraph or knowledge.
    #[arg(value_name = "TIER")]
    pub(crate) tier: MemoryTier,
    /// The task, for working memory (default: `default`).
    #[arg(long, value_name = "ID")]
    pub(crate) task: Option<String>,
    /// The session, for active memory (default: `default`).
    #[arg(long, value_name = "ID")]
    pub(crate) session: Option<String>,
}

/// Arguments of `memory read`.
#[derive(Debug, ClapArgs)]
pub(crate) struct ReadArgs {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// The entry's key.
    #[arg(value_name = "KEY")]
    pub(crate) key: String,
}

/// Arguments of `memory write`.
#[derive(Debug, ClapArgs)]
pub(crate) struct WriteArgs {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// The entry's key.
    #[arg(value_name = "KEY")]
    pub(crate) key: String,
    /// The value: JSON, or else a text. Without it, standard input is read.
    #[arg(value_name = "VALUE", allow_hyphen_values = true)]
    pub(crate) value: Option<String>,
    /// When it ends, as 30m or 7d (default: never).
    #[arg(long, value_name = "TIME")]
    pub(crate) ttl: Option<String>,
    /// A word by which it is found; may be repeated.
    #[arg(long = "tag", value_name = "WORD")]
    pub(crate) tags: Vec<String>,
    /// The version that the entry must have now; 0 where there must be none.
    #[arg(long, value_name = "N")]
    pub(crate) if_version: Option<u64>,
}

/// Arguments of `memory ls`.
#[derive(Debug, ClapArgs)]
pub(crate) struct LsArgs {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// Only keys that begin with this.
    #[arg(value_name = "PREFIX")]
    pub(crate) prefix: Option<String>,
}

/// Arguments of `memory rm`.
#[derive(Debug, ClapArgs)]
pub(crate) struct RmArgs {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// The entry's key.
    #[arg(value_name = "KEY")]
    pub(crate) key: String,
    /// The version that the entry must have.
    #[arg(long, value_name = "N")]
    pub(crate) if_version: Option<NonZeroU64>,
}

/// Arguments of `memory search`.
#[derive(Debug, ClapArgs)]
pub(crate) struct SearchArgs {
    /// What to look for; several words need no quotes.
    #[arg(value_name = "QUERY", required = true)]
    pub(crate) query: Vec<String>,
    /// The parts of memory to look in (default: all that may be read).
    #[arg(long, value_name = "TIER,…", value_delimiter = ',')]
    pub(crate) tiers: Vec<MemoryTier>,
    /// Most entries (default: the node's).
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u32>,
    /// How to compare (default: hybrid).
    #[arg(long, value_name = "MODE")]
    pub(crate) mode: Option<SearchMode>,
}

/// How a search compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SearchMode {
    /// By meaning and by words.
    Hybrid,
    /// By meaning.
    Semantic,
    /// By words.
    Keyword,
}
