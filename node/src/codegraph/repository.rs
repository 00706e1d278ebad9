//! All files of a repository together: what their names mean across files, as a graph.
//!
//! Made from the files' own graphs in one go and never changed: whoever changes a file makes a new
//! one. Files and definitions are nodes; a number says which, files before their definitions.
//! Edges are sorted by where they begin, with a second order by where they end, so both directions
//! are ranges.

use std::{collections::HashMap, sync::OnceLock};

use super::{
    limits::REPOSITORY_WORK_MAX,
    model::{FileGraph, Symbol},
    query::{Confidence, Relation, WordIndex},
    resolve::Resolver,
};

/// A file or a definition.
pub(super) type NodeId = u32;

/// About what the tables of a repository take for each node: where its edges are, its name.
const NODE_BYTES: usize = 100;

/// A file of a repository.
#[derive(Debug)]
pub(super) struct File {
    /// Its path in the repository.
    pub(super) path: String,
    /// What it is by itself.
    pub(super) graph: FileGraph,
    /// The node that it is; its definitions follow.
    pub(super) node: NodeId,
    /// The names of its module, as a qualified name begins.
    pub(super) module: Vec<String>,
}

/// What an edge leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Target {
    /// A file or a definition here.
    Node(NodeId),
    /// A name that is defined elsewhere, by its number.
    External(u32),
}

/// A relation of a node to something.
#[derive(Debug, Clone, Copy)]
pub(super) struct Edge {
    pub(super) from: NodeId,
    pub(super) to: Target,
    pub(super) relation: Relation,
    pub(super) confidence: Confidence,
    /// The line where it is written.
    pub(super) line: u32,
}

/// A repository.
#[derive(Debug)]
pub struct Repository {
    pub(super) files: Vec<File>,
    /// The file of each node.
    file_of: Vec<u32>,
    edges: Vec<Edge>,
    /// Where the edges of each node begin, and where those of the last end.
    starts: Vec<u32>,
    /// Edges by what they lead to, and where each node's begin.
    by_target: Vec<u32>,
    target_starts: Vec<u32>,
    externals: Vec<String>,
    /// Nodes by the last part of their names.
    by_name: HashMap<String, Vec<NodeId>>,
    words: OnceLock<WordIndex>,
    is_partial: bool,
}

impl Repository {
    /// Puts the graphs of a repository's files together.
    pub fn new(name: &str, graphs: Vec<(String, FileGraph)>) -> Self {
        Self::with_work(name, graphs, REPOSITORY_WORK_MAX)
    }

    /// The same with so much work on what names mean. What it does not do for is left out.
    pub fn with_work(name: &str, graphs: Vec<(String, FileGraph)>, work: usize) -> Self {
        let mut graphs = graphs;
        graphs.sort_by(|a, b| a.0.cmp(&b.0));
        let mut files: Vec<File> = Vec::with_capacity(graphs.len());
        let mut file_of = Vec::new();
        for (path, graph) in graphs {
            let index = u32::try_from(files.len()).unwrap_or(u32::MAX);
            let node = u32::try_from(file_of.len()).unwrap_or(u32::MAX);
            file_of.extend(std::iter::repeat_n(index, graph.symbols.len() + 1));
            files.push(File {
                path,
                graph,
                node,
                module: Vec::new(),
            });
        }
        let layout = super::resolve::Layout::of(name, &files);
        for (file, module) in files.iter_mut().zip(layout.display()) {
            file.module = module;
        }
        let resolver = Resolver::new(&files, &file_of, &layout, work);
        let (mut edges, externals) = resolver.edges();
        let is_partial = resolver.is_spent();
        edges.sort_by_key(|edge| (edge.from, edge.relation, edge.line));
        let node_count = file_of.len();
        let starts = starts(node_count, edges.iter().map(|edge| edge.from));
        let mut by_target: Vec<(NodeId, u32)> = Vec::new();
        for (at, edge) in (0..).zip(&edges) {
            if let Target::Node(to) = edge.to {
                by_target.push((to, at));
            }
        }
        by_target.sort_unstable();
        let target_starts = self::starts(node_count, by_target.iter().map(|(to, _)| *to));
        let by_target = by_target.into_iter().map(|(_, at)| at).collect();
        let mut repository = Self {
            files,
            file_of,
            edges,
            starts,
            by_target,
            target_starts,
            externals,
            by_name: HashMap::new(),
            words: OnceLock::new(),
            is_partial,
        };
        repository.by_name = repository.names();
        repository
    }

    /// Returns how many files there are.
    pub fn file_count(&self) -> usize {
        self.files.len()
    }

    /// Returns whether there was more to find out than is worked on.
    pub fn is_partial(&self) -> bool {
        self.is_partial || self.words.get().is_some_and(WordIndex::is_partial)
    }

    /// Returns about how many bytes it takes beside its files' own graphs.
    pub fn index_bytes(&self) -> usize {
        let nodes = self.file_of.len() * NODE_BYTES;
        let edges = self.edges.len() * (size_of::<Edge>() + size_of::<u32>());
        let externals: usize = self.externals.iter().map(|name| name.len() + 24).sum();
        let words = self.words.get().map_or(0, WordIndex::bytes);
        nodes + edges + externals + words
    }

    /// Returns how many calls there are of each confidence: resolved, by name, ambiguous, external.
    pub fn call_counts(&self) -> [(Confidence, usize); 4] {
        Confidence::ALL.map(|confidence| {
            // Of several candidates of one call each is an edge.
            let mut seen = std::collections::HashSet::new();
            let calls = self.edges.iter().filter(|edge| {
                edge.relation == Relation::Calls
                    && edge.confidence == confidence
                    && (confidence != Confidence::Ambiguous
                        || seen.insert((edge.from, edge.line, self.name_of(edge.to))))
            });
            (confidence, calls.count())
        })
    }

    /// Returns every call: the caller's file, the line, the name, how it was found.
    pub fn calls(&self) -> impl Iterator<Item = (&str, u32, &str, Confidence)> {
        let calls = self.edges.iter();
        let calls = calls.filter(|edge| edge.relation == Relation::Calls);
        calls.map(|edge| {
            let path = self.file(edge.from).path.as_str();
            (path, edge.line, self.name_of(edge.to), edge.confidence)
        })
    }

    fn names(&self) -> HashMap<String, Vec<NodeId>> {
        let mut names: HashMap<String, Vec<NodeId>> = HashMap::new();
        for node in self.nodes() {
            let name = self.name(node).to_owned();
            names.entry(name).or_default().push(node);
        }
        names
    }

    pub(super) fn nodes(&self) -> std::ops::Range<NodeId> {
        0..u32::try_from(self.file_of.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn named(&self, name: &str) -> &[NodeId] {
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }

    pub(super) fn words(&self) -> &WordIndex {
        self.words.get_or_init(|| WordIndex::new(self))
    }

    /// Returns the file that a node is or stands in.
    pub(super) fn file(&self, node: NodeId) -> &File {
        &self.files[self.file_of[node as usize] as usize]
    }

    /// Returns the definition that a node is.
    pub(super) fn symbol(&self, node: NodeId) -> Option<&Symbol> {
        let file = self.file(node);
        let at = node.checked_sub(file.node + 1)?;
        file.graph.symbols.get(at as usize)
    }

    /// Returns the node of a file.
    pub(super) fn file_at(&self, path: &str) -> Option<NodeId> {
        let found = self
            .files
            .binary_search_by(|file| file.path.as_str().cmp(path));
        found.ok().map(|at| self.files[at].node)
    }

    /// Returns a node's own name: a definition's, or the last part of a module's.
    pub(super) fn name(&self, node: NodeId) -> &str {
        match self.symbol(node) {
            Some(symbol) => &symbol.name,
            None => self.file(node).module.last().map_or("", String::as_str),
        }
    }

    fn name_of(&self, target: Target) -> &str {
        match target {
            Target::Node(node) => self.name(node),
            Target::External(number) => self.external(number),
        }
    }

    pub(super) fn external(&self, number: u32) -> &str {
        &self.externals[number as usize]
    }

    /// Returns the parts of a node's qualified name.
    pub(super) fn qualified(&self, node: NodeId) -> Vec<&str> {
        let file = self.file(node);
        let mut parts: Vec<&str> = file.module.iter().map(String::as_str).collect();
        if let Some(symbol) = self.symbol(node) {
            parts.extend(symbol.within.iter().map(String::as_str));
            parts.push(&symbol.name);
        }
        parts
    }

    /// Returns what a node leads to.
    pub(super) fn out(&self, node: NodeId) -> &[Edge] {
        &self.edges[range(&self.starts, node)]
    }

    /// Returns what leads to a node.
    pub(super) fn into(&self, node: NodeId) -> impl Iterator<Item = &Edge> {
        let at = &self.by_target[range(&self.target_starts, node)];
        at.iter().map(|at| &self.edges[*at as usize])
    }
}

fn range(starts: &[u32], node: NodeId) -> std::ops::Range<usize> {
    starts[node as usize] as usize..starts[node as usize + 1] as usize
}

/// Returns where the rows of each node begin among rows that are sorted by node.
fn starts(node_count: usize, sorted: impl Iterator<Item = NodeId>) -> Vec<u32> {
    let mut starts = vec![0_u32; node_count + 1];
    for node in sorted {
        starts[node as usize + 1] += 1;
    }
    for at in 1..starts.len() {
        starts[at] += starts[at - 1];
    }
    starts
}
