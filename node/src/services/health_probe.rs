//! Whether an agent answers and is well: `{"status": "healthy"}` at its health path.
//!
//! Where agents may be is a matter of who reaches this node: see [`super::outbound`]. Redirects are
//! not followed.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

use super::outbound::Targets;
use crate::{
    accounts::StoreError,
    agents::{Agent, AgentId, Probe},
};

/// Longest wait for an answer: whoever onboards waits along, and may give up after five seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for a turn; who gets none is asked again later.
const TURN_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 16 << 10;
/// Probes at once.
const PROBES_MAX: usize = 16;
/// Agents that are asked again in one round.
const ROUND_AGENTS_MAX: usize = 64;
/// Time between two rounds.
const ROUND_PERIOD: Duration = Duration::from_secs(1);

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
    pub async fn ask(&self, probe: &Probe) -> Result<(), String> {
        self.targets.check(&probe.url)?;
        // Whoever onboards waits along: a queue of silent agents must not keep others waiting.
        let turn = tokio::time::timeout(TURN_TIMEOUT, self.running.acquire()).await;
        let _turn = turn.ok().and_then(Result::ok).ok_or("too many are asked")?;
        let asked = self.client.get(&*probe.url).send().await;
        let mut answer = asked.map_err(|error| error.without_url().to_string())?;
        let status = answer.status();
        if status != reqwest::StatusCode::OK {
            return Err(format!("answered {status}"));
        }
        if probe.is_a2a {
            return Ok(());
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| error.to_string())? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err("answered too much".into());
            }
            body.extend_from_slice(&chunk);
        }
        let said: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
        let status = said.as_ref().and_then(|said| said["status"].as_str());
        match status {
            Some("healthy") => Ok(()),
            _ => Err("did not answer {\"status\": \"healthy\"}".into()),
        }
    }
}

/// When which agents are asked again: soon at first, then at their own intervals.
#[derive(Debug, Default)]
pub struct Rounds {
    /// By agent, when it is asked next and how long after that again.
    waiting: HashMap<AgentId, (Instant, Duration)>,
}

impl Rounds {
    /// Waits for the next round and returns who is due.
    pub async fn next(&mut self, booting: impl FnOnce() -> Vec<Arc<Agent>>) -> Vec<Arc<Agent>> {
        tokio::time::sleep(ROUND_PERIOD).await;
        self.due(booting(), Instant::now())
    }

    fn due(&mut self, booting: Vec<Arc<Agent>>, now: Instant) -> Vec<Arc<Agent>> {
        let present: HashSet<_> = booting.iter().map(|agent| agent.id).collect();
        self.waiting.retain(|id, _| present.contains(id));
        let mut due = Vec::new();
        for agent in booting {
            if agent.probe.is_none() {
                continue;
            }
            // It has just been asked in vain, and may be up in a moment.
            let first = (now + ROUND_PERIOD, ROUND_PERIOD);
            let (next, _) = *self.waiting.entry(agent.id).or_insert(first);
            if next <= now {
                due.push((next, agent));
            }
        }
        // Whoever has waited longest comes first, so that many who ask often keep nobody out.
        due.sort_by_key(|(next, _)| *next);
        due.truncate(ROUND_AGENTS_MAX);
        for (_, agent) in &due {
            let longest = agent.probe.as_ref().map_or(ROUND_PERIOD, |p| p.interval);
            if let Some((next, wait)) = self.waiting.get_mut(&agent.id) {
                *wait = (*wait * 2).min(longest);
                *next = now + *wait;
            }
        }
        due.into_iter().map(|(_, agent)| agent).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::agents::{AgentState, Mode};

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
        client.ask(&probe(&url, is_a2a)).await
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
        assert_eq!(said, Err("answered too much".into()));
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
        assert!(said.unwrap_err().contains("private network"));
    }

    fn booting(number: u128, interval: Duration) -> Arc<Agent> {
        Arc::new(Agent {
            id: AgentId::from_u128(number),
            name: "bot".into(),
            owner: aither_ledger::AccountId(1),
            mode: Mode::Remote,
            state: AgentState::Boot,
            suspended_by: None,
            is_torn_down: false,
            version: "1.0.0".into(),
            tier: aither_protocol::Tier::Agent,
            granted: aither_protocol::CapabilitySet::EMPTY,
            price: 0,
            model: None,
            probe: Some(Probe {
                interval,
                ..probe("http://127.0.0.1:1/health", false)
            }),
            public_key: [0; 32],
            tokens_since_ms: 0,
            created: UNIX_EPOCH,
            updated: UNIX_EPOCH,
        })
    }

    #[test]
    fn an_agent_is_asked_again_soon_and_then_ever_more_rarely() {
        let mut rounds = Rounds::default();
        let start = Instant::now();
        let agent = booting(1, Duration::from_secs(8));
        let mut asked = Vec::new();
        for second in 0..40 {
            let now = start + Duration::from_secs(second);
            if !rounds.due(vec![Arc::clone(&agent)], now).is_empty() {
                asked.push(second);
            }
        }
        assert_eq!(asked, [1, 3, 7, 15, 23, 31, 39]);
        // Who left is forgotten, and begins anew when it comes again.
        assert!(rounds.due(Vec::new(), start).is_empty());
        assert!(rounds.waiting.is_empty());
    }

    #[test]
    fn no_round_asks_more_than_its_bound_and_none_waits_for_ever() {
        let mut rounds = Rounds::default();
        let start = Instant::now();
        let count = ROUND_AGENTS_MAX * 2 + 5;
        // As many as may be in a round want to be asked in each of them.
        let interval = Duration::from_secs(1);
        let agents: Vec<_> = (0..count).map(|n| booting(n as u128, interval)).collect();
        let mut asked = HashSet::new();
        for second in 0..30 {
            let due = rounds.due(agents.clone(), start + Duration::from_secs(second));
            assert!(due.len() <= ROUND_AGENTS_MAX);
            asked.extend(due.iter().map(|agent| agent.id));
        }
        assert_eq!(asked.len(), count);
    }
}
