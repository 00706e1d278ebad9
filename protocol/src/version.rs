//! The only home of versioned names: formats, and the domains that keep keys and hashes apart.
//!
//! A name is bound to one construction for ever. What changes gets a new name beside the old one,
//! and the old one is retired, never used for something else.

use crate::FederationId;

/// First byte of a capability token: the only version so far.
pub const CAPABILITY_TOKEN: u8 = 1;

/// What a root key authenticates to become the key of capability tokens.
pub const CAPABILITY_TOKEN_KEY_DOMAIN: &[u8] = b"aither capability token v1";

/// What is hashed before a chain's MAC to name an allowance.
pub const CAPABILITY_ALLOWANCE_DOMAIN: &[u8] = b"aither capability allowance v1";

/// What the signature of an ad covers first.
pub const AD_DOMAIN: &[u8] = b"aither ad v1";

/// The libp2p stream on which two nodes reconcile their ads.
pub const RECONCILIATION_PROTOCOL: &str = "/aither/reconciliation/1";

/// Returns the topic on which the ads of a federation are gossiped.
pub fn ads_topic(federation: &FederationId) -> String {
    format!("aither/{federation}/ads/1")
}

/// What is hashed before a skill's id to make the short form that ads carry.
pub const SKILL_HASH_DOMAIN: &[u8] = b"aither skill v1";

/// What is hashed before node, kind and name to name what an ad is about.
pub const AD_SUBJECT_DOMAIN: &[u8] = b"aither ad subject v1";

/// What the signature of a certificate covers first.
pub const CERTIFICATE_DOMAIN: &[u8] = b"aither certificate v1";

/// What the signature of a revocation covers first.
pub const REVOCATION_DOMAIN: &[u8] = b"aither revocation v1";

/// What is hashed before federation, issuer and secret to make what an issuer stores.
pub const JOIN_SECRET_DOMAIN: &[u8] = b"aither join secret v1";

/// First byte of an invite: the only version so far.
pub const INVITE: u8 = 1;

/// What is hashed before an invite's bytes to make its checksum.
pub const INVITE_CHECKSUM_DOMAIN: &[u8] = b"aither invite v1";

/// The agent spec that cards, `aither-agent.yaml` and discovery documents follow.
pub const AGENT_SPEC: &str = "aitheros-agent-spec/3.0";
