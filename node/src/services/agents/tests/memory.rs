//! What becomes of the memory of agents that leave.

use aither_protocol::MemoryTier;

use super::*;
use crate::memory::{MemoryError, MemoryLimits, Quota, ScopeKey, Unobserved, WriteEntry};

async fn home_with_memory() -> (Home, MemoryStore) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("memory.redb");
    let memory = MemoryStore::open(&path, MemoryLimits::default(), Arc::new(Unobserved)).unwrap();
    (home_in(directory, Some(memory.clone())).await, memory)
}

fn scope(id: AgentId) -> ScopeKey {
    ScopeKey::new(Owner::Agent(id.as_u128()), MemoryTier::Spirit, None)
}

async fn write(memory: &MemoryStore, id: AgentId) -> Result<(), MemoryError> {
    let write = WriteEntry {
        scope: scope(id),
        account: 5,
        quota: Quota::UNLIMITED,
        key: "k".into(),
        value: "1".into(),
        tags: Vec::new(),
        expires_ms: None,
        if_version: None,
        writer: "bot".into(),
        signature: None,
    };
    let (sender, receiver) = tokio::sync::oneshot::channel();
    memory.write(write, 1, move |outcome| sender.send(outcome).unwrap())?;
    receiver.await.unwrap().map(drop)
}

fn remembers(memory: &MemoryStore, id: AgentId) -> bool {
    memory.read(&scope(id), "k", 1).unwrap().is_some()
}

impl Home {
    async fn agent(&self, name: &str) -> AgentId {
        let card = card(name, Tier::Reasoning, &[]);
        self.onboard(&card).await.unwrap().agent.id
    }

    fn is_known(&self, id: AgentId) -> bool {
        self.agents.agent(id).is_ok()
    }
}

#[tokio::test]
async fn memory_stays_with_an_agent_that_is_kept_and_goes_with_one_that_is_purged() {
    let (home, memory) = home_with_memory().await;
    let id = home.agent("bot").await;
    write(&memory, id).await.unwrap();
    home.agents.tear_down(id, Rank::Owner, false).await.unwrap();
    assert!(remembers(&memory, id));
    home.agents.tear_down(id, Rank::Owner, true).await.unwrap();
    assert!(!remembers(&memory, id) && !home.is_known(id));
    assert!(memory.unfinished_purges().unwrap().is_empty());
    let again = home.agents.tear_down(id, Rank::Owner, true).await;
    assert!(matches!(again, Err(AgentError::Unknown(_))));
    // A request that was under way brings nothing back.
    let late = write(&memory, id).await;
    assert!(matches!(late, Err(MemoryError::Purged)), "{late:?}");
}

#[tokio::test]
async fn a_purge_that_is_refused_leaves_memory_as_it_is() {
    let (home, memory) = home_with_memory().await;
    let id = home.agent("bot").await;
    write(&memory, id).await.unwrap();
    home.agents.suspend(id, Rank::Operator).await.unwrap();
    let refused = home.agents.tear_down(id, Rank::Owner, true).await;
    assert!(matches!(refused, Err(AgentError::SuspendedBy(_))));
    assert!(remembers(&memory, id));
    assert!(memory.unfinished_purges().unwrap().is_empty());
    write(&memory, id).await.unwrap();
}

#[tokio::test]
async fn purges_that_were_cut_off_are_finished() {
    let (home, memory) = home_with_memory().await;
    let (cut_off, set_aside) = (home.agent("cut-off").await, home.agent("set-aside").await);
    for id in [cut_off, set_aside] {
        write(&memory, id).await.unwrap();
        memory.begin_purge(Owner::Agent(id.as_u128()), 1).unwrap();
    }
    home.agents
        .suspend(set_aside, Rank::Operator)
        .await
        .unwrap();
    home.agents.finish_purges().await;
    assert!(!remembers(&memory, cut_off) && !home.is_known(cut_off));
    assert!(remembers(&memory, set_aside) && home.is_known(set_aside));
    assert!(memory.unfinished_purges().unwrap().is_empty());
}

#[tokio::test]
async fn whoever_is_forgotten_for_others_is_not_remembered_either() {
    let (home, memory) = home_with_memory().await;
    let first = home.agent("first").await;
    write(&memory, first).await.unwrap();
    home.agents
        .tear_down(first, Rank::Owner, false)
        .await
        .unwrap();
    let mut next = None;
    for number in 0..TORN_DOWN_MAX {
        assert!(home.is_known(first), "forgotten after {number}");
        let id = home.agent(&format!("bot-{number}")).await;
        next = next.or(Some(id));
        home.agents.tear_down(id, Rank::Owner, false).await.unwrap();
    }
    assert!(!home.is_known(first) && !remembers(&memory, first));
    // Who is set aside does not count among them, so nobody has to go for it.
    let aside = home.agent("aside").await;
    home.agents.suspend(aside, Rank::Operator).await.unwrap();
    home.agents
        .tear_down(aside, Rank::Owner, false)
        .await
        .unwrap();
    assert!(memory.unfinished_purges().unwrap().is_empty());
    let next = next.unwrap();
    assert!(home.is_known(next));
    write(&memory, next).await.unwrap();
}
