//! The commands, one file each; this one only chooses.

mod chat;
mod models;

use crate::{
    args::{Args, Command},
    client::Client,
    error::Error,
    render::Output,
};

/// Runs the command that was typed.
pub(crate) async fn run(args: Args) -> Result<(), Error> {
    let client = Client::new(&args.connection)?;
    let output = Output::stdout();
    match &args.command {
        Command::Chat(chat) => chat::run(&client, &output, chat, args.json).await,
        Command::Models => models::run(&client, &output, args.json).await,
    }
}
