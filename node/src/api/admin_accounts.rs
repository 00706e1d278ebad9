//! `/v1/admin/accounts`: what the operator does with accounts.

use aither_protocol::Plan;
use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};

use super::{
    ApiError, ApiState, FieldError, Problem,
    accounts::{NoStore, no_store},
    accounts_types::{AccountItem, ChangeBody, CreateBody, CreatedBody},
    extract::JsonBody,
    page::{Items, Page, PageQuery},
};
use crate::accounts::{AccountChange, AccountError, AccountId, AccountState};

/// Lists the accounts.
#[utoipa::path(
    get, path = "/v1/admin/accounts", tag = "accounts",
    params(PageQuery),
    responses(
        (status = 200, description = "Accounts, the oldest first", body = Items<AccountItem>),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn list(
    State(state): State<ApiState>,
    page: Page,
) -> Result<Json<Items<AccountItem>>, ApiError> {
    let found = state.accounts.list(page.after()?, page.limit + 1).await?;
    let accounts = page.cut(found, |account| account.id.to_string());
    Ok(Json(accounts.map(AccountItem::from)))
}

/// Makes an account, whether registration is open or not.
#[utoipa::path(
    post, path = "/v1/admin/accounts", tag = "accounts",
    request_body = CreateBody,
    responses(
        (status = 201, description = "The account and its first key", body = CreatedBody),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn create(
    State(state): State<ApiState>,
    JsonBody(body): JsonBody<CreateBody>,
) -> Result<(StatusCode, NoStore, Json<CreatedBody>), ApiError> {
    let plan = plan_of(body.plan.as_deref()).map_err(|error| ApiError::fields(vec![error]))?;
    let accounts = &state.accounts;
    let created = accounts.create(&body.email, body.password, plan).await?;
    Ok((StatusCode::CREATED, no_store(), Json(created.into())))
}

/// Changes an account's plan or state.
#[utoipa::path(
    patch, path = "/v1/admin/accounts/{id}", tag = "accounts",
    params(("id" = String, Path, description = "The account's id")),
    request_body = ChangeBody,
    responses(
        (status = 200, description = "The account as it is now", body = AccountItem),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn update(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<ChangeBody>,
) -> Result<Json<AccountItem>, ApiError> {
    let id: AccountId = id.parse().map_err(|_| AccountError::UnknownAccount)?;
    let change = match (
        plan_of(body.plan.as_deref()),
        state_of(body.state.as_deref()),
    ) {
        (Ok(plan), Ok(state)) => AccountChange { plan, state },
        (plan, state) => {
            let wrong = [plan.err(), state.err()];
            return Err(ApiError::fields(wrong.into_iter().flatten().collect()));
        }
    };
    let account = state.accounts.update(id, change).await?;
    Ok(Json(account.into()))
}

fn plan_of(word: Option<&str>) -> Result<Option<Plan>, FieldError> {
    let plan = word.map(str::parse).transpose();
    plan.map_err(|error: aither_protocol::UnknownPlan| FieldError {
        field: "plan".into(),
        message: error.to_string(),
    })
}

fn state_of(word: Option<&str>) -> Result<Option<AccountState>, FieldError> {
    match word {
        None => Ok(None),
        Some("active") => Ok(Some(AccountState::Active)),
        Some("disabled") => Ok(Some(AccountState::Disabled)),
        Some(_) => Err(FieldError {
            field: "state".into(),
            message: "must be active or disabled".into(),
        }),
    }
}
