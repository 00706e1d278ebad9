//! What the node does, without saying how it is asked.
//!
//! Services know accounts, agents, models, names, prices and time limits. They see neither HTTP
//! nor the network: `api` translates requests into calls of these types and their answers into each
//! dialect.

pub mod accounts;
pub mod agent_health;
pub mod agents;
pub mod calls;
pub mod catalog;
pub mod code;
pub mod codegraph;
pub mod documents;
pub mod embeddings;
pub mod events;
pub mod gate;
pub mod health_probe;
pub mod http_fetch;
pub mod llm;
pub mod marketplace;
pub mod memory;
pub mod memory_embedding;
pub mod memory_index;
pub mod memory_search;
pub mod outbound;
pub mod plan_limits;
pub mod rate_limit;
pub mod readiness;
pub mod search;
pub mod shares;
pub mod tools;
pub mod workspaces;

pub use self::{
    accounts::{AccountHook, AccountService},
    agent_health::{AgentHealth, CallEnd, Checkup, Standing, Unavailable},
    agents::{AgentService, Authority, SpawnTerms, Spawned},
    calls::{
        Budget, CallAnswer, CallError, CallEvent, CallFailure, CallRequest, CallService,
        CallStream, Callee, TaskCaller, TaskViewer, What,
    },
    catalog::{ModelCard, ModelCatalog, ModelNotFound},
    code::{CodeCaller, CodeService, Commit as CodeCommit, KnownRepository},
    codegraph::{CodegraphService, FoundRow},
    documents::{DocumentError, DocumentPlace, DocumentService, Spool},
    embeddings::{Embedded, EmbeddingModelNotFound, EmbeddingService, LongTexts, TEXTS_MAX},
    events::{
        Audience, Emission, Emitted, EventCounts, EventService, NodeEvent, Step, Subscription,
    },
    health_probe::ProbeFailure,
    http_fetch::{FetchBounds, FetchPlace, FetchService, Fetched},
    llm::{Finished, Generation, GenerationStep, LlmError, LlmService, Urgency},
    marketplace::{Offer, OfferFilter, OfferOrder, OfferPlace},
    memory::{MemoryAccess, MemoryService, MemoryWrite, Place},
    memory_embedding::MemoryEmbedding,
    memory_index::IndexThread,
    memory_search::{MemoryFound, MemorySearch},
    outbound::Targets,
    plan_limits::Permit,
    readiness::{Readiness, ReadyState},
    search::{Found, SearchService},
    tools::{Tools, ToolsError},
    workspaces::{Upload, WorkspaceService},
};
