//! Keys and values of the tokens that a sequence has seen.
//!
//! One buffer per layer grows by doubling; appending moves the tensors through burn's operations
//! by value, so the buffer is written in place while nobody else holds it. A clone shares the
//! buffers until one side appends (copy on write), which lets several answers continue one prompt.

use burn::tensor::{DType, Device, Tensor};

/// Positions of the first buffer of a sequence.
const CAPACITY_MIN: usize = 256;

/// The cache of one sequence.
#[derive(Debug, Clone)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    len: usize,
}

/// The cache of one layer: keys and values, `[kv_heads, capacity, head_length]` each.
#[derive(Debug, Clone)]
pub struct LayerCache {
    buffers: Option<(Tensor<3>, Tensor<3>)>,
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
    /// Returns an empty cache for a model of that many layers.
    pub fn new(layers: usize) -> Self {
        Self {
            layers: vec![LayerCache { buffers: None }; layers],
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
    /// Writes keys and values `[kv_heads, positions, head_length]` from position `start` on and
    /// returns all up to there.
    pub(crate) fn append(
        &mut self,
        start: usize,
        keys: Tensor<3>,
        values: Tensor<3>,
    ) -> KeysValues {
        let [heads, added, length] = keys.dims();
        let len = start + added;
        let device = keys.device();
        let buffers = self.buffers.take();
        let (key_buffer, value_buffer) = grow(buffers, [heads, len, length], &device);
        let slices = [0..heads, start..len, 0..length];
        let key_buffer = key_buffer.slice_assign(slices.clone(), keys);
        let value_buffer = value_buffer.slice_assign(slices, values);
        let (keys, values) = (key_buffer.clone(), value_buffer.clone());
        self.buffers = Some((key_buffer, value_buffer));
        KeysValues {
            keys: keys.narrow(1, 0, len),
            values: values.narrow(1, 0, len),
        }
    }
}

/// Returns buffers with room for `shape`, the old contents in front.
fn grow(
    buffers: Option<(Tensor<3>, Tensor<3>)>,
    shape: [usize; 3],
    device: &Device,
) -> (Tensor<3>, Tensor<3>) {
    let [heads, len, length] = shape;
    let capacity = buffers.as_ref().map_or(0, |(keys, _)| keys.dims()[1]);
    let zeros = |rows| Tensor::<3>::zeros([heads, rows, length], (device, DType::F32));
    match buffers {
        Some(buffers) if len <= capacity => buffers,
        Some((keys, values)) => {
            let added = len.next_power_of_two() - capacity;
            let extend = |old: Tensor<3>| Tensor::cat(vec![old, zeros(added)], 1);
            (extend(keys), extend(values))
        }
        None => {
            let capacity = len.next_power_of_two().max(CAPACITY_MIN);
            (zeros(capacity), zeros(capacity))
        }
    }
}
