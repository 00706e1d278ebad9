//! The agents' database: one writer, commit before anything is said or believed.
//!
//! As in the accounts' store every change is a transaction under the writer's lock, its commit, and
//! only then the change of the [`Directory`]. What is looked for is found under that lock too: of
//! two who want one name at once, one gets it.
//!
//! Bounds: [`KEYS_MAX`] keys an agent, of which the oldest go; [`AUDIT_MAX`] entries of what
//! happened to it.

mod load;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use aither_ledger::AccountId;
use aither_protocol::{AgentCard, CapabilitySet, RootKey};
use ed25519_dalek::SigningKey;
use redb::{Database, ReadableTable};

use super::{
    Agent, AgentError, AgentId, AgentKey, AgentState, AuditEntry, Directory, Mode,
    directory::Change,
    records::{AgentKeyV1, AgentV1, AuditV1, RootKeyV1, SummaryV1},
    tables::{ReadTables, Tables},
};
use crate::accounts::{
    AGENT_KEY_PREFIX, NewKey, Record, SecretHash, StoreError, new_id, random, unix_ms,
};

/// Most keys of an agent that work at once.
const KEYS_MAX: usize = 5;
/// Most single tokens of an agent that are revoked; rotating its keys revokes all at once.
const REVOKED_MAX: usize = 4096;
/// Most entries of an agent's audit trail; the oldest go.
const AUDIT_MAX: u64 = 256;

/// The agents on disk, and what is kept of them in memory.
pub struct AgentStore {
    path: PathBuf,
    /// `None` after a failed write, until it is opened anew.
    database: Mutex<Option<Database>>,
    directory: Directory,
}

/// An agent that comes aboard, or comes again.
#[derive(Debug, Clone)]
pub struct NewAgent<'a> {
    /// Whose it is.
    pub owner: AccountId,
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
struct Edit<'tx> {
    tables: Tables<'tx>,
    now_ms: u64,
    changes: Vec<Change>,
}

impl AgentStore {
    /// Opens the database, makes it with a first root key if need be, and loads it.
    ///
    /// # Errors
    /// It is damaged, from a later version, in use, or cannot be read or written.
    pub fn open(path: &Path, now: SystemTime) -> Result<Self, StoreError> {
        let database = load::open_database(path)?;
        let directory = Directory::default();
        directory.apply(load::read_all(path, &database)?);
        let is_new = directory.minting_key().is_none();
        let store = Self {
            path: path.to_owned(),
            database: Mutex::new(Some(database)),
            directory,
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
        let directory = Directory::default();
        directory.apply(load::read_all(path, &database)?);
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
            let (id, record) = match &known {
                Some(agent) => {
                    let mut record = edit.agent(agent.id)?;
                    // Before the card is taken over: a suspended agent keeps its state.
                    record.is_suspended = false;
                    record.take(new.card, new.signed_card.clone(), new.granted, edit.now_ms);
                    record.mode = new.mode.as_str().to_owned();
                    (agent.id, record)
                }
                None => (fresh, AgentV1::new(new, *seed, edit.now_ms)),
            };
            edit.put_agent(id, &record)?;
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
            if known.has_left() {
                return Ok(Err(AgentError::HasLeft(known.name.to_string())));
            }
            if *known.name != *change.card.name.as_str() {
                return Ok(Err(AgentError::OtherName(change.card.name.to_string())));
            }
            if let Some(refusal) = too_low(change.card, &known, true) {
                return Ok(Err(refusal));
            }
            let mut record = edit.agent(id)?;
            let card = change.signed_card.clone();
            record.take(change.card, card, change.granted, edit.now_ms);
            edit.put_agent(id, &record)?;
            let version = format!("version {}", record.summary.version);
            edit.note(id, "card_replaced", &version)?;
            Ok(Ok(()))
        })??;
        self.agent(id)
    }

    /// Gives an agent a new key; older keys, and all capability tokens, die.
    ///
    /// # Errors
    /// There is no such agent, or the store fails.
    pub fn rotate_keys(&self, id: AgentId, now: SystemTime) -> Result<AgentKey, AgentError> {
        let key = NewKey::make(AGENT_KEY_PREFIX)?;
        self.change(id, now, |edit, directory, record| {
            edit.end_secrets(id, directory, record)?;
            edit.put_key(id, &key)?;
            edit.note(id, "keys_rotated", "")
        })?;
        Ok(AgentKey(key.text))
    }

    /// Sets an agent aside, or takes it back.
    ///
    /// # Errors
    /// There is no such agent, or the store fails.
    pub fn suspend(
        &self,
        id: AgentId,
        is_suspended: bool,
        now: SystemTime,
    ) -> Result<Arc<Agent>, AgentError> {
        self.change(id, now, |edit, _, record| {
            if record.is_suspended == is_suspended {
                return Ok(());
            }
            record.is_suspended = is_suspended;
            record.state = match is_suspended {
                true => AgentState::Stop,
                false => record.first_state(),
            }
            .as_str()
            .to_owned();
            let action = if is_suspended { "suspended" } else { "resumed" };
            edit.note(id, action, "")
        })?;
        self.agent(id)
    }

    /// Notes that an agent is in another state now, unless it was changed meanwhile.
    ///
    /// # Errors
    /// The store fails.
    pub fn move_to(
        &self,
        id: AgentId,
        (from, to): (AgentState, AgentState),
        reason: &str,
        now: SystemTime,
    ) -> Result<(), AgentError> {
        self.change(id, now, |edit, _, record| {
            if record.state == from.as_str() {
                record.state = to.as_str().to_owned();
                edit.note(id, to.as_str(), reason)?;
            }
            Ok(())
        })
    }

    /// Ends an agent: its keys and tokens die. Its name stays its owner's, unless it is purged:
    /// then nothing of it is left.
    ///
    /// # Errors
    /// There is no such agent, or the store fails.
    pub fn tear_down(&self, id: AgentId, purge: bool, now: SystemTime) -> Result<(), AgentError> {
        if !purge {
            return self.change(id, now, |edit, directory, record| {
                edit.end_secrets(id, directory, record)?;
                record.state = AgentState::Stop.as_str().to_owned();
                record.is_suspended = false;
                edit.note(id, "torn_down", "")
            });
        }
        self.write(now, |edit, directory| {
            if directory.agent(id).is_none() {
                return Ok(Err(AgentError::Unknown(id.to_string())));
            }
            edit.tables.agents.remove(id.0.to_bytes())?;
            for hash in directory.keys_of(id) {
                edit.remove_key(hash)?;
            }
            let all = (id.0.to_bytes(), 0)..=(id.0.to_bytes(), u64::MAX);
            edit.tables.audit.retain_in(all, |_, _| false)?;
            edit.forget_revoked(id)?;
            edit.changes.push(Change::NoAgent(id));
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
            let found = tables.agents.get(id.0.to_bytes())?;
            let record = found.map(|row| AgentV1::decode(row.value())).transpose()?;
            Ok(record.map(|record| record.card.clone()))
        })?;
        card.ok_or_else(|| AgentError::Unknown(id.to_string()))
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
                copy(&from.keys, &mut tables.keys)?;
                copy(&from.root_keys, &mut tables.root_keys)?;
                copy(&from.revoked, &mut tables.revoked)?;
                copy(&from.audit, &mut tables.audit)?;
            }
            tx.commit()?;
            Ok(())
        })
    }

    fn agent(&self, id: AgentId) -> Result<Arc<Agent>, AgentError> {
        let agent = self.directory.agent(id);
        agent.ok_or_else(|| AgentError::Unknown(id.to_string()))
    }

    /// Changes the record of an agent that has not left.
    fn change(
        &self,
        id: AgentId,
        now: SystemTime,
        change: impl FnOnce(&mut Edit<'_>, &Directory, &mut AgentV1) -> Result<(), redb::Error>,
    ) -> Result<(), AgentError> {
        self.write(now, |edit, directory| {
            let Some(known) = directory.agent(id) else {
                return Ok(Err(AgentError::Unknown(id.to_string())));
            };
            if known.has_left() {
                return Ok(Err(AgentError::HasLeft(known.name.to_string())));
            }
            let mut record = edit.agent(id)?;
            change(edit, directory, &mut record)?;
            edit.put_agent(id, &record)?;
            Ok(Ok(()))
        })?
    }

    fn read<T>(
        &self,
        look: impl FnOnce(&ReadTables) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        // The lock is held for opening only: readers see a snapshot.
        let tables = {
            let mut database = self.lock();
            let database = self.opened(&mut database)?;
            ReadTables::open(database).map_err(|error| StoreError::of(&self.path, error))?
        };
        look(&tables).map_err(|error| StoreError::of(&self.path, error))
    }

    /// Runs one transaction. A refusal inside `change` that is no error of the store is part of
    /// `T`; what was changed until then is committed, so it must come before the first change.
    fn write<T>(
        &self,
        now: SystemTime,
        change: impl FnOnce(&mut Edit<'_>, &Directory) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let mut database = self.lock();
        let now_ms = unix_ms(now);
        let opened = self.opened(&mut database)?;
        match transact(opened, now_ms, |edit| change(edit, &self.directory)) {
            Ok((outcome, changes)) => {
                self.directory.apply(changes);
                Ok(outcome)
            }
            Err(error) => {
                if matches!(error, redb::Error::Io(_) | redb::Error::PreviousIo) {
                    *database = None;
                }
                Err(StoreError::of(&self.path, error))
            }
        }
    }

    /// Returns the database, opened anew where an earlier write failed.
    fn opened<'a>(&self, slot: &'a mut Option<Database>) -> Result<&'a Database, StoreError> {
        let database = match slot.take() {
            Some(database) => database,
            None => load::open_database(&self.path)?,
        };
        Ok(slot.insert(database))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Database>> {
        // A panic under the lock is a defect, and the transaction it was in is rolled back.
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Edit<'_> {
    fn agent(&self, id: AgentId) -> Result<AgentV1, redb::Error> {
        let found = self.tables.agents.get(id.0.to_bytes())?;
        let record = found.map(|row| AgentV1::decode(row.value())).transpose()?;
        record.ok_or_else(|| crate::store_file::corrupt("an agent is in memory only"))
    }

    fn put_agent(&mut self, id: AgentId, record: &AgentV1) -> Result<(), redb::Error> {
        let bytes = record.encode();
        self.tables.agents.insert(id.0.to_bytes(), &bytes[..])?;
        self.changes.push(Change::Agent(record.agent(id)?));
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
        record: &mut AgentV1,
    ) -> Result<(), redb::Error> {
        for hash in directory.keys_of(id) {
            self.remove_key(hash)?;
        }
        // Tokens are numbered by the millisecond: those of this one are old, too.
        record.tokens_since_ms = self.now_ms.saturating_add(1);
        // All that was revoked is older, so nothing needs to know it any more.
        self.forget_revoked(id)
    }

    fn forget_revoked(&mut self, id: AgentId) -> Result<(), redb::Error> {
        let all = (id.0.to_bytes(), [0; 16])..=(id.0.to_bytes(), [0xff; 16]);
        self.tables.revoked.retain_in(all, |_, _| false)?;
        self.changes.push(Change::NoneRevoked(id));
        Ok(())
    }

    /// Adds to what happened to an agent.
    fn note(&mut self, id: AgentId, action: &str, detail: &str) -> Result<(), redb::Error> {
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

impl AgentV1 {
    fn new(new: &NewAgent<'_>, seed: [u8; 32], now_ms: u64) -> Self {
        let mut record = Self {
            owner: new.owner.0,
            mode: new.mode.as_str().to_owned(),
            state: String::new(),
            is_suspended: false,
            granted: 0,
            seed,
            public_key: SigningKey::from_bytes(&seed).verifying_key().to_bytes(),
            tokens_since_ms: 0,
            created_ms: now_ms,
            updated_ms: now_ms,
            summary: SummaryV1::of(new.card),
            card: String::new(),
        };
        record.take(new.card, new.signed_card.clone(), new.granted, now_ms);
        record
    }

    /// Takes over a card. An agent with an address is to be found healthy there first.
    fn take(&mut self, card: &AgentCard, signed: String, granted: CapabilitySet, now_ms: u64) {
        self.summary = SummaryV1::of(card);
        self.card = signed;
        self.granted = granted.bits();
        self.updated_ms = now_ms;
        if !self.is_suspended {
            self.state = self.first_state().as_str().to_owned();
        }
    }

    fn first_state(&self) -> AgentState {
        match self.summary.probe {
            Some(_) => AgentState::Boot,
            None => AgentState::Live,
        }
    }
}

/// Returns why an agent cannot come aboard, if it cannot.
fn refusal_of(
    new: &NewAgent<'_>,
    known: Option<&Agent>,
    directory: &Directory,
) -> Option<AgentError> {
    if let Some(known) = known
        && known.owner != new.owner
    {
        return Some(AgentError::NameTaken(known.name.to_string()));
    }
    // One that has left has given up its place, and needs one to come back.
    if known.is_none_or(Agent::has_left)
        && let Some(agents_max) = new.agents_max
        && directory.count_of(new.owner) >= usize::try_from(agents_max).unwrap_or(usize::MAX)
    {
        return Some(AgentError::TooManyAgents { agents_max });
    }
    known.and_then(|known| too_low(new.card, known, false))
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

impl fmt::Debug for AgentStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentStore")
            .field("path", &self.path)
            .field("agents", &self.directory.len())
            .finish_non_exhaustive()
    }
}

fn copy<K: redb::Key + 'static, V: redb::Value + 'static>(
    from: &redb::ReadOnlyTable<K, V>,
    to: &mut redb::Table<'_, K, V>,
) -> Result<(), redb::Error> {
    for row in from.iter()? {
        let (key, value) = row?;
        to.insert(key.value(), value.value())?;
    }
    Ok(())
}

fn transact<T>(
    database: &Database,
    now_ms: u64,
    change: impl FnOnce(&mut Edit<'_>) -> Result<T, redb::Error>,
) -> Result<(T, Vec<Change>), redb::Error> {
    let tx = database.begin_write()?;
    let (outcome, changes) = {
        let mut edit = Edit {
            tables: Tables::open(&tx)?,
            now_ms,
            changes: Vec::new(),
        };
        let outcome = change(&mut edit)?;
        (outcome, edit.changes)
    };
    if changes.is_empty() {
        tx.abort()?;
    } else {
        tx.commit()?;
    }
    Ok((outcome, changes))
}
