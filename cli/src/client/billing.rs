//! Balance, usage and payments.
//!
//! A payment carries an `Idempotency-Key`. With it the client may ask again when a connection
//! breaks, where nobody can tell whether the node has paid: the node pays once for one key.

use std::{collections::BTreeMap, fmt, time::Duration};

use aither_protocol::Amount;
use reqwest::Method;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::{Answer, Client};
use crate::error::{Error, Refusal};

/// How often a payment is tried before it is left to the person.
const PAYMENT_TRIES: u32 = 3;
/// Before another try, unless the node names a time.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause that a node can ask for.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(10);

/// A number of tokens for people to read, as the node wrote it: also below zero, and without a
/// bound, which an [`Amount`] has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tokens(String);

impl Tokens {
    /// Returns about how many they are, to sort by.
    pub(crate) fn approximately(&self) -> f64 {
        self.0.parse().unwrap_or_default()
    }
}

impl fmt::Display for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "0" } else { &self.0 })
    }
}

impl<'de> Deserialize<'de> for Tokens {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let number = raw.get();
        if number.parse::<f64>().is_err() {
            return Err(serde::de::Error::custom("must be a number of tokens"));
        }
        Ok(Self(number.to_owned()))
    }
}

/// `GET /v1/billing/balance`.
#[derive(Debug, Deserialize)]
pub(crate) struct Balance {
    pub(crate) tokens: Tokens,
    pub(crate) held: Option<Tokens>,
    pub(crate) granted: Option<Tokens>,
    pub(crate) plan: Option<String>,
    pub(crate) expires: Option<String>,
}

/// `GET /v1/billing/usage`.
#[derive(Debug, Deserialize)]
pub(crate) struct Usage {
    pub(crate) total_tokens: Tokens,
    pub(crate) total_requests: u64,
    #[serde(default)]
    pub(crate) by_agent: BTreeMap<String, UsageItem>,
    #[serde(default)]
    pub(crate) by_model: BTreeMap<String, UsageItem>,
    #[serde(default)]
    pub(crate) by_day: BTreeMap<String, UsageItem>,
}

/// A part of the usage.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct UsageItem {
    pub(crate) tokens: Tokens,
    pub(crate) requests: u64,
    pub(crate) prompt_tokens: u64,
    pub(crate) completion_tokens: u64,
}

/// An entry of `GET /v1/billing/statement`.
#[derive(Debug, Deserialize)]
pub(crate) struct StatementItem {
    pub(crate) time: String,
    pub(crate) kind: String,
    pub(crate) amount: Tokens,
    #[serde(default)]
    pub(crate) other: String,
    #[serde(default)]
    pub(crate) memo: String,
    #[serde(default)]
    pub(crate) split: Vec<SplitItem>,
}

/// A part of a payment that is shared.
#[derive(Debug, Deserialize)]
pub(crate) struct SplitItem {
    pub(crate) account: String,
    pub(crate) amount: Tokens,
}

/// `POST /v1/billing/topup`.
#[derive(Debug, Serialize)]
pub(crate) struct TopUp<'a> {
    pub(crate) account: &'a str,
    pub(crate) tokens: Amount,
    pub(crate) reference: &'a str,
}

/// What an account has after a payment.
#[derive(Debug, Deserialize)]
pub(crate) struct Payment {
    pub(crate) balance: Tokens,
}

impl Client {
    /// Asks what there is to spend.
    pub(crate) async fn balance(&self) -> Result<Answer, Error> {
        self.get("v1/billing/balance", &[]).await
    }

    /// Asks what was spent in a period.
    pub(crate) async fn usage(&self, period: &str) -> Result<Answer, Error> {
        self.get("v1/billing/usage", &[("period", period)]).await
    }

    /// Asks for the last entries of the caller's account.
    pub(crate) async fn statement(&self, lines: u32) -> Result<Answer, Error> {
        let limit = lines.to_string();
        self.get("v1/billing/statement", &[("limit", &limit)]).await
    }

    /// Pays tokens into an account, once for one key.
    pub(crate) async fn top_up(&self, top_up: &TopUp<'_>, key: &str) -> Result<Answer, Error> {
        let url = self.url("v1/billing/topup")?;
        let mut tries = 0;
        loop {
            let request = self
                .request(Method::POST, url.clone())
                .header("idempotency-key", key)
                .json(top_up);
            let error = match self.answer(request).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            tries += 1;
            match pause_after(&error) {
                Some(pause) if tries < PAYMENT_TRIES => tokio::time::sleep(pause).await,
                pause => return Err(given_up(error, pause.is_some() || tries > 1, key)),
            }
        }
    }
}

/// Says of a payment that failed whether it may have been made all the same.
fn given_up(error: Error, may_be_paid: bool, key: &str) -> Error {
    // A plain refusal tells that no try has paid: the node would have answered what it paid.
    let is_refused = matches!(error, Error::Refused(_)) && pause_after(&error).is_none();
    if is_refused || !may_be_paid {
        return error;
    }
    Error::UncertainPayment {
        key: key.to_owned(),
        cause: Box::new(error),
    }
}

/// Returns how long to wait before a payment is tried again; none where that would not help.
fn pause_after(error: &Error) -> Option<Duration> {
    match error {
        Error::Broken { .. } => Some(RETRY_PAUSE),
        // The first try is still at work.
        Error::Refused(refusal) => match &**refusal {
            Refusal {
                status: Some(409),
                retry_after: Some(seconds),
                ..
            } => Some(Duration::from_secs(*seconds).min(RETRY_PAUSE_MAX)),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_keep_sign_and_digits() {
        for text in [
            "-12.000001",
            "8999999999.000001",
            "0",
            "99999999999999999999",
        ] {
            let tokens: Tokens = serde_json::from_str(text).unwrap();
            assert_eq!(tokens.to_string(), text);
        }
        for text in ["\"5\"", "null", "[1]", "true"] {
            assert!(serde_json::from_str::<Tokens>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn usage_without_parts_is_read() {
        let usage: Usage = serde_json::from_str(
            r#"{"total_tokens": 1.5, "total_requests": 2, "by_model": {"m": {}}}"#,
        )
        .unwrap();
        assert_eq!(usage.total_tokens.to_string(), "1.5");
        assert_eq!(usage.by_model["m"].tokens.to_string(), "0");
    }

    #[test]
    fn only_what_may_have_been_paid_is_tried_again() {
        let broken = Error::Broken {
            server: "http://h".into(),
            cause: "reset".into(),
        };
        assert_eq!(pause_after(&broken), Some(RETRY_PAUSE));
        let refused = |status, retry_after| {
            Error::Refused(Box::new(Refusal {
                detail: "no".into(),
                code: None,
                status: Some(status),
                retry_after,
                request_id: None,
            }))
        };
        assert_eq!(pause_after(&refused(409, Some(900))), Some(RETRY_PAUSE_MAX));
        assert_eq!(pause_after(&refused(409, None)), None);
        assert_eq!(pause_after(&refused(403, Some(1))), None);
    }
}
