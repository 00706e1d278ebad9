//! Keys, capability tokens and sub-agents of the service, on real stores.

mod memory;

use aither_protocol::{Capability, ErrorCode, Tier};
use serde_json::json;

use super::*;
use crate::{
    accounts::{AccountChange, AccountState},
    config::AccountsConfig,
};

struct Home {
    _directory: tempfile::TempDir,
    accounts: AccountService,
    agents: AgentService,
    owner: accounts::AccountId,
}

async fn home() -> Home {
    home_in(tempfile::tempdir().unwrap(), None).await
}

async fn home_in(directory: tempfile::TempDir, memory: Option<MemoryStore>) -> Home {
    let path = directory.path().join("accounts.redb");
    let accounts = AccountService::open(&path, AccountsConfig::default(), None).unwrap();
    let made = accounts.create("ann@example.org", None, Some(Plan::Enterprise));
    let owner = made.await.unwrap().account.id;
    let identity = NodeIdentity::generate().unwrap();
    let path = directory.path().join("registry.redb");
    let targets = Targets::Any;
    let events = EventService::default();
    let agents = AgentService::open(&path, accounts.clone(), &identity, targets, memory, events);
    Home {
        _directory: directory,
        accounts,
        agents: agents.unwrap(),
        owner,
    }
}

fn card(name: &str, tier: Tier, capabilities: &[Capability]) -> Value {
    let words: Vec<_> = capabilities.iter().map(|c| c.as_str()).collect();
    json!({
        "name": name,
        "version": "1.0.0",
        "description": "looks things up",
        "skills": [],
        "endpoints": [
            { "path": "/chat", "method": "POST", "description": "chat" },
            { "path": "/health", "method": "GET", "description": "health" },
        ],
        "capabilities_requested": words,
        "billing": { "token_cost_per_request": 3, "category": tier.as_str() },
        "health_endpoint": "/health",
    })
}

const PARENTS: [Capability; 3] = [
    Capability::LlmInference,
    Capability::MemoryRead,
    Capability::AgentSpawn,
];

fn set(capabilities: &[Capability]) -> CapabilitySet {
    capabilities.iter().copied().collect()
}

fn terms(capabilities: &[Capability], caveats: &[Caveat]) -> SpawnTerms {
    SpawnTerms {
        capabilities: set(capabilities),
        caveats: caveats.to_vec(),
    }
}

impl Home {
    async fn onboard(&self, card: &Value) -> Result<Onboarded, AgentError> {
        let owner = (AccountId(self.owner.as_u128()), Plan::Enterprise);
        self.agents.onboard(owner, card, Mode::Hybrid).await
    }

    /// An agent of the highest tier, as it comes with its key.
    async fn parent(&self) -> AgentCaller {
        let card = card("bot", Tier::Orchestrator, &PARENTS);
        let key = self.onboard(&card).await.unwrap().key;
        self.agents.authenticate(key.0.reveal()).unwrap()
    }

    async fn change(&self, plan: Option<Plan>, state: Option<AccountState>) {
        let change = AccountChange { plan, state };
        self.accounts.update(self.owner, change).await.unwrap();
    }

    fn refusal(&self, text: &str) -> TokenRefusal {
        self.agents.authenticate_token(text).unwrap_err()
    }
}

#[tokio::test]
async fn a_minted_token_does_what_its_agent_may_and_says_so() {
    let home = home().await;
    let parent = home.parent().await;
    let text = home.agents.mint(&parent.agent).unwrap();
    let by_capability = home.agents.authenticate_token(&text).unwrap();
    assert_eq!(by_capability.capabilities, parent.capabilities);
    assert_eq!(by_capability.tier, Tier::Orchestrator);
    assert!(by_capability.capabilities.contains(Capability::EventEmit));
    assert!(by_capability.token_grant.is_some() && parent.token_grant.is_none());
    let asked = home.agents.authenticate("aither_ak_nobody");
    assert!(matches!(asked, Err(KeyRefusal::Unknown)));
}

#[tokio::test]
async fn a_sub_agent_has_no_more_than_its_parent() {
    let home = home().await;
    let parent = home.parent().await;
    let wider = home
        .agents
        .spawn(&parent, &terms(&[Capability::CodeWrite], &[]));
    let error = wider.unwrap_err();
    assert_eq!(error.code(), ErrorCode::CapabilityMissing);
    assert!(error.to_string().contains("code_write"), "{error}");
    let spend = [Capability::LlmInference, Capability::AgentSpawn];
    let child = home.agents.spawn(&parent, &terms(&spend, &[])).unwrap();
    let child = home.agents.authenticate_token(&child.text).unwrap();
    assert_eq!(child.capabilities, set(&spend));
    // What its parent may is not the measure, but what itself may.
    let wider = home
        .agents
        .spawn(&child, &terms(&[Capability::MemoryRead], &[]));
    assert!(matches!(wider, Err(AgentError::Wider(words)) if words == [Capability::MemoryRead]));
    let name = [Caveat::Agent("helper".into())];
    let grandchild = home
        .agents
        .spawn(&child, &terms(&[Capability::LlmInference], &name));
    let grandchild = home.agents.authenticate_token(&grandchild.unwrap().text);
    let grandchild = grandchild.unwrap();
    assert_eq!(grandchild.capabilities, set(&[Capability::LlmInference]));
    assert_eq!(grandchild.billed_name(), "bot");
    assert_eq!(grandchild.agent.id, parent.agent.id);
}

#[tokio::test]
async fn a_holder_cannot_widen_what_it_narrows_itself() {
    let home = home().await;
    let parent = home.parent().await;
    let child = home
        .agents
        .spawn(&parent, &terms(&[Capability::LlmInference], &[]));
    let narrowed = CapabilityToken::parse(&child.unwrap().text).unwrap();
    let all = [
        Caveat::Capabilities(CapabilitySet::all()),
        Caveat::Tier(Tier::Orchestrator),
        Caveat::Expires(u64::MAX),
    ];
    let text = narrowed.narrow(&all).unwrap().to_text();
    let caller = home.agents.authenticate_token(&text).unwrap();
    assert_eq!(caller.capabilities, set(&[Capability::LlmInference]));
}

#[tokio::test]
async fn tokens_of_another_node_altered_ones_and_no_tokens_are_refused() {
    let (home, other) = (home().await, self::home().await);
    let parent = home.parent().await;
    let text = home.agents.mint(&parent.agent).unwrap();
    assert!(matches!(other.refusal(&text), TokenRefusal::Invalid(_)));
    // Each letter counts, whatever it encodes.
    for at in (20..text.len()).step_by(7) {
        let mut bytes = text.as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let altered = String::from_utf8(bytes).unwrap();
        assert!(home.agents.authenticate_token(&altered).is_err(), "{at}");
    }
    for text in ["", "aither_ct_", "aither_ct_AAAA", "aither_ak_x"] {
        assert!(
            matches!(home.refusal(text), TokenRefusal::Invalid(_)),
            "{text}"
        );
    }
}

#[tokio::test]
async fn older_root_keys_still_verify_and_the_new_one_mints() {
    let home = home().await;
    let parent = home.parent().await;
    let old = home.agents.mint(&parent.agent).unwrap();
    assert_eq!(home.agents.rotate_root_key().await.unwrap(), 2);
    let new = home.agents.mint(&parent.agent).unwrap();
    assert_eq!(CapabilityToken::parse(&new).unwrap().id().key_id, 2);
    for text in [&old, &new] {
        assert!(home.agents.authenticate_token(text).is_ok());
    }
}

#[tokio::test]
async fn an_expired_token_is_refused_and_so_is_what_was_narrowed_from_it() {
    let home = home().await;
    let parent = home.parent().await;
    let now_ms = unix_ms(SystemTime::now());
    let inference = [Capability::LlmInference];
    let spawn = |parent: &AgentCaller, expires| {
        let terms = terms(&inference, &[Caveat::Expires(expires)]);
        home.agents.spawn(parent, &terms).unwrap().text
    };
    assert_eq!(home.refusal(&spawn(&parent, now_ms)), TokenRefusal::Expired);
    let lasting = home
        .agents
        .authenticate_token(&spawn(&parent, now_ms + 3_600_000));
    let lasting = lasting.unwrap();
    assert_eq!(
        home.refusal(&spawn(&lasting, now_ms - 1)),
        TokenRefusal::Expired
    );
    // Later than its parent is no later.
    let later = home
        .agents
        .authenticate_token(&spawn(&lasting, u64::MAX))
        .unwrap();
    let expires = later.token_grant.unwrap().grant.expires_ms;
    assert_eq!(expires, Some(now_ms + 3_600_000));
}

#[tokio::test]
async fn a_revoked_token_ends_with_its_children_and_without_its_parent() {
    let home = home().await;
    let parent = home.parent().await;
    let able = [Capability::LlmInference, Capability::AgentSpawn];
    let top = home.agents.spawn(&parent, &terms(&able, &[])).unwrap();
    let top_caller = home.agents.authenticate_token(&top.text).unwrap();
    let middle = home.agents.spawn(&top_caller, &terms(&able, &[])).unwrap();
    let middle_caller = home.agents.authenticate_token(&middle.text).unwrap();
    let leaf = home
        .agents
        .spawn(&middle_caller, &terms(&able, &[]))
        .unwrap();
    let sibling = home.agents.spawn(&top_caller, &terms(&able, &[])).unwrap();
    let works = || {
        let texts = [&top.text, &middle.text, &leaf.text, &sibling.text];
        texts.map(|text| home.agents.authenticate_token(text).is_ok())
    };
    assert_eq!(works(), [true; 4]);
    let id = parent.agent.id;
    home.agents.revoke_token(id, leaf.number).await.unwrap();
    assert_eq!(works(), [true, true, false, true]);
    home.agents.revoke_token(id, middle.number).await.unwrap();
    assert_eq!(works(), [true, false, false, true]);
    home.agents.revoke_token(id, top.number).await.unwrap();
    assert_eq!(works(), [false; 4]);
    assert_eq!(home.refusal(&sibling.text), TokenRefusal::Revoked);
}

#[tokio::test]
async fn rotating_and_tearing_down_end_all_tokens() {
    let home = home().await;
    let parent = home.parent().await;
    let id = parent.agent.id;
    let minted = home.agents.mint(&parent.agent).unwrap();
    let child = home.agents.spawn(&parent, &terms(&PARENTS, &[])).unwrap();
    let key = home.agents.rotate_keys(id).await.unwrap();
    for text in [&minted, &child.text] {
        assert_eq!(home.refusal(text), TokenRefusal::Revoked);
    }
    assert!(home.agents.authenticate(key.0.reveal()).is_ok());
    // In the same millisecond, as likely as not.
    let agent = home.agents.by_name(&parent.agent.name).unwrap();
    let minted = home.agents.mint(&agent).unwrap();
    assert!(home.agents.authenticate_token(&minted).is_ok());
    home.agents.tear_down(id, Rank::Owner, false).await.unwrap();
    assert_eq!(home.refusal(&minted), TokenRefusal::Revoked);
    assert!(home.agents.authenticate(key.0.reveal()).is_err());
    home.agents.tear_down(id, Rank::Owner, true).await.unwrap();
    assert_eq!(home.refusal(&minted), TokenRefusal::Unknown);
}

#[tokio::test]
async fn a_token_minted_right_after_a_rotation_works_until_the_next_one() {
    let home = home().await;
    let parent = home.parent().await;
    let id = parent.agent.id;
    for _ in 0..20 {
        home.agents.rotate_keys(id).await.unwrap();
        let agent = home.agents.by_name("bot").unwrap();
        let minted = home.agents.mint(&agent).unwrap();
        assert!(home.agents.authenticate_token(&minted).is_ok());
        home.agents.rotate_keys(id).await.unwrap();
        assert_eq!(home.refusal(&minted), TokenRefusal::Revoked);
    }
}

#[tokio::test]
async fn a_card_that_was_held_open_does_not_land_once_keys_are_rotated() {
    let home = home().await;
    let caller = home.parent().await;
    let mut newer = card("bot", Tier::Orchestrator, &PARENTS);
    newer["version"] = json!("2.0.0");
    home.agents.rotate_keys(caller.agent.id).await.unwrap();
    let late = home
        .agents
        .update_card(&caller.agent, &newer, Some(&caller));
    assert!(matches!(late.await, Err(AgentError::KeyEnded)));
    // Its owner's key is another.
    let updated = home.agents.update_card(&caller.agent, &newer, None);
    assert_eq!(&*updated.await.unwrap().version, "2.0.0");
}

#[tokio::test]
async fn regression_a_spawn_that_was_held_open_gives_nothing_once_keys_are_rotated() {
    let home = home().await;
    let parent = home.parent().await;
    let id = parent.agent.id;
    assert!(home.agents.spawn(&parent, &terms(&PARENTS, &[])).is_ok());
    home.agents.rotate_keys(id).await.unwrap();
    let late = home.agents.spawn(&parent, &terms(&PARENTS, &[]));
    assert!(matches!(late, Err(AgentError::KeyEnded)), "{late:?}");
    // Nor does whoever was told apart before the agent was torn down.
    let parent = home.agents.by_name(&parent.agent.name).unwrap();
    let parent = parent.caller(Plan::Enterprise);
    home.agents.tear_down(id, Rank::Owner, false).await.unwrap();
    let late = home.agents.spawn(&parent, &terms(&PARENTS, &[]));
    assert!(matches!(late, Err(AgentError::KeyEnded)), "{late:?}");
}

#[tokio::test]
async fn an_owner_who_is_switched_off_has_no_agents_that_work() {
    let home = home().await;
    let card = card("bot", Tier::Orchestrator, &PARENTS);
    let key = home.onboard(&card).await.unwrap().key;
    let parent = home.agents.authenticate(key.0.reveal()).unwrap();
    let text = home.agents.mint(&parent.agent).unwrap();
    home.change(None, Some(AccountState::Disabled)).await;
    assert!(home.agents.authenticate(key.0.reveal()).is_err());
    assert_eq!(home.refusal(&text), TokenRefusal::Unknown);
    home.change(None, Some(AccountState::Active)).await;
    assert!(home.agents.authenticate(key.0.reveal()).is_ok());
    assert!(home.agents.authenticate_token(&text).is_ok());
}

#[tokio::test]
async fn a_smaller_plan_narrows_keys_and_tokens_at_once() {
    let home = home().await;
    let asked = [PARENTS[0], Capability::CodeRead, Capability::AgentSpawn];
    let card = card("bot", Tier::Orchestrator, &asked);
    let key = home.onboard(&card).await.unwrap().key;
    let parent = home.agents.authenticate(key.0.reveal()).unwrap();
    let text = home.agents.mint(&parent.agent).unwrap();
    for (plan, tier, has) in [
        (Plan::Explorer, Tier::Agent, [true, false, false]),
        (Plan::Builder, Tier::Reasoning, [true, true, false]),
        (Plan::Enterprise, Tier::Orchestrator, [true, true, true]),
    ] {
        home.change(Some(plan), None).await;
        let by_key = home.agents.authenticate(key.0.reveal()).unwrap();
        let by_capability = home.agents.authenticate_token(&text).unwrap();
        for caller in [by_key, by_capability] {
            assert_eq!(caller.tier, tier, "{plan}");
            let found = asked.map(|capability| caller.capabilities.contains(capability));
            assert_eq!(found, has, "{plan}");
        }
    }
}

#[tokio::test]
async fn a_card_gets_what_its_tier_has_and_is_told_what_not() {
    let home = home().await;
    let asked = [Capability::LlmInference, Capability::CodeWrite];
    let mut spec = card("bot", Tier::Agent, &asked);
    let error = home.onboard(&spec).await.unwrap_err();
    assert!(error.to_string().contains("code_write"), "{error}");
    spec["partial"] = json!(true);
    let agent = home.onboard(&spec).await.unwrap().agent;
    let given = [
        Capability::LlmInference,
        Capability::EventEmit,
        Capability::AgentCall,
    ];
    assert_eq!(agent.granted, set(&given));
    let reflex = home
        .onboard(&card("small", Tier::Reflex, &[]))
        .await
        .unwrap();
    assert_eq!(reflex.agent.granted, set(&[Capability::EventEmit]));
    let owner = (AccountId(self::OPERATOR.0), Plan::Explorer);
    let high = card("high", Tier::Reasoning, &[]);
    let refused = home
        .agents
        .onboard(owner, &high, Mode::Remote)
        .await
        .unwrap_err();
    assert!(
        matches!(refused, AgentError::PlanForbids { .. }),
        "{refused}"
    );
    let managed = home.agents.onboard(owner, &high, Mode::Managed).await;
    assert_eq!(managed.unwrap_err().code(), ErrorCode::NotAvailable);
}

#[tokio::test]
async fn others_agents_cannot_be_told_from_none() {
    let home = home().await;
    let agent = home.parent().await.agent;
    let may = |authority, name: &str| home.agents.managed(authority, name).is_ok();
    let id = agent.id.to_string();
    for name in ["bot", &*id] {
        assert!(may(Authority::Operator, name));
        assert!(may(Authority::Account(agent.owner), name));
        assert!(may(Authority::Agent(agent.id), name));
        assert!(!may(Authority::Account(AccountId(1)), name));
        assert!(!may(Authority::Agent(AgentId::from_u128(1)), name));
    }
    let nobodys = home
        .agents
        .managed(Authority::Operator, "nobody")
        .unwrap_err();
    let other = home
        .agents
        .managed(Authority::Account(AccountId(1)), "bot")
        .unwrap_err();
    assert_eq!(nobodys.code(), other.code());
}
