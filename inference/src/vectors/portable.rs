//! The kernels in plain Rust: for processors without one of their own, and the reference for those
//! that have one.

use super::{BLOCK, Lanes, Planes};

/// Sums that a product is spread over, as many as a wide register has lanes.
const SUMS: usize = 16;

/// Scores blocks of eight vectors.
pub(super) fn score(planes: &[Planes], blocks: &[Lanes], scores: &mut [i16]) {
    let blocks = blocks.chunks_exact(planes.len());
    for (block, scores) in blocks.zip(scores.chunks_exact_mut(BLOCK)) {
        let mut sums = [0i32; BLOCK];
        for (lanes, planes) in block.iter().zip(planes) {
            for (sum, word) in sums.iter_mut().zip(lanes.0) {
                let count = |plane: usize| (word & planes[plane]).count_ones() as i32;
                *sum += count(0) + 2 * count(1) + 4 * count(2) - 8 * count(3);
            }
        }
        for (score, sum) in scores.iter_mut().zip(sums) {
            *score = sum as i16;
        }
    }
}

/// Multiplies a vector with codes.
#[inline(always)]
pub(super) fn dot(vector: &[f32], codes: &[i8]) -> f32 {
    let mut sums = [0.0f32; SUMS];
    let (vectors, codes) = (vector.chunks_exact(SUMS), codes.chunks_exact(SUMS));
    let (rest, rest_codes) = (vectors.remainder(), codes.remainder());
    for (vector, codes) in vectors.zip(codes) {
        for ((sum, component), &code) in sums.iter_mut().zip(vector).zip(codes) {
            *sum += component * f32::from(code);
        }
    }
    let rest = rest.iter().zip(rest_codes);
    let rest: f32 = rest
        .map(|(component, &code)| component * f32::from(code))
        .sum();
    sums.iter().sum::<f32>() + rest
}
