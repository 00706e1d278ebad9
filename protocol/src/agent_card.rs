//! How an agent describes itself: the JSON card that it onboards with, and `aither-agent.yaml`.
//!
//! Both are one type. They differ in two spellings (`capabilities_requested` and `health_endpoint`
//! of a card are `capabilities` and `health.endpoint` of a file; each is understood in the other
//! too) and in that a file must name author and runtime. Either is first read into a small tree
//! with positions (`document`, `yaml`), then one walk over it (`walk`, `validate`) takes what it
//! understands and collects everything that is wrong, so that an author mends all of it at once.
//! Unknown fields are ignored, and `null` is the same as leaving a field out.

mod document;
mod schema;
mod unknown;
mod validate;
mod values;
mod walk;
mod yaml;

use std::fmt;

use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use crate::{CapabilitySet, Tier, limits};

pub use schema::{card_schema, spec_schema};
pub use unknown::unknown_fields;
pub use values::{
    AgentName, AgentUrl, ByteSize, HttpMethod, InvalidName, InvalidSize, InvalidUrl, Language,
};

/// What is known of an agent from itself. It serializes to the card's JSON.
///
/// Invariant: when made by [`AgentCard::from_json`] or [`AgentCard::from_yaml`], every bound of
/// [`limits`] holds, and its JSON is read back as the same card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct AgentCard {
    /// Unique name. Lowercase letters, digits and hyphens.
    pub name: AgentName,
    /// Semantic version. A new card of the same agent must not have a lower one.
    #[schemars(
        with = "String",
        regex(pattern = values::VERSION_PATTERN),
        length(max = limits::VERSION_BYTES_MAX)
    )]
    pub version: semver::Version,
    /// What the agent is for, in words for people.
    #[schemars(
        regex(pattern = values::PROSE_PATTERN),
        length(min = 1, max = limits::DESCRIPTION_BYTES_MAX)
    )]
    pub description: String,
    /// Author or organization. Required in `aither-agent.yaml`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        regex(pattern = values::LINE_PATTERN),
        length(min = 1, max = limits::AUTHOR_BYTES_MAX)
    )]
    pub author: Option<String>,
    /// What runs the agent's code. Required in `aither-agent.yaml`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Runtime>,
    /// What the agent can do.
    #[serde(default)]
    #[schemars(length(max = limits::SKILLS_MAX))]
    pub skills: Vec<Skill>,
    /// What the agent answers over HTTP.
    #[schemars(length(max = limits::ENDPOINTS_MAX))]
    pub endpoints: Vec<Endpoint>,
    /// Capabilities that the agent asks for.
    #[serde(rename = "capabilities_requested")]
    #[schemars(schema_with = "schema::capabilities")]
    pub capabilities: CapabilitySet,
    /// What the agent needs to run.
    #[serde(default)]
    pub resources: Resources,
    /// What a request to the agent costs.
    pub billing: BillingTerms,
    /// How the agent is found healthy.
    #[serde(flatten)]
    pub health: Health,
    /// Whether the agent runs on its owner's machine.
    #[serde(default)]
    pub self_hosted: bool,
    /// Base URL where the agent answers. Without it the agent cannot be called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_url: Option<AgentUrl>,
    /// Where the agent speaks A2A, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub a2a: Option<A2aEndpoint>,
    /// Whether to grant a part of the capabilities where the tier forbids the rest.
    #[serde(default)]
    pub partial: bool,
}

/// What runs an agent's code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Runtime {
    /// Language and its version.
    pub language: Language,
    /// Main file, relative to the agent's folder.
    #[schemars(
        regex(pattern = values::FILE_PATTERN),
        extend("not" = values::parent_segment()),
        length(min = 1, max = limits::PATH_BYTES_MAX)
    )]
    pub entrypoint: String,
    /// Dockerfile of its own, relative to the agent's folder. Made when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        regex(pattern = values::FILE_PATTERN),
        extend("not" = values::parent_segment()),
        length(min = 1, max = limits::PATH_BYTES_MAX)
    )]
    pub dockerfile: Option<String>,
}

/// Something that an agent can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Skill {
    /// Id by which it is asked for. Unique in its card.
    #[schemars(
        regex(pattern = values::SKILL_ID_PATTERN),
        length(min = 1, max = limits::SKILL_ID_BYTES_MAX)
    )]
    pub id: String,
    /// Name for people.
    #[schemars(
        regex(pattern = values::LINE_PATTERN),
        length(min = 1, max = limits::SKILL_NAME_BYTES_MAX)
    )]
    pub name: String,
    /// What it does, in words for people.
    #[schemars(
        regex(pattern = values::PROSE_PATTERN),
        length(min = 1, max = limits::DESCRIPTION_BYTES_MAX)
    )]
    pub description: String,
    /// Words to find it by.
    #[serde(default)]
    #[schemars(
        length(max = limits::TAGS_MAX),
        inner(regex(pattern = values::LINE_PATTERN), length(min = 1, max = limits::TAG_BYTES_MAX))
    )]
    pub tags: Vec<String>,
    /// Inputs that it is made for.
    #[serde(default)]
    #[schemars(
        length(max = limits::EXAMPLES_MAX),
        inner(
            regex(pattern = values::PROSE_PATTERN),
            length(min = 1, max = limits::EXAMPLE_BYTES_MAX)
        )
    )]
    pub examples: Vec<String>,
    /// Path that answers it, where that is not `/chat`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        regex(pattern = values::PATH_PATTERN),
        extend("not" = values::dot_segment()),
        length(min = 1, max = limits::PATH_BYTES_MAX)
    )]
    pub endpoint: Option<String>,
}

/// Something that an agent answers over HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Endpoint {
    /// Path below the agent's base URL.
    #[schemars(
        regex(pattern = values::PATH_PATTERN),
        extend("not" = values::dot_segment()),
        length(min = 1, max = limits::PATH_BYTES_MAX)
    )]
    pub path: String,
    /// Method that it takes.
    pub method: HttpMethod,
    /// What it does, in words for people.
    #[serde(default)]
    #[schemars(
        regex(pattern = values::PROSE_PATTERN),
        length(max = limits::ENDPOINT_DESCRIPTION_BYTES_MAX)
    )]
    pub description: String,
}

/// What an agent needs to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(default)]
pub struct Resources {
    /// Whether it needs a GPU.
    pub gpu: bool,
    /// GPU memory that it needs at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vram_min: Option<ByteSize>,
    /// Memory that it needs at least.
    pub ram_min: ByteSize,
    /// Language model that it prefers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        regex(pattern = values::LINE_PATTERN),
        length(min = 1, max = limits::MODEL_NAME_BYTES_MAX)
    )]
    pub model: Option<String>,
    /// Most requests that it takes at once.
    #[schemars(range(
        min = *limits::AGENT_REQUESTS_CONCURRENT.start(),
        max = *limits::AGENT_REQUESTS_CONCURRENT.end()
    ))]
    pub max_concurrent: u32,
}

/// What a request to an agent costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct BillingTerms {
    /// Whole tokens (platform credit) per request.
    #[schemars(range(
        min = *limits::TOKEN_COST_PER_REQUEST.start(),
        max = *limits::TOKEN_COST_PER_REQUEST.end()
    ))]
    pub token_cost_per_request: u32,
    /// Tier of the agent: how much it may be trusted with.
    pub category: Tier,
}

/// How an agent is found healthy.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
pub struct Health {
    /// Path that answers 200 while the agent is healthy.
    #[schemars(
        rename = "health_endpoint",
        regex(pattern = values::PATH_PATTERN),
        extend("not" = values::dot_segment()),
        length(min = 1, max = limits::PATH_BYTES_MAX)
    )]
    pub endpoint: String,
    /// Time between two checks.
    #[schemars(rename = "health", schema_with = "schema::health")]
    pub interval: std::time::Duration,
}

/// Where an agent speaks A2A.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct A2aEndpoint {
    /// Where its JSON-RPC answers.
    pub url: AgentUrl,
    /// Where its A2A card is, if not at the well-known path below `agent_url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub card_url: Option<AgentUrl>,
}

/// Something wrong in a card or file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// Where, as `skills[2].tags[0]`; empty for the document as a whole.
    pub field: String,
    /// What is wrong, or what would be right: "must be a string".
    pub message: String,
    /// Line from 1, where the document is a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// Column from 1, in characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
}

/// Which of its two forms a card is read in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// The JSON that an agent onboards with.
    Card,
    /// `aither-agent.yaml`.
    Spec,
}

impl AgentCard {
    /// Reads a card.
    ///
    /// # Errors
    /// Everything that is wrong with it, up to [`limits::FIELD_ERRORS_MAX`].
    pub fn from_json(value: &serde_json::Value) -> Result<Self, Vec<FieldError>> {
        let root = document::from_json(value).map_err(|error| vec![error])?;
        validate::card(&root, Form::Card, Vec::new())
    }

    /// Reads an `aither-agent.yaml`: YAML 1.2 in one document, without anchors, aliases, merge
    /// keys and type tags.
    ///
    /// # Errors
    /// Everything that is wrong with it, up to [`limits::FIELD_ERRORS_MAX`], each with its line and
    /// column, in their order.
    pub fn from_yaml(text: &str) -> Result<Self, Vec<FieldError>> {
        let (root, errors) = yaml::read(text).map_err(|error| vec![error])?;
        validate::card(&root, Form::Spec, errors)
    }

    /// Returns the card as JSON, with defaults filled in.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("a card has no maps whose keys could be other than text")
    }
}

impl Default for Resources {
    fn default() -> Self {
        Self {
            gpu: false,
            vram_min: None,
            ram_min: ByteSize::from_bytes(512_000_000),
            model: None,
            max_concurrent: 5,
        }
    }
}

impl Health {
    /// Time between two checks when a card does not say.
    pub const INTERVAL_DEFAULT: std::time::Duration = std::time::Duration::from_secs(30);
}

/// A card has the endpoint beside `health`, which keeps what else there is to say.
impl Serialize for Health {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct InCard<'a> {
            health_endpoint: &'a str,
            health: Interval,
        }

        #[derive(Serialize)]
        struct Interval {
            interval: String,
        }

        let interval = values::interval_text(self.interval);
        InCard {
            health_endpoint: &self.endpoint,
            health: Interval { interval },
        }
        .serialize(serializer)
    }
}

impl std::error::Error for FieldError {}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, "line {line}, column {column}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}
