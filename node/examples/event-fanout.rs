//! Follows a node's events many times over and emits some, and says how many arrive in a second.
//!
//! Each follower is a connection of its own that counts events by the empty line after each; what
//! is counted is what has come over the socket. Emitters have connections too, each with one event
//! on the way, and every event is durable before the next of the same connection. The clients share
//! the machine's cores with the node. The key is read from the environment variable
//! `AITHEROS_API_KEY`. Prints one line of JSON: `followers`, `events`, `seconds` from the first
//! event that is sent to the last that arrives, `emitted_per_second` and `delivered_per_second`.

use std::{
    error::Error,
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use clap::Parser;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

/// What is emitted is of this name, and nothing else is followed.
const NAME: &str = "bench.fanout";

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Debug, Clone, Parser)]
struct Arguments {
    /// Address and port of the node.
    #[arg(long)]
    address: String,
    /// Connections that follow.
    #[arg(long, default_value_t = 100)]
    followers: usize,
    /// Events that are emitted.
    #[arg(long, default_value_t = 5000)]
    events: usize,
    /// Connections that emit.
    #[arg(long, default_value_t = 8)]
    emitters: usize,
    /// Bytes of text in each event.
    #[arg(long, default_value_t = 64)]
    bytes: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let key = std::env::var("AITHEROS_API_KEY").map_err(|_unset| "AITHEROS_API_KEY is not set")?;
    let mut following = JoinSet::new();
    for _ in 0..arguments.followers {
        let stream = follow(&arguments, &key).await?;
        following.spawn(count(stream, arguments.events));
    }
    let begun = Instant::now();
    let left = Arc::new(AtomicUsize::new(arguments.events));
    let mut emitting = JoinSet::new();
    for _ in 0..arguments.emitters {
        emitting.spawn(emit(arguments.clone(), key.clone(), Arc::clone(&left)));
    }
    while let Some(ended) = emitting.join_next().await {
        ended??;
    }
    let emitted = begun.elapsed().as_secs_f64();
    while let Some(ended) = following.join_next().await {
        ended??;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let delivered = (arguments.events * arguments.followers) as f64;
    let found = serde_json::json!({
        "followers": arguments.followers,
        "events": arguments.events,
        "seconds": seconds,
        "emitted_per_second": arguments.events as f64 / emitted,
        "delivered_per_second": delivered / seconds,
    });
    writeln!(std::io::stdout(), "{found}")?;
    Ok(())
}

/// Opens a stream, and waits until it is open.
async fn follow(arguments: &Arguments, key: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(&arguments.address).await?;
    let head = format!(
        "GET /v1/events/subscribe?events={NAME} HTTP/1.1\r\nHost: {}\r\n\
         Authorization: Bearer {key}\r\n\r\n",
        arguments.address
    );
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    // The first comment ends with an empty line too.
    while !answer.windows(4).any(|part| part == b"ing\n") {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(String::from_utf8_lossy(&answer).into());
        }
    }
    Ok(stream)
}

/// Reads until so many events have come.
async fn count(mut stream: TcpStream, events: usize) -> Result<()> {
    let mut buffer = vec![0; 64 << 10];
    let (mut found, mut last) = (0, 0);
    while found < events {
        let len = stream.read(&mut buffer).await?;
        if len == 0 {
            return Err(format!("a stream ended after {found} events").into());
        }
        for byte in &buffer[..len] {
            // An id begins a line; no other part of these events does so.
            found += usize::from(last == b'\n' && *byte == b'i');
            last = *byte;
        }
    }
    Ok(())
}

/// Emits over one connection for as long as events are left.
async fn emit(arguments: Arguments, key: String, left: Arc<AtomicUsize>) -> Result<()> {
    let mut stream = TcpStream::connect(&arguments.address).await?;
    stream.set_nodelay(true)?;
    let text = "x".repeat(arguments.bytes);
    let body = format!("{{\"event\":\"{NAME}\",\"data\":{{\"text\":\"{text}\"}}}}");
    let request = format!(
        "POST /v1/events/emit HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        arguments.address,
        body.len()
    );
    let one_less = |left: usize| left.checked_sub(1);
    let (taken, read) = (Ordering::Relaxed, Ordering::Relaxed);
    while left.fetch_update(taken, read, one_less).is_ok() {
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        // An answer is one object, and nothing in it ends like it.
        while !answer.ends_with(b"Z\"}") {
            let len = stream.read_buf(&mut answer).await?;
            if len == 0 || !answer.starts_with(b"HTTP/1.1 200") {
                return Err(format!("answered {}", String::from_utf8_lossy(&answer)).into());
            }
        }
    }
    Ok(())
}
