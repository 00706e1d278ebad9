//! Lines typed at the terminal, read on a thread of their own.
//!
//! A blocking read cannot be called off, so it must not sit in the way of Ctrl-C: the thread hands
//! each line over on a channel of one, and the process leaves without it when it still waits.

use std::{
    io::{self, BufRead, Read},
    thread,
};

use tokio::sync::mpsc;

use super::MESSAGE_BYTES_MAX;
use crate::error::Error;

/// What `/help` prints.
pub(super) const HELP: &str = "\
/clear  forgets the conversation
/exit   leaves, as Ctrl-D does
Ctrl-C  stops the answer that is being written; at the prompt it leaves";

/// The lines of the terminal.
#[derive(Debug)]
pub(super) struct Lines {
    receiver: mpsc::Receiver<io::Result<String>>,
}

impl Lines {
    /// Starts reading.
    pub(super) fn start() -> Self {
        let (sender, receiver) = mpsc::channel(1);
        thread::spawn(move || {
            loop {
                let mut line = String::new();
                let read = io::stdin()
                    .lock()
                    .take(MESSAGE_BYTES_MAX)
                    .read_line(&mut line);
                let (line, is_last) = match read {
                    Ok(0) => return,
                    Ok(_) => (Ok(line), false),
                    Err(error) => (Err(error), true),
                };
                if sender.blocking_send(line).is_err() || is_last {
                    return;
                }
            }
        });
        Self { receiver }
    }

    /// Returns the next line; none at the end of the input.
    pub(super) async fn next(&mut self) -> Result<Option<String>, Error> {
        self.receiver
            .recv()
            .await
            .transpose()
            .map_err(Error::Terminal)
    }
}
