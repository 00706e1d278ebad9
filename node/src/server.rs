//! The accept loop: connections in, requests to the router, an orderly end.
//!
//! What a hostile client can hold is bounded here: connections at once, the time and the size of
//! a request's headers, the time that an answer waits to be read, and the time that stopping may
//! take. Bodies, routes and answers are the API's.

mod patience;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::ConnectInfo};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulConnection, GracefulShutdown},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinError, JoinSet},
    time,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use self::patience::Patience;
use crate::{config::HttpConfig, error::NodeError};

/// Read buffer of a connection, which bounds a request's line and headers together; the buffer
/// grows by doubling, so up to twice as much may have been read when one is refused.
const HEADER_BYTES_MAX: usize = 64 * 1024;
/// Most headers of one request.
const HEADERS_MAX: usize = 100;
/// Pause after a failed accept: with no file descriptors left the next one fails at once too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound address, not yet served.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    connections_max: usize,
    header_timeout: Duration,
    write_timeout: Duration,
}

impl Server {
    /// Binds the address.
    ///
    /// # Errors
    /// [`NodeError::Bind`] with the address and what helps.
    pub async fn bind(config: &HttpConfig) -> Result<Self, NodeError> {
        let failed = |source| NodeError::Bind {
            address: config.bind,
            source,
        };
        let listener = TcpListener::bind(config.bind).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self {
            listener,
            address,
            connections_max: config.connections_max,
            header_timeout: config.header_timeout,
            write_timeout: config.request_timeout,
        })
    }

    /// Returns the bound address, with the port that the system chose.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`, then lets open requests finish for at most `drain`.
    pub async fn serve(self, router: Router, shutdown: CancellationToken, drain: Duration) {
        let places = Arc::new(Semaphore::new(self.connections_max));
        let graceful = GracefulShutdown::new();
        let mut connections = JoinSet::new();
        while let Some((stream, peer, place)) = self.accept(&places, &shutdown).await {
            let connection = self.connection(stream, peer, router.clone());
            let watched = graceful.watch(connection);
            connections.spawn(async move {
                // A connection that breaks is the client's business.
                let _ = watched.await;
                drop(place);
            });
            // Finished ones are taken out as others come, so the set stays as small as they are.
            while let Some(ended) = connections.try_join_next() {
                report(ended);
            }
        }
        // Nothing is accepted from here on.
        let Self { listener, .. } = self;
        drop(listener);
        if time::timeout(drain, graceful.shutdown()).await.is_err() {
            tracing::warn!(
                open = connections.len(),
                "requests did not finish in time; their connections are closed"
            );
        }
        connections.shutdown().await;
    }

    /// Waits for a free place, then for a client; `None` once the node stops.
    async fn accept(
        &self,
        places: &Arc<Semaphore>,
        shutdown: &CancellationToken,
    ) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        let next = async {
            // The semaphore is never closed, so there is always a place to wait for.
            let place = places.clone().acquire_owned().await.ok()?;
            loop {
                match self.listener.accept().await {
                    Ok((stream, peer)) => return Some((stream, peer, place)),
                    Err(error) => pause_after(&error).await,
                }
            }
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => None,
            accepted = next => accepted,
        }
    }

    fn connection(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        router: Router,
    ) -> impl GracefulConnection<Error = hyper::Error> + Send + 'static {
        // Streamed answers are many small writes; a socket that refuses the option still works.
        let _ = stream.set_nodelay(true);
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            router.clone().oneshot(request)
        });
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            .max_buf_size(HEADER_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .serve_connection(
                TokioIo::new(Patience::new(stream, self.write_timeout)),
                service,
            )
    }
}

/// Handlers catch their own panics, so one that arrives here is a defect of this file's kind.
fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's task failed");
    }
}

async fn pause_after(error: &io::Error) {
    // The client went away between its knock and our answer.
    let gone = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    );
    if !gone {
        tracing::warn!(%error, "cannot accept a connection");
        time::sleep(ACCEPT_PAUSE).await;
    }
}
