//! Measures the search index of one scope: filling, loading, memory and searches.
//!
//! Usage: scope_index [--entries N] [--words N] [--searches N]
//!
//! Texts are made up of words as frequent as in any language (Zipf), with a key of its own each;
//! vectors are random and of 384 dimensions, so that only times mean anything, not what is found.
//! Coded vectors come from memory here; a node reads them from its store. Memory is what the index
//! says beside what the process grew by (on Linux). Time is there what the thread spent on a core,
//! so that other programs on the machine disturb less; of single searches and elsewhere it is the
//! clock's.

use std::{
    io::Write,
    sync::LazyLock,
    time::{Duration, Instant},
};

use aither_node::memory::{
    ids::Serial,
    index::{
        CodedVectors, EmbeddingModel, IndexRow, Query, ScopeIndex, SearchMode, SignVector, Terms,
    },
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const MODEL: EmbeddingModel = EmbeddingModel {
    fingerprint: 1,
    dimensions: 384,
};
/// Different words of the language.
const VOCABULARY: f64 = 100_000.0;

struct Options {
    entries: u64,
    words: usize,
    searches: usize,
}

fn main() -> std::process::ExitCode {
    let Some(options) = parse(std::env::args().skip(1)) else {
        let usage = "see the head of this example for its usage";
        let _ = writeln!(std::io::stderr(), "{usage}");
        return std::process::ExitCode::from(2);
    };
    match run(&options) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "scope_index: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Option<Options> {
    let mut options = Options {
        entries: 100_000,
        words: 24,
        searches: 100,
    };
    while let Some(name) = args.next() {
        let value = args.next()?;
        match name.as_str() {
            "--entries" => options.entries = value.parse().ok()?,
            "--words" => options.words = value.parse().ok()?,
            "--searches" => options.searches = value.parse().ok()?,
            _ => return None,
        }
    }
    Some(options)
}

fn run(options: &Options) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut rows: Vec<Vec<u8>> = Vec::new();
    let mut analyzing = Duration::ZERO;
    for entry in 0..options.entries {
        let text = format!("note:{entry}\n{}", text(&mut rng, options.words));
        let vector = vector(&mut rng);
        let start = Instant::now();
        let terms = Terms::of(&text);
        analyzing += start.elapsed();
        let row = IndexRow {
            key: format!("note:{entry}"),
            updated_at_ms: entry,
            terms,
            tags: vec![format!("tag{}", entry % 50)],
            signs: vec![SignVector::of(&vector)],
            model: Some(MODEL.fingerprint),
            ..IndexRow::default()
        };
        rows.push(row.to_bytes());
    }
    let count = options.entries as f64;
    let row_bytes = rows.iter().map(Vec::len).sum::<usize>() as f64 / count;
    let per_second = count / analyzing.as_secs_f64();
    writeln!(
        out,
        "{count} entries: {per_second:.0} texts/s, {row_bytes:.0} bytes a row"
    )?;

    let before = resident_bytes();
    let start = spent();
    let mut index = ScopeIndex::for_model(MODEL);
    for (entry, bytes) in (0..).zip(&rows) {
        let row = IndexRow::from_bytes(bytes).map_err(std::io::Error::other)?;
        index.insert(Serial(entry), &row);
    }
    let took = (spent() - start).as_secs_f64();
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    let grown = resident_bytes().saturating_sub(before);
    writeln!(out, "load: {took:.2} s, {:.0} rows/s", count / took)?;
    let said = index.bytes();
    writeln!(
        out,
        "memory: {:.0} MiB said, {:.0} MiB grown",
        mib(said),
        mib(grown)
    )?;
    time_searches(&mut rng, &index, options.searches)?;
    time_removals(&mut index)
}

fn time_searches(rng: &mut ChaCha8Rng, index: &ScopeIndex, searches: usize) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    let coded = CodedVectors::of(&[vector(rng)]);
    let tag = ["tag7".to_owned()];
    for (name, mode, tags) in [
        ("keyword, 6 words", SearchMode::Keyword, [].as_slice()),
        ("semantic", SearchMode::Semantic, &[]),
        ("hybrid", SearchMode::Hybrid, &[]),
        ("hybrid, one tag", SearchMode::Hybrid, &tag),
    ] {
        let mut times: Vec<Duration> = Vec::new();
        let before = spent();
        for _ in 0..searches {
            let (text, vector) = (text(rng, 6), vector(rng));
            let query = Query {
                text: &text,
                vector: Some(&vector),
                mode,
                tags,
                limit: 10,
                ..Query::default()
            };
            let mut fetch = |serials: &[Serial]| vec![Some(coded.clone()); serials.len()];
            let start = Instant::now();
            let hits = index.search(&query, &mut fetch);
            times.push(start.elapsed());
            std::hint::black_box(hits);
        }
        let mean = (spent() - before).as_secs_f64() * 1e3 / searches as f64;
        times.sort_unstable();
        let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e3;
        let (least, p50, p99) = (at(0), at(50), at(99));
        let times = format!("least {least:.2} ms, p50 {p50:.2} ms, p99 {p99:.2} ms");
        writeln!(out, "{name}: {times}, on a core {mean:.2} ms")?;
    }
    Ok(())
}

fn time_removals(index: &mut ScopeIndex) -> std::io::Result<()> {
    let count = index.len() as u64;
    let mut longest = Duration::ZERO;
    let start = spent();
    for entry in (0..count).step_by(3) {
        let start = Instant::now();
        index.remove(Serial(entry));
        longest = longest.max(start.elapsed());
    }
    let took = (spent() - start).as_secs_f64() * 1e3;
    let longest = longest.as_secs_f64() * 1e3;
    writeln!(
        std::io::stdout(),
        "a third removed: {took:.0} ms, of which {longest:.0} ms for giving memory back"
    )
}

/// Words of which each is as frequent as its place among all says.
fn text(rng: &mut ChaCha8Rng, words: usize) -> String {
    let words = (0..words).map(|_| format!("w{:.0}", VOCABULARY.powf(rng.random::<f64>())));
    words.collect::<Vec<_>>().join(" ")
}

fn vector(rng: &mut ChaCha8Rng) -> Vec<f32> {
    let vector: Vec<f32> = (0..MODEL.dimensions)
        .map(|_| rng.random::<f32>() - 0.5)
        .collect();
    let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    vector.into_iter().map(|value| value / norm).collect()
}

/// What this thread has spent so far.
fn spent() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = text.and_then(|text| text.split(' ').next()?.parse().ok());
    nanoseconds.map_or_else(|| START.elapsed(), Duration::from_nanos)
}

/// What the process holds of the memory, or nothing where that cannot be said.
fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<usize>().ok());
    pages.unwrap_or_default() * 4096
}
