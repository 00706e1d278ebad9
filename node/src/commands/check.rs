//! `check`: reads everything in the data directory that could be damaged.

use std::path::Path;

use aither_ledger::{Ledger, LedgerOptions};

use crate::{
    accounts::AccountStore,
    agents::AgentStore,
    answers::AnswerStore,
    billing::BillingError,
    config::Config,
    data_dir::{self, DataDir},
    error::NodeError,
    events::EventLog,
    identity::{AdminKey, NodeIdentity},
    memory::MemoryStore,
    models::{
        DownloadLimits, ModelStore,
        import::{check_gguf, sha256_of_file},
    },
    workspaces::{ArtifactStore, FilesError},
};

/// Verifies the keys, the accounts, the agents and their memory, the events, the kept answers, the
/// whole ledger and the checksum of every artifact and every stored model.
///
/// # Errors
/// A node is running on the directory, or something is damaged; each is told in words.
pub fn check(config: &Config) -> Result<(), NodeError> {
    if !config.data_dir.exists() {
        let message = format!("there is no data directory {}", config.data_dir.display());
        return Err(NodeError::Usage { message });
    }
    let data_dir = DataDir::open(&config.data_dir)?;
    let identity = NodeIdentity::load(&data_dir::identity_path(data_dir.path()))?;
    let admin_key = AdminKey::load(&data_dir::admin_key_path(data_dir.path()))?;
    let models = ModelStore::open(data_dir.path(), DownloadLimits::default())?;
    let accounts_path = data_dir::accounts_path(data_dir.path());
    let accounts = match accounts_path.exists() {
        // Opening verifies every page and every row.
        true => Some(AccountStore::open(&accounts_path)?),
        false => None,
    };
    let registry_path = data_dir::registry_path(data_dir.path());
    let agents = match registry_path.exists() {
        true => format!("{} good", AgentStore::check(&registry_path)?),
        false => "not made yet".to_owned(),
    };
    let memory_path = data_dir::memory_path(data_dir.path());
    let memory = match memory_path.exists() {
        true => format!("{} entries good", MemoryStore::check(&memory_path)?.entries),
        false => "not made yet".to_owned(),
    };
    let events = check_events(data_dir.path())?;
    let answers_path = data_dir::answers_path(data_dir.path());
    let answers = match answers_path.exists() {
        true => format!("{} good", AnswerStore::check(&answers_path)?),
        false => "not made yet".to_owned(),
    };
    let artifacts = check_artifacts(data_dir.path())?;
    let ledger = check_ledger(data_dir.path())?;
    let mut problems = Vec::new();
    let entries = models.list();
    for entry in &entries {
        let problem =
            models
                .problem_of(entry)
                .or_else(|| match sha256_of_file(&entry.path, |_| {}) {
                    Ok(sha256) if sha256 != entry.sha256 => Some(format!(
                        "the file of model {:?} has changed; remove the model and pull it again",
                        entry.name
                    )),
                    Ok(_) => check_gguf(&entry.path).err().map(|error| error.to_string()),
                    Err(error) => Some(error.to_string()),
                });
        problems.extend(problem);
    }
    if !problems.is_empty() {
        return Err(NodeError::Damaged {
            message: problems.join("; "),
        });
    }
    let accounts = accounts.map_or_else(
        || "not made yet".to_owned(),
        |accounts| format!("{} good", accounts.len()),
    );
    let state = |present| if present { "good" } else { "not made yet" };
    super::print(&format!(
        "identity   {}\nadmin key  {}\naccounts   {accounts}\n\
         agents     {agents}\nmemory     {memory}\nevents     {events}\n\
         answers    {answers}\nartifacts  {artifacts}\n\
         ledger     {ledger}\nmodels     {} good\n",
        state(identity.is_some()),
        state(admin_key.is_some()),
        entries.len()
    ))
}

/// Reads all events.
fn check_events(data_dir: &Path) -> Result<String, NodeError> {
    let path = data_dir::events_path(data_dir);
    Ok(match path.exists() {
        true => format!("{} good", EventLog::check(&path)?.events),
        false => "not made yet".to_owned(),
    })
}

/// Compares the checksum of every artifact.
fn check_artifacts(data_dir: &Path) -> Result<String, NodeError> {
    let path = data_dir::artifacts_path(data_dir);
    if !path.exists() {
        return Ok("not made yet".to_owned());
    }
    match ArtifactStore::check(&path) {
        Ok(count) => Ok(format!("{count} good")),
        Err(error @ FilesError::Damaged { .. }) => Err(NodeError::Damaged {
            message: error.to_string(),
        }),
        Err(error) => Err(error.into()),
    }
}

/// Makes all balances again from the journal.
fn check_ledger(data_dir: &Path) -> Result<String, NodeError> {
    let path = data_dir::ledger_path(data_dir);
    if !path.exists() {
        return Ok("not made yet".to_owned());
    }
    let audit = || {
        let options = LedgerOptions {
            verify_pages: true,
            ..LedgerOptions::default()
        };
        let ledger = Ledger::open(&path, options)?;
        ledger.view()?.audit()
    };
    let audit = audit().map_err(BillingError::from)?;
    let (accounts, entries) = (audit.accounts, audit.entries);
    Ok(format!("{accounts} accounts and {entries} entries good"))
}
