//! `aither-cli onboard`: takes an agent aboard and saves what it gets.
//!
//! The answer holds the agent's key. It goes into the bundle and nowhere else: what is printed is
//! put together from members that are known to be no secret.

use std::path::Path;

use serde_json::json;

use super::validate;
use crate::{
    agent_dir::{self, AgentDir},
    args::OnboardArgs,
    client::{Bundle, Client, Mode},
    error::Error,
    render::{self, Output, clip},
};

/// Room for every capability there is.
const LINE_WIDTH_MAX: usize = 1024;

/// Validates the agent, takes it aboard and saves the bundle.
pub(crate) async fn run(
    client: &Client,
    output: &Output,
    args: &OnboardArgs,
    json: bool,
) -> Result<(), Error> {
    let agent = AgentDir::new(&args.agent.directory);
    let mut card = match agent.read_card()? {
        Ok(card) => card,
        Err(findings) => {
            for finding in &findings {
                render::remark(&validate::line(finding));
            }
            return Err(agent_dir::invalid(&findings));
        }
    };
    for warning in agent.unknown_fields()? {
        render::remark(&format!("{} (warning)", validate::line(&warning)));
    }
    if let Some(url) = &args.agent_url {
        card.agent_url = Some(url.clone());
    }
    let (bundle, whole) = client.onboard(&card.to_json(), args.mode).await?;
    let path = agent.save_bundle(&whole)?;
    if card.agent_url.is_none() && args.mode != Mode::Managed {
        render::remark(
            "nobody can call it yet, because it says no agent_url; start it if it comes aboard by \
             itself, or add --agent-url URL",
        );
    }
    output.line(&if json {
        as_json(&bundle, &path)
    } else {
        in_words(&bundle, client.server(), &path)
    })
}

fn as_json(bundle: &Bundle, path: &Path) -> String {
    json!({
        "agent_id": bundle.agent_id,
        "agent_name": bundle.agent_name,
        "status": bundle.status,
        "mode": bundle.mode,
        "capabilities": bundle.capabilities,
        "bundle": path.display().to_string(),
    })
    .to_string()
}

fn in_words(bundle: &Bundle, server: &str, path: &Path) -> String {
    let capabilities = bundle.capabilities.join(", ");
    let lines = [
        format!("{} is aboard at {server}", bundle.agent_name),
        format!("  id            {}", bundle.agent_id),
        format!("  status        {}, {}", bundle.status, bundle.mode),
        format!("  capabilities  {capabilities}"),
        format!("  bundle        {} (holds its key)", path.display()),
    ];
    lines.map(|line| clip(&line, LINE_WIDTH_MAX)).join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUNDLE: &str = r#"{
        "agent_id": "my-agent-1a2b3c4d", "agent_name": "my-agent", "status": "active",
        "mode": "hybrid", "api_key": "aither_ak_secret", "capability_token": "secret",
        "capabilities": ["llm_inference", "event_emit"]
    }"#;

    #[test]
    fn secrets_are_not_shown() {
        let bundle: Bundle = serde_json::from_str(BUNDLE).unwrap();
        let path = Path::new("my-agent/.aither/bundle.json");
        for shown in [
            as_json(&bundle, path),
            in_words(&bundle, "http://h", path),
            format!("{bundle:?}"),
        ] {
            assert!(shown.contains("my-agent-1a2b3c4d"), "{shown}");
            assert!(!shown.contains("secret"), "{shown}");
        }
    }

    #[test]
    fn answer_cannot_forge_a_line() {
        let bundle = BUNDLE.replace("event_emit", "event_emit\\n  bundle   elsewhere");
        let bundle: Bundle = serde_json::from_str(&bundle).unwrap();
        let words = in_words(&bundle, "http://h", Path::new("b"));
        assert_eq!(words.lines().count(), 5, "{words}");
    }
}
