//! The account database: one writer, commit before anything is said or believed.
//!
//! Every change goes through [`AccountStore::write`]: under the writer's lock a transaction, its
//! commit, and only then the change of the [`KeyRing`], so that memory follows the disk in order.
//! What is looked for is found under that lock too; two renewals of one login cannot both win.
//!
//! Bounds: [`LOGINS_MAX`] logins an account, [`KEYS_PER_LOGIN_MAX`] keys a login; the oldest go.

mod load;
mod sessions;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    path::Path,
    time::{Duration, SystemTime},
};

use aither_protocol::Plan;
use redb::ReadableTable;
use ulid::Ulid;

use super::{
    Account, AccountCaller, AccountChange, AccountError, AccountId, AccountState, CreatedAccount,
    KeyInfo, KeyRefusal, StoreError,
    key_ring::{KeyRing, RingChange},
    records::{AccountV1, KeyV1, Record},
    secret::{ACCOUNT_KEY_PREFIX, NewKey, SecretHash, random},
    tables::{ReadTables, Tables},
    unix_ms,
};
use crate::store_file::{StoreFile, copy, corrupt};

/// Most logins of an account that can be renewed; a further one ends the oldest.
const LOGINS_MAX: usize = 32;
/// Keys of one login: the newest, and the one before it for requests that are under way.
const KEYS_PER_LOGIN_MAX: usize = 2;

/// The accounts on disk, and what is kept of them in memory.
pub struct AccountStore {
    file: StoreFile,
    ring: KeyRing,
}

/// An account to make.
#[derive(Clone)]
pub struct NewAccount {
    /// A checked address.
    pub email: String,
    /// Its password's hash; without one there is no login.
    pub password_hash: Option<String>,
    /// Its plan.
    pub plan: Plan,
}

/// How long what a login gives is good.
#[derive(Debug, Clone, Copy)]
pub struct SessionTerms {
    /// Its key.
    pub key_ttl: Duration,
    /// Its refresh token, from each renewal on.
    pub refresh_ttl: Duration,
}

/// An open write transaction: the tables, and what memory is to learn after the commit.
struct Edit<'tx> {
    tables: Tables<'tx>,
    /// Everything that touches a table leaves one here, so none means that nothing changed.
    changes: Vec<RingChange>,
}

impl AccountStore {
    /// Opens the database, makes it if need be, verifies all of it and loads the keys.
    ///
    /// # Errors
    /// It is damaged, from a later version, in use, or cannot be read or written.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let database = load::open_database(path)?;
        let ring = KeyRing::default();
        ring.apply(load::read_all(path, &database)?);
        Ok(Self {
            file: StoreFile::new(path, database, load::open_database),
            ring,
        })
    }

    /// Makes an account with a first key that does not expire.
    ///
    /// # Errors
    /// The address has one already, or the store fails.
    pub fn create(&self, new: NewAccount, now: SystemTime) -> Result<CreatedAccount, AccountError> {
        let id = AccountId(new_id(now)?);
        let record = AccountV1 {
            email: new.email,
            password_hash: new.password_hash,
            plan: new.plan.as_str().to_owned(),
            created_ms: unix_ms(now),
            is_disabled: false,
            is_announced: false,
        };
        let key = NewKey::make(ACCOUNT_KEY_PREFIX)?;
        let key_id = new_id(now)?;
        self.write(|edit| {
            if edit.tables.emails.get(record.email.as_str())?.is_some() {
                return Ok(Err(AccountError::EmailTaken));
            }
            let email = record.email.as_str();
            edit.tables.emails.insert(email, id.0.to_bytes())?;
            edit.put_account(id, &record)?;
            edit.put_key(
                key.hash,
                KeyV1 {
                    id: key_id.0,
                    account: id.as_u128(),
                    prefix: key.prefix.clone(),
                    made_ms: unix_ms(now),
                    last_used_ms: None,
                    expires_ms: None,
                    family: None,
                },
            )?;
            Ok(Ok(record.account(id)?))
        })?
        .map(|account| CreatedAccount {
            account,
            api_key: key.text,
        })
    }

    /// Returns an account and its password's hash.
    ///
    /// # Errors
    /// The store fails.
    pub fn by_email(&self, email: &str) -> Result<Option<(Account, Option<String>)>, StoreError> {
        self.read(|tables| {
            let Some(id) = tables.emails.get(email)? else {
                return Ok(None);
            };
            let id = AccountId(Ulid::from_bytes(id.value()));
            let record = read_account(&tables.accounts, id)?
                .ok_or_else(|| corrupt("an address leads to no account"))?;
            Ok(Some((record.account(id)?, record.password_hash)))
        })
    }

    /// Returns an account.
    ///
    /// # Errors
    /// There is none, or the store fails.
    pub fn account(&self, id: AccountId) -> Result<Account, AccountError> {
        let found = self.read(|tables| {
            let record = read_account(&tables.accounts, id)?;
            record.map(|record| record.account(id)).transpose()
        })?;
        found.ok_or(AccountError::UnknownAccount)
    }

    /// Returns up to `count` accounts made after `after`, the oldest first.
    ///
    /// # Errors
    /// The store fails.
    pub fn list(&self, after: Option<AccountId>, count: usize) -> Result<Vec<Account>, StoreError> {
        self.read(|tables| {
            let first = match after {
                Some(AccountId(id)) => match id.increment() {
                    Ok(next) => next,
                    Err(_last) => return Ok(Vec::new()),
                },
                None => Ulid::nil(),
            };
            let rows = tables.accounts.range(first.to_bytes()..)?;
            rows.take(count)
                .map(|row| {
                    let (id, value) = row?;
                    let id = AccountId(Ulid::from_bytes(id.value()));
                    AccountV1::decode(value.value())?.account(id)
                })
                .collect()
        })
    }

    /// Changes an account.
    ///
    /// # Errors
    /// There is none, or the store fails.
    pub fn update(&self, id: AccountId, change: AccountChange) -> Result<Account, AccountError> {
        self.write(|edit| {
            let Some(mut record) = read_account(&edit.tables.accounts, id)? else {
                return Ok(Err(AccountError::UnknownAccount));
            };
            if let Some(plan) = change.plan {
                record.plan = plan.as_str().to_owned();
            }
            if let Some(state) = change.state {
                record.is_disabled = state == AccountState::Disabled;
            }
            edit.put_account(id, &record)?;
            Ok(Ok(record.account(id)?))
        })?
    }

    /// Notes that those who wanted to know of an account were told.
    ///
    /// # Errors
    /// The store fails.
    pub fn mark_announced(&self, id: AccountId) -> Result<(), StoreError> {
        self.write(|edit| {
            if let Some(mut record) = read_account(&edit.tables.accounts, id)? {
                record.is_announced = true;
                edit.put_account(id, &record)?;
            }
            Ok(())
        })
    }

    /// Returns the accounts for which that is still to be done.
    pub fn unannounced(&self) -> Vec<AccountId> {
        self.ring.unannounced()
    }

    /// Returns how many accounts there are.
    pub fn len(&self) -> usize {
        self.ring.accounts_len()
    }

    /// Returns whether there is no account.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns whose key this is. Takes some microseconds and touches no disk.
    ///
    /// # Errors
    /// It is nobody's, or not good any more.
    pub fn authenticate(&self, key: &str, now: SystemTime) -> Result<AccountCaller, KeyRefusal> {
        self.ring.authenticate(key, now)
    }

    /// Returns the plan of an account whose keys work.
    ///
    /// # Errors
    /// There is no such account, or it is switched off.
    pub fn plan_of(&self, account: AccountId) -> Result<Plan, KeyRefusal> {
        self.ring.plan_of(account)
    }

    /// Returns an account's keys that have not expired, the oldest first.
    pub fn keys(&self, account: AccountId, now: SystemTime) -> Vec<KeyInfo> {
        self.ring.keys_of(account, now)
    }

    /// Ends a key, named by its id or by its beginning; the login that it came from ends with it.
    /// Without an account any account's.
    ///
    /// # Errors
    /// The account has no such key, or the store fails.
    pub fn revoke(&self, account: Option<AccountId>, name: &str) -> Result<(), AccountError> {
        let id = Ulid::from_string(name).ok();
        self.write(|edit| {
            let is_meant = |key: &KeyV1| Some(Ulid(key.id)) == id || key.prefix == name;
            let found = self.ring.find(account, is_meant);
            let Some((hash, key)) = found.into_iter().next() else {
                return Ok(Err(AccountError::UnknownKey));
            };
            edit.remove_key(hash)?;
            if let Some(family) = key.family {
                // Else its refresh token would bring the key back.
                edit.end_login(&self.ring, AccountId::from_u128(key.account), family)?;
            }
            Ok(Ok(()))
        })?
    }

    /// Writes when keys were last used, and drops what has expired. For now and then.
    ///
    /// # Errors
    /// The store fails.
    pub fn tidy(&self, now: SystemTime) -> Result<(), StoreError> {
        let now_ms = unix_ms(now);
        let is_over = |key: &KeyV1| key.expires_ms.is_some_and(|expires| expires <= now_ms);
        let used = self.ring.used();
        let expired = self.ring.find(None, is_over);
        let logins = self.ring.expired_logins(now_ms);
        if used.is_empty() && expired.is_empty() && logins.is_empty() {
            return Ok(());
        }
        self.write(|edit| {
            for (hash, last_used_ms) in used {
                let found = edit.tables.keys.get(hash)?;
                let Some(mut record) = found.map(|row| KeyV1::decode(row.value())).transpose()?
                else {
                    continue;
                };
                record.last_used_ms = Some(last_used_ms);
                edit.put_key(hash, record)?;
            }
            for (hash, _) in expired {
                edit.remove_key(hash)?;
            }
            for (account, family) in logins {
                edit.end_login(&self.ring, account, family)?;
            }
            Ok(())
        })
    }

    /// Writes all of it as a store of its own, in a file that is not there yet.
    ///
    /// # Errors
    /// The file cannot be made, or a store fails.
    pub fn copy_to(&self, path: &Path) -> Result<(), StoreError> {
        let to = load::open_database(path)?;
        self.read(|from| {
            let tx = to.begin_write()?;
            {
                let mut tables = Tables::open(&tx)?;
                copy(&from.accounts, &mut tables.accounts)?;
                copy(&from.emails, &mut tables.emails)?;
                copy(&from.keys, &mut tables.keys)?;
                copy(&from.families, &mut tables.families)?;
            }
            tx.commit()?;
            Ok(())
        })
    }

    fn read<T>(
        &self,
        look: impl FnOnce(&ReadTables) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        self.file
            .read(|database| look(&ReadTables::open(database)?))
    }

    /// Runs one transaction. A refusal inside `change` that is no error of the store is part of
    /// `T`; what was changed until then is committed, so it must come before the first change.
    fn write<T>(
        &self,
        change: impl FnOnce(&mut Edit<'_>) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let run = |tx: &redb::WriteTransaction| {
            let mut edit = Edit {
                tables: Tables::open(tx)?,
                changes: Vec::new(),
            };
            let outcome = change(&mut edit)?;
            let changes = Some(edit.changes).filter(|changes| !changes.is_empty());
            Ok((outcome, changes))
        };
        self.file.write(run, |changes| self.ring.apply(changes))
    }
}

impl Edit<'_> {
    fn put_account(&mut self, id: AccountId, record: &AccountV1) -> Result<(), redb::Error> {
        let bytes = record.encode();
        self.tables.accounts.insert(id.0.to_bytes(), &bytes[..])?;
        let account = record.account(id)?;
        self.changes.push(RingChange::Account {
            id,
            plan: account.plan,
            is_disabled: record.is_disabled,
            is_announced: record.is_announced,
        });
        Ok(())
    }

    fn put_key(&mut self, hash: SecretHash, record: KeyV1) -> Result<(), redb::Error> {
        let bytes = record.encode();
        self.tables.keys.insert(hash, &bytes[..])?;
        self.changes.push(RingChange::Key(hash, record));
        Ok(())
    }

    fn remove_key(&mut self, hash: SecretHash) -> Result<(), redb::Error> {
        self.tables.keys.remove(hash)?;
        self.changes.push(RingChange::NoKey(hash));
        Ok(())
    }
}

impl fmt::Debug for AccountStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccountStore")
            .field("file", &self.file)
            .field("accounts", &self.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for NewAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewAccount")
            .field("email", &self.email)
            .field("password_hash", &"***")
            .field("plan", &self.plan)
            .finish()
    }
}

fn read_account(
    accounts: &impl ReadableTable<[u8; 16], &'static [u8]>,
    id: AccountId,
) -> Result<Option<AccountV1>, redb::Error> {
    let found = accounts.get(id.0.to_bytes())?;
    found.map(|row| AccountV1::decode(row.value())).transpose()
}

/// Returns a new id of this moment: later ones sort behind it.
pub(crate) fn new_id(now: SystemTime) -> Result<Ulid, StoreError> {
    let random = random::<16>()?;
    Ok(Ulid::from_parts(unix_ms(now), u128::from_be_bytes(*random)))
}
