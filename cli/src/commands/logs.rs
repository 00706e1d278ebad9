//! `aither-cli logs`: what an agent did, a line for each event, the newest last.

use serde::Deserialize;
use serde_json::Value;
use tokio::signal;

use crate::{
    args::calls::LogsArgs,
    client::{Client, LogItem},
    error::Error,
    render::{self, Output},
};

/// Longest line; `--json` has all of it.
const LINE_WIDTH_MAX: usize = 512;

#[derive(Deserialize)]
struct List {
    items: Vec<LogItem>,
}

/// What an event of the stream holds.
#[derive(Deserialize)]
struct Told {
    time: Option<String>,
    #[serde(default)]
    data: Value,
}

/// Prints the log.
pub(crate) async fn run(
    client: &Client,
    output: &Output,
    args: &LogsArgs,
    json: bool,
) -> Result<(), Error> {
    if args.follow {
        return tokio::select! {
            done = follow(client, output, args, json) => done,
            // That is how one ends it.
            signal = signal::ctrl_c() => signal.map_err(Error::Terminal),
        };
    }
    let answer = client.logs(&args.name, args.lines).await?;
    if json {
        return output.line(&answer.line());
    }
    let list: List = answer.read("a log")?;
    if list.items.is_empty() {
        render::remark("nothing has happened yet");
    }
    for item in &list.items {
        output.line(&line(item))?;
    }
    Ok(())
}

async fn follow(
    client: &Client,
    output: &Output,
    args: &LogsArgs,
    json: bool,
) -> Result<(), Error> {
    let mut stream = client.follow_logs(&args.name, args.lines).await?;
    while let Some(event) = stream.next_event().await? {
        if json {
            let data: Value = serde_json::from_str(&event.data).unwrap_or(Value::Null);
            let told = serde_json::json!({ "event": event.name, "data": data });
            output.line(&told.to_string())?;
            continue;
        }
        let told: Option<Told> = serde_json::from_str(&event.data).ok();
        let (time, data) = told.map_or((None, Value::Null), |told| (told.time, told.data));
        let event = event.name;
        output.line(&line(&LogItem { time, event, data }))?;
    }
    render::remark("the node has ended the log");
    Ok(())
}

/// Writes an event as a line: when, what, and what is said about it as words.
fn line(item: &LogItem) -> String {
    let mut line = format!("{}  {}", item.time.as_deref().unwrap_or("-"), item.event);
    match &item.data {
        Value::Object(members) => {
            for (name, value) in members.iter().filter(|(_, value)| !value.is_null()) {
                let value = match value {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                line.push_str(&format!("  {name}={value}"));
            }
        }
        Value::Null => {}
        other => line.push_str(&format!("  {other}")),
    }
    render::clip(&line, LINE_WIDTH_MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_one_line_whatever_it_holds() {
        let item = LogItem {
            time: Some("2026-01-01T00:00:00Z".to_owned()),
            event: "agent.lyra.lifecycle".to_owned(),
            data: json!({"from": "BOOT", "to": "LIVE", "reason": "healthy\nagain", "x": null}),
        };
        assert_eq!(
            line(&item),
            "2026-01-01T00:00:00Z  agent.lyra.lifecycle  from=BOOT  to=LIVE  reason=healthy again"
        );
    }
}
