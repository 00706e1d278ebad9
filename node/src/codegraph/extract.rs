//! From a file's text to its [`FileGraph`].
//!
//! tree-sitter parses, in bounded time and around syntax errors; one walk over the tree, without
//! recursion and to a bounded depth, shows every node to the file's language in
//! [`super::rules`]. [`Found`] collects, within a number of bytes: a graph has to fit into a
//! memory value.

use std::{
    collections::HashSet,
    ops::{self, ControlFlow},
    time::Instant,
};

use sha2::{Digest, Sha256};
use thiserror::Error;
use tree_sitter::{Node, ParseOptions, ParseState, Parser, Range, Tree};

use super::{
    language::Language,
    limits::{
        DEPTH_MAX, DOC_BYTES_MAX, GRAPH_BYTES_MAX, NAME_BYTES_MAX, PARSE_TIME_MAX,
        SIGNATURE_BYTES_MAX, SOURCE_BYTES_MAX, SYMBOLS_MAX,
    },
    model::{Binding, Call, FORMAT, FileGraph, Import, Reference, Symbol, SymbolKind},
    rules::{self, Context, Definition, Step},
};

/// How much of a file is looked at to see what kind of file it is.
const HEAD_BYTES: usize = 8 << 10;
/// Lines at the beginning of a file in which a generator says that it was there.
const HEAD_LINES: usize = 10;
/// Mean length of lines that nobody wrote, in files of a certain size.
const LINE_BYTES_MAX: usize = 400;
/// Files below this may be in one line and still be somebody's.
const MINIFIED_BYTES_MIN: usize = 5_000;
/// Lines above a definition that may belong to it.
const DOC_LINES_MAX: usize = 60;
/// What a row takes in JSON beside its names: brackets, commas, numbers.
const ROW_BYTES: usize = 24;
/// What a definition takes beside its texts.
const SYMBOL_BYTES: usize = 100;
/// Most different names that are noted before the end of the file tells which to keep.
const MENTIONS_MAX: usize = 50_000;
/// Most macros of a file whose braces are parsed by themselves: each may be in another.
const MACROS_MAX: usize = 500;

/// Why a file has no graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum SkipReason {
    /// No language has that extension.
    #[error("unknown_language")]
    UnknownLanguage,
    /// Larger than a source may be.
    #[error("too_large")]
    TooLarge,
    /// Not text.
    #[error("binary")]
    Binary,
    /// A program wrote it.
    #[error("generated")]
    Generated,
    /// A program took the lines out.
    #[error("minified")]
    Minified,
    /// Parsing took too long.
    #[error("too_complex")]
    TooComplex,
    /// The request's time was over before it was its turn; it can be sent again.
    #[error("out_of_time")]
    OutOfTime,
    /// The path is none of a file in a repository.
    #[error("bad_path")]
    BadPath,
    /// There is no room for it by the caller's quota.
    #[error("quota_exceeded")]
    NoRoom,
    /// The caller may not write it.
    #[error("forbidden")]
    Forbidden,
}

/// Reads the structure of a file.
///
/// # Errors
/// The reason why it is left alone.
pub fn extract(path: &str, text: &str) -> Result<FileGraph, SkipReason> {
    let language = Language::of_path(path).ok_or(SkipReason::UnknownLanguage)?;
    check(text)?;
    let until = Instant::now() + PARSE_TIME_MAX;
    let tree = parse(language, text, None, until)?;
    let mut found = Found::new(language, until);
    let lines = Lines::new(text);
    let mut within = vec![(tree, Vec::new())];
    let is_broken = within.iter().any(|(tree, _)| tree.root_node().has_error());
    while let Some((tree, scopes)) = within.pop() {
        walk(&tree, scopes, &lines, language, &mut found, &mut within);
    }
    let mut graph = found.finish();
    graph.hash = hash_of(text);
    graph.lines = u32::try_from(lines.starts.len()).unwrap_or(u32::MAX);
    graph.broken = is_broken;
    graph.doc = lines.doc_of_file(language);
    Ok(graph)
}

/// Returns SHA-256 of a text, in hex.
pub fn hash_of(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Looks whether a person wrote it.
fn check(text: &str) -> Result<(), SkipReason> {
    if text.len() > SOURCE_BYTES_MAX {
        return Err(SkipReason::TooLarge);
    }
    let head = &text.as_bytes()[..text.len().min(HEAD_BYTES)];
    if head.contains(&0) {
        return Err(SkipReason::Binary);
    }
    let mut lines = text.lines().take(HEAD_LINES);
    let says_so = |line: &str| {
        let is_comment = line.trim_start().starts_with(['/', '#', '*']);
        let marks = ["@generated", "Code generated ", "DO NOT EDIT"];
        is_comment && marks.iter().any(|mark| line.contains(mark))
    };
    if lines.any(says_so) {
        return Err(SkipReason::Generated);
    }
    let line_count = text.bytes().filter(|byte| *byte == b'\n').count() + 1;
    if text.len() > MINIFIED_BYTES_MIN && text.len() / line_count > LINE_BYTES_MAX {
        return Err(SkipReason::Minified);
    }
    Ok(())
}

/// Parses a text, or a part of it, unless that takes too long.
fn parse(
    language: Language,
    text: &str,
    part: Option<Range>,
    until: Instant,
) -> Result<Tree, SkipReason> {
    let mut parser = Parser::new();
    // The grammars are linked in, with versions that this parser reads.
    let set = parser.set_language(&rules::grammar(language));
    set.map_err(|_version| SkipReason::UnknownLanguage)?;
    if let Some(part) = part {
        let set = parser.set_included_ranges(&[part]);
        set.map_err(|_order| SkipReason::TooComplex)?;
    }
    let mut in_time = |_: &ParseState| match Instant::now() < until {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(()),
    };
    let options = ParseOptions::new().progress_callback(&mut in_time);
    let bytes = text.as_bytes();
    let mut read = |at: usize, _| bytes.get(at..).unwrap_or_default();
    let tree = parser.parse_with_options(&mut read, None, Some(options));
    tree.ok_or(SkipReason::TooComplex)
}

/// A scope that the walk is in.
#[derive(Clone)]
struct Scope {
    /// The depth of the node that opened it; nothing for one that is around the whole tree.
    depth: Option<usize>,
    /// Its symbol; none for members of a type that is defined elsewhere.
    symbol: Option<u32>,
    name: String,
    is_type: bool,
    is_function: bool,
}

/// Goes over a tree in order, opening and closing scopes. What is in macros is put to the trees
/// that wait, with the scopes that it stands in.
fn walk(
    tree: &Tree,
    mut scopes: Vec<Scope>,
    lines: &Lines<'_>,
    language: Language,
    found: &mut Found,
    waiting: &mut Vec<(Tree, Vec<Scope>)>,
) {
    let mut cursor = tree.walk();
    found.from = innermost(&scopes);
    let mut parents: Vec<Node<'_>> = Vec::new();
    loop {
        if found.is_full() {
            found.leave_out();
            return;
        }
        let node = cursor.node();
        let context = context_of(&scopes, parents.last().copied(), cursor.field_name(), lines);
        // Words without a name, such as `(` or `fn`, say nothing.
        let step = match node.is_named() {
            true => rules::visit(language, node, &context, found),
            false => Step::Skip,
        };
        let mut descends = !matches!(step, Step::Skip);
        if let Step::Inside(range) = &step
            && found.may_parse_again()
            && let Ok(inside) = parse(language, lines.text, Some(*range), found.until)
            && !inside.root_node().has_error()
        {
            waiting.push((inside, outer(&scopes)));
            descends = false;
        }
        open_scope(step, node, parents.len(), lines, &mut scopes, found);
        if parents.len() >= DEPTH_MAX && node.child_count() > 0 {
            found.leave_out();
            descends = false;
        }
        if descends && cursor.goto_first_child() {
            parents.push(node);
            continue;
        }
        loop {
            close_scopes(parents.len(), &mut scopes, found);
            if cursor.goto_next_sibling() {
                break;
            }
            if !cursor.goto_parent() {
                return;
            }
            parents.pop();
        }
    }
}

fn context_of<'a>(
    scopes: &'a [Scope],
    parent: Option<Node<'a>>,
    field: Option<&'a str>,
    lines: &Lines<'a>,
) -> Context<'a> {
    let mut from_within = scopes.iter().rev();
    Context {
        text: lines.text,
        field,
        parent,
        in_function: scopes.iter().any(|scope| scope.is_function),
        in_type: scopes.last().is_some_and(|scope| scope.is_type),
        owner: from_within
            .find(|scope| scope.is_type)
            .map(|scope| scope.name.as_str()),
    }
}

fn open_scope(
    step: Step,
    node: Node<'_>,
    depth: usize,
    lines: &Lines<'_>,
    scopes: &mut Vec<Scope>,
    found: &mut Found,
) {
    let within = |scopes: &[Scope]| scopes.iter().map(|scope| scope.name.clone()).collect();
    match step {
        Step::Define(definitions) => {
            let mut first = None;
            for definition in definitions {
                let scope = (definition.name.clone(), definition.kind);
                let symbol = symbol_of(definition, within(scopes), node, lines);
                let index = found.define(symbol);
                first = first.or(Some((index, scope)));
            }
            let Some((Some(symbol), (name, kind))) = first else {
                return;
            };
            scopes.push(Scope {
                depth: Some(depth),
                symbol: Some(symbol),
                name,
                is_type: kind.is_type(),
                is_function: matches!(kind, SymbolKind::Function | SymbolKind::Method),
            });
        }
        Step::Members(name) => scopes.push(Scope {
            depth: Some(depth),
            symbol: None,
            name,
            is_type: true,
            is_function: false,
        }),
        Step::Descend | Step::Skip | Step::Inside(_) => return,
    }
    found.from = innermost(scopes);
}

/// Returns scopes for a tree that is walked by itself within them: it never leaves them.
fn outer(scopes: &[Scope]) -> Vec<Scope> {
    let outer = scopes.iter().map(|scope| Scope {
        depth: None,
        ..scope.clone()
    });
    outer.collect()
}

fn close_scopes(depth: usize, scopes: &mut Vec<Scope>, found: &mut Found) {
    while scopes
        .last()
        .is_some_and(|scope| scope.depth >= Some(depth))
    {
        scopes.pop();
        found.from = innermost(scopes);
    }
}

fn innermost(scopes: &[Scope]) -> Option<u32> {
    scopes.iter().rev().find_map(|scope| scope.symbol)
}

fn symbol_of(
    definition: Definition,
    mut within: Vec<String>,
    node: Node<'_>,
    lines: &Lines<'_>,
) -> Symbol {
    if let Some(owner) = definition.owner {
        within = vec![owner];
    }
    let end = node.end_position();
    // What ends with its line's end, ends on that line.
    let end_row = match end.column {
        0 => end.row.saturating_sub(1),
        _ => end.row,
    };
    let row = node.start_position().row;
    let number = |row: usize| u32::try_from(row).map_or(u32::MAX, |row| row.saturating_add(1));
    Symbol {
        name: definition.name,
        kind: definition.kind,
        within,
        line: number(row),
        end: number(end_row.max(row)),
        signature: signature_of(node, definition.body, lines.text),
        doc: lines.doc_of(node),
        returns: definition.returns,
    }
}

/// Returns a definition up to its body, or its first line.
fn signature_of(node: Node<'_>, body: Option<usize>, text: &str) -> String {
    let end = body.unwrap_or_else(|| node.end_byte());
    let whole = text.get(node.start_byte()..end).unwrap_or_default();
    let whole = match body {
        Some(_) => whole,
        None => whole.lines().next().unwrap_or_default(),
    };
    // No more is looked at than what can be shown.
    let whole: String = whole.chars().take(SIGNATURE_BYTES_MAX * 2).collect();
    let words: Vec<_> = whole.split_whitespace().collect();
    let words = words.join(" ");
    let words = words.trim_end_matches([' ', '{', ':', ';', ',']);
    let words = words.strip_suffix("=>").unwrap_or(words);
    let words = words.trim_end_matches([' ', '=']);
    cut(words, SIGNATURE_BYTES_MAX)
}

/// Returns the beginning of a text, at most so many bytes and whole characters.
fn cut(text: &str, bytes_max: usize) -> String {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// A text with the beginnings of its lines, for what stands above definitions.
struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let starts = std::iter::once(0).chain(ends.map(|(at, _)| at + 1));
        let starts = starts.filter(|start| *start < text.len().max(1)).collect();
        Self { text, starts }
    }

    fn line(&self, row: usize) -> &'a str {
        let start = self.starts.get(row).copied();
        let end = self.starts.get(row + 1).copied();
        let range = start.unwrap_or(self.text.len())..end.unwrap_or(self.text.len());
        self.text.get(range).unwrap_or_default().trim()
    }

    /// Returns the documentation of a definition: in its body for Python, above it for others.
    fn doc_of(&self, node: Node<'_>) -> Option<String> {
        if let Some(doc) = self.docstring(node) {
            return Some(doc);
        }
        let row = node.start_position().row;
        // What stands behind something else on its line does not own what is above that.
        let before = self.starts.get(row).copied().unwrap_or(node.start_byte());
        let before = self.text.get(before..node.start_byte()).unwrap_or_default();
        if !before
            .chars()
            .all(|c| c.is_alphabetic() || c.is_whitespace())
        {
            return None;
        }
        let mut first = row;
        let mut last = row;
        let mut is_in_block = false;
        while first > 0 && row - first < DOC_LINES_MAX {
            let line = self.line(first - 1);
            is_in_block |= line.ends_with("*/");
            let is_comment = is_in_block || line.starts_with("//");
            let is_attribute = line.starts_with("#[") || line.starts_with('@');
            // Attributes stand between a definition and its documentation.
            let belongs = is_comment || (is_attribute && last == first);
            if !belongs {
                break;
            }
            first -= 1;
            if !is_comment {
                last = first;
            }
            if line.starts_with("/*") {
                is_in_block = false;
            }
        }
        self.comment(first..last)
    }

    /// Returns the comment with which a file begins.
    fn doc_of_file(&self, language: Language) -> Option<String> {
        if language == Language::Python {
            let text = self.text.trim_start();
            let quoted = ["\"\"\"", "'''"].into_iter().find_map(|quote| {
                let inside = text.strip_prefix(quote)?;
                Some(inside.split(quote).next().unwrap_or(inside))
            });
            return quoted.and_then(doc_text);
        }
        let rows = 0..self.starts.len().min(DOC_LINES_MAX);
        let mut is_in_block = false;
        let is_comment = |row: &usize| {
            let line = self.line(*row);
            let opens = line.starts_with("/*");
            let is_comment = is_in_block || opens || line.starts_with("//");
            is_in_block = (is_in_block || opens) && !line.ends_with("*/");
            is_comment && (language != Language::Rust || !line.starts_with("///"))
        };
        let end = rows.take_while(is_comment).count();
        self.comment(0..end)
    }

    fn docstring(&self, node: Node<'_>) -> Option<String> {
        let first = node.child_by_field_name("body")?.named_child(0)?;
        let string = match first.kind() {
            "expression_statement" => first.named_child(0)?,
            _ => first,
        };
        if string.kind() != "string" {
            return None;
        }
        let quoted = self.text.get(string.byte_range())?;
        doc_text(quoted.trim_matches(['"', '\'']))
    }

    /// Returns lines without the marks of comments.
    fn comment(&self, rows: ops::Range<usize>) -> Option<String> {
        let mut doc = String::new();
        for row in rows {
            let line = self.line(row).trim_end_matches("*/");
            let line = line.trim_start_matches(['/', '*', '!']).trim();
            if !line.is_empty() {
                doc.push_str(line);
                doc.push(' ');
            }
            if doc.len() > DOC_BYTES_MAX {
                break;
            }
        }
        doc_text(&doc)
    }
}

fn doc_text(text: &str) -> Option<String> {
    let text: String = text.chars().take(DOC_BYTES_MAX * 2).collect();
    let words: Vec<_> = text.split_whitespace().collect();
    let doc = cut(&words.join(" "), DOC_BYTES_MAX);
    (!doc.is_empty()).then_some(doc)
}

/// What was found so far, within its bounds.
#[derive(Debug)]
pub(super) struct Found {
    graph: FileGraph,
    /// The innermost symbol around what is looked at.
    from: Option<u32>,
    /// The node that the last call calls: a name that is not a mention as well.
    callee: Option<usize>,
    /// The same of calls among the words of a macro, which are found all at once.
    callee_words: HashSet<usize>,
    /// Names that were used, kept in the end if they mean something here.
    mentions: Vec<Reference>,
    referred: HashSet<(Option<u32>, String)>,
    variables: HashSet<(Vec<String>, String)>,
    bytes_left: usize,
    macros_left: usize,
    /// When there is no more time for parsing, that of macros included.
    until: Instant,
}

impl Found {
    fn new(language: Language, until: Instant) -> Self {
        let graph = FileGraph {
            format: FORMAT,
            language,
            hash: String::new(),
            lines: 0,
            doc: None,
            package: None,
            broken: false,
            truncated: false,
            symbols: Vec::new(),
            imports: Vec::new(),
            calls: Vec::new(),
            references: Vec::new(),
            bindings: Vec::new(),
            bases: Vec::new(),
        };
        Self {
            graph,
            from: None,
            callee: None,
            callee_words: HashSet::new(),
            mentions: Vec::new(),
            referred: HashSet::new(),
            variables: HashSet::new(),
            bytes_left: GRAPH_BYTES_MAX - (4 << 10),
            macros_left: MACROS_MAX,
            until,
        }
    }

    /// Says that something was left out.
    pub(super) fn leave_out(&mut self) {
        self.graph.truncated = true;
    }

    /// Counts a part that is parsed by itself.
    fn may_parse_again(&mut self) -> bool {
        self.macros_left = self.macros_left.saturating_sub(1);
        self.macros_left > 0 && Instant::now() < self.until
    }

    fn is_full(&self) -> bool {
        self.bytes_left < ROW_BYTES
    }

    /// Takes the bytes of a row, if there are any left.
    fn take(&mut self, bytes: usize) -> bool {
        match self.bytes_left.checked_sub(bytes) {
            Some(left) => {
                self.bytes_left = left;
                true
            }
            None => {
                self.bytes_left = 0;
                self.leave_out();
                false
            }
        }
    }

    /// Adds a definition and returns its number, or nothing where there is no room for it, or where
    /// it is a variable that was there before.
    fn define(&mut self, symbol: Symbol) -> Option<u32> {
        if matches!(symbol.kind, SymbolKind::Variable | SymbolKind::Constant)
            && !self
                .variables
                .insert((symbol.within.clone(), symbol.name.clone()))
        {
            return None;
        }
        let length = |text: &Option<String>| text.as_ref().map_or(0, |text| text.len() + 12);
        let texts = symbol.signature.len() + length(&symbol.doc) + length(&symbol.returns);
        let within: usize = symbol.within.iter().map(|name| name.len() + 3).sum();
        // Quotes and backslashes take a second byte; there are few of them.
        let bytes = symbol.name.len() + within + texts * 9 / 8;
        let fits = self.graph.symbols.len() < SYMBOLS_MAX && symbol.has_short_texts();
        if !fits || !self.take(SYMBOL_BYTES + bytes) {
            self.leave_out();
            return None;
        }
        self.graph.symbols.push(symbol);
        u32::try_from(self.graph.symbols.len() - 1).ok()
    }

    /// Says which node the call at hand calls.
    pub(super) fn callee(&mut self, node: Node<'_>) {
        self.callee = Some(node.id());
    }

    /// Returns whether a node is what the last call calls.
    pub(super) fn is_callee(&self, node: Node<'_>) -> bool {
        self.callee == Some(node.id()) || self.callee_words.contains(&node.id())
    }

    /// Says which word is called.
    pub(super) fn callee_word(&mut self, node: Node<'_>) {
        self.callee_words.insert(node.id());
    }

    /// Adds a call.
    pub(super) fn call(&mut self, name: String, receiver: Option<String>, line: u32) {
        let bytes = name.len() + receiver.as_ref().map_or(0, String::len);
        let from = self.from;
        let call = Call {
            name,
            receiver,
            from,
            line,
        };
        if !call.has_short_texts() {
            self.leave_out();
        } else if self.take(ROW_BYTES + bytes) {
            self.graph.calls.push(call);
        }
    }

    /// Adds a use of a type or a path.
    pub(super) fn reference(&mut self, name: &str, line: u32) {
        // One letter is a parameter.
        if name.len() < 2 || name.len() > NAME_BYTES_MAX {
            return;
        }
        if self.is_first(name) && self.take(ROW_BYTES + name.len()) {
            let (name, from) = (name.to_owned(), self.from);
            self.graph.references.push(Reference { name, from, line });
        }
    }

    /// Adds a use of a name that may mean something: only the end of the file tells.
    pub(super) fn mention(&mut self, name: &str, line: u32) {
        let is_odd = name.len() > NAME_BYTES_MAX || name.starts_with('?');
        if is_odd || self.mentions.len() >= MENTIONS_MAX {
            return;
        }
        if self.is_first(name) {
            let (name, from) = (name.to_owned(), self.from);
            self.mentions.push(Reference { name, from, line });
        }
    }

    fn is_first(&mut self, name: &str) -> bool {
        self.referred.insert((self.from, name.to_owned()))
    }

    /// Adds an import.
    pub(super) fn import(&mut self, mut import: Import) {
        import.from = self.from;
        let length = |name: &Option<String>| name.as_ref().map_or(0, String::len);
        let bytes = import.module.len() + length(&import.name) + length(&import.local);
        let fits = bytes <= 3 * NAME_BYTES_MAX;
        if fits && self.take(ROW_BYTES + bytes) {
            self.graph.imports.push(import);
        } else {
            self.leave_out();
        }
    }

    /// Says what a variable is.
    pub(super) fn bind(&mut self, name: &str, value: String) {
        self.add_binding(name.to_owned(), None, value);
    }

    /// Says what a field of a type is.
    pub(super) fn bind_field(&mut self, owner: &str, name: &str, value: String) {
        self.add_binding(format!(".{name}"), Some(owner.to_owned()), value);
    }

    fn add_binding(&mut self, name: String, owner: Option<String>, value: String) {
        let says_nothing = value.starts_with('?') || value == name || name.len() > NAME_BYTES_MAX;
        if says_nothing {
            return;
        }
        let bytes = name.len() + value.len() + owner.as_ref().map_or(0, String::len);
        let from = self.from;
        let binding = Binding {
            name,
            from,
            owner,
            value,
        };
        if !binding.has_short_texts() {
            self.leave_out();
        } else if self.take(ROW_BYTES + bytes) {
            self.graph.bindings.push(binding);
        }
    }

    /// Says that a type has what another has.
    pub(super) fn base(&mut self, name: &str, base: &str) {
        let fits = name.len() <= NAME_BYTES_MAX && base.len() <= NAME_BYTES_MAX;
        if fits && self.take(ROW_BYTES + name.len() + base.len()) {
            self.graph.bases.push((name.to_owned(), base.to_owned()));
        }
    }

    /// Says what the file calls its module.
    pub(super) fn package(&mut self, name: &str) {
        if name.len() <= NAME_BYTES_MAX {
            self.graph.package = Some(name.to_owned());
        }
    }

    /// Keeps of the mentions those of names that the file defines or imports, and of constants.
    fn finish(mut self) -> FileGraph {
        let mut known: HashSet<String> = HashSet::new();
        let outermost = self.graph.symbols.iter().filter(|s| s.within.is_empty());
        known.extend(outermost.map(|symbol| symbol.name.clone()));
        let imported = self.graph.imports.iter();
        known.extend(imported.filter_map(|import| import.local.clone()));
        let is_constant = |name: &str| {
            let of_constants = |c: char| c.is_ascii_uppercase() || c == '_' || c.is_ascii_digit();
            name.len() > 2 && name.chars().all(of_constants)
        };
        for mention in std::mem::take(&mut self.mentions) {
            let root = mention.name.split('.').next().unwrap_or_default();
            let is_kept = known.contains(root) || is_constant(&mention.name);
            if is_kept && self.take(ROW_BYTES + mention.name.len()) {
                self.graph.references.push(mention);
            }
        }
        self.graph
            .references
            .sort_by_key(|reference| reference.line);
        self.graph
    }
}
