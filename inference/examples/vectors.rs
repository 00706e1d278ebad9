//! Measures the search for near vectors: how long going over the signs takes, and how much of the
//! true answer it finds.
//!
//! Usage: vectors [--vectors N] [--dimensions N] [--queries N] [--file FILE]
//!
//! Prints milliseconds of going over all signs on one thread and on two, and the share of the ten
//! nearest by exact product that are among the ten best after as many candidates were put in order
//! by their 8-bit codes: with the query in four bits, and with its signs alone. A file holds
//! normalised vectors as little-endian f32, one after the other; its last ones are the queries.
//! Without a file they are made up as embeddings of sentences are: around a common mean, in
//! clusters, of which a few directions say most.

use std::{collections::HashSet, io::Write, thread, time::Instant};

use aither_inference::vectors::{self, SignArray, SignQuery};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How many nearest ones count.
const NEAREST: usize = 10;
/// Candidates of the table's columns.
const CANDIDATES: [usize; 5] = [50, 100, 200, 500, 1000];

struct Options {
    vectors: usize,
    dimensions: usize,
    queries: usize,
    file: Option<String>,
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
            let _ = writeln!(std::io::stderr(), "vectors: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Option<Options> {
    let mut options = Options {
        vectors: 1_000_000,
        dimensions: 384,
        queries: 50,
        file: None,
    };
    while let Some(name) = args.next() {
        let value = args.next()?;
        match name.as_str() {
            "--vectors" => options.vectors = value.parse().ok()?,
            "--dimensions" => options.dimensions = value.parse().ok()?,
            "--queries" => options.queries = value.parse().ok()?,
            "--file" => options.file = Some(value),
            _ => return None,
        }
    }
    (1..=vectors::DIMENSIONS_MAX)
        .contains(&options.dimensions)
        .then_some(options)
}

fn run(options: &Options) -> std::io::Result<()> {
    let dimensions = options.dimensions;
    let mut all = match &options.file {
        Some(file) => read(file)?,
        None => made_up(options.vectors + options.queries, dimensions),
    };
    let split = (all.len() / dimensions).saturating_sub(options.queries) * dimensions;
    let queries = all.split_off(split);
    let mut signs = SignArray::new(dimensions);
    for vector in all.chunks_exact(dimensions) {
        signs.push(&vectors::signs(vector));
    }
    let queries: Vec<&[f32]> = queries.chunks_exact(dimensions).collect();
    time_scans(&signs, &queries)?;
    measure_recall(&all, &signs, &queries)
}

fn read(file: &str) -> std::io::Result<Vec<f32>> {
    let bytes = std::fs::read(file)?;
    let (floats, _) = bytes.as_chunks::<4>();
    Ok(floats
        .iter()
        .map(|float| f32::from_le_bytes(*float))
        .collect())
}

/// Vectors of a seeded mixture.
fn made_up(count: usize, dimensions: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    // Directions count less and less, as the eigenvalues of embeddings fall.
    let spread: Vec<f32> = (0..dimensions)
        .map(|direction| (1.0 + direction as f32 / 12.0).powf(-0.5))
        .collect();
    let flips: Vec<Vec<bool>> = (0..3)
        .map(|_| (0..dimensions).map(|_| rng.random()).collect())
        .collect();
    let mean = sample(&mut rng, &spread, 0.45);
    let clusters: Vec<_> = (0..count.div_ceil(200))
        .map(|_| sample(&mut rng, &spread, 1.0))
        .collect();
    let mut all = Vec::with_capacity(count * dimensions);
    for _ in 0..count {
        let cluster = &clusters[rng.random_range(0..clusters.len())];
        let own = sample(&mut rng, &spread, 0.9);
        let parts = mean.iter().zip(cluster).zip(&own);
        let mut vector: Vec<f32> = parts
            .map(|((mean, cluster), own)| mean + cluster + own)
            .collect();
        for flips in &flips {
            turn(&mut vector, flips);
        }
        let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
        all.extend(vector.iter().map(|value| value / norm));
    }
    all
}

/// A random vector, near enough to a normally distributed one.
fn sample(rng: &mut ChaCha8Rng, spread: &[f32], scale: f32) -> Vec<f32> {
    let sum = |rng: &mut ChaCha8Rng| (0..4).map(|_| rng.random::<f32>() - 0.5).sum::<f32>();
    spread
        .iter()
        .map(|spread| sum(rng) * spread * scale)
        .collect()
}

/// Turns a vector: after three of these no component is a direction of its own.
fn turn(vector: &mut Vec<f32>, flips: &[bool]) {
    for (value, &flip) in vector.iter_mut().zip(flips) {
        *value = if flip { -*value } else { *value };
    }
    for block in vector.chunks_exact_mut(128) {
        let mut half = 1;
        while half < block.len() {
            for pair in block.chunks_exact_mut(2 * half) {
                let (left, right) = pair.split_at_mut(half);
                for (left, right) in left.iter_mut().zip(right) {
                    (*left, *right) = (*left + *right, *left - *right);
                }
            }
            half *= 2;
        }
    }
    let stride = vector.len() / 3;
    let mixed = (0..vector.len()).map(|at| vector[at % 3 * stride + at / 3]);
    if vector.len().is_multiple_of(3) {
        *vector = mixed.collect();
    }
}

fn time_scans(signs: &SignArray, queries: &[&[f32]]) -> std::io::Result<()> {
    let middle = signs.len() / 2;
    let mut times = [Vec::new(), Vec::new()];
    for query in queries {
        let query = SignQuery::new(query);
        let start = Instant::now();
        std::hint::black_box(signs.best(&query, 0..signs.len(), 200, |_| true));
        times[0].push(start.elapsed());
        let start = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| signs.best(&query, 0..middle, 200, |_| true));
            std::hint::black_box(signs.best(&query, middle..signs.len(), 200, |_| true));
        });
        times[1].push(start.elapsed());
    }
    let mut out = std::io::stdout();
    for (threads, times) in [1, 2].into_iter().zip(&mut times) {
        times.sort_unstable();
        let median = times[times.len() / 2].as_secs_f64() * 1e3;
        let least = times[0].as_secs_f64() * 1e3;
        let len = signs.len();
        writeln!(
            out,
            "{len} vectors, {threads} threads: median {median:.2} ms, least {least:.2} ms"
        )?;
    }
    Ok(())
}

fn measure_recall(all: &[f32], signs: &SignArray, queries: &[&[f32]]) -> std::io::Result<()> {
    let dimensions = queries[0].len();
    let vector = |index: usize| &all[index * dimensions..][..dimensions];
    let mut found = [[0usize; CANDIDATES.len()]; 2];
    let mut cosines = (0.0, 0.0);
    let mut codes = Vec::new();
    for query in queries {
        let exact =
            |index: usize| -> f32 { query.iter().zip(vector(index)).map(|(a, b)| a * b).sum() };
        let truth: Vec<(usize, f32)> = best((0..signs.len()).map(|index| (index, exact(index))));
        cosines.0 += truth[0].1;
        cosines.1 += truth[truth.len() - 1].1;
        let truth: HashSet<usize> = truth.into_iter().map(|(index, _)| index).collect();
        let plain: Vec<f32> = query.iter().map(|value| value.signum()).collect();
        for (query_form, found) in [*query, &plain].into_iter().zip(&mut found) {
            let form = SignQuery::new(query_form);
            for (&candidates, found) in CANDIDATES.iter().zip(found) {
                let candidates = signs.best(&form, 0..signs.len(), candidates, |_| true);
                let scored = candidates.into_iter().map(|candidate| {
                    let scale = vectors::code(vector(candidate.index), &mut codes);
                    (candidate.index, vectors::dot(query, &codes) * scale)
                });
                let hits = best(scored).into_iter();
                *found += hits.filter(|(index, _)| truth.contains(index)).count();
            }
        }
    }
    let mut out = std::io::stdout();
    let count = queries.len() as f32;
    writeln!(
        out,
        "cosine of the first {:.3}, of the tenth {:.3}",
        cosines.0 / count,
        cosines.1 / count
    )?;
    for (name, found) in ["four bits", "signs alone"].into_iter().zip(found) {
        write!(out, "{name:12}")?;
        for (candidates, found) in CANDIDATES.into_iter().zip(found) {
            let recall = found as f32 / (count * NEAREST as f32);
            write!(out, "  {candidates}: {recall:.3}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn best(scored: impl Iterator<Item = (usize, f32)>) -> Vec<(usize, f32)> {
    let mut all: Vec<_> = scored.collect();
    all.sort_unstable_by(|a, b| b.1.total_cmp(&a.1));
    all.truncate(NEAREST);
    all
}
