//! Measures prefill and decode of one model and prints a JSON line per round.
//!
//! Usage: bench MODEL.gguf [--threads N] [--rounds N] [--prefill 128,512] [--decode N]
//!
//! `scripts/bench-vs-llama-cpp.py` runs it round by round beside another engine: a program that
//! waits for a line on its input before each round, so that both see the same machine.

use std::{
    io::{BufRead, Write},
    time::Instant,
};

use aither_inference::{Result, backend::Backend, engine::BackendChoice, gguf::Gguf, model::Model};
use serde_json::json;

/// What to measure.
struct Options {
    model: String,
    threads: usize,
    rounds: usize,
    prefill: Vec<usize>,
    decode: usize,
}

fn main() -> std::process::ExitCode {
    let Some(options) = parse(std::env::args().skip(1)) else {
        let mut stderr = std::io::stderr();
        let usage = "usage: bench MODEL.gguf [--threads N] [--rounds N] [--prefill 128,512] \
                     [--decode N]";
        let _ = writeln!(stderr, "{usage}");
        return std::process::ExitCode::from(2);
    };
    match run(&options) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Options> {
    let model = arguments.next()?;
    let mut options = Options {
        model,
        threads: 0,
        rounds: 3,
        prefill: vec![128, 512],
        decode: 64,
    };
    while let Some(name) = arguments.next() {
        let value = arguments.next()?;
        match name.as_str() {
            "--threads" => options.threads = value.parse().ok()?,
            "--rounds" => options.rounds = value.parse().ok()?,
            "--decode" => options.decode = value.parse().ok()?,
            "--prefill" => {
                options.prefill = value
                    .split(',')
                    .map(|n| n.parse().ok())
                    .collect::<Option<_>>()?;
            }
            _ => return None,
        }
    }
    Some(options)
}

fn run(options: &Options) -> Result<()> {
    let started = Instant::now();
    let backend = Backend::choose(BackendChoice::Auto, options.threads)?;
    let model = Model::load(&Gguf::open(options.model.as_ref())?, &backend)?;
    report(&json!({
        "backend": backend.describe(),
        "load_ms": started.elapsed().as_secs_f64() * 1e3,
        "resident_bytes": model.resident_bytes(),
    }));
    let mut lines = std::io::stdin().lock().lines();
    for _ in 0..options.rounds {
        // A closed input means: nobody keeps time, go on.
        let _ = lines.next();
        round(&model, options)?;
    }
    Ok(())
}

fn round(model: &Model, options: &Options) -> Result<()> {
    let vocabulary = model.vocabulary_size() as u32;
    let ids = |count: usize| (0..count as u32).map(move |index| (1000 + index * 37) % vocabulary);
    for &count in &options.prefill {
        let ids: Vec<u32> = ids(count).collect();
        let started = Instant::now();
        model.forward(&ids, &mut model.new_cache())?;
        let elapsed = started.elapsed().as_secs_f64() * 1e3;
        report(&json!({"prefill_tokens": count, "prefill_ms": elapsed}));
    }
    let mut cache = model.new_cache();
    let mut logits = model.forward(&ids(16).collect::<Vec<_>>(), &mut cache)?;
    let started = Instant::now();
    for _ in 0..options.decode {
        let next = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
        logits = model.forward(&[next.unwrap_or(0) as u32], &mut cache)?;
    }
    let elapsed = started.elapsed().as_secs_f64() * 1e3;
    report(&json!({"decode_tokens": options.decode, "decode_ms": elapsed, "end": true}));
    Ok(())
}

fn report(line: &serde_json::Value) {
    let mut stdout = std::io::stdout();
    let _ = writeln!(stdout, "{line}");
    let _ = stdout.flush();
}
