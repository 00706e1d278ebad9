//! The power fails at every write to the disk: what was acknowledged is there, and the rest is as
//! before or as after, never half.

// The ledger's disk, which loses power; not all of what it can do is needed here.
#[expect(dead_code, reason = "the ledger's tests need more of it")]
#[path = "../../../../ledger/tests/it/disk.rs"]
mod disk;

use self::disk::Disk;
use super::*;
use crate::memory::file::MemoryFile;

/// Entries by scope and key: their values and versions.
type Dump = BTreeMap<(u128, String), (String, u64)>;

const AGENTS: u128 = 3;

fn open(disk: Disk) -> Option<MemoryStore> {
    let file = MemoryFile::over(disk).ok()?;
    let limits = MemoryLimits::default();
    MemoryStore::over(file, limits, Arc::new(Unobserved)).ok()
}

/// Does one step of a workload.
fn step(store: &MemoryStore, number: u64) -> Replied<()> {
    let agent = u128::from(number) % AGENTS;
    let scope = spirit(agent);
    let key = format!("k{}", number % 5);
    match number % 8 {
        0..5 => {
            let pad = "x".repeat(usize::try_from(number * 40).unwrap());
            let value = format!("\"{number} {pad}\"");
            let mut write = entry(&scope, &key, &value);
            write.expires_ms = number.is_multiple_of(4).then_some(number + 20);
            answer(|reply| store.write(write, number, reply)).map(drop)
        }
        5 => {
            let delete = DeleteEntry {
                scope,
                key,
                if_version: None,
            };
            // That it is not there is an answer, too.
            match answer(|reply| store.delete(delete, number, reply)) {
                Err(MemoryError::UnknownKey) => Ok(()),
                done => done,
            }
        }
        6 => {
            let puts = store.pending(None, 3)?.into_iter().map(|waiting| IndexPut {
                scope: waiting.scope,
                serial: waiting.serial,
                row: waiting.key.as_bytes().into(),
                vectors: Some(vec![1; 384]),
                awaits_vectors: waiting.serial.0 % 2 == 0,
            });
            store.put_index(puts.collect(), number).map(drop)
        }
        _ => answer(|reply| store.clear(scope, "k1".into(), number, reply)).map(drop),
    }
}

fn dump(store: &MemoryStore, now_ms: u64) -> Dump {
    let mut found = Dump::new();
    for agent in 0..AGENTS {
        let all = ListQuery {
            limit: 99,
            ..ListQuery::default()
        };
        for info in store.list(&spirit(agent), &all, now_ms).unwrap() {
            let entry = store.read(&spirit(agent), &info.key, now_ms).unwrap();
            let place = (agent, info.key);
            found.insert(place, (entry.unwrap().value, info.version));
        }
    }
    found
}

#[test]
fn regression_who_could_not_be_noted_to_be_purged_writes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("memory.redb");
    let disk = Disk::default();
    let file = MemoryFile::over_until_opened_anew(disk.clone(), path).unwrap();
    let store = MemoryStore::over(file, MemoryLimits::default(), Arc::new(Unobserved)).unwrap();
    disk.fail_at(disk.steps());
    let refused = store.begin_purge(Owner::Agent(1), 1);
    assert!(matches!(refused, Err(MemoryError::Store(_))), "{refused:?}");
    answer(|reply| store.write(entry(&spirit(1), "k", "1"), 2, reply)).unwrap();
}

#[test]
fn the_power_fails_at_every_write() {
    const STEPS: u64 = 32;
    let whole = Disk::default();
    let store = open(whole.clone()).unwrap();
    let made = whole.steps();
    // What there is after each step, as seen at the time of that step and of the next.
    let mut dumps = vec![(Dump::new(), Dump::new())];
    for number in 0..STEPS {
        step(&store, number).unwrap();
        dumps.push((dump(&store, number), dump(&store, number + 1)));
    }
    drop(store);
    assert!(whole.steps() > made + 100, "{}", whole.steps());
    for cut in made..whole.steps() {
        let disk = Disk::default();
        let store = open(disk.clone()).unwrap();
        disk.fail_at(cut);
        let done = (0..STEPS).take_while(|number| step(&store, *number).is_ok());
        let done = done.count();
        drop(store);
        let file = MemoryFile::over(disk.after_power_cut(cut)).unwrap();
        file.check()
            .unwrap_or_else(|error| panic!("cut {cut}: {error}"));
        let limits = MemoryLimits::default();
        let store = MemoryStore::over(file, limits, Arc::new(Unobserved)).unwrap();
        let now_ms = u64::try_from(done).unwrap();
        let found = dump(&store, now_ms);
        let is_before = found == dumps[done].1;
        let is_after = dumps
            .get(done + 1)
            .is_some_and(|(after, _)| found == *after);
        assert!(
            is_before || is_after,
            "cut {cut} after step {done}: {found:?}"
        );
        step(&store, now_ms).unwrap();
    }
}
