//! Sentence models of a few weights: converted, read, and refused where something is wrong.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, path::PathBuf, sync::mpsc, time::Duration};

use aither_inference::{
    Embedder, EmbedderConfig, Embedding, Error,
    embedding::{
        EmbeddingSink, Urgency,
        convert::{SentenceModel, write_gguf},
    },
    gguf::Gguf,
};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

const WIDTH: usize = 64;
const INNER: usize = 96;
const LAYERS: usize = 2;
const POSITIONS: usize = 40;
const VOCABULARY: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\nworld\n##ly\n!\nh\n##e";

/// The files of a model, to be changed.
struct Files {
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    config: Value,
    sentence_config: Option<String>,
    pooling: Option<String>,
    vocabulary: String,
}

impl Files {
    fn new() -> Self {
        let mut files = Self {
            tensors: BTreeMap::new(),
            config: json!({
                "model_type": "bert", "hidden_act": "gelu", "hidden_size": WIDTH,
                "intermediate_size": INNER, "num_attention_heads": 2,
                "num_hidden_layers": LAYERS, "max_position_embeddings": POSITIONS,
                "layer_norm_eps": 1e-12,
            }),
            sentence_config: Some(json!({"max_seq_length": 12}).to_string()),
            pooling: None,
            vocabulary: VOCABULARY.into(),
        };
        let words = VOCABULARY.lines().count();
        files.add("embeddings.word_embeddings.weight", &[words, WIDTH]);
        files.add("embeddings.position_embeddings.weight", &[POSITIONS, WIDTH]);
        files.add("embeddings.token_type_embeddings.weight", &[2, WIDTH]);
        files.add_norm("embeddings.LayerNorm");
        for layer in 0..LAYERS {
            let name = |part: &str| format!("encoder.layer.{layer}.{part}");
            for part in ["query", "key", "value"] {
                files.add_linear(&name(&format!("attention.self.{part}")), WIDTH, WIDTH);
            }
            files.add_linear(&name("attention.output.dense"), WIDTH, WIDTH);
            files.add_norm(&name("attention.output.LayerNorm"));
            files.add_linear(&name("intermediate.dense"), INNER, WIDTH);
            files.add_linear(&name("output.dense"), WIDTH, INNER);
            files.add_norm(&name("output.LayerNorm"));
        }
        files
    }

    fn add(&mut self, name: &str, shape: &[usize]) {
        let seed = name.len() + shape[0];
        let len = shape.iter().product::<usize>();
        let values = (0..len).map(|index| ((index * 37 + seed * 11) % 101) as f32 / 101.0 - 0.5);
        let values = values.collect();
        self.tensors.insert(name.into(), (shape.to_vec(), values));
    }

    fn add_linear(&mut self, name: &str, outputs: usize, inputs: usize) {
        self.add(&format!("{name}.weight"), &[outputs, inputs]);
        self.add(&format!("{name}.bias"), &[outputs]);
    }

    fn add_norm(&mut self, name: &str) {
        self.add(&format!("{name}.weight"), &[WIDTH]);
        self.add(&format!("{name}.bias"), &[WIDTH]);
    }

    fn convert(&self) -> Result<Vec<u8>, Error> {
        let bytes = |values: &[f32]| -> Vec<u8> {
            values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect()
        };
        let stored: Vec<_> = self
            .tensors
            .iter()
            .map(|(name, (shape, values))| (name, shape.clone(), bytes(values)))
            .collect();
        let views = stored.iter().map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap();
            (name.as_str(), view)
        });
        let weights = safetensors::serialize(views, None).unwrap();
        let config = self.config.to_string();
        let model = SentenceModel {
            title: "tiny",
            weights: &weights,
            config: &config,
            vocabulary: &self.vocabulary,
            sentence_config: self.sentence_config.as_deref(),
            pooling: self.pooling.as_deref(),
        };
        let mut file = Vec::new();
        write_gguf(&model, &mut file)?;
        Ok(file)
    }

    /// What converting and opening say is wrong.
    fn refusal(&self) -> String {
        let opened = self.convert().and_then(|bytes| open(&bytes).1);
        opened.map(|_| ()).unwrap_err().to_string()
    }
}

fn open(bytes: &[u8]) -> (TempDir, Result<Embedder, Error>) {
    open_with(bytes, EmbedderConfig::default().waiting_tokens_max)
}

fn open_with(bytes: &[u8], waiting_tokens_max: usize) -> (TempDir, Result<Embedder, Error>) {
    let directory = tempfile::tempdir().unwrap();
    let path: PathBuf = directory.path().join("m.gguf");
    std::fs::write(&path, bytes).unwrap();
    let config = EmbedderConfig {
        threads: 1,
        waiting_tokens_max,
    };
    let opened = Embedder::open(&path, config);
    (directory, opened)
}

#[test]
fn a_converted_model_makes_vectors() {
    let bytes = Files::new().convert().unwrap();
    assert_eq!(
        bytes,
        Files::new().convert().unwrap(),
        "equal inputs make equal bytes"
    );
    let header = Gguf::parse(&bytes).unwrap();
    assert_eq!(header.info().unwrap().architecture, "bert");
    let (_directory, embedder) = open(&bytes);
    let embedder = embedder.unwrap();
    assert_eq!((embedder.dimensions(), embedder.max_tokens()), (WIDTH, 12));
    let texts = [
        "hello world!",
        "Hellö",
        "",
        "helloly helx",
        &"world ".repeat(30),
    ];
    let found = embedder.embed(&texts, Urgency::Bulk).unwrap();
    let lengths: Vec<_> = found.iter().map(|one| one.prompt_tokens).collect();
    // Both ends; "hellö" without its accent is a word; "helx" is h, ##e and nothing: unknown.
    assert_eq!(lengths, [5, 3, 2, 5, 12]);
    assert!(found[4].is_truncated && !found[3].is_truncated);
    for one in &found {
        let length: f32 = one.vector.iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-5);
    }
    assert_ne!(found[0].vector, found[1].vector);
}

#[test]
fn however_long_a_text_is_what_counts_of_it_is_read() {
    let (_directory, embedder) = open(&Files::new().convert().unwrap());
    let embedder = embedder.unwrap();
    let full = embedder.embed(&["!".repeat(10)], Urgency::Bulk).unwrap();
    assert!(!full[0].is_truncated);
    let many = 1 << 20;
    for text in [
        "!".repeat(many),
        "! ".repeat(many),
        "! ".repeat(9) + "!" + &"x".repeat(many),
        " ".repeat(many) + &"!".repeat(11),
        "\u{1}".repeat(200) + &"!".repeat(many),
        // Words that are unknown and as long as one may be, or longer.
        ("x".repeat(400) + " ").repeat(9) + "hello world",
    ] {
        let found = embedder.embed(&[&*text], Urgency::Bulk).unwrap();
        let (one, beginning) = (&found[0], &text[..20]);
        assert!(one.is_truncated, "{beginning:?}");
        assert_eq!(one.prompt_tokens, 12, "{beginning:?}");
        let is_same = one.vector == full[0].vector;
        assert_eq!(is_same, text.contains('!'), "{beginning:?}");
    }
    // One word, of which nothing is known.
    let unknown = embedder.embed(&["xyz".into(), "a".repeat(many)], Urgency::Bulk);
    let unknown = unknown.unwrap();
    assert_eq!(unknown[0].vector, unknown[1].vector);
    // Blanks that follow are nothing that was left out.
    let blank = "!".to_owned() + &" ".repeat(many);
    assert!(!embedder.embed(&[blank], Urgency::Bulk).unwrap()[0].is_truncated);
}

/// Holds the embedder's thread until the other end is dropped.
struct Hold(mpsc::SyncSender<()>, mpsc::Receiver<()>);

impl EmbeddingSink for Hold {
    fn is_wanted(&self) -> bool {
        true
    }

    fn finish(self: Box<Self>, _result: Result<Vec<Embedding>, Error>) {
        self.0.send(()).unwrap();
        let _ = self.1.recv();
    }
}

/// Somebody who waits for nothing in particular.
struct Ignored;

impl EmbeddingSink for Ignored {
    fn is_wanted(&self) -> bool {
        true
    }

    fn finish(self: Box<Self>, _result: Result<Vec<Embedding>, Error>) {}
}

#[test]
fn regression_bulk_work_leaves_room_for_queries_and_nobody_waits_longer_than_they_want() {
    let waiting_max = 2400;
    let (_directory, embedder) = open_with(&Files::new().convert().unwrap(), waiting_max);
    let embedder = embedder.unwrap();
    let (started, has_started) = mpsc::sync_channel(1);
    let (let_go, held) = mpsc::sync_channel(1);
    let one = embedder.prepare(&["hello"]).unwrap();
    let hold = Box::new(Hold(started, held));
    embedder.submit(one.clone(), Urgency::Bulk, hold).unwrap();
    has_started.recv().unwrap();
    // The embedder's thread is held: all of this waits.
    let fill = |texts: usize, urgency| {
        let many = embedder.prepare(&vec!["hello"; texts]).unwrap();
        embedder.submit(many, urgency, Box::new(Ignored))
    };
    let is_full = |outcome| matches!(outcome, Err(Error::QueueFull { .. }));
    // Three model tokens each.
    fill(waiting_max / 3, Urgency::Bulk).unwrap();
    assert!(is_full(fill(1, Urgency::Bulk)));
    let late = embedder.embed_within(&["hello"], Urgency::Query, Duration::ZERO);
    assert!(matches!(late, Err(Error::DeadlineExceeded)), "{late:?}");
    fill(waiting_max / 8 / 3 - 1, Urgency::Query).unwrap();
    assert!(is_full(fill(1, Urgency::Query)));
    embedder.shut_down();
    drop(let_go);
    let ended = embedder.embed_within(&["hello"], Urgency::Query, Duration::ZERO);
    assert!(matches!(ended, Err(Error::ShuttingDown)), "{ended:?}");
}

#[test]
fn vectors_that_come_in_time_are_those_that_come_anyway() {
    let (_directory, embedder) = open(&Files::new().convert().unwrap());
    let embedder = embedder.unwrap();
    let patience = Duration::from_secs(240);
    let within = embedder.embed_within(&["hello world"], Urgency::Query, patience);
    let found = embedder.embed(&["hello world"], Urgency::Bulk);
    assert_eq!(within.unwrap(), found.unwrap());
}

#[test]
fn the_first_row_can_stand_for_a_text() {
    let mut files = Files::new();
    files.pooling = Some(json!({"pooling_mode_cls_token": true}).to_string());
    let (_directory, first) = open(&files.convert().unwrap());
    let (_directory, mean) = open(&Files::new().convert().unwrap());
    let embed = |embedder: Embedder| embedder.embed(&["hello world"], Urgency::Query).unwrap();
    assert_ne!(embed(first.unwrap()), embed(mean.unwrap()));
    files.pooling = Some("{}".into());
    assert!(files.refusal().contains("pooling"));
}

#[test]
fn other_weights_have_another_fingerprint() {
    let fingerprint = |files: &Files| open(&files.convert().unwrap()).1.unwrap().fingerprint();
    let plain = fingerprint(&Files::new());
    assert_eq!(plain, fingerprint(&Files::new()));
    let mut files = Files::new();
    let changed = files.tensors.get_mut("encoder.layer.1.output.dense.bias");
    changed.unwrap().1[7] += 0.25;
    assert_ne!(plain, fingerprint(&files));
    let mut files = Files::new();
    files.sentence_config = None;
    assert_ne!(plain, fingerprint(&files));
}

#[test]
fn models_of_other_kinds_are_refused_by_what_differs() {
    for (key, value, words) in [
        ("model_type", json!("roberta"), "roberta"),
        ("hidden_act", json!("relu"), "relu"),
        (
            "position_embedding_type",
            json!("relative_key"),
            "relative_key",
        ),
        ("num_hidden_layers", json!(1000), "1000"),
        ("num_hidden_layers", json!(3), "encoder.layer.2"),
        ("num_attention_heads", json!(3), "heads"),
        ("num_attention_heads", json!(0), "head_count"),
        ("hidden_size", json!(128), "shape"),
        ("intermediate_size", json!(128), "shape"),
        ("intermediate_size", json!(100), "multiples"),
        ("max_position_embeddings", json!(2), "room"),
        ("layer_norm_eps", json!(0.0), "epsilon"),
        ("layer_norm_eps", json!("x"), "config.json"),
    ] {
        let mut files = Files::new();
        files.config[key] = value;
        files.sentence_config = None;
        let refusal = files.refusal();
        assert!(refusal.contains(words), "{key}: {refusal}");
    }
}

#[test]
fn weights_that_are_missing_misshapen_or_no_numbers_are_named() {
    let name = "encoder.layer.0.output.dense.weight";
    let mut files = Files::new();
    files.tensors.remove(name);
    assert!(files.refusal().contains(name));
    let mut files = Files::new();
    files.add(name, &[INNER, WIDTH]);
    assert!(files.refusal().contains("ffn_down"));
    for value in [f32::NAN, f32::INFINITY, f32::MAX] {
        let mut files = Files::new();
        files.tensors.get_mut(name).unwrap().1[3] = value;
        assert!(files.refusal().contains("no numbers"), "{value}");
        let mut files = Files::new();
        let bias = files.tensors.get_mut("embeddings.LayerNorm.bias");
        bias.unwrap().1[3] = value;
        assert!(value == f32::MAX || files.refusal().contains("no numbers"));
    }
}

#[test]
fn vocabularies_that_contradict_themselves_are_refused() {
    for (vocabulary, words) in [
        (VOCABULARY.replace("[SEP]", "x"), "[SEP]"),
        (VOCABULARY.replace("world", "hello"), "twice"),
        (format!("{VOCABULARY}\nmore"), "shape"),
        (VOCABULARY.replace("world", &"w".repeat(600)), "too long"),
    ] {
        let mut files = Files::new();
        files.vocabulary = vocabulary;
        let refusal = files.refusal();
        assert!(refusal.contains(words), "{words}: {refusal}");
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let bytes = Files::new().convert().unwrap();
    for part in 0..40 {
        let cut = bytes.len() * part / 40;
        let refused = open(&bytes[..cut]).1.unwrap_err();
        let is_named = matches!(refused, Error::InvalidGguf { .. } | Error::ModelFile { .. });
        assert!(is_named, "{cut}: {refused}");
    }
}

#[test]
fn a_byte_changed_anywhere_in_the_header_does_no_harm() {
    let bytes = Files::new().convert().unwrap();
    for at in (0..2000).step_by(3) {
        for change in [1, 0x80, 0xff] {
            let mut bytes = bytes.clone();
            bytes[at] ^= change;
            let (_directory, opened) = open(&bytes);
            if let Ok(embedder) = opened {
                let _ = embedder.embed(&["hello world"], Urgency::Query);
            }
        }
    }
}
