//! The folder of an agent: what it says about itself, and what it got when it came aboard.
//!
//! The folder may be somebody else's work. Only plain files are read, up to a bound; the bundle,
//! which holds a key, is written for this user alone and never through a link.

mod bundle;

use std::{
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use aither_protocol::{
    agent_card::{AgentCard, FieldError, unknown_fields},
    limits,
};
use serde::Serialize;

use crate::error::Error;

/// The file in which an agent says what it is.
pub(crate) const SPEC_FILE: &str = "aither-agent.yaml";

/// An agent's folder.
#[derive(Debug)]
pub(crate) struct AgentDir {
    directory: PathBuf,
}

/// Something wrong with the file or with what it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) field: String,
    pub(crate) message: String,
    pub(crate) line: Option<usize>,
    pub(crate) column: Option<usize>,
}

impl AgentDir {
    /// Names a folder, which need not be there.
    pub(crate) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
        }
    }

    /// Reads and checks the agent's file: the card that it stands for, or everything wrong with it.
    pub(crate) fn read_card(&self) -> Result<Result<AgentCard, Vec<Finding>>, Error> {
        let text = match self.read_spec()? {
            Ok(text) => text,
            Err(finding) => return Ok(Err(vec![finding])),
        };
        let card = match AgentCard::from_yaml(&text) {
            Ok(card) => card,
            Err(errors) => return Ok(Err(errors.into_iter().map(Finding::from).collect())),
        };
        let findings = self.missing_files(&card, &text);
        Ok(if findings.is_empty() {
            Ok(card)
        } else {
            Err(findings)
        })
    }

    /// Returns what the agent's file says that no card has: it is ignored, and may be misspelt.
    pub(crate) fn unknown_fields(&self) -> Result<Vec<Finding>, Error> {
        let found = self.read_spec()?.map(|text| unknown_fields(&text));
        let found = found.unwrap_or_default().into_iter();
        Ok(found.map(Finding::from).collect())
    }

    fn read_spec(&self) -> Result<Result<String, Finding>, Error> {
        let path = self.directory.join(SPEC_FILE);
        let unreadable = |cause| Error::file("read", &path, cause);
        match fs::metadata(&path) {
            // A pipe or a device might never end.
            Ok(metadata) if metadata.is_file() => {}
            Ok(_) => return Ok(Err(Finding::of_file("must be a plain file"))),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound && self.directory.is_dir() => {
                let remedy = "is not there; `aither-cli init` makes an agent with one";
                return Ok(Err(Finding::of_file(remedy)));
            }
            Err(cause) => return Err(unreadable(cause)),
        }
        let mut bytes = Vec::new();
        // One byte more than a file may have, so that a larger one is told as what it is.
        let bytes_max = limits::CARD_BYTES_MAX as u64 + 1;
        fs::File::open(&path)
            .and_then(|file| file.take(bytes_max).read_to_end(&mut bytes))
            .map_err(unreadable)?;
        if bytes.len() > limits::CARD_BYTES_MAX {
            let message = format!("must be at most {} bytes", limits::CARD_BYTES_MAX);
            return Ok(Err(Finding::of_file(&message)));
        }
        Ok(String::from_utf8(bytes).map_err(|_| Finding::of_file("must be UTF-8 text")))
    }

    /// Looks for the files that a valid card names.
    fn missing_files(&self, card: &AgentCard, text: &str) -> Vec<Finding> {
        let Some(runtime) = &card.runtime else {
            return Vec::new();
        };
        let entrypoint = [("entrypoint", runtime.entrypoint.as_str())];
        let dockerfile = runtime.dockerfile.as_deref();
        let named = entrypoint
            .into_iter()
            .chain(dockerfile.map(|file| ("dockerfile", file)));
        named
            .filter(|(_, file)| !self.directory.join(file).is_file())
            .map(|(key, file)| {
                let position = position_of(key, text);
                Finding {
                    field: format!("runtime.{key}"),
                    message: format!("`{file}` is not there; write it, or name another file"),
                    line: position.map(|(line, _)| line),
                    column: position.map(|(_, column)| column),
                }
            })
            .collect()
    }
}

/// Returns line and column of a key's value in a file that is known to hold the key.
///
/// The card has no positions, and a file that is missing is no error of the YAML. A key that is
/// written in a way not thought of here leaves the finding without a position.
fn position_of(key: &str, text: &str) -> Option<(usize, usize)> {
    let lines = text.lines().zip(1..);
    let mut lines = lines.filter(|(line, _)| !line.trim_start().starts_with('#'));
    lines.find_map(|(line, number)| {
        let mut places = line.match_indices(key);
        let value = places.find_map(|(start, _)| {
            let before = line[..start].trim_end_matches(['"', '\'']).trim_end();
            let is_key = before.is_empty() || before.ends_with(['{', ',']);
            let after = line[start + key.len()..].trim_start_matches(['"', '\'']);
            let value = after.trim_start().strip_prefix(':')?.trim_start();
            is_key.then_some(value)
        })?;
        let column = line[..line.len() - value.len()].chars().count() + 1;
        Some((number, column))
    })
}

impl Finding {
    /// Makes a finding about the file as a whole.
    fn of_file(message: &str) -> Self {
        Self {
            field: String::new(),
            message: message.to_owned(),
            line: None,
            column: None,
        }
    }
}

impl From<FieldError> for Finding {
    fn from(error: FieldError) -> Self {
        Self {
            field: error.field,
            message: error.message,
            line: error.line,
            column: error.column,
        }
    }
}

/// As editors read it, to jump to the place.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SPEC_FILE)?;
        for number in [self.line, self.column].into_iter().flatten() {
            write!(f, ":{number}")?;
        }
        f.write_str(": ")?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// Counts what was found, for the error of the command.
pub(crate) fn invalid(findings: &[Finding]) -> Error {
    let count = match findings.len() {
        1 => "one error".to_owned(),
        count => format!("{count} errors"),
    };
    Error::InvalidAgent(format!(
        "{SPEC_FILE} has {count}; mend what is listed and validate it again"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: &str = "\
name: my-agent
version: 1.0.0
description: Answers.
author: Ann
runtime:
  language: python3.12
  # entrypoint: old.py
  entrypoint: main.py
capabilities: [llm_inference]
billing: {token_cost_per_request: 1, category: agent}
health:
  endpoint: /health
endpoints:
  - {path: /chat, method: POST, description: Chat}
";

    fn folder(spec: &str) -> (tempfile::TempDir, AgentDir) {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(SPEC_FILE), spec).unwrap();
        let agent = AgentDir::new(directory.path());
        (directory, agent)
    }

    #[test]
    fn missing_entrypoint_is_found_where_it_is_named() {
        let (directory, agent) = folder(SPEC);
        let findings = agent.read_card().unwrap().unwrap_err();
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(
            findings[0]
                .to_string()
                .starts_with("aither-agent.yaml:8:15: runtime.entrypoint: `main.py` is not there"),
            "{}",
            findings[0]
        );
        fs::write(directory.path().join("main.py"), "").unwrap();
        let card = agent.read_card().unwrap().unwrap();
        assert_eq!(card.name.as_str(), "my-agent");
    }

    #[test]
    fn keys_are_found_however_they_are_written() {
        for (line, column) in [
            ("  entrypoint: main.py", Some(15)),
            ("  \"entrypoint\" : main.py", Some(18)),
            ("runtime: {entrypoint: main.py}", Some(23)),
            (
                "runtime: {language: node22, 'entrypoint': main.py}",
                Some(43),
            ),
            ("rüntime: {entrypoint: main.py}", Some(23)),
            ("  entrypoints: main.py", None),
            ("# entrypoint: main.py", None),
        ] {
            let found = position_of("entrypoint", line);
            assert_eq!(found.map(|(_, column)| column), column, "{line}");
        }
    }

    #[test]
    fn errors_of_the_file_keep_their_places() {
        let (_directory, agent) = folder(&SPEC.replace("my-agent", "My Agent"));
        let findings = agent.read_card().unwrap().unwrap_err();
        assert_eq!(
            (findings[0].line, findings[0].field.as_str()),
            (Some(1), "name")
        );
    }

    #[test]
    fn file_that_is_missing_too_large_or_no_text_is_a_finding() {
        let directory = tempfile::tempdir().unwrap();
        let agent = AgentDir::new(directory.path());
        let message = |agent: &AgentDir| agent.read_card().unwrap().unwrap_err()[0].to_string();
        assert!(message(&agent).contains("is not there"));
        let path = directory.path().join(SPEC_FILE);
        fs::write(&path, "#".repeat(limits::CARD_BYTES_MAX + 1)).unwrap();
        assert!(message(&agent).contains("at most"));
        fs::write(&path, b"name: \xff").unwrap();
        assert!(message(&agent).contains("UTF-8"));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(message(&agent).contains("plain file"));
    }

    #[test]
    fn folder_that_is_not_there_is_an_error() {
        let agent = AgentDir::new(Path::new("no/such/folder"));
        let words = agent.read_card().unwrap_err().to_string();
        assert!(
            words.starts_with("cannot read no/such/folder/aither-agent.yaml"),
            "{words}"
        );
    }
}
