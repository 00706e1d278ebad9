//! Documents through the router and the real reader, which is a process: hostile ones end it, and
//! nothing else.

use std::{
    fmt::Write as _,
    io::{Cursor, Write},
    time::Duration,
};

use axum::http::StatusCode;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use crate::support::{Api, KEY, Reply, api};

const BOUNDARY: &str = "a-boundary";

/// Sends a document as a part of a body.
async fn analyze(api: &Api, name: &str, content: &[u8]) -> Reply {
    let head = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\n"
    );
    let end = format!("\r\n--{BOUNDARY}--\r\n");
    let body = [head.as_bytes(), content, end.as_bytes()].concat();
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    let bearer = format!("Bearer {KEY}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", kind.as_str()),
    ];
    api.send("POST", "/v1/documents/analyze", &headers, body)
        .await
}

async fn post(api: &Api, path: &str, body: serde_json::Value) -> Reply {
    let bearer = format!("Bearer {KEY}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    api.send("POST", path, &headers, body.to_string()).await
}

fn docx(document: &[u8]) -> Vec<u8> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    archive.start_file("word/document.xml", options).unwrap();
    archive.write_all(document).unwrap();
    archive.finish().unwrap().into_inner()
}

/// A PDF of these objects, numbered from 1, of which the first is the catalogue.
fn pdf(objects: &[String]) -> Vec<u8> {
    let mut file = "%PDF-1.4\n".to_owned();
    let mut table = format!("xref\n0 {}\n0000000000 65535 f \n", objects.len() + 1);
    for (number, object) in objects.iter().enumerate() {
        writeln!(table, "{:010} 00000 n ", file.len()).unwrap();
        writeln!(file, "{} 0 obj\n{object}\nendobj", number + 1).unwrap();
    }
    let begin = file.len();
    let size = objects.len() + 1;
    let trailer = format!("trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{begin}\n%%EOF\n");
    (file + &table + &trailer).into_bytes()
}

fn stream(head: &str, content: &str) -> String {
    let len = content.len();
    format!("<< {head} /Length {len} >>\nstream\n{content}\nendstream")
}

/// A page that draws `content`, with a form that draws `inner`.
fn pdf_with_form(content: &str, inner: &str) -> Vec<u8> {
    let resources = "/Resources << /XObject << /X 5 0 R >> >>";
    pdf(&[
        "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
        "<< /Type /Pages /Count 1 /Kids [3 0 R] >>".to_owned(),
        format!("<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Contents 4 0 R {resources} >>"),
        stream("", content),
        stream(&format!("/Type /XObject /Subtype /Form {resources}"), inner),
    ])
}

fn assert_fault(reply: &Reply, reasons: &[&str]) {
    assert_eq!(
        reply.status,
        StatusCode::UNPROCESSABLE_ENTITY,
        "{}",
        reply.text
    );
    let body = reply.json();
    assert_eq!(body["code"], "invalid_document");
    let reason = body["reason"].as_str().unwrap();
    assert!(reasons.contains(&reason), "{reason}: {}", reply.text);
}

/// Nothing is left over: the next document is read.
async fn assert_reads(api: &Api) {
    let reply = analyze(api, "a.md", b"# Title\n\nwords").await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    assert_eq!(reply.json()["title"], "Title");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_is_read_wherever_it_is() {
    let api = api();
    assert_reads(&api).await;
    let page = "<!doctype html><title>T</title><h1>Top</h1><script>no()</script>";
    let file = json!({ "path": "data/page.html", "data": page });
    let written = post(&api, "/api/workspaces/@me/write", file).await;
    assert_eq!(written.status, StatusCode::OK, "{}", written.text);
    let body = json!({ "path": "data/page.html" });
    let reply = post(&api, "/v1/documents/analyze", body).await.json();
    assert_eq!(
        (&reply["format"], &reply["title"]),
        (&json!("html"), &json!("T"))
    );
    assert_eq!(reply["headings"], json!([{ "level": 1, "text": "Top" }]));
    assert_eq!(reply["text"], "Top");
    for (body, status) in [
        (json!({ "path": "data/none" }), StatusCode::NOT_FOUND),
        (
            json!({ "path": "../admin.key" }),
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        (json!({ "artifact_id": "none" }), StatusCode::NOT_FOUND),
        (json!({}), StatusCode::UNPROCESSABLE_ENTITY),
        (
            json!({ "path": "a", "artifact_id": "b" }),
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
    ] {
        let reply = post(&api, "/v1/documents/analyze", body).await;
        assert_eq!(reply.status, status, "{}", reply.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_document_is_told_what_is_one() {
    let api = api();
    let reply = analyze(&api, "a.txt", b"\x7fELF\x02\x01\x01\0\0\0").await;
    assert_eq!(
        reply.status,
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "{}",
        reply.text
    );
    assert_eq!(
        reply.json()["formats"],
        json!(["pdf", "docx", "html", "markdown", "text"])
    );
    let large = vec![b'x'; (3 << 20) + 1];
    let reply = analyze(&api, "a.txt", &large).await;
    assert_eq!(
        reply.status,
        StatusCode::PAYLOAD_TOO_LARGE,
        "{}",
        reply.text
    );
    assert_reads(&api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pdf_that_draws_itself_ends_its_reader_and_nothing_else() {
    let api = api();
    let reply = analyze(&api, "a.pdf", &pdf_with_form("/X Do", "/X Do")).await;
    assert_fault(&reply, &["too_deep", "damaged", "timed_out", "memory"]);
    assert_reads(&api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pdf_that_would_draw_for_ever_is_given_up() {
    let api = api();
    // Each form draws the next one twice, and the last of them would be drawn 2^60 times.
    let form = |number: usize| {
        let next = format!("/Resources << /XObject << /X {} 0 R >> >>", number + 1);
        stream(
            &format!("/Type /XObject /Subtype /Form {next}"),
            "/X Do /X Do",
        )
    };
    let page = "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Contents 4 0 R \
        /Resources << /XObject << /X 5 0 R >> >> >>";
    let mut objects = vec![
        "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
        "<< /Type /Pages /Count 1 /Kids [3 0 R] >>".to_owned(),
        page.to_owned(),
        stream("", "/X Do"),
    ];
    objects.extend((5..65).map(form));
    objects.push(stream("/Type /XObject /Subtype /Form", "0 0 m"));
    assert_fault(
        &analyze(&api, "a.pdf", &pdf(&objects)).await,
        &["timed_out"],
    );
    assert_reads(&api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_unpack_to_too_much_are_given_up() {
    let api = api();
    let spaces = vec![b' '; 140 << 20];
    assert_fault(
        &analyze(&api, "a.docx", &docx(&spaces)).await,
        &["too_large"],
    );
    // One text without end, which is a single value for whoever parses it.
    let attribute = [
        b"<w:p x=\"".to_vec(),
        vec![b'a'; 120 << 20],
        b"\"/>".to_vec(),
    ]
    .concat();
    let reply = analyze(&api, "a.docx", &docx(&attribute)).await;
    assert!(reply.status.is_success() || reply.json()["code"] == "invalid_document");
    assert_reads(&api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nesting_without_end_ends_a_reader_at_most() {
    let api = api();
    let opened = "<div>".repeat(100_000);
    let quotes = "> ".repeat(50_000);
    let lists = "[".repeat(200_000);
    let brackets = pdf(&[format!(
        "<< /Type /Catalog /Pages {} >>",
        "[".repeat(1 << 20)
    )]);
    for (name, content) in [
        ("a.html", opened.as_bytes()),
        ("a.md", quotes.as_bytes()),
        ("b.md", lists.as_bytes()),
        ("a.pdf", &brackets),
    ] {
        let reply = analyze(&api, name, content).await;
        let is_told = reply.json()["code"] == "invalid_document";
        assert!(
            reply.status.is_success() || is_told,
            "{name}: {}",
            reply.text
        );
    }
    assert_reads(&api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_in_every_format_is_read_or_refused() {
    let api = api();
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut noise = vec![0; 4000];
    rng.fill_bytes(&mut noise);
    for head in [
        &b"%PDF-1.7\n"[..],
        b"PK\x03\x04",
        b"<html>",
        b"# a\n",
        b"PK\x03\x04word",
    ] {
        let content = [head, &noise].concat();
        let reply = analyze(&api, "noise", &content).await;
        let code = reply.status.as_u16();
        assert!([200, 415, 422].contains(&code), "{}", reply.text);
    }
    assert_reads(&api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_whose_asker_has_gone_is_not_read_on() {
    let api = api();
    // As many as are read at once, and each would take its whole time.
    let slow = docx(
        &[
            b"<w:p>".to_vec(),
            "<w:t>a</w:t>".repeat(2_000_000).into_bytes(),
        ]
        .concat(),
    );
    let asking: Vec<_> = (0..2)
        .map(|_| Box::pin(analyze(&api, "a.docx", &slow)))
        .collect();
    for asking in asking {
        let brief = tokio::time::timeout(Duration::from_millis(300), asking).await;
        drop(brief);
    }
    assert_reads(&api).await;
}
