//! Which files of a folder are source files.
//!
//! In a git checkout git says so, which knows what is ignored; elsewhere hidden folders and those
//! of builds and packages are passed over. Links are not followed, so nothing from outside the
//! folder is sent.

use std::{
    fs, io,
    path::Path,
    process::{Command, Stdio},
};

use crate::error::Error;

/// Endings of files whose structure nodes read; others would be sent for nothing.
const EXTENSIONS: &[&str] = &[
    "rs", "py", "pyi", "js", "mjs", "cjs", "jsx", "ts", "mts", "cts", "tsx", "go",
];
/// Folders of what is built or fetched.
const PASSED_OVER: &[&str] = &[
    "target",
    "node_modules",
    "vendor",
    "dist",
    "build",
    "__pycache__",
    "venv",
    "site-packages",
];
/// Largest source that nodes read.
const SOURCE_BYTES_MAX: u64 = 1 << 20;
/// Most files of a folder: beyond that, somebody has named his home.
const FILES_MAX: usize = 50_000;

/// Returns the name of a folder.
pub(super) fn name(directory: &Path) -> Result<String, Error> {
    let whole = directory.canonicalize();
    let whole = whole.map_err(|cause| Error::file("read", directory, cause))?;
    let name = whole.file_name().and_then(|name| name.to_str());
    Ok(name.unwrap_or("repository").to_owned())
}

/// Returns the paths of the source files in a folder, in order, with `/` between their parts.
pub(super) fn sources(directory: &Path) -> Result<Vec<String>, Error> {
    let mut paths = match known_to_git(directory) {
        Some(paths) => paths,
        None => walked(directory)?,
    };
    paths.retain(|path| is_source(path));
    paths.sort();
    paths.dedup();
    if paths.len() > FILES_MAX {
        let words = format!("more than {FILES_MAX} source files are in it; name a folder in it");
        return Err(Error::file("index", directory, io::Error::other(words)));
    }
    Ok(paths)
}

fn is_source(path: &str) -> bool {
    let extension = Path::new(path).extension().and_then(|end| end.to_str());
    extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
}

/// Returns the files that git has or would take; nothing where it cannot say.
fn known_to_git(directory: &Path) -> Option<Vec<String>> {
    let listed = Command::new("git")
        .arg("-C")
        .arg(directory)
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    if !listed.status.success() {
        return None;
    }
    let paths = listed.stdout.split(|byte| *byte == 0);
    let paths = paths.filter_map(|path| String::from_utf8(path.to_vec()).ok());
    Some(paths.filter(|path| !path.is_empty()).collect())
}

fn walked(directory: &Path) -> Result<Vec<String>, Error> {
    let mut paths = Vec::new();
    let mut waiting = vec![String::new()];
    while let Some(prefix) = waiting.pop() {
        let folder = directory.join(&prefix);
        let failed = |cause| Error::file("read", &folder, cause);
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let kind = entry.file_type().map_err(failed)?;
            // What is no text is no path that a node takes.
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if name.starts_with('.') {
                continue;
            }
            if kind.is_file() && is_source(&name) {
                paths.push(format!("{prefix}{name}"));
            } else if kind.is_dir() && !PASSED_OVER.contains(&name.as_str()) {
                waiting.push(format!("{prefix}{name}/"));
            }
        }
        if paths.len() > FILES_MAX {
            break;
        }
    }
    Ok(paths)
}

/// Reads a source file, or says in a word why not.
pub(super) fn read(directory: &Path, path: &str) -> Result<String, &'static str> {
    let path = directory.join(path);
    let about = fs::symlink_metadata(&path).map_err(|_gone| "unreadable")?;
    if !about.is_file() {
        return Err("no_file");
    }
    if about.len() > SOURCE_BYTES_MAX {
        return Err("too_large");
    }
    let bytes = fs::read(&path).map_err(|_refused| "unreadable")?;
    String::from_utf8(bytes).map_err(|_not_utf8| "binary")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for path in [
            "src/lib.rs",
            "src/deep/a.py",
            "README.md",
            "target/b.rs",
            "node_modules/c.js",
            ".hidden/d.go",
            "e.tsx",
        ] {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "text").unwrap();
        }
        folder
    }

    #[test]
    fn a_folder_has_sources_but_not_what_is_built_or_hidden() {
        let folder = folder();
        let mut paths = walked(folder.path()).unwrap();
        paths.sort();
        assert_eq!(paths, ["e.tsx", "src/deep/a.py", "src/lib.rs"]);
    }

    #[test]
    fn git_says_what_is_ignored() {
        let folder = folder();
        let git = |arguments: &[&str]| {
            let git = Command::new("git")
                .arg("-C")
                .arg(folder.path())
                .args(arguments)
                .output();
            assert!(git.unwrap().status.success());
        };
        git(&["init", "--quiet"]);
        fs::write(
            folder.path().join(".gitignore"),
            "src/deep/\nnode_modules/\n",
        )
        .unwrap();
        let paths = sources(folder.path()).unwrap();
        assert_eq!(
            paths,
            [".hidden/d.go", "e.tsx", "src/lib.rs", "target/b.rs"]
        );
    }

    #[cfg(unix)]
    #[test]
    fn links_are_not_followed() {
        let folder = folder();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret.rs"), "text").unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join("link")).unwrap();
        let secret = outside.path().join("secret.rs");
        std::os::unix::fs::symlink(secret, folder.path().join("link.rs")).unwrap();
        assert!(
            walked(folder.path())
                .unwrap()
                .iter()
                .all(|path| !path.contains("link"))
        );
        assert_eq!(read(folder.path(), "link.rs"), Err("no_file"));
        assert_eq!(read(folder.path(), "gone.rs"), Err("unreadable"));
        assert_eq!(read(folder.path(), "e.tsx"), Ok("text".to_owned()));
    }
}
