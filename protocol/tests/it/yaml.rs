//! `aither-agent.yaml`: the same rules with positions, and what YAML itself must not do.

use std::time::{Duration, Instant};

use aither_protocol::{AgentCard, FieldError, Tier, limits};
use serde_json::json;

use crate::{full, lines};

const SPEC: &str = "\
# An agent.
name: my-research-bot
version: 1.0.0
description: |
  AI research assistant
author: Example Labs
runtime:
  language: python3.12
  entrypoint: src/main.py
capabilities:
  - llm_inference
  - memory_read
resources:
  gpu: false
  vram_min: \"4GB\"
  max_concurrent: 0x10
billing: {token_cost_per_request: 3, category: agent}
health:
  endpoint: /health
  interval: 1m
endpoints:
  - path: /chat
    method: POST
    description: no
";

/// Reads the document and shows its errors with their positions.
fn errors(text: &str) -> Vec<String> {
    let errors = AgentCard::from_yaml(text).err().unwrap_or_default();
    errors.iter().map(FieldError::to_string).collect()
}

/// Returns the errors of the document with a part replaced.
fn errors_with(part: &str, other: &str) -> Vec<String> {
    assert!(SPEC.contains(part), "{part}");
    errors(&SPEC.replacen(part, other, 1))
}

#[test]
fn file_of_an_agent_is_read() {
    let card = AgentCard::from_yaml(SPEC).unwrap();
    assert_eq!(card.author.as_deref(), Some("Example Labs"));
    assert_eq!(card.description, "AI research assistant\n");
    assert_eq!(card.resources.max_concurrent, 16);
    assert_eq!(card.billing.category, Tier::Agent);
    assert_eq!(card.health.interval, Duration::from_secs(60));
    // YAML 1.2: a text, not a flag.
    assert_eq!(card.endpoints[0].description, "no");
    assert_eq!(AgentCard::from_json(&card.to_json()), Ok(card));
}

#[test]
fn spellings_of_the_card_are_understood() {
    let text = SPEC
        .replace("capabilities:", "capabilities_requested:")
        .replace("  endpoint: /health\n", "")
        + "health_endpoint: /health\n";
    assert_eq!(AgentCard::from_yaml(&text), AgentCard::from_yaml(SPEC));
    // JSON is YAML.
    let card = AgentCard::from_json(&full());
    assert_eq!(AgentCard::from_yaml(&full().to_string()), card);
    let pretty = serde_json::to_string_pretty(&full()).unwrap();
    assert_eq!(AgentCard::from_yaml(&format!("\u{feff}{pretty}")), card);
}

#[test]
fn errors_have_line_and_column() {
    let text = "\
name: My Bot
version: 1.0
description: >
  text
runtime: {language: rust, entrypoint: main.py}
capabilities: [llm_inference,   fly]
skills:
- id: a
  name: A
  tags:
    - é: x
    - 'b\tc'
billing:
  token_cost_per_request: 3.5
health: {interval: 1d}
endpoints: []
";
    let expected = [
        "line 1, column 1: author: is required",
        "line 1, column 7: name: must be 1 to 64 lowercase letters, digits and hyphens, with a \
         letter or digit at either end",
        "line 2, column 10: version: must be a string",
        "line 5, column 21: runtime.language: must be one of python3.11, python3.12, node20, \
         node22",
        "line 8, column 3: skills[0].description: is required",
        "line 11, column 7: skills[0].tags[0]: must be a string",
        "line 12, column 7: skills[0].tags[1]: must be one line without control characters",
        "line 14, column 3: billing.category: is required",
        "line 14, column 27: billing.token_cost_per_request: must be a whole number from 1 to 50",
        "line 15, column 9: health.endpoint: is required",
        "line 15, column 20: health.interval: must be a time from 1s to 24h, as 30s, 5m or 1h",
    ];
    let mut found = errors(text);
    let words = found.remove(4);
    let start = "line 6, column 33: capabilities[1]: must be one of llm_inference, ";
    assert!(words.starts_with(start), "{words}");
    assert_eq!(found, expected);
}

#[test]
fn columns_count_characters() {
    let found = errors_with("runtime:\n", "\"é日\": 1\nruntime: # é\n");
    assert_eq!(found, [""; 0]);
    let found = errors_with("{token_cost", "{\"é日\": 1, token_cost_per_request: 0, x");
    let message = "billing.token_cost_per_request: must be a whole number from 1 to 50";
    assert_eq!(found, [format!("line 17, column 44: {message}")]);
}

#[test]
fn author_and_runtime_are_required() {
    let text = SPEC
        .replace("author: Example Labs\n", "")
        .replace("  language: python3.12\n  entrypoint: src/main.py\n", "");
    let expected = [
        "line 2, column 1: author: is required",
        "line 2, column 1: runtime: is required",
    ];
    assert_eq!(errors(&text), expected);
}

#[test]
fn what_is_missing_is_named_as_a_file_names_it() {
    let found = AgentCard::from_yaml("author: me\n").unwrap_err();
    let expected = [
        "name",
        "version",
        "description",
        "runtime",
        "endpoints",
        "capabilities",
        "billing",
        "health.endpoint",
    ];
    assert_eq!(
        lines(&found),
        expected.map(|field| format!("{field}: is required"))
    );
    for empty in ["", "# nothing\n", "---\n", "--- ~\n"] {
        assert!(errors(empty)[0].ends_with("must be an object"), "{empty:?}");
    }
}

#[test]
fn scalars_follow_yaml_1_2() {
    for text in [
        "no", "yes", "on", "off", "y", "1_000", "0b1", "1:30", "inf", "nan", "1.0.0", "-",
    ] {
        let found = errors_with("Example Labs", text);
        if text == "-" {
            assert!(!found.is_empty());
        } else {
            assert_eq!(found, [""; 0], "{text}");
        }
    }
    let texts_only = "line 6, column 9: author: must be a string";
    for value in [
        "1", "-1", "+1", "0x1f", "0o17", "1.5", ".5", "1e3", ".inf", "-.inf", ".nan", "true",
        "TRUE",
    ] {
        assert_eq!(errors_with("Example Labs", value), [texts_only], "{value}");
    }
    for null in ["", "~", "null", "Null"] {
        assert_eq!(
            errors_with("Example Labs", null),
            ["line 2, column 1: author: is required"]
        );
    }
    for flag in ["true", "True", "FALSE"] {
        assert_eq!(errors_with("gpu: false", &format!("gpu: {flag}")), [""; 0]);
    }
    for text in ["yes", "'true'", "1"] {
        let found = errors_with("gpu: false", &format!("gpu: {text}"));
        assert_eq!(
            found,
            ["line 14, column 8: resources.gpu: must be true or false"]
        );
    }
    for whole in ["3", "+3", "0o3", "3.0", "3e0"] {
        assert_eq!(
            errors_with("request: 3", &format!("request: {whole}")),
            [""; 0],
            "{whole}"
        );
    }
    for other in [
        "-3",
        "'3'",
        "3.1",
        "99999999999999999999999",
        "0xfffffffffffffffffff",
    ] {
        let found = errors_with("request: 3", &format!("request: {other}"));
        assert_eq!(found.len(), 1, "{other}: {found:?}");
    }
}

#[test]
fn keys_are_given_once() {
    let found = errors_with("author: Example Labs\n", "author: A\nauthor: B\n");
    assert_eq!(found, ["line 7, column 1: author: must be given only once"]);
    let found = errors_with("  gpu: false\n", "  gpu: false\n  \"gpu\": true\n");
    assert_eq!(
        found,
        ["line 15, column 3: resources.gpu: must be given only once"]
    );
}

#[test]
fn anchors_aliases_tags_and_merge_keys_are_refused_one_by_one() {
    let text = "\
name: &name bot
version: *name
description: !!str 1
author: !secret x
runtime: &r {language: rust}
capabilities: []
resources:
  <<: {gpu: true}
  <<: *r
billing: {token_cost_per_request: 1, category: agent, ? [a, *r] : 2, *name : 3}
health: {endpoint: /health}
endpoints: []
";
    let anchor = "must not have an anchor; write the value out where it is used";
    let alias = "must not be an alias; write the value out";
    let tag = "must not have a type tag; quote what is to be a string";
    let merge = "must not use merge keys; write the fields out";
    let expected = [
        format!("line 1, column 7: name: {anchor}"),
        format!("line 2, column 10: version: {alias}"),
        format!("line 3, column 14: description: {tag}"),
        format!("line 4, column 9: author: {tag}"),
        format!("line 5, column 10: runtime: {anchor}"),
        format!("line 8, column 3: resources: {merge}"),
        format!("line 9, column 3: resources: {merge}"),
        format!("line 9, column 7: resources.?: {alias}"),
        "line 10, column 57: billing: must have strings as keys".to_owned(),
        format!("line 10, column 70: billing: {alias}"),
    ];
    assert_eq!(errors(text), expected);
}

#[test]
fn broken_documents_say_where() {
    let rows = [
        ("name: [a\nversion: 1", 2),
        ("name: \"a", 1),
        ("a: b: c", 1),
        ("name: a\nbad\n", 3),
        ("- a\nname: a", 2),
        ("@", 1),
        ("name: *unknown", 1),
        ("a: [1,\n  2}]", 2),
    ];
    for (text, line) in rows {
        let found = AgentCard::from_yaml(text).unwrap_err();
        assert_eq!(found.len(), 1, "{text:?}: {found:?}");
        assert!(
            found[0].message.starts_with("is not valid YAML: "),
            "{text:?}: {found:?}"
        );
        assert_eq!(found[0].line, Some(line), "{text:?}: {found:?}");
    }
    let found = errors(&format!("{SPEC}---\nname: second\n"));
    let message = "must be one document; remove what follows the second ---";
    assert_eq!(found, [format!("line 25, column 1: {message}")]);
    assert_eq!(errors(&format!("---\n{SPEC}...\n")), [""; 0]);
}

/// Reads a hostile document, which must be refused, and soon.
fn bomb(text: &str) -> Vec<String> {
    let start = Instant::now();
    let found = errors(text);
    let elapsed = start.elapsed();
    assert!(elapsed < Duration::from_secs(2), "{elapsed:?}");
    assert!(!found.is_empty() && found.len() <= limits::FIELD_ERRORS_MAX);
    found
}

#[test]
fn bombs_do_not_go_off() {
    let mut laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for n in 1..30 {
        let before = vec![format!("*a{}", n - 1); 9].join(", ");
        laughs += &format!("a{n}: &a{n} [{before}]\n");
    }
    assert!(
        bomb(&laughs)
            .iter()
            .any(|line| line.contains("must not be an alias"))
    );
    for open in ["[", "{a: ", "- ", "? ", "[{", "{? "] {
        let deep = bomb(&open.repeat(10_000));
        // The parser has a limit of its own for what it must look ahead over.
        let limits = ["must be nested at most 32 deep", "recursion limit exceeded"];
        let limited = limits.iter().any(|limit| deep[0].ends_with(limit));
        assert!(limited, "{open} {deep:?}");
    }
    let lines: String = (0..300).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
    assert!(bomb(&lines)[0].contains("must be nested at most 32 deep"));
    let large = format!("{SPEC}# {}", "x".repeat(10 << 20));
    assert_eq!(
        bomb(&large),
        ["line 1, column 1: must be at most 65536 bytes"]
    );
    let room = limits::CARD_BYTES_MAX;
    for part in [
        "a: 1\n",
        "? a\n",
        "- &a *a\n",
        "x",
        " ",
        "\n",
        "'",
        "\"\\u",
        "#",
        "a,",
        "!a ",
        "|\n",
        "%T a\n",
    ] {
        bomb(&part.repeat(room / part.len()));
        bomb(&format!("[{}", part.repeat((room - 1) / part.len())));
    }
}

#[test]
fn long_keys_are_cut_in_paths() {
    let key = "k\u{1}".repeat(100);
    let text = format!("{}: 1\n{}: 2\n", json!(key), json!(key));
    let found = AgentCard::from_yaml(&text).unwrap_err();
    let twice = found
        .iter()
        .find(|error| error.message == "must be given only once");
    let path = &twice.unwrap().field;
    assert!(path.len() < 400 && path.starts_with("k\\u{1}k"), "{path}");
}
