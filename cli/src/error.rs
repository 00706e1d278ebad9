//! What can go wrong in the client, and the exit code of each.
//!
//! A message is one line: what failed, the cause in the words of whoever knows it, and the remedy
//! where there is one.

use std::{io, path::Path};

/// Exit code for a refusal or failure.
const EXIT_FAILED: u8 = 1;
/// Exit code for bad usage.
const EXIT_USAGE: u8 = 2;
/// Exit code for "no node answers there".
const EXIT_NO_SERVER: u8 = 5;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    #[error(
        "no node answers at {server}: {cause}; start one with `aither-node run`, \
         or name another with AITHEROS_SERVER"
    )]
    NoServer { server: String, cause: String },
    #[error("`{server}` is not a server's address: {cause}; write it like http://localhost:8200")]
    BadServer { server: String, cause: String },
    #[error("AITHEROS_API_KEY holds characters that no key has; set it again or unset it")]
    BadKey,
    #[error("the message is empty; say something, or leave it out to chat in the terminal")]
    EmptyMessage,
    #[error("the message is longer than {limit_bytes} bytes; shorten it")]
    LongMessage { limit_bytes: u64 },
    #[error("the message is not UTF-8 text; convert it first")]
    MessageEncoding,
    #[error("{0}")]
    Refused(Box<Refusal>),
    #[error("the connection to {server} broke: {cause}")]
    Broken { server: String, cause: String },
    #[error("{server} sent what no node sends: {what}; is it an AitherOS node?")]
    Unexpected { server: String, what: String },
    #[error(
        "nobody can tell whether the node has paid: {cause}; ask again without paying twice: \
         add --idempotency-key {key}"
    )]
    UncertainPayment { key: String, cause: Box<Error> },
    #[error(
        "no agent's name can be made of `{directory}`; give one, as in --name my-agent \
         (lowercase letters, digits and hyphens)"
    )]
    NoName { directory: String },
    #[error("{directory} is not empty, and nothing in it was changed; name a new directory")]
    NotEmpty { directory: String },
    #[error("{0}")]
    InvalidAgent(String),
    #[error("cannot {doing} {path}: {cause}")]
    File {
        doing: &'static str,
        path: String,
        #[source]
        cause: io::Error,
    },
    #[error("{path} is a link, and the agent's key would be written where it leads; remove it")]
    LinkedFolder { path: String },
    #[error("the input is not JSON: {0}; an endpoint takes a JSON document")]
    InputNotJson(serde_json::Error),
    #[error("{0}")]
    AgentFailed(String),
    #[error("stopped before the answer was whole")]
    Stopped,
    #[error("cannot use the terminal: {0}")]
    Terminal(#[source] io::Error),
    #[error("cannot start the HTTP client: {0}")]
    Client(#[source] reqwest::Error),
}

/// A node's answer that is not a success, as far as it could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The node's words.
    pub(crate) detail: String,
    /// Its stable code, such as `model_not_found`.
    pub(crate) code: Option<String>,
    /// The HTTP status, where the refusal was an answer of its own.
    pub(crate) status: Option<u16>,
    /// How long to wait, in seconds, where the node said so.
    pub(crate) retry_after: Option<u64>,
    /// What to name when asking the operator.
    pub(crate) request_id: Option<String>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail)?;
        let mut notes = Vec::new();
        notes.extend(self.code.clone());
        // With a code, the status says nothing more.
        if self.code.is_none() {
            notes.extend(self.status.map(|status| format!("status {status}")));
        }
        notes.extend(
            self.retry_after
                .map(|seconds| format!("try again in {seconds} s")),
        );
        if self.status.is_some_and(|status| status >= 500) {
            notes.extend(self.request_id.as_ref().map(|id| format!("request {id}")));
        }
        if self.status == Some(401) {
            notes.push("set AITHEROS_API_KEY".to_owned());
        }
        if notes.is_empty() {
            Ok(())
        } else {
            write!(f, " ({})", notes.join(", "))
        }
    }
}

impl Error {
    /// Returns the process's exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::NoServer { .. } => EXIT_NO_SERVER,
            Self::BadServer { .. }
            | Self::BadKey
            | Self::EmptyMessage
            | Self::LongMessage { .. }
            | Self::MessageEncoding
            | Self::InputNotJson(_)
            | Self::NoName { .. } => EXIT_USAGE,
            _ => EXIT_FAILED,
        }
    }

    /// Says which file or folder could not be used.
    pub(crate) fn file(doing: &'static str, path: &Path, cause: io::Error) -> Self {
        Self::File {
            doing,
            path: path.display().to_string(),
            cause,
        }
    }

    /// Tells whether the reader of our output has closed it.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Terminal(cause) if cause.kind() == io::ErrorKind::BrokenPipe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal() -> Refusal {
        Refusal {
            detail: "the queue is full".into(),
            code: Some("overloaded".into()),
            status: Some(503),
            retry_after: Some(3),
            request_id: Some("01ABC".into()),
        }
    }

    #[test]
    fn refusal_says_code_wait_and_request() {
        let words = refusal().to_string();
        assert_eq!(
            words,
            "the queue is full (overloaded, try again in 3 s, request 01ABC)"
        );
    }

    #[test]
    fn refused_key_names_the_remedy() {
        let words = Refusal {
            status: Some(401),
            ..refusal()
        }
        .to_string();
        assert!(words.contains("AITHEROS_API_KEY"), "{words}");
    }

    #[test]
    fn exit_codes_are_those_of_the_interface() {
        let server = String::from("http://h");
        let cause = String::from("refused");
        let no_server = Error::NoServer {
            server: server.clone(),
            cause: cause.clone(),
        };
        assert_eq!(no_server.exit_code(), 5);
        assert_eq!(Error::BadServer { server, cause }.exit_code(), 2);
        assert_eq!(Error::Refused(Box::new(refusal())).exit_code(), 1);
    }
}
