//! Payments with allowances: what is left of them, whatever happens, and that the books agree.

use std::{collections::BTreeMap, path::Path};

use aither_ledger::{AccountId, TransferId, Usage};
use aither_protocol::{Allowance, Amount};
use tempfile::TempDir;

use super::{
    ALLOWANCES, Billing, BillingError, Hold, OPERATOR, PriceBook, Settled, Spendable, Spending,
    settled_in,
};
use crate::config::BillingConfig;

const PAYER: AccountId = AccountId(0x0190_0000_0000_0000_0000_0000_0000_0001);
const PARENT: u128 = 0xfedc_ba98_7654_3210_0123_4567_89ab_cdef;
const GRANTED: u64 = 100;

fn allowance(id: u128, tokens: u64) -> Allowance {
    let max = Amount::from_tokens(tokens);
    Allowance { id, max }
}

fn spending(tokens: u64, allowances: &[Allowance]) -> Spending<'_> {
    Spending {
        payer: PAYER,
        amount: Amount::from_tokens(tokens),
        memo: "/v1/llm/chat",
        id: None,
        allowances,
    }
}

fn open(dir: &Path) -> Billing {
    let prices = PriceBook::open(&dir.join("prices.json"), BTreeMap::new(), 1).unwrap();
    let config = BillingConfig {
        welcome_grant: Amount::from_tokens(GRANTED),
        ..BillingConfig::default()
    };
    Billing::open(&dir.join("ledger.redb"), &config, prices, |_| None).unwrap()
}

async fn billing() -> (TempDir, Billing) {
    let dir = tempfile::tempdir().unwrap();
    let billing = open(dir.path());
    billing.welcome(PAYER).await.unwrap();
    (dir, billing)
}

/// Waits until it is charged.
async fn post(hold: Hold, tokens: u64) -> Result<Amount, BillingError> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let usage = Usage {
        account: PAYER,
        ..Usage::default()
    };
    hold.post(Amount::from_tokens(tokens), usage, |charged| {
        sender.send(charged).unwrap();
    });
    receiver.await.unwrap()
}

async fn pay(
    billing: &Billing,
    tokens: u64,
    allowances: &[Allowance],
) -> Result<Amount, BillingError> {
    let hold = billing.hold(spending(tokens, allowances)).await?;
    post(hold, tokens).await
}

/// Waits for what was asked before.
async fn wait(billing: &Billing) {
    billing
        .apply(vec![super::open_operator()])
        .await
        .unwrap()
        .unwrap();
}

/// Checks the books, and what is left of each allowance and of the payer's tokens.
#[track_caller]
fn check(billing: &Billing, left: &[(Allowance, u64)], payer: u64) {
    billing.view().unwrap().audit().unwrap();
    for (allowance, tokens) in left {
        let found = billing.allowances_left(&[*allowance]).unwrap();
        assert_eq!(found, Some(Amount::from_tokens(*tokens)), "{allowance:?}");
    }
    let balance = billing.spendable(PAYER).unwrap();
    assert_eq!(balance, Amount::from_tokens(payer));
}

#[track_caller]
fn assert_spent<T: std::fmt::Debug>(
    found: Result<T, BillingError>,
    left_expected: u64,
    required_expected: u64,
) {
    let error = found.unwrap_err();
    let BillingError::AllowanceSpent { left, required } = error else {
        panic!("{error}");
    };
    assert_eq!(left, Amount::from_tokens(left_expected));
    assert_eq!(required, Amount::from_tokens(required_expected));
    assert!(error.to_string().contains("max_spend"), "{error}");
}

#[tokio::test]
async fn a_payer_can_spend_exactly_the_allowance() {
    let (_dir, billing) = billing().await;
    let cap = allowance(PARENT, 10);
    check(&billing, &[(cap, 10)], GRANTED);
    for paid in [3, 7] {
        pay(&billing, paid, &[cap]).await.unwrap();
    }
    check(&billing, &[(cap, 0)], GRANTED - 10);
    assert_spent(pay(&billing, 1, &[cap]).await, 0, 1);
    pay(&billing, 1, &[]).await.unwrap();
    check(&billing, &[(cap, 0)], GRANTED - 11);
    let usage = aither_ledger::UsageQuery {
        account: PAYER,
        from: aither_ledger::Time(0),
        until: aither_ledger::Time(u64::MAX),
    };
    let records = billing.view().unwrap().usage(&usage, 10).unwrap();
    assert_eq!(
        records.len(),
        3,
        "one record a payment, with allowances too"
    );
}

#[tokio::test]
async fn what_is_refused_leaves_no_account_behind() {
    let (_dir, billing) = billing().await;
    let cap = allowance(PARENT, 10);
    assert_spent(pay(&billing, 11, &[cap]).await, 10, 11);
    let beyond_payer = allowance(PARENT, 2 * GRANTED);
    let error = pay(&billing, GRANTED + 1, &[beyond_payer]).await;
    let error = error.unwrap_err();
    assert!(
        matches!(error, BillingError::Insufficient { .. }),
        "{error}"
    );
    assert_spent(pay(&billing, 1, &[allowance(PARENT, 0)]).await, 0, 1);
    let view = billing.view().unwrap();
    assert!(view.account(AccountId(PARENT)).unwrap().is_none());
    assert!(view.account(ALLOWANCES).unwrap().is_some());
    check(&billing, &[(cap, 10)], GRANTED);
}

#[tokio::test]
async fn nested_allowances_all_count() {
    let (_dir, billing) = billing().await;
    let parent = allowance(PARENT, 10);
    let children = [1, 2, 3].map(|n| [parent, allowance(PARENT + n, 4)]);
    pay(&billing, 4, &children[0]).await.unwrap();
    assert_spent(pay(&billing, 1, &children[0]).await, 0, 1);
    pay(&billing, 4, &children[1]).await.unwrap();
    assert_spent(pay(&billing, 3, &children[2]).await, 2, 3);
    check(
        &billing,
        &[(parent, 2), (children[0][1], 0), (children[2][1], 4)],
        GRANTED - 8,
    );
    pay(&billing, 2, &children[2]).await.unwrap();
    check(&billing, &[(parent, 0), (children[2][1], 2)], GRANTED - 10);
}

#[tokio::test]
async fn as_many_allowances_as_a_token_has_fit_one_payment() {
    let (_dir, billing) = billing().await;
    let max = aither_protocol::limits::CAPABILITY_ALLOWANCES_MAX;
    let all: Vec<_> = (0_u64..)
        .take(max + 1)
        .map(|n| allowance(PARENT + u128::from(n), 10 - n))
        .collect();
    pay(&billing, 5, &all[..max]).await.unwrap();
    let (outer, inner) = (all[0], all[max - 1]);
    check(&billing, &[(outer, 5), (inner, 2)], GRANTED - 5);
    assert_spent(pay(&billing, 3, &all[..max]).await, 2, 3);
    let error = pay(&billing, 1, &all).await.unwrap_err();
    assert!(matches!(error, BillingError::Refused(_)), "{error}");
    check(&billing, &[(outer, 5), (inner, 2)], GRANTED - 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_holds_at_once_as_many_succeed_as_the_allowance_has() {
    let (_dir, billing) = billing().await;
    let cap = allowance(PARENT, 10);
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let billing = billing.clone();
            tokio::spawn(async move { billing.hold(spending(1, &[cap])).await })
        })
        .collect();
    let mut holds = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            Ok(hold) => holds.push(hold),
            refused => assert_spent(refused, 0, 1),
        }
    }
    assert_eq!(holds.len(), 10);
    check(&billing, &[(cap, 0)], GRANTED - 10);
    for hold in holds.drain(..5) {
        post(hold, 1).await.unwrap();
    }
    drop(holds);
    wait(&billing).await;
    check(&billing, &[(cap, 5)], GRANTED - 5);
}

#[tokio::test]
async fn a_void_gives_back_and_a_lower_post_frees_the_rest() {
    let (_dir, billing) = billing().await;
    let (cap, inner) = (allowance(PARENT, 10), allowance(PARENT + 1, 10));
    let hold = billing.hold(spending(10, &[cap, inner])).await.unwrap();
    check(&billing, &[(cap, 0), (inner, 0)], GRANTED - 10);
    assert_spent(pay(&billing, 1, &[cap]).await, 0, 1);
    drop(hold);
    wait(&billing).await;
    check(&billing, &[(cap, 10), (inner, 10)], GRANTED);

    let hold = billing.hold(spending(10, &[cap, inner])).await.unwrap();
    post(hold, 3).await.unwrap();
    check(&billing, &[(cap, 7), (inner, 7)], GRANTED - 3);
    let hold = billing.hold(spending(7, &[cap])).await.unwrap();
    assert!(post(hold, 0).await.unwrap().is_zero());
    wait(&billing).await;
    check(&billing, &[(cap, 7), (inner, 7)], GRANTED - 3);
    assert_eq!(billing.view().unwrap().holds().unwrap().count(), 0);
}

#[tokio::test]
async fn a_post_beyond_the_hold_moves_nothing() {
    let (_dir, billing) = billing().await;
    let cap = allowance(PARENT, 10);
    let hold = billing.hold(spending(2, &[cap])).await.unwrap();
    post(hold, 3).await.unwrap_err();
    check(&billing, &[(cap, 8)], GRANTED - 2);
}

#[tokio::test]
async fn what_is_deducted_counts_and_counts_once() {
    let (_dir, billing) = billing().await;
    let cap = allowance(PARENT, 10);
    let id = Some(TransferId(0x0190_0000_0000_0000_0000_0000_0000_0abc));
    let allowances = [cap];
    for _again in 0..2 {
        let spending = spending(6, &allowances);
        billing.deduct(Spending { id, ..spending }).await.unwrap();
        check(&billing, &[(cap, 4)], GRANTED - 6);
    }
    assert_spent(billing.deduct(spending(5, &[cap])).await, 4, 5);
    billing.deduct(spending(4, &[cap])).await.unwrap();
    check(&billing, &[(cap, 0)], GRANTED - 10);
}

#[tokio::test]
async fn what_was_spent_stays_spent_and_what_was_held_is_freed_after_a_restart() {
    let (_dir, billing) = billing().await;
    let cap = allowance(PARENT, 10);
    pay(&billing, 4, &[cap]).await.unwrap();
    let id = TransferId(0x0190_0000_0000_0000_0000_0000_0000_0abc);
    let allowances = [cap];
    let held = Spending {
        id: Some(id),
        ..spending(6, &allowances)
    };
    let _hold = billing.hold(held).await.unwrap();
    let view = billing.view().unwrap();
    assert_eq!(view.holds().unwrap().count(), 2);
    // What a process that dies now leaves behind at most.
    let later = tempfile::tempdir().unwrap();
    view.copy_to(&later.path().join("ledger.redb")).unwrap();

    let billing = open(later.path());
    assert_eq!(billing.view().unwrap().holds().unwrap().count(), 0);
    assert_eq!(
        settled_in(&billing.view().unwrap(), id).unwrap(),
        Settled::Never
    );
    check(&billing, &[(cap, 6)], GRANTED - 4);
    assert_spent(pay(&billing, 7, &[cap]).await, 6, 7);
    pay(&billing, 6, &[cap]).await.unwrap();
    check(&billing, &[(cap, 0)], GRANTED - 10);
    drop(billing);

    let billing = open(later.path());
    check(&billing, &[(cap, 0)], GRANTED - 10);
    assert_spent(pay(&billing, 1, &[cap]).await, 0, 1);
}

#[tokio::test]
async fn the_least_is_what_can_be_spent() {
    let (_dir, billing) = billing().await;
    let (cap, inner) = (allowance(PARENT, 10), allowance(PARENT + 1, 1000));
    let of = |payer, allowances: &[Allowance]| {
        let found = billing.spendable_if_bounded(payer, allowances);
        found.unwrap()
    };
    let tokens = Amount::from_tokens;
    let (balance, capped) = (Spendable::Balance, Spendable::Allowance);
    assert_eq!(of(OPERATOR, &[]), None);
    assert_eq!(of(OPERATOR, &[inner]), Some(capped(tokens(1000))));
    assert_eq!(of(PAYER, &[]), Some(balance(tokens(GRANTED))));
    assert_eq!(of(PAYER, &[inner]), Some(balance(tokens(GRANTED))));
    assert_eq!(of(PAYER, &[cap, inner]), Some(capped(tokens(10))));
    assert_eq!(of(PAYER, &[inner, cap]), Some(capped(tokens(10))));
}

#[tokio::test]
async fn an_operator_without_limit_is_bound_by_an_allowance() {
    let (_dir, billing) = billing().await;
    let cap = [allowance(PARENT, 2)];
    let by_operator = |tokens| Spending {
        payer: OPERATOR,
        ..spending(tokens, &cap)
    };
    billing.deduct(by_operator(2)).await.unwrap();
    assert_spent(billing.deduct(by_operator(1)).await, 0, 1);
    check(&billing, &[(cap[0], 0)], GRANTED);
}

#[tokio::test]
async fn an_allowance_cannot_be_an_account_that_is_another() {
    let (_dir, billing) = billing().await;
    for id in [0, 1, ALLOWANCES.0, 6, 1023, PAYER.0] {
        let error = pay(&billing, 1, &[allowance(id, 10)]).await.unwrap_err();
        assert!(matches!(error, BillingError::Refused(_)), "{id}: {error}");
    }
    let cap = allowance(PARENT, 10);
    pay(&billing, 1, &[cap]).await.unwrap();
    let raised = pay(&billing, 1, &[allowance(PARENT, 11)]).await;
    assert!(matches!(raised, Err(BillingError::Refused(_))));
    check(&billing, &[(cap, 9)], GRANTED - 1);
}

#[test]
fn the_parts_of_payments_have_names_of_their_own_and_their_time() {
    let mut seen = std::collections::HashSet::new();
    let first = ulid::Ulid::generate().0;
    for whole in (0..100).map(|n| TransferId(first + n)) {
        assert!(seen.insert(whole));
        for part in super::allowance::part_ids(whole).take(4) {
            assert_eq!(part.0 >> 80, whole.0 >> 80);
            assert!(seen.insert(part), "{part:?}");
        }
    }
}
