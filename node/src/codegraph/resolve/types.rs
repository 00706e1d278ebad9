//! What values are, as far as the text says, and what is called through them.

use std::collections::HashSet;

use super::{Place, Resolver, layout::ModuleId};
use crate::codegraph::{
    language::Language,
    model::{Symbol, SymbolKind},
    repository::NodeId,
};

/// Methods that give what they are called on, or what is in it.
const SAME: &[&str] = &[
    "unwrap",
    "expect",
    "clone",
    "as_ref",
    "as_mut",
    "lock",
    "read",
    "write",
    "borrow",
    "borrow_mut",
    "unwrap_or_default",
    "unwrap_or",
    "unwrap_or_else",
    "as_deref",
    "to_owned",
    "take",
    "cloned",
    "copied",
    "ok",
    "map_err",
    "ok_or",
    "ok_or_else",
    "context",
    "with_context",
    "bind",
    "load",
    "get_or_init",
    "filter",
    "into_inner",
    "get_mut",
];

/// What stands before a name.
#[derive(Debug, Clone)]
enum Value {
    /// A value of one of these types, or the types.
    Of(Vec<NodeId>),
    Module(ModuleId),
    /// Several, by the names of their types as they are written in a file.
    Several(u32, Option<NodeId>, String),
    /// Something that is defined elsewhere.
    External,
    /// The text does not say.
    Unknown,
}

impl Resolver<'_> {
    /// Returns the members of that name which a type has, itself or by its bases.
    pub(super) fn members_of(&self, of: NodeId, name: &str) -> Vec<NodeId> {
        let mut waiting = vec![of];
        let mut seen = HashSet::from([of]);
        while let Some(of) = waiting.pop() {
            self.spend(1);
            if let Some(found) = self.members.get(&(of, name)) {
                self.spend(found.len());
                return found.clone();
            }
            if self.step().is_none() {
                break;
            }
            waiting.extend(self.bases_of(of).iter().filter(|base| seen.insert(**base)));
        }
        Vec::new()
    }

    /// Returns the types that a name means.
    pub(super) fn types_named(&self, at: u32, from: Option<NodeId>, name: &str) -> Vec<NodeId> {
        let nodes = self.path_place(at, from, name).nodes.into_iter();
        let may_own =
            |node: &NodeId| self.is_type(*node) || self.kind(*node) == Some(SymbolKind::Function);
        nodes.filter(may_own).collect()
    }

    /// Returns what is meant by a name behind a chain.
    pub(super) fn member_of_chain(
        &self,
        at: u32,
        from: Option<NodeId>,
        chain: &str,
        name: &str,
    ) -> Place {
        match self.value_of(at, from, chain) {
            Value::Module(module) => {
                let found = self.in_module(module, name);
                match found.is_empty() {
                    // The module is known, and does not have it.
                    true => Place::external(),
                    false => found,
                }
            }
            Value::Of(types) => {
                let found = types.iter().map(|of| self.members_of(*of, name));
                let found = found.into_iter().find(|found| !found.is_empty());
                Place::of(found.unwrap_or_default())
            }
            Value::External => Place::external(),
            Value::Several(..) | Value::Unknown => Place::default(),
        }
    }

    /// Follows a chain of names to what it is.
    fn value_of(&self, at: u32, from: Option<NodeId>, chain: &str) -> Value {
        if self.step().is_none() {
            return Value::Unknown;
        }
        // `import a.b` makes one name of two parts.
        if self.language(at) == Language::Python
            && let Some(imports) = self.imports.get(&(at, chain))
            && let Some(import) = imports.first()
            && chain.contains('.')
        {
            let place = self.import_place(at, import);
            return self.value_of_place(&place);
        }
        // A type that is made may have dots in its own name.
        let (root, links) = match chain.split_once("{}") {
            Some((made, links)) => (self.type_value(at, from, made), links),
            None => {
                let (root, links) = chain.split_once('.').unwrap_or((chain, ""));
                (self.root_value(at, from, root), links)
            }
        };
        let mut value = root;
        for link in links.split('.').filter(|link| !link.is_empty()) {
            value = match value {
                Value::Of(types) => self.link_value(&types, link),
                Value::Module(module) => {
                    let (name, is_call) = split_call(link);
                    let place = self.in_module(module, name);
                    match is_call {
                        true => self.result_of(&place),
                        false => self.value_of_place(&place),
                    }
                }
                Value::Several(at, from, types) => {
                    let number: Option<usize> = link.parse().ok();
                    let mut types = types.trim_matches(['(', ')']).split(',');
                    let name = number.and_then(|number| types.nth(number));
                    match name.filter(|name| !name.is_empty()) {
                        Some(name) => self.type_value(at, from, name),
                        None => Value::Unknown,
                    }
                }
                other => return other,
            };
        }
        value
    }

    fn root_value(&self, at: u32, from: Option<NodeId>, root: &str) -> Value {
        let (name, is_call) = split_call(root);
        let language = self.language(at);
        match (language, name) {
            (Language::Rust, "self") | (Language::Python, "self" | "cls") => {
                return self.own_value(from);
            }
            (_, "this") if language.is_script() => return self.own_value(from),
            (Language::Python, "super") | (_, "super") => return self.base_value(from),
            _ => {}
        }
        if is_call {
            let place = self.path_place(at, from, name);
            return self.result_of_call(at, from, name, &place);
        }
        if let Some(value) = self.variable(at, from, name) {
            return value;
        }
        let place = self.path_place(at, from, name);
        self.value_of_place(&place)
    }

    /// What `self` or `this` is.
    fn own_value(&self, from: Option<NodeId>) -> Value {
        let owner = self.owner_of(from);
        owner.map_or(Value::Unknown, |owner| Value::Of(vec![owner]))
    }

    fn base_value(&self, from: Option<NodeId>) -> Value {
        let owner = self.owner_of(from);
        let bases = owner.map_or(&[][..], |owner| self.bases_of(owner));
        match bases.is_empty() {
            true => Value::External,
            false => Value::Of(bases.to_vec()),
        }
    }

    /// What `super(…)` calls: the base's constructor, or the base that has none of its own.
    pub(super) fn constructor_of_base(&self, from: Option<NodeId>) -> Place {
        let Value::Of(bases) = self.base_value(from) else {
            return Place::external();
        };
        let own = bases
            .iter()
            .map(|base| self.members_of(*base, "constructor"));
        let own = own.into_iter().find(|own| !own.is_empty());
        Place::of(own.unwrap_or_else(|| bases.into_iter().take(1).collect()))
    }

    /// What a type's name says of a value.
    fn type_value(&self, at: u32, from: Option<NodeId>, name: &str) -> Value {
        if name == "Self" {
            return self.own_value(from);
        }
        if name.starts_with('(') {
            return Value::Several(at, from, name.to_owned());
        }
        let types = self.types_named(at, from, name);
        match types.is_empty() {
            // No such type is here.
            true => Value::External,
            false => Value::Of(types),
        }
    }

    /// What the text says of a variable, innermost scope first.
    fn variable(&self, at: u32, from: Option<NodeId>, name: &str) -> Option<Value> {
        let mut scope = from;
        let mut left = 100;
        loop {
            self.spend(1);
            if let Some(value) = self.variables.get(&(at, name, scope)) {
                return Some(self.value_of(at, scope, value));
            }
            left -= 1;
            scope = Some(self.parents.get(&scope?).copied())?;
            if left == 0 {
                return None;
            }
        }
    }

    fn value_of_place(&self, place: &Place) -> Value {
        let holds = |node: &NodeId| {
            let has_members = self.kind(*node) == Some(SymbolKind::Constant);
            self.is_type(*node) || has_members
        };
        let types: Vec<_> = place.nodes.iter().copied().filter(holds).collect();
        match (types.first(), place.module) {
            (Some(first), _) => {
                let declared = self.symbol(*first).and_then(|symbol| {
                    let at = self.file_of[*first as usize];
                    self.variable(at, self.parents.get(first).copied(), &symbol.name)
                });
                match declared {
                    Some(Value::Of(declared)) => Value::Of(declared),
                    _ => Value::Of(types),
                }
            }
            (None, Some(module)) => Value::Module(module),
            (None, None) if place.is_external => Value::External,
            (None, None) => Value::Unknown,
        }
    }

    /// What a call gives: a value of a type that is called, else what the function says.
    fn result_of(&self, place: &Place) -> Value {
        let Some(node) = place.nodes.first().copied() else {
            return match place.is_external {
                true => Value::External,
                false => Value::Unknown,
            };
        };
        if self.is_type(node) {
            return Value::Of(vec![node]);
        }
        if self.kind(node) == Some(SymbolKind::Variant) {
            let owner = self.parents.get(&node).copied();
            return owner.map_or(Value::Unknown, |owner| Value::Of(vec![owner]));
        }
        match self.symbol(node) {
            Some(symbol) => self.returned(node, symbol),
            None => Value::Unknown,
        }
    }

    fn returned(&self, node: NodeId, symbol: &Symbol) -> Value {
        let Some(returns) = &symbol.returns else {
            return Value::Unknown;
        };
        let at = self.file_of[node as usize];
        self.type_value(at, Some(node), returns)
    }

    fn result_of_call(&self, at: u32, from: Option<NodeId>, name: &str, place: &Place) -> Value {
        let result = self.result_of(place);
        if !matches!(result, Value::Unknown) {
            return result;
        }
        // `Type::new()` of a macro's or a trait's making most likely gives the type.
        match name.rsplit_once("::") {
            Some((of, _)) if place.is_empty() => {
                let types = self.types_named(at, from, of);
                match types.is_empty() {
                    true => Value::Unknown,
                    false => Value::Of(types),
                }
            }
            _ => Value::Unknown,
        }
    }

    /// What a field or a method of a value gives.
    fn link_value(&self, types: &[NodeId], link: &str) -> Value {
        if self.step().is_none() {
            return Value::Unknown;
        }
        let (name, is_call) = split_call(link);
        if !is_call && let Some((at, value)) = self.field_of(types, name) {
            return self.value_of(at, types.first().copied(), value);
        }
        let found = types.iter().map(|of| self.members_of(*of, name));
        let found = found.into_iter().find(|found| !found.is_empty());
        match (found, is_call) {
            (Some(found), true) => self.result_of(&Place::of(found)),
            (Some(found), false) => match found.first().and_then(|node| self.symbol(*node)) {
                // A getter.
                Some(symbol) if symbol.kind == SymbolKind::Method => {
                    self.result_of(&Place::of(found))
                }
                _ => self.value_of_place(&Place::of(found)),
            },
            (None, true) if SAME.contains(&name) => Value::Of(types.to_vec()),
            (None, _) => Value::Unknown,
        }
    }

    /// Returns what is written of a field, of the type or of a base.
    fn field_of(&self, types: &[NodeId], name: &str) -> Option<(u32, &str)> {
        self.spend(types.len());
        let mut waiting = types.to_vec();
        let mut seen: HashSet<_> = types.iter().copied().collect();
        while let Some(of) = waiting.pop() {
            if let Some((at, value)) = self.fields.get(&(of, name)) {
                return Some((*at, value));
            }
            self.step()?;
            waiting.extend(self.bases_of(of).iter().filter(|base| seen.insert(**base)));
        }
        None
    }

    fn bases_of(&self, of: NodeId) -> &[NodeId] {
        let bases = self.bases.get(&of).map_or(&[][..], Vec::as_slice);
        self.spend(bases.len());
        bases
    }
}

/// Takes the mark of a call off a link.
fn split_call(link: &str) -> (&str, bool) {
    match link.strip_suffix("()") {
        Some(name) => (name, true),
        None => (link, false),
    }
}
