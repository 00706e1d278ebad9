//! Saving what an agent got when it came aboard.
//!
//! It holds the agent's key. The file comes into being under another name, readable to this user
//! only, and takes its place when it is whole: an agent that starts meanwhile reads the old one or
//! the new one. The folder says by itself that git is to leave it alone.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::AgentDir;
use crate::{client::Answer, error::Error};

/// Where an agent keeps what is its own and nobody else's.
const FOLDER: &str = ".aither";
const BUNDLE_FILE: &str = "bundle.json";

impl AgentDir {
    /// Saves the bundle; returns where it lies.
    pub(crate) fn save_bundle(&self, bundle: &Answer) -> Result<PathBuf, Error> {
        let folder = self.directory.join(FOLDER);
        make_private(&folder)?;
        keep_from_git(&folder)?;
        let path = folder.join(BUNDLE_FILE);
        write_whole(&folder, &path, &format!("{}\n", bundle.line()))
            .map_err(|cause| Error::file("write", &path, cause))?;
        Ok(path)
    }
}

/// Makes the folder, or makes sure that one that is there is a folder and this user's alone.
fn make_private(folder: &Path) -> Result<(), Error> {
    let failed = |cause| Error::file("make", folder, cause);
    match fs::symlink_metadata(folder) {
        Ok(metadata) if metadata.is_symlink() => {
            return Err(Error::LinkedFolder {
                path: folder.display().to_string(),
            });
        }
        Ok(_) => {}
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
            create_private(folder).map_err(failed)?;
        }
        Err(cause) => return Err(failed(cause)),
    }
    restrict(folder).map_err(failed)
}

#[cfg(unix)]
fn create_private(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().mode(0o700).create(folder)
}

#[cfg(not(unix))]
fn create_private(folder: &Path) -> io::Result<()> {
    fs::create_dir(folder)
}

#[cfg(unix)]
fn restrict(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
}

#[cfg(not(unix))]
fn restrict(_folder: &Path) -> io::Result<()> {
    Ok(())
}

/// Has git ignore the folder, unless it was told something else about it.
fn keep_from_git(folder: &Path) -> Result<(), Error> {
    let path = folder.join(".gitignore");
    match fs::File::create_new(&path).and_then(|mut file| file.write_all(b"*\n")) {
        Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error::file("write", &path, cause))
        }
        _ => Ok(()),
    }
}

fn write_whole(folder: &Path, path: &Path, text: &str) -> io::Result<()> {
    // Made with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn bundle(text: &str) -> Answer {
        Answer::new("http://h", text.as_bytes()).unwrap()
    }

    #[test]
    fn bundle_is_for_this_user_alone_and_not_for_git() {
        let directory = tempfile::tempdir().unwrap();
        let agent = AgentDir::new(directory.path());
        for text in ["{\"api_key\":\"a\"}", "{\"api_key\":\"b\"}"] {
            let path = agent.save_bundle(&bundle(text)).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{text}\n"));
            assert_eq!(mode(&path), 0o600);
        }
        let folder = directory.path().join(FOLDER);
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(
            fs::read_to_string(folder.join(".gitignore")).unwrap(),
            "*\n"
        );
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
    }

    #[test]
    fn folder_that_others_may_read_is_closed_to_them() {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join(FOLDER);
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        AgentDir::new(directory.path())
            .save_bundle(&bundle("{}"))
            .unwrap();
        assert_eq!(mode(&folder), 0o700);
    }

    #[test]
    fn key_is_not_written_where_a_link_leads() {
        let directory = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        symlink(elsewhere.path(), directory.path().join(FOLDER)).unwrap();
        let refused = AgentDir::new(directory.path()).save_bundle(&bundle("{}"));
        assert!(
            matches!(refused, Err(Error::LinkedFolder { .. })),
            "{refused:?}"
        );
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }

    #[test]
    fn linked_bundle_is_replaced_and_its_target_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("target");
        fs::write(&target, "mine").unwrap();
        let folder = directory.path().join(FOLDER);
        fs::create_dir(&folder).unwrap();
        symlink(&target, folder.join(BUNDLE_FILE)).unwrap();
        let path = AgentDir::new(directory.path())
            .save_bundle(&bundle("{}"))
            .unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "mine");
        assert!(!fs::symlink_metadata(path).unwrap().is_symlink());
    }
}
