//! `aither-cli balance`, `usage` and `topup`: what there is to spend, what was, and adding to it.

use std::collections::BTreeMap;

use ulid::Ulid;

use crate::{
    args::{StatementArgs, TopUpArgs, UsageArgs},
    client::{Balance, Client, Payment, StatementItem, TopUp, Usage, UsageItem},
    error::Error,
    render::{self, Column, Output, Table, or_dash, printable},
};

/// What stands in the account's statement as the origin of the payment.
const REFERENCE: &str = "aither-cli";
/// Most entries that a node gives in one answer.
const ENTRIES_MAX: u32 = 500;

#[derive(serde::Deserialize)]
struct Statement {
    items: Vec<StatementItem>,
}

/// Shows the caller's balance.
pub(crate) async fn balance(client: &Client, output: &Output, json: bool) -> Result<(), Error> {
    let answer = client.balance().await?;
    if json {
        return output.line(&answer.line());
    }
    output.piece(&balance_text(&answer.read("a balance")?))
}

fn balance_text(balance: &Balance) -> String {
    let mut table = Table::new([
        Column::Number("TOKENS"),
        Column::Number("HELD"),
        Column::Number("GRANTED"),
        Column::Text("PLAN"),
        Column::Text("EXPIRES"),
    ]);
    table.push([
        balance.tokens.to_string(),
        or_dash(balance.held.as_ref()),
        or_dash(balance.granted.as_ref()),
        or_dash(balance.plan.as_deref()),
        balance
            .expires
            .clone()
            .unwrap_or_else(|| "never".to_owned()),
    ]);
    table.to_string()
}

/// Shows what the caller used in a period.
pub(crate) async fn usage(
    client: &Client,
    output: &Output,
    args: &UsageArgs,
    json: bool,
) -> Result<(), Error> {
    let answer = client.usage(&args.period).await?;
    if json {
        return output.line(&answer.line());
    }
    output.piece(&usage_text(&args.period, answer.read("a usage report")?))
}

fn usage_text(period: &str, usage: Usage) -> String {
    let mut sums = Table::new([
        Column::Text("PERIOD"),
        Column::Number("TOKENS"),
        Column::Number("REQUESTS"),
    ]);
    sums.push([
        period.to_owned(),
        usage.total_tokens.to_string(),
        usage.total_requests.to_string(),
    ]);
    let mut text = sums.to_string();
    for (what, parts) in [
        ("MODEL", by_tokens(usage.by_model)),
        ("AGENT", by_tokens(usage.by_agent)),
        ("DAY", usage.by_day.into_iter().collect()),
    ] {
        if !parts.is_empty() {
            text.push('\n');
            text.push_str(&parts_table(what, parts));
        }
    }
    text
}

/// Puts the dearest first.
fn by_tokens(parts: BTreeMap<String, UsageItem>) -> Vec<(String, UsageItem)> {
    let mut parts: Vec<_> = parts.into_iter().collect();
    parts.sort_by(|(_, a), (_, b)| {
        let (a, b) = (a.tokens.approximately(), b.tokens.approximately());
        b.total_cmp(&a)
    });
    parts
}

fn parts_table(what: &'static str, parts: Vec<(String, UsageItem)>) -> String {
    let mut table = Table::new([
        Column::Text(what),
        Column::Number("TOKENS"),
        Column::Number("REQUESTS"),
        Column::Number("PROMPT"),
        Column::Number("COMPLETION"),
    ]);
    for (name, item) in parts {
        table.push([
            // Requests that no agent made have the empty name.
            if name.is_empty() {
                "-".to_owned()
            } else {
                name
            },
            item.tokens.to_string(),
            item.requests.to_string(),
            item.prompt_tokens.to_string(),
            item.completion_tokens.to_string(),
        ]);
    }
    table.to_string()
}

/// Shows what came in and what went out.
pub(crate) async fn statement(
    client: &Client,
    output: &Output,
    args: &StatementArgs,
    json: bool,
) -> Result<(), Error> {
    // What was held stands between what was paid: twice as many entries have enough of those.
    let asked = match args.all {
        true => args.lines,
        false => args.lines.saturating_mul(2).min(ENTRIES_MAX),
    };
    let answer = client.statement(asked).await?;
    if json {
        return output.line(&answer.line());
    }
    let list: Statement = answer.read("a statement")?;
    let moves =
        |item: &StatementItem| args.all || item.kind == "posted" || item.kind == "transferred";
    let items: Vec<_> = list.items.into_iter().filter(moves).collect();
    let lines = usize::try_from(args.lines).unwrap_or(usize::MAX);
    if items.is_empty() {
        render::remark("nothing was paid yet");
        return Ok(());
    }
    output.piece(&statement_text(&items[..lines.min(items.len())]))
}

fn statement_text(items: &[StatementItem]) -> String {
    let mut table = Table::new([
        Column::Text("TIME"),
        Column::Number("TOKENS"),
        Column::Text("WITH"),
        Column::Text("FOR"),
        Column::Text("SPLIT"),
    ]);
    for item in items {
        let parts = item.split.iter();
        let parts: Vec<_> = parts
            .map(|part| format!("{} {}", part.amount, part.account))
            .collect();
        table.push([
            // To the second.
            item.time.chars().take(19).collect(),
            item.amount.to_string(),
            item.other.clone(),
            match item.kind.as_str() {
                "posted" | "transferred" => item.memo.clone(),
                kind => format!("{} ({kind})", item.memo),
            },
            parts.join(", "),
        ]);
    }
    table.to_string()
}

/// Adds tokens to an account.
pub(crate) async fn top_up(
    client: &Client,
    output: &Output,
    args: &TopUpArgs,
    json: bool,
) -> Result<(), Error> {
    let top_up = TopUp {
        account: &args.account,
        tokens: args.tokens,
        reference: REFERENCE,
    };
    let fresh_key = || Ulid::generate().to_string();
    let key = args.idempotency_key.clone().unwrap_or_else(fresh_key);
    let answer = client.top_up(&top_up, &key).await?;
    if json {
        return output.line(&answer.line());
    }
    let payment: Payment = answer.read("a balance after a payment")?;
    output.line(&format!(
        "added {} tokens to {}, which now has {}",
        args.tokens,
        printable(&args.account),
        payment.balance
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balance_is_one_row() {
        let balance = r#"{"tokens": -12.5, "balance": -12.5, "held": 0, "granted": 0,
                          "plan": "enterprise", "expires": null}"#;
        assert_eq!(
            balance_text(&serde_json::from_str(balance).unwrap()),
            "TOKENS  HELD  GRANTED  PLAN        EXPIRES\n \
             -12.5     0        0  enterprise  never\n"
        );
    }

    #[test]
    fn a_shared_payment_shows_who_has_which_part() {
        let items = r#"{"items": [
            {"time": "2026-01-01T00:00:00.123456Z", "kind": "posted", "amount": -3, "other": "node",
             "memo": "/v1/a2a/tasks", "split": [{"account": "01K", "amount": 2.4},
                                                {"account": "node", "amount": 0.6}]},
            {"time": "2026-01-01T00:00:00Z", "kind": "transferred", "amount": 1000,
             "other": "grants", "memo": "welcome"}
        ]}"#;
        let list: Statement = serde_json::from_str(items).unwrap();
        assert_eq!(
            statement_text(&list.items),
            "TIME                 TOKENS  WITH    FOR            SPLIT\n\
             2026-01-01T00:00:00      -3  node    /v1/a2a/tasks  2.4 01K, 0.6 node\n\
             2026-01-01T00:00:00    1000  grants  welcome\n"
        );
    }

    #[test]
    fn usage_has_the_dearest_first_and_days_in_their_order() {
        let usage = r#"{
            "total_tokens": 12.000001, "total_requests": 3,
            "by_model": {"a": {"tokens": 2, "requests": 1},
                         "b": {"tokens": 10.000001, "requests": 2, "prompt_tokens": 7}},
            "by_agent": {"": {"tokens": 12.000001, "requests": 3}},
            "by_day": {"2026-01-01": {"tokens": 2}, "2026-01-02": {"tokens": 10.000001}}
        }"#;
        let text = usage_text("30d", serde_json::from_str(usage).unwrap());
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines[1], ["30d", "12.000001", "3"]);
        assert_eq!(lines[4], ["b", "10.000001", "2", "7", "0"]);
        assert_eq!(lines[5], ["a", "2", "1", "0", "0"]);
        assert_eq!(lines[8], ["-", "12.000001", "3", "0", "0"]);
        assert_eq!(lines[11][0], "2026-01-01");
    }
}
