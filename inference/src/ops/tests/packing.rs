//! Nothing is lost in packing, and next to nothing added.

#[cfg(target_os = "linux")]
use std::{io::Write, path::Path};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::stored::Stored;
use crate::{
    gguf::TensorType,
    ops::packed::{PackedMatrix, RowOrder},
};

#[test]
fn packing_keeps_every_weight() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for ty in TensorType::ALL {
        let stored = Stored::random(ty, 37, 512, &mut rng);
        let unpacked = stored.packed().to_tensor_data();
        let unpacked = unpacked.try_to_vec::<f32>().unwrap();
        for (index, (got, want)) in unpacked.iter().zip(stored.floats()).enumerate() {
            // Sums of two products are rounded in another order for some types.
            let close = (got - want).abs() <= want.abs().max(1e-2) * 1e-6;
            assert!(close, "{ty:?}: weight {index} is {got}, not {want}");
        }
    }
}

#[test]
fn a_matrix_takes_little_more_memory_than_in_the_file() {
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    for ty in TensorType::ALL {
        let limit = match ty {
            // Their codes of 2 and 3 bits take 4 and 6.
            TensorType::Q2K | TensorType::Q3K => 2.0,
            _ => 1.1,
        };
        let stored = Stored::random(ty, 64, 512, &mut rng);
        let ratio = stored.packed().size_bytes() as f64 / stored.data.len() as f64;
        assert!(ratio <= limit, "{ty:?} takes {ratio} of its size");
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
    let empty = Stored {
        ty: TensorType::F32,
        shape: [0, 16],
        data: Vec::new(),
    };
    assert!(pack(&empty).is_err());
}

#[test]
#[cfg(target_os = "linux")]
fn a_matrix_and_its_file_are_not_in_memory_together() {
    let (columns, rows) = (1024_u64, 8192_u64);
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3_u32.to_le_bytes());
    let (tensors, metadata, name_len) = (1_u64, 0_u64, 1_u64);
    bytes.extend(
        [tensors, metadata, name_len]
            .map(u64::to_le_bytes)
            .as_flattened(),
    );
    bytes.push(b't');
    bytes.extend(2_u32.to_le_bytes());
    bytes.extend([columns, rows].map(u64::to_le_bytes).as_flattened());
    let f32_and_offset = [0; 12];
    bytes.extend(f32_and_offset);
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&bytes).unwrap();
    let size_bytes = columns * rows * 4;
    file.as_file()
        .set_len(bytes.len() as u64 + size_bytes)
        .unwrap();

    let gguf = crate::gguf::Gguf::open(file.path()).unwrap();
    let tensor = gguf.tensor("t").unwrap();
    std::hint::black_box(tensor.data.iter().fold(0, |sum: u8, byte| sum ^ byte));
    assert!(mapped_bytes(file.path()) >= size_bytes);
    let packed = PackedMatrix::from_gguf(&tensor, RowOrder::AsStored).unwrap();
    assert!(mapped_bytes(file.path()) < size_bytes / 100);
    let row = &mut [1.0; 1024];
    packed.dequantize_row(8191, row);
    assert_eq!(row, &[0.0; 1024]);
}

/// How much of a mapped file is in this process's memory.
#[cfg(target_os = "linux")]
fn mapped_bytes(path: &Path) -> u64 {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let of_file = maps.split_once(path.to_str().unwrap()).unwrap().1;
    let resident = of_file
        .lines()
        .find(|line| line.starts_with("Rss:"))
        .unwrap();
    let kibibytes: u64 = resident.split_whitespace().nth(1).unwrap().parse().unwrap();
    kibibytes << 10
}
