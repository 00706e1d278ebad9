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
