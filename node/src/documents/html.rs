//! Web pages: what a reader would see. Scripts, styles and whatever else is not shown is dropped.

use html2text::{Element, Handle, config::with_decorator, render::TextDecorator};

use super::{DocumentFault, Draft, text::decode};

/// Columns of a line: so many that only very long paragraphs are cut into several.
const COLUMNS: usize = 4096;
/// Marks a heading in what the renderer writes: a character of private use, and its level.
const HEADING: char = '\u{f8f0}';

/// Reads a web page.
pub(super) fn read(bytes: &[u8]) -> Result<Draft, DocumentFault> {
    let source = decode(bytes);
    let config = with_decorator(Plain)
        .raw_mode(true)
        .allow_width_overflow()
        .link_footnotes(false);
    let page = config.parse_html(source.as_bytes());
    let page = page.map_err(DocumentFault::damaged)?;
    let mut draft = Draft {
        title: title(&page.document),
        ..Draft::default()
    };
    let tree = config.dom_to_render_tree(&page);
    let tree = tree.map_err(DocumentFault::damaged)?;
    let rendered = config.render_to_string(tree, COLUMNS);
    let rendered = rendered.map_err(DocumentFault::damaged)?;
    for line in rendered.lines() {
        let mut words = line;
        if let Some(rest) = line.strip_prefix(HEADING) {
            let level = rest.chars().next().and_then(|level| level.to_digit(10));
            words = rest.get(1..).unwrap_or_default().trim();
            let level = level.and_then(|level| u8::try_from(level).ok());
            draft.add_heading(level.unwrap_or(1), words);
        }
        // Rules are drawn.
        if !words.is_empty() && words.chars().all(|c| c == '\u{2500}') {
            words = "";
        }
        draft.text.push_str(words);
        draft.text.push('\n');
    }
    Ok(draft)
}

/// Returns the words of the first title.
fn title(document: &Handle) -> Option<String> {
    let mut left = vec![Handle::clone(document)];
    while let Some(node) = left.pop() {
        if let Element { name, .. } = &node.data
            && &*name.local == "title"
        {
            let mut inner = Vec::new();
            for child in node.children.borrow().iter() {
                child.serialize(&mut inner).ok()?;
            }
            let inner = String::from_utf8(inner).ok()?;
            // What the serializer escapes in a text.
            let pairs = [
                ("&lt;", "<"),
                ("&gt;", ">"),
                ("&nbsp;", " "),
                ("&amp;", "&"),
            ];
            let words = pairs.iter().fold(inner, |words, (escaped, plain)| {
                words.replace(escaped, plain)
            });
            return Some(words);
        }
        left.extend(node.children.borrow().iter().rev().cloned());
    }
    None
}

/// Adds nothing to the words but marks of headings and lists.
#[derive(Debug, Clone, Copy)]
struct Plain;

impl TextDecorator for Plain {
    type Annotation = ();

    fn decorate_link_start(&mut self, _url: &str) -> (String, ()) {
        (String::new(), ())
    }

    fn decorate_link_end(&mut self) -> String {
        String::new()
    }

    fn decorate_em_start(&self) -> (String, ()) {
        (String::new(), ())
    }

    fn decorate_em_end(&self) -> String {
        String::new()
    }

    fn decorate_strong_start(&self) -> (String, ()) {
        (String::new(), ())
    }

    fn decorate_strong_end(&self) -> String {
        String::new()
    }

    fn decorate_strikeout_start(&self) -> (String, ()) {
        (String::new(), ())
    }

    fn decorate_strikeout_end(&self) -> String {
        String::new()
    }

    fn decorate_code_start(&self) -> (String, ()) {
        (String::new(), ())
    }

    fn decorate_code_end(&self) -> String {
        String::new()
    }

    fn decorate_preformat_first(&self) {}

    fn decorate_preformat_cont(&self) {}

    fn decorate_image(&mut self, _src: &str, title: &str) -> (String, ()) {
        (title.to_owned(), ())
    }

    fn header_prefix(&self, level: usize) -> String {
        format!("{HEADING}{} ", level.min(9))
    }

    fn quote_prefix(&self) -> String {
        "> ".to_owned()
    }

    fn unordered_item_prefix(&self) -> String {
        "- ".to_owned()
    }

    fn ordered_item_prefix(&self, number: i64) -> String {
        format!("{number}. ")
    }

    fn make_subblock_decorator(&self) -> Self {
        *self
    }
}
