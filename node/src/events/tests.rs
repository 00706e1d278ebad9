//! The log by itself: what is written is there, in order, and for no longer than it should be.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use aither_ledger::AccountId;

use super::*;
use crate::events::recent::Look;

const DEADLINE: Duration = Duration::from_secs(60);

/// A log in a folder of its own.
struct Bench {
    folder: tempfile::TempDir,
    log: Option<EventLog>,
    limits: LogLimits,
    /// The numbers of the last events, as they were published.
    published: Arc<Mutex<Vec<u64>>>,
}

impl Bench {
    fn new() -> Self {
        Self::with(LogLimits::default())
    }

    fn with(limits: LogLimits) -> Self {
        let mut bench = Self {
            folder: tempfile::tempdir().unwrap(),
            log: None,
            limits,
            published: Arc::default(),
        };
        bench.reopen();
        bench
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("events.redb")
    }

    fn reopen(&mut self) {
        self.log = None;
        self.log = Some(self.open(&self.path()));
    }

    fn open(&self, path: &Path) -> EventLog {
        let published = Arc::clone(&self.published);
        EventLog::open(path, self.limits, move |last| {
            published.lock().unwrap().push(last);
        })
        .unwrap()
    }

    fn log(&self) -> &EventLog {
        self.log.as_ref().unwrap()
    }

    fn emit(&self, event: NewEvent) -> u64 {
        emit(self.log(), event).unwrap()
    }

    /// Notes an event and waits until it can be seen.
    fn note(&self, event: NewEvent) -> u64 {
        let before = self.log().recent().last();
        self.log().note(event);
        wait_until(|| self.log().recent().last() > before);
        self.log().recent().last()
    }

    /// What a process would find that starts after this one was killed.
    fn after_a_crash(&self, name: &str) -> EventLog {
        let copy = self.folder.path().join(name);
        fs::copy(self.path(), &copy).unwrap();
        self.open(&copy)
    }

    fn sweep(&self, now_ms: u64) {
        let (sender, receiver) = mpsc::channel();
        let reply = move |outcome| sender.send(outcome).unwrap();
        self.log().sweep(now_ms, reply).unwrap();
        receiver.recv().unwrap().unwrap();
    }

    fn ids(&self) -> Vec<u64> {
        ids(self.log(), 0)
    }

    /// Closes the log and verifies the file.
    fn check(&mut self) -> LogCounts {
        self.log = None;
        EventLog::check(&self.path()).unwrap()
    }
}

fn wait_until(holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < DEADLINE, "waited in vain");
        std::thread::yield_now();
    }
}

fn emit(log: &EventLog, event: NewEvent) -> Result<u64, EventError> {
    let (sender, receiver) = mpsc::channel();
    log.emit(event, move |outcome| sender.send(outcome).unwrap())?;
    receiver.recv().unwrap()
}

fn event(name: &str, time_ms: u64) -> NewEvent {
    NewEvent {
        name: name.into(),
        agent: None,
        source: Some(AccountId(10)),
        audience: Audience::Accounts(vec![AccountId(10)]),
        data: "{\"a\":1}".into(),
        time_ms,
    }
}

fn of_agent(agent: &str, time_ms: u64) -> NewEvent {
    NewEvent {
        agent: Some(agent.into()),
        ..event("agent.x.completed", time_ms)
    }
}

fn everything() -> Filter {
    Filter {
        viewer: Viewer::Operator,
        patterns: Vec::new(),
        agent: None,
    }
}

/// The numbers of all that the file has after one.
fn ids(log: &EventLog, mut after: u64) -> Vec<u64> {
    let mut found = Vec::new();
    loop {
        let page = log.after(&everything(), after).unwrap();
        if page.looked_at == after {
            return found;
        }
        after = page.looked_at;
        found.extend(page.events.iter().map(|event| event.id));
    }
}

/// The numbers of an agent's events, page by page from the newest on.
fn of(log: &EventLog, viewer: Viewer, agent: &str, limit: usize) -> Vec<Vec<u64>> {
    let (mut pages, mut before) = (Vec::new(), u64::MAX);
    loop {
        let page = log.of_agent((viewer, agent), before, limit).unwrap();
        pages.push(page.events.iter().map(|event| event.id).collect());
        match page.before {
            Some(id) => before = id,
            None => return pages,
        }
    }
}

#[test]
fn numbers_rise_by_one_and_go_on_after_a_stop() {
    let mut bench = Bench::new();
    assert_eq!(bench.emit(event("a", 1)), 1);
    assert_eq!(bench.note(event("b", 1)), 2);
    assert_eq!(bench.emit(event("c", 1)), 3);
    bench.reopen();
    assert_eq!(bench.log().recent().last(), 3);
    assert_eq!(bench.emit(event("d", 1)), 4);
    assert_eq!(bench.ids(), [1, 2, 3, 4]);
    // Also where nothing is left of them.
    bench.sweep(u64::MAX);
    assert!(bench.ids().is_empty());
    bench.reopen();
    assert_eq!(bench.emit(event("e", 1)), 5);
    assert_eq!(bench.check().events, 1);
    assert_eq!(*bench.published.lock().unwrap(), [1, 2, 3, 4, 5]);
}

#[test]
fn what_was_acknowledged_is_there_after_a_crash_and_no_number_comes_again() {
    let bench = Bench::new();
    let emitted: Vec<_> = (0..20).map(|_| bench.emit(event("a", 1))).collect();
    // Seen, and perhaps lost.
    let seen = bench.note(event("b", 1));
    let after = bench.after_a_crash("killed");
    let found = ids(&after, 0);
    assert_eq!(found[..20], emitted);
    assert!(after.recent().last() >= seen);
    let next = emit(&after, event("c", 1)).unwrap();
    assert!(next > seen, "{next} {seen}");
    // Those who resume from what is lost are led on, and see what comes.
    assert_eq!(ids(&after, seen), [next]);
}

#[test]
fn what_is_noted_is_durable_in_a_moment_by_itself() {
    let bench = Bench::new();
    let id = bench.note(event("a", 1));
    let begun = Instant::now();
    for number in 0.. {
        if ids(&bench.after_a_crash(&format!("killed-{number}")), 0) == [id] {
            break;
        }
        assert!(begun.elapsed() < DEADLINE, "it stays volatile");
    }
}

#[test]
fn the_oldest_go_where_there_is_too_much() {
    let limits = LogLimits {
        bytes_max: 10_000,
        ..LogLimits::default()
    };
    let mut bench = Bench::with(limits);
    for _ in 0..500 {
        bench.emit(NewEvent {
            source: None,
            ..of_agent("bot", 1)
        });
    }
    let kept = bench.ids();
    assert!((20..200).contains(&kept.len()), "{}", kept.len());
    assert_eq!(kept.last(), Some(&500));
    assert!(kept.windows(2).all(|pair| pair[0] + 1 == pair[1]));
    let page = bench.log().after(&everything(), 0).unwrap();
    assert_eq!(page.swept, kept[0] - 1);
    // Who follows finds them in memory all the same.
    let Look::Events(recent, _) = bench.log().recent().look(0, &everything()) else {
        panic!("they are there");
    };
    assert_eq!(recent.len(), 500);
    let [of_bot] = &of(bench.log(), Viewer::Operator, "bot", 1000)[..] else {
        panic!("one page");
    };
    assert_eq!(*of_bot, kept);
    let counts = bench.check();
    assert_eq!(counts.events, kept.len() as u64);
    assert!(counts.bytes <= limits.bytes_max, "{counts:?}");
}

#[test]
fn who_tells_too_much_loses_its_own_and_the_nodes_stay() {
    let limits = LogLimits {
        bytes_max: 20_000,
        ..LogLimits::default()
    };
    let mut bench = Bench::with(limits);
    let of_node = bench.note(NewEvent {
        source: None,
        ..of_agent("bot", 1)
    });
    let others = NewEvent {
        source: Some(AccountId(20)),
        audience: Audience::Accounts(vec![AccountId(20)]),
        ..event("a", 1)
    };
    let of_other = bench.emit(others);
    for _ in 0..500 {
        bench.emit(event("a", 1));
    }
    let kept = bench.ids();
    assert_eq!(kept[..2], [of_node, of_other]);
    assert!((20..200).contains(&kept.len()), "{}", kept.len());
    assert!(kept[2..].windows(2).all(|pair| pair[0] + 1 == pair[1]));
    assert_eq!(kept.last(), Some(&502));
    // Only who has lost some is told of a gap.
    let swept = |account| {
        let viewer = Viewer::Account(AccountId(account));
        let page = bench.log().after(
            &Filter {
                viewer,
                ..everything()
            },
            0,
        );
        page.unwrap().swept
    };
    assert_eq!((swept(10), swept(20)), (kept[2] - 1, 0));
    let counts = bench.check();
    assert!(counts.bytes <= limits.bytes_max / 2 + 1000, "{counts:?}");
    bench.reopen();
    bench.sweep(u64::MAX);
    assert_eq!(bench.check(), LogCounts::default());
}

#[test]
fn the_old_go_when_it_is_time() {
    let limits = LogLimits {
        age_max: Duration::from_millis(100),
        ..LogLimits::default()
    };
    let bench = Bench::with(limits);
    for time_ms in [1000, 1010, 1020, 1030] {
        bench.emit(of_agent("bot", time_ms));
    }
    bench.sweep(1110);
    assert_eq!(bench.ids(), [2, 3, 4]);
    // An event that comes later has the same effect.
    bench.emit(event("a", 1125));
    assert_eq!(bench.ids(), [4, 5]);
    assert_eq!(bench.log().after(&everything(), 1).unwrap().swept, 3);
    assert_eq!(of(bench.log(), Viewer::Operator, "bot", 9), [vec![4]]);
}

#[test]
fn an_agents_events_are_found_by_its_name_and_only_by_those_who_may() {
    let bench = Bench::new();
    for number in 0..10 {
        bench.emit(of_agent(if number % 2 == 0 { "bot" } else { "bot2" }, 1));
    }
    let hidden = NewEvent {
        audience: Audience::Accounts(vec![AccountId(99)]),
        ..of_agent("bot", 1)
    };
    bench.emit(hidden);
    let owner = Viewer::Account(AccountId(10));
    let log = bench.log();
    assert_eq!(of(log, owner, "bot", 100), [[1, 3, 5, 7, 9]]);
    assert_eq!(of(log, owner, "bot", 2), [vec![7, 9], vec![3, 5], vec![1]]);
    assert_eq!(of(log, Viewer::Operator, "bot", 100), [[1, 3, 5, 7, 9, 11]]);
    assert_eq!(of(log, owner, "bo", 100), [Vec::<u64>::new()]);
}

#[test]
fn a_page_of_an_agents_events_is_bounded_in_bytes() {
    let bench = Bench::new();
    let large = || NewEvent {
        data: format!("\"{}\"", "x".repeat(60_000)),
        ..of_agent("bot", 1)
    };
    for _ in 0..40 {
        bench.note(large());
    }
    let pages = of(bench.log(), Viewer::Operator, "bot", 500);
    let lens: Vec<_> = pages.iter().map(Vec::len).collect();
    assert_eq!(lens, [18, 18, 4]);
    let mut all: Vec<_> = pages.into_iter().flatten().collect();
    all.sort_unstable();
    assert_eq!(all, (1..=40).collect::<Vec<_>>());
}

#[test]
fn nothing_is_shown_of_an_agent_that_is_forgotten() {
    let mut bench = Bench::new();
    for number in 0..100 {
        bench.emit(of_agent(if number % 2 == 0 { "bot" } else { "bot2" }, 1));
    }
    let (sender, receiver) = mpsc::channel();
    let reply = move |outcome| sender.send(outcome).unwrap();
    bench.log().forget_agent("bot".into(), reply).unwrap();
    // In its turn: what comes after it stays.
    let later = bench.emit(of_agent("bot", 1));
    receiver.recv().unwrap().unwrap();
    assert_eq!(of(bench.log(), Viewer::Operator, "bot", 100), [[later]]);
    assert_eq!(of(bench.log(), Viewer::Operator, "bot2", 100)[0].len(), 50);
    let Look::Events(recent, _) = bench.log().recent().look(0, &everything()) else {
        panic!("others are there");
    };
    assert_eq!(recent.len(), 51);
    assert_eq!(bench.check().events, 51);
}

#[test]
fn a_full_queue_refuses_who_waits_and_drops_what_nobody_waits_for() {
    let limits = LogLimits {
        queue_len_max: 2,
        ..LogLimits::default()
    };
    let bench = Bench::with(limits);
    let log = bench.log();
    // Answers are given on the writer's thread: until this one has ended nothing is written.
    let (release, held) = mpsc::channel::<()>();
    let (started, has_started) = mpsc::channel();
    log.emit(event("a", 1), move |_| {
        started.send(()).unwrap();
        let _ = held.recv();
    })
    .unwrap();
    has_started.recv().unwrap();
    let (sender, receiver) = mpsc::channel();
    let other = sender.clone();
    log.note(event("b", 1));
    log.emit(event("c", 1), move |id| sender.send(id).unwrap())
        .unwrap();
    assert_eq!(log.totals(), (1, 0));
    log.note(event("d", 1));
    let refused = log.emit(event("e", 1), move |id| other.send(id).unwrap());
    assert!(matches!(refused, Err(EventError::Busy)));
    assert_eq!(log.totals(), (1, 1));
    release.send(()).unwrap();
    assert_eq!(receiver.recv().unwrap().unwrap(), 3);
    assert_eq!(bench.ids(), [1, 2, 3]);
}

#[test]
fn bytes_that_wait_are_bounded_and_room_is_left_for_notes() {
    let limits = LogLimits {
        queue_bytes_max: 4096,
        ..LogLimits::default()
    };
    let bench = Bench::with(limits);
    let log = bench.log();
    let (release, held) = mpsc::channel::<()>();
    let (started, has_started) = mpsc::channel();
    log.emit(event("a", 1), move |_| {
        started.send(()).unwrap();
        let _ = held.recv();
    })
    .unwrap();
    has_started.recv().unwrap();
    let large = || NewEvent {
        data: format!("\"{}\"", "x".repeat(1500)),
        ..event("b", 1)
    };
    log.emit(large(), |_| {}).unwrap();
    assert!(log.emit(large(), |_| {}).is_err());
    log.note(large());
    log.note(large());
    assert_eq!(log.totals().1, 1);
    release.send(()).unwrap();
    wait_until(|| log.recent().last() == 3);
    // What was refused holds no room.
    assert_eq!(bench.emit(large()), 4);
}

#[test]
fn a_copy_has_all_and_damage_is_found() {
    let mut bench = Bench::new();
    for _ in 0..50 {
        bench.emit(of_agent("bot", 1));
    }
    let copy = bench.folder.path().join("copy.redb");
    bench.log().copy_to(&copy).unwrap();
    let counts = EventLog::check(&copy).unwrap();
    assert_eq!(counts, bench.check());
    assert_eq!(counts.events, 50);
    let mut bytes = fs::read(&copy).unwrap();
    let at = bytes
        .windows(17)
        .position(|part| part == b"agent.x.completed")
        .unwrap();
    bytes[at] ^= 1;
    fs::write(&copy, bytes).unwrap();
    assert!(EventLog::check(&copy).unwrap_err().is_damage());
}
