//! The Jinja environment that transformers gives to chat templates, built in minijinja.
//!
//! Dates are in UTC, where transformers takes local time. `strftime_now` is the only place of this
//! crate that asks for the date, and only where a template does.

use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::{
    Environment, ErrorKind, Value,
    value::{Kwargs, ViaDeserialize},
};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter};

/// The kind of error that `raise_exception` makes; nothing else here makes it.
pub(super) const RAISED: ErrorKind = ErrorKind::EvalBlock;

/// Bytes of a date format.
const FORMAT_BYTES_MAX: usize = 256;

/// Columns of indentation that `tojson` writes at most.
const INDENT_MAX: usize = 16;

const WEEKDAYS: [&str; 7] = [
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
];

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Returns an environment with the settings and functions of transformers.
pub(super) fn like_transformers() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment.add_filter("tojson", to_json);
    environment
}

/// Replaces transformers' own block `{% generation %}`, which marks text for training, by a
/// condition that is always true.
pub(super) fn without_generation_marks(source: &str) -> String {
    let mut output = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(len) = rest[start..].find("%}") else {
            break;
        };
        let (before, block) = (&rest[..start + 2], &rest[start + 2..start + len]);
        output.push_str(before);
        let inner = block.trim_matches(['-', '+']).trim();
        match inner {
            "generation" => output.push_str(&block.replace(inner, " if true ")),
            "endgeneration" => output.push_str(&block.replace(inner, " endif ")),
            _ => output.push_str(block),
        }
        rest = &rest[start + len..];
    }
    output.push_str(rest);
    output
}

fn raise_exception(message: String) -> Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(RAISED, message))
}

/// Writes JSON with Python's spacing, without escaping what is not ASCII.
fn to_json(
    ViaDeserialize(value): ViaDeserialize<serde_json::Value>,
    options: Kwargs,
) -> Result<Value, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let _: Option<bool> = options.get("ensure_ascii")?;
    let _: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let written = match indent {
        Some(columns) => {
            let indent = " ".repeat(columns.min(INDENT_MAX));
            write_json(&value, PrettyFormatter::with_indent(indent.as_bytes()))
        }
        None => write_json(&value, PythonFormatter),
    };
    written
        .map(Value::from)
        .map_err(|error| minijinja::Error::new(ErrorKind::BadSerialization, error.to_string()))
}

fn write_json(value: &serde_json::Value, formatter: impl Formatter) -> serde_json::Result<String> {
    let mut bytes = Vec::new();
    value.serialize(&mut serde_json::Serializer::with_formatter(
        &mut bytes, formatter,
    ))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// `json.dumps` with its default separators.
struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
    ) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

fn strftime_now(format: String) -> Result<String, minijinja::Error> {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    strftime(&format, seconds)
}

/// Formats a time in seconds since 1970, UTC, with the directives that templates use.
fn strftime(format: &str, seconds: u64) -> Result<String, minijinja::Error> {
    let refused = |message: String| minijinja::Error::new(ErrorKind::InvalidOperation, message);
    if format.len() > FORMAT_BYTES_MAX {
        return Err(refused("strftime_now: the format is too long".into()));
    }
    let days = seconds / 86_400;
    let (year, month, day) = civil_date(days);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    // 1970-01-01 was a Thursday.
    let weekday = WEEKDAYS[(days + 3) as usize % 7];
    let month_name = MONTHS[month as usize - 1];
    let mut output = String::new();
    let mut chars = format.chars();
    while let Some(char) = chars.next() {
        if char != '%' {
            output.push(char);
            continue;
        }
        output += &match chars.next() {
            Some('d') => format!("{day:02}"),
            Some('m') => format!("{month:02}"),
            Some('Y') => format!("{year}"),
            Some('y') => format!("{:02}", year % 100),
            Some('b') => month_name[..3].to_owned(),
            Some('B') => month_name.to_owned(),
            Some('a') => weekday[..3].to_owned(),
            Some('A') => weekday.to_owned(),
            Some('H') => format!("{hour:02}"),
            Some('M') => format!("{minute:02}"),
            Some('S') => format!("{second:02}"),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('%') => "%".to_owned(),
            other => {
                let directive = other.map_or(String::new(), String::from);
                return Err(refused(format!("strftime_now: unsupported %{directive}")));
            }
        };
    }
    Ok(output)
}

/// Returns year, month and day of a number of days since 1970. The year is counted from March,
/// so that the leap day is its last, in cycles of 400 years (146 097 days).
fn civil_date(days: u64) -> (u64, u64, u64) {
    // From 0000-03-01 to 1970-01-01.
    let days = days + 719_468;
    let (cycle, day_of_cycle) = (days / 146_097, days % 146_097);
    let year_of_cycle =
        (day_of_cycle - day_of_cycle / 1460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
    let day_of_year =
        day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    // Months from March have 153 days in each five.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = cycle * 400 + year_of_cycle + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(strftime("%d %b %Y", 0).unwrap(), "01 Jan 1970");
        assert_eq!(
            strftime("%A %F %T", 951_782_400).unwrap(),
            "Tuesday 2000-02-29 00:00:00"
        );
        assert_eq!(
            strftime("%a %d %B %y", 4_107_542_399).unwrap(),
            "Sun 28 February 00"
        );
        assert!(strftime("%Q", 0).is_err());
    }

    #[test]
    fn generation_marks_vanish_and_other_blocks_stay() {
        let source = "{% for m in x %}{%- generation -%}a{% endgeneration %}{% endfor %} {% tail";
        let expected = "{% for m in x %}{%-  if true  -%}a{%  endif  %}{% endfor %} {% tail";
        assert_eq!(without_generation_marks(source), expected);
    }
}
