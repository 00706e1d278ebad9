//! Sentence models of a few weights: converted, read, and refused where something is wrong.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, path::PathBuf};

use aither_inference::{
    Embedder, EmbedderConfig, Error,
    embedding::{
        Urgency,
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
    let directory = tempfile::tempdir().unwrap();
    let path: PathBuf = directory.path().join("m.gguf");
    std::fs::write(&path, bytes).unwrap();
    let config = EmbedderConfig {
        threads: 1,
        ..EmbedderConfig::default()
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
