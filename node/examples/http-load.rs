//! Asks a node as fast as it answers, over many connections, and says how long the answers took.
//!
//! Each line of the file of bodies is sent once as the body of a POST, by whichever connection is
//! free; each connection has one request on the way. It knows no more of HTTP than a node's answers
//! need, because a client that does more would take the cores that the node is measured on. The
//! key is read from the environment variable `AITHEROS_API_KEY`. Prints one line of JSON:
//! `requests`, `seconds`, `per_second`, and `p50`, `p99`, `max` in seconds. Any answer but the
//! expected one ends it.

use std::{
    error::Error,
    fs,
    io::Write,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use clap::Parser;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    task::JoinSet,
};

/// Longest head or body of an answer that is read.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Debug, Parser)]
struct Arguments {
    /// Address and port of the node.
    #[arg(long)]
    address: String,
    /// The path that is asked.
    #[arg(long)]
    path: String,
    /// A file with a body a line.
    #[arg(long)]
    bodies: PathBuf,
    /// Connections, each with one request on the way.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// The status that every answer must have.
    #[arg(long, default_value_t = 200)]
    status: u16,
}

/// What all connections take their requests from.
struct Work {
    /// Whole requests, heads included.
    requests: Vec<Vec<u8>>,
    next: AtomicUsize,
    status: u16,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let work = Arc::new(Work::read(&arguments)?);
    let begun = Instant::now();
    let mut asking = JoinSet::new();
    for _ in 0..arguments.connections.clamp(1, work.requests.len()) {
        asking.spawn(ask(arguments.address.clone(), Arc::clone(&work)));
    }
    let mut took = Vec::with_capacity(work.requests.len());
    while let Some(finished) = asking.join_next().await {
        took.extend(finished??);
    }
    report(took, begun.elapsed().as_secs_f64())
}

impl Work {
    fn read(arguments: &Arguments) -> Result<Self> {
        let key =
            std::env::var("AITHEROS_API_KEY").map_err(|_unset| "AITHEROS_API_KEY is not set")?;
        let bodies = fs::read_to_string(&arguments.bodies)
            .map_err(|error| format!("{}: {error}", arguments.bodies.display()))?;
        let Arguments { address, path, .. } = arguments;
        let request = |body: &str| {
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {key}\r\n\
                 Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            [head.as_bytes(), body.as_bytes()].concat()
        };
        let requests: Vec<_> = bodies.lines().map(request).collect();
        if requests.is_empty() {
            return Err("the file of bodies is empty".into());
        }
        Ok(Self {
            requests,
            next: AtomicUsize::new(0),
            status: arguments.status,
        })
    }
}

/// Sends what is left over one connection; returns the seconds of each answer.
async fn ask(address: String, work: Arc<Work>) -> Result<Vec<f64>> {
    let stream = TcpStream::connect(&address).await?;
    stream.set_nodelay(true)?;
    let mut connection = BufReader::new(stream);
    let mut took = Vec::new();
    loop {
        let turn = work.next.fetch_add(1, Ordering::Relaxed);
        let Some(request) = work.requests.get(turn) else {
            return Ok(took);
        };
        let begun = Instant::now();
        connection.get_mut().write_all(request).await?;
        let (status, body) = answer(&mut connection).await?;
        took.push(begun.elapsed().as_secs_f64());
        if status != work.status {
            return Err(format!("answered {status}: {}", String::from_utf8_lossy(&body)).into());
        }
    }
}

/// Reads an answer whose length its head states.
async fn answer(connection: &mut BufReader<TcpStream>) -> Result<(u16, Vec<u8>)> {
    let mut line = String::new();
    let mut head = (&mut *connection).take(ANSWER_BYTES_MAX);
    head.read_line(&mut line).await?;
    let status = line.split(' ').nth(1).ok_or("no status line")?.parse()?;
    let mut length = None;
    loop {
        line.clear();
        head.read_line(&mut line).await?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.trim().parse::<u64>()?);
        }
    }
    let length = length.ok_or("an answer without a length")?;
    if length > ANSWER_BYTES_MAX {
        return Err(format!("an answer of {length} bytes").into());
    }
    let mut body = vec![0; usize::try_from(length)?];
    connection.read_exact(&mut body).await?;
    Ok((status, body))
}

fn report(mut took: Vec<f64>, seconds: f64) -> Result<()> {
    took.sort_by(f64::total_cmp);
    let at = |part: f64| took[((took.len() - 1) as f64 * part).round() as usize];
    let found = serde_json::json!({
        "requests": took.len(),
        "seconds": seconds,
        "per_second": took.len() as f64 / seconds,
        "p50": at(0.5),
        "p99": at(0.99),
        "max": at(1.0),
    });
    writeln!(std::io::stdout(), "{found}")?;
    Ok(())
}
