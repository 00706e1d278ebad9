//! Arguments of `call`, `test`, `logs` and `marketplace`.

use std::path::PathBuf;

use aither_protocol::{Amount, agent_card::AgentUrl};
use clap::{Args as ClapArgs, Subcommand, ValueEnum};

use super::payment;

/// Arguments of `call`.
#[derive(Debug, ClapArgs)]
pub(crate) struct CallArgs {
    /// The agent's name, or the id of a skill that somebody is to have.
    #[arg(value_name = "NAME|SKILL")]
    pub(crate) whom: String,
    /// What to say; several words need no quotes. Without it, it is read from a pipe.
    #[arg(value_name = "INPUT")]
    pub(crate) input: Vec<String>,
    /// Print the answer as it comes.
    #[arg(long)]
    pub(crate) stream: bool,
    /// Call this endpoint of the agent, with INPUT as its JSON.
    #[arg(long, value_name = "PATH", conflicts_with = "stream")]
    pub(crate) endpoint: Option<String>,
    /// The most that the call may cost.
    #[arg(long, value_name = "N", value_parser = payment)]
    pub(crate) max_cost: Option<Amount>,
    /// Longest wait for the answer, in seconds.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) timeout: Option<u32>,
}

/// Arguments of `test`.
#[derive(Debug, ClapArgs)]
pub(crate) struct TestArgs {
    /// The agent's folder, where its aither-agent.yaml lies.
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// Probe the agent that runs there, and start none.
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<AgentUrl>,
    /// Longest wait until it is healthy, and for each answer, in seconds.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 60,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub(crate) timeout: u32,
}

/// Arguments of `logs`.
#[derive(Debug, ClapArgs)]
pub(crate) struct LogsArgs {
    /// The agent's name.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Go on with what happens from now on.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// How many of the last lines.
    #[arg(
        long,
        short = 'n',
        value_name = "N",
        default_value_t = 50,
        value_parser = clap::value_parser!(u32).range(1..=500)
    )]
    pub(crate) lines: u32,
}

/// Arguments of `marketplace`.
#[derive(Debug, ClapArgs)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct MarketplaceArgs {
    #[command(subcommand)]
    pub(crate) command: Option<MarketplaceCommand>,
    /// Only agents that these words are said of.
    #[arg(long, short, value_name = "WORDS")]
    pub(crate) query: Option<String>,
    /// Only agents of this tier.
    #[arg(long, value_name = "TIER")]
    pub(crate) category: Option<String>,
    /// What comes first.
    #[arg(long, value_name = "ORDER", default_value = "reputation")]
    pub(crate) sort: MarketplaceOrder,
}

/// What to do at the marketplace.
#[derive(Debug, Subcommand)]
pub(crate) enum MarketplaceCommand {
    /// Offer an agent of yours, or change its price.
    List {
        /// The agent's name.
        #[arg(value_name = "NAME")]
        name: String,
        /// Tokens for a call; 80 % of them are yours.
        #[arg(long, value_name = "N", value_parser = payment)]
        price: Amount,
        /// What it does for whoever pays (default: what its card says).
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
    },
    /// Take an agent of yours back; calls cost again what its card says.
    Unlist {
        /// The agent's name.
        #[arg(value_name = "NAME")]
        name: String,
    },
}

/// Orders of the marketplace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MarketplaceOrder {
    /// The most reliable.
    Reputation,
    /// The cheapest.
    Price,
    /// The most called.
    Calls,
    /// The fastest.
    Latency,
    /// The last listed.
    Newest,
    /// By name.
    Name,
}

impl MarketplaceOrder {
    /// Returns the order's word.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Reputation => "reputation",
            Self::Price => "price",
            Self::Calls => "calls",
            Self::Latency => "latency",
            Self::Newest => "newest",
            Self::Name => "name",
        }
    }
}
