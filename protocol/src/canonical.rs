//! The one byte string that a JSON document is signed as: RFC 8785, the canonicalization of JSON.
//!
//! Keys are ordered by their UTF-16, numbers are printed as ECMAScript prints doubles. A document
//! is canonicalized as it was received, never from a struct of ours: else a field that a newer peer
//! adds would break its signature.

use serde_json::Value;

/// Deepest nesting that is canonicalized; what a parser lets through is no deeper.
const DEPTH_MAX: usize = 128;

/// Why a document has no canonical form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CanonicalError {
    /// A whole number that a double would round. Two documents that differ in it would have one
    /// signature.
    #[error("must hold only whole numbers that a double can; write a larger one as a string")]
    InexactNumber,
    /// Nested deeper than anything that is signed.
    #[error("must be nested at most {DEPTH_MAX} deep")]
    TooDeep,
    /// A number that JSON cannot write.
    #[error("must hold only finite numbers")]
    NotJson,
}

/// Returns the canonical form of a document.
///
/// # Errors
/// [`CanonicalError`] where there is none.
pub fn canonical_json(value: &Value) -> Result<Vec<u8>, CanonicalError> {
    check(value, DEPTH_MAX)?;
    serde_json_canonicalizer::to_vec(value).map_err(|_| CanonicalError::NotJson)
}

fn check(value: &Value, depth_max: usize) -> Result<(), CanonicalError> {
    let below = depth_max.checked_sub(1).ok_or(CanonicalError::TooDeep)?;
    match value {
        Value::Number(number) => {
            // Through 128 bits, where neither a sign nor rounding up to 2^64 is lost.
            let exact = |whole: i128, double: f64| double as i128 == whole;
            let right = match (number.as_u64(), number.as_i64()) {
                (Some(whole), _) => exact(whole.into(), whole as f64),
                (None, Some(whole)) => exact(whole.into(), whole as f64),
                (None, None) => true,
            };
            right.then_some(()).ok_or(CanonicalError::InexactNumber)
        }
        Value::Array(items) => items.iter().try_for_each(|item| check(item, below)),
        Value::Object(fields) => fields.values().try_for_each(|field| check(field, below)),
        Value::Null | Value::Bool(_) | Value::String(_) => Ok(()),
    }
}
