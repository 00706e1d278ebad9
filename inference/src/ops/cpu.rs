//! The CPU bodies of the extension operations.
//!
//! A quantized product runs in three steps: the input rows are quantized to 8 bits ([`Inputs`]),
//! the tiles of the matrix are shared out among rayon's threads, and each
//! tile meets all rows while it is in the first-level cache. Which instructions do the last step is
//! chosen once per process ([`InstructionSet::detect`]).

use std::sync::OnceLock;

use burn::tensor::{DType, TensorData};
use burn_flex::FlexTensor;
use half::f16;
use rayon::prelude::*;

use super::packed::{CodeWidth, Layout, PackedMatrix, Scales, TILE_ROWS};

/// Repeats a block for constant indices below a bound of at most 8. A loop would say the same, but
/// leaves it to the compiler whether the arrays that it indexes become registers.
macro_rules! unroll {
    // Four is spelled out: under a constant condition, indices past the end of an array of four
    // would still be reported.
    ($index:ident in 4 $body:block) => {
        unroll!(@ $index, (4), $body, 0 1 2 3)
    };
    ($index:ident in $bound:tt $(/ $divisor:tt)? $body:block) => {
        unroll!(@ $index, ($bound $(/ $divisor)?), $body, 0 1 2 3 4 5 6 7)
    };
    (@ $index:ident, $bound:tt, $body:block, $($value:literal)*) => {
        $({
            const $index: usize = $value;
            if $index < $bound $body
        })*
    };
}

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

/// Columns of the input that share a scale, as in ggml's `Q8_0`.
pub const INPUT_GROUP: usize = 32;

/// Multiply-accumulates below which a product is not worth waking another thread for: about
/// the 5 µs that the wake-up takes.
const PARALLEL_WORK_MIN: usize = 1 << 18;

/// Input values below which they are quantized on the calling thread.
const PARALLEL_VALUES_MIN: usize = 1 << 15;

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

    /// What a kernel's integer sums are too large by, per input code: the zero point of 4-bit
    /// codes, and the offset that makes 8-bit codes unsigned for VNNI.
    fn zero_point(self, layout: Layout) -> i32 {
        match (self, layout.width) {
            (Self::Avx512Vnni, CodeWidth::Eight) => 128,
            _ => layout.zero_point,
        }
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

/// Input rows as 8-bit codes, with what a kernel needs per row and group of the weight's columns.
#[derive(Debug)]
struct Inputs {
    rows: usize,
    /// `[rows, columns]`, −127 to 127.
    codes: Vec<i8>,
    columns: usize,
    /// Groups in a row: the stride of the vectors below.
    groups: usize,
    /// What a code of 1 stands for.
    scales: Vec<f32>,
    /// The sum of the group's codes times minus the weight's zero point: where integer sums start.
    offsets: Vec<i32>,
    /// The sum of the group's values, which a minimum is multiplied by.
    sums: Vec<f32>,
}

impl Inputs {
    /// Quantizes rows as ggml does: the largest magnitude of [`INPUT_GROUP`] columns becomes 127,
    /// and the scale is rounded to 16 bits.
    fn new(set: InstructionSet, values: &[f32], columns: usize, layout: Layout) -> Self {
        assert!(columns.is_multiple_of(INPUT_GROUP) && values.len().is_multiple_of(columns));
        let (rows, groups) = (values.len() / columns, columns / layout.group);
        let zero = set.zero_point(layout);
        let mut codes = vec![0i8; values.len()];
        let mut scales = vec![0.0f32; rows * groups];
        let mut offsets = vec![0i32; rows * groups];
        let mut sums = vec![0.0f32; rows * groups];
        let outputs = codes.chunks_mut(columns).zip(scales.chunks_mut(groups));
        let outputs = outputs
            .zip(offsets.chunks_mut(groups))
            .zip(sums.chunks_mut(groups));
        let outputs = outputs.map(|(((codes, scales), offsets), sums)| RowOutput {
            layout,
            zero,
            codes,
            scales,
            offsets,
            sums,
        });
        if values.len() < PARALLEL_VALUES_MIN {
            outputs
                .zip(values.chunks(columns))
                .for_each(|(out, row)| quantize_row(set, out, row));
        } else {
            let outputs: Vec<_> = outputs.collect();
            let rows = outputs.into_par_iter().zip(values.par_chunks(columns));
            rows.with_min_len(8)
                .for_each(|(out, row)| quantize_row(set, out, row));
        }
        Self {
            rows,
            codes,
            columns,
            groups,
            scales,
            offsets,
            sums,
        }
    }
}

/// One row of [`Inputs`] while it is filled.
struct RowOutput<'a> {
    layout: Layout,
    zero: i32,
    codes: &'a mut [i8],
    scales: &'a mut [f32],
    offsets: &'a mut [i32],
    sums: &'a mut [f32],
}

fn quantize_row(set: InstructionSet, output: RowOutput<'_>, values: &[f32]) {
    match set {
        InstructionSet::Portable => quantize_row_with(output, values, quantize_group),
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 => avx2::quantize_row(output, values),
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512Vnni => avx2::quantize_row(output, values),
        #[cfg(not(target_arch = "x86_64"))]
        _ => unreachable!("not available here"),
    }
}

/// The plain loop. `quantize` turns one group of [`INPUT_GROUP`] values into codes and returns the
/// scale, unrounded.
#[inline(always)]
fn quantize_row_with(
    output: RowOutput<'_>,
    values: &[f32],
    quantize: impl Fn(&[f32; INPUT_GROUP], &mut [i8; INPUT_GROUP]) -> f32,
) {
    let RowOutput {
        layout,
        zero,
        codes,
        scales,
        offsets,
        sums,
    } = output;
    let group = layout.group;
    let (values, _) = values.as_chunks::<INPUT_GROUP>();
    let (codes, _) = codes.as_chunks_mut::<INPUT_GROUP>();
    for (index, (values, codes)) in values.iter().zip(codes).enumerate() {
        let exact_scale = quantize(values, codes);
        let scale = f16::from_f32(exact_scale).to_f32();
        for (within, codes) in codes.chunks_exact(group).enumerate() {
            let sum: i32 = codes.iter().map(|&code| i32::from(code)).sum();
            let target = index * (INPUT_GROUP / group) + within;
            scales[target] = scale;
            offsets[target] = -zero * sum;
            // ggml keeps the sum that its 16-bit minimums are multiplied by in 16 bits too, of the
            // scale before rounding. Less exact, but texts then follow the reference's.
            sums[target] = if layout.half_scales {
                f16::from_f32(exact_scale * sum as f32).to_f32()
            } else {
                scale * sum as f32
            };
        }
    }
}

/// The largest magnitude becomes 127; not-a-number becomes 0.
fn quantize_group(values: &[f32; INPUT_GROUP], codes: &mut [i8; INPUT_GROUP]) -> f32 {
    let largest = values
        .iter()
        .fold(0.0f32, |max, value| max.max(value.abs()));
    let scale = largest / 127.0;
    // The inverse is of the scale before it is rounded, as in ggml.
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    for (code, value) in codes.iter_mut().zip(values) {
        *code = (value * inverse).round_ties_even() as i8;
    }
    scale
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
    let layout = matrix.layout();
    let inputs = Inputs::new(set, values, matrix.columns(), layout);
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
