//! Agents: which there are, and taking one aboard.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Answer, Client};
use crate::error::Error;

/// Which agents to list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AgentQuery<'a> {
    /// Only those that have this skill.
    pub(crate) skill: Option<&'a str>,
    /// Also those of other nodes of the federation.
    pub(crate) all_nodes: bool,
}

/// One agent that a node knows. All but the name may be missing on other servers.
#[derive(Debug, Deserialize)]
pub(crate) struct Agent {
    pub(crate) name: String,
    pub(crate) node: Option<String>,
    pub(crate) state: Option<String>,
    #[serde(default)]
    pub(crate) skills: Vec<Skill>,
    pub(crate) price: Option<super::Tokens>,
    pub(crate) latency_ms: Option<f64>,
    pub(crate) load: Option<f64>,
    pub(crate) reputation: Option<f64>,
}

/// A skill in a list of agents: its id, alone or with what belongs to it.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Skill {
    /// Only its id.
    Id(String),
    /// As in the agent's card.
    Whole { id: String },
}

impl Skill {
    /// Returns its id.
    pub(crate) fn id(&self) -> &str {
        match self {
            Self::Id(id) | Self::Whole { id } => id,
        }
    }
}

/// Who runs an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// The node runs it.
    Managed,
    /// Its owner runs it, and the node passes requests on to it.
    Remote,
    /// Its owner runs it, and it uses the node's models, memory and other agents.
    Hybrid,
}

/// What an agent gets when it comes aboard, as far as it is shown: the key only lies in the file.
#[derive(Deserialize)]
pub(crate) struct Bundle {
    pub(crate) agent_id: String,
    pub(crate) agent_name: String,
    pub(crate) status: String,
    pub(crate) mode: String,
    pub(crate) capabilities: Vec<String>,
    /// That there is one is all that is looked at.
    api_key: String,
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle")
            .field("agent_id", &self.agent_id)
            .finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct OnboardRequest<'a> {
    agent_card: &'a Value,
    mode: Mode,
}

impl Client {
    /// Asks for agents: all pages of the list as one.
    pub(crate) async fn agents(&self, query: AgentQuery<'_>) -> Result<Answer, Error> {
        let mut parameters = Vec::new();
        parameters.extend(query.skill.map(|skill| ("skill", skill)));
        if !query.all_nodes {
            parameters.push(("local", "true"));
        }
        let what = "a list of agents";
        self.whole_list("v1/agents", &parameters, what).await
    }

    /// Takes an agent aboard, or gives one that is known a fresh key.
    ///
    /// Returns what can be shown of the bundle, and the whole, which holds the key.
    pub(crate) async fn onboard(
        &self,
        card: &Value,
        mode: Mode,
    ) -> Result<(Bundle, Answer), Error> {
        let request = OnboardRequest {
            agent_card: card,
            mode,
        };
        let whole = self.post("v1/agents/auto-onboard", &request).await?;
        let bundle: Bundle = whole.read("an onboarding answer")?;
        if bundle.api_key.is_empty() {
            return Err(self.unexpected("an onboarding answer without a key"));
        }
        Ok((bundle, whole))
    }
}
