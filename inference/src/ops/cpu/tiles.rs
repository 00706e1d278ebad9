//! Which kernel multiplies which part of a tile with which rows.
//!
//! With few rows a kernel unpacks codes as it goes: the tile is read once or twice. With many, a
//! chunk of the tile is first expanded to bytes and 32-bit scales that stay in the first-level
//! cache while all rows meet it; what a type's packing costs is then paid once, and all types run
//! at about the same speed.

#![expect(unsafe_code, reason = "kernels are called with pointers into tiles")]

use std::ops::Range;

use super::{InstructionSet, inputs::Inputs, inputs::Unit, output::Output, portable};
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
pub(super) const CHUNK_UNITS: usize = 16;

/// Columns of an expanded chunk of floats.
const CHUNK_COLUMNS: usize = 256;

/// Bytes of an expanded chunk's codes.
const CHUNK_CODE_BYTES: usize = CHUNK_UNITS * UNIT_STEPS * STEP_BYTES;

/// Scales and minimums of an expanded chunk, with groups of 16 columns.
const CHUNK_SCALES: usize = CHUNK_UNITS * 2 * 2 * TILE_ROWS;

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
    /// The first row's.
    pub(super) inputs: *const Unit,
    /// From one row's inputs to the next row's.
    pub(super) stride: usize,
}

/// As [`Span`], for floats.
#[derive(Clone, Copy)]
pub(super) struct FloatSpan {
    pub(super) weights: *const u8,
    pub(super) columns: usize,
    pub(super) inputs: *const f32,
    pub(super) stride: usize,
}

/// Where the results of some rows with one tile go.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) output: Output<'a>,
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

    /// Expands units into the scratch; `span.inputs` are not looked at.
    ///
    /// # Safety
    /// The CPU has the instructions; the span lies within its tile.
    unsafe fn expand<F: Format>(span: Span, scratch: &mut Scratch);

    /// Multiplies a stretch with some rows. If `EXPANDED`, codes are bytes and scales 32 bits.
    ///
    /// # Safety
    /// The CPU has the instructions; the span lies within its tile or scratch, and its inputs
    /// are those of `ROWS` rows; nobody else writes the inputs or touches the place now.
    unsafe fn pass<F: Format, const EXPANDED: bool, const ROWS: usize>(
        span: Span,
        place: Place<'_>,
    );

    /// Widens floats.
    ///
    /// # Safety
    /// The CPU has the instructions; there are as many weights as places in the scratch.
    unsafe fn expand_floats<T: Float>(weights: *const u8, scratch: &mut [f32]);

    /// Multiplies a stretch with some rows.
    ///
    /// # Safety
    /// As for [`pass`](Self::pass).
    unsafe fn float_pass<T: Float, const ROWS: usize>(span: FloatSpan, place: Place<'_>);
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
    output: Output<'_>,
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
    output: Output<'a>,
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
        if self.inputs.rows() == 0 {
            return;
        }
        let units = self.inputs.row_units();
        let whole = |tile: usize| {
            let place = self.place(tile);
            let tile = self.matrix.tile(tile);
            let span = Span {
                codes: tile.codes.as_ptr(),
                scales: tile.scales.as_ptr(),
                units,
                inputs: self.inputs.units(0),
                stride: units,
            };
            (span, place)
        };
        if self.inputs.rows() <= K::DIRECT_ROWS_MAX {
            for tile in tiles {
                let (span, place) = whole(tile);
                // SAFETY: the span is the whole tile and the inputs of all rows.
                unsafe { self.pass_rows::<K, F, false>(span, place) };
            }
            return;
        }
        let mut scratch = Scratch {
            codes: [0; CHUNK_CODE_BYTES],
            scales: [0.0; CHUNK_SCALES],
        };
        for tile in tiles {
            let (mut span, mut place) = whole(tile);
            for first in (0..units).step_by(CHUNK_UNITS) {
                span.units = CHUNK_UNITS.min(units - first);
                place.resume = first > 0;
                // SAFETY: the stretch lies within tile and inputs; scratch has room for a chunk
                // of any layout.
                unsafe {
                    K::expand::<F>(span, &mut scratch);
                    let expanded = Span {
                        codes: scratch.codes.as_ptr(),
                        scales: scratch.scales.as_ptr().cast(),
                        ..span
                    };
                    self.pass_rows::<K, F, true>(expanded, place);
                    let blocks = span.units / F::LAYOUT.block_units();
                    span.codes = span.codes.add(span.units * F::LAYOUT.unit_bytes());
                    span.scales = span.scales.add(blocks * F::LAYOUT.block_scale_bytes());
                    span.inputs = span.inputs.add(span.units);
                }
            }
        }
    }

    /// Takes all rows through a stretch, as many at once as a kernel can.
    ///
    /// # Safety
    /// As for [`Kernels`]; the span's inputs are those of all rows.
    unsafe fn pass_rows<K: Kernels, F: Format, const EXPANDED: bool>(
        &self,
        mut span: Span,
        mut place: Place<'_>,
    ) {
        let rows = self.inputs.rows();
        while place.row < rows {
            // SAFETY: there are as many rows left as each kernel takes.
            let done = unsafe {
                match rows - place.row {
                    8.. => {
                        K::pass::<F, EXPANDED, 8>(span, place);
                        8
                    }
                    4.. => {
                        K::pass::<F, EXPANDED, 4>(span, place);
                        4
                    }
                    2.. => {
                        K::pass::<F, EXPANDED, 2>(span, place);
                        2
                    }
                    _ => {
                        K::pass::<F, EXPANDED, 1>(span, place);
                        1
                    }
                }
            };
            place.row += done;
            span.inputs = span.inputs.wrapping_add(done * span.stride);
        }
    }

    /// # Safety
    /// As for [`run_tiles`].
    unsafe fn run_floats<K: Kernels, T: Float>(&self, tiles: Range<usize>) {
        debug_assert_eq!(self.matrix.layout(), Layout::Floats(T::TYPE));
        if self.inputs.rows() == 0 {
            return;
        }
        let columns = self.matrix.columns();
        let whole = |tile: usize| FloatSpan {
            weights: self.matrix.tile(tile).codes.as_ptr(),
            columns,
            inputs: self.inputs.floats(0),
            stride: columns,
        };
        if T::TYPE == FloatType::F32 || self.inputs.rows() <= K::DIRECT_ROWS_MAX {
            for tile in tiles {
                // SAFETY: the span is the whole tile and the inputs of all rows.
                unsafe { self.float_pass_rows::<K, T>(whole(tile), self.place(tile)) };
            }
            return;
        }
        let mut scratch = FloatScratch([0.0; CHUNK_COLUMNS * TILE_ROWS]);
        for tile in tiles {
            let (mut span, mut place) = (whole(tile), self.place(tile));
            for first in (0..columns).step_by(CHUNK_COLUMNS) {
                span.columns = CHUNK_COLUMNS.min(columns - first);
                place.resume = first > 0;
                let values = span.columns * TILE_ROWS;
                // SAFETY: the stretch lies within tile and inputs, and scratch has room for it.
                unsafe {
                    K::expand_floats::<T>(span.weights, &mut scratch.0[..values]);
                    let expanded = FloatSpan {
                        weights: scratch.0.as_ptr().cast(),
                        ..span
                    };
                    self.float_pass_rows::<K, F32>(expanded, place);
                    span.weights = span.weights.add(values * T::TYPE.bytes());
                    span.inputs = span.inputs.add(span.columns);
                }
            }
        }
    }

    /// Takes all rows through a stretch, as many at once as a kernel can.
    ///
    /// # Safety
    /// As for [`Kernels`]; the span's inputs are those of all rows.
    unsafe fn float_pass_rows<K: Kernels, T: Float>(
        &self,
        mut span: FloatSpan,
        mut place: Place<'_>,
    ) {
        let rows = self.inputs.rows();
        while place.row < rows {
            // SAFETY: there are as many rows left as each kernel takes.
            let done = unsafe {
                match rows - place.row {
                    8.. => {
                        K::float_pass::<T, 8>(span, place);
                        8
                    }
                    4.. => {
                        K::float_pass::<T, 4>(span, place);
                        4
                    }
                    2.. => {
                        K::float_pass::<T, 2>(span, place);
                        2
                    }
                    _ => {
                        K::float_pass::<T, 1>(span, place);
                        1
                    }
                }
            };
            place.row += done;
            span.inputs = span.inputs.wrapping_add(done * span.stride);
        }
    }

    fn place(&self, tile: usize) -> Place<'_> {
        Place {
            output: self.output,
            row: 0,
            tile,
            resume: false,
        }
    }
}
