//! What the node does, without saying how it is asked.
//!
//! Services know accounts, agents, models, names, prices and time limits. They see neither HTTP
//! nor the network: `api` translates requests into calls of these types and their answers into each
//! dialect.

pub mod accounts;
pub mod agents;
pub mod catalog;
pub mod embeddings;
pub mod gate;
pub mod health_probe;
pub mod llm;
pub mod plan_limits;
pub mod rate_limit;
pub mod readiness;

pub use self::{
    accounts::{AccountHook, AccountService},
    agents::{AgentService, Authority, SpawnTerms, Spawned},
    catalog::{ModelCard, ModelCatalog, ModelNotFound},
    embeddings::{Embedded, EmbeddingModelNotFound, EmbeddingService, LongTexts, TEXTS_MAX},
    health_probe::ProbeTargets,
    llm::{Finished, Generation, GenerationStep, LlmError, LlmService, Urgency},
    plan_limits::Permit,
    readiness::{Readiness, ReadyState},
};
