//! The sections of what agents use of the world: search, repositories, fetches.
//!
//! Nothing of this is there until the operator names it: each section's default is empty.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Config, units};
use crate::{
    accounts::AccountId,
    fetch::{AllowList, RULES_MAX},
};

/// Folders that can be searched.
const FOLDERS_MAX: usize = 64;
/// Repositories that can be named, and names in the `allow` of one.
const REPOSITORIES_MAX: usize = 1000;
/// Bytes of a repository's name.
const REPOSITORY_NAME_BYTES_MAX: usize = 64;
/// How often folders can be looked through.
const REFRESH: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(7 * 86_400);

/// Git repositories that agents may read and write.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CodeConfig {
    /// What an account and its agents may write to repositories in a day (of UTC), counted since
    /// the start.
    #[serde(with = "units::size_u64")]
    #[schemars(with = "String")]
    pub bytes_a_day: u64,
    /// Repositories by the name that agents know them by:
    /// site = { path = "/srv/git/site.git", write = true, allow = ["01J…"] }. Without "write" they
    /// are only read; with "allow" only these accounts (by id) and agents ("ACCOUNT_ID/NAME") have
    /// it. Agents write to branches of their own alone: aither/NAME-ACCOUNT/…
    pub repositories: BTreeMap<String, RepositoryConfig>,
}

/// A git repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RepositoryConfig {
    /// Its folder, or the folder that its `.git` is in.
    pub path: PathBuf,
    /// Whether agents may write to branches of their own.
    #[serde(default)]
    pub write: bool,
    /// Accounts (by id, with their agents) and single agents ("ACCOUNT_ID/NAME") that have it;
    /// empty is everybody with the capability.
    #[serde(default)]
    pub allow: Vec<String>,
}

/// What agents may fetch over HTTP.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FetchConfig {
    /// Hosts that may be asked: "api.example.org", "*.example.org" (every name below it),
    /// "https://api.example.org:8443". Without a port the usual ones, 80 and 443. "*" is every
    /// host. Empty switches it off.
    pub allow: Vec<String>,
    /// Whether a host that stands in `allow` as it is, without "*", may lie on this machine or in
    /// a private network.
    pub allow_private: bool,
}

/// What searches look through: the web, folders of this machine, or both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SearchConfig {
    /// The base URL of a SearXNG that answers in JSON (its settings.yml: search.formats).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub searxng_url: Option<String>,
    /// Folders whose text files are searched, by absolute path. Hidden files and what a
    /// .gitignore names are left out.
    pub folders: Vec<PathBuf>,
    /// How often the folders are looked through for what has changed.
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub refresh: Duration,
}

impl Default for CodeConfig {
    fn default() -> Self {
        Self {
            bytes_a_day: 1 << 30,
            repositories: BTreeMap::new(),
        }
    }
}

impl Default for SearchConfig {
    fn default() -> Self {
        Self {
            searxng_url: None,
            folders: Vec::new(),
            refresh: Duration::from_secs(600),
        }
    }
}

/// Checks the sections.
///
/// # Errors
/// Words that name the key and what it must be.
pub(super) fn check(config: &Config) -> Result<(), String> {
    check_code(&config.code)?;
    check_fetch(&config.fetch)?;
    check_search(&config.search)
}

fn check_code(code: &CodeConfig) -> Result<(), String> {
    if code.repositories.len() > REPOSITORIES_MAX {
        return Err(format!(
            "code.repositories must be at most {REPOSITORIES_MAX}"
        ));
    }
    for (name, repository) in &code.repositories {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let fits = !name.is_empty() && name.len() <= REPOSITORY_NAME_BYTES_MAX;
        if !fits || !name.chars().all(plain) {
            return Err(format!(
                "code.repositories: the name {name:?} must be letters, digits, '-', '_' and '.'"
            ));
        }
        if !repository.path.is_absolute() {
            return Err(format!("code.repositories.{name}.path must be absolute"));
        }
        if repository.allow.len() > REPOSITORIES_MAX {
            return Err(format!(
                "code.repositories.{name}.allow must be at most {REPOSITORIES_MAX}"
            ));
        }
        if let Some(wrong) = repository.allow.iter().find(|one| !names_account(one)) {
            return Err(format!(
                "code.repositories.{name}.allow: {wrong:?} must be the id of an account, or \
                 \"ACCOUNT_ID/{wrong}\" for one agent of it: an agent's name alone is anybody's \
                 who takes it when the agent has left"
            ));
        }
    }
    Ok(())
}

/// Returns whether something is the id of an account, or of one with an agent's name behind it.
fn names_account(allowed: &str) -> bool {
    let (account, agent) = match allowed.split_once('/') {
        Some((account, agent)) => (account, Some(agent)),
        None => (allowed, None),
    };
    let names_one = agent.is_none_or(|agent| !agent.is_empty() && !agent.contains('/'));
    account.parse::<AccountId>().is_ok() && names_one
}

fn check_fetch(fetch: &FetchConfig) -> Result<(), String> {
    if fetch.allow.len() > RULES_MAX {
        return Err(format!("fetch.allow must be at most {RULES_MAX}"));
    }
    let rules = AllowList::parse(fetch.allow.iter().map(String::as_str));
    rules.map_err(|error| format!("fetch.allow: {error}"))?;
    Ok(())
}

fn check_search(search: &SearchConfig) -> Result<(), String> {
    if !search
        .searxng_url
        .as_deref()
        .is_none_or(super::check::is_base_url)
    {
        return Err(
            "search.searxng_url must be an http or https URL without query: \
             \"http://127.0.0.1:8888\""
                .to_owned(),
        );
    }
    if !REFRESH.contains(&search.refresh) {
        return Err("search.refresh must be 1s to 7days".to_owned());
    }
    if search.folders.len() > FOLDERS_MAX {
        return Err(format!("search.folders must be at most {FOLDERS_MAX}"));
    }
    let mut names = HashSet::new();
    for folder in &search.folders {
        let Some(name) = folder_name(folder) else {
            return Err(format!(
                "search.folders: {} must be an absolute path that ends in a name",
                folder.display()
            ));
        };
        if !names.insert(name) {
            return Err(format!(
                "search.folders: two of them are called {name:?}, and results could not be told \
                 apart"
            ));
        }
    }
    Ok(())
}

/// Returns the name by which a folder is known in results: its last part.
pub fn folder_name(folder: &Path) -> Option<&str> {
    let name = folder.file_name().and_then(|name| name.to_str());
    name.filter(|_| folder.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::default();
        change(&mut config);
        check(&config).err().unwrap_or_default()
    }

    fn repository(path: &str) -> RepositoryConfig {
        RepositoryConfig {
            path: path.into(),
            write: false,
            allow: Vec::new(),
        }
    }

    const ACCOUNT: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

    fn allow(config: &mut Config, whom: &str) {
        let mut repository = repository("/x");
        repository.allow.push(whom.to_owned());
        config.code.repositories.insert("a".into(), repository);
    }

    #[test]
    fn what_cannot_work_is_named() {
        // tidy: table
        let rows = [
            (words(|c| c.fetch.allow = vec!["a b".into()]), "fetch.allow"),
            (
                words(|c| c.search.folders = vec!["a".into()]),
                "search.folders",
            ),
            (
                words(|c| c.search.folders = vec!["/".into()]),
                "search.folders",
            ),
            (
                words(|c| c.search.folders = vec!["/a/x".into(), "/b/x".into()]),
                "two of them",
            ),
            (
                words(|c| c.search.refresh = Duration::ZERO),
                "search.refresh",
            ),
            (
                words(|c| c.search.searxng_url = Some("host".into())),
                "search.searxng_url",
            ),
            (
                words(|c| {
                    c.code.repositories.insert("a".into(), repository("x"));
                }),
                "code.repositories.a.path",
            ),
            (
                words(|c| allow(c, "bot")),
                "code.repositories.a.allow: \"bot\" must be the id of an account, or \
                 \"ACCOUNT_ID/bot\"",
            ),
            (
                words(|c| allow(c, &format!("{ACCOUNT}/"))),
                "code.repositories.a.allow",
            ),
            (
                words(|c| {
                    c.code.repositories.insert("a/b".into(), repository("/x"));
                }),
                "code.repositories",
            ),
        ];
        for (words, key) in rows {
            assert!(words.contains(key), "{words:?} does not name {key}");
        }
        assert_eq!(words(|_| ()), "");
        assert_eq!(words(|c| allow(c, ACCOUNT)), "");
        assert_eq!(words(|c| allow(c, &format!("{ACCOUNT}/bot"))), "");
    }
}
