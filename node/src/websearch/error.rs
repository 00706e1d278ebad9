//! Why nothing could be searched.

use std::time::Duration;

use aither_protocol::ErrorCode;

/// Why nothing could be searched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SearchError {
    /// The operator has not said what is searched.
    #[error(
        "this node has nothing to search: its operator has to name a SearXNG or folders in the \
         configuration, section [search]: searxng_url = \"http://127.0.0.1:8888\" or folders = \
         [\"/srv/docs\"]"
    )]
    NotConfigured,
    /// The SearXNG refuses to answer in JSON.
    #[error(
        "the SearXNG that this node asks does not answer in JSON: its settings.yml needs \
         \"json\" among search.formats"
    )]
    JsonIsOff,
    /// The SearXNG failed.
    #[error("the SearXNG that this node asks failed: {0}")]
    Upstream(String),
    /// The SearXNG was too slow.
    #[error("the SearXNG that this node asks did not answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// Too much is searched at once.
    #[error("this node has too many searches to do at the moment")]
    Overloaded {
        /// When to ask again.
        retry_after: Duration,
    },
    /// The index of the folders fails. The words are for the log.
    #[error("the index of the folders fails: {0}")]
    Index(String),
}

impl SearchError {
    /// Returns which kind it is to the outside.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotConfigured => ErrorCode::NotConfigured,
            Self::JsonIsOff | Self::Upstream(_) => ErrorCode::UpstreamFailed,
            Self::TimedOut(_) => ErrorCode::TimedOut,
            Self::Overloaded { .. } => ErrorCode::Overloaded,
            Self::Index(_) => ErrorCode::Internal,
        }
    }
}

impl From<tantivy::TantivyError> for SearchError {
    fn from(error: tantivy::TantivyError) -> Self {
        Self::Index(error.to_string())
    }
}
