//! What agents remember, as far as the client asks for it.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Answer, Client};
use crate::{
    args::memory::{PlaceArgs, SearchMode},
    error::Error,
};

/// Where entries are, as requests name it.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Place<'a> {
    tier: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    task_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<&'a str>,
}

/// `POST /v1/memory/write`.
#[derive(Debug, Serialize)]
pub(crate) struct MemoryWrite<'a> {
    #[serde(flatten)]
    pub(crate) place: Place<'a>,
    pub(crate) key: &'a str,
    pub(crate) value: &'a serde_json::Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ttl: Option<&'a str>,
    pub(crate) tags: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) if_version: Option<u64>,
}

#[derive(Debug, Serialize)]
struct KeyRequest<'a> {
    #[serde(flatten)]
    place: Place<'a>,
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    if_version: Option<u64>,
}

/// `POST /v1/memory/search`.
#[derive(Debug, Serialize)]
pub(crate) struct MemorySearch<'a> {
    pub(crate) query: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tiers: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mode: Option<SearchMode>,
}

/// An entry that was written.
#[derive(Debug, Deserialize)]
pub(crate) struct WrittenEntry {
    pub(crate) version: u64,
}

/// An entry with its value.
#[derive(Debug, Deserialize)]
pub(crate) struct MemoryEntry {
    pub(crate) value: Box<RawValue>,
}

/// An entry of a list.
#[derive(Debug, Deserialize)]
pub(crate) struct MemoryItem {
    pub(crate) key: String,
    pub(crate) version: u64,
    pub(crate) updated_at: String,
    pub(crate) expires_at: Option<String>,
    #[serde(default)]
    pub(crate) tags: Vec<String>,
    pub(crate) value_bytes: Option<u64>,
}

/// An entry that a search found.
#[derive(Debug, Deserialize)]
pub(crate) struct MemoryHit {
    pub(crate) tier: String,
    pub(crate) key: String,
    pub(crate) value: Box<RawValue>,
    pub(crate) score: f64,
}

impl<'a> From<&'a PlaceArgs> for Place<'a> {
    fn from(args: &'a PlaceArgs) -> Self {
        Self {
            tier: args.tier.as_str(),
            task_id: args.task.as_deref(),
            session_id: args.session.as_deref(),
        }
    }
}

impl Client {
    /// Writes an entry.
    pub(crate) async fn memory_write(&self, write: &MemoryWrite<'_>) -> Result<Answer, Error> {
        self.post("v1/memory/write", write).await
    }

    /// Asks for an entry.
    pub(crate) async fn memory_read(&self, place: Place<'_>, key: &str) -> Result<Answer, Error> {
        let request = KeyRequest {
            place,
            key,
            if_version: None,
        };
        self.post("v1/memory/read", &request).await
    }

    /// Deletes an entry.
    pub(crate) async fn memory_delete(
        &self,
        place: Place<'_>,
        key: &str,
        if_version: Option<u64>,
    ) -> Result<Answer, Error> {
        let request = KeyRequest {
            place,
            key,
            if_version,
        };
        self.post("v1/memory/delete", &request).await
    }

    /// Asks for entries: all pages of the list as one.
    pub(crate) async fn memory_list(
        &self,
        place: Place<'_>,
        prefix: Option<&str>,
    ) -> Result<Answer, Error> {
        let mut query = vec![("tier", place.tier)];
        query.extend(prefix.map(|prefix| ("prefix", prefix)));
        query.extend(place.task_id.map(|task| ("task_id", task)));
        query.extend(place.session_id.map(|session| ("session_id", session)));
        let what = "a list of entries";
        self.whole_list("v1/memory/list", &query, what).await
    }

    /// Searches.
    pub(crate) async fn memory_search(&self, search: &MemorySearch<'_>) -> Result<Answer, Error> {
        self.post("v1/memory/search", search).await
    }
}
