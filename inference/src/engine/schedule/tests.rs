//! The machine alone, told all times.

use std::collections::HashMap;

use super::*;

const MODEL: ModelId = ModelId(1);
const PASSES_MAX: u64 = 100;

fn limits(running_max: usize, queue_len_max: usize) -> Limits {
    Limits {
        running_max,
        queue_len_max,
        rows_max: 64,
    }
}

fn terms() -> Terms {
    Terms {
        model: MODEL,
        weight: 1.0,
        priority: 0,
        deadline: None,
        prompt_rows: 10,
        passes_max: PASSES_MAX,
    }
}

fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

/// A schedule with a clock.
struct Fixture {
    schedule: Schedule<u32>,
    now: Instant,
}

impl Fixture {
    fn new(limits: Limits) -> Self {
        Self {
            schedule: Schedule::new(limits),
            now: Instant::now(),
        }
    }

    fn enqueue(&mut self, job: u32, terms: Terms) -> Result<(), Refusal> {
        let refused = self.schedule.enqueue(job, terms, self.now);
        refused.map_err(|(_, refusal)| refusal)
    }

    fn start(&mut self) -> Option<(RunId, u32)> {
        self.schedule.start_next(|_| Verdict::Start, self.now)
    }

    /// Enqueues and starts a request.
    fn run(&mut self, terms: Terms) -> RunId {
        self.enqueue(0, terms).unwrap();
        self.start().unwrap().0
    }

    /// Composes a pass and has it take a time.
    fn pass(&mut self, want: impl FnMut(RunId) -> Option<Want>, took: Duration) -> Option<Pass> {
        let pass = self.schedule.compose(want)?;
        let rows = pass.shares.iter().map(|share| share.rows).sum();
        self.schedule.passed(&pass, rows, took);
        self.now += took;
        Some(pass)
    }

    /// Runs a request that takes so many passes of a second, alone.
    fn run_passes(&mut self, passes: u64) -> RunId {
        let id = self.run(terms());
        for _ in 0..passes {
            let only = |other| (other == id).then_some(Want::Answer(1));
            self.pass(only, Duration::from_secs(1)).unwrap();
        }
        id
    }

    fn retry_seconds(&self) -> u64 {
        match self.schedule.check_room() {
            Err(Refusal::Full { retry_after }) => retry_after.as_secs(),
            other => panic!("{other:?}"),
        }
    }
}

fn answering(_: RunId) -> Option<Want> {
    Some(Want::Answer(1))
}

#[test]
fn requests_start_in_order_of_arrival() {
    let mut fixture = Fixture::new(limits(2, 10));
    for job in 0..4 {
        fixture.enqueue(job, terms()).unwrap();
    }
    let (first, job) = fixture.start().unwrap();
    assert_eq!(job, 0);
    assert_eq!(fixture.start().unwrap().1, 1);
    assert_eq!(fixture.start(), None, "both places are taken");
    fixture.schedule.finished(first, false);
    assert_eq!(fixture.start().unwrap().1, 2);
}

#[test]
fn a_higher_priority_starts_first_but_waiting_makes_up_for_it() {
    let mut fixture = Fixture::new(limits(9, 9));
    let with = |priority| Terms {
        priority,
        ..terms()
    };
    fixture.enqueue(0, with(0)).unwrap();
    fixture.enqueue(1, with(2)).unwrap();
    fixture.enqueue(2, with(-1)).unwrap();
    assert_eq!(fixture.start().unwrap().1, 1);
    fixture.now += 3 * AGING;
    fixture.enqueue(3, with(2)).unwrap();
    let order: Vec<u32> = std::iter::from_fn(|| fixture.start())
        .map(|of| of.1)
        .collect();
    assert_eq!(order, [0, 2, 3]);
}

#[test]
fn the_queue_is_bounded_and_free_places_count() {
    let mut fixture = Fixture::new(limits(2, 1));
    for job in 0..3 {
        fixture.enqueue(job, terms()).unwrap();
    }
    let retry_after = Duration::from_secs(1);
    assert_eq!(
        fixture.enqueue(3, terms()),
        Err(Refusal::Full { retry_after })
    );
    fixture.start().unwrap();
    assert!(
        fixture.enqueue(3, terms()).is_err(),
        "one place fewer, one waiting fewer"
    );
    let (id, _) = fixture.start().unwrap();
    assert!(fixture.enqueue(3, terms()).is_err());
    fixture.schedule.finished(id, false);
    fixture.enqueue(3, terms()).unwrap();
    assert_eq!(fixture.schedule.waiting_len(), 2);
}

#[test]
fn without_a_queue_a_free_place_is_enough() {
    let mut fixture = Fixture::new(limits(1, 0));
    fixture.enqueue(0, terms()).unwrap();
    assert!(fixture.enqueue(1, terms()).is_err());
    let (id, _) = fixture.start().unwrap();
    assert!(fixture.enqueue(1, terms()).is_err());
    fixture.schedule.finished(id, false);
    fixture.enqueue(1, terms()).unwrap();
}

#[test]
fn nobody_runs_in_an_empty_schedule() {
    let mut fixture = Fixture::new(limits(1, 1));
    assert_eq!(fixture.start(), None);
    assert_eq!(fixture.schedule.compose(answering), None);
    let id = fixture.run(terms());
    assert_eq!(
        fixture.schedule.compose(|_| None),
        None,
        "nothing is wanted"
    );
    fixture.schedule.finished(id, true);
    assert_eq!(fixture.schedule.compose(answering), None);
}

#[test]
fn one_whose_model_loads_is_passed_but_one_that_needs_memory_is_not() {
    let mut fixture = Fixture::new(limits(4, 4));
    for job in 0..3 {
        fixture.enqueue(job, terms()).unwrap();
    }
    let judge = |verdict| move |job: &u32| if *job == 0 { verdict } else { Verdict::Start };
    let now = fixture.now;
    let mut start = |verdict| {
        let started = fixture.schedule.start_next(judge(verdict), now);
        started.map(|(_, job)| job)
    };
    assert_eq!(start(Verdict::HoldUp), None);
    assert_eq!(start(Verdict::LetPass), Some(1));
    assert_eq!(start(Verdict::Start), Some(0));
}

#[test]
fn removing_keeps_the_order_of_the_others() {
    let mut fixture = Fixture::new(limits(9, 9));
    for job in 0..6 {
        fixture.enqueue(job, terms()).unwrap();
    }
    assert_eq!(
        fixture.schedule.remove_waiting(|job| job % 2 == 1),
        [1, 3, 5]
    );
    let left: Vec<u32> = std::iter::from_fn(|| fixture.start())
        .map(|run| run.1)
        .collect();
    assert_eq!(left, [0, 2, 4]);
}

#[test]
fn every_pass_has_a_row_for_each_answer() {
    let mut fixture = Fixture::new(limits(9, 9));
    let ids: Vec<RunId> = (0..3).map(|_| fixture.run(terms())).collect();
    for _ in 0..10 {
        let pass = fixture.pass(answering, ms(5)).unwrap();
        let shares = pass.shares.iter();
        assert!(
            shares
                .map(|share| (share.id, share.rows))
                .eq(ids.iter().map(|id| (*id, 1)))
        );
    }
}

#[test]
fn answers_share_by_weight_and_priority() {
    let mut fixture = Fixture::new(limits(9, 9));
    let of = |weight, priority| Terms {
        weight,
        priority,
        ..terms()
    };
    let ids = [of(1.0, 0), of(2.0, 0), of(0.5, 3), of(0.3, 0)].map(|terms| fixture.run(terms));
    let mut rows: HashMap<RunId, f64> = HashMap::new();
    for _ in 0..4000 {
        for share in fixture.pass(answering, ms(5)).unwrap().shares {
            *rows.entry(share.id).or_default() += share.rows as f64;
        }
    }
    let rows = ids.map(|id| rows[&id]);
    for (rows, expected) in rows.iter().zip([1.0, 2.0, 4.0, 0.3]) {
        let share = rows / (4000.0 / 4.0);
        assert!(
            (share / expected - 1.0).abs() < 0.01,
            "{share} for {expected}"
        );
    }
}

#[test]
fn more_answers_than_fit_a_pass_take_turns() {
    let mut fixture = Fixture::new(Limits {
        rows_max: 4,
        ..limits(9, 9)
    });
    let ids: Vec<RunId> = (0..6).map(|_| fixture.run(terms())).collect();
    let mut rows: HashMap<RunId, usize> = HashMap::new();
    for _ in 0..300 {
        let pass = fixture.pass(answering, ms(5)).unwrap();
        assert_eq!(pass.shares.len(), 4);
        for share in pass.shares {
            *rows.entry(share.id).or_default() += share.rows;
        }
    }
    assert!(ids.iter().all(|id| rows[id].abs_diff(200) <= 2), "{rows:?}");
}

#[test]
fn more_rows_than_a_pass_may_have_are_one_requests_alone() {
    let mut fixture = Fixture::new(Limits {
        rows_max: 4,
        ..limits(9, 9)
    });
    fixture.run(terms());
    let pass = fixture.pass(|_| Some(Want::Answer(16)), ms(5)).unwrap();
    assert_eq!(pass.shares[0].rows, 16);
}

#[test]
fn a_prompt_leaves_time_for_the_tokens_of_others() {
    let mut fixture = Fixture::new(limits(9, 9));
    let prompting = fixture.run(terms());
    let talking = fixture.run(terms());
    let alone = |id: RunId| (id == prompting).then_some(Want::Prompt(10_000));
    // Five milliseconds for the weights and half of one for each row.
    let cost = |rows: usize| ms(5) + Duration::from_micros(500) * rows as u32;
    let pass = fixture.pass(alone, cost(256)).unwrap();
    assert_eq!(pass.shares[0].rows, PROMPT_ROWS_MAX, "nobody waits");
    let both = |id: RunId| {
        Some(if id == prompting {
            Want::Prompt(10_000)
        } else {
            Want::Answer(1)
        })
    };
    for round in 0..20 {
        let pass = fixture.schedule.compose(both).unwrap();
        let rows: usize = pass.shares.iter().map(|share| share.rows).sum();
        assert!(pass.shares.iter().any(|share| share.id == talking));
        assert!(cost(rows) <= ms(50), "{rows} rows in round {round}");
        assert!(rows > PROMPT_ROWS_MIN);
        fixture.schedule.passed(&pass, rows, cost(rows));
        if round > 2 {
            assert!(cost(rows) > ms(35), "time is used: {rows} rows");
        }
    }
    // On a machine that is too slow for both, the prompt still gets on.
    for _ in 0..500 {
        fixture.pass(both, ms(400)).unwrap();
    }
    let pass = fixture.pass(both, ms(400)).unwrap();
    let share = pass.shares.iter().find(|share| share.id == prompting);
    assert_eq!(share.unwrap().rows, PROMPT_ROWS_MIN);
}

#[test]
fn prompts_share_rows_by_weight_and_newcomers_do_not_starve_them() {
    let mut fixture = Fixture::new(limits(9, 9));
    let light = fixture.run(terms());
    let heavy = fixture.run(Terms {
        weight: 3.0,
        ..terms()
    });
    let mut rows: HashMap<RunId, f64> = HashMap::new();
    let mut newcomer = fixture.run(terms());
    for _ in 0..4000 {
        let pass = fixture.pass(|_| Some(Want::Prompt(200)), ms(50)).unwrap();
        for share in &pass.shares {
            *rows.entry(share.id).or_default() += share.rows as f64;
        }
        // There is always a short prompt that has just come.
        if pass.shares.iter().any(|share| share.id == newcomer) {
            fixture.schedule.finished(newcomer, true);
            newcomer = fixture.run(terms());
        }
    }
    let ratio = rows[&heavy] / rows[&light];
    assert!((ratio - 3.0).abs() < 0.1, "{ratio}");
    let all: f64 = rows.values().sum();
    assert!(rows[&light] > all / 5.5, "{} of {all}", rows[&light]);
}

#[test]
fn models_take_turns_by_time_and_weight() {
    let mut fixture = Fixture::new(limits(9, 9));
    let on = |model| Terms {
        model: ModelId(model),
        ..terms()
    };
    for model in [1, 2, 2] {
        fixture.run(on(model));
    }
    let mut time = [Duration::ZERO; 3];
    for _ in 0..300 {
        let pass = fixture.schedule.compose(answering).unwrap();
        let took = if pass.model == ModelId(1) {
            ms(2)
        } else {
            ms(9)
        };
        time[pass.model.0 as usize] += took;
        fixture.schedule.passed(&pass, pass.shares.len(), took);
    }
    // Two run on the second.
    let ratio = time[2].as_secs_f64() / time[1].as_secs_f64();
    assert!((ratio - 2.0).abs() < 0.1, "{ratio}");
    // One that comes anew has nothing to catch up on.
    let third = fixture.run(on(3));
    let mut turns = 0;
    for _ in 0..50 {
        let pass = fixture.pass(answering, ms(5)).unwrap();
        turns += usize::from(pass.model == ModelId(3));
    }
    assert!((8..18).contains(&turns), "{turns} of 50");
    fixture.schedule.finished(third, true);
}

#[test]
fn without_history_a_request_is_expected_to_be_as_long_as_it_can_be() {
    let mut fixture = Fixture::new(limits(1, 0));
    let id = fixture.run(terms());
    assert_eq!(fixture.retry_seconds(), 1, "nothing is measured yet");
    let only = |other| (other == id).then_some(Want::Answer(1));
    fixture.pass(only, Duration::from_secs(2)).unwrap();
    assert_eq!(fixture.retry_seconds(), 2 * (PASSES_MAX - 1));
}

#[test]
fn the_time_to_come_back_is_when_the_first_running_request_should_end() {
    let mut fixture = Fixture::new(limits(2, 0));
    for passes in [10, 30] {
        let id = fixture.run_passes(passes);
        fixture.schedule.finished(id, true);
    }
    fixture.run_passes(5);
    fixture.run_passes(12);
    // Of 20 passes the second has 8 to go.
    assert_eq!(fixture.retry_seconds(), 8);
}

#[test]
fn a_request_that_is_longer_than_others_may_go_to_its_end() {
    let mut fixture = Fixture::new(limits(1, 0));
    let id = fixture.run_passes(10);
    fixture.schedule.finished(id, true);
    fixture.run_passes(60);
    assert_eq!(fixture.retry_seconds(), 40);
}

#[test]
fn a_request_that_broke_off_says_nothing_of_the_length_of_others() {
    let mut fixture = Fixture::new(limits(1, 0));
    let id = fixture.run_passes(1);
    fixture.schedule.finished(id, false);
    fixture.run_passes(50);
    assert_eq!(fixture.retry_seconds(), 50);
}

#[test]
fn old_lengths_are_forgotten() {
    let mut fixture = Fixture::new(limits(1, 0));
    for passes in [90, 4] {
        for _ in 0..LENGTHS_MAX {
            let id = fixture.run_passes(passes);
            fixture.schedule.finished(id, true);
        }
    }
    fixture.run_passes(1);
    assert_eq!(fixture.retry_seconds(), 3);
}

#[test]
fn a_deadline_that_cannot_be_met_refuses_at_once() {
    let mut fixture = Fixture::new(limits(1, 9));
    let within = |fixture: &Fixture, seconds| Terms {
        deadline: Some(fixture.now + Duration::from_secs(seconds)),
        ..terms()
    };
    let hopeless = within(&fixture, 0);
    fixture.enqueue(0, hopeless).unwrap();
    assert_eq!(
        fixture.schedule.remove_late(fixture.now),
        [0],
        "nothing is known yet, so time tells"
    );
    for _ in 0..3 {
        let id = fixture.run_passes(10);
        fixture.schedule.finished(id, true);
    }
    let (soon, later) = (within(&fixture, 5), within(&fixture, 60));
    let refused = fixture.enqueue(1, soon).unwrap_err();
    let Refusal::TooLate { expected } = refused else {
        panic!("{refused:?}");
    };
    assert!((10..25).contains(&expected.as_secs()), "{expected:?}");
    fixture.enqueue(2, later).unwrap();
    assert_eq!(fixture.schedule.next_deadline(), later.deadline);
    let id = fixture.start().unwrap().0;
    assert!(fixture.schedule.late(fixture.now).is_empty());
    fixture.now += Duration::from_secs(60);
    assert_eq!(fixture.schedule.late(fixture.now), [id]);
}

#[test]
fn the_last_of_the_lowest_priority_gives_way_first() {
    let mut fixture = Fixture::new(limits(9, 9));
    let with = |priority| Terms {
        priority,
        ..terms()
    };
    let ids = [0, 1, 0].map(|priority| fixture.run(with(priority)));
    let now = fixture.now;
    let victims = [(); 3].map(|()| fixture.schedule.suspend_one(now));
    assert_eq!(victims, [Some(ids[2]), Some(ids[0]), None]);
}

#[test]
fn who_is_suspended_goes_on_by_urgency_and_nobody_less_urgent_starts_before() {
    let mut fixture = Fixture::new(limits(9, 9));
    let with = |priority| Terms {
        priority,
        ..terms()
    };
    let ids = [0, 1, 2].map(|priority| fixture.run(with(priority)));
    let now = fixture.now;
    assert_eq!(fixture.schedule.suspend_one(now), Some(ids[0]));
    assert_eq!(fixture.schedule.suspend_one(now), Some(ids[1]));
    let pass = fixture.schedule.compose(|_| Some(Want::Answer(1))).unwrap();
    assert_eq!(pass.shares.len(), 1, "{pass:?}");

    fixture.enqueue(1, with(1)).unwrap();
    assert!(fixture.start().is_none(), "no more urgent than who waits");
    fixture.enqueue(2, with(3)).unwrap();
    assert_eq!(fixture.start().unwrap().1, 2);
    assert!(fixture.start().is_none());

    // The small one does not pass the more urgent one that has no room yet.
    let mut asked = Vec::new();
    fixture.schedule.resume(now, |id, is_alone| {
        asked.push((id, is_alone));
        false
    });
    assert_eq!(asked, [(ids[1], false)]);
    asked.clear();
    fixture.schedule.resume(now, |id, _| {
        asked.push((id, false));
        true
    });
    assert_eq!(asked, [(ids[1], false), (ids[0], false)]);
    assert_eq!(fixture.start().unwrap().1, 1);
}

#[test]
fn a_light_answer_is_not_left_out_for_ever() {
    let mut fixture = Fixture::new(limits(9, 9));
    let with = |weight| Terms { weight, ..terms() };
    let light = fixture.run(with(0.01));
    for _ in 0..3 {
        fixture.run(with(100.0));
    }
    for want in [Want::Answer(1), Want::Prompt(1000)] {
        let mut passes = 0;
        for _ in 0..LEFT_OUT_MAX * 20 {
            let pass = fixture.schedule.compose(|_| Some(want)).unwrap();
            passes += u64::from(pass.shares.iter().any(|share| share.id == light));
        }
        assert!((15..=25).contains(&passes), "{passes} for {want:?}");
    }
}

#[test]
fn a_prompt_does_not_stall_the_answers_of_another_model() {
    let mut fixture = Fixture::new(limits(9, 9));
    let of = |model| Terms {
        model: ModelId(model),
        ..terms()
    };
    let prompting = fixture.run(of(1));
    let want = |id| {
        Some(if id == prompting {
            Want::Prompt(1000)
        } else {
            Want::Answer(1)
        })
    };
    let alone = fixture.schedule.compose(want).unwrap();
    assert_eq!(alone.shares[0].rows, PROMPT_ROWS_MAX);
    // 1 ms a row.
    let took = Duration::from_millis(PROMPT_ROWS_MAX as u64);
    fixture.schedule.passed(&alone, PROMPT_ROWS_MAX, took);
    fixture.run(of(2));
    // The other model answers in 20 ms, and waits for a chunk of the prompt in between.
    for round in 0..20 {
        let pass = fixture.schedule.compose(want).unwrap();
        let rows: usize = pass.shares.iter().map(|share| share.rows).sum();
        let is_prompt = pass.model == ModelId(1);
        let took = ms(if is_prompt { rows as u64 } else { 20 });
        if is_prompt && round > 2 {
            assert!(took + ms(20) <= ms(50), "{pass:?} in round {round}");
        }
        fixture.schedule.passed(&pass, rows, took);
    }
}

#[test]
fn a_model_that_comes_back_has_nothing_to_catch_up_on() {
    let mut fixture = Fixture::new(limits(9, 9));
    let of = |model| Terms {
        model: ModelId(model),
        ..terms()
    };
    let away = fixture.run(of(1));
    fixture.run(of(2));
    let mut passes = |count: usize, is_away: bool| {
        let mut models = Vec::new();
        for _ in 0..count {
            let want = |id| (!is_away || id != away).then_some(Want::Answer(1));
            let pass = fixture.schedule.compose(want).unwrap();
            fixture.schedule.passed(&pass, 1, Duration::from_millis(10));
            models.push(pass.model.0);
        }
        models
    };
    assert_eq!(passes(50, true), [2; 50]);
    let both = passes(20, false);
    let of_first = both.iter().filter(|model| **model == 1).count();
    assert!((9..=11).contains(&of_first), "{both:?}");
}
