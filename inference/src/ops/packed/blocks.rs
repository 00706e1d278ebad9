//! GGUF's quantized blocks, taken apart into codes, scales and minimums.
//!
//! The formats are ggml's (`ggml-common.h`); unlike [`crate::dequantize`], which multiplies them
//! out, this keeps the integer codes for integer kernels.

use half::f16;

use crate::gguf::TensorType;

/// Columns of the largest block.
pub(super) const BLOCK_COLUMNS_MAX: usize = 256;

/// Takes one block apart: fills `codes`, and calls `scale(group, scale, min)` per group.
///
/// `bytes` must be exactly one block of a quantized type.
pub(super) fn decode_block(
    ty: TensorType,
    bytes: &[u8],
    codes: &mut [i8; BLOCK_COLUMNS_MAX],
    mut scale: impl FnMut(usize, f32, f32),
) {
    match ty {
        TensorType::Q4_0 => {
            scale(0, half_at(bytes, 0), 0.0);
            split_nibbles(&bytes[2..18], codes);
        }
        TensorType::Q4_1 => {
            scale(0, half_at(bytes, 0), half_at(bytes, 2));
            split_nibbles(&bytes[4..20], codes);
        }
        TensorType::Q5_0 => {
            scale(0, half_at(bytes, 0), 0.0);
            fifth_bits(&bytes[2..6], &bytes[6..22], codes);
            codes[..32].iter_mut().for_each(|code| *code -= 16);
        }
        TensorType::Q5_1 => {
            scale(0, half_at(bytes, 0), half_at(bytes, 2));
            fifth_bits(&bytes[4..8], &bytes[8..24], codes);
        }
        TensorType::Q8_0 => {
            scale(0, half_at(bytes, 0), 0.0);
            for (code, &byte) in codes.iter_mut().zip(&bytes[2..34]) {
                *code = byte.cast_signed();
            }
        }
        TensorType::Q2K => decode_q2k(bytes, codes, scale),
        TensorType::Q3K => decode_q3k(bytes, codes, scale),
        TensorType::Q4K => {
            let (d, dmin) = (half_at(bytes, 0), half_at(bytes, 2));
            six_bit_scales(&bytes[4..16], d, dmin, scale);
            decode_q4k_codes(&bytes[16..144], codes);
        }
        TensorType::Q5K => {
            let (d, dmin) = (half_at(bytes, 0), half_at(bytes, 2));
            six_bit_scales(&bytes[4..16], d, dmin, scale);
            decode_q4k_codes(&bytes[48..176], codes);
            for (index, code) in codes.iter_mut().enumerate() {
                let bit = bytes[16 + index % 32] >> (index / 32) & 1;
                *code |= (bit << 4).cast_signed();
            }
        }
        TensorType::Q6K => decode_q6k(bytes, codes, scale),
        TensorType::F32 | TensorType::F16 | TensorType::BF16 => {
            unreachable!("float types have no codes")
        }
    }
}

fn half_at(bytes: &[u8], offset: usize) -> f32 {
    f16::from_le_bytes([bytes[offset], bytes[offset + 1]]).to_f32()
}

/// 16 bytes: the low nibbles are the first 16 codes, the high ones the rest.
fn split_nibbles(bytes: &[u8], codes: &mut [i8; BLOCK_COLUMNS_MAX]) {
    for (index, &byte) in bytes.iter().enumerate() {
        codes[index] = (byte & 15).cast_signed();
        codes[index + 16] = (byte >> 4).cast_signed();
    }
}

/// Nibbles as above, with a fifth bit each from a 32-bit word.
fn fifth_bits(word: &[u8], nibbles: &[u8], codes: &mut [i8; BLOCK_COLUMNS_MAX]) {
    let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
    split_nibbles(nibbles, codes);
    for (index, code) in codes[..32].iter_mut().enumerate() {
        *code |= ((word >> index & 1) as i8) << 4;
    }
}

/// Q4_K and Q5_K: eight 6-bit scales and minimums in twelve bytes.
fn six_bit_scales(bytes: &[u8], d: f32, dmin: f32, mut scale: impl FnMut(usize, f32, f32)) {
    for group in 0..8 {
        let (factor, min) = if group < 4 {
            (bytes[group] & 63, bytes[group + 4] & 63)
        } else {
            let low = bytes[group + 4];
            let (high_factor, high_min) = (bytes[group - 4] >> 6, bytes[group] >> 6);
            (low & 15 | high_factor << 4, low >> 4 | high_min << 4)
        };
        scale(group, d * f32::from(factor), -(dmin * f32::from(min)));
    }
}

/// Q4_K: 32 bytes hold two groups, the low nibbles the first.
fn decode_q4k_codes(bytes: &[u8], codes: &mut [i8; BLOCK_COLUMNS_MAX]) {
    for (pair, bytes) in bytes.chunks_exact(32).enumerate() {
        for (index, &byte) in bytes.iter().enumerate() {
            codes[pair * 64 + index] = (byte & 15).cast_signed();
            codes[pair * 64 + 32 + index] = (byte >> 4).cast_signed();
        }
    }
}

/// Sixteen groups: a byte each with scale and minimum, then 2-bit codes.
fn decode_q2k(
    bytes: &[u8],
    codes: &mut [i8; BLOCK_COLUMNS_MAX],
    mut scale: impl FnMut(usize, f32, f32),
) {
    let (d, dmin) = (half_at(bytes, 80), half_at(bytes, 82));
    for (group, &byte) in bytes[..16].iter().enumerate() {
        scale(
            group,
            d * f32::from(byte & 15),
            -(dmin * f32::from(byte >> 4)),
        );
    }
    for (index, code) in codes.iter_mut().enumerate() {
        *code = two_bits(&bytes[16..80], index).cast_signed();
    }
}

/// Two-bit codes: each run of 32 bytes holds 128 columns, two bits higher every 32.
fn two_bits(bytes: &[u8], index: usize) -> u8 {
    let (half, within) = (index / 128, index % 128);
    bytes[half * 32 + within % 32] >> (within / 32 * 2) & 3
}

/// Sixteen groups with signed 6-bit scales; 2-bit codes, minus 4 where the mask bit is clear.
fn decode_q3k(
    bytes: &[u8],
    codes: &mut [i8; BLOCK_COLUMNS_MAX],
    mut scale: impl FnMut(usize, f32, f32),
) {
    let d = half_at(bytes, 108);
    let factors = &bytes[96..108];
    for group in 0..16 {
        let low = if group < 8 {
            factors[group] & 15
        } else {
            factors[group - 8] >> 4
        };
        let high = factors[8 + group % 4] >> (group / 4 * 2) & 3;
        scale(
            group,
            d * f32::from((low | high << 4).cast_signed() - 32),
            0.0,
        );
    }
    for (index, code) in codes.iter_mut().enumerate() {
        let mask = bytes[index % 32] >> (index / 32) & 1;
        let low = two_bits(&bytes[32..96], index).cast_signed();
        *code = low - if mask == 1 { 0 } else { 4 };
    }
}

/// Sixteen groups with signed 8-bit scales; 6-bit codes around 32.
fn decode_q6k(
    bytes: &[u8],
    codes: &mut [i8; BLOCK_COLUMNS_MAX],
    mut scale: impl FnMut(usize, f32, f32),
) {
    let d = half_at(bytes, 208);
    for (group, &byte) in bytes[192..208].iter().enumerate() {
        scale(group, d * f32::from(byte.cast_signed()), 0.0);
    }
    for (index, code) in codes.iter_mut().enumerate() {
        let (half, within) = (index / 128, index % 128);
        let low = bytes[half * 64 + within % 64] >> (within / 64 * 4) & 15;
        let high = bytes[128 + half * 32 + within % 32] >> (within / 32 * 2) & 3;
        *code = (low | high << 4).cast_signed() - 32;
    }
}
