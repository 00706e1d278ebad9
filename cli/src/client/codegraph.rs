//! The code graph, as far as the client asks for it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Answer, Client};
use crate::{
    args::codegraph::{Direction, Relation},
    error::Error,
};

/// `POST /v1/memory/codegraph/index`.
#[derive(Debug, Serialize)]
pub(crate) struct CodegraphIndex<'a> {
    pub(crate) repo: &'a str,
    pub(crate) files: &'a [SourceFile],
    pub(crate) replace: bool,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(crate) keep: &'a [String],
}

/// A source file.
#[derive(Debug, Serialize)]
pub(crate) struct SourceFile {
    pub(crate) path: String,
    pub(crate) content: String,
}

/// What became of files; of several requests, all together.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Indexed {
    pub(crate) repo: String,
    pub(crate) files: u64,
    pub(crate) indexed: u64,
    pub(crate) unchanged: u64,
    pub(crate) removed: u64,
    pub(crate) skipped: Vec<Skipped>,
    pub(crate) symbols: u64,
    pub(crate) calls: u64,
    pub(crate) imports: u64,
    pub(crate) references: u64,
    pub(crate) languages: BTreeMap<String, u64>,
}

/// A file that was left alone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Skipped {
    pub(crate) path: String,
    pub(crate) reason: String,
}

/// `POST /v1/memory/codegraph/query`.
#[derive(Debug, Serialize)]
pub(crate) struct CodegraphQuery<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) repo: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) symbol: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) query: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) relation: Option<Relation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) direction: Option<Direction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) depth: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<u32>,
}

/// A definition that was found.
#[derive(Debug, Deserialize)]
pub(crate) struct CodegraphRow {
    pub(crate) symbol: String,
    pub(crate) kind: String,
    pub(crate) file: Option<String>,
    pub(crate) line: Option<u32>,
    pub(crate) relation: String,
    pub(crate) direction: Option<String>,
    pub(crate) depth: u32,
    pub(crate) confidence: String,
    pub(crate) site: Option<Site>,
}

/// A place in a file.
#[derive(Debug, Deserialize)]
pub(crate) struct Site {
    pub(crate) file: String,
    pub(crate) line: u32,
}

impl Indexed {
    /// Adds what became of further files of the same repository.
    pub(crate) fn add(&mut self, more: Self) {
        self.repo = more.repo;
        self.files = more.files;
        self.indexed += more.indexed;
        self.unchanged += more.unchanged;
        self.removed += more.removed;
        self.skipped.extend(more.skipped);
        self.symbols += more.symbols;
        self.calls += more.calls;
        self.imports += more.imports;
        self.references += more.references;
        for (language, count) in more.languages {
            *self.languages.entry(language).or_default() += count;
        }
    }
}

impl Client {
    /// Takes files into the code graph.
    pub(crate) async fn codegraph_index(
        &self,
        index: &CodegraphIndex<'_>,
    ) -> Result<Indexed, Error> {
        let answer = self.post("v1/memory/codegraph/index", index).await?;
        answer.read("what became of files")
    }

    /// Asks about code.
    pub(crate) async fn codegraph_query(
        &self,
        query: &CodegraphQuery<'_>,
    ) -> Result<Answer, Error> {
        self.post("v1/memory/codegraph/query", query).await
    }
}
