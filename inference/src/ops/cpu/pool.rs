//! A team of threads for regions of many short parallel steps.
//!
//! A decoded token is some two hundred steps of a few microseconds each, with a barrier after every
//! one: waking threads for each would cost more than the work. [`Pool::run`] opens a region that
//! every thread of the team enters once; inside, [`Team::for_each`] shares out a step's pieces and
//! waits for all of them. A thread that waits spins for a moment, then yields, then sleeps, so a
//! team that is idle or has lost its core costs nothing.
//!
//! Where the cores are so busy that waiting costs more than the team gains, the caller works alone
//! for a while ([`pacing`]).
//!
//! Pieces are claimed one by one, and a helper that comes late, or never, finds its share done by
//! the others: on busy cores the caller alone makes progress. All threads must ask for the same
//! steps in the same order. A late one runs through the steps that are over while the others write
//! in a later one, so a region's closure touches shared data inside `for_each` only.

#![expect(
    unsafe_code,
    reason = "a borrowed closure is handed to threads that outlive it; see Region"
)]

use std::{
    cell::{Cell, RefCell},
    fmt,
    hint::spin_loop,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Condvar, LazyLock, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

mod pacing;

use pacing::Pacing;

/// Turns of a waiting loop before it looks at the clock: shorter waits are a step's usual end.
const SPINS_UNTIMED: u32 = 50;
/// Turns of a waiting loop before the core is offered to others. A turn is a pause instruction, of
/// 20 to 70 ns; a step's pieces take a microsecond or a few.
const SPINS_IN_STEP: u32 = 1_000;
/// The same between regions: the time from one token to the next, with sampling between.
const SPINS_BETWEEN_REGIONS: u32 = 10_000;
/// Times that the core is offered to others before a thread sleeps.
const YIELDS: u32 = 16;

/// Threads that work on one region at a time. Dropping it ends them.
pub struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    /// Held by whoever runs a region.
    pacing: Mutex<Pacing>,
}

/// One thread's view of a region.
pub struct Team<'a> {
    shared: &'a Shared,
    threads: usize,
    /// Steps that this thread has been through.
    step: Cell<u32>,
    /// How long it has waited for others.
    waited: Cell<Duration>,
}

struct Shared {
    /// The region that is open; see [`Region`].
    region: AtomicU64,
    /// What to do in it; valid while it is open.
    body: Mutex<Option<Body>>,
    /// Helpers inside the region, plus [`CLOSED`] while nobody may enter.
    inside: AtomicUsize,
    /// The step in the upper half, its next unclaimed piece in the lower.
    claim: AtomicU64,
    /// Pieces of the step that are complete.
    done: AtomicU32,
    has_panicked: AtomicBool,
    is_stopping: AtomicBool,
    /// Threads that sleep, or are about to.
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    changed: Condvar,
}

/// Set in [`Shared::inside`] while no region is open.
const CLOSED: usize = 1 << (usize::BITS - 1);

/// A region's closure with its lifetime taken away.
#[derive(Clone, Copy)]
struct Body(*const (dyn Fn(&Team<'_>) + Sync));

// SAFETY: the closure is `Sync`, and is only called between a helper's entry and exit, which
// `Pool::run` outlasts: it does not return, nor unwind, before `inside` is `CLOSED` alone.
unsafe impl Send for Body {}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Pool>>> = const { RefCell::new(None) };
}

impl Pool {
    /// Starts a team of `threads`, of which the caller of [`run`](Self::run) is one.
    ///
    /// # Errors
    /// The system's, when it starts no more threads.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let mut pool = Self::alone();
        for index in 1..threads.max(1) {
            let shared = Arc::clone(&pool.shared);
            let helper = thread::Builder::new()
                .name(format!("inference-{index}"))
                .spawn(move || help(&shared, threads))?;
            pool.helpers.push(helper);
        }
        pool.pacing = Mutex::new(Pacing::new(pool.threads()));
        Ok(pool)
    }

    /// The caller alone.
    fn alone() -> Self {
        let shared = Arc::new(Shared {
            region: AtomicU64::new(0),
            body: Mutex::new(None),
            inside: AtomicUsize::new(CLOSED),
            claim: AtomicU64::new(0),
            done: AtomicU32::new(0),
            has_panicked: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            lock: Mutex::new(()),
            changed: Condvar::new(),
        });
        Self {
            shared,
            helpers: Vec::new(),
            pacing: Mutex::new(Pacing::new(1)),
        }
    }

    /// Threads of the team.
    pub fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Runs `body` on every thread of the team that is free to come, the caller among them, and
    /// returns when all have left it.
    ///
    /// # Panics
    /// If `body` panics on any thread.
    pub fn run(&self, body: impl Fn(&Team<'_>) + Sync) {
        // A region within a region, or from a second thread, would mix their steps.
        let mut pacing = self.pacing.lock().unwrap_or_else(PoisonError::into_inner);
        let started = Instant::now();
        if !pacing.wants_team() {
            body(&Team::new(&self.shared, 1));
            pacing.ran_alone(started.elapsed());
            return;
        }
        let team = Team::new(&self.shared, self.threads());
        let region = Region::open(&self.shared, &body);
        body(&team);
        let closing = Instant::now();
        drop(region);
        let ended = Instant::now();
        let waited = team.waited.get() + (ended - closing);
        pacing.ran_together(ended - started, waited);
        drop(pacing);
        if self.shared.has_panicked.load(Ordering::Relaxed) {
            resume_unwind(Box::new("a compute thread panicked"));
        }
    }

    /// Makes this the team of [`current`] on this thread while `work` runs.
    pub fn install<R>(self: &Arc<Self>, work: impl FnOnce() -> R) -> R {
        /// Puts the outer team back, also when `work` unwinds.
        struct Restore(Option<Arc<Pool>>);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0.take());
            }
        }
        let _restore = Restore(CURRENT.replace(Some(Arc::clone(self))));
        work()
    }
}

/// Returns the team that this thread's work is shared with: one of this thread alone where none is
/// installed.
pub fn current() -> Arc<Pool> {
    CURRENT.with_borrow(Clone::clone).unwrap_or_else(|| {
        static ALONE: LazyLock<Arc<Pool>> = LazyLock::new(|| Arc::new(Pool::alone()));
        Arc::clone(&ALONE)
    })
}

/// Shares `0..pieces` out among the current team, in a region of its own.
pub fn for_each(pieces: usize, work: impl Fn(usize) + Sync) {
    let pool = current();
    if pool.threads() == 1 {
        (0..pieces).for_each(work);
    } else {
        pool.run(|team| team.for_each(pieces, &work));
    }
}

impl<'a> Team<'a> {
    fn new(shared: &'a Shared, threads: usize) -> Self {
        Self {
            shared,
            threads,
            step: Cell::new(0),
            waited: Cell::new(Duration::ZERO),
        }
    }

    /// Threads that may take part.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Shares `0..pieces` out among the team and returns when all are done; what they wrote is then
    /// seen by every thread.
    pub fn for_each(&self, pieces: usize, work: impl Fn(usize)) {
        if self.threads == 1 {
            (0..pieces).for_each(work);
            return;
        }
        let step = self.step.get();
        self.step.set(step.wrapping_add(1));
        let pieces = u32::try_from(pieces).expect("a step has fewer than 2^32 pieces");
        if pieces == 0 {
            // Nobody would finish it: every thread passes by itself, and its number with it.
            self.step.set(step);
            return;
        }
        while let Some(piece) = self.claim(step, pieces) {
            let finish = Finish {
                shared: self.shared,
                step,
                pieces,
            };
            work(piece as usize);
            drop(finish);
        }
        let waited = self.shared.wait(SPINS_IN_STEP, || {
            step_of(self.shared.claim.load(Ordering::Acquire)) != step
        });
        self.waited.set(self.waited.get() + waited);
    }

    /// Takes the next piece of a step, unless that is over.
    fn claim(&self, step: u32, pieces: u32) -> Option<u32> {
        let claim = &self.shared.claim;
        let mut seen = claim.load(Ordering::Acquire);
        loop {
            let piece = seen as u32;
            if step_of(seen) != step || piece >= pieces {
                return None;
            }
            match claim.compare_exchange_weak(seen, seen + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(piece),
                Err(now) => seen = now,
            }
        }
    }
}

fn step_of(claim: u64) -> u32 {
    (claim >> 32) as u32
}

/// Counts a piece as done, also when its work panicked: the others must not wait for it.
struct Finish<'a> {
    shared: &'a Shared,
    step: u32,
    pieces: u32,
}

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.shared.has_panicked.store(true, Ordering::Relaxed);
        }
        if self.shared.done.fetch_add(1, Ordering::AcqRel) + 1 < self.pieces {
            return;
        }
        // All pieces are claimed and done, so nobody else changes these until the step advances.
        self.shared.done.store(0, Ordering::Relaxed);
        let next = u64::from(self.step.wrapping_add(1)) << 32;
        self.shared.claim.store(next, Ordering::SeqCst);
        self.shared.wake();
    }
}

/// An open region. Closing it waits for the helpers, so that nobody uses the body afterwards.
struct Region<'a> {
    shared: &'a Shared,
}

impl<'a> Region<'a> {
    fn open(shared: &'a Shared, body: &(dyn Fn(&Team<'_>) + Sync)) -> Self {
        // SAFETY: only the lifetime changes; `Body` says why nobody calls it too late.
        let body: *const (dyn Fn(&Team<'_>) + Sync + 'static) =
            unsafe { std::mem::transmute(std::ptr::from_ref(body)) };
        *shared.body.lock().unwrap_or_else(PoisonError::into_inner) = Some(Body(body));
        shared.has_panicked.store(false, Ordering::Relaxed);
        shared.done.store(0, Ordering::Relaxed);
        shared.claim.store(0, Ordering::Relaxed);
        shared.inside.store(0, Ordering::Release);
        shared.region.fetch_add(1, Ordering::SeqCst);
        shared.wake();
        Self { shared }
    }
}

impl Drop for Region<'_> {
    fn drop(&mut self) {
        self.shared.inside.fetch_or(CLOSED, Ordering::SeqCst);
        self.shared.wait(SPINS_IN_STEP, || {
            self.shared.inside.load(Ordering::Acquire) == CLOSED
        });
        let body = &self.shared.body;
        *body.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Shared {
    /// Waits until something another thread announces with [`wake`](Self::wake) is so. Returns for
    /// how long, but for the first moment.
    fn wait(&self, spins: u32, is_so: impl Fn() -> bool) -> Duration {
        for _ in 0..SPINS_UNTIMED {
            if is_so() {
                return Duration::ZERO;
            }
            spin_loop();
        }
        let started = Instant::now();
        self.wait_long(spins, is_so);
        started.elapsed()
    }

    fn wait_long(&self, spins: u32, is_so: impl Fn() -> bool) {
        for _ in 0..spins {
            if is_so() {
                return;
            }
            spin_loop();
        }
        for _ in 0..YIELDS {
            if is_so() {
                return;
            }
            thread::yield_now();
        }
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while !is_so() {
            let woken = self.changed.wait(guard);
            guard = woken.unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    /// Wakes sleepers. What they wait for was stored before, in sequentially consistent order: so
    /// either a sleeper sees it, or its announcement is seen here.
    fn wake(&self) {
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.changed.notify_all();
        }
    }

    /// Enters the open region, if there is one.
    fn enter(&self) -> bool {
        let mut inside = self.inside.load(Ordering::Relaxed);
        while inside & CLOSED == 0 {
            match self.inside.compare_exchange_weak(
                inside,
                inside + 1,
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => inside = now,
            }
        }
        false
    }

    fn leave(&self) {
        self.inside.fetch_sub(1, Ordering::SeqCst);
        self.wake();
    }
}

/// A helper's life: enter each region once, sleep between them.
fn help(shared: &Shared, threads: usize) {
    let mut last = 0;
    loop {
        shared.wait(SPINS_BETWEEN_REGIONS, || {
            shared.region.load(Ordering::Acquire) != last
                || shared.is_stopping.load(Ordering::Acquire)
        });
        if shared.is_stopping.load(Ordering::Acquire) {
            return;
        }
        last = shared.region.load(Ordering::Acquire);
        if !shared.enter() {
            continue;
        }
        let body = *shared.body.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(body) = body {
            let team = Team::new(shared, threads);
            // SAFETY: the region is open and cannot be closed before `leave` below.
            let body = unsafe { &*body.0 };
            if catch_unwind(AssertUnwindSafe(|| body(&team))).is_err() {
                shared.has_panicked.store(true, Ordering::Relaxed);
            }
        }
        shared.leave();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.is_stopping.store(true, Ordering::SeqCst);
        self.shared.wake();
        for helper in self.helpers.drain(..) {
            // It catches the panics of what it runs.
            let _ = helper.join();
        }
    }
}

impl fmt::Debug for Team<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Team")
            .field("threads", &self.threads)
            .field("step", &self.step)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("threads", &self.threads())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A team that is never left, however busy the machine.
    fn patient(threads: usize) -> Pool {
        let pool = Pool::new(threads).unwrap();
        *pool.pacing.lock().unwrap() = Pacing::patient(threads);
        pool
    }

    #[test]
    fn every_piece_is_done_once_and_no_thread_passes_a_step_before_it_is_done() {
        for threads in [1, 2, 3, 8] {
            let pool = patient(threads);
            for round in 0..200 {
                let sizes = [1, 2, 3, 17, 0, 64];
                let steps: Vec<Vec<AtomicU32>> = (0..1 + round % 7)
                    .map(|step| (0..sizes[step % 6]).map(|_| AtomicU32::new(0)).collect())
                    .collect();
                let done_once = |step: &[AtomicU32]| {
                    step.iter().all(|count| count.load(Ordering::Relaxed) == 1)
                };
                pool.run(|team| {
                    for step in &steps {
                        team.for_each(step.len(), |piece| {
                            step[piece].fetch_add(1, Ordering::Relaxed);
                        });
                        assert!(done_once(step));
                    }
                });
                assert!(steps.iter().all(|step| done_once(step)));
            }
        }
    }

    #[test]
    fn writes_of_a_step_are_seen_in_the_next() {
        let pool = patient(4);
        let cells: Vec<AtomicU32> = (0..64).map(|_| AtomicU32::new(0)).collect();
        pool.run(|team| {
            for step in 0..500 {
                team.for_each(cells.len(), |piece| {
                    // Each piece reads its neighbour of the step before.
                    let other = &cells[(piece + 1 + step % 2 * 30) % cells.len()];
                    assert!(other.load(Ordering::Relaxed) >= step as u32);
                    cells[piece].store(step as u32 + 1, Ordering::Relaxed);
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_goes_on() {
        let pool = patient(3);
        for bad in 0..30 {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.run(|team| {
                    team.for_each(30, |piece| assert!(piece != bad, "on purpose"));
                    team.for_each(30, |_| {});
                });
            }));
            assert!(caught.is_err());
            let count = AtomicU32::new(0);
            pool.run(|team| {
                team.for_each(30, |_| {
                    count.fetch_add(1, Ordering::Relaxed);
                });
            });
            assert_eq!(count.into_inner(), 30);
        }
    }

    #[test]
    fn helpers_sleep_when_there_is_nothing_to_do() {
        let pool = patient(4);
        pool.run(|team| team.for_each(10, |_| {}));
        while pool.shared.sleepers.load(Ordering::SeqCst) < 3 {
            thread::yield_now();
        }
        // And come back.
        let waiting = AtomicU32::new(0);
        pool.run(|team| {
            team.for_each(4, |_| {
                waiting.fetch_add(1, Ordering::SeqCst);
                while waiting.load(Ordering::SeqCst) < 4 {
                    thread::yield_now();
                }
            });
        });
    }

    #[test]
    fn a_team_is_installed_for_one_piece_of_work() {
        let outer = Arc::new(Pool::new(3).unwrap());
        let inner = Arc::new(Pool::new(2).unwrap());
        assert_eq!(current().threads(), 1);
        outer.install(|| {
            inner.install(|| assert_eq!(current().threads(), 2));
            assert_eq!(current().threads(), 3);
        });
        assert_eq!(current().threads(), 1);
    }
}
