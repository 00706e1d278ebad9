//! Messages to a prompt, by the Jinja template that the model file carries.
//!
//! Templates are written for transformers, so the environment equals its: `trim_blocks`,
//! `lstrip_blocks`, loop controls, Python's string and mapping methods, `raise_exception`,
//! `strftime_now` and a `tojson` that writes as Python's `json.dumps` does.
//!
//! A template is as hostile as the file it came in: it gets no files and no includes, its source,
//! steps, recursion and output are bounded. What is not bounded is the size of a string that it
//! builds for itself, which can double with each statement it spells out.

mod environment;

use std::{io, sync::Arc};

use minijinja::{Environment, context};

use crate::{
    error::{Error, Result},
    gguf::Metadata,
    request::ChatMessage,
    tokenizer::Tokenizer,
};

/// Bytes of a template's source. Long ones, with tools, have 20 KiB.
pub const TEMPLATE_BYTES_MAX: usize = 256 << 10;

/// Bytes of a rendered prompt: what the tokenizer takes.
pub const OUTPUT_BYTES_MAX: usize = crate::tokenizer::INPUT_BYTES_MAX;

/// Instructions per rendering. Real templates take some 100 per message.
const FUEL_MAX: u64 = 2_000_000;

/// Nested macro calls; real templates need a handful.
const RECURSION_MAX: usize = 64;

/// The name under which the template stands in messages of the engine.
const NAME: &str = "chat_template";

/// ChatML, for files that carry no template but have its pieces.
const CHATML: &str = "{% for message in messages %}\
    {{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}\
    {% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// A compiled template; clones share it.
#[derive(Clone)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// Compiles the file's template, else takes ChatML where the vocabulary has `<|im_start|>`.
    /// `None` where there is neither: such a model continues text but holds no conversation.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] for a template that is too long or does not compile.
    pub fn from_gguf(metadata: &Metadata, tokenizer: &Tokenizer) -> Result<Option<Self>> {
        let source = match metadata.str("tokenizer.chat_template")? {
            Some(source) => source,
            None if tokenizer.id_of("<|im_start|>").is_some() => CHATML,
            None => return Ok(None),
        };
        let text = |id: Option<u32>| id.map(|id| tokenizer.decode(&[id], true));
        let bos = text(tokenizer.bos_id()).unwrap_or_default();
        let eos = text(tokenizer.eos_id()).unwrap_or_default();
        Self::compile(source, bos, eos).map(Some)
    }

    /// Compiles a template; `bos` and `eos` are the texts of `bos_token` and `eos_token` in it.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] as in [`from_gguf`](Self::from_gguf).
    pub fn compile(source: &str, bos: String, eos: String) -> Result<Self> {
        if source.len() > TEMPLATE_BYTES_MAX {
            return Err(Error::ChatTemplate {
                message: format!(
                    "the template has {} bytes, at most {TEMPLATE_BYTES_MAX} are read",
                    source.len()
                ),
            });
        }
        let mut environment = environment::like_transformers();
        environment.set_fuel(Some(FUEL_MAX));
        environment.set_recursion_limit(RECURSION_MAX);
        let source = environment::without_generation_marks(source);
        environment
            .add_template_owned(NAME, source)
            .map_err(|error| failed(&error))?;
        Ok(Self {
            environment: Arc::new(environment),
            bos,
            eos,
        })
    }

    /// Renders messages; with `add_generation_prompt` the text ends where the assistant speaks.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] where the template refuses the messages, fails, or exceeds a limit.
    pub fn render(&self, messages: &[ChatMessage], add_generation_prompt: bool) -> Result<String> {
        let template = self
            .environment
            .get_template(NAME)
            .map_err(|error| failed(&error))?;
        let mut output = Bounded::default();
        let rendered = template.render_captured_to(
            context! {
                messages,
                add_generation_prompt,
                bos_token => self.bos,
                eos_token => self.eos,
                tools => (),
                documents => (),
            },
            &mut output,
        );
        if output.is_full {
            return Err(Error::ChatTemplate {
                message: format!("the rendered prompt is longer than {OUTPUT_BYTES_MAX} bytes"),
            });
        }
        rendered.map_err(|error| failed(&error))?;
        String::from_utf8(output.bytes).map_err(|error| Error::Internal {
            message: format!("the chat template's output is not UTF-8: {error}"),
        })
    }
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("bos", &self.bos)
            .field("eos", &self.eos)
            .finish_non_exhaustive()
    }
}

/// Takes output up to [`OUTPUT_BYTES_MAX`].
#[derive(Default)]
struct Bounded {
    bytes: Vec<u8>,
    is_full: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > OUTPUT_BYTES_MAX {
            self.is_full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn failed(error: &minijinja::Error) -> Error {
    let message = match (error.kind(), error.detail()) {
        (minijinja::ErrorKind::OutOfFuel, _) => {
            format!("rendering takes more than {FUEL_MAX} steps")
        }
        // The words of `raise_exception` are meant for the user as they are.
        (environment::RAISED, Some(detail)) => detail.to_owned(),
        (kind, detail) => {
            let line = error
                .line()
                .map_or(String::new(), |line| format!(" (line {line})"));
            match detail {
                Some(detail) => format!("{kind}: {detail}{line}"),
                None => format!("{kind}{line}"),
            }
        }
    };
    Error::ChatTemplate { message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> Result<String> {
        let message = ChatMessage {
            role: "user".into(),
            content: "hi".into(),
        };
        ChatTemplate::compile(source, "<s>".into(), "</s>".into())?.render(&[message], true)
    }

    #[test]
    fn raised_words_reach_the_caller() {
        let error = render("{{ raise_exception('roles must alternate') }}").unwrap_err();
        assert_eq!(error.to_string(), "chat template: roles must alternate");
    }

    #[test]
    fn endless_template_runs_out_of_steps() {
        let loops =
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
        let error = render(loops).unwrap_err();
        assert!(error.to_string().contains("steps"), "{error}");
    }

    #[test]
    fn endless_recursion_is_an_error() {
        assert!(render("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}").is_err());
    }

    #[test]
    fn output_is_bounded() {
        let much = "{% for a in range(10000) %}{{ 'x' * 10000 }}{% endfor %}";
        let error = render(much).unwrap_err();
        assert!(error.to_string().contains("longer than"), "{error}");
    }

    #[test]
    fn source_is_bounded_and_must_compile() {
        assert!(render(&" ".repeat(TEMPLATE_BYTES_MAX + 1)).is_err());
        let error = render("{% if %}").unwrap_err();
        assert!(matches!(error, Error::ChatTemplate { .. }));
    }

    #[test]
    fn no_file_can_be_included() {
        assert!(render("{% include '/etc/passwd' %}").is_err());
    }

    #[test]
    fn chatml_ends_where_the_assistant_speaks() {
        let expected = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(render(CHATML).unwrap(), expected);
    }
}
