//! Go.
//!
//! A package is a folder; its files see each other's names without imports. A method belongs to the
//! type of its receiver, an embedded field is a base.

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
        "comment" | "interpreted_string_literal" | "raw_string_literal" => return Step::Skip,
        "package_clause" => {
            let name = node.named_child(0);
            found.package(name.map_or("", |name| text_of(name, text)));
            return Step::Skip;
        }
        "import_spec" => {
            import(node, text, found);
            return Step::Skip;
        }
        "function_declaration" => {
            let function = Definition::of(node, SymbolKind::Function, text);
            return defined(function.map(|f| f.returning(node, "result", text)));
        }
        "method_declaration" => return method(node, text),
        "method_elem" => {
            let method = Definition::of(node, SymbolKind::Method, text);
            return defined(method.map(|m| m.returning(node, "result", text)));
        }
        "type_spec" | "type_alias" => return type_spec(node, text, found),
        "const_spec" if !context.in_function => {
            return several(node, SymbolKind::Constant, text);
        }
        "var_spec" => {
            bind_names(node, text, found);
            if !context.in_function {
                return several(node, SymbolKind::Variable, text);
            }
        }
        "field_declaration" => field(node, context, found),
        "parameter_declaration" | "variadic_parameter_declaration" => {
            bind_names(node, text, found);
        }
        "short_var_declaration" => bind_short(node, text, found),
        "call_expression" => call(node, "function", text, found),
        "type_conversion_expression" => generic_call(node, text, found),
        "type_identifier" if context.field != Some("name") => {
            found.reference(text_of(node, text), line_of(node));
        }
        "qualified_type" => {
            found.reference(text_of(node, text), line_of(node));
            return Step::Skip;
        }
        "selector_expression" => {
            let operand = node.child_by_field_name("operand");
            let is_name = operand.is_some_and(|operand| operand.kind() == "identifier");
            if is_name && !found.is_callee(node) {
                found.mention(&chain_of(node, text), line_of(node));
                return Step::Skip;
            }
        }
        "identifier" => {
            let is_defined_here = matches!(context.field, Some("name" | "field" | "left"));
            if !is_defined_here && !found.is_callee(node) {
                found.mention(text_of(node, text), line_of(node));
            }
        }
        _ => {}
    }
    Step::Descend
}

fn defined(definition: Option<Definition>) -> Step {
    definition.map_or(Step::Descend, |definition| Step::Define(vec![definition]))
}

fn method(node: Node<'_>, text: &str) -> Step {
    let method = Definition::of(node, SymbolKind::Method, text);
    let receiver = node.child_by_field_name("receiver");
    let owner = receiver.and_then(|receiver| type_name(receiver, text));
    defined(method.map(|method| Definition {
        owner,
        ..method.returning(node, "result", text)
    }))
}

fn type_spec(node: Node<'_>, text: &str, found: &mut Found) -> Step {
    let made_of = node.child_by_field_name("type");
    let kind = match made_of.map(|made_of| made_of.kind()) {
        Some("struct_type") => SymbolKind::Struct,
        Some("interface_type") => SymbolKind::Interface,
        _ => SymbolKind::Type,
    };
    let Some(mut definition) = Definition::of(node, kind, text) else {
        return Step::Descend;
    };
    if kind != SymbolKind::Type {
        definition.body = made_of.and_then(|made_of| {
            let open = text_of(made_of, text).find('{')?;
            Some(made_of.start_byte() + open)
        });
    }
    if let (SymbolKind::Interface, Some(made_of)) = (kind, made_of) {
        let embedded = named_children(made_of).into_iter();
        for embedded in embedded.filter(|child| child.kind() == "type_elem") {
            let embedded = embedded.named_child(0);
            if let Some(base) = embedded.and_then(|embedded| type_name(embedded, text)) {
                found.base(&definition.name, &base);
            }
        }
    }
    Step::Define(vec![definition])
}

/// `const a, b = 1, 2`.
fn several(node: Node<'_>, kind: SymbolKind, text: &str) -> Step {
    let names = field_children(node, "name").into_iter();
    let names = names.filter_map(|name| simple_name(name, text));
    let definitions = names.filter(|name| name != "_").map(|name| Definition {
        name,
        kind,
        owner: None,
        returns: None,
        body: None,
    });
    let definitions: Vec<_> = definitions.collect();
    match definitions.is_empty() {
        true => Step::Descend,
        false => Step::Define(definitions),
    }
}

fn field(node: Node<'_>, context: &Context<'_>, found: &mut Found) {
    let text = context.text;
    let named = node.child_by_field_name("type");
    let named = named.and_then(|named| type_name(named, text));
    let (Some(owner), Some(named)) = (context.owner, named) else {
        return;
    };
    let names = field_children(node, "name");
    if names.is_empty() {
        // Embedded: its methods are the owner's, and its name is the type's.
        found.base(owner, &named);
        let own_name = named.rsplit('.').next().unwrap_or(&named).to_owned();
        found.bind_field(owner, &own_name, named + "{}");
        return;
    }
    for name in names {
        found.bind_field(owner, text_of(name, text), format!("{named}{{}}"));
    }
}

fn bind_names(node: Node<'_>, text: &str, found: &mut Found) {
    let named = node.child_by_field_name("type");
    let named = named.and_then(|named| type_name(named, text));
    let value = named.map(|named| named + "{}").or_else(|| {
        let value = node.child_by_field_name("value")?;
        Some(chain_of(value.named_child(0)?, text))
    });
    let Some(value) = value else {
        return;
    };
    for name in field_children(node, "name") {
        found.bind(text_of(name, text), value.clone());
    }
}

/// `a, b := f(), g()`; of `a, err := f()` the first is what `f` gives.
fn bind_short(node: Node<'_>, text: &str, found: &mut Found) {
    let list = |field| node.child_by_field_name(field).map(named_children);
    let (Some(left), Some(right)) = (list("left"), list("right")) else {
        return;
    };
    for (name, value) in left.iter().zip(&right) {
        if name.kind() == "identifier" {
            found.bind(text_of(*name, text), chain_of(*value, text));
        }
    }
}

fn call(node: Node<'_>, field: &str, text: &str, found: &mut Found) {
    let Some(function) = node.child_by_field_name(field) else {
        return;
    };
    found.callee(function);
    if let Some((name, receiver)) = callee_of(function, text) {
        found.call(name, receiver, line_of(node));
    }
}

/// `f[int](x)`, which the grammar cannot tell from a conversion.
fn generic_call(node: Node<'_>, text: &str, found: &mut Found) {
    let generic = node.child_by_field_name("type");
    let generic = generic.filter(|generic| generic.kind() == "generic_type");
    let called = generic.and_then(|generic| generic.child_by_field_name("type"));
    let Some(called) = called else {
        return;
    };
    let (package, name) = match text_of(called, text).rsplit_once('.') {
        Some((package, name)) => (Some(package.to_owned()), name),
        None => (None, text_of(called, text)),
    };
    found.call(name.to_owned(), package, line_of(node));
}

fn import(node: Node<'_>, text: &str, found: &mut Found) {
    let Some(path) = node.child_by_field_name("path") else {
        return;
    };
    let path = text_of(path, text).trim_matches(['"', '`']).to_owned();
    let alias = node.child_by_field_name("name");
    let alias = alias.map(|alias| text_of(alias, text));
    let (name, local) = match alias {
        Some("_") => (None, None),
        Some(".") => (Some("*".to_owned()), None),
        Some(alias) => (None, Some(alias.to_owned())),
        None => (None, Some(package_name(&path).to_owned())),
    };
    found.import(Import {
        from: None,
        module: path,
        name,
        local,
        line: line_of(node),
    });
}

/// Returns the name that a package most likely has: the path's last part, without a version.
fn package_name(path: &str) -> &str {
    let is_version = |part: &str| {
        part.strip_prefix('v')
            .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let mut parts = path.rsplit('/').filter(|part| !is_version(part));
    let last = parts.next().unwrap_or(path);
    let last = last.split_once(".v").map_or(last, |(name, _)| name);
    last.strip_prefix("go-").unwrap_or(last)
}
