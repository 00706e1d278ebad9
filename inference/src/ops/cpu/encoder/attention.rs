//! Attention of an encoder: every row of a sequence sees all of it.
//!
//! Keys are transposed and values copied once per head, so that both products are additions of
//! whole registers; a group of queries shares each load. Scores of a group are kept whole: the
//! longest sequences are some hundred rows.

#![expect(unsafe_code, reason = "SIMD kernels read and write through pointers")]

use std::ops::Range;

use crate::ops::cpu::{
    InstructionSet,
    elementwise::load,
    lanes::{Kernel, LANES, Lanes, dispatch, exp},
    shared::SharedMatrix,
};

/// A head's length is a multiple of this.
pub(super) const HEAD_MULTIPLE: usize = 2 * LANES;

/// Queries that share loads, at most.
const GROUP_MAX: usize = 8;

/// Buffers of one thread.
#[derive(Debug, Default)]
pub(super) struct AttentionScratch {
    /// `[head_length, keys]`, keys in whole lanes.
    keys: Vec<f32>,
    /// `[keys, head_length]`.
    values: Vec<f32>,
    /// `[GROUP_MAX, head_length]`, scaled.
    queries: Vec<f32>,
    /// `[GROUP_MAX, keys]`.
    scores: Vec<f32>,
}

/// Some rows of a sequence that attend to all of it.
pub(super) struct Attention<'a> {
    pub(super) heads: usize,
    pub(super) queries_keys_values: SharedMatrix<'a>,
    pub(super) attended: SharedMatrix<'a>,
    pub(super) queries: Range<usize>,
    pub(super) sequence: Range<usize>,
}

impl Attention<'_> {
    /// Writes the rows of queries in `attended`.
    ///
    /// # Safety
    /// The CPU has the instructions; nobody else touches these rows of `attended`, or writes
    /// `queries_keys_values`.
    pub(super) unsafe fn run(self, set: InstructionSet, scratch: &mut AttentionScratch) {
        // SAFETY: the caller's promise.
        unsafe { dispatch(set, Run(self, scratch)) };
    }
}

struct Run<'a>(Attention<'a>, &'a mut AttentionScratch);

// SAFETY: `dispatch` is called with instructions that the CPU has; the rest is what
// `Attention::run` demands.
impl Kernel for Run<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Self(attention, scratch) = self;
        // SAFETY: the caller's promise.
        unsafe {
            if L::ROWS_MAX >= GROUP_MAX {
                attention.run_groups::<L, GROUP_MAX, 2>(scratch);
            } else {
                attention.run_groups::<L, 4, 1>(scratch);
            }
        }
    }
}

impl Attention<'_> {
    /// # Safety
    /// As for [`run`](Self::run).
    #[inline(always)]
    unsafe fn run_groups<L: Lanes, const GROUP: usize, const WIDE: usize>(
        &self,
        scratch: &mut AttentionScratch,
    ) {
        // SAFETY: rows are only read.
        let width = unsafe { self.attended.row(self.queries.start) }.len();
        let head_length = width / self.heads;
        let keys = self.sequence.len().next_multiple_of(LANES);
        scratch.keys.clear();
        scratch.keys.resize(head_length * keys, 0.0);
        scratch
            .values
            .resize(self.sequence.len() * head_length, 0.0);
        scratch.queries.resize(GROUP_MAX * head_length, 0.0);
        scratch.scores.resize(GROUP_MAX * keys, 0.0);
        for head in 0..self.heads {
            let columns = head * head_length..(head + 1) * head_length;
            // SAFETY: rows of `queries_keys_values` are only read.
            unsafe { self.collect(scratch, columns.clone(), width, keys) };
            for first in self.queries.clone().step_by(GROUP) {
                let rows = first..self.queries.end.min(first + GROUP);
                // SAFETY: as above; these rows of `attended` are the caller's.
                unsafe {
                    self.scale_queries(scratch, rows, columns.clone());
                    score::<L, GROUP>(scratch, head_length, keys);
                    let sums = weigh::<L, GROUP>(scratch, keys, self.sequence.len());
                    self.gather::<L, GROUP, WIDE>(scratch, first, columns.clone(), keys, sums);
                }
            }
        }
    }

    /// Copies a head's values and transposes its keys.
    ///
    /// # Safety
    /// Nobody writes `queries_keys_values`.
    #[inline(always)]
    unsafe fn collect(
        &self,
        scratch: &mut AttentionScratch,
        columns: Range<usize>,
        width: usize,
        keys: usize,
    ) {
        let (start, end) = (columns.start, columns.end);
        let length = columns.len();
        for (index, row) in self.sequence.clone().enumerate() {
            // SAFETY: the caller's promise.
            let [key, value] = [1, 2].map(|part| unsafe {
                let columns = part * width + start..part * width + end;
                &*self.queries_keys_values.part_of_row(row, columns)
            });
            for (column, element) in key.iter().enumerate() {
                scratch.keys[column * keys + index] = *element;
            }
            scratch.values[index * length..(index + 1) * length].copy_from_slice(value);
        }
    }

    /// Copies a group of queries, scaled, with zeros in place of those that it lacks.
    ///
    /// # Safety
    /// Nobody writes `queries_keys_values`.
    #[inline(always)]
    unsafe fn scale_queries(
        &self,
        scratch: &mut AttentionScratch,
        rows: Range<usize>,
        columns: Range<usize>,
    ) {
        let factor = 1.0 / (columns.len() as f32).sqrt();
        scratch.queries.fill(0.0);
        for (row, query) in rows.zip(scratch.queries.chunks_exact_mut(columns.len())) {
            // SAFETY: the caller's promise.
            let values = unsafe { self.queries_keys_values.part_of_row(row, columns.clone()) };
            for (query, value) in query.iter_mut().zip(values) {
                *query = *value * factor;
            }
        }
    }

    /// Adds up the values by their weights, and divides by the weights' sums.
    ///
    /// # Safety
    /// As for [`run`](Self::run).
    #[inline(always)]
    unsafe fn gather<L: Lanes, const GROUP: usize, const WIDE: usize>(
        &self,
        scratch: &AttentionScratch,
        first: usize,
        columns: Range<usize>,
        keys: usize,
        sums: [f32; GROUP],
    ) {
        let length = columns.len();
        assert!(length.is_multiple_of(WIDE * LANES));
        assert!(scratch.values.len() >= self.sequence.len() * length);
        assert!(scratch.scores.len() >= GROUP * keys && keys >= self.sequence.len());
        for start in (0..length).step_by(WIDE * LANES) {
            // SAFETY: the caller's promise; there are `length` values of each key.
            unsafe {
                let mut results = [[L::splat(0.0); WIDE]; GROUP];
                let mut values = scratch.values.as_ptr().add(start);
                let mut weights = scratch.scores.as_ptr();
                for _ in 0..self.sequence.len() {
                    let mut columns = [L::splat(0.0); WIDE];
                    for (wide, column) in columns.iter_mut().enumerate() {
                        *column = L::load(values.add(wide * LANES));
                    }
                    let mut weight = weights;
                    for results in &mut results {
                        let weight_of_all = L::splat(*weight);
                        for wide in 0..WIDE {
                            results[wide] = columns[wide].mul_add(weight_of_all, results[wide]);
                        }
                        weight = weight.wrapping_add(keys);
                    }
                    // Past the last key these point to nothing, and are not read.
                    values = values.wrapping_add(length);
                    weights = weights.wrapping_add(1);
                }
                let rows = first..self.queries.end.min(first + GROUP);
                for (index, row) in rows.enumerate() {
                    let part = columns.start + start..columns.start + start + WIDE * LANES;
                    let target = self.attended.part_of_row(row, part);
                    let factor = L::splat(1.0 / sums[index]);
                    for (result, target) in results[index].iter().zip(target.chunks_mut(LANES)) {
                        result.mul(factor).store(target.as_mut_ptr());
                    }
                }
            }
        }
    }
}

/// Multiplies a group of queries with all keys.
///
/// # Safety
/// The CPU has the instructions.
#[inline(always)]
unsafe fn score<L: Lanes, const GROUP: usize>(
    scratch: &mut AttentionScratch,
    head_length: usize,
    keys: usize,
) {
    let AttentionScratch {
        keys: columns,
        queries,
        scores,
        ..
    } = scratch;
    assert!(columns.len() >= head_length * keys && queries.len() >= GROUP * head_length);
    assert!(scores.len() >= GROUP * keys);
    for start in (0..keys).step_by(LANES) {
        // SAFETY: the sizes were checked, the instructions are the caller's promise.
        unsafe {
            let mut sums = [L::splat(0.0); GROUP];
            let mut column = columns.as_ptr().add(start);
            let mut elements = queries.as_ptr();
            for _ in 0..head_length {
                let key = L::load(column);
                let mut element = elements;
                for sum in &mut sums {
                    *sum = key.mul_add(L::splat(*element), *sum);
                    element = element.wrapping_add(head_length);
                }
                // Past the last column these point to nothing, and are not read.
                column = column.wrapping_add(keys);
                elements = elements.wrapping_add(1);
            }
            let mut target = scores.as_mut_ptr().add(start);
            for sum in sums {
                sum.store(target);
                target = target.wrapping_add(keys);
            }
        }
    }
}

/// Makes weights of scores, short of dividing them by their sums, which it returns.
///
/// # Safety
/// The CPU has the instructions.
#[inline(always)]
unsafe fn weigh<L: Lanes, const GROUP: usize>(
    scratch: &mut AttentionScratch,
    keys: usize,
    seen: usize,
) -> [f32; GROUP] {
    let mut sums = [0.0; GROUP];
    let rows = scratch.scores.chunks_exact_mut(keys);
    for (sum, scores) in sums.iter_mut().zip(rows) {
        // Keys that are not there weigh nothing.
        scores[seen..].fill(f32::NEG_INFINITY);
        // SAFETY: the caller's promise; a row is whole lanes.
        unsafe {
            let mut largest = L::splat(f32::NEG_INFINITY);
            for at in (0..keys).step_by(LANES) {
                largest = largest.max(load(scores, at));
            }
            let largest = L::splat(largest.largest());
            let mut total = L::splat(0.0);
            for at in (0..keys).step_by(LANES) {
                let weight = exp(load::<L>(scores, at).sub(largest));
                total = total.add(weight);
                weight.store(scores.as_mut_ptr().add(at));
            }
            *sum = total.sum();
        }
    }
    sums
}
