//! Rust.
//!
//! What stands in a macro's arguments is no syntax tree, only words and brackets; calls are told
//! there by a name before a parenthesis. Members of an `impl` belong to the type that it names,
//! wherever that is defined.

use tree_sitter::Node;

use super::{
    Context, Definition, Step, callee_of, chain_of, line_of, named_children, plain_path,
    simple_name, text_of, type_name,
};
use crate::codegraph::{
    extract::Found,
    model::{Import, SymbolKind},
};

/// Most names of one `use`.
const USE_NAMES_MAX: usize = 500;

pub(super) fn visit(node: Node<'_>, context: &Context<'_>, found: &mut Found) -> Step {
    let text = context.text;
    match node.kind() {
        "line_comment"
        | "block_comment"
        | "string_literal"
        | "raw_string_literal"
        | "char_literal"
        | "lifetime"
        | "visibility_modifier" => return Step::Skip,
        "mod_item" => return module(node, text, found),
        "struct_item" | "union_item" => return define(node, SymbolKind::Struct, text),
        "enum_item" => return define(node, SymbolKind::Enum, text),
        "enum_variant" => return define(node, SymbolKind::Variant, text),
        "const_item" | "static_item" => return define(node, SymbolKind::Constant, text),
        "type_item" | "associated_type" => return define(node, SymbolKind::Type, text),
        "macro_definition" => return define(node, SymbolKind::Macro, text),
        "trait_item" => {
            bases_of_trait(node, text, found);
            return define(node, SymbolKind::Trait, text);
        }
        "impl_item" => return members(node, text, found),
        "function_item" | "function_signature_item" => {
            let function = Definition::of(node, context.function_kind(), text);
            let function = function.map(|f| f.returning(node, "return_type", text));
            return function.map_or(Step::Descend, |function| Step::Define(vec![function]));
        }
        "use_declaration" | "extern_crate_declaration" => {
            use_names(node, text, found);
            return Step::Skip;
        }
        "let_declaration" | "parameter" | "let_condition" => bind(node, text, found),
        "field_declaration" => bind_field(node, context, found),
        "call_expression" => call(node, text, found),
        "macro_invocation" => {
            macro_call(node, text, found);
            return definitions_within(node, context);
        }
        "token_tree" => words(node, text, found),
        "type_identifier" => {
            let parent = context.parent.map_or("", |parent| parent.kind());
            let is_defined_here = context.field == Some("name")
                && (parent.ends_with("_item") || parent == "type_parameter");
            if !is_defined_here {
                found.reference(text_of(node, text), line_of(node));
            }
        }
        "scoped_type_identifier" | "scoped_identifier" => {
            if !found.is_callee(node)
                && let Some(path) = plain_path(text_of(node, text))
            {
                found.reference(&path, line_of(node));
            }
            return Step::Skip;
        }
        "identifier" => {
            let is_defined_here = matches!(context.field, Some("name" | "pattern" | "alias"));
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

/// A module with its contents, or the name of a file that has them.
fn module(node: Node<'_>, text: &str, found: &mut Found) -> Step {
    if node.child_by_field_name("body").is_some() {
        return define(node, SymbolKind::Module, text);
    }
    let name = node.child_by_field_name("name");
    if let Some(name) = name.and_then(|name| simple_name(name, text)) {
        found.import(Import {
            from: None,
            module: "self".to_owned(),
            name: Some(name.clone()),
            local: Some(name),
            line: line_of(node),
        });
    }
    Step::Skip
}

fn bases_of_trait(node: Node<'_>, text: &str, found: &mut Found) {
    let name = node.child_by_field_name("name");
    let bounds = node.child_by_field_name("bounds");
    let (Some(name), Some(bounds)) = (name, bounds) else {
        return;
    };
    for bound in named_children(bounds) {
        if let Some(base) = type_name(bound, text) {
            found.base(text_of(name, text), &base);
        }
    }
}

fn members(node: Node<'_>, text: &str, found: &mut Found) -> Step {
    let of = node.child_by_field_name("type");
    let Some(of) = of.and_then(|of| bare_type_name(of, text)) else {
        return Step::Descend;
    };
    let implemented = node.child_by_field_name("trait");
    if let Some(implemented) = implemented.and_then(|of| bare_type_name(of, text)) {
        found.base(&of, &implemented);
    }
    Step::Members(of)
}

/// Returns the name of the type itself: in an `impl` a wrapper is not what is in it.
fn bare_type_name(node: Node<'_>, text: &str) -> Option<String> {
    match node.kind() {
        "generic_type" => bare_type_name(node.child_by_field_name("type")?, text),
        _ => type_name(node, text),
    }
}

fn bind(node: Node<'_>, text: &str, found: &mut Found) {
    let Some(pattern) = node.child_by_field_name("pattern") else {
        return;
    };
    // `Some(x)` and `Ok(x)`: what is in a wrapper counts as the wrapper.
    let pattern = match pattern.kind() {
        "tuple_struct_pattern" if pattern.named_child_count() == 2 => pattern.named_child(1),
        "ref_pattern" | "mut_pattern" | "reference_pattern" => pattern.named_child(0),
        _ => Some(pattern),
    };
    let Some(pattern) = pattern else {
        return;
    };
    let named = node.child_by_field_name("type");
    let named = named.and_then(|named| type_name(named, text));
    let value = match (named, node.child_by_field_name("value")) {
        (Some(named), _) => named + "{}",
        (None, Some(value)) => chain_of(value, text),
        (None, None) => return,
    };
    match pattern.kind() {
        "identifier" => found.bind(text_of(pattern, text), value),
        // `(a, b)`: one after the other of several.
        "tuple_pattern" => {
            for (at, part) in named_children(pattern).into_iter().enumerate() {
                let name = match part.kind() {
                    "mut_pattern" => part.named_child(1),
                    _ => Some(part),
                };
                let name = name.filter(|name| name.kind() == "identifier");
                if let Some(name) = name {
                    found.bind(text_of(name, text), format!("{value}.{at}"));
                }
            }
        }
        _ => {}
    }
}

fn bind_field(node: Node<'_>, context: &Context<'_>, found: &mut Found) {
    let name = node.child_by_field_name("name");
    let named = node.child_by_field_name("type");
    let named = named.and_then(|named| type_name(named, context.text));
    if let (Some(owner), Some(name), Some(named)) = (context.owner, name, named) {
        found.bind_field(owner, text_of(name, context.text), named + "{}");
    }
}

fn call(node: Node<'_>, text: &str, found: &mut Found) {
    let Some(function) = node.child_by_field_name("function") else {
        return;
    };
    let inner = match function.kind() {
        "generic_function" => function.child_by_field_name("function"),
        _ => None,
    };
    found.callee(inner.unwrap_or(function));
    if let Some((name, receiver)) = callee_of(function, text) {
        found.call(name, receiver, last_line(function));
    }
}

/// Returns the line on which a callee ends: where chains are broken into lines, its own.
fn last_line(node: Node<'_>) -> u32 {
    let row = node.end_position().row;
    u32::try_from(row).map_or(u32::MAX, |row| row.saturating_add(1))
}

fn macro_call(node: Node<'_>, text: &str, found: &mut Found) {
    let Some(called) = node.child_by_field_name("macro") else {
        return;
    };
    found.callee(called);
    if let Some((name, receiver)) = callee_of(called, text) {
        found.call(name + "!", receiver, line_of(node));
    }
}

/// Looks whether a macro stands where definitions do and has braces: then they are in these.
fn definitions_within(node: Node<'_>, context: &Context<'_>) -> Step {
    let parent = context.parent.map_or("", |parent| parent.kind());
    let mut parts = named_children(node).into_iter();
    let braces = parts.rfind(|part| part.kind() == "token_tree");
    let braces = braces.filter(|braces| text_of(*braces, context.text).starts_with('{'));
    let (true, Some(braces)) = (matches!(parent, "source_file" | "declaration_list"), braces)
    else {
        return Step::Descend;
    };
    let mut range = braces.range();
    range.start_byte += 1;
    range.start_point.column += 1;
    range.end_byte -= 1;
    range.end_point.column = range.end_point.column.saturating_sub(1);
    Step::Inside(range)
}

/// Finds calls among the words of a macro's arguments.
fn words(node: Node<'_>, text: &str, found: &mut Found) {
    let children = named_children(node);
    for (at, word) in children.iter().enumerate() {
        if word.kind() != "identifier" {
            default_call(node, at, &children, text, found);
            continue;
        }
        let name = text_of(*word, text);
        let next = children.get(at + 1);
        let between = next.and_then(|next| text.get(word.end_byte()..next.start_byte()));
        let has_arguments = next.is_some_and(|next| text_of(*next, text).starts_with('('));
        let is_macro = between.is_some_and(|between| between.trim() == "!");
        let is_call = has_arguments && between.is_some_and(|between| between.trim().is_empty());
        // The walker comes to identifiers in here as well: those that are no calls.
        if !is_call && !is_macro {
            continue;
        }
        found.callee_word(*word);
        let before = text.get(node.start_byte()..word.start_byte());
        let before = before.unwrap_or_default().trim_end();
        if before.ends_with("fn") {
            continue;
        }
        let receiver = receiver_of(before, &children[..at], text);
        let mark = if is_macro { "!" } else { "" };
        found.call(format!("{name}{mark}"), receiver, line_of(*word));
    }
}

/// Finds `Type::default(…)` among words: there the name is a word of the language's own.
fn default_call(node: Node<'_>, at: usize, words: &[Node<'_>], text: &str, found: &mut Found) {
    let arguments = words[at];
    let before = text.get(node.start_byte()..arguments.start_byte());
    let before = before.and_then(|before| before.trim_end().strip_suffix("default"));
    let before = before.filter(|before| before.ends_with("::") || before.ends_with('.'));
    if let Some(before) = before
        && text_of(arguments, text).starts_with('(')
    {
        let receiver = receiver_of(before, &words[..at], text);
        found.call("default".to_owned(), receiver, line_of(arguments));
    }
}

/// Reads what stands before a call among words: a path, a chain of names, or something else.
fn receiver_of(before: &str, earlier: &[Node<'_>], text: &str) -> Option<String> {
    let is_path = before.ends_with("::");
    if !is_path && !before.ends_with('.') {
        return None;
    }
    let separator = if is_path { "::" } else { "." };
    let mut chain = Vec::new();
    let mut calls = "";
    let mut end = None;
    for word in earlier.iter().rev() {
        let after = end
            .and_then(|end| text.get(word.end_byte()..end))
            .map(str::trim);
        let joins = after.is_none_or(|after| matches!(after, "." | "::" | "?." | ""));
        if !joins {
            break;
        }
        match word.kind() {
            "token_tree" if text_of(*word, text).starts_with('(') && calls.is_empty() => {
                calls = "()";
            }
            "identifier" | "self" | "crate" | "super" => {
                // Two names with nothing between are not one chain.
                if after == Some("") && calls.is_empty() {
                    break;
                }
                chain.push(format!("{}{calls}", text_of(*word, text)));
                calls = "";
            }
            _ => break,
        }
        end = Some(word.start_byte());
    }
    if chain.is_empty() {
        return Some("?".to_owned());
    }
    chain.reverse();
    let chain = chain.join(separator);
    Some(if is_path { chain + "::" } else { chain })
}

/// Takes a `use` apart into the names that come of it.
fn use_names(node: Node<'_>, text: &str, found: &mut Found) {
    let line = line_of(node);
    let top = node.child_by_field_name("argument");
    let Some(top) = top.or_else(|| node.child_by_field_name("name")) else {
        return;
    };
    let mut waiting = vec![(String::new(), top)];
    let mut count = 0;
    while let Some((prefix, node)) = waiting.pop() {
        count += 1;
        if count > USE_NAMES_MAX {
            found.leave_out();
            return;
        }
        match node.kind() {
            "use_list" => {
                let children = named_children(node).into_iter().rev();
                waiting.extend(children.map(|child| (prefix.clone(), child)));
            }
            "scoped_use_list" => {
                let path = node.child_by_field_name("path");
                let path = path.map_or("", |path| text_of(path, text));
                if let Some(list) = node.child_by_field_name("list") {
                    waiting.push((joined(&prefix, path), list));
                }
            }
            "use_wildcard" => {
                let path = node.named_child(0).map_or("", |path| text_of(path, text));
                found.import(Import {
                    from: None,
                    module: joined(&prefix, path),
                    name: Some("*".to_owned()),
                    local: None,
                    line,
                });
            }
            "use_as_clause" => {
                let path = node.child_by_field_name("path");
                let alias = node.child_by_field_name("alias");
                if let (Some(path), Some(alias)) = (path, alias) {
                    let path = joined(&prefix, text_of(path, text));
                    name_of(&path, Some(text_of(alias, text)), line, found);
                }
            }
            _ => name_of(&joined(&prefix, text_of(node, text)), None, line, found),
        }
    }
}

fn joined(prefix: &str, path: &str) -> String {
    let path: String = path.chars().filter(|c| !c.is_whitespace()).collect();
    let path = path.trim_start_matches("::");
    match (prefix.is_empty(), path.is_empty()) {
        (true, _) => path.to_owned(),
        (false, true) => prefix.to_owned(),
        (false, false) => format!("{prefix}::{path}"),
    }
}

fn name_of(path: &str, alias: Option<&str>, line: u32, found: &mut Found) {
    let (module, name) = path.rsplit_once("::").unwrap_or(("", path));
    // `a::{self}` means `a`.
    let (module, name) = match name {
        "self" if !module.is_empty() => module.rsplit_once("::").unwrap_or(("", module)),
        _ => (module, name),
    };
    found.import(Import {
        from: None,
        module: module.to_owned(),
        name: Some(name.to_owned()),
        local: Some(alias.unwrap_or(name).to_owned()),
        line,
    });
}
