//! The command line as typed.
//!
//! Each flag has its environment variable here and its default where it is used; `--help` is made
//! from these comments. Bad usage ends in clap with exit code 2.

pub(crate) mod calls;
pub(crate) mod codegraph;
pub(crate) mod memory;

use std::path::PathBuf;

use aither_protocol::{
    Amount,
    agent_card::{AgentName, AgentUrl},
};
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use crate::client::Mode;

/// Where a node listens unless it was told otherwise.
pub(crate) const DEFAULT_SERVER: &str = "http://localhost:8200";

/// Longest key that a node takes.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

const AFTER_HELP: &str = "\
Environment:
  AITHEROS_SERVER   the node's address (default http://localhost:8200)
  AITHEROS_API_KEY  the key to send; without it the admin key of a node running on this
                    machine, where this user may read it
  AITHER_DATA_DIR   the local node's data directory (default ~/.local/share/aither)

A first agent:
  aither-cli init my-agent        then start it as its README says
  aither-cli test my-agent        probes every endpoint of it
  aither-cli agents               shows it LIVE
  aither-cli call my-agent hello  calls it

Exit codes: 0 done, 1 refused or failed, 2 bad usage, 5 no server.";

/// Talks to an AitherOS node: its agents, its models, and what they cost.
#[derive(Debug, Parser)]
#[command(name = "aither-cli", version, after_help = AFTER_HELP, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    /// Print the answer as one line of JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which node, and as whom.
#[derive(Debug, ClapArgs)]
pub(crate) struct ConnectionArgs {
    /// The node's address.
    #[arg(
        long,
        global = true,
        env = "AITHEROS_SERVER",
        value_name = "URL",
        default_value = DEFAULT_SERVER,
        hide_env = true
    )]
    pub(crate) server: String,
    /// Data directory of the local node, where its admin key lies.
    #[arg(
        long,
        global = true,
        env = "AITHER_DATA_DIR",
        value_name = "DIR",
        hide_env = true
    )]
    pub(crate) data_dir: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Chat with a model, in the terminal or for one message.
    ///
    /// With a MESSAGE, prints the answer as it comes. Without one, reads the message from
    /// standard input when that is a pipe or a file, and holds a conversation when it is a
    /// terminal.
    Chat(ChatArgs),
    /// List the models that the node serves.
    Models,
    /// Make a new agent, which runs as it stands.
    ///
    /// Writes a small web service, its aither-agent.yaml and a README into DIR, which must be new
    /// or empty. When it is started, it comes aboard the node by itself.
    Init(InitArgs),
    /// Check an agent's aither-agent.yaml, and that the files it names are there.
    ///
    /// Prints every error as aither-agent.yaml:LINE:COLUMN: FIELD: MESSAGE. Needs no node.
    Validate(AgentDirArgs),
    /// Take an agent aboard the node; its key and endpoints are saved in DIR/.aither/bundle.json.
    ///
    /// Again for an agent that is aboard, its card is brought up to date and it gets a fresh key.
    /// Agents made with `init` do this by themselves at each start.
    Onboard(OnboardArgs),
    /// List the agents of the node, with what they can do and cost.
    Agents(AgentsArgs),
    /// Call an agent by its name, or whoever has a skill.
    ///
    /// Prints the answer; what it cost goes to standard error.
    Call(calls::CallArgs),
    /// Start an agent here and probe every endpoint that its file declares.
    ///
    /// It runs as it would in operation, on a free port of this machine, until all is probed.
    Test(calls::TestArgs),
    /// Show what an agent did and what became of its calls.
    Logs(calls::LogsArgs),
    /// Show the agents that are offered, with their prices, or offer one.
    Marketplace(calls::MarketplaceArgs),
    /// Read and write what is remembered: the caller's own memory, and what all share.
    ///
    /// With an agent's key in AITHEROS_API_KEY it is that agent's memory.
    #[command(subcommand)]
    Memory(memory::MemoryCommand),
    /// Show what there is to spend.
    Balance,
    /// Show what was spent, by model, agent and day.
    Usage(UsageArgs),
    /// Show what came in and what went out, the newest first.
    Statement(StatementArgs),
    /// Add tokens to an account, as the operator.
    ///
    /// Should the connection break, the payment is tried again, and paid once.
    #[command(name = "topup")]
    TopUp(TopUpArgs),
}

/// Arguments of `init`.
#[derive(Debug, ClapArgs)]
pub(crate) struct InitArgs {
    /// The agent's folder; its last part becomes the agent's name.
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// What the agent is written in: FastAPI for Python, Express for Node.js.
    #[arg(long, value_name = "LANGUAGE", default_value = "python3.12")]
    pub(crate) language: TemplateLanguage,
    /// The agent's name, where the folder's does not suit.
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<AgentName>,
}

/// Languages that `init` writes agents in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TemplateLanguage {
    /// Python with FastAPI.
    #[value(name = "python3.12")]
    Python312,
    /// Node.js with Express.
    #[value(name = "node22")]
    Node22,
}

/// Arguments of a command that needs an agent's folder only.
#[derive(Debug, ClapArgs)]
pub(crate) struct AgentDirArgs {
    /// The agent's folder, where its aither-agent.yaml lies.
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
}

/// Arguments of `onboard`.
#[derive(Debug, ClapArgs)]
pub(crate) struct OnboardArgs {
    #[command(flatten)]
    pub(crate) agent: AgentDirArgs,
    /// Who runs the agent.
    #[arg(long, value_name = "MODE", default_value = "hybrid")]
    pub(crate) mode: Mode,
    /// Where the agent answers, so that others can call it (default: what its file says).
    #[arg(long, value_name = "URL")]
    pub(crate) agent_url: Option<AgentUrl>,
}

/// Arguments of `agents`.
#[derive(Debug, ClapArgs)]
pub(crate) struct AgentsArgs {
    /// Only agents that have this skill.
    #[arg(long, value_name = "ID")]
    pub(crate) skill: Option<String>,
    /// Agents of other nodes of the federation, too.
    #[arg(long)]
    pub(crate) all_nodes: bool,
}

/// Arguments of `usage`.
#[derive(Debug, ClapArgs)]
pub(crate) struct UsageArgs {
    /// How far back, as 30d or 24h.
    #[arg(long, value_name = "TIME", default_value = "30d")]
    pub(crate) period: String,
}

/// Arguments of `statement`.
#[derive(Debug, ClapArgs)]
pub(crate) struct StatementArgs {
    /// How many of the last entries.
    #[arg(
        long,
        short = 'n',
        value_name = "N",
        default_value_t = 20,
        value_parser = clap::value_parser!(u32).range(1..=500)
    )]
    pub(crate) lines: u32,
    /// Also show what was held and given back, which moves nothing.
    #[arg(long)]
    pub(crate) all: bool,
}

/// Arguments of `topup`.
#[derive(Debug, ClapArgs)]
pub(crate) struct TopUpArgs {
    /// How many tokens, with up to six decimals.
    #[arg(value_name = "N", value_parser = payment, allow_negative_numbers = true)]
    pub(crate) tokens: Amount,
    /// The account's id; `operator` is the node's own.
    #[arg(long, value_name = "ID", default_value = "operator")]
    pub(crate) account: String,
    /// The key of an earlier try that may have paid; with it the same payment is made once.
    #[arg(long, value_name = "KEY", value_parser = idempotency_key)]
    pub(crate) idempotency_key: Option<String>,
}

fn payment(text: &str) -> Result<Amount, String> {
    match text.parse::<Amount>() {
        Ok(amount) if amount.is_zero() => Err("must be more than 0".to_owned()),
        Ok(amount) => Ok(amount),
        Err(error) => Err(error.to_string()),
    }
}

fn idempotency_key(text: &str) -> Result<String, String> {
    let is_word = text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_word && (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "must be one word of at most {IDEMPOTENCY_KEY_BYTES_MAX} characters"
        ))
    }
}

/// Arguments of `chat`.
#[derive(Debug, Default, ClapArgs)]
pub(crate) struct ChatArgs {
    /// The model to ask (default: the node's own default).
    #[arg(long, short, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// Instructions that stand before the conversation.
    #[arg(long, short, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// The most tokens that one answer may have (default: the node's, 256).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_tokens: Option<u32>,
    /// How freely to choose among likely words: 0 always takes the likeliest.
    #[arg(long, value_name = "T")]
    pub(crate) temperature: Option<f32>,
    /// The same seed and message give the same answer.
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// What to say; several words need no quotes.
    #[arg(value_name = "MESSAGE")]
    pub(crate) message: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_sound() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_before_or_after_the_command() {
        for line in [
            ["aither-cli", "--json", "--server", "http://h:1", "models"],
            ["aither-cli", "models", "--server", "http://h:1", "--json"],
        ] {
            let args = Args::try_parse_from(line).unwrap();
            assert!(args.json);
            assert_eq!(args.connection.server, "http://h:1");
        }
    }

    #[test]
    fn zero_max_tokens_is_bad_usage() {
        let refused = Args::try_parse_from(["aither-cli", "chat", "--max-tokens", "0", "hi"]);
        assert_eq!(refused.unwrap_err().exit_code(), 2);
    }

    #[test]
    fn amounts_that_are_no_payment_are_bad_usage() {
        for amount in ["0", "-5", "1.0000001", "many", "9007199255"] {
            let refused = Args::try_parse_from(["aither-cli", "topup", amount]);
            assert_eq!(refused.unwrap_err().exit_code(), 2, "{amount}");
        }
        let args = Args::try_parse_from(["aither-cli", "topup", "0.5"]).unwrap();
        let Command::TopUp(top_up) = args.command else {
            panic!("{:?}", args.command);
        };
        assert_eq!(top_up.tokens.to_string(), "0.5");
        assert_eq!(top_up.account, "operator");
    }
}
