//! `aither-cli marketplace`: agents that are offered, as a table, and offering one.

use serde::Deserialize;

use crate::{
    args::calls::{MarketplaceArgs, MarketplaceCommand},
    client::{Client, Listing, MarketplaceItem, MarketplaceQuery},
    error::Error,
    render::{self, Column, Output, Table, or_dash},
};

/// Room for a sentence; `--json` has all of it.
const DESCRIPTION_WIDTH_MAX: usize = 48;

#[derive(Deserialize)]
struct List {
    items: Vec<MarketplaceItem>,
}

/// Shows what is offered, or changes it.
pub(crate) async fn run(
    client: &Client,
    output: &Output,
    args: &MarketplaceArgs,
    json: bool,
) -> Result<(), Error> {
    match &args.command {
        None => show(client, output, args, json).await,
        Some(MarketplaceCommand::List {
            name,
            price,
            description,
        }) => {
            let listing = Listing {
                agent: name,
                price_per_request: *price,
                description: description.as_deref(),
            };
            let answer = client.list_agent(&listing).await?;
            if json {
                return output.line(&answer.line());
            }
            let name = render::clip(name, 64);
            output.line(&format!("{name} is offered for {price} tokens a call"))
        }
        Some(MarketplaceCommand::Unlist { name }) => {
            client.unlist_agent(name).await?;
            if json {
                return output.line(&serde_json::json!({ "unlisted": name }).to_string());
            }
            let name = render::clip(name, 64);
            output.line(&format!("{name} is not offered any more"))
        }
    }
}

async fn show(
    client: &Client,
    output: &Output,
    args: &MarketplaceArgs,
    json: bool,
) -> Result<(), Error> {
    let query = MarketplaceQuery {
        words: args.query.as_deref(),
        category: args.category.as_deref(),
        sort: args.sort.as_str(),
    };
    let answer = client.marketplace(query).await?;
    if json {
        return output.line(&answer.line());
    }
    let list: List = answer.read("a list of offers")?;
    if list.items.is_empty() {
        render::remark(
            "nothing like that is offered; `marketplace list NAME --price N` offers one",
        );
        return Ok(());
    }
    output.piece(&table(&list.items))
}

fn table(items: &[MarketplaceItem]) -> String {
    let mut table = Table::new([
        Column::Text("NAME"),
        Column::Number("PRICE"),
        Column::Text("TIER"),
        Column::Text("STATE"),
        Column::Number("CALLS"),
        Column::Number("REPUTATION"),
        Column::Number("LATENCY"),
        Column::Text("DESCRIPTION"),
    ]);
    for item in items {
        let description = item.description.as_deref();
        table.push([
            item.name.clone(),
            or_dash(item.price_per_request.as_ref()),
            or_dash(item.category.as_deref()),
            or_dash(item.state.as_deref()),
            or_dash(item.calls),
            or_dash(item.reputation.map(|share| format!("{share:.2}"))),
            or_dash(item.latency_ms.map(|time| format!("{time:.0} ms"))),
            or_dash(description.map(|text| render::clip(text, DESCRIPTION_WIDTH_MAX))),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_shows_what_is_known_and_dashes_for_the_rest() {
        let items = r#"{"items": [
            {"name": "lyra", "price_per_request": 2.5, "category": "agent", "state": "LIVE",
             "calls": 12, "reputation": 0.93, "latency_ms": 12.4, "description": "Researches."},
            {"name": "b", "reputation": null}
        ], "next_cursor": null}"#;
        let list: List = serde_json::from_str(items).unwrap();
        assert_eq!(
            table(&list.items),
            "NAME  PRICE  TIER   STATE  CALLS  REPUTATION  LATENCY  DESCRIPTION\n\
             lyra    2.5  agent  LIVE      12        0.93    12 ms  Researches.\n\
             b         -  -      -          -           -        -  -\n"
        );
    }
}
