//! The addresses that the operator permits.
//!
//! A rule is a host with what may stand around it: `api.example.org`, `*.example.org`,
//! `https://host:8443`. Without a scheme it holds for `http` and `https`; without a port for the
//! scheme's own. `*.example.org` is every name below `example.org`, not that name itself; `*` is
//! every host.

use std::{fmt, str::FromStr};

use url::{Host, Url};

use super::FetchError;

/// Longest host name (RFC 1035).
const HOST_BYTES_MAX: usize = 253;

/// What a rule permits: whoever wrote a host out may mean one of his own network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// The host is named.
    Exact,
    /// Some pattern covers it.
    Pattern,
}

/// Which addresses may be fetched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowList {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    scheme: Option<Scheme>,
    host: Pattern,
    port: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Any,
    /// Every name that ends in this, which begins with a dot.
    Below(String),
    /// As [`Url`] writes it: lower case, addresses in brackets where they have colons.
    Named(String),
}

/// A text that is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{rule:?} must be a host such as \"api.example.org\", \"*.example.org\" or \
     \"https://api.example.org:8443\""
)]
pub struct AllowRuleError {
    rule: String,
}

impl AllowList {
    /// Reads rules.
    ///
    /// # Errors
    /// The first text that is none.
    pub fn parse<'a>(rules: impl IntoIterator<Item = &'a str>) -> Result<Self, AllowRuleError> {
        let rules: Result<_, _> = rules.into_iter().map(str::parse).collect();
        Ok(Self { rules: rules? })
    }

    /// Returns whether nothing is allowed.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Checks an address as it is written, whoever wrote it.
    ///
    /// # Errors
    /// It is none of http's, holds a password, or no rule covers it.
    pub fn check(&self, url: &Url) -> Result<Permission, FetchError> {
        let forbidden = |reason: &str| FetchError::Forbidden {
            url: without_query(url),
            reason: reason.to_owned(),
        };
        let scheme = match url.scheme() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(forbidden("only http and https are spoken")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(forbidden(
                "it holds a user name; send an Authorization header",
            ));
        }
        let host = url.host_str().unwrap_or_default();
        // The same host has another name then, which other parts may not know for the same.
        if host.is_empty() || host.ends_with('.') {
            return Err(forbidden("its host must not end in a dot"));
        }
        let port = url.port_or_known_default().unwrap_or_default();
        let covering = self.rules.iter().filter(|r| r.covers(scheme, host, port));
        let exact = |rule: &&Rule| matches!(rule.host, Pattern::Named(_));
        let mut covering = covering.peekable();
        if covering.peek().is_none() {
            return Err(forbidden("this node's operator does not allow its host"));
        }
        Ok(match covering.find(exact) {
            Some(_) => Permission::Exact,
            None => Permission::Pattern,
        })
    }
}

impl Rule {
    fn covers(&self, scheme: Scheme, host: &str, port: u16) -> bool {
        let port_fits = match self.port {
            Some(allowed) => allowed == port,
            None => port == scheme.port(),
        };
        port_fits && self.scheme.is_none_or(|s| s == scheme) && self.host.covers(host)
    }
}

impl Pattern {
    fn covers(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Below(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
            Self::Named(name) => name == host,
        }
    }
}

impl Scheme {
    const fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl FromStr for Rule {
    type Err = AllowRuleError;

    fn from_str(rule: &str) -> Result<Self, AllowRuleError> {
        let error = || AllowRuleError {
            rule: rule.chars().take(HOST_BYTES_MAX).collect(),
        };
        let (scheme, rest) = match rule.split_once("://") {
            Some(("http", rest)) => (Some(Scheme::Http), rest),
            Some(("https", rest)) => (Some(Scheme::Https), rest),
            Some(_) => return Err(error()),
            None => (None, rule),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        // A colon inside brackets belongs to the address.
        let colon = rest.rfind(':').filter(|at| !rest[*at..].contains(']'));
        let (host, port) = match colon {
            Some(at) => (&rest[..at], Some(&rest[at + 1..])),
            None => (rest, None),
        };
        let port = match port.map(str::parse) {
            Some(Ok(port)) if port != 0 => Some(port),
            Some(_) => return Err(error()),
            None => None,
        };
        let host = match host.strip_prefix("*.") {
            Some(below) => match named(below) {
                Some(Host::Domain(name)) => Pattern::Below(format!(".{name}")),
                _ => return Err(error()),
            },
            None if host == "*" => Pattern::Any,
            None => Pattern::Named(named(host).ok_or_else(error)?.to_string()),
        };
        Ok(Self { scheme, host, port })
    }
}

/// Reads a host as addresses have it.
fn named(host: &str) -> Option<Host> {
    let fits = !host.is_empty() && host.len() <= HOST_BYTES_MAX && !host.ends_with('.');
    let odd = |c: char| "/@?#*%\\".contains(c) || c.is_whitespace();
    if !fits || host.contains(odd) {
        return None;
    }
    Host::parse(host).ok()
}

/// Returns an address as it may be told and logged.
pub fn without_query(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}"));
    let path: String = url.path().chars().take(200).collect();
    format!("{}://{host}{}{path}", url.scheme(), Shown(port))
}

struct Shown(Option<String>);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_deref().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rules: &[&str], url: &str) -> Result<Permission, FetchError> {
        let list = AllowList::parse(rules.iter().copied()).unwrap();
        list.check(&Url::parse(url).unwrap())
    }

    #[test]
    fn a_rule_covers_its_host_scheme_and_port_alone() {
        // tidy: table
        let rows: &[(&str, &str, bool)] = &[
            ("api.example.org", "https://api.example.org/a?b=c", true),
            ("api.example.org", "http://API.example.org/", true),
            ("API.example.org", "http://api.example.org/", true),
            ("api.example.org", "https://api.example.org:443/", true),
            ("api.example.org", "https://api.example.org:80/", false),
            ("api.example.org", "https://api.example.org:8443/", false),
            ("api.example.org", "https://x.api.example.org/", false),
            (
                "api.example.org",
                "https://api.example.org.evil.org/",
                false,
            ),
            ("api.example.org", "https://evil.org/api.example.org", false),
            (
                "api.example.org",
                "https://evil.org/?api.example.org",
                false,
            ),
            ("*.example.org", "https://a.example.org/", true),
            ("*.example.org", "https://a.b.example.org/", true),
            ("*.example.org", "https://example.org/", false),
            ("*.example.org", "https://badexample.org/", false),
            ("https://h.org", "http://h.org/", false),
            ("https://h.org/", "https://h.org/", true),
            ("https://h.org:8443", "https://h.org:8443/", true),
            ("https://h.org:8443", "https://h.org/", false),
            ("h.org:8080", "http://h.org:8080/", true),
            ("h.org:8080", "https://h.org:8080/", true),
            ("[2606:4700::1111]:80", "http://[2606:4700:0::1111]/", true),
            ("1.1.1.1", "http://1.1.1.1/", true),
            ("1.1.1.1", "http://0x01010101/", true),
            ("bücher.example", "https://xn--bcher-kva.example/", true),
            ("*", "https://anything.example/", true),
            ("*", "https://anything.example:22/", false),
        ];
        for (rule, url, covers) in rows {
            assert_eq!(check(&[rule], url).is_ok(), *covers, "{rule} {url}");
        }
    }

    #[test]
    fn nothing_but_plain_http_addresses_passes_even_the_widest_rule() {
        for url in [
            "ftp://example.org/",
            "file:///etc/passwd",
            "gopher://example.org/",
            "data:text/plain,x",
            "https://user@example.org/",
            "https://user:password@example.org/",
            "https://:password@example.org/",
            "https://example.org./",
        ] {
            assert!(check(&["*"], url).is_err(), "{url}");
        }
        let error = check(&["a.org"], "https://b.org/x?key=secret").unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn only_a_named_host_is_exact() {
        let exact = check(&["*", "10.0.0.1"], "http://10.0.0.1/").unwrap();
        assert_eq!(exact, Permission::Exact);
        let pattern = check(&["*", "10.0.0.1"], "http://10.0.0.2/").unwrap();
        assert_eq!(pattern, Permission::Pattern);
    }

    #[test]
    fn texts_that_are_no_rules_are_refused() {
        for rule in [
            "",
            "*.",
            "a.*.org",
            "**",
            "ftp://a.org",
            "a.org/path",
            "a.org:",
            "a.org:0",
            "a.org:99999",
            "u@a.org",
            "a b",
            "a.org?x",
            "*.1.2.3.4",
            "[::1",
            "a.org.",
            "://a",
        ] {
            assert!(AllowList::parse([rule]).is_err(), "{rule:?}");
        }
    }
}
