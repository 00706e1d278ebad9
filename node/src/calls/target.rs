//! Where an agent is called, from its card: read once, and kept for the calls that follow.

use aither_protocol::{AgentCard, AgentUrl, HttpMethod};
use url::Url;

/// Where an agent answers whose skill names no path.
pub const CHAT_PATH: &str = "/chat";

/// What calls need of a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    base: AgentUrl,
    endpoints: Vec<(String, HttpMethod)>,
    /// By id, the path that answers it.
    skills: Vec<(String, Option<String>)>,
    a2a: Option<Url>,
    /// How many calls it takes at once.
    pub max_concurrent: u32,
}

/// Where one call goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The whole address.
    pub url: Url,
    /// The path as the card has it.
    pub path: String,
    /// The method.
    pub method: HttpMethod,
    /// Whether it is asked by A2A's JSON-RPC.
    pub is_a2a: bool,
}

impl Target {
    /// Takes from a card what calls need; `None` for an agent without an address.
    pub fn of(card: &AgentCard) -> Option<Self> {
        let endpoints = card.endpoints.iter();
        let skills = card.skills.iter();
        Some(Self {
            base: card.agent_url.clone()?,
            endpoints: endpoints.map(|e| (e.path.clone(), e.method)).collect(),
            skills: skills.map(|s| (s.id.clone(), s.endpoint.clone())).collect(),
            a2a: card.a2a.as_ref().map(|a2a| a2a.url.as_url().clone()),
            max_concurrent: card.resources.max_concurrent,
        })
    }

    /// Returns whether the agent has a skill.
    pub fn has_skill(&self, skill: &str) -> bool {
        self.skills.iter().any(|(id, _)| id == skill)
    }

    /// Returns where a message goes: to the path of its skill, else to the chat.
    pub fn message(&self, skill: Option<&str>) -> Route {
        if let Some(url) = &self.a2a {
            return Route {
                url: url.clone(),
                path: url.path().to_owned(),
                method: HttpMethod::Post,
                is_a2a: true,
            };
        }
        let skill = self.skills.iter().find(|(id, _)| Some(&**id) == skill);
        let path = skill.and_then(|(_, path)| path.as_deref());
        let path = path.unwrap_or(CHAT_PATH);
        // A message has a body; a card that declares the path only to be read is taken by its word.
        let declared = self.endpoint(path, Some(HttpMethod::Post));
        let declared = declared.or_else(|| self.endpoint(path, None));
        declared.unwrap_or_else(|| self.route(path, HttpMethod::Post))
    }

    /// Returns where a declared endpoint is. Without a method, of several that its path has `POST`
    /// is meant, else the first.
    pub fn endpoint(&self, path: &str, method: Option<HttpMethod>) -> Option<Route> {
        let declared = self.endpoints.iter().filter(|(known, _)| known == path);
        let mut methods = declared.map(|(_, method)| *method);
        let method = match method {
            Some(wanted) => methods.find(|method| *method == wanted)?,
            None => {
                let first = methods.next()?;
                let has_post = methods.any(|method| method == HttpMethod::Post);
                if has_post { HttpMethod::Post } else { first }
            }
        };
        Some(self.route(path, method))
    }

    fn route(&self, path: &str, method: HttpMethod) -> Route {
        Route {
            url: self.base.endpoint(path),
            path: path.to_owned(),
            method,
            is_a2a: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn card(more: &Value) -> AgentCard {
        let mut card = json!({
            "name": "bot", "version": "1.0.0", "description": "d",
            "skills": [
                { "id": "plain", "name": "P", "description": "d" },
                { "id": "find", "name": "F", "description": "d", "endpoint": "/find" },
            ],
            "endpoints": [
                { "path": "/chat", "method": "POST" },
                { "path": "/find", "method": "GET" },
                { "path": "/items", "method": "GET" },
                { "path": "/items", "method": "DELETE" },
                { "path": "/items", "method": "POST" },
            ],
            "capabilities_requested": [],
            "billing": { "token_cost_per_request": 1, "category": "agent" },
            "health_endpoint": "/health",
            "agent_url": "http://127.0.0.1:9/base/",
        });
        for (key, value) in more.as_object().unwrap() {
            card[key] = value.clone();
        }
        AgentCard::from_json(&card).unwrap()
    }

    #[test]
    fn a_message_goes_to_the_path_of_its_skill_else_to_the_chat() {
        let target = Target::of(&card(&json!({}))).unwrap();
        assert!(target.has_skill("find") && !target.has_skill("other"));
        assert_eq!(target.max_concurrent, 5);
        for (skill, url, method) in [
            (None, "http://127.0.0.1:9/base/chat", HttpMethod::Post),
            (
                Some("plain"),
                "http://127.0.0.1:9/base/chat",
                HttpMethod::Post,
            ),
            (
                Some("find"),
                "http://127.0.0.1:9/base/find",
                HttpMethod::Get,
            ),
        ] {
            let route = target.message(skill);
            assert_eq!((route.url.as_str(), route.method), (url, method));
            assert!(!route.is_a2a);
        }
    }

    #[test]
    fn only_declared_endpoints_are_found() {
        let target = Target::of(&card(&json!({}))).unwrap();
        let method = |path, wanted| target.endpoint(path, wanted).map(|route| route.method);
        assert_eq!(method("/find", None), Some(HttpMethod::Get));
        assert_eq!(method("/find", Some(HttpMethod::Post)), None);
        assert_eq!(method("/items", None), Some(HttpMethod::Post));
        assert_eq!(
            method("/items", Some(HttpMethod::Delete)),
            Some(HttpMethod::Delete)
        );
        for path in [
            "",
            "/",
            "/health",
            "/find/",
            "/find?x",
            "/../find",
            "//evil/find",
        ] {
            assert_eq!(method(path, None), None, "{path}");
        }
    }

    #[test]
    fn who_speaks_a2a_is_asked_there_and_who_has_no_address_not_at_all() {
        let a2a = json!({ "a2a": { "url": "http://127.0.0.1:9/rpc" } });
        let route = Target::of(&card(&a2a)).unwrap().message(Some("find"));
        assert!(route.is_a2a);
        assert_eq!(route.url.as_str(), "http://127.0.0.1:9/rpc");
        assert_eq!(Target::of(&card(&json!({ "agent_url": null }))), None);
    }
}
