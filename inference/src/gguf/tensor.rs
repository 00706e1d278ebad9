//! Tensor types and the table of tensors in a GGUF header.
//!
//! A type here is one that [`dequantize`](crate::dequantize) can decode; the others are refused
//! by name, so that the error says what to convert the file to.

use super::{invalid, limits, reader::Reader};
use crate::error::{Error, Result};

/// How a tensor's numbers are stored.
///
/// The quantized ones store blocks of numbers with common scales; names and layouts are ggml's.
#[expect(missing_docs, reason = "the variants are ggml's names")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TensorType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
}

impl TensorType {
    /// All types, in ggml's order of ids.
    pub const ALL: [Self; 13] = [
        Self::F32,
        Self::F16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::BF16,
    ];

    /// Returns how many numbers a block holds.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Returns how many bytes a block takes.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 2 + 16,
            Self::Q4_1 => 2 + 2 + 16,
            Self::Q5_0 => 2 + 4 + 16,
            Self::Q5_1 => 2 + 2 + 4 + 16,
            Self::Q8_0 => 2 + 32,
            Self::Q2K => 16 + 64 + 2 + 2,
            Self::Q3K => 32 + 64 + 12 + 2,
            Self::Q4K => 2 + 2 + 12 + 128,
            Self::Q5K => 2 + 2 + 12 + 32 + 128,
            Self::Q6K => 128 + 64 + 16 + 2,
        }
    }

    /// Returns ggml's name: `Q4_K`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// Returns the type of a ggml id, or the words for one that is not decoded here.
    fn from_id(id: u32) -> Result<Self, String> {
        Ok(match id {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            10 => Self::Q2K,
            11 => Self::Q3K,
            12 => Self::Q4K,
            13 => Self::Q5K,
            14 => Self::Q6K,
            30 => Self::BF16,
            _ => return Err(foreign_name(id).map_or_else(|| id.to_string(), str::to_owned)),
        })
    }
}

impl std::fmt::Display for TensorType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Returns the name of a ggml type that exists but is not decoded here.
fn foreign_name(id: u32) -> Option<&'static str> {
    Some(match id {
        4 => "Q4_2",
        5 => "Q4_3",
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        40 => "NVFP4",
        41 => "Q1_0",
        _ => return None,
    })
}

/// A tensor's entry in the header, checked against the file's size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, unique in the file.
    pub name: String,
    /// Lengths of its dimensions, innermost first; 1 to 4 of them, none is 0.
    pub shape: Vec<u64>,
    /// How its numbers are stored.
    pub ty: TensorType,
    /// Product of the dimensions.
    pub elements: u64,
    /// Where its data starts in the file.
    pub start: usize,
    /// Where its data ends in the file. Invariant: `start..end` lies within the file.
    pub end: usize,
}

/// An entry as it stands in the header; the data's place is not known yet.
#[derive(Debug)]
pub(super) struct RawTensor {
    name: String,
    shape: Vec<u64>,
    ty: TensorType,
    offset: u64,
}

impl RawTensor {
    /// Reads one entry.
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let name = reader.string(limits::TENSOR_NAME_BYTES_MAX, "a tensor's name")?;
        if name.is_empty() {
            let end = reader.position();
            return Err(invalid(format!(
                "the tensor name before byte {end} is empty"
            )));
        }
        let dimensions = reader.u32("a tensor's dimension count")?;
        if !(1..=limits::DIMENSIONS_MAX).contains(&dimensions) {
            let max = limits::DIMENSIONS_MAX;
            return Err(invalid(format!(
                "tensor {name:?} has {dimensions} dimensions, must be 1 to {max}"
            )));
        }
        let shape = (0..dimensions)
            .map(|_| reader.u64("a tensor's dimension"))
            .collect::<Result<Vec<_>>>()?;
        if shape.contains(&0) {
            return Err(invalid(format!(
                "tensor {name:?} has a dimension of length 0"
            )));
        }
        let ty = TensorType::from_id(reader.u32("a tensor's type")?).map_err(|type_name| {
            Error::UnsupportedModel {
                message: format!(
                    "tensor {name:?} has the type {type_name}; \
                     use a file in F16, Q8_0, Q4_0 or a K-quant (Q4_K_M)"
                ),
            }
        })?;
        let offset = reader.u64("a tensor's offset")?;
        Ok(Self {
            name,
            shape,
            ty,
            offset,
        })
    }

    /// Checks size and place against the file.
    pub(super) fn locate(self, place: &DataPlace) -> Result<TensorInfo> {
        let name = &self.name;
        let overflow = || invalid(format!("tensor {name:?}: its size overflows"));
        let elements = self
            .shape
            .iter()
            .try_fold(1_u64, |product, len| product.checked_mul(*len))
            .ok_or_else(overflow)?;
        let block_len = self.ty.block_len() as u64;
        if !self.shape[0].is_multiple_of(block_len) {
            return Err(invalid(format!(
                "tensor {name:?}: rows of {} are no whole blocks of {} ({block_len} each)",
                self.shape[0], self.ty
            )));
        }
        if !self.offset.is_multiple_of(u64::from(place.alignment)) {
            return Err(invalid(format!(
                "tensor {name:?}: offset {} is no multiple of the alignment {}",
                self.offset, place.alignment
            )));
        }
        let bounds = || {
            let start = place.data_start.checked_add(self.offset)?;
            let bytes = (elements / block_len).checked_mul(self.ty.block_bytes() as u64)?;
            Some((start, start.checked_add(bytes)?))
        };
        let (start, end) = bounds().ok_or_else(overflow)?;
        if end > place.file_bytes {
            return Err(invalid(format!(
                "tensor {name:?} ends at byte {end}, the file has {}; it is truncated",
                place.file_bytes
            )));
        }
        let narrow = |at: u64| usize::try_from(at).map_err(|_| overflow());
        Ok(TensorInfo {
            start: narrow(start)?,
            end: narrow(end)?,
            elements,
            shape: self.shape,
            ty: self.ty,
            name: self.name,
        })
    }
}

/// What a tensor's place is checked against.
#[derive(Debug)]
pub(super) struct DataPlace {
    /// Where tensor data begins in the file.
    pub(super) data_start: u64,
    /// The file's size.
    pub(super) file_bytes: u64,
    /// Of every offset, in bytes.
    pub(super) alignment: u32,
}
