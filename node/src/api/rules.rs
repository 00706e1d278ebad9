//! Whom each route is for, and which capability an agent needs there: one table.
//!
//! A route that is not listed is the operator's alone; a test fails for every route of the router
//! that has no row, and for every row without a route. [`super::auth`] applies it.

use std::{collections::HashMap, sync::LazyLock};

use aither_protocol::Capability;
use axum::http::Method;

/// Whom a route is for. The operator may use all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Everybody; the header is not looked at.
    Open,
    /// Key holders, and keyless programs on this machine where that is configured.
    Inference,
    /// Holders of any key: accounts, agents, capability tokens.
    Holder,
    /// Accounts, and agents with their own keys: a token is for work, not to manage its agent.
    Manage,
    /// Accounts.
    Account,
    /// Agents, with their keys or tokens.
    Agent,
    /// The operator, and programs on this machine.
    Metrics,
    /// The operator.
    Operator,
    /// Nobody: there is no such route. Only a wrong key is refused before that is said.
    NoRoute,
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    /// Whom the route is for.
    pub(super) access: Access,
    /// What an agent needs there. Accounts and the operator have all capabilities.
    pub(super) capability: Option<Capability>,
}

/// What holds for routes without a row.
const UNLISTED: Rule = Rule {
    access: Access::Operator,
    capability: None,
};

/// Method, template, whom for, what an agent needs.
type Row = (&'static str, &'static str, Access, Option<Capability>);

const LLM: Option<Capability> = Some(Capability::LlmInference);
const EMBED: Option<Capability> = Some(Capability::LlmEmbed);
const READ: Option<Capability> = Some(Capability::MemoryRead);
const WRITE: Option<Capability> = Some(Capability::MemoryWrite);
const CALL: Option<Capability> = Some(Capability::AgentCall);
const EMIT: Option<Capability> = Some(Capability::EventEmit);
const SUBSCRIBE: Option<Capability> = Some(Capability::EventSubscribe);
const UPLOAD: Option<Capability> = Some(Capability::FileUpload);
const DOCUMENT: Option<Capability> = Some(Capability::DocumentAnalysis);
const SPAWN: Option<Capability> = Some(Capability::AgentSpawn);
const SEARCH: Option<Capability> = Some(Capability::WebSearch);
const CODE_READ: Option<Capability> = Some(Capability::CodeRead);
const CODE_WRITE: Option<Capability> = Some(Capability::CodeWrite);
const FETCH: Option<Capability> = Some(Capability::ExternalApi);

/// Every route.
#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    ("GET",    "/",                                  Access::Open,      None),
    ("GET",    "/health",                            Access::Open,      None),
    ("GET",    "/ready",                             Access::Open,      None),
    ("GET",    "/docs",                              Access::Open,      None),
    ("GET",    "/openapi.json",                      Access::Open,      None),
    ("GET",    "/metrics",                           Access::Metrics,   None),
    ("GET",    "/AGENTS.md",                         Access::Open,      None),
    ("GET",    "/SKILLS.md",                         Access::Open,      None),
    ("GET",    "/v1/discovery",                      Access::Open,      None),
    ("GET",    "/v1/schemas/agent-card.json",        Access::Open,      None),
    ("GET",    "/v1/schemas/aither-agent.json",      Access::Open,      None),
    ("GET",    "/v1/capabilities",                   Access::Holder,    None),
    ("POST",   "/v1/auth/register",                  Access::Open,      None),
    ("POST",   "/v1/auth/login",                     Access::Open,      None),
    ("POST",   "/v1/auth/refresh",                   Access::Open,      None),
    ("GET",    "/v1/auth/me",                        Access::Holder,    None),
    ("GET",    "/v1/keys",                           Access::Account,   None),
    ("DELETE", "/v1/keys/{id}",                      Access::Account,   None),
    ("GET",    "/v1/billing/balance",                Access::Holder,    None),
    ("POST",   "/v1/billing/check",                  Access::Holder,    None),
    ("POST",   "/v1/billing/deduct",                 Access::Holder,    None),
    ("GET",    "/v1/billing/usage",                  Access::Manage,    None),
    ("GET",    "/v1/billing/statement",              Access::Account,    None),
    ("POST",   "/v1/billing/topup",                  Access::Operator,  None),
    ("GET",    "/v1/admin/prices",                   Access::Operator,  None),
    ("PUT",    "/v1/admin/prices",                   Access::Operator,  None),
    ("GET",    "/v1/admin/accounts",                 Access::Operator,  None),
    ("POST",   "/v1/admin/accounts",                 Access::Operator,  None),
    ("PATCH",  "/v1/admin/accounts/{id}",            Access::Operator,  None),
    ("POST",   "/v1/admin/backup",                   Access::Operator,  None),
    ("POST",   "/v1/admin/token-keys",               Access::Operator,  None),
    ("POST",   "/v1/models/import",                  Access::Operator,  None),
    ("GET",    "/v1/models",                         Access::Inference, None),
    ("GET",    "/v1/models/{id}",                    Access::Inference, None),
    ("POST",   "/v1/llm/generate",                   Access::Inference, LLM),
    ("POST",   "/v1/llm/chat",                       Access::Inference, LLM),
    ("POST",   "/v1/llm/embed",                      Access::Inference, EMBED),
    ("POST",   "/v1/chat/completions",               Access::Inference, LLM),
    ("POST",   "/v1/completions",                    Access::Inference, LLM),
    ("POST",   "/v1/embeddings",                     Access::Inference, EMBED),
    ("POST",   "/api/chat",                          Access::Inference, LLM),
    ("POST",   "/api/generate",                      Access::Inference, LLM),
    ("POST",   "/api/embed",                         Access::Inference, EMBED),
    ("POST",   "/api/embeddings",                    Access::Inference, EMBED),
    ("GET",    "/api/tags",                          Access::Inference, None),
    ("GET",    "/api/ps",                            Access::Inference, None),
    ("POST",   "/api/show",                          Access::Inference, None),
    ("GET",    "/api/version",                       Access::Inference, None),
    ("POST",   "/api/pull",                          Access::Operator,  None),
    ("POST",   "/api/delete",                        Access::Operator,  None),
    ("DELETE", "/api/delete",                        Access::Operator,  None),
    ("POST",   "/v1/agents/auto-onboard",            Access::Account,   None),
    ("GET",    "/v1/agents",                         Access::Holder,    None),
    ("GET",    "/v1/agents/{name}",                  Access::Holder,    None),
    ("DELETE", "/v1/agents/{name}",                  Access::Manage,    None),
    ("GET",    "/v1/agents/{name}/connection-info",  Access::Manage,    None),
    ("PUT",    "/v1/agents/{name}/card",             Access::Manage,    None),
    ("POST",   "/v1/agents/{name}/rotate-key",       Access::Manage,    None),
    ("POST",   "/v1/agents/{name}/suspend",          Access::Manage,    None),
    ("POST",   "/v1/agents/{name}/resume",           Access::Manage,    None),
    ("POST",   "/v1/agents/{name}/drain",            Access::Manage,    None),
    ("GET",    "/v1/agents/{name}/lifecycle",        Access::Manage,    None),
    ("GET",    "/v1/agents/{name}/health",           Access::Holder,    None),
    ("GET",    "/v1/agents/{name}/usage",            Access::Manage,    None),
    ("POST",   "/v1/agents/{name}/spawn",            Access::Agent,     SPAWN),
    ("DELETE", "/v1/agents/{name}/tokens/{token}",   Access::Manage,    None),
    ("POST",   "/v1/agents/{name}/chat",             Access::Holder,    CALL),
    ("POST",   "/v1/agents/{name}/call",             Access::Holder,    CALL),
    ("POST",   "/v1/a2a/tasks",                      Access::Holder,    CALL),
    ("GET",    "/v1/a2a/tasks/{id}",                 Access::Holder,    CALL),
    ("DELETE", "/v1/a2a/tasks/{id}",                 Access::Holder,    CALL),
    ("POST",   "/v1/a2a/parallel",                   Access::Holder,    CALL),
    ("GET",    "/v1/a2a/agents/{name}",              Access::Holder,    None),
    ("POST",   "/v1/memory/write",                   Access::Holder,    WRITE),
    ("POST",   "/v1/memory/read",                    Access::Holder,    READ),
    ("POST",   "/v1/memory/delete",                  Access::Holder,    WRITE),
    ("POST",   "/v1/memory/search",                  Access::Holder,    READ),
    ("GET",    "/v1/memory/list",                    Access::Holder,    READ),
    ("POST",   "/v1/memory/complete-task",           Access::Holder,    WRITE),
    ("POST",   "/v1/memory/codegraph/index",         Access::Holder,    WRITE),
    ("POST",   "/v1/memory/codegraph/query",         Access::Holder,    READ),
    ("GET",    "/v1/marketplace",                    Access::Holder,    None),
    ("POST",   "/v1/marketplace/listings",           Access::Manage,    None),
    ("DELETE", "/v1/marketplace/listings",           Access::Manage,    None),
    ("DELETE", "/v1/marketplace/listings/{agent}",   Access::Manage,    None),
    ("POST",   "/v1/events/emit",                    Access::Holder,    EMIT),
    ("GET",    "/v1/events/subscribe",               Access::Holder,    SUBSCRIBE),
    ("GET",    "/v1/agents/{name}/logs",             Access::Manage,    None),
    ("POST",   "/v1/artifacts/store",                Access::Holder,    UPLOAD),
    ("GET",    "/v1/artifacts",                      Access::Holder,    None),
    ("GET",    "/v1/artifacts/{id}",                 Access::Holder,    None),
    ("DELETE", "/v1/artifacts/{id}",                 Access::Holder,    None),
    ("POST",   "/v1/documents/analyze",              Access::Holder,    DOCUMENT),
    ("POST",   "/api/workspaces/{id}/write",         Access::Holder,    None),
    ("GET",    "/api/workspaces/{id}/read",          Access::Holder,    None),
    ("GET",    "/api/workspaces/{id}/files",         Access::Holder,    None),
    ("DELETE", "/api/workspaces/{id}/delete",        Access::Holder,    None),
    ("POST",   "/v1/search",                         Access::Holder,    SEARCH),
    ("POST",   "/v1/code/read",                      Access::Holder,    CODE_READ),
    ("POST",   "/v1/code/write",                     Access::Holder,    CODE_WRITE),
    ("POST",   "/v1/http/fetch",                     Access::Holder,    FETCH),
    ("POST",   "/api/onboard",                       Access::Account,   None),
    ("POST",   "/api/onboard/quick",                 Access::Account,   None),
    ("GET",    "/api/agents/{id}",                   Access::Manage,    None),
    ("DELETE", "/api/agents/{id}",                   Access::Manage,    None),
    ("POST",   "/api/agents/{id}/rotate-key",        Access::Manage,    None),
    ("POST",   "/api/agents/{id}/suspend",           Access::Manage,    None),
    ("POST",   "/api/agents/{id}/resume",            Access::Manage,    None),
    ("GET",    "/api/audit/{id}",                    Access::Manage,    None),
];

/// The rows by template; each has a handful of methods.
static BY_ROUTE: LazyLock<HashMap<&'static str, Vec<(&'static str, Rule)>>> = LazyLock::new(|| {
    let mut by_route: HashMap<_, Vec<_>> = HashMap::new();
    for (method, route, access, capability) in ROWS {
        let rule = Rule {
            access: *access,
            capability: *capability,
        };
        by_route.entry(*route).or_default().push((*method, rule));
    }
    by_route
});

impl Rule {
    /// Returns what holds for a route, given by its template.
    pub(super) fn of(method: &Method, route: Option<&str>) -> Self {
        let Some(route) = route else {
            return Self {
                access: Access::NoRoute,
                capability: None,
            };
        };
        // The router answers HEAD where there is GET.
        let method = match *method {
            Method::HEAD => "GET",
            ref method => method.as_str(),
        };
        let rules = BY_ROUTE.get(route).map_or(&[][..], Vec::as_slice);
        let listed = rules.iter().find(|(listed, _)| *listed == method);
        match (listed, rules.first()) {
            (Some((_, rule)), _) => *rule,
            // A method that the route does not have: whoever may come there is told so.
            (None, Some((_, rule))) => *rule,
            (None, None) => UNLISTED,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_route_has_a_row_and_every_row_a_route() {
        let document = super::super::openapi();
        let document = serde_json::to_value(&document).unwrap();
        let mut routes = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for method in item.as_object().unwrap().keys() {
                let method = method.to_uppercase();
                if ["GET", "PUT", "POST", "PATCH", "DELETE"].contains(&&*method) {
                    routes.insert((method, path.clone()));
                }
            }
        }
        let rows = ROWS
            .iter()
            .map(|(method, route, ..)| ((*method).to_owned(), (*route).to_owned()));
        let rows: BTreeSet<_> = rows.collect();
        assert_eq!(rows.len(), ROWS.len(), "a row stands twice");
        let without: Vec<_> = routes.symmetric_difference(&rows).collect();
        assert!(without.is_empty(), "no row, or no route: {without:?}");
    }

    #[test]
    fn what_is_not_listed_is_the_operators() {
        let rule = |method, route| Rule::of(&method, route);
        assert_eq!(rule(Method::GET, Some("/v1/new")), UNLISTED);
        assert_eq!(rule(Method::GET, None).access, Access::NoRoute);
        assert_eq!(rule(Method::HEAD, Some("/health")).access, Access::Open);
        assert_eq!(
            rule(Method::DELETE, Some("/v1/agents/{name}")).access,
            Access::Manage
        );
    }
}
