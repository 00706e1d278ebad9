//! A federation of many nodes on a simulated network, with one clock and one seed.
//!
//! What a node decides is decided by the machines that real nodes run: directory, own ads and
//! reconciliation, with real signatures. The network is a model: links have a delay and lose
//! messages, gossip is pushed along a random mesh as gossipsub does it, and a reconciliation's
//! messages are on a stream, which loses nothing and is late instead. The same seed gives the same
//! run, to the byte.

mod mesh;
mod network;
mod node;
mod random;
mod simulation;

pub use network::Traffic;
pub use simulation::{Settings, Simulation};
