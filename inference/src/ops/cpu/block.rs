//! A whole transformer block in one region of the thread team.
//!
//! Between two products lies little work per row, so steps are cut where data must cross from one
//! thread to another and nowhere else: what a thread has just computed it also normalises, bends
//! and rounds for the next product. A decoded position passes ten barriers a block.
//!
//! Every row's result is the same to the bit whichever rows it is computed with, and on however
//! many threads.

#![expect(
    unsafe_code,
    reason = "threads write parts of their own of common buffers"
)]

use std::{cell::RefCell, ops::Range};

use super::{
    Inputs, InstructionSet, PIECES_PER_THREAD,
    attention::{LayerKeysValues, Query, attend},
    elementwise::{Activation, add, apply_gate, rms_norm, rotate},
    pool::{Pool, Team},
    run_tiles,
    scratch::with_scratch,
    shared::SharedMatrix,
};
use crate::ops::packed::{PackedMatrix, TILE_ROWS};

/// Rows that are normalised, rotated or rounded in one piece.
const ROWS_PER_PIECE: usize = 4;
/// Positions of a sequence that attend in one piece: with the heads of a group, some passes.
const POSITIONS_PER_PIECE: usize = 8;
/// Columns of the feed-forward network's inner layer that are bent together: a group of inputs of
/// the next product.
const GATE_COLUMNS: usize = super::INPUT_GROUP;

/// A normalisation's parameters.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// Factor of each element.
    pub gain: &'a [f32],
    /// Added to the mean square.
    pub epsilon: f32,
}

/// A linear layer's parameters.
#[derive(Debug, Clone, Copy)]
pub struct Projection<'a> {
    /// `[out_features, in_features]`.
    pub matrix: &'a PackedMatrix,
    /// Added to the outputs.
    pub bias: Option<&'a [f32]>,
}

/// A transformer block's parameters, as the fields of [`Block`](crate::layers::Block) and its
/// parts.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "described there")]
pub struct BlockWeights<'a> {
    pub attention_norm: Norm<'a>,
    pub query: Projection<'a>,
    pub key: Projection<'a>,
    pub value: Projection<'a>,
    pub query_norm: Option<Norm<'a>>,
    pub key_norm: Option<Norm<'a>>,
    pub output: Projection<'a>,
    pub attention_post_norm: Option<Norm<'a>>,
    pub feed_forward_norm: Norm<'a>,
    pub gate: Projection<'a>,
    pub up: Projection<'a>,
    pub down: Projection<'a>,
    pub feed_forward_post_norm: Option<Norm<'a>>,
    pub activation: Activation,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_length: usize,
    pub query_scale: f32,
    pub window: Option<usize>,
}

/// Consecutive rows of a pass that are consecutive positions of one sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowSpan {
    /// The rows.
    pub rows: Range<usize>,
    /// The first one's position.
    pub start: usize,
}

/// The rows of a pass.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// Whose they are; together all rows, in order.
    pub spans: &'a [RowSpan],
    /// Cosines and sines of their rotation, `[rows, rotary / 2]` each.
    pub rotation: [&'a [f32]; 2],
}

/// Buffers of a pass, kept for the next.
#[derive(Default)]
struct Workspace {
    attention_inputs: Inputs,
    output_inputs: Inputs,
    feed_forward_inputs: Inputs,
    down_inputs: Inputs,
    queries_keys_values: Vec<f32>,
    attended: Vec<f32>,
    projected: Vec<f32>,
}

thread_local! {
    /// Of the thread that asks for passes.
    static WORKSPACE: RefCell<Workspace> = RefCell::default();
}

/// Applies a block to `hidden`, `[rows, features]`, in place. Keys and values of the rows are added
/// to the caches, one for each span, which have room.
///
/// # Panics
/// If sizes do not agree, or this CPU lacks the instructions.
pub fn transformer_block(
    set: InstructionSet,
    pool: &Pool,
    block: &BlockWeights<'_>,
    rows: Rows<'_>,
    caches: &[LayerKeysValues<'_>],
    hidden: &mut [f32],
) {
    set.assert_available();
    let count = rows.count();
    let width = block.query.matrix.columns();
    assert!(count > 0 && hidden.len() == count * width);
    assert_eq!(rows.spans.len(), caches.len());
    block.assert_sizes_agree();
    let query_width = block.query.matrix.rows();
    let mut workspace = WORKSPACE.take();
    let Workspace {
        attention_inputs,
        output_inputs,
        feed_forward_inputs,
        down_inputs,
        queries_keys_values,
        attended,
        projected,
    } = &mut workspace;
    let [query, key, value, output, gate, up, down] = block.matrices();
    attention_inputs.prepare(count, &[query, key, value]);
    output_inputs.prepare(count, &[output]);
    feed_forward_inputs.prepare(count, &[gate, up]);
    down_inputs.prepare(count, &[down]);
    let kv_width = key.rows();
    let pass = Pass {
        set,
        block,
        rows,
        caches,
        count,
        hidden: SharedMatrix::new(hidden, count, width),
        queries_keys_values: matrix(queries_keys_values, count, query_width + 2 * kv_width),
        attended: matrix(attended, count, query_width),
        projected: matrix(projected, count, width),
    };
    pool.run(|team| {
        // SAFETY: `set` is available. Steps are separated by barriers; what each one reads was
        // written in steps before, and its pieces write different parts.
        unsafe {
            pass.normalise(team, block.attention_norm, attention_inputs);
            pass.multiply_queries_keys_values(team, attention_inputs);
            pass.rotate_and_store(team);
            pass.attend(team);
            pass.round(team, pass.attended, output_inputs);
            pass.multiply(team, output, output_inputs, pass.projected);
            pass.add_projected(team, block.output.bias, block.attention_post_norm);
            pass.normalise(team, block.feed_forward_norm, feed_forward_inputs);
            pass.multiply_gated(team, feed_forward_inputs, down_inputs);
            pass.multiply(team, down, down_inputs, pass.projected);
            pass.add_projected(team, block.down.bias, block.feed_forward_post_norm);
        }
    });
    WORKSPACE.set(workspace);
}

/// Makes a matrix of a buffer that is kept.
fn matrix(buffer: &mut Vec<f32>, rows: usize, columns: usize) -> SharedMatrix<'_> {
    let len = rows * columns;
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    SharedMatrix::new(&mut buffer[..len], rows, columns)
}

impl Rows<'_> {
    fn count(&self) -> usize {
        self.spans.last().map_or(0, |span| span.rows.end)
    }
}

impl<'a> BlockWeights<'a> {
    fn matrices(&self) -> [&'a PackedMatrix; 7] {
        [
            self.query,
            self.key,
            self.value,
            self.output,
            self.gate,
            self.up,
            self.down,
        ]
        .map(|projection| projection.matrix)
    }

    fn assert_sizes_agree(&self) {
        let [query, key, value, output, gate, up, down] = self
            .matrices()
            .map(|matrix| (matrix.rows(), matrix.columns()));
        let (width, inner) = (query.1, gate.0);
        let [query_width, kv_width] = [self.heads, self.kv_heads].map(|n| n * self.head_length);
        assert!(self.heads.is_multiple_of(self.kv_heads));
        assert_eq!(query, (query_width, width));
        assert!(key == (kv_width, width) && value == key);
        assert_eq!(output, (width, query_width));
        assert!(gate == (inner, width) && up == gate && down == (width, inner));
    }
}

/// One block over one set of rows.
struct Pass<'a> {
    set: InstructionSet,
    block: &'a BlockWeights<'a>,
    rows: Rows<'a>,
    caches: &'a [LayerKeysValues<'a>],
    count: usize,
    hidden: SharedMatrix<'a>,
    queries_keys_values: SharedMatrix<'a>,
    attended: SharedMatrix<'a>,
    projected: SharedMatrix<'a>,
}

/// The steps. All threads of a team take each together.
///
/// # Safety
/// For all of them: the CPU has the instructions, and no step touches buffers at the same time as
/// another.
impl Pass<'_> {
    /// Normalises the residual stream for a product.
    unsafe fn normalise(&self, team: &Team<'_>, norm: Norm<'_>, inputs: &Inputs) {
        self.for_each_row(team, |row| {
            // SAFETY: a row is in one piece; the stream is only read now.
            let hidden = unsafe { self.hidden.row(row) };
            with_scratch(hidden.len(), |normed| {
                normed.copy_from_slice(hidden);
                // SAFETY: as above, and the CPU has the instructions.
                unsafe {
                    rms_norm(self.set, normed, norm.gain, norm.epsilon);
                    inputs.fill(self.set, row, 0, normed);
                }
            });
        });
    }

    /// Puts a matrix into the form that a product reads.
    unsafe fn round(&self, team: &Team<'_>, matrix: SharedMatrix<'_>, inputs: &Inputs) {
        self.for_each_row(team, |row| {
            // SAFETY: a row is in one piece.
            unsafe { inputs.fill(self.set, row, 0, matrix.row(row)) };
        });
    }

    /// Multiplies by one matrix.
    unsafe fn multiply(
        &self,
        team: &Team<'_>,
        matrix: &PackedMatrix,
        inputs: &Inputs,
        output: SharedMatrix<'_>,
    ) {
        for_each_range(team, matrix.tiles(), |tiles| {
            // SAFETY: inputs are complete; each tile is in one piece.
            unsafe { run_tiles(self.set, matrix, inputs, tiles, output) };
        });
    }

    /// Multiplies by the three matrices that read the same input.
    unsafe fn multiply_queries_keys_values(&self, team: &Team<'_>, inputs: &Inputs) {
        let [query, key, value, ..] = self.block.matrices();
        let parts = [
            (query, 0, 0),
            (key, query.rows(), query.tiles()),
            (
                value,
                query.rows() + key.rows(),
                query.tiles() + key.tiles(),
            ),
        ];
        let tiles = query.tiles() + key.tiles() + value.tiles();
        for_each_range(team, tiles, |range| {
            for (matrix, column, first) in parts {
                let start = range.start.clamp(first, first + matrix.tiles()) - first;
                let end = range.end.clamp(first, first + matrix.tiles()) - first;
                if start < end {
                    let output = self.queries_keys_values.columns(column, matrix.rows());
                    // SAFETY: inputs are complete; each tile is in one piece, and the matrices have
                    // columns of their own.
                    unsafe { run_tiles(self.set, matrix, inputs, start..end, output) };
                }
            }
        });
    }

    /// Rotates queries in place, and keys into the caches, with the values.
    unsafe fn rotate_and_store(&self, team: &Team<'_>) {
        let block = self.block;
        let (length, half) = (block.head_length, self.rows.rotation[0].len() / self.count);
        let (query_width, kv_width) = (block.query.matrix.rows(), block.key.matrix.rows());
        self.for_each_row(team, |row| {
            let (span, position) = self.place(row);
            let [cos, sin] = self.rows.rotation.map(|of| &of[row * half..][..half]);
            // SAFETY: a row is in one piece.
            let all = unsafe { self.queries_keys_values.row(row) };
            let (queries, keys_values) = all.split_at_mut(query_width);
            let (keys, values) = keys_values.split_at_mut(kv_width);
            let rotate = |heads: &mut [f32], bias, norm: Option<Norm<'_>>, factor| {
                add_bias(heads, bias);
                for head in heads.chunks_exact_mut(length) {
                    // SAFETY: the CPU has the instructions.
                    unsafe {
                        if let Some(norm) = norm {
                            rms_norm(self.set, head, norm.gain, norm.epsilon);
                        }
                        rotate(self.set, head, cos, sin, factor);
                    }
                }
            };
            rotate(
                queries,
                block.query.bias,
                block.query_norm,
                block.query_scale,
            );
            rotate(keys, block.key.bias, block.key_norm, 1.0);
            add_bias(values, block.value.bias);
            let heads = keys.chunks_exact(length).zip(values.chunks_exact(length));
            for (head, (key, value)) in heads.enumerate() {
                // SAFETY: nobody reads the caches in this step, and each row is a position of its
                // own.
                unsafe { self.caches[span].write(self.set, head, position, key, value) };
            }
        });
    }

    /// Attends with all rows.
    unsafe fn attend(&self, team: &Team<'_>) {
        let block = self.block;
        let (length, group) = (block.head_length, block.heads / block.kv_heads);
        // Later positions see more: they go first, so that no long piece is left for the end.
        let pieces_of = |span: &RowSpan| span.rows.len().div_ceil(POSITIONS_PER_PIECE);
        let pieces: usize = self.rows.spans.iter().map(pieces_of).sum();
        team.for_each(pieces * block.kv_heads, |piece| {
            let (mut piece, kv_head) = (piece / block.kv_heads, piece % block.kv_heads);
            let mut spans = self.rows.spans.iter().enumerate();
            let (index, span) = spans
                .find(|(_, span)| {
                    let own = pieces_of(span);
                    let is_here = piece < own;
                    if !is_here {
                        piece -= own;
                    }
                    is_here
                })
                .expect("there are as many pieces as the spans have together");
            let end = span.rows.end - piece * POSITIONS_PER_PIECE;
            let start = end.saturating_sub(POSITIONS_PER_PIECE).max(span.rows.start);
            let rows = start..end;
            let mut queries = Vec::with_capacity(rows.len() * group);
            let mut outputs = Vec::with_capacity(rows.len() * group);
            for row in rows {
                let position = span.start + (row - span.rows.start);
                let columns = kv_head * group * length..(kv_head + 1) * group * length;
                // SAFETY: queries are only read in this step; the columns of one group in one row
                // are in one piece, and the slices for them do not overlap others'.
                let (values, attended) = unsafe {
                    (
                        self.queries_keys_values.part_of_row(row, columns.clone()),
                        self.attended.part_of_row(row, columns),
                    )
                };
                let values = values.chunks_exact(length);
                queries.extend(values.map(|values| Query { values, position }));
                outputs.extend(attended.chunks_exact_mut(length));
            }
            let cache = self.caches[index];
            // SAFETY: the CPU has the instructions; nobody writes the caches in this step.
            unsafe {
                attend(
                    self.set,
                    cache,
                    kv_head,
                    &queries,
                    block.window,
                    &mut outputs,
                )
            };
        });
    }

    /// Adds what was projected to the residual stream.
    unsafe fn add_projected(
        &self,
        team: &Team<'_>,
        bias: Option<&[f32]>,
        post_norm: Option<Norm<'_>>,
    ) {
        self.for_each_row(team, |row| {
            // SAFETY: a row is in one piece, and the CPU has the instructions.
            unsafe {
                let projected = self.projected.row(row);
                add_bias(projected, bias);
                if let Some(norm) = post_norm {
                    rms_norm(self.set, projected, norm.gain, norm.epsilon);
                }
                add(self.set, self.hidden.row(row), projected);
            }
        });
    }

    /// Multiplies by gate and up, bends, and rounds for the next product. The inner layer never
    /// leaves the cache.
    unsafe fn multiply_gated(&self, team: &Team<'_>, inputs: &Inputs, bent: &Inputs) {
        const TILES: usize = GATE_COLUMNS / TILE_ROWS;
        let (gate, up) = (self.block.gate, self.block.up);
        let inner = gate.matrix.rows();
        for_each_range(team, inner.div_ceil(GATE_COLUMNS), |groups| {
            for group in groups {
                let columns = group * GATE_COLUMNS..inner.min((group + 1) * GATE_COLUMNS);
                let tiles = group * TILES..gate.matrix.tiles().min((group + 1) * TILES);
                with_scratch(2 * self.count * columns.len(), |scratch| {
                    let (gates, ups) = scratch.split_at_mut(self.count * columns.len());
                    for (projection, values) in [(gate, &mut *gates), (up, &mut *ups)] {
                        let output = SharedMatrix::part(values, self.count, inner, columns.clone());
                        let tiles = tiles.clone();
                        // SAFETY: inputs are complete; the output is this piece's own.
                        unsafe { run_tiles(self.set, projection.matrix, inputs, tiles, output) };
                    }
                    let gates = gates.chunks_exact_mut(columns.len());
                    let rows = gates.zip(ups.chunks_exact_mut(columns.len()));
                    for (row, (gates, ups)) in rows.enumerate() {
                        add_bias(gates, gate.bias.map(|bias| &bias[columns.clone()]));
                        add_bias(ups, up.bias.map(|bias| &bias[columns.clone()]));
                        // SAFETY: the CPU has the instructions; these columns are in one piece, and
                        // nobody reads them in this step.
                        unsafe {
                            apply_gate(self.set, self.block.activation, gates, ups);
                            bent.fill(self.set, row, columns.start, gates);
                        }
                    }
                });
            }
        });
    }

    fn for_each_row(&self, team: &Team<'_>, work: impl Fn(usize)) {
        team.for_each(self.count.div_ceil(ROWS_PER_PIECE), |piece| {
            let end = self.count.min((piece + 1) * ROWS_PER_PIECE);
            (piece * ROWS_PER_PIECE..end).for_each(&work);
        });
    }

    /// Returns a row's span and position.
    fn place(&self, row: usize) -> (usize, usize) {
        let index = self.rows.spans.partition_point(|span| span.rows.end <= row);
        let span = &self.rows.spans[index];
        (index, span.start + (row - span.rows.start))
    }
}

/// Cuts `0..len` into ranges for the team.
fn for_each_range(team: &Team<'_>, len: usize, work: impl Fn(Range<usize>)) {
    let pieces = len.min(match team.threads() {
        1 => 1,
        threads => threads * PIECES_PER_THREAD,
    });
    team.for_each(pieces, |piece| {
        work(piece * len / pieces..(piece + 1) * len / pieces);
    });
}

fn add_bias(values: &mut [f32], bias: Option<&[f32]>) {
    if let Some(bias) = bias {
        assert_eq!(values.len(), bias.len());
        for (value, bias) in values.iter_mut().zip(bias) {
            *value += bias;
        }
    }
}
