//! `backup` and `restore`.

use std::path::Path;

use crate::{
    backup, commands::remote::Holder, config::Config, data_dir::DataDir, error::NodeError,
};

/// Writes a backup; a running node writes it itself and goes on meanwhile.
///
/// # Errors
/// The directory cannot be read, or the file not written.
pub fn back_up(config: &Config, file: &Path) -> Result<(), NodeError> {
    if !config.data_dir.exists() {
        let message = format!("there is no data directory {}", config.data_dir.display());
        return Err(NodeError::Usage { message });
    }
    match Holder::find(config)? {
        Holder::Here(data_dir) => {
            backup::back_up(data_dir.path(), file)?;
        }
        Holder::Node(node) => super::runtime()?.block_on(node.back_up(file))?,
    }
    super::print(&format!(
        "wrote {}; it holds the node's keys, so keep it as safe as them\n",
        file.display()
    ))
}

/// Brings a backup back; the node must not be running.
///
/// # Errors
/// A node is running on the directory, or the backup is damaged.
pub fn restore(config: &Config, file: &Path) -> Result<(), NodeError> {
    let data_dir = DataDir::open(&config.data_dir)?;
    let restored = backup::restore(file, data_dir.path())?;
    let manifest = &restored.manifest;
    let names: Vec<&str> = manifest.files.keys().map(String::as_str).collect();
    let mut words = format!("restored {} as of {}\n", names.join(", "), manifest.made);
    if let Some(audit) = restored.audit {
        let (accounts, entries) = (audit.accounts, audit.entries);
        words += &format!("ledger: {accounts} accounts and {entries} entries good\n");
    }
    for old in &restored.aside {
        words += &format!("what was there is kept as {}\n", old.display());
    }
    super::print(&words)
}
