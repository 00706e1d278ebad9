//! GGUF's quantized blocks, taken apart into codes, scales and minimums.
//!
//! The formats are ggml's (`ggml-common.h`); unlike [`crate::dequantize`], which multiplies them
//! out, this keeps the integer codes for integer kernels. Signed codes are moved up by the
//! [zero point](super::CodeLayout) of their layout.

use half::f16;

use crate::gguf::TensorType;

/// Columns of the largest block.
pub(super) const BLOCK_COLUMNS_MAX: usize = 256;

/// One block of one row.
#[derive(Debug)]
pub(super) struct Block {
    /// Codes; only the first 32 for the legacy types.
    pub(super) codes: [u8; BLOCK_COLUMNS_MAX],
    /// The block's scale.
    pub(super) scale: f16,
    /// What is added to weights: negative for K-quants, which subtract it.
    pub(super) min: f16,
    /// What the scale is multiplied by in each group of a K-quant.
    pub(super) scale_factors: [i8; 16],
    /// As `scale_factors`, for the minimum.
    pub(super) min_factors: [i8; 16],
}

impl Block {
    pub(super) fn new() -> Self {
        Self {
            codes: [0; BLOCK_COLUMNS_MAX],
            scale: f16::ZERO,
            min: f16::ZERO,
            scale_factors: [0; 16],
            min_factors: [0; 16],
        }
    }

    /// Reads one block, whose bytes must be exactly those of a block of a quantized type.
    pub(super) fn read(&mut self, ty: TensorType, bytes: &[u8]) {
        match ty {
            TensorType::Q4_0 => {
                self.scale = half_at(bytes, 0);
                self.split_nibbles(&bytes[2..18]);
            }
            TensorType::Q4_1 => {
                (self.scale, self.min) = (half_at(bytes, 0), half_at(bytes, 2));
                self.split_nibbles(&bytes[4..20]);
            }
            TensorType::Q5_0 => {
                self.scale = half_at(bytes, 0);
                self.split_nibbles(&bytes[6..22]);
                self.add_fifth_bits(&bytes[2..6]);
            }
            TensorType::Q5_1 => {
                (self.scale, self.min) = (half_at(bytes, 0), half_at(bytes, 2));
                self.split_nibbles(&bytes[8..24]);
                self.add_fifth_bits(&bytes[4..8]);
            }
            TensorType::Q8_0 => {
                self.scale = half_at(bytes, 0);
                for (code, byte) in self.codes.iter_mut().zip(&bytes[2..34]) {
                    // Flipping the sign bit adds 128.
                    *code = byte ^ 128;
                }
            }
            TensorType::Q2K => self.read_q2k(bytes),
            TensorType::Q3K => self.read_q3k(bytes),
            TensorType::Q4K => {
                self.read_six_bit_factors(bytes);
                self.split_wide_nibbles(&bytes[16..144]);
            }
            TensorType::Q5K => {
                self.read_six_bit_factors(bytes);
                self.split_wide_nibbles(&bytes[48..176]);
                for (index, code) in self.codes.iter_mut().enumerate() {
                    let bit = bytes[16 + index % 32] >> (index / 32) & 1;
                    *code |= bit << 4;
                }
            }
            TensorType::Q6K => self.read_q6k(bytes),
            TensorType::F32 | TensorType::F16 | TensorType::BF16 => {
                unreachable!("float types have no codes")
            }
        }
    }

    /// 16 bytes: the low nibbles are the first 16 codes, the high ones the rest.
    fn split_nibbles(&mut self, bytes: &[u8]) {
        for (index, &byte) in bytes.iter().enumerate() {
            self.codes[index] = byte & 15;
            self.codes[index + 16] = byte >> 4;
        }
    }

    /// A fifth bit for each of 32 codes, from a 32-bit word.
    fn add_fifth_bits(&mut self, word: &[u8]) {
        let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        for (index, code) in self.codes[..32].iter_mut().enumerate() {
            *code |= ((word >> index & 1) as u8) << 4;
        }
    }

    /// Q4_K and Q5_K: eight 6-bit factors of the scale and of the minimum in twelve bytes.
    fn read_six_bit_factors(&mut self, bytes: &[u8]) {
        (self.scale, self.min) = (half_at(bytes, 0), -half_at(bytes, 2));
        let bytes = &bytes[4..16];
        for group in 0..8 {
            let (scale, min) = if group < 4 {
                (bytes[group] & 63, bytes[group + 4] & 63)
            } else {
                let low = bytes[group + 4];
                let (high_scale, high_min) = (bytes[group - 4] >> 6, bytes[group] >> 6);
                (low & 15 | high_scale << 4, low >> 4 | high_min << 4)
            };
            self.scale_factors[group] = scale.cast_signed();
            self.min_factors[group] = min.cast_signed();
        }
    }

    /// Q4_K: 32 bytes hold two groups, the low nibbles the first.
    fn split_wide_nibbles(&mut self, bytes: &[u8]) {
        for (pair, bytes) in bytes.chunks_exact(32).enumerate() {
            for (index, &byte) in bytes.iter().enumerate() {
                self.codes[pair * 64 + index] = byte & 15;
                self.codes[pair * 64 + 32 + index] = byte >> 4;
            }
        }
    }

    /// Sixteen groups: a byte each with scale and minimum, then 2-bit codes.
    fn read_q2k(&mut self, bytes: &[u8]) {
        (self.scale, self.min) = (half_at(bytes, 80), -half_at(bytes, 82));
        for (group, &byte) in bytes[..16].iter().enumerate() {
            self.scale_factors[group] = (byte & 15).cast_signed();
            self.min_factors[group] = (byte >> 4).cast_signed();
        }
        for (index, code) in self.codes.iter_mut().enumerate() {
            *code = two_bits(&bytes[16..80], index);
        }
    }

    /// Sixteen groups with signed 6-bit scales; 2-bit codes, minus 4 where the mask bit is clear.
    fn read_q3k(&mut self, bytes: &[u8]) {
        self.scale = half_at(bytes, 108);
        let factors = &bytes[96..108];
        for group in 0..16 {
            let low = if group < 8 {
                factors[group] & 15
            } else {
                factors[group - 8] >> 4
            };
            let high = factors[8 + group % 4] >> (group / 4 * 2) & 3;
            self.scale_factors[group] = (low | high << 4).cast_signed() - 32;
        }
        for (index, code) in self.codes.iter_mut().enumerate() {
            let mask = bytes[index % 32] >> (index / 32) & 1;
            // Its layout is Q6_K's, whose zero point is 32.
            *code = 28 + (two_bits(&bytes[32..96], index) | mask << 2);
        }
    }

    /// Sixteen groups with signed 8-bit scales; 6-bit codes around 32.
    fn read_q6k(&mut self, bytes: &[u8]) {
        self.scale = half_at(bytes, 208);
        for (factor, byte) in self.scale_factors.iter_mut().zip(&bytes[192..208]) {
            *factor = byte.cast_signed();
        }
        for (index, code) in self.codes.iter_mut().enumerate() {
            let (half, within) = (index / 128, index % 128);
            let low = bytes[half * 64 + within % 64] >> (within / 64 * 4) & 15;
            let high = bytes[128 + half * 32 + within % 32] >> (within / 32 * 2) & 3;
            *code = low | high << 4;
        }
    }
}

fn half_at(bytes: &[u8], offset: usize) -> f16 {
    f16::from_le_bytes([bytes[offset], bytes[offset + 1]])
}

/// Two-bit codes: each run of 32 bytes holds 128 columns, two bits higher every 32.
fn two_bits(bytes: &[u8], index: usize) -> u8 {
    let (half, within) = (index / 128, index % 128);
    bytes[half * 32 + within % 32] >> (within / 32 * 2) & 3
}
