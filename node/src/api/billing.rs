//! `/v1/billing/…` and `/v1/admin/prices`: balances, statements, usage, prices.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aither_ledger::{Account, AccountId, Entry, EntryKind, LedgerError, Time, UsageQuery, View};
use aither_protocol::{Amount, ErrorCode, limits::MODEL_NAME_BYTES_MAX};
use axum::{
    Extension, Json,
    extract::{Query, State},
    http::header,
    response::{IntoResponse, Response},
};

use super::{
    ApiError, ApiState, Problem,
    auth::Caller,
    billing_types::{
        BalanceBody, CheckAnswer, CheckBody, DeductBody, PaidAnswer, PricesBody, SetPriceBody,
        SplitItem, StatementItem, StatementParams, Tokens, TopUpBody, UsageBody, UsageItem,
        UsageParams,
    },
    extract::{JsonBody, parse_duration},
    page::{Items, Page, PageQuery},
    payment::{allowances_of, payer_of},
    rfc3339,
};
use crate::{
    accounts,
    billing::{
        self, BillingError, FUNDING, ISSUANCE, ModelPrice, OPERATOR, PaidOperation, REVENUE,
        Spending,
    },
};

/// Longest words on a payment.
const MEMO_BYTES_MAX: usize = aither_ledger::operation::MEMO_BYTES_MAX;
/// Most rows of a statement in one table.
const TABLE_ROWS_MAX: usize = 100_000;
const PERIOD_DEFAULT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Says what the caller's account has.
#[utoipa::path(
    get, path = "/v1/billing/balance", tag = "billing",
    responses(
        (status = 200, description = "The balance", body = BalanceBody),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
)]
pub(super) async fn balance(
    State(state): State<ApiState>,
    caller: Caller,
) -> Result<Json<BalanceBody>, ApiError> {
    let account = account(&state, payer_of(&caller)).await?;
    let tokens = Tokens::of(&account);
    Ok(Json(BalanceBody {
        tokens,
        balance: tokens,
        held: account.debits.pending.total,
        granted: account.spendable().granted,
        plan: match &caller {
            Caller::Account(caller) => caller.plan.as_str(),
            Caller::Agent(caller) if caller.agent.owner != OPERATOR => caller.plan.as_str(),
            _ => "operator",
        },
        expires: None,
    }))
}

/// Says whether the caller could spend an amount.
#[utoipa::path(
    post, path = "/v1/billing/check", tag = "billing",
    request_body = CheckBody,
    responses(
        (status = 200, description = "Whether it could", body = CheckAnswer),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
)]
pub(super) async fn check(
    State(state): State<ApiState>,
    caller: Caller,
    JsonBody(body): JsonBody<CheckBody>,
) -> Result<Json<CheckAnswer>, ApiError> {
    let account = account(&state, payer_of(&caller)).await?;
    let is_bounded = account.flags.debits_within_credits;
    let allowance = state.billing.allowances_left(allowances_of(&caller))?;
    let fits_allowance = allowance.is_none_or(|left| body.tokens <= left);
    Ok(Json(CheckAnswer {
        allowed: fits_allowance && (!is_bounded || body.tokens <= account.spendable().total),
        balance: Tokens::of(&account),
        required: body.tokens,
    }))
}

/// Pays the node from the caller's account.
#[utoipa::path(
    post, path = "/v1/billing/deduct", tag = "billing",
    request_body = DeductBody,
    responses(
        (status = 200, description = "What is left", body = PaidAnswer),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
)]
pub(super) async fn deduct(
    State(state): State<ApiState>,
    caller: Caller,
    operation: Option<Extension<PaidOperation>>,
    JsonBody(body): JsonBody<DeductBody>,
) -> Result<Response, ApiError> {
    check_payment(body.tokens, "reason", &body.reason)?;
    check_bounded(&caller)?;
    let payer = payer_of(&caller);
    let id = operation.map(|Extension(operation)| operation.id);
    let paid = state.billing.deduct(Spending {
        payer,
        amount: body.tokens,
        memo: &body.reason,
        id,
        allowances: allowances_of(&caller),
    });
    paid.await?;
    let balance = Tokens::of(&account(&state, payer).await?);
    let cost = super::stream::cost_header(body.tokens);
    Ok((cost, Json(PaidAnswer { balance })).into_response())
}

/// Adds bought tokens to an account.
#[utoipa::path(
    post, path = "/v1/billing/topup", tag = "billing",
    request_body = TopUpBody,
    responses(
        (status = 200, description = "What there is now", body = PaidAnswer),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
)]
pub(super) async fn top_up(
    State(state): State<ApiState>,
    operation: Option<Extension<PaidOperation>>,
    JsonBody(body): JsonBody<TopUpBody>,
) -> Result<Json<PaidAnswer>, ApiError> {
    check_payment(body.tokens, "reference", &body.reference)?;
    let receiver = if body.account == "operator" {
        OPERATOR
    } else {
        let id = body.account.parse::<accounts::AccountId>();
        let id = id.map_err(|error| ApiError::field("account", error.to_string()))?;
        AccountId(id.as_u128())
    };
    let id = operation.map(|Extension(operation)| operation.id);
    let paid = state
        .billing
        .top_up(receiver, body.tokens, body.reference, id);
    paid.await?;
    let balance = Tokens::of(&account(&state, receiver).await?);
    Ok(Json(PaidAnswer { balance }))
}

/// Says what the caller used in a period.
#[utoipa::path(
    get, path = "/v1/billing/usage", tag = "billing",
    params(UsageParams),
    responses(
        (status = 200, description = "The usage", body = UsageBody),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
)]
pub(super) async fn usage(
    State(state): State<ApiState>,
    caller: Caller,
    Query(params): Query<UsageParams>,
) -> Result<Json<UsageBody>, ApiError> {
    let period = match params.period.as_deref() {
        None | Some("") => PERIOD_DEFAULT,
        Some(text) => parse_duration(text)
            .ok_or_else(|| ApiError::field("period", "must be a time such as 30d or 24h"))?,
    };
    let now = billing::now();
    let period_ms = u64::try_from(period.as_millis()).unwrap_or(u64::MAX);
    let query = UsageQuery {
        account: payer_of(&caller),
        from: Time(now.0.saturating_sub(period_ms)),
        until: Time(now.0.saturating_add(1)),
    };
    let sums = read(&state, move |view| view.usage_sums(&query)).await?;
    let mut body = UsageBody::default();
    for sum in sums {
        let counts = UsageItem::from(sum.counts);
        let day = day_of(sum.from);
        for item in [
            body.by_agent.entry(sum.agent).or_default(),
            body.by_model.entry(sum.model).or_default(),
            body.by_day.entry(day).or_default(),
        ] {
            item.add(counts);
        }
        body.total_requests = body.total_requests.saturating_add(counts.requests);
        body.total_tokens = plus(body.total_tokens, counts.tokens);
    }
    Ok(Json(body))
}

/// Lists what happened to the caller's account, the newest first.
#[utoipa::path(
    get, path = "/v1/billing/statement", tag = "billing",
    params(StatementParams, PageQuery),
    responses(
        (
            status = 200, description = "The entries",
            content((Items<StatementItem> = "application/json"), (String = "text/csv")),
        ),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
)]
pub(super) async fn statement(
    State(state): State<ApiState>,
    caller: Caller,
    Query(params): Query<StatementParams>,
    page: Page,
) -> Result<Response, ApiError> {
    let account = payer_of(&caller);
    let before = page.after::<u64>()?;
    let is_table = match params.format.as_deref() {
        None | Some("" | "json") => false,
        Some("csv") => true,
        Some(_) => return Err(ApiError::field("format", "must be json or csv")),
    };
    let count = if is_table {
        TABLE_ROWS_MAX
    } else {
        page.limit + 1
    };
    let found = read(&state, move |view| {
        let entries = view.statement(account, before, count)?.into_iter();
        let items = entries.map(|(sequence, entry)| item_of(view, account, sequence, &entry));
        items.collect::<Result<Vec<_>, _>>()
    });
    let found = found.await?;
    if !is_table {
        let cut = page.cut(found, |item| item.entry.to_string());
        return Ok(Json(cut).into_response());
    }
    let table = table_of(found.into_iter())?;
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8"),
        (
            header::CONTENT_DISPOSITION,
            "attachment; filename=\"statement.csv\"",
        ),
    ];
    Ok((headers, table).into_response())
}

/// Lists the prices.
#[utoipa::path(
    get, path = "/v1/admin/prices", tag = "billing",
    responses(
        (status = 200, description = "The prices", body = PricesBody),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
)]
pub(super) async fn prices(State(state): State<ApiState>) -> Result<Json<PricesBody>, ApiError> {
    prices_now(&state).map(Json)
}

/// Sets a model's price, or takes back what was set.
#[utoipa::path(
    put, path = "/v1/admin/prices", tag = "billing",
    request_body = SetPriceBody,
    responses(
        (status = 200, description = "The prices from now on", body = PricesBody),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
)]
pub(super) async fn set_price(
    State(state): State<ApiState>,
    JsonBody(body): JsonBody<SetPriceBody>,
) -> Result<Json<PricesBody>, ApiError> {
    if !(1..=MODEL_NAME_BYTES_MAX).contains(&body.model.len()) {
        let message = format!("must have 1 to {MODEL_NAME_BYTES_MAX} bytes");
        return Err(ApiError::field("model", message));
    }
    let price = match (body.prompt_per_1k, body.completion_per_1k) {
        (Some(prompt_per_1k), Some(completion_per_1k)) => Some(ModelPrice {
            prompt_per_1k,
            completion_per_1k,
        }),
        (None, None) => None,
        (Some(_), None) => return Err(ApiError::field("completion_per_1k", "is required")),
        (None, Some(_)) => return Err(ApiError::field("prompt_per_1k", "is required")),
    };
    let book = state.billing.prices().clone();
    let now = billing::now().0;
    let set = tokio::task::spawn_blocking(move || book.set(&body.model, price, now));
    let set = set.await.map_err(|_panicked| lost())?;
    set.map_err(|error| ApiError::internal(error.to_string()))?;
    prices_now(&state).map(Json)
}

fn prices_now(state: &ApiState) -> Result<PricesBody, ApiError> {
    let version = state.billing.prices().current();
    let version = version.ok_or_else(|| ApiError::internal("there are no prices"))?;
    let cards = state.llm.catalog().list();
    let models = cards.into_iter().map(|card| (card.info.name, card.price));
    let since = rfc3339(time_of(Time(version.since_ms)));
    Ok(PricesBody::new(version, since, models.collect()))
}

async fn account(state: &ApiState, id: AccountId) -> Result<Account, ApiError> {
    let found = read(state, move |view| view.account(id)).await?;
    found.ok_or_else(|| BillingError::AccountUnknown(id.to_string()).into())
}

/// Reads the ledger on a thread that may wait for the disk.
async fn read<T: Send + 'static>(
    state: &ApiState,
    read: impl FnOnce(&View) -> Result<T, aither_ledger::LedgerError> + Send + 'static,
) -> Result<T, ApiError> {
    let billing = state.billing.clone();
    let found = tokio::task::spawn_blocking(move || Ok(read(&billing.view()?)?));
    let found: Result<T, BillingError> = found.await.map_err(|_panicked| lost())?;
    Ok(found?)
}

fn lost() -> ApiError {
    ApiError::internal("a look into the ledger panicked")
}

/// A token pays by itself only from what it was given: without a bound it could spend all that its
/// owner has, whatever else it may not do.
fn check_bounded(caller: &Caller) -> Result<(), ApiError> {
    match caller {
        Caller::Agent(caller) if caller.token_grant.is_some() => {}
        _ => return Ok(()),
    }
    if !allowances_of(caller).is_empty() {
        return Ok(());
    }
    let words = "a capability token without max_spend pays for work only; ask with the agent's key";
    Err(ApiError::new(ErrorCode::CapabilityMissing, words).with_member("capability", "account"))
}

fn check_payment(tokens: Amount, field: &str, memo: &str) -> Result<(), ApiError> {
    if tokens.is_zero() {
        return Err(ApiError::field("tokens", "must be more than 0"));
    }
    if memo.len() > MEMO_BYTES_MAX {
        let message = format!("must have at most {MEMO_BYTES_MAX} bytes");
        return Err(ApiError::field(field, message));
    }
    Ok(())
}

fn item_of(
    view: &View,
    account: AccountId,
    entry_number: u64,
    entry: &Entry,
) -> Result<StatementItem, LedgerError> {
    let (credit, debit) = entry.kind.posted(account);
    let amount = match credit.checked_sub(debit) {
        Some(gain) => Tokens::plus(gain),
        None => Tokens::minus(debit.saturating_sub(credit)),
    };
    let (kind, movement) = match &entry.kind {
        EntryKind::Opened { .. } => ("opened", None),
        EntryKind::Transferred { movement, .. } => ("transferred", Some(movement)),
        EntryKind::Reserved { movement, .. } => ("reserved", Some(movement)),
        EntryKind::Posted { held, .. } => ("posted", Some(held)),
        EntryKind::Voided { held } => ("voided", Some(held)),
        EntryKind::Expired { held } => ("expired", Some(held)),
        _ => ("other", None),
    };
    let is_payer = movement.is_some_and(|movement| movement.debit == account);
    let held = match (&entry.kind, movement) {
        (EntryKind::Transferred { .. }, _) | (_, None) => Tokens::plus(Amount::ZERO),
        _ if !is_payer => Tokens::plus(Amount::ZERO),
        (EntryKind::Reserved { .. }, Some(held)) => Tokens::plus(held.amount.total),
        (_, Some(held)) => Tokens::minus(held.amount.total),
    };
    let other = movement.map(|movement| {
        let other = if is_payer {
            movement.credit
        } else {
            movement.debit
        };
        name_of(other)
    });
    Ok(StatementItem {
        entry: entry_number,
        time: rfc3339(time_of(entry.time)),
        kind,
        amount,
        held,
        other: other.unwrap_or_default(),
        memo: memo_of(view, &entry.kind)?,
        transfer: entry
            .kind
            .transfer()
            .map_or_else(String::new, |id| ulid::Ulid(id.0).to_string()),
        split: split_of(&entry.kind),
    })
}

/// Returns what a payment is for: what ends a hold says it at its beginning.
fn memo_of(view: &View, kind: &EntryKind) -> Result<String, LedgerError> {
    let said = |kind: &EntryKind| match kind {
        EntryKind::Transferred { memo, .. } | EntryKind::Reserved { memo, .. } => {
            Some(memo.clone())
        }
        _ => None,
    };
    if let Some(memo) = said(kind) {
        return Ok(memo);
    }
    let begun = kind.transfer().map(|id| view.begun(id)).transpose()?;
    let begun = begun.flatten().and_then(|entry| said(&entry.kind));
    Ok(begun.unwrap_or_default())
}

/// Returns who has which part of a payment that is shared: both sides see the same.
fn split_of(kind: &EntryKind) -> Vec<SplitItem> {
    let EntryKind::Posted {
        held,
        amount,
        shares,
    } = kind
    else {
        return Vec::new();
    };
    if shares.is_empty() {
        return Vec::new();
    }
    let mut rest = amount.total;
    let mut split = Vec::with_capacity(shares.len() + 1);
    for leg in shares {
        rest = rest.saturating_sub(leg.amount.total);
        split.push(SplitItem {
            account: name_of(leg.account),
            amount: leg.amount.total,
        });
    }
    split.push(SplitItem {
        account: name_of(held.credit),
        amount: rest,
    });
    split
}

fn table_of(items: impl Iterator<Item = StatementItem>) -> Result<Vec<u8>, ApiError> {
    let broken = |error: &dyn std::fmt::Display| ApiError::internal(format!("a table: {error}"));
    let mut table = csv::Writer::from_writer(Vec::new());
    let titles = [
        "entry", "time", "kind", "amount", "held", "other", "memo", "transfer", "split",
    ];
    table.write_record(titles).map_err(|error| broken(&error))?;
    for item in items {
        let row = [
            item.entry.to_string(),
            item.time,
            item.kind.to_owned(),
            item.amount.to_string(),
            item.held.to_string(),
            item.other,
            item.memo,
            item.transfer,
            split_text(&item.split),
        ];
        table.write_record(row).map_err(|error| broken(&error))?;
    }
    table.into_inner().map_err(|error| broken(&error))
}

/// Writes a split in one cell: `ACCOUNT AMOUNT; node AMOUNT`.
fn split_text(split: &[SplitItem]) -> String {
    let parts = split.iter();
    let parts = parts.map(|part| format!("{} {}", part.account, part.amount));
    parts.collect::<Vec<_>>().join("; ")
}

fn name_of(account: AccountId) -> String {
    match account {
        OPERATOR => "operator".to_owned(),
        ISSUANCE => "grants".to_owned(),
        FUNDING => "topups".to_owned(),
        REVENUE => "node".to_owned(),
        other => accounts::AccountId::from_u128(other.0).to_string(),
    }
}

fn time_of(time: Time) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(time.0)
}

/// Returns the day of a time, as in 2026-01-31.
fn day_of(time: Time) -> String {
    let mut day = rfc3339(time_of(time));
    day.truncate("2026-01-31".len());
    day
}

fn plus(left: Amount, right: Amount) -> Amount {
    left.checked_add(right).unwrap_or(left)
}

impl UsageItem {
    fn add(&mut self, other: Self) {
        self.tokens = plus(self.tokens, other.tokens);
        self.requests = self.requests.saturating_add(other.requests);
        self.prompt_tokens = self.prompt_tokens.saturating_add(other.prompt_tokens);
        self.completion_tokens = self
            .completion_tokens
            .saturating_add(other.completion_tokens);
    }
}
