//! Who waits, who runs next and when a refused client should come back.
//!
//! A machine without I/O or clock: the engine's thread asks it, and tells it what happened.
//! Waiting requests start in the order of arrival. One that waits for its model's file to be read
//! lets others pass, because nothing that they do delays it; one that waits for memory lets nobody
//! pass, or a stream of small requests could starve it. Running requests take turns.

use std::{collections::VecDeque, time::Duration};

/// Finished requests that the typical length is taken over.
const LENGTHS_MAX: usize = 32;
/// Last steps that the pace is taken over.
const STEP_TIMES_MAX: usize = 64;
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
    running: VecDeque<Running>,
    next_id: u64,
    /// Steps that requests took which came to their end.
    lengths: VecDeque<u64>,
    step_times: VecDeque<Duration>,
}

#[derive(Debug)]
struct Running {
    id: RunId,
    steps: u64,
    steps_max: u64,
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
            lengths: VecDeque::new(),
            step_times: VecDeque::new(),
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

    /// Starts the first waiting request that may start, if a place is free. `steps_max` says how
    /// many steps it can take.
    pub(super) fn start_next(
        &mut self,
        mut judge: impl FnMut(&J) -> Verdict,
        steps_max: impl Fn(&J) -> u64,
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
                    self.running.push_back(Running {
                        id,
                        steps: 0,
                        steps_max: steps_max(&job),
                    });
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
        self.running.back().map(|running| running.id)
    }

    /// Notes that a request has taken a step, and how long that was.
    pub(super) fn stepped(&mut self, id: RunId, duration: Duration) {
        if let Some(running) = self.running.iter_mut().find(|running| running.id == id) {
            running.steps += 1;
        }
        push_bounded(&mut self.step_times, duration, STEP_TIMES_MAX);
    }

    /// Frees a request's place. Only one that came to its end says how long requests are.
    pub(super) fn finished(&mut self, id: RunId, is_whole: bool) {
        let Some(index) = self.running.iter().position(|running| running.id == id) else {
            return;
        };
        if let Some(running) = self.running.remove(index)
            && is_whole
        {
            push_bounded(&mut self.lengths, running.steps, LENGTHS_MAX);
        }
    }

    pub(super) fn running_len(&self) -> usize {
        self.running.len()
    }

    pub(super) fn waiting_len(&self) -> usize {
        self.waiting.len()
    }

    /// When the first of the running requests should make room, in whole seconds: the steps that
    /// it still takes × the requests that take turns × the mean time of a step. A request is
    /// expected to be as long as the last ones were, or, where nothing is known or it is longer
    /// already, as long as it can be.
    fn retry_after(&self) -> Duration {
        let steps_left = |running: &Running| {
            let typical = mean(self.lengths.iter().map(|length| *length as f64));
            let expected = typical
                .map(|typical| typical.ceil() as u64)
                .filter(|typical| *typical > running.steps)
                .map_or(running.steps_max, |typical| typical.min(running.steps_max));
            expected.saturating_sub(running.steps).max(1)
        };
        let first = self.running.iter().map(steps_left).min().unwrap_or(0);
        let pace = mean(self.step_times.iter().map(Duration::as_secs_f64)).unwrap_or(0.0);
        let seconds = (first as f64 * self.running.len() as f64 * pace).ceil();
        Duration::try_from_secs_f64(seconds)
            .unwrap_or(Duration::MAX)
            .max(RETRY_AFTER_MIN)
    }
}

fn push_bounded<T>(values: &mut VecDeque<T>, value: T, len_max: usize) {
    values.push_back(value);
    if values.len() > len_max {
        values.pop_front();
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> Option<f64> {
    let count = values.len();
    (count > 0).then(|| values.sum::<f64>() / count as f64)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const STEPS_MAX: u64 = 100;

    fn start(schedule: &mut Schedule<u32>) -> Option<(RunId, u32)> {
        schedule.start_next(|_| Verdict::Start, |_| STEPS_MAX)
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
        schedule.finished(first, false);
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
        schedule.finished(id, false);
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
        schedule.finished(id, false);
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
        schedule.finished(first, false);
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
        assert_eq!(schedule.start_next(judge(Verdict::HoldUp), |_| 1), None);
        assert_eq!(
            schedule
                .start_next(judge(Verdict::LetPass), |_| 1)
                .unwrap()
                .1,
            1
        );
        assert_eq!(
            schedule.start_next(judge(Verdict::Start), |_| 1).unwrap().1,
            0
        );
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

    /// Starts a request and lets it take steps of a second.
    fn run(schedule: &mut Schedule<u32>, steps: u64) -> RunId {
        schedule.enqueue(0).unwrap();
        let (id, _) = start(schedule).unwrap();
        for _ in 0..steps {
            schedule.stepped(id, Duration::from_secs(1));
        }
        id
    }

    fn retry_seconds(schedule: &Schedule<u32>) -> u64 {
        schedule.check_room().unwrap_err().as_secs()
    }

    #[test]
    fn without_history_a_request_is_expected_to_be_as_long_as_it_can_be() {
        let mut schedule = Schedule::new(1, 0);
        schedule.enqueue(0).unwrap();
        let (id, _) = start(&mut schedule).unwrap();
        assert_eq!(retry_seconds(&schedule), 1, "nothing is measured yet");
        schedule.stepped(id, Duration::from_secs(2));
        assert_eq!(retry_seconds(&schedule), 2 * (STEPS_MAX - 1));
    }

    #[test]
    fn the_time_to_come_back_is_when_the_first_running_request_should_end() {
        let mut schedule = Schedule::new(2, 0);
        for steps in [10, 30] {
            let id = run(&mut schedule, steps);
            schedule.finished(id, true);
        }
        run(&mut schedule, 5);
        run(&mut schedule, 12);
        // Of 20 steps the second has 8 to go; two take turns.
        assert_eq!(retry_seconds(&schedule), 16);
    }

    #[test]
    fn a_request_that_is_longer_than_others_may_go_to_its_end() {
        let mut schedule = Schedule::new(1, 0);
        let id = run(&mut schedule, 10);
        schedule.finished(id, true);
        run(&mut schedule, 60);
        assert_eq!(retry_seconds(&schedule), 40);
    }

    #[test]
    fn a_request_that_broke_off_says_nothing_of_the_length_of_others() {
        let mut schedule = Schedule::new(1, 0);
        let id = run(&mut schedule, 1);
        schedule.finished(id, false);
        run(&mut schedule, 50);
        assert_eq!(retry_seconds(&schedule), 50);
    }

    #[test]
    fn old_lengths_are_forgotten() {
        let mut schedule = Schedule::new(1, 0);
        for steps in [90, 4] {
            for _ in 0..LENGTHS_MAX {
                let id = run(&mut schedule, steps);
                schedule.finished(id, true);
            }
        }
        run(&mut schedule, 1);
        assert_eq!(retry_seconds(&schedule), 3);
    }
}
