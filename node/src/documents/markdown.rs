//! Markdown: its words without its marks, and its headings.

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

use super::{Draft, text::decode};

/// Reads a text with marks; any text is one.
pub(super) fn read(bytes: &[u8]) -> Draft {
    let source = decode(bytes);
    let options = Options::ENABLE_TABLES
        | Options::ENABLE_STRIKETHROUGH
        | Options::ENABLE_TASKLISTS
        | Options::ENABLE_FOOTNOTES
        | Options::ENABLE_YAML_STYLE_METADATA_BLOCKS;
    let mut draft = Draft::default();
    let mut heading = None;
    let mut is_hidden = false;
    for event in Parser::new_ext(&source, options) {
        match event {
            Event::Start(tag) => match tag {
                Tag::Heading { level, .. } => heading = Some((level, draft.text.len())),
                Tag::Item => draft.text.push_str("- "),
                Tag::MetadataBlock(_) | Tag::HtmlBlock => is_hidden = true,
                _ => {}
            },
            Event::End(end) => {
                if matches!(end, TagEnd::Heading(_))
                    && let Some((level, begin)) = heading.take()
                {
                    let words = draft.text[begin..].to_owned();
                    let level = level as u8;
                    if level == 1 && draft.title.is_none() {
                        draft.title = Some(words.clone());
                    }
                    draft.add_heading(level, &words);
                }
                is_hidden &= !matches!(end, TagEnd::MetadataBlock(_) | TagEnd::HtmlBlock);
                draft.text.push_str(after(end));
            }
            Event::Text(words) | Event::Code(words) if !is_hidden => draft.text.push_str(&words),
            Event::SoftBreak => draft.text.push(' '),
            Event::HardBreak => draft.text.push('\n'),
            Event::Rule => draft.text.push_str("\n\n"),
            Event::TaskListMarker(is_done) => {
                draft.text.push_str(if is_done { "[x] " } else { "[ ] " });
            }
            _ => {}
        }
    }
    draft
}

/// Returns what stands between something and what comes after it.
fn after(end: TagEnd) -> &'static str {
    match end {
        TagEnd::TableCell => "\t",
        TagEnd::Item | TagEnd::TableRow | TagEnd::TableHead => "\n",
        TagEnd::Paragraph
        | TagEnd::Heading(_)
        | TagEnd::CodeBlock
        | TagEnd::List(_)
        | TagEnd::Table
        | TagEnd::BlockQuote(_)
        | TagEnd::FootnoteDefinition => "\n\n",
        _ => "",
    }
}
