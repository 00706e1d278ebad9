//! The key-value part of a GGUF header.
//!
//! Values are decoded once, into owned memory, and read through typed getters whose errors name
//! the key. Integers are accepted in any width that fits, because converters differ in it.

use std::collections::BTreeMap;

use super::{invalid, limits, reader::Reader};
use crate::error::{Error, Result};

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// Any unsigned integer type.
    Unsigned(u64),
    /// Any signed integer type.
    Signed(i64),
    /// `float32`.
    F32(f32),
    /// `float64`.
    F64(f64),
    /// A boolean.
    Bool(bool),
    /// A string.
    String(String),
    /// An array.
    Array(Array),
}

/// A metadata array; all elements have one type.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Array {
    /// `uint8`.
    U8(Vec<u8>),
    /// `int8`.
    I8(Vec<i8>),
    /// `uint16`.
    U16(Vec<u16>),
    /// `int16`.
    I16(Vec<i16>),
    /// `uint32`.
    U32(Vec<u32>),
    /// `int32`.
    I32(Vec<i32>),
    /// `uint64`.
    U64(Vec<u64>),
    /// `int64`.
    I64(Vec<i64>),
    /// `float32`.
    F32(Vec<f32>),
    /// `float64`.
    F64(Vec<f64>),
    /// Booleans.
    Bool(Vec<bool>),
    /// Strings.
    Strings(Vec<String>),
}

/// The metadata of a file, by key.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    entries: BTreeMap<String, Value>,
}

impl Metadata {
    /// Reads `count` entries.
    pub(super) fn read(reader: &mut Reader<'_>, count: usize) -> Result<Self> {
        let mut entries = BTreeMap::new();
        for _ in 0..count {
            let key = reader.string(limits::KEY_BYTES_MAX, "a metadata key")?;
            if key.is_empty() {
                let end = reader.position();
                return Err(invalid(format!(
                    "the metadata key before byte {end} is empty"
                )));
            }
            let value = Value::read(reader, &key)?;
            if entries.contains_key(&key) {
                return Err(invalid(format!("metadata key {key:?} appears twice")));
            }
            entries.insert(key, value);
        }
        Ok(Self { entries })
    }

    /// Returns a value as it stands in the file.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.get(key)
    }

    /// Returns all entries, ordered by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries
            .iter()
            .map(|(key, value)| (key.as_str(), value))
    }

    /// Returns a string.
    ///
    /// # Errors
    /// The value is not a string.
    pub fn str(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", |value| match value {
            Value::String(string) => Some(string.as_str()),
            _ => None,
        })
    }

    /// Returns an integer of any width that fits.
    ///
    /// # Errors
    /// The value is no integer, or outside `u32`.
    pub fn u32(&self, key: &str) -> Result<Option<u32>> {
        self.typed(key, "an integer of 32 bits, not negative", |value| {
            u32::try_from(value.integer()?).ok()
        })
    }

    /// Returns an integer of any width that fits.
    ///
    /// # Errors
    /// The value is no integer, or negative.
    pub fn u64(&self, key: &str) -> Result<Option<u64>> {
        self.typed(key, "an integer, not negative", |value| {
            u64::try_from(value.integer()?).ok()
        })
    }

    /// Returns a finite number; a `float64` is rounded.
    ///
    /// # Errors
    /// The value is not floating point, or not finite as `f32`.
    pub fn f32(&self, key: &str) -> Result<Option<f32>> {
        self.typed(key, "a finite float", |value| {
            let number = match value {
                Value::F32(number) => *number,
                Value::F64(number) => *number as f32,
                _ => return None,
            };
            number.is_finite().then_some(number)
        })
    }

    /// Returns a boolean.
    ///
    /// # Errors
    /// The value is not a boolean.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "a boolean", |value| match value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        })
    }

    /// Returns an array of strings.
    ///
    /// # Errors
    /// The value is not an array of strings.
    pub fn strings(&self, key: &str) -> Result<Option<&[String]>> {
        self.typed(key, "an array of strings", |value| match value {
            Value::Array(Array::Strings(strings)) => Some(strings.as_slice()),
            _ => None,
        })
    }

    /// Returns an array of integers that fit `i32`.
    ///
    /// # Errors
    /// The value is no array of integers, or one of them does not fit.
    pub fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>> {
        self.typed(key, "an array of 32-bit integers", |value| match value {
            Value::Array(array) => array.integers(),
            _ => None,
        })
    }

    /// Returns an array of integers that fit `u32`.
    ///
    /// # Errors
    /// The value is no array of integers, or one of them does not fit.
    pub fn u32s(&self, key: &str) -> Result<Option<Vec<u32>>> {
        let expected = "an array of 32-bit integers, none negative";
        self.typed(key, expected, |value| match value {
            Value::Array(array) => array.integers(),
            _ => None,
        })
    }

    /// Returns an array of floats; `float64` is rounded.
    ///
    /// # Errors
    /// The value is not an array of floats.
    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>> {
        self.typed(key, "an array of floats", |value| match value {
            Value::Array(Array::F32(numbers)) => Some(numbers.clone()),
            Value::Array(Array::F64(numbers)) => {
                Some(numbers.iter().map(|number| *number as f32).collect())
            }
            _ => None,
        })
    }

    /// Returns a string that must be there.
    ///
    /// # Errors
    /// The key is missing, or its value is not a string.
    pub fn required_str(&self, key: &str) -> Result<&str> {
        required(key, self.str(key)?)
    }

    /// Returns an integer that must be there.
    ///
    /// # Errors
    /// The key is missing, or as [`u32`](Self::u32).
    pub fn required_u32(&self, key: &str) -> Result<u32> {
        required(key, self.u32(key)?)
    }

    /// Returns an integer that must be there.
    ///
    /// # Errors
    /// The key is missing, or as [`u64`](Self::u64).
    pub fn required_u64(&self, key: &str) -> Result<u64> {
        required(key, self.u64(key)?)
    }

    /// Returns a finite number that must be there.
    ///
    /// # Errors
    /// The key is missing, or as [`f32`](Self::f32).
    pub fn required_f32(&self, key: &str) -> Result<f32> {
        required(key, self.f32(key)?)
    }

    /// Returns an array of strings that must be there.
    ///
    /// # Errors
    /// The key is missing, or its value is not an array of strings.
    pub fn required_strings(&self, key: &str) -> Result<&[String]> {
        required(key, self.strings(key)?)
    }

    /// Returns an array of integers that must be there.
    ///
    /// # Errors
    /// The key is missing, or as [`i32s`](Self::i32s).
    pub fn required_i32s(&self, key: &str) -> Result<Vec<i32>> {
        required(key, self.i32s(key)?)
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.entries.get(key) else {
            return Ok(None);
        };
        match convert(value) {
            Some(converted) => Ok(Some(converted)),
            None => Err(invalid(format!(
                "metadata {key:?} must be {expected}, it is {}",
                value.type_name()
            ))),
        }
    }
}

fn required<T>(key: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| invalid(format!("metadata {key:?} is missing")))
}

impl Value {
    fn read(reader: &mut Reader<'_>, key: &str) -> Result<Self> {
        let what = "a metadata value";
        let type_id = reader.u32("a metadata value's type")?;
        if type_id == ARRAY_TYPE {
            return Array::read(reader, key).map(Self::Array);
        }
        Ok(match type_id {
            0 => Self::Unsigned(number(reader, u8::from_le_bytes, what)?.into()),
            1 => Self::Signed(number(reader, i8::from_le_bytes, what)?.into()),
            2 => Self::Unsigned(number(reader, u16::from_le_bytes, what)?.into()),
            3 => Self::Signed(number(reader, i16::from_le_bytes, what)?.into()),
            4 => Self::Unsigned(number(reader, u32::from_le_bytes, what)?.into()),
            5 => Self::Signed(number(reader, i32::from_le_bytes, what)?.into()),
            6 => Self::F32(number(reader, f32::from_le_bytes, what)?),
            7 => Self::Bool(boolean(reader, key)?),
            8 => Self::String(reader.string(limits::STRING_BYTES_MAX, what)?),
            10 => Self::Unsigned(number(reader, u64::from_le_bytes, what)?),
            11 => Self::Signed(number(reader, i64::from_le_bytes, what)?),
            12 => Self::F64(number(reader, f64::from_le_bytes, what)?),
            _ => return Err(unknown_type(key, type_id)),
        })
    }

    fn integer(&self) -> Option<i128> {
        match self {
            Self::Unsigned(number) => Some((*number).into()),
            Self::Signed(number) => Some((*number).into()),
            _ => None,
        }
    }

    fn type_name(&self) -> String {
        match self {
            Self::Unsigned(number) => format!("the integer {number}"),
            Self::Signed(number) => format!("the integer {number}"),
            Self::F32(number) => format!("the float {number}"),
            Self::F64(number) => format!("the float {number}"),
            Self::Bool(_) => "a boolean".into(),
            Self::String(_) => "a string".into(),
            Self::Array(array) => format!("an array of {}", array.type_name()),
        }
    }
}

/// The type id of an array; the ids of the others stand in [`Value::read`].
const ARRAY_TYPE: u32 = 9;

impl Array {
    fn read(reader: &mut Reader<'_>, key: &str) -> Result<Self> {
        let type_id = reader.u32("an array's element type")?;
        Ok(match type_id {
            0 => Self::U8(numbers(reader, u8::from_le_bytes, key)?),
            1 => Self::I8(numbers(reader, i8::from_le_bytes, key)?),
            2 => Self::U16(numbers(reader, u16::from_le_bytes, key)?),
            3 => Self::I16(numbers(reader, i16::from_le_bytes, key)?),
            4 => Self::U32(numbers(reader, u32::from_le_bytes, key)?),
            5 => Self::I32(numbers(reader, i32::from_le_bytes, key)?),
            6 => Self::F32(numbers(reader, f32::from_le_bytes, key)?),
            7 => {
                let len = array_len(reader, 1, key)?;
                let flags = (0..len).map(|_| boolean(reader, key));
                Self::Bool(flags.collect::<Result<_>>()?)
            }
            8 => {
                // A string takes at least its length's 8 bytes.
                let len = array_len(reader, 8, key)?;
                let mut strings = Vec::with_capacity(len);
                for _ in 0..len {
                    strings.push(reader.string(limits::STRING_BYTES_MAX, "an array's string")?);
                }
                Self::Strings(strings)
            }
            10 => Self::U64(numbers(reader, u64::from_le_bytes, key)?),
            11 => Self::I64(numbers(reader, i64::from_le_bytes, key)?),
            12 => Self::F64(numbers(reader, f64::from_le_bytes, key)?),
            ARRAY_TYPE => {
                let depth = limits::ARRAY_DEPTH_MAX;
                return Err(invalid(format!(
                    "metadata {key:?} nests arrays, at most {depth} level is read"
                )));
            }
            _ => return Err(unknown_type(key, type_id)),
        })
    }

    /// Returns the elements where all are integers that fit `T`.
    fn integers<T: TryFrom<i128>>(&self) -> Option<Vec<T>> {
        fn convert<N: Copy + Into<i128>, T: TryFrom<i128>>(numbers: &[N]) -> Option<Vec<T>> {
            numbers
                .iter()
                .map(|number| T::try_from((*number).into()).ok())
                .collect()
        }
        match self {
            Self::U8(numbers) => convert(numbers),
            Self::I8(numbers) => convert(numbers),
            Self::U16(numbers) => convert(numbers),
            Self::I16(numbers) => convert(numbers),
            Self::U32(numbers) => convert(numbers),
            Self::I32(numbers) => convert(numbers),
            Self::U64(numbers) => convert(numbers),
            Self::I64(numbers) => convert(numbers),
            Self::F32(_) | Self::F64(_) | Self::Bool(_) | Self::Strings(_) => None,
        }
    }

    fn type_name(&self) -> &'static str {
        match self {
            Self::U8(_) | Self::U16(_) | Self::U32(_) | Self::U64(_) => "unsigned integers",
            Self::I8(_) | Self::I16(_) | Self::I32(_) | Self::I64(_) => "integers",
            Self::F32(_) | Self::F64(_) => "floats",
            Self::Bool(_) => "booleans",
            Self::Strings(_) => "strings",
        }
    }
}

fn unknown_type(key: &str, type_id: u32) -> Error {
    invalid(format!(
        "metadata {key:?} has the unknown value type {type_id}"
    ))
}

fn array_len(reader: &mut Reader<'_>, element_bytes_min: usize, key: &str) -> Result<usize> {
    let what = format!("the array length of metadata {key:?}");
    reader.count(limits::ARRAY_LEN_MAX, element_bytes_min, &what)
}

fn boolean(reader: &mut Reader<'_>, key: &str) -> Result<bool> {
    match reader.u8("a boolean")? {
        0 => Ok(false),
        1 => Ok(true),
        byte => Err(invalid(format!(
            "metadata {key:?} is a boolean of value {byte}"
        ))),
    }
}

fn number<const N: usize, T>(
    reader: &mut Reader<'_>,
    decode: fn([u8; N]) -> T,
    what: &str,
) -> Result<T> {
    let mut array = [0; N];
    array.copy_from_slice(reader.take(N, what)?);
    Ok(decode(array))
}

fn numbers<const N: usize, T>(
    reader: &mut Reader<'_>,
    decode: fn([u8; N]) -> T,
    key: &str,
) -> Result<Vec<T>> {
    let len = array_len(reader, N, key)?;
    let bytes = reader.take(len * N, "an array")?;
    let (chunks, _) = bytes.as_chunks::<N>();
    Ok(chunks.iter().map(|chunk| decode(*chunk)).collect())
}
