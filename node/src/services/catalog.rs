//! The models this node serves, by every name that leads to them.
//!
//! A name is tried as it is, then with and without the tag `latest`, then among the aliases. The
//! default model stands in for a missing name; where it is not served and exactly one model is,
//! that one does.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use aither_inference::{Engine, engine::ModelInfo};

use super::EmbeddingService;
use crate::{
    billing::{ModelPrice, PriceBook},
    models::ModelStore,
};

/// The tag that a name without one stands for, as in container registries and Ollama.
const DEFAULT_TAG: &str = ":latest";
/// Most names listed in a refusal; a node with hundreds of models has `/v1/models`.
const NAMES_IN_REFUSAL_MAX: usize = 20;

/// One model, ready to be shown.
#[derive(Debug, Clone)]
pub struct ModelCard {
    /// What its file says.
    pub info: ModelInfo,
    /// SHA-256 of the file in hexadecimal; empty while unknown.
    pub sha256: String,
    /// When it was added.
    pub added_at: SystemTime,
    /// Whether it is in memory.
    pub loaded: bool,
    /// What its tokens cost.
    pub price: ModelPrice,
}

/// Nobody serves a model of that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("model {name:?} not found; {}", served_words(served))]
pub struct ModelNotFound {
    /// The name asked for, cut to a bound.
    pub name: String,
    /// The names that are served.
    pub served: Vec<String>,
}

/// A read view on the engine's models and the store; clones share it.
#[derive(Debug, Clone)]
pub struct ModelCatalog {
    engine: Engine,
    embeddings: EmbeddingService,
    store: ModelStore,
    prices: PriceBook,
    aliases: Arc<BTreeMap<String, String>>,
    default_model: Arc<str>,
}

impl ModelCatalog {
    /// Puts a catalog over an engine, encoders and a store.
    pub fn new(
        engine: Engine,
        embeddings: EmbeddingService,
        store: ModelStore,
        prices: PriceBook,
        aliases: BTreeMap<String, String>,
        default_model: &str,
    ) -> Self {
        Self {
            engine,
            embeddings,
            store,
            prices,
            aliases: Arc::new(aliases),
            default_model: default_model.into(),
        }
    }

    /// Returns every served model, by name.
    pub fn list(&self) -> Vec<ModelCard> {
        let loaded = self.engine.status().loaded;
        let mut infos = self.engine.models();
        infos.extend(self.embeddings.models());
        infos.sort_by(|a, b| a.name.cmp(&b.name));
        infos
            .into_iter()
            .map(|info| {
                let is_loaded = loaded.iter().any(|model| model.name == info.name);
                self.card_of(info, is_loaded)
            })
            .collect()
    }

    /// Returns the model of a name, be it for texts or for vectors.
    ///
    /// # Errors
    /// [`ModelNotFound`] with the names that are served.
    pub fn resolve_any(&self, name: &str) -> Result<ModelInfo, ModelNotFound> {
        let found = self.resolve(Some(name));
        found.or_else(|refusal| self.embeddings.resolve(Some(name)).map_err(|_| refusal))
    }

    /// Returns whether a name is that of an encoder, which answers nothing.
    pub fn is_encoder(&self, name: &str) -> bool {
        self.embeddings.served(name).is_some() && self.served(name).is_none()
    }

    /// Returns the aliases that lead somewhere, with the name of the model that they reach.
    pub fn aliases(&self) -> Vec<(String, String)> {
        self.aliases
            .iter()
            .filter(|(alias, _)| self.served(alias).is_none())
            .filter_map(|(alias, _)| {
                let target = self.resolve(Some(alias)).ok()?;
                Some((alias.clone(), target.name))
            })
            .collect()
    }

    /// Returns the model that a request means; `None` and the empty name mean the default.
    ///
    /// # Errors
    /// [`ModelNotFound`] with the names that are served.
    pub fn resolve(&self, name: Option<&str>) -> Result<ModelInfo, ModelNotFound> {
        let name = name.map(str::trim).filter(|name| !name.is_empty());
        let Some(name) = name else {
            return self
                .default()
                .ok_or_else(|| self.not_found(&self.default_model));
        };
        if let Some(info) = self.served(name) {
            return Ok(info);
        }
        let target = spellings(name).find_map(|name| self.aliases.get(&*name));
        match target {
            Some(target) if **target == *self.default_model => self.default(),
            Some(target) => self.served(target),
            None if spellings(name).any(|name| *name == *self.default_model) => self.default(),
            None => None,
        }
        .ok_or_else(|| self.not_found(name))
    }

    /// Returns the card of a model that [`resolve`](Self::resolve) found.
    pub fn card(&self, info: ModelInfo) -> ModelCard {
        let loaded = self.engine.status().loaded;
        let is_loaded = loaded.iter().any(|model| model.name == info.name);
        self.card_of(info, is_loaded)
    }

    /// Returns the name of the model that answers when a request names none.
    pub fn default_model(&self) -> String {
        self.default().map_or_else(String::new, |info| info.name)
    }

    fn default(&self) -> Option<ModelInfo> {
        self.served(&self.default_model).or_else(|| {
            let mut only = self.engine.models();
            if only.len() == 1 { only.pop() } else { None }
        })
    }

    fn served(&self, name: &str) -> Option<ModelInfo> {
        spellings(name).find_map(|name| self.engine.model(&name))
    }

    fn not_found(&self, name: &str) -> ModelNotFound {
        let mut served: Vec<_> = self.engine.models().into_iter().map(|m| m.name).collect();
        served.sort();
        ModelNotFound {
            name: name
                .chars()
                .take(aither_protocol::limits::MODEL_NAME_BYTES_MAX)
                .collect(),
            served,
        }
    }

    fn card_of(&self, info: ModelInfo, loaded: bool) -> ModelCard {
        let entry = self.store.get(&info.name);
        let loaded = loaded || self.embeddings.is_loaded(&info.name);
        ModelCard {
            sha256: entry.as_ref().map(|e| e.sha256.clone()).unwrap_or_default(),
            added_at: entry.map_or(SystemTime::UNIX_EPOCH, |entry| entry.added_at),
            loaded,
            price: self.prices.price(&info.name, info.parameters).0,
            info,
        }
    }
}

/// Yields the ways in which a name may be registered: as it is, and with or without the tag.
pub(super) fn spellings(name: &str) -> impl Iterator<Item = std::borrow::Cow<'_, str>> {
    let last_part = name.rsplit('/').next().unwrap_or(name);
    let other = if let Some(stem) = name.strip_suffix(DEFAULT_TAG) {
        Some(stem.into())
    } else if last_part.contains(':') {
        None
    } else {
        Some(format!("{name}{DEFAULT_TAG}").into())
    };
    std::iter::once(name.into()).chain(other)
}

fn served_words(served: &[String]) -> String {
    if served.is_empty() {
        return "no model is served; get one with \"aither-node models pull smollm2:135m\"".into();
    }
    let more = served.len().saturating_sub(NAMES_IN_REFUSAL_MAX);
    let names = served[..served.len() - more].join(", ");
    if more == 0 {
        format!("served: {names}")
    } else {
        format!("served: {names} and {more} more")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_tried_with_and_without_the_tag_latest() {
        let cases = [
            ("llama", vec!["llama", "llama:latest"]),
            ("llama:latest", vec!["llama:latest", "llama"]),
            ("llama:8b", vec!["llama:8b"]),
            (
                "host:80/me/llama",
                vec!["host:80/me/llama", "host:80/me/llama:latest"],
            ),
        ];
        for (name, expected) in cases {
            assert_eq!(spellings(name).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn a_refusal_names_what_is_served() {
        let refusal = |served: Vec<String>| {
            ModelNotFound {
                name: "x".into(),
                served,
            }
            .to_string()
        };
        assert_eq!(
            refusal(vec!["a".into()]),
            "model \"x\" not found; served: a"
        );
        assert!(refusal(Vec::new()).contains("models pull"));
        let many = (0..25).map(|i| format!("m{i}")).collect();
        assert!(refusal(many).ends_with("and 5 more"));
    }
}
