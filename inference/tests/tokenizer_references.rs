//! The tokenizer against llama.cpp: 2 000 texts under each pre-tokenizer and with SentencePiece's
//! scores, special pieces on and off, and what follows from it (decoding, streaming, long input).
//!
//! The references and the vocabularies come from `scripts/make-text-references.py`. That of
//! byte-level BPE is SmolLM2's for all pre-tokenizers: only the rule for words differs. That with
//! scores is a part of Gemma 3's; where `AITHER_TEST_GEMMA` names a model file, the whole is
//! compared too.

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
    read("references.json")
}

fn read(name: &str) -> Value {
    let text = fs::read_to_string(folder().join(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Builds the tokenizer of a part of Gemma 3's vocabulary, optionally with that flag replaced.
fn gemma(flag: Option<(&str, bool)>) -> Tokenizer {
    let mut bytes = fs::read(folder().join("gemma3.gguf")).unwrap();
    if let Some((key, value)) = flag {
        let at = end_of(&bytes, key.as_bytes()) + 4;
        bytes[at] = u8::from(value);
    }
    Tokenizer::from_gguf(Gguf::parse(&bytes).unwrap().metadata()).unwrap()
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
    let encode = |text: &str, parse_special| tokenizer.encode(text, parse_special, false);
    compare(pre_tokenizer, &texts, &plain, |text| encode(text, false));
    compare(pre_tokenizer, &texts, &special, |text| encode(text, true));
}

/// Compares what each text becomes and shows the first that differ.
fn compare<T: PartialEq + std::fmt::Debug>(
    name: &str,
    texts: &[&str],
    expected: &[T],
    encode: impl Fn(&str) -> Result<T, Error>,
) {
    assert_eq!(texts.len(), expected.len());
    let mut wrong = Vec::new();
    for (text, expected) in texts.iter().zip(expected) {
        let found = encode(text).unwrap();
        if found != *expected {
            wrong.push(format!("{text:?}: {found:?}, expected {expected:?}"));
        }
    }
    let shown = wrong[..wrong.len().min(10)].join("\n");
    let count = wrong.len();
    assert!(wrong.is_empty(), "{name}: {count} texts differ\n{shown}");
}

/// Compares digests of the ids, the beginning of sequence among them.
fn compare_digests(name: &str, tokenizer: &Tokenizer) {
    let references = read("gemma3.json");
    let texts = texts(&references);
    for (kind, parse_special) in [("plain", false), ("special", true)] {
        let expected = ids(&references[format!("{name} {kind} digests")]);
        compare(name, &texts, &expected, |text| {
            let ids = tokenizer.encode(text, parse_special, true)?;
            // 32-bit FNV-1a, an id at a time.
            let digest = ids.iter().fold(0x811C_9DC5_u32, |hash, id| {
                (hash ^ id).wrapping_mul(0x0100_0193)
            });
            Ok(digest)
        });
    }
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
fn scored_pieces_encode_as_llama_cpp() {
    let references = read("gemma3.json");
    let texts = texts(&references);
    assert_eq!(texts.len(), 2000);
    let plain: Vec<Vec<u32>> = references["plain"]
        .as_array()
        .unwrap()
        .iter()
        .map(ids)
        .collect();
    let special = changed(&plain, &references["special"]);
    let tokenizer = gemma(None);
    let encode = |text: &str, parse_special| tokenizer.encode(text, parse_special, false);
    compare("gemma3", &texts, &plain, |text| encode(text, false));
    compare("gemma3", &texts, &special, |text| encode(text, true));
}

#[test]
fn scored_pieces_with_a_space_in_front_encode_as_llama_cpp() {
    let flag = ("tokenizer.ggml.add_space_prefix", true);
    compare_digests("prefix", &gemma(Some(flag)));
}

#[test]
fn whole_vocabulary_of_gemma_encodes_as_llama_cpp() {
    let Some(path) = std::env::var_os("AITHER_TEST_GEMMA") else {
        println!("skipped: AITHER_TEST_GEMMA names no model file");
        return;
    };
    let gguf = Gguf::open(Path::new(&path)).unwrap();
    compare_digests("whole", &Tokenizer::from_gguf(gguf.metadata()).unwrap());
}

#[test]
fn end_of_generation_ids_are_those_of_llama_cpp() {
    let recorded = [
        (tokenizer("smollm"), references()),
        (gemma(None), read("gemma3.json")),
    ];
    for (tokenizer, references) in recorded {
        let expected = ids(&references["end_of_generation"]);
        let found: Vec<u32> = tokenizer.end_of_generation_ids().collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn decoding_scored_pieces_restores_every_text() {
    let tokenizer = gemma(None);
    for text in texts(&read("gemma3.json")) {
        for parse_special in [false, true] {
            let ids = tokenizer.encode(text, parse_special, false).unwrap();
            // The one character that comes back as another: it is how pieces write a space.
            assert_eq!(tokenizer.decode(&ids, true), text.replace('▁', " "));
        }
    }
}

#[test]
fn a_space_is_put_before_text_that_leads_and_stays() {
    let tokenizer = gemma(Some(("tokenizer.ggml.add_space_prefix", true)));
    let ids = tokenizer.encode("a<bos>b\nc", true, false).unwrap();
    assert_eq!(tokenizer.decode(&ids, true), " a<bos> b\n c");
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
    check_stream(&tokenizer("smollm"), &references());
    check_stream(&gemma(None), &read("gemma3.json"));
}

fn check_stream(tokenizer: &Tokenizer, references: &Value) {
    for text in texts(references) {
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
    for tokenizer in [tokenizer("smollm"), gemma(None)] {
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
fn scores_that_are_no_numbers_are_refused() {
    let mut bytes = fs::read(folder().join("gemma3.gguf")).unwrap();
    // Behind the key: its type, the element's type, the count.
    let score = end_of(&bytes, b"tokenizer.ggml.scores") + 4 + 4 + 8;
    bytes[score..score + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let error = Tokenizer::from_gguf(Gguf::parse(&bytes).unwrap().metadata()).unwrap_err();
    assert!(matches!(&error, Error::InvalidGguf { message } if message.contains("score")));
}

#[test]
fn byte_pieces_that_name_no_byte_are_refused() {
    let mut bytes = fs::read(folder().join("gemma3.gguf")).unwrap();
    let name = end_of(&bytes, b"<0x41>") - "1>".len();
    bytes[name] = b'g';
    let error = Tokenizer::from_gguf(Gguf::parse(&bytes).unwrap().metadata()).unwrap_err();
    assert!(matches!(&error, Error::InvalidGguf { message } if message.contains("byte")));
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
        ("all special pieces", all_specials().repeat(million / 1000)),
        ("runs", ("\n".repeat(30) + "x").repeat(million / 31)),
        ("no piece", "\u{10FFFF}".repeat(million / 4)),
    ];
    for (kind, tokenizer) in [("bytes", tokenizer("smollm")), ("scores", gemma(None))] {
        for (name, text) in &inputs {
            let start = Instant::now();
            let ids = tokenizer.encode(text, true, false).unwrap();
            let elapsed = start.elapsed();
            println!(
                "{kind}, {name}: {} ids in {} ms",
                ids.len(),
                elapsed.as_millis()
            );
            assert_eq!(tokenizer.decode(&ids, true), *text, "{kind}, {name}");
            // Quadratic work on a million characters would take hours.
            assert!(
                elapsed < Duration::from_secs(120),
                "{kind}, {name} took {elapsed:?}"
            );
        }
    }
}

/// A thousand bytes of Gemma's special pieces, each of which is cut out by itself.
fn all_specials() -> String {
    let tokenizer = gemma(None);
    let special = (0..tokenizer.vocabulary_size() as u32).filter(|id| tokenizer.is_special(*id));
    let texts = special.filter_map(|id| tokenizer.piece(id));
    let bytes: Vec<u8> = texts.flatten().copied().collect();
    String::from_utf8(bytes[..1000].to_vec()).unwrap()
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
