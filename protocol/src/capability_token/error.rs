//! Why a capability token is refused.
//!
//! The reasons are for whoever made or holds the token. None of them depends on a secret: a forged
//! MAC is one reason, wherever the chain was broken.

use crate::{ErrorCode, limits};

/// What is wrong with a capability token, or with a caveat that was to go into one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CapabilityTokenError {
    /// Not the text of a capability token, or not its only encoding.
    #[error("malformed capability token: {0}")]
    Malformed(&'static str),
    /// Its text is too long.
    #[error(
        "the capability token is longer than {} bytes; ask for one with fewer caveats",
        limits::CAPABILITY_TOKEN_BYTES_MAX
    )]
    TooLong,
    /// It was narrowed too often.
    #[error(
        "a capability token holds at most {} caveats; ask for a new one",
        limits::CAPABILITY_CAVEATS_MAX
    )]
    TooManyCaveats,
    /// Its spending was bounded too often.
    #[error(
        "a capability token holds at most {} bounds on spending; narrow one further up",
        limits::CAPABILITY_ALLOWANCES_MAX
    )]
    TooManyAllowances,
    /// Made by a version of the node that this one does not know.
    #[error("capability token of version {0}, which this node does not read; update the node")]
    UnknownVersion(u8),
    /// It holds a caveat that this version cannot enforce.
    #[error("the capability token has a caveat of unknown kind {0}; update the node")]
    UnknownCaveat(u8),
    /// A caveat says something that it must not say.
    #[error("caveat `{kind}` {problem}")]
    InvalidCaveat {
        /// Which caveat.
        kind: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A caveat is larger than its limit.
    #[error("caveat `{0}` is too large")]
    BoundTooLarge(&'static str),
    /// Not minted with this root key, or changed other than by narrowing.
    #[error("the capability token is not of this node, or was changed")]
    Forged,
}

impl CapabilityTokenError {
    /// Returns the code for a request that brings such a token as its key.
    pub fn code(&self) -> ErrorCode {
        ErrorCode::Unauthorized
    }
}
