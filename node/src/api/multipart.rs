//! Bodies in several parts (`multipart/form-data`), read as they come.
//!
//! The parser keeps what it cannot tell yet, and would keep whatever comes at once. What it is
//! handed is paced: a piece at a time, and no further than [`AHEAD_BYTES_MAX`] beyond what was
//! taken out of it. So a part of any size takes little memory, and one that is all headers is
//! refused.

use std::{
    mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use aither_protocol::ErrorCode;
use axum::{
    body::{Body, BodyDataStream, Bytes},
    extract::{
        FromRequest, Multipart, Request,
        multipart::{Field, MultipartError},
    },
    http::header,
};
use futures_util::Stream;
use tokio::time::Instant;

use super::{ApiError, ApiState};

/// Parts of a body.
const PARTS_MAX: usize = 16;
/// Bytes that the parser may hold beside the piece that comes: headers of parts, and boundaries.
const AHEAD_BYTES_MAX: u64 = 256 << 10;
/// Bytes that the parser is handed at once.
const PIECE_BYTES_MAX: usize = 64 << 10;
/// Bytes of a part that nobody reads.
const SKIPPED_BYTES_MAX: usize = 64 << 20;
/// What is read on of a body that was refused, so that the client gets to read why.
const EXCESS_BYTES_MAX: u64 = 512 << 20;
/// Time for that.
const EXCESS_TIME_MAX: Duration = Duration::from_secs(5);

/// A body in several parts.
#[derive(Debug)]
pub(super) struct Form {
    parts: Multipart,
    consumed: Arc<AtomicU64>,
    patience: Patience,
    count: usize,
    announced: u64,
}

/// A part of a body.
#[derive(Debug)]
pub(super) struct Part<'a> {
    field: Field<'a>,
    consumed: &'a AtomicU64,
    patience: Patience,
}

/// How long a body is waited for.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// Longest wait for the next piece.
    piece: Duration,
    /// When all of it must have come.
    whole: Instant,
}

/// A body a piece at a time.
struct Paced {
    body: BodyDataStream,
    /// What has come and was not handed over.
    rest: Bytes,
    handed_over: u64,
    consumed: Arc<AtomicU64>,
    is_resting: bool,
}

/// What ends a body that the parser does not get on with.
#[derive(Debug, thiserror::Error)]
#[error("a part's headers are too large")]
struct TooFarAhead;

/// Returns whether a request says that its body has several parts.
pub(super) fn is_multipart(request: &Request) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.trim_start()
        .to_ascii_lowercase()
        .starts_with("multipart/form-data")
}

impl Form {
    /// Begins to read a body, which must have come within `time_max`.
    pub(super) async fn of(
        request: Request,
        state: &ApiState,
        time_max: Duration,
    ) -> Result<Self, ApiError> {
        if !is_multipart(&request) {
            let words = "the body must be multipart/form-data";
            return Err(ApiError::new(ErrorCode::UnsupportedMediaType, words));
        }
        let announced = request.headers().get(header::CONTENT_LENGTH);
        let announced = announced.and_then(|len| len.to_str().ok()?.parse().ok());
        let consumed = Arc::new(AtomicU64::new(0));
        let request = request.map(|body| {
            Body::from_stream(Paced {
                body: body.into_data_stream(),
                rest: Bytes::new(),
                handed_over: 0,
                consumed: Arc::clone(&consumed),
                is_resting: false,
            })
        });
        let parts = Multipart::from_request(request, state).await;
        Ok(Self {
            parts: parts
                .map_err(|error| ApiError::new(ErrorCode::InvalidRequest, error.body_text()))?,
            consumed,
            patience: Patience {
                piece: state.http.request_timeout,
                whole: Instant::now() + time_max,
            },
            count: 0,
            announced: announced.unwrap_or_default(),
        })
    }

    /// Returns how many bytes the whole body is said to have; 0 where that is not said.
    pub(super) fn announced(&self) -> u64 {
        self.announced
    }

    /// Returns the next part. Of the one before little may be left unread.
    pub(super) async fn next(&mut self) -> Result<Option<Part<'_>>, ApiError> {
        self.count += 1;
        if PARTS_MAX < self.count {
            let words = format!("the body has more than {PARTS_MAX} parts");
            return Err(ApiError::new(ErrorCode::InvalidRequest, words));
        }
        let field = in_time(self.patience, self.parts.next_field()).await?;
        Ok(field.map(|field| Part {
            field,
            consumed: &self.consumed,
            patience: self.patience,
        }))
    }

    /// Reads on for a moment where the body was refused before its end.
    pub(super) async fn drain(mut self) {
        self.consumed.fetch_add(EXCESS_BYTES_MAX, Ordering::Relaxed);
        let rest = async { while let Ok(Some(_)) = self.parts.next_field().await {} };
        // Whether all of it came does not matter: the answer is the same.
        let _ = tokio::time::timeout(EXCESS_TIME_MAX, rest).await;
    }
}

impl Part<'_> {
    /// Returns the part's name.
    pub(super) fn name(&self) -> &str {
        self.field.name().unwrap_or_default()
    }

    /// Returns the name of the file that was sent.
    pub(super) fn file_name(&self) -> Option<&str> {
        self.field.file_name()
    }

    /// Returns the media type that the part says it has.
    pub(super) fn content_type(&self) -> Option<&str> {
        self.field.content_type()
    }

    /// Returns the next piece.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, ApiError> {
        let chunk = in_time(self.patience, self.field.chunk()).await?;
        if let Some(chunk) = &chunk {
            let len = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            self.consumed.fetch_add(len, Ordering::Relaxed);
        }
        Ok(chunk)
    }

    /// Reads a part that nobody wants: the parser would hold it all at once otherwise.
    pub(super) async fn skip(mut self) -> Result<(), ApiError> {
        let mut skipped = 0;
        while let Some(chunk) = self.chunk().await? {
            skipped += chunk.len();
            if SKIPPED_BYTES_MAX < skipped {
                let name = self.name();
                let words = format!(
                    "the part {name:?} is not known here, and larger than {SKIPPED_BYTES_MAX} bytes"
                );
                return Err(ApiError::new(ErrorCode::PayloadTooLarge, words));
            }
        }
        Ok(())
    }

    /// Returns a small part as a whole.
    pub(super) async fn whole(&mut self, bytes_max: usize) -> Result<Vec<u8>, ApiError> {
        let mut whole = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if bytes_max - whole.len() < chunk.len() {
                let words = format!("{:?} is larger than {bytes_max} bytes", self.name());
                return Err(ApiError::new(ErrorCode::PayloadTooLarge, words));
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole)
    }
}

async fn in_time<T>(
    patience: Patience,
    coming: impl Future<Output = Result<T, MultipartError>>,
) -> Result<T, ApiError> {
    let until = patience.whole.min(Instant::now() + patience.piece);
    let come = tokio::time::timeout_at(until, coming).await;
    let come = come.map_err(|_elapsed| {
        let words = "the request's body did not arrive in time";
        ApiError::new(ErrorCode::TimedOut, words)
    })?;
    come.map_err(|error| {
        let words = format!("the body is no multipart/form-data: {}", error.body_text());
        ApiError::new(ErrorCode::InvalidRequest, words)
    })
}

impl Stream for Paced {
    type Item = Result<Bytes, axum::BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if mem::take(&mut self.is_resting) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let ahead = self.consumed.load(Ordering::Relaxed);
        if AHEAD_BYTES_MAX < self.handed_over.saturating_sub(ahead) {
            return Poll::Ready(Some(Err(Box::new(TooFarAhead))));
        }
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_next(cx)) {
                Some(Ok(chunk)) => self.rest = chunk,
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => return Poll::Ready(None),
            }
        }
        let len = self.rest.len().min(PIECE_BYTES_MAX);
        let piece = self.rest.split_to(len);
        self.handed_over += u64::try_from(len).unwrap_or(u64::MAX);
        self.is_resting = true;
        Poll::Ready(Some(Ok(piece)))
    }
}
