//! Writes, indexing and searches together, on a real store, with a model that is easy to follow.

use std::sync::Arc;

use aither_protocol::MemoryTier;
use rand::{RngExt, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;

use super::*;
use crate::memory::{
    Change, DeleteEntry, MemoryLimits, Observer, Owner, Quota, ScopeKey, WriteEntry,
    indexer::{Embedding, EmbeddingFailure, Indexer, Step},
};

/// A model that knows only lengths of words: the same length is the same meaning.
#[derive(Debug)]
struct Lengths(u64);

impl Embedding for Lengths {
    fn model(&self) -> EmbeddingModel {
        EmbeddingModel {
            fingerprint: self.0,
            dimensions: 64,
        }
    }

    fn embed(&self, texts: Vec<String>) -> Result<Vec<Vec<f32>>, EmbeddingFailure> {
        Ok(texts.iter().map(|text| vector(text)).collect())
    }

    fn embed_query(&self, text: String) -> Result<Vec<f32>, EmbeddingFailure> {
        Ok(vector(&text))
    }
}

fn vector(text: &str) -> Vec<f32> {
    let mut vector = vec![0.01; 64];
    for word in text.split_whitespace() {
        vector[word.len() % 64] += 1.0;
    }
    let norm = vector.iter().map(|part| part * part).sum::<f32>().sqrt();
    vector.iter().map(|part| part / norm).collect()
}

#[derive(Debug)]
struct Watch(LoadedIndexes);

impl Observer for Watch {
    fn changed(&self, changes: &[Change]) {
        self.0.changed(changes);
    }
}

/// A store, its indexer and the indexes in memory.
struct Bench {
    folder: TempDir,
    store: MemoryStore,
    watch: Arc<Watch>,
    indexer: Indexer,
    model: EmbeddingModel,
}

impl Bench {
    fn new(bytes_max: usize) -> Self {
        Self::open(tempfile::tempdir().unwrap(), bytes_max, Lengths(1))
    }

    fn open(folder: TempDir, bytes_max: usize, embedding: Lengths) -> Self {
        let watch = Arc::new(Watch(LoadedIndexes::new(bytes_max)));
        let path = folder.path().join("memory.redb");
        let observer: Arc<dyn Observer> = watch.clone();
        let store = MemoryStore::open(&path, MemoryLimits::default(), observer).unwrap();
        let model = embedding.model();
        let indexer = Indexer::new(store.clone(), Some(Arc::new(embedding)), 1).unwrap();
        Self {
            folder,
            store,
            watch,
            indexer,
            model,
        }
    }

    /// Opens the same store with another model.
    fn reopen(self, embedding: Lengths) -> Self {
        let Self {
            folder,
            store,
            indexer,
            ..
        } = self;
        drop((indexer, store));
        Self::open(folder, usize::MAX, embedding)
    }

    fn write(&self, agent: u128, key: &str, value: &str) {
        let write = WriteEntry {
            scope: scope(agent),
            account: agent,
            quota: Quota::UNLIMITED,
            key: key.into(),
            value: serde_json::to_string(value).unwrap(),
            tags: Vec::new(),
            expires_ms: None,
            if_version: None,
            writer: "test".into(),
            signature: None,
        };
        let (done, answer) = std::sync::mpsc::channel();
        let reply = move |written| done.send(written).unwrap();
        self.store.write(write, 1, reply).unwrap();
        answer.recv().unwrap().unwrap();
    }

    fn delete(&self, agent: u128, key: &str) {
        let delete = DeleteEntry {
            scope: scope(agent),
            key: key.into(),
            if_version: None,
        };
        let (done, answer) = std::sync::mpsc::channel();
        let reply = move |deleted| done.send(deleted).unwrap();
        self.store.delete(delete, 1, reply).unwrap();
        answer.recv().unwrap().unwrap();
    }

    fn index(&mut self) {
        while self.indexer.step(&[], 1).unwrap() != Step::Idle {}
    }

    fn search(&self, agents: &[u128], search: &Search) -> Vec<String> {
        let ids = agents
            .iter()
            .map(|agent| self.store.scope_id(&scope(*agent)));
        let ids: Vec<_> = ids.filter_map(|id| id.unwrap()).collect();
        let found = search.run(&self.store, &self.watch.0, Some(self.model), &ids);
        let keys = found
            .unwrap()
            .found
            .into_iter()
            .map(|found| found.entry.info.key);
        keys.collect()
    }
}

fn scope(agent: u128) -> ScopeKey {
    ScopeKey::new(Owner::Agent(agent), MemoryTier::Spirit, None)
}

fn by(mode: SearchMode, text: &str) -> Search {
    Search {
        text: text.into(),
        vector: Some(vector(text)),
        mode,
        limit: 1000,
        now_ms: 1,
        ..Search::default()
    }
}

#[test]
fn words_are_found_first_and_then_the_meaning() {
    let mut bench = Bench::new(usize::MAX);
    bench.write(1, "k", "seven letters");
    assert_eq!(
        bench.search(&[1], &by(SearchMode::Keyword, "seven")),
        [""; 0]
    );
    assert_eq!(bench.indexer.step(&[], 1).unwrap(), Step::Words(1));
    assert_eq!(bench.search(&[1], &by(SearchMode::Keyword, "seven")), ["k"]);
    assert_eq!(
        bench.search(&[1], &by(SearchMode::Semantic, "eight")),
        [""; 0]
    );
    assert_eq!(bench.search(&[1], &by(SearchMode::Hybrid, "seven")), ["k"]);
    assert_eq!(bench.indexer.step(&[], 1).unwrap(), Step::Meaning(1));
    assert_eq!(
        bench.search(&[1], &by(SearchMode::Semantic, "eight")),
        ["k"]
    );
    assert_eq!(bench.indexer.step(&[], 1).unwrap(), Step::Idle);
}

#[test]
fn another_model_makes_all_vectors_anew() {
    let mut bench = Bench::new(usize::MAX);
    bench.write(1, "k", "seven letters");
    bench.index();
    let mut bench = bench.reopen(Lengths(2));
    assert_eq!(
        bench.search(&[1], &by(SearchMode::Semantic, "eight")),
        [""; 0]
    );
    assert_eq!(bench.search(&[1], &by(SearchMode::Keyword, "seven")), ["k"]);
    assert_eq!(bench.indexer.step(&[], 1).unwrap(), Step::Meaning(1));
    assert_eq!(
        bench.search(&[1], &by(SearchMode::Semantic, "eight")),
        ["k"]
    );
    let mut bench = bench.reopen(Lengths(2));
    assert_eq!(bench.indexer.step(&[], 1).unwrap(), Step::Idle);
}

#[test]
fn a_scope_in_which_much_is_written_does_not_keep_another_waiting() {
    let mut bench = Bench::new(usize::MAX);
    for number in 0..300 {
        bench.write(1, &format!("k{number}"), "many");
    }
    bench.write(2, "k", "one");
    assert_eq!(bench.indexer.step(&[], 1).unwrap(), Step::Words(301));
    bench.indexer.step(&[], 1).unwrap();
    bench.indexer.step(&[], 1).unwrap();
    assert_eq!(bench.search(&[2], &by(SearchMode::Semantic, "two")), ["k"]);
    bench.write(3, "k", "one");
    let urgent = bench.store.scope_id(&scope(3)).unwrap().unwrap();
    bench.indexer.step(&[urgent], 1).unwrap();
    bench.indexer.step(&[urgent], 1).unwrap();
    assert_eq!(bench.search(&[3], &by(SearchMode::Semantic, "two")), ["k"]);
}

/// What is found is what is there, whatever is written, deleted, indexed and let go of between, and
/// another's entries are never among it.
#[test]
fn what_is_found_is_what_is_there() {
    for seed in 0..8 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // In half of the runs every index has to be made anew for each search.
        let bytes_max = if seed % 2 == 0 { usize::MAX } else { 1 };
        let mut bench = Bench::new(bytes_max);
        let mut model = std::collections::BTreeMap::new();
        for _ in 0..300 {
            let agent = rng.random_range(1..4_u128);
            let key = format!("k{}", rng.random_range(0..20));
            match rng.random_range(0..10) {
                0..4 => {
                    let word = *["alpha", "beta", "gamma"].choose(&mut rng).unwrap();
                    bench.write(agent, &key, word);
                    model.insert((agent, key), word);
                }
                4 => {
                    if model.remove(&(agent, key.clone())).is_some() {
                        bench.delete(agent, &key);
                    }
                }
                5 => {
                    bench.indexer.step(&[], 1).unwrap();
                }
                _ => {
                    bench.index();
                    let word = *["alpha", "beta", "gamma"].choose(&mut rng).unwrap();
                    let mut found = bench.search(&[agent], &by(SearchMode::Keyword, word));
                    found.sort();
                    let there = model
                        .iter()
                        .filter(|(place, there)| place.0 == agent && **there == word);
                    let mut there: Vec<_> = there.map(|(place, _)| place.1.clone()).collect();
                    there.sort();
                    assert_eq!(found, there, "seed {seed}");
                    let all = bench.search(&[agent], &by(SearchMode::Semantic, word));
                    let owned = model.keys().filter(|place| place.0 == agent).count();
                    assert_eq!(all.len(), owned, "seed {seed}");
                }
            }
        }
    }
}

#[test]
fn several_scopes_are_one_order_and_a_prefix_bounds_it() {
    let mut bench = Bench::new(usize::MAX);
    bench.write(1, "a/one", "the harbour");
    bench.write(1, "b/two", "the harbour at night");
    bench.write(2, "a/three", "harbour");
    bench.index();
    let search = by(SearchMode::Hybrid, "harbour");
    let found = bench.search(&[1, 2], &search);
    assert_eq!(found.len(), 3);
    assert_eq!(found[0], "a/three");
    let prefix = Search {
        prefix: "a/".into(),
        ..search
    };
    let mut found = bench.search(&[1, 2], &prefix);
    found.sort();
    assert_eq!(found, ["a/one", "a/three"]);
}

/// Whoever reaches only keys that begin alike is told nothing of the others, not even by a score.
#[test]
fn a_prefix_has_statistics_of_its_own_and_is_not_hidden_behind_others() {
    let mut bench = Bench::new(usize::MAX);
    for number in 0..1100 {
        bench.write(1, &format!("b/{number}"), "secret secret secret");
    }
    bench.write(1, "a/x", "secret known");
    bench.write(2, "a/x", "secret known");
    bench.index();
    let within = Search {
        prefix: "a/".into(),
        ..by(SearchMode::Keyword, "secret known")
    };
    let scores = |bench: &Bench, agent: u128| {
        let id = bench.store.scope_id(&scope(agent)).unwrap().unwrap();
        let found = within.run(&bench.store, &bench.watch.0, Some(bench.model), &[id]);
        let found = found.unwrap().found.into_iter();
        let scores = found.map(|found| (found.entry.info.key, found.hit.score.to_bits()));
        scores.collect::<Vec<_>>()
    };
    assert_eq!(scores(&bench, 1).len(), 1);
    assert_eq!(scores(&bench, 1), scores(&bench, 2));
    // What comes and goes elsewhere changes nothing, what does here is seen.
    bench.write(1, "b/more", "known");
    bench.write(1, "a/y", "known");
    bench.write(2, "a/y", "known");
    bench.index();
    assert_eq!(scores(&bench, 1).len(), 2);
    assert_eq!(scores(&bench, 1), scores(&bench, 2));
}

#[test]
fn an_answer_has_as_many_values_as_fit_into_it() {
    let mut bench = Bench::new(usize::MAX);
    for number in 0..6 {
        let value = format!("harbour {}", "x".repeat(900_000));
        bench.write(1, &format!("k{number}"), &value);
    }
    bench.index();
    let id = bench.store.scope_id(&scope(1)).unwrap().unwrap();
    let search = by(SearchMode::Keyword, "harbour");
    let found = search.run(&bench.store, &bench.watch.0, Some(bench.model), &[id]);
    let found = found.unwrap();
    assert_eq!((found.found.len(), found.is_cut), (2, true));
}

#[test]
fn changes_that_nobody_looks_at_are_bounded_in_memory() {
    let loaded = LoadedIndexes::new(64 << 20);
    let name = |scope| IndexName {
        scope: ScopeId(scope),
        prefix: "".into(),
    };
    let ask = |scope| {
        let make = || Ok::<_, ()>(ScopeIndex::new());
        loaded
            .ask(&name(scope), None, make, ScopeIndex::len)
            .unwrap()
    };
    let empty = loaded.bytes();
    for scope in 0..200 {
        ask(scope);
    }
    let row = crate::memory::index::IndexRow {
        key: "x".repeat(60_000),
        ..Default::default()
    };
    let row: Arc<[u8]> = row.to_bytes().into();
    for number in 0..10_000 {
        loaded.changed(&[Change::Indexed {
            scope: ScopeId(number % 200),
            serial: Serial(number),
            row: Arc::clone(&row),
        }]);
        assert!(loaded.bytes() <= 64 << 20);
    }
    for scope in 0..200 {
        loaded.changed(&[Change::ScopeGone {
            scope: ScopeId(scope),
        }]);
    }
    assert_eq!(loaded.bytes(), empty);
}

#[test]
fn an_index_of_another_model_is_made_again() {
    let mut bench = Bench::new(usize::MAX);
    bench.write(1, "k", "seven letters");
    bench.index();
    let id = bench.store.scope_id(&scope(1)).unwrap().unwrap();
    let search = by(SearchMode::Semantic, "eight");
    let found = |model| {
        let found = search.run(&bench.store, &bench.watch.0, model, &[id]);
        found.unwrap().found.len()
    };
    assert_eq!(found(Some(Lengths(9).model())), 0);
    assert_eq!(found(None), 0);
    assert_eq!(found(Some(bench.model)), 1);
}
