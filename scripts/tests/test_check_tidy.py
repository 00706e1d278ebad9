"""Tests of scripts/check-tidy.py: each rule on a text that breaks it and on one that does not.

Run with `python3 -m unittest discover -s scripts/tests`.
"""

import importlib.util
import sys
import unittest
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "check-tidy.py"
spec = importlib.util.spec_from_file_location("check_tidy", SCRIPT)
tidy = importlib.util.module_from_spec(spec)
sys.modules["check_tidy"] = tidy
spec.loader.exec_module(tidy)

HEAD = "//! What this file owns.\n"


def messages(path, source):
    """Returns what the checks say about one file."""
    return [str(finding) for finding in tidy.check_file(path, source)]


def long_function(comment=""):
    """Returns a file with one function over the budget."""
    body = "    step();\n" * tidy.FUNCTION_LINES_MAX
    return f"{HEAD}{comment}\nfn long() {{\n{body}}}\n"


class BlankingTest(unittest.TestCase):
    """Comments and literals disappear, code and positions stay."""

    def test_comments_and_literals_become_spaces(self):
        source = 'let a = "to{do"; // {\nlet b = r#"un"safe"#; let c = \'{\';\n'
        code = tidy.blank_non_code(source)
        self.assertEqual(len(code), len(source))
        self.assertNotIn("{", code)
        self.assertNotIn("safe", code)
        self.assertEqual(code.count("let"), 3)

    def test_lifetimes_are_not_characters(self):
        code = tidy.blank_non_code("fn f<'a, 'b>(x: &'a str) -> &'b str { y }")
        self.assertIn("&'b str { y }", code)

    def test_functions_are_measured_past_arrays_in_their_signature(self):
        code = "fn one(a: [u8; 4])\n{\n x\n}\ntrait T { fn none(&self); }\n"
        self.assertEqual(list(tidy.functions(code)), [("one", 1, 4)])


class RustTest(unittest.TestCase):
    """Rules of Rust files."""

    def assert_says(self, path, source, words):
        said = messages(path, source)
        self.assertTrue(any(words in line for line in said), said)

    def assert_clean(self, path, source):
        self.assertEqual(messages(path, source), [])

    def test_good_file_has_no_finding(self):
        self.assert_clean("node/src/a.rs", HEAD + "fn a() -> u8 {\n    1\n}\n")

    def test_missing_head(self):
        self.assert_says("node/src/a.rs", "fn a() {}\n", "a.rs:1: no `//!` head")

    def test_mod_rs(self):
        self.assert_says("node/src/api/mod.rs", HEAD, "sibling style")

    def test_long_file_and_long_line(self):
        self.assert_says("node/src/a.rs", HEAD + "\n" * 801, "the budget is 800")
        self.assert_says("node/src/a.rs", HEAD + f"// {'x' * 100}\n", ":2: 103 columns")

    def test_long_function_unless_it_says_why(self):
        self.assert_says("node/src/a.rs", long_function(), "fn long has 72 lines")
        self.assert_clean("node/src/a.rs", long_function("// tidy: flat match"))
        self.assert_clean("node/src/a.rs", long_function("// tidy: table\n#[test]"))

    def test_banned_words(self):
        for word in ("todo!()", "unimplemented!()", "dbg!(1)", "let token = 1"):
            self.assert_says("node/src/a.rs", f"{HEAD}fn a() {{ {word}; }}\n", ":2:")
        self.assert_says("node/src/a.rs", HEAD + "#[ignore]\nfn a() {}\n", "never runs")
        self.assert_says("node/src/a.rs", HEAD + "#[should_panic]\nfn a() {}\n", "error value")

    def test_words_in_strings_comments_and_names_are_fine(self):
        text = HEAD + '// a token, todo!()\nfn a(token_id: u32) -> &str { "token" }\n'
        self.assert_clean("node/src/a.rs", text)

    def test_unsafe_only_at_home_and_explained(self):
        bare = HEAD + "fn a() {\n    unsafe { b() }\n}\n"
        said = HEAD + "fn a() {\n    // SAFETY: b has no conditions.\n    unsafe { b() }\n}\n"
        self.assert_says("node/src/a.rs", said, "find a safe way")
        self.assert_says("inference/src/ops/avx2.rs", bare, "without a `SAFETY:`")
        self.assert_clean("inference/src/ops/avx2.rs", said)

    def test_layering(self):
        for path, line in (
            ("node/src/services/chat.rs", "use axum::Json;"),
            ("node/src/config.rs", "use axum::Router;"),
            ("node/src/node.rs", "use libp2p::Swarm;"),
            ("node/src/network/task.rs", "use crate::services::chat;"),
            ("inference/src/engine.rs", "use tokio::sync::mpsc;"),
            ("inference/src/engine.rs", "use std::net::TcpStream;"),
            ("protocol/src/card.rs", "use std::time::SystemTime;"),
            ("federation/src/directory.rs", "use tokio::sync::mpsc;"),
            ("federation/src/directory.rs", "use std::time::Instant;"),
            ("cli/src/client.rs", "use burn::Tensor;"),
        ):
            self.assert_says(path, f"{HEAD}{line}\n", "sees" if "std" not in line else "uses")
        self.assert_clean("node/src/api/chat.rs", HEAD + "use axum::Json;\n")
        self.assert_clean("node/src/network/task.rs", HEAD + "use libp2p::Swarm;\n")
        self.assert_clean("inference/tests/engine.rs", HEAD + "use tokio::task;\n")


class TextTest(unittest.TestCase):
    """Rules of every text file."""

    def test_paths_of_one_machine(self):
        for path in ("/" + "work/main/a", "/" + "root/.cargo", "/" + "home/someone/x"):
            self.assertIn("a path of one machine", messages("README.md", f"see {path}\n")[0])
        self.assertEqual(messages("README.md", "see ~/w" + "ork/a and b/wo" + "rk/c\n"), [])

    def test_tracker_numbers_and_hosts(self):
        self.assertIn("tracker number", messages("README.md", "see pull " + "request 12\n")[0])
        self.assertIn("host name", messages("README.md", "from py" + "pi.org\n")[0])

    def test_recorded_data_is_not_read(self):
        self.assertEqual(messages("inference/testdata/a.json", "/" + "work/x"), [])

    def test_budgets_of_documents(self):
        self.assertIn("budget is 250", messages("ARCHITECTURE.md", "a\n" * 251)[0])
        self.assertIn("budget is 60", messages("docs/adr/0001-a.md", "a\n" * 61)[0])

    def test_documents_name_only_what_is_there(self):
        root = SCRIPT.parent.parent
        text = "see `scripts/check-tidy.py` and `scripts/gone.py`\n"
        found = list(tidy.check_named_paths(root, "README.md", text))
        self.assertEqual([finding.line for finding in found], [1])
        self.assertIn("gone.py", found[0].message)
        self.assertEqual(list(tidy.check_named_paths(root, "docs/adr/0001-a.md", text)), [])

    def test_missing_final_newline(self):
        self.assertIn("no newline", messages("README.md", "text")[0])


class ManifestTest(unittest.TestCase):
    """Rules of the members' manifests."""

    HEAD = '[package]\nname = "a"\n[lints]\nworkspace = true\n'

    def test_lints_and_versions_are_inherited(self):
        self.assertIn("lints", messages("node/Cargo.toml", '[package]\nname = "a"\n')[0])
        own = self.HEAD + '[dependencies]\nserde = "1"\n'
        self.assertIn("node/Cargo.toml:6: serde has", messages("node/Cargo.toml", own)[0])
        good = self.HEAD + "[dependencies]\nserde.workspace = true\n"
        self.assertEqual(messages("node/Cargo.toml", good), [])

    def test_edges_between_layers(self):
        edge = self.HEAD + "[dependencies]\ntokio.workspace = true\n"
        self.assertIn("depends on tokio", messages("inference/Cargo.toml", edge)[0])

    def test_fuzz_crates_stand_alone(self):
        own = '[package]\nname = "f"\n[dependencies]\nlibfuzzer-sys = "0.4"\n'
        self.assertEqual(messages("inference/fuzz/Cargo.toml", own), [])


if __name__ == "__main__":
    unittest.main()
