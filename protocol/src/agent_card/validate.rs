//! The rules of a card, field by field.
//!
//! Each function reads one object: it reads all of its fields before it puts them together, so
//! that a wrong one hides no other.

use std::{collections::HashSet, hash::Hash};

use super::{
    A2aEndpoint, AgentCard, AgentUrl, BillingTerms, Endpoint, FieldError, Form, Health, HttpMethod,
    Language, Resources, Runtime, Skill,
    document::Node,
    values,
    walk::{Fields, Place, Shape, TextRule, Walk},
};
use crate::{Capability, CapabilitySet, Tier, limits};

const DESCRIPTION: TextRule = TextRule::new(Shape::Prose, limits::DESCRIPTION_BYTES_MAX);
const AUTHOR: TextRule = TextRule::new(Shape::Line, limits::AUTHOR_BYTES_MAX);
const SKILL_ID: TextRule = TextRule::new(Shape::SkillId, limits::SKILL_ID_BYTES_MAX);
const SKILL_NAME: TextRule = TextRule::new(Shape::Line, limits::SKILL_NAME_BYTES_MAX);
const TAG: TextRule = TextRule::new(Shape::Line, limits::TAG_BYTES_MAX);
const EXAMPLE: TextRule = TextRule::new(Shape::Prose, limits::EXAMPLE_BYTES_MAX);
const PATH: TextRule = TextRule::new(Shape::Path, limits::PATH_BYTES_MAX);
const FILE: TextRule = TextRule::new(Shape::File, limits::PATH_BYTES_MAX);
const MODEL: TextRule = TextRule::new(Shape::Line, limits::MODEL_NAME_BYTES_MAX);
const ENDPOINT_DESCRIPTION: TextRule =
    TextRule::new(Shape::Prose, limits::ENDPOINT_DESCRIPTION_BYTES_MAX).or_empty();

/// Reads a card from its tree. `errors` is what reading the text has found wrong.
///
/// # Errors
/// Everything that is wrong.
pub(super) fn card(
    root: &Node<'_>,
    form: Form,
    errors: Vec<FieldError>,
) -> Result<AgentCard, Vec<FieldError>> {
    let mut walk = Walk::new(errors);
    let fields = walk.object(&Place::root(root));
    let card = fields.and_then(|fields| fields_of_card(&mut walk, &fields, form));
    walk.finish(card)
}

fn fields_of_card(walk: &mut Walk, card: &Fields<'_>, form: Form) -> Option<AgentCard> {
    let name = walk.required(card, "name", Walk::value);
    let version = walk.required(card, "version", version);
    let description = walk.required(card, "description", |walk, at| walk.text(at, DESCRIPTION));
    let author = of_spec(walk, card, "author", form, |walk, at| walk.text(at, AUTHOR));
    let runtime = of_spec(walk, card, "runtime", form, runtime);
    let skills = walk.optional(card, "skills", skills);
    let endpoints = walk.required(card, "endpoints", endpoints);
    let capabilities = capabilities(walk, card, form);
    let resources = walk.optional(card, "resources", resources);
    let billing = walk.required(card, "billing", billing);
    let health = health(walk, card, form);
    let self_hosted = walk.optional(card, "self_hosted", Walk::flag);
    let agent_url = walk.optional(card, "agent_url", Walk::value);
    let a2a = walk.optional(card, "a2a", a2a);
    let partial = walk.optional(card, "partial", Walk::flag);
    Some(AgentCard {
        name: name?,
        version: version?,
        description: description?,
        author: author?,
        runtime: runtime?,
        skills: skills?.unwrap_or_default(),
        endpoints: endpoints?,
        capabilities: capabilities?,
        resources: resources?.unwrap_or_default(),
        billing: billing?,
        health: health?,
        self_hosted: self_hosted?.unwrap_or_default(),
        agent_url: agent_url?,
        a2a: a2a?,
        partial: partial?.unwrap_or_default(),
    })
}

/// Reads a field that a file must have and a card may.
fn of_spec<'a, T>(
    walk: &mut Walk,
    card: &Fields<'a>,
    name: &str,
    form: Form,
    read: impl FnOnce(&mut Walk, &Place<'a>) -> Option<T>,
) -> Option<Option<T>> {
    match form {
        Form::Card => walk.optional(card, name, read),
        Form::Spec => walk.required(card, name, read).map(Some),
    }
}

fn version(walk: &mut Walk, place: &Place<'_>) -> Option<semver::Version> {
    let text = walk.any_text(place)?;
    let short = text.len() <= limits::VERSION_BYTES_MAX;
    let version = short.then(|| semver::Version::parse(text).ok()).flatten();
    if version.is_none() {
        let bytes_max = limits::VERSION_BYTES_MAX;
        let message = format!("must be a semantic version, as 1.0.0, of at most {bytes_max} bytes");
        walk.refuse(place, message);
    }
    version
}

fn runtime(walk: &mut Walk, place: &Place<'_>) -> Option<Runtime> {
    let fields = walk.object(place)?;
    let language = walk.required(&fields, "language", |walk, at| {
        walk.word(at, Language::ALL, Language::as_str)
    });
    let entrypoint = walk.required(&fields, "entrypoint", |walk, at| walk.text(at, FILE));
    let dockerfile = walk.optional(&fields, "dockerfile", |walk, at| walk.text(at, FILE));
    Some(Runtime {
        language: language?,
        entrypoint: entrypoint?,
        dockerfile: dockerfile?,
    })
}

fn skills(walk: &mut Walk, place: &Place<'_>) -> Option<Vec<Skill>> {
    let mut ids = HashSet::new();
    walk.list(place, limits::SKILLS_MAX, |walk, at| {
        let fields = walk.object(at)?;
        let id = walk.required(&fields, "id", |walk, at| {
            let id = walk.text(at, SKILL_ID)?;
            unique(walk, at, &mut ids, id, "must be unique among the skills")
        });
        let name = walk.required(&fields, "name", |walk, at| walk.text(at, SKILL_NAME));
        let description = walk.required(&fields, "description", |walk, at| {
            walk.text(at, DESCRIPTION)
        });
        let tags = walk.optional(&fields, "tags", |walk, at| {
            walk.list(at, limits::TAGS_MAX, |walk, at| walk.text(at, TAG))
        });
        let examples = walk.optional(&fields, "examples", |walk, at| {
            walk.list(at, limits::EXAMPLES_MAX, |walk, at| walk.text(at, EXAMPLE))
        });
        let endpoint = walk.optional(&fields, "endpoint", |walk, at| walk.text(at, PATH));
        Some(Skill {
            id: id?,
            name: name?,
            description: description?,
            tags: tags?.unwrap_or_default(),
            examples: examples?.unwrap_or_default(),
            endpoint: endpoint?,
        })
    })
}

fn endpoints(walk: &mut Walk, place: &Place<'_>) -> Option<Vec<Endpoint>> {
    let mut seen = HashSet::new();
    walk.list(place, limits::ENDPOINTS_MAX, |walk, at| {
        let fields = walk.object(at)?;
        let path = walk.required(&fields, "path", |walk, at| walk.text(at, PATH));
        let method = walk.required(&fields, "method", |walk, at| {
            walk.word(at, HttpMethod::ALL, HttpMethod::as_str)
        });
        let description = walk.optional(&fields, "description", |walk, at| {
            walk.text(at, ENDPOINT_DESCRIPTION)
        });
        let (path, method) = (path?, method?);
        let message = "must be unique in path and method";
        unique(walk, at, &mut seen, (path.clone(), method), message)?;
        Some(Endpoint {
            path,
            method,
            description: description?.unwrap_or_default(),
        })
    })
}

/// Reports a value that was seen before.
fn unique<T: Eq + Hash + Clone>(
    walk: &mut Walk,
    place: &Place<'_>,
    seen: &mut HashSet<T>,
    value: T,
    message: &str,
) -> Option<T> {
    if seen.insert(value.clone()) {
        return Some(value);
    }
    walk.refuse(place, message);
    None
}

fn capabilities(walk: &mut Walk, card: &Fields<'_>, form: Form) -> Option<CapabilitySet> {
    let set = |walk: &mut Walk, place: &Place<'_>| -> Option<CapabilitySet> {
        let words = walk.list(place, limits::CAPABILITIES_MAX, |walk, at| {
            walk.word(at, Capability::ALL, Capability::as_str)
        });
        Some(words?.into_iter().collect())
    };
    let (of_card, of_spec) = ("capabilities_requested", "capabilities");
    either_spelling(walk, card, [of_card, of_spec], set).unwrap_or_else(|| {
        let name = match form {
            Form::Card => of_card,
            Form::Spec => of_spec,
        };
        walk.missing(card, name)
    })
}

/// Reads a field that has two names: `None` if it is under neither.
fn either_spelling<'a, T: PartialEq>(
    walk: &mut Walk,
    fields: &Fields<'a>,
    names: [&str; 2],
    read: impl Fn(&mut Walk, &Place<'a>) -> Option<T>,
) -> Option<Option<T>> {
    match names.map(|name| fields.get(name)) {
        [None, None] => None,
        [Some(place), None] | [None, Some(place)] => Some(read(walk, &place)),
        [Some(first), Some(second)] => {
            let values = (read(walk, &first), read(walk, &second));
            Some(agreed(walk, &first, &second, values))
        }
    }
}

/// Reports two spellings of one thing that say different things.
fn agreed<T: PartialEq>(
    walk: &mut Walk,
    first: &Place<'_>,
    second: &Place<'_>,
    values: (Option<T>, Option<T>),
) -> Option<T> {
    let (one, other) = (values.0?, values.1?);
    if one == other {
        return Some(one);
    }
    let message = format!("must be the same as {}; give only one of them", first.path);
    walk.refuse(second, message);
    None
}

fn health(walk: &mut Walk, card: &Fields<'_>, form: Form) -> Option<Health> {
    let path = |walk: &mut Walk, place: &Place<'_>| walk.text(place, PATH);
    let beside = card.get("health_endpoint");
    let inside = card.get("health").map(|place| walk.object(&place));
    // A `health` that is no object has been reported: it is not also called incomplete.
    let unreadable = matches!(inside, Some(None));
    let inside = inside.flatten();
    let interval = match &inside {
        Some(fields) => walk.optional(fields, "interval", interval),
        None => Some(None),
    };
    let nested = inside.as_ref().and_then(|fields| fields.get("endpoint"));
    let endpoint = match (beside, nested) {
        (Some(beside), Some(nested)) => {
            let values = (path(walk, &beside), path(walk, &nested));
            agreed(walk, &beside, &nested, values)
        }
        (Some(place), None) | (None, Some(place)) => path(walk, &place),
        (None, None) if unreadable => None,
        (None, None) => match (form, &inside) {
            (Form::Card, _) => walk.missing(card, "health_endpoint"),
            (Form::Spec, Some(inside)) => walk.missing(inside, "endpoint"),
            (Form::Spec, None) => walk.missing(card, "health.endpoint"),
        },
    };
    (!unreadable).then_some(())?;
    Some(Health {
        endpoint: endpoint?,
        interval: interval?.unwrap_or(Health::INTERVAL_DEFAULT),
    })
}

fn interval(walk: &mut Walk, place: &Place<'_>) -> Option<std::time::Duration> {
    let interval = values::interval(walk.any_text(place)?);
    if interval.is_none() {
        walk.refuse(place, "must be a time from 1s to 24h, as 30s, 5m or 1h");
    }
    interval
}

fn resources(walk: &mut Walk, place: &Place<'_>) -> Option<Resources> {
    let fields = walk.object(place)?;
    let default = Resources::default();
    let gpu = walk.optional(&fields, "gpu", Walk::flag);
    let vram_min = walk.optional(&fields, "vram_min", Walk::value);
    let ram_min = walk.optional(&fields, "ram_min", Walk::value);
    let model = walk.optional(&fields, "model", |walk, at| walk.text(at, MODEL));
    let max_concurrent = walk.optional(&fields, "max_concurrent", |walk, at| {
        walk.whole(at, limits::AGENT_REQUESTS_CONCURRENT)
    });
    Some(Resources {
        gpu: gpu?.unwrap_or(default.gpu),
        vram_min: vram_min?,
        ram_min: ram_min?.unwrap_or(default.ram_min),
        model: model?,
        max_concurrent: max_concurrent?.unwrap_or(default.max_concurrent),
    })
}

fn billing(walk: &mut Walk, place: &Place<'_>) -> Option<BillingTerms> {
    let fields = walk.object(place)?;
    let cost = walk.required(&fields, "token_cost_per_request", |walk, at| {
        walk.whole(at, limits::TOKEN_COST_PER_REQUEST)
    });
    let category = walk.required(&fields, "category", |walk, at| {
        walk.word(at, Tier::ALL, Tier::as_str)
    });
    Some(BillingTerms {
        token_cost_per_request: cost?,
        category: category?,
    })
}

fn a2a(walk: &mut Walk, place: &Place<'_>) -> Option<A2aEndpoint> {
    let fields = walk.object(place)?;
    let url = walk.required(&fields, "url", Walk::value::<AgentUrl>);
    let card_url = walk.optional(&fields, "card_url", Walk::value::<AgentUrl>);
    Some(A2aEndpoint {
        url: url?,
        card_url: card_url?,
    })
}
