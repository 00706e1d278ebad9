//! What is offered at the marketplace: an agent with a price and a few words, by its owner's wish.
//!
//! An offer is a row beside the agent's, so that whoever offers nothing costs nothing. It ends with
//! its agent: torn down or purged.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aither_protocol::Amount;

use super::{AgentError, AgentId, AgentStore, directory::Change, records::ListingV1};
use crate::accounts::{Record, unix_ms};

/// Longest description.
pub const LISTING_DESCRIPTION_BYTES_MAX: usize = 2048;

/// An offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// What a call costs.
    pub price: Amount,
    /// What the agent does for it; without it, its card says so.
    pub description: Option<Box<str>>,
    /// When it was first offered.
    pub listed: SystemTime,
}

impl AgentStore {
    /// Offers an agent, or changes its offer. Returns whether it was not offered before.
    ///
    /// # Errors
    /// There is no such agent, it was torn down, or the store fails.
    pub fn list(
        &self,
        id: AgentId,
        price: Amount,
        description: Option<&str>,
        now: SystemTime,
    ) -> Result<bool, AgentError> {
        self.write(now, |edit, directory| {
            let Some(agent) = directory.agent(id) else {
                return Ok(Err(AgentError::Unknown(id.to_string())));
            };
            if agent.is_torn_down {
                return Ok(Err(AgentError::TornDown(agent.name.to_string())));
            }
            let before = directory.listing(id);
            let listing = Listing {
                price,
                description: description.map(Box::from),
                listed: before.as_ref().map_or(now, |before| before.listed),
            };
            let record = ListingV1::of(&listing).encode();
            edit.tables.listings.insert(id.0.to_bytes(), &record[..])?;
            edit.note(id, "listed", &price.to_string())?;
            edit.changes.push(Change::Offered(id, Arc::new(listing)));
            Ok(Ok(before.is_none()))
        })?
    }

    /// Takes an offer back. Returns whether there was one.
    ///
    /// # Errors
    /// The store fails.
    pub fn unlist(&self, id: AgentId, now: SystemTime) -> Result<bool, AgentError> {
        let is_offered = self.write(now, |edit, directory| {
            if directory.listing(id).is_none() {
                return Ok(false);
            }
            edit.end_listing(id)?;
            edit.note(id, "unlisted", "")?;
            Ok(true)
        })?;
        Ok(is_offered)
    }
}

impl ListingV1 {
    fn of(listing: &Listing) -> Self {
        Self {
            price_micros: listing.price.micros(),
            description: listing.description.clone(),
            listed_ms: unix_ms(listing.listed),
        }
    }

    pub(super) fn listing(self) -> Listing {
        Listing {
            price: Amount::from_micros(self.price_micros),
            description: self.description,
            listed: UNIX_EPOCH + Duration::from_millis(self.listed_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::store::tests::{home, now, onboard},
        *,
    };
    use crate::agents::Rank;

    const PRICE: Amount = Amount::from_micros(2_500_000);

    #[test]
    fn an_offer_stays_over_a_restart_and_ends_with_its_agent() {
        let home = home();
        let ids = ["kept", "changed", "unlisted", "gone", "purged"]
            .map(|name| onboard(&home.store, name, "1.0.0").agent.id);
        let [kept, changed, unlisted, gone, purged] = ids;
        for id in ids {
            assert!(home.store.list(id, PRICE, None, now()).unwrap());
        }
        let later = now() + Duration::from_secs(60);
        let double = Amount::from_tokens(5);
        assert!(
            !home
                .store
                .list(changed, double, Some("more"), later)
                .unwrap()
        );
        assert!(home.store.unlist(unlisted, now()).unwrap());
        assert!(!home.store.unlist(unlisted, now()).unwrap());
        home.store
            .tear_down(gone, Rank::Owner, false, now())
            .unwrap();
        home.store
            .tear_down(purged, Rank::Owner, true, now())
            .unwrap();
        home.store.list(gone, PRICE, None, now()).unwrap_err();
        home.store.list(purged, PRICE, None, now()).unwrap_err();
        let copy = home.path().with_extension("copy");
        home.store.copy_to(&copy).unwrap();
        let path = home.path();
        drop(home.store);
        for path in [path, copy] {
            assert_eq!(AgentStore::check(&path).unwrap(), 4);
            let store = AgentStore::open(&path, now()).unwrap();
            let offered = store.directory().offered();
            let offered: Vec<_> = offered.iter().map(|(agent, _)| agent.id).collect();
            assert_eq!(offered, [kept, changed]);
            let listing = store.directory().listing(changed).unwrap();
            assert_eq!((listing.price, listing.listed), (double, now()));
            assert_eq!(listing.description.as_deref(), Some("more"));
        }
    }
}
