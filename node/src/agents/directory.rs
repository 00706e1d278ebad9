//! The agents in memory, and how they are found.
//!
//! It mirrors the store, which alone changes it, after each commit and in the commits' order. An
//! index of skills, tags and words leads from what is asked for to agents in the order of their
//! ids, so that a page of a hundred thousand costs what it shows. What is only shown, or only makes
//! an agent be found, is on the disk.
//!
//! Where an agent is in its life is the one thing that memory knows first, unless somebody has
//! ordered it: what probes and calls make of an agent must not wait for the disk. Such moves wait
//! here until the store writes them. An order that is committed meanwhile counts as the earlier:
//! what waits of its agent is dropped.
//!
//! Each agent has a place, and later ones have later ids, for which the store sees. The places of
//! those that were purged are given back all at once when they are the most.

mod index;
#[cfg(test)]
mod tests;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use aither_ledger::AccountId;
use aither_protocol::RootKey;

use self::index::{Index, Place, Places};
use super::{Agent, AgentId, AgentState, Listing, records::SummaryV1};
use crate::accounts::SecretHash;

/// Empty places that are kept in any case.
const EMPTY_KEPT: usize = 1024;
/// Most moves that wait to be written. More are not written: the agents' next ones say that
/// something is missing.
const UNWRITTEN_MAX: usize = 1 << 16;
/// Most moves that wait to be told; more are not told.
const UNTOLD_MAX: usize = 4096;

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
    /// So many of the moves that waited are on the disk, of agents that are found by this.
    Written(usize, Vec<(AgentId, SummaryV1)>),
    /// Agents have moved, by an order to many.
    Moves(Vec<Moved>),
}

/// A move in an agent's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Whose.
    pub id: AgentId,
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// From there.
    pub from: AgentState,
    /// To there.
    pub to: AgentState,
    /// Why, in words.
    pub reason: Cow<'static, str>,
}

/// An agent, and what it is found by.
pub(super) struct Listed {
    /// Its state counts where it is new or has moved.
    pub(super) agent: Agent,
    /// How it has moved, if it has.
    pub(super) moves: Vec<Moved>,
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
    /// Moves that are not on the disk yet, in their order.
    unwritten: VecDeque<Moved>,
    /// Moves that nobody was told of yet, with how the agent was when it had moved.
    untold: VecDeque<(Arc<Agent>, Moved)>,
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
    /// Whether its skills are counted among those that can be asked for.
    is_counted: bool,
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

    /// Calls `look` with each agent.
    pub fn for_each(&self, mut look: impl FnMut(&Arc<Agent>)) {
        let inner = self.read();
        let agents = inner.slots.iter().filter_map(|slot| slot.agent.as_ref());
        agents.for_each(&mut look);
    }

    /// Moves an agent, unless it is somewhere else by now, and returns whether it did.
    pub fn move_on(&self, moved: Moved) -> bool {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.move_on(moved)
    }

    /// Returns moves that are not on the disk, so many at most; they stay until they are written.
    pub(super) fn unwritten(&self, count_max: usize) -> Vec<Moved> {
        let inner = self.read();
        inner.unwritten.iter().take(count_max).cloned().collect()
    }

    /// Returns where an agent is, if it is known, and its moves that are not on the disk.
    pub(super) fn state_of(&self, id: AgentId) -> (Option<AgentState>, Vec<Moved>) {
        let inner = self.read();
        let place = inner.place_of(id);
        let agent = place.and_then(|place| inner.agent(place));
        let moves = inner.unwritten.iter().filter(|moved| moved.id == id);
        (agent.map(|agent| agent.state), moves.cloned().collect())
    }

    /// Returns whether moves wait to be written.
    pub fn has_unwritten(&self) -> bool {
        !self.read().unwritten.is_empty()
    }

    /// Takes the moves that nobody was told of.
    pub fn take_untold(&self) -> Vec<(Arc<Agent>, Moved)> {
        if self.read().untold.is_empty() {
            return Vec::new();
        }
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut inner.untold).into()
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
            Change::Written(count, found_by) => self.on_written(count, &found_by),
            Change::Moves(moves) => {
                let ids: HashSet<_> = moves.iter().map(|moved| moved.id).collect();
                self.unwritten.retain(|moved| !ids.contains(&moved.id));
                for moved in moves {
                    if self.set_state(moved.id, moved.to) {
                        self.tell(moved);
                    }
                }
            }
        }
        true
    }

    fn move_on(&mut self, moved: Moved) -> bool {
        let Some(place) = self.place_of(moved.id) else {
            return false;
        };
        let known = self.slots[place as usize].agent.as_ref();
        if known.is_none_or(|agent| agent.state != moved.from) {
            return false;
        }
        self.set_state(moved.id, moved.to);
        if self.unwritten.len() < UNWRITTEN_MAX {
            self.unwritten.push_back(moved.clone());
        } else {
            tracing::warn!(agent = %moved.id, "too many agents move: a move is not kept");
        }
        self.tell(moved);
        true
    }

    fn set_state(&mut self, id: AgentId, state: AgentState) -> bool {
        let Some(place) = self.place_of(id) else {
            return false;
        };
        if let Some(agent) = &mut self.slots[place as usize].agent {
            Arc::make_mut(agent).state = state;
        }
        true
    }

    fn tell(&mut self, moved: Moved) {
        let place = self.place_of(moved.id);
        let agent = place.and_then(|place| self.agent(place));
        if let Some(agent) = agent
            && self.untold.len() < UNTOLD_MAX
        {
            self.untold.push_back((agent, moved));
        }
    }

    /// Takes what was written out of what waits. What an agent is found by is on the disk, so its
    /// skills begin or cease to count now, a moment after it has moved.
    fn on_written(&mut self, count: usize, found_by: &[(AgentId, SummaryV1)]) {
        self.unwritten.drain(..count.min(self.unwritten.len()));
        for (id, found_by) in found_by {
            if let Some(place) = self.place_of(*id) {
                self.count_skills(place, found_by);
            }
        }
    }

    /// Counts an agent's skills, if it takes requests, and else no more.
    fn count_skills(&mut self, place: Place, found_by: &SummaryV1) {
        let slot = &mut self.slots[place as usize];
        let is_reachable = slot
            .agent
            .as_ref()
            .is_some_and(|agent| agent.is_reachable());
        if slot.is_counted != is_reachable {
            slot.is_counted = is_reachable;
            self.index.count_reachable(found_by, is_reachable);
        }
    }

    fn put(&mut self, listed: Listed) {
        let Listed {
            mut agent,
            moves,
            found_by,
            was_found_by,
        } = listed;
        let id = agent.id;
        let place = self.place_of(id);
        let place = place.unwrap_or_else(|| self.add(id));
        let slot = &mut self.slots[place as usize];
        let known = slot.agent.take();
        let was_counted = std::mem::take(&mut slot.is_counted);
        let owned = self.owners.entry(agent.owner).or_default();
        if let (Some(known), Some(was)) = (known, &was_found_by) {
            if moves.is_empty() {
                agent.state = known.state;
            }
            owned.discount(&known, place);
            if was_counted {
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
        self.slots[place as usize].agent = Some(Arc::new(agent));
        self.count_skills(place, &found_by);
        if !moves.is_empty() {
            // Those that were written along, and those that the order has overtaken.
            self.unwritten.retain(|moved| moved.id != id);
            moves.into_iter().for_each(|moved| self.tell(moved));
        }
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
            is_counted: false,
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
        if std::mem::take(&mut slot.is_counted) {
            self.index.count_reachable(found_by, false);
        }
        self.unwritten.retain(|moved| moved.id != id);
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
        for owned in self.owners.values_mut() {
            owned.places.renumber(&new_places);
            let left = owned.left.iter();
            owned.left = left.map(|(at, place)| (*at, renumbered(place))).collect();
        }
        self.index.renumber(&new_places);
    }
}
