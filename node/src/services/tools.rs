//! What agents use of the world around them: searches, repositories, fetches.

use std::path::Path;

use super::{CodeService, FetchService, SearchService};
use crate::{config::Config, fetch::FetchError, websearch::SearchError};

/// The tools of a node; clones share them.
#[derive(Debug, Clone)]
pub struct Tools {
    /// Repositories.
    pub code: CodeService,
    /// Fetches from elsewhere.
    pub fetch: FetchService,
    /// Searches.
    pub search: SearchService,
}

/// Why there are no tools.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ToolsError {
    /// Nothing can be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Nothing can be searched.
    #[error(transparent)]
    Search(#[from] SearchError),
}

impl Tools {
    /// Makes what the configuration names; the index of folders lies in a folder of its own.
    ///
    /// # Errors
    /// There is no HTTP client, or no thread for the index.
    pub fn new(config: &Config, index_path: &Path) -> Result<Self, ToolsError> {
        let fetch = FetchService::new(&config.fetch)?;
        Ok(Self {
            code: CodeService::new(&config.code, &config.node_name()),
            search: SearchService::new(
                &config.search,
                index_path,
                (fetch.clone(), config.http.request_timeout),
            )?,
            fetch,
        })
    }
}
