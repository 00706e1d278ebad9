//! `aither-cli memory`: what agents, or the caller, remember.
//!
//! A value that is a text is printed as that text, so that it can be piped on; any other is printed
//! as JSON.

use std::io::{self, Read};

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::codegraph;
use crate::{
    args::memory::{LsArgs, MemoryCommand, ReadArgs, RmArgs, SearchArgs, WriteArgs},
    client::{
        Client, MemoryEntry, MemoryHit, MemoryItem, MemorySearch, MemoryWrite, Place, WrittenEntry,
    },
    error::Error,
    render::{self, Column, Output, Table, or_dash, printable},
};

/// Most of standard input that is read as a value: one byte more than any node takes is enough to
/// be refused.
const VALUE_BYTES_MAX: u64 = 8 << 20;
/// Room for the beginning of a value; `--json` has all of it.
const VALUE_WIDTH_MAX: usize = 60;

#[derive(Deserialize)]
struct List {
    items: Vec<MemoryItem>,
}

#[derive(Deserialize)]
struct Found {
    results: Vec<MemoryHit>,
}

/// Does what was asked.
pub(crate) async fn run(
    client: &Client,
    output: &Output,
    command: &MemoryCommand,
    json: bool,
) -> Result<(), Error> {
    match command {
        MemoryCommand::Read(args) => read(client, output, args, json).await,
        MemoryCommand::Write(args) => write(client, output, args, json).await,
        MemoryCommand::Search(args) => search(client, output, args, json).await,
        MemoryCommand::Ls(args) => list(client, output, args, json).await,
        MemoryCommand::Rm(args) => delete(client, output, args, json).await,
        MemoryCommand::Codegraph(command) => codegraph::run(client, output, command, json).await,
    }
}

async fn read(client: &Client, output: &Output, args: &ReadArgs, json: bool) -> Result<(), Error> {
    let answer = client
        .memory_read(Place::from(&args.place), &args.key)
        .await?;
    if json {
        return output.line(&answer.line());
    }
    let entry: MemoryEntry = answer.read("an entry")?;
    output.line(&printable(&words(&entry.value)))
}

async fn write(
    client: &Client,
    output: &Output,
    args: &WriteArgs,
    json: bool,
) -> Result<(), Error> {
    let text = match &args.value {
        Some(text) => text.clone(),
        None => standard_input()?,
    };
    let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
    let write = MemoryWrite {
        place: Place::from(&args.place),
        key: &args.key,
        value: &value,
        ttl: args.ttl.as_deref(),
        tags: &args.tags,
        if_version: args.if_version,
    };
    let answer = client.memory_write(&write).await?;
    if json {
        return output.line(&answer.line());
    }
    let written: WrittenEntry = answer.read("an entry that was written")?;
    output.line(&format!(
        "{} is at version {}",
        printable(&args.key),
        written.version
    ))
}

async fn list(client: &Client, output: &Output, args: &LsArgs, json: bool) -> Result<(), Error> {
    let place = Place::from(&args.place);
    let answer = client.memory_list(place, args.prefix.as_deref()).await?;
    if json {
        return output.line(&answer.line());
    }
    let list: List = answer.read("a list of entries")?;
    if list.items.is_empty() {
        render::remark("nothing is there");
        return Ok(());
    }
    output.piece(&table(list.items))
}

fn table(items: Vec<MemoryItem>) -> String {
    let mut table = Table::new([
        Column::Text("KEY"),
        Column::Number("VERSION"),
        Column::Number("BYTES"),
        Column::Text("UPDATED"),
        Column::Text("EXPIRES"),
        Column::Text("TAGS"),
    ]);
    for item in items {
        table.push([
            item.key,
            item.version.to_string(),
            or_dash(item.value_bytes),
            item.updated_at,
            item.expires_at.unwrap_or_else(|| "never".to_owned()),
            or_dash((!item.tags.is_empty()).then(|| item.tags.join(", "))),
        ]);
    }
    table.to_string()
}

async fn delete(client: &Client, output: &Output, args: &RmArgs, json: bool) -> Result<(), Error> {
    let place = Place::from(&args.place);
    let if_version = args.if_version.map(std::num::NonZeroU64::get);
    let answer = client.memory_delete(place, &args.key, if_version).await?;
    if json {
        return output.line(&answer.line());
    }
    output.line(&format!("deleted {}", printable(&args.key)))
}

async fn search(
    client: &Client,
    output: &Output,
    args: &SearchArgs,
    json: bool,
) -> Result<(), Error> {
    let query = args.query.join(" ");
    let search = MemorySearch {
        query: &query,
        tiers: args.tiers.iter().map(|tier| tier.as_str()).collect(),
        limit: args.limit,
        mode: args.mode,
    };
    let answer = client.memory_search(&search).await?;
    if json {
        return output.line(&answer.line());
    }
    let found: Found = answer.read("what a search found")?;
    if found.results.is_empty() {
        render::remark("nothing was found");
        return Ok(());
    }
    let mut table = Table::new([
        Column::Number("SCORE"),
        Column::Text("TIER"),
        Column::Text("KEY"),
        Column::Text("VALUE"),
    ]);
    for hit in found.results {
        table.push([
            format!("{:.3}", hit.score),
            hit.tier,
            hit.key,
            render::clip(&words(&hit.value), VALUE_WIDTH_MAX),
        ]);
    }
    output.piece(&table.to_string())
}

/// Returns a text as it is, and any other value as JSON.
fn words(value: &RawValue) -> String {
    match serde_json::from_str(value.get()) {
        Ok(Value::String(text)) => text,
        _ => value.get().to_owned(),
    }
}

fn standard_input() -> Result<String, Error> {
    let mut text = String::new();
    let mut bounded = io::stdin().lock().take(VALUE_BYTES_MAX);
    bounded.read_to_string(&mut text).map_err(Error::Terminal)?;
    // The line's end belongs to the shell, not to the value.
    let len = text.trim_end_matches(['\r', '\n']).len();
    text.truncate(len);
    Ok(text)
}
