//! The index against a model that keeps rows in a list and computes everything from the formulas,
//! and rows against bytes of any kind.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use super::{
    analyze::query_terms,
    words::{B, K1},
    *,
};
use crate::memory::ids::Serial;

const MODEL: EmbeddingModel = EmbeddingModel {
    fingerprint: 77,
    dimensions: 96,
};

const WORDS: [&str; 16] = [
    "the", "user", "asked", "about", "weather", "Berlin", "snow", "boots", "price", "of", "train",
    "ticket", "last", "time", "memory", "東京",
];
const TAGS: [&str; 3] = ["red", "green", "blue"];

/// An entry as the model keeps it.
struct Kept {
    row: IndexRow,
    vectors: CodedVectors,
}

/// Rows in a list: what an index must be like.
#[derive(Default)]
struct Model {
    kept: BTreeMap<Serial, Kept>,
}

impl Model {
    /// Returns whether an entry passes the filters.
    fn accepts(query: &Query<'_>, row: &IndexRow) -> bool {
        let is_after = query
            .updated_after_ms
            .is_none_or(|after| row.updated_at_ms > after);
        let is_before = query
            .updated_before_ms
            .is_none_or(|before| row.updated_at_ms < before);
        let is_there = row
            .expires_at_ms
            .is_none_or(|expires| expires > query.now_ms);
        let has_tags = query.tags.iter().all(|tag| row.tags.contains(tag));
        is_after && is_before && is_there && has_tags
    }

    /// BM25 as it is written in books, over all entries; divided by what nothing reaches.
    fn keyword(&self, query: &Query<'_>, serial: Serial) -> Option<f32> {
        let count = self.kept.len() as f64;
        let (k1, b) = (f64::from(K1), f64::from(B));
        let lengths = self
            .kept
            .values()
            .map(|kept| f64::from(kept.row.terms.length));
        let mean = (lengths.sum::<f64>() / count).max(1.0);
        let row = &self.kept[&serial].row;
        let times = |row: &IndexRow, term: u64| {
            let mut counts = row.terms.counts.iter();
            let count = counts.find(|(other, _)| *other == term);
            count.map_or(0.0, |(_, count)| f64::from(*count))
        };
        let (mut score, mut reachable) = (0.0, 0.0);
        for term in query_terms(query.text, 64) {
            let rows = self.kept.values();
            let have = rows.filter(|kept| times(&kept.row, term) > 0.0).count() as f64;
            let idf = (1.0 + (count - have + 0.5) / (have + 0.5)).ln();
            let tf = times(row, term);
            let length = f64::from(row.terms.length);
            score += idf * tf * (k1 + 1.0) / (tf + k1 * (1.0 - b + b * length / mean));
            reachable += idf * (k1 + 1.0);
        }
        (score > 0.0).then_some((score / reachable) as f32)
    }

    fn semantic(&self, query: &Query<'_>, serial: Serial) -> Option<f32> {
        let vectors = &self.kept[&serial].vectors;
        query.vector.and_then(|vector| vectors.nearest(vector))
    }

    /// Filters first, scores everything, sorts.
    fn search(&self, query: &Query<'_>) -> Vec<(Serial, f32)> {
        let accepted = self
            .kept
            .iter()
            .filter(|(_, kept)| Self::accepts(query, &kept.row));
        let mut found: Vec<_> = accepted
            .filter_map(|(serial, _)| {
                let score = match query.mode {
                    SearchMode::Semantic => self.semantic(query, *serial),
                    _ => self.keyword(query, *serial),
                };
                score.map(|score| (*serial, score))
            })
            .collect();
        found.sort_by(|a, b| b.1.total_cmp(&a.1).then(b.0.cmp(&a.0)));
        found.truncate(query.limit);
        found
    }

    fn fetch(&self) -> impl FnMut(&[Serial]) -> Vec<Option<CodedVectors>> {
        |serials| {
            let kept = serials.iter().map(|serial| self.kept.get(serial));
            kept.map(|kept| kept.map(|kept| kept.vectors.clone()))
                .collect()
        }
    }
}

fn vector(rng: &mut ChaCha8Rng) -> Vec<f32> {
    let vector: Vec<f32> = (0..MODEL.dimensions)
        .map(|_| rng.random_range(-1.0..1.0))
        .collect();
    let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    vector.into_iter().map(|value| value / norm).collect()
}

fn text(rng: &mut ChaCha8Rng, words_max: usize) -> String {
    let words = (0..rng.random_range(0..=words_max)).map(|_| {
        // The first words are the most frequent, as in any language.
        let word = rng.random_range(0..WORDS.len() * WORDS.len());
        WORDS[word.isqrt()]
    });
    words.collect::<Vec<_>>().join(" ")
}

fn tags(rng: &mut ChaCha8Rng) -> Vec<String> {
    let tags = TAGS.into_iter().filter(|_| rng.random_bool(0.3));
    tags.map(str::to_owned).collect()
}

fn entry(rng: &mut ChaCha8Rng) -> Kept {
    let pieces: Vec<_> = (0..rng.random_range(0..4)).map(|_| vector(rng)).collect();
    let model = if rng.random_bool(0.9) {
        Some(MODEL.fingerprint)
    } else {
        None
    };
    let row = IndexRow {
        key: text(rng, 3),
        updated_at_ms: rng.random_range(0..100),
        expires_at_ms: rng.random_bool(0.3).then(|| rng.random_range(0..100)),
        terms: Terms::of(&text(rng, 30)),
        tags: tags(rng),
        signs: pieces.iter().map(|piece| SignVector::of(piece)).collect(),
        model,
    };
    // An index does not see another model's vectors, so neither does the model.
    let pieces = if model.is_some() { pieces } else { Vec::new() };
    let vectors = CodedVectors::of(&pieces);
    Kept { row, vectors }
}

fn assert_same(index: &ScopeIndex, model: &Model, query: &Query<'_>, context: &str) {
    let hits = index.search(query, &mut model.fetch());
    let expected = model.search(query);
    assert_eq!(hits.len(), expected.len(), "{context}: {query:?}");
    for (hit, (_, score)) in hits.iter().zip(&expected) {
        let context = format!("{context}: {hit:?} {score} {query:?}");
        assert!((hit.score - score).abs() < 1e-4, "{context}");
        assert!(
            Model::accepts(query, &model.kept[&hit.serial].row),
            "{context}"
        );
        // Near equals may change places, so each hit's score is looked up by itself too.
        let own = match query.mode {
            SearchMode::Semantic => model.semantic(query, hit.serial),
            _ => model.keyword(query, hit.serial),
        };
        assert!(
            (hit.score - own.unwrap_or(f32::NAN)).abs() < 1e-4,
            "{context}"
        );
    }
}

fn assert_hybrid_is_sound(index: &ScopeIndex, model: &Model, query: &Query<'_>) {
    let hits = index.search(query, &mut model.fetch());
    assert!(hits.len() <= query.limit);
    assert!(hits.is_sorted_by(|a, b| a.score >= b.score));
    for hit in hits {
        let same = |a: Option<f32>, b: Option<f32>| match (a, b) {
            (Some(a), Some(b)) => (a - b).abs() < 1e-4,
            (a, b) => a == b,
        };
        assert!(hit.score > 0.0 && hit.score <= 1.0);
        assert!(Model::accepts(query, &model.kept[&hit.serial].row));
        assert!(
            same(hit.keyword, model.keyword(query, hit.serial)),
            "{hit:?}"
        );
        assert!(
            same(hit.semantic, model.semantic(query, hit.serial)),
            "{hit:?}"
        );
    }
}

/// Runs random changes and asks random questions in between.
fn run_against_model(seed: u64, changes: usize, entries_max: usize) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut index = ScopeIndex::for_model(MODEL);
    let mut model = Model::default();
    let mut next = 0;
    for change in 0..changes {
        let context = format!("SEED={seed} change {change}");
        let any = |rng: &mut ChaCha8Rng, model: &Model| {
            let at = rng.random_range(0..model.kept.len().max(1));
            model.kept.keys().nth(at).copied()
        };
        let is_full = model.kept.len() >= entries_max;
        match rng.random_range(0..10) {
            0..6 if !is_full => {
                next += rng.random_range(1..5);
                let entry = entry(&mut rng);
                index.insert(Serial(next), &entry.row);
                model.kept.insert(Serial(next), entry);
            }
            6 if let Some(serial) = any(&mut rng, &model) => {
                let entry = entry(&mut rng);
                index.insert(serial, &entry.row);
                model.kept.insert(serial, entry);
            }
            _ => {
                let serial = any(&mut rng, &model).filter(|_| rng.random_bool(0.9));
                let serial = serial.unwrap_or(Serial(next + 1));
                let was_there = model.kept.remove(&serial).is_some();
                assert_eq!(index.remove(serial), was_there, "{context}");
            }
        }
        assert_eq!(index.len(), model.kept.len());
        if change % 7 != 0 {
            continue;
        }
        let question = text(&mut rng, 6);
        let vector = vector(&mut rng);
        let tags = if rng.random_bool(0.3) {
            tags(&mut rng)
        } else {
            Vec::new()
        };
        let query = Query {
            text: &question,
            vector: Some(&vector),
            mode: SearchMode::Keyword,
            tags: &tags,
            updated_after_ms: rng.random_bool(0.3).then(|| rng.random_range(0..80)),
            updated_before_ms: rng.random_bool(0.3).then(|| rng.random_range(20..100)),
            limit: rng.random_range(1..20),
            now_ms: rng.random_range(0..100),
        };
        assert_same(&index, &model, &query, &context);
        let mode = SearchMode::Semantic;
        assert_same(&index, &model, &Query { mode, ..query }, &context);
        let mode = SearchMode::Hybrid;
        assert_hybrid_is_sound(&index, &model, &Query { mode, ..query });
    }
}

#[test]
fn an_index_answers_as_a_list_of_rows_would() {
    for seed in 0..12 {
        run_against_model(seed, 400, 60);
    }
    run_against_model(99, 3_000, 80);
}

#[test]
fn many_removals_give_memory_back_and_change_no_answer() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut index = ScopeIndex::for_model(MODEL);
    let mut model = Model::default();
    let empty = index.bytes();
    for serial in 0..3_000 {
        let entry = entry(&mut rng);
        index.insert(Serial(serial), &entry.row);
        model.kept.insert(Serial(serial), entry);
    }
    let full = index.bytes();
    for serial in (0..3_000).filter(|serial| serial % 50 != 0) {
        assert!(index.remove(Serial(serial)));
        model.kept.remove(&Serial(serial));
    }
    assert_eq!(index.len(), 60);
    assert!(
        index.bytes() - empty < (full - empty) / 8,
        "{full} {}",
        index.bytes()
    );
    let vector = vector(&mut rng);
    for mode in [SearchMode::Keyword, SearchMode::Semantic] {
        let query = Query {
            text: "user asked about snow boots",
            vector: Some(&vector),
            mode,
            limit: 60,
            ..Query::default()
        };
        assert_same(&index, &model, &query, "after removals");
    }
}

#[test]
fn the_nearest_of_thousands_are_found_by_their_signs() {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let mut index = ScopeIndex::for_model(MODEL);
    let mut model = Model::default();
    let centres: Vec<_> = (0..50).map(|_| vector(&mut rng)).collect();
    let near = |rng: &mut ChaCha8Rng| -> Vec<f32> {
        let centre = &centres[rng.random_range(0..centres.len())];
        let noise = vector(rng);
        let sum: Vec<f32> = centre.iter().zip(noise).map(|(a, b)| a + 0.9 * b).collect();
        let norm = sum.iter().map(|value| value * value).sum::<f32>().sqrt();
        sum.into_iter().map(|value| value / norm).collect()
    };
    for serial in 0..5_000 {
        let mut entry = entry(&mut rng);
        let piece = near(&mut rng);
        entry.row.signs = vec![SignVector::of(&piece)];
        entry.row.model = Some(MODEL.fingerprint);
        entry.vectors = CodedVectors::of(&[piece]);
        index.insert(Serial(serial), &entry.row);
        model.kept.insert(Serial(serial), entry);
    }
    let mut found = 0;
    for _ in 0..20 {
        let vector = near(&mut rng);
        let query = Query {
            vector: Some(&vector),
            mode: SearchMode::Semantic,
            limit: 10,
            ..Query::default()
        };
        let expected = model.search(&query);
        let hits = index.search(&query, &mut model.fetch());
        let is_expected = |hit: &&Hit| expected.iter().any(|(serial, _)| *serial == hit.serial);
        found += hits.iter().filter(is_expected).count();
    }
    assert!(found >= 190, "{found} of 200");
}

#[test]
fn a_question_finds_by_meaning_what_has_none_of_its_words() {
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let (meaning, other) = (vector(&mut rng), vector(&mut rng));
    let mut index = ScopeIndex::for_model(MODEL);
    let row = |text: &str, vector: &[f32]| IndexRow {
        terms: Terms::of(text),
        signs: vec![SignVector::of(vector)],
        model: Some(MODEL.fingerprint),
        ..IndexRow::default()
    };
    index.insert(Serial(1), &row("rain expected tomorrow", &meaning));
    index.insert(Serial(2), &row("weather report", &other));
    index.insert(Serial(3), &row("invoice", &other));
    let mut fetch = |serials: &[Serial]| {
        let vectors = serials.iter().map(|serial| match serial.0 {
            1 => Some(CodedVectors::of(&[&meaning])),
            2 => Some(CodedVectors::of(&[&other])),
            // As of an entry whose vectors are not made yet.
            _ => None,
        });
        vectors.collect()
    };
    let query = Query {
        text: "weather",
        vector: Some(&meaning),
        limit: 10,
        ..Query::default()
    };
    let hits = index.search(&query, &mut fetch);
    let serials: Vec<_> = hits.iter().map(|hit| hit.serial.0).collect();
    assert_eq!(serials, [2, 1], "both, and nothing that neither order has");
    assert!(hits[1].keyword.is_none() && hits[1].semantic.is_some_and(|near| near > 0.99));

    // Without a vector, or with another model's, the words are what is left.
    for vector in [
        None,
        Some([0.5; 7].as_slice()),
        Some([f32::NAN; 96].as_slice()),
    ] {
        let hits = index.search(&Query { vector, ..query }, &mut |_| unreachable!());
        assert_eq!(
            (hits.len(), hits[0].serial, hits[0].score),
            (1, Serial(2), 1.0)
        );
        let mode = SearchMode::Semantic;
        assert_eq!(
            index.search(
                &Query {
                    vector,
                    mode,
                    ..query
                },
                &mut |_| unreachable!()
            ),
            []
        );
    }
    let nothing = Query {
        text: "?!",
        vector: None,
        ..query
    };
    assert_eq!(index.search(&nothing, &mut fetch), []);
    assert_eq!(index.search(&Query { limit: 0, ..query }, &mut fetch), []);
}

#[test]
fn rows_and_vectors_are_read_back_and_no_bytes_do_harm() {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    for _ in 0..200 {
        let kept = entry(&mut rng);
        let bytes = kept.row.to_bytes();
        let coded = kept.vectors.to_bytes();
        assert_eq!(IndexRow::from_bytes(&bytes).as_ref(), Ok(&kept.row));
        assert_eq!(CodedVectors::from_bytes(&coded).as_ref(), Ok(&kept.vectors));
        for cut in 0..bytes.len() {
            assert!(IndexRow::from_bytes(&bytes[..cut]).is_err());
        }
        for cut in 0..coded.len() {
            assert!(CodedVectors::from_bytes(&coded[..cut]).is_err());
        }
        for (original, is_row) in [(&bytes, true), (&coded, false)] {
            let mut bytes = original.clone();
            for _ in 0..3 {
                let at = rng.random_range(0..bytes.len());
                bytes[at] = rng.random();
            }
            // What still is a row must be one that is safe to use.
            if is_row && let Ok(row) = IndexRow::from_bytes(&bytes) {
                ScopeIndex::for_model(MODEL).insert(Serial(1), &row);
                assert_eq!(IndexRow::from_bytes(&row.to_bytes()), Ok(row));
            } else if let Ok(vectors) = CodedVectors::from_bytes(&bytes) {
                let nearest = vectors.nearest(&vector(&mut rng));
                assert!(nearest.is_none_or(f32::is_finite));
            }
        }
        let more = [&bytes[..], &[0]].concat();
        assert_eq!(IndexRow::from_bytes(&more), Err(RowError::Damaged("end")));
    }
    for _ in 0..20_000 {
        let mut bytes = vec![1];
        bytes.extend(
            (0..rng.random_range(0..60)).map(|_| rng.random::<u8>() >> rng.random_range(0..8)),
        );
        let _ = IndexRow::from_bytes(&bytes);
        let _ = CodedVectors::from_bytes(&bytes);
    }
    assert_eq!(IndexRow::from_bytes(&[2, 0]), Err(RowError::Version(2)));
    // Lengths that promise more than there is.
    assert!(IndexRow::from_bytes(&[1, 0xff, 0xff, 0xff, 0xff, 0x7f]).is_err());
}

#[test]
fn rows_of_version_1_stay_readable() {
    let row = IndexRow {
        key: "k".to_owned(),
        updated_at_ms: 300,
        expires_at_ms: Some(1),
        terms: Terms::of("to be or not to be"),
        tags: vec!["t".to_owned()],
        signs: vec![SignVector(Box::new([5]))],
        model: Some(9),
    };
    let recorded = concat!(
        "01016bac0201010000000000000001090000000000000001017406",
        "04ffc5c44f02d0420401e798cebc682f519801",
        "2a7eb04c6a3c18fa021966bec30d7fc7fc02",
        "01010500000000000000",
    );
    let hex: String = row
        .to_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(hex, recorded);
}

#[test]
fn the_text_of_a_value_has_names_texts_and_numbers() {
    let value = json!({
        "question": "How do I bake bread?",
        "times": [1, 2.5, true, null],
        "nested": {"by": "Ada", "empty": {}}
    });
    let expected = "user:last\nquestion: How do I bake bread?\n\
        times: 1\n2.5\n\n\nnested: by: Ada\nempty:";
    assert_eq!(searchable_text("user:last", &value), expected);
    assert_eq!(searchable_text("k", &json!("plain")), "k\nplain");
    assert_eq!(searchable_text("k", &json!(null)), "k");
}

#[test]
fn the_text_of_a_large_or_deep_value_is_bounded() {
    let long = json!(["ä".repeat(TEXT_BYTES_MAX), "behind"]);
    let text = searchable_text("key", &long);
    assert!(text.len() <= TEXT_BYTES_MAX && text.len() > TEXT_BYTES_MAX - 4);
    let mut deep = json!("bottom");
    for _ in 0..100_000 {
        deep = serde_json::Value::Array(vec![deep]);
    }
    assert_eq!(searchable_text("key", &deep), "key\nbottom");
    // Dropping so deep a value would itself exhaust the stack.
    std::mem::forget(deep);
}

#[test]
fn pieces_are_cut_between_words_and_are_alike() {
    assert_eq!(pieces(""), [""; 0]);
    assert_eq!(pieces(" \n "), [""; 0]);
    assert_eq!(pieces(" a b "), ["a b"]);
    let words: Vec<_> = (0..400).map(|n| format!("word{n}")).collect();
    let text = words.join(" ");
    let cut = pieces(&text);
    let counts: Vec<_> = cut.iter().map(|piece| piece.split(' ').count()).collect();
    assert_eq!(counts, [134, 134, 132]);
    assert_eq!(cut.join(" "), text);
    let long = "word ".repeat(5_000);
    let cut = pieces(&long);
    assert_eq!((cut.len(), cut[7].split(' ').count()), (PIECES_MAX, 180));
}

#[test]
fn scripts_without_spaces_and_endless_words_are_cut_between_characters() {
    let han = "記憶".repeat(300);
    let cut = pieces(&han);
    assert_eq!(cut.len(), 4);
    assert!(cut.iter().all(|piece| piece.chars().count() == 150));
    let endless = "ß".repeat(48 * 180 * 2);
    let cut = pieces(&endless);
    assert_eq!(cut.len(), 2);
    assert_eq!(cut.concat(), endless);
}
