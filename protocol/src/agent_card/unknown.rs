//! Fields of an `aither-agent.yaml` that no card has.
//!
//! They are allowed, since a later version may know them, and ignored: an author who has misspelt
//! one wants to hear of it. What there is to know is read off the schema, so a field that is added
//! to a card is known here too.

use std::{mem, sync::LazyLock};

use serde_json::Value;

use super::{
    FieldError,
    document::{Node, NodeValue},
    schema, yaml,
};
use crate::limits;

static SCHEMA: LazyLock<Value> = LazyLock::new(schema::spec_schema);

/// Longest name for which a like one is looked for.
const GUESSED_BYTES_MAX: usize = 64;
/// Most letters that a like name has otherwise.
const TYPOS_MAX: usize = 2;

/// Returns the fields of an `aither-agent.yaml` that are ignored, with the places of their values,
/// up to [`limits::FIELD_ERRORS_MAX`]. Of a text that is no document there are none: reading it
/// says what is wrong.
pub fn unknown_fields(text: &str) -> Vec<FieldError> {
    let mut found = Vec::new();
    if let Ok((root, _)) = yaml::read(text) {
        walk(&root, &SCHEMA, "", &mut found);
    }
    found.sort_by_key(|field| (field.line, field.column));
    found.truncate(limits::FIELD_ERRORS_MAX);
    found
}

/// As deep as the document, which is bounded.
fn walk(node: &Node<'_>, schema: &Value, path: &str, found: &mut Vec<FieldError>) {
    match (&node.value, schema.get("properties"), schema.get("items")) {
        (NodeValue::Object(fields), Some(Value::Object(known)), _) => {
            for (key, value) in fields {
                let path = match path {
                    "" => key.to_string(),
                    path => format!("{path}.{key}"),
                };
                if let Some(schema) = known.get(&**key) {
                    walk(value, schema, &path, found);
                } else if found.len() < limits::FIELD_ERRORS_MAX {
                    let message = match nearest(key, known.keys()) {
                        Some(like) => format!("is no known field; did you mean {like}?"),
                        None => "is no known field, and ignored".to_owned(),
                    };
                    found.push(FieldError::new(&path, message, value.at));
                }
            }
        }
        (NodeValue::List(entries), _, Some(schema)) => {
            for (index, entry) in entries.iter().enumerate() {
                walk(entry, schema, &format!("{path}[{index}]"), found);
            }
        }
        _ => {}
    }
}

fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a String>) -> Option<&'a str> {
    if word.len() > GUESSED_BYTES_MAX {
        return None;
    }
    // Of a short word two other letters make any other.
    let typos_max = TYPOS_MAX.min(word.chars().count() / 3);
    let near = known.map(|known| (distance(word, known), known.as_str()));
    let near = near.filter(|(typos, _)| *typos <= typos_max).min();
    near.map(|(_, known)| known)
}

/// Returns how many letters must be added, left out, or replaced to make one word the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, letter) in from.chars().enumerate() {
        let mut diagonal = mem::replace(&mut row[0], index + 1);
        for (at, other) in to.iter().enumerate() {
            let kept = diagonal + usize::from(letter != *other);
            diagonal = row[at + 1];
            row[at + 1] = kept.min(diagonal + 1).min(row[at] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown(text: &str) -> Vec<String> {
        let found = unknown_fields(text);
        found.iter().map(FieldError::to_string).collect()
    }

    #[test]
    fn a_misspelt_field_is_named_with_its_place_and_a_like_one() {
        let text = "name: bot\nresources:\n  ram_mim: 1GB\n  gpu: true\nskills:\n  - id: a\n    \
                    tag: [x]\n    colour: red\n";
        assert_eq!(
            unknown(text),
            [
                "line 3, column 12: resources.ram_mim: is no known field; did you mean ram_min?",
                "line 7, column 10: skills[0].tag: is no known field; did you mean tags?",
                "line 8, column 13: skills[0].colour: is no known field, and ignored",
            ]
        );
    }

    #[test]
    fn both_spellings_of_a_field_are_known() {
        let text = "capabilities: []\ncapabilities_requested: []\nhealth_endpoint: /up\n\
                    health: {endpoint: /up, interval: 30s}\n";
        assert!(unknown(text).is_empty());
    }

    #[test]
    fn what_is_no_document_or_no_object_has_no_fields() {
        for text in ["", "[", "- a", "7", "name: &a x", "runtime: [a]"] {
            assert!(unknown(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn no_more_are_named_than_errors_would_be_and_long_ones_are_not_compared() {
        let many: String = (0..1000).map(|n| format!("x{n}: 1\n")).collect();
        assert_eq!(unknown_fields(&many).len(), limits::FIELD_ERRORS_MAX);
        let long = format!("{}: 1\n", "name".repeat(100));
        assert!(unknown(&long)[0].ends_with("and ignored"));
    }

    #[test]
    fn letters_are_counted() {
        for (from, to, letters) in [
            ("", "", 0),
            ("a", "", 1),
            ("ram_mim", "ram_min", 1),
            ("endpoitns", "endpoints", 2),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(from, to), letters, "{from} {to}");
            assert_eq!(distance(to, from), letters, "{to} {from}");
        }
    }
}
