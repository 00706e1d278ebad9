//! Listing agents.

use serde_json::{Value, json};

use crate::{
    document,
    support::{Canned, cli},
};

fn page(items: &Value, next_cursor: Option<&str>) -> String {
    document(&json!({"items": items, "next_cursor": next_cursor}).to_string())
}

fn agent(name: &str) -> Value {
    json!({
        "name": name, "id": "01K", "node": "12D3", "local": true, "state": "LIVE",
        "skills": ["chat"], "price": 1.5, "latency_ms": 3.2, "load": null, "reputation": null
    })
}

#[test]
fn all_pages_of_the_node_are_one_table() {
    let server = Canned::start_all(vec![
        page(&json!([agent("first")]), Some("a b&c")),
        page(&json!([agent("second")]), None),
    ]);
    let run = cli()
        .server(&server.url())
        .args(["agents", "--skill", "chat"])
        .run();
    assert_eq!(run.code, 0, "{}", run.stderr);
    let rows: Vec<Vec<&str>> = run
        .stdout
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows.len(), 3, "{}", run.stdout);
    assert_eq!(rows[1], ["first", "LIVE", "1.5", "3", "ms", "-", "chat"]);
    assert_eq!(rows[2][0], "second");
    let first = server.request();
    assert!(
        first.starts_with("GET /v1/agents?limit=500&skill=chat&local=true "),
        "{first}"
    );
    let second = server.request();
    assert!(second.contains("&cursor=a+b%26c "), "{second}");
}

#[test]
fn other_nodes_are_asked_for_by_name() {
    let server = Canned::start(&page(&json!([agent("far")]), None));
    let run = cli()
        .server(&server.url())
        .args(["agents", "--all-nodes"])
        .run();
    assert!(run.stdout.contains("12D3"), "{}", run.stdout);
    assert!(!server.request().contains("local="));
}

#[test]
fn json_has_the_agents_of_all_pages() {
    let server = Canned::start_all(vec![
        page(&json!([agent("first")]), Some("2")),
        page(&json!([agent("second")]), None),
    ]);
    let run = cli().server(&server.url()).args(["agents", "--json"]).run();
    let list: Value = serde_json::from_str(&run.stdout).unwrap();
    let both = json!({"items": [agent("first"), agent("second")], "next_cursor": null});
    assert_eq!(list, both);
}

#[test]
fn empty_list_is_told_and_no_failure() {
    let server = Canned::start(&page(&json!([]), None));
    let run = cli().server(&server.url()).arg("agents").run();
    assert_eq!((run.code, run.stdout.as_str()), (0, ""));
    assert!(run.stderr.contains("--all-nodes"), "{}", run.stderr);
}

#[test]
fn list_without_an_end_is_given_up() {
    let same = page(&json!([agent("again")]), Some("same"));
    let server = Canned::start_all(vec![same.clone(), same.clone(), same]);
    let run = cli().server(&server.url()).arg("agents").run();
    assert_eq!((run.code, run.stdout.as_str()), (1, ""));
    assert!(run.stderr.contains("does not end"), "{}", run.stderr);
}

#[test]
fn hostile_list_is_shown_harmless_or_refused() {
    let server = Canned::start(&page(&json!([agent("evil\u{1b}[2J\nforged")]), None));
    let run = cli().server(&server.url()).arg("agents").run();
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(run.stdout.lines().count(), 2, "{}", run.stdout);
    assert!(!run.stdout.contains('\x1b'), "{}", run.stdout);
    for body in [
        "[]",
        r#"{"items": [{}]}"#,
        r#"{"items": [{"name": "a", "price": "1"}]}"#,
    ] {
        let server = Canned::start(&document(body));
        let run = cli().server(&server.url()).arg("agents").run();
        assert_eq!(run.code, 1, "{body}");
        assert!(
            run.stderr.contains("is it an AitherOS node"),
            "{}",
            run.stderr
        );
    }
}
