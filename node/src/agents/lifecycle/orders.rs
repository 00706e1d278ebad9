//! What somebody's order makes of an agent, and which moves there are at all.

use std::borrow::Cow;

use super::State;
use crate::agents::{AgentState, Rank};

/// Why agents are asked for their health anew.
pub const NODE_STARTED: &str = "the node started";

/// Every move that there is, from and to. What a crash has left out may seem to be another.
#[rustfmt::skip]
pub const LEGAL: &[(AgentState, &[AgentState])] = &[
    (State::Deploy, &[State::Init]),
    (State::Init,   &[State::Boot]),
    (State::Boot,   &[State::Live, State::Drain, State::Stop]),
    (State::Live,   &[State::Boot, State::Pain, State::Drain, State::Stop]),
    (State::Pain,   &[State::Boot, State::Live, State::Heal, State::Drain, State::Stop]),
    (State::Heal,   &[State::Boot, State::Live, State::Drain, State::Stop]),
    (State::Drain,  &[State::Boot, State::Stop]),
    (State::Stop,   &[State::Boot]),
];

/// What is to be done with an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// It comes aboard.
    Onboard,
    /// It comes aboard that is there already, or was once.
    OnboardAgain,
    /// It has another card.
    ReplaceCard,
    /// It is set aside.
    Suspend(Rank),
    /// It is to finish what it has, and is set aside then.
    Drain(Rank),
    /// It is taken back.
    Resume(Rank),
    /// It is ended.
    TearDown(Rank),
    /// The node stops.
    Shutdown,
}

/// Returns whether there is such a move.
pub fn is_legal(from: AgentState, to: AgentState) -> bool {
    let row = LEGAL.iter().find(|(state, _)| *state == from);
    row.is_some_and(|(_, to_all)| to_all.contains(&to))
}

/// Returns where an order leads an agent, step by step and with reasons; nowhere, where it is there
/// already. One without an address has nobody to ask, and lives at once.
pub fn ordered(
    from: AgentState,
    order: Order,
    has_address: bool,
) -> Vec<(AgentState, Cow<'static, str>)> {
    let by = |what: &str, rank: Rank| Cow::Owned(format!("{what} by {}", rank_word(rank)));
    let mut moves: Vec<(AgentState, Cow<'static, str>)> = Vec::new();
    match (order, from) {
        (Order::Onboard, State::Deploy) => {
            moves.push((State::Init, "its card was accepted".into()));
            moves.push((State::Boot, "its keys were made".into()));
        }
        (Order::OnboardAgain, State::Live) if !has_address => {}
        (Order::OnboardAgain, State::Live | State::Pain | State::Heal) => {
            moves.push((State::Boot, "it came aboard again".into()));
        }
        (Order::OnboardAgain, State::Drain | State::Stop) => {
            moves.push((State::Boot, "it came aboard again".into()));
        }
        (Order::ReplaceCard, State::Live) if !has_address => {}
        (Order::ReplaceCard, State::Live | State::Pain | State::Heal) => {
            moves.push((State::Boot, "its card was replaced".into()));
        }
        (Order::Resume(rank), State::Drain | State::Stop) => {
            moves.push((State::Boot, by("it was resumed", rank)));
        }
        (Order::Suspend(_) | Order::TearDown(_) | Order::Drain(_), State::Stop) => {}
        (Order::Suspend(rank), _) => moves.push((State::Stop, by("it was suspended", rank))),
        (Order::TearDown(rank), _) => moves.push((State::Stop, by("it was torn down", rank))),
        (Order::Drain(_), State::Drain) => {}
        (Order::Drain(rank), _) => moves.push((State::Drain, by("it was drained", rank))),
        (Order::Shutdown, State::Live | State::Pain | State::Heal) => {
            moves.push((State::Drain, "the node stops".into()));
            moves.push((State::Stop, "the node stops".into()));
        }
        (Order::Shutdown, State::Drain) => moves.push((State::Stop, "the node stops".into())),
        _ => {}
    }
    let rests_in = moves.last().map_or(from, |(to, _)| *to);
    if rests_in == State::Boot && !has_address {
        moves.push((State::Live, "it has no address to be asked at".into()));
    }
    moves
}

/// Returns where an agent is that was there when the node stopped or was killed. Who was set aside
/// stays so; who was being drained has nothing left to finish.
pub fn at_start(was: AgentState, is_set_aside: bool, has_address: bool) -> AgentState {
    match (is_set_aside, has_address) {
        (true, _) => State::Stop,
        (false, true) => State::Boot,
        // Only orders move one that nobody asks.
        (false, false) if was == State::Stop => State::Stop,
        (false, false) => State::Live,
    }
}

fn rank_word(rank: Rank) -> &'static str {
    match rank {
        Rank::Agent => "the agent itself",
        Rank::Owner => "its owner",
        Rank::Operator => "the node's operator",
    }
}
