//! The tokenizer against llama.cpp: 2 000 texts under each pre-tokenizer, special pieces on and
//! off, and what follows from it (decoding, streaming, long input).
//!
//! The references and the vocabulary come from `scripts/make-text-references.py tokenizer`. The
//! vocabulary is SmolLM2's for all pre-tokenizers: only the rule for words differs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use aither_inference::{Error, Tokenizer, gguf::Gguf};
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/tokenizer")
}

/// Builds the tokenizer of the recorded vocabulary under another rule for words.
fn tokenizer(pre_tokenizer: &str) -> Tokenizer {
    let bytes = with_pre_tokenizer(pre_tokenizer);
    Tokenizer::from_gguf(Gguf::parse(&bytes).unwrap().metadata()).unwrap()
}

/// Returns the recorded file with that string in it: the metadata have no setters.
fn with_pre_tokenizer(pre_tokenizer: &str) -> Vec<u8> {
    let mut bytes = fs::read(folder().join("smollm2.gguf")).unwrap();
    let value = end_of(&bytes, b"tokenizer.ggml.pre") + 4;
    let len = u64::from_le_bytes(bytes[value..value + 8].try_into().unwrap()) as usize;
    let mut string = (pre_tokenizer.len() as u64).to_le_bytes().to_vec();
    string.extend_from_slice(pre_tokenizer.as_bytes());
    bytes.splice(value..value + 8 + len, string);
    bytes
}

/// Returns where a key ends; four bytes of its value's type follow.
fn end_of(bytes: &[u8], key: &[u8]) -> usize {
    let windows = &mut bytes.windows(key.len());
    windows.position(|window| window == key).unwrap() + key.len()
}

fn references() -> Value {
    let text = fs::read_to_string(folder().join("references.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().unwrap().iter();
    ids.map(|id| u32::try_from(id.as_u64().unwrap()).unwrap())
        .collect()
}

fn texts(references: &Value) -> Vec<&str> {
    let texts = references["texts"].as_array().unwrap().iter();
    texts.map(|text| text.as_str().unwrap()).collect()
}

/// Returns the rows of `base` with those that the reference lists as different put in.
fn changed(base: &[Vec<u32>], differences: &Value) -> Vec<Vec<u32>> {
    let mut rows = base.to_vec();
    for difference in differences.as_array().unwrap() {
        rows[difference[0].as_u64().unwrap() as usize] = ids(&difference[1]);
    }
    rows
}

fn check(pre_tokenizer: &str) {
    let references = references();
    let texts = texts(&references);
    assert_eq!(texts.len(), 2000);
    let rows = references["smollm plain"].as_array().unwrap().iter();
    let mut plain: Vec<Vec<u32>> = rows.map(ids).collect();
    if pre_tokenizer != "smollm" {
        plain = changed(&plain, &references[format!("{pre_tokenizer} plain")]);
    }
    let special = changed(&plain, &references[format!("{pre_tokenizer} special")]);
    let tokenizer = tokenizer(pre_tokenizer);
    let mut wrong = Vec::new();
    for (parse_special, expected) in [(false, plain), (true, special)] {
        for (text, expected) in texts.iter().zip(expected) {
            let found = tokenizer.encode(text, parse_special, false).unwrap();
            if found != expected {
                wrong.push(format!(
                    "{text:?} {parse_special}: {found:?}, expected {expected:?}"
                ));
            }
        }
    }
    let shown = wrong
        .iter()
        .take(10)
        .cloned()
        .collect::<Vec<_>>()
        .join("\n");
    assert!(
        wrong.is_empty(),
        "{pre_tokenizer}: {} texts differ\n{shown}",
        wrong.len()
    );
}

#[test]
fn smollm_encodes_as_llama_cpp() {
    check("smollm");
}

#[test]
fn llama_bpe_encodes_as_llama_cpp() {
    check("llama-bpe");
}

#[test]
fn qwen2_encodes_as_llama_cpp() {
    check("qwen2");
}

#[test]
fn gpt_2_encodes_as_llama_cpp() {
    check("gpt-2");
}

#[test]
fn unnamed_pre_tokenizer_encodes_as_llama_cpp() {
    check("default");
}

#[test]
fn end_of_generation_ids_are_those_of_llama_cpp() {
    let expected = ids(&references()["end_of_generation"]);
    let found: Vec<u32> = tokenizer("smollm").end_of_generation_ids().collect();
    assert_eq!(found, expected);
}

#[test]
fn decoding_restores_every_text_but_for_bytes_without_a_piece() {
    let tokenizer = tokenizer("smollm");
    let pieces = (0..tokenizer.vocabulary_size() as u32).filter_map(|id| tokenizer.piece(id));
    let bytes: HashSet<u8> = pieces
        .filter(|piece| piece.len() == 1)
        .map(|piece| piece[0])
        .collect();
    for text in texts(&references()) {
        let kept: Vec<u8> = text.bytes().filter(|byte| bytes.contains(byte)).collect();
        for parse_special in [false, true] {
            let ids = tokenizer.encode(text, parse_special, false).unwrap();
            assert_eq!(tokenizer.decode(&ids, true), String::from_utf8_lossy(&kept));
        }
    }
}

#[test]
fn streamed_pieces_are_the_text_and_never_half_a_character() {
    let tokenizer = tokenizer("smollm");
    for text in texts(&references()) {
        let ids = tokenizer.encode(text, true, false).unwrap();
        let whole = tokenizer.decode(&ids, false);
        let mut stream = tokenizer.stream();
        let mut streamed = String::new();
        for id in ids.iter().copied() {
            let piece = stream.push(id);
            assert!(
                !piece.contains('\u{FFFD}') || text.contains('\u{FFFD}'),
                "{text:?}"
            );
            streamed += &piece;
        }
        streamed += &stream.finish();
        assert_eq!(streamed, whole);
    }
}

#[test]
fn any_ids_stream_to_what_decoding_them_together_gives() {
    let tokenizer = tokenizer("smollm");
    let size = tokenizer.vocabulary_size() as u32;
    // A fixed walk through the vocabulary, unknown ids included.
    let ids: Vec<u32> = (0..20_000_u32)
        .map(|step| step.wrapping_mul(48_271) % (size + 9))
        .collect();
    let mut stream = tokenizer.stream();
    let mut streamed: String = ids.iter().map(|id| stream.push(*id)).collect();
    streamed += &stream.finish();
    assert_eq!(streamed, tokenizer.decode(&ids, false));
}

#[test]
fn special_pieces_are_known_by_their_ids() {
    let tokenizer = tokenizer("smollm");
    let end = tokenizer.id_of("<|im_end|>").unwrap();
    assert!(tokenizer.is_special(end) && tokenizer.is_end_of_generation(end));
    assert_eq!(tokenizer.eos_id(), Some(end));
    assert_eq!(tokenizer.piece(end), Some(b"<|im_end|>".as_slice()));
    assert_eq!(tokenizer.decode(&[end], false), "");
    assert_eq!(tokenizer.piece(u32::MAX), None);
    assert_eq!(tokenizer.vocabulary_size(), 49_152);
}

#[test]
fn beginning_is_added_only_where_the_caller_and_the_model_want_one() {
    assert_eq!(
        tokenizer("smollm").encode("a", false, true).unwrap().len(),
        1
    );
    let mut bytes = with_pre_tokenizer("smollm");
    let flag = end_of(&bytes, b"tokenizer.ggml.add_bos_token") + 4;
    bytes[flag] = 1;
    let wants = Tokenizer::from_gguf(Gguf::parse(&bytes).unwrap().metadata()).unwrap();
    let with = wants.encode("a", false, true).unwrap();
    assert_eq!((with.len(), with.first().copied()), (2, wants.bos_id()));
    assert_eq!(wants.encode("a", false, false).unwrap(), with[1..]);
}

#[test]
fn another_pre_tokenizer_is_refused_by_name() {
    let bytes = with_pre_tokenizer("tekken");
    let error = Tokenizer::from_gguf(Gguf::parse(&bytes).unwrap().metadata()).unwrap_err();
    assert!(matches!(&error, Error::UnsupportedModel { message } if message.contains("tekken")));
}

#[test]
fn merges_outside_the_vocabulary_are_refused() {
    let mut bytes = with_pre_tokenizer("smollm");
    // Behind the key: its type, the element's type, the count, and the first merge's length.
    let merge = end_of(&bytes, b"tokenizer.ggml.merges") + 4 + 4 + 8 + 8;
    let last = "Ġ t".len() - 1;
    assert_eq!(&bytes[merge..=merge + last], "Ġ t".as_bytes());
    bytes[merge + last] = b'\t';
    let error = Tokenizer::from_gguf(Gguf::parse(&bytes).unwrap().metadata()).unwrap_err();
    assert!(matches!(&error, Error::InvalidGguf { message } if message.contains("merge")));
}

#[test]
fn long_input_takes_time_in_proportion() {
    let tokenizer = tokenizer("smollm");
    let million = 1_000_000;
    let inputs = [
        ("one letter", "a".repeat(million)),
        ("spaces", " ".repeat(million)),
        ("spaces and a word", " ".repeat(million) + "a"),
        ("one long word", "internationalization".repeat(million / 20)),
        ("digits", "7".repeat(million)),
        ("symbols", "-=".repeat(million / 2)),
        ("line breaks", " \n".repeat(million / 2)),
        ("prose", "the node answers, and then? ".repeat(million / 28)),
        ("special pieces", "<|im_end|>".repeat(million / 10)),
    ];
    for (name, text) in inputs {
        let start = Instant::now();
        let ids = tokenizer.encode(&text, true, false).unwrap();
        let elapsed = start.elapsed();
        println!("{name}: {} ids in {} ms", ids.len(), elapsed.as_millis());
        assert_eq!(tokenizer.decode(&ids, true), text, "{name}");
        // Quadratic work on a million characters would take hours.
        assert!(
            elapsed < Duration::from_secs(120),
            "{name} took {elapsed:?}"
        );
    }
}

#[test]
fn input_beyond_the_limit_is_refused() {
    let text = "a".repeat(aither_inference::tokenizer::INPUT_BYTES_MAX + 1);
    let error = tokenizer("smollm").encode(&text, false, false).unwrap_err();
    assert!(matches!(
        error,
        Error::InvalidRequest {
            field: "prompt",
            ..
        }
    ));
}
