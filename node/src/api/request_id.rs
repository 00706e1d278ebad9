//! One id per request, in its answer and in the log.
//!
//! A client may bring its own in `x-request-id`; one that is too long or not printable is
//! replaced, so that it cannot forge a line of the log.

use std::convert::Infallible;

use aither_protocol::limits::REQUEST_ID_BYTES_MAX;
use axum::{
    extract::{FromRequestParts, Request},
    http::{HeaderName, HeaderValue, request::Parts},
    middleware::Next,
    response::Response,
};

/// The header, both ways.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of the request at hand.
#[derive(Debug, Clone)]
pub(super) struct RequestId(pub(super) String);

impl<S: Sync> FromRequestParts<S> for RequestId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        // The outermost middleware has set it; a router without that still gets an id.
        let id = parts.extensions.get::<Self>().cloned();
        Ok(id.unwrap_or_else(|| Self(ulid::Ulid::generate().to_string())))
    }
}

/// Takes the client's id or makes one, and puts it on the answer.
pub(super) async fn assign_request_id(mut request: Request, next: Next) -> Response {
    let given = request
        .headers()
        .get(X_REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|id| is_acceptable(id));
    let id = given.map_or_else(|| ulid::Ulid::generate().to_string(), str::to_owned);
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = next.run(request).await;
    if let Ok(value) = HeaderValue::try_from(id) {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    response
}

fn is_acceptable(id: &str) -> bool {
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_short_printable_ids_are_echoed() {
        assert!(is_acceptable("req-1"));
        for id in ["", "a b", "a\n", "é", &"a".repeat(REQUEST_ID_BYTES_MAX + 1)] {
            assert!(!is_acceptable(id), "{id:?}");
        }
    }
}
