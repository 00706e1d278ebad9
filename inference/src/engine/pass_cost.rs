//! What a pass over the model costs, learned from the passes that were.
//!
//! A pass reads all weights once and computes with each row: its time is close to a line in the
//! number of rows. The line is fitted by least squares over the past, the far past counting less.
//! Told all times, it reads no clock.

use std::time::Duration;

/// What is left of a pass's influence after the next one.
const MEMORY: f64 = 0.98;

/// Variance of rows from which on a slope is learned.
const SPREAD_MIN: f64 = 0.5;

/// Scatters that a pass is to stay clear of a bound.
const SCATTERS: f64 = 2.0;

/// Time of passes by their rows.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PassCost {
    count: f64,
    rows: f64,
    seconds: f64,
    rows_squared: f64,
    rows_seconds: f64,
    /// How far passes were from what was expected of them, summed like the others.
    scatter: f64,
    /// Seconds of each row more, when passes last differed enough to tell.
    per_row: Option<f64>,
}

impl PassCost {
    /// Takes note of a pass.
    pub(super) fn observe(&mut self, rows: usize, took: Duration) {
        // Before a slope is known, being off says nothing about the machine.
        let expected = self.per_row.and_then(|_| self.predict(rows));
        let expected = expected.unwrap_or(took);
        let (rows, seconds) = (rows as f64, took.as_secs_f64());
        for (sum, value) in [
            (&mut self.count, 1.0),
            (&mut self.rows, rows),
            (&mut self.seconds, seconds),
            (&mut self.rows_squared, rows * rows),
            (&mut self.rows_seconds, rows * seconds),
            (&mut self.scatter, took.abs_diff(expected).as_secs_f64()),
        ] {
            *sum = *sum * MEMORY + value;
        }
        let (mean_rows, mean_seconds) = (self.rows / self.count, self.seconds / self.count);
        let spread = self.rows_squared / self.count - mean_rows * mean_rows;
        let together = self.rows_seconds / self.count - mean_rows * mean_seconds;
        let per_row = together / spread;
        if spread >= SPREAD_MIN && per_row > 0.0 && per_row * mean_rows <= mean_seconds {
            self.per_row = Some(per_row);
        }
    }

    /// How long a pass over so many rows should take; nothing before the first one.
    pub(super) fn predict(&self, rows: usize) -> Option<Duration> {
        let (fixed, per_row) = self.line()?;
        Duration::try_from_secs_f64(fixed + per_row * rows as f64).ok()
    }

    /// How many rows more than `rows` a pass may have to stay within a time, with a margin for
    /// passes that take longer than expected, as they do where others use the machine.
    pub(super) fn rows_within(&self, rows: usize, time: Duration) -> Option<usize> {
        let (fixed, per_row) = self.line()?;
        let margin = SCATTERS * self.scatter / self.count;
        let left = time.as_secs_f64() - margin - fixed - per_row * rows as f64;
        // From a float that is no number this is 0, from one that is too large the largest.
        Some((left / per_row.max(1e-9)).max(0.0) as usize)
    }

    /// Seconds of any pass, and of each row more.
    fn line(&self) -> Option<(f64, f64)> {
        if self.count == 0.0 {
            return None;
        }
        let (mean_rows, mean_seconds) = (self.rows / self.count, self.seconds / self.count);
        // From passes that were all alike no slope is learned: all is put down to the rows, which
        // is too much for more of them, so that the next pass is rather too small.
        let steepest = mean_seconds / mean_rows.max(1.0);
        let per_row = self.per_row.map_or(steepest, |known| known.min(steepest));
        Some(((mean_seconds - per_row * mean_rows).max(0.0), per_row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    #[test]
    fn nothing_is_known_before_the_first_pass() {
        let cost = PassCost::default();
        assert_eq!(cost.predict(1), None);
        assert_eq!(cost.rows_within(0, ms(50)), None);
    }

    #[test]
    fn a_line_is_found_and_followed_when_it_changes() {
        let mut cost = PassCost::default();
        for rows in [1, 8, 32, 256, 1, 8] {
            cost.observe(rows, ms(5 + rows as u64));
        }
        assert_eq!(cost.predict(100).unwrap().as_millis(), 105);
        assert_eq!(cost.rows_within(8, ms(50)), Some(37));
        assert_eq!(cost.rows_within(60, ms(50)), Some(0));
        for _ in 0..200 {
            for rows in [1, 8, 32] {
                cost.observe(rows, ms(10 + 2 * rows as u64));
            }
        }
        let predicted = cost.predict(20).unwrap();
        assert!(predicted.abs_diff(ms(50)) < ms(1), "{predicted:?}");
    }

    #[test]
    fn passes_that_were_alike_promise_nothing_for_larger_ones() {
        let mut cost = PassCost::default();
        for _ in 0..50 {
            cost.observe(4, ms(8));
        }
        assert_eq!(cost.predict(8), Some(ms(16)));
    }

    #[test]
    fn what_rows_cost_is_not_forgotten_while_passes_are_alike() {
        let mut cost = PassCost::default();
        for rows in [1, 8, 32, 256, 1, 8] {
            cost.observe(rows, ms(5 + rows as u64));
        }
        for _ in 0..2000 {
            cost.observe(1, ms(6));
        }
        let predicted = cost.predict(256).unwrap();
        assert!(predicted.abs_diff(ms(261)) < ms(1), "{predicted:?}");
    }

    #[test]
    fn a_pass_stays_clear_of_a_bound_by_how_far_passes_scatter() {
        let mut cost = PassCost::default();
        for round in 0..200 {
            for rows in [1, 8, 32, 64] {
                let late = if round % 2 == 0 { 4 } else { 0 };
                cost.observe(rows, ms(5 + rows as u64 + late));
            }
        }
        // A mean of 2 ms late, and off by as much again: 2 and twice 2 of the 50.
        let rows = cost.rows_within(0, ms(50)).unwrap();
        assert!((38..=40).contains(&rows), "{rows}");
    }

    #[test]
    fn noise_that_makes_larger_passes_faster_does_no_harm() {
        let mut cost = PassCost::default();
        cost.observe(1, ms(50));
        cost.observe(2, ms(10));
        let predicted = cost.predict(3).unwrap();
        assert!(predicted > ms(30) && predicted < ms(100), "{predicted:?}");
    }
}
