//! Quantized matrices, repacked for the CPU kernels.
//!
//! A GGUF file stores each row's blocks one after another, which makes a kernel sum across a
//! register for every output. Here [`TILE_ROWS`] rows are interleaved: four consecutive columns of
//! all rows of a tile lie side by side, so one 8-bit multiply-accumulate adds to the tile's outputs
//! in their own lanes and nothing is ever summed across lanes.
//!
//! Every GGUF type becomes one of two code widths, without loss: a weight is
//! `scale · (code − zero_point) + min`, with scales and minimums per row and [`group`](Layout) of
//! columns. 4-bit types keep 4 bits; all others take 8.

use burn::tensor::TensorData;
use half::f16;
use rayon::prelude::*;

use crate::{
    error::{Error, Result},
    gguf::{TensorType, TensorView},
};

mod blocks;

use blocks::{BLOCK_COLUMNS_MAX, decode_block};

/// Rows of one tile: the 32-bit lanes of a 512-bit register, or of two 256-bit ones.
pub const TILE_ROWS: usize = 16;

/// Columns that a multiply-accumulate instruction takes at once from each row.
pub const COLUMNS_PER_STEP: usize = 4;

/// How codes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeWidth {
    /// Unsigned 4 bits; in a group of 32 columns the low nibbles hold the first 16.
    Four,
    /// Signed 8 bits.
    Eight,
}

/// What a type's codes mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Width of a code.
    pub width: CodeWidth,
    /// Columns that share a scale: 16 or 32.
    pub group: usize,
    /// Subtracted from a code before scaling.
    pub zero_point: i32,
    /// Whether groups have a minimum.
    pub has_min: bool,
    /// Whether scales are exact in 16 bits; those of K-quants are products and need 32.
    pub half_scales: bool,
}

impl Layout {
    /// Returns the layout of a GGUF type, or `None` for the float types.
    pub fn of(ty: TensorType) -> Option<Self> {
        use CodeWidth::{Eight, Four};
        let layout = |width, group, zero_point, has_min, half_scales| {
            Some(Self {
                width,
                group,
                zero_point,
                has_min,
                half_scales,
            })
        };
        match ty {
            TensorType::F32 | TensorType::F16 | TensorType::BF16 => None,
            TensorType::Q4_0 => layout(Four, 32, 8, false, true),
            TensorType::Q4_1 => layout(Four, 32, 0, true, true),
            TensorType::Q5_0 => layout(Eight, 32, 0, false, true),
            TensorType::Q5_1 => layout(Eight, 32, 0, true, true),
            TensorType::Q8_0 => layout(Eight, 32, 0, false, true),
            TensorType::Q2K => layout(Eight, 16, 0, true, false),
            TensorType::Q3K => layout(Eight, 16, 0, false, false),
            TensorType::Q4K => layout(Four, 32, 0, true, false),
            TensorType::Q5K => layout(Eight, 32, 0, true, false),
            TensorType::Q6K => layout(Eight, 16, 0, false, false),
        }
    }

    /// Bytes of one tile's codes in one group.
    pub fn group_bytes(&self) -> usize {
        match self.width {
            CodeWidth::Four => TILE_ROWS * self.group / 2,
            CodeWidth::Eight => TILE_ROWS * self.group,
        }
    }
}

/// Scales or minimums: [`TILE_ROWS`] per tile and group.
#[derive(Debug, Clone, PartialEq)]
pub enum Scales {
    /// 16 bits each, as the legacy types have them.
    Half(Vec<f16>),
    /// 32 bits each.
    Full(Vec<f32>),
}

impl Scales {
    fn zeros(len: usize, half: bool) -> Self {
        if half {
            Self::Half(vec![f16::ZERO; len])
        } else {
            Self::Full(vec![0.0; len])
        }
    }

    /// Returns one value.
    pub fn get(&self, index: usize) -> f32 {
        match self {
            Self::Half(values) => values[index].to_f32(),
            Self::Full(values) => values[index],
        }
    }

    fn set(&mut self, index: usize, value: f32) {
        match self {
            Self::Half(values) => values[index] = f16::from_f32(value),
            Self::Full(values) => values[index] = value,
        }
    }

    fn size_bytes(&self) -> usize {
        match self {
            Self::Half(values) => values.len() * 2,
            Self::Full(values) => values.len() * 4,
        }
    }
}

/// 64 bytes on a cache line of their own, so that tiles start on one.
#[derive(Debug, Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A quantized matrix `[rows, columns]` in tiles.
#[derive(Debug)]
pub struct PackedMatrix {
    rows: usize,
    columns: usize,
    layout: Layout,
    codes: Vec<Line>,
    scales: Scales,
    mins: Option<Scales>,
}

/// The order in which a file's rows become the matrix's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOrder {
    /// As they are.
    AsStored,
    /// Undoes the interleaving of rotary pairs: within each head, rows `2i` and `2i + 1` of the
    /// first `rotary` become `i` and `i + rotary / 2`.
    DeinterleavePairs {
        /// Rows of one head.
        head: usize,
        /// How many of them are rotated.
        rotary: usize,
    },
}

impl RowOrder {
    /// Returns the stored row that becomes row `row`.
    pub fn source(self, row: usize) -> usize {
        match self {
            Self::AsStored => row,
            Self::DeinterleavePairs { head, rotary } => {
                let (start, within) = (row / head * head, row % head);
                if within >= rotary {
                    return row;
                }
                let half = rotary / 2;
                start
                    + if within < half {
                        2 * within
                    } else {
                        2 * (within - half) + 1
                    }
            }
        }
    }
}

/// One tile's share of a matrix while it is filled.
struct TileMut<'a> {
    codes: &'a mut [Line],
    scales: Scales,
    mins: Option<Scales>,
}

impl PackedMatrix {
    /// Repacks a two-dimensional quantized tensor.
    ///
    /// # Errors
    /// The tensor is not a matrix, or of a float type, or its data does not match its shape.
    pub fn from_gguf(tensor: &TensorView<'_>, order: RowOrder) -> Result<Self> {
        let invalid = |what: &str| Error::InvalidGguf {
            message: format!("tensor {:?} {what}", tensor.name),
        };
        let &[columns, rows] = tensor.shape else {
            return Err(invalid("is not a matrix"));
        };
        let layout = Layout::of(tensor.ty).ok_or_else(|| invalid("is not quantized"))?;
        let (rows, columns) = (rows as usize, columns as usize);
        let (block_len, block_bytes) = (tensor.ty.block_len(), tensor.ty.block_bytes());
        if columns == 0 || rows == 0 || !columns.is_multiple_of(block_len) {
            return Err(invalid("has a row that is not a whole number of blocks"));
        }
        let row_bytes = columns / block_len * block_bytes;
        if tensor.data.len() != rows * row_bytes {
            return Err(invalid("has a size that does not match its shape"));
        }
        let (tiles, groups) = (rows.div_ceil(TILE_ROWS), columns / layout.group);
        let tile_lines = groups * layout.group_bytes() / size_of::<Line>();
        let mut codes = vec![Line([0; 64]); tiles * tile_lines];
        let parts: Vec<_> = codes
            .par_chunks_exact_mut(tile_lines)
            .enumerate()
            .map(|(tile, codes)| {
                let zeros = || Scales::zeros(groups * TILE_ROWS, layout.half_scales);
                let mins = layout.has_min.then(zeros);
                let mut part = TileMut {
                    codes,
                    scales: zeros(),
                    mins,
                };
                for lane in 0..TILE_ROWS.min(rows - tile * TILE_ROWS) {
                    let source = order.source(tile * TILE_ROWS + lane);
                    let row = &tensor.data[source * row_bytes..(source + 1) * row_bytes];
                    part.fill_row(lane, tensor.ty, layout, row);
                }
                (part.scales, part.mins)
            })
            .collect();
        let (scales, mins): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
        let mins = layout
            .has_min
            .then(|| concat(mins.into_iter().flatten(), layout.half_scales));
        let scales = concat(scales.into_iter(), layout.half_scales);
        Ok(Self {
            rows,
            columns,
            layout,
            codes,
            scales,
            mins,
        })
    }

    /// Number of rows: output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns: input features.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Number of tiles, the last of which may be partly empty.
    pub fn tiles(&self) -> usize {
        self.rows.div_ceil(TILE_ROWS)
    }

    /// Meaning of the codes.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Number of groups in a row.
    pub fn groups(&self) -> usize {
        self.columns / self.layout.group
    }

    /// All codes: tile by tile, group by group. Starts on a cache line.
    pub fn codes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.codes)
    }

    /// [`TILE_ROWS`] scales per tile and group.
    pub fn scales(&self) -> &Scales {
        &self.scales
    }

    /// [`TILE_ROWS`] minimums per tile and group, where the type has them.
    pub fn mins(&self) -> Option<&Scales> {
        self.mins.as_ref()
    }

    /// Memory that the matrix takes, in bytes.
    pub fn size_bytes(&self) -> u64 {
        let scales = self.scales.size_bytes() + self.mins.as_ref().map_or(0, Scales::size_bytes);
        (self.codes.len() * size_of::<Line>() + scales) as u64
    }

    /// Writes one dequantized row.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        assert!(
            row < self.rows && out.len() == self.columns,
            "row or length out of range"
        );
        let (tile, lane) = (row / TILE_ROWS, row % TILE_ROWS);
        let (groups, group_len) = (self.groups(), self.layout.group);
        let tile_bytes = groups * self.layout.group_bytes();
        let codes = &self.codes()[tile * tile_bytes..(tile + 1) * tile_bytes];
        for (group, out) in out.chunks_exact_mut(group_len).enumerate() {
            let index = (tile * groups + group) * TILE_ROWS + lane;
            let scale = self.scales.get(index);
            let min = self.mins.as_ref().map_or(0.0, |mins| mins.get(index));
            let bytes = &codes[group * self.layout.group_bytes()..][..self.layout.group_bytes()];
            for (column, out) in out.iter_mut().enumerate() {
                let code = code_at(self.layout.width, bytes, lane, column);
                *out = scale * (code - self.layout.zero_point) as f32 + min;
            }
        }
    }

    /// Returns the whole matrix as floats.
    pub fn to_tensor_data(&self) -> TensorData {
        let mut values = vec![0.0f32; self.rows * self.columns];
        values
            .par_chunks_exact_mut(self.columns)
            .enumerate()
            .for_each(|(row, out)| self.dequantize_row(row, out));
        TensorData::new(values, [self.rows, self.columns])
    }
}

impl TileMut<'_> {
    fn fill_row(&mut self, lane: usize, ty: TensorType, layout: Layout, row: &[u8]) {
        let codes: &mut [u8] = bytemuck::cast_slice_mut(self.codes);
        let groups_per_block = ty.block_len() / layout.group;
        let mut block_codes = [0i8; BLOCK_COLUMNS_MAX];
        for (block, bytes) in row.chunks_exact(ty.block_bytes()).enumerate() {
            let first_group = block * groups_per_block;
            let mins = &mut self.mins;
            let scales = &mut self.scales;
            decode_block(ty, bytes, &mut block_codes, |group, scale, min| {
                let index = (first_group + group) * TILE_ROWS + lane;
                scales.set(index, scale);
                if let Some(mins) = mins {
                    mins.set(index, min);
                }
            });
            let block_codes = &block_codes[..ty.block_len()];
            for (group, values) in block_codes.chunks_exact(layout.group).enumerate() {
                let bytes = (first_group + group) * layout.group_bytes();
                let bytes = &mut codes[bytes..bytes + layout.group_bytes()];
                store_codes(layout.width, bytes, lane, values);
            }
        }
    }
}

/// Writes one row's codes of one group into a tile.
fn store_codes(width: CodeWidth, bytes: &mut [u8], lane: usize, values: &[i8]) {
    for (column, &value) in values.iter().enumerate() {
        match width {
            CodeWidth::Eight => bytes[code_offset(lane, column)] = value.cast_unsigned(),
            CodeWidth::Four => {
                let (column, shift) = if column < 16 {
                    (column, 0)
                } else {
                    (column - 16, 4)
                };
                bytes[code_offset(lane, column)] |= (value.cast_unsigned() & 15) << shift;
            }
        }
    }
}

/// Reads one code of a group.
pub(super) fn code_at(width: CodeWidth, bytes: &[u8], lane: usize, column: usize) -> i32 {
    match width {
        CodeWidth::Eight => i32::from(bytes[code_offset(lane, column)].cast_signed()),
        CodeWidth::Four if column < 16 => i32::from(bytes[code_offset(lane, column)] & 15),
        CodeWidth::Four => i32::from(bytes[code_offset(lane, column - 16)] >> 4),
    }
}

/// Where a tile keeps the byte of a row and column within a group.
fn code_offset(lane: usize, column: usize) -> usize {
    (column / COLUMNS_PER_STEP * TILE_ROWS + lane) * COLUMNS_PER_STEP + column % COLUMNS_PER_STEP
}

fn concat(parts: impl Iterator<Item = Scales>, half: bool) -> Scales {
    let mut all = Scales::zeros(0, half);
    for part in parts {
        match (&mut all, part) {
            (Scales::Half(all), Scales::Half(part)) => all.extend(part),
            (Scales::Full(all), Scales::Full(part)) => all.extend(part),
            _ => unreachable!("all parts of a matrix have one layout"),
        }
    }
    all
}
