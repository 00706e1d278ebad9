//! A small vector of parameters, where burn's operations and where host kernels want it.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};

use super::linear::load_values;
use crate::{backend::Backend, error::Result, gguf::TensorView, ops::packed::RowOrder};

/// The gain of a normalisation or the bias of a linear layer.
#[derive(Debug, Clone)]
pub struct Vector {
    tensor: Tensor<1>,
    host: Arc<[f32]>,
}

impl Vector {
    /// Loads a vector, its elements in the given order.
    ///
    /// # Errors
    /// The tensor's data does not match its shape.
    pub fn load(tensor: &TensorView<'_>, order: RowOrder, backend: &Backend) -> Result<Self> {
        let values = load_values(tensor, order, 1)?;
        Ok(Self::new(values, backend.device()))
    }

    /// Puts values on a device.
    pub fn new(values: Vec<f32>, device: &Device) -> Self {
        let host = Arc::from(values.as_slice());
        let len = values.len();
        let tensor = Tensor::from_data(TensorData::new(values, [len]), device);
        Self { tensor, host }
    }

    /// On the device.
    pub fn tensor(&self) -> Tensor<1> {
        self.tensor.clone()
    }

    /// In host memory.
    pub fn host(&self) -> &[f32] {
        &self.host
    }
}
