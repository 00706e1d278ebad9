//! What can be asked of the ledger.
//!
//! Every operation carries an id of its caller's making, so that it can be asked again after a lost
//! answer: the same id with the same content is answered as the first time and changes nothing. A
//! hold ends once, so a post or void is known by its hold's id.
//!
//! Ids that rise, as ULIDs do, keep the index of transfers cheap to write.

use aither_protocol::Amount;
use serde::{Deserialize, Serialize};

use crate::{
    Time,
    account::{AccountId, AccountKind, Flags, OwnerId},
    refusal::{Reason, Refusal},
    usage::Usage,
};

/// Most operations that succeed or fail together.
pub const OPERATIONS_MAX: usize = 16;
/// Most receivers of one post beside the hold's.
pub const SHARES_MAX: usize = 4;
/// Longest note: an answer of an agent with what is said about it.
pub const NOTE_BYTES_MAX: usize = 1 << 20;
/// Longest words on a transfer.
pub const MEMO_BYTES_MAX: usize = 256;

/// Names a transfer or hold: 128 bits of the caller's making.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct TransferId(pub u128);

/// What a debit takes of an account that has granted and bought tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Draw {
    /// Granted ones, then bought ones.
    #[default]
    GrantedFirst,
    /// Granted ones alone. From an account without limit this is how they come to be.
    Granted,
    /// Bought ones alone.
    Funded,
}

/// Opens an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenAccount {
    /// Its name from now on.
    pub id: AccountId,
    /// What it is for.
    pub kind: AccountKind,
    /// Whose it is.
    pub owner: OwnerId,
    /// Its limits.
    pub flags: Flags,
}

/// Moves an amount for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// The caller's name for it.
    pub id: TransferId,
    /// Who pays.
    pub debit: AccountId,
    /// Who is paid.
    pub credit: AccountId,
    /// How much, more than nothing.
    pub amount: Amount,
    /// Which tokens.
    pub draw: Draw,
    /// What for, in words.
    pub memo: String,
}

/// Holds an amount until it is posted, voided or expires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reserve {
    /// The transfer that it may become.
    pub transfer: Transfer,
    /// When it is void by itself.
    pub expires: Time,
}

/// A part of a post that goes to another than the hold's receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Who is paid.
    pub account: AccountId,
    /// How much.
    pub amount: Amount,
}

/// Ends a hold by transferring all or part of it; what is left is free again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Post {
    /// The hold.
    pub hold: TransferId,
    /// How much in all, more than nothing.
    pub amount: Amount,
    /// Who has parts of it. The rest goes to the hold's receiver.
    pub shares: Vec<Share>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Opens an account.
    Open(OpenAccount),
    /// Moves an amount.
    Transfer(Transfer),
    /// Holds an amount.
    Reserve(Reserve),
    /// Ends a hold with a transfer.
    Post(Post),
    /// Ends a hold with nothing.
    Void(TransferId),
}

/// Something that the caller wants to know again exactly if its unit is done: the ledger does not
/// look into it. Unlike entries it is forgotten some day.
#[derive(Clone, PartialEq, Eq)]
pub struct Note {
    /// The caller's name for it. Those that rise, as ULIDs do, are forgotten in their order.
    pub id: u128,
    /// What it says.
    pub bytes: Vec<u8>,
}

/// Operations that are done all together or not at all, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unit {
    /// The operations.
    pub operations: Vec<Operation>,
    /// What was used for it. It is recorded when the unit is first done, not when it is repeated.
    pub usage: Option<Usage>,
    /// Kept in the place of an earlier note of its name, whenever the unit is done or repeated.
    pub note: Option<Note>,
}

/// That an operation is done, for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The number of its entry in the journal.
    pub sequence: u64,
    /// Whether it was done before, and this is the first outcome again.
    pub is_replay: bool,
}

/// Where a transfer or hold stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A transfer without a hold moved this.
    Plain(Amount),
    /// The hold is open.
    Open,
    /// The hold ended with a transfer of this.
    Posted(Amount),
    /// The hold ended with nothing, because somebody said so.
    Voided,
    /// The hold ended with nothing, because its time was over.
    Expired,
}

/// What comes of a unit: a receipt for each operation, or why none was done.
pub type Verdict = Result<Vec<Receipt>, Refusal>;

/// Without what it says, which is not the ledger's to show.
impl std::fmt::Debug for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Note")
            .field("id", &self.id)
            .field("bytes_len", &self.bytes.len())
            .finish()
    }
}

impl Unit {
    /// Returns a unit of one operation.
    pub fn one(operation: Operation) -> Self {
        Self {
            operations: vec![operation],
            ..Self::default()
        }
    }

    /// Checks what can be checked without knowing any account.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        let refuse = |at, reason| Err(Refusal { at, reason });
        let is_empty = self.operations.is_empty() && self.note.is_none();
        if is_empty || self.operations.len() > OPERATIONS_MAX {
            return refuse(0, Reason::UnitTooLong);
        }
        let note = self.note.as_ref();
        if note.is_some_and(|note| note.bytes.len() > NOTE_BYTES_MAX) {
            return refuse(0, Reason::TextTooLong);
        }
        if self.usage.as_ref().is_some_and(|usage| !usage.is_bounded()) {
            return refuse(0, Reason::TextTooLong);
        }
        for (at, operation) in self.operations.iter().enumerate() {
            if let Err(reason) = operation.check() {
                return refuse(at, reason);
            }
        }
        Ok(())
    }
}

impl Operation {
    fn check(&self) -> Result<(), Reason> {
        match self {
            Self::Open(_) | Self::Void(_) => Ok(()),
            Self::Transfer(transfer) | Self::Reserve(Reserve { transfer, .. }) => {
                if transfer.memo.len() > MEMO_BYTES_MAX {
                    return Err(Reason::TextTooLong);
                }
                check_amount(transfer.amount)?;
                if transfer.debit == transfer.credit {
                    return Err(Reason::AccountsAreSame);
                }
                Ok(())
            }
            Self::Post(post) => {
                check_amount(post.amount)?;
                if post.shares.len() > SHARES_MAX {
                    return Err(Reason::SharesExceedAmount);
                }
                let mut rest = post.amount;
                for share in &post.shares {
                    let left = rest.checked_sub(share.amount);
                    rest = left.ok_or(Reason::SharesExceedAmount)?;
                }
                Ok(())
            }
        }
    }
}

/// So large at most that the product of two fits 128 bits.
fn check_amount(amount: Amount) -> Result<(), Reason> {
    if amount.is_zero() {
        return Err(Reason::AmountZero);
    }
    if amount > Amount::MAX {
        return Err(Reason::AmountTooLarge);
    }
    Ok(())
}
