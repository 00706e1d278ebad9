//! The quantized product in AVX2.
//!
//! A 256-bit register holds four columns of eight rows, so a tile is two halves. `vpmaddubsw`
//! multiplies unsigned by signed bytes and adds pairs into 16 bits, saturating: sums of eight
//! pairs of 4-bit codes stay below 2¹⁵ (8 · 2 · 15 · 127 = 30 480) and are widened once per group;
//! 8-bit codes are made unsigned by moving their sign to the input, and widened each time.

#![expect(
    unsafe_code,
    reason = "SIMD loads from slices whose lengths are checked here"
)]

use std::arch::x86_64::*;

use super::{Output, QuantizedRows, ScalesView, Tile};
use crate::ops::packed::{CodeWidth, TILE_ROWS};

/// Rows of a tile in one register.
const LANES: usize = 8;

/// Multiplies one tile with all rows. The caller has checked that the CPU has AVX2, FMA, F16C.
pub(super) fn tile(tile: &Tile<'_>, inputs: &QuantizedRows, index: usize, output: Output) {
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
    inputs: &QuantizedRows,
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
    inputs: &QuantizedRows,
    first_row: usize,
    index: usize,
    output: Output,
) {
    let group_bytes = tile.layout.group_bytes();
    let mut results = [[_mm256_setzero_ps(); 2]; ROWS];
    for group in 0..tile.groups {
        let column = group * GROUP;
        let codes = &tile.codes[group * group_bytes..(group + 1) * group_bytes];
        for half in 0..2 {
            let scales = load_scales(tile.scales, group, half);
            let mins = tile.mins.map(|mins| load_scales(mins, group, half));
            for (offset, result) in results.iter_mut().enumerate() {
                let row = first_row + offset;
                let input = &inputs.codes(row, column)[..GROUP];
                let sum = inputs.sum(row, column, GROUP);
                let input_scale = inputs.scale(row, column);
                let sums = if FOUR {
                    nibble_sums(codes, input, half)
                } else {
                    byte_sums(codes, input, half)
                };
                let offset = _mm256_set1_epi32(tile.layout.zero_point * sum);
                let sums = _mm256_cvtepi32_ps(_mm256_sub_epi32(sums, offset));
                let scale = _mm256_mul_ps(scales, _mm256_set1_ps(input_scale));
                result[half] = _mm256_fmadd_ps(sums, scale, result[half]);
                if let Some(mins) = mins {
                    let sum = _mm256_set1_ps(input_scale * sum as f32);
                    result[half] = _mm256_fmadd_ps(mins, sum, result[half]);
                }
            }
        }
    }
    for (offset, result) in results.iter().enumerate() {
        let mut lanes = [0.0f32; TILE_ROWS];
        for (lanes, half) in lanes.chunks_exact_mut(LANES).zip(result) {
            // SAFETY: the chunk has room for one register.
            unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), *half) };
        }
        output.store(first_row + offset, index, &lanes);
    }
}

/// Sums of products of 4-bit codes in one half of a tile.
#[target_feature(enable = "avx2")]
#[inline]
fn nibble_sums(codes: &[u8], input: &[i8], half: usize) -> __m256i {
    let mask = _mm256_set1_epi8(15);
    let mut pairs = _mm256_setzero_si256();
    let (low_input, high_input) = input.split_at(input.len() / 2);
    for (step, bytes) in codes.chunks_exact(64).enumerate() {
        // SAFETY: each half of a 64-byte chunk has 32 bytes.
        let bytes = unsafe { _mm256_loadu_si256(bytes.as_ptr().add(32 * half).cast()) };
        let low = _mm256_and_si256(bytes, mask);
        let high = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask);
        pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(low, broadcast(low_input, step)));
        pairs = _mm256_add_epi16(
            pairs,
            _mm256_maddubs_epi16(high, broadcast(high_input, step)),
        );
    }
    _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
}

/// Sums of products of 8-bit codes in one half of a tile.
#[target_feature(enable = "avx2")]
#[inline]
fn byte_sums(codes: &[u8], input: &[i8], half: usize) -> __m256i {
    let ones = _mm256_set1_epi16(1);
    let mut sums = _mm256_setzero_si256();
    for (step, bytes) in codes.chunks_exact(64).enumerate() {
        // SAFETY: each half of a 64-byte chunk has 32 bytes.
        let bytes = unsafe { _mm256_loadu_si256(bytes.as_ptr().add(32 * half).cast()) };
        let input = _mm256_sign_epi8(broadcast(input, step), bytes);
        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(bytes), input);
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, ones));
    }
    sums
}

/// Four input codes in every lane.
#[target_feature(enable = "avx2")]
#[inline]
fn broadcast(input: &[i8], step: usize) -> __m256i {
    let four = &input[4 * step..4 * step + 4];
    // SAFETY: the slice has four codes.
    _mm256_set1_epi32(unsafe { four.as_ptr().cast::<i32>().read_unaligned() })
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
