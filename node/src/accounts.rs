//! Accounts and their secrets: the store `DIR/accounts.redb` and what is kept of it in memory.
//!
//! Synchronous and without a clock: the time comes in as an argument, and
//! [`crate::services::AccountService`] is the face for async callers. Secrets are stored as
//! hashes only: passwords by argon2id, keys by SHA-256, which is enough for 256 random bits.
//! Nothing is acknowledged before it is durable. Requests are told from each other by the
//! key ring, so that none of them waits for the disk.

mod error;
mod key_ring;
mod password;
mod records;
mod rules;
mod secret;
mod store;
mod tables;

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aither_protocol::Plan;
use serde::Serialize;
use ulid::Ulid;

pub use self::{
    error::{AccountError, InvalidField, StoreError},
    key_ring::KeyRefusal,
    password::{hash_password, matches_password},
    rules::{check_email, check_password},
    secret::SecretText,
    store::{AccountStore, NewAccount, SessionTerms},
};
pub(crate) use self::{
    records::Record,
    secret::{AGENT_KEY_PREFIX, NewKey, SecretHash, key_hash, random},
    store::new_id,
};

/// Names an account; sorts by the time it was made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountId(Ulid);

/// A text that is no account's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is no account id")]
pub struct AccountIdError;

impl AccountId {
    /// Returns the id as a number, from which ids of what belongs to the account can be derived.
    pub const fn as_u128(self) -> u128 {
        self.0.0
    }

    /// Takes an id back from its number.
    pub const fn from_u128(number: u128) -> Self {
        Self(Ulid(number))
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccountId({self})")
    }
}

impl FromStr for AccountId {
    type Err = AccountIdError;

    fn from_str(text: &str) -> Result<Self, AccountIdError> {
        let id = Ulid::from_string(text).map_err(|_| AccountIdError)?;
        Ok(Self(id))
    }
}

impl Serialize for AccountId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Whether an account's keys work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountState {
    /// They do.
    Active,
    /// They do not, until the operator says otherwise.
    Disabled,
}

/// An account, without its secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its id.
    pub id: AccountId,
    /// Its e-mail address, in lower case.
    pub email: String,
    /// Its plan.
    pub plan: Plan,
    /// Whether it may do anything.
    pub state: AccountState,
    /// When it was made.
    pub created: SystemTime,
}

/// What the operator changes of an account; what is `None` stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AccountChange {
    /// Another plan.
    pub plan: Option<Plan>,
    /// Another state.
    pub state: Option<AccountState>,
}

/// An account that was just made, with its first key. The key is shown this once.
#[derive(Debug)]
pub struct CreatedAccount {
    /// The account.
    pub account: Account,
    /// Its key, which does not expire.
    pub api_key: SecretText,
}

/// What a login, or its renewal, gives. Both secrets are shown this once.
#[derive(Debug)]
pub struct Session {
    /// The key.
    pub api_key: SecretText,
    /// When it stops working.
    pub expires: SystemTime,
    /// Buys the next session, once.
    pub refresh_token: SecretText,
}

/// An API key, without the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    /// Its id.
    pub id: Ulid,
    /// How the key begins.
    pub prefix: String,
    /// When it was made.
    pub made: SystemTime,
    /// When a request last came with it.
    pub last_used: Option<SystemTime>,
    /// When it stops working, if ever.
    pub expires: Option<SystemTime>,
}

/// Whose key a request came with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccountCaller {
    /// The account.
    pub account: AccountId,
    /// Its plan.
    pub plan: Plan,
    /// The key's id.
    pub key: Ulid,
}

/// Returns milliseconds since 1970, as they are stored. Clocks before that count as 1970.
pub(crate) fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn time_of(unix_ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(unix_ms)
}
