//! The CPU bodies of the extension operations.
//!
//! A product runs in two steps: the input rows are put in the form that kernels read ([`Inputs`]),
//! then tiles of the matrix meet all rows ([`run_tiles`]). Several threads may share either step;
//! [`multiply`] does so with rayon's. Which instructions kernels are written in is chosen once per
//! process ([`InstructionSet::detect`]).

use std::sync::OnceLock;

use burn::tensor::{DType, TensorData};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::packed::PackedMatrix;

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

mod inputs;
mod output;
mod portable;
mod tiles;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

pub use inputs::{INPUT_GROUP, Inputs};
pub(crate) use output::Output;
pub(crate) use tiles::run_tiles;

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

    /// The name that a person knows it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512Vnni => "avx512-vnni",
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
/// As [`multiply_into`].
pub fn multiply(set: InstructionSet, values: &[f32], matrix: &PackedMatrix) -> Vec<f32> {
    let mut results = vec![0.0f32; values.len() / matrix.columns() * matrix.rows()];
    multiply_into(set, values, matrix, &mut Inputs::default(), &mut results);
    results
}

/// As [`multiply`], in memory that is there already: `results` is `[rows, matrix.rows()]`.
///
/// # Panics
/// If this CPU lacks the instructions, `values` is not a whole number of rows, or `results` is of
/// another size.
#[expect(unsafe_code, reason = "threads share inputs and output")]
pub fn multiply_into(
    set: InstructionSet,
    values: &[f32],
    matrix: &PackedMatrix,
    inputs: &mut Inputs,
    results: &mut [f32],
) {
    assert!(set == InstructionSet::detect() || InstructionSet::available().contains(&set));
    let columns = matrix.columns();
    assert!(values.len().is_multiple_of(columns));
    let rows = values.len() / columns;
    inputs.prepare(rows, &[matrix]);
    let inputs = &*inputs;
    let fill = |(row, values): (usize, &[f32])| {
        // SAFETY: the CPU has the instructions, as checked above; each row is filled once, and
        // read only afterwards.
        unsafe { inputs.fill(set, row, 0, values) };
    };
    if values.len() < PARALLEL_VALUES_MIN {
        values.chunks_exact(columns).enumerate().for_each(fill);
    } else {
        let rows = values.par_chunks_exact(columns).enumerate();
        rows.with_min_len(8).for_each(fill);
    }
    let output = Output::new(results, rows, matrix.rows());
    let run = |range: std::ops::Range<usize>| {
        // SAFETY: as above; inputs are complete, and each tile belongs to one task.
        unsafe { run_tiles(set, matrix, inputs, range, output) };
    };
    let (tiles, work) = (matrix.tiles(), rows * matrix.rows() * columns);
    let threads = rayon::current_num_threads();
    if threads == 1 || work < PARALLEL_WORK_MIN {
        run(0..tiles);
    } else {
        let tasks = (threads * TASKS_PER_THREAD).min(tiles);
        (0..tasks)
            .into_par_iter()
            .with_max_len(1)
            .for_each(|task| run(task * tiles / tasks..(task + 1) * tiles / tasks));
    }
}
