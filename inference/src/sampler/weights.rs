//! Weights of a whole vocabulary, and a draw among them.
//!
//! An answer at temperature 1 without filters weighs each entry at each step: tens of thousands of
//! exponentials and one walk over the sums. Both are written so that the compiler does several
//! entries at once, and so that every machine gets the same bits: only additions, multiplications
//! and comparisons, in a fixed order.

/// Entries that are summed up together. A draw finds the block first, then the entry in it.
const BLOCK: usize = 256;
/// Sums that one block is added up in.
const LANES: usize = 8;

/// Weights of all ids, kept for their memory.
#[derive(Debug, Clone, Default)]
pub(super) struct Weights {
    values: Vec<f32>,
    /// Of each block.
    sums: Vec<f64>,
}

impl Weights {
    /// Weighs all logits; see [`weight`].
    pub(super) fn fill(&mut self, logits: &[f32], best: f32, temperature: f32) {
        self.values.clear();
        let weighed = logits.iter().map(|logit| weight(*logit, best, temperature));
        self.values.extend(weighed);
        self.sums.clear();
        self.sums.extend(self.values.chunks(BLOCK).map(block_sum));
    }

    pub(super) fn values(&self) -> &[f32] {
        &self.values
    }

    pub(super) fn total(&self) -> f64 {
        self.sums.iter().sum()
    }

    /// Returns the id at which the weights, summed up in order, pass `random`.
    pub(super) fn at(&self, random: f64) -> u32 {
        let mut left = random;
        let (mut last, mut left_in_last) = (0, random);
        let sums = self.sums.iter().enumerate();
        for (block, &sum) in sums.filter(|(_, sum)| **sum > 0.0) {
            (last, left_in_last) = (block, left);
            if left < sum {
                break;
            }
            left -= sum;
        }
        let begin = last * BLOCK;
        let entries = self.values.iter().copied().skip(begin).take(BLOCK);
        super::walk((begin as u32..).zip(entries), left_in_last)
    }
}

fn block_sum(values: &[f32]) -> f64 {
    let mut lanes = [0.0_f64; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = super::sum(chunks.remainder().iter().copied());
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(*value);
        }
    }
    lanes.iter().sum::<f64>() + rest
}

/// Returns a probability up to a common factor: the best candidate weighs 1.
pub(super) fn weight(logit: f32, best: f32, temperature: f32) -> f32 {
    // A difference that overflows is minus infinity, whose weight is 0.
    exp_of_negative((logit - best) / temperature)
}

/// Returns e^x for x ≤ 0, within three units in the last place; 0 below the smallest normal number.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2; e^r by a polynomial (coefficients of Cephes' `expf`), and
/// 2^n by its bits. ln 2 is taken in two parts, so that n times the first is exact.
fn exp_of_negative(x: f32) -> f32 {
    const LEAST: f32 = -87.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    /// Adding it leaves no bits for a fraction: the sum is rounded to the nearest whole number,
    /// which its lowest bits then hold.
    const ROUND: f32 = 12_582_912.0;
    const POLYNOMIAL: [f32; 6] = [
        1.987_569_1e-4,
        1.398_2e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ];
    let bounded = x.max(LEAST);
    let rounded = bounded * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = bounded - n * LN_2_HIGH - n * LN_2_LOW;
    let polynomial = POLYNOMIAL.iter().fold(0.0, |sum, factor| sum * r + factor);
    let exp_r = polynomial * r * r + r + 1.0;
    // The exponent of a float has a bias of 127 and stands above 23 bits. The bits of `rounded`
    // above those of n are shifted out.
    let scale = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    if x < LEAST { 0.0 } else { exp_r * scale }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_close_to_the_exact_ones() {
        for step in 0..870_000 {
            let x = -(step as f32) * 1e-4;
            let (found, exact) = (f64::from(exp_of_negative(x)), f64::from(x).exp());
            assert!((found / exact - 1.0).abs() < 3e-7, "{x}: {found} {exact}");
        }
        assert_eq!(exp_of_negative(0.0), 1.0);
        assert_eq!(exp_of_negative(-0.0), 1.0);
        for x in [-87.1, -1e9, f32::MIN, f32::NEG_INFINITY] {
            assert_eq!(exp_of_negative(x), 0.0);
        }
    }

    #[test]
    fn a_draw_ends_where_one_entry_after_another_would() {
        let logits: Vec<f32> = (0..3000).map(|n| (n as f32 * 0.7).sin() * 9.0).collect();
        let mut weights = Weights::default();
        weights.fill(&logits, 9.0, 0.8);
        let total = weights.total();
        assert!((total / super::super::sum(weights.values().iter().copied()) - 1.0).abs() < 1e-12);
        for step in 0..5000 {
            let random = total * (f64::from(step) + 0.5) / 5000.0;
            let plain = (0..).zip(weights.values().iter().copied());
            assert_eq!(weights.at(random), super::super::walk(plain, random));
        }
    }

    #[test]
    fn what_rounding_leaves_over_goes_to_the_last_entry_that_weighs_anything() {
        let mut logits = vec![f32::NEG_INFINITY; 1000];
        logits[300] = 1.0;
        logits[301] = 1.0;
        let mut weights = Weights::default();
        weights.fill(&logits, 1.0, 1.0);
        assert_eq!(weights.total(), 2.0);
        assert_eq!(weights.at(0.0), 300);
        assert_eq!(weights.at(1.0), 301);
        assert_eq!(weights.at(2.5), 301);
    }
}
