//! `aither-cli agents`: the agents that the node knows, as a table.

use serde::Deserialize;

use crate::{
    args::AgentsArgs,
    client::{Agent, AgentQuery, Client},
    error::Error,
    render::{self, Column, Output, Table, or_dash},
};

/// Room for a few skills; `--json` has all of them.
const SKILLS_WIDTH_MAX: usize = 40;

#[derive(Deserialize)]
struct List {
    items: Vec<Agent>,
}

/// Lists the agents.
pub(crate) async fn run(
    client: &Client,
    output: &Output,
    args: &AgentsArgs,
    json: bool,
) -> Result<(), Error> {
    let query = AgentQuery {
        skill: args.skill.as_deref(),
        all_nodes: args.all_nodes,
    };
    let answer = client.agents(query).await?;
    if json {
        return output.line(&answer.line());
    }
    let list: List = answer.read("a list of agents")?;
    if list.items.is_empty() {
        render::remark(&nobody(args));
        return Ok(());
    }
    output.piece(&if args.all_nodes {
        federated(&list.items)
    } else {
        local(&list.items)
    })
}

/// Says that there is no such agent, and where there may be one.
fn nobody(args: &AgentsArgs) -> String {
    let (who, place) = match (&args.skill, args.all_nodes) {
        (Some(skill), _) => (format!("no agent with the skill `{skill}`"), args.all_nodes),
        (None, all_nodes) => ("no agent".to_owned(), all_nodes),
    };
    let (place, remedy) = if place {
        ("on any node of the federation", "")
    } else {
        ("on this node", "; --all-nodes looks at the others, too")
    };
    format!("{who} {place}{remedy}; make one with `aither-cli init my-agent`")
}

fn local(agents: &[Agent]) -> String {
    let mut table = Table::new([
        Column::Text("NAME"),
        Column::Text("STATE"),
        Column::Number("PRICE"),
        Column::Number("LATENCY"),
        Column::Number("LOAD"),
        Column::Text("SKILLS"),
    ]);
    for agent in agents {
        let [name, state, price, latency, load, _, skills] = cells(agent);
        table.push([name, state, price, latency, load, skills]);
    }
    table.to_string()
}

fn federated(agents: &[Agent]) -> String {
    let mut table = Table::new([
        Column::Text("NAME"),
        Column::Text("STATE"),
        Column::Number("PRICE"),
        Column::Number("LATENCY"),
        Column::Number("LOAD"),
        Column::Number("REPUTATION"),
        Column::Text("SKILLS"),
        Column::Text("NODE"),
    ]);
    for agent in agents {
        let [name, state, price, latency, load, reputation, skills] = cells(agent);
        let node = or_dash(agent.node.as_deref());
        table.push([name, state, price, latency, load, reputation, skills, node]);
    }
    table.to_string()
}

/// Name, state, price, latency, load, reputation and skills.
fn cells(agent: &Agent) -> [String; 7] {
    let skills: Vec<&str> = agent.skills.iter().map(|skill| skill.id()).collect();
    [
        agent.name.clone(),
        or_dash(agent.state.as_deref()),
        or_dash(agent.price.as_ref()),
        or_dash(agent.latency_ms.map(|time| format!("{time:.0} ms"))),
        or_dash(agent.load.map(|load| format!("{load:.2}"))),
        or_dash(agent.reputation.map(|share| format!("{share:.2}"))),
        or_dash((!skills.is_empty()).then(|| render::clip(&skills.join(", "), SKILLS_WIDTH_MAX))),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn agent(value: serde_json::Value) -> Agent {
        serde_json::from_str(&value.to_string()).unwrap()
    }

    #[test]
    fn table_shows_what_is_known_and_dashes_for_the_rest() {
        let agents = [
            agent(json!({
                "name": "my-agent", "id": "my-agent-1", "node": "12D3", "local": true,
                "state": "LIVE", "skills": ["chat", "research"], "price": 1,
                "latency_ms": 12.4, "load": 0.25, "reputation": null
            })),
            agent(json!({"name": "b", "skills": [{"id": "scan", "name": "Scan"}]})),
        ];
        assert_eq!(
            local(&agents),
            "NAME      STATE  PRICE  LATENCY  LOAD  SKILLS\n\
             my-agent  LIVE       1    12 ms  0.25  chat, research\n\
             b         -          -        -     -  scan\n"
        );
        let text = federated(&agents);
        assert!(text.starts_with("NAME "), "{text}");
        assert!(text.contains("chat, research  12D3\n"), "{text}");
    }

    #[test]
    fn empty_list_says_where_else_to_look() {
        let args = |skill: Option<&str>, all_nodes| AgentsArgs {
            skill: skill.map(str::to_owned),
            all_nodes,
        };
        assert!(nobody(&args(None, false)).contains("--all-nodes"));
        let words = nobody(&args(Some("scan"), true));
        assert!(
            words.starts_with("no agent with the skill `scan` on any node"),
            "{words}"
        );
    }
}
