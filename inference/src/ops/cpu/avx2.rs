//! The products in AVX2 with FMA and F16C.
//!
//! A 256-bit register holds four columns of eight rows, so a tile is done in two halves.
//! `vpmaddubsw` multiplies unsigned by signed bytes and adds pairs into 16 bits, saturating at
//! 2¹⁵. How many of its results may be added before they are widened depends on the codes: with
//! inputs up to 127, a pair of 4-bit codes is at most 2 · 15 · 127, so eight of them fit (30 480);
//! of 5-bit codes four (31 496), of 6-bit codes two (32 004). 8-bit codes are made signed and their
//! sign moved to the input, which leaves room for just one (2 · 128 · 127 = 32 512).

#![expect(unsafe_code, reason = "SIMD loads through pointers into tiles")]

use std::arch::x86_64::*;

use super::{
    inputs::{INPUT_GROUP, Quantized, Unit, quantize_with},
    tiles::{Float, FloatSpan, Kernels, PREFETCH_BYTES, Place, Scratch, Span},
};
use crate::ops::packed::{
    CodeWidth, FloatType, TILE_ROWS,
    layout::{Format, NIBBLE_BYTES, STEP_BYTES, ScaleForm, UNIT_STEPS},
};

/// Rows of a tile in one register.
const LANES: usize = 8;

/// Bytes of a register.
const REGISTER_BYTES: usize = 4 * LANES;

/// The kernels of this module.
pub(super) enum Avx2 {}

// SAFETY: callers of the functions keep the trait's promises.
impl Kernels for Avx2 {
    const DIRECT_ROWS_MAX: usize = 4;

    unsafe fn expand<F: Format>(
        codes: *const u8,
        scales: *const u8,
        units: usize,
        scratch: &mut Scratch,
    ) {
        // SAFETY: the caller's promises.
        unsafe { expand::<F>(codes, scales, units, scratch) }
    }

    unsafe fn pass<F: Format, const EXPANDED: bool>(
        span: Span,
        place: Place<'_>,
        rows: usize,
    ) -> usize {
        // SAFETY: the caller's promises; no more rows are taken than there are.
        unsafe {
            match rows {
                4.. => {
                    pass::<F, EXPANDED, 4>(span, place);
                    4
                }
                2.. => {
                    pass::<F, EXPANDED, 2>(span, place);
                    2
                }
                _ => {
                    pass::<F, EXPANDED, 1>(span, place);
                    1
                }
            }
        }
    }

    // SAFETY: as above.
    unsafe fn expand_floats<T: Float>(weights: *const u8, scratch: &mut [f32]) {
        // SAFETY: the caller's promises.
        unsafe { expand_floats::<T>(weights, scratch) }
    }

    unsafe fn float_pass<T: Float>(span: FloatSpan, place: Place<'_>, rows: usize) -> usize {
        // SAFETY: the caller's promises; no more rows are taken than there are.
        unsafe {
            match rows {
                4.. => {
                    float_pass::<T, 4>(span, place);
                    4
                }
                2.. => {
                    float_pass::<T, 2>(span, place);
                    2
                }
                _ => {
                    float_pass::<T, 1>(span, place);
                    1
                }
            }
        }
    }
}

/// Quantizes a stretch of an input row. The caller has checked that the CPU has AVX2, FMA, F16C.
pub(super) fn quantize<'a>(values: &[f32], units: impl Iterator<Item = &'a mut Unit>) {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn compiled<'a>(values: &[f32], units: impl Iterator<Item = &'a mut Unit>) {
        quantize_with(
            values,
            units,
            |values, codes| quantize_unit(values, codes),
            |value| round_to_half(value),
        );
    }
    // SAFETY: `Inputs::fill` comes here only with instructions that its caller vouches for.
    unsafe { compiled(values, units) }
}

#[target_feature(enable = "avx2,f16c")]
#[inline]
fn round_to_half(value: f32) -> f32 {
    let half = _mm_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm_set_ss(value));
    _mm_cvtss_f32(_mm_cvtph_ps(half))
}

/// As the portable one: not-a-number becomes 0, because minima and maxima take their second operand
/// where the first is none.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn quantize_unit(values: &[f32; INPUT_GROUP], codes: &mut [i8; INPUT_GROUP]) -> Quantized {
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
    let exact_scale = largest / 127.0;
    let inverse = if exact_scale > 0.0 {
        1.0 / exact_scale
    } else {
        0.0
    };
    let (inverse, zero) = (_mm256_set1_ps(inverse), _mm256_setzero_ps());
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
    let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
    let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    let eights = _mm256_hadd_epi32(fours, fours);
    let halves = _mm256_hadd_epi32(eights, eights);
    let sums = [
        _mm256_extract_epi32::<0>(halves),
        _mm256_extract_epi32::<4>(halves),
    ];
    Quantized { exact_scale, sums }
}

/// Fetches what will be read [`PREFETCH_BYTES`] later.
#[inline(always)]
fn prefetch(at: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(64) {
        let at = at.wrapping_add(PREFETCH_BYTES + line);
        // SAFETY: a prefetch reads nothing, so that any address will do.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }
}

/// Multiplies a stretch of units with `ROWS` rows.
///
/// # Safety
/// As for [`Kernels`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn pass<F: Format, const EXPANDED: bool, const ROWS: usize>(span: Span, place: Place<'_>) {
    // SAFETY: the caller's promises.
    unsafe {
        let mut lanes = load::<ROWS>(place);
        if ROWS <= 2 {
            // Few rows wait for memory, which should not rest while the second half is done.
            halves_pass::<F, EXPANDED, ROWS, 2>(span, 0, &mut lanes);
        } else {
            halves_pass::<F, EXPANDED, ROWS, 1>(span, 0, &mut lanes);
            halves_pass::<F, EXPANDED, ROWS, 1>(span, 1, &mut lanes);
        }
        store::<ROWS>(place, &lanes);
    }
}

/// Multiplies one half of the rows of a tile, or both by turns.
///
/// # Safety
/// As for [`Kernels`].
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn halves_pass<F: Format, const EXPANDED: bool, const ROWS: usize, const HALVES: usize>(
    span: Span,
    first_half: usize,
    lanes: &mut [[f32; TILE_ROWS]; ROWS],
) {
    let layout = F::LAYOUT;
    let (block_units, unit_bytes, block_scale_bytes) = if EXPANDED {
        let scale_bytes = 4 * TILE_ROWS * layout.group_values() * layout.unit_groups();
        (1, UNIT_STEPS * STEP_BYTES, scale_bytes)
    } else {
        let scale_bytes = layout.block_scale_bytes();
        (layout.block_units(), layout.unit_bytes(), scale_bytes)
    };
    // SAFETY: the span has the codes and scales of whole blocks and `ROWS` rows of as many units.
    unsafe {
        let mut results = [[_mm256_setzero_ps(); ROWS]; HALVES];
        unroll!(HALF in HALVES {
            unroll!(ROW in ROWS {
                let at = lanes[ROW].as_ptr().add((first_half + HALF) * LANES);
                results[HALF][ROW] = _mm256_loadu_ps(at);
            });
        });
        let Span {
            mut codes,
            mut scales,
            mut inputs,
            ..
        } = span;
        for _ in 0..span.units / block_units {
            if !EXPANDED && first_half == 0 {
                prefetch(codes, block_units * unit_bytes);
            }
            unroll!(HALF in HALVES {
                let half = first_half + HALF;
                let block = Span {
                    codes: codes.add(half * REGISTER_BYTES),
                    scales,
                    units: block_units,
                    inputs,
                    step: span.step,
                };
                half_block::<F, EXPANDED, ROWS>(block, half, &mut results[HALF]);
            });
            codes = codes.add(block_units * unit_bytes);
            scales = scales.add(block_scale_bytes);
            inputs = inputs.add(block_units * span.step);
        }
        unroll!(HALF in HALVES {
            unroll!(ROW in ROWS {
                let at = lanes[ROW].as_mut_ptr().add((first_half + HALF) * LANES);
                _mm256_storeu_ps(at, results[HALF][ROW]);
            });
        });
    }
}

/// Multiplies half the rows of a tile in one block of units.
///
/// # Safety
/// As for [`Kernels`], where the span's codes begin at the half.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn half_block<F: Format, const EXPANDED: bool, const ROWS: usize>(
    block: Span,
    half: usize,
    results: &mut [__m256; ROWS],
) {
    let layout = F::LAYOUT;
    let unit_bytes = if EXPANDED {
        UNIT_STEPS * STEP_BYTES
    } else {
        layout.unit_bytes()
    };
    let Span {
        mut codes,
        mut scales,
        mut inputs,
        ..
    } = block;
    // SAFETY: the caller's promises.
    unsafe {
        let halves = Halves::load::<F, EXPANDED>(&mut scales, half);
        for _ in 0..block.units {
            unroll!(GROUP in 2 {
                if GROUP < layout.unit_groups() {
                    let (scale, min) = halves.group::<F, EXPANDED>(&mut scales, half);
                    let dots = dots::<F, EXPANDED, ROWS, GROUP>(codes, inputs);
                    unroll!(ROW in ROWS {
                        let unit = &*inputs.add(ROW);
                        let mut dots = dots[ROW];
                        // Codes of 8 bits were made signed.
                        if layout.zero_point != 0 && layout.width != CodeWidth::Eight {
                            let offset = _mm256_set1_epi32(unit.offset(layout, GROUP));
                            dots = _mm256_add_epi32(dots, offset);
                        }
                        let scale = _mm256_mul_ps(scale, _mm256_set1_ps(unit.scale));
                        let dots = _mm256_cvtepi32_ps(dots);
                        results[ROW] = _mm256_fmadd_ps(dots, scale, results[ROW]);
                        if layout.has_min {
                            let sum = _mm256_set1_ps(unit.sum(layout, GROUP));
                            results[ROW] = _mm256_fmadd_ps(min, sum, results[ROW]);
                        }
                    });
                }
            });
            codes = codes.add(unit_bytes);
            inputs = inputs.add(block.step);
        }
    }
}

/// Products of one group's codes, before the zero point is taken off.
///
/// # Safety
/// `codes` points to half a unit, `inputs` to a unit of each of `ROWS` rows of a panel.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn dots<F: Format, const EXPANDED: bool, const ROWS: usize, const GROUP: usize>(
    codes: *const u8,
    inputs: *const Unit,
) -> [__m256i; ROWS] {
    let layout = F::LAYOUT;
    let steps = UNIT_STEPS / layout.unit_groups();
    // How many products of pairs fit in 16 bits: see the module.
    let run = match layout.width {
        CodeWidth::Four => steps,
        CodeWidth::Five => 4,
        CodeWidth::Six => 2,
        CodeWidth::Eight => 1,
    };
    let ones = _mm256_set1_epi16(1);
    let mut dots = [_mm256_setzero_si256(); ROWS];
    let mut pairs = [_mm256_setzero_si256(); ROWS];
    unroll!(STEP in 8 {
        if STEP / steps == GROUP {
            // SAFETY: the caller's promises.
            let weights = unsafe { step::<F, EXPANDED, STEP>(codes) };
            unroll!(ROW in ROWS {
                // SAFETY: a unit begins with eight steps of four codes.
                let four = unsafe { inputs.add(ROW).cast::<i32>().add(STEP).read() };
                let four = _mm256_set1_epi32(four);
                let products = if layout.width == CodeWidth::Eight {
                    let signed = _mm256_sign_epi8(four, weights);
                    _mm256_maddubs_epi16(_mm256_abs_epi8(weights), signed)
                } else {
                    _mm256_maddubs_epi16(weights, four)
                };
                pairs[ROW] = if STEP.is_multiple_of(run) {
                    products
                } else {
                    _mm256_add_epi16(pairs[ROW], products)
                };
                if STEP % run == run - 1 {
                    let wide = _mm256_madd_epi16(pairs[ROW], ones);
                    dots[ROW] = if STEP % steps < run {
                        wide
                    } else {
                        _mm256_add_epi32(dots[ROW], wide)
                    };
                }
            });
        }
    });
    dots
}

/// The 16-bit scales and minimums of a block that has factors for its groups.
struct Halves {
    scale: __m256,
    min: __m256,
}

impl Halves {
    /// Reads those of half a tile if the groups have factors, and moves past the tile's.
    ///
    /// # Safety
    /// `scales` points to a block's.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn load<F: Format, const EXPANDED: bool>(scales: &mut *const u8, half: usize) -> Self {
        let (mut scale, mut min) = (_mm256_setzero_ps(), _mm256_setzero_ps());
        if !EXPANDED && F::LAYOUT.scales == ScaleForm::Factors {
            // SAFETY: scales are followed by minimums if the layout has them.
            unsafe {
                scale = load_half(scales.add(2 * LANES * half));
                if F::LAYOUT.has_min {
                    min = load_half(scales.add(2 * (TILE_ROWS + LANES * half)));
                }
                *scales = scales.add(F::LAYOUT.halves_bytes());
            }
        }
        Self { scale, min }
    }

    /// Returns scales and minimums of the next group, and moves past it.
    ///
    /// # Safety
    /// `scales` points to a group's.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn group<F: Format, const EXPANDED: bool>(
        &self,
        scales: &mut *const u8,
        half: usize,
    ) -> (__m256, __m256) {
        // SAFETY: the number of values is the layout's, their width its form's.
        unsafe {
            let mut next = |first: bool| {
                let at = *scales;
                if EXPANDED {
                    *scales = at.add(4 * TILE_ROWS);
                    return _mm256_loadu_ps(at.add(4 * LANES * half).cast());
                }
                match F::LAYOUT.scales {
                    ScaleForm::Half => {
                        *scales = at.add(2 * TILE_ROWS);
                        load_half(at.add(2 * LANES * half))
                    }
                    ScaleForm::Factors => {
                        *scales = at.add(TILE_ROWS);
                        let bytes = _mm_loadl_epi64(at.add(LANES * half).cast());
                        let factors = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
                        let half = if first { self.scale } else { self.min };
                        _mm256_mul_ps(half, factors)
                    }
                }
            };
            let scale = next(true);
            let min = if F::LAYOUT.has_min {
                next(false)
            } else {
                _mm256_setzero_ps()
            };
            (scale, min)
        }
    }
}

/// Eight 16-bit floats, widened.
///
/// # Safety
/// They are readable.
#[target_feature(enable = "avx2,f16c")]
#[inline]
unsafe fn load_half(at: *const u8) -> __m256 {
    // SAFETY: the caller's promise; the read needs no alignment.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(at.cast()) })
}

/// The codes of one step of half a unit as bytes: signed for 8-bit codes, else unsigned.
///
/// # Safety
/// `codes` points to half a unit.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn step<F: Format, const EXPANDED: bool, const STEP: usize>(codes: *const u8) -> __m256i {
    let load = |register: usize| {
        // SAFETY: callers below stay within the unit's registers.
        unsafe { _mm256_loadu_si256(codes.add(register * STEP_BYTES).cast()) }
    };
    let width = F::LAYOUT.width;
    if EXPANDED {
        return load(STEP);
    }
    if width == CodeWidth::Eight {
        // Flipping the highest bit takes 128 off.
        return _mm256_xor_si256(load(STEP), _mm256_set1_epi8(-128));
    }
    let mut low = load(STEP % 4);
    if STEP >= 4 {
        low = _mm256_srli_epi16::<4>(low);
    }
    low = _mm256_and_si256(low, _mm256_set1_epi8(15));
    let first_high = NIBBLE_BYTES / STEP_BYTES;
    match width {
        CodeWidth::Five => {
            let bits = to_fifth_bit(load(first_high), STEP as i32);
            _mm256_or_si256(low, _mm256_and_si256(bits, _mm256_set1_epi8(16)))
        }
        CodeWidth::Six => {
            let bits = to_fifth_bit(load(first_high + STEP / 4), 2 * (STEP % 4) as i32);
            _mm256_or_si256(low, _mm256_and_si256(bits, _mm256_set1_epi8(48)))
        }
        CodeWidth::Four | CodeWidth::Eight => low,
    }
}

/// Moves a bit of each byte to bit 4; others are left in the neighbours.
#[target_feature(enable = "avx2")]
#[inline]
fn to_fifth_bit(bytes: __m256i, bit: i32) -> __m256i {
    match bit {
        0 => _mm256_slli_epi16::<4>(bytes),
        1 => _mm256_slli_epi16::<3>(bytes),
        2 => _mm256_slli_epi16::<2>(bytes),
        3 => _mm256_slli_epi16::<1>(bytes),
        4 => bytes,
        5 => _mm256_srli_epi16::<1>(bytes),
        6 => _mm256_srli_epi16::<2>(bytes),
        _ => _mm256_srli_epi16::<3>(bytes),
    }
}

/// Expands a chunk; 8-bit codes are made signed.
///
/// # Safety
/// As for [`Kernels`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn expand<F: Format>(
    codes: *const u8,
    scales: *const u8,
    units: usize,
    scratch: &mut Scratch,
) {
    let layout = F::LAYOUT;
    // SAFETY: there are the codes and scales of whole blocks; the targets have room for as many
    // units as a chunk may have.
    unsafe {
        for half in 0..2 {
            let (mut codes, mut scales) = (codes.add(half * REGISTER_BYTES), scales);
            let mut to_codes = scratch.codes.chunks_exact_mut(UNIT_STEPS * STEP_BYTES);
            let mut to_scales = scratch.scales.chunks_exact_mut(TILE_ROWS);
            for _ in 0..units / layout.block_units() {
                let halves = Halves::load::<F, false>(&mut scales, half);
                for _ in 0..layout.block_units() {
                    let Some(target) = to_codes.next() else {
                        return;
                    };
                    unroll!(STEP in 8 {
                        let at = target.as_mut_ptr().add(STEP * STEP_BYTES + half * REGISTER_BYTES);
                        _mm256_storeu_si256(at.cast(), step::<F, false, STEP>(codes));
                    });
                    codes = codes.add(layout.unit_bytes());
                    for _ in 0..layout.unit_groups() {
                        let (scale, min) = halves.group::<F, false>(&mut scales, half);
                        for value in [scale, min].into_iter().take(layout.group_values()) {
                            let Some(target) = to_scales.next() else {
                                return;
                            };
                            _mm256_storeu_ps(target.as_mut_ptr().add(half * LANES), value);
                        }
                    }
                }
            }
        }
    }
}

/// Multiplies a stretch of columns with `ROWS` rows. Each result is one chain of additions, so that
/// it does not depend on how many rows there are; few rows wait for memory rather than for them.
///
/// # Safety
/// As for [`Kernels`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn float_pass<T: Float, const ROWS: usize>(span: FloatSpan, place: Place<'_>) {
    let column_bytes = TILE_ROWS * T::TYPE.bytes();
    // SAFETY: the span has the weights and `ROWS` rows of inputs of as many columns; the caller
    // has the place to itself.
    unsafe {
        let mut lanes = load::<ROWS>(place);
        let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
        unroll!(ROW in ROWS {
            sums[ROW] = [0, LANES].map(|at| _mm256_loadu_ps(lanes[ROW].as_ptr().add(at)));
        });
        let (mut weights, mut inputs) = (span.weights, span.inputs);
        for _ in 0..span.columns {
            let column = floats::<T>(weights);
            prefetch(weights, column_bytes);
            unroll!(ROW in ROWS {
                let input = _mm256_set1_ps(*inputs.add(ROW));
                sums[ROW][0] = _mm256_fmadd_ps(column[0], input, sums[ROW][0]);
                sums[ROW][1] = _mm256_fmadd_ps(column[1], input, sums[ROW][1]);
            });
            weights = weights.add(column_bytes);
            inputs = inputs.add(span.step);
        }
        unroll!(ROW in ROWS {
            _mm256_storeu_ps(lanes[ROW].as_mut_ptr(), sums[ROW][0]);
            _mm256_storeu_ps(lanes[ROW].as_mut_ptr().add(LANES), sums[ROW][1]);
        });
        store::<ROWS>(place, &lanes);
    }
}

/// One column of a tile, in two halves.
///
/// # Safety
/// `at` points to [`TILE_ROWS`] numbers.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn floats<T: Float>(at: *const u8) -> [__m256; 2] {
    let half = |half: usize| {
        // SAFETY: the caller's promise; the reads need no alignment.
        unsafe {
            let at = at.add(half * LANES * T::TYPE.bytes());
            match T::TYPE {
                FloatType::F16 => load_half(at),
                FloatType::BF16 => {
                    let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()));
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
                }
                FloatType::F32 => _mm256_loadu_ps(at.cast()),
            }
        }
    };
    [half(0), half(1)]
}

/// Widens a chunk.
///
/// # Safety
/// As for [`Kernels`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn expand_floats<T: Float>(weights: *const u8, scratch: &mut [f32]) {
    for (column, target) in scratch.chunks_exact_mut(TILE_ROWS).enumerate() {
        // SAFETY: there are as many columns of weights as of scratch.
        unsafe {
            let [first, second] = floats::<T>(weights.add(column * TILE_ROWS * T::TYPE.bytes()));
            _mm256_storeu_ps(target.as_mut_ptr(), first);
            _mm256_storeu_ps(target.as_mut_ptr().add(LANES), second);
        }
    }
}

/// Where results start: at zero, or at what earlier stretches left.
///
/// # Safety
/// As for [`Kernels`].
#[inline(always)]
unsafe fn load<const ROWS: usize>(place: Place<'_>) -> [[f32; TILE_ROWS]; ROWS] {
    let mut lanes = [[0.0; TILE_ROWS]; ROWS];
    if place.resume {
        for (row, lanes) in lanes.iter_mut().enumerate() {
            // SAFETY: the caller's promises.
            *lanes = unsafe { place.output.load(place.row + row, place.tile) };
        }
    }
    lanes
}

/// Writes the results.
///
/// # Safety
/// As for [`Kernels`].
#[inline(always)]
unsafe fn store<const ROWS: usize>(place: Place<'_>, lanes: &[[f32; TILE_ROWS]; ROWS]) {
    for (row, lanes) in lanes.iter().enumerate() {
        // SAFETY: the caller's promises.
        unsafe { place.output.store(place.row + row, place.tile, lanes) };
    }
}
