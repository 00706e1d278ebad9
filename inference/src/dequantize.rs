//! Quantized blocks to `f32`, for every tensor type that the reader accepts.
//!
//! This is the plain, portable decoder: the oracle of the kernels, and the path for tensors that
//! no kernel reads in place. It computes in the order of ggml's reference code, without fused
//! multiply-add, so its results are equal to that code's bit for bit (but for the payload of a
//! NaN, which a hostile scale can make).
//!
//! Any bytes are valid blocks. A block's layout is written where it is decoded; a byte's low
//! half always belongs to an earlier element than its high half.

use half::{bf16, f16};

use crate::{
    error::{Error, Result},
    gguf::TensorType,
};

/// Decodes whole blocks into `out`.
///
/// # Errors
/// `blocks` is no whole number of blocks, or `out` has not exactly their number of elements: a
/// defect of the caller, reported as [`Error::Internal`].
pub fn dequantize(ty: TensorType, blocks: &[u8], out: &mut [f32]) -> Result<()> {
    let count = blocks.len() / ty.block_bytes();
    if !blocks.len().is_multiple_of(ty.block_bytes())
        || count.checked_mul(ty.block_len()) != Some(out.len())
    {
        return Err(Error::Internal {
            message: format!(
                "{} bytes of {ty} do not decode to {} numbers",
                blocks.len(),
                out.len()
            ),
        });
    }
    match ty {
        TensorType::F32 => each(blocks, out, |bytes, out: &mut [f32; 1]| {
            out[0] = f32::from_le_bytes(*bytes);
        }),
        TensorType::F16 => each(blocks, out, |bytes, out: &mut [f32; 1]| {
            out[0] = f16::from_le_bytes(*bytes).to_f32();
        }),
        TensorType::BF16 => each(blocks, out, |bytes, out: &mut [f32; 1]| {
            out[0] = bf16::from_le_bytes(*bytes).to_f32();
        }),
        TensorType::Q4_0 => each(blocks, out, q4_0),
        TensorType::Q4_1 => each(blocks, out, q4_1),
        TensorType::Q5_0 => each(blocks, out, q5_0),
        TensorType::Q5_1 => each(blocks, out, q5_1),
        TensorType::Q8_0 => each(blocks, out, q8_0),
        TensorType::Q2K => each(blocks, out, q2_k),
        TensorType::Q3K => each(blocks, out, q3_k),
        TensorType::Q4K => each(blocks, out, q4_k),
        TensorType::Q5K => each(blocks, out, q5_k),
        TensorType::Q6K => each(blocks, out, q6_k),
    }
    Ok(())
}

/// Calls `decode` for each block; the caller has checked the lengths.
fn each<const BYTES: usize, const LEN: usize>(
    blocks: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    let (blocks, _) = blocks.as_chunks::<BYTES>();
    let (out, _) = out.as_chunks_mut::<LEN>();
    for (block, out) in blocks.iter().zip(out) {
        decode(block, out);
    }
}

/// Reads the `f16` at `offset`.
fn half_at(block: &[u8], offset: usize) -> f32 {
    f16::from_le_bytes([block[offset], block[offset + 1]]).to_f32()
}

/// Reads the 32 high bits, one per element, at `offset`.
fn bits_at(block: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes([
        block[offset],
        block[offset + 1],
        block[offset + 2],
        block[offset + 3],
    ])
}

/// `d: f16, codes: [u8; 16]`; a code is 4 bits, centred on 8.
fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (j, byte) in block[2..].iter().enumerate() {
        out[j] = f32::from((byte & 15) as i8 - 8) * d;
        out[j + 16] = f32::from((byte >> 4) as i8 - 8) * d;
    }
}

/// `d: f16, m: f16, codes: [u8; 16]`; a code is 4 bits above the minimum `m`.
fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (j, byte) in block[4..].iter().enumerate() {
        out[j] = f32::from(byte & 15) * d + m;
        out[j + 16] = f32::from(byte >> 4) * d + m;
    }
}

/// `d: f16, high: u32, codes: [u8; 16]`; a code is 5 bits, centred on 16.
fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let (d, high) = (half_at(block, 0), bits_at(block, 2));
    for (j, byte) in block[6..].iter().enumerate() {
        let (low, upper) = five_bits(*byte, high, j);
        out[j] = f32::from(low as i8 - 16) * d;
        out[j + 16] = f32::from(upper as i8 - 16) * d;
    }
}

/// `d: f16, m: f16, high: u32, codes: [u8; 16]`; a code is 5 bits above the minimum `m`.
fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m, high) = (half_at(block, 0), half_at(block, 2), bits_at(block, 4));
    for (j, byte) in block[8..].iter().enumerate() {
        let (low, upper) = five_bits(*byte, high, j);
        out[j] = f32::from(low) * d + m;
        out[j + 16] = f32::from(upper) * d + m;
    }
}

/// Returns the 5-bit codes of the elements `j` and `j + 16`.
fn five_bits(byte: u8, high: u32, j: usize) -> (u8, u8) {
    let bit = |element: usize| ((high >> element) & 1) as u8;
    (
        (byte & 15) | (bit(j) << 4),
        (byte >> 4) | (bit(j + 16) << 4),
    )
}

/// `d: f16, codes: [i8; 32]`.
fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (out, byte) in out.iter_mut().zip(&block[2..]) {
        *out = f32::from(*byte as i8) * d;
    }
}

/// `scales: [u8; 16], codes: [u8; 64], d: f16, dmin: f16`; a code is 2 bits. A scale's low half
/// scales 16 elements, its high half is their minimum. 32 bytes hold 128 elements in 4 planes.
fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 80), half_at(block, 82));
    let (scales, codes) = (&block[..16], &block[16..80]);
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let scale = d * f32::from(scales[group] & 15);
        let minimum = dmin * f32::from(scales[group] >> 4);
        let plane = Plane::of(group);
        for (out, byte) in out.iter_mut().zip(&codes[plane.start..]) {
            *out = scale * f32::from((byte >> (2 * plane.index)) & 3) - minimum;
        }
    }
}

/// `high: [u8; 32], codes: [u8; 64], scales: [u8; 12], d: f16`; a code is 3 bits, centred on 4,
/// a scale 6 bits, centred on 32: 16 low halves in 8 bytes, then 16 high pairs in 4.
fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let d = half_at(block, 108);
    let (high, codes, scales) = (&block[..32], &block[32..96], &block[96..108]);
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let low = (scales[group % 8] >> (4 * (group / 8))) & 15;
        let pair = (scales[8 + group % 4] >> (2 * (group / 4))) & 3;
        let scale = d * f32::from((low | (pair << 4)) as i8 - 32);
        let plane = Plane::of(group);
        // The high bits of all 8 planes of 32 share 32 bytes, one bit position per plane.
        let high = &high[16 * (group % 2)..];
        for ((out, byte), high) in out.iter_mut().zip(&codes[plane.start..]).zip(high) {
            let bit = (high >> (group / 2)) & 1;
            let code = ((byte >> (2 * plane.index)) & 3) | (bit << 2);
            *out = scale * f32::from(code as i8 - 4);
        }
    }
}

/// Where the 2-bit codes of a group of 16 elements lie: 32 bytes hold 128 elements, the first 32
/// of them in the lowest bit pair of each byte, and so on.
struct Plane {
    /// First byte.
    start: usize,
    /// Which bit pair.
    index: usize,
}

impl Plane {
    fn of(group: usize) -> Self {
        Self {
            start: 32 * (group / 8) + 16 * (group % 2),
            index: (group % 8) / 2,
        }
    }
}

/// `d: f16, dmin: f16, scales: [u8; 12], codes: [u8; 128]`; a code is 4 bits. 32 bytes hold 64
/// elements: the first 32 in the low halves.
fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (scales, codes) = (&block[4..16], &block[16..]);
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = scale_and_minimum(block, scales, group);
        let bytes = &codes[32 * (group / 2)..];
        for (out, byte) in out.iter_mut().zip(bytes) {
            *out = scale * f32::from((byte >> (4 * (group % 2))) & 15) - minimum;
        }
    }
}

/// `d: f16, dmin: f16, scales: [u8; 12], high: [u8; 32], codes: [u8; 128]`: as Q4_K with a fifth
/// bit per element, of the group `g` in bit `g` of `high`.
fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (scales, high, codes) = (&block[4..16], &block[16..48], &block[48..]);
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = scale_and_minimum(block, scales, group);
        let bytes = &codes[32 * (group / 2)..];
        for ((out, byte), high) in out.iter_mut().zip(bytes).zip(high) {
            let low = (byte >> (4 * (group % 2))) & 15;
            let code = low | (((high >> group) & 1) << 4);
            *out = scale * f32::from(code) - minimum;
        }
    }
}

/// Returns scale and minimum of one of the 8 groups of a Q4_K or Q5_K block. Both are 6 bits:
/// those of groups 0 to 3 stand in the low bits of bytes 0..4 and 4..8; those of groups 4 to 7
/// have their low halves in bytes 8..12 and their high pairs on top of bytes 0..8.
fn scale_and_minimum(block: &[u8], scales: &[u8], group: usize) -> (f32, f32) {
    let (scale, minimum) = if group < 4 {
        (scales[group] & 63, scales[group + 4] & 63)
    } else {
        let low = scales[group + 4];
        let (scale_high, minimum_high) = (scales[group - 4] >> 6, scales[group] >> 6);
        (
            (low & 15) | (scale_high << 4),
            (low >> 4) | (minimum_high << 4),
        )
    };
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    (d * f32::from(scale), dmin * f32::from(minimum))
}

/// `low: [u8; 128], high: [u8; 64], scales: [i8; 16], d: f16`; a code is 6 bits, centred on 32.
/// 64 bytes of `low` and 32 of `high` hold 128 elements: halves of 64, pairs of 32.
fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let d = half_at(block, 208);
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let scale = d * f32::from(scales[group] as i8);
        let (upper_half, within) = (group / 8, group % 8);
        let low = &low[64 * upper_half + 16 * (within % 4)..];
        let high = &high[32 * upper_half + 16 * (within % 2)..];
        let (low_shift, high_shift) = (4 * (within / 4), 2 * (within / 2));
        for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
            let code = ((low >> low_shift) & 15) | (((high >> high_shift) & 3) << 4);
            *out = scale * f32::from(code as i8 - 32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_that_do_not_match_are_refused() {
        for ty in TensorType::ALL {
            let blocks = vec![0; 2 * ty.block_bytes()];
            let mut out = vec![0.0; 2 * ty.block_len()];
            assert!(dequantize(ty, &blocks, &mut out).is_ok());
            assert!(dequantize(ty, &blocks[1..], &mut out).is_err());
            assert!(dequantize(ty, &blocks, &mut out[1..]).is_err());
            assert!(dequantize(ty, &blocks[ty.block_bytes()..], &mut out).is_err());
        }
    }

    #[test]
    fn no_blocks_decode_to_nothing() {
        assert!(dequantize(TensorType::Q4K, &[], &mut []).is_ok());
    }
}
