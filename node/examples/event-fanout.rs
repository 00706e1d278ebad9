//! Opens many subscriptions to a node's events, emits some, and says how fast all had all of them.
//!
//! Each subscription is a connection of its own that reads what comes and counts it; emitters send
//! one event after another, each on a connection of its own, and every event is on the node's disk
//! before it is acknowledged. The key is read from the environment variable `AITHEROS_API_KEY`.
//! Prints one line of JSON: `subscribers`, `events`, `deliveries`, `seconds`, `per_second`.

use std::{error::Error, io::Write, sync::Arc, time::Instant};

use clap::Parser;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::Barrier,
    task::JoinSet,
};

/// Longest head or body that is read whole.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// What the events are called.
const EVENT: &str = "bench.fanout.told";

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Debug, Parser)]
struct Arguments {
    /// Address and port of the node.
    #[arg(long)]
    address: String,
    /// Subscriptions.
    #[arg(long, default_value_t = 100)]
    subscribers: usize,
    /// Events that are emitted in all.
    #[arg(long, default_value_t = 5000)]
    events: usize,
    /// Connections that emit.
    #[arg(long, default_value_t = 32)]
    emitters: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arc::new(Arguments::parse());
    let key = std::env::var("AITHEROS_API_KEY").map_err(|_unset| "AITHEROS_API_KEY is not set")?;
    let key: Arc<str> = key.into();
    let ready = Arc::new(Barrier::new(arguments.subscribers + 1));
    let mut tasks = JoinSet::new();
    for _ in 0..arguments.subscribers {
        let (arguments, key) = (Arc::clone(&arguments), Arc::clone(&key));
        tasks.spawn(subscribe(arguments, key, Arc::clone(&ready)));
    }
    ready.wait().await;
    let begun = Instant::now();
    for emitter in 0..arguments.emitters {
        tasks.spawn(emit(Arc::clone(&arguments), Arc::clone(&key), emitter));
    }
    while let Some(finished) = tasks.join_next().await {
        finished??;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let deliveries = arguments.subscribers * arguments.events;
    let found = serde_json::json!({
        "subscribers": arguments.subscribers,
        "events": arguments.events,
        "deliveries": deliveries,
        "seconds": seconds,
        "per_second": deliveries as f64 / seconds,
    });
    writeln!(std::io::stdout(), "{found}")?;
    Ok(())
}

/// Reads events until all have come.
async fn subscribe(arguments: Arc<Arguments>, key: Arc<str>, ready: Arc<Barrier>) -> Result<()> {
    let address = &arguments.address;
    let mut stream = TcpStream::connect(address).await?;
    let request = format!(
        "GET /v1/events/subscribe?events={EVENT} HTTP/1.1\r\nHost: {address}\r\n\
         Authorization: Bearer {key}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut connection = BufReader::with_capacity(64 << 10, stream);
    let (status, _) = head_of(&mut connection).await?;
    if status != 200 {
        return Err(format!("the subscription was answered {status}").into());
    }
    ready.wait().await;
    let (mut count, mut after) = (0, Vec::new());
    while count < arguments.events {
        let chunk = next_chunk(&mut connection).await?;
        // A line may go on in the next chunk.
        after.extend_from_slice(&chunk);
        let lines = after.split_inclusive(|byte| *byte == b'\n');
        let whole = lines.filter(|line| line.starts_with(b"data:") && line.ends_with(b"\n"));
        count += whole.count();
        let whole = after.iter().rposition(|byte| *byte == b'\n');
        after.drain(..whole.map_or(0, |at| at + 1));
    }
    Ok(())
}

/// Emits this emitter's part of the events.
async fn emit(arguments: Arc<Arguments>, key: Arc<str>, emitter: usize) -> Result<()> {
    let address = &arguments.address;
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut connection = BufReader::new(stream);
    for number in (emitter..arguments.events).step_by(arguments.emitters) {
        let body = format!(r#"{{"event":"{EVENT}","data":{{"number":{number}}}}}"#);
        let request = format!(
            "POST /v1/events/emit HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {key}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        connection.get_mut().write_all(request.as_bytes()).await?;
        let (status, length) = head_of(&mut connection).await?;
        let mut answer = vec![0; usize::try_from(length)?];
        connection.read_exact(&mut answer).await?;
        if !(200..300).contains(&status) {
            let words = String::from_utf8_lossy(&answer);
            return Err(format!("an event was answered {status}: {words}").into());
        }
    }
    Ok(())
}

/// Reads an answer's head: its status, and the length that it states.
async fn head_of(connection: &mut BufReader<TcpStream>) -> Result<(u16, u64)> {
    let mut line = String::new();
    let mut head = (&mut *connection).take(ANSWER_BYTES_MAX);
    head.read_line(&mut line).await?;
    let status = line.split(' ').nth(1).ok_or("no status line")?.parse()?;
    let mut length = 0;
    loop {
        line.clear();
        head.read_line(&mut line).await?;
        let Some((name, value)) = line.split_once(':') else {
            return Ok((status, length));
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse::<u64>()?;
        }
        if length > ANSWER_BYTES_MAX {
            return Err("an answer that is too long".into());
        }
    }
}

/// Reads one chunk of a body of unknown length.
async fn next_chunk(connection: &mut BufReader<TcpStream>) -> Result<Vec<u8>> {
    let mut line = String::new();
    connection.read_line(&mut line).await?;
    let length = u64::from_str_radix(line.trim(), 16)?;
    if length == 0 {
        return Err("the node has ended a subscription".into());
    }
    if length > ANSWER_BYTES_MAX {
        return Err("a chunk that is too long".into());
    }
    let mut chunk = vec![0; usize::try_from(length)?];
    connection.read_exact(&mut chunk).await?;
    line.clear();
    connection.read_line(&mut line).await?;
    Ok(chunk)
}
