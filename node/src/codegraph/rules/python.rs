//! Python.
//!
//! A decorator counts as a call: it is one. Attributes that a method gives to `self` are fields of
//! its class.

use tree_sitter::Node;

use super::{
    Context, Definition, Step, callee_of, chain_of, field_children, line_of, named_children,
    simple_name, text_of, type_name,
};
use crate::codegraph::{
    extract::Found,
    model::{Import, SymbolKind},
};

pub(super) fn visit(node: Node<'_>, context: &Context<'_>, found: &mut Found) -> Step {
    let text = context.text;
    match node.kind() {
        "comment" => return Step::Skip,
        "class_definition" => return class(node, text, found),
        "function_definition" => {
            let function = Definition::of(node, context.function_kind(), text);
            let function = function.map(|f| f.returning(node, "return_type", text));
            return function.map_or(Step::Descend, |function| Step::Define(vec![function]));
        }
        "assignment" => return assignment(node, context, found),
        "typed_parameter" | "typed_default_parameter" => bind_parameter(node, text, found),
        "as_pattern" => bind_as(node, text, found),
        "call" => {
            if let Some(function) = node.child_by_field_name("function") {
                found.callee(function);
                if let Some((name, receiver)) = callee_of(function, text) {
                    found.call(name, receiver, line_of(node));
                }
            }
        }
        "decorator" => {
            let called = node.named_child(0);
            let called = called.filter(|called| called.kind() != "call");
            if let Some(called) = called
                && let Some((name, receiver)) = callee_of(called, text)
            {
                found.callee(called);
                found.call(name, receiver, line_of(node));
            }
        }
        "import_statement" => {
            import_modules(node, text, found);
            return Step::Skip;
        }
        "import_from_statement" => {
            import_names(node, text, found);
            return Step::Skip;
        }
        "future_import_statement" => return Step::Skip,
        "attribute" => {
            let object = node.child_by_field_name("object");
            let is_name = object.is_some_and(|object| object.kind() == "identifier");
            if is_name && !found.is_callee(node) {
                found.mention(&chain_of(node, text), line_of(node));
                return Step::Skip;
            }
        }
        "identifier" => {
            let is_defined_here =
                matches!(context.field, Some("name" | "alias" | "attribute" | "left"));
            if !is_defined_here && !found.is_callee(node) {
                found.mention(text_of(node, text), line_of(node));
            }
        }
        _ => {}
    }
    Step::Descend
}

fn class(node: Node<'_>, text: &str, found: &mut Found) -> Step {
    let Some(class) = Definition::of(node, SymbolKind::Class, text) else {
        return Step::Descend;
    };
    if let Some(bases) = node.child_by_field_name("superclasses") {
        for base in named_children(bases) {
            if let Some(base) = type_name(base, text) {
                found.base(&class.name, &base);
            }
        }
    }
    Step::Define(vec![class])
}

/// A variable of a module or a class, or what a variable or a field is.
fn assignment(node: Node<'_>, context: &Context<'_>, found: &mut Found) -> Step {
    let text = context.text;
    let Some(left) = node.child_by_field_name("left") else {
        return Step::Descend;
    };
    let right = node.child_by_field_name("right");
    let named = node.child_by_field_name("type");
    let named = named.and_then(|named| type_name(named, text));
    let value = named.map(|named| named + "{}");
    let value = value.or_else(|| right.map(|right| chain_of(right, text)));
    if left.kind() == "attribute" {
        let object = left.child_by_field_name("object");
        let is_own = object.is_some_and(|object| text_of(object, text) == "self");
        let field = left.child_by_field_name("attribute");
        if let (true, Some(owner), Some(field), Some(value)) = (is_own, context.owner, field, value)
        {
            found.bind_field(owner, text_of(field, text), value);
        }
        return Step::Descend;
    }
    if left.kind() != "identifier" {
        return Step::Descend;
    }
    let name = text_of(left, text);
    if let Some(value) = value {
        match (context.in_type, context.owner) {
            (true, Some(owner)) => found.bind_field(owner, name, value),
            _ => found.bind(name, value),
        }
    }
    if context.in_function || name.starts_with("__") {
        return Step::Descend;
    }
    let is_constant = !name.chars().any(char::is_lowercase);
    let kind = match (right.map(|right| right.kind()), is_constant) {
        (Some("lambda"), _) => context.function_kind(),
        (_, true) => SymbolKind::Constant,
        (_, false) => SymbolKind::Variable,
    };
    simple_name(left, text).map_or(Step::Descend, |name| {
        Step::Define(vec![Definition {
            name,
            kind,
            owner: None,
            returns: None,
            body: None,
        }])
    })
}

fn bind_parameter(node: Node<'_>, text: &str, found: &mut Found) {
    let name = node.child_by_field_name("name");
    let name = name.or_else(|| node.named_child(0));
    let named = node.child_by_field_name("type");
    let named = named.and_then(|named| type_name(named, text));
    if let (Some(name), Some(named)) = (name, named)
        && name.kind() == "identifier"
    {
        found.bind(text_of(name, text), named + "{}");
    }
}

/// `with open_it() as x`.
fn bind_as(node: Node<'_>, text: &str, found: &mut Found) {
    let alias = node.child_by_field_name("alias");
    let alias = alias.and_then(|alias| alias.named_child(0));
    if let (Some(value), Some(alias)) = (node.named_child(0), alias)
        && alias.kind() == "identifier"
    {
        found.bind(text_of(alias, text), chain_of(value, text));
    }
}

/// `import a.b, c as d`.
fn import_modules(node: Node<'_>, text: &str, found: &mut Found) {
    for name in field_children(node, "name") {
        let (module, local) = named_as(name, text);
        // `import a.b` makes the name `a`, and `a.b` can be written after it.
        let local = local.unwrap_or_else(|| module.clone());
        found.import(Import {
            from: None,
            module,
            name: None,
            local: Some(local),
            line: line_of(name),
        });
    }
}

/// `from .a import b as c, d`.
fn import_names(node: Node<'_>, text: &str, found: &mut Found) {
    let Some(module) = node.child_by_field_name("module_name") else {
        return;
    };
    let module = without_space(text_of(module, text));
    for name in field_children(node, "name") {
        let (imported, local) = named_as(name, text);
        found.import(Import {
            from: None,
            module: module.clone(),
            local: Some(local.unwrap_or_else(|| imported.clone())),
            name: Some(imported),
            line: line_of(name),
        });
    }
    let children = named_children(node);
    if children
        .iter()
        .any(|child| child.kind() == "wildcard_import")
    {
        found.import(Import {
            from: None,
            module,
            name: Some("*".to_owned()),
            local: None,
            line: line_of(node),
        });
    }
}

/// Returns a name and its alias.
fn named_as(node: Node<'_>, text: &str) -> (String, Option<String>) {
    if node.kind() != "aliased_import" {
        return (without_space(text_of(node, text)), None);
    }
    let name = node.child_by_field_name("name");
    let alias = node.child_by_field_name("alias");
    (
        name.map(|name| without_space(text_of(name, text)))
            .unwrap_or_default(),
        alias.map(|alias| text_of(alias, text).to_owned()),
    )
}

fn without_space(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}
