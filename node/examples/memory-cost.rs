//! Measures what memory's store costs, without HTTP.
//!
//! Usage: memory-cost DIR [WRITES]
//!
//! Prints a JSON line: `sync_s`, what one small write and sync of a file takes on that disk; for 1,
//! 64 and 2048 writes at a time `p50_s` of one and how many there are a second; and `read_s` of one
//! read among all that was written.

use std::{
    error::Error,
    fs::File,
    hint::black_box,
    io::Write,
    path::Path,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use aither_node::memory::{
    MemoryLimits, MemoryStore, Owner, Quota, ScopeKey, Unobserved, WriteEntry,
};
use aither_protocol::MemoryTier;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Syncs that are timed.
const SYNCS: u32 = 50;
/// Scopes that writes go to in turn.
const SCOPES: u128 = 1000;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let Some(folder) = arguments.next() else {
        return Err("usage: memory-cost DIR [WRITES]".into());
    };
    let count: usize = arguments.next().as_deref().unwrap_or("100000").parse()?;
    let folder = Path::new(&folder);
    let sync = time_sync(&folder.join("sync"))?;
    let path = folder.join("memory.redb");
    let store = MemoryStore::open(&path, MemoryLimits::default(), Arc::new(Unobserved))?;
    let mut rows = Vec::new();
    for (at_once, count) in [(1, 200), (64, count / 4), (2048, count)] {
        let begin = Instant::now();
        let mut times = write(&store, at_once, count)?;
        let took = begin.elapsed().as_secs_f64();
        times.sort_unstable();
        rows.push(serde_json::json!({
            "at_once": at_once,
            "p50_s": times[times.len() / 2].as_secs_f64(),
            "p99_s": times[times.len() * 99 / 100].as_secs_f64(),
            "writes_per_s": count as f64 / took,
        }));
    }
    let begin = Instant::now();
    for number in 0..count {
        let write = entry(number);
        black_box(store.read(&write.scope, &write.key, 1)?).ok_or("an entry is not there")?;
    }
    let made = Instant::now();
    for number in 0..count {
        black_box(entry(number));
    }
    let read = made.duration_since(begin).saturating_sub(made.elapsed()) / u32::try_from(count)?;
    let found = serde_json::json!({
        "sync_s": sync.as_secs_f64(),
        "writes": rows,
        "read_s": read.as_secs_f64(),
        "file_bytes": path.metadata()?.len(),
    });
    writeln!(std::io::stdout(), "{found}")?;
    Ok(())
}

/// Returns the middle of what a sync takes.
fn time_sync(path: &Path) -> Result<Duration> {
    let mut file = File::create(path)?;
    let mut times = Vec::new();
    for _ in 0..SYNCS {
        let begin = Instant::now();
        file.write_all(&[1; 4096])?;
        file.sync_data()?;
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

/// Writes `count` entries, never more than `at_once` unanswered, and returns how long each took.
fn write(store: &MemoryStore, at_once: usize, count: usize) -> Result<Vec<Duration>> {
    let (sender, answers) = mpsc::channel();
    let mut times = Vec::with_capacity(count);
    let take = |times: &mut Vec<Duration>| -> Result<()> {
        let outcome: std::result::Result<Duration, _> = answers.recv()?;
        times.push(outcome?);
        Ok(())
    };
    for number in 0..count {
        if number >= at_once {
            take(&mut times)?;
        }
        let (sender, begin) = (sender.clone(), Instant::now());
        store.write(entry(number), 1, move |outcome| {
            // Whoever counts is there until all have answered.
            let _ = sender.send(outcome.map(|_| begin.elapsed()));
        })?;
    }
    while times.len() < count {
        take(&mut times)?;
    }
    Ok(times)
}

fn entry(number: usize) -> WriteEntry {
    let owner = Owner::Agent(number as u128 % SCOPES);
    WriteEntry {
        scope: ScopeKey::new(owner, MemoryTier::Spirit, None),
        account: 1,
        quota: Quota::UNLIMITED,
        key: format!("note/{number:09}"),
        value: format!("\"{}\"", "what somebody said of it ".repeat(8)),
        tags: vec!["note".into()],
        expires_ms: None,
        if_version: None,
        writer: "agent".into(),
        signature: None,
    }
}
