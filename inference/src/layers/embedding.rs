//! Token embeddings, looked up on the host: the ids are there, and a row is small.

use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};

use super::Linear;
use crate::{
    backend::Backend,
    error::{Error, Result},
    gguf::TensorView,
    ops::packed::{PackedMatrix, RowOrder},
};

/// The embedding table `[vocabulary, features]`, in host memory on every backend.
#[derive(Debug, Clone)]
pub struct Embedding {
    table: Arc<PackedMatrix>,
}

impl Embedding {
    /// Loads the table.
    ///
    /// # Errors
    /// The tensor is not a matrix, or its data does not match its shape.
    pub fn load(tensor: &TensorView<'_>) -> Result<Self> {
        let table = Arc::new(PackedMatrix::from_gguf(tensor, RowOrder::AsStored)?);
        Ok(Self { table })
    }

    /// Returns an output head that shares this table, if the backend can read it in place.
    pub fn tied_head(&self, backend: &Backend) -> Option<Linear> {
        (!backend.is_gpu()).then(|| Linear::from_packed(self.table.clone(), None))
    }

    /// `[vocabulary, features]`.
    pub fn shape(&self) -> [usize; 2] {
        [self.table.rows(), self.table.columns()]
    }

    /// Memory of the table, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.table.size_bytes()
    }

    /// Returns the rows of the given ids.
    ///
    /// # Errors
    /// An id outside the vocabulary.
    pub fn forward(&self, ids: &[u32], backend: &Backend) -> Result<Tensor<2>> {
        let [vocabulary, features] = self.shape();
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
            self.table.dequantize_row(row, out);
        }
        let data = TensorData::new(values, [ids.len(), features]);
        Ok(Tensor::from_data(data, backend.device()))
    }
}
