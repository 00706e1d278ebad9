//! Making agents and checking them, which needs no node.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::support::{Run, cli};

fn run_in(directory: &Path, arguments: &[&str]) -> Run {
    let mut command = cli().in_directory(directory);
    for argument in arguments {
        command = command.arg(argument);
    }
    command.run()
}

/// Makes an agent and returns its file.
fn init(directory: &Path) -> std::path::PathBuf {
    let run = run_in(directory, &["init", "my-agent"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    directory.join("my-agent/aither-agent.yaml")
}

#[test]
fn made_agent_is_valid_in_either_language() {
    for (language, entrypoint) in [("python3.12", "main.py"), ("node22", "main.mjs")] {
        let directory = tempfile::tempdir().unwrap();
        let run = run_in(
            directory.path(),
            &["init", "My Agent", "--language", language],
        );
        assert_eq!(run.code, 0, "{}", run.stderr);
        assert!(run.stdout.contains("my-agent"), "{}", run.stdout);
        assert!(run.stdout.contains("cd 'My Agent'"), "{}", run.stdout);
        assert!(directory.path().join("My Agent").join(entrypoint).is_file());
        let run = run_in(directory.path(), &["validate", "My Agent"]);
        assert_eq!(
            (run.code, run.stdout.as_str()),
            (0, "aither-agent.yaml is valid: my-agent 1.0.0\n")
        );
    }
}

#[test]
fn json_of_init_names_what_was_made() {
    let directory = tempfile::tempdir().unwrap();
    let run = run_in(
        directory.path(),
        &["init", "x", "--name", "other", "--json"],
    );
    let made: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(made["name"], "other");
    for file in made["files"].as_array().unwrap() {
        let path = directory.path().join("x").join(file.as_str().unwrap());
        assert!(path.is_file(), "{}", path.display());
    }
}

#[test]
fn folder_that_is_not_empty_stays_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("main.py");
    fs::write(&file, "mine").unwrap();
    let run = run_in(directory.path(), &["init", ".", "--name", "x"]);
    assert_eq!(run.code, 1, "{}", run.stdout);
    assert!(run.stderr.contains("not empty"), "{}", run.stderr);
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    let run = run_in(directory.path(), &["init", "main.py"]);
    assert_eq!(run.code, 1, "{}", run.stdout);
}

#[test]
fn current_folder_can_become_an_agent() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("bot");
    fs::create_dir(&folder).unwrap();
    assert_eq!(run_in(&folder, &["init", "."]).code, 0);
    let spec = fs::read_to_string(folder.join("aither-agent.yaml")).unwrap();
    assert!(spec.contains("name: \"bot\""), "{spec}");
}

#[test]
fn names_and_languages_that_are_none_are_bad_usage() {
    let directory = tempfile::tempdir().unwrap();
    for arguments in [
        &["init", "日本"][..],
        &["init", "x", "--name", "Not Valid"],
        &["init", "x", "--language", "cobol"],
        &["init"],
    ] {
        let run = run_in(directory.path(), arguments);
        assert_eq!(run.code, 2, "{arguments:?}: {}", run.stderr);
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn every_error_has_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = init(directory.path());
    let spec = fs::read_to_string(&path).unwrap();
    let spec = spec
        .replace("\"my-agent\"", "My Agent")
        .replace("version: 1.0.0", "version: one")
        .replace("token_cost_per_request: 1", "token_cost_per_request: 99");
    fs::write(&path, &spec).unwrap();
    let line_of = |text: &str| spec.lines().position(|line| line.contains(text)).unwrap() + 1;
    let run = run_in(directory.path(), &["validate", "my-agent"]);
    assert_eq!(run.code, 1);
    for (field, text) in [
        ("name", "My Agent"),
        ("version", "version: one"),
        ("billing.token_cost_per_request", ": 99"),
    ] {
        let place = format!("aither-agent.yaml:{}:", line_of(text));
        let words = format!(": {field}: ");
        let found = |line: &str| line.starts_with(&place) && line.contains(&words);
        assert!(
            run.stdout.lines().any(found),
            "{place} {field} in\n{}",
            run.stdout
        );
    }
    assert_eq!(run.stdout.lines().count(), 3, "{}", run.stdout);
    assert!(run.stderr.contains("3 errors"), "{}", run.stderr);
}

#[test]
fn json_of_validate_has_all_members_of_each_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = init(directory.path());
    fs::remove_file(directory.path().join("my-agent/main.py")).unwrap();
    let run = run_in(directory.path(), &["validate", "my-agent", "--json"]);
    assert_eq!(run.code, 1);
    let spec = fs::read_to_string(&path).unwrap();
    let line = spec.lines().position(|line| line.contains("entrypoint:"));
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(
        report,
        json!({"valid": false, "errors": [{
            "field": "runtime.entrypoint",
            "message": "`main.py` is not there; write it, or name another file",
            "line": line.unwrap() + 1, "column": 15,
        }]})
    );
    fs::remove_file(&path).unwrap();
    let run = run_in(directory.path(), &["validate", "my-agent", "--json"]);
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((run.code, &report["valid"]), (1, &json!(false)));
    assert_eq!(report["errors"][0]["line"], Value::Null);
}

#[test]
fn misspelt_field_is_a_warning_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = init(directory.path());
    let spec = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{spec}\nself_hosed: true\n")).unwrap();
    let line = spec.lines().count() + 2;
    let run = run_in(directory.path(), &["validate", "my-agent"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let place = format!("aither-agent.yaml:{line}:13: self_hosed: ");
    let mut lines = run.stdout.lines();
    let warning = lines.next().unwrap();
    assert!(warning.starts_with(&place), "{warning}");
    assert!(warning.contains("did you mean self_hosted?"), "{warning}");
    assert!(lines.next().unwrap().contains("is valid"), "{}", run.stdout);
    let run = run_in(directory.path(), &["validate", "my-agent", "--json"]);
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(
        (&report["valid"], &report["errors"]),
        (&json!(true), &json!([]))
    );
    assert_eq!(report["warnings"][0]["field"], "self_hosed");
    assert_eq!(report["warnings"][0]["line"], line);
}

#[test]
fn validating_needs_no_server() {
    let directory = tempfile::tempdir().unwrap();
    init(directory.path());
    let run = cli()
        .in_directory(directory.path())
        .server("ftp://nowhere")
        .key("not a key")
        .args(["validate", "my-agent"])
        .run();
    assert_eq!(run.code, 0, "{}", run.stderr);
}

#[test]
fn folder_without_an_agent_is_told_apart_from_none() {
    let directory = tempfile::tempdir().unwrap();
    let run = run_in(directory.path(), &["validate", "."]);
    assert_eq!(run.code, 1);
    assert!(run.stdout.contains("aither-cli init"), "{}", run.stdout);
    let run = run_in(directory.path(), &["validate", "nowhere"]);
    assert_eq!((run.code, run.stdout.as_str()), (1, ""));
    assert!(run.stderr.contains("nowhere"), "{}", run.stderr);
}

#[test]
fn file_cannot_drive_the_terminal_through_its_errors() {
    let directory = tempfile::tempdir().unwrap();
    let path = init(directory.path());
    let spec = fs::read_to_string(&path).unwrap();
    let hostile = spec.replace("category: agent", "category: \"x\\e[2J\\nforged\"");
    fs::write(&path, hostile).unwrap();
    let run = run_in(directory.path(), &["validate", "my-agent"]);
    assert_eq!(run.code, 1);
    assert_eq!(run.stdout.lines().count(), 1, "{}", run.stdout);
    assert!(!run.stdout.contains('\x1b'), "{}", run.stdout);
}
