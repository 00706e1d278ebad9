//! Lists that come in pages, as one.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Answer, Client};
use crate::error::Error;

/// The most that a node gives in one answer: fewer pages.
const PAGE_ITEMS: &str = "500";
/// Most bytes of items that are read in all, so that a list without an end ends.
const LIST_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most pages, for lists without an end whose pages are nearly empty.
const PAGES_MAX: usize = 1000;

/// One page of a list.
#[derive(Deserialize)]
struct Page {
    items: Vec<Box<RawValue>>,
    #[serde(default)]
    next_cursor: Option<String>,
}

/// All pages of it, in the shape of one.
#[derive(Serialize)]
struct WholeList {
    items: Vec<Box<RawValue>>,
    next_cursor: Option<String>,
}

impl Client {
    /// Asks for all pages of a list, which `what` names for people.
    pub(super) async fn whole_list(
        &self,
        path: &str,
        query: &[(&str, &str)],
        what: &str,
    ) -> Result<Answer, Error> {
        let mut whole = WholeList {
            items: Vec::new(),
            next_cursor: None,
        };
        let mut bytes_len = 0usize;
        for _ in 0..PAGES_MAX {
            let cursor = whole.next_cursor.as_deref();
            let page = self.page(path, query, cursor).await?;
            let page: Page = page.read(what)?;
            bytes_len += page
                .items
                .iter()
                .map(|item| item.get().len())
                .sum::<usize>();
            whole.items.extend(page.items);
            let is_last = page.next_cursor.is_none();
            if bytes_len > LIST_BYTES_MAX || !is_last && page.next_cursor == whole.next_cursor {
                break;
            }
            whole.next_cursor = page.next_cursor;
            if is_last {
                let list = serde_json::to_vec(&whole)
                    .map_err(|cause| self.unexpected(&cause.to_string()))?;
                return Answer::new(self.server(), &list);
            }
        }
        Err(self.unexpected(&format!("{what} that does not end")))
    }

    async fn page(
        &self,
        path: &str,
        query: &[(&str, &str)],
        cursor: Option<&str>,
    ) -> Result<Answer, Error> {
        let mut parameters = vec![("limit", PAGE_ITEMS)];
        parameters.extend(query);
        parameters.extend(cursor.map(|cursor| ("cursor", cursor)));
        self.get(path, &parameters).await
    }
}
