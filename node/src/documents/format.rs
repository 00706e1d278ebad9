//! Which format a document has: by its first bytes, and only then by what is said of it.

use std::{fmt, str::FromStr};

/// How much of a document is looked at.
pub const HEAD_BYTES: usize = 4096;
/// How far into a file a PDF may begin, as its readers take it.
const PDF_OFFSET_MAX: usize = 1024;
/// Begins files of the Word of old, and DOCX files with a password.
const OLE: &[u8] = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1";

/// A format that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Pages.
    Pdf,
    /// Word's, since 2007.
    Docx,
    /// Web pages.
    Html,
    /// Text with marks.
    Markdown,
    /// Text.
    Text,
}

/// A document of no format that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}; what is read is PDF, DOCX, HTML, Markdown and plain text")]
pub struct Unknown(&'static str);

impl Format {
    /// Every format.
    pub const ALL: [Self; 5] = [
        Self::Pdf,
        Self::Docx,
        Self::Html,
        Self::Markdown,
        Self::Text,
    ];

    /// Returns the format's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pdf => "pdf",
            Self::Docx => "docx",
            Self::Html => "html",
            Self::Markdown => "markdown",
            Self::Text => "text",
        }
    }

    /// Tells a document's format from its beginning, its name and its media type.
    ///
    /// # Errors
    /// It has none that is read.
    pub fn detect(
        head: &[u8],
        name: Option<&str>,
        content_type: Option<&str>,
    ) -> Result<Self, Unknown> {
        if head.starts_with(b"PK\x03\x04") {
            return Ok(Self::Docx);
        }
        if head.starts_with(OLE) {
            let words = "this is a file of an old Word, or an encrypted one";
            return Err(Unknown(words));
        }
        let begin = &head[..head.len().min(PDF_OFFSET_MAX)];
        if begin.windows(5).any(|window| window == b"%PDF-") {
            return Ok(Self::Pdf);
        }
        let is_wide = head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff");
        let is_odd = |byte: &u8| byte.is_ascii_control() && !b"\t\n\r\x0c\x1b".contains(byte);
        if !is_wide && head.iter().any(is_odd) {
            return Err(Unknown("this is no document"));
        }
        let text = String::from_utf8_lossy(head).to_ascii_lowercase();
        let text = text.trim_start_matches('\u{feff}').trim_start();
        if text.starts_with("<!doctype html") || text.starts_with("<html") {
            return Ok(Self::Html);
        }
        Ok(Self::said(name, content_type).unwrap_or(Self::Text))
    }

    /// Returns what a name or a media type says of a text.
    fn said(name: Option<&str>, content_type: Option<&str>) -> Option<Self> {
        let name = name.unwrap_or_default().to_ascii_lowercase();
        let end = name.rsplit_once('.').map(|(_, end)| end);
        let by_name = match end {
            Some("html" | "htm" | "xhtml") => Some(Self::Html),
            Some("md" | "markdown" | "mkd") => Some(Self::Markdown),
            Some("txt" | "text" | "log" | "csv") => Some(Self::Text),
            _ => None,
        };
        let kind = content_type.unwrap_or_default().to_ascii_lowercase();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        by_name.or(match kind {
            "text/html" | "application/xhtml+xml" => Some(Self::Html),
            "text/markdown" | "text/x-markdown" => Some(Self::Markdown),
            _ => None,
        })
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Format {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.iter().find(|format| format.as_str() == word);
        found.copied().ok_or("is no format")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // tidy: table
    #[test]
    fn the_first_bytes_count_for_more_than_what_is_said() {
        let wide = b"\xff\xfeh\0i\0";
        for (head, name, kind, expected) in [
            (&b"%PDF-1.4"[..], Some("a.txt"), None, Some(Format::Pdf)),
            (b"junk\n%PDF-1.4", None, None, Some(Format::Pdf)),
            (b"PK\x03\x04\0", Some("a.md"), None, Some(Format::Docx)),
            (
                b"\xef\xbb\xbf <!DOCTYPE HTML>",
                None,
                None,
                Some(Format::Html),
            ),
            (b"<html lang=en>", Some("a.txt"), None, Some(Format::Html)),
            (b"<p>hi", Some("a.HTM"), None, Some(Format::Html)),
            (
                b"<p>hi",
                None,
                Some("text/html; charset=x"),
                Some(Format::Html),
            ),
            (
                b"# hi",
                Some("a.md"),
                Some("text/html"),
                Some(Format::Markdown),
            ),
            (b"# hi", None, Some("text/markdown"), Some(Format::Markdown)),
            (b"# hi", None, None, Some(Format::Text)),
            (b"caf\xe9", None, None, Some(Format::Text)),
            (b"", None, None, Some(Format::Text)),
            (wide, None, None, Some(Format::Text)),
            (b"\x7fELF\0", Some("a.txt"), None, None),
            (b"\x89PNG\r\n\x1a\n\0", Some("a.pdf"), None, None),
            (OLE, Some("a.docx"), None, None),
        ] {
            let found = Format::detect(head, name, kind);
            assert_eq!(found.ok(), expected, "{head:?}");
        }
    }

    #[test]
    fn a_format_is_its_word() {
        for format in Format::ALL {
            assert_eq!(format.as_str().parse(), Ok(format));
        }
        assert!("exe".parse::<Format>().is_err());
    }
}
