//! `?limit=` and `?cursor=` of lists, and the shape of their answers.

use std::str::FromStr;

use aither_protocol::limits::{PAGE_ITEMS_DEFAULT, PAGE_ITEMS_MAX};
use axum::{
    extract::{FromRequestParts, Query},
    http::request::Parts,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{ApiError, ApiState, FieldError};

/// Which part of a list is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Page {
    /// How many entries.
    pub(super) limit: usize,
    cursor: Option<String>,
}

/// The query as it is written.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// Most entries: 1 to 500, 50 unless said otherwise.
    limit: Option<String>,
    /// `next_cursor` of the part before.
    cursor: Option<String>,
}

/// A part of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Items<T> {
    /// The entries.
    pub(super) items: Vec<T>,
    /// Where the next part begins; null where this is the last.
    pub(super) next_cursor: Option<String>,
}

impl FromRequestParts<ApiState> for Page {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let query = Query::<PageQuery>::from_request_parts(parts, state).await;
        let Query(query) = query.map_err(|error| {
            let code = aither_protocol::ErrorCode::InvalidRequest;
            ApiError::new(code, error.body_text())
        })?;
        let limit = match query.limit.as_deref() {
            None | Some("") => PAGE_ITEMS_DEFAULT,
            Some(limit) => limit
                .parse()
                .ok()
                .filter(|limit| (1..=PAGE_ITEMS_MAX).contains(limit))
                .ok_or_else(|| {
                    let message = format!("must be a number from 1 to {PAGE_ITEMS_MAX}");
                    ApiError::field("limit", message)
                })?,
        };
        let cursor = query.cursor.filter(|cursor| !cursor.is_empty());
        Ok(Self { limit, cursor })
    }
}

impl Page {
    /// Returns the id that the part before ended with.
    pub(super) fn after<Id: FromStr>(&self) -> Result<Option<Id>, ApiError> {
        let after = self.cursor.as_deref().map(str::parse).transpose();
        after.map_err(|_| {
            ApiError::fields(vec![FieldError {
                field: "cursor".into(),
                message: "must be a next_cursor of this list".into(),
            }])
        })
    }

    /// Makes the answer of up to one entry more than was wanted.
    pub(super) fn cut<T>(&self, mut found: Vec<T>, id_of: impl Fn(&T) -> String) -> Items<T> {
        let has_more = self.limit < found.len();
        found.truncate(self.limit);
        let last = found.last().filter(|_| has_more);
        Items {
            next_cursor: last.map(id_of),
            items: found,
        }
    }
}

impl<T> Items<T> {
    /// Turns each entry into its form outside.
    pub(super) fn map<U>(self, form: impl FnMut(T) -> U) -> Items<U> {
        Items {
            items: self.items.into_iter().map(form).collect(),
            next_cursor: self.next_cursor,
        }
    }
}
