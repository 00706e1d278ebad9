//! SIGINT and SIGTERM, as a stream of "stop" and "stop at once".
//!
//! They are listened for before the first part starts, so that a signal during start-up stops the
//! node in order too.

use std::io;

use crate::error::NodeError;

/// The signals that stop the node.
#[derive(Debug)]
pub struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    /// Starts listening; the signals no longer end the process by themselves.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn listen() -> Result<Self, NodeError> {
        let failed = |source: io::Error| NodeError::System {
            what: "listen for signals",
            source,
        };
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Self {
                interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
                terminate: signal(SignalKind::terminate()).map_err(failed)?,
            })
        }
        #[cfg(not(unix))]
        {
            let _ = failed;
            Ok(Self {})
        }
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
        #[cfg(not(unix))]
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
