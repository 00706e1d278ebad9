//! Checks documents against the part of JSON Schema 2020-12 that our schemas use.
//!
//! A keyword that it does not know ends the test, so that none passes unchecked. The validators
//! that are published bring a licence that this repository does not take.

use std::collections::HashMap;

use regex::Regex;
use serde_json::Value;

/// A schema with its patterns compiled.
pub(crate) struct Schema {
    root: Value,
    patterns: HashMap<String, Regex>,
}

impl Schema {
    pub(crate) fn new(root: Value) -> Self {
        let mut patterns = HashMap::new();
        compile(&root, &mut patterns);
        Self { root, patterns }
    }

    pub(crate) fn is_valid(&self, document: &Value) -> bool {
        self.validate(document).is_ok()
    }

    /// Returns what breaks the schema, if anything.
    pub(crate) fn validate(&self, document: &Value) -> Result<(), String> {
        self.check(&self.root, document)
    }

    fn check(&self, schema: &Value, value: &Value) -> Result<(), String> {
        let keywords = schema.as_object().expect("a schema is an object");
        for (keyword, rule) in keywords {
            if !self.keyword(keyword, rule, value) {
                return Err(format!("{keyword} {rule} of {value}"));
            }
        }
        Ok(())
    }

    fn keyword(&self, keyword: &str, rule: &Value, value: &Value) -> bool {
        let valid = |schema: &Value| self.check(schema, value).is_ok();
        let schemas = || rule.as_array().unwrap().iter();
        let text = value.as_str();
        let chars = text.map(|text| text.chars().count() as u64);
        let number = value.as_f64();
        match keyword {
            "$schema" | "title" | "description" | "default" | "format" => true,
            "type" => match rule {
                Value::Array(types) => types.iter().any(|name| is_of_type(name, value)),
                name => is_of_type(name, value),
            },
            "const" => value == rule,
            "enum" => schemas().any(|word| word == value),
            "not" => !valid(rule),
            "allOf" => schemas().all(valid),
            "anyOf" => schemas().any(valid),
            "oneOf" => schemas().filter(|schema| valid(schema)).count() == 1,
            "pattern" => {
                text.is_none_or(|text| self.patterns[rule.as_str().unwrap()].is_match(text))
            }
            "minLength" => chars.is_none_or(|chars| chars >= rule.as_u64().unwrap()),
            "maxLength" => chars.is_none_or(|chars| chars <= rule.as_u64().unwrap()),
            "minimum" => number.is_none_or(|number| number >= rule.as_f64().unwrap()),
            "maximum" => number.is_none_or(|number| number <= rule.as_f64().unwrap()),
            "maxItems" => {
                let items = value.as_array();
                items.is_none_or(|items| items.len() as u64 <= rule.as_u64().unwrap())
            }
            "items" => {
                let mut items = value.as_array().into_iter().flatten();
                items.all(|item| self.check(rule, item).is_ok())
            }
            "required" => value.as_object().is_none_or(|fields| {
                schemas().all(|name| fields.contains_key(name.as_str().unwrap()))
            }),
            "properties" => rule.as_object().unwrap().iter().all(|(name, schema)| {
                let field = value.as_object().and_then(|fields| fields.get(name));
                field.is_none_or(|field| self.check(schema, field).is_ok())
            }),
            other => panic!("the keyword {other} is not known here"),
        }
    }
}

fn is_of_type(name: &Value, value: &Value) -> bool {
    match name.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        other => panic!("the type {other} is not known here"),
    }
}

/// Compiles every pattern at or below a schema. What only looks like one, as a field of that name,
/// is no text.
fn compile(schema: &Value, patterns: &mut HashMap<String, Regex>) {
    match schema {
        Value::Object(keywords) => {
            if let Some(Value::String(pattern)) = keywords.get("pattern") {
                let compiled = || Regex::new(pattern).unwrap();
                patterns.entry(pattern.clone()).or_insert_with(compiled);
            }
            keywords.values().for_each(|below| compile(below, patterns));
        }
        Value::Array(schemas) => schemas.iter().for_each(|below| compile(below, patterns)),
        _ => {}
    }
}
