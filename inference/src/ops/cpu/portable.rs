//! The products in plain Rust: for CPUs without a kernel of their own, and the reference for those
//! that have one. Integer parts are exact, so kernels differ from it only in the order of float
//! additions.

#![expect(unsafe_code, reason = "inputs and output are shared between threads")]

use std::ops::Range;

use super::{
    inputs::{Inputs, Unit},
    shared::SharedMatrix,
};
use crate::ops::packed::{
    CodeLayout, FloatType, Layout, PackedMatrix, TILE_ROWS, Tile,
    layout::{COLUMNS_PER_STEP, STEP_BYTES},
};

/// Multiplies some tiles with all rows.
///
/// # Safety
/// Nobody fills `inputs` or touches these tiles' columns of `output` while this runs. The caller
/// has checked that sizes agree.
pub(super) unsafe fn run(
    matrix: &PackedMatrix,
    inputs: &Inputs,
    tiles: Range<usize>,
    output: SharedMatrix<'_>,
) {
    for index in tiles {
        let tile = matrix.tile(index);
        // SAFETY: the caller's promises.
        unsafe {
            match matrix.layout() {
                Layout::Codes(layout) => run_codes(tile, layout, inputs, index, output),
                Layout::Floats(ty) => run_floats(tile, ty, inputs, index, output),
            }
        }
    }
}

/// Unpacks unit by unit, and takes all rows through each.
///
/// # Safety
/// As for [`run`].
unsafe fn run_codes(
    tile: Tile<'_>,
    layout: CodeLayout,
    inputs: &Inputs,
    index: usize,
    output: SharedMatrix<'_>,
) {
    for unit in 0..inputs.row_units() {
        let codes = tile.unit_codes(layout, unit);
        // Two groups at most; the second may be none.
        let first_group = unit * layout.unit_groups();
        let scales: [[_; TILE_ROWS]; 2] = std::array::from_fn(|within| {
            let group = first_group + within % layout.unit_groups();
            std::array::from_fn(|lane| tile.scale(layout, lane, group))
        });
        for row in 0..inputs.rows() {
            // SAFETY: inputs have as many rows and columns; the caller keeps writers away, and has
            // this tile's columns to itself.
            unsafe {
                let input = &*inputs.units(row).add(unit * inputs.step());
                let mut results = if unit == 0 {
                    [0.0; TILE_ROWS]
                } else {
                    output.load(row, index)
                };
                for (group, scales) in scales[..layout.unit_groups()].iter().enumerate() {
                    add_group(layout, &codes, input, group, scales, &mut results);
                }
                output.store(row, index, &results);
            }
        }
    }
}

/// Adds one group's products.
fn add_group(
    layout: CodeLayout,
    codes: &[u8],
    input: &Unit,
    group: usize,
    scales: &[(f32, f32); TILE_ROWS],
    results: &mut [f32; TILE_ROWS],
) {
    let columns = group * layout.group..(group + 1) * layout.group;
    let codes = &codes[columns.start * TILE_ROWS..columns.end * TILE_ROWS];
    let mut dots = [0i32; TILE_ROWS];
    for (codes, input) in codes
        .chunks_exact(STEP_BYTES)
        .zip(input.codes[columns].chunks_exact(COLUMNS_PER_STEP))
    {
        for (dot, codes) in dots.iter_mut().zip(codes.chunks_exact(COLUMNS_PER_STEP)) {
            for (&code, &input) in codes.iter().zip(input) {
                *dot += i32::from(code) * i32::from(input);
            }
        }
    }
    for ((dot, result), (scale, min)) in dots.iter().zip(results).zip(scales) {
        let dot = dot + input.offset(layout, group);
        *result += dot as f32 * (scale * input.scale);
        if layout.has_min {
            *result += min * input.sum(layout, group);
        }
    }
}

/// # Safety
/// As for [`run`].
unsafe fn run_floats(
    tile: Tile<'_>,
    ty: FloatType,
    inputs: &Inputs,
    index: usize,
    output: SharedMatrix<'_>,
) {
    for row in 0..inputs.rows() {
        let mut results = [0.0f32; TILE_ROWS];
        for column in 0..inputs.columns() {
            // SAFETY: inputs have as many rows and columns; the caller keeps writers away.
            let input = unsafe { *inputs.floats(row).add(column * inputs.step()) };
            for (lane, result) in results.iter_mut().enumerate() {
                *result += tile.float(ty, lane, column) * input;
            }
        }
        // SAFETY: the caller has this tile's columns to itself.
        unsafe { output.store(row, index, &results) };
    }
}
