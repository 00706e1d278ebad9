//! The agents' store on real files: who comes aboard, what ends, what survives and what is left.

mod lives;

use std::{fs, path::PathBuf, sync::Barrier, time::Duration};

use aither_protocol::{Capability, ErrorCode};
use rand::{RngExt, SeedableRng};
use redb::{Database, ReadableTableMetadata};
use serde_json::json;

use super::*;
use crate::accounts::key_hash;

const ANN: AccountId = AccountId(1);
const BOB: AccountId = AccountId(2);

pub(in crate::agents) struct Home {
    directory: tempfile::TempDir,
    pub(in crate::agents) store: AgentStore,
}

pub(in crate::agents) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

pub(in crate::agents) fn home() -> Home {
    let directory = tempfile::tempdir().unwrap();
    let store = AgentStore::open(&directory.path().join("registry.redb"), now()).unwrap();
    Home { directory, store }
}

impl Home {
    pub(in crate::agents) fn path(&self) -> PathBuf {
        self.directory.path().join("registry.redb")
    }

    fn reopened(self) -> Self {
        let path = self.path();
        let Self { directory, store } = self;
        drop(store);
        let store = AgentStore::open(&path, now()).unwrap();
        Self { directory, store }
    }
}

fn card(name: &str, version: &str) -> AgentCard {
    AgentCard::from_json(&json!({
        "name": name,
        "version": version,
        "description": "looks things up",
        "skills": [{ "id": "research", "name": "Research", "description": "on any topic" }],
        "endpoints": [
            { "path": "/chat", "method": "POST", "description": "chat" },
            { "path": "/health", "method": "GET", "description": "health" },
        ],
        "capabilities_requested": ["llm_inference"],
        "billing": { "token_cost_per_request": 3, "category": "agent" },
        "health_endpoint": "/health",
    }))
    .unwrap()
}

fn granted() -> CapabilitySet {
    CapabilitySet::EMPTY.with(Capability::LlmInference)
}

fn onboard_within(
    store: &AgentStore,
    owner: AccountId,
    card: &AgentCard,
    agents_max: Option<u32>,
) -> Result<Onboarded, AgentError> {
    let new = NewAgent {
        owner,
        by: Rank::Owner,
        agents_max,
        card,
        signed_card: card.to_json().to_string(),
        mode: Mode::Hybrid,
        granted: granted(),
    };
    store.onboard(&new, now())
}

pub(in crate::agents) fn onboard(store: &AgentStore, name: &str, version: &str) -> Onboarded {
    onboard_within(store, ANN, &card(name, version), None).unwrap()
}

fn update(store: &AgentStore, id: AgentId, card: &AgentCard) -> Result<Arc<Agent>, AgentError> {
    let change = CardChange {
        card,
        signed_card: card.to_json().to_string(),
        granted: granted(),
        keys_since_ms: None,
    };
    store.update_card(id, &change, now())
}

/// Returns whose key it is.
pub(super) fn holder(store: &AgentStore, key: &AgentKey) -> Option<AgentId> {
    let hash = key_hash(AGENT_KEY_PREFIX, key.0.reveal()).unwrap();
    store.directory().by_key(&hash).map(|agent| agent.id)
}

/// Returns how many rows of agents, keys, revoked tokens and audit there are; an agent has one of
/// each other kind that has one.
fn rows(store: &AgentStore) -> [u64; 4] {
    let count = |tables: &ReadTables| {
        Ok([
            tables.agents.len()?,
            tables.keys.len()?,
            tables.revoked.len()?,
            tables.audit.len()?,
        ])
    };
    let states = store.read(|tables| Ok([tables.cards.len()?, tables.states.len()?]));
    let agents = store.read(|tables| Ok(tables.agents.len()?)).unwrap();
    assert_eq!(states.unwrap(), [agents, agents]);
    store.read(count).unwrap()
}

fn code<T: std::fmt::Debug>(result: Result<T, AgentError>) -> ErrorCode {
    result.unwrap_err().code()
}

#[test]
fn an_agent_comes_aboard_and_comes_again_with_the_same_or_a_higher_version() {
    let Home { store, .. } = &home();
    let first = onboard(store, "bot", "1.0.0");
    assert!(first.is_new);
    assert_eq!(first.agent.state, AgentState::Live);
    for version in ["1.0.0", "1.0.1-rc.1", "1.0.1"] {
        let again = onboard(store, "bot", version);
        assert!(!again.is_new, "{version}");
        assert_eq!(again.agent.id, first.agent.id);
        assert_eq!(&*again.agent.version, version);
        assert_eq!(holder(store, &again.key), Some(first.agent.id));
    }
    assert_eq!(again_is_refused(store, "1.0.1-rc.2"), ErrorCode::Conflict);
    assert_eq!(again_is_refused(store, "1.0.0"), ErrorCode::Conflict);
    assert_eq!(&*store.agent(first.agent.id).unwrap().version, "1.0.1");
    assert_eq!(holder(store, &first.key), Some(first.agent.id));
    assert_eq!(rows(store)[0], 1);
}

fn again_is_refused(store: &AgentStore, version: &str) -> ErrorCode {
    code(onboard_within(store, ANN, &card("bot", version), None))
}

#[test]
fn build_metadata_has_no_place_in_the_order_of_versions() {
    let Home { store, .. } = &home();
    let id = onboard(store, "bot", "1.0.0+zeta").agent.id;
    assert!(!onboard(store, "bot", "1.0.0+alpha").is_new);
    // An update must rise, and another build of a version is no rise.
    let update = update(store, id, &card("bot", "1.0.0+zzz"));
    assert_eq!(code(update), ErrorCode::Conflict);
}

#[test]
fn a_name_belongs_to_its_owner_whatever_became_of_the_agent() {
    let Home { store, .. } = &home();
    let id = onboard(store, "bot", "1.0.0").agent.id;
    let by_bob = || onboard_within(store, BOB, &card("bot", "9.0.0"), None);
    assert!(matches!(by_bob(), Err(AgentError::NameTaken(name)) if name == "bot"));
    store.tear_down(id, Rank::Owner, false, now()).unwrap();
    assert_eq!(code(by_bob()), ErrorCode::Conflict);
    store.tear_down(id, Rank::Owner, true, now()).unwrap();
    let theirs = by_bob().unwrap();
    assert!(theirs.is_new && theirs.agent.id != id);
}

#[test]
fn of_owners_who_want_one_name_at_once_exactly_one_gets_it() {
    let Home { store, .. } = &home();
    let barrier = Barrier::new(8);
    let won: usize = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..8)
            .map(|owner| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    match onboard_within(store, AccountId(owner), &card("bot", "1.0.0"), None) {
                        Ok(_) => 1,
                        Err(AgentError::NameTaken(_)) => 0,
                        Err(error) => panic!("{error}"),
                    }
                })
            })
            .collect();
        asking.into_iter().map(|asked| asked.join().unwrap()).sum()
    });
    assert_eq!((won, rows(store)), (1, [1, 1, 0, 1]));
}

#[test]
fn of_one_owners_many_at_once_no_more_come_aboard_than_the_plan_allows() {
    let Home { store, .. } = &home();
    let barrier = Barrier::new(8);
    let won: usize = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..8)
            .map(|n| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    let card = card(&format!("bot{n}"), "1.0.0");
                    usize::from(onboard_within(store, ANN, &card, Some(5)).is_ok())
                })
            })
            .collect();
        asking.into_iter().map(|asked| asked.join().unwrap()).sum()
    });
    assert_eq!((won, rows(store)[0]), (5, 5));
}

#[test]
fn agents_that_were_torn_down_leave_room_and_suspended_ones_do_not() {
    let Home { store, .. } = &home();
    let one = |name| onboard_within(store, ANN, &card(name, "1.0.0"), Some(1));
    let a = one("a").unwrap().agent.id;
    assert_eq!(code(one("b")), ErrorCode::PlanLimit);
    assert!(one("a").is_ok(), "one that is aboard is not one more");
    store.suspend(a, Rank::Owner, now()).unwrap();
    assert_eq!(code(one("b")), ErrorCode::PlanLimit);
    store.tear_down(a, Rank::Owner, false, now()).unwrap();
    let b = one("b").unwrap().agent.id;
    // What left room takes it again when it comes back.
    assert_eq!(code(one("a")), ErrorCode::PlanLimit);
    store.tear_down(b, Rank::Owner, false, now()).unwrap();
    assert!(!one("a").unwrap().is_new);
    assert!(onboard_within(store, BOB, &card("c", "1.0.0"), Some(1)).is_ok());
}

#[test]
fn an_agent_has_five_keys_of_which_the_oldest_die() {
    let home = home();
    let keys: Vec<_> = (0..7)
        .map(|n| {
            let at = now() + Duration::from_millis(n);
            let card = card("bot", "1.0.0");
            let new = NewAgent {
                owner: ANN,
                by: Rank::Owner,
                agents_max: None,
                card: &card,
                signed_card: card.to_json().to_string(),
                mode: Mode::Remote,
                granted: granted(),
            };
            home.store.onboard(&new, at).unwrap().key
        })
        .collect();
    let work = |store: &AgentStore| -> Vec<bool> {
        keys.iter()
            .map(|key| holder(store, key).is_some())
            .collect()
    };
    let expected = [false, false, true, true, true, true, true];
    assert_eq!(work(&home.store), expected);
    assert_eq!(rows(&home.store)[1], 5);
    let home = home.reopened();
    assert_eq!(work(&home.store), expected);
    // The order of their ages survived too.
    onboard(&home.store, "bot", "1.0.0");
    assert_eq!(rows(&home.store)[1], 5);
}

#[test]
fn a_new_card_rises_and_keeps_the_name() {
    let Home { store, .. } = &home();
    let id = onboard(store, "bot", "1.0.0").agent.id;
    for version in ["1.0.0", "0.9.0", "1.0.0-rc.1"] {
        let error = update(store, id, &card("bot", version)).unwrap_err();
        assert!(error.to_string().contains("above 1.0.0"), "{error}");
    }
    let other = update(store, id, &card("bat", "2.0.0"));
    assert_eq!(code(other), ErrorCode::ValidationFailed);
    let updated = update(store, id, &card("bot", "1.0.1")).unwrap();
    assert_eq!(&*updated.version, "1.0.1");
    assert!(store.card(id).unwrap().contains("\"1.0.1\""));
    let nobody = AgentId::from_u128(7);
    let unknown = update(store, nobody, &card("bot", "3.0.0"));
    assert_eq!(code(unknown), ErrorCode::UnknownAgent);
}

#[test]
fn rotating_ends_older_keys_and_tokens_and_makes_room_for_revoking() {
    let home = home();
    let first = onboard(&home.store, "bot", "1.0.0");
    let id = first.agent.id;
    home.store.revoke_token(id, 17, now()).unwrap();
    let key = home.store.rotate_keys(id, now()).unwrap();
    let check = |store: &AgentStore| {
        assert_eq!(holder(store, &first.key), None);
        assert_eq!(holder(store, &key), Some(id));
        let agent = store.agent(id).unwrap();
        assert_eq!(agent.tokens_since_ms, unix_ms(now()) + 1);
        assert!(!store.directory().is_revoked(id, &[17]), "void already");
        assert_eq!(rows(store), [1, 1, 0, 3]);
    };
    check(&home.store);
    check(&home.reopened().store);
}

#[test]
fn a_suspended_agent_is_set_aside_until_it_is_resumed_or_comes_again() {
    let home = home();
    let id = onboard(&home.store, "bot", "1.0.0").agent.id;
    let aside = home.store.suspend(id, Rank::Owner, now()).unwrap();
    assert!(aside.is_suspended() && aside.state == AgentState::Stop);
    assert!(!aside.is_torn_down);
    let updated = update(&home.store, id, &card("bot", "1.1.0")).unwrap();
    assert!(updated.is_suspended() && updated.state == AgentState::Stop);
    let home = home.reopened();
    assert!(home.store.agent(id).unwrap().is_suspended());
    let back = home.store.resume(id, Rank::Owner, now()).unwrap();
    assert!(!back.is_suspended() && back.state == AgentState::Live);
    home.store.suspend(id, Rank::Owner, now()).unwrap();
    let again = onboard(&home.store, "bot", "1.1.0").agent;
    assert!(!again.is_suspended());
    assert_eq!(again.state, AgentState::Live);
}

#[test]
fn doing_twice_what_is_done_changes_nothing() {
    let Home { store, .. } = &home();
    let id = onboard(store, "bot", "1.0.0").agent.id;
    store.resume(id, Rank::Owner, now()).unwrap();
    store.suspend(id, Rank::Owner, now()).unwrap();
    store.suspend(id, Rank::Owner, now()).unwrap();
    let entries = store.audit(id, 10).unwrap();
    let actions: Vec<_> = entries.iter().map(|entry| &*entry.action).collect();
    assert_eq!(actions, ["suspended", "onboarded"]);
}

#[test]
fn a_torn_down_agent_keeps_its_name_and_nothing_revives_it_but_its_owner() {
    let home = home();
    let first = onboard(&home.store, "bot", "1.2.0");
    let id = first.agent.id;
    home.store.tear_down(id, Rank::Owner, false, now()).unwrap();
    let home = home.reopened();
    let store = &home.store;
    assert!(store.agent(id).unwrap().is_torn_down);
    assert_eq!(holder(store, &first.key), None);
    assert_eq!(code(store.rotate_keys(id, now())), ErrorCode::Conflict);
    assert_eq!(
        code(store.suspend(id, Rank::Owner, now())),
        ErrorCode::Conflict
    );
    assert_eq!(
        code(store.resume(id, Rank::Owner, now())),
        ErrorCode::Conflict
    );
    let newer = update(store, id, &card("bot", "2.0.0"));
    assert!(matches!(newer, Err(AgentError::TornDown(_))), "{newer:?}");
    assert!(store.agent(id).unwrap().is_torn_down);
    assert_eq!(again_is_refused(store, "1.1.0"), ErrorCode::Conflict);
    let back = onboard(store, "bot", "1.2.0");
    assert_eq!((back.agent.id, back.is_new), (id, false));
    assert_eq!(back.agent.state, AgentState::Live);
}

#[test]
fn of_a_purged_agent_nothing_is_left() {
    let home = home();
    let other = onboard(&home.store, "other", "1.0.0");
    home.store.revoke_token(other.agent.id, 5, now()).unwrap();
    let before = rows(&home.store);
    let first = onboard(&home.store, "bot", "1.0.0");
    let id = first.agent.id;
    home.store.revoke_token(id, 17, now()).unwrap();
    home.store.suspend(id, Rank::Owner, now()).unwrap();
    home.store.tear_down(id, Rank::Owner, true, now()).unwrap();
    let check = |store: &AgentStore| {
        assert_eq!(rows(store), before);
        assert_eq!(holder(store, &first.key), None);
        assert!(store.directory().by_name("bot").is_none());
        assert!(!store.directory().is_revoked(id, &[17]));
        assert!(store.audit(id, 10).unwrap().is_empty());
        assert_eq!(code(store.card(id)), ErrorCode::UnknownAgent);
        assert_eq!(
            code(store.tear_down(id, Rank::Owner, true, now())),
            ErrorCode::UnknownAgent
        );
        assert_eq!(holder(store, &other.key), Some(other.agent.id));
        assert!(store.directory().is_revoked(other.agent.id, &[5]));
    };
    check(&home.store);
    check(&home.reopened().store);
}

#[test]
fn revoked_tokens_are_bounded_and_rotating_begins_anew() {
    let Home { store, .. } = &home();
    let id = onboard(store, "bot", "1.0.0").agent.id;
    // As the store would after so many revocations, without as many commits.
    let filled = store.write(now(), |edit, _| {
        for number in 0..REVOKED_MAX as u128 {
            let row = (id.0.to_bytes(), number.to_be_bytes());
            edit.tables.revoked.insert(row, edit.now_ms)?;
            edit.changes.push(Change::Revoked(id, number));
        }
        Ok(())
    });
    filled.unwrap();
    let refused = store.revoke_token(id, u128::MAX, now());
    assert!(matches!(refused, Err(AgentError::TooManyRevoked)));
    // What is revoked already needs no room.
    store.revoke_token(id, 3, now()).unwrap();
    let other = onboard(store, "other", "1.0.0").agent.id;
    store.revoke_token(other, 1, now()).unwrap();
    store.rotate_keys(id, now()).unwrap();
    store.revoke_token(id, u128::MAX, now()).unwrap();
    assert!(store.directory().is_revoked(id, &[1, u128::MAX]));
    assert_eq!(rows(store)[2], 2);
}

#[test]
fn the_audit_trail_keeps_the_newest_entries() {
    let Home { store, .. } = &home();
    let id = onboard(store, "bot", "1.0.0").agent.id;
    let noted = store.write(now(), |edit, directory| {
        for n in 0..AUDIT_MAX + 50 {
            edit.note(id, "noted", &n.to_string())?;
        }
        // A transaction that changes nothing in memory is not committed.
        let record = edit.agent(id)?;
        edit.put_agent(id, directory, &record, Some(record.summary.clone()))
    });
    noted.unwrap();
    let entries = store.audit(id, usize::MAX).unwrap();
    assert_eq!(entries.len(), 256);
    assert_eq!(entries[0].detail, "305");
    assert_eq!(entries[255].detail, "50");
    assert_eq!(store.audit(id, 3).unwrap(), entries[..3]);
}

#[test]
fn a_new_root_key_mints_and_older_ones_still_verify() {
    let home = home();
    assert_eq!(home.store.directory().minting_key().unwrap().0, 1);
    let bytes = |store: &AgentStore, number: u32| {
        let key = store.directory().root_key(number).unwrap();
        let id = aither_protocol::TokenId {
            key_id: number,
            serial: 1,
            agent: 1,
        };
        let minted = aither_protocol::CapabilityToken::mint(&key, id, &[]).unwrap();
        minted.to_text().to_string()
    };
    let first = bytes(&home.store, 1);
    assert_eq!(home.store.rotate_root_key(now()).unwrap(), 2);
    let second = bytes(&home.store, 2);
    let home = home.reopened();
    assert_eq!(home.store.directory().minting_key().unwrap().0, 2);
    assert_eq!(bytes(&home.store, 1), first);
    assert_eq!(bytes(&home.store, 2), second);
    assert!(home.store.directory().root_key(3).is_none());
}

#[test]
fn a_copy_is_a_store_with_all_of_it() {
    let home = home();
    let made = onboard(&home.store, "bot", "1.0.0");
    let id = made.agent.id;
    home.store.revoke_token(id, 17, now()).unwrap();
    let path = home.directory.path().join("copy.redb");
    home.store.copy_to(&path).unwrap();
    let copy = AgentStore::open(&path, now()).unwrap();
    assert_eq!(rows(&copy), rows(&home.store));
    assert_eq!(copy.agent(id).unwrap(), home.store.agent(id).unwrap());
    assert_eq!(holder(&copy, &made.key), Some(id));
    assert!(copy.directory().is_revoked(id, &[17]));
    assert_eq!(
        copy.audit(id, 10).unwrap(),
        home.store.audit(id, 10).unwrap()
    );
    assert_eq!(copy.card(id).unwrap(), home.store.card(id).unwrap());
    assert_eq!(copy.directory().minting_key().unwrap().0, 1);
}

#[test]
fn all_of_an_agent_survives_and_no_key_is_in_the_file() {
    let home = home();
    let made = onboard(&home.store, "bot", "1.0.0");
    let home = home.reopened();
    assert_eq!(home.store.agent(made.agent.id).unwrap(), made.agent);
    assert_eq!(holder(&home.store, &made.key), Some(made.agent.id));
    let path = home.path();
    drop(home.store);
    let file = fs::read(path).unwrap();
    let secret = &made.key.0.reveal().as_bytes()[20..];
    assert!(!file.windows(secret.len()).any(|bytes| bytes == secret));
}

#[test]
fn a_damaged_file_is_refused_in_words_and_never_a_panic() {
    let home = home();
    for n in 0..40 {
        onboard(&home.store, &format!("bot{n}"), "1.0.0");
    }
    let path = home.path();
    drop(home.store);
    let good = fs::read(&path).unwrap();
    let seed = 11;
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let mut refused = 0;
    for round in 0..40 {
        let mut bytes = good.clone();
        if round % 2 == 0 {
            bytes.truncate(random.random_range(1..good.len()));
        } else {
            let at = random.random_range(0..good.len() - 4096);
            bytes[at..at + 4096].fill(random.random());
        }
        fs::write(&path, &bytes).unwrap();
        if let Err(error) = AgentStore::open(&path, now()) {
            assert!(error.is_damage(), "SEED={seed} round {round}: {error}");
            assert!(error.to_string().contains("registry.redb"), "{error}");
            refused += 1;
        }
    }
    assert!(refused > 15, "SEED={seed}: {refused} of 40");
}

#[test]
fn a_record_that_fits_nothing_is_damage() {
    let home = home();
    let path = home.path();
    drop(home.store);
    let database = Database::open(&path).unwrap();
    let tx = database.begin_write().unwrap();
    {
        let mut tables = Tables::open(&tx).unwrap();
        let orphan = AgentKeyV1 {
            agent: 5,
            prefix: "aither_ak_".into(),
            made_ms: 1,
        };
        let orphan = orphan.encode();
        tables.keys.insert([1; 32], &orphan[..]).unwrap();
    }
    tx.commit().unwrap();
    drop(database);
    let error = AgentStore::open(&path, now()).unwrap_err();
    assert!(error.is_damage(), "{error}");
    assert!(error.to_string().contains("belongs to no agent"), "{error}");
    // Nothing in the words claims that it is about accounts.
    assert!(!error.to_string().contains("account"), "{error}");
}

#[test]
fn a_second_opener_and_a_directory_are_refused_and_are_no_damage() {
    let home = home();
    let error = AgentStore::open(&home.path(), now()).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    let directory = home.directory.path().join("directory");
    fs::create_dir(&directory).unwrap();
    let error = AgentStore::open(&directory, now()).unwrap_err();
    assert!(!error.is_damage(), "{error}");
    assert!(error.to_string().contains("directory"), "{error}");
    let nowhere = home.directory.path().join("missing").join("registry.redb");
    let error = AgentStore::open(&nowhere, now()).unwrap_err();
    assert!(!error.is_damage(), "{error}");
}

#[test]
fn what_a_higher_rank_has_set_aside_a_lower_one_does_not_take_back() {
    let home = home();
    let store = &home.store;
    let id = onboard(store, "bot", "1.0.0").agent.id;
    store.suspend(id, Rank::Agent, now()).unwrap();
    store.suspend(id, Rank::Owner, now()).unwrap();
    let refused = store.resume(id, Rank::Agent, now());
    assert!(matches!(refused, Err(AgentError::SuspendedBy(Rank::Owner))));
    store.suspend(id, Rank::Operator, now()).unwrap();
    // A lower rank that wants it too takes nothing back.
    store.suspend(id, Rank::Owner, now()).unwrap();
    let home = home.reopened();
    let store = &home.store;
    for rank in [Rank::Agent, Rank::Owner] {
        let refused = store.resume(id, rank, now());
        assert_eq!(code(refused), ErrorCode::CapabilityMissing);
        let refused = store.tear_down(id, rank, true, now());
        assert_eq!(code(refused), ErrorCode::CapabilityMissing);
    }
    // Coming aboard again, or coming back, brings it back as it was.
    let again = onboard(store, "bot", "1.1.0").agent;
    assert_eq!(again.suspended_by, Some(Rank::Operator));
    assert_eq!(again.state, AgentState::Stop);
    store.tear_down(id, Rank::Owner, false, now()).unwrap();
    let back = onboard(store, "bot", "1.1.0").agent;
    assert_eq!(back.suspended_by, Some(Rank::Operator));
    assert!(!back.is_torn_down && back.state == AgentState::Stop);
    let back = store.resume(id, Rank::Operator, now()).unwrap();
    assert!(!back.is_suspended() && back.state == AgentState::Live);
    store.suspend(id, Rank::Owner, now()).unwrap();
    let resumed = store.resume(id, Rank::Operator, now()).unwrap();
    assert!(!resumed.is_suspended());
    store.suspend(id, Rank::Agent, now()).unwrap();
    store.tear_down(id, Rank::Agent, true, now()).unwrap();
}

#[test]
fn a_card_from_a_key_that_was_rotated_meanwhile_does_not_land() {
    let Home { store, .. } = &home();
    let agent = onboard(store, "bot", "1.0.0").agent;
    let newer = card("bot", "2.0.0");
    let change = |keys_since_ms| CardChange {
        card: &newer,
        signed_card: newer.to_json().to_string(),
        granted: granted(),
        keys_since_ms,
    };
    store.rotate_keys(agent.id, now()).unwrap();
    let late = change(Some(agent.tokens_since_ms));
    let late = store.update_card(agent.id, &late, now());
    assert!(matches!(late, Err(AgentError::KeyEnded)), "{late:?}");
    assert_eq!(&*store.agent(agent.id).unwrap().version, "1.0.0");
    let since = store.agent(agent.id).unwrap().tokens_since_ms;
    let fresh = store.update_card(agent.id, &change(Some(since)), now());
    assert_eq!(&*fresh.unwrap().version, "2.0.0");
}

#[test]
fn of_agents_that_were_torn_down_the_first_are_purged() {
    let home = home();
    let store = &home.store;
    let made = onboard(store, "made", "1.0.0").agent;
    let record = store.read(|tables| {
        let row = tables.agents.get(made.id.0.to_bytes())?;
        row.map(|row| AgentV3::decode(row.value())).transpose()
    });
    let record = record.unwrap().unwrap();
    // As the store would after so many, without as many commits.
    let filled = store.write(now(), |edit, directory| {
        let mut id = made.id;
        for number in 0..TORN_DOWN_MAX {
            id = id.next();
            let mut record = record.clone();
            record.summary.name = format!("gone-{number}").into();
            record.is_torn_down = true;
            record.tokens_since_ms = 1000 + u64::try_from(number).unwrap();
            edit.order(id, directory, Order::Onboard, &record)?;
            edit.put_agent(id, directory, &record, None)?;
            edit.put_card(id, "{}")?;
        }
        Ok(())
    });
    filled.unwrap();
    let aside = onboard(store, "aside", "1.0.0").agent;
    let gone = |number: usize| store.directory().by_name(&format!("gone-{number}"));
    // One that the operator has suspended is none of them, and stays.
    store.suspend(aside.id, Rank::Operator, now()).unwrap();
    store
        .tear_down(aside.id, Rank::Owner, false, now())
        .unwrap();
    assert!(gone(0).is_some());
    store.tear_down(made.id, Rank::Owner, false, now()).unwrap();
    assert!(gone(0).is_none() && gone(1).is_some());
    assert!(store.agent(made.id).unwrap().is_torn_down);
    // Another account's are its own.
    let theirs = onboard_within(store, BOB, &card("theirs", "1.0.0"), None);
    let theirs = theirs.unwrap().agent;
    store
        .tear_down(theirs.id, Rank::Owner, false, now())
        .unwrap();
    assert!(gone(1).is_some());
    let agents = rows(store)[0];
    let home = home.reopened();
    assert_eq!(rows(&home.store)[0], agents);
    assert_eq!(home.store.directory().left_of(ANN).0, TORN_DOWN_MAX);
}

#[test]
fn ids_rise_whatever_the_clock_says() {
    let Home { store, .. } = &home();
    let card_of = |number: u64| card(&format!("bot{number}"), "1.0.0");
    let mut last = None;
    for number in 0..5 {
        let card = card_of(number);
        let new = NewAgent {
            owner: ANN,
            by: Rank::Owner,
            agents_max: None,
            card: &card,
            signed_card: card.to_json().to_string(),
            mode: Mode::Remote,
            granted: granted(),
        };
        let earlier = now() - Duration::from_secs(60 * number);
        let id = store.onboard(&new, earlier).unwrap().agent.id;
        assert!(last < Some(id));
        last = Some(id);
    }
}
