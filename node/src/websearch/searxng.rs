//! The JSON API of a SearXNG: what is asked, and what came back.

use serde::Deserialize;
use url::Url;

use super::{Hit, SNIPPET_CHARS_MAX, SearchError, TITLE_CHARS_MAX, cut};

/// Longest address that is passed on.
const URL_BYTES_MAX: usize = 2048;
/// Characters of what a failing SearXNG says that are passed on.
const WORDS_MAX: usize = 200;

#[derive(Debug, Deserialize)]
struct Answer {
    results: Vec<Row>,
}

/// Engines leave out what they do not know.
#[derive(Debug, Deserialize)]
struct Row {
    url: Option<String>,
    title: Option<String>,
    content: Option<String>,
}

/// Returns the address that answers a query.
///
/// # Errors
/// The base is no address.
pub fn address(base: &str, query: &str) -> Result<Url, SearchError> {
    let base = format!("{}/search", base.trim_end_matches('/'));
    let mut url = Url::parse(&base).map_err(|error| SearchError::Upstream(error.to_string()))?;
    url.query_pairs_mut()
        .append_pair("q", query)
        .append_pair("format", "json");
    Ok(url)
}

/// Reads an answer, up to `limit` results.
///
/// # Errors
/// It is a refusal, or no answer of a SearXNG.
pub fn hits(status: u16, body: &[u8], limit: usize) -> Result<Vec<Hit>, SearchError> {
    match status {
        200 => {}
        403 => return Err(SearchError::JsonIsOff),
        429 => {
            let words = "it has answered too many queries lately (429); its limiter is for \
                         searches from outside";
            return Err(SearchError::Upstream(words.to_owned()));
        }
        status => return Err(SearchError::Upstream(format!("it answered {status}"))),
    }
    let answer: Answer = serde_json::from_slice(body).map_err(|error| {
        let words = error.to_string();
        let words = cut(&words, WORDS_MAX);
        SearchError::Upstream(format!("its answer is no result of a search: {words}"))
    })?;
    Ok(answer
        .results
        .into_iter()
        .filter_map(hit)
        .take(limit)
        .collect())
}

fn hit(row: Row) -> Option<Hit> {
    let url = row.url.filter(|url| url.len() <= URL_BYTES_MAX)?;
    let is_web = Url::parse(&url).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
    if !is_web {
        return None;
    }
    let plain = |text: Option<String>, chars_max| {
        let text = text.unwrap_or_default();
        let text: Vec<_> = text.split_whitespace().collect();
        cut(&text.join(" "), chars_max).to_owned()
    };
    let title = plain(row.title, TITLE_CHARS_MAX);
    Some(Hit {
        title: if title.is_empty() { url.clone() } else { title },
        snippet: plain(row.content, 2 * SNIPPET_CHARS_MAX),
        url,
        content: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_part_of_the_address_and_nothing_else() {
        let of = |base| address(base, "a&b=c #d ä").unwrap().to_string();
        let expected = "http://h:1/search?q=a%26b%3Dc+%23d+%C3%A4&format=json";
        assert_eq!(of("http://h:1"), expected);
        assert_eq!(of("http://h:1/"), expected);
        assert!(of("https://h/searx/").starts_with("https://h/searx/search?q="));
    }

    #[test]
    fn results_are_read_and_what_is_no_address_is_left_out() {
        let body = br#"{"query": "x", "results": [
            {"url": "https://a.org/", "title": " A\n title ", "content": "text", "engine": "e"},
            {"url": "javascript:alert(1)", "title": "B"},
            {"title": "no address"},
            {"url": "https://c.org/", "title": null, "content": null},
            {"url": "https://d.org/", "title": "D"}
        ], "suggestions": []}"#;
        let found = hits(200, body, 2).unwrap();
        let titles: Vec<_> = found.iter().map(|hit| &*hit.title).collect();
        assert_eq!(titles, ["A title", "https://c.org/"]);
        assert_eq!((&*found[0].snippet, &*found[1].snippet), ("text", ""));
    }

    #[test]
    fn refusals_say_what_is_to_be_done() {
        assert_eq!(hits(403, b"", 1), Err(SearchError::JsonIsOff));
        let words = |status, body: &[u8]| hits(status, body, 1).unwrap_err().to_string();
        assert!(words(403, b"").contains("search.formats"));
        assert!(words(429, b"").contains("429"));
        assert!(words(500, b"").contains("500"));
        for body in [&b"<html>"[..], b"", b"{}", b"[]", br#"{"results": 1}"#] {
            assert!(words(200, body).contains("no result of a search"));
        }
    }
}
