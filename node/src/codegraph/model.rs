//! What is known about a file by itself.
//!
//! The JSON form is what memory keeps. Rows that are many (calls, imports, references, bindings)
//! are arrays, since their field names would be most of the bytes; the order of their parts is part
//! of the format, which [`FORMAT`] numbers. A graph of another format is made again from its source
//! when that is sent again.

use serde::{Deserialize, Serialize};

use super::{
    language::Language,
    limits::{
        DOC_BYTES_MAX, SIGNATURE_BYTES_MAX, SYMBOLS_MAX, TEXT_BYTES_MAX, WITHIN_BYTES_MAX,
        WITHIN_MAX,
    },
};

/// The form of graphs that this build writes and reads.
pub const FORMAT: u32 = 1;

/// Bytes of a hash in hex.
const HASH_BYTES: usize = 64;

/// The structure of one file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileGraph {
    /// See [`FORMAT`].
    pub format: u32,
    /// The language that it was read as.
    pub language: Language,
    /// SHA-256 of the source, in hex.
    pub hash: String,
    /// How many lines it has.
    pub lines: u32,
    /// The first lines of what the file says about itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doc: Option<String>,
    /// What the file itself calls its module, where the language has it do so (Go's `package`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
    /// Whether there were syntax errors, around which the rest was read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub broken: bool,
    /// Whether something was left out because it was too much or too deep.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// What it defines, in order.
    pub symbols: Vec<Symbol>,
    /// What it imports.
    pub imports: Vec<Import>,
    /// What it calls.
    pub calls: Vec<Call>,
    /// What else it names.
    pub references: Vec<Reference>,
    /// What its variables and fields are.
    pub bindings: Vec<Binding>,
    /// Which of its types are made of which others: `(type, base)`, as written.
    pub bases: Vec<(String, String)>,
}

impl FileGraph {
    /// Returns whether its numbers fit together and its texts are no longer than those of files
    /// that were read: each may be in many rows of an answer. What was kept may have been written
    /// by anybody who may write there.
    pub fn is_sound(&self) -> bool {
        let count = self.symbols.len();
        let is_there = |from: &Option<u32>| from.is_none_or(|from| (from as usize) < count);
        self.format == FORMAT
            && count <= SYMBOLS_MAX
            && self.calls.iter().all(|call| is_there(&call.from))
            && self.imports.iter().all(|import| is_there(&import.from))
            && self.references.iter().all(|row| is_there(&row.from))
            && self.bindings.iter().all(|binding| is_there(&binding.from))
            && self.has_short_texts()
    }

    fn has_short_texts(&self) -> bool {
        self.hash.len() <= HASH_BYTES
            && is_short(&self.package, TEXT_BYTES_MAX)
            && is_short(&self.doc, DOC_BYTES_MAX)
            && self.symbols.iter().all(Symbol::has_short_texts)
            && self.calls.iter().all(Call::has_short_texts)
            && self.imports.iter().all(Import::has_short_texts)
            && self.references.iter().all(Reference::has_short_texts)
            && self.bindings.iter().all(Binding::has_short_texts)
            && self
                .bases
                .iter()
                .all(|(name, base)| name.len() <= TEXT_BYTES_MAX && base.len() <= TEXT_BYTES_MAX)
    }
}

fn is_short(text: &Option<String>, bytes_max: usize) -> bool {
    text.as_ref().is_none_or(|text| text.len() <= bytes_max)
}

/// What a definition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SymbolKind {
    /// A module or a namespace.
    Module,
    /// A class.
    Class,
    /// A struct or a union.
    Struct,
    /// An enum.
    Enum,
    /// A variant of an enum.
    Variant,
    /// A trait.
    Trait,
    /// An interface.
    Interface,
    /// A function.
    Function,
    /// A function of a type.
    Method,
    /// A constant or a static.
    Constant,
    /// A variable of a module.
    Variable,
    /// A name for a type.
    Type,
    /// A macro.
    Macro,
}

impl SymbolKind {
    /// Returns its name as answers show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Module => "module",
            Self::Class => "class",
            Self::Struct => "struct",
            Self::Enum => "enum",
            Self::Variant => "variant",
            Self::Trait => "trait",
            Self::Interface => "interface",
            Self::Function => "function",
            Self::Method => "method",
            Self::Constant => "constant",
            Self::Variable => "variable",
            Self::Type => "type",
            Self::Macro => "macro",
        }
    }

    /// Returns whether it may have members.
    pub fn is_type(self) -> bool {
        matches!(
            self,
            Self::Class | Self::Struct | Self::Enum | Self::Trait | Self::Interface | Self::Type
        )
    }
}

/// A definition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Symbol {
    /// Its own name.
    pub name: String,
    /// What it is.
    pub kind: SymbolKind,
    /// The names of what it stands in within the file, outermost first.
    #[serde(default, rename = "in", skip_serializing_if = "Vec::is_empty")]
    pub within: Vec<String>,
    /// First line, from 1.
    pub line: u32,
    /// Last line.
    pub end: u32,
    /// The definition without its body, on one line.
    pub signature: String,
    /// The first lines of its documentation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doc: Option<String>,
    /// The type that a call of it gives, as written, without wrappers that are seen through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returns: Option<String>,
}

impl Symbol {
    /// Returns whether its texts are within their bounds.
    pub(super) fn has_short_texts(&self) -> bool {
        let within: usize = self.within.iter().map(String::len).sum();
        self.name.len() <= TEXT_BYTES_MAX
            && self.within.len() <= WITHIN_MAX
            && within <= WITHIN_BYTES_MAX
            && self.signature.len() <= SIGNATURE_BYTES_MAX
            && is_short(&self.doc, DOC_BYTES_MAX)
            && is_short(&self.returns, TEXT_BYTES_MAX)
    }
}

/// A call: `name` as written, what stands before it, the symbol in which it stands, the line.
///
/// What stands before is a chain of names as [`super::rules::chain_of`] writes it, or a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "CallRow", into = "CallRow")]
pub struct Call {
    /// The last name.
    pub name: String,
    /// What stands before it.
    pub receiver: Option<String>,
    /// The innermost symbol around it.
    pub from: Option<u32>,
    /// The line, from 1.
    pub line: u32,
}

impl Call {
    /// Returns whether its texts are within their bounds.
    pub(super) fn has_short_texts(&self) -> bool {
        self.name.len() <= TEXT_BYTES_MAX && is_short(&self.receiver, TEXT_BYTES_MAX)
    }
}

type CallRow = (String, Option<String>, Option<u32>, u32);

impl From<CallRow> for Call {
    fn from((name, receiver, from, line): CallRow) -> Self {
        Self {
            name,
            receiver,
            from,
            line,
        }
    }
}

impl From<Call> for CallRow {
    fn from(call: Call) -> Self {
        (call.name, call.receiver, call.from, call.line)
    }
}

/// An import: the path as written, what of it is meant, the name that it has here, the symbol in
/// which it stands, the line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "ImportRow", into = "ImportRow")]
pub struct Import {
    /// The module: `crate::a`, `.pkg.mod`, `./file`, `example.com/x/pkg`. Nothing in a script
    /// stands for the file itself: it exports a name under another one.
    pub module: String,
    /// The name in that module; nothing for the module itself, `*` for all that it has.
    pub name: Option<String>,
    /// What it is called in this file; nothing where no name comes of it.
    pub local: Option<String>,
    /// The innermost symbol around it.
    pub from: Option<u32>,
    /// The line, from 1.
    pub line: u32,
}

impl Import {
    fn has_short_texts(&self) -> bool {
        self.module.len() <= TEXT_BYTES_MAX
            && is_short(&self.name, TEXT_BYTES_MAX)
            && is_short(&self.local, TEXT_BYTES_MAX)
    }
}

type ImportRow = (String, Option<String>, Option<String>, Option<u32>, u32);

impl From<ImportRow> for Import {
    fn from((module, name, local, from, line): ImportRow) -> Self {
        Self {
            module,
            name,
            local,
            from,
            line,
        }
    }
}

impl From<Import> for ImportRow {
    fn from(import: Import) -> Self {
        let Import {
            module,
            name,
            local,
            from,
            line,
        } = import;
        (module, name, local, from, line)
    }
}

/// A name that is used and not called; the first use in each symbol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "ReferenceRow", into = "ReferenceRow")]
pub struct Reference {
    /// The name or path as written.
    pub name: String,
    /// The innermost symbol around it.
    pub from: Option<u32>,
    /// The line, from 1.
    pub line: u32,
}

impl Reference {
    fn has_short_texts(&self) -> bool {
        self.name.len() <= TEXT_BYTES_MAX
    }
}

type ReferenceRow = (String, Option<u32>, u32);

impl From<ReferenceRow> for Reference {
    fn from((name, from, line): ReferenceRow) -> Self {
        Self { name, from, line }
    }
}

impl From<Reference> for ReferenceRow {
    fn from(reference: Reference) -> Self {
        (reference.name, reference.from, reference.line)
    }
}

/// What a variable is, as far as the text says: `name` is `.field` for a field of the type that
/// `owner` names; `value` is a chain, with `{}` behind a type of which it is a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BindingRow", into = "BindingRow")]
pub struct Binding {
    /// The variable, or `.field`.
    pub name: String,
    /// The symbol in which a variable stands.
    pub from: Option<u32>,
    /// The type of which it is a field.
    pub owner: Option<String>,
    /// What it is.
    pub value: String,
}

impl Binding {
    /// Returns whether its texts are within their bounds.
    pub(super) fn has_short_texts(&self) -> bool {
        self.name.len() <= TEXT_BYTES_MAX
            && is_short(&self.owner, TEXT_BYTES_MAX)
            && self.value.len() <= TEXT_BYTES_MAX
    }
}

type BindingRow = (String, Option<u32>, Option<String>, String);

impl From<BindingRow> for Binding {
    fn from((name, from, owner, value): BindingRow) -> Self {
        Self {
            name,
            from,
            owner,
            value,
        }
    }
}

impl From<Binding> for BindingRow {
    fn from(binding: Binding) -> Self {
        (binding.name, binding.from, binding.owner, binding.value)
    }
}
