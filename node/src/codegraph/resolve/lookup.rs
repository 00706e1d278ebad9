//! From a name or a path to what it leads to: scopes, modules, imports.

use super::{Place, Resolver, layout::ModuleId, layout::PathKey};
use crate::codegraph::{
    language::Language,
    model::{Import, SymbolKind},
    repository::NodeId,
};

/// First parts of the paths of Go's own packages: a folder of the same name is not meant.
const GO_STANDARD: &[&str] = &[
    "archive",
    "bufio",
    "bytes",
    "cmp",
    "compress",
    "container",
    "context",
    "crypto",
    "database",
    "debug",
    "embed",
    "encoding",
    "errors",
    "expvar",
    "flag",
    "fmt",
    "go",
    "hash",
    "html",
    "image",
    "index",
    "io",
    "iter",
    "log",
    "maps",
    "math",
    "mime",
    "net",
    "os",
    "path",
    "plugin",
    "reflect",
    "regexp",
    "runtime",
    "slices",
    "sort",
    "strconv",
    "strings",
    "structs",
    "sync",
    "syscall",
    "testing",
    "text",
    "time",
    "unicode",
    "unique",
    "unsafe",
    "weak",
];

impl Resolver<'_> {
    /// Looks a plain name up from where it stands.
    pub(super) fn lookup(&self, at: u32, from: Option<NodeId>, name: &str) -> Place {
        let mut scope = from;
        while let Some(node) = scope {
            if self.step().is_none() {
                return Place::default();
            }
            if let Some(module) = self.layout.of_symbol(node) {
                return self.in_module(module, name);
            }
            let place = self.in_scope(at, node, name);
            if !place.is_empty() || place.is_external {
                return place;
            }
            scope = self.parents.get(&node).copied();
            // The members of a type that another file defines look up from their own file.
            scope = scope.filter(|scope| self.file_of[*scope as usize] == at);
        }
        let module = self.layout.of_file(at);
        // A package's files share names, but not imports.
        if self.language(at) == Language::Go {
            let own = self.imported(at, None, name);
            if !own.is_empty() || own.is_external {
                return own;
            }
        }
        let place = self.in_module(module, name);
        if !place.is_empty() || place.is_external {
            return place;
        }
        self.in_globs(at, None, name)
    }

    /// Looks a name up among what a definition holds. Members of types have no plain names.
    fn in_scope(&self, at: u32, node: NodeId, name: &str) -> Place {
        let Some(symbol) = self.symbol(node) else {
            return Place::default();
        };
        if !symbol.kind.is_type() {
            self.spend(symbol.within.len());
            let key = PathKey::below(at, symbol, name);
            if let Some(found) = self.paths.get(&key) {
                self.spend(found.len());
                return Place::of(found.clone());
            }
        }
        self.imported(at, Some(node), name)
    }

    /// Looks among the imports of a scope.
    fn imported(&self, at: u32, scope: Option<NodeId>, name: &str) -> Place {
        let first = self.files[at as usize].node + 1;
        let Some(imports) = self.imports.get(&(at, name)) else {
            return Place::default();
        };
        self.spend(imports.len());
        let own = imports
            .iter()
            .find(|i| i.from.map(|from| first + from) == scope);
        own.map_or_else(Place::default, |import| self.import_place(at, import))
    }

    fn in_globs(&self, at: u32, scope: Option<NodeId>, name: &str) -> Place {
        let first = self.files[at as usize].node + 1;
        let globs = self.globs.get(&at).map_or(&[][..], Vec::as_slice);
        self.spend(globs.len());
        for import in globs {
            if import.from.map(|from| first + from) != scope {
                continue;
            }
            if self.step().is_none() {
                break;
            }
            let whole = self.import_place(at, import);
            let found = self.below(&whole, name);
            if !found.is_empty() {
                return found;
            }
        }
        Place::default()
    }

    /// Looks a name up in a module: what it defines, the modules below it, what it imports.
    pub(super) fn in_module(&self, module: ModuleId, name: &str) -> Place {
        if self.step().is_none() {
            return Place::default();
        }
        let of = self.layout.module(module);
        self.spend(of.files.len() * (of.within.len() + 1));
        let mut place = Place::default();
        for file in &of.files {
            let key = PathKey::new(*file, &of.within, name);
            if let Some(found) = self.paths.get(&key) {
                self.spend(found.len());
                place.nodes.extend(found);
            }
        }
        place.module = self.layout.child(module, name);
        if of.key.starts_with('g') {
            return place;
        }
        // A name may be a module's here and a definition's that comes from it.
        if place.nodes.is_empty() {
            let scope = match of.within.is_empty() {
                true => None,
                false => Some(self.layout.node(module)),
            };
            for file in &of.files {
                let found = self.imported(*file, scope, name);
                let is_new = found.module != place.module || !found.nodes.is_empty();
                if is_new && (!found.is_empty() || found.is_external) {
                    return Place {
                        module: found.module.or(place.module),
                        ..found
                    };
                }
            }
            if place.module.is_none() {
                let files = of.files.iter();
                let found = files.map(|file| self.in_globs(*file, scope, name));
                let mut found = found.filter(|found| !found.is_empty());
                return found.next().unwrap_or(place);
            }
        }
        place
    }

    /// Looks a name up below what another leads to.
    fn below(&self, place: &Place, name: &str) -> Place {
        if let Some(module) = place.module {
            let found = self.in_module(module, name);
            if !found.is_empty() {
                return found;
            }
        }
        for node in &place.nodes {
            if let Some(module) = self.layout.of_symbol(*node) {
                let found = self.in_module(module, name);
                if !found.is_empty() {
                    return found;
                }
            }
            let found = self.members_of(*node, name);
            if !found.is_empty() {
                return Place::of(found);
            }
        }
        Place {
            is_external: place.is_external,
            ..Place::default()
        }
    }

    /// Follows a path, with `::` or dots, from where it stands.
    pub(super) fn path_place(&self, at: u32, from: Option<NodeId>, path: &str) -> Place {
        let language = self.language(at);
        let mut parts = path.split(language.separator());
        let first = parts.next().unwrap_or(path);
        let mut place = match language {
            Language::Rust => self.first_of_path(at, from, first),
            _ => self.lookup(at, from, first),
        };
        for part in parts {
            if place.is_external {
                return place;
            }
            // From modules on, `super` goes up.
            let up = place.module.filter(|_| part == "super");
            let found = match up.and_then(|module| self.layout.parent(module)) {
                Some(parent) => Place::in_module(parent),
                None => self.below(&place, part),
            };
            if found.is_empty() {
                return found;
            }
            place = found;
        }
        place
    }

    fn first_of_path(&self, at: u32, from: Option<NodeId>, first: &str) -> Place {
        let module = self.module_around(at, from);
        let module = match first {
            "crate" | "$crate" => self.layout.root(module),
            "self" => Some(module),
            "super" => self.layout.parent(module),
            "Self" => {
                let owner = self.owner_of(from);
                return Place::of(owner.into_iter().collect());
            }
            _ => {
                let place = self.lookup(at, from, first);
                if !place.is_empty() || place.is_external {
                    return place;
                }
                match self.crate_named(first) {
                    Some(root) => Some(root),
                    // A crate or a parameter of a type; of the first there is no definition here.
                    None if first.starts_with(char::is_lowercase) => return Place::external(),
                    None => None,
                }
            }
        };
        module.map_or_else(Place::default, Place::in_module)
    }

    /// Returns the module in which something stands.
    fn module_around(&self, at: u32, from: Option<NodeId>) -> ModuleId {
        let mut scope = from;
        let mut left = 100;
        while let (Some(node), 1..) = (scope, left) {
            if let Some(module) = self.layout.of_symbol(node) {
                return module;
            }
            scope = self.parents.get(&node).copied();
            scope = scope.filter(|scope| self.file_of[*scope as usize] == at);
            left -= 1;
            self.spend(1);
        }
        self.layout.of_file(at)
    }

    /// Returns the type in which something stands.
    pub(super) fn owner_of(&self, from: Option<NodeId>) -> Option<NodeId> {
        let mut scope = from;
        let mut left = 100;
        while let (Some(node), 1..) = (scope, left) {
            let may_own = self.is_type(node) || self.kind(node) == Some(SymbolKind::Constant);
            if may_own && scope != from || self.is_type(node) {
                return Some(node);
            }
            scope = self.parents.get(&node).copied();
            left -= 1;
            self.spend(1);
        }
        None
    }

    /// Returns what an import leads to.
    pub(super) fn import_place(&self, at: u32, import: &Import) -> Place {
        if self.step().is_none() {
            return Place::default();
        }
        let this = std::ptr::from_ref(import);
        if self.following.borrow().contains(&this) {
            return Place::default();
        }
        self.following.borrow_mut().push(this);
        let place = match self.language(at) {
            Language::Rust => self.rust_import(at, import),
            Language::Python => self.python_import(at, import),
            Language::Go => self.go_import(import),
            _ => self.script_import(at, import),
        };
        self.following.borrow_mut().pop();
        place
    }

    fn rust_import(&self, at: u32, import: &Import) -> Place {
        let first = self.files[at as usize].node + 1;
        let from = import.from.map(|from| first + from);
        let path = match import.name.as_deref() {
            None | Some("*") => import.module.clone(),
            Some(name) if import.module.is_empty() => name.to_owned(),
            Some(name) => format!("{}::{name}", import.module),
        };
        let (head, rest) = path.split_once("::").unwrap_or((&path, ""));
        let module = self.module_around(at, from);
        // A name that is imported is not what its own import is looked up by.
        let is_own = import.local.as_deref() == Some(head);
        let begin = match head {
            "crate" | "$crate" | "self" | "super" => self.first_of_path(at, from, head),
            _ => {
                let own = match is_own {
                    true => self.layout.child(module, head).map(Place::in_module),
                    false => Some(self.lookup(at, from, head)),
                };
                let own = own.filter(|own| !own.is_empty());
                let root = || self.crate_named(head).map(Place::in_module);
                own.or_else(root).unwrap_or_else(Place::external)
            }
        };
        let parts = rest.split("::").filter(|part| !part.is_empty());
        let mut place = begin;
        for part in parts {
            let up = place.module.filter(|_| part == "super");
            let found = match up.and_then(|module| self.layout.parent(module)) {
                Some(parent) => Place::in_module(parent),
                None => self.below(&place, part),
            };
            if found.is_empty() {
                return found;
            }
            place = found;
        }
        place
    }

    fn crate_named(&self, name: &str) -> Option<ModuleId> {
        if self.is_spent() {
            return None;
        }
        self.spend(name.len());
        self.layout.crate_named(name)
    }

    fn python_import(&self, at: u32, import: &Import) -> Place {
        let Some(module) = self.python_module(at, &import.module) else {
            return Place::external();
        };
        match import.name.as_deref() {
            None | Some("*") => Place::in_module(module),
            Some(name) => self.in_module(module, name),
        }
    }

    fn python_module(&self, at: u32, path: &str) -> Option<ModuleId> {
        let name = path.trim_start_matches('.');
        let dots = path.len() - name.len();
        if dots == 0 {
            let exact = self.layout.named(&format!("p{name}"));
            return exact.or_else(|| self.python_ending(name));
        }
        let file = &self.files[at as usize];
        let own = self.layout.module(self.layout.of_file(at)).key.clone();
        // One dot is the package of the file, which a package's own file is itself.
        let is_package = file.path.ends_with("/__init__.py");
        let mut key = own.as_str();
        for _ in usize::from(is_package)..dots {
            key = key.rsplit_once('.').map_or("p", |(outer, _)| outer);
        }
        let key = match (key, name) {
            (_, "") => key.to_owned(),
            ("p", _) => format!("p{name}"),
            _ => format!("{key}.{name}"),
        };
        let found = self.layout.named(&key);
        // A folder without `__init__.py` is a package as well, but no file.
        found.or_else(|| self.python_ending(key.trim_start_matches('p')))
    }

    fn python_ending(&self, path: &str) -> Option<ModuleId> {
        let last = path.rsplit('.').next().unwrap_or(path);
        let candidates = self.layout.python_called(last);
        self.spend(candidates.len());
        self.layout.ending(candidates, "p", '.', path)
    }

    fn script_ending(&self, path: &str) -> Option<ModuleId> {
        let last = path.rsplit('/').next().unwrap_or(path);
        let candidates = self.layout.script_called(last);
        self.spend(candidates.len());
        self.layout.ending(candidates, "s", '/', path)
    }

    fn go_import(&self, import: &Import) -> Place {
        let path = import.module.as_str();
        let (first, _) = path.split_once('/').unwrap_or((path, ""));
        if GO_STANDARD.contains(&first) {
            return Place::external();
        }
        // Each of its folders is looked for with all that is behind it.
        self.spend(4 * path.len());
        let package = self.layout.go_package(path);
        package.map_or_else(Place::external, Place::in_module)
    }

    fn script_import(&self, at: u32, import: &Import) -> Place {
        if import.module.is_empty() {
            let name = import.name.as_deref().unwrap_or_default();
            let key = PathKey::new(at, &[], name);
            return match self.paths.get(&key) {
                Some(found) => {
                    self.spend(found.len());
                    Place::of(found.clone())
                }
                None => self.imported(at, None, name),
            };
        }
        let Some(module) = self.script_module(at, &import.module) else {
            return Place::external();
        };
        match import.name.as_deref() {
            None | Some("*") => Place::in_module(module),
            Some("default") => {
                let named = self.in_module(module, "default");
                let local = import.local.as_deref().unwrap_or_default();
                match named.is_empty() {
                    true if local != "default" => Place {
                        module: Some(module),
                        ..self.in_module(module, local)
                    },
                    true => Place::in_module(module),
                    false => named,
                }
            }
            Some(name) => self.in_module(module, name),
        }
    }

    fn script_module(&self, at: u32, path: &str) -> Option<ModuleId> {
        let known = [".js", ".mjs", ".cjs", ".jsx", ".ts", ".mts", ".tsx"];
        let stem = known
            .iter()
            .find_map(|extension| path.strip_suffix(extension));
        let stem = stem.unwrap_or(path);
        if !stem.starts_with('.') {
            // `@/x` and `~/x` are what projects call their source folder.
            let below = stem.strip_prefix("@/").or_else(|| stem.strip_prefix("~/"));
            return below.and_then(|below| self.script_ending(below));
        }
        let file = &self.files[at as usize].path;
        let mut folders: Vec<&str> = file.split('/').collect();
        folders.pop();
        for part in stem.split('/') {
            match part {
                "." | "" => {}
                ".." => {
                    folders.pop()?;
                }
                name => folders.push(name),
            }
        }
        // An index has its folder's name.
        if folders.len() > 1 && folders.last() == Some(&"index") {
            folders.pop();
        }
        let joined = folders.join("/");
        let named = self.layout.named(&format!("s{joined}"));
        // The folder's own index, also that of the topmost one.
        let index = match joined.is_empty() {
            true => "sindex".to_owned(),
            false => return named.or_else(|| self.layout.named(&format!("s{path}"))),
        };
        named.or_else(|| self.layout.named(&index))
    }
}
