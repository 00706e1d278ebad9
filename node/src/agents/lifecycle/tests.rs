//! The machine of a life, its orders and the times of many, all with told time.

use std::collections::{HashMap, HashSet};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::agents::{AgentId, Rank};

const INTERVAL: Duration = Duration::from_secs(30);
const SEED: u64 = 7;

/// A life with a clock of its own.
struct Told {
    life: Life,
    start: Instant,
    now: Instant,
    moves: Vec<(AgentState, AgentState, String)>,
}

impl Told {
    fn new(state: AgentState) -> Self {
        let start = Instant::now();
        let mut told = Self {
            life: Life::new(state, start),
            start,
            now: start,
            moves: Vec::new(),
        };
        told.tell(Input::Placed {
            state,
            interval: Some(INTERVAL),
        });
        told
    }

    /// Tells it something; returns whether it wants to be asked.
    fn tell(&mut self, input: Input<'_>) -> bool {
        let mut wants_probe = false;
        for output in self.life.step(input, self.now, SEED) {
            match output {
                Output::Moved { from, to, reason } => {
                    assert!(is_legal(from, to), "{from:?} to {to:?}: {reason}");
                    assert!(!reason.is_empty());
                    self.moves.push((from, to, reason.into_owned()));
                }
                Output::Probe => wants_probe = true,
                Output::WakeAt(at) => assert!(self.life.wake_at <= Some(at)),
            }
        }
        wants_probe
    }

    /// Lets time pass second by second, and answers every probe like this. Returns the seconds
    /// since the start at which there were probes.
    fn pass(&mut self, seconds: u64, answer: Result<(), &str>) -> Vec<u64> {
        let mut asked = Vec::new();
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            if self.life.wake_at.is_some_and(|at| at <= self.now) && self.tell(Input::Time) {
                asked.push((self.now - self.start).as_secs());
                self.tell(Input::Probed(answer));
            }
        }
        asked
    }

    fn ended(&mut self, end: Ended<'_>) {
        self.tell(Input::Ended(end));
    }

    fn load(&mut self, running: u32, waiting: u32) {
        self.tell(Input::Loaded {
            running,
            waiting,
            max: 5,
        });
    }

    fn states(&self) -> Vec<AgentState> {
        self.moves.iter().map(|(_, to, _)| *to).collect()
    }

    fn last_reason(&self) -> &str {
        self.moves.last().map_or("", |(_, _, reason)| reason)
    }

    /// Brings it into HEAL by failing probes.
    fn broken() -> Self {
        let mut told = Self::new(State::Live);
        while told.life.state() != State::Heal {
            told.pass(1, Err("it is down"));
        }
        told
    }
}

#[test]
fn an_agent_that_is_not_up_is_asked_soon_and_then_ever_more_rarely() {
    let mut told = Told::new(State::Boot);
    told.tell(Input::Asking);
    told.tell(Input::Probed(Err("it is not up")));
    let asked = told.pass(120, Err("it is not up"));
    assert_eq!(asked, [1, 3, 7, 15, 31, 61, 91]);
    assert!(told.moves.is_empty());
    told.pass(30, Ok(()));
    assert_eq!(told.states(), [State::Live]);
}

#[test]
fn a_living_agent_is_asked_at_its_interval() {
    let mut told = Told::new(State::Boot);
    told.tell(Input::Probed(Ok(())));
    assert_eq!(told.pass(100, Ok(())), [30, 60, 90]);
    assert_eq!(told.states(), [State::Live]);
    assert_eq!(
        told.life.checked().map(|(_, is_healthy)| is_healthy),
        Some(true)
    );
}

#[test]
fn three_failing_probes_are_pain_and_two_good_ones_end_it() {
    let mut told = Told::new(State::Live);
    told.pass(3, Err("it answered 503"));
    assert!(told.moves.is_empty(), "two are no pain");
    told.pass(2, Err("it answered 503"));
    assert_eq!(told.states(), [State::Pain]);
    assert_eq!(
        told.last_reason(),
        "3 probes in a row have failed, the last: it answered 503"
    );
    assert_eq!(told.life.admit(told.now), Admission::Pass);
    told.pass(6, Ok(()));
    assert_eq!(told.states(), [State::Pain], "one good one may be luck");
    told.pass(6, Ok(()));
    assert_eq!(told.states(), [State::Pain, State::Live]);
    // What was before does not count any more.
    told.tell(Input::Probed(Err("x")));
    told.tell(Input::Probed(Err("x")));
    assert_eq!(told.life.state(), State::Live);
}

#[test]
fn a_good_probe_between_failures_makes_them_none_in_a_row() {
    let mut told = Told::new(State::Live);
    for _ in 0..10 {
        told.tell(Input::Probed(Err("x")));
        told.tell(Input::Probed(Err("x")));
        told.tell(Input::Probed(Ok(())));
        told.ended(Ended::TimedOut);
        told.ended(Ended::Failed("y"));
        told.ended(Ended::Answered);
    }
    assert!(told.moves.is_empty());
}

#[test]
fn failing_calls_are_pain_whatever_probes_say_and_open_the_circuit_when_they_go_on() {
    let mut told = Told::new(State::Live);
    for _ in 0..2 {
        told.ended(Ended::Failed("it broke off"));
        told.tell(Input::Probed(Ok(())));
    }
    told.ended(Ended::Canceled);
    assert!(told.moves.is_empty());
    told.ended(Ended::TimedOut);
    assert_eq!(told.states(), [State::Pain]);
    assert_eq!(
        told.last_reason(),
        "3 calls in a row have failed, the last: it took too long"
    );
    for _ in 0..3 {
        assert_eq!(told.life.state(), State::Pain);
        told.ended(Ended::Failed("it broke off"));
    }
    assert_eq!(told.life.state(), State::Heal);
    assert_eq!(told.last_reason(), "it goes on failing: it broke off");
}

#[test]
fn pain_by_calls_lasts_half_a_minute_at_least() {
    let mut told = Told::new(State::Live);
    (0..3).for_each(|_| told.ended(Ended::TimedOut));
    (0..9).for_each(|_| told.ended(Ended::Answered));
    told.pass(25, Ok(()));
    assert_eq!(told.states(), [State::Pain]);
    told.pass(11, Ok(()));
    assert_eq!(told.states(), [State::Pain, State::Live]);
}

#[test]
fn load_is_pain_when_it_lasts_or_calls_are_turned_away() {
    let mut told = Told::new(State::Live);
    told.load(5, 5);
    told.pass(9, Ok(()));
    told.load(5, 4);
    told.load(5, 5);
    told.pass(9, Ok(()));
    assert!(told.moves.is_empty(), "a peak is no pain");
    told.pass(1, Ok(()));
    assert_eq!(told.states(), [State::Pain]);
    told.pass(120, Ok(()));
    assert_eq!(told.states(), [State::Pain], "it is as much as ever");
    told.load(1, 0);
    told.pass(6, Ok(()));
    assert_eq!(told.states(), [State::Pain, State::Live]);
    let mut told = Told::new(State::Live);
    for _ in 0..5 {
        told.tell(Input::TurnedAway);
        told.tell(Input::TurnedAway);
        told.pass(11, Ok(()));
    }
    assert!(told.moves.is_empty());
    for _ in 0..3 {
        told.tell(Input::TurnedAway);
    }
    assert_eq!(told.states(), [State::Pain]);
    told.pass(36, Ok(()));
    assert_eq!(told.states(), [State::Pain, State::Live]);
}

#[test]
fn an_open_circuit_is_tried_at_growing_pauses_and_two_good_trials_close_it() {
    let mut told = Told::broken();
    assert_eq!(told.states(), [State::Pain, State::Heal]);
    let opened = (told.now - told.start).as_secs();
    let asked = told.pass(1500, Err("it is down"));
    let pauses = asked.iter().scan(opened, |before, at| {
        let pause = at - *before;
        *before = *at;
        Some(pause)
    });
    let pauses: Vec<_> = pauses.collect();
    // By seconds, and with a fifth of chance.
    for (pause, told) in pauses.iter().zip([5, 10, 20, 40, 80, 160, 300, 300]) {
        let bounds = (told * 8 / 10)..=(told * 12 / 10 + 1);
        assert!(bounds.contains(pause), "{pauses:?}");
    }
    assert!(pauses.len() >= 8, "{pauses:?}");
    assert_eq!(
        told.states(),
        [State::Pain, State::Heal],
        "each opens it again"
    );
    told.pass(400, Ok(()));
    assert_eq!(told.states(), [State::Pain, State::Heal, State::Live]);
    // It breaks again soon, and goes on where it was.
    while told.life.state() != State::Heal {
        told.pass(1, Err("it is down"));
    }
    assert!(told.pass(200, Err("it is down")).is_empty());
}

#[test]
fn one_good_trial_does_not_close_the_circuit() {
    let mut told = Told::broken();
    while !told.tell(Input::Time) {
        told.now += Duration::from_secs(1);
    }
    told.tell(Input::Probed(Ok(())));
    told.tell(Input::Probed(Err("x")));
    told.tell(Input::Probed(Ok(())));
    assert_eq!(told.life.state(), State::Heal);
    told.tell(Input::Probed(Ok(())));
    assert_eq!(told.life.state(), State::Live);
}

#[test]
fn while_the_circuit_is_open_one_call_at_a_time_is_a_trial() {
    let mut told = Told::broken();
    let refused = told.life.admit(told.now);
    let Admission::Refused {
        reason,
        retry_after,
    } = refused
    else {
        panic!("{refused:?}");
    };
    assert!(reason.ends_with("again and again: it is down"), "{reason}");
    assert!(retry_after.is_some_and(|after| after <= TRIAL_PAUSE * 2));
    told.now += TRIAL_PAUSE * 2;
    assert_eq!(told.life.admit(told.now), Admission::Trial);
    assert!(matches!(
        told.life.admit(told.now),
        Admission::Refused { .. }
    ));
    // Whoever leaves makes room for another.
    told.ended(Ended::Canceled);
    assert_eq!(told.life.admit(told.now), Admission::Trial);
    // A call from before the circuit was opened is not told from the trial, one after it is.
    told.ended(Ended::Answered);
    told.ended(Ended::Answered);
    assert_eq!(told.life.state(), State::Heal);
    told.now += Duration::from_secs(2);
    assert_eq!(told.life.admit(told.now), Admission::Trial);
    told.ended(Ended::Failed("no"));
    assert!(matches!(
        told.life.admit(told.now),
        Admission::Refused { .. }
    ));
    told.now += TRIAL_PAUSE * 4;
    for _ in 0..2 {
        assert_eq!(told.life.state(), State::Heal);
        assert_eq!(told.life.admit(told.now), Admission::Trial);
        told.ended(Ended::Answered);
        told.now += Duration::from_secs(2);
    }
    assert_eq!(told.life.state(), State::Live);
    assert_eq!(told.life.admit(told.now), Admission::Pass);
}

#[test]
fn a_trial_whose_end_nobody_tells_blocks_the_next_for_a_while_only() {
    for (running, longest) in [(0, TRIAL_BEGIN_MAX), (1, TRIAL_TIME_MAX)] {
        let mut told = Told::broken();
        told.now += TRIAL_PAUSE * 2;
        assert_eq!(told.life.admit(told.now), Admission::Trial);
        told.load(running, 0);
        told.now += longest - Duration::from_secs(1);
        let refused = told.life.admit(told.now);
        assert!(matches!(refused, Admission::Refused { .. }));
        told.now += Duration::from_secs(1);
        assert_eq!(told.life.admit(told.now), Admission::Trial);
    }
}

#[test]
fn who_is_drained_finishes_what_it_has_or_runs_out_of_time() {
    let drain = Input::Placed {
        state: State::Drain,
        interval: Some(INTERVAL),
    };
    let mut told = Told::new(State::Live);
    told.tell(drain);
    assert_eq!(told.states(), [State::Stop], "it had nothing");
    for finishes in [true, false] {
        let mut told = Told::new(State::Live);
        told.load(1, 1);
        told.tell(drain);
        assert!(matches!(
            told.life.admit(told.now),
            Admission::Refused {
                retry_after: None,
                ..
            }
        ));
        assert!(told.pass(59, Ok(())).is_empty(), "nobody asks it any more");
        told.load(1, 0);
        assert!(told.moves.is_empty());
        if finishes {
            told.load(0, 0);
            assert_eq!(told.last_reason(), "it has finished what it had");
        } else {
            told.pass(1, Ok(()));
            assert_eq!(told.last_reason(), "its time to finish what it had is over");
        }
        assert_eq!(told.states(), [State::Stop]);
    }
}

#[test]
fn an_unused_agent_is_asked_on_use_only() {
    let mut told = Told::new(State::Boot);
    told.tell(Input::Probed(Ok(())));
    let asked = told.pass(3 * 3600, Ok(()));
    assert_eq!(asked.len(), 119, "an hour long");
    assert_eq!(told.life.admit(told.now), Admission::AskFirst);
    told.tell(Input::Asking);
    told.tell(Input::Probed(Ok(())));
    assert_eq!(told.life.admit(told.now), Admission::Pass);
    assert_eq!(told.pass(300, Ok(())).len(), 10);
    // One that never came up is still asked, if rarely: nobody would use it otherwise.
    let mut told = Told::new(State::Boot);
    told.pass(3600, Err("it is not up"));
    let asked = told.pass(3 * 3600, Err("it is not up"));
    assert!((17..=20).contains(&asked.len()), "{asked:?}");
    // A call that runs is a use.
    let mut told = Told::new(State::Boot);
    told.tell(Input::Probed(Ok(())));
    told.load(1, 0);
    assert!(told.pass(2 * 3600, Ok(())).len() > 200);
}

#[test]
fn one_that_is_not_up_is_asked_for_each_call_but_not_within_a_second() {
    let mut told = Told::new(State::Boot);
    assert_eq!(told.life.admit(told.now), Admission::AskFirst);
    told.tell(Input::Asking);
    told.tell(Input::Probed(Err("it is not up")));
    let Admission::Refused { reason, .. } = told.life.admit(told.now) else {
        panic!("it was asked a moment ago");
    };
    assert_eq!(reason, "it has not been found healthy: it is not up");
    told.now += Duration::from_secs(1);
    assert_eq!(told.life.admit(told.now), Admission::AskFirst);
}

#[test]
fn a_probe_whose_answer_nobody_tells_is_made_again() {
    let mut told = Told::new(State::Boot);
    assert!(told.tell(Input::Time));
    for _ in 0..9 {
        told.now += Duration::from_secs(1);
        assert!(!told.tell(Input::Time));
    }
    told.now += Duration::from_secs(1);
    assert!(told.tell(Input::Time));
}

#[test]
fn one_without_an_address_lives_and_nobody_asks_it() {
    let from_nothing = ordered(State::Deploy, Order::Onboard, false);
    let states: Vec<_> = from_nothing.iter().map(|(to, _)| *to).collect();
    assert_eq!(states, [State::Init, State::Boot, State::Live]);
    let mut life = Life::new(State::Live, Instant::now());
    let input = Input::Placed {
        state: State::Live,
        interval: None,
    };
    let now = Instant::now();
    assert!(life.step(input, now, SEED).is_empty());
    for _ in 0..20 {
        assert!(
            life.step(Input::Ended(Ended::TimedOut), now, SEED)
                .is_empty()
        );
    }
    let later = now + UNUSED_AFTER * 2;
    assert!(life.step(Input::Time, later, SEED).is_empty());
}

#[test]
fn orders_lead_where_they_should_and_only_by_moves_that_there_are() {
    let ranks = Rank::ALL;
    let mut orders = vec![
        Order::Onboard,
        Order::OnboardAgain,
        Order::ReplaceCard,
        Order::Shutdown,
    ];
    for rank in ranks {
        orders.extend([
            Order::Suspend(rank),
            Order::Drain(rank),
            Order::Resume(rank),
            Order::TearDown(rank),
        ]);
    }
    for from in AgentState::ALL {
        for order in &orders {
            for has_address in [true, false] {
                let mut at = from;
                for (to, reason) in ordered(from, *order, has_address) {
                    let is_new = matches!((from, order), (State::Deploy | State::Init, _));
                    assert!(
                        is_new || is_legal(at, to),
                        "{from:?} {order:?}: {at:?} {to:?}"
                    );
                    assert!(!reason.is_empty());
                    at = to;
                }
                assert!(has_address || at != State::Boot || from == State::Init);
            }
        }
    }
    let end = |from, order| ordered(from, order, true).last().map(|(to, _)| *to);
    for from in [State::Live, State::Pain, State::Heal] {
        assert_eq!(end(from, Order::Shutdown), Some(State::Stop));
        assert_eq!(end(from, Order::ReplaceCard), Some(State::Boot));
        assert_eq!(end(from, Order::Drain(Rank::Owner)), Some(State::Drain));
    }
    assert_eq!(end(State::Stop, Order::ReplaceCard), None);
    assert_eq!(end(State::Boot, Order::Shutdown), None);
    assert_eq!(
        end(State::Drain, Order::Resume(Rank::Owner)),
        Some(State::Boot)
    );
}

#[test]
fn a_start_asks_whoever_has_an_address_and_leaves_aside_who_was_set_aside() {
    for was in AgentState::ALL {
        assert_eq!(at_start(was, true, true), State::Stop);
        assert_eq!(at_start(was, false, true), State::Boot);
    }
    assert_eq!(at_start(State::Live, false, false), State::Live);
}

fn random_input(random: &mut ChaCha8Rng) -> Input<'static> {
    let end = match random.random_range(0..4) {
        0 => Ended::Answered,
        1 => Ended::Failed("it failed"),
        2 => Ended::TimedOut,
        _ => Ended::Canceled,
    };
    match random.random_range(0..16) {
        0..3 => Input::Probed(Ok(())),
        3..7 => Input::Probed(Err("it is not well")),
        7..11 => Input::Ended(end),
        11 | 12 => Input::Loaded {
            running: random.random_range(0..8),
            waiting: random.random_range(0..12),
            max: 5,
        },
        13 => Input::TurnedAway,
        14 => Input::Asking,
        _ => Input::Time,
    }
}

fn random_order(random: &mut ChaCha8Rng) -> Order {
    let rank = Rank::ALL[random.random_range(0..3)];
    match random.random_range(0..7) {
        0 => Order::Suspend(rank),
        1 => Order::Drain(rank),
        2 | 3 => Order::Resume(rank),
        4 => Order::OnboardAgain,
        5 => Order::ReplaceCard,
        _ => Order::TearDown(rank),
    }
}

/// Plays a random life; every move is checked by [`Told::tell`].
fn random_life(seed: u64) -> Told {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut told = Told::new(State::Boot);
    for _ in 0..400 {
        told.now += Duration::from_millis(random.random_range(0..8000));
        if random.random_range(0..40) == 0 {
            let order = random_order(&mut random);
            let from = told.life.state();
            for (to, reason) in ordered(from, order, true) {
                let before = told.moves.last().map_or(from, |(_, to, _)| *to);
                assert!(is_legal(before, to), "SEED={seed}");
                told.moves.push((before, to, reason.into_owned()));
                told.tell(Input::Placed {
                    state: to,
                    interval: Some(INTERVAL),
                });
            }
            continue;
        }
        if random.random_range(0..5) == 0 {
            told.life.admit(told.now);
        }
        let input = random_input(&mut random);
        told.tell(input);
    }
    told
}

#[test]
fn no_life_makes_a_move_that_there_is_not_and_each_begins_where_the_last_ended() {
    let mut seen = HashSet::new();
    for seed in 0..300 {
        let told = random_life(seed);
        let mut at = State::Boot;
        for (from, to, reason) in &told.moves {
            assert_eq!(*from, at, "SEED={seed}");
            assert!(!reason.is_empty() && reason.len() < 400, "SEED={seed}");
            seen.insert((*from, *to));
            at = *to;
        }
        assert_eq!(at, told.life.state(), "SEED={seed}");
    }
    let all = LEGAL
        .iter()
        .flat_map(|(from, to)| to.iter().map(|to| (*from, *to)));
    for (from, to) in all.filter(|(from, _)| !matches!(from, State::Deploy | State::Init)) {
        assert!(
            seen.contains(&(from, to)),
            "{from:?} to {to:?} was never made"
        );
    }
}

#[test]
fn the_same_inputs_make_the_same_life() {
    for seed in 0..20 {
        assert_eq!(
            random_life(seed).moves,
            random_life(seed).moves,
            "SEED={seed}"
        );
    }
}

#[test]
fn whatever_has_happened_an_agent_that_is_well_again_is_live_again() {
    for seed in 0..300 {
        let mut told = random_life(seed);
        told.load(0, 0);
        if matches!(told.life.state(), State::Stop | State::Drain) {
            told.tell(Input::Placed {
                state: State::Boot,
                interval: Some(INTERVAL),
            });
        }
        // One that fell asleep meanwhile is woken by a call.
        told.life.admit(told.now);
        told.tell(Input::Asking);
        told.pass(700, Ok(()));
        assert_eq!(told.life.state(), State::Live, "SEED={seed}");
    }
}

fn id(number: u128) -> AgentId {
    AgentId::from_u128(number)
}

fn boot() -> Input<'static> {
    Input::Placed {
        state: State::Boot,
        interval: Some(INTERVAL),
    }
}

#[test]
fn no_second_has_more_than_two_hundred_probes_and_nobody_waits_for_ever() {
    let mut fleet = Fleet::new(1);
    let start = Instant::now();
    let count = 10_000;
    (0..count).for_each(|n| drop(fleet.step(id(n), boot(), start)));
    let mut asked: HashMap<AgentId, u32> = HashMap::new();
    let mut times = Vec::new();
    for tick in 0..20 * 120 {
        let now = start + Duration::from_millis(50) * tick;
        for (id, output) in fleet.due(now, usize::MAX) {
            assert_eq!(output, Output::Probe);
            *asked.entry(id).or_default() += 1;
            times.push(now);
            // It fails, so that it is to be asked again soon.
            fleet.step(id, Input::Probed(Err("x")), now);
        }
    }
    assert_eq!(asked.len(), count as usize, "everybody has had a turn");
    let mut first = 0;
    for last in 0..times.len() {
        while times[last] - times[first] >= Duration::from_secs(1) {
            first += 1;
        }
        assert!(last - first < 200, "{} in a second", last - first + 1);
    }
    assert!(times.len() > 120 * 170, "{} are too few", times.len());
}

#[test]
fn who_is_waited_for_has_a_turn_however_many_are_due() {
    let mut fleet = Fleet::new(1);
    let now = Instant::now();
    (0..1000).for_each(|n| drop(fleet.step(id(n), boot(), now)));
    assert_eq!(fleet.due(now, usize::MAX).len(), 20);
    assert!(fleet.due(now, usize::MAX).is_empty());
    let turn = fleet.pace().take(now, Duration::from_secs(1)).unwrap();
    assert!(turn - now < Duration::from_millis(10), "{:?}", turn - now);
    // So many wait that more would wait too long.
    let waiting = (0..500).filter(|_| fleet.pace().take(now, Duration::from_secs(1)).is_some());
    let waiting = waiting.count();
    assert!((170..=181).contains(&waiting), "{waiting}");
    let later = now + Duration::from_secs(10);
    assert_eq!(
        fleet.due(later, 7).len(),
        7,
        "no more than may be under way"
    );
}

#[test]
fn a_drain_ends_in_time_however_many_wait_to_be_asked() {
    let mut fleet = Fleet::new(1);
    let start = Instant::now();
    (0..50_000).for_each(|n| drop(fleet.step(id(n), boot(), start)));
    let busy = Input::Loaded {
        running: 1,
        waiting: 0,
        max: 5,
    };
    let drain = Input::Placed {
        state: State::Drain,
        interval: Some(INTERVAL),
    };
    fleet.step(id(1), busy, start);
    fleet.step(id(1), drain, start);
    let end = start + DRAIN_TIME_MAX;
    let early = fleet.due(end - Duration::from_millis(50), usize::MAX);
    assert!(early.iter().all(|(_, output)| *output == Output::Probe));
    let due = fleet.due(end, 0);
    assert_eq!(due.len(), 1);
    assert!(matches!(&due[0], (who, Output::Moved { to: State::Stop, .. }) if *who == id(1)));
}

#[test]
fn times_that_were_overtaken_are_let_go_of() {
    let mut fleet = Fleet::new(1);
    let start = Instant::now();
    for n in 0..10 {
        fleet.step(id(n), boot(), start);
    }
    // Each card that is replaced makes a new time before the one that was told.
    for round in 0..10_000_u32 {
        let now = start + Duration::from_micros(1) * round;
        fleet.step(id(u128::from(round % 10)), Input::Asking, now);
        fleet.step(id(u128::from(round % 10)), boot(), now);
        fleet.step(id(u128::from(round % 10)), Input::Time, now);
    }
    assert!(fleet.times_len() < 2000, "{}", fleet.times_len());
    fleet.forget(id(3));
    assert!(fleet.life(id(3)).is_none());
    let due = fleet.due(start + Duration::from_secs(60), usize::MAX);
    assert_eq!(due.len(), 9, "each once, and not who has left");
}

#[test]
fn agents_that_fail_together_are_not_tried_together() {
    let mut fleet = Fleet::new(3);
    let now = Instant::now();
    let mut tried = HashSet::new();
    for n in 0..50 {
        fleet.step(
            id(n),
            Input::Placed {
                state: State::Live,
                interval: Some(INTERVAL),
            },
            now,
        );
        (0..6).for_each(|_| drop(fleet.step(id(n), Input::Probed(Err("x")), now)));
        let life = fleet.life(id(n)).unwrap();
        assert_eq!(life.state(), State::Heal);
        tried.insert(life.probe_at);
    }
    assert!(tried.len() > 45, "{}", tried.len());
}
