//! The operations' bodies against each other; kernels by themselves below.

mod block;
mod encoder;
mod kernels;
mod packing;
mod stored;

use burn::tensor::{Device, Tensor, TensorData};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use self::stored::{Stored, exact_input, exact_product};
use super::{Weight, linear, linear_by_burn_ops};
use crate::gguf::TensorType;

#[test]
fn the_flex_body_agrees_with_the_default_body() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let device = Device::flex();
    for ty in TensorType::ALL {
        for rows in [3, 20] {
            let stored = Stored::random(ty, 48, 256, &mut rng);
            let weight = Weight::Packed(std::sync::Arc::new(stored.packed()));
            let values = exact_input(rows, 256, &mut rng);
            let magnitude = exact_product(&values, &stored.floats(), 256);
            let input = Tensor::<2>::from_data(TensorData::new(values, [rows, 256]), &device);
            let fast = linear(input.clone(), weight.clone());
            let input = input.into_dispatch();
            let plain = linear_by_burn_ops::<burn::backend::Dispatch>(input, weight);
            let plain = Tensor::<2>::from_dispatch(plain);
            let [fast, plain] = [fast, plain].map(|t| t.into_data().try_to_vec::<f32>().unwrap());
            for ((fast, plain), (_, magnitude)) in fast.iter().zip(plain).zip(magnitude) {
                let relative = if stored.rounds_sums() { 1e-3 } else { 1e-5 };
                let tolerance = magnitude as f32 * relative + 1e-6;
                assert!(
                    (fast - plain).abs() <= tolerance,
                    "{ty:?}: {fast} against {plain}"
                );
            }
        }
    }
}
