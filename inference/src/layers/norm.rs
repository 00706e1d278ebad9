//! Root-mean-square normalisation.

use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};

use super::linear::load_values;
use crate::{backend::Backend, error::Result, gguf::TensorView, ops::packed::RowOrder};

/// `x / rms(x) · gain`.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    gain: Tensor<1>,
    host_gain: Arc<[f32]>,
    epsilon: f32,
}

impl RmsNorm {
    /// Loads the gain.
    ///
    /// # Errors
    /// The tensor's data does not match its shape.
    pub fn load(gain: &TensorView<'_>, epsilon: f32, backend: &Backend) -> Result<Self> {
        let values = load_values(gain, RowOrder::AsStored, 1)?;
        let host_gain = Arc::from(values.as_slice());
        let len = values.len();
        let gain = Tensor::from_data(TensorData::new(values, [len]), backend.device());
        Ok(Self {
            gain,
            host_gain,
            epsilon,
        })
    }

    /// The gain, for kernels that run on the host.
    pub fn gain(&self) -> &[f32] {
        &self.host_gain
    }

    /// Added to the mean square.
    pub fn epsilon(&self) -> f32 {
        self.epsilon
    }

    /// Normalises along the last dimension.
    pub fn forward<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        let mean_square = input.clone().square().mean_dim(D - 1);
        input * (mean_square + self.epsilon).sqrt().recip() * self.gain.clone().unsqueeze()
    }
}
