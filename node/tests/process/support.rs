//! Starting the binary in a directory of its own, and waiting for what it does.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

/// Longest wait for anything; a loaded machine may need seconds to start a process.
const DEADLINE: Duration = Duration::from_secs(60);
const POLL_PERIOD: Duration = Duration::from_millis(10);

/// A data directory and the commands on it.
pub(crate) struct Home {
    directory: tempfile::TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// A path beside the data directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.path("data")
    }

    /// The binary with this data directory and nothing of the tester's own settings.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aither-node"));
        for (name, _) in std::env::vars() {
            if name.starts_with("AITHER_") || name == "RUST_LOG" {
                command.env_remove(name);
            }
        }
        command
            .args(args)
            .env("AITHER_DATA_DIR", self.data_dir())
            .env("HOME", self.directory.path())
            .env_remove("XDG_DATA_HOME")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn output(&self, args: &[&str]) -> Outcome {
        Outcome::of(self.command(args).output().unwrap())
    }

    /// Starts a node on any free port and waits until it is ready.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        let mut all = vec!["run", "--http", "127.0.0.1:0"];
        all.extend(args);
        self.start_command(&mut self.command(&all))
    }

    pub(crate) fn start_command(&self, command: &mut Command) -> Running {
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut running = Running {
            child,
            run_file: self.data_dir().join("run.json"),
        };
        wait_until("the node is ready", || {
            if let Some(status) = running.child.try_wait().unwrap() {
                panic!("it ended with {status}: {}", running.errors());
            }
            running.info().is_some()
        });
        running
    }
}

/// What a finished command left.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) errors: String,
}

impl Outcome {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            errors: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Checks code and words; an error is exactly one line.
    pub(crate) fn assert_refused(&self, code: i32, words: &str) {
        assert_eq!(self.code, code, "{self:?}");
        let errors: Vec<_> = self
            .errors
            .lines()
            .filter(|line| line.starts_with("error: "))
            .collect();
        assert_eq!(errors.len(), 1, "{self:?}");
        assert!(
            errors[0].contains(words),
            "{:?} does not say {words:?}",
            errors[0]
        );
        assert!(
            self.errors.ends_with(&format!("{}\n", errors[0])),
            "{self:?}"
        );
        assert_eq!(self.out, "");
    }

    pub(crate) fn assert_done(&self) -> &str {
        assert_eq!(self.code, 0, "{self:?}");
        &self.out
    }
}

/// A node that runs; killed when dropped.
pub(crate) struct Running {
    pub(crate) child: Child,
    run_file: PathBuf,
}

impl Running {
    /// `run.json`, once this process has written it.
    pub(crate) fn info(&self) -> Option<Value> {
        let info: Value = serde_json::from_slice(&fs::read(&self.run_file).ok()?).ok()?;
        (info["pid"] == self.child.id()).then_some(info)
    }

    pub(crate) fn address(&self) -> String {
        let url = self.info().unwrap()["http"].as_str().unwrap().to_owned();
        url.strip_prefix("http://").unwrap().to_owned()
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([&format!("-{name}"), &self.child.id().to_string()])
            .status();
        assert!(status.unwrap().success());
    }

    /// Waits for the end; returns the exit code, or `None` after a signal.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let mut status = None;
        wait_until("the process ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.and_then(|status| status.code())
    }

    pub(crate) fn stop(mut self) {
        self.signal("TERM");
        assert_eq!(self.wait(), Some(0), "{}", self.errors());
    }

    pub(crate) fn errors(&mut self) -> String {
        let mut text = String::new();
        if let Some(pipe) = &mut self.child.stderr {
            pipe.read_to_string(&mut text).unwrap();
        }
        text
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(POLL_PERIOD);
    }
}

#[cfg(unix)]
pub(crate) fn mode_of(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// A whole, small model of the repository.
pub(crate) fn tiny_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../inference/testdata/tiny/llama.gguf")
}
