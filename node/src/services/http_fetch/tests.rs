//! Fetching from servers that do as they are told, and from some that do not.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::oneshot,
};

use super::*;
use crate::fetch::TIMEOUT_DEFAULT;

const ACCOUNT: AccountId = AccountId(7);
const BOUNDS: FetchBounds = FetchBounds {
    bytes_max: 1 << 20,
    timeout: TIMEOUT_DEFAULT,
};

/// A server that answers each request by what its path is, and counts them.
struct Server {
    port: u16,
    seen: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
}

impl Server {
    async fn start(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let (requests, count) = (Arc::clone(&seen), Arc::clone(&connections));
        let answer = Arc::new(answer);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let (requests, answer) = (Arc::clone(&requests), Arc::clone(&answer));
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        match stream.read_u8().await {
                            Ok(byte) => head.push(byte),
                            Err(_) => return,
                        }
                    }
                    let head = String::from_utf8(head).unwrap();
                    let path = head.split(' ').nth(1).unwrap().to_owned();
                    requests.lock().unwrap().push(head);
                    let said = answer(&path);
                    // A client that has left is no failure here.
                    let _ = stream.write_all(said.as_bytes()).await;
                    if said.starts_with("HTTP/1.1 200 DRIP") {
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        Self {
            port,
            seen,
            connections,
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    fn rule(&self) -> String {
        self.url("")
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn said(body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
}

fn moved(location: &str) -> String {
    let end = "content-length: 0\r\nconnection: close\r\n\r\n";
    format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\n{end}")
}

fn service(allow: &[&str], allow_private: bool) -> FetchService {
    let allow = allow.iter().map(|rule| (*rule).to_owned()).collect();
    FetchService::new(&FetchConfig {
        allow,
        allow_private,
    })
    .unwrap()
}

fn get(url: &str) -> Outgoing {
    let headers = vec![("Authorization".to_owned(), "Bearer mine".to_owned())];
    Outgoing::new("GET", url, &headers, Bytes::new()).unwrap()
}

fn is_forbidden(outcome: &Result<Fetched, FetchError>) -> bool {
    matches!(outcome, Err(FetchError::Forbidden { .. }))
}

#[tokio::test]
async fn what_the_operator_names_is_fetched_and_nothing_else() {
    let server = Server::start(said).await;
    let service = service(&[&server.rule()], true);
    let fetched = service
        .fetch(ACCOUNT, get(&server.url("/a?b")), BOUNDS)
        .await;
    let fetched = fetched.unwrap();
    assert_eq!((fetched.status, &fetched.body[..]), (200, &b"/a?b"[..]));
    assert!(!fetched.is_truncated);
    let head = server.seen()[0].to_ascii_lowercase();
    assert!(head.contains("user-agent: aither-node/"), "{head}");
    assert!(head.contains("authorization: bearer mine"), "{head}");
    let other = service
        .fetch(ACCOUNT, get("http://127.0.0.1:1/"), BOUNDS)
        .await;
    assert!(is_forbidden(&other), "{other:?}");
}

#[tokio::test]
async fn nothing_is_fetched_before_the_operator_says_what() {
    let service = service(&[], true);
    let refused = service.fetch(ACCOUNT, get("http://a.org/"), BOUNDS).await;
    assert_eq!(refused.unwrap_err(), FetchError::NotConfigured);
}

#[tokio::test]
async fn private_addresses_are_refused_unless_the_operator_names_them_and_says_so() {
    let server = Server::start(|_| said("secret")).await;
    let port = format!("*:{}", server.port);
    for (rules, allow_private) in [
        (vec![server.rule()], false),
        (vec![port.clone()], false),
        // A pattern does not name a host.
        (vec![port.clone()], true),
    ] {
        let rules: Vec<_> = rules.iter().map(String::as_str).collect();
        let service = service(&rules, allow_private);
        let refused = service.fetch(ACCOUNT, get(&server.url("/")), BOUNDS).await;
        assert!(is_forbidden(&refused), "{rules:?} {refused:?}");
    }
    let service = service(&[&port], true);
    for host in [
        "localhost",
        "LOCALHOST.",
        "a.localhost",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "0.0.0.0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "169.254.169.254",
        "10.0.0.1",
        "\u{2460}\u{2461}\u{2466}.0.0.1",
    ] {
        let url = format!("http://{host}:{}/", server.port);
        let refused = service.fetch(ACCOUNT, get(&url), BOUNDS).await;
        assert!(is_forbidden(&refused), "{url} {refused:?}");
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_name_that_stands_for_this_machine_is_refused_as_it_is_connected_to() {
    let server = Server::start(|_| said("secret")).await;
    let public = client(Targets::Public).unwrap();
    // As a name that was public when it was looked at, and is not any more.
    let outgoing = get(&format!("http://localhost:{}/", server.port));
    let refused = send(&public, &outgoing).await;
    assert!(
        matches!(refused, Err(FetchError::Forbidden { .. })),
        "{refused:?}"
    );
    assert_eq!(server.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn each_hop_of_a_redirect_is_checked_anew() {
    let hidden = Server::start(|_| said("secret")).await;
    let (hidden_port, hidden_url) = (hidden.port, hidden.url("/"));
    let server = Server::start(move |path| match path {
        "/once" => moved("/end"),
        "/hidden" => moved(&hidden_url),
        "/local" => moved(&format!("http://localhost:{hidden_port}/")),
        "/metadata" => moved("http://169.254.169.254/latest"),
        "/file" => moved("file:///etc/passwd"),
        "/round" => moved("/round"),
        path => said(path),
    })
    .await;
    let any_port = format!("*:{hidden_port}");
    let service = service(&[&server.rule(), &any_port, "*"], true);
    let fetch = |path: &str| service.fetch(ACCOUNT, get(&server.url(path)), BOUNDS);
    let fetched = fetch("/once").await.unwrap();
    assert_eq!(fetched.url.path(), "/end");
    for path in ["/hidden", "/local", "/metadata", "/file"] {
        let refused = fetch(path).await;
        assert!(is_forbidden(&refused), "{path} {refused:?}");
    }
    assert_eq!(hidden.connections.load(Ordering::SeqCst), 0);
    let before = server.seen().len();
    assert_eq!(
        fetch("/round").await.unwrap_err(),
        FetchError::TooManyRedirects
    );
    assert_eq!(server.seen().len() - before, REDIRECTS_MAX + 1);
}

#[tokio::test]
async fn another_origin_is_not_told_the_callers_secrets() {
    let other = Server::start(|_| said("other")).await;
    let there = other.url("/there");
    let server = Server::start(move |_| moved(&there)).await;
    let service = service(&[&server.rule(), &other.rule()], true);
    let fetched = service.fetch(ACCOUNT, get(&server.url("/")), BOUNDS).await;
    assert_eq!(&fetched.unwrap().body[..], b"other");
    assert!(
        server.seen()[0]
            .to_ascii_lowercase()
            .contains("bearer mine")
    );
    assert!(!other.seen()[0].to_ascii_lowercase().contains("bearer"));
}

#[tokio::test]
async fn long_answers_are_cut_and_slow_ones_given_up() {
    let server = Server::start(|path| match path {
        "/long" => said(&"x".repeat(5000)),
        "/endless" => {
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
            format!("{head}{}", "x".repeat(200_000))
        }
        "/headers" => {
            let many = "x".repeat(HEADER_BYTES_MAX);
            format!("HTTP/1.1 200 OK\r\nx: {many}\r\ncontent-length: 0\r\n\r\n")
        }
        "/drip" => "HTTP/1.1 200 DRIP\r\ncontent-length: 10\r\n\r\nabc".to_owned(),
        _ => "SSH-2.0-x\r\n".to_owned(),
    })
    .await;
    let service = service(&[&server.rule()], true);
    let fetch = |path: &str, bytes_max: usize, timeout| {
        let bounds = FetchBounds { bytes_max, timeout };
        service.fetch(ACCOUNT, get(&server.url(path)), bounds)
    };
    for (path, bytes_max, length, is_truncated) in [
        ("/long", 100, 100, true),
        ("/long", 5000, 5000, false),
        ("/endless", 4999, 4999, true),
    ] {
        let fetched = fetch(path, bytes_max, TIMEOUT_DEFAULT).await.unwrap();
        assert_eq!(
            (fetched.body.len(), fetched.is_truncated),
            (length, is_truncated)
        );
    }
    for path in ["/headers", "/other"] {
        let failed = fetch(path, 100, TIMEOUT_DEFAULT).await;
        assert!(
            matches!(failed, Err(FetchError::Upstream { .. })),
            "{path} {failed:?}"
        );
    }
    // More bytes than it waits for never come.
    let timeout = Duration::from_millis(200);
    let failed = fetch("/drip", 100, timeout).await;
    assert_eq!(failed.unwrap_err(), FetchError::TimedOut { timeout });
    let gone = service.shared.accounts.lock().unwrap().is_empty();
    assert!(gone, "a place is left");
}

#[tokio::test]
async fn an_account_has_so_many_under_way_and_others_are_not_kept_out() {
    let (started, mut all_started) = tokio::sync::mpsc::channel::<()>(ACCOUNT_RUNNING_MAX);
    let server = Server::start(move |_| {
        let _ = started.try_send(());
        "HTTP/1.1 200 DRIP\r\ncontent-length: 10\r\n\r\nabc".to_owned()
    })
    .await;
    let service = service(&[&server.rule()], true);
    let (stop, stopped) = oneshot::channel::<()>();
    let held = {
        let (service, url) = (service.clone(), server.url("/"));
        tokio::spawn(async move {
            let fetches =
                (0..ACCOUNT_RUNNING_MAX).map(|_| service.fetch(ACCOUNT, get(&url), BOUNDS));
            tokio::select! {
                _ = futures_util::future::join_all(fetches) => {}
                _ = stopped => {}
            }
        })
    };
    for _ in 0..ACCOUNT_RUNNING_MAX {
        all_started.recv().await.unwrap();
    }
    let refused = service.fetch(ACCOUNT, get(&server.url("/")), BOUNDS).await;
    let max = ACCOUNT_RUNNING_MAX;
    assert_eq!(refused.unwrap_err(), FetchError::AccountBusy { max });
    let timeout = Duration::from_millis(50);
    let bounds = FetchBounds { timeout, ..BOUNDS };
    let other = service
        .fetch(AccountId(8), get(&server.url("/")), bounds)
        .await;
    assert_eq!(other.unwrap_err(), FetchError::TimedOut { timeout });
    stop.send(()).unwrap();
    held.await.unwrap();
    assert!(service.shared.accounts.lock().unwrap().is_empty());
    assert_eq!(service.shared.running.available_permits(), RUNNING_MAX);
    assert_eq!(
        service.shared.answer_units.available_permits(),
        ANSWER_UNITS_MAX
    );
}

#[tokio::test]
async fn answers_take_so_much_memory_together() {
    let service = service(&["a.org"], false);
    let places: Vec<_> = (0..)
        .map_while(|n| service.shared.place(AccountId(n), ANSWER_BYTES_MAX).ok())
        .collect();
    assert_eq!(
        places.len() * ANSWER_BYTES_MAX,
        ANSWER_UNITS_MAX * BYTES_UNIT
    );
    assert_eq!(
        service.shared.place(AccountId(99), 1).unwrap_err(),
        FetchError::Busy
    );
}
