//! Whether an agent answers and is well: `{"status": "healthy"}` at its health path.
//!
//! Where agents may be is a matter of who reaches this node: see [`super::outbound`]. Redirects are
//! not followed.

use std::time::Duration;

use tokio::sync::Semaphore;

use super::outbound::Targets;
use crate::{accounts::StoreError, agents::Probe};

/// Longest wait for an answer: whoever onboards waits along, and may give up after five seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for a turn; who gets none is asked again later.
const TURN_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 16 << 10;
/// Probes at once: each is a connection. With all of them silent, 64 are given up in a second.
const PROBES_MAX: usize = 128;

/// Why an agent was not found healthy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeFailure {
    /// It was not asked, which says nothing about it.
    #[error("too many agents are being asked for their health")]
    Busy,
    /// It is not healthy, in words.
    #[error("{0}")]
    NotHealthy(String),
}

/// Asks agents for their health.
#[derive(Debug)]
pub struct HealthProbe {
    client: reqwest::Client,
    targets: Targets,
    running: Semaphore,
}

impl HealthProbe {
    /// Makes a client.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(targets: Targets) -> Result<Self, StoreError> {
        let client = targets
            .client()
            .timeout(ANSWER_TIMEOUT)
            // An agent that has been restarted closes what was open.
            .pool_max_idle_per_host(0);
        let client = client.build().map_err(|error| StoreError::Io {
            path: "registry.redb".into(),
            message: format!("no HTTP client for agents: {error}"),
        })?;
        Ok(Self {
            client,
            targets,
            running: Semaphore::new(PROBES_MAX),
        })
    }

    /// Returns which addresses may be asked.
    pub fn targets(&self) -> Targets {
        self.targets
    }

    /// Asks an agent for its health.
    ///
    /// # Errors
    /// What it lacks, in words.
    pub async fn ask(&self, probe: &Probe) -> Result<(), ProbeFailure> {
        // Whoever onboards waits along: a queue of silent agents must not keep others waiting.
        let turn = tokio::time::timeout(TURN_TIMEOUT, self.running.acquire()).await;
        let _turn = turn.ok().and_then(Result::ok).ok_or(ProbeFailure::Busy)?;
        self.ask_now(probe).await.map_err(ProbeFailure::NotHealthy)
    }

    async fn ask_now(&self, probe: &Probe) -> Result<(), String> {
        let checked = self.targets.check(&probe.url);
        checked.map_err(|error| format!("its address {error}"))?;
        let asked = self.client.get(&*probe.url).send().await;
        let mut answer = asked.map_err(words_of)?;
        let status = answer.status();
        if status != reqwest::StatusCode::OK {
            return Err(format!("its health path answered {status}"));
        }
        if probe.is_a2a {
            return Ok(());
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(words_of)? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err("its health path answered too much".into());
            }
            body.extend_from_slice(&chunk);
        }
        let said: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
        let status = said.as_ref().and_then(|said| said["status"].as_str());
        match status {
            Some("healthy") => Ok(()),
            _ => Err("its health path did not answer {\"status\": \"healthy\"}".into()),
        }
    }
}

/// Returns why a connection failed, without the address: others than its owner may read it.
fn words_of(error: reqwest::Error) -> String {
    if error.is_timeout() {
        let seconds = ANSWER_TIMEOUT.as_secs();
        return format!("it did not answer within {seconds} s");
    }
    if error.is_connect() {
        return "nobody could be reached at its address".into();
    }
    "what it answered is no HTTP, or broke off".into()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// A server that gives one answer to whoever asks, after a while.
    async fn serve(answer: impl Into<Vec<u8>>, delay: Duration) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/health", listener.local_addr().unwrap());
        let answer = answer.into();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 2048];
                // The head comes in one piece, and a client that left is no failure here.
                let _ = stream.read(&mut request).await;
                tokio::time::sleep(delay).await;
                let _ = stream.write_all(&answer).await;
                let _ = stream.shutdown().await;
            }
        });
        url
    }

    fn answer(head: &str, body: &str) -> String {
        let length = body.len();
        format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\n\r\n{body}")
    }

    fn probe(url: &str, is_a2a: bool) -> Probe {
        Probe {
            url: url.into(),
            interval: Duration::from_secs(30),
            is_a2a,
        }
    }

    async fn ask(answer: impl Into<Vec<u8>>, is_a2a: bool) -> Result<(), String> {
        let url = serve(answer, Duration::ZERO).await;
        let client = HealthProbe::new(Targets::Any).unwrap();
        let asked = client.ask(&probe(&url, is_a2a)).await;
        asked.map_err(|error| error.to_string())
    }

    const HEALTHY: &str = r#"{"status": "healthy"}"#;

    #[tokio::test]
    async fn only_status_200_with_the_word_healthy_is_healthy() {
        assert_eq!(ask(answer("200 OK", HEALTHY), false).await, Ok(()));
        let longer = r#"{"status": "healthy", "uptime": 5}"#;
        assert_eq!(ask(answer("200 OK", longer), false).await, Ok(()));
        for body in [
            r#"{"status": "unhealthy"}"#,
            r#"{"status": true}"#,
            r#"["healthy"]"#,
            "healthy",
            "<html>",
            "",
        ] {
            let said = ask(answer("200 OK", body), false).await;
            assert!(said.unwrap_err().contains("did not answer"), "{body}");
        }
        for head in ["500 Internal Server Error", "404 Not Found", "201 Created"] {
            let said = ask(answer(head, HEALTHY), false).await;
            assert!(said.unwrap_err().contains(&head[..3]), "{head}");
        }
    }

    #[tokio::test]
    async fn an_agent_that_speaks_a2a_is_healthy_at_status_200() {
        assert_eq!(ask(answer("200 OK", "{}"), true).await, Ok(()));
        assert!(ask(answer("503 Unavailable", HEALTHY), true).await.is_err());
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        let healthy = serve(answer("200 OK", HEALTHY), Duration::ZERO).await;
        let moved = format!("302 Found\r\nlocation: {healthy}");
        let said = ask(answer(&moved, ""), false).await;
        assert!(said.unwrap_err().contains("302"));
    }

    #[tokio::test]
    async fn answers_without_end_and_no_http_are_given_up() {
        let huge = format!(
            r#"{{"status": "healthy", "x": "{}"}}"#,
            "x".repeat(64 << 10)
        );
        let said = ask(answer("200 OK", &huge), false).await;
        assert_eq!(said, Err("its health path answered too much".into()));
        assert!(ask("SSH-2.0-x\r\n", false).await.is_err());
        assert!(ask("", false).await.is_err());
    }

    #[tokio::test]
    async fn a_slow_agent_is_waited_for_two_seconds() {
        let url = serve(answer("200 OK", HEALTHY), Duration::from_secs(20)).await;
        let client = HealthProbe::new(Targets::Any).unwrap();
        let started = Instant::now();
        assert!(client.ask(&probe(&url, false)).await.is_err());
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[tokio::test]
    async fn a_node_that_serves_others_does_not_even_connect_to_this_machine() {
        let url = serve(answer("200 OK", HEALTHY), Duration::ZERO).await;
        let client = HealthProbe::new(Targets::Public).unwrap();
        let said = client.ask(&probe(&url, false)).await;
        assert_eq!(
            said.unwrap_err().to_string(),
            "its address must not lie on this machine or in a private network: this node serves \
             others"
        );
    }
}
