//! The shapes of `/v1/discovery` and `/v1/capabilities`, and the card that documents show.
//!
//! They are made from the same tables that decide: what a document says of tiers and plans is what
//! a request meets.

use std::collections::BTreeMap;

use aither_protocol::{Capability, MemoryTier, Plan};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{base_url::BaseUrl, openai_models::ModelObject};
use crate::agents::Mode;

/// The modes in which an agent can come aboard. The node runs none itself.
pub(super) const MODES: [Mode; 2] = [Mode::Remote, Mode::Hybrid];

/// What an agent needs to know before it comes aboard.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Discovery {
    /// The agent spec that cards follow, with its version.
    pub(super) protocol: &'static str,
    /// The node's version.
    pub(super) version: &'static str,
    pub(super) node: NodeItem,
    /// Where a card is sent to.
    pub(super) auto_onboard: String,
    /// Who may run the agent: `remote`, `hybrid`.
    pub(super) modes: Vec<&'static str>,
    /// As in `/v1/models`.
    pub(super) models: Vec<ModelObject>,
    pub(super) capabilities: Vec<CapabilityItem>,
    pub(super) plans: Vec<PlanItem>,
    /// Absolute URLs, by what they are for.
    pub(super) endpoints: BTreeMap<&'static str, String>,
}

/// Who answers.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NodeItem {
    pub(super) peer_id: String,
    pub(super) name: String,
    /// Null: the node stands alone.
    #[schema(value_type = Option<Object>)]
    pub(super) federation: Option<Value>,
}

/// Something that an agent may be allowed to do.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CapabilityItem {
    /// Its word in cards.
    capability: &'static str,
    /// What it allows.
    description: &'static str,
    /// The lowest tier that may have it.
    tier_required: &'static str,
}

/// A part of memory.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MemoryTierItem {
    /// Its word.
    tier: &'static str,
    /// What it is for.
    description: &'static str,
    /// The lowest tier of an agent that may touch it.
    tier_required: &'static str,
}

/// `GET /v1/capabilities`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CapabilityList {
    items: Vec<CapabilityItem>,
    /// Null: they are all here.
    next_cursor: Option<String>,
    memory_tiers: Vec<MemoryTierItem>,
}

/// What an account may use. Null is no bound.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PlanItem {
    plan: &'static str,
    requests_per_minute: Option<u32>,
    /// Requests at once.
    concurrent: Option<u32>,
    agents: Option<u32>,
    /// The highest tier that its agents may have.
    tier_max: &'static str,
}

impl CapabilityItem {
    /// Lists every capability.
    pub(super) fn all() -> Vec<Self> {
        let all = Capability::ALL.iter().map(|capability| Self {
            capability: capability.as_str(),
            description: capability.description(),
            tier_required: capability.tier().as_str(),
        });
        all.collect()
    }
}

impl CapabilityList {
    /// Lists everything that tiers decide about.
    pub(super) fn all() -> Self {
        let memory_tiers = MemoryTier::ALL.iter().map(|memory| MemoryTierItem {
            tier: memory.as_str(),
            description: memory.description(),
            tier_required: memory.tier().as_str(),
        });
        Self {
            items: CapabilityItem::all(),
            next_cursor: None,
            memory_tiers: memory_tiers.collect(),
        }
    }
}

impl PlanItem {
    /// Lists every plan.
    pub(super) fn all() -> Vec<Self> {
        let all = Plan::ALL.iter().map(|plan| Self {
            plan: plan.as_str(),
            requests_per_minute: plan.requests_per_minute(),
            concurrent: plan.concurrent_max(),
            agents: plan.agents_max(),
            tier_max: plan.tier_max().as_str(),
        });
        all.collect()
    }
}

/// Returns what an agent calls here, without what only its own bundle names.
pub(super) fn endpoints(base: &BaseUrl) -> BTreeMap<&'static str, String> {
    let paths = [
        ("a2a_parallel", "/v1/a2a/parallel"),
        ("a2a_tasks", "/v1/a2a/tasks"),
        ("agents", "/v1/agents"),
        ("agents_md", "/AGENTS.md"),
        ("auto_onboard", "/v1/agents/auto-onboard"),
        ("balance", "/v1/billing/balance"),
        ("capabilities", "/v1/capabilities"),
        ("card_schema", "/v1/schemas/agent-card.json"),
        ("chat", "/v1/llm/chat"),
        ("code_read", "/v1/code/read"),
        ("code_write", "/v1/code/write"),
        ("embed", "/v1/llm/embed"),
        ("events_emit", "/v1/events/emit"),
        ("events_subscribe", "/v1/events/subscribe"),
        ("full_onboard", "/api/onboard"),
        ("health", "/health"),
        ("http_fetch", "/v1/http/fetch"),
        ("llm", "/v1/llm/generate"),
        ("login", "/v1/auth/login"),
        ("memory_list", "/v1/memory/list"),
        ("memory_read", "/v1/memory/read"),
        ("memory_write", "/v1/memory/write"),
        ("models", "/v1/models"),
        ("openai", "/v1"),
        ("openapi", "/openapi.json"),
        ("register", "/v1/auth/register"),
        ("search", "/v1/search"),
        ("skills_md", "/SKILLS.md"),
        ("spec_schema", "/v1/schemas/aither-agent.json"),
    ];
    let urls = paths.map(|(name, path)| (name, base.join(path)));
    urls.into_iter().collect()
}

/// Returns a small card that is taken as it stands.
pub(super) fn example_card() -> Value {
    json!({
        "name": "my-research-bot",
        "version": "1.0.0",
        "description": "Answers questions with sources",
        "skills": [{
            "id": "research",
            "name": "Research",
            "description": "Looks into a topic and sums it up",
            "tags": ["research"],
        }],
        "endpoints": [
            {"path": "/chat", "method": "POST", "description": "Takes a message"},
            {"path": "/health", "method": "GET", "description": "Tells that it is healthy"},
        ],
        "capabilities_requested": ["llm_inference", "memory_read", "memory_write"],
        "billing": {"token_cost_per_request": 1, "category": "agent"},
        "health_endpoint": "/health",
    })
}

#[cfg(test)]
mod tests {
    use aither_protocol::AgentCard;

    use super::*;

    #[test]
    fn the_card_that_documents_show_is_valid_and_asks_for_what_its_tier_may_have() {
        let card = AgentCard::from_json(&example_card()).unwrap();
        let tier = card.billing.category;
        assert!(card.capabilities.is_subset(tier.capabilities()));
        assert!(tier <= Plan::Explorer.tier_max(), "any account may send it");
    }

    #[test]
    fn every_endpoint_begins_with_the_base() {
        let base = BaseUrl("http://node.example:8200".into());
        for (name, url) in endpoints(&base) {
            assert!(
                url.starts_with("http://node.example:8200/"),
                "{name}: {url}"
            );
        }
    }

    #[test]
    fn capabilities_say_the_tier_that_each_needs() {
        let list = serde_json::to_value(CapabilityList::all()).unwrap();
        let spawn = json!({
            "capability": "agent_spawn",
            "description": "Give sub-agents narrowed tokens",
            "tier_required": "orchestrator",
        });
        assert!(list["items"].as_array().unwrap().contains(&spawn), "{list}");
        assert_eq!(list["memory_tiers"][4]["tier_required"], "orchestrator");
        assert_eq!(list["next_cursor"], Value::Null);
    }
}
