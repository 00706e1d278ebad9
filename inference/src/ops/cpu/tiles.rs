//! Which kernel multiplies which part of a tile with which rows.
//!
//! With few rows a kernel unpacks codes as it goes: the tile is read once or twice. With many, a
//! chunk of the tile is first expanded to bytes and 32-bit scales that stay in the first-level
//! cache while all rows meet it; what a type's packing costs is then paid once, and all types run
//! at about the same speed.

#![expect(unsafe_code, reason = "kernels are called with pointers into tiles")]

use std::ops::Range;

use super::{InstructionSet, inputs::Inputs, inputs::Unit, portable, shared::SharedMatrix};
#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2, avx512::Avx512};
use crate::{
    gguf::TensorType,
    ops::packed::{
        FloatType, Layout, PackedMatrix, TILE_ROWS,
        layout::{
            Format, Q2K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, STEP_BYTES, UNIT_STEPS,
        },
    },
};

/// Units of an expanded chunk: as many as fit in half of a first-level cache with their scales,
/// the inputs of some rows beside them. A multiple of the blocks of K-quants.
pub(super) const CHUNK_UNITS: usize = 24;

/// Most rows for which floats are widened on the way, which costs little.
const FLOAT_DIRECT_ROWS_MAX: usize = 16;

/// Columns of an expanded chunk of floats.
const CHUNK_COLUMNS: usize = 256;

/// Bytes of an expanded chunk's codes.
const CHUNK_CODE_BYTES: usize = CHUNK_UNITS * UNIT_STEPS * STEP_BYTES;

/// Scales and minimums of an expanded chunk, with groups of 16 columns.
const CHUNK_SCALES: usize = CHUNK_UNITS * 2 * 2 * TILE_ROWS;

/// How far ahead of its use a tile is fetched from memory: a page, where the processor's own
/// look-ahead stops.
pub(super) const PREFETCH_BYTES: usize = 4096;

/// A chunk of a tile, expanded.
#[repr(C, align(64))]
pub(super) struct Scratch {
    /// One byte a code, step by step.
    pub(super) codes: [u8; CHUNK_CODE_BYTES],
    /// Per group: a scale for each row of the tile, then their minimums if there are any.
    pub(super) scales: [f32; CHUNK_SCALES],
}

/// A chunk of a tile of floats, expanded.
#[repr(C, align(64))]
pub(super) struct FloatScratch(pub(super) [f32; CHUNK_COLUMNS * TILE_ROWS]);

/// A stretch of a tile's columns and the inputs for them.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) codes: *const u8,
    pub(super) scales: *const u8,
    pub(super) units: usize,
    /// The first row's; those of further rows follow.
    pub(super) inputs: *const Unit,
    /// From one unit of a row to the next.
    pub(super) step: usize,
}

/// As [`Span`], for floats.
#[derive(Clone, Copy)]
pub(super) struct FloatSpan {
    pub(super) weights: *const u8,
    pub(super) columns: usize,
    pub(super) inputs: *const f32,
    pub(super) step: usize,
}

/// Where the results of some rows with one tile go.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) output: SharedMatrix<'a>,
    pub(super) row: usize,
    pub(super) tile: usize,
    /// Whether to add to what is there.
    pub(super) resume: bool,
}

/// A float type as a type, for kernels to be compiled for.
pub(super) trait Float {
    const TYPE: FloatType;
}

pub(super) enum F16 {}
impl Float for F16 {
    const TYPE: FloatType = FloatType::F16;
}

pub(super) enum BF16 {}
impl Float for BF16 {
    const TYPE: FloatType = FloatType::BF16;
}

pub(super) enum F32 {}
impl Float for F32 {
    const TYPE: FloatType = FloatType::F32;
}

/// The kernels of one instruction set.
pub(super) trait Kernels {
    /// Most rows for which codes are unpacked on the way.
    const DIRECT_ROWS_MAX: usize;

    /// Expands units into the scratch.
    ///
    /// # Safety
    /// The CPU has the instructions; there are the codes and scales of so many units.
    unsafe fn expand<F: Format>(
        codes: *const u8,
        scales: *const u8,
        units: usize,
        scratch: &mut Scratch,
    );

    /// Multiplies a stretch with some of `rows` rows, and returns with how many. If `EXPANDED`,
    /// codes are bytes and scales 32 bits.
    ///
    /// # Safety
    /// The CPU has the instructions; the span lies within its tile or scratch, and its inputs
    /// are those of `rows` rows of a panel; nobody else writes the inputs or touches the place now.
    unsafe fn pass<F: Format, const EXPANDED: bool>(
        span: Span,
        place: Place<'_>,
        rows: usize,
    ) -> usize;

    /// Widens floats.
    ///
    /// # Safety
    /// The CPU has the instructions; there are as many weights as places in the scratch.
    unsafe fn expand_floats<T: Float>(weights: *const u8, scratch: &mut [f32]);

    /// Multiplies a stretch with some of `rows` rows, and returns with how many.
    ///
    /// # Safety
    /// As for [`pass`](Self::pass).
    unsafe fn float_pass<T: Float>(span: FloatSpan, place: Place<'_>, rows: usize) -> usize;
}

/// Multiplies some tiles of a matrix with all rows of the inputs.
///
/// # Safety
/// The CPU has the instructions. While this runs, nobody fills `inputs`, and nobody else touches
/// these tiles' columns of `output`.
///
/// # Panics
/// If inputs or output do not fit the matrix, or it has not all those tiles.
pub(crate) unsafe fn run_tiles(
    set: InstructionSet,
    matrix: &PackedMatrix,
    inputs: &Inputs,
    tiles: Range<usize>,
    output: SharedMatrix<'_>,
) {
    assert_eq!(
        inputs.columns(),
        matrix.columns(),
        "inputs of another width"
    );
    assert!(
        output.holds(inputs.rows(), matrix.rows()),
        "output of another size"
    );
    assert!(tiles.end <= matrix.tiles());
    let job = Job {
        matrix,
        inputs,
        output,
    };
    // SAFETY: the caller's promises, and the sizes were just checked.
    unsafe {
        match set {
            InstructionSet::Portable => portable::run(matrix, inputs, tiles, output),
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => job.run::<Avx2>(tiles),
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512Vnni => job.run::<Avx512>(tiles),
            #[cfg(not(target_arch = "x86_64"))]
            _ => unreachable!("not available here"),
        }
    }
}

/// One product; its sizes agree.
struct Job<'a> {
    matrix: &'a PackedMatrix,
    inputs: &'a Inputs,
    output: SharedMatrix<'a>,
}

impl Job<'_> {
    /// # Safety
    /// As for [`run_tiles`].
    unsafe fn run<K: Kernels>(&self, tiles: Range<usize>) {
        // SAFETY: the caller's promises.
        unsafe {
            match self.matrix.tensor_type() {
                TensorType::Q4_0 => self.run_codes::<K, Q4_0>(tiles),
                TensorType::Q4_1 => self.run_codes::<K, Q4_1>(tiles),
                TensorType::Q5_0 => self.run_codes::<K, Q5_0>(tiles),
                TensorType::Q5_1 => self.run_codes::<K, Q5_1>(tiles),
                TensorType::Q8_0 => self.run_codes::<K, Q8_0>(tiles),
                TensorType::Q2K => self.run_codes::<K, Q2K>(tiles),
                TensorType::Q4K => self.run_codes::<K, Q4K>(tiles),
                TensorType::Q5K => self.run_codes::<K, Q5K>(tiles),
                TensorType::Q3K | TensorType::Q6K => self.run_codes::<K, Q6K>(tiles),
                TensorType::F16 => self.run_floats::<K, F16>(tiles),
                TensorType::BF16 => self.run_floats::<K, BF16>(tiles),
                TensorType::F32 => self.run_floats::<K, F32>(tiles),
            }
        }
    }

    /// # Safety
    /// As for [`run_tiles`].
    unsafe fn run_codes<K: Kernels, F: Format>(&self, tiles: Range<usize>) {
        debug_assert_eq!(self.matrix.layout(), Layout::Codes(F::LAYOUT));
        let units = self.inputs.row_units();
        if self.inputs.rows() <= K::DIRECT_ROWS_MAX {
            for index in tiles {
                let tile = self.matrix.tile(index);
                let stretch = Stretch {
                    codes: tile.codes.as_ptr(),
                    scales: tile.scales.as_ptr(),
                    first: 0,
                    len: units,
                };
                // SAFETY: the stretch is the whole tile.
                unsafe { self.pass_rows::<K, F, false>(index, stretch) };
            }
            return;
        }
        let mut scratch = Scratch {
            codes: [0; CHUNK_CODE_BYTES],
            scales: [0.0; CHUNK_SCALES],
        };
        for index in tiles {
            let tile = self.matrix.tile(index);
            for first in (0..units).step_by(CHUNK_UNITS) {
                let len = CHUNK_UNITS.min(units - first);
                let block = first / F::LAYOUT.block_units();
                let codes = &tile.codes[first * F::LAYOUT.unit_bytes()..];
                let scales = &tile.scales[block * F::LAYOUT.block_scale_bytes()..];
                // SAFETY: the stretch begins at a block and lies within the tile; scratch has room
                // for a chunk of any layout.
                unsafe {
                    K::expand::<F>(codes.as_ptr(), scales.as_ptr(), len, &mut scratch);
                    let stretch = Stretch {
                        codes: scratch.codes.as_ptr(),
                        scales: scratch.scales.as_ptr().cast(),
                        first,
                        len,
                    };
                    self.pass_rows::<K, F, true>(index, stretch);
                }
            }
        }
    }

    /// Takes all rows through a stretch of units, as many at once as a kernel can.
    ///
    /// # Safety
    /// As for [`run_tiles`]; the stretch is within the tile, or a copy.
    unsafe fn pass_rows<K: Kernels, F: Format, const EXPANDED: bool>(
        &self,
        tile: usize,
        stretch: Stretch,
    ) {
        let (mut row, step) = (0, self.inputs.step());
        while row < self.inputs.rows() {
            let span = Span {
                codes: stretch.codes,
                scales: stretch.scales,
                units: stretch.len,
                inputs: self.inputs.units(row).wrapping_add(stretch.first * step),
                step,
            };
            // SAFETY: the caller's promises; passes take powers of two up to a panel, so that they
            // stay within one.
            row += unsafe {
                K::pass::<F, EXPANDED>(span, self.place(tile, row, stretch), self.rows_left(row))
            };
        }
    }

    /// # Safety
    /// As for [`run_tiles`].
    unsafe fn run_floats<K: Kernels, T: Float>(&self, tiles: Range<usize>) {
        debug_assert_eq!(self.matrix.layout(), Layout::Floats(T::TYPE));
        let columns = self.matrix.columns();
        let direct = T::TYPE == FloatType::F32 || self.inputs.rows() <= FLOAT_DIRECT_ROWS_MAX;
        let mut scratch = FloatScratch([0.0; CHUNK_COLUMNS * TILE_ROWS]);
        for index in tiles {
            let tile = self.matrix.tile(index);
            if direct {
                let stretch = Stretch {
                    codes: tile.codes.as_ptr(),
                    scales: tile.scales.as_ptr(),
                    first: 0,
                    len: columns,
                };
                // SAFETY: the stretch is the whole tile.
                unsafe { self.float_pass_rows::<K, T>(index, stretch) };
                continue;
            }
            for first in (0..columns).step_by(CHUNK_COLUMNS) {
                let len = CHUNK_COLUMNS.min(columns - first);
                let weights = &tile.codes[first * TILE_ROWS * T::TYPE.bytes()..];
                // SAFETY: the stretch lies within the tile, and scratch has room for it.
                unsafe {
                    K::expand_floats::<T>(weights.as_ptr(), &mut scratch.0[..len * TILE_ROWS]);
                    let stretch = Stretch {
                        codes: scratch.0.as_ptr().cast(),
                        scales: std::ptr::null(),
                        first,
                        len,
                    };
                    self.float_pass_rows::<K, F32>(index, stretch);
                }
            }
        }
    }

    /// Takes all rows through a stretch of columns, as many at once as a kernel can.
    ///
    /// # Safety
    /// As for [`run_tiles`]; the stretch is within the tile, or a copy.
    unsafe fn float_pass_rows<K: Kernels, T: Float>(&self, tile: usize, stretch: Stretch) {
        let (mut row, step) = (0, self.inputs.step());
        while row < self.inputs.rows() {
            let span = FloatSpan {
                weights: stretch.codes,
                columns: stretch.len,
                inputs: self.inputs.floats(row).wrapping_add(stretch.first * step),
                step,
            };
            // SAFETY: as in `pass_rows`.
            row += unsafe {
                K::float_pass::<T>(span, self.place(tile, row, stretch), self.rows_left(row))
            };
        }
    }

    /// Rows from one on that are in the same panel.
    fn rows_left(&self, row: usize) -> usize {
        let panel = self.inputs.step();
        (self.inputs.rows() - row).min(panel - row % panel)
    }

    fn place(&self, tile: usize, row: usize, stretch: Stretch) -> Place<'_> {
        Place {
            output: self.output,
            row,
            tile,
            resume: stretch.first > 0,
        }
    }
}

/// Some units of a tile, or columns if it is of floats.
#[derive(Clone, Copy)]
struct Stretch {
    codes: *const u8,
    scales: *const u8,
    first: usize,
    len: usize,
}
