//! One call from end to end: who is called, what is held, whose turn it is, what is paid.

use std::{collections::VecDeque, sync::Arc};

use aither_ledger::{Note, TransferId, Usage};
use aither_protocol::Amount;
use tokio::time::{Instant, timeout_at};

use super::{
    super::{CallEnd, Unavailable},
    CANDIDATES_MAX, CANDIDATES_TRIED, CallAnswer, CallError, CallEvent, CallFailure, CallRequest,
    Callee, HOPS_MAX, Shared, Sink, What,
    exchange::{Broken, Exchange, Exchanged, Patience, url_of},
    task::{Sold, Task},
};
use crate::{
    agents::{Agent, AgentFilter, AgentState},
    billing::{BillingError, Funds, Spending, now},
    calls::{
        TaskRecord, TaskStatus,
        choose::{Candidate, ranked},
        message::Reading,
        record::{KeptResult, RESULT_BYTES_MAX},
        target::{Route, Target},
    },
};

/// Agents that may be called, the best first, and why they are.
struct Plan {
    offers: VecDeque<Offer>,
    reason: String,
}

/// An agent at its price when it was asked for, whatever becomes of that meanwhile.
struct Offer {
    agent: Arc<Agent>,
    price: Amount,
}

/// An agent that can be called now.
struct Choice {
    agent: Arc<Agent>,
    price: Amount,
    target: Arc<Target>,
    route: Route,
}

/// What came of asking one agent.
type Asked = Result<Exchanged, Broken>;

/// Calls an agent.
pub(super) async fn run(
    shared: &Arc<Shared>,
    request: &CallRequest,
    sink: Option<&Sink>,
) -> Result<CallAnswer, CallFailure> {
    if request.hop >= HOPS_MAX {
        return Err(CallError::TooManyHops.into());
    }
    if let Some(answer) = shared.answered_before(request)? {
        return Ok(answer);
    }
    let _place = shared.places.try_acquire().map_err(|_| CallError::Busy)?;
    let mut patience = Patience::new(request.timeout, Instant::now());
    let mut plan = shared.plan(request)?;
    plan.within(request.payment.max_cost)?;
    let (mut task, mut choice, held) = shared.hold(request, &mut plan).await?;
    let task_id = task.id;
    let failed = |error| CallFailure {
        error,
        task_id: Some(task_id),
    };
    if let Some(sink) = sink {
        let began = CallEvent::Began {
            task_id,
            agent: choice.agent.name.to_string(),
        };
        let sent = timeout_at(Instant::now() + request.timeout, sink.send(began)).await;
        if !matches!(sent, Ok(Ok(()))) {
            return Err(failed(CallError::Canceled));
        }
    }
    let cancel = task.cancel();
    let asked = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(CallError::Canceled.into()),
        asked = shared.ask((request, &mut plan), (&mut task, &mut choice), &mut patience, sink) => {
            asked
        }
    };
    let ended = match asked {
        Ok(exchanged) => shared.settle(request, task, &choice, exchanged).await,
        Err(broken) => {
            let end = end_of(&broken.error, &patience);
            // It is undone all the same, and the reason is what counts.
            if let Err(error) = task.fail(&broken.error, Some(end)).await {
                tracing::warn!(%error, "the end of a task is not written");
            }
            Err(broken.error)
        }
    };
    if let Some(budget) = &request.budget {
        let cost = ended.as_ref().map_or(Amount::ZERO, |answer| answer.cost);
        budget.give_back(held.saturating_sub(cost));
    }
    let answer = ended.map_err(failed)?;
    Ok(CallAnswer {
        task_id,
        reason: plan.reason,
        ..answer
    })
}

/// Returns how a call has ended for the agent that was at work. What a caller can bring about by
/// itself says nothing about the agent, or anybody could have it set aside for nothing.
fn end_of(error: &CallError, patience: &Patience) -> CallEnd {
    match error {
        CallError::TimedOut { .. } if patience.was_fair(Instant::now()) => CallEnd::TimedOut,
        CallError::Failed {
            status: Some(400..=499),
            ..
        } => CallEnd::Canceled,
        CallError::Failed { reason, .. } => CallEnd::Failed(reason.clone()),
        _ => CallEnd::Canceled,
    }
}

impl Offer {
    fn of(agents: &crate::services::AgentService, agent: &Arc<Agent>) -> Self {
        Self {
            agent: Arc::clone(agent),
            price: agents.price_of(agent),
        }
    }
}

/// Returns whether an agent in this state may be asked for a skill: those who are merely in pain
/// still answer.
fn takes_calls(state: AgentState) -> bool {
    matches!(state, AgentState::Live | AgentState::Pain)
}

impl Plan {
    /// Leaves out who costs more than the caller allows.
    fn within(&mut self, max_cost: Option<Amount>) -> Result<(), BillingError> {
        let Some(max_cost) = max_cost else {
            return Ok(());
        };
        let least = self.offers.iter().map(|offer| offer.price).min();
        self.offers.retain(|offer| offer.price <= max_cost);
        match (self.offers.is_empty(), least) {
            (true, Some(required)) => Err(BillingError::AboveMaxCost { required, max_cost }),
            _ => Ok(()),
        }
    }
}

impl Shared {
    /// Returns what was answered before, where it was paid for already and is kept.
    fn answered_before(&self, request: &CallRequest) -> Result<Option<CallAnswer>, CallError> {
        let operation = request.payment.operation;
        let Some((id, cost)) = operation.and_then(|done| Some((done.id.0, done.charged?))) else {
            return Ok(None);
        };
        let record = self.kept(id)?;
        let completed = record.filter(|record| record.status == TaskStatus::Completed);
        let Some((agent, kept)) = completed.and_then(|r| Some((r.agent, r.result?))) else {
            return Ok(None);
        };
        let body = match serde_json::from_str::<String>(&kept.json) {
            // What was a text was made JSON to be kept.
            Ok(text) if !kept.content_type.contains("json") => text,
            _ => kept.json.clone(),
        };
        Ok(Some(CallAnswer {
            task_id: id,
            agent,
            cost,
            status: kept.http_status,
            content_type: kept.content_type,
            reading: Some(Reading {
                json: kept.json,
                is_response: true,
                session_id: kept.session_id,
                tokens_used: kept.tokens_used,
            }),
            body: body.into(),
            reason: "it has answered this request before".to_owned(),
        }))
    }

    fn plan(&self, request: &CallRequest) -> Result<Plan, CallError> {
        match &request.callee {
            Callee::Agent(name) => {
                let agent = self.named(name)?;
                Ok(Plan {
                    offers: VecDeque::from([Offer::of(&self.agents, &agent)]),
                    reason: "it was asked for by its name".to_owned(),
                })
            }
            Callee::BySkill => self.by_skill(request, request.skill.as_deref().unwrap_or_default()),
        }
    }

    fn named(&self, name: &str) -> Result<Arc<Agent>, CallError> {
        let (bare, node) = match name.split_once('@') {
            Some((bare, node)) => (bare, Some(node)),
            None => (name, None),
        };
        if node.is_some_and(|node| !self.names.iter().any(|known| known == node)) {
            return Err(CallError::UnknownNode(name.to_owned()));
        }
        let agent = self
            .agents
            .by_name(bare)
            .filter(|agent| !agent.is_torn_down);
        agent.ok_or_else(|| CallError::UnknownAgent(bare.to_owned()))
    }

    fn by_skill(&self, request: &CallRequest, skill: &str) -> Result<Plan, CallError> {
        let mut agents = self.agents.find(&AgentFilter {
            skill: Some(skill.to_owned()),
            limit: CANDIDATES_MAX,
            ..AgentFilter::default()
        });
        agents.retain(|agent| takes_calls(agent.state) && agent.probe.is_some());
        // Whoever asks for a skill that it has itself wants another's, if there is one.
        if agents.len() > 1 {
            agents.retain(|agent| Some(agent.id) != request.caller.agent);
        }
        let offers: Vec<_> = agents
            .iter()
            .map(|agent| Offer::of(&self.agents, agent))
            .collect();
        let candidates: Vec<_> = offers.iter().map(|offer| self.candidate(offer)).collect();
        let places = ranked(&candidates);
        let Some(best) = places.first().map(|place| &candidates[*place]) else {
            return Err(CallError::NoAgentForSkill(skill.to_owned()));
        };
        let reason = format!(
            "the best of {} with the skill {skill} by health, load, latency and price, at {:.3}",
            candidates.len(),
            best.score()
        );
        let mut offers: Vec<_> = offers.into_iter().map(Some).collect();
        let ranked = places.into_iter().take(CANDIDATES_TRIED);
        Ok(Plan {
            offers: ranked.filter_map(|place| offers[place].take()).collect(),
            reason,
        })
    }

    fn candidate(&self, offer: &Offer) -> Candidate {
        let standing = self.agents.health().standing(offer.agent.id);
        Candidate {
            name: offer.agent.name.clone(),
            reputation: standing.reputation,
            load: standing.load,
            latency_ms: standing.latency_ms,
            price: offer.price,
        }
    }

    /// Takes the next agent of a plan that can be called now.
    ///
    /// # Errors
    /// There is none: why the first of them cannot.
    async fn next(&self, request: &CallRequest, plan: &mut Plan) -> Result<Choice, CallError> {
        let mut first = None;
        while let Some(offer) = plan.offers.pop_front() {
            match self.choice(request, offer).await {
                Ok(choice) => return Ok(choice),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or(CallError::Busy))
    }

    async fn choice(&self, request: &CallRequest, offer: Offer) -> Result<Choice, CallError> {
        let Offer { agent, price } = offer;
        let name = || agent.name.to_string();
        let target = self.target(&agent).await?;
        if let Some(skill) = request
            .skill
            .as_deref()
            .filter(|skill| !target.has_skill(skill))
        {
            return Err(CallError::SkillMissing {
                agent: name(),
                skill: skill.to_owned(),
            });
        }
        let route = match &request.what {
            What::Message { .. } => target.message(request.skill.as_deref()),
            What::Endpoint { path, method, .. } => {
                let declared = target.endpoint(path, *method);
                declared.ok_or_else(|| CallError::EndpointUndeclared {
                    agent: name(),
                    endpoint: match method {
                        Some(method) => format!("{} {path}", method.as_str()),
                        None => path.clone(),
                    },
                })?
            }
        };
        let checked = self.targets.check(route.url.as_str());
        checked.map_err(|reason| CallError::Address {
            agent: name(),
            reason,
        })?;
        // Before anything is held: it is the caller's own mistake.
        url_of(&route, &request.what)?;
        // Last, since whom it lets in as a trial is to be called.
        let admitted = self.agents.health().admit(&agent).await;
        admitted.map_err(|unavailable| not_live(&agent, unavailable))?;
        Ok(Choice {
            agent,
            price,
            target,
            route,
        })
    }

    /// Finds who can be called first and holds what the dearest of those costs who may come to be
    /// asked, and says how much. Of those whom the payer cannot afford none is.
    async fn hold(
        self: &Arc<Self>,
        request: &CallRequest,
        plan: &mut Plan,
    ) -> Result<(Task, Choice, Amount), CallError> {
        let mut choice = self.next(request, plan).await?;
        let payment = &request.payment;
        let id = payment.operation.map(|operation| operation.id);
        let id = id.unwrap_or_else(|| self.billing.next_id());
        if let Some(charged) = payment.operation.and_then(|operation| operation.charged) {
            let record = record_of(request, &choice);
            let funds = Funds::Charged(charged);
            let task = Task::begin(self, (id.0, record), &choice.agent, funds);
            return Ok((task, choice, Amount::ZERO));
        }
        loop {
            let own = choice.price;
            let others = plan.offers.iter().map(|offer| offer.price);
            let amount = others.fold(own, Amount::max);
            let record = record_of(request, &choice);
            match self.reserve(request, id, amount, &record).await {
                Ok(hold) => {
                    let funds = Funds::Held(hold);
                    let task = Task::begin(self, (id.0, record), &choice.agent, funds);
                    return Ok((task, choice, amount));
                }
                Err(
                    error @ (BillingError::Insufficient { balance: left, .. }
                    | BillingError::AllowanceSpent { left, .. }
                    | BillingError::AboveMaxCost { max_cost: left, .. }),
                ) => {
                    let count = plan.offers.len();
                    plan.offers.retain(|offer| offer.price <= left);
                    if left < own {
                        choice = match plan.offers.is_empty() {
                            true => return Err(error.into()),
                            false => self.next(request, plan).await?,
                        };
                    } else if plan.offers.len() == count {
                        // What there is has changed meanwhile.
                        return Err(error.into());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn reserve(
        &self,
        request: &CallRequest,
        id: TransferId,
        amount: Amount,
        record: &TaskRecord,
    ) -> Result<crate::billing::Hold, BillingError> {
        if let Some(Err(max_cost)) = request.budget.as_ref().map(|budget| budget.take(amount)) {
            let required = amount;
            return Err(BillingError::AboveMaxCost { required, max_cost });
        }
        let payment = &request.payment;
        let memo = match (&request.callee, &request.skill) {
            (Callee::BySkill, Some(skill)) => format!("call by skill {skill}"),
            _ => format!("call of {}", record.agent),
        };
        let spending = Spending {
            payer: payment.payer,
            amount,
            memo: &memo,
            id: Some(id),
            allowances: &payment.allowances,
        };
        let note = Note {
            id: id.0,
            bytes: record.encode(),
        };
        let held = self.billing.hold_with(spending, Some(note)).await;
        if let (Err(_), Some(budget)) = (&held, &request.budget) {
            budget.give_back(amount);
        }
        held
    }

    /// Asks one agent after the other until one has answered.
    async fn ask(
        self: &Arc<Self>,
        (request, plan): (&CallRequest, &mut Plan),
        (task, choice): (&mut Task, &mut Choice),
        patience: &mut Patience,
        sink: Option<&Sink>,
    ) -> Asked {
        loop {
            let broken = match self.ask_one(request, (task, choice), patience, sink).await {
                Ok(exchanged) => return Ok(exchanged),
                Err(broken) => broken,
            };
            if !broken.is_unreached || plan.offers.is_empty() {
                return Err(broken);
            }
            let Ok(next) = self.next(request, plan).await else {
                return Err(broken);
            };
            task.agent_ended(&end_of(&broken.error, patience));
            *choice = next;
            task.turn_to(&choice.agent, &choice.route.path);
        }
    }

    async fn ask_one(
        self: &Arc<Self>,
        request: &CallRequest,
        (task, choice): (&mut Task, &Choice),
        patience: &mut Patience,
        sink: Option<&Sink>,
    ) -> Asked {
        let agent = &choice.agent;
        patience.ask(None);
        let entered = self.turns.enter(agent.id, choice.target.max_concurrent);
        let mut turn = entered.map_err(|_full| Broken {
            error: CallError::QueueFull {
                agent: agent.name.to_string(),
            },
            is_unreached: true,
        })?;
        if !turn.has_begun() {
            patience.wait(&agent.name, turn.begin()).await?;
        }
        // Somebody may have stopped it meanwhile, or set it aside.
        let still_there = self.agents.health().still_there(agent.id);
        still_there.map_err(|unavailable| Broken {
            error: not_live(agent, unavailable),
            is_unreached: true,
        })?;
        task.run(sink.map(|sink| Sold {
            price: choice.price,
            usage: usage_of(request),
            is_read: Arc::clone(&sink.is_read),
        }));
        let exchange = Exchange {
            client: &self.client,
            room: &self.room,
            agent: &agent.name,
            route: &choice.route,
            request,
            task_id: task.id,
        };
        exchange.run(patience, sink).await
    }

    /// Ends a task with what its agent has answered.
    async fn settle(
        &self,
        request: &CallRequest,
        task: Task,
        choice: &Choice,
        exchanged: Exchanged,
    ) -> Result<CallAnswer, CallError> {
        let agent = &choice.agent;
        let mut answer = CallAnswer {
            task_id: task.id,
            agent: agent.name.to_string(),
            cost: Amount::ZERO,
            status: exchanged.status,
            content_type: exchanged.content_type,
            reading: exchanged.reading,
            body: exchanged.body,
            reason: String::new(),
        };
        if answer.status >= 400 {
            // The caller's own request was refused, which costs nothing and says nothing against
            // the agent.
            let reason = format!("answered {}", answer.status);
            let error = CallError::failed(&agent.name, &reason, Some(answer.status));
            task.fail(&error, Some(CallEnd::Refused)).await?;
            return Ok(answer);
        }
        let (mut result, mut len) = (None, exchanged.len);
        if let Some(reading) = &answer.reading {
            len = u64::try_from(reading.json.len()).unwrap_or(u64::MAX);
            // A longer one would be copied for nothing.
            result = (reading.json.len() <= RESULT_BYTES_MAX).then(|| KeptResult {
                http_status: answer.status,
                content_type: answer.content_type.clone(),
                json: reading.json.clone(),
                session_id: reading.session_id.clone(),
                tokens_used: reading.tokens_used,
            });
        }
        let paid = task.complete(result, len, choice.price, usage_of(request));
        answer.cost = paid.await?;
        Ok(answer)
    }
}

/// Returns what is noted of a payment.
fn usage_of(request: &CallRequest) -> Usage {
    let payment = &request.payment;
    Usage {
        account: payment.payer,
        agent: payment.agent.clone(),
        route: payment.route.clone(),
        ..Usage::default()
    }
}

fn not_live(agent: &Agent, unavailable: Unavailable) -> CallError {
    CallError::NotLive {
        agent: agent.name.to_string(),
        state: unavailable.state,
        reason: unavailable.reason,
        retry_after: unavailable.retry_after,
    }
}

fn record_of(request: &CallRequest, choice: &Choice) -> TaskRecord {
    TaskRecord {
        status: TaskStatus::Queued,
        account: request.payment.payer.0,
        caller: request.caller.name.clone(),
        caller_agent: request.caller.agent.map(crate::agents::AgentId::as_u128),
        agent: choice.agent.name.to_string(),
        skill: request.skill.clone(),
        endpoint: choice.route.path.clone(),
        created_ms: now().0,
        ..TaskRecord::default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn regression_what_a_caller_can_bring_about_says_nothing_about_an_agent() {
        let now = Instant::now();
        let mut patience = Patience::new(Duration::from_millis(1), now);
        patience.ask(Some(now));
        let agent = || "bot".to_owned();
        let timed_out = CallError::TimedOut {
            agent: agent(),
            after: Duration::from_millis(1),
        };
        let too_long = CallError::AnswerTooLong {
            agent: agent(),
            bytes_max: 5,
        };
        let refused = |status| CallError::failed("bot", "answered", Some(status));
        for error in [&timed_out, &too_long, &refused(400), &refused(499)] {
            assert_eq!(end_of(error, &patience), CallEnd::Canceled, "{error}");
        }
        for error in [CallError::QueryTooLong, CallError::Busy] {
            assert_eq!(end_of(&error, &patience), CallEnd::Canceled, "{error}");
        }
        for error in [
            refused(302),
            refused(500),
            CallError::failed("bot", "fell", None),
        ] {
            let end = end_of(&error, &patience);
            assert!(matches!(end, CallEnd::Failed(_)), "{error}: {end:?}");
        }
        patience.ask(now.checked_sub(Duration::from_secs(60)));
        assert_eq!(end_of(&timed_out, &patience), CallEnd::TimedOut);
    }
}
