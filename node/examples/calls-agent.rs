//! An agent that does nothing: what a call through a node costs is measured on it.
//!
//! Listens on a free port of this machine and prints its address. Every POST is answered with
//! `{"response": "ok"}`, every other request with `{"status": "healthy"}`. It knows no more of HTTP
//! than a node's requests need, since it shares the cores with what is measured.

use std::{error::Error, io::Write};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// Longest head or body that is read.
const REQUEST_BYTES_MAX: u64 = 1 << 20;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    writeln!(std::io::stdout(), "http://{}", listener.local_addr()?)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // Whoever asks what it does not understand has its connection closed.
        tokio::spawn(serve(stream));
    }
}

async fn serve(stream: TcpStream) -> Result<()> {
    let mut connection = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        let mut head = (&mut connection).take(REQUEST_BYTES_MAX);
        if head.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let is_post = line.starts_with("POST ");
        let mut length = 0;
        loop {
            line.clear();
            head.read_line(&mut line).await?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse::<u64>()?;
            }
        }
        if length > REQUEST_BYTES_MAX {
            return Err("a request that is too long".into());
        }
        let mut body = vec![0; usize::try_from(length)?];
        connection.read_exact(&mut body).await?;
        let body = match is_post {
            true => r#"{"response": "ok"}"#,
            false => r#"{"status": "healthy"}"#,
        };
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        connection.get_mut().write_all(answer.as_bytes()).await?;
    }
}
