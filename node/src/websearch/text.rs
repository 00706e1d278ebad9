//! The text of a file, and what it is called.
//!
//! Whatever is UTF-8 without NUL is a text. Of HTML the tags are left out; it is gone through once
//! from the beginning to the end, whatever it holds.

use super::{TITLE_CHARS_MAX, cut};

/// How many lines a heading is looked for in.
const HEADING_LINES_MAX: usize = 50;
/// Elements whose content is no text.
const SILENT: [&str; 5] = ["script", "style", "template", "noscript", "svg"];
/// Elements within a line.
const INLINE: [&str; 16] = [
    "a", "abbr", "b", "bdi", "code", "em", "font", "i", "kbd", "mark", "s", "small", "span",
    "strong", "sub", "u",
];
/// Longest reference to a character.
const REFERENCE_BYTES_MAX: usize = 10;

/// A text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextFile {
    /// What it is called: its first heading, else the name of its file.
    pub title: String,
    /// The text.
    pub body: String,
}

impl TextFile {
    /// Reads a file; `None` where it is no text.
    pub fn read(name: &str, bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let text = std::str::from_utf8(bytes).ok()?;
        if text.contains('\0') || text.trim().is_empty() {
            return None;
        }
        let extension = name.rsplit_once('.').map(|(_, extension)| extension);
        let extension = extension.unwrap_or_default().to_ascii_lowercase();
        let (title, body) = match &*extension {
            "html" | "htm" | "xhtml" => text_of_html(text),
            "md" | "markdown" => (heading(text, "# "), text.to_owned()),
            "rst" | "adoc" => (heading(text, "= "), text.to_owned()),
            _ => (None, text.to_owned()),
        };
        let title = title.filter(|title| !title.is_empty());
        let title = title.unwrap_or_else(|| name.to_owned());
        Some(Self {
            title: cut(&title, TITLE_CHARS_MAX).to_owned(),
            body,
        })
    }
}

fn heading(text: &str, mark: &str) -> Option<String> {
    let mut lines = text.lines().take(HEADING_LINES_MAX);
    lines.find_map(|line| Some(line.strip_prefix(mark)?.trim().to_owned()))
}

/// Returns the title of a page, if it has one, and its text.
pub fn text_of_html(html: &str) -> (Option<String>, String) {
    let mut page = Page::default();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        page.push(&rest[..at]);
        rest = page.tag(&rest[at..]);
    }
    page.push(rest);
    let title: Vec<_> = page.title.split_whitespace().collect();
    let title = title.join(" ");
    (
        Some(title).filter(|title| !title.is_empty()),
        page.text.trim().to_owned(),
    )
}

/// What was read of a page.
#[derive(Debug, Default)]
struct Page {
    title: String,
    text: String,
    is_in_title: bool,
}

impl Page {
    /// Reads what begins with `<`, and returns what comes after it.
    fn tag<'a>(&mut self, rest: &'a str) -> &'a str {
        if let Some(comment) = rest.strip_prefix("<!--") {
            return comment.split_once("-->").map_or("", |(_, after)| after);
        }
        let inner = &rest[1..];
        let is_end = inner.starts_with('/');
        let name = inner.strip_prefix('/').unwrap_or(inner);
        let length = name.find(|c: char| !c.is_ascii_alphanumeric());
        let name = name[..length.unwrap_or(name.len())].to_ascii_lowercase();
        if name.is_empty() && !inner.starts_with(['!', '?', '/']) {
            // A sign in the text, not a tag.
            self.push("<");
            return inner;
        }
        let after = inner.split_once('>').map_or("", |(_, after)| after);
        if !is_end && SILENT.contains(&&*name) {
            return after_end(after, &name);
        }
        if name == "title" {
            self.is_in_title = !is_end && self.title.is_empty();
        } else if !INLINE.contains(&&*name) && !self.text.ends_with('\n') {
            self.text.truncate(self.text.trim_end_matches(' ').len());
            self.text.push('\n');
        }
        after
    }

    /// Takes a text, with its references to characters, and its white space as one blank.
    fn push(&mut self, text: &str) {
        let target = match self.is_in_title {
            true => &mut self.title,
            false => &mut self.text,
        };
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let (c, length) = match c {
                '&' => character(rest),
                c => (c, c.len_utf8()),
            };
            rest = &rest[length..];
            if !c.is_whitespace() {
                target.push(c);
            } else if !target.is_empty() && !target.ends_with([' ', '\n']) {
                target.push(' ');
            }
        }
    }
}

/// Returns what comes after an element's end.
fn after_end<'a>(text: &'a str, name: &str) -> &'a str {
    for (at, _) in text.match_indices("</") {
        let rest = &text.as_bytes()[at + 2..];
        let is_end = rest
            .get(..name.len())
            .is_some_and(|n| n.eq_ignore_ascii_case(name.as_bytes()));
        if is_end {
            return text[at..].split_once('>').map_or("", |(_, after)| after);
        }
    }
    ""
}

/// Returns the character that a reference at the beginning stands for, and the reference's length.
fn character(text: &str) -> (char, usize) {
    let plain = ('&', 1);
    let bytes = text.as_bytes();
    let searched = &bytes[..bytes.len().min(REFERENCE_BYTES_MAX)];
    let Some(end) = searched.iter().position(|byte| *byte == b';') else {
        return plain;
    };
    let name = &text[1..end];
    let number = |text: &str, radix| u32::from_str_radix(text, radix).ok();
    let c = match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        "nbsp" => Some(' '),
        _ => match name.strip_prefix('#') {
            Some(digits) => match digits.strip_prefix(['x', 'X']) {
                Some(digits) => number(digits, 16).and_then(char::from_u32),
                None => number(digits, 10).and_then(char::from_u32),
            },
            None => None,
        },
    };
    // One that is none stays as it is written.
    c.filter(|c| *c != '\0').map_or(plain, |c| (c, end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_its_title_and_its_words() {
        let html = "<!DOCTYPE html><html><head><title>A &amp; B\n</title>\
            <style>p { color: red }</style><SCRIPT>if (a < b) alert('</p>')</SCRIPT></head>\
            <body><!-- not <b>this</b> --><h1>Head</h1><p>One <b>t</b>wo&nbsp;&#228;&#x1F600;\
            <br>three 1 < 2 &unknown; &#0;</p></body></html>";
        let (title, text) = text_of_html(html);
        assert_eq!(title.as_deref(), Some("A & B"));
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        assert_eq!(
            lines,
            [
                "Head",
                "One two \u{e4}\u{1f600}",
                "three 1 < 2 &unknown; &#0;"
            ]
        );
    }

    #[test]
    fn pages_without_ends_are_read_to_their_end() {
        for html in [
            "<script>never closed",
            "<!-- never closed",
            "<p never closed",
            "a <",
            "</",
            "<title>x",
            "&",
            "&#99999999999;",
            "<script></scr",
        ] {
            let _ = text_of_html(html);
        }
        let deep = "<div>".repeat(200_000);
        assert_eq!(text_of_html(&format!("{deep}x")).1, "x");
        let open = "<script></".repeat(100_000);
        assert_eq!(text_of_html(&open).1, "");
        assert_eq!(text_of_html(&"&".repeat(100_000)).1.len(), 100_000);
    }

    #[test]
    fn what_is_no_text_is_left_out() {
        assert!(TextFile::read("a.bin", b"a\0b").is_none());
        assert!(TextFile::read("a.txt", b"\xff\xfe").is_none());
        assert!(TextFile::read("a.txt", b" \n").is_none());
        let of = |name: &str, text: &str| TextFile::read(name, text.as_bytes()).unwrap();
        assert_eq!(of("a.txt", "\u{feff}text").body, "text");
        assert_eq!(of("a.txt", "# x").title, "a.txt");
        assert_eq!(of("a.md", "x\n\n# The title\n# b").title, "The title");
        assert_eq!(of("a.md", "no heading").title, "a.md");
        assert_eq!(of("a.HTML", "<title>T</title>b").title, "T");
        let long = format!("# {}", "ä".repeat(500));
        assert_eq!(of("a.md", &long).title.chars().count(), TITLE_CHARS_MAX);
    }
}
