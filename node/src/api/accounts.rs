//! `/v1/auth/…` and `/v1/keys`: what an account does for itself.
//!
//! Answers that hold a secret are not to be cached by anybody on the way.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use aither_protocol::Plan;
use axum::{
    Json,
    extract::{ConnectInfo, FromRequestParts, Path, State},
    http::{HeaderName, HeaderValue, StatusCode, header, request::Parts},
};
use ulid::Ulid;

use super::{
    ApiError, ApiState, Problem,
    accounts_types::{CreatedBody, CredentialsBody, KeyItem, Me, RefreshBody, SessionBody},
    auth::Caller,
    extract::JsonBody,
    page::{Items, Page, PageQuery},
};
use crate::{accounts::AccountId, billing};

/// The account of whoever holds the admin key.
const OPERATOR: &str = "operator";
/// What goes with every answer that holds a secret.
pub(super) type NoStore = [(HeaderName, HeaderValue); 1];

/// Returns the headers of an answer that holds a secret.
pub(super) fn no_store() -> NoStore {
    [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))]
}

/// Whom attempts are counted against: the peer, or whom a proxy on this machine speaks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClientAddress(pub(super) IpAddr);

impl FromRequestParts<ApiState> for ClientAddress {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &ApiState) -> Result<Self, ApiError> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(peer)| {
            peer.ip()
        });
        if !peer.to_canonical().is_loopback() {
            // Anybody could write the header.
            return Ok(Self(peer));
        }
        // The last entry is the nearest proxy's; those before it are what it was told.
        let forwarded = parts.headers.get_all("x-forwarded-for").iter().next_back();
        let forwarded = forwarded.and_then(|value| value.to_str().ok()?.rsplit(',').next());
        let client = forwarded.and_then(|client| client.trim().parse().ok());
        Ok(Self(client.unwrap_or(peer)))
    }
}

/// Makes an account.
#[utoipa::path(
    post, path = "/v1/auth/register", tag = "accounts",
    request_body = CredentialsBody,
    responses(
        (status = 201, description = "The account and its first key", body = CreatedBody),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
)]
pub(super) async fn register(
    State(state): State<ApiState>,
    ClientAddress(address): ClientAddress,
    JsonBody(body): JsonBody<CredentialsBody>,
) -> Result<(StatusCode, NoStore, Json<CreatedBody>), ApiError> {
    let accounts = &state.accounts;
    let created = accounts
        .register(address, &body.email, body.password)
        .await?;
    Ok((StatusCode::CREATED, no_store(), Json(created.into())))
}

/// Gives whoever knows the password a key for a while.
#[utoipa::path(
    post, path = "/v1/auth/login", tag = "accounts",
    request_body = CredentialsBody,
    responses(
        (status = 200, description = "A key, and what renews it", body = SessionBody),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
)]
pub(super) async fn login(
    State(state): State<ApiState>,
    ClientAddress(address): ClientAddress,
    JsonBody(body): JsonBody<CredentialsBody>,
) -> Result<(NoStore, Json<SessionBody>), ApiError> {
    let accounts = &state.accounts;
    let session = accounts.log_in(address, &body.email, body.password).await?;
    Ok((no_store(), Json(session.into())))
}

/// Renews a login. A refresh token works once; a second use of it ends the login.
#[utoipa::path(
    post, path = "/v1/auth/refresh", tag = "accounts",
    request_body = RefreshBody,
    responses(
        (status = 200, description = "The next key, and what renews it", body = SessionBody),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
)]
pub(super) async fn refresh(
    State(state): State<ApiState>,
    JsonBody(body): JsonBody<RefreshBody>,
) -> Result<(NoStore, Json<SessionBody>), ApiError> {
    let session = state.accounts.refresh(body.refresh_token).await?;
    Ok((no_store(), Json(session.into())))
}

/// Says whose key this is.
#[utoipa::path(
    get, path = "/v1/auth/me", tag = "accounts",
    responses(
        (status = 200, description = "The account", body = Me),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn me(
    State(state): State<ApiState>,
    caller: Caller,
) -> Result<Json<Me>, ApiError> {
    // Whom a sub-agent works for is not its business.
    let is_told = !matches!(&caller, Caller::Agent(caller) if caller.token_grant.is_some());
    let (account, agent_id) = match caller {
        Caller::Account(caller) => (Some(caller.account), None),
        Caller::Agent(caller) => {
            let owner = caller.agent.owner;
            let owner = (owner != billing::OPERATOR).then_some(AccountId::from_u128(owner.0));
            (owner, Some(caller.agent.id.to_string()))
        }
        _ => (None, None),
    };
    let Some(account) = account else {
        return Ok(Json(Me {
            account_id: OPERATOR.to_owned(),
            email: None,
            plan: Plan::Enterprise,
            agent_id,
        }));
    };
    let account = state.accounts.account(account).await?;
    Ok(Json(Me {
        account_id: account.id.to_string(),
        email: is_told.then_some(account.email),
        plan: account.plan,
        agent_id,
    }))
}

/// Lists the account's keys. The admin key is none of them.
#[utoipa::path(
    get, path = "/v1/keys", tag = "accounts",
    params(PageQuery),
    responses(
        (status = 200, description = "The keys, the oldest first", body = Items<KeyItem>),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn keys(
    State(state): State<ApiState>,
    caller: Caller,
    page: Page,
) -> Result<Json<Items<KeyItem>>, ApiError> {
    let after: Option<Ulid> = page.after()?;
    let mut keys = match caller {
        Caller::Account(caller) => state.accounts.keys(caller.account),
        _ => Vec::new(),
    };
    keys.retain(|key| after.is_none_or(|after| after < key.id));
    let keys = page.cut(keys, |key| key.id.to_string());
    Ok(Json(keys.map(KeyItem::from)))
}

/// Revokes a key of the account; the operator may revoke any account's.
#[utoipa::path(
    delete, path = "/v1/keys/{id}", tag = "accounts",
    params(("id" = String, Path, description = "The key's id, or its prefix")),
    responses(
        (status = 204, description = "It does not work any more, nor does the login it is of"),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn revoke_key(
    State(state): State<ApiState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let owner = match caller {
        Caller::Account(caller) => Some(caller.account),
        _ => None,
    };
    state.accounts.revoke_key(owner, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use aither_protocol::ErrorCode;

    #[test]
    fn codes_of_accounts_are_those_of_the_interface() {
        use crate::accounts::AccountError;
        let cases = [
            (AccountError::EmailTaken, ErrorCode::Conflict, 409),
            (
                AccountError::RegistrationClosed,
                ErrorCode::RegistrationClosed,
                403,
            ),
            (AccountError::WrongCredentials, ErrorCode::Unauthorized, 401),
            (AccountError::UnknownKey, ErrorCode::NotFound, 404),
        ];
        for (error, code, status) in cases {
            assert_eq!(error.code(), code);
            assert_eq!(code.http_status(), status);
        }
    }
}
