//! `run`: the node itself.

use crate::{
    args::{GlobalArgs, RunArgs},
    config::{load, print::to_toml},
    error::NodeError,
    node::Node,
    signals::Signals,
    telemetry,
};

/// Runs a node until it is told to stop, or prints the configuration it would run with.
///
/// # Errors
/// The configuration, or any part of the node.
pub fn run(global: &GlobalArgs, args: &RunArgs) -> Result<(), NodeError> {
    args.refuse_unavailable()?;
    let mut overrides = global.overrides();
    args.override_config(&mut overrides);
    let config = load::load(global.config.as_deref(), &overrides)?;
    if args.print_config {
        return super::print(&to_toml(&config));
    }
    telemetry::start(&config.log)?;
    let runtime = super::runtime()?;
    let outcome = runtime.block_on(async {
        let signals = Signals::listen()?;
        Node::start(config).await?.run(signals).await
    });
    // Whatever still runs after an orderly stop was given its time.
    runtime.shutdown_background();
    outcome
}
