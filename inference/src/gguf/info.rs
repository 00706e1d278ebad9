//! What a file says of itself, in the words of model listings.

use std::collections::BTreeMap;

use super::{Header, TensorType};
use crate::error::Result;

/// A file's description, from its header alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// `general.architecture`: `llama`, `qwen2`.
    pub architecture: String,
    /// `general.name`, if any.
    pub title: Option<String>,
    /// Number of weights, over all tensors.
    pub parameters: u64,
    /// What the file calls its quantization (`Q4_K_M`), else the tensor type with most bytes.
    pub quantization: String,
    /// The longest context that the model was made for, in model tokens.
    pub context_length: u64,
    /// Width of the residual stream.
    pub embedding_length: u64,
    /// `tokenizer.chat_template`, if any.
    pub chat_template: Option<String>,
}

impl FileInfo {
    /// Describes a file by its header.
    pub(super) fn of(header: &Header) -> Result<Self> {
        let metadata = header.metadata();
        let architecture = metadata.required_str("general.architecture")?;
        Ok(Self {
            title: metadata.str("general.name")?.map(str::to_owned),
            parameters: header.tensors().iter().map(|info| info.elements).sum(),
            quantization: metadata
                .u32("general.file_type")?
                .and_then(file_type_name)
                .unwrap_or_else(|| prevailing_type(header))
                .to_owned(),
            context_length: metadata.required_u64(&format!("{architecture}.context_length"))?,
            embedding_length: metadata.required_u64(&format!("{architecture}.embedding_length"))?,
            chat_template: metadata.str("tokenizer.chat_template")?.map(str::to_owned),
            architecture: architecture.to_owned(),
        })
    }
}

/// Returns the tensor type that takes the most bytes.
fn prevailing_type(header: &Header) -> &'static str {
    let mut bytes_by_type = BTreeMap::<TensorType, u64>::new();
    for info in header.tensors() {
        let bytes = bytes_by_type.entry(info.ty).or_default();
        *bytes = bytes.saturating_add((info.end - info.start) as u64);
    }
    let most = bytes_by_type.into_iter().max_by_key(|(_, bytes)| *bytes);
    most.map_or("none", |(ty, _)| ty.name())
}

/// Returns the name of a `general.file_type`, as llama.cpp numbers them.
fn file_type_name(id: u32) -> Option<&'static str> {
    Some(match id {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        7 => "Q8_0",
        8 => "Q5_0",
        9 => "Q5_1",
        10 => "Q2_K",
        11 => "Q3_K_S",
        12 => "Q3_K_M",
        13 => "Q3_K_L",
        14 => "Q4_K_S",
        15 => "Q4_K_M",
        16 => "Q5_K_S",
        17 => "Q5_K_M",
        18 => "Q6_K",
        21 => "Q2_K_S",
        32 => "BF16",
        _ => return None,
    })
}
