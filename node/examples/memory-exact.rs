//! What a search by meaning ought to find: an exact search, over vectors that are not rounded, in
//! the memory of a node that has stopped.
//!
//! Usage: memory-exact exact DATA_DIR MODEL NEAREST --dump FILE < QUESTIONS
//!        memory-exact fill DATA_DIR MODEL ENTRIES --dump FILE
//!
//! `exact` prints, for each question, a line of JSON with the keys of the entries that are nearest
//! to it. It looks at the scope that has most. Vectors are read from the dump, or made and written
//! there where it does not exist. `fill` adds entries whose vectors lie between those of others,
//! with noise: as near to each other as texts about like things, and without a model's work. The
//! script `scripts/bench-memory.sh` runs both.

use std::{
    error::Error,
    fs,
    io::{BufRead, Write},
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
};

use aither_inference::embedding::{Embedder, EmbedderConfig, Urgency};
use aither_node::{
    data_dir,
    memory::{
        IndexPut, MemoryLimits, MemoryStore, Quota, ScopeId, Serial, Unobserved, WriteEntry,
        index::{CodedVectors, IndexRow, SignVector, Terms, pieces, searchable_text},
    },
};
use clap::{Parser, ValueEnum};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Scopes that are looked at.
const SCOPES_MAX: u64 = 100;
/// Texts that are embedded at once, entries that are written at once.
const BATCH: usize = 512;
/// Size of each component of the noise: its length is about a third of a vector's.
const NOISE: f32 = 0.03;

#[derive(Debug, Parser)]
struct Arguments {
    what: What,
    data_dir: PathBuf,
    model: PathBuf,
    count: usize,
    #[arg(long)]
    dump: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    Exact,
    Fill,
}

/// The scope that has most, in the order of its writes.
struct Largest {
    store: MemoryStore,
    scope: ScopeId,
    rows: Vec<(Serial, IndexRow)>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let embedder = Embedder::open(&arguments.model, EmbedderConfig::default())?;
    let largest = Largest::open(&arguments.data_dir)?;
    let vectors = match arguments.dump.exists() {
        true => read_vectors(&arguments.dump)?,
        false => largest.embed(&embedder)?,
    };
    let dimensions = embedder.dimensions();
    if vectors.len() != largest.rows.len() * dimensions {
        return Err("the dump is of other entries".into());
    }
    match arguments.what {
        What::Exact => {
            write_vectors(&arguments.dump, &vectors)?;
            let questions = std::io::stdin().lock().lines();
            let questions = questions.collect::<std::io::Result<Vec<_>>>()?;
            for question in embed(&embedder, &questions)? {
                let keys = largest.nearest(&question, &vectors, arguments.count);
                writeln!(std::io::stdout(), "{}", serde_json::to_string(&keys)?)?;
            }
        }
        What::Fill => {
            let added = largest.fill(&embedder, &vectors, arguments.count)?;
            write_vectors(&arguments.dump, &[vectors, added].concat())?;
        }
    }
    Ok(())
}

impl Largest {
    fn open(folder: &Path) -> Result<Self> {
        let path = data_dir::memory_path(folder);
        let store = MemoryStore::open(&path, MemoryLimits::default(), Arc::new(Unobserved))?;
        let mut largest = (ScopeId(0), Vec::new());
        for scope in (1..=SCOPES_MAX).map(ScopeId) {
            let rows = store.index_rows(scope, None, usize::MAX)?;
            if rows.len() > largest.1.len() {
                largest = (scope, rows);
            }
        }
        let (scope, rows) = largest;
        let rows = rows
            .into_iter()
            .map(|(serial, row)| Ok((serial, IndexRow::from_bytes(&row)?)));
        let rows = rows.collect::<Result<Vec<_>>>()?;
        Ok(Self { store, scope, rows })
    }

    /// Returns the vector of each entry's first piece.
    fn embed(&self, embedder: &Embedder) -> Result<Vec<f32>> {
        let mut vectors = Vec::new();
        for rows in self.rows.chunks(BATCH) {
            let texts = rows.iter().map(|(_, row)| {
                let entry = self.store.entry_by_key(self.scope, &row.key, 0)?;
                let entry = entry.ok_or("an entry is not there")?;
                let text = searchable_text(&row.key, &serde_json::from_str(&entry.value)?);
                Ok(pieces(&text)
                    .first()
                    .copied()
                    .unwrap_or_default()
                    .to_owned())
            });
            let texts = texts.collect::<Result<Vec<_>>>()?;
            vectors.extend(embed(embedder, &texts)?.concat());
        }
        Ok(vectors)
    }

    fn nearest(&self, question: &[f32], vectors: &[f32], count: usize) -> Vec<&str> {
        let cosines = vectors.chunks_exact(question.len()).map(|vector| {
            let products = vector.iter().zip(question).map(|(a, b)| a * b);
            products.sum::<f32>()
        });
        let mut order: Vec<_> = cosines.zip(&self.rows).collect();
        order.sort_unstable_by(|(a, _), (b, _)| b.total_cmp(a));
        let nearest = order.into_iter().take(count);
        nearest.map(|(_, (_, row))| row.key.as_str()).collect()
    }

    /// Adds entries; returns their vectors.
    fn fill(&self, embedder: &Embedder, vectors: &[f32], count: usize) -> Result<Vec<f32>> {
        let mut rng = ChaCha8Rng::seed_from_u64(8200);
        let dimensions = embedder.dimensions();
        let mut added = Vec::with_capacity(count * dimensions);
        let mut numbers = self.rows.len()..self.rows.len() + count;
        loop {
            let batch: Vec<_> = numbers.by_ref().take(BATCH * 16).collect();
            if batch.is_empty() {
                return Ok(added);
            }
            let texts: Vec<_> = batch
                .iter()
                .map(|_| self.text(&mut rng))
                .collect::<Result<_>>()?;
            let states = self.write(&batch, &texts)?;
            let mut puts = Vec::with_capacity(batch.len());
            for ((number, text), serial) in batch.iter().zip(&texts).zip(states) {
                let vector = between(&mut rng, vectors, dimensions);
                let key = key_of(*number);
                let row = IndexRow {
                    terms: Terms::of(&searchable_text(&key, &text.as_str().into())),
                    key,
                    updated_at_ms: 1,
                    signs: vec![SignVector::of(&vector)],
                    model: Some(embedder.fingerprint()),
                    ..IndexRow::default()
                };
                puts.push(IndexPut {
                    scope: self.scope,
                    serial,
                    row: row.to_bytes().into(),
                    vectors: Some(CodedVectors::of(&[&vector]).to_bytes()),
                    awaits_vectors: false,
                });
                added.extend(vector);
            }
            self.store.put_index(puts, 1)?;
        }
    }

    /// Returns the text of some entry.
    fn text(&self, rng: &mut ChaCha8Rng) -> Result<String> {
        let (_, row) = &self.rows[rng.random_range(0..self.rows.len())];
        let entry = self.store.entry_by_key(self.scope, &row.key, 0)?;
        Ok(entry.ok_or("an entry is not there")?.value)
    }

    fn write(&self, numbers: &[usize], texts: &[String]) -> Result<Vec<Serial>> {
        let scope = self
            .store
            .scope_key(self.scope)?
            .ok_or("the scope is not there")?;
        let (done, answers) = mpsc::channel();
        for (number, value) in numbers.iter().zip(texts) {
            let write = WriteEntry {
                scope: scope.clone(),
                account: 0,
                quota: Quota::UNLIMITED,
                key: key_of(*number),
                value: value.clone(),
                tags: Vec::new(),
                expires_ms: None,
                if_version: None,
                writer: "bench".into(),
                signature: None,
            };
            let done = done.clone();
            self.store.write(write, 1, move |written| {
                // Nobody waits any more after an error.
                let _ = done.send(written);
            })?;
        }
        let answers = answers.iter().take(numbers.len());
        answers.map(|written| Ok(written?.serial)).collect()
    }
}

fn key_of(number: usize) -> String {
    format!("filled-{number}")
}

/// Returns a vector between two others, with noise.
fn between(rng: &mut ChaCha8Rng, vectors: &[f32], dimensions: usize) -> Vec<f32> {
    let count = vectors.len() / dimensions;
    let one = rng.random_range(0..count) * dimensions;
    let other = rng.random_range(0..count) * dimensions;
    let share = rng.random_range(0.6..0.9_f32);
    let mixed = (0..dimensions).map(|at| {
        // The sum of three is near enough to a normal distribution.
        let noise: f32 = (0..3).map(|_| rng.random_range(-NOISE..NOISE)).sum();
        share * vectors[one + at] + (1.0 - share) * vectors[other + at] + noise
    });
    let mut mixed: Vec<f32> = mixed.collect();
    let norm = mixed.iter().map(|part| part * part).sum::<f32>().sqrt();
    mixed.iter_mut().for_each(|part| *part /= norm);
    mixed
}

fn embed(embedder: &Embedder, texts: &[String]) -> Result<Vec<Vec<f32>>> {
    let embedded = embedder.embed(texts, Urgency::Bulk)?;
    Ok(embedded.into_iter().map(|one| one.vector).collect())
}

fn read_vectors(path: &Path) -> Result<Vec<f32>> {
    let bytes = fs::read(path)?;
    let parts = bytes.chunks_exact(4);
    Ok(parts
        .map(|part| f32::from_le_bytes([part[0], part[1], part[2], part[3]]))
        .collect())
}

fn write_vectors(path: &Path, vectors: &[f32]) -> Result<()> {
    let mut file = std::io::BufWriter::new(fs::File::create(path)?);
    for part in vectors {
        file.write_all(&part.to_le_bytes())?;
    }
    Ok(file.flush()?)
}
