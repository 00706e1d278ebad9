//! Reading and writing repositories that are made here, without git on the machine; where it is
//! there, it is asked whether they are right.

use std::{fs, path::PathBuf, process::Command};

use gix::{
    ObjectId,
    objs::tree::{Entry, EntryKind as GitKind},
    refs::transaction::{PreviousValue, RefEdit},
};

use super::*;

const AGENT: &str = "bot";

/// A repository in a folder of its own.
struct Made {
    _folder: tempfile::TempDir,
    path: PathBuf,
    git: gix::Repository,
}

impl Made {
    fn new(is_bare: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("site");
        let kind = match is_bare {
            true => gix::create::Kind::Bare,
            false => gix::create::Kind::WithWorktree,
        };
        let options = gix::open::Options::isolated();
        let git = gix::ThreadSafeRepository::init_opts(
            &path,
            kind,
            gix::create::Options::default(),
            options,
        );
        Self {
            _folder: folder,
            path,
            git: git.unwrap().to_thread_local(),
        }
    }

    /// With a commit on `main` that has a bit of everything.
    fn filled(is_bare: bool) -> Self {
        let made = Self::new(is_bare);
        let blob = |text: &str| made.git.write_blob(text).unwrap().detach();
        let docs = made.tree(&[("a.md", GitKind::Blob, blob("# A\n"))]);
        let root = made.tree(&[
            ("README.md", GitKind::Blob, blob("hello\n")),
            (
                "binary",
                GitKind::Blob,
                made.git.write_blob([0, 159, 1]).unwrap().detach(),
            ),
            ("docs", GitKind::Tree, docs),
            ("link", GitKind::Link, blob("../../../../etc/passwd")),
            ("run.sh", GitKind::BlobExecutable, blob("#!/bin/sh\n")),
            (
                "sub",
                GitKind::Commit,
                ObjectId::from_hex(&[b'1'; 40]).unwrap(),
            ),
        ]);
        made.commit("refs/heads/main", root, &[], 1000, "Begin\n\nAt last.\n");
        made
    }

    fn tree(&self, entries: &[(&str, GitKind, ObjectId)]) -> ObjectId {
        let entries = entries.iter().map(|(name, kind, id)| Entry {
            mode: (*kind).into(),
            filename: (*name).into(),
            oid: *id,
        });
        let mut entries: Vec<_> = entries.collect();
        entries.sort();
        self.git
            .write_object(gix::objs::Tree { entries })
            .unwrap()
            .detach()
    }

    fn commit(
        &self,
        name: &str,
        tree: ObjectId,
        parents: &[ObjectId],
        seconds: i64,
        message: &str,
    ) -> ObjectId {
        let person = gix::actor::Signature {
            name: "Ann".into(),
            email: "ann@example.org".into(),
            time: gix::date::Time::new(seconds, 3600),
        };
        let commit = gix::objs::Commit {
            tree,
            parents: parents.iter().copied().collect(),
            author: person.clone(),
            committer: person.clone(),
            encoding: None,
            message: message.into(),
            extra_headers: Vec::new(),
        };
        let id = self.git.write_object(commit).unwrap().detach();
        self.point(name, id);
        id
    }

    fn point(&self, name: &str, id: ObjectId) {
        let name: gix::refs::FullName = name.try_into().unwrap();
        let edit = RefEdit::update(name, id, PreviousValue::Any, "test");
        let mut time = gix::date::parse::TimeBuf::default();
        let person = gix::actor::Signature {
            name: "Ann".into(),
            email: "ann@example.org".into(),
            time: gix::date::Time::new(1, 0),
        };
        let person = person.to_ref(&mut time);
        self.git
            .edit_references_as(Some(edit), Some(person))
            .unwrap();
    }

    fn head(&self, name: &str) -> Option<String> {
        let found = self.git.try_find_reference(name).unwrap();
        found.map(|mut found| found.peel_to_id().unwrap().to_string())
    }

    fn read(&self, query: CodeQuery) -> Result<CodeAnswer, CodeError> {
        read(&self.path, &query)
    }

    fn file(&self, reference: &str, path: &str) -> Result<FileAnswer, CodeError> {
        let (reference, path) = (reference.to_owned(), path.to_owned());
        match self.read(CodeQuery::File { reference, path })? {
            CodeAnswer::File(file) => Ok(file),
            other => panic!("{other:?}"),
        }
    }

    fn log(&self, reference: &str, path: &str, limit: usize) -> (Vec<String>, bool) {
        let (reference, path) = (reference.to_owned(), path.to_owned());
        match self
            .read(CodeQuery::Log {
                reference,
                path,
                limit,
            })
            .unwrap()
        {
            CodeAnswer::Log(log) => {
                let subjects = log.commits.into_iter().map(|commit| commit.subject);
                (subjects.collect(), log.truncated)
            }
            other => panic!("{other:?}"),
        }
    }

    fn write(&self, new: &NewCommit) -> Result<Written, CodeError> {
        write(&self.path, new)
    }

    /// Has git itself look at everything, where there is one.
    fn check_with_git(&self) {
        let fsck = Command::new("git")
            .arg("-C")
            .arg(&self.path)
            .args(["fsck", "--strict"])
            .output();
        let Ok(said) = fsck else { return };
        let words = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.status.success(), "{words}");
    }
}

fn put(path: &str, content: &str) -> FileChange {
    FileChange {
        path: path.to_owned(),
        edit: Edit::Write {
            content: content.as_bytes().to_vec(),
            is_executable: None,
        },
    }
}

fn delete(path: &str) -> FileChange {
    FileChange {
        path: path.to_owned(),
        edit: Edit::Delete,
    }
}

fn commit_of(files: Vec<FileChange>) -> NewCommit {
    NewCommit {
        folder: AGENT.to_owned(),
        branch: None,
        base: None,
        expected_head: None,
        message: "Change".to_owned(),
        files,
        author: Author {
            name: "bot".to_owned(),
            email: "bot@node".to_owned(),
        },
        committer: Author {
            name: "No<d>e\n".to_owned(),
            email: "node@node".to_owned(),
        },
        seconds: 2000,
    }
}

/// All of a folder's files with their contents.
fn files_below(folder: &std::path::Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut left = vec![folder.to_owned()];
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => left.push(path),
                false => files.push((path.clone(), fs::read(&path).unwrap())),
            }
        }
    }
    files.sort();
    files
}

#[test]
fn files_folders_and_commits_are_read_from_bare_and_from_checked_out_repositories() {
    for is_bare in [true, false] {
        let made = Made::filled(is_bare);
        let file = made.file("main", "README.md").unwrap();
        assert_eq!((&*file.content, file.size), ("hello\n", 6));
        assert_eq!(file.encoding, Encoding::Utf8);
        assert_eq!(file.commit, made.head("refs/heads/main").unwrap());
        let by_id = made.file(&file.commit[..8], "docs/a.md").unwrap();
        assert_eq!(by_id.content, "# A\n");
        assert_eq!(
            made.file("refs/heads/main", "binary").unwrap().encoding,
            Encoding::Base64
        );
        assert_eq!(
            made.file("HEAD", "run.sh").unwrap().kind,
            EntryKind::Executable
        );
        let listed = |is_recursive, limit| {
            let query = CodeQuery::List {
                reference: "HEAD".to_owned(),
                path: String::new(),
                is_recursive,
                limit,
            };
            match made.read(query).unwrap() {
                CodeAnswer::List(list) => {
                    let paths = list.entries.into_iter().map(|entry| entry.path);
                    (paths.collect::<Vec<_>>(), list.truncated)
                }
                other => panic!("{other:?}"),
            }
        };
        let (top, _) = listed(false, 100);
        assert_eq!(
            top,
            ["README.md", "binary", "docs", "link", "run.sh", "sub"]
        );
        let (all, truncated) = listed(true, 100);
        assert!(
            all.contains(&"docs/a.md".to_owned()) && !truncated,
            "{all:?}"
        );
        let (some, truncated) = listed(true, 3);
        assert_eq!((some.len(), truncated), (3, true));
    }
}

#[test]
fn links_lead_nowhere_and_nothing_outside_of_the_objects_is_read() {
    let made = Made::filled(false);
    fs::write(made.path.join("secret"), "only in the working tree").unwrap();
    let link = made.file("main", "link").unwrap();
    assert_eq!(
        (link.kind, &*link.content),
        (EntryKind::Link, "../../../../etc/passwd")
    );
    for path in ["secret", ".git/config", "link/etc", "README.md/x"] {
        let refused = made.file("main", path);
        assert!(
            matches!(refused, Err(CodeError::NotFound(_))),
            "{path} {refused:?}"
        );
    }
    for path in [
        "../secret",
        "docs/../../secret",
        "/etc/passwd",
        "sub",
        "docs",
        "",
    ] {
        let refused = made.file("main", path);
        assert!(
            matches!(refused, Err(CodeError::Invalid { .. })),
            "{path} {refused:?}"
        );
    }
    // Files at the top of the repository's folder are no references.
    for reference in [
        "config",
        "description",
        "../HEAD",
        "refs/../config",
        "ORIG_HEAD",
        "",
        "-x",
    ] {
        assert!(made.file(reference, "README.md").is_err(), "{reference:?}");
    }
}

#[test]
fn a_long_file_is_cut_between_characters_and_a_huge_one_is_not_read() {
    let made = Made::new(true);
    let text = format!("x{}", "ä".repeat(FILE_BYTES_MAX / 2 + 10));
    let long = made.git.write_blob(&text).unwrap().detach();
    let huge = vec![0; usize::try_from(BLOB_BYTES_MAX).unwrap() + 1];
    let huge = made.git.write_blob(huge).unwrap().detach();
    let tree = made.tree(&[("huge", GitKind::Blob, huge), ("long", GitKind::Blob, long)]);
    made.commit("refs/heads/main", tree, &[], 1, "x");
    let file = made.file("main", "long").unwrap();
    assert!(file.truncated && file.encoding == Encoding::Utf8);
    assert_eq!(
        (file.content.len(), file.size),
        (FILE_BYTES_MAX - 1, text.len() as u64)
    );
    let refused = made.file("main", "huge");
    assert!(
        matches!(refused, Err(CodeError::TooLarge(_))),
        "{refused:?}"
    );
}

#[test]
fn a_writer_has_so_many_branches_and_may_go_on_with_those() {
    let made = Made::filled(true);
    made.write(&commit_of(vec![put("a", "1")])).unwrap();
    let head = made.head("refs/heads/aither/bot/work").unwrap();
    let folder = made.path.join("refs/heads/aither/bot");
    for number in 1..BRANCHES_MAX {
        fs::write(folder.join(number.to_string()), format!("{head}\n")).unwrap();
    }
    let mut one_more = commit_of(vec![put("a", "2")]);
    one_more.branch = Some("one-more".to_owned());
    let refused = made.write(&one_more).unwrap_err();
    assert_eq!(refused, CodeError::TooManyBranches(BRANCHES_MAX));
    made.write(&commit_of(vec![put("a", "2")])).unwrap();
    // Others have their own.
    one_more.folder = "other".to_owned();
    made.write(&one_more).unwrap();
    fs::remove_file(folder.join("1")).unwrap();
    one_more.folder = "bot".to_owned();
    made.write(&one_more).unwrap();
}

#[test]
fn history_is_that_of_a_path_and_ends_at_its_bound() {
    let made = Made::filled(true);
    for (number, content) in ["one", "two", "two", "three"].iter().enumerate() {
        let mut new = commit_of(vec![
            put("docs/a.md", content),
            put("n", &number.to_string()),
        ]);
        new.message = format!("Change {number}");
        new.seconds = 2000 + i64::try_from(number).unwrap();
        made.write(&new).unwrap();
    }
    let branch = "aither/bot/work";
    let all = ["Change 3", "Change 2", "Change 1", "Change 0", "Begin"];
    assert_eq!(
        made.log(branch, "", 10),
        (all.map(str::to_owned).to_vec(), false)
    );
    let of_path = ["Change 3", "Change 1", "Change 0", "Begin"];
    let (found, _) = made.log(branch, "docs/a.md", 10);
    assert_eq!(found, of_path);
    assert_eq!(made.log(branch, "README.md", 10).0, ["Begin"]);
    assert!(made.log(branch, "nowhere", 10).0.is_empty());
    let (found, truncated) = made.log(branch, "", 2);
    assert_eq!((found.len(), truncated), (2, true));
}

#[test]
fn a_commit_and_a_difference_name_the_paths_that_changed() {
    let made = Made::filled(true);
    let files = vec![
        put("docs/a.md", "new"),
        put("docs/b/c.md", "c"),
        delete("run.sh"),
    ];
    let written = made.write(&commit_of(files)).unwrap();
    let shown = made.read(CodeQuery::Commit {
        reference: written.commit.clone(),
        limit: 10,
    });
    let CodeAnswer::Commit(shown) = shown.unwrap() else {
        panic!("no commit");
    };
    let paths = |changes: &[ChangedPath]| {
        let pairs = changes.iter().map(|c| (c.path.clone(), c.change));
        pairs.collect::<Vec<_>>()
    };
    let expected = [
        ("docs/a.md".to_owned(), ChangeKind::Modified),
        ("docs/b/c.md".to_owned(), ChangeKind::Added),
        ("run.sh".to_owned(), ChangeKind::Deleted),
    ];
    assert_eq!(paths(&shown.changes), expected);
    assert_eq!(
        (&*shown.message, &*shown.line.author.email),
        ("Change\n", "bot@node")
    );
    assert_eq!(shown.line.committer.name, "Node");
    assert_eq!(shown.line.author.time, "1970-01-01T00:33:20Z");
    let diff = |limit| {
        let diff = made.read(CodeQuery::Diff {
            base: "main".to_owned(),
            reference: "aither/bot/work".to_owned(),
            limit,
        });
        match diff.unwrap() {
            CodeAnswer::Diff(diff) => (paths(&diff.changes), diff.truncated),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(diff(10), (expected.to_vec(), false));
    assert_eq!((diff(2).0.len(), diff(2).1), (2, true));
}

#[test]
fn branches_and_tags_are_listed() {
    let made = Made::filled(true);
    let main = made.head("refs/heads/main").unwrap();
    made.point("refs/tags/v1", ObjectId::from_hex(main.as_bytes()).unwrap());
    made.write(&commit_of(vec![put("a", "a")])).unwrap();
    let CodeAnswer::Branches(branches) = made.read(CodeQuery::Branches { limit: 9 }).unwrap()
    else {
        panic!("no branches");
    };
    let names: Vec<_> = branches
        .names
        .iter()
        .map(|b| (&*b.name, b.is_head))
        .collect();
    assert_eq!(names, [("aither/bot/work", false), ("main", true)]);
    let CodeAnswer::Tags(tags) = made.read(CodeQuery::Tags { limit: 9 }).unwrap() else {
        panic!("no tags");
    };
    assert_eq!((&*tags.names[0].name, &tags.names[0].commit), ("v1", &main));
    assert_eq!(made.file("v1", "README.md").unwrap().content, "hello\n");
}

#[test]
fn a_commit_is_made_on_a_branch_of_ones_own_and_the_working_tree_is_not_touched() {
    let made = Made::filled(false);
    fs::write(made.path.join("README.md"), "as somebody edits it").unwrap();
    let before: Vec<_> = files_below(&made.path);
    let main = made.head("refs/heads/main").unwrap();
    let files = vec![
        put("README.md", "changed"),
        put("new/deep/file", "x"),
        delete("binary"),
    ];
    let written = made.write(&commit_of(files)).unwrap();
    assert_eq!(
        (&*written.branch, written.files_changed),
        ("aither/bot/work", 3)
    );
    assert_eq!(made.head("refs/heads/main").unwrap(), main);
    assert_eq!(
        made.head("refs/heads/aither/bot/work"),
        Some(written.commit.clone())
    );
    let read = |path: &str| made.file("aither/bot/work", path).map(|file| file.content);
    assert_eq!(read("README.md").unwrap(), "changed");
    assert_eq!(read("new/deep/file").unwrap(), "x");
    assert!(read("binary").is_err());
    assert_eq!(read("docs/a.md").unwrap(), "# A\n");
    // What was there is as it was; what is new are objects, the branch and its log.
    let after = files_below(&made.path);
    assert!(before.iter().all(|file| after.contains(file)));
    let new = after.iter().filter(|file| !before.contains(file));
    for (path, _) in new {
        let path = path.strip_prefix(&made.path).unwrap().to_str().unwrap();
        let is_known = [
            ".git/objects/",
            ".git/refs/heads/aither/",
            ".git/logs/refs/heads/aither/",
        ]
        .iter()
        .any(|prefix| path.starts_with(prefix));
        assert!(is_known, "{path}");
    }
    made.check_with_git();
}

#[test]
fn modes_are_kept_and_the_same_again_makes_no_commit() {
    let made = Made::filled(true);
    let first = made.write(&commit_of(vec![
        put("run.sh", "#!/bin/bash\n"),
        put("link", "x"),
    ]));
    let first = first.unwrap();
    let kind = |path: &str| made.file("aither/bot/work", path).unwrap().kind;
    assert_eq!(kind("run.sh"), EntryKind::Executable);
    // A link becomes a file: nobody is led elsewhere by what an agent writes.
    assert_eq!(kind("link"), EntryKind::File);
    let again = made
        .write(&commit_of(vec![put("run.sh", "#!/bin/bash\n")]))
        .unwrap();
    assert_eq!((again.files_changed, &again.commit), (0, &first.commit));
    let mut plain = commit_of(vec![put("run.sh", "#!/bin/bash\n")]);
    plain.files[0].edit = Edit::Write {
        content: b"#!/bin/bash\n".to_vec(),
        is_executable: Some(false),
    };
    assert_eq!(made.write(&plain).unwrap().files_changed, 1);
    assert_eq!(kind("run.sh"), EntryKind::File);
    made.check_with_git();
}

#[test]
fn a_branch_that_is_elsewhere_than_expected_is_a_conflict() {
    let made = Made::filled(true);
    let first = made.write(&commit_of(vec![put("a", "1")])).unwrap();
    let expecting = |head: &str| NewCommit {
        expected_head: Some(head.to_owned()),
        ..commit_of(vec![put("a", "2")])
    };
    let refused = made.write(&expecting(&"0".repeat(40))).unwrap_err();
    let is_conflict = |error: &CodeError, at: &str| match error {
        CodeError::Conflict { head, .. } => head.as_deref() == Some(at),
        _ => false,
    };
    assert!(is_conflict(&refused, &first.commit), "{refused:?}");
    let second = made.write(&expecting(&first.commit)).unwrap();
    assert!(is_conflict(
        &made.write(&expecting(&first.commit)).unwrap_err(),
        &second.commit
    ));
    let mut missing = expecting(&first.commit);
    missing.branch = Some("other".to_owned());
    assert!(matches!(
        made.write(&missing),
        Err(CodeError::Conflict { head: None, .. })
    ));
}

#[test]
fn writers_at_the_same_time_lose_nothing() {
    let made = Made::filled(true);
    made.write(&commit_of(vec![put("start", "x")])).unwrap();
    let path = &made.path;
    let done: usize = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                scope.spawn(move || {
                    let new = commit_of(vec![put(&format!("file-{writer}"), "x")]);
                    // As often as somebody else was first.
                    let tries = (0..100).map(|_| write(path, &new));
                    tries.filter(Result::is_ok).take(1).count()
                })
            })
            .collect();
        writers
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .sum()
    });
    assert_eq!(done, 4);
    assert_eq!(made.log("aither/bot/work", "", 99).0.len(), 6);
    for writer in 0..4 {
        made.file("aither/bot/work", &format!("file-{writer}"))
            .unwrap();
    }
    made.check_with_git();
}

#[test]
fn a_branch_that_somebody_has_checked_out_is_not_written() {
    let made = Made::filled(false);
    made.write(&commit_of(vec![put("a", "1")])).unwrap();
    let head = made.path.join(".git/HEAD");
    let main = fs::read(&head).unwrap();
    fs::write(&head, "ref: refs/heads/aither/bot/work\n").unwrap();
    let refused = made.write(&commit_of(vec![put("a", "2")]));
    assert!(
        matches!(refused, Err(CodeError::Conflict { .. })),
        "{refused:?}"
    );
    fs::write(&head, main).unwrap();
    made.write(&commit_of(vec![put("a", "2")])).unwrap();
    // The same in a worktree elsewhere.
    let worktree = made.path.join(".git/worktrees/w");
    fs::create_dir_all(&worktree).unwrap();
    fs::write(worktree.join("gitdir"), "/nowhere/.git\n").unwrap();
    fs::write(worktree.join("commondir"), "../..\n").unwrap();
    fs::write(worktree.join("HEAD"), "ref: refs/heads/aither/bot/work\n").unwrap();
    let refused = made.write(&commit_of(vec![put("a", "3")]));
    assert!(
        matches!(refused, Err(CodeError::Conflict { .. })),
        "{refused:?}"
    );
}

#[test]
fn a_branch_that_only_stands_for_another_is_not_written_through() {
    let made = Made::filled(true);
    let main = made.head("refs/heads/main");
    let link = made.path.join("refs/heads/aither/bot/work");
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    fs::write(link, "ref: refs/heads/main\n").unwrap();
    let refused = made.write(&commit_of(vec![put("a", "1")]));
    assert!(
        matches!(refused, Err(CodeError::Conflict { .. })),
        "{refused:?}"
    );
    assert_eq!(made.head("refs/heads/main"), main);
}

#[test]
fn names_that_stand_in_each_others_way_are_a_conflict() {
    let made = Made::filled(true);
    let on = |branch: &str| NewCommit {
        branch: Some(branch.to_owned()),
        ..commit_of(vec![put("a", "1")])
    };
    made.write(&on("fix/one")).unwrap();
    for branch in ["fix", "fix/one/two"] {
        let refused = made.write(&on(branch));
        assert!(
            matches!(refused, Err(CodeError::Conflict { .. })),
            "{branch} {refused:?}"
        );
    }
    made.write(&on("fix/two")).unwrap();
}

#[test]
fn a_branch_begins_where_it_is_told_to() {
    let made = Made::filled(true);
    let main = made.head("refs/heads/main").unwrap();
    let main = ObjectId::from_hex(main.as_bytes()).unwrap();
    let only = made.git.write_blob("x").unwrap().detach();
    let tree = made.tree(&[("only", GitKind::Blob, only)]);
    made.commit("refs/heads/other", tree, &[main], 1500, "Other");
    let from = |base: &str| NewCommit {
        base: Some(base.to_owned()),
        ..commit_of(vec![put("a", "1")])
    };
    let unknown = made.write(&from("nowhere"));
    assert!(
        matches!(unknown, Err(CodeError::NotFound(_))),
        "{unknown:?}"
    );
    made.write(&from("other")).unwrap();
    assert_eq!(made.file("aither/bot/work", "only").unwrap().content, "x");
    assert!(made.file("aither/bot/work", "README.md").is_err());
}

#[test]
fn what_does_not_fit_the_tree_or_the_bounds_is_named() {
    let made = Made::filled(true);
    let many = (0..=FILES_MAX)
        .map(|n| put(&format!("f{n}"), "x"))
        .collect();
    let large = put("a", &"x".repeat(WRITTEN_FILE_BYTES_MAX + 1));
    // tidy: table
    let rows = [
        (vec![], "files"),
        (many, "files"),
        (vec![large], "files[0].content"),
        (
            vec![put("a", "1"), put(".git/config", "x")],
            "files[1].path",
        ),
        (vec![put("a", "1"), put("a", "2")], "files[1].path"),
        (vec![put("a/b", "1"), put("a", "2")], "files[0].path"),
        (vec![put("docs", "x")], "files[0].path"),
        (vec![put("README.md/x", "x")], "files[0].path"),
        (vec![put("link/x", "x")], "files[0].path"),
        (vec![put("sub", "x")], "files[0].path"),
        (vec![put("sub/x", "x")], "files[0].path"),
        (vec![delete("nowhere")], "files[0].path"),
        (vec![delete("docs")], "files[0].path"),
    ];
    for (files, field) in rows {
        let words = made.write(&commit_of(files)).unwrap_err();
        match &words {
            CodeError::Invalid { field: named, .. } => assert_eq!(named, field),
            other => panic!("{other:?}"),
        }
    }
    for message in ["", " \n", "a\0b", &"x".repeat(MESSAGE_BYTES_MAX + 1)] {
        let mut new = commit_of(vec![put("a", "1")]);
        new.message = message.to_owned();
        assert!(made.write(&new).is_err());
    }
    assert!(made.head("refs/heads/aither/bot/work").is_none());
}

#[test]
fn a_repository_without_a_commit_is_read_and_written_by_nobody() {
    let made = Made::new(true);
    assert!(matches!(
        made.file("HEAD", "a"),
        Err(CodeError::NotFound(_))
    ));
    let refused = made.write(&commit_of(vec![put("a", "1")])).unwrap_err();
    assert!(refused.to_string().contains("no commit yet"), "{refused}");
    let nothing = made.path.join("nothing");
    let query = CodeQuery::Branches { limit: 1 };
    assert!(matches!(read(&nothing, &query), Err(CodeError::Broken(_))));
}
