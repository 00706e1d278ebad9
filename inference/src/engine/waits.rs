//! How long requests waited before they began, by class.

use std::time::Duration;

/// Upper bounds of the buckets; a last one takes the rest.
pub const WAIT_BOUNDS: [Duration; 7] = [
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(20),
    Duration::from_secs(60),
];

/// Waiting times of the requests of one class, model loading included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waits {
    /// `low`, `normal` or `high`: priorities below, at and above 0.
    pub class: &'static str,
    /// Requests by [`WAIT_BOUNDS`], each in one bucket.
    pub counts: [u64; WAIT_BOUNDS.len() + 1],
    /// All of them together.
    pub sum: Duration,
}

/// All classes.
#[derive(Debug, Clone)]
pub(super) struct WaitsByClass([Waits; 3]);

impl Default for WaitsByClass {
    fn default() -> Self {
        Self(["low", "normal", "high"].map(|class| Waits {
            class,
            counts: [0; WAIT_BOUNDS.len() + 1],
            sum: Duration::ZERO,
        }))
    }
}

impl WaitsByClass {
    /// Takes note of a request that begins.
    pub(super) fn note(&mut self, priority: i32, waited: Duration) {
        let class = &mut self.0[(priority.signum() + 1) as usize];
        let bucket = WAIT_BOUNDS.partition_point(|bound| *bound < waited);
        class.counts[bucket] += 1;
        class.sum += waited;
    }

    pub(super) fn all(&self) -> Vec<Waits> {
        self.0.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_class_and_time() {
        let mut waits = WaitsByClass::default();
        waits.note(0, Duration::from_millis(10));
        waits.note(0, Duration::from_secs(100));
        waits.note(5, Duration::from_millis(11));
        let [low, normal, high] = waits.0;
        assert_eq!(low.counts, [0; 8]);
        assert_eq!(normal.counts, [1, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(normal.sum, Duration::from_millis(100_010));
        assert_eq!(high.counts, [0, 1, 0, 0, 0, 0, 0, 0]);
    }
}
