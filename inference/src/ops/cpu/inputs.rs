//! Input rows in the form that kernels read: 8-bit codes with what goes with them, or floats.
//!
//! Codes do not depend on the layout of the matrix, so rows are quantized once for all matrices
//! that they meet. A [`Unit`] is one cache line, which makes threads that fill neighbouring
//! columns leave each other alone. Up to [`PANEL_ROWS`] rows form a panel, in which the same
//! columns of all rows lie side by side: a kernel reads a panel from front to back, and finds its
//! rows at constant distances. Buffers are kept from one use to the next.

#![expect(
    unsafe_code,
    reason = "threads fill rows of their own, which cannot be expressed as slices"
)]

use std::cell::UnsafeCell;

use half::f16;

use super::InstructionSet;
use crate::ops::packed::{
    CodeLayout, Layout, PackedMatrix, layout::ScaleForm, layout::UNIT_COLUMNS,
};

/// Columns of the input that share a scale, as in ggml's `Q8_0`.
pub const INPUT_GROUP: usize = UNIT_COLUMNS;

/// Rows of a panel, at most: of that many, all codes of a unit are within reach of the shortest
/// form of an instruction.
pub(super) const PANEL_ROWS: usize = 8;

/// [`INPUT_GROUP`] columns of one row.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Unit {
    /// −127 to 127; not-a-number is 0.
    pub(super) codes: [i8; INPUT_GROUP],
    /// What a code of 1 stands for.
    pub(super) scale: f32,
    /// The sum of the values that the codes stand for, which a minimum is multiplied by.
    sum: f32,
    /// The same in 16 bits and of the scale before rounding, as ggml has it for the legacy types.
    /// Less exact, but texts then follow the reference's.
    rounded_sum: f32,
    /// The sum of the codes times −8, −16 and −128: where integer sums of codes with that zero
    /// point start.
    offsets: [i32; 3],
    /// For the zero point 32, of each half of the columns.
    half_offsets: [i32; 2],
}

impl Unit {
    const ZERO: Self = Self {
        codes: [0; INPUT_GROUP],
        scale: 0.0,
        sum: 0.0,
        rounded_sum: 0.0,
        offsets: [0; 3],
        half_offsets: [0; 2],
    };

    /// Minus the zero point times the sum of a group's input codes.
    #[inline(always)]
    pub(super) fn offset(&self, layout: CodeLayout, group: usize) -> i32 {
        match (layout.zero_point, layout.group) {
            (0, _) => 0,
            (8, 32) => self.offsets[0],
            (16, 32) => self.offsets[1],
            (128, 32) => self.offsets[2],
            (32, 16) => self.half_offsets[group],
            _ => unreachable!("no type has this layout"),
        }
    }

    /// What a group's minimum is multiplied by.
    #[inline(always)]
    pub(super) fn sum(&self, layout: CodeLayout, group: usize) -> f32 {
        match (layout.group, layout.scales) {
            (16, _) => self.half_offsets[group] as f32 * (-1.0 / 32.0) * self.scale,
            (_, ScaleForm::Half) => self.rounded_sum,
            (_, ScaleForm::Factors) => self.sum,
        }
    }
}

/// What [`quantize_unit`] and its faster twins return beside the codes.
pub(super) struct Quantized {
    /// Largest magnitude by 127, not rounded.
    pub(super) exact_scale: f32,
    /// Sums of the codes of the first and the second half of the columns.
    pub(super) sums: [i32; 2],
}

/// Input rows for products with one or several matrices.
#[derive(Debug, Default)]
pub struct Inputs {
    rows: usize,
    columns: usize,
    /// Rows of a panel: [`PANEL_ROWS`] unless there are fewer.
    panel: usize,
    wants_codes: bool,
    wants_floats: bool,
    units: Vec<UnsafeCell<Unit>>,
    floats: Vec<UnsafeCell<f32>>,
}

// SAFETY: shared access to the cells is through unsafe functions only, whose callers keep writers
// apart from each other and from readers.
unsafe impl Sync for Inputs {}

impl Inputs {
    /// Makes room for rows that all of `matrices` can be multiplied with. What was there before is
    /// lost; memory is taken only where there was less.
    ///
    /// # Panics
    /// If the matrices differ in their number of columns, or there is none.
    pub fn prepare(&mut self, rows: usize, matrices: &[&PackedMatrix]) {
        self.columns = matrices[0].columns();
        self.rows = rows;
        self.panel = rows.clamp(1, PANEL_ROWS);
        let rows = rows.next_multiple_of(self.panel);
        (self.wants_codes, self.wants_floats) = (false, false);
        for matrix in matrices {
            assert_eq!(matrix.columns(), self.columns, "inputs are of one width");
            match matrix.layout() {
                Layout::Codes(_) => self.wants_codes = true,
                Layout::Floats(_) => self.wants_floats = true,
            }
        }
        if self.wants_codes {
            assert!(self.columns.is_multiple_of(INPUT_GROUP));
            let len = rows * self.row_units();
            if self.units.len() < len {
                self.units.resize_with(len, || UnsafeCell::new(Unit::ZERO));
            }
        }
        if self.wants_floats && self.floats.len() < rows * self.columns {
            self.floats
                .resize_with(rows * self.columns, || UnsafeCell::new(0.0));
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Units in a row.
    pub(super) fn row_units(&self) -> usize {
        self.columns / INPUT_GROUP
    }

    /// Fills a stretch of one row, rounding as ggml does: the largest magnitude of
    /// [`INPUT_GROUP`] columns becomes 127, and the scale is rounded to 16 bits.
    ///
    /// # Safety
    /// The CPU has the instructions. While this runs, no other thread fills the same columns of
    /// the row or reads the row.
    ///
    /// # Panics
    /// If the stretch lies outside the row, or for quantized matrices does not begin and end
    /// between groups.
    pub(crate) unsafe fn fill(
        &self,
        set: InstructionSet,
        row: usize,
        first_column: usize,
        values: &[f32],
    ) {
        assert!(row < self.rows && first_column + values.len() <= self.columns);
        if self.wants_floats {
            let cells = &self.floats[self.position(row, first_column, self.columns)..];
            for (cell, value) in cells.iter().step_by(self.panel).zip(values) {
                // SAFETY: nobody else touches these columns, says the caller.
                unsafe { *cell.get() = *value };
            }
        }
        if self.wants_codes {
            assert!(first_column.is_multiple_of(INPUT_GROUP));
            assert!(values.len().is_multiple_of(INPUT_GROUP));
            let unit = first_column / INPUT_GROUP;
            let cells = &self.units[self.position(row, unit, self.row_units())..];
            let cells = cells.iter().step_by(self.panel);
            // SAFETY: nobody else touches these columns, says the caller, so the references that
            // this gives out one by one are the only ones.
            let units = cells.map(|cell| unsafe { &mut *cell.get() });
            quantize(set, values, units);
        }
    }

    /// Where an item of a row lies, if rows have `len` items.
    fn position(&self, row: usize, item: usize, len: usize) -> usize {
        let (panel, within) = (row / self.panel, row % self.panel);
        (panel * len + item) * self.panel + within
    }

    /// From one unit, or float, of a row to the next.
    pub(super) fn step(&self) -> usize {
        self.panel
    }

    /// Where the units of a row begin, [`step`](Self::step) apart. Those of the panel's other rows
    /// lie between them.
    ///
    /// # Panics
    /// If there is no such row, or no codes were wanted.
    pub(super) fn units(&self, row: usize) -> *const Unit {
        assert!(self.wants_codes && row < self.rows);
        self.units[self.position(row, 0, self.row_units())..]
            .as_ptr()
            .cast()
    }

    /// As [`units`](Self::units), for floats.
    ///
    /// # Panics
    /// If there is no such row, or no floats were wanted.
    pub(super) fn floats(&self, row: usize) -> *const f32 {
        assert!(self.wants_floats && row < self.rows);
        self.floats[self.position(row, 0, self.columns)..]
            .as_ptr()
            .cast()
    }
}

fn quantize<'a>(set: InstructionSet, values: &[f32], units: impl Iterator<Item = &'a mut Unit>) {
    match set {
        InstructionSet::Portable => {
            quantize_with(values, units, quantize_unit, |value| {
                f16::from_f32(value).to_f32()
            });
        }
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 | InstructionSet::Avx512Vnni => super::avx2::quantize(values, units),
        #[cfg(not(target_arch = "x86_64"))]
        _ => unreachable!("not available here"),
    }
}

/// The plain loop. `quantize` turns values into codes, `round` rounds to 16 bits.
#[inline(always)]
pub(super) fn quantize_with<'a>(
    values: &[f32],
    units: impl Iterator<Item = &'a mut Unit>,
    quantize: impl Fn(&[f32; INPUT_GROUP], &mut [i8; INPUT_GROUP]) -> Quantized,
    round: impl Fn(f32) -> f32,
) {
    let (values, _) = values.as_chunks::<INPUT_GROUP>();
    for (values, unit) in values.iter().zip(units) {
        let Quantized { exact_scale, sums } = quantize(values, &mut unit.codes);
        let sum = sums[0] + sums[1];
        unit.scale = round(exact_scale);
        unit.sum = unit.scale * sum as f32;
        unit.rounded_sum = round(exact_scale * sum as f32);
        unit.offsets = [-8 * sum, -16 * sum, -128 * sum];
        unit.half_offsets = sums.map(|sum| -32 * sum);
    }
}

/// The largest magnitude becomes 127; not-a-number becomes 0.
fn quantize_unit(values: &[f32; INPUT_GROUP], codes: &mut [i8; INPUT_GROUP]) -> Quantized {
    let largest = values
        .iter()
        .fold(0.0f32, |max, value| max.max(value.abs()));
    let exact_scale = largest / 127.0;
    // The inverse is of the scale before it is rounded, as in ggml.
    let inverse = if exact_scale > 0.0 {
        1.0 / exact_scale
    } else {
        0.0
    };
    for (code, value) in codes.iter_mut().zip(values) {
        *code = (value * inverse).round_ties_even() as i8;
    }
    let (first, second) = codes.split_at(INPUT_GROUP / 2);
    let sums = [first, second].map(|codes| codes.iter().map(|&code| i32::from(code)).sum());
    Quantized { exact_scale, sums }
}
