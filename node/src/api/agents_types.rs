//! The shapes of `/v1/agents/…`.

use aither_protocol::{Amount, CapabilitySet, Caveat, MemoryTier};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::{ApiError, FieldError, base_url::BaseUrl, extract::parse_duration, rfc3339};
use crate::{
    accounts::SecretText,
    agents::{Agent, AgentState, Mode, SkillSummary},
    services::{SpawnTerms, Standing},
};

/// Longest list of memory-key prefixes or skills that a request may narrow by.
const NARROWED_MAX: usize = 16;

/// `POST /v1/agents/auto-onboard`.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct OnboardBody {
    /// The card; its schema is `/v1/schemas/agent-card.json`.
    #[schema(value_type = Object)]
    pub(super) agent_card: Value,
    /// Who runs the agent: `managed`, `remote` or `hybrid`.
    pub(super) mode: OnboardMode,
}

/// Who runs an agent.
///
/// Read as a text: of a JSON number the reader of enums says that it is no JSON.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(try_from = "String", rename_all = "snake_case")]
pub(super) enum OnboardMode {
    /// The node.
    Managed,
    /// Its owner, elsewhere.
    Remote,
    /// Its owner, with this node's inference and memory.
    Hybrid,
}

/// Which agents are wanted.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct FindParams {
    /// A skill's id.
    pub(super) skill: Option<String>,
    /// A skill's tag.
    pub(super) tag: Option<String>,
    /// Words that begin words of the agent's name and skills.
    pub(super) q: Option<String>,
    /// A node's id: only its agents.
    pub(super) node: Option<String>,
    /// `BOOT`, `LIVE`, `PAIN`, `HEAL`, `DRAIN` or `STOP`: where they are in their lives. Those that
    /// were torn down are shown with `STOP` alone.
    state: Option<String>,
}

/// `?purge=true`.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct TearDownParams {
    /// Whether nothing is to be left of it. Else its name stays its owner's.
    #[serde(default)]
    pub(super) purge: bool,
}

/// An agent in a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AgentItem {
    name: String,
    id: String,
    /// The node that it is aboard of.
    node: String,
    /// Whether that is this one.
    local: bool,
    /// Where it is in its life: `BOOT`, `LIVE`, `PAIN`, `HEAL`, `DRAIN` or `STOP`. With `LIVE` and
    /// `PAIN` it takes calls.
    state: &'static str,
    #[schema(value_type = Vec<Object>)]
    skills: Vec<SkillSummary>,
    /// Tokens a call: what it is offered for, else what its card says.
    #[schema(value_type = f64)]
    price: Amount,
    /// A moving mean of what answers took; none before the first.
    latency_ms: Option<f64>,
    /// How much of what it does at once it has, above 1 some calls wait; none before the first.
    load: Option<f64>,
    /// Between 0 and 1: how likely a call is answered, by the recent ones; none before the first.
    reputation: Option<f64>,
}

/// An agent with its card.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AgentBody {
    #[serde(flatten)]
    pub(super) item: AgentItem,
    pub(super) version: String,
    pub(super) mode: &'static str,
    pub(super) tier: &'static str,
    #[schema(value_type = Vec<String>)]
    pub(super) capabilities: CapabilitySet,
    /// `ed25519:` and its public key in hex.
    pub(super) public_key: String,
    pub(super) created_at: String,
    pub(super) updated_at: String,
    /// The card, signed by the node.
    #[schema(value_type = Object)]
    pub(super) card: Value,
}

/// A new key of an agent.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct KeyBody {
    /// The key, shown this once.
    #[schema(value_type = String)]
    pub(super) api_key: SecretText,
}

/// `POST /v1/agents/{name}/spawn`.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct SpawnBody {
    /// What the sub-agent may do; no more than its parent.
    #[schema(value_type = Vec<String>)]
    pub(super) capabilities: CapabilitySet,
    /// The most tokens that it, and those that it spawns, may ever spend.
    #[schema(value_type = Option<f64>)]
    max_spend: Option<Amount>,
    /// How long its token works: `1h`, `7d`.
    expires: Option<String>,
    /// What it is called, for whoever reads its token; usage is its parent's.
    name: Option<String>,
    /// The memory that it may touch.
    #[schema(value_type = Option<Vec<String>>)]
    memory_tiers: Option<Vec<MemoryTier>>,
    /// What its memory keys must begin with.
    #[serde(default)]
    key_prefixes: Vec<String>,
    /// The skills of other agents that it may call.
    skills: Option<Vec<String>>,
}

/// A sub-agent's token.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SpawnedBody {
    /// The token, shown this once. Send it as `Authorization: Bearer TOKEN`.
    #[schema(value_type = String)]
    pub(super) capability_token: SecretText,
    /// Names it, to revoke it.
    pub(super) token_id: String,
    #[schema(value_type = Vec<String>)]
    pub(super) capabilities: CapabilitySet,
    #[schema(value_type = Option<f64>)]
    pub(super) max_spend: Option<Amount>,
    pub(super) expires_at: Option<String>,
}

/// A root key of capability tokens.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TokenKeyBody {
    /// Its number, which tokens carry.
    pub(super) key_id: u32,
}

impl TryFrom<String> for OnboardMode {
    type Error = &'static str;

    fn try_from(word: String) -> Result<Self, Self::Error> {
        match &*word {
            "managed" => Ok(Self::Managed),
            "remote" => Ok(Self::Remote),
            "hybrid" => Ok(Self::Hybrid),
            _ => Err("must be managed, remote or hybrid"),
        }
    }
}

impl From<OnboardMode> for Mode {
    fn from(mode: OnboardMode) -> Self {
        match mode {
            OnboardMode::Managed => Self::Managed,
            OnboardMode::Remote => Self::Remote,
            OnboardMode::Hybrid => Self::Hybrid,
        }
    }
}

impl FindParams {
    /// Returns the state that is asked for.
    pub(super) fn state(&self) -> Result<Option<AgentState>, ApiError> {
        let Some(word) = self.state.as_deref().filter(|word| !word.is_empty()) else {
            return Ok(None);
        };
        let mut states = AgentState::ALL.into_iter();
        let state = states.find(|state| state.as_str().eq_ignore_ascii_case(word));
        let state = state.ok_or_else(|| {
            let words: Vec<_> = AgentState::ALL.iter().map(|state| state.as_str()).collect();
            ApiError::field("state", format!("must be one of {}", words.join(", ")))
        })?;
        Ok(Some(state))
    }
}

impl AgentItem {
    /// Shows an agent of this node.
    pub(super) fn of(
        agent: &Agent,
        skills: Vec<SkillSummary>,
        node: &str,
        (price, standing): (Amount, &Standing),
    ) -> Self {
        Self {
            name: agent.name.to_string(),
            id: agent.id.to_string(),
            node: node.to_owned(),
            local: true,
            state: agent.state.as_str(),
            skills,
            price,
            latency_ms: standing.latency_ms,
            load: standing.load,
            reputation: standing.reputation,
        }
    }
}

impl SpawnBody {
    /// Checks the bounds and returns them as a token says them, with when it ends.
    pub(super) fn terms(
        self,
        now: std::time::SystemTime,
    ) -> Result<(SpawnTerms, Option<Amount>, Option<std::time::SystemTime>), ApiError> {
        let mut errors = Vec::new();
        let mut wrong = |field: &str, message: String| {
            errors.push(FieldError {
                field: field.to_owned(),
                message,
            });
        };
        let mut caveats: Vec<_> = self.name.into_iter().map(Caveat::Agent).collect();
        let ends = self.expires.as_deref().and_then(|text| {
            let ends = parse_duration(text).and_then(|ttl| now.checked_add(ttl));
            if ends.is_none() {
                wrong("expires", "must be a time such as 1h or 7d".to_owned());
            }
            ends
        });
        if let Some(ends) = ends {
            caveats.push(Caveat::Expires(crate::accounts::unix_ms(ends)));
        }
        for (field, count) in [
            ("key_prefixes", self.key_prefixes.len()),
            ("skills", self.skills.as_ref().map_or(0, Vec::len)),
        ] {
            if count > NARROWED_MAX {
                wrong(field, format!("must have at most {NARROWED_MAX} entries"));
            }
        }
        if !errors.is_empty() {
            return Err(ApiError::fields(errors));
        }
        if let Some(tiers) = self.memory_tiers {
            caveats.push(Caveat::MemoryTiers(tiers.into_iter().collect()));
        }
        caveats.extend(self.key_prefixes.into_iter().map(Caveat::KeyPrefix));
        caveats.extend(self.skills.map(Caveat::Skills));
        caveats.extend(self.max_spend.map(Caveat::MaxSpend));
        let terms = SpawnTerms {
            capabilities: self.capabilities,
            caveats,
        };
        Ok((terms, self.max_spend, ends))
    }
}

/// What is secret in a bundle.
#[derive(Debug)]
pub(super) struct BundleSecrets {
    pub(super) api_key: SecretText,
    pub(super) capability_token: SecretText,
}

/// Returns all that an agent needs to know to work with this node; the secrets only once.
pub(super) fn bundle(
    agent: &Agent,
    base: &BaseUrl,
    models: (&[String], &str),
    secrets: Option<BundleSecrets>,
) -> Value {
    let mut bundle = json!({
        "success": true,
        "agent_id": agent.id,
        "agent_name": agent.name,
        "status": if agent.is_suspended() { "suspended" } else { "active" },
        "state": agent.state.as_str(),
        "mode": agent.mode.as_str(),
        "isolation": "standard",
        "version": agent.version,
        "tier": agent.tier.as_str(),
        "public_key": public_key(agent),
        "capabilities": agent.granted,
        "security_notes": [
            "api_key and capability_token are shown this once; keep them like passwords",
            "capability_token can be narrowed by whoever holds it, without asking the node",
        ],
    });
    let groups = [endpoints(agent, base), platform_groups(agent, base, models)];
    let groups = groups.into_iter().filter_map(|group| match group {
        Value::Object(group) => Some(group),
        _ => None,
    });
    for (name, group) in groups.flatten() {
        bundle[name] = group;
    }
    if let Some(secrets) = secrets {
        bundle["api_key"] = json!(secrets.api_key);
        bundle["capability_token"] = json!(secrets.capability_token);
    }
    bundle
}

/// The endpoints of the node's own API.
fn endpoints(agent: &Agent, base: &BaseUrl) -> Value {
    let url = |path: &str| base.join(path);
    let own = |path: &str| base.join(&format!("/v1/agents/{}{path}", agent.name));
    let a2a = |path: &str| base.join(&format!("/a2a/{}{path}", agent.name));
    json!({
        "inference_endpoints": {
            "llm": url("/v1/llm/generate"),
            "chat": url("/v1/llm/chat"),
            "embed": url("/v1/llm/embed"),
            "openai": url("/v1"),
        },
        "memory_endpoints": {
            "write": url("/v1/memory/write"),
            "read": url("/v1/memory/read"),
            "search": url("/v1/memory/search"),
            "delete": url("/v1/memory/delete"),
        },
        "a2a_endpoints": {
            "tasks": url("/v1/a2a/tasks"),
            "parallel": url("/v1/a2a/parallel"),
            "card": a2a("/.well-known/agent-card.json"),
            "jsonrpc": a2a(""),
        },
        "event_endpoints": {
            "emit": url("/v1/events/emit"),
            "subscribe": url("/v1/events/subscribe"),
        },
        "management": {
            "connection_info": own("/connection-info"),
            "rotate_key": own("/rotate-key"),
            "card": own("/card"),
            "usage": own("/usage"),
            "teardown": own(""),
            "my_info": base.join(&format!("/api/agents/{}", agent.id)),
            "suspend": own("/suspend"),
            "resume": own("/resume"),
            "audit": base.join(&format!("/api/audit/{}", agent.id)),
        },
    })
}

/// The groups that the platform's third protocol has beside them.
fn platform_groups(agent: &Agent, base: &BaseUrl, (models, default): (&[String], &str)) -> Value {
    let url = |path: &str| base.join(path);
    json!({
        "workspace": workspace(agent, base),
        "inference": {
            "ollama": url("/v1/llm/generate"),
            "ollama_chat": url("/v1/llm/chat"),
            "ollama_embed": url("/v1/llm/embed"),
            "models": models,
            "default_model": agent.model.as_deref().unwrap_or(default),
        },
        "a2a": {
            "registered": true,
            "gateway": url("/v1/a2a"),
            "your_card": base.join(&format!("/v1/a2a/agents/{}", agent.name)),
        },
    })
}

fn workspace(agent: &Agent, base: &BaseUrl) -> Value {
    let api = |path: &str| base.join(&format!("/api/workspaces/{}/{path}", agent.id));
    json!({
        "path": "/", "data": "data", "artifacts": "artifacts", "db": "db",
        "api": {
            "read": api("read"),
            "write": api("write"),
            "list": api("files"),
            "delete": api("delete"),
        },
    })
}

/// Shows an agent with its card.
pub(super) fn agent_body(agent: &Agent, item: AgentItem, card: Value) -> AgentBody {
    AgentBody {
        item,
        version: agent.version.to_string(),
        mode: agent.mode.as_str(),
        tier: agent.tier.as_str(),
        capabilities: agent.granted,
        public_key: public_key(agent),
        created_at: rfc3339(agent.created),
        updated_at: rfc3339(agent.updated),
        card,
    }
}

fn public_key(agent: &Agent) -> String {
    let hex: String = agent
        .public_key
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("ed25519:{hex}")
}
