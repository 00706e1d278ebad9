//! A whole encoder (BERT's) over the rows of many sequences, in one region of the thread team.
//!
//! Sequences lie one after another without padding: linear layers see rows, and only attention
//! knows whose they are. But for attention everything happens row by row, so a layer is two steps:
//! pieces of rows go through output projection, normalisation, feed-forward network and the next
//! layer's queries, keys and values without leaving the thread's cache, then pieces of sequences
//! attend.
//!
//! A row's result is the same to the bit whichever rows it is computed with, and on however many
//! threads.

#![expect(
    unsafe_code,
    reason = "threads write rows of their own of common buffers"
)]

mod attention;
mod rows;

use std::{cell::RefCell, ops::Range};

use super::{
    InstructionSet,
    pool::{Pool, Team},
    shared::SharedMatrix,
    shorts::{self, GROUP_ROWS, ShortRows},
};
use crate::ops::packed::ShortMatrix;

use attention::{Attention, AttentionScratch};
use rows::{add_and_normalise, bend};

/// Rows that go through a layer together, at most: enough that the weights' way from the cache
/// costs little, few enough that the inner layer stays in a core's second-level cache.
const PIECE_ROWS_MAX: usize = 8 * GROUP_ROWS;

/// Pieces per thread, so that they even out.
const PIECES_PER_THREAD: usize = 3;

/// Rows that attend in one piece.
const QUERIES_PER_PIECE: usize = 64;

/// A normalisation to mean 0 and variance 1, then `· gain + bias`.
#[derive(Debug)]
pub struct LayerNorm {
    /// Factor of each element.
    pub gain: Vec<f32>,
    /// Added to each element.
    pub bias: Vec<f32>,
    /// Added to the variance.
    pub epsilon: f32,
}

/// A linear layer.
#[derive(Debug)]
pub struct ShortLinear {
    /// `[out_features, in_features]`.
    pub matrix: ShortMatrix,
    /// Added to the outputs.
    pub bias: Vec<f32>,
}

/// A layer's parameters.
#[derive(Debug)]
pub struct EncoderLayer {
    /// Queries, keys and values, one after another.
    pub queries_keys_values: ShortLinear,
    /// What is made of what attention found.
    pub output: ShortLinear,
    /// Normalises the sum of the residual stream and attention.
    pub attention_norm: LayerNorm,
    /// Into the feed-forward network, whose activation is the exact GELU.
    pub up: ShortLinear,
    /// Out of it.
    pub down: ShortLinear,
    /// Normalises the sum of the residual stream and the network.
    pub output_norm: LayerNorm,
}

/// An encoder's parameters.
#[derive(Debug)]
pub struct EncoderWeights {
    /// Normalises the sum of a row's embeddings.
    pub embedding_norm: LayerNorm,
    /// In order.
    pub layers: Vec<EncoderLayer>,
    /// Heads of attention.
    pub heads: usize,
}

impl EncoderWeights {
    /// Memory of the matrices, in bytes.
    pub fn size_bytes(&self) -> u64 {
        let linears = self.layers.iter().flat_map(EncoderLayer::linears);
        linears.map(|linear| linear.matrix.size_bytes()).sum()
    }

    /// Width of the residual stream.
    pub fn width(&self) -> usize {
        self.embedding_norm.gain.len()
    }

    fn assert_sizes_agree(&self) {
        let width = self.width();
        let fits = |norm: &LayerNorm| norm.gain.len() == width && norm.bias.len() == width;
        assert!(fits(&self.embedding_norm));
        assert!(self.heads > 0 && width.is_multiple_of(self.heads * attention::HEAD_MULTIPLE));
        for layer in &self.layers {
            let [qkv, output, up, down] = layer
                .linears()
                .map(|linear| (linear.matrix.rows(), linear.matrix.columns()));
            assert!(qkv == (3 * width, width) && output == (width, width));
            assert!(up.1 == width && down == (width, up.0));
            assert!(fits(&layer.attention_norm) && fits(&layer.output_norm));
        }
    }
}

impl EncoderLayer {
    fn linears(&self) -> [&ShortLinear; 4] {
        [
            &self.queries_keys_values,
            &self.output,
            &self.up,
            &self.down,
        ]
    }
}

/// Buffers of a pass, kept for the next.
#[derive(Default)]
struct Workspace {
    queries_keys_values: Vec<f32>,
    attended: Vec<f32>,
}

/// A thread's own.
#[derive(Default)]
struct Scratch {
    narrow: ShortRows,
    wide: ShortRows,
    inner: Vec<f32>,
    projected: Vec<f32>,
    attention: AttentionScratch,
}

thread_local! {
    static WORKSPACE: RefCell<Workspace> = RefCell::default();
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Applies the encoder to `hidden`, `[rows, width]`, in place: from the sums of embeddings to the
/// last layer's output. `sequences` are ranges of rows, together all of them, in order.
///
/// # Panics
/// If sizes do not agree, or this CPU lacks the instructions.
pub fn encoder(
    set: InstructionSet,
    pool: &Pool,
    weights: &EncoderWeights,
    sequences: &[Range<usize>],
    hidden: &mut [f32],
) {
    set.assert_available();
    weights.assert_sizes_agree();
    let width = weights.width();
    let count = sequences.last().map_or(0, |rows| rows.end);
    let mut next = 0;
    for rows in sequences {
        assert!(rows.start == next && rows.end > rows.start);
        next = rows.end;
    }
    assert_eq!(hidden.len(), count * width);
    if count == 0 {
        return;
    }
    let mut workspace = WORKSPACE.take();
    let Workspace {
        queries_keys_values,
        attended,
    } = &mut workspace;
    // Products come in whole groups of rows.
    let padded = count.next_multiple_of(GROUP_ROWS);
    queries_keys_values.resize(padded * 3 * width, 0.0);
    attended.resize(count * width, 0.0);
    let pass = Pass {
        set,
        weights,
        count,
        piece_rows: piece_rows(count, pool.threads()),
        attention_pieces: attention_pieces(sequences),
        hidden: SharedMatrix::new(hidden, count, width),
        queries_keys_values: SharedMatrix::new(queries_keys_values, padded, 3 * width),
        attended: SharedMatrix::new(attended, count, width),
    };
    pool.run(|team| {
        // SAFETY: `set` is available. Steps are separated by barriers; what each one reads was
        // written in steps before, and its pieces write different rows.
        unsafe {
            pass.begin(team);
            for index in 0..weights.layers.len() {
                pass.attend(team);
                pass.apply_layer(team, index);
            }
        }
    });
    drop(pass);
    WORKSPACE.set(workspace);
}

/// How many rows a piece has: whole groups, and some pieces for each thread.
fn piece_rows(count: usize, threads: usize) -> usize {
    let pieces = match threads {
        1 => 1,
        threads => threads * PIECES_PER_THREAD,
    };
    let rows = count.div_ceil(pieces).next_multiple_of(GROUP_ROWS);
    rows.min(PIECE_ROWS_MAX)
}

/// Rows of queries, and those of the sequence that they attend to. Long sequences first, so that
/// none is left for the end.
fn attention_pieces(sequences: &[Range<usize>]) -> Vec<(Range<usize>, Range<usize>)> {
    let mut pieces = Vec::new();
    for sequence in sequences {
        for start in sequence.clone().step_by(QUERIES_PER_PIECE) {
            let end = sequence.end.min(start + QUERIES_PER_PIECE);
            pieces.push((start..end, sequence.clone()));
        }
    }
    pieces.sort_by_key(|(_, sequence)| std::cmp::Reverse(sequence.len()));
    pieces
}

/// The encoder over one set of rows.
struct Pass<'a> {
    set: InstructionSet,
    weights: &'a EncoderWeights,
    count: usize,
    piece_rows: usize,
    attention_pieces: Vec<(Range<usize>, Range<usize>)>,
    hidden: SharedMatrix<'a>,
    queries_keys_values: SharedMatrix<'a>,
    attended: SharedMatrix<'a>,
}

/// The steps. All threads of a team take each together.
///
/// # Safety
/// For all of them: the CPU has the instructions, and no step touches buffers at the same time as
/// another.
impl Pass<'_> {
    /// Normalises the embeddings, and makes the first layer's queries, keys and values.
    unsafe fn begin(&self, team: &Team<'_>) {
        let norm = &self.weights.embedding_norm;
        self.for_each_piece(team, |rows, scratch| {
            scratch.narrow.prepare(rows.len(), self.weights.width());
            for (index, row) in rows.clone().enumerate() {
                // SAFETY: a row is in one piece, and the CPU has the instructions.
                unsafe {
                    let hidden = self.hidden.row(row);
                    add_and_normalise(self.set, hidden, None, norm);
                    scratch.narrow.fill(self.set, index, hidden);
                }
            }
            // SAFETY: as above.
            unsafe { self.multiply_queries_keys_values(0, rows, &scratch.narrow) };
        });
    }

    /// Attends with all rows.
    unsafe fn attend(&self, team: &Team<'_>) {
        let pieces = &self.attention_pieces;
        team.for_each(pieces.len(), |piece| {
            let (queries, sequence) = pieces[piece].clone();
            let mut scratch = SCRATCH.take();
            let attention = Attention {
                heads: self.weights.heads,
                queries_keys_values: self.queries_keys_values,
                attended: self.attended,
                queries,
                sequence,
            };
            // SAFETY: the rows of queries are in one piece; nobody writes what is read.
            unsafe { attention.run(self.set, &mut scratch.attention) };
            SCRATCH.set(scratch);
        });
    }

    /// All of a layer that follows attention, and what comes before the next one's.
    unsafe fn apply_layer(&self, team: &Team<'_>, index: usize) {
        let layer = &self.weights.layers[index];
        let (width, inner_width) = (self.weights.width(), layer.up.matrix.rows());
        self.for_each_piece(team, |rows, scratch| {
            let Scratch {
                narrow,
                wide,
                inner,
                projected,
                ..
            } = scratch;
            let padded = rows.len().next_multiple_of(GROUP_ROWS);
            narrow.prepare(rows.len(), width);
            wide.prepare(rows.len(), inner_width);
            projected.resize(padded * width, 0.0);
            inner.resize(padded * inner_width, 0.0);
            // SAFETY: the CPU has the instructions; a row is in one piece.
            unsafe {
                for (index, row) in rows.clone().enumerate() {
                    narrow.fill(self.set, index, self.attended.row(row));
                }
                self.multiply(&layer.output, narrow, projected);
                self.close(&layer.attention_norm, rows.clone(), projected, narrow);
                self.multiply(&layer.up, narrow, inner);
                let bent = inner.chunks_exact_mut(inner_width).take(rows.len());
                for (index, values) in bent.enumerate() {
                    bend(self.set, values);
                    wide.fill(self.set, index, values);
                }
                self.multiply(&layer.down, wide, projected);
                self.close(&layer.output_norm, rows.clone(), projected, narrow);
                if index + 1 < self.weights.layers.len() {
                    self.multiply_queries_keys_values(index + 1, rows, narrow);
                }
            }
        });
    }

    /// Adds what was projected to the residual stream, normalises that, and rounds it for the next
    /// product.
    unsafe fn close(
        &self,
        norm: &LayerNorm,
        rows: Range<usize>,
        projected: &[f32],
        rounded: &mut ShortRows,
    ) {
        let projected = projected.chunks_exact(self.weights.width());
        for (index, (row, projected)) in rows.zip(projected).enumerate() {
            // SAFETY: a row is in one piece, and the CPU has the instructions.
            unsafe {
                let hidden = self.hidden.row(row);
                add_and_normalise(self.set, hidden, Some(projected), norm);
                rounded.fill(self.set, index, hidden);
            }
        }
    }

    unsafe fn multiply(&self, linear: &ShortLinear, rows: &ShortRows, results: &mut [f32]) {
        // SAFETY: the CPU has the instructions.
        unsafe { shorts::multiply(self.set, rows, &linear.matrix, &linear.bias, results) };
    }

    /// Makes what a layer's attention reads of some rows.
    unsafe fn multiply_queries_keys_values(
        &self,
        layer: usize,
        rows: Range<usize>,
        rounded: &ShortRows,
    ) {
        let linear = &self.weights.layers[layer].queries_keys_values;
        // SAFETY: the CPU has the instructions. Pieces begin at whole groups of rows, so the rows
        // that fill up the last group are nobody else's.
        unsafe {
            let results = self
                .queries_keys_values
                .rows(rows.start..rows.end.next_multiple_of(GROUP_ROWS));
            self.multiply(linear, rounded, results);
        }
    }

    fn for_each_piece(&self, team: &Team<'_>, work: impl Fn(Range<usize>, &mut Scratch)) {
        team.for_each(self.count.div_ceil(self.piece_rows), |piece| {
            let start = piece * self.piece_rows;
            let mut scratch = SCRATCH.take();
            work(start..self.count.min(start + self.piece_rows), &mut scratch);
            SCRATCH.set(scratch);
        });
    }
}
