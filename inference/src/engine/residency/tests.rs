//! Room, eviction and time, with numbers for models.

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

struct Fixture {
    residency: Residency<u64>,
    now: Instant,
}

fn need(id: u64, expected_bytes: u64, cache_bytes: u64) -> Need<'static> {
    Need {
        id: ModelId(id),
        name: "m",
        expected_bytes,
        cache: CacheNeed {
            bytes: cache_bytes,
            bytes_max: cache_bytes,
        },
    }
}

impl Fixture {
    fn new(budget_bytes: u64) -> Self {
        Self {
            residency: Residency::new(budget_bytes, HOUR),
            now: Instant::now(),
        }
    }

    fn later(&mut self, duration: Duration) {
        self.now += duration;
    }

    /// Asks for a place; a second passes, so that uses are ordered.
    fn place(&mut self, id: u64, bytes: u64, cache: u64) -> (Place, Vec<u64>) {
        self.later(Duration::from_secs(1));
        let decision = self.residency.place(need(id, bytes, cache), self.now);
        (decision.place, decision.evicted)
    }

    /// Loads a model of that size.
    fn load(&mut self, id: u64, bytes: u64) -> Vec<u64> {
        let (place, evicted) = self.place(id, bytes, 0);
        assert_eq!(place, Place::StartLoading);
        assert!(
            self.residency
                .loaded(id, bytes, self.now)
                .unwrap()
                .is_empty()
        );
        evicted
    }

    fn acquire(&mut self, id: u64, cache: u64) {
        assert_eq!(self.place(id, 0, cache).0, Place::Ready);
        let acquired = self.residency.acquire(need(id, 0, cache), self.now);
        assert_eq!(acquired.unwrap().0, id);
    }

    fn release(&mut self, id: u64, cache: u64, keep_alive: Option<Duration>) {
        let now = self.now;
        let cache = need(id, 0, cache).cache;
        self.residency.release(ModelId(id), cache, keep_alive, now);
    }
}

#[test]
fn the_least_recently_used_idle_model_is_evicted() {
    let mut fixture = Fixture::new(100);
    fixture.load(1, 40);
    fixture.load(2, 40);
    fixture.acquire(1, 5);
    fixture.release(1, 5, None);
    assert_eq!(fixture.load(3, 40), [2]);
    assert_eq!(fixture.load(4, 100), [1, 3]);
}

#[test]
fn a_busy_model_is_not_evicted() {
    let mut fixture = Fixture::new(100);
    fixture.load(1, 60);
    fixture.acquire(1, 10);
    assert_eq!(fixture.place(2, 60, 0), (Place::Full, vec![]));
    fixture.release(1, 10, None);
    assert_eq!(fixture.place(2, 60, 0), (Place::StartLoading, vec![1]));
}

#[test]
fn nothing_is_evicted_where_that_would_not_be_enough() {
    let mut fixture = Fixture::new(100);
    fixture.load(1, 50);
    fixture.load(2, 30);
    fixture.acquire(1, 0);
    assert_eq!(fixture.place(3, 60, 0), (Place::Full, vec![]));
    assert_eq!(fixture.residency.view(false, fixture.now).len(), 2);
}

#[test]
fn caches_of_running_requests_count() {
    let mut fixture = Fixture::new(100);
    fixture.load(1, 60);
    fixture.acquire(1, 30);
    assert_eq!(fixture.place(1, 60, 11).0, Place::Full);
    assert_eq!(fixture.place(1, 60, 10).0, Place::Ready);
    let cache = CacheCounts {
        pages: 3,
        pages_idle: 1,
        pages_max: 4,
        page_bytes: 10,
    };
    fixture.residency.note_cache(ModelId(1), 3, 4, 10);
    fixture.residency.note_idle_pages(ModelId(1), 1);
    let view = &fixture.residency.view(true, fixture.now)[0];
    assert_eq!((view.gpu_bytes, view.cache), (90, cache));
    assert_eq!(fixture.residency.cache_budget_bytes(), 40);
    fixture.release(1, 30, None);
    assert_eq!(fixture.place(1, 60, 40).0, Place::Ready);
}

#[test]
fn what_can_never_fit_is_said_at_once() {
    let mut fixture = Fixture::new(100);
    fixture.load(1, 60);
    let never = Place::Never { needed_bytes: 101 };
    assert_eq!(fixture.place(1, 60, 41).0, never);
    assert_eq!(fixture.place(2, 90, 11).0, never);
    assert_eq!(
        fixture.place(2, u64::MAX, u64::MAX).0,
        Place::Never {
            needed_bytes: u64::MAX
        }
    );
}

#[test]
fn one_file_is_read_at_a_time() {
    let mut fixture = Fixture::new(100);
    assert_eq!(fixture.place(1, 10, 0).0, Place::StartLoading);
    assert_eq!(fixture.place(1, 10, 0).0, Place::Loading);
    assert_eq!(fixture.place(2, 10, 0).0, Place::Loading);
    assert_eq!(fixture.residency.loading(), Some(ModelId(1)));
    fixture.residency.load_failed();
    assert_eq!(fixture.place(2, 10, 0).0, Place::StartLoading);
}

#[test]
fn room_is_reserved_for_a_model_that_is_being_read() {
    let mut fixture = Fixture::new(100);
    fixture.load(1, 30);
    assert_eq!(fixture.place(2, 60, 0).0, Place::StartLoading);
    assert_eq!(fixture.place(1, 30, 11).0, Place::Full);
    assert_eq!(fixture.place(1, 30, 10).0, Place::Ready);
}

#[test]
fn a_model_larger_than_expected_evicts_others_or_is_refused() {
    let mut fixture = Fixture::new(100);
    fixture.load(1, 40);
    assert_eq!(fixture.place(2, 50, 0).0, Place::StartLoading);
    assert_eq!(fixture.residency.loaded(2, 70, fixture.now).unwrap(), [1]);
    assert_eq!(fixture.place(3, 50, 0), (Place::StartLoading, vec![2]));
    let refused = fixture.residency.loaded(3, 101, fixture.now).unwrap_err();
    assert_eq!((refused.model, refused.needed_bytes), (3, 101));
    assert_eq!(fixture.residency.loading(), None);
    assert!(fixture.residency.view(false, fixture.now).is_empty());
}

#[test]
fn an_idle_model_goes_when_its_time_is_over() {
    let mut fixture = Fixture::new(100);
    fixture.load(1, 10);
    assert_eq!(fixture.residency.next_expiry(), Some(fixture.now + HOUR));
    fixture.acquire(1, 0);
    assert_eq!(fixture.residency.next_expiry(), None, "a busy model stays");
    fixture.later(2 * HOUR);
    assert!(fixture.residency.expire(fixture.now).is_empty());
    fixture.release(1, 0, Some(Duration::from_secs(5)));
    fixture.later(Duration::from_secs(4));
    assert!(fixture.residency.expire(fixture.now).is_empty());
    let view = fixture.residency.view(false, fixture.now);
    assert_eq!(view[0].unloads_in, Duration::from_secs(1));
    fixture.later(Duration::from_secs(1));
    assert_eq!(fixture.residency.expire(fixture.now), [1]);
}

#[test]
fn a_keep_alive_of_zero_unloads_at_once_and_of_forever_never() {
    let mut fixture = Fixture::new(100);
    fixture.load(1, 10);
    fixture.acquire(1, 0);
    fixture.acquire(1, 0);
    fixture.release(1, 0, Some(Duration::ZERO));
    assert!(
        fixture.residency.expire(fixture.now).is_empty(),
        "one still runs"
    );
    fixture.release(1, 0, Some(Duration::MAX));
    fixture.later(1000 * HOUR);
    assert!(fixture.residency.expire(fixture.now).is_empty());
    fixture
        .residency
        .touch(ModelId(1), Some(Duration::ZERO), fixture.now)
        .unwrap();
    assert_eq!(fixture.residency.expire(fixture.now), [1]);
}

#[test]
fn a_retired_model_goes_when_its_last_request_ends() {
    let mut fixture = Fixture::new(100);
    fixture.load(1, 10);
    fixture.acquire(1, 0);
    let now = fixture.now;
    fixture.residency.retire(ModelId(1), now);
    fixture.residency.retire(ModelId(9), now);
    assert!(fixture.residency.expire(now).is_empty());
    fixture.release(1, 0, Some(HOUR));
    assert_eq!(fixture.residency.expire(now), [1]);
}

#[test]
fn a_machine_that_is_short_of_memory_lowers_the_limit_and_gives_it_back() {
    let mut fixture = Fixture::new(100);
    fixture.load(1, 30);
    fixture.load(2, 30);
    fixture.acquire(2, 10);
    fixture.residency.note_cache(ModelId(2), 2, 8, 5);
    let mut note = |available, reserve| fixture.residency.note_available(available, reserve);
    assert!(!note(30, 0), "as the budget has it");
    assert!(!note(u64::MAX, 10));
    assert!(note(10, 5));
    assert_eq!(fixture.residency.limit_bytes(), 75);
    assert_eq!(fixture.residency.cache_budget_bytes(), 15);
    assert!(fixture.residency.shrink().is_empty(), "they fit");
    // More than that is not for now; more than the budget is not for ever.
    let not_now = Place::NotNow { needed_bytes: 76 };
    assert_eq!(fixture.place(3, 76, 0), (not_now, vec![]));
    let never = Place::Never { needed_bytes: 101 };
    assert_eq!(fixture.place(3, 101, 0), (never, vec![]));
    assert_eq!(fixture.place(3, 75, 0), (Place::Full, vec![]));

    // Something else takes what was left: idle models leave, busy ones stay.
    assert!(fixture.residency.note_available(5, 55));
    assert_eq!(fixture.residency.limit_bytes(), 20);
    assert_eq!(fixture.residency.shrink(), [1]);
    assert_eq!(fixture.residency.cache_budget_bytes(), 0);

    // A model that is being read is half in memory: the limit stands.
    assert!(fixture.residency.note_available(1000, 0));
    assert_eq!(fixture.place(3, 30, 0).0, Place::StartLoading);
    assert!(!fixture.residency.note_available(0, 0));
    assert_eq!(fixture.residency.limit_bytes(), 100);
}

#[test]
fn what_is_loaded_leaves_room_for_what_runs_to_come_to_its_end() {
    let mut fixture = Fixture::new(100);
    fixture.load(1, 30);
    let growing = Need {
        cache: CacheNeed {
            bytes: 5,
            bytes_max: 60,
        },
        ..need(1, 0, 0)
    };
    let now = fixture.now;
    assert_eq!(fixture.residency.place(growing, now).place, Place::Ready);
    fixture.residency.acquire(growing, now);
    // At first there would be room for both.
    assert_eq!(fixture.place(2, 20, 1).0, Place::Full);
    assert_eq!(fixture.place(3, 10, 1).0, Place::StartLoading);
    fixture.residency.load_failed();
    // A second one like it is welcome: one of them may be suspended.
    assert_eq!(fixture.residency.place(growing, now).place, Place::Ready);
    let cache = growing.cache;
    fixture.residency.release(ModelId(1), cache, None, now);
    assert_eq!(fixture.place(2, 20, 1).0, Place::StartLoading);
}
