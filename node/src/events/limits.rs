//! The bounds of events.

use std::time::Duration;

use super::EventError;

/// Longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 256;
/// Most segments of a name or a pattern.
pub const SEGMENTS_MAX: usize = 16;
/// Most patterns that one subscription may have.
pub const PATTERNS_MAX: usize = 32;
/// Longest JSON of an event.
pub const DATA_BYTES_MAX: usize = 64 << 10;
/// How deep it may be nested. Whoever follows reads it, also with a parser that recurses.
pub const DATA_DEPTH_MAX: usize = 64;

/// Events that are kept in memory for those who follow; whoever is further behind reads the file.
pub const RECENT_LEN_MAX: usize = 1 << 16;
/// What they may take together.
pub const RECENT_BYTES_MAX: usize = 16 << 20;
/// How far somebody who follows may fall behind, in events and in what they take, before it is cut
/// off. Well beyond what a burst brings: nobody cuts others off who listen.
pub const BEHIND_LEN_MAX: u64 = 1 << 18;
pub const BEHIND_BYTES_MAX: u64 = 128 << 20;
/// Rows of the file that one look at it goes over.
pub const SCANNED_MAX: usize = 4096;
/// Events that somebody is handed at once, unless they are large.
pub const HANDED_LEN_MAX: usize = 512;
/// What events that somebody is handed at once may take, but for the last of them.
pub const HANDED_BYTES_MAX: usize = 256 << 10;

/// What a page of an agent's events may take, but for the last of them.
pub const AGENT_PAGE_BYTES_MAX: usize = 1 << 20;

/// How much of events is kept, and how much may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// What the rows of the log may take.
    pub bytes_max: u64,
    /// How old an event may be.
    pub age_max: Duration,
    /// Events that may wait to be written.
    pub queue_len_max: usize,
    /// What their texts may take.
    pub queue_bytes_max: usize,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self {
            bytes_max: 1 << 30,
            age_max: Duration::from_secs(30 * 24 * 3600),
            queue_len_max: 1 << 14,
            queue_bytes_max: 64 << 20,
        }
    }
}

/// Checks JSON that is well-formed otherwise, and returns it in one line.
///
/// # Errors
/// It is too large, or nested too deep.
pub fn check_data(json: &str) -> Result<String, EventError> {
    if json.len() > DATA_BYTES_MAX {
        return Err(EventError::DataTooLarge { bytes: json.len() });
    }
    let (mut depth, mut in_text, mut is_escaped) = (0_usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_text => is_escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => depth += 1,
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DATA_DEPTH_MAX {
            let message = format!("must be nested at most {DATA_DEPTH_MAX} deep");
            return Err(EventError::Invalid {
                field: "data",
                message,
            });
        }
    }
    // Line breaks within a text are written as escapes, so these are between values.
    Ok(json.replace(['\n', '\r'], " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_bounded_and_comes_in_one_line() {
        let broken = "{\"a\":\r\n [1,\n \"\\n ]]\\\"[\"]}";
        let line = check_data(broken).unwrap();
        assert!(!line.contains(['\n', '\r']));
        let same: serde_json::Value = serde_json::from_str(broken).unwrap();
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&line).unwrap(),
            same
        );
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(check_data(&nested(DATA_DEPTH_MAX)).is_ok());
        assert!(check_data(&nested(DATA_DEPTH_MAX + 1)).is_err());
        // Brackets of a text are no nesting.
        assert!(check_data(&format!("\"{}\"", "[".repeat(1000))).is_ok());
        let text = |len: usize| format!("\"{}\"", "x".repeat(len - 2));
        assert!(check_data(&text(DATA_BYTES_MAX)).is_ok());
        let large = check_data(&text(DATA_BYTES_MAX + 1)).unwrap_err();
        assert_eq!(large.code(), aither_protocol::ErrorCode::PayloadTooLarge);
    }
}
