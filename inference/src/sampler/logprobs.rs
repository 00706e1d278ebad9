//! Log-probabilities as the model gave them: a log-softmax of the raw logits, before bias,
//! penalties, temperature and filters.
//!
//! The alternatives are found by one pass with a short sorted list, not by sorting the vocabulary.

/// The least log-probability reported: JSON has no minus infinity, and clients expect a number.
const LOGPROB_MIN: f32 = -9999.0;

/// Log-probabilities of one step.
#[derive(Debug, Clone, PartialEq)]
pub struct LogProbabilities {
    /// That of the chosen id.
    pub chosen: f32,
    /// The likeliest ids with theirs, best first; equal ones in order of ids.
    pub top: Vec<(u32, f32)>,
}

/// Returns the log-probability of `chosen` and of the `top` likeliest ids. An id outside the
/// vocabulary, or one whose logit is no number, has the least value that is reported.
pub fn log_probabilities(logits: &[f32], chosen: u32, top: usize) -> LogProbabilities {
    let numbers = || logits.iter().map(|&logit| super::usable(logit));
    let max = numbers().fold(f32::NEG_INFINITY, f32::max);
    // Without any number each difference is NaN, and so is the sum; see `logprob`.
    let sum = super::sum(numbers().map(|logit| (logit - max).exp()));
    let normalizer = f64::from(max) + sum.ln();
    let logprob = |logit: f32| {
        let value = (f64::from(super::usable(logit)) - normalizer) as f32;
        // `max` of a NaN and a number is the number.
        value.max(LOGPROB_MIN)
    };
    let chosen = logits.get(chosen as usize).copied();
    LogProbabilities {
        chosen: logprob(chosen.unwrap_or(f32::NEG_INFINITY)),
        top: likeliest(numbers(), top)
            .into_iter()
            .map(|(id, logit)| (id, logprob(logit)))
            .collect(),
    }
}

/// Returns the `count` greatest logits with their ids, best first.
pub(super) fn likeliest(logits: impl Iterator<Item = f32>, count: usize) -> Vec<(u32, f32)> {
    let mut best: Vec<(u32, f32)> = Vec::with_capacity(count + 1);
    if count == 0 {
        return best;
    }
    for (id, logit) in logits.enumerate() {
        if best.len() == count && best.last().is_some_and(|&(_, worst)| logit <= worst) {
            continue;
        }
        let place = best.partition_point(|&(_, other)| other >= logit);
        best.insert(place, (id as u32, logit));
        best.truncate(count);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(left: f32, right: f32) -> bool {
        (left - right).abs() < 1e-5
    }

    #[test]
    fn probabilities_of_a_small_vocabulary_are_exact() {
        let logits = [0.0, 1.0_f32.ln(), 2.0_f32.ln()];
        let result = log_probabilities(&logits, 2, 2);
        assert!(close(result.chosen, 0.5_f32.ln()));
        assert_eq!(result.top[0].0, 2);
        assert_eq!(result.top[1].0, 0, "the lower id comes first among equals");
        assert!(close(result.top[1].1, 0.25_f32.ln()));
    }

    #[test]
    fn the_whole_vocabulary_sums_to_one() {
        let logits: Vec<f32> = (0..100).map(|n| (n as f32 * 0.37).sin() * 8.0).collect();
        let result = log_probabilities(&logits, 0, 100);
        let sum: f32 = result.top.iter().map(|(_, logprob)| logprob.exp()).sum();
        assert!(close(sum, 1.0));
        assert!(result.top.windows(2).all(|pair| pair[0].1 >= pair[1].1));
    }

    #[test]
    fn broken_logits_give_finite_numbers() {
        for logits in [
            vec![f32::NAN; 4],
            vec![f32::NEG_INFINITY; 4],
            vec![f32::INFINITY, 0.0, f32::NAN, f32::NEG_INFINITY],
            vec![],
        ] {
            for chosen in [0, 3, 7] {
                let result = log_probabilities(&logits, chosen, 20);
                assert!(result.chosen.is_finite());
                assert!(result.top.iter().all(|(_, logprob)| logprob.is_finite()));
                assert_eq!(result.top.len(), logits.len());
            }
        }
    }
}
