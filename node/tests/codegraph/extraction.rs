//! What is read of one file by itself.

use aither_node::codegraph::{
    FileGraph, Language, SkipReason, SymbolKind, extract,
    limits::{GRAPH_BYTES_MAX, SOURCE_BYTES_MAX},
};

use super::{fixture, graph};

/// Returns the definitions of a file as `kind name line-end`.
fn symbols(path: &str, text: &str) -> Vec<String> {
    let graph = graph(path, text);
    let symbols = graph.symbols.iter().map(|symbol| {
        let mut name = symbol.within.clone();
        name.push(symbol.name.clone());
        let kind = symbol.kind.as_str();
        format!("{kind} {} {}-{}", name.join("."), symbol.line, symbol.end)
    });
    symbols.collect()
}

fn text_of(fixture_name: &str, path: &str) -> String {
    let files = fixture(fixture_name);
    let found = files.into_iter().find(|(name, _)| name == path);
    found.unwrap().1
}

#[test]
fn definitions_of_rust() {
    let text = text_of("rust", "app/src/store.rs");
    assert_eq!(
        symbols("store.rs", &text),
        [
            "struct Store 7-10",
            "struct Thing 12-14",
            "method Store.new 18-20",
            "method Store.put 22-26",
            "method Store.total 28-31",
            "method Thing.of 35-39",
            "method Thing.heavy 41-43",
        ]
    );
    let kinds = "mod m { pub const A: u8 = 1; }\nenum E { B(u8) }\n\
                 trait T { type O; fn f(&self); }\nstatic S: u8 = 1;\ntype Y = u8;\n\
                 macro_rules! q { () => {} }\nunion U { a: u8 }\n\
                 impl<X> m::Z<X> { const K: u8 = 1; }\n";
    assert_eq!(
        symbols("kinds.rs", kinds),
        [
            "module m 1-1",
            "constant m.A 1-1",
            "enum E 2-2",
            "variant E.B 2-2",
            "trait T 3-3",
            "type T.O 3-3",
            "method T.f 3-3",
            "constant S 4-4",
            "type Y 5-5",
            "macro q 6-6",
            "struct U 7-7",
            "constant m::Z.K 8-8",
        ]
    );
}

#[test]
fn definitions_of_python() {
    let text = text_of("python", "shop/store.py");
    assert_eq!(
        symbols("store.py", &text),
        [
            "function logged 9-10",
            "class Store 13-33",
            "variable Store.unit 19-19",
            "method Store.__init__ 21-24",
            "method Store.total 27-29",
            "method Store.heavy 32-33",
            "class Scale 36-39",
            "method Scale.read 37-39",
            "function make 42-46",
            "function make.inner 43-44",
        ]
    );
    assert_eq!(
        symbols("units.py", &text_of("python", "shop/units.py")),
        [
            "constant LIMIT 1-1",
            "class Grams 4-9",
            "method Grams.__init__ 5-6",
            "method Grams.double 8-9",
            "function convert 12-12",
        ]
    );
}

#[test]
fn definitions_of_scripts() {
    assert_eq!(
        symbols("store.ts", &text_of("script", "src/store.ts")),
        [
            "class Store 6-20",
            "method Store.constructor 9-11",
            "method Store.total 13-17",
            "method Store.heavy 19-19",
            "class Base 22-26",
            "method Base.check 23-25",
            "class Scale 28-32",
            "method Scale.read 29-31",
        ]
    );
    assert_eq!(
        symbols("types.ts", &text_of("script", "src/types.ts")),
        [
            "interface Thing 1-3",
            "method Thing.total 2-2",
            "type Things 5-5",
            "enum Kind 7-10",
            "module shapes 12-16",
            "function shapes.draw 13-15",
        ]
    );
    let given = "const api = { get() {}, post: function () {} };\nexports.run = () => 1;\n\
                 Api.prototype.stop = function () {};\nlet A = class extends B {};\nvar v;\n";
    assert_eq!(
        symbols("given.js", given),
        [
            "constant api 1-1",
            "method api.get 1-1",
            "method api.post 1-1",
            "function run 2-2",
            "method Api.stop 3-3",
            "class A 4-4",
            "variable v 5-5",
        ]
    );
}

#[test]
fn definitions_of_go() {
    assert_eq!(
        symbols("store.go", &text_of("go", "store/store.go")),
        [
            "struct Store 11-15",
            "interface Reader 18-20",
            "method Reader.Read 19-19",
            "constant Limit 23-23",
            "constant Other 24-24",
            "function New 28-30",
            "method Store.Total 33-38",
        ]
    );
}

#[test]
fn definitions_come_with_signature_and_documentation() {
    let of = |fixture_name, path: &str, name: &str| {
        let graph = graph(path, &text_of(fixture_name, path));
        let symbol = graph.symbols.into_iter().find(|symbol| symbol.name == name);
        let symbol = symbol.unwrap();
        (symbol.signature, symbol.doc.unwrap_or_default())
    };
    let pair = |signature: &str, doc: &str| (signature.to_owned(), doc.to_owned());
    assert_eq!(
        of("rust", "app/src/lib.rs", "weigh"),
        pair(
            "pub fn weigh(store: &Store) -> Option<Grams>",
            "Weighs what is in a store."
        )
    );
    assert_eq!(
        of("rust", "app/src/store.rs", "Store"),
        pair("pub struct Store", "Things by name.")
    );
    assert_eq!(
        of("python", "shop/store.py", "Store"),
        pair("class Store(Base)", "Keeps things. More about it.")
    );
    assert_eq!(
        of("script", "src/store.ts", "Store"),
        pair("class Store extends Base implements Thing", "Keeps things.")
    );
    assert_eq!(
        of("script", "src/app.tsx", "describe"),
        pair("describe = (shop: Store): string", "")
    );
    assert_eq!(
        of("go", "store/store.go", "Total"),
        pair(
            "func (s *Store) Total() units.Grams",
            "Total weighs all of it."
        )
    );
    let file = graph("lib.rs", &text_of("rust", "app/src/lib.rs"));
    assert_eq!(
        file.doc.as_deref(),
        Some("A shop, small enough to be read at once.")
    );
    let file = graph("store.go", &text_of("go", "store/store.go"));
    assert_eq!(file.package.as_deref(), Some("store"));
}

#[test]
fn macros_are_looked_into() {
    let text =
        "assert_eq!(a.b(c(1)).d, e::f::g(2));\nvec![K::default(), h(3), i!(j(4))];\nfn k(l: u8) {}";
    let graph = graph("m.rs", &format!("fn all() {{ {text} }}"));
    let calls = graph.calls.iter().map(|call| {
        let receiver = call.receiver.as_deref().unwrap_or("-");
        format!("{receiver} {}", call.name)
    });
    let mut calls: Vec<_> = calls.collect();
    calls.sort();
    assert_eq!(
        calls,
        [
            "- assert_eq!",
            "- c",
            "- h",
            "- i!",
            "- j",
            "- vec!",
            "K:: default",
            "a b",
            "e::f:: g"
        ]
    );
    // Where definitions stand, a macro's braces are read as such.
    let text = "cfg! {\n    impl A {\n        cfg! { fn b(&self) { c() } }\n    }\n}\n";
    let graph = super::graph("m.rs", text);
    assert_eq!(graph.symbols[0].name, "b");
    assert_eq!(graph.symbols[0].within, ["A"]);
    assert_eq!(graph.symbols[0].line, 3);
    assert_eq!(graph.calls.last().unwrap().from, Some(0));
    // What is none is read as words.
    let graph = super::graph("m.rs", "rules! { a => b(1), +++ }\n");
    assert_eq!(graph.calls.last().unwrap().name, "b");
}

#[test]
fn broken_syntax_gives_what_can_be_read() {
    let broken = [
        (
            "a.rs",
            "fn good() { call(); }\nfn bad( { ]]\nfn also_good() { call(); }\n",
        ),
        (
            "a.py",
            "def good():\n    call()\n\ndef bad(:\n\ndef also_good():\n    call()\n",
        ),
        (
            "a.js",
            "function good() { call(); }\nfunction bad( { ]]\nfunction also_good() {}\n",
        ),
        (
            "a.ts",
            "function good() { call(); }\nlet x: = ;\nfunction also_good() {}\n",
        ),
        (
            "a.go",
            "package a\nfunc good() { call() }\nfunc bad( {\nfunc also_good() { call() }\n",
        ),
    ];
    for (path, text) in broken {
        let graph = graph(path, text);
        assert!(graph.broken, "{path}");
        assert!(
            graph.symbols.iter().any(|symbol| symbol.name == "good"),
            "{path}"
        );
        assert!(graph.calls.iter().any(|call| call.name == "call"), "{path}");
    }
}

#[test]
fn files_that_nobody_wrote_are_left_alone() {
    let reason = |path: &str, text: &str| extract(path, text).unwrap_err();
    assert_eq!(reason("a.txt", ""), SkipReason::UnknownLanguage);
    assert_eq!(reason(".rs", ""), SkipReason::UnknownLanguage);
    assert_eq!(reason("rs", ""), SkipReason::UnknownLanguage);
    assert_eq!(reason("a.py", "a = '\0'"), SkipReason::Binary);
    assert_eq!(
        reason("a.go", "// Code generated by x. DO NOT EDIT.\npackage a\n"),
        SkipReason::Generated
    );
    assert_eq!(reason("a.rs", "// @generated\n"), SkipReason::Generated);
    let minified = "a();".repeat(10_000);
    assert_eq!(reason("a.js", &minified), SkipReason::Minified);
    let large = "a()\n".repeat(SOURCE_BYTES_MAX / 4 + 1);
    assert_eq!(reason("a.py", &large), SkipReason::TooLarge);
    // To say so in a text is no sign.
    assert!(extract("a.py", "mark = '@generated'\n").is_ok());
}

#[test]
fn extensions_tell_the_language() {
    let of = |path| Language::of_path(path).map(Language::as_str);
    for (path, language) in [
        ("a/b.rs", "rust"),
        ("b.pyi", "python"),
        ("b.test.mjs", "javascript"),
        ("b.jsx", "javascript"),
        ("b.d.ts", "typescript"),
        ("b.tsx", "typescript"),
        ("b.go", "go"),
    ] {
        assert_eq!(of(path), Some(language), "{path}");
    }
    assert_eq!(of("b.RS"), None);
    assert_eq!(of("a.rs/b"), None);
}

#[test]
fn a_graph_fits_into_a_memory_value_and_comes_back_from_it() {
    for (name, path) in [("rust", "app/src/lib.rs"), ("script", "src/store.ts")] {
        let graph = graph(path, &text_of(name, path));
        let json = serde_json::to_string(&graph).unwrap();
        let back: aither_node::codegraph::FileGraph = serde_json::from_str(&json).unwrap();
        assert_eq!(back, graph);
        assert!(back.is_sound());
    }
    let mut dense = String::new();
    let mut number = 0;
    while dense.len() < SOURCE_BYTES_MAX - 200 {
        dense.push_str(&format!(
            "fn \u{e4}{number}() {{ a{number}(); b.c{number}(); }}\n"
        ));
        number += 1;
    }
    let graph = graph("a.rs", &dense);
    assert!(graph.truncated);
    assert!(serde_json::to_string(&graph).unwrap().len() <= GRAPH_BYTES_MAX);
    let functions = graph
        .symbols
        .iter()
        .filter(|s| s.kind == SymbolKind::Function);
    assert!(functions.count() > 1_000);
}

#[test]
fn what_does_not_fit_together_is_not_sound() {
    let mut graph = graph("a.rs", "fn a() { b(); }");
    assert!(graph.is_sound());
    graph.calls[0].from = Some(1);
    assert!(!graph.is_sound());
    graph.calls[0].from = None;
    graph.format += 1;
    assert!(!graph.is_sound());
}

#[test]
fn texts_that_no_file_gives_are_not_sound() {
    type Change = fn(&mut FileGraph, String);
    let whole = graph(
        "a.py",
        "import b\nfrom c import D\nx = D()\ndef f():\n    x.g(D)\n",
    );
    assert!(!whole.references.is_empty() && !whole.bindings.is_empty());
    let changes: [Change; 13] = [
        |graph, text| graph.symbols[0].name = text,
        |graph, text| graph.symbols[0].signature = text,
        |graph, text| graph.symbols[0].doc = Some(text),
        |graph, text| graph.symbols[0].returns = Some(text),
        |graph, text| graph.symbols[0].within = vec![text],
        |graph, text| graph.doc = Some(text),
        |graph, text| graph.package = Some(text),
        |graph, text| graph.calls[0].name = text,
        |graph, text| graph.calls[0].receiver = Some(text),
        |graph, text| graph.imports[0].module = text,
        |graph, text| graph.references[0].name = text,
        |graph, text| graph.bindings[0].value = text,
        |graph, text| graph.bases.push((text, String::new())),
    ];
    for (at, change) in changes.into_iter().enumerate() {
        let mut graph = whole.clone();
        change(&mut graph, "a".repeat(200));
        assert!(graph.is_sound(), "{at}");
        change(&mut graph, "a".repeat(3_000));
        assert!(!graph.is_sound(), "{at}");
    }
    let mut deep = whole;
    deep.symbols[0].within = vec![String::new(); 101];
    assert!(!deep.is_sound());
}
