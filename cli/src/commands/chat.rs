//! `aither-cli chat`: one message, or a conversation in the terminal.
//!
//! The conversation is kept here and sent whole with each message; the node keeps nothing. Ctrl-C
//! stops the answer that is being written by hanging up, which frees its place on the node; where
//! no answer is being written, it leaves.

mod terminal;

use std::io::{self, IsTerminal, Read};

use serde_json::Value;
use tokio::signal;

use super::models;
use crate::{
    args::ChatArgs,
    client::{ChatEvent, ChatRequest, Client, Message},
    error::Error,
    render::{self, Output},
};

/// More than any model's context holds.
const MESSAGE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Runs the command.
pub(crate) async fn run(
    client: &Client,
    output: &Output,
    args: &ChatArgs,
    json: bool,
) -> Result<(), Error> {
    let mut conversation = Conversation::new(client, output, args, json);
    if !args.message.is_empty() {
        return conversation.say_once(args.message.join(" ")).await;
    }
    if !io::stdin().is_terminal() {
        return conversation
            .say_once(read_message(io::stdin().lock())?)
            .await;
    }
    talk(&mut conversation).await
}

/// Holds a conversation until the person leaves.
async fn talk(conversation: &mut Conversation<'_>) -> Result<(), Error> {
    let model = conversation.greeting_model().await?;
    render::remark(&format!(
        "chatting with {model} at {}; /help lists what else there is",
        conversation.client.server()
    ));
    let mut lines = terminal::Lines::start();
    loop {
        render::prompt();
        let line = tokio::select! {
            line = lines.next() => line?,
            signal = signal::ctrl_c() => { signal.map_err(Error::Terminal)?; None }
        };
        let Some(line) = line else {
            render::remark("");
            return Ok(());
        };
        match line.trim() {
            "" => {}
            "/exit" | "/quit" | "/bye" => return Ok(()),
            "/clear" => {
                conversation.clear();
                render::remark("the conversation starts anew");
            }
            "/help" => render::remark(terminal::HELP),
            message => match conversation.say(message.to_owned()).await {
                Ok(()) => {}
                // The person stopped it, or may say something else.
                Err(Error::Stopped) => render::remark("(stopped)"),
                Err(error @ (Error::Refused(_) | Error::Broken { .. })) => {
                    render::remark(&format!("error: {error}"));
                }
                Err(error) => return Err(error),
            },
        }
    }
}

/// The turns so far, and how to ask for the next.
#[derive(Debug)]
struct Conversation<'a> {
    client: &'a Client,
    output: &'a Output,
    args: &'a ChatArgs,
    json: bool,
    messages: Vec<Message>,
}

impl<'a> Conversation<'a> {
    fn new(client: &'a Client, output: &'a Output, args: &'a ChatArgs, json: bool) -> Self {
        let mut conversation = Self {
            client,
            output,
            args,
            json,
            messages: Vec::new(),
        };
        conversation.clear();
        conversation
    }

    /// Forgets all but the instructions.
    fn clear(&mut self) {
        self.messages.clear();
        if let Some(system) = &self.args.system {
            self.messages.push(Message {
                role: "system",
                content: system.clone(),
            });
        }
    }

    /// Returns the name of the model that will answer; finds out that no node answers, too.
    async fn greeting_model(&self) -> Result<String, Error> {
        let list = models::read(&self.client.models().await?)?;
        if let Some(name) = &self.args.model {
            return Ok(name.clone());
        }
        let real = list.data.iter().find(|model| model.alias_of.is_none());
        Ok(match (real, list.data.len()) {
            (Some(model), 1) => model.id.clone(),
            _ => "the default model".to_owned(),
        })
    }

    /// Says one message, whose failure is the command's.
    async fn say_once(&mut self, message: String) -> Result<(), Error> {
        if message.trim().is_empty() {
            return Err(Error::EmptyMessage);
        }
        self.say(message).await
    }

    /// Says a message and prints the answer; a refused message is forgotten again.
    async fn say(&mut self, message: String) -> Result<(), Error> {
        self.messages.push(Message {
            role: "user",
            content: message,
        });
        let mut text = String::new();
        let done = self.answer(&mut text).await;
        if !self.json && !text.is_empty() && !text.ends_with('\n') {
            self.output.piece("\n")?;
        }
        match done {
            Ok(answer) => {
                self.report(&answer)?;
                self.messages.push(Message {
                    role: "assistant",
                    content: text,
                });
                Ok(())
            }
            Err(error) => {
                // What was said of a stopped answer stays part of the conversation.
                if matches!(error, Error::Stopped) && !text.is_empty() {
                    self.messages.push(Message {
                        role: "assistant",
                        content: text,
                    });
                } else {
                    self.messages.pop();
                }
                Err(error)
            }
        }
    }

    /// Streams one answer into `text` and to the output; returns the answer object.
    async fn answer(&self, text: &mut String) -> Result<Value, Error> {
        let request = ChatRequest {
            model: self.args.model.as_deref(),
            messages: &self.messages,
            max_tokens: self.args.max_tokens,
            temperature: self.args.temperature,
            seed: self.args.seed,
            stream: true,
        };
        let stop = signal::ctrl_c();
        tokio::pin!(stop);
        let mut stream = tokio::select! {
            stream = self.client.chat(&request) => stream?,
            signal = &mut stop => return Err(signal.err().map_or(Error::Stopped, Error::Terminal)),
        };
        loop {
            let event = tokio::select! {
                event = stream.next() => event?,
                signal = &mut stop => {
                    return Err(signal.err().map_or(Error::Stopped, Error::Terminal));
                }
            };
            match event {
                ChatEvent::Delta(piece) => {
                    if !self.json {
                        self.output.piece(&piece)?;
                    }
                    text.push_str(&piece);
                }
                ChatEvent::Done(answer) => return Ok(answer),
            }
        }
    }

    fn report(&self, answer: &Value) -> Result<(), Error> {
        if self.json {
            return self.output.line(&answer.to_string());
        }
        if answer.get("finish_reason").and_then(Value::as_str) == Some("length") {
            let count = answer
                .get("completion_tokens")
                .and_then(Value::as_u64)
                .unwrap_or_default();
            render::remark(&format!(
                "(cut off after {count} tokens; --max-tokens allows more)"
            ));
        }
        Ok(())
    }
}

/// Reads the message from a pipe or file.
pub(super) fn read_message(input: impl Read) -> Result<String, Error> {
    let mut bytes = Vec::new();
    input
        .take(MESSAGE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(Error::Terminal)?;
    if bytes.len() as u64 > MESSAGE_BYTES_MAX {
        return Err(Error::LongMessage {
            limit_bytes: MESSAGE_BYTES_MAX,
        });
    }
    String::from_utf8(bytes).map_err(|_| Error::MessageEncoding)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_is_read_to_the_end_of_the_pipe() {
        assert_eq!(
            read_message("two\nlines\n".as_bytes()).unwrap(),
            "two\nlines\n"
        );
    }

    #[test]
    fn endless_input_is_refused() {
        let refused = read_message(io::repeat(b'x')).unwrap_err();
        assert!(matches!(refused, Error::LongMessage { .. }), "{refused}");
    }

    #[test]
    fn binary_input_is_refused() {
        let refused = read_message(&b"\xff\xfe"[..]).unwrap_err();
        assert!(matches!(refused, Error::MessageEncoding), "{refused}");
    }
}
