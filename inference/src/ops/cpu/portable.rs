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
    let step = inputs.step();
    for index in tiles {
        let tile = matrix.tile(index);
        for row in 0..inputs.rows() {
            // SAFETY: inputs have as many rows and columns; the caller keeps writers away.
            let products = unsafe {
                match matrix.layout() {
                    Layout::Codes(layout) => {
                        let first = inputs.units(row);
                        let units = (0..inputs.row_units()).map(|unit| first.add(unit * step));
                        code_products(tile, layout, units.map(|unit| &*unit))
                    }
                    Layout::Floats(ty) => {
                        let first = inputs.floats(row);
                        let columns = 0..inputs.columns();
                        float_products(tile, ty, columns.map(|column| *first.add(column * step)))
                    }
                }
            };
            // SAFETY: the caller has this tile's columns to itself.
            unsafe { output.store(row, index, &products) };
        }
    }
}

fn code_products<'a>(
    tile: Tile<'_>,
    layout: CodeLayout,
    units: impl Iterator<Item = &'a Unit> + Clone,
) -> [f32; TILE_ROWS] {
    std::array::from_fn(|lane| {
        let mut result = 0.0f32;
        for (index, unit) in units.clone().enumerate() {
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

fn float_products(
    tile: Tile<'_>,
    ty: FloatType,
    inputs: impl Iterator<Item = f32> + Clone,
) -> [f32; TILE_ROWS] {
    std::array::from_fn(|lane| {
        let products = inputs.clone().enumerate();
        products
            .map(|(column, input)| tile.float(ty, lane, column) * input)
            .sum()
    })
}
