//! The token ledger: double-entry accounts, two-phase transfers, usage records.
//!
//! Reading order: [`account`] (who has what), [`operation`] (what can be asked), [`refusal`] (why
//! it is not done), [`entry`] (what is written down), then [`state`], which decides without
//! I/O or clock, and [`writer`], the one thread that makes decisions durable. [`Ledger`] is
//! the handle of all others.
//!
//! What holds at any moment, and is looked after by [`audit`]:
//! - the debits of all accounts are their credits, posted and pending;
//! - no account is beyond its limit;
//! - what accounts say follows from the journal, whose entries are never changed or removed;
//! - whoever got an answer can rely on it: answers follow the commit.

#![warn(missing_docs)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::float_arithmetic
)]
#![cfg_attr(
    test,
    allow(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        reason = "a test that overflows fails, as it should"
    )
)]

pub mod account;
pub mod audit;
pub mod entry;
pub mod error;
mod ledger;
pub mod operation;
pub mod queue;
pub mod refusal;
mod state;
mod store;
pub mod time;
pub mod usage;
mod writer;

pub use account::{Account, AccountId, AccountKind, Flags, OwnerId, Side, Sum};
pub use audit::Audit;
pub use entry::{Entry, EntryKind, Leg, Movement};
pub use error::LedgerError;
pub use ledger::{Ledger, LedgerOptions, View};
pub use operation::{
    Draw, Note, OpenAccount, Operation, Outcome, Post, Receipt, Reserve, Share, Transfer,
    TransferId, Unit, Verdict,
};
pub use refusal::{Reason, Refusal};
pub use time::Time;
pub use usage::{Usage, UsageCounts, UsageQuery, UsageSum};
