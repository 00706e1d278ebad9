//! Random commands, repeated and out of order, beside a naive model.

use aither_ledger::{AccountId, Draw, Flags, Ledger, LedgerOptions, Operation, Time, Unit};
use proptest::prelude::*;

use crate::{disk::Disk, model::Model, script::*};

/// A unit, and how far the clock moves before it.
#[derive(Debug, Clone)]
struct Step {
    wait: u64,
    operations: Vec<Operation>,
}

fn account() -> impl Strategy<Value = u128> {
    // One that does not exist is among them.
    prop_oneof![8 => 1_u128..=6, 1 => Just(7_u128)]
}

fn operation() -> impl Strategy<Value = Operation> {
    let draw = prop_oneof![
        3 => Just(Draw::GrantedFirst),
        1 => Just(Draw::Granted),
        1 => Just(Draw::Funded),
    ];
    let any_movement = (1_u128..40, account(), account(), 0_u128..60, draw);
    let any_movement = any_movement
        .prop_map(|(id, debit, credit, amount, draw)| movement(id, debit, credit, amount, draw))
        .boxed();
    let shares = proptest::collection::vec((account(), 0_u128..30), 0..3);
    prop_oneof![
        1 => (1_u128..=6, any::<bool>()).prop_map(|(id, is_bounded)| {
            open(id, if is_bounded { bounded() } else { Flags::default() })
        }),
        3 => any_movement.clone().prop_map(Operation::Transfer),
        4 => (any_movement, 0_u64..30).prop_map(|(transfer, expires)| {
            Operation::Reserve(aither_ledger::Reserve { transfer, expires: Time(expires) })
        }),
        4 => (1_u128..40, 0_u128..60, shares)
            .prop_map(|(hold, amount, shares)| post(hold, amount, &shares)),
        2 => (1_u128..40).prop_map(void),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0_u64..3, proptest::collection::vec(operation(), 1..4));
    let step = step.prop_map(|(wait, operations)| Step { wait, operations });
    // Earlier steps come again, as from a client that did not hear the answer.
    (proptest::collection::vec(step, 1..40), any::<u64>()).prop_map(|(mut steps, seed)| {
        let mut random = crate::disk::Random(seed);
        for _ in 0..steps.len() / 3 {
            let from = random.below(steps.len() as u64) as usize;
            let to = random.below(steps.len() as u64) as usize;
            steps.insert(to, steps[from].clone());
        }
        steps
    })
}

fn set_up() -> Vec<Operation> {
    let mut operations: Vec<Operation> = Vec::new();
    operations.extend([1, 2].map(|id| open(id, Flags::default())));
    operations.extend([3, 4, 5].map(|id| open(id, bounded())));
    operations.extend([
        grant(901, 3, 70),
        grant(902, 4, 20),
        fund(903, 3, 40),
        fund(904, 5, 90),
    ]);
    operations
}

fn compare(ledger: &Ledger, model: &Model) {
    let view = ledger.view().unwrap();
    view.audit().unwrap();
    for (id, expected) in &model.accounts {
        let account = view.account(*id).unwrap().unwrap();
        let sum =
            |side: aither_ledger::Sum| (side.total.micros() as i128, side.granted.micros() as i128);
        let (credits, debits) = (sum(account.credits.posted), sum(account.debits.posted));
        let held = sum(account.debits.pending);
        assert_eq!(
            (credits.0 - debits.0, credits.1 - debits.1, held.0, held.1),
            (
                expected.total,
                expected.granted,
                expected.held,
                expected.granted_held
            ),
            "{id}"
        );
    }
    assert_eq!(view.accounts().unwrap().count(), model.accounts.len());
}

fn run(steps: &[Step]) {
    let ledger = Ledger::open_backend(Disk::default(), LedgerOptions::default()).unwrap();
    let mut model = Model::default();
    let mut now = 1;
    let first = Step {
        wait: 0,
        operations: set_up(),
    };
    for step in std::iter::once(&first).chain(steps) {
        now += step.wait;
        let unit = Unit {
            operations: step.operations.clone(),
            ..Unit::default()
        };
        let expected = model.apply(&unit, Time(now));
        let found = ledger.apply(unit, Time(now)).unwrap();
        let found = found
            .map(|_| ())
            .map_err(|refusal| (refusal.at, refusal.reason.code()));
        // What can be told without the accounts is told before anything is tried.
        assert_eq!(
            found.is_ok(),
            expected.is_ok(),
            "{step:?}: {found:?}, expected {expected:?}"
        );
        if step.operations.len() == 1 {
            assert_eq!(found, expected, "{step:?}");
        }
        ledger.expire(Time(now)).unwrap();
        model.expire(now);
    }
    compare(&ledger, &model);
    assert!(
        ledger
            .view()
            .unwrap()
            .account(AccountId(7))
            .unwrap()
            .is_none()
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn random_commands_do_what_a_naive_model_does(steps in steps()) {
        run(&steps);
    }
}
