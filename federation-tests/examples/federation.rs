//! Measures federations of many nodes: how fast an ad spreads, what a quiet hour costs, how soon
//! half of them are back. Usage:
//!
//! ```sh
//! cargo run --release -p aither-federation-tests --example federation -- NODES [AGENTS [SEED]]
//! ```
//!
//! Without numbers it goes through 100, 300 and 1000 nodes and prints by which power of their
//! number the traffic of one grows.

#![allow(clippy::print_stdout, reason = "what it measures is its output")]

use std::{env, time::Duration};

use aither_federation_tests::{Settings, Simulation};

const MINUTE: Duration = Duration::from_secs(60);

fn main() {
    let mut numbers = env::args().skip(1).map_while(|text| text.parse().ok());
    let Some(nodes) = numbers.next() else {
        return grow();
    };
    let agents = numbers.next().unwrap_or(nodes);
    let seed = numbers.next().unwrap_or(1);
    measure(nodes, agents, seed as u64);
}

/// Measures several sizes, and what one is to the next.
fn grow() {
    let mut last: Option<(usize, f64)> = None;
    for nodes in [100, 300, 1000] {
        let traffic = measure(nodes, nodes, 1);
        if let Some((fewer, less)) = last {
            let power = (traffic / less).ln() / (nodes as f64 / fewer as f64).ln();
            println!("from {fewer} to {nodes} nodes, traffic a node grows by the power {power:.2}");
        }
        last = Some((nodes, traffic));
    }
}

/// Returns the bytes a second that arrive at a node.
fn measure(nodes: usize, agents: usize, seed: u64) -> f64 {
    let settings = Settings {
        agents,
        ..Settings::new(nodes, seed)
    };
    println!("{nodes} nodes, {agents} agents, seed {seed}");
    let mut simulation = Simulation::settled(settings);
    simulation.run(MINUTE);
    let mut slowest = Some(0);
    for agent in 0..20 {
        let begun = simulation.now_ms();
        let ad = simulation.watch_change(agent);
        simulation.run(MINUTE);
        let reached = simulation.reached(&ad, 99, begun);
        slowest = slowest
            .zip(reached)
            .map(|(slowest, reached)| slowest.max(reached));
    }
    println!("  an ad is at 99 % after at most {slowest:?} ms, of 20");

    let before = simulation.traffic();
    simulation.run(60 * MINUTE);
    let after = simulation.traffic();
    let share = |bytes: u64| bytes as f64 / 3600.0 / nodes as f64;
    let gossip = share(after.gossip_bytes - before.gossip_bytes);
    let exchange = share(after.exchange_bytes - before.exchange_bytes);
    let designed = agents as f64 * 6.0 * 320.0 * 3.0 / 86_400.0;
    println!(
        "  an hour: {gossip:.1} B/s of gossip and {exchange:.1} B/s of reconciliation a node; \
         designed: {designed:.1} B/s"
    );

    let before = simulation.traffic();
    simulation.restart(50);
    let took = simulation.run_until_converged(10 * MINUTE);
    let after = simulation.traffic();
    let bytes =
        after.gossip_bytes + after.exchange_bytes - before.gossip_bytes - before.exchange_bytes;
    let each = bytes as f64 / nodes as f64 / 1000.0;
    println!("  half restart: all know all after {took:?}, for {each:.1} kB a node");
    gossip + exchange
}
