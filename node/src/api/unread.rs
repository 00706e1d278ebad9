//! What a request still has to say when its answer is ready is read, if it is little.
//!
//! A request may be refused, or be answered, before its body was looked at. The connection can go
//! on only once the body is out of the way; if the body is still on its way then, the connection is
//! closed under a client that has just been told that it stays open. So the rest of a small body
//! is awaited, for a moment, before the answer. Large ones are not: whoever sends one without being
//! asked for it has the connection closed. Nor is one that the client asks leave to send
//! (`Expect: 100-continue`): to begin to read it is to say yes.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, HttpBody},
    extract::Request,
    http::header,
    middleware::Next,
    response::Response,
};
use bytes::Bytes;
use futures_util::StreamExt;
use hyper::body::{Frame, SizeHint};
use tokio::time::timeout;

/// Most bytes that are read for nothing.
const REST_BYTES_MAX: usize = 64 << 10;
/// Longest wait for them.
const REST_TIMEOUT: Duration = Duration::from_secs(1);

/// Where a body is put that nobody has read to its end.
type Slot = Arc<Mutex<Option<Body>>>;

/// A body that is put back when whoever had it lets go of it.
struct Lent {
    body: Option<Body>,
    slot: Slot,
}

/// Answers once what is left of the body is out of the way.
pub(super) async fn read_rest(request: Request, next: Next) -> Response {
    let body = request.body();
    let is_large = REST_BYTES_MAX < usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if body.is_end_stream() || is_large || request.headers().contains_key(header::EXPECT) {
        return next.run(request).await;
    }
    let slot = Slot::default();
    let lent_slot = Arc::clone(&slot);
    let request = request.map(|body| {
        Body::new(Lent {
            body: Some(body),
            slot: lent_slot,
        })
    });
    let response = next.run(request).await;
    let rest = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(rest) = rest {
        // What does not come in time, or is too much, closes the connection.
        let _ = timeout(REST_TIMEOUT, read(rest)).await;
    }
    response
}

async fn read(rest: Body) {
    let mut chunks = rest.into_data_stream();
    let mut read = 0;
    while let Some(Ok(chunk)) = chunks.next().await {
        read += chunk.len();
        if read > REST_BYTES_MAX {
            return;
        }
    }
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.body.as_ref().map(HttpBody::size_hint);
        hint.unwrap_or_else(|| SizeHint::with_exact(0))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let rest = self.body.take().filter(|body| !body.is_end_stream());
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = rest;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use axum::{Router, middleware, routing::post};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };
    use tower::ServiceExt;

    use super::*;

    async fn served() -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let refuse = async || axum::http::StatusCode::UNAUTHORIZED;
        let read_all = async |body: String| body.len().to_string();
        let router = Router::new()
            .route("/refuse", post(refuse))
            .route("/read", post(read_all))
            .layer(middleware::from_fn(read_rest));
        tokio::spawn(async move { axum_serve(listener, router).await });
        TcpStream::connect(address).await.unwrap()
    }

    async fn axum_serve(listener: TcpListener, router: Router) {
        let (stream, _) = listener.accept().await.unwrap();
        let service = hyper_util::service::TowerToHyperService::new(router);
        let io = hyper_util::rt::TokioIo::new(stream);
        let served = hyper::server::conn::http1::Builder::new().serve_connection(io, service);
        // A client that hangs up is no failure here.
        let _ = served.await;
    }

    fn head(path: &str, length: usize) -> String {
        format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n")
    }

    /// Reads an answer's status, and waits for its end.
    async fn status(stream: &mut TcpStream) -> Option<u16> {
        let mut answer = Vec::new();
        while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
            let mut chunk = [0; 1024];
            let read = stream
                .read(&mut chunk)
                .await
                .ok()
                .filter(|read| *read > 0)?;
            answer.extend_from_slice(&chunk[..read]);
        }
        let text = String::from_utf8(answer).unwrap();
        text.split(' ').nth(1)?.parse().ok()
    }

    #[tokio::test]
    async fn a_connection_outlives_a_request_whose_body_nobody_reads() {
        let mut stream = served().await;
        for _ in 0..20 {
            stream
                .write_all(head("/refuse", 5).as_bytes())
                .await
                .unwrap();
            // As many clients do, the body follows in a packet of its own.
            tokio::task::yield_now().await;
            stream.write_all(b"hello").await.unwrap();
            assert_eq!(status(&mut stream).await, Some(401));
        }
        stream.write_all(head("/read", 5).as_bytes()).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        assert_eq!(status(&mut stream).await, Some(200));
    }

    #[tokio::test]
    async fn nobody_is_told_to_send_what_is_refused() {
        let mut stream = served().await;
        let head = "POST /refuse HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n\
                    content-length: 5\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        assert_eq!(status(&mut stream).await, Some(401));
    }

    #[tokio::test]
    async fn a_large_body_is_refused_before_it_comes() {
        for (len, is_awaited) in [(REST_BYTES_MAX, true), (REST_BYTES_MAX + 1, false)] {
            let was_asked_for = Arc::new(AtomicBool::new(false));
            let body = Body::new(Ended {
                len: len as u64,
                was_asked_for: Arc::clone(&was_asked_for),
            });
            let refuse = async || axum::http::StatusCode::UNAUTHORIZED;
            let router = Router::new()
                .route("/refuse", post(refuse))
                .layer(middleware::from_fn(read_rest));
            let request = Request::post("/refuse").body(body).unwrap();
            assert_eq!(router.oneshot(request).await.unwrap().status(), 401);
            assert_eq!(was_asked_for.load(Ordering::Relaxed), is_awaited, "{len}");
        }
    }

    /// A body of some length that never comes.
    struct Ended {
        len: u64,
        was_asked_for: Arc<AtomicBool>,
    }

    impl HttpBody for Ended {
        type Data = Bytes;
        type Error = axum::Error;

        fn poll_frame(
            self: Pin<&mut Self>,
            _context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
            self.was_asked_for.store(true, Ordering::Relaxed);
            Poll::Ready(None)
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.len)
        }
    }

    #[tokio::test]
    async fn whoever_sends_much_unasked_is_not_waited_for() {
        let mut stream = served().await;
        let much = vec![b'x'; 1 << 20];
        stream
            .write_all(head("/refuse", much.len() + 1).as_bytes())
            .await
            .unwrap();
        // It may be closed before all of it is sent.
        let _ = stream.write_all(&much).await;
        let first = status(&mut stream).await;
        assert!(matches!(first, Some(401) | None), "{first:?}");
        assert_eq!(status(&mut stream).await, None);
    }
}
