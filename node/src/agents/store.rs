//! The agents' database: one writer, commit before anything is said or believed.
//!
//! As in the accounts' store every change is a transaction under the writer's lock, its commit, and
//! only then the change of the [`Directory`]. What is looked for is found under that lock too: of
//! two who want one name at once, one gets it.
//!
//! Bounds: [`KEYS_MAX`] keys an agent, of which the oldest go; [`AUDIT_MAX`] entries of what
//! happened to it and [`life::MOVES_MAX`] of where it was; [`TORN_DOWN_MAX`] agents that were torn
//! down for each account.

mod life;
mod load;
mod migrate;
#[cfg(test)]
pub(super) mod tests;

use std::{path::Path, sync::Arc, time::SystemTime};

use aither_ledger::AccountId;
use aither_protocol::{AgentCard, CapabilitySet, RootKey};
use ed25519_dalek::SigningKey;
use redb::ReadableTable;

pub use self::life::{LifeStory, Transition};
use super::{
    Agent, AgentError, AgentId, AgentKey, AgentState, AuditEntry, Directory, Mode, Moved, Rank,
    SkillSummary,
    directory::{Change, Listed},
    lifecycle::Order,
    records::{AgentKeyV1, AgentV3, AuditV1, CardV1, RootKeyV1, SkillV1, SummaryV1},
    tables::{ReadTables, Tables},
};
use crate::{
    accounts::{AGENT_KEY_PREFIX, NewKey, Record, SecretHash, StoreError, new_id, random, unix_ms},
    store_file::{StoreFile, copy},
};

/// Most keys of an agent that work at once.
const KEYS_MAX: usize = 5;
/// Most single tokens of an agent that are revoked; rotating its keys revokes all at once.
const REVOKED_MAX: usize = 4096;
/// Most entries of an agent's audit trail; the oldest go.
const AUDIT_MAX: u64 = 256;
/// Most agents of an account that were torn down and keep their names for it; those that left first
/// are purged. What the operator has suspended stays, and is not among them.
pub const TORN_DOWN_MAX: usize = 1000;

/// The agents on disk, and what is kept of them in memory.
#[derive(Debug)]
pub struct AgentStore {
    file: StoreFile,
    directory: Directory,
    /// When it was opened, in milliseconds since 1970.
    opened_ms: u64,
}

/// An agent that comes aboard, or comes again.
#[derive(Debug, Clone)]
pub struct NewAgent<'a> {
    /// Whose it is.
    pub owner: AccountId,
    /// As whom its owner acts.
    pub by: Rank,
    /// Most agents that its owner may have.
    pub agents_max: Option<u32>,
    /// Its card.
    pub card: &'a AgentCard,
    /// The card as JSON, signed by this node.
    pub signed_card: String,
    /// Who runs it.
    pub mode: Mode,
    /// What it may do.
    pub granted: CapabilitySet,
}

/// Another card of an agent.
#[derive(Debug, Clone)]
pub struct CardChange<'a> {
    /// The card, whose version must be higher.
    pub card: &'a AgentCard,
    /// The card as JSON, signed by this node.
    pub signed_card: String,
    /// What it may do from now on.
    pub granted: CapabilitySet,
    /// Where the agent itself asks: since when its keys work, so that one that has ended meanwhile
    /// changes nothing.
    pub keys_since_ms: Option<u64>,
}

/// An agent that is aboard, with its new key.
#[derive(Debug)]
pub struct Onboarded {
    /// The agent.
    pub agent: Arc<Agent>,
    /// Its key, shown this once.
    pub key: AgentKey,
    /// Whether it was not known before.
    pub is_new: bool,
}

/// An open write transaction: the tables, and what memory is to learn after the commit.
pub(super) struct Edit<'tx> {
    pub(super) tables: Tables<'tx>,
    now_ms: u64,
    opened_ms: u64,
    pub(super) changes: Vec<Change>,
    /// How the agent at hand has moved, until it is put.
    moved: Vec<Moved>,
}

impl AgentStore {
    /// Opens the database, makes it with a first root key if need be, and loads it.
    ///
    /// # Errors
    /// It is damaged, from a later version, in use, or cannot be read or written.
    pub fn open(path: &Path, now: SystemTime) -> Result<Self, StoreError> {
        let database = load::open_database(path)?;
        let directory = load::read_all(path, &database)?;
        let is_new = directory.minting_key().is_none();
        let store = Self {
            file: StoreFile::new(path, database, load::open_database),
            directory,
            opened_ms: unix_ms(now),
        };
        if is_new {
            store.rotate_root_key(now)?;
        }
        Ok(store)
    }

    /// Verifies every page and every row, and returns how many agents there are.
    ///
    /// # Errors
    /// It is damaged, from a later version, in use, or cannot be read.
    pub fn check(path: &Path) -> Result<usize, StoreError> {
        let database = load::open_verified(path)?;
        let directory = load::read_all(path, &database)?;
        load::check_cards(path, &database)?;
        Ok(directory.len())
    }

    /// Returns the agents in memory.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Takes an agent aboard, or gives one that is a new key and, where it is newer, its card.
    ///
    /// # Errors
    /// Somebody else has the name, the version falls, the owner has too many, or the store fails.
    pub fn onboard(&self, new: &NewAgent<'_>, now: SystemTime) -> Result<Onboarded, AgentError> {
        let key = NewKey::make(AGENT_KEY_PREFIX)?;
        let fresh = AgentId(new_id(now)?);
        let seed = random::<32>()?;
        let (id, is_new) = self.write(now, |edit, directory| {
            let known = directory.by_name(new.card.name.as_str());
            if let Some(refusal) = refusal_of(new, known.as_deref(), directory) {
                return Ok(Err(refusal));
            }
            let (id, record, was) = match &known {
                Some(agent) => {
                    let mut record = edit.agent(agent.id)?;
                    let was = record.summary.clone();
                    if record.suspended_by()? <= Some(new.by) {
                        record.suspended_by = None;
                    }
                    record.is_torn_down = false;
                    record.take(new.card, new.granted, edit.now_ms);
                    record.mode = new.mode.as_str().to_owned();
                    // A suspended agent keeps its state.
                    if record.suspended_by.is_none() {
                        edit.order(agent.id, directory, Order::OnboardAgain, &record)?;
                    }
                    (agent.id, record, Some(was))
                }
                None => {
                    // Later ones have higher ids, whatever the clock says.
                    let fresh = directory
                        .last_id()
                        .map_or(fresh, |last| fresh.max(last.next()));
                    let record = AgentV3::new(new, *seed, edit.now_ms);
                    edit.order(fresh, directory, Order::Onboard, &record)?;
                    (fresh, record, None)
                }
            };
            edit.put_agent(id, directory, &record, was)?;
            edit.put_card(id, &new.signed_card)?;
            let kept = directory.keys_of(id);
            let excess = (kept.len() + 1).saturating_sub(KEYS_MAX);
            for hash in &kept[..excess] {
                edit.remove_key(*hash)?;
            }
            edit.put_key(id, &key)?;
            let version = format!("version {}, {}", record.summary.version, record.mode);
            edit.note(id, "onboarded", &version)?;
            Ok(Ok((id, known.is_none())))
        })??;
        Ok(Onboarded {
            agent: self.agent(id)?,
            key: AgentKey(key.text),
            is_new,
        })
    }

    /// Replaces an agent's card.
    ///
    /// # Errors
    /// It is of another agent or not newer, or the store fails.
    pub fn update_card(
        &self,
        id: AgentId,
        change: &CardChange<'_>,
        now: SystemTime,
    ) -> Result<Arc<Agent>, AgentError> {
        self.write(now, |edit, directory| {
            let Some(known) = directory.agent(id) else {
                return Ok(Err(AgentError::Unknown(id.to_string())));
            };
            if known.is_torn_down {
                return Ok(Err(AgentError::TornDown(known.name.to_string())));
            }
            // The request may have been held open while keys were rotated.
            let since = change.keys_since_ms;
            if since.is_some_and(|since| since != known.tokens_since_ms) {
                return Ok(Err(AgentError::KeyEnded));
            }
            if *known.name != *change.card.name.as_str() {
                return Ok(Err(AgentError::OtherName(change.card.name.to_string())));
            }
            if let Some(refusal) = too_low(change.card, &known, true) {
                return Ok(Err(refusal));
            }
            let mut record = edit.agent(id)?;
            let was = record.summary.clone();
            record.take(change.card, change.granted, edit.now_ms);
            if record.suspended_by.is_none() {
                edit.order(id, directory, Order::ReplaceCard, &record)?;
            }
            edit.put_agent(id, directory, &record, Some(was))?;
            edit.put_card(id, &change.signed_card)?;
            let version = format!("version {}", record.summary.version);
            edit.note(id, "card_replaced", &version)?;
            Ok(Ok(()))
        })??;
        self.agent(id)
    }

    /// Gives an agent a new key; older keys, and all capability tokens, die.
    ///
    /// # Errors
    /// There is no such agent, it was torn down, or the store fails.
    pub fn rotate_keys(&self, id: AgentId, now: SystemTime) -> Result<AgentKey, AgentError> {
        let key = NewKey::make(AGENT_KEY_PREFIX)?;
        self.change(id, now, |edit, directory, record| {
            edit.end_secrets(id, directory, record)?;
            edit.put_key(id, &key)?;
            edit.note(id, "keys_rotated", "")?;
            Ok(Ok(()))
        })?;
        Ok(AgentKey(key.text))
    }

    /// Sets an agent aside.
    ///
    /// # Errors
    /// There is no such agent, it was torn down, or the store fails.
    pub fn suspend(
        &self,
        id: AgentId,
        by: Rank,
        now: SystemTime,
    ) -> Result<Arc<Agent>, AgentError> {
        self.change(id, now, |edit, directory, record| {
            let suspended_by = record.suspended_by()?;
            let state = directory.agent(id).map(|agent| agent.state);
            let is_drained = state == Some(AgentState::Drain) && suspended_by == Some(by);
            if suspended_by < Some(by) || is_drained {
                record.suspended_by = Some(by.as_str().to_owned());
                edit.order(id, directory, Order::Suspend(by), record)?;
                edit.note(id, "suspended", by.as_str())?;
            }
            Ok(Ok(()))
        })?;
        self.agent(id)
    }

    /// Sets an agent aside once it has finished what it has.
    ///
    /// # Errors
    /// As [`suspend`](Self::suspend).
    pub fn drain(&self, id: AgentId, by: Rank, now: SystemTime) -> Result<Arc<Agent>, AgentError> {
        self.change(id, now, |edit, directory, record| {
            if record.suspended_by()? < Some(by) {
                record.suspended_by = Some(by.as_str().to_owned());
                edit.order(id, directory, Order::Drain(by), record)?;
                edit.note(id, "drained", by.as_str())?;
            }
            Ok(Ok(()))
        })?;
        self.agent(id)
    }

    /// Takes an agent back that was set aside.
    ///
    /// # Errors
    /// There is no such agent, it was torn down, somebody of a higher rank has set it aside, or the
    /// store fails.
    pub fn resume(&self, id: AgentId, by: Rank, now: SystemTime) -> Result<Arc<Agent>, AgentError> {
        self.change(id, now, |edit, directory, record| {
            let Some(suspended_by) = record.suspended_by()? else {
                return Ok(Ok(()));
            };
            if by < suspended_by {
                return Ok(Err(AgentError::SuspendedBy(suspended_by)));
            }
            record.suspended_by = None;
            edit.order(id, directory, Order::Resume(by), record)?;
            edit.note(id, "resumed", by.as_str())?;
            Ok(Ok(()))
        })?;
        self.agent(id)
    }

    /// Ends an agent: its keys and tokens die. Its name stays its owner's, unless it is purged:
    /// then nothing of it is left.
    ///
    /// # Errors
    /// There is no such agent, it is to be purged while somebody of a higher rank has it set aside,
    /// or the store fails.
    pub fn tear_down(
        &self,
        id: AgentId,
        by: Rank,
        purge: bool,
        now: SystemTime,
    ) -> Result<(), AgentError> {
        if !purge {
            return self.change(id, now, |edit, directory, record| {
                edit.end_secrets(id, directory, record)?;
                edit.order(id, directory, Order::TearDown(by), record)?;
                record.is_torn_down = true;
                edit.end_listing(id)?;
                edit.note(id, "torn_down", by.as_str())?;
                let (count, first) = directory.left_of(AccountId(record.owner));
                let first = first.filter(|_| count >= TORN_DOWN_MAX);
                if let Some(first) = first.filter(|_| record.suspended_by.is_none()) {
                    edit.forget(first.id, directory)?;
                }
                Ok(Ok(()))
            });
        }
        self.write(now, |edit, directory| {
            let Some(known) = directory.agent(id) else {
                return Ok(Err(AgentError::Unknown(id.to_string())));
            };
            // Else it would be back under its name in a moment.
            match known.suspended_by {
                Some(suspended_by) if by < suspended_by => {
                    return Ok(Err(AgentError::SuspendedBy(suspended_by)));
                }
                _ => edit.forget(id, directory)?,
            }
            Ok(Ok(()))
        })?
    }

    /// Makes a capability token void, and all that were narrowed from it.
    ///
    /// # Errors
    /// The store fails.
    pub fn revoke_token(
        &self,
        id: AgentId,
        serial: u128,
        now: SystemTime,
    ) -> Result<(), AgentError> {
        self.write(now, |edit, directory| {
            if directory.agent(id).is_none() {
                return Ok(Err(AgentError::Unknown(id.to_string())));
            }
            if directory.is_revoked(id, &[serial]) {
                return Ok(Ok(()));
            }
            if directory.revoked_len(id) >= REVOKED_MAX {
                return Ok(Err(AgentError::TooManyRevoked));
            }
            let now_ms = edit.now_ms;
            let row = (id.0.to_bytes(), serial.to_be_bytes());
            edit.tables.revoked.insert(row, now_ms)?;
            edit.changes.push(Change::Revoked(id, serial));
            let name = ulid::Ulid(serial).to_string();
            edit.note(id, "token_revoked", &name)?;
            Ok(Ok(()))
        })?
    }

    /// Makes a new root key that mints from now on. Older ones still verify.
    ///
    /// # Errors
    /// The store fails.
    pub fn rotate_root_key(&self, now: SystemTime) -> Result<u32, StoreError> {
        let bytes = random::<32>()?;
        self.write(now, |edit, directory| {
            let number = directory.minting_key().map_or(1, |(number, _)| number + 1);
            let record = RootKeyV1 {
                bytes: *bytes,
                made_ms: edit.now_ms,
            };
            let record = record.encode();
            edit.tables.root_keys.insert(number, &record[..])?;
            let key = Arc::new(RootKey::from_bytes(*bytes));
            edit.changes.push(Change::RootKey(number, key));
            Ok(number)
        })
    }

    /// Returns an agent's card as JSON, with the node's signature.
    ///
    /// # Errors
    /// There is no such agent, or the store fails.
    pub fn card(&self, id: AgentId) -> Result<String, AgentError> {
        let card = self.read(|tables| {
            let found = tables.cards.get(id.0.to_bytes())?;
            let record = found.map(|row| CardV1::decode(row.value())).transpose()?;
            Ok(record.map(|record| record.json))
        })?;
        card.ok_or_else(|| AgentError::Unknown(id.to_string()))
    }

    /// Returns the skills of agents, in the order of the agents; of one that is not there, none.
    ///
    /// # Errors
    /// The store fails.
    pub fn skills(&self, ids: &[AgentId]) -> Result<Vec<Vec<SkillSummary>>, AgentError> {
        let skills = self.read(|tables| {
            let read = |id: &AgentId| {
                let Some(row) = tables.agents.get(id.0.to_bytes())? else {
                    return Ok(Vec::new());
                };
                let mut record = AgentV3::decode(row.value())?;
                let skills = std::mem::take(&mut record.summary.skills);
                Ok(skills.into_iter().map(SkillV1::summary).collect())
            };
            ids.iter().map(read).collect()
        });
        Ok(skills?)
    }

    /// Returns what happened to an agent, the newest first.
    ///
    /// # Errors
    /// The store fails.
    pub fn audit(&self, id: AgentId, count: usize) -> Result<Vec<AuditEntry>, AgentError> {
        let entries = self.read(|tables| {
            let all = (id.0.to_bytes(), 0)..=(id.0.to_bytes(), u64::MAX);
            let rows = tables.audit.range(all)?.rev().take(count);
            rows.map(|row| {
                let record = AuditV1::decode(row?.1.value())?;
                Ok(AuditEntry {
                    time_ms: record.time_ms,
                    action: record.action,
                    detail: record.detail,
                })
            })
            .collect()
        });
        Ok(entries?)
    }

    /// Writes all of it as a store of its own, in a file that is not there yet.
    ///
    /// # Errors
    /// The file cannot be made, or a store fails.
    pub fn copy_to(&self, path: &Path) -> Result<(), StoreError> {
        let to = load::open_database(path)?;
        self.read(|from| {
            let tx = to.begin_write()?;
            {
                let mut tables = Tables::open(&tx)?;
                copy(&from.agents, &mut tables.agents)?;
                copy(&from.cards, &mut tables.cards)?;
                copy(&from.keys, &mut tables.keys)?;
                copy(&from.root_keys, &mut tables.root_keys)?;
                copy(&from.revoked, &mut tables.revoked)?;
                copy(&from.audit, &mut tables.audit)?;
                copy(&from.listings, &mut tables.listings)?;
                copy(&from.states, &mut tables.states)?;
                copy(&from.moves, &mut tables.moves)?;
                copy(&from.call_stats, &mut tables.call_stats)?;
            }
            tx.commit()?;
            Ok(())
        })
    }

    fn agent(&self, id: AgentId) -> Result<Arc<Agent>, AgentError> {
        let agent = self.directory.agent(id);
        agent.ok_or_else(|| AgentError::Unknown(id.to_string()))
    }

    /// Changes the record of an agent that was not torn down. A refusal comes before any change.
    fn change(
        &self,
        id: AgentId,
        now: SystemTime,
        change: impl FnOnce(
            &mut Edit<'_>,
            &Directory,
            &mut AgentV3,
        ) -> Result<Result<(), AgentError>, redb::Error>,
    ) -> Result<(), AgentError> {
        self.write(now, |edit, directory| {
            let Some(known) = directory.agent(id) else {
                return Ok(Err(AgentError::Unknown(id.to_string())));
            };
            if known.is_torn_down {
                return Ok(Err(AgentError::TornDown(known.name.to_string())));
            }
            let mut record = edit.agent(id)?;
            let was = record.summary.clone();
            let changed = change(edit, directory, &mut record)?;
            if changed.is_ok() {
                edit.put_agent(id, directory, &record, Some(was))?;
            }
            Ok(changed)
        })?
    }

    pub(super) fn read<T>(
        &self,
        look: impl FnOnce(&ReadTables) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        self.file
            .read(|database| look(&ReadTables::open(database)?))
    }

    /// Runs one transaction. A refusal inside `change` that is no error of the store is part of
    /// `T`; what was changed until then is committed, so it must come before the first change.
    pub(super) fn write<T>(
        &self,
        now: SystemTime,
        change: impl FnOnce(&mut Edit<'_>, &Directory) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let run = |tx: &redb::WriteTransaction| {
            let mut edit = Edit {
                tables: Tables::open(tx)?,
                now_ms: unix_ms(now),
                opened_ms: self.opened_ms,
                changes: Vec::new(),
                moved: Vec::new(),
            };
            let outcome = change(&mut edit, &self.directory)?;
            let changes = Some(edit.changes).filter(|changes| !changes.is_empty());
            Ok((outcome, changes))
        };
        self.file
            .write(run, |changes| self.directory.apply(changes))
    }
}

impl Edit<'_> {
    fn agent(&self, id: AgentId) -> Result<AgentV3, redb::Error> {
        let found = self.tables.agents.get(id.0.to_bytes())?;
        let record = found.map(|row| AgentV3::decode(row.value())).transpose()?;
        record.ok_or_else(|| crate::store_file::corrupt("an agent is in memory only"))
    }

    fn put_agent(
        &mut self,
        id: AgentId,
        directory: &Directory,
        record: &AgentV3,
        was_found_by: Option<SummaryV1>,
    ) -> Result<(), redb::Error> {
        let bytes = record.encode();
        self.tables.agents.insert(id.0.to_bytes(), &bytes[..])?;
        let moves = std::mem::take(&mut self.moved);
        let state = match moves.last() {
            Some(moved) => moved.to,
            None => directory.agent(id).map_or(AgentState::Boot, |a| a.state),
        };
        self.changes.push(Change::Agent(Box::new(Listed {
            agent: record.agent(id, state)?,
            moves,
            found_by: record.summary.clone(),
            was_found_by,
        })));
        Ok(())
    }

    fn put_card(&mut self, id: AgentId, json: &str) -> Result<(), redb::Error> {
        let json = json.to_owned();
        let bytes = CardV1 { json }.encode();
        self.tables.cards.insert(id.0.to_bytes(), &bytes[..])?;
        Ok(())
    }

    /// Removes all that there is of an agent.
    fn forget(&mut self, id: AgentId, directory: &Directory) -> Result<(), redb::Error> {
        let found_by = self.agent(id)?.summary.clone();
        self.tables.agents.remove(id.0.to_bytes())?;
        self.tables.cards.remove(id.0.to_bytes())?;
        self.end_listing(id)?;
        for hash in directory.keys_of(id) {
            self.remove_key(hash)?;
        }
        let all = (id.0.to_bytes(), 0)..=(id.0.to_bytes(), u64::MAX);
        self.tables.audit.retain_in(all.clone(), |_, _| false)?;
        self.tables.moves.retain_in(all, |_, _| false)?;
        self.tables.states.remove(id.0.to_bytes())?;
        self.tables.call_stats.remove(id.0.to_bytes())?;
        self.forget_revoked(id)?;
        self.changes.push(Change::NoAgent(id, Box::new(found_by)));
        Ok(())
    }

    fn put_key(&mut self, id: AgentId, key: &NewKey) -> Result<(), redb::Error> {
        let record = AgentKeyV1 {
            agent: id.as_u128(),
            prefix: key.prefix.clone(),
            made_ms: self.now_ms,
        };
        let record = record.encode();
        self.tables.keys.insert(key.hash, &record[..])?;
        self.changes.push(Change::Key(key.hash, id, self.now_ms));
        Ok(())
    }

    fn remove_key(&mut self, hash: SecretHash) -> Result<(), redb::Error> {
        self.tables.keys.remove(hash)?;
        self.changes.push(Change::NoKey(hash));
        Ok(())
    }

    /// Ends all keys and capability tokens of an agent.
    fn end_secrets(
        &mut self,
        id: AgentId,
        directory: &Directory,
        record: &mut AgentV3,
    ) -> Result<(), redb::Error> {
        for hash in directory.keys_of(id) {
            self.remove_key(hash)?;
        }
        // Tokens are numbered by the millisecond: those of this one are old, too, and so are those
        // that were minted in it after keys had been rotated once already.
        let last_ms = self.now_ms.max(record.tokens_since_ms);
        record.tokens_since_ms = last_ms.saturating_add(1);
        // All that was revoked is older, so nothing needs to know it any more.
        self.forget_revoked(id)
    }

    fn forget_revoked(&mut self, id: AgentId) -> Result<(), redb::Error> {
        let all = (id.0.to_bytes(), [0; 16])..=(id.0.to_bytes(), [0xff; 16]);
        self.tables.revoked.retain_in(all, |_, _| false)?;
        self.changes.push(Change::NoneRevoked(id));
        Ok(())
    }

    /// Ends an agent's offer, if there is one.
    pub(super) fn end_listing(&mut self, id: AgentId) -> Result<(), redb::Error> {
        if self.tables.listings.remove(id.0.to_bytes())?.is_some() {
            self.changes.push(Change::NotOffered(id));
        }
        Ok(())
    }

    /// Adds to what happened to an agent.
    pub(super) fn note(
        &mut self,
        id: AgentId,
        action: &str,
        detail: &str,
    ) -> Result<(), redb::Error> {
        let id = id.0.to_bytes();
        let last = self
            .tables
            .audit
            .range((id, 0)..=(id, u64::MAX))?
            .next_back();
        let number = last.transpose()?.map_or(1, |(key, _)| key.value().1 + 1);
        let record = AuditV1 {
            time_ms: self.now_ms,
            action: action.to_owned(),
            detail: detail.to_owned(),
        };
        let record = record.encode();
        self.tables.audit.insert((id, number), &record[..])?;
        if number > AUDIT_MAX {
            self.tables.audit.remove((id, number - AUDIT_MAX))?;
        }
        Ok(())
    }
}

impl AgentV3 {
    fn new(new: &NewAgent<'_>, seed: [u8; 32], now_ms: u64) -> Self {
        let mut record = Self {
            owner: new.owner.0,
            mode: new.mode.as_str().to_owned(),
            suspended_by: None,
            is_torn_down: false,
            granted: 0,
            seed,
            public_key: SigningKey::from_bytes(&seed).verifying_key().to_bytes(),
            tokens_since_ms: 0,
            created_ms: now_ms,
            updated_ms: now_ms,
            summary: SummaryV1::of(new.card),
        };
        record.take(new.card, new.granted, now_ms);
        record
    }

    /// Takes over a card.
    fn take(&mut self, card: &AgentCard, granted: CapabilitySet, now_ms: u64) {
        self.summary = SummaryV1::of(card);
        self.granted = granted.bits();
        self.updated_ms = now_ms;
    }
}

/// Returns why an agent cannot come aboard, if it cannot.
fn refusal_of(
    new: &NewAgent<'_>,
    known: Option<&Agent>,
    directory: &Directory,
) -> Option<AgentError> {
    let Some(known) = known else {
        return too_many(new, directory);
    };
    if known.owner != new.owner {
        return Some(AgentError::NameTaken(known.name.to_string()));
    }
    // One that was torn down does not count until it comes back.
    let comes_back = known.is_torn_down;
    let full = comes_back.then(|| too_many(new, directory)).flatten();
    full.or_else(|| too_low(new.card, known, false))
}

/// Returns the refusal of one more agent, if its owner has as many as may be.
fn too_many(new: &NewAgent<'_>, directory: &Directory) -> Option<AgentError> {
    let agents_max = new.agents_max?;
    let is_full = directory.count_of(new.owner) >= usize::try_from(agents_max).ok()?;
    is_full.then_some(AgentError::TooManyAgents { agents_max })
}

/// Returns the refusal of a card that is older than the known one, or not newer where it must be.
fn too_low(card: &AgentCard, known: &Agent, must_rise: bool) -> Option<AgentError> {
    // What was stored was a version once.
    let known = semver::Version::parse(&known.version).ok()?;
    // Build metadata has no place in the order of versions.
    let order = card.version.cmp_precedence(&known);
    let fits = if must_rise {
        order.is_gt()
    } else {
        order.is_ge()
    };
    (!fits).then(|| AgentError::VersionTooLow {
        offered: card.version.to_string(),
        known: known.to_string(),
        must_rise,
    })
}
