//! The shapes of `/v1/events/…` and of agents' logs.

use std::time::SystemTime;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};
use utoipa::{IntoParams, ToSchema};

use super::{ApiError, rfc3339, stream::push_event};
use crate::{accounts::time_of, events::Event};

/// `POST /v1/events/emit`.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct EmitBody {
    /// Its name: up to 16 segments of letters, digits, `_` and `-` with dots between them.
    pub(super) event: String,
    /// Any JSON value, up to 64 KiB.
    #[schema(value_type = Value)]
    pub(super) data: Box<RawValue>,
    /// Whether everybody with a key sees it, and not only the account and its agents.
    #[serde(default)]
    pub(super) public: bool,
}

/// An event that was taken.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EmittedBody {
    /// Its id: a number in decimal that rises from event to event.
    pub(super) id: String,
    /// When it came.
    pub(super) time: String,
}

/// Which events are followed.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct SubscribeParams {
    /// Patterns of names with commas between them: `*` is one segment, `**` any number. Without
    /// any, all events that the caller may see.
    pub(super) events: Option<String>,
    /// As the header `Last-Event-ID`: the stream begins after this event.
    pub(super) last_event_id: Option<String>,
}

/// How an agent's events are shown.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct LogParams {
    /// Whether the answer is a stream that goes on with what comes.
    #[serde(default)]
    pub(super) follow: bool,
}

/// An event of an agent's log.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LogItem {
    /// Its id.
    id: String,
    /// When it came.
    time: String,
    /// Its name.
    event: String,
    /// What is told.
    #[schema(value_type = Value)]
    data: Box<RawValue>,
}

impl LogItem {
    /// Makes one of an event.
    pub(super) fn of(event: &Event) -> Result<Self, ApiError> {
        let data = RawValue::from_string(event.data.to_string());
        Ok(Self {
            id: event.id.to_string(),
            time: time_text(event),
            event: event.name.to_string(),
            data: data.map_err(|error| ApiError::internal(error.to_string()))?,
        })
    }
}

/// Returns an event as all streams show it. It is made once for all of them.
pub(super) fn shown(event: &Event) -> &Bytes {
    event.shown(|event| {
        // Neither a name nor JSON in one line can break out of its own.
        let (id, name, data) = (event.id, &event.name, &event.data);
        let (agent, time) = (json!(event.agent), time_text(event));
        Bytes::from(format!(
            "id: {id}\nevent: {name}\n\
             data: {{\"agent\":{agent},\"data\":{data},\"time\":\"{time}\"}}\n\n"
        ))
    })
}

/// Appends what a stream says of itself. With an id, whoever comes back begins after that.
pub(super) fn push_own(out: &mut Vec<u8>, id: Option<u64>, name: &str, data: &Value) {
    if let Some(id) = id {
        out.extend_from_slice(format!("id: {id}\n").as_bytes());
    }
    let time = rfc3339(SystemTime::now());
    let whole = json!({ "agent": null, "data": data, "time": time });
    push_event(out, Some(name), &whole);
}

fn time_text(event: &Event) -> String {
    rfc3339(time_of(event.time_ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Audience, NewEvent};

    #[test]
    fn an_event_is_three_lines() {
        let event = NewEvent {
            name: "agent.chat.completed".into(),
            agent: Some("lyra".into()),
            source: None,
            audience: Audience::Everyone,
            data: "{\"a\": 1.00}".into(),
            time_ms: 1_500,
        };
        let event = Event::new(7, event);
        let expected = "id: 7\nevent: agent.chat.completed\ndata: {\"agent\":\"lyra\",\"data\":\
                        {\"a\": 1.00},\"time\":\"1970-01-01T00:00:01.500000Z\"}\n\n";
        assert_eq!(shown(&event), expected);
        let mut out = Vec::new();
        push_own(&mut out, Some(3), "gap", &json!({ "after": "3" }));
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.starts_with("id: 3\nevent: gap\ndata: {\"agent\":null,"),
            "{text}"
        );
    }
}
