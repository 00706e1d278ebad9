//! What an agent is sent, and what its answer means.
//!
//! An answer may be megabytes, so it is read once and nothing is made of it but what is wanted: a
//! JSON object's member `response`, else the JSON as it is, else a text.

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

/// Longest name of a session that is taken from an agent.
const SESSION_BYTES_MAX: usize = 256;

/// What an answer means.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reading {
    /// The result, as JSON.
    pub json: String,
    /// Whether it was called that, and not all that came.
    pub is_response: bool,
    /// The session that the agent has named.
    pub session_id: Option<String>,
    /// How many model tokens the agent says that it has used.
    pub tokens_used: u64,
}

/// A message for an agent.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Message<'a> {
    /// What is said: a text or any JSON.
    pub message: &'a RawValue,
    /// Where it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<&'a str>,
    /// What the agent is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skill: Option<&'a str>,
    /// Whether the answer may come in pieces.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stream: bool,
}

/// A request of A2A's JSON-RPC.
#[derive(Serialize)]
struct A2aRequest<'a> {
    jsonrpc: &'static str,
    id: &'a str,
    method: &'static str,
    params: A2aParams<'a>,
}

#[derive(Serialize)]
struct A2aParams<'a> {
    message: A2aMessage<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct A2aMessage<'a> {
    message_id: &'a str,
    role: &'static str,
    parts: [A2aPart<'a>; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    context_id: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum A2aPart<'a> {
    Text(String),
    Data(&'a RawValue),
}

/// Members of an answer that mean something here.
#[derive(Deserialize)]
struct Members<'a> {
    #[serde(borrow)]
    response: Option<&'a RawValue>,
    #[serde(borrow)]
    session_id: Option<&'a RawValue>,
    #[serde(borrow)]
    tokens_used: Option<&'a RawValue>,
}

impl Message<'_> {
    /// Returns the body of the request.
    pub fn to_body(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and JSON can be written as JSON")
    }

    /// Returns the body as A2A's JSON-RPC has it. What is said goes as it was written: read as a
    /// value it could be one that there is not, like a number too great or lists nested too deep.
    pub fn to_a2a_body(&self, task_id: &str) -> Vec<u8> {
        let part = match serde_json::from_str::<String>(self.message.get()) {
            Ok(text) => A2aPart::Text(text),
            Err(_) => A2aPart::Data(self.message),
        };
        let request = A2aRequest {
            jsonrpc: "2.0",
            id: task_id,
            method: "SendMessage",
            params: A2aParams {
                message: A2aMessage {
                    message_id: task_id,
                    role: "ROLE_USER",
                    parts: [part],
                    context_id: self.session_id,
                },
            },
        };
        serde_json::to_vec(&request).expect("texts and JSON can be written as JSON")
    }
}

impl Reading {
    /// Reads an answer: its member `response`, else all of it.
    ///
    /// # Errors
    /// It is neither JSON nor a text.
    pub fn of(body: &[u8]) -> Result<Self, String> {
        let text = text_of(body)?;
        if text.trim_ascii_start().starts_with('{')
            && let Ok(members) = serde_json::from_str::<Members<'_>>(text)
        {
            let json = members.response.map_or(text.trim_ascii(), RawValue::get);
            return Ok(Self {
                json: json.to_owned(),
                is_response: members.response.is_some(),
                session_id: members.session_id.and_then(|raw| session_of(raw.get())),
                tokens_used: members.tokens_used.map_or(0, |raw| count_of(raw.get())),
            });
        }
        Self::whole(body)
    }

    /// Reads an answer of which nothing is left out.
    ///
    /// # Errors
    /// It is neither JSON nor a text.
    pub fn whole(body: &[u8]) -> Result<Self, String> {
        let text = text_of(body)?;
        let json = match serde_json::from_str::<&RawValue>(text) {
            Ok(json) => json.get().to_owned(),
            Err(_) => json_text(text),
        };
        Ok(Self {
            json,
            ..Self::default()
        })
    }

    /// Reads what came as a text.
    pub fn text(text: &str) -> Self {
        Self {
            json: json_text(text),
            ..Self::default()
        }
    }

    /// Reads the answer to [`Message::to_a2a_body`].
    ///
    /// # Errors
    /// The agent refused it, or has not come to its end with it: words without what was said.
    pub fn of_a2a(body: &[u8]) -> Result<Self, String> {
        let answer: Value = serde_json::from_slice(body)
            .map_err(|_| "answered something that is no JSON-RPC".to_owned())?;
        if let Some(error) = answer.get("error") {
            // Anything but a number could hold what was asked.
            return Err(match error["code"].as_i64() {
                Some(code) => format!("refused with the JSON-RPC error {code}"),
                None => "refused with an error".to_owned(),
            });
        }
        let result = &answer["result"];
        let (parts, context) = match (result.get("message"), result.get("task")) {
            (Some(message), _) => (parts_of(message), message),
            (None, Some(task)) => (parts_of_task(task)?, task),
            (None, None) => return Err("answered neither a message nor a task".to_owned()),
        };
        let session_id = context["contextId"].as_str().map(str::to_owned);
        let texts: Vec<_> = parts.iter().filter_map(|p| p["text"].as_str()).collect();
        let data = parts.iter().find_map(|part| part.get("data"));
        Ok(Self {
            json: match (texts.is_empty(), data) {
                (true, Some(data)) => data.to_string(),
                _ => json_text(&texts.join("\n")),
            },
            session_id: session_id.filter(|id| id.len() <= SESSION_BYTES_MAX),
            ..Self::default()
        })
    }
}

/// Returns the parts of what a task has come to.
fn parts_of_task(task: &Value) -> Result<Vec<&Value>, String> {
    let status = &task["status"];
    match status["state"].as_str().unwrap_or_default() {
        "TASK_STATE_COMPLETED" => {}
        state @ ("TASK_STATE_FAILED"
        | "TASK_STATE_REJECTED"
        | "TASK_STATE_CANCELED"
        | "TASK_STATE_INPUT_REQUIRED"
        | "TASK_STATE_AUTH_REQUIRED"
        | "TASK_STATE_SUBMITTED"
        | "TASK_STATE_WORKING") => return Err(format!("ended in {state}")),
        _ => return Err("answered a task in no state that is known".to_owned()),
    }
    let artifacts = task["artifacts"].as_array();
    let parts: Vec<_> = artifacts.into_iter().flatten().flat_map(parts_of).collect();
    match parts.is_empty() {
        true => Ok(parts_of(&status["message"])),
        false => Ok(parts),
    }
}

fn parts_of(message: &Value) -> Vec<&Value> {
    let parts = message["parts"].as_array();
    parts.into_iter().flatten().collect()
}

fn text_of(body: &[u8]) -> Result<&str, String> {
    let text = std::str::from_utf8(body);
    text.map_err(|_| "answered something that is neither JSON nor a text".to_owned())
}

/// Returns a text as a JSON string.
pub fn json_text(text: &str) -> String {
    serde_json::to_string(text).expect("a text can be written as JSON")
}

fn session_of(json: &str) -> Option<String> {
    let session: Option<String> = serde_json::from_str(json).ok();
    session.filter(|session| (1..=SESSION_BYTES_MAX).contains(&session.len()))
}

fn count_of(json: &str) -> u64 {
    serde_json::from_str(json).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    #[test]
    fn a_message_says_what_it_is_for_and_nothing_more() {
        let input = raw("\"hi\"");
        let plain = Message {
            message: &input,
            session_id: None,
            skill: None,
            stream: false,
        };
        assert_eq!(plain.to_body(), br#"{"message":"hi"}"#);
        let json = raw(r#"{"a": [1]}"#);
        let full = Message {
            message: &json,
            session_id: Some("s"),
            skill: Some("find"),
            stream: true,
        };
        assert_eq!(
            String::from_utf8(full.to_body()).unwrap(),
            r#"{"message":{"a": [1]},"session_id":"s","skill":"find","stream":true}"#
        );
    }

    // tidy: table
    #[test]
    fn an_answer_is_its_response_else_its_json_else_its_text() {
        for (body, json) in [
            (r#"{"response": "hi", "x": 1}"#, r#""hi""#),
            (r#"{"response": {"a": 1.50}}"#, r#"{"a": 1.50}"#),
            (
                r#"{"response": null, "x": 1}"#,
                r#"{"response": null, "x": 1}"#,
            ),
            (r#" {"x": 1} "#, r#"{"x": 1}"#),
            (
                r#"{"response": 1, "response": 2}"#,
                r#"{"response": 1, "response": 2}"#,
            ),
            ("[1, 2]", "[1, 2]"),
            ("12", "12"),
            ("null", "null"),
            (r#""text""#, r#""text""#),
            ("{\"response\": ", r#""{\"response\": ""#),
            ("plain \"words\"\n", r#""plain \"words\"\n""#),
            ("", r#""""#),
        ] {
            assert_eq!(Reading::of(body.as_bytes()).unwrap().json, json, "{body}");
        }
        assert!(Reading::of(b"\xff").is_err());
        let whole = Reading::whole(br#"{"response": "hi"}"#).unwrap();
        assert_eq!(whole.json, r#"{"response": "hi"}"#);
    }

    #[test]
    fn sessions_and_counts_are_taken_where_they_are_such() {
        let of = |body: &str| {
            let reading = Reading::of(body.as_bytes()).unwrap();
            (reading.session_id, reading.tokens_used)
        };
        let good = r#"{"response": "a", "session_id": "s", "tokens_used": 7}"#;
        assert_eq!(of(good), (Some("s".to_owned()), 7));
        for odd in [
            r#"{"session_id": 1, "tokens_used": -1}"#.to_owned(),
            r#"{"session_id": "", "tokens_used": 1.5}"#.to_owned(),
            r#"{"session_id": null, "tokens_used": "7"}"#.to_owned(),
            format!(r#"{{"session_id": "{}"}}"#, "s".repeat(300)),
        ] {
            assert_eq!(of(&odd), (None, 0), "{odd}");
        }
    }

    #[test]
    fn regression_deep_nesting_does_no_harm() {
        let deep = format!("{{\"x\": {}", "[".repeat(1_000_000));
        assert!(Reading::of(deep.as_bytes()).unwrap().json.starts_with('"'));
        let closed = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        assert!(Reading::of(closed.as_bytes()).is_ok());
        assert!(Reading::of_a2a(closed.as_bytes()).is_err());
    }

    // tidy: table
    #[test]
    fn an_a2a_answer_is_its_text_and_only_what_has_ended_well_is_one() {
        for (result, read) in [
            (
                json!({ "message": { "parts": [{ "text": "a" }, { "text": "b" }] } }),
                Ok("\"a\\nb\""),
            ),
            (
                json!({ "message": { "parts": [{ "data": { "x": 1 } }] } }),
                Ok("{\"x\":1}"),
            ),
            (
                json!({ "task": {
                    "status": { "state": "TASK_STATE_COMPLETED" },
                    "artifacts": [{ "parts": [{ "text": "a" }] }],
                } }),
                Ok("\"a\""),
            ),
            (
                json!({ "task": { "status": {
                    "state": "TASK_STATE_COMPLETED", "message": { "parts": [{ "text": "m" }] },
                } } }),
                Ok("\"m\""),
            ),
            (
                json!({ "task": { "status": { "state": "TASK_STATE_FAILED" } } }),
                Err("FAILED"),
            ),
            (
                json!({ "task": { "status": { "state": "TASK_STATE_WORKING" } } }),
                Err("WORKING"),
            ),
            (
                json!({ "task": { "status": { "state": "<script>" } } }),
                Err("no state"),
            ),
            (json!({}), Err("neither")),
        ] {
            let body = json!({ "jsonrpc": "2.0", "id": "1", "result": result }).to_string();
            let reading = Reading::of_a2a(body.as_bytes());
            match (reading, read) {
                (Ok(reading), Ok(json)) => assert_eq!(reading.json, json),
                (Err(words), Err(part)) => assert!(words.contains(part), "{words}"),
                (reading, read) => panic!("{body}: {reading:?}, not {read:?}"),
            }
        }
        let refused = Reading::of_a2a(br#"{"error": {"code": -32601, "message": "secret"}}"#);
        assert_eq!(
            refused.unwrap_err(),
            "refused with the JSON-RPC error -32601"
        );
    }

    #[test]
    fn regression_an_a2a_refusal_says_nothing_in_words_of_the_agents() {
        for code in [r#""secret""#, r#"{"x": "secret"}"#, "1.5", "null", "1e300"] {
            let body = format!(r#"{{"error": {{"code": {code}, "message": "secret"}}}}"#);
            let words = Reading::of_a2a(body.as_bytes()).unwrap_err();
            assert_eq!(words, "refused with an error", "{code}");
        }
        let bare = Reading::of_a2a(br#"{"error": "secret"}"#);
        assert_eq!(bare.unwrap_err(), "refused with an error");
    }

    #[test]
    fn regression_data_that_is_no_value_goes_as_it_was_written() {
        let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
        for input in ["1e999", r#"{"a": [-1e999, 1.50]}"#, &deep] {
            let data = raw(input);
            let message = Message {
                message: &data,
                session_id: None,
                skill: None,
                stream: false,
            };
            let body = String::from_utf8(message.to_a2a_body("t")).unwrap();
            let part = format!(r#""parts":[{{"data":{input}}}]"#);
            assert!(body.contains(&part), "{body}");
            assert!(!body.contains("contextId"));
        }
    }

    #[test]
    fn an_a2a_request_has_a_text_or_data() {
        let text = raw("\"hi\"");
        let message = Message {
            message: &text,
            session_id: Some("s"),
            skill: None,
            stream: false,
        };
        let body: Value = serde_json::from_slice(&message.to_a2a_body("t")).unwrap();
        assert_eq!(body["method"], "SendMessage");
        let sent = &body["params"]["message"];
        assert_eq!(sent["parts"], json!([{ "text": "hi" }]));
        assert_eq!(
            (&sent["contextId"], &sent["role"]),
            (&json!("s"), &json!("ROLE_USER"))
        );
        let data = raw("{\"a\":1}");
        let message = Message {
            message: &data,
            ..message
        };
        let body: Value = serde_json::from_slice(&message.to_a2a_body("t")).unwrap();
        assert_eq!(
            body["params"]["message"]["parts"],
            json!([{ "data": { "a": 1 } }])
        );
    }
}
