//! A request that was checked, and what it becomes after a redirect.
//!
//! Callers set their own headers but for those that would say something about the connection, the
//! node or somebody else. Where a redirect leads to another origin, only headers go along that
//! cannot hold a secret: which of the others do, nobody can tell by their names.

use bytes::Bytes;
use reqwest::{
    Method, StatusCode,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use url::Url;

use super::{
    BODY_BYTES_MAX, FetchError, HEADER_BYTES_MAX, HEADERS_MAX, URL_BYTES_MAX, allow::without_query,
};

/// What can be asked for. `CONNECT` would make a tunnel, `TRACE` shows headers.
const METHODS: [Method; 7] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
];

/// Headers that say what is not the caller's to say.
const FORBIDDEN: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-real-ip",
];
/// The same, for all that begin so.
const FORBIDDEN_PREFIXES: &[&str] = &["proxy-", "x-forwarded-"];

/// What another origin is told.
const HARMLESS: [HeaderName; 5] = [
    header::ACCEPT,
    header::ACCEPT_LANGUAGE,
    header::CONTENT_LANGUAGE,
    header::CONTENT_TYPE,
    header::USER_AGENT,
];

/// Headers as a caller wrote them.
pub type OutgoingHeaders = Vec<(String, String)>;

/// A request as it is sent.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The method.
    pub method: Method,
    /// The address.
    pub url: Url,
    /// The caller's headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Outgoing {
    /// Checks what a caller wrote, but not whether the address may be asked.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn new(
        method: &str,
        url: &str,
        headers: &OutgoingHeaders,
        body: Bytes,
    ) -> Result<Self, FetchError> {
        let known = METHODS.iter().find(|known| known.as_str() == method);
        let method = known.ok_or_else(|| {
            let words: Vec<_> = METHODS.iter().map(Method::as_str).collect();
            FetchError::field("method", format!("must be one of {}", words.join(", ")))
        })?;
        if !body.is_empty() && matches!(*method, Method::GET | Method::HEAD) {
            return Err(FetchError::field(
                "body",
                format!("must be left out with {method}"),
            ));
        }
        if body.len() > BODY_BYTES_MAX {
            let words = format!("must have at most {BODY_BYTES_MAX} bytes");
            return Err(FetchError::field("body", words));
        }
        Ok(Self {
            method: method.clone(),
            url: parse_url(url)?,
            headers: parse_headers(headers)?,
            body,
        })
    }

    /// Returns what is to be asked after an answer, if that is a redirect.
    ///
    /// # Errors
    /// It leads where nothing is asked: the address is none, or it leaves https.
    pub fn redirected(
        &self,
        status: StatusCode,
        location: Option<&HeaderValue>,
    ) -> Result<Option<Self>, FetchError> {
        let turns_to_get = match status.as_u16() {
            // What browsers do, and what servers have come to count on.
            301 | 302 => self.method == Method::POST,
            303 => self.method != Method::HEAD,
            307 | 308 => false,
            _ => return Ok(None),
        };
        let Some(location) = location else {
            return Ok(None);
        };
        let failed = |reason: &str| FetchError::Upstream {
            url: without_query(&self.url),
            reason: reason.to_owned(),
        };
        let location = location
            .to_str()
            .ok()
            .filter(|text| text.len() <= URL_BYTES_MAX)
            .ok_or_else(|| failed("it redirects to what is no address"))?;
        let mut url = self.url.join(location);
        if let Ok(url) = &mut url {
            url.set_fragment(None);
        }
        let url = url.map_err(|_| failed("it redirects to what is no address"))?;
        if self.url.scheme() == "https" && url.scheme() == "http" {
            return Err(FetchError::Forbidden {
                url: without_query(&url),
                reason: "it was redirected to from https".to_owned(),
            });
        }
        let mut next = Self {
            url,
            ..self.clone()
        };
        if next.url.origin() != self.url.origin() {
            next.headers = only_harmless(&self.headers);
        }
        if turns_to_get {
            next.method = Method::GET;
            next.body = Bytes::new();
            next.headers.remove(header::CONTENT_TYPE);
            next.headers.remove(header::CONTENT_LANGUAGE);
        }
        Ok(Some(next))
    }
}

fn parse_url(text: &str) -> Result<Url, FetchError> {
    if text.len() > URL_BYTES_MAX {
        let words = format!("must have at most {URL_BYTES_MAX} bytes");
        return Err(FetchError::field("url", words));
    }
    let url = Url::parse(text);
    let mut url = url.map_err(|error| FetchError::field("url", error.to_string()))?;
    url.set_fragment(None);
    Ok(url)
}

fn parse_headers(headers: &OutgoingHeaders) -> Result<HeaderMap, FetchError> {
    let bytes: usize = headers.iter().map(|(n, v)| n.len() + v.len()).sum();
    if headers.len() > HEADERS_MAX || bytes > HEADER_BYTES_MAX {
        let words = format!("must be at most {HEADERS_MAX} of {HEADER_BYTES_MAX} bytes together");
        return Err(FetchError::field("headers", words));
    }
    let mut parsed = HeaderMap::new();
    for (name, value) in headers {
        let wrong = |message: &str| {
            let name: String = name.chars().take(64).collect();
            FetchError::field(format!("headers.{name}"), message)
        };
        let name = HeaderName::from_bytes(name.as_bytes());
        let name = name.map_err(|_| wrong("is no name of a header"))?;
        let is_forbidden = FORBIDDEN.contains(&name.as_str())
            || FORBIDDEN_PREFIXES
                .iter()
                .any(|prefix| name.as_str().starts_with(prefix));
        if is_forbidden {
            return Err(wrong("is set by the node"));
        }
        let value = HeaderValue::from_str(value);
        let value = value.map_err(|_| wrong("must be printable ASCII"))?;
        parsed.append(name, value);
    }
    Ok(parsed)
}

fn only_harmless(headers: &HeaderMap) -> HeaderMap {
    let harmless = headers
        .iter()
        .filter(|(name, _)| HARMLESS.contains(name))
        .map(|(name, value)| (name.clone(), value.clone()));
    harmless.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outgoing(method: &str, url: &str) -> Outgoing {
        let headers = [
            ("Authorization", "Bearer x"),
            ("Cookie", "a=b"),
            ("X-Api-Key", "x"),
            ("Accept", "text/plain"),
            ("Content-Type", "text/plain"),
        ];
        let headers = headers.map(|(n, v)| (n.to_owned(), v.to_owned())).into();
        let body = match method {
            "GET" => Bytes::new(),
            _ => Bytes::from_static(b"body"),
        };
        Outgoing::new(method, url, &headers, body).unwrap()
    }

    fn after(
        first: &Outgoing,
        status: u16,
        location: &str,
    ) -> Result<Option<Outgoing>, FetchError> {
        let location = HeaderValue::from_str(location).unwrap();
        first.redirected(StatusCode::from_u16(status).unwrap(), Some(&location))
    }

    fn names(outgoing: &Outgoing) -> Vec<&str> {
        outgoing.headers.keys().map(HeaderName::as_str).collect()
    }

    #[test]
    fn headers_that_are_not_the_callers_to_set_are_refused_by_name() {
        for name in [
            "Host",
            "connection",
            "Transfer-Encoding",
            "Content-Length",
            "Proxy-Authorization",
            "X-Forwarded-For",
            "Upgrade",
            "bad name",
            "",
        ] {
            let headers = vec![(name.to_owned(), "x".to_owned())];
            let refused = Outgoing::new("GET", "http://a.org/", &headers, Bytes::new());
            let words = refused.unwrap_err().to_string();
            assert!(words.contains(&format!("headers.{name}")), "{words}");
        }
        for value in ["a\r\nb: c", "a\0", "ä\n"] {
            let headers = vec![("x".to_owned(), value.to_owned())];
            assert!(Outgoing::new("GET", "http://a.org/", &headers, Bytes::new()).is_err());
        }
        let many = vec![("x".to_owned(), "y".to_owned()); HEADERS_MAX + 1];
        assert!(Outgoing::new("GET", "http://a.org/", &many, Bytes::new()).is_err());
        let long = vec![("x".to_owned(), "y".repeat(HEADER_BYTES_MAX))];
        assert!(Outgoing::new("GET", "http://a.org/", &long, Bytes::new()).is_err());
    }

    #[test]
    fn methods_bodies_and_addresses_are_checked() {
        let new = |method: &str, url: &str, body: &str| {
            let body = Bytes::from(body.to_owned());
            Outgoing::new(method, url, &Vec::new(), body)
        };
        assert!(new("CONNECT", "http://a.org", "").is_err());
        assert!(new("get", "http://a.org", "").is_err());
        assert!(new("GET", "http://a.org", "x").is_err());
        assert!(new("GET", "//a.org", "").is_err());
        let long = format!("http://a.org/{}", "x".repeat(URL_BYTES_MAX));
        assert!(new("GET", &long, "").is_err());
        assert!(new("POST", "http://a.org", &"x".repeat(BODY_BYTES_MAX + 1)).is_err());
        let kept = new("GET", "http://a.org/b#c", "").unwrap();
        assert_eq!(kept.url.as_str(), "http://a.org/b");
    }

    #[test]
    fn a_redirect_inside_the_origin_keeps_what_was_sent() {
        let first = outgoing("POST", "https://a.org/b/c?d");
        let next = after(&first, 307, "../e#f").unwrap().unwrap();
        assert_eq!(next.url.as_str(), "https://a.org/e");
        assert_eq!(
            (next.method.as_str(), &next.body[..]),
            ("POST", &b"body"[..])
        );
        assert_eq!(names(&next).len(), 5);
        let next = after(&first, 302, "/e").unwrap().unwrap();
        assert_eq!((next.method.as_str(), next.body.len()), ("GET", 0));
        assert!(!next.headers.contains_key("content-type"));
        assert!(next.headers.contains_key("authorization"));
        let put = outgoing("PUT", "https://a.org/");
        assert_eq!(after(&put, 301, "/e").unwrap().unwrap().method, "PUT");
        assert_eq!(after(&put, 303, "/e").unwrap().unwrap().method, "GET");
        assert!(after(&first, 304, "/e").unwrap().is_none());
        assert!(first.redirected(StatusCode::FOUND, None).unwrap().is_none());
    }

    #[test]
    fn another_origin_gets_no_secrets_and_https_is_not_left() {
        for location in ["https://b.org/", "https://a.org:444/", "//b.org/"] {
            let next = after(&outgoing("POST", "https://a.org/"), 308, location).unwrap();
            assert_eq!(
                names(&next.unwrap()),
                ["accept", "content-type"],
                "{location}"
            );
        }
        let https = outgoing("GET", "https://a.org/");
        assert!(matches!(
            after(&https, 302, "http://a.org/"),
            Err(FetchError::Forbidden { .. })
        ));
        assert!(after(&https, 302, "https://[bad/").is_err());
        let long = "x".repeat(URL_BYTES_MAX + 1);
        assert!(after(&https, 302, &long).is_err());
    }
}
