//! From an operation to the entry that it becomes, or the reason why it becomes none.

use aither_protocol::Amount;

use super::{Batch, End, HoldKey, Rows, Stop, TransferState};
use crate::{
    Receipt,
    account::{Account, Sum},
    entry::{EntryKind, Leg, Movement},
    operation::{Draw, OpenAccount, Operation, Post, Share, Transfer, TransferId},
    refusal::Reason,
    time::Time,
};

/// What an operation comes to.
enum Decision {
    Write(EntryKind),
    /// It was done before, by this entry.
    Replay(u64),
}

impl<R: Rows> Batch<'_, R> {
    pub(super) fn operate(&mut self, operation: &Operation) -> Result<Receipt, Stop> {
        let decision = match operation {
            Operation::Open(open) => self.open(open),
            Operation::Transfer(transfer) => self.transfer(transfer, None),
            Operation::Reserve(reserve) => self.transfer(&reserve.transfer, Some(reserve.expires)),
            Operation::Post(post) => self.post(post),
            Operation::Void(hold) => self.void(*hold),
        };
        let (sequence, is_replay) = match decision? {
            Decision::Write(kind) => (self.write(kind)?, false),
            Decision::Replay(sequence) => (sequence, true),
        };
        Ok(Receipt {
            sequence,
            is_replay,
        })
    }

    fn open(&mut self, open: &OpenAccount) -> Result<Decision, Stop> {
        let Some(account) = self.account(open.id)? else {
            return Ok(Decision::Write(EntryKind::Opened {
                account: open.id,
                kind: open.kind,
                owner: open.owner,
                flags: open.flags,
            }));
        };
        let found = (account.kind, account.owner, account.flags);
        if found != (open.kind, open.owner, open.flags) {
            return Err(Reason::IdReusedWithOtherContent.into());
        }
        Ok(Decision::Replay(account.first_entry))
    }

    /// A transfer, or with an expiry a hold.
    fn transfer(&mut self, asked: &Transfer, expires: Option<Time>) -> Result<Decision, Stop> {
        if let Some(state) = self.transfer_state(asked.id)? {
            let entry = self.entry(state.begun)?;
            if !is_same(&entry.kind, asked, expires) {
                return Err(Reason::IdReusedWithOtherContent.into());
            }
            return Ok(Decision::Replay(state.begun));
        }
        let debit = self.known(asked.debit)?;
        self.known(asked.credit)?;
        if expires.is_some_and(|expires| expires <= self.now) {
            return Err(Reason::ExpiryPassed.into());
        }
        let movement = Movement {
            id: asked.id,
            debit: asked.debit,
            credit: asked.credit,
            amount: drawn(&debit, asked.amount, asked.draw)?,
        };
        let (draw, memo) = (asked.draw, asked.memo.clone());
        Ok(Decision::Write(match expires {
            None => EntryKind::Transferred {
                movement,
                draw,
                memo,
            },
            Some(expires) => EntryKind::Reserved {
                movement,
                draw,
                memo,
                expires,
            },
        }))
    }

    fn post(&mut self, asked: &Post) -> Result<Decision, Stop> {
        let state = self.hold_state(asked.hold)?;
        if let End::Posted(sequence) = state.end {
            let entry = self.entry(sequence)?;
            return if is_same_post(&entry.kind, asked) {
                Ok(Decision::Replay(sequence))
            } else {
                Err(Reason::PendingAlreadyPosted.into())
            };
        }
        let held = self.open_hold(asked.hold, state)?;
        if asked.amount > held.amount.total {
            let held = held.amount.total;
            return Err(Reason::ExceedsPending { held }.into());
        }
        for share in &asked.shares {
            self.known(share.account)?;
        }
        let amount = Sum {
            total: asked.amount,
            // Of what was held, the granted part is spent first.
            granted: held.amount.granted.min(asked.amount),
        };
        let shares = split(amount, &asked.shares).ok_or(Reason::Overflow)?;
        Ok(Decision::Write(EntryKind::Posted {
            held,
            amount,
            shares,
        }))
    }

    fn void(&mut self, hold: TransferId) -> Result<Decision, Stop> {
        let state = self.hold_state(hold)?;
        if let End::Voided(sequence) = state.end {
            return Ok(Decision::Replay(sequence));
        }
        let held = self.open_hold(hold, state)?;
        Ok(Decision::Write(EntryKind::Voided { held }))
    }

    fn hold_state(&mut self, hold: TransferId) -> Result<TransferState, Stop> {
        let state = self.transfer_state(hold)?;
        let state = state.filter(|state| state.end != End::Plain);
        Ok(state.ok_or(Reason::PendingUnknown)?)
    }

    /// Returns what is held, if the hold has not ended.
    fn open_hold(&mut self, id: TransferId, state: TransferState) -> Result<Movement, Stop> {
        let expires = match state.end {
            End::Open { expires } => expires,
            End::Posted(_) => return Err(Reason::PendingAlreadyPosted.into()),
            End::Voided(_) => return Err(Reason::PendingAlreadyVoided.into()),
            End::Expired(_) => return Err(Reason::PendingExpired.into()),
            End::Plain => return Err(Reason::PendingUnknown.into()),
        };
        if expires <= self.now {
            return Err(Reason::PendingExpired.into());
        }
        let held = self.hold(HoldKey { expires, id })?;
        held.ok_or_else(|| {
            let what = format!("the hold {:032x} is open and not kept", id.0);
            crate::LedgerError::corrupt(what).into()
        })
    }
}

/// Returns which tokens a debit takes, if the account has them.
fn drawn(account: &Account, amount: Amount, draw: Draw) -> Result<Sum, Reason> {
    let spendable = account.spendable();
    let available = match draw {
        Draw::GrantedFirst => spendable.total,
        Draw::Granted => spendable.granted,
        Draw::Funded => spendable.total.saturating_sub(spendable.granted),
    };
    if account.flags.debits_within_credits && available < amount {
        return Err(Reason::ExceedsCredits {
            available,
            required: amount,
        });
    }
    let granted = match draw {
        Draw::GrantedFirst => spendable.granted.min(amount),
        Draw::Granted => amount,
        Draw::Funded => Amount::ZERO,
    };
    Ok(Sum {
        total: amount,
        granted,
    })
}

/// Shares a posted amount out. The granted part goes along in proportion, of each share rounded up
/// as long as there is any, so that no order of payments turns granted tokens into bought ones.
fn split(amount: Sum, shares: &[Share]) -> Option<Vec<Leg>> {
    let mut left = amount;
    let mut legs = Vec::with_capacity(shares.len());
    for share in shares {
        // Both are below 2^53: see `AmountTooLarge`.
        let product = amount.granted.micros().checked_mul(share.amount.micros())?;
        let quotient = product.checked_div(amount.total.micros())?;
        let is_exact = product.checked_rem(amount.total.micros())? == 0;
        let rounded = quotient.checked_add(u128::from(!is_exact))?;
        let granted = Amount::from_micros(rounded)
            .min(share.amount)
            .min(left.granted);
        // What the receivers after it could not take as granted, it must.
        let rest = left.total.checked_sub(share.amount)?;
        let granted = granted.max(left.granted.saturating_sub(rest));
        let sum = Sum {
            total: share.amount,
            granted,
        };
        left = left.checked_sub(sum)?;
        legs.push(Leg {
            account: share.account,
            amount: sum,
        });
    }
    Some(legs)
}

fn is_same(kind: &EntryKind, asked: &Transfer, asked_expires: Option<Time>) -> bool {
    let (movement, draw, memo, expires) = match kind {
        EntryKind::Transferred {
            movement,
            draw,
            memo,
        } => (movement, draw, memo, None),
        EntryKind::Reserved {
            movement,
            draw,
            memo,
            expires,
        } => (movement, draw, memo, Some(*expires)),
        _ => return false,
    };
    (movement.debit, movement.credit) == (asked.debit, asked.credit)
        && movement.amount.total == asked.amount
        && (*draw, expires) == (asked.draw, asked_expires)
        && *memo == asked.memo
}

fn is_same_post(kind: &EntryKind, asked: &Post) -> bool {
    let EntryKind::Posted { amount, shares, .. } = kind else {
        return false;
    };
    let found = shares.iter().map(|leg| (leg.account, leg.amount.total));
    let wanted = asked.shares.iter();
    let wanted = wanted.map(|share| (share.account, share.amount));
    amount.total == asked.amount && found.eq(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::AccountId;

    fn micros(value: u128) -> Amount {
        Amount::from_micros(value)
    }

    #[test]
    fn granted_tokens_stay_granted_whatever_the_split() {
        for total in 1..=24_u128 {
            for granted in 0..=total {
                for first in 0..=total {
                    let amount = Sum {
                        total: micros(total),
                        granted: micros(granted),
                    };
                    let shares = [(1, first), (2, (total - first) / 2)];
                    let shares = shares.map(|(id, share)| Share {
                        account: AccountId(id),
                        amount: micros(share),
                    });
                    let legs = split(amount, &shares).unwrap();
                    let mut rest = amount;
                    for leg in &legs {
                        assert!(
                            leg.amount.granted <= leg.amount.total,
                            "{amount:?} {legs:?}"
                        );
                        rest = rest.checked_sub(leg.amount).unwrap();
                    }
                    assert!(rest.granted <= rest.total, "{amount:?} {legs:?}");
                    let exact = granted * first;
                    assert!(legs[0].amount.granted.micros() * total >= exact);
                }
            }
        }
    }
}
