//! Every bound that the GGUF reader puts on a file, with its reason.
//!
//! A model file comes from the internet: each count, length and offset in it is checked against
//! these, and against the bytes that are really there, before it is used. The bounds are an order
//! of magnitude above the largest files in use, so that a genuine model never meets them.

/// Bytes before the tensor data: metadata and the table of tensors. The largest vocabularies
/// (260 000 entries with merges) take under 20 MiB.
pub const HEADER_BYTES_MAX: usize = 128 << 20;

/// Metadata entries. Real files have 20 to 100.
pub const METADATA_COUNT_MAX: u64 = 4096;

/// Bytes of a metadata key. The format allows 65 535; real keys stay below 64, and keys are quoted
/// in error messages.
pub const KEY_BYTES_MAX: u64 = 256;

/// Bytes of a metadata string. The longest in use is an embedded `tokenizer.json` of some 20 MB.
pub const STRING_BYTES_MAX: u64 = 32 << 20;

/// Elements of a metadata array. The longest in use are merges, below 600 000.
pub const ARRAY_LEN_MAX: u64 = 4 << 20;

/// Levels of arrays: an array holds scalars or strings, never arrays. No published key nests.
pub const ARRAY_DEPTH_MAX: usize = 1;

/// Tensors in a file. Large mixtures of experts have some 1 100 (20 000 with split experts).
pub const TENSOR_COUNT_MAX: u64 = 65_536;

/// Bytes of a tensor's name, as the format and ggml have it.
pub const TENSOR_NAME_BYTES_MAX: u64 = 64;

/// Dimensions of a tensor, as the format and ggml have it.
pub const DIMENSIONS_MAX: u32 = 4;

/// Smallest alignment of tensor data; the format wants a multiple of 8.
pub const ALIGNMENT_MIN: u32 = 8;

/// Largest alignment of tensor data: a large memory page. In use are 32 and 4096.
pub const ALIGNMENT_MAX: u32 = 64 << 10;

/// Alignment where `general.alignment` is absent, in bytes.
pub const ALIGNMENT_DEFAULT: u32 = 32;

/// Shortest metadata entry in bytes: key length, one byte of key, value type, one byte of value.
/// Bounds the entry count by the bytes that are there.
pub(super) const METADATA_ENTRY_BYTES_MIN: usize = 8 + 1 + 4 + 1;

/// Shortest tensor entry in bytes: name length, one byte of name, dimension count, one dimension,
/// type, offset.
pub(super) const TENSOR_ENTRY_BYTES_MIN: usize = 8 + 1 + 4 + 8 + 4 + 8;
