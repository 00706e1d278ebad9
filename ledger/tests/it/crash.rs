//! Power cuts and full disks, at every write of a workload.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use aither_ledger::{
    AccountId, Flags, Ledger, LedgerError, LedgerOptions, Note, Operation, Outcome, Time,
    TransferId, Unit,
};

use crate::{
    disk::{Disk, Random},
    script::*,
};

/// What a client was told of its hold.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Told {
    Held,
    Posted,
    Voided,
}

const PAYERS: [u128; 3] = [10, 11, 12];

fn options() -> LedgerOptions {
    LedgerOptions {
        cache_bytes: 1024 * 1024,
        // What is volatile stays so, however slow the machine.
        volatile_for: Duration::from_secs(3600),
        ..LedgerOptions::default()
    }
}

fn units() -> Vec<(u64, Vec<Operation>)> {
    let mut units = vec![(
        1,
        vec![open(ISSUER, Flags::default()), open(NODE, Flags::default())],
    )];
    for payer in PAYERS {
        units.push((
            1,
            vec![open(payer, bounded()), grant(500 + payer, payer, 1000)],
        ));
    }
    let mut random = Random(5);
    for number in 0..60_u128 {
        let id = 1000 + number;
        let payer = PAYERS[random.below(3) as usize];
        let now = 2 + number as u64;
        units.push((now, vec![reserve(id, payer, NODE, 10, now + 15)]));
        match random.below(3) {
            0 => units.push((now, vec![post(id, 7, &[(PAYERS[0], 5)])])),
            1 => units.push((now, vec![void(id)])),
            _ => {}
        }
    }
    units
}

/// Does units until the disk fails; returns what was acknowledged.
fn work(ledger: &Ledger) -> (BTreeMap<u128, Told>, usize) {
    let mut told = BTreeMap::new();
    for (number, (now, operations)) in units().into_iter().enumerate() {
        let operation = operations[0].clone();
        let unit = Unit {
            operations,
            ..Unit::default()
        };
        match ledger.apply(unit, Time(now)) {
            Ok(verdict) => {
                verdict.unwrap();
            }
            Err(_) => return (told, number),
        }
        match operation {
            Operation::Reserve(reserve) => told.insert(reserve.transfer.id.0, Told::Held),
            Operation::Post(post) => told.insert(post.hold.0, Told::Posted),
            Operation::Void(hold) => told.insert(hold.0, Told::Voided),
            _ => None,
        };
    }
    (told, usize::MAX)
}

/// What was acknowledged must be there; what is asked again comes to the same.
fn check_after(disk: Disk, told: &BTreeMap<u128, Told>, done: usize, step: u64) {
    let ledger = Ledger::open_backend(disk, options())
        .unwrap_or_else(|error| panic!("after step {step}: {error}"));
    let view = ledger.view().unwrap();
    view.audit()
        .unwrap_or_else(|error| panic!("after step {step}: {error}"));
    drop(view);
    for (number, (now, operations)) in units().into_iter().enumerate() {
        if done != usize::MAX && number >= done {
            break;
        }
        let unit = Unit {
            operations,
            ..Unit::default()
        };
        let verdict = ledger.apply(unit, Time(now)).unwrap();
        // Acknowledged before, so it is known now; but for what time ended meanwhile.
        let receipts = verdict.unwrap_or_else(|refusal| panic!("step {step}: {refusal:?}"));
        assert!(
            receipts.iter().all(|receipt| receipt.is_replay),
            "unit {number}, step {step}"
        );
    }
    let last = 10_000;
    ledger.expire(Time(last)).unwrap();
    for (hold, told) in told {
        let code = match ledger.apply(Unit::one(void(*hold)), Time(last)).unwrap() {
            Ok(receipts) => {
                assert!(receipts[0].is_replay);
                "voided"
            }
            Err(refusal) => refusal.reason.code(),
        };
        match told {
            Told::Posted => assert_eq!(code, "pending_already_posted"),
            Told::Voided => assert_eq!(code, "voided"),
            // The cut may have come between the end's commit and its answer.
            Told::Held => assert!(
                ["pending_expired", "pending_already_posted", "voided"].contains(&code),
                "{code}"
            ),
        }
    }
    let view = ledger.view().unwrap();
    view.audit().unwrap();
    for payer in PAYERS {
        if let Some(account) = view.account(AccountId(payer)).unwrap() {
            assert!(account.debits.pending.total.is_zero(), "a hold never ended");
        }
    }
}

#[test]
fn the_power_fails_at_every_write() {
    let whole = Disk::default();
    let ledger = Ledger::open_backend(whole.clone(), options()).unwrap();
    let made = whole.steps();
    let (told, done) = work(&ledger);
    assert_eq!(done, usize::MAX);
    drop(ledger);
    let steps = whole.steps();
    assert!(steps > 200, "{steps} steps");
    check_after(whole, &told, done, steps);
    for step in 0..steps {
        let disk = Disk::default();
        disk.fail_at(step);
        let (told, done) = match Ledger::open_backend(disk.clone(), options()) {
            Ok(ledger) => work(&ledger),
            // A file that was never whole is not moved to its place: see the store's tests.
            Err(_) => {
                assert!(step < made);
                continue;
            }
        };
        check_after(disk.after_power_cut(step), &told, done, step);
    }
}

#[test]
fn a_full_disk_stops_the_ledger_and_loses_nothing() {
    let disk = Disk::default();
    let ledger = Ledger::open_backend(disk.clone(), options()).unwrap();
    disk.fill_up_at(disk.len_bytes());
    let fill = |ledger: &Ledger, from: u128, count: u128| {
        for number in from..from + count {
            let id = 10_000 + number;
            let unit = Unit {
                operations: vec![open(id, bounded()), grant(id, id, 5)],
                ..Unit::default()
            };
            if let Err(error) = ledger.apply(unit, Time(2)) {
                return (number, Some(error));
            }
        }
        (from + count, None)
    };
    ledger
        .apply(Unit::one(open(ISSUER, Flags::default())), Time(1))
        .unwrap()
        .unwrap();
    let (done, error) = fill(&ledger, 0, 100_000);
    let error = error.unwrap();
    assert!(matches!(error, LedgerError::Storage(_)), "{error}");
    assert!(error.to_string().contains("free disk space"), "{error}");
    // Nothing more is taken, and it says so; what there is can still be read.
    let again = ledger
        .apply(Unit::one(open(9, bounded())), Time(3))
        .unwrap_err();
    assert!(matches!(again, LedgerError::Stopped { .. }), "{again}");
    assert!(ledger.check_writable().is_err());
    drop(ledger);

    let ledger = Ledger::open_backend(disk.after_power_cut(1), options()).unwrap();
    let audit = ledger.view().unwrap().audit().unwrap();
    assert_eq!(u128::from(audit.accounts), 1 + done);
    let (_, error) = fill(&ledger, done, 100);
    assert!(error.is_none(), "there is room again");
}

/// A volatile unit is seen at once and costs no wait for the disk; a durable one takes it along.
#[test]
fn what_is_volatile_is_lost_alone_or_made_durable_by_what_follows() {
    for is_followed in [false, true] {
        let disk = Disk::default();
        let ledger = Ledger::open_backend(disk.clone(), options()).unwrap();
        let accounts = vec![
            open(ISSUER, Flags::default()),
            open(NODE, Flags::default()),
            open(10, bounded()),
            grant(1, 10, 100),
        ];
        let unit = Unit {
            operations: accounts,
            ..Unit::default()
        };
        ledger.apply(unit, Time(1)).unwrap().unwrap();
        let syncs = disk.syncs();
        let (sender, receiver) = std::sync::mpsc::channel();
        let hold = Unit::one(reserve(2, 10, NODE, 40, 1000));
        ledger.submit_volatile(hold, Time(2), move |verdict| sender.send(verdict).unwrap());
        receiver.recv().unwrap().unwrap().unwrap();
        assert_eq!(disk.syncs(), syncs, "the disk was waited for");
        let account = |ledger: &Ledger| {
            let view = ledger.view().unwrap();
            view.audit().unwrap();
            view.account(AccountId(10)).unwrap().unwrap()
        };
        assert_eq!(account(&ledger).spendable().total, micros(60));
        if is_followed {
            let unit = Unit::one(transfer(3, 10, NODE, 1));
            ledger.apply(unit, Time(3)).unwrap().unwrap();
        }
        let found = Ledger::open_backend(disk.after_power_cut(7), options()).unwrap();
        let expected = if is_followed { 59 } else { 100 };
        assert_eq!(account(&found).spendable().total, micros(expected));
    }
}

/// What nothing durable follows is made durable by the ledger itself.
#[test]
fn what_is_volatile_is_so_for_a_moment_only() {
    let disk = Disk::default();
    let options = LedgerOptions {
        volatile_for: Duration::from_millis(1),
        ..options()
    };
    let ledger = Ledger::open_backend(disk.clone(), options).unwrap();
    let syncs = disk.syncs();
    let (sender, receiver) = std::sync::mpsc::channel();
    let unit = Unit::one(open(10, bounded()));
    ledger.submit_volatile(unit, Time(1), move |verdict| sender.send(verdict).unwrap());
    receiver.recv().unwrap().unwrap().unwrap();
    while disk.syncs() == syncs {
        std::thread::yield_now();
    }
    let found = Ledger::open_backend(disk.after_power_cut(3), options).unwrap();
    let account = found.view().unwrap().account(AccountId(10)).unwrap();
    assert!(account.is_some());
}

/// However close volatile units follow each other.
#[test]
fn what_is_volatile_does_not_stay_so_because_more_of_it_comes() {
    let disk = Disk::default();
    let options = LedgerOptions {
        volatile_for: Duration::from_millis(20),
        ..options()
    };
    let ledger = Ledger::open_backend(disk.clone(), options).unwrap();
    let next = |id| {
        let (sender, receiver) = std::sync::mpsc::channel();
        let unit = Unit::one(open(id, bounded()));
        ledger.submit_volatile(unit, Time(1), move |verdict| sender.send(verdict).unwrap());
        receiver.recv().unwrap().unwrap().unwrap();
    };
    let begun = Instant::now();
    for id in 10.. {
        next(id);
        if id % 64 != 0 {
            continue;
        }
        let found = Ledger::open_backend(disk.after_power_cut(3), options).unwrap();
        let account = found.view().unwrap().account(AccountId(10)).unwrap();
        if account.is_some() {
            break;
        }
        let waited = begun.elapsed();
        assert!(waited < Duration::from_secs(60), "{id} units were lost");
    }
}

fn note(id: u128, bytes: &[u8]) -> Option<Note> {
    Some(Note {
        id,
        bytes: bytes.to_vec(),
    })
}

/// Opens accounts, holds with one note and posts with another; stops when the disk fails.
fn hold_and_post(ledger: &Ledger) -> Result<(), LedgerError> {
    let accounts = vec![
        open(ISSUER, Flags::default()),
        open(NODE, Flags::default()),
        open(10, bounded()),
        grant(1, 10, 100),
    ];
    let steps = [
        (accounts, None),
        (vec![reserve(2, 10, NODE, 40, 1000)], note(2, b"begun")),
        (vec![post(2, 40, &[])], note(2, b"ended")),
    ];
    for (operations, note) in steps {
        let unit = Unit {
            operations,
            note,
            ..Unit::default()
        };
        ledger.apply(unit, Time(1))?.unwrap();
    }
    Ok(())
}

#[test]
fn a_note_is_there_when_its_unit_is_wherever_the_power_fails() {
    let whole = Disk::default();
    let ledger = Ledger::open_backend(whole.clone(), options()).unwrap();
    hold_and_post(&ledger).unwrap();
    drop(ledger);
    let mut seen = std::collections::BTreeSet::new();
    for step in 0..=whole.steps() {
        let disk = Disk::default();
        disk.fail_at(step);
        let Ok(ledger) = Ledger::open_backend(disk.clone(), options()) else {
            continue;
        };
        let _ = hold_and_post(&ledger);
        drop(ledger);
        let ledger = Ledger::open_backend(disk.after_power_cut(step), options()).unwrap();
        let view = ledger.view().unwrap();
        let found = view.note(2).unwrap();
        let expected: Option<&[u8]> = match view.outcome(TransferId(2)).unwrap() {
            None => None,
            Some(Outcome::Open) => Some(b"begun"),
            Some(_) => Some(b"ended"),
        };
        assert_eq!(found.as_deref(), expected, "step {step}");
        seen.insert(found);
    }
    assert_eq!(seen.len(), 3, "none, begun and ended were all met");
}
