//! The account database at the start and under `check`.

use std::fs;

use super::support::{Home, mode_of};

#[test]
fn the_account_database_is_made_at_the_first_start_and_checked() {
    let home = Home::new();
    let node = home.start(&[]);
    let file = home.data_dir().join("accounts.redb");
    assert_eq!(mode_of(&file), 0o600);
    node.stop();
    let checked = home.output(&["check"]);
    assert!(checked.assert_done().contains("accounts   0 good"));
}

#[test]
fn a_corrupt_account_database_stops_the_start_with_code_4() {
    let home = Home::new();
    home.start(&[]).stop();
    let file = home.data_dir().join("accounts.redb");
    let good = fs::read(&file).unwrap();
    let mut torn = good.clone();
    torn.truncate(good.len() / 2);
    let mut flipped = good.clone();
    flipped[4096..8192].fill(0xff);
    for bytes in [&b"nonsense"[..], &torn, &flipped] {
        fs::write(&file, bytes).unwrap();
        home.output(&["run", "--http", "127.0.0.1:0"])
            .assert_refused(4, "accounts.redb");
        home.output(&["check"]).assert_refused(4, "accounts.redb");
        assert_eq!(fs::read(&file).unwrap(), bytes, "nothing is repaired away");
    }
}

#[test]
fn an_account_database_that_cannot_be_opened_is_told_in_one_line() {
    let home = Home::new();
    home.output(&["key", "show"]).assert_done();
    fs::create_dir(home.data_dir().join("accounts.redb")).unwrap();
    home.output(&["run", "--http", "127.0.0.1:0"])
        .assert_refused(1, "accounts.redb");
}
