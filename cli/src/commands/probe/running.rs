//! An agent that was started to be probed. It ends when this is dropped.
//!
//! It is told where to listen by `HOST` and `PORT`. A Python entrypoint that only defines an app,
//! as the platform runs it, ends at once; then uvicorn runs the app.

use std::{
    fs,
    io::{Read, Seek, SeekFrom},
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use aither_protocol::agent_card::AgentCard;

use super::{HEALTH_PAUSE, Prober};
use crate::{error::Error, render};

/// Lines of an agent's output that are shown when it fails.
const OUTPUT_LINES_MAX: usize = 20;
/// Most bytes of its output that are looked at.
const OUTPUT_BYTES_MAX: u64 = 64 << 10;

/// A started agent.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    url: String,
    output: tempfile::NamedTempFile,
}

/// Starts an agent and waits until it is healthy.
pub(super) async fn start(
    directory: &Path,
    card: &AgentCard,
    prober: &Prober,
    patience: Duration,
) -> Result<Running, Error> {
    let runtime = card.runtime.as_ref().ok_or_else(|| {
        Error::AgentFailed("the agent's file does not say what runs it".to_owned())
    })?;
    let is_python = runtime.language.as_str().starts_with("python");
    let entrypoint = runtime.entrypoint.as_str();
    let until = Instant::now() + patience;
    let mut running = Running::spawn(directory, is_python, &[entrypoint.to_owned()])?;
    match running.wait(card, prober, until).await? {
        Waited::Healthy => return Ok(running),
        Waited::Ended if is_python => {}
        Waited::Ended => return Err(running.ended()),
    }
    let module = entrypoint.trim_end_matches(".py").replace('/', ".");
    let app = format!("{module}:app");
    let port = free_port()?.to_string();
    let arguments = [
        "-m",
        "uvicorn",
        &app,
        "--host",
        "127.0.0.1",
        "--port",
        &port,
    ];
    let arguments = arguments.map(str::to_owned);
    let mut by_uvicorn = Running::spawn_at(directory, is_python, &arguments, &port)?;
    match by_uvicorn.wait(card, prober, until).await? {
        Waited::Healthy => Ok(by_uvicorn),
        Waited::Ended => {
            running.show_output();
            Err(by_uvicorn.ended())
        }
    }
}

/// How the wait for an agent ended.
enum Waited {
    Healthy,
    Ended,
}

impl Running {
    fn spawn(directory: &Path, is_python: bool, arguments: &[String]) -> Result<Self, Error> {
        Self::spawn_at(directory, is_python, arguments, &free_port()?.to_string())
    }

    fn spawn_at(
        directory: &Path,
        is_python: bool,
        arguments: &[String],
        port: &str,
    ) -> Result<Self, Error> {
        let directory = directory
            .canonicalize()
            .map_err(|cause| Error::file("open", directory, cause))?;
        let own = directory.join(".venv/bin/python");
        let program = match (is_python, own.is_file()) {
            (true, true) => own,
            (true, false) => "python3".into(),
            (false, _) => "node".into(),
        };
        let unusable = |cause| Error::file("write", &std::env::temp_dir(), cause);
        let output = tempfile::NamedTempFile::new().map_err(unusable)?;
        // Opened anew, so that reading it does not move where the agent writes.
        let stdout = output.reopen().map_err(unusable)?;
        let stderr = stdout.try_clone().map_err(unusable)?;
        let child = Command::new(&program)
            .args(arguments)
            .current_dir(&directory)
            .env("HOST", Ipv4Addr::LOCALHOST.to_string())
            .env("PORT", port)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .map_err(|cause| Error::file("start", &program, cause))?;
        Ok(Self {
            child,
            url: format!("http://127.0.0.1:{port}"),
            output,
        })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    async fn wait(
        &mut self,
        card: &AgentCard,
        prober: &Prober,
        until: Instant,
    ) -> Result<Waited, Error> {
        loop {
            let lacks = match prober.health(&self.url, card).await {
                Ok(()) => return Ok(Waited::Healthy),
                Err(lacks) => lacks,
            };
            let ended = self.child.try_wait();
            if ended.map_err(Error::Terminal)?.is_some() {
                return Ok(Waited::Ended);
            }
            if Instant::now() >= until {
                self.show_output();
                return Err(Error::AgentFailed(format!(
                    "the agent is not healthy at {}{}: {lacks}",
                    self.url, card.health.endpoint
                )));
            }
            tokio::time::sleep(HEALTH_PAUSE).await;
        }
    }

    /// Returns the error for an agent that did not stay.
    fn ended(&mut self) -> Error {
        self.show_output();
        let status = self.child.wait().map(|status| status.to_string());
        let status = status.unwrap_or_else(|error| error.to_string());
        Error::AgentFailed(format!(
            "the agent ended before it was healthy ({status}); it must listen at $HOST:$PORT"
        ))
    }

    /// Prints the last lines that the agent wrote.
    pub(super) fn show_output(&self) {
        for line in self.output.reopen().map_or_else(|_| Vec::new(), last_lines) {
            render::remark(&format!("  | {line}"));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns a port of this machine that nobody listens at, for as long as nobody else takes it.
fn free_port() -> Result<u16, Error> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let address = listener.and_then(|listener| listener.local_addr());
    Ok(address.map_err(Error::Terminal)?.port())
}

fn last_lines(mut file: fs::File) -> Vec<String> {
    let len = file.metadata().map_or(0, |metadata| metadata.len());
    let from = len.saturating_sub(OUTPUT_BYTES_MAX);
    let mut bytes = Vec::new();
    let read = file
        .seek(SeekFrom::Start(from))
        .and_then(|_| file.take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes));
    if read.is_err() {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    let skipped = lines.len().saturating_sub(OUTPUT_LINES_MAX);
    lines.into_iter().skip(skipped).collect()
}
