//! Workspaces and artifacts on a real disk, with links and leftovers placed by hand.

use std::{fs, io::Read, path::PathBuf, sync::Arc};

use serde_json::{Map, json};
use ulid::Ulid;

use super::*;

const ACCOUNT: u128 = 7;
const AGENT: Holder = Holder::Agent(9);

struct Disk {
    dir: tempfile::TempDir,
    usage: Arc<Usage>,
    workspaces: WorkspaceStore,
    artifacts: ArtifactStore,
}

impl Disk {
    fn new() -> Self {
        Self::at(tempfile::tempdir().unwrap())
    }

    fn at(dir: tempfile::TempDir) -> Self {
        let usage = Arc::new(Usage::default());
        let path = dir.path().join("workspaces");
        let owner_of = |agent| (agent == 9).then_some(ACCOUNT);
        let workspaces = WorkspaceStore::open(&path, Arc::clone(&usage), owner_of).unwrap();
        let artifacts = dir.path().join("artifacts");
        let artifacts = ArtifactStore::open(&artifacts, Arc::clone(&usage)).unwrap();
        Self {
            dir,
            usage,
            workspaces,
            artifacts,
        }
    }

    fn again(self) -> Self {
        Self::at(self.dir)
    }

    /// Where a file of the agent lies.
    fn on_disk(&self, path: &str) -> PathBuf {
        let folder = self.dir.path().join("workspaces").join(AGENT.folder());
        folder.join(path)
    }

    fn write(&self, path: &str, data: &[u8]) -> Result<u64, FilesError> {
        self.put(path, data, false)
    }

    fn append(&self, path: &str, data: &[u8]) -> Result<u64, FilesError> {
        self.put(path, data, true)
    }

    fn put(&self, path: &str, data: &[u8], append: bool) -> Result<u64, FilesError> {
        let path = FilePath::parse(path)?;
        let file = WriteFile {
            path: &path,
            data,
            append,
        };
        self.workspaces.write((AGENT, payer(100, 100)), &file)
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, FilesError> {
        let piece = self
            .workspaces
            .read(AGENT, &FilePath::parse(path)?, (0, 1000))?;
        Ok(piece.data)
    }

    fn delete(&self, path: &str) -> Result<(), FilesError> {
        self.workspaces.delete(AGENT, &FilePath::parse(path)?)
    }

    fn names(&self, wanted: &ListFiles) -> Vec<String> {
        let found = self.workspaces.list(AGENT, wanted).unwrap();
        found
            .files
            .iter()
            .map(|file| file.path.to_string())
            .collect()
    }

    fn used(&self) -> (u64, u64) {
        let used = self.usage.of(ACCOUNT);
        (used.bytes, used.entries)
    }

    fn store(&self, holder: Holder, data: &[u8]) -> Result<Arc<Artifact>, FilesError> {
        let mut writer = self.artifacts.begin((holder, payer(100, 100)), (0, 50))?;
        writer.write(data)?;
        writer.finish((Ulid::generate(), 5), draft())
    }

    /// Whether nothing is left of files that were begun.
    fn is_tidy(&self) -> bool {
        let left = |root: &str| fs::read_dir(self.dir.path().join(root).join(".tmp")).unwrap();
        left("workspaces").count() + left("artifacts").count() == 0
    }
}

fn payer(bytes: u64, entries: u64) -> Payer {
    Payer {
        account: ACCOUNT,
        quota: Quota { bytes, entries },
    }
}

fn draft() -> ArtifactDraft {
    ArtifactDraft {
        name: "a.txt".into(),
        content_type: "text/plain".into(),
        public: false,
        metadata: Map::from_iter([("k".to_owned(), json!(1))]),
    }
}

fn all() -> ListFiles {
    ListFiles {
        recursive: true,
        limit: 100,
        ..ListFiles::default()
    }
}

fn is_unfit<T: std::fmt::Debug>(done: Result<T, FilesError>, word: &str) -> bool {
    let error = done.unwrap_err();
    assert!(matches!(error, FilesError::Unfit { .. }), "{error}");
    error.to_string().contains(word)
}

#[test]
fn what_is_written_is_read_and_counted_now_and_after_a_start() {
    let disk = Disk::new();
    assert_eq!(disk.write("data/a/b.txt", b"four").unwrap(), 4);
    assert_eq!(disk.read("data/a/b.txt").unwrap(), b"four");
    assert_eq!(disk.used(), (4, 2));
    assert_eq!(disk.write("data/a/b.txt", b"longer").unwrap(), 6);
    assert_eq!(disk.append("data/a/b.txt", b"!").unwrap(), 7);
    assert_eq!(disk.append("logs/new", b"1").unwrap(), 1);
    assert_eq!(disk.used(), (8, 3));
    let disk = disk.again();
    assert_eq!(disk.used(), (8, 3));
    assert_eq!(disk.read("data/a/b.txt").unwrap(), b"longer!");
    disk.delete("data/a/b.txt").unwrap();
    disk.delete("logs/new").unwrap();
    assert_eq!(disk.used(), (0, 0));
    assert!(!disk.on_disk("data/a").exists() && disk.on_disk("data").exists());
    let missing = disk.read("data/a/b.txt").unwrap_err();
    assert!(matches!(missing, FilesError::NotFound { .. }));
    assert!(disk.is_tidy());
}

#[test]
fn a_piece_of_a_file_is_read_alone() {
    let disk = Disk::new();
    disk.write("a", b"0123456789").unwrap();
    let path = FilePath::parse("a").unwrap();
    let piece = disk.workspaces.read(AGENT, &path, (3, 4)).unwrap();
    assert_eq!((piece.data.as_slice(), piece.size), (&b"3456"[..], 10));
    let behind = disk.workspaces.read(AGENT, &path, (30, 4)).unwrap();
    assert!(behind.data.is_empty());
    let beyond = disk.workspaces.read(AGENT, &path, (u64::MAX, 4)).unwrap();
    assert_eq!((beyond.data.len(), beyond.size), (0, 10));
}

#[test]
fn lists_are_in_the_order_of_paths_and_go_on_behind_any() {
    let disk = Disk::new();
    for path in ["b", "a/z", "a.txt", "a/b/c", "logs/l"] {
        disk.write(path, b"1").unwrap();
    }
    assert_eq!(disk.names(&all()), ["a/b/c", "a/z", "a.txt", "b", "logs/l"]);
    let two = ListFiles {
        limit: 2,
        after: Some(FilePath::parse("a/z").unwrap()),
        ..all()
    };
    assert_eq!(disk.names(&two), ["a.txt", "b"]);
    assert_eq!(disk.workspaces.list(AGENT, &two).unwrap().total, 5);
    let flat = ListFiles {
        recursive: false,
        ..all()
    };
    assert_eq!(disk.names(&flat), ["a.txt", "b"]);
    let inner = ListFiles {
        folder: Some(FilePath::parse("a").unwrap()),
        ..all()
    };
    assert_eq!(disk.names(&inner), ["a/b/c", "a/z"]);
    let of_nobody = |folder: &str| {
        let wanted = ListFiles {
            folder: FilePath::parse(folder).ok(),
            ..all()
        };
        let found = disk.workspaces.list(Holder::Agent(1), &wanted);
        found.map(|found| found.total)
    };
    assert_eq!((of_nobody(""), of_nobody("data")), (Ok(0), Ok(0)));
    assert!(of_nobody("other").is_err());
}

#[test]
fn what_goes_beyond_the_quota_is_refused_and_leaves_nothing() {
    let disk = Disk::new();
    disk.write("a", &[0; 60]).unwrap();
    for _ in 0..2 {
        let refused = disk.write("b", &[0; 41]).unwrap_err();
        assert!(matches!(
            refused,
            FilesError::QuotaExceeded { used: 60, .. }
        ));
        assert!(disk.append("a", &[0; 41]).is_err());
    }
    assert!(disk.store(AGENT, &[0; 41]).is_err());
    assert_eq!(disk.used(), (60, 1));
    assert!(disk.is_tidy() && disk.names(&all()) == ["a"]);
}

#[test]
fn a_write_that_is_refused_makes_no_folders() {
    let disk = Disk::new();
    let path = FilePath::parse("a/b/c/d").unwrap();
    let file = WriteFile {
        path: &path,
        data: b"1",
        append: false,
    };
    // Room for the file and for two of its three folders.
    let refused = disk.workspaces.write((AGENT, payer(100, 3)), &file);
    assert!(matches!(refused, Err(FilesError::QuotaExceeded { .. })));
    assert!(!disk.on_disk("a").exists());
    assert_eq!(disk.used(), (0, 0));
    disk.workspaces
        .write((AGENT, payer(100, 4)), &file)
        .unwrap();
    assert_eq!(disk.used(), (1, 4));
}

#[test]
fn no_account_takes_all_places_of_artifacts() {
    let folder = tempfile::tempdir().unwrap();
    let open = || ArtifactStore::open_for(folder.path(), Arc::default(), 16).unwrap();
    let begin = |store: &ArtifactStore, account| {
        let payer = Payer {
            account,
            ..payer(100, 100)
        };
        store.begin((Holder::Account(account), payer), (1, 1))
    };
    let store = open();
    let first = begin(&store, 7).unwrap();
    let kept = first.finish((Ulid::generate(), 5), draft()).unwrap();
    let coming = begin(&store, 7).unwrap();
    let refused = begin(&store, 7).unwrap_err();
    assert_eq!(refused, FilesError::TooManyOfAccount(2));
    begin(&store, 8).unwrap();
    // Places come free with what takes them, and are counted anew after a start.
    drop(coming);
    let second = begin(&store, 7).unwrap();
    second.finish((Ulid::generate(), 5), draft()).unwrap();
    drop(store);
    let store = open();
    assert!(begin(&store, 7).is_err());
    store.delete(&store.get(kept.id).unwrap()).unwrap();
    begin(&store, 7).unwrap();
}

#[cfg(unix)]
#[test]
fn what_somebody_placed_by_hand_does_not_keep_the_node_from_starting() {
    use std::os::unix::fs::symlink;
    let disk = Disk::new();
    let (linked, plain) = (
        disk.store(AGENT, b"1").unwrap(),
        disk.store(AGENT, b"2").unwrap(),
    );
    let artifacts = disk.dir.path().join("artifacts");
    let folder = artifacts.join(AGENT.folder());
    let about = folder.join(format!("{}.json", linked.id));
    fs::hard_link(&about, disk.dir.path().join("copy")).unwrap();
    // A folder where bytes should be, and links where folders of holders should.
    fs::create_dir(folder.join(Ulid::generate().to_string())).unwrap();
    symlink(&folder, artifacts.join(Holder::Agent(1).folder())).unwrap();
    let workspaces = disk.dir.path().join("workspaces");
    symlink(&folder, workspaces.join(Holder::Agent(1).folder())).unwrap();
    let disk = disk.again();
    assert!(disk.artifacts.get(linked.id).is_none());
    assert!(disk.artifacts.get(plain.id).is_some());
    assert!(about.exists());
}

#[test]
fn a_file_is_no_folder_and_a_folder_no_file() {
    let disk = Disk::new();
    disk.write("a/b", b"1").unwrap();
    assert!(is_unfit(disk.write("a/b/c", b"1"), "file"));
    assert!(is_unfit(disk.write("a", b"1"), "folder"));
    assert!(is_unfit(disk.read("data"), "folder"));
    assert!(is_unfit(disk.delete("a"), "folder"));
    assert_eq!(disk.used(), (1, 2));
}

#[cfg(unix)]
#[test]
fn links_and_special_files_that_somebody_placed_are_not_followed() {
    use std::os::unix::{fs::symlink, net::UnixListener};
    let disk = Disk::new();
    disk.write("data/own", b"own").unwrap();
    let secret = disk.dir.path().join("secret");
    fs::write(&secret, b"secret").unwrap();
    symlink(&secret, disk.on_disk("data/file")).unwrap();
    symlink(disk.dir.path(), disk.on_disk("data/folder")).unwrap();
    symlink("own", disk.on_disk("data/inner")).unwrap();
    symlink("nowhere", disk.on_disk("data/dangling")).unwrap();
    fs::hard_link(&secret, disk.on_disk("data/hard")).unwrap();
    let _socket = UnixListener::bind(disk.on_disk("data/socket")).unwrap();
    for name in ["file", "inner", "dangling", "hard", "socket"] {
        let path = format!("data/{name}");
        let word = match name {
            "hard" => "hard link",
            "socket" => "no regular file",
            _ => "link",
        };
        assert!(is_unfit(disk.read(&path), word), "{name}");
        assert!(is_unfit(disk.write(&path, b"changed"), word), "{name}");
        assert!(is_unfit(disk.append(&path, b"changed"), word), "{name}");
        assert!(is_unfit(disk.delete(&path), word), "{name}");
    }
    assert!(is_unfit(disk.read("data/folder/secret"), "link"));
    assert!(is_unfit(disk.write("data/folder/new", b"1"), "link"));
    let inner = ListFiles {
        folder: Some(FilePath::parse("data/folder").unwrap()),
        ..all()
    };
    assert!(is_unfit(disk.workspaces.list(AGENT, &inner), "link"));
    // A file of several names is listed, since it lies there; what links lead to is not.
    assert_eq!(disk.names(&all()), ["data/hard", "data/own"]);
    assert_eq!(fs::read(&secret).unwrap(), b"secret");
    assert!(!disk.dir.path().join("new").exists());
    let disk = disk.again();
    disk.workspaces.remove(AGENT).unwrap();
    assert_eq!(fs::read(&secret).unwrap(), b"secret");
}

#[cfg(unix)]
#[test]
fn a_workspace_that_is_a_link_is_not_followed() {
    let disk = Disk::new();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("a"), b"1").unwrap();
    std::os::unix::fs::symlink(outside.path(), disk.on_disk("")).unwrap_err();
    let folder = disk.dir.path().join("workspaces").join(AGENT.folder());
    std::os::unix::fs::symlink(outside.path(), folder).unwrap();
    assert!(is_unfit(disk.read("a"), "link"));
    assert!(is_unfit(disk.write("b", b"1"), "link"));
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[test]
fn what_was_not_finished_is_gone_after_a_start() {
    let disk = Disk::new();
    disk.write("a", b"1").unwrap();
    let kept = disk.store(AGENT, b"kept").unwrap();
    fs::write(disk.dir.path().join("workspaces/.tmp/5"), b"half").unwrap();
    fs::create_dir(disk.dir.path().join("workspaces/.tmp/6")).unwrap();
    let folder = disk.dir.path().join("artifacts").join(AGENT.folder());
    let cut_off = folder.join(Ulid::generate().to_string());
    fs::write(&cut_off, b"without a word").unwrap();
    let disk = disk.again();
    assert!(disk.is_tidy() && !cut_off.exists());
    assert_eq!(disk.used(), (5, 3));
    assert_eq!(disk.artifacts.get(kept.id).unwrap(), kept);
}

#[test]
fn nothing_comes_back_of_a_holder_who_has_left() {
    let disk = Disk::new();
    disk.write("a/b", b"1").unwrap();
    disk.store(AGENT, b"1").unwrap();
    let other = disk.store(Holder::Account(ACCOUNT), b"1").unwrap();
    let mut under_way = disk
        .artifacts
        .begin((AGENT, payer(100, 100)), (0, 50))
        .unwrap();
    under_way.write(b"1").unwrap();
    disk.workspaces.remove(AGENT).unwrap();
    disk.artifacts.remove(AGENT).unwrap();
    assert_eq!(disk.write("a/b", b"1"), Err(FilesError::Gone));
    assert_eq!(disk.append("a/b", b"1"), Err(FilesError::Gone));
    let late = under_way.finish((Ulid::generate(), 5), draft());
    assert_eq!(late, Err(FilesError::Gone));
    assert!(disk.is_tidy() && !disk.on_disk("").exists());
    let left = disk.artifacts.list(ACCOUNT, None, 10);
    assert_eq!(left, [other]);
    assert_eq!(disk.used(), (1, 2));
}

#[test]
fn artifacts_are_found_by_number_and_listed_by_account() {
    let disk = Disk::new();
    let one = disk.store(AGENT, b"one").unwrap();
    let two = disk.store(Holder::Account(ACCOUNT), b"two").unwrap();
    let hash = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed";
    assert_eq!(&*one.sha256, hash);
    let mut ids = [one.id, two.id];
    ids.sort_unstable();
    let listed = |after, limit| -> Vec<_> {
        let found = disk.artifacts.list(ACCOUNT, after, limit);
        found.iter().map(|artifact| artifact.id).collect()
    };
    assert_eq!(listed(None, 5), ids);
    assert_eq!(listed(Some(ids[0]), 5), ids[1..]);
    assert_eq!(listed(None, 1), ids[..1]);
    assert!(disk.artifacts.list(8, None, 5).is_empty());
    let mut bytes = String::new();
    let mut file = disk.artifacts.open_bytes(&one).unwrap();
    file.read_to_string(&mut bytes).unwrap();
    assert_eq!(bytes, "one");
    assert_eq!(disk.artifacts.metadata(&one).unwrap()["k"], 1);
    disk.artifacts.delete(&one).unwrap();
    assert!(disk.artifacts.delete(&one).is_err());
    assert!(disk.artifacts.open_bytes(&one).is_err());
    assert_eq!(disk.used(), (3, 2));
}

#[test]
fn an_artifact_has_a_largest_size_and_one_that_is_dropped_leaves_nothing() {
    let disk = Disk::new();
    let mut writer = disk
        .artifacts
        .begin((AGENT, payer(100, 100)), (0, 10))
        .unwrap();
    writer.write(&[0; 10]).unwrap();
    let refused = writer.write(&[0]).unwrap_err();
    assert_eq!(refused, FilesError::TooLarge { bytes_max: 10 });
    drop(writer);
    assert!(disk.is_tidy() && disk.used() == (0, 0));
}

#[test]
fn an_artifact_has_the_room_that_was_announced_until_it_is_there() {
    let disk = Disk::new();
    let begin = |announced| {
        let whose = (AGENT, payer(100, 100));
        disk.artifacts.begin(whose, (announced, 90))
    };
    let mut writer = begin(60).unwrap();
    assert_eq!(disk.used(), (60, 2));
    assert!(begin(41).is_err());
    writer.write(&[0; 50]).unwrap();
    assert_eq!(disk.used(), (60, 2));
    writer.write(&[0; 20]).unwrap();
    assert_eq!(disk.used(), (70, 2));
    drop(writer);
    // No more than one may have is taken, and what was not needed is given back.
    let mut writer = begin(1 << 40).unwrap();
    assert_eq!(disk.used(), (90, 2));
    writer.write(&[0; 5]).unwrap();
    writer.finish((Ulid::generate(), 5), draft()).unwrap();
    assert_eq!(disk.used(), (5, 2));
}

#[test]
fn an_artifact_that_has_changed_is_found_by_the_check() {
    let disk = Disk::new();
    let artifact = disk.store(AGENT, b"one").unwrap();
    let path = disk.dir.path().join("artifacts");
    assert_eq!(ArtifactStore::check(&path).unwrap(), 1);
    let bytes = path.join(AGENT.folder()).join(artifact.id.to_string());
    fs::write(bytes, b"two").unwrap();
    let error = ArtifactStore::check(&path).unwrap_err();
    assert!(error.to_string().contains("checksum"), "{error}");
}

#[test]
fn many_who_write_at_once_stay_within_the_quota_and_are_counted_right() {
    let disk = Disk::new();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let disk = &disk;
            scope.spawn(move || {
                for number in 0..30 {
                    let path = format!("d{}/{}", number % 3, (worker + number) % 5);
                    let done = match number % 4 {
                        3 => disk.delete(&path),
                        1 => disk.append(&path, b"12345678").map(|_| ()),
                        _ => disk.write(&path, b"1234567890").map(|_| ()),
                    };
                    assert!(disk.used().0 <= 100);
                    let is_foreseen = |error: &FilesError| {
                        use FilesError::{NotFound, QuotaExceeded};
                        matches!(error, NotFound { .. } | QuotaExceeded { .. })
                    };
                    assert!(done.as_ref().err().is_none_or(is_foreseen), "{done:?}");
                }
            });
        }
    });
    let used = disk.used();
    let disk = disk.again();
    assert_eq!(disk.used(), used);
}
