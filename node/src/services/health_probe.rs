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
        // A client takes the process's provider; installed already, it is the same.
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
        // Never closed, so never an error.
        let _turn = self.running.acquire().await.map_err(|_| "stopping")?;
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
            let Some(probe) = &agent.probe else {
                continue;
            };
            // It has just been asked in vain, and may be up in a moment.
            let first = (now + ROUND_PERIOD, ROUND_PERIOD);
            let (next, wait) = self.waiting.entry(agent.id).or_insert(first);
            if *next <= now && due.len() < ROUND_AGENTS_MAX {
                *wait = (*wait * 2).min(probe.interval);
                *next = now + *wait;
                due.push(agent);
            }
        }
        due
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
    use super::*;

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
}
