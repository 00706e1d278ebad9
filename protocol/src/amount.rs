//! Amounts of tokens, the unit in which the platform is paid.
//!
//! Inside they are integer micro-tokens and are only ever added and compared, so nothing is lost to
//! rounding. In JSON they are numbers of tokens with up to six decimals. These are read from their
//! digits, not through a float: a float cannot tell 8 999 999 999.000001 from its neighbours.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use serde_json::value::RawValue;

/// Micro-tokens in a token.
pub const MICROS_PER_TOKEN: u128 = 1_000_000;
/// Decimals of a token.
const DECIMALS: usize = 6;
/// Most tokens that a document may name in one amount: what a float still counts in micro-tokens.
pub const TOKENS_MAX: u64 = 9_007_199_254;
/// Longest text of a number that is looked at.
const TEXT_BYTES_MAX: usize = 64;

/// An amount of tokens, not negative, in micro-tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Amount(u128);

/// Why a text is no amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AmountError {
    /// No decimal number.
    #[error("must be a number of tokens, as 12 or 0.000001")]
    NotANumber,
    /// Below zero.
    #[error("must not be negative")]
    Negative,
    /// It would have to be rounded.
    #[error("must have at most 6 decimals")]
    TooFine,
    /// More than [`TOKENS_MAX`].
    #[error("must be at most 9007199254 tokens")]
    TooLarge,
}

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// The most that a document may name.
    pub const MAX: Self = Self::from_tokens(TOKENS_MAX);

    /// Returns so many micro-tokens.
    pub const fn from_micros(micros: u128) -> Self {
        Self(micros)
    }

    /// Returns so many tokens.
    pub const fn from_tokens(tokens: u64) -> Self {
        // 64 bits times 20 bits fit.
        Self(tokens as u128 * MICROS_PER_TOKEN)
    }

    /// Returns the micro-tokens.
    pub const fn micros(self) -> u128 {
        self.0
    }

    /// Whether it is nothing.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Returns the sum, unless it is too large for 128 bits.
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// Returns the difference, unless it is negative.
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(difference) => Some(Self(difference)),
            None => None,
        }
    }

    /// Returns the difference, or nothing where it is negative.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

/// Tokens, with the decimals that are needed.
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, micros) = (self.0 / MICROS_PER_TOKEN, self.0 % MICROS_PER_TOKEN);
        if micros == 0 {
            return write!(f, "{whole}");
        }
        let decimals = format!("{micros:0DECIMALS$}");
        write!(f, "{whole}.{}", decimals.trim_end_matches('0'))
    }
}

/// Reads a decimal number as JSON writes it, exponents included.
impl FromStr for Amount {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(AmountError::TooLarge);
        }
        let (is_negative, number) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match number.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => {
                let exponent: i32 = exponent.parse().map_err(|_| AmountError::NotANumber)?;
                (mantissa, exponent.clamp(-1000, 1000))
            }
            None => (number, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let has_fraction = mantissa.contains('.');
        if whole.is_empty() || (has_fraction && fraction.is_empty()) {
            return Err(AmountError::NotANumber);
        }
        if !is_digits(whole) || !is_digits(fraction) {
            return Err(AmountError::NotANumber);
        }
        let digits = format!("{whole}{fraction}");
        // Where the point of micro-tokens is, counted from the first digit.
        let point = whole.len() as i32 + exponent + DECIMALS as i32;
        let amount = from_digits(&digits, point)?;
        if is_negative && !amount.is_zero() {
            return Err(AmountError::Negative);
        }
        Ok(amount)
    }
}

/// Reads the digits before `point`; those after it must be zeros.
fn from_digits(digits: &str, point: i32) -> Result<Amount, AmountError> {
    let significant = digits.trim_start_matches('0');
    let point = point - (digits.len() - significant.len()) as i32;
    let significant = significant.trim_end_matches('0');
    if significant.is_empty() {
        return Ok(Amount::ZERO);
    }
    let Ok(point) = usize::try_from(point) else {
        return Err(AmountError::TooFine);
    };
    // 10^16 micro-tokens are more than the most.
    if point > 16 {
        return Err(AmountError::TooLarge);
    }
    if significant.len() > point {
        return Err(AmountError::TooFine);
    }
    let micros = format!("{significant:0<point$}");
    let micros = micros.parse().map_err(|_| AmountError::TooLarge)?;
    let amount = Amount(micros);
    if amount > Amount::MAX {
        return Err(AmountError::TooLarge);
    }
    Ok(amount)
}

/// A number of tokens in formats for people, micro-tokens in others.
impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !serializer.is_human_readable() {
            return serializer.serialize_u128(self.0);
        }
        let raw = RawValue::from_string(self.to_string()).map_err(ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return u128::deserialize(deserializer).map(Self);
        }
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        raw.get().parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<u128, AmountError>) {
        assert_eq!(text.parse(), expected.map(Amount::from_micros), "{text}");
    }

    #[test]
    fn numbers_are_read_to_the_last_digit() {
        check("0", Ok(0));
        check("-0", Ok(0));
        check("0.0e5", Ok(0));
        check("1", Ok(1_000_000));
        check("0.000001", Ok(1));
        check("1e-06", Ok(1));
        check("1.5E2", Ok(150_000_000));
        check("12.3400000000", Ok(12_340_000));
        check("9007199253.999999", Ok(9_007_199_253_999_999));
        check("9007199254", Ok(9_007_199_254_000_000));
        check("000012", Ok(12_000_000));
    }

    #[test]
    fn what_is_no_amount_is_refused_with_the_reason() {
        check("-1", Err(AmountError::Negative));
        check("-0.000001", Err(AmountError::Negative));
        check("0.0000001", Err(AmountError::TooFine));
        check("1.0000005", Err(AmountError::TooFine));
        check("1e-7", Err(AmountError::TooFine));
        check("1e-999999999", Err(AmountError::TooFine));
        check("9007199254.000001", Err(AmountError::TooLarge));
        check(
            "340282366920938463463374607431768211456",
            Err(AmountError::TooLarge),
        );
        check("1e400", Err(AmountError::TooLarge));
        check(&"9".repeat(65), Err(AmountError::TooLarge));
        for text in [
            "", "-", ".", "1.", ".5", "NaN", "Infinity", "1e", "0x1", "1_0", "\"1\"", "+1",
        ] {
            check(text, Err(AmountError::NotANumber));
        }
    }

    #[test]
    fn json_numbers_come_back_as_they_went() {
        for micros in [0, 1, 10, 1_000_000, 1_500_000, 9_007_199_253_999_999] {
            let amount = Amount::from_micros(micros);
            let json = serde_json::to_string(&amount).unwrap();
            assert_eq!(
                serde_json::from_str::<Amount>(&json).unwrap(),
                amount,
                "{json}"
            );
        }
        assert_eq!(
            serde_json::to_string(&Amount::from_micros(1_250_000)).unwrap(),
            "1.25"
        );
        let error = serde_json::from_str::<Amount>("\"5\"").unwrap_err();
        assert!(error.to_string().contains("must be a number"), "{error}");
        let value = serde_json::json!({"tokens": 2.5});
        let amount = serde_json::from_value::<Amount>(value["tokens"].clone());
        assert_eq!(amount.unwrap(), Amount::from_micros(2_500_000));
    }
}
