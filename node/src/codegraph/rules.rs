//! How each language writes what the graph is made of.
//!
//! The walker in [`super::extract`] shows every node to the file's language, which says what it is:
//! a definition, a scope that belongs to a type, or nothing; calls, imports and the rest it puts
//! into [`Found`]. The kinds of nodes are those of the languages' tree-sitter grammars. What these
//! have in common is here: the chains of names that stand before calls, and the names of types.

pub(super) mod go;
pub(super) mod python;
pub(super) mod rust;
pub(super) mod script;

use tree_sitter::Node;

use super::{extract::Found, language::Language, limits::NAME_BYTES_MAX, model::SymbolKind};

/// Longest chain that is followed, and deepest type. Longer ones are not names of anything.
const STEPS_MAX: usize = 16;

/// Types that stand for what is in them: a method of the inside is called through them, or after a
/// step that these graphs do not tell apart (`?`, `await`, `unwrap`).
const WRAPPERS: &[&str] = &[
    "Arc",
    "Box",
    "Rc",
    "Option",
    "Result",
    "RefCell",
    "Cell",
    "Mutex",
    "RwLock",
    "Ref",
    "RefMut",
    "MutexGuard",
    "Cow",
    "Pin",
    "Weak",
    "LazyLock",
    "OnceLock",
    "Optional",
    "Awaitable",
    "Coroutine",
    "Promise",
    "Readonly",
    "Partial",
    "NonNullable",
];

/// What a node is, beside what was put into [`Found`].
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing by itself; its children are looked at.
    Descend,
    /// Nothing, children included.
    Skip,
    /// What is in a macro's braces, which may be definitions; if not, its words are looked at.
    Inside(tree_sitter::Range),
    /// A definition. What is inside stands in the first.
    Define(Vec<Definition>),
    /// The members of a type that is defined elsewhere.
    Members(String),
}

/// A definition as its language reads it.
#[derive(Debug)]
pub(super) struct Definition {
    /// Its own name.
    pub(super) name: String,
    /// What it is.
    pub(super) kind: SymbolKind,
    /// The type that it belongs to, where it does not stand in that.
    pub(super) owner: Option<String>,
    /// The type that a call gives.
    pub(super) returns: Option<String>,
    /// Where its body begins: what is before is its signature.
    pub(super) body: Option<usize>,
}

impl Definition {
    /// Makes a definition from a node with the usual fields.
    pub(super) fn of(node: Node<'_>, kind: SymbolKind, text: &str) -> Option<Self> {
        let name = simple_name(node.child_by_field_name("name")?, text)?;
        Some(Self {
            name,
            kind,
            owner: None,
            returns: None,
            body: node
                .child_by_field_name("body")
                .map(|body| body.start_byte()),
        })
    }

    /// Adds the type that stands in a field as what a call gives.
    pub(super) fn returning(mut self, node: Node<'_>, field: &str, text: &str) -> Self {
        let returned = node.child_by_field_name(field);
        self.returns = returned.and_then(|returned| type_name(returned, text));
        self
    }
}

/// Where a node stands.
#[derive(Debug)]
pub(super) struct Context<'a> {
    /// The source.
    pub(super) text: &'a str,
    /// The field of its parent that it is in.
    pub(super) field: Option<&'a str>,
    /// Its parent.
    pub(super) parent: Option<Node<'a>>,
    /// Whether it is inside a function's body.
    pub(super) in_function: bool,
    /// Whether the innermost scope is a type.
    pub(super) in_type: bool,
    /// The innermost type around it.
    pub(super) owner: Option<&'a str>,
}

impl Context<'_> {
    /// Returns what a function is here.
    pub(super) fn function_kind(&self) -> SymbolKind {
        match self.in_type {
            true => SymbolKind::Method,
            false => SymbolKind::Function,
        }
    }
}

/// Shows a node to its language.
pub(super) fn visit(
    language: Language,
    node: Node<'_>,
    context: &Context<'_>,
    found: &mut Found,
) -> Step {
    match language {
        Language::Rust => rust::visit(node, context, found),
        Language::Python => python::visit(node, context, found),
        Language::Go => go::visit(node, context, found),
        Language::JavaScript | Language::TypeScript | Language::Tsx => {
            script::visit(node, context, found)
        }
    }
}

/// Returns the grammar of a language.
pub(super) fn grammar(language: Language) -> tree_sitter::Language {
    match language {
        Language::Rust => tree_sitter_rust::LANGUAGE.into(),
        Language::Python => tree_sitter_python::LANGUAGE.into(),
        Language::JavaScript => tree_sitter_javascript::LANGUAGE.into(),
        Language::TypeScript => tree_sitter_typescript::LANGUAGE_TYPESCRIPT.into(),
        Language::Tsx => tree_sitter_typescript::LANGUAGE_TSX.into(),
        Language::Go => tree_sitter_go::LANGUAGE.into(),
    }
}

/// Returns the text of a node.
pub(super) fn text_of<'a>(node: Node<'_>, text: &'a str) -> &'a str {
    text.get(node.byte_range()).unwrap_or_default()
}

/// Returns the line of a node, from 1.
pub(super) fn line_of(node: Node<'_>) -> u32 {
    u32::try_from(node.start_position().row).map_or(u32::MAX, |row| row.saturating_add(1))
}

/// Returns a node's text if it is one name.
pub(super) fn simple_name(node: Node<'_>, text: &str) -> Option<String> {
    let name = text_of(node, text).trim_matches(['"', '\'']);
    let is_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | '#');
    let is_simple = !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.chars().all(is_name);
    is_simple.then(|| name.to_owned())
}

/// Returns the children in a field.
pub(super) fn field_children<'a>(node: Node<'a>, field: &str) -> Vec<Node<'a>> {
    let mut cursor = node.walk();
    let children = node.children_by_field_name(field, &mut cursor);
    children.filter(Node::is_named).collect()
}

/// Returns the named children.
pub(super) fn named_children<'a>(node: Node<'a>) -> Vec<Node<'a>> {
    let mut cursor = node.walk();
    node.named_children(&mut cursor).collect()
}

/// Returns a path without the arguments of its types: `a::B` for `a::B::<C>`, and for
/// `<B as Trait>` the type.
pub(super) fn plain_path(path: &str) -> Option<String> {
    let path = match path.strip_prefix('<') {
        Some(inside) => {
            let end = inside.find(" as ").or_else(|| inside.rfind('>'))?;
            inside.get(..end)?
        }
        None => path,
    };
    let mut plain = String::new();
    let mut depth = 0_usize;
    for c in path.chars().filter(|c| !c.is_whitespace()) {
        match c {
            '<' => depth += 1,
            '>' => depth = depth.saturating_sub(1),
            '&' | '*' => {}
            _ if depth == 0 => plain.push(c),
            _ => {}
        }
    }
    let plain = plain.replace("::::", "::");
    let plain = plain.trim_end_matches("::");
    let fits = !plain.is_empty() && plain.len() <= NAME_BYTES_MAX;
    fits.then(|| plain.to_owned())
}

/// Returns the chain of names that an expression is, innermost first: `self.store.get()` for
/// `self.store.get(x).await?`, `Type{}` for a value that is made there. `?` stands for a beginning
/// that is no name.
///
/// Steps that lead to the same thing are left out: `await`, `?`, references, parentheses.
pub(super) fn chain_of(node: Node<'_>, text: &str) -> String {
    let mut node = node;
    let mut links: Vec<String> = Vec::new();
    let mut calls = "";
    for _ in 0..STEPS_MAX {
        let (next, link) = match node.kind() {
            "field_expression" => (node.child_by_field_name("value"), Some("field")),
            "attribute" => (node.child_by_field_name("object"), Some("attribute")),
            "member_expression" => (node.child_by_field_name("object"), Some("property")),
            "selector_expression" => (node.child_by_field_name("operand"), Some("field")),
            "call_expression" | "call" => {
                calls = "()";
                (node.child_by_field_name("function"), None)
            }
            "generic_function" => (node.child_by_field_name("function"), None),
            "struct_expression" => return finish(made(node, "name", text), links),
            "composite_literal" => return finish(made(node, "type", text), links),
            "new_expression" => return finish(made(node, "constructor", text), links),
            "scoped_identifier" => {
                let path = plain_path(text_of(node, text));
                return finish(path.map(|path| path + calls), links);
            }
            "identifier" | "self" | "this" | "super" | "type_identifier" => {
                let name = simple_name(node, text);
                return finish(name.map(|name| name + calls), links);
            }
            "await_expression"
            | "try_expression"
            | "parenthesized_expression"
            | "await"
            | "reference_expression"
            | "unary_expression"
            | "non_null_expression"
            | "as_expression"
            | "satisfies_expression"
            | "type_assertion_expression" => {
                let last = node.named_child_count().saturating_sub(1);
                // In `&mut x` a word comes first.
                let at = if node.kind() == "reference_expression" {
                    last
                } else {
                    0
                };
                (node.named_child(u32::try_from(at).unwrap_or(0)), None)
            }
            _ => return finish(None, links),
        };
        if let Some(field) = link {
            let name = node.child_by_field_name(field);
            let Some(name) = name.and_then(|name| simple_name(name, text)) else {
                return finish(None, links);
            };
            links.push(name + calls);
            calls = "";
        }
        match next {
            Some(next) => node = next,
            None => return finish(None, links),
        }
    }
    finish(None, links)
}

/// Returns the value of a type that an expression makes.
fn made(node: Node<'_>, field: &str, text: &str) -> Option<String> {
    let made = type_name(node.child_by_field_name(field)?, text)?;
    Some(made + "{}")
}

fn finish(root: Option<String>, mut links: Vec<String>) -> String {
    links.push(root.unwrap_or_else(|| "?".to_owned()));
    links.reverse();
    let chain = links.join(".");
    match chain.len() <= NAME_BYTES_MAX {
        true => chain,
        false => "?".to_owned(),
    }
}

/// Returns what a call calls: the last name, and what stands before it.
pub(super) fn callee_of(node: Node<'_>, text: &str) -> Option<(String, Option<String>)> {
    let mut node = node;
    for _ in 0..STEPS_MAX {
        let (value, name) = match node.kind() {
            "identifier" | "type_identifier" => return Some((simple_name(node, text)?, None)),
            "super" => return Some(("constructor".to_owned(), Some("super".to_owned()))),
            "generic_function" => {
                node = node.child_by_field_name("function")?;
                continue;
            }
            "parenthesized_expression" | "non_null_expression" => {
                node = node.named_child(0)?;
                continue;
            }
            "scoped_identifier" => {
                let name = simple_name(node.child_by_field_name("name")?, text)?;
                let path = node.child_by_field_name("path");
                let path = path.and_then(|path| plain_path(text_of(path, text)));
                return Some((name, path.map(|path| path + "::")));
            }
            "field_expression" => ("value", "field"),
            "attribute" => ("object", "attribute"),
            "member_expression" => ("object", "property"),
            "selector_expression" => ("operand", "field"),
            _ => return None,
        };
        let name = simple_name(node.child_by_field_name(name)?, text)?;
        let receiver = chain_of(node.child_by_field_name(value)?, text);
        return Some((name, Some(receiver)));
    }
    None
}

/// Returns the name of a type, or of what is in it where it is one of the [`WRAPPERS`].
pub(super) fn type_name(node: Node<'_>, text: &str) -> Option<String> {
    let mut node = node;
    for _ in 0..STEPS_MAX {
        node = match node.kind() {
            "type_identifier" | "identifier" | "package_identifier" => {
                return simple_name(node, text);
            }
            "scoped_type_identifier"
            | "scoped_identifier"
            | "qualified_type"
            | "nested_type_identifier"
            | "attribute"
            | "member_expression" => {
                return plain_path(text_of(node, text));
            }
            "tuple_type" => return several(node, text),
            "generic_type" | "generic_type_with_turbofish" | "subscript" => inside(node, text)?,
            // `"Name"`: a type that is defined further down.
            "string" => {
                let name = text_of(node, text).trim_matches(['"', '\'']);
                let is_name = name
                    .chars()
                    .all(|c| c.is_alphanumeric() || "_.".contains(c));
                return (is_name && !name.is_empty() && name.len() <= NAME_BYTES_MAX)
                    .then(|| name.to_owned());
            }
            // `dyn Trait`, `impl Trait`, `T | None`, `(T, error)`, `: T`, `&T`.
            "dynamic_type" | "abstract_type" => node.child_by_field_name("trait")?,
            "union_type" | "binary_operator" | "parameter_list" | "type_annotation" | "type"
            | "bounded_type" | "parenthesized_type" | "readonly_type" => node.named_child(0)?,
            "reference_type" | "pointer_type" | "parameter_declaration" => {
                let inner = node.child_by_field_name("type");
                let last = u32::try_from(node.named_child_count()).unwrap_or(0);
                inner.or_else(|| node.named_child(last.checked_sub(1)?))?
            }
            _ => return None,
        };
    }
    None
}

/// Returns the names of several types, in parentheses; nothing stands for one without a name.
fn several(node: Node<'_>, text: &str) -> Option<String> {
    let parts = named_children(node).into_iter();
    let names = parts.map(|part| match part.kind() {
        // A tuple in a tuple would need brackets of its own.
        "tuple_type" => String::new(),
        _ => type_name(part, text)
            .filter(|name| !name.contains(','))
            .unwrap_or_default(),
    });
    let names: Vec<_> = names.collect();
    let names = format!("({})", names.join(","));
    (names.len() <= NAME_BYTES_MAX).then_some(names)
}

/// Returns the node of a generic type that counts: its base, or its first argument.
fn inside<'a>(node: Node<'a>, text: &str) -> Option<Node<'a>> {
    let base = node.named_child(0)?;
    let name = text_of(base, text);
    let name = name.rsplit(['.', ':']).next().unwrap_or(name);
    if !WRAPPERS.contains(&name) {
        return Some(base);
    }
    let arguments = node.named_child(1)?;
    match arguments.kind() {
        "type_arguments" | "type_parameter" => {
            let mut arguments = named_children(arguments).into_iter();
            arguments.find(|argument| argument.kind() != "lifetime")
        }
        _ => Some(arguments),
    }
}
