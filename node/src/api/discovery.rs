//! What an agent reads before it comes aboard: `/AGENTS.md`, `/SKILLS.md`, `/v1/discovery`,
//! `/v1/capabilities` and the schemas.
//!
//! Everything is made from the running node when it is asked for, and begins with the base under
//! which the reader reached it, so caches are told to ask again. The schemas depend on nothing but
//! the build and are made once. All but the capabilities are open: they say what an outsider needs
//! to ask for more, and nothing about accounts.

use std::{sync::LazyLock, time::SystemTime};

use aither_protocol::{card_schema, spec_schema, version};
use axum::{
    Json,
    extract::State,
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;

use super::{
    ApiState, Problem, VERSION,
    base_url::BaseUrl,
    discovery_text::{Facts, agents_md, skills_md},
    discovery_types::{
        CapabilityItem, CapabilityList, Discovery, MODES, NodeItem, PlanItem, endpoints,
    },
    openai_models,
};

/// Most skills that a catalogue lists; `/v1/agents` has them all.
const SKILLS_LISTED_MAX: usize = 200;

const MARKDOWN: HeaderValue = HeaderValue::from_static("text/markdown; charset=utf-8");
const SCHEMA: HeaderValue = HeaderValue::from_static("application/schema+json");
/// Caches may keep it, and ask before they show it again.
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");
/// A schema changes with the node's version only.
const AN_HOUR: HeaderValue = HeaderValue::from_static("public, max-age=3600");
const NOSNIFF: (HeaderName, HeaderValue) = (
    header::X_CONTENT_TYPE_OPTIONS,
    HeaderValue::from_static("nosniff"),
);

static CARD_SCHEMA: LazyLock<Bytes> = LazyLock::new(|| card_schema().to_string().into());
static SPEC_SCHEMA: LazyLock<Bytes> = LazyLock::new(|| spec_schema().to_string().into());

/// Tells an agent, in words, how to come aboard.
#[utoipa::path(
    get, path = "/AGENTS.md", tag = "discovery",
    responses(
        (
            status = 200, description = "Markdown with YAML front matter", body = String,
            content_type = "text/markdown",
        ),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
)]
pub(super) async fn agents_document(State(state): State<ApiState>, base: BaseUrl) -> Response {
    document(agents_md(&facts(&state, &base)))
}

/// Tells an agent, in words, what there is: models, capabilities, memory, other agents' skills.
#[utoipa::path(
    get, path = "/SKILLS.md", tag = "discovery",
    responses(
        (
            status = 200, description = "Markdown with YAML front matter", body = String,
            content_type = "text/markdown",
        ),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
)]
pub(super) async fn skills_document(State(state): State<ApiState>, base: BaseUrl) -> Response {
    document(skills_md(&facts(&state, &base)))
}

/// Tells a program what there is and how to come aboard.
#[utoipa::path(
    get, path = "/v1/discovery", tag = "discovery",
    responses(
        (status = 200, description = "What there is", body = Discovery),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
)]
pub(super) async fn discovery(State(state): State<ApiState>, base: BaseUrl) -> Response {
    let discovery = Discovery {
        protocol: version::AGENT_SPEC,
        version: VERSION,
        node: NodeItem {
            peer_id: state.peer_id.clone(),
            name: state.node_name.clone(),
            federation: None,
        },
        auto_onboard: base.join("/v1/agents/auto-onboard"),
        modes: MODES.iter().map(|mode| mode.as_str()).collect(),
        models: openai_models::objects(&state),
        capabilities: CapabilityItem::all(),
        plans: PlanItem::all(),
        endpoints: endpoints(&base),
    };
    ([(header::CACHE_CONTROL, NO_CACHE)], Json(discovery)).into_response()
}

/// Lists what an agent can be allowed to do, with the tier that each needs.
#[utoipa::path(
    get, path = "/v1/capabilities", tag = "discovery",
    responses(
        (status = 200, description = "All of them", body = CapabilityList),
        (
            status = "default", description = "A problem", body = Problem,
            content_type = "application/problem+json",
        ),
    ),
    security(("key" = [])),
)]
pub(super) async fn capabilities() -> Json<CapabilityList> {
    Json(CapabilityList::all())
}

/// The JSON Schema of an agent's card.
#[utoipa::path(
    get, path = "/v1/schemas/agent-card.json", tag = "discovery",
    responses((
        status = 200, description = "JSON Schema 2020-12", body = serde_json::Value,
        content_type = "application/schema+json",
    )),
)]
pub(super) async fn agent_card_schema() -> Response {
    schema(&CARD_SCHEMA)
}

/// The JSON Schema of `aither-agent.yaml`.
#[utoipa::path(
    get, path = "/v1/schemas/aither-agent.json", tag = "discovery",
    responses((
        status = 200, description = "JSON Schema 2020-12", body = serde_json::Value,
        content_type = "application/schema+json",
    )),
)]
pub(super) async fn agent_spec_schema() -> Response {
    schema(&SPEC_SCHEMA)
}

fn facts<'a>(state: &'a ApiState, base: &'a BaseUrl) -> Facts<'a> {
    Facts {
        node: &state.node_name,
        base,
        models: openai_models::objects(state),
        default_model: state.llm.catalog().default_model(),
        skills: state.agents.skills(SKILLS_LISTED_MAX),
        updated: SystemTime::now(),
    }
}

fn document(markdown: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, MARKDOWN),
        (header::CACHE_CONTROL, NO_CACHE),
        NOSNIFF,
    ];
    (headers, markdown).into_response()
}

fn schema(json: &Bytes) -> Response {
    let headers = [
        (header::CONTENT_TYPE, SCHEMA),
        (header::CACHE_CONTROL, AN_HOUR),
    ];
    (headers, json.clone()).into_response()
}
