//! What the node does, without saying how it is asked.
//!
//! Services know models, names, prices and time limits. They see neither HTTP nor the network:
//! `api` translates requests into calls of these types and their answers into each dialect.

pub mod catalog;
pub mod llm;
pub mod readiness;

pub use self::{
    catalog::{ModelCard, ModelCatalog, ModelNotFound},
    llm::{Generation, GenerationStep, LlmError, LlmService, Urgency},
    readiness::{Readiness, ReadyState},
};
