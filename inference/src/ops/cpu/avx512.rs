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

use super::{Inputs, Output, ScalesView, Tile};
use crate::ops::packed::{CodeWidth, TILE_ROWS};

/// Multiplies one tile with all rows. The caller has checked that the CPU has AVX-512 VNNI.
pub(super) fn tile(tile: &Tile<'_>, inputs: &Inputs, index: usize, output: Output) {
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
    inputs: &Inputs,
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

/// Multiplies one tile with `ROWS` rows. Arrays have constant lengths and are indexed by constants
/// only, so that they live in registers: 8 of weights, `ROWS` of results.
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
    inputs: &Inputs,
    first_row: usize,
    index: usize,
    output: Output,
) {
    assert!(first_row + ROWS <= inputs.rows && inputs.groups == tile.groups);
    let first_code = inputs.codes[first_row * inputs.columns..].as_ptr();
    let first_group = first_row * inputs.groups;
    let scales = inputs.scales[first_group..].as_ptr();
    let offsets = inputs.offsets[first_group..].as_ptr();
    let sums = inputs.sums[first_group..].as_ptr();
    let mut results = [_mm512_setzero_ps(); ROWS];
    let mut codes = tile.codes.as_ptr();
    for group in 0..tile.groups {
        // SAFETY: `tile` checked that the codes and scales of `groups` groups are there, and the
        // assertion above that the inputs have `ROWS` rows of as many groups from `first_row` on.
        unsafe {
            let weights = load_codes::<FOUR, GROUP>(codes);
            codes = codes.add(if FOUR { 8 * GROUP } else { 16 * GROUP });
            let weight_scales = load_scales::<HALF>(tile.scales, group);
            let mins = match tile.mins {
                Some(mins) if MIN => load_scales::<HALF>(mins, group),
                _ => _mm512_setzero_ps(),
            };
            unroll!(ROW in ROWS {
                let at = ROW * inputs.groups + group;
                let input = first_code.add(ROW * inputs.columns + group * GROUP).cast::<i32>();
                let mut dots = _mm512_set1_epi32(*offsets.add(at));
                unroll!(STEP in GROUP / 4 {
                    let four = _mm512_set1_epi32(input.add(STEP).read_unaligned());
                    dots = _mm512_dpbusd_epi32(dots, weights[STEP], four);
                });
                let scale = _mm512_mul_ps(weight_scales, _mm512_set1_ps(*scales.add(at)));
                results[ROW] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), scale, results[ROW]);
                if MIN {
                    let sum = _mm512_set1_ps(*sums.add(at));
                    results[ROW] = _mm512_fmadd_ps(mins, sum, results[ROW]);
                }
            });
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
///
/// # Safety
/// The codes of a whole group are readable.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
unsafe fn load_codes<const FOUR: bool, const GROUP: usize>(codes: *const u8) -> [__m512i; 8] {
    let mut weights = [_mm512_setzero_si512(); 8];
    let registers: *const __m512i = codes.cast();
    if FOUR {
        let mask = _mm512_set1_epi8(15);
        unroll!(STEP in 4 {
            // SAFETY: a group of 4-bit codes has four registers.
            let bytes = unsafe { _mm512_loadu_si512(registers.add(STEP)) };
            weights[STEP] = _mm512_and_si512(bytes, mask);
            weights[STEP + 4] = _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), mask);
        });
    } else {
        let offset = _mm512_set1_epi8(-128);
        unroll!(STEP in GROUP / 4 {
            // SAFETY: a group of 8-bit codes has a register per four columns.
            let bytes = unsafe { _mm512_loadu_si512(registers.add(STEP)) };
            weights[STEP] = _mm512_xor_si512(bytes, offset);
        });
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
