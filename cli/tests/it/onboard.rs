//! Taking an agent aboard.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::{
    answer, document, problem,
    support::{Canned, Cli, cli},
};

const KEY: &str = "aither_ak_very-secret";

fn bundle() -> Value {
    json!({
        "agent_id": "my-agent-1a2b3c4d", "agent_name": "my-agent", "status": "active",
        "mode": "hybrid", "api_key": KEY, "capability_token": KEY,
        "capabilities": ["llm_inference", "event_emit"],
        "inference_endpoints": {"chat": "http://127.0.0.1:8200/v1/llm/chat"},
    })
}

/// A folder with an agent in it.
fn agent() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let run = cli()
        .in_directory(directory.path())
        .args(["init", "my-agent"])
        .run();
    assert_eq!(run.code, 0, "{}", run.stderr);
    directory
}

fn onboard(directory: &Path, server: &str) -> Cli {
    cli()
        .in_directory(directory)
        .server(server)
        .key("account-key")
        .args(["onboard", "my-agent"])
}

fn bundle_file(directory: &Path) -> std::path::PathBuf {
    directory.join("my-agent/.aither/bundle.json")
}

#[test]
fn bundle_is_saved_and_its_key_never_shown() {
    let created = answer("201 Created", "", &bundle().to_string());
    let server = Canned::start_all(vec![created.clone(), created]);
    let directory = agent();
    for json in [false, true] {
        let mut command = onboard(directory.path(), &server.url());
        if json {
            command = command.arg("--json");
        }
        let run = command.run();
        assert_eq!(run.code, 0, "{}", run.stderr);
        let shown = run.stdout.clone() + &run.stderr;
        assert!(!shown.contains("secret"), "{shown}");
        for word in [
            "my-agent-1a2b3c4d",
            "active",
            "llm_inference",
            "bundle.json",
        ] {
            assert!(shown.contains(word), "{word} in {shown}");
        }
        assert_eq!(serde_json::from_str::<Value>(&run.stdout).is_ok(), json);
    }
    let saved = fs::read_to_string(bundle_file(directory.path())).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&saved).unwrap(), bundle());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let metadata = fs::metadata(bundle_file(directory.path())).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn card_is_sent_with_mode_and_address() {
    let server = Canned::start(&answer("201 Created", "", &bundle().to_string()));
    let directory = agent();
    let run = onboard(directory.path(), &server.url())
        .args(["--mode", "remote", "--agent-url", "http://127.0.0.1:9000"])
        .run();
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    let request = server.request();
    assert!(
        request.starts_with("POST /v1/agents/auto-onboard "),
        "{request}"
    );
    assert!(
        request.contains("authorization: Bearer account-key"),
        "{request}"
    );
    let (_, body) = request.split_once("\r\n\r\n").unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["mode"], "remote");
    let card = &body["agent_card"];
    assert_eq!(card["name"], "my-agent");
    assert_eq!(card["agent_url"], "http://127.0.0.1:9000");
    assert_eq!(card["health_endpoint"], "/health");
    assert_eq!(card["capabilities_requested"], json!(["llm_inference"]));
}

#[test]
fn agent_that_nobody_can_call_is_told_so() {
    let server = Canned::start(&answer("201 Created", "", &bundle().to_string()));
    let directory = agent();
    let run = onboard(directory.path(), &server.url()).run();
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("--agent-url"), "{}", run.stderr);
    assert!(server.request().contains(r#""mode":"hybrid""#));
}

#[test]
fn invalid_agent_is_not_sent() {
    let server = Canned::start(&document("{}"));
    let directory = agent();
    fs::remove_file(directory.path().join("my-agent/main.py")).unwrap();
    let run = onboard(directory.path(), &server.url()).run();
    assert_eq!((run.code, run.stdout.as_str()), (1, ""));
    assert!(run.stderr.contains("runtime.entrypoint"), "{}", run.stderr);
    assert!(!server.was_asked());
    let run = onboard(directory.path(), &server.url())
        .args(["--mode", "sideways"])
        .run();
    assert_eq!(run.code, 2, "{}", run.stderr);
}

#[test]
fn refusals_come_in_the_nodes_words() {
    for (status, detail, code) in [
        (
            "501 Not Implemented",
            "managed agents are not run here",
            "not_available",
        ),
        ("409 Conflict", "the name is taken", "conflict"),
    ] {
        let server = Canned::start(&problem(status, detail, code));
        let directory = agent();
        let run = onboard(directory.path(), &server.url())
            .args(["--mode", "managed"])
            .run();
        assert_eq!(run.code, 1);
        assert!(
            run.stderr.contains(detail) && run.stderr.contains(code),
            "{}",
            run.stderr
        );
        assert!(!bundle_file(directory.path()).exists());
    }
}

#[test]
fn what_is_no_bundle_is_not_saved() {
    let mut without_key = bundle();
    without_key["api_key"] = json!("");
    let mut unreadable = bundle();
    unreadable["capabilities"] = json!(7);
    let huge = format!("{{\"agent_id\": \"{}\"}}", "x".repeat(9 * 1024 * 1024));
    for body in [without_key.to_string(), unreadable.to_string(), huge] {
        let server = Canned::start(&document(&body));
        let directory = agent();
        let run = onboard(directory.path(), &server.url()).run();
        assert_eq!(run.code, 1, "{}", run.stdout);
        assert!(
            run.stderr.contains("is it an AitherOS node"),
            "{}",
            run.stderr
        );
        assert!(!run.stderr.contains("secret"), "{}", run.stderr);
        assert!(!bundle_file(directory.path()).exists());
    }
}
