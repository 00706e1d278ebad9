//! Many at once.

use std::sync::mpsc;

use aither_ledger::{Time, Unit};

use crate::script::*;

const PAYER: u128 = 10;

#[test]
fn a_thousand_at_once_on_a_balance_for_a_hundred() {
    let mut fixture = Fixture::new();
    fixture.customer(PAYER, 40, 60);
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        for thread in 0..8_u128 {
            let (ledger, sender) = (fixture.ledger.clone(), sender.clone());
            scope.spawn(move || {
                for number in 0..125 {
                    let id = 1000 * (thread + 1) + number;
                    let unit = Unit::one(reserve(id, PAYER, NODE, 1, 1000));
                    let sender = sender.clone();
                    let reply = move |verdict| sender.send((id, verdict)).unwrap();
                    ledger.submit(unit, Time(2), reply);
                }
            });
        }
    });
    drop(sender);
    let mut held = Vec::new();
    let mut refused = 0;
    for (id, verdict) in receiver {
        match verdict.unwrap() {
            Ok(_) => held.push(id),
            Err(refusal) => {
                assert_eq!(refusal.reason.code(), "exceeds_credits");
                refused += 1;
            }
        }
    }
    assert_eq!((held.len(), refused), (100, 900));
    assert_eq!(fixture.balance(PAYER), (0, 0, 100));
    for id in held {
        fixture
            .ledger
            .apply(Unit::one(post(id, 1, &[])), Time(3))
            .unwrap()
            .unwrap();
    }
    assert_eq!(fixture.balance(PAYER), (0, 0, 0));
    assert_eq!(fixture.balance(NODE), (100, 40, 0));
    fixture.ledger.view().unwrap().audit().unwrap();
}

#[test]
fn readers_see_whole_units_only_and_are_not_held_up() {
    let mut fixture = Fixture::new();
    fixture.customer(PAYER, 0, 100_000);
    let view = fixture.ledger.view().unwrap();
    std::thread::scope(|scope| {
        let ledger = &fixture.ledger;
        let writer = scope.spawn(move || {
            for number in 0..300_u128 {
                let id = 100 + number * 2;
                let operations = vec![transfer(id, PAYER, NODE, 2), transfer(id + 1, NODE, 2, 1)];
                let unit = Unit {
                    operations,
                    ..Unit::default()
                };
                ledger.apply(unit, Time(2)).unwrap().unwrap();
            }
        });
        while !writer.is_finished() {
            let audit = ledger.view().unwrap().audit().unwrap();
            // Four entries open accounts, one funds; then two come with each unit.
            assert_eq!(audit.entries % 2, 1, "half of a unit is seen");
        }
    });
    let spendable = |view: &aither_ledger::View| {
        let account = view
            .account(aither_ledger::AccountId(PAYER))
            .unwrap()
            .unwrap();
        account.spendable().total.micros()
    };
    assert_eq!(spendable(&view), 100_000, "a view stays as it was");
    assert_eq!(spendable(&fixture.ledger.view().unwrap()), 100_000 - 600);
}
