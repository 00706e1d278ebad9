//! Matrices as 16-bit integers, for encoders: what leaves room for two products in a lane.
//!
//! An encoder meets many rows at once, so its products are bound by arithmetic, not by memory.
//! Sixteen bits are multiplied twice as fast as floats, and are some fifty times finer than eight:
//! embeddings keep the direction that floats give them. Each row of the matrix has one scale, as
//! large as its sums allow: a dot product of [`CHUNK_COLUMNS`] columns with inputs of at most
//! [`INPUT_MAX`] cannot leave 32 bits, whatever the inputs are. Sums are exact, so that every
//! instruction set has the same results to the bit.
//!
//! As in the other layouts [`TILE_ROWS`] rows form a tile, here with pairs of columns side by side.

use crate::{
    dequantize::dequantize,
    error::{Error, Result},
    gguf::TensorView,
};

use super::{Line, TILE_ROWS, lines};

/// Columns that are summed in integers.
pub const CHUNK_COLUMNS: usize = 384;

/// Largest magnitude of an input's code.
pub const INPUT_MAX: i32 = (1 << 14) - 1;

/// Largest magnitude of a weight's code.
const WEIGHT_MAX: f64 = i16::MAX as f64;

/// Columns of both dimensions come in multiples of this: what a kernel takes at once.
pub const SHORTS_MULTIPLE: usize = 2 * TILE_ROWS;

/// A matrix `[rows, columns]` of 16-bit integers.
#[derive(Debug)]
pub struct ShortMatrix {
    rows: usize,
    columns: usize,
    codes: Vec<Line>,
    /// What a code of 1 stands for, row by row.
    scales: Vec<f32>,
}

impl ShortMatrix {
    /// Rounds tensors of the same width, their rows one after another.
    ///
    /// # Errors
    /// A tensor is not a matrix of finite numbers, the widths differ, or a side is no multiple of
    /// [`SHORTS_MULTIPLE`].
    pub fn from_gguf(tensors: &[TensorView<'_>]) -> Result<Self> {
        let mut values = Vec::new();
        let mut columns = None;
        for tensor in tensors {
            let invalid = |what: &str| Error::InvalidGguf {
                message: format!("tensor {:?} {what}", tensor.name),
            };
            let &[width, _] = tensor.shape else {
                return Err(invalid("is not a matrix"));
            };
            if *columns.get_or_insert(width) != width {
                return Err(invalid("is not as wide as the one beside it"));
            }
            let start = values.len();
            values.resize(start + tensor.elements(), 0.0);
            dequantize(tensor.ty, tensor.data, &mut values[start..])?;
            tensor.release(0..tensor.data.len());
            if !values[start..].iter().all(|value| value.is_finite()) {
                return Err(invalid("has weights that are no numbers"));
            }
        }
        Self::round(&values, columns.unwrap_or(0) as usize)
    }

    /// Rounds a row-major matrix of finite numbers.
    ///
    /// # Errors
    /// A side is no multiple of [`SHORTS_MULTIPLE`], or is 0.
    pub fn round(values: &[f32], columns: usize) -> Result<Self> {
        let rows = values.len().checked_div(columns).unwrap_or(0);
        let fits = |side: usize| side > 0 && side.is_multiple_of(SHORTS_MULTIPLE);
        if !fits(columns) || !fits(rows) || values.len() != rows * columns {
            return Err(Error::UnsupportedModel {
                message: format!(
                    "a matrix of {rows} rows and {columns} columns in an encoder; sides must be \
                     multiples of {SHORTS_MULTIPLE}"
                ),
            });
        }
        let mut matrix = Self {
            rows,
            columns,
            codes: lines(values.len() * size_of::<i16>()),
            scales: Vec::with_capacity(rows),
        };
        let codes: &mut [i16] = bytemuck::cast_slice_mut(&mut matrix.codes);
        for (row, values) in values.chunks_exact(columns).enumerate() {
            let scale = scale_of(values);
            matrix.scales.push(scale);
            let (tile, lane) = (row / TILE_ROWS, row % TILE_ROWS);
            for (column, value) in values.iter().enumerate() {
                let pair = tile * columns / 2 + column / 2;
                let code = f64::from(*value) / f64::from(scale);
                codes[(pair * TILE_ROWS + lane) * 2 + column % 2] = code.round() as i16;
            }
        }
        Ok(matrix)
    }

    /// Number of rows: output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns: input features.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Number of tiles; even.
    pub fn tiles(&self) -> usize {
        self.rows / TILE_ROWS
    }

    /// A tile's codes: pairs of columns, of each row of the tile in turn.
    pub fn tile(&self, index: usize) -> &[i16] {
        let codes: &[i16] = bytemuck::cast_slice(&self.codes);
        let len = TILE_ROWS * self.columns;
        &codes[index * len..(index + 1) * len]
    }

    /// What a code of 1 stands for in each row.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// Memory that the matrix takes, in bytes.
    pub fn size_bytes(&self) -> u64 {
        (self.codes.len() * size_of::<Line>() + self.scales.len() * size_of::<f32>()) as u64
    }

    /// Returns one code.
    #[cfg(test)]
    pub fn code(&self, row: usize, column: usize) -> i16 {
        let at = (column / 2 * TILE_ROWS + row % TILE_ROWS) * 2 + column % 2;
        self.tile(row / TILE_ROWS)[at]
    }
}

/// The smallest scale with which neither a code nor a chunk's sum is too large.
fn scale_of(values: &[f32]) -> f32 {
    let largest = values
        .iter()
        .fold(0.0f32, |max, value| max.max(value.abs()));
    let magnitudes = values
        .chunks(CHUNK_COLUMNS)
        .map(|chunk| chunk.iter().map(|value| f64::from(value.abs())).sum());
    let sum: f64 = magnitudes.fold(0.0, f64::max);
    // Rounding may add half a step to every code.
    let sum_max = f64::from(i32::MAX / INPUT_MAX) - CHUNK_COLUMNS as f64 / 2.0;
    let scale = (f64::from(largest) / WEIGHT_MAX).max(sum / sum_max);
    // The next larger float: rounding down would let a sum pass its bound. A row of zeros, or of
    // numbers too small to matter, has no codes but zero.
    (scale as f32).next_up().max(f32::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Rows that are even, that have one large weight, and that are extreme.
    fn rows(columns: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
        let mut values = Vec::new();
        for row in 0..SHORTS_MULTIPLE {
            let scale = [1.0, 1e-3, f32::MIN_POSITIVE, 0.0, f32::MAX / 4.0][row % 5];
            let start = values.len();
            values.extend((0..columns).map(|_| rng.random_range(-1.0..1.0f32) * scale));
            match row % 3 {
                0 => values[start..].fill(scale),
                1 => values[start + 5] = scale * 3.0,
                _ => {}
            }
        }
        values
    }

    #[test]
    fn no_sum_of_a_chunk_leaves_its_bits() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for columns in [32, 384, 416, 1536] {
            let values = rows(columns, &mut rng);
            let matrix = ShortMatrix::round(&values, columns).unwrap();
            for row in 0..matrix.rows() {
                for start in (0..columns).step_by(CHUNK_COLUMNS) {
                    let chunk = start..columns.min(start + CHUNK_COLUMNS);
                    let codes = chunk.map(|column| i64::from(matrix.code(row, column)).abs());
                    let sum: i64 = codes.sum();
                    assert!(sum * i64::from(INPUT_MAX) <= i64::from(i32::MAX));
                }
            }
        }
    }

    #[test]
    fn codes_are_within_a_step_of_the_weights() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let values = rows(416, &mut rng);
        let matrix = ShortMatrix::round(&values, 416).unwrap();
        for (index, value) in values.iter().enumerate() {
            let (row, column) = (index / 416, index % 416);
            let scale = matrix.scales()[row];
            let back = f32::from(matrix.code(row, column)) * scale;
            assert!((back - value).abs() <= scale * 1.01, "{back} for {value}");
        }
    }

    #[test]
    fn sides_that_no_kernel_takes_are_refused() {
        for (rows, columns) in [(16, 32), (32, 48), (0, 32), (32, 0), (33, 32)] {
            assert!(ShortMatrix::round(&vec![1.0; rows * columns], columns).is_err());
        }
    }
}
