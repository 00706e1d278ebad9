//! Drafting and being suspended change how fast a text comes, never which: the machine with and
//! without, on models that repeat themselves more or less.

use proptest::prelude::*;

use super::*;

/// A model whose logits follow from the last two ids; every so often, from the position instead.
#[derive(Debug, Clone, Copy)]
struct Chain {
    seed: u64,
    /// Places between those where the position decides; 0 has none of them.
    period: usize,
    /// Ids that it says, from `a` on.
    alphabet: u32,
    /// The pass that fails.
    fails_at: Option<usize>,
}

impl Chain {
    fn new(seed: u64, period: usize, alphabet: u32) -> Self {
        Self {
            seed,
            period,
            alphabet,
            fails_at: None,
        }
    }

    fn logits(self, ids: &[u32]) -> Vec<f32> {
        let len = ids.len();
        let state = if self.period > 0 && len.is_multiple_of(self.period) {
            len as u64
        } else {
            let ending = &ids[len.saturating_sub(2)..];
            ending
                .iter()
                .fold(7, |state, id| state * 1009 + u64::from(*id))
        };
        let mut logits = vec![-20.0; VOCABULARY_SIZE];
        for said in 0..self.alphabet {
            logits[97 + said as usize] = noise(self.seed, state, u64::from(said)) * 6.0;
        }
        logits[END as usize] = noise(self.seed, state, 500) * 5.0 - 1.0;
        logits[HIDDEN as usize] = noise(self.seed, state, 501) * 5.0 - 1.0;
        logits
    }
}

/// Returns a number from 0 up to 1 that looks random.
fn noise(seed: u64, state: u64, salt: u64) -> f32 {
    let mut mixed = seed ^ state.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (salt << 40);
    for _ in 0..2 {
        mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    }
    (mixed >> 40) as f32 / (1_u64 << 24) as f32
}

/// What a choice reported, event by event.
#[derive(Debug, Clone, Default, PartialEq)]
struct Told {
    pieces: Vec<(String, Vec<TokenLogprob>)>,
    finish: Option<FinishReason>,
}

struct Run {
    told: Vec<Told>,
    completion_tokens: usize,
    drafts: DraftCounts,
    /// Rows of each part of each pass after the prompt's.
    passes: Vec<Vec<usize>>,
    len_max: usize,
    last: Result<Progress>,
}

/// Runs until the end, an error, or so many events.
fn run_chain(work: &Work, chain: &Chain, events_max: usize) -> Run {
    run_suspended(work, chain, events_max, &mut |_| (CHUNK_LEN, false))
}

/// The same; `disturb` says for each pass how many rows of a prompt it has, and whether the
/// request is suspended before.
fn run_suspended(
    work: &Work,
    chain: &Chain,
    events_max: usize,
    disturb: &mut dyn FnMut(usize) -> (usize, bool),
) -> Run {
    let chain = *chain;
    let mut model = Fake {
        fails_at: chain.fails_at,
        ..Fake::new(move |ids| chain.logits(ids))
    };
    let mut told = vec![Told::default(); work.choices];
    let mut generation = Generation::new(copy(work), Arc::new(Bytes));
    let (mut passes, mut events) = (0, 0);
    let last = loop {
        let mut emit = |event| {
            match event {
                GenerationEvent::Piece {
                    choice,
                    text,
                    logprobs,
                } => told[choice].pieces.push((text, logprobs)),
                GenerationEvent::ChoiceDone {
                    choice,
                    finish_reason,
                } => told[choice].finish = Some(finish_reason),
                _ => {}
            }
            events += 1;
            if events >= events_max {
                Flow::Cancel
            } else {
                Flow::Continue
            }
        };
        let (rows_max, is_suspended) = disturb(passes);
        if is_suspended {
            generation.suspend(&mut model);
            assert!(model.live.is_empty());
        }
        let progress = pass(&mut generation, &mut model, rows_max, &mut emit);
        passes += 1;
        // A pass that costs by its rows, with something else now and then in its way.
        let rows: usize = model.passes.last().map_or(1, |lens| lens.iter().sum());
        let disturbed = if passes % 7 == 0 { 3 } else { 1 };
        let took = Duration::from_micros(700 + 300 * rows as u64) * disturbed;
        generation.note_duration(Some(took));
        match progress {
            Ok(Progress::Prefilling | Progress::Decoding) => {}
            end => break end,
        }
    };
    Run {
        told,
        completion_tokens: generation.completion_tokens(),
        drafts: generation.drafts(),
        passes: model.passes.split_off(1),
        len_max: model.len_max,
        last,
    }
}

fn greedy() -> SamplingParams {
    SamplingParams {
        temperature: 0.0,
        ..SamplingParams::default()
    }
}

/// A greedy request for a text that goes round in circles.
fn repetitive() -> (Work, Chain) {
    let work = Work {
        sampling: SamplingParams {
            logit_bias: vec![(END, -100.0), (HIDDEN, -100.0)],
            ..greedy()
        },
        draft_len_max: DRAFT_LEN_MAX,
        ..work()
    };
    (work, Chain::new(5, 0, 4))
}

fn unspeculated(work: &Work) -> Work {
    Work {
        draft_len_max: 0,
        ..copy(work)
    }
}

fn copy(work: &Work) -> Work {
    Work {
        prompt_ids: work.prompt_ids.clone(),
        sampling: work.sampling.clone(),
        stop: work.stop.clone(),
        ..*work
    }
}

#[test]
fn a_text_that_repeats_itself_takes_far_fewer_passes() {
    let (work, chain) = repetitive();
    let plain = run_chain(&unspeculated(&work), &chain, usize::MAX);
    let drafted = run_chain(&work, &chain, usize::MAX);
    assert_eq!(drafted.told, plain.told);
    assert_eq!(plain.passes.len(), 99);
    assert!(drafted.passes.len() < 40, "{:?}", drafted.passes);
    let DraftCounts { drafted, accepted } = drafted.drafts;
    assert!(accepted > 59 && accepted <= drafted, "{accepted}/{drafted}");
    assert_eq!(plain.drafts, DraftCounts::default());
}

#[test]
fn accepted_ids_are_those_that_needed_no_pass_of_their_own() {
    let (work, chain) = repetitive();
    let run = run_chain(&work, &chain, usize::MAX);
    // The first id comes from the prompt's logits.
    let alone = run.completion_tokens - 1 - run.drafts.accepted;
    assert_eq!(run.passes.len(), alone);
    let rows: usize = run.passes.iter().flatten().sum();
    assert_eq!(rows, run.passes.len() + run.drafts.drafted);
}

#[test]
fn a_receiver_that_goes_gets_nothing_more_of_a_draft() {
    let (work, chain) = repetitive();
    for events_max in 2..60 {
        let plain = run_chain(&unspeculated(&work), &chain, events_max);
        let drafted = run_chain(&work, &chain, events_max);
        assert_eq!(drafted.last.as_ref().unwrap(), &Progress::Cancelled);
        assert_eq!(drafted.told, plain.told);
        assert_eq!(drafted.completion_tokens, plain.completion_tokens);
    }
}

#[test]
fn a_pass_over_a_draft_that_fails_ends_the_request() {
    let (work, chain) = repetitive();
    let whole = run_chain(&work, &chain, usize::MAX);
    // The prompt's pass is before these.
    let fails_at = whole.passes.iter().position(|rows| rows[0] > 1);
    let fails_at = fails_at.map(|pass| pass + 1);
    let chain = Chain { fails_at, ..chain };
    let run = run_chain(&work, &chain, usize::MAX);
    assert!(matches!(run.last, Err(Error::Internal { .. })));
    let told = &run.told[0].pieces;
    assert_eq!(whole.told[0].pieces[..told.len()], told[..]);
}

fn sampling() -> impl Strategy<Value = SamplingParams> {
    let temperature = prop_oneof![Just(0.0_f32), Just(0.3), Just(1.0)];
    let filters = (0_usize..4, 0.3_f32..=1.0, 0.0_f32..0.3);
    let penalties = (0.8_f32..1.5, 0_usize..20, -0.5_f32..0.5, -0.5_f32..0.5);
    let biases = proptest::collection::vec((90_u32..END + 2, -3.0_f32..3.0), 0..4);
    (temperature, filters, penalties, biases).prop_map(
        |(temperature, (top_k, top_p, min_p), penalties, logit_bias)| SamplingParams {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty: penalties.0,
            repetition_window: penalties.1,
            presence_penalty: penalties.2,
            frequency_penalty: penalties.3,
            logit_bias,
            seed: None,
        },
    )
}

fn request() -> impl Strategy<Value = Work> {
    let prompt = proptest::collection::vec(97_u32..101, 1..40);
    let stop = prop_oneof![Just(vec![]), proptest::collection::vec("[a-d]{2,6}", 1..3)];
    let bounds = (1_usize..90, 1_usize..4, 1_usize..=DRAFT_LEN_MAX + 2);
    let logprobs = proptest::option::of(0_usize..3);
    // Half of all requests are plain greedy ones: they repeat themselves most.
    let sampling = prop_oneof![Just(greedy()), sampling()];
    (prompt, sampling, any::<u64>(), stop, bounds, logprobs).prop_map(
        |(prompt_ids, sampling, seed, stop, bounds, logprobs)| Work {
            prompt_ids,
            sampling,
            seed,
            completion_max: bounds.0,
            stop,
            choices: bounds.1,
            logprobs,
            draft_len_max: bounds.2,
        },
    )
}

/// How many rows of a prompt each pass has, and whether the request is suspended before.
fn disturbances() -> impl Strategy<Value = Vec<(usize, bool)>> {
    let disturbance = (1_usize..20, proptest::bool::weighted(0.2));
    proptest::collection::vec(disturbance, 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_result_is_the_same_with_and_without_drafts(
        work in request(),
        seed in any::<u64>(),
        period in 0_usize..9,
        alphabet in 1_u32..6,
    ) {
        let chain = Chain::new(seed, period, alphabet);
        let plain = run_chain(&unspeculated(&work), &chain, usize::MAX);
        let drafted = run_chain(&work, &chain, usize::MAX);
        prop_assert_eq!(drafted.last.unwrap(), Progress::Finished);
        prop_assert_eq!(&drafted.told, &plain.told);
        prop_assert_eq!(drafted.completion_tokens, plain.completion_tokens);
        prop_assert!(drafted.passes.len() <= plain.passes.len());
        prop_assert!(plain.passes.len() < work.completion_max.max(1));
        prop_assert!(plain.passes.iter().flatten().all(|rows| *rows == 1));
        // What was admitted is enough, whatever is drafted.
        let held_max = (work.prompt_ids.len() + work.completion_max).saturating_sub(1);
        let held_max = held_max.max(work.prompt_ids.len());
        prop_assert!(drafted.len_max <= held_max, "{} of {held_max}", drafted.len_max);
        let rows_max = 1 + work.draft_len_max.min(DRAFT_LEN_MAX);
        prop_assert!(drafted.passes.iter().flatten().all(|rows| *rows <= rows_max));
        prop_assert!(drafted.drafts.accepted <= drafted.drafts.drafted);
    }

    #[test]
    fn the_result_is_the_same_however_often_it_is_suspended(
        work in request(),
        seed in any::<u64>(),
        period in 0_usize..9,
        alphabet in 1_u32..6,
        disturbances in disturbances(),
    ) {
        let chain = Chain::new(seed, period, alphabet);
        let plain = run_chain(&work, &chain, usize::MAX);
        // Later passes are left alone, so that it comes to an end.
        let mut disturb = |pass: usize| {
            disturbances.get(pass).copied().unwrap_or((CHUNK_LEN, false))
        };
        let suspended = run_suspended(&work, &chain, usize::MAX, &mut disturb);
        prop_assert_eq!(suspended.last.unwrap(), Progress::Finished);
        prop_assert_eq!(suspended.completion_tokens, plain.completion_tokens);
        // Who comes first among choices may differ, what each one says may not.
        prop_assert_eq!(&suspended.told, &plain.told);
    }
}
