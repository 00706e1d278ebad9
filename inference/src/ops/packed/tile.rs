//! One tile of a matrix: where it keeps what, written at load and read by plain code.
//!
//! Kernels know the same places by constants; this is what they are tested against.

use half::{bf16, f16};

use super::{
    blocks::Block,
    layout::{
        COLUMNS_PER_STEP, CodeLayout, CodeWidth, FloatType, NIBBLE_BYTES, STEP_BYTES, ScaleForm,
        TILE_ROWS, UNIT_COLUMNS,
    },
};

/// One tile's bytes.
#[derive(Debug, Clone, Copy)]
pub struct Tile<'a> {
    /// Codes unit by unit, or floats column by column.
    pub codes: &'a [u8],
    /// Scales and minimums, block by block; none for floats.
    pub scales: &'a [u8],
}

impl Tile<'_> {
    /// Reads one code, less the zero point.
    pub fn code(&self, layout: CodeLayout, lane: usize, column: usize) -> i32 {
        let unit = &self.codes[column / UNIT_COLUMNS * layout.unit_bytes()..];
        i32::from(code_at(layout.width, unit, lane, column % UNIT_COLUMNS)) - layout.zero_point
    }

    /// Unpacks a unit: a byte for each code, step by step, zero point included.
    pub fn unit_codes(&self, layout: CodeLayout, unit: usize) -> [u8; UNIT_COLUMNS * TILE_ROWS] {
        let mut codes = [0; UNIT_COLUMNS * TILE_ROWS];
        let unit = &self.codes[unit * layout.unit_bytes()..(unit + 1) * layout.unit_bytes()];
        if layout.width == CodeWidth::Eight {
            codes.copy_from_slice(unit);
            return codes;
        }
        let (nibbles, high) = unit.split_at(NIBBLE_BYTES);
        for (step, codes) in codes.chunks_exact_mut(STEP_BYTES).enumerate() {
            let (half, within) = (step / 4, step % 4);
            let nibbles = &nibbles[within * STEP_BYTES..(within + 1) * STEP_BYTES];
            for (code, byte) in codes.iter_mut().zip(nibbles) {
                *code = byte >> (4 * half) & 15;
            }
            let (high, shift, mask) = match layout.width {
                CodeWidth::Five => (high, step, 1),
                CodeWidth::Six => (&high[half * STEP_BYTES..], 2 * within, 3),
                CodeWidth::Four | CodeWidth::Eight => continue,
            };
            for (code, byte) in codes.iter_mut().zip(high) {
                *code |= (byte >> shift & mask) << 4;
            }
        }
        codes
    }

    /// Reads scale and minimum of a group.
    pub fn scale(&self, layout: CodeLayout, lane: usize, group: usize) -> (f32, f32) {
        let block_groups = layout.block_units() * layout.unit_groups();
        let (block, within) = (group / block_groups, group % block_groups);
        let block = &self.scales[block * layout.block_scale_bytes()..];
        let half = |index: usize| {
            let at = 2 * (index * TILE_ROWS + lane);
            f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
        };
        let factor = |index: usize| match layout.scales {
            ScaleForm::Half => 1.0,
            ScaleForm::Factors => {
                let start = layout.halves_bytes() + within * layout.factors_bytes();
                f32::from(block[start + index * TILE_ROWS + lane].cast_signed())
            }
        };
        let min = if layout.has_min {
            half(1) * factor(1)
        } else {
            0.0
        };
        (half(0) * factor(0), min)
    }

    /// Reads one number of a float type.
    pub fn float(&self, ty: FloatType, lane: usize, column: usize) -> f32 {
        let at = (column * TILE_ROWS + lane) * ty.bytes();
        let bytes = &self.codes[at..];
        match ty {
            FloatType::F16 => f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
            FloatType::BF16 => bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
            FloatType::F32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
        }
    }
}

/// A tile while it is filled; it starts out as zeros.
pub(super) struct TileMut<'a> {
    pub(super) codes: &'a mut [u8],
    pub(super) scales: &'a mut [u8],
}

impl TileMut<'_> {
    /// Writes one row's block that begins at a column.
    pub(super) fn store_block(
        &mut self,
        layout: CodeLayout,
        lane: usize,
        column: usize,
        block: &Block,
        block_columns: usize,
    ) {
        let first_unit = column / UNIT_COLUMNS;
        let codes = block.codes[..block_columns].chunks_exact(UNIT_COLUMNS);
        for (unit, codes) in codes.enumerate() {
            let start = (first_unit + unit) * layout.unit_bytes();
            let bytes = &mut self.codes[start..start + layout.unit_bytes()];
            store_codes(layout.width, bytes, lane, codes);
        }
        let start = first_unit / layout.block_units() * layout.block_scale_bytes();
        let bytes = &mut self.scales[start..start + layout.block_scale_bytes()];
        for (index, value) in [block.scale, block.min]
            .into_iter()
            .take(layout.group_values())
            .enumerate()
        {
            let at = 2 * (index * TILE_ROWS + lane);
            bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        if layout.scales == ScaleForm::Factors {
            let groups = bytes[layout.halves_bytes()..].chunks_exact_mut(layout.factors_bytes());
            for (group, bytes) in groups.enumerate() {
                bytes[lane] = block.scale_factors[group].cast_unsigned();
                if layout.has_min {
                    bytes[TILE_ROWS + lane] = block.min_factors[group].cast_unsigned();
                }
            }
        }
    }

    /// Writes one row of a float type.
    pub(super) fn store_floats(&mut self, ty: FloatType, lane: usize, row: &[u8]) {
        for (column, value) in row.chunks_exact(ty.bytes()).enumerate() {
            let at = (column * TILE_ROWS + lane) * ty.bytes();
            self.codes[at..at + ty.bytes()].copy_from_slice(value);
        }
    }
}

/// Where a step's byte of a row and column lies in its register.
fn byte_of(lane: usize, column: usize) -> usize {
    lane * COLUMNS_PER_STEP + column % COLUMNS_PER_STEP
}

/// Writes one row's codes of one unit.
fn store_codes(width: CodeWidth, bytes: &mut [u8], lane: usize, codes: &[u8]) {
    for (column, &code) in codes.iter().enumerate() {
        let (step, byte) = (column / COLUMNS_PER_STEP, byte_of(lane, column));
        if width == CodeWidth::Eight {
            bytes[step * STEP_BYTES + byte] = code;
            continue;
        }
        let (half, within) = (step / 4, step % 4);
        bytes[within * STEP_BYTES + byte] |= (code & 15) << (4 * half);
        let high = code >> 4;
        match width {
            CodeWidth::Five => bytes[NIBBLE_BYTES + byte] |= high << step,
            CodeWidth::Six => {
                bytes[NIBBLE_BYTES + half * STEP_BYTES + byte] |= high << (2 * within)
            }
            CodeWidth::Four | CodeWidth::Eight => {}
        }
    }
}

/// Reads one code of a unit.
fn code_at(width: CodeWidth, bytes: &[u8], lane: usize, column: usize) -> u8 {
    let (step, byte) = (column / COLUMNS_PER_STEP, byte_of(lane, column));
    if width == CodeWidth::Eight {
        return bytes[step * STEP_BYTES + byte];
    }
    let (half, within) = (step / 4, step % 4);
    let low = bytes[within * STEP_BYTES + byte] >> (4 * half) & 15;
    let high = match width {
        CodeWidth::Five => bytes[NIBBLE_BYTES + byte] >> step & 1,
        CodeWidth::Six => bytes[NIBBLE_BYTES + half * STEP_BYTES + byte] >> (2 * within) & 3,
        CodeWidth::Four | CodeWidth::Eight => 0,
    };
    low | high << 4
}
