//! The store by itself: what is written is there, and nothing else.

mod power;

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::{Mutex, mpsc},
    time::{Duration, Instant},
};

use aither_protocol::MemoryTier;
use rand::{RngExt as _, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// An account with room enough.
const ACCOUNT: u128 = 5;

#[derive(Debug, Default)]
struct Recorder(Mutex<Vec<Change>>);

impl Observer for Recorder {
    fn changed(&self, changes: &[Change]) {
        self.0.lock().unwrap().extend_from_slice(changes);
    }
}

/// A store in a folder of its own.
struct Bench {
    folder: tempfile::TempDir,
    store: Option<MemoryStore>,
    recorder: Arc<Recorder>,
    limits: MemoryLimits,
}

impl Bench {
    fn new() -> Self {
        Self::with_limits(MemoryLimits::default())
    }

    fn with_limits(limits: MemoryLimits) -> Self {
        let mut bench = Self {
            folder: tempfile::tempdir().unwrap(),
            store: None,
            recorder: Arc::default(),
            limits,
        };
        bench.reopen();
        bench
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("memory.redb")
    }

    fn reopen(&mut self) {
        self.store = None;
        let recorder = Arc::clone(&self.recorder) as Arc<dyn Observer>;
        self.store = Some(MemoryStore::open(&self.path(), self.limits, recorder).unwrap());
    }

    fn store(&self) -> &MemoryStore {
        self.store.as_ref().unwrap()
    }

    fn write(&self, write: WriteEntry, now_ms: u64) -> Result<WrittenEntry, MemoryError> {
        answer(|reply| self.store().write(write, now_ms, reply))
    }

    fn delete(&self, scope: &ScopeKey, key: &str, now_ms: u64) -> Result<(), MemoryError> {
        let delete = DeleteEntry {
            scope: scope.clone(),
            key: key.to_owned(),
            if_version: None,
        };
        answer(|reply| self.store().delete(delete, now_ms, reply))
    }

    fn clear(&self, scope: &ScopeKey, prefix: &str) -> u64 {
        answer(|reply| {
            let (scope, prefix) = (scope.clone(), prefix.to_owned());
            self.store().clear(scope, prefix, 1, reply)
        })
        .unwrap()
    }

    fn value(&self, scope: &ScopeKey, key: &str, now_ms: u64) -> Option<String> {
        let entry = self.store().read(scope, key, now_ms).unwrap();
        entry.map(|entry| entry.value)
    }

    fn keys(&self, scope: &ScopeKey, query: &ListQuery, now_ms: u64) -> Vec<String> {
        let listed = self.store().list(scope, query, now_ms).unwrap();
        listed.into_iter().map(|info| info.key).collect()
    }

    /// Closes the store and verifies the file.
    fn check(&mut self) -> Counts {
        self.store = None;
        MemoryStore::check(&self.path()).unwrap()
    }

    /// Whether the file has a text anywhere.
    fn holds(&self, text: &str) -> bool {
        let bytes = fs::read(self.path()).unwrap();
        bytes
            .windows(text.len())
            .any(|part| part == text.as_bytes())
    }
}

type Replied<T> = Result<T, MemoryError>;

fn answer<T: Send + 'static>(
    ask: impl FnOnce(Box<dyn FnOnce(Replied<T>) + Send>) -> Replied<()>,
) -> Replied<T> {
    let (sender, receiver) = mpsc::channel();
    ask(Box::new(move |outcome| sender.send(outcome).unwrap()))?;
    receiver.recv().unwrap()
}

fn scope(agent: u128, tier: MemoryTier, name: &str) -> ScopeKey {
    ScopeKey::new(Owner::Agent(agent), tier, Some(name))
}

fn spirit(agent: u128) -> ScopeKey {
    scope(agent, MemoryTier::Spirit, "")
}

fn entry(scope: &ScopeKey, key: &str, value: &str) -> WriteEntry {
    WriteEntry {
        scope: scope.clone(),
        account: ACCOUNT,
        quota: Quota::UNLIMITED,
        key: key.to_owned(),
        value: value.to_owned(),
        tags: Vec::new(),
        expires_ms: None,
        if_version: None,
        writer: "lyra".to_owned(),
        signature: None,
    }
}

fn version(written: Replied<WrittenEntry>) -> u64 {
    written.unwrap().version
}

fn code<T>(refused: Replied<T>) -> aither_protocol::ErrorCode {
    refused.err().unwrap().code()
}

#[test]
fn an_entry_is_there_with_all_of_it_also_after_a_restart() {
    let mut bench = Bench::new();
    let scope = spirit(1);
    let mut first = entry(&scope, "k", "{\"n\": 1e400}");
    first.tags = vec!["a".into(), "b".into()];
    first.signature = Some(EntrySignature {
        public_key: [3; 32],
        value: vec![4; 64],
    });
    bench.write(first.clone(), 10).unwrap();
    first.if_version = Some(1);
    let second = bench.write(first, 20).unwrap();
    bench.reopen();
    let found = bench.store().read(&scope, "k", 30).unwrap().unwrap();
    assert_eq!(found.value, "{\"n\": 1e400}");
    let info = found.info;
    assert_eq!((info.version, info.serial), (2, second.serial));
    assert_eq!((info.created_ms, info.updated_ms), (10, 20));
    assert_eq!((info.writer.as_str(), info.tags.len()), ("lyra", 2));
    assert_eq!(info.signature.unwrap().value, [4; 64]);
    assert_eq!(info.expires_ms, None);
    assert_eq!(bench.check().entries, 1);
}

#[test]
fn versions_rise_and_a_wrong_one_changes_nothing() {
    let bench = Bench::new();
    let scope = spirit(1);
    let with = |if_version| WriteEntry {
        if_version,
        ..entry(&scope, "k", "1")
    };
    let refused = bench.write(with(Some(1)), 1).unwrap_err();
    assert!(
        matches!(refused, MemoryError::VersionConflict { current: 0 }),
        "{refused}"
    );
    assert_eq!(version(bench.write(with(Some(0)), 1)), 1);
    let refused = bench.write(with(Some(0)), 1).unwrap_err();
    assert!(matches!(
        refused,
        MemoryError::VersionConflict { current: 1 }
    ));
    assert_eq!(version(bench.write(with(Some(1)), 1)), 2);
    assert_eq!(version(bench.write(with(None), 1)), 3);
    // A key beside it begins at 1.
    assert_eq!(version(bench.write(entry(&scope, "other", "1"), 1)), 1);
    assert_eq!(version(bench.write(entry(&spirit(2), "k", "1"), 1)), 1);
}

#[test]
fn a_version_never_comes_again_with_another_content() {
    let mut bench = Bench::new();
    let scope = spirit(1);
    for _ in 0..3 {
        bench.write(entry(&scope, "k", "1"), 1).unwrap();
    }
    bench.write(entry(&scope, "stays", "1"), 1).unwrap();
    bench.delete(&scope, "k", 1).unwrap();
    assert_eq!(version(bench.write(entry(&scope, "k", "2"), 1)), 4);
    // Nothing is left in the scope, and a new one of the same name takes over.
    bench.delete(&scope, "k", 1).unwrap();
    bench.delete(&scope, "stays", 1).unwrap();
    assert_eq!(bench.store().scope_id(&scope).unwrap(), None);
    bench.reopen();
    assert_eq!(version(bench.write(entry(&scope, "k", "3"), 1)), 5);
    // Of others nothing is seen.
    assert_eq!(version(bench.write(entry(&spirit(2), "k", "1"), 1)), 1);
}

#[test]
fn what_has_expired_cannot_be_seen_and_is_swept() {
    let mut bench = Bench::new();
    let scope = spirit(1);
    let ends = |key: &str, at_ms| WriteEntry {
        expires_ms: Some(at_ms),
        ..entry(&scope, key, "1")
    };
    bench.write(ends("a", 100), 1).unwrap();
    bench.write(ends("b", 200), 1).unwrap();
    bench.write(ends("b", 300), 1).unwrap();
    bench.write(entry(&scope, "c", "1"), 1).unwrap();
    assert!(bench.value(&scope, "a", 99).is_some());
    assert!(bench.value(&scope, "a", 100).is_none());
    let all = ListQuery {
        limit: 9,
        ..ListQuery::default()
    };
    assert_eq!(bench.keys(&scope, &all, 250), ["b", "c"]);
    // Deleted or written when it is over, it counts as not there.
    assert_eq!(
        code(bench.delete(&scope, "a", 100)),
        aither_protocol::ErrorCode::UnknownKey
    );
    let mut again = ends("a", 500);
    again.if_version = Some(0);
    assert_eq!(version(bench.write(again, 150)), 2);
    assert_eq!(bench.store().counts().unwrap().entries, 3);
    bench.store().sweep(400).unwrap();
    // Answered after the sweep, which it follows in the queue.
    bench.write(entry(&scope, "c", "2"), 400).unwrap();
    assert_eq!(bench.store().counts().unwrap().entries, 2);
    assert_eq!(bench.check().entries, 2);
}

#[test]
fn more_than_one_transaction_sweeps_goes_without_being_asked_again() {
    let mut bench = Bench::new();
    let scope = spirit(1);
    let (sender, receiver) = mpsc::channel();
    let count = 3000;
    for number in 0..count {
        let mut write = entry(&scope, &format!("k{number}"), "1");
        write.expires_ms = Some(100);
        let sender = sender.clone();
        let reply = move |outcome: Replied<_>| sender.send(outcome.is_ok()).unwrap();
        bench.store().write(write, 1, reply).unwrap();
    }
    assert!(receiver.iter().take(count).all(|is_written| is_written));
    assert_eq!(bench.store().counts().unwrap().entries, 3000);
    bench.store().sweep(200).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while bench.store().counts().unwrap().entries > 0 {
        assert!(Instant::now() < deadline, "waited in vain");
        std::thread::yield_now();
    }
    assert_eq!(bench.check().entries, 0);
}

#[test]
fn lists_have_what_begins_with_the_prefix_page_by_page() {
    let bench = Bench::new();
    let scope = scope(1, MemoryTier::Active, "s");
    for key in ["a", "b/1", "b/2", "b/3", "c", "\u{e4}"] {
        bench.write(entry(&scope, key, "1"), 1).unwrap();
    }
    // Scopes before and after it in the file.
    bench.write(entry(&spirit(1), "b/0", "1"), 1).unwrap();
    bench.write(entry(&spirit(2), "b/9", "1"), 1).unwrap();
    let page = |prefix: &str, after: Option<&str>, limit| {
        let query = ListQuery {
            prefix: prefix.into(),
            after: after.map(Into::into),
            limit,
        };
        bench.keys(&scope, &query, 1)
    };
    assert_eq!(page("", None, 9).len(), 6);
    assert_eq!(page("b/", None, 2), ["b/1", "b/2"]);
    assert_eq!(page("b/", Some("b/2"), 2), ["b/3"]);
    assert_eq!(page("b/", Some("a"), 1), ["b/1"]);
    assert!(page("b/", Some("c"), 1).is_empty());
    assert_eq!(page("\u{e4}", None, 9), ["\u{e4}"]);
}

#[test]
fn an_account_gets_no_more_than_its_quota() {
    let bench = Bench::new();
    let quota = Quota {
        entries: 2,
        bytes: 400,
    };
    let with = |agent, key: &str, value: &str| WriteEntry {
        quota,
        ..entry(&spirit(agent), key, value)
    };
    bench.write(with(1, "a", "1"), 1).unwrap();
    // Its other agents count, too.
    bench.write(with(2, "a", "1"), 1).unwrap();
    let refused = bench.write(with(2, "b", "1"), 1).unwrap_err();
    assert!(matches!(
        refused,
        MemoryError::QuotaExceeded {
            measure: Measure::Entries,
            used: 2,
            allowed: 2
        }
    ));
    let large = format!("\"{}\"", "x".repeat(300));
    let refused = bench.write(with(2, "a", &large), 1).unwrap_err();
    assert!(matches!(
        refused,
        MemoryError::QuotaExceeded {
            measure: Measure::Bytes,
            ..
        }
    ));
    // Another account has its own, and what is deleted counts no more.
    let other = WriteEntry {
        account: 6,
        ..with(3, "a", "1")
    };
    bench.write(other, 1).unwrap();
    bench.delete(&spirit(2), "a", 1).unwrap();
    bench.write(with(1, "b", "1"), 1).unwrap();
    assert_eq!(bench.store().usage(ACCOUNT).unwrap().entries, 2);
    // A full memory can be written over with less.
    bench.write(with(1, "b", ""), 1).unwrap();
}

#[test]
fn what_is_shared_counts_against_who_wrote_it_last() {
    let mut bench = Bench::new();
    let shared = scope(1, MemoryTier::Knowledge, "");
    bench.write(entry(&shared, "k", "1"), 1).unwrap();
    let by_other = WriteEntry {
        account: 6,
        ..entry(&scope(2, MemoryTier::Knowledge, ""), "k", "2")
    };
    assert_eq!(version(bench.write(by_other, 1)), 2);
    assert_eq!(bench.store().usage(ACCOUNT).unwrap(), Counts::default());
    assert_eq!(bench.store().usage(6).unwrap().entries, 1);
    bench.check();
}

#[test]
fn the_whole_node_has_a_bound() {
    let limits = MemoryLimits {
        total: Quota {
            entries: 1,
            bytes: 1000,
        },
        ..MemoryLimits::default()
    };
    let bench = Bench::with_limits(limits);
    bench.write(entry(&spirit(1), "a", "1"), 1).unwrap();
    let refused = bench.write(entry(&spirit(2), "a", "1"), 1);
    let full = aither_protocol::ErrorCode::InsufficientStorage;
    assert_eq!(code(refused), full);
    bench.write(entry(&spirit(1), "a", "22"), 1).unwrap();
}

#[test]
fn clearing_ends_a_scope_or_what_a_prefix_names() {
    let mut bench = Bench::new();
    let task = scope(1, MemoryTier::Working, "t");
    for key in ["a/1", "a/2", "b"] {
        bench.write(entry(&task, key, "1"), 1).unwrap();
    }
    let other = scope(1, MemoryTier::Working, "t2");
    bench.write(entry(&other, "a/1", "1"), 1).unwrap();
    assert_eq!(bench.clear(&task, "a/"), 2);
    assert!(bench.value(&task, "b", 1).is_some());
    let id = bench.store().scope_id(&task).unwrap().unwrap();
    assert_eq!(bench.clear(&task, ""), 1);
    assert_eq!(bench.clear(&task, ""), 0);
    assert!(bench.value(&other, "a/1", 1).is_some());
    let last = bench.recorder.0.lock().unwrap().pop().unwrap();
    assert_eq!(last, Change::ScopeGone { scope: id });
    // Its number goes to no other.
    bench.write(entry(&task, "b", "1"), 1).unwrap();
    assert_ne!(bench.store().scope_id(&task).unwrap(), Some(id));
    assert_eq!(bench.check().entries, 2);
}

#[test]
fn observers_are_told_before_whoever_wrote() {
    let bench = Bench::new();
    let scope = spirit(1);
    let first = bench.write(entry(&scope, "k", "1"), 1).unwrap().serial;
    let second = bench.write(entry(&scope, "k", "2"), 1).unwrap().serial;
    bench.delete(&scope, "k", 1).unwrap();
    let id = ScopeId(1);
    let written = |serial| Change::Written {
        scope: id,
        serial,
        key: "k".into(),
    };
    let removed = |serial| Change::Removed { scope: id, serial };
    let expected = [
        written(first),
        removed(first),
        written(second),
        removed(second),
        Change::ScopeGone { scope: id },
    ];
    assert_eq!(*bench.recorder.0.lock().unwrap(), expected);
    assert!(first < second);
}

#[test]
fn what_search_makes_goes_with_the_state_it_was_made_of() {
    let mut bench = Bench::new();
    let scope = spirit(1);
    for key in ["a", "b", "c"] {
        bench.write(entry(&scope, key, "1"), 1).unwrap();
    }
    let store = bench.store();
    let pending = store.pending(None, 9).unwrap();
    let keys: Vec<_> = pending.iter().map(|waiting| waiting.key.as_str()).collect();
    assert_eq!(keys, ["a", "b", "c"]);
    let after = store
        .pending(Some((pending[1].scope, pending[1].serial)), 9)
        .unwrap();
    assert_eq!(after, pending[2..]);
    // One of them changes while search works.
    bench.write(entry(&scope, "b", "2"), 1).unwrap();
    let puts = pending.iter().map(|waiting| IndexPut {
        scope: waiting.scope,
        serial: waiting.serial,
        row: waiting.key.as_bytes().into(),
        vectors: Some(vec![1, 2]),
        awaits_vectors: false,
    });
    assert_eq!(store.put_index(puts.clone().collect(), 1).unwrap(), 2);
    assert_eq!(store.index_counts().unwrap(), (1, 2));
    let id = pending[0].scope;
    let rows = store.index_rows(id, None, 9).unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0], (pending[0].serial, b"a".to_vec()));
    let serials: Vec<_> = pending.iter().map(|waiting| waiting.serial).collect();
    let vectors = store.vectors(id, &serials).unwrap();
    assert_eq!(vectors, [Some(vec![1, 2]), None, Some(vec![1, 2])]);
    // What is known can be made again, what is no more cannot.
    let again: Vec<_> = puts.take(2).collect();
    assert_eq!(store.put_index(again, 1).unwrap(), 1);
    bench.delete(&scope, "a", 1).unwrap();
    let store = bench.store();
    assert_eq!(store.index_rows_of(id, &serials[..1]).unwrap(), [None]);
    assert_eq!(store.vectors(id, &serials[..1]).unwrap(), [None]);
    bench.check();
}

#[test]
fn another_model_leaves_the_words_and_another_version_nothing() {
    let mut bench = Bench::new();
    for key in ["b", "c"] {
        bench.write(entry(&spirit(1), key, "1"), 1).unwrap();
    }
    let store = bench.store();
    let id = store.pending(None, 1).unwrap()[0].scope;
    store.expect_index(1, Some(7), 1).unwrap();
    assert_eq!(store.index_counts().unwrap(), (2, 0));
    store.expect_index(1, Some(7), 1).unwrap();
    let pending = store.pending(None, 9).unwrap();
    let puts = pending.iter().map(|waiting| IndexPut {
        scope: waiting.scope,
        serial: waiting.serial,
        row: b"words".as_slice().into(),
        vectors: None,
        awaits_vectors: true,
    });
    store.put_index(puts.collect(), 1).unwrap();
    let last = store.last_serial().unwrap();
    let left = |count_max| store.unindexed(id, last, count_max).unwrap();
    let of = |words, meaning| Unindexed { words, meaning };
    assert_eq!((left(9), left(1)), (of(0, 2), of(0, 1)));
    let awaiting = store.awaiting(None, None, 9).unwrap();
    let puts = awaiting.iter().map(|&(scope, serial)| IndexPut {
        scope,
        serial,
        row: b"meaning".as_slice().into(),
        vectors: Some(vec![3]),
        awaits_vectors: false,
    });
    store.put_index(puts.collect(), 1).unwrap();
    assert_eq!(left(9), of(0, 0));
    store.expect_index(1, None, 1).unwrap();
    assert_eq!(left(9), of(0, 0));
    store.expect_index(1, Some(8), 1).unwrap();
    assert_eq!(left(9), of(0, 2));
    assert_eq!(
        store.awaiting(Some(awaiting[0]), Some(id), 9).unwrap(),
        awaiting[1..]
    );
    store.expect_index(2, Some(8), 1).unwrap();
    assert_eq!((left(9), store.index_counts().unwrap()), (of(2, 2), (2, 0)));
    bench.check();
}

/// Entries of two agents, mixed, with what search made of them.
fn of_two_agents(bench: &Bench) {
    for number in 0..300 {
        for (agent, word) in [(7, "MARKER"), (8, "stays")] {
            let scope = scope(agent, MemoryTier::Active, &format!("{word}-session"));
            let text = format!("\"{word}-value-{number} {}\"", "x".repeat(number * 7));
            let mut write = entry(&scope, &format!("{word}-key-{number}"), &text);
            write.tags = vec![format!("{word}-tag")];
            write.expires_ms = (number % 3 == 0).then_some(1_000_000);
            bench.write(write, 1).unwrap();
        }
    }
    let pending = bench.store().pending(None, 400).unwrap();
    let puts = pending.into_iter().map(|waiting| IndexPut {
        scope: waiting.scope,
        serial: waiting.serial,
        row: waiting.key.as_bytes().into(),
        vectors: Some(waiting.key.into_bytes()),
        awaits_vectors: waiting.serial.0 % 2 == 1,
    });
    bench.store().put_index(puts.collect(), 1).unwrap();
    for number in (0..300).step_by(2) {
        for (agent, word) in [(7, "MARKER"), (8, "stays")] {
            let scope = scope(agent, MemoryTier::Active, &format!("{word}-session"));
            let key = format!("{word}-key-{number}");
            bench.delete(&scope, &key, 1).unwrap();
        }
    }
}

#[test]
fn a_purge_leaves_nothing_anywhere_in_the_file() {
    let mut bench = Bench::new();
    of_two_agents(&bench);
    assert!(bench.holds("MARKER"));
    let owner = Owner::Agent(7);
    bench.store().begin_purge(owner, 2).unwrap();
    let refused = bench.write(entry(&spirit(7), "late", "1"), 2);
    assert!(matches!(refused, Err(MemoryError::Purged)));
    bench.store().purge(2).unwrap();
    assert!(!bench.holds("MARKER"));
    assert!(bench.holds("stays"));
    // Who asked before still cannot write.
    let refused = bench.write(entry(&spirit(7), "late", "1"), 2);
    assert!(matches!(refused, Err(MemoryError::Purged)));
    bench.write(entry(&spirit(8), "new", "1"), 2).unwrap();
    let names = fs::read_dir(bench.folder.path()).unwrap();
    assert_eq!(names.count(), 1, "something else is left");
    bench.reopen();
    assert!(bench.store().unfinished_purges().unwrap().is_empty());
    assert_eq!(bench.check().entries, 151);
    assert!(!bench.holds("MARKER"));
}

#[test]
fn a_purge_that_was_cut_off_is_known_after_the_restart() {
    let mut bench = Bench::new();
    of_two_agents(&bench);
    let owner = Owner::Agent(7);
    bench.store().begin_purge(owner, 2).unwrap();
    // What a rewriting leaves that power cut off.
    fs::write(bench.path().with_extension("redb.new"), "MARKER").unwrap();
    bench.reopen();
    assert_eq!(bench.store().unfinished_purges().unwrap(), [owner]);
    let refused = bench.write(entry(&spirit(7), "late", "1"), 2);
    assert!(matches!(refused, Err(MemoryError::Purged)));
    bench.store().purge(3).unwrap();
    assert!(!bench.holds("MARKER"));
    assert_eq!(bench.check().entries, 150);
    assert_eq!(fs::read_dir(bench.folder.path()).unwrap().count(), 1);
}

#[test]
fn regression_who_is_purged_writes_no_more_to_what_all_share() {
    let bench = Bench::new();
    let knowledge = ScopeKey::new(Owner::Node, MemoryTier::Knowledge, None);
    let write = |by| {
        let write = entry(&knowledge, "k", "1");
        answer(|reply| bench.store().write_by(by, write, 1, reply)).map(drop)
    };
    let (gone, other) = (Owner::Agent(1), Owner::Agent(2));
    bench.store().begin_purge(gone, 1).unwrap();
    assert!(matches!(write(gone), Err(MemoryError::Purged)));
    write(other).unwrap();
    bench.store().cancel_purge(gone, 1).unwrap();
    write(gone).unwrap();
}

#[test]
fn a_purge_that_is_taken_back_changes_nothing() {
    let mut bench = Bench::new();
    bench.write(entry(&spirit(7), "k", "1"), 1).unwrap();
    let owner = Owner::Agent(7);
    bench.store().begin_purge(owner, 2).unwrap();
    bench.store().cancel_purge(owner, 2).unwrap();
    bench.store().purge(2).unwrap();
    assert_eq!(version(bench.write(entry(&spirit(7), "k", "2"), 2)), 2);
    assert_eq!(bench.check().entries, 1);
}

#[test]
fn readers_see_a_whole_file_while_it_is_written_anew() {
    let bench = Bench::new();
    of_two_agents(&bench);
    let stays = scope(8, MemoryTier::Active, "stays-session");
    std::thread::scope(|threads| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                threads.spawn(|| {
                    for number in (1..300).step_by(2).cycle().take(3000) {
                        let key = format!("stays-key-{number}");
                        assert!(bench.value(&stays, &key, 1).is_some(), "{key}");
                    }
                })
            })
            .collect();
        for agent in [7, 9, 10] {
            let _ = bench.write(entry(&spirit(agent), "k", "1"), 1);
            bench.store().begin_purge(Owner::Agent(agent), 1).unwrap();
            bench.store().purge(1).unwrap();
        }
        readers
            .into_iter()
            .for_each(|reader| reader.join().unwrap());
    });
}

#[test]
fn a_copy_is_a_store_of_its_own() {
    let bench = Bench::new();
    of_two_agents(&bench);
    let path = bench.folder.path().join("copy.redb");
    bench.store().copy_to(&path).unwrap();
    let counts = bench.store().counts().unwrap();
    assert_eq!(MemoryStore::check(&path).unwrap(), counts);
    let copy = MemoryStore::open(&path, bench.limits, Arc::new(Unobserved)).unwrap();
    let stays = scope(8, MemoryTier::Active, "stays-session");
    assert!(copy.read(&stays, "stays-key-1", 1).unwrap().is_some());
    let known = bench.store().index_counts().unwrap();
    assert_eq!(copy.index_counts().unwrap(), known);
}

#[test]
fn writers_at_once_each_get_what_they_wrote() {
    let mut bench = Bench::new();
    let bench_ref = &bench;
    std::thread::scope(|threads| {
        for agent in 0..8 {
            threads.spawn(move || {
                for number in 0..50 {
                    let key = format!("k{}", number % 10);
                    let value = format!("[{agent},{number}]");
                    let write = entry(&spirit(agent), &key, &value);
                    let written = version(bench_ref.write(write, 1));
                    assert_eq!(written, number / 10 + 1);
                    let found = bench_ref.value(&spirit(agent), &key, 1);
                    assert_eq!(found.as_deref(), Some(value.as_str()));
                }
            });
        }
    });
    assert_eq!(bench.check().entries, 80);
}

#[test]
fn a_queue_of_too_many_bytes_refuses_at_once() {
    let limits = MemoryLimits {
        queue_bytes_max: 1000,
        ..MemoryLimits::default()
    };
    let bench = Bench::with_limits(limits);
    let large = format!("\"{}\"", "x".repeat(2000));
    let refused = bench.write(entry(&spirit(1), "k", &large), 1);
    assert!(matches!(refused, Err(MemoryError::Busy)));
    bench.write(entry(&spirit(1), "k", "1"), 1).unwrap();
}

/// What a plain map makes of the same commands.
#[derive(Default)]
struct Model(BTreeMap<(u128, String), (String, Option<u64>)>);

impl Model {
    fn get(&self, agent: u128, key: &str, now_ms: u64) -> Option<&String> {
        let found = self.0.get(&(agent, key.to_owned()));
        let seen = found.filter(|(_, ends)| ends.is_none_or(|at_ms| now_ms < at_ms));
        seen.map(|(value, _)| value)
    }
}

#[test]
fn random_commands_do_what_a_plain_map_does() {
    for seed in 0..4_u64 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut bench, mut model) = (Bench::new(), Model::default());
        for now_ms in 1..400_u64 {
            let agent = rng.random_range(0..3_u128);
            let key = format!("k{}", rng.random_range(0..12));
            let place = (agent, key.clone());
            match rng.random_range(0..10) {
                0..6 => {
                    let value = format!("\"{}\"", "v".repeat(rng.random_range(0..900)));
                    let ends = rng
                        .random_bool(0.3)
                        .then(|| now_ms + rng.random_range(1..50));
                    let mut write = entry(&spirit(agent), &key, &value);
                    write.expires_ms = ends;
                    bench.write(write, now_ms).unwrap();
                    model.0.insert(place, (value, ends));
                }
                6..8 => {
                    let was_there = model.get(agent, &key, now_ms).is_some();
                    let done = bench.delete(&spirit(agent), &key, now_ms);
                    assert_eq!(done.is_ok(), was_there, "SEED={seed} {done:?}");
                    model.0.remove(&place);
                }
                8 => {
                    bench.clear(&spirit(agent), &key);
                    model.0.retain(|(other, name), _| {
                        *other != agent || !name.starts_with(key.as_str())
                    });
                }
                _ => bench.reopen(),
            }
            let found = bench.value(&spirit(agent), &key, now_ms);
            assert_eq!(
                found.as_ref(),
                model.get(agent, &key, now_ms),
                "SEED={seed}"
            );
        }
        for agent in 0..3 {
            let all = ListQuery {
                limit: 99,
                ..ListQuery::default()
            };
            let listed = bench.keys(&spirit(agent), &all, 400);
            let expected = model.0.keys().filter(|(other, _)| *other == agent);
            let expected: Vec<_> = expected
                .filter(|(_, key)| model.get(agent, key, 400).is_some())
                .map(|(_, key)| key.clone())
                .collect();
            assert_eq!(listed, expected, "SEED={seed}");
        }
        bench.check();
    }
}
