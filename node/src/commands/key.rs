//! `key`: the node's identity, shown, taken out and brought in.
//!
//! The export is the PKCS#8 PEM form of `identity.key` itself, which other programs read too. An
//! import never replaces a key unless told so, since the old identity would be lost.

use std::path::Path;

use crate::{
    args::KeyCommand,
    config::Config,
    data_dir::{self, DataDir},
    error::NodeError,
    files,
    identity::{IdentityError, NodeIdentity},
};

/// Runs one of the `key` commands.
///
/// # Errors
/// The key or a file cannot be read or written, or a running node has the directory.
pub fn execute(config: &Config, command: &KeyCommand) -> Result<(), NodeError> {
    match command {
        KeyCommand::Show => show(config),
        KeyCommand::Export { file, force } => export(config, file.as_deref(), *force),
        KeyCommand::Import { file, force } => import(config, file, *force),
    }
}

fn show(config: &Config) -> Result<(), NodeError> {
    let id = identity(config)?.id();
    super::print(&format!(
        "peer id     {id}\npublic key  {}\n",
        id.public_key()
    ))
}

fn export(config: &Config, file: Option<&Path>, force: bool) -> Result<(), NodeError> {
    let pem = identity(config)?.to_pem();
    let Some(file) = file else {
        return super::print(&pem);
    };
    if file.exists() && !force {
        return Err(NodeError::Usage {
            message: format!("{} is there already; --force replaces it", file.display()),
        });
    }
    files::write_secret(file, pem.as_bytes())?;
    Ok(())
}

fn import(config: &Config, file: &Path, force: bool) -> Result<(), NodeError> {
    let unusable = |message| NodeError::Usage { message };
    let identity = match NodeIdentity::load(file) {
        Ok(Some(identity)) => identity,
        Ok(None) => return Err(unusable(format!("there is no file {}", file.display()))),
        // The store's own key has other words for this: there, an import is the remedy.
        Err(IdentityError::InvalidIdentity { path }) => {
            return Err(unusable(format!(
                "{path} is not an ed25519 private key in PKCS#8 PEM form"
            )));
        }
        Err(error) => return Err(error.into()),
    };
    // The lock keeps a running node from going on under an identity that is no longer on disk.
    let data_dir = DataDir::open(&config.data_dir)?;
    let path = data_dir::identity_path(data_dir.path());
    let present = if path.exists() {
        NodeIdentity::load(&path)
    } else {
        Ok(None)
    };
    let same = matches!(&present, Ok(Some(present)) if present.id() == identity.id());
    let absent = matches!(present, Ok(None));
    if !same && !absent && !force {
        return Err(NodeError::Usage {
            message: format!(
                "{} holds another identity; export it first, then --force replaces it",
                path.display()
            ),
        });
    }
    files::write_secret(&path, identity.to_pem().as_bytes())?;
    super::print(&format!("peer id     {}\n", identity.id()))
}

/// Reads the identity, or makes it where the directory is new, as the first start would.
fn identity(config: &Config) -> Result<NodeIdentity, NodeError> {
    let path = data_dir::identity_path(&config.data_dir);
    if let Some(identity) = NodeIdentity::load(&path)? {
        files::warn_if_readable_by_others(&path);
        return Ok(identity);
    }
    let _data_dir = DataDir::open(&config.data_dir)?;
    Ok(NodeIdentity::load_or_create(&path)?)
}
