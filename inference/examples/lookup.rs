//! Measures what drafting by prompt lookup brings: time per generated id with and without, on texts
//! that repeat themselves and on free ones.
//!
//! Usage: lookup MODEL.gguf [--threads N] [--rounds N] [--ids N]
//!
//! Two engines on the same file, one with speculation and one without, answer each prompt in turns.
//! A line per prompt has the medians of the rounds in ms per id, their ratio, how many ids were
//! generated in how many passes, how many drafted ids came, and whether both texts are the same.
//! Before that: what a pass over several ids costs, in passes over one.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::mpsc::sync_channel,
    time::{Duration, Instant},
};

use aither_inference::{
    ChatMessage, Engine, EngineConfig, Error, GenerateRequest, GenerationEvent, GenerationStats,
    Prompt, Result, SamplingParams,
    backend::Backend,
    engine::{BackendChoice, Flow, Speculation},
    gguf::Gguf,
    model::Model,
};

/// Longest wait for an event of a request.
const PATIENCE: Duration = Duration::from_secs(120);
/// Positions in the cache when passes are measured: the middle of a short conversation.
const PAST_LEN: usize = 256;
/// Ids of the longest pass that is measured: one more than the last id and the longest draft.
const ROWS_MAX: usize = 9;

const CODE: &str = "\
class Account:
    def __init__(self, owner, balance):
        self.owner = owner
        self.balance = balance

    def deposit(self, amount):
        if amount <= 0:
            raise ValueError(\"amount must be positive\")
        self.balance = self.balance + amount
        return self.balance

    def withdraw(self, amount):
        if amount <= 0:
            raise ValueError(\"amount must be positive\")
        if amount > self.balance:
            raise ValueError(\"amount exceeds the balance\")
        self.balance = self.balance - amount
        return self.balance
";
const TEXT: &str = "\
The lighthouse stands on a rock two miles from the harbour. It was built of grey stone when the \
first steamers came, and for ninety years a keeper climbed its stairs each evening to light the \
lamp. Since the lamp burns by itself nobody lives there, but in summer a boat takes visitors out, \
who look at the brass of the old machine and at the names that the keepers cut into the door.";

/// What to measure.
struct Options {
    model: PathBuf,
    threads: usize,
    rounds: usize,
    ids: usize,
}

/// A prompt to measure with.
struct Case {
    name: &'static str,
    prompt: Prompt,
    temperature: f32,
}

fn main() -> ExitCode {
    let Some(options) = parse(std::env::args().skip(1)) else {
        print("usage: lookup MODEL.gguf [--threads N] [--rounds N] [--ids N]");
        return ExitCode::from(2);
    };
    match passes(&options).and_then(|()| texts(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Options> {
    let mut options = Options {
        model: arguments.next()?.into(),
        threads: 0,
        rounds: 5,
        ids: 128,
    };
    while let Some(name) = arguments.next() {
        let value = arguments.next()?.parse().ok()?;
        match name.as_str() {
            "--threads" => options.threads = value,
            "--rounds" => options.rounds = value,
            "--ids" => options.ids = value,
            _ => return None,
        }
    }
    Some(options)
}

/// Prints what passes over 1 to [`ROWS_MAX`] ids take.
fn passes(options: &Options) -> Result<()> {
    let backend = Backend::choose(BackendChoice::Cpu, options.threads)?;
    let model = Model::load(&Gguf::open(&options.model)?, &backend)?;
    let vocabulary = model.vocabulary_size() as u32;
    let ids: Vec<u32> = (0..PAST_LEN as u32)
        .map(|index| (1000 + index * 37) % vocabulary)
        .collect();
    let mut cache = model.new_cache();
    model.forward(&ids, &mut cache)?;
    let mut times = vec![Vec::new(); ROWS_MAX];
    for _ in 0..options.rounds.max(1) * 4 {
        for (rows, times) in (1..).zip(&mut times) {
            let begin = Instant::now();
            model.forward_all(&ids[..rows], &mut cache)?;
            times.push(begin.elapsed().as_secs_f64() * 1e3);
            cache.truncate(PAST_LEN);
        }
    }
    let medians: Vec<f64> = times.iter_mut().map(|times| median(times)).collect();
    for (rows, time) in (1..).zip(&medians) {
        let ratio = time / medians[0];
        print(&format!(
            "pass over {rows} ids: {time:6.2} ms, {ratio:4.2} passes"
        ));
    }
    Ok(())
}

/// Prints what each text takes with and without speculation.
fn texts(options: &Options) -> Result<()> {
    let off = start(options, Speculation::Off)?;
    let auto = start(options, Speculation::Auto)?;
    print("text                     off ms/id  auto ms/id  ratio  ids/passes  came/drafted  same");
    for case in cases() {
        let (mut off_times, mut auto_times) = (Vec::new(), Vec::new());
        let mut line = String::new();
        for _ in 0..options.rounds.max(1) {
            let (off_text, off_stats) = run(&off, &case, options.ids)?;
            let (auto_text, auto_stats) = run(&auto, &case, options.ids)?;
            off_times.push(time_per_id(&off_stats));
            auto_times.push(time_per_id(&auto_stats));
            let (off, auto) = (median(&mut off_times), median(&mut auto_times));
            let is_same = if off_text == auto_text { "yes" } else { "NO" };
            line = format!(
                "{:24} {off:9.2}  {auto:10.2}  {:5.2}  {:4}/{:<6} {:5}/{:<7}  {is_same}",
                case.name,
                off / auto,
                auto_stats.completion_tokens,
                auto_stats.completion_tokens - auto_stats.accepted_tokens,
                auto_stats.accepted_tokens,
                auto_stats.drafted_tokens,
            );
        }
        print(&line);
    }
    Ok(())
}

fn cases() -> Vec<Case> {
    let chat = |content: String| {
        Prompt::Chat(vec![ChatMessage {
            role: "user".into(),
            content,
        }])
    };
    let case = |name, prompt, temperature| Case {
        name,
        prompt,
        temperature,
    };
    let twice = |text: &str| Prompt::Text(format!("{text}\n\n{text}\n\n"));
    let explain = || chat("Explain how a bicycle stays upright.".into());
    let story = || chat("Tell me a story about a sailor and a storm.".into());
    vec![
        case("code copied", twice(CODE), 0.0),
        case("text copied", twice(TEXT), 0.0),
        case(
            "code to rewrite",
            chat(format!(
                "Rewrite this Python class with the name Wallet instead of Account:\n\n{CODE}"
            )),
            0.0,
        ),
        case(
            "text to correct",
            chat(format!(
                "Repeat the following text and correct its spelling:\n\n{TEXT}"
            )),
            0.0,
        ),
        case("free, greedy: explain", explain(), 0.0),
        case("free, greedy: story", story(), 0.0),
        case("free, sampled: explain", explain(), 0.8),
        case("free, sampled: story", story(), 0.8),
        case("free, hot: story", story(), 1.5),
    ]
}

fn start(options: &Options, speculation: Speculation) -> Result<Engine> {
    let engine = Engine::start(EngineConfig {
        backend: BackendChoice::Cpu,
        threads: options.threads,
        running_max: 1,
        queue_len_max: 1,
        memory_budget_bytes: 16 << 30,
        idle_unload: Duration::from_secs(3600),
        context_length_max: 4096,
        speculation,
    })?;
    engine.register("model", Path::new(&options.model))?;
    Ok(engine)
}

fn run(engine: &Engine, case: &Case, ids: usize) -> Result<(String, GenerationStats)> {
    let request = GenerateRequest {
        max_completion_tokens: Some(ids),
        sampling: SamplingParams {
            temperature: case.temperature,
            seed: Some(1),
            ..SamplingParams::default()
        },
        ..GenerateRequest::new("model", case.prompt.clone())
    };
    let (sender, events) = sync_channel(2 * ids + 8);
    engine.submit(
        request,
        Box::new(move |event| match sender.try_send(event) {
            Ok(()) => Flow::Continue,
            Err(_) => Flow::Cancel,
        }),
    )?;
    let mut text = String::new();
    loop {
        match events.recv_timeout(PATIENCE) {
            Ok(GenerationEvent::Piece { text: piece, .. }) => text.push_str(&piece),
            Ok(GenerationEvent::Done(stats)) => return Ok((text, stats)),
            Ok(GenerationEvent::Failed(error)) => return Err(error),
            Ok(_) => {}
            Err(error) => {
                return Err(Error::Internal {
                    message: format!("no event from the engine: {error}"),
                });
            }
        }
    }
}

fn time_per_id(stats: &GenerationStats) -> f64 {
    stats.decode_time.as_secs_f64() * 1e3 / stats.completion_tokens.max(1) as f64
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn print(line: &str) {
    let mut stdout = std::io::stdout();
    let _ = writeln!(stdout, "{line}");
    let _ = stdout.flush();
}
