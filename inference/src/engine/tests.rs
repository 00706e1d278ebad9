//! The engine on a model that blocks, fails or answers on demand; vocabulary and header are a real
//! tiny file's.

use std::{
    fs,
    path::PathBuf,
    sync::{
        atomic::{AtomicUsize, Ordering as Atomic},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use super::*;

mod scripted;
mod simulation;

use self::scripted::{Controls, PANIC, ScriptedLoader};

use crate::{
    engine::{
        model::LoadedDecoder,
        sequences::{PageCounts, Sequences},
    },
    generate::{Decoder, Part, SequenceId},
    gguf::Gguf,
    kv_cache::{PagePool, tests::Numbers},
    logits::LogitRows,
    request::{FinishReason, Prompt, SamplingParams},
};

/// Long enough for a loaded machine; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

struct Fixture {
    engine: Engine,
    controls: Arc<Controls>,
    folder: PathBuf,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.engine.shutdown(Duration::ZERO);
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn tiny_model() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/tiny/llama-q8_0.gguf")
}

fn config() -> EngineConfig {
    EngineConfig {
        backend: BackendChoice::Cpu,
        threads: 1,
        running_max: 2,
        queue_len_max: 4,
        memory_budget_bytes: 1 << 30,
        idle_unload: Duration::from_secs(3600),
        context_length_max: 128,
        // Tests count steps, and the scripted text is easy to guess.
        speculation: Speculation::Off,
    }
}

impl Fixture {
    fn new(config: EngineConfig) -> Self {
        Self::on(config, false)
    }

    fn on(config: EngineConfig, is_gpu: bool) -> Self {
        static FOLDERS: AtomicUsize = AtomicUsize::new(0);
        let number = FOLDERS.fetch_add(1, Atomic::SeqCst);
        let name = format!("aither-engine-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        let controls = Arc::new(Controls::default());
        let loader = Box::new(ScriptedLoader(Arc::clone(&controls)));
        let engine = Engine::start_with(config, loader, "scripted".into(), is_gpu).unwrap();
        Self {
            engine,
            controls,
            folder,
        }
    }

    /// Registers a copy of the tiny model.
    fn register(&self, name: &str) -> PathBuf {
        let path = self.folder.join(name);
        fs::copy(tiny_model(), &path).unwrap();
        self.engine.register(name, &path).unwrap();
        path
    }

    /// Closes the gate before each step; dropping the sender opens it for good.
    fn gate(&self) -> SyncSender<()> {
        let (sender, receiver) = sync_channel(1000);
        *self.controls.gate.lock().unwrap() = Some(receiver);
        sender
    }

    fn submit(&self, request: GenerateRequest) -> Result<Receiver<GenerationEvent>> {
        let (sender, receiver) = sync_channel(1000);
        self.engine.submit(request, sink_to(sender))?;
        Ok(receiver)
    }

    fn run(&self, request: GenerateRequest) -> Vec<GenerationEvent> {
        collect(&self.submit(request).unwrap())
    }

    /// Waits until a shutdown has begun.
    fn wait_until_draining(&self) {
        let is_serving = || self.engine.shared().lock().phase == Phase::Serving;
        let begin = Instant::now();
        while is_serving() {
            assert!(
                begin.elapsed() < PATIENCE,
                "waited in vain for the shutdown"
            );
            thread::yield_now();
        }
    }

    /// Waits until the status meets a condition.
    fn wait_for(&self, what: &str, condition: impl Fn(&EngineStatus) -> bool) {
        let begin = Instant::now();
        while !condition(&self.engine.status()) {
            assert!(begin.elapsed() < PATIENCE, "waited in vain until {what}");
            thread::yield_now();
        }
    }
}

/// A sink that hands events on and cancels once nobody listens.
fn sink_to(sender: SyncSender<GenerationEvent>) -> EventSink {
    Box::new(move |event| match sender.try_send(event) {
        Ok(()) => Flow::Continue,
        Err(_) => Flow::Cancel,
    })
}

/// Takes events until the sink is dropped.
fn collect(receiver: &Receiver<GenerationEvent>) -> Vec<GenerationEvent> {
    let mut events = Vec::new();
    while let Ok(event) = receiver.recv_timeout(PATIENCE) {
        events.push(event);
    }
    events
}

fn request(model: &str, completion_max: usize) -> GenerateRequest {
    GenerateRequest {
        max_completion_tokens: Some(completion_max),
        sampling: SamplingParams {
            temperature: 0.0,
            ..SamplingParams::default()
        },
        ..GenerateRequest::new(model, Prompt::TokenIds(vec![1, 2, 3]))
    }
}

fn stats(events: &[GenerationEvent]) -> &GenerationStats {
    match events.last() {
        Some(GenerationEvent::Done(stats)) => stats,
        other => panic!("the last event is {other:?}"),
    }
}

fn failure(events: &[GenerationEvent]) -> &Error {
    match events.last() {
        Some(GenerationEvent::Failed(error)) => error,
        other => panic!("the last event is {other:?}"),
    }
}

#[test]
fn a_request_reports_in_order_and_is_counted() {
    let fixture = Fixture::new(config());
    fixture.register("a");
    let events = fixture.run(GenerateRequest {
        choices: 2,
        ..request("a", 3)
    });
    assert!(matches!(
        events[0],
        GenerationEvent::Started { prompt_tokens: 3 }
    ));
    let done = events.iter().filter(|event| match event {
        GenerationEvent::ChoiceDone { finish_reason, .. } => *finish_reason == FinishReason::Length,
        _ => false,
    });
    assert_eq!(done.count(), 2);
    let stats = stats(&events);
    assert_eq!((stats.prompt_tokens, stats.completion_tokens), (3, 6));
    let status = fixture.engine.status();
    assert_eq!((status.running, status.queued), (0, 0));
    assert_eq!(
        (status.prompt_tokens_total, status.completion_tokens_total),
        (3, 6)
    );
    assert_eq!(status.loaded[0].name, "a");
    assert_eq!(
        status.loaded[0].resident_bytes,
        fs::metadata(tiny_model()).unwrap().len()
    );
}

#[test]
fn a_text_that_is_easy_to_guess_is_drafted_and_counted() {
    let drafted = |speculation, is_gpu| {
        let config = EngineConfig {
            speculation,
            ..config()
        };
        let fixture = Fixture::on(config, is_gpu);
        fixture.register("a");
        let events = fixture.run(request("a", 40));
        let stats = stats(&events);
        let status = fixture.engine.status();
        assert_eq!(stats.completion_tokens, 40);
        assert_eq!(status.completion_tokens_total, 40);
        let counted = [status.drafted_tokens_total, status.accepted_tokens_total];
        let reported = [stats.drafted_tokens, stats.accepted_tokens];
        assert_eq!(counted, reported.map(|count| count as u64));
        reported
    };
    let [drafted_tokens, accepted_tokens] = drafted(Speculation::Auto, false);
    assert!(drafted_tokens > 10 && accepted_tokens == drafted_tokens);
    assert_eq!(drafted(Speculation::Off, false), [0, 0]);
    assert_eq!(
        drafted(Speculation::Auto, true),
        [0, 0],
        "rows differ on a GPU"
    );
}

#[test]
fn a_model_is_loaded_once_for_many_requests() {
    let fixture = Fixture::new(config());
    fixture.register("a");
    let receivers: Vec<_> = (0..5)
        .map(|_| fixture.submit(request("a", 2)).unwrap())
        .collect();
    for receiver in &receivers {
        stats(&collect(receiver));
    }
    assert_eq!(fixture.controls.loads.load(Atomic::SeqCst), 1);
}

#[test]
fn a_receiver_that_has_gone_frees_its_place_before_the_next_step() {
    let fixture = Fixture::new(EngineConfig {
        running_max: 1,
        ..config()
    });
    fixture.register("a");
    let gate = fixture.gate();
    let receiver = fixture.submit(request("a", 100)).unwrap();
    for _ in 0..3 {
        gate.send(()).unwrap();
    }
    // The prompt and its first id, then two more ids.
    for _ in 0..4 {
        receiver.recv_timeout(PATIENCE).unwrap();
    }
    drop(receiver);
    gate.send(()).unwrap();
    fixture.wait_for("the place is free", |status| status.running == 0);
    let status = fixture.engine.status();
    assert_eq!(status.cancelled_total, 1);
    assert_eq!(status.completion_tokens_total, 4);
    drop(gate);
    stats(&fixture.run(request("a", 2)));
}

#[test]
fn a_cancel_flag_ends_a_request_that_waits() {
    let fixture = Fixture::new(EngineConfig {
        running_max: 1,
        ..config()
    });
    fixture.register("a");
    let gate = fixture.gate();
    let running = fixture.submit(request("a", 2)).unwrap();
    fixture.wait_for("one runs", |status| status.running == 1);
    let (sender, waiting) = sync_channel(1000);
    let flag = CancelFlag::default();
    fixture
        .engine
        .submit_cancellable(request("a", 2), sink_to(sender), flag.clone())
        .unwrap();
    assert_eq!(fixture.engine.status().queued, 1);
    flag.cancel();
    gate.send(()).unwrap();
    assert!(collect(&waiting).is_empty());
    assert_eq!(fixture.engine.status().cancelled_total, 1);
    drop(gate);
    stats(&collect(&running));
}

#[test]
fn a_full_queue_refuses_and_says_when_to_come_back() {
    let fixture = Fixture::new(EngineConfig {
        running_max: 1,
        queue_len_max: 1,
        ..config()
    });
    fixture.register("a");
    let gate = fixture.gate();
    let first = fixture.submit(request("a", 2)).unwrap();
    fixture.wait_for("one runs", |status| status.running == 1);
    let second = fixture.submit(request("a", 2)).unwrap();
    let refused = fixture.submit(request("a", 2)).unwrap_err();
    assert!(
        matches!(refused, Error::QueueFull { retry_after } if retry_after.as_secs() >= 1),
        "{refused}"
    );
    assert_eq!(fixture.engine.status().refused_total, 1);
    drop(gate);
    stats(&collect(&first));
    stats(&collect(&second));
    stats(&fixture.run(request("a", 2)));
}

#[test]
fn a_panic_in_model_code_fails_one_request_only() {
    let fixture = Fixture::new(config());
    fixture.register("a");
    let bad = GenerateRequest {
        prompt: Prompt::TokenIds(vec![PANIC]),
        ..request("a", 2)
    };
    let good = fixture.submit(request("a", 50)).unwrap();
    let events = fixture.run(bad);
    assert!(
        matches!(failure(&events), Error::Internal { .. }),
        "{events:?}"
    );
    stats(&collect(&good));
    stats(&fixture.run(request("a", 2)));
}

#[test]
fn a_panicking_sink_does_not_stop_the_engine() {
    let fixture = Fixture::new(config());
    fixture.register("a");
    let sink: EventSink = Box::new(|_| panic!("scripted panic of a sink"));
    fixture.engine.submit(request("a", 2), sink).unwrap();
    stats(&fixture.run(request("a", 2)));
    fixture.wait_for("both ended", |status| status.running == 0);
}

#[test]
fn a_sink_that_panics_on_a_piece_leaves_no_pages_behind() {
    let fixture = Fixture::new(config());
    fixture.register("a");
    for choices in [1, 3] {
        let sink: EventSink = Box::new(|event| match event {
            GenerationEvent::Piece { .. } => panic!("scripted panic of a sink"),
            _ => Flow::Continue,
        });
        let request = GenerateRequest {
            choices,
            ..request("a", 5)
        };
        fixture.engine.submit(request, sink).unwrap();
        fixture.wait_for("it has ended", |status| {
            status.running + status.queued == 0 && !status.loaded.is_empty()
        });
        let state = fixture.engine.shared().lock();
        let (_, parts) = state.residency.models().next().unwrap();
        let decoder = parts.decoder();
        let counts = decoder.page_counts();
        assert_eq!(
            (counts.sequences, counts.existing),
            (0, decoder.evictable())
        );
    }
}

#[test]
fn a_vanished_file_is_an_error_and_a_loaded_model_goes_on() {
    let fixture = Fixture::new(config());
    let first = fixture.register("a");
    let second = fixture.register("b");
    stats(&fixture.run(request("a", 2)));
    fs::remove_file(first).unwrap();
    fs::remove_file(second).unwrap();
    stats(&fixture.run(request("a", 2)));
    let refused = fixture.submit(request("b", 2)).unwrap_err();
    assert!(matches!(refused, Error::ModelFile { .. }), "{refused}");
    stats(&fixture.run(request("a", 2)));
}

#[test]
fn a_file_that_comes_back_is_served_again() {
    let fixture = Fixture::new(config());
    let path = fixture.register("a");
    let aside = path.with_extension("aside");
    fs::rename(&path, &aside).unwrap();
    let refused = fixture.submit(request("a", 2)).unwrap_err();
    assert!(matches!(refused, Error::ModelFile { .. }), "{refused}");
    // A copy is another file with the same content.
    fs::copy(&aside, &path).unwrap();
    stats(&fixture.run(request("a", 2)));
}

#[test]
fn a_replaced_file_is_served_once_the_old_one_is_unused() {
    let fixture = Fixture::new(config());
    let path = fixture.register("a");
    let old_size = fixture.engine.model("a").unwrap().size_bytes;
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend([0; 32]);
    stats(&fixture.run(request("a", 2)));
    fs::write(&path, &bytes).unwrap();
    // In memory it stays what it was.
    stats(&fixture.run(request("a", 2)));
    assert_eq!(fixture.engine.model("a").unwrap().size_bytes, old_size);
    let unload = GenerateRequest {
        keep_alive: Some(Duration::ZERO),
        ..request("a", 2)
    };
    stats(&fixture.run(unload));
    fixture.wait_for("the old one is gone", |status| status.loaded.is_empty());
    stats(&fixture.run(request("a", 2)));
    let new_size = fixture.engine.model("a").unwrap().size_bytes;
    assert_eq!(new_size, bytes.len() as u64);
    assert_eq!(fixture.controls.loads.load(Atomic::SeqCst), 2);
}

#[test]
fn a_file_replaced_by_another_thing_is_refused_until_it_is_mended() {
    let fixture = Fixture::new(config());
    let path = fixture.register("a");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, "no model").unwrap();
    let refused = fixture.submit(request("a", 2)).unwrap_err();
    assert!(matches!(refused, Error::InvalidGguf { .. }), "{refused}");
    fs::write(&path, bytes).unwrap();
    stats(&fixture.run(request("a", 2)));
}

#[test]
fn a_file_that_vanishes_before_it_is_read_fails_those_who_wait_for_it() {
    let fixture = Fixture::new(config());
    fixture.register("a");
    let path = fixture.register("b");
    let (open, load_gate) = sync_channel(10);
    *fixture.controls.load_gate.lock().unwrap() = Some(load_gate);
    let first = fixture.submit(request("a", 2)).unwrap();
    fixture.wait_for("one waits", |status| status.queued == 1);
    // One file is read at a time, so this one is not yet open.
    let second = fixture.submit(request("b", 2)).unwrap();
    fs::remove_file(path).unwrap();
    open.send(()).unwrap();
    drop(open);
    stats(&collect(&first));
    let events = collect(&second);
    assert!(
        matches!(failure(&events), Error::ModelFile { .. }),
        "{events:?}"
    );
    stats(&fixture.run(request("a", 2)));
}

#[test]
fn a_running_request_goes_on_while_another_model_is_read() {
    let fixture = Fixture::new(config());
    fixture.register("a");
    fixture.register("b");
    stats(&fixture.run(request("a", 2)));
    let (open, load_gate) = sync_channel(10);
    *fixture.controls.load_gate.lock().unwrap() = Some(load_gate);
    let waiting = fixture.submit(request("b", 2)).unwrap();
    stats(&fixture.run(request("a", 20)));
    assert_eq!(fixture.engine.status().queued, 1);
    drop(open);
    let events = collect(&waiting);
    assert!(stats(&events).load_time > Duration::ZERO);
}

#[test]
fn an_idle_model_is_evicted_for_another_and_comes_back() {
    let probe = Fixture::new(config());
    probe.register("a");
    let registered = probe.engine.shared().lock_catalogue().get("a").unwrap();
    // Room for one model with its cache, not for two.
    let memory_budget_bytes = registered.expected_bytes() + registered.page_bytes(5 + PAGE_LEN, 1);
    let fixture = Fixture::new(EngineConfig {
        memory_budget_bytes,
        ..config()
    });
    fixture.register("a");
    fixture.register("b");
    for (name, loads) in [("a", 1), ("b", 2), ("b", 2), ("a", 3)] {
        stats(&fixture.run(request(name, 2)));
        let loaded = fixture.engine.status().loaded;
        let names: Vec<&str> = loaded.iter().map(|model| model.name.as_str()).collect();
        assert_eq!(names, [name]);
        assert_eq!(fixture.controls.loads.load(Atomic::SeqCst), loads);
    }
}

#[test]
fn a_request_that_can_never_fit_is_refused_with_numbers() {
    let fixture = Fixture::new(EngineConfig {
        memory_budget_bytes: 1000,
        ..config()
    });
    fixture.register("a");
    let refused = fixture.submit(request("a", 2)).unwrap_err();
    assert!(
        matches!(
            refused,
            Error::OutOfMemory {
                budget_bytes: 1000,
                ..
            }
        ),
        "{refused}"
    );
}

#[test]
fn a_keep_alive_of_zero_unloads_after_the_request() {
    let fixture = Fixture::new(config());
    fixture.register("a");
    let once = GenerateRequest {
        keep_alive: Some(Duration::ZERO),
        ..request("a", 2)
    };
    stats(&fixture.run(once));
    fixture.wait_for("it is unloaded", |status| status.loaded.is_empty());
    let alive = || fixture.controls.alive.load(Atomic::SeqCst);
    let begin = Instant::now();
    while alive() > 0 {
        assert!(begin.elapsed() < PATIENCE);
        thread::yield_now();
    }
    stats(&fixture.run(request("a", 2)));
    assert_eq!(fixture.controls.loads.load(Atomic::SeqCst), 2);
}

#[test]
fn an_idle_model_is_unloaded_after_its_time() {
    let fixture = Fixture::new(EngineConfig {
        idle_unload: Duration::from_millis(20),
        ..config()
    });
    fixture.register("a");
    stats(&fixture.run(request("a", 2)));
    fixture.wait_for("it is unloaded", |status| status.loaded.is_empty());
}

#[test]
fn preloading_loads_and_a_keep_alive_of_zero_unloads() {
    let fixture = Fixture::new(config());
    fixture.register("a");
    let preload = |keep_alive| {
        let (sender, receiver) = sync_channel(10);
        fixture
            .engine
            .preload("a", keep_alive, sink_to(sender))
            .unwrap();
        stats(&collect(&receiver)).clone()
    };
    let loaded = preload(Some(Duration::MAX));
    assert!(loaded.load_time > Duration::ZERO);
    assert_eq!(fixture.engine.status().loaded[0].unloads_in, Duration::MAX);
    assert_eq!(preload(None).load_time, Duration::ZERO);
    preload(Some(Duration::ZERO));
    fixture.wait_for("it is unloaded", |status| status.loaded.is_empty());
    let (sender, _receiver) = sync_channel(10);
    let unknown = fixture
        .engine
        .preload("b", None, sink_to(sender))
        .unwrap_err();
    assert!(matches!(unknown, Error::ModelNotFound { .. }));
}

#[test]
fn a_name_that_is_registered_anew_means_the_new_file() {
    let fixture = Fixture::new(config());
    fixture.register("a");
    stats(&fixture.run(request("a", 2)));
    fixture.register("a");
    fixture.wait_for("the old one is unloaded", |status| status.loaded.is_empty());
    stats(&fixture.run(request("a", 2)));
    assert_eq!(fixture.controls.loads.load(Atomic::SeqCst), 2);
    assert!(fixture.engine.unregister("a"));
    assert!(!fixture.engine.unregister("a"));
    let unknown = fixture.submit(request("a", 2)).unwrap_err();
    assert!(matches!(unknown, Error::ModelNotFound { .. }));
    fixture.wait_for("the last one is unloaded", |status| {
        status.loaded.is_empty()
    });
}

#[test]
fn what_does_not_fit_the_context_is_refused_or_cut() {
    let fixture = Fixture::new(EngineConfig {
        context_length_max: 8,
        ..config()
    });
    fixture.register("a");
    let with = |prompt| GenerateRequest {
        max_completion_tokens: None,
        prompt,
        ..request("a", 1)
    };
    for (prompt, expected) in [
        (Prompt::TokenIds(vec![1; 8]), 8),
        (Prompt::TokenIds(vec![1; 100_000]), 100_000),
        (Prompt::Text("a".repeat(1_000_000)), 250_000),
    ] {
        let refused = fixture.submit(with(prompt)).unwrap_err();
        assert!(
            matches!(refused, Error::PromptTooLong { prompt_tokens, context_length: 8 }
                if prompt_tokens == expected),
            "{refused}"
        );
    }
    for prompt in [
        Prompt::TokenIds(vec![]),
        Prompt::TokenIds(vec![1, u32::MAX]),
    ] {
        let refused = fixture.submit(with(prompt)).unwrap_err();
        assert!(
            matches!(
                refused,
                Error::InvalidRequest {
                    field: "prompt",
                    ..
                }
            ),
            "{refused}"
        );
    }
    let events = fixture.run(with(Prompt::TokenIds(vec![1; 6])));
    assert_eq!(stats(&events).completion_tokens, 2);
}

#[test]
fn running_requests_are_in_every_pass() {
    let fixture = Fixture::new(config());
    fixture.register("a");
    // Both wait for the model, so they start together.
    let (open, load_gate) = sync_channel::<()>(1);
    *fixture.controls.load_gate.lock().unwrap() = Some(load_gate);
    let (sender, events) = sync_channel(1000);
    for name in ["first", "second"] {
        let sender = sender.clone();
        let sink: EventSink = Box::new(move |event| {
            if matches!(event, GenerationEvent::Piece { .. }) {
                sender.try_send(name).unwrap();
            }
            Flow::Continue
        });
        fixture.engine.submit(request("a", 10), sink).unwrap();
    }
    drop((sender, open));
    let order: Vec<&str> = std::iter::from_fn(|| events.recv_timeout(PATIENCE).ok()).collect();
    assert_eq!(order.len(), 20);
    assert!(order.chunks(2).all(|pair| pair[0] != pair[1]), "{order:?}");
}

#[test]
fn shutting_down_lets_a_running_request_finish_and_fails_waiting_ones() {
    let fixture = Fixture::new(EngineConfig {
        running_max: 1,
        ..config()
    });
    fixture.register("a");
    let gate = fixture.gate();
    let running = fixture.submit(request("a", 5)).unwrap();
    fixture.wait_for("one runs", |status| status.running == 1);
    let waiting = fixture.submit(request("a", 5)).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| fixture.engine.shutdown(PATIENCE));
        fixture.wait_until_draining();
        gate.send(()).unwrap();
        let events = collect(&waiting);
        assert!(matches!(failure(&events), Error::ShuttingDown));
        let refused = fixture.submit(request("a", 5)).unwrap_err();
        assert!(matches!(refused, Error::ShuttingDown));
        drop(gate);
    });
    stats(&collect(&running));
}

#[test]
fn a_deadline_that_passes_ends_running_requests() {
    let fixture = Fixture::new(config());
    fixture.register("a");
    let gate = fixture.gate();
    let running = fixture.submit(request("a", 100)).unwrap();
    fixture.wait_for("one runs", |status| status.running == 1);
    thread::scope(|scope| {
        scope.spawn(|| fixture.engine.shutdown(Duration::ZERO));
        fixture.wait_until_draining();
        drop(gate);
        let events = collect(&running);
        assert!(matches!(failure(&events), Error::ShuttingDown));
    });
    fixture.engine.shutdown(PATIENCE);
}

#[test]
fn the_last_handle_stops_the_engine() {
    let fixture = Fixture::new(config());
    fixture.register("a");
    let shared = Arc::clone(&fixture.engine.handle.shared);
    let clone = fixture.engine.clone();
    drop(clone);
    stats(&fixture.run(request("a", 2)));
    drop(fixture);
    assert_eq!(shared.lock().phase, Phase::Stopped);
}
