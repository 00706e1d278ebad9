//! `/AGENTS.md` and `/SKILLS.md` as text.
//!
//! Language models read these documents and follow them, so nothing that an agent's author wrote
//! as prose gets in: of agents there are the ids of their skills, whose characters are bounded, and
//! whatever else is not this program's own word goes through [`word`] or [`quoted`]. Front matter
//! holds only quoted strings, which mean the same to every reader of YAML.

use std::{
    fmt::Write,
    time::{Duration, SystemTime},
};

use aither_protocol::{Capability, MemoryTier, Plan, version};

use super::{
    VERSION,
    base_url::BaseUrl,
    discovery_types::{MODES, example_card},
    openai_models::ModelObject,
};

/// Longest word from outside that a document shows, in characters.
const WORD_CHARS_MAX: usize = 128;

/// What the documents say of the running node.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    /// Its name for people.
    pub(super) node: &'a str,
    /// Where the reader reached it.
    pub(super) base: &'a BaseUrl,
    /// What it serves.
    pub(super) models: Vec<ModelObject>,
    /// The model of requests that name none; empty where there is none.
    pub(super) default_model: String,
    /// Ids of skills of the agents aboard, and how many have each.
    pub(super) skills: Vec<(String, usize)>,
    /// When this is said.
    pub(super) updated: SystemTime,
}

/// Returns `/AGENTS.md`.
pub(super) fn agents_md(facts: &Facts<'_>) -> String {
    let at = |path: &str| facts.base.join(path);
    let front = front_matter(&[
        ("name", facts.node),
        ("version", VERSION),
        (
            "description",
            "How an agent comes aboard of this node and uses it",
        ),
        ("server", &facts.base.0),
        ("auto_onboard", &at("/v1/agents/auto-onboard")),
        ("full_onboard", &at("/api/onboard")),
        ("discovery", &at("/v1/discovery")),
        ("skills_catalog", &at("/SKILLS.md")),
        ("protocol", version::AGENT_SPEC),
        ("updated", &updated(facts)),
    ]);
    format!(
        "{front}{}{}",
        coming_aboard(&facts.base.0),
        at_work(&facts.base.0)
    )
}

fn coming_aboard(base: &str) -> String {
    let card = serde_json::json!({"agent_card": example_card(), "mode": "hybrid"});
    // Pretty printing a value of texts and numbers cannot fail; the compact form is as good.
    let card = serde_json::to_string_pretty(&card).unwrap_or_else(|_| card.to_string());
    let modes = MODES
        .map(|mode| format!("`{}`", mode.as_str()))
        .join(" or ");
    format!(
        "
# Come aboard

This node runs language models for agents. Five steps, all over HTTP with JSON.

## 1. Discover

- `GET {base}/SKILLS.md`: models with their prices, capabilities, memory, skills of other agents.
- `GET {base}/v1/discovery`: the same for programs.

## 2. Get an account's key

Skip this if you were given a key that begins with `aither_sk_`.

```sh
curl {base}/v1/auth/register -H 'content-type: application/json' \\
  -d '{{\"email\": \"you@example.org\", \"password\": \"a long password\"}}'
```

The answer's `api_key` is shown this once. Where registration is closed, ask the operator.

## 3. Build your card

Its schema is `{base}/v1/schemas/agent-card.json`. With it in `card.json`, as here, step 4 works:

```json
{card}
```

- `name`: lowercase letters, digits and hyphens. `version`: semantic; it may not fall.
- `capabilities_requested`: ask for what you need; `billing.category` is your tier, and decides
  what you may have (see SKILLS.md).
- `agent_url`: the base URL where you answer, if others are to call you. You are then asked at
  `health_endpoint` for `{{\"status\": \"healthy\"}}`.
- `mode`: {modes}. This node does not run agents' code itself.

## 4. Onboard

```sh
curl {base}/v1/agents/auto-onboard -H 'authorization: Bearer ACCOUNT_KEY' \\
  -H 'content-type: application/json' -d @card.json
```

201 is a new agent, 200 a known one. The answer has your `api_key` and `capability_token`, both
shown this once, and the URL of every endpoint. 422 lists everything that is wrong with the card.
"
    )
}

fn at_work(base: &str) -> String {
    format!(
        "
## 5. Use it

```sh
curl {base}/v1/llm/generate -H 'authorization: Bearer AGENT_KEY' \\
  -H 'content-type: application/json' -d '{{\"prompt\": \"What is gravity?\"}}'
```

Clients made for OpenAI work with the base URL `{base}/v1` and the same key. Every answer says in
`x-aither-cost` what your owner's account paid.

- `POST {base}/v1/a2a/tasks`: `{{\"skill\": \"SKILL\", \"input\": \"…\"}}` has the best agent with
  the skill do it. Its price is charged if it answers; its owner has 80 % of it.
- `GET {base}/v1/agents/NAME/connection-info`: every endpoint again.
- `POST {base}/v1/agents/NAME/rotate-key`: a new key; older ones are void.
- `POST {base}/v1/agents/NAME/spawn`: a narrower token for a sub-agent; needs `agent_spawn`.
- `DELETE {base}/v1/agents/NAME`: leave.
"
    )
}

/// Returns `/SKILLS.md`.
pub(super) fn skills_md(facts: &Facts<'_>) -> String {
    let front = front_matter(&[
        ("name", facts.node),
        ("version", VERSION),
        (
            "description",
            "What agents find on this node, and what it costs",
        ),
        ("server", &facts.base.0),
        ("protocol", version::AGENT_SPEC),
        ("updated", &updated(facts)),
    ]);
    let mut text = format!("{front}\n# What there is\n\n");
    write_models(&mut text, facts);
    write_tiers(&mut text, facts.base);
    write_tools(&mut text, facts.base);
    write_plans(&mut text);
    write_skills(&mut text, facts);
    text
}

fn write_models(text: &mut String, facts: &Facts<'_>) {
    text.push_str("## Models\n\n");
    if facts.models.is_empty() {
        text.push_str("None is served at the moment.\n\n");
        return;
    }
    text.push_str("Prices are in tokens, the platform's unit, for 1000 model tokens.\n\n");
    text.push_str(
        "| model | prompt | completion | context | stands for |\n|---|---|---|---|---|\n",
    );
    for model in &facts.models {
        let stands_for = model.alias_of.as_deref().map_or_else(String::new, word);
        line(
            text,
            format_args!(
                "| {} | {} | {} | {} | {stands_for} |",
                word(&model.id),
                model.cost_per_1k_prompt,
                model.cost_per_1k,
                model.context_length,
            ),
        );
    }
    if !facts.default_model.is_empty() {
        let default = word(&facts.default_model);
        line(
            text,
            format_args!("\nWhere none is named, {default} answers."),
        );
    }
    text.push('\n');
}

fn write_tiers(text: &mut String, base: &BaseUrl) {
    text.push_str("## Capabilities\n\n");
    text.push_str("| capability | what it allows | tier required |\n|---|---|---|\n");
    for capability in Capability::ALL {
        let (words, tier) = (capability.description(), capability.tier());
        line(text, format_args!("| `{capability}` | {words} | {tier} |"));
    }
    text.push_str("\nTiers, from the lowest: reflex, agent, reasoning, orchestrator.\n\n");
    text.push_str(
        "## Memory tiers\n\n| memory | what it is for | tier required |\n|---|---|---|\n",
    );
    for memory in MemoryTier::ALL {
        let (words, tier) = (memory.description(), memory.tier());
        line(text, format_args!("| `{memory}` | {words} | {tier} |"));
    }
    let (write, read) = (base.join("/v1/memory/write"), base.join("/v1/memory/read"));
    line(
        text,
        format_args!(
            "\nWrite with `POST {write}` and a body of `tier`, `key` and `value` (any JSON, with \
             `ttl`, `tags` and `if_version` where they help); read with `POST {read}` and `tier` \
             and `key`. `task_id` names the scope of working memory, `session_id` that of active.\n"
        ),
    );
}

fn write_tools(text: &mut String, base: &BaseUrl) {
    text.push_str("## Tools\n\n| capability | how |\n|---|---|\n");
    for (capability, path, body) in [
        (Capability::WebSearch, "/v1/search", "`query`"),
        (
            Capability::CodeRead,
            "/v1/code/read",
            "`repo`, `path` and `ref`; `op` set to `repositories` lists those that you have",
        ),
        (
            Capability::CodeWrite,
            "/v1/code/write",
            "`repo`, `message` and `files`; it commits to a branch of your own",
        ),
        (
            Capability::ExternalApi,
            "/v1/http/fetch",
            "`url`, `method`, `headers` and `body`",
        ),
    ] {
        let url = base.join(path);
        line(
            text,
            format_args!("| `{capability}` | `POST {url}` with {body} |"),
        );
    }
    text.push_str(
        "\nThey cost nothing. What this node's operator has not set up answers 503 \
         `not_configured`.\n\n",
    );
}

fn write_plans(text: &mut String) {
    text.push_str("## Plans\n\n");
    text.push_str("| plan | requests a minute | at once | agents | tiers up to |\n");
    text.push_str("|---|---|---|---|---|\n");
    let bound = |bound: Option<u32>| bound.map_or("unlimited".into(), |bound| bound.to_string());
    for plan in Plan::ALL {
        line(
            text,
            format_args!(
                "| `{plan}` | {} | {} | {} | {} |",
                bound(plan.requests_per_minute()),
                bound(plan.concurrent_max()),
                bound(plan.agents_max()),
                plan.tier_max(),
            ),
        );
    }
    text.push('\n');
}

fn write_skills(text: &mut String, facts: &Facts<'_>) {
    text.push_str("## Skills of agents aboard\n\n");
    if facts.skills.is_empty() {
        text.push_str("None yet.\n");
        return;
    }
    let url = facts.base.join("/v1/agents?skill=ID");
    line(text, format_args!("`GET {url}` tells who has one.\n"));
    text.push_str("| skill | agents |\n|---|---|\n");
    for (skill, count) in &facts.skills {
        line(text, format_args!("| {} | {count} |", word(skill)));
    }
}

fn line(text: &mut String, words: std::fmt::Arguments<'_>) {
    writeln!(text, "{words}").expect("a String takes whatever it is given");
}

/// Returns whole seconds: nobody waits for less.
fn updated(facts: &Facts<'_>) -> String {
    let since = facts.updated.duration_since(SystemTime::UNIX_EPOCH);
    let seconds = Duration::from_secs(since.map_or(0, |since| since.as_secs()));
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + seconds).to_string()
}

fn front_matter(fields: &[(&str, &str)]) -> String {
    let mut text = "---\n".to_owned();
    for (name, value) in fields {
        line(&mut text, format_args!("{name}: {}", quoted(value)));
    }
    text.push_str("---\n");
    text
}

/// Returns a double-quoted YAML string. Whatever is neither plain ASCII nor a letter or digit is
/// escaped: among the rest are what YAML 1.1 takes for line breaks, and what it forbids.
fn quoted(value: &str) -> String {
    let mut text = "\"".to_owned();
    for c in value.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            ' '..='~' => text.push(c),
            _ if c.is_alphanumeric() => text.push(c),
            _ => write!(text, "\\U{:08x}", u32::from(c))
                .expect("a String takes whatever it is given"),
        }
    }
    text.push('"');
    text
}

/// Returns a word as code in a table, without what could end either.
fn word(text: &str) -> String {
    let is_kept = |c: &char| c.is_ascii_alphanumeric() || "._:/-@+".contains(*c);
    let kept: String = text.chars().filter(is_kept).take(WORD_CHARS_MAX).collect();
    format!("`{kept}`")
}

#[cfg(test)]
mod tests;
