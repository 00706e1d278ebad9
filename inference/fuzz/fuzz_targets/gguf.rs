//! Feeds the GGUF reader with arbitrary bytes.
//!
//! A file may be refused; it must not panic, hang or allocate beyond a multiple of its size (run
//! with `-rss_limit_mb`). Of an accepted one, every tensor must lie within the file and decode.

#![no_main]

use libfuzzer_sys::fuzz_target;
use reader::{dequantize::dequantize, gguf::Gguf};

/// Numbers decoded per tensor: enough to reach every kind of block, little enough to be quick.
const DECODED_MAX: usize = 1 << 16;

fuzz_target!(|bytes: &[u8]| {
    let Ok(header) = Gguf::parse(bytes) else {
        return;
    };
    let _ = header.info();
    for info in header.tensors() {
        let data = &bytes[info.start..info.end];
        let len = data.len() / info.ty.block_bytes() * info.ty.block_len();
        assert_eq!(len as u64, info.elements);
        if len <= DECODED_MAX {
            let mut out = vec![0.0; len];
            dequantize(info.ty, data, &mut out).expect("the lengths agree");
        }
    }
});
