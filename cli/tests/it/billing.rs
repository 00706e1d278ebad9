//! Balance, usage and payments.

use crate::{
    answer, document, problem,
    support::{Canned, Cli, cli},
};

const PAID: &str = r#"{"balance": 8999999999.000001}"#;

fn top_up(server: &Canned) -> Cli {
    cli()
        .server(&server.url())
        .key("admin")
        .args(["topup", "0.000001", "--account", "01K3"])
}

fn key_of(request: &str) -> &str {
    let mut lines = request.lines();
    let key = lines.find_map(|line| line.strip_prefix("idempotency-key: "));
    key.unwrap_or_else(|| panic!("no key in {request}"))
}

#[test]
fn balance_is_a_table_and_json_is_untouched() {
    let body = "{\"tokens\": -8999999999.000001, \"balance\": -8999999999.000001,\n \
                \"held\": 0.5, \"granted\": 0, \"plan\": \"enterprise\", \"expires\": null}";
    let server = Canned::start_all(vec![document(body), document(body)]);
    let run = cli().server(&server.url()).arg("balance").run();
    assert_eq!(run.code, 0, "{}", run.stderr);
    let cells: Vec<&str> = run
        .stdout
        .lines()
        .nth(1)
        .unwrap()
        .split_whitespace()
        .collect();
    assert_eq!(
        cells,
        ["-8999999999.000001", "0.5", "0", "enterprise", "never"]
    );
    let run = cli()
        .server(&server.url())
        .args(["balance", "--json"])
        .run();
    assert_eq!(run.stdout, body.replace('\n', " ") + "\n");
}

#[test]
fn usage_asks_for_the_period() {
    let body = r#"{"total_tokens": 3.5, "total_requests": 2, "by_agent": {},
                   "by_model": {"smollm2:135m": {"tokens": 3.5, "requests": 2}}, "by_day": {}}"#;
    let server = Canned::start_all(vec![document(body), document(body)]);
    for (arguments, period) in [(&[][..], "30d"), (&["--period", "24h"], "24h")] {
        let mut command = cli().server(&server.url()).arg("usage");
        for argument in arguments {
            command = command.arg(argument);
        }
        let run = command.run();
        assert_eq!(run.code, 0, "{}", run.stderr);
        let sums: Vec<&str> = run
            .stdout
            .lines()
            .nth(1)
            .unwrap()
            .split_whitespace()
            .collect();
        assert_eq!(sums, [period, "3.5", "2"]);
        assert!(run.stdout.contains("\nsmollm2:135m  "), "{}", run.stdout);
        let request = server.request();
        assert!(
            request.starts_with(&format!("GET /v1/billing/usage?period={period} ")),
            "{request}"
        );
    }
}

#[test]
fn payment_is_sent_to_the_last_digit() {
    let server = Canned::start(&document(PAID));
    let run = top_up(&server).run();
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (
            0,
            "added 0.000001 tokens to 01K3, which now has 8999999999.000001\n"
        )
    );
    let request = server.request();
    assert!(request.starts_with("POST /v1/billing/topup "), "{request}");
    assert!(
        request.ends_with(r#"{"account":"01K3","tokens":0.000001,"reference":"aither-cli"}"#),
        "{request}"
    );
}

#[test]
fn broken_payment_is_tried_again_under_the_same_key() {
    let in_flight = answer("409 Conflict", "retry-after: 0\r\n", "{}");
    let server = Canned::start_all(vec![String::new(), in_flight, document(PAID)]);
    let run = top_up(&server).run();
    assert_eq!(run.code, 0, "{}", run.stderr);
    let first = server.request();
    assert!(key_of(&first).len() == 26, "{first}");
    for request in [server.request(), server.request()] {
        assert_eq!(key_of(&request), key_of(&first));
    }
}

#[test]
fn two_payments_have_two_keys() {
    let server = Canned::start_all(vec![document(PAID), document(PAID)]);
    for _ in 0..2 {
        assert_eq!(top_up(&server).run().code, 0);
    }
    let (first, second) = (server.request(), server.request());
    assert_ne!(key_of(&first), key_of(&second));
}

#[test]
fn payment_that_nobody_can_tell_of_names_its_key() {
    let server = Canned::start_all(vec![String::new(); 3]);
    let run = top_up(&server).run();
    assert_eq!(run.code, 1);
    let request = server.request();
    let remedy = format!("--idempotency-key {}", key_of(&request));
    assert!(run.stderr.contains(&remedy), "{}", run.stderr);
    let again = Canned::start(&document(PAID));
    let run = top_up(&again)
        .args(["--idempotency-key", key_of(&request)])
        .run();
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(key_of(&again.request()), key_of(&request));
}

#[test]
fn refused_payment_is_not_tried_again() {
    let refused = problem("403 Forbidden", "only the operator may", "forbidden");
    let server = Canned::start_all(vec![refused, document(PAID)]);
    let run = top_up(&server).run();
    assert_eq!(run.code, 1);
    assert_eq!(run.stderr, "error: only the operator may (forbidden)\n");
    server.request();
    assert!(!server.was_asked());
}

#[test]
fn amounts_that_are_none_are_bad_usage() {
    for amount in ["0", "-1", "1e-7", "nine"] {
        let run = cli().args(["topup", amount]).run();
        assert_eq!(run.code, 2, "{amount}: {}", run.stderr);
    }
}
