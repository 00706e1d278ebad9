//! What happens to rows between products: normalisation, rotation, activation, sums.
//!
//! All functions work in place. Each needs a CPU that has the given instructions; sizes are
//! checked.

#![expect(unsafe_code, reason = "SIMD kernels read and write through pointers")]

use super::{
    InstructionSet,
    lanes::{Kernel, LANES, Lanes, dispatch, exp},
};

/// What bends the gate of a feed-forward network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// The normal distribution's, approximated by a hyperbolic tangent: gemma was trained with the
    /// approximation.
    GeluTanh,
}

/// `x / rms(x) · gain`.
///
/// # Safety
/// The CPU has the instructions.
pub(super) unsafe fn rms_norm(set: InstructionSet, values: &mut [f32], gain: &[f32], epsilon: f32) {
    struct RmsNorm<'a>(&'a mut [f32], &'a [f32], f32);
    // SAFETY: `dispatch` is called with instructions that the CPU has.
    impl Kernel for RmsNorm<'_> {
        #[inline(always)]
        unsafe fn run<L: Lanes>(self) {
            let Self(values, gain, epsilon) = self;
            // SAFETY: the caller's promise.
            unsafe {
                let mut squares = L::splat(0.0);
                for at in (0..values.len()).step_by(LANES) {
                    let x = load::<L>(values, at);
                    squares = x.mul_add(x, squares);
                }
                let mean = squares.sum() / values.len() as f32;
                let factor = L::splat(1.0 / (mean + epsilon).sqrt());
                for at in (0..values.len()).step_by(LANES) {
                    let x = load::<L>(values, at).mul(factor);
                    store(x.mul(load(gain, at)), values, at);
                }
            }
        }
    }
    assert_eq!(values.len(), gain.len());
    // SAFETY: the caller's promise.
    unsafe { dispatch(set, RmsNorm(values, gain, epsilon)) };
}

/// Rotates pairs, which are the two halves of the first `2 · cos.len()` elements, and multiplies
/// all elements by a factor.
///
/// # Safety
/// The CPU has the instructions.
pub(super) unsafe fn rotate(
    set: InstructionSet,
    head: &mut [f32],
    cos: &[f32],
    sin: &[f32],
    factor: f32,
) {
    struct Rotate<'a> {
        halves: [&'a mut [f32]; 2],
        rest: &'a mut [f32],
        cos: &'a [f32],
        sin: &'a [f32],
        factor: f32,
    }
    // SAFETY: `dispatch` is called with instructions that the CPU has.
    impl Kernel for Rotate<'_> {
        #[inline(always)]
        unsafe fn run<L: Lanes>(self) {
            let [first, second] = self.halves;
            // SAFETY: the caller's promise.
            unsafe {
                let factor = L::splat(self.factor);
                for at in (0..first.len()).step_by(LANES) {
                    let x = load::<L>(first, at).mul(factor);
                    let y = load::<L>(second, at).mul(factor);
                    let (cos, sin) = (load::<L>(self.cos, at), load::<L>(self.sin, at));
                    store(x.mul(cos).sub(y.mul(sin)), first, at);
                    store(y.mul(cos).add(x.mul(sin)), second, at);
                }
                for at in (0..self.rest.len()).step_by(LANES) {
                    store(load::<L>(self.rest, at).mul(factor), self.rest, at);
                }
            }
        }
    }
    let half = cos.len();
    assert!(sin.len() == half && 2 * half <= head.len());
    let (first, rest) = head.split_at_mut(half);
    let (second, rest) = rest.split_at_mut(half);
    let rotate = Rotate {
        halves: [first, second],
        rest,
        cos,
        sin,
        factor,
    };
    // SAFETY: the caller's promise.
    unsafe { dispatch(set, rotate) };
}

/// `gate` becomes `activation(gate) · up`.
///
/// # Safety
/// The CPU has the instructions.
pub(super) unsafe fn apply_gate(
    set: InstructionSet,
    activation: Activation,
    gate: &mut [f32],
    up: &[f32],
) {
    struct Gate<'a>(Activation, &'a mut [f32], &'a [f32]);
    // SAFETY: `dispatch` is called with instructions that the CPU has.
    impl Kernel for Gate<'_> {
        #[inline(always)]
        unsafe fn run<L: Lanes>(self) {
            let Self(activation, gate, up) = self;
            // SAFETY: the caller's promise.
            unsafe {
                for at in (0..gate.len()).step_by(LANES) {
                    let (gated, up) = (activate::<L>(activation, load(gate, at)), load(up, at));
                    store(gated.mul(up), gate, at);
                }
            }
        }
    }
    assert_eq!(gate.len(), up.len());
    // SAFETY: the caller's promise.
    unsafe { dispatch(set, Gate(activation, gate, up)) };
}

/// Both activations are `x / (1 + e⁻ᵘ)`: `½ (1 + tanh(u / 2))` is the sigmoid of u.
///
/// # Safety
/// The CPU has the instructions.
#[inline(always)]
unsafe fn activate<L: Lanes>(activation: Activation, x: L) -> L {
    /// `2 √(2 / π)`.
    const GELU_FACTOR: f32 = 1.595_769;
    const GELU_CUBIC: f32 = 0.044_715;
    // SAFETY: the caller's promise.
    unsafe {
        let minus_u = match activation {
            Activation::Silu => L::splat(0.0).sub(x),
            Activation::GeluTanh => {
                let cubic = x.mul(x).mul_add(L::splat(GELU_CUBIC), L::splat(1.0));
                x.mul(cubic).mul(L::splat(-GELU_FACTOR))
            }
        };
        x.div(L::splat(1.0).add(exp(minus_u)))
    }
}

/// `sum += other`.
///
/// # Safety
/// The CPU has the instructions.
pub(super) unsafe fn add(set: InstructionSet, sum: &mut [f32], other: &[f32]) {
    struct Add<'a>(&'a mut [f32], &'a [f32]);
    // SAFETY: `dispatch` is called with instructions that the CPU has.
    impl Kernel for Add<'_> {
        #[inline(always)]
        unsafe fn run<L: Lanes>(self) {
            for at in (0..self.0.len()).step_by(LANES) {
                // SAFETY: the caller's promise.
                unsafe { store(load::<L>(self.0, at).add(load(self.1, at)), self.0, at) };
            }
        }
    }
    assert_eq!(sum.len(), other.len());
    // SAFETY: the caller's promise.
    unsafe { dispatch(set, Add(sum, other)) };
}

/// Loads sixteen values, zeros in place of those past the end.
///
/// # Safety
/// The CPU has the instructions.
#[inline(always)]
pub(super) unsafe fn load<L: Lanes>(values: &[f32], at: usize) -> L {
    let values = &values[at..];
    if values.len() >= LANES {
        // SAFETY: there are enough, and the caller's promise.
        return unsafe { L::load(values.as_ptr()) };
    }
    let mut padded = [0.0; LANES];
    padded[..values.len()].copy_from_slice(values);
    // SAFETY: as above.
    unsafe { L::load(padded.as_ptr()) }
}

/// Stores sixteen values, but for those past the end.
///
/// # Safety
/// The CPU has the instructions.
#[inline(always)]
pub(super) unsafe fn store<L: Lanes>(lanes: L, values: &mut [f32], at: usize) {
    let values = &mut values[at..];
    if values.len() >= LANES {
        // SAFETY: there is room, and the caller's promise.
        unsafe { lanes.store(values.as_mut_ptr()) };
        return;
    }
    let mut padded = [0.0; LANES];
    // SAFETY: as above.
    unsafe { lanes.store(padded.as_mut_ptr()) };
    values.copy_from_slice(&padded[..values.len()]);
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Lengths around the number of lanes.
    const LENGTHS: [usize; 8] = [1, 7, 15, 16, 17, 40, 64, 576];

    fn random(len: usize, scale: f32, rng: &mut ChaCha8Rng) -> Vec<f32> {
        (0..len).map(|_| rng.random_range(-scale..scale)).collect()
    }

    fn assert_close(values: &[f32], expected: impl Iterator<Item = f64>, relative: f64) {
        for (index, (value, expected)) in values.iter().zip(expected).enumerate() {
            let error = (f64::from(*value) - expected).abs();
            assert!(
                error <= relative * (1.0 + expected.abs()),
                "{index} of {}: {value} against {expected}",
                values.len()
            );
        }
    }

    #[test]
    fn normalisation_is_the_definition() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for set in InstructionSet::available() {
            for len in LENGTHS {
                let (input, gain) = (random(len, 30.0, &mut rng), random(len, 2.0, &mut rng));
                let mut values = input.clone();
                // SAFETY: only sets that the CPU has are tested.
                unsafe { rms_norm(set, &mut values, &gain, 1e-5) };
                let squares = input.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
                let rms = (squares / len as f64 + 1e-5).sqrt();
                let expected = input.iter().zip(&gain);
                let expected = expected.map(|(x, gain)| f64::from(*x) / rms * f64::from(*gain));
                assert_close(&values, expected, 1e-6);
            }
        }
    }

    #[test]
    fn pairs_are_rotated_and_all_is_scaled() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        for set in InstructionSet::available() {
            for (len, half) in [(64, 32), (80, 40), (20, 8), (4, 2), (96, 16)] {
                let input = random(len, 3.0, &mut rng);
                let angles = random(half, 3.0, &mut rng);
                let cos: Vec<f32> = angles.iter().map(|angle| angle.cos()).collect();
                let sin: Vec<f32> = angles.iter().map(|angle| angle.sin()).collect();
                let mut values = input.clone();
                // SAFETY: only sets that the CPU has are tested.
                unsafe { rotate(set, &mut values, &cos, &sin, 0.25) };
                let expected = (0..len).map(|index| {
                    let (x, pair) = (f64::from(input[index]), index % half);
                    let (cos, sin) = (f64::from(cos[pair]), f64::from(sin[pair]));
                    let rotated = match index / half {
                        0 => x * cos - f64::from(input[index + half]) * sin,
                        1 => x * cos + f64::from(input[index - half]) * sin,
                        _ => x,
                    };
                    rotated * 0.25
                });
                assert_close(&values, expected, 1e-6);
            }
        }
    }

    #[test]
    fn gates_bend_as_defined_also_far_from_zero() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for set in InstructionSet::available() {
            for len in LENGTHS {
                for scale in [1.0, 10.0, 300.0] {
                    let (gate, up) = (random(len, scale, &mut rng), random(len, 2.0, &mut rng));
                    for activation in [Activation::Silu, Activation::GeluTanh] {
                        let mut values = gate.clone();
                        // SAFETY: only sets that the CPU has are tested.
                        unsafe { apply_gate(set, activation, &mut values, &up) };
                        let expected = gate.iter().zip(&up).map(|(x, up)| {
                            let (x, up) = (f64::from(*x), f64::from(*up));
                            let bent = match activation {
                                Activation::Silu => x / (1.0 + (-x).exp()),
                                Activation::GeluTanh => {
                                    let inner = (2.0 / std::f64::consts::PI).sqrt()
                                        * (x + 0.044_715 * x.powi(3));
                                    0.5 * x * (1.0 + inner.tanh())
                                }
                            };
                            bent * up
                        });
                        assert_close(&values, expected, 2e-6);
                    }
                }
            }
        }
    }

    #[test]
    fn sums_reach_the_last_element() {
        for set in InstructionSet::available() {
            for len in LENGTHS {
                let other: Vec<f32> = (0..len).map(|index| index as f32).collect();
                let mut sum = vec![0.5; len];
                // SAFETY: only sets that the CPU has are tested.
                unsafe { add(set, &mut sum, &other) };
                assert!((0..len).all(|index| sum[index] == index as f32 + 0.5));
            }
        }
    }
}
