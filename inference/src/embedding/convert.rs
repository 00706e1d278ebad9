//! Makes one GGUF file of a sentence model as `sentence-transformers` publishes it: weights in
//! safetensors, a vocabulary in text, and a few JSON files.
//!
//! Names, keys and shapes are those of llama.cpp's converter, so that either reads the result.
//! Matrices are rounded to 16-bit floats, two thousand times finer than what tells texts apart. The
//! context becomes the length that the model's authors cut texts to, which is not that of its table
//! of positions: what lies behind is left out. Equal inputs make equal bytes.

use std::io::{self, Write};

use half::f16;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::Deserialize;

use super::bert::ARCHITECTURE;
use crate::{
    error::{Error, Result},
    gguf::limits::{ALIGNMENT_DEFAULT, ARRAY_LEN_MAX},
};

/// Kinds of vocabulary entries in a GGUF file.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
/// `general.file_type` of 16-bit floats.
const FILE_TYPE_F16: u32 = 1;
/// Tensor types.
const TYPE_F32: u32 = 0;
const TYPE_F16: u32 = 1;
/// Layers that are converted, at most.
const LAYERS_MAX: u32 = 96;

/// The files of a sentence model.
#[derive(Debug, Clone, Copy)]
pub struct SentenceModel<'a> {
    /// What the model is called.
    pub title: &'a str,
    /// `model.safetensors`.
    pub weights: &'a [u8],
    /// `config.json`.
    pub config: &'a str,
    /// `vocab.txt`: an entry a line.
    pub vocabulary: &'a str,
    /// `sentence_bert_config.json`, if any.
    pub sentence_config: Option<&'a str>,
    /// `1_Pooling/config.json`, if any.
    pub pooling: Option<&'a str>,
}

/// What is read of `config.json`.
#[derive(Debug, Deserialize)]
struct Config {
    model_type: String,
    hidden_act: String,
    hidden_size: u32,
    intermediate_size: u32,
    num_attention_heads: u32,
    num_hidden_layers: u32,
    max_position_embeddings: u32,
    layer_norm_eps: f32,
    #[serde(default)]
    position_embedding_type: Option<String>,
}

/// What is read of `sentence_bert_config.json`.
#[derive(Debug, Deserialize)]
struct SentenceConfig {
    max_seq_length: Option<u32>,
}

/// What is read of `1_Pooling/config.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PoolingConfig {
    pooling_mode_cls_token: bool,
    pooling_mode_mean_tokens: bool,
}

/// Writes the model as a GGUF file.
///
/// # Errors
/// [`Error::UnsupportedModel`] for another architecture or variant, [`Error::InvalidGguf`] where
/// the files contradict each other, [`Error::ModelFile`] where the writer fails.
pub fn write_gguf(model: &SentenceModel<'_>, to: &mut impl Write) -> Result<()> {
    let config: Config = parse(model.config, "config.json")?;
    config.check()?;
    let weights = SafeTensors::deserialize(model.weights)
        .map_err(|error| invalid(format!("the weights: {error}")))?;
    let mut context = config.max_position_embeddings;
    if let Some(text) = model.sentence_config {
        let sentence: SentenceConfig = parse(text, "sentence_bert_config.json")?;
        context = context.min(sentence.max_seq_length.unwrap_or(context));
    }
    let mut file = GgufWriter::default();
    describe(model, &config, context, &mut file)?;
    add_vocabulary(model.vocabulary, &mut file)?;
    for (name, stored) in names(config.num_hidden_layers) {
        let rows = (name == "position_embd.weight").then_some(context as usize);
        file.add_tensor(&name, &weights, &stored, rows)?;
    }
    file.write(to).map_err(|error| Error::ModelFile {
        path: "the converted file".into(),
        message: error.to_string(),
    })
}

impl Config {
    fn check(&self) -> Result<()> {
        let position = self.position_embedding_type.as_deref();
        let is_known = self.model_type == "bert"
            && self.hidden_act == "gelu"
            && matches!(position, None | Some("absolute"))
            && self.num_hidden_layers <= LAYERS_MAX;
        if is_known {
            return Ok(());
        }
        Err(Error::UnsupportedModel {
            message: format!(
                "a sentence model of type {:?}, activation {:?}, {} layers and positions {:?}; \
                 supported are bert, gelu, at most {LAYERS_MAX}, absolute",
                self.model_type, self.hidden_act, self.num_hidden_layers, position
            ),
        })
    }
}

/// Adds the metadata.
fn describe(
    model: &SentenceModel<'_>,
    config: &Config,
    context: u32,
    file: &mut GgufWriter,
) -> Result<()> {
    let pooling: PoolingConfig = match model.pooling {
        Some(text) => parse(text, "1_Pooling/config.json")?,
        None => PoolingConfig {
            pooling_mode_mean_tokens: true,
            ..PoolingConfig::default()
        },
    };
    let pooling = match (
        pooling.pooling_mode_mean_tokens,
        pooling.pooling_mode_cls_token,
    ) {
        (true, false) => 1,
        (false, true) => 2,
        _ => {
            let message = "a pooling that is neither the mean nor the first row".into();
            return Err(Error::UnsupportedModel { message });
        }
    };
    file.add_string("general.architecture", ARCHITECTURE);
    file.add_string("general.name", model.title);
    file.add_u32("general.file_type", FILE_TYPE_F16);
    for (key, value) in [
        ("block_count", config.num_hidden_layers),
        ("context_length", context),
        ("embedding_length", config.hidden_size),
        ("feed_forward_length", config.intermediate_size),
        ("attention.head_count", config.num_attention_heads),
        ("pooling_type", pooling),
    ] {
        file.add_u32(&format!("{ARCHITECTURE}.{key}"), value);
    }
    file.add_f32("bert.attention.layer_norm_epsilon", config.layer_norm_eps);
    file.add_bool("bert.attention.causal", false);
    Ok(())
}

/// Adds the vocabulary in llama.cpp's spelling.
fn add_vocabulary(text: &str, file: &mut GgufWriter) -> Result<()> {
    let entries: Vec<&str> = text.lines().map(str::trim_end).collect();
    if entries.len() as u64 > ARRAY_LEN_MAX {
        return Err(invalid("the vocabulary is too long"));
    }
    let id_of = |name: &str| {
        let found = entries.iter().position(|entry| *entry == name);
        found
            .map(|id| id as u32)
            .ok_or_else(|| invalid(format!("the vocabulary has no {name}")))
    };
    let mut spelled = Vec::with_capacity(entries.len());
    let mut kinds = Vec::with_capacity(entries.len());
    for entry in &entries {
        let kind = match *entry {
            "[UNK]" => UNKNOWN,
            "[CLS]" | "[SEP]" | "[PAD]" | "[MASK]" => CONTROL,
            _ => NORMAL,
        };
        spelled.push(match entry.strip_prefix("##") {
            _ if kind != NORMAL => (*entry).to_owned(),
            Some(rest) => rest.to_owned(),
            None => format!("▁{entry}"),
        });
        kinds.push(kind);
    }
    file.add_string("tokenizer.ggml.model", "bert");
    file.add_string("tokenizer.ggml.pre", "default");
    file.add_u32("tokenizer.ggml.token_type_count", 2);
    for (key, name) in [
        ("unknown", "[UNK]"),
        ("seperator", "[SEP]"),
        ("padding", "[PAD]"),
        ("cls", "[CLS]"),
        ("mask", "[MASK]"),
    ] {
        file.add_u32(&format!("tokenizer.ggml.{key}_token_id"), id_of(name)?);
    }
    file.add_strings("tokenizer.ggml.tokens", &spelled);
    file.add_i32s("tokenizer.ggml.token_type", &kinds);
    Ok(())
}

/// What tensors are called in the result and in the safetensors file.
fn names(layers: u32) -> Vec<(String, String)> {
    let mut names = Vec::new();
    let mut add = |to: String, from: String, has_bias: bool| {
        names.push((format!("{to}.weight"), format!("{from}.weight")));
        if has_bias {
            names.push((format!("{to}.bias"), format!("{from}.bias")));
        }
    };
    for (to, from, has_bias) in [
        ("token_embd", "word_embeddings", false),
        ("position_embd", "position_embeddings", false),
        ("token_types", "token_type_embeddings", false),
        ("token_embd_norm", "LayerNorm", true),
    ] {
        add(to.into(), format!("embeddings.{from}"), has_bias);
    }
    for layer in 0..layers {
        for (to, from) in [
            ("attn_q", "attention.self.query"),
            ("attn_k", "attention.self.key"),
            ("attn_v", "attention.self.value"),
            ("attn_output", "attention.output.dense"),
            ("attn_output_norm", "attention.output.LayerNorm"),
            ("ffn_up", "intermediate.dense"),
            ("ffn_down", "output.dense"),
            ("layer_output_norm", "output.LayerNorm"),
        ] {
            let (to, from) = (
                format!("blk.{layer}.{to}"),
                format!("encoder.layer.{layer}.{from}"),
            );
            add(to, from, true);
        }
    }
    names
}

/// A GGUF file that is put together.
#[derive(Default)]
struct GgufWriter {
    metadata: Vec<u8>,
    metadata_count: u64,
    tensors: Vec<u8>,
    tensor_count: u64,
    data: Vec<u8>,
}

/// Types of metadata values.
const VALUE_U32: u32 = 4;
const VALUE_I32: u32 = 5;
const VALUE_F32: u32 = 6;
const VALUE_BOOL: u32 = 7;
const VALUE_STRING: u32 = 8;
const VALUE_ARRAY: u32 = 9;

impl GgufWriter {
    fn add_key(&mut self, key: &str, ty: u32) {
        put_string(&mut self.metadata, key);
        self.metadata.extend(ty.to_le_bytes());
        self.metadata_count += 1;
    }

    fn add_string(&mut self, key: &str, value: &str) {
        self.add_key(key, VALUE_STRING);
        put_string(&mut self.metadata, value);
    }

    fn add_u32(&mut self, key: &str, value: u32) {
        self.add_key(key, VALUE_U32);
        self.metadata.extend(value.to_le_bytes());
    }

    fn add_f32(&mut self, key: &str, value: f32) {
        self.add_key(key, VALUE_F32);
        self.metadata.extend(value.to_le_bytes());
    }

    fn add_bool(&mut self, key: &str, value: bool) {
        self.add_key(key, VALUE_BOOL);
        self.metadata.push(u8::from(value));
    }

    fn add_array(&mut self, key: &str, ty: u32, len: usize) {
        self.add_key(key, VALUE_ARRAY);
        self.metadata.extend(ty.to_le_bytes());
        self.metadata.extend((len as u64).to_le_bytes());
    }

    fn add_strings(&mut self, key: &str, values: &[String]) {
        self.add_array(key, VALUE_STRING, values.len());
        for value in values {
            put_string(&mut self.metadata, value);
        }
    }

    fn add_i32s(&mut self, key: &str, values: &[i32]) {
        self.add_array(key, VALUE_I32, values.len());
        for value in values {
            self.metadata.extend(value.to_le_bytes());
        }
    }

    /// Adds a tensor: a linear layer's matrix or the words' table in 16 bits, all else in 32, as
    /// llama.cpp's converter does. `rows` cuts a table.
    fn add_tensor(
        &mut self,
        name: &str,
        weights: &SafeTensors<'_>,
        stored: &str,
        rows: Option<usize>,
    ) -> Result<()> {
        // Some files are of a whole model whose encoder is called `bert`.
        let found = weights.tensor(stored);
        let tensor = found
            .or_else(|_| weights.tensor(&format!("bert.{stored}")))
            .map_err(|error| invalid(format!("the weights: {error}")))?;
        let mut shape = tensor.shape().to_vec();
        let mut values = floats(&tensor, stored)?;
        if let (Some(rows), [stored_rows, columns]) = (rows, shape.as_mut_slice()) {
            *stored_rows = rows.min(*stored_rows);
            values.truncate(*stored_rows * *columns);
        }
        let is_small = matches!(name, "position_embd.weight" | "token_types.weight");
        let ty = if shape.len() == 2 && !is_small {
            TYPE_F16
        } else {
            TYPE_F32
        };
        let start = self.data.len().next_multiple_of(ALIGNMENT_DEFAULT as usize);
        self.data.resize(start, 0);
        for value in values {
            match ty {
                TYPE_F16 => self.data.extend(f16::from_f32(value).to_le_bytes()),
                _ => self.data.extend(value.to_le_bytes()),
            }
        }
        put_string(&mut self.tensors, name);
        self.tensors.extend((shape.len() as u32).to_le_bytes());
        for side in shape.iter().rev() {
            self.tensors.extend((*side as u64).to_le_bytes());
        }
        self.tensors.extend(ty.to_le_bytes());
        self.tensors.extend((start as u64).to_le_bytes());
        self.tensor_count += 1;
        Ok(())
    }

    fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let mut header = Vec::from(*b"GGUF");
        header.extend(3u32.to_le_bytes());
        header.extend(self.tensor_count.to_le_bytes());
        header.extend(self.metadata_count.to_le_bytes());
        header.extend(&self.metadata);
        header.extend(&self.tensors);
        header.resize(header.len().next_multiple_of(ALIGNMENT_DEFAULT as usize), 0);
        to.write_all(&header)?;
        to.write_all(&self.data)
    }
}

fn put_string(to: &mut Vec<u8>, text: &str) {
    to.extend((text.len() as u64).to_le_bytes());
    to.extend(text.as_bytes());
}

/// Decodes a tensor of floats.
fn floats(tensor: &TensorView<'_>, name: &str) -> Result<Vec<f32>> {
    let data = tensor.data();
    match tensor.dtype() {
        Dtype::F32 => {
            let (values, _) = data.as_chunks::<4>();
            Ok(values
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect())
        }
        Dtype::F16 => {
            let (values, _) = data.as_chunks::<2>();
            Ok(values
                .iter()
                .map(|bytes| f16::from_le_bytes(*bytes).to_f32())
                .collect())
        }
        other => Err(Error::UnsupportedModel {
            message: format!("weights {name:?} of type {other:?}; F32 and F16 are read"),
        }),
    }
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str, name: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| invalid(format!("{name}: {error}")))
}

fn invalid(message: impl Into<String>) -> Error {
    Error::InvalidGguf {
        message: message.into(),
    }
}
