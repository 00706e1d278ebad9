//! The program: reads the command line, runs one command, turns its error into a line and a code.

use std::{io::Write, process::ExitCode};

use aither_node::{args::Cli, commands};
use clap::{Parser, error::ErrorKind};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match commands::execute(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(error.exit_code())
        }
    }
}

/// Help goes out as it is; what is wrong with the command line becomes one line.
fn usage(error: &clap::Error) -> ExitCode {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    ) {
        // A reader that closes the pipe early has seen enough.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return ExitCode::from(2);
    }
    let text = error.to_string();
    let said = |line: &&str| !line.starts_with("Usage:") && !line.starts_with("For more");
    let lines = text.lines().take_while(said);
    let line: Vec<_> = lines
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let line = line.join("; ");
    let words = line.strip_prefix("error: ").unwrap_or(&line);
    complain(&format!("{words}; --help lists what there is"));
    ExitCode::from(2)
}

fn complain(words: &str) {
    // One line, whatever an operating system or a server put into the words.
    let words = words.replace(['\n', '\r'], " ");
    // Without standard error there is nobody left to tell.
    let _ = writeln!(std::io::stderr(), "error: {words}");
}
