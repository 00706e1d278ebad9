//! What each operation does, and why it is refused, one line each. The whole ledger is audited
//! after every line.

use aither_ledger::{Draw, Flags, Operation, Reserve, Time, Unit};

use crate::script::*;

const A: u128 = 10;
const B: u128 = 11;

/// A: 100 granted and 50 bought; B: nothing.
fn fixture() -> Fixture {
    let mut fixture = Fixture::new();
    fixture.customer(A, 100, 50);
    fixture.customer(B, 0, 0);
    fixture
}

#[track_caller]
fn check(fixture: &mut Fixture, lines: &[(Operation, &str)]) {
    for (number, (operation, expected)) in lines.iter().enumerate() {
        let found = fixture.one(operation.clone());
        assert_eq!(found, *expected, "line {number}: {operation:?}");
    }
}

#[test]
fn a_transfer_is_done_once() {
    let mut fixture = fixture();
    check(
        &mut fixture,
        &[
            (transfer(100, A, B, 30), "done"),
            (transfer(100, A, B, 30), "again"),
            (transfer(100, A, B, 31), "id_reused_with_other_content"),
            (transfer(100, B, A, 30), "id_reused_with_other_content"),
            (reserve(100, A, B, 30, 99), "id_reused_with_other_content"),
            (transfer(101, A, B, 121), "exceeds_credits"),
            (transfer(101, A, B, 120), "done"),
            (transfer(102, A, B, 1), "exceeds_credits"),
        ],
    );
    assert_eq!(fixture.balance(A), (0, 0, 0));
    assert_eq!(fixture.balance(B), (150, 100, 0));
}

#[test]
fn what_cannot_be_is_refused_in_order_of_precedence() {
    let mut fixture = fixture();
    let max = 9_007_199_254_000_000;
    check(
        &mut fixture,
        &[
            (transfer(1, A, A, 0), "amount_zero"),
            (transfer(1, A, A, max + 1), "amount_too_large"),
            (transfer(1, A, A, u128::MAX), "amount_too_large"),
            (transfer(1, A, A, max), "accounts_are_same"),
            (transfer(1, 77, 78, max), "account_unknown"),
            (transfer(1, A, 78, max), "account_unknown"),
            (reserve(1, 77, B, max, 1), "account_unknown"),
            (reserve(1, A, B, max, 1), "expiry_passed"),
            (reserve(1, A, B, max, 2), "exceeds_credits"),
            (post(1, 0, &[]), "amount_zero"),
            (post(1, 1, &[(B, 2)]), "shares_exceed_amount"),
            (post(1, 1, &[(B, 1)]), "pending_unknown"),
            (void(1), "pending_unknown"),
        ],
    );
    let mut long = movement(1, A, B, 1, Draw::GrantedFirst);
    long.memo = "x".repeat(257);
    check(
        &mut fixture,
        &[(Operation::Transfer(long), "text_too_long")],
    );
    assert_eq!(fixture.unit(vec![]), "unit_too_long");
    assert_eq!(fixture.unit(vec![void(1); 17]), "unit_too_long");
    assert_eq!(fixture.balance(A), (150, 100, 0));
}

#[test]
fn a_hold_ends_once_by_a_post() {
    let mut fixture = fixture();
    check(
        &mut fixture,
        &[
            (reserve(1, A, B, 120, 50), "done"),
            (reserve(1, A, B, 120, 50), "again"),
            (reserve(1, A, B, 120, 51), "id_reused_with_other_content"),
            (transfer(2, A, B, 31), "exceeds_credits"),
            (post(1, 121, &[]), "exceeds_pending"),
            (post(1, 70, &[(77, 5)]), "account_unknown"),
            (post(1, 70, &[(NODE, 20)]), "done"),
            (post(1, 70, &[(NODE, 20)]), "again"),
            (post(1, 70, &[(NODE, 21)]), "pending_already_posted"),
            (post(1, 71, &[]), "pending_already_posted"),
            (void(1), "pending_already_posted"),
            (reserve(1, A, B, 120, 50), "again"),
            (transfer(2, A, B, 31), "done"),
        ],
    );
    assert_eq!(fixture.balance(A), (49, 0, 0));
    assert_eq!(fixture.balance(B), (50 + 31, 50 + 30, 0));
    assert_eq!(fixture.balance(NODE), (20, 20, 0));
}

#[test]
fn a_hold_ends_once_by_a_void_or_by_time() {
    let mut fixture = fixture();
    check(
        &mut fixture,
        &[
            (reserve(1, A, B, 150, 50), "done"),
            (void(1), "done"),
            (void(1), "again"),
            (post(1, 1, &[]), "pending_already_voided"),
            (reserve(2, A, B, 150, 50), "done"),
        ],
    );
    assert_eq!(fixture.balance(A), (0, 0, 150));
    fixture.now = 49;
    assert_eq!(fixture.one(transfer(3, A, B, 1)), "exceeds_credits");
    fixture.now = 50;
    assert_eq!(fixture.one(post(2, 1, &[])), "pending_expired");
    assert_eq!(fixture.one(void(2)), "pending_expired");
    assert_eq!(fixture.balance(A), (150, 100, 0));
    // Time does not run backwards.
    fixture.now = 10;
    assert_eq!(fixture.one(reserve(4, A, B, 1, 50)), "expiry_passed");
}

#[test]
fn granted_tokens_go_first_and_stay_granted() {
    let mut fixture = fixture();
    fixture.done(reserve(1, A, NODE, 120, 50));
    assert_eq!(fixture.balance(A), (30, 0, 120));
    // 60 of what was held, all granted: of 80 %, 48 go on as granted, the node has the other 12.
    fixture.done(post(1, 60, &[(B, 48)]));
    assert_eq!(fixture.balance(A), (90, 40, 0));
    assert_eq!(fixture.balance(B), (48, 48, 0));
    // 45 = 40 granted + 5 bought; the granted part of a share is rounded up: 36 · 40 / 45.
    fixture.done(reserve(2, A, NODE, 45, 50));
    fixture.done(post(2, 45, &[(B, 36)]));
    assert_eq!(fixture.balance(B), (84, 80, 0));
    assert_eq!(fixture.balance(NODE), (12 + 9, 12 + 8, 0));
    assert_eq!(fixture.balance(A), (45, 0, 0));
}

#[test]
fn a_draw_may_be_bound_to_one_kind() {
    let mut fixture = fixture();
    let of = |id, amount, draw| Operation::Transfer(movement(id, A, B, amount, draw));
    check(
        &mut fixture,
        &[
            (of(1, 51, Draw::Funded), "exceeds_credits"),
            (of(1, 20, Draw::Funded), "done"),
            (of(2, 101, Draw::Granted), "exceeds_credits"),
            (of(2, 90, Draw::Granted), "done"),
        ],
    );
    assert_eq!(fixture.balance(A), (40, 10, 0));
    assert_eq!(fixture.balance(B), (110, 90, 0));
}

#[test]
fn a_unit_is_done_whole_or_not_at_all() {
    let mut fixture = fixture();
    let unit = vec![
        reserve(1, A, B, 60, 50),
        post(1, 60, &[(NODE, 12)]),
        transfer(2, B, A, 48),
        transfer(3, A, B, 1000),
    ];
    assert_eq!(fixture.unit(unit.clone()), "3: exceeds_credits");
    assert_eq!(fixture.balance(A), (150, 100, 0));
    assert_eq!(fixture.one(post(1, 1, &[])), "pending_unknown");
    assert_eq!(fixture.unit(unit[..3].to_vec()), "done");
    assert_eq!(fixture.unit(unit[..3].to_vec()), "again");
    assert_eq!(fixture.unit(unit), "3: exceeds_credits");
    assert_eq!(fixture.balance(A), (138, 88, 0));
    assert_eq!(fixture.balance(B), (0, 0, 0));
}

#[test]
fn limits_hold_on_either_side() {
    let mut fixture = fixture();
    let debtor = Flags {
        credits_within_debits: true,
        ..Flags::default()
    };
    check(
        &mut fixture,
        &[
            (open(20, debtor), "done"),
            (open(20, debtor), "again"),
            (open(20, bounded()), "id_reused_with_other_content"),
            (transfer(1, A, 20, 1), "exceeds_debits"),
            (transfer(2, 20, B, 5), "done"),
            (reserve(3, A, 20, 5, 50), "done"),
            (transfer(4, A, 20, 1), "exceeds_debits"),
            (post(3, 4, &[]), "done"),
            (transfer(4, A, 20, 1), "done"),
            (transfer(5, A, 20, 1), "exceeds_debits"),
        ],
    );
}

#[test]
fn a_refused_operation_may_be_asked_again() {
    let mut fixture = fixture();
    fixture.customer(30, 0, 0);
    assert_eq!(fixture.one(transfer(1, 30, B, 5)), "exceeds_credits");
    fixture.done(fund(2, 30, 5));
    assert_eq!(fixture.one(transfer(1, 30, B, 5)), "done");
}

#[test]
fn thousands_of_holds_expire_together() {
    let mut fixture = fixture();
    fixture.done(fund(1, A, 10_000));
    for chunk in 0..250 {
        let unit = (0..16).map(|n| reserve(1000 + chunk * 16 + n, A, B, 1, 60));
        let unit = Unit {
            operations: unit.collect(),
            ..Unit::default()
        };
        fixture.ledger.apply(unit, Time(2)).unwrap().unwrap();
    }
    assert_eq!(fixture.balance(A).2, 4000);
    fixture.ledger.expire(Time(60)).unwrap();
    let operation = Operation::Reserve(Reserve {
        transfer: movement(9, A, B, 10_150, Draw::GrantedFirst),
        expires: Time(100),
    });
    // Those that are beyond one transaction end in the next; nobody gets their tokens before.
    let mut tries = 0;
    while fixture.one(operation.clone()) != "done" {
        tries += 1;
        assert!(tries < 10);
    }
}
