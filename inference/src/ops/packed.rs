//! Matrices repacked for the CPU kernels, in the precision that the file has them in.
//!
//! A GGUF file stores each row's blocks one after another, which makes a kernel sum across a
//! register for every output. Here [`TILE_ROWS`] rows are interleaved: four consecutive columns of
//! all rows of a tile lie side by side, so one 8-bit multiply-accumulate adds to the tile's outputs
//! in their own lanes and nothing is ever summed across lanes.
//!
//! Nothing is lost and next to nothing added: codes keep their 4, 5, 6 or 8 bits, scales of
//! K-quants stay the small integers that they are in the file ([`layout`]). Floats keep their 16 or
//! 32 bits, column by column.

use std::sync::{Mutex, PoisonError};

use burn::tensor::TensorData;

use crate::{
    error::{Error, Result},
    gguf::{TensorType, TensorView},
    ops::cpu::pool,
};

mod blocks;
pub mod layout;
pub mod shorts;
mod tile;

pub use layout::{CodeLayout, CodeWidth, FloatType, Layout, TILE_ROWS};
pub use shorts::ShortMatrix;
pub use tile::Tile;

use blocks::Block;
use layout::UNIT_COLUMNS;
use tile::TileMut;

/// 64 bytes on a cache line of their own, so that tiles start on one.
#[derive(Debug, Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Bytes of a file that are packed before their pages are given back. Enough that threads rarely
/// wait for each other, and little beside a model.
const CHUNK_BYTES: usize = 4 << 20;

/// Zeros on cache lines of their own, which take no memory before they are written.
fn lines(bytes: usize) -> Vec<Line> {
    bytemuck::zeroed_vec(bytes.div_ceil(size_of::<Line>()))
}

/// A matrix `[rows, columns]` in tiles.
#[derive(Debug)]
pub struct PackedMatrix {
    rows: usize,
    columns: usize,
    ty: TensorType,
    codes: Vec<Line>,
    scales: Vec<Line>,
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

impl PackedMatrix {
    /// Repacks a two-dimensional tensor. The file's pages are given back on the way, so that no
    /// weights are in memory twice.
    ///
    /// # Errors
    /// The tensor is not a matrix, or its data does not match its shape.
    pub fn from_gguf(tensor: &TensorView<'_>, order: RowOrder) -> Result<Self> {
        let invalid = |what: &str| Error::InvalidGguf {
            message: format!("tensor {:?} {what}", tensor.name),
        };
        let &[columns, rows] = tensor.shape else {
            return Err(invalid("is not a matrix"));
        };
        let (rows, columns) = (rows as usize, columns as usize);
        if columns == 0 || rows == 0 || !columns.is_multiple_of(tensor.ty.block_len()) {
            return Err(invalid("has a row that is not a whole number of blocks"));
        }
        let row_bytes = columns / tensor.ty.block_len() * tensor.ty.block_bytes();
        if Some(tensor.data.len()) != rows.checked_mul(row_bytes) {
            return Err(invalid("has a size that does not match its shape"));
        }
        let mut matrix = Self {
            rows,
            columns,
            ty: tensor.ty,
            codes: Vec::new(),
            scales: Vec::new(),
        };
        let (code_bytes, scale_bytes) = matrix.tile_bytes();
        let tiles = matrix.tiles();
        matrix.codes = lines(tiles * code_bytes);
        matrix.scales = lines(tiles * scale_bytes);
        let codes: &mut [u8] = bytemuck::cast_slice_mut(&mut matrix.codes);
        let mut scales: &mut [u8] = bytemuck::cast_slice_mut(&mut matrix.scales);
        // A lock per tile, never contended: it hands the tile to the thread that fills it.
        let mut parts = Vec::with_capacity(tiles);
        for codes in codes.chunks_exact_mut(code_bytes).take(tiles) {
            let (scales_of_tile, rest) = scales.split_at_mut(scale_bytes);
            scales = rest;
            parts.push(Mutex::new(TileMut {
                codes,
                scales: scales_of_tile,
            }));
        }
        let fill = |tile: usize| {
            let mut part = parts[tile].lock().unwrap_or_else(PoisonError::into_inner);
            let lanes = TILE_ROWS.min(rows - tile * TILE_ROWS);
            let sources = (0..lanes).map(|lane| order.source(tile * TILE_ROWS + lane));
            fill_tile(
                &mut part,
                tensor.ty,
                sources.map(|row| &tensor.data[row * row_bytes..(row + 1) * row_bytes]),
            );
        };
        let chunk = match order {
            RowOrder::AsStored => (CHUNK_BYTES / (TILE_ROWS * row_bytes)).max(1),
            RowOrder::DeinterleavePairs { .. } => tiles,
        };
        for start in (0..tiles).step_by(chunk) {
            let end = (start + chunk).min(tiles);
            pool::for_each(end - start, |tile| fill(start + tile));
            let row_end = (end * TILE_ROWS).min(rows);
            tensor.release(start * TILE_ROWS * row_bytes..row_end * row_bytes);
        }
        Ok(matrix)
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

    /// The type that the matrix has in the file.
    pub fn tensor_type(&self) -> TensorType {
        self.ty
    }

    /// How the matrix is kept.
    pub fn layout(&self) -> Layout {
        Layout::of(self.ty)
    }

    /// Returns one tile. Its codes start on a cache line unless they are floats.
    pub fn tile(&self, index: usize) -> Tile<'_> {
        let (code_bytes, scale_bytes) = self.tile_bytes();
        let codes: &[u8] = bytemuck::cast_slice(&self.codes);
        let scales: &[u8] = bytemuck::cast_slice(&self.scales);
        Tile {
            codes: &codes[index * code_bytes..(index + 1) * code_bytes],
            scales: &scales[index * scale_bytes..(index + 1) * scale_bytes],
        }
    }

    /// Bytes of a tile's codes, and of its scales.
    fn tile_bytes(&self) -> (usize, usize) {
        match self.layout() {
            Layout::Floats(ty) => (self.columns * TILE_ROWS * ty.bytes(), 0),
            Layout::Codes(layout) => {
                let units = self.columns / UNIT_COLUMNS;
                let blocks = units / layout.block_units();
                (
                    units * layout.unit_bytes(),
                    blocks * layout.block_scale_bytes(),
                )
            }
        }
    }

    /// Memory that the matrix takes, in bytes.
    pub fn size_bytes(&self) -> u64 {
        ((self.codes.len() + self.scales.len()) * size_of::<Line>()) as u64
    }

    /// Writes one dequantized row.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        assert!(
            row < self.rows && out.len() == self.columns,
            "row or length out of range"
        );
        let (tile, lane) = (self.tile(row / TILE_ROWS), row % TILE_ROWS);
        match self.layout() {
            Layout::Floats(ty) => {
                for (column, out) in out.iter_mut().enumerate() {
                    *out = tile.float(ty, lane, column);
                }
            }
            Layout::Codes(layout) => {
                for (group, out) in out.chunks_exact_mut(layout.group).enumerate() {
                    let (scale, min) = tile.scale(layout, lane, group);
                    for (within, out) in out.iter_mut().enumerate() {
                        let code = tile.code(layout, lane, group * layout.group + within);
                        *out = scale * code as f32 + min;
                    }
                }
            }
        }
    }

    /// Returns the whole matrix as floats.
    pub fn to_tensor_data(&self) -> TensorData {
        let mut values = vec![0.0f32; self.rows * self.columns];
        for (row, out) in values.chunks_exact_mut(self.columns).enumerate() {
            self.dequantize_row(row, out);
        }
        TensorData::new(values, [self.rows, self.columns])
    }
}

/// Fills a tile with its rows, as the file has them.
fn fill_tile<'a>(tile: &mut TileMut<'_>, ty: TensorType, rows: impl Iterator<Item = &'a [u8]>) {
    let mut block = Block::new();
    for (lane, row) in rows.enumerate() {
        match Layout::of(ty) {
            Layout::Floats(ty) => tile.store_floats(ty, lane, row),
            Layout::Codes(layout) => {
                for (index, bytes) in row.chunks_exact(ty.block_bytes()).enumerate() {
                    block.read(ty, bytes);
                    let column = index * ty.block_len();
                    tile.store_block(layout, lane, column, &block, ty.block_len());
                }
            }
        }
    }
}
