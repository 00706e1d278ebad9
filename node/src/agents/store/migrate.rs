//! Brings a file up to the schema of this build, one version at a time.

use redb::{ReadableTable, WriteTransaction};

use crate::{
    accounts::Record,
    agents::{
        records::{AgentV1, AgentV2},
        tables::Tables,
    },
    store_file::{Step, corrupt},
};

/// What makes each version of the one before it, from version 2 on.
pub(super) const STEPS: [Step; 2] = [to_version_2, to_version_3];

/// Version 2 has cards in a table of their own, and says who has suspended an agent.
fn to_version_2(tx: &WriteTransaction) -> Result<(), redb::Error> {
    let mut tables = Tables::open(tx)?;
    for id in ids_in(&tables)? {
        let record = tables.agents.get(id)?;
        let record = record.map(|row| AgentV1::decode(row.value())).transpose()?;
        let record = record.ok_or_else(|| corrupt("an agent is listed and not there"))?;
        let (agent, card) = record.split();
        let (agent, card) = (agent.encode(), card.encode());
        tables.agents.insert(id, &agent[..])?;
        tables.cards.insert(id, &card[..])?;
    }
    Ok(())
}

/// Version 3 has where an agent is in its life in a table of its own, with its history beside.
fn to_version_3(tx: &WriteTransaction) -> Result<(), redb::Error> {
    let mut tables = Tables::open(tx)?;
    for id in ids_in(&tables)? {
        let record = tables.agents.get(id)?;
        let record = record.map(|row| AgentV2::decode(row.value())).transpose()?;
        let record = record.ok_or_else(|| corrupt("an agent is listed and not there"))?;
        let (agent, state) = record.split();
        let (agent, state) = (agent.encode(), state.encode());
        tables.agents.insert(id, &agent[..])?;
        tables.states.insert(id, &state[..])?;
    }
    Ok(())
}

fn ids_in(tables: &Tables<'_>) -> Result<Vec<[u8; 16]>, redb::Error> {
    let ids = tables.agents.iter()?.map(|row| Ok(row?.0.value()));
    ids.collect()
}

#[cfg(test)]
mod tests {
    use redb::Database;

    use super::{
        super::{
            AgentStore, Rank,
            tests::{holder, home, now, onboard},
        },
        *,
    };
    use crate::agents::{
        AgentState,
        records::{AgentV3, CardV1, StateV1},
    };

    #[test]
    fn a_file_of_an_earlier_schema_version_is_brought_up_and_nothing_is_lost() {
        for version in [1, 2] {
            brought_up_from(version);
        }
    }

    fn brought_up_from(version: u64) {
        let home = home();
        let live = onboard(&home.store, "live", "1.0.0");
        let aside = onboard(&home.store, "aside", "1.0.0").agent.id;
        let gone = onboard(&home.store, "gone", "1.0.0").agent.id;
        let card = home.store.card(live.agent.id).unwrap();
        home.store.suspend(aside, Rank::Owner, now()).unwrap();
        home.store
            .tear_down(gone, Rank::Owner, false, now())
            .unwrap();
        let ids = [live.agent.id, aside, gone];
        let before = ids.map(|id| home.store.agent(id).unwrap());
        let path = home.path();
        drop(home.store);
        make_old(&path, version);
        for _ in 0..2 {
            let store = AgentStore::open(&path, now()).unwrap();
            assert_eq!(ids.map(|id| store.agent(id).unwrap()), before);
            assert_eq!(holder(&store, &live.key), Some(live.agent.id));
            assert_eq!(store.card(live.agent.id).unwrap(), card);
            assert_eq!(store.skills(&ids).unwrap()[2][0].id, "research".into());
        }
        assert_eq!(AgentStore::check(&path).unwrap(), 3);
    }

    #[test]
    fn a_file_that_version_1_wrote_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry.redb");
        // A node of that version took three agents aboard, suspended one and tore one down.
        std::fs::write(&path, include_bytes!("../../../tests/data/registry-1.redb")).unwrap();
        assert_eq!(AgentStore::check(&path).unwrap(), 3);
        let store = AgentStore::open(&path, now()).unwrap();
        let agent = |name| store.directory().by_name(name).unwrap();
        let (live, aside, gone) = (agent("live"), agent("aside"), agent("gone"));
        assert_eq!(live.state, AgentState::Live);
        assert_eq!(aside.suspended_by, Some(Rank::Owner));
        assert!(!aside.is_torn_down && gone.is_torn_down && !gone.is_suspended());
        let keys = [&live, &aside, &gone].map(|agent| store.directory().keys_of(agent.id).len());
        assert_eq!(keys, [1, 1, 0]);
        let skills = store.skills(&[live.id]).unwrap();
        assert_eq!(&*skills[0][0].tags[0], "web");
        let card: serde_json::Value = serde_json::from_str(&store.card(live.id).unwrap()).unwrap();
        assert_eq!(card["name"], "live");
        assert!(card["signatures"].is_array());
        assert_eq!(store.audit(gone.id, 1).unwrap()[0].action, "torn_down");
    }

    /// Makes of a file what an earlier version of the schema had.
    fn make_old(path: &std::path::Path, version: u64) {
        let meta = redb::TableDefinition::<&str, u64>::new("meta");
        let database = Database::open(path).unwrap();
        let tx = database.begin_write().unwrap();
        {
            let mut tables = Tables::open(&tx).unwrap();
            for id in ids_in(&tables).unwrap() {
                let record = tables.agents.get(id).unwrap();
                let record = record.map(|row| AgentV3::decode(row.value()).unwrap());
                let mut record = record.unwrap();
                let state = tables.states.get(id).unwrap().unwrap();
                let state = StateV1::decode(state.value()).unwrap().state;
                let json = tables.cards.get(id).unwrap().unwrap();
                let json = CardV1::decode(json.value()).unwrap().json;
                let old = AgentV2 {
                    owner: record.owner,
                    mode: record.mode.clone(),
                    state,
                    suspended_by: record.suspended_by.take(),
                    is_torn_down: record.is_torn_down,
                    granted: record.granted,
                    seed: record.seed,
                    public_key: record.public_key,
                    tokens_since_ms: record.tokens_since_ms,
                    created_ms: record.created_ms,
                    updated_ms: record.updated_ms,
                    summary: record.summary.clone(),
                };
                let old = match version {
                    1 => older(&old, json).encode(),
                    _ => old.encode(),
                };
                tables.agents.insert(id, &old[..]).unwrap();
            }
        }
        let of_agents = |name| redb::TableDefinition::<[u8; 16], &[u8]>::new(name);
        let moves = redb::TableDefinition::<([u8; 16], u64), &[u8]>::new("moves-1");
        tx.delete_table(of_agents("states-1")).unwrap();
        tx.delete_table(of_agents("call-stats-1")).unwrap();
        tx.delete_table(moves).unwrap();
        if version == 1 {
            tx.delete_table(of_agents("cards-1")).unwrap();
        }
        tx.open_table(meta)
            .unwrap()
            .insert("schema_version", version)
            .unwrap();
        tx.commit().unwrap();
    }

    fn older(record: &AgentV2, card: String) -> AgentV1 {
        AgentV1 {
            owner: record.owner,
            mode: record.mode.clone(),
            state: record.state.clone(),
            is_suspended: record.suspended_by.is_some(),
            granted: record.granted,
            seed: record.seed,
            public_key: record.public_key,
            tokens_since_ms: record.tokens_since_ms,
            created_ms: record.created_ms,
            updated_ms: record.updated_ms,
            summary: record.summary.clone(),
            card,
        }
    }

    #[test]
    fn a_file_of_a_version_that_never_was_or_is_not_yet_is_refused() {
        let home = home();
        let path = home.path();
        drop(home.store);
        let meta = redb::TableDefinition::<&str, u64>::new("meta");
        for (version, words) in [(0, "never existed"), (4, "schema version 4")] {
            let database = Database::open(&path).unwrap();
            let tx = database.begin_write().unwrap();
            let mut rows = tx.open_table(meta).unwrap();
            rows.insert("schema_version", version).unwrap();
            drop(rows);
            tx.commit().unwrap();
            drop(database);
            let error = AgentStore::open(&path, now()).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}
