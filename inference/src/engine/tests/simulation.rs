//! The whole engine on a clock that only passes advance: admission, scheduling, pages and requests
//! are the real ones, on one thread and seeded. The model keeps, in the pages, a number for each
//! position that depends on all ids up to there, and says what follows from it: whoever reads a
//! page that is not his says something else.

use std::sync::atomic::AtomicU64;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::{engine::owner::Owner, kv_cache::PAGE_LEN};

/// What a pass costs: the weights, and each row.
const PASS_NANOS: u64 = 5_000_000;
const ROW_NANOS: u64 = 800_000;

/// Tells simulated time.
#[derive(Debug, Clone)]
struct SimulatedClock {
    begin: Instant,
    nanos: Arc<AtomicU64>,
}

impl SimulatedClock {
    fn new() -> Self {
        Self {
            begin: Instant::now(),
            nanos: Arc::default(),
        }
    }

    fn now(&self) -> Instant {
        self.begin + Duration::from_nanos(self.nanos.load(Atomic::SeqCst))
    }

    fn advance(&self, nanos: u64) {
        self.nanos.fetch_add(nanos, Atomic::SeqCst);
    }

    fn advance_to(&self, time: Instant) {
        let nanos = time.saturating_duration_since(self.now()).as_nanos();
        self.advance(nanos as u64);
    }
}

/// The number after one more id.
fn next_state(state: u64, id: u32) -> u64 {
    let mixed = (state ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

/// What is said after a number: never an id that ends or hides.
fn said(state: u64) -> u32 {
    10 + (state >> 40) as u32 % 90
}

/// What a greedy request says.
fn expected(prompt: &[u32], len: usize) -> Vec<u32> {
    let mut state = prompt.iter().fold(0, |state, id| next_state(state, *id));
    let ids = (0..len).map(|_| {
        let id = said(state);
        state = next_state(state, id);
        id
    });
    ids.collect()
}

#[derive(Debug)]
struct SimulatedModel {
    clock: SimulatedClock,
    vocabulary_size: usize,
    sequences: Sequences<Numbers>,
}

struct SimulatedLoader(SimulatedClock);

const PAGE_BYTES: u64 = 1 << 20;

impl Loader for SimulatedLoader {
    fn load(&self, gguf: &Gguf) -> Result<Box<dyn LoadedDecoder>> {
        let embedding = gguf.tensor("token_embd.weight").unwrap();
        Ok(Box::new(SimulatedModel {
            clock: self.0.clone(),
            vocabulary_size: embedding.shape[1] as usize,
            sequences: Sequences::new(PagePool::new((), usize::MAX)),
        }))
    }
}

impl LoadedDecoder for SimulatedModel {
    fn weight_bytes(&self) -> u64 {
        0
    }

    fn page_bytes(&self) -> u64 {
        PAGE_BYTES
    }

    fn page_counts(&self) -> PageCounts {
        self.sequences.counts()
    }

    fn set_pages_max(&mut self, pages_max: usize) {
        self.sequences.set_pages_max(pages_max);
    }

    fn evict(&mut self, count: usize) -> usize {
        self.sequences.evict(count)
    }
}

impl Decoder for SimulatedModel {
    fn begin(&mut self) -> SequenceId {
        self.sequences.begin()
    }

    fn catch_up(&mut self, sequence: SequenceId, ids: &[u32]) -> usize {
        self.sequences.catch_up(sequence, ids)
    }

    fn fork(&mut self, sequence: SequenceId) -> SequenceId {
        self.sequences.fork(sequence)
    }

    fn forget_last(&mut self, sequence: SequenceId, count: usize) {
        self.sequences.forget_last(sequence, count);
    }

    fn remember(&mut self, sequence: SequenceId) {
        self.sequences.remember(sequence);
    }

    fn end(&mut self, sequence: SequenceId) {
        self.sequences.end(sequence);
    }

    fn extend(&mut self, parts: &[Part]) -> Result<LogitRows> {
        let mut lent = self.sequences.lend(parts)?;
        let mut logits = Vec::new();
        for (part, table) in parts.iter().zip(&mut lent.tables) {
            table.reserve(part.ids.len())?;
            for (index, id) in part.ids.iter().enumerate() {
                let position = table.len();
                let before = position.checked_sub(1).map_or(0, |before| {
                    let page = table.contents().nth(before / PAGE_LEN).unwrap();
                    page[before % PAGE_LEN]
                });
                let state = next_state(before, *id);
                let page = table.content_mut(position).expect("a page of its own");
                page[position % PAGE_LEN] = state;
                table.advance(1);
                let is_last = index + 1 == part.ids.len();
                if part.logits_len() > 1 || (is_last && part.logits_len() == 1) {
                    let start = logits.len();
                    logits.resize(start + self.vocabulary_size, 0.0);
                    logits[start + said(state) as usize] = 50.0;
                }
            }
        }
        let rows: usize = parts.iter().map(|part| part.ids.len()).sum();
        self.clock.advance(PASS_NANOS + ROW_NANOS * rows as u64);
        lent.done();
        Ok(LogitRows::new(logits, self.vocabulary_size))
    }
}

/// What became of a request, told by its sink.
#[derive(Debug, Default, Clone)]
struct Fate {
    ids: Vec<u32>,
    pieces: usize,
    is_done: bool,
    error: Option<Error>,
}

/// The engine without a thread of its own.
struct Simulation {
    clock: SimulatedClock,
    engine: Engine,
    owner: Owner,
    _folder: tempfile::TempDir,
}

impl Simulation {
    fn new(config: EngineConfig) -> Self {
        let clock = SimulatedClock::new();
        let told = clock.clone();
        let engine = Engine::assemble(
            config,
            Box::new(SimulatedLoader(clock.clone())),
            "simulated".into(),
            false,
            Box::new(move || told.now()),
        );
        let owner = Owner::new(Arc::clone(&engine.handle.shared));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        fs::copy(tiny_model(), &path).unwrap();
        engine.register("model", &path).unwrap();
        let mut simulation = Self {
            clock,
            engine,
            owner,
            _folder: folder,
        };
        // Loading takes a real thread's time, which is none of the simulated one.
        let (sender, loaded) = sync_channel(10);
        let keep = Some(Duration::MAX);
        simulation
            .engine
            .preload("model", keep, sink_to(sender))
            .unwrap();
        while loaded.try_recv().is_err() {
            simulation.act();
            thread::yield_now();
        }
        simulation
    }

    /// Does what there is to do now; returns whether there was anything.
    fn act(&mut self) -> bool {
        let shared = Arc::clone(&self.engine.handle.shared);
        let next = self.owner.decide(&mut shared.lock(), shared.now());
        next.is_some_and(|next| self.owner.act(next))
    }

    fn counts(&self) -> PageCounts {
        let state = self.engine.shared().lock();
        let (_, parts) = state.residency.models().next().unwrap();
        parts.decoder().page_counts()
    }
}

/// A request that says what becomes of it; `leaves_after` so many pieces.
fn sink(fate: &Arc<Mutex<Fate>>, leaves_after: usize) -> EventSink {
    let fate = Arc::clone(fate);
    Box::new(move |event| {
        let mut fate = fate.lock().unwrap();
        match event {
            GenerationEvent::Piece { logprobs, .. } => {
                fate.ids.extend(logprobs.iter().map(|logprob| logprob.id));
                fate.pieces += 1;
            }
            GenerationEvent::Done(_) => fate.is_done = true,
            GenerationEvent::Failed(error) => fate.error = Some(error),
            _ => {}
        }
        if fate.pieces >= leaves_after {
            Flow::Cancel
        } else {
            Flow::Continue
        }
    })
}

/// A length that is mostly short and now and then very long.
fn heavy_tailed(random: &mut ChaCha8Rng, typical: f64, max: usize) -> usize {
    let uniform: f64 = random.random_range(0.0001..1.0);
    ((typical / uniform.powf(0.8)) as usize).clamp(1, max)
}

fn simulated_config() -> EngineConfig {
    EngineConfig {
        running_max: 32,
        queue_len_max: 200,
        memory_budget_bytes: 60 * PAGE_BYTES,
        context_length_max: 512,
        speculation: Speculation::Auto,
        ..config()
    }
}

/// Requests of all kinds, which come in bursts.
struct Crowd {
    simulation: Simulation,
    random: ChaCha8Rng,
    /// What many of them begin with.
    systems: Vec<Vec<u32>>,
    next_arrival: Instant,
    arrivals: usize,
    watched: Vec<Watched>,
    outcome: Outcome,
}

/// A request that was taken.
struct Watched {
    fate: Arc<Mutex<Fate>>,
    prompt: Vec<u32>,
    completion_max: usize,
    arrived: Instant,
}

/// How many requests ended how.
#[derive(Debug, Default)]
struct Outcome {
    done: usize,
    left: usize,
    late: usize,
    refused: usize,
    /// The machine had too little memory for them.
    short: usize,
    longest: Duration,
}

impl Crowd {
    fn new(seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let simulation = Simulation::new(simulated_config());
        let systems = (0..20).map(|_| {
            let len = heavy_tailed(&mut random, 40.0, 250);
            (0..len).map(|_| random.random_range(10..100)).collect()
        });
        Self {
            systems: systems.collect(),
            next_arrival: simulation.clock.now(),
            simulation,
            random,
            arrivals: 0,
            watched: Vec::new(),
            outcome: Outcome::default(),
        }
    }

    /// Has other programs take memory, or give it back.
    fn vary_memory(&mut self) {
        if self.random.random_bool(0.999) {
            return;
        }
        let available = match self.random.random_range(0..4) {
            0 => self.random.random_range(0..20) * PAGE_BYTES,
            _ => u64::MAX,
        };
        let reserve = self.random.random_range(0..40) * PAGE_BYTES;
        let engine = &self.simulation.engine;
        engine.note_available_memory(available, reserve);
    }

    /// Has the next burst come, if it is time.
    fn arrive(&mut self, requests: usize) {
        if self.arrivals >= requests || self.next_arrival > self.simulation.clock.now() {
            return;
        }
        let burst = heavy_tailed(&mut self.random, 2.0, 300);
        for _ in 0..burst.min(requests - self.arrivals) {
            self.arrivals += 1;
            self.ask();
        }
        let pause: f64 = self.random.random_range(0.0001..1.0);
        self.next_arrival += Duration::from_secs_f64(-pause.ln() * 1.1);
    }

    fn ask(&mut self) {
        let random = &mut self.random;
        let system = &self.systems[heavy_tailed(random, 1.0, self.systems.len()) - 1];
        let own = heavy_tailed(random, 8.0, 150);
        let own = (0..own).map(|_| random.random_range(10..100));
        let prompt: Vec<u32> = system.iter().copied().chain(own).collect();
        let completion_max = heavy_tailed(random, 6.0, 110);
        let leaves_after = match random.random_range(0..5) {
            0 => random.random_range(1..20),
            _ => usize::MAX,
        };
        let has_deadline = random.random_bool(0.05);
        let request = GenerateRequest {
            prompt: Prompt::TokenIds(prompt.clone()),
            logprobs: Some(0),
            weight: [0.5, 1.0, 4.0][random.random_range(0..3)],
            priority: random.random_range(-2..=2),
            deadline: has_deadline.then(|| Duration::from_millis(random.random_range(0..9000))),
            ..request("model", completion_max)
        };
        let fate = Arc::new(Mutex::new(Fate::default()));
        let cancel = CancelFlag::default();
        let sink = sink(&fate, leaves_after);
        let engine = &self.simulation.engine;
        match engine.submit_cancellable(request, sink, cancel.clone()) {
            Ok(()) => {
                if random.random_bool(0.02) {
                    cancel.cancel();
                }
                self.watched.push(Watched {
                    fate,
                    prompt,
                    completion_max,
                    arrived: self.simulation.clock.now(),
                });
            }
            Err(Error::QueueFull { retry_after }) => {
                assert!(retry_after >= Duration::from_secs(1));
                self.outcome.refused += 1;
            }
            Err(Error::DeadlineTooSoon { .. }) => self.outcome.late += 1,
            Err(error) => panic!("{error}"),
        }
    }

    /// Does what there is to do, or has time pass until something comes.
    fn go_on(&mut self) {
        let simulation = &mut self.simulation;
        if simulation.act() {
            return;
        }
        let now = simulation.clock.now();
        let idle = simulation.engine.shared().lock().idle_time(now);
        let wakes = idle.map(|idle| now + idle).into_iter();
        let until = wakes.chain([self.next_arrival]).min().unwrap();
        simulation
            .clock
            .advance_to(until.max(now + Duration::from_nanos(1)));
    }

    /// Looks at who has ended and how, and that nobody waits for too long.
    fn check(&mut self) {
        /// Longest time from arrival to end. The queue is full for long stretches.
        const TIME_MAX: Duration = Duration::from_secs(200);
        let status = self.simulation.engine.status();
        assert!(status.running <= 32 && status.queued <= 232);
        let now = self.simulation.clock.now();
        let outcome = &mut self.outcome;
        self.watched.retain(|watched| {
            let time = now.saturating_duration_since(watched.arrived);
            // The engine has dropped the sink when it is over.
            if Arc::strong_count(&watched.fate) > 1 {
                assert!(time < TIME_MAX, "starved for {time:?}");
                return true;
            }
            let fate = watched.fate.lock().unwrap();
            let expected = expected(&watched.prompt, watched.completion_max);
            assert_eq!(fate.ids, expected[..fate.ids.len()]);
            match &fate.error {
                None if fate.is_done => {
                    assert_eq!(fate.ids.len(), watched.completion_max);
                    outcome.done += 1;
                }
                None => outcome.left += 1,
                Some(Error::DeadlineExceeded) => outcome.late += 1,
                Some(Error::CacheFull(_) | Error::MachineMemoryShort { .. }) => outcome.short += 1,
                Some(error) => panic!("{error}"),
            }
            outcome.longest = outcome.longest.max(time);
            false
        });
    }
}

#[test]
fn a_hundred_thousand_requests_lose_nothing_and_nobody() {
    const REQUESTS: usize = 100_000;
    let mut crowd = Crowd::new(11);
    while crowd.arrivals < REQUESTS || !crowd.watched.is_empty() {
        crowd.vary_memory();
        crowd.arrive(REQUESTS);
        crowd.go_on();
        crowd.check();
    }
    let status = crowd.simulation.engine.status();
    let counts = crowd.simulation.counts();
    let simulated = crowd.simulation.clock.now() - crowd.simulation.clock.begin;
    let Outcome {
        done,
        left,
        late,
        refused,
        short,
        longest,
    } = crowd.outcome;
    let told = format!(
        "{done} done, {left} left, {late} late, {refused} refused, {short} short, {} suspended, \
         {} of {} prompt ids known, longest {longest:?}, simulated {simulated:?}",
        status.suspended_total, status.cached_tokens_total, status.prompt_tokens_total,
    );
    println!("{told}");
    assert_eq!((status.running, status.queued), (0, 0));
    assert_eq!(counts.sequences, 0, "{told}");
    assert_eq!(counts.existing, counts.evictable, "{told}");
    assert!(counts.existing <= 60, "{told}");
    assert_eq!(done + left + late + refused + short, REQUESTS, "{told}");
    // All of it has happened.
    assert!(
        done > 50_000 && left > 1000 && late > 100 && refused > 1000 && short > 10,
        "{told}"
    );
    assert!(status.suspended_total > 100, "{told}");
    assert!(
        status.cached_tokens_total > status.prompt_tokens_total / 3,
        "{told}"
    );
}

#[test]
fn clients_that_always_ask_get_tokens_by_their_weights() {
    const WEIGHTS: [f32; 4] = [0.5, 1.0, 2.0, 4.0];
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let mut simulation = Simulation::new(EngineConfig {
        memory_budget_bytes: 4000 * PAGE_BYTES,
        ..simulated_config()
    });
    // Each weight has four clients, each of whom asks anew as soon as it is answered.
    let mut clients: Vec<(usize, Arc<Mutex<Fate>>)> =
        (0..16).map(|client| (client % 4, Arc::default())).collect();
    let mut tokens = [0_usize; 4];
    let end = simulation.clock.now() + Duration::from_secs(3000);
    while simulation.clock.now() < end {
        for (weight, fate) in &mut clients {
            if Arc::strong_count(fate) > 1 {
                continue;
            }
            tokens[*weight] += fate.lock().unwrap().ids.len();
            *fate = Arc::default();
            let len = heavy_tailed(&mut random, 10.0, 200);
            let request = GenerateRequest {
                prompt: Prompt::TokenIds(vec![random.random_range(10..100); len]),
                logprobs: Some(0),
                weight: WEIGHTS[*weight],
                ..self::request("model", heavy_tailed(&mut random, 40.0, 300))
            };
            let sink = sink(fate, usize::MAX);
            simulation.engine.submit(request, sink).unwrap();
        }
        simulation.act();
    }
    let per_weight = tokens.map(|tokens| tokens as f64);
    let all: f64 = per_weight.iter().sum();
    let weights: f32 = WEIGHTS.iter().sum();
    for (tokens, weight) in per_weight.iter().zip(WEIGHTS) {
        let share = tokens / all;
        let expected = f64::from(weight / weights);
        let difference = share / expected - 1.0;
        assert!(
            difference.abs() < 0.1,
            "{share} for {expected}: {tokens:?} of {per_weight:?}"
        );
    }
}

#[test]
fn a_long_prompt_hardly_delays_the_tokens_of_others() {
    let mut simulation = Simulation::new(EngineConfig {
        memory_budget_bytes: 4000 * PAGE_BYTES,
        ..simulated_config()
    });
    let times = Arc::new(Mutex::new(Vec::new()));
    let (told, clock) = (Arc::clone(&times), simulation.clock.clone());
    let sink: EventSink = Box::new(move |event| {
        if matches!(event, GenerationEvent::Piece { .. }) {
            told.lock().unwrap().push(clock.now());
        }
        Flow::Continue
    });
    simulation
        .engine
        .submit(request("model", 300), sink)
        .unwrap();
    for salt in 0..8_u32 {
        let fate = Arc::new(Mutex::new(Fate::default()));
        let request = GenerateRequest {
            prompt: Prompt::TokenIds((0..500).map(|i| 10 + (i * salt) % 90).collect()),
            ..request("model", 5)
        };
        let sink = self::sink(&fate, usize::MAX);
        simulation.engine.submit(request, sink).unwrap();
    }
    while simulation.engine.status().running + simulation.engine.status().queued > 0 {
        simulation.act();
    }
    let times = times.lock().unwrap();
    let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
    let mut gaps: Vec<Duration> = gaps.collect();
    gaps.sort_unstable();
    assert_eq!(gaps.len(), 299);
    let p99 = gaps[gaps.len() * 99 / 100];
    assert!(p99 <= Duration::from_millis(50), "{p99:?}");
}
