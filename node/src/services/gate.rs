//! How much blocking work of a kind runs at once, and how much may wait for it.
//!
//! Each piece runs on a blocking thread and keeps its place until it has ended, also when whoever
//! asked for it is gone: what bounds memory and cores must count what really runs.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;

/// When to ask again: the queue moves on within that time.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Why work was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GateError {
    /// Those who wait are too many already.
    Full {
        /// When to ask again.
        retry_after: Duration,
    },
    /// The work panicked: a defect.
    Panicked,
}

/// A bound on blocking work.
#[derive(Debug, Clone)]
pub struct Gate {
    running: Arc<Semaphore>,
    present: Arc<Semaphore>,
}

impl Gate {
    /// A gate that lets `running_max` pieces run and `waiting_max` wait.
    pub fn new(running_max: usize, waiting_max: usize) -> Self {
        Self {
            running: Arc::new(Semaphore::new(running_max)),
            present: Arc::new(Semaphore::new(running_max + waiting_max)),
        }
    }

    /// Runs `work` on a blocking thread when it is its turn.
    ///
    /// # Errors
    /// Too many wait, or the work panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, GateError> {
        let full = GateError::Full {
            retry_after: RETRY_AFTER,
        };
        let place = Arc::clone(&self.present).try_acquire_owned();
        let place = place.map_err(|_none_left| full.clone())?;
        // Never closed, so never an error.
        let turn = Arc::clone(&self.running).acquire_owned().await;
        let turn = turn.map_err(|_closed| full)?;
        let done = tokio::task::spawn_blocking(move || {
            let outcome = work();
            drop((place, turn));
            outcome
        });
        done.await.map_err(|_panic| GateError::Panicked)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_full_gate_refuses_and_an_abandoned_piece_keeps_its_place() {
        let gate = Gate::new(1, 1);
        let (release, held) = mpsc::channel::<()>();
        let (started, has_started) = tokio::sync::oneshot::channel();
        let first = gate.clone();
        let first = tokio::spawn(async move {
            first
                .run(move || {
                    let _ = started.send(());
                    let _ = held.recv();
                })
                .await
        });
        has_started.await.unwrap();
        let mut second = Box::pin(gate.run(|| 2));
        assert!(futures_util::poll!(&mut second).is_pending());
        assert!(matches!(gate.run(|| 3).await, Err(GateError::Full { .. })));
        // Its asker goes, it stays.
        first.abort();
        let _ = first.await;
        assert!(futures_util::poll!(&mut second).is_pending());
        release.send(()).unwrap();
        assert_eq!(second.await, Ok(2));
        assert_eq!(gate.run(|| 4).await, Ok(4));
    }
}
