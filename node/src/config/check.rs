//! Bounds that a type cannot say, checked before any port opens.

use std::time::Duration;

use aither_protocol::limits::NODE_NAME_BYTES_MAX;

use super::{Config, load::ConfigError};
use crate::models::check_name;

/// Checks every value that its type leaves too free.
///
/// # Errors
/// The first value out of bounds, with its key and what it must be.
pub fn check(config: &Config) -> Result<(), ConfigError> {
    let http = &config.http;
    let inference = &config.inference;
    let second = Duration::from_secs(1);
    let day = Duration::from_secs(86_400);
    // Key, whether it fits, what it must be.
    let rows: [(&str, bool, &str); 15] = [
        (
            "data_dir",
            !config.data_dir.as_os_str().is_empty(),
            "must not be empty",
        ),
        (
            "name",
            name_fits(&config.name),
            "must be at most 64 printable characters",
        ),
        (
            "default_model",
            check_name(&config.default_model).is_ok(),
            "must be a model name",
        ),
        (
            "log.filter",
            filter_fits(&config.log.filter),
            "must be a filter as in RUST_LOG",
        ),
        (
            "http.body_bytes_max",
            (1024..=1 << 30).contains(&http.body_bytes_max),
            "must be 1KiB to 1GiB",
        ),
        (
            "http.connections_max",
            (1..=100_000).contains(&http.connections_max),
            "must be 1 to 100000",
        ),
        (
            "http.header_timeout",
            (second..=day).contains(&http.header_timeout),
            "must be 1s to 1day",
        ),
        (
            "http.request_timeout",
            (second..=day).contains(&http.request_timeout),
            "must be 1s to 1day",
        ),
        (
            "http.public_url",
            http.public_url.as_deref().is_none_or(is_base_url),
            "must be an http or https URL without query, such as \"https://node.example.org\"",
        ),
        (
            "inference.threads",
            inference.threads <= 1024,
            "must be 0 to 1024",
        ),
        (
            "inference.running_max",
            (1..=1024).contains(&inference.running_max),
            "must be 1 to 1024",
        ),
        (
            "inference.queue_len_max",
            inference.queue_len_max <= 100_000,
            "must be 0 to 100000",
        ),
        (
            "inference.memory_budget",
            inference.memory_budget >= 16 << 20,
            "must be at least 16MiB",
        ),
        (
            "inference.context_length_max",
            (64..=1 << 20).contains(&inference.context_length_max),
            "must be 64 to 1048576",
        ),
        (
            "models.file_bytes_max",
            config.models.file_bytes_max >= 1 << 20,
            "must be at least 1MiB",
        ),
    ];
    for (key, fits, must) in rows {
        if !fits {
            return invalid(format!("{key} {must}"));
        }
    }
    for (alias, model) in &config.aliases {
        if check_name(alias).is_err() || check_name(model).is_err() {
            return invalid(format!(
                "aliases: {alias:?} = {model:?} must be two model names"
            ));
        }
    }
    Ok(())
}

fn invalid(message: String) -> Result<(), ConfigError> {
    Err(ConfigError::Invalid { message })
}

fn name_fits(name: &str) -> bool {
    name.len() <= NODE_NAME_BYTES_MAX && !name.chars().any(char::is_control)
}

fn filter_fits(filter: &str) -> bool {
    filter.parse::<tracing_subscriber::EnvFilter>().is_ok()
}

fn is_base_url(text: &str) -> bool {
    reqwest::Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message_of(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::default();
        change(&mut config);
        check(&config).unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_pass() {
        check(&Config::default()).unwrap();
    }

    #[test]
    fn values_out_of_bounds_are_named() {
        let cases = [
            (message_of(|c| c.data_dir = "".into()), "data_dir"),
            (message_of(|c| c.name = "a\nb".into()), "name"),
            (
                message_of(|c| c.default_model = "../x".into()),
                "default_model",
            ),
            (message_of(|c| c.log.filter = "a=b=c".into()), "log.filter"),
            (
                message_of(|c| c.http.connections_max = 0),
                "http.connections_max",
            ),
            (
                message_of(|c| c.http.header_timeout = Duration::ZERO),
                "http.header_timeout",
            ),
            (
                message_of(|c| c.http.public_url = Some("node".into())),
                "http.public_url",
            ),
            (
                message_of(|c| c.inference.running_max = 0),
                "inference.running_max",
            ),
            (
                message_of(|c| c.inference.memory_budget = 1),
                "inference.memory_budget",
            ),
            (
                message_of(|c| {
                    c.aliases.insert("a b".into(), "c".into());
                }),
                "aliases",
            ),
        ];
        for (message, key) in cases {
            assert!(message.contains(key), "{message} does not name {key}");
        }
    }
}
