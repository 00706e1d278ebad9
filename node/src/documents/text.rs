//! Bytes to text, and text to tidy text.

/// What the bytes 0x80 to 0x9f are in windows-1252; the rest of it is Latin-1.
const WINDOWS: [char; 32] = [
    '\u{20ac}', '\u{81}', '\u{201a}', '\u{192}', '\u{201e}', '\u{2026}', '\u{2020}', '\u{2021}',
    '\u{2c6}', '\u{2030}', '\u{160}', '\u{2039}', '\u{152}', '\u{8d}', '\u{17d}', '\u{8f}',
    '\u{90}', '\u{2018}', '\u{2019}', '\u{201c}', '\u{201d}', '\u{2022}', '\u{2013}', '\u{2014}',
    '\u{2dc}', '\u{2122}', '\u{161}', '\u{203a}', '\u{153}', '\u{9d}', '\u{17e}', '\u{178}',
];

/// Decodes a text that may say how it is encoded: UTF-8, UTF-16 with a mark, else windows-1252,
/// which any bytes can be.
pub(super) fn decode(bytes: &[u8]) -> String {
    let wide = |rest: &[u8], read: fn([u8; 2]) -> u16| {
        let (pairs, _odd) = rest.as_chunks::<2>();
        let units = pairs.iter().map(|pair| read(*pair));
        let chars = char::decode_utf16(units);
        chars
            .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect()
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => return wide(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => return wide(rest, u16::from_be_bytes),
        _ => {}
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|byte| windows(*byte)).collect(),
    }
}

fn windows(byte: u8) -> char {
    match byte {
        0x80..=0x9f => WINDOWS[usize::from(byte - 0x80)],
        byte => char::from(byte),
    }
}

/// Drops control characters, spaces at the ends of lines, and empty lines beyond one.
pub(super) fn tidy(text: &str) -> String {
    let mut tidied = String::with_capacity(text.len());
    let mut empty_lines = 0;
    for line in text.split(['\n', '\u{2028}', '\u{2029}', '\u{c}']) {
        let begin = tidied.len();
        if !tidied.is_empty() {
            tidied.extend(std::iter::repeat_n('\n', 1 + empty_lines.min(1)));
        }
        let content = tidied.len();
        tidied.extend(line.chars().filter(|c| *c == '\t' || !c.is_control()));
        tidied.truncate(tidied.trim_end().len().max(content));
        if tidied.len() == content {
            tidied.truncate(begin);
            empty_lines += 1;
        } else {
            empty_lines = 0;
        }
    }
    tidied
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_decoded_as_they_say_or_as_they_can_be() {
        assert_eq!(decode("\u{feff}h\u{f6}".as_bytes()), "h\u{f6}");
        assert_eq!(decode(b"\xff\xfeh\0i\0!"), "hi");
        assert_eq!(decode(b"\xfe\xff\0h\0i"), "hi");
        assert_eq!(decode(b"\xff\xfe\0\xd8"), "\u{fffd}");
        assert_eq!(decode(b"caf\xe9 \x93x\x94"), "caf\u{e9} \u{201c}x\u{201d}");
    }

    #[test]
    fn a_tidy_text_has_no_controls_and_one_empty_line_at_most() {
        assert_eq!(tidy("\n\n a \r\n\n\n\nb\u{0}\u{1b}c\td  \n"), " a\n\nbc\td");
        assert_eq!(tidy("a\u{c}b"), "a\nb");
        assert_eq!(tidy(" \n\t\n"), "");
    }
}
