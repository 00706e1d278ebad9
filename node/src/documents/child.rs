//! The process that reads documents.
//!
//! First it takes from itself, for good, what reading a document does not need: more memory, more
//! time, files and sockets. It knows no configuration and no keys, and its environment is empty.
//! Then it reads the document from standard input and writes one line of JSON to standard output.
//! What it does not survive it need not say: the system ends it, and its parent sees how.

use std::{
    io::{self, Read, Write},
    panic, thread,
};

use serde::{Deserialize, Serialize};

use super::{DocumentFault, Extracted, Format, extract};

/// Memory beside what the program itself takes.
const MEMORY_BYTES_MAX: u64 = 1 << 30;
/// Time on a core.
pub const CPU_SECONDS_MAX: u64 = 10;
/// Room for what nests: parsers call themselves.
const STACK_BYTES: usize = 128 << 20;
/// A page of memory; where they are larger the program seems smaller than it is.
#[cfg(unix)]
const PAGE_BYTES: u64 = 4096;
/// Largest document whoever asks: configuration allows no more.
const DOCUMENT_BYTES_MAX: u64 = 256 << 20;

/// What the process says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The text.
    Extracted(Extracted),
    /// Why there is none.
    Fault(DocumentFault),
}

/// Reads the document on standard input and says what is in it.
///
/// # Errors
/// The process cannot be bounded, or cannot read or write: nothing was read then.
pub fn run(format: Format) -> io::Result<()> {
    // A panic is an answer here, and its words may quote the document.
    panic::set_hook(Box::new(|_| {}));
    limit()?;
    let reader = thread::Builder::new().stack_size(STACK_BYTES);
    let reading = reader.spawn(move || -> io::Result<Outcome> {
        let mut document = Vec::new();
        let stdin = io::stdin().lock();
        stdin.take(DOCUMENT_BYTES_MAX).read_to_end(&mut document)?;
        Ok(match extract(format, &document) {
            Ok(extracted) => Outcome::Extracted(extracted),
            Err(fault) => Outcome::Fault(fault),
        })
    })?;
    let outcome = match reading.join() {
        Ok(outcome) => outcome?,
        Err(_panic) => Outcome::Fault(DocumentFault::damaged("its reader met what it cannot be")),
    };
    // On a line of its own, whatever a library may have printed before.
    let json = serde_json::to_string(&outcome)?;
    let mut out = io::stdout().lock();
    writeln!(out, "\n{json}")?;
    out.flush()
}

#[cfg(unix)]
fn limit() -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    // Standard input, output and error: no file and no socket more can be opened.
    const FILES_MAX: u64 = 3;
    let memory = own_memory_bytes().saturating_add(MEMORY_BYTES_MAX);
    for (resource, max) in [
        (Resource::As, memory),
        (Resource::Cpu, CPU_SECONDS_MAX),
        (Resource::Core, 0),
        (Resource::Fsize, 0),
        (Resource::Nofile, FILES_MAX),
    ] {
        // At the lower bound of time a signal says which bound it was, at the upper one none does.
        let beyond = u64::from(resource == Resource::Cpu);
        let limit = Rlimit {
            current: Some(max),
            maximum: Some(max.saturating_add(beyond)),
        };
        setrlimit(resource, limit)?;
    }
    Ok(())
}

/// Elsewhere there are only the parent's bounds: its clock, and how much it reads.
#[cfg(not(unix))]
fn limit() -> io::Result<()> {
    Ok(())
}

/// Returns the addresses that the program takes before it has read anything: its own code, of
/// which there is a lot, though hardly any of it is used here.
#[cfg(unix)]
fn own_memory_bytes() -> u64 {
    // Linux says it in pages; where nobody says it the bound is only tighter.
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|pages| pages.split(' ').next()?.parse::<u64>().ok());
    pages.unwrap_or(0).saturating_mul(PAGE_BYTES)
}
