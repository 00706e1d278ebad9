//! The machine on a scripted model: what it emits, in which order, and when it ends.

use std::sync::Mutex;

use super::*;

mod speculation;

/// Ends the text.
pub(crate) const END: u32 = 256;
/// Markup that is not shown.
const HIDDEN: u32 = 257;
const VOCABULARY_SIZE: usize = 258;

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

/// A model that says the same whatever it is asked.
#[derive(Debug, Clone)]
struct Scripted {
    answer: Arc<Vec<u32>>,
    prompt_len: usize,
    len: usize,
    /// Lengths of all calls.
    calls: Arc<Mutex<Vec<usize>>>,
}

impl Sequence for Scripted {
    fn extend(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        self.calls.lock().unwrap().push(ids.len());
        self.len += ids.len();
        let mut logits = vec![0.0; VOCABULARY_SIZE];
        let said = self.len.saturating_sub(self.prompt_len);
        let id = self.answer.get(said).copied().unwrap_or(END);
        logits[id as usize] = 50.0;
        Ok(logits)
    }

    fn extend_all(&mut self, ids: &[u32]) -> Result<LogitRows> {
        ids.iter().map(|id| self.extend(&[*id])).collect()
    }

    fn forget_last(&mut self, count: usize) {
        self.len -= count;
    }

    fn fork(&self) -> Box<dyn Sequence> {
        Box::new(self.clone())
    }
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
    calls: Vec<usize>,
    last: Progress,
}

/// Runs until the end, or until `events_max` events have been taken.
fn run_until(work: Work, answer: &[u32], events_max: usize) -> Outcome {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let scripted = Scripted {
        answer: Arc::new(answer.to_vec()),
        prompt_len: work.prompt_ids.len(),
        len: 0,
        calls: Arc::clone(&calls),
    };
    let mut out = Outcome {
        text: vec![String::new(); work.choices],
        finish: vec![None; work.choices],
        logprobs: Vec::new(),
        order: Vec::new(),
        completion_tokens: 0,
        calls: Vec::new(),
        last: Progress::Prefilling,
    };
    let mut generation = Generation::new(work, Arc::new(Bytes), Box::new(scripted));
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
        out.last = generation.step(&mut emit).unwrap();
    }
    out.completion_tokens = generation.completion_tokens();
    out.calls = calls.lock().unwrap().clone();
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
    assert_eq!(out.calls, [3, 1, 1, 1]);
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
        prompt_ids: vec![7; PREFILL_CHUNK_LEN * 2 + 10],
        ..work()
    };
    let out = run(long, &ids("a"));
    assert_eq!(out.text, ["a"]);
    assert_eq!(out.calls, [PREFILL_CHUNK_LEN, PREFILL_CHUNK_LEN, 10, 1]);
}

#[test]
fn choices_share_the_prompt_and_take_turns() {
    let three = Work {
        choices: 3,
        ..work()
    };
    let out = run(three, &ids("ab"));
    assert_eq!(out.text, ["ab", "ab", "ab"]);
    assert_eq!(out.order, [0, 1, 2, 0, 1, 2]);
    assert_eq!(out.completion_tokens, 9);
    assert_eq!(out.calls.iter().filter(|len| **len == 3).count(), 1);
}

#[test]
fn a_cancel_ends_before_the_next_id() {
    // Started, then two pieces.
    let out = run_until(work(), &ids("hello"), 3);
    assert_eq!(out.text, ["he"]);
    assert_eq!(out.completion_tokens, 2);
    assert_eq!(out.last, Progress::Cancelled);
    assert_eq!(out.calls, [3, 1]);
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
