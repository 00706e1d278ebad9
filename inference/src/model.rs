//! A decoder-only transformer, assembled from a description.
//!
//! What differs between architectures is data ([`description`]); the decoder is written once. A
//! further architecture of this family is a description and a test.

use crate::{
    backend::Backend,
    error::{Error, Result},
    gguf::{Gguf, TensorView},
    kv_cache::{DeviceCache, KvCache, LayerCaches, PagePool, SequenceCache},
    layers::{
        Attention, Block, Embedding, FeedForward, Linear, Positions, RmsNorm, RotaryEmbedding,
    },
    logits::LogitRows,
    ops::{
        cpu::{KeysValuesPage, LayerKeysValues, RowSpan},
        packed::RowOrder,
    },
};

use burn::tensor::Tensor;

mod description;

pub use description::{Description, SUPPORTED_ARCHITECTURES, SlidingWindow};

/// A loaded model. Immutable, so it serves any number of sequences.
#[derive(Debug)]
pub struct Model {
    description: Description,
    backend: Backend,
    embedding: Embedding,
    blocks: Vec<Block>,
    norm: RmsNorm,
    head: Linear,
    head_is_tied: bool,
    rotary: RotaryEmbedding,
    /// That of blocks with a window, where there are any.
    windowed_rotary: Option<RotaryEmbedding>,
    /// Of caches on the host.
    pages: Option<PagePool<KeysValuesPage>>,
}

/// Ids to append to one sequence of a batch.
#[derive(Debug)]
pub struct Span<'a> {
    /// The ids, at least one.
    pub ids: &'a [u32],
    /// The sequence's past.
    pub cache: &'a mut dyn SequenceCache,
    /// What is wanted.
    pub logits: Logits,
}

/// After which ids of a span logits are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logits {
    /// None: the ids are only to be seen.
    None,
    /// The last.
    Last,
    /// Each.
    All,
}

impl Model {
    /// Loads all weights of a file onto the backend's device.
    ///
    /// # Errors
    /// The architecture is not supported, or a tensor is missing or misshapen.
    pub fn load(gguf: &Gguf, backend: &Backend) -> Result<Self> {
        backend.run(|| Self::load_here(gguf, backend))
    }

    /// The same with the threads that this one shares its work with.
    pub(crate) fn load_here(gguf: &Gguf, backend: &Backend) -> Result<Self> {
        let description = Description::from_gguf(gguf)?;
        let loader = Loader {
            gguf,
            backend,
            description: &description,
        };
        let table = loader.tensor("token_embd.weight")?;
        let embedding = Embedding::load(&table)?;
        loader.expect_shape("token_embd.weight", embedding.shape(), None)?;
        let blocks = (0..description.blocks).map(|index| loader.block(index));
        let blocks = blocks.collect::<Result<_>>()?;
        let norm = loader.norm("output_norm.weight", description.embedding_length)?;
        let (head, head_is_tied) = loader.head(&embedding)?;
        let rotary = description.rotary_embedding();
        let windowed_rotary = description.windowed_rotary_embedding();
        let (description, backend) = (description.clone(), backend.clone());
        let pages = || PagePool::new(description.keys_values_shape(), usize::MAX);
        Ok(Self {
            pages: (!backend.is_gpu()).then(pages),
            description,
            backend,
            embedding,
            blocks,
            norm,
            head,
            head_is_tied,
            rotary,
            windowed_rotary,
        })
    }

    /// Length of a logits vector.
    pub fn vocabulary_size(&self) -> usize {
        self.head.shape()[0]
    }

    /// Context that the model was made for, in positions.
    pub fn context_length(&self) -> usize {
        self.description.context_length
    }

    /// What the model is.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Returns an empty cache for one sequence.
    pub fn new_cache(&self) -> KvCache {
        match &self.pages {
            Some(pages) => KvCache::Host(pages.table()),
            None => self.new_plain_cache(),
        }
    }

    /// Returns an empty cache in burn's tensors, 32 bits a value. A sequence in it goes through
    /// burn's operations also on the CPU: slower, and what the fused ones are held to.
    pub fn new_plain_cache(&self) -> KvCache {
        KvCache::Device(DeviceCache::new(self.blocks.len()))
    }

    /// The pages that caches are made of; none on a GPU.
    pub fn pages(&self) -> Option<&PagePool<KeysValuesPage>> {
        self.pages.as_ref()
    }

    /// Appends ids to a sequence and returns the logits that follow the last of them.
    ///
    /// # Errors
    /// No ids, or an id outside the vocabulary; the cache is then unchanged.
    pub fn forward(&self, ids: &[u32], cache: &mut KvCache) -> Result<Vec<f32>> {
        let logits = Logits::Last;
        let rows = self.forward_batch(&mut [Span { ids, cache, logits }])?;
        Ok(rows.into_values())
    }

    /// Like [`Self::forward`], but returns the logits after every id.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_all(&self, ids: &[u32], cache: &mut KvCache) -> Result<LogitRows> {
        let logits = Logits::All;
        self.forward_batch(&mut [Span { ids, cache, logits }])
    }

    /// Appends ids to several sequences at once, and returns the logits that each asks for, in
    /// their order. On the CPU they are the same, to the bit, as for each sequence alone and each
    /// id alone.
    ///
    /// # Errors
    /// As [`Self::forward`], for any of them; all caches are then unchanged.
    pub fn forward_batch(&self, spans: &mut [Span<'_>]) -> Result<LogitRows> {
        if spans.is_empty() {
            return Ok(LogitRows::default());
        }
        self.backend.run(|| {
            let hidden = self.hidden(spans)?;
            let Some(hidden) = asked_for(hidden, spans) else {
                return Ok(LogitRows::default());
            };
            let logits = read(self.head.forward(self.norm.forward(hidden)))?;
            Ok(LogitRows::new(logits, self.vocabulary_size()))
        })
    }

    /// Runs the blocks over new positions; the rows of all spans, one after another.
    fn hidden(&self, spans: &mut [Span<'_>]) -> Result<Tensor<2>> {
        let mut ids = Vec::new();
        let mut row_spans = Vec::with_capacity(spans.len());
        for span in spans.iter() {
            if span.ids.is_empty() {
                let message = "must have at least one token".into();
                return Err(Error::InvalidRequest {
                    field: "prompt",
                    message,
                });
            }
            let rows = ids.len()..ids.len() + span.ids.len();
            let start = span.cache.len();
            row_spans.push(RowSpan { rows, start });
            ids.extend_from_slice(span.ids);
        }
        let mut hidden = self.embedding.forward(&ids, &self.backend)?;
        reserve(spans)?;
        if let Some(scale) = self.description.embedding_scale {
            hidden = hidden * scale;
        }
        let device = self.backend.device();
        let windowed = self.windowed_rotary.as_ref().map(|rotary| {
            let window = self.description.sliding_window.map(|window| window.length);
            Positions::new(row_spans.clone(), rotary, window, device)
        });
        let global = Positions::new(row_spans, &self.rotary, None, device);
        let positions = |block: &Block| match &windowed {
            Some(windowed) if block.attention.window.is_some() => windowed,
            _ => &global,
        };
        let host_pages = spans.iter().map(|span| span.cache.host_pages());
        if let Some(pages) = host_pages.collect::<Option<Vec<_>>>() {
            let shape = self.description.keys_values_shape();
            for (index, block) in self.blocks.iter().enumerate() {
                let layer = |pages| LayerKeysValues::new(pages, index, shape);
                let caches = pages.iter().map(|pages| layer(pages)).collect();
                hidden = block.forward(hidden, positions(block), LayerCaches::Host(caches));
            }
        } else {
            for (index, block) in self.blocks.iter().enumerate() {
                let layers = spans.iter_mut().map(|span| span.cache.device_layer(index));
                let layers = layers.collect::<Option<_>>().ok_or_else(mixed_caches)?;
                hidden = block.forward(hidden, positions(block), LayerCaches::Device(layers));
            }
        }
        for span in spans {
            span.cache.advance(span.ids.len());
        }
        Ok(hidden)
    }

    /// Memory of all weights, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let blocks: u64 = self.blocks.iter().map(Block::size_bytes).sum();
        let head = if self.head_is_tied {
            0
        } else {
            self.head.size_bytes()
        };
        self.embedding.size_bytes() + blocks + head
    }

    /// Memory that one position of one sequence takes in the cache, in bytes.
    pub fn cache_bytes_per_position(&self) -> u64 {
        self.description
            .cache_bytes_per_position(self.backend.is_gpu())
    }
}

impl Span<'_> {
    /// How many logits vectors it gets.
    fn logits_len(&self) -> usize {
        match self.logits {
            Logits::None => 0,
            Logits::Last => 1,
            Logits::All => self.ids.len(),
        }
    }
}

/// Makes room for the spans' ids.
///
/// # Errors
/// There is none for all of them; no cache has changed then.
fn reserve(spans: &mut [Span<'_>]) -> Result<()> {
    let reserved = spans
        .iter_mut()
        .try_for_each(|span| span.cache.reserve(span.ids.len()));
    if reserved.is_err() {
        for span in spans {
            span.cache.truncate(span.cache.len());
        }
    }
    Ok(reserved?)
}

fn mixed_caches() -> Error {
    Error::Internal {
        message: "caches on the host and on a device in one pass".into(),
    }
}

/// Keeps the rows after which logits are wanted, if there are any.
fn asked_for(hidden: Tensor<2>, spans: &[Span<'_>]) -> Option<Tensor<2>> {
    if spans.iter().all(|span| span.logits_len() == span.ids.len()) {
        return Some(hidden);
    }
    let mut end = 0;
    let parts = spans.iter().filter_map(|span| {
        end += span.ids.len();
        let len = span.logits_len();
        (len > 0).then(|| hidden.clone().narrow(0, end - len, len))
    });
    let parts: Vec<_> = parts.collect();
    (!parts.is_empty()).then(|| Tensor::cat(parts, 0))
}

/// Reads a result back from the device.
fn read(logits: Tensor<2>) -> Result<Vec<f32>> {
    logits
        .into_data()
        .try_into_vec::<f32>()
        .map_err(|error| Error::Internal {
            message: format!("reading logits back failed: {error:?}"),
        })
}

/// Finds tensors by name and checks their shapes.
struct Loader<'a> {
    gguf: &'a Gguf,
    backend: &'a Backend,
    description: &'a Description,
}

impl<'a> Loader<'a> {
    fn tensor(&self, name: &str) -> Result<TensorView<'a>> {
        self.gguf.tensor(name).ok_or_else(|| Error::InvalidGguf {
            message: format!("tensor {name:?} is missing"),
        })
    }

    fn expect_shape(&self, name: &str, shape: [usize; 2], rows: Option<usize>) -> Result<()> {
        let columns = self.description.embedding_length;
        if shape[1] != columns || rows.is_some_and(|rows| rows != shape[0]) {
            let message =
                format!("tensor {name:?} has shape {shape:?}, expected {columns} columns");
            return Err(Error::InvalidGguf { message });
        }
        Ok(())
    }

    fn block(&self, index: usize) -> Result<Block> {
        let norm = |part: &str| {
            self.norm(
                &format!("blk.{index}.{part}.weight"),
                self.description.embedding_length,
            )
        };
        let post_norm = |part| self.description.post_norms.then(|| norm(part)).transpose();
        Ok(Block {
            attention_norm: norm("attn_norm")?,
            attention: self.attention(index)?,
            attention_post_norm: post_norm("post_attention_norm")?,
            feed_forward_norm: norm("ffn_norm")?,
            feed_forward: self.feed_forward(index)?,
            feed_forward_post_norm: post_norm("post_ffw_norm")?,
        })
    }

    fn attention(&self, index: usize) -> Result<Attention> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let shape = self.description;
        let width = shape.embedding_length;
        let query_rows = shape.heads * shape.head_length;
        let kv_rows = shape.kv_heads * shape.head_length;
        let rotated = self.rotated_order();
        let stored = RowOrder::AsStored;
        let head_norm = |part| {
            let norm = || self.norm(&name(part), shape.head_length);
            shape.query_key_norms.then(norm).transpose()
        };
        Ok(Attention {
            query: self.linear(&name("attn_q"), [query_rows, width], rotated)?,
            key: self.linear(&name("attn_k"), [kv_rows, width], rotated)?,
            value: self.linear(&name("attn_v"), [kv_rows, width], stored)?,
            output: self.linear(&name("attn_output"), [width, query_rows], stored)?,
            query_norm: head_norm("attn_q_norm.weight")?,
            key_norm: head_norm("attn_k_norm.weight")?,
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            head_length: shape.head_length,
            query_scale: shape.query_scale,
            window: shape.window(index),
        })
    }

    fn feed_forward(&self, index: usize) -> Result<FeedForward> {
        let width = self.description.embedding_length;
        let inner = self.description.feed_forward_length;
        let linear = |part: &str, shape| {
            self.linear(&format!("blk.{index}.{part}"), shape, RowOrder::AsStored)
        };
        Ok(FeedForward {
            gate: linear("ffn_gate", [inner, width])?,
            up: linear("ffn_up", [inner, width])?,
            down: linear("ffn_down", [width, inner])?,
            activation: self.description.activation,
        })
    }

    /// Rows of queries and keys: pairs of the rotary embedding become halves.
    fn rotated_order(&self) -> RowOrder {
        if self.description.rotary_pairs_interleaved {
            let (head, rotary) = (self.description.head_length, self.description.rotary_length);
            RowOrder::DeinterleavePairs { head, rotary }
        } else {
            RowOrder::AsStored
        }
    }

    fn norm(&self, name: &str, length: usize) -> Result<RmsNorm> {
        let tensor = self.tensor(name)?;
        if tensor.shape != [length as u64] {
            let message = format!(
                "tensor {name:?} has shape {:?}, the metadata say [{length}]",
                tensor.shape
            );
            return Err(Error::InvalidGguf { message });
        }
        RmsNorm::load(&tensor, self.description.norm_epsilon, self.backend)
    }

    /// Loads `{name}.weight` and, where the file has it, `{name}.bias`.
    fn linear(&self, name: &str, shape: [usize; 2], order: RowOrder) -> Result<Linear> {
        let weight = self.tensor(&format!("{name}.weight"))?;
        let bias = self.gguf.tensor(&format!("{name}.bias"));
        let [rows, columns] = shape.map(|length| length as u64);
        if weight.shape != [columns, rows] || bias.as_ref().is_some_and(|bias| bias.shape != [rows])
        {
            let message = format!(
                "tensor {name:?} has shape {:?}, the metadata say {:?}",
                weight.shape,
                [columns, rows]
            );
            return Err(Error::InvalidGguf { message });
        }
        Linear::load(&weight, bias.as_ref(), order, self.backend)
    }

    /// Loads the output head, or takes the embedding's table where the file ties them.
    fn head(&self, embedding: &Embedding) -> Result<(Linear, bool)> {
        let tied = || self.tensor("token_embd.weight");
        let (tensor, is_tied) = match self.gguf.tensor("output.weight") {
            Some(tensor) => (tensor, false),
            None => (tied()?, true),
        };
        if is_tied && let Some(head) = embedding.tied_head(self.backend) {
            return Ok((head, true));
        }
        let head = Linear::load(&tensor, None, RowOrder::AsStored, self.backend)?;
        self.expect_shape(tensor.name, head.shape(), Some(embedding.shape()[0]))?;
        Ok((head, false))
    }
}
