//! The kernels in AVX2, and in AVX-512 with its counts of bits.
//!
//! A register holds the same word of several vectors, so that nothing is ever summed across lanes:
//! each word of the query meets it in four planes, and what both have is counted. That a set's
//! instructions are there is proven by having a value of its type, which only `detect` makes.

#![expect(unsafe_code, reason = "SIMD loads and stores through pointers")]

use std::arch::x86_64::*;

use super::{BLOCK, Lanes, Planes, portable};

/// AVX2 and FMA, which this processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Avx2(());

/// AVX-512 with VPOPCNTDQ, which this processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Avx512(());

impl Avx2 {
    /// Returns the set if the processor has it.
    pub(super) fn detect() -> Option<Self> {
        let is_there = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        is_there.then_some(Self(()))
    }

    pub(super) fn score(self, planes: &[Planes], blocks: &[Lanes], scores: &mut [i16]) {
        // SAFETY: `detect` has found the instructions.
        unsafe { score_avx2(planes, blocks, scores) }
    }

    pub(super) fn dot(self, vector: &[f32], codes: &[i8]) -> f32 {
        // SAFETY: `detect` has found the instructions.
        unsafe { dot_avx2(vector, codes) }
    }
}

impl Avx512 {
    /// Returns the set if the processor has it.
    pub(super) fn detect() -> Option<Self> {
        let is_there = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vpopcntdq")
            && Avx2::detect().is_some();
        is_there.then_some(Self(()))
    }

    pub(super) fn score(self, planes: &[Planes], blocks: &[Lanes], scores: &mut [i16]) {
        // SAFETY: `detect` has found the instructions.
        unsafe { score_avx512(planes, blocks, scores) }
    }

    pub(super) fn dot(self, vector: &[f32], codes: &[i8]) -> f32 {
        // SAFETY: `detect` has found the instructions.
        unsafe { dot_avx512(vector, codes) }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vpopcntdq")]
fn score_avx512(planes: &[Planes], blocks: &[Lanes], scores: &mut [i16]) {
    let blocks = blocks.chunks_exact(planes.len());
    for (block, scores) in blocks.zip(scores.chunks_exact_mut(BLOCK)) {
        let mut sums = [_mm512_setzero_si512(); 4];
        for (lanes, planes) in block.iter().zip(planes) {
            // SAFETY: `Lanes` is 64 bytes, aligned as such.
            let word = unsafe { _mm512_load_si512(lanes.0.as_ptr().cast()) };
            for (sum, &plane) in sums.iter_mut().zip(planes) {
                let both = _mm512_and_si512(word, _mm512_set1_epi64(plane as i64));
                *sum = _mm512_add_epi64(*sum, _mm512_popcnt_epi64(both));
            }
        }
        let [ones, twos, fours, eights] = sums;
        let low = _mm512_add_epi64(ones, _mm512_slli_epi64::<1>(twos));
        let high = _mm512_sub_epi64(fours, _mm512_slli_epi64::<1>(eights));
        let sums = _mm512_add_epi64(low, _mm512_slli_epi64::<2>(high));
        let sums = _mm512_cvtepi64_epi16(sums);
        // SAFETY: the slice has eight scores of two bytes.
        unsafe { _mm_storeu_si128(scores.as_mut_ptr().cast(), sums) };
    }
}

#[target_feature(enable = "avx2")]
fn score_avx2(planes: &[Planes], blocks: &[Lanes], scores: &mut [i16]) {
    const HALF: usize = BLOCK / 2;
    let blocks = blocks.chunks_exact(planes.len());
    for (block, scores) in blocks.zip(scores.chunks_exact_mut(BLOCK)) {
        for half in 0..2 {
            let mut sums = _mm256_setzero_si256();
            for (lanes, planes) in block.iter().zip(planes) {
                // SAFETY: `Lanes` has eight words; four are read, from the first or the fifth on.
                let word = unsafe { _mm256_load_si256(lanes.0.as_ptr().add(half * HALF).cast()) };
                sums = _mm256_add_epi64(sums, weighted_counts(word, planes));
            }
            let mut whole = [0i64; HALF];
            // SAFETY: four sums of eight bytes fit.
            unsafe { _mm256_storeu_si256(whole.as_mut_ptr().cast(), sums) };
            for (score, sum) in scores[half * HALF..].iter_mut().zip(whole) {
                *score = sum as i16;
            }
        }
    }
}

/// Counts what each lane has in common with the planes, weighted by these.
#[inline]
#[target_feature(enable = "avx2")]
fn weighted_counts(word: __m256i, planes: &Planes) -> __m256i {
    let count = |plane: usize| {
        let plane = _mm256_set1_epi64x(planes[plane] as i64);
        byte_counts(_mm256_and_si256(word, plane))
    };
    // At most 8 · (1 + 2 + 4) in a byte, so that there is one sum over bytes for three planes.
    let twice = |counts| _mm256_add_epi8(counts, counts);
    let upper = _mm256_add_epi8(count(1), twice(count(2)));
    let positive = _mm256_add_epi8(count(0), twice(upper));
    let zero = _mm256_setzero_si256();
    let positive = _mm256_sad_epu8(positive, zero);
    let negative = _mm256_sad_epu8(count(3), zero);
    _mm256_sub_epi64(positive, _mm256_slli_epi64::<3>(negative))
}

/// Counts the bits of each byte by looking both halves up.
#[inline]
#[target_feature(enable = "avx2")]
fn byte_counts(bits: __m256i) -> __m256i {
    let counts = _mm256_setr_epi8(
        0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3,
        3, 4,
    );
    let nibble = _mm256_set1_epi8(0x0f);
    let low = _mm256_and_si256(bits, nibble);
    let high = _mm256_and_si256(_mm256_srli_epi16::<4>(bits), nibble);
    _mm256_add_epi8(
        _mm256_shuffle_epi8(counts, low),
        _mm256_shuffle_epi8(counts, high),
    )
}

/// The plain product, which the compiler puts into wide registers.
#[target_feature(enable = "avx2,fma")]
fn dot_avx2(vector: &[f32], codes: &[i8]) -> f32 {
    portable::dot(vector, codes)
}

#[target_feature(enable = "avx512f,avx512bw,avx2,fma")]
fn dot_avx512(vector: &[f32], codes: &[i8]) -> f32 {
    portable::dot(vector, codes)
}
