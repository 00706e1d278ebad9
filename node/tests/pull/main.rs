//! Pulling over HTTP, against a server on this machine that misbehaves on demand.
//!
//! What must hold: a broken download goes on where it stopped, nothing that lies about its size,
//! checksum or kind enters the store, and every refusal says what happened.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop there"
)]

mod packages;
mod server;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use aither_node::models::{DownloadLimits, ModelStore, ModelStoreError, import::sha256_of_file};

use self::server::{Reply, Request, TestServer};

/// A whole, small model.
const MODEL: &[u8] = include_bytes!("../../../inference/testdata/tiny/llama.gguf");
const TAG: &str = "\"v1\"";

fn limits() -> DownloadLimits {
    DownloadLimits {
        file_bytes_max: 1 << 20,
        attempts: 3,
        retry_pause: Duration::from_millis(1),
        connect_timeout: Duration::from_secs(5),
        read_timeout: Duration::from_secs(5),
    }
}

/// A store in a directory that goes away with it.
struct Fixture {
    directory: tempfile::TempDir,
    store: ModelStore,
}

impl Fixture {
    fn new(limits: DownloadLimits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = ModelStore::open(directory.path(), limits).unwrap();
        Self { directory, store }
    }

    /// The store as the next process would open it.
    fn reopen(&mut self, limits: DownloadLimits) {
        self.store = ModelStore::open(self.directory.path(), limits).unwrap();
    }

    async fn pull(&self, source: &str) -> Result<PathBuf, ModelStoreError> {
        self.store
            .pull(source, |_| {})
            .await
            .map(|entry| entry.path)
    }

    fn unfinished(&self) -> usize {
        std::fs::read_dir(self.directory.path().join("models/partial")).map_or(0, Iterator::count)
    }
}

fn model_sha256() -> String {
    sha256_of_file(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("../inference/testdata/tiny/llama.gguf"),
        |_| {},
    )
    .unwrap()
}

/// Serves ranges of the model as a good server does.
fn good(request: &Request) -> Reply {
    match request.range {
        Some(from) if request.if_range.as_deref().is_none_or(|tag| tag == TAG) => {
            let total = MODEL.len();
            Reply::new(206, &MODEL[from..])
                .header(
                    "content-range",
                    format!("bytes {from}-{}/{total}", total - 1),
                )
                .header("etag", TAG)
        }
        _ => Reply::new(200, MODEL).header("etag", TAG),
    }
}

#[tokio::test]
async fn a_whole_file_enters_the_store_under_its_own_name() {
    let server = TestServer::start(good);
    let fixture = Fixture::new(limits());
    let path = fixture.pull(&server.url("Tiny-Llama.gguf")).await.unwrap();
    assert_eq!(std::fs::read(path).unwrap(), MODEL);
    let entry = fixture.store.get("tiny-llama").unwrap();
    assert_eq!(entry.sha256, model_sha256());
    assert_eq!(entry.size_bytes, MODEL.len() as u64);
    assert_eq!(fixture.unfinished(), 0);
}

#[tokio::test]
async fn progress_is_reported_up_to_the_whole() {
    let server = TestServer::start(good);
    let fixture = Fixture::new(limits());
    let mut reports = Vec::new();
    let source = format!("mine:1b={}", server.url("a.gguf"));
    let pulled = fixture
        .store
        .pull(&source, |report| reports.push(report))
        .await;
    assert_eq!(pulled.unwrap().name, "mine:1b");
    let total = Some(MODEL.len() as u64);
    assert!(
        reports
            .iter()
            .any(|report| report.completed == total && report.total == total)
    );
    assert_eq!(reports.last().unwrap().status, "success");
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_stopped() {
    let server = TestServer::start(|request| {
        let reply = good(request);
        if request.number == 0 {
            reply.cut_after(100_000)
        } else {
            reply
        }
    });
    let fixture = Fixture::new(limits());
    let path = fixture.pull(&server.url("a.gguf")).await.unwrap();
    assert_eq!(std::fs::read(path).unwrap(), MODEL);
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[1].range, Some(100_000));
    assert_eq!(requests[1].if_range.as_deref(), Some(TAG));
}

#[tokio::test]
async fn the_next_process_goes_on_where_the_last_one_stopped() {
    let server = TestServer::start(|request| {
        let reply = good(request);
        if request.number == 0 {
            reply.cut_after(50_000)
        } else {
            reply
        }
    });
    let once = DownloadLimits {
        attempts: 1,
        ..limits()
    };
    let mut fixture = Fixture::new(once);
    let source = server.url("a.gguf");
    let error = fixture.pull(&source).await.unwrap_err();
    assert!(
        error.to_string().contains("goes on where this one stopped"),
        "{error}"
    );
    fixture.reopen(limits());
    fixture.pull(&source).await.unwrap();
    assert_eq!(server.requests()[1].range, Some(50_000));
    assert_eq!(fixture.unfinished(), 0);
}

#[tokio::test]
async fn a_server_without_ranges_starts_over() {
    let server = TestServer::start(|request| {
        let reply = Reply::new(200, MODEL).header("etag", TAG);
        if request.number == 0 {
            reply.cut_after(100_000)
        } else {
            reply
        }
    });
    let fixture = Fixture::new(limits());
    let path = fixture.pull(&server.url("a.gguf")).await.unwrap();
    assert_eq!(std::fs::read(path).unwrap(), MODEL);
    assert_eq!(server.requests()[1].range, Some(100_000));
}

#[tokio::test]
async fn a_file_without_a_version_is_not_patched_together() {
    // Without a validator and a checksum nothing says that two parts belong together.
    let server = TestServer::start(|request| {
        let reply = Reply::new(200, MODEL);
        if request.number == 0 {
            reply.cut_after(100_000)
        } else {
            reply
        }
    });
    let fixture = Fixture::new(limits());
    fixture.pull(&server.url("a.gguf")).await.unwrap();
    assert_eq!(server.requests()[1].range, None);
}

#[tokio::test]
async fn a_part_that_was_not_asked_for_is_thrown_away() {
    let server = TestServer::start(|request| match request.number {
        0 => good(request).cut_after(100_000),
        1 => Reply::new(206, &MODEL[7..]).header("content-range", "bytes 7-9/10"),
        _ => good(request),
    });
    let fixture = Fixture::new(limits());
    let path = fixture.pull(&server.url("a.gguf")).await.unwrap();
    assert_eq!(std::fs::read(path).unwrap(), MODEL);
    assert_eq!(server.requests()[2].range, None);
}

#[tokio::test]
async fn parts_of_two_versions_are_told_by_the_checksum() {
    // The old part is of a file that has changed, and the server does not know If-Range.
    let server = TestServer::start(|request| match request.number {
        0 => Reply::new(200, &[0; 300_000])
            .header("etag", TAG)
            .cut_after(100_000),
        _ => good(request),
    });
    let fixture = Fixture::new(limits());
    let source = format!("{}#sha256={}", server.url("a.gguf"), model_sha256());
    let path = fixture.pull(&source).await.unwrap();
    assert_eq!(std::fs::read(path).unwrap(), MODEL);
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn a_wrong_checksum_leaves_nothing_behind() {
    let server = TestServer::start(good);
    let fixture = Fixture::new(limits());
    let source = format!("{}#sha256={}", server.url("a.gguf"), "0".repeat(64));
    let error = fixture.pull(&source).await.unwrap_err();
    assert!(
        matches!(error, ModelStoreError::WrongChecksum { .. }),
        "{error}"
    );
    assert!(fixture.store.list().is_empty());
    assert_eq!(fixture.unfinished(), 0);
}

#[tokio::test]
async fn a_missing_file_is_asked_for_once() {
    let server = TestServer::start(|_| Reply::new(404, b"no"));
    let fixture = Fixture::new(limits());
    let error = fixture.pull(&server.url("a.gguf")).await.unwrap_err();
    assert!(error.to_string().contains("no such file (404"), "{error}");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_server_in_trouble_is_asked_again() {
    let server = TestServer::start(|request| match request.number {
        0 => Reply::new(503, b""),
        1 => Reply::new(429, b""),
        _ => good(request),
    });
    let fixture = Fixture::new(limits());
    fixture.pull(&server.url("a.gguf")).await.unwrap();
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn a_server_that_never_sends_all_it_announced_is_given_up() {
    let server =
        TestServer::start(|_| Reply::new(200, &MODEL[..1000]).header("content-length", "5000"));
    let fixture = Fixture::new(limits());
    let error = fixture.pull(&server.url("a.gguf")).await.unwrap_err();
    assert!(
        error.to_string().contains("gave up after 3 attempts"),
        "{error}"
    );
    assert_eq!(server.requests().len(), 3);
    assert!(fixture.store.list().is_empty());
}

#[tokio::test]
async fn a_file_announced_as_too_large_is_not_begun() {
    let server = TestServer::start(|_| {
        Reply::new(200, MODEL).header("content-length", (1_u64 << 40).to_string())
    });
    let fixture = Fixture::new(limits());
    let error = fixture.pull(&server.url("a.gguf")).await.unwrap_err();
    assert!(matches!(error, ModelStoreError::TooLarge { .. }), "{error}");
    assert_eq!(fixture.unfinished(), 0);
}

#[tokio::test]
async fn a_body_without_announced_end_is_cut_at_the_bound() {
    let server = TestServer::start(|_| Reply::new(200, &vec![7; 3 << 20]).without_length());
    let fixture = Fixture::new(limits());
    let error = fixture.pull(&server.url("a.gguf")).await.unwrap_err();
    assert!(matches!(error, ModelStoreError::TooLarge { bytes_max, .. } if bytes_max == 1 << 20));
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let server = TestServer::start(|_| Reply::new(200, MODEL).stall_after(1000));
    let fixture = Fixture::new(DownloadLimits {
        read_timeout: Duration::from_millis(50),
        attempts: 2,
        ..limits()
    });
    let error = fixture.pull(&server.url("a.gguf")).await.unwrap_err();
    assert!(error.to_string().contains("timed out"), "{error}");
}

#[tokio::test]
async fn what_is_no_model_does_not_enter_the_store() {
    let server = TestServer::start(|_| Reply::new(200, b"<html>please log in</html>"));
    let fixture = Fixture::new(limits());
    let error = fixture.pull(&server.url("a.gguf")).await.unwrap_err();
    assert!(
        error.to_string().contains("not a usable GGUF file"),
        "{error}"
    );
    assert!(fixture.store.list().is_empty());
    assert_eq!(fixture.unfinished(), 0);
}

#[tokio::test]
async fn a_compressed_body_is_refused() {
    let server = TestServer::start(|_| Reply::new(200, MODEL).header("content-encoding", "gzip"));
    let fixture = Fixture::new(limits());
    let error = fixture.pull(&server.url("a.gguf")).await.unwrap_err();
    assert!(error.to_string().contains("compresses"), "{error}");
}

#[tokio::test]
async fn redirects_are_followed_within_bounds() {
    let server = TestServer::start(|request| match request.path.as_str() {
        "/a.gguf" => Reply::new(302, b"").header("location", "/b.gguf"),
        _ => good(request),
    });
    let fixture = Fixture::new(limits());
    fixture.pull(&server.url("a.gguf")).await.unwrap();
    assert!(fixture.store.get("a").is_some());

    let endless = TestServer::start(|_| Reply::new(302, b"").header("location", "/a.gguf"));
    let error = fixture.pull(&endless.url("x.gguf")).await.unwrap_err();
    assert!(error.to_string().contains("too many redirects"), "{error}");
}

#[tokio::test]
async fn a_redirect_into_plain_http_elsewhere_is_refused() {
    let server = TestServer::start(|_| {
        Reply::new(302, b"").header("location", "http://models.example/a.gguf")
    });
    let fixture = Fixture::new(limits());
    let error = fixture.pull(&server.url("a.gguf")).await.unwrap_err();
    assert!(error.to_string().contains("not fetched from"), "{error}");
}

#[tokio::test]
async fn nobody_at_the_address_is_told_in_words() {
    let address = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let fixture = Fixture::new(limits());
    let error = fixture
        .pull(&format!("http://{address}/a.gguf"))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("cannot connect"), "{error}");
}

#[tokio::test]
async fn one_source_is_pulled_once_at_a_time() {
    let server = TestServer::start(|_| Reply::new(200, MODEL).stall_after(1000));
    let fixture = Fixture::new(limits());
    let source = server.url("a.gguf");
    let mut first = Box::pin(fixture.pull(&source));
    // The first is dropped half way in the end, which must give the turn back.
    tokio::select! {
        biased;
        _ = &mut first => panic!("the server never sends the rest"),
        () = server.asked() => {}
    }
    let error = fixture.pull(&source).await.unwrap_err();
    assert!(
        matches!(error, ModelStoreError::AlreadyPulling { .. }),
        "{error}"
    );
    drop(first);
    let again = tokio::time::timeout(Duration::from_millis(100), fixture.pull(&source)).await;
    assert!(!matches!(
        again,
        Ok(Err(ModelStoreError::AlreadyPulling { .. }))
    ));
}

#[test]
fn an_imported_file_is_copied_and_can_be_removed() {
    let fixture = Fixture::new(limits());
    let original = fixture.directory.path().join("My Model.gguf");
    std::fs::write(&original, MODEL).unwrap();
    let entry = fixture.store.import(&original, None).unwrap();
    assert_eq!(entry.name, "my-model");
    assert_eq!(entry.sha256, model_sha256());
    std::fs::remove_file(&original).unwrap();
    assert_eq!(std::fs::read(&entry.path).unwrap(), MODEL);
    assert!(fixture.store.remove("my-model").unwrap());
    assert!(!entry.path.exists());
    assert!(!fixture.store.remove("my-model").unwrap());
}

#[test]
fn a_file_of_two_names_stays_until_the_second_goes() {
    let fixture = Fixture::new(limits());
    let original = fixture.directory.path().join("a.gguf");
    std::fs::write(&original, MODEL).unwrap();
    let first = fixture.store.import(&original, Some("one")).unwrap();
    let second = fixture.store.import(&original, Some("two")).unwrap();
    assert_eq!(first.path, second.path);
    fixture.store.remove("one").unwrap();
    assert!(second.path.exists());
    fixture.store.remove("two").unwrap();
    assert!(!second.path.exists());
}

#[test]
fn forged_and_truncated_files_are_not_imported() {
    let fixture = Fixture::new(limits());
    let path = fixture.directory.path().join("a.gguf");
    let mut forged = MODEL.to_vec();
    forged[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    for bytes in [&b""[..], b"GGUF", &MODEL[..MODEL.len() / 2], &forged] {
        std::fs::write(&path, bytes).unwrap();
        let error = fixture.store.import(&path, None).unwrap_err();
        assert!(
            matches!(error, ModelStoreError::InvalidModel { .. }),
            "{error}"
        );
    }
    assert!(fixture.store.list().is_empty());
}
