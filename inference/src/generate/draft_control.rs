//! Decides how long a draft should be, from what drafts brought and cost so far.
//!
//! A pass over a draft reads the weights once, so it costs less than as many single passes, but
//! more than one; what of the draft turns out wrong was computed in vain. Both sides are learned
//! per request: how often a drafted id is right, for matches of similar length apart (a long match
//! promises more than a short one), and how much longer than a single pass one over a draft takes.
//! The draft with the most ids per time is chosen; where that is none, drafting pauses and is tried
//! again after a while with a single id, ever more rarely while it keeps failing.
//!
//! No clock is read: durations come in. What is decided changes the speed, never the text.

use std::time::Duration;

/// Lengths of drafts. With the last id, which is evaluated beside them, they fill the rows that
/// kernels take in one go: a pass over three rows costs as much as one over four, and one over
/// seven more than one over eight.
const LENS: [usize; 3] = [1, 3, 7];
/// Longest draft. A ninth row would cost as much as the last three together.
pub(crate) const DRAFT_LEN_MAX: usize = LENS[LENS.len() - 1];

/// Least gain in ids per time for which a draft is worth its risk: below, a wrong estimate costs
/// more than the draft brings.
const GAIN_MIN: f64 = 1.05;
/// Weight of the newest observation in each of the running means.
const NEWEST: f64 = 0.1;
/// What a drafted id costs in single passes until it is measured.
const ROW_COST_AT_FIRST: f64 = 0.15;
/// The most that one measurement says. A pass that was interrupted says nothing.
const ROW_COST_MAX: f64 = 1.5;
/// Chances to draft that are let go by after a try that failed, at first and at most.
const PAUSE_MIN: u32 = 8;
const PAUSE_MAX: u32 = 128;

/// Shortest match of each class, and how often a drafted id is right at first.
const CLASSES: [(usize, f64); 4] = [(2, 0.3), (3, 0.5), (5, 0.7), (9, 0.85)];

/// The estimates of one request. Its choices share them.
#[derive(Debug, Clone)]
pub(crate) struct DraftControl {
    len_max: usize,
    /// Mean duration of a pass of one row in seconds, once there was one.
    single_pass: Option<f64>,
    /// What a pass over a draft of each of [`LENS`] costs, in single passes.
    costs: Costs,
    classes: [Class; CLASSES.len()],
}

type Costs = [f64; LENS.len()];

/// What is known of matches of similar length.
#[derive(Debug, Clone, Copy)]
struct Class {
    /// How often a drafted id is right whose forerunners were.
    acceptance: f64,
    /// Chances to draft that are still let go by.
    paused: u32,
    /// How many it will be after the next failure.
    pause: u32,
}

impl DraftControl {
    /// Returns the control of drafts of so many ids at most, [`DRAFT_LEN_MAX`] in any case.
    pub(crate) fn new(len_max: usize) -> Self {
        let classes = CLASSES.map(|(_, acceptance)| Class {
            acceptance,
            paused: 0,
            pause: PAUSE_MIN,
        });
        Self {
            len_max: len_max.min(DRAFT_LEN_MAX),
            single_pass: None,
            costs: LENS.map(|len| 1.0 + ROW_COST_AT_FIRST * len as f64),
            classes,
        }
    }

    /// Says how long a draft from a match of that length should be, within what is left to
    /// generate; 0 is none.
    pub(crate) fn draft_len(&mut self, matched: usize, left: usize) -> usize {
        let len_max = self.len_max.min(left);
        let class = &mut self.classes[class_of(matched)];
        let len = class.best_len(len_max, &self.costs);
        if len > 0 {
            return len;
        }
        if class.paused > 0 {
            class.paused -= 1;
            return 0;
        }
        len_max.min(1)
    }

    /// Takes in how many ids of a draft were right. Those after the first wrong one say nothing.
    pub(crate) fn note_draft(&mut self, matched: usize, drafted: usize, accepted: usize) {
        // Whether a single drafted id pays if it is certainly right.
        let can_pay = 2.0 > GAIN_MIN * self.costs[0];
        let class = &mut self.classes[class_of(matched)];
        for _ in 0..accepted {
            blend(&mut class.acceptance, 1.0);
        }
        if accepted < drafted {
            blend(&mut class.acceptance, 0.0);
        }
        if class.best_len(DRAFT_LEN_MAX, &self.costs) > 0 {
            class.pause = PAUSE_MIN;
        } else if accepted < drafted || !can_pay {
            class.paused = class.pause;
            class.pause = (class.pause * 2).min(PAUSE_MAX);
        }
    }

    /// Takes in how long a pass of so many rows took.
    pub(crate) fn note_pass(&mut self, rows: usize, duration: Duration) {
        let seconds = duration.as_secs_f64();
        match (rows, &mut self.single_pass) {
            (1, Some(single)) => blend(single, seconds),
            (1, None) => self.single_pass = Some(seconds),
            (_, None) => {}
            (rows, Some(single)) => {
                // Drafts that were cut to other lengths have no estimate of their own.
                let Some(index) = LENS.iter().position(|len| 1 + len == rows) else {
                    return;
                };
                let cost = seconds / single.max(f64::MIN_POSITIVE);
                let cost_max = 1.0 + ROW_COST_MAX * LENS[index] as f64;
                blend(&mut self.costs[index], cost.clamp(1.0, cost_max));
            }
        }
    }
}

impl Class {
    /// Returns the length of the draft that brings the most ids per time.
    fn best_len(&self, len_max: usize, costs: &Costs) -> usize {
        let (mut best, mut best_gain) = (0, GAIN_MIN);
        for (len, cost) in LENS.into_iter().zip(costs) {
            let gain = self.ids_expected(len) / cost;
            if len <= len_max && gain > best_gain {
                (best, best_gain) = (len, gain);
            }
        }
        best
    }

    /// How many ids a pass over a draft yields on average: one, and each drafted one with the
    /// chance that it and all before it are right.
    fn ids_expected(&self, len: usize) -> f64 {
        (0..=len as i32).map(|ids| self.acceptance.powi(ids)).sum()
    }
}

fn class_of(matched: usize) -> usize {
    let fitting = CLASSES.iter().rposition(|(least, _)| matched >= *least);
    fitting.unwrap_or(0)
}

fn blend(mean: &mut f64, newest: f64) {
    *mean += (newest - *mean) * NEWEST;
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: usize = 1000;

    /// Drafts for so many chances on a machine where a further row costs that much, while the
    /// first `right` ids of every draft are right. Returns the drafts' lengths.
    fn run(
        control: &mut DraftControl,
        chances: usize,
        matched: usize,
        row_cost: f64,
        right: usize,
    ) -> Vec<usize> {
        let pass =
            |rows: usize| Duration::from_secs_f64(0.01 * (1.0 + row_cost * (rows - 1) as f64));
        let step = |_| {
            // Between the chances there are places without a match.
            control.note_pass(1, pass(1));
            let len = control.draft_len(matched, MANY);
            control.note_pass(1 + len, pass(1 + len));
            if len > 0 {
                control.note_draft(matched, len, right.min(len));
            }
            len
        };
        (0..chances).map(step).collect()
    }

    fn costs(lens: &[usize], row_cost: f64) -> f64 {
        lens.iter().map(|len| row_cost * *len as f64).sum()
    }

    #[test]
    fn drafts_that_are_right_grow_to_the_longest() {
        let mut control = DraftControl::new(DRAFT_LEN_MAX);
        let lens = run(&mut control, 60, 16, 0.35, MANY);
        assert_eq!(lens.last(), Some(&DRAFT_LEN_MAX));
        assert!(lens.iter().all(|len| *len > 0), "{lens:?}");
    }

    #[test]
    fn drafts_that_are_wrong_cost_almost_nothing() {
        for (matched, _) in CLASSES {
            let mut control = DraftControl::new(DRAFT_LEN_MAX);
            let lens = run(&mut control, 512, matched, 0.35, 0);
            let extra = costs(&lens, 0.35) / 512.0;
            assert!(extra < 0.05, "{extra} with {matched}: {lens:?}");
            assert!(lens[256..].contains(&1), "it is tried again");
        }
    }

    #[test]
    fn drafts_return_when_they_are_right_again() {
        let mut control = DraftControl::new(DRAFT_LEN_MAX);
        run(&mut control, 400, 3, 0.35, 0);
        let lens = run(&mut control, 300, 3, 0.35, MANY);
        assert_eq!(lens.last(), Some(&DRAFT_LEN_MAX));
    }

    #[test]
    fn where_a_row_costs_as_much_as_a_pass_nothing_is_drafted() {
        let mut control = DraftControl::new(DRAFT_LEN_MAX);
        run(&mut control, 200, 3, 1.0, 2);
        let lens = run(&mut control, 200, 3, 1.0, 2);
        assert!(costs(&lens, 1.0) < 30.0, "{lens:?}");
    }

    #[test]
    fn the_cheaper_a_row_the_longer_the_draft() {
        let len_at = |row_cost| {
            let mut control = DraftControl::new(DRAFT_LEN_MAX);
            run(&mut control, 200, 9, row_cost, 4).pop().unwrap()
        };
        let lens = [0.9, 0.35, 0.05].map(len_at);
        assert!(lens.is_sorted() && lens[0] < lens[2], "{lens:?}");
    }

    #[test]
    fn one_class_says_nothing_of_another() {
        let mut control = DraftControl::new(DRAFT_LEN_MAX);
        run(&mut control, 100, 2, 0.35, 0);
        assert!(control.draft_len(16, MANY) > 0);
    }

    #[test]
    fn a_draft_is_no_longer_than_what_is_left_or_allowed() {
        let mut control = DraftControl::new(MANY);
        run(&mut control, 60, 16, 0.1, MANY);
        for left in [0, 1, 3] {
            assert_eq!(control.draft_len(16, left), left);
        }
        assert_eq!(control.draft_len(16, MANY), DRAFT_LEN_MAX);
        let mut short = DraftControl::new(2);
        run(&mut short, 60, 16, 0.1, MANY);
        assert_eq!(short.draft_len(16, MANY), 1);
        assert_eq!(DraftControl::new(0).draft_len(16, MANY), 0);
    }

    #[test]
    fn durations_without_sense_do_no_harm() {
        let mut control = DraftControl::new(DRAFT_LEN_MAX);
        for rows in [0, 1, 4, 1, 8, 9] {
            control.note_pass(rows, Duration::ZERO);
            control.note_pass(rows, Duration::MAX);
        }
        assert!(
            control
                .costs
                .iter()
                .all(|cost| cost.is_finite() && *cost >= 1.0)
        );
        assert!(control.draft_len(16, MANY) <= DRAFT_LEN_MAX);
    }
}
