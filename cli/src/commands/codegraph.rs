//! `aither-cli memory codegraph`: the structure of code in memory.
//!
//! A folder goes to the node in parts that fit into its requests; the last one says which files are
//! there, so that what is gone goes there as well.

mod folder;

use serde::Deserialize;

use crate::{
    args::codegraph::{CodegraphCommand, IndexArgs, QueryArgs},
    client::{Client, CodegraphIndex, CodegraphQuery, CodegraphRow, Indexed, Skipped, SourceFile},
    error::Error,
    render::{self, Column, Output, Table, or_dash, printable},
};

/// Bytes of one request's files as JSON, below what nodes read unless they are told otherwise.
const PART_BYTES_MAX: usize = 2 << 20;
/// Files of one request.
const PART_FILES_MAX: usize = 500;
/// Skipped files that are told one by one; `--json` has all of them.
const SKIPPED_TOLD_MAX: usize = 10;

#[derive(Deserialize)]
struct Found {
    results: Vec<CodegraphRow>,
    #[serde(default)]
    partial: bool,
}

/// Does what was asked.
pub(crate) async fn run(
    client: &Client,
    output: &Output,
    command: &CodegraphCommand,
    json: bool,
) -> Result<(), Error> {
    match command {
        CodegraphCommand::Index(args) => index(client, output, args, json).await,
        CodegraphCommand::Query(args) => query(client, output, args, json).await,
    }
}

async fn index(
    client: &Client,
    output: &Output,
    args: &IndexArgs,
    json: bool,
) -> Result<(), Error> {
    let repo = match &args.repo {
        Some(repo) => repo.clone(),
        None => folder::name(&args.directory)?,
    };
    let paths = folder::sources(&args.directory)?;
    let mut upload = Upload {
        client,
        repo: &repo,
        part: Vec::new(),
        part_bytes: 0,
        sent: Vec::new(),
        total: paths.len(),
        indexed: Indexed::default(),
        unread: Vec::new(),
    };
    for path in paths {
        match folder::read(&args.directory, &path) {
            Ok(content) => upload.push(SourceFile { path, content }).await?,
            Err(reason) => upload.unread.push(Skipped {
                path,
                reason: reason.to_owned(),
            }),
        }
    }
    let indexed = upload.finish(!args.keep).await?;
    if json {
        let line = serde_json::to_string(&indexed);
        return output.line(&line.unwrap_or_default());
    }
    for skipped in indexed.skipped.iter().take(SKIPPED_TOLD_MAX) {
        let words = format!("left out {}: {}", skipped.path, skipped.reason);
        render::remark(&words);
    }
    output.line(&summary(&indexed))
}

fn summary(indexed: &Indexed) -> String {
    format!(
        "{} has {} files: {} indexed, {} unchanged, {} removed, {} left out; \
         {} definitions, {} calls, {} imports, {} references are new",
        printable(&indexed.repo),
        indexed.files,
        indexed.indexed,
        indexed.unchanged,
        indexed.removed,
        indexed.skipped.len(),
        indexed.symbols,
        indexed.calls,
        indexed.imports,
        indexed.references,
    )
}

/// Files on their way to the node.
struct Upload<'a> {
    client: &'a Client,
    repo: &'a str,
    part: Vec<SourceFile>,
    part_bytes: usize,
    /// Paths of files that were sent before.
    sent: Vec<String>,
    total: usize,
    indexed: Indexed,
    unread: Vec<Skipped>,
}

impl Upload<'_> {
    async fn push(&mut self, file: SourceFile) -> Result<(), Error> {
        // Line ends and quotes take two bytes in JSON.
        let bytes = serde_json::to_string(&file).map_or(0, |json| json.len());
        let is_full = self.part_bytes + bytes > PART_BYTES_MAX || self.part.len() >= PART_FILES_MAX;
        if is_full && !self.part.is_empty() {
            self.send(false).await?;
        }
        self.part_bytes += bytes;
        self.part.push(file);
        Ok(())
    }

    async fn send(&mut self, is_last: bool) -> Result<(), Error> {
        let files = std::mem::take(&mut self.part);
        self.part_bytes = 0;
        let request = CodegraphIndex {
            repo: self.repo,
            files: &files,
            replace: is_last,
            keep: if is_last { &self.sent } else { &[] },
        };
        let indexed = self.client.codegraph_index(&request).await?;
        self.indexed.add(indexed);
        self.sent.extend(files.into_iter().map(|file| file.path));
        if self.total > PART_FILES_MAX || !is_last {
            render::remark(&format!("sent {} of {} files", self.sent.len(), self.total));
        }
        Ok(())
    }

    async fn finish(mut self, replaces: bool) -> Result<Indexed, Error> {
        if replaces || !self.part.is_empty() {
            self.send(replaces).await?;
        }
        self.indexed.skipped.append(&mut self.unread);
        Ok(self.indexed)
    }
}

async fn query(
    client: &Client,
    output: &Output,
    args: &QueryArgs,
    json: bool,
) -> Result<(), Error> {
    let text = args.symbol.join(" ");
    let query = CodegraphQuery {
        repo: args.repo.as_deref(),
        symbol: (!args.words).then_some(&text),
        query: args.words.then_some(&text),
        relation: args.relation,
        direction: args.direction,
        depth: args.depth,
        limit: args.limit,
    };
    let answer = client.codegraph_query(&query).await?;
    if json {
        return output.line(&answer.line());
    }
    let found: Found = answer.read("what was found in code")?;
    if found.partial {
        render::remark("the repository is too large to be looked at as a whole");
    }
    if found.results.is_empty() {
        render::remark("nothing was found");
        return Ok(());
    }
    output.piece(&table(found.results))
}

fn table(rows: Vec<CodegraphRow>) -> String {
    let mut table = Table::new([
        Column::Text("RELATION"),
        Column::Number("DEPTH"),
        Column::Text("KIND"),
        Column::Text("SYMBOL"),
        Column::Text("DEFINED"),
        Column::Text("WRITTEN"),
        Column::Text("FOUND"),
    ]);
    for row in rows {
        let defined = row.file.zip(row.line);
        let relation = match row.direction.as_deref() {
            Some("in") => format!("{} (in)", row.relation),
            _ => row.relation,
        };
        table.push([
            relation,
            row.depth.to_string(),
            row.kind,
            row.symbol,
            or_dash(defined.map(|(file, line)| format!("{file}:{line}"))),
            or_dash(row.site.map(|site| format!("{}:{}", site.file, site.line))),
            row.confidence,
        ]);
    }
    table.to_string()
}
