//! What names mean across files: the fixtures of each language, and single rules.

use aither_node::codegraph::Relation;

use super::{edges, edges_of, fixture, repository};

/// Returns the edges of a fixture that stay within it.
fn edges_of_fixture(name: &str, relation: Relation) -> Vec<String> {
    let files = fixture(name);
    let paths: Vec<_> = files.iter().map(|(path, _)| path.as_str()).collect();
    let mut edges = edges(&repository(&files), &paths, relation);
    edges.retain(|edge| !edge.ends_with(" external"));
    edges
}

#[test]
fn rust_calls_lead_to_what_they_mean() {
    assert_eq!(
        edges_of_fixture("rust", Relation::Calls),
        [
            "app -> app::only_here resolved",
            "app::checked -> app::guard resolved",
            "app::describe -> app::describe::inner resolved",
            "app::store::Store::put -> app::store::Thing::of resolved",
            "app::store::Store::total -> app::store::Thing::heavy resolved",
            "app::store::Store::total -> app::units::Grams::amount resolved",
            "app::store::Store::total -> app::units::Unit::amount resolved",
            "app::store::Thing::heavy -> app::units::Unit::twice resolved",
            "app::store::Thing::of -> app::units::Grams resolved",
            "app::tests::nothing_weighs_nothing -> app::Scale::read resolved",
            "app::tests::nothing_weighs_nothing -> app::tests::pair resolved",
            "app::tests::nothing_weighs_nothing -> app::weigh resolved",
            "app::units::Unit::twice -> app::units::Grams resolved",
            "app::units::Unit::twice -> app::units::Unit::amount resolved",
            "app::weigh -> app::checked resolved",
            "app::weigh -> app::describe resolved",
            "app::weigh -> app::report resolved",
            "app::weigh -> app::store::Store::total resolved",
            "app::weigh -> app::units::parse resolved",
            "tests::flow::a_store_is_weighed -> app::store::Store::new resolved",
            "tests::flow::a_store_is_weighed -> app::store::Store::put resolved",
            "tests::flow::a_store_is_weighed -> app::units::parse resolved",
            "tests::flow::a_store_is_weighed -> app::weigh resolved",
        ]
    );
}

#[test]
fn rust_imports_lead_to_what_they_bring() {
    assert_eq!(
        edges_of_fixture("rust", Relation::Imports),
        [
            "app -> app resolved",
            "app -> app::store resolved",
            "app -> app::store::Store resolved",
            "app -> app::units resolved",
            "app -> app::units::Grams resolved",
            "app -> app::units::parse resolved",
            "app::store -> app::units::Grams resolved",
            "app::store -> app::units::Unit resolved",
            "tests::flow -> app::LOAD_MAX resolved",
            "tests::flow -> app::store::Store resolved",
            "tests::flow -> app::units resolved",
        ]
    );
}

#[test]
fn rust_references_lead_to_definitions() {
    assert_eq!(
        edges_of_fixture("rust", Relation::References),
        [
            "app -> app::Scale resolved",
            "app::guard -> app::LOAD_MAX resolved",
            "app::store -> app::store::Store resolved",
            "app::store -> app::store::Thing resolved",
            "app::store::Thing -> app::units::Grams resolved",
            "app::units -> app::units::Grams resolved",
            "app::units -> app::units::Unit resolved",
            "app::weigh -> app::store::Store resolved",
            "app::weigh -> app::units::Grams resolved",
            "tests::flow::a_store_is_weighed -> app::LOAD_MAX resolved",
        ]
    );
}

#[test]
fn python_calls_lead_to_what_they_mean() {
    assert_eq!(
        edges_of_fixture("python", Relation::Calls),
        [
            "main.run -> shop.store.Store.total resolved",
            "main.run -> shop.units.convert resolved",
            "main.store -> shop.store.make resolved",
            "shop.store.Store -> shop.store.logged resolved",
            "shop.store.Store.__init__ -> shop.base.Base.__init__ resolved",
            "shop.store.Store.__init__ -> shop.store.Scale resolved",
            "shop.store.Store.heavy -> shop.store.Store.total resolved",
            "shop.store.Store.heavy -> shop.units.Grams.double resolved",
            "shop.store.Store.total -> shop.base.Base.check resolved",
            "shop.store.Store.total -> shop.store.Scale.read resolved",
            "shop.store.Store.unit -> shop.units.Grams resolved",
            "shop.store.make -> shop.store.make.inner resolved",
            "shop.units.convert -> shop.units.Grams resolved",
        ]
    );
}

#[test]
fn python_imports_lead_to_what_they_bring() {
    assert_eq!(
        edges_of_fixture("python", Relation::Imports),
        [
            "main -> shop.store.make resolved",
            "main -> shop.units resolved",
            "shop -> shop.store.Store resolved",
            "shop -> shop.store.make resolved",
            "shop -> shop.units resolved",
            "shop.store -> shop.base.Base resolved",
            "shop.store -> shop.units.Grams resolved",
            "shop.store -> shop.units.LIMIT resolved",
        ]
    );
}

#[test]
fn python_references_lead_to_definitions() {
    assert_eq!(
        edges_of_fixture("python", Relation::References),
        [
            "main.run -> main.store resolved",
            "shop.store.Store -> shop.base.Base resolved",
            "shop.store.Store.total -> shop.units.Grams resolved",
            "shop.store.Store.total -> shop.units.LIMIT resolved",
            "shop.store.make -> shop.store.Store resolved",
        ]
    );
}

#[test]
fn script_calls_lead_to_what_they_mean() {
    assert_eq!(
        edges_of_fixture("script", Relation::Calls),
        [
            "src.app.App -> src.app.Row resolved",
            "src.app.App -> src.app.describe resolved",
            "src.app.App -> src.store.Store resolved",
            "src.app.App -> src.store.Store.total resolved",
            "src.app.App -> src.units.convert resolved",
            "src.app.describe -> src.store.Store.heavy resolved",
            "src.store.Store -> src.units.Grams resolved",
            "src.store.Store.constructor -> src.store.Base resolved",
            "src.store.Store.heavy -> src.store.Store.total resolved",
            "src.store.Store.total -> src.store.Base.check resolved",
            "src.store.Store.total -> src.store.Scale.read resolved",
            "src.store.Store.total -> src.units.Grams.double resolved",
            "src.types.shapes.draw -> src.types.Thing.total resolved",
            "src.units.convert -> src.units.Grams resolved",
        ]
    );
}

#[test]
fn script_imports_lead_to_what_they_bring() {
    assert_eq!(
        edges_of_fixture("script", Relation::Imports),
        [
            "src -> src.store resolved",
            "src -> src.units.convert resolved",
            "src.app -> src.store.Store resolved",
            "src.app -> src.units resolved",
            "src.app -> src.units.convert resolved",
            "src.store -> src.types.Thing resolved",
            "src.store -> src.units.Grams resolved",
            "src.store -> src.units.LIMIT resolved",
        ]
    );
}

#[test]
fn script_references_lead_to_definitions() {
    assert_eq!(
        edges_of_fixture("script", Relation::References),
        [
            "src.app.App -> src.store.Store resolved",
            "src.store -> src.store.Store resolved",
            "src.store.Store -> src.store.Base resolved",
            "src.store.Store -> src.types.Thing resolved",
            "src.store.Store -> src.units.Grams resolved",
            "src.store.Store.constructor -> src.store.Scale resolved",
            "src.store.Store.total -> src.units.LIMIT resolved",
            "src.types.Things -> src.types.Thing resolved",
            "src.units -> src.units.Grams resolved",
            "src.units -> src.units.LIMIT resolved",
            "src.units -> src.units.convert resolved",
        ]
    );
}

#[test]
fn go_calls_lead_to_what_they_mean() {
    assert_eq!(
        edges_of_fixture("go", Relation::Calls),
        [
            "main.main -> main.run resolved",
            "main.main -> store.New resolved",
            "main.main -> store.Store.Total resolved",
            "main.run -> units.Grams.Double resolved",
            "store.New -> store.newScale resolved",
            "store.Scale.Read -> units.Make resolved",
            "store.Store.Total -> store.Base.Check resolved",
            "store.Store.Total -> store.Scale.Read resolved",
            "store.Store.Total -> units.Grams.Double resolved",
            "units.Grams.Double -> units.Make resolved",
            "units.Make -> units.Grams resolved",
        ]
    );
}

#[test]
fn go_imports_lead_to_what_they_bring() {
    assert_eq!(
        edges_of_fixture("go", Relation::Imports),
        [
            "main -> store resolved",
            "store -> units resolved",
            "store -> units resolved",
        ]
    );
}

#[test]
fn go_references_lead_to_definitions() {
    assert_eq!(
        edges_of_fixture("go", Relation::References),
        [
            "main.run -> store.Store resolved",
            "store.Base.Check -> store.Base resolved",
            "store.New -> store.Store resolved",
            "store.Scale.Read -> units.Grams resolved",
            "store.Store -> store.Base resolved",
            "store.Store -> store.Scale resolved",
            "store.Store -> units.Grams resolved",
            "store.Store.Total -> store.Limit resolved",
            "store.newScale -> store.Scale resolved",
            "units.Make -> units.Grams resolved",
        ]
    );
}

#[test]
fn a_name_that_only_one_definition_has_is_marked_as_such() {
    let files = [
        ("a.py", "def run(thing):\n    thing.weigh_all()\n"),
        (
            "b.py",
            "class Shop:\n    def weigh_all(self):\n        pass\n",
        ),
    ];
    assert_eq!(
        edges_of(&files, Relation::Calls),
        ["a.run -> b.Shop.weigh_all byname"]
    );
}

#[test]
fn a_name_that_several_have_is_marked_with_each_of_them() {
    let files = [
        ("a.py", "def run(thing):\n    thing.weigh_all()\n"),
        (
            "b.py",
            "class Shop:\n    def weigh_all(self):\n        pass\n",
        ),
        (
            "c.py",
            "class Store:\n    def weigh_all(self):\n        pass\n",
        ),
    ];
    assert_eq!(
        edges_of(&files, Relation::Calls),
        [
            "a.run -> b.Shop.weigh_all ambiguous",
            "a.run -> c.Store.weigh_all ambiguous",
        ]
    );
}

#[test]
fn what_may_be_anything_leads_nowhere() {
    let mut files = vec![(
        "a.py".to_owned(),
        "def run(thing):\n    thing.weigh_all()\n".to_owned(),
    )];
    for number in 0..20 {
        let text = "class Shop:\n    def weigh_all(self):\n        pass\n";
        files.push((format!("b{number}.py"), text.to_owned()));
    }
    let calls = edges(&repository(&files), &["a.py"], Relation::Calls);
    assert_eq!(calls, ["a.run -> thing.weigh_all ambiguous"]);
}

#[test]
fn a_common_name_does_not_lead_to_a_definition_by_itself() {
    let files = [
        (
            "src/lib.rs",
            "pub fn run(all: &[u8]) { let _ = all.iter().map(|x| x); }",
        ),
        (
            "src/own.rs",
            "pub struct Own; impl Own { fn iter(&self) {} fn map(&self) {} }",
        ),
    ];
    let calls = edges_of(&files, Relation::Calls);
    assert!(
        calls.iter().all(|call| call.ends_with(" external")),
        "{calls:?}"
    );
}

#[test]
fn a_name_that_is_imported_from_elsewhere_is_not_looked_for_here() {
    let files = [
        (
            "src/lib.rs",
            "use other::weigh;\nfn run() { weigh(); other::Scale::new(); }",
        ),
        (
            "src/own.rs",
            "pub fn weigh() {} pub struct Scale; impl Scale { fn new() {} }",
        ),
    ];
    let calls = edges_of(&files, Relation::Calls);
    assert_eq!(
        calls,
        [
            "shop::run -> other::Scale::new external",
            "shop::run -> weigh external",
        ]
    );
}

#[test]
fn imports_that_go_in_circles_end() {
    let files = [
        (
            "src/lib.rs",
            "mod a; mod b; pub use a::*; fn run() { x(); a::y(); }",
        ),
        (
            "src/a.rs",
            "pub use crate::b::*; pub use crate::b::x as y; pub use self::a as a;",
        ),
        (
            "src/b.rs",
            "pub use crate::a::*; pub use super::*; pub use crate::a::y as x;",
        ),
        (
            "p/__init__.py",
            "from .a import *\nfrom . import a\nfrom p import p\n",
        ),
        (
            "p/a.py",
            "from . import *\nfrom .a import b\n\ndef run():\n    b()\n    c()\n",
        ),
        (
            "s/a.js",
            "export * from './b';\nexport { x as y } from './b';\ny();\n",
        ),
        (
            "s/b.js",
            "export * from './a';\nexport { y as x } from './a';\n",
        ),
    ];
    let calls = edges_of(&files, Relation::Calls);
    assert!(
        calls.iter().all(|call| call.ends_with(" external")),
        "{calls:?}"
    );
}

#[test]
fn types_that_are_made_of_each_other_end() {
    let files = [(
        "a.py",
        "class A(B):\n    def run(self):\n        self.x.y.z()\n        self.go()\n\n\
         class B(A):\n    x = y\n    y = x\n\nx = y\ny = x\nx.go()\n",
    )];
    let calls = edges_of(&files, Relation::Calls);
    assert!(
        calls.iter().all(|call| call.ends_with(" external")),
        "{calls:?}"
    );
}

#[test]
fn a_file_that_did_not_change_means_something_else_once_another_did() {
    let caller = ("src/lib.rs", "mod a; use a::weigh; fn run() { weigh(); }");
    let before = edges_of(
        &[caller, ("src/a.rs", "pub fn other() {}")],
        Relation::Calls,
    );
    assert!(before[0].ends_with("external"), "{before:?}");
    let after = edges_of(
        &[caller, ("src/a.rs", "pub fn weigh() {}")],
        Relation::Calls,
    );
    assert_eq!(after, ["shop::run -> shop::a::weigh resolved"]);
}

#[test]
fn languages_do_not_see_each_others_names() {
    let files = [
        (
            "a.py",
            "from b import *\n\ndef run(thing):\n    weigh_it()\n    thing.weigh_all()\n",
        ),
        (
            "b.go",
            "package b\n\ntype T struct{}\n\nfunc (t T) weigh_all() {}\nfunc weigh_it() {}\n",
        ),
    ];
    let calls = edges_of(&files, Relation::Calls);
    assert!(
        calls.iter().all(|call| call.ends_with(" external")),
        "{calls:?}"
    );
    // JavaScript and TypeScript are one world.
    let files = [
        ("a.ts", "import { weigh } from './b.js';\nweigh();\n"),
        ("b.js", "export function weigh() {}\n"),
    ];
    assert_eq!(edges_of(&files, Relation::Calls), ["a -> b.weigh resolved"]);
}
