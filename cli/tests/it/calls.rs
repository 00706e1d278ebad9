//! Calling agents, their logs and the marketplace.

use serde_json::json;

use crate::{
    DONE, answer, document, event_stream, problem,
    support::{Canned, cli},
};

const TASK: &str = r#"{"task_id": "01T", "status": "completed", "result": "42 is the answer",
                       "agent_used": "lyra", "node": "12D3", "cost_tokens": 3, "receipt": null}"#;

fn unknown() -> String {
    problem("404 Not Found", "there is no such agent", "unknown_agent")
}

#[test]
fn a_name_that_nobody_has_is_a_skill() {
    let server = Canned::start_all(vec![unknown(), document(TASK)]);
    let run = cli()
        .server(&server.url())
        .args([
            "call",
            "deep_research",
            "what",
            "is",
            "it",
            "--max-cost",
            "5",
        ])
        .run();
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(run.stdout, "42 is the answer\n");
    assert_eq!(run.stderr, "(lyra answered, 3 tokens, task 01T)\n");
    assert!(
        server
            .request()
            .starts_with("GET /v1/agents/deep_research ")
    );
    let request = server.request();
    assert!(request.starts_with("POST /v1/a2a/tasks "), "{request}");
    for part in [
        "\"skill\":\"deep_research\"",
        "\"input\":\"what is it\"",
        "\"max_cost\":5",
    ] {
        assert!(request.contains(part), "{part} in {request}");
    }
}

#[test]
fn an_agent_is_called_by_name_and_its_endpoint_gets_json() {
    let server = Canned::start_all(vec![document("{}"), document(TASK)]);
    let run = cli()
        .server(&server.url())
        .args([
            "call",
            "lyra",
            "{\"depth\": 2}",
            "--endpoint",
            "/look",
            "--json",
        ])
        .run();
    assert_eq!(run.code, 0, "{}", run.stderr);
    let told: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(told["cost_tokens"], 3);
    let _ = server.request();
    let request = server.request();
    assert!(request.contains("\"agent\":\"lyra\""), "{request}");
    assert!(request.contains("\"payload\":{\"depth\":2}"), "{request}");
    let run = cli()
        .args(["call", "lyra", "words", "--endpoint", "/look"])
        .run();
    assert_eq!(run.code, 2, "{}", run.stderr);
}

#[test]
fn a_stream_is_printed_as_it_comes_and_its_failure_is_the_commands() {
    let server = Canned::start_all(vec![document("{}"), event_stream(DONE)]);
    let run = cli()
        .server(&server.url())
        .args(["call", "lyra", "hi", "--stream"])
        .run();
    assert_eq!((run.code, &*run.stdout), (0, "Paris\n"), "{}", run.stderr);
    let broken = "event: delta\ndata: {\"text\": \"Par\"}\n\n\
                  event: error\ndata: {\"detail\": \"the agent broke off\", \"code\": \"bad\"}\n\n";
    let server = Canned::start_all(vec![document("{}"), event_stream(broken)]);
    let run = cli()
        .server(&server.url())
        .args(["call", "lyra", "hi", "--stream"])
        .run();
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("the agent broke off"), "{}", run.stderr);
}

#[test]
fn a_call_that_fails_says_why() {
    let refused = problem(
        "504 Gateway Timeout",
        "lyra did not answer in 60 s",
        "timed_out",
    );
    let server = Canned::start_all(vec![document("{}"), refused]);
    let run = cli()
        .server(&server.url())
        .args(["call", "lyra", "hi"])
        .run();
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("did not answer"), "{}", run.stderr);
}

#[test]
fn a_log_is_a_line_for_each_event() {
    let items = json!({"items": [
        {"id": "1", "time": "2026-01-01T00:00:00Z", "event": "agent.lyra.lifecycle",
         "data": {"from": "BOOT", "to": "LIVE"}},
        {"id": "2", "time": "2026-01-01T00:00:01Z", "event": "agent.lyra.call.completed",
         "data": {"cost": 3, "status": 200}},
    ], "next_cursor": null});
    let server = Canned::start(&document(&items.to_string()));
    let run = cli()
        .server(&server.url())
        .args(["logs", "lyra", "-n", "2"])
        .run();
    assert_eq!(
        run.stdout,
        "2026-01-01T00:00:00Z  agent.lyra.lifecycle  from=BOOT  to=LIVE\n\
         2026-01-01T00:00:01Z  agent.lyra.call.completed  cost=3  status=200\n"
    );
    assert!(
        server
            .request()
            .starts_with("GET /v1/agents/lyra/logs?limit=2 ")
    );
    let followed = "id: 3\nevent: agent.lyra.lifecycle\n\
                    data: {\"agent\":\"lyra\",\"data\":{\"to\":\"PAIN\"},\"time\":\"t\"}\n\n";
    let server = Canned::start(&event_stream(followed));
    let run = cli()
        .server(&server.url())
        .args(["logs", "lyra", "-f"])
        .run();
    assert_eq!(run.stdout, "t  agent.lyra.lifecycle  to=PAIN\n");
    assert!(server.request().contains("follow=true&limit=50 "));
}

#[test]
fn offers_are_listed_made_and_taken_back() {
    let items = json!({"items": [{"name": "lyra", "price_per_request": 2.5}], "next_cursor": null});
    let server = Canned::start(&document(&items.to_string()));
    let run = cli()
        .server(&server.url())
        .args(["marketplace", "--sort", "price", "-q", "research"])
        .run();
    assert!(run.stdout.contains("lyra    2.5"), "{}", run.stdout);
    let request = server.request();
    assert!(
        request.contains("?limit=500&sort=price&q=research "),
        "{request}"
    );

    let server = Canned::start(&document("{\"agent\": \"lyra\"}"));
    let run = cli()
        .server(&server.url())
        .args(["marketplace", "list", "lyra", "--price", "2.5"])
        .run();
    assert_eq!(
        run.stdout, "lyra is offered for 2.5 tokens a call\n",
        "{}",
        run.stderr
    );
    let request = server.request();
    assert!(
        request.contains("{\"agent\":\"lyra\",\"price_per_request\":2.5}"),
        "{request}"
    );

    let server = Canned::start(&answer("204 No Content", "", ""));
    let run = cli()
        .server(&server.url())
        .args(["marketplace", "unlist", "lyra"])
        .run();
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(
        server
            .request()
            .starts_with("DELETE /v1/marketplace/listings?agent=lyra ")
    );
}
