//! The built `aither-cli` against a node and against servers that are none.
//!
//! The real node runs on a temporary directory where `AITHER_NODE_BIN` and `AITHER_TEST_MODEL`
//! name it and its model, as `scripts/test.sh` does; without them those tests have nothing to look
//! at, which CI does not accept. Refusals, broken connections and hostile answers come from a
//! server of a few lines that sends recorded bytes.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where it stopped"
)]

mod agents;
mod billing;
mod calls;
mod init;
mod memory;
mod onboard;
mod probe;
mod support;

use serde_json::Value;
use support::{Canned, Node, cli};

const DONE: &str = "event: delta\ndata: {\"text\": \"Par\"}\n\n\
                    : still here\n\n\
                    event: delta\ndata: {\"text\": \"is\"}\n\n\
                    event: done\ndata: {\"text\": \"Paris\", \"finish_reason\": \"stop\"}\n\n";

fn event_stream(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n{body}")
}

/// An answer of 200 with a document.
fn document(body: &str) -> String {
    answer("200 OK", "content-type: application/json\r\n", body)
}

/// A refusal with the words of a node.
fn problem(status: &str, detail: &str, code: &str) -> String {
    let body = serde_json::json!({"detail": detail, "code": code}).to_string();
    answer(status, "content-type: application/problem+json\r\n", &body)
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

#[test]
fn help_names_environment_and_exit_codes() {
    let run = cli().arg("--help").run();
    assert_eq!(run.code, 0);
    for word in [
        "AITHEROS_SERVER",
        "AITHEROS_API_KEY",
        "chat",
        "models",
        "init",
        "topup",
        "Exit codes",
    ] {
        assert!(run.stdout.contains(word), "{word} in\n{}", run.stdout);
    }
}

#[test]
fn unknown_command_is_bad_usage() {
    assert_eq!(cli().arg("fly").run().code, 2);
}

#[test]
fn no_server_is_exit_code_five_and_says_what_to_do() {
    let port = support::closed_port();
    let run = cli()
        .server(&format!("http://127.0.0.1:{port}"))
        .arg("models")
        .run();
    assert_eq!(run.code, 5, "{}", run.stderr);
    assert!(run.stderr.contains("aither-node run"), "{}", run.stderr);
    assert_eq!(run.stderr.trim_end().lines().count(), 1, "{}", run.stderr);
}

#[test]
fn address_that_is_none_is_bad_usage() {
    let run = cli().server("ftp://localhost").arg("models").run();
    assert_eq!(run.code, 2, "{}", run.stderr);
}

#[test]
fn pieces_of_an_answer_are_joined() {
    let server = Canned::start(&event_stream(DONE));
    let run = cli()
        .server(&server.url())
        .args(["chat", "capital", "of", "France?"])
        .run();
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (0, "Paris\n"),
        "{}",
        run.stderr
    );
    let request = server.request();
    assert!(request.starts_with("POST /v1/llm/chat "), "{request}");
    assert!(
        request.contains(r#""content":"capital of France?""#),
        "{request}"
    );
}

#[test]
fn json_prints_the_whole_object_alone() {
    let server = Canned::start(&event_stream(DONE));
    let run = cli()
        .server(&server.url())
        .args(["chat", "--json", "hi"])
        .run();
    let object: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(object["text"], "Paris");
}

#[test]
fn message_comes_from_a_pipe() {
    let server = Canned::start(&event_stream(DONE));
    let run = cli()
        .server(&server.url())
        .args(["chat", "--system", "be brief"])
        .run_with("hi\n");
    assert_eq!(run.code, 0, "{}", run.stderr);
    let request = server.request();
    assert!(
        request.contains(r#""role":"system","content":"be brief""#),
        "{request}"
    );
    assert!(request.contains(r#""content":"hi\n""#), "{request}");
}

#[test]
fn empty_message_is_bad_usage() {
    let run = cli()
        .server("http://127.0.0.1:1")
        .arg("chat")
        .run_with(" \n");
    assert_eq!(run.code, 2, "{}", run.stderr);
}

#[test]
fn refusal_is_exit_code_one_with_the_nodes_words() {
    let body = r#"{"detail": "no model `x`; served: smollm2:135m", "code": "model_not_found"}"#;
    let headers = "content-type: application/problem+json\r\n";
    let server = Canned::start(&answer("404 Not Found", headers, body));
    let run = cli()
        .server(&server.url())
        .args(["chat", "--model", "x", "hi"])
        .run();
    assert_eq!(run.code, 1);
    assert_eq!(
        run.stderr,
        "error: no model `x`; served: smollm2:135m (model_not_found)\n"
    );
}

#[test]
fn full_queue_says_when_to_try_again() {
    let body = r#"{"detail": "the queue is full", "code": "overloaded"}"#;
    let server = Canned::start(&answer(
        "503 Service Unavailable",
        "retry-after: 7\r\n",
        body,
    ));
    let run = cli().server(&server.url()).args(["chat", "hi"]).run();
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("try again in 7 s"), "{}", run.stderr);
}

#[test]
fn error_event_ends_the_command() {
    let body = "event: delta\ndata: {\"text\": \"Pa\"}\n\n\
                event: error\ndata: {\"detail\": \"out of memory\", \"code\": \"internal\"}\n\n";
    let server = Canned::start(&event_stream(body));
    let run = cli().server(&server.url()).args(["chat", "hi"]).run();
    assert_eq!((run.code, run.stdout.as_str()), (1, "Pa\n"));
    assert!(run.stderr.contains("out of memory"), "{}", run.stderr);
}

#[test]
fn answer_cut_off_half_way_is_a_failure() {
    let server = Canned::start(&event_stream("event: delta\ndata: {\"text\": \"Pa\"}\n\n"));
    let run = cli().server(&server.url()).args(["chat", "hi"]).run();
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("before it was whole"), "{}", run.stderr);
}

#[test]
fn server_that_is_no_node_is_named_as_such() {
    for response in [
        answer("200 OK", "content-type: text/html\r\n", "<html>"),
        event_stream("event: done\ndata: not json\n\n"),
        event_stream(&format!("data: {}", "x".repeat(9 * 1024 * 1024))),
    ] {
        let server = Canned::start(&response);
        let run = cli().server(&server.url()).args(["chat", "hi"]).run();
        assert_eq!(run.code, 1);
        assert!(
            run.stderr.contains("is it an AitherOS node"),
            "{}",
            run.stderr
        );
    }
}

#[test]
fn redirect_is_not_followed() {
    let target = Canned::start(&answer("200 OK", "", r#"{"data": []}"#));
    let headers = format!("location: {}\r\n", target.url());
    let server = Canned::start(&answer("302 Found", &headers, ""));
    let run = cli()
        .server(&server.url())
        .key("secret")
        .arg("models")
        .run();
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert!(!target.was_asked());
}

#[test]
fn admin_key_is_sent_to_the_local_node_only() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("admin.key"), "admin-words\n").unwrap();
    let node = Canned::start(&answer("200 OK", "", r#"{"data": []}"#));
    let run_file = format!(r#"{{"http": "{}"}}"#, node.url());
    std::fs::write(directory.path().join("run.json"), run_file).unwrap();
    let other = Canned::start(&answer("200 OK", "", r#"{"data": []}"#));
    for server in [&node, &other] {
        let run = cli()
            .server(&server.url())
            .data_dir(directory.path())
            .arg("models")
            .run();
        assert_eq!(run.code, 0, "{}", run.stderr);
    }
    assert!(node.request().contains("authorization: Bearer admin-words"));
    assert!(!other.request().contains("authorization"));
}

#[test]
fn models_are_a_table() {
    let body = r#"{"data": [{"id": "smollm2:135m", "parameters": 134515008,
                             "quantization": "Q4_1", "context_length": 8192, "loaded": false},
                            {"id": "evil\u001b[2J"}]}"#;
    let server = Canned::start(&answer("200 OK", "", body));
    let run = cli().server(&server.url()).arg("models").run();
    assert_eq!(run.code, 0, "{}", run.stderr);
    let lines: Vec<Vec<&str>> = run
        .stdout
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines[1], ["smollm2:135m", "135M", "Q4_1", "8192", "no"]);
}

#[test]
fn closed_output_ends_quietly() {
    let server = Canned::start(&event_stream(DONE));
    let run = cli()
        .server(&server.url())
        .args(["chat", "hi"])
        .run_with_closed_output();
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
}

#[test]
fn real_node_lists_its_model_and_answers() {
    let Some(node) = Node::start() else { return };
    let models = cli()
        .server(&node.url)
        .data_dir(node.data_dir())
        .arg("models")
        .run();
    assert_eq!(models.code, 0, "{}", models.stderr);
    assert!(models.stdout.contains("Q4_1"), "{}", models.stdout);
    let ask = [
        "chat",
        "--json",
        "--temperature",
        "0",
        "--max-tokens",
        "16",
        "Capital of France?",
    ];
    let chat = cli()
        .server(&node.url)
        .data_dir(node.data_dir())
        .args(ask)
        .run();
    assert_eq!(chat.code, 0, "{}", chat.stderr);
    let object: Value = serde_json::from_str(&chat.stdout).unwrap();
    assert!(
        object["completion_tokens"]
            .as_u64()
            .is_some_and(|count| count > 0),
        "{object}"
    );
    let wrong = cli().server(&node.url).key("wrong").arg("models").run();
    assert_eq!(wrong.code, 1);
    assert!(
        wrong.stderr.contains("AITHEROS_API_KEY"),
        "{}",
        wrong.stderr
    );
}

#[test]
fn real_node_refuses_an_unknown_model_in_words() {
    let Some(node) = Node::start() else { return };
    let run = cli()
        .server(&node.url)
        .data_dir(node.data_dir())
        .args(["chat", "--model", "no-such-model", "hi"])
        .run();
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("model_not_found"), "{}", run.stderr);
}
