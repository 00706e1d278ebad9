//! What is asked of a repository.

use aither_node::codegraph::{Direction, Query, QueryRow, Relation};

use super::{fixture, repository, repository_of};

fn ask(fixture_name: &str, query: Query) -> Vec<QueryRow> {
    repository(&fixture(fixture_name)).ask(&query)
}

fn about(symbol: &str) -> Query {
    Query {
        symbol: Some(symbol.to_owned()),
        ..Query::default()
    }
}

fn names(rows: &[QueryRow]) -> Vec<&str> {
    rows.iter().map(|row| row.symbol.as_str()).collect()
}

#[test]
fn a_name_is_found_with_and_without_what_it_stands_in() {
    for name in [
        "Thing::heavy",
        "heavy",
        "store::Thing::heavy",
        "app::store::Thing::heavy",
        "heavy()",
    ] {
        let rows = ask("rust", about(name));
        assert_eq!(names(&rows), ["app::store::Thing::heavy"], "{name}");
        let row = &rows[0];
        assert_eq!(
            (row.kind, row.file.as_deref()),
            ("method", Some("app/src/store.rs"))
        );
        assert_eq!((row.line, row.end_line), (Some(41), Some(43)));
        assert_eq!(row.signature.as_deref(), Some("fn heavy(&self) -> Grams"));
        assert_eq!((row.depth, row.direction), (0, None));
    }
    assert!(ask("rust", about("Store::heavy")).is_empty());
    assert!(ask("rust", about("")).is_empty());
    assert!(ask("rust", about("::")).is_empty());
    let file = ask("python", about("shop/store.py"));
    assert_eq!(
        (file[0].kind, file[0].doc.as_deref()),
        ("file", Some("Things by name."))
    );
}

#[test]
fn callers_are_calls_the_other_way() {
    let query = Query {
        relation: Some(Relation::Calls),
        direction: Some(Direction::In),
        ..about("Store::total")
    };
    let rows = ask("rust", query.clone());
    assert_eq!(names(&rows), ["app::weigh", "app::Scale::read"]);
    assert_eq!(rows[0].via.as_deref(), Some("app::store::Store::total"));
    let site = rows[0].site.as_ref().unwrap();
    assert_eq!((site.file.as_str(), site.line), ("app/src/lib.rs", 21));
    let deep = ask("rust", Query { depth: 2, ..query });
    let deep: Vec<_> = deep
        .iter()
        .map(|row| (row.symbol.as_str(), row.depth))
        .collect();
    assert_eq!(
        deep,
        [
            ("app::weigh", 1),
            ("app::Scale::read", 1),
            ("app::tests::nothing_weighs_nothing", 2),
            ("tests::flow::a_store_is_weighed", 2),
        ]
    );
}

#[test]
fn without_a_direction_both_are_told() {
    let query = Query {
        relation: Some(Relation::Calls),
        ..about("units.Make")
    };
    let rows = ask("go", query);
    let rows: Vec<_> = rows
        .iter()
        .map(|row| (row.direction, row.symbol.as_str()))
        .collect();
    assert_eq!(
        rows,
        [
            (Some(Direction::Out), "units.Grams"),
            (Some(Direction::In), "store.Scale.Read"),
            (Some(Direction::In), "units.Grams.Double"),
        ]
    );
}

#[test]
fn a_type_calls_what_its_methods_call() {
    let query = Query {
        relation: Some(Relation::Calls),
        direction: Some(Direction::Out),
        ..about("Thing")
    };
    let rows = ask("rust", query);
    assert_eq!(
        names(&rows),
        ["app::units::Grams", "app::units::Unit::twice"]
    );
}

#[test]
fn definitions_tell_their_members() {
    let query = Query {
        relation: Some(Relation::Defines),
        direction: Some(Direction::Out),
        ..about("Grams")
    };
    let rows = ask("python", query);
    assert_eq!(
        names(&rows),
        [
            "shop.units.Grams",
            "shop.units.Grams.__init__",
            "shop.units.Grams.double"
        ]
    );
}

#[test]
fn imports_are_told_of_files_and_of_what_they_bring() {
    let query = Query {
        relation: Some(Relation::Imports),
        direction: Some(Direction::In),
        ..about("src/units.js")
    };
    assert_eq!(names(&ask("script", query)), ["src.app"]);
    let query = Query {
        relation: Some(Relation::Imports),
        direction: Some(Direction::In),
        ..about("convert")
    };
    let rows = ask("script", query);
    assert_eq!(names(&rows), ["src.app", "src"]);
}

#[test]
fn references_are_uses_that_call_nothing() {
    let query = Query {
        relation: Some(Relation::References),
        direction: Some(Direction::In),
        ..about("LOAD_MAX")
    };
    let rows = ask("rust", query);
    assert_eq!(
        names(&rows),
        ["app::guard", "tests::flow::a_store_is_weighed"]
    );
}

#[test]
fn words_find_names_signatures_and_documentation() {
    let first = |fixture_name, words: &str| {
        let query = Query {
            words: Some(words.to_owned()),
            ..Query::default()
        };
        ask(fixture_name, query)[0].symbol.clone()
    };
    assert_eq!(first("rust", "weighs what is in a store"), "app::weigh");
    assert_eq!(first("rust", "most one customer carries"), "app::LOAD_MAX");
    assert_eq!(first("python", "make store"), "shop.store.make");
    assert_eq!(first("go", "new scale"), "store.newScale");
    let query = Query {
        words: Some("zebra".into()),
        ..Query::default()
    };
    assert!(ask("go", query).is_empty());
}

#[test]
fn files_that_were_found_by_meaning_come_up() {
    let query = Query {
        words: Some("kilograms".into()),
        files: vec![("app/src/units.rs".into(), 0.9), ("gone.rs".into(), 1.0)],
        ..Query::default()
    };
    let rows = ask("rust", query);
    assert!(
        rows.iter()
            .all(|row| row.file.as_deref() == Some("app/src/units.rs"))
    );
    assert!(rows.iter().any(|row| row.name == "Grams"));
}

#[test]
fn one_of_several_that_may_be_meant_is_no_ground_for_more() {
    let files = [
        ("a.py", "def run(thing):\n    thing.weigh_all()\n"),
        (
            "b.py",
            "class A:\n    def weigh_all(self):\n        deep()\n\ndef deep():\n    pass\n",
        ),
        ("c.py", "class B:\n    def weigh_all(self):\n        pass\n"),
    ];
    let rows = repository_of(&files).ask(&Query {
        relation: Some(Relation::Calls),
        direction: Some(Direction::Out),
        depth: 3,
        ..about("run")
    });
    assert_eq!(names(&rows), ["b.A.weigh_all", "c.B.weigh_all"]);
}

#[test]
fn an_answer_has_no_more_rows_than_were_asked_for() {
    let many: String = (0..100)
        .map(|number| format!("def f{number}():\n    g()\n\n"))
        .collect();
    let text = format!("{many}def g():\n    pass\n");
    let repository = repository_of(&[("a.py", text.as_str())]);
    for limit in [1, 7, 100] {
        let rows = repository.ask(&Query {
            relation: Some(Relation::Calls),
            limit,
            ..about("g")
        });
        assert_eq!(rows.len(), limit);
    }
}
