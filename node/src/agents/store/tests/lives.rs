//! Where agents are in their lives, on the disk: orders, moves of memory, starts and ends.

use super::*;
use crate::agents::{CallStats, lifecycle::is_legal};

fn at(seconds: u64) -> SystemTime {
    now() + Duration::from_secs(seconds)
}

fn onboard_at(store: &AgentStore, name: &str, url: &str) -> Arc<Agent> {
    let mut json = card(name, "1.0.0").to_json();
    json["agent_url"] = json!(url);
    let card = AgentCard::from_json(&json).unwrap();
    onboard_within(store, ANN, &card, None).unwrap().agent
}

/// An agent with an address, which is in `BOOT`.
fn with_address(store: &AgentStore, name: &str) -> AgentId {
    onboard_at(store, name, "http://localhost:1").id
}

fn moved(id: AgentId, from: AgentState, to: AgentState, seconds: u64) -> Moved {
    Moved {
        id,
        time_ms: unix_ms(at(seconds)),
        from,
        to,
        reason: "it is tested".into(),
    }
}

/// Returns where an agent was, one after another; every move begins where the last has ended.
fn path(store: &AgentStore, id: AgentId) -> Vec<AgentState> {
    let story = store.story(id).unwrap();
    let mut path: Vec<_> = story.moves.iter().take(1).map(|m| m.from).collect();
    for moved in &story.moves {
        assert_eq!(path.last(), Some(&moved.from), "{:?}", story.moves);
        assert!(!moved.reason.is_empty());
        path.push(moved.to);
    }
    assert_eq!(path.last(), Some(&story.state));
    assert_eq!(story.state, store.agent(id).unwrap().state);
    let last = story.moves.last().unwrap();
    assert_eq!(
        (story.since_ms, &story.reason),
        (last.time_ms, &last.reason)
    );
    path
}

use AgentState::{Boot, Deploy, Drain, Heal, Init, Live, Pain, Stop};

#[test]
fn coming_aboard_is_written_with_its_reasons() {
    let home = home();
    let id = onboard(&home.store, "bot", "1.0.0").agent.id;
    assert_eq!(path(&home.store, id), [Deploy, Init, Boot, Live]);
    let other = with_address(&home.store, "other");
    assert_eq!(path(&home.store, other), [Deploy, Init, Boot]);
    let home = home.reopened();
    let moves = home.store.story(id).unwrap().moves;
    let reasons: Vec<_> = moves.iter().map(|moved| &*moved.reason).collect();
    assert_eq!(
        reasons,
        [
            "its card was accepted",
            "its keys were made",
            "it has no address to be asked at"
        ]
    );
    assert_eq!(moves[0].time_ms, unix_ms(now()));
}

#[test]
fn what_memory_moves_is_seen_at_once_and_survives_once_it_is_written() {
    let home = home();
    let (id, lost) = (
        with_address(&home.store, "bot"),
        with_address(&home.store, "lost"),
    );
    let directory = home.store.directory();
    assert!(directory.move_on(moved(id, Boot, Live, 1)));
    assert!(directory.move_on(moved(id, Live, Pain, 2)));
    assert_eq!(path(&home.store, id), [Deploy, Init, Boot, Live, Pain]);
    assert_eq!(home.store.write_moves(at(3)).unwrap(), 2);
    assert_eq!(home.store.write_moves(at(3)).unwrap(), 0);
    assert_eq!(path(&home.store, id), [Deploy, Init, Boot, Live, Pain]);
    // A crash loses what was not written.
    assert!(directory.move_on(moved(lost, Boot, Live, 3)));
    let home = home.reopened();
    assert_eq!(path(&home.store, lost), [Deploy, Init, Boot]);
    assert_eq!(
        path(&home.store, id),
        [Deploy, Init, Boot, Live, Pain, Boot]
    );
    assert_eq!(home.store.story(id).unwrap().reason, "the node started");
    // Nothing was written for that yet; its next move writes both.
    assert!(home.store.directory().move_on(moved(id, Boot, Live, 9)));
    home.store.write_moves(at(9)).unwrap();
    let whole = [Deploy, Init, Boot, Live, Pain, Boot, Live];
    assert_eq!(path(&home.store, id), whole);
    let started = &home.store.story(id).unwrap().moves[4];
    assert_eq!((started.from, &*started.reason), (Pain, "the node started"));
    let path_of_file = home.path();
    drop(home.store);
    assert_eq!(AgentStore::check(&path_of_file).unwrap(), 2);
}

#[test]
fn a_story_has_the_newest_two_hundred_moves() {
    let home = home();
    let (id, other) = (
        with_address(&home.store, "bot"),
        with_address(&home.store, "other"),
    );
    let directory = home.store.directory();
    for n in 0..150 {
        assert!(directory.move_on(moved(id, if n == 0 { Boot } else { Pain }, Live, n)));
        assert!(directory.move_on(moved(id, Live, Pain, n)));
        if n % 40 == 0 {
            home.store.write_moves(at(n)).unwrap();
        }
    }
    let before = home.store.story(id).unwrap();
    assert_eq!(before.moves.len(), 200);
    home.store.write_moves(at(200)).unwrap();
    assert_eq!(home.store.story(id).unwrap(), before);
    assert_eq!(before.moves[199].time_ms, unix_ms(at(149)));
    assert_eq!(before.moves[0].time_ms, unix_ms(at(50)));
    let rows = home.store.read(|tables| Ok(tables.moves.len()?)).unwrap();
    assert_eq!(rows, 200 + 2);
    // Purged, nothing of it is left.
    home.store.tear_down(id, Rank::Owner, true, now()).unwrap();
    let rows = home.store.read(|tables| Ok(tables.moves.len()?)).unwrap();
    assert_eq!(rows, 2);
    assert_eq!(code(home.store.story(id)), ErrorCode::UnknownAgent);
    assert_eq!(path(&home.store, other), [Deploy, Init, Boot]);
}

#[test]
fn an_order_comes_after_what_memory_has_moved_and_overtakes_what_it_moves_meanwhile() {
    let home = home();
    let id = with_address(&home.store, "bot");
    let directory = home.store.directory();
    assert!(directory.move_on(moved(id, Boot, Live, 1)));
    assert!(directory.move_on(moved(id, Live, Pain, 2)));
    home.store.suspend(id, Rank::Owner, at(3)).unwrap();
    let whole = [Deploy, Init, Boot, Live, Pain, Stop];
    assert_eq!(path(&home.store, id), whole);
    // Nothing is written twice.
    assert_eq!(home.store.write_moves(at(4)).unwrap(), 0);
    assert!(!directory.move_on(moved(id, Pain, Live, 5)), "too late");
    let home = home.reopened();
    assert_eq!(path(&home.store, id), whole);
    home.store.resume(id, Rank::Owner, at(9)).unwrap();
    assert_eq!(path(&home.store, id), [whole.as_slice(), &[Boot]].concat());
}

#[test]
fn a_change_that_is_no_order_leaves_an_agent_where_it_is() {
    let home = home();
    let id = with_address(&home.store, "bot");
    assert!(home.store.directory().move_on(moved(id, Boot, Live, 1)));
    home.store.rotate_keys(id, at(2)).unwrap();
    assert_eq!(home.store.agent(id).unwrap().state, Live);
    home.store.write_moves(at(3)).unwrap();
    assert_eq!(path(&home.store, id), [Deploy, Init, Boot, Live]);
}

#[test]
fn another_card_or_coming_again_is_a_new_beginning() {
    let home = home();
    let id = with_address(&home.store, "bot");
    assert!(home.store.directory().move_on(moved(id, Boot, Live, 1)));
    let mut json = card("bot", "1.1.0").to_json();
    json["agent_url"] = json!("http://localhost:2");
    update(&home.store, id, &AgentCard::from_json(&json).unwrap()).unwrap();
    assert_eq!(path(&home.store, id), [Deploy, Init, Boot, Live, Boot]);
    assert_eq!(
        home.store.story(id).unwrap().reason,
        "its card was replaced"
    );
    // Without an address there is nobody to be asked.
    onboard(&home.store, "bot", "1.2.0");
    let end = &path(&home.store, id)[4..];
    assert_eq!(end, [Boot, Live]);
}

#[test]
fn a_drained_agent_keeps_its_keys_until_it_has_stopped_and_stays_aside() {
    let home = home();
    let id = with_address(&home.store, "bot");
    let directory = home.store.directory();
    assert!(directory.move_on(moved(id, Boot, Live, 1)));
    let drained = home.store.drain(id, Rank::Owner, at(2)).unwrap();
    assert_eq!(
        (drained.state, drained.suspended_by),
        (Drain, Some(Rank::Owner))
    );
    let works = |agent: &Arc<Agent>| {
        let caller = Arc::clone(agent).caller(aither_protocol::Plan::Enterprise);
        !caller.capabilities.is_empty()
    };
    assert!(works(&drained), "it may need them to finish what it has");
    // Once more changes nothing, and a lower rank does not take it back.
    home.store.drain(id, Rank::Owner, at(3)).unwrap();
    let refused = home.store.resume(id, Rank::Agent, at(3));
    assert_eq!(code(refused), ErrorCode::CapabilityMissing);
    assert!(directory.move_on(moved(id, Drain, Stop, 4)));
    assert!(!works(&home.store.agent(id).unwrap()));
    assert_eq!(
        path(&home.store, id),
        [Deploy, Init, Boot, Live, Drain, Stop]
    );
    let actions = home.store.audit(id, 9).unwrap();
    assert_eq!(actions[0].action, "drained");
    assert_eq!(actions.len(), 2);
    // The end of a drain that a crash cut off: nothing is left to finish.
    let home = home.reopened();
    assert_eq!(
        path(&home.store, id),
        [Deploy, Init, Boot, Live, Drain, Stop]
    );
    home.store.resume(id, Rank::Owner, at(9)).unwrap();
    assert_eq!(home.store.agent(id).unwrap().state, Boot);
    // Suspended while it is drained, it stops at once.
    home.store.drain(id, Rank::Owner, at(10)).unwrap();
    let stopped = home.store.suspend(id, Rank::Owner, at(11)).unwrap();
    assert_eq!(stopped.state, Stop);
}

#[test]
fn the_end_of_the_node_stops_all_in_one_go_and_the_next_start_brings_them_back() {
    let home = home();
    let ids = [0, 1, 2, 3].map(|n| with_address(&home.store, &format!("bot{n}")));
    let resting = onboard(&home.store, "resting", "1.0.0").agent.id;
    let directory = home.store.directory();
    for id in ids {
        assert!(directory.move_on(moved(id, Boot, Live, 1)));
    }
    assert!(directory.move_on(moved(ids[1], Live, Pain, 2)));
    assert!(directory.move_on(moved(ids[2], Live, Pain, 2)));
    assert!(directory.move_on(moved(ids[2], Pain, Heal, 2)));
    home.store.suspend(ids[3], Rank::Owner, at(3)).unwrap();
    directory.take_untold();
    let count = home.store.order_all(&ids, Order::Shutdown, at(4), || false);
    assert_eq!(count.unwrap(), 6);
    let told = directory.take_untold();
    assert_eq!(told.len(), 6, "each is an event");
    assert_eq!(
        path(&home.store, ids[2])[3..],
        [Live, Pain, Heal, Drain, Stop]
    );
    assert_eq!(home.store.story(ids[0]).unwrap().reason, "the node stops");
    let home = home.reopened();
    for id in &ids[..3] {
        let story = home.store.story(*id).unwrap();
        assert_eq!((story.state, &*story.reason), (Boot, "the node started"));
        let last = &path(&home.store, *id);
        assert_eq!(last[last.len() - 3..], [Drain, Stop, Boot]);
    }
    assert_eq!(
        home.store.agent(ids[3]).unwrap().state,
        Stop,
        "its owner wants it so"
    );
    assert_eq!(home.store.agent(resting).unwrap().state, Live);
    // Time may be short: whom it does not come to is as after a crash.
    for id in &ids[..3] {
        assert!(home.store.directory().move_on(moved(*id, Boot, Live, 5)));
    }
    let mut left = 2;
    let is_over = || {
        left -= 1;
        left < 0
    };
    let count = home.store.order_all(&ids, Order::Shutdown, at(6), is_over);
    assert_eq!(count.unwrap(), 4);
    assert_eq!(home.store.agent(ids[2]).unwrap().state, Live);
}

#[test]
fn moves_that_were_lost_show_as_such() {
    let home = home();
    let id = with_address(&home.store, "bot");
    let directory = home.store.directory();
    assert!(directory.move_on(moved(id, Boot, Live, 1)));
    home.store.write_moves(at(1)).unwrap();
    // As it is when too many wait: one is not kept.
    assert!(directory.move_on(moved(id, Live, Pain, 2)));
    directory.apply(vec![Change::Written(1, Vec::new())]);
    assert!(directory.move_on(moved(id, Pain, Heal, 3)));
    home.store.write_moves(at(4)).unwrap();
    assert_eq!(path(&home.store, id)[3..], [Live, Pain, Heal]);
    let moves = home.store.story(id).unwrap().moves;
    assert_eq!(moves[3].reason, "what happened in between was not noted");
    assert!(moves.iter().all(|moved| is_legal(moved.from, moved.to)));
}

#[test]
fn what_is_known_of_calls_survives_and_goes_with_its_agent() {
    let home = home();
    let (id, gone) = (
        with_address(&home.store, "bot"),
        with_address(&home.store, "gone"),
    );
    let stats = CallStats {
        calls: 7,
        failed: 2,
        earned_micros: u128::from(u64::MAX) + 5,
        latency_ms: Some(1.5),
        ..CallStats::default()
    };
    let all = [(id, stats.clone()), (gone, stats.clone())];
    home.store.write_call_stats(&all, now()).unwrap();
    home.store
        .tear_down(gone, Rank::Owner, true, now())
        .unwrap();
    // Told late.
    home.store.write_call_stats(&all, now()).unwrap();
    let home = home.reopened();
    assert_eq!(home.store.call_stats().unwrap(), [(id, stats.clone())]);
    let copied = home.directory.path().join("copy.redb");
    home.store.copy_to(&copied).unwrap();
    let copy = AgentStore::open(&copied, now()).unwrap();
    assert_eq!(copy.call_stats().unwrap(), [(id, stats)]);
    assert_eq!(copy.story(id).unwrap(), home.store.story(id).unwrap());
}

#[test]
fn an_agent_that_is_nowhere_in_its_life_is_damage() {
    let home = home();
    let id = with_address(&home.store, "bot");
    let path = home.path();
    drop(home.store);
    let database = Database::open(&path).unwrap();
    let tx = database.begin_write().unwrap();
    Tables::open(&tx)
        .unwrap()
        .states
        .remove(id.0.to_bytes())
        .unwrap();
    tx.commit().unwrap();
    drop(database);
    let error = AgentStore::open(&path, now()).unwrap_err();
    assert!(error.is_damage(), "{error}");
    assert!(error.to_string().contains("nowhere in its life"), "{error}");
}
