//! A hundred nodes, as a thousand are measured by the example `federation`. Each run prints its
//! seed where it fails; the same seed gives the same run.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

use std::time::Duration;

use aither_federation_tests::{Settings, Simulation};

const NODES: usize = 100;
const MINUTE: Duration = Duration::from_secs(60);
const SEEDS: [u64; 3] = [1, 2, 3];

/// What the design allows each node: six ads a day of every other one, of 320 bytes, three times.
fn bytes_per_second_designed(nodes: usize) -> f64 {
    nodes as f64 * 6.0 * 320.0 * 3.0 / 86_400.0
}

#[test]
fn ad_reaches_nearly_everybody_within_two_seconds() {
    for seed in SEEDS {
        let mut simulation = Simulation::settled(Settings::new(NODES, seed));
        simulation.run(MINUTE);
        let begun = simulation.now_ms();
        let ad = simulation.watch_change(7);
        simulation.run(Duration::from_secs(2));
        let reached = simulation.reached(&ad, 99, begun);
        assert!(
            reached.is_some_and(|ms| ms < 2000),
            "SEED={seed}: {reached:?}"
        );
    }
}

#[test]
fn nodes_that_know_nothing_come_to_know_everything() {
    for seed in SEEDS {
        let mut simulation = Simulation::new(Settings::new(NODES, seed));
        simulation.announce_all();
        let took = simulation.run_until_converged(5 * MINUTE);
        assert!(took.is_some(), "SEED={seed}");
    }
}

#[test]
fn steady_traffic_is_what_the_design_says() {
    for seed in SEEDS {
        let mut simulation = Simulation::settled(Settings::new(NODES, seed));
        let before = simulation.traffic();
        simulation.run(60 * MINUTE);
        let after = simulation.traffic();
        let share = |bytes: u64| bytes as f64 / 3600.0 / NODES as f64;
        let gossip = share(after.gossip_bytes - before.gossip_bytes);
        let exchange = share(after.exchange_bytes - before.exchange_bytes);
        let designed = bytes_per_second_designed(NODES);
        assert!(
            gossip > 0.0 && gossip < 2.0 * designed,
            "SEED={seed}: {gossip} B/s"
        );
        // Two messages a minute, mostly of equal sets.
        assert!(exchange < 8.0, "SEED={seed}: {exchange} B/s");
    }
}

#[test]
fn half_of_all_nodes_restart_and_know_everything_soon() {
    for seed in SEEDS {
        let mut simulation = Simulation::settled(Settings::new(NODES, seed));
        simulation.run(MINUTE);
        simulation.restart(50);
        let took = simulation.run_until_converged(5 * MINUTE);
        assert!(took.is_some(), "SEED={seed}");
    }
}

#[test]
fn partition_of_an_hour_heals_without_a_restart() {
    for seed in SEEDS {
        let mut simulation = Simulation::settled(Settings::new(NODES, seed));
        simulation.part(true);
        simulation.announce_all();
        simulation.run(60 * MINUTE);
        assert!(!simulation.has_converged(), "SEED={seed}");
        simulation.part(false);
        let took = simulation.run_until_converged(10 * MINUTE);
        assert!(took.is_some(), "SEED={seed}");
    }
}

#[test]
fn same_seed_gives_the_same_run() {
    let run = || {
        let mut simulation = Simulation::settled(Settings::new(NODES, 9));
        simulation.restart(20);
        simulation.run(2 * MINUTE);
        simulation.traffic()
    };
    assert_eq!(run(), run());
}
