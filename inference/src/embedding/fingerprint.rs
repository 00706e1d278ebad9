//! Which weights made a vector: a number for a file's tensors.
//!
//! Vectors of different weights do not compare, so whoever keeps vectors keeps this beside them.
//! It tells files apart that are there; it is no defence against one made to collide.

use crate::gguf::Gguf;

/// An odd constant whose bits look random: the golden ratio's.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Of all that changes vectors: the vocabulary, the description and the weights.
pub(super) fn fingerprint(gguf: &Gguf) -> u64 {
    let mut state = mix(MULTIPLIER, b"aither embedding 1");
    for (key, value) in gguf.metadata().iter() {
        if key.starts_with("bert.") || key.starts_with("tokenizer.") {
            state = mix(state, key.as_bytes());
            state = mix(state, format!("{value:?}").as_bytes());
        }
    }
    for tensor in gguf.tensors() {
        state = mix(state, tensor.name.as_bytes());
        state = mix(state, tensor.ty.name().as_bytes());
        state = mix(state, tensor.data);
        tensor.release(0..tensor.data.len());
    }
    state
}

/// Takes bytes in, eight at a time, and then their number.
fn mix(state: u64, bytes: &[u8]) -> u64 {
    let step = |state: u64, word: u64| (state ^ word).wrapping_mul(MULTIPLIER).rotate_left(29);
    let (words, rest) = bytes.as_chunks::<8>();
    let state = words
        .iter()
        .fold(state, |state, word| step(state, u64::from_le_bytes(*word)));
    let state = rest
        .iter()
        .fold(state, |state, byte| step(state, u64::from(*byte)));
    step(state, bytes.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_byte_and_any_length_counts() {
        let mut bytes = vec![7u8; 37];
        let all = mix(1, &bytes);
        for index in 0..bytes.len() {
            bytes[index] ^= 1;
            assert_ne!(mix(1, &bytes), all);
            bytes[index] ^= 1;
            assert_ne!(mix(1, &bytes[..index]), all);
        }
        assert_eq!(mix(1, &bytes), all);
    }
}
