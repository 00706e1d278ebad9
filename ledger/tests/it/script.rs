//! Short ways to write operations, and a ledger that is audited after each.

use aither_ledger::{
    AccountId, AccountKind, Draw, Flags, Ledger, LedgerOptions, OpenAccount, Operation, OwnerId,
    Post, Reserve, Share, Time, Transfer, TransferId, Unit,
};
use aither_protocol::Amount;

use crate::disk::Disk;

/// Where granted tokens come from.
pub(crate) const ISSUER: u128 = 1;
/// Where bought ones come from.
pub(crate) const FUNDING: u128 = 2;
/// What the node earns.
pub(crate) const NODE: u128 = 3;

pub(crate) fn micros(value: u128) -> Amount {
    Amount::from_micros(value)
}

pub(crate) fn open(id: u128, flags: Flags) -> Operation {
    Operation::Open(OpenAccount {
        id: AccountId(id),
        kind: AccountKind::Customer,
        owner: OwnerId(id),
        flags,
    })
}

pub(crate) fn bounded() -> Flags {
    Flags {
        debits_within_credits: true,
        ..Flags::default()
    }
}

pub(crate) fn movement(id: u128, debit: u128, credit: u128, amount: u128, draw: Draw) -> Transfer {
    Transfer {
        id: TransferId(id),
        debit: AccountId(debit),
        credit: AccountId(credit),
        amount: micros(amount),
        draw,
        memo: String::new(),
    }
}

pub(crate) fn transfer(id: u128, debit: u128, credit: u128, amount: u128) -> Operation {
    Operation::Transfer(movement(id, debit, credit, amount, Draw::GrantedFirst))
}

pub(crate) fn grant(id: u128, to: u128, amount: u128) -> Operation {
    Operation::Transfer(movement(id, ISSUER, to, amount, Draw::Granted))
}

pub(crate) fn fund(id: u128, to: u128, amount: u128) -> Operation {
    Operation::Transfer(movement(id, FUNDING, to, amount, Draw::Funded))
}

pub(crate) fn reserve(
    id: u128,
    debit: u128,
    credit: u128,
    amount: u128,
    expires: u64,
) -> Operation {
    Operation::Reserve(Reserve {
        transfer: movement(id, debit, credit, amount, Draw::GrantedFirst),
        expires: Time(expires),
    })
}

pub(crate) fn post(hold: u128, amount: u128, shares: &[(u128, u128)]) -> Operation {
    let shares = shares.iter().map(|(account, amount)| Share {
        account: AccountId(*account),
        amount: micros(*amount),
    });
    Operation::Post(Post {
        hold: TransferId(hold),
        amount: micros(amount),
        shares: shares.collect(),
    })
}

pub(crate) fn void(hold: u128) -> Operation {
    Operation::Void(TransferId(hold))
}

/// A ledger in memory with the node's own accounts.
pub(crate) struct Fixture {
    pub(crate) ledger: Ledger,
    pub(crate) now: u64,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let ledger = Ledger::open_backend(Disk::default(), LedgerOptions::default()).unwrap();
        let mut fixture = Self { ledger, now: 1 };
        for id in [ISSUER, FUNDING, NODE] {
            fixture.done(open(id, Flags::default()));
        }
        fixture
    }

    /// Opens an account that cannot be overdrawn, with so many granted and bought micro-tokens.
    pub(crate) fn customer(&mut self, id: u128, granted: u128, funded: u128) {
        self.done(open(id, bounded()));
        if granted > 0 {
            self.done(grant(1_000_000 + id, id, granted));
        }
        if funded > 0 {
            self.done(fund(2_000_000 + id, id, funded));
        }
    }

    /// Does operations as one unit and says "done", "again", or which was refused and why.
    pub(crate) fn unit(&mut self, operations: Vec<Operation>) -> String {
        let unit = Unit {
            operations,
            ..Unit::default()
        };
        let verdict = self.ledger.apply(unit, Time(self.now)).unwrap();
        self.ledger.view().unwrap().audit().unwrap();
        match verdict {
            Ok(receipts) if receipts.iter().all(|receipt| receipt.is_replay) => "again".into(),
            Ok(_) => "done".into(),
            Err(refusal) if refusal.at == 0 => refusal.reason.code().into(),
            Err(refusal) => format!("{}: {}", refusal.at, refusal.reason.code()),
        }
    }

    pub(crate) fn one(&mut self, operation: Operation) -> String {
        self.unit(vec![operation])
    }

    #[track_caller]
    pub(crate) fn done(&mut self, operation: Operation) {
        assert_eq!(self.one(operation), "done");
    }

    /// Spendable micro-tokens, the granted part of them, and what is held.
    pub(crate) fn balance(&self, id: u128) -> (u128, u128, u128) {
        let account = self.ledger.view().unwrap().account(AccountId(id));
        let account = account.unwrap().unwrap();
        let spendable = account.spendable();
        (
            spendable.total.micros(),
            spendable.granted.micros(),
            account.debits.pending.total.micros(),
        )
    }
}
