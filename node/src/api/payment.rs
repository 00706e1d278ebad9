//! Who pays for a request, and how much at most.

use aither_ledger::AccountId;
use aither_protocol::{Allowance, Amount};
use axum::{
    extract::{FromRequestParts, MatchedPath},
    http::{HeaderMap, request::Parts},
};

use super::{ApiError, ApiState, auth::Caller};
use crate::billing::{OPERATOR, PaidOperation, Payment};

/// What `x-aither-max-cost` is called.
pub(super) const MAX_COST: &str = "x-aither-max-cost";

/// The payment of a paid request.
#[derive(Debug)]
pub(super) struct Paid(pub(super) Payment);

impl FromRequestParts<ApiState> for Paid {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let caller = Caller::from_request_parts(parts, state).await?;
        let route = parts.extensions.get::<MatchedPath>();
        Ok(Self(Payment {
            payer: payer_of(&caller),
            allowances: allowances_of(&caller).into(),
            max_cost: max_cost(&parts.headers)?,
            route: route.map_or_else(String::new, |route| route.as_str().to_owned()),
            agent: match &caller {
                Caller::Agent(agent) => agent.billed_name(),
                _ => String::new(),
            },
            operation: parts.extensions.get::<PaidOperation>().copied(),
        }))
    }
}

/// Returns the account that pays for what a caller asks. Programs on this machine that need no key
/// work for the operator.
pub(super) fn payer_of(caller: &Caller) -> AccountId {
    match caller {
        Caller::Account(caller) => AccountId(caller.account.as_u128()),
        Caller::Agent(caller) => caller.agent.owner,
        Caller::Operator | Caller::Local | Caller::Anyone => OPERATOR,
    }
}

/// Returns what a caller's payments count against beside the payer's account.
pub(super) fn allowances_of(caller: &Caller) -> &[Allowance] {
    match caller {
        Caller::Agent(caller) => match &caller.token_grant {
            Some(token_grant) => &token_grant.grant.allowances,
            None => &[],
        },
        _ => &[],
    }
}

fn max_cost(headers: &HeaderMap) -> Result<Option<Amount>, ApiError> {
    let Some(value) = headers.get(MAX_COST) else {
        return Ok(None);
    };
    let amount = value.to_str().unwrap_or_default().trim().parse();
    amount
        .map(Some)
        .map_err(|error: aither_protocol::AmountError| ApiError::field(MAX_COST, error.to_string()))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_bound_on_the_cost_is_an_amount() {
        let of = |text: &str| {
            let value = HeaderValue::from_str(text).unwrap();
            max_cost(&HeaderMap::from_iter([(MAX_COST.parse().unwrap(), value)]))
        };
        assert_eq!(of("0.5").unwrap(), Some(Amount::from_micros(500_000)));
        assert_eq!(max_cost(&HeaderMap::new()).unwrap(), None);
        for text in ["", "-1", "NaN", "0.0000001", "9007199255"] {
            assert!(of(text).is_err(), "{text}");
        }
    }
}
