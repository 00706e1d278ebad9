//! Caps on what a caller can send, in one table.
//!
//! Each is checked before the thing it bounds is parsed or stored. Limits that an operator may
//! want to move are configuration instead; the ones here are part of the interface.

/// Longest model name, in bytes: room for `host/namespace/model:tag`.
pub const MODEL_NAME_BYTES_MAX: usize = 128;

/// Longest name of a node, in bytes.
pub const NODE_NAME_BYTES_MAX: usize = 64;

/// Most messages in one conversation.
pub const CHAT_MESSAGES_MAX: usize = 4096;

/// Longest client-made request id that is echoed, in bytes.
pub const REQUEST_ID_BYTES_MAX: usize = 128;

/// Longest e-mail address, in bytes (RFC 5321: a path is 256 with its brackets).
pub const EMAIL_BYTES_MAX: usize = 254;

/// Lengths that a password can have, in bytes. The upper one bounds what hashing reads.
pub const PASSWORD_BYTES: std::ops::RangeInclusive<usize> = 8..=1024;

/// Most entries of a list in one answer, and how many come unasked.
pub const PAGE_ITEMS_MAX: usize = 500;
/// See [`PAGE_ITEMS_MAX`].
pub const PAGE_ITEMS_DEFAULT: usize = 50;

/// Longest text of a capability token, in bytes: with its header it fits the 8 KiB that most
/// servers and proxies give a request's head.
pub const CAPABILITY_TOKEN_BYTES_MAX: usize = 4096;

/// Most caveats of a capability token.
pub const CAPABILITY_CAVEATS_MAX: usize = 32;

/// Most allowances of a capability token. Each payment is held against every one of them.
pub const CAPABILITY_ALLOWANCES_MAX: usize = 8;

/// Longest name of a sub-agent in a capability token, in bytes.
pub const CAPABILITY_AGENT_BYTES_MAX: usize = 64;

/// Most skills that one caveat lists.
pub const CAPABILITY_SKILLS_MAX: usize = 64;

/// Longest skill id that a caveat lists, in bytes.
pub const CAPABILITY_SKILL_BYTES_MAX: usize = 64;

/// Longest prefix of memory keys that a caveat demands, in bytes.
pub const CAPABILITY_KEY_PREFIX_BYTES_MAX: usize = 512;
