//! Who waits for vectors, and what the next batch holds. Told everything, does no I/O.
//!
//! A batch is rows of any texts, so it may hold parts of several jobs, or a part of one. Queries go
//! first, and what waits in bulk fills such a batch up only as far as it does not delay them
//! much; so bulk work goes on however many queries come. What waits is counted for each by itself,
//! so that neither takes the other's room.

use std::collections::VecDeque;

use super::{Embedding, EmbeddingSink, Prepared, Urgency};
use crate::error::Result;

/// Jobs of an urgency that wait, at most.
pub(super) const JOBS_MAX: usize = 4096;

/// Rows of bulk work in a batch with queries, at least.
const BULK_ROWS_BESIDE: usize = 96;

/// Texts of one caller.
pub(super) struct Job {
    pub(super) prepared: Prepared,
    pub(super) sink: Box<dyn EmbeddingSink>,
    /// Texts that are in a batch, or were.
    taken: usize,
    /// Vectors of the first texts.
    done: Vec<Embedding>,
}

impl Job {
    pub(super) fn new(prepared: Prepared, sink: Box<dyn EmbeddingSink>) -> Self {
        Self {
            done: Vec::with_capacity(prepared.len()),
            prepared,
            sink,
            taken: 0,
        }
    }

    fn rows_left(&self) -> usize {
        let texts = &self.prepared.texts[self.taken..];
        texts.iter().map(|text| text.ids.len()).sum()
    }
}

/// Texts of a batch: of which queue, which job in it, how many of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    urgency: Urgency,
    job: usize,
    texts: std::ops::Range<usize>,
}

/// What waits.
#[derive(Default)]
pub(super) struct Queue {
    queries: Lane,
    bulk: Lane,
}

/// What waits of one urgency.
#[derive(Default)]
struct Lane {
    jobs: VecDeque<Job>,
    /// Rows that are in no batch yet.
    rows: usize,
}

/// A job that has ended, and how.
pub(super) struct Ended {
    pub(super) sink: Box<dyn EmbeddingSink>,
    pub(super) result: Result<Vec<Embedding>>,
}

impl Queue {
    /// Rows of an urgency that wait.
    pub(super) fn rows(&self, urgency: Urgency) -> usize {
        self.of(urgency).rows
    }

    /// Jobs of an urgency that wait or are at work.
    pub(super) fn jobs(&self, urgency: Urgency) -> usize {
        self.of(urgency).jobs.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queries.jobs.is_empty() && self.bulk.jobs.is_empty()
    }

    pub(super) fn push(&mut self, job: Job, urgency: Urgency) {
        let lane = self.of_mut(urgency);
        lane.rows += job.rows_left();
        lane.jobs.push_back(job);
    }

    /// Lets go of jobs whose results nobody wants any more. Not while a batch is at work.
    pub(super) fn drop_unwanted(&mut self) -> Vec<Job> {
        let mut dropped = Vec::new();
        for urgency in [Urgency::Query, Urgency::Bulk] {
            let lane = self.of_mut(urgency);
            for job in std::mem::take(&mut lane.jobs) {
                if job.sink.is_wanted() {
                    lane.jobs.push_back(job);
                } else {
                    lane.rows -= job.rows_left();
                    dropped.push(job);
                }
            }
        }
        dropped
    }

    /// Takes texts for a batch of about `rows_max` rows, at least one text if any waits.
    pub(super) fn take_batch(&mut self, rows_max: usize) -> Vec<Part> {
        let mut parts = Vec::new();
        let urgent = self.take(Urgency::Query, rows_max, &mut parts);
        let bulk_max = match urgent {
            0 => rows_max,
            rows => rows.max(BULK_ROWS_BESIDE).min(rows_max),
        };
        self.take(Urgency::Bulk, bulk_max, &mut parts);
        parts
    }

    /// Takes texts of one queue, and returns how many rows those are.
    fn take(&mut self, urgency: Urgency, rows_max: usize, parts: &mut Vec<Part>) -> usize {
        let mut rows = 0;
        let lane = self.of_mut(urgency);
        for (index, job) in lane.jobs.iter_mut().enumerate() {
            let start = job.taken;
            while let Some(text) = job.prepared.texts.get(job.taken) {
                if rows > 0 && rows + text.ids.len() > rows_max {
                    break;
                }
                rows += text.ids.len();
                job.taken += 1;
            }
            if job.taken > start {
                let texts = start..job.taken;
                parts.push(Part {
                    urgency,
                    job: index,
                    texts,
                });
            }
            if job.taken < job.prepared.len() {
                break;
            }
        }
        lane.rows -= rows;
        rows
    }

    /// The ids of a batch's texts.
    pub(super) fn ids(&self, parts: &[Part]) -> Vec<Vec<u32>> {
        let texts = parts.iter().flat_map(|part| {
            let job = &self.of(part.urgency).jobs[part.job];
            &job.prepared.texts[part.texts.clone()]
        });
        texts.map(|text| text.ids.clone()).collect()
    }

    /// Hands out a batch's vectors, or why there are none, and returns the jobs that this ends.
    pub(super) fn finish(&mut self, parts: &[Part], vectors: Result<Vec<Vec<f32>>>) -> Vec<Ended> {
        let mut failure = None;
        match vectors {
            Ok(vectors) => {
                let mut vectors = vectors.into_iter();
                for part in parts {
                    let job = &mut self.of_mut(part.urgency).jobs[part.job];
                    let texts = &job.prepared.texts[part.texts.clone()];
                    for (text, vector) in texts.iter().zip(&mut vectors) {
                        job.done.push(Embedding {
                            vector,
                            prompt_tokens: text.ids.len(),
                            is_truncated: text.is_truncated,
                        });
                    }
                }
            }
            Err(error) => failure = Some(error),
        }
        let mut ended = Vec::new();
        // From the back, so that the places of those before stay theirs.
        for part in parts.iter().rev() {
            let job = &self.of(part.urgency).jobs[part.job];
            if failure.is_none() && job.done.len() < job.prepared.len() {
                continue;
            }
            let rows_left = job.rows_left();
            let lane = self.of_mut(part.urgency);
            if let Some(job) = lane.jobs.remove(part.job) {
                lane.rows -= rows_left;
                let result = match &failure {
                    Some(error) => Err(error.clone()),
                    None => Ok(job.done),
                };
                let sink = job.sink;
                ended.push(Ended { sink, result });
            }
        }
        ended.reverse();
        ended
    }

    /// Empties the queue.
    pub(super) fn drain(&mut self) -> Vec<Job> {
        let Self { queries, bulk } = std::mem::take(self);
        queries.jobs.into_iter().chain(bulk.jobs).collect()
    }

    fn of(&self, urgency: Urgency) -> &Lane {
        match urgency {
            Urgency::Query => &self.queries,
            Urgency::Bulk => &self.bulk,
        }
    }

    fn of_mut(&mut self, urgency: Urgency) -> &mut Lane {
        match urgency {
            Urgency::Query => &mut self.queries,
            Urgency::Bulk => &mut self.bulk,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    };

    use super::{super::word_piece::Ids, *};
    use crate::error::Error;

    /// What has ended, by name: its vectors' first elements, or nothing.
    type Log = Arc<Mutex<Vec<(&'static str, Option<Vec<f32>>)>>>;

    struct Sink {
        name: &'static str,
        log: Log,
        is_wanted: Arc<AtomicBool>,
    }

    impl EmbeddingSink for Sink {
        fn is_wanted(&self) -> bool {
            self.is_wanted.load(Ordering::Relaxed)
        }

        fn finish(self: Box<Self>, result: Result<Vec<Embedding>>) {
            let firsts = result.map(|all| all.iter().map(|one| one.vector[0]).collect());
            self.log.lock().unwrap().push((self.name, firsts.ok()));
        }
    }

    #[derive(Default)]
    struct Bench {
        queue: Queue,
        log: Log,
    }

    impl Bench {
        /// Adds texts, each of as many ids, all of which are its number.
        fn push(
            &mut self,
            name: &'static str,
            lengths: &[usize],
            urgency: Urgency,
        ) -> Arc<AtomicBool> {
            let texts = lengths.iter().enumerate().map(|(index, len)| Ids {
                ids: vec![index as u32; *len],
                is_truncated: false,
            });
            let prepared = Prepared {
                texts: texts.collect(),
            };
            let is_wanted = Arc::new(AtomicBool::new(true));
            let sink = Sink {
                name,
                log: self.log.clone(),
                is_wanted: is_wanted.clone(),
            };
            self.queue.push(Job::new(prepared, Box::new(sink)), urgency);
            is_wanted
        }

        /// Runs a batch with a model that answers with a text's first id; returns its rows.
        fn step(&mut self, rows_max: usize) -> usize {
            let parts = self.queue.take_batch(rows_max);
            let ids = self.queue.ids(&parts);
            let vectors = ids.iter().map(|ids| vec![ids[0] as f32]).collect();
            for ended in self.queue.finish(&parts, Ok(vectors)) {
                ended.sink.finish(ended.result);
            }
            ids.iter().map(Vec::len).sum()
        }
    }

    #[test]
    fn a_large_job_is_cut_and_comes_back_in_order() {
        let mut bench = Bench::default();
        bench.push("bulk", &[5; 10], Urgency::Bulk);
        let mut batches = Vec::new();
        while !bench.queue.is_empty() {
            batches.push(bench.step(20));
        }
        assert_eq!(batches, [20, 20, 10]);
        let expected = (0..10).map(|index| index as f32).collect();
        assert_eq!(*bench.log.lock().unwrap(), [("bulk", Some(expected))]);
        assert_eq!(bench.queue.rows(Urgency::Bulk), 0);
    }

    #[test]
    fn queries_go_first_and_bulk_goes_on_beside_them() {
        let mut bench = Bench::default();
        bench.push("bulk", &[50; 8], Urgency::Bulk);
        bench.push("query", &[10], Urgency::Query);
        // 96 rows beside a query hold one text of fifty.
        assert_eq!(bench.step(200), 60);
        assert_eq!(bench.log.lock().unwrap()[0].0, "query");
        assert_eq!(bench.step(200), 200);
        bench.push("query", &[10], Urgency::Query);
        assert_eq!(bench.step(200), 60);
        assert_eq!(bench.step(200), 100);
        let names = bench
            .log
            .lock()
            .unwrap()
            .iter()
            .map(|(name, _)| *name)
            .collect::<Vec<_>>();
        assert_eq!(names, ["query", "query", "bulk"]);
    }

    #[test]
    fn a_text_larger_than_a_batch_is_a_batch() {
        let mut bench = Bench::default();
        bench.push("long", &[500, 3], Urgency::Bulk);
        assert_eq!((bench.step(100), bench.step(100)), (500, 3));
        assert!(bench.queue.is_empty());
    }

    #[test]
    fn several_jobs_share_a_batch() {
        let mut bench = Bench::default();
        for name in ["a", "b", "c"] {
            bench.push(name, &[4, 4], Urgency::Bulk);
        }
        assert_eq!(bench.step(20), 20);
        assert_eq!(bench.queue.jobs(Urgency::Bulk), 1);
        assert_eq!(bench.step(20), 4);
        let log = bench.log.lock().unwrap();
        assert!(
            log.iter()
                .all(|(_, firsts)| *firsts == Some(vec![0.0, 1.0]))
        );
        assert_eq!(
            log.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
            ["a", "b", "c"]
        );
    }

    #[test]
    fn a_failed_batch_ends_its_jobs_only() {
        let mut bench = Bench::default();
        bench.push("a", &[4, 4], Urgency::Bulk);
        bench.push("b", &[4], Urgency::Bulk);
        let parts = bench.queue.take_batch(4);
        for ended in bench.queue.finish(&parts, Err(Error::ShuttingDown)) {
            ended.sink.finish(ended.result);
        }
        assert_eq!(bench.queue.rows(Urgency::Bulk), 4);
        bench.step(4);
        let log = bench.log.lock().unwrap();
        assert_eq!(*log, [("a", None), ("b", Some(vec![0.0]))]);
    }

    #[test]
    fn what_nobody_wants_any_more_is_let_go() {
        let mut bench = Bench::default();
        let wanted = bench.push("a", &[4; 5], Urgency::Bulk);
        bench.push("b", &[4], Urgency::Query);
        bench.step(4);
        wanted.store(false, Ordering::Relaxed);
        assert_eq!(bench.queue.drop_unwanted().len(), 1);
        assert!(bench.queue.is_empty());
        assert_eq!(bench.queue.rows(Urgency::Bulk), 0);
    }
}
