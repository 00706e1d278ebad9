//! Who is called for a skill: the best of those who have it.
//!
//! What counts is a product, so that no strength makes up for a hopeless weakness:
//!
//! ```text
//! reputation² / ((1 + load) · (1 + latency / 1 s) · (1 + price / 20 tokens))
//! ```
//!
//! An agent that fails every other time is worth a quarter of one that never does; one that is as
//! busy as it may be is worth half of an idle one, and so is one that takes a second longer or
//! costs twenty tokens more. Of what was not measured yet it is assumed what is usual, so that a
//! new agent gets calls and shows what it is worth.

use aither_protocol::Amount;

/// The reputation of who had no calls yet: good, and below that of who has proved itself.
const REPUTATION_ASSUMED: f64 = 0.8;
/// How long who had no calls yet takes.
const LATENCY_MS_ASSUMED: f64 = 250.0;
/// What makes an agent worth half as much.
const LATENCY_MS_HALF: f64 = 1000.0;
/// What makes an agent worth half as much, in micro-tokens.
const PRICE_MICROS_HALF: f64 = 20e6;

/// An agent that can be called.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Its name.
    pub name: Box<str>,
    /// How likely it answers, from 0 to 1.
    pub reputation: Option<f64>,
    /// How much of what it may have at once it has.
    pub load: Option<f64>,
    /// What its answers take.
    pub latency_ms: Option<f64>,
    /// What a call costs.
    pub price: Amount,
}

impl Candidate {
    /// Returns what it is worth, from 0 to 1.
    pub fn score(&self) -> f64 {
        let reputation = self.reputation.unwrap_or(REPUTATION_ASSUMED);
        let load = self.load.unwrap_or(0.0).max(0.0);
        let latency = self.latency_ms.unwrap_or(LATENCY_MS_ASSUMED).max(0.0);
        let price = to_f64(self.price);
        let costs =
            (1.0 + load) * (1.0 + latency / LATENCY_MS_HALF) * (1.0 + price / PRICE_MICROS_HALF);
        reputation * reputation / costs
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "prices are below 2^53 micro-tokens, and it is only compared"
)]
fn to_f64(amount: Amount) -> f64 {
    amount.micros() as f64
}

/// Returns the places of the candidates, the best first; of equal ones in the order of their names.
pub fn ranked(candidates: &[Candidate]) -> Vec<usize> {
    let mut places: Vec<_> = (0..candidates.len()).collect();
    places.sort_by(|left, right| {
        let (left, right) = (&candidates[*left], &candidates[*right]);
        let by_score = right.score().total_cmp(&left.score());
        by_score.then_with(|| left.name.cmp(&right.name))
    });
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(name: &str, reputation: f64, load: f64, latency_ms: f64, price: u64) -> Candidate {
        Candidate {
            name: name.into(),
            reputation: Some(reputation),
            load: Some(load),
            latency_ms: Some(latency_ms),
            price: Amount::from_tokens(price),
        }
    }

    fn new(name: &str, price: u64) -> Candidate {
        Candidate {
            name: name.into(),
            reputation: None,
            load: None,
            latency_ms: None,
            price: Amount::from_tokens(price),
        }
    }

    fn order(candidates: &[Candidate]) -> Vec<&str> {
        let places = ranked(candidates).into_iter();
        places.map(|place| &*candidates[place].name).collect()
    }

    #[test]
    fn each_of_health_load_latency_and_price_decides_where_the_rest_is_equal() {
        for (better, worse) in [
            (
                known("z", 0.9, 0.5, 100.0, 5),
                known("a", 0.8, 0.5, 100.0, 5),
            ),
            (
                known("z", 0.9, 0.4, 100.0, 5),
                known("a", 0.9, 0.5, 100.0, 5),
            ),
            (
                known("z", 0.9, 0.5, 99.0, 5),
                known("a", 0.9, 0.5, 100.0, 5),
            ),
            (
                known("z", 0.9, 0.5, 100.0, 4),
                known("a", 0.9, 0.5, 100.0, 5),
            ),
        ] {
            assert_eq!(order(&[worse.clone(), better.clone()]), ["z", "a"]);
            assert_eq!(order(&[better, worse]), ["z", "a"]);
        }
    }

    #[test]
    fn equal_ones_are_taken_by_name() {
        assert_eq!(
            order(&[new("b", 1), new("a", 1), new("c", 1)]),
            ["a", "b", "c"]
        );
    }

    #[test]
    fn a_cheap_agent_that_fails_does_not_beat_one_that_works() {
        let fails = known("a", 0.3, 0.0, 10.0, 1);
        let works = known("b", 0.95, 0.2, 200.0, 10);
        assert_eq!(order(&[fails, works]), ["b", "a"]);
    }

    #[test]
    fn a_new_agent_gets_calls_beside_busy_ones() {
        let busy = known("a", 0.99, 1.5, 300.0, 3);
        assert_eq!(order(&[busy, new("b", 3)]), ["b", "a"]);
        let idle = known("a", 0.99, 0.0, 200.0, 3);
        assert_eq!(order(&[new("b", 3), idle]), ["a", "b"]);
    }

    #[test]
    fn numbers_that_are_none_do_not_make_it_panic() {
        let odd = known("a", f64::NAN, -1.0, f64::INFINITY, 1);
        assert_eq!(ranked(&[odd, new("b", 1)]).len(), 2);
    }
}
