//! The GPU path against the CPU: the same file, the same ids, the same logits.
//!
//! Built with a GPU feature only; `scripts/test-gpu.sh` sets the machine up and runs it, on a
//! real GPU or on a software one. `AITHER_TEST_MODEL` names the real model.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(feature = "gpu")]

use std::path::PathBuf;

use aither_inference::{backend::Backend, engine::BackendChoice, gguf::Gguf, model::Model};

/// Ids of "The capital of France is" in SmolLM2's vocabulary.
const PROMPT: [u32; 5] = [504, 3575, 282, 4649, 314];

/// Generated tokens: enough to grow the cache step by step.
const GENERATED: usize = 16;

fn model_path() -> PathBuf {
    let path = std::env::var_os("AITHER_TEST_MODEL");
    path.expect("set AITHER_TEST_MODEL to SmolLM2-135M-Instruct.Q4_1.gguf")
        .into()
}

fn load(choice: BackendChoice) -> Model {
    let backend = Backend::choose(choice, 0).unwrap();
    Model::load(&Gguf::open(&model_path()).unwrap(), &backend).unwrap()
}

fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = logits.iter().map(|logit| (logit - max).exp()).sum();
    logits.iter().map(|logit| logit - max - sum.ln()).collect()
}

fn best(logits: &[f32]) -> u32 {
    let ids = 0..logits.len();
    ids.max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
        .unwrap() as u32
}

#[test]
fn a_generation_on_the_gpu_follows_the_cpu() {
    let (cpu, gpu) = (load(BackendChoice::Cpu), load(BackendChoice::Gpu));
    let (mut cpu_cache, mut gpu_cache) = (cpu.new_cache(), gpu.new_cache());
    let mut ids = PROMPT.to_vec();
    let mut text = Vec::new();
    for step in 0..GENERATED {
        let on_cpu = log_softmax(&cpu.forward(&ids, &mut cpu_cache).unwrap());
        let on_gpu = log_softmax(&gpu.forward(&ids, &mut gpu_cache).unwrap());
        let next = best(&on_gpu);
        // The CPU quantizes activations to 8 bits, the GPU computes in floats: the likeliest
        // candidates may differ by what separates near-ties, 0.3 in log-softmax.
        let gap = on_cpu[best(&on_cpu) as usize] - on_cpu[next as usize];
        assert!(
            gap < 0.3,
            "step {step}: the GPU chose {next}, {gap} below the CPU's choice"
        );
        let mean = on_cpu
            .iter()
            .zip(&on_gpu)
            .map(|(a, b)| (a - b).abs())
            .sum::<f32>()
            / on_cpu.len() as f32;
        assert!(
            mean < 0.5,
            "step {step}: log-softmax differs by {mean} on average"
        );
        println!("step {step}: id {next}, gap {gap:.4}, mean difference {mean:.4}");
        text.push(next);
        ids = vec![next];
    }
    assert_eq!(text.len(), GENERATED);
}
