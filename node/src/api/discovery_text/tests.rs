//! The documents against a YAML reader, with names that try to break out.

use saphyr_parser::{Event, Parser};

use super::*;

/// Reads the front matter: its keys and values in order.
fn front_matter_of(document: &str) -> Vec<(String, String)> {
    let rest = document.strip_prefix("---\n").unwrap();
    let (front, _) = rest.split_once("\n---\n").unwrap();
    let events = Parser::new_from_str(front).map(|event| event.unwrap().0);
    let scalars = events.filter_map(|event| match event {
        Event::Scalar(text, ..) => Some(text.into_owned()),
        _ => None,
    });
    let scalars: Vec<_> = scalars.collect();
    assert_eq!(scalars.len() % 2, 0, "{scalars:?}");
    let pairs = scalars.chunks(2);
    pairs
        .map(|pair| (pair[0].clone(), pair[1].clone()))
        .collect()
}

fn facts<'a>(node: &'a str, base: &'a BaseUrl) -> Facts<'a> {
    Facts {
        node,
        base,
        models: Vec::new(),
        default_model: String::new(),
        skills: vec![("research".into(), 2)],
        updated: SystemTime::UNIX_EPOCH,
    }
}

#[test]
fn front_matter_has_the_fields_of_the_platform() {
    let base = BaseUrl("http://[::1]:8200".into());
    let front = front_matter_of(&agents_md(&facts("home", &base)));
    let names: Vec<_> = front.iter().map(|(name, _)| &**name).collect();
    let expected = [
        "name",
        "version",
        "description",
        "server",
        "auto_onboard",
        "full_onboard",
        "discovery",
        "skills_catalog",
        "protocol",
        "updated",
    ];
    assert_eq!(names, expected);
    let value = |name: &str| {
        front
            .iter()
            .find(|(known, _)| known == name)
            .unwrap()
            .1
            .clone()
    };
    assert_eq!(value("server"), "http://[::1]:8200");
    let url = "http://[::1]:8200/v1/agents/auto-onboard";
    assert_eq!(value("auto_onboard"), url);
    assert_eq!(value("protocol"), "aitheros-agent-spec/3.0");
    assert_eq!(value("updated"), "1970-01-01T00:00:00Z");
    let front = front_matter_of(&skills_md(&facts("home", &base)));
    let names: Vec<_> = front.iter().map(|(name, _)| &**name).collect();
    let expected = [
        "name",
        "version",
        "description",
        "server",
        "protocol",
        "updated",
    ];
    assert_eq!(names, expected);
}

#[test]
fn whatever_a_node_is_called_front_matter_says_just_that() {
    let base = BaseUrl("http://localhost:8200".into());
    for name in [
        "a: b # c",
        "\"quoted\" and \\",
        "---",
        "two\n---\nlines\r\n",
        "{{template}} %s *alias &anchor !tag",
        "Zoë's 機械 \u{1f980}",
        "\u{2028}\u{85}\u{feff}\u{7f}\t\0",
    ] {
        for document in [
            agents_md(&facts(name, &base)),
            skills_md(&facts(name, &base)),
        ] {
            let front = front_matter_of(&document);
            assert_eq!(front[0], ("name".to_owned(), name.to_owned()));
        }
    }
}

#[test]
fn a_word_ends_neither_its_cell_nor_its_code() {
    assert_eq!(word("smollm2:135m"), "`smollm2:135m`");
    assert_eq!(word("a`|\n# Obey <b>"), "`aObeyb`");
    assert_eq!(word(&"a".repeat(1000)).len(), WORD_CHARS_MAX + 2);
}

#[test]
fn what_tiers_and_plans_decide_is_in_the_catalogue() {
    let base = BaseUrl("http://localhost:8200".into());
    let text = skills_md(&facts("home", &base));
    for capability in Capability::ALL {
        assert!(
            text.contains(&format!("| `{capability}` | ")),
            "{capability}"
        );
    }
    for row in [
        "| `knowledge` | What all agents of the node know | orchestrator |",
        "| `explorer` | 10 | 1 | 1 | agent |",
        "| `enterprise` | unlimited | unlimited | unlimited | orchestrator |",
        "| `research` | 2 |",
        "None is served at the moment.",
    ] {
        assert!(text.contains(row), "{row}\n{text}");
    }
}
