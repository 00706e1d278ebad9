//! Every tensor type against what the `gguf` Python package decodes.
//!
//! `scripts/make-dequantize-references.py` writes the blocks (random, quantized, and edge cases)
//! and their values. Equality is of bits, as both sides do the same operations in the same order;
//! a NaN equals any NaN, because its payload depends on the processor.

use std::{fs, path::PathBuf};

use aither_inference::{dequantize::dequantize, gguf::TensorType};

fn reference(ty: TensorType, extension: &str) -> Vec<u8> {
    let name = format!("{}.{extension}", ty.name().to_lowercase());
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/dequantize");
    fs::read(folder.join(name)).expect("the references are committed")
}

fn check(ty: TensorType) {
    let blocks = reference(ty, "blocks");
    let bytes = reference(ty, "f32");
    let words = bytes.as_chunks::<4>().0.iter();
    let expected: Vec<f32> = words.map(|word| f32::from_le_bytes(*word)).collect();
    assert!(blocks.len() / ty.block_bytes() >= 30, "{ty}: few blocks");
    let mut actual = vec![0.0; expected.len()];
    dequantize(ty, &blocks, &mut actual).expect("the lengths match");
    for (index, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
        let (block, element) = (index / ty.block_len(), index % ty.block_len());
        let same = actual.to_bits() == expected.to_bits() || (actual.is_nan() && expected.is_nan());
        assert!(
            same,
            "{ty}, block {block}, element {element}: {actual} for {expected}"
        );
    }
}

#[test]
fn f32_decodes_as_the_gguf_package_does() {
    check(TensorType::F32);
}

#[test]
fn f16_decodes_as_the_gguf_package_does() {
    check(TensorType::F16);
}

#[test]
fn bf16_decodes_as_the_gguf_package_does() {
    check(TensorType::BF16);
}

#[test]
fn q4_0_decodes_as_the_gguf_package_does() {
    check(TensorType::Q4_0);
}

#[test]
fn q4_1_decodes_as_the_gguf_package_does() {
    check(TensorType::Q4_1);
}

#[test]
fn q5_0_decodes_as_the_gguf_package_does() {
    check(TensorType::Q5_0);
}

#[test]
fn q5_1_decodes_as_the_gguf_package_does() {
    check(TensorType::Q5_1);
}

#[test]
fn q8_0_decodes_as_the_gguf_package_does() {
    check(TensorType::Q8_0);
}

#[test]
fn q2_k_decodes_as_the_gguf_package_does() {
    check(TensorType::Q2K);
}

#[test]
fn q3_k_decodes_as_the_gguf_package_does() {
    check(TensorType::Q3K);
}

#[test]
fn q4_k_decodes_as_the_gguf_package_does() {
    check(TensorType::Q4K);
}

#[test]
fn q5_k_decodes_as_the_gguf_package_does() {
    check(TensorType::Q5K);
}

#[test]
fn q6_k_decodes_as_the_gguf_package_does() {
    check(TensorType::Q6K);
}
