//! The index of folders, on real folders.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use super::*;

static GO_ON: AtomicBool = AtomicBool::new(false);

/// Folders and an index of them.
struct Made {
    folder: tempfile::TempDir,
    index: FolderIndex,
}

impl Made {
    fn new(names: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<_> = names.iter().map(|name| folder.path().join(name)).collect();
        for path in &paths {
            fs::create_dir(path).unwrap();
        }
        let index = FolderIndex::new(&folder.path().join("search-index"), &paths);
        Self { folder, index }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn put(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn refresh(&self) -> Refreshed {
        self.index.refresh(&GO_ON).unwrap()
    }

    fn found(&self, query: &str) -> Vec<String> {
        let hits = self.index.search(query, 10, false).unwrap();
        hits.into_iter().map(|hit| hit.url).collect()
    }

    /// The same folders, as after a restart.
    fn reopen(&mut self, names: &[&str]) {
        let paths: Vec<_> = names.iter().map(|name| self.path(name)).collect();
        self.index = FolderIndex::new(&self.path("search-index"), &paths);
    }
}

#[test]
fn files_are_found_by_words_titles_and_names() {
    let made = Made::new(&["docs", "code"]);
    made.put("docs/guide.md", "# How to brew tea\n\nBoil water and wait.");
    made.put(
        "docs/page.html",
        "<title>Coffee</title><p>Grind the <b>beans</b>.</p>",
    );
    made.put("code/src/water_pump.rs", "fn start_pump() {}\n");
    made.put("code/data.json", r#"{"tea": "Über 東京"}"#);
    assert!(!made.index.is_built());
    assert!(made.found("water").is_empty());
    let refreshed = made.refresh();
    assert_eq!((refreshed.files, refreshed.read, refreshed.gone), (4, 4, 0));
    assert!(made.index.is_built());
    assert_eq!(made.found("brew tea")[0], "local:docs/guide.md");
    assert_eq!(
        made.found("water"),
        ["local:code/src/water_pump.rs", "local:docs/guide.md"]
    );
    assert_eq!(made.found("START"), ["local:code/src/water_pump.rs"]);
    assert_eq!(made.found("über"), ["local:code/data.json"]);
    assert_eq!(made.found("京"), ["local:code/data.json"]);
    assert!(made.found("title").is_empty() && made.found("\"*:(").is_empty());
    let hits = made.index.search("beans", 1, true).unwrap();
    assert_eq!(
        (&*hits[0].title, &*hits[0].snippet),
        ("Coffee", "Grind the beans.")
    );
    assert_eq!(hits[0].content.as_deref(), Some("Grind the beans."));
    assert_eq!(made.index.search("tea water", 1, false).unwrap().len(), 1);
}

#[test]
fn changes_are_found_and_what_is_gone_is_not() {
    let made = Made::new(&["docs"]);
    made.put("docs/a.txt", "apple");
    made.put("docs/b.txt", "banana");
    made.refresh();
    assert_eq!(made.refresh().read, 0);
    made.put("docs/a.txt", "apricots");
    fs::remove_file(made.path("docs/b.txt")).unwrap();
    made.put("docs/c.txt", "cherry");
    let refreshed = made.refresh();
    assert_eq!((refreshed.read, refreshed.gone), (2, 1));
    assert!(made.found("apple").is_empty() && made.found("banana").is_empty());
    assert_eq!(made.found("apricots"), ["local:docs/a.txt"]);
    assert_eq!(made.found("cherry"), ["local:docs/c.txt"]);
}

#[test]
fn hidden_ignored_huge_and_binary_files_are_left_out() {
    let made = Made::new(&["docs"]);
    made.put("docs/.secret", "needle");
    made.put("docs/.hidden/a.txt", "needle");
    made.put("docs/.gitignore", "build/\n*.log\n");
    made.put("docs/build/a.txt", "needle");
    made.put("docs/a.log", "needle");
    made.put("docs/binary", b"needle\0");
    let huge = "needle ".repeat(usize::try_from(FILE_BYTES_MAX).unwrap() / 7 + 1);
    made.put("docs/huge.txt", huge);
    made.put("docs/right.txt", "needle");
    made.refresh();
    assert_eq!(made.found("needle"), ["local:docs/right.txt"]);
}

#[cfg(unix)]
#[test]
fn links_lead_nowhere() {
    use std::os::unix::fs::symlink;
    let made = Made::new(&["docs"]);
    made.put("outside/secret.txt", "needle");
    made.put("docs/real.txt", "thread");
    symlink(made.path("outside/secret.txt"), made.path("docs/file")).unwrap();
    symlink(made.path("outside"), made.path("docs/folder")).unwrap();
    made.refresh();
    assert!(made.found("needle").is_empty());
    // A file that becomes a link between being seen and being read.
    let folder = folders::Folder::new(&made.path("docs")).unwrap();
    let open = folder.open().unwrap();
    assert!(folders::read(&open, "real.txt").is_some());
    assert!(folders::read(&open, "file").is_none());
    assert!(folders::read(&open, "folder/secret.txt").is_none());
    assert!(folders::read(&open, "../outside/secret.txt").is_none());
}

#[test]
fn an_index_is_there_after_a_restart_and_follows_the_configuration() {
    let mut made = Made::new(&["docs", "code"]);
    made.put("docs/a.txt", "apple");
    made.put("code/b.txt", "banana");
    made.refresh();
    made.reopen(&["docs", "code"]);
    assert_eq!(made.refresh().read, 0);
    assert_eq!(made.found("apple banana").len(), 2);
    made.reopen(&["docs"]);
    assert_eq!(made.refresh().gone, 1);
    assert_eq!(made.found("apple banana"), ["local:docs/a.txt"]);
}

/// Writes over the end of every file of a folder but those of its lock.
fn damage(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        if !bytes.is_empty() {
            let middle = bytes.len() / 2;
            let mut wrong = bytes;
            wrong[middle] ^= 0xff;
            fs::write(&path, wrong).unwrap();
        }
    }
}

#[test]
fn a_damaged_index_is_made_anew() {
    let mut made = Made::new(&["docs"]);
    made.put("docs/a.txt", "apple");
    made.refresh();
    for part in ["index", "stamps"] {
        let path = made.path("search-index").join(part);
        match part {
            "index" => damage(&path),
            _ => fs::write(&path, b"\xff\xff\xff\xff\xff\xff").unwrap(),
        }
        made.reopen(&["docs"]);
        assert_eq!(made.refresh().read, 1, "{part}");
        assert_eq!(made.found("apple"), ["local:docs/a.txt"], "{part}");
    }
    fs::remove_dir_all(made.path("search-index/index")).unwrap();
    made.reopen(&["docs"]);
    assert_eq!(made.refresh().read, 1);
    assert_eq!(made.found("apple"), ["local:docs/a.txt"]);
}

#[test]
fn a_refresh_that_is_told_to_stop_loses_nothing() {
    let made = Made::new(&["docs"]);
    made.put("docs/a.txt", "apple");
    made.index.refresh(&AtomicBool::new(true)).unwrap();
    assert!(!made.index.is_built());
    assert_eq!(made.refresh().read, 1);
    assert_eq!(made.found("apple"), ["local:docs/a.txt"]);
}
