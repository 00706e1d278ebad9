//! The parts of a decoder, as burn operations on `[positions, features]`.
//!
//! Reading these files one sees the architecture. How a product of a quantized matrix is
//! computed is hidden behind [`crate::ops`].

mod attention;
mod block;
mod embedding;
mod feed_forward;
mod linear;
mod norm;
mod positions;
mod rope;
mod vector;

pub use attention::Attention;
pub use block::Block;
pub use embedding::Embedding;
pub use feed_forward::FeedForward;
pub use linear::Linear;
pub use norm::RmsNorm;
pub use positions::{CausalMask, Positions};
pub use rope::{RopeScaling, RotaryEmbedding, RotaryTable};
pub use vector::Vector;

pub use crate::ops::cpu::Activation;
