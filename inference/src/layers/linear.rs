//! A linear layer over a weight in the form that its device wants.

use std::sync::Arc;

use burn::{
    backend::Dispatch,
    tensor::{Tensor, TensorData},
};

use super::Vector;
use crate::{
    backend::Backend,
    dequantize::dequantize,
    error::{Error, Result},
    gguf::TensorView,
    ops::{
        self, Weight,
        cpu::Projection,
        packed::{PackedMatrix, RowOrder},
    },
};

/// `x · Wᵀ + b`.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Weight<Dispatch>,
    bias: Option<Vector>,
    shape: [usize; 2],
    size_bytes: u64,
}

impl Linear {
    /// Loads a matrix: packed for the CPU's kernels, as plain floats for a GPU.
    ///
    /// # Errors
    /// The tensor is not a matrix, or its data does not match its shape.
    pub fn load(
        weight: &TensorView<'_>,
        bias: Option<&TensorView<'_>>,
        order: RowOrder,
        backend: &Backend,
    ) -> Result<Self> {
        let bias = bias
            .map(|bias| Vector::load(bias, order, backend))
            .transpose()?;
        if !backend.is_gpu() {
            return Ok(Self::from_packed(
                Arc::new(PackedMatrix::from_gguf(weight, order)?),
                bias,
            ));
        }
        let &[columns, rows] = weight.shape else {
            let message = format!("tensor {:?} is not a matrix", weight.name);
            return Err(Error::InvalidGguf { message });
        };
        let shape = [rows as usize, columns as usize];
        let values = load_values(weight, order, shape[1])?;
        let size_bytes = values.len() as u64 * 4;
        let dense = Tensor::<2>::from_data(TensorData::new(values, shape), backend.device());
        Ok(Self {
            weight: Weight::Dense(dense.into_dispatch()),
            bias,
            shape,
            size_bytes,
        })
    }

    /// Shares a matrix that something else holds too (tied embeddings).
    pub fn from_packed(matrix: Arc<PackedMatrix>, bias: Option<Vector>) -> Self {
        let shape = [matrix.rows(), matrix.columns()];
        let size_bytes = matrix.size_bytes();
        Self {
            weight: Weight::Packed(matrix),
            bias,
            shape,
            size_bytes,
        }
    }

    /// `[out_features, in_features]`.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Memory that the layer takes, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Applies the layer to rows.
    pub fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        let output = ops::linear(input, self.weight.clone());
        match &self.bias {
            Some(bias) => output + bias.tensor().unsqueeze(),
            None => output,
        }
    }

    /// What kernels on the host read, if the weight is theirs.
    pub(super) fn on_host(&self) -> Option<Projection<'_>> {
        match &self.weight {
            Weight::Packed(matrix) => Some(Projection {
                matrix,
                bias: self.bias.as_ref().map(Vector::host),
            }),
            Weight::Dense(_) => None,
        }
    }
}

/// Dequantizes a tensor whose rows have `columns` elements, its rows in the given order.
pub(super) fn load_values(
    tensor: &TensorView<'_>,
    order: RowOrder,
    columns: usize,
) -> Result<Vec<f32>> {
    let len: u64 = tensor.shape.iter().product();
    let mut stored = vec![0.0f32; len as usize];
    dequantize(tensor.ty, tensor.data, &mut stored)?;
    tensor.release(0..tensor.data.len());
    if order == RowOrder::AsStored {
        return Ok(stored);
    }
    let rows = stored.len() / columns;
    let mut values = Vec::with_capacity(stored.len());
    for row in 0..rows {
        let source = order.source(row);
        values.extend_from_slice(&stored[source * columns..(source + 1) * columns]);
    }
    Ok(values)
}
