//! JavaScript and TypeScript, with JSX.
//!
//! A function has the name of the variable, field or property that it is given to. A component in
//! JSX is called; `require` imports like `import`.

use tree_sitter::Node;

use super::{
    Context, Definition, Step, callee_of, chain_of, line_of, named_children, simple_name, text_of,
    type_name,
};
use crate::codegraph::{
    extract::Found,
    model::{Import, SymbolKind},
};

pub(super) fn visit(node: Node<'_>, context: &Context<'_>, found: &mut Found) -> Step {
    let text = context.text;
    match node.kind() {
        "comment" | "string" | "regex" => return Step::Skip,
        "class_declaration" | "abstract_class_declaration" => return class(node, text, found),
        "interface_declaration" => return interface(node, text, found),
        "enum_declaration" => return define(node, SymbolKind::Enum, text),
        "type_alias_declaration" => return define(node, SymbolKind::Type, text),
        "internal_module" | "module" => return define(node, SymbolKind::Module, text),
        "function_declaration" | "generator_function_declaration" | "function_signature" => {
            return function(node, SymbolKind::Function, text);
        }
        "method_definition" | "method_signature" | "abstract_method_signature" => {
            return function(node, SymbolKind::Method, text);
        }
        "public_field_definition" | "field_definition" => return field(node, context, found),
        "property_signature" => bind_property(node, context, found),
        "variable_declarator" => return variable(node, context, found),
        "assignment_expression" => return assignment(node, context, found),
        "pair" => return pair(node, context),
        "required_parameter" | "optional_parameter" => bind_parameter(node, context, found),
        "import_statement" => {
            import(node, text, found);
            return Step::Skip;
        }
        "export_statement" if node.child_by_field_name("source").is_some() => {
            export_from(node, text, found);
            return Step::Skip;
        }
        "export_statement" => export(node, text, found),
        _ => return visit_use(node, context, found),
    }
    Step::Descend
}

/// What is no definition: calls, and names that are used.
fn visit_use(node: Node<'_>, context: &Context<'_>, found: &mut Found) -> Step {
    let text = context.text;
    match node.kind() {
        "call_expression" => call(node, text, found),
        "new_expression" => called(node.child_by_field_name("constructor"), text, found),
        "jsx_opening_element" | "jsx_self_closing_element" => component(node, text, found),
        "decorator" => {
            let decorator = node.named_child(0);
            called(
                decorator.filter(|d| d.kind() != "call_expression"),
                text,
                found,
            );
        }
        "type_identifier" if context.field != Some("name") => {
            found.reference(text_of(node, text), line_of(node));
        }
        // In `Name<Argument>` the name stands in a field that definitions have as well.
        "type_identifier" if context.parent.is_some_and(|p| p.kind() == "generic_type") => {
            found.reference(text_of(node, text), line_of(node));
        }
        "nested_type_identifier" => {
            found.reference(text_of(node, text), line_of(node));
            return Step::Skip;
        }
        "member_expression" => {
            let object = node.child_by_field_name("object");
            let is_name = object.is_some_and(|object| object.kind() == "identifier");
            if is_name && !found.is_callee(node) {
                found.mention(&chain_of(node, text), line_of(node));
                return Step::Skip;
            }
        }
        "identifier" | "shorthand_property_identifier" => {
            let is_defined_here = matches!(
                context.field,
                Some("name" | "pattern" | "parameter" | "left")
            );
            if !is_defined_here && !found.is_callee(node) {
                found.mention(text_of(node, text), line_of(node));
            }
        }
        _ => {}
    }
    Step::Descend
}

fn define(node: Node<'_>, kind: SymbolKind, text: &str) -> Step {
    let definition = Definition::of(node, kind, text);
    definition.map_or(Step::Descend, |definition| Step::Define(vec![definition]))
}

fn function(node: Node<'_>, kind: SymbolKind, text: &str) -> Step {
    let function = Definition::of(node, kind, text);
    let function = function.map(|f| f.returning(node, "return_type", text));
    function.map_or(Step::Descend, |function| Step::Define(vec![function]))
}

fn class(node: Node<'_>, text: &str, found: &mut Found) -> Step {
    let Some(class) = Definition::of(node, SymbolKind::Class, text) else {
        return Step::Descend;
    };
    bases(node, &class.name, text, found);
    Step::Define(vec![class])
}

fn bases(node: Node<'_>, name: &str, text: &str, found: &mut Found) {
    let children = named_children(node).into_iter();
    let heritage = children.filter(|child| child.kind() == "class_heritage");
    for part in heritage.flat_map(named_children) {
        // JavaScript has the base itself there, TypeScript a clause of each kind.
        let bases = match part.kind() {
            "extends_clause" | "implements_clause" => named_children(part),
            _ => vec![part],
        };
        for base in bases {
            if let Some(base) = type_name(base, text) {
                found.base(name, &base);
            }
        }
    }
}

fn interface(node: Node<'_>, text: &str, found: &mut Found) -> Step {
    let Some(interface) = Definition::of(node, SymbolKind::Interface, text) else {
        return Step::Descend;
    };
    let children = named_children(node).into_iter();
    let clauses = children.filter(|child| child.kind() == "extends_type_clause");
    for base in clauses.flat_map(named_children) {
        if let Some(base) = type_name(base, text) {
            found.base(&interface.name, &base);
        }
    }
    Step::Define(vec![interface])
}

/// Returns whether an expression is a function or a class that has no name but the one it is given.
fn kind_of_value(value: Node<'_>, function: SymbolKind) -> Option<SymbolKind> {
    match value.kind() {
        "arrow_function" | "function_expression" | "function" | "generator_function" => {
            Some(function)
        }
        "class" => Some(SymbolKind::Class),
        _ => None,
    }
}

fn given(name: String, kind: SymbolKind, value: Node<'_>, text: &str) -> Definition {
    let returned = value.child_by_field_name("return_type");
    Definition {
        name,
        kind,
        owner: None,
        returns: returned.and_then(|returned| type_name(returned, text)),
        body: value
            .child_by_field_name("body")
            .map(|body| body.start_byte()),
    }
}

fn field(node: Node<'_>, context: &Context<'_>, found: &mut Found) -> Step {
    let text = context.text;
    let name = node.child_by_field_name("name");
    let name = name.or_else(|| node.child_by_field_name("property"));
    let Some(name) = name.and_then(|name| simple_name(name, text)) else {
        return Step::Descend;
    };
    let value = node.child_by_field_name("value");
    let kind = value.and_then(|value| kind_of_value(value, SymbolKind::Method));
    if let (Some(kind), Some(value)) = (kind, value) {
        return Step::Define(vec![given(name, kind, value, text)]);
    }
    if let (Some(owner), Some(value)) = (context.owner, value_of(node, text)) {
        found.bind_field(owner, &name, value);
    }
    Step::Descend
}

/// Returns what something is: by its annotation, else by what it is given.
fn value_of(node: Node<'_>, text: &str) -> Option<String> {
    let named = node.child_by_field_name("type");
    if let Some(named) = named.and_then(|named| type_name(named, text)) {
        return Some(named + "{}");
    }
    let value = node.child_by_field_name("value")?;
    Some(chain_of(value, text))
}

fn bind_property(node: Node<'_>, context: &Context<'_>, found: &mut Found) {
    let name = node.child_by_field_name("name");
    let name = name.and_then(|name| simple_name(name, context.text));
    if let (Some(owner), Some(name), Some(value)) =
        (context.owner, name, value_of(node, context.text))
    {
        found.bind_field(owner, &name, value);
    }
}

fn bind_parameter(node: Node<'_>, context: &Context<'_>, found: &mut Found) {
    let text = context.text;
    let pattern = node.child_by_field_name("pattern");
    let Some(name) = pattern.and_then(|pattern| simple_name(pattern, text)) else {
        return;
    };
    let Some(value) = value_of(node, text) else {
        return;
    };
    // `constructor(private store: Store)` makes a field.
    let first = node.named_child(0).map(|first| first.kind());
    if let (Some("accessibility_modifier"), Some(owner)) = (first, context.owner) {
        found.bind_field(owner, &name, value.clone());
    }
    found.bind(&name, value);
}

fn variable(node: Node<'_>, context: &Context<'_>, found: &mut Found) -> Step {
    let text = context.text;
    let Some(pattern) = node.child_by_field_name("name") else {
        return Step::Descend;
    };
    let value = node.child_by_field_name("value");
    if let Some(module) = value.and_then(|value| required(value, text)) {
        import_pattern(pattern, &module, text, found);
        return Step::Skip;
    }
    let Some(name) = simple_name(pattern, text) else {
        return Step::Descend;
    };
    let kind = value.and_then(|value| kind_of_value(value, SymbolKind::Function));
    if let (Some(kind), Some(value)) = (kind, value) {
        bases(value, &name, text, found);
        return Step::Define(vec![given(name, kind, value, text)]);
    }
    if let Some(value) = value_of(node, text) {
        found.bind(&name, value);
    }
    if context.in_function {
        return Step::Descend;
    }
    let words = context.parent.map_or("", |parent| text_of(parent, text));
    let kind = match words.starts_with("const") {
        true => SymbolKind::Constant,
        false => SymbolKind::Variable,
    };
    let body = value.filter(|value| value.kind() == "object");
    Step::Define(vec![Definition {
        name,
        kind,
        owner: None,
        returns: None,
        body: body.map(|body| body.start_byte()),
    }])
}

/// `exports.name = function …`, `Type.prototype.name = …`, `this.field = …`.
fn assignment(node: Node<'_>, context: &Context<'_>, found: &mut Found) -> Step {
    let text = context.text;
    let left = node.child_by_field_name("left");
    let left = left.filter(|left| left.kind() == "member_expression");
    let (Some(left), Some(right)) = (left, node.child_by_field_name("right")) else {
        return Step::Descend;
    };
    let name = left.child_by_field_name("property");
    let object = left.child_by_field_name("object");
    let (Some(name), Some(object)) = (name.and_then(|name| simple_name(name, text)), object) else {
        return Step::Descend;
    };
    let object = text_of(object, text);
    if let ("module", "exports", Some(right)) = (object, &*name, simple_name(right, text)) {
        exports_as(right, "default".to_owned(), line_of(node), found);
    }
    let owner = object.strip_suffix(".prototype");
    let kind = match owner {
        Some(_) => SymbolKind::Method,
        None => SymbolKind::Function,
    };
    if let Some(kind) = kind_of_value(right, kind) {
        let owner = match object {
            "this" => context.owner,
            _ => owner,
        };
        return Step::Define(vec![Definition {
            owner: owner.map(str::to_owned),
            ..given(name, kind, right, text)
        }]);
    }
    if let ("this", Some(owner)) = (object, context.owner) {
        found.bind_field(owner, &name, chain_of(right, text));
    }
    Step::Descend
}

/// `name: function …` in an object.
fn pair(node: Node<'_>, context: &Context<'_>) -> Step {
    let text = context.text;
    let key = node.child_by_field_name("key");
    let key = key.and_then(|key| simple_name(key, text));
    let (Some(key), Some(value)) = (key, node.child_by_field_name("value")) else {
        return Step::Descend;
    };
    let kind = kind_of_value(value, SymbolKind::Method);
    kind.map_or(Step::Descend, |kind| {
        Step::Define(vec![given(key, kind, value, text)])
    })
}

fn called(node: Option<Node<'_>>, text: &str, found: &mut Found) {
    let Some(node) = node else {
        return;
    };
    found.callee(node);
    if let Some((name, receiver)) = callee_of(node, text) {
        let row = node.end_position().row;
        let line = u32::try_from(row).map_or(u32::MAX, |row| row.saturating_add(1));
        found.call(name, receiver, line);
    }
}

fn call(node: Node<'_>, text: &str, found: &mut Found) {
    let function = node.child_by_field_name("function");
    let is_import = function.is_some_and(|function| function.kind() == "import");
    let module = match is_import {
        true => argument(node, text),
        false => required(node, text),
    };
    match module {
        Some(module) => found.import(Import {
            from: None,
            module,
            name: None,
            local: None,
            line: line_of(node),
        }),
        None => called(function, text, found),
    }
}

fn component(node: Node<'_>, text: &str, found: &mut Found) {
    let name = node.child_by_field_name("name");
    // Elements of HTML are in lower case.
    let name = name.filter(|name| text_of(*name, text).starts_with(char::is_uppercase));
    called(name, text, found);
}

/// Returns the module of `require('module')`.
fn required(node: Node<'_>, text: &str) -> Option<String> {
    let node = match node.kind() {
        "await_expression" => node.named_child(0)?,
        _ => node,
    };
    let function = node.child_by_field_name("function")?;
    matches!(text_of(function, text), "require" | "import").then(|| argument(node, text))?
}

fn argument(node: Node<'_>, text: &str) -> Option<String> {
    let arguments = node.child_by_field_name("arguments")?;
    let first = arguments.named_child(0)?;
    (first.kind() == "string").then(|| unquoted(first, text))
}

fn unquoted(node: Node<'_>, text: &str) -> String {
    text_of(node, text)
        .trim_matches(['"', '\'', '`'])
        .to_owned()
}

/// `const name = require(…)` and `const { a, b: c } = require(…)`.
fn import_pattern(pattern: Node<'_>, module: &str, text: &str, found: &mut Found) {
    let mut add = |name: Option<String>, local: String| {
        found.import(Import {
            from: None,
            module: module.to_owned(),
            name,
            local: Some(local),
            line: line_of(pattern),
        });
    };
    if pattern.kind() != "object_pattern" {
        if let Some(name) = simple_name(pattern, text) {
            add(None, name);
        }
        return;
    }
    for part in named_children(pattern) {
        let (key, value) = match part.kind() {
            "pair_pattern" => (
                part.child_by_field_name("key"),
                part.child_by_field_name("value"),
            ),
            _ => (Some(part), Some(part)),
        };
        let name = |node: Option<Node<'_>>| node.and_then(|node| simple_name(node, text));
        if let (Some(key), Some(value)) = (name(key), name(value)) {
            add(Some(key), value);
        }
    }
}

fn import(node: Node<'_>, text: &str, found: &mut Found) {
    let Some(source) = node.child_by_field_name("source") else {
        return;
    };
    let module = unquoted(source, text);
    let line = line_of(node);
    let children = named_children(node).into_iter();
    let clause = children.filter(|child| child.kind() == "import_clause");
    let parts: Vec<_> = clause.flat_map(named_children).collect();
    let mut add = |name: Option<String>, local: Option<String>| {
        found.import(Import {
            from: None,
            module: module.clone(),
            name,
            local,
            line,
        });
    };
    if parts.is_empty() {
        add(None, None);
    }
    for part in parts {
        match part.kind() {
            "identifier" => add(
                Some("default".to_owned()),
                Some(text_of(part, text).to_owned()),
            ),
            "namespace_import" => {
                let local = part.named_child(0).map(|name| text_of(name, text));
                add(None, local.map(str::to_owned));
            }
            _ => {
                for (name, local) in specifiers(part, text) {
                    add(Some(name), Some(local));
                }
            }
        }
    }
}

/// `export { a as b } from 'x'` and `export * from 'x'`: names that go through here.
fn export_from(node: Node<'_>, text: &str, found: &mut Found) {
    let Some(source) = node.child_by_field_name("source") else {
        return;
    };
    let module = unquoted(source, text);
    let line = line_of(node);
    let children = named_children(node).into_iter();
    let clause = children.filter(|child| child.kind() == "export_clause");
    let names: Vec<_> = clause.flat_map(|clause| specifiers(clause, text)).collect();
    if names.is_empty() {
        found.import(Import {
            from: None,
            module: module.clone(),
            name: Some("*".to_owned()),
            local: None,
            line,
        });
    }
    for (name, local) in names {
        found.import(Import {
            from: None,
            module: module.clone(),
            name: Some(name),
            local: Some(local),
            line,
        });
    }
}

/// `export default name`, `export { a as b }`: names that others know differently.
fn export(node: Node<'_>, text: &str, found: &mut Found) {
    let children = named_children(node).into_iter();
    let clause = children.filter(|child| child.kind() == "export_clause");
    let mut names: Vec<_> = clause.flat_map(|clause| specifiers(clause, text)).collect();
    let is_default = text_of(node, text).starts_with("export default");
    let exported = node.child_by_field_name("declaration");
    let name = exported.and_then(|exported| exported.child_by_field_name("name"));
    let name = name.or_else(|| node.child_by_field_name("value"));
    if let (true, Some(name)) = (is_default, name.and_then(|name| simple_name(name, text))) {
        names.push((name, "default".to_owned()));
    }
    for (name, local) in names {
        exports_as(name, local, line_of(node), found);
    }
}

fn exports_as(name: String, local: String, line: u32, found: &mut Found) {
    if name != local {
        found.import(Import {
            module: String::new(),
            name: Some(name),
            local: Some(local),
            from: None,
            line,
        });
    }
}

fn specifiers(node: Node<'_>, text: &str) -> Vec<(String, String)> {
    let parts = named_children(node).into_iter();
    let names = parts.filter_map(|part| {
        let name = text_of(part.child_by_field_name("name")?, text);
        let alias = part.child_by_field_name("alias");
        let alias = alias.map_or(name, |alias| text_of(alias, text));
        Some((name.to_owned(), alias.to_owned()))
    });
    names.collect()
}
