//! The quantized product in AVX2.
//!
//! A 256-bit register holds four columns of eight rows, so a tile is done in two halves.
//! `vpmaddubsw` multiplies unsigned by signed bytes and adds pairs into 16 bits, saturating. Sums
//! of eight pairs of 4-bit codes stay below 2¹⁵ (8 · 2 · 15 · 127 = 30 480) and are widened once
//! per group; 8-bit codes are made unsigned by moving their sign to the input, and widened each
//! time (2 · 128 · 127 = 32 512).

#![expect(
    unsafe_code,
    reason = "SIMD loads from slices whose lengths are checked here"
)]

use std::arch::x86_64::*;

use super::{INPUT_GROUP, Inputs, Output, RowOutput, ScalesView, Tile, quantize_row_with};
use crate::ops::packed::{CodeWidth, TILE_ROWS};

/// Rows of a tile in one register.
const LANES: usize = 8;

/// Bytes of one step of four columns in a tile.
const STEP_BYTES: usize = 4 * TILE_ROWS;

/// Quantizes one input row. The caller has checked that the CPU has AVX2, FMA, F16C.
pub(super) fn quantize_row(output: RowOutput<'_>, values: &[f32]) {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn compiled(output: RowOutput<'_>, values: &[f32]) {
        quantize_row_with(output, values, |values, codes| {
            quantize_group(values, codes)
        });
    }
    // SAFETY: `multiply` comes here only where `InstructionSet::available` found the features.
    unsafe { compiled(output, values) }
}

/// As the portable one: not-a-number becomes 0, because minima and maxima take their second operand
/// where the first is none.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn quantize_group(values: &[f32; INPUT_GROUP], codes: &mut [i8; INPUT_GROUP]) -> f32 {
    let sign = _mm256_set1_ps(-0.0);
    let mut parts = [_mm256_setzero_ps(); 4];
    let mut largest = _mm256_setzero_ps();
    unroll!(PART in 4 {
        // SAFETY: the array has four registers of eight values.
        parts[PART] = unsafe { _mm256_loadu_ps(values.as_ptr().add(8 * PART)) };
        largest = _mm256_max_ps(_mm256_andnot_ps(sign, parts[PART]), largest);
    });
    let quarter = _mm_max_ps(
        _mm256_castps256_ps128(largest),
        _mm256_extractf128_ps::<1>(largest),
    );
    let pair = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
    let largest = _mm_cvtss_f32(_mm_max_ss(pair, _mm_movehdup_ps(pair)));
    let scale = largest / 127.0;
    let inverse = _mm256_set1_ps(if scale > 0.0 { 1.0 / scale } else { 0.0 });
    let zero = _mm256_setzero_ps();
    let mut rounded = [_mm256_setzero_si256(); 4];
    unroll!(PART in 4 {
        let scaled = _mm256_mul_ps(parts[PART], inverse);
        let ordered = _mm256_blendv_ps(zero, scaled, _mm256_cmp_ps::<_CMP_ORD_Q>(scaled, scaled));
        // Rounds to nearest, ties to even: the processor's default mode.
        rounded[PART] = _mm256_cvtps_epi32(ordered);
    });
    let words = [
        _mm256_packs_epi32(rounded[0], rounded[1]),
        _mm256_packs_epi32(rounded[2], rounded[3]),
    ];
    // Packing works within 128-bit lanes; the permutation restores the order.
    let bytes = _mm256_packs_epi16(words[0], words[1]);
    let bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    // SAFETY: the array has 32 codes.
    unsafe { _mm256_storeu_si256(codes.as_mut_ptr().cast(), bytes) };
    scale
}

/// Multiplies one tile with all rows. The caller has checked that the CPU has AVX2, FMA, F16C.
pub(super) fn tile(tile: &Tile<'_>, inputs: &Inputs, index: usize, output: Output) {
    assert_eq!(tile.codes.len(), tile.groups * tile.layout.group_bytes());
    assert_eq!(inputs.columns, tile.groups * tile.layout.group);
    // SAFETY: `multiply` runs this only where `InstructionSet::available` found the features; the
    // lengths that the loads rely on were just checked, and `Tile::of` cuts scales to size.
    unsafe {
        match (tile.layout.width, tile.layout.group) {
            (CodeWidth::Four, 32) => rows::<true, 32>(tile, inputs, index, output),
            (CodeWidth::Eight, 32) => rows::<false, 32>(tile, inputs, index, output),
            (CodeWidth::Eight, 16) => rows::<false, 16>(tile, inputs, index, output),
            _ => unreachable!("no type has this layout"),
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn rows<const FOUR: bool, const GROUP: usize>(
    tile: &Tile<'_>,
    inputs: &Inputs,
    index: usize,
    output: Output,
) {
    let mut row = 0;
    while row + 4 <= inputs.rows {
        product::<FOUR, GROUP, 4>(tile, inputs, row, index, output);
        row += 4;
    }
    while row < inputs.rows {
        product::<FOUR, GROUP, 1>(tile, inputs, row, index, output);
        row += 1;
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn product<const FOUR: bool, const GROUP: usize, const ROWS: usize>(
    tile: &Tile<'_>,
    inputs: &Inputs,
    first_row: usize,
    index: usize,
    output: Output,
) {
    let halves =
        [0, 1].map(|half| half_product::<FOUR, GROUP, ROWS>(tile, inputs, first_row, half));
    for offset in 0..ROWS {
        let mut lanes = [0.0f32; TILE_ROWS];
        for (lanes, half) in lanes.chunks_exact_mut(LANES).zip(&halves) {
            // SAFETY: the chunk has room for one register.
            unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), half[offset]) };
        }
        output.store(first_row + offset, index, &lanes);
    }
}

/// Multiplies half a tile with `ROWS` rows. As in AVX-512, arrays are indexed by constants only.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn half_product<const FOUR: bool, const GROUP: usize, const ROWS: usize>(
    tile: &Tile<'_>,
    inputs: &Inputs,
    first_row: usize,
    half: usize,
) -> [__m256; ROWS] {
    assert!(first_row + ROWS <= inputs.rows && inputs.groups == tile.groups);
    let first_code = inputs.codes[first_row * inputs.columns..].as_ptr();
    let first_group = first_row * inputs.groups;
    let scales = inputs.scales[first_group..].as_ptr();
    let offsets = inputs.offsets[first_group..].as_ptr();
    let sums = inputs.sums[first_group..].as_ptr();
    let group_bytes = if FOUR { 8 * GROUP } else { 16 * GROUP };
    let mut results = [_mm256_setzero_ps(); ROWS];
    for group in 0..tile.groups {
        // SAFETY: `tile` checked that the codes and scales of `groups` groups are there, and the
        // assertion above that the inputs have `ROWS` rows of as many groups from `first_row` on.
        unsafe {
            let codes = tile
                .codes
                .as_ptr()
                .add(group * group_bytes + half * LANES * 4);
            let inputs_at = first_code.add(group * GROUP);
            let mut dots = [_mm256_setzero_si256(); ROWS];
            if FOUR {
                nibble_dots::<ROWS>(codes, inputs_at, inputs.columns, &mut dots);
            } else {
                byte_dots::<GROUP, ROWS>(codes, inputs_at, inputs.columns, &mut dots);
            }
            let weight_scales = load_scales(tile.scales, group, half);
            unroll!(ROW in ROWS {
                let at = ROW * inputs.groups + group;
                let dots = _mm256_add_epi32(dots[ROW], _mm256_set1_epi32(*offsets.add(at)));
                let scale = _mm256_mul_ps(weight_scales, _mm256_set1_ps(*scales.add(at)));
                results[ROW] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots), scale, results[ROW]);
            });
            if let Some(mins) = tile.mins {
                let mins = load_scales(mins, group, half);
                unroll!(ROW in ROWS {
                    let sum = _mm256_set1_ps(*sums.add(ROW * inputs.groups + group));
                    results[ROW] = _mm256_fmadd_ps(mins, sum, results[ROW]);
                });
            }
        }
    }
    results
}

/// Products of a group of 32 4-bit codes.
///
/// # Safety
/// `codes` points to half a group, `input` to 32 codes of each of `ROWS` rows, `stride` apart.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn nibble_dots<const ROWS: usize>(
    codes: *const u8,
    input: *const i8,
    stride: usize,
    dots: &mut [__m256i; ROWS],
) {
    let mask = _mm256_set1_epi8(15);
    let mut weights = [_mm256_setzero_si256(); 8];
    unroll!(STEP in 4 {
        // SAFETY: a group of 4-bit codes has four steps.
        let bytes = unsafe { _mm256_loadu_si256(codes.add(STEP * STEP_BYTES).cast()) };
        weights[STEP] = _mm256_and_si256(bytes, mask);
        weights[STEP + 4] = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask);
    });
    unroll!(ROW in ROWS {
        let mut pairs = _mm256_setzero_si256();
        unroll!(STEP in 8 {
            // SAFETY: each row has eight steps of four codes.
            let four = unsafe { broadcast(input.add(ROW * stride + 4 * STEP)) };
            pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(weights[STEP], four));
        });
        dots[ROW] = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    });
}

/// Products of a group of 8-bit codes, four steps at a time: more would not fit in registers.
///
/// # Safety
/// As [`nibble_dots`], with `GROUP` codes in each row.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn byte_dots<const GROUP: usize, const ROWS: usize>(
    codes: *const u8,
    input: *const i8,
    stride: usize,
    dots: &mut [__m256i; ROWS],
) {
    let ones = _mm256_set1_epi16(1);
    for quarter in 0..GROUP / 16 {
        let first = quarter * 4;
        let mut weights = [_mm256_setzero_si256(); 4];
        unroll!(STEP in 4 {
            // SAFETY: a group of 8-bit codes has a step per four columns.
            let bytes = unsafe { codes.add((first + STEP) * STEP_BYTES).cast() };
            // SAFETY: as above.
            weights[STEP] = unsafe { _mm256_loadu_si256(bytes) };
        });
        unroll!(ROW in ROWS {
            unroll!(STEP in 4 {
                // SAFETY: each row has `GROUP / 4` steps of four codes.
                let four = unsafe { broadcast(input.add(ROW * stride + 4 * (first + STEP))) };
                let magnitudes = _mm256_abs_epi8(weights[STEP]);
                let signed = _mm256_sign_epi8(four, weights[STEP]);
                let pairs = _mm256_maddubs_epi16(magnitudes, signed);
                dots[ROW] = _mm256_add_epi32(dots[ROW], _mm256_madd_epi16(pairs, ones));
            });
        });
    }
}

/// Four input codes in every lane.
///
/// # Safety
/// Four codes are readable.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn broadcast(codes: *const i8) -> __m256i {
    // SAFETY: the caller's promise; the read needs no alignment.
    _mm256_set1_epi32(unsafe { codes.cast::<i32>().read_unaligned() })
}

#[target_feature(enable = "avx2,f16c")]
#[inline]
fn load_scales(scales: ScalesView<'_>, group: usize, half: usize) -> __m256 {
    let start = group * TILE_ROWS + half * LANES;
    match scales {
        ScalesView::Half(values) => {
            let values = &values[start..start + LANES];
            // SAFETY: the slice has eight 16-bit values.
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(values.as_ptr().cast())) }
        }
        ScalesView::Full(values) => {
            let values = &values[start..start + LANES];
            // SAFETY: the slice has eight 32-bit values.
            unsafe { _mm256_loadu_ps(values.as_ptr()) }
        }
    }
}
