//! Many who emit and many who follow: everybody hears everything that is for him, once.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::time::timeout;

use super::*;
use crate::events::{
    Pattern,
    limits::{BEHIND_BYTES_MAX, RECENT_BYTES_MAX},
};

const MINE: AccountId = AccountId(100);
const OTHERS: AccountId = AccountId(200);
const DEADLINE: Duration = Duration::from_secs(60);

struct Bench {
    folder: tempfile::TempDir,
    events: EventService,
}

impl Bench {
    fn new() -> Self {
        Self::with(LogLimits::default())
    }

    fn with(limits: LogLimits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let events = EventService::open(&folder.path().join("events.redb"), limits).unwrap();
        Self { folder, events }
    }

    fn reopen(self, limits: LogLimits) -> Self {
        let Self { folder, events } = self;
        drop(events);
        let events = EventService::open(&folder.path().join("events.redb"), limits).unwrap();
        Self { folder, events }
    }

    async fn emit(&self, source: AccountId, name: &str) -> u64 {
        let emission = emission(source, name, "null");
        self.events.emit(emission).await.unwrap().id
    }

    /// Emits large events, as many at once as may be, until they take more than this in memory.
    /// Returns how many.
    async fn burst(&self, source: AccountId, bytes: u64) -> usize {
        let data = format!("\"{}\"", "x".repeat(60_000));
        let count = usize::try_from(bytes).unwrap() / (2 * data.len()) + 2;
        let mut left = count;
        while left > 0 {
            let at_once = left.min(EMITS_OF_ACCOUNT_MAX);
            let emits = (0..at_once).map(|_| self.events.emit(emission(source, "a", &data)));
            for emitted in futures_util::future::join_all(emits).await {
                emitted.unwrap();
            }
            left -= at_once;
        }
        count
    }

    fn follow(&self, viewer: Viewer, patterns: &str, after: Option<u64>) -> Subscription {
        let filter = Filter {
            viewer,
            patterns: Pattern::parse_list(patterns).unwrap(),
            agent: None,
        };
        self.events.subscribe(filter, after).unwrap()
    }
}

fn emission(source: AccountId, name: &str, data: &str) -> Emission {
    Emission {
        source,
        is_operator: false,
        agent: None,
        name: name.into(),
        data: data.into(),
        is_public: false,
    }
}

async fn next(subscription: &mut Subscription) -> Step {
    timeout(DEADLINE, subscription.next()).await.unwrap()
}

/// The numbers of the next so many events.
async fn take(subscription: &mut Subscription, count: usize) -> Vec<u64> {
    let mut ids = Vec::new();
    while ids.len() < count {
        match next(subscription).await {
            Step::Events(events) => ids.extend(events.iter().map(|event| event.id)),
            step => panic!("{step:?} after {} events", ids.len()),
        }
    }
    assert_eq!(ids.len(), count);
    ids
}

#[tokio::test]
async fn everybody_hears_what_is_for_him_and_nothing_else() {
    let bench = Bench::new();
    let mut mine = bench.follow(Viewer::Account(MINE), "agent.*.completed", None);
    let mut others = bench.follow(Viewer::Account(OTHERS), "", None);
    let mut operator = bench.follow(Viewer::Operator, "", None);
    let first = bench.emit(MINE, "agent.chat.completed").await;
    let second = bench.emit(MINE, "agent.chat.started").await;
    let third = bench.emit(OTHERS, "agent.chat.completed").await;
    let public = Emission {
        is_public: true,
        ..emission(MINE, "agent.a.completed", "null")
    };
    let fourth = bench.events.emit(public).await.unwrap().id;
    bench.events.note(NodeEvent {
        name: "agent.a.lifecycle".into(),
        agent: Some("a".into()),
        audience: Audience::Accounts(vec![OTHERS, MINE]),
        data: json!({ "to": "LIVE" }),
    });
    assert_eq!(take(&mut mine, 2).await, [first, fourth]);
    assert_eq!(take(&mut others, 3).await, [third, fourth, fourth + 1]);
    assert_eq!(
        take(&mut operator, 5).await,
        [first, second, third, fourth, fourth + 1]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_resumes_while_many_emit_misses_nothing_and_hears_nothing_twice() {
    const EMITTERS: usize = 8;
    const EACH: usize = 150;
    let bench = Arc::new(Bench::new());
    let emitters: Vec<_> = (0..EMITTERS)
        .map(|_| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move {
                for _ in 0..EACH {
                    bench.emit(MINE, "a.b").await;
                }
            })
        })
        .collect();
    // Each comes and goes all the time, always after what it has heard.
    let followers: Vec<_> = (1..=8)
        .map(|pieces: usize| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move {
                let mut heard: Vec<u64> = Vec::new();
                while heard.len() < EMITTERS * EACH {
                    let after = heard.last().copied().unwrap_or(0);
                    let mut subscription = bench.follow(Viewer::Account(MINE), "a.*", Some(after));
                    for _ in 0..pieces {
                        match next(&mut subscription).await {
                            Step::Events(events) => {
                                heard.extend(events.iter().map(|event| event.id));
                            }
                            step => panic!("{step:?}"),
                        }
                        if heard.len() >= EMITTERS * EACH {
                            break;
                        }
                    }
                }
                heard
            })
        })
        .collect();
    for emitter in emitters {
        emitter.await.unwrap();
    }
    let expected: Vec<_> = (1..=(EMITTERS * EACH) as u64).collect();
    for follower in followers {
        assert_eq!(follower.await.unwrap(), expected);
    }
}

#[tokio::test]
async fn who_comes_back_after_a_restart_hears_what_came_meanwhile() {
    let mut bench = Bench::new();
    for _ in 0..10 {
        bench.emit(MINE, "a").await;
    }
    bench = bench.reopen(LogLimits::default());
    let mut resumed = bench.follow(Viewer::Account(MINE), "", Some(4));
    let later = bench.emit(MINE, "a").await;
    assert_eq!(take(&mut resumed, 7).await, [5, 6, 7, 8, 9, 10, later]);
    let mut fresh = bench.follow(Viewer::Account(MINE), "", None);
    let last = bench.emit(MINE, "a").await;
    assert_eq!(take(&mut fresh, 1).await, [last]);
}

#[tokio::test]
async fn who_comes_back_too_late_is_told_from_where_it_goes_on() {
    let mut bench = Bench::new();
    for _ in 0..100 {
        bench.emit(MINE, "a").await;
    }
    // Nothing of it is in memory any more, and not all in the file.
    let small = LogLimits {
        bytes_max: 2000,
        ..LogLimits::default()
    };
    bench = bench.reopen(small);
    bench.events.sweep().await.unwrap();
    let mut resumed = bench.follow(Viewer::Account(MINE), "", Some(4));
    let Step::Gap { after } = next(&mut resumed).await else {
        panic!("there is a gap");
    };
    assert!((50..100).contains(&after), "{after}");
    let expected: Vec<_> = (after + 1..=100).collect();
    assert_eq!(take(&mut resumed, expected.len()).await, expected);
    // A number that nobody has given: of another log.
    let mut strange = bench.follow(Viewer::Account(MINE), "", Some(1 << 40));
    assert!(matches!(next(&mut strange).await, Step::Gap { after: 100 }));
    let later = bench.emit(MINE, "a").await;
    assert_eq!(take(&mut strange, 1).await, [later]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_slow_one_is_cut_off_and_the_others_hear_everything() {
    let bench = Arc::new(Bench::new());
    let mut slow = bench.follow(Viewer::Account(MINE), "", None);
    let mut quick = bench.follow(Viewer::Account(MINE), "", None);
    let first = bench.emit(MINE, "a").await;
    assert_eq!(take(&mut slow, 1).await, [first]);
    assert_eq!(take(&mut quick, 1).await, [first]);
    // More than one who does not look may be behind.
    let mut count = 0;
    for _ in 0..8 {
        let burst = bench.burst(MINE, BEHIND_BYTES_MAX / 8).await;
        take(&mut quick, burst).await;
        count += burst;
    }
    let step = next(&mut slow).await;
    assert!(
        matches!(step, Step::Lagged { last } if last == first),
        "{step:?}"
    );
    assert_eq!(bench.events.counts().cut_off, 1);
    // It is cut off, and nothing is lost: from the file it hears all.
    drop(slow);
    let mut resumed = bench.follow(Viewer::Account(MINE), "", Some(first));
    take(&mut resumed, count).await;
}

#[tokio::test]
async fn a_burst_larger_than_memory_cuts_off_nobody_else() {
    let bench = Bench::new();
    let mut other = bench.follow(Viewer::Account(OTHERS), "", None);
    let first = bench.emit(OTHERS, "a").await;
    assert_eq!(take(&mut other, 1).await, [first]);
    // Again and again, each time between two looks of somebody who has heard all before.
    for _ in 0..2 {
        bench.burst(MINE, 2 * RECENT_BYTES_MAX as u64).await;
        let heard = bench.emit(OTHERS, "b").await;
        assert_eq!(take(&mut other, 1).await, [heard]);
    }
    assert_eq!(bench.events.counts().cut_off, 0);
}

#[tokio::test]
async fn subscriptions_are_bounded_and_end_with_the_node() {
    let bench = Bench::new();
    let followers: Vec<_> = (0..SUBSCRIPTIONS_OF_ACCOUNT_MAX)
        .map(|_| bench.follow(Viewer::Account(MINE), "", None))
        .collect();
    let filter = || Filter {
        viewer: Viewer::Account(MINE),
        patterns: Vec::new(),
        agent: None,
    };
    let refused = bench.events.subscribe(filter(), None).unwrap_err();
    assert!(matches!(refused, EventError::TooManyOfAccount { .. }));
    let mut other = bench.follow(Viewer::Account(OTHERS), "", None);
    assert_eq!(bench.events.counts().subscriptions, followers.len() + 1);
    drop(followers);
    assert_eq!(bench.events.counts().subscriptions, 1);
    bench.follow(Viewer::Account(MINE), "", None);
    let events = bench.events.clone();
    let (step, ()) = tokio::join!(next(&mut other), async move { events.close() });
    assert!(matches!(step, Step::Closed), "{step:?}");
    let refused = bench.events.subscribe(filter(), None).unwrap_err();
    assert!(matches!(refused, EventError::Stopped));
    // What the last requests tell is taken all the same.
    bench.emit(MINE, "a").await;
}

#[tokio::test]
async fn an_event_that_does_not_fit_is_refused_and_one_of_the_node_is_counted() {
    let bench = Bench::new();
    for (name, data) in [
        ("a b", "null"),
        ("billing.charged", "null"),
        ("system.health", "null"),
    ] {
        let refused = bench.events.emit(emission(MINE, name, data)).await;
        assert!(
            matches!(refused, Err(EventError::Invalid { field: "event", .. })),
            "{name}"
        );
    }
    let by_operator = Emission {
        is_operator: true,
        ..emission(crate::billing::OPERATOR, "system.health", "null")
    };
    bench.events.emit(by_operator).await.unwrap();
    bench.events.note(NodeEvent {
        name: "not a name".into(),
        agent: None,
        audience: Audience::Everyone,
        data: json!(null),
    });
    assert_eq!(bench.events.counts().dropped, 1);
    assert_eq!(bench.events.counts().written, 1);
}

#[tokio::test]
async fn no_account_has_more_waiting_than_it_may() {
    let bench = Bench::new();
    // Answers are given on the writer's thread: until this one has ended nothing is written.
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (started, has_started) = tokio::sync::oneshot::channel();
    let blocking = NewEvent {
        name: "a".into(),
        agent: None,
        source: None,
        audience: Audience::Everyone,
        data: "null".into(),
        time_ms: 1,
    };
    let log = bench.events.log().unwrap();
    log.emit(blocking, move |_| {
        let _ = started.send(());
        let _ = held.recv();
    })
    .unwrap();
    has_started.await.unwrap();
    let mut waiting = Vec::new();
    for _ in 0..EMITS_OF_ACCOUNT_MAX {
        let mut emit = Box::pin(bench.events.emit(emission(MINE, "a", "null")));
        assert!(futures_util::poll!(&mut emit).is_pending());
        waiting.push(emit);
    }
    let refused = bench.events.emit(emission(MINE, "a", "null")).await;
    let refused = refused.unwrap_err();
    assert!(matches!(refused, EventError::Busy) && refused.retry_after().is_some());
    let mut other = Box::pin(bench.events.emit(emission(OTHERS, "a", "null")));
    assert!(futures_util::poll!(&mut other).is_pending());
    // Who goes away keeps the place of what is queued.
    waiting.pop();
    let refused = bench.events.emit(emission(MINE, "a", "null")).await;
    assert!(matches!(refused, Err(EventError::Busy)));
    release.send(()).unwrap();
    for emit in waiting {
        emit.await.unwrap();
    }
    other.await.unwrap();
    bench.emit(MINE, "a").await;
    assert_eq!(bench.events.shared().unwrap().emits.taken(), 0);
}

#[tokio::test]
async fn without_a_log_nothing_is_kept_and_nothing_fails_that_only_notes() {
    let events = EventService::default();
    events.note(NodeEvent {
        name: "agent.a.lifecycle".into(),
        agent: None,
        audience: Audience::Everyone,
        data: json!(null),
    });
    events.forget_agent("a").await.unwrap();
    events.sweep().await.unwrap();
    events.close();
    let refused = events.emit(emission(MINE, "a", "null")).await;
    assert!(matches!(refused, Err(EventError::Stopped)));
    assert_eq!(events.counts(), EventCounts::default());
}
