//! Tests of the documents through what the crate offers, in one binary.
//!
//! `card` and `yaml` say for each rule what breaks it and what is answered, `agreement` holds
//! validator, schema and both forms against each other on random documents, `golden` compares with
//! the files of `testdata`, and `signing` has the vectors of the canonical form and of signatures.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

mod agreement;
mod card;
mod golden;
mod schema;
mod signing;
mod yaml;

use aither_protocol::FieldError;
use serde_json::{Value, json};

/// The card that the platform's documentation shows, with every field of its own.
fn example() -> Value {
    json!({
        "name": "my-research-bot",
        "version": "1.0.0",
        "description": "AI research assistant",
        "skills": [{
            "id": "research",
            "name": "Research",
            "description": "Deep research on any topic",
            "tags": ["research", "analysis"],
            "examples": ["Research quantum computing trends"],
        }],
        "endpoints": [
            { "path": "/chat", "method": "POST", "description": "Chat" },
            { "path": "/health", "method": "GET", "description": "Health" },
        ],
        "capabilities_requested": ["llm_inference", "memory_read", "memory_write", "web_search"],
        "resources": { "model": "llama3.1:8b" },
        "billing": { "token_cost_per_request": 3, "category": "agent" },
        "health_endpoint": "/health",
        "self_hosted": true,
    })
}

/// A card in which every field is given.
fn full() -> Value {
    let mut card = example();
    let more = json!({
        "author": "Example Labs",
        "runtime": {
            "language": "python3.12", "entrypoint": "src/main.py", "dockerfile": "Dockerfile",
        },
        "resources": {
            "gpu": true, "vram_min": "4GB", "ram_min": "1GiB", "model": "mistral:7b",
            "max_concurrent": 8,
        },
        "health": { "interval": "90s" },
        "agent_url": "http://127.0.0.1:9000",
        "a2a": {
            "url": "https://agent.example/a2a/", "card_url": "https://agent.example/card.json",
        },
        "partial": true,
    });
    for (name, value) in more.as_object().unwrap() {
        card[name] = value.clone();
    }
    card["skills"][0]["endpoint"] = json!("/research");
    card
}

/// The errors as `field: message`.
fn lines(errors: &[FieldError]) -> Vec<String> {
    let lines = errors.iter();
    lines
        .map(|error| format!("{}: {}", error.field, error.message))
        .collect()
}
