//! The JSON Schemas of a card and of `aither-agent.yaml`, made from the types that hold them.
//!
//! What types cannot say is added here: that two fields have two spellings, and that `null` is as
//! good as nothing. The schemas are never stricter than the validator, so a document that an
//! editor marks as wrong is refused; the reverse needs rules that no schema has, as unique ids.

use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema};
use serde_json::{Map, Value, json};

use super::{AgentCard, Form, values};
use crate::{Capability, limits};

/// Returns the JSON Schema (2020-12) of the card that an agent onboards with.
pub fn card_schema() -> Value {
    schema(Form::Card)
}

/// Returns the JSON Schema (2020-12) of an `aither-agent.yaml`.
pub fn spec_schema() -> Value {
    schema(Form::Spec)
}

/// The list of capabilities, for [`AgentCard`]. Repeating one is harmless.
pub(super) fn capabilities(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": Capability::json_schema(generator),
        "maxItems": limits::CAPABILITIES_MAX,
    })
}

/// What a card says of health beside the endpoint, and a file with it, for [`super::Health`].
pub(super) fn health(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "properties": {
            "interval": {
                "description": "Time between two checks, from 1s to 24h.",
                "type": "string",
                "pattern": values::INTERVAL_PATTERN,
                "default": "30s",
            },
        },
    })
}

fn schema(form: Form) -> Value {
    let settings =
        SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut root = settings
        .into_generator()
        .into_root_schema_for::<AgentCard>();
    let (title, description) = match form {
        Form::Card => (
            "Agent card",
            "What an agent says of itself when it onboards.",
        ),
        Form::Spec => (
            "aither-agent.yaml",
            "What an agent is and needs, beside its code.",
        ),
    };
    root.insert("title".to_owned(), title.into());
    root.insert("description".to_owned(), description.into());
    let mut root = root.to_value();
    if let Some(object) = root.as_object_mut() {
        add_spellings(object);
        set_required(object, form);
    }
    adapt(&mut root);
    root
}

/// Gives the two fields that have two names the other one as well.
fn add_spellings(root: &mut Map<String, Value>) {
    let Some(Value::Object(properties)) = root.get_mut("properties") else {
        return;
    };
    let copied = properties.get("capabilities_requested").cloned();
    properties.insert("capabilities".to_owned(), copied.unwrap_or_default());
    let endpoint = properties.get("health_endpoint").cloned();
    if let Some(health) = properties.get_mut("health") {
        health["description"] = "How the agent is found healthy.".into();
        health["properties"]["endpoint"] = endpoint.unwrap_or_default();
    }
}

/// Says which fields must be there, and which under one name or the other.
fn set_required(root: &mut Map<String, Value>, form: Form) {
    let mut required: Vec<&str> = vec!["name", "version", "description", "endpoints", "billing"];
    if form == Form::Spec {
        required.extend(["author", "runtime"]);
    }
    root.insert("required".to_owned(), json!(required));
    let present = |name: &str| {
        let mut fields = Map::new();
        fields.insert(name.to_owned(), json!({ "not": { "type": "null" } }));
        json!({ "properties": fields, "required": [name] })
    };
    let nested = json!({
        "properties": { "health": present("endpoint") },
        "required": ["health"],
    });
    let either = [
        json!({ "anyOf": [present("capabilities_requested"), present("capabilities")] }),
        json!({ "anyOf": [present("health_endpoint"), nested] }),
    ];
    root.insert("allOf".to_owned(), json!(either));
}

/// Lets every field that may be missing be null, and drops the formats that only Rust knows.
/// Subschemas are inlined, so this sees them all.
fn adapt(schema: &mut Value) {
    let required = schema.get("required").cloned().unwrap_or_default();
    let is_required = |name: &str| {
        let names = required.as_array();
        names.is_some_and(|names| names.iter().any(|required| required == name))
    };
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        for (name, property) in properties {
            adapt(property);
            if !is_required(name) {
                add_null(property);
            }
            if let Some(property) = property.as_object_mut() {
                property.retain(|key, value| key != "format" || value == "uri");
            }
        }
    }
    if let Some(items) = schema.get_mut("items") {
        adapt(items);
    }
}

fn add_null(property: &mut Value) {
    match property.get_mut("type") {
        Some(Value::Array(types)) if !types.contains(&json!("null")) => types.push("null".into()),
        Some(kind @ Value::String(_)) => *kind = json!([kind.clone(), "null"]),
        _ => {}
    }
    if let Some(Value::Array(words)) = property.get_mut("enum")
        && !words.contains(&Value::Null)
    {
        words.push(Value::Null);
    }
}
