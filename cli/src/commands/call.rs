//! `aither-cli call`: calls an agent by name or by skill and prints its answer.
//!
//! A name that no agent has is taken for a skill. What the call cost goes to standard error, so
//! that a pipe carries the answer alone.

use std::io::{self, IsTerminal};

use serde_json::Value;
use tokio::signal;

use super::chat::read_message;
use crate::{
    args::calls::CallArgs,
    client::{CallRequest, CallTarget, ChatEvent, Client},
    error::Error,
    render::{self, Output},
};

/// Calls.
pub(crate) async fn run(
    client: &Client,
    output: &Output,
    args: &CallArgs,
    json: bool,
) -> Result<(), Error> {
    let input = match args.input.is_empty() && !io::stdin().is_terminal() {
        true => read_message(io::stdin().lock())?,
        false => args.input.join(" "),
    };
    let payload = args.endpoint.as_ref().map(|_| payload_of(&input));
    let payload = payload.transpose()?;
    if payload.is_none() && input.trim().is_empty() {
        return Err(Error::EmptyMessage);
    }
    // Names and skills look alike; `name@peer` is no skill.
    let is_name = args.whom.contains('@') || client.knows_agent(&args.whom).await?;
    let target = match is_name {
        true => CallTarget::Agent(&args.whom),
        false => CallTarget::Skill(&args.whom),
    };
    let request = CallRequest {
        target,
        input: payload.is_none().then_some(&input),
        endpoint: args.endpoint.as_deref(),
        payload: payload.as_ref(),
        max_cost: args.max_cost,
        timeout: args.timeout,
        stream: args.stream,
    };
    // Hanging up cancels the call: whoever interrupts it pays nothing.
    tokio::select! {
        done = call(client, output, &request, json) => done,
        signal = signal::ctrl_c() => Err(signal.err().map_or(Error::Stopped, Error::Terminal)),
    }
}

/// Reads what an endpoint is to get; nothing is an empty object.
fn payload_of(input: &str) -> Result<Value, Error> {
    if input.trim().is_empty() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    serde_json::from_str(input).map_err(Error::InputNotJson)
}

async fn call(
    client: &Client,
    output: &Output,
    request: &CallRequest<'_>,
    json: bool,
) -> Result<(), Error> {
    if !request.stream {
        let answer = client.call(request).await?;
        if json {
            return output.line(&answer.line());
        }
        let answer: Value = answer.read("the answer of a task")?;
        output.line(&text_of(&answer["result"]))?;
        render::remark(&summary(&answer));
        return Ok(());
    }
    let mut stream = client.call_streamed(request).await?;
    let mut ends_line = true;
    loop {
        match stream.next().await? {
            ChatEvent::Delta(piece) => {
                if !json {
                    output.piece(&piece)?;
                    ends_line = piece.ends_with('\n');
                }
            }
            ChatEvent::Done(answer) if json => return output.line(&answer.to_string()),
            ChatEvent::Done(answer) => {
                if !ends_line {
                    output.piece("\n")?;
                }
                render::remark(&summary(&answer));
                return Ok(());
            }
        }
    }
}

/// Returns an answer as it reads best: text as it is, everything else as JSON.
fn text_of(result: &Value) -> String {
    match result {
        Value::String(text) => text.clone(),
        other => serde_json::to_string_pretty(other).unwrap_or_default(),
    }
}

/// Says who answered and what it cost.
fn summary(answer: &Value) -> String {
    let member = |name: &str| match &answer[name] {
        Value::String(text) => text.clone(),
        Value::Null => "?".to_owned(),
        other => other.to_string(),
    };
    let line = format!(
        "({} answered, {} tokens, task {})",
        member("agent_used"),
        member("cost_tokens"),
        member("task_id")
    );
    render::clip(&line, 256)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_endpoint_gets_json_and_nothing_is_an_empty_object() {
        assert_eq!(payload_of(" ").unwrap(), json!({}));
        assert_eq!(payload_of("{\"a\": 1}").unwrap(), json!({"a": 1}));
        let refused = payload_of("hello").unwrap_err();
        assert_eq!(refused.exit_code(), 2);
        assert!(refused.to_string().contains("not JSON"), "{refused}");
    }

    #[test]
    fn text_is_printed_as_it_is_and_the_rest_as_json() {
        assert_eq!(text_of(&json!("a\nb")), "a\nb");
        assert_eq!(text_of(&json!({"a": 1})), "{\n  \"a\": 1\n}");
        let done = json!({"agent_used": "lyra", "cost_tokens": 2.5, "task_id": "01A"});
        assert_eq!(summary(&done), "(lyra answered, 2.5 tokens, task 01A)");
    }
}
