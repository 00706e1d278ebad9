//! How much memory holds, and what one entry may be.

use std::time::Duration;

use aither_protocol::Plan;

use super::MemoryError;

/// Largest value, as the JSON text that came.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Longest key.
pub const KEY_BYTES_MAX: usize = 512;
/// Most tags of an entry.
pub const TAGS_MAX: usize = 16;
/// Longest tag.
pub const TAG_BYTES_MAX: usize = 64;
/// Longest `task_id` and `session_id`.
pub const SCOPE_NAME_BYTES_MAX: usize = 128;
/// Longest time to live: ten years.
pub const TTL_MAX: Duration = Duration::from_secs(3660 * 24 * 3600);
/// What an entry counts beside its key, value and tags: about what its rows take.
const ENTRY_OVERHEAD_BYTES: usize = 64;

/// What memory may hold for one account, its agents included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Most entries.
    pub entries: u64,
    /// Most bytes of keys, values and tags.
    pub bytes: u64,
}

/// Bounds of the whole store.
#[derive(Debug, Clone, Copy)]
pub struct MemoryLimits {
    /// What all accounts together may have.
    pub total: Quota,
    /// Commands that wait for the writer.
    pub queue_len_max: usize,
    /// Bytes of what they write.
    pub queue_bytes_max: usize,
}

impl Quota {
    /// Without a bound of its own.
    pub const UNLIMITED: Self = Self {
        entries: u64::MAX,
        bytes: u64::MAX,
    };

    /// Returns what a plan gives.
    pub const fn of(plan: Plan) -> Self {
        match plan {
            Plan::Explorer => Self {
                entries: 10_000,
                bytes: 64 << 20,
            },
            Plan::Builder => Self {
                entries: 1_000_000,
                bytes: 4 << 30,
            },
            // What the whole node has, and for plans to come until somebody decides.
            _ => Self::UNLIMITED,
        }
    }
}

impl Default for MemoryLimits {
    fn default() -> Self {
        Self {
            total: Quota::UNLIMITED,
            queue_len_max: 16_384,
            queue_bytes_max: 256 << 20,
        }
    }
}

/// Returns what an entry counts.
pub(super) fn bytes_of(key: &str, value: &str, tags: &[String]) -> u64 {
    let tags: usize = tags.iter().map(String::len).sum();
    let bytes = key.len() + value.len() + tags + ENTRY_OVERHEAD_BYTES;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Checks a key.
///
/// # Errors
/// What is wrong with it.
pub fn check_key(key: &str) -> Result<(), MemoryError> {
    check_text("key", key, KEY_BYTES_MAX)
}

/// Checks a `task_id` or `session_id`.
///
/// # Errors
/// What is wrong with it.
pub fn check_scope_name(field: &'static str, name: &str) -> Result<(), MemoryError> {
    check_text(field, name, SCOPE_NAME_BYTES_MAX)
}

/// Checks tags, and drops those that stand twice.
///
/// # Errors
/// What is wrong with them.
pub fn check_tags(mut tags: Vec<String>) -> Result<Vec<String>, MemoryError> {
    if tags.len() > TAGS_MAX {
        return Err(invalid("tags", format!("must be at most {TAGS_MAX}")));
    }
    for tag in &tags {
        check_text("tags", tag, TAG_BYTES_MAX)?;
    }
    tags.sort_unstable();
    tags.dedup();
    Ok(tags)
}

/// Checks the JSON text of a value.
///
/// # Errors
/// It is too large.
pub fn check_value(value: &str) -> Result<(), MemoryError> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(MemoryError::ValueTooLarge { bytes: value.len() });
    }
    Ok(())
}

fn check_text(field: &'static str, text: &str, bytes_max: usize) -> Result<(), MemoryError> {
    if text.is_empty() || text.len() > bytes_max {
        return Err(invalid(field, format!("must have 1 to {bytes_max} bytes")));
    }
    if text.chars().any(char::is_control) {
        let message = "must not have control characters";
        return Err(invalid(field, message.into()));
    }
    Ok(())
}

fn invalid(field: &'static str, message: String) -> MemoryError {
    MemoryError::Invalid { field, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_tags_are_bounded() {
        assert!(check_key(&"k".repeat(KEY_BYTES_MAX)).is_ok());
        assert!(check_key("\u{1f4da} of b\u{fc}cher/1").is_ok());
        for bad in ["", "a\nb", "a\0", "\u{85}", &"\u{e4}".repeat(257)] {
            assert!(check_key(bad).is_err(), "{bad:?}");
        }
        let tags = |count: usize| (0..count).map(|number| number.to_string()).collect();
        assert_eq!(check_tags(tags(TAGS_MAX)).unwrap().len(), TAGS_MAX);
        assert!(check_tags(tags(TAGS_MAX + 1)).is_err());
        assert!(check_tags(vec!["t".repeat(TAG_BYTES_MAX + 1)]).is_err());
        let twice = check_tags(vec!["b".into(), "a".into(), "b".into()]);
        assert_eq!(twice.unwrap(), ["a", "b"]);
    }

    #[test]
    fn a_value_of_the_largest_size_fits_and_one_byte_more_does_not() {
        assert!(check_value(&"1".repeat(VALUE_BYTES_MAX)).is_ok());
        assert!(check_value(&"1".repeat(VALUE_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn plans_grow() {
        for pair in Plan::ALL.windows(2) {
            let (small, large) = (Quota::of(pair[0]), Quota::of(pair[1]));
            assert!(small.entries < large.entries && small.bytes < large.bytes);
        }
    }
}
