//! The commands, one file each; this one only chooses.

mod agents;
mod billing;
mod call;
mod chat;
mod codegraph;
mod init;
mod logs;
mod marketplace;
mod memory;
mod models;
mod onboard;
mod probe;
mod validate;

use crate::{
    args::{Args, Command},
    client::Client,
    error::Error,
    render::Output,
};

/// Runs the command that was typed.
pub(crate) async fn run(args: Args) -> Result<(), Error> {
    let output = Output::stdout();
    let json = args.json;
    // What needs no node does not look for one, nor for a key.
    let client = || Client::new(&args.connection);
    match &args.command {
        Command::Init(init) => init::run(&output, init, json),
        Command::Validate(agent) => validate::run(&output, &agent.directory, json),
        Command::Onboard(onboard) => onboard::run(&client()?, &output, onboard, json).await,
        Command::Agents(agents) => agents::run(&client()?, &output, agents, json).await,
        Command::Call(call) => call::run(&client()?, &output, call, json).await,
        Command::Test(test) => probe::run(&output, test, json).await,
        Command::Logs(logs) => logs::run(&client()?, &output, logs, json).await,
        Command::Marketplace(args) => marketplace::run(&client()?, &output, args, json).await,
        Command::Chat(chat) => chat::run(&client()?, &output, chat, json).await,
        Command::Models => models::run(&client()?, &output, json).await,
        Command::Memory(command) => memory::run(&client()?, &output, command, json).await,
        Command::Balance => billing::balance(&client()?, &output, json).await,
        Command::Usage(usage) => billing::usage(&client()?, &output, usage, json).await,
        Command::Statement(args) => billing::statement(&client()?, &output, args, json).await,
        Command::TopUp(top_up) => billing::top_up(&client()?, &output, top_up, json).await,
    }
}
