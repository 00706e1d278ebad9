//! The CPU bodies of the extension operations.
//!
//! A product runs in two steps: the input rows are put in the form that kernels read ([`Inputs`]),
//! then tiles of the matrix meet all rows ([`run_tiles`]). Several threads may share either step;
//! [`multiply`] does so with the current team's ([`pool`]), [`transformer_block`] with all that
//! comes between products too. Which instructions kernels are written in is chosen once per process
//! ([`InstructionSet::detect`]).

use std::sync::OnceLock;

use burn::tensor::{DType, TensorData};
use burn_flex::FlexTensor;

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

mod attention;
mod block;
mod elementwise;
mod encoder;
mod inputs;
mod lanes;
pub mod pool;
mod portable;
mod scratch;
mod shared;
mod shorts;
mod tiles;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

pub use attention::{KeysValuesPage, KeysValuesShape, LayerKeysValues};
pub use block::{BlockWeights, Norm, Projection, RowSpan, Rows, transformer_block};
pub use elementwise::Activation;
pub use encoder::{EncoderLayer, EncoderWeights, LayerNorm, ShortLinear, encoder};
pub use inputs::{INPUT_GROUP, Inputs};
pub(crate) use shared::SharedMatrix;
pub(crate) use tiles::run_tiles;

/// Multiply-accumulates below which a product is not worth waking another thread for: about
/// the 5 µs that the wake-up takes.
const PARALLEL_WORK_MIN: usize = 1 << 18;

/// Pieces per thread that a product is cut into: more even out unequal cores, fewer cost less to
/// hand out.
const PIECES_PER_THREAD: usize = 8;

/// What this process uses.
static CHOSEN: OnceLock<InstructionSet> = OnceLock::new();

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
    /// Returns the best set that this CPU has, or that [`limit`](Self::limit) left it.
    pub fn detect() -> Self {
        *CHOSEN.get_or_init(|| Self::available().last().copied().unwrap_or(Self::Portable))
    }

    /// Has this process do with `self` though this CPU may have better, as measurements want it.
    /// Returns whether it does: not where the set was chosen already, or this CPU lacks it.
    pub fn limit(self) -> bool {
        Self::available().contains(&self) && *CHOSEN.get_or_init(|| self) == self
    }

    /// Returns the set of a [`name`](Self::name), if this CPU has it.
    pub fn available_by_name(name: &str) -> Option<Self> {
        let mut sets = Self::available().into_iter();
        sets.find(|set| set.name() == name)
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

    /// # Panics
    /// If this CPU lacks the instructions.
    fn assert_available(self) {
        assert!(
            CHOSEN.get() == Some(&self) || Self::available().contains(&self),
            "this CPU has no {}",
            self.name()
        );
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
    set.assert_available();
    let columns = matrix.columns();
    assert!(values.len().is_multiple_of(columns));
    let rows = values.len() / columns;
    inputs.prepare(rows, &[matrix]);
    let inputs = &*inputs;
    let fill = |row: usize| {
        let values = &values[row * columns..(row + 1) * columns];
        // SAFETY: the CPU has the instructions, as checked above; each row is filled once, and
        // read only afterwards.
        unsafe { inputs.fill(set, row, 0, values) };
    };
    let output = SharedMatrix::new(results, rows, matrix.rows());
    let run = |range: std::ops::Range<usize>| {
        // SAFETY: as above; inputs are complete, and each tile belongs to one piece.
        unsafe { run_tiles(set, matrix, inputs, range, output) };
    };
    let (tiles, work) = (matrix.tiles(), rows * matrix.rows() * columns);
    let pool = pool::current();
    if pool.threads() == 1 || work < PARALLEL_WORK_MIN {
        (0..rows).for_each(fill);
        run(0..tiles);
        return;
    }
    let pieces = (pool.threads() * PIECES_PER_THREAD).min(tiles);
    pool.run(|team| {
        team.for_each(rows, fill);
        team.for_each(pieces, |piece| {
            run(piece * tiles / pieces..(piece + 1) * tiles / pieces);
        });
    });
}
