//! The GGUF reader without burn: the library root of the fuzz target in `inference/fuzz`.
//!
//! Not part of the crate, whose root is `lib.rs`. The reader needs nothing but these modules, and
//! stays so: what it parses is hostile, and a fuzzer wants a build of seconds.

pub mod dequantize;
pub mod error;
pub mod gguf;
