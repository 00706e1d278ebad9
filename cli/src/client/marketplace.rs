//! The marketplace: what is offered, and offering.

use aither_protocol::Amount;
use reqwest::Method;
use serde::{Deserialize, Serialize};

use super::{Answer, Client, Tokens};
use crate::error::Error;

/// What is looked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MarketplaceQuery<'a> {
    pub(crate) words: Option<&'a str>,
    pub(crate) category: Option<&'a str>,
    pub(crate) sort: &'a str,
}

/// An agent that is offered. All but the name may be missing on other servers.
#[derive(Debug, Deserialize)]
pub(crate) struct MarketplaceItem {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) category: Option<String>,
    pub(crate) state: Option<String>,
    pub(crate) price_per_request: Option<Tokens>,
    pub(crate) calls: Option<u64>,
    pub(crate) reputation: Option<f64>,
    pub(crate) latency_ms: Option<f64>,
}

/// An offer.
#[derive(Debug, Serialize)]
pub(crate) struct Listing<'a> {
    pub(crate) agent: &'a str,
    pub(crate) price_per_request: Amount,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<&'a str>,
}

impl Client {
    /// Asks for what is offered: all pages as one.
    pub(crate) async fn marketplace(&self, query: MarketplaceQuery<'_>) -> Result<Answer, Error> {
        let mut parameters = vec![("sort", query.sort)];
        parameters.extend(query.words.map(|words| ("q", words)));
        parameters.extend(query.category.map(|category| ("category", category)));
        let what = "a list of offers";
        self.whole_list("v1/marketplace", &parameters, what).await
    }

    /// Offers an agent.
    pub(crate) async fn list_agent(&self, listing: &Listing<'_>) -> Result<Answer, Error> {
        self.post("v1/marketplace/listings", listing).await
    }

    /// Takes an offer back.
    pub(crate) async fn unlist_agent(&self, name: &str) -> Result<(), Error> {
        let mut url = self.url("v1/marketplace/listings")?;
        url.query_pairs_mut().append_pair("agent", name);
        self.send(self.request(Method::DELETE, url)).await?;
        Ok(())
    }
}
