//! DOCX: a zip archive with the text in XML.
//!
//! Both are read as streams and bounded as they unpack, whatever they declare. XML is read without
//! a tree, so depth takes nothing, and no entity but the five that XML has stands for anything.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Cursor, Read},
};

use quick_xml::{
    Reader, XmlVersion,
    events::{BytesRef, BytesStart, Event},
};
use zip::{ZipArchive, result::ZipError};

use super::{DocumentFault, Draft, TEXT_BYTES_MAX};

/// Largest text, unpacked: it has markup around each of its words.
const BODY_BYTES_MAX: u64 = 128 << 20;
/// Largest of the other files, unpacked.
const PART_BYTES_MAX: u64 = 8 << 20;
/// Files of an archive; a book with pictures has hundreds.
const ENTRIES_MAX: usize = 10_000;
/// Styles that are known by name.
const STYLES_MAX: usize = 10_000;
/// What a document says of itself, and what it is called here.
const FACTS: [(&str, &str); 6] = [
    ("creator", "author"),
    ("subject", "subject"),
    ("keywords", "keywords"),
    ("description", "description"),
    ("created", "created"),
    ("modified", "modified"),
];

type Archive<'a> = ZipArchive<Cursor<&'a [u8]>>;

/// Reads an archive.
pub(super) fn read(bytes: &[u8]) -> Result<Draft, DocumentFault> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(DocumentFault::damaged)?;
    if ENTRIES_MAX < archive.len() {
        return Err(DocumentFault::Unpacked);
    }
    let mut styles = HashMap::new();
    with_part(&mut archive, "word/styles.xml", PART_BYTES_MAX, |part| {
        read_styles(part, &mut styles)
    })?;
    let mut body = Body::new(&styles);
    let is_there = with_part(&mut archive, "word/document.xml", BODY_BYTES_MAX, |part| {
        body.read(part)
    })?;
    if !is_there {
        return Err(DocumentFault::damaged(
            "it is a zip archive and no DOCX document",
        ));
    }
    let mut draft = body.draft;
    with_part(&mut archive, "docProps/core.xml", PART_BYTES_MAX, |part| {
        read_facts(part, &mut draft)
    })?;
    Ok(draft)
}

/// Hands a file of the archive to its reader, if it is there, and no more of it than it may have.
fn with_part(
    archive: &mut Archive<'_>,
    name: &str,
    bytes_max: u64,
    read: impl FnOnce(&mut dyn BufRead) -> Result<(), DocumentFault>,
) -> Result<bool, DocumentFault> {
    let part = match archive.by_name(name) {
        Ok(part) => part,
        Err(ZipError::FileNotFound) => return Ok(false),
        Err(ZipError::UnsupportedArchive(ZipError::PASSWORD_REQUIRED)) => {
            return Err(DocumentFault::Encrypted);
        }
        Err(error) => return Err(DocumentFault::damaged(error)),
    };
    if bytes_max < part.size() {
        return Err(DocumentFault::Unpacked);
    }
    // What it declares may be a lie.
    let mut part = BufReader::new(part.take(bytes_max + 1));
    let outcome = read(&mut part);
    match part.get_ref().limit() {
        0 => Err(DocumentFault::Unpacked),
        _ => outcome.map(|()| true),
    }
}

/// Calls `on` for every event of a file.
fn events(part: &mut dyn BufRead, mut on: impl FnMut(&Event<'_>)) -> Result<(), DocumentFault> {
    let mut xml = Reader::from_reader(part);
    let mut buffer = Vec::new();
    loop {
        match xml.read_event_into(&mut buffer) {
            Ok(Event::Eof) => return Ok(()),
            Ok(event) => on(&event),
            Err(error) => return Err(DocumentFault::damaged(error)),
        }
        buffer.clear();
    }
}

/// Learns which styles are headings, whatever language they are called in.
fn read_styles(
    part: &mut dyn BufRead,
    styles: &mut HashMap<String, u8>,
) -> Result<(), DocumentFault> {
    let mut id = String::new();
    events(part, |event| {
        if let Event::Start(tag) | Event::Empty(tag) = event {
            match tag.local_name().as_ref() {
                "style" => id = attribute(tag, "styleId"),
                "name" => {
                    if let Some(level) = level_of(&attribute(tag, "val"))
                        && styles.len() < STYLES_MAX
                    {
                        styles.insert(id.clone(), level);
                    }
                }
                _ => {}
            }
        }
    })
}

/// Returns the level of headings of a style.
fn level_of(name: &str) -> Option<u8> {
    let name = name.to_ascii_lowercase();
    if name == "title" {
        return Some(1);
    }
    let level = name.strip_prefix("heading")?.trim().parse().ok()?;
    (1..=9).contains(&level).then_some(level)
}

fn read_facts(part: &mut dyn BufRead, draft: &mut Draft) -> Result<(), DocumentFault> {
    let (mut name, mut words) = (String::new(), String::new());
    events(part, |event| match event {
        Event::Start(tag) => {
            name = tag.local_name().as_ref().to_owned();
            words.clear();
        }
        Event::Text(text) => words.push_str(&text.xml10_content()),
        Event::GeneralRef(reference) => words.extend(char_of(reference)),
        Event::End(_) => {
            if name == "title" {
                draft.title = Some(words.clone());
            }
            if let Some((_, ours)) = FACTS.iter().find(|(theirs, _)| *theirs == name) {
                draft.add_fact(ours, &words);
            }
            name.clear();
        }
        _ => {}
    })
}

/// The text, as it is read.
struct Body<'a> {
    styles: &'a HashMap<String, u8>,
    draft: Draft,
    is_text: bool,
    /// Within something that repeats what stands beside it, for older programs.
    fallback: usize,
    paragraph: Paragraph,
    /// Cells that we are in.
    cells: usize,
}

/// The paragraph that is read.
#[derive(Default)]
struct Paragraph {
    begin: usize,
    level: Option<u8>,
    is_item: bool,
}

impl<'a> Body<'a> {
    fn new(styles: &'a HashMap<String, u8>) -> Self {
        Self {
            styles,
            draft: Draft::default(),
            is_text: false,
            fallback: 0,
            paragraph: Paragraph::default(),
            cells: 0,
        }
    }

    fn read(&mut self, part: &mut dyn BufRead) -> Result<(), DocumentFault> {
        events(part, |event| match event {
            Event::Start(tag) => self.start(tag),
            Event::Empty(tag) => {
                self.start(tag);
                self.end(tag.local_name().as_ref());
            }
            Event::End(tag) => self.end(tag.local_name().as_ref()),
            Event::Text(text) if self.is_text => self.push(&text.xml10_content()),
            Event::CData(text) if self.is_text => self.push(&text.xml10_content()),
            Event::GeneralRef(reference) if self.is_text => {
                if let Some(c) = char_of(reference) {
                    self.push(c.encode_utf8(&mut [0; 4]));
                }
            }
            _ => {}
        })
    }

    fn push(&mut self, words: &str) {
        if TEXT_BYTES_MAX < self.draft.text.len() {
            self.draft.is_partial = true;
        } else if self.fallback == 0 {
            self.draft.text.push_str(words);
        }
    }

    fn start(&mut self, tag: &BytesStart<'_>) {
        match tag.local_name().as_ref() {
            "t" => self.is_text = true,
            "tab" => self.push("\t"),
            "br" | "cr" => self.push("\n"),
            "noBreakHyphen" => self.push("-"),
            "Fallback" => self.fallback += 1,
            "p" => {
                self.paragraph = Paragraph {
                    begin: self.draft.text.len(),
                    ..Paragraph::default()
                };
            }
            "pStyle" => {
                let style = attribute(tag, "val");
                let known = self.styles.get(&style).copied();
                self.paragraph.level = known.or_else(|| level_of(&style));
            }
            "numPr" => self.paragraph.is_item = true,
            "tc" => self.cells += 1,
            _ => {}
        }
    }

    fn end(&mut self, name: &str) {
        match name {
            "t" => self.is_text = false,
            "Fallback" => self.fallback = self.fallback.saturating_sub(1),
            "p" => self.end_paragraph(),
            "tc" => {
                self.cells = self.cells.saturating_sub(1);
                self.push("\t");
            }
            "tr" => self.push("\n"),
            "tbl" => self.push("\n"),
            _ => {}
        }
    }

    fn end_paragraph(&mut self) {
        let Paragraph {
            begin,
            level,
            is_item,
        } = std::mem::take(&mut self.paragraph);
        let begin = begin.min(self.draft.text.len());
        let has_words = !self.draft.text[begin..].trim().is_empty();
        if let (Some(level), true) = (level, has_words) {
            let words = self.draft.text[begin..].to_owned();
            self.draft.add_heading(level, &words);
        } else if is_item && has_words && self.cells == 0 {
            self.draft.text.insert_str(begin, "- ");
        }
        // Paragraphs in a cell stay on its line.
        match (self.cells, is_item) {
            (0, true) => self.push("\n"),
            (0, false) => self.push("\n\n"),
            _ => self.push(" "),
        }
    }
}

/// Returns an attribute by its name without prefix, empty where there is none.
fn attribute(tag: &BytesStart<'_>, name: &str) -> String {
    let attributes = tag.attributes().filter_map(Result::ok);
    let mut found = attributes.filter(|one| one.key.local_name().as_ref() == name);
    let value = found.next().and_then(|one| {
        one.normalized_value(XmlVersion::Implicit1_0)
            .ok()
            .map(String::from)
    });
    value.unwrap_or_default()
}

/// Returns what a reference stands for: a character by its number, or one of XML's five.
fn char_of(reference: &BytesRef<'_>) -> Option<char> {
    if let Ok(Some(c)) = reference.resolve_char_ref() {
        return Some(c);
    }
    match &*reference.xml10_content() {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => None,
    }
}
