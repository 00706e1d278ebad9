//! Bodies and answers of the account routes.

use aither_protocol::Plan;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::rfc3339;
use crate::accounts::{
    Account, AccountId, AccountState, CreatedAccount, KeyInfo, SecretText, Session,
};

/// `POST /v1/auth/register` and `/v1/auth/login`.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct CredentialsBody {
    /// An e-mail address; its case does not matter.
    pub(super) email: String,
    /// 8 to 1024 bytes.
    #[schema(value_type = String)]
    pub(super) password: SecretText,
}

/// `POST /v1/auth/refresh`.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct RefreshBody {
    /// What the login, or its last renewal, gave.
    #[schema(value_type = String)]
    pub(super) refresh_token: SecretText,
}

/// A new account.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CreatedBody {
    /// Its id.
    #[schema(value_type = String)]
    account_id: AccountId,
    /// Its key, which does not expire. It is shown this once.
    #[schema(value_type = String)]
    api_key: SecretText,
}

/// A login.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SessionBody {
    /// The key. It is shown this once.
    #[schema(value_type = String)]
    api_key: SecretText,
    /// When it stops working.
    expires_at: String,
    /// Buys the next key at `/v1/auth/refresh`, once.
    #[schema(value_type = String)]
    refresh_token: SecretText,
}

/// Who asks.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Me {
    /// The account's id, or `operator`.
    pub(super) account_id: String,
    /// Its e-mail address; the operator has none.
    pub(super) email: Option<String>,
    /// Its plan.
    #[schema(value_type = String)]
    pub(super) plan: Plan,
    /// The agent that asks, if one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) agent_id: Option<String>,
}

/// An API key, without the key.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct KeyItem {
    /// Its id.
    id: String,
    /// How the key begins.
    prefix: String,
    /// When it was made.
    made: String,
    /// When a request last came with it.
    last_used: Option<String>,
    /// When it stops working, if ever.
    expires: Option<String>,
}

/// `POST /v1/admin/accounts`.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct CreateBody {
    /// An e-mail address.
    pub(super) email: String,
    /// 8 to 1024 bytes; without one there is no login, only the key.
    #[schema(value_type = Option<String>)]
    pub(super) password: Option<SecretText>,
    /// `explorer`, `builder` or `enterprise`; without one the configured default.
    pub(super) plan: Option<String>,
}

/// `PATCH /v1/admin/accounts/{id}`.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct ChangeBody {
    /// `explorer`, `builder` or `enterprise`.
    pub(super) plan: Option<String>,
    /// `active` or `disabled`: a disabled account's keys do not work.
    pub(super) state: Option<String>,
}

/// An account, as the operator sees it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AccountItem {
    /// Its id.
    #[schema(value_type = String)]
    account_id: AccountId,
    /// Its e-mail address.
    email: String,
    /// Its plan.
    #[schema(value_type = String)]
    plan: Plan,
    /// `active` or `disabled`.
    #[schema(value_type = String)]
    state: AccountState,
    /// When it was made.
    created: String,
}

impl From<CreatedAccount> for CreatedBody {
    fn from(created: CreatedAccount) -> Self {
        Self {
            account_id: created.account.id,
            api_key: created.api_key,
        }
    }
}

impl From<Session> for SessionBody {
    fn from(session: Session) -> Self {
        Self {
            api_key: session.api_key,
            expires_at: rfc3339(session.expires),
            refresh_token: session.refresh_token,
        }
    }
}

impl From<KeyInfo> for KeyItem {
    fn from(key: KeyInfo) -> Self {
        Self {
            id: key.id.to_string(),
            prefix: key.prefix,
            made: rfc3339(key.made),
            last_used: key.last_used.map(rfc3339),
            expires: key.expires.map(rfc3339),
        }
    }
}

impl From<Account> for AccountItem {
    fn from(account: Account) -> Self {
        Self {
            account_id: account.id,
            email: account.email,
            plan: account.plan,
            state: account.state,
            created: rfc3339(account.created),
        }
    }
}
