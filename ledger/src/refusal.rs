//! Why an operation is not done.
//!
//! Where several reasons apply, the one that stands first in [`Reason`] is given, whatever the
//! order in which accounts were touched; so the answer to a given operation in a given state is one
//! and the same. A refused operation leaves no trace: asked again, with its id, it may succeed.

use aither_protocol::Amount;

use crate::account::AccountId;

/// Which operation of a unit was refused, and why. None of the unit was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// Its place in the unit.
    pub at: usize,
    /// The reason.
    pub reason: Reason,
}

/// Reasons in order of precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// No operation, or more than a unit may have.
    #[error("a unit has 1 to 16 operations")]
    UnitTooLong,
    /// A memo or a name in the usage record.
    #[error("a text is too long")]
    TextTooLong,
    /// Nothing is to be moved.
    #[error("the amount is zero")]
    AmountZero,
    /// More than a document may name.
    #[error("the amount is too large")]
    AmountTooLarge,
    /// Payer and receiver are one.
    #[error("an account cannot pay itself")]
    AccountsAreSame,
    /// More is shared out than is posted.
    #[error("the shares are more than the amount")]
    SharesExceedAmount,
    /// The id was used for something else.
    #[error("the id was used with other content")]
    IdReusedWithOtherContent,
    /// No hold has this id.
    #[error("there is no such hold")]
    PendingUnknown,
    /// The hold was posted.
    #[error("the hold was posted")]
    PendingAlreadyPosted,
    /// The hold was voided.
    #[error("the hold was voided")]
    PendingAlreadyVoided,
    /// The hold's time is over.
    #[error("the hold has expired")]
    PendingExpired,
    /// More is posted than was held.
    #[error("the amount is more than was held")]
    ExceedsPending {
        /// What was held.
        held: Amount,
    },
    /// No account has this id.
    #[error("there is no account {0}")]
    AccountUnknown(AccountId),
    /// A hold that would be void at once.
    #[error("the hold would expire before it begins")]
    ExpiryPassed,
    /// The payer has less, or less of the kind that was asked for.
    #[error("{available} tokens are available, {required} are required")]
    ExceedsCredits {
        /// What can be spent.
        available: Amount,
        /// What was asked for.
        required: Amount,
    },
    /// The receiver can take no more than it has spent.
    #[error("the receiving account can take no more")]
    ExceedsDebits,
    /// A sum does not fit 128 bits.
    #[error("an account's sum is too large")]
    Overflow,
}

impl Reason {
    /// Returns its stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnitTooLong => "unit_too_long",
            Self::TextTooLong => "text_too_long",
            Self::AmountZero => "amount_zero",
            Self::AmountTooLarge => "amount_too_large",
            Self::AccountsAreSame => "accounts_are_same",
            Self::SharesExceedAmount => "shares_exceed_amount",
            Self::IdReusedWithOtherContent => "id_reused_with_other_content",
            Self::PendingUnknown => "pending_unknown",
            Self::PendingAlreadyPosted => "pending_already_posted",
            Self::PendingAlreadyVoided => "pending_already_voided",
            Self::PendingExpired => "pending_expired",
            Self::ExceedsPending { .. } => "exceeds_pending",
            Self::AccountUnknown(_) => "account_unknown",
            Self::ExpiryPassed => "expiry_passed",
            Self::ExceedsCredits { .. } => "exceeds_credits",
            Self::ExceedsDebits => "exceeds_debits",
            Self::Overflow => "overflow",
        }
    }
}
