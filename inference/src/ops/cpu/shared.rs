//! Where kernels put results: a matrix that several threads fill, each in a part of its own.

#![expect(
    unsafe_code,
    reason = "a part per thread cannot be expressed as slices"
)]

use std::{marker::PhantomData, ops::Range};

use crate::ops::packed::TILE_ROWS;

/// A matrix `[rows, columns]`, or some columns of one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SharedMatrix<'a> {
    values: *mut f32,
    rows: usize,
    columns: usize,
    /// The first column that there is a place for, and how many there are.
    held: (usize, usize),
    stride: usize,
    buffer: PhantomData<&'a mut [f32]>,
}

// SAFETY: values are reached only through unsafe functions, whose callers see to it that threads
// have parts of their own.
unsafe impl Send for SharedMatrix<'_> {}
// SAFETY: as above.
unsafe impl Sync for SharedMatrix<'_> {}

/// Where the results of one tile with some rows go.
#[derive(Clone, Copy)]
pub(super) struct Places {
    /// The first row's.
    pub(super) first: *mut f32,
    /// From one row's to the next.
    pub(super) stride: usize,
    /// How many results each row has.
    pub(super) lanes: usize,
}

impl<'a> SharedMatrix<'a> {
    /// Takes a row-major buffer.
    ///
    /// # Panics
    /// If its length is not `rows · columns`.
    pub(crate) fn new(values: &'a mut [f32], rows: usize, columns: usize) -> Self {
        Self::part(values, rows, columns, 0..columns)
    }

    /// Takes a row-major buffer for some columns of a matrix; the others have no place.
    ///
    /// # Panics
    /// If the columns are not all the matrix's, or the buffer is of another size.
    pub(super) fn part(
        values: &'a mut [f32],
        rows: usize,
        columns: usize,
        held: Range<usize>,
    ) -> Self {
        assert!(held.end <= columns);
        assert_eq!(Some(values.len()), rows.checked_mul(held.len()));
        Self {
            values: values.as_mut_ptr(),
            rows,
            columns,
            held: (held.start, held.len()),
            stride: held.len(),
            buffer: PhantomData,
        }
    }

    /// Returns some columns of a whole matrix, for one of several products that share it.
    ///
    /// # Panics
    /// If they are not all there.
    pub(crate) fn columns(self, start: usize, len: usize) -> Self {
        assert!(self.held == (0, self.columns));
        assert!(start <= self.columns && len <= self.columns - start);
        Self {
            // Adding without a promise to stay inside: there may be no rows.
            values: self.values.wrapping_add(start),
            columns: len,
            held: (0, len),
            ..self
        }
    }

    /// Whether this is as large as a product's result.
    pub(super) fn holds(&self, rows: usize, columns: usize) -> bool {
        self.rows >= rows && self.columns == columns
    }

    /// Returns one row of a whole matrix.
    ///
    /// # Safety
    /// While the slice lives, nobody else has it, or writes the row.
    ///
    /// # Panics
    /// If there is no such row.
    pub(super) unsafe fn row(self, row: usize) -> &'a mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { self.part_of_row(row, 0..self.columns) }
    }

    /// Returns some rows of a whole matrix.
    ///
    /// # Safety
    /// While the slice lives, nobody else has it, or writes these rows.
    ///
    /// # Panics
    /// If they are not there.
    pub(super) unsafe fn rows(self, rows: Range<usize>) -> &'a mut [f32] {
        assert!(rows.end <= self.rows && self.held == (0, self.columns));
        assert!(self.stride == self.columns);
        let at = self.values.wrapping_add(rows.start * self.stride);
        // SAFETY: the rows lie inside the buffer, which the lifetime keeps borrowed; the caller has
        // them to itself.
        unsafe { std::slice::from_raw_parts_mut(at, rows.len() * self.stride) }
    }

    /// Returns some columns of one row of a whole matrix.
    ///
    /// # Safety
    /// While the slice lives, nobody else has it, or writes there.
    ///
    /// # Panics
    /// If they are not there.
    pub(super) unsafe fn part_of_row(self, row: usize, columns: Range<usize>) -> &'a mut [f32] {
        assert!(row < self.rows && columns.end <= self.columns && self.held == (0, self.columns));
        let at = self.values.wrapping_add(row * self.stride + columns.start);
        // SAFETY: the columns lie inside the buffer, which the lifetime keeps borrowed; the caller
        // has them to itself.
        unsafe { std::slice::from_raw_parts_mut(at, columns.len()) }
    }

    /// Where a row's results of one tile go, and how many of them there are.
    #[inline(always)]
    pub(super) fn lanes(self, row: usize, tile: usize) -> (*mut f32, usize) {
        let start = tile * TILE_ROWS;
        let len = TILE_ROWS.min(self.columns.saturating_sub(start));
        let (first, held) = self.held;
        assert!(
            row < self.rows && len > 0 && start >= first && start - first + len <= held,
            "tile outside the matrix"
        );
        let at = self
            .values
            .wrapping_add(row * self.stride + (start - first));
        (at, len)
    }

    /// The same for `count` rows from one on: the first one's place, and from one to the next.
    #[inline(always)]
    pub(super) fn lanes_of_rows(self, row: usize, count: usize, tile: usize) -> Places {
        let (_, _) = self.lanes(row + count - 1, tile);
        let (first, lanes) = self.lanes(row, tile);
        Places {
            first,
            stride: self.stride,
            lanes,
        }
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
