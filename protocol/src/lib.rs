//! Wire and document types of the node: pure, no I/O, no clock, no async.
//!
//! Reading order: who a node is ([`id`]), what is paid in ([`amount`]), what an account may use
//! ([`plan`]) and an agent may do ([`capability`]), how it hands on a part of that
//! ([`capability_token`]), how an agent describes itself ([`agent_card`]) and a node signs such a
//! description ([`canonical`], [`signed_card`]). Between nodes: how they sign what they tell each
//! other ([`cbor`], [`signed`], [`time`]), who belongs to which federation ([`federation_id`],
//! [`membership`]), what a node announces in it ([`ad`]) and how two nodes find out what the other
//! has not heard ([`reconciliation`]). Everywhere: how a refusal is named on every surface
//! ([`error_code`]), how large anything that arrives may be ([`limits`]), how a stream is cut into
//! events ([`sse`]), and every name that has a version ([`version`]).

#![warn(missing_docs)]

pub mod ad;
pub mod agent_card;
pub mod amount;
pub mod canonical;
pub mod capability;
pub mod capability_token;
pub mod cbor;
pub mod error_code;
pub mod federation_id;
pub mod id;
pub mod limits;
pub mod membership;
pub mod plan;
pub mod reconciliation;
pub mod signed;
pub mod signed_card;
pub mod sse;
pub mod time;
pub mod version;

pub use ad::{Ad, AdFlags, SkillHash, SubjectId, SubjectKind};
pub use agent_card::{
    A2aEndpoint, AgentCard, AgentName, AgentUrl, BillingTerms, ByteSize, Endpoint, FieldError,
    Health, HttpMethod, Language, Resources, Runtime, Skill, card_schema, spec_schema,
};
pub use amount::{Amount, AmountError};
pub use canonical::{CanonicalError, canonical_json};
pub use capability::{Capability, CapabilitySet, MemoryTier, MemoryTierSet, Tier, UnknownWord};
pub use capability_token::{
    Allowance, CAPABILITY_TOKEN_PREFIX, CapabilityToken, CapabilityTokenError, Caveat, Grant,
    RootKey, TokenId,
};
pub use error_code::ErrorCode;
pub use federation_id::{FederationId, InvalidFederationId};
pub use id::{NodeId, NodeIdError};
pub use plan::{Plan, UnknownPlan};
pub use signed::{Record, RecordError, RecordId, Signed, Verified};
pub use signed_card::{SignedCardError, sign_card, verify_card};
pub use time::UnixTime;
