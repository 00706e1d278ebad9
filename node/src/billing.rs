//! What requests cost, and that they are paid: the node's side of the ledger.
//!
//! A paid request goes through three steps: an estimate is held on the payer's account, the work
//! is done, and what it came to is posted, the rest being free again. [`Hold`] sees to the end of
//! it: one that is dropped is voided, one that a crash leaves behind is voided at the next start.
//! Of every account of this node there is one in the ledger, with the same number; [`OPERATOR`]
//! and the node's own accounts have numbers that no account can have. Whoever pays with a
//! capability token is also bound by its allowances, see `allowance.rs`.

mod allowance;
mod charge;
mod hold;
mod price;
mod price_book;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aither_ledger::{
    AccountId, AccountKind, Draw, Flags, Ledger, LedgerError, LedgerOptions, Note, OpenAccount,
    Operation, Outcome, OwnerId, Reason, Refusal, Share, Time, Transfer, TransferId, Unit, Verdict,
    View,
};
use aither_protocol::{Allowance, Amount, ErrorCode};
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

pub use self::{
    allowance::{Spendable, Spending},
    charge::{Charge, Estimate, Funds, PaidOperation, Payment, estimate, usage_of},
    hold::{Hold, Settlement},
    price::{ModelPrice, Need},
    price_book::{PriceBook, PriceBookError, PriceVersion},
};
use crate::{config::BillingConfig, services::AccountHook};

/// Who holds the admin key; pays like everybody, without a lower bound.
pub const OPERATOR: AccountId = AccountId(1);
/// Where granted tokens come from.
pub const ISSUANCE: AccountId = AccountId(2);
/// Where bought tokens come from.
pub const FUNDING: AccountId = AccountId(3);
/// What the node earns.
pub const REVENUE: AccountId = AccountId(4);
/// Where allowances come from, and where what is spent of them goes back to.
pub const ALLOWANCES: AccountId = AccountId(5);

/// After this a hold is void by itself. Longer than any answer takes: each of its steps is waited
/// for no longer than `http.request_timeout`, and there are as many as the context has positions.
const HOLD_TTL: Duration = Duration::from_secs(3600);
/// A ledger up to this size is verified page by page at each start; `check` does it always.
const VERIFIED_BYTES_MAX: u64 = 256 << 20;
/// Holds of an earlier process that are voided before they are waited for.
const VOIDED_TOGETHER: usize = 1024;
/// Tells the transfer that grants an account its welcome from the account itself.
const WELCOME: u128 = 1;

/// Why nothing is charged, and the request refused or failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BillingError {
    /// The payer has too little.
    #[error(
        "the request needs {required} tokens and {balance} are there; top the account up, or ask \
         for fewer tokens"
    )]
    Insufficient {
        /// What there is to spend.
        balance: Amount,
        /// What is needed.
        required: Amount,
    },
    /// An allowance of the capability token leaves too little.
    #[error(
        "the request needs {required} tokens and {left} are left of the token's max_spend; ask \
         for fewer tokens, or use a capability token with a higher max_spend"
    )]
    AllowanceSpent {
        /// What it leaves.
        left: Amount,
        /// What is needed.
        required: Amount,
    },
    /// The request costs more than its sender allows.
    #[error("the request costs at least {required} tokens, x-aither-max-cost allows {max_cost}")]
    AboveMaxCost {
        /// What it would cost at least.
        required: Amount,
        /// What is allowed.
        max_cost: Amount,
    },
    /// There is no such account.
    #[error("there is no account {0}")]
    AccountUnknown(String),
    /// The ledger refused what it should not: a defect, or an id that was used before.
    #[error("the ledger refused: {0}")]
    Refused(Reason),
    /// The ledger cannot answer.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// The node's ledger and prices; clones share them.
#[derive(Debug, Clone)]
pub struct Billing {
    shared: Arc<Shared>,
}

struct Shared {
    ledger: Ledger,
    prices: PriceBook,
    welcome_grant: Amount,
    last_id: Mutex<u128>,
    /// Apart from the rest, since the ledger's thread has it and must not be who ends the ledger.
    listener: Arc<OnceLock<Listener>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Billing").finish_non_exhaustive()
    }
}

/// A payment that was made, for whoever listens.
#[derive(Debug, Clone)]
pub struct Moved {
    /// Its name.
    pub id: TransferId,
    /// Who has paid.
    pub account: AccountId,
    /// How much.
    pub amount: Amount,
    /// What for: the route, or words of the payer's.
    pub route: String,
    /// The agent that has asked; empty where none has.
    pub agent: String,
    /// Who has earned parts of it.
    pub shares: Vec<Share>,
    /// Whether it was bought: nobody has paid with it, and the route is the purchase's reference.
    pub is_top_up: bool,
}

/// Is told of payments once they are durable, on the ledger's thread: it must not wait.
type Listener = Box<dyn Fn(&Moved) + Send + Sync>;

/// Returns what becomes of the note on a hold that an earlier process has left, if it changes.
pub type EndLeft = fn(&[u8]) -> Option<Vec<u8>>;

/// Whether what has an id was charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It is not, and will not be.
    Never,
    /// Something is held for it.
    Open,
    /// This was charged.
    Charged(Amount),
}

impl BillingError {
    /// Returns the code for the outside.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Insufficient { .. } | Self::AllowanceSpent { .. } | Self::AboveMaxCost { .. } => {
                ErrorCode::InsufficientTokens
            }
            Self::AccountUnknown(_) => ErrorCode::NotFound,
            Self::Refused(Reason::IdReusedWithOtherContent) => ErrorCode::Conflict,
            Self::Refused(_) => ErrorCode::Internal,
            Self::Ledger(LedgerError::Busy) => ErrorCode::Overloaded,
            Self::Ledger(LedgerError::Storage(_) | LedgerError::Stopped { .. }) => {
                ErrorCode::NotReady
            }
            Self::Ledger(_) => ErrorCode::Internal,
        }
    }

    /// Whether the store is damaged, or of another version.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Ledger(
                LedgerError::Corrupt { .. }
                    | LedgerError::NewerSchema { .. }
                    | LedgerError::Open { .. }
            )
        )
    }
}

impl Billing {
    /// Opens the ledger's file, makes the node's own accounts, and voids what a crash left held.
    /// Blocks.
    ///
    /// # Errors
    /// The ledger cannot be opened, or refuses its own accounts.
    pub fn open(
        path: &Path,
        config: &BillingConfig,
        prices: PriceBook,
        end_left: EndLeft,
    ) -> Result<Self, BillingError> {
        // Damage in a small file costs little to find before it is met.
        let len = path.metadata().map_or(0, |metadata| metadata.len());
        let options = LedgerOptions {
            verify_pages: len <= VERIFIED_BYTES_MAX,
            ..LedgerOptions::default()
        };
        let ledger = Ledger::open(path, options)?;
        let billing = Self {
            shared: Arc::new(Shared {
                ledger,
                prices,
                welcome_grant: config.welcome_grant,
                last_id: Mutex::new(0),
                listener: Arc::default(),
            }),
        };
        let own = [
            (OPERATOR, AccountKind::Operator),
            (ISSUANCE, AccountKind::Issuance),
            (FUNDING, AccountKind::Funding),
            (REVENUE, AccountKind::Revenue),
            (ALLOWANCES, AccountKind::Allowance),
        ];
        let own = own.map(|(id, kind)| open(id, kind, Flags::default()));
        // First: whatever is written has holds expire whose time is over, and their notes with
        // them.
        billing.void_left_holds(end_left)?;
        billing.do_now(own.into())?;
        Ok(billing)
    }

    /// Has payments told to a listener. The first one stays.
    pub fn listen(&self, listener: impl Fn(&Moved) + Send + Sync + 'static) {
        if self.shared.listener.set(Box::new(listener)).is_err() {
            tracing::error!("payments have a listener already");
        }
    }

    /// Returns the prices.
    pub fn prices(&self) -> &PriceBook {
        &self.shared.prices
    }

    /// Returns the ledger as it is now.
    ///
    /// # Errors
    /// The store failed.
    pub fn view(&self) -> Result<View, BillingError> {
        Ok(self.shared.ledger.view()?)
    }

    /// Whether anything can be charged.
    ///
    /// # Errors
    /// The ledger has stopped; the error says why.
    pub fn check_writable(&self) -> Result<(), BillingError> {
        Ok(self.shared.ledger.check_writable()?)
    }

    /// Returns what an account can spend.
    ///
    /// # Errors
    /// There is no such account, or the store failed.
    pub fn spendable(&self, account: AccountId) -> Result<Amount, BillingError> {
        let found = self.view()?.account(account)?;
        let found = found.ok_or_else(|| BillingError::AccountUnknown(account.to_string()))?;
        Ok(found.spendable().total)
    }

    /// Returns what can be spent from an account with allowances, unless neither bounds it.
    ///
    /// # Errors
    /// There is no such account, or the store failed.
    pub fn spendable_if_bounded(
        &self,
        account: AccountId,
        allowances: &[Allowance],
    ) -> Result<Option<Spendable>, BillingError> {
        let view = self.view()?;
        let found = view.account(account)?;
        let found = found.ok_or_else(|| BillingError::AccountUnknown(account.to_string()))?;
        let is_bounded = found.flags.debits_within_credits;
        let balance = is_bounded.then(|| Spendable::Balance(found.spendable().total));
        let left = allowance::least_left(&view, allowances)?.map(Spendable::Allowance);
        Ok(balance.into_iter().chain(left).min_by_key(|s| s.amount()))
    }

    /// Returns the least that any of the allowances leaves, `None` where there are none.
    ///
    /// # Errors
    /// The store failed.
    pub fn allowances_left(
        &self,
        allowances: &[Allowance],
    ) -> Result<Option<Amount>, BillingError> {
        allowance::least_left(&self.view()?, allowances)
    }

    /// Opens an account and grants it its welcome. May be done again: it is granted once.
    ///
    /// # Errors
    /// The ledger cannot answer.
    pub async fn welcome(&self, account: AccountId) -> Result<(), BillingError> {
        let flags = Flags {
            debits_within_credits: true,
            ..Flags::default()
        };
        let mut operations = vec![open(account, AccountKind::Customer, flags)];
        if !self.shared.welcome_grant.is_zero() {
            operations.push(Operation::Transfer(Transfer {
                id: TransferId(account.0 ^ WELCOME),
                debit: ISSUANCE,
                credit: account,
                amount: self.shared.welcome_grant,
                draw: Draw::Granted,
                memo: "welcome".to_owned(),
            }));
        }
        match self.apply(operations).await? {
            Ok(_) => Ok(()),
            // The grant was configured otherwise when this account was made.
            Err(Refusal {
                reason: Reason::IdReusedWithOtherContent,
                ..
            }) => Ok(()),
            Err(refusal) => Err(refused(refusal)),
        }
    }

    /// Pays the node for something that is done already.
    ///
    /// # Errors
    /// The payer has or an allowance leaves too little, or the ledger cannot answer.
    pub async fn deduct(&self, spending: Spending<'_>) -> Result<(), BillingError> {
        spending.check()?;
        let id = spending.id.unwrap_or_else(|| self.next_id());
        let operations = spending.operations(id, Operation::Transfer);
        match self.apply(operations).await? {
            // What was done before was told before.
            Ok(receipts) if receipts.iter().all(|receipt| receipt.is_replay) => Ok(()),
            Ok(_) => {
                moved_by(
                    &self.shared.listener,
                    &Moved {
                        id,
                        account: spending.payer,
                        amount: spending.amount,
                        route: spending.memo.to_owned(),
                        agent: String::new(),
                        shares: Vec::new(),
                        is_top_up: false,
                    },
                );
                Ok(())
            }
            Err(refusal) => Err(spending.refused(refusal)),
        }
    }

    /// Adds bought tokens to an account.
    ///
    /// # Errors
    /// There is no such account, or the ledger cannot answer.
    pub async fn top_up(
        &self,
        account: AccountId,
        amount: Amount,
        memo: String,
        id: Option<TransferId>,
    ) -> Result<(), BillingError> {
        let id = id.unwrap_or_else(|| self.next_id());
        let moved = Moved {
            id,
            account,
            amount,
            route: memo.clone(),
            agent: String::new(),
            shares: Vec::new(),
            is_top_up: true,
        };
        let transfer = Transfer {
            id,
            debit: FUNDING,
            credit: account,
            amount,
            draw: Draw::Funded,
            memo,
        };
        match self.apply(vec![Operation::Transfer(transfer)]).await? {
            // What was done before was told before.
            Ok(receipts) if receipts.iter().all(|receipt| receipt.is_replay) => Ok(()),
            Ok(_) => {
                moved_by(&self.shared.listener, &moved);
                Ok(())
            }
            Err(refusal) => Err(refused(refusal)),
        }
    }

    /// Returns what was charged under an id, and waits until what is under way has ended.
    ///
    /// # Errors
    /// The ledger cannot answer.
    pub async fn settled(&self, id: TransferId) -> Result<Settled, BillingError> {
        let mut settled = settled_in(&self.view()?, id)?;
        if settled == Settled::Open {
            // What ends it may be queued: this waits for the writer, and changes nothing.
            self.apply(vec![open_operator()]).await?.map_err(refused)?;
            settled = settled_in(&self.view()?, id)?;
        }
        Ok(settled)
    }

    /// Has holds end whose time is over.
    pub fn expire_holds(&self) {
        if let Err(error) = self.shared.ledger.expire(now()) {
            // Whoever spends next has them expire too.
            tracing::debug!(%error, "holds do not expire now");
        }
    }

    /// Keeps a note without any payment, and waits until that is durable.
    ///
    /// # Errors
    /// The ledger cannot answer.
    pub async fn keep(&self, note: Note) -> Result<(), BillingError> {
        let unit = Unit {
            note: Some(note),
            ..Unit::default()
        };
        self.apply_unit(unit).await?.map_err(refused)?;
        Ok(())
    }

    /// Has notes forgotten that are older than `below`, as ULIDs go, or too many.
    pub fn forget_notes(&self, below: u128, bytes_max: u64) {
        if let Err(error) = self.shared.ledger.forget_notes(below, bytes_max) {
            tracing::debug!(%error, "notes are not forgotten now");
        }
    }

    /// Returns an id that is higher than those before, as long as the clock is right.
    pub fn next_id(&self) -> TransferId {
        let fresh = ulid::Ulid::generate().0;
        let mut last = self
            .shared
            .last_id
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *last = fresh.max(last.saturating_add(1));
        TransferId(*last)
    }

    /// Does operations together, and waits until that is durable.
    async fn apply(&self, operations: Vec<Operation>) -> Result<Verdict, BillingError> {
        let unit = Unit {
            operations,
            ..Unit::default()
        };
        self.apply_unit(unit).await
    }

    async fn apply_unit(&self, unit: Unit) -> Result<Verdict, BillingError> {
        let (sender, receiver) = oneshot::channel();
        self.shared.ledger.submit(unit, now(), move |verdict| {
            // Nobody may be waiting any more.
            let _ = sender.send(verdict);
        });
        answer_of(receiver).await
    }

    /// Does a unit without waiting for the disk: it is undone by a crash within a moment, or by
    /// the start after it.
    async fn apply_volatile(&self, unit: Unit) -> Result<Verdict, BillingError> {
        let (sender, receiver) = oneshot::channel();
        let ledger = &self.shared.ledger;
        ledger.submit_volatile(unit, now(), move |verdict| {
            // Nobody may be waiting any more.
            let _ = sender.send(verdict);
        });
        answer_of(receiver).await
    }

    fn do_now(&self, operations: Vec<Operation>) -> Result<(), BillingError> {
        let unit = Unit {
            operations,
            ..Unit::default()
        };
        let verdict = self.shared.ledger.apply(unit, now())?;
        verdict.map(|_| ()).map_err(refused)
    }

    /// Voids holds of requests that died with an earlier process, and ends their notes.
    fn void_left_holds(&self, end_left: EndLeft) -> Result<(), BillingError> {
        let view = self.view()?;
        // Before any of them expires, which would leave its note as it is.
        let left: Result<Vec<_>, LedgerError> = view.holds()?.collect();
        let left = left?;
        for holds in left.chunks(VOIDED_TOGETHER) {
            for (_, held) in holds {
                let note = view.note(held.id.0)?;
                if let Some(bytes) = note.and_then(|note| end_left(&note)) {
                    let (id, operations) = (held.id.0, Vec::new());
                    self.submit_left(operations, Some(Note { id, bytes }));
                }
                self.submit_left(vec![Operation::Void(held.id)], None);
            }
            // Waits for the writer.
            self.do_now(vec![open_operator()])?;
        }
        if !left.is_empty() {
            let holds = left.len();
            tracing::warn!(holds, "voided what an earlier run had held and did not end");
        }
        Ok(())
    }

    /// What a crash undoes of it, the start after it does again.
    fn submit_left(&self, operations: Vec<Operation>, note: Option<Note>) {
        let unit = Unit {
            operations,
            note,
            ..Unit::default()
        };
        let ledger = &self.shared.ledger;
        ledger.submit_volatile(unit, now(), |verdict| match verdict {
            // It has expired meanwhile, which is as good.
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "what was left held is not voided"),
        });
    }
}

/// Opens an account in the ledger for each that is made here.
#[derive(Debug)]
pub struct Welcome(pub Billing);

impl AccountHook for Welcome {
    fn on_created(
        &self,
        account: crate::accounts::AccountId,
    ) -> BoxFuture<'_, Result<(), Box<dyn std::error::Error + Send + Sync>>> {
        Box::pin(async move { Ok(self.0.welcome(AccountId(account.as_u128())).await?) })
    }
}

fn moved_by(listener: &OnceLock<Listener>, moved: &Moved) {
    if let Some(listener) = listener.get() {
        listener(moved);
    }
}

async fn answer_of(
    receiver: oneshot::Receiver<Result<Verdict, LedgerError>>,
) -> Result<Verdict, BillingError> {
    let verdict = receiver.await.map_err(|_| LedgerError::Stopped {
        why: "it did not answer".into(),
    })?;
    Ok(verdict?)
}

/// Returns what was charged under an id.
///
/// # Errors
/// The store failed.
pub fn settled_in(view: &View, id: TransferId) -> Result<Settled, BillingError> {
    Ok(match view.outcome(id)? {
        Some(Outcome::Plain(amount) | Outcome::Posted(amount)) => Settled::Charged(amount),
        Some(Outcome::Open) => Settled::Open,
        Some(Outcome::Voided | Outcome::Expired) | None => Settled::Never,
    })
}

fn open_operator() -> Operation {
    open(OPERATOR, AccountKind::Operator, Flags::default())
}

fn open(id: AccountId, kind: AccountKind, flags: Flags) -> Operation {
    Operation::Open(OpenAccount {
        id,
        kind,
        owner: OwnerId(id.0),
        flags,
    })
}

fn refused(refusal: Refusal) -> BillingError {
    match refusal.reason {
        Reason::ExceedsCredits {
            available,
            required,
        } => BillingError::Insufficient {
            balance: available,
            required,
        },
        Reason::AccountUnknown(id) => BillingError::AccountUnknown(id.to_string()),
        reason => BillingError::Refused(reason),
    }
}

/// Returns the time as the ledger wants it. Clocks before 1970 count as 1970.
pub fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let ms = since.unwrap_or_default().as_millis();
    Time(u64::try_from(ms).unwrap_or(u64::MAX))
}
