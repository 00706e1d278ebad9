//! What the ledger should do, written down without any care for speed or disks.

use std::collections::BTreeMap;

use aither_ledger::{
    AccountId, Draw, Flags, Operation, Post, Reason, Time, Transfer, TransferId, Unit,
};

/// Accounts by name, in micro-tokens.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Model {
    pub(crate) accounts: BTreeMap<AccountId, Balance>,
    pub(crate) transfers: BTreeMap<TransferId, Kept>,
    now: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Balance {
    pub(crate) flags: Flags,
    /// Posted credits without posted debits.
    pub(crate) total: i128,
    pub(crate) granted: i128,
    pub(crate) held: i128,
    pub(crate) granted_held: i128,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Kept {
    asked: Operation,
    granted: i128,
    pub(crate) state: State,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum State {
    Plain,
    Open(u64),
    Posted(Post),
    Voided,
    Expired,
}

impl Model {
    pub(crate) fn expire(&mut self, now: u64) {
        self.now = self.now.max(now);
        let due: Vec<TransferId> = self
            .transfers
            .iter()
            .filter(|(_, kept)| matches!(kept.state, State::Open(at) if at <= self.now))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            self.free(id);
            self.transfers.get_mut(&id).unwrap().state = State::Expired;
        }
    }

    /// Does all of a unit or nothing.
    pub(crate) fn apply(&mut self, unit: &Unit, now: Time) -> Result<(), (usize, &'static str)> {
        self.expire(now.0);
        let before = self.clone();
        for (at, operation) in unit.operations.iter().enumerate() {
            if let Err(code) = self.operate(operation) {
                *self = before;
                return Err((at, code));
            }
        }
        Ok(())
    }

    fn operate(&mut self, operation: &Operation) -> Result<(), &'static str> {
        match operation {
            Operation::Open(open) => match self.accounts.get(&open.id) {
                Some(found) if found.flags == open.flags => Ok(()),
                Some(_) => Err(Reason::IdReusedWithOtherContent.code()),
                None => {
                    let balance = Balance {
                        flags: open.flags,
                        ..Balance::default()
                    };
                    self.accounts.insert(open.id, balance);
                    Ok(())
                }
            },
            Operation::Transfer(transfer) => self.transfer(operation, transfer, None),
            Operation::Reserve(reserve) => {
                self.transfer(operation, &reserve.transfer, Some(reserve.expires.0))
            }
            Operation::Post(post) => self.post(post),
            Operation::Void(id) => match self.transfers.get(id).map(|kept| &kept.state) {
                None | Some(State::Plain) => Err("pending_unknown"),
                Some(State::Voided) => Ok(()),
                Some(State::Posted(_)) => Err("pending_already_posted"),
                Some(State::Expired) => Err("pending_expired"),
                Some(State::Open(_)) => {
                    self.free(*id);
                    self.transfers.get_mut(id).unwrap().state = State::Voided;
                    Ok(())
                }
            },
        }
    }

    fn transfer(
        &mut self,
        operation: &Operation,
        asked: &Transfer,
        expires: Option<u64>,
    ) -> Result<(), &'static str> {
        let amount = asked.amount.micros() as i128;
        if amount == 0 {
            return Err("amount_zero");
        }
        if asked.debit == asked.credit {
            return Err("accounts_are_same");
        }
        if let Some(kept) = self.transfers.get(&asked.id) {
            return if kept.asked == *operation {
                Ok(())
            } else {
                Err("id_reused_with_other_content")
            };
        }
        let known = |id| self.accounts.get(id).copied();
        let (Some(payer), Some(_)) = (known(&asked.debit), known(&asked.credit)) else {
            return Err("account_unknown");
        };
        if expires.is_some_and(|at| at <= self.now) {
            return Err("expiry_passed");
        }
        let spendable = (payer.total - payer.held).max(0);
        let given = (payer.granted - payer.granted_held).max(0).min(spendable);
        let available = match asked.draw {
            Draw::GrantedFirst => spendable,
            Draw::Granted => given,
            Draw::Funded => spendable - given,
        };
        if payer.flags.debits_within_credits && available < amount {
            return Err("exceeds_credits");
        }
        let granted = match asked.draw {
            Draw::GrantedFirst => given.min(amount),
            Draw::Granted => amount,
            Draw::Funded => 0,
        };
        let state = match expires {
            None => {
                self.pay(asked.debit, -amount, -granted);
                self.pay(asked.credit, amount, granted);
                State::Plain
            }
            Some(at) => {
                let payer = self.accounts.get_mut(&asked.debit).unwrap();
                payer.held += amount;
                payer.granted_held += granted;
                State::Open(at)
            }
        };
        let kept = Kept {
            asked: operation.clone(),
            granted,
            state,
        };
        self.transfers.insert(asked.id, kept);
        Ok(())
    }

    fn post(&mut self, asked: &Post) -> Result<(), &'static str> {
        let amount = asked.amount.micros() as i128;
        if amount == 0 {
            return Err("amount_zero");
        }
        let shared: i128 = asked
            .shares
            .iter()
            .map(|share| share.amount.micros() as i128)
            .sum();
        if shared > amount {
            return Err("shares_exceed_amount");
        }
        let Some(kept) = self.transfers.get(&asked.hold).cloned() else {
            return Err("pending_unknown");
        };
        match &kept.state {
            State::Plain => return Err("pending_unknown"),
            State::Posted(post) if post == asked => return Ok(()),
            State::Posted(_) => return Err("pending_already_posted"),
            State::Voided => return Err("pending_already_voided"),
            State::Expired => return Err("pending_expired"),
            State::Open(_) => {}
        }
        let Operation::Reserve(reserve) = &kept.asked else {
            unreachable!("only holds are open");
        };
        if amount > reserve.transfer.amount.micros() as i128 {
            return Err("exceeds_pending");
        }
        if asked
            .shares
            .iter()
            .any(|share| !self.accounts.contains_key(&share.account))
        {
            return Err("account_unknown");
        }
        self.free(asked.hold);
        let granted = kept.granted.min(amount);
        self.pay(reserve.transfer.debit, -amount, -granted);
        let (mut left, mut given_left) = (amount, granted);
        for share in &asked.shares {
            let part = share.amount.micros() as i128;
            let rounded = (granted * part + amount - 1) / amount;
            let given = rounded
                .min(part)
                .min(given_left)
                .max(given_left - (left - part));
            self.pay(share.account, part, given);
            left -= part;
            given_left -= given;
        }
        self.pay(reserve.transfer.credit, left, given_left);
        self.transfers.get_mut(&asked.hold).unwrap().state = State::Posted(asked.clone());
        Ok(())
    }

    fn free(&mut self, id: TransferId) {
        let kept = &self.transfers[&id];
        let Operation::Reserve(reserve) = &kept.asked else {
            unreachable!("only holds are freed");
        };
        let payer = self.accounts.get_mut(&reserve.transfer.debit).unwrap();
        payer.held -= reserve.transfer.amount.micros() as i128;
        payer.granted_held -= kept.granted;
    }

    fn pay(&mut self, id: AccountId, total: i128, granted: i128) {
        let account = self.accounts.get_mut(&id).unwrap();
        account.total += total;
        account.granted += granted;
    }
}
