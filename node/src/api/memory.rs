//! `/v1/memory/…`: what agents remember.
//!
//! Who asks decides whose memory is meant ([`MemoryAccess`]). Nothing here is charged; what an
//! account may keep is bounded by its plan.

use std::time::SystemTime;

use aither_protocol::Capability;
use axum::{
    Json,
    extract::{Query, State},
};

use super::{
    ApiError, ApiState, Problem,
    auth::Caller,
    extract::JsonBody,
    memory_types::{
        ClearedBody, CompleteTaskBody, DeleteBody, DeletedBody, EntryBody, EntryItem, KeyCursor,
        ListParams, ReadBody, WriteBody, WrittenBody,
    },
    page::{Items, Page, PageQuery},
};
use crate::{
    memory::{ListQuery, MemoryError, scope::DEFAULT_SCOPE},
    services::{MemoryAccess, Place},
};

/// Writes an entry. It is durable when the answer comes.
#[utoipa::path(
    post, path = "/v1/memory/write", tag = "memory",
    request_body = WriteBody,
    responses(
        (status = 200, description = "It is written", body = WrittenBody),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn write(
    State(state): State<ApiState>,
    caller: Caller,
    JsonBody(body): JsonBody<WriteBody>,
) -> Result<Json<WrittenBody>, ApiError> {
    let write = body.checked(SystemTime::now())?;
    let (tier, key) = (write.tier.as_str(), write.key.clone());
    let written = state.memory.write(&access_of(&caller)?, write).await;
    let version = written
        .map_err(|error| refused_room(error, &caller))?
        .version;
    Ok(Json(WrittenBody { tier, key, version }))
}

/// Reads an entry.
#[utoipa::path(
    post, path = "/v1/memory/read", tag = "memory",
    request_body = ReadBody,
    responses(
        (status = 200, description = "The entry", body = EntryBody),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn read(
    State(state): State<ApiState>,
    caller: Caller,
    JsonBody(body): JsonBody<ReadBody>,
) -> Result<Json<EntryBody>, ApiError> {
    let (tier, place) = body.place()?;
    let access = access_of(&caller)?;
    let entry = state.memory.read(&access, (tier, &place), &body.key);
    EntryBody::of(tier, entry.map_err(refused_reading)?).map(Json)
}

/// Deletes an entry.
#[utoipa::path(
    post, path = "/v1/memory/delete", tag = "memory",
    request_body = DeleteBody,
    responses(
        (status = 200, description = "It is deleted", body = DeletedBody),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn delete(
    State(state): State<ApiState>,
    caller: Caller,
    JsonBody(body): JsonBody<DeleteBody>,
) -> Result<Json<DeletedBody>, ApiError> {
    let (tier, place) = body.entry.place()?;
    let (access, key) = (access_of(&caller)?, body.entry.key);
    let deleting = state
        .memory
        .delete(&access, (tier, &place), key.clone(), body.if_version);
    deleting.await.map_err(refused_writing)?;
    Ok(Json(DeletedBody {
        tier: tier.as_str(),
        key,
        deleted: true,
    }))
}

/// Lists entries, without their values, in the order of their keys.
#[utoipa::path(
    get, path = "/v1/memory/list", tag = "memory",
    params(ListParams, PageQuery),
    responses(
        (status = 200, description = "The entries", body = Items<EntryItem>),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    Query(params): Query<ListParams>,
    page: Page,
) -> Result<Json<Items<EntryItem>>, ApiError> {
    let (tier, place) = params.place()?;
    let query = ListQuery {
        prefix: params.prefix.unwrap_or_default(),
        after: page.after()?.map(|KeyCursor(key)| key),
        limit: page.limit + 1,
    };
    let listed = state
        .memory
        .list(&access_of(&caller)?, (tier, &place), query);
    let cut = page.cut(listed.map_err(refused_reading)?, |info| {
        KeyCursor::text(&info.key)
    });
    Ok(Json(cut.map(|info| EntryItem::of(tier, info))))
}

/// Clears the working memory of a task that is done.
#[utoipa::path(
    post, path = "/v1/memory/complete-task", tag = "memory",
    request_body = CompleteTaskBody,
    responses(
        (status = 200, description = "It is cleared", body = ClearedBody),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn complete_task(
    State(state): State<ApiState>,
    caller: Caller,
    JsonBody(body): JsonBody<CompleteTaskBody>,
) -> Result<Json<ClearedBody>, ApiError> {
    let access = access_of(&caller)?;
    let task_id = body.task_id;
    let place = Place {
        task_id: task_id.clone(),
        session_id: None,
    };
    let cleared = state.memory.complete_task(&access, &place).await;
    Ok(Json(ClearedBody {
        cleared: cleared.map_err(refused_writing)?,
        task_id: task_id.unwrap_or_else(|| DEFAULT_SCOPE.to_owned()),
    }))
}

/// Returns what of memory a caller reaches.
pub(super) fn access_of(caller: &Caller) -> Result<MemoryAccess, ApiError> {
    match caller {
        Caller::Operator => Ok(MemoryAccess::of_operator()),
        Caller::Account(account) => Ok(MemoryAccess::of_account(account)),
        Caller::Agent(agent) => Ok(MemoryAccess::of_agent(agent)),
        Caller::Anyone | Caller::Local => Err(ApiError::internal("memory without a key")),
    }
}

/// Makes a refusal an answer to somebody who wanted to read.
pub(super) fn refused_reading(error: MemoryError) -> ApiError {
    refused(error, Capability::MemoryRead)
}

/// Makes a refusal an answer to somebody who wanted to write.
pub(super) fn refused_writing(error: MemoryError) -> ApiError {
    refused(error, Capability::MemoryWrite)
}

/// Makes a refusal an answer to somebody who wanted to add something. How much an account has is
/// for its own keys to see, not for each of its agents.
pub(super) fn refused_room(error: MemoryError, caller: &Caller) -> ApiError {
    match (&error, caller) {
        (MemoryError::QuotaExceeded { measure, .. }, Caller::Agent(_)) => {
            let measure = measure.as_str();
            let message = format!(
                "the account's plan has no room for more {measure}; delete some, or ask the \
                 account's holder to change the plan"
            );
            ApiError::new(error.code(), message).with_member("measure", measure)
        }
        _ => refused_writing(error),
    }
}

fn refused(error: MemoryError, capability: Capability) -> ApiError {
    let is_forbidden = matches!(
        error,
        MemoryError::TierForbidden { .. } | MemoryError::KeyForbidden { .. }
    );
    let refused = ApiError::from(error);
    match is_forbidden {
        true => refused.with_member("capability", capability.as_str()),
        false => refused,
    }
}
