//! The products in AVX-512 with VNNI.
//!
//! One 512-bit register holds four columns of all sixteen rows of a tile; `vpdpbusd` multiplies
//! them by four broadcast input codes and adds to sixteen 32-bit sums. Weights are the unsigned
//! operand. Sums start at minus the zero point times the sum of the input codes, which is exact and
//! free.
//!
//! Arrays have constant lengths and are indexed by constants only, so that they live in registers:
//! for eight rows, eight integer sums and eight results.

#![expect(unsafe_code, reason = "SIMD loads through pointers into tiles")]

use std::arch::x86_64::*;

use super::{
    inputs::Unit,
    tiles::{Float, FloatSpan, Kernels, PREFETCH_BYTES, Place, Scratch, Span},
};
use crate::ops::packed::{
    CodeLayout, CodeWidth, FloatType, TILE_ROWS,
    layout::{Format, NIBBLE_BYTES, STEP_BYTES, ScaleForm, UNIT_STEPS},
};

/// Bytes of a register of floats.
const REGISTER_BYTES: usize = 4 * TILE_ROWS;

/// The kernels of this module.
pub(super) enum Avx512 {}

// SAFETY: callers of the functions keep the trait's promises.
impl Kernels for Avx512 {
    const DIRECT_ROWS_MAX: usize = 8;

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
                8.. => {
                    pass::<F, EXPANDED, 8>(span, place);
                    8
                }
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
                8.. => {
                    float_pass::<T, 8>(span, place);
                    8
                }
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
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,f16c")]
unsafe fn pass<F: Format, const EXPANDED: bool, const ROWS: usize>(span: Span, place: Place<'_>) {
    let layout = F::LAYOUT;
    let (block_units, unit_bytes) = if EXPANDED {
        (1, UNIT_STEPS * STEP_BYTES)
    } else {
        (layout.block_units(), layout.unit_bytes())
    };
    // SAFETY: the span has the codes and scales of whole blocks and `ROWS` rows of as many units;
    // the caller has the place to itself.
    unsafe {
        let mut results = load::<ROWS>(place);
        let (mut codes, mut scales, mut inputs) = (span.codes, span.scales, span.inputs);
        for _ in 0..span.units / block_units {
            let halves = Halves::load::<F, EXPANDED>(&mut scales);
            for _ in 0..block_units {
                if !EXPANDED {
                    prefetch(codes, unit_bytes);
                }
                // Scaled products of the unit, short of the input's scale.
                let mut products = [_mm512_setzero_ps(); ROWS];
                unroll!(GROUP in 2 {
                    if GROUP < layout.unit_groups() {
                        let (scale, min) = halves.group::<F, EXPANDED>(&mut scales);
                        let dots = dots::<F, EXPANDED, ROWS, GROUP>(codes, inputs);
                        unroll!(ROW in ROWS {
                            let dots = _mm512_cvtepi32_ps(dots[ROW]);
                            products[ROW] = if GROUP == 0 {
                                _mm512_mul_ps(dots, scale)
                            } else {
                                _mm512_fmadd_ps(dots, scale, products[ROW])
                            };
                            if layout.has_min {
                                let sum = _mm512_set1_ps((*inputs.add(ROW)).sum(layout, GROUP));
                                results[ROW] = _mm512_fmadd_ps(min, sum, results[ROW]);
                            }
                        });
                    }
                });
                unroll!(ROW in ROWS {
                    let scale = _mm512_set1_ps((*inputs.add(ROW)).scale);
                    results[ROW] = _mm512_fmadd_ps(products[ROW], scale, results[ROW]);
                });
                codes = codes.add(unit_bytes);
                inputs = inputs.add(span.step);
            }
        }
        store::<ROWS>(place, &results);
    }
}

/// Products of one group's codes, less the zero point.
///
/// # Safety
/// `codes` points to a unit, `inputs` to a unit of each of `ROWS` rows of a panel.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,f16c")]
#[inline]
unsafe fn dots<F: Format, const EXPANDED: bool, const ROWS: usize, const GROUP: usize>(
    codes: *const u8,
    inputs: *const Unit,
) -> [__m512i; ROWS] {
    let layout = F::LAYOUT;
    let mut dots = [_mm512_setzero_si512(); ROWS];
    // SAFETY: the caller's promises; a unit of inputs begins with eight steps of four codes.
    unsafe {
        unroll!(ROW in ROWS {
            dots[ROW] = _mm512_set1_epi32((*inputs.add(ROW)).offset(layout, GROUP));
        });
        unroll!(STEP in 8 {
            if STEP * layout.unit_groups() / UNIT_STEPS == GROUP {
                let weights = step::<F, EXPANDED, STEP>(codes);
                unroll!(ROW in ROWS {
                    let four = inputs.add(ROW).cast::<i32>().add(STEP).read();
                    dots[ROW] = _mm512_dpbusd_epi32(dots[ROW], weights, _mm512_set1_epi32(four));
                });
            }
        });
    }
    dots
}

/// The 16-bit scales and minimums of a block that has factors for its groups.
struct Halves {
    scale: __m512,
    min: __m512,
}

impl Halves {
    /// Reads them if the groups have factors, and moves past them.
    ///
    /// # Safety
    /// `scales` points to a block's.
    #[target_feature(enable = "avx512f,avx512bw,f16c")]
    #[inline]
    unsafe fn load<F: Format, const EXPANDED: bool>(scales: &mut *const u8) -> Self {
        let (mut scale, mut min) = (_mm512_setzero_ps(), _mm512_setzero_ps());
        if !EXPANDED && F::LAYOUT.scales == ScaleForm::Factors {
            // SAFETY: scales are followed by minimums if the layout has them.
            unsafe {
                scale = load_half(*scales);
                if F::LAYOUT.has_min {
                    min = load_half(scales.add(2 * TILE_ROWS));
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
    #[target_feature(enable = "avx512f,avx512bw,f16c")]
    #[inline]
    unsafe fn group<F: Format, const EXPANDED: bool>(
        &self,
        scales: &mut *const u8,
    ) -> (__m512, __m512) {
        // SAFETY: the number of values is the layout's, their width its form's.
        unsafe {
            let mut next = |first: bool| {
                let at = *scales;
                if EXPANDED {
                    *scales = at.add(REGISTER_BYTES);
                    return _mm512_loadu_ps(at.cast());
                }
                match F::LAYOUT.scales {
                    ScaleForm::Half => {
                        *scales = at.add(2 * TILE_ROWS);
                        load_half(at)
                    }
                    ScaleForm::Factors => {
                        *scales = at.add(TILE_ROWS);
                        let factors = _mm512_cvtepi8_epi32(_mm_loadu_si128(at.cast()));
                        let half = if first { self.scale } else { self.min };
                        _mm512_mul_ps(half, _mm512_cvtepi32_ps(factors))
                    }
                }
            };
            let scale = next(true);
            let min = if F::LAYOUT.has_min {
                next(false)
            } else {
                _mm512_setzero_ps()
            };
            (scale, min)
        }
    }
}

/// Sixteen 16-bit floats, widened.
///
/// # Safety
/// They are readable.
#[target_feature(enable = "avx512f,f16c")]
#[inline]
unsafe fn load_half(at: *const u8) -> __m512 {
    // SAFETY: the caller's promise; the read needs no alignment.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(at.cast()) })
}

/// The codes of one step of a unit as bytes.
///
/// # Safety
/// `codes` points to a whole unit.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
unsafe fn step<F: Format, const EXPANDED: bool, const STEP: usize>(codes: *const u8) -> __m512i {
    let layout: CodeLayout = F::LAYOUT;
    let load = |register: usize| {
        // SAFETY: callers below stay within the unit's registers.
        unsafe { _mm512_loadu_si512(codes.add(register * STEP_BYTES).cast()) }
    };
    if EXPANDED || layout.width == CodeWidth::Eight {
        return load(STEP);
    }
    let mut low = load(STEP % 4);
    if STEP >= 4 {
        low = _mm512_srli_epi16::<4>(low);
    }
    low = _mm512_and_si512(low, _mm512_set1_epi8(15));
    let first_high = NIBBLE_BYTES / STEP_BYTES;
    match layout.width {
        CodeWidth::Five => {
            let bits = to_fifth_bit(load(first_high), STEP as i32);
            _mm512_or_si512(low, _mm512_and_si512(bits, _mm512_set1_epi8(16)))
        }
        CodeWidth::Six => {
            let bits = to_fifth_bit(load(first_high + STEP / 4), 2 * (STEP % 4) as i32);
            _mm512_or_si512(low, _mm512_and_si512(bits, _mm512_set1_epi8(48)))
        }
        CodeWidth::Four | CodeWidth::Eight => low,
    }
}

/// Moves a bit of each byte to bit 4; others are left in the neighbours.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn to_fifth_bit(bytes: __m512i, bit: i32) -> __m512i {
    match bit {
        0 => _mm512_slli_epi16::<4>(bytes),
        1 => _mm512_slli_epi16::<3>(bytes),
        2 => _mm512_slli_epi16::<2>(bytes),
        3 => _mm512_slli_epi16::<1>(bytes),
        4 => bytes,
        5 => _mm512_srli_epi16::<1>(bytes),
        6 => _mm512_srli_epi16::<2>(bytes),
        _ => _mm512_srli_epi16::<3>(bytes),
    }
}

/// Expands a chunk.
///
/// # Safety
/// As for [`Kernels`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,f16c")]
unsafe fn expand<F: Format>(
    codes: *const u8,
    scales: *const u8,
    units: usize,
    scratch: &mut Scratch,
) {
    let layout = F::LAYOUT;
    let (mut codes, mut scales) = (codes, scales);
    let mut to_codes = scratch.codes.chunks_exact_mut(UNIT_STEPS * STEP_BYTES);
    let mut to_scales = scratch.scales.chunks_exact_mut(TILE_ROWS);
    // SAFETY: there are the codes and scales of whole blocks. Targets are registers of their
    // own, taken one by one.
    unsafe {
        for _ in 0..units / layout.block_units() {
            let halves = Halves::load::<F, false>(&mut scales);
            for _ in 0..layout.block_units() {
                let Some(target) = to_codes.next() else {
                    return;
                };
                unroll!(STEP in 8 {
                    let at = target.as_mut_ptr().add(STEP * STEP_BYTES);
                    _mm512_storeu_si512(at.cast(), step::<F, false, STEP>(codes));
                });
                codes = codes.add(layout.unit_bytes());
                for _ in 0..layout.unit_groups() {
                    let (scale, min) = halves.group::<F, false>(&mut scales);
                    for value in [scale, min].into_iter().take(layout.group_values()) {
                        let Some(target) = to_scales.next() else {
                            return;
                        };
                        _mm512_storeu_ps(target.as_mut_ptr(), value);
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
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,f16c")]
unsafe fn float_pass<T: Float, const ROWS: usize>(span: FloatSpan, place: Place<'_>) {
    let column_bytes = TILE_ROWS * T::TYPE.bytes();
    // SAFETY: the span has the weights and `ROWS` rows of inputs of as many columns; the caller
    // has the place to itself.
    unsafe {
        let mut results = load::<ROWS>(place);
        let (mut weights, mut inputs) = (span.weights, span.inputs);
        for _ in 0..span.columns {
            let column = floats::<T>(weights);
            if ROWS <= 4 {
                prefetch(weights, column_bytes);
            }
            unroll!(ROW in ROWS {
                let input = _mm512_set1_ps(*inputs.add(ROW));
                results[ROW] = _mm512_fmadd_ps(column, input, results[ROW]);
            });
            weights = weights.add(column_bytes);
            inputs = inputs.add(span.step);
        }
        store::<ROWS>(place, &results);
    }
}

/// One column of a tile.
///
/// # Safety
/// `at` points to [`TILE_ROWS`] numbers.
#[target_feature(enable = "avx512f,avx512bw,f16c")]
#[inline]
unsafe fn floats<T: Float>(at: *const u8) -> __m512 {
    // SAFETY: the caller's promise; the reads need no alignment.
    unsafe {
        match T::TYPE {
            FloatType::F16 => load_half(at),
            FloatType::BF16 => {
                let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
            }
            FloatType::F32 => _mm512_loadu_ps(at.cast()),
        }
    }
}

/// Widens a chunk.
///
/// # Safety
/// As for [`Kernels`].
#[target_feature(enable = "avx512f,avx512bw,f16c")]
unsafe fn expand_floats<T: Float>(weights: *const u8, scratch: &mut [f32]) {
    for (column, target) in scratch.chunks_exact_mut(TILE_ROWS).enumerate() {
        // SAFETY: there are as many columns of weights as of scratch.
        unsafe {
            let values = floats::<T>(weights.add(column * TILE_ROWS * T::TYPE.bytes()));
            _mm512_storeu_ps(target.as_mut_ptr(), values);
        }
    }
}

/// Which lanes of a tile are rows of the matrix.
#[inline(always)]
fn mask(lanes: usize) -> __mmask16 {
    (((1u32 << lanes) - 1) & 0xffff) as __mmask16
}

/// Where results start: at zero, or at what earlier stretches left.
///
/// # Safety
/// As for [`Kernels`].
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn load<const ROWS: usize>(place: Place<'_>) -> [__m512; ROWS] {
    let mut results = [_mm512_setzero_ps(); ROWS];
    if place.resume {
        let places = place.output.lanes_of_rows(place.row, ROWS, place.tile);
        let mask = mask(places.lanes);
        unroll!(ROW in ROWS {
            let at = places.first.wrapping_add(ROW * places.stride);
            // SAFETY: masked lanes are not touched, the others are the caller's.
            results[ROW] = unsafe { _mm512_maskz_loadu_ps(mask, at) };
        });
    }
    results
}

/// Writes the results.
///
/// # Safety
/// As for [`Kernels`].
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn store<const ROWS: usize>(place: Place<'_>, results: &[__m512; ROWS]) {
    let places = place.output.lanes_of_rows(place.row, ROWS, place.tile);
    let mask = mask(places.lanes);
    unroll!(ROW in ROWS {
        let at = places.first.wrapping_add(ROW * places.stride);
        // SAFETY: masked lanes are not touched, the others are the caller's.
        unsafe { _mm512_mask_storeu_ps(at, mask, results[ROW]) };
    });
}
