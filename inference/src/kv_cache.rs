//! Keys and values of the tokens that a sequence has seen.
//!
//! On the CPU they are 16-bit floats in [`pages`] that hold all layers, in the form that the
//! attention kernel reads. A clone shares pages until one side appends (copy on write), and
//! [`prefixes`] keeps pages for sequences that begin alike. Elsewhere they are tensors on the
//! device, which move through burn's operations by value, so that buffers are written in place
//! while nobody else holds them; they grow by doubling.

use burn::tensor::{DType, Device, Tensor};

use crate::ops::cpu::{KeysValuesPage, LayerKeysValues};

mod pages;
mod prefixes;

pub use self::{
    pages::{CacheFull, PAGE_LEN, PageContent, PagePool, PageTable},
    prefixes::PrefixTree,
};

/// Positions of the first buffer of a sequence on a device.
const CAPACITY_MIN: usize = 256;

/// What a forward pass needs of a sequence's cache. The kernels trust that nobody else writes its
/// last pages, so there are no other implementations than those here.
pub trait SequenceCache: sealed::Sealed + std::fmt::Debug {
    /// Number of positions held.
    fn len(&self) -> usize;

    /// Whether nothing is held.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets all but the first `len` positions.
    fn truncate(&mut self, len: usize);

    /// Makes room for so many more positions.
    ///
    /// # Errors
    /// There may not be as many pages; nothing has changed then.
    fn reserve(&mut self, positions: usize) -> Result<(), CacheFull>;

    /// Counts positions in, after every layer has taken them.
    fn advance(&mut self, positions: usize);

    /// Returns the pages, if they are on the host.
    fn host_pages(&self) -> Option<Vec<&KeysValuesPage>>;

    /// Returns one layer's tensors, if they are on a device.
    fn device_layer(&mut self, index: usize) -> Option<&mut DeviceLayer>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::KvCache {}
    impl Sealed for super::DeviceCache {}
    impl Sealed for super::PageTable<crate::ops::cpu::KeysValuesPage> {}
}

/// The cache of one sequence.
#[derive(Debug, Clone)]
pub enum KvCache {
    /// For the fused block on the CPU.
    Host(PageTable<KeysValuesPage>),
    /// For burn's operations.
    Device(DeviceCache),
}

/// A cache in burn's tensors.
#[derive(Debug, Clone)]
pub struct DeviceCache {
    layers: Vec<DeviceLayer>,
    len: usize,
}

/// One layer's keys and values, `[kv_heads, capacity, head_length]` each.
#[derive(Debug, Clone, Default)]
pub struct DeviceLayer(Option<Box<[Tensor<3>; 2]>>);

/// One layer's caches of several sequences.
#[derive(Debug)]
pub enum LayerCaches<'a> {
    /// For the fused block on the CPU; they have room.
    Host(Vec<LayerKeysValues<'a>>),
    /// For burn's operations.
    Device(Vec<&'a mut DeviceLayer>),
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
    /// Number of positions held.
    pub fn len(&self) -> usize {
        self.inner().len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets all but the first `len` positions.
    pub fn truncate(&mut self, len: usize) {
        self.inner_mut().truncate(len);
    }

    fn inner(&self) -> &dyn SequenceCache {
        match self {
            Self::Host(table) => table,
            Self::Device(cache) => cache,
        }
    }

    fn inner_mut(&mut self) -> &mut dyn SequenceCache {
        match self {
            Self::Host(table) => table,
            Self::Device(cache) => cache,
        }
    }
}

impl SequenceCache for KvCache {
    fn len(&self) -> usize {
        self.inner().len()
    }

    fn truncate(&mut self, len: usize) {
        self.inner_mut().truncate(len);
    }

    fn reserve(&mut self, positions: usize) -> Result<(), CacheFull> {
        self.inner_mut().reserve(positions)
    }

    fn advance(&mut self, positions: usize) {
        self.inner_mut().advance(positions);
    }

    fn host_pages(&self) -> Option<Vec<&KeysValuesPage>> {
        self.inner().host_pages()
    }

    fn device_layer(&mut self, index: usize) -> Option<&mut DeviceLayer> {
        self.inner_mut().device_layer(index)
    }
}

impl SequenceCache for PageTable<KeysValuesPage> {
    fn len(&self) -> usize {
        self.len()
    }

    fn truncate(&mut self, len: usize) {
        self.truncate(len);
    }

    fn reserve(&mut self, positions: usize) -> Result<(), CacheFull> {
        self.reserve(positions)
    }

    fn advance(&mut self, positions: usize) {
        self.advance(positions);
    }

    fn host_pages(&self) -> Option<Vec<&KeysValuesPage>> {
        Some(self.contents().collect())
    }

    fn device_layer(&mut self, _index: usize) -> Option<&mut DeviceLayer> {
        None
    }
}

impl SequenceCache for DeviceCache {
    fn len(&self) -> usize {
        self.len
    }

    fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    fn reserve(&mut self, _positions: usize) -> Result<(), CacheFull> {
        Ok(())
    }

    fn advance(&mut self, positions: usize) {
        self.len += positions;
    }

    fn host_pages(&self) -> Option<Vec<&KeysValuesPage>> {
        None
    }

    fn device_layer(&mut self, index: usize) -> Option<&mut DeviceLayer> {
        self.layers.get_mut(index)
    }
}

impl DeviceCache {
    /// Returns an empty cache.
    pub fn new(layers: usize) -> Self {
        Self {
            layers: vec![DeviceLayer::default(); layers],
            len: 0,
        }
    }
}

impl DeviceLayer {
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
        let old = self.0.take().map(|buffers| *buffers);
        let [key_buffer, value_buffer] = grow(old, [heads, len, length], &device);
        let slices = [0..heads, start..len, 0..length];
        let key_buffer = key_buffer.slice_assign(slices.clone(), keys);
        let value_buffer = value_buffer.slice_assign(slices, values);
        let (keys, values) = (key_buffer.clone(), value_buffer.clone());
        self.0 = Some(Box::new([key_buffer, value_buffer]));
        KeysValues {
            keys: keys.narrow(1, 0, len),
            values: values.narrow(1, 0, len),
        }
    }
}

/// Positions that a device's buffer has room for when it holds so many.
pub(crate) fn device_capacity(positions: usize) -> usize {
    positions.next_power_of_two().max(CAPACITY_MIN)
}

/// Returns buffers with room for `shape`, the old contents in front.
fn grow(buffers: Option<[Tensor<3>; 2]>, shape: [usize; 3], device: &Device) -> [Tensor<3>; 2] {
    let [heads, len, length] = shape;
    let capacity = buffers.as_ref().map_or(0, |[keys, _]| keys.dims()[1]);
    let zeros = |rows| Tensor::<3>::zeros([heads, rows, length], (device, DType::F32));
    match buffers {
        Some(buffers) if len <= capacity => buffers,
        Some(buffers) => {
            let added = device_capacity(len) - capacity;
            let extend = |old: Tensor<3>| Tensor::cat(vec![old, zeros(added)], 1);
            buffers.map(extend)
        }
        None => {
            let capacity = device_capacity(len);
            [zeros(capacity), zeros(capacity)]
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    pub(crate) use super::pages::tests::Numbers;
}
