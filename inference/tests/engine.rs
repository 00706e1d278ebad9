//! The engine on a real model, through the public interface.
//!
//! `AITHER_TEST_MODEL` names the GGUF file of an instruction-tuned model with a chat template;
//! `scripts/test.sh` sets it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use aither_inference::{
    CancelFlag, ChatMessage, Engine, EngineConfig, EngineStatus, Error, FinishReason,
    GenerateRequest, GenerationEvent, GenerationStats, Prompt, SamplingParams, TokenLogprob,
    engine::{BackendChoice, EventSink, Flow, Speculation},
};

/// Long enough for a loaded machine; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(240);

fn model_path() -> PathBuf {
    let path = std::env::var_os("AITHER_TEST_MODEL")
        .expect("AITHER_TEST_MODEL must name a GGUF file; run scripts/test.sh, which fetches one");
    PathBuf::from(path)
}

fn config() -> EngineConfig {
    EngineConfig {
        backend: BackendChoice::Cpu,
        threads: 2,
        running_max: 2,
        queue_len_max: 4,
        memory_budget_bytes: 4 << 30,
        idle_unload: Duration::from_secs(3600),
        context_length_max: 1024,
        speculation: Speculation::Auto,
    }
}

struct Fixture {
    engine: Engine,
}

impl Fixture {
    fn new(config: EngineConfig) -> Self {
        let engine = Engine::start(config).unwrap();
        engine.register("a", &model_path()).unwrap();
        Self { engine }
    }

    fn submit(&self, request: GenerateRequest) -> Result<Receiver<GenerationEvent>, Error> {
        let (sender, receiver) = sync_channel(10_000);
        self.engine.submit(request, sink_to(sender))?;
        Ok(receiver)
    }

    fn run(&self, request: GenerateRequest) -> Answer {
        Answer::collect(&self.submit(request).unwrap())
    }

    fn wait_for(&self, what: &str, condition: impl Fn(&EngineStatus) -> bool) {
        let begin = Instant::now();
        while !condition(&self.engine.status()) {
            assert!(begin.elapsed() < PATIENCE, "waited in vain until {what}");
            thread::yield_now();
        }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.engine.shutdown(Duration::ZERO);
    }
}

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static FOLDERS: AtomicUsize = AtomicUsize::new(0);
        let number = FOLDERS.fetch_add(1, Ordering::SeqCst);
        let name = format!("aither-real-engine-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Puts the model there under a second name.
    fn link(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        if fs::hard_link(model_path(), &path).is_err() {
            fs::copy(model_path(), &path).unwrap();
        }
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn sink_to(sender: SyncSender<GenerationEvent>) -> EventSink {
    Box::new(move |event| match sender.try_send(event) {
        Ok(()) => Flow::Continue,
        Err(_) => Flow::Cancel,
    })
}

/// All that a request reported.
#[derive(Default)]
struct Answer {
    text: Vec<String>,
    finish: Vec<FinishReason>,
    logprobs: Vec<TokenLogprob>,
    stats: Option<GenerationStats>,
    failure: Option<Error>,
}

impl Answer {
    fn collect(receiver: &Receiver<GenerationEvent>) -> Self {
        let mut answer = Self::default();
        while let Ok(event) = receiver.recv_timeout(PATIENCE) {
            match event {
                GenerationEvent::Piece {
                    choice,
                    text,
                    logprobs,
                } => {
                    let choices = answer.text.len().max(choice + 1);
                    answer.text.resize(choices, String::new());
                    answer.text[choice].push_str(&text);
                    answer.logprobs.extend(logprobs);
                }
                GenerationEvent::ChoiceDone { finish_reason, .. } => {
                    answer.finish.push(finish_reason);
                }
                GenerationEvent::Done(stats) => answer.stats = Some(stats),
                GenerationEvent::Failed(error) => answer.failure = Some(error),
                GenerationEvent::Started { .. } | GenerationEvent::Cancelled(_) => {}
            }
        }
        answer
    }

    fn stats(&self) -> &GenerationStats {
        assert!(self.failure.is_none(), "{:?}", self.failure);
        self.stats.as_ref().unwrap()
    }
}

fn chat(question: &str) -> Prompt {
    let message = |role: &str, content: &str| ChatMessage {
        role: role.into(),
        content: content.into(),
    };
    Prompt::Chat(vec![message("user", question)])
}

fn greedy(question: &str, completion_max: usize) -> GenerateRequest {
    GenerateRequest {
        max_completion_tokens: Some(completion_max),
        sampling: SamplingParams {
            temperature: 0.0,
            ..SamplingParams::default()
        },
        ..GenerateRequest::new("a", chat(question))
    }
}

fn sampled(seed: u64, completion_max: usize) -> GenerateRequest {
    GenerateRequest {
        sampling: SamplingParams {
            seed: Some(seed),
            ..SamplingParams::default()
        },
        ..greedy("Tell me a story about a lighthouse.", completion_max)
    }
}

#[test]
fn a_question_gets_an_answer_and_honest_numbers() {
    let fixture = Fixture::new(config());
    let begin = Instant::now();
    let answer = fixture.run(greedy("What is the capital of France?", 16));
    let elapsed = begin.elapsed();
    assert!(!answer.text[0].trim().is_empty());
    assert!(!answer.text[0].contains("<|im_"), "{:?}", answer.text);
    let stats = answer.stats();
    // The question with the template's markup and default system message.
    assert!((10..100).contains(&stats.prompt_tokens));
    assert!((1..=16).contains(&stats.completion_tokens));
    let times = [stats.load_time, stats.prefill_time, stats.decode_time];
    assert!(times.iter().all(|time| *time > Duration::ZERO), "{stats:?}");
    let total = stats.queue_time + times.iter().sum::<Duration>();
    assert!(total <= elapsed, "{total:?} of {elapsed:?}");
}

#[test]
fn the_same_seed_gives_the_same_text_alone_and_in_company() {
    let fixture = Fixture::new(config());
    let alone = fixture.run(sampled(7, 24)).text;
    let (first, second) = (
        fixture.submit(sampled(7, 24)).unwrap(),
        fixture.submit(sampled(8, 24)).unwrap(),
    );
    let in_company = Answer::collect(&first).text;
    let other = Answer::collect(&second).text;
    assert_eq!(alone, in_company);
    assert_ne!(alone, other);
}

#[test]
fn choices_differ_and_the_first_is_that_of_a_single_request() {
    let fixture = Fixture::new(config());
    let single = fixture.run(sampled(3, 16));
    let three = fixture.run(GenerateRequest {
        choices: 3,
        ..sampled(3, 16)
    });
    assert_eq!(three.text.len(), 3);
    assert_eq!(three.text[0], single.text[0]);
    assert_ne!(three.text[0], three.text[1]);
    assert_ne!(three.text[1], three.text[2]);
    assert_eq!(three.stats().prompt_tokens, single.stats().prompt_tokens);
    assert!(three.stats().completion_tokens > single.stats().completion_tokens);
}

/// Texts of which the model goes on with a repetition, and free ones.
fn texts_to_draft() -> Vec<GenerateRequest> {
    let text = "The lighthouse stands on a rock two miles from the harbour. It was built of grey \
                stone when the first steamers came, and for ninety years a keeper climbed its \
                stairs each evening to light the lamp.\n\n";
    let repetitive = || GenerateRequest {
        prompt: Prompt::Text(text.repeat(2)),
        logprobs: Some(2),
        ..greedy("", 40)
    };
    let penalized = SamplingParams {
        repetition_penalty: 1.1,
        frequency_penalty: 0.2,
        top_k: 40,
        top_p: 0.9,
        ..sampled(11, 0).sampling
    };
    vec![
        repetitive(),
        GenerateRequest {
            sampling: sampled(5, 0).sampling,
            choices: 2,
            ..repetitive()
        },
        GenerateRequest {
            sampling: penalized,
            ..repetitive()
        },
        GenerateRequest {
            stop: vec!["steamers".into()],
            ..repetitive()
        },
        greedy("Explain how a bicycle stays upright.", 64),
        sampled(3, 48),
    ]
}

#[test]
fn drafts_save_passes_and_change_nothing_that_is_said() {
    let with = |speculation| {
        Fixture::new(EngineConfig {
            speculation,
            ..config()
        })
    };
    let (off, auto) = (with(Speculation::Off), with(Speculation::Auto));
    for (index, request) in texts_to_draft().into_iter().enumerate() {
        let (plain, drafted) = (off.run(request.clone()), auto.run(request));
        assert_eq!(drafted.text, plain.text, "text {index}");
        let sorted = |answer: &Answer| {
            let mut reasons: Vec<_> = answer.finish.iter().map(|why| format!("{why:?}")).collect();
            reasons.sort();
            reasons
        };
        assert_eq!(sorted(&drafted), sorted(&plain), "text {index}");
        let count = |answer: &Answer| answer.stats().completion_tokens;
        assert_eq!(count(&drafted), count(&plain), "text {index}");
        if drafted.text.len() == 1 {
            assert_eq!(drafted.logprobs, plain.logprobs, "text {index}");
        }
        assert_eq!(plain.stats().drafted_tokens, 0);
        if index == 0 {
            // How many depends on what passes cost on this machine at this moment.
            let stats = drafted.stats();
            assert!(stats.accepted_tokens > 0, "{stats:?}");
        }
    }
}

#[test]
fn a_stop_string_across_tokens_ends_the_text_before_it() {
    let fixture = Fixture::new(config());
    let whole = fixture
        .run(greedy("Count from one to ten in words.", 40))
        .text
        .remove(0);
    // From the middle of one word to the middle of the next: no token looks like that.
    let words: Vec<usize> = whole.match_indices(' ').map(|(index, _)| index).collect();
    let space = words[words.len() / 2];
    let around = |index: usize| {
        (0..=index)
            .rev()
            .find(|at| whole.is_char_boundary(*at))
            .unwrap()
    };
    let stop = whole[around(space - 2)..around(space + 3)].to_owned();
    let expected = &whole[..whole.find(&stop).unwrap()];
    let request = GenerateRequest {
        stop: vec![stop],
        logprobs: Some(2),
        ..greedy("Count from one to ten in words.", 40)
    };
    let answer = fixture.run(request);
    assert_eq!(answer.text, [expected]);
    assert_eq!(answer.finish, [FinishReason::Stop]);
    let bytes: Vec<u8> = answer
        .logprobs
        .iter()
        .flat_map(|entry| entry.bytes.clone())
        .collect();
    let covered = String::from_utf8(bytes).unwrap();
    assert!(
        covered.starts_with(expected),
        "{covered:?} does not cover {expected:?}"
    );
    for entry in &answer.logprobs {
        assert!(entry.logprob <= 0.0);
        assert_eq!(entry.top.len(), 2);
        assert_eq!(entry.top[0].id, entry.id, "greedy takes the likeliest");
    }
}

#[test]
fn a_receiver_that_has_gone_frees_its_place_within_a_token() {
    let fixture = Fixture::new(EngineConfig {
        running_max: 1,
        ..config()
    });
    let receiver = fixture.submit(sampled(1, 900)).unwrap();
    for _ in 0..3 {
        receiver.recv_timeout(PATIENCE).unwrap();
    }
    drop(receiver);
    let then = fixture.engine.status().completion_tokens_total;
    fixture.wait_for("the place is free", |status| status.running == 0);
    let status = fixture.engine.status();
    assert_eq!(status.cancelled_total, 1);
    // The step that was under way with its draft, the one that notices, and held-back text.
    assert!(
        status.completion_tokens_total - then <= 4 + 7,
        "{then} then, {status:?}"
    );
    fixture.run(greedy("Hello", 2)).stats();
}

#[test]
fn a_cancel_flag_ends_a_long_prompt_between_chunks() {
    let fixture = Fixture::new(config());
    fixture.run(greedy("Hello", 2)).stats();
    let request = GenerateRequest {
        prompt: Prompt::TokenIds(vec![500; 1000]),
        ..greedy("", 10)
    };
    let (sender, receiver) = sync_channel(10);
    let flag = CancelFlag::default();
    let engine = &fixture.engine;
    engine
        .submit_cancellable(request, sink_to(sender), flag.clone())
        .unwrap();
    fixture.wait_for("it runs", |status| status.running == 1);
    flag.cancel();
    let answer = Answer::collect(&receiver);
    assert!(answer.stats.is_none() && answer.text.is_empty());
    assert_eq!(fixture.engine.status().cancelled_total, 1);
}

#[test]
fn a_full_queue_refuses_and_the_next_request_is_served() {
    let fixture = Fixture::new(EngineConfig {
        running_max: 1,
        queue_len_max: 1,
        ..config()
    });
    let receivers: Vec<_> = (0..2)
        .map(|seed| fixture.submit(sampled(seed, 12)).unwrap())
        .collect();
    let refused = fixture.submit(sampled(9, 12)).unwrap_err();
    assert!(
        matches!(refused, Error::QueueFull { retry_after } if retry_after.as_secs() >= 1),
        "{refused}"
    );
    for receiver in &receivers {
        Answer::collect(receiver).stats();
    }
    fixture.run(sampled(9, 2)).stats();
}

#[test]
fn a_small_budget_evicts_one_model_for_another_and_reloads_it() {
    let folder = Folder::new();
    let size = fs::metadata(model_path()).unwrap().len();
    let fixture = Fixture::new(EngineConfig {
        // Room for one model and a short request's cache.
        memory_budget_bytes: size * 9 / 8 + (64 << 20),
        ..config()
    });
    fixture
        .engine
        .register("b", &folder.link("b.gguf"))
        .unwrap();
    let mut texts = Vec::new();
    for name in ["a", "b", "a"] {
        let request = GenerateRequest {
            model: name.into(),
            ..greedy("Hello", 8)
        };
        let answer = fixture.run(request);
        assert!(
            answer.stats().load_time > Duration::ZERO,
            "{name} was loaded"
        );
        let loaded = fixture.engine.status().loaded;
        let names: Vec<&str> = loaded.iter().map(|model| model.name.as_str()).collect();
        assert_eq!(names, [name]);
        texts.push(answer.text);
    }
    assert_eq!(texts[0], texts[2]);
}

#[test]
fn a_deleted_file_is_an_error_and_a_loaded_model_goes_on() {
    let folder = Folder::new();
    let fixture = Fixture::new(config());
    let (used, unused) = (folder.link("used.gguf"), folder.link("unused.gguf"));
    fixture.engine.register("used", &used).unwrap();
    fixture.engine.register("unused", &unused).unwrap();
    let ask = |name: &str| GenerateRequest {
        model: name.into(),
        ..greedy("Hello", 4)
    };
    let before = fixture.run(ask("used")).text;
    for path in [&used, &unused] {
        fs::remove_file(path).unwrap();
    }
    assert_eq!(fixture.run(ask("used")).text, before);
    let refused = fixture.submit(ask("unused")).unwrap_err();
    assert!(
        matches!(&refused, Error::ModelFile { path, .. } if path == Path::new(&unused)),
        "{refused}"
    );
    fixture.run(greedy("Hello", 2)).stats();
}

#[test]
fn many_threads_share_one_engine() {
    let fixture = Arc::new(Fixture::new(EngineConfig {
        queue_len_max: 16,
        ..config()
    }));
    let handles: Vec<_> = (0..6)
        .map(|seed| {
            let fixture = Arc::clone(&fixture);
            thread::spawn(move || fixture.run(sampled(seed % 2, 8)).text)
        })
        .collect();
    let texts: Vec<_> = handles
        .into_iter()
        .map(|handle| handle.join().unwrap())
        .collect();
    assert_eq!(texts[0], texts[2]);
    assert_eq!(texts[1], texts[5]);
    assert_eq!(fixture.engine.status().loaded.len(), 1);
}
