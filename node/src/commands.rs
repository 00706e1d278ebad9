//! The subcommands: each reads its arguments, does its work and prints its result.
//!
//! Results go to standard output, progress and errors to standard error. What needs the data
//! directory takes its lock; while a node has it, `models` asks that node instead.

pub mod backup;
pub mod check;
pub mod extract_text;
pub mod key;
pub mod models;
pub mod progress;
pub mod remote;
pub mod run;

use std::io::{self, Write};

use tokio::runtime::{Builder, Runtime};

use crate::{
    args::{Cli, Command, GlobalArgs},
    config::{Config, load},
    error::NodeError,
    telemetry,
};

/// Runs the command that was typed.
///
/// # Errors
/// Whatever ended it before its end; [`NodeError::exit_code`] says how to exit.
pub fn execute(cli: Cli) -> Result<(), NodeError> {
    let later = |what: &str| {
        Err(NodeError::NotInThisBuild {
            what: what.to_owned(),
            message: "this command is not in this build and comes later".to_owned(),
        })
    };
    match cli.command {
        Command::Run(args) => run::run(&cli.global, &args),
        Command::Key(command) => key::execute(&quiet_config(&cli.global)?, &command),
        Command::Models(command) => models::execute(&quiet_config(&cli.global)?, &command),
        Command::Check => check::check(&quiet_config(&cli.global)?),
        Command::Invite(_) => later("invite"),
        Command::Backup { file } => backup::back_up(&quiet_config(&cli.global)?, &file),
        Command::Restore { file } => backup::restore(&quiet_config(&cli.global)?, &file),
        Command::Doctor => later("doctor"),
        Command::ExtractText { format } => extract_text::extract_text(format),
    }
}

/// Reads the configuration for a command that logs nothing but warnings.
fn quiet_config(global: &GlobalArgs) -> Result<Config, NodeError> {
    let config = load::load(global.config.as_deref(), &global.overrides())?;
    telemetry::start_quiet(config.log.format)?;
    Ok(config)
}

/// Makes the runtime that drives asynchronous work.
fn runtime() -> Result<Runtime, NodeError> {
    Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| NodeError::System {
            what: "start the runtime",
            source,
        })
}

/// Writes a command's result to standard output.
fn print(text: &str) -> Result<(), NodeError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // The reader has seen enough, as in `… | head -1`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(source) => Err(NodeError::System {
            what: "write to standard output",
            source,
        }),
        Ok(()) => Ok(()),
    }
}
