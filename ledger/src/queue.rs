//! What waits for the writer: any number of threads put in, one takes all that is there.
//!
//! One lock for a whole batch, where a channel has its price for each message. Who takes may wait
//! for some to gather; it is then woken once, when they are there, and not by each of them.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The way in. Clones share the queue.
#[derive(Debug)]
pub struct Sender<T>(Arc<Queue<T>>);

/// The way out. When it goes, what still waits goes too, and nothing more is taken in.
#[derive(Debug)]
pub struct Receiver<T>(Arc<Queue<T>>);

/// Why something was not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendError {
    /// As much waits as may.
    Full,
    /// Nothing more is taken in.
    Closed,
}

#[derive(Debug)]
struct Queue<T> {
    state: Mutex<State<T>>,
    /// Enough is there, or the queue was closed.
    ready: Condvar,
    len_max: usize,
}

#[derive(Debug)]
struct State<T> {
    items: Vec<T>,
    /// With how many of them the receiver is to be woken; 0 while it does not wait.
    wanted: usize,
    is_open: bool,
}

/// Returns both ends of a queue that holds no more than `len_max`.
pub fn queue<T>(len_max: usize) -> (Sender<T>, Receiver<T>) {
    let queue = Arc::new(Queue {
        state: Mutex::new(State {
            items: Vec::new(),
            wanted: 0,
            is_open: true,
        }),
        ready: Condvar::new(),
        len_max,
    });
    (Sender(Arc::clone(&queue)), Receiver(queue))
}

impl<T> Queue<T> {
    /// Nothing panics under the lock, so a poisoned one guards what is whole.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.lock().is_open = false;
        self.ready.notify_one();
    }
}

impl<T> Sender<T> {
    /// Puts something in.
    ///
    /// # Errors
    /// The queue is full or closed. What was to be put in comes back.
    pub fn send(&self, item: T) -> Result<(), (T, SendError)> {
        self.put(item, self.0.len_max)
    }

    /// Puts something in that is bounded otherwise, however much waits.
    ///
    /// # Errors
    /// The queue is closed. What was to be put in comes back.
    pub fn send_beyond(&self, item: T) -> Result<(), (T, SendError)> {
        self.put(item, usize::MAX)
    }

    fn put(&self, item: T, len_max: usize) -> Result<(), (T, SendError)> {
        let mut state = self.0.lock();
        if !state.is_open {
            return Err((item, SendError::Closed));
        }
        if state.items.len() >= len_max {
            return Err((item, SendError::Full));
        }
        state.items.push(item);
        let is_enough = state.wanted != 0 && state.items.len() >= state.wanted;
        if is_enough {
            state.wanted = 0;
        }
        drop(state);
        if is_enough {
            self.0.ready.notify_one();
        }
        Ok(())
    }

    /// Lets nothing more in. What waits can still be taken.
    pub fn close(&self) {
        self.0.close();
    }
}

impl<T> Receiver<T> {
    /// Takes up to `len_max` from the queue's front to the end of `items`. It waits for the first,
    /// and then, no longer than `patience`, until there are `expected`. Returns whether there may
    /// be more: `false` once the queue is closed and empty.
    pub fn take(
        &self,
        items: &mut Vec<T>,
        len_max: usize,
        expected: usize,
        patience: Duration,
    ) -> bool {
        let mut state = self.0.lock();
        while state.items.is_empty() {
            if !state.is_open {
                return false;
            }
            state.wanted = 1;
            let woken = self.0.ready.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
        let expected = expected.min(len_max).min(self.0.len_max);
        let begin = Instant::now();
        while state.items.len() < expected && state.is_open {
            let left = patience.saturating_sub(begin.elapsed());
            if left.is_zero() {
                break;
            }
            state.wanted = expected;
            let woken = self.0.ready.wait_timeout(state, left);
            (state, _) = woken.unwrap_or_else(PoisonError::into_inner);
        }
        state.wanted = 0;
        if items.is_empty() && state.items.len() <= len_max {
            std::mem::swap(items, &mut state.items);
        } else {
            let len = len_max.min(state.items.len());
            items.extend(state.items.drain(..len));
        }
        true
    }

    /// Waits until something is there to be taken, or nothing more can come, but no longer than
    /// `limit`. Returns whether it is so.
    pub fn wait(&self, limit: Duration) -> bool {
        let mut state = self.0.lock();
        let begin = Instant::now();
        while state.items.is_empty() && state.is_open {
            let left = limit.saturating_sub(begin.elapsed());
            if left.is_zero() {
                state.wanted = 0;
                return false;
            }
            state.wanted = 1;
            let woken = self.0.ready.wait_timeout(state, left);
            (state, _) = woken.unwrap_or_else(PoisonError::into_inner);
        }
        state.wanted = 0;
        true
    }

    /// Returns whether nothing waits, and something may still come.
    pub fn is_idle(&self) -> bool {
        let state = self.0.lock();
        state.is_open && state.items.is_empty()
    }

    /// Lets nothing more in, and returns what waits.
    pub fn close(&self) -> Vec<T> {
        self.0.close();
        std::mem::take(&mut self.0.lock().items)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        drop(self.close());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn taken(receiver: &Receiver<u32>, len_max: usize) -> Vec<u32> {
        let mut items = Vec::new();
        receiver.take(&mut items, len_max, 0, Duration::ZERO);
        items
    }

    #[test]
    fn what_came_first_is_taken_first() {
        let (sender, receiver) = queue(10);
        (0..5).for_each(|number| sender.send(number).unwrap());
        assert_eq!(taken(&receiver, 2), [0, 1]);
        sender.send(5).unwrap();
        assert_eq!(taken(&receiver, 10), [2, 3, 4, 5]);
    }

    #[test]
    fn no_more_is_held_than_allowed() {
        let (sender, receiver) = queue(2);
        (0..2).for_each(|number| sender.send(number).unwrap());
        assert_eq!(sender.send(2), Err((2, SendError::Full)));
        assert_eq!(taken(&receiver, 1), [0]);
        sender.send(3).unwrap();
    }

    #[test]
    fn what_is_bounded_otherwise_is_held_beyond() {
        let (sender, receiver) = queue(1);
        sender.send(0).unwrap();
        sender.send_beyond(1).unwrap();
        assert_eq!(sender.send(2), Err((2, SendError::Full)));
        assert_eq!(taken(&receiver, 10), [0, 1]);
        sender.close();
        assert_eq!(sender.send_beyond(3), Err((3, SendError::Closed)));
    }

    #[test]
    fn a_closed_queue_gives_what_it_has() {
        let (sender, receiver) = queue(2);
        sender.send(1).unwrap();
        sender.close();
        assert_eq!(sender.send(2), Err((2, SendError::Closed)));
        let mut items = Vec::new();
        assert!(receiver.take(&mut items, 10, 2, LONG), "{items:?}");
        assert_eq!(items, [1]);
        assert!(!receiver.take(&mut items, 10, 2, LONG), "{items:?}");
    }

    #[test]
    fn it_is_closed_when_nobody_takes_any_more() {
        let (sender, receiver) = queue(2);
        sender.send(1).unwrap();
        drop(receiver);
        assert_eq!(sender.send(2), Err((2, SendError::Closed)));
    }

    #[test]
    fn as_many_as_are_expected_are_waited_for() {
        let (sender, receiver) = queue(10);
        std::thread::scope(|scope| {
            let taker = scope.spawn(move || {
                let mut items = Vec::new();
                receiver.take(&mut items, 10, 3, LONG);
                items
            });
            (0..3).for_each(|number| sender.send(number).unwrap());
            assert_eq!(taker.join().unwrap(), [0, 1, 2]);
        });
    }

    #[test]
    fn it_is_idle_while_nothing_waits_and_something_may_come() {
        let (sender, receiver) = queue(10);
        assert!(receiver.is_idle());
        sender.send(1).unwrap();
        assert!(!receiver.is_idle());
        assert_eq!(taken(&receiver, 10), [1]);
        assert!(receiver.is_idle());
        sender.close();
        assert!(!receiver.is_idle());
    }

    #[test]
    fn patience_ends() {
        let (sender, receiver) = queue(10);
        sender.send(1).unwrap();
        let mut items = Vec::new();
        receiver.take(&mut items, 10, 3, Duration::from_millis(1));
        assert_eq!(items, [1]);
    }
}
