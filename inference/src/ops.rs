//! The operations that burn does not have, behind one backend extension trait.
//!
//! Every operation has a default body of plain burn operations. The default serves any backend,
//! and it is the oracle that faster bodies are tested against. The CPU backend overrides what
//! is hot: its bodies live in [`cpu`], the weights that they read in [`packed`].

use std::sync::Arc;

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
