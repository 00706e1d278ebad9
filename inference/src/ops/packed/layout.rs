//! How each GGUF type is kept in tiles: width of its codes, form of its scales.
//!
//! Everything is `const`, so that a kernel compiled for one [`Format`] sees constants only.

use crate::gguf::TensorType;

/// Rows of one tile: the 32-bit lanes of a 512-bit register, or of two 256-bit ones.
pub const TILE_ROWS: usize = 16;

/// Columns that a multiply-accumulate instruction takes at once from each row.
pub const COLUMNS_PER_STEP: usize = 4;

/// Columns of a unit, the smallest piece of a tile that is stored whole: those that share a scale
/// of the input.
pub const UNIT_COLUMNS: usize = 32;

/// Steps of a unit.
pub const UNIT_STEPS: usize = UNIT_COLUMNS / COLUMNS_PER_STEP;

/// Bytes of one step of 8-bit codes: a 512-bit register.
pub const STEP_BYTES: usize = TILE_ROWS * COLUMNS_PER_STEP;

/// Bytes of a unit's nibbles, which further bits follow.
pub const NIBBLE_BYTES: usize = STEP_BYTES * UNIT_STEPS / 2;

/// How many bits a code takes. Codes are unsigned.
///
/// The low four bits of the first half of a unit's steps and those of the second half share bytes,
/// low and high. Further bits follow them, in bytes that several steps share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeWidth {
    /// Nibbles.
    Four,
    /// Nibbles, then one register whose bit `s` in each byte belongs to step `s`.
    Five,
    /// Nibbles, then two registers, one for each half of the steps: bit pair `s % 4` of each byte
    /// belongs to step `s`.
    Six,
    /// Whole bytes, step by step.
    Eight,
}

/// What scales and minimums are stored as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScaleForm {
    /// One of 16 bits per unit, as the legacy types have them.
    Half,
    /// A 16-bit one per 8 units, and 8-bit integers that it is multiplied by: K-quants.
    Factors,
}

/// What a quantized type's codes mean: a weight is `scale · (code − zero_point) + min`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeLayout {
    /// Width of a code.
    pub width: CodeWidth,
    /// Columns that share a scale: 16 or 32.
    pub group: usize,
    /// Subtracted from a code before scaling.
    pub zero_point: i32,
    /// Whether groups have a minimum.
    pub has_min: bool,
    /// Form of scales and minimums.
    pub scales: ScaleForm,
}

impl CodeLayout {
    /// Bytes of one tile's codes in one unit.
    pub const fn unit_bytes(&self) -> usize {
        match self.width {
            CodeWidth::Four => NIBBLE_BYTES,
            CodeWidth::Five => NIBBLE_BYTES + STEP_BYTES,
            CodeWidth::Six => NIBBLE_BYTES + 2 * STEP_BYTES,
            CodeWidth::Eight => 2 * NIBBLE_BYTES,
        }
    }

    /// Units that share a 16-bit scale.
    pub const fn block_units(&self) -> usize {
        match self.scales {
            ScaleForm::Half => 1,
            ScaleForm::Factors => 8,
        }
    }

    /// Groups of a unit.
    pub const fn unit_groups(&self) -> usize {
        UNIT_COLUMNS / self.group
    }

    /// Values per group and row: a scale, and perhaps a minimum.
    pub const fn group_values(&self) -> usize {
        if self.has_min { 2 } else { 1 }
    }

    /// Bytes of the 16-bit scales, then minimums, of one tile's block of units.
    pub const fn halves_bytes(&self) -> usize {
        2 * TILE_ROWS * self.group_values()
    }

    /// Bytes of the 8-bit factors of one tile and group.
    pub const fn factors_bytes(&self) -> usize {
        match self.scales {
            ScaleForm::Half => 0,
            ScaleForm::Factors => TILE_ROWS * self.group_values(),
        }
    }

    /// Bytes of all scales and minimums of one tile's block of units.
    pub const fn block_scale_bytes(&self) -> usize {
        self.halves_bytes() + self.block_units() * self.unit_groups() * self.factors_bytes()
    }
}

/// A plain float type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FloatType {
    /// IEEE's 16 bits.
    F16,
    /// The upper half of an `f32`.
    BF16,
    /// 32 bits.
    F32,
}

impl FloatType {
    /// Bytes of one number.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F16 | Self::BF16 => 2,
            Self::F32 => 4,
        }
    }
}

/// How a matrix is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Integer codes with scales.
    Codes(CodeLayout),
    /// Floats: column by column, a number for each row of the tile.
    Floats(FloatType),
}

impl Layout {
    /// Returns the layout of a GGUF type.
    pub const fn of(ty: TensorType) -> Self {
        match ty {
            TensorType::F32 => Self::Floats(FloatType::F32),
            TensorType::F16 => Self::Floats(FloatType::F16),
            TensorType::BF16 => Self::Floats(FloatType::BF16),
            TensorType::Q4_0 => Self::Codes(Q4_0::LAYOUT),
            TensorType::Q4_1 => Self::Codes(Q4_1::LAYOUT),
            TensorType::Q5_0 => Self::Codes(Q5_0::LAYOUT),
            TensorType::Q5_1 => Self::Codes(Q5_1::LAYOUT),
            TensorType::Q8_0 => Self::Codes(Q8_0::LAYOUT),
            TensorType::Q2K => Self::Codes(Q2K::LAYOUT),
            TensorType::Q4K => Self::Codes(Q4K::LAYOUT),
            TensorType::Q5K => Self::Codes(Q5K::LAYOUT),
            TensorType::Q3K | TensorType::Q6K => Self::Codes(Q6K::LAYOUT),
        }
    }
}

/// A quantized layout as a type, for kernels to be compiled for.
pub trait Format: 'static {
    /// The layout.
    const LAYOUT: CodeLayout;
}

macro_rules! formats {
    (
        $($name:ident: $width:ident, $group:literal, $zero:literal, $min:literal,
            $scales:ident;)*
    ) => {
        $(
            /// The layout of the GGUF type of this name.
            #[derive(Debug)]
            pub enum $name {}

            impl Format for $name {
                const LAYOUT: CodeLayout = CodeLayout {
                    width: CodeWidth::$width,
                    group: $group,
                    zero_point: $zero,
                    has_min: $min,
                    scales: ScaleForm::$scales,
                };
            }
        )*
    };
}

// Q3_K, whose codes have 3 bits, is widened to Q6_K's layout: it is rare, and needs no kernel then.
formats! {
    Q4_0: Four, 32, 8, false, Half;
    Q4_1: Four, 32, 0, true, Half;
    Q5_0: Five, 32, 16, false, Half;
    Q5_1: Five, 32, 0, true, Half;
    Q8_0: Eight, 32, 128, false, Half;
    Q2K: Four, 16, 0, true, Factors;
    Q4K: Four, 32, 0, true, Factors;
    Q5K: Five, 32, 0, true, Factors;
    Q6K: Six, 16, 32, false, Factors;
}
