//! From layers to one [`Config`]: defaults < TOML file < `AITHER_*` environment < flags.
//!
//! In the environment two underscores step into a section: `AITHER_HTTP__BIND`. Three variables
//! are no keys: `AITHER_CONFIG` names the file, `AITHER_LOG` is the log filter, and an empty
//! variable counts as unset. A file is read with a cap, since it may be anything.

use std::{
    env,
    path::{Path, PathBuf},
};

use figment::{
    Figment,
    error::Kind,
    providers::{Env, Format, Serialized, Toml},
    value::Value,
};

use super::{Config, check};
use crate::{files, machine::Memory};

/// Begins every variable that is read.
pub const ENV_PREFIX: &str = "AITHER_";
/// Variables of that prefix that are no configuration keys. All but the first two belong to the
/// scripts and tests of this repository, which start nodes.
const ENV_NO_KEYS: &[&str] = &[
    "config",
    "log",
    "cache",
    "cli_bin",
    "node_bin",
    "software_gpu",
    "test_embedding_model",
    "test_model",
    "test_gemma",
];
/// No configuration file is this large.
const CONFIG_FILE_BYTES_MAX: u64 = 1 << 20;
/// Memory budget where the machine's memory cannot be found out.
const MEMORY_BUDGET_FALLBACK: u64 = 2 << 30;

/// Why there is no configuration to start with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What happened.
        message: String,
    },
    /// A layer has an unknown key, or a value that does not fit its key.
    #[error("invalid configuration: {message}")]
    Invalid {
        /// Which key, where it comes from, and what it must be.
        message: String,
    },
}

/// What the command line says; every field that is `None` leaves the layers below alone.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `(key, value)`, the key as in the file: `http.bind`.
    values: Vec<(&'static str, Value)>,
}

impl Overrides {
    /// Sets a key when there is a value.
    pub fn set(&mut self, key: &'static str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.values.push((key, value.into()));
        }
    }
}

/// Reads all layers and checks the result.
///
/// # Errors
/// The file cannot be read, or a value is unknown, of the wrong kind or out of bounds.
pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Config, ConfigError> {
    let mut figment = Figment::from(Serialized::defaults(Config::default()));
    if let Some(path) = file {
        // The source is told in the error, so the path is checked here and read there.
        read_file(path)?;
        figment = figment.merge(Toml::file_exact(path));
    }
    figment = figment.merge(environment());
    for (key, value) in &overrides.values {
        figment = figment.merge(Serialized::global(key, value));
    }
    let config: Config = figment.extract().map_err(|error| ConfigError::Invalid {
        message: describe(error),
    })?;
    check::check(&config)?;
    Ok(config)
}

/// Returns where a user's data lives when nobody says otherwise.
pub fn default_data_dir() -> PathBuf {
    let absolute = |name| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_DATA_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".local/share")))
        .map_or_else(|| PathBuf::from("aither-data"), |base| base.join("aither"))
}

/// Returns half of this machine's memory: the other half is for what else runs on it.
pub fn default_memory_budget() -> u64 {
    match Memory::new() {
        None => MEMORY_BUDGET_FALLBACK,
        // Whole mebibytes read better.
        Some(memory) => (memory.total_bytes() / 2) & !((1 << 20) - 1),
    }
}

fn read_file(path: &Path) -> Result<(), ConfigError> {
    let failed = |message: String| ConfigError::File {
        path: path.to_owned(),
        message,
    };
    match files::read_bounded(path, CONFIG_FILE_BYTES_MAX) {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(failed("there is no such file".into())),
        Err(files::FileError::Read { source, .. }) => Err(failed(source.to_string())),
        Err(error) => Err(failed(error.to_string())),
    }
}

fn environment() -> impl figment::Provider {
    Env::prefixed(ENV_PREFIX)
        .filter_map(|key| {
            let name = key.as_str().to_ascii_lowercase();
            let is_set = env::var_os(format!("{ENV_PREFIX}{}", key.as_str().to_ascii_uppercase()))
                .is_none_or(|value| !value.is_empty());
            (is_set && !ENV_NO_KEYS.contains(&name.as_str())).then(|| key.into())
        })
        .split("__")
}

/// Puts figment's findings into one line that names keys and layers.
fn describe(error: figment::Error) -> String {
    let mut findings: Vec<String> = error
        .into_iter()
        .map(|error| describe_one(&error))
        .collect();
    findings.dedup();
    findings.join("; ")
}

fn describe_one(error: &figment::Error) -> String {
    let what = match &error.kind {
        Kind::UnknownField(field, []) => format!("unknown key {field:?}"),
        Kind::UnknownField(field, known) => {
            format!("unknown key {field:?}; known are {}", known.join(", "))
        }
        Kind::UnknownVariant(value, known) => {
            format!("{value:?} is none of {}", known.join(", "))
        }
        // A parser draws the place over several lines; the first says where, the last what.
        kind => {
            let text = kind.to_string();
            let lines: Vec<_> = text
                .lines()
                .map(str::trim)
                .filter(|line| !line.is_empty())
                .collect();
            match lines.as_slice() {
                [first, .., last] => format!("{first}: {last}"),
                _ => text,
            }
        }
    };
    let layer = error.metadata.as_ref();
    if layer.is_some_and(|layer| layer.name.contains("environment")) {
        let variable = error.path.join("__").to_ascii_uppercase();
        return format!("{what}, for the variable {ENV_PREFIX}{variable}");
    }
    let key = match error.path.as_slice() {
        [] => String::new(),
        path => format!(", for {}", path.join(".")),
    };
    let file = layer
        .and_then(|layer| layer.source.as_ref()?.file_path())
        .map(|path| format!(", in {}", path.display()))
        .unwrap_or_default();
    format!("{what}{key}{file}")
}
