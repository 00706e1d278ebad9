//! Whether an agent answers and is well: `{"status": "healthy"}` at its health path.
//!
//! Where agents may be is a matter of who reaches this node. While it listens on loopback alone,
//! its users are on this machine and may name any address; else addresses of this machine and of
//! private networks are refused, both as they are written and as names resolve, at each
//! connection: a name that resolves to something else later gets no further. Redirects are not
//! followed.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;

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

/// Which addresses may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeTargets {
    /// All of them.
    Any,
    /// Those that are everybody's: not this machine's and no private network's.
    Public,
}

/// Asks agents for their health.
#[derive(Debug)]
pub struct HealthProbe {
    client: reqwest::Client,
    targets: ProbeTargets,
    running: Semaphore,
}

impl ProbeTargets {
    /// Checks an address as it is written.
    ///
    /// # Errors
    /// Words for whoever wrote it.
    pub fn check(self, url: &str) -> Result<(), String> {
        let url = reqwest::Url::parse(url).map_err(|error| error.to_string())?;
        let host = url.host_str().unwrap_or_default();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse();
        let is_local_name = host.eq_ignore_ascii_case("localhost");
        let may = self == Self::Any || address.map_or(!is_local_name, is_public);
        if may {
            return Ok(());
        }
        Err("must not lie on this machine or in a private network: this node serves others".into())
    }
}

impl HealthProbe {
    /// Makes a client.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(targets: ProbeTargets) -> Result<Self, StoreError> {
        // Whoever was first chose the same; which of them it was does not matter.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = reqwest::Client::builder()
            .timeout(ANSWER_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            // An agent that has been restarted closes what was open.
            .pool_max_idle_per_host(0);
        if targets == ProbeTargets::Public {
            client = client.dns_resolver(Arc::new(PublicOnly));
        }
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
    pub fn targets(&self) -> ProbeTargets {
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

/// Resolves names to public addresses alone.
#[derive(Debug)]
struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|a| is_public(a.ip())).collect();
            if public.is_empty() {
                return Err("the name has no public address".into());
            }
            let addresses: Addrs = Box::new(public.into_iter());
            Ok(addresses)
        })
    }
}

/// Returns whether an address is of the public internet.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            let is_shared = a == 100 && (64..128).contains(&b);
            let is_special = a == 0 || a >= 240 || (a, b, c) == (192, 0, 0);
            let is_benchmark = a == 198 && (18..20).contains(&b);
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_documentation()
                || is_shared
                || is_special
                || is_benchmark)
        }
        IpAddr::V6(v6) => {
            // Of 2000::/3 without what stands for IPv4 addresses or for documents.
            let [first, second, ..] = v6.segments();
            let is_global = first & 0xe000 == 0x2000;
            let is_translated = first == 0x2002 || (first == 0x2001 && second == 0);
            is_global && !is_translated && (first, second) != (0x2001, 0xdb8)
        }
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

    #[test]
    fn addresses_of_this_machine_and_of_private_networks_are_not_public() {
        for address in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "::1",
            "fe80::1",
            "fc00::1",
            "::ffff:10.0.0.1",
            "2002:a00:1::",
            "64:ff9b::a00:1",
            "2001:db8::1",
            "ff02::1",
            "::",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        for address in ["1.1.1.1", "100.128.0.1", "2606:4700::1111"] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn a_node_that_serves_others_asks_public_addresses_only() {
        let public = ProbeTargets::Public;
        for url in [
            "http://localhost:1/",
            "http://LOCALHOST/",
            "http://127.0.0.1/",
            "http://[::1]:9/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://10.0.0.1",
            "http://[::ffff:7f00:1]/",
        ] {
            assert!(public.check(url).is_err(), "{url}");
            assert!(ProbeTargets::Any.check(url).is_ok(), "{url}");
        }
        assert!(public.check("https://agents.example.org:8443/a").is_ok());
    }

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
        let client = HealthProbe::new(ProbeTargets::Any).unwrap();
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
        let client = HealthProbe::new(ProbeTargets::Any).unwrap();
        let started = Instant::now();
        assert!(client.ask(&probe(&url, false)).await.is_err());
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[tokio::test]
    async fn a_node_that_serves_others_does_not_even_connect_to_this_machine() {
        let url = serve(answer("200 OK", HEALTHY), Duration::ZERO).await;
        let client = HealthProbe::new(ProbeTargets::Public).unwrap();
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
