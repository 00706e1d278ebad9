//! One file over HTTP, resumable, checked while it arrives.
//!
//! What has arrived lies in `KEY.part`, and `KEY.json` beside it says of which URL and version
//! (the server's validator). A later attempt asks for the rest with `Range` and `If-Range`; a
//! server that ignores either starts over. Size, redirects, pauses and attempts are bounded, the
//! disk is asked for room first, and a file whose checksum is wrong is deleted.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use reqwest::{
    Client, Response, StatusCode, Url,
    header::{self, HeaderMap},
    redirect,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::{
    ModelStoreError, PullProgress,
    import::{hash_file, hex, sha256_of_file},
    source::{is_allowed, is_loopback},
};
use crate::files::{self, FileError};

/// Most redirects of one request.
const REDIRECTS_MAX: usize = 10;
/// Room to leave on the disk for everything else.
const SPACE_RESERVE_BYTES: u64 = 64 << 20;
/// An attempt that brought at least this much does not count as a failed one.
const GOOD_ATTEMPT_BYTES: u64 = 1 << 20;
/// Progress is reported at most this often.
const REPORT_PERIOD: Duration = Duration::from_millis(100);
/// The note beside an unfinished download is a URL and a validator.
const NOTE_BYTES_MAX: u64 = 16 * 1024;
/// Bytes gathered before they are written.
const WRITE_BUFFER_BYTES: usize = 1 << 20;

/// Bounds of downloads.
#[derive(Debug, Clone)]
pub struct DownloadLimits {
    /// Largest file.
    pub file_bytes_max: u64,
    /// Attempts in a row that bring next to nothing.
    pub attempts: u32,
    /// Pause before the second attempt; doubled before each further one.
    pub retry_pause: Duration,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest pause of a server that is sending.
    pub read_timeout: Duration,
}

impl Default for DownloadLimits {
    fn default() -> Self {
        Self {
            file_bytes_max: 256 << 30,
            attempts: 5,
            retry_pause: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(20),
            read_timeout: Duration::from_secs(60),
        }
    }
}

/// What to fetch and where to put it.
#[derive(Debug)]
pub struct Download<'a> {
    /// The source in the user's words, for messages.
    pub given: &'a str,
    /// Where it is.
    pub url: Url,
    /// A key that the server wants, sent to its host only.
    pub bearer: Option<String>,
    /// SHA-256, where it is known.
    pub sha256: Option<String>,
    /// Size in bytes, where it is known.
    pub size_bytes: Option<u64>,
    /// The directory of unfinished downloads.
    pub directory: &'a Path,
    /// Names the files there.
    pub key: String,
    /// Bounds.
    pub limits: &'a DownloadLimits,
}

/// A whole file.
#[derive(Debug)]
pub struct Fetched {
    /// Where it lies.
    pub path: PathBuf,
    /// Its SHA-256.
    pub sha256: String,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// What an unfinished download is a part of.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Note {
    url: String,
    validator: Option<String>,
}

/// How an attempt failed.
enum Failure {
    /// Another attempt may succeed.
    Transient(String),
    /// It will not.
    Final(ModelStoreError),
}

impl<E: Into<ModelStoreError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Final(error.into())
    }
}

/// Where an attempt begins and what is known of the whole.
struct Start {
    offset: u64,
    total: Option<u64>,
    hasher: Sha256,
}

impl Download<'_> {
    /// Fetches the file, going on where an earlier attempt stopped.
    ///
    /// # Errors
    /// The server refuses, or fails too often in a row; the file is too large, does not fit on
    /// the disk, or has another checksum.
    pub async fn fetch(
        &self,
        progress: &mut (impl FnMut(PullProgress) + Send),
    ) -> Result<Fetched, ModelStoreError> {
        fs::create_dir_all(self.directory).map_err(FileError::write(self.directory))?;
        let client = self.client()?;
        let mut pause = self.limits.retry_pause;
        let mut failed_attempts = 0;
        loop {
            let before = self.part_len();
            let message = match self.attempt(&client, progress).await {
                Ok(fetched) => return Ok(fetched),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Transient(message)) => message,
            };
            if self.part_len().saturating_sub(before) >= GOOD_ATTEMPT_BYTES {
                failed_attempts = 0;
                pause = self.limits.retry_pause;
            }
            failed_attempts += 1;
            if failed_attempts >= self.limits.attempts {
                return Err(self.failed(format!(
                    "{message}; gave up after {failed_attempts} attempts; the same command goes \
                     on where this one stopped"
                )));
            }
            tracing::debug!(source = self.given, message, "a download attempt failed");
            progress(PullProgress::step(format!("retrying: {message}")));
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    /// Removes what is left of the download.
    pub fn clear(&self) {
        clear(self.directory, &self.key);
    }

    async fn attempt(
        &self,
        client: &Client,
        progress: &mut (impl FnMut(PullProgress) + Send),
    ) -> Result<Fetched, Failure> {
        let response = self.request(client).await?;
        let start = self.start(&response).await?;
        let resumed = start.offset > 0;
        self.check_room(&start)?;
        let (sha256, size_bytes) = self.receive(response, start, progress).await?;
        match &self.sha256 {
            Some(expected) if *expected != sha256 => {
                self.clear();
                if resumed {
                    // The old part may have been of another version: once more from the start.
                    return Err(Failure::Transient("the resumed file does not match".into()));
                }
                Err(Failure::Final(ModelStoreError::WrongChecksum {
                    given: self.given.to_owned(),
                    expected: expected.clone(),
                    actual: sha256,
                }))
            }
            _ => Ok(Fetched {
                path: self.part_path(),
                sha256,
                size_bytes,
            }),
        }
    }

    async fn request(&self, client: &Client) -> Result<Response, Failure> {
        let mut request = client
            .get(self.url.clone())
            // A compressed body would make byte ranges meaningless.
            .header(header::ACCEPT_ENCODING, "identity");
        if let Some(key) = &self.bearer {
            request = request.bearer_auth(key);
        }
        let offset = self.part_len();
        let note = self.read_note();
        let validator = note.validator.filter(|_| note.url == self.url.as_str());
        // Without a validator only the checksum can tell whether the parts belong together.
        if offset > 0 && (validator.is_some() || self.sha256.is_some()) {
            request = request.header(header::RANGE, format!("bytes={offset}-"));
            if let Some(validator) = validator {
                request = request.header(header::IF_RANGE, validator);
            }
        }
        let response = request
            .send()
            .await
            .map_err(|error| Failure::Transient(describe(&error)))?;
        self.check_status(&response)?;
        Ok(response)
    }

    fn check_status(&self, response: &Response) -> Result<(), Failure> {
        let status = response.status();
        let refused = |message: String| Err(Failure::Final(self.failed(message)));
        match status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(()),
            StatusCode::RANGE_NOT_SATISFIABLE => {
                // The part is as long as the file, or longer: it is of another version.
                self.clear();
                Err(Failure::Transient(
                    "the server has another version by now".into(),
                ))
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                refused(format!("the server has no such file ({status})"))
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => refused(format!(
                "the server demands a permission ({status}); for a gated hf: model set HF_TOKEN"
            )),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                Err(Failure::Transient(format!("the server answered {status}")))
            }
            status if status.is_server_error() => {
                Err(Failure::Transient(format!("the server answered {status}")))
            }
            status => refused(format!("the server answered {status}")),
        }
    }

    /// Finds out where the body begins, and prepares the part and the hash for it.
    async fn start(&self, response: &Response) -> Result<Start, Failure> {
        let headers = response.headers();
        if headers
            .get(header::CONTENT_ENCODING)
            .is_some_and(|encoding| encoding != "identity")
        {
            return Err(Failure::Final(self.failed(
                "the server compresses the file, which was not asked for".into(),
            )));
        }
        if response.status() == StatusCode::PARTIAL_CONTENT {
            let offset = self.part_len();
            match content_range(headers) {
                Some((first, total)) if first == offset => {
                    self.check_size(total)?;
                    let part = self.part_path();
                    let hasher = tokio::task::spawn_blocking(move || hash_file(&part, |_| {}))
                        .await
                        .map_err(ModelStoreError::joined)??;
                    return Ok(Start {
                        offset,
                        total,
                        hasher,
                    });
                }
                _ => {
                    self.clear();
                    return Err(Failure::Transient(
                        "the server sent another part than was asked for".into(),
                    ));
                }
            }
        }
        let total = response.content_length();
        self.check_size(total)?;
        self.clear();
        self.write_note(headers)?;
        Ok(Start {
            offset: 0,
            total,
            hasher: Sha256::new(),
        })
    }

    fn check_size(&self, total: Option<u64>) -> Result<(), Failure> {
        match (total, self.size_bytes) {
            (Some(total), Some(expected)) if total != expected => Err(Failure::Final(self.failed(
                format!("the server announces {total} bytes, the file has {expected}"),
            ))),
            (Some(total), _) if total > self.limits.file_bytes_max => {
                Err(Failure::Final(self.too_large(self.limits.file_bytes_max)))
            }
            _ => Ok(()),
        }
    }

    fn check_room(&self, start: &Start) -> Result<(), Failure> {
        let Some(total) = start.total.or(self.size_bytes) else {
            return Ok(());
        };
        let needed = total.saturating_sub(start.offset);
        Ok(check_room(self.directory, needed)?)
    }

    /// Writes the body behind what is there; returns checksum and size of the whole.
    async fn receive(
        &self,
        mut response: Response,
        start: Start,
        progress: &mut (impl FnMut(PullProgress) + Send),
    ) -> Result<(String, u64), Failure> {
        let path = self.part_path();
        let failed_write = |error| Failure::from(FileError::write(&path)(error));
        let file = tokio::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .await
            .map_err(failed_write)?;
        let mut file = tokio::io::BufWriter::with_capacity(WRITE_BUFFER_BYTES, file);
        let bytes_max = self.size_bytes.unwrap_or(self.limits.file_bytes_max);
        let mut hasher = start.hasher;
        let mut completed = start.offset;
        let mut reported_at: Option<Instant> = None;
        let mut report = |completed| {
            progress(PullProgress {
                status: "downloading".to_owned(),
                digest: self
                    .sha256
                    .as_ref()
                    .map(|sha256| format!("sha256:{sha256}")),
                total: start.total.or(self.size_bytes),
                completed: Some(completed),
            });
        };
        report(completed);
        let outcome = loop {
            let chunk = match response.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break Ok(()),
                Err(error) => break Err(Failure::Transient(describe(&error))),
            };
            completed += chunk.len() as u64;
            if completed > bytes_max {
                self.clear();
                break Err(Failure::Final(self.too_large(bytes_max)));
            }
            file.write_all(&chunk).await.map_err(failed_write)?;
            hasher.update(&chunk);
            if reported_at.is_none_or(|at| at.elapsed() >= REPORT_PERIOD) {
                reported_at = Some(Instant::now());
                report(completed);
            }
        };
        // What came before a failure is kept for the next attempt.
        file.flush().await.map_err(failed_write)?;
        outcome?;
        file.get_ref().sync_all().await.map_err(failed_write)?;
        report(completed);
        let expected = start.total.or(self.size_bytes);
        if expected.is_some_and(|expected| completed < expected) {
            return Err(Failure::Transient(
                "the server closed the connection early".into(),
            ));
        }
        Ok((hex(&hasher.finalize()), completed))
    }

    fn client(&self) -> Result<Client, ModelStoreError> {
        // Already there when `main` did it, which is fine too.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let local = is_loopback(&self.url);
        let mut builder = Client::builder()
            .user_agent(concat!("aither-node/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(self.limits.connect_timeout)
            .read_timeout(self.limits.read_timeout)
            .redirect(redirect::Policy::custom(move |attempt| {
                if attempt.previous().len() > REDIRECTS_MAX {
                    attempt.error("too many redirects")
                } else if !is_allowed(attempt.url()) || (is_loopback(attempt.url()) && !local) {
                    attempt.error("redirected to an address that is not fetched from")
                } else {
                    attempt.follow()
                }
            }));
        if local {
            builder = builder.no_proxy();
        }
        builder
            .build()
            .map_err(|error| self.failed(describe(&error)))
    }

    fn read_note(&self) -> Note {
        files::read_bounded(&self.note_path(), NOTE_BYTES_MAX)
            .ok()
            .flatten()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    fn write_note(&self, headers: &HeaderMap) -> Result<(), ModelStoreError> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        // A weak tag does not promise equal bytes, so it cannot guard a range.
        let strong_tag = text(header::ETAG).filter(|tag| !tag.starts_with("W/"));
        let note = Note {
            url: self.url.to_string(),
            validator: strong_tag
                .or_else(|| text(header::LAST_MODIFIED))
                .map(str::to_owned),
        };
        let json = serde_json::to_vec(&note).map_err(|error| self.failed(error.to_string()))?;
        Ok(files::write_atomic(&self.note_path(), &json)?)
    }

    fn part_path(&self) -> PathBuf {
        part_path(self.directory, &self.key)
    }

    fn note_path(&self) -> PathBuf {
        note_path(self.directory, &self.key)
    }

    fn part_len(&self) -> u64 {
        part_len(self.directory, &self.key)
    }

    fn failed(&self, message: String) -> ModelStoreError {
        ModelStoreError::Download {
            given: self.given.to_owned(),
            message,
        }
    }

    fn too_large(&self, bytes_max: u64) -> ModelStoreError {
        let message = if self.size_bytes.is_some() {
            "more bytes came than the file has"
        } else {
            "the bound is models.file_bytes_max"
        };
        ModelStoreError::TooLarge {
            given: self.given.to_owned(),
            bytes_max,
            message: message.to_owned(),
        }
    }
}

/// Removes what is left of a download.
pub(super) fn clear(directory: &Path, key: &str) {
    for path in [part_path(directory, key), note_path(directory, key)] {
        // What cannot be removed is found again and overwritten by the next pull.
        let _ = fs::remove_file(path);
    }
}

/// Returns how many bytes of a download have arrived.
pub(super) fn part_len(directory: &Path, key: &str) -> u64 {
    fs::metadata(part_path(directory, key)).map_or(0, |metadata| metadata.len())
}

/// Returns where a download lies that arrived whole, as its checksum proves, and was not used.
///
/// # Errors
/// It is there and cannot be read.
pub(super) async fn find_whole(
    directory: &Path,
    key: &str,
    sha256: &str,
    size_bytes: Option<u64>,
) -> Result<Option<PathBuf>, ModelStoreError> {
    let len = part_len(directory, key);
    if len == 0 || size_bytes.is_some_and(|expected| expected != len) {
        return Ok(None);
    }
    let path = part_path(directory, key);
    let hashed = path.clone();
    let found = tokio::task::spawn_blocking(move || sha256_of_file(&hashed, |_| {}))
        .await
        .map_err(ModelStoreError::joined)??;
    Ok((found == sha256).then_some(path))
}

fn part_path(directory: &Path, key: &str) -> PathBuf {
    directory.join(format!("{key}.part"))
}

fn note_path(directory: &Path, key: &str) -> PathBuf {
    directory.join(format!("{key}.json"))
}

/// Refuses to begin what the disk has no room for.
///
/// # Errors
/// [`ModelStoreError::NoSpace`].
pub fn check_room(directory: &Path, needed_bytes: u64) -> Result<(), ModelStoreError> {
    let Ok(free_bytes) = fs4::available_space(directory) else {
        // Some file systems do not say; the write itself will.
        return Ok(());
    };
    let needed_bytes = needed_bytes.saturating_add(SPACE_RESERVE_BYTES);
    if needed_bytes > free_bytes {
        return Err(ModelStoreError::NoSpace {
            path: directory.to_owned(),
            needed_bytes,
            free_bytes,
        });
    }
    Ok(())
}

/// Reads `bytes FIRST-LAST/TOTAL`; the total may be `*`.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let first = range.split_once('-')?.0.parse().ok()?;
    Some((first, total.parse().ok()))
}

/// Says what a failed request came to, down to its cause, without the URL.
fn describe(error: &reqwest::Error) -> String {
    let mut message = if error.is_timeout() {
        "timed out".to_owned()
    } else if error.is_connect() {
        "cannot connect".to_owned()
    } else if error.is_redirect() {
        "a redirect was refused".to_owned()
    } else {
        "the connection broke".to_owned()
    };
    let mut cause = std::error::Error::source(error);
    let mut last = None;
    while let Some(error) = cause {
        last = Some(error.to_string());
        cause = error.source();
    }
    if let Some(last) = last {
        message.push_str(": ");
        message.push_str(&last);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_larger_than_the_disk_is_not_begun() {
        let directory = tempfile::tempdir().unwrap();
        check_room(directory.path(), 0).unwrap();
        let error = check_room(directory.path(), 1 << 60).unwrap_err();
        assert!(matches!(error, ModelStoreError::NoSpace { .. }));
        assert!(error.to_string().contains("--data-dir"), "{error}");
    }

    #[test]
    fn content_ranges_are_read() {
        let read = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(
                header::CONTENT_RANGE,
                header::HeaderValue::from_static(text),
            );
            content_range(&headers)
        };
        assert_eq!(read("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(read("bytes 5-9/*"), Some((5, None)));
        for text in ["", "bytes", "bytes */10", "bytes x-9/10", "items 5-9/10"] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }
}
