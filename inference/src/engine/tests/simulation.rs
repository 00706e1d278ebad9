//! The whole engine on a clock that only passes advance: admission, scheduling, pages and requests
//! are the real ones, on one thread and seeded. The model keeps, in the pages, a number for each
//! position that depends on all ids up to there, and says what follows from it: whoever reads a
//! page that is not his says something else.

use std::{collections::BTreeMap, sync::atomic::AtomicU64};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::{
    engine::{model::LoadedParts, owner::Owner},
    kv_cache::PAGE_LEN,
    model::Description,
};

/// What is registered; requests ask most often for the first.
const MODELS: [&str; 3] = ["often", "sometimes", "rarely"];

/// What a pass costs: the weights, and each row.
const PASS_NANOS: u64 = 5_000_000;
const ROW_NANOS: u64 = 800_000;
/// How long it takes to read a model.
const LOAD_TIME: Duration = Duration::from_millis(300);

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
    weight_bytes: u64,
    page_bytes: u64,
    sequences: Sequences<Numbers>,
}

struct SimulatedLoader(SimulatedClock);

/// What a page of the cache takes, and the weights of a model.
fn sizes_of(gguf: &Gguf) -> (u64, u64) {
    let description = Description::from_gguf(gguf).unwrap();
    let page_bytes = description.cache_bytes_per_position(false) * PAGE_LEN as u64;
    (page_bytes, gguf.size_bytes())
}

fn page_bytes() -> u64 {
    sizes_of(&Gguf::open(&tiny_model()).unwrap()).0
}

impl Loader for SimulatedLoader {
    fn load(&self, gguf: &Gguf, _is_busy: bool) -> Result<Box<dyn LoadedDecoder>> {
        let embedding = gguf.tensor("token_embd.weight").unwrap();
        let (page_bytes, weight_bytes) = sizes_of(gguf);
        Ok(Box::new(SimulatedModel {
            clock: self.0.clone(),
            vocabulary_size: embedding.shape[1] as usize,
            weight_bytes,
            page_bytes,
            sequences: Sequences::new(PagePool::new((), usize::MAX)),
        }))
    }
}

impl LoadedDecoder for SimulatedModel {
    fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    fn page_bytes(&self) -> u64 {
        self.page_bytes
    }

    fn page_counts(&self) -> PageCounts {
        self.sequences.counts()
    }

    fn evictable(&self) -> usize {
        self.sequences.evictable()
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
    /// What each choice said.
    ids: BTreeMap<usize, Vec<u32>>,
    pieces: usize,
    is_done: bool,
    error: Option<Error>,
}

/// The engine without a thread of its own.
struct Simulation {
    clock: SimulatedClock,
    engine: Engine,
    owner: Owner,
    /// A model that was read, and when it is there: reading takes simulated time too.
    loaded: Option<(Instant, Result<LoadedParts>)>,
    folder: tempfile::TempDir,
    file_bytes: u64,
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
        Self {
            clock,
            engine,
            owner,
            loaded: None,
            folder: tempfile::tempdir().unwrap(),
            file_bytes: fs::metadata(tiny_model()).unwrap().len(),
        }
    }

    fn register(&self, name: &str) {
        let path = self.folder.path().join(name);
        fs::copy(tiny_model(), &path).unwrap();
        self.engine.register(name, &path).unwrap();
    }

    /// Does what there is to do now; returns whether there was anything.
    fn act(&mut self) -> bool {
        let shared = Arc::clone(&self.engine.handle.shared);
        let now = shared.now();
        if self.loaded.as_ref().is_some_and(|(due, _)| *due <= now) {
            shared.lock().arrived = self.loaded.take().map(|(_, loaded)| loaded);
        }
        let next = self.owner.decide(&mut shared.lock(), now);
        let acted = next.is_some_and(|next| self.owner.act(next));
        self.hold_back_load();
        acted
    }

    /// Has a load that has begun end after some simulated time, whatever it really takes.
    fn hold_back_load(&mut self) {
        let shared = &self.engine.handle.shared;
        if self.loaded.is_some() || shared.lock().residency.loading().is_none() {
            return;
        }
        loop {
            if let Some(loaded) = shared.lock().arrived.take() {
                self.loaded = Some((shared.now() + LOAD_TIME, loaded));
                return;
            }
            thread::yield_now();
        }
    }

    /// Does what there is to do, or has time pass until there is something.
    fn act_or_wait(&mut self) {
        if !self.act() {
            let until = self.wakes_at().unwrap();
            let least = self.clock.now() + Duration::from_nanos(1);
            self.clock.advance_to(until.max(least));
        }
    }

    /// When something happens by itself, if anything will.
    fn wakes_at(&self) -> Option<Instant> {
        let now = self.clock.now();
        let idle = self.engine.shared().lock().idle_time(now);
        let loaded = self.loaded.as_ref().map(|(due, _)| *due);
        idle.map(|idle| now + idle).into_iter().chain(loaded).min()
    }

    /// Pages of all models: those there are, and those that nobody uses; and sequences.
    fn counts(&self) -> (usize, usize, usize) {
        let state = self.engine.shared().lock();
        let mut all = (0, 0, 0);
        for (_, parts) in state.residency.models() {
            let decoder = parts.decoder();
            let counts = decoder.page_counts();
            all.0 += counts.existing;
            all.1 += decoder.evictable();
            all.2 += counts.sequences;
        }
        all
    }

    /// What weights, caches and what is being read take.
    fn held_bytes(&self) -> u64 {
        let state = self.engine.shared().lock();
        let models = state.residency.models().map(|(_, parts)| {
            let decoder = parts.decoder();
            decoder.weight_bytes() + decoder.page_counts().existing as u64 * decoder.page_bytes()
        });
        let loading = state.residency.loading().map(|_| self.file_bytes);
        models.sum::<u64>() + loading.unwrap_or(0)
    }
}

/// A request that says what becomes of it; `leaves_after` so many pieces.
fn sink(fate: &Arc<Mutex<Fate>>, leaves_after: usize) -> EventSink {
    let fate = Arc::clone(fate);
    Box::new(move |event| {
        let mut fate = fate.lock().unwrap();
        match event {
            GenerationEvent::Piece {
                choice, logprobs, ..
            } => {
                let ids = logprobs.iter().map(|logprob| logprob.id);
                fate.ids.entry(choice).or_default().extend(ids);
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
        // Room for two models and some pages.
        memory_budget_bytes: 2 * 9 * fs::metadata(tiny_model()).unwrap().len() / 8
            + 60 * page_bytes(),
        idle_unload: Duration::from_secs(20),
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
    /// Whether other programs take memory, and give it back.
    is_crowded: bool,
    next_change: Instant,
    page_bytes: u64,
    watched: Vec<Watched>,
    outcome: Outcome,
}

/// A request that was taken.
struct Watched {
    fate: Arc<Mutex<Fate>>,
    prompt: Vec<u32>,
    choices: usize,
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
    fn new(seed: u64, is_crowded: bool) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let simulation = Simulation::new(simulated_config());
        MODELS.iter().for_each(|name| simulation.register(name));
        let systems = (0..20).map(|_| {
            let len = heavy_tailed(&mut random, 40.0, 250);
            (0..len).map(|_| random.random_range(10..100)).collect()
        });
        Self {
            systems: systems.collect(),
            next_arrival: simulation.clock.now(),
            next_change: simulation.clock.now(),
            simulation,
            random,
            arrivals: 0,
            is_crowded,
            page_bytes: page_bytes(),
            watched: Vec::new(),
            outcome: Outcome::default(),
        }
    }

    /// Has other programs take memory, or give it back.
    fn vary_memory(&mut self) {
        let now = self.simulation.clock.now();
        if !self.is_crowded || now < self.next_change {
            return;
        }
        self.next_change = now + Duration::from_millis(self.random.random_range(100..4000));
        let page_bytes = self.page_bytes;
        let available = match self.random.random_range(0..4) {
            0 => self.random.random_range(0..20) * page_bytes,
            _ => u64::MAX,
        };
        let reserve = self.random.random_range(0..60) * page_bytes;
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
        let choices = [1, 1, 1, 1, 1, 2, 4][random.random_range(0..7)];
        let model = MODELS[heavy_tailed(random, 0.4, MODELS.len()) - 1];
        let request = GenerateRequest {
            prompt: Prompt::TokenIds(prompt.clone()),
            logprobs: Some(0),
            choices,
            weight: [0.5, 1.0, 4.0][random.random_range(0..3)],
            priority: random.random_range(-2..=2),
            deadline: has_deadline.then(|| Duration::from_millis(random.random_range(0..9000))),
            ..request(model, completion_max)
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
                    choices,
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
        let until = simulation.wakes_at().into_iter().chain([self.next_arrival]);
        let until = until.min().unwrap().max(now + Duration::from_nanos(1));
        simulation.clock.advance_to(until);
    }

    /// Looks at who has ended and how, and that nobody waits for too long.
    fn check(&mut self) {
        /// Longest time from arrival to end. The queue is full for long stretches.
        const TIME_MAX: Duration = Duration::from_secs(200);
        let status = self.simulation.engine.status();
        assert!(status.running <= 32 && status.queued <= 232);
        let budget_bytes = self.simulation.engine.shared().config.memory_budget_bytes;
        let held_bytes = self.simulation.held_bytes();
        assert!(
            held_bytes <= budget_bytes,
            "{held_bytes} of {budget_bytes}: {status:?}"
        );
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
            for ids in fate.ids.values() {
                assert_eq!(*ids, expected[..ids.len()]);
            }
            match &fate.error {
                None if fate.is_done => {
                    assert_eq!(fate.ids.len(), watched.choices);
                    assert!(fate.ids.values().all(|ids| ids.len() == expected.len()));
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

/// Has so many requests come and end; returns how they ended, and the engine's counts.
fn simulate(requests: usize, is_crowded: bool) -> (Outcome, EngineStatus) {
    let mut crowd = Crowd::new(11, is_crowded);
    while crowd.arrivals < requests || !crowd.watched.is_empty() {
        crowd.vary_memory();
        crowd.arrive(requests);
        crowd.go_on();
        crowd.check();
    }
    let status = crowd.simulation.engine.status();
    let (pages, idle, sequences) = crowd.simulation.counts();
    assert_eq!((status.running, status.queued), (0, 0));
    assert_eq!((sequences, pages), (0, idle));
    let simulated = crowd.simulation.clock.now() - crowd.simulation.clock.begin;
    println!(
        "{:?} in {simulated:?}, {} suspended, {} of {} prompt ids known",
        crowd.outcome,
        status.suspended_total,
        status.cached_tokens_total,
        status.prompt_tokens_total,
    );
    let Outcome {
        done,
        left,
        late,
        refused,
        short,
        ..
    } = crowd.outcome;
    assert_eq!(done + left + late + refused + short, requests);
    // All of it has happened.
    assert!(done > requests / 2 && left > requests / 100 && late > requests / 1000);
    assert!(refused > requests / 1000 && status.suspended_total > requests as u64 / 1000);
    assert!(status.cached_tokens_total > status.prompt_tokens_total / 3);
    (crowd.outcome, status)
}

#[test]
fn a_hundred_thousand_requests_lose_nothing_and_nobody() {
    let (outcome, _) = simulate(100_000, false);
    assert_eq!(outcome.short, 0, "there is room for whoever was taken");
}

#[test]
fn a_machine_that_is_short_of_memory_is_kept_to() {
    let (outcome, _) = simulate(10_000, true);
    assert!(outcome.short > 10);
}

#[test]
fn clients_that_always_ask_get_tokens_by_their_weights() {
    const WEIGHTS: [f32; 4] = [0.5, 1.0, 2.0, 4.0];
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let mut simulation = Simulation::new(EngineConfig {
        memory_budget_bytes: 4000 * page_bytes(),
        ..simulated_config()
    });
    simulation.register("model");
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
            tokens[*weight] += fate
                .lock()
                .unwrap()
                .ids
                .values()
                .map(Vec::len)
                .sum::<usize>();
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
        simulation.act_or_wait();
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
        memory_budget_bytes: 4000 * page_bytes(),
        ..simulated_config()
    });
    simulation.register("model");
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
        simulation.act_or_wait();
    }
    let times = times.lock().unwrap();
    let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
    let mut gaps: Vec<Duration> = gaps.collect();
    gaps.sort_unstable();
    assert_eq!(gaps.len(), 299);
    let p99 = gaps[gaps.len() * 99 / 100];
    assert!(p99 <= Duration::from_millis(50), "{p99:?}");
}
