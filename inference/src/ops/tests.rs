//! Every kernel against plain arithmetic, on every type, with awkward shapes and values.

use burn::tensor::{Device, Tensor, TensorData};
use half::f16;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    Weight,
    cpu::{INPUT_GROUP, InstructionSet, multiply},
    linear, linear_by_burn_ops,
    packed::{PackedMatrix, RowOrder},
};
use crate::{
    dequantize::dequantize,
    gguf::{TensorType, TensorView},
};

const QUANTIZED: [TensorType; 10] = [
    TensorType::Q4_0,
    TensorType::Q4_1,
    TensorType::Q5_0,
    TensorType::Q5_1,
    TensorType::Q8_0,
    TensorType::Q2K,
    TensorType::Q3K,
    TensorType::Q4K,
    TensorType::Q5K,
    TensorType::Q6K,
];

/// A matrix as a file holds it.
struct Stored {
    ty: TensorType,
    shape: [u64; 2],
    data: Vec<u8>,
}

impl Stored {
    /// Random codes; scales and minimums are moderate numbers of either sign.
    fn random(ty: TensorType, rows: usize, columns: usize, rng: &mut ChaCha8Rng) -> Self {
        let columns = columns.next_multiple_of(ty.block_len());
        let mut data: Vec<u8> = Vec::new();
        for _ in 0..rows * columns / ty.block_len() {
            let start = data.len();
            data.extend((0..ty.block_bytes()).map(|_| rng.random::<u8>()));
            for &offset in half_offsets(ty) {
                let value = f16::from_f32(rng.random_range(-0.02..0.02));
                data[start + offset..start + offset + 2].copy_from_slice(&value.to_le_bytes());
            }
        }
        Self {
            ty,
            shape: [columns as u64, rows as u64],
            data,
        }
    }

    fn view(&self) -> TensorView<'_> {
        TensorView {
            name: "test",
            shape: &self.shape,
            ty: self.ty,
            data: &self.data,
        }
    }

    fn rows(&self) -> usize {
        self.shape[1] as usize
    }

    fn columns(&self) -> usize {
        self.shape[0] as usize
    }

    fn floats(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows() * self.columns()];
        dequantize(self.ty, &self.data, &mut out).unwrap();
        out
    }
}

fn half_offsets(ty: TensorType) -> &'static [usize] {
    match ty {
        TensorType::Q4_0 | TensorType::Q5_0 | TensorType::Q8_0 => &[0],
        TensorType::Q4_1 | TensorType::Q5_1 | TensorType::Q4K | TensorType::Q5K => &[0, 2],
        TensorType::Q2K => &[80, 82],
        TensorType::Q3K => &[108],
        TensorType::Q6K => &[208],
        TensorType::F32 | TensorType::F16 | TensorType::BF16 => &[],
    }
}

/// Input values that quantize to themselves: whole multiples of a power of two, one of them 127.
fn exact_input(rows: usize, columns: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let mut values = Vec::with_capacity(rows * columns);
    for _ in 0..rows * columns / INPUT_GROUP {
        let scale = [1.0 / 64.0, 1.0 / 16.0, 1.0][rng.random_range(0..3)];
        let largest = rng.random_range(0..INPUT_GROUP);
        for index in 0..INPUT_GROUP {
            let code = if index == largest {
                127
            } else {
                rng.random_range(-127..=127)
            };
            values.push(code as f32 * scale);
        }
    }
    values
}

/// The product in 64 bits, and the sum of its terms' magnitudes, which rounding scales with.
fn exact_product(input: &[f32], weight: &[f32], columns: usize) -> Vec<(f64, f64)> {
    let mut out = Vec::new();
    for input in input.chunks_exact(columns) {
        for weight in weight.chunks_exact(columns) {
            let terms = input
                .iter()
                .zip(weight)
                .map(|(&x, &w)| f64::from(x) * f64::from(w));
            out.push((terms.clone().sum(), terms.map(f64::abs).sum()));
        }
    }
    out
}

fn rounds_sums(ty: TensorType) -> bool {
    matches!(ty, TensorType::Q4_1 | TensorType::Q5_1)
}

fn check_product(set: InstructionSet, stored: &Stored, input: &[f32]) {
    let matrix = PackedMatrix::from_gguf(&stored.view(), RowOrder::AsStored).unwrap();
    let product = multiply(set, input, &matrix);
    let expected = exact_product(input, &stored.floats(), stored.columns());
    assert_eq!(product.len(), expected.len());
    for (index, (got, (want, magnitude))) in product.iter().zip(expected).enumerate() {
        // 32-bit sums of some dozens of groups: a few units in the last place of the magnitude.
        // A minimum and its codes cancel, hence the generous factor. Sums of the legacy types with
        // minimums are rounded to 16 bits.
        let tolerance = magnitude * if rounds_sums(stored.ty) { 1e-3 } else { 4e-6 } + 1e-6;
        assert!(
            (f64::from(*got) - want).abs() <= tolerance,
            "{:?} {set:?} {:?} x {} rows: element {index} is {got}, not {want}",
            stored.ty,
            stored.shape,
            input.len() / stored.columns(),
        );
    }
}

#[test]
fn packing_keeps_every_weight() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for ty in QUANTIZED {
        let stored = Stored::random(ty, 37, 512, &mut rng);
        let matrix = PackedMatrix::from_gguf(&stored.view(), RowOrder::AsStored).unwrap();
        let unpacked = matrix.to_tensor_data().try_to_vec::<f32>().unwrap();
        for (index, (got, want)) in unpacked.iter().zip(stored.floats()).enumerate() {
            // Sums of two products are rounded in another order for some types.
            let close = (got - want).abs() <= want.abs().max(1e-2) * 1e-6;
            assert!(close, "{ty:?}: weight {index} is {got}, not {want}");
        }
    }
}

#[test]
fn kernels_equal_plain_arithmetic_on_every_type_and_shape() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    // Rows of the matrix around a tile's 16, input rows around the kernels' 1, 4 and 8.
    let shapes = [
        (1, 32, 1),
        (15, 64, 2),
        (16, 256, 3),
        (17, 288, 4),
        (40, 96, 5),
        (33, 160, 13),
    ];
    for set in InstructionSet::available() {
        for ty in QUANTIZED {
            for (rows, columns, inputs) in shapes {
                let stored = Stored::random(ty, rows, columns, &mut rng);
                let input = exact_input(inputs, stored.columns(), &mut rng);
                check_product(set, &stored, &input);
            }
        }
    }
}

#[test]
fn kernels_equal_plain_arithmetic_when_threads_share_the_tiles() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for set in InstructionSet::available() {
        for ty in [TensorType::Q4_1, TensorType::Q8_0, TensorType::Q6K] {
            let stored = Stored::random(ty, 530, 512, &mut rng);
            let input = exact_input(9, 512, &mut rng);
            check_product(set, &stored, &input);
        }
    }
}

#[test]
fn extreme_codes_do_not_saturate() {
    for set in InstructionSet::available() {
        for (ty, byte) in [
            (TensorType::Q8_0, 0x80),
            (TensorType::Q8_0, 0x7f),
            (TensorType::Q4_1, 0xff),
        ] {
            let mut data = Vec::new();
            for _ in 0..16 * 64 / 32 {
                let start = data.len();
                data.extend(std::iter::repeat_n(byte, ty.block_bytes()));
                for &offset in half_offsets(ty) {
                    let one = f16::ONE.to_le_bytes();
                    data[start + offset..start + offset + 2].copy_from_slice(&one);
                }
            }
            let stored = Stored {
                ty,
                shape: [64, 16],
                data,
            };
            for sign in [1.0, -1.0] {
                check_product(set, &stored, &[127.0 * sign; 64]);
            }
        }
    }
}

#[test]
fn hostile_input_gives_no_panic() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let stored = Stored::random(TensorType::Q4_1, 16, 64, &mut rng);
    let matrix = PackedMatrix::from_gguf(&stored.view(), RowOrder::AsStored).unwrap();
    for value in [
        f32::NAN,
        f32::INFINITY,
        f32::MAX,
        f32::MIN_POSITIVE / 2.0,
        0.0,
    ] {
        for set in InstructionSet::available() {
            assert_eq!(multiply(set, &[value; 64], &matrix).len(), 16);
        }
    }
}

#[test]
fn inexact_input_is_rounded_alike_by_every_instruction_set() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    for ty in [TensorType::Q4_1, TensorType::Q8_0, TensorType::Q6K] {
        let stored = Stored::random(ty, 24, 256, &mut rng);
        let matrix = PackedMatrix::from_gguf(&stored.view(), RowOrder::AsStored).unwrap();
        let input: Vec<f32> = (0..5 * 256).map(|_| rng.random_range(-3.0..3.0)).collect();
        let expected = multiply(InstructionSet::Portable, &input, &matrix);
        let magnitude = exact_product(&input, &stored.floats(), 256);
        for set in InstructionSet::available() {
            let product = multiply(set, &input, &matrix);
            for ((got, want), (_, magnitude)) in product.iter().zip(&expected).zip(&magnitude) {
                let close = f64::from((got - want).abs()) <= magnitude * 4e-6 + 1e-6;
                assert!(close, "{ty:?} {set:?}: {got} against {want}");
            }
        }
    }
}

#[test]
fn the_flex_body_agrees_with_the_default_body() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let device = Device::flex();
    for ty in QUANTIZED {
        let stored = Stored::random(ty, 48, 256, &mut rng);
        let matrix = PackedMatrix::from_gguf(&stored.view(), RowOrder::AsStored).unwrap();
        let weight = Weight::Packed(std::sync::Arc::new(matrix));
        let values = exact_input(3, 256, &mut rng);
        let magnitude = exact_product(&values, &stored.floats(), 256);
        let input = Tensor::<2>::from_data(TensorData::new(values, [3, 256]), &device);
        let fast = linear(input.clone(), weight.clone());
        let plain = linear_by_burn_ops::<burn::backend::Dispatch>(input.into_dispatch(), weight);
        let plain = Tensor::<2>::from_dispatch(plain);
        let [fast, plain] = [fast, plain].map(|t| t.into_data().try_to_vec::<f32>().unwrap());
        for ((fast, plain), (_, magnitude)) in fast.iter().zip(plain).zip(magnitude) {
            let tolerance = magnitude as f32 * if rounds_sums(ty) { 1e-3 } else { 1e-5 } + 1e-6;
            assert!(
                (fast - plain).abs() <= tolerance,
                "{ty:?}: {fast} against {plain}"
            );
        }
    }
}

#[test]
fn deinterleaving_moves_pairs_to_halves() {
    let order = RowOrder::DeinterleavePairs { head: 6, rotary: 4 };
    let sources: Vec<usize> = (0..12).map(|row| order.source(row)).collect();
    assert_eq!(sources, [0, 2, 1, 3, 4, 5, 6, 8, 7, 9, 10, 11]);
}

#[test]
fn rejects_matrices_whose_data_does_not_fit() {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let good = Stored::random(TensorType::Q8_0, 16, 64, &mut rng);
    let pack = |stored: &Stored| PackedMatrix::from_gguf(&stored.view(), RowOrder::AsStored);
    assert!(pack(&good).is_ok());
    let short = Stored {
        data: good.data[1..].to_vec(),
        ..good
    };
    assert!(pack(&short).is_err());
    let ragged = Stored {
        ty: TensorType::Q8_0,
        shape: [48, 16],
        data: good.data.clone(),
    };
    assert!(pack(&ragged).is_err());
    let float = Stored {
        ty: TensorType::F32,
        shape: [64, 16],
        data: vec![0; 4096],
    };
    assert!(pack(&float).is_err());
}
