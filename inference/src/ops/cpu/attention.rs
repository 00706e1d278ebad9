//! Attention over a cache of 16-bit keys and values.
//!
//! The cache comes in pages. In each, keys lie in tiles of sixteen positions, dimension by
//! dimension, so that a register holds the same element of sixteen keys and scores are never summed
//! across lanes. Values lie position by position. Some query rows that share a key head go through
//! the cache together, page by page; softmax is computed on the way ("online"), so scores never
//! leave the first-level cache. Everything but what is stored is in 32 bits.

#![expect(
    unsafe_code,
    reason = "threads write positions of their own, and SIMD kernels read through pointers"
)]

use std::cell::UnsafeCell;

use half::f16;

use super::{
    InstructionSet,
    elementwise::load,
    lanes::{Kernel, LANES, Lanes, dispatch, exp},
    scratch::with_scratch,
};
use crate::kv_cache::{PAGE_LEN, PageContent};

/// Positions whose scores are held at once.
const BLOCK: usize = PAGE_LEN;
/// Score of a position that a row does not see.
const HIDDEN: f32 = f32::MIN;

/// What the pages of a model have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeysValuesShape {
    /// Transformer blocks.
    pub layers: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Elements of a key, and of a value.
    pub head_length: usize,
}

/// Keys and values of all layers for [`PAGE_LEN`] positions.
#[derive(Debug)]
pub struct KeysValuesPage {
    shape: KeysValuesShape,
    /// For each layer and each of its heads, keys `[PAGE_LEN / LANES, head_length, LANES]`, then
    /// values `[PAGE_LEN, padded head length]`.
    cells: Vec<UnsafeCell<f16>>,
}

// SAFETY: shared writes are through an unsafe function only, whose callers keep writers apart from
// each other and from readers.
unsafe impl Sync for KeysValuesPage {}

/// One layer's keys and values of one sequence.
#[derive(Debug, Clone, Copy)]
pub struct LayerKeysValues<'a> {
    pages: &'a [&'a KeysValuesPage],
    layer: usize,
    shape: KeysValuesShape,
}

/// One query row of a head.
#[derive(Debug, Clone, Copy)]
pub(super) struct Query<'a> {
    /// `head_length` values, scaled.
    pub(super) values: &'a [f32],
    /// Its position: the last one that it sees.
    pub(super) position: usize,
}

impl KeysValuesShape {
    /// Memory that one position takes, in bytes.
    pub fn position_bytes(self) -> usize {
        self.layers * self.kv_heads * self.head_cells() / PAGE_LEN * size_of::<f16>()
    }

    fn padded_length(self) -> usize {
        self.head_length.next_multiple_of(LANES)
    }

    /// Values of one head in a page.
    fn head_cells(self) -> usize {
        PAGE_LEN * (self.head_length + self.padded_length())
    }
}

impl PageContent for KeysValuesPage {
    type Shape = KeysValuesShape;

    fn empty(shape: &Self::Shape) -> Self {
        let len = shape.layers * shape.kv_heads * shape.head_cells();
        Self {
            shape: *shape,
            cells: bytemuck::zeroed_vec(len),
        }
    }

    fn copy(&mut self, from: &Self, positions: usize) {
        assert_eq!(self.shape, from.shape);
        // Tiles of keys cannot be cut; what is behind the positions is not read.
        debug_assert!(positions <= PAGE_LEN);
        for (cell, from) in self.cells.iter_mut().zip(&from.cells) {
            // SAFETY: whoever has a plain reference to a page knows that nobody writes it.
            *cell.get_mut() = unsafe { *from.get() };
        }
    }
}

impl KeysValuesPage {
    /// Returns keys and values of a head.
    fn head(&self, layer: usize, head: usize) -> (&[UnsafeCell<f16>], &[UnsafeCell<f16>]) {
        let len = self.shape.head_cells();
        let start = (layer * self.shape.kv_heads + head) * len;
        self.cells[start..start + len].split_at(PAGE_LEN * self.shape.head_length)
    }
}

impl<'a> LayerKeysValues<'a> {
    /// Returns a view of one layer of a sequence's pages.
    ///
    /// # Panics
    /// If there is no such layer, or the pages have another shape.
    pub fn new(pages: &'a [&'a KeysValuesPage], layer: usize, shape: KeysValuesShape) -> Self {
        assert!(layer < shape.layers);
        assert!(pages.iter().all(|page| page.shape == shape));
        Self {
            pages,
            layer,
            shape,
        }
    }

    /// Positions that there is room for.
    pub fn capacity(&self) -> usize {
        self.pages.len() * PAGE_LEN
    }

    /// Stores one head's key and value of one position.
    ///
    /// # Safety
    /// The CPU has the instructions. Nobody reads the position's page or writes this position of
    /// this head meanwhile.
    ///
    /// # Panics
    /// If there is no room for the position, or a length is not the head's.
    pub(super) unsafe fn write(
        self,
        set: InstructionSet,
        head: usize,
        position: usize,
        key: &[f32],
        value: &[f32],
    ) {
        let length = self.shape.head_length;
        assert!(head < self.shape.kv_heads && position < self.capacity());
        assert!(key.len() == length && value.len() == length);
        let (keys, values) = self.pages[position / PAGE_LEN].head(self.layer, head);
        let position = position % PAGE_LEN;
        let (tile, lane) = (position / LANES, position % LANES);
        let padded = self.shape.padded_length();
        let write = Write {
            key,
            value,
            keys: &keys[tile * LANES * length + lane..],
            values: &values[position * padded..][..padded],
        };
        // SAFETY: the caller's promises.
        unsafe { dispatch(set, write) };
    }
}

/// Attends with rows that share a key head: `outputs[row]` becomes the values' mean, weighted by
/// the softmax of the row's products with the keys that it sees. These are its own position and
/// those before it, at most `window` in all.
///
/// # Safety
/// The CPU has the instructions, and nobody writes the cache meanwhile.
///
/// # Panics
/// If rows and outputs do not fit the cache or each other.
pub(super) unsafe fn attend(
    set: InstructionSet,
    cache: LayerKeysValues<'_>,
    head: usize,
    queries: &[Query<'_>],
    window: Option<usize>,
    outputs: &mut [&mut [f32]],
) {
    let length = cache.shape.head_length;
    assert_eq!(queries.len(), outputs.len());
    assert!(head < cache.shape.kv_heads);
    for (query, output) in queries.iter().zip(&*outputs) {
        assert!(query.values.len() == length && output.len() == length);
        assert!(query.position < cache.capacity());
    }
    let call = Call {
        cache,
        head,
        window: window.unwrap_or(usize::MAX),
    };
    with_scratch(call.scratch_len(), |scratch| {
        let attend = Attend {
            call,
            queries,
            outputs,
            scratch,
        };
        // SAFETY: the CPU has the instructions, says the caller; the sizes were just checked.
        unsafe { dispatch(set, attend) };
    });
}

/// A key and a value to be stored.
struct Write<'a> {
    key: &'a [f32],
    value: &'a [f32],
    /// From the key's first element on, [`LANES`] apart.
    keys: &'a [UnsafeCell<f16>],
    /// The position's row, padded.
    values: &'a [UnsafeCell<f16>],
}

// SAFETY: `dispatch` is called with instructions that the CPU has.
impl Kernel for Write<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let mut halves = [f16::ZERO; LANES];
        for at in (0..self.key.len()).step_by(LANES) {
            // SAFETY: the CPU has the instructions, and `halves` room for a register.
            unsafe { load::<L>(self.key, at).store_half(halves.as_mut_ptr()) };
            let cells = self.keys.iter().step_by(LANES).skip(at);
            for (cell, half) in cells.zip(halves).take(self.key.len() - at) {
                // SAFETY: nobody else touches it, says the caller.
                unsafe { *cell.get() = half };
            }
            let row = &self.values[at..at + LANES];
            // SAFETY: as above; the row is padded to whole registers, and cells are laid out as
            // what is in them.
            unsafe { load::<L>(self.value, at).store_half(row.as_ptr().cast_mut().cast()) };
        }
    }
}

/// The rows of a call.
struct Attend<'a, 'b> {
    call: Call<'a>,
    queries: &'a [Query<'a>],
    outputs: &'a mut [&'b mut [f32]],
    scratch: &'a mut [f32],
}

// SAFETY: `dispatch` is called with instructions that the CPU has.
impl Kernel for Attend<'_, '_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        // SAFETY: the caller's promises, and `attend` has checked the sizes.
        unsafe {
            self.call
                .by_rows::<L>(self.queries, self.outputs, self.scratch);
        }
    }
}

/// Where attention looks.
struct Call<'a> {
    cache: LayerKeysValues<'a>,
    head: usize,
    window: usize,
}

/// Most query rows that any instruction set takes at once.
const ROWS_MAX: usize = 8;

/// What rows have gathered so far.
struct State<'a, const ROWS: usize> {
    /// Queries, element by element: `[head_length, ROWS]`.
    queries: &'a mut [[f32; ROWS]],
    scores: [[f32; BLOCK]; ROWS],
    /// Sums of values: `[ROWS, padded head length]`.
    outputs: &'a mut [f32],
    /// First and last position that a row sees.
    seen: [(usize, usize); ROWS],
    largest: [f32; ROWS],
    sums: [f32; ROWS],
}

impl Call<'_> {
    /// Values that a pass keeps: queries and what they gather.
    fn scratch_len(&self) -> usize {
        (self.cache.shape.head_length + self.cache.shape.padded_length()) * ROWS_MAX
    }

    /// Cuts rows into passes that fit the registers.
    ///
    /// # Safety
    /// As for [`attend`], whose checks were made.
    #[inline(always)]
    unsafe fn by_rows<L: Lanes>(
        &self,
        queries: &[Query<'_>],
        outputs: &mut [&mut [f32]],
        scratch: &mut [f32],
    ) {
        let queries = queries.chunks(L::ROWS_MAX);
        for (queries, outputs) in queries.zip(outputs.chunks_mut(L::ROWS_MAX)) {
            // SAFETY: the caller's promises.
            unsafe {
                match queries.len() {
                    1 => self.pass::<L, 1>(queries, outputs, scratch),
                    2 => self.pass::<L, 2>(queries, outputs, scratch),
                    3 => self.pass::<L, 3>(queries, outputs, scratch),
                    4 => self.pass::<L, 4>(queries, outputs, scratch),
                    5 | 6 => self.pass::<L, 6>(queries, outputs, scratch),
                    _ => self.pass::<L, 8>(queries, outputs, scratch),
                }
            }
        }
    }

    /// # Safety
    /// As for [`by_rows`](Self::by_rows); at most `ROWS` rows.
    #[inline(always)]
    unsafe fn pass<L: Lanes, const ROWS: usize>(
        &self,
        queries: &[Query<'_>],
        outputs: &mut [&mut [f32]],
        scratch: &mut [f32],
    ) {
        let shape = self.cache.shape;
        let (length, padded) = (shape.head_length, shape.padded_length());
        let (transposed, gathered) = scratch.split_at_mut(length * ROWS);
        let gathered = &mut gathered[..padded * ROWS];
        gathered.fill(0.0);
        let mut state = State::<ROWS> {
            queries: transposed.as_chunks_mut().0,
            scores: [[0.0; BLOCK]; ROWS],
            outputs: gathered,
            seen: [(0, 0); ROWS],
            largest: [HIDDEN; ROWS],
            sums: [0.0; ROWS],
        };
        for row in 0..ROWS {
            // Rows beyond the last repeat it, and are dropped at the end.
            let query = queries[row.min(queries.len() - 1)];
            for (element, value) in state.queries.iter_mut().zip(query.values) {
                element[row] = *value;
            }
            let first = (query.position + 1).saturating_sub(self.window);
            state.seen[row] = (first, query.position);
        }
        let first = state.seen.iter().map(|seen| seen.0).min().unwrap_or(0);
        let last = state.seen.iter().map(|seen| seen.1).max().unwrap_or(0);
        // Blocks begin where they would for any other rows, so that a row's result does not depend
        // on which rows it is computed with.
        let mut start = first / BLOCK * BLOCK;
        while start <= last {
            let end = (start + BLOCK).min(last / LANES * LANES + LANES);
            let (keys, values) = self.cache.pages[start / BLOCK].head(self.cache.layer, self.head);
            // SAFETY: the positions are in this page, which has whole tiles; nobody writes it.
            unsafe {
                self.score::<L, ROWS>(&mut state, keys, end - start);
                self.weigh::<L, ROWS>(&mut state, start, end);
                self.gather::<L, ROWS>(&mut state, values, end.min(last + 1) - start);
            }
            start = end;
        }
        for (row, output) in outputs.iter_mut().enumerate() {
            let inverse = 1.0 / state.sums[row];
            for (output, value) in output.iter_mut().zip(&state.outputs[row * padded..]) {
                *output = value * inverse;
            }
        }
    }

    /// Products of all rows with the keys of a page's first positions, in whole tiles.
    ///
    /// # Safety
    /// The CPU has the instructions; `keys` are those of a page, whose first `positions` nobody
    /// writes.
    #[inline(always)]
    unsafe fn score<L: Lanes, const ROWS: usize>(
        &self,
        state: &mut State<'_, ROWS>,
        keys: &[UnsafeCell<f16>],
        positions: usize,
    ) {
        let length = self.cache.shape.head_length;
        let keys: *const f16 = keys.as_ptr().cast();
        for tile in (0..positions).step_by(LANES) {
            // SAFETY: the tile has `length` registers of keys, each score row room for the block.
            unsafe {
                let mut key = keys.add(tile * length);
                let mut sums = [L::splat(0.0); ROWS];
                for query in &*state.queries {
                    let lanes = L::load_half(key);
                    key = key.add(LANES);
                    for (sum, query) in sums.iter_mut().zip(query) {
                        *sum = lanes.mul_add(L::splat(*query), *sum);
                    }
                }
                for (sum, scores) in sums.iter().zip(&mut state.scores) {
                    sum.store(scores.as_mut_ptr().add(tile));
                }
            }
        }
    }

    /// Turns scores into weights relative to the largest so far, and what was gathered before with
    /// them.
    ///
    /// # Safety
    /// The CPU has the instructions.
    #[inline(always)]
    unsafe fn weigh<L: Lanes, const ROWS: usize>(
        &self,
        state: &mut State<'_, ROWS>,
        start: usize,
        end: usize,
    ) {
        let padded = self.cache.shape.padded_length();
        for row in 0..ROWS {
            let (first, last) = state.seen[row];
            let scores = &mut state.scores[row][..end - start];
            let from = first.clamp(start, end) - start;
            let to = (last + 1).clamp(start, end) - start;
            scores[..from].fill(HIDDEN);
            scores[to.max(from)..].fill(HIDDEN);
            // SAFETY: scores are whole registers, outputs have room for a padded head.
            unsafe {
                let mut largest = L::splat(state.largest[row]);
                for at in (0..scores.len()).step_by(LANES) {
                    largest = largest.max(L::load(scores.as_ptr().add(at)));
                }
                let largest = largest.largest();
                if largest == HIDDEN {
                    // Nothing seen so far: weights of zero, not of one.
                    scores.fill(0.0);
                    continue;
                }
                if largest > state.largest[row] {
                    let factor = (state.largest[row] - largest).exp();
                    state.sums[row] *= factor;
                    for value in &mut state.outputs[row * padded..][..padded] {
                        *value *= factor;
                    }
                    state.largest[row] = largest;
                }
                for at in (0..scores.len()).step_by(LANES) {
                    let score = scores.as_mut_ptr().add(at);
                    exp(L::load(score).sub(L::splat(largest))).store(score);
                }
                scores[..from].fill(0.0);
                scores[to.max(from)..].fill(0.0);
                let mut sum = L::splat(0.0);
                for at in (0..scores.len()).step_by(LANES) {
                    sum = sum.add(L::load(scores.as_ptr().add(at)));
                }
                state.sums[row] += sum.sum();
            }
        }
    }

    /// Adds the values of a page's first positions, weighted.
    ///
    /// # Safety
    /// As for [`score`](Self::score), of a page's values.
    #[inline(always)]
    unsafe fn gather<L: Lanes, const ROWS: usize>(
        &self,
        state: &mut State<'_, ROWS>,
        values: &[UnsafeCell<f16>],
        positions: usize,
    ) {
        let padded = self.cache.shape.padded_length();
        let values: *const f16 = values.as_ptr().cast();
        for element in (0..padded).step_by(LANES) {
            // SAFETY: every position has a padded row of values, the outputs room for one.
            unsafe {
                let mut value = values.add(element);
                let mut sums = [L::splat(0.0); ROWS];
                for (row, sum) in sums.iter_mut().enumerate() {
                    *sum = L::load(state.outputs.as_ptr().add(row * padded + element));
                }
                for position in 0..positions {
                    let lanes = L::load_half(value);
                    value = value.add(padded);
                    for (sum, scores) in sums.iter_mut().zip(&state.scores) {
                        *sum = lanes.mul_add(L::splat(scores[position]), *sum);
                    }
                }
                for (row, sum) in sums.iter().enumerate() {
                    sum.store(state.outputs.as_mut_ptr().add(row * padded + element));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::{super::lanes::Portable, *};

    /// The definition, in 64 bits, over what 16 bits keep of keys and values.
    fn expected(
        keys: &[Vec<f32>],
        values: &[Vec<f32>],
        query: &Query<'_>,
        window: Option<usize>,
    ) -> Vec<f64> {
        let kept = |value: f32| f64::from(f16::from_f32(value).to_f32());
        let first = (query.position + 1).saturating_sub(window.unwrap_or(usize::MAX));
        let seen = first..query.position + 1;
        let products: Vec<f64> = keys[seen.clone()]
            .iter()
            .map(|key| {
                let pairs = key.iter().zip(query.values);
                pairs
                    .map(|(key, query)| kept(*key) * f64::from(*query))
                    .sum()
            })
            .collect();
        let largest = products.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = products
            .iter()
            .map(|product| (product - largest).exp())
            .collect();
        let sum: f64 = weights.iter().sum();
        (0..query.values.len())
            .map(|element| {
                let pairs = weights.iter().zip(&values[seen.clone()]);
                pairs
                    .map(|(weight, value)| weight * kept(value[element]))
                    .sum::<f64>()
                    / sum
            })
            .collect()
    }

    fn pages(shape: KeysValuesShape, positions: usize) -> Vec<KeysValuesPage> {
        let count = positions.div_ceil(PAGE_LEN);
        (0..count).map(|_| KeysValuesPage::empty(&shape)).collect()
    }

    fn check(set: InstructionSet, length: usize, positions: usize, rows: usize, seed: u64) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut vector = |scale: f32| -> Vec<f32> {
            (0..length)
                .map(|_| random.random_range(-scale..scale))
                .collect()
        };
        let heads = 2;
        // Of three layers only the second is used; the others must not be touched.
        let shape = KeysValuesShape {
            layers: 3,
            kv_heads: heads,
            head_length: length,
        };
        let pages = pages(shape, positions);
        let pages: Vec<&KeysValuesPage> = pages.iter().collect();
        let cache = LayerKeysValues::new(&pages, 1, shape);
        let mut stored = vec![(Vec::new(), Vec::new()); heads];
        for position in 0..positions {
            for (head, (keys, values)) in stored.iter_mut().enumerate() {
                let (key, value) = (vector(1.0), vector(3.0));
                // SAFETY: nobody else has the cache.
                unsafe { cache.write(set, head, position, &key, &value) };
                keys.push(key);
                values.push(value);
            }
        }
        let rows: Vec<Vec<f32>> = (0..rows).map(|_| vector(2.0)).collect();
        let queries: Vec<Query<'_>> = rows
            .iter()
            .enumerate()
            .map(|(row, values)| Query {
                values,
                position: (positions - 1).saturating_sub(row * 7 % positions),
            })
            .collect();
        for window in [None, Some(1), Some(20), Some(100)] {
            for (head, (keys, values)) in stored.iter().enumerate() {
                let mut outputs = vec![vec![f32::NAN; length]; queries.len()];
                let mut slices: Vec<&mut [f32]> =
                    outputs.iter_mut().map(Vec::as_mut_slice).collect();
                // SAFETY: only sets that the CPU has are tested; nobody writes.
                unsafe { attend(set, cache, head, &queries, window, &mut slices) };
                for (query, output) in queries.iter().zip(&outputs) {
                    let expected = expected(keys, values, query, window);
                    for (output, expected) in output.iter().zip(&expected) {
                        let error = (f64::from(*output) - expected).abs();
                        assert!(
                            error < 1e-4,
                            "{set:?}, length {length}, {positions} positions, window {window:?}: \
                             {output} against {expected}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn every_kernel_computes_the_definition() {
        let mut seed = 0;
        for set in InstructionSet::available() {
            for length in [4, 20, 64, 80, 96, 128, 256] {
                for (positions, rows) in [(1, 1), (3, 2), (16, 3), (17, 4), (65, 5), (300, 8)] {
                    seed += 1;
                    check(set, length, positions, rows, seed);
                }
            }
        }
    }

    #[test]
    fn the_largest_score_may_come_last_and_be_large() {
        for set in InstructionSet::available() {
            let shape = KeysValuesShape {
                layers: 1,
                kv_heads: 1,
                head_length: 16,
            };
            let pages = pages(shape, 200);
            let pages: Vec<&KeysValuesPage> = pages.iter().collect();
            let cache = LayerKeysValues::new(&pages, 0, shape);
            for position in 0..200 {
                let key = vec![position as f32; 16];
                // SAFETY: nobody else has the cache.
                unsafe { cache.write(set, 0, position, &key, &key) };
            }
            let query = Query {
                values: &[10.0; 16],
                position: 199,
            };
            let mut output = [0.0; 16];
            // SAFETY: the set is available; nobody writes.
            unsafe { attend(set, cache, 0, &[query], None, &mut [&mut output]) };
            assert!(
                output.iter().all(|value| (value - 199.0).abs() < 1e-3),
                "{output:?}"
            );
        }
    }

    #[test]
    fn exponentials_are_exact_to_the_last_bits() {
        for step in 0..20_000 {
            let x = -87.0 + step as f32 * (175.0 / 20_000.0);
            let mut lanes = [0.0; LANES];
            // SAFETY: the portable form runs everywhere.
            unsafe { exp(Portable::splat(x)).store(lanes.as_mut_ptr()) };
            let expected = f64::from(x).exp();
            let error = (f64::from(lanes[0]) / expected - 1.0).abs();
            assert!(error < 3e-7, "e^{x}: {} against {expected}", lanes[0]);
        }
    }
}
