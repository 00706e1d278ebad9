//! PDF: page by page, so that one page that cannot be read costs no other its text.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pdf_extract::{Document, Error, Object, PlainTextOutput, decode_text_string, output_doc_page};

use super::{DocumentFault, Draft, TEXT_BYTES_MAX};

/// Pages that are read.
const PAGES_MAX: usize = 5000;
/// What a document says of itself, and what it is called here.
const FACTS: [(&str, &str); 6] = [
    ("Author", "author"),
    ("Subject", "subject"),
    ("Keywords", "keywords"),
    ("Creator", "creator"),
    ("Producer", "producer"),
    ("CreationDate", "created"),
];

/// Reads pages.
pub(super) fn read(bytes: &[u8]) -> Result<Draft, DocumentFault> {
    // The library panics where it is surprised; here that is an answer.
    let loaded = catch_unwind(|| Document::load_mem(bytes));
    let loaded = loaded.map_err(|_| DocumentFault::damaged("its structure is broken"))?;
    let mut document = loaded.map_err(fault)?;
    if document.is_encrypted() {
        document.decrypt("").map_err(|_| DocumentFault::Encrypted)?;
    }
    let pages: Vec<u32> = document.get_pages().into_keys().collect();
    if pages.is_empty() {
        return Err(DocumentFault::damaged("it has no pages"));
    }
    let mut draft = Draft {
        pages: Some(pages.len()),
        is_partial: PAGES_MAX < pages.len(),
        ..Draft::default()
    };
    let (mut is_any_read, mut trouble) = (false, None);
    for page in pages.into_iter().take(PAGES_MAX) {
        let mut text = String::new();
        let read = catch_unwind(AssertUnwindSafe(|| {
            output_doc_page(&document, &mut PlainTextOutput::new(&mut text), page)
        }));
        match read {
            Ok(Ok(())) => is_any_read = true,
            Ok(Err(error)) => trouble = Some(error.to_string()),
            Err(_) => trouble = Some(format!("page {page} is broken")),
        }
        draft.text.push_str(&text);
        draft.text.push_str("\n\n");
        if TEXT_BYTES_MAX < draft.text.len() {
            draft.is_partial = true;
            break;
        }
    }
    if let Some(trouble) = trouble {
        if !is_any_read && draft.text.trim().is_empty() {
            return Err(DocumentFault::damaged(trouble));
        }
        draft.is_partial = true;
    }
    add_facts(&document, &mut draft);
    Ok(draft)
}

fn fault(error: Error) -> DocumentFault {
    match error {
        Error::Decryption(_) | Error::InvalidPassword => DocumentFault::Encrypted,
        error => DocumentFault::damaged(error),
    }
}

fn add_facts(document: &Document, draft: &mut Draft) {
    let info = document.trailer.get(b"Info");
    let info = info.and_then(Object::as_reference);
    let Ok(info) = info.and_then(|id| document.get_dictionary(id)) else {
        return;
    };
    let fact = |name: &str| decode_text_string(info.get(name.as_bytes()).ok()?).ok();
    draft.title = fact("Title");
    for (name, ours) in FACTS {
        if let Some(words) = fact(name) {
            draft.add_fact(ours, &words);
        }
    }
}
