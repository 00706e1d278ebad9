//! The marketplace: agents that are offered, found by words and put in order.
//!
//! How good an agent is comes from its calls alone; nobody can say it of themselves. Who was never
//! called stands behind all who were, where calls decide.

use std::{cmp::Ordering, collections::HashSet, str::FromStr, sync::Arc};

use super::{AgentService, Standing};
use crate::{
    accounts::unix_ms,
    agents::{Agent, AgentFilter, Listing},
};

/// What comes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OfferOrder {
    /// The most reliable.
    #[default]
    Reputation,
    /// The cheapest.
    Price,
    /// The most called.
    Calls,
    /// The fastest.
    Latency,
    /// The last offered.
    Newest,
    /// By name.
    Name,
}

/// A text that is no order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be reputation, price, calls, latency, newest or name")]
pub struct OfferOrderError;

/// Which offers are wanted. What is empty bounds nothing.
#[derive(Debug, Clone, Default)]
pub struct OfferFilter {
    /// Words of the offer, or that begin words of the agent's name and skills.
    pub query: Option<String>,
    /// The agent's tier.
    pub category: Option<String>,
    /// What comes first.
    pub order: OfferOrder,
    /// After this one.
    pub after: Option<OfferPlace>,
    /// How many at most.
    pub limit: usize,
}

/// Where an offer stands: what it is put in order by, and among equals its agent's name.
#[derive(Debug, Clone, PartialEq)]
pub struct OfferPlace {
    rank: f64,
    name: String,
}

/// An agent that is offered.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The agent.
    pub agent: Arc<Agent>,
    /// How it is offered.
    pub listing: Arc<Listing>,
    /// What is known from its calls.
    pub standing: Standing,
    /// Where it stands.
    pub place: OfferPlace,
}

impl FromStr for OfferOrder {
    type Err = OfferOrderError;

    fn from_str(word: &str) -> Result<Self, OfferOrderError> {
        Ok(match word {
            "reputation" => Self::Reputation,
            "price" => Self::Price,
            "calls" => Self::Calls,
            "latency" => Self::Latency,
            "newest" => Self::Newest,
            "name" => Self::Name,
            _ => return Err(OfferOrderError),
        })
    }
}

impl OfferOrder {
    /// Returns a number that is the lower the further in front an offer stands.
    fn rank(self, listing: &Listing, standing: &Standing) -> f64 {
        // Exact enough to put in order; equals are told apart by name.
        #[expect(clippy::cast_precision_loss, reason = "only the order matters")]
        let number = |number: u128| number as f64;
        match self {
            Self::Reputation => standing.reputation.map_or(f64::INFINITY, |share| -share),
            Self::Price => number(listing.price.micros()),
            Self::Calls => -number(u128::from(standing.calls)),
            Self::Latency => standing.latency_ms.unwrap_or(f64::INFINITY),
            Self::Newest => -number(u128::from(unix_ms(listing.listed))),
            Self::Name => 0.0,
        }
    }
}

impl OfferPlace {
    fn order(&self, other: &Self) -> Ordering {
        let by_rank = self.rank.total_cmp(&other.rank);
        by_rank.then_with(|| self.name.cmp(&other.name))
    }
}

/// As a cursor: the bits of the rank, and the name.
impl std::fmt::Display for OfferPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}.{}", self.rank.to_bits(), self.name)
    }
}

impl FromStr for OfferPlace {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (rank, name) = text.split_once('.').ok_or(())?;
        let rank = u64::from_str_radix(rank, 16).map_err(|_| ())?;
        Ok(Self {
            rank: f64::from_bits(rank),
            name: name.to_owned(),
        })
    }
}

impl AgentService {
    /// Returns an agent's own offer, if it has one, also while it is set aside.
    pub fn offer(&self, agent: Arc<Agent>) -> Option<Offer> {
        let listing = self.listing(agent.id)?;
        Some(self.offer_of(agent, listing, OfferOrder::default()))
    }

    fn offer_of(&self, agent: Arc<Agent>, listing: Arc<Listing>, order: OfferOrder) -> Offer {
        let standing = self.health().standing(agent.id);
        let place = OfferPlace {
            rank: order.rank(&listing, &standing),
            name: agent.name.to_string(),
        };
        Offer {
            agent,
            listing,
            standing,
            place,
        }
    }

    /// Returns offers in the order that is asked for. Agents that are set aside are left out.
    pub fn offers(&self, filter: &OfferFilter) -> Vec<Offer> {
        let offered = self.offered().into_iter();
        let offered = offered.filter(|(agent, _)| !agent.is_torn_down && !agent.is_suspended());
        let is_of_category = |agent: &Agent| {
            let category = filter.category.as_deref();
            category.is_none_or(|category| agent.tier.as_str() == category)
        };
        let query = filter.query.as_deref().map(Query::new);
        let found = query.as_ref().map(|query| self.found_by(query));
        let is_meant = |agent: &Agent, listing: &Listing| match (&query, &found) {
            (Some(query), Some(found)) => {
                let words = listing.description.as_deref().unwrap_or_default();
                found.contains(&agent.id) || query.is_in(words)
            }
            _ => true,
        };
        let offers = offered
            .filter(|(agent, listing)| is_of_category(agent) && is_meant(agent, listing))
            .map(|(agent, listing)| self.offer_of(agent, listing, filter.order));
        let is_after = |offer: &Offer| {
            let after = filter.after.as_ref();
            after.is_none_or(|after| offer.place.order(after).is_gt())
        };
        let mut offers: Vec<_> = offers.filter(is_after).collect();
        offers.sort_by(|a, b| a.place.order(&b.place));
        offers.truncate(filter.limit);
        offers
    }

    /// Returns the agents whose names and skills are meant by words.
    fn found_by(&self, query: &Query) -> HashSet<crate::agents::AgentId> {
        let filter = AgentFilter {
            query: Some(query.text.clone()),
            limit: usize::MAX,
            ..AgentFilter::default()
        };
        self.find(&filter).iter().map(|agent| agent.id).collect()
    }
}

/// What is looked for.
struct Query {
    text: String,
    words: Vec<String>,
}

impl Query {
    fn new(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            words: text.split_whitespace().map(str::to_lowercase).collect(),
        }
    }

    /// Returns whether all words stand in a text.
    fn is_in(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        !self.words.is_empty() && self.words.iter().all(|word| text.contains(word))
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use aither_protocol::Amount;

    use super::*;

    fn listing(tokens: u64) -> Listing {
        Listing {
            price: Amount::from_tokens(tokens),
            description: None,
            listed: UNIX_EPOCH,
        }
    }

    #[test]
    fn who_was_never_called_stands_behind_all_who_were() {
        let called = Standing {
            calls: 3,
            reputation: Some(0.1),
            latency_ms: Some(9000.0),
            ..Standing::default()
        };
        let never = Standing::default();
        for order in [
            OfferOrder::Reputation,
            OfferOrder::Latency,
            OfferOrder::Calls,
        ] {
            let (called, never) = (
                order.rank(&listing(1), &called),
                order.rank(&listing(1), &never),
            );
            assert!(called < never, "{order:?}");
        }
        let price = |tokens| OfferOrder::Price.rank(&listing(tokens), &never);
        assert!(price(1) < price(2));
    }

    #[test]
    fn a_place_survives_being_a_cursor() {
        for rank in [-0.93, 0.0, -0.0, f64::INFINITY, 2.5e6] {
            let place = OfferPlace {
                rank,
                name: "a.b-c".to_owned(),
            };
            let again: OfferPlace = place.to_string().parse().unwrap();
            assert_eq!(place.order(&again), Ordering::Equal);
        }
        for wrong in ["", "x", "zz.name", "12345678901234567.name"] {
            assert!(wrong.parse::<OfferPlace>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn words_are_found_whatever_their_case() {
        let query = Query::new("Deep research");
        assert!(query.is_in("Researches DEEPly"));
        assert!(!query.is_in("deep"));
        assert!(!Query::new("  ").is_in("anything"));
    }
}
