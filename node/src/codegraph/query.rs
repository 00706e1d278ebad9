//! What is asked of a repository, and the answers.
//!
//! A question names definitions or describes them in words; from there it follows a relation, in
//! one direction or both, breadth first. Each definition is told once in a direction, by the
//! shortest way.

mod words;

use std::{
    collections::{HashSet, VecDeque},
    fmt,
};

use serde::{Deserialize, Serialize};

pub use self::words::WordIndex;
use super::{
    limits::{QUERY_DEPTH_MAX, RESULTS_MAX},
    model::SymbolKind,
    repository::{Edge, NodeId, Repository, Target},
};

/// Most definitions from which a relation is followed.
const SEEDS_MAX: usize = 200;
/// Most members of a type or a module from which a relation is followed as from itself.
const MEMBERS_MAX: usize = 2_000;
/// Most words of a question that are looked at.
pub(super) const QUERY_WORDS_MAX: usize = 32;

/// How an edge was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// By scopes, imports and what the text says of types.
    Resolved,
    /// It is the only definition of that name.
    ByName,
    /// It is one of several definitions of that name.
    Ambiguous,
    /// Nothing here has that name.
    External,
}

impl Confidence {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Resolved,
        Self::ByName,
        Self::Ambiguous,
        Self::External,
    ];
}

/// What one thing has to do with another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// The one holds the definition of the other.
    Defines,
    /// The one calls the other.
    Calls,
    /// The one's file imports the other.
    Imports,
    /// The one names the other.
    References,
}

/// Which way a relation is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From what is asked about: what it calls.
    Out,
    /// To what is asked about: what calls it.
    In,
}

/// A question.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// A name, qualified as far as is known: `insert`, `ScopeIndex::insert`, or a file's path.
    pub symbol: Option<String>,
    /// Words that describe it.
    pub words: Option<String>,
    /// Files that were found by meaning, best first, with a score from 0 to 1. Their definitions
    /// come up in questions by words.
    pub files: Vec<(String, f32)>,
    /// What to follow; nothing tells about the definitions themselves.
    pub relation: Option<Relation>,
    /// Which way; nothing means both.
    pub direction: Option<Direction>,
    /// How far.
    pub depth: u32,
    /// Most rows.
    pub limit: usize,
}

impl Default for Query {
    fn default() -> Self {
        Self {
            symbol: None,
            words: None,
            files: Vec::new(),
            relation: None,
            direction: None,
            depth: 1,
            limit: 50,
        }
    }
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Site {
    /// The file's path.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
}

/// A row of an answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QueryRow {
    /// The qualified name; for what is not here, as it is written.
    pub symbol: String,
    /// The last part of it.
    pub name: String,
    /// What it is: a kind of definition, `file`, or `external`.
    pub kind: &'static str,
    /// Its file.
    pub file: Option<String>,
    /// Its first line.
    pub line: Option<u32>,
    /// Its last line.
    pub end_line: Option<u32>,
    /// The definition without its body.
    pub signature: Option<String>,
    /// The first lines of its documentation.
    pub doc: Option<String>,
    /// Its language.
    pub language: &'static str,
    /// The relation that led here.
    pub relation: Relation,
    /// The way that it was followed; nothing for what was asked about.
    pub direction: Option<Direction>,
    /// How many steps away it is from what was asked about.
    pub depth: u32,
    /// How the last step was found.
    pub confidence: Confidence,
    /// What is on the other side of the last step.
    pub via: Option<String>,
    /// Where the last step is written.
    pub site: Option<Site>,
    /// How well it fits the words of the question.
    pub score: Option<f32>,
}

impl QueryRow {
    /// Returns about how many bytes it takes.
    pub fn bytes(&self) -> usize {
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let own = self.symbol.len() + self.name.len() + length(&self.file);
        let site = self.site.as_ref().map_or(0, |site| site.file.len());
        let texts = length(&self.signature) + length(&self.doc) + length(&self.via);
        size_of::<Self>() + own + site + texts
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Defines => "defines",
            Self::Calls => "calls",
            Self::Imports => "imports",
            Self::References => "references",
        })
    }
}

impl Repository {
    /// Answers a question.
    pub fn ask(&self, query: &Query) -> Vec<QueryRow> {
        let limit = query.limit.min(RESULTS_MAX);
        let seeds = self.seeds(query);
        let mut rows = Vec::new();
        if matches!(query.relation, None | Some(Relation::Defines)) {
            let told = seeds.iter().take(limit);
            rows.extend(told.map(|(node, score)| QueryRow {
                score: *score,
                ..self.row(*node)
            }));
        }
        let Some(relation) = query.relation else {
            return rows;
        };
        let directions = match query.direction {
            Some(direction) => vec![direction],
            None => vec![Direction::Out, Direction::In],
        };
        let seeds: Vec<_> = seeds.into_iter().map(|(node, _)| node).collect();
        for direction in directions {
            let left = limit.saturating_sub(rows.len());
            let walk = Walk {
                relation,
                direction,
                depth: query.depth.clamp(1, QUERY_DEPTH_MAX),
                limit: left,
            };
            rows.extend(self.follow(&seeds, &walk));
        }
        rows
    }

    /// Returns what a question is about, and how well each fits.
    fn seeds(&self, query: &Query) -> Vec<(NodeId, Option<f32>)> {
        if let Some(symbol) = &query.symbol {
            let found = self.matching(symbol).into_iter();
            return found.take(SEEDS_MAX).map(|node| (node, None)).collect();
        }
        let Some(words) = &query.words else {
            return Vec::new();
        };
        let found = self.words().search(self, words, &query.files);
        // A relation is followed from the best: from all it would be about everything.
        let count = match query.relation {
            None | Some(Relation::Defines) => SEEDS_MAX,
            Some(_) => 5,
        };
        let found = found.into_iter().take(count);
        found.map(|(node, score)| (node, Some(score))).collect()
    }

    /// Returns what a name means, with or without what it stands in.
    pub(super) fn matching(&self, symbol: &str) -> Vec<NodeId> {
        let symbol = symbol.trim().trim_end_matches("()").trim_end_matches('!');
        if let Some(file) = self.file_at(symbol) {
            return vec![file];
        }
        let parts = symbol.split([':', '.', '/', '#']);
        let parts: Vec<_> = parts.filter(|part| !part.is_empty()).collect();
        let Some((last, within)) = parts.split_last() else {
            return Vec::new();
        };
        let ends_so = |node: &&NodeId| {
            let qualified = self.qualified(**node);
            let before = &qualified[..qualified.len().saturating_sub(1)];
            before.ends_with(within)
        };
        let named = self.named(last).iter();
        let mut found: Vec<_> = named.filter(ends_so).copied().collect();
        // Definitions before the files that are called like them.
        found.sort_by_key(|node| (self.symbol(*node).is_none(), *node));
        found
    }

    fn row(&self, node: NodeId) -> QueryRow {
        let file = self.file(node);
        let separator = file.graph.language.separator();
        let symbol = self.symbol(node);
        let doc = match symbol {
            Some(symbol) => symbol.doc.clone(),
            None => file.graph.doc.clone(),
        };
        QueryRow {
            symbol: self.qualified(node).join(separator),
            name: self.name(node).to_owned(),
            kind: symbol.map_or("file", |symbol| symbol.kind.as_str()),
            file: Some(file.path.clone()),
            line: Some(symbol.map_or(1, |symbol| symbol.line)),
            end_line: Some(symbol.map_or(file.graph.lines, |symbol| symbol.end)),
            signature: symbol.map(|symbol| symbol.signature.clone()),
            doc,
            language: file.graph.language.as_str(),
            relation: Relation::Defines,
            direction: None,
            depth: 0,
            confidence: Confidence::Resolved,
            via: None,
            site: None,
            score: None,
        }
    }

    fn row_of_edge(&self, edge: &Edge, walk: &Walk, depth: u32) -> QueryRow {
        let (to, via) = match walk.direction {
            Direction::Out => (edge.to, Target::Node(edge.from)),
            Direction::In => (Target::Node(edge.from), edge.to),
        };
        let row = match to {
            Target::Node(node) => self.row(node),
            Target::External(number) => self.external_row(edge.from, number),
        };
        let via = match via {
            Target::Node(node) => self.row(node).symbol,
            Target::External(number) => self.external(number).to_owned(),
        };
        QueryRow {
            relation: walk.relation,
            direction: Some(walk.direction),
            depth,
            confidence: edge.confidence,
            via: Some(via),
            site: Some(Site {
                file: self.file(edge.from).path.clone(),
                line: edge.line,
            }),
            ..row
        }
    }

    fn external_row(&self, from: NodeId, number: u32) -> QueryRow {
        let symbol = self.external(number).to_owned();
        let name = symbol.rsplit([':', '.', '/']).next().unwrap_or_default();
        QueryRow {
            name: name.to_owned(),
            kind: "external",
            file: None,
            line: None,
            end_line: None,
            signature: None,
            doc: None,
            symbol,
            ..self.row(from)
        }
    }

    fn follow(&self, seeds: &[NodeId], walk: &Walk) -> Vec<QueryRow> {
        let mut rows = Vec::new();
        let mut told: HashSet<Target> = HashSet::new();
        let mut reached: HashSet<NodeId> = HashSet::new();
        let mut waiting: VecDeque<(NodeId, u32)> = VecDeque::new();
        for node in self.with_members(seeds, walk) {
            if reached.insert(node) {
                waiting.push_back((node, 0));
            }
        }
        while let Some((node, depth)) = waiting.pop_front() {
            let edges: Vec<&Edge> = match walk.direction {
                Direction::Out => self.out(node).iter().collect(),
                Direction::In => self.into(node).collect(),
            };
            for edge in edges
                .into_iter()
                .filter(|edge| edge.relation == walk.relation)
            {
                let next = match walk.direction {
                    Direction::Out => edge.to,
                    Direction::In => Target::Node(edge.from),
                };
                if rows.len() >= walk.limit {
                    return rows;
                }
                if told.insert(next) {
                    rows.push(self.row_of_edge(edge, walk, depth + 1));
                }
                // One of several that may be meant is no ground for more.
                if let Target::Node(next) = next
                    && depth + 1 < walk.depth
                    && edge.confidence != Confidence::Ambiguous
                    && reached.insert(next)
                {
                    waiting.push_back((next, depth + 1));
                }
            }
        }
        rows
    }

    /// Returns from where a relation is followed: a type calls what its methods call, and it is its
    /// file that imports.
    fn with_members(&self, seeds: &[NodeId], walk: &Walk) -> Vec<NodeId> {
        let mut nodes = seeds.to_vec();
        match walk.relation {
            Relation::Defines => return nodes,
            Relation::Imports => {
                nodes.extend(seeds.iter().map(|node| self.file(*node).node));
                return nodes;
            }
            Relation::Calls | Relation::References => {}
        }
        let mut at = 0;
        while at < nodes.len() && nodes.len() < MEMBERS_MAX {
            let node = nodes[at];
            at += 1;
            let holds = self.symbol(node).is_none_or(|symbol| {
                symbol.kind.is_type()
                    || matches!(symbol.kind, SymbolKind::Module | SymbolKind::Constant)
            });
            // Who uses a whole file is not who uses what is in it.
            let is_file = self.symbol(node).is_none();
            if !holds || is_file && walk.direction == Direction::In {
                continue;
            }
            for edge in self.out(node) {
                if let (Relation::Defines, Target::Node(member)) = (edge.relation, edge.to) {
                    nodes.push(member);
                }
            }
        }
        nodes
    }
}

/// How a relation is followed.
struct Walk {
    relation: Relation,
    direction: Direction,
    depth: u32,
    limit: usize,
}
