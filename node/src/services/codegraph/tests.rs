//! The service on a real store: what is kept in memory, and what finds no room.

use super::*;
use crate::{
    codegraph::{Relation, SourceFile},
    data_dir::memory_path,
    memory::{MemoryLimits, Quota},
};

struct Home {
    service: CodegraphService,
    access: MemoryAccess,
    _folder: tempfile::TempDir,
}

fn home() -> Home {
    let folder = tempfile::tempdir().unwrap();
    let path = memory_path(folder.path());
    let memory = MemoryService::open(&path, MemoryLimits::default(), 1 << 20);
    Home {
        service: CodegraphService::new(memory.unwrap()),
        access: MemoryAccess::of_operator(),
        _folder: folder,
    }
}

impl Home {
    async fn index(&self, repo: &str, files: &[(&str, &str)]) -> Result<IndexReport, MemoryError> {
        let files = files.iter().map(|(path, text)| SourceFile {
            path: (*path).to_owned(),
            content: Ok((*text).to_owned()),
        });
        let changes = Changes {
            files: files.collect(),
            ..Changes::default()
        };
        self.service
            .index(&self.access, repo, move || Ok(changes))
            .await
    }

    async fn callers(&self, symbol: &str) -> Vec<String> {
        let query = Query {
            symbol: Some(symbol.to_owned()),
            relation: Some(Relation::Calls),
            direction: Some(crate::codegraph::Direction::In),
            ..Query::default()
        };
        let found = self.service.ask(&self.access, None, query).await.unwrap();
        found
            .rows
            .into_iter()
            .map(|found| found.row.symbol)
            .collect()
    }

    fn kept(&self) -> Vec<Arc<Loaded>> {
        let kept = self.service.kept();
        kept.repositories
            .values()
            .map(|(_, loaded)| Arc::clone(loaded))
            .collect()
    }
}

const F: (&str, &str) = ("a.py", "def f():\n    g()\n\ndef g():\n    pass\n");

#[tokio::test]
async fn a_repository_is_put_together_once_and_again_after_each_change() {
    let home = home();
    home.index("r", &[F]).await.unwrap();
    assert_eq!(home.callers("g").await, ["a.f"]);
    let first = home.kept();
    assert_eq!(home.callers("g").await, ["a.f"]);
    assert!(Arc::ptr_eq(&first[0], &home.kept()[0]));
    // What is as it was changes nothing.
    home.index("r", &[F]).await.unwrap();
    assert_eq!(home.callers("g").await, ["a.f"]);
    assert!(Arc::ptr_eq(&first[0], &home.kept()[0]));
    home.index("r", &[("b.py", "from a import g\n\ndef h():\n    g()\n")])
        .await
        .unwrap();
    assert_eq!(home.callers("g").await, ["a.f", "b.h"]);
    assert_eq!(home.kept().len(), 1);
}

#[tokio::test]
async fn what_finds_no_room_is_told_and_all_of_it_is_a_refusal() {
    let mut home = home();
    home.access.owner = crate::memory::Owner::Account(7);
    home.access.account = 7;
    home.access.quota = Quota {
        entries: 2,
        bytes: 1 << 20,
    };
    let three = [F, ("b.py", "x = 1\n"), ("c.py", "y = 1\n")];
    let report = home.index("r", &three).await.unwrap();
    assert_eq!((report.indexed, report.files), (2, 2));
    assert_eq!(report.skipped[0].path, "c.py");
    assert_eq!(report.skipped[0].reason, "quota_exceeded");
    let refused = home.index("r", &three[2..]).await.unwrap_err();
    assert!(
        matches!(refused, MemoryError::QuotaExceeded { .. }),
        "{refused}"
    );
    // What is there may still change.
    let report = home.index("r", &[("b.py", "z = 1\n")]).await.unwrap();
    assert_eq!(report.indexed, 1);
}

#[tokio::test]
async fn repositories_that_are_asked_about_most_recently_stay() {
    let mut kept = Kept::default();
    let name = |number: usize| {
        let scope = ScopeKey::new(crate::memory::Owner::Operator, MemoryTier::Codegraph, None);
        (scope, format!("{number}/"))
    };
    let loaded = |bytes| {
        Arc::new(Loaded {
            repository: Repository::new("r", Vec::new()),
            states: vec![("a".to_owned(), 1)],
            bytes,
            is_partial: false,
        })
    };
    let third = KEPT_BYTES_MAX / 3;
    for number in 0..3 {
        kept.keep(name(number), loaded(third));
    }
    assert!(kept.get(&name(0), &[("a".to_owned(), 1)]).is_some());
    kept.keep(name(3), loaded(third));
    assert!(!kept.repositories.contains_key(&name(1)));
    // One that is not as it was goes.
    assert!(kept.get(&name(0), &[("a".to_owned(), 2)]).is_none());
    // One that is larger than all may be is kept alone.
    kept.keep(name(4), loaded(KEPT_BYTES_MAX * 2));
    assert_eq!(kept.repositories.len(), 1);
}

#[tokio::test]
async fn a_name_of_a_repository_is_a_name() {
    let home = home();
    for repo in [
        "",
        "a\n",
        &"r".repeat(REPO_BYTES_MAX + 1),
        &"/".repeat(REPO_BYTES_MAX),
    ] {
        let refused = home.index(repo, &[F]).await.unwrap_err();
        assert!(
            matches!(refused, MemoryError::Invalid { field: "repo", .. }),
            "{refused}"
        );
    }
    // The longest name and path fit into a key.
    let longest = REPO_BYTES_MAX + 1 + crate::codegraph::limits::PATH_BYTES_MAX;
    assert!(longest <= crate::memory::limits::KEY_BYTES_MAX);
    let path = format!(
        "{}.py",
        "p".repeat(crate::codegraph::limits::PATH_BYTES_MAX - 3)
    );
    let report = home
        .index(&"/".repeat(REPO_BYTES_MAX / 3), &[(&path, F.1)])
        .await
        .unwrap();
    assert_eq!(report.indexed, 1);
    for repo in ["a/b", "a%2Fb", "%", "a b"] {
        assert_eq!(unescaped(&escaped(repo)), repo);
        assert!(!escaped(repo).contains('/'));
    }
}
