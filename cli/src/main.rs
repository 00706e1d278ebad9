//! `aither-cli`: a thin client of a node's HTTP API.
//!
//! It holds no logic of the node: `args` says what was typed, `client` talks HTTP, each command
//! under `commands` turns one answer into text through `render`. Answers go to standard output,
//! everything else to standard error, so that pipes carry answers only.

mod agent_dir;
mod args;
mod client;
mod commands;
mod error;
mod render;

use std::process::ExitCode;

use clap::Parser;

use crate::{args::Args, error::Error};

fn main() -> ExitCode {
    let args = Args::parse();
    let Err(error) = run(args) else {
        return ExitCode::SUCCESS;
    };
    // The reader of a pipe has gone (`aither-cli … | head`): nobody is left to tell.
    if error.is_closed_pipe() {
        return ExitCode::SUCCESS;
    }
    // One line, whatever an operating system or a server put into the words.
    render::remark(&format!("error: {error}").replace(['\n', '\r'], " "));
    ExitCode::from(error.exit_code())
}

fn run(args: Args) -> Result<(), Error> {
    // Only the first caller can install a provider, and this is the only one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Terminal)?;
    let done = runtime.block_on(commands::run(args));
    // A thread may still wait for a line of the terminal; it must not keep the process.
    runtime.shutdown_background();
    done
}
