//! Accounts for async callers: who may register and log in, how often, and what keys open.
//!
//! The store and argon2 block, so both run behind a [`Gate`]: a flood of logins waits for a few
//! cores and is refused beyond a queue, while everything else goes on. A key is looked up in
//! memory, on the spot.
//!
//! Whoever must know of every account (a welcome grant, say) gives an [`AccountHook`]. It is told
//! once the account is durable, and again after a crash or a failure until it has said yes.

use std::{
    error::Error,
    fmt,
    net::{IpAddr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use aither_protocol::Plan;
use futures_util::future::BoxFuture;
use tokio::time::MissedTickBehavior;

use super::{
    gate::{Gate, GateError},
    plan_limits::{Permit, PlanLimits},
    rate_limit::RateLimit,
};
use crate::{
    accounts::{
        Account, AccountCaller, AccountChange, AccountError, AccountId, AccountStore,
        CreatedAccount, InvalidField, KeyInfo, KeyRefusal, NewAccount, SecretText, Session,
        SessionTerms, StoreError, check_email, check_password, hash_password, matches_password,
    },
    config::{AccountsConfig, Registration},
};

/// Attempts to log in to one account: a person's typing errors, not a dictionary.
const ATTEMPTS_PER_EMAIL: u32 = 10;
/// Attempts and registrations from one address, behind which an office may sit.
const ATTEMPTS_PER_ADDRESS: u32 = 120;
/// Password hashes at once, whatever the machine: each takes 19 MiB and a core.
const HASHES_MAX: usize = 4;
/// Password hashes that wait.
const HASHES_WAITING_MAX: usize = 64;
/// Uses of the store at once. They take turns at its lock, so more would only hold threads.
const STORE_USES_MAX: usize = 2;
/// Uses of the store that wait: as many as there are connections in the default configuration.
const STORE_USES_WAITING_MAX: usize = 512;
/// Time between two writes of when keys were last used.
const TIDY_PERIOD: Duration = Duration::from_secs(60);

/// Is told of new accounts.
pub trait AccountHook: Send + Sync + fmt::Debug {
    /// Does what is due for an account that is durable now. May be called again for the same
    /// account, also at the same time, and must then do nothing new: what it makes is named by
    /// the account's id.
    fn on_created(
        &self,
        account: AccountId,
    ) -> BoxFuture<'_, Result<(), Box<dyn Error + Send + Sync>>>;
}

/// The accounts of this node; clones share it.
#[derive(Debug, Clone)]
pub struct AccountService {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: AccountStore,
    config: AccountsConfig,
    hook: Option<Arc<dyn AccountHook>>,
    hashing: Gate,
    storing: Gate,
    attempts_per_email: RateLimit<String>,
    attempts_per_address: RateLimit<IpAddr>,
    plans: PlanLimits,
}

impl AccountService {
    /// Opens the store at `path`. Blocks.
    ///
    /// # Errors
    /// The store's.
    pub fn open(
        path: &Path,
        config: AccountsConfig,
        hook: Option<Arc<dyn AccountHook>>,
    ) -> Result<Self, StoreError> {
        let store = AccountStore::open(path)?;
        // Half of the cores are left to what else the node does.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            shared: Arc::new(Shared {
                store,
                config,
                hook,
                hashing: Gate::new((cores / 2).clamp(1, HASHES_MAX), HASHES_WAITING_MAX),
                storing: Gate::new(STORE_USES_MAX, STORE_USES_WAITING_MAX),
                attempts_per_email: RateLimit::per_minute(ATTEMPTS_PER_EMAIL),
                attempts_per_address: RateLimit::per_minute(ATTEMPTS_PER_ADDRESS),
                plans: PlanLimits::default(),
            }),
        })
    }

    /// Returns whose key this is. Takes some microseconds and touches no disk.
    ///
    /// # Errors
    /// It is nobody's, or not good any more.
    pub fn authenticate(&self, key: &str) -> Result<AccountCaller, KeyRefusal> {
        self.shared.store.authenticate(key, SystemTime::now())
    }

    /// Returns the plan of an account whose keys work.
    ///
    /// # Errors
    /// There is no such account, or it is switched off.
    pub fn plan_of(&self, account: AccountId) -> Result<Plan, KeyRefusal> {
        self.shared.store.plan_of(account)
    }

    /// Lets a paid request of an account begin, within its plan.
    ///
    /// # Errors
    /// [`AccountError::RateLimited`].
    pub fn admit(&self, account: AccountId, plan: Plan) -> Result<Permit, AccountError> {
        self.shared.plans.admit(account, plan)
    }

    /// Counts work that belongs to a request which has begun, as if it were one by itself.
    ///
    /// # Errors
    /// The account had as many in the last minute as its plan allows.
    pub fn count(&self, account: AccountId, plan: Plan) -> Result<(), AccountError> {
        self.shared.plans.count(account, plan)
    }

    /// Takes what is free now for more work at once of a request that has begun, at most so much.
    pub fn more(&self, account: AccountId, plan: Plan, count_max: usize) -> Vec<Permit> {
        self.shared.plans.more(account, plan, count_max)
    }

    /// Makes an account for whoever asks from `address`.
    ///
    /// # Errors
    /// Registration is closed, fields do not fit, the e-mail address is taken, it was too often.
    pub async fn register(
        &self,
        address: IpAddr,
        email: &str,
        password: SecretText,
    ) -> Result<CreatedAccount, AccountError> {
        if self.shared.config.registration == Registration::Closed {
            return Err(AccountError::RegistrationClosed);
        }
        self.make(Some(address), email, Some(password), None).await
    }

    /// Makes an account for the operator; without a password it lives by its key alone.
    ///
    /// # Errors
    /// Fields do not fit, or the e-mail address is taken.
    pub async fn create(
        &self,
        email: &str,
        password: Option<SecretText>,
        plan: Option<Plan>,
    ) -> Result<CreatedAccount, AccountError> {
        self.make(None, email, password, plan).await
    }

    async fn make(
        &self,
        address: Option<IpAddr>,
        email: &str,
        password: Option<SecretText>,
        plan: Option<Plan>,
    ) -> Result<CreatedAccount, AccountError> {
        let email = check_new(email, password.as_ref())?;
        if let Some(address) = address {
            self.count_address(address)?;
        }
        let wanted = email.clone();
        let found = self.store(move |store| store.by_email(&wanted)).await??;
        if found.is_some() {
            // Said before the password is hashed: it costs nothing yet.
            return Err(AccountError::EmailTaken);
        }
        let password_hash = match password {
            Some(password) => {
                let hashing = self.shared.hashing.run(move || hash_password(&password));
                Some(hashing.await.map_err(refusal_of)??)
            }
            None => None,
        };
        let new = NewAccount {
            email,
            password_hash,
            plan: plan.unwrap_or(self.shared.config.default_plan),
        };
        let created = self
            .store(move |store| store.create(new, SystemTime::now()))
            .await??;
        tracing::info!(account = %created.account.id, plan = %created.account.plan, "new account");
        self.announce(created.account.id).await;
        Ok(created)
    }

    /// Gives whoever knows the password a key for a while.
    ///
    /// # Errors
    /// Wrong words, too many attempts, or a disabled account.
    pub async fn log_in(
        &self,
        address: IpAddr,
        email: &str,
        password: SecretText,
    ) -> Result<Session, AccountError> {
        let email = check_email(email).map_err(|invalid| AccountError::Invalid(vec![invalid]))?;
        self.count_address(address)?;
        let attempts = self.shared.attempts_per_email.check(&email);
        attempts.map_err(|retry_after| AccountError::RateLimited {
            message: "too many attempts to log in to this account".into(),
            retry_after,
        })?;
        let found = self.store(move |store| store.by_email(&email)).await??;
        let (account, hash) = found.map_or((None, None), |(account, hash)| (Some(account), hash));
        // A password that could never have been taken is not hashed at length.
        let is_possible = check_password(&password).is_ok();
        let verifying = self
            .shared
            .hashing
            .run(move || matches_password(&password, hash.as_deref()));
        let is_right = is_possible && verifying.await.map_err(refusal_of)?;
        let account = account.filter(|_| is_right);
        let id = account.ok_or(AccountError::WrongCredentials)?.id;
        let terms = self.terms();
        self.store(move |store| store.log_in(id, terms, SystemTime::now()))
            .await?
    }

    /// Takes a refresh token for the next key and the next token.
    ///
    /// # Errors
    /// It does not work, or was used before: then the whole login ends.
    pub async fn refresh(&self, presented: SecretText) -> Result<Session, AccountError> {
        let terms = self.terms();
        self.store(move |store| store.refresh(&presented, terms, SystemTime::now()))
            .await?
    }

    /// Returns an account.
    ///
    /// # Errors
    /// There is none.
    pub async fn account(&self, id: AccountId) -> Result<Account, AccountError> {
        self.store(move |store| store.account(id)).await?
    }

    /// Returns up to `count` accounts made after `after`, the oldest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn list(
        &self,
        after: Option<AccountId>,
        count: usize,
    ) -> Result<Vec<Account>, AccountError> {
        Ok(self.store(move |store| store.list(after, count)).await??)
    }

    /// Changes an account for the operator.
    ///
    /// # Errors
    /// There is none.
    pub async fn update(
        &self,
        id: AccountId,
        change: AccountChange,
    ) -> Result<Account, AccountError> {
        let account = self.store(move |store| store.update(id, change)).await??;
        tracing::info!(account = %id, plan = %account.plan, state = ?account.state, "changed");
        Ok(account)
    }

    /// Returns an account's keys that have not expired, the oldest first.
    pub fn keys(&self, account: AccountId) -> Vec<KeyInfo> {
        self.shared.store.keys(account, SystemTime::now())
    }

    /// Ends a key of an account, or of any, named by its id or by its beginning. The login that it
    /// came from ends with it.
    ///
    /// # Errors
    /// There is no such key.
    pub async fn revoke_key(
        &self,
        account: Option<AccountId>,
        name: String,
    ) -> Result<(), AccountError> {
        self.store(move |store| store.revoke(account, &name))
            .await?
    }

    /// Tells the hook what it was not told, then keeps the store tidy. Never ends by itself.
    pub async fn maintain(&self) {
        let mut ticks = tokio::time::interval(TIDY_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for account in self.shared.store.unannounced() {
                self.announce(account).await;
            }
            self.flush().await;
            self.shared.attempts_per_email.forget_idle();
            self.shared.attempts_per_address.forget_idle();
            self.shared.plans.forget_idle();
        }
    }

    /// Writes when keys were last used, and drops what has expired.
    pub async fn flush(&self) {
        let tidied = self.store(|store| store.tidy(SystemTime::now())).await;
        if let Err(error) = tidied.and_then(|tidied| Ok(tidied?)) {
            tracing::error!(%error, "cannot tidy up the accounts");
        }
    }

    /// Writes a copy of the store, in a file that is not there yet.
    ///
    /// # Errors
    /// The store's.
    pub async fn copy_to(&self, path: PathBuf) -> Result<(), AccountError> {
        Ok(self.store(move |store| store.copy_to(&path)).await??)
    }

    /// Tells the hook of an account. What fails is tried again by [`Self::maintain`].
    async fn announce(&self, id: AccountId) {
        let Some(hook) = &self.shared.hook else {
            return;
        };
        if let Err(error) = hook.on_created(id).await {
            tracing::error!(account = %id, %error, "an account is not set up; it is tried again");
            return;
        }
        let marked = self.store(move |store| store.mark_announced(id)).await;
        if let Err(error) = marked.and_then(|marked| Ok(marked?)) {
            tracing::error!(account = %id, %error, "cannot note that an account is set up");
        }
    }

    fn terms(&self) -> SessionTerms {
        SessionTerms {
            key_ttl: self.shared.config.login_key_ttl,
            refresh_ttl: self.shared.config.refresh_ttl,
        }
    }

    fn count_address(&self, address: IpAddr) -> Result<(), AccountError> {
        let attempts = self.shared.attempts_per_address.check(&site_of(address));
        attempts.map_err(|retry_after| AccountError::RateLimited {
            message: "too many attempts from your address".into(),
            retry_after,
        })
    }

    async fn store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&AccountStore) -> T + Send + 'static,
    ) -> Result<T, AccountError> {
        let shared = Arc::clone(&self.shared);
        let running = self.shared.storing.run(move || work(&shared.store));
        running.await.map_err(refusal_of)
    }
}

/// Checks all fields of a new account at once.
fn check_new(email: &str, password: Option<&SecretText>) -> Result<String, AccountError> {
    let email = check_email(email);
    let password = password.map_or(Ok(()), check_password);
    match (email, password) {
        (Ok(email), Ok(())) => Ok(email),
        (email, password) => {
            let wrong: Vec<InvalidField> = [email.err(), password.err()]
                .into_iter()
                .flatten()
                .collect();
            Err(AccountError::Invalid(wrong))
        }
    }
}

/// Whoever has one IPv6 address has its whole network of 64 bits.
fn site_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(network))
        }
        address => address,
    }
}

fn refusal_of(error: GateError) -> AccountError {
    match error {
        GateError::Full { retry_after } => AccountError::Overloaded { retry_after },
        GateError::Panicked => AccountError::Internal("work on an account panicked".into()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Fails as often as it was told, then says yes.
    #[derive(Debug)]
    struct Welcome {
        failures: AtomicUsize,
        welcomed: AtomicUsize,
    }

    impl Welcome {
        fn failing(failures: usize) -> Arc<Self> {
            Arc::new(Self {
                failures: AtomicUsize::new(failures),
                welcomed: AtomicUsize::new(0),
            })
        }

        fn welcomed(&self) -> usize {
            self.welcomed.load(Ordering::SeqCst)
        }
    }

    impl AccountHook for Welcome {
        fn on_created(
            &self,
            _account: AccountId,
        ) -> BoxFuture<'_, Result<(), Box<dyn Error + Send + Sync>>> {
            Box::pin(async {
                let left = self.failures.load(Ordering::SeqCst);
                if left > 0 {
                    self.failures.store(left - 1, Ordering::SeqCst);
                    return Err("not now".into());
                }
                self.welcomed.fetch_add(1, Ordering::SeqCst);
                Ok(())
            })
        }
    }

    /// Opens accounts. The store of a service that was dropped may still be at work on a blocking
    /// thread for a moment, and nobody else can have the file until then.
    fn open(path: &Path, hook: Option<Arc<dyn AccountHook>>) -> AccountService {
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        loop {
            match AccountService::open(path, AccountsConfig::default(), hook.clone()) {
                Ok(service) => return service,
                Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
            }
            std::thread::yield_now();
        }
    }

    /// One round of maintenance.
    async fn maintain(service: &AccountService) {
        let round = service.maintain();
        let deadline = tokio::time::sleep(Duration::from_secs(30));
        let done = async {
            while !service.shared.store.unannounced().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = round => {}
            () = done => {}
            () = deadline => panic!("waited in vain for the hook"),
        }
    }

    #[tokio::test]
    async fn the_hook_is_told_once_the_account_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let welcome = Welcome::failing(0);
        let service = open(&directory.path().join("a"), Some(welcome.clone()));
        service.create("ann@example.org", None, None).await.unwrap();
        assert_eq!(welcome.welcomed(), 1);
        assert!(service.create("ann@example.org", None, None).await.is_err());
        maintain(&service).await;
        assert_eq!(welcome.welcomed(), 1);
    }

    #[tokio::test]
    async fn a_hook_that_failed_or_came_later_is_told_at_the_next_start() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let broken = Welcome::failing(1);
        let service = open(&path, Some(broken.clone()));
        service.create("ann@example.org", None, None).await.unwrap();
        assert_eq!(broken.welcomed(), 0);
        drop(service);
        let service = open(&path, None);
        service.create("bob@example.org", None, None).await.unwrap();
        drop(service);
        let welcome = Welcome::failing(0);
        let service = open(&path, Some(welcome.clone()));
        maintain(&service).await;
        assert_eq!(welcome.welcomed(), 2);
        drop(service);
        let nobody = Welcome::failing(0);
        maintain(&open(&path, Some(nobody.clone()))).await;
        assert_eq!(nobody.welcomed(), 0);
    }

    #[tokio::test]
    async fn a_flood_of_logins_is_refused_beyond_its_queue() {
        let directory = tempfile::tempdir().unwrap();
        let service = open(&directory.path().join("a"), None);
        let address = |n: u8| IpAddr::from([203, 0, 113, n]);
        let logins: Vec<_> = (0..100)
            .map(|n| {
                let service = service.clone();
                tokio::spawn(async move {
                    let password = SecretText::from("wrong horse".to_owned());
                    let email = format!("u{n}@example.org");
                    service.log_in(address(n), &email, password).await
                })
            })
            .collect();
        let mut refused = 0;
        for login in logins {
            match login.await.unwrap() {
                Err(AccountError::Overloaded { .. }) => refused += 1,
                Err(AccountError::WrongCredentials) => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(
            (1..=100 - HASHES_WAITING_MAX).contains(&refused),
            "{refused}"
        );
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let site = |text: &str| site_of(text.parse().unwrap());
        assert_eq!(site("2001:db8::1"), site("2001:db8::ffff:1"));
        assert_ne!(site("2001:db8::1"), site("2001:db8:0:1::1"));
        assert_eq!(site("::ffff:192.0.2.1"), site("192.0.2.1"));
        assert_ne!(site("192.0.2.1"), site("192.0.2.2"));
    }
}
