//! Searches: the web through a SearXNG, folders of this machine by an index, or both.
//!
//! The SearXNG is the operator's and may be anywhere; pages that it names are fetched by the rules
//! of [`FetchService`] alone, for whoever asks. The index is kept up to date by a thread of its
//! own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use aither_ledger::AccountId;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use reqwest::header::CONTENT_TYPE;
use tokio::time::{Instant, timeout_at};

use super::{
    gate::{Gate, GateError},
    http_fetch::{FetchBounds, FetchService},
    outbound::Targets,
};
use crate::{
    config::SearchConfig,
    fetch::Outgoing,
    websearch::{
        ANSWER_BYTES_MAX, ANSWER_TIMEOUT, CONTENT_CHARS_MAX, FolderIndex, Hit, SearchError, cut,
        searxng, text_of_html,
    },
};

/// Searches of the index that run at once, and that wait.
const SEARCHES_MAX: usize = 4;
const SEARCHES_WAITING_MAX: usize = 64;
/// Queries that the SearXNG is asked at once.
const QUERIES_MAX: usize = 16;
/// When to ask again where they are too many.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// Pages that are fetched at once for one search, and what may be spent on each.
const PAGES_AT_ONCE: usize = 4;
const PAGE_BOUNDS: FetchBounds = FetchBounds {
    bytes_max: 1 << 20,
    timeout: Duration::from_secs(8),
};

/// The part of a request's time that is left when pages are waited for no longer.
const ANSWER_PARTS: u32 = 8;

/// What was found.
#[derive(Debug)]
pub struct Found {
    /// The best first.
    pub hits: Vec<Hit>,
    /// Where: `searxng`, `folders` or `searxng+folders`.
    pub source: &'static str,
    /// Whether the folders are still being gone through for the first time since the start.
    pub is_indexing: bool,
}

/// Searches; clones share it.
#[derive(Debug, Clone)]
pub struct SearchService {
    searxng: Option<Arc<Searxng>>,
    folders: Option<Arc<IndexedFolders>>,
    fetch: FetchService,
    /// How long a search with its pages takes at most.
    time_max: Duration,
}

#[derive(Debug)]
struct Searxng {
    base: String,
    client: reqwest::Client,
    running: tokio::sync::Semaphore,
}

/// The index and the thread that refreshes it, which ends with the last who may ask.
#[derive(Debug)]
struct IndexedFolders {
    index: Arc<FolderIndex>,
    searches: Gate,
    stop: Arc<AtomicBool>,
    /// Wakes the thread by being dropped.
    _alive: mpsc::Sender<()>,
}

impl Drop for IndexedFolders {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl SearchService {
    /// Makes what the configuration names; the index lies in a folder of its own. A request is
    /// answered within a time, and so are its pages fetched.
    ///
    /// # Errors
    /// There is no HTTP client, or no thread.
    pub fn new(
        config: &SearchConfig,
        index_path: &std::path::Path,
        (fetch, request_timeout): (FetchService, Duration),
    ) -> Result<Self, SearchError> {
        let searxng = config
            .searxng_url
            .as_deref()
            .map(Searxng::new)
            .transpose()?;
        let folders = match config.folders.is_empty() {
            true => None,
            false => {
                let index = FolderIndex::new(index_path, &config.folders);
                Some(Arc::new(IndexedFolders::start(index, config.refresh)?))
            }
        };
        Ok(Self {
            searxng: searxng.map(Arc::new),
            folders,
            fetch,
            time_max: request_timeout - request_timeout / ANSWER_PARTS,
        })
    }

    /// Searches for an account.
    ///
    /// # Errors
    /// Nothing is configured, or all that is has failed.
    pub async fn search(
        &self,
        account: AccountId,
        query: &str,
        limit: usize,
        with_content: bool,
    ) -> Result<Found, SearchError> {
        let until = Instant::now() + self.time_max;
        let web = async {
            let searxng = self.searxng.as_ref()?;
            let hits = searxng.search(query, limit).await;
            match hits {
                Ok(hits) if with_content => Some(Ok(self.with_pages(account, hits, until).await)),
                hits => Some(hits),
            }
        };
        let local = async {
            let folders = self.folders.as_ref()?;
            Some(folders.search(query, limit, with_content).await)
        };
        let (web, local) = tokio::join!(web, local);
        let is_indexing = self.folders.as_ref().is_some_and(|f| !f.index.is_built());
        let (hits, source) = match (web, local) {
            (None, None) => return Err(SearchError::NotConfigured),
            (Some(hits), None) => (hits?, "searxng"),
            (None, Some(hits)) => (hits?, "folders"),
            (Some(Ok(web)), Some(Ok(local))) => (mixed(web, local), "searxng+folders"),
            // Half of an answer is more than none.
            (Some(Ok(hits)), Some(Err(error))) => (told(hits, &error), "searxng"),
            (Some(Err(error)), Some(Ok(hits))) => (told(hits, &error), "folders"),
            (Some(Err(error)), Some(Err(_))) => return Err(error),
        };
        Ok(Found {
            hits: hits.into_iter().take(limit).collect(),
            source,
            is_indexing,
        })
    }

    /// Adds the text of pages that may be fetched, and that come in time.
    async fn with_pages(&self, account: AccountId, hits: Vec<Hit>, until: Instant) -> Vec<Hit> {
        let pages = hits.into_iter().map(|hit| async move {
            let page = timeout_at(until, self.page(account, &hit.url)).await;
            Hit {
                content: page.ok().flatten(),
                ..hit
            }
        });
        stream::iter(pages).buffered(PAGES_AT_ONCE).collect().await
    }

    async fn page(&self, account: AccountId, url: &str) -> Option<String> {
        if !self.fetch.is_configured() {
            return None;
        }
        let outgoing = Outgoing::new("GET", url, &Vec::new(), Bytes::new()).ok()?;
        let fetched = self.fetch.fetch(account, outgoing, PAGE_BOUNDS).await;
        let fetched = fetched.ok().filter(|fetched| fetched.status == 200)?;
        let kind = fetched.headers.get(CONTENT_TYPE)?.to_str().ok()?;
        let kind = kind.split(';').next()?.trim().to_ascii_lowercase();
        let text = String::from_utf8_lossy(&fetched.body);
        let text = match &*kind {
            "text/html" | "application/xhtml+xml" => text_of_html(&text).1,
            "application/json" => text.into_owned(),
            kind if kind.starts_with("text/") => text.into_owned(),
            _ => return None,
        };
        Some(cut(&text, CONTENT_CHARS_MAX).to_owned())
    }
}

impl Searxng {
    fn new(base: &str) -> Result<Self, SearchError> {
        let client = Targets::Any.client().timeout(ANSWER_TIMEOUT).build();
        Ok(Self {
            base: base.to_owned(),
            client: client.map_err(|error| SearchError::Upstream(error.to_string()))?,
            running: tokio::sync::Semaphore::new(QUERIES_MAX),
        })
    }

    async fn search(&self, query: &str, limit: usize) -> Result<Vec<Hit>, SearchError> {
        let _turn = self.running.try_acquire().map_err(|_none_left| {
            let retry_after = RETRY_AFTER;
            SearchError::Overloaded { retry_after }
        })?;
        let failed = |error: reqwest::Error| match error.is_timeout() {
            true => SearchError::TimedOut(ANSWER_TIMEOUT),
            false => SearchError::Upstream(words_of(&error)),
        };
        let request = self.client.get(searxng::address(&self.base, query)?);
        let mut answer = request.send().await.map_err(failed)?;
        let mut body = BytesMut::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(SearchError::Upstream("it answered too much".to_owned()));
            }
            body.extend_from_slice(&chunk);
        }
        searxng::hits(answer.status().as_u16(), &body, limit)
    }
}

impl IndexedFolders {
    fn start(index: FolderIndex, period: Duration) -> Result<Self, SearchError> {
        let index = Arc::new(index);
        let stop = Arc::new(AtomicBool::new(false));
        let (alive, gone) = mpsc::channel();
        let (of_thread, stop_thread) = (Arc::clone(&index), Arc::clone(&stop));
        let thread = std::thread::Builder::new().name("search-index".to_owned());
        // Nobody waits for it: what it has not committed when the process ends is done again.
        let started = thread.spawn(move || keep_fresh(&of_thread, &stop_thread, period, &gone));
        started.map_err(|error| SearchError::Index(format!("no thread: {error}")))?;
        Ok(Self {
            index,
            searches: Gate::new(SEARCHES_MAX, SEARCHES_WAITING_MAX),
            stop,
            _alive: alive,
        })
    }

    async fn search(
        &self,
        query: &str,
        limit: usize,
        with_content: bool,
    ) -> Result<Vec<Hit>, SearchError> {
        let (index, query) = (Arc::clone(&self.index), query.to_owned());
        let search = move || index.search(&query, limit, with_content);
        let done = self.searches.run(search).await;
        done.map_err(|error| match error {
            GateError::Full { retry_after } => SearchError::Overloaded { retry_after },
            GateError::Panicked => SearchError::Index("searching it panicked".to_owned()),
        })?
    }
}

/// Refreshes an index again and again, until nobody is left who may ask.
fn keep_fresh(index: &FolderIndex, stop: &AtomicBool, period: Duration, gone: &mpsc::Receiver<()>) {
    loop {
        // A damaged index may make the library panic; the next refresh makes it anew.
        let refresh = || index.refresh(stop);
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(refresh)) {
            Ok(Ok(done)) if done.read > 0 || done.gone > 0 => {
                let (files, read, gone) = (done.files, done.read, done.gone);
                tracing::info!(files, read, gone, "indexed the folders");
            }
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the folders cannot be indexed now"),
            Err(_panic) => tracing::error!("indexing the folders panicked"),
        }
        if gone.recv_timeout(period) != Err(mpsc::RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// One of each in turn: nobody can compare how good they are.
fn mixed(web: Vec<Hit>, local: Vec<Hit>) -> Vec<Hit> {
    let (mut web, mut local) = (web.into_iter(), local.into_iter());
    let mut hits = Vec::new();
    loop {
        match (local.next(), web.next()) {
            (None, None) => return hits,
            (first, second) => hits.extend(first.into_iter().chain(second)),
        }
    }
}

fn told(hits: Vec<Hit>, error: &SearchError) -> Vec<Hit> {
    tracing::warn!(%error, "one of two searches failed");
    hits
}

/// The words of the innermost cause.
fn words_of(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::config::FetchConfig;

    fn hit(url: &str) -> Hit {
        Hit {
            title: String::new(),
            url: url.to_owned(),
            snippet: String::new(),
            content: None,
        }
    }

    #[test]
    fn results_of_two_sources_take_turns() {
        let of = |urls: &[&str]| urls.iter().map(|url| hit(url)).collect::<Vec<_>>();
        let urls = |hits: Vec<Hit>| hits.into_iter().map(|hit| hit.url).collect::<Vec<_>>();
        let all = mixed(of(&["w1", "w2", "w3"]), of(&["l1"]));
        assert_eq!(urls(all), ["l1", "w1", "w2", "w3"]);
        assert_eq!(urls(mixed(of(&[]), of(&["l1", "l2"]))), ["l1", "l2"]);
    }

    #[tokio::test]
    async fn a_page_that_does_not_come_in_time_has_no_content() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => break,
                    }
                }
                let said = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\
                            content-length: 3\r\nconnection: close\r\n\r\ntea";
                // Whoever asked may be gone.
                let _ = stream.write_all(said.as_bytes()).await;
            }
        });
        let fetch = FetchConfig {
            allow: vec![base.clone()],
            allow_private: true,
        };
        let fetch = FetchService::new(&fetch).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let config = SearchConfig::default();
        let timeout = Duration::from_secs(60);
        let search = SearchService::new(&config, folder.path(), (fetch, timeout)).unwrap();
        assert!(search.time_max < timeout);
        let contents = async |until| {
            let hits = vec![hit(&format!("{base}/a")), hit(&format!("{base}/b"))];
            let hits = search.with_pages(AccountId(1), hits, until).await;
            hits.into_iter().map(|hit| hit.content).collect::<Vec<_>>()
        };
        let now = Instant::now();
        assert_eq!(
            contents(now + timeout).await,
            [Some("tea".to_owned()), Some("tea".to_owned())]
        );
        assert_eq!(contents(now).await, [None, None]);
    }

    #[test]
    fn the_thread_of_an_index_ends_with_the_last_who_may_ask() {
        let folder = tempfile::tempdir().unwrap();
        let index = FolderIndex::new(&folder.path().join("index"), &[]);
        let folders = IndexedFolders::start(index, Duration::from_secs(3600)).unwrap();
        let index = Arc::downgrade(&folders.index);
        drop(folders);
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while index.upgrade().is_some() {
            assert!(std::time::Instant::now() < deadline, "it goes on");
            std::thread::yield_now();
        }
    }
}
