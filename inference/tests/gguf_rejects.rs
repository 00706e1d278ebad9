//! Forged, truncated and odd GGUF files: each cap of the reader and each malformed shape.
//!
//! Files are built in memory by [`Forge`], which starts well-formed and is bent in one place per
//! test. At the end: every truncation of a file, and random mutations of one with every type of
//! value; both must answer, never panic, and whatever is accepted must lie within the file.

use aither_inference::{
    Error,
    dequantize::dequantize,
    gguf::{Gguf, Header, limits},
};
use proptest::{
    prelude::*,
    sample::Index,
    test_runner::{Config, RngSeed},
};

/// A GGUF file in the making.
#[derive(Clone)]
struct Forge {
    magic: [u8; 4],
    version: u32,
    metadata_count: Option<u64>,
    metadata: Vec<Vec<u8>>,
    tensor_count: Option<u64>,
    tensors: Vec<Tensor>,
    alignment: usize,
    data_bytes: usize,
}

#[derive(Clone)]
struct Tensor {
    name: Vec<u8>,
    dimension_count: Option<u32>,
    shape: Vec<u64>,
    type_id: u32,
    offset: u64,
}

const STRING: u32 = 8;
const ARRAY: u32 = 9;

fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

fn entry(key: &str, type_id: u32, value: &[u8]) -> Vec<u8> {
    [&string(key.as_bytes()), &type_id.to_le_bytes()[..], value].concat()
}

fn array(key: &str, element_type: u32, len: u64, elements: &[u8]) -> Vec<u8> {
    let head = [&element_type.to_le_bytes()[..], &len.to_le_bytes()].concat();
    entry(key, ARRAY, &[&head, elements].concat())
}

fn tensor(name: &str, shape: &[u64], type_id: u32, offset: u64) -> Tensor {
    Tensor {
        name: name.into(),
        dimension_count: None,
        shape: shape.to_vec(),
        type_id,
        offset,
    }
}

impl Forge {
    /// A well-formed file: two keys, an F32 and a Q4_0 tensor.
    fn new() -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            metadata_count: None,
            metadata: vec![
                entry("general.architecture", STRING, &string(b"llama")),
                entry("llama.block_count", 4, &2_u32.to_le_bytes()),
            ],
            tensor_count: None,
            tensors: vec![tensor("a", &[4, 2], 0, 0), tensor("b", &[32, 2], 2, 32)],
            alignment: 32,
            data_bytes: 32 + 36,
        }
    }

    fn with(entries: &[Vec<u8>]) -> Self {
        let mut forge = Self::new();
        forge.metadata.extend_from_slice(entries);
        forge
    }

    fn with_tensor(tensor: Tensor) -> Self {
        let mut forge = Self::new();
        forge.tensors = vec![tensor];
        forge
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.magic.to_vec();
        bytes.extend(self.version.to_le_bytes());
        let tensor_count = self.tensor_count.unwrap_or(self.tensors.len() as u64);
        bytes.extend(tensor_count.to_le_bytes());
        let metadata_count = self.metadata_count.unwrap_or(self.metadata.len() as u64);
        bytes.extend(metadata_count.to_le_bytes());
        bytes.extend(self.metadata.concat());
        for tensor in &self.tensors {
            bytes.extend(string(&tensor.name));
            let count = tensor.dimension_count.unwrap_or(tensor.shape.len() as u32);
            bytes.extend(count.to_le_bytes());
            bytes.extend(tensor.shape.iter().flat_map(|len| len.to_le_bytes()));
            bytes.extend(tensor.type_id.to_le_bytes());
            bytes.extend(tensor.offset.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
        bytes.resize(bytes.len() + self.data_bytes, 0x5A);
        bytes
    }

    fn parse(&self) -> Result<Header, Error> {
        Gguf::parse(&self.bytes())
    }

    /// Asserts that the file is refused as malformed, in words that contain `words`.
    #[track_caller]
    fn is_invalid(&self, words: &str) {
        match self.parse() {
            Err(Error::InvalidGguf { message }) => {
                assert!(
                    message.contains(words),
                    "{message:?} does not say {words:?}"
                );
            }
            other => panic!("expected a refusal that says {words:?}, got {other:?}"),
        }
    }

    /// Asserts that the file is refused as unsupported, in words that contain `words`.
    #[track_caller]
    fn is_unsupported(&self, words: &str) {
        match self.parse() {
            Err(Error::UnsupportedModel { message }) => {
                assert!(
                    message.contains(words),
                    "{message:?} does not say {words:?}"
                );
            }
            other => panic!("expected a refusal that says {words:?}, got {other:?}"),
        }
    }
}

#[test]
fn accepts_the_file_that_the_others_bend() {
    for version in [2, 3] {
        let mut forge = Forge::new();
        forge.version = version;
        let header = forge.parse().unwrap();
        assert_eq!(header.version(), version);
        assert_eq!(header.tensors().len(), 2);
        let second = header.tensor("b").unwrap();
        assert_eq!((second.elements, second.end - second.start), (64, 36));
    }
}

#[test]
fn rejects_an_empty_file() {
    assert!(matches!(Gguf::parse(&[]), Err(Error::InvalidGguf { .. })));
}

#[test]
fn rejects_another_magic() {
    let mut forge = Forge::new();
    forge.magic = *b"GGML";
    forge.is_invalid("does not begin with GGUF");
}

#[test]
fn rejects_version_1() {
    let mut forge = Forge::new();
    forge.version = 1;
    forge.is_unsupported("version 1; convert");
}

#[test]
fn rejects_a_later_version() {
    let mut forge = Forge::new();
    forge.version = 4;
    forge.is_unsupported("version 4; versions 2 and 3");
}

#[test]
fn rejects_big_endian() {
    let mut forge = Forge::new();
    forge.version = 3_u32.swap_bytes();
    forge.is_unsupported("big-endian");
}

#[test]
fn rejects_a_split_file() {
    Forge::with(&[entry("split.count", 2, &3_u16.to_le_bytes())]).is_unsupported("3 files");
    assert!(
        Forge::with(&[entry("split.count", 2, &1_u16.to_le_bytes())])
            .parse()
            .is_ok()
    );
}

#[test]
fn rejects_too_many_metadata_entries() {
    let mut forge = Forge::new();
    forge.metadata_count = Some(limits::METADATA_COUNT_MAX + 1);
    forge.is_invalid("the metadata count is 4097, at most 4096");
}

#[test]
fn rejects_a_metadata_count_without_room() {
    let mut forge = Forge::new();
    forge.metadata_count = Some(limits::METADATA_COUNT_MAX);
    forge.is_invalid("room for");
}

#[test]
fn rejects_too_many_tensors() {
    let mut forge = Forge::new();
    forge.tensor_count = Some(limits::TENSOR_COUNT_MAX + 1);
    forge.is_invalid("the tensor count is 65537, at most 65536");
    forge.tensor_count = Some(u64::MAX);
    forge.is_invalid("at most 65536");
}

#[test]
fn rejects_a_tensor_count_without_room() {
    let mut forge = Forge::new();
    forge.tensor_count = Some(limits::TENSOR_COUNT_MAX);
    forge.is_invalid("room for");
}

#[test]
fn rejects_a_header_past_its_cap() {
    let mut forge = Forge::new();
    let text = string(&vec![0; limits::STRING_BYTES_MAX as usize]);
    let count = limits::HEADER_BYTES_MAX / text.len() + 1;
    for index in 0..count {
        forge
            .metadata
            .push(entry(&format!("filler.{index}"), STRING, &text));
    }
    forge.is_invalid("the header is longer than");
}

#[test]
fn rejects_a_long_key() {
    let longest = "k".repeat(limits::KEY_BYTES_MAX as usize);
    let forge = |key: &str| Forge::with(&[entry(key, 0, &[1])]);
    assert!(forge(&longest).parse().is_ok());
    forge(&(longest + "k")).is_invalid("has 257 bytes, at most 256");
}

#[test]
fn rejects_an_empty_key() {
    Forge::with(&[entry("", 0, &[1])]).is_invalid("is empty");
}

#[test]
fn rejects_a_key_that_is_not_utf8() {
    let raw = [&string(b"\xFF\xFE")[..], &0_u32.to_le_bytes(), &[1]].concat();
    Forge::with(&[raw]).is_invalid("is not UTF-8");
}

#[test]
fn rejects_a_duplicate_key() {
    let twice = entry("llama.block_count", 4, &2_u32.to_le_bytes());
    Forge::with(&[twice]).is_invalid("\"llama.block_count\" appears twice");
}

#[test]
fn rejects_a_long_string() {
    for len in [limits::STRING_BYTES_MAX + 1, u64::MAX] {
        Forge::with(&[entry("s", STRING, &len.to_le_bytes())]).is_invalid("bytes, at most");
    }
}

#[test]
fn rejects_a_string_past_end_of_file() {
    let len = limits::STRING_BYTES_MAX.to_le_bytes();
    Forge::with(&[entry("s", STRING, &len)]).is_invalid("truncated");
}

#[test]
fn rejects_a_string_that_is_not_utf8() {
    let text = string(b"ab\xC3");
    Forge::with(&[entry("s", STRING, &text)]).is_invalid("is not UTF-8");
    Forge::with(&[array("s", STRING, 1, &text)]).is_invalid("is not UTF-8");
}

#[test]
fn rejects_an_unknown_value_type() {
    Forge::with(&[entry("x", 13, &[0; 8])]).is_invalid("\"x\" has the unknown value type 13");
    Forge::with(&[array("x", 99, 1, &[0; 8])]).is_invalid("\"x\" has the unknown value type 99");
}

#[test]
fn rejects_a_boolean_that_is_neither() {
    Forge::with(&[entry("x", 7, &[2])]).is_invalid("\"x\" is a boolean of value 2");
    Forge::with(&[array("x", 7, 2, &[1, 255])]).is_invalid("\"x\" is a boolean of value 255");
}

#[test]
fn rejects_a_long_array() {
    for element_type in [0, 4, 7, STRING, 12] {
        for len in [limits::ARRAY_LEN_MAX + 1, u64::MAX] {
            Forge::with(&[array("x", element_type, len, &[])]).is_invalid("at most 4194304");
        }
    }
}

#[test]
fn rejects_an_array_past_end_of_file() {
    for element_type in [0, 4, 7, STRING, 12] {
        let forge = Forge::with(&[array("x", element_type, limits::ARRAY_LEN_MAX, &[])]);
        forge.is_invalid("room for");
    }
}

#[test]
fn rejects_a_nested_array() {
    let inner = [&0_u32.to_le_bytes()[..], &1_u64.to_le_bytes(), &[7]].concat();
    Forge::with(&[array("x", ARRAY, 1, &inner)]).is_invalid("\"x\" nests arrays");
}

#[test]
fn rejects_a_long_tensor_name() {
    let longest = "n".repeat(limits::TENSOR_NAME_BYTES_MAX as usize);
    let forge = |name: &str| Forge::with_tensor(tensor(name, &[1], 0, 0));
    assert!(forge(&longest).parse().is_ok());
    forge(&(longest + "n")).is_invalid("has 65 bytes, at most 64");
}

#[test]
fn rejects_an_empty_tensor_name() {
    Forge::with_tensor(tensor("", &[1], 0, 0)).is_invalid("is empty");
}

#[test]
fn rejects_a_tensor_name_that_is_not_utf8() {
    let mut forged = tensor("x", &[1], 0, 0);
    forged.name = vec![0xC0, 0x80];
    Forge::with_tensor(forged).is_invalid("is not UTF-8");
}

#[test]
fn rejects_a_duplicate_tensor() {
    let mut forge = Forge::new();
    forge.tensors[1].name = b"a".to_vec();
    forge.is_invalid("tensor \"a\" appears twice");
}

#[test]
fn rejects_no_dimensions_and_more_than_four() {
    assert!(
        Forge::with_tensor(tensor("x", &[1, 1, 1, 1], 0, 0))
            .parse()
            .is_ok()
    );
    Forge::with_tensor(tensor("x", &[1; 5], 0, 0)).is_invalid("5 dimensions, must be 1 to 4");
    Forge::with_tensor(tensor("x", &[], 0, 0)).is_invalid("0 dimensions");
    let mut forged = tensor("x", &[1], 0, 0);
    forged.dimension_count = Some(u32::MAX);
    Forge::with_tensor(forged).is_invalid("4294967295 dimensions");
}

#[test]
fn rejects_a_dimension_of_length_0() {
    Forge::with_tensor(tensor("x", &[4, 0], 0, 0)).is_invalid("dimension of length 0");
}

#[test]
fn rejects_elements_that_overflow() {
    Forge::with_tensor(tensor("x", &[1 << 32, 1 << 32], 0, 0)).is_invalid("size overflows");
}

#[test]
fn rejects_bytes_that_overflow() {
    Forge::with_tensor(tensor("x", &[1 << 63], 0, 0)).is_invalid("size overflows");
}

#[test]
fn rejects_an_offset_that_overflows() {
    Forge::with_tensor(tensor("x", &[1], 0, u64::MAX - 31)).is_invalid("size overflows");
}

#[test]
fn rejects_tensor_past_end_of_file() {
    let mut forge = Forge::new();
    forge.data_bytes -= 1;
    forge.is_invalid("tensor \"b\" ends at byte");
    Forge::with_tensor(tensor("x", &[1], 0, 1 << 40)).is_invalid("truncated");
}

#[test]
fn rejects_rows_of_broken_blocks() {
    Forge::with_tensor(tensor("x", &[33], 2, 0)).is_invalid("no whole blocks of Q4_0");
    // The product would divide; the rows do not.
    Forge::with_tensor(tensor("x", &[16, 2], 2, 0)).is_invalid("no whole blocks of Q4_0");
    Forge::with_tensor(tensor("x", &[128, 2], 12, 0)).is_invalid("no whole blocks of Q4_K");
}

#[test]
fn rejects_a_misaligned_offset() {
    Forge::with_tensor(tensor("x", &[1], 0, 16)).is_invalid("no multiple of the alignment 32");
}

#[test]
fn rejects_an_unsupported_tensor_type_by_name() {
    for (type_id, name) in [(23, "IQ4_XS"), (28, "F64"), (39, "MXFP4"), (4, "Q4_2")] {
        Forge::with_tensor(tensor("x", &[256], type_id, 0))
            .is_unsupported(&format!("tensor \"x\" has the type {name};"));
    }
    Forge::with_tensor(tensor("x", &[256], 1 << 31, 0)).is_unsupported("the type 2147483648;");
}

#[test]
fn rejects_an_alignment_out_of_bounds() {
    let key = "general.alignment";
    for alignment in [0, 1, 4, 24, 33, limits::ALIGNMENT_MAX * 2, u32::MAX] {
        Forge::with(&[entry(key, 4, &alignment.to_le_bytes())]).is_invalid("a power of two");
    }
    Forge::with(&[entry(key, STRING, &string(b"32"))]).is_invalid("must be an integer");
    for alignment in [limits::ALIGNMENT_MIN, limits::ALIGNMENT_MAX] {
        let mut forge = Forge::with(&[entry(key, 4, &alignment.to_le_bytes())]);
        forge.alignment = alignment as usize;
        forge.tensors[1].offset = u64::from(alignment).max(32);
        forge.data_bytes = forge.tensors[1].offset as usize + 36;
        let header = forge.parse().unwrap();
        assert_eq!(header.tensors()[0].start % alignment as usize, 0);
    }
}

#[test]
fn accepts_tensors_that_overlap() {
    let mut forge = Forge::new();
    forge.tensors[1].offset = 0;
    assert!(forge.parse().is_ok());
}

#[test]
fn rejects_a_value_of_another_type_naming_the_key() {
    let forge = Forge::with(&[
        entry("text", STRING, &string(b"x")),
        entry("negative", 5, &(-1_i32).to_le_bytes()),
        entry("large", 10, &(1_u64 << 32).to_le_bytes()),
        entry("nan", 6, &f32::NAN.to_le_bytes()),
        entry("huge", 12, &1e300_f64.to_le_bytes()),
        array("signed", 5, 1, &(-1_i32).to_le_bytes()),
    ]);
    let header = forge.parse().unwrap();
    let metadata = header.metadata();
    let refused = [
        ("text", metadata.u32("text").err()),
        ("text", metadata.strings("text").err()),
        ("text", metadata.bool("text").err()),
        ("negative", metadata.u32("negative").err()),
        ("negative", metadata.u64("negative").err()),
        ("negative", metadata.str("negative").err()),
        ("large", metadata.u32("large").err()),
        ("nan", metadata.f32("nan").err()),
        ("huge", metadata.f32("huge").err()),
        ("signed", metadata.u32s("signed").err()),
        ("signed", metadata.f32s("signed").err()),
        ("absent", metadata.required_str("absent").err()),
        ("absent", metadata.required_i32s("absent").err()),
    ];
    for (key, error) in refused {
        let message = error.expect("is refused").to_string();
        assert!(message.contains(&format!("{key:?}")), "{message}");
    }
    assert_eq!(metadata.u64("absent").unwrap(), None);
    assert_eq!(metadata.u64("large").unwrap(), Some(1 << 32));
    assert_eq!(metadata.i32s("signed").unwrap(), Some(vec![-1]));
}

#[test]
fn integers_of_any_width_are_read() {
    let forge = Forge::with(&[
        entry("u8", 0, &[7]),
        entry("i8", 1, &[7]),
        entry("u16", 2, &7_u16.to_le_bytes()),
        entry("i16", 3, &7_i16.to_le_bytes()),
        entry("i32", 5, &7_i32.to_le_bytes()),
        entry("u64", 10, &7_u64.to_le_bytes()),
        entry("i64", 11, &7_i64.to_le_bytes()),
        array("bytes", 0, 2, &[7, 8]),
    ]);
    let header = forge.parse().unwrap();
    for key in ["u8", "i8", "u16", "i16", "i32", "u64", "i64"] {
        assert_eq!(header.metadata().required_u32(key).unwrap(), 7, "{key}");
    }
    assert_eq!(header.metadata().u32s("bytes").unwrap(), Some(vec![7, 8]));
}

#[test]
fn a_description_without_its_keys_is_refused() {
    let header = Forge::new().parse().unwrap();
    let message = header.info().unwrap_err().to_string();
    assert!(
        message.contains("\"llama.context_length\" is missing"),
        "{message}"
    );
}

/// A file with every type of value and several tensor types.
fn diverse() -> Forge {
    let mut forge = integers_and_arrays();
    forge.tensors = vec![
        tensor("token_embd.weight", &[32, 4], 8, 0),
        tensor("blk.0.attn_norm.weight", &[32], 0, 160),
        tensor("blk.0.ffn_up.weight", &[256, 1], 12, 288),
        tensor("output.weight", &[2, 2, 2, 2], 30, 448),
    ];
    forge.data_bytes = 512;
    forge
}

fn integers_and_arrays() -> Forge {
    let texts = [string(b"ab"), string(b""), string("é".as_bytes())].concat();
    Forge::with(&[
        entry("general.alignment", 4, &32_u32.to_le_bytes()),
        entry("llama.context_length", 10, &64_u64.to_le_bytes()),
        entry("llama.embedding_length", 3, &32_i16.to_le_bytes()),
        entry("f32", 6, &1.5_f32.to_le_bytes()),
        entry("f64", 12, &1.5_f64.to_le_bytes()),
        entry("bool", 7, &[1]),
        array("strings", STRING, 3, &texts),
        array("i32s", 5, 3, &[1; 12]),
        array("f32s", 6, 2, &[0; 8]),
        array("bools", 7, 3, &[0, 1, 0]),
        array("empty", 10, 0, &[]),
    ])
}

/// Asserts what must hold of any accepted file, and uses it as a model loader would.
fn check_accepted(header: &Header, bytes: &[u8]) {
    for info in header.tensors() {
        let data = &bytes[info.start..info.end];
        assert_eq!(header.tensor(&info.name), Some(info));
        let elements = info.elements as usize;
        let mut out = vec![0.0; elements];
        dequantize(info.ty, data, &mut out).expect("the lengths were checked");
    }
    // A description may be refused, for a key that is missing or of another type.
    let _ = header.info();
}

#[test]
fn truncation_at_every_byte_is_refused() {
    let bytes = diverse().bytes();
    let header = Gguf::parse(&bytes).unwrap();
    check_accepted(&header, &bytes);
    let used = header.tensors().iter().map(|info| info.end).max().unwrap();
    for len in 0..used {
        let refused = Gguf::parse(&bytes[..len]);
        assert!(
            matches!(refused, Err(Error::InvalidGguf { .. })),
            "{len} bytes"
        );
    }
}

#[test]
fn every_byte_may_hold_anything() {
    let bytes = diverse().bytes();
    for position in 0..bytes.len() {
        for value in [0x00, 0x01, 0x7F, 0x80, 0xFF] {
            let mut mutated = bytes.clone();
            mutated[position] = value;
            if let Ok(header) = Gguf::parse(&mutated) {
                check_accepted(&header, &mutated);
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Mutation {
    Byte(Index, u8),
    Word(Index, u64),
    Cut(Index),
    Remove(Index, usize),
    Insert(Index, Vec<u8>),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let word = prop_oneof![
        Just(u64::MAX),
        Just(1 << 63),
        Just(1 << 32),
        Just(u64::from(u32::MAX)),
        0_u64..70_000,
        any::<u64>(),
    ];
    prop_oneof![
        4 => (any::<Index>(), any::<u8>()).prop_map(|(at, value)| Mutation::Byte(at, value)),
        4 => (any::<Index>(), word).prop_map(|(at, value)| Mutation::Word(at, value)),
        1 => any::<Index>().prop_map(Mutation::Cut),
        1 => (any::<Index>(), 1_usize..64).prop_map(|(at, len)| Mutation::Remove(at, len)),
        1 => (any::<Index>(), proptest::collection::vec(any::<u8>(), 1..64))
            .prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
    ]
}

fn apply(bytes: &mut Vec<u8>, mutation: &Mutation) {
    if bytes.is_empty() {
        return;
    }
    let len = bytes.len();
    match mutation {
        Mutation::Byte(at, value) => bytes[at.index(len)] = *value,
        Mutation::Word(at, value) => {
            let start = at.index(len);
            let end = (start + 8).min(len);
            bytes[start..end].copy_from_slice(&value.to_le_bytes()[..end - start]);
        }
        Mutation::Cut(at) => bytes.truncate(at.index(len)),
        Mutation::Remove(at, count) => {
            let start = at.index(len);
            bytes.drain(start..(start + count).min(len));
        }
        Mutation::Insert(at, inserted) => {
            let start = at.index(len);
            bytes.splice(start..start, inserted.iter().copied());
        }
    }
}

proptest! {
    #![proptest_config(Config {
        cases: 20_000,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..Config::default()
    })]

    #[test]
    fn mutated_files_are_answered(mutations in proptest::collection::vec(mutation(), 1..8)) {
        let mut bytes = diverse().bytes();
        for mutation in &mutations {
            apply(&mut bytes, mutation);
        }
        if let Ok(header) = Gguf::parse(&bytes) {
            check_accepted(&header, &bytes);
        }
    }
}
