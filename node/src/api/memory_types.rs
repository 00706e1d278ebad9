//! The shapes of `/v1/memory/…`.

use std::{str::FromStr, time::Duration, time::SystemTime};

use aither_protocol::{MemoryTier, canonical::canonical_json};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};
use utoipa::{IntoParams, ToSchema};

use super::{ApiError, extract::parse_duration, rfc3339};
use crate::{
    accounts::time_of,
    memory::{Entry, EntryInfo, EntrySignature, limits::TTL_MAX, limits::check_value},
    services::{MemoryWrite, Place},
};

/// What stands before a public key.
const PUBLIC_KEY_PREFIX: &str = "ed25519:";

/// `POST /v1/memory/write`.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct WriteBody {
    /// `working`, `active`, `spirit`, `codegraph` or `knowledge`.
    tier: String,
    /// 1 to 512 bytes without control characters.
    key: String,
    /// Any JSON value, up to 1 MiB.
    #[schema(value_type = Value)]
    value: Box<RawValue>,
    /// When it ends: seconds from now, or a text such as `"30m"`.
    #[schema(value_type = Option<f64>)]
    ttl: Option<Value>,
    /// Words by which it is found: up to 16, of up to 64 bytes.
    tags: Option<Vec<String>>,
    /// The task, for working memory; `default` where there is none.
    task_id: Option<String>,
    /// The session, for active memory; `default` where there is none.
    session_id: Option<String>,
    /// The version that the entry must have now; 0 where there must be none.
    if_version: Option<u64>,
    /// Who vouches for it.
    signature: Option<SignatureBody>,
}

/// A signature over the canonical JSON (RFC 8785) of `{"key","tier","value"}`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(super) struct SignatureBody {
    /// `ed25519:` and the key in hex.
    public_key: String,
    /// The signature in hex.
    value: String,
}

/// `POST /v1/memory/read`.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct ReadBody {
    /// The part of memory.
    tier: String,
    /// The key.
    pub(super) key: String,
    /// The task, for working memory.
    task_id: Option<String>,
    /// The session, for active memory.
    session_id: Option<String>,
}

/// `POST /v1/memory/delete`.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct DeleteBody {
    #[serde(flatten)]
    pub(super) entry: ReadBody,
    /// The version that the entry must have.
    pub(super) if_version: Option<u64>,
}

/// `POST /v1/memory/complete-task`.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct CompleteTaskBody {
    /// The task; `default` where there is none.
    pub(super) task_id: Option<String>,
}

/// `GET /v1/memory/list`.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParams {
    /// The part of memory.
    tier: Option<String>,
    /// What keys begin with.
    pub(super) prefix: Option<String>,
    /// The task, for working memory.
    task_id: Option<String>,
    /// The session, for active memory.
    session_id: Option<String>,
}

/// An entry that was written.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WrittenBody {
    pub(super) tier: &'static str,
    pub(super) key: String,
    /// Its version now: 1 for the first, one more with each write.
    pub(super) version: u64,
}

/// An entry without its value.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EntryItem {
    tier: &'static str,
    pub(super) key: String,
    version: u64,
    created_at: String,
    updated_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    tags: Vec<String>,
    /// Who wrote it: an agent's name, an account's id, or `operator`.
    writer: String,
    /// Length of its value.
    value_bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    signature: Option<SignatureBody>,
}

/// An entry.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EntryBody {
    #[serde(flatten)]
    item: EntryItem,
    /// As it was written.
    #[schema(value_type = Value)]
    value: Box<RawValue>,
}

/// An entry that was deleted.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DeletedBody {
    pub(super) tier: &'static str,
    pub(super) key: String,
    pub(super) deleted: bool,
}

/// A task whose working memory was cleared.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ClearedBody {
    pub(super) task_id: String,
    /// How many entries there were.
    pub(super) cleared: u64,
}

/// The key that a part of a list ended with, as its cursor has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyCursor(pub(super) String);

impl WriteBody {
    /// Checks what types cannot say.
    pub(super) fn checked(self, now: SystemTime) -> Result<MemoryWrite, ApiError> {
        let tier = tier_of(Some(&self.tier))?;
        let text = self.value.get();
        check_value(text)?;
        // As others will read it: a number that is none, half a character or a thousand levels
        // would be refused by the programs that it is for.
        let value: Value = serde_json::from_str(text)
            .map_err(|error| ApiError::field("value", format!("cannot be read back: {error}")))?;
        let signature = self.signature.as_ref();
        let signature = signature
            .map(|signature| signature.verified(tier, &self.key, value))
            .transpose()?;
        Ok(MemoryWrite {
            tier,
            place: Place {
                task_id: self.task_id,
                session_id: self.session_id,
            },
            value: text.to_owned(),
            key: self.key,
            tags: self.tags.unwrap_or_default(),
            expires: self
                .ttl
                .as_ref()
                .map(ttl_of)
                .transpose()?
                .map(|ttl| now + ttl),
            if_version: self.if_version,
            signature,
        })
    }
}

impl ReadBody {
    /// Returns where the entry is.
    pub(super) fn place(&self) -> Result<(MemoryTier, Place), ApiError> {
        let place = Place {
            task_id: self.task_id.clone(),
            session_id: self.session_id.clone(),
        };
        Ok((tier_of(Some(&self.tier))?, place))
    }
}

impl ListParams {
    /// Returns where to look.
    pub(super) fn place(&self) -> Result<(MemoryTier, Place), ApiError> {
        let named = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
        let place = Place {
            task_id: named(&self.task_id),
            session_id: named(&self.session_id),
        };
        Ok((tier_of(self.tier.as_deref())?, place))
    }
}

impl SignatureBody {
    fn of(signature: EntrySignature) -> Self {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let public_key: String = hex(&signature.public_key);
        Self {
            public_key: format!("{PUBLIC_KEY_PREFIX}{public_key}"),
            value: hex(&signature.value),
        }
    }

    /// Verifies it.
    fn verified(
        &self,
        tier: MemoryTier,
        key: &str,
        value: Value,
    ) -> Result<EntrySignature, ApiError> {
        let bare = self.public_key.strip_prefix(PUBLIC_KEY_PREFIX);
        let public_key = unhex::<32>(bare.unwrap_or(&self.public_key));
        let verifying = public_key.and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok());
        let verifying = verifying.ok_or_else(|| {
            let message = "must be \"ed25519:\" and a public key in hex";
            ApiError::field("signature.public_key", message)
        })?;
        let bytes = unhex::<64>(&self.value)
            .ok_or_else(|| ApiError::field("signature.value", "must be 64 bytes in hex"))?;
        let signed = canonical_json(&json!({"tier": tier, "key": key, "value": value}))
            .map_err(|error| ApiError::field("value", format!("to be signed, {error}")))?;
        verifying
            .verify_strict(&signed, &Signature::from_bytes(&bytes))
            .map_err(|_| {
                let message = "is not this key's over the canonical JSON of tier, key and value";
                ApiError::field("signature.value", message)
            })?;
        Ok(EntrySignature {
            public_key: verifying.to_bytes(),
            value: bytes.to_vec(),
        })
    }
}

impl EntryItem {
    pub(super) fn of(tier: MemoryTier, info: EntryInfo) -> Self {
        let time = |ms: u64| rfc3339(time_of(ms));
        Self {
            tier: tier.as_str(),
            key: info.key,
            version: info.version,
            created_at: time(info.created_ms),
            updated_at: time(info.updated_ms),
            expires_at: info.expires_ms.map(time),
            tags: info.tags,
            writer: info.writer,
            value_bytes: info.value_bytes,
            signature: info.signature.map(SignatureBody::of),
        }
    }
}

impl EntryBody {
    pub(super) fn of(tier: MemoryTier, entry: Entry) -> Result<Self, ApiError> {
        let value = RawValue::from_string(entry.value)
            .map_err(|error| ApiError::internal(format!("a stored value is no JSON: {error}")))?;
        Ok(Self {
            item: EntryItem::of(tier, entry.info),
            value,
        })
    }
}

impl KeyCursor {
    /// Returns the cursor as it is told.
    pub(super) fn text(key: &str) -> String {
        URL_SAFE_NO_PAD.encode(key)
    }
}

impl FromStr for KeyCursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(drop)?;
        String::from_utf8(bytes).map(Self).map_err(drop)
    }
}

/// Reads the name of a part of memory.
pub(super) fn tier_of(word: Option<&str>) -> Result<MemoryTier, ApiError> {
    let word = word.ok_or_else(|| ApiError::field("tier", "is required"))?;
    word.parse()
        .map_err(|error: aither_protocol::capability::UnknownWord| {
            ApiError::field("tier", error.to_string())
        })
}

fn ttl_of(ttl: &Value) -> Result<Duration, ApiError> {
    let read = match ttl {
        Value::Number(seconds) => {
            let seconds = seconds.as_f64();
            seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        }
        Value::String(text) => parse_duration(text),
        _ => None,
    };
    // Times are kept by the millisecond: what ends within one was never there.
    let range = Duration::from_millis(1)..=TTL_MAX;
    read.filter(|ttl| range.contains(ttl)).ok_or_else(|| {
        let message = "must be a number of seconds, or a text such as \"30m\", above 0 and up to \
                       ten years";
        ApiError::field("ttl", message)
    })
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digits = std::str::from_utf8(digits).ok()?;
        if digits.starts_with('+') {
            return None;
        }
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use aither_protocol::ErrorCode;
    use ed25519_dalek::{Signer, SigningKey};

    use super::{super::extract::parse, *};

    fn checked(body: &Value) -> Result<MemoryWrite, ErrorCode> {
        let body = parse::<WriteBody>(body.to_string().as_bytes());
        let checked = body.and_then(|body| body.checked(SystemTime::UNIX_EPOCH));
        checked.map_err(|error| error.code())
    }

    #[test]
    fn values_stay_as_they_were_written() {
        let body =
            br#"{"tier":"spirit","key":"k","value": {"b":1.00, "a":[12345678901234567890123]}}"#;
        let body = parse::<WriteBody>(body).unwrap();
        let write = body.checked(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(write.value, r#"{"b":1.00, "a":[12345678901234567890123]}"#);
        let null = checked(&json!({"tier": "spirit", "key": "k", "value": null}));
        assert_eq!(null.unwrap().value, "null");
    }

    #[test]
    fn values_that_nobody_could_read_are_refused() {
        let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        for value in [r#""\ud800""#, "1e999", &deep] {
            let body = format!(r#"{{"tier":"spirit","key":"k","value":{value}}}"#);
            let refused = parse::<WriteBody>(body.as_bytes())
                .and_then(|body| body.checked(SystemTime::UNIX_EPOCH));
            let code = refused.unwrap_err().code();
            let is_refused = matches!(
                code,
                ErrorCode::ValidationFailed | ErrorCode::InvalidRequest
            );
            assert!(is_refused, "{code}");
        }
        let missing = checked(&json!({"tier": "spirit", "key": "k"}));
        assert_eq!(missing.unwrap_err(), ErrorCode::ValidationFailed);
    }

    #[test]
    fn a_time_to_live_is_seconds_or_a_text() {
        let of = |ttl: Value| {
            checked(&json!({"tier": "spirit", "key": "k", "value": 1, "ttl": ttl})).map(|write| {
                write.expires.map(|at| {
                    at.duration_since(SystemTime::UNIX_EPOCH)
                        .unwrap()
                        .as_millis()
                })
            })
        };
        assert_eq!(of(json!(1.5)), Ok(Some(1500)));
        assert_eq!(of(json!("30m")), Ok(Some(1_800_000)));
        assert_eq!(of(Value::Null), Ok(None));
        for wrong in [
            json!(0),
            json!(-1),
            json!(1e30),
            json!("x"),
            json!([1]),
            json!("99999y"),
        ] {
            assert_eq!(
                of(wrong.clone()),
                Err(ErrorCode::ValidationFailed),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_signature_is_verified_over_the_canonical_form() {
        let key = SigningKey::from_bytes(&[5; 32]);
        let value = json!({"b": 1, "a": "\u{e4}"});
        let signed = canonical_json(&json!({"value": value, "key": "k", "tier": "knowledge"}));
        let signature = SignatureBody::of(EntrySignature {
            public_key: key.verifying_key().to_bytes(),
            value: key.sign(&signed.unwrap()).to_bytes().to_vec(),
        });
        let with = |key: &str, signature: &SignatureBody| {
            checked(&json!({
                "tier": "knowledge", "key": key, "value": value, "signature": signature,
            }))
        };
        let good = with("k", &signature).unwrap().signature.unwrap();
        assert_eq!(good.public_key, key.verifying_key().to_bytes());
        let wrong = [
            with("other", &signature),
            with(
                "k",
                &SignatureBody {
                    value: "00".repeat(64),
                    ..signature.clone()
                },
            ),
            with(
                "k",
                &SignatureBody {
                    value: "0".into(),
                    ..signature.clone()
                },
            ),
            with(
                "k",
                &SignatureBody {
                    value: "+0".repeat(64),
                    ..signature.clone()
                },
            ),
            with(
                "k",
                &SignatureBody {
                    public_key: "ed25519:\u{e4}".into(),
                    ..signature.clone()
                },
            ),
        ];
        for refused in wrong {
            assert_eq!(refused.unwrap_err(), ErrorCode::ValidationFailed);
        }
    }

    #[test]
    fn cursors_are_keys_in_other_letters() {
        let text = KeyCursor::text("a/\u{e4}?");
        assert_eq!(text.parse(), Ok(KeyCursor("a/\u{e4}?".into())));
        assert!("%".parse::<KeyCursor>().is_err());
        assert!("_w".parse::<KeyCursor>().is_err());
    }
}
