//! The machine on a scripted model: what it emits, in which order, and when it ends.

use std::collections::BTreeMap;

use super::*;

mod speculation;

/// Ends the text.
pub(crate) const END: u32 = 256;
/// Markup that is not shown.
const HIDDEN: u32 = 257;
const VOCABULARY_SIZE: usize = 258;
/// Rows of a prompt in one pass.
const CHUNK_LEN: usize = 256;

/// Ids below 256 are bytes.
#[derive(Debug)]
pub(crate) struct Bytes;

impl Vocabulary for Bytes {
    fn piece(&self, id: u32) -> Vec<u8> {
        u8::try_from(id).map_or_else(|_| b"<markup>".to_vec(), |byte| vec![byte])
    }

    fn is_hidden(&self, id: u32) -> bool {
        id >= END
    }

    fn is_end_of_generation(&self, id: u32) -> bool {
        id == END
    }
}

type LogitsOf = dyn Fn(&[u32]) -> Vec<f32> + Send;

/// A model whose logits are a function of the ids so far.
struct Fake {
    logits: Box<LogitsOf>,
    live: BTreeMap<SequenceId, Vec<u32>>,
    last_id: u64,
    /// Ids of each part of each pass.
    passes: Vec<Vec<usize>>,
    /// The most ids that a sequence held.
    len_max: usize,
    /// The pass that fails.
    fails_at: Option<usize>,
}

impl Fake {
    fn new(logits: impl Fn(&[u32]) -> Vec<f32> + Send + 'static) -> Self {
        Self {
            logits: Box::new(logits),
            live: BTreeMap::new(),
            last_id: 0,
            passes: Vec::new(),
            len_max: 0,
            fails_at: None,
        }
    }

    /// One that says the same whatever it is asked.
    fn scripted(prompt_len: usize, answer: &[u32]) -> Self {
        let answer = answer.to_vec();
        Self::new(move |ids| {
            let mut logits = vec![0.0; VOCABULARY_SIZE];
            let said = ids.len().saturating_sub(prompt_len);
            let id = answer.get(said).copied().unwrap_or(END);
            logits[id as usize] = 50.0;
            logits
        })
    }

    fn insert(&mut self, ids: Vec<u32>) -> SequenceId {
        self.last_id += 1;
        let id = SequenceId(self.last_id);
        self.live.insert(id, ids);
        id
    }
}

impl fmt::Debug for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fake").finish_non_exhaustive()
    }
}

impl Decoder for Fake {
    fn begin(&mut self) -> SequenceId {
        self.insert(Vec::new())
    }

    fn catch_up(&mut self, sequence: SequenceId, ids: &[u32]) -> usize {
        let seen = &self.live[&sequence];
        assert!(ids.starts_with(seen));
        seen.len()
    }

    fn fork(&mut self, sequence: SequenceId) -> SequenceId {
        let ids = self.live[&sequence].clone();
        self.insert(ids)
    }

    fn forget_last(&mut self, sequence: SequenceId, count: usize) {
        let ids = self.live.get_mut(&sequence).unwrap();
        ids.truncate(ids.len().checked_sub(count).unwrap());
    }

    fn remember(&mut self, sequence: SequenceId) {
        assert!(self.live.contains_key(&sequence));
    }

    fn end(&mut self, sequence: SequenceId) {
        self.live.remove(&sequence).unwrap();
    }

    fn extend(&mut self, parts: &[Part]) -> Result<LogitRows> {
        if self.fails_at == Some(self.passes.len()) {
            return Err(defect("scripted failure"));
        }
        let lens = parts.iter().map(|part| part.ids.len()).collect();
        self.passes.push(lens);
        let mut rows = Vec::new();
        for part in parts {
            let seen = self.live.get_mut(&part.sequence).unwrap();
            for (index, id) in part.ids.iter().enumerate() {
                assert_ne!(*id, END, "nothing comes after the end");
                seen.push(*id);
                let is_last = index + 1 == part.ids.len();
                match part.logits {
                    Logits::All => rows.push((self.logits)(seen)),
                    Logits::Last if is_last => rows.push((self.logits)(seen)),
                    Logits::Last | Logits::None => {}
                }
            }
            self.len_max = self.len_max.max(seen.len());
        }
        Ok(rows.into_iter().collect())
    }
}

/// Evaluates what a request wants once, in at most so many rows of a prompt.
fn pass(
    generation: &mut Generation,
    model: &mut Fake,
    rows_max: usize,
    emit: &mut dyn FnMut(GenerationEvent) -> Flow,
) -> Result<Progress> {
    generation.catch_up(model);
    let parts = generation.plan(model, rows_max, true);
    assert!(!parts.is_empty());
    let logits = model.extend(&parts)?;
    let mut rows = logits.iter();
    let progress = generation.take(model, &mut rows, emit)?;
    if progress == Progress::Finished {
        assert!(model.live.is_empty(), "all sequences have ended");
    }
    Ok(progress)
}

fn work() -> Work {
    Work {
        prompt_ids: vec![1, 2, 3],
        sampling: SamplingParams::default(),
        seed: 1,
        completion_max: 100,
        stop: Vec::new(),
        choices: 1,
        logprobs: None,
        draft_len_max: 0,
    }
}

/// What a run led to.
struct Outcome {
    /// Text per choice.
    text: Vec<String>,
    finish: Vec<Option<FinishReason>>,
    logprobs: Vec<TokenLogprob>,
    /// Choices in the order in which they reported.
    order: Vec<usize>,
    completion_tokens: usize,
    passes: Vec<Vec<usize>>,
    last: Progress,
}

/// Runs until the end, or until `events_max` events have been taken.
fn run_until(work: Work, answer: &[u32], events_max: usize) -> Outcome {
    let mut model = Fake::scripted(work.prompt_ids.len(), answer);
    let mut out = Outcome {
        text: vec![String::new(); work.choices],
        finish: vec![None; work.choices],
        logprobs: Vec::new(),
        order: Vec::new(),
        completion_tokens: 0,
        passes: Vec::new(),
        last: Progress::Prefilling,
    };
    let mut generation = Generation::new(work, Arc::new(Bytes));
    let mut events = 0;
    while matches!(out.last, Progress::Prefilling | Progress::Decoding) {
        let mut emit = |event| {
            match event {
                GenerationEvent::Piece {
                    choice,
                    text,
                    logprobs,
                } => {
                    assert!(
                        out.finish[choice].is_none(),
                        "a piece after the choice's end"
                    );
                    out.text[choice].push_str(&text);
                    out.logprobs.extend(logprobs);
                    out.order.push(choice);
                }
                GenerationEvent::ChoiceDone {
                    choice,
                    finish_reason,
                } => {
                    out.finish[choice] = Some(finish_reason);
                }
                _ => {}
            }
            events += 1;
            if events >= events_max {
                Flow::Cancel
            } else {
                Flow::Continue
            }
        };
        out.last = pass(&mut generation, &mut model, CHUNK_LEN, &mut emit).unwrap();
    }
    out.completion_tokens = generation.completion_tokens();
    generation.suspend(&mut model);
    assert!(
        model.live.is_empty(),
        "whatever ends it, no sequence is left"
    );
    out.passes = model.passes;
    out
}

fn run(work: Work, answer: &[u32]) -> Outcome {
    run_until(work, answer, usize::MAX)
}

fn ids(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

#[test]
fn an_end_id_stops_and_counts_but_is_not_shown() {
    let out = run(work(), &ids("hello"));
    assert_eq!(out.text, ["hello"]);
    assert_eq!(out.finish, [Some(FinishReason::Stop)]);
    assert_eq!(out.completion_tokens, 6);
    assert_eq!(out.last, Progress::Finished);
}

#[test]
fn the_length_limit_ends_a_choice_and_shows_what_was_held() {
    let limited = Work {
        completion_max: 4,
        stop: vec!["lobster".into()],
        ..work()
    };
    let out = run(limited, &ids("hello"));
    assert_eq!(out.text, ["hell"]);
    assert_eq!(out.finish, [Some(FinishReason::Length)]);
    assert_eq!(out.completion_tokens, 4);
    // The last id is not evaluated: nothing would be done with its logits.
    assert_eq!(out.passes, [[3], [1], [1], [1]]);
}

#[test]
fn a_stop_string_at_the_length_limit_counts_as_stop() {
    let limited = Work {
        completion_max: 5,
        stop: vec!["lo".into()],
        ..work()
    };
    let out = run(limited, &ids("hello"));
    assert_eq!(out.text, ["hel"]);
    assert_eq!(out.finish, [Some(FinishReason::Stop)]);
}

#[test]
fn a_long_prompt_is_evaluated_in_chunks() {
    let long = Work {
        prompt_ids: vec![7; CHUNK_LEN * 2 + 10],
        ..work()
    };
    let out = run(long, &ids("a"));
    assert_eq!(out.text, ["a"]);
    assert_eq!(out.passes, [[CHUNK_LEN], [CHUNK_LEN], [10], [1]]);
}

#[test]
fn choices_share_the_prompt_and_every_pass() {
    let three = Work {
        choices: 3,
        ..work()
    };
    let out = run(three, &ids("ab"));
    assert_eq!(out.text, ["ab", "ab", "ab"]);
    assert_eq!(out.order, [0, 1, 2, 0, 1, 2]);
    assert_eq!(out.completion_tokens, 9);
    assert_eq!(out.passes, [vec![3], vec![1; 3], vec![1; 3]]);
}

#[test]
fn a_cancel_ends_before_the_next_id() {
    // Started, then two pieces.
    let out = run_until(work(), &ids("hello"), 3);
    assert_eq!(out.text, ["he"]);
    assert_eq!(out.completion_tokens, 2);
    assert_eq!(out.last, Progress::Cancelled);
    assert_eq!(out.passes, [[3], [1]]);
}

#[test]
fn markup_is_not_shown_but_has_a_log_probability() {
    let reported = Work {
        logprobs: Some(2),
        ..work()
    };
    let out = run(reported, &[u32::from(b'a'), HIDDEN, u32::from(b'b')]);
    assert_eq!(out.text, ["ab"]);
    let entries: Vec<&str> = out
        .logprobs
        .iter()
        .map(|entry| entry.text.as_str())
        .collect();
    assert_eq!(entries, ["a", "<markup>", "b"]);
    for entry in &out.logprobs {
        assert!(entry.logprob > -0.001);
        assert_eq!(entry.top.len(), 2);
        assert_eq!(entry.top[0].id, entry.id);
        assert!(entry.top[1].top.is_empty());
    }
}

#[test]
fn log_probabilities_end_where_the_text_ends() {
    let reported = Work {
        logprobs: Some(0),
        stop: vec!["XY".into()],
        ..work()
    };
    let out = run(reported, &ids("aXbXYc"));
    assert_eq!(out.text, ["aXb"]);
    let bytes: Vec<u8> = out
        .logprobs
        .iter()
        .flat_map(|entry| entry.bytes.clone())
        .collect();
    assert_eq!(bytes, b"aXb");
    assert_eq!(out.finish, [Some(FinishReason::Stop)]);
    assert_eq!(out.completion_tokens, 5);
}
