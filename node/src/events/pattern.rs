//! Which events somebody follows: patterns of names, and who may see what.
//!
//! A pattern is a name in which `*` stands for one segment and `**` for any number of them, none
//! included. Matching goes over the name from the front; where a segment does not fit, the last
//! `**` takes one more. An earlier `**` never has to take more than it did, so nothing is tried
//! twice over, and the work is bounded by the segments of both.

use aither_ledger::AccountId;

use super::{
    Audience, Event, EventError,
    limits::{NAME_BYTES_MAX, PATTERNS_MAX, SEGMENTS_MAX},
    name::is_segment,
};

/// A pattern of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Box<[Part]>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// This segment.
    Segment(Box<str>),
    /// Any one segment.
    One,
    /// Any number of segments.
    Any,
}

/// Who looks at events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Viewer {
    /// The operator, who sees all.
    Operator,
    /// An account, or one of its agents.
    Account(AccountId),
}

/// Which events somebody is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Who looks.
    pub viewer: Viewer,
    /// What their names must be like: one of these, or anything where there are none.
    pub patterns: Vec<Pattern>,
    /// The agent that they must be about, or of.
    pub agent: Option<Box<str>>,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// It is too long, or a part of it is neither a segment nor `*` nor `**`.
    pub fn parse(text: &str) -> Result<Self, EventError> {
        if text.is_empty() || text.len() > NAME_BYTES_MAX {
            return Err(invalid(format!(
                "each pattern must have 1 to {NAME_BYTES_MAX} bytes"
            )));
        }
        if text.split('.').count() > SEGMENTS_MAX {
            return Err(invalid(format!(
                "each pattern must have at most {SEGMENTS_MAX} segments"
            )));
        }
        let parts = text.split('.').map(|part| match part {
            "**" => Some(Part::Any),
            "*" => Some(Part::One),
            segment => is_segment(segment).then(|| Part::Segment(segment.into())),
        });
        let parts: Option<Box<[_]>> = parts.collect();
        parts.map(Self).ok_or_else(|| {
            invalid(
                "must be patterns with commas between them: names such as \"system.health\", in \
                 which \"*\" stands for one segment and \"**\" for any number"
                    .to_owned(),
            )
        })
    }

    /// Reads a list of patterns with commas between them. An empty text has none.
    ///
    /// # Errors
    /// There are too many, or one of them is none.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, EventError> {
        if text.trim().is_empty() {
            return Ok(Vec::new());
        }
        if text.split(',').count() > PATTERNS_MAX {
            return Err(invalid(format!("must be at most {PATTERNS_MAX} patterns")));
        }
        text.split(',')
            .map(|text| Self::parse(text.trim()))
            .collect()
    }

    /// Returns whether a name is like this.
    pub fn matches(&self, name: &str) -> bool {
        let mut at = 0;
        let mut rest = name.split('.');
        // The part after the last `**`, and the name from where that would stand next.
        let mut again = None;
        loop {
            let before = rest.clone();
            match (self.0.get(at), rest.next()) {
                (Some(Part::Any), _) => {
                    at += 1;
                    rest = before.clone();
                    again = Some((at, before));
                    continue;
                }
                (Some(Part::One), Some(_)) => at += 1,
                (Some(Part::Segment(wanted)), Some(segment)) if **wanted == *segment => at += 1,
                (None, None) => return true,
                _ => {
                    let Some((part, from)) = &mut again else {
                        return false;
                    };
                    if from.next().is_none() {
                        return false;
                    }
                    at = *part;
                    rest = from.clone();
                }
            }
        }
    }
}

impl Viewer {
    /// Returns whether it may see what is for an audience.
    pub fn may_see(self, audience: &Audience) -> bool {
        match (self, audience) {
            (Self::Operator, _) | (_, Audience::Everyone) => true,
            (Self::Account(account), Audience::Accounts(accounts)) => accounts.contains(&account),
        }
    }
}

impl Filter {
    /// Returns whether an event is shown.
    pub fn admits(&self, event: &Event) -> bool {
        self.admits_parts(&event.name, event.agent.as_deref(), &event.audience)
    }

    pub(super) fn admits_parts(
        &self,
        name: &str,
        agent: Option<&str>,
        audience: &Audience,
    ) -> bool {
        self.viewer.may_see(audience)
            && self
                .agent
                .as_deref()
                .is_none_or(|wanted| agent == Some(wanted))
            && (self.patterns.is_empty() || self.patterns.iter().any(|one| one.matches(name)))
    }
}

fn invalid(message: String) -> EventError {
    EventError::Invalid {
        field: "events",
        message,
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern::parse(pattern).unwrap().matches(name)
    }

    /// What a pattern means, word by word.
    fn naively(pattern: &[&str], name: &[&str]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((&"**", rest)), None) => naively(rest, name),
            (Some((&"**", rest)), Some((_, shorter))) => {
                naively(rest, name) || naively(pattern, shorter)
            }
            (Some((&"*", rest)), Some((_, shorter))) => naively(rest, shorter),
            (Some((wanted, rest)), Some((segment, shorter))) => {
                wanted == segment && naively(rest, shorter)
            }
            _ => false,
        }
    }

    #[test]
    fn a_star_is_one_segment_and_two_are_any_number() {
        assert!(matches("agent.*.completed", "agent.chat.completed"));
        assert!(!matches("agent.*.completed", "agent.completed"));
        assert!(!matches("agent.*.completed", "agent.a.b.completed"));
        assert!(!matches("agent.*", "agent"));
        assert!(matches("agent.**", "agent"));
        assert!(matches("agent.**", "agent.a.b.c"));
        assert!(matches("**", "x"));
        assert!(matches("**.completed", "a.completed.b.completed"));
        assert!(matches("a.**.b.*.c", "a.b.b.x.c"));
        assert!(!matches("system.health", "system.healthy"));
    }

    #[test]
    fn matching_is_what_the_naive_one_says() {
        let seed = 20_261_125;
        println!("SEED={seed}");
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut both = [0, 0];
        for _ in 0..20_000 {
            let mut pick = |words: &[&'static str], least: usize| {
                let len = random.random_range(least..7);
                let words = (0..len).map(|_| words[random.random_range(0..words.len())]);
                words.collect::<Vec<_>>()
            };
            let pattern = pick(&["a", "b", "*", "**", "**"], 1);
            let name = pick(&["a", "b"], 1);
            let expected = naively(&pattern, &name);
            both[usize::from(expected)] += 1;
            let (pattern, name) = (pattern.join("."), name.join("."));
            assert_eq!(matches(&pattern, &name), expected, "{pattern} {name}");
        }
        assert!(both.iter().all(|count| *count > 1000), "{both:?}");
    }

    #[test]
    fn patterns_are_bounded_and_what_is_none_is_refused() {
        let many = vec!["a"; PATTERNS_MAX + 1].join(",");
        let deep = vec!["**"; SEGMENTS_MAX + 1].join(".");
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for bad in [
            "a,,b", ",", "a..b", "a.", "ag*nt", "***", "a b", &many, &deep, &long,
        ] {
            assert!(Pattern::parse_list(bad).is_err(), "{bad}");
        }
        let most = vec!["a.*"; PATTERNS_MAX].join(", ");
        assert_eq!(Pattern::parse_list(&most).unwrap().len(), PATTERNS_MAX);
        assert!(Pattern::parse_list(" ").unwrap().is_empty());
    }

    #[test]
    fn only_those_see_an_event_whom_it_is_for() {
        let (mine, yours) = (AccountId(10), AccountId(11));
        let of_mine = Audience::Accounts(vec![mine]);
        assert!(Viewer::Account(mine).may_see(&of_mine));
        assert!(!Viewer::Account(yours).may_see(&of_mine));
        assert!(Viewer::Operator.may_see(&of_mine));
        assert!(Viewer::Account(yours).may_see(&Audience::Everyone));
        assert!(!Viewer::Account(yours).may_see(&Audience::Accounts(Vec::new())));
        let filter = Filter {
            viewer: Viewer::Account(mine),
            patterns: Pattern::parse_list("a.*, b").unwrap(),
            agent: Some("bot".into()),
        };
        assert!(filter.admits_parts("b", Some("bot"), &of_mine));
        assert!(filter.admits_parts("a.c", Some("bot"), &of_mine));
        assert!(!filter.admits_parts("c", Some("bot"), &of_mine));
        assert!(!filter.admits_parts("b", Some("other"), &of_mine));
        assert!(!filter.admits_parts("b", None, &of_mine));
        let hidden = Audience::Accounts(vec![yours]);
        assert!(!filter.admits_parts("b", Some("bot"), &hidden));
    }
}
