//! Chat templates against transformers: every template in `testdata/chat_template`, on the
//! conversations recorded beside it by `scripts/make-text-references.py chat`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use aither_inference::{ChatMessage, ChatTemplate, Error, Tokenizer, gguf::Gguf};
use serde_json::Value;

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata")
}

fn check(name: &str) {
    let folder = testdata().join("chat_template");
    let recorded = fs::read_to_string(folder.join(format!("{name}.json"))).unwrap();
    let recorded: Value = serde_json::from_str(&recorded).unwrap();
    let source = fs::read_to_string(folder.join(format!("{name}.jinja"))).unwrap();
    let text = |key: &str| recorded[key].as_str().unwrap().to_owned();
    let template = ChatTemplate::compile(&source, text("bos"), text("eos")).unwrap();
    let conversations = recorded["conversations"].as_array().unwrap();
    assert!(conversations.len() >= 20);
    for row in conversations {
        let messages: Vec<ChatMessage> = serde_json::from_value(row["messages"].clone()).unwrap();
        let add_generation_prompt = row["add_generation_prompt"].as_bool().unwrap();
        let rendered = template.render(&messages, add_generation_prompt);
        let conversation = &row["name"];
        match (row["text"].as_str(), rendered) {
            (Some(expected), Ok(found)) => assert_eq!(found, expected, "{name}, {conversation}"),
            (None, Err(Error::ChatTemplate { message })) => {
                // Only what the template itself raises has the same words everywhere.
                if let Some(expected) = row["error"].as_str() {
                    assert_eq!(message, expected, "{name}, {conversation}");
                }
            }
            (expected, found) => panic!("{name}, {conversation}: {found:?}, not {expected:?}"),
        }
    }
}

#[test]
fn smollm2_renders_as_transformers() {
    check("smollm2");
}

#[test]
fn llama_style_renders_as_transformers() {
    check("headers");
}

#[test]
fn mistral_style_renders_as_transformers_and_refuses_a_wrong_order() {
    check("instructions");
}

#[test]
fn qwen_style_renders_as_transformers() {
    check("turns");
}

#[test]
fn gemma_style_renders_as_transformers_and_refuses_a_wrong_order() {
    check("folded");
}

#[test]
fn blocks_filters_and_python_methods_render_as_transformers() {
    check("blocks");
}

#[test]
fn every_recorded_template_has_a_test() {
    let files = fs::read_dir(testdata().join("chat_template")).unwrap();
    let mut names: Vec<String> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".jinja"))
        .collect();
    names.sort();
    let tested = [
        "blocks",
        "folded",
        "headers",
        "instructions",
        "smollm2",
        "turns",
    ];
    assert_eq!(names, tested.map(|name| format!("{name}.jinja")));
}

#[test]
fn template_of_a_model_file_is_found() {
    let gguf = Gguf::open(&testdata().join("tokenizer/smollm2.gguf")).unwrap();
    let tokenizer = Tokenizer::from_gguf(gguf.metadata()).unwrap();
    let template = ChatTemplate::from_gguf(gguf.metadata(), &tokenizer)
        .unwrap()
        .unwrap();
    let message = ChatMessage {
        role: "user".into(),
        content: "Hi".into(),
    };
    let prompt = template.render(&[message], true).unwrap();
    assert!(prompt.ends_with("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"));
}
