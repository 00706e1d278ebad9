//! Who may read and write which repositories.
//!
//! Repositories are the operator's choice, and each may be for some alone. Reading is bounded by
//! [`Gate`] for all of them together; each repository has one writer at a time.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::gate::{Gate, GateError};
use crate::{
    code::{self, Author, CodeAnswer, CodeError, CodeQuery, NewCommit, Written},
    config::{CodeConfig, RepositoryConfig},
};

/// Reads that run at once, and that wait.
const READS_MAX: usize = 4;
const READS_WAITING_MAX: usize = 64;
/// Writes to one repository that wait.
const WRITES_WAITING_MAX: usize = 16;

/// What a commit counts for beside what was sent, for each of its files: folders are written anew.
const FILE_BYTES: u64 = 4 << 10;
const DAY_SECONDS: i64 = 86_400;

/// The repositories of this node; clones share them.
#[derive(Debug, Clone)]
pub struct CodeService {
    repositories: Arc<BTreeMap<String, Repository>>,
    reads: Gate,
    committer: Author,
    bytes_a_day: u64,
    today: Arc<Mutex<Today>>,
}

/// What accounts have written on a day.
#[derive(Debug, Default)]
struct Today {
    /// The day, counted from 1970.
    day: i64,
    written: HashMap<u128, u64>,
}

impl Today {
    /// Counts what an account is about to write.
    fn count(
        &mut self,
        account: u128,
        (bytes, bytes_max): (u64, u64),
        seconds: i64,
    ) -> Result<(), CodeError> {
        let day = seconds.div_euclid(DAY_SECONDS);
        if day != self.day {
            *self = Self {
                day,
                written: HashMap::new(),
            };
        }
        let written = self.written.get(&account).copied().unwrap_or_default();
        let sum = written.saturating_add(bytes);
        if bytes_max < sum {
            let left = DAY_SECONDS - seconds.rem_euclid(DAY_SECONDS);
            return Err(CodeError::TooMuchToday {
                bytes_max,
                retry_after: Duration::from_secs(left.unsigned_abs()),
            });
        }
        self.written.insert(account, sum);
        Ok(())
    }
}

#[derive(Debug)]
struct Repository {
    config: RepositoryConfig,
    writes: Gate,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeCaller {
    /// The names by which a repository can allow him; `None` is the operator, who has all of them.
    pub names: Option<Vec<String>>,
    /// The account that what he writes counts for; `None` is the operator, for whom nothing does.
    pub account: Option<u128>,
    /// The folder of his branches.
    pub folder: String,
    /// His name in a commit.
    pub name: String,
}

/// A repository that a caller has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownRepository {
    /// Its name.
    pub name: String,
    /// Whether he may write to it.
    pub is_writable: bool,
}

/// What is to be committed.
#[derive(Debug, Clone)]
pub struct Commit {
    /// The branch below the caller's folder.
    pub branch: Option<String>,
    /// What it begins from where there is none yet.
    pub base: Option<String>,
    /// Where it must be.
    pub expected_head: Option<String>,
    /// The message.
    pub message: String,
    /// What is changed.
    pub files: Vec<code::FileChange>,
    /// When, in seconds since 1970.
    pub seconds: i64,
}

impl Commit {
    /// Returns about what it takes of the disk.
    fn bytes(&self) -> u64 {
        let len = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
        let of_file = |file: &code::FileChange| match &file.edit {
            code::Edit::Delete => FILE_BYTES,
            code::Edit::Write { content, .. } => FILE_BYTES + len(content.len()),
        };
        len(self.message.len()) + self.files.iter().map(of_file).sum::<u64>()
    }
}

impl CodeService {
    /// Takes the repositories of the configuration. Commits are made in the name of the node.
    pub fn new(config: &CodeConfig, node_name: &str) -> Self {
        let repositories = config.repositories.iter().map(|(name, config)| {
            let repository = Repository {
                config: config.clone(),
                writes: Gate::new(1, WRITES_WAITING_MAX),
            };
            (name.clone(), repository)
        });
        Self {
            repositories: Arc::new(repositories.collect()),
            reads: Gate::new(READS_MAX, READS_WAITING_MAX),
            committer: Author {
                name: node_name.to_owned(),
                email: format!("node@{}", domain(node_name)),
            },
            bytes_a_day: config.bytes_a_day,
            today: Arc::default(),
        }
    }

    /// Warns of repositories that cannot be read. They are looked for again with each request.
    pub fn warn_of_missing(&self) {
        for (name, repository) in self.repositories.iter() {
            let query = CodeQuery::Branches { limit: 1 };
            if let Err(error) = code::read(&repository.config.path, &query) {
                tracing::warn!(repository = name, %error, "the repository cannot be served");
            }
        }
    }

    /// Lists what a caller has.
    ///
    /// # Errors
    /// There is no repository at all.
    pub fn list(&self, caller: &CodeCaller) -> Result<Vec<KnownRepository>, CodeError> {
        if self.repositories.is_empty() {
            return Err(CodeError::NotConfigured);
        }
        let known = self.repositories.iter();
        let known = known.filter(|(_, repository)| repository.is_for(caller));
        Ok(known
            .map(|(name, repository)| KnownRepository {
                name: name.clone(),
                is_writable: repository.config.write,
            })
            .collect())
    }

    /// Reads a repository.
    ///
    /// # Errors
    /// The caller has none of that name, or there is no such thing in it.
    pub async fn read(
        &self,
        caller: &CodeCaller,
        name: &str,
        query: CodeQuery,
    ) -> Result<CodeAnswer, CodeError> {
        let path = self.find(caller, name)?.config.path.clone();
        let done = self.reads.run(move || code::read(&path, &query)).await;
        done.map_err(refused)?
    }

    /// Makes a commit on a branch of the caller's own.
    ///
    /// # Errors
    /// The caller has no such repository or may only read it, or the commit cannot be made.
    pub async fn write(
        &self,
        caller: &CodeCaller,
        name: &str,
        commit: Commit,
    ) -> Result<Written, CodeError> {
        let repository = self.find(caller, name)?;
        if !repository.config.write {
            return Err(CodeError::ReadOnly(name.to_owned()));
        }
        if let Some(account) = caller.account {
            let mut today = self.today.lock().unwrap_or_else(PoisonError::into_inner);
            // Also where it is refused then: what was made of it until there is on the disk.
            today.count(account, (commit.bytes(), self.bytes_a_day), commit.seconds)?;
        }
        let domain = self.committer.email.trim_start_matches("node@");
        let new = NewCommit {
            folder: caller.folder.clone(),
            branch: commit.branch,
            base: commit.base,
            expected_head: commit.expected_head,
            message: commit.message,
            files: commit.files,
            author: Author {
                name: caller.name.clone(),
                email: format!("{}@{domain}", caller.folder.trim_start_matches('_')),
            },
            committer: self.committer.clone(),
            seconds: commit.seconds,
        };
        let path: PathBuf = repository.config.path.clone();
        let done = repository
            .writes
            .run(move || code::write(&path, &new))
            .await;
        done.map_err(refused)?
    }

    fn find(&self, caller: &CodeCaller, name: &str) -> Result<&Repository, CodeError> {
        if self.repositories.is_empty() {
            return Err(CodeError::NotConfigured);
        }
        // One that is for others is as unknown as one that is not there.
        let found = self.repositories.get(name);
        found
            .filter(|repository| repository.is_for(caller))
            .ok_or_else(|| CodeError::UnknownRepository(code::cut_name(name).to_owned()))
    }
}

impl Repository {
    fn is_for(&self, caller: &CodeCaller) -> bool {
        let allow = &self.config.allow;
        let Some(names) = &caller.names else {
            return true;
        };
        allow.is_empty()
            || names
                .iter()
                .any(|name| allow.iter().any(|one| one.eq_ignore_ascii_case(name)))
    }
}

fn refused(error: GateError) -> CodeError {
    match error {
        GateError::Full { retry_after } => CodeError::Overloaded { retry_after },
        GateError::Panicked => CodeError::Internal("reading a repository panicked".to_owned()),
    }
}

/// Makes what can stand behind the `@` of an address from a name for people.
fn domain(node_name: &str) -> String {
    let plain = |c: char| match c.to_ascii_lowercase() {
        c if c.is_ascii_alphanumeric() || c == '.' => c,
        _ => '-',
    };
    let text: String = node_name.chars().map(plain).collect();
    let parts: Vec<_> = text
        .split('.')
        .map(|part| part.trim_matches('-'))
        .filter(|part| !part.is_empty())
        .collect();
    match parts.is_empty() {
        true => "node".to_owned(),
        false => parts.join("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(names: &[&str]) -> CodeCaller {
        CodeCaller {
            names: Some(names.iter().map(|name| (*name).to_owned()).collect()),
            account: Some(1),
            folder: "bot".to_owned(),
            name: "bot".to_owned(),
        }
    }

    fn service() -> CodeService {
        let mut config = CodeConfig::default();
        for (name, allow) in [
            ("all", &[][..]),
            ("some", &["01OTHER/bot", "01account"][..]),
        ] {
            let repository = RepositoryConfig {
                path: "/nowhere".into(),
                write: false,
                allow: allow.iter().map(|name| (*name).to_owned()).collect(),
            };
            config.repositories.insert(name.to_owned(), repository);
        }
        CodeService::new(&config, "node")
    }

    #[test]
    fn a_repository_is_for_those_that_it_names_and_unknown_to_others() {
        let names = |caller: &CodeCaller| {
            let known = service().list(caller).unwrap();
            known
                .into_iter()
                .map(|known| known.name)
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&caller(&["01OTHER/bot", "01OTHER"])), ["all", "some"]);
        assert_eq!(
            names(&caller(&["01ACCOUNT/any", "01ACCOUNT"])),
            ["all", "some"]
        );
        // Nobody has a repository by a name that another had.
        assert_eq!(names(&caller(&["01THIRD/bot", "01THIRD"])), ["all"]);
        let mut operator = caller(&[]);
        operator.names = None;
        assert_eq!(names(&operator), ["all", "some"]);
        let service = service();
        let unknown = |name| service.find(&caller(&["other"]), name).err().unwrap();
        assert_eq!(unknown("some"), CodeError::UnknownRepository("some".into()));
        assert_eq!(unknown("none"), CodeError::UnknownRepository("none".into()));
    }

    #[tokio::test]
    async fn what_is_only_read_is_not_written_and_without_repositories_nothing_is() {
        let commit = Commit {
            branch: None,
            base: None,
            expected_head: None,
            message: "x".into(),
            files: Vec::new(),
            seconds: 0,
        };
        let refused = service().write(&caller(&["bot"]), "all", commit).await;
        assert_eq!(refused, Err(CodeError::ReadOnly("all".into())));
        let empty = CodeService::new(&CodeConfig::default(), "node");
        assert_eq!(empty.list(&caller(&[])), Err(CodeError::NotConfigured));
    }

    #[test]
    fn an_account_writes_so_much_in_a_day() {
        let mut today = Today::default();
        let noon = 20_000 * DAY_SECONDS + DAY_SECONDS / 2;
        today.count(1, (6, 10), noon).unwrap();
        let refused = today.count(1, (5, 10), noon + 1).unwrap_err();
        let retry_after = Duration::from_secs(12 * 3600 - 1);
        let expected = CodeError::TooMuchToday {
            bytes_max: 10,
            retry_after,
        };
        assert_eq!(refused, expected);
        today.count(1, (4, 10), noon + 1).unwrap();
        today.count(2, (10, 10), noon + 1).unwrap();
        assert!(today.count(1, (1, 10), noon + 12 * 3600 - 1).is_err());
        today.count(1, (10, 10), noon + 12 * 3600).unwrap();
    }

    #[test]
    fn any_name_of_a_node_makes_an_address() {
        for (name, expected) in [
            ("My Node", "my-node"),
            ("a.example.org", "a.example.org"),
            ("..ä..", "node"),
            ("<x>@y", "x--y"),
            ("", "node"),
        ] {
            assert_eq!(domain(name), expected);
        }
    }
}
