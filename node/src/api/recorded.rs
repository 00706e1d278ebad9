//! Work that is done once, to its end, whatever becomes of its client.
//!
//! A task of its own reserves the row, runs the handler and passes its answer on, keeping a copy.
//! A client that hangs up misses what is left of the answer; the work goes on, within the limits
//! of its service, is charged, and the copy waits for whoever asks again. The last frame of a
//! stream, or the head of an answer that has none, is held back until the copy is durable.
//!
//! Refusals that may pass with time, failures and streams that ended in an error are not kept. Nor
//! are they forgotten if the ledger says that something was charged: that is not charged again.
//!
//! Bounds: requests at once, bytes of one copy ([`crate::answers::AnswerLimits`]) and of all that
//! are being made. An answer beyond them is passed on, and only noted as done.

use std::{
    any::Any,
    convert::Infallible,
    io,
    panic::{AssertUnwindSafe, resume_unwind},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use axum::{
    body::{Body, BodyDataStream, Bytes, HttpBody, to_bytes},
    extract::{FromRequestParts, Request},
    http::{HeaderMap, HeaderName, StatusCode, header, request::Parts},
    middleware::Next,
    response::Response,
};
use bytes::BytesMut;
use futures_util::{FutureExt, StreamExt, poll};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tracing::Instrument;

use super::{
    ApiError, ApiState,
    error::{Place, overloaded, shape},
    idempotency::{Keeping, answer_to},
    permit::hold_until_end,
    request_id::{RequestId, X_REQUEST_ID},
    stream::StreamBroken,
};
use crate::{
    answers::{Asked, Claim, KeptAnswer},
    billing::{self, Settled},
    services::{Permit, calls::request_settled},
};

/// Requests with keys at once; further ones are refused.
const REQUESTS_MAX: usize = 1024;
/// Bytes of all copies that are being made.
const COPIES_BYTES_MAX: usize = 256 << 20;
/// Frames that wait for a slow client.
const FRAMES_WAITING_MAX: usize = 16;
/// Headers that belong to one exchange, not to the answer.
const NOT_KEPT: [HeaderName; 6] = [
    X_REQUEST_ID,
    header::DATE,
    header::SET_COOKIE,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
];

/// What requests with keys may hold of the machine.
#[derive(Debug)]
pub(super) struct Budget {
    places: Arc<Semaphore>,
    bytes: Arc<AtomicUsize>,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(REQUESTS_MAX)),
            bytes: Arc::default(),
        }
    }
}

impl Budget {
    /// Takes a place for a request.
    ///
    /// # Errors
    /// None is free.
    pub(super) fn place(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        place.map_err(|_none| overloaded("too many requests with an Idempotency-Key at once"))
    }
}

/// A request that is to be done once.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) state: ApiState,
    pub(super) asked: Asked,
    pub(super) keeping: Keeping,
    pub(super) permit: Permit,
    pub(super) place: OwnedSemaphorePermit,
}

/// Has a task do the work, and returns its answer as soon as that may be seen.
pub(super) async fn run(work: Work, request: Request, next: Next) -> Result<Response, ApiError> {
    let (head, answer) = oneshot::channel();
    let tasks = work.state.tasks.clone();
    let task = work.run(request, next, head).in_current_span();
    let task = tasks.spawn(task);
    match answer.await {
        Ok(answer) => answer,
        Err(_none) => match task.await {
            // The layer for panics sees it as one of its own.
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            _ => Err(ApiError::internal("a request ended without an answer")),
        },
    }
}

type Head = oneshot::Sender<Result<Response, ApiError>>;
type Panic = Box<dyn Any + Send>;

impl Work {
    async fn run(self, mut request: Request, next: Next, head: Head) {
        let begun = self.state.answers.begin(self.asked, billing::now().0);
        // Whether the client still waits does not matter: `send` may fail.
        let claim = match begun.await {
            Ok(Ok(claim)) => claim,
            Ok(Err(seen)) => return drop(head.send(answer_to(seen, self.keeping))),
            Err(error) => return drop(head.send(Err(error.into()))),
        };
        request.extensions_mut().insert(claim.operation());
        let (parts, body) = request.into_parts();
        let place = place_of(&parts).await;
        let request = Request::from_parts(parts, body);
        let Self {
            state,
            keeping,
            permit,
            place: _held,
            ..
        } = self;
        let recorder = Recorder {
            state,
            keeping,
            claim,
        };
        match AssertUnwindSafe(next.run(request)).catch_unwind().await {
            Ok(answer) => {
                let answer = hold_until_end(answer, permit);
                recorder.record(answer, &place, head).await;
            }
            Err(panic) => {
                recorder.give_back().await;
                drop(head);
                resume_unwind(panic);
            }
        }
    }
}

async fn place_of(parts: &Parts) -> Place {
    let mut parts = parts.clone();
    let Ok(RequestId(request_id)): Result<_, Infallible> =
        RequestId::from_request_parts(&mut parts, &()).await;
    Place {
        path: parts.uri.path().to_owned(),
        method: parts.method,
        request_id,
    }
}

/// Keeps what came of a claim.
struct Recorder {
    state: ApiState,
    keeping: Keeping,
    claim: Claim,
}

impl Recorder {
    async fn record(self, mut answer: Response, place: &Place, head: Head) {
        if !is_kept(answer.status()) {
            self.give_back().await;
            return drop(head.send(Ok(answer)));
        }
        if answer.status().is_client_error() {
            answer = shape(answer, place);
        }
        let (parts, body) = answer.into_parts();
        let kept = KeptAnswer {
            status: parts.status.as_u16(),
            headers: headers_of(&parts.headers),
            body: Bytes::new(),
        };
        if body.size_hint().exact().is_some() {
            let answer = match to_bytes(body, usize::MAX).await {
                Ok(body) => {
                    let bytes_max = self.state.answers.limits().answer_bytes_max;
                    let copy = (body.len() <= bytes_max).then(|| body.clone());
                    self.keep(kept, copy).await;
                    Ok(Response::from_parts(parts, Body::from(body)))
                }
                Err(error) => {
                    self.give_back().await;
                    Err(ApiError::internal(error.to_string()))
                }
            };
            return drop(head.send(answer));
        }
        let broken = parts.extensions.get::<StreamBroken>().cloned();
        let (sender, receiver) = mpsc::channel(FRAMES_WAITING_MAX);
        let passed_on = Body::from_stream(ReceiverStream::new(receiver));
        drop(head.send(Ok(Response::from_parts(parts, passed_on))));
        let mut pump = Pump {
            client: Some(sender),
            copy: BodyCopy::new(&self.state),
        };
        let last = AssertUnwindSafe(pump.run(body.into_data_stream()));
        let last = last.catch_unwind().await;
        let is_broken = broken.is_some_and(|broken| broken.is_set());
        self.finish(last, is_broken, kept, pump).await;
    }

    /// Ends a stream: first the row, then what the client gets to see of it.
    async fn finish(
        self,
        last: Result<Result<Option<Bytes>, axum::Error>, Panic>,
        is_broken: bool,
        kept: KeptAnswer,
        pump: Pump,
    ) {
        let Pump { mut client, copy } = pump;
        match last {
            Ok(Ok(last)) => {
                match is_broken {
                    true => self.give_back().await,
                    false => self.keep(kept, copy.into_bytes()).await,
                }
                if let Some(last) = last {
                    pass_on(&mut client, Ok(last)).await;
                }
            }
            Ok(Err(error)) => {
                self.give_back().await;
                pass_on(&mut client, Err(io::Error::other(error))).await;
            }
            Err(panic) => {
                self.give_back().await;
                let error = io::Error::other("the answer broke off");
                pass_on(&mut client, Err(error)).await;
                resume_unwind(panic);
            }
        }
    }

    async fn keep(self, kept: KeptAnswer, copy: Option<Bytes>) {
        let now_ms = billing::now().0;
        let is_secret = self.keeping == Keeping::Fact && kept.status < 400;
        let ended = match copy {
            Some(body) if !is_secret => {
                self.claim
                    .answered(KeptAnswer { body, ..kept }, now_ms)
                    .await
            }
            _ => self.claim.done(now_ms).await,
        };
        if let Err(error) = ended {
            // The work is done, and its client shall have the answer. A repeat is refused until
            // the next start, which asks the ledger.
            tracing::warn!(%error, "an answer was given that is not kept");
        }
    }

    /// Ends the row so that the request can be made again, without a second charge.
    async fn give_back(self) {
        let id = self.claim.operation().id;
        let settled = request_settled(&self.state.billing, id).await;
        let charged = match settled {
            Ok(Settled::Never) => None,
            Ok(Settled::Charged(amount)) => Some(amount),
            // Left in flight: the next start knows more.
            Ok(Settled::Open) => return tracing::warn!("a failed request is not settled"),
            Err(error) => return tracing::warn!(%error, "a failed request is not settled"),
        };
        if let Err(error) = self.claim.release(charged, billing::now().0).await {
            tracing::warn!(%error, "the key of a failed request stays taken");
        }
    }
}

/// Returns whether the first answer of this status is everybody's. Those that are not may be
/// otherwise a moment later, with nothing changed about the request.
fn is_kept(status: StatusCode) -> bool {
    let may_pass = matches!(status.as_u16(), 401 | 402 | 403 | 409 | 429);
    !status.is_server_error() && !may_pass
}

fn headers_of(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let kept = headers.iter().filter(|(name, _)| !NOT_KEPT.contains(name));
    let kept = kept.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
    kept.collect()
}

/// A copy of a body, as long as it is within bounds.
struct BodyCopy {
    bytes: Option<BytesMut>,
    len_max: usize,
    /// Of all copies.
    total: Arc<AtomicUsize>,
}

impl BodyCopy {
    fn new(state: &ApiState) -> Self {
        Self {
            bytes: Some(BytesMut::new()),
            len_max: state.answers.limits().answer_bytes_max,
            total: Arc::clone(&state.recording.bytes),
        }
    }

    fn add(&mut self, chunk: &[u8]) {
        let Some(bytes) = &mut self.bytes else {
            return;
        };
        let total = self.total.fetch_add(chunk.len(), Ordering::Relaxed) + chunk.len();
        bytes.extend_from_slice(chunk);
        if bytes.len() > self.len_max || total > COPIES_BYTES_MAX {
            self.give_up();
        }
    }

    fn into_bytes(mut self) -> Option<Bytes> {
        let bytes = self.bytes.take()?;
        self.total.fetch_sub(bytes.len(), Ordering::Relaxed);
        Some(bytes.freeze())
    }

    fn give_up(&mut self) {
        if let Some(bytes) = self.bytes.take() {
            self.total.fetch_sub(bytes.len(), Ordering::Relaxed);
        }
    }
}

impl Drop for BodyCopy {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// Passes a stream on to a client, as long as there is one.
struct Pump {
    client: Option<mpsc::Sender<io::Result<Bytes>>>,
    copy: BodyCopy,
}

impl Pump {
    /// Returns the last chunk, which the client does not have yet.
    async fn run(&mut self, mut chunks: BodyDataStream) -> Result<Option<Bytes>, axum::Error> {
        let mut held: Option<Bytes> = None;
        loop {
            // A chunk waits only if what follows it is here already: its end, if it is the last.
            let next = match poll!(pin!(chunks.next())) {
                Poll::Ready(next) => next,
                Poll::Pending => {
                    if let Some(chunk) = held.take() {
                        pass_on(&mut self.client, Ok(chunk)).await;
                    }
                    chunks.next().await
                }
            };
            let Some(chunk) = next.transpose()? else {
                return Ok(held);
            };
            self.copy.add(&chunk);
            if let Some(before) = held.replace(chunk) {
                pass_on(&mut self.client, Ok(before)).await;
            }
        }
    }
}

async fn pass_on(client: &mut Option<mpsc::Sender<io::Result<Bytes>>>, chunk: io::Result<Bytes>) {
    if let Some(sender) = client
        && sender.send(chunk).await.is_err()
    {
        *client = None;
    }
}
