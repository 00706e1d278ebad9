//! One generation's bill: what its prompts report is summed up, and posted when the last is done.
//!
//! It lives in the sinks of the engine's requests, so that what was made is charged also when the
//! client has gone. A call that failed pays nothing.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use aither_inference::request::GenerationStats;
use aither_ledger::{AccountId, TransferId, Usage};
use aither_protocol::{Allowance, Amount};

use super::{
    Billing, BillingError,
    allowance::{Spendable, Spending},
    hold::Hold,
    price::{ModelPrice, Need},
};

/// Who pays for a request, and what is noted about it.
#[derive(Debug, Clone)]
pub struct Payment {
    /// The account.
    pub payer: AccountId,
    /// What bounds all that is paid with the capability token that was shown; empty without one.
    pub allowances: Arc<[Allowance]>,
    /// The most that may be charged.
    pub max_cost: Option<Amount>,
    /// The route, by its template.
    pub route: String,
    /// The agent that asks; empty where none does.
    pub agent: String,
    /// What it is called, where its sender may ask for it again.
    pub operation: Option<PaidOperation>,
}

/// The name of what is paid for, under which it is paid once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PaidOperation {
    /// The name of its transfer or hold.
    pub id: TransferId,
    /// What was charged for it already: by an earlier process, whose answer was lost.
    pub charged: Option<Amount>,
}

/// What a bill is paid from.
#[derive(Debug)]
pub enum Funds {
    /// It costs nothing.
    Free,
    /// It was charged already.
    Charged(Amount),
    /// This is held.
    Held(Hold),
}

/// Is told what was charged.
type Report = Box<dyn FnOnce(Result<Amount, BillingError>) + Send>;

/// A bill that is still open.
pub struct Charge {
    state: Mutex<State>,
}

struct State {
    /// `None` once it has ended.
    funds: Option<Funds>,
    report: Option<Report>,
    price: ModelPrice,
    /// With the counts so far.
    usage: Usage,
    prompts_left: usize,
    begun: Instant,
}

/// What a request may take: as much as is paid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// The most tokens of each answer.
    pub answer_tokens_max: u64,
    /// What that costs.
    pub amount: Amount,
}

impl std::fmt::Debug for Charge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Charge").finish_non_exhaustive()
    }
}

/// Says what a request may take. Where its sender set no bound of tokens (`is_open_ended`), it may
/// take what there is to spend; a bound that was set must be paid for whole.
///
/// # Errors
/// Not even one token of each answer is allowed, or the bound cannot be paid.
pub fn estimate(
    price: &ModelPrice,
    need: Need,
    max_cost: Option<Amount>,
    spendable: Option<Spendable>,
    is_open_ended: bool,
) -> Result<Estimate, BillingError> {
    let shortest = price.cost_max(Need {
        answer_tokens_max: need.answer_tokens_max.min(1),
        ..need
    });
    let mut need = need;
    if let Some(max_cost) = max_cost {
        need.answer_tokens_max = price.answer_tokens_for(need, max_cost);
        if need.answer_tokens_max == 0 {
            return Err(BillingError::AboveMaxCost {
                required: shortest,
                max_cost,
            });
        }
    }
    if let Some(spendable) = spendable
        && price.cost_max(need) > spendable.amount()
    {
        let affordable = price.answer_tokens_for(need, spendable.amount());
        if !is_open_ended || affordable == 0 {
            let required = if is_open_ended {
                shortest
            } else {
                price.cost_max(need)
            };
            return Err(spendable.exceeded_by(required));
        }
        need.answer_tokens_max = affordable;
    }
    Ok(Estimate {
        answer_tokens_max: need.answer_tokens_max,
        amount: price.cost_max(need),
    })
}

/// Returns the record of what is used, still without counts.
pub fn usage_of(payment: &Payment, model: &str, price_version: u64) -> Usage {
    Usage {
        account: payment.payer,
        agent: payment.agent.clone(),
        model: model.to_owned(),
        route: payment.route.clone(),
        price_version,
        ..Usage::default()
    }
}

impl Charge {
    /// Opens the bill of a generation of `prompts` prompts. `report` is called once, when it is
    /// paid or void.
    pub fn new(
        funds: Funds,
        price: ModelPrice,
        usage: Usage,
        prompts: usize,
        report: impl FnOnce(Result<Amount, BillingError>) + Send + 'static,
    ) -> Self {
        Self {
            state: Mutex::new(State {
                funds: Some(funds),
                report: Some(Box::new(report)),
                price,
                usage,
                prompts_left: prompts,
                begun: Instant::now(),
            }),
        }
    }

    /// Adds what a prompt came to, whole or not. After the last one it is charged.
    pub fn add(&self, stats: &GenerationStats) {
        let mut state = self.lock();
        let tokens = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let usage = &mut state.usage;
        usage.prompt_tokens += tokens(stats.prompt_tokens);
        usage.completion_tokens += tokens(stats.completion_tokens);
        state.prompts_left = state.prompts_left.saturating_sub(1);
        if state.prompts_left == 0 {
            state.settle();
        }
    }

    /// The call failed: nothing is charged.
    pub fn fail(&self) {
        let mut state = self.lock();
        state.funds = None;
        if let Some(report) = state.report.take() {
            report(Ok(Amount::ZERO));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn settle(&mut self) {
        let Some(report) = self.report.take() else {
            return;
        };
        let mut usage = std::mem::take(&mut self.usage);
        let cost = self
            .price
            .cost(usage.prompt_tokens, usage.completion_tokens);
        let hold = match self.funds.take() {
            Some(Funds::Held(hold)) => hold,
            Some(Funds::Charged(amount)) => return report(Ok(amount)),
            Some(Funds::Free) | None => return report(Ok(Amount::ZERO)),
        };
        usage.amount = cost;
        usage.latency_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        hold.post(cost, usage, report);
    }
}

/// Whatever became of the requests: what was made is paid.
impl Drop for State {
    fn drop(&mut self) {
        self.settle();
    }
}

impl Billing {
    /// Holds what a generation may cost, unless it is charged already.
    ///
    /// # Errors
    /// The payer has or an allowance leaves too little, or the ledger cannot answer.
    pub async fn hold_for(
        &self,
        payment: &Payment,
        estimate: Estimate,
    ) -> Result<Funds, BillingError> {
        let operation = payment.operation;
        if let Some(amount) = operation.and_then(|operation| operation.charged) {
            return Ok(Funds::Charged(amount));
        }
        if estimate.amount.is_zero() {
            return Ok(Funds::Free);
        }
        let hold = self.hold(Spending {
            payer: payment.payer,
            amount: estimate.amount,
            memo: &payment.route,
            id: operation.map(|operation| operation.id),
            allowances: &payment.allowances,
        });
        hold.await.map(Funds::Held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRICE: ModelPrice = ModelPrice {
        prompt_per_1k: Amount::from_micros(1000),
        completion_per_1k: Amount::from_micros(1000),
    };
    const NEED: Need = Need {
        prompt_tokens: 100,
        answers: 1,
        answer_tokens_max: 50,
    };

    fn micros(value: u128) -> Amount {
        Amount::from_micros(value)
    }

    fn tokens_of(
        max_cost: Option<u128>,
        spendable: Option<u128>,
        is_open_ended: bool,
    ) -> Result<u64, BillingError> {
        let max_cost = max_cost.map(micros);
        let spendable = spendable.map(|value| Spendable::Balance(micros(value)));
        let found = estimate(&PRICE, NEED, max_cost, spendable, is_open_ended)?;
        assert_eq!(
            found.amount.micros(),
            100 + u128::from(found.answer_tokens_max)
        );
        Ok(found.answer_tokens_max)
    }

    #[test]
    fn the_senders_limit_shortens_an_answer() {
        assert_eq!(tokens_of(None, None, false).unwrap(), 50);
        assert_eq!(tokens_of(Some(130), None, false).unwrap(), 30);
        assert_eq!(tokens_of(Some(999), None, false).unwrap(), 50);
        let error = tokens_of(Some(100), None, false).unwrap_err();
        assert!(error.to_string().contains("0.000101"), "{error}");
    }

    #[test]
    fn a_bound_must_be_paid_whole_and_without_one_the_balance_is() {
        assert_eq!(tokens_of(None, Some(150), false).unwrap(), 50);
        let refused = tokens_of(None, Some(149), false).unwrap_err();
        let BillingError::Insufficient { balance, required } = refused else {
            panic!("{refused}");
        };
        assert_eq!((balance, required), (micros(149), micros(150)));
        assert_eq!(tokens_of(None, Some(149), true).unwrap(), 49);
        assert_eq!(tokens_of(Some(110), Some(120), false).unwrap(), 10);
        let refused = tokens_of(None, Some(100), true).unwrap_err();
        let BillingError::Insufficient { required, .. } = refused else {
            panic!("{refused}");
        };
        assert_eq!(required, micros(101));
    }

    #[test]
    fn an_allowance_shortens_an_answer_as_a_balance_does_and_is_named_where_it_cannot() {
        let estimate = |left, is_open_ended| {
            let left = Spendable::Allowance(micros(left));
            estimate(&PRICE, NEED, None, Some(left), is_open_ended)
        };
        assert_eq!(estimate(149, true).unwrap().answer_tokens_max, 49);
        for (micros_left, is_open_ended, needed) in [(100, true, 101), (149, false, 150)] {
            let refused = estimate(micros_left, is_open_ended).unwrap_err();
            let BillingError::AllowanceSpent { left, required } = refused else {
                panic!("{refused}");
            };
            assert_eq!((left, required), (micros(micros_left), micros(needed)));
        }
    }

    #[test]
    fn what_is_charged_already_is_reported_and_not_charged_again() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let usage = Usage::default();
        let funds = Funds::Charged(micros(7));
        let charge = Charge::new(funds, PRICE, usage, 1, move |charged| {
            sender.send(charged.unwrap()).unwrap();
        });
        charge.add(&GenerationStats {
            prompt_tokens: 1000,
            ..GenerationStats::default()
        });
        assert_eq!(receiver.recv().unwrap(), micros(7));
    }
}
