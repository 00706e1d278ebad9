//! The quantized product in AVX-512 VNNI.
//!
//! One 512-bit register holds four columns of all sixteen rows of a tile; `vpdpbusd` multiplies
//! them by four broadcast input codes and adds to sixteen 32-bit sums. Weights are the unsigned
//! operand: signed codes are offset by 128, which the sum of the input codes takes back exactly.

#![expect(
    unsafe_code,
    reason = "SIMD loads from slices whose lengths are checked here"
)]

use std::arch::x86_64::*;

use super::{Output, QuantizedRows, ScalesView, Tile};
use crate::ops::packed::{CodeWidth, TILE_ROWS};

/// Most steps of four columns in a group.
const STEPS_MAX: usize = 8;

/// Multiplies one tile with all rows. The caller has checked that the CPU has AVX-512 VNNI.
pub(super) fn tile(tile: &Tile<'_>, inputs: &QuantizedRows, index: usize, output: Output) {
    let layout = tile.layout;
    let half = matches!(tile.scales, ScalesView::Half(_));
    let four = layout.width == CodeWidth::Four;
    assert_eq!(tile.codes.len(), tile.groups * layout.group_bytes());
    assert_eq!(inputs.columns, tile.groups * layout.group);
    // SAFETY: `multiply` runs this only where `InstructionSet::available` found the features; the
    // lengths that the loads rely on were just checked, and `Tile::of` cuts scales to size.
    unsafe {
        match (four, layout.group, half, tile.mins.is_some()) {
            (true, 32, true, false) => rows::<true, 32, true, false>(tile, inputs, index, output),
            (true, 32, true, true) => rows::<true, 32, true, true>(tile, inputs, index, output),
            (true, 32, false, _) => rows::<true, 32, false, true>(tile, inputs, index, output),
            (false, 32, true, false) => rows::<false, 32, true, false>(tile, inputs, index, output),
            (false, 32, true, true) => rows::<false, 32, true, true>(tile, inputs, index, output),
            (false, 32, false, _) => rows::<false, 32, false, true>(tile, inputs, index, output),
            (false, 16, _, false) => rows::<false, 16, false, false>(tile, inputs, index, output),
            (false, 16, _, true) => rows::<false, 16, false, true>(tile, inputs, index, output),
            _ => unreachable!("no type has this layout"),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni,f16c")]
fn rows<const FOUR: bool, const GROUP: usize, const HALF: bool, const MIN: bool>(
    tile: &Tile<'_>,
    inputs: &QuantizedRows,
    index: usize,
    output: Output,
) {
    let mut row = 0;
    while row + 8 <= inputs.rows {
        product::<FOUR, GROUP, HALF, MIN, 8>(tile, inputs, row, index, output);
        row += 8;
    }
    if row + 4 <= inputs.rows {
        product::<FOUR, GROUP, HALF, MIN, 4>(tile, inputs, row, index, output);
        row += 4;
    }
    while row < inputs.rows {
        product::<FOUR, GROUP, HALF, MIN, 1>(tile, inputs, row, index, output);
        row += 1;
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni,f16c")]
#[inline]
fn product<
    const FOUR: bool,
    const GROUP: usize,
    const HALF: bool,
    const MIN: bool,
    const ROWS: usize,
>(
    tile: &Tile<'_>,
    inputs: &QuantizedRows,
    first_row: usize,
    index: usize,
    output: Output,
) {
    let steps = GROUP / 4;
    let group_bytes = tile.layout.group_bytes();
    let zero_point = if FOUR { tile.layout.zero_point } else { 128 };
    let mut results = [_mm512_setzero_ps(); ROWS];
    for group in 0..tile.groups {
        let column = group * GROUP;
        let codes = &tile.codes[group * group_bytes..(group + 1) * group_bytes];
        let weights = load_codes::<FOUR>(codes);
        let scales = load_scales::<HALF>(tile.scales, group);
        for (offset, result) in results.iter_mut().enumerate() {
            let row = first_row + offset;
            let input = &inputs.codes(row, column)[..GROUP];
            let sum = inputs.sum(row, column, GROUP);
            let input_scale = inputs.scale(row, column);
            let mut sums = _mm512_set1_epi32(-zero_point * sum);
            for (step, weights) in weights[..steps].iter().enumerate() {
                // SAFETY: `input` has `4 * steps` codes.
                let four = unsafe { input.as_ptr().add(4 * step).cast::<i32>().read_unaligned() };
                sums = _mm512_dpbusd_epi32(sums, *weights, _mm512_set1_epi32(four));
            }
            let scale = _mm512_mul_ps(scales, _mm512_set1_ps(input_scale));
            *result = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), scale, *result);
            if MIN && let Some(mins) = tile.mins {
                let mins = load_scales::<HALF>(mins, group);
                let sum = _mm512_set1_ps(input_scale * sum as f32);
                *result = _mm512_fmadd_ps(mins, sum, *result);
            }
        }
    }
    for (offset, result) in results.iter().enumerate() {
        let mut lanes = [0.0f32; TILE_ROWS];
        // SAFETY: `lanes` has room for one register.
        unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), *result) };
        output.store(first_row + offset, index, &lanes);
    }
}

/// Loads a group's codes as unsigned bytes, one register per step.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn load_codes<const FOUR: bool>(codes: &[u8]) -> [__m512i; STEPS_MAX] {
    let mut weights = [_mm512_setzero_si512(); STEPS_MAX];
    let mask = _mm512_set1_epi8(15);
    let offset = _mm512_set1_epi8(-128);
    for (step, bytes) in codes.chunks_exact(64).enumerate() {
        // SAFETY: the chunk has 64 bytes.
        let bytes = unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) };
        if FOUR {
            weights[step] = _mm512_and_si512(bytes, mask);
            weights[step + 4] = _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), mask);
        } else {
            weights[step] = _mm512_xor_si512(bytes, offset);
        }
    }
    weights
}

#[target_feature(enable = "avx512f,f16c")]
#[inline]
fn load_scales<const HALF: bool>(scales: ScalesView<'_>, group: usize) -> __m512 {
    let range = group * TILE_ROWS..(group + 1) * TILE_ROWS;
    match scales {
        ScalesView::Half(values) if HALF => {
            let values = &values[range];
            // SAFETY: the slice has sixteen 16-bit values.
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(values.as_ptr().cast())) }
        }
        ScalesView::Full(values) if !HALF => {
            let values = &values[range];
            // SAFETY: the slice has sixteen 32-bit values.
            unsafe { _mm512_loadu_ps(values.as_ptr()) }
        }
        _ => unreachable!("the variant was matched by the caller"),
    }
}
