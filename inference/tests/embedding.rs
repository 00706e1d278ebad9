//! The embedder on the real model, through the public interface.
//!
//! `AITHER_TEST_EMBEDDING_MODEL` names the GGUF file of all-MiniLM-L6-v2 as this crate converts it;
//! `scripts/test.sh` sets it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    time::Duration,
};

use aither_inference::{
    Embedder, EmbedderConfig, Embedding, Error,
    embedding::{EmbeddingSink, Urgency},
};
use serde::Deserialize;

/// The least that a vector must have in common with the reference's.
const COSINE_MIN: f64 = 0.9999;

/// Long enough for a loaded machine; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(240);

fn model_path() -> PathBuf {
    let path = std::env::var_os("AITHER_TEST_EMBEDDING_MODEL").expect(
        "AITHER_TEST_EMBEDDING_MODEL must name a GGUF file; run scripts/test.sh, which fetches one",
    );
    PathBuf::from(path)
}

fn open(threads: usize) -> Embedder {
    let config = EmbedderConfig {
        threads,
        ..EmbedderConfig::default()
    };
    Embedder::open(&model_path(), config).unwrap()
}

/// What `scripts/make-embedding-references.py` wrote.
#[derive(Deserialize)]
struct References {
    phrases: Vec<String>,
    lengths: Vec<usize>,
    texts: Vec<Vec<usize>>,
}

impl References {
    fn read() -> Self {
        let json = std::fs::read_to_string(folder().join("texts.json")).unwrap();
        serde_json::from_str(&json).unwrap()
    }

    fn texts(&self) -> Vec<String> {
        let join = |text: &Vec<usize>| text.iter().map(|index| &*self.phrases[*index]).collect();
        self.texts.iter().map(join).collect()
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/embedding")
}

/// The reference's vectors.
fn vectors(dimensions: usize) -> Vec<Vec<f64>> {
    let bytes = std::fs::read(folder().join("vectors.f16")).unwrap();
    let (halves, _) = bytes.as_chunks::<2>();
    let values: Vec<f64> = halves
        .iter()
        .map(|half| half::f16::from_le_bytes(*half).to_f64())
        .collect();
    values
        .chunks_exact(dimensions)
        .map(<[f64]>::to_vec)
        .collect()
}

fn cosine(a: &[f32], b: &[f64]) -> f64 {
    let dot: f64 = a.iter().zip(b).map(|(a, b)| f64::from(*a) * b).sum();
    let length = |squares: f64| squares.sqrt();
    let a_length = length(a.iter().map(|a| f64::from(*a).powi(2)).sum());
    dot / a_length / length(b.iter().map(|b| b * b).sum())
}

#[test]
fn vectors_are_the_references() {
    let embedder = open(2);
    let references = References::read();
    let texts = references.texts();
    let expected = vectors(embedder.dimensions());
    assert_eq!((texts.len(), expected.len()), (1000, 1000));
    let embeddings = embedder.embed(&texts, Urgency::Bulk).unwrap();
    let mut worst = (1.0, 0);
    for (index, (embedding, expected)) in embeddings.iter().zip(&expected).enumerate() {
        assert_eq!(
            embedding.prompt_tokens, references.lengths[index],
            "ids of text {index}: {:?}",
            texts[index]
        );
        let cosine = cosine(&embedding.vector, expected);
        if cosine < worst.0 {
            worst = (cosine, index);
        }
    }
    let (cosine, index) = worst;
    println!("the lowest cosine is {cosine:.7}, of text {index}");
    assert!(cosine >= COSINE_MIN, "{cosine} of {:?}", texts[index]);
}

#[test]
fn a_vector_does_not_depend_on_company_or_threads() {
    let texts: Vec<String> = References::read().texts().into_iter().step_by(37).collect();
    let together = open(2).embed(&texts, Urgency::Bulk).unwrap();
    let alone = open(1);
    for (text, expected) in texts.iter().zip(&together) {
        let one = alone.embed(&[text], Urgency::Query).unwrap();
        assert_eq!(one, std::slice::from_ref(expected), "{text:?}");
    }
}

#[test]
fn a_text_is_cut_at_the_models_length_however_long_it_is() {
    let embedder = open(1);
    let long = "one two three ".repeat(200_000);
    let endless = "a".repeat(1 << 20);
    let spaces = " ".repeat(1 << 20) + "end";
    let prepared = embedder.prepare(&[&*long, &*endless, &*spaces]).unwrap();
    assert_eq!(prepared.first_truncated(), Some(0));
    // The second is one unknown word, the third the word behind all those spaces.
    let tokens = prepared.prompt_tokens();
    assert_eq!(tokens, embedder.max_tokens() + 3 + 3);
    let embeddings = embedder.embed(&[&*long, &*spaces], Urgency::Bulk).unwrap();
    assert!(embeddings[0].is_truncated && !embeddings[1].is_truncated);
    let end = embedder.embed(&["end"], Urgency::Query).unwrap();
    assert_eq!(embeddings[1].vector, end[0].vector);
}

#[test]
fn likeness_of_meaning_is_likeness_of_vectors() {
    let embedder = open(2);
    let texts = [
        "What did the user ask about last time?",
        "In the previous session the user's question was about opening hours.",
        "The volcano erupted in the spring of that year.",
    ];
    let found = embedder.embed(&texts, Urgency::Query).unwrap();
    let to_first = |index: usize| {
        let pairs = found[0].vector.iter().zip(&found[index].vector);
        pairs.map(|(a, b)| a * b).sum::<f32>()
    };
    assert!(to_first(1) > to_first(2) + 0.2);
}

/// Blocks the embedder's thread until it is told to go on.
struct Gate(
    SyncSender<Result<Vec<Embedding>, Error>>,
    std::sync::mpsc::Receiver<()>,
);

impl EmbeddingSink for Gate {
    fn is_wanted(&self) -> bool {
        true
    }

    fn finish(self: Box<Self>, result: Result<Vec<Embedding>, Error>) {
        let _ = self.0.send(result);
        let _ = self.1.recv();
    }
}

struct Report(
    &'static str,
    SyncSender<(&'static str, bool)>,
    Arc<AtomicBool>,
);

impl EmbeddingSink for Report {
    fn is_wanted(&self) -> bool {
        self.2.load(Ordering::Relaxed)
    }

    fn finish(self: Box<Self>, result: Result<Vec<Embedding>, Error>) {
        let _ = self.1.send((self.0, result.is_ok()));
    }
}

#[test]
fn queries_pass_bulk_and_a_full_queue_refuses() {
    let config = EmbedderConfig {
        threads: 1,
        waiting_tokens_max: 2000,
    };
    let embedder = Embedder::open(&model_path(), config).unwrap();
    let (first, started) = sync_channel(1);
    let (go_on, gate) = sync_channel(1);
    let one = embedder.prepare(&["one"]).unwrap();
    embedder
        .submit(one.clone(), Urgency::Bulk, Box::new(Gate(first, gate)))
        .unwrap();
    // While the thread is held in the first sink, nothing else is taken.
    started.recv_timeout(PATIENCE).unwrap().unwrap();
    let (sender, ended) = sync_channel(8);
    let wanted = Arc::new(AtomicBool::new(true));
    let unwanted = Arc::new(AtomicBool::new(false));
    let report =
        |name, wanted: &Arc<AtomicBool>| Box::new(Report(name, sender.clone(), wanted.clone()));
    let bulk = embedder.prepare(&vec!["many words in a row"; 250]).unwrap();
    embedder
        .submit(bulk.clone(), Urgency::Bulk, report("bulk", &wanted))
        .unwrap();
    embedder
        .submit(one.clone(), Urgency::Bulk, report("gone", &unwanted))
        .unwrap();
    embedder
        .submit(one.clone(), Urgency::Query, report("query", &wanted))
        .unwrap();
    let refused = embedder.submit(bulk, Urgency::Bulk, report("refused", &wanted));
    assert!(matches!(refused, Err(Error::QueueFull { .. })));
    go_on.send(()).unwrap();
    assert_eq!(ended.recv_timeout(PATIENCE).unwrap(), ("query", true));
    assert_eq!(ended.recv_timeout(PATIENCE).unwrap(), ("bulk", true));
    embedder.shut_down();
    let late = embedder.submit(one, Urgency::Query, report("late", &wanted));
    assert!(matches!(late, Err(Error::ShuttingDown)));
    drop(sender);
    assert!(
        ended.recv_timeout(PATIENCE).is_err(),
        "nothing else was answered"
    );
}

#[test]
fn no_texts_are_no_work() {
    assert!(
        open(1)
            .embed::<&str>(&[], Urgency::Query)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn weights_have_a_number_of_their_own() {
    let (a, b) = (open(1), open(2));
    assert_eq!(a.fingerprint(), b.fingerprint());
    assert_ne!(a.fingerprint(), 0);
    assert_eq!((a.dimensions(), a.max_tokens()), (384, 256));
}
