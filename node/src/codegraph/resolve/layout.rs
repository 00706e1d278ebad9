//! Which file is which module.
//!
//! Each language has its own idea: Rust's modules hang together below a crate's root, Python's are
//! paths with dots, a script's module is its file, and a package of Go is a folder. A key names a
//! module across them all; it begins with the language's letter.

use std::collections::{BTreeSet, HashMap};

use super::NodeId;
use crate::codegraph::{
    language::Language,
    model::{Symbol, SymbolKind},
    repository::File,
};

/// A module.
pub(super) type ModuleId = u32;

/// Where a definition is found: its file, and the names that lead to it there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct PathKey(u32, String);

impl PathKey {
    pub(super) fn new(file: u32, within: &[String], name: &str) -> Self {
        Self::of_parts(file, within.iter(), name)
    }

    /// The key of what stands right in a definition.
    pub(super) fn below(file: u32, symbol: &Symbol, name: &str) -> Self {
        let parts = symbol.within.iter().chain([&symbol.name]);
        Self::of_parts(file, parts, name)
    }

    fn of_parts<'a>(file: u32, parts: impl Iterator<Item = &'a String>, name: &str) -> Self {
        let mut path = String::new();
        for part in parts {
            path.push_str(part);
            path.push('\n');
        }
        path.push_str(name);
        Self(file, path)
    }
}

/// A module: its files, and what leads to it within them.
#[derive(Debug)]
pub(super) struct Module {
    pub(super) key: String,
    pub(super) files: Vec<u32>,
    pub(super) within: Vec<String>,
    /// The file or the definition that it is; of a package, one of its files.
    node: NodeId,
}

/// All modules of a repository.
#[derive(Debug)]
pub(in crate::codegraph) struct Layout {
    modules: Vec<Module>,
    by_key: HashMap<String, ModuleId>,
    /// Python's by their last name, for imports from below another folder.
    by_last: HashMap<String, Vec<ModuleId>>,
    /// The same of scripts.
    scripts: HashMap<String, Vec<ModuleId>>,
    /// The module that each file is.
    of_file: Vec<ModuleId>,
    of_symbol: HashMap<NodeId, ModuleId>,
    /// Roots of crates by what each is probably called; of several the first one in order.
    crates: HashMap<String, (usize, String)>,
    display: Vec<Vec<String>>,
}

impl Layout {
    pub(in crate::codegraph) fn of(repository: &str, files: &[File]) -> Self {
        let roots = crate_roots(files);
        let mut crates = HashMap::new();
        for (at, root) in roots.iter().enumerate() {
            let name = crate_name(root, repository);
            crates.entry(name).or_insert((at, root.clone()));
        }
        let mut layout = Self {
            crates,
            modules: Vec::new(),
            by_key: HashMap::new(),
            by_last: HashMap::new(),
            scripts: HashMap::new(),
            of_file: Vec::new(),
            of_symbol: HashMap::new(),
            display: Vec::new(),
        };
        for (at, file) in (0..).zip(files) {
            layout.enter(at, file, &roots, repository);
        }
        layout
    }

    fn enter(&mut self, at: u32, file: &File, roots: &BTreeSet<String>, repository: &str) {
        let path = file.path.as_str();
        let stem = path.rsplit_once('.').map_or(path, |(stem, _)| stem);
        let (key, display) = match file.graph.language {
            Language::Rust => {
                let (root, parts) = rust_module(stem, roots);
                let mut display = vec![crate_name(&root, repository)];
                display.extend(parts.iter().cloned());
                (rust_key(&root, &parts), display)
            }
            Language::Python => {
                let stem = stem.strip_suffix("/__init__").unwrap_or(stem);
                let parts: Vec<_> = stem.split('/').map(str::to_owned).collect();
                (format!("p{}", parts.join(".")), parts)
            }
            Language::Go => {
                let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                let last = folder.rsplit('/').next().unwrap_or(folder);
                let package = file.graph.package.as_deref().unwrap_or(last);
                (format!("g{folder}"), vec![package.to_owned()])
            }
            _ => {
                let stem = stem.strip_suffix("/index").unwrap_or(stem);
                let parts = stem.split('/').map(str::to_owned).collect();
                (format!("s{stem}"), parts)
            }
        };
        let module = self.add(key.clone(), at, &[], file.node);
        self.of_file.push(module);
        self.display.push(display);
        if file.graph.language == Language::Rust {
            self.enter_inline(at, file, &key);
        }
    }

    /// Modules that stand within a file.
    fn enter_inline(&mut self, at: u32, file: &File, key: &str) {
        for (node, symbol) in (file.node + 1..).zip(&file.graph.symbols) {
            if symbol.kind != SymbolKind::Module {
                continue;
            }
            let mut within = symbol.within.clone();
            within.push(symbol.name.clone());
            let key = format!("{key}::{}", within.join("::"));
            let module = self.add(key, at, &within, node);
            self.of_symbol.insert(node, module);
        }
    }

    fn add(&mut self, key: String, file: u32, within: &[String], node: NodeId) -> ModuleId {
        let next = u32::try_from(self.modules.len()).unwrap_or(u32::MAX);
        let module = *self.by_key.entry(key.clone()).or_insert(next);
        if module != next {
            let files = &mut self.modules[module as usize].files;
            if files.last() != Some(&file) {
                files.push(file);
            }
            return module;
        }
        if let Some(path) = key.strip_prefix('p') {
            let last = path.rsplit('.').next().unwrap_or(path);
            self.by_last.entry(last.to_owned()).or_default().push(next);
        }
        if let Some(path) = key.strip_prefix('s') {
            let last = path.rsplit('/').next().unwrap_or(path);
            self.scripts.entry(last.to_owned()).or_default().push(next);
        }
        self.modules.push(Module {
            key,
            files: vec![file],
            within: within.to_vec(),
            node,
        });
        next
    }

    /// Returns how each file's module is shown.
    pub(in crate::codegraph) fn display(&self) -> Vec<Vec<String>> {
        self.display.clone()
    }

    pub(super) fn module(&self, module: ModuleId) -> &Module {
        &self.modules[module as usize]
    }

    pub(super) fn node(&self, module: ModuleId) -> NodeId {
        self.modules[module as usize].node
    }

    pub(super) fn of_file(&self, file: u32) -> ModuleId {
        self.of_file[file as usize]
    }

    pub(super) fn of_symbol(&self, node: NodeId) -> Option<ModuleId> {
        self.of_symbol.get(&node).copied()
    }

    pub(super) fn named(&self, key: &str) -> Option<ModuleId> {
        self.by_key.get(key).copied()
    }

    /// Returns a module below another.
    pub(super) fn child(&self, module: ModuleId, name: &str) -> Option<ModuleId> {
        let key = &self.module(module).key;
        match key.as_bytes().first() {
            Some(b'r' | b'p') => self.named(&child_key(key, name)),
            _ => None,
        }
    }

    /// Returns the module around another.
    pub(super) fn parent(&self, module: ModuleId) -> Option<ModuleId> {
        let key = &self.module(module).key;
        let (parent, _) = key.rsplit_once("::")?;
        self.named(parent)
    }

    /// Returns the root of a module's crate.
    pub(super) fn root(&self, module: ModuleId) -> Option<ModuleId> {
        let key = &self.module(module).key;
        let (root, _) = key.split_once("::").unwrap_or((key, ""));
        self.named(root)
    }

    /// Returns the root of a crate, by the name that others import it under.
    pub(super) fn crate_named(&self, name: &str) -> Option<ModuleId> {
        // Packages often have their project's name before the folder's.
        let behind = name.match_indices('_').map(|(at, _)| &name[at + 1..]);
        let names = std::iter::once(name).chain(behind);
        let found = names.filter_map(|name| self.crates.get(name)).min()?;
        self.named(&rust_key(&found.1, &[]))
    }

    /// Returns the modules of Python with a last name.
    pub(super) fn python_called(&self, last: &str) -> &[ModuleId] {
        self.by_last.get(last).map_or(&[], Vec::as_slice)
    }

    /// Returns the scripts with a last name.
    pub(super) fn script_called(&self, last: &str) -> &[ModuleId] {
        self.scripts.get(last).map_or(&[], Vec::as_slice)
    }

    /// Returns the module among candidates whose path ends as an import says, if it is the only
    /// one.
    pub(super) fn ending(
        &self,
        candidates: &[ModuleId],
        begin: &str,
        separator: char,
        path: &str,
    ) -> Option<ModuleId> {
        let ends = |module: &&ModuleId| {
            let key = &self.module(**module).key;
            key.strip_suffix(path)
                .is_some_and(|before| before == begin || before.ends_with(separator))
        };
        let mut found = candidates.iter().filter(ends);
        let first = found.next()?;
        found.next().is_none().then_some(*first)
    }

    /// Returns the package in the longest folder with which a path ends.
    pub(super) fn go_package(&self, path: &str) -> Option<ModuleId> {
        let mut rest = path;
        loop {
            if let Some(module) = self.named(&format!("g{rest}")) {
                return Some(module);
            }
            rest = rest.split_once('/')?.1;
        }
    }
}

fn child_key(key: &str, name: &str) -> String {
    match key.starts_with('r') {
        true => format!("{key}::{name}"),
        false => format!("{key}.{name}"),
    }
}

fn rust_key(root: &str, parts: &[String]) -> String {
    // Colons in a folder's name would look like modules.
    let root = root.replace(':', "_");
    parts
        .iter()
        .fold(format!("r{root}"), |key, part| child_key(&key, part))
}

/// Returns the folders in which a crate's root lies.
fn crate_roots(files: &[File]) -> BTreeSet<String> {
    let of_rust = files
        .iter()
        .filter(|file| file.graph.language == Language::Rust);
    let roots = of_rust.filter_map(|file| {
        let (folder, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
        matches!(name, "lib.rs" | "main.rs").then(|| folder.to_owned())
    });
    roots.collect()
}

/// Returns the crate's root folder of a file, and the names of its module below that.
fn rust_module(stem: &str, roots: &BTreeSet<String>) -> (String, Vec<String>) {
    let (folder, _) = stem.rsplit_once('/').unwrap_or(("", stem));
    let mut root = folder;
    let found = loop {
        if roots.contains(root) {
            break Some(root);
        }
        match root.rsplit_once('/') {
            Some((outer, _)) => root = outer,
            None if root.is_empty() => break None,
            None => root = "",
        }
    };
    // A file of no crate that is here: one below `src`, a test or an example.
    let root = found.unwrap_or_else(|| match stem.find("src/") {
        Some(at) if at == 0 || stem[..at].ends_with('/') => &stem[..at + 3],
        _ => folder,
    });
    let below = stem
        .strip_prefix(root)
        .unwrap_or(stem)
        .trim_start_matches('/');
    let mut parts: Vec<_> = below.split('/').map(str::to_owned).collect();
    if parts
        .last()
        .is_some_and(|last| matches!(&**last, "mod" | "lib" | "main"))
    {
        parts.pop();
    }
    (root.to_owned(), parts)
}

/// Returns what the crate in a folder is probably called.
fn crate_name(root: &str, repository: &str) -> String {
    let outer = root
        .strip_suffix("src")
        .map(|outer| outer.trim_end_matches('/'));
    let outer = outer.unwrap_or(root);
    let name = outer.rsplit('/').next().filter(|name| !name.is_empty());
    let name = name.unwrap_or(repository.rsplit('/').next().unwrap_or(repository));
    // A folder of an unpacked package has the version in its name.
    let name = name
        .split_once("-0.")
        .or_else(|| name.split_once("-1."))
        .map_or(name, |n| n.0);
    name.replace('-', "_")
}
