//! Who waits, who runs next and when a refused client should come back.
//!
//! A machine without I/O or clock: the engine's thread asks it, and tells it what happened.
//! Waiting requests start in the order of arrival. One that waits for its model's file to be read
//! lets others pass, because nothing that they do delays it; one that waits for memory lets nobody
//! pass, or a stream of small requests could starve it. Running requests take turns.

use std::{collections::VecDeque, time::Duration};

/// Finished requests that the mean duration is taken over.
const DURATIONS_MAX: usize = 32;
/// Shortest time after which a refused client is told to come back.
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);

/// Names a running request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct RunId(u64);

/// The bounded queue and the ring of running requests.
#[derive(Debug)]
pub(super) struct Schedule<J> {
    running_max: usize,
    queue_len_max: usize,
    waiting: VecDeque<J>,
    /// The next one to be stepped in front.
    running: VecDeque<RunId>,
    next_id: u64,
    durations: VecDeque<Duration>,
}

/// Whether a waiting request can start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Now.
    Start,
    /// Not yet; those behind it may.
    LetPass,
    /// Not yet, and nobody behind it may either.
    HoldUp,
}

impl<J> Schedule<J> {
    pub(super) fn new(running_max: usize, queue_len_max: usize) -> Self {
        Self {
            running_max: running_max.max(1),
            queue_len_max,
            waiting: VecDeque::new(),
            running: VecDeque::new(),
            next_id: 0,
            durations: VecDeque::new(),
        }
    }

    /// Says whether a request would be taken; if not, when to come back.
    pub(super) fn check_room(&self) -> Result<(), Duration> {
        // Free places count: a request passes through the queue even when it can start at once.
        let free = self.running_max.saturating_sub(self.running.len());
        if self.waiting.len() < self.queue_len_max.saturating_add(free) {
            return Ok(());
        }
        Err(self.retry_after())
    }

    /// Appends a request to the queue.
    ///
    /// # Errors
    /// The queue is full; the request comes back with the time to wait.
    pub(super) fn enqueue(&mut self, job: J) -> Result<(), (J, Duration)> {
        match self.check_room() {
            Ok(()) => {
                self.waiting.push_back(job);
                Ok(())
            }
            Err(retry_after) => Err((job, retry_after)),
        }
    }

    /// Starts the first waiting request that may start, if a place is free.
    pub(super) fn start_next(
        &mut self,
        mut judge: impl FnMut(&J) -> Verdict,
    ) -> Option<(RunId, J)> {
        if self.running.len() >= self.running_max {
            return None;
        }
        for index in 0..self.waiting.len() {
            match judge(&self.waiting[index]) {
                Verdict::Start => {
                    let job = self.waiting.remove(index)?;
                    let id = RunId(self.next_id);
                    self.next_id += 1;
                    self.running.push_back(id);
                    return Some((id, job));
                }
                Verdict::LetPass => {}
                Verdict::HoldUp => return None,
            }
        }
        None
    }

    /// Removes waiting requests that meet a condition and returns them in order.
    pub(super) fn remove_waiting(&mut self, mut condition: impl FnMut(&J) -> bool) -> Vec<J> {
        let mut removed = Vec::new();
        for _ in 0..self.waiting.len() {
            let Some(job) = self.waiting.pop_front() else {
                break;
            };
            if condition(&job) {
                removed.push(job);
            } else {
                self.waiting.push_back(job);
            }
        }
        removed
    }

    /// Returns the waiting requests in order.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &J> {
        self.waiting.iter()
    }

    /// Returns the running request whose turn it is.
    pub(super) fn turn(&mut self) -> Option<RunId> {
        self.running.rotate_left(1.min(self.running.len()));
        self.running.back().copied()
    }

    /// Frees a request's place. `duration` is how long it ran, where it ran to its end.
    pub(super) fn finished(&mut self, id: RunId, duration: Option<Duration>) {
        self.running.retain(|other| *other != id);
        if let Some(duration) = duration {
            self.durations.push_back(duration);
            if self.durations.len() > DURATIONS_MAX {
                self.durations.pop_front();
            }
        }
    }

    pub(super) fn running_len(&self) -> usize {
        self.running.len()
    }

    pub(super) fn waiting_len(&self) -> usize {
        self.waiting.len()
    }

    /// When the request that would be next in the queue should find a place: the mean duration of
    /// the last requests × its position / places, in whole seconds.
    fn retry_after(&self) -> Duration {
        let count = self.durations.len().max(1) as f64;
        let mean = self.durations.iter().sum::<Duration>().as_secs_f64() / count;
        let position = (self.waiting.len() + 1) as f64;
        let seconds = (mean * position / self.running_max as f64).ceil();
        Duration::try_from_secs_f64(seconds)
            .unwrap_or(Duration::MAX)
            .max(RETRY_AFTER_MIN)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn start(schedule: &mut Schedule<u32>) -> Option<(RunId, u32)> {
        schedule.start_next(|_| Verdict::Start)
    }

    #[test]
    fn requests_start_in_order_of_arrival() {
        let mut schedule = Schedule::new(2, 10);
        for job in 0..4 {
            schedule.enqueue(job).unwrap();
        }
        let (first, job) = start(&mut schedule).unwrap();
        assert_eq!(job, 0);
        assert_eq!(start(&mut schedule).unwrap().1, 1);
        assert_eq!(start(&mut schedule), None, "both places are taken");
        schedule.finished(first, None);
        assert_eq!(start(&mut schedule).unwrap().1, 2);
    }

    #[test]
    fn the_queue_is_bounded_and_free_places_count() {
        let mut schedule = Schedule::new(2, 1);
        for job in 0..3 {
            schedule.enqueue(job).unwrap();
        }
        assert_eq!(schedule.enqueue(3), Err((3, Duration::from_secs(1))));
        start(&mut schedule).unwrap();
        assert!(
            schedule.enqueue(3).is_err(),
            "one place fewer, one waiting fewer"
        );
        let (id, _) = start(&mut schedule).unwrap();
        assert!(schedule.enqueue(3).is_err());
        schedule.finished(id, None);
        schedule.enqueue(3).unwrap();
        assert_eq!(schedule.waiting_len(), 2);
    }

    #[test]
    fn without_a_queue_a_free_place_is_enough() {
        let mut schedule = Schedule::new(1, 0);
        schedule.enqueue(0).unwrap();
        assert!(schedule.enqueue(1).is_err());
        let (id, _) = start(&mut schedule).unwrap();
        assert!(schedule.enqueue(1).is_err());
        schedule.finished(id, None);
        schedule.enqueue(1).unwrap();
    }

    #[test]
    fn running_requests_take_turns_and_none_is_left_out() {
        let mut schedule = Schedule::new(3, 3);
        for job in 0..3 {
            schedule.enqueue(job).unwrap();
        }
        let mut turns = HashMap::new();
        let (first, _) = start(&mut schedule).unwrap();
        assert_eq!(schedule.turn(), Some(first));
        start(&mut schedule).unwrap();
        start(&mut schedule).unwrap();
        for _ in 0..30 {
            *turns.entry(schedule.turn().unwrap()).or_insert(0) += 1;
        }
        assert_eq!(turns.len(), 3);
        assert!(turns.values().all(|count| *count == 10));
        schedule.finished(first, None);
        let next: Vec<_> = (0..4).map(|_| schedule.turn().unwrap()).collect();
        assert!(!next.contains(&first));
        assert_eq!((next[0], next[1]), (next[2], next[3]));
        assert_ne!(next[0], next[1]);
    }

    #[test]
    fn nobody_runs_in_an_empty_schedule() {
        let mut schedule = Schedule::<u32>::new(1, 1);
        assert_eq!(schedule.turn(), None);
        assert_eq!(start(&mut schedule), None);
    }

    #[test]
    fn one_whose_model_loads_is_passed_but_one_that_needs_memory_is_not() {
        let mut schedule = Schedule::new(4, 4);
        for job in 0..3 {
            schedule.enqueue(job).unwrap();
        }
        let judge = |verdict| move |job: &u32| if *job == 0 { verdict } else { Verdict::Start };
        assert_eq!(schedule.start_next(judge(Verdict::HoldUp)), None);
        assert_eq!(schedule.start_next(judge(Verdict::LetPass)).unwrap().1, 1);
        assert_eq!(schedule.start_next(judge(Verdict::Start)).unwrap().1, 0);
    }

    #[test]
    fn removing_keeps_the_order_of_the_others() {
        let mut schedule = Schedule::new(9, 9);
        for job in 0..6 {
            schedule.enqueue(job).unwrap();
        }
        assert_eq!(schedule.remove_waiting(|job| job % 2 == 1), [1, 3, 5]);
        let left: Vec<u32> = std::iter::from_fn(|| start(&mut schedule))
            .map(|run| run.1)
            .collect();
        assert_eq!(left, [0, 2, 4]);
    }

    #[test]
    fn the_time_to_come_back_follows_from_measured_durations() {
        let mut schedule = Schedule::new(2, 3);
        for seconds in [4, 8] {
            schedule.enqueue(0).unwrap();
            let (id, _) = start(&mut schedule).unwrap();
            schedule.finished(id, Some(Duration::from_secs(seconds)));
        }
        for job in 0..5 {
            schedule.enqueue(job).unwrap();
        }
        start(&mut schedule).unwrap();
        start(&mut schedule).unwrap();
        // Mean 6 s, position 4, two places.
        assert_eq!(schedule.check_room(), Err(Duration::from_secs(12)));
    }

    #[test]
    fn old_durations_are_forgotten() {
        let mut schedule = Schedule::new(1, 0);
        for index in 0..2 * DURATIONS_MAX as u64 {
            schedule.enqueue(0).unwrap();
            let (id, _) = start(&mut schedule).unwrap();
            let seconds = if index < DURATIONS_MAX as u64 {
                1000
            } else {
                3
            };
            schedule.finished(id, Some(Duration::from_secs(seconds)));
        }
        schedule.enqueue(0).unwrap();
        start(&mut schedule).unwrap();
        assert_eq!(schedule.check_room(), Err(Duration::from_secs(3)));
    }
}
