//! Keys and values of the tokens that a sequence has seen.
//!
//! On the CPU a layer's are 16-bit floats in the form that the attention kernel reads; elsewhere
//! they are tensors on the device, which move through burn's operations by value, so that buffers
//! are written in place while nobody else holds them. Either grows by doubling. A clone shares the
//! buffers until one side appends (copy on write), which lets several answers continue one prompt.

use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor};

use crate::ops::cpu::LayerKeysValues;

/// Positions of the first buffer of a sequence.
const CAPACITY_MIN: usize = 256;

/// The cache of one sequence.
#[derive(Debug, Clone)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    len: usize,
}

/// The cache of one layer.
#[derive(Debug, Clone)]
pub enum LayerCache {
    /// For the fused block on the CPU.
    Host(Arc<LayerKeysValues>),
    /// Keys and values for burn's operations, `[kv_heads, capacity, head_length]` each.
    Device(Option<Box<[Tensor<3>; 2]>>),
}

/// What a layer's cache holds, for attention: `[kv_heads, len, head_length]` each.
#[derive(Debug)]
pub struct KeysValues {
    /// Keys, already rotated.
    pub keys: Tensor<3>,
    /// Values.
    pub values: Tensor<3>,
}

impl KvCache {
    /// Returns an empty cache for the fused block on the CPU.
    pub fn on_host(layers: usize, kv_heads: usize, head_length: usize) -> Self {
        let layer = Arc::new(LayerKeysValues::new(kv_heads, head_length));
        Self {
            layers: vec![LayerCache::Host(layer); layers],
            len: 0,
        }
    }

    /// Returns an empty cache for burn's operations.
    pub fn on_device(layers: usize) -> Self {
        Self {
            layers: vec![LayerCache::Device(None); layers],
            len: 0,
        }
    }

    /// Number of positions held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets all but the first `len` positions.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Returns one layer's cache.
    pub(crate) fn layer(&mut self, index: usize) -> &mut LayerCache {
        &mut self.layers[index]
    }

    /// Counts positions in, after every layer has taken them.
    pub(crate) fn advance(&mut self, positions: usize) {
        self.len += positions;
    }
}

impl LayerCache {
    /// Returns a cache on the host, with room for so many positions.
    pub(crate) fn reserve_on_host(&mut self, positions: usize) -> Option<&LayerKeysValues> {
        match self {
            Self::Host(layer) => {
                let layer = Arc::make_mut(layer);
                layer.reserve(positions);
                Some(layer)
            }
            Self::Device(_) => None,
        }
    }

    /// Writes keys and values `[kv_heads, positions, head_length]` from position `start` on and
    /// returns all up to there.
    ///
    /// # Panics
    /// If the cache is on the host: those are the fused block's alone.
    pub(crate) fn append(
        &mut self,
        start: usize,
        keys: Tensor<3>,
        values: Tensor<3>,
    ) -> KeysValues {
        let Self::Device(buffers) = self else {
            unreachable!("a model gives out caches of the kind that its blocks use");
        };
        let [heads, added, length] = keys.dims();
        let len = start + added;
        let device = keys.device();
        let old = buffers.take().map(|buffers| *buffers);
        let [key_buffer, value_buffer] = grow(old, [heads, len, length], &device);
        let slices = [0..heads, start..len, 0..length];
        let key_buffer = key_buffer.slice_assign(slices.clone(), keys);
        let value_buffer = value_buffer.slice_assign(slices, values);
        let (keys, values) = (key_buffer.clone(), value_buffer.clone());
        *buffers = Some(Box::new([key_buffer, value_buffer]));
        KeysValues {
            keys: keys.narrow(1, 0, len),
            values: values.narrow(1, 0, len),
        }
    }
}

/// Returns buffers with room for `shape`, the old contents in front.
fn grow(buffers: Option<[Tensor<3>; 2]>, shape: [usize; 3], device: &Device) -> [Tensor<3>; 2] {
    let [heads, len, length] = shape;
    let capacity = buffers.as_ref().map_or(0, |[keys, _]| keys.dims()[1]);
    let zeros = |rows| Tensor::<3>::zeros([heads, rows, length], (device, DType::F32));
    match buffers {
        Some(buffers) if len <= capacity => buffers,
        Some(buffers) => {
            let added = len.next_power_of_two() - capacity;
            let extend = |old: Tensor<3>| Tensor::cat(vec![old, zeros(added)], 1);
            buffers.map(extend)
        }
        None => {
            let capacity = len.next_power_of_two().max(CAPACITY_MIN);
            [zeros(capacity), zeros(capacity)]
        }
    }
}
