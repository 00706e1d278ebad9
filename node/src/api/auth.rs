//! Who may do what: the one place that decides.
//!
//! Every route has a row in [`super::rules`], which says whom it is for and which capability an
//! agent needs there; this module tells who asks and applies the row. A wrong key is 401 everywhere
//! but on open routes, which do not look at it.
//!
//! An account's key opens inference and the account's own routes. What a request may cost is its
//! plan's matter: a paid one needs a permit, which goes with the answer to its end. It is asked for
//! by [`super::idempotency`], since an answer that is only repeated needs none.
//!
//! **Keyless loopback.** Local tools made for Ollama send no key. They may use inference and
//! model lists when the connection comes from loopback *and* is made to a loopback name. The name
//! is checked because a web page can point its own name at 127.0.0.1 (DNS rebinding), and
//! `Origin` because a page may send requests to localhost. A forwarding header shows that the
//! real peer is behind a proxy.

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

use aither_protocol::{CAPABILITY_TOKEN_PREFIX, Capability, ErrorCode};
use axum::{
    extract::{ConnectInfo, FromRequestParts, MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, Method, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use zeroize::Zeroizing;

use super::{
    ApiError, ApiState,
    rules::{Access, Rule},
};
use crate::{
    accounts::{AGENT_KEY_PREFIX, AccountCaller, AccountId, KeyRefusal},
    agents::AgentCaller,
    billing::OPERATOR,
    services::Permit,
};

/// Headers by which a proxy tells that it stands between us and the client.
const FORWARDING: [HeaderName; 3] = [
    header::FORWARDED,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-real-ip"),
];

/// Who asks.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Caller {
    /// Nobody in particular, on an open route.
    Anyone,
    /// A program on this machine, without a key.
    Local,
    /// The holder of an account's key.
    Account(AccountCaller),
    /// An agent, or a sub-agent, by its key or a capability token.
    Agent(AgentCaller),
    /// The holder of the admin key.
    Operator,
}

/// The key of a request, and what it was let in for: a stream goes on only for as long as the key
/// would still be let in.
pub(super) struct KeyWatch {
    key: Zeroizing<String>,
    rule: Rule,
}

impl KeyWatch {
    /// Returns whether the key still opens what it has opened.
    pub(super) fn still_opens(&self, state: &ApiState) -> bool {
        let holder = holder_of(state, &self.key);
        holder.is_ok_and(|holder| permit(self.rule, &holder).is_ok())
    }
}

impl FromRequestParts<ApiState> for KeyWatch {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &ApiState) -> Result<Self, ApiError> {
        let route = parts.extensions.get::<MatchedPath>();
        let key = parts.headers.get(header::AUTHORIZATION);
        let key = key.and_then(|value| value.to_str().ok()).and_then(bearer);
        Ok(Self {
            key: Zeroizing::new(key.unwrap_or_default().to_owned()),
            rule: Rule::of(&parts.method, route.map(MatchedPath::as_str)),
        })
    }
}

/// Why a key or token is refused.
type Refusal = String;

impl FromRequestParts<ApiState> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &ApiState) -> Result<Self, ApiError> {
        // Set by the layer around every route.
        let caller = parts.extensions.get::<Self>().cloned();
        caller.ok_or_else(|| ApiError::internal("a route outside authentication"))
    }
}

/// Lets a request pass with its [`Caller`], or refuses it.
pub(super) async fn authenticate(
    State(state): State<ApiState>,
    mut request: Request,
    next: Next,
) -> Response {
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map(MatchedPath::as_str);
    let rule = Rule::of(request.method(), route);
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let is_local = peer.is_some_and(|ConnectInfo(peer)| is_loopback(peer.ip()))
        && is_local_request(request.uri().host(), request.headers());
    let caller = decide(
        rule,
        request.headers(),
        is_local,
        state.http.keyless_loopback,
        |key| holder_of(&state, key),
    );
    match caller {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

/// Returns whose key or token this is.
fn holder_of(state: &ApiState, key: &str) -> Result<Caller, Refusal> {
    if key.starts_with(AGENT_KEY_PREFIX) {
        let agent = state.agents.authenticate(key);
        agent.map(Caller::Agent).map_err(|error| error.to_string())
    } else if key.starts_with(CAPABILITY_TOKEN_PREFIX) {
        let agent = state.agents.authenticate_token(key);
        agent.map(Caller::Agent).map_err(|error| error.to_string())
    } else if state.admin_key.matches(key) {
        Ok(Caller::Operator)
    } else {
        let account = state.accounts.authenticate(key);
        account
            .map(Caller::Account)
            .map_err(|error| error.to_string())
    }
}

/// Lets a request begin that its caller's plan counts; others always may.
///
/// # Errors
/// The plan has no room for it.
pub(super) fn admit(state: &ApiState, caller: &Caller, parts: &Parts) -> Result<Permit, ApiError> {
    let route = parts.extensions.get::<MatchedPath>();
    let is_paid = parts.method == Method::POST && route.is_some_and(|r| is_paid(r.as_str()));
    match caller {
        Caller::Account(account) if is_paid => {
            Ok(state.accounts.admit(account.account, account.plan)?)
        }
        // An agent's requests count against its account, and the operator has no plan.
        Caller::Agent(agent) if is_paid && agent.agent.owner != OPERATOR => {
            let owner = AccountId::from_u128(agent.agent.owner.0);
            Ok(state.accounts.admit(owner, agent.plan)?)
        }
        _ => Ok(Permit::default()),
    }
}

/// Returns whether a route, given by its template, is one that a plan counts.
fn is_paid(route: &str) -> bool {
    matches!(
        route,
        "/v1/llm/generate"
            | "/v1/llm/chat"
            | "/v1/llm/embed"
            | "/v1/chat/completions"
            | "/v1/completions"
            | "/v1/embeddings"
            | "/api/chat"
            | "/api/generate"
            | "/api/embed"
            | "/api/embeddings"
            | "/v1/artifacts/store"
            | "/v1/code/write"
            | "/v1/documents/analyze"
            | "/v1/events/emit"
            | "/v1/search"
            | "/v1/http/fetch"
            | "/v1/agents/{name}/chat"
            | "/v1/agents/{name}/call"
            | "/v1/a2a/tasks"
            | "/v1/a2a/parallel"
    )
}

fn decide(
    rule: Rule,
    headers: &HeaderMap,
    is_local: bool,
    keyless_loopback: bool,
    holder_of: impl Fn(&str) -> Result<Caller, Refusal>,
) -> Result<Caller, ApiError> {
    let access = rule.access;
    if access == Access::Open {
        return Ok(Caller::Anyone);
    }
    let mut presented = headers.get_all(header::AUTHORIZATION).iter();
    let key = match (presented.next(), presented.next()) {
        (None, _) => None,
        (Some(value), None) => Some(value.to_str().ok().and_then(bearer)),
        (Some(_), Some(_)) => Some(None),
    };
    let unknown = || KeyRefusal::Unknown.to_string();
    let holder = key.map(|key| key.map_or_else(|| Err(unknown()), &holder_of));
    match (holder, access) {
        (Some(Err(refusal)), _) => Err(unauthorized(&refusal)),
        (Some(Ok(Caller::Account(_) | Caller::Agent(_))), Access::Metrics) if is_local => {
            Ok(Caller::Local)
        }
        (Some(Ok(holder)), _) => permit(rule, &holder).map(|()| holder),
        (None, Access::NoRoute) => Ok(Caller::Anyone),
        (None, Access::Inference) if is_local && keyless_loopback => Ok(Caller::Local),
        (None, Access::Metrics) if is_local => Ok(Caller::Local),
        (None, Access::Operator) if is_local => Err(unauthorized(
            "this route needs the admin key: Authorization: Bearer KEY, with the content of \
             admin.key in the node's data directory",
        )),
        (None, _) => Err(unauthorized(
            "this route needs a key: Authorization: Bearer KEY",
        )),
    }
}

/// Holds a key's holder against a route's row.
fn permit(rule: Rule, holder: &Caller) -> Result<(), ApiError> {
    match (holder, rule.access) {
        (_, Access::NoRoute) | (Caller::Operator, _) => Ok(()),
        (Caller::Account(_), Access::Operator | Access::Metrics) => {
            Err(operator_only("an account's"))
        }
        (Caller::Agent(_), Access::Operator | Access::Metrics) => Err(operator_only("an agent's")),
        (Caller::Account(_), Access::Agent) => Err(missing(
            "this route is for agents; ask with the agent's own key",
            "agent",
        )),
        (Caller::Agent(_), Access::Account) => Err(missing(
            "this route is for accounts, and this key is an agent's",
            "account",
        )),
        (Caller::Agent(agent), Access::Manage) if agent.token_grant.is_some() => Err(missing(
            "a capability token is for an agent's work; manage the agent with its key",
            "account",
        )),
        (Caller::Agent(_), Access::Manage) => Ok(()),
        (Caller::Agent(agent), _) => permit_agent(rule, agent),
        _ => Ok(()),
    }
}

fn permit_agent(rule: Rule, caller: &AgentCaller) -> Result<(), ApiError> {
    if caller.agent.is_suspended() {
        let words = "the agent is suspended; resume it first";
        return Err(missing(
            words,
            rule.capability.map_or("agent", Capability::as_str),
        ));
    }
    let Some(capability) = rule.capability else {
        return Ok(());
    };
    if caller.capabilities.contains(capability) {
        return Ok(());
    }
    let words = format!("the agent was not granted {capability}");
    Err(missing(words, capability.as_str())
        .with_member("tier", caller.tier.as_str())
        .with_member("tier_required", capability.tier().as_str()))
}

fn operator_only(whose: &str) -> ApiError {
    let words = format!("this route is for the node's operator, and this key is {whose}");
    missing(words, "operator")
}

fn missing(words: impl Into<String>, capability: &str) -> ApiError {
    ApiError::new(ErrorCode::CapabilityMissing, words).with_member("capability", capability)
}

fn unauthorized(detail: &str) -> ApiError {
    ApiError::new(ErrorCode::Unauthorized, detail)
}

/// Returns the key of a bearer header; the scheme's case does not matter (RFC 9110, 11.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Returns whether a request names this machine, and no web page or proxy speaks through it.
fn is_local_request(uri_host: Option<&str>, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host_is_local = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().is_ok_and(is_loopback_host),
        _ => false,
    };
    host_is_local
        && uri_host.is_none_or(is_loopback_host)
        && !headers.contains_key(header::ORIGIN)
        && !FORWARDING.iter().any(|name| headers.contains_key(name))
}

/// Returns whether `host[:port]` is `localhost` or a loopback address.
fn is_loopback_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, "")) => (address, None),
        Some((address, rest)) => match rest.strip_prefix(':') {
            Some(port) => (address, Some(port)),
            None => return false,
        },
        None => match host.rsplit_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        },
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return false;
    }
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(is_loopback)
}
