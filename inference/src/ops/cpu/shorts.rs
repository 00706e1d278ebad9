//! Products with [`ShortMatrix`]: exact sums of 16-bit integers, scaled at the end of a chunk.
//!
//! Rows come in groups of [`GROUP_ROWS`], padded by their owner, and meet two tiles at once: with
//! AVX-512 that keeps 24 sums in registers, and two loads of weights serve all of them. Tiles go
//! outside, rows inside, so that a chunk of two tiles stays in the first-level cache meanwhile.

#![expect(unsafe_code, reason = "SIMD kernels read and write through pointers")]

use super::{
    InstructionSet,
    elementwise::load,
    lanes::{Kernel, LANES, Lanes, dispatch},
};
use crate::ops::packed::{
    ShortMatrix, TILE_ROWS,
    shorts::{CHUNK_COLUMNS, INPUT_MAX},
};

/// Rows that are multiplied together.
pub(super) const GROUP_ROWS: usize = 12;

/// Tiles that they meet together.
const GROUP_TILES: usize = 2;

/// Columns of so many tiles.
const GROUP_COLUMNS: usize = GROUP_TILES * TILE_ROWS;

/// Rows of integers, each with a scale, for products.
#[derive(Debug, Default)]
pub(super) struct ShortRows {
    columns: usize,
    rows: usize,
    codes: Vec<i16>,
    scales: Vec<f32>,
}

impl ShortRows {
    /// Makes room for rows, and for those that fill the last group. What was there is lost.
    pub(super) fn prepare(&mut self, rows: usize, columns: usize) {
        let rows = rows.next_multiple_of(GROUP_ROWS);
        (self.rows, self.columns) = (rows, columns);
        self.codes.resize(rows * columns, 0);
        self.scales.resize(rows, 0.0);
    }

    /// Rounds a row so that its largest magnitude becomes [`INPUT_MAX`].
    ///
    /// # Safety
    /// The CPU has the instructions.
    pub(super) unsafe fn fill(&mut self, set: InstructionSet, row: usize, values: &[f32]) {
        let codes = &mut self.codes[row * self.columns..(row + 1) * self.columns];
        // SAFETY: the caller's promise.
        unsafe { dispatch(set, Round(values, codes, &mut self.scales[row])) };
    }
}

/// Values, their codes, their scale.
struct Round<'a>(&'a [f32], &'a mut [i16], &'a mut f32);

// SAFETY: `dispatch` is called with instructions that the CPU has.
impl Kernel for Round<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Self(values, codes, scale) = self;
        assert!(values.len() == codes.len() && values.len().is_multiple_of(LANES));
        // SAFETY: the caller's promise; there is room for whole lanes.
        unsafe {
            let mut largest = L::splat(0.0);
            for at in (0..values.len()).step_by(LANES) {
                let x = load::<L>(values, at);
                largest = largest.max(x).max(L::splat(0.0).sub(x));
            }
            let largest = largest.largest();
            let factor = INPUT_MAX as f32 / largest;
            // Too small to divide by, or infinite: such a row counts as zeros, like one of zeros.
            let (factor, step) = if largest > 0.0 && factor.is_finite() && factor > 0.0 {
                (factor, largest / INPUT_MAX as f32)
            } else {
                (0.0, 0.0)
            };
            *scale = step;
            let bound = L::splat(INPUT_MAX as f32);
            let factor = L::splat(factor);
            for at in (0..values.len()).step_by(LANES) {
                let x = load::<L>(values, at).mul(factor);
                // Not-a-numbers become a bound, so that no code is larger.
                let x = x.min(bound).max(L::splat(-(INPUT_MAX as f32)));
                x.store_shorts(codes.as_mut_ptr().add(at));
            }
        }
    }
}

/// `rows · matrixᵀ + bias` for whole groups of rows. Results are `stride` apart.
///
/// # Safety
/// The CPU has the instructions.
///
/// # Panics
/// If sizes do not agree.
pub(super) unsafe fn multiply(
    set: InstructionSet,
    rows: &ShortRows,
    matrix: &ShortMatrix,
    bias: &[f32],
    results: &mut [f32],
) {
    assert_eq!(rows.columns, matrix.columns());
    assert_eq!(bias.len(), matrix.rows());
    assert!(results.len() >= rows.rows * matrix.rows());
    let (columns, stride) = (matrix.columns(), matrix.rows());
    for tiles in 0..matrix.tiles() / GROUP_TILES {
        let column = tiles * GROUP_COLUMNS;
        let weights = [0, 1].map(|tile| matrix.tile(tiles * GROUP_TILES + tile));
        let scales = &matrix.scales()[column..column + GROUP_COLUMNS];
        for first in (0..columns).step_by(CHUNK_COLUMNS) {
            let len = CHUNK_COLUMNS.min(columns - first);
            let chunk = weights.map(|tile| &tile[first * TILE_ROWS..(first + len) * TILE_ROWS]);
            for row in (0..rows.rows).step_by(GROUP_ROWS) {
                let pass = Pass {
                    weights: chunk,
                    inputs: &rows.codes[row * columns + first..],
                    columns: len,
                    input_stride: columns,
                    input_scales: &rows.scales[row..row + GROUP_ROWS],
                    scales,
                    bias: (first == 0).then(|| &bias[column..column + GROUP_COLUMNS]),
                    results: &mut results[row * stride + column..],
                    stride,
                };
                // SAFETY: the caller's promise; `Pass` is checked where it is used.
                unsafe { pass.run(set) };
            }
        }
    }
}

/// A group of rows and a chunk of a group of tiles.
struct Pass<'a> {
    weights: [&'a [i16]; GROUP_TILES],
    inputs: &'a [i16],
    columns: usize,
    input_stride: usize,
    input_scales: &'a [f32],
    scales: &'a [f32],
    /// What results start with; they are added to where there is none.
    bias: Option<&'a [f32]>,
    results: &'a mut [f32],
    stride: usize,
}

impl Pass<'_> {
    /// # Safety
    /// The CPU has the instructions.
    unsafe fn run(self, set: InstructionSet) {
        assert!(self.columns.is_multiple_of(2) && self.columns > 0);
        assert!(
            self.weights
                .iter()
                .all(|tile| tile.len() == self.columns * TILE_ROWS)
        );
        assert!(self.inputs.len() >= (GROUP_ROWS - 1) * self.input_stride + self.columns);
        assert!(self.results.len() >= (GROUP_ROWS - 1) * self.stride + GROUP_COLUMNS);
        assert!(self.input_scales.len() == GROUP_ROWS && self.scales.len() == GROUP_COLUMNS);
        assert!(self.bias.is_none_or(|bias| bias.len() == GROUP_COLUMNS));
        match set {
            InstructionSet::Portable => self.portable(),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the sizes were just checked, the instructions are the caller's promise.
            InstructionSet::Avx2 => unsafe { x86::avx2(self) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            InstructionSet::Avx512Vnni => unsafe { x86::avx512(self) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => unreachable!("not available here"),
        }
    }

    fn portable(self) {
        for row in 0..GROUP_ROWS {
            let inputs = &self.inputs[row * self.input_stride..][..self.columns];
            for column in 0..GROUP_COLUMNS {
                let (tile, lane) = (self.weights[column / TILE_ROWS], column % TILE_ROWS);
                let pairs = tile.chunks_exact(2 * TILE_ROWS).zip(inputs.chunks_exact(2));
                let products = pairs.map(|(pair, input)| {
                    i32::from(pair[2 * lane]) * i32::from(input[0])
                        + i32::from(pair[2 * lane + 1]) * i32::from(input[1])
                });
                let sum: i32 = products.sum();
                let result = &mut self.results[row * self.stride + column];
                let start = self.bias.map_or(*result, |bias| bias[column]);
                let scale = self.scales[column] * self.input_scales[row];
                *result = (sum as f32).mul_add(scale, start);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{GROUP_ROWS, GROUP_TILES, Pass};
    use crate::ops::packed::TILE_ROWS;

    /// Codes of a pair of columns of one tile.
    const PAIR: usize = 2 * TILE_ROWS;

    /// Rows that fit into the registers of AVX2 with one tile.
    const AVX2_ROWS: usize = 4;

    /// # Safety
    /// The CPU has the instructions; sizes are as `Pass::run` checks them.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) unsafe fn avx512(pass: Pass<'_>) {
        let mut sums = [[_mm512_setzero_si512(); GROUP_TILES]; GROUP_ROWS];
        let mut weights = pass.weights.map(<[i16]>::as_ptr);
        let mut inputs = pass.inputs.as_ptr();
        // SAFETY: each tile has `columns` codes of each row, and each row of inputs as many. What
        // is added wraps where it may leave them: past the last column.
        unsafe {
            for _ in 0..pass.columns / 2 {
                let tiles = weights.map(|tile| _mm512_loadu_si512(tile.cast()));
                let mut at = inputs;
                for sums in &mut sums {
                    let two = _mm512_set1_epi32(at.cast::<i32>().read_unaligned());
                    sums[0] = add_products(sums[0], two, tiles[0]);
                    sums[1] = add_products(sums[1], two, tiles[1]);
                    at = at.wrapping_add(pass.input_stride);
                }
                weights = weights.map(|tile| tile.wrapping_add(PAIR));
                inputs = inputs.wrapping_add(2);
            }
            let results = pass.results.as_mut_ptr();
            for tile in 0..GROUP_TILES {
                let scales = _mm512_loadu_ps(pass.scales.as_ptr().add(tile * TILE_ROWS));
                for (row, sums) in sums.iter().enumerate() {
                    let at = results.add(row * pass.stride + tile * TILE_ROWS);
                    let start = match pass.bias {
                        Some(bias) => _mm512_loadu_ps(bias.as_ptr().add(tile * TILE_ROWS)),
                        None => _mm512_loadu_ps(at),
                    };
                    let scale = _mm512_mul_ps(scales, _mm512_set1_ps(pass.input_scales[row]));
                    let sum = _mm512_cvtepi32_ps(sums[tile]);
                    _mm512_storeu_ps(at, _mm512_fmadd_ps(sum, scale, start));
                }
            }
        }
    }

    /// Adds the products of pairs of 16-bit integers to 32-bit sums: one instruction, which the
    /// compiler would make two of, for processors where that is quicker.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    #[inline]
    fn add_products(mut sums: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the instruction reads and writes these registers only, and is one of those that
        // are enabled.
        unsafe {
            std::arch::asm!(
                "vpdpwssd {sums}, {a}, {b}",
                sums = inout(zmm_reg) sums,
                a = in(zmm_reg) a,
                b = in(zmm_reg) b,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        sums
    }

    /// # Safety
    /// As for [`avx512`].
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2(pass: Pass<'_>) {
        const HALF: usize = TILE_ROWS / 2;
        for (tile, weights) in pass.weights.iter().enumerate() {
            for first in (0..GROUP_ROWS).step_by(AVX2_ROWS) {
                let mut sums = [[_mm256_setzero_si256(); 2]; AVX2_ROWS];
                // SAFETY: as above.
                unsafe {
                    let mut inputs = pass.inputs.as_ptr().add(first * pass.input_stride);
                    let mut weights = weights.as_ptr();
                    for _ in 0..pass.columns / 2 {
                        let low = _mm256_loadu_si256(weights.cast());
                        let high = _mm256_loadu_si256(weights.add(TILE_ROWS).cast());
                        let mut at = inputs;
                        for sums in &mut sums {
                            let two = _mm256_set1_epi32(at.cast::<i32>().read_unaligned());
                            sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(two, low));
                            sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(two, high));
                            at = at.wrapping_add(pass.input_stride);
                        }
                        weights = weights.wrapping_add(PAIR);
                        inputs = inputs.wrapping_add(2);
                    }
                    for (row, sums) in sums.iter().enumerate() {
                        let row = first + row;
                        let input_scale = _mm256_set1_ps(pass.input_scales[row]);
                        for (half, sum) in sums.iter().enumerate() {
                            let column = tile * TILE_ROWS + half * HALF;
                            let at = pass.results.as_mut_ptr().add(row * pass.stride + column);
                            let start = match pass.bias {
                                Some(bias) => _mm256_loadu_ps(bias.as_ptr().add(column)),
                                None => _mm256_loadu_ps(at),
                            };
                            let scale = _mm256_loadu_ps(pass.scales.as_ptr().add(column));
                            let scale = _mm256_mul_ps(scale, input_scale);
                            let sum = _mm256_cvtepi32_ps(*sum);
                            _mm256_storeu_ps(at, _mm256_fmadd_ps(sum, scale, start));
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Rows and their codes' meaning.
    fn rounded(
        set: InstructionSet,
        rows: usize,
        columns: usize,
        rng: &mut ChaCha8Rng,
    ) -> (Vec<f32>, ShortRows) {
        let values: Vec<f32> = (0..rows * columns)
            .map(|_| rng.random_range(-3.0..3.0f32))
            .collect();
        let mut shorts = ShortRows::default();
        shorts.prepare(rows, columns);
        for (row, values) in values.chunks_exact(columns).enumerate() {
            // SAFETY: only sets that the CPU has are tested.
            unsafe { shorts.fill(set, row, values) };
        }
        (values, shorts)
    }

    #[test]
    fn products_are_those_of_floats_but_for_rounding() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for (rows, outputs, columns) in [(1, 32, 32), (12, 64, 384), (13, 32, 416), (30, 96, 1536)]
        {
            let weights: Vec<f32> = (0..outputs * columns)
                .map(|_| rng.random_range(-0.2..0.2f32))
                .collect();
            let matrix = ShortMatrix::round(&weights, columns).unwrap();
            let bias: Vec<f32> = (0..outputs).map(|index| index as f32 * 0.25).collect();
            let mut results_of_sets = Vec::new();
            for set in InstructionSet::available() {
                let mut rng = rng.clone();
                let (values, shorts) = rounded(set, rows, columns, &mut rng);
                let mut results = vec![f32::NAN; rows.next_multiple_of(GROUP_ROWS) * outputs];
                // SAFETY: as above.
                unsafe { multiply(set, &shorts, &matrix, &bias, &mut results) };
                results.truncate(rows * outputs);
                for (index, result) in results.iter().enumerate() {
                    let (row, output) = (index / outputs, index % outputs);
                    let inputs = &values[row * columns..(row + 1) * columns];
                    let weights = &weights[output * columns..(output + 1) * columns];
                    let products = inputs.iter().zip(weights);
                    let sum: f64 = products.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                    let error = (f64::from(*result) - sum - f64::from(bias[output])).abs();
                    assert!(error < 2e-3 * (columns as f64).sqrt(), "{error} in {index}");
                }
                results_of_sets.push(results);
            }
            assert!(results_of_sets.windows(2).all(|two| two[0] == two[1]));
        }
    }

    #[test]
    fn rows_of_extremes_are_rounded_to_something_finite() {
        for set in InstructionSet::available() {
            for value in [
                0.0,
                f32::MIN_POSITIVE,
                f32::MAX,
                f32::INFINITY,
                f32::NAN,
                1e-40,
            ] {
                let mut shorts = ShortRows::default();
                shorts.prepare(1, 32);
                let mut values = [0.5; 32];
                values[7] = value;
                // SAFETY: only sets that the CPU has are tested.
                unsafe { shorts.fill(set, 0, &values) };
                assert!(shorts.scales[0].is_finite());
                let codes = shorts.codes[..32].iter();
                assert!(
                    codes
                        .copied()
                        .all(|code| i32::from(code).abs() <= INPUT_MAX)
                );
            }
        }
    }
}
