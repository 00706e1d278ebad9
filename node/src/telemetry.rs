//! Logging, to standard error.
//!
//! The filter is `AITHER_LOG`, else `RUST_LOG`, else the configuration's. Commands other than
//! `run` stay silent but for warnings. Keys and prompts are never logged: no type that holds one
//! can be printed.

use std::{
    env,
    io::{self, IsTerminal, Write},
};

use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat, load::ConfigError};

/// Variables that hold a filter, the first one set counts.
const FILTER_VARIABLES: [&str; 2] = ["AITHER_LOG", "RUST_LOG"];

/// Starts logging for a command that is not the node itself.
///
/// # Errors
/// The filter in the environment is malformed.
pub fn start_quiet(format: LogFormat) -> Result<(), ConfigError> {
    start(&LogConfig {
        format,
        filter: "warn".to_owned(),
    })
}

/// Starts logging; a second call changes nothing.
///
/// # Errors
/// The filter is malformed.
pub fn start(config: &LogConfig) -> Result<(), ConfigError> {
    let variable = FILTER_VARIABLES.into_iter().find_map(|name| {
        let value = env::var(name).ok().filter(|value| !value.is_empty())?;
        Some((name, value))
    });
    let (origin, filter) = variable.unwrap_or(("log.filter", config.filter.clone()));
    let filter = filter
        .parse::<EnvFilter>()
        .map_err(|error| ConfigError::Invalid {
            message: format!("{origin} {filter:?} is no log filter: {error}"),
        })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| IfPossible(io::stderr()));
    // A test that starts two nodes in one process keeps the first one's logging.
    let _ = match config.format {
        LogFormat::Pretty => builder
            .with_ansi(io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none())
            .try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}

/// Standard error, or nothing once that is gone: a full disk or a reader that went away must not
/// end the node.
struct IfPossible<W>(W);

impl<W: Write> Write for IfPossible<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // Nobody is left to be told.
        let _ = self.0.write_all(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}
