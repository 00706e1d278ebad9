//! The command line as typed.
//!
//! Each flag has its environment variable here and its default where it is used; `--help` is made
//! from these comments. Bad usage ends in clap with exit code 2.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};

/// Where a node listens unless it was told otherwise.
pub(crate) const DEFAULT_SERVER: &str = "http://localhost:8200";

const AFTER_HELP: &str = "\
Environment:
  AITHEROS_SERVER   the node's address (default http://localhost:8200)
  AITHEROS_API_KEY  the key to send; without it the admin key of a node running on this
                    machine, where this user may read it
  AITHER_DATA_DIR   the local node's data directory (default ~/.local/share/aither)

Exit codes: 0 done, 1 refused or failed, 2 bad usage, 5 no server.";

/// Talks to an AitherOS node: chat with its models, list them.
#[derive(Debug, Parser)]
#[command(name = "aither-cli", version, after_help = AFTER_HELP, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    /// Print the node's answer as one line of JSON.
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
}
