//! Validator, schemas and the two forms of a card say the same of random documents.
//!
//! A document is a right card with a few changes, so that most of it is right and each rule is
//! met by itself. The schema may be more lenient, never stricter.

use std::sync::LazyLock;

use aither_protocol::{AgentCard, FieldError, card_schema, limits, spec_schema};
use proptest::{collection::vec, prelude::*, sample::Index};
use serde_json::{Value, json};

use crate::{example, full, schema::Schema};

static CARD: LazyLock<Schema> = LazyLock::new(|| Schema::new(card_schema()));
static SPEC: LazyLock<Schema> = LazyLock::new(|| Schema::new(spec_schema()));

#[derive(Debug, Clone)]
enum Change {
    Replace(Value),
    Remove,
    /// Another entry of a list, or a field of an object.
    Add(String, Value),
}

/// Texts at the borders of the rules, and any.
fn text() -> impl Strategy<Value = String> {
    let borders = [
        "",
        " ",
        "a",
        "A",
        "-a",
        "a-",
        "a\n",
        "a\tb",
        "\u{202e}",
        "é",
        "/",
        "//a",
        "/..",
        "/a/./b",
        "/%2e",
        "/a?b",
        "/a b",
        "/{id}",
        "../a",
        "./a",
        "a/",
        "C:a",
        "1.0.0",
        "01.0.0",
        "1.0.0-01",
        "512MB",
        "1 GB",
        "1001TB",
        "4gb",
        "30s",
        "0s",
        "25h",
        "99999m",
        "http://x",
        "https://x/a/",
        "ftp://x",
        "http://u@x",
        "http://x?q",
        "HTTP://x",
        "http:x",
        "GET",
        "get",
        "agent",
        "node20",
        "llm_inference",
        "event_emit",
    ];
    prop_oneof![
        6 => prop::sample::select(borders.to_vec()).prop_map(str::to_owned),
        1 => "[ -~]{0,12}",
        1 => "[é日👩\u{85}\u{2028}/.a-]{0,8}",
        1 => (0..5000usize).prop_map(|length| "x".repeat(length)),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        5 => text().prop_map(Value::from),
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        2 => (-2..60i64).prop_map(Value::from),
        1 => any::<u64>().prop_map(Value::from),
        1 => prop_oneof![Just(3.0), Just(2.5), Just(1e300), Just(-0.0)].prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((key(), inner), 0..4).prop_map(|fields| fields.into_iter().collect()),
        ]
    })
}

fn key() -> impl Strategy<Value = String> {
    let known = [
        "name",
        "id",
        "path",
        "method",
        "url",
        "endpoint",
        "interval",
        "health",
        "capabilities",
        "health_endpoint",
        "description",
        "tags",
        "gpu",
        "skills",
        "other",
    ];
    prop::sample::select(known.to_vec()).prop_map(str::to_owned)
}

fn changes() -> impl Strategy<Value = Vec<(Index, Change)>> {
    let change = prop_oneof![
        4 => value().prop_map(Change::Replace),
        1 => Just(Change::Remove),
        1 => (key(), value()).prop_map(|(key, value)| Change::Add(key, value)),
    ];
    vec((any::<Index>(), change), 1..4)
}

fn pointers(value: &Value, at: String, found: &mut Vec<String>) {
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                pointers(item, format!("{at}/{index}"), found);
            }
        }
        Value::Object(fields) => {
            for (key, field) in fields {
                pointers(field, format!("{at}/{key}"), found);
            }
        }
        _ => {}
    }
    found.push(at);
}

fn change(card: &mut Value, at: Index, change: Change) {
    let mut found = Vec::new();
    pointers(card, String::new(), &mut found);
    let pointer = at.get(&found);
    match change {
        Change::Replace(value) => *card.pointer_mut(pointer).unwrap() = value,
        Change::Remove => {
            let (parent, last) = pointer.rsplit_once('/').unwrap_or(("", ""));
            match card.pointer_mut(parent).unwrap() {
                Value::Array(items) => drop(items.pop()),
                Value::Object(fields) => drop(fields.shift_remove(last)),
                _ => {}
            }
        }
        Change::Add(key, value) => match card.pointer_mut(pointer).unwrap() {
            Value::Array(items) => items.push(value),
            Value::Object(fields) => drop(fields.insert(key, value)),
            other => *other = value,
        },
    }
}

/// What both forms must say the same of: all but what only a file must have, and how it names it.
fn comparable(errors: &[FieldError]) -> Vec<(String, String)> {
    let of_form = |error: &&FieldError| {
        let own = ["author", "runtime", "capabilities", "health"];
        let own = own.iter().any(|name| error.field.starts_with(name));
        !(own && error.message == "is required")
    };
    let mut found: Vec<_> = errors
        .iter()
        .filter(of_form)
        .map(|error| (error.field.clone(), error.message.clone()))
        .collect();
    found.sort();
    found
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4000,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn what_the_schema_refuses_the_validator_refuses(changes in changes()) {
        let mut card = full();
        for (at, what) in changes {
            change(&mut card, at, what);
        }
        let read = AgentCard::from_json(&card);
        match &read {
            Ok(read) => {
                prop_assert_eq!(CARD.validate(&card), Ok(()), "{}", card);
                let written = read.to_json();
                prop_assert!(CARD.is_valid(&written), "{written}");
                prop_assert_eq!(&AgentCard::from_json(&written), &Ok(read.clone()));
            }
            Err(errors) => {
                prop_assert!(!errors.is_empty() && errors.len() <= limits::FIELD_ERRORS_MAX);
                prop_assert!(errors.iter().all(|error| error.line.is_none()));
            }
        }

        // JSON is YAML, and a file is a card that says more.
        let of_file = AgentCard::from_yaml(&card.to_string());
        if of_file.is_ok() {
            prop_assert!(SPEC.is_valid(&card), "{card}");
        }
        let errors = |read: &Result<AgentCard, Vec<FieldError>>| {
            comparable(read.as_ref().err().map_or(&[], |errors| errors))
        };
        prop_assert_eq!(errors(&of_file), errors(&read));
        if let (Ok(one), Ok(other)) = (&read, &of_file) {
            prop_assert_eq!(one, other);
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "[ -~\n\té\u{85}\u{feff}]{0,200}") {
        let errors = AgentCard::from_yaml(&text).unwrap_err();
        prop_assert!(errors.iter().all(|error| error.line >= Some(1) && error.column >= Some(1)));
    }

    #[test]
    fn pieces_of_yaml_do_not_make_the_reader_panic(pieces in vec(prop::sample::select(&[
        "name", ": ", "- ", "\n", "  ", "[", "]", "{", "}", ", ", "&a ", "*a", "!!str ", "? ", "|",
        ">", "---\n", "...\n", "%YAML 1.2\n", "'", "\"", "<<", "#", "~", "\\", "@", "é", "\t", "\r",
    ][..]), 0..60)) {
        prop_assert!(AgentCard::from_yaml(&pieces.concat()).is_err());
    }
}

#[test]
fn right_cards_are_right_by_their_schemas() {
    assert!(CARD.is_valid(&example()) && CARD.is_valid(&full()) && SPEC.is_valid(&full()));
    assert!(!SPEC.is_valid(&example()));
}

#[test]
fn schema_knows_the_rules_and_not_only_the_types() {
    let rows = [
        ("/name", json!("A")),
        ("/version", json!("1.0")),
        ("/description", json!("")),
        ("/description", json!("x".repeat(5000))),
        ("/author", json!("a\u{1}")),
        ("/runtime/entrypoint", json!("../a")),
        ("/runtime/language", json!("rust")),
        ("/skills/0/id", json!("a b")),
        ("/skills/0/tags", json!(vec!["a"; 33])),
        ("/skills/0/tags/0", json!("")),
        ("/endpoints/0/path", json!("/a/../b")),
        ("/endpoints/0/path", json!("//a")),
        ("/endpoints/0/method", json!("HEAD")),
        ("/capabilities_requested", json!(["fly"])),
        ("/capabilities_requested", Value::Null),
        ("/resources/ram_min", json!("4")),
        ("/resources/max_concurrent", json!(0)),
        ("/billing/token_cost_per_request", json!(51)),
        ("/billing/category", json!("boss")),
        ("/health_endpoint", Value::Null),
        ("/health/interval", json!("30")),
        ("/agent_url", json!("ftp://x")),
        ("/a2a/url", Value::Null),
    ];
    for (pointer, wrong) in rows {
        let mut card = full();
        *card.pointer_mut(pointer).unwrap() = wrong.clone();
        assert!(!CARD.is_valid(&card), "{pointer} {wrong}");
        assert!(!SPEC.is_valid(&card), "{pointer} {wrong}");
    }
}
