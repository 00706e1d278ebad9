//! The base URL under which a client reaches this node.
//!
//! Endpoints that an answer names must work from where it is read, so they begin with what the
//! client itself wrote: its `Host`, unless `http.public_url` is configured. A `Host` that is no
//! host is refused, since it would end up in documents.

use aither_protocol::ErrorCode;
use axum::{
    extract::FromRequestParts,
    http::{header, request::Parts},
};

use super::{ApiError, ApiState};

/// Longest `Host`: a name of the domain name system, and a port.
const HOST_BYTES_MAX: usize = 253 + 6;

/// A base URL without a slash at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BaseUrl(pub(super) String);

impl BaseUrl {
    /// Returns the absolute URL of a path.
    pub(super) fn join(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }
}

impl FromRequestParts<ApiState> for BaseUrl {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        if let Some(url) = &state.http.public_url {
            return Ok(Self(url.trim_end_matches('/').to_owned()));
        }
        let host = parts.headers.get(header::HOST);
        let host = host.and_then(|host| host.to_str().ok());
        // In the request line instead, as HTTP/1.1 also has it.
        let host = parts.uri.authority().map(|host| host.as_str()).or(host);
        host.filter(|host| is_host(host))
            .map(|host| Self(format!("http://{host}")))
            .ok_or_else(|| {
                let words = "the Host header must name this node as host or host:port";
                ApiError::new(ErrorCode::InvalidRequest, words)
            })
    }
}

/// Returns whether a text is made of what hosts and ports are made of.
fn is_host(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-._:[]%".contains(c);
    (1..=HOST_BYTES_MAX).contains(&text.len()) && text.chars().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_and_nothing_that_documents_would_show() {
        for host in [
            "localhost:8200",
            "[::1]:8200",
            "node.example.org",
            "10.0.0.1",
        ] {
            assert!(is_host(host), "{host}");
        }
        let long = "a".repeat(300);
        for host in [
            "",
            "a/b",
            "a b",
            "a\"",
            "a<b>",
            "user@host",
            "a\n",
            long.as_str(),
        ] {
            assert!(!is_host(host), "{host}");
        }
    }
}
