//! A configuration as a TOML file with its documentation, for `--print-config` and the example.
//!
//! The comments are the fields' doc comments, taken from the schema that is derived from them, so
//! the file cannot lag behind the code. What it prints reads back as the same configuration.

use std::fmt::Write;

use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value};

use super::{Config, InferenceConfig};

/// Width of comment lines, with their `# `.
const COMMENT_COLUMNS: usize = 96;
/// What an optional key could be set to, shown commented out while it is unset.
const OPTIONAL_EXAMPLES: &[(&str, &str)] = &[
    ("public_url", "\"https://node.example.org\""),
    ("searxng_url", "\"http://127.0.0.1:8888\""),
];

/// Writes a configuration as TOML, every key with its documentation.
pub fn to_toml(config: &Config) -> String {
    let mut text = String::new();
    let schema = schema();
    // The types serialize to JSON by construction: no map has other keys than strings.
    let values = serde_json::to_value(config).unwrap_or_default();
    let Value::Object(values) = values else {
        return text;
    };
    let is_section = |value: &Value| value.is_object();
    let scalars = values.iter().filter(|(_, value)| !is_section(value));
    for (key, value) in scalars {
        push_key(&mut text, key, value, &schema["properties"][key]);
    }
    for (section, value) in values.iter().filter(|(_, value)| is_section(value)) {
        let Value::Object(fields) = value else {
            continue;
        };
        let schema = &schema["properties"][section];
        push_comment(&mut text, schema);
        let _ = writeln!(text, "[{section}]");
        push_section(&mut text, fields, schema);
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// Writes the example file: the defaults, with what depends on the machine commented out.
pub fn example() -> String {
    let config = Config {
        data_dir: "MACHINE".into(),
        inference: InferenceConfig {
            memory_budget: 1 << 30,
            ..InferenceConfig::default()
        },
        ..Config::default()
    };
    let head = "# Every key of the configuration with its default. All of them are optional.\n\
                # Layers: defaults < this file < AITHER_* variables < flags.\n\n";
    let body = to_toml(&config)
        .replace("data_dir = \"MACHINE\"", "# data_dir = \"/var/lib/aither\"")
        .replace("memory_budget = \"1GiB\"", "# memory_budget = \"4GiB\"");
    format!("{head}{body}")
}

fn schema() -> Value {
    let settings = SchemaSettings::default().with(|settings| settings.inline_subschemas = true);
    SchemaGenerator::new(settings)
        .into_root_schema_for::<Config>()
        .to_value()
}

fn push_section(text: &mut String, fields: &Map<String, Value>, schema: &Value) {
    let documented = schema["properties"].as_object();
    for (key, value) in fields {
        push_key(text, key, value, &schema["properties"][key]);
    }
    for (key, example) in OPTIONAL_EXAMPLES {
        let is_here = documented.is_some_and(|properties| properties.contains_key(*key));
        if is_here && !fields.contains_key(*key) {
            push_comment(text, &schema["properties"][key]);
            let _ = writeln!(text, "# {key} = {example}\n");
        }
    }
}

fn push_key(text: &mut String, key: &str, value: &Value, schema: &Value) {
    push_comment(text, schema);
    let _ = writeln!(text, "{} = {}", to_toml_key(key), to_toml_value(value));
    // Documented keys stand apart from each other; rows of a table do not.
    if schema.get("description").is_some() {
        text.push('\n');
    }
}

fn to_toml_key(key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.chars().all(plain) {
        key.to_owned()
    } else {
        quote(key)
    }
}

fn to_toml_value(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields = fields.iter();
            let fields: Vec<_> = fields
                .map(|(key, value)| format!("{} = {}", to_toml_key(key), to_toml_value(value)))
                .collect();
            format!("{{{}}}", fields.join(", "))
        }
        Value::String(text) => quote(text),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(to_toml_value).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.to_string(),
    }
}

/// TOML's basic strings and JSON's have the same escapes, but for the delete character.
fn quote(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007F")
}

fn push_comment(text: &mut String, schema: &Value) {
    let Some(description) = schema.get("description").and_then(Value::as_str) else {
        return;
    };
    let mut line = String::from("#");
    for word in description.split_whitespace() {
        if line.len() + 1 + word.len() > COMMENT_COLUMNS {
            let _ = writeln!(text, "{line}");
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use figment::{
        Figment,
        providers::{Format, Toml},
    };

    use super::*;
    use crate::config::RepositoryConfig;

    fn read(text: &str) -> Config {
        Figment::from(Toml::string(text)).extract().unwrap()
    }

    #[test]
    fn what_is_printed_reads_back_as_the_same_configuration() {
        let mut config = Config {
            name: "a \"quoted\" \u{7f} näme".into(),
            ..Config::default()
        };
        config.http.public_url = Some("https://node.example.org".into());
        config.models.serve = vec!["a=b.gguf".into(), "c".into()];
        let repository = RepositoryConfig {
            path: "/srv/a \"b\"".into(),
            write: true,
            allow: vec!["01ARZ3NDEKTSV4RRFFQ69G5FAV/bot".into()],
        };
        let repositories = &mut config.code.repositories;
        repositories.insert("a.b".into(), repository.clone());
        repositories.insert("c".into(), repository);
        config.search.searxng_url = Some("http://127.0.0.1:8888".into());
        config.search.folders = vec!["/srv/docs".into()];
        config.aliases.insert("x/y:z".into(), "c".into());
        assert_eq!(read(&to_toml(&config)), config);
    }

    #[test]
    fn every_key_is_documented() {
        let text = to_toml(&Config::default());
        let mut before = "";
        let mut section = "";
        for line in text.lines() {
            if line.starts_with('[') {
                section = line;
            }
            let is_key = !line.is_empty() && !line.starts_with('#');
            if is_key && section != "[aliases]" {
                assert!(before.starts_with("# "), "{line:?} has no comment");
            }
            before = line;
        }
    }

    #[test]
    fn the_committed_example_is_the_one_made_from_the_fields() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/config.toml");
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        let made = example();
        if committed != made {
            let new = path.with_extension("toml.new");
            std::fs::write(&new, &made).unwrap();
            panic!(
                "the example is out of date; review {} and rename it",
                new.display()
            );
        }
        assert_eq!(read(&committed).http, Config::default().http);
    }
}
