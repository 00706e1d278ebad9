//! Measures the CPU's matrix products by themselves, per type and instruction set.
//!
//! Usage: kernels [--threads N] [--rounds N] [--megabytes N] [--shape ROWSxCOLUMNS]
//!                [--types Q4_0,Q6_K] [--sets avx2,avx512-vnni] [--inputs 1,8,32,512]
//!
//! Prints a line per type and set: for one input row the gigabytes of weights read per second,
//! beside what plain reading of as much memory reaches between the rounds; for more rows the
//! billions of multiply-accumulates per second. All are medians. One input row meets a matrix of
//! the given size, which should not fit in a cache; more rows meet one of the given shape.
//! With one thread on Linux, time is what the thread spent on a core, so that other programs on the
//! machine disturb less; otherwise it is the clock's.

use std::{io::Write, sync::Arc, time::Instant};

use aither_inference::{
    Result,
    gguf::{TensorType, TensorView},
    ops::{
        cpu::{
            Inputs, InstructionSet, multiply_into,
            pool::{self, Pool},
        },
        packed::{PackedMatrix, RowOrder},
    },
};
use half::f16;

/// Columns of the large matrix.
const LARGE_COLUMNS: usize = 4096;

/// Multiply-accumulates of one timed run: tens of milliseconds' worth.
const WORK: usize = 1 << 33;

/// Passes over the large matrix in one timed run.
const PASSES: u32 = 4;

struct Options {
    threads: usize,
    rounds: usize,
    megabytes: usize,
    shape: [usize; 2],
    types: Vec<TensorType>,
    sets: Vec<InstructionSet>,
    inputs: Vec<usize>,
}

fn main() -> std::process::ExitCode {
    let Some(options) = parse(std::env::args().skip(1)) else {
        let _ = writeln!(
            std::io::stderr(),
            "see the head of this example for its usage"
        );
        return std::process::ExitCode::from(2);
    };
    let pool = Pool::new(options.threads).map(Arc::new);
    let result = pool.map_err(|error| error.to_string()).and_then(|pool| {
        pool.install(|| run(&options))
            .map_err(|error| format!("{error:?}"))
    });
    if let Err(error) = result {
        let _ = writeln!(std::io::stderr(), "error: {error}");
        return std::process::ExitCode::FAILURE;
    }
    std::process::ExitCode::SUCCESS
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Options> {
    let mut options = Options {
        threads: 1,
        rounds: 7,
        megabytes: 256,
        shape: [1536, 1536],
        types: TensorType::ALL.to_vec(),
        sets: InstructionSet::available().split_off(1),
        inputs: vec![1, 8, 32, 512],
    };
    while let Some(name) = arguments.next() {
        let value = arguments.next()?;
        let parts = value.split(',');
        match name.as_str() {
            "--threads" => options.threads = value.parse().ok()?,
            "--rounds" => options.rounds = value.parse().ok()?,
            "--megabytes" => options.megabytes = value.parse().ok()?,
            "--shape" => {
                let (rows, columns) = value.split_once('x')?;
                options.shape = [rows.parse().ok()?, columns.parse().ok()?];
            }
            "--types" => options.types = parts.map(type_named).collect::<Option<_>>()?,
            "--sets" => {
                options.sets = parts
                    .map(InstructionSet::available_by_name)
                    .collect::<Option<_>>()?
            }
            "--inputs" => {
                options.inputs = parts.map(|n| n.parse().ok()).collect::<Option<_>>()?;
            }
            _ => return None,
        }
    }
    Some(options)
}

fn type_named(name: &str) -> Option<TensorType> {
    TensorType::ALL.into_iter().find(|ty| ty.name() == name)
}

fn run(options: &Options) -> Result<()> {
    let mut out = std::io::stdout();
    for &ty in &options.types {
        let [rows, columns] = options.shape;
        let matrix = matrix(ty, rows, columns)?;
        let reference = vec![1u64; options.megabytes << 17];
        let large_rows = (options.megabytes << 20) / (row_bytes(ty, LARGE_COLUMNS)).max(1);
        let large = options
            .inputs
            .contains(&1)
            .then(|| self::matrix(ty, large_rows, LARGE_COLUMNS));
        let large = large.transpose()?;
        for &set in &options.sets {
            let _ = write!(out, "{:5} {:12}", ty.name(), set.name());
            for &inputs in &options.inputs {
                match &large {
                    Some(large) if inputs == 1 => {
                        let (own, plain) = bandwidth(set, large, &reference, options.rounds);
                        let _ = write!(out, "  1: {own:5.1} of {plain:5.1} GB/s");
                    }
                    _ => {
                        let speed = throughput(set, &matrix, inputs, options.rounds);
                        let _ = write!(out, "  {inputs}: {speed:6.1} GMAC/s");
                    }
                }
            }
            let _ = writeln!(out);
            let _ = out.flush();
        }
    }
    Ok(())
}

/// A matrix of arbitrary codes and moderate scales.
fn matrix(ty: TensorType, rows: usize, columns: usize) -> Result<PackedMatrix> {
    let mut state = 1u32;
    let row: Vec<u8> = (0..row_bytes(ty, columns))
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    let mut data = row.repeat(rows);
    let half = f16::from_f32(0.01).to_le_bytes();
    for block in data.chunks_exact_mut(ty.block_bytes()) {
        for &offset in half_offsets(ty) {
            block[offset..offset + 2].copy_from_slice(&half);
        }
    }
    let shape = [columns as u64, rows as u64];
    let tensor = TensorView::new("weights", &shape, ty, &data);
    PackedMatrix::from_gguf(&tensor, RowOrder::AsStored)
}

fn row_bytes(ty: TensorType, columns: usize) -> usize {
    columns / ty.block_len() * ty.block_bytes()
}

/// Where a block has 16-bit floats; for floats, whatever random bits they are.
fn half_offsets(ty: TensorType) -> &'static [usize] {
    match ty {
        TensorType::Q4_0 | TensorType::Q5_0 | TensorType::Q8_0 | TensorType::F16 => &[0],
        TensorType::Q4_1 | TensorType::Q5_1 | TensorType::Q4K | TensorType::Q5K => &[0, 2],
        TensorType::Q2K => &[80, 82],
        TensorType::Q3K => &[108],
        TensorType::Q6K => &[208],
        TensorType::BF16 => &[0],
        TensorType::F32 => &[0, 2],
    }
}

/// One product, whose memory is taken before the time is.
struct Product<'a> {
    set: InstructionSet,
    input: &'a [f32],
    matrix: &'a PackedMatrix,
    inputs: Inputs,
    results: Vec<f32>,
}

impl<'a> Product<'a> {
    fn new(set: InstructionSet, input: &'a [f32], matrix: &'a PackedMatrix) -> Self {
        let results = vec![0.0; input.len() / matrix.columns() * matrix.rows()];
        let mut product = Self {
            set,
            input,
            matrix,
            inputs: Inputs::default(),
            results,
        };
        product.run();
        product
    }

    fn run(&mut self) {
        let (inputs, results) = (&mut self.inputs, &mut self.results);
        multiply_into(self.set, self.input, self.matrix, inputs, results);
        std::hint::black_box(results);
    }
}

/// Gigabytes per second of one input row, and of plain reading.
fn bandwidth(
    set: InstructionSet,
    matrix: &PackedMatrix,
    reference: &[u64],
    rounds: usize,
) -> (f64, f64) {
    let input = input(1, matrix.columns());
    let mut product = Product::new(set, &input, matrix);
    let (mut own, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let seconds = seconds(|| (0..PASSES).for_each(|_| product.run()));
        own.push(matrix.size_bytes() as f64 * f64::from(PASSES) / seconds / 1e9);
        let seconds = self::seconds(|| (0..PASSES).for_each(|_| read(reference)));
        plain.push(size_of_val(reference) as f64 * f64::from(PASSES) / seconds / 1e9);
    }
    (median(own), median(plain))
}

/// Reads everything once, with all threads.
fn read(values: &[u64]) {
    let parts: Vec<_> = values.chunks(1 << 20).collect();
    pool::for_each(parts.len(), |part| {
        let mut sums = [0u64; 16];
        for values in parts[part].chunks_exact(16) {
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum ^= value;
            }
        }
        std::hint::black_box(sums);
    });
}

/// Billions of multiply-accumulates per second.
fn throughput(set: InstructionSet, matrix: &PackedMatrix, rows: usize, rounds: usize) -> f64 {
    let input = input(rows, matrix.columns());
    let work = rows * matrix.rows() * matrix.columns();
    let repeats = (WORK / work).max(1);
    let mut product = Product::new(set, &input, matrix);
    let mut speeds = Vec::new();
    for _ in 0..rounds {
        let seconds = seconds(|| {
            for _ in 0..repeats {
                product.run();
            }
        });
        speeds.push((work * repeats) as f64 / seconds / 1e9);
    }
    median(speeds)
}

/// How long some work takes.
fn seconds(work: impl FnOnce()) -> f64 {
    let (cpu, started) = (on_core(), Instant::now());
    work();
    match (cpu, on_core()) {
        (Some(before), Some(after)) if after > before => after - before,
        _ => started.elapsed().as_secs_f64(),
    }
}

/// Seconds that this thread has run, if it works alone and the system tells.
fn on_core() -> Option<f64> {
    if pool::current().threads() > 1 {
        return None;
    }
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds: f64 = text.split(' ').next()?.parse().ok()?;
    Some(nanoseconds / 1e9)
}

fn input(rows: usize, columns: usize) -> Vec<f32> {
    (0..rows * columns)
        .map(|index| (index % 255) as f32 / 127.0 - 1.0)
        .collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
