//! Rates: how often something may happen, remembered in one number (GCRA).

use std::time::Duration;

use aither_protocol::UnixTime;

/// How often something may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How often at once.
    pub burst: u32,
    /// How long one takes to be allowed again.
    pub interval: Duration,
}

/// How much of a rate was used: when all of it will be there again, in microseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Bucket(u64);

impl Bucket {
    /// Takes one, if one is there.
    pub(crate) fn take(&mut self, rate: Rate, now: UnixTime) -> bool {
        let now = micros(now);
        let interval = u64::try_from(rate.interval.as_micros()).unwrap_or(u64::MAX);
        let full_at = self.0.max(now).saturating_add(interval);
        let fits = full_at - now <= interval.saturating_mul(rate.burst.into());
        if fits {
            self.0 = full_at;
        }
        fits
    }

    /// Whether nothing of it is used, so that it can be forgotten.
    pub(crate) fn is_full(self, now: UnixTime) -> bool {
        self.0 <= micros(now)
    }
}

fn micros(time: UnixTime) -> u64 {
    time.seconds().saturating_mul(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_is_had_at_once_and_comes_back_one_by_one() {
        let rate = Rate {
            burst: 3,
            interval: Duration::from_secs(10),
        };
        let mut bucket = Bucket::default();
        let mut take = |seconds| bucket.take(rate, UnixTime::from_seconds(seconds));
        assert_eq!(
            [take(100), take(100), take(100), take(100)],
            [true, true, true, false]
        );
        assert_eq!([take(109), take(110), take(110)], [false, true, false]);
        // A clock that goes back allows nothing more.
        assert!(!take(50));
        assert_eq!(
            [take(1000), take(1000), take(1000), take(1000)],
            [true, true, true, false]
        );
    }
}
