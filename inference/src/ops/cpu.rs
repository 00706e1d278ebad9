//! The CPU bodies of the extension operations.
//!
//! A quantized product runs in three steps: the input rows are quantized to 8 bits
//! ([`QuantizedRows`]), the tiles of the matrix are shared out among rayon's threads, and each
//! tile meets all rows while it is in the first-level cache. Which instructions do the last step is
//! chosen once per process ([`InstructionSet::detect`]).

use std::sync::OnceLock;

use burn::tensor::{DType, TensorData};
use burn_flex::FlexTensor;
use half::f16;
use rayon::prelude::*;

use super::packed::{Layout, PackedMatrix, Scales, TILE_ROWS};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

/// Columns of the input that share a scale, as in ggml's `Q8_0`.
pub const INPUT_GROUP: usize = 32;

/// Columns whose codes are summed for minimums and zero points: the smallest weight group.
const SUM_GROUP: usize = 16;

/// Multiply-accumulates below which a product is not worth waking another thread for: about
/// the 5 µs that the wake-up takes.
const PARALLEL_WORK_MIN: usize = 1 << 18;

/// Tasks per thread: more even out unequal cores, fewer cost less to hand out.
const TASKS_PER_THREAD: usize = 3;

/// The instructions that a kernel is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstructionSet {
    /// Plain Rust.
    Portable,
    /// AVX2 with F16C and FMA.
    Avx2,
    /// AVX-512 with VNNI's 8-bit dot products.
    Avx512Vnni,
}

impl InstructionSet {
    /// Returns the best set that this CPU has.
    pub fn detect() -> Self {
        static DETECTED: OnceLock<InstructionSet> = OnceLock::new();
        *DETECTED.get_or_init(|| Self::available().last().copied().unwrap_or(Self::Portable))
    }

    /// Returns every set that this CPU has, worst first.
    pub fn available() -> Vec<Self> {
        #[allow(unused_mut, reason = "only x86-64 has more than one")]
        let mut sets = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            let vnni = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vnni");
            if avx2 {
                sets.push(Self::Avx2);
            }
            if vnni {
                sets.push(Self::Avx512Vnni);
            }
        }
        sets
    }

    /// The name that a person knows it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512Vnni => "avx512-vnni",
        }
    }
}

/// Input rows as 8-bit codes with a scale per [`INPUT_GROUP`] columns.
#[derive(Debug)]
pub struct QuantizedRows {
    rows: usize,
    columns: usize,
    codes: Vec<i8>,
    scales: Vec<f32>,
    sums: Vec<i32>,
}

impl QuantizedRows {
    /// Quantizes rows of `columns` values, a multiple of [`INPUT_GROUP`], as ggml does: the
    /// largest magnitude of a group becomes 127, and the scale is rounded to 16 bits.
    pub fn new(values: &[f32], columns: usize) -> Self {
        assert!(columns.is_multiple_of(INPUT_GROUP) && values.len().is_multiple_of(columns));
        let rows = values.len() / columns;
        let mut codes = vec![0i8; values.len()];
        let mut scales = vec![0.0f32; values.len() / INPUT_GROUP];
        let mut sums = vec![0i32; values.len() / SUM_GROUP];
        let quantize = |((values, codes), (scales, sums)): ((&[f32], &mut [i8]), _)| {
            let (scales, sums): (&mut [f32], &mut [i32]) = (scales, sums);
            quantize_row(values, codes, scales, sums);
        };
        let outputs = |rows: usize| (columns * rows, columns * rows / INPUT_GROUP);
        let (row_len, row_scales) = outputs(1);
        if values.len() < PARALLEL_WORK_MIN / 8 {
            quantize(((values, &mut codes), (&mut scales[..], &mut sums[..])));
        } else {
            values
                .par_chunks(row_len)
                .zip(codes.par_chunks_mut(row_len))
                .zip(
                    scales
                        .par_chunks_mut(row_scales)
                        .zip(sums.par_chunks_mut(row_len / SUM_GROUP)),
                )
                .for_each(quantize);
        }
        Self {
            rows,
            columns,
            codes,
            scales,
            sums,
        }
    }

    /// Codes of one row from a column on.
    fn codes(&self, row: usize, column: usize) -> &[i8] {
        &self.codes[row * self.columns + column..(row + 1) * self.columns]
    }

    fn scale(&self, row: usize, column: usize) -> f32 {
        self.scales[(row * self.columns + column) / INPUT_GROUP]
    }

    /// Sum of the codes of `group` columns from `column` on.
    #[inline(always)]
    fn sum(&self, row: usize, column: usize, group: usize) -> i32 {
        let index = (row * self.columns + column) / SUM_GROUP;
        if group == SUM_GROUP {
            self.sums[index]
        } else {
            self.sums[index] + self.sums[index + 1]
        }
    }
}

fn quantize_row(values: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
    let groups = values
        .chunks_exact(INPUT_GROUP)
        .zip(codes.chunks_exact_mut(INPUT_GROUP));
    for ((values, codes), (scale_out, sums)) in groups.zip(
        scales
            .iter_mut()
            .zip(sums.chunks_exact_mut(INPUT_GROUP / SUM_GROUP)),
    ) {
        let largest = values
            .iter()
            .fold(0.0f32, |max, value| max.max(value.abs()));
        let scale = largest / 127.0;
        // The inverse is of the scale before it is rounded, as in ggml.
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        for (code, value) in codes.iter_mut().zip(values) {
            *code = (value * inverse).round_ties_even() as i8;
        }
        for (sum, codes) in sums.iter_mut().zip(codes.chunks_exact(SUM_GROUP)) {
            *sum = codes.iter().map(|&code| i32::from(code)).sum();
        }
        *scale_out = f16::from_f32(scale).to_f32();
    }
}

/// One tile of a matrix, as a kernel reads it.
#[derive(Debug, Clone, Copy)]
struct Tile<'a> {
    layout: Layout,
    groups: usize,
    codes: &'a [u8],
    scales: ScalesView<'a>,
    mins: Option<ScalesView<'a>>,
}

#[derive(Debug, Clone, Copy)]
enum ScalesView<'a> {
    Half(&'a [f16]),
    Full(&'a [f32]),
}

impl<'a> Tile<'a> {
    fn of(matrix: &'a PackedMatrix, tile: usize) -> Self {
        let (layout, groups) = (matrix.layout(), matrix.groups());
        let tile_bytes = groups * layout.group_bytes();
        let view = |scales: &'a Scales| {
            let range = tile * groups * TILE_ROWS..(tile + 1) * groups * TILE_ROWS;
            match scales {
                Scales::Half(values) => ScalesView::Half(&values[range]),
                Scales::Full(values) => ScalesView::Full(&values[range]),
            }
        };
        Self {
            layout,
            groups,
            codes: &matrix.codes()[tile * tile_bytes..(tile + 1) * tile_bytes],
            scales: view(matrix.scales()),
            mins: matrix.mins().map(view),
        }
    }
}

/// Where kernels put results: a matrix `[rows, columns]` that several threads fill in columns
/// of their own.
#[derive(Debug, Clone, Copy)]
struct Output {
    values: *mut f32,
    rows: usize,
    columns: usize,
}

// SAFETY: threads write through it to disjoint columns only (see `multiply`), and the buffer
// outlives the parallel region.
#[expect(
    unsafe_code,
    reason = "a column range per thread cannot be expressed as slices"
)]
unsafe impl Send for Output {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "as above")]
unsafe impl Sync for Output {}

impl Output {
    /// Writes one row's results of one tile; lanes past the last column are dropped.
    #[inline(always)]
    fn store(self, row: usize, tile: usize, lanes: &[f32; TILE_ROWS]) {
        let start = tile * TILE_ROWS;
        assert!(
            row < self.rows && start < self.columns,
            "tile outside the output"
        );
        let len = TILE_ROWS.min(self.columns - start);
        // SAFETY: row and columns were just checked to lie inside the buffer, which has
        // `rows * columns` values; no other thread writes this tile's columns.
        #[expect(unsafe_code, reason = "see the type")]
        unsafe {
            let target = self.values.add(row * self.columns + start);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), target, len);
        }
    }
}

/// `input · matrixᵀ` for a flex tensor `[rows, in_features]`.
pub fn linear(input: &FlexTensor, matrix: &PackedMatrix) -> FlexTensor {
    assert_eq!(input.dtype(), DType::F32, "linear takes f32 input");
    let contiguous = input.to_contiguous();
    let values = contiguous.as_slice::<f32>().expect("just made contiguous");
    let rows = values.len() / matrix.columns();
    let output = multiply(InstructionSet::detect(), values, matrix);
    FlexTensor::from_data(TensorData::new(output, [rows, matrix.rows()]))
}

/// `values · matrixᵀ`, row-major, with the given instructions.
///
/// # Panics
/// If this CPU lacks the instructions, or `values` is not a whole number of rows.
pub fn multiply(set: InstructionSet, values: &[f32], matrix: &PackedMatrix) -> Vec<f32> {
    assert!(set == InstructionSet::detect() || InstructionSet::available().contains(&set));
    let inputs = QuantizedRows::new(values, matrix.columns());
    let mut results = vec![0.0f32; inputs.rows * matrix.rows()];
    let output = Output {
        values: results.as_mut_ptr(),
        rows: inputs.rows,
        columns: matrix.rows(),
    };
    let run = |tiles: std::ops::Range<usize>| {
        for index in tiles {
            let tile = Tile::of(matrix, index);
            match set {
                InstructionSet::Portable => portable::tile(&tile, &inputs, index, output),
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx2 => avx2::tile(&tile, &inputs, index, output),
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx512Vnni => avx512::tile(&tile, &inputs, index, output),
                #[cfg(not(target_arch = "x86_64"))]
                _ => unreachable!("not available here"),
            }
        }
    };
    let (tiles, work) = (
        matrix.tiles(),
        inputs.rows * matrix.rows() * matrix.columns(),
    );
    let threads = rayon::current_num_threads();
    if threads == 1 || work < PARALLEL_WORK_MIN {
        run(0..tiles);
    } else {
        // Each tile belongs to one task, so no two threads write the same columns.
        let tasks = (threads * TASKS_PER_THREAD).min(tiles);
        (0..tasks)
            .into_par_iter()
            .with_max_len(1)
            .for_each(|task| run(task * tiles / tasks..(task + 1) * tiles / tasks));
    }
    results
}
