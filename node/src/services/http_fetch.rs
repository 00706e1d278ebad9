//! Fetches from elsewhere on behalf of accounts and agents: an outbound proxy with an allow-list.
//!
//! What may be asked is [`crate::fetch`]'s to say; this sends it. Each hop is checked as it is
//! written and again as its name resolves, at the connection itself. Addresses of this machine and
//! of private networks are refused, however the node is reached: an agent's code is not trusted
//! with the operator's network unless the operator has said so and named the host.
//!
//! What runs is bounded by its number, for all and for each account, and by the bytes that answers
//! may take together, which count until an answer was passed on.

use std::{
    collections::HashMap,
    error::Error as _,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use aither_ledger::AccountId;
use bytes::{Bytes, BytesMut};
use reqwest::header::{self, HeaderMap, HeaderValue};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::Url;

use super::outbound::{Targets, has_no_public_address};
use crate::{
    config::FetchConfig,
    fetch::{
        ANSWER_BYTES_MAX, AllowList, FetchError, HEADER_BYTES_MAX, Outgoing, Permission,
        REDIRECTS_MAX, TIMEOUT_MAX,
    },
};

/// Fetches that run at once.
const RUNNING_MAX: usize = 64;
/// Those of one account.
const ACCOUNT_RUNNING_MAX: usize = 8;
/// What their answers may take together, in units of [`BYTES_UNIT`].
const ANSWER_UNITS_MAX: usize = 64 << 10;
/// Answers are counted in these: a semaphore counts to no more than 32 bits.
const BYTES_UNIT: usize = 1 << 10;
/// Time to reach a host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that are kept for the next request to their host, and for how long.
const IDLE_PER_HOST_MAX: usize = 4;
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// What says who asks, where the caller does not.
const USER_AGENT: &str = concat!("aither-node/", env!("CARGO_PKG_VERSION"));

/// Fetches from elsewhere; clones share it.
#[derive(Debug, Clone)]
pub struct FetchService {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    allow: AllowList,
    allow_private: bool,
    public: reqwest::Client,
    any: reqwest::Client,
    running: Arc<Semaphore>,
    answer_units: Arc<Semaphore>,
    accounts: Arc<Mutex<HashMap<AccountId, usize>>>,
}

/// How much may be spent on a fetch.
#[derive(Debug, Clone, Copy)]
pub struct FetchBounds {
    /// Bytes of the answer's body that are read.
    pub bytes_max: usize,
    /// Time for all of it.
    pub timeout: Duration,
}

/// What came back.
#[derive(Debug)]
pub struct Fetched {
    /// The answer's status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, as far as it was read.
    pub body: Bytes,
    /// Whether there was more of it.
    pub is_truncated: bool,
    /// Whose answer it is, after redirects.
    pub url: Url,
    /// How long it took.
    pub elapsed: Duration,
    /// Counts until it is dropped: once the answer was passed on.
    pub place: FetchPlace,
}

/// The right to run one fetch, and to the memory that its answer takes.
#[derive(Debug)]
#[must_use = "the fetch counts as ended once its place is dropped"]
pub struct FetchPlace {
    account: AccountId,
    accounts: Arc<Mutex<HashMap<AccountId, usize>>>,
    _running: OwnedSemaphorePermit,
    _units: OwnedSemaphorePermit,
}

impl FetchService {
    /// Makes the clients.
    ///
    /// # Errors
    /// A rule that is none, or there is no client.
    pub fn new(config: &FetchConfig) -> Result<Self, FetchError> {
        let allow = AllowList::parse(config.allow.iter().map(String::as_str));
        let allow = allow.map_err(|error| FetchError::Internal(error.to_string()))?;
        Ok(Self {
            shared: Arc::new(Shared {
                allow,
                allow_private: config.allow_private,
                public: client(Targets::Public)?,
                any: client(Targets::Any)?,
                running: Arc::new(Semaphore::new(RUNNING_MAX)),
                answer_units: Arc::new(Semaphore::new(ANSWER_UNITS_MAX)),
                accounts: Arc::default(),
            }),
        })
    }

    /// Returns whether anything may be fetched.
    pub fn is_configured(&self) -> bool {
        !self.shared.allow.is_empty()
    }

    /// Fetches something for an account.
    ///
    /// # Errors
    /// It may not be asked, too much is under way, or the other side failed.
    pub async fn fetch(
        &self,
        account: AccountId,
        outgoing: Outgoing,
        bounds: FetchBounds,
    ) -> Result<Fetched, FetchError> {
        if !self.is_configured() {
            return Err(FetchError::NotConfigured);
        }
        let bytes_max = bounds.bytes_max.min(ANSWER_BYTES_MAX);
        let timeout = bounds.timeout.min(TIMEOUT_MAX);
        // Told before a place is taken, and again at each hop.
        self.client_for(&outgoing.url)?;
        let place = self.shared.place(account, bytes_max)?;
        let started = Instant::now();
        let followed = tokio::time::timeout(timeout, self.follow(outgoing, bytes_max)).await;
        let (head, body, is_truncated) =
            followed.map_err(|_elapsed| FetchError::TimedOut { timeout })??;
        Ok(Fetched {
            status: head.status,
            headers: head.headers,
            url: head.url,
            body,
            is_truncated,
            elapsed: started.elapsed(),
            place,
        })
    }

    /// Asks, and follows redirects by hand.
    async fn follow(
        &self,
        mut outgoing: Outgoing,
        bytes_max: usize,
    ) -> Result<(Head, Bytes, bool), FetchError> {
        for _ in 0..=REDIRECTS_MAX {
            let client = self.client_for(&outgoing.url)?;
            let answer = send(client, &outgoing).await?;
            let location = answer.headers().get(header::LOCATION);
            match outgoing.redirected(answer.status(), location)? {
                Some(next) => outgoing = next,
                None => {
                    let head = Head::of(&answer, outgoing.url)?;
                    let (body, is_truncated) = read(answer, &head.url, bytes_max).await?;
                    return Ok((head, body, is_truncated));
                }
            }
        }
        Err(FetchError::TooManyRedirects)
    }

    /// Returns the client that may ask an address.
    fn client_for(&self, url: &Url) -> Result<&reqwest::Client, FetchError> {
        let permission = self.shared.allow.check(url)?;
        if self.shared.allow_private && permission == Permission::Exact {
            return Ok(&self.shared.any);
        }
        let checked = Targets::Public.check(url.as_str());
        checked.map_err(|_words| forbidden(url))?;
        Ok(&self.shared.public)
    }
}

impl Shared {
    fn place(&self, account: AccountId, bytes_max: usize) -> Result<FetchPlace, FetchError> {
        let units = u32::try_from(bytes_max.div_ceil(BYTES_UNIT)).unwrap_or(u32::MAX);
        let running = Arc::clone(&self.running).try_acquire_owned();
        let units = Arc::clone(&self.answer_units).try_acquire_many_owned(units);
        let (Ok(running), Ok(units)) = (running, units) else {
            return Err(FetchError::Busy);
        };
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = accounts.entry(account).or_insert(0);
        if ACCOUNT_RUNNING_MAX <= *count {
            let max = ACCOUNT_RUNNING_MAX;
            return Err(FetchError::AccountBusy { max });
        }
        *count += 1;
        Ok(FetchPlace {
            account,
            accounts: Arc::clone(&self.accounts),
            _running: running,
            _units: units,
        })
    }
}

impl Drop for FetchPlace {
    fn drop(&mut self) {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = accounts.get_mut(&self.account) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                accounts.remove(&self.account);
            }
        }
    }
}

/// What stands before an answer's body.
struct Head {
    status: u16,
    headers: HeaderMap,
    url: Url,
}

impl Head {
    fn of(answer: &reqwest::Response, url: Url) -> Result<Self, FetchError> {
        let headers = answer.headers();
        let bytes: usize = headers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum();
        if bytes > HEADER_BYTES_MAX {
            return Err(upstream(&url, "its headers are too large"));
        }
        Ok(Self {
            status: answer.status().as_u16(),
            headers: headers.clone(),
            url,
        })
    }
}

fn client(targets: Targets) -> Result<reqwest::Client, FetchError> {
    let client = targets
        .client()
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .build();
    client.map_err(|error| FetchError::Internal(format!("no HTTP client: {error}")))
}

async fn send(
    client: &reqwest::Client,
    outgoing: &Outgoing,
) -> Result<reqwest::Response, FetchError> {
    let mut headers = outgoing.headers.clone();
    headers
        .entry(header::USER_AGENT)
        .or_insert(HeaderValue::from_static(USER_AGENT));
    let mut request = client
        .request(outgoing.method.clone(), outgoing.url.clone())
        .headers(headers);
    if !outgoing.body.is_empty() {
        request = request.body(outgoing.body.clone());
    }
    let sent = request.send().await;
    sent.map_err(|error| match has_no_public_address(&error) {
        true => forbidden(&outgoing.url),
        false => upstream(&outgoing.url, &words_of(&error)),
    })
}

/// Reads a body as far as it may be.
async fn read(
    mut answer: reqwest::Response,
    url: &Url,
    bytes_max: usize,
) -> Result<(Bytes, bool), FetchError> {
    let mut body = BytesMut::new();
    loop {
        let chunk = answer.chunk().await;
        let chunk = chunk.map_err(|error| upstream(url, &words_of(&error)))?;
        let Some(chunk) = chunk else {
            return Ok((body.freeze(), false));
        };
        let room = bytes_max - body.len();
        if chunk.len() > room {
            body.extend_from_slice(&chunk[..room]);
            return Ok((body.freeze(), true));
        }
        body.extend_from_slice(&chunk);
    }
}

fn forbidden(url: &Url) -> FetchError {
    FetchError::Forbidden {
        url: crate::fetch::without_query(url),
        reason: "it lies on this machine or in a private network".to_owned(),
    }
}

fn upstream(url: &Url, reason: &str) -> FetchError {
    FetchError::Upstream {
        url: crate::fetch::without_query(url),
        reason: reason.to_owned(),
    }
}

/// The words of the innermost cause: those around it only say that something failed.
fn words_of(error: &reqwest::Error) -> String {
    let mut words = String::from("it does not speak HTTP");
    let mut cause = error.source();
    while let Some(error) = cause {
        words = error.to_string();
        cause = error.source();
    }
    words
}

#[cfg(test)]
mod tests;
