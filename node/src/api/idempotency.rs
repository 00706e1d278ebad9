//! `Idempotency-Key`: the same request is done and charged once, and answered as the first time.
//!
//! A layer inside authentication. Without the header it only asks for the plan's permit. With it,
//! on a route that spends or creates, the request is looked up by who asks, the route and the key:
//! one that was answered is answered again, one that is being done or was another is 409, a new one
//! goes to [`super::recorded`].
//!
//! What makes two requests the same is [`fingerprint`]. An answer that holds a secret is not kept,
//! nor is a hash of a body that holds a password, which could be guessed from it: there a repeat
//! is 409, whatever it says.

use aither_protocol::{CapabilityToken, ErrorCode};
use axum::{
    body::Body,
    extract::{FromRequestParts, MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

use super::{
    ApiError, ApiState,
    accounts::ClientAddress,
    auth::{Caller, admit},
    error::{Shaped, still_in_flight},
    extract::whole_body,
    payment::MAX_COST,
    permit::hold_until_end,
    recorded,
};
use crate::{
    answers::{Asked, KeptAnswer, RowKey, Seen},
    billing,
};

/// The header of the request.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The header of an answer that was given before.
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// Longest key.
const KEY_BYTES_MAX: usize = 255;
/// Headers that are part of what is asked. How urgent it is, is not.
const MEANING: [HeaderName; 4] = [
    header::CONTENT_TYPE,
    HeaderName::from_static(MAX_COST),
    HeaderName::from_static("x-aither-route"),
    HeaderName::from_static("x-aither-explain"),
];

/// What is kept of a route's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeping {
    /// All of it.
    Whole,
    /// Only that it was done: the answer holds a secret.
    Fact,
}

impl Keeping {
    /// Returns what is kept on a route that spends or creates, given by its template.
    pub(super) fn of(method: &Method, route: &str) -> Option<Self> {
        if method != Method::POST {
            return None;
        }
        match route {
            "/v1/llm/generate" | "/v1/llm/chat" | "/v1/llm/embed" => Some(Self::Whole),
            "/v1/chat/completions" | "/v1/completions" | "/v1/embeddings" => Some(Self::Whole),
            "/api/chat" | "/api/generate" | "/api/embed" | "/api/embeddings" => Some(Self::Whole),
            "/v1/billing/deduct" | "/v1/billing/topup" => Some(Self::Whole),
            "/v1/memory/write" | "/v1/events/emit" | "/v1/code/write" => Some(Self::Whole),
            "/api/workspaces/{id}/write" | "/v1/artifacts/store" => Some(Self::Whole),
            "/v1/agents/{name}/chat" | "/v1/agents/{name}/call" => Some(Self::Whole),
            "/v1/a2a/tasks" | "/v1/a2a/parallel" => Some(Self::Whole),
            "/v1/auth/register" | "/v1/admin/accounts" => Some(Self::Fact),
            // Coming aboard again is answered with a fresh key anyway.
            "/v1/agents/{name}/spawn" => Some(Self::Fact),
            _ => None,
        }
    }
}

/// Lets a request pass, once for each key.
pub(super) async fn once(
    State(state): State<ApiState>,
    caller: Caller,
    request: Request,
    next: Next,
) -> Response {
    let route = request.extensions().get::<MatchedPath>();
    let keeping = route.and_then(|route| Keeping::of(request.method(), route.as_str()));
    let keyed = match keeping {
        Some(keeping) => key_of(request.headers()).map(|key| key.map(|key| (keeping, key))),
        None => Ok(None),
    };
    let answered = match keyed {
        Ok(Some((keeping, key))) => with_key(&state, caller, (keeping, &key), request, next).await,
        Ok(None) => without_key(&state, caller, request, next).await,
        Err(error) => Err(error),
    };
    answered.unwrap_or_else(IntoResponse::into_response)
}

async fn without_key(
    state: &ApiState,
    caller: Caller,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let permit = admit(state, &caller, &parts)?;
    let request = Request::from_parts(parts, body);
    Ok(hold_until_end(next.run(request).await, permit))
}

async fn with_key(
    state: &ApiState,
    caller: Caller,
    (keeping, key): (Keeping, &HeaderValue),
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let place = state.recording.place()?;
    let (mut parts, body) = request.into_parts();
    let body = whole_body(body, &state.http).await?;
    let scope = scope_of(state, &caller, &mut parts).await?;
    let asked = Asked {
        key: row_key(&scope, &parts, key),
        caller: bounds_of(&caller, &scope),
        request: match keeping {
            Keeping::Whole => fingerprint(&parts, &body),
            Keeping::Fact => [0; 32],
        },
    };
    // Before the permit: what is only repeated takes nothing from a plan.
    let seen = state.answers.look(asked, billing::now().0).await?;
    if seen != Seen::New {
        return answer_to(seen, keeping);
    }
    let permit = admit(state, &caller, &parts)?;
    let work = recorded::Work {
        state: state.clone(),
        asked,
        keeping,
        permit,
        place,
    };
    let request = Request::from_parts(parts, Body::from(body));
    recorded::run(work, request, next).await
}

/// Answers a request that came before.
pub(super) fn answer_to(seen: Seen, keeping: Keeping) -> Result<Response, ApiError> {
    let conflict = |words: &str| Err(ApiError::new(ErrorCode::Conflict, words));
    match seen {
        Seen::Answered(answer) => replay(answer),
        Seen::InFlight => Err(still_in_flight(
            "the request with this Idempotency-Key is still being answered; ask again in a moment",
        )),
        Seen::Done if keeping == Keeping::Fact => conflict(
            "a request with this Idempotency-Key was done: what it made exists, and the secret in \
             its answer was told then and is not kept; log in where it made an account, or use \
             another Idempotency-Key to make another",
        ),
        Seen::Done => conflict(
            "the request with this Idempotency-Key was done and charged, and its answer is not \
             kept any more; with another Idempotency-Key it is done, and charged, again",
        ),
        Seen::OtherRequest => conflict(
            "this Idempotency-Key was used within 24 hours for a request with another body; use a \
             new key for a new request",
        ),
        Seen::New => Err(ApiError::internal("a request was both new and not")),
    }
}

fn replay(answer: KeptAnswer) -> Result<Response, ApiError> {
    let broken = || ApiError::internal("a stored answer is no answer");
    let status = StatusCode::from_u16(answer.status).map_err(|_| broken())?;
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = status;
    for (name, value) in answer.headers {
        let name = HeaderName::try_from(name).map_err(|_| broken())?;
        let value = HeaderValue::try_from(value).map_err(|_| broken())?;
        response.headers_mut().append(name, value);
    }
    let replayed = HeaderValue::from_static("true");
    response.headers_mut().insert(IDEMPOTENT_REPLAYED, replayed);
    response.extensions_mut().insert(Shaped);
    Ok(response)
}

/// Returns the key that the client chose.
fn key_of(headers: &HeaderMap) -> Result<Option<HeaderValue>, ApiError> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = keys.next() else {
        return Ok(None);
    };
    let is_good = (1..=KEY_BYTES_MAX).contains(&key.len())
        && key.as_bytes().iter().all(u8::is_ascii_graphic)
        && keys.next().is_none();
    if !is_good {
        let message = format!("must be one word of 1 to {KEY_BYTES_MAX} visible ASCII characters");
        return Err(ApiError::field("idempotency-key", message));
    }
    Ok(Some(key.clone()))
}

/// Whose keys are told from whose: kind and name.
struct Scope(u8, [u8; 16]);

impl Scope {
    /// Returns a number for whoever it is, for bounds.
    fn owner(&self) -> [u8; 16] {
        let Self(kind, mut owner) = *self;
        owner[0] ^= kind.rotate_right(4);
        owner
    }
}

async fn scope_of(state: &ApiState, caller: &Caller, parts: &mut Parts) -> Result<Scope, ApiError> {
    Ok(match caller {
        Caller::Operator => Scope(0, [0; 16]),
        // Another user of this machine may be behind it.
        Caller::Local => Scope(1, [0; 16]),
        Caller::Account(caller) => Scope(2, caller.account.as_u128().to_be_bytes()),
        Caller::Agent(caller) => match &caller.token_grant {
            None => Scope(4, caller.agent.id.as_u128().to_be_bytes()),
            // Each token by itself, and by what its holder cannot choose: anything that it says
            // of itself may have been appended to meet another's keys.
            Some(token_grant) => Scope(5, name_of(&token_grant.signed)),
        },
        // Strangers may well choose the same key.
        Caller::Anyone => {
            let ClientAddress(address) = ClientAddress::from_request_parts(parts, state).await?;
            let address = match address.to_canonical() {
                std::net::IpAddr::V4(address) => address.to_ipv6_mapped(),
                std::net::IpAddr::V6(address) => address,
            };
            Scope(3, address.octets())
        }
    })
}

/// Returns the number whose bounds a caller's kept answers count against. However many tokens an
/// agent hands out, it is its owner's.
fn bounds_of(caller: &Caller, scope: &Scope) -> u128 {
    let owner = match caller {
        Caller::Agent(caller) if caller.agent.owner == billing::OPERATOR => Scope(0, [0; 16]),
        Caller::Agent(caller) => Scope(2, caller.agent.owner.0.to_be_bytes()),
        _ => Scope(scope.0, scope.1),
    };
    u128::from_be_bytes(owner.owner())
}

/// Returns what a token is known by here: it cannot be told from it.
fn name_of(signed: &CapabilityToken) -> [u8; 16] {
    let hash = hash_of([
        &b"aither answers of a token v1"[..],
        signed.to_text().as_bytes(),
    ]);
    let mut name = [0; 16];
    name.copy_from_slice(&hash[..16]);
    name
}

fn row_key(scope: &Scope, parts: &Parts, key: &HeaderValue) -> RowKey {
    let Scope(kind, name) = scope;
    RowKey(hash_of([
        &b"aither answers v1"[..],
        &[*kind],
        name,
        parts.method.as_str().as_bytes(),
        parts.uri.path().as_bytes(),
        key.as_bytes(),
    ]))
}

/// Returns a hash over all that must be the same in a repeated request.
fn fingerprint(parts: &Parts, body: &[u8]) -> [u8; 32] {
    let query = parts.uri.query().unwrap_or_default();
    let headers = MEANING.into_iter().map(|name| {
        let value = parts.headers.get(name);
        value.map_or(&b""[..], HeaderValue::as_bytes)
    });
    hash_of([query.as_bytes()].into_iter().chain(headers).chain([body]))
}

/// Hashes parts so that no other parts have the same hash.
fn hash_of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        let len = u64::try_from(part.len()).unwrap_or(u64::MAX);
        hash.update(len.to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(headers: &[(&'static str, &str)]) -> Parts {
        let mut request = Request::post("/v1/llm/generate?x=1");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_key_is_one_word_of_bounded_length() {
        let of = |key: &str| key_of(&parts(&[("idempotency-key", key)]).headers);
        let longest = "k".repeat(255);
        for good in ["a", "\"8e03978e\"", longest.as_str()] {
            assert_eq!(of(good).unwrap().unwrap(), good);
        }
        for bad in ["", "a b", "\u{e9}", "a\t", &"k".repeat(256)] {
            assert_eq!(of(bad).unwrap_err().code(), ErrorCode::ValidationFailed);
        }
        let two = [("idempotency-key", "a"), ("idempotency-key", "a")];
        assert!(key_of(&parts(&two).headers).is_err());
        assert_eq!(key_of(&parts(&[]).headers).unwrap(), None);
    }

    #[test]
    fn what_changes_the_meaning_changes_the_fingerprint() {
        let plain = fingerprint(&parts(&[]), b"{}");
        assert_eq!(plain, fingerprint(&parts(&[("x-request-id", "1")]), b"{}"));
        assert_eq!(
            plain,
            fingerprint(&parts(&[("x-aither-deadline", "1")]), b"{}")
        );
        for (headers, body) in [
            (&[][..], &b"{ }"[..]),
            (&[("x-aither-max-cost", "1")], b"{}"),
            (&[("x-aither-route", "local")], b"{}"),
            (&[("content-type", "application/json")], b"{}"),
        ] {
            assert_ne!(plain, fingerprint(&parts(headers), body));
        }
    }

    #[test]
    fn parts_of_a_hash_cannot_be_shifted() {
        assert_ne!(hash_of([&b"ab"[..], b"c"]), hash_of([&b"a"[..], b"bc"]));
    }

    #[test]
    fn regression_what_a_holder_appends_to_a_token_does_not_make_it_that_of_another() {
        use aither_protocol::{Caveat, RootKey, TokenId};
        let root = RootKey::from_bytes([7; 32]);
        let of = |serial| {
            let id = TokenId {
                key_id: 1,
                serial,
                agent: 1,
            };
            CapabilityToken::mint(&root, id, &[Caveat::Id(9)]).unwrap()
        };
        let (one, other) = (of(1), of(2));
        assert_eq!(name_of(&one), name_of(&one.clone()));
        assert_ne!(name_of(&one), name_of(&other));
        let narrowed = one.narrow(&[Caveat::Id(2)]).unwrap();
        assert_ne!(name_of(&one), name_of(&narrowed));
        assert_ne!(name_of(&narrowed), name_of(&other));
    }

    #[test]
    fn one_key_of_two_callers_is_two_keys() {
        let key = HeaderValue::from_static("k");
        let of = |scope| row_key(&scope, &parts(&[]), &key);
        let names = [Scope(0, [0; 16]), Scope(1, [0; 16]), Scope(2, [1; 16])];
        let keys = names.map(of);
        assert!(keys[0] != keys[1] && keys[1] != keys[2] && keys[0] != keys[2]);
    }
}
