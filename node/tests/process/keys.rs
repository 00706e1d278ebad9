//! `key`, and the two key files.

use std::fs;

use crate::support::{Home, mode_of};

fn peer_id(text: &str) -> &str {
    let id = text
        .lines()
        .next()
        .unwrap()
        .trim_start_matches("peer id")
        .trim();
    assert!(id.starts_with("12D3KooW"), "{text}");
    id
}

#[test]
fn the_first_start_makes_both_keys_for_their_owner_alone() {
    let home = Home::new();
    let node = home.start(&[]);
    let admin_key = fs::read_to_string(home.data_dir().join("admin.key")).unwrap();
    assert!(admin_key.starts_with("aither_admin_"));
    assert!(admin_key.len() > 40 && admin_key.bytes().all(|byte| byte.is_ascii_graphic()));
    assert_eq!(mode_of(&home.data_dir().join("admin.key")), 0o600);
    assert_eq!(mode_of(&home.data_dir().join("identity.key")), 0o600);
    assert_eq!(mode_of(&home.data_dir()), 0o700);
    let shown = home.output(&["key", "show"]);
    assert_eq!(
        node.info().unwrap()["peer_id"],
        peer_id(shown.assert_done())
    );
    node.stop();

    let again = home.start(&[]);
    assert_eq!(again.info().unwrap()["peer_id"], peer_id(&shown.out));
    assert_eq!(
        fs::read_to_string(home.data_dir().join("admin.key")).unwrap(),
        admin_key
    );
    again.stop();
}

#[test]
fn keys_that_others_can_read_are_warned_about() {
    let home = Home::new();
    home.output(&["key", "show"]).assert_done();
    let path = home.data_dir().join("identity.key");
    let mut permissions = fs::metadata(&path).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
    fs::set_permissions(&path, permissions).unwrap();
    let outcome = home.output(&["key", "show"]);
    outcome.assert_done();
    assert!(outcome.errors.contains("chmod 600"), "{outcome:?}");
}

#[test]
fn an_identity_moves_by_export_and_import() {
    let (old, new) = (Home::new(), Home::new());
    let shown = old.output(&["key", "show"]);
    let file = old.path("exported.pem");
    let exported = file.to_str().unwrap();
    old.output(&["key", "export", exported]).assert_done();
    assert_eq!(mode_of(&file), 0o600);
    let pem = fs::read_to_string(&file).unwrap();
    assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----\n"));
    assert_eq!(old.output(&["key", "export"]).assert_done(), pem);
    old.output(&["key", "export", exported])
        .assert_refused(2, "--force");

    new.output(&["key", "import", exported]).assert_done();
    assert_eq!(
        new.output(&["key", "show"]).assert_done(),
        shown.assert_done()
    );
    assert_eq!(mode_of(&new.data_dir().join("identity.key")), 0o600);
    // The same key once more is no loss.
    new.output(&["key", "import", exported]).assert_done();
}

#[test]
fn an_import_never_replaces_another_identity_unasked() {
    let (old, new) = (Home::new(), Home::new());
    old.output(&["key", "export", old.path("k.pem").to_str().unwrap()])
        .assert_done();
    let mine = new.output(&["key", "show"]);
    let file = old.path("k.pem");
    let import = ["key", "import", file.to_str().unwrap()];
    new.output(&import).assert_refused(2, "another identity");
    assert_eq!(new.output(&["key", "show"]).out, mine.out);
    let mut forced = import.to_vec();
    forced.push("--force");
    new.output(&forced).assert_done();
    assert_eq!(
        new.output(&["key", "show"]).out,
        old.output(&["key", "show"]).out
    );
}

#[test]
fn a_running_node_keeps_its_identity() {
    let home = Home::new();
    let node = home.start(&[]);
    let file = home.path("k.pem");
    home.output(&["key", "export", file.to_str().unwrap()])
        .assert_done();
    let outcome = home.output(&["key", "import", file.to_str().unwrap(), "--force"]);
    outcome.assert_refused(3, &format!("process {}", node.child.id()));
    node.stop();
}

#[test]
fn files_that_are_no_key_are_refused() {
    let home = Home::new();
    let file = home.path("k.pem");
    let rsa = "-----BEGIN PRIVATE KEY-----\nMIIBVQIBADANBgkqhkiG\n-----END PRIVATE KEY-----\n";
    for text in ["", "nonsense", rsa, &"x".repeat(100_000)] {
        fs::write(&file, text).unwrap();
        let outcome = home.output(&["key", "import", file.to_str().unwrap()]);
        assert!(!outcome.errors.contains("backup"), "{outcome:?}");
        // The store is whole, so never 4.
        outcome.assert_refused(if text.len() > 1000 { 1 } else { 2 }, "k.pem");
    }
    home.output(&["key", "import", "/no/such/key"])
        .assert_refused(2, "/no/such/key");
    assert!(!home.data_dir().join("identity.key").exists());
}

#[test]
fn a_corrupt_identity_stops_the_start_with_code_4() {
    let home = Home::new();
    home.output(&["key", "show"]).assert_done();
    fs::write(home.data_dir().join("identity.key"), "nonsense").unwrap();
    home.output(&["run", "--http", "127.0.0.1:0"])
        .assert_refused(4, "identity.key");
    home.output(&["check"]).assert_refused(4, "identity.key");
}
