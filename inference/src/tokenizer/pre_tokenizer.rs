//! How text is cut into words before merging, by the name in `tokenizer.ggml.pre`.
//!
//! A pre-tokenizer is a list of patterns: each cuts the pieces that the one before it left, and
//! what lies between two matches is a piece too. The names and which of them are alike follow
//! llama.cpp, because GGUF has no other definition of them.

use tokenizers::utils::SysRegex;

use crate::error::{Error, Result};

/// GPT-2's words: English contractions; letters, digits or symbols with at most one space before
/// them; and white space, whose last character goes to the word that follows.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Each digit by itself, before GPT-2's words.
const SMOLLM: &[&str] = &[r"\p{N}", GPT2];

/// As GPT-2, but any symbol may lead a word, line breaks stay together, and digits come in
/// groups of three.
const LLAMA3: &[&str] = &[concat!(
    r"'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)];

/// As Llama 3, with each digit by itself.
const QWEN2: &[&str] = &[concat!(
    r"'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)];

/// What llama.cpp does for a file that names none.
const DEFAULT: &[&str] = &[r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"];

/// The names in messages: one of each kind.
const SUPPORTED: &str = "smollm, llama-bpe, qwen2, gpt-2, default";

/// Cuts text into words.
pub(super) struct PreTokenizer {
    kind: Kind,
    patterns: Vec<SysRegex>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Smollm,
    Llama3,
    Qwen2,
    Gpt2,
    Default,
}

impl PreTokenizer {
    /// Finds the pre-tokenizer of that name.
    ///
    /// # Errors
    /// [`Error::UnsupportedModel`] for an unknown name.
    pub(super) fn named(name: Option<&str>) -> Result<Self> {
        let kind = match name.unwrap_or_default() {
            "smollm" => Kind::Smollm,
            "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "falcon-h1" | "pixtral"
            | "midm-2.0" | "lfm2" | "jina-v5-nano" => Kind::Llama3,
            "qwen2" | "deepseek-r1-qwen" | "kormo" | "f2llmv2" | "megrez" => Kind::Qwen2,
            "gpt-2" | "phi-2" | "jina-es" | "jina-de" | "gigachat" | "jina-v2-es"
            | "jina-v2-de" | "a.x-4.0" | "mellum" | "modern-bert" | "exaone4" => Kind::Gpt2,
            "" | "default" => Kind::Default,
            other => {
                return Err(Error::UnsupportedModel {
                    message: format!("pre-tokenizer {other:?}; supported are {SUPPORTED}"),
                });
            }
        };
        if name.is_none() {
            tracing::warn!("the model names no pre-tokenizer, its answers may suffer");
        }
        let patterns = match kind {
            Kind::Smollm => SMOLLM,
            Kind::Llama3 => LLAMA3,
            Kind::Qwen2 => QWEN2,
            Kind::Gpt2 => &[GPT2],
            Kind::Default => DEFAULT,
        };
        let compile = |pattern: &&str| {
            SysRegex::new(pattern).map_err(|error| Error::Internal {
                message: format!("the pre-tokenizer's pattern does not compile: {error}"),
            })
        };
        let patterns = patterns.iter().map(compile).collect::<Result<_>>()?;
        Ok(Self { kind, patterns })
    }

    /// Returns whether a word that is a piece is taken whole, whatever the merges would do.
    pub(super) fn whole_words_first(&self) -> bool {
        self.kind == Kind::Llama3
    }

    /// Returns whether such models want a beginning of sequence where the file is silent.
    pub(super) fn adds_bos(&self) -> bool {
        self.kind == Kind::Llama3
    }

    /// Calls `on_word` with each word of the text, in order; together they are the text.
    pub(super) fn words(
        &self,
        text: &str,
        on_word: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<()> {
        cut(&self.patterns, text, on_word)
    }
}

impl std::fmt::Debug for PreTokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.kind.fmt(f)
    }
}

/// Cuts by the first pattern and each part by the others. A pattern that gives up leaves the rest
/// of the text in one part: no text is lost.
fn cut(
    patterns: &[SysRegex],
    text: &str,
    on_word: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let Some((first, others)) = patterns.split_first() else {
        return on_word(text);
    };
    let mut end_before = 0;
    for (start, end) in first.find_iter(text) {
        cut(others, &text[end_before..start], on_word)?;
        cut(others, &text[start..end], on_word)?;
        end_before = end;
    }
    cut(others, &text[end_before..], on_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(name: &str, text: &str) -> Vec<String> {
        let mut words = Vec::new();
        PreTokenizer::named(Some(name))
            .unwrap()
            .words(text, &mut |word| {
                words.push(word.to_owned());
                Ok(())
            })
            .unwrap();
        words
    }

    #[test]
    fn digits_stand_alone_in_smollm_and_in_threes_in_llama() {
        assert_eq!(words("smollm", "in 1234"), ["in", " ", "1", "2", "3", "4"]);
        assert_eq!(words("llama-bpe", "in 1234"), ["in", " ", "123", "4"]);
        assert_eq!(words("qwen2", "in 12"), ["in", " ", "1", "2"]);
        assert_eq!(words("gpt-2", "in 1234"), ["in", " 1234"]);
    }

    #[test]
    fn the_last_space_goes_to_the_word_behind_it() {
        assert_eq!(words("gpt-2", "a   b  "), ["a", "  ", " b", "  "]);
    }

    #[test]
    fn unknown_name_is_refused_with_the_names_that_are_known() {
        let error = PreTokenizer::named(Some("tekken")).unwrap_err();
        assert!(error.to_string().contains("tekken") && error.to_string().contains("smollm"));
    }
}
