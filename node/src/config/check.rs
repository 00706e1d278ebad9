//! Bounds that a type cannot say, checked before any port opens.

use std::{ops::RangeInclusive, time::Duration};

use aither_protocol::limits::NODE_NAME_BYTES_MAX;
use tracing_subscriber::EnvFilter;

use super::{
    AccountsConfig, CallsConfig, Config, EventsConfig, FilesConfig, HttpConfig, InferenceConfig,
    MemoryConfig, load::ConfigError, tools,
};
use crate::models::check_name;

/// What a timeout can be: shorter ones fail by chance, longer ones bound nothing.
const PERIOD: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);

/// How long records of tasks can be kept: at least as long as a task can take.
const TASK_RETENTION: RangeInclusive<Duration> =
    Duration::from_secs(3600)..=Duration::from_secs(3650 * 86_400);

/// How long a login can be good: for ever is what the key of a registration is for.
const LOGIN_PERIOD: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(400 * 86_400);

/// How long events can be kept.
const EVENTS_PERIOD: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(3660 * 86_400);

/// A key, whether its value fits, and what it must be.
type Row = (&'static str, bool, &'static str);

/// Checks every value that its type leaves too free.
///
/// # Errors
/// The first value out of bounds, with its key and what it must be.
pub fn check(config: &Config) -> Result<(), ConfigError> {
    let rows = top_rows(config)
        .into_iter()
        .chain(http_rows(&config.http))
        .chain(accounts_rows(&config.accounts))
        .chain(files_rows(&config.files))
        .chain(calls_rows(&config.calls))
        .chain(memory_rows(&config.memory))
        .chain(events_rows(&config.events))
        .chain(inference_rows(&config.inference));
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
    tools::check(config).or_else(invalid)
}

fn top_rows(config: &Config) -> [Row; 5] {
    let dir_fits = !config.data_dir.as_os_str().is_empty();
    let model_fits = check_name(&config.default_model).is_ok();
    let filter_fits = config.log.filter.parse::<EnvFilter>().is_ok();
    let file_fits = config.models.file_bytes_max >= 1 << 20;
    [
        ("data_dir", dir_fits, "must not be empty"),
        (
            "name",
            name_fits(&config.name),
            "must be at most 64 printable characters",
        ),
        ("default_model", model_fits, "must be a model name"),
        ("log.filter", filter_fits, "must be a filter as in RUST_LOG"),
        ("models.file_bytes_max", file_fits, "must be at least 1MiB"),
    ]
}

fn http_rows(http: &HttpConfig) -> [Row; 5] {
    let body_fits = (1024..=1 << 30).contains(&http.body_bytes_max);
    let connections_fit = (1..=100_000).contains(&http.connections_max);
    let url_fits = http.public_url.as_deref().is_none_or(is_base_url);
    let url_must = "must be an http or https URL without query: \"https://node.example.org\"";
    let period_must = "must be 1s to 1day";
    [
        ("http.body_bytes_max", body_fits, "must be 1KiB to 1GiB"),
        (
            "http.connections_max",
            connections_fit,
            "must be 1 to 100000",
        ),
        (
            "http.header_timeout",
            PERIOD.contains(&http.header_timeout),
            period_must,
        ),
        (
            "http.request_timeout",
            PERIOD.contains(&http.request_timeout),
            period_must,
        ),
        ("http.public_url", url_fits, url_must),
    ]
}

fn calls_rows(calls: &CallsConfig) -> [Row; 2] {
    let retention_fits = TASK_RETENTION.contains(&calls.task_retention);
    let bytes_fit = calls.task_bytes_max >= 1 << 20;
    [
        (
            "calls.task_retention",
            retention_fits,
            "must be 1h to 3650days",
        ),
        ("calls.task_bytes_max", bytes_fit, "must be at least 1MiB"),
    ]
}

fn files_rows(files: &FilesConfig) -> [Row; 2] {
    let artifact_fits = (1 << 10..=1 << 40).contains(&files.artifact_bytes_max);
    // Its reader holds it in a gibibyte of memory, with all that it makes of it.
    let document_fits = (1 << 10..=256 << 20).contains(&files.document_bytes_max);
    [
        (
            "files.artifact_bytes_max",
            artifact_fits,
            "must be 1KiB to 1TiB",
        ),
        (
            "files.document_bytes_max",
            document_fits,
            "must be 1KiB to 256MiB",
        ),
    ]
}

fn memory_rows(memory: &MemoryConfig) -> [Row; 3] {
    let bytes_fit = memory.bytes_max >= 1 << 20;
    let index_fits = memory.index_memory >= 1 << 20;
    [
        (
            "memory.entries_max",
            memory.entries_max >= 1,
            "must be at least 1",
        ),
        ("memory.bytes_max", bytes_fit, "must be at least 1MiB"),
        ("memory.index_memory", index_fits, "must be at least 1MiB"),
    ]
}

fn events_rows(events: &EventsConfig) -> [Row; 2] {
    let age_fits = EVENTS_PERIOD.contains(&events.age_max);
    let bytes_fit = events.bytes_max >= 1 << 20;
    [
        ("events.bytes_max", bytes_fit, "must be at least 1MiB"),
        ("events.age_max", age_fits, "must be 1s to 3660days"),
    ]
}

fn accounts_rows(accounts: &AccountsConfig) -> [Row; 2] {
    let period_must = "must be 1s to 400days";
    [
        (
            "accounts.login_key_ttl",
            LOGIN_PERIOD.contains(&accounts.login_key_ttl),
            period_must,
        ),
        (
            "accounts.refresh_ttl",
            LOGIN_PERIOD.contains(&accounts.refresh_ttl),
            period_must,
        ),
    ]
}

fn inference_rows(inference: &InferenceConfig) -> [Row; 6] {
    let running_fits = (1..=1024).contains(&inference.running_max);
    let queue_fits = inference.queue_len_max <= 100_000;
    let memory_fits = inference.memory_budget >= 16 << 20;
    let context_fits = (64..=1 << 20).contains(&inference.context_length_max);
    let idle_fits = inference.idle_unload >= *PERIOD.start();
    [
        (
            "inference.threads",
            inference.threads <= 1024,
            "must be 0 to 1024",
        ),
        ("inference.running_max", running_fits, "must be 1 to 1024"),
        ("inference.queue_len_max", queue_fits, "must be 0 to 100000"),
        (
            "inference.memory_budget",
            memory_fits,
            "must be at least 16MiB",
        ),
        (
            "inference.context_length_max",
            context_fits,
            "must be 64 to 1048576",
        ),
        ("inference.idle_unload", idle_fits, "must be at least 1s"),
    ]
}

fn invalid(message: String) -> Result<(), ConfigError> {
    Err(ConfigError::Invalid { message })
}

fn name_fits(name: &str) -> bool {
    name.len() <= NODE_NAME_BYTES_MAX && !name.chars().any(char::is_control)
}

pub(super) fn is_base_url(text: &str) -> bool {
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
                message_of(|c| c.accounts.login_key_ttl = Duration::ZERO),
                "accounts.login_key_ttl",
            ),
            (message_of(|c| c.events.bytes_max = 1), "events.bytes_max"),
            (
                message_of(|c| c.events.age_max = Duration::ZERO),
                "events.age_max",
            ),
            (
                message_of(|c| c.files.document_bytes_max = 1 << 40),
                "files.document_bytes_max",
            ),
            (
                message_of(|c| c.calls.task_retention = Duration::ZERO),
                "calls.task_retention",
            ),
            (
                message_of(|c| c.calls.task_bytes_max = 1),
                "calls.task_bytes_max",
            ),
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
