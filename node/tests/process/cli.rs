//! Arguments, configuration layers, and what is refused before anything starts.

use std::{fs, net::TcpListener};

use crate::support::Home;

/// The value of a key in what `--print-config` prints.
fn printed(home: &Home, args: &[&str], env: &[(&str, &str)], key: &str) -> String {
    let mut all = vec!["run", "--print-config"];
    all.extend(args);
    let mut command = home.command(&all);
    command.envs(env.iter().copied());
    let outcome = crate::support::Outcome::of(command.output().unwrap());
    let prefix = format!("{key} = ");
    let line = outcome
        .assert_done()
        .lines()
        .find(|line| line.starts_with(&prefix));
    line.unwrap_or_default()
        .trim_start_matches(&prefix)
        .to_owned()
}

#[test]
fn each_layer_goes_before_the_one_below() {
    let home = Home::new();
    let file = home.path("config.toml");
    fs::write(
        &file,
        "[http]\nbind = \"127.0.0.1:1\"\nconnections_max = 7\n",
    )
    .unwrap();
    let config = file.to_str().unwrap();
    let bind = |args: &[&str], env: &[(&str, &str)]| printed(&home, args, env, "bind");
    let from_file = ["--config", config];
    let env = [("AITHER_HTTP__BIND", "127.0.0.1:2")];
    let flags = ["--config", config, "--http", "127.0.0.1:3"];
    assert_eq!(bind(&[], &[]), "\"127.0.0.1:8200\"");
    assert_eq!(bind(&from_file, &[]), "\"127.0.0.1:1\"");
    assert_eq!(bind(&from_file, &env), "\"127.0.0.1:2\"");
    assert_eq!(bind(&flags, &env), "\"127.0.0.1:3\"");
    // What a higher layer does not name comes from below.
    assert_eq!(printed(&home, &flags, &env, "connections_max"), "7");
    // An empty variable is an unset one.
    assert_eq!(
        bind(&from_file, &[("AITHER_HTTP__BIND", "")]),
        "\"127.0.0.1:1\""
    );
    assert_eq!(bind(&[], &[("AITHER_CONFIG", config)]), "\"127.0.0.1:1\"");
    assert_eq!(
        printed(&home, &[], &[("AITHER_NAME", "42")], "name"),
        "\"42\""
    );
}

#[test]
fn the_data_directory_comes_from_flag_variable_or_home() {
    let home = Home::new();
    let default = {
        let mut command = home.command(&["run", "--print-config"]);
        command.env_remove("AITHER_DATA_DIR");
        crate::support::Outcome::of(command.output().unwrap())
    };
    let in_home = home.path(".local/share/aither");
    assert!(
        default.assert_done().contains(in_home.to_str().unwrap()),
        "{default:?}"
    );
    let xdg = [("AITHER_DATA_DIR", ""), ("XDG_DATA_HOME", "/xdg")];
    assert_eq!(printed(&home, &[], &xdg, "data_dir"), "\"/xdg/aither\"");
    assert_eq!(
        printed(&home, &["--data-dir", "/flag"], &xdg, "data_dir"),
        "\"/flag\""
    );
}

#[test]
fn flags_of_run_reach_the_configuration() {
    let home = Home::new();
    let args = [
        "--backend",
        "cpu",
        "--threads",
        "3",
        "--speculation",
        "off",
        "--log",
        "json",
        "--no-federation",
    ];
    assert_eq!(printed(&home, &args, &[], "backend"), "\"cpu\"");
    assert_eq!(printed(&home, &args, &[], "threads"), "3");
    assert_eq!(printed(&home, &args, &[], "speculation"), "\"off\"");
    assert_eq!(printed(&home, &args, &[], "format"), "\"json\"");
    let models = ["--model", "a=b.gguf", "--model", "c"];
    assert_eq!(
        printed(&home, &models, &[], "serve"),
        "[\"a=b.gguf\", \"c\"]"
    );
    assert_eq!(
        printed(&home, &[], &[("AITHER_MODELS__SERVE", "[\"x\"]")], "serve"),
        "[\"x\"]"
    );
}

#[test]
fn a_printed_configuration_is_a_configuration_file() {
    let home = Home::new();
    let first = home.output(&["run", "--print-config", "--threads", "3"]);
    let file = home.path("printed.toml");
    fs::write(&file, first.assert_done()).unwrap();
    let second = home.output(&["run", "--print-config", "--config", file.to_str().unwrap()]);
    assert_eq!(first.out, second.assert_done());
    assert!(!home.data_dir().exists(), "printing makes nothing");
}

#[test]
fn bad_configuration_is_refused_with_its_key() {
    let home = Home::new();
    let file = home.path("config.toml");
    let cases = [
        ("[http]\nbindd = \"127.0.0.1:1\"\n", "bindd"),
        ("nonsense = 1\n", "nonsense"),
        ("[http]\nbind = \"localhost\"\n", "http.bind"),
        ("[http]\nrequest_timeout = 5\n", "http.request_timeout"),
        ("[http]\nrequest_timeout = \"soon\"\n", "no duration"),
        ("[http]\nbody_bytes_max = \"big\"\n", "no size"),
        ("[inference]\nrunning_max = 0\n", "inference.running_max"),
        ("[inference]\nbackend = \"tpu\"\n", "inference.backend"),
        ("[log]\nfilter = \"a=b=c\"\n", "log.filter"),
        ("= not toml", "line 1"),
    ];
    for (text, words) in cases {
        fs::write(&file, text).unwrap();
        let outcome = home.output(&["run", "--config", file.to_str().unwrap()]);
        outcome.assert_refused(2, words);
    }
    let mut command = home.command(&["run"]);
    command.env("AITHER_HTTP__REQUEST_TIMEOUT", "5");
    let outcome = crate::support::Outcome::of(command.output().unwrap());
    outcome.assert_refused(2, "the variable AITHER_HTTP__REQUEST_TIMEOUT");
    let missing = home.output(&["run", "--config", "/no/such/file.toml"]);
    missing.assert_refused(2, "no such file");
    let mut command = home.command(&["run"]);
    command.env("AITHER_HTTP__BIMD", "x");
    crate::support::Outcome::of(command.output().unwrap())
        .assert_refused(2, "unknown key \"bimd\"");
    assert!(!home.data_dir().exists(), "a refused start makes nothing");
}

#[test]
fn what_comes_later_is_refused_with_words() {
    let home = Home::new();
    let flags = [
        ["--listen", "/ip4/0.0.0.0/tcp/1"],
        ["--bootstrap", "/ip4/192.0.2.1/tcp/1"],
        ["--join", "invite"],
        ["--federation", "name"],
    ];
    for flag in flags {
        let mut args = vec!["run"];
        args.extend(flag);
        home.output(&args).assert_refused(2, "not in this build");
    }
    let commands: [&[&str]; 2] = [&["invite", "create"], &["doctor"]];
    for command in commands {
        home.output(command).assert_refused(2, "comes later");
    }
}

#[test]
fn a_bad_command_line_is_one_line_and_code_2() {
    let home = Home::new();
    home.output(&["run", "--no-such-flag"])
        .assert_refused(2, "--no-such-flag");
    home.output(&["run", "--http", "nowhere"])
        .assert_refused(2, "nowhere");
    home.output(&["run", "--backend", "tpu"])
        .assert_refused(2, "tpu");
    home.output(&["dance"]).assert_refused(2, "dance");
    assert_eq!(home.output(&[]).code, 2);
    assert!(home.output(&["--help"]).assert_done().contains("models"));
    assert!(
        home.output(&["run", "--help"])
            .assert_done()
            .contains("--print-config")
    );
    assert!(
        home.output(&["--version"])
            .assert_done()
            .contains(env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn a_taken_port_is_named() {
    let home = Home::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let outcome = home.output(&["run", "--http", &address]);
    outcome.assert_refused(1, &address);
    assert!(outcome.errors.contains("--http"), "{outcome:?}");
    assert!(!home.data_dir().join("run.json").exists());
}

#[test]
fn a_data_directory_that_cannot_be_made_is_named() {
    let home = Home::new();
    fs::write(home.path("file"), "").unwrap();
    let below = home.path("file/data");
    let outcome = home.output(&["run", "--data-dir", below.to_str().unwrap()]);
    outcome.assert_refused(1, "cannot make the data directory");
}

#[test]
fn a_model_that_cannot_be_served_is_refused_before_anything_is_served() {
    let home = Home::new();
    let forged = home.path("forged.gguf");
    fs::write(&forged, b"GGUF not really").unwrap();
    let run = |model: &str| home.output(&["run", "--http", "127.0.0.1:0", "--model", model]);
    run("smollm2:135m").assert_refused(2, "models pull smollm2:135m");
    run("nobody/knows").assert_refused(2, "nobody/knows");
    run("/no/such.gguf").assert_refused(2, "/no/such.gguf");
    run(forged.to_str().unwrap()).assert_refused(2, "not a usable GGUF file");
    run("../x=/y.gguf").assert_refused(2, "no model name");
}
