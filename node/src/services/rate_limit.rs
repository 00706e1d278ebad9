//! How often somebody may ask: so many times a minute, each for himself.
//!
//! The bookkeeping forgets whoever has not asked for a while, and never knows more than
//! [`CALLERS_MAX`]; with that many at once, unknown ones are refused until some are forgotten.

use std::{
    fmt,
    hash::Hash,
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, MonotonicClock},
    state::keyed::HashMapStateStore,
};

/// Callers that are remembered at once; each takes some hundred bytes.
const CALLERS_MAX: usize = 100_000;
/// Time between two rounds of forgetting, which look at every caller.
const SWEEP_PERIOD: Duration = Duration::from_secs(1);

/// A rate for each of many callers.
pub struct RateLimit<K, C = MonotonicClock>
where
    K: Hash + Eq + Clone,
    C: Clock,
{
    limiter: RateLimiter<
        K,
        HashMapStateStore<K>,
        C,
        governor::middleware::NoOpMiddleware<<C as Clock>::Instant>,
    >,
    clock: C,
    callers_max: usize,
    swept: Mutex<Option<Instant>>,
}

impl<K: Hash + Eq + Clone> RateLimit<K> {
    /// A limit of `per_minute` requests, which may all come at once.
    pub fn per_minute(per_minute: u32) -> Self {
        Self::with_clock(per_minute, CALLERS_MAX, MonotonicClock)
    }
}

impl<K: Hash + Eq + Clone, C: Clock + Clone> RateLimit<K, C> {
    fn with_clock(per_minute: u32, callers_max: usize, clock: C) -> Self {
        let per_minute = NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_minute(per_minute);
        Self {
            limiter: RateLimiter::hashmap_with_clock(quota, clock.clone()),
            clock,
            callers_max,
            swept: Mutex::new(None),
        }
    }

    /// Counts a request.
    ///
    /// # Errors
    /// There were too many; says after which time the next one may pass.
    pub fn check(&self, caller: &K) -> Result<(), Duration> {
        if self.callers_max <= self.limiter.len() {
            self.sweep();
            if self.callers_max <= self.limiter.len() {
                return Err(SWEEP_PERIOD);
            }
        }
        self.limiter
            .check_key(caller)
            .map_err(|refused| refused.wait_time_from(self.clock.now()))
    }

    /// Forgets whoever is back at his full quota.
    pub fn forget_idle(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }

    fn sweep(&self) {
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        if swept.is_none_or(|at| SWEEP_PERIOD <= at.elapsed()) {
            self.limiter.retain_recent();
            *swept = Some(Instant::now());
        }
    }
}

impl<K: Hash + Eq + Clone, C: Clock> fmt::Debug for RateLimit<K, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimit")
            .field("callers", &self.limiter.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    #[test]
    fn each_caller_has_a_rate_of_his_own() {
        let clock = FakeRelativeClock::default();
        let limit = RateLimit::with_clock(10, 100, clock.clone());
        for _ in 0..10 {
            assert_eq!(limit.check(&"a"), Ok(()));
        }
        let wait = limit.check(&"a").unwrap_err();
        assert!(
            Duration::from_secs(5) < wait && wait <= Duration::from_secs(6),
            "{wait:?}"
        );
        assert_eq!(limit.check(&"b"), Ok(()));
        clock.advance(wait);
        assert_eq!(limit.check(&"a"), Ok(()));
        assert!(limit.check(&"a").is_err());
    }

    #[test]
    fn idle_callers_are_forgotten_and_their_number_is_bounded() {
        let clock = FakeRelativeClock::default();
        let limit = RateLimit::with_clock(60, 3, clock.clone());
        for caller in 0..3 {
            assert_eq!(limit.check(&caller), Ok(()));
        }
        assert!(limit.check(&3).is_err());
        clock.advance(Duration::from_secs(5));
        limit.forget_idle();
        assert_eq!(limit.limiter.len(), 0);
        assert_eq!(limit.check(&3), Ok(()));
    }
}
