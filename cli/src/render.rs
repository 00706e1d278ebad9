//! Text for the terminal: answers as they come, and tables.
//!
//! What a model or a server wrote may hold control sequences that move the cursor, retitle the
//! window or worse. None reaches a terminal: everything goes through [`printable`]. Pipes and
//! `--json` get the text as it is.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, IsTerminal, Write},
};

use crate::error::Error;

/// Writes answers to standard output.
#[derive(Debug)]
pub(crate) struct Output {
    is_terminal: bool,
}

impl Output {
    pub(crate) fn stdout() -> Self {
        Self {
            is_terminal: io::stdout().is_terminal(),
        }
    }

    /// Writes a piece at once, without a newline.
    pub(crate) fn piece(&self, text: &str) -> Result<(), Error> {
        let text = if self.is_terminal {
            printable(text)
        } else {
            Cow::Borrowed(text)
        };
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush())
            .map_err(Error::Terminal)
    }

    /// Writes a line.
    pub(crate) fn line(&self, text: &str) -> Result<(), Error> {
        self.piece(text)?;
        self.piece("\n")
    }
}

/// Writes a remark for the person at the terminal to standard error.
pub(crate) fn remark(text: &str) {
    // Nobody reads it when standard error is closed, and nothing depends on it.
    let _ = writeln!(io::stderr(), "{}", printable(text));
}

/// Writes the sign that it is the person's turn.
pub(crate) fn prompt() {
    // As with a remark: without a standard error there is nobody to prompt.
    let _ = write!(io::stderr(), "> ");
}

/// Returns the text without control characters other than newline and tab.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let is_hidden = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            // Marks that turn the direction of what follows can disguise it.
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if text.contains(is_hidden) {
        Cow::Owned(text.replace(is_hidden, "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// Lays out a table with two spaces between columns; the first row is its head.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..columns)
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Writes a number of weights the way model names do: `135M`, `1.2B`.
pub(crate) fn parameters(count: u64) -> String {
    const UNITS: [&str; 5] = ["", "K", "M", "B", "T"];
    let mut unit = 0;
    let mut divisor = 1u64;
    while unit + 1 < UNITS.len() && count / divisor >= 1000 {
        divisor *= 1000;
        unit += 1;
    }
    let (count, divisor) = (u128::from(count), u128::from(divisor));
    let tenths = (count * 10 + divisor / 2) / divisor;
    // Three digits are enough to know a size by.
    if tenths >= 1000 || tenths.is_multiple_of(10) {
        format!("{}{}", (count + divisor / 2) / divisor, UNITS[unit])
    } else {
        format!("{}.{}{}", tenths / 10, tenths % 10, UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_sequences_lose_their_escape() {
        assert_eq!(
            printable("a\x1b[2Jb\r\u{202e}c"),
            "a\u{fffd}[2Jb\u{fffd}\u{fffd}c"
        );
    }

    #[test]
    fn ordinary_text_is_untouched() {
        assert!(matches!(printable("né\n\t日本 👋"), Cow::Borrowed(_)));
    }

    #[test]
    fn columns_line_up_and_lines_end_without_spaces() {
        let rows = [
            vec!["NAME".into(), "SIZE".into()],
            vec!["smollm2:135m".into(), "1".into()],
        ];
        assert_eq!(table(&rows), "NAME          SIZE\nsmollm2:135m  1\n");
    }

    #[test]
    fn quantities_read_like_model_names() {
        assert_eq!(parameters(134_515_008), "135M");
        assert_eq!(parameters(1_235_814_432), "1.2B");
        assert_eq!(parameters(0), "0");
        assert_eq!(parameters(u64::MAX), "18446744T");
    }
}
