//! A permit that goes with an answer: until its last byte is handed over, or its client is gone.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    response::Response,
};
use hyper::body::{Frame, SizeHint};

use crate::services::Permit;

/// A body that holds a permit.
struct HeldBody {
    body: Body,
    permit: Option<Permit>,
}

/// Keeps a permit until an answer has ended.
pub(super) fn hold_until_end(response: Response, permit: Permit) -> Response {
    if permit.is_unlimited() || response.body().is_end_stream() {
        return response;
    }
    response.map(|body| {
        Body::new(HeldBody {
            body,
            permit: Some(permit),
        })
    })
}

impl HttpBody for HeldBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        let is_last = match &polled {
            Poll::Ready(Some(Ok(_))) => self.body.is_end_stream(),
            Poll::Ready(_) => true,
            Poll::Pending => false,
        };
        if is_last {
            // Before the client gets to read it: the next request may come at once.
            self.permit = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
