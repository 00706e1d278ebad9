//! Feeds the readers of agent cards with arbitrary text, as JSON and as YAML.
//!
//! A card may be refused, in bounded words; it must not panic, hang or allocate beyond a multiple
//! of its size (run with `-rss_limit_mb`). An accepted one is read back from its own JSON as the
//! same card.

#![no_main]

use aither_protocol::{
    AgentCard,
    agent_card::{FieldError, unknown_fields},
    limits,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    check(AgentCard::from_yaml(text));
    assert!(unknown_fields(text).len() <= limits::FIELD_ERRORS_MAX);
    if let Ok(json) = serde_json::from_str(text) {
        check(AgentCard::from_json(&json));
    }
});

fn check(read: Result<AgentCard, Vec<FieldError>>) {
    match read {
        Ok(card) => {
            let again = AgentCard::from_json(&card.to_json());
            assert_eq!(again.expect("what was accepted is accepted again"), card);
        }
        Err(errors) => assert!((1..=limits::FIELD_ERRORS_MAX).contains(&errors.len())),
    }
}
