//! Who is admitted where: single cases, and the whole product against the contract's own words.
//!
//! [`contract`] is written from the interface's description, by paths, and knows nothing of the
//! table of rules: a row that says something else than the contract is found by it.

use std::{collections::BTreeSet, sync::Arc, time::SystemTime};

use aither_protocol::{
    CapabilitySet, CapabilityToken, Caveat, MemoryTierSet, Plan, RootKey, Tier, TokenId,
};
use axum::http::HeaderValue;

use super::{
    super::{error::Dialect, rules::ROWS},
    *,
};
use crate::{
    accounts::AccountId,
    agents::{Agent, AgentId, AgentState, Mode, Rank, TokenGrant},
};

type Pairs = &'static [(&'static str, &'static str)];
/// Route, headers, whether local, who is admitted.
type Row = (Access, Pairs, bool, Option<Caller>);

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        })
        .collect()
}

fn an_account() -> AccountCaller {
    AccountCaller {
        account: AccountId::from_u128(1),
        plan: Plan::Explorer,
        key: ulid::Ulid::nil(),
    }
}

fn for_all(access: Access) -> Rule {
    Rule {
        access,
        capability: None,
    }
}

fn holder_of(key: &str) -> Result<Caller, Refusal> {
    match key {
        "right" => Ok(Caller::Operator),
        "account" => Ok(Caller::Account(an_account())),
        _ => Err(KeyRefusal::Unknown.to_string()),
    }
}

#[test]
fn an_account_on_an_operators_route_is_told_what_is_missing() {
    let key = headers(&[("authorization", "Bearer account")]);
    let refused = decide(for_all(Access::Operator), &key, false, true, holder_of).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::CapabilityMissing);
    let body = refused.body(Dialect::Native, "");
    assert_eq!(body["capability"], "operator");
}

#[test]
fn loopback_names_are_told_from_others() {
    for host in [
        "localhost",
        "LOCALHOST:8200",
        "127.0.0.1:1",
        "127.8.8.8",
        "[::1]:8200",
        "[::1]",
    ] {
        assert!(is_loopback_host(host), "{host}");
    }
    for host in [
        "",
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.nip.io:8200",
        "192.168.1.2",
        "0.0.0.0",
        "localhost:x",
        "[::1]x",
        "[::2]:1",
        "localhost:",
    ] {
        assert!(!is_loopback_host(host), "{host}");
    }
}

#[test]
fn a_web_page_or_a_proxy_is_not_a_local_program() {
    let local = [("host", "localhost:8200")];
    assert!(is_local_request(None, &headers(&local)));
    assert!(!is_local_request(None, &headers(&[])));
    assert!(!is_local_request(Some("evil.example"), &headers(&local)));
    for header in [
        ("origin", "http://localhost:8200"),
        ("origin", "null"),
        ("x-real-ip", "1"),
    ] {
        assert!(
            !is_local_request(None, &headers(&[local[0], header])),
            "{header:?}"
        );
    }
}

#[test]
fn each_kind_of_route_admits_its_callers() {
    use Access::*;
    let none: &[(&str, &str)] = &[];
    let right = &[("authorization", "bearer  right")];
    let wrong = &[("authorization", "Bearer wrong")];
    let basic = &[("authorization", "Basic right")];
    let empty = &[("authorization", "Bearer ")];
    let account = &[("authorization", "Bearer account")];
    let accounts = Some(Caller::Account(an_account()));
    let rows: &[Row] = &[
        (Open, none, false, Some(Caller::Anyone)),
        (Open, wrong, false, Some(Caller::Anyone)),
        (Inference, none, true, Some(Caller::Local)),
        (Inference, none, false, None),
        (Inference, wrong, true, None),
        (Inference, basic, true, None),
        (Inference, empty, true, None),
        (Inference, right, false, Some(Caller::Operator)),
        (Operator, none, true, None),
        (Operator, right, false, Some(Caller::Operator)),
        (Metrics, none, true, Some(Caller::Local)),
        (Metrics, none, false, None),
        (Metrics, right, false, Some(Caller::Operator)),
        (Account, none, true, None),
        (Account, account, false, accounts.clone()),
        (Account, right, false, Some(Caller::Operator)),
        (Inference, account, false, accounts.clone()),
        (Operator, account, true, None),
        (Metrics, account, true, Some(Caller::Local)),
        (Metrics, account, false, None),
        (NoRoute, account, false, accounts),
        (NoRoute, none, false, Some(Caller::Anyone)),
        (NoRoute, wrong, false, None),
    ];
    for (access, pairs, is_local, expected) in rows {
        let decided = decide(
            for_all(*access),
            &headers(pairs),
            *is_local,
            true,
            holder_of,
        );
        assert_eq!(decided.ok(), *expected, "{access:?} {pairs:?} {is_local}");
    }
    let keyless_off = decide(for_all(Inference), &headers(none), true, false, holder_of);
    assert!(keyless_off.is_err());
}

#[test]
fn two_keys_at_once_are_a_wrong_key() {
    let mut two = headers(&[("authorization", "Bearer right")]);
    two.append(
        header::AUTHORIZATION,
        HeaderValue::from_static("Bearer right"),
    );
    assert!(decide(for_all(Access::Inference), &two, true, true, holder_of).is_err());
}

/// What a test presents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Nobody,
    Wrong,
    Operator,
    Account,
    Agent(Holder),
}

/// An agent's key or token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Holder {
    tier: Tier,
    granted: CapabilitySet,
    has_token: bool,
    is_suspended: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Passes,
    Unauthorized,
    Forbidden,
}

/// What the contract says of a request, by its route's path.
fn contract(method: &str, path: &str, who: Who, is_local: bool, keyless: bool) -> Verdict {
    use Verdict::{Forbidden, Passes, Unauthorized};
    let is_open = matches!(
        path,
        "/" | "/health"
            | "/ready"
            | "/AGENTS.md"
            | "/SKILLS.md"
            | "/v1/discovery"
            | "/docs"
            | "/openapi.json"
            | "/v1/auth/register"
            | "/v1/auth/login"
            | "/v1/auth/refresh"
    ) || path.starts_with("/v1/schemas/");
    if is_open {
        return Passes;
    }
    if who == Who::Wrong {
        return Unauthorized;
    }
    if path == "/metrics" {
        return match who {
            _ if is_local => Passes,
            Who::Operator => Passes,
            Who::Nobody => Unauthorized,
            _ => Forbidden,
        };
    }
    let changes_models = ["/v1/models/import", "/api/pull", "/api/delete"].contains(&path);
    let for_operator =
        changes_models || path.starts_with("/v1/admin/") || path == "/v1/billing/topup";
    let is_inference = !changes_models
        && (path.starts_with("/v1/llm/")
            || path.starts_with("/v1/models")
            || ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"].contains(&path)
            || [
                "chat",
                "generate",
                "embed",
                "embeddings",
                "tags",
                "ps",
                "show",
                "version",
            ]
            .iter()
            .any(|word| path == format!("/api/{word}")));
    match who {
        Who::Operator => Passes,
        Who::Nobody if is_inference && is_local && keyless => Passes,
        Who::Nobody | Who::Wrong => Unauthorized,
        _ if for_operator => Forbidden,
        // A sub-agent's parent is an agent.
        Who::Account if path.ends_with("/spawn") => Forbidden,
        Who::Account => Passes,
        Who::Agent(holder) => match agent_may(method, path, holder) {
            true => Passes,
            false => Forbidden,
        },
    }
}

/// What the contract says of an agent where an account may.
fn agent_may(method: &str, path: &str, holder: Holder) -> bool {
    let for_owner = path.starts_with("/v1/keys")
        || path == "/v1/billing/statement"
        || path.ends_with("onboard")
        || path == "/api/onboard/quick";
    if for_owner {
        return false;
    }
    let ends = [
        "/connection-info",
        "/card",
        "/rotate-key",
        "/suspend",
        "/resume",
        "/logs",
        "/drain",
        "/lifecycle",
        "/{name}/usage",
        "/{token}",
    ];
    let manages = ends.iter().any(|end| path.ends_with(end))
        || (path.starts_with("/v1/agents/{name}") && method == "DELETE")
        || path.starts_with("/api/agents/{id}")
        || path.starts_with("/api/audit/")
        || path.starts_with("/v1/marketplace/listings")
        || path == "/v1/billing/usage";
    if manages {
        return !holder.has_token;
    }
    if holder.is_suspended {
        return false;
    }
    may_work(path, holder)
}

/// What the contract says of an agent's work.
fn may_work(path: &str, holder: Holder) -> bool {
    let has = |capability| holder.granted.contains(capability);
    let of_its_own = match path {
        // The highest tier alone may have sub-agents.
        "/v1/agents/{name}/spawn" => Some((Capability::AgentSpawn, Tier::Orchestrator)),
        "/v1/events/emit" => Some((Capability::EventEmit, Tier::Reflex)),
        "/v1/events/subscribe" => Some((Capability::EventSubscribe, Tier::Agent)),
        "/v1/search" => Some((Capability::WebSearch, Tier::Agent)),
        "/v1/code/read" => Some((Capability::CodeRead, Tier::Reasoning)),
        "/v1/code/write" => Some((Capability::CodeWrite, Tier::Reasoning)),
        "/v1/http/fetch" => Some((Capability::ExternalApi, Tier::Reasoning)),
        _ => None,
    };
    if let Some((capability, tier)) = of_its_own {
        return has(capability) && holder.tier >= tier;
    }
    let ending = path.rsplit('/').next().unwrap_or_default();
    if path.starts_with("/v1/memory/") {
        return match ending {
            "read" | "search" | "list" | "query" => has(Capability::MemoryRead),
            _ => has(Capability::MemoryWrite) && holder.tier >= Tier::Agent,
        };
    }
    let calls = path.starts_with("/v1/agents/{name}/") && ["call", "chat"].contains(&ending);
    if calls || path.starts_with("/v1/a2a/tasks") || path == "/v1/a2a/parallel" {
        return has(Capability::AgentCall) && holder.tier >= Tier::Agent;
    }
    match ending {
        "embed" | "embeddings" => has(Capability::LlmEmbed),
        "generate" | "completions" => has(Capability::LlmInference),
        "chat" => has(Capability::LlmInference),
        "store" => has(Capability::FileUpload) && holder.tier >= Tier::Agent,
        "analyze" => has(Capability::DocumentAnalysis) && holder.tier >= Tier::Agent,
        _ => true,
    }
}

/// An agent as it is, with all tiers of the largest plan.
fn agent_of(holder: Holder) -> Caller {
    let agent = Agent {
        id: AgentId::from_u128(1),
        name: "bot".into(),
        owner: aither_ledger::AccountId(1),
        mode: Mode::Hybrid,
        state: match holder.is_suspended {
            true => AgentState::Stop,
            false => AgentState::Live,
        },
        suspended_by: holder.is_suspended.then_some(Rank::Owner),
        is_torn_down: false,
        version: "1.0.0".into(),
        tier: holder.tier,
        // The token takes away what the key would have too.
        granted: match holder.has_token {
            true => CapabilitySet::all(),
            false => holder.granted,
        },
        price: 1,
        model: None,
        probe: None,
        public_key: [0; 32],
        tokens_since_ms: 0,
        created: SystemTime::UNIX_EPOCH,
        updated: SystemTime::UNIX_EPOCH,
    };
    let caller = Arc::new(agent).caller(Plan::Enterprise);
    if !holder.has_token {
        return Caller::Agent(caller);
    }
    let root = RootKey::from_bytes([7; 32]);
    let id = TokenId {
        key_id: 1,
        serial: 1,
        agent: 1,
    };
    let signed = CapabilityToken::mint(&root, id, &[Caveat::Capabilities(holder.granted)]);
    let signed = signed.unwrap();
    let grant = signed.verify(&root).unwrap();
    Caller::Agent(caller.with_token(TokenGrant { signed, grant }))
}

/// Nobody, everybody, and agents of each tier with one capability, with all but one, all and none.
fn everybody() -> Vec<Who> {
    let mut sets = BTreeSet::from([0, CapabilitySet::all().bits()]);
    for capability in Capability::ALL {
        let one = CapabilitySet::EMPTY.with(*capability);
        sets.insert(one.bits());
        sets.insert(CapabilitySet::all().difference(one).bits());
    }
    let mut everybody = vec![Who::Nobody, Who::Wrong, Who::Operator, Who::Account];
    for tier in Tier::ALL {
        for bits in &sets {
            for flags in 0..4 {
                everybody.push(Who::Agent(Holder {
                    tier: *tier,
                    granted: CapabilitySet::from_bits(*bits).unwrap(),
                    has_token: flags & 1 != 0,
                    is_suspended: flags & 2 != 0,
                }));
            }
        }
    }
    everybody
}

#[test]
fn every_row_admits_whom_the_contract_admits() {
    let key = headers(&[("authorization", "Bearer key")]);
    let none = HeaderMap::new();
    let mut compared = 0_usize;
    for who in everybody() {
        let caller = match who {
            Who::Nobody | Who::Wrong => None,
            Who::Operator => Some(Caller::Operator),
            Who::Account => Some(Caller::Account(an_account())),
            Who::Agent(holder) => Some(agent_of(holder)),
        };
        let headers = if who == Who::Nobody { &none } else { &key };
        for (method, path, ..) in ROWS {
            let verb = Method::from_bytes(method.as_bytes()).unwrap();
            let rule = Rule::of(&verb, Some(path));
            for (is_local, keyless) in [(true, true), (true, false), (false, true), (false, false)]
            {
                let holder = |_: &str| caller.clone().ok_or_else(String::new);
                let decided = decide(rule, headers, is_local, keyless, holder);
                let verdict = match decided.as_ref().map_err(ApiError::code) {
                    Ok(_) => Verdict::Passes,
                    Err(ErrorCode::Unauthorized) => Verdict::Unauthorized,
                    Err(ErrorCode::CapabilityMissing) => Verdict::Forbidden,
                    Err(code) => panic!("{method} {path} {who:?}: {code:?}"),
                };
                let expected = contract(method, path, who, is_local, keyless);
                assert_eq!(
                    verdict, expected,
                    "{method} {path} {who:?} local {is_local} keyless {keyless}"
                );
                compared += 1;
            }
        }
    }
    assert!(compared > 100_000, "{compared}");
}

#[test]
fn an_agent_is_told_which_capability_it_lacks_and_whose_tier_has_it() {
    let holder = Holder {
        tier: Tier::Agent,
        granted: CapabilitySet::all(),
        has_token: false,
        is_suspended: false,
    };
    let rule = Rule::of(&Method::POST, Some("/v1/agents/{name}/spawn"));
    let key = headers(&[("authorization", "Bearer key")]);
    let refused = decide(rule, &key, true, true, |_| Ok(agent_of(holder))).unwrap_err();
    let body = refused.body(Dialect::Native, "");
    assert_eq!(body["capability"], "agent_spawn");
    assert_eq!(body["tier"], "agent");
    assert_eq!(body["tier_required"], "orchestrator");
}

#[test]
fn a_token_never_gives_back_what_the_tier_plan_or_suspension_took() {
    for plan in Plan::ALL {
        for tier in Tier::ALL {
            for is_suspended in [false, true] {
                let holder = Holder {
                    tier: *tier,
                    granted: CapabilitySet::all(),
                    has_token: true,
                    is_suspended,
                };
                let Caller::Agent(with_token) = agent_of(holder) else {
                    panic!("an agent is an agent");
                };
                let key = Arc::clone(&with_token.agent).caller(*plan);
                let root = RootKey::from_bytes([7; 32]);
                let given = with_token.token_grant.unwrap();
                let grant = given.signed.verify(&root).unwrap();
                let narrowed = key.clone().with_token(TokenGrant {
                    signed: given.signed.clone(),
                    grant,
                });
                assert!(narrowed.capabilities.is_subset(key.capabilities));
                assert!(narrowed.tier <= key.tier && key.tier <= plan.tier_max());
                let more = |set: MemoryTierSet| set.intersection(key.memory_tiers) == set;
                assert!(more(narrowed.memory_tiers));
                assert_eq!(key.capabilities.is_empty(), is_suspended);
            }
        }
    }
}
