//! The one small enum behind every error surface.
//!
//! A service answers with an [`ErrorCode`]; how it looks outside (problem+json, OpenAI, Ollama,
//! A2A) is decided once, in the node's API layer. Codes are part of the interface: they may be
//! added and retired, never renamed or reused for something else.

use std::fmt;

use serde::{Serialize, Serializer};

/// What went wrong, in one stable word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorCode {
    /// The body or the query is not what the route reads: bad JSON, a wrong type.
    InvalidRequest,
    /// A prompt that leaves the model's context no room for an answer.
    PromptTooLong,
    /// No key, or a wrong one.
    Unauthorized,
    /// The payer has fewer tokens than it takes.
    InsufficientTokens,
    /// A key that may not do this.
    CapabilityMissing,
    /// A part of memory that the caller's tier may not touch.
    TierForbidden,
    /// An address outside that this node does not ask on behalf of others.
    TargetForbidden,
    /// The account has as much as its plan allows.
    PlanLimit,
    /// The account's memory or files take as much as its plan allows.
    QuotaExceeded,
    /// Nobody can register here by himself.
    RegistrationClosed,
    /// No such route or thing.
    NotFound,
    /// No agent of that name, or none that the caller may manage.
    UnknownAgent,
    /// No agent that can be called has the skill.
    NoAgentForSkill,
    /// Nobody reachable serves a model of that name.
    ModelNotFound,
    /// Memory has no such key, or none that the caller can see.
    UnknownKey,
    /// The route exists, but not for this method.
    MethodNotAllowed,
    /// The entry is at another version than the caller believed.
    VersionConflict,
    /// The state of the thing forbids it.
    Conflict,
    /// The body is larger than this node reads.
    PayloadTooLarge,
    /// A value of memory that is larger than any may be.
    ValueTooLarge,
    /// The body is not of a media type that the route reads.
    UnsupportedMediaType,
    /// A document of which no text can be had.
    InvalidDocument,
    /// An agent's card or spec that is wrong.
    InvalidSpec,
    /// Well-formed, but a field is missing or out of bounds.
    ValidationFailed,
    /// A header, or all of them together, is too large.
    HeadersTooLarge,
    /// Too many requests from this caller.
    RateLimited,
    /// A defect of this node.
    Internal,
    /// The feature is not in this build, or not in this version.
    NotAvailable,
    /// A peer, an agent or a download failed.
    UpstreamFailed,
    /// Every place, and the queue behind them, is taken.
    Overloaded,
    /// The feature needs configuration that is missing.
    NotConfigured,
    /// The node is starting or stopping.
    NotReady,
    /// The answer took longer than allowed.
    TimedOut,
    /// No room left on the disk or in memory.
    InsufficientStorage,
}

impl ErrorCode {
    /// Every code, for documents and tests.
    pub const ALL: &'static [Self] = &[
        Self::InvalidRequest,
        Self::PromptTooLong,
        Self::Unauthorized,
        Self::InsufficientTokens,
        Self::CapabilityMissing,
        Self::TierForbidden,
        Self::TargetForbidden,
        Self::PlanLimit,
        Self::QuotaExceeded,
        Self::RegistrationClosed,
        Self::NotFound,
        Self::UnknownAgent,
        Self::NoAgentForSkill,
        Self::ModelNotFound,
        Self::UnknownKey,
        Self::MethodNotAllowed,
        Self::VersionConflict,
        Self::Conflict,
        Self::PayloadTooLarge,
        Self::ValueTooLarge,
        Self::UnsupportedMediaType,
        Self::InvalidDocument,
        Self::InvalidSpec,
        Self::ValidationFailed,
        Self::HeadersTooLarge,
        Self::RateLimited,
        Self::Internal,
        Self::NotAvailable,
        Self::UpstreamFailed,
        Self::Overloaded,
        Self::NotConfigured,
        Self::NotReady,
        Self::TimedOut,
        Self::InsufficientStorage,
    ];

    /// Returns the code as it is written outside: a snake_case word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::PromptTooLong => "prompt_too_long",
            Self::Unauthorized => "unauthorized",
            Self::InsufficientTokens => "insufficient_tokens",
            Self::CapabilityMissing => "capability_missing",
            Self::TierForbidden => "tier_forbidden",
            Self::TargetForbidden => "target_forbidden",
            Self::QuotaExceeded => "quota_exceeded",
            Self::PlanLimit => "plan_limit",
            Self::RegistrationClosed => "registration_closed",
            Self::NotFound => "not_found",
            Self::UnknownAgent => "unknown_agent",
            Self::NoAgentForSkill => "no_agent_for_skill",
            Self::ModelNotFound => "model_not_found",
            Self::UnknownKey => "unknown_key",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::VersionConflict => "version_conflict",
            Self::Conflict => "conflict",
            Self::PayloadTooLarge => "payload_too_large",
            Self::ValueTooLarge => "value_too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::InvalidDocument => "invalid_document",
            Self::InvalidSpec => "invalid_spec",
            Self::ValidationFailed => "validation_failed",
            Self::HeadersTooLarge => "headers_too_large",
            Self::RateLimited => "rate_limited",
            Self::Internal => "internal",
            Self::NotAvailable => "not_available",
            Self::UpstreamFailed => "upstream_failed",
            Self::Overloaded => "overloaded",
            Self::NotConfigured => "not_configured",
            Self::NotReady => "not_ready",
            Self::TimedOut => "timed_out",
            Self::InsufficientStorage => "insufficient_storage",
        }
    }

    /// Returns the HTTP status that goes with the code.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::InvalidRequest | Self::PromptTooLong => 400,
            Self::Unauthorized => 401,
            Self::InsufficientTokens => 402,
            Self::CapabilityMissing | Self::TierForbidden | Self::PlanLimit => 403,
            Self::QuotaExceeded | Self::RegistrationClosed | Self::TargetForbidden => 403,
            Self::NotFound | Self::UnknownAgent | Self::ModelNotFound | Self::UnknownKey => 404,
            Self::NoAgentForSkill => 404,
            Self::MethodNotAllowed => 405,
            Self::Conflict | Self::VersionConflict => 409,
            Self::PayloadTooLarge | Self::ValueTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::InvalidDocument | Self::InvalidSpec | Self::ValidationFailed => 422,
            Self::RateLimited => 429,
            Self::HeadersTooLarge => 431,
            Self::Internal => 500,
            Self::NotAvailable => 501,
            Self::UpstreamFailed => 502,
            Self::Overloaded | Self::NotConfigured | Self::NotReady => 503,
            Self::TimedOut => 504,
            Self::InsufficientStorage => 507,
        }
    }

    /// Returns a short title: the same words for every error of this code.
    pub const fn title(self) -> &'static str {
        match self {
            Self::InvalidRequest => "Invalid request",
            Self::PromptTooLong => "Prompt too long",
            Self::Unauthorized => "Missing or wrong key",
            Self::InsufficientTokens => "Too few tokens",
            Self::CapabilityMissing => "Not permitted with this key",
            Self::TierForbidden => "Memory beyond the tier",
            Self::TargetForbidden => "Address not allowed",
            Self::QuotaExceeded => "Quota exceeded",
            Self::PlanLimit => "Beyond the plan",
            Self::RegistrationClosed => "Registration closed",
            Self::NotFound => "Not found",
            Self::UnknownAgent => "Unknown agent",
            Self::NoAgentForSkill => "No agent for the skill",
            Self::ModelNotFound => "Model not found",
            Self::UnknownKey => "Unknown key",
            Self::MethodNotAllowed => "Method not allowed",
            Self::VersionConflict => "Version conflict",
            Self::Conflict => "Conflict",
            Self::PayloadTooLarge => "Body too large",
            Self::ValueTooLarge => "Value too large",
            Self::UnsupportedMediaType => "Unsupported media type",
            Self::InvalidDocument => "Document cannot be read",
            Self::InvalidSpec => "Invalid agent card",
            Self::ValidationFailed => "Validation failed",
            Self::HeadersTooLarge => "Headers too large",
            Self::RateLimited => "Too many requests",
            Self::Internal => "Internal error",
            Self::NotAvailable => "Not available in this build",
            Self::UpstreamFailed => "Upstream failed",
            Self::Overloaded => "Overloaded",
            Self::NotConfigured => "Not configured",
            Self::NotReady => "Not ready",
            Self::TimedOut => "Timed out",
            Self::InsufficientStorage => "No room",
        }
    }

    /// Returns whether the same request may pass later without a change.
    pub const fn is_transient(self) -> bool {
        matches!(
            self,
            Self::RateLimited
                | Self::Overloaded
                | Self::NotReady
                | Self::TimedOut
                | Self::UpstreamFailed
        )
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn codes_are_distinct_snake_case_words() {
        let words: HashSet<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(words.len(), ErrorCode::ALL.len());
        for word in words {
            assert!(
                word.chars().all(|c| c.is_ascii_lowercase() || c == '_'),
                "{word}"
            );
        }
    }

    #[test]
    fn every_status_is_an_error() {
        for code in ErrorCode::ALL {
            assert!((400..600).contains(&code.http_status()), "{code}");
            assert!(!code.title().is_empty());
        }
    }

    #[test]
    fn serializes_as_its_word() {
        let json = serde_json::to_string(&ErrorCode::ModelNotFound).unwrap();
        assert_eq!(json, "\"model_not_found\"");
    }
}
