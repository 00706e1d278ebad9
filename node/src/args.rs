//! The command line as typed.
//!
//! Flags whose feature is not in this build are read, so that scripts written for later versions
//! get a clear refusal instead of "unknown argument"; [`RunArgs::refuse_unavailable`] says it.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use figment::value::Value;

use crate::{
    config::{Backend, LogFormat, Speculation, load::Overrides},
    documents::Format,
    error::NodeError,
};

/// A node for local agents: models, memory, files, events and calls between them, later a
/// federation of peers.
#[derive(Debug, Parser)]
#[command(name = "aither-node", version, propagate_version = true)]
pub struct Cli {
    /// Flags of every subcommand.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every subcommand.
#[derive(Debug, Clone, Args)]
pub struct GlobalArgs {
    /// Where keys, models and state live [default: $AITHER_DATA_DIR, else $XDG_DATA_HOME/aither,
    /// else ~/.local/share/aither]
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Configuration file (TOML); AITHER_* variables and flags go before it
    #[arg(long, global = true, value_name = "FILE", env = "AITHER_CONFIG")]
    pub config: Option<PathBuf>,
    /// How log lines look [default: pretty]
    #[arg(long, global = true, value_name = "FORMAT", value_enum)]
    pub log: Option<LogFormat>,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the node until it is told to stop
    Run(Box<RunArgs>),
    /// Show, export or import the node's identity, an ed25519 key
    #[command(subcommand)]
    Key(KeyCommand),
    /// List, fetch, import and remove models
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Make invites into a federation (not in this build)
    #[command(subcommand)]
    Invite(InviteCommand),
    /// Write a backup of keys, accounts, agents, memory, events, ledger and prices, not of files; a
    /// running node goes on
    Backup {
        /// Where to
        file: PathBuf,
    },
    /// Bring a backup back; the node must not be running, and what is there is kept aside
    Restore {
        /// Where from
        file: PathBuf,
    },
    /// Verify the data directory: keys, every store, the whole ledger, checksums of artifacts and
    /// models
    Check,
    /// Look for what is wrong with the set-up (not in this build)
    Doctor,
    /// Read a document from standard input: the node starts this by itself
    #[command(hide = true)]
    ExtractText {
        /// Which format it has
        #[arg(long)]
        format: Format,
    },
}

/// Flags of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Address of the HTTP API; port 0 takes any free one [default: 127.0.0.1:8200]
    #[arg(long, value_name = "ADDR:PORT")]
    pub http: Option<SocketAddr>,
    /// What to serve: a stored model, a GGUF file, or a file under a name; may be repeated
    /// [default: every stored model]
    #[arg(long, value_name = "NAME=FILE|FILE|NAME")]
    pub model: Vec<String>,
    /// Where models run
    #[arg(long, value_name = "BACKEND", value_enum)]
    pub backend: Option<Backend>,
    /// Compute threads; 0 takes one per core
    #[arg(long, value_name = "N")]
    pub threads: Option<u16>,
    /// Whether to draft what comes next from what was said before; the text stays the same
    #[arg(long, value_name = "WHEN", value_enum)]
    pub speculation: Option<Speculation>,
    /// Stay alone (this build always does)
    #[arg(long)]
    pub no_federation: bool,
    /// Print the resolved configuration as TOML and exit
    #[arg(long)]
    pub print_config: bool,
    /// Address for peers (not in this build)
    #[arg(long, value_name = "MULTIADDR")]
    pub listen: Vec<String>,
    /// First peer to ask (not in this build)
    #[arg(long, value_name = "MULTIADDR")]
    pub bootstrap: Vec<String>,
    /// Invite to accept (not in this build)
    #[arg(long, value_name = "INVITE")]
    pub join: Option<String>,
    /// Federation to take part in (not in this build)
    #[arg(long, value_name = "NAME")]
    pub federation: Vec<String>,
    /// Model for embeddings: NAME of a stored model, FILE, or NAME=FILE [default: a stored one]
    #[arg(long, value_name = "FILE|NAME")]
    pub embedding_model: Option<String>,
}

/// `key …`
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Print the peer id and the public key
    Show,
    /// Write the private key as PKCS#8 PEM, to standard output or a new file of mode 0600
    Export {
        /// Where to [default: standard output]
        file: Option<PathBuf>,
        /// Replace the file if it is there
        #[arg(long)]
        force: bool,
    },
    /// Take over a private key in PKCS#8 PEM form; the node must not be running
    Import {
        /// Where from
        file: PathBuf,
        /// Replace the present identity, which is then lost unless it was exported
        #[arg(long)]
        force: bool,
    },
}

/// `models …`
#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// List the models that this node has
    List,
    /// Fetch a model; interrupted, the same command goes on where it stopped
    Pull {
        /// A catalogue name (smollm2:135m), https://HOST/FILE.gguf (with
        /// #sha256=HEX to check it), hf:OWNER/REPOSITORY/FILE.gguf (with @REVISION for another
        /// than main), or NAME= before one of the latter two
        #[arg(value_name = "NAME")]
        source: String,
    },
    /// Copy a GGUF file of this machine into the store
    Import {
        /// The file
        file: PathBuf,
        /// Name to serve it under [default: the file's]
        #[arg(long)]
        name: Option<String>,
    },
    /// Remove a model
    Rm {
        /// Its name
        name: String,
    },
}

/// `invite …`
#[derive(Debug, Subcommand)]
pub enum InviteCommand {
    /// Make an invite
    Create {
        /// How long it can be used
        #[arg(long, value_name = "DURATION")]
        expires: Option<String>,
        /// How often it can be used
        #[arg(long, value_name = "N")]
        uses: Option<u32>,
    },
}

impl GlobalArgs {
    /// Returns what these flags say about the configuration.
    pub fn overrides(&self) -> Overrides {
        let mut overrides = Overrides::default();
        let data_dir = self.data_dir.as_ref();
        overrides.set(
            "data_dir",
            data_dir.map(|path| path.to_string_lossy().into_owned()),
        );
        overrides.set("log.format", self.log.map(value_name));
        overrides
    }
}

impl RunArgs {
    /// Adds what these flags say about the configuration.
    pub fn override_config(&self, overrides: &mut Overrides) {
        overrides.set("http.bind", self.http.map(|address| address.to_string()));
        overrides.set("inference.backend", self.backend.map(value_name));
        overrides.set("inference.threads", self.threads.map(u64::from));
        overrides.set("inference.speculation", self.speculation.map(value_name));
        let models = (!self.model.is_empty()).then(|| {
            let models: Vec<Value> = self.model.iter().cloned().map(Value::from).collect();
            models
        });
        overrides.set("models.serve", models);
        overrides.set("models.embedding", self.embedding_model.clone());
    }

    /// Refuses flags whose feature is not in this build.
    ///
    /// # Errors
    /// [`NodeError::NotInThisBuild`] for the first such flag.
    pub fn refuse_unavailable(&self) -> Result<(), NodeError> {
        let federation = "federation is not in this build and comes later; leave the flag out";
        let rows = [
            ("--listen", !self.listen.is_empty(), federation),
            ("--bootstrap", !self.bootstrap.is_empty(), federation),
            ("--join", self.join.is_some(), federation),
            ("--federation", !self.federation.is_empty(), federation),
        ];
        for (what, given, message) in rows {
            if given {
                return Err(NodeError::NotInThisBuild {
                    what: what.to_owned(),
                    message: message.to_owned(),
                });
            }
        }
        Ok(())
    }
}

/// Writes a choice as the configuration file does.
fn value_name(choice: impl clap::ValueEnum) -> String {
    choice
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_anywhere() {
        for line in [
            ["aither-node", "--data-dir", "/d", "models", "list"],
            ["aither-node", "models", "--data-dir", "/d", "list"],
            ["aither-node", "models", "list", "--data-dir", "/d"],
        ] {
            let cli = Cli::try_parse_from(line).unwrap();
            assert_eq!(cli.global.data_dir, Some(PathBuf::from("/d")));
        }
    }
}
