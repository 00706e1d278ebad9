//! A small HTTP/1.1 server on a port of the kernel's choice, whose replies a closure decides.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use tokio::sync::Notify;

/// What was asked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    /// Counts from 0.
    pub(crate) number: usize,
    pub(crate) path: String,
    /// First byte of the range.
    pub(crate) range: Option<usize>,
    pub(crate) if_range: Option<String>,
    /// Whether the node asked itself, and not a program that it started.
    pub(crate) is_of_node: bool,
}

/// What is answered.
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    end: End,
    with_length: bool,
}

/// How the answer ends.
enum End {
    Whole,
    /// The connection is closed after so many bytes.
    Cut(usize),
    /// Nothing more comes after so many bytes.
    Stall(usize),
}

impl Reply {
    pub(crate) fn new(status: u16, body: &[u8]) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.to_vec(),
            end: End::Whole,
            with_length: true,
        }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn cut_after(mut self, bytes: usize) -> Self {
        self.end = End::Cut(bytes);
        self
    }

    pub(crate) fn stall_after(mut self, bytes: usize) -> Self {
        self.end = End::Stall(bytes);
        self
    }

    pub(crate) fn without_length(mut self) -> Self {
        self.with_length = false;
        self
    }
}

/// The server; its thread ends with the process.
pub(crate) struct TestServer {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    asked: Arc<Notify>,
}

impl TestServer {
    pub(crate) fn start(answer: impl Fn(&Request) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            requests: Arc::default(),
            asked: Arc::default(),
        };
        let (requests, asked) = (server.requests.clone(), server.asked.clone());
        thread::spawn(move || {
            // Stalled connections are held open here.
            let mut open = Vec::new();
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let Some(mut request) = read_request(&stream) else {
                    continue;
                };
                let mut seen = requests.lock().unwrap();
                request.number = seen.len();
                seen.push(request.clone());
                drop(seen);
                let reply = answer(&request);
                // A client that has seen enough hangs up, which is its right.
                let _ = write_reply(&stream, &reply);
                if matches!(reply.end, End::Stall(_)) {
                    open.push(stream);
                }
                asked.notify_one();
            }
        });
        server
    }

    pub(crate) fn url(&self, file: &str) -> String {
        format!("http://{}/{file}", self.address)
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// Waits until something was asked.
    pub(crate) async fn asked(&self) {
        self.asked.notified().await;
    }
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let mut request = Request {
        path: first.split(' ').nth(1)?.to_owned(),
        ..Request::default()
    };
    for line in lines {
        let line = line.ok()?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ")?;
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                let from = value.strip_prefix("bytes=")?.strip_suffix('-')?;
                request.range = from.parse().ok();
            }
            "user-agent" => request.is_of_node = value.starts_with("aither-node/"),
            "if-range" => request.if_range = Some(value.to_owned()),
            _ => {}
        }
    }
    Some(request)
}

fn write_reply(mut stream: &TcpStream, reply: &Reply) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} X\r\nconnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let has_length = reply
        .headers
        .iter()
        .any(|(name, _)| name == "content-length");
    if reply.with_length && !has_length {
        head.push_str(&format!("content-length: {}\r\n", reply.body.len()));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    let end = match reply.end {
        End::Whole => reply.body.len(),
        End::Cut(bytes) | End::Stall(bytes) => bytes.min(reply.body.len()),
    };
    stream.write_all(&reply.body[..end])?;
    stream.flush()
}
