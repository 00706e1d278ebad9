//! The service on a real store: what is kept in memory, and what finds no room.

use super::{
    kept::{KEPT_BYTES_MAX, KEPT_MAX},
    *,
};
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

    /// Writes something into memory's part for code by itself.
    fn write(&self, key: &str, value: &str) {
        let graphs = Graphs::of(&self.service.memory, &self.access, "r").unwrap();
        let mut batch = Batch::new();
        let entry = WriteEntry {
            scope: graphs.scope.clone(),
            account: self.access.account,
            quota: self.access.quota,
            key: key.to_owned(),
            value: value.to_owned(),
            tags: Vec::new(),
            expires_ms: None,
            if_version: None,
            writer: self.access.writer.clone(),
            signature: None,
        };
        let sent = batch.send(key.to_owned(), |reply| {
            graphs.store.write(entry.clone(), now_ms(), reply)
        });
        sent.unwrap();
        for (_, outcome) in batch.outcomes().unwrap() {
            outcome.unwrap();
        }
    }

    async fn ask_for_callers(&self, repo: Option<&str>, symbol: &str) -> Found {
        let query = Query {
            symbol: Some(symbol.to_owned()),
            relation: Some(Relation::Calls),
            direction: Some(crate::codegraph::Direction::In),
            ..Query::default()
        };
        self.service.ask(&self.access, repo, query).await.unwrap()
    }

    async fn callers(&self, symbol: &str) -> Vec<String> {
        let found = self.ask_for_callers(None, symbol).await;
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
    // With a little room for what each takes beside.
    let third = KEPT_BYTES_MAX / 3 - (64 << 10);
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
    for number in 5..KEPT_MAX + 10 {
        kept.keep(name(number), loaded(0));
    }
    assert_eq!(kept.repositories.len(), KEPT_MAX);
}

#[tokio::test]
async fn of_a_repository_that_is_not_there_nothing_is_kept() {
    let home = home();
    let found = home.ask_for_callers(Some("none"), "g").await;
    assert_eq!(found, Found::default());
    assert!(home.kept().is_empty());
}

#[tokio::test]
async fn the_code_of_a_purged_agent_is_forgotten() {
    let mut home = home();
    home.index("r", &[F]).await.unwrap();
    home.callers("g").await;
    let operator = home.access.clone();
    for number in [7, 8] {
        home.access.owner = Owner::Agent(number);
        home.index("r", &[F]).await.unwrap();
        home.callers("g").await;
    }
    assert_eq!(home.kept().len(), 3);
    home.service.forget(Owner::Agent(7));
    assert_eq!(home.kept().len(), 2);
    // Also where nobody says so: with the next question.
    let store = home.service.memory.store().clone();
    store.begin_purge(Owner::Agent(8), now_ms()).unwrap();
    store.purge(now_ms()).unwrap();
    home.access = operator;
    home.callers("g").await;
    assert_eq!(home.kept().len(), 1);
}

#[tokio::test]
async fn odd_keys_are_no_repositories_and_hide_none() {
    let home = home();
    home.index("r", &[F]).await.unwrap();
    for number in 0..=REPOSITORIES_MAX {
        home.write(&format!("a{number}"), "1");
    }
    for key in ["/x", "%zz/x", "a%2fb/x"] {
        home.write(key, "1");
    }
    home.write(&format!("{}/x", "b".repeat(REPO_BYTES_MAX + 1)), "1");
    let found = home.ask_for_callers(None, "g").await;
    assert_eq!(found.rows.len(), 1);
    assert!(!found.is_partial);
}

#[tokio::test]
async fn a_forged_graph_with_long_texts_is_no_file() {
    let home = home();
    home.index("r", &[F]).await.unwrap();
    let mut graph = crate::codegraph::extract(F.0, F.1).unwrap();
    let forged = |graph: &FileGraph| serde_json::to_string(graph).unwrap();
    home.write("r/b.py", &forged(&graph));
    assert_eq!(home.callers("g").await, ["a.f", "b.f"]);
    graph.symbols[0].name = "f".repeat(900 << 10);
    home.write("r/b.py", &forged(&graph));
    assert_eq!(home.callers("g").await, ["a.f"]);
}

#[test]
fn an_answer_has_so_many_bytes_and_says_that_it_is_cut() {
    let graph = crate::codegraph::extract(F.0, F.1).unwrap();
    let repository = Repository::new("r", vec![(F.0.to_owned(), graph)]);
    let query = Query {
        symbol: Some("g".to_owned()),
        ..Query::default()
    };
    let row = repository.ask(&query).remove(0);
    let long = |score| FoundRow {
        repo: "r".to_owned(),
        row: QueryRow {
            via: Some("v".repeat(ANSWER_BYTES_MAX / 3)),
            score: Some(score),
            ..row.clone()
        },
    };
    let mut rows = vec![long(0.1), long(0.3), long(0.2)];
    assert!(keep_best(&mut rows, 50));
    let scores: Vec<_> = rows.iter().map(|found| found.row.score).collect();
    assert_eq!(scores, [Some(0.3), Some(0.2)]);
    assert!(!keep_best(&mut rows, 1));
    assert_eq!(rows.len(), 1);
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
