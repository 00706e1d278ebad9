//! What of the accounts is kept in memory, so that no request waits for the disk.
//!
//! It mirrors the store, which alone changes it, after each commit and in the commits' order.
//! A key is found by its SHA-256, so what the time of a lookup tells is about hashes, and those
//! say nothing about keys. `last used` is noted here first and written now and then.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::SystemTime,
};

use aither_protocol::Plan;
use subtle::ConstantTimeEq;
use ulid::Ulid;

use super::{
    AccountCaller, AccountId, KeyInfo,
    records::{FamilyV1, KeyV1},
    secret::{ACCOUNT_KEY_PREFIX, SecretHash, key_hash},
    time_of, unix_ms,
};

/// Why a key is not good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyRefusal {
    /// No such key, or not any more.
    #[error("the key in the Authorization header is not one of this node's")]
    Unknown,
    /// Its time is over.
    #[error("the key in the Authorization header has expired; log in again")]
    Expired,
    /// Its account is switched off.
    #[error("the account of the key in the Authorization header is disabled")]
    Disabled,
}

/// What a commit changed.
pub(super) enum RingChange {
    /// An account is there, or is as this says now.
    Account {
        id: AccountId,
        plan: Plan,
        is_disabled: bool,
        is_announced: bool,
    },
    /// A key was made.
    Key(SecretHash, KeyV1),
    /// A key is gone.
    NoKey(SecretHash),
    /// A login was made or renewed.
    Login(SecretHash, FamilyV1),
    /// An account's login is over.
    NoLogin(AccountId, SecretHash),
}

/// The keys and the accounts behind them.
#[derive(Default)]
pub(super) struct KeyRing {
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    accounts: HashMap<AccountId, RingAccount>,
    keys: HashMap<SecretHash, RingKey>,
    /// Accounts of whose making nobody was told yet.
    unannounced: BTreeSet<AccountId>,
}

struct RingAccount {
    plan: Plan,
    is_disabled: bool,
    keys: Vec<SecretHash>,
    logins: Vec<RingLogin>,
}

#[derive(Clone, Copy)]
struct RingLogin {
    family: SecretHash,
    made_ms: u64,
    expires_ms: u64,
}

struct RingKey {
    record: KeyV1,
    /// Zero is never.
    last_used_ms: AtomicU64,
}

impl KeyRing {
    /// Takes over what was committed.
    pub(super) fn apply(&self, changes: Vec<RingChange>) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            inner.apply(change);
        }
    }

    /// Returns whose key this is, and notes that it was used.
    pub(super) fn authenticate(
        &self,
        presented: &str,
        now: SystemTime,
    ) -> Result<AccountCaller, KeyRefusal> {
        let hash = key_hash(ACCOUNT_KEY_PREFIX, presented).ok_or(KeyRefusal::Unknown)?;
        let inner = self.read();
        let (kept, key) = inner.keys.get_key_value(&hash).ok_or(KeyRefusal::Unknown)?;
        if !bool::from(kept.ct_eq(&hash)) {
            return Err(KeyRefusal::Unknown);
        }
        let account = AccountId::from_u128(key.record.account);
        let owner = inner.accounts.get(&account).ok_or(KeyRefusal::Unknown)?;
        let now_ms = unix_ms(now);
        if key
            .record
            .expires_ms
            .is_some_and(|expires| expires <= now_ms)
        {
            return Err(KeyRefusal::Expired);
        }
        if owner.is_disabled {
            return Err(KeyRefusal::Disabled);
        }
        key.last_used_ms.fetch_max(now_ms, Relaxed);
        Ok(AccountCaller {
            account,
            plan: owner.plan,
            key: Ulid(key.record.id),
        })
    }

    /// Returns the plan of an account whose keys work.
    pub(super) fn plan_of(&self, account: AccountId) -> Result<Plan, KeyRefusal> {
        match self.read().accounts.get(&account) {
            None => Err(KeyRefusal::Unknown),
            Some(owner) if owner.is_disabled => Err(KeyRefusal::Disabled),
            Some(owner) => Ok(owner.plan),
        }
    }

    /// Returns an account's keys that have not expired, the oldest first.
    pub(super) fn keys_of(&self, account: AccountId, now: SystemTime) -> Vec<KeyInfo> {
        let now_ms = unix_ms(now);
        let mut keys: Vec<_> = self
            .read()
            .keys_of(account)
            .filter(|(_, key)| key.record.expires_ms.is_none_or(|expires| now_ms < expires))
            .map(|(_, key)| key.record.info(key.last_used()))
            .collect();
        keys.sort_by_key(|key| key.id);
        keys
    }

    /// Returns the keys of an account, or of all, for which `holds`; the oldest first.
    pub(super) fn find(
        &self,
        account: Option<AccountId>,
        holds: impl Fn(&KeyV1) -> bool,
    ) -> Vec<(SecretHash, KeyV1)> {
        let inner = self.read();
        let pick = |(hash, key): (&SecretHash, &RingKey)| {
            holds(&key.record).then(|| (*hash, key.record.clone()))
        };
        let mut found: Vec<_> = match account {
            Some(account) => inner.keys_of(account).filter_map(pick).collect(),
            None => inner.keys.iter().filter_map(pick).collect(),
        };
        found.sort_by_key(|(_, key)| key.id);
        found
    }

    /// Returns an account's logins, the oldest first.
    pub(super) fn logins_of(&self, account: AccountId) -> Vec<SecretHash> {
        let inner = self.read();
        let owner = inner.accounts.get(&account);
        let mut logins = owner.map_or_else(Vec::new, |owner| owner.logins.clone());
        logins.sort_by_key(|login| login.made_ms);
        logins.into_iter().map(|login| login.family).collect()
    }

    /// Returns the logins whose time is over.
    pub(super) fn expired_logins(&self, now_ms: u64) -> Vec<(AccountId, SecretHash)> {
        let inner = self.read();
        let logins = inner.accounts.iter().flat_map(|(id, owner)| {
            let expired = owner
                .logins
                .iter()
                .filter(|login| login.expires_ms <= now_ms);
            expired.map(|login| (*id, login.family))
        });
        logins.collect()
    }

    /// Returns the keys that were used since that was last written, with their times.
    pub(super) fn used(&self) -> Vec<(SecretHash, u64)> {
        let inner = self.read();
        let used = inner.keys.iter().map(|(hash, key)| {
            let last_used = key.last_used_ms.load(Relaxed);
            (*hash, last_used, key.record.last_used_ms.unwrap_or(0))
        });
        used.filter(|(_, last_used, written)| written < last_used)
            .map(|(hash, last_used, _)| (hash, last_used))
            .collect()
    }

    /// Returns the accounts of whose making nobody was told yet.
    pub(super) fn unannounced(&self) -> Vec<AccountId> {
        self.read().unannounced.iter().copied().collect()
    }

    /// Returns how many accounts there are.
    pub(super) fn accounts_len(&self) -> usize {
        self.read().accounts.len()
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        // Nothing that holds the lock can leave it half changed.
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RingKey {
    fn last_used(&self) -> Option<SystemTime> {
        let last_used = self.last_used_ms.load(Relaxed);
        (last_used != 0).then(|| time_of(last_used))
    }
}

impl Inner {
    fn apply(&mut self, change: RingChange) {
        match change {
            RingChange::Account {
                id,
                plan,
                is_disabled,
                is_announced,
            } => {
                let account = self.accounts.entry(id).or_insert_with(|| RingAccount {
                    plan,
                    is_disabled,
                    keys: Vec::new(),
                    logins: Vec::new(),
                });
                account.plan = plan;
                account.is_disabled = is_disabled;
                if is_announced {
                    self.unannounced.remove(&id);
                } else {
                    self.unannounced.insert(id);
                }
            }
            RingChange::Key(hash, record) => self.put_key(hash, record),
            RingChange::NoKey(hash) => {
                let Some(key) = self.keys.remove(&hash) else {
                    return;
                };
                let account = AccountId::from_u128(key.record.account);
                if let Some(owner) = self.accounts.get_mut(&account) {
                    owner.keys.retain(|kept| *kept != hash);
                }
            }
            RingChange::Login(family, record) => {
                let account = AccountId::from_u128(record.account);
                if let Some(owner) = self.accounts.get_mut(&account) {
                    owner.logins.retain(|login| login.family != family);
                    owner.logins.push(RingLogin {
                        family,
                        made_ms: record.made_ms,
                        expires_ms: record.expires_ms,
                    });
                }
            }
            RingChange::NoLogin(account, family) => {
                if let Some(owner) = self.accounts.get_mut(&account) {
                    owner.logins.retain(|login| login.family != family);
                }
            }
        }
    }

    fn put_key(&mut self, hash: SecretHash, record: KeyV1) {
        let account = AccountId::from_u128(record.account);
        let last_used_ms = record.last_used_ms.unwrap_or(0);
        if let Some(known) = self.keys.get_mut(&hash) {
            known.record = record;
            known.last_used_ms.fetch_max(last_used_ms, Relaxed);
            return;
        }
        if let Some(owner) = self.accounts.get_mut(&account) {
            owner.keys.push(hash);
        }
        let last_used_ms = AtomicU64::new(last_used_ms);
        let key = RingKey {
            record,
            last_used_ms,
        };
        self.keys.insert(hash, key);
    }

    fn keys_of(&self, account: AccountId) -> impl Iterator<Item = (&SecretHash, &RingKey)> {
        let owner = self.accounts.get(&account);
        let hashes = owner.map_or(&[][..], |owner| &owner.keys);
        hashes
            .iter()
            .filter_map(|hash| self.keys.get_key_value(hash))
    }
}
