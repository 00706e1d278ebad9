//! Random matrices as a file holds them, and what their products should be.

use half::{bf16, f16};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::{
    dequantize::dequantize,
    gguf::{TensorType, TensorView},
    ops::{
        cpu::INPUT_GROUP,
        packed::{PackedMatrix, RowOrder},
    },
};

/// The types with integer codes.
pub(super) const QUANTIZED: [TensorType; 10] = [
    TensorType::Q4_0,
    TensorType::Q4_1,
    TensorType::Q5_0,
    TensorType::Q5_1,
    TensorType::Q8_0,
    TensorType::Q2K,
    TensorType::Q3K,
    TensorType::Q4K,
    TensorType::Q5K,
    TensorType::Q6K,
];

/// A matrix as a file holds it.
pub(super) struct Stored {
    pub(super) ty: TensorType,
    pub(super) shape: [u64; 2],
    pub(super) data: Vec<u8>,
}

impl Stored {
    /// Random codes; scales and minimums are moderate numbers of either sign.
    pub(super) fn random(
        ty: TensorType,
        rows: usize,
        columns: usize,
        rng: &mut ChaCha8Rng,
    ) -> Self {
        Self::with_scales(ty, rows, columns, rng, |rng| {
            f16::from_f32(rng.random_range(-0.02..0.02))
        })
    }

    /// Random codes; scales and minimums, or 16-bit floats, from a function.
    pub(super) fn with_scales(
        ty: TensorType,
        rows: usize,
        columns: usize,
        rng: &mut ChaCha8Rng,
        scale: impl Fn(&mut ChaCha8Rng) -> f16,
    ) -> Self {
        let columns = columns.next_multiple_of(ty.block_len());
        let mut data: Vec<u8> = Vec::new();
        for _ in 0..rows * columns / ty.block_len() {
            let start = data.len();
            match ty {
                TensorType::F32 => data.extend(scale(rng).to_f32().to_le_bytes()),
                TensorType::BF16 => {
                    data.extend(bf16::from_f32(scale(rng).to_f32()).to_le_bytes());
                }
                _ => data.extend((0..ty.block_bytes()).map(|_| rng.random::<u8>())),
            }
            for &offset in half_offsets(ty) {
                let value = scale(rng).to_le_bytes();
                data[start + offset..start + offset + 2].copy_from_slice(&value);
            }
        }
        Self {
            ty,
            shape: [columns as u64, rows as u64],
            data,
        }
    }

    pub(super) fn view(&self) -> TensorView<'_> {
        TensorView::new("test", &self.shape, self.ty, &self.data)
    }

    pub(super) fn packed(&self) -> PackedMatrix {
        PackedMatrix::from_gguf(&self.view(), RowOrder::AsStored).unwrap()
    }

    pub(super) fn rows(&self) -> usize {
        self.shape[1] as usize
    }

    pub(super) fn columns(&self) -> usize {
        self.shape[0] as usize
    }

    pub(super) fn floats(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows() * self.columns()];
        dequantize(self.ty, &self.data, &mut out).unwrap();
        out
    }

    /// Whether the sums of its inputs are rounded to 16 bits.
    pub(super) fn rounds_sums(&self) -> bool {
        matches!(self.ty, TensorType::Q4_1 | TensorType::Q5_1)
    }
}

/// Where a block has 16-bit floats.
pub(super) fn half_offsets(ty: TensorType) -> &'static [usize] {
    match ty {
        TensorType::Q4_0 | TensorType::Q5_0 | TensorType::Q8_0 | TensorType::F16 => &[0],
        TensorType::Q4_1 | TensorType::Q5_1 | TensorType::Q4K | TensorType::Q5K => &[0, 2],
        TensorType::Q2K => &[80, 82],
        TensorType::Q3K => &[108],
        TensorType::Q6K => &[208],
        TensorType::F32 | TensorType::BF16 => &[],
    }
}

/// Input values that quantize to themselves: whole multiples of a power of two, one of them 127.
pub(super) fn exact_input(rows: usize, columns: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let mut values = Vec::with_capacity(rows * columns);
    while values.len() < rows * columns {
        let scale = [1.0 / 64.0, 1.0 / 16.0, 1.0][rng.random_range(0..3)];
        let largest = rng.random_range(0..INPUT_GROUP);
        for index in 0..INPUT_GROUP {
            let code = if index == largest {
                127
            } else {
                rng.random_range(-127..=127)
            };
            values.push(code as f32 * scale);
        }
    }
    values.truncate(rows * columns);
    values
}

/// The product in 64 bits, and the sum of its terms' magnitudes, which rounding scales with.
pub(super) fn exact_product(input: &[f32], weight: &[f32], columns: usize) -> Vec<(f64, f64)> {
    let mut out = Vec::new();
    for input in input.chunks_exact(columns) {
        for weight in weight.chunks_exact(columns) {
            let terms = input
                .iter()
                .zip(weight)
                .map(|(&x, &w)| f64::from(x) * f64::from(w));
            out.push((terms.clone().sum(), terms.map(f64::abs).sum()));
        }
    }
    out
}
