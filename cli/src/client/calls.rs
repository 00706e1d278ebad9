//! Calls of agents, and what is logged of them.

use aither_protocol::Amount;
use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Answer, ChatStream, Client};
use crate::error::Error;

/// Whom a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CallTarget<'a> {
    /// The agent of this name.
    Agent(&'a str),
    /// The best that has this skill.
    Skill(&'a str),
}

/// `POST /v1/a2a/tasks`.
#[derive(Debug, Serialize)]
pub(crate) struct CallRequest<'a> {
    #[serde(flatten)]
    pub(crate) target: CallTarget<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) input: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) endpoint: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) payload: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_cost: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<u32>,
    pub(crate) stream: bool,
}

/// Something that happened to an agent.
#[derive(Debug, Deserialize)]
pub(crate) struct LogItem {
    pub(crate) time: Option<String>,
    pub(crate) event: String,
    #[serde(default)]
    pub(crate) data: Value,
}

impl Client {
    /// Calls an agent and waits for its whole answer, as long as the node does.
    pub(crate) async fn call(&self, request: &CallRequest<'_>) -> Result<Answer, Error> {
        let url = self.url("v1/a2a/tasks")?;
        let sent = self.send(self.request(Method::POST, url).json(request));
        let body = self.read_body(sent.await?, super::BODY_BYTES_MAX).await?;
        Answer::new(self.server(), &body)
    }

    /// Calls an agent whose answer is wanted as it comes.
    pub(crate) async fn call_streamed(
        &self,
        request: &CallRequest<'_>,
    ) -> Result<ChatStream<'_>, Error> {
        let url = self.url("v1/a2a/tasks")?;
        self.stream(self.request(Method::POST, url).json(request))
            .await
    }

    /// Says whether the node knows an agent of this name.
    pub(crate) async fn knows_agent(&self, name: &str) -> Result<bool, Error> {
        match self.get(&agent_path(name, ""), &[]).await {
            Ok(_) => Ok(true),
            Err(Error::Refused(refusal))
                if refusal.status == Some(StatusCode::NOT_FOUND.as_u16()) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Asks for the last lines of an agent's log.
    pub(crate) async fn logs(&self, name: &str, lines: u32) -> Result<Answer, Error> {
        let limit = lines.to_string();
        let path = agent_path(name, "/logs");
        self.get(&path, &[("limit", &limit)]).await
    }

    /// Asks for the last lines of an agent's log, and all that follow.
    pub(crate) async fn follow_logs(
        &self,
        name: &str,
        lines: u32,
    ) -> Result<ChatStream<'_>, Error> {
        let mut url = self.url(&agent_path(name, "/logs"))?;
        url.query_pairs_mut()
            .append_pair("follow", "true")
            .append_pair("limit", &lines.to_string());
        self.stream(self.request(Method::GET, url)).await
    }
}

/// Returns the path of an agent, whatever was typed as its name.
fn agent_path(name: &str, rest: &str) -> String {
    let mut encoded = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'@' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    format!("v1/agents/{encoded}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_within_its_segment() {
        assert_eq!(agent_path("my-agent", "/logs"), "v1/agents/my-agent/logs");
        assert_eq!(
            agent_path("a/../b?c#d", ""),
            "v1/agents/a%2F%2E%2E%2Fb%3Fc%23d"
        );
        assert_eq!(agent_path("bot@12D3Koo", ""), "v1/agents/bot@12D3Koo");
    }

    #[test]
    fn a_request_names_agent_or_skill_and_nothing_that_was_not_said() {
        let request = CallRequest {
            target: CallTarget::Skill("research"),
            input: Some("hello"),
            endpoint: None,
            payload: None,
            max_cost: None,
            timeout: None,
            stream: false,
        };
        let json = serde_json::to_value(&request).unwrap();
        let expected = serde_json::json!({"skill": "research", "input": "hello", "stream": false});
        assert_eq!(json, expected);
    }
}
