//! `aither-cli init`: a new agent that runs as it stands.
//!
//! What it consists of lies in `cli/templates`. Nothing that is there is ever overwritten: the
//! folder must be new or empty, and each file is only made where there is none.

mod template;

use std::{
    fs,
    io::{self, Write},
    path::{self, Path, PathBuf},
};

use aither_protocol::{agent_card::AgentName, limits};
use serde_json::json;

use crate::{
    args::InitArgs,
    error::Error,
    render::{Output, printable},
};

/// Makes the agent.
pub(crate) fn run(output: &Output, args: &InitArgs, json: bool) -> Result<(), Error> {
    let directory = &args.directory;
    let name = match &args.name {
        Some(name) => name.clone(),
        None => name_from(directory)?,
    };
    prepare(directory)?;
    let template = template::of(args.language);
    write_all(directory, template.files, name.as_str())?;
    output.line(&if json {
        let names: Vec<&str> = template.files.iter().map(|(name, _)| *name).collect();
        json!({
            "name": name.as_str(),
            "directory": directory.display().to_string(),
            "language": template.language,
            "files": names,
        })
        .to_string()
    } else {
        let shown = directory.display().to_string();
        let start = template.start;
        format!(
            "made the agent {} in {} ({}); start it with a node running:\n  cd {}\n{start}",
            name.as_str(),
            printable(&shown),
            template.language,
            shell_word(&printable(&shown)),
        )
    })
}

/// Makes an agent's name of the folder's.
fn name_from(directory: &Path) -> Result<AgentName, Error> {
    // `.` and `..` are folders with a name of their own.
    let whole = match directory.file_name() {
        Some(_) => directory.to_owned(),
        None => fs::canonicalize(directory)
            .or_else(|_| path::absolute(directory))
            .unwrap_or_else(|_| directory.to_owned()),
    };
    let last = whole.file_name().unwrap_or_default().to_string_lossy();
    valid_name(&last).parse().map_err(|_| Error::NoName {
        directory: directory.display().to_string(),
    })
}

/// Returns the nearest name that an agent can have; empty when nothing is left of it.
fn valid_name(text: &str) -> String {
    let mut name = String::new();
    for c in text.chars().flat_map(char::to_lowercase) {
        if c.is_ascii_alphanumeric() {
            name.push(c);
        } else if !name.is_empty() && !name.ends_with('-') {
            name.push('-');
        }
    }
    name.truncate(limits::AGENT_NAME_BYTES_MAX);
    name.trim_end_matches('-').to_owned()
}

/// Makes the folder, unless it is there and empty. One that only git knows counts as empty.
fn prepare(directory: &Path) -> Result<(), Error> {
    fs::create_dir_all(directory).map_err(|cause| Error::file("make", directory, cause))?;
    let unreadable = |cause| Error::file("read", directory, cause);
    for entry in fs::read_dir(directory).map_err(unreadable)? {
        if entry.map_err(unreadable)?.file_name() != ".git" {
            return Err(Error::NotEmpty {
                directory: directory.display().to_string(),
            });
        }
    }
    Ok(())
}

/// Writes the files; when one fails, takes back those that were written.
fn write_all(directory: &Path, files: &[(&str, &str)], name: &str) -> Result<(), Error> {
    let mut written: Vec<PathBuf> = Vec::new();
    for (file, text) in files {
        let path = directory.join(file);
        if let Err(cause) = write_new(&path, &template::fill(text, name)) {
            for path in written {
                // What cannot be removed either is of no use, but does no harm.
                let _ = fs::remove_file(path);
            }
            return Err(Error::file("write", &path, cause));
        }
        written.push(path);
    }
    Ok(())
}

/// Writes a file that must not be there yet.
fn write_new(path: &Path, text: &str) -> io::Result<()> {
    fs::File::create_new(path)?.write_all(text.as_bytes())
}

/// Quotes a path for a shell, where it needs that.
fn shell_word(path: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+@%,".contains(c);
    if path.chars().all(is_plain) && !path.starts_with('-') {
        return path.to_owned();
    }
    format!("'{}'", path.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_valid() {
        let long = "a".repeat(70);
        for (folder, name) in [
            ("my-agent", "my-agent"),
            ("My Agent_2", "my-agent-2"),
            ("..weird--name..", "weird-name"),
            ("research.bot/", "research-bot"),
            ("a/b", "b"),
            ("Café", "caf"),
            ("-x-", "x"),
            (&long, &long[..64]),
            (&format!("{}-b", "a".repeat(63)), &"a".repeat(63)),
        ] {
            assert_eq!(
                name_from(Path::new(folder)).unwrap().as_str(),
                name,
                "{folder}"
            );
        }
    }

    #[test]
    fn folder_of_no_letters_needs_a_name() {
        for folder in ["日本", "___", "/"] {
            let refused = name_from(Path::new(folder)).unwrap_err();
            assert_eq!(refused.exit_code(), 2);
            assert!(refused.to_string().contains("--name my-agent"), "{refused}");
        }
    }

    #[test]
    fn current_folder_gives_its_own_name() {
        let here = std::env::current_dir().unwrap();
        let name = here.file_name().unwrap().to_str().unwrap();
        assert_eq!(
            name_from(Path::new(".")).unwrap().as_str(),
            valid_name(name)
        );
    }

    #[test]
    fn folder_with_anything_in_it_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join(".git")).unwrap();
        prepare(directory.path()).unwrap();
        fs::write(directory.path().join(".hidden"), "mine").unwrap();
        let refused = prepare(directory.path()).unwrap_err();
        assert!(matches!(refused, Error::NotEmpty { .. }), "{refused}");
    }

    #[test]
    fn file_that_came_meanwhile_is_kept_and_the_others_taken_back() {
        let directory = tempfile::tempdir().unwrap();
        let second = directory.path().join("second");
        fs::write(&second, "mine").unwrap();
        let files = [("first", "{{name}}"), ("second", "{{name}}")];
        let refused = write_all(directory.path(), &files, "my-agent").unwrap_err();
        assert!(refused.to_string().contains("second"), "{refused}");
        assert_eq!(fs::read_to_string(&second).unwrap(), "mine");
        assert!(!directory.path().join("first").exists());
    }

    #[test]
    fn paths_are_quoted_for_a_shell() {
        assert_eq!(shell_word("a/b-c.d"), "a/b-c.d");
        assert_eq!(shell_word("it's mine"), r"'it'\''s mine'");
        assert_eq!(shell_word("-rf"), "'-rf'");
    }
}
