//! Documents made here, honest ones and such as break off anywhere. What would take the process
//! with it is tested on the real reader, from outside.

use std::io::{Cursor, Write};

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use super::*;

/// A PDF of one page for each text, with what it says of itself.
fn pdf(pages: &[&str], info: &str) -> Vec<u8> {
    let mut objects = vec![
        "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
        String::new(),
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>".to_owned(),
        format!("<< {info} >>"),
    ];
    let mut kids = Vec::new();
    for text in pages {
        let content = format!("BT /F1 12 Tf 72 700 Td ({text}) Tj ET");
        objects.push(format!(
            "<< /Length {} >>\nstream\n{content}\nendstream",
            content.len()
        ));
        let stream = objects.len();
        objects.push(format!(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {stream} 0 R \
             /Resources << /Font << /F1 3 0 R >> >> >>"
        ));
        kids.push(format!("{} 0 R", objects.len()));
    }
    objects[1] = format!(
        "<< /Type /Pages /Count {} /Kids [{}] >>",
        kids.len(),
        kids.join(" ")
    );
    let mut file = b"%PDF-1.4\n".to_vec();
    let mut table = format!("xref\n0 {}\n0000000000 65535 f \n", objects.len() + 1);
    for (number, object) in objects.iter().enumerate() {
        table += &format!("{:010} 00000 n \n", file.len());
        file.extend(format!("{} 0 obj\n{object}\nendobj\n", number + 1).into_bytes());
    }
    let begin = file.len();
    file.extend(table.into_bytes());
    let size = objects.len() + 1;
    let trailer = format!("trailer\n<< /Size {size} /Root 1 0 R /Info 4 0 R >>\n");
    file.extend(format!("{trailer}startxref\n{begin}\n%%EOF\n").into_bytes());
    file
}

fn docx(parts: &[(&str, &str)]) -> Vec<u8> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    for (name, content) in parts {
        archive.start_file(*name, options).unwrap();
        archive.write_all(content.as_bytes()).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

fn body(inner: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?><w:document xmlns:w=\"w\" xmlns:mc=\"mc\"><w:body>{inner}</w:body>\
         </w:document>"
    )
}

fn paragraph(text: &str) -> String {
    format!("<w:p><w:r><w:t>{text}</w:t></w:r></w:p>")
}

fn headings(extracted: &Extracted) -> Vec<(u8, &str)> {
    let all = extracted.headings.iter();
    all.map(|heading| (heading.level, &*heading.text)).collect()
}

#[test]
fn a_pdf_has_pages_text_and_facts() {
    let info = "/Title (A report) /Author (Ann)";
    let found = extract(Format::Pdf, &pdf(&["First words", "Second page"], info)).unwrap();
    assert_eq!(found.text.trim(), "First words\n\nSecond page");
    assert_eq!((found.pages, found.words), (Some(2), 4));
    assert_eq!(found.title.as_deref(), Some("A report"));
    assert_eq!(found.metadata["author"], "Ann");
    assert!(!found.truncated);
}

#[test]
fn a_pdf_with_a_password_is_told() {
    let file = String::from_utf8(pdf(&["secret"], "")).unwrap();
    let encrypted = file.replace(
        "/Root 1 0 R",
        "/Root 1 0 R /Encrypt << /Filter /Standard /V 1 /R 2 /P -1 \
         /O (aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa) /U (aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa) >> \
         /ID [(a) (a)]",
    );
    let fault = extract(Format::Pdf, encrypted.as_bytes());
    assert!(fault.is_err() || fault.unwrap().text.contains("secret"));
}

#[test]
fn a_docx_has_paragraphs_tables_lists_and_headings() {
    let styles = "<w:styles xmlns:w=\"w\"><w:style w:styleId=\"berschrift2\">\
        <w:name w:val=\"heading 2\"/></w:style></w:styles>";
    let core = "<cp:coreProperties xmlns:cp=\"c\" xmlns:dc=\"d\"><dc:title>T &amp; U</dc:title>\
        <dc:creator>Ann</dc:creator></cp:coreProperties>";
    let inner = [
        "<w:p><w:pPr><w:pStyle w:val=\"Heading1\"/></w:pPr><w:r><w:t>Top</w:t></w:r></w:p>",
        "<w:p><w:pPr><w:pStyle w:val=\"berschrift2\"/></w:pPr><w:r><w:t>Below</w:t></w:r></w:p>",
        &paragraph("a &lt;b&gt; &#246; &unknown;c"),
        "<w:p><w:pPr><w:numPr/></w:pPr><w:r><w:t>item</w:t></w:r></w:p>",
        "<w:p><w:r><w:t>one</w:t><w:tab/><w:t>two</w:t><w:br/><w:t>three</w:t></w:r></w:p>",
        "<w:p><w:r><w:delText>gone</w:delText><w:instrText>PAGE</w:instrText></w:r></w:p>",
        "<mc:AlternateContent><mc:Choice>",
        &paragraph("once"),
        "</mc:Choice><mc:Fallback>",
        &paragraph("once"),
        "</mc:Fallback></mc:AlternateContent><w:tbl><w:tr><w:tc>",
        &paragraph("x"),
        "</w:tc><w:tc>",
        &paragraph("y"),
        "</w:tc></w:tr></w:tbl>",
    ];
    let file = docx(&[
        ("word/styles.xml", styles),
        ("word/document.xml", &body(&inner.concat())),
        ("docProps/core.xml", core),
    ]);
    let found = extract(Format::Docx, &file).unwrap();
    let expected = "Top\n\nBelow\n\na <b> \u{f6} c\n\n- item\none\ttwo\nthree\n\nonce\n\nx \ty";
    assert_eq!(found.text, expected);
    assert_eq!(headings(&found), [(1, "Top"), (2, "Below")]);
    assert_eq!(found.title.as_deref(), Some("T & U"));
    assert_eq!(found.metadata["author"], "Ann");
}

#[test]
fn a_web_page_has_what_a_reader_sees() {
    let page = "<!doctype html><html><head><title>A &amp; B</title><style>p{}</style>\
        <script>alert('no')</script></head><body><h1>Top <em>words</em></h1><p>First</p>\
        <h3>Deep</h3><ul><li>one</li><li>two</li></ul><hr><script>bad()</script>\
        <table><tr><td>x</td><td>y</td></tr></table><img src=a alt='a cat'>\
        <a href='https://example.org'>link</a></body></html>";
    let found = extract(Format::Html, page.as_bytes()).unwrap();
    assert_eq!(found.title.as_deref(), Some("A & B"));
    assert_eq!(headings(&found), [(1, "Top words"), (3, "Deep")]);
    for word in ["Top words", "First", "- one", "x", "y", "a cat", "link"] {
        assert!(found.text.contains(word), "{word}: {}", found.text);
    }
    for word in ["alert", "bad", "p{}", "\u{2500}", "\u{f8f0}", "example.org"] {
        assert!(!found.text.contains(word), "{word}: {}", found.text);
    }
}

#[test]
fn markdown_is_its_words_without_marks() {
    let source = "---\nsecret: yes\n---\n# Top *words*\n\nA [link](https://x) and `code`\n\n\
        ## Two\n- one\n- [x] two\n\n```rust\nfn main() {}\n```\n\n|a|b|\n|-|-|\n|1|2|\n\n\
        <script>no</script>\n";
    let found = extract(Format::Markdown, source.as_bytes()).unwrap();
    assert_eq!(found.title.as_deref(), Some("Top words"));
    assert_eq!(headings(&found), [(1, "Top words"), (2, "Two")]);
    for word in [
        "A link and code",
        "- one",
        "[x] two",
        "fn main() {}",
        "a\tb",
        "1\t2",
    ] {
        assert!(found.text.contains(word), "{word}: {}", found.text);
    }
    for word in ["secret", "https", "#", "`", "no</"] {
        assert!(!found.text.contains(word), "{word}: {}", found.text);
    }
}

#[test]
fn a_long_text_is_cut_and_counted_whole() {
    let text = "w\u{f6}rd ".repeat(2_000_000);
    let found = extract(Format::Text, text.as_bytes()).unwrap();
    assert!(found.truncated && found.text.len() <= TEXT_BYTES_MAX);
    assert_eq!((found.words, found.characters), (2_000_000, 9_999_999));
}

#[test]
fn archives_that_are_no_document_are_told() {
    let other = docx(&[("xl/workbook.xml", "<x/>")]);
    let fault = extract(Format::Docx, &other).unwrap_err();
    assert!(fault.to_string().contains("no DOCX"), "{fault}");
    let broken = docx(&[("word/document.xml", "<w:document><w:p></w:document>")]);
    let fault = extract(Format::Docx, &broken).unwrap_err();
    assert_eq!(fault.reason(), "damaged");
}

#[test]
fn an_archive_that_unpacks_to_too_much_is_given_up() {
    let bomb = docx(&[("word/document.xml", &" ".repeat(130 << 20))]);
    assert!(bomb.len() < 1 << 20);
    assert_eq!(extract(Format::Docx, &bomb), Err(DocumentFault::Unpacked));
    let styles = docx(&[
        ("word/styles.xml", &" ".repeat(9 << 20)),
        ("word/document.xml", &body(&paragraph("x"))),
    ]);
    assert_eq!(extract(Format::Docx, &styles), Err(DocumentFault::Unpacked));
    // One that says that it is small.
    let mut liar = bomb;
    let size = u32::try_from(130_u64 << 20).unwrap().to_le_bytes();
    let places: Vec<_> = (0..liar.len() - 4)
        .filter(|at| liar[*at..*at + 4] == size)
        .collect();
    assert!(!places.is_empty());
    for at in places {
        liar[at..at + 4].copy_from_slice(&7_u32.to_le_bytes());
    }
    extract(Format::Docx, &liar).unwrap_err();
}

#[test]
fn entities_that_stand_for_more_of_themselves_stand_for_nothing() {
    let laughs = "<?xml version=\"1.0\"?><!DOCTYPE x [<!ENTITY a \"ha\"><!ENTITY b \"&a;&a;\">\
        <!ENTITY f SYSTEM \"file:///etc/passwd\">]><w:document xmlns:w=\"w\"><w:body>\
        <w:p><w:r><w:t>[&b;&f;]</w:t></w:r></w:p></w:body></w:document>";
    let found = extract(Format::Docx, &docx(&[("word/document.xml", laughs)])).unwrap();
    assert_eq!(found.text, "[]");
}

#[test]
fn xml_may_nest_as_deep_as_it_likes() {
    let depth = 200_000;
    let inner = [
        "<w:x>".repeat(depth),
        paragraph("deep"),
        "</w:x>".repeat(depth),
    ]
    .concat();
    let found = extract(Format::Docx, &docx(&[("word/document.xml", &body(&inner))])).unwrap();
    assert_eq!(found.text, "deep");
}

#[test]
fn what_breaks_off_anywhere_or_is_noise_is_refused_or_read() {
    let seed = 11;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let whole = [
        (Format::Pdf, pdf(&["words"], "/Title (t)")),
        (
            Format::Docx,
            docx(&[("word/document.xml", &body(&paragraph("words")))]),
        ),
    ];
    for (format, whole) in &whole {
        for _ in 0..60 {
            let cut = rng.random_range(0..whole.len());
            // Whichever it is: it ends, with words.
            let _ = extract(*format, &whole[..cut]);
            let mut noisy = whole.clone();
            for _ in 0..8 {
                let at = rng.random_range(0..noisy.len());
                noisy[at] = rng.random();
            }
            let _ = extract(*format, &noisy);
        }
    }
    let mut noise = vec![0; 20_000];
    rng.fill_bytes(&mut noise);
    for format in Format::ALL {
        let _ = extract(format, &noise);
    }
}
