//! The agents in memory, and how they are found.
//!
//! It mirrors the store, which alone changes it, after each commit and in the commits' order. An
//! index of skills, tags and words leads from what is asked for to agents in the order of their
//! ids, so that a page of a hundred thousand costs what it shows. What is only shown, or only makes
//! an agent be found, is on the disk.
//!
//! Each agent has a place, and later ones have later ids, for which the store sees. The places of
//! those that were purged are given back all at once when they are the most.

mod index;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use aither_ledger::AccountId;
use aither_protocol::RootKey;

use self::index::{Index, Place, Places};
use super::{Agent, AgentId, AgentState, Listing, records::SummaryV1};
use crate::accounts::SecretHash;

/// Empty places that are kept in any case.
const EMPTY_KEPT: usize = 1024;

/// What a commit changed.
pub(super) enum Change {
    /// An agent is there, or is as this says now.
    Agent(Box<Listed>),
    /// An agent that was found by this is gone, with its keys.
    NoAgent(AgentId, Box<SummaryV1>),
    /// A key was made, at this time.
    Key(SecretHash, AgentId, u64),
    /// A key is gone.
    NoKey(SecretHash),
    /// A token of an agent was revoked.
    Revoked(AgentId, u128),
    /// The revoked tokens of an agent are void for another reason now.
    NoneRevoked(AgentId),
    /// An agent is offered like this.
    Offered(AgentId, Arc<Listing>),
    /// An agent is not offered any more.
    NotOffered(AgentId),
    /// There is a root key of capability tokens.
    RootKey(u32, Arc<RootKey>),
}

/// An agent, and what it is found by.
pub(super) struct Listed {
    pub(super) agent: Agent,
    pub(super) found_by: SummaryV1,
    /// What it was found by until now, if it was known.
    pub(super) was_found_by: Option<SummaryV1>,
}

/// Which agents are wanted. What is empty bounds nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgentFilter {
    /// A skill's id.
    pub skill: Option<String>,
    /// A skill's tag.
    pub tag: Option<String>,
    /// Words that begin words of the agent's name and skills.
    pub query: Option<String>,
    /// Whose they are.
    pub owner: Option<AccountId>,
    /// Where they are in their lives; without it all that were not torn down.
    pub state: Option<AgentState>,
    /// After this one.
    pub after: Option<AgentId>,
    /// How many at most.
    pub limit: usize,
}

/// All agents, and who holds which key.
#[derive(Default)]
pub struct Directory {
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    /// By place, in the order of the ids.
    slots: Vec<Slot>,
    /// How many slots are empty.
    empty: usize,
    names: HashMap<Box<str>, Place>,
    keys: HashMap<SecretHash, Place>,
    owners: HashMap<AccountId, Owned>,
    index: Index,
    booting: BTreeSet<Place>,
    revoked: HashMap<AgentId, HashSet<u128>>,
    /// Of those that are offered.
    listings: BTreeMap<AgentId, Arc<Listing>>,
    /// By number; the last mints.
    root_keys: BTreeMap<u32, Arc<RootKey>>,
}

/// An agent's place.
struct Slot {
    id: AgentId,
    /// `None` once it is purged.
    agent: Option<Arc<Agent>>,
    /// Its keys with when they were made, the oldest first.
    keys: Vec<(u64, SecretHash)>,
}

/// What an account has.
#[derive(Default)]
struct Owned {
    places: Places,
    /// How many were not torn down.
    aboard: usize,
    /// Those that were torn down and may be forgotten, by when.
    left: BTreeSet<(u64, Place)>,
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Directory")
            .field("agents", &self.len())
            .finish_non_exhaustive()
    }
}

impl Directory {
    /// Makes a directory of what `read` hands over, which is told whether it fits what it has
    /// handed over before: a key has an agent.
    pub(super) fn load<E>(
        read: impl FnOnce(&mut dyn FnMut(Change) -> bool) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut inner = Inner::default();
        read(&mut |change| inner.apply(change))?;
        inner.index.shrink();
        Ok(Self {
            inner: RwLock::new(inner),
        })
    }

    /// Takes over what was committed.
    pub(super) fn apply(&self, changes: Vec<Change>) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            inner.apply(change);
        }
    }

    /// Returns how many agents there are.
    pub fn len(&self) -> usize {
        let inner = self.read();
        inner.slots.len() - inner.empty
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns an agent.
    pub fn agent(&self, id: AgentId) -> Option<Arc<Agent>> {
        let inner = self.read();
        inner.agent(inner.place_of(id)?)
    }

    /// Returns the agent of a name.
    pub fn by_name(&self, name: &str) -> Option<Arc<Agent>> {
        let inner = self.read();
        inner.agent(*inner.names.get(name)?)
    }

    /// Returns the agent whose key has this hash.
    pub fn by_key(&self, hash: &SecretHash) -> Option<Arc<Agent>> {
        let inner = self.read();
        inner.agent(*inner.keys.get(hash)?)
    }

    /// Returns whether one of these tokens of an agent was revoked.
    pub fn is_revoked(&self, id: AgentId, serials: &[u128]) -> bool {
        let inner = self.read();
        let revoked = inner.revoked.get(&id);
        revoked.is_some_and(|revoked| serials.iter().any(|serial| revoked.contains(serial)))
    }

    /// Returns how many tokens of an agent were revoked.
    pub(super) fn revoked_len(&self, id: AgentId) -> usize {
        self.read().revoked.get(&id).map_or(0, HashSet::len)
    }

    /// Returns how an agent is offered, if it is.
    pub fn listing(&self, id: AgentId) -> Option<Arc<Listing>> {
        self.read().listings.get(&id).cloned()
    }

    /// Returns all agents that are offered.
    pub fn offered(&self) -> Vec<(Arc<Agent>, Arc<Listing>)> {
        let inner = self.read();
        let offered = inner.listings.iter().filter_map(|(id, listing)| {
            let agent = inner.agent(inner.place_of(*id)?)?;
            Some((agent, Arc::clone(listing)))
        });
        offered.collect()
    }

    /// Returns a root key of capability tokens by its number.
    pub fn root_key(&self, number: u32) -> Option<Arc<RootKey>> {
        self.read().root_keys.get(&number).cloned()
    }

    /// Returns the root key that mints, with its number.
    pub fn minting_key(&self) -> Option<(u32, Arc<RootKey>)> {
        let inner = self.read();
        let (number, key) = inner.root_keys.last_key_value()?;
        Some((*number, Arc::clone(key)))
    }

    /// Returns how many agents an account has that have not left.
    pub(super) fn count_of(&self, owner: AccountId) -> usize {
        let inner = self.read();
        inner.owners.get(&owner).map_or(0, |owned| owned.aboard)
    }

    /// Returns how many agents of an account were torn down and may be forgotten, and which of them
    /// was the first.
    pub(crate) fn left_of(&self, owner: AccountId) -> (usize, Option<Arc<Agent>>) {
        let inner = self.read();
        let Some(owned) = inner.owners.get(&owner) else {
            return (0, None);
        };
        let first = owned.left.first();
        let first = first.and_then(|(_, place)| inner.agent(*place));
        (owned.left.len(), first)
    }

    /// Returns the last id that was given.
    pub(super) fn last_id(&self) -> Option<AgentId> {
        self.read().slots.last().map(|slot| slot.id)
    }

    /// Returns the keys of an agent, the oldest first.
    pub(super) fn keys_of(&self, id: AgentId) -> Vec<SecretHash> {
        let inner = self.read();
        let Some(place) = inner.place_of(id) else {
            return Vec::new();
        };
        let keys = inner.slots[place as usize].keys.iter();
        keys.map(|(_, hash)| *hash).collect()
    }

    /// Returns the agents that wait to be found healthy.
    pub fn booting(&self) -> Vec<Arc<Agent>> {
        let inner = self.read();
        let booting = inner.booting.iter();
        booting.filter_map(|place| inner.agent(*place)).collect()
    }

    /// Returns the ids of the most common skills, with how many agents can be asked for each.
    pub fn skills(&self, count_max: usize) -> Vec<(String, usize)> {
        self.read().index.skills(count_max)
    }

    /// Returns agents in the order of their ids.
    pub fn find(&self, filter: &AgentFilter) -> Vec<Arc<Agent>> {
        let inner = self.read();
        let Some(mut conditions) = inner.conditions(filter) else {
            return Vec::new();
        };
        conditions.sort_by_key(|lists| lists.iter().map(|list| list.len()).sum::<usize>());
        let from = filter.after.map_or(0, |after| inner.first_after(after));
        let is_wanted = |agent: &Arc<Agent>| match filter.state {
            Some(state) => agent.state == state,
            None => !agent.is_torn_down,
        };
        let Some((first, others)) = conditions.split_first() else {
            let slots = inner.slots[from as usize..].iter();
            let agents = slots.filter_map(|slot| slot.agent.clone());
            return agents.filter(is_wanted).take(filter.limit).collect();
        };
        let places = merged(first, from).filter(|place| {
            let mut others = others.iter();
            others.all(|lists| lists.iter().any(|list| list.binary_search(place).is_ok()))
        });
        let agents = places.filter_map(|place| inner.agent(place));
        agents.filter(is_wanted).take(filter.limit).collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        // Nothing that holds the lock can leave it half changed.
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the places from one on in any of these lists, each once and in order.
fn merged<'a>(lists: &[&'a [Place]], from: Place) -> impl Iterator<Item = Place> + use<'a> {
    let rests = lists.iter().map(|list| {
        let at = list.partition_point(|place| *place < from);
        &list[at..]
    });
    let mut rests: Vec<&[Place]> = rests.collect();
    std::iter::from_fn(move || {
        let next = rests.iter().filter_map(|rest| rest.first().copied());
        let next = next.min()?;
        for rest in &mut rests {
            if let Some((first, behind)) = rest.split_first()
                && *first == next
            {
                *rest = behind;
            }
        }
        Some(next)
    })
}

impl Owned {
    fn count(&mut self, agent: &Agent, place: Place) {
        if !agent.is_torn_down {
            self.aboard += 1;
        } else if agent.suspended_by.is_none() {
            self.left.insert((agent.tokens_since_ms, place));
        }
    }

    fn discount(&mut self, agent: &Agent, place: Place) {
        if !agent.is_torn_down {
            self.aboard = self.aboard.saturating_sub(1);
        }
        self.left.remove(&(agent.tokens_since_ms, place));
    }
}

impl Inner {
    fn agent(&self, place: Place) -> Option<Arc<Agent>> {
        self.slots.get(place as usize)?.agent.clone()
    }

    /// Returns the place of an agent that is there.
    fn place_of(&self, id: AgentId) -> Option<Place> {
        let at = self.slots.binary_search_by_key(&id, |slot| slot.id).ok()?;
        self.slots[at].agent.as_ref()?;
        Place::try_from(at).ok()
    }

    fn first_after(&self, id: AgentId) -> Place {
        let at = self.slots.partition_point(|slot| slot.id <= id);
        Place::try_from(at).unwrap_or(Place::MAX)
    }

    /// Returns the lists of which an agent must be in one, for each thing that is asked for;
    /// `None` where nobody can be.
    fn conditions(&self, filter: &AgentFilter) -> Option<Vec<Vec<&[Place]>>> {
        let query = filter.query.as_deref().unwrap_or_default();
        let mut conditions = self.index.with_words(query)?;
        if let Some(owner) = filter.owner {
            let owned = self.owners.get(&owner)?;
            conditions.push(vec![owned.places.as_slice()]);
        }
        if let Some(skill) = &filter.skill {
            conditions.push(vec![self.index.with_skill(skill)?]);
        }
        if let Some(tag) = &filter.tag {
            conditions.push(vec![self.index.with_tag(tag)?]);
        }
        Some(conditions)
    }

    /// Returns whether there is the agent that the change is of.
    fn apply(&mut self, change: Change) -> bool {
        match change {
            Change::Agent(listed) => self.put(*listed),
            Change::NoAgent(id, found_by) => self.remove(id, &found_by),
            Change::Key(hash, id, made_ms) => {
                let Some(place) = self.place_of(id) else {
                    return false;
                };
                self.keys.insert(hash, place);
                let keys = &mut self.slots[place as usize].keys;
                keys.reserve_exact(1);
                keys.push((made_ms, hash));
                keys.sort_unstable();
            }
            Change::NoKey(hash) => {
                if let Some(place) = self.keys.remove(&hash) {
                    let keys = &mut self.slots[place as usize].keys;
                    keys.retain(|(_, kept)| *kept != hash);
                }
            }
            Change::Revoked(id, serial) => {
                self.revoked.entry(id).or_default().insert(serial);
                return self.place_of(id).is_some();
            }
            Change::NoneRevoked(id) => {
                self.revoked.remove(&id);
            }
            Change::Offered(id, listing) => {
                self.listings.insert(id, listing);
                return self.place_of(id).is_some();
            }
            Change::NotOffered(id) => {
                self.listings.remove(&id);
            }
            Change::RootKey(number, key) => {
                self.root_keys.insert(number, key);
            }
        }
        true
    }

    fn put(&mut self, listed: Listed) {
        let Listed {
            agent,
            found_by,
            was_found_by,
        } = listed;
        let place = self.place_of(agent.id);
        let place = place.unwrap_or_else(|| self.add(agent.id));
        let known = self.slots[place as usize].agent.take();
        let owned = self.owners.entry(agent.owner).or_default();
        if let (Some(known), Some(was)) = (known, &was_found_by) {
            owned.discount(&known, place);
            if known.is_reachable() {
                self.index.count_reachable(was, false);
            }
            if *was != found_by {
                self.index.remove(place, was);
                self.index.insert(place, &found_by);
            }
        } else {
            owned.places.insert(place);
            self.names.insert(agent.name.clone(), place);
            self.index.insert(place, &found_by);
        }
        owned.count(&agent, place);
        if agent.is_reachable() {
            self.index.count_reachable(&found_by, true);
        }
        match agent.state {
            AgentState::Boot => self.booting.insert(place),
            AgentState::Live | AgentState::Stop => self.booting.remove(&place),
        };
        self.slots[place as usize].agent = Some(Arc::new(agent));
    }

    /// Returns the place of an agent that is new.
    fn add(&mut self, id: AgentId) -> Place {
        let last = self.slots.last();
        assert!(
            last.is_none_or(|last| last.id < id),
            "the store gives rising ids, and reads them in order"
        );
        let place = Place::try_from(self.slots.len());
        self.slots.push(Slot {
            id,
            agent: None,
            keys: Vec::new(),
        });
        place.expect("four billion agents would have filled the memory before")
    }

    fn remove(&mut self, id: AgentId, found_by: &SummaryV1) {
        self.revoked.remove(&id);
        let Some(place) = self.place_of(id) else {
            return;
        };
        let slot = &mut self.slots[place as usize];
        for (_, hash) in std::mem::take(&mut slot.keys) {
            self.keys.remove(&hash);
        }
        let Some(agent) = slot.agent.take() else {
            return;
        };
        self.names.remove(&agent.name);
        self.booting.remove(&place);
        if agent.is_reachable() {
            self.index.count_reachable(found_by, false);
        }
        self.index.remove(place, found_by);
        if let Some(owned) = self.owners.get_mut(&agent.owner) {
            owned.discount(&agent, place);
            owned.places.remove(place);
            if owned.places.is_empty() {
                self.owners.remove(&agent.owner);
            }
        }
        self.empty += 1;
        if self.empty > EMPTY_KEPT && self.empty > self.slots.len() / 2 {
            self.close_up();
        }
    }

    /// Gives back the places of agents that are gone: all that refers to others is renumbered.
    fn close_up(&mut self) {
        let mut next: Place = 0;
        let mut new_places = Vec::with_capacity(self.slots.len());
        for slot in &self.slots {
            new_places.push(next);
            next += Place::from(slot.agent.is_some());
        }
        self.slots.retain(|slot| slot.agent.is_some());
        self.slots.shrink_to_fit();
        self.empty = 0;
        let renumbered = |place: &Place| new_places[*place as usize];
        for place in self.names.values_mut().chain(self.keys.values_mut()) {
            *place = renumbered(place);
        }
        self.booting = self.booting.iter().map(renumbered).collect();
        for owned in self.owners.values_mut() {
            owned.places.renumber(&new_places);
            let left = owned.left.iter();
            owned.left = left.map(|(at, place)| (*at, renumbered(place))).collect();
        }
        self.index.renumber(&new_places);
    }
}
