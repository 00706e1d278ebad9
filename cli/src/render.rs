//! Text for the terminal: answers as they come, and tables.
//!
//! What a model or a server wrote may hold control sequences that move the cursor, retitle the
//! window or worse. None reaches a terminal: everything goes through [`printable`]. Pipes and
//! `--json` get the text as it is.

use std::{
    array,
    borrow::Cow,
    fmt,
    io::{self, IsTerminal, Write},
    iter,
};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::error::Error;

/// Widest cell of a table: longer than any name, and a bound on what a server can make of a line.
const CELL_WIDTH_MAX: usize = 256;

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

/// A table of `N` columns, with two spaces between them.
///
/// Its cells come from a server, and its lines are the program's: what would break a line or turn
/// its direction is taken out of a cell, also on the way into a pipe.
#[derive(Debug)]
pub(crate) struct Table<const N: usize> {
    columns: [Column; N],
    rows: Vec<[String; N]>,
}

/// The head of a column, and how its cells stand below it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Column {
    /// Text, from the left.
    Text(&'static str),
    /// Numbers, up to the right.
    Number(&'static str),
}

impl<const N: usize> Table<N> {
    /// Makes a table without rows.
    pub(crate) fn new(columns: [Column; N]) -> Self {
        Self {
            columns,
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub(crate) fn push(&mut self, cells: [String; N]) {
        self.rows
            .push(cells.map(|cell| clip(&cell, CELL_WIDTH_MAX)));
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = self.columns.map(|column| column.head().to_owned());
        let lines = || iter::once(&head).chain(&self.rows);
        let widths: [usize; N] = array::from_fn(|column| {
            let widths = lines().map(|cells| cells[column].width());
            widths.max().unwrap_or_default()
        });
        for cells in lines() {
            let mut line = String::new();
            for ((cell, column), width) in cells.iter().zip(self.columns).zip(widths) {
                let padding = " ".repeat(width.saturating_sub(cell.width()));
                match column {
                    Column::Text(_) => line.extend([cell, padding.as_str()]),
                    Column::Number(_) => line.extend([padding.as_str(), cell]),
                }
                line.push_str("  ");
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

impl Column {
    const fn head(self) -> &'static str {
        match self {
            Self::Text(head) | Self::Number(head) => head,
        }
    }
}

/// Returns what a server wrote as part of one line, of at most so many columns of a terminal.
pub(crate) fn clip(text: &str, width_max: usize) -> String {
    let mut clipped = String::new();
    let mut width = 0;
    for c in text.chars() {
        let c = if c == '\n' || c == '\t' { ' ' } else { c };
        // Marks that take no room are bounded as well: they would pile up on one letter.
        let next = width + c.width().unwrap_or(1).max(1);
        if next > width_max {
            if width == width_max {
                clipped.pop();
            }
            clipped.push('…');
            break;
        }
        clipped.push(c);
        width = next;
    }
    printable(&clipped).into_owned()
}

/// Returns a value, or the sign for one that is not known.
pub(crate) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
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
        let mut table = Table::new([
            Column::Text("NAME"),
            Column::Number("SIZE"),
            Column::Text(""),
        ]);
        table.push(["smollm2:135m".into(), "1".into(), "-".into()]);
        table.push(["b".into(), "12345".into(), String::new()]);
        assert_eq!(
            table.to_string(),
            "NAME           SIZE\n\
             smollm2:135m      1  -\n\
             b             12345\n"
        );
    }

    #[test]
    fn wide_letters_take_two_columns() {
        let mut table = Table::new([Column::Text("NAME"), Column::Text("X")]);
        table.push(["日本".into(), "x".into()]);
        assert_eq!(table.to_string(), "NAME  X\n日本  x\n");
    }

    #[test]
    fn cell_cannot_forge_a_row_or_turn_a_line() {
        let mut table = Table::new([Column::Text("NAME")]);
        table.push(["a\nb\t\x1b[2J\u{202e}".into()]);
        assert_eq!(table.to_string(), "NAME\na b \u{fffd}[2J\u{fffd}\n");
    }

    #[test]
    fn long_cell_is_clipped() {
        assert_eq!(clip("research, chat", 8), "researc…");
        assert_eq!(clip("research", 8), "research");
        assert_eq!(clip("日本語", 5), "日本…");
        let piled = format!("a{}", "\u{301}".repeat(1000));
        assert!(clip(&piled, 10).chars().count() <= 10);
    }

    #[test]
    fn quantities_read_like_model_names() {
        assert_eq!(parameters(134_515_008), "135M");
        assert_eq!(parameters(1_235_814_432), "1.2B");
        assert_eq!(parameters(0), "0");
        assert_eq!(parameters(u64::MAX), "18446744T");
    }
}
