//! BERT: ids to a sentence's vector.
//!
//! Keys and tensors are llama.cpp's (`bert.block_count`, `blk.0.attn_q.weight`). All numbers are
//! bounded here, once. Word, position and segment embeddings are summed on the host, the layers are
//! one operation of burn's ([`ops::encoder`]), and the rows of a text become one vector of length
//! 1: their mean, or the first of them.

use std::ops::Range;

use burn::tensor::{Tensor, TensorData};

use super::word_piece::WordPieces;
use crate::{
    backend::Backend,
    dequantize::dequantize,
    error::{Error, Result},
    gguf::{Gguf, TensorView},
    layers::Embedding,
    ops::{
        self,
        cpu::{EncoderLayer, EncoderWeights, LayerNorm, ShortLinear},
        packed::{ShortMatrix, shorts::SHORTS_MULTIPLE},
    },
};

/// The architecture that is read, by its GGUF name.
pub const ARCHITECTURE: &str = "bert";

/// Layers: four times those of the largest in use.
const LAYERS_MAX: usize = 96;
/// Heads of attention.
const HEADS_MAX: usize = 256;
/// Width of the residual stream, and of a feed-forward network's inner layer.
const WIDTH_MAX: usize = 1 << 15;
/// Ids of a text. Scores of attention are kept whole, so this also bounds memory.
const CONTEXT_MAX: usize = 1 << 13;
/// The least: room for one id between those at both ends.
const CONTEXT_MIN: usize = 3;
/// What a length is divided by, at least: a vector of zeros stays one.
const LENGTH_MIN: f32 = 1e-12;

/// How the rows of a text become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first one's.
    First,
}

/// Shape of an encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct BertDescription {
    /// `general.name`, if any.
    pub title: Option<String>,
    /// Number of layers.
    pub layers: usize,
    /// Width of the residual stream, and length of a vector.
    pub width: usize,
    /// Width of the feed-forward network's inner layer.
    pub inner_width: usize,
    /// Heads of attention.
    pub heads: usize,
    /// Most ids of a text.
    pub context_length: usize,
    /// Added to the variance in norms.
    pub epsilon: f32,
    /// How a text's rows become one.
    pub pooling: Pooling,
}

/// A loaded model.
#[derive(Debug)]
pub(super) struct Bert {
    pub(super) description: BertDescription,
    words: Embedding,
    /// Of position and segment together, `[context, width]`.
    positions: Vec<f32>,
    weights: EncoderWeights,
}

impl BertDescription {
    /// Reads and checks the metadata.
    ///
    /// # Errors
    /// An architecture or variant that this crate does not run, or a number out of bounds.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let metadata = gguf.metadata();
        let architecture = metadata.required_str("general.architecture")?;
        if architecture != ARCHITECTURE {
            return Err(Error::UnsupportedModel {
                message: format!(
                    "architecture {architecture:?} as an embedding model; \"bert\" is supported"
                ),
            });
        }
        let number = |name: &str, max: usize| {
            let key = format!("{ARCHITECTURE}.{name}");
            let value = metadata.required_u64(&key)?;
            match usize::try_from(value) {
                Ok(value) if (1..=max).contains(&value) => Ok(value),
                _ => Err(invalid(format!(
                    "{key} is {value}, must be from 1 to {max}"
                ))),
            }
        };
        let pooling = match metadata.u32("bert.pooling_type")? {
            None | Some(1) => Pooling::Mean,
            Some(2) => Pooling::First,
            Some(other) => {
                let message = format!("pooling {other} of an embedding model; 1 and 2 are");
                return Err(Error::UnsupportedModel { message });
            }
        };
        if metadata.bool("bert.attention.causal")? == Some(true) {
            let message = "an encoder whose attention looks back only".into();
            return Err(Error::UnsupportedModel { message });
        }
        let description = Self {
            title: metadata.str("general.name")?.map(str::to_owned),
            layers: number("block_count", LAYERS_MAX)?,
            width: number("embedding_length", WIDTH_MAX)?,
            inner_width: number("feed_forward_length", WIDTH_MAX)?,
            heads: number("attention.head_count", HEADS_MAX)?,
            context_length: number("context_length", CONTEXT_MAX)?,
            epsilon: metadata.required_f32("bert.attention.layer_norm_epsilon")?,
            pooling,
        };
        description.check()?;
        Ok(description)
    }

    fn check(&self) -> Result<()> {
        if self.context_length < CONTEXT_MIN {
            return Err(invalid("bert.context_length leaves no room for a text"));
        }
        if !(self.epsilon > 0.0 && self.epsilon < 1.0) {
            return Err(invalid(
                "bert.attention.layer_norm_epsilon is not between 0 and 1",
            ));
        }
        let heads_fit = self.width.is_multiple_of(self.heads * SHORTS_MULTIPLE);
        if !heads_fit || !self.inner_width.is_multiple_of(SHORTS_MULTIPLE) {
            return Err(Error::UnsupportedModel {
                message: format!(
                    "an encoder of width {}, {} heads and inner width {}; heads and inner width \
                     must be multiples of {SHORTS_MULTIPLE}",
                    self.width, self.heads, self.inner_width
                ),
            });
        }
        Ok(())
    }
}

impl Bert {
    /// Loads all weights of a file, and its tokenizer.
    ///
    /// # Errors
    /// As [`BertDescription::from_gguf`]; a tensor is missing or misshapen.
    pub(super) fn load(gguf: &Gguf) -> Result<(Self, WordPieces)> {
        let description = BertDescription::from_gguf(gguf)?;
        let word_pieces = WordPieces::from_gguf(gguf.metadata(), description.context_length)?;
        let vocabulary = gguf.metadata().required_strings("tokenizer.ggml.tokens")?;
        let loader = Loader {
            gguf,
            description: &description,
        };
        let (width, context) = (description.width, description.context_length);
        let table = loader.tensor("token_embd.weight", &[width, vocabulary.len()])?;
        let words = Embedding::load(&table)?;
        // Tables may have rows that no text reaches.
        let mut positions = loader.table("position_embd.weight", context)?;
        let segments = loader.table("token_types.weight", 1)?;
        for position in positions.chunks_exact_mut(width) {
            for (sum, segment) in position.iter_mut().zip(&segments) {
                *sum += segment;
            }
        }
        let weights = EncoderWeights {
            embedding_norm: loader.norm("token_embd_norm")?,
            layers: (0..description.layers)
                .map(|index| loader.layer(index))
                .collect::<Result<_>>()?,
            heads: description.heads,
        };
        let bert = Self {
            description,
            words,
            positions,
            weights,
        };
        Ok((bert, word_pieces))
    }

    /// Memory of the weights, in bytes.
    pub(super) fn size_bytes(&self) -> u64 {
        let positions = size_of_val(self.positions.as_slice()) as u64;
        self.weights.size_bytes() + self.words.size_bytes() + positions
    }

    /// Returns a vector of length 1 for each text.
    ///
    /// # Errors
    /// An id outside the vocabulary.
    ///
    /// # Panics
    /// If a text has no ids, or more than the context holds.
    pub(super) fn forward(&self, texts: &[&[u32]], backend: &Backend) -> Result<Vec<Vec<f32>>> {
        let width = self.description.width;
        let mut ids = Vec::new();
        let mut sequences: Vec<Range<usize>> = Vec::with_capacity(texts.len());
        for text in texts {
            sequences.push(ids.len()..ids.len() + text.len());
            ids.extend_from_slice(text);
        }
        let words = self.words.forward(&ids, backend)?;
        let mut hidden = values(words)?;
        for sequence in &sequences {
            let rows = &mut hidden[sequence.start * width..sequence.end * width];
            for (value, position) in rows.iter_mut().zip(&self.positions) {
                *value += position;
            }
        }
        let data = TensorData::new(hidden, [ids.len(), width]);
        let hidden = Tensor::<2>::from_data(data, backend.device());
        let hidden = values(ops::encoder(hidden, &self.weights, &sequences))?;
        let pool = |rows: &Range<usize>| self.pool(&hidden[rows.start * width..rows.end * width]);
        Ok(sequences.iter().map(pool).collect())
    }

    /// One vector of a text's rows.
    fn pool(&self, rows: &[f32]) -> Vec<f32> {
        let width = self.description.width;
        let rows = match self.description.pooling {
            Pooling::Mean => rows,
            Pooling::First => &rows[..width],
        };
        let mut vector = vec![0.0f32; width];
        for row in rows.chunks_exact(width) {
            for (sum, value) in vector.iter_mut().zip(row) {
                *sum += value;
            }
        }
        // The mean's divisor goes with the length.
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        let factor = 1.0 / length.max(LENGTH_MIN);
        for value in &mut vector {
            *value *= factor;
        }
        vector
    }
}

/// Takes a tensor's values.
fn values(tensor: Tensor<2>) -> Result<Vec<f32>> {
    let data = tensor.into_data();
    data.try_into_vec::<f32>().map_err(|error| Error::Internal {
        message: format!("an encoder's rows are no floats: {error:?}"),
    })
}

/// Reads tensors by name, and checks their shapes.
struct Loader<'a> {
    gguf: &'a Gguf,
    description: &'a BertDescription,
}

impl<'a> Loader<'a> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<TensorView<'a>> {
        let tensor = self.any_tensor(name)?;
        let fits = tensor.shape.len() == shape.len()
            && tensor
                .shape
                .iter()
                .zip(shape)
                .all(|(has, wants)| *has == *wants as u64);
        if !fits {
            return Err(invalid(format!(
                "tensor {name:?} has shape {:?}, must have {shape:?}",
                tensor.shape
            )));
        }
        Ok(tensor)
    }

    fn any_tensor(&self, name: &str) -> Result<TensorView<'a>> {
        let tensor = self.gguf.tensor(name);
        tensor.ok_or_else(|| invalid(format!("tensor {name:?} is missing")))
    }

    /// The first rows of a matrix.
    fn table(&self, name: &str, rows: usize) -> Result<Vec<f32>> {
        let tensor = self.any_tensor(name)?;
        let width = self.description.width;
        let &[columns, stored] = tensor.shape else {
            return Err(invalid(format!("tensor {name:?} is not a matrix")));
        };
        if columns != width as u64 || stored < rows as u64 {
            return Err(invalid(format!(
                "tensor {name:?} has shape {:?}, must have at least [{width}, {rows}]",
                tensor.shape
            )));
        }
        let mut values = floats(&tensor)?;
        values.truncate(rows * width);
        Ok(values)
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        floats(&self.tensor(name, &[len])?)
    }

    fn norm(&self, name: &str) -> Result<LayerNorm> {
        let width = self.description.width;
        Ok(LayerNorm {
            gain: self.vector(&format!("{name}.weight"), width)?,
            bias: self.vector(&format!("{name}.bias"), width)?,
            epsilon: self.description.epsilon,
        })
    }

    /// Matrices that read the same rows, as one.
    fn linear(&self, names: &[String], inputs: usize, outputs: usize) -> Result<ShortLinear> {
        let mut tensors = Vec::new();
        let mut bias = Vec::new();
        for name in names {
            tensors.push(self.tensor(&format!("{name}.weight"), &[inputs, outputs])?);
            bias.extend(self.vector(&format!("{name}.bias"), outputs)?);
        }
        let matrix = ShortMatrix::from_gguf(&tensors)?;
        Ok(ShortLinear { matrix, bias })
    }

    fn layer(&self, index: usize) -> Result<EncoderLayer> {
        let (width, inner) = (self.description.width, self.description.inner_width);
        let name = |part: &str| format!("blk.{index}.{part}");
        Ok(EncoderLayer {
            queries_keys_values: self.linear(
                &["attn_q", "attn_k", "attn_v"].map(name),
                width,
                width,
            )?,
            output: self.linear(&[name("attn_output")], width, width)?,
            attention_norm: self.norm(&name("attn_output_norm"))?,
            up: self.linear(&[name("ffn_up")], width, inner)?,
            down: self.linear(&[name("ffn_down")], inner, width)?,
            output_norm: self.norm(&name("layer_output_norm"))?,
        })
    }
}

/// Decodes a whole tensor of finite numbers.
fn floats(tensor: &TensorView<'_>) -> Result<Vec<f32>> {
    let mut values = vec![0.0; tensor.elements()];
    dequantize(tensor.ty, tensor.data, &mut values)?;
    if !values.iter().all(|value| value.is_finite()) {
        let name = tensor.name;
        return Err(invalid(format!(
            "tensor {name:?} has values that are no numbers"
        )));
    }
    Ok(values)
}

fn invalid(message: impl Into<String>) -> Error {
    Error::InvalidGguf {
        message: message.into(),
    }
}
