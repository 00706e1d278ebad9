//! The single values of a card that are more than a text or a number, and how texts must look.
//!
//! What a pattern says is said once: the schema shows it, and the validator checks the same by hand
//! (a regular expression engine would be the larger part of this crate). Where a rule cannot be a
//! pattern, the schema is the more lenient of the two, never the stricter.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};
use url::Url;

use crate::limits;

/// Text of one line without control characters.
pub(super) const LINE_PATTERN: &str = r"^[^\u0000-\u001f\u007f-\u009f]*$";
/// Text of several lines without other control characters.
pub(super) const PROSE_PATTERN: &str = r"^[^\u0000-\u0008\u000b-\u001f\u007f-\u009f]*$";
/// Path of an endpoint: absolute, printable ASCII, without query and fragment. A second slash at
/// its start would make it name a host.
pub(super) const PATH_PATTERN: &str = r"^/([!$-.0-;=@-\[\]-_a-z{-~][!$-;=@-\[\]-_a-z{-~]*)?$";
/// File below the agent's folder. A hyphen at its start would make it an option of some command.
pub(super) const FILE_PATTERN: &str =
    r#"^[^/\\:~\-\u0000-\u001f\u007f-\u009f][^\\:\u0000-\u001f\u007f-\u009f]*$"#;
/// Id of a skill.
pub(super) const SKILL_ID_PATTERN: &str = "^[A-Za-z0-9][A-Za-z0-9._:/-]*$";
/// Semantic version, but for the finer rules of pre-releases.
pub(super) const VERSION_PATTERN: &str = concat!(
    r"^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)",
    r"(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$"
);
/// Name of an agent.
pub(super) const NAME_PATTERN: &str = "^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$";
/// Amount of memory.
const SIZE_PATTERN: &str = r"^[0-9]{1,15}(\.[0-9]{1,3})? ?(B|[KMGT]B|[KMGT]iB)$";
/// Time between health checks.
pub(super) const INTERVAL_PATTERN: &str = "^[0-9]{1,5}[smh]$";
/// Start of an address that an agent may have.
const URL_PATTERN: &str = "^[Hh][Tt][Tt][Pp][Ss]?://";

/// Returns the schema of a path in which a segment is a dot or two, plain or percent-encoded.
pub(super) fn dot_segment() -> serde_json::Value {
    serde_json::json!({ "type": "string", "pattern": r"/(\.|%2[eE]){1,2}(/|$)" })
}

/// Returns the schema of a file that has a parent's or an empty segment.
pub(super) fn parent_segment() -> serde_json::Value {
    serde_json::json!({ "type": "string", "pattern": r"(^|/)\.\.(/|$)|//|/$" })
}

/// Name of an agent: 1 to 64 lowercase letters, digits and inner hyphens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentName(String);

/// Why a text is no agent name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be 1 to 64 lowercase letters, digits and hyphens, with a letter or digit at either end"
)]
pub struct InvalidName;

/// Address of an agent: http or https, without user, query and fragment.
///
/// It is shown as it was written where that is unambiguous, and otherwise as a browser would.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct AgentUrl {
    text: String,
    url: Url,
}

/// Why a text is no address of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidUrl {
    /// Longer than [`limits::URL_BYTES_MAX`].
    #[error("must be at most {} bytes", limits::URL_BYTES_MAX)]
    TooLong,
    /// Not one at all, or of another scheme.
    #[error("must be an http or https URL, as http://127.0.0.1:9000")]
    NotHttp,
    /// It holds a name or a password, which would be shown to everybody.
    #[error("must not hold a user name or password")]
    UserInfo,
    /// It has a query or a fragment, below which there are no paths.
    #[error("must not have a query or a fragment")]
    Query,
}

/// Amount of memory. In text it is `512MB` (powers of 1000) or `4GiB` (powers of 1024).
///
/// Plain `GB` is the smaller one on purpose: these are minima, and a card sold as 8 GB reports a
/// few MiB less than 8 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

/// Why a text is no amount of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSize {
    /// No number with a unit.
    #[error("must be a size, as 512MB or 4GiB")]
    NotASize,
    /// More than [`limits::MEMORY_SIZE_MAX`].
    #[error("must be at most 1000TB")]
    TooLarge,
}

/// Method that an endpoint takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum HttpMethod {
    /// Reads.
    Get,
    /// Does something.
    Post,
    /// Replaces.
    Put,
    /// Changes.
    Patch,
    /// Removes.
    Delete,
}

/// Language that an agent is written in, with its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
pub enum Language {
    /// Python 3.11.
    #[serde(rename = "python3.11")]
    Python311,
    /// Python 3.12.
    #[serde(rename = "python3.12")]
    Python312,
    /// Node.js 20.
    #[serde(rename = "node20")]
    Node20,
    /// Node.js 22.
    #[serde(rename = "node22")]
    Node22,
}

impl AgentName {
    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AgentName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let right = (1..=limits::AGENT_NAME_BYTES_MAX).contains(&text.len())
            && text.bytes().all(known)
            && !text.starts_with('-')
            && !text.ends_with('-');
        right.then(|| Self(text.to_owned())).ok_or(InvalidName)
    }
}

impl AgentUrl {
    /// Returns the address as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the address in its parts: what is connected to, whatever the text looks like.
    pub fn as_url(&self) -> &Url {
        &self.url
    }

    /// Returns the address of a path below it. A slash at its own end makes no difference.
    #[must_use]
    pub fn endpoint(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        let base = url.path().trim_end_matches('/');
        let path = format!("{base}/{}", path.trim_start_matches('/'));
        url.set_path(&path);
        url
    }
}

impl FromStr for AgentUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        if text.len() > limits::URL_BYTES_MAX {
            return Err(InvalidUrl::TooLong);
        }
        // What a parser would mend in silence is refused: blanks, line breaks and backslashes,
        // and a scheme without its slashes.
        let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'\\';
        let (scheme, _) = text.split_once("://").ok_or(InvalidUrl::NotHttp)?;
        let http = ["http", "https"];
        let known = http.iter().any(|name| scheme.eq_ignore_ascii_case(name));
        if !known || !text.bytes().all(plain) {
            return Err(InvalidUrl::NotHttp);
        }
        let url = Url::parse(text).map_err(|_| InvalidUrl::NotHttp)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidUrl::UserInfo);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(InvalidUrl::Query);
        }
        // Only the root's slash may be missing. Anything else that was rewritten, as a host of
        // digits, is shown for what it is.
        let written = url.as_str() == text || url.as_str().strip_suffix('/') == Some(text);
        let text = if written { text } else { url.as_str() };
        if text.len() > limits::URL_BYTES_MAX {
            return Err(InvalidUrl::TooLong);
        }
        let text = text.to_owned();
        Ok(Self { text, url })
    }
}

impl ByteSize {
    /// The units that a text can have and their bytes, the largest first.
    const UNITS: [(&'static str, u64); 9] = [
        ("TiB", 1 << 40),
        ("TB", 1_000_000_000_000),
        ("GiB", 1 << 30),
        ("GB", 1_000_000_000),
        ("MiB", 1 << 20),
        ("MB", 1_000_000),
        ("KiB", 1 << 10),
        ("KB", 1_000),
        ("B", 1),
    ];
    /// Digits that a text can have before its point: enough for the largest in bytes.
    const DIGITS_MAX: usize = 15;
    /// Digits that a text can have after its point.
    const DECIMALS_MAX: usize = 3;

    /// Returns an amount of so many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Returns the bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = InvalidSize;

    fn from_str(text: &str) -> Result<Self, InvalidSize> {
        let digits_only = |digits: &str, digits_max: usize| {
            let known = digits.bytes().all(|byte| byte.is_ascii_digit());
            known && (1..=digits_max).contains(&digits.len())
        };
        let split = text.find(|c: char| c.is_ascii_alphabetic() || c == ' ');
        let (number, unit) = text.split_at(split.ok_or(InvalidSize::NotASize)?);
        let unit = unit.strip_prefix(' ').unwrap_or(unit);
        let unit = Self::UNITS.iter().find(|(name, _)| *name == unit);
        let (_, unit) = unit.ok_or(InvalidSize::NotASize)?;
        let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
        if !digits_only(whole, Self::DIGITS_MAX) || !digits_only(decimals, Self::DECIMALS_MAX) {
            return Err(InvalidSize::NotASize);
        }
        // In thousandths, so that no float is needed; 18 digits and 13 of the unit fit 128 bits.
        let thousandths: u128 = format!("{whole}{decimals:0<3}")
            .parse()
            .map_err(|_| InvalidSize::NotASize)?;
        let bytes = thousandths * u128::from(*unit) / 1000;
        let bytes = u64::try_from(bytes).map_err(|_| InvalidSize::TooLarge)?;
        let fits = bytes <= limits::MEMORY_SIZE_MAX;
        fits.then_some(Self(bytes)).ok_or(InvalidSize::TooLarge)
    }
}

/// The largest unit of which it is a whole number.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut units = Self::UNITS.iter();
        let whole = units.find(|(_, unit)| self.0 != 0 && self.0.is_multiple_of(*unit));
        let (name, unit) = whole.unwrap_or(&("B", 1));
        write!(f, "{}{name}", self.0 / unit)
    }
}

impl HttpMethod {
    /// Every method that an endpoint can take.
    pub const ALL: &'static [Self] = &[Self::Get, Self::Post, Self::Put, Self::Patch, Self::Delete];

    /// Returns the method's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

impl Language {
    /// Every language that a node runs.
    pub const ALL: &'static [Self] =
        &[Self::Python311, Self::Python312, Self::Node20, Self::Node22];

    /// Returns the language's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Python311 => "python3.11",
            Self::Python312 => "python3.12",
            Self::Node20 => "node20",
            Self::Node22 => "node22",
        }
    }
}

/// Returns the time that a text like `30s`, `5m` or `1h` says, within the bounds of a card.
pub(super) fn interval(text: &str) -> Option<Duration> {
    let mut bytes = text.bytes();
    let seconds_per_unit = match bytes.next_back()? {
        b's' => 1,
        b'm' => 60,
        b'h' => 60 * 60,
        _ => return None,
    };
    let digits = &text[..text.len() - 1];
    if !(1..=5).contains(&digits.len()) || !bytes.all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds = digits.parse::<u64>().ok()? * seconds_per_unit;
    let bounded = limits::HEALTH_INTERVAL_SECONDS.contains(&seconds);
    bounded.then(|| Duration::from_secs(seconds))
}

/// Returns a time as [`interval`] reads it.
pub(super) fn interval_text(interval: Duration) -> String {
    format!("{}s", interval.as_secs())
}

/// How a value that is a text inside behaves as one outside.
macro_rules! text_values {
    ($($name:ident $(.$method:ident())? = $schema:expr),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                Cow::Borrowed(stringify!($name))
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }

        $(impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.$method())
            }
        })?
    )*};
}

text_values!(
    AgentName.as_str() = json_schema!({
        "type": "string",
        "pattern": NAME_PATTERN,
        "maxLength": limits::AGENT_NAME_BYTES_MAX,
    }),
    AgentUrl.as_str() = json_schema!({
        "type": "string",
        "format": "uri",
        "pattern": URL_PATTERN,
        "maxLength": limits::URL_BYTES_MAX,
    }),
    ByteSize = json_schema!({ "type": "string", "pattern": SIZE_PATTERN })
);

impl fmt::Debug for AgentUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AgentUrl").field(&self.text).finish()
    }
}
