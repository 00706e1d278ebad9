//! The directory, with agents that no store has seen.

use std::time::UNIX_EPOCH;

use aither_protocol::{CapabilitySet, Tier};
use rand::{RngExt, SeedableRng};

use super::{
    super::{Mode, Rank, records::SkillV1},
    *,
};

fn agent(number: u128, name: &str) -> Agent {
    Agent {
        id: AgentId::from_u128(number),
        name: name.into(),
        owner: AccountId(number % 2),
        mode: Mode::Hybrid,
        state: AgentState::Live,
        suspended_by: None,
        is_torn_down: false,
        version: "1.0.0".into(),
        tier: Tier::Agent,
        granted: CapabilitySet::EMPTY,
        price: 1,
        model: None,
        probe: None,
        public_key: [0; 32],
        tokens_since_ms: 0,
        created: UNIX_EPOCH,
        updated: UNIX_EPOCH,
    }
}

fn summary(name: &str, skills: &[(&str, &str)]) -> SummaryV1 {
    let skill = |(id, tag): &(&str, &str)| SkillV1 {
        id: (*id).into(),
        name: "Deep Research".into(),
        description: "Über alles".into(),
        tags: [(*tag).into()].into(),
    };
    SummaryV1 {
        name: name.into(),
        version: "1.0.0".into(),
        tier: "agent".into(),
        price: 1,
        model: None,
        skills: skills.iter().map(skill).collect(),
        probe: None,
    }
}

/// An agent that comes aboard.
fn new(number: u128, name: &str, skills: &[(&str, &str)]) -> Change {
    Change::Agent(Box::new(Listed {
        agent: agent(number, name),
        found_by: summary(name, skills),
        was_found_by: None,
        moves: Vec::new(),
    }))
}

/// The same one in another state, or with other skills.
fn changed(agent: Agent, was: &SummaryV1, found_by: &SummaryV1) -> Change {
    let moves = vec![moved(agent.id.as_u128(), AgentState::Boot, agent.state)];
    Change::Agent(Box::new(Listed {
        agent,
        moves,
        found_by: found_by.clone(),
        was_found_by: Some(was.clone()),
    }))
}

fn moved(number: u128, from: AgentState, to: AgentState) -> Moved {
    Moved {
        id: AgentId::from_u128(number),
        time_ms: 1,
        from,
        to,
        reason: "it is tested".into(),
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
        new(1, "alpha-bot", &[("research", "web")]),
        new(2, "beta", &[("research", "math"), ("sum", "x")]),
        new(3, "gamma-bot", &[("sum", "Math")]),
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
        directory.apply(vec![new(number, &name, &[("s", "t")])]);
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
    let (old, now) = (
        summary("alpha", &[("old", "t")]),
        summary("alpha", &[("new", "u")]),
    );
    directory.apply(vec![
        new(1, "alpha", &[("old", "t")]),
        Change::Key([1; 32], id, 1),
        changed(agent(1, "alpha"), &old, &now),
    ]);
    assert!(names(&directory, query("old")).is_empty());
    assert_eq!(names(&directory, query("new")), ["alpha"]);
    assert_eq!(directory.skills(10), [("new".to_owned(), 1)]);
    assert!(directory.by_key(&[1; 32]).is_some());
    directory.apply(vec![Change::NoAgent(id, Box::new(now))]);
    assert!(directory.by_key(&[1; 32]).is_none() && directory.by_name("alpha").is_none());
    assert!(directory.is_empty() && directory.count_of(AccountId(1)) == 0);
    let inner = directory.read();
    assert!(inner.index.is_empty());
    assert!(inner.owners.is_empty() && inner.keys.is_empty());
}

#[test]
fn skills_of_who_is_stopped_are_not_counted_and_who_was_torn_down_is_shown_when_asked_for() {
    let directory = Directory::default();
    let skills = summary("alpha", &[("s", "t"), ("s", "t")]);
    directory.apply(vec![
        new(1, "alpha", &[("s", "t"), ("s", "t")]),
        new(2, "beta", &[("s", "t")]),
    ]);
    assert_eq!(directory.skills(10), [("s".to_owned(), 2)]);
    let stopped = |suspended_by, is_torn_down| Agent {
        state: AgentState::Stop,
        suspended_by,
        is_torn_down,
        ..agent(1, "alpha")
    };
    let in_state = |state| AgentFilter {
        state: Some(state),
        ..AgentFilter::default()
    };
    directory.apply(vec![changed(
        stopped(Some(Rank::Owner), false),
        &skills,
        &skills,
    )]);
    assert_eq!(directory.skills(10), [("s".to_owned(), 1)]);
    assert_eq!(names(&directory, query("alpha")), ["alpha"]);
    assert_eq!(directory.count_of(AccountId(1)), 1);
    directory.apply(vec![changed(stopped(None, true), &skills, &skills)]);
    assert_eq!(directory.skills(10), [("s".to_owned(), 1)]);
    assert!(names(&directory, query("alpha")).is_empty());
    assert_eq!(names(&directory, AgentFilter::default()), ["beta"]);
    assert_eq!(names(&directory, in_state(AgentState::Stop)), ["alpha"]);
    assert_eq!(names(&directory, in_state(AgentState::Live)), ["beta"]);
    assert!(names(&directory, in_state(AgentState::Boot)).is_empty());
    assert_eq!(directory.count_of(AccountId(1)), 0);
    assert_eq!(directory.left_of(AccountId(1)).0, 1);
    directory.apply(vec![changed(agent(1, "alpha"), &skills, &skills)]);
    assert_eq!(directory.skills(10), [("s".to_owned(), 2)]);
    assert_eq!(directory.left_of(AccountId(1)).0, 0);
}

#[test]
fn places_are_given_back_and_everybody_is_found_as_before() {
    let seed = 5;
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let directory = Directory::default();
    let count: u128 = 3 * EMPTY_KEPT as u128;
    let name = |number: u128| format!("bot-{number}");
    let tag = |number: u128| format!("tag{}", number % 7);
    let hash = |number: u128| -> SecretHash {
        let mut hash = [0; 32];
        hash[..16].copy_from_slice(&number.to_be_bytes());
        hash
    };
    for number in 1..=count {
        let id = AgentId::from_u128(number);
        directory.apply(vec![
            new(number, &name(number), &[("s", &tag(number))]),
            Change::Key(hash(number), id, 1),
        ]);
    }
    let mut left: Vec<_> = (1..=count).collect();
    while left.len() > 50 {
        let number = left.remove(random.random_range(0..left.len()));
        let found_by = summary(&name(number), &[("s", &tag(number))]);
        let id = AgentId::from_u128(number);
        directory.apply(vec![Change::NoAgent(id, Box::new(found_by))]);
    }
    let slots = directory.read().slots.len();
    assert!(slots <= 2 * EMPTY_KEPT + 100, "SEED={seed}: {slots}");
    assert_eq!(directory.len(), 50);
    for number in &left {
        let found = directory.by_key(&hash(*number)).unwrap();
        assert_eq!(found.id, AgentId::from_u128(*number), "SEED={seed}");
        assert_eq!(directory.keys_of(found.id), [hash(*number)]);
        assert_eq!(directory.by_name(&name(*number)).unwrap().id, found.id);
    }
    for wanted in 0..7 {
        let of_tag = left.iter().filter(|number| *number % 7 == wanted);
        let expected: Vec<_> = of_tag.map(|number| name(*number)).collect();
        let filter = AgentFilter {
            tag: Some(tag(wanted)),
            ..AgentFilter::default()
        };
        assert_eq!(names(&directory, filter), expected, "SEED={seed}");
    }
    assert_eq!(directory.skills(1), [("s".to_owned(), 50)]);
    // Who comes aboard now has a place of its own.
    directory.apply(vec![new(count + 1, "late", &[("s", "t")])]);
    assert_eq!(names(&directory, query("late")), ["late"]);
}

#[test]
fn a_move_counts_at_once_and_skills_once_it_is_written() {
    use AgentState::{Heal, Live, Pain};
    let directory = Directory::default();
    let skills = summary("alpha", &[("s", "t")]);
    directory.apply(vec![new(1, "alpha", &[("s", "t")])]);
    let state = || directory.by_name("alpha").unwrap().state;
    assert!(directory.move_on(moved(1, Live, Pain)));
    assert!(directory.move_on(moved(1, Pain, Heal)));
    assert_eq!(state(), Heal);
    // What was believed of it a moment ago moves it no more.
    assert!(!directory.move_on(moved(1, Live, Pain)));
    assert!(!directory.move_on(moved(2, Live, Pain)));
    assert_eq!(directory.unwritten(9).len(), 2);
    assert_eq!(directory.unwritten(1), [moved(1, Live, Pain)]);
    assert_eq!(directory.skills(9), [("s".to_owned(), 1)]);
    let id = AgentId::from_u128(1);
    directory.apply(vec![Change::Written(2, vec![(id, skills.clone())])]);
    assert!(directory.skills(9).is_empty() && !directory.has_unwritten());
    assert!(directory.move_on(moved(1, Heal, Live)));
    directory.apply(vec![Change::Written(1, vec![(id, skills)])]);
    assert_eq!(directory.skills(9), [("s".to_owned(), 1)]);
    let told = directory.take_untold();
    let told: Vec<_> = told.iter().map(|(_, moved)| moved.to).collect();
    assert_eq!(told, [Pain, Heal, Live]);
    assert!(directory.take_untold().is_empty());
}

#[test]
fn a_change_without_a_move_keeps_the_state_and_an_order_overtakes_what_waits() {
    use AgentState::{Live, Pain, Stop};
    let directory = Directory::default();
    let skills = summary("alpha", &[("s", "t")]);
    directory.apply(vec![new(1, "alpha", &[("s", "t")])]);
    assert!(directory.move_on(moved(1, Live, Pain)));
    let mut renewed = match changed(agent(1, "alpha"), &skills, &skills) {
        Change::Agent(listed) => listed,
        _ => unreachable!(),
    };
    renewed.moves.clear();
    directory.apply(vec![Change::Agent(renewed)]);
    assert_eq!(directory.by_name("alpha").unwrap().state, Pain);
    assert!(directory.has_unwritten());
    let stopped = Agent {
        state: Stop,
        ..agent(1, "alpha")
    };
    directory.apply(vec![changed(stopped, &skills, &skills)]);
    assert_eq!(directory.by_name("alpha").unwrap().state, Stop);
    assert!(!directory.has_unwritten());
}
