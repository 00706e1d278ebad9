//! Logins: a key for a while, and a refresh token that buys the next one, once.
//!
//! The tokens of one login follow each other; the database remembers the one that works. Whoever
//! brings another of the same login has one that was used before, so somebody has copied it:
//! then the login and its keys end, and its owner logs in again.

use std::time::SystemTime;

use redb::ReadableTable;
use subtle::ConstantTimeEq;

use super::{
    AccountError, AccountId, AccountState, AccountStore, Edit, KEYS_PER_LOGIN_MAX, KeyRing, KeyV1,
    LOGINS_MAX, NewKey, Record, RingChange, SecretHash, SessionTerms, StoreError, new_id,
    read_account, unix_ms,
};
use crate::accounts::{
    SecretText, Session,
    records::FamilyV1,
    secret::{ACCOUNT_KEY_PREFIX, RefreshToken},
    time_of,
};

impl AccountStore {
    /// Begins a login.
    ///
    /// # Errors
    /// The account is gone or disabled, or the store fails.
    pub fn log_in(
        &self,
        account: AccountId,
        terms: SessionTerms,
        now: SystemTime,
    ) -> Result<Session, AccountError> {
        let refresh = RefreshToken::first()?;
        let draft = Draft::new(account, refresh, terms, now)?;
        self.write(|edit| {
            if let Err(refusal) = edit.check_active(account)? {
                return Ok(Err(refusal));
            }
            edit.end_surplus_logins(&self.ring, account)?;
            edit.put_session(&draft, unix_ms(now))?;
            Ok(Ok(()))
        })?
        .map(|()| draft.into_session())
    }

    /// Takes a refresh token for the next key and the next token.
    ///
    /// # Errors
    /// The token is unknown, expired or was used before; then its login ends.
    pub fn refresh(
        &self,
        presented: &SecretText,
        terms: SessionTerms,
        now: SystemTime,
    ) -> Result<Session, AccountError> {
        let old = RefreshToken::parse(presented).ok_or(AccountError::WrongRefreshToken)?;
        let next = old.next()?;
        let key = NewKey::make(ACCOUNT_KEY_PREFIX)?;
        let key_id = new_id(now)?.0;
        self.write(|edit| {
            let found = edit.tables.families.get(old.family)?;
            let Some(family) = found.map(|row| FamilyV1::decode(row.value())).transpose()? else {
                return Ok(Err(AccountError::WrongRefreshToken));
            };
            let account = AccountId::from_u128(family.account);
            if family.expires_ms <= unix_ms(now) {
                return Ok(Err(AccountError::WrongRefreshToken));
            }
            if !bool::from(family.current.ct_eq(&old.hash)) {
                tracing::warn!(%account, "a refresh token came twice; its login was ended");
                edit.end_login(&self.ring, account, old.family)?;
                return Ok(Err(AccountError::WrongRefreshToken));
            }
            if let Err(refusal) = edit.check_active(account)? {
                return Ok(Err(refusal));
            }
            edit.end_old_keys(&self.ring, account, old.family)?;
            let draft = Draft {
                account,
                key,
                key_id,
                refresh: next,
                expires: stored(now + terms.key_ttl),
                refresh_expires: stored(now + terms.refresh_ttl),
            };
            edit.put_session(&draft, family.made_ms)?;
            Ok(Ok(draft.into_session()))
        })?
    }
}

/// A session that is not committed yet.
struct Draft {
    account: AccountId,
    key: NewKey,
    key_id: u128,
    refresh: RefreshToken,
    expires: SystemTime,
    refresh_expires: SystemTime,
}

impl Draft {
    fn new(
        account: AccountId,
        refresh: RefreshToken,
        terms: SessionTerms,
        now: SystemTime,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            account,
            key: NewKey::make(ACCOUNT_KEY_PREFIX)?,
            key_id: new_id(now)?.0,
            refresh,
            expires: stored(now + terms.key_ttl),
            refresh_expires: stored(now + terms.refresh_ttl),
        })
    }

    fn into_session(self) -> Session {
        Session {
            api_key: self.key.text,
            expires: self.expires,
            refresh_token: self.refresh.text,
        }
    }
}

/// What is told is what is stored.
fn stored(time: SystemTime) -> SystemTime {
    time_of(unix_ms(time))
}

impl Edit<'_> {
    fn check_active(&self, account: AccountId) -> Result<Result<(), AccountError>, redb::Error> {
        let Some(record) = read_account(&self.tables.accounts, account)? else {
            return Ok(Err(AccountError::WrongCredentials));
        };
        Ok(match record.account(account)?.state {
            AccountState::Active => Ok(()),
            AccountState::Disabled => Err(AccountError::Disabled),
        })
    }

    fn put_session(&mut self, draft: &Draft, login_made_ms: u64) -> Result<(), redb::Error> {
        let family = FamilyV1 {
            account: draft.account.as_u128(),
            made_ms: login_made_ms,
            expires_ms: unix_ms(draft.refresh_expires),
            current: draft.refresh.hash,
        };
        let bytes = family.encode();
        let name = draft.refresh.family;
        self.tables.families.insert(name, &bytes[..])?;
        self.changes.push(RingChange::Login(name, family));
        let key = KeyV1 {
            id: draft.key_id,
            account: draft.account.as_u128(),
            prefix: draft.key.prefix.clone(),
            made_ms: ulid::Ulid(draft.key_id).timestamp_ms(),
            last_used_ms: None,
            expires_ms: Some(unix_ms(draft.expires)),
            family: Some(name),
        };
        self.put_key(draft.key.hash, key)
    }

    /// Ends a login with its keys.
    pub(super) fn end_login(
        &mut self,
        ring: &KeyRing,
        account: AccountId,
        family: SecretHash,
    ) -> Result<(), redb::Error> {
        self.tables.families.remove(family)?;
        self.changes.push(RingChange::NoLogin(account, family));
        for (hash, _) in ring.find(Some(account), |key| key.family == Some(family)) {
            self.remove_key(hash)?;
        }
        Ok(())
    }

    /// Makes room for one more key of a login.
    fn end_old_keys(
        &mut self,
        ring: &KeyRing,
        account: AccountId,
        family: SecretHash,
    ) -> Result<(), redb::Error> {
        let keys = ring.find(Some(account), |key| key.family == Some(family));
        let surplus = (keys.len() + 1).saturating_sub(KEYS_PER_LOGIN_MAX);
        for (hash, _) in keys.into_iter().take(surplus) {
            self.remove_key(hash)?;
        }
        Ok(())
    }

    /// Makes room for one more login of an account.
    fn end_surplus_logins(
        &mut self,
        ring: &KeyRing,
        account: AccountId,
    ) -> Result<(), redb::Error> {
        let logins = ring.logins_of(account);
        let surplus = (logins.len() + 1).saturating_sub(LOGINS_MAX);
        for family in logins.into_iter().take(surplus) {
            self.end_login(ring, account, family)?;
        }
        Ok(())
    }
}
