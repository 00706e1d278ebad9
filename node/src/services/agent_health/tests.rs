//! Admission, probes and calls, on a real store and with agents that answer over real connections.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use aither_ledger::AccountId;
use aither_protocol::{AgentCard, CapabilitySet};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::agents::{CardChange, Mode, NewAgent, Rank};

const OWNER: AccountId = AccountId(1);
const TOOK: Duration = Duration::from_millis(20);

/// An agent's health path.
struct Server {
    url: String,
    is_healthy: Arc<AtomicBool>,
    asked: Arc<AtomicU32>,
}

impl Server {
    async fn start(is_healthy: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let is_healthy = Arc::new(AtomicBool::new(is_healthy));
        let asked = Arc::new(AtomicU32::new(0));
        let (healthy, count) = (Arc::clone(&is_healthy), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 2048];
                let _ = stream.read(&mut request).await;
                count.fetch_add(1, Ordering::SeqCst);
                let body = match healthy.load(Ordering::SeqCst) {
                    true => r#"{"status": "healthy"}"#,
                    false => r#"{"status": "sick"}"#,
                };
                let length = body.len();
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self {
            url,
            is_healthy,
            asked,
        }
    }

    fn asked(&self) -> u32 {
        self.asked.load(Ordering::SeqCst)
    }

    fn set(&self, is_healthy: bool) {
        self.is_healthy.store(is_healthy, Ordering::SeqCst);
    }
}

struct Home {
    _directory: tempfile::TempDir,
    store: Arc<AgentStore>,
    health: AgentHealth,
}

fn home() -> Home {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registry.redb");
    let store = Arc::new(AgentStore::open(&path, SystemTime::now()).unwrap());
    let events = EventService::default();
    let health = AgentHealth::new(Arc::clone(&store), Targets::Any, events).unwrap();
    Home {
        _directory: directory,
        store,
        health,
    }
}

fn card(version: &str, url: Option<&str>) -> AgentCard {
    let mut card = json!({
        "name": "bot",
        "version": version,
        "description": "looks things up",
        "skills": [],
        "endpoints": [{ "path": "/chat", "method": "POST", "description": "chat" }],
        "capabilities_requested": [],
        "billing": { "token_cost_per_request": 3, "category": "agent" },
        "health_endpoint": "/health",
    });
    if let Some(url) = url {
        card["agent_url"] = json!(url);
    }
    AgentCard::from_json(&card).unwrap()
}

impl Home {
    fn onboard(&self, url: Option<&str>) -> Arc<Agent> {
        let card = card("1.0.0", url);
        let new = NewAgent {
            owner: OWNER,
            by: Rank::Owner,
            agents_max: None,
            card: &card,
            signed_card: card.to_json().to_string(),
            mode: Mode::Remote,
            granted: CapabilitySet::EMPTY,
        };
        let agent = self.store.onboard(&new, SystemTime::now()).unwrap().agent;
        self.health.place(agent.id);
        agent
    }

    fn state(&self, agent: &Agent) -> AgentState {
        self.store.directory().agent(agent.id).unwrap().state
    }

    fn ended(&self, agent: &Agent, end: &CallEnd) {
        self.health.ended(agent.id, end, TOOK);
    }

    async fn refusal(&self, agent: &Agent) -> Unavailable {
        self.health.admit(agent).await.unwrap_err()
    }
}

fn answered() -> CallEnd {
    CallEnd::Answered {
        earned: Amount::from_tokens(2),
    }
}

#[tokio::test]
async fn one_that_is_not_up_is_asked_at_once_by_all_who_want_it_together() {
    let (home, server) = (home(), Server::start(true).await);
    let agent = home.onboard(Some(&server.url));
    assert_eq!(home.state(&agent), AgentState::Boot);
    let admitted = futures_util::future::join_all((0..20).map(|_| home.health.admit(&agent)));
    assert!(admitted.await.iter().all(Result::is_ok));
    assert_eq!(server.asked(), 1);
    assert_eq!(home.state(&agent), AgentState::Live);
    let checkup = home.health.checkup(agent.id).unwrap();
    assert!(checkup.is_healthy && checkup.time <= SystemTime::now());
    home.health.admit(&agent).await.unwrap();
    assert_eq!(
        server.asked(),
        1,
        "one that lives is not asked for each call"
    );
}

#[tokio::test]
async fn one_that_is_sick_takes_no_call_and_says_why() {
    let (home, server) = (home(), Server::start(false).await);
    let agent = home.onboard(Some(&server.url));
    let refusal = home.refusal(&agent).await;
    assert_eq!(refusal.state, AgentState::Boot);
    assert!(
        refusal.reason.contains("did not answer"),
        "{}",
        refusal.reason
    );
    assert!(refusal.retry_after.is_some());
    let refusal = home.refusal(&agent).await;
    assert!(refusal.reason.contains("not been found healthy"));
    assert_eq!(server.asked(), 1, "it was asked a moment ago");
    assert!(!home.health.checkup(agent.id).unwrap().is_healthy);
}

#[tokio::test]
async fn one_without_an_address_lives_and_takes_no_call() {
    let home = home();
    let agent = home.onboard(None);
    assert_eq!(agent.state, AgentState::Live);
    let refusal = home.refusal(&agent).await;
    assert!(refusal.reason.contains("no address"), "{}", refusal.reason);
    assert_eq!(refusal.retry_after, None);
    assert!(home.health.ask(agent.id).await.is_err());
    assert_eq!(home.health.checkup(agent.id), None);
    assert_eq!(home.health.standing(agent.id), Standing::default());
}

#[tokio::test]
async fn failing_calls_open_the_circuit_and_probes_close_it() {
    let (home, server) = (home(), Server::start(true).await);
    let agent = home.onboard(Some(&server.url));
    home.health.admit(&agent).await.unwrap();
    for _ in 0..3 {
        home.ended(&agent, &CallEnd::Failed("it broke off".into()));
    }
    assert_eq!(home.state(&agent), AgentState::Pain);
    home.health.admit(&agent).await.unwrap();
    for _ in 0..3 {
        home.ended(&agent, &CallEnd::TimedOut);
    }
    assert_eq!(home.state(&agent), AgentState::Heal);
    let refusal = home.refusal(&agent).await;
    assert_eq!(refusal.state, AgentState::Heal);
    assert!(
        refusal.reason.contains("took too long"),
        "{}",
        refusal.reason
    );
    assert!(refusal.retry_after.is_some());
    for _ in 0..2 {
        home.health.ask(agent.id).await.unwrap();
    }
    assert_eq!(home.state(&agent), AgentState::Live);
    home.health.admit(&agent).await.unwrap();
    let moves = home.store.story(agent.id).unwrap().moves;
    let states: Vec<_> = moves[2..].iter().map(|moved| moved.to.as_str()).collect();
    assert_eq!(states, ["LIVE", "PAIN", "HEAL", "LIVE"]);
    let standing = home.health.standing(agent.id);
    assert_eq!((standing.calls, standing.failed), (6, 6));
    assert!(standing.reputation.unwrap() < 0.2);
}

#[tokio::test]
async fn what_an_agent_said_before_its_card_was_replaced_says_nothing() {
    let (home, server) = (home(), Server::start(true).await);
    let agent = home.onboard(Some(&server.url));
    let era = lock(&home.health.fleet).life(agent.id).unwrap().era();
    let moved = card("1.1.0", Some("http://127.0.0.1:1"));
    let change = CardChange {
        card: &moved,
        signed_card: moved.to_json().to_string(),
        granted: CapabilitySet::EMPTY,
        keys_since_ms: None,
    };
    let now = SystemTime::now();
    home.store.update_card(agent.id, &change, now).unwrap();
    home.health.answered(&agent, era, &Ok(()));
    assert_eq!(home.state(&agent), AgentState::Boot, "before it was placed");
    home.health.place(agent.id);
    home.health.answered(&agent, era, &Ok(()));
    assert_eq!(home.state(&agent), AgentState::Boot);
    // Nor what it said before it was set aside, although its card is the same.
    let agent = home.store.directory().agent(agent.id).unwrap();
    let era = lock(&home.health.fleet).life(agent.id).unwrap().era();
    home.store.suspend(agent.id, Rank::Owner, now).unwrap();
    home.health.answered(&agent, era, &Ok(()));
    assert_eq!(home.state(&agent), AgentState::Stop);
    home.health.place(agent.id);
    home.store.resume(agent.id, Rank::Owner, now).unwrap();
    home.health.place(agent.id);
    home.health.answered(&agent, era, &Ok(()));
    assert_eq!(home.state(&agent), AgentState::Boot);
    let era = lock(&home.health.fleet).life(agent.id).unwrap().era();
    home.health.answered(&agent, era, &Err(ProbeFailure::Busy));
    assert_eq!(home.health.checkup(agent.id), None, "it was not asked");
    home.health.answered(&agent, era, &Ok(()));
    assert_eq!(home.state(&agent), AgentState::Live);
}

#[tokio::test]
async fn an_order_that_changes_nothing_leaves_what_is_known() {
    let (home, server) = (home(), Server::start(true).await);
    let agent = home.onboard(Some(&server.url));
    home.health.admit(&agent).await.unwrap();
    for _ in 0..6 {
        home.ended(&agent, &CallEnd::TimedOut);
    }
    let refused = home.refusal(&agent).await;
    // Whoever resumes an agent that was not set aside opens no circuit by it.
    let now = SystemTime::now();
    home.store.resume(agent.id, Rank::Owner, now).unwrap();
    home.health.place(agent.id);
    assert_eq!(home.refusal(&agent).await.reason, refused.reason);
    home.health.begin_anew(agent.id);
    assert!(
        home.health.admit(&agent).await.is_ok(),
        "another card is another matter"
    );
}

#[tokio::test]
async fn an_order_counts_from_its_commit_whatever_was_believed() {
    let (home, server) = (home(), Server::start(true).await);
    let agent = home.onboard(Some(&server.url));
    home.health.admit(&agent).await.unwrap();
    let now = SystemTime::now();
    // Nobody has told the agent's life of it yet.
    home.store.suspend(agent.id, Rank::Owner, now).unwrap();
    assert_eq!(home.refusal(&agent).await.state, AgentState::Stop);
    for _ in 0..9 {
        home.ended(&agent, &CallEnd::TimedOut);
    }
    assert_eq!(home.state(&agent), AgentState::Stop);
    home.store.resume(agent.id, Rank::Owner, now).unwrap();
    home.health.admit(&agent).await.unwrap();
    home.store.suspend(agent.id, Rank::Owner, now).unwrap();
    for _ in 0..9 {
        home.ended(&agent, &CallEnd::TimedOut);
    }
    assert_eq!(home.state(&agent), AgentState::Stop);
    home.store
        .tear_down(agent.id, Rank::Owner, true, now)
        .unwrap();
    assert!(home.refusal(&agent).await.reason.contains("has left"));
    home.health.place(agent.id);
    assert_eq!(home.health.standing(agent.id), Standing::default());
}

#[tokio::test]
async fn who_is_drained_stops_with_its_last_call() {
    let (home, server) = (home(), Server::start(true).await);
    let agent = home.onboard(Some(&server.url));
    home.health.admit(&agent).await.unwrap();
    home.health.loaded(agent.id, 2, 0, 5);
    home.store
        .drain(agent.id, Rank::Owner, SystemTime::now())
        .unwrap();
    home.health.place(agent.id);
    let refusal = home.refusal(&agent).await;
    assert_eq!(
        (refusal.state, refusal.retry_after),
        (AgentState::Drain, None)
    );
    home.ended(&agent, &answered());
    home.health.loaded(agent.id, 1, 0, 5);
    assert_eq!(home.state(&agent), AgentState::Drain);
    home.health.loaded(agent.id, 0, 0, 5);
    assert_eq!(home.state(&agent), AgentState::Stop);
    home.store.write_moves(SystemTime::now()).unwrap();
    let story = home.store.story(agent.id).unwrap();
    assert_eq!(story.reason, "it has finished what it had");
}

#[tokio::test]
async fn load_and_calls_make_a_standing_that_is_kept() {
    let (home, server) = (home(), Server::start(true).await);
    let agent = home.onboard(Some(&server.url));
    home.health.admit(&agent).await.unwrap();
    home.health.loaded(agent.id, 4, 2, 4);
    let standing = home.health.standing(agent.id);
    assert_eq!((standing.running, standing.waiting), (4, 2));
    assert_eq!(standing.load, Some(1.5));
    assert_eq!((standing.calls, standing.reputation), (0, None));
    home.ended(&agent, &answered());
    home.ended(&agent, &answered());
    home.ended(&agent, &CallEnd::Canceled);
    home.ended(&agent, &CallEnd::TimedOut);
    home.health.turned_away(agent.id);
    let standing = home.health.standing(agent.id);
    assert_eq!((standing.calls, standing.failed), (3, 1));
    assert_eq!(standing.earned, Amount::from_tokens(4));
    assert_eq!(standing.latency_ms, Some(20.0));
    home.health.write_call_stats().unwrap();
    home.health.write_call_stats().unwrap();
    let again = AgentHealth::new(
        Arc::clone(&home.store),
        Targets::Any,
        EventService::default(),
    );
    let again = again.unwrap();
    let kept = again.standing(agent.id);
    assert_eq!(
        (kept.calls, kept.failed, kept.earned),
        (3, 1, standing.earned)
    );
    assert_eq!(kept.reputation, standing.reputation);
    assert_eq!(again.days(agent.id, 1), home.health.days(agent.id, 30));
    assert_eq!(again.days(agent.id, 1)[0].calls, 3);
}

#[tokio::test]
async fn an_agent_is_asked_without_anybody_wanting_it() {
    let (home, server) = (home(), Server::start(false).await);
    let agent = home.onboard(Some(&server.url));
    let until = |wanted: AgentState| {
        let home = &home;
        let agent = &agent;
        async move {
            while home.state(agent) != wanted {
                tokio::task::yield_now().await;
            }
        }
    };
    let watched = async {
        while server.asked() == 0 {
            tokio::task::yield_now().await;
        }
        server.set(true);
        until(AgentState::Live).await;
    };
    let deadline = Duration::from_secs(60);
    tokio::select! {
        () = home.health.probe_all() => unreachable!(),
        done = tokio::time::timeout(deadline, watched) => done.unwrap(),
    }
}

#[tokio::test]
async fn all_that_can_be_called_stop_with_the_node() {
    let (home, server) = (home(), Server::start(true).await);
    let agent = home.onboard(Some(&server.url));
    assert!(home.health.to_stop().is_empty(), "it is not up");
    home.health.admit(&agent).await.unwrap();
    assert_eq!(home.health.to_stop(), [agent.id]);
}
