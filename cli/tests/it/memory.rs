//! Memory from the command line.

use serde_json::{Value, json};

use crate::{
    document,
    support::{Canned, cli},
};

fn body(request: &str) -> Value {
    let (_, body) = request.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap()
}

#[test]
fn a_value_is_json_where_it_can_be_and_else_a_text() {
    for (typed, value) in [
        ("{\"a\": [1]}", json!({"a": [1]})),
        ("-1.5", json!(-1.5)),
        ("two words", json!("two words")),
        ("null", json!(null)),
    ] {
        let server = Canned::start(&document(r#"{"tier": "spirit", "key": "k", "version": 3}"#));
        let run = cli()
            .server(&server.url())
            .args(["memory", "write", "spirit", "k", typed])
            .args([
                "--tag",
                "a",
                "--tag",
                "b",
                "--ttl",
                "7d",
                "--if-version",
                "2",
            ])
            .run();
        assert_eq!((run.code, run.stdout.as_str()), (0, "k is at version 3\n"));
        let request = server.request();
        assert!(request.starts_with("POST /v1/memory/write "), "{request}");
        let expected = json!({
            "tier": "spirit", "key": "k", "value": value, "ttl": "7d", "tags": ["a", "b"],
            "if_version": 2
        });
        assert_eq!(body(&request), expected);
    }
}

#[test]
fn a_text_is_printed_as_it_is_and_other_values_as_json() {
    for (value, printed) in [
        (r#""a \"text\"\u001b[2J""#, "a \"text\"\u{fffd}[2J\n"),
        (r#"{"n": 1.50}"#, "{\"n\": 1.50}\n"),
    ] {
        let answer = format!("{{\"tier\": \"active\", \"key\": \"k\", \"value\": {value}}}");
        let server = Canned::start(&document(&answer));
        let run = cli()
            .server(&server.url())
            .args(["memory", "read", "active", "k", "--session", "s"])
            .run();
        assert_eq!((run.code, run.stdout.as_str()), (0, printed));
        let expected = json!({"tier": "active", "session_id": "s", "key": "k"});
        assert_eq!(body(&server.request()), expected);
    }
}

#[test]
fn all_pages_of_a_list_are_one_table() {
    let page = |key: &str, cursor: Option<&str>| {
        let item = json!({
            "tier": "working", "key": key, "version": 1, "created_at": "T", "updated_at": "T",
            "tags": [], "value_bytes": 7
        });
        document(&json!({"items": [item], "next_cursor": cursor}).to_string())
    };
    let server = Canned::start_all(vec![page("a/1", Some("next")), page("a/2\nforged", None)]);
    let run = cli()
        .server(&server.url())
        .args(["memory", "ls", "working", "a/", "--task", "t"])
        .run();
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(run.stdout.lines().count(), 3, "{}", run.stdout);
    let first = server.request();
    let path = "GET /v1/memory/list?limit=500&tier=working&prefix=a%2F&task_id=t ";
    assert!(first.starts_with(path), "{first}");
    assert!(server.request().contains("&cursor=next "));
}

#[test]
fn a_search_shows_what_was_found_and_where() {
    let answer = json!({"results": [
        {"tier": "active", "key": "last_query", "value": {"q": "quantum"}, "score": 0.91234},
    ]});
    let server = Canned::start(&document(&answer.to_string()));
    let run = cli()
        .server(&server.url())
        .args(["memory", "search", "what", "did", "they", "ask"])
        .args([
            "--tiers",
            "active,spirit",
            "--limit",
            "5",
            "--mode",
            "keyword",
        ])
        .run();
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(
        run.stdout
            .contains("0.912  active  last_query  {\"q\":\"quantum\"}")
    );
    let expected = json!({
        "query": "what did they ask", "tiers": ["active", "spirit"], "limit": 5, "mode": "keyword"
    });
    assert_eq!(body(&server.request()), expected);
}

#[test]
fn a_tier_that_is_none_is_bad_usage() {
    let run = cli().args(["memory", "ls", "attic"]).run();
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("working"), "{}", run.stderr);
}

#[test]
fn deleting_says_what_is_gone() {
    let server = Canned::start(&document(
        r#"{"tier": "spirit", "key": "k", "deleted": true}"#,
    ));
    let run = cli()
        .server(&server.url())
        .args(["memory", "rm", "spirit", "k"])
        .run();
    assert_eq!((run.code, run.stdout.as_str()), (0, "deleted k\n"));
    let request = server.request();
    assert!(request.starts_with("POST /v1/memory/delete "), "{request}");
}
