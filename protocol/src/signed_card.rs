//! Signatures on an A2A agent card, as the A2A specification 1.0 has them.
//!
//! A signature is a detached JWS (RFC 7515) with EdDSA (RFC 8037): what is signed is the protected
//! header, a dot, and the card in its canonical form without `signatures`, both parts in base64url.
//! The key comes from the caller, who knows whose card it is; a header can ask for no other key and
//! no other algorithm.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{CanonicalError, canonical_json, limits};

/// Member of a card that holds its signatures.
const SIGNATURES: &str = "signatures";
/// Longest protected header that is decoded, in bytes of base64: ours has some 120.
const HEADER_BYTES_MAX: usize = 1024;
/// Length of an ed25519 signature in base64url.
const SIGNATURE_TEXT_LEN: usize = 86;

/// Why a card was not signed, or is not taken as signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignedCardError {
    /// No JSON object.
    #[error("a card must be an object")]
    NotAnObject,
    /// There is nothing to verify.
    #[error("the card is not signed")]
    Unsigned,
    /// `signatures` is no list of objects with a header and a signature, or too long a one.
    #[error(
        "the card's signatures must be a list of at most {} JWS signatures",
        limits::CARD_SIGNATURES_MAX
    )]
    Malformed,
    /// None of the signatures is this key's on this card.
    #[error("no signature of the card is the key's")]
    NoneValid,
    /// There is no one form to sign.
    #[error("the card has no canonical form: {0}")]
    Canonical(#[from] CanonicalError),
}

#[derive(Deserialize)]
struct CardSignature {
    protected: String,
    signature: String,
}

/// Returns the card with a signature of the key in place of those that it has.
///
/// `kid` says whose key it is: the node's peer id.
///
/// # Errors
/// The card is no object, or has no canonical form.
pub fn sign_card(card: &Value, key: &SigningKey, kid: &str) -> Result<Value, SignedCardError> {
    let mut card = unsigned(card)?;
    let header = json!({ "alg": "EdDSA", "typ": "JOSE", "kid": kid });
    let protected = BASE64.encode(header.to_string());
    let input = signing_input(&protected, &payload(&card)?);
    let signature = BASE64.encode(key.sign(input.as_bytes()).to_bytes());
    card[SIGNATURES] = json!([{ "protected": protected, "signature": signature }]);
    Ok(card)
}

/// Checks that one of a card's signatures is the key's. `card` must be the value as received.
///
/// # Errors
/// It is not signed, not by this key, or not as it stands.
pub fn verify_card(card: &Value, key: &VerifyingKey) -> Result<(), SignedCardError> {
    let unsigned = unsigned(card)?;
    let signatures = signatures(card)?;
    let payload = payload(&unsigned)?;
    let valid = signatures
        .iter()
        .any(|signature| signature.is_valid(&payload, key));
    valid.then_some(()).ok_or(SignedCardError::NoneValid)
}

fn unsigned(card: &Value) -> Result<Value, SignedCardError> {
    let mut card = card.clone();
    let fields = card.as_object_mut().ok_or(SignedCardError::NotAnObject)?;
    fields.shift_remove(SIGNATURES);
    Ok(card)
}

fn signatures(card: &Value) -> Result<Vec<CardSignature>, SignedCardError> {
    let listed = card.get(SIGNATURES).ok_or(SignedCardError::Unsigned)?;
    let listed = listed.as_array().ok_or(SignedCardError::Malformed)?;
    if listed.is_empty() {
        return Err(SignedCardError::Unsigned);
    }
    if listed.len() > limits::CARD_SIGNATURES_MAX {
        return Err(SignedCardError::Malformed);
    }
    let parsed = listed.iter().map(CardSignature::deserialize);
    parsed
        .collect::<Result<_, _>>()
        .map_err(|_| SignedCardError::Malformed)
}

fn payload(card: &Value) -> Result<String, SignedCardError> {
    Ok(BASE64.encode(canonical_json(card)?))
}

fn signing_input(protected: &str, payload: &str) -> String {
    format!("{protected}.{payload}")
}

impl CardSignature {
    fn is_valid(&self, payload: &str, key: &VerifyingKey) -> bool {
        let signed = signing_input(&self.protected, payload);
        self.names_eddsa()
            && self
                .decoded()
                .is_some_and(|signature| key.verify_strict(signed.as_bytes(), &signature).is_ok())
    }

    /// Whether the header asks for what is done here: no extension must be understood (`crit`),
    /// nor is the payload signed in its plain form (`b64`, RFC 7797).
    fn names_eddsa(&self) -> bool {
        if self.protected.len() > HEADER_BYTES_MAX {
            return false;
        }
        let header = BASE64.decode(&self.protected).ok();
        let header =
            header.and_then(|text| serde_json::from_slice::<Map<String, Value>>(&text).ok());
        header.is_some_and(|header| {
            let eddsa = header.get("alg").is_some_and(|alg| alg == "EdDSA");
            eddsa && !header.contains_key("crit") && !header.contains_key("b64")
        })
    }

    fn decoded(&self) -> Option<Signature> {
        if self.signature.len() != SIGNATURE_TEXT_LEN {
            return None;
        }
        let bytes = BASE64.decode(&self.signature).ok()?;
        Signature::from_slice(&bytes).ok()
    }
}
