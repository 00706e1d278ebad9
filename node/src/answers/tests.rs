//! The store on a real file: what is kept, for how long, and what a crash leaves.

use super::*;

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
/// Some moment.
const NOW: u64 = 1_800_000_000_000;

struct Fixture {
    directory: tempfile::TempDir,
    limits: AnswerLimits,
}

fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let limits = AnswerLimits::default();
    Fixture { directory, limits }
}

impl Fixture {
    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("answers.redb")
    }

    fn open(&self) -> AnswerStore {
        self.open_after(|_| Ok(Settled::Never))
    }

    fn open_after(
        &self,
        settled: impl Fn(TransferId) -> Result<Settled, BillingError>,
    ) -> AnswerStore {
        AnswerStore::open(&self.path(), self.limits, settled).unwrap()
    }
}

fn asked(key: u8) -> Asked {
    Asked {
        key: RowKey([key; 32]),
        caller: 7,
        request: [1; 32],
    }
}

fn answer(body: &str) -> KeptAnswer {
    KeptAnswer {
        status: 200,
        headers: vec![("x".into(), b"y".to_vec())],
        body: Bytes::copy_from_slice(body.as_bytes()),
    }
}

async fn claim(store: &AnswerStore, key: u8, now_ms: u64) -> Claim {
    store.begin(asked(key), now_ms).await.unwrap().unwrap()
}

async fn seen(store: &AnswerStore, key: u8, now_ms: u64) -> Seen {
    store.look(asked(key), now_ms).await.unwrap()
}

#[tokio::test]
async fn an_answer_is_there_for_a_day_also_after_a_restart() {
    let fixture = fixture();
    let store = fixture.open();
    assert_eq!(seen(&store, 1, NOW).await, Seen::New);
    let first = claim(&store, 1, NOW).await;
    assert_eq!(seen(&store, 1, NOW).await, Seen::InFlight);
    let again = store.begin(asked(1), NOW).await.unwrap().unwrap_err();
    assert_eq!(again, Seen::InFlight);
    first.answered(answer("done"), NOW + 1).await.unwrap();
    drop(store);
    assert_eq!(AnswerStore::check(&fixture.path()).unwrap(), 1);
    let store = fixture.open();
    let kept = Seen::Answered(answer("done"));
    assert_eq!(seen(&store, 1, NOW + DAY_MS - 1).await, kept);
    let other = Asked {
        request: [2; 32],
        ..asked(1)
    };
    assert_eq!(store.look(other, NOW).await.unwrap(), Seen::OtherRequest);
    assert_eq!(seen(&store, 1, NOW + DAY_MS).await, Seen::New);
    store.sweep(NOW + DAY_MS).await.unwrap();
    assert_eq!(seen(&store, 1, NOW).await, Seen::New);
}

#[tokio::test]
async fn of_many_at_once_one_begins() {
    let fixture = fixture();
    let store = fixture.open();
    let begun = (0..50).map(|_| store.begin(asked(1), NOW));
    let begun = futures_util::future::join_all(begun).await;
    assert_eq!(begun.into_iter().filter_map(|b| b.unwrap().ok()).count(), 1);
}

#[tokio::test]
async fn what_is_given_back_may_begin_anew() {
    let fixture = fixture();
    let store = fixture.open();
    let first = claim(&store, 1, NOW).await;
    let operation = first.operation();
    first.release(None, NOW).await.unwrap();
    let second = claim(&store, 1, NOW).await;
    assert_ne!(second.operation().id, operation.id);
    let paid = second.operation();
    let amount = Amount::from_micros(5);
    second.release(Some(amount), NOW).await.unwrap();
    assert_eq!(seen(&store, 1, NOW).await, Seen::New);
    let third = claim(&store, 1, NOW).await;
    assert_eq!(third.operation().id, paid.id);
    assert_eq!(third.operation().charged, Some(amount));
    third.done(NOW).await.unwrap();
    assert_eq!(seen(&store, 1, NOW).await, Seen::Done);
}

#[tokio::test]
async fn a_crash_leaves_what_was_charged_and_nothing_else() {
    let fixture = fixture();
    let store = fixture.open();
    let (charged, uncharged) = (claim(&store, 1, NOW).await, claim(&store, 2, NOW).await);
    let id = charged.operation().id;
    drop((charged, uncharged, store));
    let amount = Amount::from_micros(9);
    let store = fixture.open_after(|asked_for| {
        Ok(match asked_for == id {
            true => Settled::Charged(amount),
            false => Settled::Never,
        })
    });
    let again = claim(&store, 1, NOW).await.operation();
    assert_eq!((again.id, again.charged), (id, Some(amount)));
    assert_eq!(claim(&store, 2, NOW).await.operation().charged, None);
}

#[tokio::test]
async fn too_many_answers_lose_the_oldest_ones_body() {
    let mut fixture = fixture();
    fixture.limits.bytes_max = 10;
    let store = fixture.open();
    for key in 1..=3 {
        let claim = claim(&store, key, NOW + u64::from(key)).await;
        claim.answered(answer("12345"), NOW).await.unwrap();
    }
    assert_eq!(seen(&store, 1, NOW).await, Seen::Done);
    assert_eq!(seen(&store, 2, NOW).await, Seen::Answered(answer("12345")));
    drop(store);
    assert_eq!(AnswerStore::check(&fixture.path()).unwrap(), 3);
}

#[tokio::test]
async fn rows_are_bounded_in_all_and_of_each_caller() {
    let mut fixture = fixture();
    (fixture.limits.caller_rows_max, fixture.limits.rows_max) = (2, 3);
    let store = fixture.open();
    let of = |key: u8, caller| {
        let key = RowKey([key; 32]);
        store.begin(
            Asked {
                key,
                caller,
                ..asked(0)
            },
            NOW,
        )
    };
    let mut claims = Vec::new();
    for (key, caller) in [(1, 1), (2, 1), (4, 2)] {
        claims.push(of(key, caller).await.unwrap().unwrap());
    }
    let refused = of(3, 1).await.unwrap_err();
    assert!(matches!(refused, AnswersError::CallerFull { max: 2 }));
    let refused = of(5, 2).await.unwrap_err();
    assert!(matches!(refused, AnswersError::Full { max: 3 }));
    for claim in claims {
        claim.done(NOW).await.unwrap();
    }
    // A day later there is room again, although nobody swept.
    let later = Asked {
        key: RowKey([5; 32]),
        ..asked(0)
    };
    assert!(store.begin(later, NOW + DAY_MS).await.unwrap().is_ok());
}

#[tokio::test]
async fn what_is_in_flight_outlives_its_day() {
    let fixture = fixture();
    let store = fixture.open();
    let claim = claim(&store, 1, NOW).await;
    store.sweep(NOW + 2 * DAY_MS).await.unwrap();
    assert_eq!(seen(&store, 1, NOW + 2 * DAY_MS).await, Seen::InFlight);
    claim.done(NOW + 2 * DAY_MS).await.unwrap();
    assert_eq!(seen(&store, 1, NOW + 2 * DAY_MS).await, Seen::New);
}

#[test]
fn a_damaged_or_newer_file_is_refused() {
    let fixture = fixture();
    drop(fixture.open());
    let bytes = std::fs::read(fixture.path()).unwrap();
    let mut damaged = bytes;
    damaged.truncate(4000);
    std::fs::write(fixture.path(), damaged).unwrap();
    let error = AnswerStore::check(&fixture.path()).unwrap_err();
    assert!(error.is_damage(), "{error}");
    std::fs::remove_file(fixture.path()).unwrap();
    drop(fixture.open());
    let database = redb::Database::create(fixture.path()).unwrap();
    let tx = database.begin_write().unwrap();
    let meta = redb::TableDefinition::<&str, u64>::new("meta");
    tx.open_table(meta)
        .unwrap()
        .insert("schema_version", tables::SCHEMA_VERSION + 1)
        .unwrap();
    tx.commit().unwrap();
    drop(database);
    let error = AnswerStore::check(&fixture.path()).unwrap_err();
    assert!(error.to_string().contains("schema version 2"), "{error}");
}
