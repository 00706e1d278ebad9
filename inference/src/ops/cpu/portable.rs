//! The products in plain Rust: for CPUs without a kernel of their own, and the reference for those
//! that have one. Integer parts are exact, so kernels differ from it only in the order of float
//! additions.

#![expect(unsafe_code, reason = "inputs and output are shared between threads")]

use std::ops::Range;

use super::{
    inputs::{INPUT_GROUP, Inputs, Unit},
    output::Output,
};
use crate::ops::packed::{CodeLayout, FloatType, Layout, PackedMatrix, TILE_ROWS, Tile};

/// Multiplies some tiles with all rows.
///
/// # Safety
/// Nobody fills `inputs` or touches these tiles' columns of `output` while this runs. The caller
/// has checked that sizes agree.
pub(super) unsafe fn run(
    matrix: &PackedMatrix,
    inputs: &Inputs,
    tiles: Range<usize>,
    output: Output<'_>,
) {
    for index in tiles {
        let tile = matrix.tile(index);
        for row in 0..inputs.rows() {
            // SAFETY: inputs have as many rows and columns; the caller keeps writers away.
            let products = unsafe {
                match matrix.layout() {
                    Layout::Codes(layout) => {
                        let (units, len) = (inputs.units(row), inputs.row_units());
                        code_products(tile, layout, std::slice::from_raw_parts(units, len))
                    }
                    Layout::Floats(ty) => {
                        let (floats, len) = (inputs.floats(row), inputs.columns());
                        float_products(tile, ty, std::slice::from_raw_parts(floats, len))
                    }
                }
            };
            // SAFETY: the caller has this tile's columns to itself.
            unsafe { output.store(row, index, &products) };
        }
    }
}

fn code_products(tile: Tile<'_>, layout: CodeLayout, units: &[Unit]) -> [f32; TILE_ROWS] {
    std::array::from_fn(|lane| {
        let mut result = 0.0f32;
        for (index, unit) in units.iter().enumerate() {
            for group in 0..layout.unit_groups() {
                let first = group * layout.group;
                let mut dot = 0i32;
                for (within, &input) in unit.codes[first..first + layout.group].iter().enumerate() {
                    let column = index * INPUT_GROUP + first + within;
                    dot += tile.code(layout, lane, column) * i32::from(input);
                }
                let (scale, min) = tile.scale(layout, lane, index * layout.unit_groups() + group);
                result += dot as f32 * (scale * unit.scale);
                if layout.has_min {
                    result += min * unit.sum(layout, group);
                }
            }
        }
        result
    })
}

fn float_products(tile: Tile<'_>, ty: FloatType, inputs: &[f32]) -> [f32; TILE_ROWS] {
    std::array::from_fn(|lane| {
        let products = inputs.iter().enumerate();
        products
            .map(|(column, input)| tile.float(ty, lane, column) * input)
            .sum()
    })
}
