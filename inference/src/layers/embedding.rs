//! Token embeddings, looked up on the host: the ids are there, and a row is small.

use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};

use super::{Linear, linear::load_values};
use crate::{
    backend::Backend,
    error::{Error, Result},
    gguf::TensorView,
    ops::packed::{Layout, PackedMatrix, RowOrder},
};

/// The embedding table `[vocabulary, features]`.
#[derive(Debug, Clone)]
pub struct Embedding {
    rows: Rows,
    shape: [usize; 2],
}

#[derive(Debug, Clone)]
enum Rows {
    Packed(Arc<PackedMatrix>),
    Dense(Arc<Vec<f32>>),
}

impl Embedding {
    /// Loads the table.
    ///
    /// # Errors
    /// The tensor is not a matrix, or its data does not match its shape.
    pub fn load(tensor: &TensorView<'_>) -> Result<Self> {
        let &[columns, rows] = tensor.shape else {
            let message = format!("tensor {:?} is not a matrix", tensor.name);
            return Err(Error::InvalidGguf { message });
        };
        let shape = [rows as usize, columns as usize];
        let rows = if Layout::of(tensor.ty).is_some() {
            Rows::Packed(Arc::new(PackedMatrix::from_gguf(
                tensor,
                RowOrder::AsStored,
            )?))
        } else {
            Rows::Dense(Arc::new(load_values(tensor, RowOrder::AsStored, shape[1])?))
        };
        Ok(Self { rows, shape })
    }

    /// Returns an output head that shares this table, if the backend can read it in place.
    pub fn tied_head(&self, backend: &Backend) -> Option<Linear> {
        match &self.rows {
            Rows::Packed(matrix) if !backend.is_gpu() => {
                Some(Linear::from_packed(matrix.clone(), None))
            }
            _ => None,
        }
    }

    /// `[vocabulary, features]`.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Memory of the table, in bytes.
    pub fn size_bytes(&self) -> u64 {
        match &self.rows {
            Rows::Packed(matrix) => matrix.size_bytes(),
            Rows::Dense(values) => values.len() as u64 * 4,
        }
    }

    /// Returns the rows of the given ids.
    ///
    /// # Errors
    /// An id outside the vocabulary.
    pub fn forward(&self, ids: &[u32], backend: &Backend) -> Result<Tensor<2>> {
        let [vocabulary, features] = self.shape;
        let mut values = vec![0.0f32; ids.len() * features];
        for (&id, out) in ids.iter().zip(values.chunks_exact_mut(features)) {
            let row = id as usize;
            if row >= vocabulary {
                let message = format!("id {id} is outside the vocabulary of {vocabulary}");
                return Err(Error::InvalidRequest {
                    field: "prompt",
                    message,
                });
            }
            match &self.rows {
                Rows::Packed(matrix) => matrix.dequantize_row(row, out),
                Rows::Dense(values) => {
                    out.copy_from_slice(&values[row * features..(row + 1) * features]);
                }
            }
        }
        let data = TensorData::new(values, [ids.len(), features]);
        Ok(Tensor::from_data(data, backend.device()))
    }
}
