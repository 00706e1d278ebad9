//! How a repository is brought up to date.

use aither_node::codegraph::{
    Changes, IndexReport, SkipReason, SourceFile, TestStore,
    indexer::{index, normal},
};

fn file(path: &str, text: &str) -> SourceFile {
    SourceFile {
        path: path.to_owned(),
        content: Ok(text.to_owned()),
    }
}

fn bring(store: &mut TestStore, files: Vec<SourceFile>) -> IndexReport {
    let changes = Changes {
        files,
        ..Changes::default()
    };
    index(store, changes).unwrap()
}

fn paths(store: &TestStore) -> Vec<String> {
    store.graphs().into_iter().map(|(path, _)| path).collect()
}

#[test]
fn what_has_not_changed_is_left_alone() {
    let mut store = TestStore::default();
    let report = bring(
        &mut store,
        vec![file("a.rs", "fn a() { b(); }"), file("b.py", "import c")],
    );
    assert_eq!((report.files, report.indexed, report.unchanged), (2, 2, 0));
    assert_eq!((report.symbols, report.calls, report.imports), (1, 1, 1));
    assert_eq!(report.languages["rust"], 1);
    assert_eq!(report.languages["python"], 1);
    let report = bring(
        &mut store,
        vec![file("a.rs", "fn c() {}"), file("./b.py", "import c")],
    );
    assert_eq!((report.files, report.indexed, report.unchanged), (2, 1, 1));
    assert_eq!(store.graphs()[0].1.symbols[0].name, "c");
}

#[test]
fn files_go_where_that_is_said() {
    let mut store = TestStore::default();
    let all = || {
        ["a.rs", "b.rs", "c.rs", "d.rs"]
            .map(|path| file(path, "fn a() {}"))
            .to_vec()
    };
    bring(&mut store, all());
    let removed = Changes {
        remove: vec!["b.rs".into(), "nothing.rs".into(), "../d.rs".into()],
        ..Changes::default()
    };
    let report = index(&mut store, removed).unwrap();
    assert_eq!((report.removed, report.files), (1, 3));
    let replaced = Changes {
        files: vec![file("e.rs", "fn e() {}"), file("a.rs", "fn a() {}")],
        replaces: true,
        keep: vec!["./c.rs".into()],
        ..Changes::default()
    };
    let report = index(&mut store, replaced).unwrap();
    assert_eq!(
        (report.removed, report.indexed, report.unchanged),
        (1, 1, 1)
    );
    assert_eq!(report.files, 3);
    assert_eq!(paths(&store), ["a.rs", "c.rs", "e.rs"]);
}

#[test]
fn what_cannot_be_read_is_told_and_forgotten() {
    let mut store = TestStore::default();
    bring(&mut store, vec![file("a.rs", "fn a() {}")]);
    let report = bring(
        &mut store,
        vec![
            file("a.rs", "// @generated\n"),
            file("../b.rs", "fn b() {}"),
            file("/b.rs", "fn b() {}"),
            file("c.txt", "text"),
            SourceFile {
                path: "d.rs".into(),
                content: Err(SkipReason::Binary),
            },
        ],
    );
    let skipped: Vec<_> = report
        .skipped
        .iter()
        .map(|s| (&*s.path, &*s.reason))
        .collect();
    assert_eq!(
        skipped,
        [
            ("a.rs", "generated"),
            ("../b.rs", "bad_path"),
            ("/b.rs", "bad_path"),
            ("c.txt", "unknown_language"),
            ("d.rs", "binary"),
        ]
    );
    // What was known of it is not true any more.
    assert_eq!((report.files, report.removed), (0, 1));
    assert!(paths(&store).is_empty());
}

#[test]
fn paths_stay_inside() {
    for (path, kept) in [
        ("a/b.rs", Some("a/b.rs")),
        ("./a//b.rs", Some("a/b.rs")),
        ("a\\b.rs", Some("a/b.rs")),
        ("..rs", Some("..rs")),
        ("a/../b.rs", None),
        ("..", None),
        ("/etc/a.rs", None),
        ("C:\\a.rs", None),
        ("a\n.rs", None),
        ("", None),
        (".", None),
    ] {
        assert_eq!(normal(path).as_deref(), kept, "{path:?}");
    }
    assert_eq!(normal(&"a".repeat(381)), None);
}
