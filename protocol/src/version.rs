//! The only home of versioned names: formats, and the domains that keep keys and hashes apart.
//!
//! A name is bound to one construction for ever. What changes gets a new name beside the old one,
//! and the old one is retired, never used for something else.

/// First byte of a capability token: the only version so far.
pub const CAPABILITY_TOKEN: u8 = 1;

/// What a root key authenticates to become the key of capability tokens.
pub const CAPABILITY_TOKEN_KEY_DOMAIN: &[u8] = b"aither capability token v1";

/// What is hashed before a chain's MAC to name an allowance.
pub const CAPABILITY_ALLOWANCE_DOMAIN: &[u8] = b"aither capability allowance v1";

/// The agent spec that cards, `aither-agent.yaml` and discovery documents follow.
pub const AGENT_SPEC: &str = "aitheros-agent-spec/3.0";
