//! `models` and `check` on a directory without a running node.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use crate::support::{Home, Outcome, tiny_model};

#[test]
fn an_empty_store_says_how_to_fill_it() {
    let home = Home::new();
    let listed = home.output(&["models", "list"]);
    assert!(listed.assert_done().contains("models pull smollm2:135m"));
    assert!(!home.data_dir().exists(), "looking makes nothing");
}

#[test]
fn a_file_is_imported_listed_and_removed() {
    let home = Home::new();
    let model = tiny_model();
    let model = model.to_str().unwrap();
    home.output(&["models", "import", model, "--name", "tiny:1"])
        .assert_done();
    home.output(&["models", "import", model]).assert_done();
    let listed = home.output(&["models", "list"]);
    let names: Vec<_> = listed
        .assert_done()
        .lines()
        .skip(1)
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    assert_eq!(names, ["llama", "tiny:1"]);
    assert!(home.output(&["check"]).assert_done().contains("2 good"));
    home.output(&["models", "rm", "llama"]).assert_done();
    home.output(&["models", "rm", "llama"])
        .assert_refused(1, "tiny:1");
}

#[test]
fn what_cannot_be_imported_is_refused_with_words() {
    let home = Home::new();
    let file = home.path("x.gguf");
    fs::write(&file, "GGUF").unwrap();
    let file = file.to_str().unwrap();
    home.output(&["models", "import", file])
        .assert_refused(2, "not a usable GGUF file");
    home.output(&["models", "import", "/no/such.gguf"])
        .assert_refused(2, "/no/such.gguf");
    home.output(&["models", "import", file, "--name", "../x"])
        .assert_refused(2, "no model name");
    home.output(&["models", "pull", "nonsense"])
        .assert_refused(2, "smollm2:135m");
}

#[test]
fn damage_is_found_by_check() {
    let home = Home::new();
    let model = tiny_model();
    home.output(&["models", "import", model.to_str().unwrap()])
        .assert_done();
    let stored = fs::read_dir(home.data_dir().join("models"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|end| end == "gguf"))
        .unwrap();
    let mut bytes = fs::read(&stored).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&stored, &bytes).unwrap();
    home.output(&["check"]).assert_refused(4, "has changed");
    fs::remove_file(&stored).unwrap();
    home.output(&["check"]).assert_refused(4, "cannot be read");
    // The node itself goes on without that model.
    home.start(&[]).stop();
    fs::write(home.data_dir().join("models/manifest.json"), "{").unwrap();
    home.output(&["run", "--http", "127.0.0.1:0"])
        .assert_refused(4, "manifest.json");
}

#[test]
fn a_disk_that_takes_no_more_is_told_and_leaves_nothing_behind() {
    let home = Home::new();
    let model = tiny_model();
    // No file may grow beyond 100 blocks, and the signal that would say so is off: a write fails
    // as it does on a full disk.
    let script = "trap '' XFSZ; ulimit -f 100; exec \"$0\" \"$@\"";
    let limited = |args: &[&str]| {
        let whole = home.command(args);
        let mut command = Command::new("sh");
        command
            .args(["-c", script])
            .arg(whole.get_program())
            .args(whole.get_args());
        command.env("AITHER_DATA_DIR", home.data_dir());
        Outcome::of(command.output().unwrap())
    };
    let outcome = limited(&["models", "import", model.to_str().unwrap()]);
    outcome.assert_refused(1, "cannot write");
    let left: Vec<_> = fs::read_dir(home.data_dir().join("models"))
        .unwrap()
        .collect();
    assert!(left.is_empty(), "{left:?}");
    // With room again the same command works.
    home.output(&["models", "import", model.to_str().unwrap()])
        .assert_done();
}

#[test]
fn a_copy_that_a_killed_process_left_is_removed() {
    let home = Home::new();
    fs::create_dir_all(home.data_dir().join("models")).unwrap();
    let leftover = home.data_dir().join("models/.import-abc");
    fs::write(&leftover, "half").unwrap();
    home.output(&["models", "list"]).assert_done();
    assert!(!leftover.exists());
}

/// Puts a `python3` first in the path that answers as the script says.
fn with_python(home: &Home, script: &str, args: &[&str]) -> Outcome {
    let bin = home.path("bin");
    fs::create_dir_all(&bin).unwrap();
    let python = bin.join("python3");
    fs::write(&python, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    Outcome::of(home.command(args).env("PATH", path).output().unwrap())
}

#[test]
fn pips_refusals_are_told_in_one_line() {
    let home = Home::new();
    let pull = ["models", "pull", "smollm2:135m"];
    let no_pip = with_python(&home, "echo 'No module named pip' >&2; exit 1", &pull);
    no_pip.assert_refused(1, "has no pip");
    let offline = "echo 'ERROR: Could not find a version' >&2; exit 1";
    with_python(&home, offline, &pull).assert_refused(1, "Could not find a version");
    with_python(&home, "echo '{}'", &pull).assert_refused(1, "report cannot be read");
    let other = format!(
        r#"echo '{{"install":[{{"download_info":{{"url":"https://files.example/x.whl",
        "archive_info":{{"hashes":{{"sha256":"{}"}}}}}}}}]}}'"#,
        "0".repeat(64)
    );
    with_python(&home, &other, &pull).assert_refused(1, "checksum");
}

#[test]
fn a_machine_without_python_is_told_what_to_do() {
    let home = Home::new();
    let mut command = home.command(&["models", "pull", "smollm2:135m"]);
    command.env("PATH", home.path("nothing"));
    let outcome = Outcome::of(command.output().unwrap());
    outcome.assert_refused(1, "models import");
}

#[test]
fn a_running_node_imports_lists_and_removes() {
    let home = Home::new();
    let node = home.start(&[]);
    let model = tiny_model();
    let model = model.to_str().unwrap();
    let imported = home.output(&["models", "import", model, "--name", "tiny:1"]);
    assert!(imported.assert_done().contains("tiny:1"));
    let listed = home.output(&["models", "list"]);
    assert!(listed.assert_done().contains("tiny:1"), "{listed:?}");
    home.output(&["models", "rm", "tiny:1"]).assert_done();
    assert!(
        !home
            .output(&["models", "list"])
            .assert_done()
            .contains("tiny:1")
    );
    home.output(&["models", "rm", "tiny:1"])
        .assert_refused(1, "not found");
    // What is bad usage without a node is bad usage with one.
    home.output(&["models", "pull", "nonsense"])
        .assert_refused(2, "smollm2:135m");
    home.output(&["models", "import", "/no/such.gguf"])
        .assert_refused(2, "/no/such.gguf");
    home.output(&["models", "import", model, "--name", "../x"])
        .assert_refused(2, "no model name");
    node.stop();
}

#[test]
fn a_file_is_served_where_it_lies() {
    let home = Home::new();
    let model = format!("tiny:1={}", tiny_model().display());
    let node = home.start(&["--model", &model]);
    let listed = home.output(&["models", "list"]);
    assert!(listed.assert_done().contains("tiny:1"), "{listed:?}");
    node.stop();
    assert!(
        !home
            .output(&["models", "list"])
            .assert_done()
            .contains("tiny:1")
    );
    assert!(tiny_model().exists());
}
