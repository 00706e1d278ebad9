//! What a file's metadata say of its architecture.
//!
//! Keys are llama.cpp's (`llama.block_count`, …). All numbers are bounded here, once: the decoder
//! trusts them.

use crate::{
    error::{Error, Result},
    gguf::Gguf,
    layers::{RopeScaling, RotaryEmbedding},
};

/// The architectures that this crate runs, by their GGUF names.
pub const SUPPORTED_ARCHITECTURES: [&str; 2] = ["llama", "qwen2"];

/// Most blocks: four times those of the largest published models of the family.
const BLOCKS_MAX: usize = 512;
/// Most heads of a block.
const HEADS_MAX: usize = 1024;
/// Longest vector: residual stream, feed-forward or all heads together.
const WIDTH_MAX: usize = 1 << 18;
/// Longest context; longer claims are cut to it.
const CONTEXT_MAX: usize = 1 << 20;

/// Shape and variants of a decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// `general.architecture`.
    pub architecture: String,
    /// Number of transformer blocks.
    pub blocks: usize,
    /// Width of the residual stream.
    pub embedding_length: usize,
    /// Width of the feed-forward network.
    pub feed_forward_length: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Length of a head.
    pub head_length: usize,
    /// Positions that the model was trained for.
    pub context_length: usize,
    /// Added to the mean square in norms.
    pub norm_epsilon: f32,
    /// Base of the rotary frequencies.
    pub rotary_base: f32,
    /// How many of a head's elements are rotated; even.
    pub rotary_length: usize,
    /// Whether the file's query and key rows hold rotary pairs side by side.
    pub rotary_pairs_interleaved: bool,
    /// Frequency scaling.
    pub rotary_scaling: RopeScaling,
}

impl Description {
    /// Reads and checks the metadata.
    ///
    /// # Errors
    /// An architecture or variant that this crate does not run, or a number out of bounds.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let metadata = gguf.metadata();
        let architecture = metadata.required_str("general.architecture")?.to_owned();
        // The one place where architectures differ.
        let rotary_pairs_interleaved = match architecture.as_str() {
            "llama" => true,
            "qwen2" => false,
            other => return Err(unsupported_architecture(other)),
        };
        let key = |name: &str| format!("{architecture}.{name}");
        let required =
            |name: &str, max: usize| bounded(&key(name), metadata.required_u64(&key(name))?, max);
        let optional = |name: &str, default: usize, max: usize| match metadata.u64(&key(name))? {
            Some(value) => bounded(&key(name), value, max),
            None => Ok(default),
        };
        if metadata
            .u64(&key("expert_count"))?
            .is_some_and(|experts| experts > 0)
        {
            let message = "mixtures of experts are not supported yet".into();
            return Err(Error::UnsupportedModel { message });
        }
        let embedding_length = required("embedding_length", WIDTH_MAX)?;
        let heads = required("attention.head_count", HEADS_MAX)?;
        let kv_heads = optional("attention.head_count_kv", heads, HEADS_MAX)?;
        let head_length = optional(
            "attention.key_length",
            embedding_length / heads,
            WIDTH_MAX / heads,
        )?;
        let value_length = optional("attention.value_length", head_length, WIDTH_MAX)?;
        let rotary_length = optional("rope.dimension_count", head_length, head_length)?;
        let description = Self {
            blocks: required("block_count", BLOCKS_MAX)?,
            embedding_length,
            feed_forward_length: required("feed_forward_length", WIDTH_MAX)?,
            heads,
            kv_heads,
            head_length,
            context_length: required("context_length", usize::MAX)?.min(CONTEXT_MAX),
            norm_epsilon: metadata.required_f32(&key("attention.layer_norm_rms_epsilon"))?,
            rotary_base: metadata.f32(&key("rope.freq_base"))?.unwrap_or(10_000.0),
            rotary_length,
            rotary_pairs_interleaved,
            rotary_scaling: rope_scaling(gguf, &architecture, rotary_length)?,
            architecture,
        };
        description.check(value_length)?;
        Ok(description)
    }

    fn check(&self, value_length: usize) -> Result<()> {
        let invalid = |message: &str| {
            Err(Error::InvalidGguf {
                message: message.into(),
            })
        };
        if !self.heads.is_multiple_of(self.kv_heads) {
            return invalid("head_count is not a multiple of head_count_kv");
        }
        if value_length != self.head_length {
            let message = "keys and values of different lengths are not supported".into();
            return Err(Error::UnsupportedModel { message });
        }
        if self.head_length == 0 || self.rotary_length == 0 || !self.rotary_length.is_multiple_of(2)
        {
            return invalid("head length and rotary length must be positive, the latter even");
        }
        if !(self.norm_epsilon > 0.0 && self.norm_epsilon < 1.0) {
            return invalid("layer_norm_rms_epsilon is not between 0 and 1");
        }
        if !(self.rotary_base.is_finite() && self.rotary_base > 1.0) {
            return invalid("rope.freq_base is not above 1");
        }
        Ok(())
    }

    /// Returns the rotary frequencies.
    pub fn rotary_embedding(&self) -> RotaryEmbedding {
        RotaryEmbedding::new(self.rotary_length, self.rotary_base, &self.rotary_scaling)
    }

    /// Memory that one position of one sequence takes in the cache: a 32-bit key and value per
    /// element.
    pub fn cache_bytes_per_position(&self) -> u64 {
        (self.blocks * self.kv_heads * self.head_length * 2 * size_of::<f32>()) as u64
    }
}

fn unsupported_architecture(name: &str) -> Error {
    let supported = SUPPORTED_ARCHITECTURES.join(", ");
    let message = format!("architecture {name:?}; this build runs {supported}");
    Error::UnsupportedModel { message }
}

fn bounded(key: &str, value: u64, max: usize) -> Result<usize> {
    match usize::try_from(value) {
        Ok(value) if (1..=max).contains(&value) => Ok(value),
        _ => Err(Error::InvalidGguf {
            message: format!("{key} is {value}, not 1 to {max}"),
        }),
    }
}

fn rope_scaling(gguf: &Gguf, architecture: &str, rotary_length: usize) -> Result<RopeScaling> {
    let metadata = gguf.metadata();
    let key = |name: &str| format!("{architecture}.{name}");
    if let Some(tensor) = gguf.tensor("rope_freqs.weight") {
        let mut factors = vec![0.0f32; rotary_length / 2];
        crate::dequantize::dequantize(tensor.ty, tensor.data, &mut factors)?;
        if factors
            .iter()
            .any(|factor| !(factor.is_finite() && *factor > 0.0))
        {
            let message = "rope_freqs.weight has a factor that is not positive".into();
            return Err(Error::InvalidGguf { message });
        }
        return Ok(RopeScaling::PerFrequency(factors));
    }
    let factor = match metadata.f32(&key("rope.scaling.factor"))? {
        Some(factor) => Some(factor),
        // The older name of the same number.
        None => metadata.f32(&key("rope.scale_linear"))?,
    };
    match (metadata.str(&key("rope.scaling.type"))?, factor) {
        (Some("none"), _) | (None, None) => Ok(RopeScaling::None),
        (Some("linear") | None, Some(factor)) if factor.is_finite() && factor > 0.0 => {
            Ok(RopeScaling::Linear(factor))
        }
        (Some("linear"), None) => Ok(RopeScaling::None),
        (kind, factor) => Err(Error::UnsupportedModel {
            message: format!(
                "rope scaling {:?} with factor {factor:?}; \
                 supported are none, linear and rope_freqs",
                kind.unwrap_or("unnamed")
            ),
        }),
    }
}
