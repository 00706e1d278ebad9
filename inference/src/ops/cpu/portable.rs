//! The quantized product in plain Rust: for CPUs without a kernel of their own, and the
//! reference for those that have one. Integer parts are exact, so kernels differ from it only in
//! the order of float additions.

use super::{Inputs, Output, ScalesView, Tile};
use crate::ops::packed::{COLUMNS_PER_STEP, CodeWidth, TILE_ROWS};

/// Multiplies one tile with all rows.
pub(super) fn tile(tile: &Tile<'_>, inputs: &Inputs, index: usize, output: Output) {
    for row in 0..inputs.rows {
        output.store(row, index, &row_product(tile, inputs, row));
    }
}

fn row_product(tile: &Tile<'_>, inputs: &Inputs, row: usize) -> [f32; TILE_ROWS] {
    let layout = tile.layout;
    let mut results = [0.0f32; TILE_ROWS];
    for group in 0..tile.groups {
        let codes = &tile.codes[group * layout.group_bytes()..][..layout.group_bytes()];
        let input = &inputs.codes[row * inputs.columns + group * layout.group..][..layout.group];
        let products = match layout.width {
            CodeWidth::Four => nibble_products(codes, input),
            CodeWidth::Eight => byte_products(codes, input),
        };
        let index = row * inputs.groups + group;
        for (lane, result) in results.iter_mut().enumerate() {
            let product = products[lane] + inputs.offsets[index];
            *result += product as f32 * (at(tile.scales, group, lane) * inputs.scales[index]);
            if let Some(mins) = tile.mins {
                *result += at(mins, group, lane) * inputs.sums[index];
            }
        }
    }
    results
}

fn at(scales: ScalesView<'_>, group: usize, lane: usize) -> f32 {
    match scales {
        ScalesView::Half(values) => values[group * TILE_ROWS + lane].to_f32(),
        ScalesView::Full(values) => values[group * TILE_ROWS + lane],
    }
}

fn byte_products(codes: &[u8], input: &[i8]) -> [i32; TILE_ROWS] {
    let mut sums = [0i32; TILE_ROWS];
    let steps = codes.chunks_exact(TILE_ROWS * COLUMNS_PER_STEP);
    for (codes, input) in steps.zip(input.chunks_exact(COLUMNS_PER_STEP)) {
        for (sum, codes) in sums.iter_mut().zip(codes.chunks_exact(COLUMNS_PER_STEP)) {
            for (&code, &input) in codes.iter().zip(input) {
                *sum += i32::from(code.cast_signed()) * i32::from(input);
            }
        }
    }
    sums
}

fn nibble_products(codes: &[u8], input: &[i8]) -> [i32; TILE_ROWS] {
    let mut sums = [0i32; TILE_ROWS];
    let (low, high) = input.split_at(input.len() / 2);
    let inputs = low
        .chunks_exact(COLUMNS_PER_STEP)
        .zip(high.chunks_exact(COLUMNS_PER_STEP));
    for (codes, (low, high)) in codes.chunks_exact(TILE_ROWS * COLUMNS_PER_STEP).zip(inputs) {
        for (sum, codes) in sums.iter_mut().zip(codes.chunks_exact(COLUMNS_PER_STEP)) {
            for ((&code, &low), &high) in codes.iter().zip(low).zip(high) {
                *sum += i32::from(code & 15) * i32::from(low);
                *sum += i32::from(code >> 4) * i32::from(high);
            }
        }
    }
    sums
}
