//! Agents for async callers: coming aboard, keys and tokens, and what each may do.
//!
//! The store blocks, so it works behind a [`Gate`]. Who asks is told from memory, on the spot: a
//! key by its hash, a capability token by its MAC. What an agent may do is what it was granted, cut
//! to its tier, to the tiers of its owner's plan as it is now, and to its token.

mod lives;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    path::Path,
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use aither_ledger::AccountId;
use aither_protocol::{
    AgentCard, Amount, CapabilitySet, CapabilityToken, Caveat, Plan, TokenId, sign_card,
};
use ed25519_dalek::SigningKey;
use serde_json::Value;
use zeroize::Zeroizing;

use super::{
    AccountService,
    agent_health::AgentHealth,
    events::EventService,
    gate::{Gate, GateError},
    outbound::Targets,
    workspaces::WorkspaceService,
};
use crate::{
    accounts::{self, AGENT_KEY_PREFIX, KeyRefusal, StoreError, key_hash, new_id, unix_ms},
    agents::{
        Agent, AgentCaller, AgentError, AgentFilter, AgentId, AgentKey, AgentStore, AuditEntry,
        CardChange, Listing, Mode, NewAgent, Onboarded, Rank, SkillSummary, TORN_DOWN_MAX,
        TokenGrant, TokenRefusal, granted,
    },
    billing::OPERATOR,
    identity::NodeIdentity,
    memory::{MemoryStore, Owner},
    workspaces::Holder,
};

/// Uses of the store at once. They take turns at its lock, so more would only hold threads.
const STORE_USES_MAX: usize = 2;
/// Uses of the store that wait: as many as there are connections in the default configuration.
const STORE_USES_WAITING_MAX: usize = 512;
/// Whose agents somebody may manage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authority {
    /// Everybody's.
    Operator,
    /// An account's.
    Account(AccountId),
    /// Its own.
    Agent(AgentId),
}

impl Authority {
    /// Returns the rank that goes with it.
    pub fn rank(self) -> Rank {
        match self {
            Self::Operator | Self::Account(OPERATOR) => Rank::Operator,
            Self::Account(_) => Rank::Owner,
            Self::Agent(_) => Rank::Agent,
        }
    }
}

/// What a sub-agent is given.
#[derive(Debug, Clone, Default)]
pub struct SpawnTerms {
    /// What it may do.
    pub capabilities: CapabilitySet,
    /// Further bounds.
    pub caveats: Vec<Caveat>,
}

/// A sub-agent's token.
pub struct Spawned {
    /// Its text, shown this once.
    pub text: Zeroizing<String>,
    /// Its number, by which it is revoked.
    pub number: u128,
}

/// Without the token.
impl fmt::Debug for Spawned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spawned")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

/// The agents of this node; clones share it.
#[derive(Debug, Clone)]
pub struct AgentService {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Arc<AgentStore>,
    accounts: AccountService,
    signing_key: SigningKey,
    /// The node's id, which its signatures name.
    node: String,
    storing: Gate,
    /// Lists are read past the writers, who wait for the disk.
    reading: Gate,
    /// What agents remember, to be forgotten with them.
    memory: Option<MemoryStore>,
    /// Their files, likewise.
    files: OnceLock<WorkspaceService>,
    /// What was told of them, likewise.
    events: EventService,
    /// Held while agents are purged, which is done in several steps.
    purging: tokio::sync::Mutex<()>,
    health: AgentHealth,
}

impl AgentService {
    /// Opens the store at `path`. Blocks.
    ///
    /// # Errors
    /// The store's.
    pub fn open(
        path: &Path,
        accounts: AccountService,
        identity: &NodeIdentity,
        targets: Targets,
        memory: Option<MemoryStore>,
        events: EventService,
    ) -> Result<Self, StoreError> {
        let store = Arc::new(AgentStore::open(path, SystemTime::now())?);
        let health = AgentHealth::new(Arc::clone(&store), targets, events.clone())?;
        Ok(Self {
            shared: Arc::new(Shared {
                store,
                accounts,
                signing_key: identity.signing_key().clone(),
                node: identity.id().to_string(),
                storing: Gate::new(STORE_USES_MAX, STORE_USES_WAITING_MAX),
                reading: Gate::new(STORE_USES_MAX, STORE_USES_WAITING_MAX),
                memory,
                files: OnceLock::new(),
                events,
                purging: tokio::sync::Mutex::default(),
                health,
            }),
        })
    }

    /// Has files of agents be forgotten with them. They are opened after this service, which knows
    /// whose they are.
    pub fn forget_files_of(&self, files: WorkspaceService) {
        // The first stay: there is one data directory.
        let _ = self.shared.files.set(files);
    }

    /// Returns the agent whose key this is. Takes some microseconds and touches no disk.
    ///
    /// # Errors
    /// It is nobody's, or its owner is switched off.
    pub fn authenticate(&self, key: &str) -> Result<AgentCaller, KeyRefusal> {
        let hash = key_hash(AGENT_KEY_PREFIX, key).ok_or(KeyRefusal::Unknown)?;
        let agent = self.shared.store.directory().by_key(&hash);
        self.caller(agent.ok_or(KeyRefusal::Unknown)?)
    }

    /// Returns the agent that a capability token speaks for, with what the token leaves.
    ///
    /// # Errors
    /// The token is not this node's, is over, or was revoked.
    pub fn authenticate_token(&self, text: &str) -> Result<AgentCaller, TokenRefusal> {
        let signed = CapabilityToken::parse(text).map_err(TokenRefusal::Invalid)?;
        let directory = self.shared.store.directory();
        let key = directory.root_key(signed.id().key_id);
        let key = key.ok_or(TokenRefusal::Unknown)?;
        let grant = signed.verify(&key).map_err(TokenRefusal::Invalid)?;
        let now_ms = unix_ms(SystemTime::now());
        if grant.is_expired(now_ms) {
            return Err(TokenRefusal::Expired);
        }
        let agent = directory.agent(AgentId::from_u128(grant.id.agent));
        let agent = agent.ok_or(TokenRefusal::Unknown)?;
        let minted_ms = ulid::Ulid(grant.id.serial).timestamp_ms();
        if minted_ms < agent.tokens_since_ms || directory.is_revoked(agent.id, &grant.ids) {
            return Err(TokenRefusal::Revoked);
        }
        let caller = self.caller(agent).map_err(|_| TokenRefusal::Unknown)?;
        Ok(caller.with_token(TokenGrant { signed, grant }))
    }

    fn caller(&self, agent: Arc<Agent>) -> Result<AgentCaller, KeyRefusal> {
        if agent.is_torn_down {
            return Err(KeyRefusal::Unknown);
        }
        let plan = match agent.owner {
            OPERATOR => Plan::Enterprise,
            owner => {
                let owner = accounts::AccountId::from_u128(owner.0);
                self.shared.accounts.plan_of(owner)?
            }
        };
        Ok(agent.caller(plan))
    }

    /// Takes an agent aboard for an account, and asks for its health at once where it has an
    /// address.
    ///
    /// # Errors
    /// The card is wrong or asks for too much, the name is taken, or the store fails.
    pub async fn onboard(
        &self,
        (owner, plan): (AccountId, Plan),
        card: &Value,
        mode: Mode,
    ) -> Result<Onboarded, AgentError> {
        if mode == Mode::Managed {
            return Err(AgentError::ManagedNotAvailable);
        }
        let card = AgentCard::from_json(card).map_err(AgentError::InvalidCard)?;
        let (signed_card, granted) = self.accept(&card, plan)?;
        let agents_max = plan.agents_max();
        let onboarded = self
            .store(move |store| {
                let new = NewAgent {
                    owner,
                    by: Authority::Account(owner).rank(),
                    agents_max,
                    card: &card,
                    signed_card,
                    mode,
                    granted,
                };
                store.onboard(&new, SystemTime::now())
            })
            .await??;
        let id = onboarded.agent.id;
        tracing::info!(agent = %id, name = %onboarded.agent.name, "aboard");
        self.shared.health.begin_anew(id);
        self.settle(id).await;
        Ok(Onboarded {
            agent: self.agent(id)?,
            ..onboarded
        })
    }

    /// Replaces an agent's card by a newer one. With `asks`, the agent itself wants it so.
    ///
    /// # Errors
    /// As [`onboard`](Self::onboard), or the key that asked has ended.
    pub async fn update_card(
        &self,
        agent: &Agent,
        card: &Value,
        asks: Option<&AgentCaller>,
    ) -> Result<Arc<Agent>, AgentError> {
        let card = AgentCard::from_json(card).map_err(AgentError::InvalidCard)?;
        let plan = self.plan_of(agent.owner);
        let (signed_card, granted) = self.accept(&card, plan)?;
        let id = agent.id;
        let keys_since_ms = asks.map(|caller| caller.agent.tokens_since_ms);
        self.store(move |store| {
            let change = CardChange {
                card: &card,
                signed_card,
                granted,
                keys_since_ms,
            };
            store.update_card(id, &change, SystemTime::now())
        })
        .await??;
        self.settle(id).await;
        self.agent(id)
    }

    /// Returns the plan of an account that has agents.
    pub fn plan_of(&self, owner: AccountId) -> Plan {
        let account = accounts::AccountId::from_u128(owner.0);
        // Of an owner who is switched off or gone nothing more is allowed than of the smallest.
        match owner {
            OPERATOR => Plan::Enterprise,
            _ => self
                .shared
                .accounts
                .plan_of(account)
                .unwrap_or(Plan::Explorer),
        }
    }

    /// Checks what a card asks for, and signs it.
    fn accept(&self, card: &AgentCard, plan: Plan) -> Result<(String, CapabilitySet), AgentError> {
        let tier = card.billing.category;
        if plan.tier_max() < tier {
            return Err(AgentError::PlanForbids { plan, tier });
        }
        let forbidden = card.capabilities.difference(tier.capabilities());
        if !forbidden.is_empty() && !card.partial {
            return Err(AgentError::TierForbids {
                tier,
                capabilities: forbidden.iter().collect(),
            });
        }
        if let Some(url) = &card.agent_url {
            let targets = self.shared.health.targets();
            targets.check(url.as_str()).map_err(AgentError::Address)?;
        }
        let shared = &self.shared;
        let signed = sign_card(&card.to_json(), &shared.signing_key, &shared.node)
            .map_err(|error| AgentError::Internal(error.to_string()))?;
        Ok((signed.to_string(), granted(card)))
    }

    /// Returns an agent that somebody may manage.
    ///
    /// # Errors
    /// There is none of that name or id, or it is another's, which is not told apart.
    pub fn managed(&self, authority: Authority, name: &str) -> Result<Arc<Agent>, AgentError> {
        let directory = self.shared.store.directory();
        let found = directory.by_name(name).or_else(|| {
            let id = name.parse().ok()?;
            directory.agent(id)
        });
        let may = |agent: &Agent| match authority {
            Authority::Operator => true,
            Authority::Account(owner) => agent.owner == owner,
            Authority::Agent(id) => agent.id == id,
        };
        found
            .filter(|agent| may(agent))
            .ok_or_else(|| AgentError::Unknown(name.to_owned()))
    }

    /// Returns the account that an agent belongs to, whether it is aboard or was.
    pub fn owner_of(&self, id: AgentId) -> Option<AccountId> {
        let agent = self.shared.store.directory().agent(id);
        agent.map(|agent| agent.owner)
    }

    /// Returns how agents fare.
    pub fn health(&self) -> &AgentHealth {
        &self.shared.health
    }

    /// Returns which addresses agents may have.
    pub fn targets(&self) -> Targets {
        self.shared.health.targets()
    }

    /// Returns an agent by name, whoever asks.
    pub fn by_name(&self, name: &str) -> Option<Arc<Agent>> {
        self.shared.store.directory().by_name(name)
    }

    /// Returns agents in the order of their ids; of those that were torn down none, unless they
    /// are asked for.
    pub fn find(&self, filter: &AgentFilter) -> Vec<Arc<Agent>> {
        self.shared.store.directory().find(filter)
    }

    /// Returns the skills of agents, in their order.
    ///
    /// # Errors
    /// The store fails.
    pub async fn skills_of(&self, ids: Vec<AgentId>) -> Result<Vec<Vec<SkillSummary>>, AgentError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let shared = Arc::clone(&self.shared);
        let reading = self.shared.reading.run(move || shared.store.skills(&ids));
        reading.await.map_err(gate_error)?
    }

    /// Offers an agent, or changes its offer. Returns whether it was not offered before.
    ///
    /// # Errors
    /// It was torn down, or the store fails.
    pub async fn list(
        &self,
        id: AgentId,
        price: Amount,
        description: Option<String>,
    ) -> Result<bool, AgentError> {
        self.store(move |store| store.list(id, price, description.as_deref(), SystemTime::now()))
            .await?
    }

    /// Takes an offer back. Returns whether there was one.
    ///
    /// # Errors
    /// The store fails.
    pub async fn unlist(&self, id: AgentId) -> Result<bool, AgentError> {
        self.store(move |store| store.unlist(id, SystemTime::now()))
            .await?
    }

    /// Returns how an agent is offered, if it is.
    pub fn listing(&self, id: AgentId) -> Option<Arc<Listing>> {
        self.shared.store.directory().listing(id)
    }

    /// Returns what a call of an agent costs: as it is offered, else as its card says.
    pub fn price_of(&self, agent: &Agent) -> Amount {
        let listing = self.listing(agent.id);
        let of_card = || Amount::from_tokens(u64::from(agent.price));
        listing.map_or_else(of_card, |listing| listing.price)
    }

    /// Returns all agents that are offered.
    pub fn offered(&self) -> Vec<(Arc<Agent>, Arc<Listing>)> {
        self.shared.store.directory().offered()
    }

    /// Returns how many agents there are.
    pub fn count(&self) -> usize {
        self.shared.store.directory().len()
    }

    /// Returns the ids of the most common skills, with how many agents can be asked for each.
    pub fn skills(&self, count_max: usize) -> Vec<(String, usize)> {
        self.shared.store.directory().skills(count_max)
    }

    /// Mints a capability token for all that an agent was granted.
    ///
    /// # Errors
    /// There is no root key or no randomness: a defect, or the machine's.
    pub fn mint(&self, agent: &Agent) -> Result<Zeroizing<String>, AgentError> {
        let caveats = [
            Caveat::Capabilities(agent.granted),
            Caveat::Tier(agent.tier),
        ];
        Ok(self.mint_with(agent, &caveats)?.text)
    }

    /// Gives a sub-agent a token of its own: narrower than what its parent came with.
    ///
    /// # Errors
    /// It asks for more than the parent may, or for what no token can say.
    pub fn spawn(&self, parent: &AgentCaller, terms: &SpawnTerms) -> Result<Spawned, AgentError> {
        let spawned = self.spawn_for(parent, terms)?;
        // The request may have been held open while keys were rotated. Asked after the minting:
        // what is rotated from now on ends this token, too.
        let agent = self.agent(parent.agent.id)?;
        if agent.is_torn_down || agent.tokens_since_ms != parent.agent.tokens_since_ms {
            return Err(AgentError::KeyEnded);
        }
        Ok(spawned)
    }

    fn spawn_for(&self, parent: &AgentCaller, terms: &SpawnTerms) -> Result<Spawned, AgentError> {
        let wider = terms.capabilities.difference(parent.capabilities);
        if !wider.is_empty() {
            return Err(AgentError::Wider(wider.iter().collect()));
        }
        let mut caveats = vec![
            Caveat::Capabilities(terms.capabilities),
            Caveat::Tier(parent.tier),
        ];
        let Some(token_grant) = &parent.token_grant else {
            caveats.extend(terms.caveats.iter().cloned());
            return self.mint_with(&parent.agent, &caveats);
        };
        let number = new_id(SystemTime::now())?.0;
        // Before a bound on spending, so that it is this sub-agent's own.
        caveats.insert(0, Caveat::Id(number));
        caveats.extend(terms.caveats.iter().cloned());
        let text = token_grant.signed.narrow(&caveats)?.to_text();
        Ok(Spawned { text, number })
    }

    fn mint_with(&self, agent: &Agent, caveats: &[Caveat]) -> Result<Spawned, AgentError> {
        let minting = self.shared.store.directory().minting_key();
        let (key_id, key) =
            minting.ok_or_else(|| AgentError::Internal("there is no root key".into()))?;
        // Within the millisecond in which keys were rotated, the clock says that it is void.
        let minted = SystemTime::now().max(accounts::time_of(agent.tokens_since_ms));
        let serial = new_id(minted)?.0;
        let id = TokenId {
            key_id,
            serial,
            agent: agent.id.as_u128(),
        };
        let text = CapabilityToken::mint(&key, id, caveats)?.to_text();
        Ok(Spawned {
            text,
            number: serial,
        })
    }

    /// Gives an agent a new key; older ones and all its tokens die.
    ///
    /// # Errors
    /// The store fails.
    pub async fn rotate_keys(&self, id: AgentId) -> Result<AgentKey, AgentError> {
        self.store(move |store| store.rotate_keys(id, SystemTime::now()))
            .await?
    }

    /// Ends an agent; purged, nothing of it is left.
    ///
    /// # Errors
    /// The store's.
    pub async fn tear_down(&self, id: AgentId, by: Rank, purge: bool) -> Result<(), AgentError> {
        match (self.shared.memory.clone(), purge) {
            (Some(memory), true) => self.purge(memory, id, by).await?,
            (Some(memory), false) => self.end(memory, id, by).await?,
            (None, _) => {
                self.store(move |store| store.tear_down(id, by, purge, SystemTime::now()))
                    .await??;
            }
        }
        self.shared.health.place(id);
        tracing::info!(agent = %id, purge, "torn down");
        Ok(())
    }

    /// Ends an agent that is kept, with its memory, for when it comes back.
    async fn end(&self, memory: MemoryStore, id: AgentId, by: Rank) -> Result<(), AgentError> {
        // Else another's purge could execute what is only noted here, and is taken back.
        let _purging = self.shared.purging.lock().await;
        let noted = memory.clone();
        let is_forgotten = self.store(move |store| end_kept(store, &noted, id, by));
        match is_forgotten.await?? {
            true => self.forget(memory).await,
            false => Ok(()),
        }
    }

    /// Leaves nothing of an agent and its memory.
    async fn purge(&self, memory: MemoryStore, id: AgentId, by: Rank) -> Result<(), AgentError> {
        let _purging = self.shared.purging.lock().await;
        let name = self.agent(id)?.name.clone();
        let noted = memory.clone();
        self.store(move |store| {
            let now = SystemTime::now();
            match store.directory().agent(id) {
                None => return Err(AgentError::Unknown(id.to_string())),
                Some(known) => match known.suspended_by {
                    Some(suspended_by) if by < suspended_by => {
                        return Err(AgentError::SuspendedBy(suspended_by));
                    }
                    _ => {}
                },
            }
            // First, so that a crash from here on leaves nothing of it either: the next start
            // finds the note.
            let owner = Owner::Agent(id.as_u128());
            noted.begin_purge(owner, unix_ms(now))?;
            store.tear_down(id, by, true, now).inspect_err(|_| {
                // It stays, with its memory. Where this fails too the next start decides.
                let _ = noted.cancel_purge(owner, unix_ms(now));
            })
        })
        .await??;
        // What a crash leaves of them goes with the log's oldest.
        if let Err(error) = self.shared.events.forget_agent(&name).await {
            tracing::warn!(%error, "events of an agent that was purged are still there");
        }
        self.forget(memory).await
    }

    /// Ends what purges have left undone that were cut off, or found no room.
    pub async fn finish_purges(&self) {
        let Some(memory) = self.shared.memory.clone() else {
            return;
        };
        let _purging = self.shared.purging.lock().await;
        let owners = memory.unfinished_purges().unwrap_or_default();
        if owners.is_empty() {
            return;
        }
        let noted = memory.clone();
        let ended = self.store(move |store| {
            let mut agents = owners.into_iter().filter_map(|owner| match owner {
                Owner::Agent(id) => Some(AgentId::from_u128(id)),
                _ => None,
            });
            agents.try_for_each(|id| end_purged(store, &noted, id))
        });
        let ended = match ended.await {
            Ok(Ok(())) => self.forget(memory).await,
            Ok(Err(error)) | Err(error) => Err(error),
        };
        if let Err(error) = ended {
            tracing::warn!(%error, "memory of agents that have left is still there");
        }
    }

    /// Leaves nothing of the files and the memory of those of whom that is noted. Files go first:
    /// the note is in memory's file, and whatever it names is done again after a crash.
    async fn forget(&self, memory: MemoryStore) -> Result<(), AgentError> {
        let now_ms = unix_ms(SystemTime::now());
        let files = self.shared.files.get().cloned();
        // Both may be large.
        let forgetting = tokio::task::spawn_blocking(move || {
            for owner in memory.unfinished_purges()? {
                if let (Some(files), Owner::Agent(id)) = (&files, owner) {
                    let removed = files.remove(Holder::Agent(id));
                    removed.map_err(|error| AgentError::Internal(error.to_string()))?;
                }
            }
            Ok(memory.purge(now_ms)?)
        });
        let panicked = |_| AgentError::Internal("forgetting an agent panicked".into());
        forgetting.await.map_err(panicked)?
    }

    /// Makes a token void, and all that were narrowed from it.
    ///
    /// # Errors
    /// The store fails.
    pub async fn revoke_token(&self, id: AgentId, number: u128) -> Result<(), AgentError> {
        self.store(move |store| store.revoke_token(id, number, SystemTime::now()))
            .await?
    }

    /// Has tokens minted with a new root key from now on.
    ///
    /// # Errors
    /// The store fails.
    pub async fn rotate_root_key(&self) -> Result<u32, AgentError> {
        Ok(self
            .store(move |store| store.rotate_root_key(SystemTime::now()))
            .await??)
    }

    /// Returns an agent's card, signed by this node.
    ///
    /// # Errors
    /// The store fails.
    pub async fn card(&self, id: AgentId) -> Result<Value, AgentError> {
        let card = self.store(move |store| store.card(id)).await??;
        serde_json::from_str(&card).map_err(|error| AgentError::Internal(error.to_string()))
    }

    /// Returns what happened to an agent, the newest first.
    ///
    /// # Errors
    /// The store fails.
    pub async fn audit(&self, id: AgentId, count: usize) -> Result<Vec<AuditEntry>, AgentError> {
        self.store(move |store| store.audit(id, count)).await?
    }

    /// Writes a copy of the store, in a file that is not there yet.
    ///
    /// # Errors
    /// The store's.
    pub async fn copy_to(&self, path: std::path::PathBuf) -> Result<(), AgentError> {
        Ok(self.store(move |store| store.copy_to(&path)).await??)
    }

    fn agent(&self, id: AgentId) -> Result<Arc<Agent>, AgentError> {
        let agent = self.shared.store.directory().agent(id);
        agent.ok_or_else(|| AgentError::Unknown(id.to_string()))
    }

    async fn store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&AgentStore) -> T + Send + 'static,
    ) -> Result<T, AgentError> {
        let shared = Arc::clone(&self.shared);
        let running = self.shared.storing.run(move || work(&shared.store));
        running.await.map_err(gate_error)
    }
}

fn gate_error(error: GateError) -> AgentError {
    match error {
        GateError::Full { retry_after } => AgentError::Overloaded { retry_after },
        GateError::Panicked => AgentError::Internal("work on an agent panicked".into()),
    }
}

/// Ends an agent that is kept, and returns whether another is forgotten for it: of those who have
/// left only so many are kept, and nothing of the others.
fn end_kept(
    store: &AgentStore,
    noted: &MemoryStore,
    id: AgentId,
    by: Rank,
) -> Result<bool, AgentError> {
    let now = SystemTime::now();
    let directory = store.directory();
    let (left, first) = match directory.agent(id) {
        Some(agent) => directory.left_of(agent.owner),
        None => (0, None),
    };
    let Some(first) = first.filter(|_| left >= TORN_DOWN_MAX) else {
        store.tear_down(id, by, false, now)?;
        return Ok(false);
    };
    // First, so that a crash from here on leaves nothing of its memory: it counts against its
    // owner's quota, and nobody could reach it any more.
    let owner = Owner::Agent(first.id.as_u128());
    noted.begin_purge(owner, unix_ms(now))?;
    let ended = store.tear_down(id, by, false, now);
    let is_forgotten = directory.agent(first.id).is_none();
    if !is_forgotten {
        // It came back meanwhile, or this one had left before.
        noted.cancel_purge(owner, unix_ms(now))?;
    }
    ended.map(|()| is_forgotten)
}

/// Ends an agent whose purge was cut off. Who had asked for it is not known any more, so one that
/// somebody has set aside stays, with its memory.
fn end_purged(store: &AgentStore, noted: &MemoryStore, id: AgentId) -> Result<(), AgentError> {
    let now = SystemTime::now();
    match store.tear_down(id, Rank::Agent, true, now) {
        Err(AgentError::SuspendedBy(_)) => {
            Ok(noted.cancel_purge(Owner::Agent(id.as_u128()), unix_ms(now))?)
        }
        Err(AgentError::Unknown(_)) => Ok(()),
        ended => ended,
    }
}
