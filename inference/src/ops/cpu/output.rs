//! Where kernels put results: a matrix that several threads fill in columns of their own.

#![expect(
    unsafe_code,
    reason = "a column range per thread cannot be expressed as slices"
)]

use std::marker::PhantomData;

use crate::ops::packed::TILE_ROWS;

/// A matrix `[rows, columns]`, or some columns of one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output<'a> {
    values: *mut f32,
    rows: usize,
    columns: usize,
    stride: usize,
    buffer: PhantomData<&'a mut [f32]>,
}

// SAFETY: values are reached only through unsafe functions, whose callers see to it that threads
// have columns of their own.
unsafe impl Send for Output<'_> {}
// SAFETY: as above.
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    /// Takes a row-major buffer.
    ///
    /// # Panics
    /// If its length is not `rows · columns`.
    pub(crate) fn new(values: &'a mut [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(Some(values.len()), rows.checked_mul(columns));
        Self {
            values: values.as_mut_ptr(),
            rows,
            columns,
            stride: columns,
            buffer: PhantomData,
        }
    }

    /// Returns some of its columns, for one of several matrices with a common output.
    ///
    /// # Panics
    /// If they are not all there.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "a fused block's matrices share an output")
    )]
    pub(crate) fn columns(self, start: usize, len: usize) -> Self {
        assert!(start <= self.columns && len <= self.columns - start);
        Self {
            // Adding without a promise to stay inside: there may be no rows.
            values: self.values.wrapping_add(start),
            columns: len,
            ..self
        }
    }

    /// Whether this is as large as a product's result.
    pub(super) fn holds(&self, rows: usize, columns: usize) -> bool {
        self.rows >= rows && self.columns == columns
    }

    /// Where a row's results of one tile go, and how many of them there are.
    #[inline(always)]
    pub(super) fn lanes(self, row: usize, tile: usize) -> (*mut f32, usize) {
        let start = tile * TILE_ROWS;
        assert!(
            row < self.rows && start < self.columns,
            "tile outside the output"
        );
        let at = self.values.wrapping_add(row * self.stride + start);
        (at, TILE_ROWS.min(self.columns - start))
    }

    /// Writes one row's results of one tile; lanes past the last column are dropped.
    ///
    /// # Safety
    /// No other thread reads or writes them now.
    #[inline(always)]
    pub(super) unsafe fn store(self, row: usize, tile: usize, lanes: &[f32; TILE_ROWS]) {
        let (at, len) = self.lanes(row, tile);
        // SAFETY: `lanes` checked row and columns to lie inside the buffer, which the lifetime
        // keeps borrowed; the caller has these values to itself.
        unsafe { std::ptr::copy_nonoverlapping(lanes.as_ptr(), at, len) };
    }

    /// Reads back what [`store`](Self::store) wrote; lanes past the last column are 0.
    ///
    /// # Safety
    /// No other thread writes them now.
    #[inline(always)]
    pub(super) unsafe fn load(self, row: usize, tile: usize) -> [f32; TILE_ROWS] {
        let (at, len) = self.lanes(row, tile);
        let mut lanes = [0.0; TILE_ROWS];
        // SAFETY: as for `store`.
        unsafe { std::ptr::copy_nonoverlapping(at, lanes.as_mut_ptr(), len) };
        lanes
    }
}
