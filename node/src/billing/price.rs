//! From model tokens to amounts.

use aither_protocol::Amount;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Weights of the model that costs one token per thousand model tokens.
const BASE_PARAMETERS: u128 = 8_000_000_000;
/// Model tokens that a price is for.
const PER: u128 = 1000;

/// What a model's tokens cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelPrice {
    /// Tokens of the platform for a thousand tokens of prompts.
    #[schema(value_type = f64)]
    pub prompt_per_1k: Amount,
    /// The same for answers.
    #[schema(value_type = f64)]
    pub completion_per_1k: Amount,
}

/// What a request takes at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Tokens of all prompts.
    pub prompt_tokens: u64,
    /// Answers, of which each may have as many tokens as the others.
    pub answers: u64,
    /// The most tokens of an answer.
    pub answer_tokens_max: u64,
}

impl ModelPrice {
    /// Returns one token per thousand for a model of 8 billion weights, for others in proportion,
    /// rounded up to a micro-token, never nothing.
    pub fn by_parameters(parameters: u64) -> Self {
        let micros = u128::from(parameters).saturating_mul(1_000_000);
        let each = Amount::from_micros(micros.div_ceil(BASE_PARAMETERS).max(1));
        Self {
            prompt_per_1k: each,
            completion_per_1k: each,
        }
    }

    /// Returns what so many tokens cost, rounded up to a micro-token.
    pub fn cost(&self, prompt_tokens: u64, completion_tokens: u64) -> Amount {
        let prompt = product(self.prompt_per_1k, prompt_tokens);
        let completion = product(self.completion_per_1k, completion_tokens);
        Amount::from_micros(prompt.saturating_add(completion).div_ceil(PER))
    }

    /// Returns what a request costs at most.
    pub fn cost_max(&self, need: Need) -> Amount {
        let answers = need.answers.saturating_mul(need.answer_tokens_max);
        self.cost(need.prompt_tokens, answers)
    }

    /// Returns the most tokens that each answer may have for a request to cost no more than
    /// `amount_max`: none where the prompt alone costs more.
    pub fn answer_tokens_for(&self, need: Need, amount_max: Amount) -> u64 {
        let all = amount_max.micros().saturating_mul(PER);
        let prompt = product(self.prompt_per_1k, need.prompt_tokens);
        let Some(left) = all.checked_sub(prompt) else {
            return 0;
        };
        let each = product(self.completion_per_1k, need.answers);
        let tokens = left.checked_div(each).unwrap_or(u128::MAX);
        u64::try_from(tokens)
            .unwrap_or(u64::MAX)
            .min(need.answer_tokens_max)
    }
}

/// Thousandths of micro-tokens.
fn product(per_1k: Amount, tokens: u64) -> u128 {
    per_1k.micros().saturating_mul(tokens.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price(prompt: u128, completion: u128) -> ModelPrice {
        ModelPrice {
            prompt_per_1k: Amount::from_micros(prompt),
            completion_per_1k: Amount::from_micros(completion),
        }
    }

    #[test]
    fn a_price_is_scaled_by_weights_rounded_up_and_never_zero() {
        for (parameters, micros) in [
            (8_000_000_000, 1_000_000),
            (134_515_008, 16_815),
            (1, 1),
            (0, 1),
            (u64::MAX, 2_305_843_009_213_694),
        ] {
            let price = ModelPrice::by_parameters(parameters);
            assert_eq!(price.prompt_per_1k.micros(), micros, "{parameters}");
            assert_eq!(price.completion_per_1k.micros(), micros, "{parameters}");
        }
    }

    #[test]
    fn a_charge_is_rounded_up_once() {
        assert_eq!(price(16_815, 16_815).cost(40, 24).micros(), 1077);
        assert_eq!(price(1, 1).cost(1, 0).micros(), 1);
        assert_eq!(price(1, 1).cost(500, 500).micros(), 1);
        assert_eq!(price(1, 1).cost(500, 501).micros(), 2);
        assert_eq!(price(1, 1).cost(0, 0).micros(), 0);
        assert!(price(u128::MAX, 1).cost(u64::MAX, u64::MAX).micros() > 0);
    }

    #[test]
    fn an_answer_is_as_long_as_the_amount_allows() {
        let need = Need {
            prompt_tokens: 100,
            answers: 2,
            answer_tokens_max: 50,
        };
        let price = price(2000, 5000);
        assert_eq!(price.cost_max(need).micros(), 200 + 500);
        for (micros, tokens) in [(0, 0), (199, 0), (209, 0), (210, 1), (699, 49), (700, 50)] {
            let amount = Amount::from_micros(micros);
            let found = price.answer_tokens_for(need, amount);
            assert_eq!(found, tokens, "{micros}");
            if tokens > 0 {
                let need = Need {
                    answer_tokens_max: tokens,
                    ..need
                };
                assert!(price.cost_max(need) <= amount);
            }
        }
        let free = ModelPrice {
            prompt_per_1k: Amount::ZERO,
            completion_per_1k: Amount::ZERO,
        };
        assert_eq!(free.answer_tokens_for(need, Amount::ZERO), 50);
    }
}
