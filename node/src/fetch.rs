//! What may be fetched from elsewhere on behalf of others: the rules, without I/O.
//!
//! [`AllowList`] says which addresses the operator permits, [`Outgoing`] is a request that was
//! checked, and [`Outgoing::redirected`] what it becomes after a redirect, which is checked as if
//! the caller had written it. [`crate::services::FetchService`] sends it.

mod allow;
mod error;
mod outgoing;

pub use self::{
    allow::{AllowList, AllowRuleError, Permission, without_query},
    error::FetchError,
    outgoing::{Outgoing, OutgoingHeaders},
};

use std::time::Duration;

/// Addresses that a configuration can allow.
pub const RULES_MAX: usize = 1000;
/// Longest address, as browsers and servers have it.
pub const URL_BYTES_MAX: usize = 8 << 10;
/// Redirects that are followed.
pub const REDIRECTS_MAX: usize = 5;
/// Headers of a request.
pub const HEADERS_MAX: usize = 64;
/// Bytes of their names and values together, and of those of an answer.
pub const HEADER_BYTES_MAX: usize = 16 << 10;
/// Bytes of a request's body.
pub const BODY_BYTES_MAX: usize = 2 << 20;
/// Bytes that are read of an answer's body where the request does not say how many.
pub const ANSWER_BYTES_DEFAULT: usize = 1 << 20;
/// Most of them.
pub const ANSWER_BYTES_MAX: usize = 8 << 20;
/// Time for all of it, redirects included, where the request does not say how much.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(20);
/// Most of it.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(60);
