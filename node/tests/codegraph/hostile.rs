//! What hostile sources and archives cost: bounded time and memory, and never a panic.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use aither_node::codegraph::{
    Direction, FileGraph, Language, Query, Relation, Repository, SkipReason, archive, extract,
    limits::{ARCHIVE_BYTES_MAX, GRAPH_BYTES_MAX, SOURCE_BYTES_MAX},
};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{fixture, repository};

/// Far above what any of these takes, far below what a missing bound would.
const PATIENCE: Duration = Duration::from_secs(60);

const EXTENSIONS: &[&str] = &[
    "rs", "py", "pyi", "js", "jsx", "mjs", "ts", "mts", "tsx", "go",
];

/// Reads a text in a language and looks that what comes of it is within its bounds.
fn read(extension: &str, text: &str) {
    let begun = Instant::now();
    let path = format!("a.{extension}");
    if let Ok(graph) = extract(&path, text) {
        assert!(graph.is_sound());
        assert!(serde_json::to_string(&graph).unwrap().len() <= GRAPH_BYTES_MAX);
        let all = Repository::new("r", vec![(path, graph)]);
        assert_eq!(all.file_count(), 1);
    }
    assert!(
        begun.elapsed() < PATIENCE,
        "{extension}: {:?}",
        begun.elapsed()
    );
}

#[test]
fn ten_megabytes_are_refused_by_their_size() {
    let text = "fn a() {}\n".repeat(1 << 20);
    for extension in EXTENSIONS {
        let refused = extract(&format!("a.{extension}"), &text).unwrap_err();
        assert_eq!(refused, SkipReason::TooLarge);
    }
}

#[test]
fn a_hundred_thousand_levels_are_read_to_a_depth() {
    let depth = 100_000;
    for (extension, level) in [
        ("rs", "{\n"),
        ("rs", "mod a {\n"),
        ("py", "[\n"),
        ("js", "{\n"),
        ("ts", "(\n"),
        ("tsx", "<a>\n"),
        ("go", "func(){\n"),
    ] {
        read(extension, &level.repeat(depth));
    }
}

#[test]
fn levels_of_anything_are_read_in_any_language() {
    let depth = 2_000;
    let levels = [
        "(",
        "[\n",
        "f(\n",
        "a.b\n",
        "a.b().",
        "a::b::\n",
        "A<\n",
        "-",
        "if x {\n",
        "fn a() {\n",
        "m! {\n",
        "use a::{\n",
        "function a() {\n",
        "class A {\n",
        "`${\n",
        "<a>\n",
        "&(",
        "a?.",
        "impl A {\n",
        "func a() {\n",
        "new A(\n",
        "lambda: ",
        "[[",
    ];
    for level in levels {
        for extension in ["rs", "py", "js", "tsx", "ts", "go"] {
            read(extension, &level.repeat(depth));
        }
    }
    let closed = format!("{}1{}", "(".repeat(depth), ")".repeat(depth));
    read("rs", &format!("fn a() {{ {closed} }}"));
    read("py", &closed);
    let mut indented = String::new();
    for level in 0..500 {
        indented.push_str(&format!("{}if x:\n", " ".repeat(level)));
    }
    read("py", &indented);
}

#[test]
fn chains_and_lists_that_never_end_are_cut() {
    let wide = [
        format!("fn a() {{ {} }}", "b.c().".repeat(2_500)),
        format!("use a::{{{}}};", "b::{c, d},\n".repeat(2_500)),
        format!("const {} = 1;", "a,\n".repeat(5_000)),
        format!("from a import {}b", "b, ".repeat(5_000)),
        format!("import {{ {} }} from 'a';", "b,\n".repeat(5_000)),
        format!("fn {}() {{}}", "a".repeat(5_000)),
        format!("{}\nfn a() {{}}", "/// x\n".repeat(5_000)),
        format!("x = \"{}\"", "y\n".repeat(5_000)),
        "m! { fn a() { b() } ".repeat(400) + &"}".repeat(400),
        format!("{}{}", "m! { ".repeat(400), "x.y().\n".repeat(20_000)),
        format!("m!({})", "a(1) .b(2)\n".repeat(2_500)),
        format!("fn a() {{ {} }}", "let (a, b) = c;\n".repeat(2_500)),
    ];
    for text in wide {
        for extension in ["rs", "py", "js", "tsx", "ts", "go"] {
            read(extension, &text);
        }
    }
}

#[test]
fn any_text_in_any_language_does_no_harm() {
    let seed = 7;
    println!("SEED={seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for extension in EXTENSIONS {
        for _ in 0..40 {
            let mut bytes = vec![0; random.random_range(0..2_000)];
            random.fill_bytes(&mut bytes);
            let text = String::from_utf8_lossy(&bytes).replace('\0', " ");
            read(extension, &text);
        }
    }
}

#[test]
fn torn_and_mixed_sources_do_no_harm() {
    let seed = 11;
    println!("SEED={seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let all = ["rust", "python", "script", "go"].map(fixture).concat();
    for _ in 0..400 {
        let (path, text) = &all[random.random_range(0..all.len())];
        let (_, other) = &all[random.random_range(0..all.len())];
        let part = |text: &str, random: &mut ChaCha8Rng| {
            let mut end = random.random_range(0..=text.len());
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            (text[..end].to_owned(), text[end..].to_owned())
        };
        let (begin, _) = part(text, &mut random);
        let (_, end) = part(other, &mut random);
        let (_, extension) = path.rsplit_once('.').unwrap();
        read(extension, &format!("{begin}{end}"));
    }
    // All of it together, each under the name of another.
    let mixed = all
        .iter()
        .zip(all.iter().skip(3))
        .map(|((path, _), (_, text))| (path.clone(), text.clone()));
    let mixed: Vec<_> = mixed.collect();
    assert_eq!(repository(&mixed).file_count(), mixed.len());
}

/// Returns a graph as somebody writes it who wants it to cost as much as it can.
fn forged(rows: serde_json::Value) -> FileGraph {
    let mut graph = serde_json::json!({
        "format": 1, "language": "python", "hash": "", "lines": 1,
        "symbols": [], "imports": [], "calls": [], "references": [], "bindings": [], "bases": [],
    });
    for (name, rows) in rows.as_object().unwrap() {
        graph[name] = rows.clone();
    }
    serde_json::from_value(graph).unwrap()
}

fn symbol(name: &str, kind: &str, within: &[String]) -> serde_json::Value {
    serde_json::json!({
        "name": name, "kind": kind, "in": within, "line": 1, "end": 1, "signature": "",
    })
}

/// Looks that a repository of one graph is put together and asked about in bounded time.
fn assert_is_bounded(what: &str, graph: FileGraph) {
    assert!(graph.is_sound(), "{what}");
    let begun = Instant::now();
    let all = Repository::new("r", vec![("a.py".to_owned(), graph)]);
    for relation in [Relation::Calls, Relation::References] {
        all.ask(&Query {
            symbol: Some("a".to_owned()),
            relation: Some(relation),
            limit: 500,
            ..Query::default()
        });
    }
    assert!(begun.elapsed() < PATIENCE, "{what}: {:?}", begun.elapsed());
}

#[test]
fn many_variables_of_one_name_cost_no_more_than_others() {
    let depth = 60;
    let names: Vec<_> = (0..depth).map(|at| format!("f{at}")).collect();
    let nested = names.iter().enumerate();
    let nested = nested.map(|(at, name)| symbol(name, "function", &names[..at]));
    let nested: Vec<_> = nested.collect();
    let bindings = (0..30_000).map(|_| serde_json::json!(["x", null, null, "x.y"]));
    let bindings: Vec<_> = bindings.collect();
    let calls = (0..5_000).map(|line| serde_json::json!(["z", "x.y", depth - 1, line]));
    let calls: Vec<_> = calls.collect();
    let rows = serde_json::json!({ "symbols": nested, "bindings": bindings, "calls": calls });
    assert_is_bounded("variables", forged(rows));
}

#[test]
fn many_definitions_of_one_name_are_no_product_of_rows() {
    let types: Vec<_> = (0..4_000).map(|_| symbol("a", "class", &[])).collect();
    let rows = |row: serde_json::Value| vec![row; 4_000];
    let cases = [
        ("bases", serde_json::json!(["a", "a"])),
        ("bindings", serde_json::json!([".b", null, "a", "a{}"])),
        ("calls", serde_json::json!(["a", null, null, 1])),
        ("references", serde_json::json!(["a", null, 1])),
        ("imports", serde_json::json!(["a", "a", "a", null, 1])),
    ];
    for (name, row) in cases {
        let mut graph = serde_json::json!({ "symbols": types });
        graph[name] = rows(row).into();
        assert_is_bounded(name, forged(graph));
    }
    // Each of them stands in all of them.
    let within = ["a".to_owned()];
    let inner = (0..2_000).map(|_| symbol("a", "class", &within));
    let all: Vec<_> = types[..2_000].iter().cloned().chain(inner).collect();
    assert_is_bounded("symbols", forged(serde_json::json!({ "symbols": all })));
}

#[test]
fn work_that_is_too_much_is_left_and_said() {
    let files = fixture("python");
    let graphs = || {
        let files = files.iter();
        let graphs = files.map(|(path, text)| (path.clone(), extract(path, text).unwrap()));
        graphs.collect::<Vec<_>>()
    };
    let count = |all: &Repository| all.calls().count();
    let whole = Repository::new("shop", graphs());
    assert!(!whole.is_partial());
    let part = Repository::with_work("shop", graphs(), 300);
    assert!(part.is_partial());
    assert!(count(&part) < count(&whole), "{}", count(&part));
    // The same each time, and all definitions.
    let again = Repository::with_work("shop", graphs(), 300);
    assert_eq!(count(&again), count(&part));
    let (path, graph) = &graphs()[0];
    let defined = part.ask(&Query {
        symbol: Some(path.clone()),
        relation: Some(Relation::Defines),
        direction: Some(Direction::Out),
        depth: 8,
        limit: 500,
        ..Query::default()
    });
    assert!(defined.len() > graph.symbols.len(), "{}", defined.len());
}

fn tar_gz(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let mut archive = tar::Builder::new(packer);
    for (path, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        // As an attacker would: without a look at what is in the name.
        let name = &mut header.as_old_mut().name;
        name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        archive.append(&header, *content).unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap()
}

fn zipped(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (path, content) in entries {
        let options = zip::write::SimpleFileOptions::default();
        archive.start_file(*path, options).unwrap();
        archive.write_all(content).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

#[test]
fn archives_give_their_sources() {
    let entries: &[(&str, &[u8])] = &[
        ("shop-1.2/src/lib.rs", b"fn a() {}"),
        ("shop-1.2/README.md", b"text"),
        ("shop-1.2/b.py", b"\xff\xfe"),
    ];
    for archive in [tar_gz(entries), zipped(entries)] {
        let files = archive::unpack("shop", &archive).unwrap();
        let paths: Vec<_> = files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["src/lib.rs", "b.py"]);
        assert_eq!(files[0].content.as_deref(), Ok("fn a() {}"));
        assert_eq!(files[1].content, Err(SkipReason::Binary));
        // The folder of something else is part of the paths.
        let files = archive::unpack("other", &archive).unwrap();
        assert_eq!(files[0].path, "shop-1.2/src/lib.rs");
    }
}

#[test]
fn archives_that_swell_are_cut_off() {
    let swollen = vec![b'\n'; SOURCE_BYTES_MAX + 1];
    for archive in [tar_gz(&[("a.rs", &swollen)]), zipped(&[("a.rs", &swollen)])] {
        let files = archive::unpack("r", &archive).unwrap();
        assert_eq!(files[0].content, Err(SkipReason::TooLarge));
    }
    // What nobody reads has to be unpacked in a tar file all the same.
    let part = vec![0; 64 << 20];
    let count = ARCHIVE_BYTES_MAX as usize / part.len() + 1;
    let entries: Vec<_> = (0..count).map(|_| ("a.bin", part.as_slice())).collect();
    let refused = archive::unpack("r", &tar_gz(&entries)).unwrap_err();
    assert!(
        refused.to_string().contains("more than 256 MiB"),
        "{refused}"
    );
}

#[test]
fn archives_with_too_many_entries_are_refused() {
    let entries: Vec<(String, Vec<u8>)> = (0..5_001)
        .map(|number| (format!("{number}.rs"), b"fn a() {}".to_vec()))
        .collect();
    let entries: Vec<_> = entries
        .iter()
        .map(|(path, text)| (path.as_str(), &text[..]))
        .collect();
    for archive in [tar_gz(&entries), zipped(&entries)] {
        let refused = archive::unpack("r", &archive).unwrap_err();
        assert!(
            refused.to_string().contains("5000 source files"),
            "{refused}"
        );
    }
}

#[test]
fn damaged_archives_are_refused_with_words() {
    let seed = 13;
    println!("SEED={seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for good in [
        tar_gz(&[("a.rs", b"fn a() {}")]),
        zipped(&[("a.rs", b"fn a() {}")]),
    ] {
        for _ in 0..300 {
            let mut bytes = good.clone();
            bytes.truncate(random.random_range(0..=good.len()));
            for _ in 0..random.random_range(0..4) {
                if !bytes.is_empty() {
                    let at = random.random_range(0..bytes.len());
                    bytes[at] = random.random();
                }
            }
            // Whatever comes of it: no panic.
            let _ = archive::unpack("r", &bytes);
        }
    }
    let refused = archive::unpack("r", b"neither").unwrap_err();
    assert!(
        refused.to_string().contains("neither a tar.gz nor a zip"),
        "{refused}"
    );
    assert_eq!(Language::of_path("neither"), None);
}
