//! What of a model is text: its vocabulary and its chat template.

use crate::{
    chat_template::ChatTemplate,
    error::{Error, Result},
    generate::Vocabulary,
    gguf::Gguf,
    request::ChatMessage,
    tokenizer::Tokenizer,
};

/// A model's tokenizer and chat template.
#[derive(Debug)]
pub(super) struct TextSide {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
}

impl TextSide {
    /// Builds both from a file's metadata.
    pub(super) fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let metadata = gguf.metadata();
        let tokenizer = Tokenizer::from_gguf(metadata)?;
        let template = ChatTemplate::from_gguf(metadata, &tokenizer)?;
        Ok(Self {
            tokenizer,
            template,
        })
    }

    pub(super) fn vocabulary_size(&self) -> usize {
        self.tokenizer.vocabulary_size()
    }

    /// Encodes text as it stands; markup in it is text.
    pub(super) fn encode_text(&self, text: &str) -> Result<Vec<u32>> {
        self.tokenizer.encode(text, false, true)
    }

    /// Encodes rendered text. A template writes its own beginning of sequence, so none is added.
    pub(super) fn encode_templated(&self, text: &str) -> Result<Vec<u32>> {
        self.tokenizer.encode(text, true, false)
    }

    /// Renders a conversation up to where the assistant speaks.
    pub(super) fn render(&self, messages: &[ChatMessage]) -> Result<String> {
        let template = self.template.as_ref().ok_or_else(|| Error::ChatTemplate {
            message: "the model has none; send a plain prompt instead of messages".into(),
        })?;
        template.render(messages, true)
    }
}

impl Vocabulary for TextSide {
    fn piece(&self, id: u32) -> Vec<u8> {
        self.tokenizer.piece(id).unwrap_or_default().to_vec()
    }

    fn is_hidden(&self, id: u32) -> bool {
        self.tokenizer.is_special(id)
    }

    fn is_end_of_generation(&self, id: u32) -> bool {
        self.tokenizer.is_end_of_generation(id)
    }
}
