//! The operations that burn does not have, behind one backend extension trait.
//!
//! Every operation has a default body of plain burn operations. The default serves any backend,
//! and it is the oracle that faster bodies are tested against. The CPU backend overrides what
//! is hot: its bodies live in [`cpu`], the weights that they read in [`packed`].

use std::{ops::Range, sync::Arc};

use burn::{
    backend::{
        Backend, Dispatch, ExtensionType, Flex, TensorMetadata, backend_extension,
        tensor::FloatTensor,
    },
    tensor::Tensor,
};

pub mod cpu;
pub mod packed;
#[cfg(test)]
mod tests;

use cpu::{BlockWeights, EncoderWeights, InstructionSet, LayerKeysValues, Rows};
use packed::PackedMatrix;

/// The weight of a linear layer, `[out_features, in_features]`, where its backend wants it.
#[derive(Debug, Clone, ExtensionType)]
pub enum Weight<B: Backend> {
    /// In host memory and the file's precision, tiled for the CPU kernels.
    Packed(Arc<PackedMatrix>),
    /// Plain floats on the device.
    Dense(FloatTensor<B>),
}

/// Operations of language models beyond burn's own.
#[backend_extension(Flex, Cube: cfg(feature = "gpu"))]
pub trait LanguageModelOps: Backend {
    /// Returns `input · weightᵀ`: `[rows, in_features]` becomes `[rows, out_features]`.
    ///
    /// A body may quantize the input to 8 bits per block of 32, as ggml does; the result then
    /// differs from the default's by that rounding.
    fn linear(
        input: FloatTensor<Self>,
        #[extension_type] weight: Weight<Self>,
    ) -> FloatTensor<Self> {
        linear_by_burn_ops::<Self>(input, weight)
    }
}

impl LanguageModelOps for Flex {
    fn linear(input: FloatTensor<Self>, weight: Weight<Self>) -> FloatTensor<Self> {
        match weight {
            Weight::Packed(matrix) => cpu::linear(&input, &matrix),
            dense @ Weight::Dense(_) => linear_by_burn_ops::<Self>(input, dense),
        }
    }
}

#[cfg(feature = "gpu")]
impl LanguageModelOps for burn::backend::Cube {}

/// Operations that replace several of burn's on the CPU. Their defaults are
/// [`layers`](crate::layers), which says in burn's operations what they compute.
#[backend_extension(Flex)]
pub trait FusedOps: Backend {
    /// Applies a transformer block to `[rows, features]` and adds the rows' keys and values to the
    /// caches, one for each span, which have room.
    fn transformer_block(
        hidden: FloatTensor<Self>,
        block: &BlockWeights<'_>,
        rows: Rows<'_>,
        caches: &[LayerKeysValues<'_>],
    ) -> FloatTensor<Self>;

    /// Applies an encoder to `[rows, features]`, the rows of sequences one after another.
    fn encoder(
        hidden: FloatTensor<Self>,
        weights: &EncoderWeights,
        sequences: &[Range<usize>],
    ) -> FloatTensor<Self>;
}

impl FusedOps for Flex {
    fn transformer_block(
        mut hidden: FloatTensor<Self>,
        block: &BlockWeights<'_>,
        rows: Rows<'_>,
        caches: &[LayerKeysValues<'_>],
    ) -> FloatTensor<Self> {
        if !hidden.is_contiguous() {
            hidden = hidden.to_contiguous();
        }
        let (set, pool) = (InstructionSet::detect(), cpu::pool::current());
        let values = hidden.storage_mut::<f32>();
        cpu::transformer_block(set, &pool, block, rows, caches, values);
        hidden
    }

    fn encoder(
        mut hidden: FloatTensor<Self>,
        weights: &EncoderWeights,
        sequences: &[Range<usize>],
    ) -> FloatTensor<Self> {
        if !hidden.is_contiguous() {
            hidden = hidden.to_contiguous();
        }
        let (set, pool) = (InstructionSet::detect(), cpu::pool::current());
        cpu::encoder(set, &pool, weights, sequences, hidden.storage_mut::<f32>());
        hidden
    }
}

/// Applies a transformer block on the CPU.
pub fn transformer_block(
    hidden: Tensor<2>,
    block: &BlockWeights<'_>,
    rows: Rows<'_>,
    caches: &[LayerKeysValues<'_>],
) -> Tensor<2> {
    let hidden = hidden.into_dispatch();
    Tensor::from_dispatch(Dispatch::transformer_block(hidden, block, rows, caches))
}

/// Applies an encoder on the CPU.
pub fn encoder(
    hidden: Tensor<2>,
    weights: &EncoderWeights,
    sequences: &[Range<usize>],
) -> Tensor<2> {
    let hidden = hidden.into_dispatch();
    Tensor::from_dispatch(Dispatch::encoder(hidden, weights, sequences))
}

/// Returns `input · weightᵀ` on any device.
pub fn linear(input: Tensor<2>, weight: Weight<Dispatch>) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::linear(input.into_dispatch(), weight))
}

/// The default body of [`LanguageModelOps::linear`]: dequantize, then multiply.
pub fn linear_by_burn_ops<B: Backend>(input: FloatTensor<B>, weight: Weight<B>) -> FloatTensor<B> {
    let dense = match weight {
        Weight::Dense(dense) => dense,
        Weight::Packed(matrix) => B::float_from_data(matrix.to_tensor_data(), &input.device()),
    };
    B::float_matmul(input, B::float_transpose(dense))
}
