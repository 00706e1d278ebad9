//! What a card may say, field by field: each wrong value with the path and message it gets.

use std::time::Duration;

use aither_protocol::{
    AgentCard, AgentName, AgentUrl, ByteSize, Capability, HttpMethod, Language, Tier, limits,
};
use serde_json::{Value, json};

use crate::{example, full, lines};

/// Returns the errors of the full card with one value replaced, or with none where it is null.
fn errors_with(pointer: &str, value: Value) -> Vec<String> {
    let mut card = full();
    *card.pointer_mut(pointer).expect(pointer) = value;
    AgentCard::from_json(&card)
        .err()
        .map_or(Vec::new(), |errors| lines(&errors))
}

/// Checks that a value gets exactly one complaint.
fn check(field: &str, value: Value, message: &str) {
    let pointer = format!("/{}", field.replace(['.', '['], "/").replace(']', ""));
    let shown: String = value.to_string().chars().take(80).collect();
    assert_eq!(
        errors_with(&pointer, value),
        [format!("{field}: {message}")],
        "{shown}"
    );
}

/// Checks that a value is taken.
fn check_right(field: &str, value: Value) {
    let pointer = format!("/{}", field.replace(['.', '['], "/").replace(']', ""));
    assert_eq!(
        errors_with(&pointer, value.clone()),
        [""; 0],
        "{field} {value}"
    );
}

#[test]
fn example_of_the_platform_is_read() {
    let card = AgentCard::from_json(&example()).unwrap();
    assert_eq!(card.name.as_str(), "my-research-bot");
    assert_eq!(card.version, semver::Version::new(1, 0, 0));
    assert_eq!(card.skills[0].tags, ["research", "analysis"]);
    assert_eq!(card.skills[0].endpoint, None);
    assert_eq!(card.endpoints[0].method, HttpMethod::Post);
    assert!(card.capabilities.contains(Capability::WebSearch));
    assert_eq!(card.billing.token_cost_per_request, 3);
    assert_eq!(card.billing.category, Tier::Agent);
    assert_eq!(card.health.endpoint, "/health");
    assert_eq!(card.resources.model.as_deref(), Some("llama3.1:8b"));
    assert!(card.self_hosted);
}

#[test]
fn defaults_are_those_of_the_reference() {
    let mut card = example();
    for name in ["skills", "resources", "self_hosted"] {
        card.as_object_mut().unwrap().shift_remove(name);
    }
    let card = AgentCard::from_json(&card).unwrap();
    assert!(!card.resources.gpu && !card.self_hosted && !card.partial);
    assert_eq!(card.resources.ram_min.to_string(), "512MB");
    assert_eq!(card.resources.max_concurrent, 5);
    assert_eq!(card.health.interval, Duration::from_secs(30));
    assert_eq!((card.agent_url, card.a2a, card.author), (None, None, None));
    assert!(card.skills.is_empty() && card.runtime.is_none());
}

#[test]
fn every_field_is_kept_and_written_again() {
    let card = AgentCard::from_json(&full()).unwrap();
    let runtime = card.runtime.as_ref().unwrap();
    assert_eq!(runtime.language, Language::Python312);
    assert_eq!(
        card.resources.vram_min,
        Some(ByteSize::from_bytes(4_000_000_000))
    );
    assert_eq!(card.resources.ram_min, ByteSize::from_bytes(1 << 30));
    assert_eq!(card.health.interval, Duration::from_secs(90));
    assert_eq!(card.to_json(), full());
    assert_eq!(AgentCard::from_json(&card.to_json()), Ok(card));
}

#[test]
fn missing_fields_are_all_reported_at_once() {
    let errors = AgentCard::from_json(&json!({ "skills": [{}], "a2a": {}, "runtime": {} }));
    let expected = [
        "name",
        "version",
        "description",
        "runtime.language",
        "runtime.entrypoint",
        "skills[0].id",
        "skills[0].name",
        "skills[0].description",
        "endpoints",
        "capabilities_requested",
        "billing",
        "health_endpoint",
        "a2a.url",
    ];
    assert_eq!(
        lines(&errors.unwrap_err()),
        expected.map(|field| format!("{field}: is required"))
    );
    let errors = AgentCard::from_json(&json!(["no", "card"])).unwrap_err();
    assert_eq!(lines(&errors), [": must be an object"]);
}

#[test]
fn null_is_the_same_as_missing() {
    for optional in [
        "author",
        "runtime",
        "skills",
        "resources",
        "agent_url",
        "a2a",
        "partial",
    ] {
        check_right(optional, Value::Null);
    }
    for optional in [
        "resources.gpu",
        "resources.ram_min",
        "resources.max_concurrent",
    ] {
        check_right(optional, Value::Null);
    }
    for required in [
        "name",
        "billing",
        "billing.category",
        "skills[0].id",
        "endpoints[1].path",
    ] {
        check(required, Value::Null, "is required");
    }
}

#[test]
fn unknown_fields_are_ignored() {
    let mut card = full();
    card["colour"] = json!({ "deep": [[[1]]] });
    card["skills"][0]["colour"] = json!("blue");
    assert_eq!(AgentCard::from_json(&card).unwrap().to_json(), full());
}

/// Fields that take a text.
const TEXTS: [&str; 26] = [
    "name",
    "version",
    "description",
    "author",
    "runtime.language",
    "runtime.entrypoint",
    "runtime.dockerfile",
    "skills[0].id",
    "skills[0].name",
    "skills[0].description",
    "skills[0].tags[0]",
    "skills[0].examples[0]",
    "skills[0].endpoint",
    "endpoints[0].path",
    "endpoints[0].method",
    "endpoints[0].description",
    "capabilities_requested[1]",
    "resources.vram_min",
    "resources.ram_min",
    "resources.model",
    "billing.category",
    "health_endpoint",
    "health.interval",
    "agent_url",
    "a2a.url",
    "a2a.card_url",
];
/// Fields that take a list.
const LISTS: [&str; 5] = [
    "skills",
    "endpoints",
    "capabilities_requested",
    "skills[0].tags",
    "skills[0].examples",
];
/// Fields that take an object.
const OBJECTS: [&str; 7] = [
    "runtime",
    "skills[0]",
    "endpoints[0]",
    "resources",
    "billing",
    "health",
    "a2a",
];
/// Fields that take a flag.
const FLAGS: [&str; 3] = ["resources.gpu", "self_hosted", "partial"];

#[test]
fn mistyped_values_are_named_with_what_they_must_be() {
    let values = [
        ("flag", json!(true)),
        ("number", json!(-1)),
        ("number", json!(2.5)),
        ("text", json!("x")),
        ("list", json!([])),
        ("object", json!({})),
    ];
    let rows: [(&[&str], &str, &str); 4] = [
        (&TEXTS, "text", "must be a string"),
        (&LISTS, "list", "must be a list"),
        (&OBJECTS, "object", "must be an object"),
        (&FLAGS, "flag", "must be true or false"),
    ];
    for (fields, right, message) in rows {
        for field in fields {
            for (_, value) in values.iter().filter(|(kind, _)| *kind != right) {
                check(field, value.clone(), message);
            }
        }
    }
}

#[test]
fn numbers_are_bounded_and_whole() {
    let cost = "must be a whole number from 1 to 50";
    for value in [
        json!(0),
        json!(51),
        json!(-1),
        json!(1.5),
        json!("3"),
        json!(true),
        json!(1e300),
    ] {
        check("billing.token_cost_per_request", value, cost);
    }
    let concurrent = "must be a whole number from 1 to 1024";
    for value in [json!(0), json!(1025), json!(u64::MAX), json!([1])] {
        check("resources.max_concurrent", value, concurrent);
    }
    for value in [json!(1), json!(50), json!(3.0)] {
        check_right("billing.token_cost_per_request", value);
    }
}

#[test]
fn names_are_labels() {
    let message = "must be 1 to 64 lowercase letters, digits and hyphens, with a letter or digit \
                   at either end";
    for wrong in [
        "",
        "-a",
        "a-",
        "A",
        "a_b",
        "a b",
        "é",
        "a.b",
        &"a".repeat(65),
        "a\n",
    ] {
        check("name", json!(wrong), message);
    }
    for right in ["a", "7", "a-b", "a--b", &"a".repeat(64)] {
        check_right("name", json!(right));
        assert_eq!(right.parse::<AgentName>().unwrap().to_string(), right);
    }
}

#[test]
fn versions_are_semantic() {
    let message = "must be a semantic version, as 1.0.0, of at most 64 bytes";
    let long = format!("1.0.0-{}", "a".repeat(59));
    for wrong in [
        "", "1", "1.0", "v1.0.0", "1.0.0 ", "01.0.0", "1.0.0-01", "1.0.0-", &long,
    ] {
        check("version", json!(wrong), message);
    }
    for right in ["0.0.1", "1.0.0-rc.1+build.5", &long[..64]] {
        check_right("version", json!(right));
    }
}

#[test]
fn words_are_of_their_lists() {
    let methods = "must be one of GET, POST, PUT, PATCH, DELETE";
    for wrong in ["get", "HEAD", ""] {
        check("endpoints[0].method", json!(wrong), methods);
    }
    let tiers = "must be one of reflex, agent, reasoning, orchestrator";
    check("billing.category", json!("Agent"), tiers);
    let languages = "must be one of python3.11, python3.12, node20, node22";
    check("runtime.language", json!("rust"), languages);
    let errors = errors_with("/capabilities_requested/2", json!("fly"));
    assert_eq!(errors.len(), 1);
    let start = "capabilities_requested[2]: must be one of llm_inference, llm_embed, memory_read";
    assert!(errors[0].starts_with(start), "{errors:?}");
}

#[test]
fn texts_are_bounded_and_show_what_they_hold() {
    let rows = [
        ("description", limits::DESCRIPTION_BYTES_MAX),
        ("author", limits::AUTHOR_BYTES_MAX),
        ("skills[0].name", limits::SKILL_NAME_BYTES_MAX),
        ("skills[0].description", limits::DESCRIPTION_BYTES_MAX),
        ("skills[0].tags[1]", limits::TAG_BYTES_MAX),
        ("skills[0].examples[0]", limits::EXAMPLE_BYTES_MAX),
        ("resources.model", limits::MODEL_NAME_BYTES_MAX),
    ];
    for (field, bytes_max) in rows {
        check(field, json!(""), "must not be empty");
        check(field, json!(" \t"), "must not be empty");
        check_right(field, json!("x".repeat(bytes_max)));
        let message = format!("must be at most {bytes_max} bytes");
        check(field, json!("x".repeat(bytes_max + 1)), &message);
        // Bytes, not characters.
        check(field, json!("é".repeat(bytes_max / 2 + 1)), &message);
        check_right(field, json!("日本 👩‍🚀 é"));
        let prose = field.ends_with("description") || field.contains("examples");
        let message = if prose {
            "must not contain control characters"
        } else {
            "must be one line without control characters"
        };
        for hidden in [
            "a\0",
            "a\u{7f}",
            "a\u{85}",
            "a\r",
            "\u{1b}[31m",
            "a\u{202e}b",
            "a\u{2066}",
        ] {
            check(field, json!(hidden), message);
        }
        if prose {
            check_right(field, json!("one\n\ttwo"));
        } else {
            check(field, json!("one\ntwo"), message);
        }
    }
    check_right("endpoints[0].description", json!(""));
    check(
        "endpoints[0].description",
        json!("x".repeat(1025)),
        "must be at most 1024 bytes",
    );
}

#[test]
fn paths_are_absolute_and_stay_below_their_base() {
    let message = "must be an absolute path, as /chat, without query and dot segments";
    let wrong = [
        "chat",
        "//evil.example/x",
        "/..",
        "/a/../b",
        "/a/.",
        "/%2e%2E/x",
        "/a/.%2e",
        "/a?b=1",
        "/a#b",
        "/a b",
        "/a\\b",
        "/é",
        "/a\n",
        "http://x/",
    ];
    for field in ["endpoints[0].path", "skills[0].endpoint", "health_endpoint"] {
        for wrong in wrong {
            check(field, json!(wrong), message);
        }
        check(field, json!(""), "must not be empty");
        check(
            field,
            json!(format!("/{}", "a".repeat(256))),
            "must be at most 256 bytes",
        );
        for right in ["/", "/v1/items/{id}", "/a.b/..c", "/a:b@c", "/a%20b", "/a/"] {
            check_right(field, json!(right));
        }
    }
}

#[test]
fn files_stay_below_the_agents_folder() {
    let message = "must be a relative path of a file, as src/main.py, without parent segments";
    for field in ["runtime.entrypoint", "runtime.dockerfile"] {
        let wrong = [
            "/etc/passwd",
            "../a",
            "a/../b",
            "a/..",
            "a//b",
            "a/",
            "a\\b",
            "C:a",
            "-c",
            "~/a",
            "a\0",
        ];
        for wrong in wrong {
            check(field, json!(wrong), message);
        }
        for right in ["main.py", "./main.py", "src/app.ts", "a..b", "..a"] {
            check_right(field, json!(right));
        }
        check(field, json!("a".repeat(257)), "must be at most 256 bytes");
    }
}

#[test]
fn addresses_are_plain_http() {
    let rows = [
        ("", "must be an http or https URL, as http://127.0.0.1:9000"),
        (
            "ftp://x/",
            "must be an http or https URL, as http://127.0.0.1:9000",
        ),
        (
            "http:/x",
            "must be an http or https URL, as http://127.0.0.1:9000",
        ),
        (
            "http://",
            "must be an http or https URL, as http://127.0.0.1:9000",
        ),
        (
            "http://a b/",
            "must be an http or https URL, as http://127.0.0.1:9000",
        ),
        (
            "http://a\\b/",
            "must be an http or https URL, as http://127.0.0.1:9000",
        ),
        (
            "ht\ntp://a/",
            "must be an http or https URL, as http://127.0.0.1:9000",
        ),
        (
            "http://x:70000/",
            "must be an http or https URL, as http://127.0.0.1:9000",
        ),
        (
            "file:///etc/passwd",
            "must be an http or https URL, as http://127.0.0.1:9000",
        ),
        ("http://u@x/", "must not hold a user name or password"),
        ("http://:p@x/", "must not hold a user name or password"),
        ("http://x/?a", "must not have a query or a fragment"),
        ("http://x/#a", "must not have a query or a fragment"),
    ];
    for field in ["agent_url", "a2a.url", "a2a.card_url"] {
        for (wrong, message) in rows {
            check(field, json!(wrong), message);
        }
        let long = format!("http://x/{}", "a".repeat(limits::URL_BYTES_MAX));
        check(field, json!(long), "must be at most 2048 bytes");
        for right in [
            "http://x",
            "https://x/base/",
            "http://[::1]:8080",
            "HTTP://x",
        ] {
            check_right(field, json!(right));
        }
    }
}

#[test]
fn addresses_show_where_they_lead() {
    let shown = |text: &str| text.parse::<AgentUrl>().unwrap().as_str().to_owned();
    assert_eq!(shown("http://127.0.0.1:9000"), "http://127.0.0.1:9000");
    assert_eq!(shown("http://x/a2a/"), "http://x/a2a/");
    // Spellings behind which an address could hide are written out.
    assert_eq!(shown("http://0x7f.1"), "http://127.0.0.1/");
    assert_eq!(shown("http://X/a/../b"), "http://x/b");
    let below = |base: &str| {
        base.parse::<AgentUrl>()
            .unwrap()
            .endpoint("/chat")
            .to_string()
    };
    assert_eq!(below("http://x"), "http://x/chat");
    assert_eq!(below("http://x/base"), "http://x/base/chat");
    assert_eq!(below("http://x/base/"), "http://x/base/chat");
}

#[test]
fn sizes_have_units() {
    let rows = [
        ("0B", 0, "0B"),
        ("512MB", 512_000_000, "512MB"),
        ("8 GB", 8_000_000_000, "8GB"),
        ("4GiB", 4 << 30, "4GiB"),
        ("1.5GB", 1_500_000_000, "1500MB"),
        ("1.5KiB", 1536, "1536B"),
        ("1000TB", 1_000_000_000_000_000, "1000TB"),
    ];
    for (text, bytes, shown) in rows {
        let size: ByteSize = text.parse().unwrap();
        assert_eq!((size.bytes(), size.to_string().as_str()), (bytes, shown));
        assert_eq!(shown.parse(), Ok(size));
        check_right("resources.ram_min", json!(text));
    }
    for field in ["resources.ram_min", "resources.vram_min"] {
        let wrong = [
            "", "4", "GB", "4 gb", "4gb", "-4GB", "4  GB", "4GB ", "4.GB", "1.2345GB", ".5GB",
            "١GB",
        ];
        for wrong in wrong {
            check(field, json!(wrong), "must be a size, as 512MB or 4GiB");
        }
        for large in ["1001TB", "999999999999999TiB"] {
            check(field, json!(large), "must be at most 1000TB");
        }
    }
}

#[test]
fn intervals_are_bounded() {
    let message = "must be a time from 1s to 24h, as 30s, 5m or 1h";
    for wrong in [
        "", "s", "30", "0s", "86401s", "25h", "30 s", "1.5m", "+1s", "30S", "1000000s", "é",
    ] {
        check("health.interval", json!(wrong), message);
    }
    for (right, seconds) in [("1s", 1), ("86400s", 86400), ("24h", 86400), ("5m", 300)] {
        let mut card = full();
        card["health"]["interval"] = json!(right);
        let card = AgentCard::from_json(&card).unwrap();
        assert_eq!(card.health.interval, Duration::from_secs(seconds));
    }
}

#[test]
fn skill_ids_are_words_and_unique() {
    let message =
        "must be letters, digits and the characters . _ : / - with a letter or digit first";
    for wrong in ["-a", "a b", "é", "a\n", "_a"] {
        check("skills[0].id", json!(wrong), message);
    }
    check(
        "skills[0].id",
        json!("a".repeat(65)),
        "must be at most 64 bytes",
    );
    let mut card = full();
    let skill = card["skills"][0].clone();
    card["skills"] = json!([skill, { "id": "other", "name": "O", "description": "o" }, skill]);
    let errors = AgentCard::from_json(&card).unwrap_err();
    assert_eq!(
        lines(&errors),
        ["skills[2].id: must be unique among the skills"]
    );
}

#[test]
fn endpoints_are_unique_in_path_and_method() {
    let chat = |method: &str| json!({ "path": "/chat", "method": method });
    check_right("endpoints", json!([chat("GET"), chat("POST")]));
    let errors = errors_with("/endpoints", json!([chat("GET"), chat("GET")]));
    assert_eq!(errors, ["endpoints[1]: must be unique in path and method"]);
}

#[test]
fn lists_are_bounded() {
    let skill = |n: usize| json!({ "id": format!("s{n}"), "name": "S", "description": "s" });
    let endpoint = |n: usize| json!({ "path": format!("/{n}"), "method": "GET" });
    type Entry<'a> = &'a dyn Fn(usize) -> Value;
    let rows: [(&str, usize, Entry<'_>); 5] = [
        ("skills", limits::SKILLS_MAX, &skill),
        ("endpoints", limits::ENDPOINTS_MAX, &endpoint),
        ("skills[0].tags", limits::TAGS_MAX, &|n| {
            json!(format!("t{n}"))
        }),
        ("skills[0].examples", limits::EXAMPLES_MAX, &|n| {
            json!(format!("e{n}"))
        }),
        ("capabilities_requested", limits::CAPABILITIES_MAX, &|_| {
            json!("event_emit")
        }),
    ];
    for (field, entries_max, entry) in rows {
        check_right(field, (0..entries_max).map(entry).collect());
        let message = format!("must have at most {entries_max} entries");
        check(field, (0..=entries_max).map(entry).collect(), &message);
    }
}

#[test]
fn both_spellings_are_understood_if_they_agree() {
    let mut card = full();
    card["capabilities"] = json!(["web_search", "memory_write", "memory_read", "llm_inference"]);
    card["health"]["endpoint"] = json!("/health");
    assert!(AgentCard::from_json(&card).is_ok());
    card["capabilities"] = json!(["event_emit"]);
    card["health"]["endpoint"] = json!("/healthz");
    let errors = AgentCard::from_json(&card).unwrap_err();
    let expected = [
        "capabilities: must be the same as capabilities_requested; give only one of them",
        "health.endpoint: must be the same as health_endpoint; give only one of them",
    ];
    assert_eq!(lines(&errors), expected);
    let fields = card.as_object_mut().unwrap();
    fields.shift_remove("capabilities_requested");
    fields.shift_remove("health_endpoint");
    let card = AgentCard::from_json(&card).unwrap();
    assert_eq!(card.health.endpoint, "/healthz");
    assert_eq!(
        card.capabilities.iter().collect::<Vec<_>>(),
        [Capability::EventEmit]
    );
}

#[test]
fn errors_are_bounded() {
    let mut card = full();
    card["skills"] = (0..64)
        .map(|_| json!({ "id": 1, "name": 1, "tags": 1 }))
        .collect();
    let errors = AgentCard::from_json(&card).unwrap_err();
    assert_eq!(errors.len(), limits::FIELD_ERRORS_MAX);
}

#[test]
fn large_and_deep_cards_are_refused_whole() {
    let mut card = full();
    card["colour"] = json!("x".repeat(limits::CARD_BYTES_MAX));
    let errors = AgentCard::from_json(&card).unwrap_err();
    assert_eq!(lines(&errors), [": must be at most 65536 bytes"]);
    let mut deep = json!(1);
    for _ in 0..10_000 {
        deep = Value::Array(vec![deep]);
    }
    card["colour"] = deep;
    let errors = AgentCard::from_json(&card).unwrap_err();
    assert_eq!(lines(&errors), [": must be nested at most 32 deep"]);
    // Dropping a value recurses: taken apart by hand, it needs no stack.
    let mut deep = card["colour"].take();
    while let Value::Array(mut inner) = deep {
        deep = inner.pop().unwrap_or_default();
    }
}
