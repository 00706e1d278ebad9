//! The resolved configuration, section by section.
//!
//! Every field carries its documentation, from which the example file and `--print-config` are
//! made. Unknown keys are refused, so that a typo cannot pass for a default. Sections are handed
//! down one by one; nothing below the node sees the whole. There are no secrets in here: they
//! live in files of their own.

pub mod check;
pub mod load;
pub mod print;
pub mod tools;
pub mod units;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use aither_inference::{
    EngineConfig,
    engine::{self, BackendChoice},
};
use aither_protocol::{Amount, Plan, limits::NODE_NAME_BYTES_MAX};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::tools::{CodeConfig, FetchConfig, RepositoryConfig, SearchConfig};
use crate::{
    events::LogLimits,
    memory::{MemoryLimits, Quota},
};

/// The chat model that is served when a request names none.
pub const DEFAULT_MODEL: &str = "smollm2:135m";
/// Most time between the first signal and the exit: part of the interface.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);
/// Names used in the platform's documents that stand for the default chat model here.
const BUILT_IN_ALIASES: &[&str] = &["llama3.1:8b", "mistral:7b"];

/// Everything that can be configured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where keys, models and state live. Default: $XDG_DATA_HOME/aither, else
    /// ~/.local/share/aither.
    pub data_dir: PathBuf,
    /// The node's name, shown to people; empty takes the host's name.
    #[serde(deserialize_with = "units::lenient_text")]
    pub name: String,
    /// The model that answers when a request names none.
    pub default_model: String,
    /// Logging.
    pub log: LogConfig,
    /// The HTTP API.
    pub http: HttpConfig,
    /// Accounts and their keys.
    pub accounts: AccountsConfig,
    /// What is paid for what.
    pub billing: BillingConfig,
    /// Calls of agents.
    pub calls: CallsConfig,
    /// Files of agents and accounts.
    pub files: FilesConfig,
    /// What agents remember.
    pub memory: MemoryConfig,
    /// The log of events.
    pub events: EventsConfig,
    /// Git repositories that agents may read and write.
    pub code: CodeConfig,
    /// What agents may fetch over HTTP.
    pub fetch: FetchConfig,
    /// What searches look through.
    pub search: SearchConfig,
    /// The inference engine.
    pub inference: InferenceConfig,
    /// Model files.
    pub models: ModelsConfig,
    /// Other names for models: alias = "model". Names that nobody serves are looked up here.
    pub aliases: BTreeMap<String, String>,
}

/// Logging.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// "pretty" for people, "json" for machines: one object per line on stderr.
    pub format: LogFormat,
    /// What is logged, as in RUST_LOG: "info", "warn,aither_node=debug". The environment's
    /// AITHER_LOG, else RUST_LOG, goes before it.
    pub filter: String,
}

/// How log lines look.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Pretty,
    /// One JSON object per line.
    Json,
}

/// The HTTP API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// The address to listen on. Port 0 takes any free one; it is written to run.json.
    #[schemars(with = "String")]
    pub bind: SocketAddr,
    /// Whether programs on this machine may use inference and model lists without a key, as
    /// tools made for a local model server expect. Requests of web pages never may.
    pub keyless_loopback: bool,
    /// Largest request body.
    #[serde(with = "units::size_usize")]
    #[schemars(with = "String")]
    pub body_bytes_max: usize,
    /// Most open connections; further ones wait until one closes.
    pub connections_max: usize,
    /// Longest wait for a request's headers, also on a kept-alive connection.
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub header_timeout: Duration,
    /// Longest wait for a whole answer; for a streamed one, until its first piece and from one
    /// piece to the next. Also for a client that does not read what it is sent.
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub request_timeout: Duration,
    /// The base URL under which others reach this node, where a proxy stands before it:
    /// "https://node.example.org".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_url: Option<String>,
}

/// Accounts and their keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AccountsConfig {
    /// Who may make an account: "open" is everybody who reaches the node, "closed" the operator
    /// alone.
    pub registration: Registration,
    /// The plan of new accounts: "explorer" (10 requests a minute, one at a time), "builder" (100
    /// and 5) or "enterprise" (unlimited). A node that is open to the world sets "explorer".
    #[schemars(with = "String")]
    pub default_plan: Plan,
    /// How long the key of a login works. The one of a registration does not expire.
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub login_key_ttl: Duration,
    /// How long a login can be renewed without the password, from its last renewal on.
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub refresh_ttl: Duration,
}

/// Who may make an account.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Registration {
    /// Everybody who reaches the node.
    #[default]
    Open,
    /// The operator.
    Closed,
}

/// Calls of agents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CallsConfig {
    /// How long it is known what became of a task.
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub task_retention: Duration,
    /// What the records of all tasks may take; the oldest go first.
    #[serde(with = "units::size_u64")]
    #[schemars(with = "String")]
    pub task_bytes_max: u64,
}

/// Files of agents and accounts. An account may keep what its plan gives, workspaces and artifacts
/// together: "explorer" 1 GiB, "builder" 10 GiB, "enterprise" 100 GiB.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FilesConfig {
    /// Largest artifact.
    #[serde(with = "units::size_u64")]
    #[schemars(with = "String")]
    pub artifact_bytes_max: u64,
    /// Largest document that is read for its text.
    #[serde(with = "units::size_u64")]
    #[schemars(with = "String")]
    pub document_bytes_max: u64,
}

/// What agents remember. An account may keep what its plan gives: "explorer" 10 000 entries and
/// 64 MiB, "builder" 1 000 000 and 4 GiB, "enterprise" what the node has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryConfig {
    /// Entries of all accounts together.
    pub entries_max: u64,
    /// Bytes of their keys, values and tags. The file takes about twice that.
    #[serde(with = "units::size_u64")]
    #[schemars(with = "String")]
    pub bytes_max: u64,
    /// What the search indexes that are in memory may take together.
    #[serde(with = "units::size_u64")]
    #[schemars(with = "String")]
    pub index_memory: u64,
}

/// The log of events. Whoever follows them can resume from what is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EventsConfig {
    /// What the events may take; the oldest go first. The file takes about twice that.
    #[serde(with = "units::size_u64")]
    #[schemars(with = "String")]
    pub bytes_max: u64,
    /// How long an event is kept.
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub age_max: Duration,
}

/// What is paid for what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BillingConfig {
    /// Tokens that a new account is given.
    #[serde(with = "units::amount")]
    #[schemars(with = "f64")]
    pub welcome_grant: Amount,
    /// Tokens for a thousand prompt and a thousand completion tokens of a model, by its name:
    /// "smollm2:135m" = { prompt_per_1k = 0.02, completion_per_1k = 0.05 }. A model that is not
    /// named costs 1 for 8 billion weights, others in proportion.
    pub prices: BTreeMap<String, PriceConfig>,
}

/// What a model costs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PriceConfig {
    /// Tokens for a thousand tokens of prompts.
    #[serde(with = "units::amount")]
    #[schemars(with = "f64")]
    pub prompt_per_1k: Amount,
    /// Tokens for a thousand tokens of answers.
    #[serde(with = "units::amount")]
    #[schemars(with = "f64")]
    pub completion_per_1k: Amount,
}

/// The inference engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct InferenceConfig {
    /// Where models run: "auto" takes a GPU with room where the build has one, "cpu", "gpu".
    pub backend: Backend,
    /// Compute threads; 0 takes one per core.
    pub threads: usize,
    /// Requests that run at once.
    pub running_max: usize,
    /// Requests that wait behind them; further ones are refused with 503.
    pub queue_len_max: usize,
    /// What loaded models may take together. Default: half of this machine's memory.
    #[serde(with = "units::size_u64")]
    #[schemars(with = "String")]
    pub memory_budget: u64,
    /// A model unused for this long is unloaded.
    #[serde(with = "units::duration")]
    #[schemars(with = "String")]
    pub idle_unload: Duration,
    /// Longest context, in model tokens; a model's own may be shorter.
    pub context_length_max: usize,
    /// Whether what comes next is drafted from what was said before: "auto" where that saves
    /// time, "off". The text is the same either way.
    pub speculation: Speculation,
}

/// Which device runs the models.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// A GPU with room where the build has one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU, or an error.
    Gpu,
}

/// Whether the engine drafts what comes next.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Speculation {
    /// On the CPU, for as long as drafts turn out right.
    #[default]
    Auto,
    /// Never.
    Off,
}

/// Model files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelsConfig {
    /// What to serve: "NAME" of a stored model, "FILE", "NAME=FILE"; files are used where they
    /// lie. Empty serves every stored model.
    pub serve: Vec<String>,
    /// The model that makes embeddings: "NAME", "FILE" or "NAME=FILE". Empty takes a stored one, if
    /// there is any.
    pub embedding: String,
    /// Whether the models named in `serve`, or else the default model, are loaded at the start.
    pub preload: bool,
    /// Largest file that is downloaded or imported.
    #[serde(with = "units::size_u64")]
    #[schemars(with = "String")]
    pub file_bytes_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: load::default_data_dir(),
            name: String::new(),
            default_model: DEFAULT_MODEL.to_owned(),
            log: LogConfig::default(),
            http: HttpConfig::default(),
            accounts: AccountsConfig::default(),
            billing: BillingConfig::default(),
            calls: CallsConfig::default(),
            files: FilesConfig::default(),
            memory: MemoryConfig::default(),
            events: EventsConfig::default(),
            code: CodeConfig::default(),
            fetch: FetchConfig::default(),
            search: SearchConfig::default(),
            inference: InferenceConfig::default(),
            models: ModelsConfig::default(),
            aliases: BUILT_IN_ALIASES
                .iter()
                .map(|alias| ((*alias).to_owned(), DEFAULT_MODEL.to_owned()))
                .collect(),
        }
    }
}

impl Config {
    /// Returns the node's name for people: the configured one, else the host's.
    pub fn node_name(&self) -> String {
        if !self.name.is_empty() {
            return self.name.clone();
        }
        let host = sysinfo::System::host_name().unwrap_or_default();
        let host: String = host.chars().filter(|c| !c.is_control()).collect();
        if host.is_empty() || host.len() > NODE_NAME_BYTES_MAX {
            "aither-node".to_owned()
        } else {
            host
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            format: LogFormat::default(),
            filter: "info".to_owned(),
        }
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            bind: SocketAddr::from(([127, 0, 0, 1], 8200)),
            keyless_loopback: true,
            body_bytes_max: 4 << 20,
            connections_max: 512,
            header_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(60),
            public_url: None,
        }
    }
}

impl Default for AccountsConfig {
    fn default() -> Self {
        Self {
            registration: Registration::Open,
            default_plan: Plan::Enterprise,
            login_key_ttl: Duration::from_secs(24 * 3600),
            refresh_ttl: Duration::from_secs(30 * 24 * 3600),
        }
    }
}

impl Default for BillingConfig {
    fn default() -> Self {
        Self {
            welcome_grant: Amount::from_tokens(1000),
            prices: BTreeMap::new(),
        }
    }
}

impl Default for CallsConfig {
    fn default() -> Self {
        Self {
            task_retention: Duration::from_secs(30 * 24 * 3600),
            task_bytes_max: 4 << 30,
        }
    }
}

impl Default for FilesConfig {
    fn default() -> Self {
        Self {
            artifact_bytes_max: 256 << 20,
            document_bytes_max: 32 << 20,
        }
    }
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            entries_max: 100_000_000,
            bytes_max: 256 << 30,
            index_memory: 1 << 30,
        }
    }
}

impl From<&MemoryConfig> for MemoryLimits {
    fn from(config: &MemoryConfig) -> Self {
        Self {
            total: Quota {
                entries: config.entries_max,
                bytes: config.bytes_max,
            },
            ..Self::default()
        }
    }
}

impl Default for EventsConfig {
    fn default() -> Self {
        Self {
            bytes_max: 1 << 30,
            age_max: Duration::from_secs(30 * 24 * 3600),
        }
    }
}

impl From<&EventsConfig> for LogLimits {
    fn from(config: &EventsConfig) -> Self {
        Self {
            bytes_max: config.bytes_max,
            age_max: config.age_max,
            ..Self::default()
        }
    }
}

impl Default for InferenceConfig {
    fn default() -> Self {
        Self {
            backend: Backend::Auto,
            threads: 0,
            running_max: 32,
            queue_len_max: 256,
            memory_budget: load::default_memory_budget(),
            idle_unload: Duration::from_secs(300),
            context_length_max: 8192,
            speculation: Speculation::Auto,
        }
    }
}

impl Default for ModelsConfig {
    fn default() -> Self {
        Self {
            serve: Vec::new(),
            embedding: String::new(),
            preload: true,
            file_bytes_max: 256 << 30,
        }
    }
}

impl From<Backend> for BackendChoice {
    fn from(backend: Backend) -> Self {
        match backend {
            Backend::Auto => Self::Auto,
            Backend::Cpu => Self::Cpu,
            Backend::Gpu => Self::Gpu,
        }
    }
}

impl From<Speculation> for engine::Speculation {
    fn from(speculation: Speculation) -> Self {
        match speculation {
            Speculation::Auto => Self::Auto,
            Speculation::Off => Self::Off,
        }
    }
}

impl From<&InferenceConfig> for EngineConfig {
    fn from(config: &InferenceConfig) -> Self {
        Self {
            backend: config.backend.into(),
            threads: config.threads,
            running_max: config.running_max,
            queue_len_max: config.queue_len_max,
            memory_budget_bytes: config.memory_budget,
            idle_unload: config.idle_unload,
            context_length_max: config.context_length_max,
            speculation: config.speculation.into(),
        }
    }
}
