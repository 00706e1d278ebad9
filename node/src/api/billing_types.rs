//! Bodies and answers of `/v1/billing/…` and `/v1/admin/prices`.

use std::collections::BTreeMap;

use aither_ledger::{Account, UsageCounts};
use aither_protocol::Amount;
use serde::{Deserialize, Serialize, Serializer, ser};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use crate::billing::{ModelPrice, PriceVersion};

/// What an account can spend; below zero where it may spend more than it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tokens {
    is_negative: bool,
    amount: Amount,
}

impl Tokens {
    /// What there is to spend.
    pub(super) fn of(account: &Account) -> Self {
        let owed = account.overdrawn();
        if account.flags.debits_within_credits || owed.is_zero() {
            return Self::plus(account.spendable().total);
        }
        Self::minus(owed)
    }

    pub(super) fn plus(amount: Amount) -> Self {
        Self {
            is_negative: false,
            amount,
        }
    }

    pub(super) fn minus(amount: Amount) -> Self {
        Self {
            is_negative: !amount.is_zero(),
            amount,
        }
    }
}

impl std::fmt::Display for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.is_negative { "-" } else { "" };
        write!(f, "{sign}{}", self.amount)
    }
}

impl Serialize for Tokens {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw = RawValue::from_string(self.to_string()).map_err(ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

/// `GET /v1/billing/balance`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BalanceBody {
    /// All there is to spend.
    #[schema(value_type = f64)]
    pub(super) tokens: Tokens,
    /// The same.
    #[schema(value_type = f64)]
    pub(super) balance: Tokens,
    /// Held for requests that are at work.
    #[schema(value_type = f64)]
    pub(super) held: Amount,
    /// The part of `tokens` that was given.
    #[schema(value_type = f64)]
    pub(super) granted: Amount,
    /// The account's plan.
    pub(super) plan: &'static str,
    /// When the plan ends: never.
    pub(super) expires: Option<String>,
}

/// `POST /v1/billing/check`.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct CheckBody {
    /// What would be spent.
    #[schema(value_type = f64)]
    pub(super) tokens: Amount,
}

/// Its answer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CheckAnswer {
    /// Whether there is as much.
    pub(super) allowed: bool,
    /// What there is to spend.
    #[schema(value_type = f64)]
    pub(super) balance: Tokens,
    /// What was asked for.
    #[schema(value_type = f64)]
    pub(super) required: Amount,
}

/// `POST /v1/billing/deduct`.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct DeductBody {
    /// What is paid to the node.
    #[schema(value_type = f64)]
    pub(super) tokens: Amount,
    /// What for; stands in the statement.
    #[serde(default)]
    pub(super) reason: String,
}

/// `POST /v1/billing/topup`.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct TopUpBody {
    /// The account's id, or "operator".
    pub(super) account: String,
    /// What is added.
    #[schema(value_type = f64)]
    pub(super) tokens: Amount,
    /// Where it came from; stands in the statement.
    #[serde(default)]
    pub(super) reference: String,
}

/// An account after a payment.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PaidAnswer {
    /// What there is to spend now.
    #[schema(value_type = f64)]
    pub(super) balance: Tokens,
}

/// The query of `GET /v1/billing/usage`.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct UsageParams {
    /// How far back: "30d" unless said otherwise, "24h", "1h".
    pub(super) period: Option<String>,
}

/// `GET /v1/billing/usage`.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct UsageBody {
    /// Tokens of the platform that were charged.
    #[schema(value_type = f64)]
    pub(super) total_tokens: Amount,
    /// Requests that were charged.
    pub(super) total_requests: u64,
    /// By the agent that asked; "" where none did.
    pub(super) by_agent: BTreeMap<String, UsageItem>,
    /// By the model that ran.
    pub(super) by_model: BTreeMap<String, UsageItem>,
    /// By the day, in UTC.
    pub(super) by_day: BTreeMap<String, UsageItem>,
}

/// A part of it.
#[derive(Debug, Default, Clone, Copy, Serialize, ToSchema)]
pub(super) struct UsageItem {
    /// Tokens of the platform that were charged.
    #[schema(value_type = f64)]
    pub(super) tokens: Amount,
    /// Requests that were charged.
    pub(super) requests: u64,
    /// Model tokens of prompts.
    pub(super) prompt_tokens: u64,
    /// Model tokens of answers.
    pub(super) completion_tokens: u64,
}

impl From<UsageCounts> for UsageItem {
    fn from(counts: UsageCounts) -> Self {
        Self {
            tokens: counts.amount,
            requests: counts.requests,
            prompt_tokens: counts.prompt_tokens,
            completion_tokens: counts.completion_tokens,
        }
    }
}

/// The query of `GET /v1/billing/statement`, beside `limit` and `cursor`.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct StatementParams {
    /// "json", or "csv" for a table.
    pub(super) format: Option<String>,
}

/// One entry of a statement.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StatementItem {
    /// Its number in the journal.
    pub(super) entry: u64,
    /// When.
    pub(super) time: String,
    /// `opened`, `transferred`, `reserved`, `posted`, `voided` or `expired`.
    pub(super) kind: &'static str,
    /// How the balance changed. All of them come to the balance, what is held included.
    #[schema(value_type = f64)]
    pub(super) amount: Tokens,
    /// How what is held changed.
    #[schema(value_type = f64)]
    pub(super) held: Tokens,
    /// The other side: an account's id, "node", "grants", "topups" or "operator".
    pub(super) other: String,
    /// What for.
    pub(super) memo: String,
    /// The transfer's or hold's id; entries of one hold share it.
    pub(super) transfer: String,
    /// Who has which part of a payment that is shared, as of a call: the agent's owner and the
    /// node. Empty where all of it is one's.
    pub(super) split: Vec<SplitItem>,
}

/// A part of a payment.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SplitItem {
    /// Whose: an account's id, or "node".
    pub(super) account: String,
    /// How much.
    #[schema(value_type = f64)]
    pub(super) amount: Amount,
}

/// `PUT /v1/admin/prices`.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct SetPriceBody {
    /// The model's name.
    pub(super) model: String,
    /// Tokens for a thousand tokens of prompts. Without both prices, what was set is taken back.
    #[schema(value_type = Option<f64>)]
    pub(super) prompt_per_1k: Option<Amount>,
    /// Tokens for a thousand tokens of answers.
    #[schema(value_type = Option<f64>)]
    pub(super) completion_per_1k: Option<Amount>,
}

/// `GET /v1/admin/prices`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PricesBody {
    /// Counts the changes; each usage record names the version that it was reckoned by.
    pub(super) version: u64,
    /// Since when.
    pub(super) since: String,
    /// What the configuration says.
    pub(super) configured: BTreeMap<String, ModelPrice>,
    /// What was set since, which goes before it.
    pub(super) set: BTreeMap<String, ModelPrice>,
    /// What each served model costs.
    pub(super) models: BTreeMap<String, ModelPrice>,
}

impl PricesBody {
    pub(super) fn new(
        version: PriceVersion,
        since: String,
        models: BTreeMap<String, ModelPrice>,
    ) -> Self {
        Self {
            version: version.version,
            since,
            configured: version.configured,
            set: version.set,
            models,
        }
    }
}
