//! Measures how complete the calls of a code graph are, against a plain search for names.
//!
//! Usage: codegraph-recall FOLDER [NAME]
//!
//! Every place in the sources where a name that some function or class of the folder has stands
//! before a parenthesis counts as a call, unless it defines that name or lies in a comment or a
//! string. That is what `grep` finds; it cannot tell which of several functions is meant, which is
//! what the second figure is about. Prints one JSON line: `recall`, the share of those places that
//! are calls in the graph, and of the calls that may lead into the folder the shares by how their
//! targets were found; with times and sizes. Places that the graph lacks are told on stderr, the
//! first few of them.

use std::{
    collections::{HashMap, HashSet},
    error::Error,
    fs,
    io::Write,
    path::Path,
    time::Instant,
};

use aither_node::codegraph::{Confidence, FileGraph, Language, Repository, SymbolKind, extract};
use serde_json::json;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Places that are told.
const TOLD_MAX: usize = 20;
/// Words that stand before parentheses without being called.
const KEYWORDS: &[&str] = &[
    "if", "else", "while", "for", "match", "return", "switch", "catch", "fn", "func", "function",
    "def", "class", "in", "not", "and", "or", "print", "await", "super", "import", "pub", "where",
    "elif", "lambda", "yield", "assert", "del", "with", "typeof", "new", "let", "move", "as",
];
/// Words after which a name is defined.
const DEFINING: &[&str] = &[
    "fn",
    "func",
    "function",
    "def",
    "class",
    "struct",
    "enum",
    "trait",
    "macro_rules!",
    "async",
    "get",
    "set",
    "static",
    "public",
    "private",
    "protected",
];

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments
        .next()
        .ok_or("usage: codegraph-recall FOLDER [NAME]")?;
    let name = arguments.next().unwrap_or_else(|| "repository".to_owned());
    let sources = sources(Path::new(&folder))?;
    let bytes: usize = sources.iter().map(|(_, text)| text.len()).sum();
    let begun = Instant::now();
    let mut graphs = Vec::new();
    for (path, text) in &sources {
        if let Ok(graph) = extract(path, text) {
            graphs.push((path.clone(), graph));
        }
    }
    let read_seconds = begun.elapsed().as_secs_f64();
    let graph_bytes = graphs.iter().map(|(_, graph)| json_len(graph));
    let graph_bytes: usize = graph_bytes.sum();
    let (found, places) = compare(&sources, &graphs);
    let rows = |count: fn(&FileGraph) -> usize| -> usize {
        graphs.iter().map(|(_, graph)| count(graph)).sum()
    };
    let (symbols, calls) = (
        rows(|graph| graph.symbols.len()),
        rows(|graph| graph.calls.len()),
    );
    let (files, begun) = (graphs.len(), Instant::now());
    let repository = Repository::new(&name, graphs);
    let resolve_seconds = begun.elapsed().as_secs_f64();
    let counts: HashMap<_, _> = repository.call_counts().into_iter().collect();
    let inside = counts
        .iter()
        .filter(|(confidence, _)| **confidence != Confidence::External);
    let inside: usize = inside.map(|(_, count)| count).sum();
    let share = |confidence| share(counts.get(&confidence).copied().unwrap_or(0), inside);
    let line = json!({
        "folder": folder, "files": files, "bytes": bytes, "graph_bytes": graph_bytes,
        "symbols": symbols, "calls": calls, "calls_inside": inside,
        "places": places, "recall": self::share(found, places),
        "resolved": share(Confidence::Resolved), "by_name": share(Confidence::ByName),
        "ambiguous": share(Confidence::Ambiguous),
        "read_seconds": read_seconds, "resolve_seconds": resolve_seconds,
    });
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}

fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn json_len(graph: &FileGraph) -> usize {
    serde_json::to_string(graph).map_or(0, |json| json.len())
}

fn sources(root: &Path) -> Result<Vec<(String, String)>> {
    let mut waiting = vec![root.to_owned()];
    let mut sources = Vec::new();
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            if entry.file_type()?.is_dir() {
                if !name.starts_with('.') && !matches!(&*name, "target" | "node_modules") {
                    waiting.push(path);
                }
                continue;
            }
            let below = path.strip_prefix(root)?.to_string_lossy().into_owned();
            if Language::of_path(&below).is_some()
                && let Ok(text) = fs::read_to_string(&path)
            {
                sources.push((below, text));
            }
        }
    }
    sources.sort();
    Ok(sources)
}

/// Counts the places that a search finds, and those of them that the graphs have.
fn compare(sources: &[(String, String)], graphs: &[(String, FileGraph)]) -> (usize, usize) {
    let symbols = graphs.iter().flat_map(|(_, graph)| &graph.symbols);
    // Structs and variants stand before parentheses in patterns, too, which call nothing.
    let callable = symbols.filter(|symbol| {
        matches!(
            symbol.kind,
            SymbolKind::Function | SymbolKind::Method | SymbolKind::Macro | SymbolKind::Class
        )
    });
    let names: HashSet<&str> = callable.map(|symbol| symbol.name.as_str()).collect();
    let graphs: HashMap<&str, &FileGraph> = graphs
        .iter()
        .map(|(path, graph)| (path.as_str(), graph))
        .collect();
    let (mut found, mut places) = (0, 0);
    for (path, text) in sources {
        let Some(graph) = graphs.get(path.as_str()) else {
            continue;
        };
        let calls = graph.calls.iter();
        let calls: HashSet<_> = calls
            .map(|call| (call.line, call.name.trim_end_matches('!')))
            .collect();
        let is_python = graph.language == Language::Python;
        for (line, name) in called_by_search(text, is_python) {
            if !names.contains(name.as_str()) {
                continue;
            }
            places += 1;
            let is_there = calls.contains(&(line, name.as_str()));
            found += usize::from(is_there);
            if !is_there && places - found <= TOLD_MAX {
                // Nobody waits for it.
                let _ = writeln!(std::io::stderr(), "not in the graph: {path}:{line} {name}");
            }
        }
    }
    (found, places)
}

/// Returns the lines and names of what looks like a call.
fn called_by_search(text: &str, is_python: bool) -> Vec<(u32, String)> {
    let mut called = Vec::new();
    let mut in_text = None;
    for (line, words) in (1..).zip(text.lines()) {
        let code = without_texts(words, is_python, &mut in_text);
        for (at, _) in code.match_indices('(') {
            let before = &code[..at];
            let is_part = |c: char| c.is_alphanumeric() || c == '_';
            let name = before
                .rsplit(|c: char| !is_part(c))
                .next()
                .unwrap_or_default();
            let lead = before[..before.len() - name.len()].trim_end();
            let previous = lead.split_whitespace().next_back().unwrap_or_default();
            let is_name = name.starts_with(|c: char| c.is_alphabetic() || c == '_');
            // Go writes the receiver before the name of a method.
            let is_defined =
                DEFINING.contains(&previous) || lead.trim_start().starts_with("func (");
            let is_attribute = lead.ends_with("#[") || lead.ends_with("#![");
            if is_name && !is_defined && !is_attribute && !KEYWORDS.contains(&name) {
                called.push((line, name.to_owned()));
            }
        }
    }
    called
}

/// Returns a line without comments and without what is in quotes.
fn without_texts(line: &str, is_python: bool, in_text: &mut Option<&'static str>) -> String {
    let comment = if is_python { "#" } else { "//" };
    let mut code = String::new();
    let mut rest = line;
    loop {
        if let Some(end) = *in_text {
            let Some((_, after)) = rest.split_once(end) else {
                // A plain text may go on on the next line, where this one says so or not.
                if end == "'" || is_python && end == "\"" {
                    *in_text = None;
                }
                return code;
            };
            *in_text = None;
            rest = after;
        }
        let Some(c) = rest.chars().next() else {
            return code;
        };
        let opened = ["\"\"\"", "'''", "/*", "\"", "`"]
            .into_iter()
            .find(|q| rest.starts_with(q));
        let opened = opened.filter(|q| is_python || !matches!(*q, "\"\"\"" | "'''"));
        let opened = opened.or((is_python && c == '\'').then_some("'"));
        if rest.starts_with(comment) {
            return code;
        }
        if let Some(quote) = opened {
            *in_text = Some(if quote == "/*" { "*/" } else { quote });
            rest = &rest[quote.len()..];
            continue;
        }
        // A quote that is meant as such.
        let skipped = if rest.starts_with('\\') { 2 } else { 1 };
        code.extend(rest.chars().take(skipped));
        rest = rest
            .char_indices()
            .nth(skipped)
            .map_or("", |(at, _)| &rest[at..]);
    }
}
