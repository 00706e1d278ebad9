//! Measures one model: does what lines on its input ask for and answers each with a JSON line.
//!
//! Usage: bench MODEL.gguf [--threads N] [--instructions portable|avx2|avx512-vnni]
//!        bench --bandwidth MEGABYTES [--threads N]
//!
//! | line | what is timed |
//! |---|---|
//! | `prefill N` | N ids into an empty sequence |
//! | `decode N` | N ids one by one, after 16 |
//! | `rows R N` | N steps of R sequences together, each after 32 ids |
//! | `perplexity FILE` | nothing: says how probable each id of the windows in a JSON file is |
//! | `memory` | nothing: says what the process has used at most, where the system tells |
//! | `read BYTES` | reading that much memory over and over (after `--bandwidth`) |
//!
//! `scripts/bench-inference.sh` runs it in turns beside another engine that obeys the same lines,
//! so that both see the same machine. The ids are fixed: only the engine's own work is timed.
//! A file of windows is read whole, as it comes from that script.

use std::{
    hint::black_box,
    io::{BufRead, Write},
    time::Instant,
};

use aither_inference::{
    Error, Result,
    backend::Backend,
    engine::BackendChoice,
    gguf::Gguf,
    kv_cache::KvCache,
    model::{Logits, Model, Span},
    ops::cpu::InstructionSet,
};
use serde_json::{Value, json};

/// Ids of a sequence before single ids are timed.
const DECODE_PROMPT: usize = 16;

/// Ids of each sequence before steps of several sequences are timed.
const ROWS_PROMPT: usize = 32;

/// Ids of one call while perplexity is computed: logits after each of them are in memory.
const PERPLEXITY_CHUNK: usize = 128;

/// Memory that one `read` goes through in all: some tens of milliseconds' worth.
const READ_BYTES: usize = 1 << 30;

struct Options {
    model: Option<String>,
    bandwidth_bytes: usize,
    threads: usize,
}

fn main() -> std::process::ExitCode {
    let Some(options) = parse(std::env::args().skip(1)) else {
        let usage = "usage: bench MODEL.gguf [--threads N] [--instructions SET]\n       \
                     bench --bandwidth MEGABYTES [--threads N]\n\
                     SET is one of those that this processor has:";
        let sets = InstructionSet::available()
            .into_iter()
            .map(InstructionSet::name);
        let _ = writeln!(
            std::io::stderr(),
            "{usage} {}",
            sets.collect::<Vec<_>>().join(", ")
        );
        return std::process::ExitCode::from(2);
    };
    let outcome = match &options.model {
        Some(model) => serve_model(model, options.threads),
        None => serve_bandwidth(&options),
    };
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Options> {
    let mut options = Options {
        model: None,
        bandwidth_bytes: 0,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
    };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--threads" => options.threads = arguments.next()?.parse().ok().filter(|&n| n > 0)?,
            "--instructions" => {
                let set = InstructionSet::available_by_name(&arguments.next()?)?;
                set.limit().then_some(())?;
            }
            "--bandwidth" => {
                let megabytes: usize = arguments.next()?.parse().ok()?;
                options.bandwidth_bytes = megabytes.checked_mul(1 << 20)?;
            }
            name if name.starts_with('-') || options.model.is_some() => return None,
            model => options.model = Some(model.to_owned()),
        }
    }
    (options.model.is_some() != (options.bandwidth_bytes > 0)).then_some(options)
}

/// Loads a model and answers the lines of the input until it ends.
fn serve_model(path: &str, threads: usize) -> Result<()> {
    let started = Instant::now();
    let backend = Backend::choose(BackendChoice::Cpu, threads)?;
    let gguf = Gguf::open(path.as_ref())?;
    let model = Model::load(&gguf, &backend)?;
    report(&json!({
        "engine": backend.describe(),
        "load_ms": milliseconds_since(started),
        "file_bytes": gguf.size_bytes(),
        "decode_bytes": decode_bytes(&gguf),
        "cache_bytes_per_position": model.cache_bytes_per_position(),
        "bytes_by_type": bytes_by_type(&gguf),
    }));
    drop(gguf);
    let mut bench = Bench {
        model,
        sequences: Vec::new(),
    };
    serve(|words| match words {
        ["prefill", count] => bench.prefill(number(count)?),
        ["decode", count] => bench.decode(number(count)?),
        ["rows", rows, steps] => bench.rows(number(rows)?, number(steps)?),
        ["perplexity", path] => bench.perplexity(path),
        ["memory"] => Ok(json!({"peak_bytes": peak_bytes()})),
        _ => Err(invalid(format!("unknown line {words:?}"))),
    })
}

/// Answers `read` lines.
fn serve_bandwidth(options: &Options) -> Result<()> {
    // Not zeros: untouched pages of zeros are one page of memory.
    let buffer: Vec<u64> = (0..options.bandwidth_bytes as u64 / 8).collect();
    report(&json!({"buffer_bytes": options.bandwidth_bytes}));
    serve(|words| match words {
        ["read", bytes] => {
            let part = buffer.get(..number(bytes)? / 8);
            let part = part.filter(|part| !part.is_empty());
            let part = part.ok_or_else(|| invalid("more than the buffer, or nothing".into()))?;
            Ok(read(part, options.threads))
        }
        _ => Err(invalid(format!("unknown line {words:?}"))),
    })
}

/// Answers each line of the input; a line that cannot be obeyed is answered with the reason.
fn serve(mut answer: impl FnMut(&[&str]) -> Result<Value>) -> Result<()> {
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| invalid(format!("cannot read the input: {error}")))?;
        let words: Vec<&str> = line.split_whitespace().collect();
        report(&answer(&words).unwrap_or_else(|error| json!({"error": error.to_string()})));
    }
    Ok(())
}

struct Bench {
    model: Model,
    /// Those of `rows`, each with its prompt.
    sequences: Vec<KvCache>,
}

impl Bench {
    fn prefill(&self, count: usize) -> Result<Value> {
        let ids = self.ids(0, count);
        let mut cache = self.model.new_cache();
        let started = Instant::now();
        black_box(self.model.forward(&ids, &mut cache)?);
        Ok(json!({"positions": count, "ms": milliseconds_since(started)}))
    }

    fn decode(&self, count: usize) -> Result<Value> {
        let ids = self.ids(0, DECODE_PROMPT + count);
        let mut cache = self.model.new_cache();
        self.model.forward(&ids[..DECODE_PROMPT], &mut cache)?;
        let started = Instant::now();
        for id in &ids[DECODE_PROMPT..] {
            black_box(self.model.forward(&[*id], &mut cache)?);
        }
        Ok(json!({"positions": count, "ms": milliseconds_since(started)}))
    }

    fn rows(&mut self, rows: usize, steps: usize) -> Result<Value> {
        for row in self.sequences.len()..rows {
            let mut cache = self.model.new_cache();
            self.model
                .forward(&self.ids(row, ROWS_PROMPT), &mut cache)?;
            self.sequences.push(cache);
        }
        for cache in &mut self.sequences {
            cache.truncate(ROWS_PROMPT);
        }
        let ids: Vec<_> = (0..rows).map(|row| self.ids(row + 1000, steps)).collect();
        let started = Instant::now();
        for step in 0..steps {
            let with_ids = self.sequences.iter_mut().zip(&ids);
            let spans = with_ids.map(|(cache, ids)| Span {
                ids: &ids[step..=step],
                cache,
                logits: Logits::Last,
            });
            black_box(self.model.forward_batch(&mut spans.collect::<Vec<_>>())?);
        }
        Ok(json!({"positions": rows * steps, "ms": milliseconds_since(started)}))
    }

    /// For each window: the sum of negative log-probabilities of all ids but the first, and the id
    /// thought most probable in each of these places.
    fn perplexity(&self, path: &str) -> Result<Value> {
        let unreadable = |error: String| invalid(format!("cannot read {path}: {error}"));
        let text = std::fs::read(path).map_err(|error| unreadable(error.to_string()))?;
        let windows: Vec<Vec<u32>> =
            serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
        let (mut losses, mut choices) = (Vec::new(), Vec::new());
        for window in &windows {
            let mut cache = self.model.new_cache();
            let (mut loss, mut chosen) = (0.0, Vec::new());
            for (number, chunk) in window.chunks(PERPLEXITY_CHUNK).enumerate() {
                let following = window.iter().skip(number * PERPLEXITY_CHUNK + 1);
                let logits = self.model.forward_all(chunk, &mut cache)?;
                for (logits, &next) in logits.iter().zip(following) {
                    loss += negative_log_probability(logits, next);
                    chosen.push(argmax(logits));
                }
            }
            losses.push(loss);
            choices.push(chosen);
        }
        Ok(json!({"losses": losses, "choices": choices}))
    }

    /// The same ids as the other engine's: which ones does not matter for time.
    fn ids(&self, row: usize, count: usize) -> Vec<u32> {
        let vocabulary = self.model.vocabulary_size();
        let ids = (0..count).map(|index| (1000 + row * 101 + index * 37) % vocabulary);
        ids.map(|id| id as u32).collect()
    }
}

fn negative_log_probability(logits: &[f32], id: u32) -> f64 {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|&logit| f64::from(logit - highest).exp())
        .sum();
    sum.ln() + f64::from(highest) - f64::from(logits[id as usize])
}

fn argmax(logits: &[f32]) -> usize {
    let ids = 0..logits.len();
    ids.max_by(|&a, &b| logits[a].total_cmp(&logits[b]).then(b.cmp(&a)))
        .unwrap_or(0)
}

/// Bytes of the file's weights that one decoded position cannot do without: all but the embedding,
/// which is read only where it is the output head too.
fn decode_bytes(gguf: &Gguf) -> usize {
    let has_head = gguf.tensor("output.weight").is_some();
    let is_read = |name: &str| !(has_head && name == "token_embd.weight");
    let tensors = gguf.tensors().filter(|tensor| is_read(tensor.name));
    tensors.map(|tensor| tensor.data.len()).sum()
}

/// How many bytes of the file's matrices are stored in which type.
fn bytes_by_type(gguf: &Gguf) -> Value {
    let mut bytes = serde_json::Map::new();
    for tensor in gguf.tensors().filter(|tensor| tensor.shape.len() > 1) {
        let sum = bytes.entry(tensor.ty.name()).or_insert(json!(0));
        *sum = json!(sum.as_u64().unwrap_or(0) + tensor.data.len() as u64);
    }
    Value::Object(bytes)
}

/// Reads memory with all threads, each its own part, and reports bytes per second.
fn read(buffer: &[u64], threads: usize) -> Value {
    let passes = (READ_BYTES / (buffer.len() * 8)).max(1);
    let started = Instant::now();
    std::thread::scope(|scope| {
        for part in buffer.chunks(buffer.len().div_ceil(threads)) {
            scope.spawn(move || {
                for _ in 0..passes {
                    black_box(sum(black_box(part)));
                }
            });
        }
    });
    let bytes = (buffer.len() * 8 * passes) as f64;
    json!({"bytes_per_second": bytes / started.elapsed().as_secs_f64()})
}

/// Adds up in lanes, so that the additions do not wait for each other.
fn sum(part: &[u64]) -> u64 {
    let mut lanes = [0_u64; 32];
    for chunk in part.chunks_exact(lanes.len()) {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = lane.wrapping_add(*value);
        }
    }
    lanes.iter().fold(0, |sum, lane| sum.wrapping_add(*lane))
}

/// The most memory that was resident at once, mapped files included.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}

fn number(word: &str) -> Result<usize> {
    let number = word.parse().ok().filter(|&number| number > 0);
    number.ok_or_else(|| invalid(format!("{word:?} is not a number above 0")))
}

fn invalid(message: String) -> Error {
    Error::InvalidRequest {
        field: "line",
        message,
    }
}

fn milliseconds_since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

fn report(line: &Value) {
    let mut stdout = std::io::stdout();
    let _ = writeln!(stdout, "{line}");
    let _ = stdout.flush();
}
