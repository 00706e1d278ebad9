//! What a node knows of its federation, and how it comes to know it: machines that are told what
//! arrived and what time it is, and say what to do. They own no socket, no clock, no store and no
//! random source.
//!
//! So the same code runs in a node, in a simulation of a thousand of them, and under a test that
//! means harm. Reading order: who is let in ([`admission`]), what a node has heard from others
//! ([`directory`]), what it says itself ([`own_ads`]), and how two nodes find out what the other
//! has missed ([`reconcile`]).

#![warn(missing_docs)]

pub mod admission;
mod bucket;
pub mod directory;
pub mod own_ads;
pub mod reconcile;

pub use admission::{IssuerDesk, Judgement, OwnFederation, OwnFederations, Refusal};
pub use directory::{
    AddressPrefix, Directory, DirectorySettings, Query, Reason, Source, Standing, Verdict, Via,
};
pub use own_ads::OwnAds;
pub use reconcile::{Misbehaviour, Session, Snapshot, Turn};
