//! A node's answer as it came.
//!
//! `--json` prints what the node wrote, so its digits must survive: an amount that went through a
//! float could come out as its neighbour. Commands read from the same text what they show.

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::error::Error;

/// One JSON document that a node answered with.
#[derive(Debug)]
pub(crate) struct Answer {
    server: String,
    document: Box<RawValue>,
}

impl Answer {
    /// Takes a body, unless it is not JSON.
    pub(crate) fn new(server: &str, body: &[u8]) -> Result<Self, Error> {
        let document = serde_json::from_slice(body).map_err(|_| Error::Unexpected {
            server: server.to_owned(),
            what: "an answer that is not JSON".to_owned(),
        })?;
        Ok(Self {
            server: server.to_owned(),
            document,
        })
    }

    /// Returns the document on one line.
    pub(crate) fn line(&self) -> String {
        // In JSON a line break can only stand between two words.
        self.document.get().replace(['\n', '\r'], " ")
    }

    /// Reads the document; `what` it should have been is for the error.
    pub(crate) fn read<T: DeserializeOwned>(&self, what: &str) -> Result<T, Error> {
        serde_json::from_str(self.document.get()).map_err(|cause| Error::Unexpected {
            server: self.server.clone(),
            what: format!("{what} that cannot be read ({cause})"),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Named {
        name: String,
    }

    #[test]
    fn document_stays_as_it_was_written_but_on_one_line() {
        let answer = Answer::new("http://h", b"{\n\"a\": 8999999999.000001,\r\n\"b\": 1}").unwrap();
        assert_eq!(answer.line(), r#"{ "a": 8999999999.000001,  "b": 1}"#);
    }

    #[test]
    fn what_is_not_json_is_no_answer() {
        let refused = Answer::new("http://h", b"<html>").unwrap_err();
        assert!(refused.to_string().contains("not JSON"), "{refused}");
    }

    #[test]
    fn missing_member_is_named_with_what_was_expected() {
        let answer = Answer::new("http://h", br#"{"name": "ann"}"#).unwrap();
        assert_eq!(answer.read::<Named>("a name").unwrap().name, "ann");
        let answer = Answer::new("http://h", b"{}").unwrap();
        let refused = answer.read::<Named>("an answer").unwrap_err().to_string();
        assert!(
            refused.contains("an answer that cannot be read"),
            "{refused}"
        );
        assert!(refused.contains("`name`"), "{refused}");
    }

    #[test]
    fn deep_nesting_is_refused_and_overflows_nothing() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        let refused = Answer::new("http://h", deep.as_bytes())
            .and_then(|answer| answer.read::<serde_json::Value>("a list"));
        assert!(refused.is_err());
    }
}
