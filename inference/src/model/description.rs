//! What a file's metadata say of its architecture.
//!
//! Keys are llama.cpp's (`llama.block_count`, …). All numbers are bounded here, once: the decoder
//! trusts them. What a file does not say, its architecture does: [`Family`].

use crate::{
    error::{Error, Result},
    gguf::Gguf,
    layers::{Activation, RopeScaling, RotaryEmbedding},
    ops::cpu::KeysValuesShape,
};

/// The architectures that this crate runs, by their GGUF names.
pub const SUPPORTED_ARCHITECTURES: [&str; 3] = ["llama", "qwen2", "gemma3"];

/// What architectures differ in beyond numbers. Biases are there where the file has them.
#[derive(Debug, Clone, Copy)]
struct Family {
    /// Whether the file's query and key rows hold rotary pairs side by side.
    rotary_pairs_interleaved: bool,
    /// What bends the gate of the feed-forward network.
    activation: Activation,
    /// Whether each head of queries and keys is normalised.
    query_key_norms: bool,
    /// Whether what attention and feed-forward network add is normalised too.
    post_norms: bool,
    /// Whether embeddings are multiplied by the root of their length.
    scales_embedding: bool,
    /// Whether most blocks see a window only, where the file gives its length.
    slides: bool,
    /// Blocks of the one model whose queries are scaled by the width per head instead of a head's
    /// length. llama.cpp knows it by this number too: files do not say.
    blocks_scaled_by_width: Option<usize>,
}

const LLAMA: Family = Family {
    rotary_pairs_interleaved: true,
    activation: Activation::Silu,
    query_key_norms: false,
    post_norms: false,
    scales_embedding: false,
    slides: false,
    blocks_scaled_by_width: None,
};

const QWEN2: Family = Family {
    rotary_pairs_interleaved: false,
    ..LLAMA
};

/// Gemma's norms multiply by one plus their weight; files hold the sum.
const GEMMA3: Family = Family {
    rotary_pairs_interleaved: false,
    activation: Activation::GeluTanh,
    query_key_norms: true,
    post_norms: true,
    scales_embedding: true,
    slides: true,
    blocks_scaled_by_width: Some(62),
};

/// Gemma 3: every sixth block sees all positions, where the file says nothing else.
const WINDOW_PERIOD: usize = 6;
/// Base of the rotary frequencies of blocks with a window, where the file says nothing else.
const WINDOW_ROTARY_BASE: f32 = 10_000.0;

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
    /// Frequency scaling; blocks with a window have none.
    pub rotary_scaling: RopeScaling,
    /// What bends the gate of the feed-forward network.
    pub activation: Activation,
    /// Whether each head of queries and keys is normalised before it is rotated.
    pub query_key_norms: bool,
    /// Whether what attention and feed-forward network add is normalised.
    pub post_norms: bool,
    /// Factor of embeddings.
    pub embedding_scale: Option<f32>,
    /// Factor of attention scores.
    pub query_scale: f32,
    /// Blocks that see the last positions only.
    pub sliding_window: Option<SlidingWindow>,
}

/// Which blocks see the last positions only, and how many.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlidingWindow {
    /// How many positions a position sees, itself included.
    pub length: usize,
    /// The last of every so many blocks sees all positions.
    pub period: usize,
    /// Base of the rotary frequencies of blocks with a window.
    pub rotary_base: f32,
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
        let family = match architecture.as_str() {
            "llama" => LLAMA,
            "qwen2" => QWEN2,
            "gemma3" => GEMMA3,
            other => return Err(unsupported_architecture(other)),
        };
        let file = File {
            gguf,
            architecture: &architecture,
        };
        file.refuse_variants()?;
        let blocks = file.required("block_count", BLOCKS_MAX)?;
        let embedding_length = file.required("embedding_length", WIDTH_MAX)?;
        let heads = file.required("attention.head_count", HEADS_MAX)?;
        let head_length = file.optional(
            "attention.key_length",
            embedding_length / heads,
            WIDTH_MAX / heads,
        )?;
        let value_length = file.optional("attention.value_length", head_length, WIDTH_MAX)?;
        let rotary_length = file.optional("rope.dimension_count", head_length, head_length)?;
        let scaled_length = if family.blocks_scaled_by_width == Some(blocks) {
            embedding_length / heads
        } else {
            head_length
        };
        let description = Self {
            blocks,
            embedding_length,
            feed_forward_length: file.required("feed_forward_length", WIDTH_MAX)?,
            heads,
            kv_heads: file.optional("attention.head_count_kv", heads, HEADS_MAX)?,
            head_length,
            context_length: file
                .required("context_length", usize::MAX)?
                .min(CONTEXT_MAX),
            norm_epsilon: metadata.required_f32(&file.key("attention.layer_norm_rms_epsilon"))?,
            rotary_base: file.f32("rope.freq_base")?.unwrap_or(10_000.0),
            rotary_length,
            rotary_pairs_interleaved: family.rotary_pairs_interleaved,
            rotary_scaling: file.rope_scaling(rotary_length)?,
            activation: family.activation,
            query_key_norms: family.query_key_norms,
            post_norms: family.post_norms,
            embedding_scale: family
                .scales_embedding
                .then(|| (embedding_length as f32).sqrt()),
            query_scale: 1.0 / (scaled_length as f32).sqrt(),
            sliding_window: match family.slides {
                true => file.sliding_window()?,
                false => None,
            },
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
        let window_base = self.sliding_window.map(|window| window.rotary_base);
        let mut bases = [self.rotary_base].into_iter().chain(window_base);
        if !bases.all(|base| base.is_finite() && base > 1.0) {
            return invalid("rope.freq_base or rope.freq_base_swa is not above 1");
        }
        Ok(())
    }

    /// Returns the rotary frequencies.
    pub fn rotary_embedding(&self) -> RotaryEmbedding {
        RotaryEmbedding::new(self.rotary_length, self.rotary_base, &self.rotary_scaling)
    }

    /// Returns the rotary frequencies of blocks with a window, if there are any.
    pub fn windowed_rotary_embedding(&self) -> Option<RotaryEmbedding> {
        let base = self.sliding_window?.rotary_base;
        Some(RotaryEmbedding::new(
            self.rotary_length,
            base,
            &RopeScaling::None,
        ))
    }

    /// Returns how many positions a position sees in that block; all before it where `None`.
    pub fn window(&self, block: usize) -> Option<usize> {
        let window = self.sliding_window?;
        (!(block + 1).is_multiple_of(window.period)).then_some(window.length)
    }

    /// Memory that one position of one sequence takes in the cache, in bytes: keys and values in 16
    /// bits on the CPU, where rows of values are padded, in 32 on a GPU.
    pub fn cache_bytes_per_position(&self, is_gpu: bool) -> u64 {
        let bytes = if is_gpu {
            self.blocks * self.kv_heads * self.head_length * 2 * size_of::<f32>()
        } else {
            self.keys_values_shape().position_bytes()
        };
        bytes as u64
    }

    /// The shape of the cache's pages.
    pub fn keys_values_shape(&self) -> KeysValuesShape {
        KeysValuesShape {
            layers: self.blocks,
            kv_heads: self.kv_heads,
            head_length: self.head_length,
        }
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

/// Reads the keys that start with the architecture's name.
struct File<'a> {
    gguf: &'a Gguf,
    architecture: &'a str,
}

impl File<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn required(&self, name: &str, max: usize) -> Result<usize> {
        let key = self.key(name);
        bounded(&key, self.gguf.metadata().required_u64(&key)?, max)
    }

    fn optional(&self, name: &str, default: usize, max: usize) -> Result<usize> {
        let key = self.key(name);
        match self.gguf.metadata().u64(&key)? {
            Some(value) => bounded(&key, value, max),
            None => Ok(default),
        }
    }

    fn f32(&self, name: &str) -> Result<Option<f32>> {
        self.gguf.metadata().f32(&self.key(name))
    }

    /// Refuses what would be computed wrongly.
    fn refuse_variants(&self) -> Result<()> {
        let experts = self.gguf.metadata().u64(&self.key("expert_count"))?;
        let cap = self.f32("final_logit_softcapping")?;
        let message = if experts.is_some_and(|experts| experts > 0) {
            "mixtures of experts are not supported yet"
        } else if cap.is_some_and(|cap| cap != 0.0) {
            "capped logits are not supported"
        } else {
            return Ok(());
        };
        Err(Error::UnsupportedModel {
            message: message.into(),
        })
    }

    /// Returns the window where the file has one; a length of 0 says that it has none.
    fn sliding_window(&self) -> Result<Option<SlidingWindow>> {
        let key = self.key("attention.sliding_window");
        let length = self.gguf.metadata().u64(&key)?.unwrap_or(0);
        if length == 0 {
            return Ok(None);
        }
        let period = "attention.sliding_window_pattern";
        Ok(Some(SlidingWindow {
            length: bounded(&key, length, CONTEXT_MAX)?,
            period: self.optional(period, WINDOW_PERIOD, BLOCKS_MAX)?,
            rotary_base: self
                .f32("rope.freq_base_swa")?
                .unwrap_or(WINDOW_ROTARY_BASE),
        }))
    }

    fn rope_scaling(&self, rotary_length: usize) -> Result<RopeScaling> {
        if let Some(tensor) = self.gguf.tensor("rope_freqs.weight") {
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
        let factor = match self.f32("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            // The older name of the same number.
            None => self.f32("rope.scale_linear")?,
        };
        let kind = self.key("rope.scaling.type");
        match (self.gguf.metadata().str(&kind)?, factor) {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny(name: &str) -> Description {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/tiny");
        Description::from_gguf(&Gguf::open(&folder.join(name)).unwrap()).unwrap()
    }

    #[test]
    fn every_sixth_block_of_gemma_sees_all_positions() {
        let description = tiny("gemma3.gguf");
        let windows: Vec<_> = (0..7).map(|block| description.window(block)).collect();
        assert_eq!(windows[..5], [Some(8); 5]);
        assert_eq!(windows[5..], [None, Some(8)]);
        assert!(description.windowed_rotary_embedding().is_some());
    }

    #[test]
    fn only_blocks_without_a_window_are_stretched() {
        let description = tiny("gemma3-q8_0.gguf");
        assert_eq!(description.rotary_scaling, RopeScaling::Linear(8.0));
        let base = description.sliding_window.map(|window| window.rotary_base);
        assert_eq!(base, Some(WINDOW_ROTARY_BASE));
    }

    #[test]
    fn other_architectures_have_no_window() {
        let description = tiny("llama.gguf");
        assert_eq!(description.window(0), None);
        assert!(description.windowed_rotary_embedding().is_none());
    }
}
