//! The store on real files: what survives, what ends, and what a damaged file does.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Barrier},
};

use rand::{RngExt, SeedableRng};
use redb::{Database, TableDefinition};

use super::*;
use crate::accounts::{SecretText, Session};

const TERMS: SessionTerms = SessionTerms {
    key_ttl: Duration::from_secs(3600),
    refresh_ttl: Duration::from_secs(86_400),
};

struct Home {
    directory: tempfile::TempDir,
    store: AccountStore,
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn home() -> Home {
    let directory = tempfile::tempdir().unwrap();
    let store = AccountStore::open(&directory.path().join("accounts.redb")).unwrap();
    Home { directory, store }
}

impl Home {
    fn path(&self) -> PathBuf {
        self.directory.path().join("accounts.redb")
    }

    fn reopened(self) -> Self {
        let path = self.path();
        let Self { directory, store } = self;
        drop(store);
        let store = AccountStore::open(&path).unwrap();
        Self { directory, store }
    }
}

fn create(store: &AccountStore, email: &str) -> CreatedAccount {
    let new = NewAccount {
        email: email.into(),
        password_hash: Some("$hash".into()),
        plan: Plan::Builder,
    };
    store.create(new, now()).unwrap()
}

fn works(store: &AccountStore, key: &SecretText, at: SystemTime) -> Result<(), KeyRefusal> {
    store.authenticate(key.reveal(), at).map(|_| ())
}

#[test]
fn accounts_and_keys_outlive_the_process() {
    let home = home();
    let made = create(&home.store, "ann@example.org");
    let id = made.account.id;
    let session = home.store.log_in(id, TERMS, now()).unwrap();
    let home = home.reopened();
    let caller = home
        .store
        .authenticate(made.api_key.reveal(), now())
        .unwrap();
    assert_eq!((caller.account, caller.plan), (id, Plan::Builder));
    assert_eq!(works(&home.store, &session.api_key, now()), Ok(()));
    let (account, hash) = home.store.by_email("ann@example.org").unwrap().unwrap();
    assert_eq!((account, hash), (made.account, Some("$hash".into())));
    assert!(home.store.by_email("bob@example.org").unwrap().is_none());
    home.store
        .refresh(&session.refresh_token, TERMS, now())
        .unwrap();
}

#[test]
fn no_secret_is_in_the_file() {
    let home = home();
    let made = create(&home.store, "ann@example.org");
    let session = home.store.log_in(made.account.id, TERMS, now()).unwrap();
    let bytes = fs::read(home.path()).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains("ann@example.org"));
    for secret in [&made.api_key, &session.api_key, &session.refresh_token] {
        assert!(!text.contains(&secret.reveal()[20..]));
    }
}

#[test]
fn an_address_has_one_account_even_when_two_ask_at_once() {
    let home = home();
    let barrier = Barrier::new(8);
    let made: usize = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let new = NewAccount {
                        email: "ann@example.org".into(),
                        password_hash: None,
                        plan: Plan::Explorer,
                    };
                    barrier.wait();
                    match home.store.create(new, now()) {
                        Ok(_) => 1,
                        Err(AccountError::EmailTaken) => 0,
                        Err(error) => panic!("{error}"),
                    }
                })
            })
            .collect();
        asking.into_iter().map(|asked| asked.join().unwrap()).sum()
    });
    assert_eq!((made, home.store.len()), (1, 1));
}

#[test]
fn a_refresh_token_that_many_bring_at_once_buys_one_session_and_ends_the_login() {
    let home = home();
    let made = create(&home.store, "ann@example.org");
    let id = made.account.id;
    let first = home.store.log_in(id, TERMS, now()).unwrap();
    let other = home.store.log_in(id, TERMS, now()).unwrap();
    let barrier = Barrier::new(8);
    let won: Vec<Session> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    home.store.refresh(&first.refresh_token, TERMS, now()).ok()
                })
            })
            .collect();
        let answers = asking.into_iter().map(|asked| asked.join().unwrap());
        answers.flatten().collect()
    });
    assert_eq!(won.len(), 1);
    let dead = [&first.api_key, &won[0].api_key];
    for key in dead {
        assert_eq!(works(&home.store, key, now()), Err(KeyRefusal::Unknown));
    }
    assert!(
        home.store
            .refresh(&won[0].refresh_token, TERMS, now())
            .is_err()
    );
    // Another login, and the first key, have nothing to do with it.
    for key in [&other.api_key, &made.api_key] {
        assert_eq!(works(&home.store, key, now()), Ok(()));
    }
    let home = home.reopened();
    assert_eq!(
        works(&home.store, &won[0].api_key, now()),
        Err(KeyRefusal::Unknown)
    );
    assert!(
        home.store
            .refresh(&other.refresh_token, TERMS, now())
            .is_ok()
    );
}

#[test]
fn a_reuse_is_remembered_when_all_keys_of_the_login_are_gone() {
    let home = home();
    let id = create(&home.store, "ann@example.org").account.id;
    let first = home.store.log_in(id, TERMS, now()).unwrap();
    let second = home
        .store
        .refresh(&first.refresh_token, TERMS, now())
        .unwrap();
    let later = now() + TERMS.key_ttl;
    home.store.tidy(later).unwrap();
    assert_eq!(home.store.keys(id, now()).len(), 1);
    assert!(
        home.store
            .refresh(&first.refresh_token, TERMS, later)
            .is_err()
    );
    let home = home.reopened();
    assert!(
        home.store
            .refresh(&second.refresh_token, TERMS, later)
            .is_err()
    );
}

#[test]
fn keys_and_logins_end_in_their_time() {
    let home = home();
    let made = create(&home.store, "ann@example.org");
    let session = home.store.log_in(made.account.id, TERMS, now()).unwrap();
    assert_eq!(session.expires, now() + TERMS.key_ttl);
    let just_before = session.expires - Duration::from_millis(1);
    assert_eq!(works(&home.store, &session.api_key, just_before), Ok(()));
    let over = works(&home.store, &session.api_key, session.expires);
    assert_eq!(over, Err(KeyRefusal::Expired));
    let long_after = now() + TERMS.refresh_ttl;
    assert_eq!(works(&home.store, &made.api_key, long_after), Ok(()));
    assert!(
        home.store
            .refresh(&session.refresh_token, TERMS, long_after)
            .is_err()
    );
    home.store.tidy(long_after).unwrap();
    assert_eq!(home.store.keys(made.account.id, now()).len(), 1);
    assert!(home.store.ring.logins_of(made.account.id).is_empty());
    let home = home.reopened();
    assert_eq!(home.store.ring.find(None, |_| true).len(), 1);
}

#[test]
fn logins_and_their_keys_are_bounded() {
    let home = home();
    let made = create(&home.store, "ann@example.org");
    let id = made.account.id;
    let at = |n: usize| now() + Duration::from_secs(n as u64);
    let sessions: Vec<_> = (0..LOGINS_MAX + 3)
        .map(|n| home.store.log_in(id, TERMS, at(n)).unwrap())
        .collect();
    assert_eq!(home.store.ring.logins_of(id).len(), LOGINS_MAX);
    assert!(works(&home.store, &sessions[2].api_key, now()).is_err());
    assert!(works(&home.store, &sessions[3].api_key, now()).is_ok());
    assert!(works(&home.store, &made.api_key, now()).is_ok());
    let mut last = sessions.into_iter().next_back().unwrap();
    for n in 0..5 {
        last = home
            .store
            .refresh(&last.refresh_token, TERMS, at(100 + n))
            .unwrap();
    }
    let keys = home.store.keys(id, now()).len();
    assert_eq!(keys, 1 + LOGINS_MAX - 1 + KEYS_PER_LOGIN_MAX);
}

#[test]
fn a_key_is_revoked_by_its_owner_alone() {
    let home = home();
    let ann = create(&home.store, "ann@example.org");
    let bob = create(&home.store, "bob@example.org");
    let name = home.store.keys(ann.account.id, now())[0].id.to_string();
    let refused = home.store.revoke(Some(bob.account.id), &name).unwrap_err();
    assert!(matches!(refused, AccountError::UnknownKey));
    home.store.revoke(Some(ann.account.id), &name).unwrap();
    assert!(home.store.revoke(Some(ann.account.id), &name).is_err());
    let home = home.reopened();
    assert!(works(&home.store, &ann.api_key, now()).is_err());
    assert!(works(&home.store, &bob.api_key, now()).is_ok());
}

#[test]
fn a_disabled_account_has_no_working_key_and_no_login() {
    let home = home();
    let made = create(&home.store, "ann@example.org");
    let id = made.account.id;
    let session = home.store.log_in(id, TERMS, now()).unwrap();
    let disabled = AccountChange {
        state: Some(AccountState::Disabled),
        ..AccountChange::default()
    };
    home.store.update(id, disabled).unwrap();
    let home = home.reopened();
    assert_eq!(
        works(&home.store, &made.api_key, now()),
        Err(KeyRefusal::Disabled)
    );
    let refused = home.store.log_in(id, TERMS, now()).unwrap_err();
    assert!(matches!(refused, AccountError::Disabled));
    let refused = home.store.refresh(&session.refresh_token, TERMS, now());
    assert!(matches!(refused, Err(AccountError::Disabled)));
    // A refusal does not use the token up.
    let active = AccountChange {
        state: Some(AccountState::Active),
        plan: Some(Plan::Explorer),
    };
    assert_eq!(home.store.update(id, active).unwrap().plan, Plan::Explorer);
    home.store
        .refresh(&session.refresh_token, TERMS, now())
        .unwrap();
    let caller = home
        .store
        .authenticate(made.api_key.reveal(), now())
        .unwrap();
    assert_eq!(caller.plan, Plan::Explorer);
}

#[test]
fn last_use_is_written_when_the_store_is_tidied() {
    let home = home();
    let made = create(&home.store, "ann@example.org");
    let used = now() + Duration::from_secs(5);
    works(&home.store, &made.api_key, used).unwrap();
    let last_used = |home: &Home| home.store.keys(made.account.id, now())[0].last_used;
    assert_eq!(last_used(&home), Some(used));
    home.store.tidy(used).unwrap();
    assert!(home.store.ring.used().is_empty());
    assert_eq!(last_used(&home.reopened()), Some(used));
}

#[test]
fn accounts_wait_to_be_announced_until_they_are() {
    let home = home();
    let ann = create(&home.store, "ann@example.org").account.id;
    let bob = create(&home.store, "bob@example.org").account.id;
    home.store.mark_announced(ann).unwrap();
    let home = home.reopened();
    assert_eq!(home.store.unannounced(), [bob]);
    assert_eq!(home.store.list(None, 10).unwrap().len(), 2);
}

#[test]
fn a_list_goes_on_where_it_ended() {
    let home = home();
    let mut ids: Vec<_> = (0..5)
        .map(|n| create(&home.store, &format!("{n}@example.org")).account.id)
        .collect();
    ids.sort();
    let list = |after, count| -> Vec<_> {
        let accounts = home.store.list(after, count).unwrap();
        accounts.into_iter().map(|account| account.id).collect()
    };
    assert_eq!(list(None, 2), ids[..2]);
    assert_eq!(list(Some(ids[1]), 10), ids[2..]);
    assert!(list(Some(ids[4]), 10).is_empty());
    assert!(list(Some(AccountId::from_u128(u128::MAX)), 10).is_empty());
}

#[test]
fn a_newer_or_foreign_database_is_left_alone() {
    let home = home();
    let path = home.path();
    drop(home.store);
    let database = Database::create(&path).unwrap();
    let tx = database.begin_write().unwrap();
    let meta = redb::TableDefinition::<&str, u64>::new("meta");
    tx.open_table(meta)
        .unwrap()
        .insert("schema_version", 2)
        .unwrap();
    tx.commit().unwrap();
    drop(database);
    let error = AccountStore::open(&path).unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::Newer {
                found: 2,
                known: 1,
                ..
            }
        ),
        "{error}"
    );

    let path = home.directory.path().join("foreign.redb");
    let database = Database::create(&path).unwrap();
    let tx = database.begin_write().unwrap();
    tx.open_table(TableDefinition::<u64, u64>::new("x"))
        .unwrap();
    tx.commit().unwrap();
    drop(database);
    let error = AccountStore::open(&path).unwrap_err();
    assert!(error.is_damage(), "{error}");
}

#[test]
fn a_second_opener_is_refused() {
    let home = home();
    let error = AccountStore::open(&home.path()).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
}

#[test]
fn a_damaged_file_is_refused_in_words_and_never_a_panic() {
    let home = home();
    for n in 0..50 {
        let id = create(&home.store, &format!("{n}@example.org")).account.id;
        home.store.log_in(id, TERMS, now()).unwrap();
    }
    let path = home.path();
    drop(home.store);
    let good = fs::read(&path).unwrap();
    let seed = 7;
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let mut refused = 0;
    for round in 0..60 {
        let mut bytes = good.clone();
        match round % 3 {
            0 => bytes.truncate(random.random_range(1..good.len())),
            1 => {
                let at = random.random_range(0..good.len());
                bytes[at] ^= 1 << random.random_range(0..8);
            }
            _ => {
                let at = random.random_range(0..good.len() - 4096);
                bytes[at..at + 4096].fill(random.random());
            }
        }
        fs::write(&path, &bytes).unwrap();
        // A flipped bit may lie in a page that nobody uses.
        if let Err(error) = AccountStore::open(&path) {
            assert!(error.is_damage(), "SEED={seed} round {round}: {error}");
            assert!(error.to_string().contains("accounts.redb"));
            refused += 1;
        }
    }
    assert!(refused > 20, "SEED={seed}: {refused} of 60");
    for bytes in [&b"not a database"[..], &[0; 8192]] {
        fs::write(&path, bytes).unwrap();
        assert!(AccountStore::open(&path).unwrap_err().is_damage());
    }
}

#[cfg(unix)]
#[test]
fn the_file_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let home = home();
    let mode = fs::metadata(home.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let directory = home.directory.path().join("directory");
    fs::create_dir(&directory).unwrap();
    let error = AccountStore::open(&directory).unwrap_err();
    assert!(!error.is_damage(), "{error}");
}

#[test]
fn a_lookup_takes_microseconds_among_many_keys() {
    let ring = KeyRing::default();
    let mut changes = Vec::new();
    let mut keys = Vec::new();
    for n in 0..20_000 {
        let key = NewKey::make(ACCOUNT_KEY_PREFIX).unwrap();
        changes.push(RingChange::Account {
            id: AccountId::from_u128(n),
            plan: Plan::Explorer,
            is_disabled: false,
            is_announced: true,
        });
        changes.push(RingChange::Key(
            key.hash,
            KeyV1 {
                id: n,
                account: n,
                prefix: key.prefix,
                made_ms: 0,
                last_used_ms: None,
                expires_ms: None,
                family: None,
            },
        ));
        keys.push(key.text);
    }
    ring.apply(changes);
    let ring = Arc::new(ring);
    let started = std::time::Instant::now();
    for key in &keys {
        ring.authenticate(key.reveal(), now()).unwrap();
    }
    let each = started.elapsed() / u32::try_from(keys.len()).unwrap();
    assert!(each < Duration::from_micros(20), "{each:?}");
}
