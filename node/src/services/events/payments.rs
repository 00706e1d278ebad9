//! Payments as events: what an account was charged, has earned or has bought, told to it alone.

use aither_ledger::AccountId;
use serde_json::json;

use super::{Audience, EventService, NodeEvent};
use crate::billing::{Billing, Moved};

impl EventService {
    /// Has every payment told from now on. It is called on the ledger's thread, and only puts
    /// something into a queue.
    pub fn follow_payments(&self, billing: &Billing) {
        let events = self.clone();
        billing.listen(move |moved| {
            for event in events_of(moved) {
                events.note(event);
            }
        });
    }
}

/// Returns what there is to tell of a payment: one event for each account that it is about.
fn events_of(moved: &Moved) -> Vec<NodeEvent> {
    let id = ulid::Ulid(moved.id.0).to_string();
    let event = |name: &str, account: AccountId, agent: Option<&str>, data| NodeEvent {
        name: name.to_owned(),
        agent: agent.map(str::to_owned),
        audience: Audience::Accounts(vec![account]),
        data,
    };
    if moved.is_top_up {
        let data = json!({ "amount": moved.amount, "reference": moved.route, "id": id });
        return vec![event("billing.topup", moved.account, None, data)];
    }
    // Who has asked is the payer's to know.
    let agent = Some(&*moved.agent).filter(|agent| !agent.is_empty());
    let data = json!({
        "amount": moved.amount,
        "route": moved.route,
        "agent": agent,
        "id": id,
    });
    let mut events = vec![event("billing.charged", moved.account, agent, data)];
    for share in &moved.shares {
        let data = json!({ "amount": share.amount, "route": moved.route, "id": id });
        events.push(event("billing.earned", share.account, None, data));
    }
    events
}

#[cfg(test)]
mod tests {
    use aither_ledger::{Share, TransferId};
    use aither_protocol::Amount;

    use super::*;

    #[test]
    fn each_account_is_told_its_own_part() {
        let moved = Moved {
            id: TransferId(7),
            account: AccountId(10),
            amount: Amount::from_tokens(5),
            route: "/v1/agents/{name}/call".into(),
            agent: "asker".into(),
            shares: vec![Share {
                account: AccountId(20),
                amount: Amount::from_tokens(4),
            }],
            is_top_up: false,
        };
        let [charged, earned] = &events_of(&moved)[..] else {
            panic!("two are told");
        };
        assert_eq!(charged.name, "billing.charged");
        assert_eq!(charged.audience, Audience::Accounts(vec![AccountId(10)]));
        assert_eq!(charged.agent.as_deref(), Some("asker"));
        assert_eq!(charged.data["amount"], 5);
        assert_eq!(earned.name, "billing.earned");
        assert_eq!(earned.audience, Audience::Accounts(vec![AccountId(20)]));
        assert_eq!(earned.data["amount"], 4);
        assert_eq!(earned.data["id"], charged.data["id"]);
        // Who has paid is not told to who has earned.
        assert!(!earned.data.to_string().contains("asker"));
        let bought = Moved {
            is_top_up: true,
            shares: Vec::new(),
            route: "invoice 3".into(),
            ..moved
        };
        let [told] = &events_of(&bought)[..] else {
            panic!("one is told");
        };
        assert_eq!(
            (&*told.name, &told.data["reference"]),
            ("billing.topup", &json!("invoice 3"))
        );
    }
}
