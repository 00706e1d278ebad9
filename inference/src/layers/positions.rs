//! Which positions of which sequences a forward pass adds, and what they see.

use std::cell::OnceCell;

use burn::tensor::{Device, Tensor, TensorData};

use super::{RotaryEmbedding, RotaryTable};
use crate::ops::cpu::{RowSpan, Rows};

/// What attention has to know of the rows of a forward pass. It is the same for all blocks with
/// the same window and rotary base.
#[derive(Debug)]
pub struct Positions {
    spans: Vec<RowSpan>,
    /// The rows' rotations.
    pub rotary: RotaryTable,
    window: Option<usize>,
    masks: OnceCell<Vec<CausalMask>>,
    device: Device,
}

/// Hides later positions from earlier ones, and those that left the window.
#[derive(Debug, Clone)]
pub struct CausalMask {
    /// The first position that any of the new ones sees.
    first: usize,
    /// `[1, positions, seen]`, 0 or −∞, added to scores; none where all is seen.
    added: Option<Tensor<3>>,
}

impl CausalMask {
    /// Returns the mask for `positions` after the first `start`, each of which sees at most
    /// `window` positions, itself included.
    pub fn new(start: usize, positions: usize, window: Option<usize>, device: &Device) -> Self {
        let window = window.unwrap_or(usize::MAX);
        let first = (start + 1).saturating_sub(window);
        // A single position sees all from `first` on.
        if positions == 1 {
            return Self { first, added: None };
        }
        let len = start + positions;
        let mut values = Vec::with_capacity(positions * (len - first));
        for position in start..len {
            values.extend((first..len).map(|other| {
                if other <= position && position - other < window {
                    0.0f32
                } else {
                    f32::NEG_INFINITY
                }
            }));
        }
        let data = TensorData::new(values, [1, positions, len - first]);
        let added = Some(Tensor::from_data(data, device));
        Self { first, added }
    }

    /// Leaves away what none of the new positions sees.
    pub(super) fn seen(&self, cached: Tensor<3>) -> Tensor<3> {
        if self.first == 0 {
            return cached;
        }
        let len = cached.dims()[1];
        cached.narrow(1, self.first, len - self.first)
    }

    /// Applies the mask to scores `[heads, positions, seen]`.
    pub(super) fn apply(&self, scores: Tensor<3>) -> Tensor<3> {
        match &self.added {
            Some(added) => scores + added.clone(),
            None => scores,
        }
    }
}

impl Positions {
    /// Describes the rows of `spans`, each of which sees at most `window` positions, itself
    /// included.
    pub fn new(
        spans: Vec<RowSpan>,
        rotary: &RotaryEmbedding,
        window: Option<usize>,
        device: &Device,
    ) -> Self {
        let positions = spans.iter().flat_map(|span| {
            let positions = span.start..span.start + span.rows.len();
            positions.into_iter()
        });
        Self {
            rotary: rotary.table(positions, device),
            spans,
            window,
            masks: OnceCell::new(),
            device: device.clone(),
        }
    }

    /// Whose the rows are.
    pub fn spans(&self) -> &[RowSpan] {
        &self.spans
    }

    /// What the rows of each span see.
    pub fn masks(&self) -> &[CausalMask] {
        self.masks.get_or_init(|| {
            let spans = self.spans.iter();
            spans
                .map(|span| CausalMask::new(span.start, span.rows.len(), self.window, &self.device))
                .collect()
        })
    }

    /// What kernels on the host read.
    pub(crate) fn on_host(&self) -> Rows<'_> {
        Rows {
            spans: &self.spans,
            rotation: self.rotary.on_host(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(start: usize, positions: usize, window: usize) -> (usize, Vec<Vec<bool>>) {
        let device = Device::flex();
        let mask = CausalMask::new(start, positions, Some(window), &device);
        let added = mask.added.unwrap();
        let seen = added.dims()[2];
        let values = added.into_data().try_to_vec::<f32>().unwrap();
        let rows = values.chunks(seen);
        let rows = rows.map(|row| row.iter().map(|value| *value == 0.0).collect());
        (mask.first, rows.collect())
    }

    #[test]
    fn a_position_sees_itself_and_what_of_the_past_is_in_its_window() {
        let (yes, no) = (true, false);
        assert_eq!(
            rows(0, 3, 2),
            (
                0,
                vec![vec![yes, no, no], vec![yes, yes, no], vec![no, yes, yes]]
            )
        );
        // Of positions 0 to 4 the new position 4 still sees 3; nobody sees what is before that.
        assert_eq!(
            rows(4, 2, 2),
            (3, vec![vec![yes, yes, no], vec![no, yes, yes]])
        );
    }

    #[test]
    fn a_single_position_needs_no_mask_but_leaves_away_what_left_its_window() {
        let mask = |start, window| CausalMask::new(start, 1, window, &Device::flex());
        assert!(mask(9, None).added.is_none() && mask(9, Some(4)).added.is_none());
        assert_eq!(mask(9, None).first, 0);
        assert_eq!(mask(9, Some(4)).first, 6);
        assert_eq!(mask(3, Some(4)).first, 0);
    }
}
