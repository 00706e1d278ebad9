//! How durations and sizes are written in configuration: `"30s"`, `"4MiB"`.
//!
//! Reading accepts every unit of the two parsers below; writing picks the largest binary unit that
//! divides the number, so that what is printed reads back as the same value. A bare number is
//! refused for durations (seconds? milliseconds?) and means bytes for sizes.

use std::time::Duration;

use aither_protocol::Amount;
use bytesize::ByteSize;
use serde::{Deserialize, Deserializer, Serializer, de};

/// Writes a size exactly, in the largest binary unit that divides it.
pub fn format_size(bytes: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    for (unit, shift) in UNITS {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

/// Writes a size for people: whole mebibytes from one on.
pub fn rounded_size(bytes: u64) -> String {
    let mebibyte: u64 = 1 << 20;
    if bytes < mebibyte {
        format_size(bytes)
    } else {
        format!("{} MiB", bytes.saturating_add(mebibyte / 2) / mebibyte)
    }
}

/// A number of bytes or a text with a unit.
#[derive(Deserialize)]
#[serde(untagged)]
enum SizeText {
    Bytes(u64),
    Text(String),
}

fn deserialize_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    match SizeText::deserialize(deserializer)
        .map_err(|_| de::Error::custom("expected a size such as \"4MiB\""))?
    {
        SizeText::Bytes(bytes) => Ok(bytes),
        SizeText::Text(text) => text
            .parse::<ByteSize>()
            .map(|size| size.as_u64())
            .map_err(|_| de::Error::custom(format!("{text:?} is no size such as \"4MiB\""))),
    }
}

/// For `#[serde(with)]` on a `u64` of bytes.
pub mod size_u64 {
    use super::{Deserializer, Serializer, deserialize_size, format_size};

    #[expect(missing_docs, reason = "serde's shape")]
    pub fn serialize<S: Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format_size(*bytes))
    }

    #[expect(missing_docs, reason = "serde's shape")]
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        deserialize_size(deserializer)
    }
}

/// For `#[serde(with)]` on a `usize` of bytes.
pub mod size_usize {
    use super::{Deserializer, Serializer, de, deserialize_size, format_size};

    #[expect(missing_docs, reason = "serde's shape")]
    pub fn serialize<S: Serializer>(bytes: &usize, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format_size(*bytes as u64))
    }

    #[expect(missing_docs, reason = "serde's shape")]
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
        usize::try_from(deserialize_size(deserializer)?)
            .map_err(|_| de::Error::custom("the size is too large for this machine"))
    }
}

/// For `#[serde(deserialize_with)]` on a name: `AITHER_NAME=42` is a name, not a number.
///
/// # Errors
/// Neither text nor a number.
pub fn lenient_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Scalar {
        Text(String),
        Natural(u64),
        Integer(i64),
        Float(f64),
        Bool(bool),
    }
    Ok(
        match Scalar::deserialize(deserializer).map_err(|_| de::Error::custom("expected a text"))? {
            Scalar::Text(text) => text,
            Scalar::Natural(number) => number.to_string(),
            Scalar::Integer(number) => number.to_string(),
            Scalar::Float(number) => number.to_string(),
            Scalar::Bool(value) => value.to_string(),
        },
    )
}

/// For `#[serde(with)]` on a [`Duration`].
pub mod duration {
    use super::{Deserialize, Deserializer, Duration, Serializer, de};

    #[expect(missing_docs, reason = "serde's shape")]
    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*value))
    }

    #[expect(missing_docs, reason = "serde's shape")]
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text)
            .map_err(|_| de::Error::custom(format!("{text:?} is no duration such as \"30s\"")))
    }
}

/// For `#[serde(with)]` on an [`Amount`] of tokens: a number, as 1000 or 0.05.
pub mod amount {
    use super::{Amount, Deserialize, Deserializer, Serializer, de};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Whole(u64),
        Decimal(f64),
        Text(String),
    }

    #[expect(missing_docs, reason = "serde's shape")]
    pub fn serialize<S: Serializer>(amount: &Amount, serializer: S) -> Result<S::Ok, S::Error> {
        let text = amount.to_string();
        match (text.parse::<u64>(), text.parse::<f64>()) {
            (Ok(whole), _) => serializer.serialize_u64(whole),
            (_, Ok(decimal)) => serializer.serialize_f64(decimal),
            _ => serializer.serialize_str(&text),
        }
    }

    #[expect(missing_docs, reason = "serde's shape")]
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Amount, D::Error> {
        let number = Number::deserialize(deserializer)
            .map_err(|_| de::Error::custom("expected a number of tokens such as 1000 or 0.05"))?;
        // The shortest text of a float is what was typed, as far as a float can hold it.
        let text = match number {
            Number::Whole(whole) => whole.to_string(),
            Number::Decimal(decimal) => decimal.to_string(),
            Number::Text(text) => text,
        };
        text.parse()
            .map_err(|error| de::Error::custom(format!("{text}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_exactly_and_read_back() {
        let cases = [
            (0, "0B"),
            (1, "1B"),
            (1000, "1000B"),
            (1024, "1KiB"),
            (4 << 20, "4MiB"),
            (3 << 30, "3GiB"),
            (1 << 40, "1TiB"),
            ((4 << 20) + 1, "4194305B"),
        ];
        for (bytes, text) in cases {
            assert_eq!(format_size(bytes), text);
            assert_eq!(text.parse::<ByteSize>().unwrap().as_u64(), bytes, "{text}");
        }
    }
}
