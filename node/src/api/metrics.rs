//! `/metrics`, in Prometheus' text format, and the counts behind it.
//!
//! The format is a page of lines, and the counts are few; the crates that would write them enable
//! features of shared dependencies or want a global registry, which two nodes in one test process
//! would share. Labels are route templates, methods and statuses: a bounded number of series,
//! whatever a client asks for.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use aither_inference::engine::{CacheCounts, EngineStatus, WAIT_BOUNDS};
use axum::{
    extract::{MatchedPath, Request, State},
    http::{Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{ApiState, Problem, VERSION};
use crate::services::{EventService, MemoryService};

/// Upper bounds of the latency histogram, in seconds: from a health check to a long generation.
const LATENCY_BUCKETS_SECONDS: [f64; 12] = [
    0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0,
];
/// The route label of what has none.
const NO_ROUTE: &str = "none";
/// The media type of the text format.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Counts of HTTP requests.
#[derive(Debug, Default)]
pub(super) struct HttpMetrics {
    series: Mutex<Series>,
}

#[derive(Debug, Default)]
struct Series {
    /// By route, method and status.
    requests: BTreeMap<(String, &'static str, u16), u64>,
    /// Time to the head of the answer, by route.
    latency: BTreeMap<String, Histogram>,
}

#[derive(Debug, Default)]
struct Histogram {
    /// Per bucket, not cumulative; the last is beyond all bounds.
    counts: [u64; LATENCY_BUCKETS_SECONDS.len() + 1],
    sum_seconds: f64,
}

impl HttpMetrics {
    fn record(&self, route: &str, method: &Method, status: StatusCode, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        let bucket = LATENCY_BUCKETS_SECONDS.partition_point(|bound| *bound < seconds);
        let key = (route.to_owned(), method_label(method), status.as_u16());
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        *series.requests.entry(key).or_default() += 1;
        let histogram = series.latency.entry(route.to_owned()).or_default();
        histogram.counts[bucket] += 1;
        histogram.sum_seconds += seconds;
    }

    fn write(&self, out: &mut String) {
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let name = "aither_http_requests_total";
        head(out, name, "counter", "Answered requests");
        for ((route, method, status), count) in &series.requests {
            let labels = format!("route=\"{route}\",method=\"{method}\",status=\"{status}\"");
            line(out, &format!("{name}{{{labels}}} {count}"));
        }
        let name = "aither_http_response_head_seconds";
        head(
            out,
            name,
            "histogram",
            "Time from a request to the head of its answer",
        );
        for (route, histogram) in &series.latency {
            let mut cumulative = 0;
            let bounds = LATENCY_BUCKETS_SECONDS.iter().map(f64::to_string);
            for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(histogram.counts) {
                cumulative += count;
                let labels = format!("route=\"{route}\",le=\"{bound}\"");
                line(out, &format!("{name}_bucket{{{labels}}} {cumulative}"));
            }
            let sum = histogram.sum_seconds;
            line(out, &format!("{name}_sum{{route=\"{route}\"}} {sum}"));
            line(
                out,
                &format!("{name}_count{{route=\"{route}\"}} {cumulative}"),
            );
        }
    }
}

/// Counts a request when its answer's head is ready.
pub(super) async fn measure(
    State(state): State<ApiState>,
    request: Request,
    next: Next,
) -> Response {
    let arrived = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let route = route.as_ref().map_or(NO_ROUTE, MatchedPath::as_str);
    let elapsed = arrived.elapsed();
    state
        .metrics
        .record(route, &method, response.status(), elapsed);
    let status = response.status().as_u16();
    tracing::debug!(%method, route, status, elapsed_ms = elapsed.as_millis(), "answered");
    response
}

/// Counts of this node, for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "operation",
    responses(
        (
            status = 200,
            description = "Prometheus' text format",
            body = String,
            content_type = "text/plain",
        ),
        (
            status = "default",
            description = "A problem",
            body = Problem,
            content_type = "application/problem+json",
        ),
    ),
)]
pub(super) async fn metrics(State(state): State<ApiState>) -> Response {
    let mut out = String::new();
    head(
        &mut out,
        "aither_build_info",
        "gauge",
        "The version, as a label",
    );
    line(
        &mut out,
        &format!("aither_build_info{{version=\"{VERSION}\"}} 1"),
    );
    let uptime = state.started.elapsed().as_secs_f64();
    single(
        &mut out,
        "aither_uptime_seconds",
        "gauge",
        "Time since the start",
        uptime,
    );
    write_engine(&state.engine.status(), &mut out);
    write_memory(&state.memory, &mut out);
    write_events(&state.events, &mut out);
    state.metrics.write(&mut out);
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], out).into_response()
}

fn write_engine(status: &EngineStatus, out: &mut String) {
    let gauges = [
        (
            "aither_inference_running_requests",
            "Requests that run",
            status.running,
        ),
        (
            "aither_inference_queued_requests",
            "Requests that wait",
            status.queued,
        ),
        (
            "aither_inference_loaded_models",
            "Models in memory",
            status.loaded.len(),
        ),
    ];
    for (name, help, value) in gauges {
        single(out, name, "gauge", help, value);
    }
    let resident: u64 = status.loaded.iter().map(|model| model.resident_bytes).sum();
    let help = "Memory of the loaded models";
    single(
        out,
        "aither_inference_model_memory_bytes",
        "gauge",
        help,
        resident,
    );
    single(
        out,
        "aither_inference_memory_limit_bytes",
        "gauge",
        "What models may take: the budget, or less where the machine is short of memory",
        status.memory_limit_bytes,
    );
    write_cache(status, out);
    write_waits(status, out);
    write_engine_counters(status, out);
}

fn write_engine_counters(status: &EngineStatus, out: &mut String) {
    let counters = [
        (
            "aither_inference_prompt_tokens_total",
            "Prompt tokens of requests",
            status.prompt_tokens_total,
        ),
        (
            "aither_inference_cached_prompt_tokens_total",
            "Prompt tokens that needed no evaluation",
            status.cached_tokens_total,
        ),
        (
            "aither_inference_passes_total",
            "Passes over a model",
            status.passes_total,
        ),
        (
            "aither_inference_rows_total",
            "Rows in passes: by passes this is the batch size",
            status.rows_total,
        ),
        (
            "aither_inference_suspended_total",
            "Requests that gave back what was evaluated, for want of memory",
            status.suspended_total,
        ),
        (
            "aither_inference_completion_tokens_total",
            "Tokens generated",
            status.completion_tokens_total,
        ),
        (
            "aither_inference_drafted_tokens_total",
            "Tokens evaluated on the chance that they come next",
            status.drafted_tokens_total,
        ),
        (
            "aither_inference_accepted_tokens_total",
            "Drafted tokens that came next",
            status.accepted_tokens_total,
        ),
        (
            "aither_inference_refused_total",
            "Requests refused because the queue was full",
            status.refused_total,
        ),
        (
            "aither_inference_cancelled_total",
            "Requests that ended because their receiver had gone",
            status.cancelled_total,
        ),
    ];
    for (name, help, value) in counters {
        single(out, name, "counter", help, value);
    }
    single(
        out,
        "aither_inference_pass_seconds_total",
        "counter",
        "Time in passes",
        status.pass_time_total.as_secs_f64(),
    );
}

fn write_memory(memory: &MemoryService, out: &mut String) {
    let store = memory.store();
    // Where the file cannot be read, whoever reads memory is told so; this page goes without.
    let (Ok(counts), Ok((unindexed, _))) = (store.counts(), store.index_counts()) else {
        return;
    };
    for (name, help, value) in [
        ("entries", "Entries of memory.", counts.entries),
        (
            "bytes",
            "Bytes of their keys, values and tags.",
            counts.bytes,
        ),
        (
            "unindexed_entries",
            "Entries that search does not find yet, or by their words alone.",
            unindexed,
        ),
        (
            "index_bytes",
            "What search indexes in memory take.",
            memory.index_bytes() as u64,
        ),
    ] {
        single(out, &format!("aither_memory_{name}"), "gauge", help, value);
    }
}

fn write_events(events: &EventService, out: &mut String) {
    let counts = events.counts();
    let kept = events.log().and_then(|log| log.counts().ok());
    let kept = kept.unwrap_or_default();
    for (name, kind, help, value) in [
        (
            "written_total",
            "counter",
            "Events that were written",
            counts.written,
        ),
        (
            "dropped_total",
            "counter",
            "Events of the node that were lost because too many waited",
            counts.dropped,
        ),
        (
            "cut_off_total",
            "counter",
            "Subscriptions that were cut off because they were too slow",
            counts.cut_off,
        ),
        (
            "subscriptions",
            "gauge",
            "Subscriptions that are open",
            counts.subscriptions as u64,
        ),
        ("kept", "gauge", "Events in the log", kept.events),
        ("kept_bytes", "gauge", "What they take", kept.bytes),
    ] {
        single(out, &format!("aither_events_{name}"), kind, help, value);
    }
}

fn write_cache(status: &EngineStatus, out: &mut String) {
    let mut gauge = |name: &str, help: &str, value: fn(&CacheCounts) -> usize| {
        head(out, name, "gauge", help);
        for model in &status.loaded {
            let (label, value) = (label_value(&model.name), value(&model.cache));
            line(out, &format!("{name}{{model=\"{label}\"}} {value}"));
        }
    };
    gauge(
        "aither_inference_cache_pages",
        "Pages of the cache in memory",
        |cache| cache.pages,
    );
    gauge(
        "aither_inference_cache_idle_pages",
        "Pages that are kept for requests to come",
        |cache| cache.pages_idle,
    );
    gauge(
        "aither_inference_cache_pages_max",
        "Pages that there is room for",
        |cache| cache.pages_max,
    );
}

fn write_waits(status: &EngineStatus, out: &mut String) {
    let name = "aither_inference_wait_seconds";
    let help = "Time from a request's admission to its start, by the class of its priority";
    head(out, name, "histogram", help);
    for waits in &status.waits {
        let class = waits.class;
        let mut cumulative = 0;
        let bounds = WAIT_BOUNDS
            .iter()
            .map(|bound| bound.as_secs_f64().to_string());
        for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(waits.counts) {
            cumulative += count;
            let labels = format!("class=\"{class}\",le=\"{bound}\"");
            line(out, &format!("{name}_bucket{{{labels}}} {cumulative}"));
        }
        let sum = waits.sum.as_secs_f64();
        line(out, &format!("{name}_sum{{class=\"{class}\"}} {sum}"));
        line(
            out,
            &format!("{name}_count{{class=\"{class}\"}} {cumulative}"),
        );
    }
}

/// Text as the value of a label.
fn label_value(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
    escaped.replace('\n', "\\n")
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    line(out, &format!("# HELP {name} {help}."));
    line(out, &format!("# TYPE {name} {kind}"));
}

fn single(out: &mut String, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
    head(out, name, kind, help);
    line(out, &format!("{name} {value}"));
}

fn line(out: &mut String, text: &str) {
    writeln!(out, "{text}").expect("a string takes any text");
}

/// Methods are free words; only the known ones become labels.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_route_method_and_status() {
        let metrics = HttpMetrics::default();
        for millis in [3, 3, 700] {
            let elapsed = Duration::from_millis(millis);
            metrics.record("/a/{id}", &Method::GET, StatusCode::OK, elapsed);
        }
        let weird = Method::from_bytes(b"WEIRD").unwrap();
        metrics.record(
            NO_ROUTE,
            &weird,
            StatusCode::NOT_FOUND,
            Duration::from_secs(90),
        );
        let mut out = String::new();
        metrics.write(&mut out);
        for expected in [
            "aither_http_requests_total{route=\"/a/{id}\",method=\"GET\",status=\"200\"} 3",
            "aither_http_requests_total{route=\"none\",method=\"other\",status=\"404\"} 1",
            "aither_http_response_head_seconds_bucket{route=\"/a/{id}\",le=\"0.001\"} 0",
            "aither_http_response_head_seconds_bucket{route=\"/a/{id}\",le=\"0.005\"} 2",
            "aither_http_response_head_seconds_bucket{route=\"/a/{id}\",le=\"1\"} 3",
            "aither_http_response_head_seconds_bucket{route=\"none\",le=\"60\"} 0",
            "aither_http_response_head_seconds_bucket{route=\"none\",le=\"+Inf\"} 1",
            "aither_http_response_head_seconds_count{route=\"/a/{id}\"} 3",
        ] {
            assert!(
                out.lines().any(|line| line == expected),
                "{expected} not in\n{out}"
            );
        }
    }
}
