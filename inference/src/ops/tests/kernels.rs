//! Every kernel against plain arithmetic and against the portable one, on every type, with awkward
//! shapes and values.

#![expect(unsafe_code, reason = "threads share inputs and output")]

use half::f16;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::stored::{QUANTIZED, Stored, exact_input, exact_product, half_offsets};
use crate::{
    gguf::TensorType,
    ops::cpu::{Inputs, InstructionSet, SharedMatrix, multiply, run_tiles},
};

fn check_product(set: InstructionSet, stored: &Stored, input: &[f32]) {
    let product = multiply(set, input, &stored.packed());
    let expected = exact_product(input, &stored.floats(), stored.columns());
    assert_eq!(product.len(), expected.len());
    for (index, (got, (want, magnitude))) in product.iter().zip(expected).enumerate() {
        // 32-bit sums of some dozens of groups: a few units in the last place of the magnitude.
        // A minimum and its codes cancel, hence the generous factor. Sums of the legacy types with
        // minimums are rounded to 16 bits.
        let tolerance = magnitude * if stored.rounds_sums() { 1e-3 } else { 4e-6 } + 1e-6;
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
fn kernels_equal_plain_arithmetic_on_every_type_and_shape() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    // Rows of the matrix around a tile's 16, input rows around the kernels' 1, 2, 4 and 8.
    let shapes = [
        (1, 32, 1),
        (15, 64, 2),
        (16, 256, 3),
        (17, 288, 4),
        (40, 96, 5),
        (33, 160, 13),
        (20, 1056, 25),
    ];
    for set in InstructionSet::available() {
        for ty in TensorType::ALL {
            for (rows, columns, inputs) in shapes {
                let stored = Stored::random(ty, rows, columns, &mut rng);
                let input = exact_input(inputs, stored.columns(), &mut rng);
                check_product(set, &stored, &input);
            }
        }
    }
}

#[test]
fn floats_may_have_any_number_of_columns() {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    for set in InstructionSet::available() {
        for ty in [TensorType::F16, TensorType::BF16, TensorType::F32] {
            for columns in [1, 2, 3, 7, 31, 33, 255, 257, 521] {
                for inputs in [1, 3, 11] {
                    let stored = Stored::random(ty, 18, columns, &mut rng);
                    let input = exact_input(inputs, columns, &mut rng);
                    check_product(set, &stored, &input);
                }
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
        for ty in QUANTIZED {
            for byte in [0x00, 0x7f, 0x80, 0xff] {
                let mut data = Vec::new();
                for _ in 0..16 * 512 / ty.block_len() {
                    let start = data.len();
                    data.extend(std::iter::repeat_n(byte, ty.block_bytes()));
                    for &offset in half_offsets(ty) {
                        let one = f16::ONE.to_le_bytes();
                        data[start + offset..start + offset + 2].copy_from_slice(&one);
                    }
                }
                let stored = Stored {
                    ty,
                    shape: [512, 16],
                    data,
                };
                for rows in [1, 9] {
                    for sign in [1.0, -1.0] {
                        check_product(set, &stored, &vec![127.0 * sign; rows * 512]);
                    }
                }
            }
        }
    }
}

#[test]
fn hostile_input_gives_no_panic() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for ty in TensorType::ALL {
        let matrix = Stored::random(ty, 16, 256, &mut rng).packed();
        for value in [
            f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MAX,
            f32::MIN_POSITIVE / 2.0,
        ] {
            for set in InstructionSet::available() {
                for rows in [1, 10] {
                    let mut input = vec![value; rows * 256];
                    assert_eq!(multiply(set, &input, &matrix).len(), rows * 16);
                    // One bad value among good ones.
                    input.fill(1.0);
                    input[100] = value;
                    assert_eq!(multiply(set, &input, &matrix).len(), rows * 16);
                }
            }
        }
        for set in InstructionSet::available() {
            assert!(
                multiply(set, &[0.0; 512], &matrix)
                    .iter()
                    .all(|value| *value == 0.0)
            );
            assert!(multiply(set, &[], &matrix).is_empty());
        }
    }
}

/// One random product.
#[derive(Debug, Clone)]
struct Case {
    ty: TensorType,
    rows: usize,
    columns: usize,
    inputs: usize,
    /// Scales of weights and inputs range over this many powers of two in either direction.
    spread: i32,
    seed: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    let shape = (1usize..70, 1usize..1200, 1usize..=65);
    let ty = prop::sample::select(TensorType::ALL.to_vec());
    let spread = prop::sample::select(vec![0, 3, 14]);
    (ty, shape, spread, any::<u64>()).prop_map(|(ty, (rows, columns, inputs), spread, seed)| Case {
        ty,
        rows,
        columns: columns.next_multiple_of(if ty.block_len() > 1 { 32 } else { 1 }),
        inputs,
        spread,
        seed,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn every_instruction_set_computes_what_the_portable_one_does(case in cases()) {
        let mut rng = ChaCha8Rng::seed_from_u64(case.seed);
        let spread = case.spread;
        let power = |rng: &mut ChaCha8Rng| 2f32.powi(rng.random_range(-spread..=spread));
        let stored = Stored::with_scales(case.ty, case.rows, case.columns, &mut rng, |rng| {
            f16::from_f32(rng.random_range(-1.9..1.9) * power(rng))
        });
        let columns = stored.columns();
        let input: Vec<f32> = (0..case.inputs * columns)
            .map(|_| {
                let value = rng.random_range(-1.0..1.0) * power(&mut rng);
                if rng.random_range(0..20) == 0 { 0.0 } else { value }
            })
            .collect();
        let matrix = stored.packed();
        let expected = multiply(InstructionSet::Portable, &input, &matrix);
        let magnitudes = exact_product(&input, &stored.floats(), columns);
        for set in InstructionSet::available() {
            let product = multiply(set, &input, &matrix);
            for ((got, want), (exact, magnitude)) in
                product.iter().zip(&expected).zip(&magnitudes)
            {
                // Integers are equal; only additions of floats may come in another order. Codes
                // and minimums may cancel, so terms can be larger than what they add up to.
                let tight = f64::from((got - want).abs()) <= magnitude * 2e-5 + 1e-6;
                prop_assert!(tight, "{case:?} {set:?}: {got} against {want}");
                // The inputs' own rounding: half a step in 127 of a group's largest.
                let close = (f64::from(*got) - exact).abs();
                prop_assert!(
                    spread > 0 || close <= magnitude * 0.05 + 0.5,
                    "{case:?} {set:?}: {got} against {exact}"
                );
            }
        }
    }
}

#[test]
fn several_matrices_share_inputs_and_output_between_threads() {
    let mut rng = ChaCha8Rng::seed_from_u64(10);
    let mut inputs = Inputs::default();
    // Fewer rows after more: buffers are reused with what is in them.
    for rows in [11, 3, 12] {
        let matrices = [
            TensorType::Q4K,
            TensorType::Q6K,
            TensorType::F16,
            TensorType::Q4_1,
        ]
        .map(|ty| Stored::random(ty, 40, 512, &mut rng).packed());
        let values = exact_input(rows, 512, &mut rng);
        for set in InstructionSet::available() {
            let width = 40 * matrices.len();
            let mut results = vec![0.0; rows * width];
            inputs.prepare(rows, &matrices.each_ref());
            let shared = &inputs;
            std::thread::scope(|scope| {
                for half in 0..2 {
                    let columns = half * 256..(half + 1) * 256;
                    let values = &values;
                    scope.spawn(move || {
                        for row in 0..rows {
                            let values = &values[row * 512..][columns.clone()];
                            // SAFETY: the set is available, and each thread fills columns of its
                            // own.
                            unsafe { shared.fill(set, row, columns.start, values) };
                        }
                    });
                }
            });
            let output = SharedMatrix::new(&mut results, rows, width);
            std::thread::scope(|scope| {
                for tile in 0..3 {
                    let matrices = &matrices;
                    scope.spawn(move || {
                        for (index, matrix) in matrices.iter().enumerate() {
                            let output = output.columns(index * 40, 40);
                            // SAFETY: inputs are complete; each thread has tiles of its own.
                            unsafe { run_tiles(set, matrix, shared, tile..tile + 1, output) };
                        }
                    });
                }
            });
            for (index, matrix) in matrices.iter().enumerate() {
                let alone = multiply(set, &values, matrix);
                for row in 0..rows {
                    let part = &results[row * width + index * 40..][..40];
                    assert_eq!(part, &alone[row * 40..(row + 1) * 40], "{set:?} {index}");
                }
            }
        }
    }
}
