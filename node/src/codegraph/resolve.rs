//! What the names in files mean: the edges of a repository.
//!
//! A call by a plain name goes outwards through scopes, then to the file's imports. One with a path
//! or a receiver needs to know what stands before it: a module, or a value of some type. Types come
//! from what the text says of variables, fields and results ([`super::model::Binding`]), so no
//! language is fully understood here, and what is left is looked up by its name alone. Every edge
//! says which it was. Recursion is bounded by [`STEPS_MAX`] for each question, and the work on all
//! of them together by what the caller allows: graphs may have been written to cost as much as they
//! can. What is counted is the same each time, so a repository is always put together as far.

mod layout;
mod lookup;
mod standard;
mod types;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
};

pub(super) use self::layout::Layout;
use self::layout::{ModuleId, PathKey};
use super::{
    language::Language,
    limits::CANDIDATES_MAX,
    model::{Call, Import, Reference, Symbol, SymbolKind},
    query::{Confidence, Relation},
    repository::{Edge, File, NodeId, Target},
};

/// Steps that one question may take: imports of imports, bases of bases, links of a chain.
const STEPS_MAX: u32 = 200;
/// What a step costs of the work that is allowed: names are put together and looked up, where most
/// else that is counted is one comparison.
const STEP_WORK: usize = 4;
/// What an edge or a field costs, by the memory that it takes.
const KEPT_WORK: usize = 16;
/// Most definitions that one row of a file leads to.
const TARGETS_MAX: usize = 100;

/// What a name leads to. A module and a definition may have the same name.
#[derive(Debug, Clone, Default, PartialEq)]
struct Place {
    nodes: Vec<NodeId>,
    module: Option<ModuleId>,
    /// It is known to be defined elsewhere.
    is_external: bool,
}

impl Place {
    fn external() -> Self {
        Self {
            is_external: true,
            ..Self::default()
        }
    }

    fn of(nodes: Vec<NodeId>) -> Self {
        Self {
            nodes,
            ..Self::default()
        }
    }

    fn in_module(module: ModuleId) -> Self {
        Self {
            module: Some(module),
            ..Self::default()
        }
    }

    fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.module.is_none()
    }
}

/// The tables by which names are looked up, while edges are made.
pub(super) struct Resolver<'a> {
    files: &'a [File],
    file_of: &'a [u32],
    layout: &'a Layout,
    /// Definitions by file and path in it.
    paths: HashMap<PathKey, Vec<NodeId>>,
    /// The definition in which one stands.
    parents: HashMap<NodeId, NodeId>,
    /// Imports by file and the name that they make.
    imports: HashMap<(u32, &'a str), Vec<&'a Import>>,
    globs: HashMap<u32, Vec<&'a Import>>,
    members: HashMap<(NodeId, &'a str), Vec<NodeId>>,
    bases: HashMap<NodeId, Vec<NodeId>>,
    /// What the fields of types are, and in which file that is written.
    fields: HashMap<(NodeId, &'a str), (u32, &'a str)>,
    /// What the text says of variables, by file, name and the scope in which they stand.
    variables: HashMap<(u32, &'a str, Option<NodeId>), &'a str>,
    by_name: HashMap<&'a str, Vec<NodeId>>,
    /// The same by what they stand in, and their own names.
    by_owner: HashMap<(&'a str, &'a str), Vec<NodeId>>,
    steps: Cell<u32>,
    /// The work that is left for all questions.
    work: Cell<usize>,
    /// The imports that are being followed, so that one that leads to itself ends.
    following: RefCell<Vec<*const Import>>,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(
        files: &'a [File],
        file_of: &'a [u32],
        layout: &'a Layout,
        work: usize,
    ) -> Self {
        let mut resolver = Self {
            files,
            file_of,
            layout,
            paths: HashMap::new(),
            parents: HashMap::new(),
            imports: HashMap::new(),
            globs: HashMap::new(),
            members: HashMap::new(),
            bases: HashMap::new(),
            fields: HashMap::new(),
            variables: HashMap::new(),
            by_name: HashMap::new(),
            by_owner: HashMap::new(),
            steps: Cell::new(0),
            work: Cell::new(work),
            following: RefCell::default(),
        };
        for (at, file) in (0..).zip(files) {
            resolver.enter_names(at, file);
        }
        for (at, file) in (0..).zip(files) {
            resolver.enter_parents(at, file);
        }
        // Members of types that another file defines: their names have to be looked up.
        for (at, file) in (0..).zip(files) {
            resolver.enter_members(at, file);
        }
        for (at, file) in (0..).zip(files) {
            resolver.enter_types(at, file);
        }
        resolver
    }

    fn enter_names(&mut self, at: u32, file: &'a File) {
        for (node, symbol) in (file.node + 1..).zip(&file.graph.symbols) {
            let key = PathKey::new(at, &symbol.within, &symbol.name);
            self.paths.entry(key).or_default().push(node);
            self.by_name.entry(&symbol.name).or_default().push(node);
            let within = symbol.within.last().map(|within| last_name(within));
            if let Some(owner) = within.or(file.module.last().map(String::as_str)) {
                let key = (owner, symbol.name.as_str());
                self.by_owner.entry(key).or_default().push(node);
            }
        }
        for import in &file.graph.imports {
            if import.name.as_deref() == Some("*") {
                self.globs.entry(at).or_default().push(import);
            }
            // `mod name;` and `use self::name` only say what the module has anyway.
            let says_nothing = import.module == "self" && import.name == import.local;
            if let Some(local) = import.local.as_ref().filter(|_| !says_nothing) {
                self.imports.entry((at, local)).or_default().push(import);
            }
        }
    }

    fn enter_parents(&mut self, at: u32, file: &'a File) {
        for (node, symbol) in (file.node + 1..).zip(&file.graph.symbols) {
            let Some((last, within)) = symbol.within.split_last() else {
                continue;
            };
            let key = PathKey::new(at, within, last);
            let mut around = self.paths.get(&key).map_or(&[][..], Vec::as_slice);
            self.spend(around.len());
            if self.is_spent() {
                around = &[];
            }
            let contains = |candidate: &&NodeId| {
                self.symbol(**candidate)
                    .is_some_and(|parent| parent.line <= symbol.line && symbol.end <= parent.end)
            };
            let containing = around.iter().rfind(contains);
            let of_type =
                |candidate: &&NodeId| self.symbol(**candidate).is_some_and(|s| s.kind.is_type());
            let parent = containing.or_else(|| around.iter().find(of_type));
            if let Some(parent) = parent.filter(|parent| **parent != node) {
                self.parents.insert(node, *parent);
            }
        }
    }

    fn enter_members(&mut self, at: u32, file: &'a File) {
        for (node, symbol) in (file.node + 1..).zip(&file.graph.symbols) {
            let Some(owner) = symbol.within.last() else {
                continue;
            };
            if !self.parents.contains_key(&node) && !self.is_spent() {
                self.begin();
                let from = self.module_symbol(at, symbol);
                let place = self.path_place(at, from, owner);
                let found = place.nodes.into_iter().find(|owner| self.is_type(*owner));
                if let Some(owner) = found {
                    self.parents.insert(node, owner);
                }
            }
            if let Some(parent) = self.parents.get(&node) {
                let key = (*parent, symbol.name.as_str());
                self.members.entry(key).or_default().push(node);
            }
        }
    }

    /// Returns the inline module in which members of a foreign type stand.
    fn module_symbol(&self, at: u32, symbol: &Symbol) -> Option<NodeId> {
        let within = symbol.within.split_last()?.1;
        let (last, within) = within.split_last()?;
        let key = PathKey::new(at, within, last);
        self.paths.get(&key)?.first().copied()
    }

    fn enter_types(&mut self, at: u32, file: &'a File) {
        let first = file.node + 1;
        for (name, base) in &file.graph.bases {
            self.begin();
            if self.is_spent() {
                return;
            }
            let types = self.types_named(at, None, name);
            let bases = self.types_named(at, None, base);
            for of in types.into_iter().take(CANDIDATES_MAX) {
                let bases = bases.iter().take(CANDIDATES_MAX);
                let bases = bases.filter(|base| **base != of);
                self.bases.entry(of).or_default().extend(bases);
            }
        }
        for binding in &file.graph.bindings {
            let from = binding.from.map(|from| first + from);
            let Some(owner) = &binding.owner else {
                // `x = x.y()` is of what `x` was before; else the last one counts.
                let rest = binding.value.strip_prefix(&binding.name);
                let is_of_itself =
                    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
                if !is_of_itself {
                    let key = (at, binding.name.as_str(), from);
                    self.variables.insert(key, &binding.value);
                }
                continue;
            };
            self.begin();
            if self.is_spent() {
                return;
            }
            let field = binding.name.trim_start_matches('.');
            let owners = self.types_named(at, from, owner).into_iter();
            for of in owners.take(CANDIDATES_MAX) {
                self.spend(KEPT_WORK);
                let value = (at, binding.value.as_str());
                self.fields.entry((of, field)).or_insert(value);
            }
        }
    }

    /// Begins a question.
    fn begin(&self) {
        self.steps.set(0);
    }

    /// Counts a step; after too many there is no answer.
    fn step(&self) -> Option<()> {
        let steps = self.steps.get() + 1;
        self.steps.set(steps);
        self.spend(STEP_WORK);
        (steps <= STEPS_MAX && !self.is_spent()).then_some(())
    }

    /// Counts work; once none is left, no more steps are taken.
    fn spend(&self, work: usize) {
        self.work.set(self.work.get().saturating_sub(work));
    }

    /// Returns whether there was more to do than is allowed.
    pub(super) fn is_spent(&self) -> bool {
        self.work.get() == 0
    }

    fn file(&self, node: NodeId) -> &'a File {
        &self.files[self.file_of[node as usize] as usize]
    }

    fn symbol(&self, node: NodeId) -> Option<&'a Symbol> {
        let file = self.file(node);
        let at = node.checked_sub(file.node + 1)?;
        file.graph.symbols.get(at as usize)
    }

    fn kind(&self, node: NodeId) -> Option<SymbolKind> {
        self.symbol(node).map(|symbol| symbol.kind)
    }

    fn is_type(&self, node: NodeId) -> bool {
        self.kind(node).is_some_and(SymbolKind::is_type)
    }

    fn language(&self, at: u32) -> Language {
        self.files[at as usize].graph.language
    }

    /// Makes all edges, and the names of what is not here. Where the work that is allowed does not
    /// do for all, what files define is there all the same.
    pub(super) fn edges(&self) -> (Vec<Edge>, Vec<String>) {
        let mut edges = Edges::default();
        for file in self.files {
            self.definitions(file, &mut edges);
        }
        for (at, file) in (0..).zip(self.files) {
            for import in &file.graph.imports {
                if !self.begin_edge(&mut edges) {
                    break;
                }
                self.import_edge(at, file, import, &mut edges);
            }
            for call in &file.graph.calls {
                if !self.begin_edge(&mut edges) {
                    break;
                }
                let (targets, confidence) = self.called(at, file, call);
                let from = node_of(file, call.from);
                let name = || external_name(call);
                edges.add(from, targets, Relation::Calls, confidence, call.line, name);
            }
            for reference in &file.graph.references {
                if !self.begin_edge(&mut edges) {
                    break;
                }
                self.reference_edge(at, file, reference, &mut edges);
            }
        }
        (edges.edges, edges.externals)
    }

    /// Begins the question of a row, and returns whether there is work left for it.
    fn begin_edge(&self, edges: &mut Edges) -> bool {
        let made = edges.edges.len() - edges.counted;
        edges.counted = edges.edges.len();
        self.spend(made * KEPT_WORK);
        self.begin();
        !self.is_spent()
    }

    fn definitions(&self, file: &File, edges: &mut Edges) {
        for (node, symbol) in (file.node + 1..).zip(&file.graph.symbols) {
            let parent = self.parents.get(&node).copied().unwrap_or(file.node);
            let edge = (parent, vec![node]);
            let confidence = Confidence::Resolved;
            edges.add(
                edge.0,
                edge.1,
                Relation::Defines,
                confidence,
                symbol.line,
                String::new,
            );
        }
    }

    fn import_edge(&self, at: u32, file: &File, import: &Import, edges: &mut Edges) {
        // An export under another name imports nothing.
        if import.module.is_empty() && file.graph.language.is_script() {
            return;
        }
        let place = self.import_place(at, import);
        let mut targets = place.nodes;
        if targets.is_empty() {
            targets.extend(place.module.map(|module| self.layout.node(module)));
        }
        let confidence = match targets.is_empty() {
            true => Confidence::External,
            false => Confidence::Resolved,
        };
        let separator = file.graph.language.separator();
        let name = || match import.name.as_deref() {
            None | Some("*") => import.module.clone(),
            Some(name) if import.module.is_empty() => name.to_owned(),
            Some(name) => format!("{}{separator}{name}", import.module),
        };
        // Imports are the file's, whatever function they stand in.
        edges.add(
            file.node,
            targets,
            Relation::Imports,
            confidence,
            import.line,
            name,
        );
    }

    fn reference_edge(&self, at: u32, file: &File, reference: &Reference, edges: &mut Edges) {
        let from = node_of(file, reference.from);
        let place = self.path_place(at, reference.from.map(|_| from), &reference.name);
        let (mut targets, mut confidence) = (place.nodes, Confidence::Resolved);
        if targets.is_empty() && !place.is_external && place.module.is_none() {
            let last = last_name(&reference.name);
            targets = self.same_language(at, last, TARGETS_MAX, |node| self.is_type(node));
            confidence = by_count(targets.len());
        }
        // A type that refers to itself, and names of nothing here, are no news.
        targets.retain(|target| *target != from);
        if !targets.is_empty() {
            let line = reference.line;
            edges.add(
                from,
                targets,
                Relation::References,
                confidence,
                line,
                String::new,
            );
        }
    }

    /// Returns definitions of a name in files that may see each other: those that `may_be` meant,
    /// and no more than so many.
    fn same_language(
        &self,
        at: u32,
        name: &str,
        count_max: usize,
        may_be: impl Fn(NodeId) -> bool,
    ) -> Vec<NodeId> {
        let named = self.by_name.get(name).map_or(&[][..], Vec::as_slice);
        self.among(at, named, count_max, may_be)
    }

    fn among(
        &self,
        at: u32,
        named: &[NodeId],
        count_max: usize,
        may_be: impl Fn(NodeId) -> bool,
    ) -> Vec<NodeId> {
        let language = self.language(at);
        let seen = |node: &NodeId| {
            self.spend(1);
            let other = self.file(*node).graph.language;
            language.shares_names_with(other) && may_be(*node)
        };
        let found = named.iter().copied().filter(seen);
        found.take(count_max).collect()
    }

    /// Returns what a call calls.
    fn called(&self, at: u32, file: &File, call: &Call) -> (Vec<NodeId>, Confidence) {
        let from = call.from.map(|from| file.node + 1 + from);
        if let Some(name) = call.name.strip_suffix('!') {
            return self.called_macro(at, from, name);
        }
        let place = match &call.receiver {
            Some(receiver) if receiver == "super" && call.name == "constructor" => {
                self.constructor_of_base(from)
            }
            None => self.lookup(at, from, &call.name),
            Some(receiver) => match receiver.strip_suffix("::") {
                Some(path) => self.path_place(at, from, &format!("{path}::{}", call.name)),
                None => self.member_of_chain(at, from, receiver, &call.name),
            },
        };
        let mut targets = place.nodes;
        targets.retain(|target| self.kind(*target) != Some(SymbolKind::Module));
        if targets.is_empty()
            && let Some(module) = place.module
        {
            // A module that is one function, as CommonJS has it.
            targets = self.in_module(module, "default").nodes;
        }
        if !targets.is_empty() {
            return (targets, Confidence::Resolved);
        }
        if place.is_external {
            return (Vec::new(), Confidence::External);
        }
        self.called_by_name(at, call)
    }

    fn called_macro(&self, at: u32, from: Option<NodeId>, name: &str) -> (Vec<NodeId>, Confidence) {
        let is_macro = |node: NodeId| self.kind(node) == Some(SymbolKind::Macro);
        let mut targets = self.lookup(at, from, name).nodes;
        targets.retain(|node| is_macro(*node));
        if !targets.is_empty() {
            return (targets, Confidence::Resolved);
        }
        let targets = self.same_language(at, name, TARGETS_MAX, is_macro);
        let confidence = by_count(targets.len());
        (targets, confidence)
    }

    /// Looks for what may be meant by a name alone: methods where something stands before it, what
    /// is no method where nothing does.
    fn called_by_name(&self, at: u32, call: &Call) -> (Vec<NodeId>, Confidence) {
        let receiver = call.receiver.as_deref();
        let says_nothing = receiver.is_some_and(|receiver| !receiver.ends_with("::"))
            && standard::is_common(&call.name);
        if says_nothing || receiver.is_none() && !self.sees_names_of_others(at) {
            return (Vec::new(), Confidence::External);
        }
        let path = receiver.and_then(|receiver| receiver.strip_suffix("::"));
        let may_be = |node: NodeId| match self.kind(node) {
            Some(SymbolKind::Method) => receiver.is_some(),
            Some(SymbolKind::Variant) => path.is_some(),
            Some(SymbolKind::Module | SymbolKind::Macro) | None => false,
            Some(SymbolKind::Variable | SymbolKind::Constant) => false,
            Some(_) => receiver.is_none() || path.is_some(),
        };
        // One more than are kept, so that it shows. A path's last part is the type or the module of
        // what is meant.
        let count_max = CANDIDATES_MAX + 1;
        let mut targets = match path {
            Some(path) => {
                let key = (last_name(path), call.name.as_str());
                let named = self.by_owner.get(&key).map_or(&[][..], Vec::as_slice);
                self.among(at, named, count_max, may_be)
            }
            None => self.same_language(at, &call.name, count_max, may_be),
        };
        let confidence = by_count(targets.len());
        // What may be anything is nothing to follow.
        if targets.len() > CANDIDATES_MAX {
            targets.clear();
        }
        (targets, confidence)
    }

    /// Returns whether a plain name that nothing in a file explains may be another file's: where
    /// something unknown is imported whole, and in scripts that share one world.
    fn sees_names_of_others(&self, at: u32) -> bool {
        let graph = &self.files[at as usize].graph;
        match graph.language {
            Language::Rust | Language::Go => false,
            Language::Python => self.globs.contains_key(&at),
            _ => graph.imports.is_empty(),
        }
    }
}

/// Returns the node of a file's symbol, or the file's where there is none.
fn node_of(file: &File, symbol: Option<u32>) -> NodeId {
    symbol.map_or(file.node, |symbol| file.node + 1 + symbol)
}

/// Returns the last part of a path.
fn last_name(path: &str) -> &str {
    path.rsplit(['.', ':']).next().unwrap_or(path)
}

/// What a look-up by name alone says.
fn by_count(count: usize) -> Confidence {
    match count {
        0 => Confidence::External,
        1 => Confidence::ByName,
        _ => Confidence::Ambiguous,
    }
}

/// Returns how a call is written, for one of something that is not here.
fn external_name(call: &Call) -> String {
    let receiver = call.receiver.as_deref().unwrap_or_default();
    match receiver {
        "" | "?" => call.name.clone(),
        _ if receiver.ends_with("::") => format!("{receiver}{}", call.name),
        _ => format!("{receiver}.{}", call.name),
    }
}

/// Edges, and the names of what is not here, each once.
#[derive(Default)]
struct Edges {
    edges: Vec<Edge>,
    externals: Vec<String>,
    numbers: HashMap<String, u32>,
    /// Those of which the work is counted.
    counted: usize,
}

impl Edges {
    fn add(
        &mut self,
        from: NodeId,
        targets: Vec<NodeId>,
        relation: Relation,
        confidence: Confidence,
        line: u32,
        name: impl FnOnce() -> String,
    ) {
        let mut add = |to| {
            self.edges.push(Edge {
                from,
                to,
                relation,
                confidence,
                line,
            });
        };
        if targets.is_empty() {
            let name = name();
            let next = u32::try_from(self.externals.len()).unwrap_or(u32::MAX);
            let number = *self.numbers.entry(name.clone()).or_insert(next);
            if number == next {
                self.externals.push(name);
            }
            add(Target::External(number));
            return;
        }
        let targets = targets.into_iter().take(TARGETS_MAX);
        targets.for_each(|to| add(Target::Node(to)));
    }
}
