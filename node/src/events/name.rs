//! What events may be called, and which names are the node's own.

use std::sync::LazyLock;

use super::{
    EventError, Pattern,
    limits::{NAME_BYTES_MAX, SEGMENTS_MAX},
};

/// Names that the node gives to what it tells itself; nobody else may, so that whoever hears them
/// can rely on them.
const OWN: [&str; 6] = [
    "billing.**",
    "node.**",
    "federation.**",
    "agent.*.lifecycle",
    "agent.*.call.**",
    "system.**",
];
/// Those of them that the operator may emit.
const OPERATORS: &str = "system";
/// What a stream says of itself, in events without dots: a gap, and its end.
const OF_STREAMS: [&str; 3] = ["gap", "lagged", "closed"];

static OWN_PATTERNS: LazyLock<Vec<Pattern>> = LazyLock::new(|| {
    OWN.iter()
        .filter_map(|text| Pattern::parse(text).ok())
        .collect()
});

/// Checks the form of a name.
///
/// # Errors
/// It is empty, too long, or not of segments of letters, digits, `_` and `-`.
pub fn check_name(name: &str) -> Result<(), EventError> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(invalid(format!("must have 1 to {NAME_BYTES_MAX} bytes")));
    }
    if name.split('.').count() > SEGMENTS_MAX {
        return Err(invalid(format!(
            "must have at most {SEGMENTS_MAX} segments"
        )));
    }
    if !name.split('.').all(is_segment) {
        let message = "must be segments of letters, digits, \"_\" and \"-\" with dots between \
                       them, such as \"agent.chat.completed\"";
        return Err(invalid(message.to_owned()));
    }
    Ok(())
}

/// Checks that somebody may emit an event of a name whose form is right.
///
/// # Errors
/// It is one of the node's own.
pub fn check_may_emit(name: &str, is_operator: bool) -> Result<(), EventError> {
    if OF_STREAMS.contains(&name) {
        let message = format!("{name:?} is what streams call their own events; choose another");
        return Err(invalid(message));
    }
    let is_own = OWN_PATTERNS.iter().any(|own| own.matches(name));
    if !is_own || (is_operator && name.split('.').next() == Some(OPERATORS)) {
        return Ok(());
    }
    Err(invalid(format!(
        "{name:?} is a name that only this node gives to its own events ({}); choose another",
        OWN.join(", ")
    )))
}

/// Returns whether a part of a name is well-formed.
pub(super) fn is_segment(segment: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    !segment.is_empty() && segment.bytes().all(fits)
}

fn invalid(message: String) -> EventError {
    EventError::Invalid {
        field: "event",
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_segments_with_dots_between_them() {
        let long = "x".repeat(NAME_BYTES_MAX);
        let deep = vec!["a"; SEGMENTS_MAX].join(".");
        for good in ["a", "agent.chat.completed", "A-1_b.C", &long, &deep] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        let longer = format!("{long}x");
        let deeper = format!("{deep}.a");
        for bad in [
            "", ".", "a.", ".a", "a..b", "a b", "a\nb", "*", "a.*", "\u{e4}", "a/b", &longer,
            &deeper,
        ] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_nodes_own_names_are_its_own() {
        assert_eq!(OWN_PATTERNS.len(), OWN.len());
        let own = [
            "billing.charged",
            "billing",
            "node.started",
            "federation.a.b",
            "agent.x.lifecycle",
            "agent.x.call.completed",
            "agent.x.call",
            "agent.x.call.a.b",
        ];
        for name in own.into_iter().chain(OF_STREAMS) {
            assert!(check_may_emit(name, false).is_err(), "{name}");
            assert!(check_may_emit(name, true).is_err(), "{name}");
        }
        assert!(check_may_emit("system.health", false).is_err());
        assert!(check_may_emit("system.health", true).is_ok());
        for name in [
            "agent.chat.completed",
            "agent.lifecycle",
            "agent.x.lifecycle.more",
            "billings.x",
            "a.billing.charged",
            "systems",
        ] {
            assert!(check_may_emit(name, false).is_ok(), "{name}");
        }
    }
}
