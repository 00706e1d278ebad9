//! `models`: what the store has, fetched, copied in and removed.
//!
//! While a node runs on the directory everything goes through it, so that it serves a new model
//! at once and forgets a removed one.

use tokio::runtime::Runtime;

use super::{
    progress::ProgressPrinter,
    remote::{Holder, RemoteNode},
};
use crate::{
    args::ModelsCommand,
    config::{Config, units::rounded_size},
    data_dir::DataDir,
    error::NodeError,
    models::{DownloadLimits, ModelEntry, ModelStore, import::check_gguf, source::PullPlan},
    signals::Signals,
};

/// Digits of a checksum that are shown: enough to tell files apart.
const DIGEST_DIGITS: usize = 12;

/// Runs one of the `models` commands.
///
/// # Errors
/// The store's or the running node's refusal.
pub fn execute(config: &Config, command: &ModelsCommand) -> Result<(), NodeError> {
    // Looking must not make anything.
    if matches!(command, ModelsCommand::List) && !config.data_dir.exists() {
        return print_list(config, Vec::new());
    }
    let runtime = super::runtime()?;
    match Holder::find(config)? {
        Holder::Here(data_dir) => here(config, &data_dir, &runtime, command),
        Holder::Node(node) => runtime.block_on(through(config, &node, command)),
    }
}

fn here(
    config: &Config,
    data_dir: &DataDir,
    runtime: &Runtime,
    command: &ModelsCommand,
) -> Result<(), NodeError> {
    let limits = DownloadLimits {
        file_bytes_max: config.models.file_bytes_max,
        ..DownloadLimits::default()
    };
    let store = ModelStore::open(data_dir.path(), limits)?;
    let mut printer = ProgressPrinter::default();
    match command {
        ModelsCommand::List => {
            let rows = store.list().into_iter().map(Row::from).collect();
            print_list(config, rows)
        }
        ModelsCommand::Pull { source } => {
            let pulled = runtime.block_on(async {
                let mut signals = Signals::listen()?;
                tokio::select! {
                    pulled = store.pull(source, |progress| printer.show(&progress)) => Ok(pulled?),
                    () = signals.next() => Err(NodeError::Interrupted {
                        hint: "; the same command goes on where this one stopped",
                    }),
                }
            });
            printer.finish();
            print_entry(&pulled?)
        }
        ModelsCommand::Import { file, name } => {
            let imported = store.import_with(file, name.as_deref(), |progress| {
                printer.show(&progress);
            });
            printer.finish();
            print_entry(&imported?)
        }
        ModelsCommand::Rm { name } => {
            if store.remove(name)? {
                super::print(&format!("removed {name}\n"))
            } else {
                Err(store.not_found(name).into())
            }
        }
    }
}

async fn through(
    config: &Config,
    node: &RemoteNode,
    command: &ModelsCommand,
) -> Result<(), NodeError> {
    match command {
        ModelsCommand::List => {
            let models = node.list().await?;
            let rows = models.into_iter().map(|model| Row {
                name: model.name,
                size_bytes: model.size,
                sha256: model.digest.trim_start_matches("sha256:").to_owned(),
            });
            print_list(config, rows.collect())
        }
        ModelsCommand::Pull { source } => {
            // Refused here, in the words and with the code that it has without a running node.
            PullPlan::parse(source)?;
            let mut printer = ProgressPrinter::default();
            let pulled = node.pull(source, |progress| printer.show(progress)).await;
            printer.finish();
            pulled?;
            super::print(&format!("pulled {source}; the running node serves it\n"))
        }
        ModelsCommand::Import { file, name } => {
            check_gguf(file)?;
            let name = node.import(file, name.as_deref()).await?;
            super::print(&format!("imported {name}; the running node serves it\n"))
        }
        ModelsCommand::Rm { name } => {
            node.remove(name).await?;
            super::print(&format!("removed {name}\n"))
        }
    }
}

/// One line of the list.
struct Row {
    name: String,
    size_bytes: u64,
    sha256: String,
}

impl From<ModelEntry> for Row {
    fn from(entry: ModelEntry) -> Self {
        Self {
            name: entry.name,
            size_bytes: entry.size_bytes,
            sha256: entry.sha256,
        }
    }
}

fn print_list(config: &Config, rows: Vec<Row>) -> Result<(), NodeError> {
    if rows.is_empty() {
        let model = &config.default_model;
        return super::print(&format!(
            "no models yet; \"aither-node models pull {model}\" fetches one\n"
        ));
    }
    let width = rows
        .iter()
        .map(|row| row.name.len())
        .max()
        .unwrap_or(0)
        .max(4);
    let mut text = format!("{:width$}  {:>10}  SHA256\n", "NAME", "SIZE");
    for row in rows {
        let digest: String = row.sha256.chars().take(DIGEST_DIGITS).collect();
        let size = rounded_size(row.size_bytes);
        text.push_str(&format!("{:width$}  {size:>10}  {digest}\n", row.name));
    }
    super::print(&text)
}

fn print_entry(entry: &ModelEntry) -> Result<(), NodeError> {
    super::print(&format!(
        "{}  {}  sha256:{}\n",
        entry.name,
        rounded_size(entry.size_bytes),
        entry.sha256
    ))
}
