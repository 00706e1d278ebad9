//! Start, `run.json`, the lock, signals, and ends without notice.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
};

use crate::support::{Home, wait_until};

fn get(address: &str, path: &str) -> String {
    ask(address, &format!("GET {path} HTTP/1.1\r\n"), "")
}

fn post(address: &str, path: &str, body: &str) -> String {
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\ncontent-length: {length}\r\n");
    ask(address, &head, body)
}

fn ask(address: &str, head: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let rest = format!(
        "content-type: application/json\r\nhost: {address}\r\nconnection: close\r\n\r\n{body}"
    );
    stream
        .write_all(format!("{head}{rest}").as_bytes())
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_ready_node_says_where_it_is_and_takes_it_back() {
    let home = Home::new();
    let node = home.start(&["--no-federation"]);
    let info = node.info().unwrap();
    let keys: Vec<_> = info.as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["pid", "http", "peer_id", "listen", "version"]);
    assert_eq!(info["listen"], serde_json::json!([]));
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    assert!(!info["http"].as_str().unwrap().ends_with(":0"));
    assert!(get(&node.address(), "/health").starts_with("HTTP/1.1 200"));
    let run_file = home.data_dir().join("run.json");
    node.stop();
    assert!(!run_file.exists());
}

#[test]
fn sigint_stops_cleanly_too() {
    let home = Home::new();
    let mut node = home.start(&[]);
    node.signal("INT");
    assert_eq!(node.wait(), Some(0));
}

#[test]
fn a_directory_in_use_is_code_3_and_names_the_holder() {
    let home = Home::new();
    let node = home.start(&[]);
    let second = home.output(&["run", "--http", "127.0.0.1:0"]);
    second.assert_refused(3, &format!("process {}", node.child.id()));
    home.output(&["check"]).assert_refused(3, "in use");
    assert!(
        node.info().is_some(),
        "the second start left run.json alone"
    );
    node.stop();
}

#[test]
fn a_killed_node_is_followed_by_a_new_one() {
    let home = Home::new();
    let mut first = home.start(&[]);
    let peer_id = first.info().unwrap()["peer_id"].clone();
    first.signal("KILL");
    assert_eq!(first.wait(), None);
    let run_file = home.data_dir().join("run.json");
    assert!(run_file.exists(), "nobody could take it back");

    let second = home.start(&[]);
    let info = second.info().unwrap();
    assert_eq!(info["pid"], second.child.id());
    assert_eq!(info["peer_id"], peer_id);
    second.stop();
    assert!(!run_file.exists());
}

#[test]
fn an_idle_connection_does_not_hold_the_stop_up() {
    let home = Home::new();
    let node = home.start(&[]);
    let mut kept = TcpStream::connect(node.address()).unwrap();
    kept.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .unwrap();
    let mut byte = [0];
    kept.read_exact(&mut byte).unwrap();
    let silent = TcpStream::connect(node.address()).unwrap();
    let started = std::time::Instant::now();
    node.stop();
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
    drop(silent);
}

#[test]
fn headers_without_end_are_cut_off() {
    let home = Home::new();
    let node = home.start(&[]);
    let mut stream = TcpStream::connect(node.address()).unwrap();
    let long = vec![b'a'; 200_000];
    // The node may close while it is still being written to.
    let _ = stream
        .write_all(b"GET /health HTTP/1.1\r\nx: ")
        .and_then(|()| stream.write_all(&long));
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );
    assert!(get(&node.address(), "/health").starts_with("HTTP/1.1 200"));
    node.stop();
}

#[test]
fn a_slow_client_is_closed_after_the_header_timeout() {
    let home = Home::new();
    let mut command = home.command(&["run", "--http", "127.0.0.1:0"]);
    command.env("AITHER_HTTP__HEADER_TIMEOUT", "1s");
    let node = home.start_command(&mut command);
    let mut stream = TcpStream::connect(node.address()).unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\n").unwrap();
    let mut answer = Vec::new();
    // Ends only because the node closes.
    stream.read_to_end(&mut answer).unwrap();
    node.stop();
}

#[test]
fn log_lines_can_be_json() {
    let home = Home::new();
    let mut node = home.start(&["--log", "json"]);
    node.signal("TERM");
    assert_eq!(node.wait(), Some(0));
    let errors = node.errors();
    let admin_key = fs::read_to_string(home.data_dir().join("admin.key")).unwrap();
    assert!(!errors.contains(&admin_key));
    for line in errors.lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(entry["message"].is_string(), "{line}");
    }
    assert!(errors.contains("\"message\":\"ready\""), "{errors}");
}

#[test]
fn a_bad_log_filter_in_the_environment_is_refused() {
    let home = Home::new();
    let mut command = home.command(&["run"]);
    command.env("AITHER_LOG", "a=b=c");
    let outcome = crate::support::Outcome::of(command.output().unwrap());
    outcome.assert_refused(2, "AITHER_LOG");
}

#[test]
fn a_leftover_lock_file_means_nothing() {
    let home = Home::new();
    fs::create_dir_all(home.data_dir()).unwrap();
    fs::write(home.data_dir().join("lock"), "1\n").unwrap();
    fs::write(home.data_dir().join("run.json"), "{\"pid\": 1").unwrap();
    let node = home.start(&[]);
    let run_file = home.data_dir().join("run.json");
    wait_until("run.json is whole", || {
        fs::read_to_string(&run_file).is_ok()
    });
    node.stop();
}

#[test]
fn a_node_outlives_its_standard_error() {
    let home = Home::new();
    let mut node = home.start(&[]);
    // Whoever read the log is gone; each of these requests writes a line to it.
    drop(node.child.stderr.take());
    for _ in 0..3 {
        let answer = get(&node.address(), "/v1/llm/embed");
        assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
        let answer = post(&node.address(), "/v1/llm/embed", "{}");
        assert!(answer.starts_with("HTTP/1.1 422"), "{answer}");
    }
    node.stop();
}

#[test]
fn a_full_disk_behind_the_log_does_not_stop_the_start() {
    let home = Home::new();
    let mut command = home.command(&["run", "--http", "127.0.0.1:0"]);
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    command.stderr(full);
    let mut child = command.spawn().unwrap();
    let run_file = home.data_dir().join("run.json");
    wait_until("the node is ready", || {
        assert_eq!(child.try_wait().unwrap(), None, "it ended");
        run_file.exists()
    });
    child.kill().unwrap();
    child.wait().unwrap();
}
