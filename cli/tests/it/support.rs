//! Running the built programs, and a server that says one thing.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// Longer than any of these tests takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// How often a file that another process writes is looked for.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How a run of the program ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A command line of `aither-cli` in an environment of its own.
#[derive(Debug)]
pub(crate) struct Cli(Command);

/// Starts a command line that sees no node, key or proxy of this machine.
pub(crate) fn cli() -> Cli {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aither-cli"));
    for name in ["AITHEROS_SERVER", "AITHEROS_API_KEY"] {
        command.env_remove(name);
    }
    let nowhere = env::temp_dir().join("aither-cli-test-nowhere");
    command
        .env("AITHER_DATA_DIR", nowhere)
        .env("http_proxy", "http://127.0.0.1:1");
    Cli(command)
}

impl Cli {
    pub(crate) fn arg(mut self, argument: &str) -> Self {
        self.0.arg(argument);
        self
    }

    pub(crate) fn args<const N: usize>(mut self, arguments: [&str; N]) -> Self {
        self.0.args(arguments);
        self
    }

    pub(crate) fn in_directory(mut self, directory: &Path) -> Self {
        self.0.current_dir(directory);
        self
    }

    pub(crate) fn server(mut self, url: &str) -> Self {
        self.0.env("AITHEROS_SERVER", url);
        self
    }

    pub(crate) fn key(mut self, key: &str) -> Self {
        self.0.env("AITHEROS_API_KEY", key);
        self
    }

    pub(crate) fn data_dir(mut self, directory: &Path) -> Self {
        self.0.env("AITHER_DATA_DIR", directory);
        self
    }

    /// Runs it with nothing on standard input.
    pub(crate) fn run(self) -> Run {
        self.run_with("")
    }

    /// Runs it with a text on standard input.
    pub(crate) fn run_with(mut self, input: &str) -> Run {
        let command = self
            .0
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A program that does not read its input may have left already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        finish(child)
    }

    /// Runs it with a standard output that nobody reads.
    pub(crate) fn run_with_closed_output(mut self) -> Run {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let command = self
            .0
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        finish(child)
    }
}

fn finish(child: Child) -> Run {
    let output = child.wait_with_output().unwrap();
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Returns a port on which nobody listens: one that was just given back.
pub(crate) fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// A server that answers its first requests with recorded bytes, and then no more.
#[derive(Debug)]
pub(crate) struct Canned {
    port: u16,
    requests: mpsc::Receiver<String>,
}

impl Canned {
    pub(crate) fn start(response: &str) -> Self {
        Self::start_all(vec![response.to_owned()])
    }

    /// Starts one with a response for each request in turn; an empty one hangs up.
    pub(crate) fn start_all(responses: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, requests) = mpsc::channel();
        thread::spawn(move || {
            for response in responses {
                let Ok((stream, _)) = listener.accept() else {
                    return;
                };
                let request = read_request(&stream);
                // A client that gives up half way closes the connection under the rest.
                let _ = (&stream).write_all(response.as_bytes());
                let _ = stream.shutdown(Shutdown::Write);
                let _ = sender.send(request);
            }
        });
        Self { port, requests }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Returns the request that came: head and body.
    pub(crate) fn request(&self) -> String {
        self.requests.recv_timeout(DEADLINE).unwrap()
    }

    pub(crate) fn was_asked(&self) -> bool {
        self.requests.try_recv().is_ok()
    }
}

fn read_request(stream: &TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return head;
        }
    }
    let length = head
        .lines()
        .find_map(|line| {
            line.to_lowercase()
                .strip_prefix("content-length: ")?
                .parse()
                .ok()
        })
        .unwrap_or(0);
    let mut body = vec![0; length];
    let _ = reader.read_exact(&mut body);
    head + &String::from_utf8_lossy(&body)
}

/// A running node of this build, on a temporary directory.
#[derive(Debug)]
pub(crate) struct Node {
    child: Child,
    directory: tempfile::TempDir,
    pub(crate) url: String,
}

impl Node {
    /// Starts one with the test model; none where there is no node or no model to test with.
    pub(crate) fn start() -> Option<Self> {
        let (Some(program), Some(model)) = (named("AITHER_NODE_BIN"), named("AITHER_TEST_MODEL"))
        else {
            // Whoever runs everything must not be told that this passed.
            assert!(
                env::var_os("CI").is_none(),
                "set AITHER_NODE_BIN and AITHER_TEST_MODEL"
            );
            return None;
        };
        let directory = tempfile::tempdir().unwrap();
        let child = Command::new(program)
            .args(["run", "--http", "127.0.0.1:0", "--no-federation", "--model"])
            .arg(model)
            .arg("--data-dir")
            .arg(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut node = Self {
            child,
            directory,
            url: String::new(),
        };
        node.url = node.wait_for_url();
        Some(node)
    }

    pub(crate) fn data_dir(&self) -> &Path {
        self.directory.path()
    }

    fn wait_for_url(&mut self) -> String {
        let run_file = self.directory.path().join("run.json");
        let deadline = Instant::now() + DEADLINE;
        loop {
            // It is written atomically once the node is ready, so that it is whole when there.
            if let Ok(text) = fs::read_to_string(&run_file) {
                let run: serde_json::Value = serde_json::from_str(&text).unwrap();
                return run["http"].as_str().unwrap().to_owned();
            }
            assert!(
                self.child.try_wait().unwrap().is_none(),
                "the node ended before it was ready"
            );
            assert!(Instant::now() < deadline, "the node is not ready");
            thread::sleep(POLL_INTERVAL);
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the file that an environment variable names.
fn named(variable: &str) -> Option<PathBuf> {
    env::var_os(variable)
        .map(PathBuf::from)
        .filter(|path| path.is_file())
}
