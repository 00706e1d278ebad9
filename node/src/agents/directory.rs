//! The agents in memory, and how they are found.
//!
//! It mirrors the store, which alone changes it, after each commit and in the commits' order. An
//! index of skills, tags and words leads from what is asked for to agents in the order of their
//! ids, so that a page of a hundred thousand costs what it shows.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::Bound::{Excluded, Included, Unbounded},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use aither_ledger::AccountId;
use aither_protocol::RootKey;

use super::{Agent, AgentId, AgentState};
use crate::accounts::SecretHash;

/// Words of an agent that are indexed: its name, and its skills' names, tags and descriptions.
const WORDS_MAX: usize = 256;
/// Longest part of a word that counts.
const WORD_BYTES_MAX: usize = 32;
/// Words of a query that count.
const QUERY_WORDS_MAX: usize = 8;
/// Words of the index that one word of a query may begin.
const PREFIX_MATCHES_MAX: usize = 64;

/// What a commit changed.
pub(super) enum Change {
    /// An agent is there, or is as this says now.
    Agent(Agent),
    /// An agent is gone, with its keys.
    NoAgent(AgentId),
    /// A key was made, at this time.
    Key(SecretHash, AgentId, u64),
    /// A key is gone.
    NoKey(SecretHash),
    /// A token of an agent was revoked.
    Revoked(AgentId, u128),
    /// The revoked tokens of an agent are void for another reason now.
    NoneRevoked(AgentId),
    /// There is a root key of capability tokens.
    RootKey(u32, Arc<RootKey>),
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
    agents: BTreeMap<AgentId, Arc<Agent>>,
    names: HashMap<Box<str>, AgentId>,
    keys: HashMap<SecretHash, AgentId>,
    /// Keys of an agent with when they were made, the oldest first.
    keys_of: HashMap<AgentId, Vec<(u64, SecretHash)>>,
    owners: HashMap<AccountId, BTreeSet<AgentId>>,
    skills: HashMap<Box<str>, BTreeSet<AgentId>>,
    tags: HashMap<Box<str>, BTreeSet<AgentId>>,
    words: BTreeMap<Box<str>, BTreeSet<AgentId>>,
    revoked: HashMap<AgentId, HashSet<u128>>,
    /// By number; the last mints.
    root_keys: BTreeMap<u32, Arc<RootKey>>,
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Directory")
            .field("agents", &self.len())
            .finish_non_exhaustive()
    }
}

impl Directory {
    /// Takes over what was committed.
    pub(super) fn apply(&self, changes: Vec<Change>) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            inner.apply(change);
        }
    }

    /// Returns how many agents there are.
    pub fn len(&self) -> usize {
        self.read().agents.len()
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns an agent.
    pub fn agent(&self, id: AgentId) -> Option<Arc<Agent>> {
        self.read().agents.get(&id).cloned()
    }

    /// Returns the agent of a name.
    pub fn by_name(&self, name: &str) -> Option<Arc<Agent>> {
        let inner = self.read();
        let id = inner.names.get(name)?;
        inner.agents.get(id).cloned()
    }

    /// Returns the agent whose key has this hash.
    pub fn by_key(&self, hash: &SecretHash) -> Option<Arc<Agent>> {
        let inner = self.read();
        let id = inner.keys.get(hash)?;
        inner.agents.get(id).cloned()
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
        let ids = inner.owners.get(&owner);
        let agents = ids.into_iter().flatten();
        let agents = agents.filter_map(|id| inner.agents.get(id));
        agents.filter(|agent| !agent.has_left()).count()
    }

    /// Returns the keys of an agent, the oldest first.
    pub(super) fn keys_of(&self, id: AgentId) -> Vec<SecretHash> {
        let inner = self.read();
        let keys = inner.keys_of.get(&id);
        keys.into_iter().flatten().map(|(_, hash)| *hash).collect()
    }

    /// Returns the agents that wait to be found healthy.
    pub fn booting(&self) -> Vec<Arc<Agent>> {
        let inner = self.read();
        let agents = inner.agents.values();
        let booting = agents.filter(|agent| agent.state == AgentState::Boot);
        booting.cloned().collect()
    }

    /// Returns the ids of all skills, with how many agents have each.
    pub fn skills(&self, count_max: usize) -> Vec<(String, usize)> {
        let inner = self.read();
        let skills = inner.skills.iter();
        let mut skills: Vec<_> = skills
            .map(|(id, agents)| (id.to_string(), agents.len()))
            .collect();
        skills.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        skills.truncate(count_max);
        skills
    }

    /// Returns agents in the order of their ids.
    pub fn find(&self, filter: &AgentFilter) -> Vec<Arc<Agent>> {
        let inner = self.read();
        let Some(mut conditions) = inner.conditions(filter) else {
            return Vec::new();
        };
        conditions.sort_by_key(|sets| sets.iter().map(|set| set.len()).sum::<usize>());
        let agents = match conditions.split_first() {
            None => {
                let from = filter.after.map_or(Unbounded, Excluded);
                let agents = inner
                    .agents
                    .range((from, Unbounded))
                    .map(|(_, agent)| Arc::clone(agent));
                return agents.take(filter.limit).collect();
            }
            Some((first, others)) => merged(first, filter.after).filter(|id| {
                let mut others = others.iter();
                others.all(|sets| sets.iter().any(|set| set.contains(id)))
            }),
        };
        let agents = agents.filter_map(|id| inner.agents.get(&id).cloned());
        agents.take(filter.limit).collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        // Nothing that holds the lock can leave it half changed.
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the ids in any of these sets, each once and in order.
fn merged<'a>(
    sets: &[&'a BTreeSet<AgentId>],
    after: Option<AgentId>,
) -> impl Iterator<Item = AgentId> + use<'a> {
    let from = after.map_or(Unbounded, Excluded);
    let mut heads: Vec<_> = sets
        .iter()
        .map(|set| set.range((from, Unbounded)).copied().peekable())
        .collect();
    std::iter::from_fn(move || {
        let next = heads.iter_mut().filter_map(|head| head.peek().copied());
        let next = next.min()?;
        for head in &mut heads {
            head.next_if_eq(&next);
        }
        Some(next)
    })
}

impl Inner {
    /// Returns the sets of which an agent must be in one, for each thing that is asked for; `None`
    /// where nobody can be.
    fn conditions(&self, filter: &AgentFilter) -> Option<Vec<Vec<&BTreeSet<AgentId>>>> {
        let mut conditions = Vec::new();
        if let Some(owner) = filter.owner {
            conditions.push(vec![self.owners.get(&owner)?]);
        }
        if let Some(skill) = &filter.skill {
            conditions.push(vec![self.skills.get(skill.as_str())?]);
        }
        if let Some(tag) = &filter.tag {
            conditions.push(vec![self.tags.get(tag.to_lowercase().as_str())?]);
        }
        let query = filter.query.as_deref().unwrap_or_default();
        for word in words_of(query).take(QUERY_WORDS_MAX) {
            let from = (Included(word.as_str()), Unbounded);
            let words = self.words.range::<str, _>(from);
            let words = words.take_while(|(known, _)| known.starts_with(&*word));
            let sets: Vec<_> = words.map(|(_, set)| set).take(PREFIX_MATCHES_MAX).collect();
            if sets.is_empty() {
                return None;
            }
            conditions.push(sets);
        }
        Some(conditions)
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Agent(agent) => self.put(agent),
            Change::NoAgent(id) => {
                self.revoked.remove(&id);
                for (_, hash) in self.keys_of.remove(&id).unwrap_or_default() {
                    self.keys.remove(&hash);
                }
                if let Some(agent) = self.agents.remove(&id) {
                    self.unlist(&agent);
                    self.names.remove(&agent.name);
                }
            }
            Change::Key(hash, id, made_ms) => {
                self.keys.insert(hash, id);
                let keys = self.keys_of.entry(id).or_default();
                keys.push((made_ms, hash));
                keys.sort_unstable();
            }
            Change::NoKey(hash) => {
                if let Some(id) = self.keys.remove(&hash)
                    && let Some(keys) = self.keys_of.get_mut(&id)
                {
                    keys.retain(|(_, kept)| *kept != hash);
                }
            }
            Change::Revoked(id, serial) => {
                self.revoked.entry(id).or_default().insert(serial);
            }
            Change::NoneRevoked(id) => {
                self.revoked.remove(&id);
            }
            Change::RootKey(number, key) => {
                self.root_keys.insert(number, key);
            }
        }
    }

    fn put(&mut self, agent: Agent) {
        if let Some(known) = self.agents.remove(&agent.id) {
            self.unlist(&known);
        }
        let id = agent.id;
        self.names.insert(agent.name.clone(), id);
        self.owners.entry(agent.owner).or_default().insert(id);
        for skill in &agent.skills {
            let set = self.skills.entry(skill.id.clone());
            set.or_default().insert(id);
            for tag in &skill.tags {
                let tag = tag.to_lowercase().into_boxed_str();
                self.tags.entry(tag).or_default().insert(id);
            }
        }
        for word in words_of_agent(&agent) {
            let set = self.words.entry(word.into_boxed_str());
            set.or_default().insert(id);
        }
        self.agents.insert(id, Arc::new(agent));
    }

    /// Takes an agent out of the indexes; a set that nobody is in any more takes no room.
    fn unlist(&mut self, agent: &Agent) {
        let id = agent.id;
        let is_left_empty = |set: &mut BTreeSet<AgentId>| {
            set.remove(&id);
            set.is_empty()
        };
        if self.owners.get_mut(&agent.owner).is_some_and(is_left_empty) {
            self.owners.remove(&agent.owner);
        }
        for skill in &agent.skills {
            if self.skills.get_mut(&skill.id).is_some_and(is_left_empty) {
                self.skills.remove(&skill.id);
            }
            for tag in &skill.tags {
                let tag = tag.to_lowercase().into_boxed_str();
                if self.tags.get_mut(&tag).is_some_and(is_left_empty) {
                    self.tags.remove(&tag);
                }
            }
        }
        for word in words_of_agent(agent) {
            let word = word.as_str();
            if self.words.get_mut(word).is_some_and(is_left_empty) {
                self.words.remove(word);
            }
        }
    }
}

fn words_of_agent(agent: &Agent) -> BTreeSet<String> {
    let mut words: BTreeSet<_> = words_of(&agent.name).collect();
    for skill in &agent.skills {
        let tags = skill.tags.iter().map(|tag| &**tag);
        for text in [&*skill.id, &*skill.name].into_iter().chain(tags) {
            words.extend(words_of(text));
        }
        words.extend(words_of(&skill.description));
        if words.len() >= WORDS_MAX {
            break;
        }
    }
    words
}

/// Returns the words of a text in lower case, cut where they are long.
fn words_of(text: &str) -> impl Iterator<Item = String> {
    let words = text.split(|c: char| !c.is_alphanumeric());
    let words = words.filter(|word| !word.is_empty());
    words.map(|word| {
        let mut word = word.to_lowercase();
        let mut len = word.len().min(WORD_BYTES_MAX);
        while !word.is_char_boundary(len) {
            len -= 1;
        }
        word.truncate(len);
        word
    })
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use aither_protocol::{CapabilitySet, Tier};

    use super::{
        super::{Mode, SkillSummary},
        *,
    };

    fn agent(number: u128, name: &str, skills: &[(&str, &str)]) -> Agent {
        let summary = |(id, tag): &(&str, &str)| SkillSummary {
            id: (*id).into(),
            name: "Deep Research".into(),
            description: "Über alles".into(),
            tags: [(*tag).into()].into(),
        };
        Agent {
            id: AgentId::from_u128(number),
            name: name.into(),
            owner: AccountId(number % 2),
            mode: Mode::Hybrid,
            state: AgentState::Live,
            is_suspended: false,
            version: "1.0.0".into(),
            tier: Tier::Agent,
            granted: CapabilitySet::EMPTY,
            price: 1,
            model: None,
            skills: skills.iter().map(summary).collect(),
            probe: None,
            public_key: [0; 32],
            tokens_since_ms: 0,
            created: UNIX_EPOCH,
            updated: UNIX_EPOCH,
        }
    }

    fn names(directory: &Directory, filter: AgentFilter) -> Vec<String> {
        let limit = if filter.limit == 0 { 100 } else { filter.limit };
        let found = directory.find(&AgentFilter { limit, ..filter });
        found.iter().map(|agent| agent.name.to_string()).collect()
    }

    fn query(words: &str) -> AgentFilter {
        AgentFilter {
            query: Some(words.to_owned()),
            ..AgentFilter::default()
        }
    }

    #[test]
    fn agents_are_found_by_skill_tag_word_and_owner() {
        let directory = Directory::default();
        directory.apply(vec![
            Change::Agent(agent(3, "gamma-bot", &[("sum", "Math")])),
            Change::Agent(agent(1, "alpha-bot", &[("research", "web")])),
            Change::Agent(agent(2, "beta", &[("research", "math"), ("sum", "x")])),
        ]);
        let all = names(&directory, AgentFilter::default());
        assert_eq!(all, ["alpha-bot", "beta", "gamma-bot"]);
        let by = |skill: Option<&str>, tag: Option<&str>| {
            let filter = AgentFilter {
                skill: skill.map(str::to_owned),
                tag: tag.map(str::to_owned),
                ..AgentFilter::default()
            };
            names(&directory, filter)
        };
        assert_eq!(by(Some("research"), None), ["alpha-bot", "beta"]);
        assert_eq!(by(None, Some("MATH")), ["beta", "gamma-bot"]);
        assert_eq!(by(Some("research"), Some("math")), ["beta"]);
        assert!(by(Some("fly"), None).is_empty());
        assert_eq!(
            names(&directory, query("bot über")),
            ["alpha-bot", "gamma-bot"]
        );
        assert_eq!(names(&directory, query("res be")), ["beta"]);
        assert!(names(&directory, query("nothing")).is_empty());
        let of_one = AgentFilter {
            owner: Some(AccountId(1)),
            ..AgentFilter::default()
        };
        assert_eq!(names(&directory, of_one), ["alpha-bot", "gamma-bot"]);
    }

    #[test]
    fn pages_follow_each_other() {
        let directory = Directory::default();
        for number in 1..=5 {
            let name = format!("a{number}");
            directory.apply(vec![Change::Agent(agent(number, &name, &[("s", "t")]))]);
        }
        for filter in [AgentFilter::default(), query("a research deep")] {
            let page = |after: Option<u128>| {
                let after = after.map(AgentId::from_u128);
                names(
                    &directory,
                    AgentFilter {
                        after,
                        limit: 2,
                        ..filter.clone()
                    },
                )
            };
            assert_eq!(page(None), ["a1", "a2"]);
            assert_eq!(page(Some(2)), ["a3", "a4"]);
            assert_eq!(page(Some(4)), ["a5"]);
            assert!(page(Some(5)).is_empty());
        }
    }

    #[test]
    fn what_changed_or_left_is_not_found_by_what_it_was() {
        let directory = Directory::default();
        let id = AgentId::from_u128(1);
        directory.apply(vec![
            Change::Agent(agent(1, "alpha", &[("old", "t")])),
            Change::Key([1; 32], id, 1),
            Change::Agent(agent(1, "alpha", &[("new", "u")])),
        ]);
        assert!(names(&directory, query("old")).is_empty());
        assert_eq!(names(&directory, query("new")), ["alpha"]);
        assert_eq!(directory.skills(10), [("new".to_owned(), 1)]);
        assert!(directory.by_key(&[1; 32]).is_some());
        directory.apply(vec![Change::NoAgent(id)]);
        assert!(directory.by_key(&[1; 32]).is_none() && directory.by_name("alpha").is_none());
        assert!(directory.is_empty() && directory.count_of(AccountId(1)) == 0);
        let inner = directory.read();
        assert!(inner.words.is_empty() && inner.tags.is_empty() && inner.skills.is_empty());
        assert!(inner.owners.is_empty() && inner.keys_of.is_empty());
    }
}
