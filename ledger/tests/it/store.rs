//! Files: opened again, damaged, too new, not writable; statements and usage read back.

use aither_ledger::{
    AccountId, EntryKind, Ledger, LedgerError, LedgerOptions, Note, Outcome, Time, TransferId,
    Unit, Usage, UsageQuery,
};

use crate::script::*;

const A: u128 = 10;

fn file(name: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    (dir, path)
}

fn set_up(ledger: &Ledger) {
    let operations = vec![
        open(ISSUER, Default::default()),
        open(NODE, Default::default()),
        open(A, bounded()),
        grant(1, A, 10_000),
    ];
    let unit = Unit {
        operations,
        ..Unit::default()
    };
    ledger.apply(unit, Time(1)).unwrap().unwrap();
}

#[test]
fn all_is_there_when_it_is_opened_again() {
    let (_dir, path) = file("ledger.redb");
    let ledger = Ledger::open(&path, LedgerOptions::default()).unwrap();
    set_up(&ledger);
    for id in 2..500 {
        ledger
            .apply(Unit::one(transfer(id, A, NODE, 3)), Time(2))
            .unwrap()
            .unwrap();
    }
    let before = ledger.view().unwrap().audit().unwrap();
    drop(ledger);
    let ledger = Ledger::open(&path, LedgerOptions::default()).unwrap();
    assert_eq!(ledger.view().unwrap().audit().unwrap(), before);
    let receipts = ledger
        .apply(Unit::one(transfer(300, A, NODE, 3)), Time(3))
        .unwrap();
    assert!(receipts.unwrap()[0].is_replay);
    // Time went on before the restart, and does not fall after it.
    let refused = ledger
        .apply(Unit::one(reserve(900, A, NODE, 1, 2)), Time(0))
        .unwrap();
    assert_eq!(refused.unwrap_err().reason.code(), "expiry_passed");
}

#[test]
fn what_became_of_a_transfer_is_known_by_its_name() {
    let (_dir, path) = file("ledger.redb");
    let ledger = Ledger::open(&path, LedgerOptions::default()).unwrap();
    set_up(&ledger);
    let unit = Unit {
        operations: vec![
            transfer(2, A, NODE, 3),
            reserve(3, A, NODE, 10, 100),
            reserve(4, A, NODE, 10, 100),
            reserve(5, A, NODE, 10, 50),
            reserve(6, A, NODE, 10, 100),
            post(3, 7, &[]),
            void(4),
        ],
        ..Unit::default()
    };
    ledger.apply(unit, Time(2)).unwrap().unwrap();
    let unit = Unit::one(transfer(7, A, NODE, 1));
    ledger.apply(unit, Time(60)).unwrap().unwrap();
    let view = ledger.view().unwrap();
    let outcome = |id| view.outcome(TransferId(id)).unwrap();
    assert_eq!(outcome(2), Some(Outcome::Plain(micros(3))));
    assert_eq!(outcome(3), Some(Outcome::Posted(micros(7))));
    assert_eq!(outcome(4), Some(Outcome::Voided));
    assert_eq!(outcome(5), Some(Outcome::Expired));
    assert_eq!(outcome(6), Some(Outcome::Open));
    assert_eq!(outcome(8), None);
}

#[test]
fn a_statement_shows_every_entry_and_sums_to_the_balance() {
    let (_dir, path) = file("ledger.redb");
    let ledger = Ledger::open(&path, LedgerOptions::default()).unwrap();
    set_up(&ledger);
    for id in (10..200).step_by(2) {
        let hold = vec![reserve(id, A, NODE, 20, 1000)];
        for operations in [
            hold,
            vec![post(id, 15, &[(A, 5)])],
            vec![transfer(id + 1, A, NODE, 1)],
        ] {
            let unit = Unit {
                operations,
                ..Unit::default()
            };
            ledger.apply(unit, Time(2)).unwrap().unwrap();
        }
    }
    let view = ledger.view().unwrap();
    let mut pages = Vec::new();
    let mut before = None;
    loop {
        let page = view.statement(AccountId(A), before, 50).unwrap();
        let Some((last, _)) = page.last() else { break };
        before = Some(*last);
        pages.extend(page);
    }
    assert_eq!(pages.len(), 2 + 95 * 3);
    assert!(pages.windows(2).all(|pair| pair[0].0 > pair[1].0));
    assert!(matches!(
        pages.last().unwrap().1.kind,
        EntryKind::Opened { .. }
    ));
    let sum = pages.iter().fold(0_i128, |sum, (_, entry)| {
        let (credit, debit) = entry.kind.posted(AccountId(A));
        sum + credit.micros() as i128 - debit.micros() as i128
    });
    let account = view.account(AccountId(A)).unwrap().unwrap();
    assert_eq!(sum, account.balance().total.micros() as i128);
    assert_eq!(sum, 10_000 - 95 * 11);
    assert!(view.statement(AccountId(77), None, 50).unwrap().is_empty());
}

#[test]
fn usage_is_summed_by_hour_agent_and_model() {
    const HOUR: u64 = 3_600_000;
    let (_dir, path) = file("ledger.redb");
    let ledger = Ledger::open(&path, LedgerOptions::default()).unwrap();
    set_up(&ledger);
    for (id, (now, agent, model)) in [
        (HOUR, "", "small"),
        (HOUR + 5, "", "small"),
        (HOUR + 6, "researcher", "small"),
        (3 * HOUR, "", "large"),
    ]
    .into_iter()
    .enumerate()
    {
        let record = Usage {
            account: AccountId(A),
            agent: agent.into(),
            model: model.into(),
            prompt_tokens: 7,
            completion_tokens: 3,
            amount: micros(11),
            ..Usage::default()
        };
        let unit = Unit {
            operations: vec![transfer(100 + id as u128, A, NODE, 11)],
            usage: Some(record),
            ..Unit::default()
        };
        ledger.apply(unit.clone(), Time(now)).unwrap().unwrap();
        // Asked again it is not used again.
        ledger.apply(unit, Time(now)).unwrap().unwrap();
    }
    let view = ledger.view().unwrap();
    let query = |from, until| UsageQuery {
        account: AccountId(A),
        from: Time(from),
        until: Time(until),
    };
    let sums = view.usage_sums(&query(0, 10 * HOUR)).unwrap();
    let seen: Vec<_> = sums
        .iter()
        .map(|sum| {
            (
                sum.from.0 / HOUR,
                &*sum.agent,
                &*sum.model,
                sum.counts.requests,
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            (1, "", "small", 2),
            (1, "researcher", "small", 1),
            (3, "", "large", 1)
        ]
    );
    assert_eq!(sums[0].counts.amount, micros(22));
    assert_eq!(
        view.usage_sums(&query(2 * HOUR, 3 * HOUR)).unwrap().len(),
        0
    );
    assert_eq!(view.usage_sums(&query(9, 1)).unwrap().len(), 0);
    let records = view.usage(&query(0, 10 * HOUR), 3).unwrap();
    assert_eq!(records.len(), 3);
    assert_eq!(records[2].1.agent, "researcher");
}

#[test]
fn a_copy_is_a_ledger_of_its_own() {
    let (dir, path) = file("ledger.redb");
    let ledger = Ledger::open(&path, LedgerOptions::default()).unwrap();
    set_up(&ledger);
    ledger
        .apply(Unit::one(reserve(9, A, NODE, 7, 1000)), Time(2))
        .unwrap()
        .unwrap();
    let view = ledger.view().unwrap();
    ledger
        .apply(Unit::one(transfer(10, A, NODE, 5)), Time(3))
        .unwrap()
        .unwrap();
    let copy = dir.path().join("copy.redb");
    view.copy_to(&copy).unwrap();
    let options = LedgerOptions {
        verify_pages: true,
        ..LedgerOptions::default()
    };
    let copied = Ledger::open(&copy, options).unwrap();
    let copied_view = copied.view().unwrap();
    assert_eq!(copied_view.audit().unwrap(), view.audit().unwrap());
    let of = |view: &aither_ledger::View| view.account(AccountId(A)).unwrap();
    assert_eq!(of(&copied_view), of(&view));
    assert_ne!(
        of(&copied_view),
        of(&ledger.view().unwrap()),
        "written since"
    );
    copied
        .apply(Unit::one(post(9, 7, &[])), Time(4))
        .unwrap()
        .unwrap();
}

#[test]
fn what_is_no_ledger_is_refused_with_words() {
    let (dir, path) = file("ledger.redb");
    std::fs::write(&path, b"this is a letter").unwrap();
    let error = Ledger::open(&path, LedgerOptions::default()).unwrap_err();
    assert!(error.to_string().contains("ledger.redb"), "{error}");
    let missing = dir.path().join("no/such/folder/ledger.redb");
    let error = Ledger::open(&missing, LedgerOptions::default()).unwrap_err();
    assert!(matches!(error, LedgerError::Open { .. }), "{error}");
}

#[test]
fn a_file_whose_making_was_cut_off_is_made_anew() {
    let (dir, path) = file("ledger.redb");
    std::fs::write(dir.path().join("ledger.redb.new"), b"half of a fi").unwrap();
    set_up(&Ledger::open(&path, LedgerOptions::default()).unwrap());
    assert!(!dir.path().join("ledger.redb.new").exists());
    let ledger = Ledger::open(&path, LedgerOptions::default()).unwrap();
    assert_eq!(ledger.view().unwrap().audit().unwrap().accounts, 3);
}

/// A file of schema version 1: a customer with 1000 granted micro-tokens, holds of 10 on it, and 20
/// of them each open, posted with 7, and voided (but one of these less).
#[test]
fn a_file_of_an_older_version_is_brought_up_to_date() {
    let (_dir, path) = file("ledger.redb");
    let old = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/version-1.redb");
    std::fs::copy(old, &path).unwrap();
    for _ in 0..2 {
        let ledger = Ledger::open(&path, LedgerOptions::default()).unwrap();
        let view = ledger.view().unwrap();
        let audit = view.audit().unwrap();
        assert_eq!((audit.accounts, audit.entries, audit.holds), (3, 100, 20));
        let account = view.account(AccountId(A)).unwrap().unwrap();
        assert_eq!(account.spendable().total, micros(667));
        let query = UsageQuery {
            account: AccountId(A),
            from: Time(0),
            until: Time(3_600_000),
        };
        assert_eq!(view.usage_sums(&query).unwrap()[0].counts.requests, 19);
    }
    let ledger = Ledger::open(&path, LedgerOptions::default()).unwrap();
    ledger
        .apply(Unit::one(post(2, 10, &[])), Time(4000))
        .unwrap()
        .unwrap();
    ledger.expire(Time(1_000_000)).unwrap();
    let refused = ledger.apply(Unit::one(void(5)), Time(0)).unwrap();
    assert_eq!(refused.unwrap_err().reason.code(), "pending_expired");
    assert_eq!(ledger.view().unwrap().audit().unwrap().holds, 0);
}

#[test]
fn a_newer_file_is_left_alone() {
    let (_dir, path) = file("ledger.redb");
    drop(Ledger::open(&path, LedgerOptions::default()).unwrap());
    let table: redb::TableDefinition<'_, &str, u64> = redb::TableDefinition::new("meta");
    let database = redb::Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction
        .open_table(table)
        .unwrap()
        .insert("schema_version", 99)
        .unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = Ledger::open(&path, LedgerOptions::default()).unwrap_err();
    assert!(
        matches!(error, LedgerError::NewerSchema { found: 99, .. }),
        "{error}"
    );
}

/// Any change of a stored balance, hold or entry is found.
#[test]
fn an_audit_finds_what_was_changed_behind_its_back() {
    let accounts: redb::TableDefinition<'_, u128, &[u8]> = redb::TableDefinition::new("accounts-1");
    let (_dir, path) = file("ledger.redb");
    let ledger = Ledger::open(&path, LedgerOptions::default()).unwrap();
    set_up(&ledger);
    ledger
        .apply(Unit::one(transfer(5, A, NODE, 100)), Time(2))
        .unwrap()
        .unwrap();
    drop(ledger);
    let database = redb::Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        use redb::ReadableTable;
        let mut table = transaction.open_table(accounts).unwrap();
        let rows = [A, NODE].map(|id| table.get(id).unwrap().unwrap().value().to_vec());
        // Their balances are exchanged: the sums over all accounts stay right.
        table.insert(A, rows[1].as_slice()).unwrap();
        table.insert(NODE, rows[0].as_slice()).unwrap();
    }
    transaction.commit().unwrap();
    drop(database);
    let error = Ledger::open(&path, LedgerOptions::default()).unwrap_err();
    assert!(matches!(error, LedgerError::Corrupt { .. }), "{error}");
}

/// The check at start begins at the last checkpoint, the one on command at the beginning.
#[test]
fn a_start_checks_what_was_written_since_the_last_checkpoint() {
    let journal: redb::TableDefinition<'_, u64, &[u8]> = redb::TableDefinition::new("journal-1");
    let meta: redb::TableDefinition<'_, &str, u64> = redb::TableDefinition::new("meta");
    let (_dir, path) = file("ledger.redb");
    let ledger = Ledger::open(&path, LedgerOptions::default()).unwrap();
    set_up(&ledger);
    let transfers_len = 70_000_u128;
    let fund = Unit::one(grant(2, A, transfers_len));
    ledger.apply(fund, Time(1)).unwrap().unwrap();
    for first in (0..transfers_len).step_by(16) {
        let ids = first..(first + 16).min(transfers_len);
        let unit = Unit {
            operations: ids.map(|id| transfer(100 + id, A, NODE, 1)).collect(),
            ..Unit::default()
        };
        ledger.submit(unit, Time(2), |verdict| drop(verdict.unwrap().unwrap()));
    }
    // All of these are written, with the checkpoint, before one more is asked for.
    ledger
        .apply(Unit::one(void(1)), Time(2))
        .unwrap()
        .unwrap_err();
    ledger
        .apply(Unit::one(grant(3, A, 1)), Time(2))
        .unwrap()
        .unwrap();
    drop(ledger);
    let ledger = Ledger::open(&path, LedgerOptions::default()).unwrap();
    let audit = ledger.view().unwrap().audit().unwrap();
    assert_eq!(u128::from(audit.entries), 6 + transfers_len);
    drop(ledger);

    let database = redb::Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        use redb::ReadableTable;
        let table = transaction.open_table(meta).unwrap();
        let checkpoint = table.get("checkpoint").unwrap().unwrap().value();
        assert!((65_536..=70_005).contains(&checkpoint), "{checkpoint}");
        let mut table = transaction.open_table(journal).unwrap();
        table.remove(1).unwrap().unwrap();
    }
    transaction.commit().unwrap();
    drop(database);
    let ledger = Ledger::open(&path, LedgerOptions::default()).unwrap();
    let view = ledger.view().unwrap();
    view.audit_balances().unwrap();
    let error = view.audit().unwrap_err();
    assert!(matches!(error, LedgerError::Corrupt { .. }), "{error}");
}

fn noted(operations: Vec<aither_ledger::Operation>, id: u128, bytes: Vec<u8>) -> Unit {
    Unit {
        operations,
        note: Some(Note { id, bytes }),
        ..Unit::default()
    }
}

#[test]
fn a_note_comes_with_its_unit_and_stays() {
    let (dir, path) = file("ledger.redb");
    let ledger = Ledger::open(&path, LedgerOptions::default()).unwrap();
    set_up(&ledger);
    let hold = noted(vec![reserve(5, A, NODE, 40, 1000)], 5, vec![1; 10]);
    ledger.apply(hold, Time(1)).unwrap().unwrap();
    let refused = noted(vec![reserve(6, A, NODE, 1 << 40, 1000)], 6, vec![6]);
    ledger.apply(refused, Time(1)).unwrap().unwrap_err();
    let ended = noted(vec![post(5, 40, &[])], 5, vec![2; 30]);
    ledger.apply(ended, Time(2)).unwrap().unwrap();
    // A note may come alone.
    ledger
        .apply(noted(Vec::new(), 7, vec![7]), Time(2))
        .unwrap()
        .unwrap();
    let too_long = noted(Vec::new(), 8, vec![0; (1 << 20) + 1]);
    let refusal = ledger.apply(too_long, Time(2)).unwrap().unwrap_err();
    assert_eq!(refusal.reason.code(), "text_too_long");
    let copy = dir.path().join("copy.redb");
    ledger.view().unwrap().copy_to(&copy).unwrap();
    drop(ledger);
    for path in [path, copy] {
        let ledger = Ledger::open(&path, LedgerOptions::default()).unwrap();
        let view = ledger.view().unwrap();
        assert_eq!(view.note(5).unwrap(), Some(vec![2; 30]));
        assert_eq!(view.note(6).unwrap(), None);
        assert_eq!(view.note(7).unwrap(), Some(vec![7]));
        assert_eq!(view.note(8).unwrap(), None);
        assert_eq!(view.note_bytes().unwrap(), 31);
    }
}

#[test]
fn notes_are_forgotten_by_age_and_by_bytes() {
    let (_dir, path) = file("ledger.redb");
    let ledger = Ledger::open(&path, LedgerOptions::default()).unwrap();
    let count = 3000_u128;
    for id in 1..=count {
        ledger.submit(noted(Vec::new(), id, vec![0; 10]), Time(1), |verdict| {
            verdict.unwrap().unwrap();
        });
    }
    let bytes_until = |bytes_max: u64| {
        while ledger.view().unwrap().note_bytes().unwrap() > bytes_max {
            std::thread::yield_now();
        }
    };
    ledger
        .apply(noted(Vec::new(), count, vec![0; 10]), Time(1))
        .unwrap()
        .unwrap();
    ledger.forget_notes(2001, u64::MAX).unwrap();
    bytes_until(10_000);
    let view = ledger.view().unwrap();
    assert_eq!(view.note_bytes().unwrap(), 10_000);
    assert_eq!(view.note(2000).unwrap(), None);
    assert!(view.note(2001).unwrap().is_some());
    ledger.forget_notes(0, 55).unwrap();
    bytes_until(55);
    let view = ledger.view().unwrap();
    assert_eq!(view.note_bytes().unwrap(), 50);
    assert_eq!(view.note(count - 5).unwrap(), None);
    assert!(view.note(count - 4).unwrap().is_some());
}

#[test]
fn a_file_of_schema_version_2_gets_notes() {
    let meta: redb::TableDefinition<'_, &str, u64> = redb::TableDefinition::new("meta");
    let notes: redb::TableDefinition<'_, u128, &[u8]> = redb::TableDefinition::new("notes-1");
    let (_dir, path) = file("ledger.redb");
    let ledger = Ledger::open(&path, LedgerOptions::default()).unwrap();
    set_up(&ledger);
    drop(ledger);
    // Version 2 is today's without them.
    let database = redb::Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    assert!(transaction.delete_table(notes).unwrap());
    transaction
        .open_table(meta)
        .unwrap()
        .insert("schema_version", 2)
        .unwrap();
    transaction.commit().unwrap();
    drop(database);
    let ledger = Ledger::open(&path, LedgerOptions::default()).unwrap();
    ledger
        .apply(noted(Vec::new(), 7, vec![7]), Time(2))
        .unwrap()
        .unwrap();
    let view = ledger.view().unwrap();
    assert_eq!(view.note(7).unwrap(), Some(vec![7]));
    view.audit().unwrap();
}
