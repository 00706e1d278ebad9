//! What a plan lets an account do at once and in a minute.
//!
//! A request holds its [`Permit`] until its answer has ended or its client is gone. Accounts that
//! do nothing take no room.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aither_protocol::Plan;

use super::rate_limit::RateLimit;
use crate::accounts::{AccountError, AccountId};

/// When to ask again where another request must end first: nobody knows when it will.
const RETRY_WHEN_BUSY: Duration = Duration::from_secs(1);

/// The use that accounts make of their plans.
#[derive(Debug)]
pub struct PlanLimits {
    rates: Vec<(Plan, RateLimit<AccountId>)>,
    running: Arc<Mutex<HashMap<AccountId, u32>>>,
}

/// The right to run one request; ends when it is dropped.
#[derive(Debug, Default)]
#[must_use = "the request counts as ended once its permit is dropped"]
pub struct Permit(Option<Running>);

#[derive(Debug)]
struct Running {
    account: AccountId,
    running: Arc<Mutex<HashMap<AccountId, u32>>>,
}

impl Permit {
    /// Returns whether nothing is held.
    pub fn is_unlimited(&self) -> bool {
        self.0.is_none()
    }
}

impl Default for PlanLimits {
    fn default() -> Self {
        let limited = Plan::ALL.iter().filter_map(|plan| {
            let per_minute = plan.requests_per_minute()?;
            Some((*plan, RateLimit::per_minute(per_minute)))
        });
        Self {
            rates: limited.collect(),
            running: Arc::default(),
        }
    }
}

impl PlanLimits {
    /// Lets a paid request begin.
    ///
    /// # Errors
    /// The account has as many under way, or had as many in the last minute, as its plan allows.
    pub fn admit(&self, account: AccountId, plan: Plan) -> Result<Permit, AccountError> {
        // Before the rate, so that a request that is refused here costs nothing there.
        let permit = self.begin(account, plan)?;
        self.count(account, plan)?;
        Ok(permit)
    }

    /// Counts work that belongs to a request which has begun, as if it were one by itself.
    ///
    /// # Errors
    /// The account had as many in the last minute as its plan allows.
    pub fn count(&self, account: AccountId, plan: Plan) -> Result<(), AccountError> {
        let rate = self.rates.iter().find(|(known, _)| *known == plan);
        if let Some((plan, rate)) = rate {
            rate.check(&account)
                .map_err(|retry_after| AccountError::RateLimited {
                    message: format!(
                        "the plan {plan} allows {} requests a minute",
                        plan.requests_per_minute().unwrap_or_default()
                    ),
                    retry_after,
                })?;
        }
        Ok(())
    }

    /// Takes what is free now for more work at once of a request that has begun, at most so much.
    pub fn more(&self, account: AccountId, plan: Plan, count_max: usize) -> Vec<Permit> {
        let free = (0..count_max).map_while(|_| self.begin(account, plan).ok());
        free.collect()
    }

    /// Forgets accounts that have not asked for a while.
    pub fn forget_idle(&self) {
        for (_, rate) in &self.rates {
            rate.forget_idle();
        }
    }

    fn begin(&self, account: AccountId, plan: Plan) -> Result<Permit, AccountError> {
        let Some(concurrent_max) = plan.concurrent_max() else {
            return Ok(Permit(None));
        };
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let count = running.entry(account).or_insert(0);
        if concurrent_max <= *count {
            return Err(AccountError::RateLimited {
                message: format!("the plan {plan} allows {concurrent_max} requests at once"),
                retry_after: RETRY_WHEN_BUSY,
            });
        }
        *count += 1;
        Ok(Permit(Some(Running {
            account,
            running: Arc::clone(&self.running),
        })))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = running.get_mut(&self.account) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                running.remove(&self.account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(limits: &PlanLimits, account: u128, plan: Plan) -> Result<Permit, AccountError> {
        limits.admit(AccountId::from_u128(account), plan)
    }

    #[test]
    fn as_many_run_at_once_as_the_plan_says() {
        let limits = PlanLimits::default();
        let builder = || admit(&limits, 1, Plan::Builder);
        let mut permits: Vec<_> = (0..5).map(|_| builder().unwrap()).collect();
        assert!(builder().is_err());
        let _other = admit(&limits, 2, Plan::Builder).unwrap();
        permits.pop();
        let _again = builder().unwrap();
        assert!(builder().is_err());
    }

    #[test]
    fn regression_a_request_of_several_tasks_has_no_more_than_the_plan_says() {
        let limits = PlanLimits::default();
        let account = AccountId::from_u128(1);
        let more = |count| limits.more(account, Plan::Builder, count);
        let request = admit(&limits, 1, Plan::Builder).unwrap();
        let first = more(3);
        assert_eq!(first.len(), 3);
        let second = more(3);
        assert_eq!(second.len(), 1, "five in all");
        assert!(more(3).is_empty());
        assert!(admit(&limits, 1, Plan::Builder).is_err());
        drop((request, first, second));
        assert!(limits.running.lock().unwrap().is_empty());
        assert_eq!(limits.more(account, Plan::Enterprise, 31).len(), 31);
    }

    #[test]
    fn a_minute_has_as_many_as_the_plan_says_and_refused_ones_do_not_count() {
        let limits = PlanLimits::default();
        let explorer = || admit(&limits, 1, Plan::Explorer);
        let held = explorer().unwrap();
        for _ in 0..20 {
            assert!(explorer().is_err());
        }
        drop(held);
        for _ in 1..10 {
            drop(explorer().unwrap());
        }
        let refused = explorer().unwrap_err();
        assert!(
            refused.to_string().contains("10 requests a minute"),
            "{refused}"
        );
        assert!(limits.running.lock().unwrap().is_empty());
    }

    #[test]
    fn enterprise_has_no_bounds() {
        let limits = PlanLimits::default();
        let permits: Vec<_> = (0..1000)
            .map(|_| admit(&limits, 1, Plan::Enterprise).unwrap())
            .collect();
        assert!(limits.running.lock().unwrap().is_empty());
        drop(permits);
    }
}
