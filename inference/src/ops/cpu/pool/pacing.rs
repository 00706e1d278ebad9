//! Whether company is worth waiting for.
//!
//! On a machine whose cores are busy, or a virtual one whose cores are taken away, a helper may
//! lose its core in the middle of a piece. All others then wait for it, and together they are
//! slower than one would be. So waiting is measured, and where it eats up what the team gains the
//! caller works alone for a while. Told all times, it reads no clock.

use std::time::Duration;

/// How long the team is watched before it is judged: some regions, or one long wait.
const WATCHED: Duration = Duration::from_millis(5);
/// How long the caller stays alone at first. It doubles each time that the team fails again.
const ALONE_MIN: Duration = Duration::from_millis(20);
/// How long it stays alone at most: trying the team then costs under a hundredth.
const ALONE_MAX: Duration = Duration::from_millis(640);

/// Judges a team by how long its caller waits.
#[derive(Debug)]
pub(super) struct Pacing {
    threads: u32,
    took: Duration,
    waited: Duration,
    /// What is left of a time alone.
    alone: Duration,
    alone_min: Duration,
    next_alone: Duration,
}

impl Pacing {
    pub(super) fn new(threads: usize) -> Self {
        Self {
            threads: u32::try_from(threads).unwrap_or(u32::MAX),
            took: Duration::ZERO,
            waited: Duration::ZERO,
            alone: Duration::ZERO,
            alone_min: ALONE_MIN,
            next_alone: ALONE_MIN,
        }
    }

    /// One that never leaves the team.
    #[cfg(test)]
    pub(super) fn patient(threads: usize) -> Self {
        Self {
            alone_min: Duration::ZERO,
            next_alone: Duration::ZERO,
            ..Self::new(threads)
        }
    }

    /// Whether the next region is the team's.
    pub(super) fn wants_team(&self) -> bool {
        self.threads > 1 && self.alone.is_zero()
    }

    /// Takes note of a region that the caller ran alone.
    pub(super) fn ran_alone(&mut self, took: Duration) {
        self.alone = self.alone.saturating_sub(took);
    }

    /// Takes note of a region of the team, of which the caller waited some.
    pub(super) fn ran_together(&mut self, took: Duration, waited: Duration) {
        self.took += took;
        self.waited += waited;
        if self.took < WATCHED {
            return;
        }
        // Of n threads each works for a time w, so that one would have worked for n · w. Alone it
        // would have been faster if w + waited > n · w.
        let worked = self.took.saturating_sub(self.waited);
        if self.waited > worked * (self.threads - 1) {
            self.alone = self.next_alone;
            self.next_alone = (self.next_alone * 2).min(ALONE_MAX);
        } else {
            self.next_alone = self.alone_min;
        }
        (self.took, self.waited) = (Duration::ZERO, Duration::ZERO);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn a_team_that_waits_a_little_stays_together() {
        let mut pacing = Pacing::new(2);
        for _ in 0..10_000 {
            assert!(pacing.wants_team());
            pacing.ran_together(micros(100), micros(45));
        }
    }

    #[test]
    fn one_that_waits_longer_than_it_gains_is_left_and_tried_again_ever_more_rarely() {
        let mut pacing = Pacing::new(2);
        let mut alone = Vec::new();
        for _ in 0..8 {
            let mut regions = 0;
            while pacing.wants_team() {
                pacing.ran_together(micros(100), micros(55));
                regions += 1;
            }
            assert_eq!(regions, 50);
            let mut time = 0;
            while !pacing.wants_team() {
                pacing.ran_alone(micros(1000));
                time += 1;
            }
            alone.push(time);
        }
        assert_eq!(alone, [20, 40, 80, 160, 320, 640, 640, 640]);
        // One good spell, and it is patient again.
        for _ in 0..50 {
            pacing.ran_together(micros(100), micros(5));
        }
        pacing.ran_together(micros(9000), micros(8000));
        assert_eq!(pacing.alone, ALONE_MIN);
    }

    #[test]
    fn more_threads_may_wait_longer_for_one_another() {
        // Four of them work for 40 µs where one would for 160.
        let mut pacing = Pacing::new(4);
        pacing.ran_together(micros(10_000), micros(7_000));
        assert!(pacing.wants_team());
        pacing.ran_together(micros(10_000), micros(8_000));
        assert!(!pacing.wants_team());
    }

    #[test]
    fn one_thread_has_no_team() {
        assert!(!Pacing::new(1).wants_team());
    }
}
