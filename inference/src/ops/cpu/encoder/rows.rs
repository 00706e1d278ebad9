//! What happens to an encoder's rows between products: sums, normalisation, activation.

#![expect(unsafe_code, reason = "SIMD kernels read and write through pointers")]

use super::LayerNorm;
use crate::ops::cpu::{
    InstructionSet,
    elementwise::{load, store},
    lanes::{Kernel, LANES, Lanes, dispatch, exp},
};

/// `values + other`, normalised to mean 0 and variance 1, then `· gain + bias`.
///
/// # Safety
/// The CPU has the instructions.
pub(super) unsafe fn add_and_normalise(
    set: InstructionSet,
    values: &mut [f32],
    other: Option<&[f32]>,
    norm: &LayerNorm,
) {
    struct Normalise<'a>(&'a mut [f32], Option<&'a [f32]>, &'a LayerNorm);
    // SAFETY: `dispatch` is called with instructions that the CPU has.
    impl Kernel for Normalise<'_> {
        #[inline(always)]
        unsafe fn run<L: Lanes>(self) {
            let Self(values, other, norm) = self;
            let len = values.len() as f32;
            // SAFETY: the caller's promise. Lengths are whole lanes.
            unsafe {
                let mut sum = L::splat(0.0);
                for at in (0..values.len()).step_by(LANES) {
                    let mut x = load::<L>(values, at);
                    if let Some(other) = other {
                        x = x.add(load(other, at));
                        store(x, values, at);
                    }
                    sum = sum.add(x);
                }
                let mean = L::splat(sum.sum() / len);
                let mut squares = L::splat(0.0);
                for at in (0..values.len()).step_by(LANES) {
                    let x = load::<L>(values, at).sub(mean);
                    squares = x.mul_add(x, squares);
                }
                let factor = L::splat(1.0 / (squares.sum() / len + norm.epsilon).sqrt());
                for at in (0..values.len()).step_by(LANES) {
                    let x = load::<L>(values, at).sub(mean).mul(factor);
                    store(
                        x.mul_add(load(&norm.gain, at), load(&norm.bias, at)),
                        values,
                        at,
                    );
                }
            }
        }
    }
    assert!(values.len().is_multiple_of(LANES));
    assert!(norm.gain.len() == values.len() && norm.bias.len() == values.len());
    assert!(other.is_none_or(|other| other.len() == values.len()));
    // SAFETY: the caller's promise.
    unsafe { dispatch(set, Normalise(values, other, norm)) };
}

/// The exact GELU: `x · Φ(x)`, to about 2⁻²² of the larger of 1 and |x|.
///
/// # Safety
/// The CPU has the instructions.
pub(super) unsafe fn bend(set: InstructionSet, values: &mut [f32]) {
    struct Bend<'a>(&'a mut [f32]);
    // SAFETY: `dispatch` is called with instructions that the CPU has.
    impl Kernel for Bend<'_> {
        #[inline(always)]
        unsafe fn run<L: Lanes>(self) {
            for at in (0..self.0.len()).step_by(LANES) {
                // SAFETY: the caller's promise.
                unsafe {
                    let x = load::<L>(self.0, at);
                    let magnitude = x.max(L::splat(0.0).sub(x));
                    let tail = magnitude.mul(upper_tail(magnitude));
                    // Below zero x · Φ(x) is −|x| times the tail; above, x less that.
                    store(x.max(L::splat(0.0)).sub(tail), self.0, at);
                }
            }
        }
    }
    // SAFETY: the caller's promise.
    unsafe { dispatch(set, Bend(values)) };
}

/// `1 − Φ(x)` for x ≥ 0, to 10⁻⁷: Abramowitz and Stegun's 7.1.26, whose variable is x / √2.
///
/// # Safety
/// The CPU has the instructions.
#[inline(always)]
unsafe fn upper_tail<L: Lanes>(x: L) -> L {
    /// Halves of the formula's, which is for twice the tail.
    const COEFFICIENTS: [f32; 5] = [
        0.530_702_7,
        -0.726_576,
        0.710_706_9,
        -0.142_248_4,
        0.127_414_8,
    ];
    const POLE: f32 = 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2;
    // SAFETY: the caller's promise.
    unsafe {
        let t = L::splat(1.0).div(x.mul_add(L::splat(POLE), L::splat(1.0)));
        let mut value = L::splat(COEFFICIENTS[0]);
        for coefficient in &COEFFICIENTS[1..] {
            value = value.mul_add(t, L::splat(*coefficient));
        }
        value.mul(t).mul(exp(x.mul(x).mul(L::splat(-0.5))))
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Φ by its series, in 64 bits.
    fn normal_distribution(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..400 {
            term *= x * x / f64::from(2 * n + 1);
            sum += term;
        }
        0.5 + sum * (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
    }

    #[test]
    fn the_bend_is_the_normal_distributions() {
        for set in InstructionSet::available() {
            let mut values: Vec<f32> = (-640..=640).map(|step| step as f32 / 80.0).collect();
            values.extend([-300.0, -20.0, 20.0, 1e30]);
            let inputs = values.clone();
            // SAFETY: only sets that the CPU has are tested.
            unsafe { bend(set, &mut values) };
            for (x, value) in inputs.iter().zip(&values) {
                let x = f64::from(*x);
                let expected = match x {
                    ..-8.0 => 0.0,
                    8.0.. => x,
                    _ => x * normal_distribution(x),
                };
                let error = (f64::from(*value) - expected).abs();
                assert!(error <= 4e-7 * x.abs().max(1.0), "{value} for {x}");
            }
        }
    }

    #[test]
    fn sums_are_normalised_as_defined() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        for set in InstructionSet::available() {
            for len in [16, 32, 384] {
                let mut random =
                    || -> Vec<f32> { (0..len).map(|_| rng.random_range(-4.0..4.0)).collect() };
                let (input, other) = (random(), random());
                let norm = LayerNorm {
                    gain: random(),
                    bias: random(),
                    epsilon: 1e-12,
                };
                let mut values = input.clone();
                // SAFETY: only sets that the CPU has are tested.
                unsafe { add_and_normalise(set, &mut values, Some(&other), &norm) };
                let sums = input.iter().zip(&other);
                let sums: Vec<f64> = sums.map(|(a, b)| f64::from(a + b)).collect();
                let mean = sums.iter().sum::<f64>() / len as f64;
                let squares = sums.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
                let deviation = (squares / len as f64).sqrt();
                for (index, value) in values.iter().enumerate() {
                    let normed = (sums[index] - mean) / deviation;
                    let gain = f64::from(norm.gain[index]);
                    let expected = normed * gain + f64::from(norm.bias[index]);
                    assert!((f64::from(*value) - expected).abs() < 1e-5);
                }
            }
        }
    }

    #[test]
    fn a_row_of_one_value_is_the_bias() {
        for set in InstructionSet::available() {
            let mut values = vec![0.0; 32];
            let norm = LayerNorm {
                gain: vec![2.0; 32],
                bias: vec![0.5; 32],
                epsilon: 1e-12,
            };
            // SAFETY: only sets that the CPU has are tested.
            unsafe { add_and_normalise(set, &mut values, None, &norm) };
            assert_eq!(values, [0.5; 32]);
        }
    }
}
