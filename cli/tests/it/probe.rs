//! `aither-cli test` on agents of a few lines, which need nothing but Python.

use std::{fs, path::Path};

use crate::support::cli;

const SPEC: &str = "\
name: my-agent
version: 1.0.0
description: Answers.
author: Ann
runtime: {language: python3.12, entrypoint: main.py}
skills:
  - {id: chat, name: Chat, description: Chats., tags: [chat], examples: [Why?]}
capabilities: [llm_inference]
billing: {token_cost_per_request: 1, category: agent}
health: {endpoint: /health}
endpoints:
  - {path: /chat, method: POST, description: Chat}
  - {path: /look, method: POST, description: Look}
  - {path: /health, method: GET, description: Health}
";

const AGENT: &str = r#"
import http.server, json, os, sys

class Agent(http.server.BaseHTTPRequestHandler):
    def answer(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer(200, {"status": "healthy"})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/chat" and asked["message"] == "Why?":
            self.answer(200, {"response": "because"})
        elif self.path == "/look":
            self.answer(LOOK, {"detail": "no"})
        else:
            self.answer(400, {})

LOOK = 422
print("listening", flush=True)
port = int(os.environ["PORT"])
http.server.HTTPServer((os.environ["HOST"], port), Agent).serve_forever()
"#;

fn agent(main: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("aither-agent.yaml"), SPEC).unwrap();
    fs::write(directory.path().join("main.py"), main).unwrap();
    directory
}

fn test(directory: &Path) -> crate::support::Run {
    cli().arg("test").arg(directory.to_str().unwrap()).run()
}

#[test]
fn an_agent_that_answers_passes_and_does_not_stay() {
    let directory = agent(AGENT);
    let run = test(directory.path());
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    let rows: Vec<Vec<&str>> = run
        .stdout
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows.len(), 4, "{}", run.stdout);
    assert_eq!(rows[1][..3], ["POST", "/chat", "200"]);
    assert_eq!(rows[1][5..], ["ok"]);
    assert_eq!(rows[2][..3], ["POST", "/look", "422"]);
    assert!(
        run.stdout.contains("ok, it wants other input"),
        "{}",
        run.stdout
    );
    assert_eq!(rows[3][..2], ["GET", "/health"]);
}

#[test]
fn what_fails_is_named_with_what_the_agent_said() {
    let directory = agent(&AGENT.replace("LOOK = 422", "LOOK = 500"));
    let run = cli()
        .args(["test", directory.path().to_str().unwrap(), "--json"])
        .run();
    assert_eq!(run.code, 1, "{}", run.stdout);
    let report: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(report["ok"], false);
    assert_eq!(report["endpoints"][1]["ok"], false);
    assert_eq!(report["endpoints"][1]["status"], 500);
    assert_eq!(report["endpoints"][2]["ok"], true);
    assert!(run.stderr.contains("| listening"), "{}", run.stderr);
    assert!(run.stderr.contains("1 of 3 endpoints"), "{}", run.stderr);
}

#[test]
fn an_agent_that_ends_is_shown_with_its_last_words() {
    let directory = agent("raise SystemExit('no module named soul')");
    let run = test(directory.path());
    assert_eq!(run.code, 1, "{}", run.stdout);
    assert!(
        run.stderr.contains("no module named soul"),
        "{}",
        run.stderr
    );
    assert!(
        run.stderr.contains("ended before it was healthy"),
        "{}",
        run.stderr
    );
}

#[test]
fn an_agent_that_is_not_healthy_in_time_says_what_it_lacks() {
    let directory = agent(&AGENT.replace("healthy", "tired"));
    let run = cli()
        .args(["test", directory.path().to_str().unwrap(), "--timeout", "2"])
        .run();
    assert_eq!(run.code, 1, "{}", run.stdout);
    assert!(
        run.stderr.contains("must answer 200 with"),
        "{}",
        run.stderr
    );
}

#[test]
fn a_wrong_file_is_told_before_anything_runs() {
    let directory = agent(AGENT);
    let spec = SPEC.replace("name: my-agent", "name: My Agent");
    fs::write(directory.path().join("aither-agent.yaml"), spec).unwrap();
    let run = test(directory.path());
    assert_eq!(run.code, 1);
    assert!(
        run.stderr.contains("aither-agent.yaml:1:"),
        "{}",
        run.stderr
    );
}
