//! `aither-cli test`: runs an agent here and probes every endpoint that its file declares.
//!
//! An endpoint passes when it answers as a node needs it: the health path with `{"status":
//! "healthy"}`, what skills are asked at with success, all others with anything that shows that
//! they are there. What they want is not known here, so that they refuse it is no failure.

mod running;

use std::time::{Duration, Instant};

use aither_protocol::agent_card::{AgentCard, Endpoint, HttpMethod};
use reqwest::{Method, StatusCode, redirect};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::signal;

use super::validate;
use crate::{
    agent_dir::{self, AgentDir},
    args::calls::TestArgs,
    error::Error,
    render::{self, Column, Output, Table, clip, or_dash},
};

/// Pause between two looks at an agent that is starting.
const HEALTH_PAUSE: Duration = Duration::from_millis(100);
/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Room for a sentence.
const REMARK_WIDTH_MAX: usize = 80;
/// What an agent is asked that gives no example.
const GREETING: &str = "Hello";
/// Where a call goes unless its skill names an endpoint.
const CHAT: &str = "/chat";

/// What became of one endpoint.
#[derive(Debug, Serialize)]
struct Probed {
    method: &'static str,
    path: String,
    /// `None` where it did not answer.
    status: Option<u16>,
    latency_ms: u64,
    ok: bool,
    remark: Option<String>,
}

/// Starts the agent unless it runs, probes it and says how it did.
pub(crate) async fn run(output: &Output, args: &TestArgs, json: bool) -> Result<(), Error> {
    let agent = AgentDir::new(&args.directory);
    let card = match agent.read_card()? {
        Ok(card) => card,
        Err(findings) => {
            for finding in &findings {
                render::remark(&validate::line(finding));
            }
            return Err(agent_dir::invalid(&findings));
        }
    };
    tokio::select! {
        done = test(output, args, &card, json) => done,
        // What was started ends with what is dropped here.
        signal = signal::ctrl_c() => Err(signal.err().map_or(Error::Stopped, Error::Terminal)),
    }
}

async fn test(output: &Output, args: &TestArgs, card: &AgentCard, json: bool) -> Result<(), Error> {
    let patience = Duration::from_secs(u64::from(args.timeout));
    let prober = Prober::new(patience)?;
    let (running, url) = match &args.url {
        Some(url) => (None, url.as_str().trim_end_matches('/').to_owned()),
        None => {
            let running = running::start(&args.directory, card, &prober, patience).await?;
            let url = running.url().to_owned();
            (Some(running), url)
        }
    };
    let mut probed = Vec::new();
    for endpoint in &card.endpoints {
        probed.push(prober.probe(&url, card, endpoint).await);
    }
    if let Some(running) = &running
        && probed.iter().any(|probed| !probed.ok)
    {
        running.show_output();
    }
    report(output, card, &url, &probed, json)
}

fn report(
    output: &Output,
    card: &AgentCard,
    url: &str,
    probed: &[Probed],
    json: bool,
) -> Result<(), Error> {
    let failed = probed.iter().filter(|probed| !probed.ok).count();
    if json {
        let report = json!({
            "agent": card.name.as_str(), "url": url, "ok": failed == 0, "endpoints": probed,
        });
        output.line(&report.to_string())?;
    } else {
        output.piece(&table(probed))?;
    }
    match failed {
        0 => Ok(()),
        failed => Err(Error::AgentFailed(format!(
            "{failed} of {} endpoints do not answer as they should",
            probed.len()
        ))),
    }
}

fn table(probed: &[Probed]) -> String {
    let mut table = Table::new([
        Column::Text("METHOD"),
        Column::Text("PATH"),
        Column::Number("STATUS"),
        Column::Number("TIME"),
        Column::Text(""),
    ]);
    for probed in probed {
        let remark = probed.remark.as_deref();
        table.push([
            probed.method.to_owned(),
            probed.path.clone(),
            or_dash(probed.status),
            format!("{} ms", probed.latency_ms),
            match (probed.ok, remark) {
                (true, None) => "ok".to_owned(),
                (true, Some(remark)) => format!("ok, {remark}"),
                (false, remark) => format!("FAILED: {}", remark.unwrap_or("it does not answer")),
            },
        ]);
    }
    table.to_string()
}

/// Asks endpoints.
#[derive(Debug)]
struct Prober {
    http: reqwest::Client,
}

impl Prober {
    fn new(patience: Duration) -> Result<Self, Error> {
        let http = reqwest::Client::builder()
            .timeout(patience)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(Error::Client)?;
        Ok(Self { http })
    }

    /// Says whether an agent is healthy, else what it lacks.
    async fn health(&self, url: &str, card: &AgentCard) -> Result<(), String> {
        let (status, body) = self
            .ask(Method::GET, &format!("{url}{}", card.health.endpoint), None)
            .await?;
        // An agent that speaks A2A is healthy when it answers.
        match status == StatusCode::OK && (card.a2a.is_some() || body["status"] == "healthy") {
            true => Ok(()),
            false => Err(format!(
                "answered {}, and must answer 200 with {{\"status\": \"healthy\"}}",
                status.as_u16()
            )),
        }
    }

    async fn probe(&self, url: &str, card: &AgentCard, endpoint: &Endpoint) -> Probed {
        let begun = Instant::now();
        let method = method_of(endpoint.method);
        let outcome = match endpoint.path == card.health.endpoint && method == Method::GET {
            true => self.health(url, card).await.map(|()| (200, None)),
            false => self.work(url, card, endpoint, method.clone()).await,
        };
        let latency_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (status, ok, remark) = match outcome {
            Ok((status, remark)) => (Some(status), remark.is_none() || status < 500, remark),
            Err(words) => (None, false, Some(words)),
        };
        Probed {
            method: endpoint.method.as_str(),
            path: endpoint.path.clone(),
            status,
            latency_ms,
            ok: ok && !is_missing(status),
            remark: remark.map(|words| clip(&words, REMARK_WIDTH_MAX)),
        }
    }

    /// Asks an endpoint for its work. What is wrong with an answer is said beside its status.
    async fn work(
        &self,
        url: &str,
        card: &AgentCard,
        endpoint: &Endpoint,
        method: Method,
    ) -> Result<(u16, Option<String>), String> {
        let example = example_for(card, endpoint);
        let body = match (&example, method == Method::GET || method == Method::DELETE) {
            (_, true) => None,
            (Some(message), false) => Some(json!({ "message": message })),
            (None, false) => Some(json!({})),
        };
        let (status, _) = self
            .ask(method, &format!("{url}{}", endpoint.path), body)
            .await?;
        let remark = match status {
            status if status.is_success() => None,
            status if is_missing(Some(status.as_u16())) => {
                Some("it is declared and not there".to_owned())
            }
            status if status.is_server_error() => Some("it failed".to_owned()),
            _ if example.is_some() => {
                return Err(format!(
                    "it answered {} to {{\"message\": …}}, as others call it",
                    status.as_u16()
                ));
            }
            _ => Some("it wants other input".to_owned()),
        };
        Ok((status.as_u16(), remark))
    }

    /// Sends one request; what is no JSON counts as `null`.
    async fn ask(
        &self,
        method: Method,
        url: &str,
        body: Option<Value>,
    ) -> Result<(StatusCode, Value), String> {
        let mut request = self.http.request(method, url);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let words = |error: reqwest::Error| match error.is_timeout() {
            true => "no answer in time".to_owned(),
            false => error.without_url().to_string(),
        };
        let mut answer = request.send().await.map_err(words)?;
        let status = answer.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(words)? {
            if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(format!("an answer of more than {ANSWER_BYTES_MAX} bytes"));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok((
            status,
            serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        ))
    }
}

fn is_missing(status: Option<u16>) -> bool {
    matches!(status, Some(404 | 405 | 501))
}

/// Returns what an endpoint is asked that others call: by a skill, or as where all are chatted
/// with. `None` for all others, of which nobody knows what they want.
fn example_for(card: &AgentCard, endpoint: &Endpoint) -> Option<String> {
    let at = |skill: &&aither_protocol::agent_card::Skill| {
        skill.endpoint.as_deref().unwrap_or(CHAT) == endpoint.path
    };
    let skill = card.skills.iter().find(at);
    if skill.is_none() && endpoint.path != CHAT {
        return None;
    }
    let example = skill.and_then(|skill| skill.examples.first().cloned());
    Some(example.unwrap_or_else(|| GREETING.to_owned()))
}

fn method_of(method: HttpMethod) -> Method {
    // Its word is a method's.
    Method::from_bytes(method.as_str().as_bytes()).unwrap_or(Method::GET)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: &str = "\
name: my-agent
version: 1.0.0
description: Answers.
author: Ann
runtime: {language: python3.12, entrypoint: main.py}
skills:
  - {id: research, name: Research, description: Looks it up., examples: [Why?], endpoint: /look}
capabilities: [llm_inference]
billing: {token_cost_per_request: 1, category: agent}
health: {endpoint: /health}
endpoints:
  - {path: /chat, method: POST, description: Chat}
  - {path: /look, method: POST, description: Look}
  - {path: /other, method: PUT, description: Other}
";

    #[test]
    fn skills_are_asked_their_examples_and_unknown_endpoints_nothing() {
        let card = AgentCard::from_yaml(SPEC).unwrap();
        let examples: Vec<_> = card
            .endpoints
            .iter()
            .map(|endpoint| example_for(&card, endpoint))
            .collect();
        let expected = [Some("Hello"), Some("Why?"), None].map(|text| text.map(str::to_owned));
        assert_eq!(examples, expected);
    }

    #[test]
    fn a_table_says_what_failed_and_why() {
        let probed = |ok, status, remark: Option<&str>| Probed {
            method: "POST",
            path: "/chat".to_owned(),
            status,
            latency_ms: 12,
            ok,
            remark: remark.map(str::to_owned),
        };
        let text = table(&[
            probed(true, Some(200), None),
            probed(false, None, Some("no answer in time")),
        ]);
        assert!(text.contains("/chat     200  12 ms  ok\n"), "{text}");
        assert!(
            text.contains("-  12 ms  FAILED: no answer in time\n"),
            "{text}"
        );
    }
}
